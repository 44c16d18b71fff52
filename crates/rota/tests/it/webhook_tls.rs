//! Deliveries over TLS, from a server of its own process: what it trusts is a setting of its environment.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::ENDPOINTS,
    given::id,
    process::{Client, PATIENCE, Server, create_key},
    receiver::{CERTIFICATE, Receiver},
};

/// The first delivery to an endpoint at `url`, once it was attempted, of a server that trusts the certificate of
/// receivers if `trusting`.
async fn delivery(url: &str, trusting: bool) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("rota.toml");
    fs::write(&config, "[webhooks]\nallow_private = true\n").unwrap();
    let mut server = Server::new(folder.path(), &["--concurrency", "0", "--config", config.to_str().unwrap()]);
    server.authorities = trusting.then(|| CERTIFICATE.into());
    let client = Client::new(server.address, create_key(folder.path(), &[]));
    server.start().await;
    let endpoint = client.post(ENDPOINTS, &json!({"url": url, "enabled_events": ["environment.created"]})).await;
    client.post("/v1/environments", &json!({"name": "a"})).await;
    let deliveries = format!("{ENDPOINTS}/{}/deliveries", id(&endpoint));
    let attempted = async {
        loop {
            let delivery = client.get(&deliveries).await["data"][0].clone();
            if delivery["last_attempt_at"].is_string()
                && (delivery["state"] == "delivered" || delivery["error"].is_string())
            {
                return delivery;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, attempted).await.expect("nothing is attempted")
}

#[tokio::test]
async fn a_receiver_is_reached_over_tls_when_its_certificate_is_trusted_and_is_for_its_name() {
    let mut receiver = Receiver::over_tls().await;
    let by_address = receiver.url.replace("localhost", "127.0.0.1");
    let delivered = delivery(&receiver.url, true).await;
    assert_eq!((&delivered["state"], &delivered["error"]), (&json!("delivered"), &Value::Null));
    assert_eq!(receiver.next().await.id, id(&delivered));

    for (url, trusting, reason) in
        [(&receiver.url, false, "invalid peer certificate: UnknownIssuer"), (&by_address, true, "not valid for name")]
    {
        let failed = delivery(url, trusting).await;
        assert_eq!((&failed["state"], &failed["response_status"]), (&json!("pending"), &Value::Null));
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains(reason), "{error}");
    }
    assert!(receiver.so_far().is_empty(), "nothing is sent to whom the server does not trust");
}
