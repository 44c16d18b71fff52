//! How runs were started, where the official record has no word for it: rows beside those of the runs.

use rota_api::{
    deployment::{DeploymentRun, TriggerContext},
    id::{HookId, RunId, StartId, WorkspaceId},
    listed_run::RunTrigger,
    start::{Inputs, RunStart},
};
use serde_json::Value;

use crate::{
    db::{Row, Tx, vals},
    error::Result,
};

/// What a start is given beside the deployment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    /// What fills the first events; `None` leaves them as they are.
    pub inputs: Option<Inputs>,
    /// What follows the blocks of the first message.
    pub content: Vec<Value>,
}

impl Given {
    /// Whether it leaves the first events as they are.
    pub fn is_nothing(&self) -> bool {
        self.inputs.is_none() && self.content.is_empty()
    }

    /// The two as the store has them.
    pub fn stored(&self) -> Result<(Option<String>, Option<String>)> {
        let inputs = self.inputs.as_ref().map(serde_json::to_string).transpose()?;
        let content = (!self.content.is_empty()).then(|| serde_json::to_string(&self.content)).transpose()?;
        Ok((inputs, content))
    }
}

/// What started a run.
#[derive(Debug, Clone)]
pub struct Cause {
    /// The kind of start.
    pub trigger: RunTrigger,
    /// The planned start that it came of.
    pub start: Option<StartId>,
    /// The hook that it came of.
    pub hook: Option<HookId>,
    /// The run that it does again.
    pub rerun_of: Option<RunId>,
}

impl Cause {
    /// A start of this kind that came of nothing else.
    pub fn of(trigger: RunTrigger) -> Self {
        Self { trigger, start: None, hook: None, rerun_of: None }
    }
}

/// Adds how `run` was started. A run by hand that was given nothing needs no row.
pub fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &RunId, cause: &Cause, given: &Given) -> Result<()> {
    if cause.trigger == RunTrigger::Manual && given.is_nothing() {
        return Ok(());
    }
    let (inputs, content) = given.stored()?;
    tx.send(
        "INSERT INTO run_starts (run_id, workspace_id, kind, inputs, content, start_id, hook_id, rerun_of)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        vals![
            run,
            workspace,
            cause.trigger.as_str(),
            inputs.as_deref(),
            content.as_deref(),
            cause.start.as_ref(),
            cause.hook.as_ref(),
            cause.rerun_of.as_ref()
        ],
    )
}

/// How `run` was started, and what does it again.
pub fn of(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &DeploymentRun) -> Result<RunStart> {
    let sql =
        "SELECT kind, inputs, start_id, hook_id, rerun_of FROM run_starts WHERE run_id = $1 AND workspace_id = $2";
    let found = tx.one(sql, vals![&run.id, workspace], |row| {
        Ok(RunStart {
            trigger: row.name("kind", RunTrigger::from_name)?,
            inputs: row.opt_json("inputs")?,
            start_id: row.opt_id("start_id")?,
            hook_id: row.opt_id("hook_id")?,
            rerun_of: row.opt_id("rerun_of")?,
            rerun_by: None,
        })
    })?;
    let plain = || {
        let trigger = match run.trigger_context {
            TriggerContext::Schedule { .. } => RunTrigger::Schedule,
            TriggerContext::Manual => RunTrigger::Manual,
        };
        RunStart { trigger, inputs: None, start_id: None, hook_id: None, rerun_of: None, rerun_by: None }
    };
    let rerun_by = rerun_by(tx, workspace, &run.id)?;
    Ok(RunStart { rerun_by, ..found.unwrap_or_else(plain) })
}

/// What a run was given beside the deployment.
pub fn given(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &RunId) -> Result<Given> {
    let sql = "SELECT inputs, content FROM run_starts WHERE run_id = $1 AND workspace_id = $2";
    let read = |row: &Row<'_>| {
        Ok(Given { inputs: row.opt_json("inputs")?, content: row.opt_json("content")?.unwrap_or_default() })
    };
    Ok(tx.one(sql, vals![run, workspace], read)?.unwrap_or_default())
}

/// The run that does `run` again.
pub fn rerun_by(tx: &mut Tx<'_>, workspace: &WorkspaceId, run: &RunId) -> Result<Option<RunId>> {
    let sql = "SELECT run_id FROM run_starts WHERE rerun_of = $1 AND workspace_id = $2";
    tx.one(sql, vals![run, workspace], |row| row.id("run_id"))
}
