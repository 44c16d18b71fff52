//! The console's pages, and signing in to them with a browser.

use reqwest::{
    Method, Response,
    header::{self, HeaderMap},
};
use rota_server::{
    config::Role,
    db::Tx,
    limits::{SIGN_IN_ADDRESS_MICROS, SIGN_IN_MICROS},
    resources::api_keys,
};
use serde_json::Value;

use crate::{given::id, server::Rota, workers::Site};

const SIGN_IN: &str = "/console/sign-in";
const MICROS: i64 = 1_000_000;

/// A browser: it keeps one cookie, and says what browsers say.
struct Browser<'a> {
    rota: &'a Rota,
    cookie: Option<String>,
}

impl<'a> Browser<'a> {
    fn new(rota: &'a Rota) -> Self {
        Self { rota, cookie: None }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let request = self.rota.api.http.request(method, format!("{}{path}", self.rota.api.base));
        let request = match &self.cookie {
            Some(cookie) => request.header(header::COOKIE, cookie),
            None => request,
        };
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
    }

    /// As the console's own page sends it.
    async fn own(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let own = [("x-rota-console", "1"), ("sec-fetch-site", "same-origin"), ("origin", &*self.rota.api.base)];
        self.send(method, path, &[&own, headers].concat()).await
    }

    /// Signs in, and keeps the cookie. The status.
    async fn sign_in(&mut self, headers: &[(&str, &str)]) -> u16 {
        let response = self.own(Method::POST, SIGN_IN, headers).await;
        if let Some(set) = response.headers().get(header::SET_COOKIE) {
            self.cookie = set.to_str().unwrap().split(';').next().map(str::to_owned);
        }
        response.status().as_u16()
    }

    async fn who(&self) -> (u16, Value) {
        let response = self.own(Method::GET, SIGN_IN, &[]).await;
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The status of a request to the API.
    async fn reads(&self, headers: &[(&str, &str)]) -> u16 {
        self.own(Method::GET, "/rota/v1/runs", headers).await.status().as_u16()
    }
}

/// The word of a fresh address that signs in.
fn word(rota: &Rota) -> String {
    let address = rota.server.console_address().unwrap().expect("it listens on loopback");
    let (page, word) = address.split_once("#sign-in=").unwrap();
    assert_eq!(page, format!("{}/console", rota.api.base));
    word.to_owned()
}

#[tokio::test]
async fn the_pages_are_served_to_anybody_and_hold_browsers_to_this_server() {
    let rota = Rota::without_engine().await;
    let browser = Browser::new(&rota);
    let plain = browser.send(Method::GET, "/console", &[]).await;
    assert_eq!(
        (plain.status().as_u16(), &plain.headers()["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    let policy = plain.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part) && !policy.contains("unsafe"), "{policy}");
    }
    assert_eq!(plain.headers()["x-frame-options"], "DENY");
    let tag = plain.headers()["etag"].to_str().unwrap().to_owned();
    let page = plain.text().await.unwrap();
    for path in ["/console/", "/console/runs", "/console/sessions/sesn_1/anything", "/console/..%2f..%2fetc%2fpasswd"] {
        let other = browser.send(Method::GET, path, &[("accept-encoding", "identity")]).await;
        assert_eq!((other.status().as_u16(), other.text().await.unwrap()), (200, page.clone()), "{path}");
    }
    let again = browser.send(Method::GET, "/console", &[("if-none-match", &tag)]).await;
    assert_eq!((again.status().as_u16(), again.bytes().await.unwrap().len()), (304, 0));
    for (name, kind) in [("console.js", "text/javascript"), ("console.css", "text/css"), ("icon.svg", "image/svg+xml")]
    {
        assert!(page.contains(&format!("/console/{name}")), "{page}");
        let file = browser.send(Method::GET, &format!("/console/{name}"), &[("accept-encoding", "gzip, br")]).await;
        assert!(file.headers()["content-type"].to_str().unwrap().starts_with(kind), "{name}");
        assert_eq!(file.headers()["content-encoding"], "gzip", "{name}");
        assert_eq!(file.headers()["x-content-type-options"], "nosniff", "{name}");
    }
    assert_eq!(browser.send(Method::POST, "/console", &[]).await.status(), 405);
}

#[tokio::test]
async fn a_server_without_the_api_has_no_console() {
    let rota = Rota::with(|config| config.roles = [Role::Scheduler].into_iter().collect()).await;
    let browser = Browser::new(&rota);
    assert_eq!(browser.send(Method::GET, "/console", &[("accept", "text/html")]).await.status(), 404);
    assert_eq!(rota.server.console_address().unwrap(), None);
}

#[tokio::test]
async fn an_address_signs_in_once_and_its_key_ends_with_signing_out() {
    let rota = Rota::without_engine().await;
    let mut browser = Browser::new(&rota);
    assert_eq!(browser.who().await.0, 401);
    let stale = word(&rota);
    let fresh = word(&rota);
    assert_eq!(browser.sign_in(&[("x-rota-sign-in", &stale)]).await, 401, "there is a newer address");
    assert_eq!(browser.sign_in(&[("x-rota-sign-in", &fresh)]).await, 204);
    let (status, who) = browser.who().await;
    assert_eq!((status, who["is_administrator"].as_bool()), (200, Some(false)));
    assert_eq!(who["workspace_id"], rota.server.first_key.as_ref().unwrap().workspace_id.to_string());
    assert_eq!(browser.reads(&[]).await, 200);
    let cookie = browser.cookie.clone();
    assert_eq!(browser.sign_in(&[("x-rota-sign-in", &fresh)]).await, 401, "it was used");

    let left = browser.own(Method::DELETE, SIGN_IN, &[]).await;
    assert!(left.headers()["set-cookie"].to_str().unwrap().contains("=; Max-Age=0;"));
    browser.cookie = cookie;
    assert_eq!(browser.reads(&[]).await, 401, "the key that was made for it has ended");
    let keys = rota.administrator().await.get("/v1/organizations/api_keys").await;
    let made = keys["data"].as_array().unwrap().iter().find(|key| key["id"] == who["key_id"]).unwrap();
    assert_eq!(made["status"], "archived", "{made}");

    let old = word(&rota);
    rota.advance_seconds(SIGN_IN_ADDRESS_MICROS / MICROS);
    assert_eq!(browser.sign_in(&[("x-rota-sign-in", &old)]).await, 401, "it has run out");
}

#[tokio::test]
async fn a_sign_in_ends_with_its_key_and_by_itself() {
    let rota = Rota::without_engine().await;
    let key = rota.api.key.clone();
    let mut browser = Browser::new(&rota);
    assert_eq!(browser.sign_in(&[("x-api-key", "sk-rota-wrong")]).await, 401);
    assert_eq!(browser.sign_in(&[]).await, 401);
    assert_eq!(browser.sign_in(&[("x-api-key", &key)]).await, 204);
    assert!(!browser.cookie.as_ref().unwrap().contains(&key[10..]), "the key is not in it");
    assert_eq!(browser.reads(&[]).await, 200);
    rota.advance_seconds(SIGN_IN_MICROS / MICROS - 60);
    assert_eq!(browser.reads(&[]).await, 200);
    rota.advance_seconds(61);
    assert_eq!(browser.reads(&[]).await, 401);

    assert_eq!(browser.sign_in(&[("x-api-key", &key)]).await, 204);
    let first = rota.server.first_key.as_ref().unwrap().id.to_string();
    rota.server.app().db.write(move |tx: &mut Tx<'_>| api_keys::revoke(tx, &first)).await.unwrap();
    assert_eq!(browser.reads(&[]).await, 401);
}

#[tokio::test]
async fn a_cookie_counts_on_the_servers_own_pages_only() {
    let rota = Rota::without_engine().await;
    let mut browser = Browser::new(&rota);
    let key = rota.api.key.clone();
    assert_eq!(browser.sign_in(&[("x-api-key", &key)]).await, 204);
    let path = "/rota/v1/runs";
    let mark = ("x-rota-console", "1");
    for headers in [
        &[][..],
        &[("sec-fetch-site", "same-origin")],
        &[mark, ("sec-fetch-site", "same-site")],
        &[mark, ("sec-fetch-site", "cross-site")],
        &[mark, ("sec-fetch-site", "none")],
        &[mark, ("origin", "http://127.0.0.1:1")],
        &[mark, ("origin", "null")],
    ] {
        for method in [Method::GET, Method::POST] {
            assert_eq!(browser.send(method, path, headers).await.status(), 403, "{headers:?}");
        }
        let foreign = [headers, &[("x-api-key", key.as_str())]].concat();
        assert_eq!(browser.send(Method::POST, SIGN_IN, &foreign).await.status(), 403, "{headers:?}");
        assert_eq!(browser.send(Method::DELETE, SIGN_IN, headers).await.status(), 403, "{headers:?}");
    }
    assert_eq!(browser.send(Method::GET, path, &[mark]).await.status(), 200);
    assert_eq!(browser.send(Method::GET, path, &[mark, ("origin", &rota.api.base)]).await.status(), 200);
    // Who sends a key needs no cookie, and is not held to what browsers say.
    assert_eq!(browser.send(Method::GET, path, &[("x-api-key", &key)]).await.status(), 200);
}

#[tokio::test]
async fn a_sign_in_stays_over_a_restart_and_a_changed_cookie_is_none() {
    let rota = Rota::without_engine().await;
    let key = rota.api.key.clone();
    let mut browser = Browser::new(&rota);
    assert_eq!(browser.sign_in(&[("x-api-key", &key)]).await, 204);
    let cookie = browser.cookie.take().unwrap();
    let rota = rota.restart().await;
    let mut browser = Browser { rota: &rota, cookie: Some(cookie.clone()) };
    assert_eq!(browser.reads(&[]).await, 200);
    let (name, value) = cookie.split_once('=').unwrap();
    let parts: Vec<&str> = value.split('.').collect();
    let [id, until, whose, tag] = parts[..] else { panic!("{cookie}") };
    let later: i64 = until.parse::<i64>().unwrap() + 1;
    for changed in [
        format!("{id}.{later}.{whose}.{tag}"),
        format!("{id}.{until}.own.{tag}"),
        format!("{id}.{until}.{whose}."),
        format!("{id}.{until}.{whose}"),
        "....".to_owned(),
        String::new(),
    ] {
        browser.cookie = Some(format!("{name}={changed}"));
        assert_eq!(browser.reads(&[]).await, 401, "{changed}");
    }
}

#[tokio::test]
async fn an_administrator_picks_the_workspace_and_a_worker_has_no_console() {
    let rota = Rota::without_engine().await;
    let administrator = rota.administrator().await;
    let mut browser = Browser::new(&rota);
    assert_eq!(browser.sign_in(&[("x-api-key", &administrator.key)]).await, 204);
    let (_, who) = browser.who().await;
    assert_eq!((who["is_administrator"].as_bool(), &who["workspace_id"]), (Some(true), &Value::Null));
    assert_eq!(browser.reads(&[]).await, 403);
    let workspace = rota.server.first_key.as_ref().unwrap().workspace_id.to_string();
    assert_eq!(browser.reads(&[("anthropic-workspace-id", &workspace)]).await, 200);
    let keys = browser.own(Method::GET, "/v1/organizations/api_keys", &[]).await;
    assert_eq!(keys.status(), 200);

    let site = Site::new(&rota.api, serde_json::json!({})).await;
    assert!(!id(&site.key).is_empty());
    assert_eq!(browser.sign_in(&[("x-api-key", &site.worker.key)]).await, 403);
}

#[tokio::test]
async fn what_is_set_over_tls_stays_there() {
    let rota = Rota::without_engine().await;
    let browser = Browser::new(&rota);
    let key = rota.api.key.clone();
    let set = async |headers: &[(&str, &str)]| {
        let own = [&[("x-rota-console", "1"), ("x-api-key", key.as_str())], headers].concat();
        let response = browser.send(Method::POST, SIGN_IN, &own).await;
        let headers: HeaderMap = response.headers().clone();
        headers[header::SET_COOKIE].to_str().unwrap().to_owned()
    };
    let secure = set(&[("sec-fetch-site", "same-origin"), ("origin", "https://rota.example.com")]).await;
    assert!(secure.ends_with("HttpOnly; SameSite=Strict; Secure"), "{secure}");
    let plain = set(&[("sec-fetch-site", "same-origin"), ("origin", &rota.api.base)]).await;
    assert!(plain.ends_with("HttpOnly; SameSite=Strict"), "{plain}");
}
