//! Agents: versions, updates, archiving, tools and rosters.

use serde_json::{Value, json};

use crate::{
    client::{Api, conflict, invalid, not_found},
    given::{Parts, agent, id, over, toolset},
    server::Rota,
};

fn path(agent: &Value) -> String {
    format!("/v1/agents/{}", id(agent))
}

#[tokio::test]
async fn each_effective_change_makes_one_version_and_old_ones_stay_readable() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let first = agent(api, json!({"system": "one"})).await;
    assert_eq!((&first["version"], &first["archived_at"]), (&json!(1), &Value::Null));
    assert_eq!(first["created_at"], first["updated_at"]);
    for (body, version) in [
        (json!({"system": "two"}), 2),
        (json!({"system": "two"}), 2),
        (json!({}), 2),
        (json!({"name": "worker", "tools": [toolset()]}), 2),
        (json!({"system": "three", "version": 2}), 3),
    ] {
        let updated = api.post(&path(&first), body.clone()).await;
        assert_eq!(updated["version"], version, "{body}");
        assert_eq!(updated["created_at"], first["created_at"]);
    }
    let versions = api.all(&format!("{}/versions", path(&first)), 2).await;
    let seen: Vec<_> =
        versions.iter().map(|v| (v["version"].as_i64().unwrap(), v["system"].as_str().unwrap())).collect();
    assert_eq!(seen, [(3, "three"), (2, "two"), (1, "one")]);
    assert_eq!(api.get(&format!("{}?version=1", path(&first))).await, first);
    assert_eq!(api.get(&path(&first)).await, versions[0]);
    let refused = not_found(format!("Agent `{}` has no version 4.", id(&first)));
    assert_eq!(api.get_refused(&format!("{}?version=4", path(&first))).await, refused);
}

#[tokio::test]
async fn an_update_of_a_version_that_is_not_the_latest_conflicts_even_when_it_changes_nothing() {
    let rota = Rota::without_engine().await;
    let agent = agent(&rota.api, json!({})).await;
    rota.api.post(&path(&agent), json!({"system": "x", "version": 1})).await;
    for body in [json!({"system": "y", "version": 1}), json!({"system": "x", "version": 1}), json!({"version": 3})] {
        let refused = conflict("Concurrent modification detected. Please fetch the latest version and retry.");
        let answer = rota.api.send(reqwest::Method::POST, &path(&agent), Some(&body)).await;
        assert_eq!(answer.refusal(), refused);
        assert!(!answer.headers.contains_key("x-should-retry"));
    }
    assert_eq!(rota.api.get(&path(&agent)).await["version"], 2);
}

#[tokio::test]
async fn null_and_empty_values_clear_what_can_be_cleared() {
    let rota = Rota::without_engine().await;
    let custom = json!({"type": "custom", "name": "w", "description": "d", "input_schema": {"type": "object"}});
    let full = json!({"description": "d", "system": "s", "tools": [custom], "metadata": {"a": "1", "b": "2"}});
    let agent = agent(&rota.api, full).await;
    for (body, field, expected) in [
        (json!({"description": ""}), "description", Value::Null),
        (json!({"system": null}), "system", Value::Null),
        (json!({"metadata": {"a": null, "c": "3"}}), "metadata", json!({"b": "2", "c": "3"})),
        (json!({"metadata": {"b": ""}}), "metadata", json!({"b": "", "c": "3"})),
        (json!({"metadata": null}), "metadata", json!({"b": "", "c": "3"})),
        (json!({"tools": null}), "tools", json!([])),
        (json!({"description": "back"}), "description", json!("back")),
        (json!({"description": null}), "description", Value::Null),
    ] {
        assert_eq!(rota.api.post(&path(&agent), body.clone()).await[field], expected, "{body}");
    }
}

#[tokio::test]
async fn a_model_is_named_or_described_and_must_be_offered() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let plain = agent(api, json!({})).await;
    assert_eq!(
        plain["model"],
        json!({"id": "playbook", "effort": {"type": "high"}, "speed": "standard", "inference_geo": null})
    );
    let described = agent(api, json!({"model": {"id": "playbook", "effort": "low", "speed": "fast"}})).await;
    let model = json!({"id": "playbook", "effort": {"type": "low"}, "speed": "fast", "inference_geo": null});
    assert_eq!(described["model"], model);
    let renamed = api.post(&path(&described), json!({"model": "playbook"})).await;
    assert_eq!(renamed["model"]["effort"], json!({"type": "low"}), "an update without effort keeps it");
    assert_eq!(renamed["model"]["speed"], "standard");
    let unknown = invalid(
        "model: \"gpt\" is not offered by this server; GET /v1/models lists those that are, and [[models]] in \
         rota.toml adds others",
    );
    assert_eq!(api.post_refused("/v1/agents", json!({"name": "a", "model": "gpt"})).await, unknown);
    assert_eq!(api.post_refused(&path(&plain), json!({"model": "gpt"})).await, unknown);
}

#[tokio::test]
async fn archiving_an_agent_archives_its_deployments_at_the_same_moment_and_leaves_no_run() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let active = parts.deployment(api, json!({})).await;
    let paused = parts.deployment(api, json!({})).await;
    api.call(&format!("/v1/deployments/{}/pause", id(&paused))).await;
    let unrelated = Parts { agent: agent(api, json!({})).await, ..parts };
    let kept = unrelated.deployment(api, json!({})).await;
    let archived = api.call(&format!("{}/archive", path(&json!({"id": active["agent"]["id"]})))).await;
    assert!(archived["archived_at"].is_string());
    for deployment in [&active, &paused] {
        let deployment = api.get(&format!("/v1/deployments/{}", id(deployment))).await;
        assert_eq!(deployment["archived_at"], archived["archived_at"]);
        assert_eq!((&deployment["status"], &deployment["paused_reason"]), (&json!("active"), &Value::Null));
    }
    assert_eq!(api.get(&format!("/v1/deployments/{}", id(&kept))).await["archived_at"], Value::Null);
    assert_eq!(api.get("/v1/deployment_runs").await["data"], json!([]));

    rota.advance_seconds(60);
    assert_eq!(api.call(&format!("{}/archive", path(&archived))).await, archived, "archiving again changes nothing");
    let refused = invalid("Cannot modify archived agent");
    assert_eq!(api.post_refused(&path(&archived), json!({"name": "x"})).await, refused);
    let body = over(unrelated.deployment_body(&json!({})), &json!({"agent": id(&archived)}));
    assert_eq!(api.post_refused("/v1/deployments", body).await, refused);
    let body = over(unrelated.session_body(&json!({})), &json!({"agent": id(&archived)}));
    let refused = format!("agent {} is archived and cannot be used to create a session", id(&archived));
    assert_eq!(api.post_refused("/v1/sessions", body).await, invalid(refused));
}

#[tokio::test]
async fn lists_are_newest_first_and_hide_what_is_archived() {
    let rota = Rota::without_engine().await;
    let mut made = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        made.push(agent(&rota.api, json!({ "name": name })).await);
    }
    rota.api.call(&format!("{}/archive", path(&made[2]))).await;
    let names = async |query: &str| -> String {
        let rows = rota.api.all(&format!("/v1/agents{query}"), 2).await;
        rows.iter().map(|row| row["name"].as_str().unwrap()).collect()
    };
    assert_eq!(names("").await, "edba");
    assert_eq!(names("?include_archived=true").await, "edcba");
    assert_eq!(names("?include_archived=false").await, "edba");
    let at = |i: usize| made[i]["created_at"].as_str().unwrap();
    assert_eq!(names(&format!("?created_at[gte]={}&created_at[lte]={}", at(1), at(3))).await, "db");
}

/// The message with which an agent with `changes` is refused.
async fn refused(api: &Api, changes: Value) -> String {
    let body = over(json!({"name": "a", "model": "playbook"}), &changes);
    let refusal = api.post_refused("/v1/agents", body).await;
    assert_eq!(refusal.status, 400, "{refusal:?}");
    refusal.message
}

#[tokio::test]
async fn tools_follow_the_rules_of_the_api() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let custom = |changes: Value| {
        let tool = json!({"type": "custom", "name": "w", "description": "d", "input_schema": {"type": "object"}});
        json!({"tools": [over(tool, &changes)]})
    };
    let config = |config: Value| json!({"tools": [{"type": "agent_toolset_20260401", "configs": [config]}]});
    let many: Vec<_> = (0..257)
        .map(|i| json!({"type": "custom", "name": format!("t{i}"), "description": "d", "input_schema": {"type": "object"}}))
        .collect();
    for (changes, message) in [
        (
            custom(json!({"name": "bash"})),
            "tools.0.custom.name: custom tool name \"bash\" is the name of a built-in tool",
        ),
        (
            custom(json!({"name": "mcp__x"})),
            "tools.0.custom.name: custom tool name \"mcp__x\" uses reserved MCP tool prefix",
        ),
        (
            custom(json!({"name": "a b"})),
            "tools.0.custom.name: must contain only letters, digits, underscores and hyphens",
        ),
        (custom(json!({"name": "x".repeat(129)})), "tools.0.custom.name: maximum string length is 128"),
        (
            custom(json!({"input_schema": {"type": "array"}})),
            "Failed to parse request: tools[0].input_schema.type: \"array\" is not a valid value; expected one of object",
        ),
        (
            custom(json!({"input_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}}})),
            "tools.0.custom.input_schema: \"$ref\" is not supported",
        ),
        (
            custom(json!({"input_schema": {"type": "object", "anyOf": []}})),
            "tools.0.custom.input_schema.anyOf: is not supported at the top level of input_schema",
        ),
        (
            custom(json!({"permission_policy": {"type": "auto"}})),
            "Failed to parse request body: unknown field \"permission_policy\"",
        ),
        (json!({"tools": [toolset(), toolset()]}), "tools: \"agent_toolset_20260401\" is named more than once"),
        (json!({ "tools": many }), "tools: value must contain no more than 256 item(s)"),
        (
            json!({"tools": many[..256].iter().chain([&toolset()]).collect::<Vec<_>>()}),
            "tools: value must contain no more than 256 item(s)",
        ),
        (
            json!({"tools": many[..249].iter().chain([&toolset()]).collect::<Vec<_>>()}),
            "tools: value must contain no more than 256 item(s)",
        ),
        (
            config(json!({"name": "python"})),
            "Failed to parse request: tools[0].configs[0].name: \"python\" is not a valid value; expected one of bash, edit, glob, grep, read, web_fetch, \
             web_search, write",
        ),
        (
            config(json!({"name": "bash", "permission_policy": {"type": "never"}})),
            "Failed to parse request: tools[0].configs[0].permission_policy.type: \"never\" is not a valid value",
        ),
        (
            config(json!({"name": "bash", "allowed_domains": ["x"]})),
            "Failed to parse request: tools[0].configs[0].allowed_domains: Extra inputs are not permitted for name \"bash\"",
        ),
        (
            config(json!({"name": "web_fetch", "allowed_domains": []})),
            "tools.0.configs.0.allowed_domains: must contain at least 1 item",
        ),
        (
            config(json!({"name": "web_fetch", "blocked_domains": ["example.com/path"]})),
            "tools.0.configs.0.blocked_domains.0: must be a plain hostname without scheme, port or path",
        ),
        (
            config(json!({"name": "web_search", "blocked_domains": ["https://example.com"]})),
            "tools.0.configs.0.blocked_domains.0: must be a plain hostname, with a path behind it or not, without scheme or port",
        ),
        (
            json!({"tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "bash"}, {"name": "bash"}]}]}),
            "tools.0.configs: \"bash\" has more than one entry",
        ),
        (
            json!({"tools": [{"type": "mcp_toolset", "mcp_server_name": "m", "configs": [{"name": "a"}, {"name": "a"}]}]}),
            "tools.0.configs: \"a\" has more than one entry",
        ),
        (
            config(json!({"name": "web_search", "max_content_tokens": 5})),
            "Failed to parse request: tools[0].configs[0].max_content_tokens: Extra inputs are not permitted for name \"web_search\"",
        ),
    ] {
        assert_eq!(refused(api, changes).await, message);
    }
    let enabled = json!({"enabled": true, "permission_policy": {"type": "always_allow"}});
    let asked = json!({"name": "bash", "type": "bash", "enabled": true, "permission_policy": {"type": "always_ask"}});
    let sent = json!([{"type": "agent_toolset_20260401", "configs": [{"name": "bash", "permission_policy": {"type": "always_ask"}}]}]);
    let shown = json!([{"type": "agent_toolset_20260401", "configs": [asked], "default_config": enabled}]);
    assert_eq!(agent(api, json!({ "tools": sent })).await["tools"], shown, "defaults are filled in");
}

#[tokio::test]
async fn the_sources_of_urls_follow_the_rules_of_the_api() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let custom = json!({"type": "custom", "name": "w", "description": "d", "input_schema": {"type": "object"}});
    let with = |sources: Value| {
        let config = json!({"name": "web_fetch", "url_sources": sources});
        json!({"tools": [{"type": "agent_toolset_20260401", "configs": [config]}, custom]})
    };
    let tool = |name: &str| json!({"type": "tool_reference", "name": name});
    let only =
        |names: &[&str]| json!({"type": "only", "tools": names.iter().map(|name| tool(name)).collect::<Vec<_>>()});
    let many: Vec<String> = (0..129).map(|i| format!("t{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let place = "tools.0.configs.0.url_sources";
    for (sources, message) in [
        (
            json!({"client_tool_results": "none", "server_tool_results": "none", "user_input": "none"}),
            format!("{place}: at least one source must not be \"none\": else no URL may be fetched"),
        ),
        (json!({"client_tool_results": only(&[])}), format!("{place}.client_tool_results.tools: must contain at least 1 item")),
        (
            json!({"client_tool_results": only(&many)}),
            format!("{place}.client_tool_results.tools: value must contain no more than 128 item(s)"),
        ),
        (
            json!({"client_tool_results": only(&["w", "w"])}),
            format!("{place}.client_tool_results.tools: \"w\" has more than one entry"),
        ),
        (
            json!({"client_tool_results": only(&["other"])}),
            "tools: url_sources.client_tool_results names \"other\", which is no custom tool of these tools".to_owned(),
        ),
        (
            json!({"server_tool_results": only(&["bash"])}),
            "Failed to parse request: tools[0].configs[0].url_sources.server_tool_results.tools[0].name: \"bash\" is not a \
             valid value; expected one of web_fetch, web_search"
                .to_owned(),
        ),
        (
            json!({"user_input": only(&["w"])}),
            "Failed to parse request: tools[0].configs[0].url_sources.user_input.type: \"only\" is not a valid value"
                .to_owned(),
        ),
    ] {
        assert_eq!(refused(api, with(sources)).await, message);
    }
    let sources = json!({"client_tool_results": only(&["w"]), "server_tool_results": only(&["web_search"]), "user_input": "none"});
    let shown = agent(api, with(sources.clone())).await["tools"][0]["configs"][0]["url_sources"].clone();
    assert_eq!(shown, over(sources, &json!({"user_input": {"type": "none"}})));
}

#[tokio::test]
async fn servers_and_their_toolsets_name_each_other() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let server = |name: &str| json!({"type": "url", "name": name, "url": "https://mcp.example.com"});
    let tools = |name: &str| json!({"type": "mcp_toolset", "mcp_server_name": name});
    let servers: Vec<_> = (0..21).map(|i| server(&i.to_string())).collect();
    for (changes, message) in [
        (json!({"tools": [tools("a")]}), "tools: mcp_server_name \"a\" is not one of mcp_servers"),
        (json!({"mcp_servers": [server("a")]}), "mcp_servers: \"a\" is not referenced by an mcp_toolset in tools"),
        (
            json!({"mcp_servers": [server("a"), server("a")], "tools": [tools("a")]}),
            "mcp_servers: \"a\" is named more than once",
        ),
        (json!({ "mcp_servers": servers }), "mcp_servers: value must contain no more than 20 item(s)"),
        (
            json!({"mcp_servers": [over(server("a"), &json!({"url": "ftp://x"}))], "tools": [tools("a")]}),
            "mcp_servers.0.url: must be an http or https URL",
        ),
    ] {
        assert_eq!(refused(api, changes).await, message);
    }
    let made = agent(api, json!({"mcp_servers": [server("a")], "tools": [tools("a")]})).await;
    let policy = &made["tools"][0]["default_config"]["permission_policy"];
    assert_eq!(*policy, json!({"type": "always_ask"}), "tools of a server ask by default");
    let only_servers = api.post_refused(&path(&made), json!({"tools": []})).await;
    assert_eq!(only_servers, invalid("mcp_servers: \"a\" is not referenced by an mcp_toolset in tools"));
}

#[tokio::test]
async fn a_skill_that_is_not_there_cannot_be_referred_to() {
    let rota = Rota::without_engine().await;
    let body = json!({"name": "a", "model": "playbook", "skills": [{"type": "custom", "skill_id": "skill_x"}]});
    let refused = invalid("Agent has invalid configuration: `skill_id` `skill_x` not found");
    assert_eq!(rota.api.post_refused("/v1/agents", body).await, refused);
}

#[tokio::test]
async fn a_coordinator_pins_its_roster_when_it_is_written() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let member = agent(api, json!({"name": "member"})).await;
    let roster = |agents: Value| json!({"multiagent": {"type": "coordinator", "agents": agents}});
    let advisor = json!({"type": "advisor", "model": "playbook"});
    let lead = agent(api, roster(json!([id(&member), {"type": "self"}, advisor]))).await;
    let pinned = |agent: &Value, version: i64| json!({"type": "agent", "id": id(agent), "version": version});
    assert_eq!(lead["multiagent"]["agents"], json!([pinned(&member, 1), pinned(&lead, 1), advisor]));

    api.post(&path(&member), json!({"system": "new"})).await;
    let same = api
        .post(
            &path(&lead),
            json!({"multiagent": {"type": "coordinator", "agents": [
        {"type": "agent", "id": id(&member), "version": 1}, {"type": "self"}, advisor]}}),
        )
        .await;
    assert_eq!(same["version"], 1, "the same roster is no change");
    let moved = api.post(&path(&lead), roster(json!([id(&member), {"type": "self"}]))).await;
    assert_eq!(moved["multiagent"]["agents"], json!([pinned(&member, 2), pinned(&lead, 2)]));
    let cleared = api.post(&path(&lead), json!({"multiagent": null})).await;
    assert_eq!((&cleared["multiagent"], &cleared["version"]), (&Value::Null, &json!(3)));
}

#[tokio::test]
async fn a_roster_that_breaks_the_rules_is_refused() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let member = agent(api, json!({})).await;
    let lead = agent(api, json!({"multiagent": {"type": "coordinator", "agents": [id(&member)]}})).await;
    let gone = agent(api, json!({})).await;
    api.call(&format!("{}/archive", path(&gone))).await;
    let roster = |agents: Value| json!({"multiagent": {"type": "coordinator", "agents": agents}});
    let wrong = |what: String| format!("Agent has invalid configuration: subagent {what}");
    let twice = wrong(format!("{} referenced multiple times", id(&member)));
    let deep = wrong(format!("{} has its own subagents; maximum depth is 1", id(&lead)));
    let archived = wrong(format!("{} is archived", id(&gone)));
    let missing = wrong(format!("{} version 7 not found", id(&member)));
    for (changes, message) in [
        (roster(json!([])), "multiagent.coordinator.agents: must contain at least 1 item"),
        (
            roster(json!(vec![id(&member); 21])),
            "multiagent.coordinator.agents: value must contain no more than 20 item(s)",
        ),
        (roster(json!([id(&member), id(&member)])), &*twice),
        (roster(json!([id(&lead)])), &*deep),
        (roster(json!([id(&gone)])), &*archived),
        (roster(json!([{"type": "agent", "id": id(&member), "version": 7}])), &*missing),
        (
            roster(json!([{"type": "human"}])),
            "Failed to parse request: multiagent.agents[0].type: \"human\" is not a valid value",
        ),
        (
            roster(json!(["agent_nobody"])),
            "Agent has invalid configuration: subagent agent_nobody is not a valid agent ID",
        ),
    ] {
        assert_eq!(refused(api, changes).await, message);
    }
}

#[tokio::test]
async fn the_members_of_a_multiagent_merge_one_by_one() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let member = agent(api, json!({"name": "member"})).await;
    let pinned = json!({"type": "agent", "id": id(&member), "version": 1});
    let on = json!({"type": "enabled"});
    let off = json!({"type": "disabled"});
    let members = |changes: Value| json!({"multiagent": over(json!({"type": "multiagent_20261001"}), &changes)});
    let lead = agent(api, members(json!({"subagents": {"type": "enabled", "predefined_agents": [id(&member)]}}))).await;
    let everything = json!({"type": "enabled", "inline_agents": on, "predefined_agents": []});
    let subagents = json!({"type": "enabled", "inline_agents": on, "predefined_agents": [pinned]});
    let shown = json!({"type": "multiagent_20261001", "advisor": off, "subagents": subagents, "workflows": everything});
    assert_eq!(lead["multiagent"], shown, "a member that is left out is enabled, the advisor is not");

    let advised = json!({"type": "enabled", "model": "playbook"});
    let updated = api.post(&path(&lead), members(json!({"advisor": advised, "workflows": off}))).await;
    let shown = json!({"type": "multiagent_20261001", "advisor": advised, "subagents": subagents, "workflows": off});
    assert_eq!(updated["multiagent"], shown, "what is left out of an update is kept");
    let inline_off = members(json!({"subagents": {"type": "enabled", "inline_agents": off}}));
    let updated = api.post(&path(&lead), inline_off.clone()).await;
    assert_eq!(updated["multiagent"]["subagents"]["predefined_agents"], json!([pinned]));
    assert_eq!(updated["multiagent"]["subagents"]["inline_agents"], off);
    let nobody = "multiagent.subagents.predefined_agents: must name at least one agent when inline_agents is disabled";
    assert_eq!(refused(api, inline_off).await, nobody);
}
