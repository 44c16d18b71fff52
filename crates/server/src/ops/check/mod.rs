//! Reads a store through and names what is wrong with it. Nothing is changed, and servers may go on meanwhile.

mod bytes;
mod secrets;
mod sessions;

use std::fmt::Display;

use rota_api::id::WorkspaceId;
use serde::Serialize;

use super::source::Source;
use crate::{
    config::Config,
    db::{self, Db},
    error::{Error, Result},
    limits::MAX_PROBLEMS,
};

/// Something that is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of thing: `store`, `missing_bytes`, `damaged_bytes`, `log`, `state`, `secret`.
    pub kind: &'static str,
    /// Its workspace, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<String>,
    /// What it is about: the id of a session, a blob or a row.
    pub id: String,
    /// What is wrong.
    pub problem: String,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Sessions, with their states and logs.
    pub sessions: u64,
    /// Events of their logs.
    pub events: u64,
    /// Blobs that rows name.
    pub blobs: u64,
    /// Their bytes, which were all read.
    pub blob_bytes: u64,
    /// Secrets that were opened.
    pub secrets: u64,
    /// Blobs that no row names. What was deleted leaves some, which a server removes within an hour and a half.
    pub unnamed_blobs: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// What is wrong; the first of it, where there is much.
    pub problems: Vec<Problem>,
    /// How much is wrong.
    pub problem_count: u64,
    /// How much was looked at.
    pub checked: Checked,
}

impl Findings {
    fn add(&mut self, kind: &'static str, workspace: Option<&WorkspaceId>, id: &dyn Display, problem: &dyn Display) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                kind,
                workspace_id: workspace.map(ToString::to_string),
                id: id.to_string(),
                problem: problem.to_string(),
            });
        }
    }
}

/// Reads the store of a configuration through; `database` where that names one.
///
/// # Errors
/// When there is no store, or it is of another version of this program, or the place of blobs does not answer. What is wrong
/// with the store is no error.
pub async fn check(config: Config, database: Option<Db>) -> Result<Findings> {
    let source = Source::of(&config, database)?;
    let handle = tokio::runtime::Handle::current();
    let checking = move || {
        let mut found = Findings::default();
        if let Source::File(file) = &source {
            match db::check_integrity(file, MAX_PROBLEMS) {
                Ok(lines) => lines.iter().for_each(|line| found.add("store", None, &db::FILE, line)),
                Err(Error::Database(cause)) => found.add("store", None, &db::FILE, &cause),
                Err(error) => return Err(error),
            }
            if found.problem_count == 0 {
                db::check_version(file)?;
            }
        }
        let mut read = || {
            sessions::check(&source, &mut found)?;
            secrets::check(&config, &source, &mut found)?;
            bytes::check(&config, &source, &handle, &mut found)
        };
        match read() {
            // Of a store that is damaged not everything can be read.
            Err(Error::Database(cause)) if found.problem_count > 0 => {
                found.add("store", None, &db::FILE, &format_args!("it cannot be read to its end: {cause}"));
                Ok(found)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    };
    tokio::task::spawn_blocking(checking).await.map_err(Error::internal)?
}
