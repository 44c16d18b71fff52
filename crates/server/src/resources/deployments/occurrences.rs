//! The audit of a deployment: every occurrence of its schedules in a range, each with its run or with the reason why it has
//! none. Occurrences are computed, not stored; the store holds runs, gaps, and what counted when.

use std::collections::HashMap;

use axum::extract::State as AppState;
use jiff::Timestamp;
use rota_api::{
    Time,
    deployment::DeploymentRun,
    id::WorkspaceId,
    occurrence::{AuditedAttempt, AuditedOccurrence, OccurrenceOutcome as Outcome, OccurrenceReason as Reason},
    session_retry::Followed,
};

use super::{again, standing};
use crate::{
    app::App,
    db::{Row, Tx, vals},
    error::{Error, Result},
    limits::{MAX_BACKFILL, MAX_BACKFILL_LOOKED, MAX_OCCURRENCES_FILTERED, OCCURRENCE_SPANS, OVERLAPPING_GAPS},
    page::{Order, Page, Paging},
    request::{Caller, Json, PathAndQuery},
    resources::{deployment_runs, run_outcomes::lateness_ms},
    scheduler::{
        cron::Cron,
        pending::Pending,
        settle::State,
        spans::{Occurrence, Place, Span, walk},
    },
};

/// `GET /rota/v1/deployments/{deployment_id}/occurrences`: newest first. A page looks at a bounded number of occurrences and
/// changes of the schedule, so one that is filtered may hold fewer than `limit`, or none, and still have a next page.
pub async fn list(
    AppState(app): AppState<App>,
    caller: Caller,
    PathAndQuery(id, query): PathAndQuery<String>,
) -> Result<Json<Page<AuditedOccurrence>>> {
    let from = query.time("from")?.map_or(Timestamp::MIN, Time::timestamp);
    let to = query.time("to")?;
    let outcome = query.one_of("outcome", Outcome::NAMES)?.and_then(Outcome::from_name);
    let paging = query.paging(100, 1000, Order::Desc)?;
    let after = paging.after().map(read_place).transpose()?;
    app.db
        .read(move |tx| {
            let now = tx.now();
            let until = to.map_or(now, |to| to.plus_micros(-1)).timestamp();
            let begin = after.unwrap_or(Place { until, seq: i64::MAX });
            page(tx, &caller.workspace, &id, from, begin, outcome, &paging)
        })
        .await
        .map(Json)
}

/// The occurrences from `from` to before `to` that were passed over, oldest first.
///
/// # Errors
/// 404 when there is no such deployment, 400 when there are too many of them, or too many to look through.
pub(super) fn passed_over(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<Time>> {
    let standing = Standing::find(tx, workspace, id)?;
    let now = tx.now();
    let until = Time::from(to).plus_micros(-1).min(now).timestamp();
    let mut place = Some(Place { until, seq: i64::MAX });
    let (mut passed, mut looked) = (Vec::new(), 0);
    while let Some(begin) = place {
        let spans = spans(tx, id, begin)?;
        let more = spans.len() as i64 == OCCURRENCE_SPANS;
        let (found, next) = walk(&spans, begin, from, now.timestamp(), MAX_OCCURRENCES_FILTERED, more);
        let record = Record::find(tx, workspace, id, &found)?;
        looked += found.len();
        let audited = found.into_iter().map(|occurrence| standing.audit(&record, occurrence, now));
        let skipped = audited.filter(|audited| audited.outcome == Outcome::Skipped);
        passed.extend(skipped.map(|audited| audited.scheduled_at));
        if passed.len() > MAX_BACKFILL || looked > MAX_BACKFILL_LOOKED {
            return Err(Error::invalid(format_args!(
                "to: a backfill looks through at most {MAX_BACKFILL_LOOKED} occurrences, of which at most {MAX_BACKFILL} may \
                 have been passed over; ask for a shorter range"
            )));
        }
        place = next;
    }
    passed.sort_unstable();
    passed.dedup();
    Ok(passed)
}

/// The occurrences before and after `at`, which is one, by the schedule that counted then.
pub(super) fn around(tx: &mut Tx<'_>, id: &str, at: Time) -> Result<(Option<Time>, Option<Time>)> {
    let (at, place) = (at.timestamp(), Place { until: at.timestamp(), seq: i64::MAX });
    let spans = spans(tx, id, place)?;
    let (found, _) = walk(&spans, place, at, tx.now().timestamp(), 1, false);
    let seq = found.first().map(|occurrence| occurrence.next.seq);
    let cron = spans.iter().find(|span| Some(span.seq) == seq).and_then(|span| span.cron.as_ref());
    Ok(cron.map_or((None, None), |cron| (cron.prev(at).map(Time::from), cron.next(at).map(Time::from))))
}

/// A place as it stands in a cursor: `microseconds.seq`.
fn read_place(key: &str) -> Result<Place> {
    let place = key.split_once('.').and_then(|(until, seq)| {
        let micros = until.parse().ok()?;
        let until = Time::from_micros(micros);
        (until.micros() == micros).then_some(Place { until: until.timestamp(), seq: seq.parse().ok()? })
    });
    place.ok_or_else(|| Error::invalid("page: Invalid page cursor."))
}

fn write_place(place: Place) -> String {
    format!("{}.{}", Time::from(place.until).micros(), place.seq)
}

fn page(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    from: Timestamp,
    begin: Place,
    outcome: Option<Outcome>,
    paging: &Paging,
) -> Result<Page<AuditedOccurrence>> {
    // What the deployment says is read first: what is settled by then has its run or its gap in the store.
    let standing = Standing::find(tx, workspace, id)?;
    let spans = spans(tx, id, begin)?;
    let from = standing.history_from.map_or(from, |mark| from.max(mark.plus_micros(1).timestamp()));
    let limit = paging.limit as usize;
    let most = if outcome.is_some() { MAX_OCCURRENCES_FILTERED } else { limit };
    let more = spans.len() as i64 == OCCURRENCE_SPANS;
    let (found, mut next) = walk(&spans, begin, from, tx.now().timestamp(), most, more);
    let record = Record::find(tx, workspace, id, &found)?;
    let mut data = Vec::new();
    for occurrence in found {
        let audited = standing.audit(&record, occurrence, tx.now());
        if outcome.is_some_and(|outcome| audited.outcome != outcome) {
            continue;
        }
        data.push(audited);
        if data.len() == limit {
            next = Some(occurrence.next);
            break;
        }
    }
    Ok(Page { data, next_page: next.map(|place| paging.cursor(write_place(place))) })
}

fn spans(tx: &mut Tx<'_>, id: &str, begin: Place) -> Result<Vec<Span>> {
    tx.all(
        "SELECT seq, since, cron, timezone, state, starts_at, ends_at FROM deployment_spans
         WHERE deployment_id = $1 AND seq <= $2 AND since < $3 ORDER BY seq DESC LIMIT $4",
        vals![id, begin.seq, Time::from(begin.until), OCCURRENCE_SPANS],
        |row| {
            let (seq, since) = (row.int("seq")?, row.time("since")?.timestamp());
            let cron = row.opt_text("cron")?.zip(row.opt_text("timezone")?);
            let cron = cron.and_then(|(cron, timezone)| Cron::parse(&cron, &timezone).ok());
            let window = standing::window(row)?;
            let cron = cron.map(|cron| cron.within(window));
            Ok(Span { seq, since, cron, state: row.name("state", State::from_name)? })
        },
    )
}

/// What the deployment itself says about its latest occurrences.
struct Standing {
    settled_at: Option<Time>,
    pending: Option<Pending>,
    /// What became of the occurrences up to then is no longer known.
    history_from: Option<Time>,
}

impl Standing {
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str) -> Result<Self> {
        let sql = "SELECT settled_at, pending, history_from FROM deployments WHERE workspace_id = $1 AND id = $2";
        let read = |row: &Row<'_>| {
            let (settled_at, history_from) = (row.opt_time("settled_at")?, row.opt_time("history_from")?);
            Ok(Self { settled_at, pending: row.opt_json("pending")?, history_from })
        };
        tx.one_or(sql, vals![workspace, id], read, || Error::not_found("Deployment", id))
    }

    fn audit(&self, record: &Record, occurrence: Occurrence, now: Time) -> AuditedOccurrence {
        let at = Time::from(occurrence.at);
        let mut audited = AuditedOccurrence {
            r#type: "deployment_occurrence",
            scheduled_at: at,
            outcome: Outcome::Unaccounted,
            reason: None,
            run_id: None,
            session_id: None,
            error: None,
            retry_at: None,
            lateness_ms: None,
            attempts: record.attempts(at),
        };
        if let Some(run) = record.runs.get(&at).and_then(|runs| runs.first()) {
            audited.outcome = if run.error.is_none() { Outcome::Ran } else { Outcome::Failed };
            audited.lateness_ms = lateness_ms(run);
            audited.run_id = Some(run.id.clone());
            audited.session_id.clone_from(&run.session_id);
            audited.error.clone_from(&run.error);
            return audited;
        }
        if let Some(pending) = self.pending.as_ref().filter(|pending| pending.scheduled_at == at) {
            audited.retry_at = pending.retry_at;
            audited.error.clone_from(&pending.error);
        }
        (audited.outcome, audited.reason) = self.without_run(record, at, occurrence.state, now);
        audited
    }

    fn without_run(&self, record: &Record, at: Time, state: State, now: Time) -> (Outcome, Option<Reason>) {
        let pending = self.pending.as_ref().filter(|pending| pending.scheduled_at == at);
        match state {
            State::Paused if at > now => (Outcome::Upcoming, Some(Reason::Paused)),
            State::Paused => (Outcome::Skipped, Some(Reason::Paused)),
            State::Archived => (Outcome::Skipped, Some(Reason::Archived)),
            State::Active => match (record.gap(at), pending) {
                (Some(reason), _) => (Outcome::Skipped, Some(reason)),
                (None, Some(Pending { retry_at: Some(_), .. })) => (Outcome::Pending, Some(Reason::Retrying)),
                (None, Some(_)) => (Outcome::Pending, Some(Reason::Queued)),
                (None, None) if at > now => (Outcome::Upcoming, None),
                (None, None) if self.settled_at.is_none_or(|settled| at > settled) => {
                    (Outcome::Pending, Some(Reason::Due))
                }
                (None, None) => (Outcome::Unaccounted, None),
            },
        }
    }
}

/// Occurrences that were passed over, from the first to the last.
struct Gap {
    first: Time,
    last: Time,
    reason: Reason,
}

/// What the store has on some occurrences.
struct Record {
    /// Those of each occurrence, in the order of its attempts.
    runs: HashMap<Time, Vec<DeploymentRun>>,
    /// What follows runs whose sessions died.
    followed: HashMap<String, Followed>,
    /// In the order of their ends.
    gaps: Vec<Gap>,
}

impl Record {
    fn find(tx: &mut Tx<'_>, workspace: &WorkspaceId, id: &str, of: &[Occurrence]) -> Result<Self> {
        let (Some(newest), Some(oldest)) = (of.first(), of.last()) else {
            return Ok(Self { runs: HashMap::new(), followed: HashMap::new(), gaps: Vec::new() });
        };
        let (newest, oldest) = (Time::from(newest.at), Time::from(oldest.at));
        let runs = deployment_runs::of_occurrences(tx, workspace, id, oldest, newest)?;
        let followed = again::followed(tx, id, oldest, newest)?;
        // Each gap ends with an occurrence, so there are no more of them than occurrences, but for the one that ends later.
        let gaps = tx.all(
            "SELECT first_at, last_at, reason FROM deployment_skips WHERE deployment_id = $1 AND last_at >= $2
             ORDER BY last_at LIMIT $3",
            vals![id, oldest, (of.len() + OVERLAPPING_GAPS) as i64],
            |row| {
                let (first, last) = (row.time("first_at")?, row.time("last_at")?);
                Ok(Gap { first, last, reason: row.name("reason", Reason::from_name)? })
            },
        )?;
        Ok(Self { runs, followed, gaps })
    }

    /// The runs of an occurrence.
    fn attempts(&self, at: Time) -> Vec<AuditedAttempt> {
        let attempt = |run: &DeploymentRun| AuditedAttempt {
            run_id: run.id.clone(),
            at: run.created_at,
            session_id: run.session_id.clone(),
            error: run.error.clone(),
            followed: self.followed.get(run.id.as_ref()).cloned(),
        };
        self.runs.get(&at).into_iter().flatten().map(attempt).collect()
    }

    /// Why an occurrence was passed over, if it was.
    fn gap(&self, at: Time) -> Option<Reason> {
        let first = self.gaps.partition_point(|gap| gap.last < at);
        let covers = self.gaps[first..].iter().take(OVERLAPPING_GAPS).find(|gap| gap.first <= at);
        covers.map(|gap| gap.reason)
    }
}
