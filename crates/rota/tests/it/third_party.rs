//! What clients that others wrote send beyond the API's contract. The clients themselves: `tests/sdk/run third-party`.

use serde_json::json;

use crate::{
    client::{Api, Refusal, invalid},
    files::{form, sending},
    server::Rota,
};

const FILE: (&str, Option<&str>, &[u8]) = ("file", Some("notes.txt"), b"hello");

async fn refused(api: &Api, purpose: &[u8]) -> Refusal {
    api.answer(sending(api, form(&[FILE, ("purpose", None, purpose)]))).await.refusal()
}

#[tokio::test]
async fn an_upload_for_messages_as_litellm_sends_it() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    for parts in [[FILE, ("purpose", None, &b"messages"[..])], [("purpose", None, &b"messages"[..]), FILE]] {
        let file = api.answer(sending(api, form(&parts))).await.success();
        assert_eq!((&file["filename"], &file["size_bytes"]), (&json!("notes.txt"), &json!(5)));
        assert!(file.get("purpose").is_none());
    }
    assert_eq!(refused(api, b"batch").await, invalid("purpose: Input should be 'messages'"));
    assert_eq!(refused(api, b"").await, invalid("purpose: Input should be 'messages'"));
}
