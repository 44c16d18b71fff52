//! The framed messages between the server and the init inside: a little-endian `u32` length, then that much JSON.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::config::Limits;
use crate::tools::{ToolCall, ToolOutput};

/// The longest frame that the init accepts: a `write` call carries a whole file.
pub(crate) const MAX_FRAME_TO_INIT: usize = 32 << 20;
/// The longest frame that the server accepts from inside: the largest tool output, which is a PDF in base64.
pub(crate) const MAX_FRAME_FROM_INIT: usize = 12 << 20;
/// Descriptors that come with one frame from inside, at most.
pub(crate) const MAX_DESCRIPTORS: usize = 64;
/// Bytes of the length in front of a frame.
pub(crate) const HEADER: usize = 4;

/// What the server says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// The first frame: how to set up the fence.
    Launch(Box<Launch>),
    /// The first frame of an init that is no sandbox: delete what is in a folder, as root of a user namespace.
    Delete { identity: Identity, folder: PathBuf },
    /// Run a tool. `call` is the server's own number for it.
    Call { call: u64, tool: ToolCall },
    /// End a running call and its processes.
    Cancel { call: u64 },
}

/// What comes back. Everything after `Ready` may come from hostile code.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// Process 1 exists, with this process id on the host. Sent by the launcher, before anything runs inside.
    Started { pid: i32 },
    /// With this come the descriptors of the gate's listeners: those of names, by UDP and by TCP, then one for each port of
    /// the launch. `ipv6`: they take connections to IPv6 addresses too. Sent before anything runs inside.
    Listening { ipv6: bool },
    /// The fence stands and was checked from inside.
    Ready { landlock: String },
    /// The fence could not be set up. Nothing runs.
    Failed(Failure),
    /// The folder is empty.
    Deleted,
    /// A call has ended.
    Done { call: u64, output: ToolOutput },
    /// Everything inside was ended, because its files took too much room.
    OverDisk,
}

/// A step of the setup that failed, and how. Neither text names a path of the host's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) step: String,
    pub(crate) cause: String,
    /// The same may work a moment later.
    pub(crate) passing: bool,
}

impl Failure {
    /// A failure that stays until somebody acts.
    pub(crate) fn lasting(step: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { step: step.into(), cause: cause.into(), passing: false }
    }
}

/// Authorities that programs inside are to trust, in the place of those of the root file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Authorities {
    /// In PEM.
    pub pem: String,
    /// The same as a keystore of Java.
    pub keystore: Vec<u8>,
}

/// How to set up one sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) identity: Identity,
    /// The session's own folder on the host, absolute.
    pub(crate) session_dir: PathBuf,
    pub(crate) root_fs: Option<PathBuf>,
    /// What is shown beside that.
    pub(crate) shown: Shown,
    pub(crate) limits: Limits,
    /// The cgroups that process 1 is in.
    pub(crate) cgroups: Vec<CgroupFolder>,
    /// No memory controller is available: limit each process's address space instead.
    pub(crate) limit_address_space: bool,
    /// The session has had no sandbox before, and so no files of its own.
    pub(crate) is_new: bool,
    /// The session had a shell in an earlier sandbox.
    pub(crate) had_shell: bool,
    /// The TCP ports at which every address leads to the gate. `None`: there is no network.
    pub(crate) gate_ports: Option<Vec<u16>>,
    /// Variables of the shell beside its own ones: `NAME=value`.
    pub(crate) environment: Vec<String>,
    /// The authorities that programs inside are to trust. `None`: those of the root file system.
    pub(crate) authorities: Option<Authorities>,
    /// The init is process 1 of a container, whose namespaces and mounts are there already.
    pub(crate) container: Option<Container>,
}

/// What an init needs to know of the container that it is in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    /// The namespaces of the server, by kind: the container must have others.
    pub(crate) host_namespaces: Vec<(String, String)>,
    pub(crate) ids: ContainerIds,
}

/// Which ids of the host those of a container stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContainerIds {
    /// Its own, as the launch's [`Identity`] maps them.
    Own,
    /// Those of the plain user that the daemon runs as.
    OfUser,
    /// The host's: its root is the host's, and must have no power.
    OfHost,
}

/// Layers that a sandbox is made from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// Layers of the overlay over `root_fs`, the lowest first.
    pub(crate) lowers: Vec<PathBuf>,
    /// Folders that are shown below [`PACKAGES`], with their names there.
    pub(crate) packages: Vec<(String, PathBuf)>,
    /// The first of the ids that own what is in them, where those are not the sandbox's own.
    pub(crate) owner: Option<u32>,
    /// The folder below [`PACKAGES`] that is the session's own: a layer is being made there.
    pub(crate) building: Option<String>,
    /// Bytes and files of `lowers`, which are not the session's.
    pub(crate) size: (u64, u64),
    /// Variables of the shell, `NAME=value`, over those that it has anyway.
    pub(crate) environment: Vec<String>,
}

/// Where packages of an environment are inside.
pub(crate) const PACKAGES: &str = "mnt/packages";

impl Launch {
    /// Whether the root is an overlay, in which the session keeps all changes.
    pub(crate) fn is_overlay(&self) -> bool {
        self.root_fs.is_some() || !self.shown.lowers.is_empty()
    }

    /// Whether root inside is the host's root.
    pub(crate) fn is_root_of_host(&self) -> bool {
        self.container.as_ref().is_some_and(|container| container.ids == ContainerIds::OfHost)
    }
}

/// A cgroup of a sandbox, in one of the machine's hierarchies.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CgroupFolder {
    pub(crate) path: PathBuf,
    /// It is one of version 2.
    pub(crate) unified: bool,
}

/// Which ids of the host the ids inside stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Identity {
    /// The server is root: ids 0 to 65535 inside are `base` and up on the host. Host id 0 is never among them.
    Range { base: u32 },
    /// A plain user with ids of its own in `/etc/subuid`: 0 inside is that user, 1 and up are the subordinate ids.
    Subordinate { uid: u32, gid: u32, first_uid: u32, first_gid: u32, count: u32 },
    /// A plain user: 0 inside is that user, and there are no others.
    Single { uid: u32, gid: u32 },
}

/// Ids in one session's range.
pub(crate) const RANGE: u32 = 65_536;

impl Identity {
    /// The lines of `uid_map`.
    pub(crate) fn uid_map(self) -> String {
        match self {
            Self::Range { base } => format!("0 {base} {RANGE}\n"),
            Self::Subordinate { uid, first_uid, count, .. } => format!("0 {uid} 1\n1 {first_uid} {count}\n"),
            Self::Single { uid, .. } => format!("0 {uid} 1\n"),
        }
    }

    /// The lines of `gid_map`.
    pub(crate) fn gid_map(self) -> String {
        match self {
            Self::Range { base } => format!("0 {base} {RANGE}\n"),
            Self::Subordinate { gid, first_gid, count, .. } => format!("0 {gid} 1\n1 {first_gid} {count}\n"),
            Self::Single { gid, .. } => format!("0 {gid} 1\n"),
        }
    }

    /// The host's id of root inside, where the server can give files to it.
    pub(crate) fn owner(self) -> Option<u32> {
        if let Self::Range { base } = self { Some(base) } else { None }
    }

    /// Ids 1 and up exist inside.
    pub(crate) fn has_range(self) -> bool {
        !matches!(self, Self::Single { .. })
    }

    /// The server is root, so the launcher builds the tree of mounts before it gives up its power.
    pub(crate) fn by_root(self) -> bool {
        matches!(self, Self::Range { .. })
    }
}

/// One frame, ready to be sent.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message).expect("messages are plain structs, which always serialise");
    let length = u32::try_from(frame.len() - HEADER).expect("messages are far below 4 GiB");
    frame[..HEADER].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Reads the length in front of a frame, and refuses one above `max`.
pub(crate) fn frame_length(header: [u8; HEADER], max: usize) -> io::Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes, above {max}")));
    }
    Ok(length)
}

/// Decodes one frame's body.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads one frame, blocking.
pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read, max: usize) -> io::Result<T> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header)?;
    let mut body = vec![0; frame_length(header, max)?];
    from.read_exact(&mut body)?;
    decode(&body)
}

/// Writes one frame, blocking.
pub(crate) fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&encode(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_above_the_bound_is_refused_before_it_is_read() {
        let mut huge = &u32::MAX.to_le_bytes()[..];
        let error = read::<FromInit>(&mut huge, MAX_FRAME_FROM_INIT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn host_id_zero_is_never_mapped_by_a_range() {
        let map = Identity::Range { base: 1_000_000 }.uid_map();
        assert_eq!(map, "0 1000000 65536\n");
    }

    #[test]
    fn a_frame_reads_back() {
        let frame = encode(&ToInit::Cancel { call: 7 });
        let back: ToInit = read(&mut &frame[..], MAX_FRAME_TO_INIT).unwrap();
        assert!(matches!(back, ToInit::Cancel { call: 7 }));
    }
}
