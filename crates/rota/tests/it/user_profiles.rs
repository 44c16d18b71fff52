//! User profiles: their shapes, their rules, and what needs the vendor.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, Refusal, invalid, not_found},
    given::{id, over},
    server::Rota,
};

const PROFILES: &str = "/v1/user_profiles";
const SHAPES: [&str; 3] = ["user-profiles-2026-03-24", "user-profiles-2026-08-18", "user-profiles-2026-09-04"];

fn path(profile: &Value) -> String {
    format!("{PROFILES}/{}", id(profile))
}

/// A request with these beta names and no others.
fn named(api: &Api, method: Method, path: &str, betas: &[&str]) -> RequestBuilder {
    let request = api.http.request(method, format!("{}{path}", api.base)).header("x-api-key", &api.key);
    if betas.is_empty() { request } else { request.header("anthropic-beta", betas.join(",")) }
}

async fn get(api: &Api, path: &str, betas: &[&str]) -> Answer {
    api.answer(named(api, Method::GET, path, betas)).await
}

async fn post(api: &Api, path: &str, betas: &[&str], body: Value) -> Answer {
    api.answer(named(api, Method::POST, path, betas).json(&body)).await
}

fn names(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|profile| profile["name"].as_str().unwrap_or("-")).collect()
}

#[tokio::test]
async fn the_beta_names_decide_which_shape_a_profile_has_and_what_it_is_made_of() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let details = json!({"reference_id": "row 7", "onboarded_at": "2025-05-01T00:00:00Z", "country": "AT", "entity_type": "business",
        "account_status": "active", "email_hash": "e", "name_hash": "n"});
    let body =
        json!({"name": "Acme", "access_type": "passthrough", "external_user_details": details, "metadata": {"a": "b"}});
    let made = post(api, PROFILES, &[], body).await.success();
    let whole = over(details, &json!({"onboarded_at": "2025-05-01T00:00:00.000000Z"}));
    assert_eq!(made["external_user_details"], whole);
    assert_eq!(made["programs"], json!({"cyber": null, "efs": null}));
    assert_eq!((&made["enforcement_status"], &made["enforcement_actions"]), (&json!("unrestricted"), &json!([])));

    // What the schemas of the contract leave optional.
    let rows = [
        (SHAPES[0], vec!["external_id"]),
        (SHAPES[1], vec!["access_type", "external_id", "external_user_onboarded_at"]),
        (SHAPES[2], vec!["access_type", "external_user_details"]),
    ];
    for (beta, fields) in rows {
        let shown = get(api, &path(&made), &[beta]).await.success();
        let optional = ["access_type", "external_id", "external_user_onboarded_at", "external_user_details"];
        let shows: Vec<&str> = optional.into_iter().filter(|name| shown.get(*name).is_some()).collect();
        assert_eq!(shows, fields, "{beta}");
        assert_eq!(shown["trust_grants"], json!({}));
    }
    let newest = get(api, &path(&made), &[SHAPES[2], SHAPES[1]]).await.success();
    assert!(newest.get("external_id").is_none(), "the newest of two names counts: {newest}");
    let of_august = get(api, &path(&made), &[SHAPES[1]]).await.success();
    assert_eq!(
        (&of_august["external_id"], &of_august["external_user_onboarded_at"]),
        (&json!("row 7"), &json!("2025-05-01T00:00:00.000000Z"))
    );

    let old = post(api, PROFILES, &[SHAPES[0]], json!({"external_id": "x"})).await.success();
    let general = get(api, &path(&old), &[]).await.success();
    assert_eq!(general["external_user_details"]["reference_id"], "x");
    assert_eq!(general["access_type"], "application");
    for (beta, body, field) in [
        (None, json!({"external_id": "x"}), "external_id"),
        (Some(SHAPES[1]), json!({"external_user_details": {}}), "external_user_details"),
        (Some(SHAPES[0]), json!({"external_user_onboarded_at": "2025-05-01T00:00:00Z"}), "external_user_onboarded_at"),
    ] {
        let refused = post(api, PROFILES, beta.as_slice(), body).await.refusal();
        assert_eq!(refused, invalid(format!("{field}: Extra inputs are not permitted")));
    }
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_no_detail_can_be_cleared() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let body =
        json!({"name": "Acme", "external_user_details": {"reference_id": "r"}, "metadata": {"a": "1", "b": "2"}});
    let made = post(api, PROFILES, &[], body).await.success();
    let same = post(api, &path(&made), &[], json!({"name": "Acme"})).await.success();
    assert_eq!(same, made, "nothing changes, not even when it was last changed");
    let changes = json!({"external_user_details": {"country": "DE"}, "metadata": {"a": "", "c": "3"}, "name": null});
    let changed = post(api, &path(&made), &[], changes).await.success();
    assert_eq!(changed["metadata"], json!({"b": "2", "c": "3"}));
    assert_eq!((&changed["name"], &changed["external_user_details"]["reference_id"]), (&Value::Null, &json!("r")));
    assert_eq!(changed["external_user_details"]["country"], "DE");
    assert_ne!(changed["updated_at"], made["updated_at"]);
    let cleared = json!({"external_user_details": {"reference_id": null}});
    let refused = post(api, &path(&made), &[], cleared).await.refusal();
    assert_eq!(refused, invalid("external_user_details.reference_id: value cannot be null"));
    let ahead = json!({"external_user_details": {"onboarded_at": "2999-01-01T00:00:00Z"}});
    let refused = post(api, &path(&made), &[], ahead).await.refusal();
    let said = "external_user_details.onboarded_at: value must be no more than 1 minute in the future";
    assert_eq!(refused, invalid(said));
    let pairs: serde_json::Map<_, _> = (0..17).map(|i| (i.to_string(), json!("x"))).collect();
    let refused = post(api, PROFILES, &[], json!({ "metadata": pairs })).await.refusal();
    assert_eq!(refused, invalid("metadata: value must contain no more than 16 item(s)"));
}

#[tokio::test]
async fn profiles_are_listed_by_creation_or_by_name_page_by_page() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    for name in [json!("bravo"), Value::Null, json!("Alpha"), json!("alpha"), json!("Zulu"), Value::Null] {
        post(api, PROFILES, &[], json!({ "name": name })).await.success();
    }
    let all = async |query: &str| -> Vec<String> {
        let (mut shown, mut page) = (Vec::new(), String::new());
        loop {
            let list = get(api, &format!("{PROFILES}?limit=2{query}{page}"), &[]).await.success();
            shown.extend(names(&list).into_iter().map(str::to_owned));
            match list["next_page"].as_str() {
                Some(next) => page = format!("&page={next}"),
                None => return shown,
            }
        }
    };
    assert_eq!(all("").await, ["-", "Zulu", "alpha", "Alpha", "-", "bravo"], "newest first");
    assert_eq!(all("&order=asc").await, ["bravo", "-", "Alpha", "alpha", "Zulu", "-"]);
    assert_eq!(all("&order_by=name&order=asc").await, ["Alpha", "alpha", "bravo", "Zulu", "-", "-"]);
    assert_eq!(
        all("&order_by=name").await,
        ["Zulu", "bravo", "alpha", "Alpha", "-", "-"],
        "none comes last either way"
    );
    assert_eq!(all("&enforcement_status=unrestricted").await.len(), 6);
    assert_eq!(all("&enforcement_status=banned&enforcement_status=pending").await.len(), 0);
    let refused = get(api, &format!("{PROFILES}?enforcement_status=banned"), &[SHAPES[2]]).await.refusal();
    assert_eq!(refused, invalid("enforcement_status: Extra inputs are not permitted"));
    let refused = get(api, &format!("{PROFILES}?limit=101"), &[]).await.refusal();
    assert_eq!(refused, invalid("limit: value must be less than or equal to 100"));
}

#[tokio::test]
async fn a_deleted_profile_is_gone() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = api.post(PROFILES, json!({})).await;
    assert_eq!(api.delete(&path(&made)).await, json!({"id": id(&made), "type": "user_profile_deleted"}));
    let gone = not_found(format!("User profile `{}` not found.", id(&made)));
    assert_eq!(api.get_refused(&path(&made)).await, gone);
    assert_eq!(api.post_refused(&path(&made), json!({})).await, gone);
    let action = json!({"action": {"type": "enroll_end_user"}});
    assert_eq!(api.post_refused(&format!("{}/action_urls", path(&made)), action).await, gone);
    assert_eq!(api.send(Method::DELETE, &path(&made), None).await.refusal(), gone);
}

#[tokio::test]
async fn what_needs_the_vendor_is_refused_in_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = api.post(PROFILES, json!({})).await;
    let portal = |refusal: Refusal| {
        assert_eq!((refusal.status, &*refusal.kind), (400, "invalid_request_error"));
        assert!(refusal.message.starts_with("this server has no Verification Portal"), "{}", refusal.message);
    };
    let action = json!({"action": {"type": "enroll_end_user"}});
    portal(api.post_refused(&format!("{}/action_urls", path(&made)), action.clone()).await);
    portal(post(api, &format!("{}/action_urls", path(&made)), &[], action).await.refusal());
    portal(api.call_refused(&format!("{}/enrollment_url", path(&made))).await);

    let controls = format!("{}/providers/google/data_controls", path(&made));
    let shown = api.get(&controls).await;
    assert_eq!(shown["cmek"], json!({"retired_keys": [], "type": "disabled"}));
    assert_eq!(shown["storage"], json!({"retired_buckets": [], "type": "disabled"}));
    assert_eq!((&shown["user_profile_id"], &shown["updated_at"]), (&made["id"], &made["created_at"]));
    let off = json!({"cmek": {"type": "disabled"}, "storage": {"type": "disabled"}});
    assert_eq!(api.post(&controls, off).await, shown, "what is off can be turned off");
    let on = json!({"storage": {"type": "enabled", "buckets": {"eu": {"bucket_name": "b", "project_number": "1"}}}});
    let refused = api.post_refused(&controls, on).await;
    assert!(refused.message.starts_with("storage: the control cannot be turned on"), "{}", refused.message);
    let neither = api.post_refused(&controls, json!({})).await;
    assert_eq!(neither, invalid("cmek: Field required, or storage, or both"));
}
