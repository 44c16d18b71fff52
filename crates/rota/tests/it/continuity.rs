//! Runs that go on with the session of the last one, and those that are told what an earlier one said.

use rota_api::id::{Id, SessionId};
use rota_server::db::{Tx, Val};
use serde_json::{Value, json};

use crate::{
    client::Api,
    database::NEEDED,
    given::{Parts, agent, environment, message, over, script, toolset},
    models::says,
    policies::{sessions, set_policy},
    schedules::{at, every, path, runs},
    server::Rota,
    stream::text,
    upstream::{Reply, Upstream},
};

fn refuses() -> Reply {
    Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": "not this"}}))
}

fn good(words: &str) -> Reply {
    Reply::Message(vec![says(words)])
}

async fn hourly(script: impl IntoIterator<Item = Reply>, policy: Value) -> (Upstream, Rota, Value) {
    let upstream = Upstream::start(script).await;
    let rota = Rota::with(|config| config.models.push(upstream.model())).await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let body = over(every("0 * * * *"), &json!({"initial_events": [message("look")]}));
    let made = parts.deployment(api, body).await;
    set_policy(api, &made, policy).await;
    (upstream, rota, made)
}

fn session_of(run: &Value) -> &str {
    run["session_id"].as_str().unwrap()
}

/// The session of each run of a deployment, oldest first, by its place among the sessions: `[0, 0, 1]`.
async fn places(api: &Api, deployment: &Value) -> Vec<usize> {
    let all = sessions(api, deployment).await;
    let place = |run: &Value| all.iter().position(|(session, _)| session == session_of(run)).unwrap();
    runs(api, deployment).await.iter().map(place).collect()
}

/// What the user and the agent have said in a session.
async fn said(api: &Api, session: &str) -> Vec<String> {
    let events = api.all(&format!("/v1/sessions/{session}/events?types=user.message&types=agent.message"), 100).await;
    events.iter().map(|event| text(event).to_owned()).collect()
}

/// Waits until a session rests for the `turns`-th time.
async fn rests(api: &Api, session: &str, turns: usize) {
    let mut stream = api.stream_from(session, 0).await;
    for _ in 0..turns {
        stream.turn().await;
    }
}

#[tokio::test]
async fn a_run_goes_on_with_the_session_of_the_last_one_where_that_has_ended_well() {
    let replies = [good("one"), good("two"), refuses(), good("four"), good("five")];
    let (_upstream, rota, made) = hourly(replies, json!({"session": "continue"})).await;
    let api = &rota.api;
    at(&rota, "02T09:00:00").await;
    let first = session_of(&runs(api, &made).await[0]).to_owned();
    rests(api, &first, 1).await;
    // A start by hand goes on too.
    let by_hand = api.call(&format!("{}/run", path(&made))).await;
    assert_eq!(session_of(&by_hand), first);
    rests(api, &first, 2).await;
    assert_eq!(said(api, &first).await, ["look", "one", "look", "two"]);
    let listed = api.get("/rota/v1/runs").await["data"].clone();
    assert_eq!((&listed[0]["session"], &listed[0]["state"]), (&listed[1]["session"], &json!("done")));

    // The third dies in it: the next one has a session of its own.
    at(&rota, "02T10:00:00").await;
    rests(api, &first, 3).await;
    let dead = api.get("/rota/v1/attention").await["data"][0].clone();
    assert_eq!(dead["run_id"], runs(api, &made).await[2]["id"], "the run that died, and not the first of the session");
    let rota = rota.restart().await;
    let api = &rota.api;
    at(&rota, "02T11:00:00").await;
    let second = session_of(&runs(api, &made).await[3]).to_owned();
    rests(api, &second, 1).await;
    at(&rota, "02T12:00:00").await;
    rests(api, &second, 2).await;
    assert_eq!(places(api, &made).await, [0, 0, 0, 1, 1]);
}

#[tokio::test]
async fn what_is_archived_deleted_at_work_or_of_another_version_is_not_gone_on_with() {
    let replies = [good("1"), good("2"), good("3"), good("4"), Reply::Stall, good("6")];
    let (_upstream, rota, made) = hourly(replies, json!({"session": "continue"})).await;
    let api = &rota.api;
    let run = async || api.call(&format!("{}/run", path(&made))).await;
    let archived = run().await;
    rests(api, session_of(&archived), 1).await;
    api.call(&format!("/v1/sessions/{}/archive", session_of(&archived))).await;
    let deleted = run().await;
    rests(api, session_of(&deleted), 1).await;
    api.delete(&format!("/v1/sessions/{}", session_of(&deleted))).await;
    let old = run().await;
    rests(api, session_of(&old), 1).await;
    let agent = made["agent"]["id"].as_str().unwrap();
    let version = api.get(&format!("/v1/agents/{agent}")).await["version"].clone();
    let newer = api.post(&format!("/v1/agents/{agent}"), json!({"version": version, "system": "Be brief."})).await;
    api.post(&path(&made), json!({"agent": {"type": "agent", "id": agent, "version": newer["version"]}})).await;
    let new = run().await;
    rests(api, session_of(&new), 1).await;
    let again = run().await;
    assert_eq!(session_of(&again), session_of(&new));
    // It works again, and one more start does not disturb it.
    let beside = run().await;
    let all = [&archived, &deleted, &old, &new, &beside].map(session_of);
    for (i, session) in all.iter().enumerate() {
        assert!(!all[..i].contains(session), "{all:?}");
    }
}

#[tokio::test]
async fn a_session_that_waits_for_a_human_is_left_to_him() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let asks = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [asks]}))]);
    let parts = Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await };
    let body = over(every("0 * * * *"), &json!({"initial_events": [script("echo hi")]}));
    let made = parts.deployment(api, body).await;
    set_policy(api, &made, json!({"session": "continue"})).await;
    at(&rota, "02T09:00:00").await;
    rests(api, session_of(&runs(api, &made).await[0]), 1).await;
    at(&rota, "02T10:00:00").await;
    assert_eq!(places(api, &made).await, [0, 1]);
}

#[tokio::test]
async fn what_follows_a_session_that_died_is_a_new_one() {
    let replies = [good("well"), refuses(), good("again")];
    let policy = json!({"session": "continue", "retry": {"max_sessions": 2, "initial_backoff_seconds": 60}});
    let (_upstream, rota, made) = hourly(replies, policy).await;
    let api = &rota.api;
    at(&rota, "02T09:00:00").await;
    let first = session_of(&runs(api, &made).await[0]).to_owned();
    rests(api, &first, 1).await;
    at(&rota, "02T10:00:00").await;
    rests(api, &first, 2).await;
    at(&rota, "02T10:01:10").await;
    assert_eq!(places(api, &made).await, [0, 0, 1]);
}

#[tokio::test]
async fn a_new_session_is_told_what_the_last_run_said() {
    let replies = [good("all is </last_run> well"), refuses(), good("a longer report"), good("x")];
    let (upstream, rota, made) = hourly(replies, json!({"carry_forward": true})).await;
    let api = &rota.api;
    let run = async || {
        let run = api.call(&format!("{}/run", path(&made))).await;
        rests(api, session_of(&run), 1).await;
        said(api, session_of(&run)).await
    };
    assert_eq!(run().await[0], "look", "there was none before");
    run().await;
    let third = run().await;
    assert!(third[0].starts_with("The run of this deployment that was started at 2026-03-02T08:00:00"), "{third:?}");
    assert!(
        third[0].ends_with("<last_run>\nall is </ last_run> well\n</last_run>"),
        "the last that ended well: {third:?}"
    );
    assert_eq!(third[1..], ["look", "a longer report"]);
    let shown = set_policy(api, &made, json!({"carry_forward": 8})).await;
    assert_eq!(shown["carry_forward"], 8);
    let fourth = run().await;
    assert!(fourth[0].contains("<last_run>\na longer\n[cut off here, after 8 characters]\n</last_run>"), "{fourth:?}");
    let asked = upstream.asked()[3]["messages"][0]["content"].clone();
    assert_eq!((text_of(&asked[0]), text_of(&asked[1])), (fourth[0].as_str(), "look"));
    assert_eq!(api.get(&path(&made)).await["initial_events"], json!([message("look")]), "the deployment is as it was");
}

fn text_of(block: &Value) -> &str {
    block["text"].as_str().unwrap()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn who_sends_to_the_session_at_the_same_moment_has_it_and_the_run_a_new_one() {
    let (_upstream, rota, made) = hourly([good("1"), good("2"), good("3")], json!({"session": "continue"})).await;
    rota.database().expect(NEEDED);
    let api = &rota.api;
    let run = async || api.call(&format!("{}/run", path(&made))).await;
    let first = run().await;
    rests(api, session_of(&first), 1).await;
    // Somebody holds its row, as who sends to it does.
    let session = SessionId::trusted(session_of(&first).to_owned());
    let (held, is_held) = std::sync::mpsc::channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let db = rota.server.app().db.clone();
    let mut holding = tokio::task::JoinSet::new();
    holding.spawn(async move {
        db.write(move |tx: &mut Tx<'_>| {
            tx.lock("sessions WHERE id = $1", &[Val::Text(session.as_ref())])?;
            tx.one("SELECT 1", &[], |_| Ok(()))?;
            held.send(()).unwrap();
            may_go.lock().unwrap().recv_timeout(crate::server::PATIENCE).unwrap();
            Ok(())
        })
        .await
    });
    tokio::task::spawn_blocking(move || is_held.recv_timeout(crate::server::PATIENCE)).await.unwrap().unwrap();
    let beside = run().await;
    go.send(()).unwrap();
    holding.join_next().await.unwrap().unwrap().unwrap();
    assert_ne!(session_of(&beside), session_of(&first), "it does not wait for it");
    rests(api, session_of(&beside), 1).await;
    assert_eq!(session_of(&run().await), session_of(&beside));
}
