//! Files of sessions that the server's store does not know: kept apart for a while, should the wrong store be there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::store::private_folder;

/// Where such files are, each session's in a folder with a name of its own: `<session id>_<when>`.
#[derive(Debug, Clone)]
pub(super) struct Lost {
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
    fn name(&self) -> String {
        format!("{}_{}", self.session_id, self.at)
    }

    fn parse(name: &str) -> Option<Self> {
        let (session_id, at) = name.rsplit_once('_')?;
        Some(Self { session_id: session_id.to_owned(), at: at.parse().ok()? })
    }
}

impl Lost {
    /// `folder` is made when it is missing. It is on the file system of the sessions.
    pub(super) fn new(folder: PathBuf) -> io::Result<Self> {
        private_folder(&folder)?;
        Ok(Self { folder })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, files: &SetAside) -> PathBuf {
        self.folder.join(files.name())
    }

    /// Everything that was set aside, oldest first.
    pub(super) fn list(&self) -> io::Result<Vec<SetAside>> {
        let names = fs::read_dir(&self.folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files: Vec<SetAside> = names.filter_map(|name| SetAside::parse(&name)).collect();
        files.sort_by_key(|files| files.at);
        Ok(files)
    }

    /// Takes a session's folder.
    pub(super) fn take(&self, session: &Path, files: &SetAside) -> io::Result<()> {
        fs::rename(session, self.path(files))
    }

    /// Puts a session's folder back, unless it has another one. Whether it did.
    pub(super) fn give_back(&self, session: &Path, files: &SetAside) -> io::Result<bool> {
        let renamed = rustix::fs::renameat_with(
            rustix::fs::CWD,
            self.path(files),
            rustix::fs::CWD,
            session,
            rustix::fs::RenameFlags::NOREPLACE,
        );
        match renamed {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_comes_back_once_and_never_over_other_files() {
        let data = tempfile::tempdir().unwrap();
        let lost = Lost::new(data.path().join("lost")).unwrap();
        let session = data.path().join("sesn_1");
        let set_aside = |at| SetAside { session_id: "sesn_1".to_owned(), at };
        for at in [2, 1] {
            fs::create_dir(&session).unwrap();
            fs::write(session.join("at"), at.to_string()).unwrap();
            lost.take(&session, &set_aside(at)).unwrap();
        }
        assert_eq!(lost.list().unwrap(), [set_aside(1), set_aside(2)]);
        assert!(lost.give_back(&session, &set_aside(2)).unwrap());
        assert!(!lost.give_back(&session, &set_aside(1)).unwrap());
        assert_eq!(fs::read_to_string(session.join("at")).unwrap(), "2");
        assert_eq!(lost.list().unwrap(), [set_aside(1)]);
    }
}
