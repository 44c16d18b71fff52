//! Who may call what: keys, workspaces, the beta header.

use std::collections::BTreeMap;

use reqwest::{Method, RequestBuilder};
use rota_api::model::{Lifecycle, Line};
use rota_server::{
    config::{ModelConfig, Provider, Role},
    http::operations::{Beta, Operation, Who, operations},
};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, BETA, ENDPOINTS, Refusal, forbidden, invalid, not_found},
    dreams,
    files::upload,
    given::{Parts, agent, environment, id, message, model},
    memory_stores,
    server::Rota,
    skills,
    tunnels::{self, AUTHORITIES},
    vaults,
    workers::Site,
};

/// One of each resource, by the name of the parameter that stands for it in a path.
pub async fn one_of_each(api: &Api) -> BTreeMap<&'static str, String> {
    let wants = json!({"url": "https://hooks.invalid", "enabled_events": ["agent.created"]});
    let endpoint = api.post(ENDPOINTS, wants).await;
    let parts = Parts::new(api).await;
    let deliveries = api.get(&format!("{ENDPOINTS}/{}/deliveries", id(&endpoint))).await;
    let deployment = parts.deployment(api, json!({})).await;
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let file = upload(api, "a.txt", b"content").await;
    let resources = format!("/v1/sessions/{}/resources", run["session_id"].as_str().unwrap());
    let resource = api.post(&resources, json!({"type": "file", "file_id": id(&file)})).await;
    let notes = memory_stores::store(api, "notes").await;
    let memory = memory_stores::memory(api, &notes, "/one", "of each").await;
    let skill = skills::skill(api, "one").await;
    let vault = vaults::vault(api, "v").await;
    let credential = vaults::variable("KEY", &json!({}));
    let credential = api.post(&vaults::credentials(&vault), credential).await;
    let profile = api.post("/v1/user_profiles", json!({})).await;
    let dreams_of = [run["session_id"].as_str().unwrap()];
    let dream = dreams::dream(api, id(&notes), &dreams_of, json!({})).await;
    let tunnel = tunnels::tunnel(api).await;
    let certificates = format!("/v1/tunnels/{}/certificates", id(&tunnel));
    let certificate = api.post(&certificates, json!({"ca_certificate_pem": AUTHORITIES[0]})).await;
    let site = Site::new(api, json!({})).await;
    let work = site.session(api).await;
    let starts = format!("/rota/v1/deployments/{}", id(&deployment));
    let start = api.post(&format!("{starts}/runs"), json!({"at": "2026-12-01T00:00:00Z"})).await;
    let hook = api.post(&format!("{starts}/hooks"), json!({"scheme": "standard"})).await;
    BTreeMap::from([
        ("{start_id}", id(&start).to_owned()),
        ("{hook_id}", id(&hook).to_owned()),
        ("{file_id}", id(&file).to_owned()),
        ("{resource_id}", id(&resource).to_owned()),
        ("{skill_id}", id(&skill).to_owned()),
        ("{version}", skill["latest_version_id"].as_str().unwrap().to_owned()),
        ("{vault_id}", id(&vault).to_owned()),
        ("{credential_id}", id(&credential).to_owned()),
        ("{agent_id}", id(&parts.agent).to_owned()),
        ("{environment_id}", id(&parts.environment).to_owned()),
        // Work is in an environment of its own.
        ("{environment_id}/work", format!("{}/work", id(&site.parts.environment))),
        ("{environment_id}/keys", format!("{}/keys", id(&site.parts.environment))),
        ("{environment_key_id}", id(&site.key).to_owned()),
        ("{environment_key}", site.key["secret"].as_str().unwrap().to_owned()),
        ("{work_id}", id(&work).to_owned()),
        ("{deployment_id}", id(&deployment).to_owned()),
        ("{deployment_run_id}", id(&run).to_owned()),
        ("{session_id}", run["session_id"].as_str().unwrap().to_owned()),
        ("{thread_id}", run["session_id"].as_str().unwrap().replace("sesn_", "sthr_")),
        ("{memory_store_id}", id(&notes).to_owned()),
        ("{memory_id}", id(&memory).to_owned()),
        ("{memory_version_id}", memory["memory_version_id"].as_str().unwrap().to_owned()),
        ("{model_id}", "playbook".to_owned()),
        ("{dream_id}", id(&dream).to_owned()),
        ("{user_profile_id}", id(&profile).to_owned()),
        ("{tunnel_id}", id(&tunnel).to_owned()),
        ("{certificate_id}", id(&certificate).to_owned()),
        ("{workspace_id}", "wrkspc_any".to_owned()),
        ("{api_key_id}", "apikey_any".to_owned()),
        ("{webhook_endpoint_id}", id(&endpoint).to_owned()),
        ("{webhook_event_id}", id(&deliveries["data"][0]).to_owned()),
    ])
}

/// The path of an operation, with the ids of resources that are there.
pub fn filled(operation: &Operation, ids: &BTreeMap<&str, String>) -> String {
    // Longer names first.
    ids.iter().rev().fold(operation.path.to_owned(), |path, (name, id)| path.replace(name, id))
}

/// A client that the operation lets in: `api`, or the worker of the environment among `ids`.
pub fn let_in(operation: &Operation, api: &Api, ids: &BTreeMap<&str, String>) -> Api {
    if operation.who == Who::Worker { api.with_key(ids["{environment_key}"].clone()) } else { api.clone() }
}

/// Whether an operation takes the key of a workspace.
fn is_of_a_workspace(operation: &Operation) -> bool {
    !matches!(operation.who, Who::Administrator | Who::Worker | Who::Signed)
}

/// A body that the operation would read, where it has one.
fn body(operation: &Operation) -> Option<Value> {
    let events = json!({"events": [message("hi")]});
    operation.has_body.then(|| match operation.path.rsplit('/').next() {
        Some("events") => events,
        Some("resources") => json!({"type": "file", "file_id": "file_x"}),
        Some("memories") => json!({"path": "/hi", "content": "hi"}),
        Some("{memory_id}") => json!({"content": "hi"}),
        Some("memory_stores" | "{memory_store_id}") => json!({"name": "hi"}),
        Some("{resource_id}") => json!({"authorization_token": "x"}),
        Some("certificates") => json!({"ca_certificate_pem": AUTHORITIES[1]}),
        Some("action_urls") => json!({"action": {"type": "enroll_end_user"}}),
        Some("data_controls") => json!({"cmek": {"type": "disabled"}}),
        Some("keys") => json!({"name": "k"}),
        Some("hooks") => json!({"scheme": "standard"}),
        Some("backfill") => json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}),
        Some("{work_id}") => json!({"metadata": {}}),
        Some("credentials") => vaults::variable("OTHER", &json!({})),
        _ => json!({}),
    })
}

fn refusal(status: u16, kind: &str, message: &str) -> Refusal {
    Refusal { status, kind: kind.to_owned(), message: message.to_owned() }
}

const NO_KEY: &str = "x-api-key header is required";

#[tokio::test]
async fn every_route_refuses_who_has_no_key_or_a_wrong_one() {
    let rota = Rota::without_engine().await;
    let ids = one_of_each(&rota.api).await;
    let impostor = rota.api.with_key(format!("{}x", rota.api.key));
    for operation in operations() {
        let (method, path) = (operation.method.clone(), filled(&operation, &ids));
        let bare = rota.api.http.request(method.clone(), format!("{}{path}", rota.api.base)).header(BETA.0, BETA.1);
        let answer = rota.api.answer(bare).await.refusal();
        if operation.who == Who::Signed {
            assert_eq!((answer.status, &*answer.kind), (401, "authentication_error"), "{method} {path}");
            continue;
        }
        assert_eq!(answer, refusal(401, "authentication_error", NO_KEY), "{method} {path}");
        let answer = impostor.send(method.clone(), &path, body(&operation).as_ref()).await.refusal();
        assert_eq!(answer, refusal(401, "authentication_error", "invalid x-api-key"), "{method} {path}");
    }
}

#[tokio::test]
async fn another_workspace_finds_nothing_at_any_route() {
    let rota = Rota::without_engine().await;
    let ids = one_of_each(&rota.api).await;
    let other = rota.other_workspace().await;
    let mut walked = 0;
    for operation in operations().into_iter().filter(is_of_a_workspace).filter(|operation| operation.who != Who::Reader)
    {
        let (method, path) = (operation.method.clone(), filled(&operation, &ids));
        let names_a_resource = ids.iter().any(|(name, id)| *name != "{model_id}" && path.contains(id.as_str()));
        if names_a_resource {
            let answer = other.send(method.clone(), &path, body(&operation).as_ref()).await.refusal();
            assert_eq!((answer.status, &*answer.kind), (404, "not_found_error"), "{method} {path}");
            walked += 1;
        } else if method == Method::GET
            && !["/v1/models", "/rota/v1/schedules", "/rota/v1/images", "/rota/v1/retention"]
                .iter()
                .any(|p| path.starts_with(p))
        {
            let has_no_limit = ["/rota/v1/attention", "/rota/v1/runs/sums"].contains(&&*path);
            let all = if has_no_limit { path.clone() } else { format!("{path}?limit=100") };
            assert_eq!(other.get(&all).await["data"], json!([]), "{path}");
        }
    }
    assert_eq!(walked, 120);
    let deployment = rota.api.get(&format!("/v1/deployments/{}", ids["{deployment_id}"])).await;
    assert_eq!((&deployment["archived_at"], &deployment["status"]), (&Value::Null, &json!("active")));
}

#[tokio::test]
async fn the_organization_is_for_administrators_and_workspaces_are_for_who_names_one() {
    let rota = Rota::without_engine().await;
    let ids = one_of_each(&rota.api).await;
    let administrator = rota.administrator().await;
    let no_administrator = forbidden("this needs an administrator's key: `rota keys create --admin` makes one");
    let no_worker =
        forbidden("this needs the key of an environment: POST /rota/v1/environments/{environment_id}/keys makes one");
    let no_workspace =
        forbidden("an administrator's key acts in the workspace that the header anthropic-workspace-id names");
    for operation in operations() {
        let (api, refused) = match operation.who {
            Who::Administrator => (&rota.api, &no_administrator),
            Who::Worker => (&rota.api, &no_worker),
            Who::Workspace | Who::Starter | Who::WorkspaceOrWorker => (&administrator, &no_workspace),
            Who::Reader | Who::Signed => continue,
        };
        let (method, path) = (operation.method.clone(), filled(&operation, &ids));
        let answer = api.send(method.clone(), &path, body(&operation).as_ref()).await.refusal();
        assert_eq!(answer, *refused, "{method} {path}");
    }
    let nowhere = format!("wrkspc_{}", "1".repeat(22));
    let refused = not_found(format!("Workspace `{nowhere}` not found."));
    assert_eq!(administrator.in_workspace(&nowhere).get_refused("/v1/agents").await, refused);
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    let answer = administrator.in_workspace(&workspace).send(Method::GET, "/v1/agents", None).await;
    assert_eq!(answer.headers["anthropic-workspace-id"], *workspace);
    assert_eq!(answer.success()["data"].as_array().unwrap().len(), 2);
    let bare = administrator.http.get(format!("{}/v1/organizations/me", rota.api.base));
    let answer = administrator.answer(bare.header("x-api-key", &administrator.key)).await;
    assert!(!answer.headers.contains_key("anthropic-workspace-id"));
    assert_eq!(answer.success()["type"], "organization", "it needs no beta header");
}

#[tokio::test]
async fn a_worker_reaches_what_is_for_workers_and_nothing_else() {
    let rota = Rota::without_engine().await;
    let ids = one_of_each(&rota.api).await;
    let worker = rota.api.with_key(ids["{environment_key}"].clone());
    let agent = rota.api.get(&format!("/v1/agents/{}", ids["{agent_id}"])).await;
    let elsewhere = Parts { agent, environment: environment(&rota.api, "elsewhere").await };
    let elsewhere = Site::of(&rota.api, elsewhere).await.worker;
    let no_administrator = forbidden("this needs an administrator's key: `rota keys create --admin` makes one");
    let unauthorized = forbidden("Token not authorized for this environment");
    let no_key = refusal(401, "authentication_error", "Authentication failed");
    let mut walked = 0;
    for operation in operations() {
        let (method, path) = (operation.method.clone(), filled(&operation, &ids));
        let ask = async |api: &Api| api.send(method.clone(), &path, body(&operation).as_ref()).await;
        match operation.who {
            Who::Signed => assert_eq!(ask(&worker).await.status, 401, "{method} {path}"),
            Who::Administrator => assert_eq!(ask(&worker).await.refusal(), no_administrator, "{method} {path}"),
            Who::Workspace if method == Method::GET && path.starts_with("/v1/skills") || path.contains("/work/") => {
                assert_eq!(ask(&worker).await.status, 403, "{method} {path}");
            }
            Who::Workspace if path.ends_with("/content") => {
                assert_eq!(ask(&worker).await.refusal(), not_found("Not found"), "{method} {path}");
            }
            Who::Workspace | Who::Starter | Who::Reader => {
                assert_eq!(ask(&worker).await.refusal(), no_key, "{method} {path}");
            }
            Who::Worker | Who::WorkspaceOrWorker => {
                let refused = ask(&elsewhere).await.refusal();
                if path.contains("/work") {
                    assert_eq!(refused, unauthorized, "{method} {path}");
                } else if path.starts_with("/v1/memory_stores") {
                    assert_eq!(refused.status, 403, "{method} {path}: a key reaches no memories");
                } else {
                    assert_eq!(refused.status, 404, "{method} {path}: the session is another environment's");
                }
                walked += 1;
            }
        }
    }
    assert_eq!(walked, 17);
}

#[tokio::test]
async fn a_body_cannot_refer_to_another_workspace() {
    let rota = Rota::without_engine().await;
    let theirs = Parts::new(&rota.api).await;
    let other = rota.other_workspace().await;
    let ours = Parts::new(&other).await;
    for (field, value, kind) in
        [("agent", id(&theirs.agent), "agent"), ("environment_id", id(&theirs.environment), "environment")]
    {
        let refused = not_found(format!("Referenced {kind} not found or not accessible."));
        let deployment = ours.deployment_body(&json!({ field: value }));
        assert_eq!(other.post_refused("/v1/deployments", deployment).await, refused);
        let session = ours.session_body(&json!({ field: value }));
        let of_a_session = not_found(format!("Environment {value} not found."));
        let refused = if kind == "environment" { of_a_session } else { refused };
        assert_eq!(other.post_refused("/v1/sessions", session).await, refused);
    }
    let roster = json!({"type": "coordinator", "agents": [id(&theirs.agent)]});
    let body = json!({"name": "a", "model": "playbook", "multiagent": roster});
    let refused = format!("Agent has invalid configuration: subagent {} not found", id(&theirs.agent));
    assert_eq!(other.post_refused("/v1/agents", body).await, invalid(refused));
}

#[tokio::test]
async fn a_key_that_is_revoked_ends_at_once() {
    let rota = Rota::without_engine().await;
    rota.api.get("/v1/agents").await;
    let key = rota.server.first_key.as_ref().unwrap().id.to_string();
    let revoke = move |tx: &mut rota_server::db::Tx<'_>| rota_server::resources::api_keys::revoke(tx, &key);
    rota.server.app().db.write(revoke).await.unwrap();
    let refused = refusal(401, "authentication_error", "invalid x-api-key");
    assert_eq!(rota.api.get_refused("/v1/agents").await, refused);
}

/// A request to the agents of the server, headed by `headers` alone.
fn headed(api: &Api, query: &str, headers: &[(&str, &str)]) -> RequestBuilder {
    let request = api.http.get(format!("{}/v1/agents{query}", api.base));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

#[tokio::test]
async fn a_key_is_taken_from_either_header_and_for_its_own_workspace_only() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let key = api.key.as_str();
    let (bearer, small, basic) = (format!("Bearer {key}"), format!("bearer {key}"), format!("Basic {key}"));
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    let other = format!("wrkspc_{}", "1".repeat(22));
    let rows: [(&[(&str, &str)], u16); 11] = [
        (&[("x-api-key", key)], 200),
        (&[("authorization", &bearer)], 200),
        (&[("authorization", &small)], 200),
        (&[("authorization", &basic)], 401),
        (&[("authorization", key)], 401),
        (&[("x-api-key", "wrong"), ("authorization", &bearer)], 401),
        (&[("x-api-key", key), ("anthropic-workspace-id", &workspace)], 200),
        (&[("x-api-key", key), ("anthropic-workspace-id", "")], 200),
        (&[("x-api-key", key), ("anthropic-workspace-id", &other)], 404),
        (&[("x-api-key", key), ("anthropic-workspace-id", "wrkspc_other")], 400),
        (&[("x-api-key", key), ("anthropic-workspace-id", "default")], 400),
    ];
    for (headers, status) in rows {
        let answer = api.answer(headed(api, "", headers).header(BETA.0, BETA.1)).await;
        assert_eq!(answer.status, status, "{headers:?}");
        match status {
            200 => assert_eq!(answer.headers["anthropic-workspace-id"], *workspace),
            401 => assert_eq!(answer.refusal().kind, "authentication_error"),
            404 => assert_eq!(answer.refusal(), not_found(format!("Workspace `{other}` not found."))),
            _ => {
                let said = "anthropic-workspace-id header must be a valid workspace ID.";
                assert_eq!(answer.refusal(), invalid(said));
            }
        }
    }
}

#[tokio::test]
async fn the_beta_header_opens_the_api_with_and_without_the_query_parameter() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let ask = async |query: &str, betas: &[&str]| -> Answer {
        let request = headed(api, query, &[("x-api-key", &api.key)]);
        api.answer(betas.iter().fold(request, |request, beta| request.header(BETA.0, *beta))).await
    };
    for query in ["", "?beta=true"] {
        assert_eq!(ask(query, &[BETA.1]).await.status, 200);
        assert_eq!(ask(query, &["files-api-2025-04-14,managed-agents-2026-04-01"]).await.status, 200);
        assert_eq!(ask(query, &["files-api-2025-04-14", BETA.1]).await.status, 200);
        let refused = not_found("Not found: /v1/agents needs the header `anthropic-beta: managed-agents-2026-04-01`");
        assert_eq!(ask(query, &[]).await.refusal(), refused);
        assert_eq!(ask(query, &["files-api-2025-04-14"]).await.refusal(), refused);
        assert_eq!(ask(query, &[BETA.1, "efs-2026-10-01,of-a-later-release-2031-01-31"]).await.status, 200);
        let refused = ask(query, &[BETA.1, "nonsense"]).await.refusal();
        assert_eq!((refused.status, &*refused.kind), (400, "invalid_request_error"));
        let start = "Unexpected value(s) `nonsense` for the `anthropic-beta` header.";
        assert!(refused.message.starts_with(start), "{}", refused.message);
    }
}

#[tokio::test]
async fn every_operation_needs_the_beta_header_or_not_as_the_table_says() {
    let rota = Rota::without_engine().await;
    let ids = one_of_each(&rota.api).await;
    let key = &rota.api.key;
    for operation in operations() {
        let (method, path) = (operation.method.clone(), filled(&operation, &ids));
        let bare = rota.api.http.request(method.clone(), format!("{}{path}?colour=red", rota.api.base));
        let answer = rota.api.answer(bare.header("x-api-key", key)).await.refusal();
        let needed = match operation.beta {
            Beta::Required => Some(BETA.1),
            Beta::Named(name) => Some(name),
            Beta::AgentMemory => Some("agent-memory-2026-07-22"),
            Beta::Optional => None,
        };
        let refused = |name| not_found(format!("Not found: {path} needs the header `{}: {name}`", BETA.0));
        match needed {
            Some(name) => assert_eq!(answer, refused(name), "{method} {path}"),
            None => assert!(!answer.message.contains("needs the header"), "{method} {path}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn an_archived_workspace_is_read_and_not_changed_and_only_a_starter_is_recorded() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let made = administrator.post("/v1/organizations/workspaces", json!({"name": "closed soon"})).await;
    let api = administrator.in_workspace(id(&made));
    let ids = one_of_each(&api).await;
    administrator.call(&format!("/v1/organizations/workspaces/{}/archive", id(&made))).await;
    let refused = forbidden("the workspace is archived: its resources can be read, not changed");
    for operation in operations().into_iter().filter(is_of_a_workspace) {
        let (method, path) = (operation.method.clone(), filled(&operation, &ids));
        if ["/stream", "/content"].iter().any(|end| path.ends_with(end)) {
            continue;
        }
        let answer = api.send(method.clone(), &path, body(&operation).as_ref()).await;
        let is_refused = !answer.status.is_success() && answer.refusal() == refused;
        let changes = method != Method::GET && operation.who != Who::Starter;
        assert_eq!(is_refused, changes, "{method} {path}: {}", answer.body);
    }
    let worker = rota.api.with_key(ids["{environment_key}"].clone());
    let poll = format!("/v1/environments/{}/poll", ids["{environment_id}/work"]);
    assert_eq!(worker.get_refused(&poll).await, refused, "its workers are given nothing");
}

#[tokio::test]
async fn models_are_served_without_the_beta_header_in_their_general_shape() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    for path in ["/v1/models", "/v1/models/playbook"] {
        let general = api.answer(api.http.get(format!("{}{path}", api.base)).header("x-api-key", &api.key)).await;
        let beta = api.get(path).await;
        let general = general.success().to_string();
        for name in ["allowed_fallback_models", "compaction"] {
            let name = format!("\"{name}\"");
            assert!(!general.contains(&name) && beta.to_string().contains(&name), "{path}: {name}");
        }
        let model = if path.ends_with("models") { &beta["data"][0] } else { &beta };
        assert_eq!(model["capabilities"]["effort"]["max"], json!({"supported": false}), "{path}");
    }
    assert_eq!(api.get_refused("/v1/models/other").await, not_found("Model `other` not found."));
}

#[tokio::test]
async fn a_model_shows_what_the_configuration_says_of_its_life_and_is_found_by_its_aliases() {
    let time = |text: &str| text.parse().unwrap();
    let rota = Rota::with(|config| {
        let old = ModelConfig {
            lifecycle: Lifecycle::Deprecated,
            released_at: Some(time("2025-02-01T00:00:00Z")),
            deprecated_at: Some(time("2026-01-01T00:00:00Z")),
            retires_at: Some(time("2026-12-31T00:00:00Z")),
            ..model("old", Provider::Playbook)
        };
        let new = ModelConfig {
            aliases: vec!["latest".to_owned()],
            released_at: Some(time("2026-02-01T00:00:00Z")),
            line: Some(Line::Opus),
            max_input_tokens: Some(200_000),
            ..model("new", Provider::Playbook)
        };
        let gone = ModelConfig { lifecycle: Lifecycle::Retired, ..old.clone() };
        config.models = vec![old, new, ModelConfig { id: "gone".to_owned(), ..gone }];
    })
    .await;
    let api = &rota.api;
    let ids = async |query: &str| -> Vec<String> {
        let page = api.get(&format!("/v1/models{query}")).await;
        page["data"].as_array().unwrap().iter().map(|model| id(model).to_owned()).collect()
    };
    assert_eq!(ids("").await, ["new", "old", "playbook"], "the latest first, and none that is retired");
    assert_eq!(ids("?lifecycle=retired").await, ["gone"]);
    assert_eq!(ids("?lifecycle[]=deprecated&lifecycle[]=retired").await, ["old", "gone"]);
    let old = api.get("/v1/models/old").await;
    assert_eq!(
        [&old["lifecycle"], &old["created_at"], &old["deprecated_at"], &old["retires_at"], &old["line"]],
        [
            &json!("deprecated"),
            &json!("2025-02-01T00:00:00.000000Z"),
            &json!("2026-01-01T00:00:00.000000Z"),
            &json!("2026-12-31T00:00:00.000000Z"),
            &Value::Null
        ]
    );
    let new = api.get("/v1/models/latest").await;
    assert_eq!(
        [&new["id"], &new["line"], &new["max_input_tokens"], &new["max_tokens"]],
        [&json!("new"), &json!("opus"), &json!(200_000), &json!(1000)]
    );
    assert_eq!(api.get("/v1/models/gone").await["lifecycle"], "retired");

    agent(api, json!({"model": "latest"})).await;
    agent(api, json!({"model": "old"})).await;
    let refused = api.post_refused("/v1/agents", json!({"name": "a", "model": "gone"})).await;
    let said = "model: \"gone\" is retired; GET /v1/models lists those that can be used";
    assert_eq!(refused, invalid(said));
}

#[tokio::test]
async fn models_are_listed_page_by_page_in_both_directions() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.models = ["a", "b", "c"].map(|id| model(id, Provider::Playbook)).to_vec();
    })
    .await;
    let ids = async |query: &str| -> (Vec<String>, bool) {
        let page = rota.api.get(&format!("/v1/models?{query}")).await;
        let ids = page["data"].as_array().unwrap().iter().map(|model| id(model).to_owned()).collect();
        (ids, page["has_more"].as_bool().unwrap())
    };
    let list = |ids: &[&str], more| (ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>(), more);
    assert_eq!(ids("").await, list(&["a", "b", "c", "playbook"], false));
    assert_eq!(ids("limit=2").await, list(&["a", "b"], true));
    assert_eq!(ids("limit=2&after_id=b").await, list(&["c", "playbook"], false));
    assert_eq!(ids("limit=2&before_id=playbook").await, list(&["b", "c"], true));
    assert_eq!(ids("lifecycle[]=retired").await, list(&[], false));
    let both = rota.api.get_refused("/v1/models?after_id=a&before_id=c").await;
    assert_eq!(both, invalid("after_id: cannot be combined with before_id"));
}

#[tokio::test]
async fn a_browser_that_asks_for_a_page_of_another_origin_is_refused_in_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let asked = api.http.request(Method::OPTIONS, format!("{}/v1/agents", api.base));
    let asked = asked.header("origin", "https://app.example.com").header("access-control-request-method", "POST");
    let answer = api.answer(asked).await;
    let refused = answer.refusal();
    assert_eq!((refused.status, &*refused.kind), (403, "permission_error"));
    assert!(refused.message.starts_with("CORS requests are not answered: "), "{}", refused.message);
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")));
}

#[tokio::test]
async fn probes_need_no_key_and_nothing_else_is_open() {
    let rota = Rota::without_engine().await;
    let get = async |path: &str| rota.api.http.get(format!("{}{path}", rota.api.base)).send().await.unwrap();
    rota.api.get("/v1/agents").await;
    for (path, part) in [("/healthz", "ok"), ("/readyz", "ready"), ("/metrics", "rota_http_requests_total")] {
        let answer = get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(part), "{text}");
        assert!(!text.contains(&rota.api.key), "{path} shows no key");
    }
    for path in ["/", "/v1", "/v1/nothing", "/healthz/more", "/metrics/"] {
        assert_eq!(get(path).await.status(), 401, "{path}");
    }
    assert_eq!(rota.api.get_refused("/v1/nothing").await, not_found("Not found"));
}

#[tokio::test]
async fn a_server_without_the_role_api_has_only_the_paths_that_need_no_key() {
    let rota = Rota::with(|config| config.roles = [Role::Runner].into_iter().collect()).await;
    for Operation { method, path, .. } in operations() {
        let answer = rota.api.send(method.clone(), path, None).await.refusal();
        assert_eq!(answer, not_found("Not found"), "{method} {path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = rota.api.http.get(format!("{}{path}", rota.api.base)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
}
