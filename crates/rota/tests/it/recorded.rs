//! What the hosted service was recorded to answer, a row a fact. A tag names its section in the list of recordings and the
//! recording: `R2` of 2026 with its date, `P3` of July. A new recording is one more row.
//!
//! Not what concerns events, streams and tools of the model: those facts stand beside their own tests.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, Refusal},
    given::{Parts, agent, environment, id, message, over},
    memory_stores::{memories, memory, store},
    server::Rota,
};

/// What the rows are about, by the words in braces that stand for it.
struct Scene {
    rota: Rota,
    names: Vec<(&'static str, String)>,
}

impl Scene {
    async fn set() -> Self {
        let rota = Rota::without_engine().await;
        let api = &rota.api;
        let parts = Parts::new(api).await;
        let kept = |value: &Value| id(value).to_owned();
        let archived = agent(api, json!({"name": "archived"})).await;
        api.call(&format!("/v1/agents/{}/archive", id(&archived))).await;
        let roster = json!({"multiagent": {"type": "coordinator", "agents": [id(&parts.agent)]}});
        let lead = agent(api, roster).await;
        let body = json!({"name": "mine", "config": {"type": "self_hosted"}});
        let mine = api.post("/v1/environments", body).await;
        let unused = api.post("/v1/environments", json!({"name": "unused", "config": {"type": "self_hosted"}})).await;
        let limited = json!({"type": "cloud", "networking": {"type": "limited"}});
        let limited = api.post("/v1/environments", json!({"name": "limited", "config": limited})).await;
        let server = json!({"type": "url", "name": "deepwiki", "url": "https://mcp.deepwiki.com/mcp"});
        let toolset = json!({"type": "mcp_toolset", "mcp_server_name": "deepwiki"});
        let wiki = agent(api, json!({"mcp_servers": [server], "tools": [toolset]})).await;
        let over_there = Parts { agent: parts.agent.clone(), environment: mine.clone() };
        for _ in 0..4 {
            over_there.session(api, json!({})).await;
        }
        let deployment = parts.deployment(api, json!({})).await;
        let ended = parts.deployment(api, json!({})).await;
        api.call(&format!("/v1/deployments/{}/archive", id(&ended))).await;
        let pinned = environment(api, "pinned").await;
        let orphan = parts.deployment(api, json!({"environment_id": id(&pinned)})).await;
        let notes = store(api, "Notes").await;
        let (taken, moved) = (memory(api, &notes, "/a/b", "one").await, memory(api, &notes, "/c", "one").await);
        let redacted = memory(api, &notes, "/d", "one").await;
        api.post(&format!("{}/{}", memories(&notes), id(&redacted)), json!({"content": "two"})).await;
        let sealed = store(api, "Sealed").await;
        let (kept_there, gone_there) =
            (memory(api, &sealed, "/kept", "one").await, memory(api, &sealed, "/gone", "one").await);
        api.call(&format!("/v1/memory_stores/{}/archive", id(&sealed))).await;
        let version = |memory: &Value| memory["memory_version_id"].as_str().unwrap().to_owned();
        let idle = parts.session(api, json!({})).await;
        let running = parts.session_with(api, message("hi")).await;
        let sessions = api.get("/v1/sessions?limit=1").await;
        let names = vec![
            ("{cursor}", sessions["next_page"].as_str().unwrap().to_owned()),
            ("{agent}", kept(&parts.agent)),
            ("{archived}", kept(&archived)),
            ("{lead}", kept(&lead)),
            ("{wiki}", kept(&wiki)),
            ("{environment}", kept(&parts.environment)),
            ("{mine}", kept(&mine)),
            ("{unused}", kept(&unused)),
            ("{limited}", kept(&limited)),
            ("{pinned}", kept(&pinned)),
            ("{deployment}", kept(&deployment)),
            ("{ended}", kept(&ended)),
            ("{orphan}", kept(&orphan)),
            ("{idle}", kept(&idle)),
            ("{running}", kept(&running)),
            ("{notes}", kept(&notes)),
            ("{taken}", kept(&taken)),
            ("{moved}", kept(&moved)),
            ("{head}", version(&taken)),
            ("{older}", version(&redacted)),
            ("{sealed}", kept(&sealed)),
            ("{kept_there}", kept(&kept_there)),
            ("{gone_there}", kept(&gone_there)),
            ("{none}", "1".repeat(22)),
        ];
        Self { rota, names }
    }

    /// `text` with the names of what is there.
    fn named(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (word, name)| text.replace(word, name))
    }

    async fn ask(&self, method: &Method, path: &str, body: &Value) -> Answer {
        let body: Value = serde_json::from_str(&self.named(&body.to_string())).unwrap();
        self.rota.api.send(method.clone(), &self.named(path), Some(&body).filter(|body| !body.is_null())).await
    }
}

fn refusal(status: u16, message: String) -> Refusal {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 if message.starts_with("path `") => "memory_path_conflict_error",
        409 if message.starts_with("precondition ") => "memory_precondition_failed_error",
        _ => "invalid_request_error",
    };
    Refusal { status, kind: kind.to_owned(), message }
}

fn an_agent(changes: &Value) -> Value {
    over(json!({"name": "a", "model": "playbook"}), changes)
}

fn a_deployment(changes: &Value) -> Value {
    let base =
        json!({"name": "d", "agent": "{agent}", "environment_id": "{environment}", "initial_events": [message("hi")]});
    over(base, changes)
}

fn scheduled(expression: &str, timezone: &str) -> Value {
    a_deployment(&json!({"schedule": {"type": "cron", "expression": expression, "timezone": timezone}}))
}

fn a_session(changes: &Value) -> Value {
    over(json!({"agent": "{agent}", "environment_id": "{environment}"}), changes)
}

fn toolset(configs: &Value) -> Value {
    an_agent(&json!({"tools": [{"type": "agent_toolset_20260401", "configs": configs}]}))
}

fn roster(agents: &Value) -> Value {
    an_agent(&json!({"multiagent": {"type": "coordinator", "agents": agents}}))
}

const AGENTS: &str = "/v1/agents";
const ENVIRONMENTS: &str = "/v1/environments";
const DEPLOYMENTS: &str = "/v1/deployments";
const SESSIONS: &str = "/v1/sessions";
const STORES: &str = "/v1/memory_stores";
const STORE: &str = "/v1/memory_stores/{notes}";
const MEMORIES: &str = "/v1/memory_stores/{notes}/memories";
const MEMORY: &str = "/v1/memory_stores/{notes}/memories/{moved}";

/// What is refused, and in which words.
#[rustfmt::skip]
fn refusals() -> Vec<(&'static str, Method, &'static str, Value, u16, &'static str)> {
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let (long, store) = ("é".repeat(100_001), json!({"type": "memory_store", "memory_store_id": "memstore_{none}"}));
    let pairs: serde_json::Map<_, _> = (0..17).map(|i| (i.to_string(), json!("x"))).collect();
    let custom = json!({"type": "custom", "name": "mcp__x", "description": "d", "input_schema": {"type": "object"}});
    let file = |id: &str| a_session(&json!({"resources": [{"type": "file", "file_id": id}]}));
    let with_store = |changes: Value| a_session(&json!({"resources": [over(store.clone(), &changes)]}));
    let overrides = |changes: Value| a_session(&json!({"agent": over(json!({"type": "agent_with_overrides", "id": "{agent}"}), &changes)}));
    let events = "/v1/sessions/{idle}/events";
    vec![
        // 1.1 Two validators.
        ("1.1 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"x": 1})), 400, "Failed to parse request body: unknown field \"x\""),
        ("1.1 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"model": {"id": "playbook", "zz": 1}})), 400, "Failed to parse request body: unknown field \"zz\""),
        ("1.1 R2 09-02", post.clone(), DEPLOYMENTS, a_deployment(&json!({"x": 1})), 400, "Failed to parse request body: unknown field \"x\""),
        ("1.1 R2 09-02", post.clone(), SESSIONS, a_session(&json!({"x": 1})), 400, "Failed to parse request body: unknown field \"x\""),
        ("1.2 R2 09-05", post.clone(), SESSIONS, a_session(&json!({"memory_store_id": "memstore_{none}", "agent": "agent_{none}"})), 400, "Failed to parse request body: unknown field \"memory_store_id\""),
        ("1.1 R2-INF", post.clone(), "/v1/agents/{agent}", json!({"x": 1}), 400, "Failed to parse request body: unknown field \"x\""),
        ("1.1 R2-INF", post.clone(), events, json!({"events": [message("x")], "x": 1}), 400, "Failed to parse request body: unknown field \"x\""),
        ("1.1 R2 09-02", post.clone(), ENVIRONMENTS, json!({"name": "e", "bogus": 1}), 400, "bogus: Extra inputs are not permitted"),
        ("1.1 R2 09-02", post.clone(), ENVIRONMENTS, json!({}), 400, "name: Field required"),
        ("1.1 R2 09-02", post.clone(), AGENTS, toolset(&json!([{"name": "read"}, {"name": "bash", "bogus": 1}])), 400, "Failed to parse request: tools[0].configs[1].bogus: Extra inputs are not permitted for name \"bash\""),
        ("1.1 R2 09-02", post.clone(), AGENTS, toolset(&json!([{"type": "bash"}])), 400, "Failed to parse request: tools[0].configs[0].name: must be \"bash\" on a config of type \"bash\""),
        ("1.1 R2 09-02", post.clone(), AGENTS, toolset(&json!([{"name": "bash", "type": "grep"}])), 400, "Failed to parse request: tools[0].configs[0].type: \"grep\" does not match name \"bash\""),
        ("1.1 R2 09-02", post.clone(), DEPLOYMENTS, a_deployment(&json!({"initial_events": [{"type": "user.interrupt"}]})), 400, "Failed to parse request: initial_events[0].type: \"user.interrupt\" is not a valid value"),
        ("1.1 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"model": {"id": "playbook", "effort": "x"}})), 400, "Failed to parse request: model.effort: \"x\" is not a valid value; expected one of high, low, max, medium, xhigh"),
        ("1.1 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"system": long})), 400, "system: maximum string length is 100000"),
        ("1.1 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"name": ""})), 400, "name: minimum string length is 1"),
        ("1.1 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"metadata": pairs})), 400, "invalid metadata: metadata map would have 17 entries, exceeding the maximum of 16"),
        ("1.1 R2 09-02", post.clone(), "/v1/agents/{agent}", json!({"model": {"id": "playbook", "effort": "x"}}), 400, "Failed to parse request: agent.model.effort: \"x\" is not a valid value; expected one of high, low, max, medium, xhigh"),
        // 1.2 Paths and methods.
        ("1.2 R2 09-02", get.clone(), "/v1/nothing", Value::Null, 404, "Not found"),
        ("1.2 R2 09-02", get.clone(), "/v1/deployments/{deployment}/runs", Value::Null, 404, "Not Found"),
        ("1.2 R2 09-03", delete.clone(), "/v1/agents/{agent}", Value::Null, 404, "not found"),
        ("1.2 R2", put.clone(), ENVIRONMENTS, Value::Null, 405, "Method Not Allowed"),
        // 1.4 Lists.
        ("1.4 P3", get.clone(), "/v1/sessions?page=page_x", Value::Null, 400, "invalid page cursor"),
        ("1.4 P3", get.clone(), "/v1/sessions?order=asc&page={cursor}", Value::Null, 400, "page token order does not match request"),
        // 1.5 Malformed ids.
        ("1.5 R2 09-02", get.clone(), "/v1/agents/undefined", Value::Null, 400, "Invalid agent ID."),
        ("1.5 R2-INF", get.clone(), "/v1/agents/undefined/versions", Value::Null, 400, "Invalid agent ID."),
        ("1.5 R2-INF", post.clone(), "/v1/agents/undefined/archive", Value::Null, 400, "Invalid agent ID."),
        ("1.5 R2-INF", post.clone(), "/v1/agents/undefined", json!({}), 400, "Invalid agent ID."),
        ("1.5 R2 09-02", get.clone(), "/v1/environments/undefined", Value::Null, 404, "Environment undefined not found."),
        ("1.5 R2 09-02", post.clone(), AGENTS, roster(&json!(["agent_I"])), 400, "Agent has invalid configuration: subagent agent_I is not a valid agent ID"),
        // 2 Deployments.
        ("2 R2 09-02", post.clone(), DEPLOYMENTS, scheduled("0 0 1 * 1", "UTC"), 400, "`schedule.expression` cannot restrict both day-of-month and day-of-week; use `*` for one"),
        ("2 R2 09-02", post.clone(), DEPLOYMENTS, scheduled("0 0 * * *", "Mars/Phobos"), 400, "`schedule.timezone` \"Mars/Phobos\" is not a valid IANA timezone"),
        ("2 R2 09-02", post.clone(), DEPLOYMENTS, scheduled("0 0 * * * *", "UTC"), 400, "`schedule.expression` is not a valid 5-field cron expression: expected 5 fields, got 6"),
        ("2 R2 09-02", post.clone(), DEPLOYMENTS, scheduled("0 0 31 2 *", "UTC"), 400, "`schedule.expression` does not produce any occurrences in the next year"),
        ("2 R2 09-02", post.clone(), DEPLOYMENTS, a_deployment(&json!({"schedule": {"type": "cron", "expression": "0 0 * * *"}})), 400, "schedule.timezone: Field required"),
        ("2 R2 09-02", post.clone(), DEPLOYMENTS, a_deployment(&json!({"initial_events": null})), 400, "initial_events: Field required"),
        ("2 R2 09-02", get.clone(), "/v1/deployments?status=active&include_archived=true", Value::Null, 400, "include_archived: cannot be set together with status"),
        ("2 R2-INF", get.clone(), "/v1/deployments?status=active&include_archived=false", Value::Null, 400, "include_archived: cannot be set together with status"),
        ("2 R2 09-02", post.clone(), "/v1/deployments/{ended}", json!({"name": "x"}), 400, "Cannot modify archived deployment"),
        ("2 R2 09-02", post.clone(), "/v1/deployments/{ended}/pause", Value::Null, 400, "Cannot modify archived deployment"),
        ("2 R2 09-02", post.clone(), "/v1/deployments/{ended}/run", Value::Null, 400, "Cannot modify archived deployment"),
        ("2 R2 09-05", post.clone(), DEPLOYMENTS, a_deployment(&json!({"resources": [{"type": "github_repository"}]})), 400, "resources.0.url: Field required"),
        ("2 R2 09-05", post.clone(), DEPLOYMENTS, a_deployment(&json!({"resources": [{"type": "github_repository", "url": "https://github.com/o/r"}]})), 400, "resources.0.authorization_token: Field required"),
        ("2 R2 09-05", post.clone(), DEPLOYMENTS, a_deployment(&json!({"resources": [{"type": "github_repository", "url": "https://gitlab.com/o/r", "authorization_token": "t"}]})), 400, "validate deployment resources: invalid GitHub repository URL: repo URL must be https://github.com/{owner}/{repo}"),
        ("2 R2 09-05", get.clone(), "/v1/deployment_runs?has_error=maybe", Value::Null, 400, "Failed to parse request body: invalid value for bool field has_error: \"maybe\""),
        // 3 Sessions.
        ("3.1 R2 09-02", post.clone(), SESSIONS, a_session(&json!({"environment_id": "env_{none}"})), 404, "Environment env_{none} not found."),
        ("3.1 R2 09-02", post.clone(), SESSIONS, a_session(&json!({"agent": "{archived}"})), 400, "agent {archived} is archived and cannot be used to create a session"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, a_session(&json!({"agent": null})), 400, "agent: value is required"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, a_session(&json!({"agent": {"id": "{agent}"}})), 400, "Failed to parse request: agent.selector.type: Field required"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, a_session(&json!({"agent": {"type": "x"}})), 400, "Failed to parse request: agent.selector.type: \"x\" is not a valid value"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, overrides(json!({"multiagent": null})), 400, "Failed to parse request body: unknown field \"multiagent\""),
        ("3.1 R2 09-02", post.clone(), SESSIONS, overrides(json!({"system": long})), 400, "agent.agent_with_overrides.config.system: must be at most 100000 characters"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, with_store(json!({})), 404, "Memory store `memstore_{none}` not found."),
        ("3.1 R2 09-02", post.clone(), SESSIONS, a_session(&json!({"resources": [store, store]})), 400, "resources contains duplicate memory_store_id: memstore_{none}"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, with_store(json!({"access": "x"})), 400, "Failed to parse request: resources[0].access: \"x\" is not a valid value; expected one of read_only, read_write"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, with_store(json!({"instructions": "x".repeat(4097)})), 400, "resources.0.memory_store.instructions: must be at most 4096 characters"),
        ("3.1 R2 09-03", post.clone(), SESSIONS, a_session(&json!({"resources": [{"type": "github_repository", "url": "https://github.com/o/r.git", "authorization_token": "t"}]})), 400, "Invalid `github_repository` resource: invalid github_repository url: must be https://github.com/{owner}/{repo} with no .git suffix"),
        ("3.1 R2 09-03", post.clone(), SESSIONS, a_session(&json!({"resources": [{"type": "github_repository", "url": "https://github.com/o/r"}]})), 400, "resources.0.github_repository.authorization_token: value is required"),
        ("3.1 R2 09-02", post.clone(), SESSIONS, file("file_I"), 400, "Invalid file resource: invalid file_id: \"file_I\""),
        ("3.1 R2 09-02", post.clone(), SESSIONS, file("file_{none}"), 404, "One or more files not found. Check that each `file_id` exists and is accessible: file_{none}"),
        ("3.1 R2 09-03", post.clone(), SESSIONS, a_session(&json!({"agent": "{wiki}", "environment_id": "{limited}"})), 400, "MCP server host(s) blocked by environment network policy: \"deepwiki\" (mcp.deepwiki.com). Add these hosts to the environment's allowed_hosts, or set allow_mcp_servers=true."),
        ("3.2 R2 09-02", post.clone(), "/v1/sessions/{running}/archive", Value::Null, 400, "Session {running} cannot be archived while its status is \"running\". Only pending or idle sessions may be archived."),
        ("3.2 R2 09-03", delete.clone(), "/v1/sessions/{running}", Value::Null, 400, "Cannot delete session while it is running. Send an interrupt event or wait for the session to complete."),
        ("3.2 R2", get.clone(), "/v1/sessions/sesn_{none}", Value::Null, 404, "Session not found: sesn_{none}"),
        // 4.3 What a client sends.
        ("4.3 R2", post.clone(), events, json!({"events": []}), 400, "events: must contain at least 1 item"),
        ("4.3 R2", post.clone(), events, json!({"events": [{"type": "agent.message"}]}), 400, "Failed to parse request: events[0].type: \"agent.message\" is not a valid value"),
        ("4.3 R2", post.clone(), events, json!({"events": [message("")]}), 400, "events.0.user_message.content.0.text: value is required"),
        ("4.3 R2", post.clone(), events, json!({"events": [{"type": "user.tool_confirmation", "tool_use_id": "sevt_{none}", "result": "allow", "deny_message": "no"}]}), 400, "Invalid tool_confirmation event at index 0: deny_message is only allowed when result is 'deny'"),
        // 8 Agents.
        ("8 R2 09-02", post.clone(), "/v1/agents/{agent}", json!({"version": 7}), 409, "Concurrent modification detected. Please fetch the latest version and retry."),
        ("8 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"model": {"id": "playbook", "inference_geo": "mars"}})), 400, "`inference_geo`: must be one of [\"global\" \"us\"]: invalid inference_geo value"),
        ("8 R2 09-03", post.clone(), AGENTS, an_agent(&json!({"tools": [{"type": "agent_toolset_20260401"}, custom]})), 400, "tools.1.custom.name: custom tool name \"mcp__x\" uses reserved MCP tool prefix"),
        ("8 R2 09-02", post.clone(), AGENTS, an_agent(&json!({"skills": [{"type": "anthropic", "skill_id": "xlsx", "version": "1"}]})), 400, "Agent has invalid configuration: `skill_id` `xlsx` version `1` not found"),
        ("8 R2 09-04", post.clone(), AGENTS, an_agent(&json!({"skills": [{"type": "custom", "skill_id": "skill_x"}]})), 400, "Agent has invalid configuration: `skill_id` `skill_x` not found"),
        ("8 R2 09-02", post.clone(), AGENTS, roster(&json!(["{archived}"])), 400, "Agent has invalid configuration: subagent {archived} is archived"),
        ("8 R2 09-02", post.clone(), AGENTS, roster(&json!([{"type": "agent", "id": "{agent}", "version": 7}])), 400, "Agent has invalid configuration: subagent {agent} version 7 not found"),
        ("8 R2 09-02", post.clone(), AGENTS, roster(&json!(["{agent}", "{agent}"])), 400, "Agent has invalid configuration: subagent {agent} referenced multiple times"),
        ("8 R2 09-02", post.clone(), AGENTS, roster(&json!(["{lead}"])), 400, "Agent has invalid configuration: subagent {lead} has its own subagents; maximum depth is 1"),
        ("8 R2 09-02", post.clone(), AGENTS, roster(&json!(["{agent}", null])), 400, "Failed to parse request: multiagent.agents[1]: must be a string or an object (got null)"),
        ("8 R2 09-02", post.clone(), AGENTS, roster(&json!([{"type": "self"}, {"type": "self"}])), 400, "multiagent.agents.1: at most one {\"type\":\"self\"} entry is allowed"),
        ("8 R2 09-02", post.clone(), AGENTS, roster(&json!([])), 400, "multiagent.coordinator.agents: must contain at least 1 item"),
        // 9 Environments.
        ("9 R2", get.clone(), "/v1/environments/env_{none}", Value::Null, 404, "Environment env_{none} not found."),
        ("9 R2 09-12", post.clone(), "/v1/environments/{environment}", json!({"config": {"type": "self_hosted"}}), 400, "Cannot change environment type from Cloud to BYOC"),
        ("9 R2 09-12", post.clone(), "/v1/environments/{mine}", json!({"config": {"type": "cloud"}}), 400, "Cannot change environment type from BYOC to Cloud"),
        ("9 R2", post.clone(), ENVIRONMENTS, json!({"name": "e", "config": {"type": "x"}}), 400, "config: Input tag 'x' found using 'type' does not match any of the expected tags: 'cloud', 'self_hosted'"),
        ("9 R2 09-02", delete.clone(), "/v1/environments/{mine}", Value::Null, 409, "Environment has 4 active sessions. Use force=true to delete anyway."),
        // 10 Work.
        ("10 R2 09-02", post.clone(), "/v1/environments/{mine}/work/poll", json!({}), 400, "metadata: Field required"),
        ("1.5 R2 09-02", post.clone(), "/v1/environments/{mine}/work/poll", json!({"metadata": {"a": "b"}}), 400, "Invalid work ID format: expected session_*, cse_*, or work_* prefix, got \"poll\"."),
        ("10 R2 09-02", put.clone(), "/v1/environments/{mine}/work/poll", Value::Null, 405, "Method Not Allowed"),
        // 12 Memory stores.
        ("12 R2 09-02", post.clone(), STORES, json!({}), 400, "name: Field required"),
        ("12 R2 09-02", post.clone(), STORES, json!({"name": ""}), 400, "name: minimum string length is 1"),
        ("12 R2 09-02", post.clone(), STORE, json!({}), 400, "at least one of name, description, or metadata must be provided"),
        ("12 R2 09-02", post.clone(), STORE, json!({"name": null}), 400, "name cannot be empty"),
        ("12 R2 09-02", post.clone(), STORE, json!({"metadata": null}), 400, "Failed to parse request: params: field \"metadata\": null is not a valid value for a map field; omit the field to preserve, or set individual keys to null to delete them"),
        ("12 R2 09-02", post.clone(), "/v1/memory_stores/{sealed}", json!({"name": "x"}), 400, "cannot modify archived resource: memory store {sealed}"),
        ("12 R2 09-02", post.clone(), "/v1/memory_stores/{sealed}/memories", json!({"path": "/x", "content": ""}), 400, "cannot modify archived resource: memory store {sealed}"),
        ("12 R2 09-02", post.clone(), "/v1/memory_stores/{sealed}/memories/{kept_there}", json!({"content": "x"}), 400, "cannot modify archived resource: memory store {sealed}"),
        ("12 R2", post.clone(), MEMORIES, json!({"path": "/a/b", "content": ""}), 409, "path `/a/b` is already used by `{taken}`; use update to modify it"),
        ("12 R2", post.clone(), MEMORY, json!({"path": "/a/b"}), 409, "path `/a/b` is already used by `{taken}`; delete it first to rename-and-replace"),
        ("12 R2", post.clone(), MEMORIES, json!({"path": "/a/b/c", "content": ""}), 409, "path `/a/b/c` conflicts with existing memory at `/a/b`: a memory and a path prefix of it cannot coexist. Delete or rename the other memory first."),
        ("12 R2", post.clone(), MEMORY, json!({"path": "/a"}), 409, "path `/a` conflicts with existing memory at `/a/b`: a memory and a path prefix of it cannot coexist. Delete or rename the other memory first."),
        ("12 R2", post.clone(), MEMORY, json!({"content": "x", "precondition": {"type": "content_sha256", "content_sha256": "0".repeat(64)}}), 409, "precondition content_sha256 failed: content has changed"),
        ("12 R2 09-02", delete, "/v1/memory_stores/{notes}/memories/{moved}?expected_content_sha256=ab", Value::Null, 400, "expected_content_sha256: must be 64 characters (and 1 more validation errors)"),
        ("12 R2 09-03", post.clone(), MEMORY, json!({"content": "x", "precondition": {"type": "content_sha256", "content_sha256": "ab"}}), 400, "precondition.content_sha256: must be 64 characters (and 1 more validation errors)"),
        ("12 R2 09-03", post.clone(), MEMORY, json!({"content": "x", "precondition": {"content_sha256": "ab"}}), 400, "Failed to parse request: precondition.type: Field required"),
        ("12 R2 09-03", post.clone(), MEMORY, json!({"content": "x", "precondition": {"type": "content_sha256", "content_sha256": null}}), 400, "precondition.content_sha256: Value is not nullable"),
        ("12 R2 09-02", post.clone(), MEMORIES, json!({"path": "/x"}), 400, "content: value is required"),
        ("12 R2 09-02", post.clone(), MEMORY, json!({}), 400, "v1_update_memory_params: at least one of content or path must be provided"),
        ("12 R2 09-03", post.clone(), MEMORIES, json!({"path": "/x", "content": "x".repeat(102_401)}), 400, "content must be at most 102400 bytes"),
        ("12 R2 09-02", get.clone(), "/v1/memory_stores/{notes}/memories/mem_{none}", Value::Null, 404, "memory `mem_{none}` not found"),
        ("12 R2 09-02", post.clone(), "/v1/memory_stores/{notes}/memory_versions/{head}/redact", Value::Null, 400, "version is the current content of {taken}; write a new version first"),
        ("12 R2 09-02", get.clone(), "/v1/memory_stores/{notes}/memories?path_prefix=/a", Value::Null, 400, "path_prefix must be segment-aligned and end with /"),
        ("12 R2 09-02", get.clone(), "/v1/memory_stores/{notes}/memories?depth=2", Value::Null, 400, "depth must be 0 or 1 when provided"),
        ("12 R2 09-02", get.clone(), "/v1/memory_stores/{notes}/memories?path_prefix=/a/&depth=0", Value::Null, 400, "depth: must be greater than or equal to 1"),
        ("1.4 R2 09-05", get.clone(), "/v1/memory_stores/{notes}/memories?limit=1001", Value::Null, 400, "limit: must be greater than or equal to 1 and less than or equal to 1000"),
        ("1.4 R2 09-05", get, "/v1/memory_stores/{notes}/memories?limit=101", Value::Null, 400, "limit: value must be greater than or equal to 1 and less than or equal to 100"),
    ]
}

#[tokio::test]
async fn what_is_refused_is_refused_in_the_recorded_words() {
    let scene = Scene::set().await;
    let mut wrong = Vec::new();
    for (tag, method, path, body, status, message) in refusals() {
        let answer = scene.ask(&method, path, &body).await;
        let expected = refusal(status, scene.named(message));
        if answer.status.is_success() || answer.refusal() != expected {
            wrong.push(format!(
                "{tag}: {method} {path} {body:.120}\n  expected {expected:?}\n  answered {:.300}",
                answer.body
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Which refusals say that no try will do better: `x-should-retry: false`.
#[tokio::test]
async fn x_should_retry_follows_the_condition() {
    let scene = Scene::set().await;
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    #[rustfmt::skip]
    let rows = [
        ("1.3 R2", get.clone(), "/v1/nothing", Value::Null, true),
        ("1.3 R2", get.clone(), "/v1/deployments/{deployment}/runs", Value::Null, false),
        ("1.3 R2", post.clone(), ENVIRONMENTS, json!({}), true),
        ("1.3 R2", post.clone(), ENVIRONMENTS, json!({"name": "e", "x": 1}), true),
        ("1.3 R2", post.clone(), ENVIRONMENTS, json!({"name": "e", "config": {"type": "x"}}), true),
        ("1.3 R2", delete.clone(), "/v1/environments/env_{none}", Value::Null, true),
        ("1.3 R2", post.clone(), "/v1/environments/env_{none}/archive", Value::Null, true),
        ("1.3 R2", delete, "/v1/environments/{mine}", Value::Null, true),
        ("1.3 R2", post.clone(), "/v1/agents/{agent}", json!({"version": 7}), false),
        ("1.3 R2", post.clone(), AGENTS, json!({}), false),
        ("1.3 R2", get.clone(), "/v1/agents/agent_{none}", Value::Null, false),
        ("1.3 R2", post.clone(), SESSIONS, json!({}), false),
        ("1.3 R2", get.clone(), "/v1/sessions/sesn_{none}", Value::Null, false),
        ("1.3 R2", post, DEPLOYMENTS, json!({}), false),
        ("1.3 R2", get, "/v1/deployments/depl_{none}", Value::Null, false),
    ];
    for (tag, method, path, body, says_no) in rows {
        let answer = scene.ask(&method, path, &body).await;
        assert!(!answer.status.is_success(), "{tag}: {method} {path}: {}", answer.body);
        let said = answer.headers.get("x-should-retry").map(|value| value.to_str().unwrap());
        assert_eq!(said, says_no.then_some("false"), "{tag}: {method} {path}: {}", answer.body);
    }
    let bare = |api: &Api| api.http.get(format!("{}/v1/agents", api.base));
    let api = &scene.rota.api;
    for (request, message) in [
        (bare(api), "x-api-key header is required"),
        (bare(api).header("authorization", "Bearer nonsense"), "Invalid bearer token"),
        (bare(api).header("x-api-key", "nonsense"), "invalid x-api-key"),
    ] {
        let answer = api.answer(request).await;
        assert_eq!(answer.refusal(), refusal(401, message.to_owned()));
        assert_eq!(answer.headers["x-should-retry"], "false", "{message}");
    }
}

/// What a field of an answer is.
enum Field {
    Absent,
    Is(Value),
    /// An RFC 3339 time in UTC with six decimals.
    Time,
}

#[tokio::test]
async fn answers_have_the_recorded_fields() {
    use Field::{Absent, Is, Time};

    let scene = Scene::set().await;
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let null = || Is(Value::Null);
    #[rustfmt::skip]
    let rows = [
        ("1.4 R2", get.clone(), "/v1/environments?limit=100", Value::Null, "/next_page", null()),
        ("1.4 R2", get.clone(), "/v1/agents?limit=100", Value::Null, "/next_page", Absent),
        ("1.4 R2-INF", get.clone(), "/v1/agents/{agent}/versions", Value::Null, "/next_page", Absent),
        ("1.4 R2-INF", get.clone(), "/v1/deployments?limit=100", Value::Null, "/next_page", Absent),
        ("1.4 R2-INF", get.clone(), "/v1/deployment_runs?limit=100", Value::Null, "/next_page", Absent),
        ("1.4 R2", get.clone(), "/v1/sessions?limit=100", Value::Null, "/next_page", Absent),
        ("1.4 R2", get.clone(), "/v1/sessions?limit=1", Value::Null, "/prev_page", Absent),
        ("1.4 R2", get.clone(), "/v1/sessions/{running}/events", Value::Null, "/next_page", Absent),
        ("4.1 R2 raw", get.clone(), "/v1/agents/{agent}", Value::Null, "/created_at", Time),
        ("4.1 R2 raw", get.clone(), "/v1/sessions/{running}", Value::Null, "/updated_at", Time),
        ("3.1 R2 09-12", get.clone(), "/v1/sessions/{idle}", Value::Null, "/budget", null()),
        ("3.1 spec", get.clone(), "/v1/deployments/{deployment}", Value::Null, "/budget", Absent),
        ("3.2 R2 09-12", get.clone(), "/v1/sessions/{idle}", Value::Null, "/usage/cache_creation", null()),
        ("8 R2 09-22", get.clone(), "/v1/agents/{agent}", Value::Null, "/model/effort", Is(json!({"type": "high"}))),
        ("8 R2 09-02", post.clone(), "/v1/agents/{agent}", json!({"version": null}), "/version", Is(json!(1))),
        ("8 R2 09-02", post.clone(), "/v1/agents/{agent}", json!({}), "/version", Is(json!(1))),
        ("9 R2", get.clone(), "/v1/environments/{environment}", Value::Null, "/config/packages/pip", Is(json!([]))),
        ("9 R2 09-02", delete.clone(), "/v1/environments/{unused}", Value::Null, "/type", Is(json!("environment_deleted"))),
        ("9 R2 09-02", delete.clone(), "/v1/environments/{mine}?force=true", Value::Null, "/type", Is(json!("environment_deleted"))),
        ("9 R2 09-02", delete.clone(), "/v1/environments/{environment}", Value::Null, "/type", Is(json!("environment_deleted"))),
        ("2 R2 09-02", delete.clone(), "/v1/environments/{pinned}", Value::Null, "/type", Is(json!("environment_deleted"))),
        ("12 R2 09-02", get.clone(), STORE, Value::Null, "/archived_at", Absent),
        ("12 R2 09-02", get.clone(), STORE, Value::Null, "/description", Is(json!(""))),
        ("12 R2 09-02", post.clone(), STORE, json!({"description": null}), "/description", Is(json!(""))),
        ("1.4 R2", get.clone(), "/v1/memory_stores?limit=100", Value::Null, "/next_page", Absent),
        ("1.4 R2", get.clone(), MEMORIES, Value::Null, "/next_page", Absent),
        ("1.4 R2", get.clone(), MEMORIES, Value::Null, "/prefixes", Is(json!([]))),
        ("1.4 R2", get.clone(), "/v1/memory_stores/{notes}/memories?depth=1", Value::Null, "/prefixes", Is(json!([]))),
        ("12 R2 09-02", get.clone(), MEMORIES, Value::Null, "/data/0/path", Is(json!("/d"))),
        ("1.4 R2", get.clone(), "/v1/memory_stores/{notes}/memory_versions", Value::Null, "/next_page", Absent),
        ("12 R2 09-02", post.clone(), "/v1/memory_stores/{notes}/memory_versions/{older}/redact", Value::Null, "/content", null()),
        ("12 R2 09-02", post.clone(), "/v1/memory_stores/{notes}/memory_versions/{older}/redact", Value::Null, "/content", null()),
        ("12 R2 09-02", delete.clone(), "/v1/memory_stores/{sealed}/memories/{gone_there}", Value::Null, "/type", Is(json!("memory_deleted"))),
        ("12 R2 09-02", post.clone(), "/v1/memory_stores/{sealed}/archive", Value::Null, "/archived_at", Time),
        ("12 R2", post.clone(), MEMORIES, json!({"path": "/.anthropic-memory-store", "content": ""}), "/path", Is(json!("/.anthropic-memory-store"))),
        ("2 R2 09-02", post, "/v1/deployments/{orphan}/run", Value::Null, "/error/message", Is(json!("session creation rejected: environment `{pinned}` not found"))),
        ("3.2 R2 09-03", get, "/v1/sessions?limit=100&statuses[]=terminated", Value::Null, "/data", Is(json!([]))),
    ];
    for (tag, method, path, body, field, expected) in rows {
        let answer = scene.ask(&method, path, &body).await.success();
        let found = answer.pointer(field);
        let holds = match &expected {
            Absent => found.is_none(),
            Is(value) => {
                let value: Value = serde_json::from_str(&scene.named(&value.to_string())).unwrap();
                found == Some(&value)
            }
            Time => found.and_then(Value::as_str).is_some_and(|time| {
                let (_, decimals) = time.split_once('.').unwrap_or_default();
                decimals.len() == 7 && decimals.ends_with('Z')
            }),
        };
        assert!(holds, "{tag}: {method} {path} {field}: {found:?}");
    }
}
