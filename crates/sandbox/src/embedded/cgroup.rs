//! Limits on what a sandbox's processes take together: cgroup v2, v1, a mixture, or none.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::Limits;
use crate::error::{Error, is_cgroup_race};
use crate::wire::CgroupFolder;

/// The period over which processor time is shared out, in microseconds: the kernel's own.
const PERIOD_US: u64 = 100_000;
/// The part of the memory limit that buffers of sockets may take where they are counted apart: one in this many.
const SOCKETS_SHARE: u64 = 16;
/// How often and how long the removal of a cgroup is tried: its processes take a moment to end.
const REMOVE_TRIES: usize = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);
/// What the name of a server's folder begins with.
const PREFIX: &str = "rota-";
/// How old an empty group of another server's is when it is removed: many times what the start of a sandbox may take.
const ABANDONED_AFTER: Duration = Duration::from_mins(5);
/// How many of them of one server are removed at a start.
const MOST_ABANDONED: usize = 10_000;
/// The group that the server moves into where the kernel wants a group's own processes out of the way.
const SERVER_GROUP: &str = "rota-server";

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
}

const CONTROLLERS: [(Controller, &str); 3] =
    [(Controller::Memory, "memory"), (Controller::Pids, "pids"), (Controller::Cpu, "cpu")];

/// Where sandboxes get their groups.
#[derive(Debug)]
pub(super) struct Cgroups {
    places: Vec<Place>,
}

/// A folder that this server may make groups in.
#[derive(Debug, Clone)]
struct Place {
    folder: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

/// One sandbox's groups.
#[derive(Debug)]
pub(super) struct Cgroup {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    folder: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

impl Cgroups {
    /// Looks for controllers that this process may use. `owner` keeps two servers on one machine apart.
    pub(super) fn find(owner: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        owner.hash(&mut hasher);
        let name = format!("{PREFIX}{:08x}", hasher.finish() as u32);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let hierarchies = hierarchies(&mounts, &own);
        let mut places: Vec<Place> = Vec::new();
        for hierarchy in &hierarchies {
            let place = if hierarchy.unified { unified_place(hierarchy, &name) } else { v1_place(hierarchy, &name) };
            places.extend(place);
        }
        Self { places }
    }

    /// None: somebody else limits sandboxes.
    pub(super) fn none() -> Self {
        Self { places: Vec::new() }
    }

    pub(super) fn limits_memory(&self) -> bool {
        self.limits(Controller::Memory)
    }

    pub(super) fn limits(&self, controller: Controller) -> bool {
        self.places.iter().any(|place| place.controllers.contains(&controller))
    }

    /// Where a limit comes from, for people.
    pub(super) fn describe(&self, controller: Controller) -> Option<String> {
        let place = self.places.iter().find(|place| place.controllers.contains(&controller))?;
        Some(format!("cgroup v{} below {}", if place.unified { 2 } else { 1 }, place.folder.display()))
    }

    /// Makes one sandbox's groups and sets their limits.
    pub(super) fn create(&self, session_id: &str, limits: &Limits) -> Result<Cgroup, Error> {
        let mut cgroup = Cgroup { groups: Vec::new() };
        for place in &self.places {
            let folder = place.folder.join(session_id);
            let group = Group { folder, unified: place.unified, controllers: place.controllers.clone() };
            let made = group.make(limits);
            cgroup.groups.push(group);
            if let Err(error) = made {
                cgroup.remove_now();
                return Err(Error::Host {
                    doing: "setting the sandbox's limits".to_owned(),
                    place: cgroup.groups.pop().map(|group| group.folder),
                    passing: is_cgroup_race(&error),
                    cause: error.to_string(),
                });
            }
        }
        Ok(cgroup)
    }

    /// Ends and removes the groups of sandboxes: an earlier server's, before there are others. Then removes those that servers
    /// with other data folders left empty and that nobody will miss: the kernel walks through all there are.
    pub(super) async fn remove_stale(&self) {
        for place in &self.places {
            for entry in fs::read_dir(&place.folder).into_iter().flatten().flatten() {
                if !entry.path().is_dir() {
                    continue;
                }
                let group = Group { folder: entry.path(), unified: place.unified, controllers: Vec::new() };
                group.kill();
                Cgroup { groups: vec![group] }.remove().await;
            }
            place.remove_abandoned();
        }
    }
}

impl Place {
    /// Removes groups of other servers' sandboxes that are empty and older than the start of a sandbox may take. One in which a
    /// process is cannot be removed.
    fn remove_abandoned(&self) {
        let Some(all) = self.folder.parent() else { return };
        for server in folders_in(all).filter(|folder| *folder != self.folder && is_of_a_server(folder)) {
            for group in folders_in(&server).filter(|folder| is_abandoned(folder)).take(MOST_ABANDONED) {
                let _ = fs::remove_dir(group);
            }
            // In version 2 a server makes its folder once, when it starts.
            if !self.unified && is_abandoned(&server) {
                let _ = fs::remove_dir(server);
            }
        }
    }
}

fn folders_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn is_of_a_server(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

fn is_abandoned(folder: &Path) -> bool {
    let age = folder.metadata().and_then(|about| about.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age > ABANDONED_AFTER)
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for place in &self.places {
            // Groups that are still in use stay; the next server sweeps them.
            let _ = fs::remove_dir(&place.folder);
        }
    }
}

impl Cgroup {
    /// The folders of the groups, as the init is told of them.
    pub(super) fn folders(&self) -> Vec<CgroupFolder> {
        let of = |group: &Group| CgroupFolder { path: group.folder.clone(), unified: group.unified };
        self.groups.iter().map(of).collect()
    }

    /// Whether the kernel ended a process of the sandbox because memory ran out.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.groups.iter().filter(|group| group.controllers.contains(&Controller::Memory)).any(|group| {
            let file = if group.unified { "memory.events" } else { "memory.oom_control" };
            let text = fs::read_to_string(group.folder.join(file)).unwrap_or_default();
            text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
        })
    }

    /// Removes the groups once their processes are gone.
    pub(super) async fn remove(self) {
        for _ in 0..REMOVE_TRIES {
            if self.remove_now() {
                return;
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        tracing::warn!(groups = ?self.groups, "cgroups of an ended sandbox cannot be removed");
    }

    fn remove_now(&self) -> bool {
        let gone = |group: &Group| match fs::remove_dir(&group.folder) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        // Every one is tried, whatever the first says.
        self.groups.iter().filter(|group| !gone(group)).count() == 0
    }
}

impl Group {
    fn make(&self, limits: &Limits) -> io::Result<()> {
        // An earlier sandbox of the session may have ended and left it.
        fs::create_dir_all(&self.folder)?;
        for controller in &self.controllers {
            for (file, value, optional) in settings(*controller, self.unified, limits) {
                match fs::write(self.folder.join(file), value) {
                    Err(_) if optional => {}
                    written => written?,
                }
            }
        }
        Ok(())
    }

    fn kill(&self) {
        let procs = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| line.parse().ok()) {
            // It may have ended since.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The files of a controller, what goes into them, and whether a kernel may do without.
fn settings(controller: Controller, unified: bool, limits: &Limits) -> Vec<(&'static str, String, bool)> {
    let quota = ((limits.cpus * PERIOD_US as f64) as u64).max(1000);
    let memory = limits.memory_bytes.to_string();
    match (controller, unified) {
        (Controller::Memory, true) => {
            vec![("memory.max", memory, false), ("memory.swap.max", "0".to_owned(), true)]
        }
        (Controller::Memory, false) => {
            // Version 1 counts buffers of sockets apart, and only where they have a limit; version 2 as memory.
            let sockets = (limits.memory_bytes / SOCKETS_SHARE).to_string();
            vec![
                ("memory.limit_in_bytes", memory.clone(), false),
                ("memory.memsw.limit_in_bytes", memory, true),
                ("memory.kmem.tcp.limit_in_bytes", sockets, true),
            ]
        }
        (Controller::Pids, _) => vec![("pids.max", limits.pids.to_string(), false)],
        (Controller::Cpu, true) => vec![("cpu.max", format!("{quota} {PERIOD_US}"), false)],
        // A group of version 1 begins with this period, and each write holds up all processors.
        (Controller::Cpu, false) => vec![("cpu.cfs_quota_us", quota.to_string(), false)],
    }
}

/// A mounted cgroup file system and where in it this process is.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mounted: PathBuf,
    own: PathBuf,
    unified: bool,
    /// Version 1: the controllers of this mount. Version 2 says so in a file.
    controllers: Vec<Controller>,
}

fn controllers_in<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Controller> {
    let listed: Vec<&str> = names.collect();
    CONTROLLERS.into_iter().filter(|(_, name)| listed.contains(name)).map(|(controller, _)| controller).collect()
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn hierarchies(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let (&[_, _, _, root, mounted, ..], &[kind, _, options]) = (&before[..], &after[..]) else { continue };
        let unified = kind == "cgroup2";
        let controllers = controllers_in(options.split(','));
        if !unified && (kind != "cgroup" || controllers.is_empty()) {
            continue;
        }
        let place = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let fits = if unified { names.is_empty() } else { controllers_in(names.split(',')) == controllers };
            fits.then_some(path)
        });
        // A path that does not lie below what is mounted is seen from another cgroup namespace.
        let own = place.and_then(|path| Path::new(path).strip_prefix(root).ok()).unwrap_or(Path::new(""));
        let hierarchy = Hierarchy { mounted: mounted.into(), own: own.into(), unified, controllers };
        if !found.contains(&hierarchy) {
            found.push(hierarchy);
        }
    }
    found
}

fn v1_place(hierarchy: &Hierarchy, name: &str) -> Option<Place> {
    let folder = hierarchy.mounted.join(&hierarchy.own).join(name);
    fs::create_dir_all(&folder).ok()?;
    // A folder that exists may still be another user's.
    nix::unistd::access(&folder, nix::unistd::AccessFlags::W_OK).ok()?;
    Some(Place { folder, unified: false, controllers: hierarchy.controllers.clone() })
}

/// In version 2 a group either has processes or hands controllers down. Root makes its groups at the top; a plain user
/// in the group that was delegated to it, which the server leaves for one of its own.
fn unified_place(hierarchy: &Hierarchy, name: &str) -> Option<Place> {
    let own = hierarchy.mounted.join(&hierarchy.own);
    let parent = if nix::unistd::geteuid().is_root() { &hierarchy.mounted } else { &own };
    hand_down(parent)
        .or_else(|_| {
            let server = parent.join(SERVER_GROUP);
            fs::create_dir_all(&server)?;
            fs::write(server.join("cgroup.procs"), std::process::id().to_string())?;
            hand_down(parent)
        })
        .ok()?;
    let folder = parent.join(name);
    fs::create_dir_all(&folder).ok()?;
    hand_down(&folder).ok()?;
    let enabled = fs::read_to_string(folder.join("cgroup.subtree_control")).ok()?;
    let controllers = controllers_in(enabled.split_whitespace());
    (!controllers.is_empty()).then_some(Place { folder, unified: true, controllers })
}

/// Hands down to subgroups every controller that is there and wanted.
fn hand_down(group: &Path) -> io::Result<()> {
    let available = fs::read_to_string(group.join("cgroup.controllers"))?;
    let wanted = CONTROLLERS.into_iter().filter(|(_, name)| available.split_whitespace().any(|found| found == *name));
    let wanted: Vec<String> = wanted.map(|(_, name)| format!("+{name}")).collect();
    if wanted.is_empty() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    fs::write(group.join("cgroup.subtree_control"), wanted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_other_servers_left_go_once_nobody_can_be_about_to_use_them() {
        let all = tempfile::tempdir().unwrap();
        let group = |path: &str, age: u64| {
            let folder = all.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            let made = std::time::UNIX_EPOCH + Duration::from_secs(age);
            fs::File::open(&folder).unwrap().set_modified(made).unwrap();
        };
        for path in ["rota-1/s", "rota-2/old/with_a_process", "others/s", "rota-own/s"] {
            group(path, 0);
        }
        fs::create_dir_all(all.path().join("rota-2/new")).unwrap();
        for path in ["rota-1", "rota-2", "rota-2/old", "rota-own", "others"] {
            group(path, 0);
        }
        let place = Place { folder: all.path().join("rota-own"), unified: true, controllers: Vec::new() };
        place.remove_abandoned();
        let is_there = |path: &str| all.path().join(path).exists();
        assert!(!is_there("rota-1/s") && is_there("rota-1"));
        for path in ["rota-2/old", "rota-2/new", "others/s", "rota-own/s"] {
            assert!(is_there(path), "{path}");
        }
        group("rota-1", 0);
        Place { unified: false, ..place }.remove_abandoned();
        assert!(!is_there("rota-1") && is_there("rota-2") && is_there("others") && is_there("rota-own"));
    }

    #[test]
    fn a_hybrid_machine_gives_its_version_1_controllers() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/u\n";
        let hierarchy = |mounted: &str, own: &str, unified, controllers| Hierarchy {
            mounted: mounted.into(),
            own: own.into(),
            unified,
            controllers,
        };
        assert_eq!(
            hierarchies(mounts, own),
            [
                hierarchy("/sys/fs/cgroup/cpu,cpuacct", "", false, vec![Controller::Cpu]),
                hierarchy("/sys/fs/cgroup/memory", "a/b", false, vec![Controller::Memory]),
                hierarchy("/sys/fs/cgroup/unified", "u", true, vec![]),
            ]
        );
    }

    #[test]
    fn a_container_that_sees_only_its_own_part_uses_that() {
        let mounts = "9 8 0:3 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let found = hierarchies(mounts, "0::/docker/x/y\n");
        assert_eq!((found[0].own.as_path(), found[0].unified), (Path::new("y"), true));
        assert_eq!(hierarchies(mounts, "0::/elsewhere\n")[0].own, Path::new(""));
    }

    #[test]
    fn half_a_processor_is_half_a_period() {
        let limits = Limits { cpus: 0.5, ..Limits::default() };
        assert_eq!(settings(Controller::Cpu, true, &limits)[0].1, "50000 100000");
        assert_eq!(settings(Controller::Cpu, false, &limits)[0].1, "50000");
    }
}
