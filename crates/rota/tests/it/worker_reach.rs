//! What a worker reaches beside its session: the skills and the memory stores that the session has, for as long as its work goes
//! on.

use std::io::{Cursor, Read};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Api, forbidden, invalid, not_found},
    given::{Parts, agent, id, message},
    memory_stores::{memories, memory, path, store},
    server::Rota,
    skills::skill,
    upstream::{Reply, Upstream},
    workers::Site,
};

fn mounted(store: &Value, access: &str) -> Value {
    json!({"type": "memory_store", "memory_store_id": id(store), "access": access})
}

fn latest(skill: &Value) -> Value {
    json!({"type": "custom", "skill_id": id(skill)})
}

fn version(skill: &Value, version: &str) -> String {
    format!("/v1/skills/{}/versions/{version}", id(skill))
}

/// The content of the file `name` of an archive that is downloaded.
async fn downloaded(api: &Api, path: &str, name: &str) -> String {
    let response = api.request(Method::GET, path).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let mut archive = zip::ZipArchive::new(Cursor::new(response.bytes().await.unwrap())).unwrap();
    let mut text = String::new();
    archive.by_name(name).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Work whose session has a store to write, one to read, and nothing of a third.
struct Bench {
    rota: Rota,
    site: Site,
    notes: Value,
    rules: Value,
    others: Value,
    session: Value,
    work: Value,
    token: Api,
}

impl Bench {
    async fn set() -> Self {
        let rota = Rota::without_engine().await;
        let api = &rota.api;
        let site = Site::new(api, json!({})).await;
        let (notes, rules, others) = (store(api, "notes").await, store(api, "rules").await, store(api, "others").await);
        for store in [&notes, &rules, &others] {
            memory(api, store, "/first.md", "one").await;
        }
        let resources = json!([mounted(&notes, "read_write"), mounted(&rules, "read_only")]);
        let body = json!({"resources": resources, "initial_events": [message("hi")]});
        let session = site.parts.session(api, body).await;
        let (work, token) = site.take().await;
        Self { rota, site, notes, rules, others, session, work, token }
    }

    /// Each way in which a worker reads and writes the memories of a store: the method, the path, the body, whether it writes.
    async fn calls(&self, store: &Value) -> Vec<(Method, String, Option<Value>, bool)> {
        let list = self.rota.api.get(&memories(store)).await;
        let first = format!("{}/{}", memories(store), id(&list["data"][0]));
        let hash = list["data"][0]["content_sha256"].as_str().unwrap();
        vec![
            (Method::GET, format!("{}?view=full&limit=20", memories(store)), None, false),
            (Method::GET, format!("{first}?view=full"), None, false),
            (Method::POST, memories(store), Some(json!({"path": "/second.md", "content": "two"})), true),
            (Method::POST, first.clone(), Some(json!({"path": "/moved.md"})), true),
            (Method::DELETE, format!("{first}?expected_content_sha256={hash}"), None, true),
        ]
    }
}

#[tokio::test]
async fn a_token_reads_and_writes_the_stores_of_its_session_in_the_name_of_the_session() {
    let bench = Bench::set().await;
    for (method, path, body, _) in bench.calls(&bench.notes).await {
        bench.token.send(method, &path, body.as_ref()).await.success();
    }
    let versions = bench.rota.api.all(&format!("{}/memory_versions", path(&bench.notes)), 20).await;
    let author = json!({"type": "session_actor", "session_id": id(&bench.session)});
    let by_session = versions.iter().filter(|version| version["created_by"] == author).count();
    assert_eq!((versions.len(), by_session), (4, 3), "{versions:?}");
    let beta = bench.token.http.get(format!("{}{}", bench.token.base, memories(&bench.notes)));
    let beta = beta.bearer_auth(&bench.token.key).header("anthropic-beta", "agent-memory-2026-07-22");
    bench.token.answer(beta).await.success();
}

#[tokio::test]
async fn a_store_that_is_read_only_in_the_session_refuses_its_writes() {
    let bench = Bench::set().await;
    let (session, rules) = (id(&bench.session), id(&bench.rules));
    let refused = forbidden(format!("session {session} has the memory store {rules} to read, not to write"));
    for (method, path, body, writes) in bench.calls(&bench.rules).await {
        let answer = bench.token.send(method.clone(), &path, body.as_ref()).await;
        if writes {
            assert_eq!(answer.refusal(), refused, "{method} {path}");
        } else {
            answer.success();
        }
    }
    assert_eq!(bench.rota.api.all(&memories(&bench.rules), 20).await.len(), 1);
}

#[tokio::test]
async fn a_token_reaches_no_store_of_another_session_and_a_key_none_at_all() {
    let bench = Bench::set().await;
    let api = &bench.rota.api;
    // Also not one that another session of the same environment has.
    bench.site.parts.session(api, json!({"resources": [mounted(&bench.others, "read_write")]})).await;
    let missing = not_found(format!("Memory store `{}` not found.", id(&bench.others)));
    for (method, path, body, _) in bench.calls(&bench.others).await {
        assert_eq!(bench.token.send(method, &path, body.as_ref()).await.refusal(), missing, "{path}");
    }
    let no_key = forbidden("the key of an environment reaches no memories: send the token in the secret of the work");
    for (method, path, body, _) in bench.calls(&bench.notes).await {
        assert_eq!(bench.site.worker.send(method, &path, body.as_ref()).await.refusal(), no_key, "{path}");
    }
    for path in [path(&bench.notes), format!("{}/memory_versions", path(&bench.notes))] {
        assert_eq!(bench.token.get_refused(&path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn what_a_token_reaches_ends_with_its_lease_and_with_its_work() {
    let bench = Bench::set().await;
    let ended = forbidden(format!(
        "the work item {} has ended or was handed to another worker, and with it the token that it came with",
        id(&bench.work)
    ));
    bench.rota.advance_seconds(301);
    let (work, second) = bench.site.take().await;
    for (method, path, body, _) in bench.calls(&bench.notes).await {
        assert_eq!(
            bench.token.send(method, &path, body.as_ref()).await.refusal(),
            ended,
            "{path}: another has the work"
        );
    }
    second.get(&memories(&bench.notes)).await;
    let stop = bench.site.path(&format!("/{}/stop", id(&work)));
    bench.rota.api.post(&stop, json!({})).await;
    second.post(&memories(&bench.notes), json!({"path": "/last.md", "content": "as it stops"})).await;
    second.post(&stop, json!({"force": true})).await;
    for (method, path, body, _) in bench.calls(&bench.notes).await {
        assert_eq!(second.send(method, &path, body.as_ref()).await.refusal(), ended, "{path}: the work is stopped");
    }
    let last = json!({"path": "/after.md", "content": "too late"});
    let archived = format!("/v1/sessions/{}", id(&bench.session));
    assert_eq!(second.post_refused(&memories(&bench.notes), last).await, ended);
    assert_eq!(second.get_refused(&archived).await, ended);
}

#[tokio::test]
async fn a_worker_downloads_the_versions_that_its_session_was_given() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let (report, other) = (skill(api, "report").await, skill(api, "other").await);
    let twin = skill(api, "report").await;
    let site = Site::new(api, json!({"skills": [latest(&report), latest(&twin)]})).await;
    let body = json!({"initial_events": [message("hi")]});
    site.parts.session(api, body).await;
    let (work, token) = site.take().await;
    let first = report["latest_version_id"].as_str().unwrap().to_owned();
    let newer = [("files[]", Some("report/SKILL.md"), &*crate::skills::manifest("report", "Newer."))];
    let newer = crate::skills::upload(api, &format!("/v1/skills/{}/versions", id(&report)), &newer).await;

    for worker in [&token, &site.worker] {
        let given = worker.get(&version(&report, "latest")).await;
        assert_eq!(given["id"], json!(first), "`latest` is what the session was given");
        assert_eq!(given, api.get(&version(&report, &first)).await);
        let content = format!("{}/content", version(&report, &first));
        assert_eq!(downloaded(worker, &content, "report/scripts/run.sh").await, "echo from the skill\n");
        let gone = not_found("Skill version not found");
        assert_eq!(worker.get_refused(&version(&report, id(&newer))).await, gone, "the session does not have it");
        assert_eq!(worker.get_refused(&version(&other, "latest")).await, gone);
        let theirs = other["latest_version_id"].as_str().unwrap();
        assert_eq!(worker.get_refused(&format!("{}/content", version(&other, theirs))).await, gone);
        let scopes =
            "org:skills, user:developer, user:managed_agents, user:skills, workspace:developer, workspace:skills";
        let out_of_scope = forbidden(format!("OAuth token does not meet scope requirement any_of({scopes})"));
        for path in ["/v1/skills".to_owned(), format!("/v1/skills/{}", id(&report))] {
            let answer = worker.send(Method::GET, &path, None).await;
            assert_eq!(answer.refusal(), out_of_scope);
            assert_eq!(answer.headers["x-should-retry"], "false");
        }
    }
    // Two folders of one name would be one at the worker: the second is given the name that the agent is told.
    assert_eq!(token.get(&version(&twin, "latest")).await["name"], "report-2");
    let refused = token.get_refused(&format!("{}/content", version(&report, "latest"))).await;
    assert!(refused.message.starts_with("'latest' is not accepted when downloading"), "{refused:?}");
    assert_eq!(token.get_refused(&version(&report, "nonsense")).await, invalid("Invalid version id: 'nonsense'"));

    api.delete(&format!("/v1/skills/{}", id(&report))).await;
    assert_eq!(token.get(&version(&report, "latest")).await["id"], json!(first), "the session has it all the same");
    let stop = site.path(&format!("/{}/stop", id(&work)));
    token.post(&stop, json!({"force": true})).await;
    assert_eq!(token.get_refused(&version(&report, "latest")).await.status, 403);
    assert_eq!(site.worker.get_refused(&version(&report, "latest")).await.status, 404, "no session with it is at work");
}

#[tokio::test]
async fn the_agent_is_told_where_the_worker_puts_its_skills_and_stores() {
    let upstream = Upstream::start([Reply::Message(vec![json!({"type": "text", "text": "done"})])]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let report = skill(api, "report").await;
    let site = Site::new(api, json!({"model": "house", "skills": [latest(&report)]})).await;
    let notes = store(api, "Notes").await;
    let body = json!({"resources": [mounted(&notes, "read_write")], "initial_events": [message("hi")]});
    let session = site.parts.session(api, body).await;
    api.once(&format!("/v1/sessions/{}", id(&session)), |session| session["status"] == "idle").await;
    let system = upstream.asked()[0]["system"].to_string();
    for part in [
        "`skills/<name>/SKILL.md` in the working directory of your tools",
        " - \\\"Notes\\\" → /mnt/memory/notes/ (read-write)",
        "theirs replaces yours",
    ] {
        assert!(system.contains(part), "{part}: {system}");
    }
    assert_eq!(session["resources"][0]["mount_path"], "/mnt/memory/notes", "where the official worker puts it");
}

#[tokio::test]
async fn a_file_is_not_there_for_a_worker() {
    let rota = Rota::without_engine().await;
    let file = crate::files::upload(&rota.api, "a.txt", b"content").await;
    let parts = Parts {
        agent: agent(&rota.api, json!({})).await,
        environment: rota.api.post("/v1/environments", json!({"name": "w", "config": {"type": "self_hosted"}})).await,
    };
    let site = Site::of(&rota.api, parts).await;
    let answer = site.worker.send(Method::GET, &format!("/v1/files/{}/content", id(&file)), None).await;
    assert_eq!(answer.refusal(), not_found("Not found"));
    assert_eq!(answer.headers["x-should-retry"], "false");
}
