//! The organization, its workspaces and API keys, as an administrator sees them.

use rota_api::Time;
use rota_server::{
    db::Tx,
    resources::{api_keys, organization},
};
use serde_json::{Value, json};

use crate::{
    client::{Api, Refusal, conflict, forbidden, invalid, not_found},
    database::NEEDED,
    given::{Parts, id, over},
    server::Rota,
};

const WORKSPACES: &str = "/v1/organizations/workspaces";
const KEYS: &str = "/v1/organizations/api_keys";

async fn workspace(administrator: &Api, name: &str) -> Value {
    administrator.post(WORKSPACES, json!({ "name": name })).await
}

fn at(workspace: &Value) -> String {
    format!("{WORKSPACES}/{}", id(workspace))
}

/// A client with a new key of the workspace `name`, and the key's id.
async fn key_of(rota: &Rota, name: &'static str, expires_at: Option<Time>) -> (Api, String) {
    let create = move |tx: &mut Tx<'_>| api_keys::create_key(tx, Some(name), "a key", expires_at);
    let created = rota.server.app().db.write(create).await.unwrap();
    (rota.api.with_key(created.key), created.id.to_string())
}

fn unauthenticated() -> Refusal {
    Refusal { status: 401, kind: "authentication_error".to_owned(), message: "invalid x-api-key".to_owned() }
}

fn ids(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn the_organization_is_the_one_of_every_response() {
    let rota = Rota::without_engine().await;
    let answer = rota.administrator().await.send(reqwest::Method::GET, "/v1/organizations/me", None).await;
    let organization = answer.headers["anthropic-organization-id"].to_str().unwrap().to_owned();
    assert_eq!(answer.success(), json!({"id": organization, "type": "organization", "name": "Rota"}));
}

#[tokio::test]
async fn a_workspace_is_made_with_defaults_or_as_it_is_asked_for() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let made = workspace(&administrator, "plain").await;
    let anywhere =
        json!({"allowed_inference_geos": "unrestricted", "default_inference_geo": "global", "workspace_geo": "us"});
    assert_eq!((&made["display_color"], &made["data_residency"]), (&json!("#6C5BB9"), &anywhere));
    assert_eq!((&made["tags"], &made["archived_at"]), (&json!({}), &Value::Null));
    assert_eq!((&made["external_key_id"], &made["user_profile_id"]), (&Value::Null, &Value::Null));
    assert_eq!(administrator.get(&at(&made)).await, made);

    let asked = json!({
        "name": "asked",
        "display_color": "#00ff7F",
        "tags": {"team": "research"},
        "data_residency": {"allowed_inference_geos": ["us"], "default_inference_geo": "us", "workspace_geo": "us"},
    });
    let made = administrator.post(WORKSPACES, asked.clone()).await;
    assert_eq!(over(made.clone(), &asked), made, "what was asked for is there");
    let nulls = json!({"name": "nulls", "display_color": null, "tags": null, "data_residency": null,
        "external_key_id": null, "user_profile_id": null});
    assert_eq!(administrator.post(WORKSPACES, nulls).await["data_residency"], anywhere);
}

#[tokio::test]
async fn a_body_that_no_workspace_can_have_is_refused() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let kept = workspace(&administrator, "kept").await;
    workspace(&administrator, "taken").await;
    let color = "display_color: must be \"#\" and six hexadecimal digits, such as \"#6C5BB9\"";
    let us_only = json!({"allowed_inference_geos": ["us"], "default_inference_geo": "global"});
    for (changes, refused) in [
        (json!({"name": "taken"}), conflict("A workspace named \"taken\" already exists.")),
        (json!({"name": ""}), invalid("name: String should have at least 1 character")),
        (json!({"display_color": "red"}), invalid(color)),
        (json!({"display_color": "#12345g"}), invalid(color)),
        (
            json!({"tags": {"anthropic_x": "y"}}),
            invalid("tags: \"anthropic_x\" begins with \"anthropic\", which no key may"),
        ),
        (json!({"tags": {"x": 1}}), invalid("tags.x: Input should be a valid string")),
        (json!({"colour": "#000000"}), invalid("colour: Extra inputs are not permitted")),
        (
            json!({"data_residency": us_only}),
            invalid("data_residency.default_inference_geo: must be one of allowed_inference_geos"),
        ),
        (
            json!({"data_residency": {"allowed_inference_geos": ["eu"]}}),
            invalid("data_residency.allowed_inference_geos[0]: \"eu\" is not a valid value"),
        ),
        (json!({"user_profile_id": "up_x"}), not_found("Referenced user profile not found or not accessible.")),
        (
            json!({"external_key_id": "k"}),
            invalid("external_key_id: this server encrypts no workspace with a key of a customer"),
        ),
    ] {
        let created = over(json!({"name": "new"}), &changes);
        assert_eq!(administrator.post_refused(WORKSPACES, created).await, refused, "{changes}");
        assert_eq!(administrator.post_refused(&at(&kept), changes.clone()).await, refused, "an update with {changes}");
    }
    let nameless = administrator.post_refused(WORKSPACES, json!({})).await;
    assert_eq!(nameless, invalid("name: Field required"));
    let moved = administrator.post_refused(&at(&kept), json!({"data_residency": {"workspace_geo": "us"}})).await;
    assert_eq!(moved, invalid("data_residency.workspace_geo: Extra inputs are not permitted"));
    assert_eq!(administrator.get(&at(&kept)).await, kept);
    let nobody = not_found("Workspace `wrkspc_nobody` not found.");
    assert_eq!(administrator.get_refused(&format!("{WORKSPACES}/wrkspc_nobody")).await, nobody);
    assert_eq!(administrator.call_refused(&format!("{WORKSPACES}/wrkspc_nobody/archive")).await, nobody);
}

#[tokio::test]
async fn where_a_workspaces_retained_data_goes_is_kept_and_shown() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let plain = workspace(&administrator, "plain").await;
    assert_eq!(plain["inference_data_privacy"], Value::Null);
    let internal = json!({"type": "internal"});
    let asked = json!({"human_review": {"type": "disabled"}, "safeguards_storage": internal});
    let body = json!({"name": "private", "inference_data_privacy": asked});
    let made = administrator.post(WORKSPACES, body).await;
    let shown = over(asked, &json!({"transcripts_storage": null}));
    assert_eq!(made["inference_data_privacy"], shown);
    let change =
        json!({"inference_data_privacy": {"human_review": {"type": "enabled"}, "transcripts_storage": internal}});
    let merged =
        json!({"human_review": {"type": "enabled"}, "safeguards_storage": internal, "transcripts_storage": internal});
    let changed = administrator.post(&at(&made), change).await;
    assert_eq!(changed["inference_data_privacy"], merged, "what is left out stays");
    assert_eq!(administrator.post(&at(&made), json!({"name": "renamed"})).await["inference_data_privacy"], merged);
    assert_eq!(administrator.get(&at(&made)).await["inference_data_privacy"], merged);
    let external = json!({"type": "external", "external_storage_id": "xs_1"});
    for (privacy, refused) in [
        (Value::Null, "inference_data_privacy: value cannot be null"),
        (json!({"human_review": null}), "inference_data_privacy.human_review: value cannot be null"),
        (
            json!({"human_review": {"type": "x"}}),
            "inference_data_privacy.human_review: Input tag 'x' found using 'type' does not match any of the expected \
             tags: 'enabled', 'disabled'",
        ),
        (
            json!({"transcripts_storage": external}),
            "inference_data_privacy.transcripts_storage.external_storage_id: \"xs_1\" is no store that this server \
             knows: it has no external ones",
        ),
    ] {
        let body = json!({ "inference_data_privacy": privacy });
        assert_eq!(administrator.post_refused(&at(&made), body).await, invalid(refused));
    }
}

#[tokio::test]
async fn an_update_of_a_workspace_keeps_what_it_leaves_out() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let body = json!({"name": "w", "tags": {"a": "1", "b": "2"}});
    let made = administrator.post(WORKSPACES, body).await;
    for (changes, seen) in [
        (json!({}), json!({})),
        (json!({"name": "w"}), json!({})),
        (json!({"display_color": "#000000"}), json!({"display_color": "#000000"})),
        (json!({"tags": {"a": null, "c": "3"}}), json!({"tags": {"b": "2", "c": "3"}})),
        (json!({"tags": null, "data_residency": null}), json!({"tags": {"b": "2", "c": "3"}})),
        (
            json!({"data_residency": {"allowed_inference_geos": ["us", "global"]}}),
            json!({"data_residency": {"allowed_inference_geos": ["us", "global"], "default_inference_geo": "global",
                "workspace_geo": "us"}}),
        ),
    ] {
        let before = administrator.get(&at(&made)).await;
        let expected = over(before, &seen);
        assert_eq!(administrator.post(&at(&made), changes.clone()).await, expected, "{changes}");
    }
    let refused = administrator.post_refused(&at(&made), json!({"name": null})).await;
    assert_eq!(refused, invalid("name: value cannot be null"));
}

#[tokio::test]
async fn workspaces_are_listed_page_by_page_in_both_directions() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let mut made = Vec::new();
    for name in ["a", "b", "c", "d"] {
        made.push(id(&workspace(&administrator, name).await).to_owned());
    }
    let list = async |query: &str| administrator.get(&format!("{WORKSPACES}?{query}")).await;
    let newest_first: Vec<&str> = made.iter().rev().map(String::as_str).collect();
    let all = list("").await;
    assert_eq!(ids(&all), newest_first);
    assert_eq!(
        (&all["has_more"], &all["first_id"], &all["last_id"]),
        (&json!(false), &json!(made[3]), &json!(made[0]))
    );
    let first = list("limit=3").await;
    assert_eq!((ids(&first), &first["has_more"]), (newest_first[..3].to_vec(), &json!(true)));
    let second = list(&format!("limit=3&after_id={}", made[1])).await;
    assert_eq!((ids(&second), &second["has_more"]), (newest_first[3..].to_vec(), &json!(false)));
    let back = list(&format!("limit=2&before_id={}", made[0])).await;
    assert_eq!((ids(&back), &back["has_more"]), (newest_first[1..3].to_vec(), &json!(true)));
    let none = list(&format!("after_id={}", made[0])).await;
    assert_eq!(none, json!({"data": [], "has_more": false, "first_id": null, "last_id": null}));

    administrator.call(&format!("{WORKSPACES}/{}/archive", made[2])).await;
    assert_eq!(ids(&list("").await), [newest_first[0], newest_first[2], newest_first[3]]);
    assert_eq!(ids(&list("include_archived=true").await), newest_first);
    let default = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    assert_eq!(ids(&list("include_default=true").await).last(), Some(&default.as_str()));
    let some = format!("ids[]={}&ids[]={}&ids[]={default}&ids=wrkspc_x", made[0], made[2]);
    assert_eq!(ids(&list(&some).await), [made[0].as_str()], "archived and default ones still have to be asked for");

    for (query, message) in [
        ("limit=1001", "limit: value must be less than or equal to 1000"),
        ("after_id=x", "after_id: \"x\" is not an id of this list"),
        ("page=x", "page: Extra inputs are not permitted"),
    ] {
        assert_eq!(administrator.get_refused(&format!("{WORKSPACES}?{query}")).await, invalid(message));
    }
    let both = format!("{WORKSPACES}?after_id={0}&before_id={0}", made[0]);
    assert_eq!(administrator.get_refused(&both).await, invalid("after_id: cannot be combined with before_id"));
}

#[tokio::test]
async fn archiving_a_workspace_ends_its_keys_and_keeps_what_it_has_readable() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let made = workspace(&administrator, "Team").await;
    let (team, key) = key_of(&rota, "Team", None).await;
    let parts = Parts::new(&team).await;
    let archived = administrator.call(&format!("{}/archive", at(&made))).await;
    assert!(archived["archived_at"].is_string());
    assert_eq!(team.get_refused("/v1/agents").await, unauthenticated());
    assert_eq!(administrator.get(&format!("{KEYS}/{key}")).await["status"], "archived");
    rota.advance_seconds(60);
    assert_eq!(administrator.call(&format!("{}/archive", at(&made))).await, archived, "once is enough");
    let unchangeable = invalid(format!("Workspace `{}` is archived and cannot be changed.", id(&made)));
    assert_eq!(administrator.post_refused(&at(&made), json!({"name": "x"})).await, unchangeable);

    let inside = administrator.in_workspace(id(&made));
    assert_eq!(inside.get("/v1/agents").await["data"], json!([parts.agent]));
    let head = inside.request(reqwest::Method::HEAD, "/v1/agents").send().await.unwrap();
    assert_eq!(head.status(), 200, "what can be read can be asked for its headers");
    let closed = forbidden("the workspace is archived: its resources can be read, not changed");
    assert_eq!(inside.post_refused("/v1/environments", json!({"name": "e"})).await, closed);
    assert_eq!(inside.post_refused("/v1/sessions", parts.session_body(&json!({}))).await, closed);
    rota.api.get("/v1/agents").await;
    assert_ne!(id(&workspace(&administrator, "Team").await), id(&made), "its name is free again");
}

#[tokio::test]
async fn the_default_workspace_can_be_renamed_and_not_archived() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let default = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    let path = format!("{WORKSPACES}/{default}");
    let refused = administrator.call_refused(&format!("{path}/archive")).await;
    assert_eq!(refused, invalid("The default workspace cannot be archived."));
    assert_eq!(administrator.post(&path, json!({"name": "Home"})).await["name"], "Home");
    let create = |tx: &mut Tx<'_>| api_keys::create_key(tx, None, "another", None);
    let created = rota.server.app().db.write(create).await.unwrap();
    assert_eq!(created.workspace_id.to_string(), default, "a key of no named workspace is one of the default");
}

#[tokio::test]
async fn a_key_is_switched_off_and_on_and_ended_for_good_at_once() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let (api, key) = key_of(&rota, "Team", None).await;
    let path = format!("{KEYS}/{key}");
    let made = administrator.get(&path).await;
    let workspace = made["scope"]["workspace_id"].as_str().unwrap();
    assert_eq!(made["scope"], json!({"type": "workspace", "workspace_id": workspace}));
    let hint = format!("{}...{}", &api.key[..11], &api.key[api.key.len() - 4..]);
    assert_eq!(
        (&made["name"], &made["status"], &made["partial_key_hint"]),
        (&json!("a key"), &json!("active"), &json!(hint))
    );
    for field in ["created_by", "principal", "expires_at"] {
        assert_eq!(made.get(field), Some(&Value::Null), "{field}");
    }

    for (changes, name, status) in [
        (json!({}), "a key", "active"),
        (json!({"name": "renamed", "status": null}), "renamed", "active"),
        (json!({"status": "inactive"}), "renamed", "inactive"),
        (json!({"name": null, "status": "active"}), "renamed", "active"),
        (json!({"status": "archived"}), "renamed", "archived"),
    ] {
        let updated = administrator.post(&path, changes.clone()).await;
        assert_eq!((&updated["name"], &updated["status"]), (&json!(name), &json!(status)), "{changes}");
        match status {
            "active" => drop(api.get("/v1/agents").await),
            _ => assert_eq!(api.get_refused("/v1/agents").await, unauthenticated()),
        }
    }
    let ended = invalid(format!("API key `{key}` is archived and cannot be changed."));
    assert_eq!(administrator.post_refused(&path, json!({"status": "active"})).await, ended);
    for (changes, message) in [
        (json!({"status": "expired"}), "status: \"expired\" is not a valid value"),
        (json!({"name": ""}), "name: String should have at least 1 character"),
        (json!({"scope": "x"}), "scope: Extra inputs are not permitted"),
    ] {
        assert_eq!(administrator.post_refused(&path, changes).await, invalid(message));
    }
    let nobody = administrator.get_refused(&format!("{KEYS}/apikey_nobody")).await;
    assert_eq!(nobody, not_found("API key `apikey_nobody` not found."));
}

#[tokio::test]
async fn a_key_ends_when_its_time_is_over() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let expires_at: Time = "2026-03-02T09:00:00Z".parse().unwrap();
    let (api, key) = key_of(&rota, "Team", Some(expires_at)).await;
    api.get("/v1/agents").await;
    rota.advance_seconds(3600);
    assert_eq!(api.get_refused("/v1/agents").await, unauthenticated());
    let path = format!("{KEYS}/{key}");
    let expired = administrator.get(&path).await;
    assert_eq!(
        (&expired["status"], &expired["expires_at"]),
        (&json!("expired"), &json!("2026-03-02T09:00:00.000000Z"))
    );
    let refused = invalid(format!("status: API key `{key}` has expired and cannot be active again"));
    assert_eq!(administrator.post_refused(&path, json!({"status": "active"})).await, refused);
    assert_eq!(administrator.post(&path, json!({"status": "archived"})).await["status"], "archived");
}

#[tokio::test]
async fn keys_are_listed_by_status_and_workspace() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let (_, active) = key_of(&rota, "Team", None).await;
    rota.advance_seconds(1);
    let (_, expired) = key_of(&rota, "Team", Some("2026-03-02T08:00:00Z".parse().unwrap())).await;
    rota.advance_seconds(1);
    let (_, inactive) = key_of(&rota, "Team", None).await;
    rota.advance_seconds(1);
    let (_, archived) = key_of(&rota, "Team", Some("2026-03-02T08:00:00Z".parse().unwrap())).await;
    for (key, status) in [(&inactive, "inactive"), (&archived, "archived")] {
        administrator.post(&format!("{KEYS}/{key}"), json!({ "status": status })).await;
    }
    let team = administrator.get(&format!("{KEYS}/{active}")).await["scope"]["workspace_id"].clone();
    let list = async |query: &str| administrator.get(&format!("{KEYS}?{query}")).await;
    let of_team = format!("workspace_id={}", team.as_str().unwrap());
    assert_eq!(ids(&list(&of_team).await), [&archived, &inactive, &expired, &active]);
    for (status, key) in [("active", &active), ("inactive", &inactive), ("expired", &expired), ("archived", &archived)]
    {
        assert_eq!(ids(&list(&format!("{of_team}&status={status}")).await), [key.as_str()], "{status}");
    }
    let page = list(&format!("{of_team}&limit=1&after_id={inactive}")).await;
    assert_eq!((ids(&page), &page["has_more"]), (vec![expired.as_str()], &json!(true)));
    assert_eq!(list("created_by_user_id=user_x").await["data"], json!([]), "the server knows no users");
    let of_the_organization = list("").await["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|key| key["scope"] == json!({"type": "organization"}))
        .count();
    assert_eq!(of_the_organization, 1, "the administrator's key is listed too");
}

#[tokio::test]
async fn an_administrator_s_key_is_recognised_by_its_beginning_and_can_be_switched_off() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    assert!(administrator.key.starts_with("sk-rota-admin-"));
    assert!(!rota.api.key.starts_with("sk-rota-admin-"));
    let second = rota.administrator().await;
    let keys = administrator.get(KEYS).await;
    let hint = format!("...{}", &second.key[second.key.len() - 4..]);
    let key =
        keys["data"].as_array().unwrap().iter().find(|k| k["partial_key_hint"].as_str().unwrap().ends_with(&hint));
    administrator.post(&format!("{KEYS}/{}", id(key.unwrap())), json!({"status": "inactive"})).await;
    assert_eq!(second.get_refused("/v1/organizations/me").await, unauthenticated());
}

#[tokio::test]
async fn a_disabled_organization_refuses_workspaces_and_shows_itself_to_administrators() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let parts = Parts::new(&rota.api).await;
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    let inside = administrator.in_workspace(&workspace);
    rota.server.app().db.write(organization::disable).await.unwrap();
    let refused = forbidden("the organization is disabled; its operator enables it with `rota org enable`");
    assert_eq!(rota.api.get_refused("/v1/agents").await, refused);
    assert_eq!(inside.post_refused("/v1/environments", json!({"name": "e"})).await, refused);
    assert_eq!(inside.get("/v1/agents").await["data"], json!([parts.agent]));
    administrator.get(WORKSPACES).await;
    rota.server.app().db.write(organization::enable).await.unwrap();
    rota.api.get("/v1/agents").await;
    inside.post("/v1/environments", json!({"name": "e"})).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn what_ends_a_key_counts_on_every_server_at_once() {
    let rota = Rota::without_engine().await;
    let other = rota.beside(|_| {}).await.expect(NEEDED);
    let administrator = rota.administrator().await;
    let (here, key) = key_of(&rota, "Team", None).await;
    let there = other.api.with_key(here.key.clone());
    there.get("/v1/agents").await;
    for (status, refused) in [("inactive", true), ("active", false)] {
        administrator.post(&format!("{KEYS}/{key}"), json!({ "status": status })).await;
        let answer = there.send(reqwest::Method::GET, "/v1/agents", None).await;
        assert_eq!(answer.status == 401, refused, "{status}");
    }
    rota.server.app().db.write(organization::disable).await.unwrap();
    assert_eq!(there.get_refused("/v1/agents").await.status, 403);
    rota.server.app().db.write(organization::enable).await.unwrap();
    there.get("/v1/agents").await;
    let workspace = administrator.get(&format!("{KEYS}/{key}")).await["scope"]["workspace_id"].clone();
    administrator.call(&format!("{WORKSPACES}/{}/archive", workspace.as_str().unwrap())).await;
    assert_eq!(there.get_refused("/v1/agents").await, unauthenticated());
}

#[tokio::test]
async fn the_command_line_makes_keys_and_switches_the_organization_while_the_server_runs() {
    let rota = Rota::without_engine().await;
    let command = async |arguments: &[&str]| -> Value {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
        command.args(arguments).arg("--json").arg("--data").arg(&rota.server.app().config.data);
        if let Some(database) = rota.database() {
            command.arg("--database").arg(database.url().0);
        }
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let secret = |created: &Value| created["key"].as_str().unwrap().to_owned();
    let administrator = command(&["keys", "create", "--admin", "--name", "boss"]).await;
    let administrator = rota.api.with_key(secret(&administrator));
    let organization = administrator.get("/v1/organizations/me").await;
    let made = command(&["keys", "create", "--workspace", "Team", "--days", "7"]).await;
    let shown = administrator.get(&format!("{KEYS}/{}", id(&made))).await;
    assert_eq!(shown["scope"]["workspace_id"], made["workspace_id"]);
    assert!(shown["expires_at"].is_string());
    let default = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    assert_eq!(command(&["keys", "create"]).await["workspace_id"], default);
    assert_eq!(command(&["keys", "list"]).await.as_array().unwrap().len(), 4);

    assert_eq!(command(&["org", "show"]).await, json!({"id": organization["id"], "disabled_at": null}));
    assert!(command(&["org", "disable"]).await["disabled_at"].is_string());
    assert_eq!(rota.api.get_refused("/v1/agents").await.status, 403);
    assert_eq!(command(&["org", "enable"]).await["disabled_at"], Value::Null);
    rota.api.get("/v1/agents").await;
    assert_eq!(command(&["keys", "revoke", id(&made)]).await["status"], "archived");
}
