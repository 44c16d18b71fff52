//! How long things are kept: what goes, what stays, and what is said of it.

use std::collections::BTreeMap;

use rota_api::{Time, retention::RetentionKind};
use rota_server::{
    clock::Clock,
    config::{Config, RetentionConfig, Role},
    db::{Tx, Val},
    resources::retention::claim,
    retention::once,
};
use serde_json::{Value, json};

use crate::{
    brakes::rota_command,
    client::{Api, ENDPOINTS, invalid},
    files::files_of,
    given::{Parts, agent, environment, id, message, script},
    schedules::every,
    server::{Rota, disappears},
};

const RETENTION: &str = "/rota/v1/retention";
const DAY_SECONDS: i64 = 86_400;

/// A server that keeps things as `days` say.
async fn keeping(days: RetentionConfig) -> Rota {
    Rota::with(|config| config.retention = days).await
}

/// The same, on which sessions stay as they are created.
async fn keeping_without_engine(days: RetentionConfig) -> Rota {
    Rota::with(|config: &mut Config| {
        config.retention = days;
        config.engine.concurrency = 0;
        config.roles = [Role::Api, Role::Runner].into_iter().collect();
    })
    .await
}

/// Removes what is kept no longer. How much of each kind went.
async fn sweep(rota: &Rota) -> BTreeMap<&'static str, u64> {
    let removed = once(rota.server.app()).await.unwrap();
    removed.into_iter().filter(|(_, count)| *count > 0).map(|(kind, count)| (kind.as_str(), count)).collect()
}

/// How many rows a table has, of which the condition is true.
async fn rows(rota: &Rota, table: &'static str, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE {condition}");
    rota.server.app().db.read(move |tx| tx.one(&sql, &[], |row| row.int(0))).await.unwrap().unwrap()
}

async fn execute(rota: &Rota, sql: &str) -> usize {
    let sql = sql.to_owned();
    rota.server.app().db.write(move |tx: &mut Tx<'_>| tx.execute(&sql, &[])).await.unwrap()
}

async fn at_rest(api: &Api, session: &str) {
    api.once(&format!("/v1/sessions/{session}"), |session| session["status"] == "idle").await;
}

async fn is_there(api: &Api, session: &Value) -> bool {
    api.send(reqwest::Method::GET, &format!("/v1/sessions/{}", id(session)), None).await.status == 200
}

#[tokio::test]
async fn sessions_at_rest_go_with_all_that_is_theirs_and_those_that_wait_stay() {
    let rota = keeping(RetentionConfig { sessions_days: Some(7), ..RetentionConfig::default() }).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let asking = json!({"type": "agent_toolset_20260401",
        "default_config": {"enabled": true, "permission_policy": {"type": "always_ask"}}});
    let asking =
        Parts { agent: agent(api, json!({"tools": [asking]})).await, environment: environment(api, "e").await };
    let done = parts.session_with(api, script("echo kept > /mnt/session/outputs/kept.txt")).await;
    let never_ran = parts.session(api, json!({})).await;
    let waits = asking.session_with(api, script("echo asked for")).await;
    let file = files_of(api, id(&done), 1).await;
    for session in [&done, &waits] {
        at_rest(api, id(session)).await;
    }
    let folder = rota.server.app().sandboxes.backend().session_dir(id(&done)).unwrap();
    assert!(folder.exists());

    rota.advance_seconds(7 * DAY_SECONDS - 60);
    assert_eq!(sweep(&rota).await, BTreeMap::new());
    rota.advance_seconds(120);
    assert_eq!(sweep(&rota).await, BTreeMap::from([("sessions", 2)]));
    for (session, stays) in [(&done, false), (&never_ran, false), (&waits, true)] {
        assert_eq!(is_there(api, session).await, stays);
    }
    for table in ["session_events", "session_inputs", "session_outputs_due", "session_checkpoints", "files", "egress"] {
        assert_eq!(rows(&rota, table, &format!("session_id = '{}'", id(&done))).await, 0, "{table}");
    }
    api.get_refused(&format!("/v1/files/{}", id(&file[0]))).await;
    disappears(folder).await;
    rota.advance_seconds(365 * DAY_SECONDS);
    assert_eq!(sweep(&rota).await, BTreeMap::new(), "what waits is never too old");
    assert!(is_there(api, &waits).await);
}

#[tokio::test]
async fn a_session_that_works_stays_and_so_does_everything_where_nothing_is_set() {
    let rota = keeping_without_engine(RetentionConfig { sessions_days: Some(1), ..RetentionConfig::default() }).await;
    let parts = Parts::new(&rota.api).await;
    let works = parts.session_with(&rota.api, message("hi")).await;
    rota.advance_seconds(400 * DAY_SECONDS);
    assert_eq!(sweep(&rota).await, BTreeMap::new());
    assert!(is_there(&rota.api, &works).await);

    let rota = keeping_without_engine(RetentionConfig::default()).await;
    let parts = Parts::new(&rota.api).await;
    let old = parts.session(&rota.api, json!({})).await;
    rota.advance_seconds(400 * DAY_SECONDS);
    assert_eq!(sweep(&rota).await, BTreeMap::new());
    assert!(is_there(&rota.api, &old).await);
    let kept = rota.api.get(RETENTION).await;
    assert!(
        kept.as_object().unwrap().iter().all(|(name, value)| !name.ends_with("_days") || value.is_null()),
        "{kept}"
    );
}

#[tokio::test]
async fn a_session_with_more_events_than_one_transaction_removes_goes_whole() {
    let rota = keeping_without_engine(RetentionConfig { sessions_days: Some(1), ..RetentionConfig::default() }).await;
    let parts = Parts::new(&rota.api).await;
    let long = parts.session(&rota.api, json!({})).await;
    let short = parts.session(&rota.api, json!({})).await;
    let write = async |session: &Value, count: i64| {
        let at = rota.clock.now().micros();
        let sql = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO session_events (session_id, seq, type, body, processed_at)
             SELECT '{}', n.i, 'user.message', '{{}}', {at} FROM n",
            id(session)
        );
        assert_eq!(execute(&rota, &sql).await, count as usize);
    };
    write(&long, 1_700).await;
    write(&short, 3).await;
    rota.advance_seconds(DAY_SECONDS + 60);
    assert_eq!(sweep(&rota).await, BTreeMap::from([("sessions", 2)]));
    assert_eq!(rows(&rota, "session_events", "true").await, 0);
    assert_eq!(rows(&rota, "forgotten_sessions", "true").await, 0);
}

#[tokio::test]
async fn a_deployment_is_kept_as_it_says_itself_then_as_its_workspace_then_as_the_configuration() {
    let days = RetentionConfig { sessions_days: Some(30), audit_days: Some(365), ..RetentionConfig::default() };
    let rota = keeping(days).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (own, plain) = (parts.deployment(api, json!({})).await, parts.deployment(api, json!({})).await);
    let path = format!("/rota/v1/deployments/{}/retention", id(&own));
    let shown = api.get(RETENTION).await;
    assert_eq!((&shown["sessions_days"], &shown["audit_days"]), (&json!(30), &json!(365)));
    assert_eq!(api.get(&path).await["sessions_days"], 30);
    let shown = api.post(RETENTION, json!({"sessions_days": 10, "runs_days": 20})).await;
    assert_eq!((&shown["sessions_days"], &shown["runs_days"]), (&json!(10), &json!(20)));
    let shown = api.post(&path, json!({"sessions_days": 2})).await;
    assert_eq!((&shown["sessions_days"], &shown["runs_days"]), (&json!(2), &json!(20)));
    for (path, body, message) in [
        (RETENTION, json!({"sessions_days": 0}), "sessions_days: value must be greater than or equal to 1"),
        (RETENTION, json!({"egress_days": 31}), "egress_days: value must be less than or equal to 30"),
        (RETENTION, json!({"audit_days": 1}), "audit_days: Extra inputs are not permitted"),
        (path.as_str(), json!({"deliveries_days": 1}), "deliveries_days: Extra inputs are not permitted"),
    ] {
        assert_eq!(api.post_refused(path, body).await, invalid(message));
    }
    let run = async |deployment: &Value| {
        let run = api.call(&format!("/v1/deployments/{}/run", id(deployment))).await;
        at_rest(api, run["session_id"].as_str().unwrap()).await;
    };
    run(&own).await;
    run(&plain).await;
    let left = async || -> Vec<Value> {
        let sessions = api.all("/v1/sessions", 100).await;
        sessions.iter().map(|session| session["deployment_id"].clone()).collect()
    };
    rota.advance_seconds(3 * DAY_SECONDS);
    sweep(&rota).await;
    assert_eq!(left().await, [plain["id"].clone()]);
    assert_eq!(api.post(RETENTION, json!({"sessions_days": null})).await["sessions_days"], 30);
    rota.advance_seconds(20 * DAY_SECONDS);
    sweep(&rota).await;
    assert_eq!(left().await, [plain["id"].clone()], "the configuration holds again");
    rota.advance_seconds(8 * DAY_SECONDS);
    sweep(&rota).await;
    assert_eq!(left().await, [] as [Value; 0]);
}

#[tokio::test]
async fn outputs_can_go_before_their_session() {
    let rota = keeping(RetentionConfig { outputs_days: Some(3), ..RetentionConfig::default() }).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, script("echo kept > /mnt/session/outputs/kept.txt")).await;
    let file = files_of(api, id(&session), 1).await;
    let upload = crate::files::upload(api, "mine.txt", b"mine").await;
    at_rest(api, id(&session)).await;
    rota.advance_seconds(3 * DAY_SECONDS + 60);
    assert_eq!(sweep(&rota).await, BTreeMap::from([("outputs", 1)]));
    api.get_refused(&format!("/v1/files/{}", id(&file[0]))).await;
    assert!(is_there(api, &session).await);
    assert_eq!(api.get(&format!("/v1/files/{}", id(&upload))).await["filename"], "mine.txt", "an upload is no output");
}

/// Lets the scheduler look at each of the next minutes.
async fn minutes(rota: &Rota, count: i64) {
    for _ in 0..count {
        let next = 60 - rota.clock.now().micros() / 1_000_000 % 60;
        rota.advance_seconds(next);
        rota.tick().await;
    }
}

/// The outcomes of all occurrences of a deployment up to now, newest first, with their times.
async fn outcomes(api: &Api, deployment: &Value) -> Vec<(String, String)> {
    let all = api.all(&format!("/rota/v1/deployments/{}/occurrences", id(deployment)), 1000).await;
    let text = |occurrence: &Value, field: &str| occurrence[field].as_str().unwrap().to_owned();
    all.iter().map(|occurrence| (text(occurrence, "scheduled_at"), text(occurrence, "outcome"))).collect()
}

#[tokio::test]
async fn the_history_of_a_deployment_begins_at_a_mark_and_nothing_after_it_is_unaccounted_for() {
    let rota = keeping_without_engine(RetentionConfig { runs_days: Some(2), ..RetentionConfig::default() }).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment = parts.deployment(api, every("* * * * *")).await;
    let path = format!("/v1/deployments/{}", id(&deployment));
    minutes(&rota, 5).await;
    // Changes of the schedule and of the state, a downtime, and a schedule that others overlap.
    api.post(&path, every("*/2 * * * *")).await;
    minutes(&rota, 6).await;
    api.call(&format!("{path}/pause")).await;
    rota.advance_seconds(600);
    api.call(&format!("{path}/unpause")).await;
    api.post(&format!("/rota{path}/policy"), json!({"overlap": "skip"})).await;
    minutes(&rota, 4).await;
    rota.advance_seconds(4 * DAY_SECONDS);
    rota.tick().await;
    minutes(&rota, 3).await;
    let before = outcomes(api, &deployment).await;
    assert!(before.iter().all(|(_, outcome)| outcome != "unaccounted"));
    let runs = rows(&rota, "deployment_runs", "true").await;
    assert!(runs >= 7, "{runs} runs");

    // Sessions that never end would keep their runs.
    execute(&rota, "UPDATE sessions SET status = 'idle', runnable_at = NULL, stopped_at = created_at").await;
    let removed = sweep(&rota).await;
    let mark =
        Time::from_micros(rota.clock.now().micros() / 86_400_000_000 * 86_400_000_000).plus_micros(-2 * 86_400_000_000);
    let after = outcomes(api, &deployment).await;
    let expected: Vec<_> = before.into_iter().filter(|(at, _)| *at > mark.to_string()).collect();
    assert_eq!(after, expected, "what is after the mark is as it was, and nothing is before it");
    assert!(!after.is_empty());
    assert_eq!(removed.get("runs").copied(), Some((runs - rows(&rota, "deployment_runs", "true").await) as u64));
    assert_eq!(rows(&rota, "deployment_runs", "true").await, 1, "the newest run stays");
    assert_eq!(rows(&rota, "deployment_spans", "true").await, 1, "the span that counts stays");
    let (behind, beyond) = (format!("last_at <= {}", mark.micros()), format!("last_at > {}", mark.micros()));
    assert_eq!(rows(&rota, "deployment_skips", &behind).await, 0);
    assert!(rows(&rota, "deployment_skips", &beyond).await > 0, "the downtime reaches beyond the mark");
    assert_eq!(sweep(&rota).await, BTreeMap::new());

    minutes(&rota, 4).await;
    let later = outcomes(api, &deployment).await;
    assert!(later.len() > after.len() && later.iter().all(|(_, outcome)| outcome != "unaccounted"), "{later:?}");
}

#[tokio::test]
async fn logs_go_by_their_age_and_a_delivery_that_is_still_tried_stays() {
    let days = RetentionConfig {
        deliveries_days: Some(5),
        egress_days: Some(5),
        audit_days: Some(5),
        ..RetentionConfig::default()
    };
    let rota = keeping_without_engine(days).await;
    let api = &rota.api;
    let wants = json!({"url": "https://hooks.invalid", "enabled_events": ["environment.created"]});
    api.post(ENDPOINTS, wants).await;
    let parts = Parts::new(api).await;
    for name in ["one", "two", "three"] {
        environment(api, name).await;
    }
    let session = parts.session(api, json!({})).await;
    let now = rota.clock.now();
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    let (of, of_session) = (workspace.clone(), id(&session).to_owned());
    rota.server
        .app()
        .db
        .write(move |tx| {
            use rota_api::id::{EgressId, Id};
            let id = EgressId::new(now);
            let params: [Val<'_>; 4] = [(&id).into(), (&*of).into(), (&*of_session).into(), now.into()];
            tx.execute(
                "INSERT INTO egress (id, workspace_id, session_id, host, port, outcome, bytes_in, bytes_out, started_at)
                 VALUES ($1, $2, $3, 'a.example', 443, 'allowed', 1, 1, $4)",
                &params,
            )
        })
        .await
        .unwrap();
    let delivered = "UPDATE webhook_deliveries SET state = 'delivered', due_at = NULL
         WHERE event_id < (SELECT max(event_id) FROM webhook_deliveries)";
    assert_eq!(execute(&rota, delivered).await, 3);
    let audited = rows(&rota, "audit", "true").await as u64;
    rota.advance_seconds(5 * DAY_SECONDS - 60);
    assert_eq!(sweep(&rota).await, BTreeMap::new());
    rota.advance_seconds(120);
    let preview = api.get(&format!("{RETENTION}/preview")).await;
    let counts: BTreeMap<_, _> = preview["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["kind"].as_str().unwrap(), line["count"].as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect();
    let removed = sweep(&rota).await;
    assert_eq!(removed, BTreeMap::from([("audit", audited), ("deliveries", 3), ("egress", 1)]));
    assert_eq!(counts, removed, "the preview has said so");
    assert_eq!(rows(&rota, "webhook_deliveries", "state = 'pending'").await, 1);
}

#[tokio::test]
async fn another_workspace_is_kept_as_it_says() {
    let rota = keeping_without_engine(RetentionConfig::default()).await;
    let (ours, theirs) = (&rota.api, rota.other_workspace().await);
    let mut sessions = Vec::new();
    for api in [ours, &theirs] {
        sessions.push(Parts::new(api).await.session(api, json!({})).await);
    }
    theirs.post(RETENTION, json!({"sessions_days": 1})).await;
    rota.advance_seconds(2 * DAY_SECONDS);
    let line =
        |preview: &Value| preview["data"].as_array().unwrap().iter().find(|line| line["kind"] == "sessions").cloned();
    let preview = format!("{RETENTION}/preview");
    assert_eq!(line(&ours.get(&preview).await).unwrap()["count"], 0);
    assert_eq!(line(&theirs.get(&preview).await).unwrap(), json!({"kind": "sessions", "count": 1, "is_cut": false}));
    assert_eq!(sweep(&rota).await, BTreeMap::from([("sessions", 1)]));
    assert!(is_there(ours, &sessions[0]).await);
    assert!(!is_there(&theirs, &sessions[1]).await);
}

#[tokio::test]
async fn one_server_an_hour_sweeps() {
    let rota = keeping_without_engine(RetentionConfig::default()).await;
    let claimed = async || rota.server.app().db.write(claim).await.unwrap();
    assert!(claimed().await);
    assert!(!claimed().await);
    rota.advance_seconds(3600);
    assert!(claimed().await);
    assert!(!claimed().await);
}

#[tokio::test]
async fn a_session_that_uses_no_tool_has_no_folder() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, message("hi")).await;
    at_rest(&rota.api, id(&session)).await;
    assert!(!rota.server.app().sandboxes.backend().session_dir(id(&session)).unwrap().exists());
}

/// What a store and its folder hold.
#[derive(Debug, Default)]
struct Held {
    sessions: i64,
    events: i64,
    runs: i64,
    folders: usize,
}

impl Held {
    async fn of(rota: &Rota) -> Self {
        let folder = rota.server.app().sandboxes.backend().sessions_dir().to_owned();
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        Self {
            sessions: rows(rota, "sessions", "true").await,
            events: rows(rota, "session_events", "true").await,
            runs: rows(rota, "deployment_runs", "true").await,
            folders: names.filter(|name| name.to_str().unwrap().starts_with("sesn_")).count(),
        }
    }
}

#[tokio::test]
async fn what_a_scheduled_deployment_leaves_is_bounded_by_how_long_it_is_kept() {
    let days = RetentionConfig { sessions_days: Some(2), runs_days: Some(3), ..RetentionConfig::default() };
    let rota = keeping(days).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment =
        parts.deployment(api, json!({"initial_events": [message("hi")], "schedule": every("0 */4 * * *")["schedule"]}));
    let deployment = deployment.await;
    for day in 0..14 {
        for _ in 0..6 {
            let next = 4 * 3600 - rota.clock.now().micros() / 1_000_000 % (4 * 3600);
            rota.advance_seconds(next);
            rota.tick().await;
            let session = api.get("/v1/sessions?limit=1").await;
            at_rest(api, id(&session["data"][0])).await;
        }
        sweep(&rota).await;
        let held = Held::of(&rota).await;
        // Six a day for two days, or for three and up to the end of a day, and the one that is at hand.
        assert!(held.sessions <= 13 && held.runs <= 4 * 6 + 1 && held.folders == 0, "day {day}: {held:?}");
        assert!(held.events <= 13 * 20, "day {day}: {held:?}");
        assert!(day < 4 || held.runs >= 18, "day {day}: {held:?}");
    }
    assert!(outcomes(api, &deployment).await.iter().all(|(_, outcome)| outcome == "ran"));
    assert_eq!(rows(&rota, "deployment_skips", "true").await, 0);
}

/// Prints how large the store is every thirty days.
#[tokio::test]
#[ignore = "a year of minutes takes long: run it by its name"]
async fn a_year_of_a_minutely_deployment_stays_bounded() {
    const LOG: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
         INSERT INTO session_events (session_id, seq, type, body, processed_at)
         SELECT s.id, s.next_seq + n.i, 'agent.message', '{\"type\":\"agent.message\",\"content\":[{\"type\":\"text\",\"text\":\"' ||
             'Looked at the queue: nothing new since the last look, so there is nothing to do.' || '\"}]}', s.created_at
         FROM sessions s CROSS JOIN n WHERE s.status = 'running'";
    const REST: &str =
        "UPDATE sessions SET status = 'idle', runnable_at = NULL, running_since = NULL, stopped_at = created_at,
             stop_reason = 'end_turn', next_seq = next_seq + 9 WHERE status = 'running'";
    let days = RetentionConfig { sessions_days: Some(7), runs_days: Some(30), ..RetentionConfig::default() };
    let rota = keeping_without_engine(days).await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, every("* * * * *")).await;
    let mut largest = [0; 12];
    for day in 0..365 {
        minutes(&rota, 24 * 60).await;
        execute(&rota, LOG).await;
        execute(&rota, REST).await;
        let removed = sweep(&rota).await;
        let held = Held::of(&rota).await;
        assert!(held.sessions <= 9 * 1440 && held.runs <= 32 * 1440, "day {day}: {held:?}");
        let store = rota.server.app().config.data.join("rota.db");
        let bytes = std::fs::metadata(store).map_or(0, |file| file.len());
        let month = (day / 31).min(11);
        largest[month] = bytes.max(largest[month]);
        if day % 30 == 29 {
            println!("day {}: {held:?}, the store has {} MB, removed {removed:?}", day + 1, bytes / 1_000_000);
        }
    }
    let last = largest[11];
    assert!(last <= largest[2] * 11 / 10, "it does not grow any more: {largest:?}");
    let told = outcomes(&rota.api, &deployment).await;
    assert!(told.iter().all(|(_, outcome)| outcome == "ran"), "every occurrence that is told has its run");
    assert!(RetentionKind::ALL.len() == 6 && told.len() >= 30 * 1440);
}

/// How much of each kind a preview has, but for those of which it has nothing.
fn counts(preview: &Value) -> BTreeMap<&str, u64> {
    let lines = preview["data"].as_array().unwrap().iter();
    let counts = lines.map(|line| (line["kind"].as_str().unwrap(), line["count"].as_u64().unwrap()));
    counts.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn a_dry_run_counts_what_the_sweep_removes() {
    let days = RetentionConfig { sessions_days: Some(5), audit_days: Some(5), ..RetentionConfig::default() };
    let rota = keeping_without_engine(days).await;
    // The command takes the time from the system.
    let ten_days_ago = Clock::System.now().plus_micros(-10 * DAY_SECONDS * 1_000_000);
    rota.clock.advance_micros(ten_days_ago.micros() - rota.clock.now().micros());
    let (api, other) = (&rota.api, rota.other_workspace().await);
    let (parts, of_other) = (Parts::new(api).await, Parts::new(&other).await);
    for (api, parts, sessions) in [(api, &parts, 3), (&other, &of_other, 2)] {
        for _ in 0..sessions {
            parts.session(api, json!({})).await;
        }
    }
    api.post(RETENTION, json!({"deliveries_days": 5})).await;
    api.post(ENDPOINTS, json!({"url": "https://hooks.invalid", "enabled_events": ["environment.created"]})).await;
    for name in ["one", "two"] {
        environment(api, name).await;
    }
    execute(&rota, "UPDATE webhook_deliveries SET state = 'delivered', due_at = NULL").await;
    rota.clock.advance_micros(Clock::System.now().micros() - rota.clock.now().micros());
    parts.session(api, json!({})).await;

    let file = rota.server.app().config.data.join("rota.toml");
    std::fs::write(&file, "[retention]\nsessions_days = 5\naudit_days = 5\n").unwrap();
    let dry_run = ["retention", "--dry-run", "--config", file.to_str().unwrap()];
    let of_default = rota_command(&rota, &[&dry_run[..], &["--workspace", "Default"]].concat()).await;
    assert_eq!(of_default, api.get(&format!("{RETENTION}/preview")).await);
    assert_eq!(counts(&of_default)["sessions"], 3);
    let of_other = rota_command(&rota, &[&dry_run[..], &["--workspace", "Other"]].concat()).await;
    assert_eq!(of_other, other.get(&format!("{RETENTION}/preview")).await);
    let all = rota_command(&rota, &dry_run).await;
    assert_eq!(counts(&all)["sessions"], 5);
    assert_eq!(counts(&all), sweep(&rota).await);
    assert_eq!(counts(&rota_command(&rota, &dry_run).await), BTreeMap::new(), "all of it is gone");
}
