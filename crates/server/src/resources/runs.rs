//! All runs of a workspace with what became of each, and the occurrences that have none: one list, newest first.

use axum::extract::State;
use rota_api::{
    Time,
    agent::AgentReference,
    id::{self, AgentId, DeploymentId, RunId, WorkspaceId},
    listed_run::{Cost, ListedRun, ListedSession, RunState, RunTrigger},
    occurrence::OccurrenceReason,
    policy::InterruptedBy,
    session::{SessionUsage, Status},
};

use crate::{
    app::App,
    db::{Row, Select, Tx, Val, vals},
    error::{Error, Result},
    limits::PAGE_BYTES,
    page::{Order, Page, Paging, Rows},
    request::{Caller, Json, Query},
    resources::{
        deployments::again::followed_of_row,
        sessions::{self, Waiting, status::TERMINATED},
    },
};

/// `GET /rota/v1/runs`, newest first.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Page<ListedRun>>> {
    let wanted = Wanted {
        state: query.one_of("state", RunState::NAMES)?.and_then(RunState::from_name),
        trigger: query.one_of("trigger", RunTrigger::NAMES)?.and_then(RunTrigger::from_name),
        deployment: query.id::<DeploymentId>("deployment_id")?.map(str::to_owned),
        agent: query.id::<AgentId>("agent_id")?.map(str::to_owned),
        from: query.time("from")?,
        to: query.time("to")?,
    };
    let paging = query.paging(20, 100, Order::Desc)?;
    let after = paging.after().map(Place::read).transpose()?;
    app.db.read(move |tx| page(tx, &caller.workspace, &wanted, after.as_ref(), &paging)).await.map(Json)
}

/// Which entries are asked for.
struct Wanted {
    state: Option<RunState>,
    trigger: Option<RunTrigger>,
    deployment: Option<String>,
    agent: Option<String>,
    from: Option<Time>,
    to: Option<Time>,
}

/// The place of an entry: what has a run stands before what has none at the same time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: i64,
    has_run: bool,
    /// The run, the planned start, or the deployment.
    id: String,
}

impl Place {
    fn of(listed: &ListedRun) -> Self {
        let id = match (&listed.run_id, &listed.start_id) {
            (Some(run), _) => run.to_string(),
            (None, Some(start)) => start.to_string(),
            (None, None) => listed.deployment_id.to_string(),
        };
        Self { at: listed.at.micros(), has_run: listed.run_id.is_some(), id }
    }

    fn write(&self) -> String {
        format!("{}.{}.{}", self.at, i64::from(self.has_run), self.id)
    }

    fn read(key: &str) -> Result<Self> {
        let mut parts = key.splitn(3, '.');
        let place = (|| {
            let (at, has_run, id) = (parts.next()?.parse().ok()?, parts.next()? == "1", parts.next()?.to_owned());
            Some(Self { at, has_run, id })
        })();
        place.ok_or_else(|| Error::invalid("page: Invalid page cursor."))
    }

    /// Runs after this place have lesser ids.
    fn runs_below(&self) -> String {
        if self.has_run { self.id.clone() } else { id::floor::<RunId>(Time::from_micros(self.at)) }
    }
}

fn page(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    wanted: &Wanted,
    after: Option<&Place>,
    paging: &Paging,
) -> Result<Page<ListedRun>> {
    let (mut found, mut more) = (Vec::new(), false);
    for source in sources(wanted) {
        let Rows { rows, more: cut } = match source {
            Source::Runs { from, key, only } => {
                let mut select = Select::new(&format!("{COLUMNS} {from} AND {only}"), workspace);
                wanted.narrow(&mut select, key);
                let below = after.map(Place::runs_below);
                let bounds = (paging.limit, PAGE_BYTES);
                select.rows(tx, key, Order::Desc, below.as_deref().map(Val::Text), bounds, run_of_row)?
            }
            Source::Skips { only } => skips(tx, workspace, wanted, after, only, paging.limit)?,
            Source::Starts { only } => starts(tx, workspace, wanted, after, only, paging.limit)?,
        };
        more |= cut;
        found.extend(rows);
    }
    found.sort_by_cached_key(|listed| std::cmp::Reverse(Place::of(listed)));
    let Rows { rows: data, more } = Rows::new(found, paging.limit, more);
    let next_page = data.last().filter(|_| more).map(|last| paging.cursor(Place::of(last).write()));
    Ok(Page { data, next_page })
}

/// Where entries come from. Each source has them in the order of the list.
enum Source {
    /// Runs, `from` tables that are walked along `key`.
    Runs { from: &'static str, key: &'static str, only: &'static str },
    /// Occurrences without a run.
    Skips { only: &'static str },
    /// Planned starts without one, which are for no occurrence.
    Starts { only: &'static str },
}

const COLUMNS: &str = "SELECT r.id, t.kind, t.start_id, t.rerun_of,
    (SELECT again.run_id FROM run_starts again WHERE again.rerun_of = r.id) AS rerun_by, r.deployment_id, coalesce(d.name, '') AS name, r.agent_id, r.agent_version, r.session_id, r.error,
    r.scheduled_at, r.created_at, coalesce(v.model, '') AS model, s.id AS found, s.status, s.lease_owner, s.stop_reason, s.stopped_at,
    s.error AS session_error, s.waiting_on, s.usage, s.cost_nanos, s.active_micros, s.archived_at, s.interrupted_by,
    s.created_at AS session_created_at, r.attempt, r.retry_of, x.pending AS retry_pending, x.reason AS retry_reason, x.next_run_id";

const BY_RUN: &str = "FROM deployment_runs r
    LEFT JOIN sessions s ON s.workspace_id = r.workspace_id AND s.id = r.session_id
    LEFT JOIN deployments d ON d.workspace_id = r.workspace_id AND d.id = r.deployment_id
    LEFT JOIN agent_versions v ON v.agent_id = r.agent_id AND v.version = r.agent_version
    LEFT JOIN session_retries x ON x.run_id = r.id
    LEFT JOIN run_starts t ON t.run_id = r.id
    WHERE r.workspace_id = $1";

/// So is what was started otherwise than by hand or by the schedule.
const BY_START: &str = "FROM run_starts t
    JOIN deployment_runs r ON r.workspace_id = t.workspace_id AND r.id = t.run_id
    LEFT JOIN sessions s ON s.workspace_id = r.workspace_id AND s.id = r.session_id
    LEFT JOIN deployments d ON d.workspace_id = r.workspace_id AND d.id = r.deployment_id
    LEFT JOIN agent_versions v ON v.agent_id = r.agent_id AND v.version = r.agent_version
    LEFT JOIN session_retries x ON x.run_id = r.id
    WHERE t.workspace_id = $1";

/// What is true of few sessions is found by the index of these.
const BY_SESSION: &str = "FROM sessions s
    JOIN deployment_runs r ON r.workspace_id = s.workspace_id AND r.id = s.run_id
    LEFT JOIN deployments d ON d.workspace_id = r.workspace_id AND d.id = r.deployment_id
    LEFT JOIN agent_versions v ON v.agent_id = r.agent_id AND v.version = r.agent_version
    LEFT JOIN session_retries x ON x.run_id = r.id
    LEFT JOIN run_starts t ON t.run_id = r.id
    WHERE s.workspace_id = $1";

/// What is at work is found by the index of `runnable_at`, and failures by those of their columns: they are few among many.
fn sources(wanted: &Wanted) -> Vec<Source> {
    let runs = |only| Source::Runs { from: BY_RUN, key: "r.id", only };
    let sessions = |only| Source::Runs { from: BY_SESSION, key: "s.run_id", only };
    let mut sources = match wanted.state {
        None => vec![runs("true"), Source::Skips { only: "true" }, Source::Starts { only: "true" }],
        Some(RunState::Queued) => {
            vec![sessions("s.runnable_at IS NOT NULL AND s.status = 'running' AND s.lease_owner IS NULL")]
        }
        Some(RunState::Working) => {
            vec![sessions("s.runnable_at IS NOT NULL AND s.status = 'running' AND s.lease_owner IS NOT NULL")]
        }
        Some(RunState::Retrying) => vec![sessions("s.runnable_at IS NOT NULL AND s.status = 'rescheduling'")],
        Some(RunState::Waiting) => vec![sessions("s.stop_reason = 'requires_action'")],
        Some(RunState::Done) => vec![runs(
            "s.status IN ('idle', 'terminated') AND coalesce(s.stop_reason, 'end_turn') IN ('end_turn', 'refusal')
                 AND s.interrupted_by IS NULL",
        )],
        Some(RunState::Failed) => vec![
            runs("r.error IS NOT NULL"),
            sessions("s.stop_reason IN ('retries_exhausted', 'terminated') AND s.run_id IS NOT NULL"),
            sessions(
                "s.interrupted_by IS NOT NULL AND s.stop_reason IN ('end_turn', 'refusal') AND s.run_id IS NOT NULL",
            ),
        ],
        Some(RunState::Deleted) => vec![runs("r.session_id IS NOT NULL AND s.id IS NULL")],
        Some(RunState::Skipped) => {
            vec![Source::Skips { only: "k.reason <> 'missed'" }, Source::Starts { only: "p.state = 'skipped'" }]
        }
        Some(RunState::Missed) => {
            vec![Source::Skips { only: "k.reason = 'missed'" }, Source::Starts { only: "p.state = 'missed'" }]
        }
    };
    let Some(trigger) = wanted.trigger else { return sources };
    sources.retain(|source| match source {
        Source::Runs { .. } => true,
        Source::Skips { .. } => trigger == RunTrigger::Schedule,
        Source::Starts { .. } => matches!(trigger, RunTrigger::At | RunTrigger::Hook),
    });
    if !matches!(trigger, RunTrigger::Schedule | RunTrigger::Manual) {
        for source in &mut sources {
            if let Source::Runs { from, key, .. } = source {
                (*from, *key) = (BY_START, "t.run_id");
            }
        }
    }
    sources
}

impl Wanted {
    fn narrow(&self, select: &mut Select, key: &str) {
        select.text("r.deployment_id =", self.deployment.as_deref());
        select.text("r.agent_id =", self.agent.as_deref());
        match self.trigger {
            None => {}
            Some(RunTrigger::Schedule) => select.when(true, "r.scheduled_at IS NOT NULL AND t.kind IS NULL"),
            Some(RunTrigger::Manual) => {
                select.when(true, "r.scheduled_at IS NULL AND (t.kind IS NULL OR t.kind = 'manual')");
            }
            Some(other) => select.text("t.kind =", Some(other.as_str())),
        }
        select.text(&format!("{key} >="), self.from.map(id::floor::<RunId>));
        select.text(&format!("{key} <"), self.to.map(id::floor::<RunId>));
    }
}

fn run_of_row(row: &Row<'_>) -> Result<ListedRun> {
    let scheduled_at = row.opt_time("scheduled_at")?;
    let error = row.opt_json("error")?;
    let session = match row.opt_text("found")? {
        Some(_) => Some(session_of_row(row)?),
        None => None,
    };
    let state = match (&error, &session) {
        (Some(_), _) => RunState::Failed,
        (None, None) => RunState::Deleted,
        (None, Some(session)) => state(&Fares {
            status: session.status,
            stop_reason: session.stop_reason.as_deref(),
            has_runner: row.opt_text("lease_owner")?.is_some(),
            is_archived: row.opt_time("archived_at")?.is_some(),
            waits: !session.waiting_on.is_empty(),
            is_interrupted: session.interrupted_by.is_some(),
        }),
    };
    Ok(ListedRun {
        r#type: "listed_run",
        run_id: Some(row.id("id")?),
        start_id: row.opt_id("start_id")?,
        deployment_id: row.id("deployment_id")?,
        deployment_name: row.text("name")?,
        agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
        trigger: match row.opt_text("kind")? {
            Some(_) => row.name("kind", RunTrigger::from_name)?,
            None if scheduled_at.is_some() => RunTrigger::Schedule,
            None => RunTrigger::Manual,
        },
        rerun_of: row.opt_id("rerun_of")?,
        rerun_by: row.opt_id("rerun_by")?,
        scheduled_at,
        scheduled_until: None,
        at: row.time("created_at")?,
        state,
        reason: None,
        error,
        session,
        attempt: row.int("attempt")? as u32,
        retry_of: row.opt_id("retry_of")?,
        followed: followed_of_row(row)?,
    })
}

fn session_of_row(row: &Row<'_>) -> Result<ListedSession> {
    let status = sessions::stored_status(&row.text("status")?)?;
    let waiting: Vec<Waiting> = row.opt_json("waiting_on")?.unwrap_or_default();
    let active_seconds = row.int("active_micros")? as f64 / 1e6;
    let usage = SessionUsage { active_seconds, ..row.opt_json("usage")?.unwrap_or_default() };
    let stopped_at = row.opt_time("stopped_at")?.filter(|_| !matches!(status, Status::Running | Status::Rescheduling));
    let created_at = row.time("session_created_at")?;
    Ok(ListedSession {
        id: row.id("found")?,
        status,
        stop_reason: row.opt_text("stop_reason")?,
        error: row.opt_json("session_error")?,
        interrupted_by: row.opt_text("interrupted_by")?.and_then(|by| InterruptedBy::from_name(&by)),
        waits_for_human: waiting.iter().any(|waiting| waiting.for_.is_of_a_human()),
        waiting_on: waiting.into_iter().map(Into::into).collect(),
        stopped_at,
        duration_seconds: stopped_at.map(|at| at.seconds_since(created_at)),
        usage,
        cost: row.opt_int("cost_nanos")?.map(Cost::from_nanos),
        model: row.text("model")?,
    })
}

/// What a session does, as its row says.
#[allow(clippy::struct_excessive_bools, reason = "each is what one column says")]
pub struct Fares<'a> {
    /// Its status.
    pub status: Status,
    /// Why it stopped last.
    pub stop_reason: Option<&'a str>,
    /// Whether a runner has it.
    pub has_runner: bool,
    /// Whether it is archived.
    pub is_archived: bool,
    /// Whether it waits for answers.
    pub waits: bool,
    /// Whether a limit of its deployment's policy interrupted it.
    pub is_interrupted: bool,
}

/// How the session of a run fares. One that an older program brought to rest does not say why.
pub fn state(of: &Fares<'_>) -> RunState {
    let Fares { status, stop_reason, has_runner, is_archived, waits, is_interrupted } = *of;
    match (status, stop_reason) {
        (Status::Idle | Status::Terminated, _) if is_interrupted && !waits => RunState::Failed,
        (Status::Running, _) if has_runner => RunState::Working,
        (Status::Running, _) => RunState::Queued,
        (Status::Rescheduling, _) => RunState::Retrying,
        (_, Some("retries_exhausted" | TERMINATED)) => RunState::Failed,
        (_, Some("requires_action")) => RunState::Waiting,
        (Status::Terminated, None) if !is_archived => RunState::Failed,
        (_, None) if waits => RunState::Waiting,
        _ => RunState::Done,
    }
}

/// Rows of occurrences that did not fire and have no run, each of several in a row.
fn skips(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    wanted: &Wanted,
    after: Option<&Place>,
    only: &str,
    limit: i64,
) -> Result<Rows<ListedRun>> {
    // After a run come those of its own time and before.
    let (last_at, deployment) = match after {
        None => (i64::MAX, ""),
        Some(Place { at, has_run: true, .. }) => (at.saturating_add(1), ""),
        Some(Place { at, id, .. }) => (*at, id.as_str()),
    };
    let (from, to) = (wanted.from.map_or(i64::MIN, Time::micros), wanted.to.map_or(i64::MAX, Time::micros));
    let sql = format!(
        "SELECT k.deployment_id, d.name, d.agent_id, d.agent_version, k.first_at, k.last_at, k.reason
         FROM deployment_skips k JOIN deployments d ON d.workspace_id = k.workspace_id AND d.id = k.deployment_id
         WHERE k.workspace_id = $1 AND (k.last_at, k.deployment_id) < ($2, $3) AND k.last_at >= $4 AND k.last_at < $5
             AND (CAST($6 AS TEXT) IS NULL OR k.deployment_id = $6) AND (CAST($7 AS TEXT) IS NULL OR d.agent_id = $7)
             AND {only}
         ORDER BY k.last_at DESC, k.deployment_id DESC LIMIT $8"
    );
    let params = vals![
        workspace,
        last_at,
        deployment,
        from,
        to,
        wanted.deployment.as_deref(),
        wanted.agent.as_deref(),
        limit + 1
    ];
    Ok(Rows::new(tx.all(&sql, params, skip_of_row)?, limit, false))
}

fn skip_of_row(row: &Row<'_>) -> Result<ListedRun> {
    let (first, last) = (row.time("first_at")?, row.time("last_at")?);
    let reason = row.name("reason", OccurrenceReason::from_name)?;
    Ok(ListedRun {
        r#type: "listed_run",
        run_id: None,
        start_id: None,
        deployment_id: row.id("deployment_id")?,
        deployment_name: row.text("name")?,
        agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
        trigger: RunTrigger::Schedule,
        rerun_of: None,
        rerun_by: None,
        scheduled_at: Some(first),
        scheduled_until: (last != first).then_some(last),
        at: last,
        state: if reason == OccurrenceReason::Missed { RunState::Missed } else { RunState::Skipped },
        reason: Some(reason),
        error: None,
        session: None,
        attempt: 1,
        retry_of: None,
        followed: None,
    })
}

/// Rows of planned starts that have no run and never will, and are for no occurrence.
fn starts(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    wanted: &Wanted,
    after: Option<&Place>,
    only: &str,
    limit: i64,
) -> Result<Rows<ListedRun>> {
    let (at, id) = match after {
        None => (i64::MAX, ""),
        Some(Place { at, has_run: true, .. }) => (at.saturating_add(1), ""),
        Some(Place { at, id, .. }) => (*at, id.as_str()),
    };
    let (from, to) = (wanted.from.map_or(i64::MIN, Time::micros), wanted.to.map_or(i64::MAX, Time::micros));
    let sql = format!(
        "SELECT p.id, p.kind, p.at, p.state, p.reason, p.deployment_id, d.name, d.agent_id, d.agent_version
         FROM planned_starts p JOIN deployments d ON d.workspace_id = p.workspace_id AND d.id = p.deployment_id
         WHERE p.workspace_id = $1 AND (p.at, p.id) < ($2, $3) AND p.at >= $4 AND p.at < $5
             AND p.state IN ('missed', 'skipped') AND p.kind <> 'backfill'
             AND (CAST($6 AS TEXT) IS NULL OR p.deployment_id = $6) AND (CAST($7 AS TEXT) IS NULL OR d.agent_id = $7)
             AND (CAST($8 AS TEXT) IS NULL OR p.kind = $8) AND {only}
         ORDER BY p.at DESC, p.id DESC LIMIT $9"
    );
    let params = vals![
        workspace,
        at,
        id,
        from,
        to,
        wanted.deployment.as_deref(),
        wanted.agent.as_deref(),
        wanted.trigger.map(RunTrigger::as_str),
        limit + 1
    ];
    Ok(Rows::new(tx.all(&sql, params, start_of_row)?, limit, false))
}

fn start_of_row(row: &Row<'_>) -> Result<ListedRun> {
    let reason = row.name("reason", OccurrenceReason::from_name)?;
    Ok(ListedRun {
        r#type: "listed_run",
        run_id: None,
        start_id: Some(row.id("id")?),
        deployment_id: row.id("deployment_id")?,
        deployment_name: row.text("name")?,
        agent: AgentReference::new(row.id("agent_id")?, row.int("agent_version")?),
        trigger: row.name("kind", RunTrigger::from_name)?,
        rerun_of: None,
        rerun_by: None,
        scheduled_at: None,
        scheduled_until: None,
        at: row.time("at")?,
        state: if reason == OccurrenceReason::Missed { RunState::Missed } else { RunState::Skipped },
        reason: Some(reason),
        error: None,
        session: None,
        attempt: 1,
        retry_of: None,
        followed: None,
    })
}
