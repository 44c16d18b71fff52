//! `docs/errors.md` says what the server does: each run error is reached, by hand and by the schedule, and compared.

use std::collections::BTreeSet;

use reqwest::Method;
use rota_api::deployment::RunErrorType;
use rota_server::{
    config::Provider,
    db::Tx,
    error::Error,
    resources::{api_keys, organization},
};
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, model, over, toolset},
    memory_stores,
    server::Rota,
    skills,
};

/// A server on which a deployment, due at nine o'clock, cannot start.
struct Stage {
    rota: Rota,
    /// Who runs the deployment by hand, and looks at what became of it.
    api: Api,
    deployment: Value,
}

fn at_nine(changes: &Value) -> Value {
    over(json!({"schedule": {"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"}}), changes)
}

/// Brings a deployment into the condition of `kind`; `None` when nothing on this server can.
async fn arrange(kind: RunErrorType) -> Option<Stage> {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.models = vec![model("house", Provider::Playbook)];
    })
    .await;
    let api = rota.api.clone();
    let parts = Parts::new(&api).await;
    let deployment = match kind {
        RunErrorType::EnvironmentArchived => {
            let deployment = parts.deployment(&api, at_nine(&json!({}))).await;
            api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
            deployment
        }
        RunErrorType::EnvironmentNotFound => {
            let deployment = parts.deployment(&api, at_nine(&json!({}))).await;
            api.delete(&format!("/v1/environments/{}", id(&parts.environment))).await;
            deployment
        }
        RunErrorType::AgentArchived => {
            let roster = json!({"type": "coordinator", "agents": [id(&parts.agent)]});
            let lead = agent(&api, json!({ "multiagent": roster })).await;
            let deployment = parts.deployment(&api, at_nine(&json!({"agent": id(&lead)}))).await;
            api.call(&format!("/v1/agents/{}/archive", id(&parts.agent))).await;
            deployment
        }
        RunErrorType::FileNotFound => {
            let file = json!({"type": "file", "file_id": "file_x"});
            parts.deployment(&api, at_nine(&json!({"resources": [file]}))).await
        }
        RunErrorType::SessionResourceNotFound => {
            let notes = memory_stores::store(&api, "notes").await;
            let store = json!({"type": "memory_store", "memory_store_id": id(&notes)});
            let deployment = parts.deployment(&api, at_nine(&json!({"resources": [store]}))).await;
            api.delete(&memory_stores::path(&notes)).await;
            deployment
        }
        RunErrorType::SkillNotFound => {
            let skill = skills::skill(&api, "report").await;
            let skills = json!([{"type": "custom", "skill_id": id(&skill)}]);
            let agent = agent(&api, json!({ "skills": skills })).await;
            let deployment = parts.deployment(&api, at_nine(&json!({"agent": id(&agent)}))).await;
            api.delete(&format!("/v1/skills/{}", id(&skill))).await;
            deployment
        }
        RunErrorType::WorkspaceArchived => return Some(in_an_archived_workspace(rota).await),
        RunErrorType::OrganizationDisabled => {
            let deployment = parts.deployment(&api, at_nine(&json!({}))).await;
            let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
            let api = rota.administrator().await.in_workspace(&workspace);
            rota.server.app().db.write(organization::disable).await.unwrap();
            return Some(Stage { rota, api, deployment });
        }
        RunErrorType::SelfHostedResourcesUnsupported => {
            let file = json!({"type": "file", "file_id": "file_x"});
            let deployment = parts.deployment(&api, at_nine(&json!({"resources": [file]}))).await;
            let mine = api.post("/v1/environments", json!({"name": "e", "config": {"type": "self_hosted"}})).await;
            api.post(&format!("/v1/deployments/{}", id(&deployment)), json!({"environment_id": id(&mine)})).await;
            deployment
        }
        RunErrorType::McpEgressBlocked => {
            let agent = agent(&api, with_mcp("https://mcp.example.com/sse")).await;
            let environment = limited(&api, json!({"allowed_hosts": ["elsewhere.example.com"]})).await;
            Parts { agent, environment }.deployment(&api, at_nine(&json!({}))).await
        }
        RunErrorType::SessionRateLimited => {
            let deployment = parts.deployment(&api, at_nine(&json!({}))).await;
            let rota = rota.restart_with(|config| config.rate.sessions_per_minute = 1).await;
            rota.set_time("2026-03-02T08:59:30Z");
            parts.session(&rota.api, json!({})).await;
            return Some(Stage { api: rota.api.clone(), rota, deployment });
        }
        RunErrorType::SessionCreationRejected => {
            let agent = agent(&api, json!({"model": "house"})).await;
            let deployment = parts.deployment(&api, at_nine(&json!({"agent": id(&agent)}))).await;
            let rota = rota.restart_with(|config| config.models.clear()).await;
            return Some(Stage { api: rota.api.clone(), rota, deployment });
        }
        RunErrorType::Unknown => {
            let deployment = parts.deployment(&api, at_nine(&json!({}))).await;
            // What cannot be read any more has no type of its own.
            let damage = |tx: &mut Tx<'_>| tx.execute("UPDATE agent_versions SET roster = 'damaged'", &[]);
            rota.server.app().db.write(damage).await.unwrap();
            deployment
        }
        RunErrorType::MemoryStoreArchived => {
            let notes = memory_stores::store(&api, "notes").await;
            let store = json!({"type": "memory_store", "memory_store_id": id(&notes)});
            let deployment = parts.deployment(&api, at_nine(&json!({"resources": [store]}))).await;
            api.call(&format!("{}/archive", memory_stores::path(&notes))).await;
            deployment
        }
        RunErrorType::VaultNotFound => {
            let (deployment, vault) = with_a_vault(&api, &parts).await;
            api.delete(&format!("/v1/vaults/{vault}")).await;
            deployment
        }
        RunErrorType::VaultArchived => {
            let (deployment, vault) = with_a_vault(&api, &parts).await;
            api.call(&format!("/v1/vaults/{vault}/archive")).await;
            deployment
        }
    };
    Some(Stage { rota, api, deployment })
}

/// A deployment with a vault, and the id of that.
async fn with_a_vault(api: &Api, parts: &Parts) -> (Value, String) {
    let vault = api.post("/v1/vaults", json!({"display_name": "v"})).await;
    let deployment = parts.deployment(api, at_nine(&json!({"vault_ids": [id(&vault)]}))).await;
    (deployment, id(&vault).to_owned())
}

async fn in_an_archived_workspace(rota: Rota) -> Stage {
    let create = |tx: &mut Tx<'_>| api_keys::create_key(tx, Some("Team"), "a key", None);
    let key = rota.server.app().db.write(create).await.unwrap();
    let team = rota.api.with_key(key.key);
    let deployment = Parts::new(&team).await.deployment(&team, at_nine(&json!({}))).await;
    let administrator = rota.administrator().await;
    administrator.call(&format!("/v1/organizations/workspaces/{}/archive", key.workspace_id)).await;
    Stage { rota, api: administrator.in_workspace(key.workspace_id.as_ref()), deployment }
}

/// What an agent with an MCP server at `url` differs in.
fn with_mcp(url: &str) -> Value {
    json!({
        "mcp_servers": [{"type": "url", "name": "tracker", "url": url}],
        "tools": [toolset(), {"type": "mcp_toolset", "mcp_server_name": "tracker"}],
    })
}

async fn limited(api: &Api, network: Value) -> Value {
    let networking = over(json!({"type": "limited"}), &network);
    let config = json!({"type": "cloud", "networking": networking});
    api.post("/v1/environments", json!({"name": network.to_string(), "config": config})).await
}

impl Stage {
    fn path(&self) -> String {
        format!("/v1/deployments/{}", id(&self.deployment))
    }

    /// Runs the deployment by hand. The message of its error.
    async fn by_hand(&self, kind: RunErrorType) -> String {
        let run = self.api.call(&format!("{}/run", self.path())).await;
        let after = self.api.get(&self.path()).await;
        assert_eq!((&after["status"], &after["paused_reason"]), (&json!("active"), &Value::Null), "by hand: no pause");
        self.message(kind, &run)
    }

    /// Lets nine o'clock come. The message of the error.
    async fn scheduled(&self, kind: RunErrorType) -> String {
        self.rota.set_time("2026-03-02T09:00:00Z");
        self.rota.tick().await;
        let list = format!("/v1/deployment_runs?trigger_type=schedule&deployment_id={}", id(&self.deployment));
        let runs = self.api.get(&list).await["data"].clone();
        assert_eq!(runs.as_array().unwrap().len(), 1);
        let after = self.api.get(&self.path()).await;
        let reason = json!({"type": "error", "error": {"type": kind.as_str()}});
        let (status, reason) = if kind.pauses() { ("paused", reason) } else { ("active", Value::Null) };
        assert_eq!((&after["status"], &after["paused_reason"]), (&json!(status), &reason));
        assert_eq!(after["schedule"]["last_run_at"], Value::Null, "nothing started");
        self.message(kind, &runs[0])
    }

    fn message(&self, kind: RunErrorType, run: &Value) -> String {
        assert_eq!((&run["error"]["type"], &run["session_id"]), (&json!(kind.as_str()), &Value::Null));
        assert_eq!(run["deployment_id"], self.deployment["id"]);
        without_ids(run["error"]["message"].as_str().unwrap())
    }
}

/// A text in which each id is cut off after its prefix.
fn without_ids(text: &str) -> String {
    text.split('`')
        .map(|part| match part.split_once('_') {
            Some((prefix, rest)) if rest.len() == 22 && rest.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                format!("{prefix}_…")
            }
            _ => part.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("`")
}

/// The rows of the table below the heading `heading`, cell by cell.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(2).map(cells).collect()
}

/// What stands in a cell as code.
fn code(cell: &str) -> &str {
    cell.trim_matches('`').trim()
}

#[tokio::test]
async fn every_run_error_comes_with_its_condition_and_the_table_says_which_can_be_reached() {
    let rows = table("Run errors");
    let documented: Vec<&str> = rows.iter().map(|row| code(&row[0])).collect();
    assert_eq!(documented, RunErrorType::NAMES);
    for (kind, row) in RunErrorType::ALL.into_iter().zip(&rows) {
        let [_, condition, message, pauses, reached, remedy] = &row[..] else { panic!("six columns: {row:?}") };
        assert!(!condition.is_empty() && !remedy.is_empty(), "{row:?}");
        assert_eq!(pauses, if kind.pauses() { "yes" } else { "no" }, "{}", kind.as_str());
        let Some(stage) = arrange(kind).await else {
            assert_eq!((message.as_str(), reached.as_str()), ("", "not yet"), "{}", kind.as_str());
            continue;
        };
        let by_hand = stage.by_hand(kind).await;
        let scheduled = stage.scheduled(kind).await;
        assert_eq!(code(message), scheduled, "{}", kind.as_str());
        assert_eq!((by_hand, reached.as_str()), (scheduled, "by hand, scheduled"));
    }
}

#[tokio::test]
async fn an_agent_that_is_archived_while_its_deployment_is_not_fails_the_run() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(&rota.api, at_nine(&json!({}))).await;
    // Archiving an agent archives its deployments; only a deployment that is written at the same moment is left.
    let archive = |tx: &mut Tx<'_>| tx.execute("UPDATE agents SET archived_at = 1", &[]);
    rota.server.app().db.write(archive).await.unwrap();
    let stage = Stage { api: rota.api.clone(), rota, deployment };
    let message = "agent `agent_…` is archived";
    assert_eq!(stage.by_hand(RunErrorType::AgentArchived).await, message);
    assert_eq!(stage.scheduled(RunErrorType::AgentArchived).await, message);
}

#[tokio::test]
async fn an_environment_reaches_the_mcp_servers_that_it_allows() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let lead = agent(api, with_mcp("https://mcp.example.com/sse")).await;
    let member = agent(api, with_mcp("https://mcp.example.org")).await;
    let roster = json!({"type": "coordinator", "agents": [id(&member)]});
    let team = agent(api, json!({ "multiagent": roster })).await;
    for (agent, network, reached) in [
        (&lead, json!({}), false),
        (&lead, json!({"allowed_hosts": ["mcp.example.com"]}), true),
        (&lead, json!({"allowed_hosts": ["*.example.com"]}), true),
        (&lead, json!({"allowed_hosts": ["example.com", "*.mcp.example.com"]}), false),
        (&lead, json!({"allow_mcp_servers": true}), true),
        (&team, json!({"allowed_hosts": ["a.example.org"]}), false),
        (&team, json!({"allowed_hosts": ["mcp.example.org"]}), true),
    ] {
        let body = json!({"agent": id(agent), "environment_id": id(&limited(api, network.clone()).await)});
        let answer = api.send(Method::POST, "/v1/sessions", Some(&body)).await;
        assert_eq!(answer.status == 200, reached, "{network}: {}", answer.body);
        if !reached {
            let said = "MCP server host(s) blocked by environment network policy: \"tracker\" (mcp.example.";
            assert!(answer.refusal().message.starts_with(said), "{}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_session_cannot_be_given_an_mcp_server_that_its_environment_does_not_reach() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let closed = limited(api, json!({"allowed_hosts": ["mcp.example.com"]})).await;
    let parts = Parts { agent: agent(api, json!({})).await, environment: closed };
    let refused = invalid(
        "MCP server host(s) blocked by environment network policy: \"tracker\" (mcp.example.org). Add these hosts to the \
         environment's allowed_hosts, or set allow_mcp_servers=true.",
    );
    let with = |url: &str| over(json!({"type": "agent_with_overrides", "id": id(&parts.agent)}), &with_mcp(url));
    let (inside, outside) = ("https://mcp.example.com", "https://mcp.example.org");
    let body = parts.session_body(&json!({"agent": with(outside)}));
    assert_eq!(api.post_refused("/v1/sessions", body).await, refused.clone());
    parts.session(api, json!({"agent": with(inside)})).await;
    let session = parts.session(api, json!({})).await;
    let path = format!("/v1/sessions/{}", id(&session));
    assert_eq!(api.post_refused(&path, json!({"agent": with_mcp(outside)})).await, refused);
    api.post(&path, json!({"agent": with_mcp(inside)})).await;
    let open = json!({"agent": with(outside), "environment_id": id(&environment(api, "open").await)});
    parts.session(api, open).await;
}

/// Every error that a request can be answered with.
fn every_http_error() -> Vec<Error> {
    let text = String::new;
    vec![
        Error::Invalid(text()),
        Error::Rejected { code: "", message: text() },
        Error::Unauthenticated(""),
        Error::Forbidden(text()),
        Error::NotFound(text()),
        Error::Gone { code: "", message: text() },
        Error::MethodNotAllowed,
        Error::Conflict(text()),
        Error::Held(text()),
        Error::MemoryPathConflict { message: text(), memory_id: text(), path: text() },
        Error::MemoryPrecondition,
        Error::TooLarge(text()),
        Error::RateLimited(1),
        Error::TooManyStreams(1),
        Error::TooManyUnread(1),
        Error::Timeout(std::time::Duration::ZERO),
        Error::Overloaded(""),
        Error::Stopping,
        Error::Database("".into()),
        Error::internal(""),
    ]
}

#[test]
fn the_table_of_http_errors_has_every_status_and_type() {
    let mut in_code: BTreeSet<(u16, String)> =
        every_http_error().iter().map(|error| (error.status().as_u16(), error.wire_type().to_owned())).collect();
    // The answer to headers that are too large comes before there is a request.
    in_code.insert((431, "invalid_request_error".to_owned()));
    let rows = table("HTTP errors");
    let documented: Vec<(u16, String)> =
        rows.iter().map(|row| (row[0].parse().unwrap(), code(&row[1]).to_owned())).collect();
    assert_eq!(documented, in_code.into_iter().collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row.len() == 4 && row.iter().all(|cell| !cell.is_empty())), "{rows:?}");
}
