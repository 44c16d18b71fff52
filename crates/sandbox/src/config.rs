//! What the operator decides: where files live, which root file system is used, and how much a sandbox may take.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The configuration of sandboxes.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder under which `sessions/<id>` keeps each session's files.
    pub data_dir: PathBuf,
    /// The unpacked root file system that sandboxes see. `None`: the host's own `/usr`, read-only.
    pub root_fs: Option<PathBuf>,
    /// What one sandbox may take.
    pub limits: Limits,
    /// The TCP ports of the gate: a connection from inside to any address at one of them, or a question of the domain name
    /// system, reaches whoever takes the sandbox's [`crate::Listeners`], and nothing else leaves. `None`: no network.
    pub gate_ports: Option<Vec<u16>>,
    /// The program that becomes process 1 of a sandbox. `None`: the one that is built with this crate.
    pub init_program: Option<PathBuf>,
    /// The daemon whose containers are the sandboxes. `None`: Rota's own namespaces.
    pub containers: Option<Containers>,
}

/// Containers of a daemon on this machine.
#[derive(Debug, Clone)]
pub struct Containers {
    /// What the daemon is.
    pub engine: Engine,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The image that containers are made from, as the daemon knows it. It has bash.
    pub image: String,
    /// The runtime that starts them, as the daemon knows it. `None`: the daemon's own choice.
    pub runtime: Option<String>,
    /// The name of this server. Containers have it as a label, by which a later start finds what an earlier one left.
    pub server: String,
}

/// A kind of daemon that runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker, or another daemon that speaks its API.
    Docker,
    /// Podman, which gives each container user ids of its own.
    Podman,
}

impl Config {
    /// The defaults over `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            root_fs: None,
            limits: Limits::default(),
            gate_ports: None,
            init_program: None,
            containers: None,
        }
    }
}

/// What one sandbox may take from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory of all its processes together and of its temporary files, in bytes. Swap is not used.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processors' worth of time: 2.0 is two whole processors.
    pub cpus: f64,
    /// What its files may hold on disk, in bytes; also the longest single file.
    pub disk_bytes: u64,
    /// Free space, in bytes, that the disk below must keep: a sandbox that takes it lower is stopped.
    pub disk_reserve_bytes: u64,
    /// Files and folders that it may keep.
    pub files: u64,
    /// `/tmp` and `/dev/shm`, in bytes each. They live in memory and count as such, so neither is ever larger than a
    /// quarter of `memory_bytes`.
    pub tmp_bytes: u64,
    /// Open file descriptors of one process.
    pub open_files: u64,
    /// The longest core dump, in bytes.
    pub core_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 2 * GIB,
            pids: 512,
            cpus: 2.0,
            disk_bytes: 10 * GIB,
            disk_reserve_bytes: 512 * MIB,
            files: 1_000_000,
            tmp_bytes: 512 * MIB,
            open_files: 4096,
            core_bytes: 0,
        }
    }
}
