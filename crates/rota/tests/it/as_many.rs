//! As many as there may be, used; and one more, refused.

use rota_api::{
    dream::MAX_SESSIONS,
    session::{MAX_RESOURCES, MAX_VAULTS},
};
use serde_json::{Value, json};

use crate::{
    client::Api,
    dreams::dream,
    files::upload,
    given::{Parts, id, message, script},
    memory_stores::store,
    server::Rota,
    stream::text,
    vaults::vault,
};

/// Checks that a request with one more than there may be is refused, in words that name the field and the number.
async fn one_more_is_refused(api: &Api, path: &str, body: Value, field: &str, most: usize) {
    let refused = api.post_refused(path, body).await;
    assert_eq!((refused.status, refused.kind.as_str()), (400, "invalid_request_error"), "{refused:?}");
    assert!(refused.message.contains(field) && refused.message.contains(&most.to_string()), "{refused:?}");
}

#[tokio::test]
async fn a_deployment_mounts_as_many_files_as_there_may_be() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let file = upload(api, "numbers.csv", b"1,2,3\n").await;
    let mounted = |count: usize| -> Vec<Value> {
        let at = |n| json!({"type": "file", "file_id": id(&file), "mount_path": format!("/tables/{n}/numbers.csv")});
        (0..count).map(at).collect()
    };
    let look = script("cd /mnt/session/uploads/tables && cat */numbers.csv | sort | uniq -c | tr -s ' ' && ls | wc -l");
    let changes = |count| json!({"resources": mounted(count), "initial_events": [look]});
    let too_many = parts.deployment_body(&changes(MAX_RESOURCES + 1));
    one_more_is_refused(api, "/v1/deployments", too_many, "resources", MAX_RESOURCES).await;
    let too_many = parts.session_body(&json!({"resources": mounted(MAX_RESOURCES + 1)}));
    one_more_is_refused(api, "/v1/sessions", too_many, "resources", MAX_RESOURCES).await;

    let deployment = parts.deployment(api, changes(MAX_RESOURCES)).await;
    assert_eq!(deployment["resources"].as_array().unwrap().len(), MAX_RESOURCES);
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    assert_eq!(run["error"], Value::Null, "{run}");
    let session = format!("/v1/sessions/{}", run["session_id"].as_str().unwrap());
    let shown = api.once(&session, |session| session["status"] == "idle").await;
    assert_eq!(shown["resources"].as_array().unwrap().len(), MAX_RESOURCES);
    let results = api.get(&format!("{session}/events?types=agent.tool_result")).await;
    assert_eq!(text(&results["data"][0]), format!(" {MAX_RESOURCES} 1,2,3\n{MAX_RESOURCES}\n"));
    let listed = api.all(&format!("{session}/resources"), 100).await;
    assert_eq!(listed.len(), MAX_RESOURCES);
    let added = json!({"type": "file", "file_id": id(&file), "mount_path": "/one-more.csv"});
    one_more_is_refused(api, &format!("{session}/resources"), added, "resources", MAX_RESOURCES).await;
}

#[tokio::test]
async fn a_session_names_as_many_vaults_as_there_may_be() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let mut vaults = Vec::new();
    for n in 0..=MAX_VAULTS {
        vaults.push(id(&vault(api, &format!("v{n}")).await).to_owned());
    }
    let changes = |count: usize| json!({"vault_ids": vaults[..count], "initial_events": [message("hello")]});
    for (path, body) in [
        ("/v1/deployments", parts.deployment_body(&changes(MAX_VAULTS + 1))),
        ("/v1/sessions", parts.session_body(&changes(MAX_VAULTS + 1))),
    ] {
        one_more_is_refused(api, path, body, "vault_ids", MAX_VAULTS).await;
    }
    let deployment = parts.deployment(api, changes(MAX_VAULTS)).await;
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    assert_eq!(run["error"], Value::Null, "{run}");
    let session = format!("/v1/sessions/{}", run["session_id"].as_str().unwrap());
    let shown = api.once(&session, |session| session["status"] == "idle").await;
    assert_eq!(shown["vault_ids"], json!(vaults[..MAX_VAULTS]));
}

#[tokio::test]
async fn a_dream_reads_as_many_sessions_as_there_may_be() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let mut sessions = Vec::new();
    for n in 0..=MAX_SESSIONS {
        sessions.push(id(&parts.session_with(api, message(&format!("Fact {n}."))).await).to_owned());
    }
    for session in &sessions {
        api.once(&format!("/v1/sessions/{session}"), |shown| shown["status"] == "idle").await;
    }
    let notes = store(api, "notes").await;
    let inputs = json!([
        {"type": "memory_store", "memory_store_id": id(&notes)},
        {"type": "sessions", "session_ids": sessions},
    ]);
    let too_many = json!({"inputs": inputs, "model": "playbook"});
    one_more_is_refused(api, "/v1/dreams", too_many, "session_ids", MAX_SESSIONS).await;

    let names: Vec<&str> = sessions[..MAX_SESSIONS].iter().map(String::as_str).collect();
    let made = dream(api, id(&notes), &names, json!({})).await;
    let path = format!("/v1/dreams/{}", id(&made));
    let ended = api.once(&path, |shown| !["pending", "running"].contains(&shown["status"].as_str().unwrap())).await;
    assert_eq!((&ended["status"], &ended["error"]), (&json!("completed"), &Value::Null), "{ended}");
    let output = ended["outputs"][0]["memory_store_id"].as_str().unwrap();
    let written = api.all(&format!("/v1/memory_stores/{output}/memories?view=full"), 100).await;
    assert_eq!(written.len(), MAX_SESSIONS);
    let all: Vec<&str> = written.iter().map(|memory| memory["content"].as_str().unwrap()).collect();
    for n in 0..MAX_SESSIONS {
        let fact = format!("User: Fact {n}.");
        assert!(all.iter().any(|content| content.contains(&fact)), "session {n} was read");
    }
}
