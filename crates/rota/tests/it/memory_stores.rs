//! Memory stores over HTTP: stores, memories at paths, versions, and what is refused.

use reqwest::Method;
use rota_server::{clock::Stopwatch, db::Tx, resources::memory_stores::purge};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    client::{Api, BETA, Refusal, invalid, not_found},
    given::{Parts, id},
    server::Rota,
};

const STORES: &str = "/v1/memory_stores";

pub fn path(store: &Value) -> String {
    format!("{STORES}/{}", id(store))
}

pub fn memories(store: &Value) -> String {
    format!("{}/memories", path(store))
}

fn versions(store: &Value) -> String {
    format!("{}/memory_versions", path(store))
}

pub async fn store(api: &Api, name: &str) -> Value {
    api.post(STORES, json!({ "name": name })).await
}

pub async fn memory(api: &Api, store: &Value, path: &str, content: &str) -> Value {
    api.post(&memories(store), json!({"path": path, "content": content})).await
}

fn at(store: &Value, memory: &Value) -> String {
    format!("{}/{}", memories(store), id(memory))
}

pub fn hash(content: &str) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn stale() -> Refusal {
    let message = "precondition content_sha256 failed: content has changed".to_owned();
    Refusal { status: 409, kind: "memory_precondition_failed_error".to_owned(), message }
}

/// The paths of a list, in its order.
async fn paths(api: &Api, list: &str) -> Vec<String> {
    api.all(list, 100).await.iter().map(|item| item["path"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_store_is_created_changed_archived_and_deleted() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = api.post(STORES, json!({"name": "Notes", "metadata": {"a": "1", "b": "2"}})).await;
    assert_eq!((&made["description"], made.get("archived_at")), (&json!(""), None));
    assert_eq!(api.get(&path(&made)).await, made);
    let changed = api.post(&path(&made), json!({"description": "d", "metadata": {"a": null, "c": "3"}})).await;
    assert_eq!((&changed["name"], &changed["description"]), (&json!("Notes"), &json!("d")));
    assert_eq!(changed["metadata"], json!({"b": "2", "c": "3"}));
    assert_ne!(changed["updated_at"], made["updated_at"]);
    assert_eq!(api.post(&path(&made), json!({"name": "Notes"})).await, changed, "nothing has changed");
    assert_eq!(api.post(&path(&made), json!({"description": null})).await["description"], "");

    let other = store(api, "Notes").await;
    let archived = api.call(&format!("{}/archive", path(&made))).await;
    assert_eq!(archived["archived_at"], archived["updated_at"]);
    assert_eq!(api.call(&format!("{}/archive", path(&made))).await, archived);
    let refused = invalid(format!("cannot modify archived resource: memory store {}", id(&made)));
    assert_eq!(api.post_refused(&path(&made), json!({"name": "x"})).await, refused);
    assert_eq!(api.get(STORES).await, json!({"data": [other]}));
    assert_eq!(api.get(&format!("{STORES}?include_archived=true")).await["data"], json!([other, archived]));
    let since = format!("{STORES}?include_archived=true&created_at[gte]={}", other["created_at"].as_str().unwrap());
    assert_eq!(api.get(&since).await["data"], json!([other]));
    assert_eq!(api.all(&format!("{STORES}?include_archived=true"), 1).await.len(), 2);

    let gone = not_found(format!("Memory store `{}` not found.", id(&made)));
    assert_eq!(api.delete(&path(&made)).await, json!({"id": id(&made), "type": "memory_store_deleted"}));
    for below in ["", "/memories", "/memory_versions"] {
        assert_eq!(api.get_refused(&format!("{}{below}", path(&made))).await, gone);
    }
    assert_eq!(api.send(Method::DELETE, &path(&made), None).await.refusal(), gone);
}

#[tokio::test]
async fn what_a_store_cannot_be_is_refused_in_the_recorded_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = store(api, "Notes").await;
    for (body, message) in [
        (json!({}), "name: Field required"),
        (json!({"name": ""}), "name: minimum string length is 1"),
        (json!({"name": "é".repeat(256)}), "name: maximum string length is 255"),
        (json!({"name": "a\tb"}), "name: must not contain control characters"),
        (json!({"name": "n", "description": "d".repeat(1025)}), "description: maximum string length is 1024"),
        (json!({"name": "n", "x": 1}), "Failed to parse request body: unknown field \"x\""),
    ] {
        assert_eq!(api.post_refused(STORES, body).await, invalid(message));
    }
    for (body, message) in [
        (json!({}), "at least one of name, description, or metadata must be provided"),
        (json!({"name": null}), "name cannot be empty"),
        (
            json!({"metadata": null}),
            "Failed to parse request: params: field \"metadata\": null is not a valid value for a map field; omit the field \
             to preserve, or set individual keys to null to delete them",
        ),
    ] {
        assert_eq!(api.post_refused(&path(&made), body).await, invalid(message));
    }
    api.post(STORES, json!({"name": "é".repeat(255), "description": "d".repeat(1024)})).await;
}

#[tokio::test]
async fn the_header_names_the_beta_of_memory_or_that_of_managed_agents_and_not_both() {
    let rota = Rota::without_engine().await;
    let ask = async |header: Option<&str>| {
        let request = rota.api.http.get(format!("{}{STORES}", rota.api.base)).header("x-api-key", &rota.api.key);
        let request = header.into_iter().fold(request, |request, header| request.header(BETA.0, header));
        request.send().await.unwrap().status().as_u16()
    };
    for (header, status) in [
        (None, 404),
        (Some("agent-memory-2026-07-22"), 200),
        (Some("managed-agents-2026-04-01"), 200),
        (Some("agent-memory-2026-07-22, files-api-2025-04-14"), 200),
        (Some("files-api-2025-04-14"), 404),
        (Some("agent-memory-2026-07-22,managed-agents-2026-04-01"), 400),
    ] {
        assert_eq!(ask(header).await, status, "{header:?}");
    }
}

#[tokio::test]
async fn a_memory_is_shown_with_its_content_where_that_is_asked_for() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let made = memory(api, &notes, "/a/b.md", "é\n").await;
    assert_eq!((&made["content"], &made["content_size_bytes"]), (&Value::Null, &json!(3)));
    assert_eq!((&made["content_sha256"], &made["path"]), (&json!(hash("é\n")), &json!("/a/b.md")));
    assert_eq!(api.get(&at(&notes, &made)).await["content"], "é\n");
    assert_eq!(api.get(&format!("{}?view=basic", at(&notes, &made))).await, made);
    let full = json!({"path": "/c", "content": ""});
    assert_eq!(api.post(&format!("{}?view=full", memories(&notes)), full).await["content"], "");
    let updated = api.post(&format!("{}?view=full", at(&notes, &made)), json!({"content": "new"})).await;
    assert_eq!((&updated["content"], &updated["id"]), (&json!("new"), &made["id"]));
    assert_ne!(updated["memory_version_id"], made["memory_version_id"]);
    let shown = async |view: &str| {
        let list = api.all(&format!("{}?view={view}", memories(&notes)), 100).await;
        list.iter().map(|memory| memory["content"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(shown("basic").await, [Value::Null, Value::Null]);
    assert_eq!(shown("full").await, [json!(""), json!("new")]);
    let gone = not_found("memory `mem_x` not found");
    assert_eq!(api.get_refused(&format!("{}/mem_x", memories(&notes))).await, gone);
    let elsewhere = store(api, "Other").await;
    api.get_refused(&at(&elsewhere, &made)).await;
}

#[tokio::test]
async fn a_path_is_for_one_memory_and_so_are_those_above_and_below() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let made = memory(api, &notes, "/a/b", "x").await;
    let other = memory(api, &notes, "/a/c", "y").await;
    let create = |path: &str| json!({"path": path, "content": "z"});
    let taken = format!("path `/a/b` is already used by `{}`; use update to modify it", id(&made));
    let above = |path: &str| {
        format!(
            "path `{path}` conflicts with existing memory at `/a/b`: a memory and a path prefix of it cannot coexist. Delete or \
             rename the other memory first."
        )
    };
    let refused = async |path: &str, body: Value, message: String, conflicting: &Value| {
        let answer = api.send(Method::POST, path, Some(&body)).await;
        let refusal = Refusal { status: 409, kind: "memory_path_conflict_error".to_owned(), message };
        assert_eq!(answer.refusal(), refusal, "{body}");
        let error = &answer.body["error"];
        let told = (&error["conflicting_memory_id"], &error["conflicting_path"]);
        assert_eq!(told, (&conflicting["id"], &conflicting["path"]), "{body}");
        assert_eq!(answer.headers["x-should-retry"], "false");
    };
    refused(&memories(&notes), create("/a/b"), taken, &made).await;
    for path in ["/a/b/c", "/a/b/c/d"] {
        refused(&memories(&notes), create(path), above(path), &made).await;
        refused(&at(&notes, &other), json!({ "path": path }), above(path), &made).await;
    }
    let renamed = format!("path `/a/b` is already used by `{}`; delete it first to rename-and-replace", id(&made));
    refused(&at(&notes, &other), json!({"path": "/a/b"}), renamed, &made).await;
    let answer = api.send(Method::POST, &memories(&notes), Some(&create("/a"))).await;
    assert_eq!((answer.status.as_u16(), &answer.body["error"]["type"]), (409, &json!("memory_path_conflict_error")));
    // Neighbours in the order of texts are no folders of it; another case is another path; a memory may move below itself.
    for path in ["/a/b-", "/a/b0", "/a/b.c", "/A/b", "/a.b", "/.anthropic-memory-store"] {
        memory(api, &notes, path, "").await;
    }
    assert_eq!(api.post(&at(&notes, &made), json!({"path": "/a/b/c"})).await["path"], "/a/b/c");
    assert_eq!(api.post(&at(&notes, &made), json!({"path": "/a/b"})).await["path"], "/a/b");
    api.delete(&at(&notes, &made)).await;
    memory(api, &notes, "/a/b/c", "free again").await;
}

#[tokio::test]
async fn a_precondition_is_about_the_current_content() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let made = memory(api, &notes, "/a", "one").await;
    let update = |content: &str, expected: &str| json!({"content": content, "path": "/b", "precondition": {"type": "content_sha256", "content_sha256": hash(expected)}});
    assert_eq!(api.post_refused(&at(&notes, &made), update("two", "zero")).await, stale());
    assert_eq!(api.get(&at(&notes, &made)).await["path"], "/a", "nothing was done");
    api.post(&at(&notes, &made), update("two", "one")).await;
    assert_eq!(api.post_refused(&at(&notes, &made), update("three", "one")).await, stale());
    let delete = |expected: &str| format!("{}?expected_content_sha256={expected}", at(&notes, &made));
    let answer = api.send(Method::DELETE, &delete(&hash("one")), None).await;
    assert_eq!((answer.refusal(), &answer.headers["x-should-retry"]), (stale(), &"false".parse().unwrap()));
    let short = "expected_content_sha256: must be 64 characters (and 1 more validation errors)";
    assert_eq!(api.send(Method::DELETE, &delete("ab"), None).await.refusal(), invalid(short));
    assert_eq!(api.delete(&delete(&hash("two"))).await, json!({"id": id(&made), "type": "memory_deleted"}));
    let gone = not_found(format!("memory `{}` not found", id(&made)));
    assert_eq!(api.send(Method::DELETE, &at(&notes, &made), None).await.refusal(), gone);
    assert_eq!(api.post_refused(&at(&notes, &made), json!({"content": ""})).await, gone);
}

#[tokio::test]
async fn what_a_memory_cannot_be_is_refused() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let made = memory(api, &notes, "/a", "one").await;
    for (body, message) in [
        (json!({"path": "/b"}), "content: value is required"),
        (json!({"path": "/b", "content": null}), "content: value is required"),
        (json!({"content": ""}), "path: value is required"),
        (json!({"path": "b", "content": ""}), "path: must begin with /"),
        (json!({"path": "/b/", "content": ""}), "path: must not have an empty segment"),
        (json!({"path": "/a\u{301}", "content": ""}), "path: must be in Unicode Normalization Form C"),
        (json!({"path": "/b", "content": "x".repeat(102_401)}), "content must be at most 102400 bytes"),
        (json!({"path": "/b", "content": "é".repeat(51_201)}), "content must be at most 102400 bytes"),
        (json!({"path": "/b", "content": "a\0b"}), "content must not contain the character U+0000"),
        (json!({"path": "/b", "content": "", "x": 1}), "Failed to parse request body: unknown field \"x\""),
    ] {
        assert_eq!(api.post_refused(&memories(&notes), body).await, invalid(message));
    }
    let nothing = invalid("v1_update_memory_params: at least one of content or path must be provided");
    for body in [json!({}), json!({"content": null, "path": null})] {
        assert_eq!(api.post_refused(&at(&notes, &made), body).await, nothing);
    }
    let most = api.post(&memories(&notes), json!({"path": "/most", "content": "é".repeat(51_200)})).await;
    assert_eq!(most["content_size_bytes"], 102_400);
    let long = format!("/{}", "p".repeat(1023));
    memory(api, &notes, &long, "").await;
    let longer = json!({"path": format!("{long}p"), "content": ""});
    assert_eq!(api.post_refused(&memories(&notes), longer).await, invalid("path: must be at most 1024 bytes"));
}

#[tokio::test]
async fn a_list_is_newest_first_below_a_prefix_and_one_level_deep_where_that_is_asked_for() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    for path in ["/b/1", "/a", "/b/c/2", "/d/3", "/b/c/4", "/b-5"] {
        memory(api, &notes, path, "").await;
    }
    let list = memories(&notes);
    assert_eq!(api.get(&list).await["prefixes"], json!([]));
    assert_eq!(paths(api, &list).await, ["/b-5", "/b/c/4", "/d/3", "/b/c/2", "/a", "/b/1"]);
    assert_eq!(paths(api, &format!("{list}?depth=0")).await.len(), 6);
    for (query, expected) in [
        ("depth=1", &["/b-5", "/b/", "/d/", "/a"][..]),
        ("path_prefix=/", &["/b-5", "/b/c/4", "/d/3", "/b/c/2", "/a", "/b/1"]),
        ("path_prefix=/b/", &["/b/c/4", "/b/c/2", "/b/1"]),
        ("path_prefix=/b/&depth=1", &["/b/c/", "/b/1"]),
        ("path_prefix=/b/c/&depth=1", &["/b/c/4", "/b/c/2"]),
        ("path_prefix=/nothing/", &[]),
        ("path_prefix=/a/", &[]),
    ] {
        assert_eq!(paths(api, &format!("{list}?{query}")).await, expected, "{query}");
        let one_by_one = api.all(&format!("{list}?{query}"), 1).await;
        assert_eq!(one_by_one.len(), expected.len(), "{query}: a folder counts like a memory");
    }
    let shallow = api.get(&format!("{list}?depth=1&view=full")).await;
    assert_eq!(shallow["data"][1], json!({"path": "/b/", "type": "memory_prefix"}));
    assert_eq!((&shallow["data"][0]["type"], &shallow["data"][0]["content"]), (&json!("memory"), &json!("")));
    for (query, message) in [
        ("path_prefix=/b", "path_prefix must be segment-aligned and end with /"),
        ("path_prefix=b/", "path_prefix must be segment-aligned and end with /"),
        ("depth=2", "depth must be 0 or 1 when provided"),
        ("path_prefix=/b/&depth=0", "depth: must be greater than or equal to 1"),
        ("limit=0", "limit: must be greater than or equal to 1 and less than or equal to 1000"),
        ("limit=101", "limit: value must be greater than or equal to 1 and less than or equal to 100"),
        ("limit=1001", "limit: must be greater than or equal to 1 and less than or equal to 1000"),
    ] {
        assert_eq!(api.get_refused(&format!("{list}?{query}")).await, invalid(message));
    }
}

#[tokio::test]
async fn a_full_page_has_at_most_twenty_memories() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    for i in 0..21 {
        memory(api, &notes, &format!("/{i}"), "x").await;
    }
    for list in [memories(&notes), versions(&notes)] {
        let full = api.get(&format!("{list}?view=full&limit=100")).await;
        assert_eq!((full["data"].as_array().unwrap().len(), full["next_page"].is_string()), (20, true));
        assert_eq!(api.get(&format!("{list}?limit=100")).await["data"].as_array().unwrap().len(), 21);
    }
}

#[tokio::test]
async fn each_change_is_a_version_with_its_author() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let made = memory(api, &notes, "/a", "one").await;
    api.post(&at(&notes, &made), json!({"content": "two"})).await;
    let same = api.post(&at(&notes, &made), json!({"content": "two", "path": "/a"})).await;
    let moved = api.post(&at(&notes, &made), json!({"path": "/b"})).await;
    assert_ne!(same["memory_version_id"], moved["memory_version_id"]);
    api.delete(&at(&notes, &made)).await;
    let list = api.get(&format!("{}?memory_id={}&view=full", versions(&notes), id(&made))).await;
    let row = |version: &Value| {
        json!([version["operation"], version["path"], version["content"], version["content_size_bytes"]])
    };
    assert_eq!(
        list["data"].as_array().unwrap().iter().map(row).collect::<Vec<_>>(),
        [
            json!(["deleted", "/b", null, null]),
            json!(["modified", "/b", "two", 3]),
            json!(["modified", "/a", "two", 3]),
            json!(["created", "/a", "one", 3]),
        ],
        "an update that changes nothing makes none"
    );
    let last = &list["data"][3];
    assert_eq!(last["id"], made["memory_version_id"]);
    assert_eq!(
        (&last["content_sha256"], &last["redacted_at"], &last["redacted_by"]),
        (&json!(hash("one")), &Value::Null, &Value::Null)
    );
    assert_eq!(last["created_by"]["type"], "api_actor");
    let key = last["created_by"]["api_key_id"].as_str().unwrap();
    assert_eq!(api.get(&format!("{}/{}", versions(&notes), id(last))).await, *last);
    let basic = api.get(&format!("{}/{}?view=basic", versions(&notes), id(last))).await;
    assert_eq!((&basic["content"], &basic["content_sha256"]), (&Value::Null, &last["content_sha256"]));
    for (query, count) in [
        ("operation=modified".to_owned(), 2),
        (format!("api_key_id={key}"), 4),
        ("api_key_id=apikey_other".to_owned(), 0),
        ("session_id=sesn_x".to_owned(), 0),
        ("service_account_id=svac_x".to_owned(), 0),
        ("memory_id=mem_x".to_owned(), 0),
        (format!("created_at[lte]={}", last["created_at"].as_str().unwrap()), 1),
        (format!("created_at[gte]={}", last["created_at"].as_str().unwrap()), 4),
    ] {
        assert_eq!(api.all(&format!("{}?{query}", versions(&notes)), 1).await.len(), count, "{query}");
    }
    let gone = not_found("memory version `memver_x` not found");
    assert_eq!(api.get_refused(&format!("{}/memver_x", versions(&notes))).await, gone);
}

#[tokio::test]
async fn a_version_that_is_not_the_current_one_is_redacted_for_good() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let made = memory(api, &notes, "/secret", "one").await;
    let redact = format!("{}/{}/redact", versions(&notes), made["memory_version_id"].as_str().unwrap());
    let current = invalid(format!("version is the current content of {}; write a new version first", id(&made)));
    assert_eq!(api.call_refused(&redact).await, current);
    api.post(&at(&notes, &made), json!({"content": "two"})).await;
    api.call(&format!("{}/archive", path(&notes))).await;
    let redacted = api.call(&redact).await;
    for field in ["path", "content", "content_sha256", "content_size_bytes"] {
        assert_eq!(redacted[field], Value::Null, "{field}");
    }
    assert_eq!((&redacted["redacted_by"], &redacted["operation"]), (&redacted["created_by"], &json!("created")));
    assert!(redacted["redacted_at"].is_string());
    rota.advance_seconds(60);
    assert_eq!(api.call(&redact).await, redacted);
    assert_eq!(api.get(&at(&notes, &made)).await["content"], "two");
}

#[tokio::test]
async fn of_an_archived_store_memories_are_read_and_deleted() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let made = memory(api, &notes, "/a", "one").await;
    api.call(&format!("{}/archive", path(&notes))).await;
    let refused = invalid(format!("cannot modify archived resource: memory store {}", id(&notes)));
    assert_eq!(api.post_refused(&memories(&notes), json!({"path": "/b", "content": ""})).await, refused);
    assert_eq!(api.post_refused(&at(&notes, &made), json!({"content": "two"})).await, refused);
    assert_eq!(api.get(&at(&notes, &made)).await["content"], "one");
    api.delete(&at(&notes, &made)).await;
    assert_eq!(paths(api, &memories(&notes)).await, [""; 0]);
    api.delete(&path(&notes)).await;
}

#[tokio::test]
async fn a_store_holds_two_thousand_memories_and_lists_them_quickly() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let fill = |tx: &mut Tx<'_>| {
        tx.execute(
            "INSERT INTO memories (id, store_id, path, version_id, content_sha256, content_size_bytes, created_at, updated_at)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1999)
             SELECT 'mem_' || (1000000 + i), s.id, '/many/' || i, 'memver_' || i, 'x', 102400, 1, 1 FROM n, memory_stores s",
            &[],
        )?;
        tx.execute("UPDATE memory_stores SET memories = 1999, changes = 1999", &[])
    };
    rota.server.app().db.write(fill).await.unwrap();
    let last = memory(api, &notes, "/last", "").await;
    let full = invalid(format!("memory store {} has 2000 memories, which is the most; delete some first", id(&notes)));
    assert_eq!(api.post_refused(&memories(&notes), json!({"path": "/more", "content": ""})).await, full);
    assert_eq!(api.all(&memories(&notes), 100).await.len(), 2000);
    assert_eq!(paths(api, &format!("{}?depth=1", memories(&notes))).await, ["/last", "/many/"]);
    let watch = Stopwatch::start();
    for _ in 0..20 {
        api.get(&format!("{}?limit=100", memories(&notes))).await;
    }
    assert!(watch.seconds() < 10.0, "no list reads contents or sorts all: {}", watch.seconds());
    api.delete(&at(&notes, &last)).await;
    memory(api, &notes, "/more", "").await;
}

#[tokio::test]
async fn versions_are_kept_for_thirty_days_and_the_newest_ones_longer() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let purge_all = async || while rota.server.app().db.write(purge).await.unwrap() {};
    let count = async || api.all(&versions(&notes), 100).await.len();
    let made = memory(api, &notes, "/a", "0").await;
    for i in 1..=14 {
        api.post(&at(&notes, &made), json!({"content": i.to_string()})).await;
    }
    let other = memory(api, &notes, "/b", "gone").await;
    rota.advance_seconds(29 * 86_400);
    purge_all().await;
    assert_eq!(count().await, 16);
    rota.advance_seconds(2 * 86_400);
    api.delete(&at(&notes, &other)).await;
    purge_all().await;
    assert_eq!(count().await, 12, "ten of one memory, two of the other, which was just deleted");
    assert_eq!(api.get(&at(&notes, &made)).await["content"], "14");
    rota.advance_seconds(31 * 86_400);
    purge_all().await;
    assert_eq!(count().await, 10);
    let elsewhere = store(api, "Other").await;
    memory(api, &elsewhere, "/a", "stays").await;
    api.delete(&path(&notes)).await;
    purge_all().await;
    let left = |tx: &mut Tx<'_>| tx.all("SELECT store_id FROM memory_versions", &[], |row| row.text(0));
    assert_eq!(rota.server.app().db.read(left).await.unwrap(), [id(&elsewhere)]);
}

#[tokio::test]
async fn of_two_callers_who_write_a_path_at_the_same_time_one_is_told() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let notes = store(api, "Notes").await;
    let (list, paths) = (memories(&notes), ["/a/b", "/a", "/a/b/c", "/a/b", "/a", "/a/b/c"]);
    let bodies = paths.map(|path| json!({"path": path, "content": "x"}));
    let all = futures_util::future::join_all(bodies.iter().map(|body| api.send(Method::POST, &list, Some(body)))).await;
    assert_eq!(all.iter().filter(|answer| answer.status == 200).count(), 1);
    assert!(all.iter().all(|answer| [200, 409].contains(&answer.status.as_u16())));
    let made = &api.get(&list).await["data"][0];
    let update = |content: &str| {
        let precondition = json!({"type": "content_sha256", "content_sha256": made["content_sha256"]});
        json!({"content": content, "precondition": precondition})
    };
    let bodies = ["1", "2", "3", "4"].map(update);
    let at = at(&notes, made);
    let all = futures_util::future::join_all(bodies.iter().map(|body| api.send(Method::POST, &at, Some(body)))).await;
    assert_eq!(all.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(all.iter().filter(|answer| answer.status == 409).count(), 3);
}

#[tokio::test]
async fn a_session_shows_the_stores_that_it_was_given() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let style = api.post(STORES, json!({"name": "Our Style!", "description": "How we write."})).await;
    let same = store(api, "our style").await;
    let plain = store(api, "知识").await;
    let resource = |store: &Value| json!({"type": "memory_store", "memory_store_id": id(store)});
    let mut first = resource(&style);
    first["access"] = json!("read_only");
    first["instructions"] = json!("Follow it.");
    let mut second = resource(&same);
    second["access"] = Value::Null;
    let made = parts.session(api, json!({"resources": [first, second, resource(&plain)]})).await;
    let element = |store: &Value, access: &str, path: &str| {
        json!({"memory_store_id": id(store), "type": "memory_store", "access": access, "description": store["description"],
            "mount_path": format!("/mnt/memory/{path}"), "name": store["name"]})
    };
    let mut expected = element(&style, "read_only", "our-style");
    expected["instructions"] = json!("Follow it.");
    let slug = id(&plain).replace('_', "-").to_lowercase();
    let expected = json!([expected, element(&same, "read_write", "our-style-2"), element(&plain, "read_write", &slug)]);
    assert_eq!(made["resources"], expected);
    api.post(&path(&style), json!({"name": "Renamed"})).await;
    api.delete(&path(&same)).await;
    let session = format!("/v1/sessions/{}", id(&made));
    assert_eq!(api.get(&session).await["resources"], expected, "as it was when the session was created");

    let without = parts.session(api, json!({})).await;
    let with = async |store: &Value| {
        let list = api.get(&format!("/v1/sessions?memory_store_id={}", id(store))).await;
        list["data"].as_array().unwrap().iter().map(|session| id(session).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((with(&style).await, with(&plain).await), (vec![id(&made).to_owned()], vec![id(&made).to_owned()]));
    assert_eq!(with(&without).await, [""; 0]);
    api.delete(&session).await;
    assert_eq!(with(&style).await, [""; 0]);
}

#[tokio::test]
async fn a_session_cannot_be_given_a_store_that_is_archived_or_not_there() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (archived, theirs) = (store(api, "a").await, store(&rota.other_workspace().await, "b").await);
    api.call(&format!("{}/archive", path(&archived))).await;
    let body = |store: &Value| {
        parts.session_body(&json!({"resources": [{"type": "memory_store", "memory_store_id": id(store)}]}))
    };
    let refused = invalid(format!("Memory store {} is archived.", id(&archived)));
    assert_eq!(api.post_refused("/v1/sessions", body(&archived)).await, refused);
    let missing = not_found(format!("Memory store `{}` not found.", id(&theirs)));
    assert_eq!(api.post_refused("/v1/sessions", body(&theirs)).await, missing);
    assert_eq!(api.get("/v1/sessions").await["data"], json!([]));
}

#[tokio::test]
async fn a_run_gives_its_session_the_stores_of_the_deployment_as_they_are_then() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    let resources = json!([{"type": "memory_store", "memory_store_id": id(&notes)}]);
    let deployment = parts.deployment(api, json!({ "resources": resources })).await;
    assert_eq!(deployment["resources"], resources, "as it was sent");
    api.post(&path(&notes), json!({"name": "Later"})).await;
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let session = api.get(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await;
    assert_eq!(session["resources"][0]["mount_path"], "/mnt/memory/later");
}
