//! What a daemon is asked to make a container of, in the words of each of the two.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::config::Limits;
use crate::init::{PROC_MASKED, PROC_READ_ONLY, SHELL, scratch_bytes};
use crate::wire::{Identity, RANGE};

/// What root inside needs while the init sets up what is left, in the words of both. The init gives up the last two, and all of them
/// where root inside is the host's root.
const CAPABILITIES: [&str; 10] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
    // Leads all addresses to the gate.
    "NET_ADMIN",
    // Empties the bounding set.
    "SETPCAP",
];
/// The same where root inside is the host's root.
const CAPABILITIES_OF_HOST: [&str; 3] = ["NET_BIND_SERVICE", "NET_ADMIN", "SETPCAP"];
/// The period over which processor time is shared out, in microseconds.
const PERIOD_US: u64 = 100_000;
/// Bytes of `/run`, which holds mount points and what servers leave there.
const RUN_BYTES: u64 = 16 << 20;
/// The same of the shell's own folder, which holds a pipe or one empty file.
const SHELL_BYTES: u64 = 4096;

/// A container to be made.
pub(super) struct Plan<'a> {
    pub(super) image: &'a str,
    pub(super) runtime: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) command: [&'a str; 2],
    pub(super) labels: Value,
    pub(super) mounts: Vec<Mount>,
    pub(super) limits: &'a Limits,
    pub(super) can: Can,
    /// Its own ids, where it has some.
    pub(super) identity: Option<Identity>,
    pub(super) is_root_of_host: bool,
}

/// A file or folder of the host that is seen inside.
pub(super) struct Mount {
    pub(super) source: PathBuf,
    /// Absolute.
    pub(super) target: String,
    pub(super) writable: bool,
}

/// What the daemon can limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Can {
    pub(super) memory: bool,
    pub(super) pids: bool,
    pub(super) cpus: bool,
}

impl Plan<'_> {
    fn capabilities(&self) -> &'static [&'static str] {
        if self.is_root_of_host { &CAPABILITIES_OF_HOST } else { &CAPABILITIES }
    }

    /// Folders in memory: where, of how many bytes, with which mode.
    fn in_memory(&self) -> [(&'static str, u64, &'static str); 4] {
        let scratch = scratch_bytes(self.limits);
        [
            ("/tmp", scratch, "1777"),
            ("/var/tmp", scratch, "1777"),
            ("/run", RUN_BYTES, "0755"),
            (SHELL, SHELL_BYTES, "0700"),
        ]
    }

    fn quota(&self) -> u64 {
        ((self.limits.cpus * PERIOD_US as f64) as u64).max(1000)
    }

    /// For `POST /containers/create` of Docker.
    pub(super) fn for_docker(&self) -> Value {
        let mount = |mount: &Mount| json!({"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": !mount.writable});
        let in_memory = self.in_memory().map(|(at, bytes, mode)| {
            (at.to_owned(), Value::from(format!("size={bytes},mode={mode},nosuid,nodev,exec")))
        });
        let mut host = json!({
            "Mounts": self.mounts.iter().map(mount).collect::<Vec<_>>(),
            "Tmpfs": Value::Object(in_memory.into_iter().collect()),
            "ShmSize": scratch_bytes(self.limits),
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "ReadonlyRootfs": true,
            "CapDrop": ["ALL"],
            "CapAdd": self.capabilities(),
            "SecurityOpt": ["no-new-privileges", "label=disable"],
            "MaskedPaths": masked(),
            "ReadonlyPaths": read_only(),
            "Ulimits": [{"Name": "nofile", "Soft": self.limits.open_files, "Hard": self.limits.open_files}],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none"},
        });
        if self.can.memory {
            host["Memory"] = self.limits.memory_bytes.into();
            host["MemorySwap"] = self.limits.memory_bytes.into();
        }
        if self.can.pids {
            host["PidsLimit"] = self.limits.pids.into();
        }
        if self.can.cpus {
            host["CpuPeriod"] = PERIOD_US.into();
            host["CpuQuota"] = self.quota().into();
        }
        if let Some(runtime) = self.runtime {
            host["Runtime"] = runtime.into();
        }
        json!({
            "Image": self.image,
            "Entrypoint": self.command,
            "Cmd": [],
            "User": "0:0",
            "WorkingDir": "/",
            "Hostname": "sandbox",
            "Labels": self.labels,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": host,
        })
    }

    /// For `POST /libpod/containers/create` of Podman.
    pub(super) fn for_podman(&self) -> Value {
        let shown = self.mounts.iter().map(|mount| {
            let options = ["rbind", "nosuid", "nodev", if mount.writable { "rw" } else { "ro" }];
            json!({"type": "bind", "source": mount.source, "destination": mount.target, "options": options})
        });
        let in_memory = self.in_memory().map(|(at, bytes, mode)| {
            let options = [format!("size={bytes}"), format!("mode={mode}"), "nosuid".to_owned(), "nodev".to_owned()];
            json!({"type": "tmpfs", "source": "tmpfs", "destination": at, "options": options})
        });
        let limit = |kind: &str, most: u64| json!({"type": kind, "soft": most, "hard": most});
        let mut limits = json!({});
        if self.can.memory {
            limits["memory"] = json!({"limit": self.limits.memory_bytes, "swap": self.limits.memory_bytes});
        }
        if self.can.pids {
            limits["pids"] = json!({"limit": self.limits.pids});
        }
        if self.can.cpus {
            limits["cpu"] = json!({"quota": self.quota(), "period": PERIOD_US});
        }
        let mut rlimits = vec![limit("nofile", self.limits.open_files)];
        // It counts all processes of a user in its namespace: without one of its own those of others too.
        rlimits.extend(self.identity.map(|_| limit("nproc", self.limits.pids)));
        let mut spec = json!({
            "name": self.name,
            "image": self.image,
            "image_volume_mode": "ignore",
            "entrypoint": [self.command[0]],
            "command": [self.command[1]],
            "user": "0:0",
            "work_dir": "/",
            "hostname": "sandbox",
            "labels": self.labels,
            "healthconfig": {"Test": ["NONE"]},
            "systemd": "false",
            "sdnotifyMode": "ignore",
            "restart_policy": "no",
            "log_configuration": {"driver": "none"},
            "read_only_filesystem": true,
            "mounts": shown.chain(in_memory).collect::<Vec<_>>(),
            "shm_size": scratch_bytes(self.limits),
            "netns": {"nsmode": "none"},
            "ipcns": {"nsmode": "private"},
            "cgroupns": {"nsmode": "private"},
            "cap_drop": ["ALL"],
            "cap_add": self.capabilities(),
            "no_new_privileges": true,
            "selinux_opts": ["disable"],
            "mask": masked(),
            "r_limits": rlimits,
            "resource_limits": limits,
        });
        if let Some(Identity::Range { base }) = self.identity {
            let map = json!([{"container_id": 0, "host_id": base, "size": RANGE}]);
            spec["userns"] = json!({"nsmode": "private"});
            spec["idmappings"] =
                json!({"HostUIDMapping": false, "HostGIDMapping": false, "UIDMap": map, "GIDMap": map});
        }
        if let Some(runtime) = self.runtime {
            spec["oci_runtime"] = runtime.into();
        }
        spec
    }
}

/// What of `/proc` and `/sys` is not there inside. `/sys` tells of the machine, and programs do without.
fn masked() -> Vec<String> {
    PROC_MASKED.iter().map(|name| format!("/proc/{name}")).chain(["/sys".to_owned()]).collect()
}

fn read_only() -> Vec<String> {
    PROC_READ_ONLY.iter().map(|name| format!("/proc/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(limits: &Limits, is_root_of_host: bool) -> Plan<'_> {
        Plan {
            image: "debian:12",
            runtime: Some("runsc"),
            name: "n",
            command: ["/init", "/socket"],
            labels: json!({"a": "b"}),
            mounts: vec![Mount { source: "/data/w".into(), target: "/workspace".to_owned(), writable: true }],
            limits,
            can: Can { memory: true, pids: true, cpus: true },
            identity: (!is_root_of_host).then_some(Identity::Range { base: 7_000_000 }),
            is_root_of_host,
        }
    }

    #[test]
    fn both_daemons_are_asked_for_the_same_fence() {
        let limits = Limits { memory_bytes: 64 << 20, pids: 99, cpus: 0.5, ..Limits::default() };
        let docker = plan(&limits, true).for_docker();
        let host = &docker["HostConfig"];
        assert_eq!(host["CapDrop"], json!(["ALL"]));
        assert!(!host["CapAdd"].as_array().unwrap().contains(&json!("DAC_OVERRIDE")), "it would be the host's root");
        assert_eq!((&host["NetworkMode"], &host["ReadonlyRootfs"]), (&json!("none"), &json!(true)));
        assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(64 << 20)));
        assert_eq!(
            (&host["PidsLimit"], &host["CpuQuota"], &host["Runtime"]),
            (&json!(99), &json!(50_000), &json!("runsc"))
        );
        let podman = plan(&limits, false).for_podman();
        assert_eq!(podman["cap_drop"], json!(["ALL"]));
        assert_eq!((&podman["netns"]["nsmode"], &podman["read_only_filesystem"]), (&json!("none"), &json!(true)));
        assert_eq!(podman["idmappings"]["UIDMap"][0]["host_id"], json!(7_000_000));
        assert_eq!(podman["resource_limits"]["memory"]["limit"], json!(64 << 20));
        assert_eq!((&podman["no_new_privileges"], &podman["oci_runtime"]), (&json!(true), &json!("runsc")));
    }

    #[test]
    fn what_a_daemon_cannot_limit_it_is_not_asked_to() {
        let limits = Limits::default();
        let plan = Plan { can: Can::default(), ..plan(&limits, true) };
        assert_eq!(plan.for_podman()["resource_limits"], json!({}));
        assert!(plan.for_docker()["HostConfig"]["Memory"].is_null());
    }
}
