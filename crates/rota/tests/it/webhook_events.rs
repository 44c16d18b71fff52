//! Which events are sent when. The receiver holds each against the contract.

use rota_api::webhook::EventType;
use serde_json::{Value, json};

use crate::{
    client::{Api, ENDPOINTS},
    given::{Parts, agent, environment, id, message, over, script, toolset},
    memory_stores,
    receiver::Receiver,
    scheduled::{fire_on, nine_o_clock},
    server::Rota,
    upstream::{Reply, Upstream},
};

#[test]
fn the_documentation_says_when_each_type_is_sent() {
    let page = include_str!("../../../../docs/webhooks.md");
    let rows: String = page.lines().filter(|line| line.starts_with("| `")).collect();
    for name in EventType::NAMES {
        assert!(rows.contains(&format!("`{name}`")), "{name}");
    }
}

/// An endpoint at `receiver` that wants `types`, or everything that the API has.
pub async fn endpoint(api: &Api, receiver: &Receiver, types: Option<&[&str]>) -> Value {
    let of_the_api: Vec<_> = EventType::NAMES.iter().copied().filter(|name| !name.starts_with("rota.")).collect();
    let types = types.unwrap_or(&of_the_api);
    api.post(ENDPOINTS, json!({"url": receiver.url, "enabled_events": types})).await
}

/// Waits until what an endpoint was sent so far is recorded: where the clock moves on before that, it is sent again.
pub async fn recorded(api: &Api, endpoint: &Value) {
    let pending = format!("{ENDPOINTS}/{}/deliveries?state=pending", id(endpoint));
    api.once(&pending, |page| page["data"].as_array().unwrap().is_empty()).await;
}

/// Receives as many events as are expected, whose order is not: each is a type and whom it is about.
async fn receive(receiver: &mut Receiver, expected: &[(&str, &str)]) {
    let mut received = Vec::new();
    for _ in expected {
        let delivery = receiver.next().await;
        received.push((delivery.kind().to_owned(), delivery.about().to_owned()));
    }
    let mut expected: Vec<_> = expected.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect();
    received.sort();
    expected.sort();
    assert_eq!(received, expected);
}

#[tokio::test]
async fn agents_environments_memory_stores_and_deployments_tell_of_what_changes() {
    let rota = Rota::receiving(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    endpoint(api, &receiver, None).await;

    let worker = agent(api, json!({})).await;
    let workshop = environment(api, "workshop").await;
    receive(&mut receiver, &[("agent.created", id(&worker)), ("environment.created", id(&workshop))]).await;
    let worker_path = format!("/v1/agents/{}", id(&worker));
    api.post(&worker_path, json!({"name": "worker"})).await;
    api.post(&worker_path, json!({"name": "other"})).await;
    receive(&mut receiver, &[("agent.updated", id(&worker))]).await;
    let workshop_path = format!("/v1/environments/{}", id(&workshop));
    let described = api.post(&workshop_path, json!({"description": "d"})).await;
    for nothing in [json!({}), json!({"description": "d"}), json!({"name": "workshop"})] {
        assert_eq!(api.post(&workshop_path, nothing).await, described, "it is not even younger");
    }
    api.post_refused("/v1/environments", json!({"name": "workshop"})).await;
    receive(&mut receiver, &[("environment.updated", id(&workshop))]).await;

    let notes = memory_stores::store(api, "notes").await;
    memory_stores::memory(api, &notes, "/a", "of which nothing is told").await;
    receive(&mut receiver, &[("memory_store.created", id(&notes))]).await;
    for _ in 0..2 {
        api.call(&format!("{}/archive", memory_stores::path(&notes))).await;
    }
    api.delete(&memory_stores::path(&notes)).await;
    receive(&mut receiver, &[("memory_store.archived", id(&notes)), ("memory_store.deleted", id(&notes))]).await;

    let parts = Parts { agent: worker, environment: workshop };
    let first = parts.deployment(api, json!({})).await;
    let second = parts.deployment(api, json!({})).await;
    let path = format!("/v1/deployments/{}", id(&first));
    let created = [("deployment.created", id(&first)), ("deployment.created", id(&second))];
    receive(&mut receiver, &created).await;
    api.post(&path, json!({"name": "renamed"})).await;
    receive(&mut receiver, &[("deployment.updated", id(&first))]).await;
    for (verb, kind) in
        [("pause", "deployment.paused"), ("unpause", "deployment.unpaused"), ("archive", "deployment.archived")]
    {
        api.call(&format!("{path}/{verb}")).await;
        if verb != "archive" {
            // Nothing changes any more.
            api.call(&format!("{path}/{verb}")).await;
        }
        receive(&mut receiver, &[(kind, id(&first))]).await;
    }
    api.call(&format!("{path}/archive")).await;
    for _ in 0..2 {
        api.call(&format!("{worker_path}/archive")).await;
        api.call(&format!("{workshop_path}/archive")).await;
    }
    let archived = [
        ("agent.archived", id(&parts.agent)),
        ("deployment.archived", id(&second)),
        ("environment.archived", id(&parts.environment)),
    ];
    receive(&mut receiver, &archived).await;
    api.delete(&workshop_path).await;
    receive(&mut receiver, &[("environment.deleted", id(&parts.environment))]).await;
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn scheduled_runs_tell_that_they_started_and_how_it_went_and_runs_by_hand_do_not() {
    let rota = Rota::receiving(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, nine_o_clock()).await;
    let endpoint = endpoint(api, &receiver, None).await;
    api.call(&format!("/v1/deployments/{}/run", id(&made))).await;
    let run = fire_on(&rota, 2, &made).await;
    receive(&mut receiver, &[("deployment_run.started", id(&run)), ("deployment_run.succeeded", id(&run))]).await;
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    api.call(&format!("/v1/deployments/{}/run", id(&made))).await;
    recorded(api, &endpoint).await;
    let run = fire_on(&rota, 3, &made).await;
    let failed = [
        ("environment.archived", id(&parts.environment)),
        ("deployment_run.started", id(&run)),
        ("deployment_run.failed", id(&run)),
        ("deployment.paused", id(&made)),
    ];
    receive(&mut receiver, &failed).await;
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn sessions_tell_of_their_status_from_the_first_turn_to_the_end() {
    let rota = Rota::receiving(|_| {}).await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let config = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [config]}))]);
    let parts = Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await };
    endpoint(api, &receiver, None).await;
    let session = parts.session(api, json!({})).await;
    let session = id(&session);
    api.events(session, json!([message("nothing to run")])).await;
    let turn = [("session.status_run_started", session), ("session.status_idled", session)];
    receive(&mut receiver, &turn).await;
    api.events(session, json!([script("true")])).await;
    receive(&mut receiver, &[turn[0], turn[1], ("session.requires_action", session)]).await;
    api.events(session, json!([{"type": "user.interrupt"}])).await;
    receive(&mut receiver, &[turn[1]]).await;
    let path = format!("/v1/sessions/{session}");
    api.post(&path, json!({"title": "t"})).await;
    api.post(&path, json!({"title": "t"})).await;
    receive(&mut receiver, &[("session.updated", session)]).await;
    for _ in 0..2 {
        api.call(&format!("{path}/archive")).await;
    }
    receive(&mut receiver, &[("session.status_terminated", session), ("session.archived", session)]).await;
    api.delete(&path).await;
    receive(&mut receiver, &[("session.deleted", session)]).await;
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn a_session_that_tries_again_tells_that_it_is_rescheduled_and_that_it_runs_again() {
    let busy = || Reply::Error(529, "", json!({"error": {"type": "overloaded_error", "message": "busy"}}));
    let answer = Reply::Message(vec![json!({"type": "text", "text": "done"})]);
    let upstream = Upstream::start([busy(), answer]).await;
    let rota = Rota::receiving(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let parts =
        Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "workshop").await };
    let endpoint = endpoint(api, &receiver, None).await;
    let session = parts.session_with(api, message("hello")).await;
    let session = id(&session);
    let started = ("session.status_run_started", session);
    receive(&mut receiver, &[started, ("session.status_rescheduled", session)]).await;
    recorded(api, &endpoint).await;
    rota.advance_seconds(60);
    receive(&mut receiver, &[started, ("session.status_idled", session)]).await;
}

#[tokio::test]
async fn an_event_goes_to_those_who_want_it_and_are_enabled_when_it_happens() {
    let rota = Rota::receiving(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let [mut agents, mut both, mut others] =
        [Receiver::start().await, Receiver::start().await, Receiver::start().await];
    endpoint(api, &agents, Some(&["agent.created"])).await;
    let wants = endpoint(api, &both, Some(&["environment.created"])).await;
    endpoint(&rota.other_workspace().await, &others, None).await;
    let path = format!("{ENDPOINTS}/{}", id(&wants));

    let first = agent(api, json!({})).await;
    receive(&mut agents, &[("agent.created", id(&first))]).await;
    api.post(&path, json!({"enabled_events": ["agent.created", "environment.created"]})).await;
    let second = agent(api, json!({})).await;
    let delivery = both.next().await;
    assert_eq!(delivery.about(), id(&second));
    assert_eq!(agents.next().await.id, delivery.id, "it is one event for both");
    api.post(&path, json!({"state": "disabled"})).await;
    let third = agent(api, json!({})).await;
    receive(&mut agents, &[("agent.created", id(&third))]).await;
    api.post(&path, json!({"state": "enabled"})).await;
    let e = environment(api, "e").await;
    receive(&mut both, &[("environment.created", id(&e))]).await;
    api.delete(&path).await;
    let fourth = agent(api, json!({})).await;
    receive(&mut agents, &[("agent.created", id(&fourth))]).await;
    for receiver in [&mut agents, &mut both, &mut others] {
        assert!(receiver.so_far().is_empty());
    }
}
