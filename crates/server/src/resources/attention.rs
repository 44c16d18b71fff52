//! What needs somebody now, in one list.

use axum::extract::State;
use rota_api::{
    Time,
    deployment::PausedReason,
    id::WorkspaceId,
    listed_run::{Attention, AttentionItem, AttentionKind},
    policy::{PausedByPolicy, Spend},
};

use crate::{
    app::App,
    db::{Row, Tx, Val, vals},
    error::Result,
    limits::{MAX_ATTENTION, MISSED_ATTENTION_MICROS},
    request::{Caller, Json, Query},
    resources::sessions::Waiting,
    scheduler::{
        pending::Pending,
        spend::{self, Period, Spent},
    },
};

/// `GET /rota/v1/attention`.
pub async fn list(State(app): State<App>, caller: Caller, query: Query) -> Result<Json<Attention>> {
    query.finish()?;
    app.db.read(move |tx| all(tx, &caller.workspace)).await.map(Json)
}

fn all(tx: &mut Tx<'_>, workspace: &WorkspaceId) -> Result<Attention> {
    let now = tx.now();
    let missed_since = now.plus_micros(-MISSED_ATTENTION_MICROS);
    let mut attention = Attention { data: Vec::new(), is_cut: false };
    let mut add = |sql: &str, params: &[Val<'_>], item: fn(&Row<'_>) -> Result<Option<AttentionItem>>| -> Result<()> {
        let mut found = tx.all(&format!("{sql} LIMIT {}", MAX_ATTENTION + 1), params, item)?;
        attention.is_cut |= found.len() as i64 > MAX_ATTENTION;
        found.truncate(MAX_ATTENTION as usize);
        attention.data.extend(found.into_iter().flatten());
        Ok(())
    };
    add(WAITING, vals![workspace], waiting)?;
    add(FAILING, vals![workspace], failing)?;
    add(MISSED, vals![workspace, missed_since], missed)?;
    add(MISSED_STARTS, vals![workspace, missed_since], missed_start)?;
    add(STOPPED, vals![workspace], stopped)?;
    add(SPENDING, vals![workspace, spend::first_of_month(now), spend::day(now)], spending)?;
    add(SILENT, vals![workspace], silent)?;
    add(WEBHOOKS, vals![workspace], webhook)?;
    attention.data.sort_by_key(|item| item.since);
    Ok(attention)
}

fn item(kind: AttentionKind, since: Time, message: String) -> AttentionItem {
    AttentionItem {
        r#type: "attention_item",
        kind,
        since,
        message,
        deployment_id: None,
        deployment_name: None,
        run_id: None,
        session_id: None,
        webhook_endpoint_id: None,
        waiting_on: Vec::new(),
        failures: None,
    }
}

/// Also sessions that no deployment started.
const WAITING: &str = "SELECT s.id, s.run_id, s.deployment_id, d.name, s.stopped_at, s.waiting_on FROM sessions s
    LEFT JOIN deployments d ON d.workspace_id = s.workspace_id AND d.id = s.deployment_id
    WHERE s.workspace_id = $1 AND s.stop_reason = 'requires_action' AND s.stopped_at IS NOT NULL";

fn waiting(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    let waiting: Vec<Waiting> = row.opt_json("waiting_on")?.unwrap_or_default();
    if waiting.is_empty() {
        return Ok(None);
    }
    let for_human = waiting.iter().any(|waiting| waiting.for_.is_of_a_human());
    let message = if for_human { "waits until calls are allowed or denied" } else { "waits for the results of calls" };
    Ok(Some(AttentionItem {
        session_id: Some(row.id("id")?),
        run_id: row.opt_id("run_id")?,
        deployment_id: row.opt_id("deployment_id")?,
        deployment_name: row.opt_text("name")?,
        waiting_on: waiting.into_iter().map(Into::into).collect(),
        ..item(AttentionKind::Waiting, row.time("stopped_at")?, message.to_owned())
    }))
}

const FAILING: &str = "SELECT f.deployment_id, d.name, f.failures, f.since, f.run_id, f.message, r.session_id
    FROM deployment_failures f
    JOIN deployments d ON d.workspace_id = f.workspace_id AND d.id = f.deployment_id AND d.archived_at IS NULL
    LEFT JOIN deployment_runs r ON r.workspace_id = f.workspace_id AND r.id = f.run_id
    WHERE f.workspace_id = $1 ORDER BY f.since";

fn failing(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    Ok(Some(AttentionItem {
        deployment_id: Some(row.id("deployment_id")?),
        deployment_name: Some(row.text("name")?),
        run_id: row.opt_id("run_id")?,
        session_id: row.opt_id("session_id")?,
        failures: Some(row.int("failures")?),
        ..item(AttentionKind::Failing, row.time("since")?, row.text("message")?)
    }))
}

const MISSED: &str = "SELECT k.deployment_id, d.name, max(k.last_at) AS last_at FROM deployment_skips k
    JOIN deployments d ON d.workspace_id = k.workspace_id AND d.id = k.deployment_id
        AND d.archived_at IS NULL AND (d.last_run_at IS NULL OR d.last_run_at < k.last_at)
    WHERE k.workspace_id = $1 AND k.last_at >= $2 AND k.reason = 'missed'
    GROUP BY k.deployment_id, d.name";

fn missed(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    let message = "occurrences were missed, for the server was down or too busy, and it has not run since";
    Ok(Some(AttentionItem {
        deployment_id: Some(row.id("deployment_id")?),
        deployment_name: Some(row.text("name")?),
        ..item(AttentionKind::Missed, row.time("last_at")?, message.to_owned())
    }))
}

/// Starts that somebody planned for a time.
const MISSED_STARTS: &str = "SELECT p.deployment_id, d.name, max(p.at) AS last_at FROM planned_starts p
    JOIN deployments d ON d.workspace_id = p.workspace_id AND d.id = p.deployment_id AND d.archived_at IS NULL
    WHERE p.workspace_id = $1 AND p.at >= $2 AND p.state IN ('missed', 'skipped') AND p.state = 'missed'
    GROUP BY p.deployment_id, d.name";

fn missed_start(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    let message = "a planned start was missed, for the server was down or too busy";
    Ok(missed(row)?.map(|item| AttentionItem { message: message.to_owned(), ..item }))
}

/// Those that were paused by hand are not among what needs somebody.
const STOPPED: &str = r#"SELECT id, name, paused_reason, pending, updated_at FROM deployments
    WHERE workspace_id = $1 AND (paused_reason IS NOT NULL OR pending IS NOT NULL) AND archived_at IS NULL
        AND (paused_reason LIKE '%"error"%' OR pending LIKE '%"retry_at":"%')"#;

fn stopped(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    let paused: Option<PausedReason> = row.opt_json("paused_reason")?;
    let pending: Option<Pending> = row.opt_json("pending")?;
    let failed: Option<PausedByPolicy> =
        row.opt_text("paused_reason")?.and_then(|reason| serde_json::from_str(&reason).ok());
    let found = match (paused, pending) {
        (Some(PausedReason::Error { error }), _) => {
            let message = match &failed {
                Some(failed) => format!("paused after {} failed runs in a row: {}", failed.failures, failed.message),
                None => format!("paused by an error: {}", error.r#type.as_str()),
            };
            let (failures, run_id) = failed.map(|failed| (failed.failures, failed.run_id)).unzip();
            AttentionItem {
                failures,
                run_id: run_id.flatten(),
                ..item(AttentionKind::Paused, row.time("updated_at")?, message)
            }
        }
        (_, Some(Pending { scheduled_at, retry_at: Some(at), error, .. })) => {
            let error = error.map_or_else(String::new, |error| format!(": {}", error.message));
            item(AttentionKind::Retrying, scheduled_at, format!("tried again at {at}{error}"))
        }
        _ => return Ok(None),
    };
    let (id, name) = (row.id("id")?, row.text("name")?);
    Ok(Some(AttentionItem { deployment_id: Some(id), deployment_name: Some(name), ..found }))
}

/// Those that have spent 80 % of what they may: of a cent, eight million billionths of a dollar.
const SPENDING: &str = "SELECT * FROM (
         SELECT d.id, d.name, d.spend_day, d.spend_month,
             (SELECT CAST(coalesce(sum(s.nanos), 0) AS BIGINT) FROM deployment_spend s
                 WHERE s.deployment_id = d.id AND s.day >= $2 AND s.day <= $3) AS month,
             (SELECT CAST(coalesce(sum(s.nanos), 0) AS BIGINT) FROM deployment_spend s
                 WHERE s.deployment_id = d.id AND s.day = $3) AS today,
             (SELECT max(s.spent_at) FROM deployment_spend s WHERE s.deployment_id = d.id AND s.day >= $2 AND s.day <= $3) AS spent_at
         FROM deployments d
         WHERE d.workspace_id = $1 AND d.archived_at IS NULL AND (d.spend_day IS NOT NULL OR d.spend_month IS NOT NULL)
     ) AS spending WHERE spent_at IS NOT NULL AND (today >= spend_day * 8000000 OR month >= spend_month * 8000000)
     ORDER BY spent_at";

fn spending(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    let cents = |column| row.opt_int(column).map(|cents| cents.map(|cents| cents as u32));
    let spend = Spend { per_day_cents: cents("spend_day")?, per_month_cents: cents("spend_month")? };
    let spent = Spent { day: row.int("today")?, month: row.int("month")? };
    let (kind, period) = match spend::reached(&spend, spent) {
        Some(period) => (AttentionKind::SpendReached, period),
        None if spend::is_near(spend.per_month_cents, spent.month) => (AttentionKind::SpendNear, Period::Month),
        None => (AttentionKind::SpendNear, Period::Day),
    };
    let message = format!("has spent {}", spend::words(&spend, spent, period));
    Ok(Some(AttentionItem {
        deployment_id: Some(row.id("id")?),
        deployment_name: Some(row.text("name")?),
        ..item(kind, row.time("spent_at")?, message)
    }))
}

const SILENT: &str = "SELECT w.deployment_id, d.name, w.good_at FROM deployment_silence w
    JOIN deployments d ON d.workspace_id = w.workspace_id AND d.id = w.deployment_id AND d.archived_at IS NULL
    WHERE w.workspace_id = $1 AND w.silent_at IS NOT NULL ORDER BY w.good_at";

fn silent(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    let message = "too many of its intervals have passed and no run has come to a good end";
    Ok(Some(AttentionItem {
        deployment_id: Some(row.id("deployment_id")?),
        deployment_name: Some(row.text("name")?),
        ..item(AttentionKind::Silent, row.time("good_at")?, message.to_owned())
    }))
}

const WEBHOOKS: &str =
    "SELECT id, name, disabled_reason, coalesce(disabled_at, updated_at) AS disabled_at FROM webhook_endpoints
    WHERE workspace_id = $1 AND state = 'disabled' AND disabled_reason <> ''";

fn webhook(row: &Row<'_>) -> Result<Option<AttentionItem>> {
    let message = format!("endpoint \"{}\" is disabled: {}", row.text("name")?, row.text("disabled_reason")?);
    Ok(Some(AttentionItem {
        webhook_endpoint_id: Some(row.id("id")?),
        ..item(AttentionKind::WebhookDisabled, row.time("disabled_at")?, message)
    }))
}
