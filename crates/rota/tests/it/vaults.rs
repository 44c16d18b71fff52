//! Vaults, and the sessions and deployments that name them.

use serde_json::{Value, json};

use crate::{
    client::{Api, ENDPOINTS, invalid, not_found},
    given::{Parts, id, over},
    receiver::Receiver,
    server::Rota,
};

/// A vault `name`.
pub async fn vault(api: &Api, name: &str) -> Value {
    api.post("/v1/vaults", json!({ "display_name": name })).await
}

/// Where a vault is.
pub fn path(vault: &Value) -> String {
    format!("/v1/vaults/{}", id(vault))
}

/// Where its credentials are.
pub fn credentials(vault: &Value) -> String {
    format!("/v1/vaults/{}/credentials", id(vault))
}

/// What creates a fixed token for `url`.
pub fn bearer(url: &str) -> Value {
    json!({"auth": {"type": "static_bearer", "mcp_server_url": url, "token": "hush-bearer"}})
}

/// What creates a variable `name`, but for `changes` of it.
pub fn variable(name: &str, changes: &Value) -> Value {
    let auth = json!({"type": "environment_variable", "secret_name": name, "secret_value": "hush-variable",
        "networking": {"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org", "192.0.2.1"]}});
    json!({"auth": over(auth, changes)})
}

#[tokio::test]
async fn a_vault_is_created_read_changed_listed_archived_and_deleted() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let body = json!({"display_name": "Alice", "metadata": {"user": "1", "team": "a"}});
    let alice = api.post("/v1/vaults", body).await;
    assert!(id(&alice).starts_with("vlt_"));
    for (field, expected) in [
        ("type", json!("vault")),
        ("display_name", json!("Alice")),
        ("metadata", json!({"team": "a", "user": "1"})),
        ("archived_at", Value::Null),
        ("updated_at", alice["created_at"].clone()),
    ] {
        assert_eq!(alice[field], expected, "{field}");
    }
    assert_eq!(api.get(&path(&alice)).await, alice);
    let changed = api.post(&path(&alice), json!({"display_name": "A.", "metadata": {"team": null, "x": "y"}})).await;
    assert_eq!((&changed["display_name"], &changed["metadata"]), (&json!("A."), &json!({"user": "1", "x": "y"})));
    let kept = api.post(&path(&alice), json!({"display_name": null, "metadata": null})).await;
    assert_eq!((&kept["display_name"], &kept["metadata"]), (&changed["display_name"], &changed["metadata"]));

    let bob = vault(api, "Bob").await;
    let all = api.all("/v1/vaults", 1).await;
    assert_eq!(all.iter().map(id).collect::<Vec<_>>(), [id(&bob), id(&alice)], "the newest first");
    let archived = api.call(&format!("{}/archive", path(&bob))).await;
    assert_eq!(archived["archived_at"], archived["updated_at"]);
    assert_eq!(api.call(&format!("{}/archive", path(&bob))).await, archived, "again changes nothing");
    assert_eq!(api.all("/v1/vaults", 10).await.len(), 1);
    assert_eq!(api.all("/v1/vaults?include_archived=true", 10).await.len(), 2);
    let refused = api.post_refused(&path(&bob), json!({"display_name": "B."})).await;
    assert_eq!(refused, invalid("Vault is archived."));
    let refused = api.post_refused(&credentials(&bob), bearer("https://m.example.com")).await;
    assert_eq!(refused, invalid("Vault is archived."));
    for gone in [&alice, &bob] {
        let deleted = api.delete(&path(gone)).await;
        assert_eq!(deleted, json!({"id": id(gone), "type": "vault_deleted"}));
        assert_eq!(api.get_refused(&path(gone)).await, not_found("Vault not found."));
    }
}

#[tokio::test]
async fn what_a_vault_cannot_be_is_refused_in_the_recorded_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    for (body, message) in [
        (json!({}), "display_name: Field required"),
        (json!({"display_name": ""}), "display_name: minimum string length is 1"),
        (json!({"display_name": "é".repeat(256)}), "display_name: maximum string length is 255"),
        (json!({"display_name": "v", "zz": 1}), "Failed to parse request body: unknown field \"zz\""),
        (
            json!({"display_name": "v", "metadata": (0..17).map(|i| (i.to_string(), json!("v"))).collect::<serde_json::Map<_, _>>()}),
            "invalid metadata: metadata map would have 17 entries, exceeding the maximum of 16",
        ),
    ] {
        assert_eq!(api.post_refused("/v1/vaults", body).await, invalid(message));
    }
    for name in ["v".to_owned(), "é".repeat(255)] {
        vault(api, &name).await;
    }
    for path in ["/v1/vaults?limit=0", "/v1/vaults?limit=101", "/v1/vaults?page=x"] {
        assert_eq!(api.get_refused(path).await.status, 400, "{path}");
    }
}

#[tokio::test]
async fn another_workspace_sees_no_vault_and_no_credential() {
    let rota = Rota::without_engine().await;
    let (api, other) = (&rota.api, rota.other_workspace().await);
    let vault = vault(api, "mine").await;
    let token = api.post(&credentials(&vault), bearer("https://m.example.com")).await;
    let token = format!("{}/{}", credentials(&vault), id(&token));
    assert_eq!(other.get("/v1/vaults").await["data"], json!([]));
    for path in [path(&vault), credentials(&vault)] {
        assert_eq!(other.get_refused(&path).await, not_found("Vault not found."), "{path}");
    }
    assert_eq!(other.get_refused(&token).await, not_found("Credential not found."));
    let refused = other.post_refused(&token, json!({"display_name": "theirs"})).await;
    assert_eq!(refused, not_found("Credential not found."));
    let parts = Parts::new(&other).await;
    let refused = other.post_refused("/v1/sessions", parts.session_body(&json!({"vault_ids": [id(&vault)]}))).await;
    assert_eq!(refused, not_found("Referenced vault not found or not accessible."));
}

#[tokio::test]
async fn sessions_and_deployments_keep_the_vaults_that_they_name_and_no_others_are_taken() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (one, two) = (vault(api, "one").await, vault(api, "two").await);
    let ids = json!([id(&two), id(&one)]);
    let named = json!({ "vault_ids": ids });
    assert_eq!(parts.session(api, named.clone()).await["vault_ids"], ids);
    let deployment = parts.deployment(api, named.clone()).await;
    assert_eq!(deployment["vault_ids"], ids);
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let session = api.get(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await;
    assert_eq!(session["vault_ids"], ids);

    api.call(&format!("{}/archive", path(&one))).await;
    let deployment_path = format!("/v1/deployments/{}", id(&deployment));
    for (wrong, refusal) in [
        (json!({"vault_ids": [id(&two), "vlt_x"]}), not_found("Referenced vault not found or not accessible.")),
        (named, invalid("Vault is archived.")),
    ] {
        assert_eq!(api.post_refused("/v1/sessions", parts.session_body(&wrong)).await, refusal);
        assert_eq!(api.post_refused("/v1/deployments", parts.deployment_body(&wrong)).await, refusal);
        assert_eq!(api.post_refused(&deployment_path, wrong).await, refusal);
    }
    let renamed = api.post(&deployment_path, json!({"name": "renamed"})).await;
    assert_eq!(renamed["vault_ids"], ids, "what is left out is not looked at");
    let run = api.call(&format!("{deployment_path}/run")).await;
    assert_eq!(run["error"]["type"], "vault_archived_error");
    let moved = api.post(&deployment_path, json!({"vault_ids": [id(&two)]})).await;
    assert_eq!(moved["vault_ids"], json!([id(&two)]));
    let run = api.call(&format!("{deployment_path}/run")).await;
    assert_eq!(run["error"], Value::Null);
}

#[tokio::test]
async fn an_archived_vault_archives_its_credentials_and_each_change_is_told() {
    let rota = Rota::receiving(|config| config.engine.concurrency = 0).await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    api.post(
        ENDPOINTS,
        json!({"url": receiver.url, "enabled_events": ["vault.created", "vault.archived", "vault.deleted",
        "vault_credential.created", "vault_credential.archived", "vault_credential.deleted"]}),
    )
    .await;
    let vault = vault(api, "v").await;
    let mut made = Vec::new();
    for name in ["A", "B", "C"] {
        made.push(api.post(&credentials(&vault), variable(name, &json!({}))).await);
    }
    let of = |i: usize| format!("{}/{}", credentials(&vault), id(&made[i]));
    api.call(&format!("{}/archive", of(0))).await;
    api.call(&format!("{}/archive", of(0))).await;
    api.delete(&of(1)).await;
    let archived = api.call(&format!("{}/archive", path(&vault))).await;
    assert_eq!(api.get(&of(2)).await["archived_at"], archived["archived_at"]);
    api.call(&format!("{}/archive", path(&vault))).await;
    api.delete(&path(&vault)).await;
    assert_eq!(api.get_refused(&of(2)).await, not_found("Credential not found."));
    let mut expected: Vec<(&str, &str)> = made.iter().map(|one| ("vault_credential.created", id(one))).collect();
    expected.extend([
        ("vault.created", id(&vault)),
        ("vault_credential.archived", id(&made[0])),
        ("vault_credential.deleted", id(&made[1])),
        ("vault_credential.archived", id(&made[2])),
        ("vault.archived", id(&vault)),
        ("vault.deleted", id(&vault)),
    ]);
    let mut told = Vec::new();
    for _ in &expected {
        let delivery = receiver.next().await;
        let of_credential = delivery.kind().starts_with("vault_credential.");
        let named = delivery.event["data"].get("vault_id").cloned();
        assert_eq!(named, of_credential.then(|| vault["id"].clone()), "{}", delivery.kind());
        told.push((delivery.kind().to_owned(), delivery.about().to_owned()));
    }
    let mut expected: Vec<_> = expected.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}
