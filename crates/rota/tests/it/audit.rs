//! The audit list: each change leaves a row that says who made it.

use std::collections::BTreeSet;

use reqwest::{Method, header};
use rota_server::{
    config::Role,
    db::Tx,
    http::{acts::NOT_AUDITED, operations::operations},
};
use serde_json::{Value, json};

use crate::{
    access::one_of_each,
    client::{Answer, Api, invalid},
    files,
    given::{Parts, environment, id},
    repositories::repository,
    server::Rota,
    skills,
    tunnels::AUTHORITIES,
    vaults,
};

const AUDIT: &str = "/rota/v1/audit";

/// A server on which nothing but requests changes anything.
async fn quiet() -> Rota {
    Rota::with(|config| {
        config.engine.concurrency = 0;
        config.roles = [Role::Api, Role::Runner].into_iter().collect();
    })
    .await
}

/// What a call sends.
enum Sent {
    Nothing,
    Body(Value),
    File,
    Skill,
    SkillVersion,
}

use Sent::{Body, File, Nothing, Skill, SkillVersion};

/// A call of each operation that changes something, in an order in which each does. What is between braces is one of each
/// resource, unless a path is given.
async fn calls(api: &Api, parts: &Parts) -> Vec<(Method, &'static str, Option<String>, Sent)> {
    let sessions = [parts.session(api, json!({})).await, parts.session(api, json!({})).await];
    let mounting = json!({"resources": [repository("https://github.com/o/r", &json!({}))]});
    let mounting = parts.session(api, mounting).await;
    let mounted = format!("/v1/sessions/{}/resources/{}", id(&mounting), id(&mounting["resources"][0]));
    let wants = json!({"url": "https://hooks.invalid", "enabled_events": ["agent.created"]});
    let dream = |ids: [&str; 2]| {
        let inputs = json!([
            {"type": "memory_store", "memory_store_id": ids[0]}, {"type": "sessions", "session_ids": [ids[1]]}
        ]);
        json!({"inputs": inputs, "model": {"id": "playbook"}, "output_behavior": {"type": "create_new"}})
    };
    let store = api.post("/v1/memory_stores", json!({"name": "dreamt of"})).await;
    let dream = dream([id(&store), id(&sessions[0])]);
    let post = |path: &'static str, body: Value| (Method::POST, path, None, Body(body));
    let call = |path: &'static str| (Method::POST, path, None, Nothing);
    let delete = |path: &'static str| (Method::DELETE, path, None, Nothing);
    let upload = |path: &'static str, sent: Sent| (Method::POST, path, None, sent);
    vec![
        post("/rota/v1/deployments/{deployment_id}/policy", json!({"overlap": "skip"})),
        post("/rota/v1/deployments/{deployment_id}/retention", json!({"sessions_days": 30})),
        post("/rota/v1/deployments/{deployment_id}/hooks", json!({"name": "h", "scheme": "bearer"})),
        post("/rota/v1/hooks/{hook_id}/rotate", json!({"overlap_seconds": 60})),
        delete("/rota/v1/hooks/{hook_id}"),
        call("/rota/v1/starts/{start_id}/cancel"),
        post("/rota/v1/retention", json!({"runs_days": 30})),
        call("/rota/v1/schedules/hold"),
        call("/rota/v1/schedules/release"),
        call("/rota/v1/workspaces/{workspace_id}/schedules/hold"),
        call("/rota/v1/workspaces/{workspace_id}/schedules/release"),
        post("/rota/v1/environments/{environment_id}/keys", json!({"name": "k"})),
        call("/rota/v1/environments/{environment_id}/keys/{environment_key_id}/revoke"),
        post("/rota/v1/environments/{environment_id}/image", json!({"image": null})),
        post("/rota/v1/webhook_endpoints", wants),
        post("/rota/v1/webhook_endpoints/{webhook_endpoint_id}", json!({"name": "renamed"})),
        call("/rota/v1/webhook_endpoints/{webhook_endpoint_id}/regenerate_signing_secret"),
        call("/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}/replay"),
        delete("/rota/v1/webhook_endpoints/{webhook_endpoint_id}"),
        post("/v1/agents", json!({"name": "a", "model": "playbook"})),
        post("/v1/agents/{agent_id}", json!({"description": "changed"})),
        post("/v1/deployments", parts.deployment_body(&json!({}))),
        post("/v1/deployments/{deployment_id}", json!({"name": "renamed"})),
        call("/v1/deployments/{deployment_id}/pause"),
        call("/v1/deployments/{deployment_id}/unpause"),
        call("/v1/deployments/{deployment_id}/archive"),
        post("/v1/dreams", dream),
        call("/v1/dreams/{dream_id}/cancel"),
        call("/v1/dreams/{dream_id}/archive"),
        post("/v1/environments", json!({"name": "another"})),
        post("/v1/environments/{environment_id}", json!({"description": "changed"})),
        post("/v1/environments/{environment_id}/work/{work_id}", json!({"metadata": {"a": "b"}})),
        post("/v1/environments/{environment_id}/work/{work_id}/stop", json!({"force": true})),
        upload("/v1/files", File),
        delete("/v1/files/{file_id}"),
        post("/v1/memory_stores", json!({"name": "another"})),
        post("/v1/memory_stores/{memory_store_id}", json!({"name": "renamed"})),
        post("/v1/memory_stores/{memory_store_id}/memories", json!({"path": "/two", "content": "c"})),
        post("/v1/memory_stores/{memory_store_id}/memories/{memory_id}", json!({"content": "changed"})),
        call("/v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact"),
        delete("/v1/memory_stores/{memory_store_id}/memories/{memory_id}"),
        call("/v1/memory_stores/{memory_store_id}/archive"),
        delete("/v1/memory_stores/{memory_store_id}"),
        post("/v1/sessions", parts.session_body(&json!({}))),
        post("/v1/sessions/{session_id}", json!({"title": "changed"})),
        post("/v1/sessions/{session_id}/resources", json!({"type": "file", "file_id": "{another_file_id}"})),
        (
            Method::POST,
            "/v1/sessions/{session_id}/resources/{resource_id}",
            Some(mounted),
            Body(json!({"authorization_token": "another"})),
        ),
        delete("/v1/sessions/{session_id}/resources/{resource_id}"),
        (
            Method::POST,
            "/v1/sessions/{session_id}/archive",
            Some(format!("/v1/sessions/{}/archive", id(&sessions[0]))),
            Nothing,
        ),
        (Method::DELETE, "/v1/sessions/{session_id}", Some(format!("/v1/sessions/{}", id(&sessions[1]))), Nothing),
        upload("/v1/skills", Skill),
        upload("/v1/skills/{skill_id}/versions", SkillVersion),
        delete("/v1/skills/{skill_id}/versions/{version}"),
        delete("/v1/skills/{skill_id}"),
        post("/v1/vaults", json!({"display_name": "another"})),
        post("/v1/vaults/{vault_id}", json!({"display_name": "renamed"})),
        post("/v1/vaults/{vault_id}/credentials", vaults::variable("OTHER", &json!({}))),
        post("/v1/vaults/{vault_id}/credentials/{credential_id}", json!({"display_name": "renamed"})),
        call("/v1/vaults/{vault_id}/credentials/{credential_id}/archive"),
        delete("/v1/vaults/{vault_id}/credentials/{credential_id}"),
        call("/v1/vaults/{vault_id}/archive"),
        delete("/v1/vaults/{vault_id}"),
        post("/v1/tunnels", json!({})),
        post("/v1/tunnels/{tunnel_id}/certificates", json!({"ca_certificate_pem": AUTHORITIES[1]})),
        call("/v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive"),
        post("/v1/tunnels/{tunnel_id}/rotate_token", json!({})),
        call("/v1/tunnels/{tunnel_id}/archive"),
        post("/v1/user_profiles", json!({})),
        post("/v1/user_profiles/{user_profile_id}", json!({"name": "renamed"})),
        delete("/v1/user_profiles/{user_profile_id}"),
        call("/v1/agents/{agent_id}/archive"),
        call("/v1/environments/{environment_id}/archive"),
        delete("/v1/environments/{environment_id}"),
        post("/v1/organizations/workspaces", json!({"name": "made"})),
        post("/v1/organizations/workspaces/{workspace_id}", json!({"name": "renamed"})),
        post("/v1/organizations/api_keys/{api_key_id}", json!({"name": "renamed"})),
        call("/v1/organizations/workspaces/{workspace_id}/archive"),
    ]
}

async fn send(api: &Api, method: &Method, path: &str, sent: &Sent) -> Answer {
    let answer = match sent {
        Nothing => api.send(method.clone(), path, None).await,
        Body(body) => api.send(method.clone(), path, Some(body)).await,
        File => api.answer(files::sending(api, files::form(&[("file", Some("b.txt"), b"b")]))).await,
        Skill | SkillVersion => {
            let name = if matches!(sent, Skill) { "two" } else { "one" };
            let text = skills::manifest(name, "Another one.");
            let parts = [("files[]", Some(&*format!("{name}/SKILL.md")), &*text)];
            api.answer(skills::form(api.request(Method::POST, path), &parts)).await
        }
    };
    assert!(answer.status.is_success(), "{method} {path}: {}", answer.body);
    answer
}

/// The rows that a request has left, as an administrator sees them.
async fn rows_of(administrator: &Api, answer: &Answer) -> Vec<Value> {
    let request = answer.headers["request-id"].to_str().unwrap();
    let page = administrator.get(&format!("{AUDIT}?limit=20")).await;
    page["data"].as_array().unwrap().iter().filter(|row| row["request_id"] == request).cloned().collect()
}

#[tokio::test]
async fn every_operation_that_changes_something_leaves_a_row_with_its_key_its_request_and_its_resource() {
    let rota = quiet().await;
    let (api, administrator) = (&rota.api, rota.administrator().await);
    let mut ids = one_of_each(api).await;
    let agent = api.get(&format!("/v1/agents/{}", ids["{agent_id}"])).await;
    let parts = Parts { agent, environment: environment(api, "of sessions").await };
    rota.other_workspace().await;
    let keys = administrator.get("/v1/organizations/api_keys").await;
    let other =
        keys["data"].as_array().unwrap().iter().find(|key| key["name"] == "a key of another workspace").unwrap();
    ids.insert("{api_key_id}", id(other).to_owned());
    ids.insert("{workspace_id}", other["scope"]["workspace_id"].as_str().unwrap().to_owned());
    ids.insert("{another_file_id}", id(&files::upload(api, "another", b"another").await).to_owned());
    let own_key = rota.server.first_key.as_ref().unwrap().id.to_string();
    // Longer names first.
    let fill = |text: &str| ids.iter().rev().fold(text.to_owned(), |text, (name, id)| text.replace(name, id));
    let mut walked = BTreeSet::new();
    for (method, template, path, sent) in calls(api, &parts).await {
        let of_organization = template.starts_with("/v1/organizations") || template.contains("/schedules/");
        let of_all = template.starts_with("/rota/v1/schedules/");
        let by = if of_organization { &administrator } else { api };
        let sent = match sent {
            Body(body) => Body(serde_json::from_str(&fill(&body.to_string())).unwrap()),
            sent => sent,
        };
        let path = path.unwrap_or_else(|| fill(template));
        let answer = send(by, &method, &path, &sent).await;
        let rows = rows_of(&administrator, &answer).await;
        let (own, also): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["actor"]["type"] == "api_key");
        assert_eq!(own.len(), 1, "{method} {template}: {rows:#?}");
        assert!(also.iter().all(|row| row["actor"]["type"] == "cascade"), "{method} {template}: {also:#?}");
        let (row, resource) = (own[0], &own[0]["resource"]);
        assert!(of_all || resource["id"].is_string(), "{method} {template} says what it has changed: {row:#}");
        // Work has its session's id, and a token that is rotated one of its own.
        if answer.body["id"].is_string() && resource["type"] != "work" && !template.ends_with("/rotate_token") {
            assert_eq!(resource["id"], answer.body["id"], "{method} {template}");
        }
        assert_eq!(row["actor"]["id"] == *own_key, !of_organization, "{method} {template}: {row:#}");
        assert!(of_all || row["workspace_id"].is_string(), "{method} {template}: {row:#}");
        walked.insert((method.to_string(), template));
    }
    for operation in operations().iter().filter(|operation| !operation.method.is_safe()) {
        let (method, path) = (operation.method.as_str(), operation.path);
        let is_exempt = NOT_AUDITED.iter().any(|(not, at, _)| method == *not && path == *at);
        assert_ne!(
            walked.contains(&(method.to_owned(), path)),
            is_exempt,
            "{method} {path} changes something: give `calls` one that does, or NOT_AUDITED the reason why it leaves no row"
        );
    }
}

#[tokio::test]
async fn what_changes_nothing_or_is_refused_leaves_no_row() {
    let rota = quiet().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment = parts.deployment(api, json!({})).await;
    let (agent, environment) = (id(&parts.agent), id(&parts.environment));
    api.call(&format!("/v1/deployments/{}/pause", id(&deployment))).await;
    api.call(&format!("/v1/agents/{agent}/archive")).await;
    let count = async || api.all(AUDIT, 100).await.len();
    let before = count().await;
    api.call(&format!("/v1/agents/{agent}/archive")).await;
    api.call(&format!("/v1/deployments/{}/archive", id(&deployment))).await;
    api.post(&format!("/v1/environments/{environment}"), json!({"name": "workshop"})).await;
    api.post_refused(&format!("/v1/agents/{agent}"), json!({"name": "late"})).await;
    api.post_refused("/v1/environments", json!({"name": "workshop"})).await;
    api.call_refused("/v1/deployments/depl_none/pause").await;
    assert_eq!(count().await, before);
    api.post(&format!("/v1/environments/{environment}"), json!({"name": "other"})).await;
    assert_eq!(count().await, before + 1);
}

#[tokio::test]
async fn a_row_names_the_fields_that_are_another_value_and_no_value() {
    let rota = quiet().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let last = async |of: &str| api.get(&format!("{AUDIT}?resource_id={of}&limit=1")).await["data"][0].clone();
    let agent = id(&parts.agent);
    api.post(&format!("/v1/agents/{agent}"), json!({"name": "worker", "system": "anew"})).await;
    let row = last(agent).await;
    assert_eq!((&row["operation"], &row["changed_fields"]), (&json!("agents.update"), &json!(["system"])));
    let deployment = parts.deployment(api, json!({})).await;
    let path = format!("/v1/deployments/{}", id(&deployment));
    let schedule = json!({"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"});
    api.post(&path, json!({"name": "nightly", "schedule": schedule})).await;
    assert_eq!(last(id(&deployment)).await["changed_fields"], json!(["schedule"]));
    api.post(&format!("/rota{path}/policy"), json!({"overlap": "skip"})).await;
    let row = last(id(&deployment)).await;
    assert_eq!(
        (&row["operation"], &row["resource"]["type"], &row["changed_fields"]),
        (&json!("deployments.policy.update"), &json!("deployment"), &json!(["overlap"]))
    );
    let vault = vaults::vault(api, "v").await;
    let variable = json!({"type": "environment_variable", "secret_name": "KEY", "secret_value": "hush-hush",
        "networking": {"type": "unrestricted"}});
    let credential = api.post(&vaults::credentials(&vault), json!({ "auth": variable })).await;
    let changed = json!({"auth": {"type": "environment_variable", "secret_value": "hush-anew"}});
    api.post(&format!("{}/{}", vaults::credentials(&vault), id(&credential)), changed).await;
    let row = last(id(&credential)).await;
    assert_eq!(
        (&row["resource"]["type"], &row["resource"]["parent_id"], &row["changed_fields"]),
        (&json!("credential"), &vault["id"], &json!(["auth"]))
    );
    let all = json!(api.all(AUDIT, 100).await).to_string();
    assert!(!all.contains("hush"), "no value is told, whatever field it is of");
}

#[tokio::test]
async fn what_goes_with_an_agent_or_a_workspace_has_rows_of_its_own_that_name_who_caused_them() {
    let rota = quiet().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let deployment = parts.deployment(api, json!({})).await;
    let answer = api.send(Method::POST, &format!("/v1/agents/{}/archive", id(&parts.agent)), None).await;
    let rows = api.get(&format!("{AUDIT}?resource_id={}&limit=1", id(&deployment))).await;
    let row = &rows["data"][0];
    let own_key = rota.server.first_key.as_ref().unwrap().id.to_string();
    assert_eq!(
        (&row["operation"], &row["actor"]),
        (&json!("deployments.archive"), &json!({"type": "cascade", "id": own_key}))
    );
    assert_eq!(row["request_id"], answer.headers["request-id"].to_str().unwrap());
    let by_key = api.all(&format!("{AUDIT}?actor_id={own_key}"), 100).await;
    assert!(by_key.contains(row), "whoever looks for a key finds what it caused");
}

#[tokio::test]
async fn a_deployment_that_an_error_pauses_was_paused_by_the_scheduler() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let schedule = json!({"type": "cron", "expression": "* * * * *", "timezone": "UTC"});
    let deployment = parts.deployment(api, json!({ "schedule": schedule })).await;
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    rota.advance_seconds(60);
    rota.tick().await;
    let paused = api.get(&format!("/v1/deployments/{}", id(&deployment))).await;
    assert_eq!(paused["paused_reason"]["type"], "error", "{paused:#}");
    let row = &api.get(&format!("{AUDIT}?resource_id={}&limit=1", id(&deployment))).await["data"][0];
    assert_eq!(
        (&row["operation"], &row["actor"], &row["request_id"]),
        (&json!("deployments.pause"), &json!({"type": "scheduler", "id": null}), &Value::Null)
    );
}

#[tokio::test]
async fn a_key_sees_its_workspace_and_an_administrator_all_or_one() {
    let rota = quiet().await;
    let (api, administrator) = (&rota.api, rota.administrator().await);
    let (other, own) = (rota.other_workspace().await, rota.server.first_key.as_ref().unwrap().workspace_id.to_string());
    let theirs = environment(&other, "theirs").await;
    let ours = environment(api, "ours").await;
    let resources = async |api: &Api, query: &str| -> Vec<String> {
        let rows = api.all(&format!("{AUDIT}?operation=environments.create{query}"), 1).await;
        rows.iter().map(|row| row["resource"]["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(resources(api, "").await, [id(&ours)]);
    assert_eq!(resources(&other, "").await, [id(&theirs)]);
    assert_eq!(resources(&administrator, "").await, [id(&ours), id(&theirs)]);
    assert_eq!(resources(&administrator, "&order=asc").await, [id(&theirs), id(&ours)]);
    assert_eq!(resources(&administrator, &format!("&workspace_id={own}")).await, [id(&ours)]);
    assert_eq!(resources(&administrator.in_workspace(&own), "").await, [id(&ours)]);
    assert_eq!(resources(api, &format!("&resource_id={}", id(&theirs))).await, [""; 0]);
    let refused = api.get_refused(&format!("{AUDIT}?workspace_id={own}")).await;
    let said = "workspace_id: only for an administrator's key that names no workspace in its header";
    assert_eq!(refused, invalid(said));
}

/// The rows of an export.
async fn exported(api: &Api, query: &str, headers: &[(header::HeaderName, &str)]) -> Vec<Value> {
    let request = api.request(Method::GET, &format!("{AUDIT}?{query}"));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(name, *value));
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/jsonl".parse().unwrap())
    );
    let text = response.text().await.unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_export_has_every_row_once_and_in_order_however_many_there_are() {
    let rota = quiet().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let copies = 1_700;
    let many = move |tx: &mut Tx<'_>| {
        // Ids that sort after those that there are.
        let sql = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {copies})
             INSERT INTO audit (id, workspace_id, actor_type, operation, resource_type, resource_id, created_at)
             SELECT 'audev_z' || (100000 + n.i), workspace_id, actor_type, 'things.make', resource_type, resource_id, created_at
             FROM audit CROSS JOIN n WHERE operation = 'agents.create'"
        );
        tx.execute(&sql, &[])
    };
    assert_eq!(rota.server.app().db.write(many).await.unwrap(), copies);
    let rows = exported(api, "format=jsonl&order=asc", &[]).await;
    assert!(rows.windows(2).all(|two| two[0]["id"].as_str() < two[1]["id"].as_str()));
    assert_eq!(rows.iter().filter(|row| row["operation"] == "things.make").count(), copies);
    let newest = exported(api, "", &[(header::ACCEPT, "application/jsonl")]).await;
    assert!(newest.iter().eq(rows.iter().rev()), "the same, newest first");
    assert_eq!(exported(api, "format=jsonl&operation=agents.create", &[]).await.len(), 1);
    assert_eq!(exported(api, "format=jsonl&resource_id=none", &[]).await, [] as [Value; 0]);
    let same = api.all(&format!("{AUDIT}?resource_id={}", id(&parts.agent)), 500).await;
    assert_eq!(same.len(), copies + 1);
    let refused = api.get_refused(&format!("{AUDIT}?format=jsonl&limit=5")).await;
    assert!(refused.message.starts_with("limit, page: cannot be set"), "{refused:?}");
}

#[tokio::test]
async fn what_the_command_line_does_is_in_the_list_too() {
    let rota = quiet().await;
    let administrator = rota.administrator().await;
    let data = rota.server.app().config.data.clone();
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
        command
            .args(arguments)
            .arg("--json")
            .arg("--data")
            .arg(&data)
            .env_remove("ROTA_DATABASE")
            .env_remove("ROTA_CONFIG");
        if let Some(database) = rota.database() {
            command.args(["--database", &database.url().0]);
        }
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let key = run(&["keys", "create", "--workspace", "Team"]).await;
    run(&["keys", "revoke", id(&key)]).await;
    run(&["keys", "revoke", id(&key)]).await;
    run(&["org", "disable"]).await;
    run(&["org", "disable"]).await;
    run(&["org", "show"]).await;
    run(&["org", "enable"]).await;
    let rows = administrator.all(&format!("{AUDIT}?actor_type=command_line&order=asc"), 100).await;
    let told: Vec<_> = rows.iter().map(|row| (row["operation"].as_str().unwrap(), &row["request_id"])).collect();
    let operations = ["api_keys.create", "api_keys.revoke", "organization.disable", "organization.enable"];
    assert_eq!(told, operations.map(|operation| (operation, &Value::Null)));
    assert!(
        rows[..2].iter().all(|row| row["resource"]["id"] == key["id"] && row["workspace_id"] == key["workspace_id"])
    );
    assert!(rows[2..].iter().all(|row| row["workspace_id"].is_null()));
    let made = administrator.get(&format!("{AUDIT}?operation=workspaces.create")).await;
    assert_eq!(made["data"][0]["resource"]["id"], key["workspace_id"], "{made:#}");
}
