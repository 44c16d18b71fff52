//! Tunnels: tokens, certificates, and that nothing comes through them.

use serde_json::{Value, json};

use crate::{
    client::{Api, conflict, invalid, not_found},
    given::id,
    server::Rota,
};

const TUNNELS: &str = "/v1/tunnels";

/// Certificates of authorities.
pub const AUTHORITIES: [&str; 3] = [
    include_str!("tls/authority_one.pem"),
    include_str!("tls/authority_two.pem"),
    include_str!("tls/authority_three.pem"),
];
const ENDLESS: &str = include_str!("tls/authority_endless.pem");
const SERVER: &str = include_str!("tls/not_an_authority.pem");

fn path(tunnel: &Value) -> String {
    format!("{TUNNELS}/{}", id(tunnel))
}

fn holds(pem: &str) -> Value {
    json!({ "ca_certificate_pem": pem })
}

/// A tunnel.
pub async fn tunnel(api: &Api) -> Value {
    api.post(TUNNELS, json!({"display_name": "office"})).await
}

#[tokio::test]
async fn a_tunnel_has_a_host_name_of_its_own_and_says_that_nothing_comes_through_it() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (one, two) = (tunnel(api).await, api.post(TUNNELS, json!({"display_name": null})).await);
    assert_eq!((&one["display_name"], &two["display_name"]), (&json!("office"), &Value::Null));
    let domain = |tunnel: &Value| tunnel["domain"].as_str().unwrap().to_owned();
    assert!(domain(&one).ends_with(".tunnels.invalid") && domain(&one) != domain(&two));
    assert_eq!(api.get(&path(&one)).await, one);
    let listed = api.get(TUNNELS).await;
    assert_eq!(listed, json!({"data": [two, one], "next_page": null}), "newest first");
    let status = api.get(&format!("/rota{}", path(&one))).await;
    assert_eq!(status["status"]["type"], "no_relay");
    assert_eq!(status["token"]["reason"], Value::Null);
    for (name, said) in [
        (json!("x".repeat(256)), "display_name: String should have at most 255 characters"),
        (json!(""), "display_name: String should have at least 1 character"),
    ] {
        assert_eq!(api.post_refused(TUNNELS, json!({ "display_name": name })).await, invalid(said));
    }
    api.post(TUNNELS, json!({"display_name": "x".repeat(255)})).await;
}

#[tokio::test]
async fn a_token_stays_until_it_is_rotated_and_is_nowhere_in_clear() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = tunnel(api).await;
    let reveal = format!("{}/reveal_token", path(&made));
    let first = api.call(&reveal).await;
    assert_eq!(api.call(&reveal).await, first);
    let token = first["tunnel_token"].as_str().unwrap().to_owned();
    assert!(token.len() > 43, "{token}");
    let rotated = api.post(&format!("{}/rotate_token", path(&made)), json!({"reason": "it was in a chat"})).await;
    assert_ne!((&rotated["id"], &rotated["tunnel_token"]), (&first["id"], &first["tunnel_token"]));
    assert_eq!(api.call(&reveal).await, rotated);
    let status = api.get(&format!("/rota{}", path(&made))).await;
    assert_eq!((&status["token"]["id"], &status["token"]["reason"]), (&rotated["id"], &json!("it was in a chat")));
    let refused = api.post_refused(&format!("{}/rotate_token", path(&made)), json!({"reason": "x".repeat(1025)})).await;
    assert_eq!(refused, invalid("reason: String should have at most 1024 characters"));

    let of = id(&made).to_owned();
    let stored = rota.server.app().db.read(move |tx| {
        tx.one("SELECT token FROM tunnels WHERE id = $1", &[of.as_str().into()], |row| row.text("token"))
    });
    let stored = stored.await.unwrap().unwrap();
    assert!(!stored.contains(rotated["tunnel_token"].as_str().unwrap()), "{stored}");
}

#[tokio::test]
async fn an_archived_tunnel_has_no_token_and_no_certificate_and_takes_none() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = tunnel(api).await;
    let certificates = format!("{}/certificates", path(&made));
    let certificate = api.post(&certificates, holds(AUTHORITIES[0])).await;
    let archived = api.call(&format!("{}/archive", path(&made))).await;
    assert_ne!(archived["archived_at"], Value::Null);
    assert_eq!(api.call(&format!("{}/archive", path(&made))).await, archived, "again changes nothing");
    let of_tunnel = api.get(&format!("{certificates}/{}", id(&certificate))).await;
    assert_eq!(of_tunnel["archived_at"], archived["archived_at"]);
    let refused = invalid(format!("Tunnel `{}` is archived: create another one", id(&made)));
    assert_eq!(api.call_refused(&format!("{}/reveal_token", path(&made))).await, refused);
    assert_eq!(api.post_refused(&format!("{}/rotate_token", path(&made)), json!({})).await, refused);
    assert_eq!(api.post_refused(&certificates, holds(AUTHORITIES[1])).await, refused);
    assert_eq!(api.get(TUNNELS).await["data"], json!([]));
    assert_eq!(api.get(&format!("{TUNNELS}?include_archived=true")).await["data"], json!([archived]));
    let status = api.get(&format!("/rota{}", path(&made))).await;
    assert_eq!((&status["status"]["type"], &status["token"]), (&json!("archived"), &Value::Null));
}

#[tokio::test]
async fn a_tunnel_has_two_certificates_of_authorities_at_most() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = tunnel(api).await;
    let certificates = format!("{}/certificates", path(&made));
    let one = api.post(&certificates, holds(AUTHORITIES[0])).await;
    // openssl x509 -fingerprint -sha256
    let fingerprint = "5e09070849f899af0bb8c0acf8d90360f32ac34aafdb933c2fffef791d2c9ac2";
    assert_eq!((&one["fingerprint"], &one["tunnel_id"]), (&json!(fingerprint), &made["id"]));
    assert_eq!(one["expires_at"], "2126-11-05T12:28:11.000000Z");
    let again = conflict(format!("Tunnel `{}` has this certificate already.", id(&made)));
    assert_eq!(api.post_refused(&certificates, holds(AUTHORITIES[0])).await, again);
    let endless = api.post(&certificates, holds(ENDLESS)).await;
    assert_eq!(endless["expires_at"], Value::Null);
    let full = format!("Tunnel `{}` has 2 certificates, which is the most: archive one first", id(&made));
    assert_eq!(api.post_refused(&certificates, holds(AUTHORITIES[1])).await, invalid(full));
    let archived = api.call(&format!("{certificates}/{}/archive", id(&one))).await;
    assert_ne!(archived["archived_at"], Value::Null);
    assert_eq!(api.call(&format!("{certificates}/{}/archive", id(&one))).await, archived);
    let two = api.post(&certificates, holds(AUTHORITIES[1])).await;
    assert_eq!(api.get(&certificates).await["data"], json!([two, endless]));
    let all = api.get(&format!("{certificates}?include_archived=true")).await;
    assert_eq!(all["data"], json!([two, endless, archived]));
    let other = tunnel(api).await;
    let elsewhere = api.get_refused(&format!("{}/certificates/{}", path(&other), id(&one))).await;
    assert_eq!(elsewhere, not_found(format!("Tunnel certificate `{}` not found.", id(&one))));
    assert_eq!(api.get(&format!("{}/certificates", path(&other))).await["data"], json!([]));
    let nowhere = api.get_refused(&format!("{TUNNELS}/tnl_1/certificates")).await;
    assert_eq!(nowhere, not_found("Tunnel `tnl_1` not found."));
}

#[tokio::test]
async fn what_is_no_single_certificate_of_an_authority_is_refused() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let certificates = format!("{}/certificates", path(&tunnel(api).await));
    let two = [AUTHORITIES[0], AUTHORITIES[1]].concat();
    let key = format!("{}{}", AUTHORITIES[0], include_str!("tls/key.pem"));
    let padded = |bytes: usize| {
        let text = AUTHORITIES[0];
        format!("{}\n{text}", "#".repeat(bytes - text.len() - 1))
    };
    for (pem, said) in [
        ("hello", "value must hold exactly one certificate"),
        (two.as_str(), "value must hold exactly one certificate"),
        (key.as_str(), "value must hold no private key"),
        (SERVER, "value must hold the certificate of an authority"),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "value must hold an X.509 certificate"),
        (padded(8193).as_str(), "String should have at most 8192 characters"),
    ] {
        let refused = api.post_refused(&certificates, holds(pem)).await;
        assert_eq!((refused.status, &*refused.kind), (400, "invalid_request_error"));
        let starts = format!("ca_certificate_pem: {said}");
        assert!(refused.message.starts_with(&starts), "{}", refused.message);
    }
    api.post(&certificates, holds(&padded(8192))).await;
}
