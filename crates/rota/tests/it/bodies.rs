//! Bodies and queries are read strictly: what is wrong is refused in words that name the field.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    client::{Refusal, invalid, not_found},
    given::{Parts, id, message, over},
    server::Rota,
};

/// `base` without `field`.
fn without(mut base: Value, field: &str) -> Value {
    base.as_object_mut().unwrap().remove(field);
    base
}

/// A text of `length` characters, each of two bytes.
fn long(length: usize) -> String {
    "ü".repeat(length)
}

#[tokio::test]
async fn wrong_bodies_of_agents_are_refused_by_field() {
    let rota = Rota::without_engine().await;
    let base = json!({"name": "a", "model": "playbook"});
    let missing = |field| without(base.clone(), field);
    let with = |change: Value| over(base.clone(), &change);
    let pairs = |count: usize| (0..count).map(|i| (i.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>();
    let cases = [
        (json!([]), "Input should be an object"),
        (json!("text"), "Input should be an object"),
        (missing("name"), "name: Field required"),
        (missing("model"), "model: Field required"),
        (with(json!({"name": null})), "name: Field required"),
        (with(json!({"name": 7})), "Failed to parse request: name: Input should be a valid string"),
        (with(json!({"name": ""})), "name: minimum string length is 1"),
        (with(json!({"name": long(257)})), "name: maximum string length is 256"),
        (with(json!({"colour": "red"})), "Failed to parse request body: unknown field \"colour\""),
        (with(json!({"id": "agent_x"})), "Failed to parse request body: unknown field \"id\""),
        (with(json!({"description": long(2049)})), "description: maximum string length is 2048"),
        (with(json!({"system": long(100_001)})), "system: maximum string length is 100000"),
        (with(json!({"system": ["x"]})), "Failed to parse request: system: Input should be a valid string"),
        (
            with(json!({"model": {"id": "playbook", "effort": "huge"}})),
            "Failed to parse request: model.effort: \"huge\" is not a valid value; expected one of high, low, max, medium, xhigh",
        ),
        (
            with(json!({"model": {"id": "playbook", "effort": {"type": "huge"}}})),
            "Failed to parse request: model.effort.type: \"huge\" is not a valid value",
        ),
        (
            with(json!({"model": {"id": "playbook", "speed": "slow"}})),
            "Failed to parse request: model.speed: \"slow\" is not a valid value; expected one of fast, standard",
        ),
        (with(json!({"model": {"id": "playbook", "x": 1}})), "Failed to parse request body: unknown field \"x\""),
        (with(json!({"model": {}})), "model.id: Field required"),
        (with(json!({"tools": {}})), "Failed to parse request: tools: Input should be a valid array"),
        (with(json!({"tools": [{}]})), "Failed to parse request: tools[0].type: Field required"),
        (with(json!({"tools": ["bash"]})), "Failed to parse request: tools[0]: Input should be an object"),
        (with(json!({"tools": [{"type": "x"}]})), "Failed to parse request: tools[0].type: \"x\" is not a valid value"),
        (with(json!({"metadata": {"k": 1}})), "Failed to parse request: metadata.k: Input should be a valid string"),
        (
            with(json!({"metadata": pairs(17)})),
            "invalid metadata: metadata map would have 17 entries, exceeding the maximum of 16",
        ),
        (with(json!({"metadata": {long(65): "x"}})), "metadata: keys must have 1 to 64 characters"),
        (with(json!({"metadata": {"k": long(513)}})), "metadata.k: maximum string length is 512"),
        (
            with(json!({"execution_identity": {"type": "robot"}})),
            "Failed to parse request: execution_identity.type: \"robot\" is not a valid value",
        ),
    ];
    for (body, message) in cases {
        assert_eq!(rota.api.post_refused("/v1/agents", body.clone()).await, invalid(message), "{body:.200}");
    }
    rota.api
        .post("/v1/agents", with(json!({"name": long(256), "description": long(2048), "metadata": pairs(16)})))
        .await;

    let agent = rota.api.post("/v1/agents", base.clone()).await;
    let path = format!("/v1/agents/{}", id(&agent));
    for (body, message) in [
        (json!({"name": null}), "agent.name: value cannot be null"),
        (json!({"name": ""}), "agent.name: minimum string length is 1"),
        (json!({"model": null}), "agent.model: value cannot be null"),
        (json!({"version": "1"}), "Failed to parse request: agent.version: Input should be a valid integer"),
        (json!({"version": 0}), "agent.version: value must be greater than or equal to 1"),
        (json!({"archived_at": null}), "Failed to parse request body: unknown field \"archived_at\""),
        (
            json!({"multiagent": {"type": "team"}}),
            "Failed to parse request: agent.multiagent.type: \"team\" is not a valid value",
        ),
    ] {
        assert_eq!(rota.api.post_refused(&path, body.clone()).await, invalid(message), "{body}");
    }
    assert_eq!(rota.api.get(&path).await, agent, "nothing of a refused update remains");
}

#[tokio::test]
async fn wrong_bodies_of_environments_are_refused_by_field() {
    let rota = Rota::without_engine().await;
    let cases = [
        (json!({}), "name: Field required"),
        (json!({"name": "e", "x": 1}), "x: Extra inputs are not permitted"),
        (json!({"name": long(257)}), "name: String should have at most 256 characters"),
        (json!({"name": "e", "config": {"networking": {}}}), "config.type: Field required"),
        (
            json!({"name": "e", "config": {"type": "moon"}}),
            "config: Input tag 'moon' found using 'type' does not match any of the expected tags: 'cloud', 'self_hosted'",
        ),
        (
            json!({"name": "e", "config": {"type": "self_hosted", "networking": {"type": "unrestricted"}}}),
            "config.networking: Extra inputs are not permitted",
        ),
        (
            json!({"name": "e", "config": {"type": "cloud", "networking": {"type": "some"}}}),
            "config.networking: Input tag 'some' found using 'type' does not match any of the expected tags: 'unrestricted', 'limited'",
        ),
        (
            json!({"name": "e", "config": {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["http://x"]}}}),
            "config.networking.allowed_hosts[0]: must be a host name, with \"*.\" in front for its subdomains",
        ),
        (
            json!({"name": "e", "config": {"type": "cloud", "packages": {"brew": ["x"]}}}),
            "config.packages.brew: Extra inputs are not permitted",
        ),
        (json!({"name": "e", "scope": "planet"}), "scope: \"planet\" is not a valid value"),
    ];
    for (body, message) in cases {
        assert_eq!(rota.api.post_refused("/v1/environments", body.clone()).await, invalid(message), "{body:.200}");
    }
}

#[tokio::test]
async fn wrong_bodies_of_deployments_are_refused_by_field() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let base = parts.deployment_body(&json!({}));
    let with = |change: Value| over(base.clone(), &change);
    let budget = |amount: &str| json!({"type": "limit", "max_list_cost": {"amount": amount, "currency": "USD"}});
    let not_cents =
        "budget.max_list_cost.amount: must be a whole number of cents greater than zero, without leading zeros";
    let cases = [
        (without(base.clone(), "name"), "name: Field required"),
        (without(base.clone(), "agent"), "agent: Field required"),
        (without(base.clone(), "environment_id"), "environment_id: Field required"),
        (without(base.clone(), "initial_events"), "initial_events: Field required"),
        (with(json!({"x": 1})), "Failed to parse request body: unknown field \"x\""),
        (with(json!({"status": "paused"})), "Failed to parse request body: unknown field \"status\""),
        (with(json!({"name": long(257)})), "name: maximum string length is 256"),
        (with(json!({"description": long(2049)})), "description: maximum string length is 2048"),
        (with(json!({"environment_id": long(129)})), "environment_id: maximum string length is 128"),
        (
            with(json!({"agent": {"type": "agent_with_overrides", "id": "x"}})),
            "Failed to parse request: agent.type: \"agent_with_overrides\" is not a valid value",
        ),
        (with(json!({"agent": {"type": "agent"}})), "agent.id: Field required"),
        (
            with(json!({"agent": {"type": "agent", "id": "x", "version": 0}})),
            "agent.version: value must be greater than or equal to 1",
        ),
        (with(json!({"agent": {"id": "x"}})), "Failed to parse request: agent.type: Field required"),
        (with(json!({"vault_ids": vec!["v"; 51]})), "vault_ids: value must contain no more than 50 item(s)"),
        (
            with(json!({"resources": vec![json!({"type": "file", "file_id": "f"}); 501]})),
            "resources: value must contain no more than 500 item(s)",
        ),
        (
            with(json!({"resources": [{"type": "disk"}]})),
            "Failed to parse request: resources[0].type: \"disk\" is not a valid value",
        ),
        (with(json!({"resources": [{"type": "file"}]})), "resources.0.file_id: Field required"),
        (
            with(json!({"schedule": {"type": "interval"}})),
            "Failed to parse request: schedule.type: \"interval\" is not a valid value",
        ),
        (with(json!({"schedule": {"type": "cron", "expression": "* * * * *"}})), "schedule.timezone: Field required"),
        (with(json!({"schedule": {"type": "cron", "timezone": "UTC"}})), "schedule.expression: Field required"),
        (
            with(json!({"schedule": {"type": "cron", "expression": "0 ".repeat(129), "timezone": "UTC"}})),
            "schedule.expression: maximum string length is 256",
        ),
        (
            with(json!({"schedule": {"type": "cron", "expression": "* * * * *", "timezone": "x".repeat(129)}})),
            "schedule.timezone: maximum string length is 64",
        ),
        (
            with(json!({"budget": {"type": "wish"}})),
            "Failed to parse request: budget.type: \"wish\" is not a valid value",
        ),
        (with(json!({"budget": budget("0125")})), not_cents),
        (with(json!({"budget": budget("1.25")})), not_cents),
    ];
    for (body, message) in cases {
        assert_eq!(rota.api.post_refused("/v1/deployments", body.clone()).await, invalid(message), "{body:.200}");
    }
    let deployment = parts.deployment(&rota.api, json!({})).await;
    let path = format!("/v1/deployments/{}", id(&deployment));
    for (field, value, message) in [
        ("name", Value::Null, "name: value cannot be null"),
        ("agent", Value::Null, "agent: value cannot be null"),
        ("environment_id", Value::Null, "environment_id: value cannot be null"),
        ("initial_events", Value::Null, "initial_events: value cannot be null"),
        ("initial_events", json!([]), "initial_events: value must contain at least 1 item"),
        ("version", json!(1), "Failed to parse request body: unknown field \"version\""),
    ] {
        assert_eq!(rota.api.post_refused(&path, json!({ field: value })).await, invalid(message));
    }
    assert_eq!(rota.api.get(&path).await, deployment, "nothing of a refused update remains");
}

#[tokio::test]
async fn wrong_first_events_are_refused_by_place() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let say = message("hi");
    let system = json!({"type": "system.message", "content": [{"type": "text", "text": "be brief"}]});
    let outcome =
        json!({"type": "user.define_outcome", "description": "d", "rubric": {"type": "text", "content": "r"}});
    let cases = [
        (json!([]), "initial_events: value must contain at least 1 item"),
        (json!(vec![say.clone(); 51]), "initial_events: value must contain no more than 50 item(s)"),
        (
            json!([{"type": "user.interrupt"}]),
            "Failed to parse request: initial_events[0].type: \"user.interrupt\" is not a valid value",
        ),
        (
            json!([say, {"type": "agent.message"}]),
            "Failed to parse request: initial_events[1].type: \"agent.message\" is not a valid value",
        ),
        (json!([{"content": []}]), "Failed to parse request: initial_events[0].type: Field required"),
        (json!([{"type": "user.message"}]), "initial_events.0.content: Field required"),
        (
            json!([{"type": "user.message", "content": []}]),
            "initial_events.0.content: value must contain at least 1 item",
        ),
        (
            json!([{"type": "user.message", "content": [{"type": "song"}]}]),
            "Failed to parse request: initial_events[0].content[0].type: \"song\" is not a valid value",
        ),
        (
            json!([{"type": "user.message", "content": [{"type": "image", "source": {"type": "url"}}]}]),
            "initial_events.0.content.0.source.url: Field required",
        ),
        (json!([say, system, say]), "initial_events: a `system.message` event must be the last event in the list"),
        (json!([outcome, outcome]), "initial_events: at most one `user.define_outcome` event is allowed"),
        (json!([{"type": "user.define_outcome", "description": "d"}]), "initial_events.0.rubric: Field required"),
        (
            json!([over(outcome.clone(), &json!({"max_iterations": 21}))]),
            "initial_events.0.max_iterations: value must be less than or equal to 20",
        ),
    ];
    for (events, message) in cases {
        let body = parts.deployment_body(&json!({ "initial_events": events }));
        assert_eq!(rota.api.post_refused("/v1/deployments", body).await, invalid(message));
    }
    let alone = parts.deployment_body(&json!({"initial_events": [system]}));
    assert_eq!(rota.api.post_refused("/v1/deployments", alone).await.status, 400);
    for events in [json!([say, system]), json!([outcome, system]), json!([say, outcome]), json!(vec![say.clone(); 50])]
    {
        let deployment = parts.deployment(&rota.api, json!({ "initial_events": events })).await;
        assert_eq!(deployment["initial_events"], events, "first events come back as they were sent");
    }
    let session = parts.session_body(&json!({"initial_events": [say, system]}));
    let refused = invalid("Failed to parse request: initial_events[1].type: \"system.message\" is not a valid value");
    assert_eq!(rota.api.post_refused("/v1/sessions", session).await, refused);
}

#[tokio::test]
async fn wrong_bodies_of_sessions_are_refused_by_field() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let base = parts.session_body(&json!({}));
    let with = |change: Value| over(base.clone(), &change);
    let agent = |change: Value| {
        with(json!({"agent": over(json!({"type": "agent_with_overrides", "id": id(&parts.agent)}), &change)}))
    };
    let cases = [
        (without(base.clone(), "agent"), "agent: value is required"),
        (without(base.clone(), "environment_id"), "environment_id: value is required"),
        (with(json!({"agent": 7})), "Failed to parse request: agent: Input should be an object"),
        (with(json!({"title": long(513)})), "title: must be at most 512 characters"),
        (with(json!({"deployment_id": "depl_x"})), "Failed to parse request body: unknown field \"deployment_id\""),
        (
            with(json!({"initial_events": vec![message("x"); 51]})),
            "initial_events: value must contain no more than 50 item(s)",
        ),
        (agent(json!({"name": "x"})), "Failed to parse request body: unknown field \"name\""),
        (
            agent(json!({"tools": [{"type": "x"}]})),
            "Failed to parse request: agent.tools[0].type: \"x\" is not a valid value",
        ),
        (
            agent(json!({"model": {"id": "playbook", "effort": "huge"}})),
            "Failed to parse request: agent.model.effort: \"huge\" is not a valid value; expected one of high, low, max, medium, xhigh",
        ),
    ];
    for (body, message) in cases {
        assert_eq!(rota.api.post_refused("/v1/sessions", body.clone()).await, invalid(message), "{body:.200}");
    }
    let session = parts.session(&rota.api, json!({})).await;
    let path = format!("/v1/sessions/{}", id(&session));
    for (body, message) in [
        (json!({"status": "idle"}), "Failed to parse request body: unknown field \"status\""),
        (json!({"title": 7}), "Failed to parse request: title: Input should be a valid string"),
        (json!({"agent": {"system": "x"}}), "Failed to parse request body: unknown field \"system\""),
        (json!({"vault_ids": ["vlt_x"]}), "vault_ids: not yet supported"),
    ] {
        assert_eq!(rota.api.post_refused(&path, body.clone()).await, invalid(message), "{body}");
    }
    let events = format!("{path}/events");
    for (body, message) in [
        (json!({}), "events: value is required"),
        (json!({"events": []}), "events: must contain at least 1 item"),
        (json!({"events": vec![message("x"); 51]}), "events: value must contain no more than 50 item(s)"),
        (
            json!({"events": [{"type": "agent.message"}]}),
            "Failed to parse request: events[0].type: \"agent.message\" is not a valid value",
        ),
        (
            json!({"events": [{"type": "user.tool_confirmation", "tool_use_id": "x"}]}),
            "events.0.user_tool_confirmation.result: value is required",
        ),
        (
            json!({"events": [{"type": "user.tool_confirmation", "tool_use_id": "x", "result": "maybe"}]}),
            "Failed to parse request: events[0].result: \"maybe\" is not a valid value; expected one of allow, deny",
        ),
        (
            json!({"events": [over(message("x"), &json!({"id": "sevt_x"}))]}),
            "Failed to parse request body: unknown field \"id\"",
        ),
    ] {
        assert_eq!(rota.api.post_refused(&events, body.clone()).await, invalid(message), "{body:.200}");
    }
    assert_eq!(rota.api.get(&path).await["status"], "idle", "nothing of a refused request remains");
}

#[tokio::test]
async fn wrong_queries_are_refused_by_parameter() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let session = parts.session(&rota.api, json!({})).await;
    let events = format!("/v1/sessions/{}/events", id(&session));
    let cases = [
        ("/v1/agents?colour=red", "colour: Extra inputs are not permitted"),
        ("/v1/agents?limit=0", "limit: value must be greater than or equal to 1"),
        ("/v1/agents?limit=101", "limit: value must be less than or equal to 100"),
        ("/v1/agents?limit=ten", "limit: Input should be a valid integer"),
        ("/v1/agents?page=2", "page: Invalid page cursor."),
        ("/v1/agents?page=page_!!", "page: Invalid page cursor."),
        ("/v1/agents?page=page_AAAA", "page: Invalid page cursor."),
        ("/v1/agents?created_at[gte]=yesterday", "created_at[gte]: Input should be a valid RFC 3339 time"),
        ("/v1/agents?created_at[gt]=2026-01-01T00:00:00Z", "created_at[gt]: Extra inputs are not permitted"),
        (
            "/v1/environments?include_archived=1",
            "Failed to parse request body: invalid value for bool field include_archived: \"1\"",
        ),
        ("/v1/deployments?status[]=paused", "status[]: Extra inputs are not permitted"),
        ("/v1/deployments?status=paused&status=active", "status: value must be sent once"),
        ("/v1/deployment_runs?has_error[]=true", "has_error[]: Extra inputs are not permitted"),
        ("/v1/deployments?limit=101", "limit: value must be less than or equal to 100"),
        ("/v1/deployments?status=archived", "status: \"archived\" is not a valid value"),
        ("/v1/deployments?status=active&include_archived=true", "include_archived: cannot be set together with status"),
        ("/v1/deployments?agent_id=nobody", "agent_id: Invalid agent ID."),
        ("/v1/deployment_runs?limit=1001", "limit: value must be less than or equal to 1000"),
        ("/v1/deployment_runs?deployment_id=depl_short", "Invalid deployment ID."),
        ("/v1/deployment_runs?trigger_type=moon", "trigger_type: \"moon\" is not a valid value"),
        (
            "/v1/deployment_runs?has_error=maybe",
            "Failed to parse request body: invalid value for bool field has_error: \"maybe\"",
        ),
        ("/v1/sessions?deployment_id=nothing", "Invalid deployment ID."),
        ("/v1/sessions?statuses[]=asleep", "statuses: \"asleep\" is not a valid value"),
        ("/v1/sessions?order=up", "order: \"up\" is not a valid value"),
        (&format!("{events}?types[]=user.song"), "types: \"user.song\" is not a valid value"),
        (&format!("{events}?limit=1001"), "limit: value must be less than or equal to 1000"),
        (
            &format!("{events}/stream?event_deltas[]=agent.tool_use"),
            "event_deltas: \"agent.tool_use\" is not a valid value",
        ),
        ("/v1/models?limit=1001", "limit: value must be less than or equal to 1000"),
        ("/v1/models?after_id=nobody", "\"nobody\" is not a model of this list"),
    ];
    for (path, message) in cases {
        assert_eq!(rota.api.get_refused(path).await, invalid(message), "{path}");
    }
}

#[tokio::test]
async fn a_well_formed_filter_that_matches_nothing_gives_an_empty_list() {
    let rota = Rota::without_engine().await;
    let other = |prefix: &str| format!("{prefix}_{}", "1".repeat(22));
    for path in [
        format!("/v1/deployments?agent_id={}", other("agent")),
        format!("/v1/deployment_runs?deployment_id={}", other("depl")),
        format!("/v1/sessions?deployment_id={}", other("depl")),
        format!("/v1/sessions?agent_id={}&agent_version=3", other("agent")),
        format!("/v1/sessions?memory_store_id={}", other("memstore")),
    ] {
        let list = rota.api.get(&path).await;
        assert_eq!((&list["data"], &list["next_page"]), (&json!([]), &Value::Null), "{path}");
    }
    for (path, said) in [
        (format!("agents/{}", other("agent")), format!("Agent `{}` not found.", other("agent"))),
        ("environments/x".to_owned(), "Environment x not found.".to_owned()),
        ("deployments/x".to_owned(), "Deployment `x` not found.".to_owned()),
        ("sessions/x".to_owned(), "Session not found: x".to_owned()),
    ] {
        assert_eq!(rota.api.get_refused(&format!("/v1/{path}")).await, not_found(said));
    }
}

#[tokio::test]
async fn a_cursor_serves_only_the_list_that_gave_it() {
    let rota = Rota::without_engine().await;
    for name in ["a", "b", "c"] {
        rota.api.post("/v1/agents", json!({"name": name, "model": "playbook"})).await;
    }
    let first = rota.api.get("/v1/agents?limit=1").await;
    let page = first["next_page"].as_str().unwrap();
    assert!(page.starts_with("page_"));
    let second = rota.api.get(&format!("/v1/agents?limit=2&page={page}")).await;
    assert_eq!(second["data"].as_array().unwrap().len(), 2, "the limit may change");
    let refused = invalid("page: this cursor was given by another list, or with other filters or another order.");
    let with_filter = format!("/v1/agents?limit=1&include_archived=true&page={page}");
    assert_eq!(rota.api.get_refused(&with_filter).await, refused);
    for list in ["environments", "deployments", "deployment_runs", "sessions"] {
        assert_eq!(rota.api.get_refused(&format!("/v1/{list}?page={page}")).await, refused, "{list}");
    }
    let parts = Parts::new(&rota.api).await;
    for _ in 0..2 {
        parts.session(&rota.api, json!({})).await;
    }
    let newest = rota.api.get("/v1/sessions?limit=1").await["next_page"].as_str().unwrap().to_owned();
    let refused = invalid("page token order does not match request");
    assert_eq!(rota.api.get_refused(&format!("/v1/sessions?order=asc&page={newest}")).await, refused);
}

#[tokio::test]
async fn a_cursor_of_occurrences_that_no_server_gave_is_refused() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let schedule = json!({"type": "cron", "expression": "0 * * * *", "timezone": "UTC"});
    let deployment = parts.deployment(&rota.api, json!({ "schedule": schedule })).await;
    rota.advance_seconds(3 * 3600);
    let list = format!("/rota/v1/deployments/{}/occurrences?limit=1", id(&deployment));
    let given = rota.api.get(&list).await["next_page"].as_str().unwrap().to_owned();
    let head = &URL_SAFE_NO_PAD.decode(given.strip_prefix("page_").unwrap()).unwrap()[..9];
    for key in ["9223372036854775807.1", "253402300799999999.1", "-9223372036854775808.1", "1", "1.x", ""] {
        let page = URL_SAFE_NO_PAD.encode([head, key.as_bytes()].concat());
        let refused = rota.api.get_refused(&format!("{list}&page=page_{page}")).await;
        assert_eq!(refused, invalid("page: Invalid page cursor."), "{key}");
    }
}

/// Sends `body` as it is.
async fn raw(rota: &Rota, body: impl Into<reqwest::Body>) -> Refusal {
    rota.api.answer(rota.api.request(Method::POST, "/v1/agents").body(body)).await.refusal()
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    let rota = Rota::without_engine().await;
    for body in ["", "{", "name=a", "{\"name\": \"a\"} x", "{\"name\": \"\u{1}\"}", "[1,]"] {
        let refused = raw(&rota, body).await;
        assert_eq!((refused.status, &*refused.kind), (400, "invalid_request_error"), "{body}");
        assert!(refused.message.starts_with("the body is not JSON: "), "{}", refused.message);
    }
    assert_eq!(raw(&rota, b"\xff\xfe".to_vec()).await.status, 400);
}

#[tokio::test]
async fn deeply_nested_bodies_are_refused_and_the_server_lives_on() {
    let rota = Rota::without_engine().await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 100_000;
        let body = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(raw(&rota, body).await.status, 400);
    }
    let schema =
        (0..100).fold(json!({"type": "object"}), |inner, _| json!({"type": "object", "properties": {"a": inner}}));
    let tool = json!({"type": "custom", "name": "t", "description": "d", "input_schema": schema});
    let refused = rota.api.post_refused("/v1/agents", json!({"name": "a", "model": "playbook", "tools": [tool]})).await;
    assert_eq!(refused.status, 400);
    assert_eq!(rota.api.get("/v1/agents").await["data"], json!([]));
}

#[tokio::test]
async fn a_body_of_more_than_32_mb_is_refused() {
    let rota = Rota::without_engine().await;
    let too_large = 32 * 1024 * 1024 + 1;
    let refused = raw(&rota, vec![b' '; too_large]).await;
    let expected = Refusal {
        status: 413,
        kind: "request_too_large".to_owned(),
        message: "the body is larger than 32 MB".to_owned(),
    };
    assert_eq!(refused, expected);
    let mut padded = json!({"name": "a", "model": "playbook"}).to_string().into_bytes();
    padded.resize(too_large - 1, b' ');
    rota.api.answer(rota.api.request(Method::POST, "/v1/agents").body(padded)).await.success();
}

fn gzip(text: &[u8]) -> Vec<u8> {
    use std::io::Write;

    let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    coder.write_all(text).unwrap();
    coder.finish().unwrap()
}

#[tokio::test]
async fn a_body_may_be_coded_with_gzip_and_what_comes_out_is_bounded() {
    let rota = Rota::without_engine().await;
    let send = async |coding: &str, body: Vec<u8>| {
        rota.api
            .answer(rota.api.request(Method::POST, "/v1/agents").header("content-encoding", coding).body(body))
            .await
    };
    let body = json!({"name": "coded", "model": "playbook", "system": long(100_000)}).to_string().into_bytes();
    let coded = gzip(&body);
    assert!(coded.len() < 1000);
    assert_eq!(send("gzip", coded.clone()).await.success()["name"], "coded");
    let bomb = send("gzip", gzip(&b" ".repeat(32 * 1024 * 1024 + 1))).await.refusal();
    assert_eq!((bomb.status, &*bomb.message), (413, "the body is larger than 32 MB"));
    let wrong = send("gzip", body).await.refusal();
    assert!(wrong.status == 400 && wrong.message.starts_with("the body is not gzip, as it says: "), "{wrong:?}");
    let refused = invalid("content-encoding: \"br\" is not read; send the body with gzip, or as it is");
    assert_eq!(send("br", coded).await.refusal(), refused);
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_refused() {
    let rota = Rota::without_engine().await;
    for (method, path) in [
        (Method::PUT, "/v1/agents"),
        (Method::PATCH, "/v1/agents/x"),
        (Method::DELETE, "/v1/deployments/x"),
        (Method::GET, "/v1/deployments/x/run"),
        (Method::POST, "/v1/deployment_runs"),
        (Method::POST, "/v1/models"),
        (Method::POST, "/healthz"),
        (Method::PUT, "/readyz"),
        (Method::DELETE, "/metrics"),
    ] {
        let answer = rota.api.send(method.clone(), path, None).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(answer.refusal().kind, "invalid_request_error");
    }
}

#[tokio::test]
async fn an_id_that_is_no_text_is_not_found() {
    let rota = Rota::without_engine().await;
    for path in ["/v1/agents/%ff", "/v1/sessions/%ff/events", "/v1/deployments/%c3%28", "/v1/environments/%00"] {
        assert_eq!(rota.api.get_refused(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_body_is_refused_before_anything_is_looked_up() {
    let rota = Rota::without_engine().await;
    for path in [
        "/v1/agents/agent_nobody",
        "/v1/environments/env_nowhere",
        "/v1/deployments/depl_none",
        "/v1/sessions/sesn_none",
        "/rota/v1/deployments/depl_none/policy",
        "/rota/v1/webhook_endpoints/whe_none",
    ] {
        let refusal = rota.api.post_refused(path, json!({"colour": "red"})).await.message;
        let said = ["colour: Extra inputs are not permitted", "Failed to parse request body: unknown field \"colour\""];
        assert!(said.contains(&&*refusal), "{path}: {refusal}");
    }
}
