//! Sessions: creating, changing, listing, ending.

use reqwest::Method;
use rota_server::{
    config::{ModelConfig, PriceConfig, Provider},
    db::{Tx, Val},
};
use serde_json::{Value, json};

use crate::{
    client::{Api, Refusal, invalid, not_found},
    deployments::NO_BUDGETS,
    given::{Parts, agent, environment, id, message, model, over, toolset},
    server::Rota,
};

fn path(session: &Value) -> String {
    format!("/v1/sessions/{}", id(session))
}

#[tokio::test]
async fn a_session_without_events_is_idle_and_one_with_events_runs() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let idle = parts.session(&rota.api, json!({"title": "t", "metadata": {"a": "1"}})).await;
    assert!(id(&idle).starts_with("sesn_"));
    for (field, expected) in [
        ("status", json!("idle")),
        ("title", json!("t")),
        ("metadata", json!({"a": "1"})),
        ("deployment_id", Value::Null),
        ("resources", json!([])),
        ("vault_ids", json!([])),
        ("outcome_evaluations", json!([])),
        ("archived_at", Value::Null),
    ] {
        assert_eq!(idle[field], expected, "{field}");
    }
    assert!(idle.get("initial_events").is_none(), "first events are not echoed");
    assert_eq!(rota.api.get(&format!("{}/events", path(&idle))).await["data"], json!([]));
    assert_eq!(parts.session_with(&rota.api, message("hi")).await["status"], "running");
}

#[tokio::test]
async fn a_session_runs_a_snapshot_of_the_agent_that_it_names() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    api.post(&format!("/v1/agents/{}", id(&parts.agent)), json!({"system": "two"})).await;
    let with = |agent: Value| json!({ "agent": agent });
    let named = |version: Option<i64>| match version {
        Some(version) => json!({"type": "agent", "id": id(&parts.agent), "version": version}),
        None => json!({"type": "agent", "id": id(&parts.agent)}),
    };
    let mut sessions = Vec::new();
    for (agent, version, system) in
        [(json!(id(&parts.agent)), 2, json!("two")), (named(None), 2, json!("two")), (named(Some(1)), 1, Value::Null)]
    {
        let session = parts.session(api, with(agent)).await;
        assert_eq!((&session["agent"]["version"], &session["agent"]["system"]), (&json!(version), &system));
        sessions.push(session);
    }
    api.post(&format!("/v1/agents/{}", id(&parts.agent)), json!({"system": "three", "tools": null})).await;
    for session in sessions {
        assert_eq!(api.get(&path(&session)).await["agent"], session["agent"], "later versions do not reach it");
    }
    let refused = not_found("Referenced agent not found or not accessible.");
    assert_eq!(api.post_refused("/v1/sessions", parts.session_body(&with(named(Some(4))))).await, refused);
}

#[tokio::test]
async fn overrides_replace_clear_or_inherit_each_part_of_the_agent() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let base = agent(api, json!({"system": "s"})).await;
    let parts = Parts { agent: base.clone(), environment: environment(api, "e").await };
    let overriding =
        |changes: Value| json!({"agent": over(json!({"type": "agent_with_overrides", "id": id(&base)}), &changes)});
    let custom = json!({"type": "custom", "name": "w", "description": "d", "input_schema": {"type": "object"}});
    let high = json!({"id": "playbook", "effort": {"type": "high"}, "speed": "standard", "inference_geo": null});
    for (changes, field, expected) in [
        (json!({}), "system", json!("s")),
        (json!({"system": "t"}), "system", json!("t")),
        (json!({"system": null}), "system", Value::Null),
        (json!({"system": null}), "tools", base["tools"].clone()),
        (json!({"tools": [custom]}), "tools", json!([custom])),
        (json!({"tools": null}), "tools", json!([])),
        (json!({"model": {"id": "playbook", "effort": "high"}}), "model", high),
    ] {
        let session = parts.session(api, overriding(changes.clone())).await;
        assert_eq!(session["agent"][field], expected, "{changes}");
        assert_eq!(session["agent"]["version"], 1);
        assert_eq!(api.get(&path(&session)).await["agent"], session["agent"]);
    }
    assert_eq!(api.get(&format!("/v1/agents/{}", id(&base))).await, base, "the agent itself does not change");
    let toolset_of_a_server = json!({"tools": [{"type": "mcp_toolset", "mcp_server_name": "m"}]});
    for (changes, refused) in [
        (
            json!({"model": null}),
            "agent.agent_with_overrides.config.model: agent_model_required: the model cannot be cleared",
        ),
        (toolset_of_a_server, "agent.tools: mcp_server_name \"m\" is not one of mcp_servers"),
    ] {
        let body = parts.session_body(&overriding(changes));
        assert_eq!(api.post_refused("/v1/sessions", body).await, invalid(refused));
    }
    let unknown = parts.session_body(&overriding(json!({"model": "gpt"})));
    let refused = api.post_refused("/v1/sessions", unknown).await;
    assert!(refused.message.starts_with("agent.model: \"gpt\" is not offered"), "{}", refused.message);
}

#[tokio::test]
async fn what_a_session_refers_to_must_be_there() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let closed = environment(api, "closed").await;
    api.call(&format!("/v1/environments/{}/archive", id(&closed))).await;
    let mine = api.post("/v1/environments", json!({"name": "mine", "config": {"type": "self_hosted"}})).await;
    let file = json!([{"type": "file", "file_id": "file_x"}]);
    let store = |i: usize| json!({"type": "memory_store", "memory_store_id": format!("memstore_{i}")});
    let stores: Vec<Value> = (0..9).map(store).collect();
    let no_environment = |id: &str| not_found(format!("Environment {id} not found."));
    for (changes, refused) in [
        (json!({"agent": "agent_nobody"}), not_found("Referenced agent not found or not accessible.")),
        (json!({"environment_id": "env_nowhere"}), no_environment("env_nowhere")),
        (json!({"environment_id": id(&closed)}), no_environment(id(&closed))),
        (json!({"resources": stores}), invalid("resources: at most 8 memory stores can be attached")),
        (json!({"vault_ids": ["vlt_x"]}), not_found("Referenced vault not found or not accessible.")),
        (json!({"resources": file}), invalid("Invalid file resource: invalid file_id: \"file_x\"")),
        (
            json!({"environment_id": id(&mine), "resources": file}),
            invalid(format!(
                "Environment {} is a self-hosted environment. `resources` are not supported with self-hosted \
                 environments.",
                id(&mine)
            )),
        ),
    ] {
        let body = parts.session_body(&changes);
        assert_eq!(api.post_refused("/v1/sessions", body).await, refused, "{changes}");
    }
    assert_eq!(api.get("/v1/sessions").await["data"], json!([]));
}

#[tokio::test]
async fn a_budget_is_refused_whether_the_model_has_a_price_or_not() {
    let price = |dollars| PriceConfig {
        input: dollars,
        output: dollars,
        cache_read: None,
        cache_write_5m: None,
        cache_write_1h: None,
    };
    let priced = ModelConfig { price: Some(price(5.0)), ..model("priced", Provider::Playbook) };
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.models = vec![priced, model("unpriced", Provider::Playbook)];
    })
    .await;
    let budget = json!({"type": "limit", "max_list_cost": {"amount": "125", "currency": "USD"}});
    for model in ["priced", "unpriced"] {
        let agent = agent(&rota.api, json!({ "model": model })).await;
        let parts = Parts { agent, environment: environment(&rota.api, model).await };
        let body = parts.session_body(&json!({ "budget": budget }));
        let answer = rota.api.send(Method::POST, "/v1/sessions", Some(&body)).await;
        assert_eq!(answer.refusal(), invalid(NO_BUDGETS), "{model}");
        assert_eq!(answer.body["error"]["details"]["error_code"], "model_not_budgetable");
    }
}

#[tokio::test]
async fn an_outcome_is_shown_as_pending() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let outcome =
        json!({"type": "user.define_outcome", "description": "a report", "rubric": {"type": "text", "content": "r"}});
    let session = parts.session_with(&rota.api, outcome.clone()).await;
    let shown = &session["outcome_evaluations"][0];
    assert_eq!(
        (&shown["description"], &shown["result"], &shown["iteration"]),
        (&json!("a report"), &json!("pending"), &json!(0))
    );
    let log = rota.api.get(&format!("{}/events", path(&session))).await;
    assert_eq!(log["data"][0]["outcome_id"], shown["outcome_id"]);
    let idle = parts.session(&rota.api, json!({})).await;
    rota.api.events(id(&idle), json!([outcome])).await;
    assert_eq!(rota.api.get(&path(&idle)).await["outcome_evaluations"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn sessions_are_listed_by_agent_version_deployment_status_time_and_archive() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment = parts.deployment(api, json!({})).await;
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let mut made = vec![api.get(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await];
    made.push(parts.session(api, json!({})).await);
    api.post(&format!("/v1/agents/{}", id(&parts.agent)), json!({"system": "two"})).await;
    made.push(parts.session(api, json!({})).await);
    let other = Parts { agent: agent(api, json!({})).await, environment: parts.environment.clone() };
    made.push(other.session_with(api, message("hi")).await);
    made.push(other.session(api, json!({})).await);
    api.call(&format!("{}/archive", path(&made[4]))).await;
    for _ in 0..2 {
        let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
        made.push(api.get(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await);
    }
    // As a session ends that cannot be run on.
    let name = id(&made[6]).to_owned();
    let end = "UPDATE sessions SET status = 'terminated', runnable_at = NULL WHERE id = $1";
    rota.server.app().db.write(move |tx: &mut Tx<'_>| tx.execute(end, &[Val::Text(&name)])).await.unwrap();
    let places = async |query: &str| -> Vec<usize> {
        let rows = api.all(&format!("/v1/sessions?{query}"), 2).await;
        rows.iter().map(|row| made.iter().position(|session| id(session) == id(row)).unwrap()).collect()
    };
    let at = |i: usize| made[i]["created_at"].as_str().unwrap();
    let by_agent = format!("agent_id={}", id(&parts.agent));
    let of_deployment = format!("deployment_id={}", id(&deployment));
    for (query, expected) in [
        ("order=desc", vec![5, 3, 2, 1, 0]),
        ("order=asc", vec![0, 1, 2, 3, 5]),
        ("include_archived=true", vec![6, 5, 4, 3, 2, 1, 0]),
        ("statuses[]=terminated", vec![6]),
        ("statuses[]=terminated&include_archived=true", vec![6, 4]),
        ("statuses[]=running", vec![5, 3, 0]),
        ("statuses=idle&statuses=running", vec![5, 3, 2, 1, 0]),
        ("statuses=terminated&statuses=running&order=asc", vec![0, 3, 5, 6]),
        ("agent_version=1", vec![5, 3, 2, 1, 0]),
        (&*by_agent, vec![5, 2, 1, 0]),
        (&format!("{by_agent}&agent_version=1"), vec![5, 1, 0]),
        (&format!("{by_agent}&agent_version=1&statuses[]=idle"), vec![1]),
        (&of_deployment, vec![5, 0]),
        (&format!("{of_deployment}&statuses[]=running"), vec![5, 0]),
        (&format!("{of_deployment}&statuses[]=running&order=asc"), vec![0, 5]),
        (&format!("{of_deployment}&statuses[]=terminated"), vec![6]),
        (&format!("{of_deployment}&statuses[]=terminated&include_archived=true"), vec![6]),
        (&format!("created_at[gt]={}&created_at[lt]={}", at(0), at(3)), vec![2, 1]),
        (&format!("created_at[gte]={}&created_at[lte]={}&order=asc", at(0), at(1)), vec![0, 1]),
    ] {
        assert_eq!(places(query).await, expected, "{query}");
    }
}

/// The ids of a page of sessions.
fn ids(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|session| id(session).to_owned()).collect()
}

/// Walks a list of sessions to its end and back to its start, and returns the pages of the way there.
async fn there_and_back(api: &Api, query: &str) -> Vec<Vec<String>> {
    let list = async |page: Option<&str>| {
        let page = page.map(|page| format!("&page={page}")).unwrap_or_default();
        api.get(&format!("/v1/sessions?{query}{page}")).await
    };
    let mut page = list(None).await;
    assert_eq!(page["prev_page"], Value::Null, "nothing is before the first page");
    let mut pages = vec![ids(&page)];
    while let Some(next) = page["next_page"].as_str() {
        page = list(Some(next)).await;
        pages.push(ids(&page));
    }
    for expected in pages.iter().rev().skip(1) {
        page = list(Some(page["prev_page"].as_str().unwrap())).await;
        assert_eq!(ids(&page), *expected);
        assert!(page["next_page"].is_string());
    }
    assert_eq!(page["prev_page"], Value::Null, "the walk back ends at the first page");
    pages
}

#[tokio::test]
async fn both_cursors_walk_the_list_in_both_orders() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let mut made = Vec::new();
    for _ in 0..9 {
        let run = rota.api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
        made.push(run["session_id"].as_str().unwrap().to_owned());
    }
    let of_deployment = format!("&deployment_id={}", id(&deployment));
    for filter in ["", &*of_deployment] {
        let up = there_and_back(&rota.api, &format!("limit=2&order=asc{filter}")).await;
        assert_eq!((up.len(), up.concat()), (5, made.clone()));
        let down = there_and_back(&rota.api, &format!("limit=2{filter}")).await;
        let newest_first: Vec<String> = made.iter().rev().cloned().collect();
        assert_eq!((down.len(), down.concat()), (5, newest_first));
    }
}

#[tokio::test]
async fn an_update_says_what_it_changed_and_nothing_else() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session(api, json!({"title": "a", "metadata": {"k": "1", "l": "2"}})).await;
    let asking = json!([over(toolset(), &json!({"default_config": {"permission_policy": {"type": "always_ask"}}}))]);
    let mut told = 0;
    for (body, fields) in [
        (json!({"title": "b"}), vec!["title"]),
        (json!({"title": "b"}), vec![]),
        (json!({"metadata": {"k": null, "m": "3"}}), vec!["metadata"]),
        (json!({"metadata": {"m": "3"}}), vec![]),
        (json!({}), vec![]),
        (json!({"title": "c", "agent": {"tools": asking}}), vec!["agent", "title"]),
    ] {
        let updated = api.post(&path(&session), body.clone()).await;
        let log = api.get(&format!("{}/events?types[]=session.updated", path(&session))).await;
        let log = log["data"].as_array().unwrap();
        told += usize::from(!fields.is_empty());
        assert_eq!(log.len(), told, "{body}");
        let Some(event) = log.last().filter(|_| !fields.is_empty()) else { continue };
        for field in ["agent", "title", "metadata"] {
            let expected = if fields.contains(&field) { &updated[field] } else { &Value::Null };
            assert_eq!(event[field], *expected, "{field} of {body}");
        }
    }
    let updated = api.get(&path(&session)).await;
    assert_eq!((&updated["title"], &updated["metadata"]), (&json!("c"), &json!({"l": "2", "m": "3"})));
    let policy = &updated["agent"]["tools"][0]["default_config"]["permission_policy"]["type"];
    assert_eq!(*policy, "always_ask");
    assert_eq!(updated["status"], "idle", "an update starts nothing");
}

#[tokio::test]
async fn the_tools_of_a_working_session_cannot_be_changed() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, message("hi")).await;
    let refused = invalid("agent: tools and MCP servers can be changed only while the session is idle");
    assert_eq!(rota.api.post_refused(&path(&session), json!({"agent": {"tools": []}})).await, refused);
    rota.api.post(&path(&session), json!({"title": "but its title can"})).await;
    let budget = json!({"type": "limit", "max_list_cost": {"amount": "125", "currency": "USD"}});
    let answer = rota.api.send(Method::POST, &path(&session), Some(&json!({ "budget": budget }))).await;
    assert_eq!(answer.body["error"]["details"]["error_code"], "budget_create_only");
}

#[tokio::test]
async fn a_working_session_can_be_neither_archived_nor_deleted() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, message("hi")).await;
    let archive = invalid(format!(
        "Session {} cannot be archived while its status is \"running\". Only pending or idle sessions may be archived.",
        id(&session)
    ));
    let delete =
        "Cannot delete session while it is running. Send an interrupt event or wait for the session to complete.";
    assert_eq!(rota.api.call_refused(&format!("{}/archive", path(&session))).await, archive);
    assert_eq!(rota.api.send(Method::DELETE, &path(&session), None).await.refusal(), invalid(delete));
    assert_eq!(rota.api.get(&path(&session)).await["status"], "running");
}

#[tokio::test]
async fn an_archived_session_is_terminated_and_its_history_stays() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = parts.session_with(api, message("hi")).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.turn().await;
    let archived = api.call(&format!("{}/archive", path(&session))).await;
    assert_eq!(archived["status"], "terminated");
    assert!(archived["archived_at"].is_string());
    assert_eq!(stream.next().await.unwrap().kind(), "session.status_terminated");
    rota.advance_seconds(60);
    assert_eq!(api.call(&format!("{}/archive", path(&session))).await, archived, "archiving again changes nothing");
    let log = api.get(&format!("{}/events", path(&session))).await;
    assert_eq!(log["data"].as_array().unwrap().last().unwrap()["type"], "session.status_terminated");
    let body = json!({"events": [message("more")]});
    let refused = invalid(format!("Session {} is terminated and accepts no events.", id(&session)));
    assert_eq!(api.post_refused(&format!("{}/events", path(&session)), body).await, refused);
    assert_eq!(api.post_refused(&path(&session), json!({"title": "x"})).await.status, 400);
    assert_eq!(api.get("/v1/sessions").await["data"], json!([]));
    api.delete(&path(&session)).await;
}

#[tokio::test]
async fn a_deleted_session_is_gone_and_its_open_streams_end() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session(&rota.api, json!({})).await;
    let mut streams = [rota.api.stream(id(&session)).await, rota.api.stream_from(id(&session), 0).await];
    let deleted = rota.api.delete(&path(&session)).await;
    assert_eq!(deleted, json!({"id": id(&session), "type": "session_deleted"}));
    for stream in &mut streams {
        let last = stream.next().await.unwrap();
        assert_eq!((last.kind(), last.id), ("session.deleted", None));
        assert!(stream.next().await.is_none());
    }
    let gone = not_found(format!("Session not found: {}", id(&session)));
    for (method, path) in [
        (Method::GET, path(&session)),
        (Method::DELETE, path(&session)),
        (Method::GET, format!("{}/events", path(&session))),
        (Method::GET, format!("{}/events/stream", path(&session))),
        (Method::POST, format!("{}/archive", path(&session))),
    ] {
        assert_eq!(rota.api.send(method.clone(), &path, None).await.refusal(), gone, "{method} {path}");
    }
    let body = json!({"events": [message("hi")]});
    let refused: Refusal = rota.api.post_refused(&format!("{}/events", path(&session)), body).await;
    assert_eq!(refused, gone);
}
