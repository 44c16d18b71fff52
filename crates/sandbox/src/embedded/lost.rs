//! Files of sessions that the server's store does not know: kept apart for a while, should the wrong store be there.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use crate::folder::Folder;

/// The folder, in that of the sessions. No session has such an id.
const NAME: &str = ".lost";

/// Where such files are, each session's in a folder with a name of its own: `<session id>_<when>`.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    sessions: PathBuf,
    folder: PathBuf,
}

/// Files of one session that were set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The session.
    pub session_id: String,
    /// When, in microseconds since the epoch.
    pub at: i64,
}

impl SetAside {
    pub(super) fn name(&self) -> String {
        format!("{}_{}", self.session_id, self.at)
    }

    fn parse(name: &str) -> Option<Self> {
        let (session_id, at) = name.rsplit_once('_')?;
        Some(Self { session_id: session_id.to_owned(), at: at.parse().ok()? })
    }
}

impl Lost {
    /// A folder in that of the sessions, so that both are on one file system. It is made when it is needed.
    pub(super) fn new(sessions: &Path) -> Self {
        Self { sessions: sessions.to_owned(), folder: sessions.join(NAME) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    pub(super) fn open(&self) -> io::Result<Folder> {
        Folder::open(&self.folder)
    }

    /// Everything that was set aside, oldest first.
    pub(super) fn list(&self) -> io::Result<Vec<SetAside>> {
        if !Folder::open(&self.sessions)?.has(NAME) {
            return Ok(Vec::new());
        }
        let entries = self.open()?.entries()?;
        let mut files: Vec<SetAside> =
            entries.iter().filter_map(|(name, _)| SetAside::parse(name.to_str().ok()?)).collect();
        files.sort_by_key(|files| files.at);
        Ok(files)
    }

    /// Takes a session's folder.
    pub(super) fn take(&self, files: &SetAside) -> io::Result<()> {
        let session = CString::new(&*files.session_id)?;
        let sessions = Folder::open(&self.sessions)?;
        sessions.move_to(&session, &sessions.make_private(NAME)?, &files.name())
    }

    /// Puts a session's folder back, unless it has another one. Whether it did.
    pub(super) fn give_back(&self, files: &SetAside) -> io::Result<bool> {
        let sessions = Folder::open(&self.sessions)?;
        match self.open()?.move_to(&CString::new(files.name())?, &sessions, &files.session_id) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            moved => moved.map(|()| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_set_aside_comes_back_once_and_never_over_other_files() {
        let sessions = tempfile::tempdir().unwrap();
        let lost = Lost::new(sessions.path());
        let session = sessions.path().join("sesn_1");
        let set_aside = |at| SetAside { session_id: "sesn_1".to_owned(), at };
        for at in [2, 1] {
            fs::create_dir(&session).unwrap();
            fs::write(session.join("at"), at.to_string()).unwrap();
            lost.take(&set_aside(at)).unwrap();
        }
        assert_eq!(lost.list().unwrap(), [set_aside(1), set_aside(2)]);
        assert!(lost.give_back(&set_aside(2)).unwrap());
        assert!(!lost.give_back(&set_aside(1)).unwrap());
        assert_eq!(fs::read_to_string(session.join("at")).unwrap(), "2");
        assert_eq!(lost.list().unwrap(), [set_aside(1)]);
    }
}
