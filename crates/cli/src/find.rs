//! What is named on the command line: by its id, or by a name or the key of its file that nothing else has.

use serde_json::Value;

use crate::{
    apply::Label,
    client::{Client, Error, Result, id},
    limits::NAMED_ROWS,
    output::clean_line,
};

/// What has a list, a name and an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Agents.
    Agents,
    /// Deployments.
    Deployments,
    /// Environments.
    Environments,
    /// Sessions. Their titles are not names: many may have one.
    Sessions,
}

impl Kind {
    /// As it is in paths and on the command line.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Deployments => "deployments",
            Self::Environments => "environments",
            Self::Sessions => "sessions",
        }
    }

    /// One of them.
    pub fn singular(self) -> &'static str {
        self.plural().trim_end_matches('s')
    }

    /// What its ids begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Agents => "agent_",
            Self::Deployments => "depl_",
            Self::Environments => "env_",
            Self::Sessions => "sesn_",
        }
    }
}

/// A field of a value; nothing where it has no such text.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The id of what is named by its id, or by its exact name or the key of the file that made it, among what is not archived.
///
/// # Errors
/// When nothing has the name, or several things.
pub async fn named(client: &Client, kind: Kind, given: &str) -> Result<String> {
    if given.starts_with(kind.prefix()) || kind == Kind::Sessions {
        return Ok(id(given)?.to_owned());
    }
    let rows = client.list(&format!("/v1/{}", kind.plural()), &[], NAMED_ROWS).await?;
    let found: Vec<&str> = rows.data.iter().filter(|row| is_named(row, given)).map(|row| text(row, "id")).collect();
    let (one, all, name) = (kind.singular(), kind.plural(), clean_line(given));
    match *found {
        [only] => Ok(id(only)?.to_owned()),
        [] if rows.is_cut => Err(Error::NotFound(format!(
            "none of the newest {NAMED_ROWS} {all} is named \"{name}\": name it by its id"
        ))),
        [] => Err(Error::NotFound(format!("no {one} is named \"{name}\"; `rota {all} list` shows them"))),
        _ => Err(Error::Usage(format!(
            "{} {all} are named \"{name}\": name one by its id: {}",
            found.len(),
            found.join(", ")
        ))),
    }
}

fn is_named(row: &Value, given: &str) -> bool {
    row["name"] == given
        || Label::of_metadata(row).is_some_and(|label| label.key == given || label.to_string() == given)
}

/// The session that is named by its id or by that of its run.
///
/// # Errors
/// When it is neither, or the run has no session.
pub async fn session(client: &Client, given: &str) -> Result<String> {
    let given = id(given)?;
    if !given.starts_with("drun_") {
        return Ok(given.to_owned());
    }
    let run = client.get(&format!("/v1/deployment_runs/{given}"), &[]).await?;
    match run["session_id"].as_str() {
        Some(session) => Ok(id(session)?.to_owned()),
        None => Err(Error::Failed(failure(&run))),
    }
}

/// Why a run has no session.
pub fn failure(run: &Value) -> String {
    let error = &run["error"];
    let (run, message, kind) = (text(run, "id"), text(error, "message"), text(error, "type"));
    format!("run {} has failed: {} ({})", clean_line(run), clean_line(message), clean_line(kind))
}
