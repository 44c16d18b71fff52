//! A past: many runs that are over, written into a server's store while the server is down.
//!
//! They are copies of runs that the server itself has made, each with its session and its events, at times of their own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rota_api::{
    Time,
    id::{EventId, Id, RunId, SessionId},
};
use rusqlite::{Connection, params};

/// Runs that serve as patterns.
const PATTERNS: i64 = 100;
/// Runs in one transaction.
const BATCH: usize = 10_000;
/// One session in this many has died.
const DIED: usize = 10_000;
/// From each run to the one before, in microseconds: a million are a month.
const APART_MICROS: i64 = 2_600_000;

/// A run that is over, but for its ids and times.
struct Pattern {
    workspace: String,
    run: String,
    session: String,
    events: Vec<(i64, String)>,
}

/// Adds `count` runs that happened before those in `store`. A server that uses it must be down.
pub fn add(store: &Path, count: usize) -> Result<()> {
    let mut connection = Connection::open(store)?;
    // What is lost when the machine fails now is only this benchmark.
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;")?;
    let first: i64 = connection.query_row("SELECT min(created_at) FROM deployment_runs", [], |row| row.get(0))?;
    let patterns = patterns(&connection)?;
    ensure!(!patterns.is_empty(), "there is no run yet to take as a pattern");
    let begin = first - APART_MICROS * count as i64;
    for batch in (0..count).step_by(BATCH) {
        let tx = connection.transaction()?;
        for number in batch..count.min(batch + BATCH) {
            let at = Time::from_micros(begin + APART_MICROS * number as i64);
            let stop_reason = if number % DIED == 0 { "retries_exhausted" } else { "end_turn" };
            insert(&tx, &patterns[number % patterns.len()], at, stop_reason)?;
        }
        tx.commit()?;
    }
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); ANALYZE;")?;
    Ok(())
}

fn patterns(connection: &Connection) -> Result<Vec<Pattern>> {
    let mut runs = connection.prepare(
        "SELECT workspace_id, id, session_id FROM deployment_runs
         WHERE session_id IS NOT NULL AND scheduled_at IS NOT NULL LIMIT ?1",
    )?;
    let mut events = connection.prepare("SELECT place, body FROM session_inputs WHERE session_id = ?1")?;
    let found = runs.query_map([PATTERNS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    found
        .map(|ids| {
            let (workspace, run, session): (String, String, String) = ids?;
            let events = events.query_map([&session], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let events = events.map(|event| event.map_err(Into::into).and_then(without_id)).collect::<Result<_>>()?;
            Ok(Pattern { workspace, run, session, events })
        })
        .collect()
}

/// The text of an event after its id, which comes first.
fn without_id((seq, body): (i64, String)) -> Result<(i64, String)> {
    let rest = body.strip_prefix("{\"id\":\"").and_then(|body| body.split_once('"'));
    Ok((seq, rest.context("an event begins with its id")?.1.to_owned()))
}

fn insert(connection: &Connection, pattern: &Pattern, at: Time, stop_reason: &str) -> Result<()> {
    let (run, session) = (RunId::new(at).to_string(), SessionId::new(at).to_string());
    for (seq, rest) in &pattern.events {
        let body = format!("{{\"id\":\"{}\"{rest}", EventId::new(at));
        connection
            .prepare_cached(
                "INSERT INTO session_events (session_id, seq, type, body, processed_at)
                 SELECT ?1, place, type, ?2, ?3 FROM session_inputs WHERE session_id = ?4 AND place = ?5",
            )?
            .execute(params![session, body, at.micros(), pattern.session, seq])?;
    }
    connection
        .prepare_cached(
            "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, environment_id, deployment_id, title, metadata,
                 resources, vault_ids, outcomes, status, active_micros, next_seq, next_input, lease_epoch, created_at,
                 updated_at, run_id, stop_reason, stopped_at)
             SELECT ?1, workspace_id, agent_id, agent_version, environment_id, deployment_id, title, metadata, resources,
                 vault_ids, outcomes, 'idle', 1000000, next_input, 1, 1, ?2, ?2, ?5, ?6, ?2
             FROM sessions WHERE workspace_id = ?3 AND id = ?4",
        )?
        .execute(params![session, at.micros(), pattern.workspace, pattern.session, run, stop_reason])?;
    connection
        .prepare_cached(
            "INSERT INTO deployment_runs (id, workspace_id, deployment_id, agent_id, agent_version, session_id, scheduled_at,
                 created_at)
             SELECT ?1, workspace_id, deployment_id, agent_id, agent_version, ?2, ?3, ?3 FROM deployment_runs
             WHERE workspace_id = ?4 AND id = ?5",
        )?
        .execute(params![run, session, at.micros(), pattern.workspace, pattern.run])?;
    Ok(())
}
