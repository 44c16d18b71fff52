//! What goes: what is older than it is kept, and neither runs nor waits.
//!
//! Each kind is walked along ids, which sort by their time, so many rows at a time and only as far as something can be old
//! enough. Whoever walks holds nothing meanwhile: what is found is looked at again by who removes it.

use rota_api::{
    Time,
    id::{self, AuditEventId, DeploymentId, EgressId, FileId, RunId, SessionId, WebhookEventId, WorkspaceId},
    retention::{RetentionKind, RetentionPreviewLine},
};

use crate::{
    config::RetentionConfig,
    db::{Row, Tx, Val, vals},
    error::Result,
    limits::{RETENTION_LOOK, RETENTION_PREVIEW_ROWS},
};

/// A day, in microseconds.
pub(super) const DAY: i64 = 86_400_000_000;

/// Where a walk goes on: behind this row.
pub type Place = (String, String);

/// Something that goes.
#[derive(Debug, Clone)]
pub struct Going {
    /// Its workspace; empty of what is the organization's.
    pub workspace: WorkspaceId,
    /// Its id, and what else its row is found by.
    pub place: Place,
}

/// A part of a walk.
#[derive(Debug)]
pub struct Looked {
    /// What goes of it.
    pub going: Vec<Going>,
    /// How many rows it had.
    pub rows: i64,
    /// Where the next part begins; `None` when there is none.
    pub next: Option<Place>,
}

/// Whose rows are looked at.
#[derive(Debug, Clone, Copy)]
pub enum Kept<'a> {
    /// Those of a workspace.
    In(&'a WorkspaceId),
    /// Those of all: of kinds that are walked all together.
    Everywhere,
}

/// That a session neither runs nor waits, of `s`.
const AT_REST: &str = "s.status IN ('idle', 'terminated') AND s.runnable_at IS NULL AND s.lease_owner IS NULL
    AND (s.waiting_on IS NULL OR s.status = 'terminated')";

/// When a session came to rest, of `s`; an older program did not write it down.
const RESTED_AT: &str = "coalesce(s.stopped_at,
    (SELECT e.processed_at FROM session_events e WHERE e.session_id = s.id ORDER BY e.seq DESC LIMIT 1), s.created_at)";

/// The settings that a row `x` of a workspace has, or one of a deployment.
const OF_WORKSPACE: &str = "LEFT JOIN retention rw ON rw.workspace_id = x.workspace_id AND rw.deployment_id = ''";
const OF_DEPLOYMENT: &str =
    "LEFT JOIN retention rd ON rd.workspace_id = x.workspace_id AND rd.deployment_id = x.deployment_id";

/// The last moment of which something is not kept any more, whose days are in `column`; NULL where all is kept. `$1` is what
/// the configuration says, `$2` is now.
fn until(column: &str, of_deployment: bool) -> String {
    let own = if of_deployment { format!("rd.{column}, ") } else { String::new() };
    format!("(CAST($2 AS BIGINT) - coalesce({own}rw.{column}, CAST($1 AS BIGINT)) * {DAY})")
}

/// The same for what is known of occurrences: the beginning of a day, so that it changes once a day.
fn history_until() -> String {
    format!("({} / {DAY} * {DAY})", until("runs_days", true))
}

/// A part of the rows of a kind, which has a place in a walk, a workspace and what tells whether it goes: `$3` is the workspace,
/// `$4` the place behind which it begins, `$5` where nothing is old enough, `$6` how many there are at most. Where a place is two
/// ids, `$7` is the other one of it.
fn part(kind: RetentionKind, of: Kept<'_>) -> &'static str {
    match (kind, of) {
        (RetentionKind::Sessions, _) => {
            "SELECT id, '' AS second, workspace_id, deployment_id FROM sessions
             WHERE workspace_id = $3 AND id > $4 AND id < $5 ORDER BY id LIMIT $6"
        }
        (RetentionKind::Outputs, _) => {
            "SELECT id, session_id AS second, workspace_id FROM files
             WHERE workspace_id = $3 AND id > $4 AND id < $5 AND output_path IS NOT NULL ORDER BY id LIMIT $6"
        }
        (RetentionKind::Runs, _) => {
            "SELECT id, '' AS second, workspace_id, deployment_id, session_id, scheduled_at, created_at FROM deployment_runs
             WHERE workspace_id = $3 AND id > $4 AND id < $5 ORDER BY id LIMIT $6"
        }
        (RetentionKind::Deliveries, Kept::In(_)) => {
            "SELECT event_id AS id, endpoint_id AS second, workspace_id, state, created_at FROM webhook_deliveries
             WHERE endpoint_id IN (SELECT id FROM webhook_endpoints WHERE workspace_id = $3)
                 AND (endpoint_id, event_id) > ($7, $4) AND event_id < $5 ORDER BY endpoint_id, event_id LIMIT $6"
        }
        (RetentionKind::Deliveries, Kept::Everywhere) => {
            "SELECT event_id AS id, endpoint_id AS second, workspace_id, state, created_at FROM webhook_deliveries
             WHERE CAST($3 AS TEXT) = '' AND (event_id, endpoint_id) > ($4, $7) AND event_id < $5
             ORDER BY event_id, endpoint_id LIMIT $6"
        }
        (RetentionKind::Egress, Kept::In(_)) => {
            "SELECT id, session_id AS second, workspace_id, started_at FROM egress
             WHERE workspace_id = $3 AND (session_id, id) > ($7, $4) AND id < $5 ORDER BY session_id, id LIMIT $6"
        }
        (RetentionKind::Egress, Kept::Everywhere) => {
            "SELECT id, session_id AS second, workspace_id, started_at FROM egress
             WHERE CAST($3 AS TEXT) = '' AND CAST($7 AS TEXT) IS NOT NULL AND id > $4 AND id < $5 ORDER BY id LIMIT $6"
        }
        (RetentionKind::Audit, Kept::In(_)) => {
            "SELECT id, '' AS second, workspace_id, created_at FROM audit
             WHERE workspace_id = $3 AND id > $4 AND id < $5 ORDER BY id LIMIT $6"
        }
        (RetentionKind::Audit, Kept::Everywhere) => {
            "SELECT id, '' AS second, coalesce(workspace_id, '') AS workspace_id, created_at FROM audit
             WHERE CAST($3 AS TEXT) = '' AND id > $4 AND id < $5 ORDER BY id LIMIT $6"
        }
    }
}

/// Whether the place of a kind in a walk is two ids.
fn is_pair(kind: RetentionKind) -> bool {
    matches!(kind, RetentionKind::Deliveries | RetentionKind::Egress)
}

/// The condition under which a row `x` of a kind goes, and the tables that it reads.
fn goes(kind: RetentionKind) -> (String, String) {
    let of_session = "LEFT JOIN sessions s ON s.workspace_id = x.workspace_id AND s.id =";
    match kind {
        RetentionKind::Sessions => (
            format!("{AT_REST} AND {RESTED_AT} <= {}", until("sessions_days", true)),
            format!("{of_session} x.id {OF_WORKSPACE} {OF_DEPLOYMENT}"),
        ),
        // Of a session that a deployment started its settings hold.
        RetentionKind::Outputs => (
            format!("{AT_REST} AND {RESTED_AT} <= {}", until("outputs_days", true)),
            format!(
                "{of_session} x.second {OF_WORKSPACE} {}",
                OF_DEPLOYMENT.replace("x.deployment_id", "s.deployment_id")
            ),
        ),
        RetentionKind::Runs => (
            format!(
                "x.created_at <= {} AND (x.scheduled_at IS NULL OR x.scheduled_at <= {})
                 AND (s.id IS NULL OR ({AT_REST}))
                 AND x.id < (SELECT max(n.id) FROM deployment_runs n WHERE n.deployment_id = x.deployment_id)",
                until("runs_days", true),
                history_until()
            ),
            format!("{of_session} x.session_id {OF_WORKSPACE} {OF_DEPLOYMENT}"),
        ),
        RetentionKind::Deliveries => (
            format!("x.state <> 'pending' AND x.created_at <= {}", until("deliveries_days", false)),
            OF_WORKSPACE.to_owned(),
        ),
        RetentionKind::Egress => (format!("x.started_at <= {}", until("egress_days", false)), OF_WORKSPACE.to_owned()),
        RetentionKind::Audit => {
            (format!("x.created_at <= CAST($2 AS BIGINT) - CAST($1 AS BIGINT) * {DAY}"), String::new())
        }
    }
}

/// What the configuration says of a kind.
fn configured(kind: RetentionKind, config: &RetentionConfig) -> Option<i64> {
    let days = match kind {
        RetentionKind::Sessions => config.sessions_days,
        RetentionKind::Outputs => config.outputs_days,
        RetentionKind::Runs => config.runs_days,
        RetentionKind::Deliveries => config.deliveries_days,
        RetentionKind::Egress => config.egress_days,
        RetentionKind::Audit => config.audit_days,
    };
    days.map(i64::from)
}

/// The least id of what cannot be old enough: nothing is kept for less than a day.
fn newest(kind: RetentionKind, now: Time) -> String {
    let at = now.plus_micros(-DAY);
    match kind {
        RetentionKind::Sessions => id::floor::<SessionId>(at),
        RetentionKind::Outputs => id::floor::<FileId>(at),
        RetentionKind::Runs => id::floor::<RunId>(at),
        RetentionKind::Deliveries => id::floor::<WebhookEventId>(at),
        RetentionKind::Egress => id::floor::<EgressId>(at),
        RetentionKind::Audit => id::floor::<AuditEventId>(at),
    }
}

/// Whether anything of a kind goes at all, in a workspace or anywhere.
pub fn is_limited(tx: &mut Tx<'_>, kind: RetentionKind, of: Kept<'_>, config: &RetentionConfig) -> Result<bool> {
    if configured(kind, config).is_some() || kind == RetentionKind::Audit {
        return Ok(configured(kind, config).is_some());
    }
    let workspace = if let Kept::In(workspace) = of { workspace.as_ref() } else { "" };
    let own = if workspace.is_empty() { "CAST($1 AS TEXT) = ''" } else { "workspace_id = $1" };
    let sql = format!("SELECT 1 FROM retention WHERE {own} AND {}_days IS NOT NULL LIMIT 1", kind.as_str());
    Ok(tx.one(&sql, vals![workspace], |_| Ok(()))?.is_some())
}

/// Workspaces behind `after` in which something goes, some of them.
pub fn workspaces(tx: &mut Tx<'_>, config: &RetentionConfig, after: &str) -> Result<Vec<WorkspaceId>> {
    let all = [RetentionKind::Sessions, RetentionKind::Outputs, RetentionKind::Runs]
        .iter()
        .any(|kind| configured(*kind, config).is_some());
    tx.all(
        "SELECT id FROM workspaces WHERE id > $1 AND (
             CAST($2 AS BIGINT) = 1 OR EXISTS (SELECT 1 FROM retention r WHERE r.workspace_id = workspaces.id))
         ORDER BY id LIMIT $3",
        vals![after, i64::from(all), RETENTION_LOOK],
        |row| row.id(0),
    )
}

/// Looks at the rows of a kind behind `after`: some of them.
pub fn look(
    tx: &mut Tx<'_>,
    kind: RetentionKind,
    of: Kept<'_>,
    config: &RetentionConfig,
    after: &Place,
) -> Result<Looked> {
    let (part, (goes, tables)) = (part(kind, of), goes(kind));
    let sql = format!(
        "SELECT x.id, x.second, x.workspace_id, CASE WHEN {goes} THEN 1 ELSE 0 END AS goes FROM ({part}) x {tables}"
    );
    let workspace = if let Kept::In(workspace) = of { workspace.as_ref() } else { "" };
    let newest = newest(kind, tx.now());
    let of_part = vals![configured(kind, config), tx.now(), workspace, &after.0, &newest, RETENTION_LOOK];
    let mut params = of_part.to_vec();
    if is_pair(kind) {
        params.push(Val::from(after.1.as_str()));
    }
    let mut rows = tx.all(&sql, &params, |row| {
        let place = (row.text("id")?, row.opt_text("second")?.unwrap_or_default());
        Ok((Going { workspace: row.id("workspace_id")?, place }, row.int("goes")? == 1))
    })?;
    // The order of the part, whatever the joins have made of it.
    let by_second = is_pair(kind) && matches!(of, Kept::In(_));
    rows.sort_by(|(one, _), (other, _)| {
        let key = |going: &Going| {
            let (id, second) = going.place.clone();
            if by_second { (second, id) } else { (id, second) }
        };
        key(one).cmp(&key(other))
    });
    let count = rows.len() as i64;
    let next = rows.last().filter(|_| count == RETENTION_LOOK).map(|(last, _)| last.place.clone());
    let going = rows.into_iter().filter(|(_, goes)| *goes).map(|(going, _)| going).collect();
    Ok(Looked { going, rows: count, next })
}

/// Whether a session goes that was found before, or the outputs of one.
pub(super) fn still_goes(
    tx: &mut Tx<'_>,
    kind: RetentionKind,
    workspace: &WorkspaceId,
    session: &str,
    config: &RetentionConfig,
) -> Result<bool> {
    tx.lock("sessions WHERE workspace_id = $1 AND id = $2", vals![workspace, session])?;
    let (goes, tables) = goes(kind);
    let sql = format!(
        "SELECT 1 FROM (SELECT id, id AS second, workspace_id, deployment_id FROM sessions
             WHERE workspace_id = $3 AND id = $4) x {tables} WHERE {goes}"
    );
    let params = vals![configured(kind, config), tx.now(), workspace, session];
    Ok(tx.one(&sql, params, |_| Ok(()))?.is_some())
}

/// A deployment of which more is known than is kept, and after when its history is to begin.
#[derive(Debug, Clone)]
pub struct History {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The end of what goes.
    pub mark: Time,
}

/// Deployments of a workspace behind `after` of which more is known than is kept: some of those that there are. Where to go
/// on.
pub fn histories(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    config: &RetentionConfig,
    after: &str,
) -> Result<(Vec<History>, Option<String>)> {
    let until = history_until();
    let sql = format!(
        "SELECT x.id, x.until, CASE WHEN x.until > 0 AND (
                 (SELECT min(n.scheduled_at) FROM deployment_runs n WHERE n.deployment_id = x.id AND n.scheduled_at IS NOT NULL)
                     <= x.until
                 OR (SELECT k.last_at FROM deployment_skips k WHERE k.deployment_id = x.id ORDER BY k.last_at LIMIT 1) <= x.until
                 OR (SELECT p.since FROM deployment_spans p WHERE p.deployment_id = x.id ORDER BY p.seq LIMIT 1 OFFSET 1)
                     <= x.until)
             AND x.until > coalesce(x.history_from, 0) THEN 1 ELSE 0 END AS goes
         FROM (SELECT x.id, x.history_from, {until} AS until
             FROM (SELECT id, id AS deployment_id, workspace_id, history_from FROM deployments
                 WHERE workspace_id = $3 AND id > $4 ORDER BY id LIMIT $5) x {OF_WORKSPACE} {OF_DEPLOYMENT}) x
         ORDER BY x.id"
    );
    let params = vals![configured(RetentionKind::Runs, config), tx.now(), workspace, after, RETENTION_LOOK];
    let read = |row: &Row<'_>| {
        let goes = row.int("goes")? == 1;
        let mark = Time::from_micros(row.opt_int("until")?.unwrap_or_default());
        Ok((History { deployment: row.id("id")?, mark }, goes))
    };
    let rows = tx.all(&sql, params, read)?;
    let next = rows.last().filter(|_| rows.len() as i64 == RETENTION_LOOK).map(|(last, _)| last.deployment.to_string());
    Ok((rows.into_iter().filter(|(_, goes)| *goes).map(|(history, _)| history).collect(), next))
}

/// How much of a workspace goes, by kind. It looks at so many rows of each.
pub fn preview(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    config: &RetentionConfig,
) -> Result<Vec<RetentionPreviewLine>> {
    let of = Kept::In(workspace);
    RetentionKind::ALL.iter().map(|kind| count(tx, *kind, of, config, RETENTION_PREVIEW_ROWS)).collect()
}

/// How much of a kind goes. It looks at no more rows once it has looked at `most`.
pub fn count(
    tx: &mut Tx<'_>,
    kind: RetentionKind,
    of: Kept<'_>,
    config: &RetentionConfig,
    most: i64,
) -> Result<RetentionPreviewLine> {
    let is_limited = is_limited(tx, kind, of, config)?;
    let (mut count, mut rows, mut after) = (0, 0, is_limited.then(Place::default));
    while let Some(at) = after.take().filter(|_| rows < most) {
        let looked = look(tx, kind, of, config, &at)?;
        count += looked.going.len() as i64;
        rows += looked.rows;
        after = looked.next;
    }
    Ok(RetentionPreviewLine { kind, count, is_cut: rows >= most })
}
