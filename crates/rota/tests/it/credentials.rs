//! Credentials: what is taken, what is shown, and how OAuth tokens are renewed.

use std::time::Duration;

use futures_util::future::join;
use rota_server::{config::Config, limits::REFRESH_TRIES};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    client::{Api, ENDPOINTS, conflict, invalid, not_found},
    database::NEEDED,
    given::{id, over},
    oauth_server::{Grant, OAuthServer},
    receiver::Receiver,
    server::{PATIENCE, Rota},
    vaults::{bearer, credentials, path, variable, vault},
};

/// A server that reaches OAuth servers on this machine.
async fn local() -> Rota {
    Rota::with(at_home).await
}

fn at_home(config: &mut Config) {
    config.engine.concurrency = 0;
    config.vault.allow_private = true;
    config.webhooks.allow_private = true;
}

fn oauth(changes: &Value) -> Value {
    let auth = json!({"type": "mcp_oauth", "mcp_server_url": "https://mcp.example.com", "access_token": "hush-access"});
    json!({"auth": over(auth, changes)})
}

fn refresh(changes: &Value) -> Value {
    let refresh = json!({"client_id": "c", "refresh_token": "hush-refresh", "token_endpoint": "https://id.example.com/token",
        "token_endpoint_auth": {"type": "client_secret_post", "client_secret": "hush-client"}});
    json!({"refresh": over(refresh, changes)})
}

#[tokio::test]
async fn each_kind_of_credential_shows_everything_but_its_secrets() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let vault = vault(api, "v").await;
    let all = credentials(&vault);
    let with_expiry = over(refresh(&json!({"scope": "a b"})), &json!({"expires_at": "2026-03-02T09:00:00Z"}));
    let shown_refresh = json!({"client_id": "c", "token_endpoint": "https://id.example.com/token",
        "token_endpoint_auth": {"type": "client_secret_post"}, "resource": null, "scope": "a b"});
    let limited = json!({"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org", "192.0.2.1"]});
    let mut made = Vec::new();
    for (body, shown) in [
        (
            over(oauth(&with_expiry), &json!({"display_name": "tracker", "metadata": {"a": "b"}})),
            json!({"type": "mcp_oauth", "mcp_server_url": "https://mcp.example.com",
                "expires_at": "2026-03-02T09:00:00.000000Z", "refresh": shown_refresh}),
        ),
        (
            oauth(&json!({"mcp_server_url": "https://other.example.com/mcp/"})),
            json!({"type": "mcp_oauth", "mcp_server_url": "https://other.example.com/mcp/", "refresh": null}),
        ),
        (
            bearer("https://third.example.com"),
            json!({"type": "static_bearer", "mcp_server_url": "https://third.example.com"}),
        ),
        (
            variable("API_KEY", &json!({})),
            json!({"type": "environment_variable", "secret_name": "API_KEY", "networking": limited,
                "injection_location": {"body": false, "header": true}}),
        ),
        (
            variable("OTHER", &json!({"networking": {"type": "unrestricted"}, "injection_location": {"body": true}})),
            json!({"type": "environment_variable", "secret_name": "OTHER", "networking": {"type": "unrestricted"},
                "injection_location": {"body": true, "header": true}}),
        ),
    ] {
        let created = api.post(&all, body.clone()).await;
        assert!(id(&created).starts_with("vcrd_"));
        assert_eq!((&created["type"], &created["auth"]), (&json!("vault_credential"), &shown));
        assert_eq!((&created["vault_id"], &created["archived_at"]), (&vault["id"], &Value::Null));
        assert_eq!(created["display_name"], body.get("display_name").cloned().unwrap_or_default());
        assert_eq!(api.get(&format!("{all}/{}", id(&created))).await, created);
        made.push(created);
    }
    made.reverse();
    assert_eq!(api.all(&all, 2).await, made, "the newest first");
    assert!(!api.get(&all).await.to_string().contains("hush"));
}

#[tokio::test]
async fn what_a_credential_cannot_be_is_refused_in_the_recorded_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let all = credentials(&vault(api, "v").await);
    let past = json!({"expires_at": "2026-03-02T07:59:59Z"});
    let long = "s".repeat(16_385);
    let hosts = |count: usize| json!({"networking": {"type": "limited", "allowed_hosts": vec!["a.example"; count]}});
    for (body, message) in [
        (json!({}), "auth: Field required"),
        (json!({"auth": {"type": "mcp_oauth", "access_token": "t"}}), "auth.mcp_server_url: Field required"),
        (json!({"auth": {"type": "zz"}}), "Failed to parse request: auth.type: \"zz\" is not a valid value"),
        (oauth(&json!({"zz": 1})), "Failed to parse request body: unknown field \"zz\""),
        (oauth(&past), "auth.expires_at must be in the future."),
        (
            oauth(&json!({"expires_at": "soon"})),
            "Failed to parse request: auth.expires_at: Input should be a valid RFC 3339 time",
        ),
        (oauth(&json!({"access_token": long})), "auth.access_token: maximum string length is 16384"),
        (
            oauth(&json!({"access_token": "a\n"})),
            "auth.access_token: must not contain line breaks or other control characters",
        ),
        (
            oauth(&json!({"mcp_server_url": "http://mcp.example.com"})),
            "auth.mcp_server_url: must be an absolute https URL",
        ),
        (
            oauth(&json!({"mcp_server_url": "https://169.254.169.254/"})),
            "auth.mcp_server_url: 169.254.169.254 is a private address, which this server does not send to",
        ),
        (
            oauth(&refresh(&json!({"token_endpoint": "file:///etc/passwd"}))),
            "auth.refresh.token_endpoint: must be an absolute https URL",
        ),
        (variable("", &json!({})), "auth.secret_name: minimum string length is 1"),
        (variable(&"N".repeat(256), &json!({})), "auth.secret_name: maximum string length is 255"),
        (variable("K", &hosts(17)), "auth.networking.allowed_hosts: value must contain no more than 16 item(s)"),
        (variable("K", &json!({"secret_value": ""})), "auth.secret_value: minimum string length is 1"),
        (
            variable("K", &json!({"injection_location": {"header": false}})),
            "auth.injection_location: at least one of body and header must be true",
        ),
        (
            over(bearer("https://m.example.com"), &json!({"display_name": "é".repeat(256)})),
            "display_name: maximum string length is 255",
        ),
    ] {
        assert_eq!(api.post_refused(&all, body).await, invalid(message));
    }
    let longest = json!({"secret_value": "s".repeat(16_384), "networking": hosts(16)["networking"]});
    api.post(&all, over(variable(&"N".repeat(255), &longest), &json!({"display_name": "é".repeat(255)}))).await;
    assert_eq!(
        api.post_refused("/v1/vaults/vlt_x/credentials", bearer("https://m.example.com")).await,
        not_found("Vault not found.")
    );
}

#[tokio::test]
async fn one_active_credential_of_a_vault_has_a_server_or_a_name() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let vault = vault(api, "v").await;
    let all = credentials(&vault);
    let first = api.post(&all, oauth(&json!({"mcp_server_url": "https://mcp.example.com/a"}))).await;
    let taken = conflict("A credential already exists for this MCP server URL.");
    for same in ["https://mcp.example.com/a", "https://mcp.example.com/a/", "https://MCP.Example.com:443/a"] {
        assert_eq!(api.post_refused(&all, bearer(same)).await, taken, "{same}");
    }
    api.post(&all, bearer("https://mcp.example.com/b")).await;
    api.post(&all, variable("KEY", &json!({}))).await;
    let refused = api.post_refused(&all, variable("KEY", &json!({}))).await;
    assert_eq!(refused, conflict("A credential already exists for this secret name."));
    api.post(&all, variable("key", &json!({}))).await;
    let other = crate::vaults::vault(api, "other").await;
    api.post(&credentials(&other), bearer("https://mcp.example.com/a")).await;
    api.call(&format!("{all}/{}/archive", id(&first))).await;
    api.post(&all, bearer("https://mcp.example.com/a/")).await;
}

#[tokio::test]
async fn a_vault_has_twenty_credentials_that_are_not_archived() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let all = credentials(&vault(api, "v").await);
    let mut last = Value::Null;
    for i in 0..20 {
        last = api.post(&all, variable(&format!("K{i}"), &json!({}))).await;
    }
    let full = invalid("the vault has 20 credentials, which is the most; archive or delete one first");
    assert_eq!(api.post_refused(&all, variable("MORE", &json!({}))).await, full);
    api.call(&format!("{all}/{}/archive", id(&last))).await;
    api.post(&all, variable("MORE", &json!({}))).await;
    assert_eq!(api.post_refused(&all, variable("YET_MORE", &json!({}))).await, full);
}

#[tokio::test]
async fn an_update_replaces_what_it_names_and_nothing_that_is_immutable() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let vault = vault(api, "v").await;
    let at = |credential: &Value| format!("{}/{}", credentials(&vault), id(credential));
    let with = api.post(&credentials(&vault), oauth(&refresh(&json!({"scope": "a"})))).await;
    let plain = api.post(&credentials(&vault), oauth(&json!({"mcp_server_url": "https://plain.example.com"}))).await;
    let key = api.post(&credentials(&vault), variable("KEY", &json!({}))).await;
    let change = |auth: Value| json!({ "auth": auth });
    let updated = api
        .post(
            &at(&with),
            change(json!({"type": "mcp_oauth", "access_token": "hush-2", "expires_at": "2026-03-02T10:00:00Z",
            "refresh": {"refresh_token": "hush-3", "scope": "", "token_endpoint_auth":
                {"type": "client_secret_basic", "client_secret": "hush-4"}}})),
        )
        .await;
    assert_eq!(updated["auth"]["refresh"]["scope"], Value::Null);
    let kind = &updated["auth"]["refresh"]["token_endpoint_auth"]["type"];
    assert_eq!(kind, "client_secret_post", "it keeps its way, whichever is named with the new secret");
    assert_eq!(updated["auth"]["expires_at"], "2026-03-02T10:00:00.000000Z");
    let kept = api.post(&at(&with), change(json!({"type": "mcp_oauth", "access_token": "hush-5"}))).await;
    assert_eq!(kept["auth"], updated["auth"], "the expiry too");
    let named = api.post(&at(&key), json!({"display_name": "name", "metadata": {"a": "b"}})).await;
    assert_eq!(
        (&named["display_name"], &named["metadata"], &named["auth"]),
        (&json!("name"), &json!({"a": "b"}), &key["auth"])
    );
    let moved = api
        .post(
            &at(&key),
            change(json!({"type": "environment_variable", "networking": {"type": "unrestricted"},
            "injection_location": {"body": true, "header": false}})),
        )
        .await;
    assert_eq!(moved["auth"]["injection_location"], json!({"body": true, "header": false}));
    for (credential, auth, message) in [
        (
            &with,
            json!({"type": "static_bearer", "token": "t"}),
            "auth.type: does not match this credential's stored type",
        ),
        (
            &plain,
            json!({"type": "mcp_oauth", "refresh": {"scope": "a"}}),
            "auth.refresh: this credential was created without refresh capability",
        ),
        (
            &plain,
            json!({"type": "mcp_oauth", "refresh": {"zz": "a"}}),
            "Failed to parse request body: unknown field \"zz\"",
        ),
        (
            &with,
            json!({"type": "mcp_oauth", "mcp_server_url": "https://x.example.com"}),
            "Failed to parse request body: unknown field \"mcp_server_url\"",
        ),
        (
            &key,
            json!({"type": "environment_variable", "secret_name": "B"}),
            "Failed to parse request body: unknown field \"secret_name\"",
        ),
        (
            &with,
            json!({"type": "mcp_oauth", "expires_at": "2026-03-02T07:00:00Z"}),
            "auth.expires_at must be in the future.",
        ),
        (
            &key,
            json!({"type": "environment_variable", "injection_location": {"body": false}}),
            "auth.injection_location: at least one of body and header must be true",
        ),
    ] {
        assert_eq!(api.post_refused(&at(credential), change(auth)).await, invalid(message));
    }
    let refused = api.post_refused(&at(&key), json!({"display_name": ""})).await;
    assert_eq!(refused, invalid("display_name: minimum string length is 1"));
}

#[tokio::test]
async fn an_archived_credential_has_no_secrets_and_is_not_changed() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let vault = vault(api, "v").await;
    let credential = api.post(&credentials(&vault), oauth(&json!({}))).await;
    let at = format!("{}/{}", credentials(&vault), id(&credential));
    let archived = api.call(&format!("{at}/archive")).await;
    assert_eq!(archived["archived_at"], archived["updated_at"]);
    assert_eq!(api.call(&format!("{at}/archive")).await, archived);
    let left = |tx: &mut rota_server::db::Tx<'_>| {
        tx.one("SELECT count(*) FROM credentials WHERE secrets IS NOT NULL", &[], |row| row.int(0))
    };
    assert_eq!(rota.server.app().db.read(left).await.unwrap(), Some(0));
    let refused = api.post_refused(&at, json!({"display_name": "n"})).await;
    assert_eq!(refused, invalid("Credential is archived."));
    assert_eq!(api.call_refused(&format!("{at}/mcp_oauth_validate")).await, invalid("Credential is archived."));
    assert_eq!(api.get(&credentials(&vault)).await["data"], json!([]));
    assert_eq!(api.all(&format!("{}?include_archived=true", credentials(&vault)), 5).await, [archived]);

    let other = crate::vaults::vault(api, "other").await;
    let elsewhere = format!("{}/{}", credentials(&other), id(&credential));
    assert_eq!(api.get_refused(&elsewhere).await, not_found("Credential not found."));
    let refused = api.send(reqwest::Method::DELETE, &elsewhere, None).await.refusal();
    assert_eq!(refused, not_found("Credential not found."));
    let deleted = api.delete(&at).await;
    assert_eq!(deleted, json!({"id": id(&credential), "type": "vault_credential_deleted"}));
    assert_eq!(api.get_refused(&at).await, not_found("Credential not found."));
}

/// A vault with a credential made of `body`, and where that is.
async fn stored(api: &Api, body: Value) -> (Value, String) {
    let vault = vault(api, "v").await;
    let credential = api.post(&credentials(&vault), body).await;
    let at = format!("{}/{}", credentials(&vault), id(&credential));
    (vault, at)
}

const NINE: &str = "2026-03-02T09:00:00Z";

fn tokens(access: &str, refresh: Option<&str>) -> Grant {
    let mut tokens = json!({"access_token": access, "token_type": "Bearer", "expires_in": 3600});
    if let Some(refresh) = refresh {
        tokens["refresh_token"] = json!(refresh);
    }
    Grant::Tokens(tokens)
}

fn refused(error: &str) -> Grant {
    Grant::Status(400, "", json!({ "error": error }).to_string())
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_by_a_client_that_says_who_it_is_in_each_way() {
    for (auth, header, fields) in [
        (json!({"type": "none"}), None, vec![("client_id", "client:1")]),
        (
            json!({"type": "client_secret_basic", "client_secret": "s/1"}),
            // base64 of "client%3A1:s%2F1"
            Some("Basic Y2xpZW50JTNBMTpzJTJGMQ=="),
            vec![],
        ),
        (
            json!({"type": "client_secret_post", "client_secret": "s/1"}),
            None,
            vec![("client_id", "client:1"), ("client_secret", "s/1")],
        ),
    ] {
        let rota = local().await;
        let mut server = OAuthServer::start("hush-new").await;
        let body = server.credential_with("hush-old", "hush-refresh", Some(NINE), &auth);
        let (_, at) = stored(&rota.api, body).await;
        rota.set_time("2026-03-02T08:54:59Z");
        rota.renew().await;
        assert_eq!(server.so_far(), 0, "it is not due yet");
        rota.set_time("2026-03-02T08:55:00Z");
        server.grants(tokens("hush-new", Some("hush-next")));
        rota.renew().await;
        let exchange = server.next().await;
        assert_eq!(exchange.authorization.as_deref(), header);
        let mut expected =
            vec![("grant_type", "refresh_token"), ("refresh_token", "hush-refresh"), ("scope", "read write")];
        expected.extend(fields);
        let mcp = server.mcp();
        expected.push(("resource", &mcp));
        expected.sort_unstable();
        let mut form: Vec<_> = exchange.form.iter().map(|(name, value)| (&**name, &**value)).collect();
        form.sort_unstable();
        assert_eq!(form, expected);
        assert_eq!(rota.api.get(&at).await["auth"]["expires_at"], "2026-03-02T09:55:00.000000Z");
        let validation = rota.api.call(&format!("{at}/mcp_oauth_validate")).await;
        assert_eq!(validation["status"], "valid", "{validation}");

        rota.renew().await;
        rota.set_time("2026-03-02T09:50:00Z");
        server.grants(tokens("hush-newer", None));
        server.grants(tokens("hush-newest", None));
        rota.renew().await;
        assert_eq!(server.next().await.form["refresh_token"], "hush-next", "the one that came with the last token");
        rota.set_time("2026-03-02T10:50:00Z");
        rota.renew().await;
        assert_eq!(server.next().await.form["refresh_token"], "hush-next", "the same goes on where none came");
    }
}

#[tokio::test]
async fn in_an_archived_workspace_no_token_is_renewed() {
    let rota = local().await;
    let mut server = OAuthServer::start("hush-new").await;
    let auth = json!({"type": "none"});
    let create = |tx: &mut rota_server::db::Tx<'_>| {
        rota_server::resources::api_keys::create_key(tx, Some("Team"), "a key", None)
    };
    let key = rota.server.app().db.write(create).await.unwrap();
    let team = rota.api.with_key(key.key);
    stored(&team, server.credential_with("hush-theirs", "hush-theirs-refresh", Some(NINE), &auth)).await;
    stored(&rota.api, server.credential_with("hush-old", "hush-refresh", Some(NINE), &auth)).await;
    rota.administrator().await.call(&format!("/v1/organizations/workspaces/{}/archive", key.workspace_id)).await;
    rota.set_time("2026-03-02T08:55:00Z");
    server.grants(tokens("hush-new", None));
    rota.renew().await;
    assert_eq!(server.next().await.form["refresh_token"], "hush-refresh");
    rota.renew().await;
    assert_eq!(server.so_far(), 0, "and the other one never");
}

/// Receives what is told of credentials whose tokens could not be renewed.
async fn told(api: &Api) -> Receiver {
    let receiver = Receiver::start().await;
    api.post(ENDPOINTS, json!({"url": receiver.url, "enabled_events": ["vault_credential.refresh_failed"]})).await;
    receiver
}

#[tokio::test]
async fn a_refusal_is_told_once_and_nobody_tries_again_until_the_credential_is_changed() {
    let rota = local().await;
    let mut receiver = told(&rota.api).await;
    let mut server = OAuthServer::start("good").await;
    let (vault, at) = stored(&rota.api, server.credential("hush-old", "hush-refresh", Some(NINE))).await;
    rota.set_time(NINE);
    server.grants(refused("invalid_grant"));
    rota.renew().await;
    let delivery = receiver.next().await;
    assert_eq!(delivery.kind(), "vault_credential.refresh_failed");
    assert_eq!((delivery.about(), &delivery.event["data"]["vault_id"]), (at.rsplit_once('/').unwrap().1, &vault["id"]));
    assert_eq!(server.so_far(), 1);
    rota.advance_seconds(24 * 3600);
    rota.renew().await;
    assert_eq!(server.so_far(), 0);

    server.grants(refused("invalid_grant"));
    let validation = rota.api.call(&format!("{at}/mcp_oauth_validate")).await;
    assert_eq!((&validation["status"], &validation["refresh"]["status"]), (&json!("invalid"), &json!("failed")));
    assert_eq!(validation["refresh"]["http_response"]["body"], "{\"error\":\"invalid_grant\"}");
    assert_eq!(server.so_far(), 1, "a probe tries");
    assert!(receiver.so_far().is_empty(), "and tells nobody again");

    let auth = json!({"type": "mcp_oauth", "access_token": "x", "expires_at": "2026-03-03T10:00:00Z",
        "refresh": {"refresh_token": "hush-fresh"}});
    rota.api.post(&at, json!({ "auth": auth })).await;
    rota.set_time("2026-03-03T10:00:00Z");
    server.grants(tokens("good", None));
    rota.renew().await;
    assert_eq!(server.next().await.form["refresh_token"], "hush-fresh");
    assert_eq!(rota.api.call(&format!("{at}/mcp_oauth_validate")).await["status"], "valid");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_with_pauses_and_given_up_in_the_end() {
    let rota = local().await;
    let mut receiver = told(&rota.api).await;
    let mut server = OAuthServer::start("good").await;
    stored(&rota.api, server.credential("hush-old", "hush-refresh", Some(NINE))).await;
    rota.set_time(NINE);
    server.grants(Grant::Status(503, "retry-after: 600\r\n", String::new()));
    rota.renew().await;
    assert_eq!(server.so_far(), 1);
    rota.advance_seconds(599);
    rota.renew().await;
    assert_eq!(server.so_far(), 0, "the endpoint asked for ten minutes");
    rota.advance_seconds(1);
    server.grants(Grant::HangUp);
    rota.renew().await;
    assert_eq!(server.so_far(), 1);
    rota.advance_seconds(29);
    rota.renew().await;
    assert_eq!(server.so_far(), 0, "the second pause is half a minute at least");
    for _ in 2..REFRESH_TRIES {
        rota.advance_seconds(3600);
        server.grants(Grant::Status(500, "", "broken".to_owned()));
        rota.renew().await;
        assert_eq!(server.so_far(), 1);
    }
    assert_eq!(receiver.next().await.kind(), "vault_credential.refresh_failed");
    rota.advance_seconds(24 * 3600);
    rota.renew().await;
    assert_eq!(server.so_far(), 0);
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn of_all_who_would_renew_a_token_at_one_server_one_does() {
    let rota = local().await;
    let mut server = OAuthServer::start("good").await;
    let (_, at) = stored(&rota.api, server.credential("hush-old", "hush-refresh", Some(NINE))).await;
    rota.set_time(NINE);
    one_exchange(&rota, &rota, &mut server, &at).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn of_all_who_would_renew_a_token_at_two_servers_one_does() {
    let one = local().await;
    let two = one.beside(|_| {}).await.expect(NEEDED);
    let mut server = OAuthServer::start("good").await;
    let (_, at) = stored(&one.api, server.credential("hush-old", "hush-refresh", Some(NINE))).await;
    one.set_time(NINE);
    one_exchange(&one, &two, &mut server, &at).await;
}

/// Two servers, which may be one, and a probe want a new token; the exchange is answered when all do.
async fn one_exchange(one: &Rota, two: &Rota, server: &mut OAuthServer, at: &str) {
    server.holds();
    server.grants(tokens("good", Some("hush-next")));
    let validate = format!("{at}/mcp_oauth_validate");
    let renewing = one.renew();
    let rest = async {
        let exchange = server.next().await;
        assert_eq!(exchange.form["refresh_token"], "hush-refresh");
        // The claim is there: whoever comes now finds it.
        two.renew().await;
        let probing = two.api.call(&validate);
        let mut probing = std::pin::pin!(probing);
        assert!(timeout(Duration::from_millis(300), &mut probing).await.is_err(), "it waits for the other one");
        server.lets_go();
        timeout(PATIENCE, probing).await.unwrap()
    };
    let ((), validation) = join(renewing, rest).await;
    assert_eq!((&validation["status"], &validation["refresh"]["status"]), (&json!("valid"), &json!("succeeded")));
    assert_eq!(server.so_far(), 0, "there was one exchange");
}

#[tokio::test]
async fn a_claim_that_a_killed_server_left_runs_out_and_the_old_token_is_tried_again() {
    let rota = local().await;
    let mut server = OAuthServer::start("good").await;
    let (_, at) = stored(&rota.api, server.credential("hush-old", "hush-refresh", Some(NINE))).await;
    rota.set_time(NINE);
    // As a server leaves it that is killed between the answer and its record.
    let claims = rota.server.app().db.write(|tx| rota_server::resources::credentials::refresh::claim_due(tx, 10)).await;
    assert_eq!(claims.unwrap().len(), 1);
    rota.advance_seconds(59);
    rota.renew().await;
    assert_eq!(server.so_far(), 0);
    rota.advance_seconds(1);
    server.grants(tokens("good", None));
    rota.renew().await;
    assert_eq!(server.next().await.form["refresh_token"], "hush-refresh");
    assert_eq!(rota.api.call(&format!("{at}/mcp_oauth_validate")).await["status"], "valid");
}

#[tokio::test]
async fn what_a_user_stores_while_a_token_is_renewed_stays() {
    let rota = local().await;
    let mut server = OAuthServer::start("hush-users").await;
    let (_, at) = stored(&rota.api, server.credential("hush-old", "hush-refresh", Some(NINE))).await;
    rota.set_time(NINE);
    let meanwhile = async |server: &mut OAuthServer, auth: Value| {
        server.holds();
        server.grants(tokens("hush-renewed", Some("hush-next")));
        let rest = async {
            server.next().await;
            rota.api.post(&at, json!({ "auth": auth })).await;
            server.lets_go();
        };
        join(rota.renew(), rest).await;
    };
    let auth = json!({"type": "mcp_oauth", "access_token": "hush-users", "expires_at": "2026-03-02T10:00:00Z"});
    meanwhile(&mut server, auth).await;
    assert_eq!(rota.api.call(&format!("{at}/mcp_oauth_validate")).await["status"], "valid", "the user's access token");
    assert_eq!(rota.api.get(&at).await["auth"]["expires_at"], "2026-03-02T10:00:00.000000Z");

    rota.set_time("2026-03-02T10:00:00Z");
    let auth = json!({"type": "mcp_oauth", "access_token": "hush-users", "expires_at": "2026-03-02T11:00:00Z",
        "refresh": {"refresh_token": "hush-theirs"}});
    meanwhile(&mut server, auth).await;
    rota.set_time("2026-03-02T11:00:00Z");
    server.grants(tokens("x", None));
    rota.renew().await;
    assert_eq!(server.next().await.form["refresh_token"], "hush-theirs", "the user's refresh token");
}

#[tokio::test]
async fn a_credential_that_is_archived_while_its_token_is_renewed_gets_none() {
    let rota = local().await;
    let mut server = OAuthServer::start("good").await;
    let (_, at) = stored(&rota.api, server.credential("hush-old", "hush-refresh", Some(NINE))).await;
    rota.set_time(NINE);
    server.holds();
    server.grants(tokens("good", None));
    let archive = async {
        server.next().await;
        rota.api.call(&format!("{at}/archive")).await;
        server.lets_go();
    };
    join(rota.renew(), archive).await;
    let left = |tx: &mut rota_server::db::Tx<'_>| {
        tx.one("SELECT count(*) FROM credentials WHERE secrets IS NOT NULL OR refresh_at IS NOT NULL", &[], |row| {
            row.int(0)
        })
    };
    assert_eq!(rota.server.app().db.read(left).await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_probe_tells_what_a_credential_is_good_for() {
    let rota = local().await;
    let api = &rota.api;
    let mut server = OAuthServer::start("good").await;
    let validate = async |body: Value| {
        let (vault, at) = stored(api, body).await;
        let validation = api.call(&format!("{at}/mcp_oauth_validate")).await;
        assert_eq!(validation["type"], "vault_credential_validation");
        assert_eq!(
            (&validation["vault_id"], validation["credential_id"].as_str()),
            (&vault["id"], at.rsplit('/').next())
        );
        validation
    };
    let plain = |token: &str, url: String| oauth(&json!({"access_token": token, "mcp_server_url": url}));
    let valid = validate(plain("good", server.mcp())).await;
    let nothing = (&Value::Null, &Value::Null, &json!(false));
    assert_eq!(valid["status"], "valid");
    assert_eq!((&valid["mcp_probe"], &valid["refresh"], &valid["has_refresh_token"]), nothing);

    let refused = validate(plain("hush-bad", server.mcp())).await;
    assert_eq!((&refused["status"], &refused["refresh"]["status"]), (&json!("invalid"), &json!("no_refresh_token")));
    assert_eq!(refused["mcp_probe"]["method"], "initialize");
    let response = json!({"status_code": 401, "content_type": "application/json", "body": "Bearer [secret] is not taken",
        "body_truncated": false});
    assert_eq!(refused["mcp_probe"]["http_response"], response);

    server.grants(tokens("good", Some("hush-next")));
    let renewed = validate(server.credential("hush-bad", "hush-refresh", None)).await;
    assert_eq!(
        (&renewed["status"], &renewed["refresh"]),
        (&json!("valid"), &json!({"status": "succeeded", "http_response": null}))
    );
    assert_eq!((&renewed["mcp_probe"], &renewed["has_refresh_token"]), (&Value::Null, &json!(true)));

    server.grants(Grant::Status(
        400,
        "",
        "{\"error\": \"invalid_grant\", \"error_description\": \"hush-refresh is old\"}".to_owned(),
    ));
    let dead = validate(server.credential("hush-bad", "hush-refresh", None)).await;
    assert_eq!((&dead["status"], &dead["refresh"]["status"]), (&json!("invalid"), &json!("failed")));
    assert!(!dead.to_string().contains("hush"), "{dead}");

    server.grants(Grant::HangUp);
    let away = validate(server.credential("hush-bad", "hush-refresh", None)).await;
    assert_eq!((&away["status"], &away["refresh"]["status"]), (&json!("unknown"), &json!("connect_error")));
    assert_eq!(server.so_far(), 3);

    server.takes("good", 503);
    let broken = validate(server.credential("hush-bad", "hush-refresh", None)).await;
    assert_eq!((&broken["status"], &broken["refresh"]), (&json!("unknown"), &Value::Null));
    assert_eq!(broken["mcp_probe"]["http_response"]["status_code"], 503);
    let nowhere = validate(plain("hush-bad", "http://127.0.0.1:9/mcp".to_owned())).await;
    assert_eq!((&nowhere["status"], &nowhere["mcp_probe"]["http_response"]), (&json!("unknown"), &Value::Null));
    server.takes("good", 403);
    assert_eq!(validate(plain("hush-bad", server.mcp())).await["status"], "invalid");

    let (_, at) = stored(api, bearer("https://m.example.com")).await;
    let message =
        "auth.type: only credentials of the type \"mcp_oauth\" can be validated, and this one is \"static_bearer\"";
    assert_eq!(api.call_refused(&format!("{at}/mcp_oauth_validate")).await, invalid(message));
}

#[tokio::test]
async fn a_private_address_is_not_reached_unless_the_operator_allows_it() {
    let rota = Rota::without_engine().await;
    let mut server = OAuthServer::start("good").await;
    let refresh = refresh(
        &json!({"token_endpoint": format!("https://localhost:{}/token", server.base.rsplit(':').next().unwrap())}),
    );
    let body = oauth(&over(
        refresh,
        &json!({"mcp_server_url": server.mcp().replace("http://127.0.0.1", "https://localhost"),
        "expires_at": NINE}),
    ));
    let (_, at) = stored(&rota.api, body).await;
    let validation = rota.api.call(&format!("{at}/mcp_oauth_validate")).await;
    assert_eq!((&validation["status"], &validation["mcp_probe"]["http_response"]), (&json!("unknown"), &Value::Null));
    rota.set_time(NINE);
    rota.renew().await;
    assert_eq!(server.so_far(), 0);
    let vault = vault(&rota.api, "w").await;
    let refused = rota.api.post_refused(&credentials(&vault), server.credential("a", "b", None)).await;
    assert_eq!(refused, invalid("auth.mcp_server_url: must be an absolute https URL"));
    assert!(path(&vault).starts_with("/v1/vaults/vlt_"));
}
