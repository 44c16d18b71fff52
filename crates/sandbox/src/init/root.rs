//! The tree of mounts that a sandbox sees: built detached, attached below a staging folder, then made the root.
//!
//! Mount points are reached as [`Folder`]s, one name at a time and never through a symbolic link: in a root file system
//! of the operator's the upper layer belongs to the agent, and the builder may be the host's root.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::{at, map_of_owners, shell, trust};
use crate::config::Limits;
use crate::folder::{Folder, by_descriptor};
use crate::sys;
use crate::wire::{Authorities, Failure, Identity, Launch, PACKAGES, RANGE};

/// The folder, in a session's own, below which the new root is put together.
pub(crate) const STAGE: &str = "stage";
/// Size of the root itself when it holds only mount points, in bytes.
const SKELETON_BYTES: u64 = 16 << 20;
/// The part of the memory limit that `/tmp`, and `/dev/shm` beside it, may take at most: one in this many.
const SCRATCH_SHARE: u64 = 4;
/// Files in a temporary file system.
const TMPFS_INODES: u64 = 200_000;

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Folders of the session that appear inside, and where. The last two columns: only with the host's own `/usr`; writable.
pub(crate) const SESSION_FOLDERS: [(&str, &str, bool, bool); 9] = [
    ("workspace", "workspace", false, true),
    ("outputs", "mnt/session/outputs", false, true),
    ("uploads", "mnt/session/uploads", false, false),
    ("memory", MEMORY, false, false),
    ("home-root", "root", true, true),
    ("home", "home", true, true),
    ("opt", "opt", true, true),
    ("srv", "srv", true, true),
    ("var", "var", true, true),
];

/// The folders of [`SESSION_FOLDERS`] that a sandbox shows, where, and whether it may write there. An image has its own in the
/// place of those that come with the host's programs; the root of a container stays as its image has it, so there the agent
/// has its home folders of the session.
pub(crate) fn session_folders(launch: &Launch) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    let (overlay, container) = (launch.is_overlay(), launch.container.is_some());
    SESSION_FOLDERS.into_iter().filter_map(move |(folder, path, host_only, writable)| {
        let has = if container { matches!(path, "root" | "home") } else { !overlay };
        (!host_only || has).then_some((folder, path, writable))
    })
}

/// The folder, in a session's own, in which packages are installed while a layer of them is made.
pub(crate) const BUILDING: &str = "packages";
/// The step that fails where a file system cannot show files under other owners.
pub(crate) const MAPPING_OWNERS: &str = "mapping the owners of a layer";

/// Where memory stores are inside. The folder itself is read-only.
pub(crate) const MEMORY: &str = "mnt/memory";
/// The folder, in a session's own, of the memory stores that the agent may write. Each is shown in the place of the folder
/// of its name in [`MEMORY`].
pub(crate) const WRITABLE_MEMORY: &str = "memory-writable";

/// What of the host's `/etc` a sandbox sees. Nothing here holds credentials.
const ETC: [&str; 30] = [
    "alternatives",
    "bash.bashrc",
    "bash_completion.d",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "inputrc",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "pki",
    "protocols",
    "python3",
    "services",
    "ssl",
    "terminfo",
    "timezone",
    "xdg",
];
/// The host's own secrets below a folder of [`ETC`].
const ETC_MASKED: [&str; 2] = ["etc/ssl/private", "etc/pki/tls/private"];

pub(crate) const ETC_WRITTEN: [(&str, &str); 5] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("etc/hostname", "sandbox\n"),
    ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
];

/// Files in the shell's own file system, which holds a pipe or one empty file.
const SHELL_INODES: u64 = 16;

/// Devices that programs expect and that give no power.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of `/proc` that may be read but not written.
pub(crate) const PROC_READ_ONLY: [&str; 6] = ["bus", "fs", "irq", "sys", "sysrq-trigger", "acpi"];
/// Parts of `/proc` that tell of the host or its kernel's memory.
pub(crate) const PROC_MASKED: [&str; 12] = [
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "key-users",
];

/// The new root, and who owns the folders made in it.
struct Tree {
    root: Folder,
    owner: Option<u32>,
}

impl Tree {
    /// Opens the folder that `CWD` is.
    fn at_cwd(owner: Option<u32>) -> Result<Self, Failure> {
        Ok(Self { root: Folder::open(Path::new(".")).map_err(at("opening the new root"))?, owner })
    }

    /// Opens a folder of the tree, making what is missing.
    fn folder(&self, path: &str) -> Result<Folder, Failure> {
        let mut folder = self.root.enter(".").map_err(at("opening the new root"))?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            folder = folder.make(name, 0o755, self.owner).map_err(at(format!("making /{path} in the new root")))?;
        }
        Ok(folder)
    }

    /// Opens a file of the tree to mount over, making it when missing.
    fn file(&self, path: &str) -> Result<OwnedFd, Failure> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.folder(parent)?.make_file(name).map_err(at(format!("making /{path} in the new root")))
    }

    /// Opens the place of a file of the tree, if there is one and no link on the way.
    fn existing_file(&self, path: &str) -> Option<OwnedFd> {
        let (parents, name) = path.rsplit_once('/')?;
        let mut folder = self.root.enter(".").ok()?;
        for parent in parents.split('/') {
            folder = folder.enter(parent).ok()?;
        }
        folder.file_place(name).ok().flatten()
    }

    fn symlink(&self, target: impl rustix::path::Arg, path: &str) -> Result<(), Failure> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.folder(parent)?.make_link(target, name).map_err(at(format!("linking /{path} in the new root")))
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        let file = self.file(path)?;
        fs::write(by_descriptor(file.as_fd()), text).map_err(at(format!("writing /{path} in the new root")))
    }

    /// Shows `source`, which is the host's own, at `path`.
    fn bind(&self, source: &Path, path: &str, attributes: u64) -> Result<(), Failure> {
        let tree = detached_copy(source).map_err(at(format!("showing /{path}")))?;
        let point = if source.is_dir() { self.folder(path)?.into() } else { self.file(path)? };
        show(tree.as_fd(), point.as_fd(), path, attributes)
    }

    /// Shows a layer, read-only.
    fn bind_layer(&self, source: &Path, path: &str, map: Option<&OwnedFd>) -> Result<(), Failure> {
        let tree = layer(source, map)?;
        show(tree.as_fd(), self.folder(path)?.as_fd(), path, RDONLY | NOSUID | NODEV)
    }

    /// Shows a folder of the session at `path`.
    fn bind_folder(&self, source: &Folder, path: &str, attributes: u64) -> Result<(), Failure> {
        let flags = COPY | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(source, "", flags).map_err(at(format!("showing /{path}")))?;
        show(tree.as_fd(), self.folder(path)?.as_fd(), path, attributes)
    }

    /// Mounts a new file system at the folder `path`.
    fn mount(&self, kind: &str, path: &str, options: &[(&str, String)], attributes: u64) -> Result<(), Failure> {
        let step = || format!("mounting {kind} on /{path}");
        let fs = new_file_system(kind, options, attributes).map_err(at(step()))?;
        let point = self.folder(path)?;
        attach(fs.as_fd(), point.as_fd()).map_err(at(step()))
    }
}

fn show(tree: BorrowedFd<'_>, point: BorrowedFd<'_>, path: &str, attributes: u64) -> Result<(), Failure> {
    sys::mount_setattr(tree, attributes).map_err(at(format!("showing /{path}")))?;
    attach(tree, point).map_err(at(format!("showing /{path}")))
}

/// A copy of a tree of mounts that is attached nowhere yet.
const COPY: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC).union(OpenTreeFlags::AT_RECURSIVE);

fn detached_copy(source: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(CWD, source, COPY)?)
}

fn attach(tree: BorrowedFd<'_>, point: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", point, "", flags)?)
}

fn new_file_system(kind: &str, options: &[(&str, String)], attributes: u64) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, value.as_str())?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn tmpfs_options(bytes: u64, mode: &str, owner: Option<u32>) -> Vec<(&'static str, String)> {
    let mut options =
        vec![("size", bytes.to_string()), ("nr_inodes", TMPFS_INODES.to_string()), ("mode", mode.to_owned())];
    if let Some(id) = owner {
        options.extend([("uid", id.to_string()), ("gid", id.to_string())]);
    }
    options
}

/// Puts together what comes from the host. Afterwards the working directory is the new root.
pub(super) fn build(launch: &Launch) -> Result<(), Failure> {
    // The owner that the builder must give to what it makes: when it is the host's root, the sandbox's root.
    let owner = launch.identity.owner();
    nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(at("making the mounts private"))?;
    let session = Folder::open(&launch.session_dir).map_err(at("opening the session's folder"))?;
    nix::unistd::fchdir(&session).map_err(at("entering the session's folder"))?;
    let stage = session.enter(STAGE).map_err(at("opening the staging folder"))?;
    let map = match (launch.shown.owner, launch.identity) {
        (Some(owner), Identity::Range { base }) => Some(map_of_owners(&format!("{owner} {base} {RANGE}\n"))?),
        _ => None,
    };
    let root = if launch.is_overlay() {
        overlay(launch, &stage, map.as_ref())?
    } else {
        new_file_system("tmpfs", &tmpfs_options(SKELETON_BYTES, "0755", owner), NOSUID | NODEV)
            .map_err(at("mounting the new root"))?
    };
    attach(root.as_fd(), stage.as_fd()).map_err(at("attaching the new root"))?;
    nix::unistd::fchdir(&root).map_err(at("entering the new root"))?;
    let tree = Tree::at_cwd(owner)?;
    if !launch.is_overlay() {
        show_host_programs(&tree)?;
        show_host_settings(&tree)?;
    }
    for (folder, path, writable) in session_folders(launch) {
        let attributes = NOSUID | NODEV | if writable { 0 } else { RDONLY };
        let source = session.enter(folder).map_err(at(format!("opening the session's folder for /{path}")))?;
        tree.bind_folder(&source, path, attributes)?;
    }
    show_writable_memory(&tree, &session)?;
    show_packages(&tree, &session, launch, map.as_ref())?;
    if let Some(authorities) = &launch.authorities {
        show_authorities(&tree, authorities)?;
    }
    devices(&tree)
}

fn show_packages(tree: &Tree, session: &Folder, launch: &Launch, map: Option<&OwnedFd>) -> Result<(), Failure> {
    for (name, source) in &launch.shown.packages {
        tree.bind_layer(source, &format!("{PACKAGES}/{name}"), map)?;
    }
    if let Some(name) = &launch.shown.building {
        let own = session.enter(BUILDING).map_err(at("opening the folder of the packages that are installed"))?;
        tree.bind_folder(&own, &format!("{PACKAGES}/{name}"), NOSUID | NODEV)?;
    }
    Ok(())
}

/// Puts the authorities that are to be trusted in the place of those of the root file system, which stay as they are below.
fn show_authorities(tree: &Tree, authorities: &Authorities) -> Result<(), Failure> {
    let options = [("size", trust::BYTES.to_string()), ("mode", "0755".to_owned())];
    tree.mount("tmpfs", trust::FOLDER, &options, NOSUID | NODEV | NOEXEC)?;
    tree.write(&format!("{}/{}", trust::FOLDER, trust::FILE), &authorities.pem)?;
    tree.write(&format!("{}/{}", trust::FOLDER, trust::KEYSTORE), &authorities.keystore)?;
    let folder = tree.folder(trust::FOLDER)?;
    sys::mount_setattr(folder.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC).map_err(at("showing the authorities"))?;
    for path in trust::USUAL {
        let Some(point) = tree.existing_file(path) else { continue };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let file = rustix::mount::open_tree(&folder, trust::FILE, flags).map_err(at(format!("showing /{path}")))?;
        show(file.as_fd(), point.as_fd(), path, RDONLY | NOSUID | NODEV | NOEXEC)?;
    }
    Ok(())
}

/// A detached copy of a layer, with the owners that the sandbox's ids stand for.
fn layer(source: &Path, map: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    let tree = detached_copy(source).map_err(at("opening a layer"))?;
    if let Some(map) = map {
        sys::map_owners(tree.as_fd(), map.as_fd()).map_err(at(MAPPING_OWNERS))?;
    }
    Ok(tree)
}

fn show_writable_memory(tree: &Tree, session: &Folder) -> Result<(), Failure> {
    let opening = || at("opening the session's memory stores");
    let stores = session.enter(WRITABLE_MEMORY).map_err(opening())?;
    for (name, _) in stores.entries().map_err(opening())? {
        let store = stores.enter(&*name).map_err(opening())?;
        let path = format!("{MEMORY}/{}", name.to_string_lossy());
        tree.bind_folder(&store, &path, NOSUID | NODEV)?;
    }
    Ok(())
}

/// The operator's root file system and the layers below, the session's own changes above.
fn overlay(launch: &Launch, stage: &Folder, map: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    let mut lowers = Vec::new();
    if let Some(lower) = &launch.root_fs {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lower = rustix::fs::open(lower, flags, Mode::empty());
        lowers.push(lower.map_err(at("opening the operator's root file system"))?);
    }
    for source in &launch.shown.lowers {
        let tree = layer(source, map)?;
        // Kernels before 6.15 take no layer that is attached nowhere. This one is covered by what comes next.
        attach(tree.as_fd(), stage.as_fd()).map_err(at("attaching a layer"))?;
        lowers.push(tree);
    }
    let highest_first: Vec<String> = lowers.iter().rev().map(|lower| by_descriptor(lower.as_fd())).collect();
    let mut options =
        vec![("lowerdir", highest_first.join(":")), ("upperdir", "upper".to_owned()), ("workdir", "work".to_owned())];
    if !launch.identity.by_root() {
        options.push(("userxattr", String::new()));
    }
    new_file_system("overlay", &options, NOSUID | NODEV).map_err(at("mounting the overlay"))
}

fn show_host_programs(tree: &Tree) -> Result<(), Failure> {
    tree.bind(Path::new("/usr"), "usr", RDONLY | NOSUID | NODEV)?;
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let source = Path::new("/").join(name);
        match fs::symlink_metadata(&source) {
            Err(_) => {}
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&source).map_err(at(format!("reading the link /{name}")))?;
                tree.symlink(target, name)?;
            }
            Ok(_) => tree.bind(&source, name, RDONLY | NOSUID | NODEV)?,
        }
    }
    for name in ["run", "mnt/session"] {
        tree.folder(name)?;
    }
    Ok(())
}

fn show_host_settings(tree: &Tree) -> Result<(), Failure> {
    tree.folder("etc")?;
    for name in ETC {
        let source = Path::new("/etc").join(name);
        let path = format!("etc/{name}");
        match fs::symlink_metadata(&source) {
            Err(_) => {}
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&source).map_err(at(format!("reading the link /{path}")))?;
                tree.symlink(target, &path)?;
            }
            Ok(_) => tree.bind(&source, &path, RDONLY | NOSUID | NODEV)?,
        }
    }
    for path in ETC_MASKED {
        if Path::new("/").join(path).is_dir() {
            tree.mount("tmpfs", path, &tmpfs_options(4096, "0700", tree.owner), RDONLY | NOSUID | NODEV | NOEXEC)?;
        }
    }
    for (path, text) in ETC_WRITTEN {
        tree.write(path, text)?;
    }
    Ok(())
}

fn devices(tree: &Tree) -> Result<(), Failure> {
    let options = tmpfs_options(64 << 10, "0755", tree.owner);
    tree.mount("tmpfs", "dev", &options, NOSUID | NOEXEC)?;
    for name in DEVICES {
        tree.bind(&Path::new("/dev").join(name), &format!("dev/{name}"), NOSUID | NOEXEC)?;
    }
    for (target, path) in [
        ("pts/ptmx", "dev/ptmx"),
        ("/proc/self/fd", "dev/fd"),
        ("/proc/self/fd/0", "dev/stdin"),
        ("/proc/self/fd/1", "dev/stdout"),
        ("/proc/self/fd/2", "dev/stderr"),
    ] {
        tree.symlink(target, path)?;
    }
    Ok(())
}

/// Adds what only root inside can mount, and makes the tree the root. Afterwards nothing of the host's is reachable.
pub(super) fn finish(launch: &Launch) -> Result<(), Failure> {
    if launch.identity.by_root() {
        // Mounts that a more powerful namespace made are locked, and a locked mount cannot become the root: a copy can.
        let copy = detached_copy(Path::new(".")).map_err(at("copying the new root"))?;
        let root = Folder::open(Path::new(".")).map_err(at("opening the new root"))?;
        attach(copy.as_fd(), root.as_fd()).map_err(at("attaching the copy of the new root"))?;
        nix::unistd::fchdir(&copy).map_err(at("entering the copy of the new root"))?;
    }
    let tree = Tree::at_cwd(None)?;
    inner_mounts(&tree, launch)?;
    drop(tree);
    nix::unistd::pivot_root(".", ".").map_err(at("changing the root"))?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH).map_err(at("detaching the host's root"))?;
    if !launch.is_overlay() {
        shared_temporary_folder().map_err(at("making /var/tmp"))?;
    }
    nix::unistd::chdir("/workspace").map_err(at("entering /workspace"))
}

/// Makes what is left to make in a container, whose mounts a daemon has made.
pub(super) fn finish_container() -> Result<(), Failure> {
    fs::set_permissions(shell::FOLDER, fs::Permissions::from_mode(0o700))
        .map_err(at("closing the folder of the shell"))?;
    for path in ["/tmp", "/var/tmp", "/dev/shm"] {
        // A runtime may give a file system in memory the mode of the image's folder.
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).map_err(at(format!("opening {path} to all")))?;
    }
    nix::unistd::chdir("/workspace").map_err(at("entering /workspace"))
}

/// Programs expect `/var/tmp`, and that anyone may write there. What the agent has put in its place is its own affair:
/// this runs inside, where nothing but the agent's own files can be reached.
fn shared_temporary_folder() -> io::Result<()> {
    let var = Folder::open(Path::new("/var"))?;
    if var.has("tmp") {
        return Ok(());
    }
    var.make("tmp", 0o755, None)?.set_mode(0o1777)
}

fn inner_mounts(tree: &Tree, launch: &Launch) -> Result<(), Failure> {
    tree.mount("proc", "proc", &[], NOSUID | NODEV | NOEXEC)?;
    for name in PROC_READ_ONLY {
        let source = Path::new("proc").join(name);
        if source.exists() {
            tree.bind(&source, &format!("proc/{name}"), RDONLY | NOSUID | NODEV | NOEXEC)?;
        }
    }
    for name in PROC_MASKED {
        let path = format!("proc/{name}");
        match fs::metadata(&path) {
            Err(_) => {}
            Ok(meta) if meta.is_dir() => {
                tree.mount("tmpfs", &path, &tmpfs_options(4096, "0555", None), RDONLY | NOSUID | NODEV | NOEXEC)?;
            }
            Ok(_) => tree.bind(Path::new("dev/null"), &path, RDONLY | NOSUID | NOEXEC)?,
        }
    }
    let mut pts = vec![("ptmxmode", "0666".to_owned()), ("mode", "0620".to_owned())];
    if launch.identity.has_range() {
        pts.push(("gid", "5".to_owned()));
    }
    tree.mount("devpts", "dev/pts", &pts, NOSUID | NOEXEC)?;
    let shell = [("size", "4096".to_owned()), ("nr_inodes", SHELL_INODES.to_string()), ("mode", "0700".to_owned())];
    tree.mount("tmpfs", shell::FOLDER, &shell, NOSUID | NODEV | NOEXEC)?;
    let scratch = tmpfs_options(scratch_bytes(&launch.limits), "1777", None);
    tree.mount("tmpfs", "dev/shm", &scratch, NOSUID | NODEV)?;
    tree.mount("tmpfs", "tmp", &scratch, NOSUID | NODEV)
}

/// Bytes of each folder whose files are in memory: they must leave enough of it for the programs that could delete them.
pub(crate) fn scratch_bytes(limits: &Limits) -> u64 {
    limits.tmp_bytes.min(limits.memory_bytes / SCRATCH_SHARE)
}

/// The folders inside that may be written.
pub(super) fn writable_folders(launch: &Launch) -> Vec<&'static OsStr> {
    if launch.is_overlay() {
        return vec![OsStr::new("/")];
    }
    let building = launch.shown.building.is_some().then_some(PACKAGES);
    let session = session_folders(launch).filter(|(.., writable)| *writable).map(|(_, path, _)| path);
    let scratch = launch.container.is_some().then_some("var/tmp");
    // Of the memory stores the mounts say which may be written.
    session.chain([MEMORY, "tmp", "dev", "proc", "run"]).chain(scratch).chain(building).map(OsStr::new).collect()
}
