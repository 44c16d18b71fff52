//! What clients that others wrote send beyond the API's contract. The clients themselves: `tests/sdk/run third-party`.

use serde_json::json;

use crate::{
    client::invalid,
    files::{form, sending},
    server::Rota,
};

const FILE: (&str, Option<&str>, &[u8]) = ("file", Some("notes.txt"), b"hello");

#[tokio::test]
async fn an_upload_may_say_what_it_is_for_and_nothing_comes_of_it() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (messages, other) = (("purpose", None, &b"messages"[..]), ("purpose", None, &b"user_data"[..]));
    for parts in [[FILE, messages], [messages, FILE], [FILE, other]] {
        let file = api.answer(sending(api, form(&parts))).await.success();
        assert_eq!((&file["filename"], &file["size_bytes"]), (&json!("notes.txt"), &json!(5)));
        assert!(file.get("purpose").is_none());
    }
    let long = [b'x'; 65];
    let refused = api.answer(sending(api, form(&[FILE, ("purpose", None, &long[..])]))).await.refusal();
    assert_eq!(refused, invalid("purpose: value must contain no more than 64 bytes"));
}
