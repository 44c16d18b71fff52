//! Webhook endpoints: their fields, their list, who may have how many.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Api, ENDPOINTS, Refusal, invalid, not_found},
    contract::ADMINISTRATION,
    given::{id, over},
    server::Rota,
};

fn body(changes: &Value) -> Value {
    over(json!({"url": "https://hooks.example.com/rota", "enabled_events": ["agent.created"]}), changes)
}

fn path(endpoint: &Value) -> String {
    format!("{ENDPOINTS}/{}", id(endpoint))
}

/// Holds an answer against the organization webhooks of the administration API, whose types of events are others.
fn check(method: &str, path: &str, answer: &Value) {
    let mut answer = answer.clone();
    for pointer in ["/enabled_events", "/data/0/enabled_events"] {
        if let Some(events) = answer.pointer_mut(pointer) {
            *events = json!(["external_key.failed"]);
        }
    }
    let path = path.replace("/rota/v1/webhook_endpoints", "/v1/organizations/webhooks");
    ADMINISTRATION.check(method, &path, &answer);
}

#[tokio::test]
async fn an_endpoint_has_the_fields_of_an_organization_webhook_and_shows_its_secret_once() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let body = body(
        &json!({"name": "pager", "description": "wakes people", "enabled_events": ["session.status_idled", "agent.created", "agent.created"]}),
    );
    let created = api.post(ENDPOINTS, body).await;
    check("POST", ENDPOINTS, &created);
    let secret = created["signing_secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == "whsec_".len() + 44, "32 bytes in base64");
    let mut endpoint = created.clone();
    endpoint.as_object_mut().unwrap().shift_remove("signing_secret");
    let expected = json!({
        "id": created["id"],
        "created_at": "2026-03-02T08:00:00.001000Z",
        "updated_at": "2026-03-02T08:00:00.001000Z",
        "name": "pager",
        "description": "wakes people",
        "url": "https://hooks.example.com/rota",
        "enabled_events": ["agent.created", "session.status_idled"],
        "state": "enabled",
        "disabled_reason": "",
    });
    assert_eq!(endpoint, expected);

    let retrieved = api.get(&path(&created)).await;
    check("GET", &path(&created), &retrieved);
    assert_eq!(retrieved, endpoint);
    let listed = api.get(ENDPOINTS).await;
    check("GET", ENDPOINTS, &listed);
    assert_eq!(listed["data"], json!([endpoint]));
    let updated = api.post(&path(&created), json!({"enabled_events": [], "state": "disabled", "name": ""})).await;
    check("POST", &path(&created), &updated);
    let changes = json!({"state": "disabled", "name": "", "updated_at": updated["updated_at"]});
    assert_eq!(updated, over(endpoint, &changes));
    let regenerate = format!("{}/regenerate_signing_secret", path(&created));
    let regenerated = api.call(&regenerate).await;
    check("POST", &regenerate, &regenerated);
    assert_ne!(regenerated["signing_secret"], created["signing_secret"]);
    let deleted = api.delete(&path(&created)).await;
    check("DELETE", &path(&created), &deleted);
    assert_eq!(deleted, json!({"id": created["id"], "type": "webhook_endpoint_deleted"}));
    let gone = not_found(format!("Webhook endpoint `{}` not found.", id(&created)));
    assert_eq!(api.get_refused(&path(&created)).await, gone);
    assert_eq!(api.send(Method::DELETE, &path(&created), None).await.refusal(), gone);
}

#[tokio::test]
async fn a_url_must_lead_to_the_internet_over_tls() {
    let rota = Rota::without_engine().await;
    let private = "is a private address, which this server does not send to";
    for (url, message) in [
        ("hooks", "url: must be an absolute https URL".to_owned()),
        ("http://hooks.example.com", "url: must be an absolute https URL".to_owned()),
        ("https://a:b@hooks.example.com", "url: must not hold a user name or a password".to_owned()),
        ("https://169.254.169.254/latest", format!("url: 169.254.169.254 {private}")),
        ("https://[::1]/", format!("url: ::1 {private}")),
    ] {
        assert_eq!(rota.api.post_refused(ENDPOINTS, body(&json!({ "url": url }))).await, invalid(message.clone()));
        let made = rota.api.post(ENDPOINTS, body(&json!({}))).await;
        assert_eq!(rota.api.post_refused(&path(&made), json!({ "url": url })).await, invalid(message));
    }
}

#[tokio::test]
async fn a_workspace_has_at_most_32_endpoints_enabled_or_disabled() {
    let rota = Rota::without_engine().await;
    let mut last = Value::Null;
    for _ in 0..32 {
        last = rota.api.post(ENDPOINTS, body(&json!({}))).await;
    }
    rota.api.post(&path(&last), json!({"state": "disabled"})).await;
    let refused = invalid("the workspace has 32 webhook endpoints, which is the most; delete one first");
    assert_eq!(rota.api.post_refused(ENDPOINTS, body(&json!({}))).await, refused);
    rota.other_workspace().await.post(ENDPOINTS, body(&json!({}))).await;
    rota.api.delete(&path(&last)).await;
    rota.api.post(ENDPOINTS, body(&json!({}))).await;
}

async fn page(api: &Api, query: &str) -> (Vec<String>, Value) {
    let page = api.get(&format!("{ENDPOINTS}?{query}")).await;
    let names: Vec<String> =
        page["data"].as_array().unwrap().iter().map(|endpoint| endpoint["name"].as_str().unwrap().to_owned()).collect();
    let ends = page["data"].as_array().unwrap();
    let end = |endpoint: Option<&Value>| endpoint.map_or(Value::Null, |endpoint| endpoint["id"].clone());
    assert_eq!((&page["first_id"], &page["last_id"]), (&end(ends.first()), &end(ends.last())));
    (names, page["has_more"].clone())
}

#[tokio::test]
async fn endpoints_are_listed_as_the_administration_api_lists() {
    let rota = Rota::without_engine().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d"] {
        ids.push(id(&rota.api.post(ENDPOINTS, body(&json!({ "name": name }))).await).to_owned());
    }
    let [a, b, _, d] = &ids[..] else { panic!("there are four") };
    let rows = [
        (String::new(), vec!["d", "c", "b", "a"], false),
        ("limit=0".to_owned(), vec!["d", "c", "b", "a"], false),
        ("limit=2".to_owned(), vec!["d", "c"], true),
        (format!("limit=2&after_id={b}"), vec!["a"], false),
        ("order=asc&limit=3".to_owned(), vec!["a", "b", "c"], true),
        (format!("order=asc&after_id={b}"), vec!["c", "d"], false),
        // Not the two just before it.
        (format!("limit=2&before_id={a}"), vec!["d", "c"], true),
        (format!("before_id={d}"), vec![], false),
    ];
    for (query, names, more) in rows {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        assert_eq!(page(&rota.api, &query).await, (names, json!(more)), "{query}");
    }
    for (query, message) in [
        ("limit=101".to_owned(), "limit: value must be less than or equal to 100"),
        ("colour=red".to_owned(), "colour: Extra inputs are not permitted"),
        ("order=up".to_owned(), "order: \"up\" is not a valid value"),
        (format!("after_id={a}&before_id={b}"), "after_id: cannot be combined with before_id"),
        ("after_id=whep_x".to_owned(), "\"whep_x\" is not a webhook endpoint of this list"),
    ] {
        let refused = rota.api.get_refused(&format!("{ENDPOINTS}?{query}")).await;
        assert_eq!(refused, Refusal { ..invalid(message) }, "{query}");
    }
}
