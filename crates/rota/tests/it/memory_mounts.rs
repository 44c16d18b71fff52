//! Memory stores in the sandboxes of sessions: what the agent reads and writes there, and what becomes of it.

use rota_server::db::Tx;
use serde_json::{Value, json};

use crate::{
    client::Api,
    given::{Parts, agent, environment, id, message, script},
    memory_stores::{memories, memory, path, store},
    server::{Rota, appears},
    stream::{first, text},
    upstream::{Reply, Upstream},
};

fn resource(store: &Value, access: &str) -> Value {
    json!({"type": "memory_store", "memory_store_id": id(store), "access": access})
}

/// A session with these stores, which the agent may write.
async fn session(api: &Api, parts: &Parts, stores: &[&Value]) -> Value {
    let resources: Vec<Value> = stores.iter().map(|store| resource(store, "read_write")).collect();
    parts.session(api, json!({ "resources": resources })).await
}

/// Has the agent of a session run a command, and waits until it is at rest. What it reads.
async fn run(api: &Api, session: &Value, command: &str) -> String {
    let earlier = api.all(&format!("/v1/sessions/{}/events?types=session.status_idle", id(session)), 100).await.len();
    api.events(id(session), json!([script(command)])).await;
    let mut stream = api.stream_from(id(session), 0).await;
    for _ in 0..earlier {
        stream.turn().await;
    }
    text(first(&stream.turn().await, "agent.tool_result")).to_owned()
}

/// What a store has: paths and contents, by path.
async fn all(api: &Api, store: &Value) -> Vec<(String, String)> {
    let list = api.all(&format!("{}?view=full", memories(store)), 20).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<_> = list.iter().map(|memory| (text(&memory["path"]), text(&memory["content"]))).collect();
    all.sort();
    all
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

async fn versions(api: &Api, store: &Value, query: &str) -> Vec<Value> {
    api.all(&format!("{}/memory_versions?view=full&{query}", path(store)), 20).await
}

#[tokio::test]
async fn what_the_agent_writes_is_a_version_of_its_session_at_the_end_of_the_call() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    let kept = memory(api, &notes, "/kept.md", "kept").await;
    for (path, content) in [("/changed.md", "before"), ("/deep/gone.md", "gone"), ("/deep/moved.md", "moved")] {
        memory(api, &notes, path, content).await;
    }
    let session = session(api, &parts, &[&notes]).await;
    let said = run(
        api,
        &session,
        "cd /mnt/memory/notes && cat kept.md changed.md deep/* && echo -n after > changed.md && mkdir -p new/er \
         && echo -n new > new/er/file.md && rm deep/gone.md && mv deep/moved.md there.md",
    )
    .await;
    assert_eq!(said.trim(), "keptbeforegonemoved");
    let expected = [("/changed.md", "after"), ("/kept.md", "kept"), ("/new/er/file.md", "new"), ("/there.md", "moved")];
    assert_eq!(all(api, &notes).await, pairs(&expected));
    let mut written = versions(api, &notes, &format!("session_id={}", id(&session))).await;
    written.sort_by_key(|version| version["path"].to_string());
    let row = |version: &Value| json!([version["path"], version["operation"], version["content"]]);
    assert_eq!(
        written.iter().map(row).collect::<Vec<_>>(),
        [
            json!(["/changed.md", "modified", "after"]),
            json!(["/deep/gone.md", "deleted", null]),
            json!(["/deep/moved.md", "deleted", null]),
            json!(["/new/er/file.md", "created", "new"]),
            json!(["/there.md", "created", "moved"]),
        ]
    );
    let author = json!({"type": "session_actor", "session_id": id(&session)});
    assert!(written.iter().all(|version| version["created_by"] == author));
    assert_eq!(api.get(&format!("{}/{}?view=basic", memories(&notes), id(&kept))).await, kept);
}

#[tokio::test]
async fn what_others_have_written_is_there_before_the_next_call() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    let first = memory(api, &notes, "/a/b/c", "one").await;
    let (reader, writer) = (session(api, &parts, &[&notes]).await, session(api, &parts, &[&notes]).await);
    let look = "cd /mnt/memory/notes && find . -type f | sort | xargs -r tail -n +1";
    assert_eq!(run(api, &reader, "cat /mnt/memory/notes/a/b/c").await.trim(), "one");
    run(api, &writer, "cd /mnt/memory/notes && echo two > a/b/c && echo -n hi > b").await;
    assert_eq!(run(api, &reader, look).await.trim(), "==> ./a/b/c <==\ntwo\n\n==> ./b <==\nhi");
    // The folders above a memory that is gone do not stand in the way of one that takes their place.
    api.delete(&format!("{}/{}", memories(&notes), id(&first))).await;
    memory(api, &notes, "/a", "a file now").await;
    assert_eq!(run(api, &reader, "cat /mnt/memory/notes/a").await.trim(), "a file now");
    for memory in api.all(&memories(&notes), 100).await {
        api.delete(&format!("{}/{}", memories(&notes), id(&memory))).await;
    }
    assert_eq!(
        run(api, &reader, "ls /mnt/memory/notes; echo -n again > /mnt/memory/notes/a").await.trim(),
        "(no output)"
    );
    assert_eq!(all(api, &notes).await, pairs(&[("/a", "again")]), "the folder is the same after its last file went");
}

#[tokio::test]
async fn a_write_that_lost_a_race_is_kept_beside_the_other_one_and_told() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    let shared = memory(api, &notes, "/shared.md", "before").await;
    let (one, two) = (session(api, &parts, &[&notes]).await, session(api, &parts, &[&notes]).await);
    // Both have read the same before either writes: each waits within its call until the other one is there too.
    let command = |mine: &str| {
        format!(
            "cd /mnt/memory/notes && echo -n {mine} > shared.md && touch /workspace/there && until [ -e /workspace/go ]; do sleep 0.01; done"
        )
    };
    let both = async |first: &Value, second: &Value| {
        let go = async |session: &Value| {
            appears(rota.workspace_file(id(session), "there")).await;
        };
        let commands = [command("first"), command("second")];
        let running = async { tokio::join!(run(api, first, &commands[0]), run(api, second, &commands[1])) };
        let going = async {
            tokio::join!(go(first), go(second));
            std::fs::write(rota.workspace_file(id(first), "go"), "").unwrap();
            api.once(&format!("{}/{}", memories(&notes), id(&shared)), |memory| memory["content"] == "first").await;
            std::fs::write(rota.workspace_file(id(second), "go"), "").unwrap();
        };
        tokio::join!(running, going).0
    };
    let (won, lost) = both(&one, &two).await;
    assert_eq!(won.trim(), "(no output)");
    let list = all(api, &notes).await;
    let beside = list[1].0.clone();
    assert!(beside.starts_with("/shared.md.conflict-"), "{beside}");
    assert_eq!(list, pairs(&[("/shared.md", "first"), (&beside, "second")]));
    assert!(lost.contains("/mnt/memory/notes/shared.md was changed in the store by somebody else"), "{lost}");
    assert!(lost.contains(&format!("kept as /mnt/memory/notes{beside}")), "{lost}");
    let seen = run(api, &two, "cd /mnt/memory/notes && cat shared.md *conflict*").await;
    assert_eq!(seen.trim(), "firstsecond");
    let author = &versions(api, &notes, "operation=created").await[0]["created_by"];
    assert_eq!(author["session_id"], two["id"]);
}

#[tokio::test]
async fn a_memory_that_somebody_changed_is_not_deleted_and_one_that_somebody_deleted_comes_back() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    let changed = memory(api, &notes, "/changed", "before").await;
    let deleted = memory(api, &notes, "/deleted", "before").await;
    let session = session(api, &parts, &[&notes]).await;
    let command = "cd /mnt/memory/notes && rm changed && echo -n mine > deleted && touch /workspace/there && \
                   until [ -e /workspace/go ]; do sleep 0.01; done";
    let meanwhile = async {
        appears(rota.workspace_file(id(&session), "there")).await;
        api.post(&format!("{}/{}", memories(&notes), id(&changed)), json!({"content": "theirs"})).await;
        api.delete(&format!("{}/{}", memories(&notes), id(&deleted))).await;
        std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    };
    let (told, ()) = tokio::join!(run(api, &session, command), meanwhile);
    assert!(told.contains("/mnt/memory/notes/changed was not deleted"), "{told}");
    assert!(told.contains("/mnt/memory/notes/deleted had been deleted in the store"), "{told}");
    assert_eq!(all(api, &notes).await, pairs(&[("/changed", "theirs"), ("/deleted", "mine")]));
    assert_eq!(run(api, &session, "cat /mnt/memory/notes/*").await.trim(), "theirsmine");
}

#[tokio::test]
async fn a_read_only_store_is_read_and_cannot_be_written() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (style, notes) = (store(api, "Style").await, store(api, "Notes").await);
    let rule = memory(api, &style, "/rule.md", "one").await;
    let resources = [resource(&style, "read_only"), resource(&notes, "read_write")];
    let session = parts.session(api, json!({ "resources": resources })).await;
    let command = "cat /mnt/memory/style/rule.md; for file in style/rule.md style/new other/x; do \
                   echo changed > /mnt/memory/$file && echo wrote $file; done 2> /dev/null; rm -f /mnt/memory/style/rule.md";
    let said = run(api, &session, command).await;
    assert!(said.starts_with("one") && !said.contains("wrote"), "{said}");
    assert_eq!(all(api, &style).await, pairs(&[("/rule.md", "one")]));
    api.post(&format!("{}/{}", memories(&style), id(&rule)), json!({"content": "two"})).await;
    assert_eq!(run(api, &session, "cat /mnt/memory/style/rule.md").await.trim(), "two");
    assert_eq!(versions(api, &style, &format!("session_id={}", id(&session))).await, [json!(null); 0]);
}

#[tokio::test]
async fn what_a_memory_cannot_be_is_told_once_and_left_where_it_is() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    memory(api, &notes, "/large", "was small").await;
    memory(api, &notes, "/link", "was a file").await;
    let session = session(api, &parts, &[&notes]).await;
    let command = "cd /mnt/memory/notes && head -c 102401 /dev/zero | tr '\\0' x > large && printf '\\xff' > binary \
                   && printf 'a\\0b' > zero && touch $'new\\nline' && ln -sf /etc/passwd link && mkdir empty \
                   && head -c 102400 /dev/zero | tr '\\0' x > most && echo fine > fine";
    let told = run(api, &session, command).await;
    for (name, reason) in [
        ("large", "it has more than 102400 bytes"),
        ("binary", "it is no UTF-8 text"),
        ("zero", "its content must not contain the character U+0000"),
        ("new\nline", "its path must not contain control characters"),
        ("link", "it is neither a file nor a folder"),
    ] {
        assert!(told.contains(&format!("/mnt/memory/notes/{name}")) && told.contains(reason), "{name}: {told}");
    }
    let paths: Vec<String> = all(api, &notes).await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/fine", "/large", "/link", "/most"]);
    assert_eq!(all(api, &notes).await[1].1, "was small", "what cannot be stored deletes nothing");
    let again = run(api, &session, "ls -A /mnt/memory/notes").await;
    assert!(!again.contains("not stored"), "{again}");
    assert!(again.contains("binary") && again.contains("large"), "{again}");
    let now = "cd /mnt/memory/notes && echo -n small again > large && echo -n text > binary";
    assert_eq!(run(api, &session, now).await.trim(), "(no output)");
    let list = all(api, &notes).await;
    assert_eq!((&*list[0].1, &*list[2].1), ("text", "small again"));
}

#[tokio::test]
async fn nothing_is_taken_over_into_a_store_that_was_archived_or_deleted() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (notes, other) = (store(api, "Notes").await, store(api, "Other").await);
    memory(api, &notes, "/a", "before").await;
    let session = session(api, &parts, &[&notes, &other]).await;
    run(api, &session, "echo -n mine > /mnt/memory/other/mine").await;
    api.call(&format!("{}/archive", path(&notes))).await;
    api.delete(&path(&other)).await;
    let told =
        run(api, &session, "cd /mnt/memory && cat notes/a other/mine && echo later > notes/a && echo later > other/b")
            .await;
    assert!(told.starts_with("beforemine"), "{told}");
    for (file, reason) in [("notes/a", "archived"), ("other/b", "deleted")] {
        let line = told.lines().find(|line| line.starts_with(&format!("/mnt/memory/{file} was not stored")));
        assert!(line.is_some_and(|line| line.contains(reason)), "{file}: {told}");
    }
    assert_eq!(all(api, &notes).await, pairs(&[("/a", "before")]));
}

#[tokio::test]
async fn what_was_written_while_nobody_looked_is_taken_over_by_the_next_runner() {
    let rota = Rota::start().await;
    let parts = Parts::new(&rota.api).await;
    let notes = store(&rota.api, "Notes").await;
    memory(&rota.api, &notes, "/a", "before").await;
    memory(&rota.api, &notes, "/b", "before").await;
    let session = session(&rota.api, &parts, &[&notes]).await;
    run(&rota.api, &session, "cat /mnt/memory/notes/a").await;
    let folder = rota.workspace_file(id(&session), "x").ancestors().nth(2).unwrap().join("memory-writable/notes");
    // As if the server had ended between the end of a call and what follows it.
    let rota = rota
        .restart_after(
            async {
                std::fs::write(folder.join("a"), "the agent's").unwrap();
                std::fs::remove_file(folder.join("b")).unwrap();
                std::fs::write(folder.join("c"), "new").unwrap();
            },
            |_| {},
        )
        .await;
    let api = &rota.api;
    let said = run(api, &session, "cat /mnt/memory/notes/*").await;
    assert!(said.trim().ends_with("\nthe agent'snew"), "{said}");
    assert_eq!(all(api, &notes).await, pairs(&[("/a", "the agent's"), ("/c", "new")]));
    assert_eq!(versions(api, &notes, &format!("session_id={}", id(&session))).await.len(), 3);
}

#[tokio::test]
async fn what_is_left_running_is_taken_over_before_the_session_rests() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    let session = session(api, &parts, &[&notes]).await;
    let mut stream = api.stream(id(&session)).await;
    let (left, waits) =
        ("(until [ -e go ]; do sleep 0.01; done; echo -n late > /mnt/memory/notes/late) &", "touch go; wait");
    api.events(id(&session), json!([message(&format!("```bash\n{left}\n```\n```bash\n{waits}\n```"))])).await;
    stream.turn().await;
    assert_eq!(all(api, &notes).await, pairs(&[("/late", "late")]));
}

#[tokio::test]
async fn the_model_is_told_of_the_stores_behind_its_own_system_prompt() {
    let upstream = Upstream::start([Reply::Message(vec![json!({"type": "text", "text": "hello"})])]).await;
    let rota = Rota::with(|config| config.models.push(upstream.model())).await;
    let api = &rota.api;
    let parts = Parts {
        agent: agent(api, json!({"model": upstream.model().id, "system": "Be brief."})).await,
        environment: environment(api, "e").await,
    };
    let body = json!({"name": "Our Style", "description": "How we write."});
    let style = api.post("/v1/memory_stores", body).await;
    let gone = store(api, "Gone").await;
    let mut first = resource(&style, "read_only");
    first["instructions"] = json!("Follow it.");
    let body = json!({"resources": [first, resource(&gone, "read_write")]});
    let session = parts.session(api, body).await;
    api.delete(&path(&gone)).await;
    let mut stream = api.stream(id(&session)).await;
    api.events(id(&session), json!([message("hi")])).await;
    stream.turn().await;
    let system = upstream.asked()[0]["system"].to_string();
    let system = system.replace("\\n", "\n").replace("\\\"", "\"");
    assert!(system.contains("Be brief.\n\n") && system.contains("\n\nYou have persistent memory"), "{system}");
    let lines = "Available stores (write only inside the directories listed below):\n - \"Our Style\" → \
                 /mnt/memory/our-style/ (read-only): How we write.\n   Follow it.\n - \"Gone\" → /mnt/memory/gone/ (read-write)";
    assert!(system.contains(lines), "{system}");
}

#[tokio::test]
async fn an_agent_that_fills_its_store_is_told_what_did_not_fit() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let notes = store(api, "Notes").await;
    let nearly = |tx: &mut Tx<'_>| tx.execute("UPDATE memory_stores SET memories = 1998", &[]);
    rota.server.app().db.write(nearly).await.unwrap();
    let session = session(api, &parts, &[&notes]).await;
    let told = run(api, &session, "cd /mnt/memory/notes && for i in 1 2 3; do echo -n $i > $i; done").await;
    assert_eq!(all(api, &notes).await, pairs(&[("/1", "1"), ("/2", "2")]));
    assert!(told.contains("/mnt/memory/notes/3 was not stored: memory store"), "{told}");
    let again = run(api, &session, "rm /mnt/memory/notes/1").await;
    assert_eq!(again.trim(), "(no output)", "nothing is told twice");
    assert_eq!(all(api, &notes).await, pairs(&[("/2", "2"), ("/3", "3")]), "it is stored once there is room");
}
