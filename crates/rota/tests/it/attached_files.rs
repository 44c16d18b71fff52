//! Files that a message names, as an upstream is sent them.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid, not_found},
    files::upload,
    given::{Parts, agent, environment, id},
    server::Rota,
    upstream::{Reply, Upstream},
};

fn done() -> Reply {
    Reply::Message(vec![json!({"type": "text", "text": "seen"})])
}

fn block(kind: &str, file: &Value) -> Value {
    json!({"type": kind, "source": {"type": "file", "file_id": id(file)}})
}

/// The blocks of the user's message `place` of a request, without the marks of the cache.
fn sent(request: &Value, place: usize) -> Vec<Value> {
    let messages = request["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
    let mut blocks = messages.map(|message| message["content"].as_array().unwrap().clone()).nth(place).unwrap();
    for block in &mut blocks {
        block.as_object_mut().unwrap().remove("cache_control");
    }
    blocks
}

/// Sends a message to a session and waits until the model has answered it.
async fn say(api: &Api, session: &Value, content: Value, upstream: &Upstream) -> Value {
    let asked = upstream.asked().len();
    api.events(id(session), json!([{"type": "user.message", "content": content}])).await;
    let idle = format!("/v1/sessions/{}/events?types=session.status_idle&limit=100", id(session));
    api.once(&idle, |page| page["data"].as_array().unwrap().len() == asked + 1).await;
    upstream.asked().last().unwrap().clone()
}

async fn session(api: &Api) -> Value {
    let reader = agent(api, json!({"model": "house"})).await;
    Parts { agent: reader, environment: environment(api, "workshop").await }.session(api, json!({})).await
}

#[tokio::test]
async fn an_upstream_is_sent_images_documents_and_texts_whole() {
    let upstream = Upstream::start([done()]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    // Bytes of every value, and more than one part of a blob.
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let image = upload(api, "chart.png", &[b"\x89PNG\r\n\x1a\n", &*bytes].concat()).await;
    let pdf = upload(api, "report.pdf", &[b"%PDF-1.7\n", &*bytes].concat()).await;
    let text = "Grüße\n".repeat(20_000);
    let notes = upload(api, "notes.md", text.as_bytes()).await;
    let session = session(api).await;
    let titled = json!({"type": "document", "title": "Notes", "context": "of last week",
        "source": {"type": "file", "file_id": id(&notes)}});
    let content = json!([block("image", &image), block("document", &pdf), titled, {"type": "text", "text": "Look."}]);
    let request = say(api, &session, content.clone(), &upstream).await;
    let base64 = |media_type: &str, head: &[u8]| json!({"type": "base64", "media_type": media_type, "data": STANDARD.encode([head, &*bytes].concat())});
    let expected = [
        json!({"type": "image", "source": base64("image/png", b"\x89PNG\r\n\x1a\n")}),
        json!({"type": "document", "source": base64("application/pdf", b"%PDF-1.7\n")}),
        json!({"type": "document", "title": "Notes", "context": "of last week",
            "source": {"type": "text", "media_type": "text/plain", "data": text}}),
        json!({"type": "text", "text": "Look."}),
    ];
    let sent = sent(&request, 0);
    assert_eq!(sent.len(), expected.len());
    for (sent, expected) in sent.iter().zip(&expected) {
        assert!(sent == expected, "sent {:.300}, expected {:.300}", sent.to_string(), expected.to_string());
    }
    let events = api.get(&format!("/v1/sessions/{}/events?types=user.message", id(&session))).await;
    assert_eq!(events["data"][0]["content"], content, "the log names the files");
}

#[tokio::test]
async fn an_upstream_is_told_of_a_file_that_was_deleted_meanwhile() {
    let upstream = Upstream::start([done(), done()]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let (gone, kept) = (upload(api, "gone.txt", b"gone").await, upload(api, "kept.txt", b"kept").await);
    let session = session(api).await;
    let first = json!([block("document", &gone), block("document", &kept), {"type": "text", "text": "Look."}]);
    let request = say(api, &session, first, &upstream).await;
    assert_eq!(sent(&request, 0)[0]["source"]["data"], "gone");

    api.delete(&format!("/v1/files/{}", id(&gone))).await;
    let request = say(api, &session, json!([{"type": "text", "text": "Again."}]), &upstream).await;
    let told = format!("[The file {} is not there any more.]", id(&gone));
    let sent = sent(&request, 0);
    assert_eq!(sent[0], json!({"type": "text", "text": told}));
    assert_eq!(sent[1]["source"]["data"], "kept");

    let events = format!("/v1/sessions/{}/events", id(&session));
    let again = json!({"events": [{"type": "user.message", "content": [block("document", &gone)]}]});
    let missing =
        format!("One or more files not found. Check that each `file_id` exists and is accessible: {}", id(&gone));
    assert_eq!(api.post_refused(&events, again).await, not_found(missing));
}

#[tokio::test]
async fn a_message_names_no_file_that_a_model_cannot_read() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let session = Parts::new(api).await.session(api, json!({})).await;
    let (archive, text) = (upload(api, "a.zip", b"PK").await, upload(api, "a.txt", b"text").await);
    for (kind, file, mime, what) in [
        ("document", &archive, "application/zip", "a document (application/pdf or a text)"),
        ("image", &text, "text/plain", "an image (image/jpeg, image/png, image/gif or image/webp)"),
    ] {
        let body = json!({"events": [{"type": "user.message", "content": [block(kind, file)]}]});
        let refused = api.post_refused(&format!("/v1/sessions/{}/events", id(&session)), body).await;
        let said = format!(
            "File `{}` is of type {mime:?} and cannot be read as {what}; mount it as a resource of the session, where tools \
             can read it",
            id(file)
        );
        assert_eq!(refused, invalid(said));
    }
}
