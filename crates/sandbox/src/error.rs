//! What can go wrong: the machine cannot isolate, it is short of something, the sandbox died, or the request makes no
//! sense.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// An error of a sandbox backend.
///
/// Its `Display` is for the operator and may name folders of the host; [`Self::for_client`] is for everyone else.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// This machine cannot give the isolation that is asked for. No tool ran, and none will until the cause is removed.
    #[error("cannot start a sandbox: {cause}\n  No agent tool runs without isolation. {remedy}")]
    CannotIsolate {
        /// Which protection could not be set up, and what the kernel answered. Names no path of the host's.
        cause: String,
        /// What the operator can do. Names no path of the host's.
        remedy: String,
    },
    /// The sandbox ended while a call was under way. The outcome of that call is unknown; the session's files are kept
    /// and the next [`crate::Embedded::open`] starts a new sandbox over them.
    #[error("the sandbox ended: {cause}")]
    Died {
        /// Why, as far as it is known: out of memory, stopped, no answer.
        cause: String,
    },
    /// A session id that is empty, too long, or has characters other than ASCII letters, digits and `_`.
    #[error("{0:?} is not a session id")]
    BadSessionId(String),
    /// The host refused something that was needed: a file, a process, a cgroup.
    #[error("{doing}{}: {cause}", At(place.as_deref()))]
    Host {
        /// What was being done. Names no path of the host's.
        doing: String,
        /// Where on the host.
        place: Option<PathBuf>,
        /// What the system answered.
        cause: String,
        /// The cause may be gone a moment later.
        passing: bool,
    },
}

impl Error {
    /// Whether the same may work a moment later: the machine is short of descriptors, processes, memory or space, two
    /// sandboxes got into each other's way, or the machine was too slow. Anything else stays until somebody acts.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Host { passing: true, .. })
    }

    /// What to tell a client: the same without the places on the host.
    pub fn for_client(&self) -> String {
        match self {
            Self::Host { doing, cause, .. } => format!("{doing}: {cause}"),
            other => other.to_string(),
        }
    }

    pub(crate) fn died(cause: impl Into<String>) -> Self {
        Self::Died { cause: cause.into() }
    }

    /// For `map_err`: names what was being done when the host refused.
    pub(crate) fn host<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |error| {
            let error = error.into();
            Self::Host { doing, place: None, cause: error.to_string(), passing: is_shortage(&error) }
        }
    }

    /// The same with the place on the host.
    pub(crate) fn host_at<E: Into<io::Error>>(doing: &str, place: &Path) -> impl FnOnce(E) -> Self {
        move |error| {
            let mut refused = Self::host(doing)(error);
            if let Self::Host { place: at, .. } = &mut refused {
                *at = Some(place.to_owned());
            }
            refused
        }
    }
}

/// A place behind what was being done, when there is one.
struct At<'a>(Option<&'a Path>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |place| write!(f, " ({})", place.display()))
    }
}

/// Whether the system is short of something that others may give back: descriptors, processes, memory, space.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOMEM | Errno::ENOSPC | Errno::EDQUOT)
    )
}

/// The same for a cgroup, which also refuses while another sandbox's is being removed, or its own is by a sweep.
pub(crate) fn is_cgroup_race(error: &io::Error) -> bool {
    is_shortage(error) || matches!(errno(error), Some(Errno::EBUSY | Errno::ENOENT | Errno::ENODEV))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_may_pass_and_a_refusal_stays() {
        for code in [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT] {
            let error = Error::host("making files")(io::Error::from_raw_os_error(code));
            assert!(error.is_passing(), "{error}");
        }
        for code in [libc::EACCES, libc::EPERM, libc::EROFS, libc::ENOENT, libc::EBUSY, libc::EIO] {
            let error = Error::host("making files")(io::Error::from_raw_os_error(code));
            assert!(!error.is_passing(), "{error}");
        }
        for code in [libc::EBUSY, libc::ENOENT, libc::ENODEV, libc::ENOSPC] {
            assert!(is_cgroup_race(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(!is_cgroup_race(&io::Error::from_raw_os_error(libc::EACCES)));
    }

    #[test]
    fn the_operator_reads_the_place_and_a_client_does_not() {
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        let error = Error::host_at("making the session's folders", Path::new("/srv/secret/s"))(refused);
        assert_eq!(error.to_string(), "making the session's folders (/srv/secret/s): Permission denied (os error 13)");
        assert_eq!(error.for_client(), "making the session's folders: Permission denied (os error 13)");
    }
}
