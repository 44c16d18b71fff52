//! Sums over the runs of a workspace. They are made when they are asked for, from the runs of the time and their sessions, so that
//! they say what is true now: a bounded time, and a bounded number of runs.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use axum::extract::State;
use rota_api::{
    Time,
    id::{self, AgentId, DeploymentId, Id, RunId, WorkspaceId},
    listed_run::{Cost, RunState},
    run_sum::{RunCounts, RunSum, RunSums, SumBy, TokenSums},
    session::SessionUsage,
};

use crate::{
    app::App,
    db::{Row, Select, Tx, vals},
    error::{Error, Result},
    limits::{MAX_RUN_SUMS, MAX_SUMMED_MICROS, MAX_SUMMED_RUNS, SUMMED_MICROS},
    page::{Order, Rows},
    request::{Caller, Json, Query},
    resources::{
        runs::{self, Fares},
        sessions::{self, Waiting},
    },
};

const DAY_MICROS: i64 = 86_400 * 1_000_000;

/// `GET /rota/v1/runs/sums`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<RunSums>> {
    let by = query.any_of("by", SumBy::NAMES, SumBy::NAMES.len())?;
    let mut asked = Asked {
        by: by.into_iter().filter_map(SumBy::from_name).collect(),
        deployment: query.id::<DeploymentId>("deployment_id")?.map(str::to_owned),
        agent: query.id::<AgentId>("agent_id")?.map(str::to_owned),
        from: Time::from_micros(0),
        to: query.time("to")?.unwrap_or(app.clock.now()),
    };
    asked.from = query.time("from")?.unwrap_or(asked.to.plus_micros(-SUMMED_MICROS));
    query.finish()?;
    if asked.from >= asked.to {
        return Err(Error::invalid("from: must be before to"));
    }
    if asked.to.micros() - asked.from.micros() > MAX_SUMMED_MICROS {
        let days = MAX_SUMMED_MICROS / DAY_MICROS;
        return Err(Error::invalid(format_args!("from: must be no more than {days} days before to")));
    }
    app.db.read(move |tx| sums(tx, &caller.workspace, &asked)).await.map(Json)
}

/// Which sums are asked for.
struct Asked {
    by: Vec<SumBy>,
    deployment: Option<String>,
    agent: Option<String>,
    from: Time,
    to: Time,
}

/// What runs of one sum have in common. What they are not summed by is none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Days since the epoch.
    day: Option<i64>,
    deployment: Option<String>,
    agent: Option<String>,
    model: Option<String>,
}

/// A sum as it grows.
#[derive(Debug, Default)]
struct Sum {
    runs: RunCounts,
    tokens: TokenSums,
    nanos: Option<i64>,
    active_micros: i64,
    duration_micros: i64,
    longest_micros: i64,
}

fn sums(tx: &mut Tx<'_>, workspace: &WorkspaceId, asked: &Asked) -> Result<RunSums> {
    let (model, versions) = if asked.by.contains(&SumBy::Model) {
        ("v.model", "LEFT JOIN agent_versions v ON v.agent_id = r.agent_id AND v.version = r.agent_version")
    } else {
        ("''", "")
    };
    let sql = format!(
        "SELECT r.id, r.deployment_id, r.agent_id, {model} AS model, r.created_at, r.session_id, s.run_id, s.status,
             s.lease_owner, s.interrupted_by, s.stop_reason, s.waiting_on, s.archived_at, s.stopped_at, s.usage, s.active_micros, s.cost_nanos
         FROM deployment_runs r LEFT JOIN sessions s ON s.workspace_id = r.workspace_id AND s.id = r.session_id {versions}
         WHERE r.workspace_id = $1"
    );
    let mut select = Select::new(&sql, workspace);
    select.text("r.deployment_id =", asked.deployment.as_deref());
    select.text("r.agent_id =", asked.agent.as_deref());
    select.text("r.id >=", Some(id::floor::<RunId>(asked.from)));
    select.text("r.id <", Some(id::floor::<RunId>(asked.to)));
    let found = RefCell::new(BTreeMap::<Key, Sum>::new());
    let add = |row: &Row<'_>| {
        let mut found = found.borrow_mut();
        let key = asked.key(row)?;
        if found.len() >= MAX_RUN_SUMS && !found.contains_key(&key) {
            return Err(Error::invalid(format_args!(
                "by: there are more than {MAX_RUN_SUMS} sums; choose a shorter time, or sum by less"
            )));
        }
        found.entry(key).or_default().add(row)
    };
    let Rows { more, .. } = select.rows(tx, "r.id", Order::Asc, None, (MAX_SUMMED_RUNS, usize::MAX), add)?;
    if more {
        return Err(Error::invalid(format_args!(
            "from: there are more than {MAX_SUMMED_RUNS} runs in this time; choose a shorter one, or a deployment_id"
        )));
    }
    let mut names = HashMap::new();
    let mut data = Vec::new();
    for (key, sum) in found.into_inner() {
        data.push(sum.told(key, |id| name(tx, workspace, &mut names, id))?);
    }
    Ok(RunSums { from: asked.from, to: asked.to, data })
}

impl Asked {
    fn key(&self, row: &Row<'_>) -> Result<Key> {
        let by = |wanted| self.by.contains(&wanted);
        Ok(Key {
            day: if by(SumBy::Day) { Some(row.int("created_at")?.div_euclid(DAY_MICROS)) } else { None },
            deployment: if by(SumBy::Deployment) { Some(row.text("deployment_id")?) } else { None },
            agent: if by(SumBy::Agent) { Some(row.text("agent_id")?) } else { None },
            model: if by(SumBy::Model) { Some(row.opt_text("model")?.unwrap_or_default()) } else { None },
        })
    }
}

impl Sum {
    fn add(&mut self, row: &Row<'_>) -> Result<()> {
        self.runs.total += 1;
        if row.opt_text("session_id")?.is_none() {
            self.runs.failed += 1;
            return Ok(());
        }
        let Some(status) = row.opt_text("status")? else {
            self.runs.deleted += 1;
            return Ok(());
        };
        let status = sessions::stored_status(&status)?;
        let waiting: Vec<Waiting> = row.opt_json("waiting_on")?.unwrap_or_default();
        let stop_reason = row.opt_text("stop_reason")?;
        let fares = Fares {
            status,
            stop_reason: stop_reason.as_deref(),
            has_runner: row.opt_text("lease_owner")?.is_some(),
            is_archived: row.opt_time("archived_at")?.is_some(),
            waits: !waiting.is_empty(),
            is_interrupted: row.opt_text("interrupted_by")?.is_some(),
        };
        let count = match runs::state(&fares) {
            RunState::Failed => &mut self.runs.failed,
            RunState::Waiting => &mut self.runs.waiting,
            RunState::Queued | RunState::Working | RunState::Retrying => &mut self.runs.working,
            _ => &mut self.runs.done,
        };
        *count += 1;
        // A session that went on with a later run counts once, there.
        if row.opt_text("run_id")?.is_some_and(|of| row.text("id").is_ok_and(|id| id != of)) {
            return Ok(());
        }
        let usage: SessionUsage = row.opt_json("usage")?.unwrap_or_default();
        let written = usage.cache_creation.unwrap_or_default();
        self.tokens.input_tokens += usage.input_tokens;
        self.tokens.output_tokens += usage.output_tokens;
        self.tokens.cache_read_input_tokens += usage.cache_read_input_tokens;
        self.tokens.cache_creation_input_tokens +=
            written.ephemeral_5m_input_tokens + written.ephemeral_1h_input_tokens;
        if let Some(nanos) = row.opt_int("cost_nanos")? {
            self.nanos = Some(self.nanos.unwrap_or_default().saturating_add(nanos));
        }
        self.active_micros += row.int("active_micros")?;
        let stopped_at = row.opt_time("stopped_at")?.filter(|_| stop_reason.is_some());
        if let Some(stopped_at) = stopped_at {
            let micros = (stopped_at.micros() - row.int("created_at")?).max(0);
            self.duration_micros += micros;
            self.longest_micros = self.longest_micros.max(micros);
        }
        Ok(())
    }

    fn told(self, key: Key, name: impl FnOnce(&str) -> Result<Option<String>>) -> Result<RunSum> {
        let seconds = |micros: i64| micros as f64 / 1e6;
        let day = key.day.map(|day| Time::from_micros(day * DAY_MICROS).to_string().chars().take(10).collect());
        Ok(RunSum {
            r#type: "run_sum",
            day,
            deployment_name: key.deployment.as_deref().map(name).transpose()?.flatten(),
            deployment_id: key.deployment.map(DeploymentId::trusted),
            agent_id: key.agent.map(AgentId::trusted),
            model: key.model,
            runs: self.runs,
            tokens: self.tokens,
            cost: self.nanos.map(Cost::from_nanos),
            active_seconds: seconds(self.active_micros),
            duration_seconds: seconds(self.duration_micros),
            longest_seconds: seconds(self.longest_micros),
        })
    }
}

/// The name of a deployment, which is read once.
fn name(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    names: &mut HashMap<String, Option<String>>,
    id: &str,
) -> Result<Option<String>> {
    if let Some(known) = names.get(id) {
        return Ok(known.clone());
    }
    let sql = "SELECT name FROM deployments WHERE workspace_id = $1 AND id = $2";
    let found = tx.one(sql, vals![workspace, id], |row| row.text(0))?;
    names.insert(id.to_owned(), found.clone());
    Ok(found)
}
