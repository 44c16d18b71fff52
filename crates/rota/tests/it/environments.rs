//! Environments: names, networks, packages, archiving and deleting.

use serde_json::{Value, json};

use crate::{
    client::{Refusal, conflict, invalid, not_found},
    given::{environment, id, over},
    server::Rota,
};

fn path(environment: &Value) -> String {
    format!("/v1/environments/{}", id(environment))
}

fn no_packages() -> Value {
    json!({"type": "packages", "apt": [], "cargo": [], "gem": [], "go": [], "npm": [], "pip": []})
}

#[tokio::test]
async fn an_environment_is_an_unrestricted_cloud_unless_it_says_otherwise() {
    let rota = Rota::without_engine().await;
    let made = environment(&rota.api, "e").await;
    let cloud = json!({"type": "cloud", "networking": {"type": "unrestricted"}, "packages": no_packages()});
    assert_eq!((&made["config"], &made["scope"]), (&cloud, &json!("organization")));
    assert_eq!(rota.api.get(&path(&made)).await, made);
    let body = json!({"name": "mine", "config": {"type": "self_hosted"}});
    assert_eq!(rota.api.post("/v1/environments", body).await["config"], json!({"type": "self_hosted"}));
}

#[tokio::test]
async fn a_name_is_taken_until_its_environment_is_archived_or_deleted() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let taken = conflict("An environment named \"a\" already exists in this workspace.");
    let a = environment(api, "a").await;
    let b = environment(api, "b").await;
    assert_eq!(api.post_refused("/v1/environments", json!({"name": "a"})).await, taken);
    assert_eq!(api.post_refused(&path(&b), json!({"name": "a"})).await, taken);
    api.post(&path(&a), json!({"name": "a"})).await;
    api.call(&format!("{}/archive", path(&a))).await;
    let second = environment(api, "a").await;
    assert_eq!(api.delete(&path(&second)).await, json!({"id": id(&second), "type": "environment_deleted"}));
    environment(api, "a").await;
    environment(&rota.other_workspace().await, "a").await;
}

#[tokio::test]
async fn an_update_of_a_limited_network_keeps_what_it_leaves_out() {
    let rota = Rota::without_engine().await;
    let limited = |changes: Value| json!({"type": "cloud", "networking": over(json!({"type": "limited"}), &changes)});
    let body =
        json!({"name": "e", "config": limited(json!({"allowed_hosts": ["*.example.com"], "allow_mcp_servers": true}))});
    let made = rota.api.post("/v1/environments", body).await;
    let shown = |hosts: Value, mcp: bool, packages: bool| json!({"type": "limited", "allowed_hosts": hosts, "allow_mcp_servers": mcp, "allow_package_managers": packages});
    assert_eq!(made["config"]["networking"], shown(json!(["*.example.com"]), true, false));
    for (config, networking) in [
        (limited(json!({"allow_package_managers": true})), shown(json!(["*.example.com"]), true, true)),
        (limited(json!({"allowed_hosts": []})), shown(json!([]), true, true)),
        (json!({"type": "cloud"}), shown(json!([]), true, true)),
        (json!({"type": "cloud", "networking": {"type": "unrestricted"}}), json!({"type": "unrestricted"})),
        (limited(json!({})), shown(json!([]), false, false)),
        (json!({"type": "cloud", "networking": null}), json!({"type": "unrestricted"})),
    ] {
        let updated = rota.api.post(&path(&made), json!({ "config": config })).await;
        assert_eq!(updated["config"]["networking"], networking, "{config}");
    }
}

#[tokio::test]
async fn packages_need_a_network_that_reaches_them() {
    let rota = Rota::without_engine().await;
    let config = |networking: Value| json!({"type": "cloud", "networking": networking, "packages": {"apt": ["jq"]}});
    let body = |networking: Value| json!({"name": "e", "config": config(networking)});
    let refused = invalid("config: packages require networking.allow_package_managers to be true");
    assert_eq!(rota.api.post_refused("/v1/environments", body(json!({"type": "limited"}))).await, refused);
    let allowed = json!({"type": "limited", "allow_package_managers": true});
    let made = rota.api.post("/v1/environments", body(allowed)).await;
    assert_eq!(made["config"]["packages"], over(no_packages(), &json!({"apt": ["jq"]})));
    let closed =
        json!({"config": {"type": "cloud", "networking": {"type": "limited", "allow_package_managers": false}}});
    assert_eq!(rota.api.post_refused(&path(&made), closed).await, refused);
}

#[tokio::test]
async fn the_type_of_an_environment_never_changes() {
    let rota = Rota::without_engine().await;
    let made = environment(&rota.api, "e").await;
    let answer =
        rota.api.send(reqwest::Method::POST, &path(&made), Some(&json!({"config": {"type": "self_hosted"}}))).await;
    assert_eq!(answer.refusal(), invalid("Cannot change environment type from Cloud to BYOC"));
    assert_eq!(answer.body["error"]["details"], json!({"error_code": "invalid_config_type_change"}));
    assert_eq!(rota.api.get(&path(&made)).await, made);
}

#[tokio::test]
async fn an_archived_environment_cannot_be_changed_and_stays_readable() {
    let rota = Rota::without_engine().await;
    let made = environment(&rota.api, "e").await;
    let archived = rota.api.call(&format!("{}/archive", path(&made))).await;
    assert!(archived["archived_at"].is_string());
    rota.advance_seconds(60);
    assert_eq!(rota.api.call(&format!("{}/archive", path(&made))).await, archived);
    let answer = rota.api.send(reqwest::Method::POST, &path(&made), Some(&json!({"name": "x"}))).await;
    let message = format!("Environment `{}` is archived and cannot be changed.", id(&made));
    assert_eq!(answer.refusal(), Refusal { message, ..invalid("") });
    assert_eq!(answer.body["error"]["details"], json!({"error_code": "environment_archived"}));
    assert_eq!(rota.api.get(&path(&made)).await, archived);
    assert_eq!(rota.api.get("/v1/environments").await["data"], json!([]));
    assert_eq!(rota.api.get("/v1/environments?include_archived=true").await["data"], json!([archived]));
}

#[tokio::test]
async fn a_deleted_environment_is_gone() {
    let rota = Rota::without_engine().await;
    let made = environment(&rota.api, "e").await;
    rota.api.delete(&path(&made)).await;
    let gone = not_found(format!("Environment {} not found.", id(&made)));
    assert_eq!(rota.api.get_refused(&path(&made)).await, gone);
    assert_eq!(rota.api.send(reqwest::Method::DELETE, &path(&made), None).await.refusal(), gone);
    assert_eq!(rota.api.call_refused(&format!("{}/archive", path(&made))).await, gone);
}

#[tokio::test]
async fn metadata_and_description_merge_and_clear() {
    let rota = Rota::without_engine().await;
    let body = json!({"name": "e", "description": "d", "metadata": {"a": "1", "b": "2"}});
    let made = rota.api.post("/v1/environments", body).await;
    let updated = rota.api.post(&path(&made), json!({"description": null, "metadata": {"a": null, "c": "3"}})).await;
    assert_eq!((&updated["description"], &updated["metadata"]), (&Value::Null, &json!({"b": "2", "c": "3"})));
    assert_eq!(rota.api.post(&path(&made), json!({"name": null, "config": null})).await["name"], "e");
    let names = rota.api.all("/v1/environments", 1).await;
    assert_eq!(names.len(), 1);
}
