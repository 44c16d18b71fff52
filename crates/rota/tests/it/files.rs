//! Files: uploads, what sessions have mounted of them, and what agents hand over.

use std::time::Duration;

use reqwest::{Body, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Api, BETA, Refusal, invalid, not_found},
    given::{Parts, agent, id, message, over, script, toolset},
    server::{Rota, appears},
    stream::{first, text},
};

/// A body of several parts: name, filename and content of each.
pub fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, filename, content) in parts {
        let filename = filename.map(|filename| format!("; filename=\"{filename}\"")).unwrap_or_default();
        let head = format!("--boundary\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--boundary--\r\n");
    body
}

/// The request that uploads such a body.
pub fn sending(api: &Api, body: impl Into<Body>) -> RequestBuilder {
    let request = api.request(Method::POST, "/v1/files");
    request.header("content-type", "multipart/form-data; boundary=boundary").body(body)
}

/// Uploads a file.
pub async fn upload(api: &Api, filename: &str, content: &[u8]) -> Value {
    api.answer(sending(api, form(&[("file", Some(filename), content)]))).await.success()
}

async fn refused(api: &Api, parts: &[(&str, Option<&str>, &[u8])]) -> Refusal {
    api.answer(sending(api, form(parts))).await.refusal()
}

pub async fn download(api: &Api, file: &str) -> reqwest::Response {
    api.request(Method::GET, &format!("/v1/files/{file}/content")).send().await.unwrap()
}

/// The files of a session, once there are so many.
pub async fn files_of(api: &Api, session: &str, count: usize) -> Vec<Value> {
    let path = format!("/v1/files?scope_id={session}");
    let found = api.once(&path, |list| list["data"].as_array().unwrap().len() == count).await;
    found["data"].as_array().unwrap().clone()
}

/// What the agent's calls of a turn came to.
async fn turn(api: &Api, session: &Value) -> Vec<Value> {
    api.stream_from(id(session), 0).await.turn().await
}

fn resource(file: &Value, changes: &Value) -> Value {
    over(json!({"type": "file", "file_id": id(file)}), changes)
}

#[tokio::test]
async fn a_run_reads_a_mounted_file_and_hands_over_another_that_the_client_downloads() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let file = upload(api, "numbers.csv", b"1,2,3\n").await;
    let work = "cat /mnt/session/uploads/data/numbers.csv && tr , ';' < /mnt/session/uploads/data/numbers.csv \
        > /mnt/session/outputs/report.txt && echo x > /mnt/session/uploads/data/numbers.csv";
    let changes = json!({
        "resources": [resource(&file, &json!({"mount_path": "/data/numbers.csv"}))],
        "initial_events": [script(work)],
    });
    let deployment = parts.deployment(api, changes).await;
    assert_eq!(deployment["resources"][0]["mount_path"], "/data/numbers.csv", "as it was sent");
    let run = api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let session = api.get(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await;
    let mounted = &session["resources"][0];
    assert_eq!(mounted["mount_path"], "/mnt/session/uploads/data/numbers.csv");
    let events = turn(api, &session).await;
    let said = text(first(&events, "agent.tool_result"));
    assert!(said.contains("1,2,3") && said.contains("Read-only file system"), "{said}");

    let files = files_of(api, id(&session), 2).await;
    let output = files.iter().find(|file| file["filename"] == "report.txt").unwrap();
    assert_eq!(
        (&output["downloadable"], &output["size_bytes"], &output["mime_type"], &output["scope"]),
        (&json!(true), &json!(6), &json!("text/plain"), &json!({"type": "session", "id": id(&session)}))
    );
    let answer = download(api, id(output)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    for (header, value) in [
        ("content-type", "text/plain"),
        ("content-length", "6"),
        ("content-disposition", "attachment; filename*=utf-8''report.txt"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(answer.headers()[header], value, "{header}");
    }
    assert_eq!(answer.text().await.unwrap(), "1;2;3\n");

    let copy = files.iter().find(|file| file["filename"] == "numbers.csv").unwrap();
    assert_eq!((&copy["id"], &copy["downloadable"]), (&mounted["file_id"], &json!(false)));
    assert_ne!(id(copy), id(&file), "the session has a copy of its own");
    let listed = api.get("/v1/files").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "files of sessions are not among the others: {listed}");
}

#[tokio::test]
async fn an_upload_is_told_as_the_api_has_it_with_and_without_the_beta() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let file = upload(api, "C:\\\\notes\\\\a b.md", b"# Notes").await;
    assert_eq!(
        (&file["filename"], &file["mime_type"], &file["size_bytes"], &file["downloadable"], &file["expires_at"]),
        (&json!("a b.md"), &json!("text/markdown"), &json!(7), &json!(false), &Value::Null)
    );
    assert!(file.get("scope").is_none() && file["type"] == "file" && id(&file).starts_with("file_"));
    assert_eq!(api.get(&format!("/v1/files/{}", id(&file))).await, file);
    let bare = |method: Method, path: String| {
        api.http.request(method, format!("{}{path}", api.base)).header("x-api-key", &api.key)
    };
    let plain = api.answer(bare(Method::GET, format!("/v1/files/{}", id(&file)))).await.success();
    assert_eq!(plain, file);
    let plain = api.answer(bare(Method::GET, "/v1/files".to_owned())).await.success();
    assert_eq!(plain, json!({"data": [file], "next_page": null}));
    let upload = bare(Method::POST, "/v1/files".to_owned())
        .header("content-type", "multipart/form-data; boundary=boundary")
        .body(form(&[("expires_in_seconds", None, b"3600"), ("file", Some(""), b"x")]));
    let short = api.answer(upload).await.success();
    assert_eq!((&short["filename"], &short["expires_at"]), (&json!("unnamed"), &json!("2026-03-02T09:00:00.005000Z")));

    let refused = download(api, id(&file)).await;
    assert_eq!(
        (refused.status(), &refused.headers()["x-should-retry"]),
        (StatusCode::BAD_REQUEST, &"false".parse().unwrap())
    );
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        body["error"]["message"],
        format!(
            "File `{}` is not downloadable. Only files generated by a tool (for example, the code execution tool) can be \
             downloaded.",
            id(&file)
        )
    );
    assert_eq!(body["error"]["details"]["error_code"], "file_not_downloadable");

    let gone = api.delete(&format!("/v1/files/{}", id(&file))).await;
    assert_eq!(gone, json!({"id": id(&file), "type": "file_deleted"}));
    let missing = not_found(format!("File `{}` not found.", id(&file)));
    assert_eq!(api.get_refused(&format!("/v1/files/{}", id(&file))).await, missing);
    assert_eq!(api.send(Method::DELETE, &format!("/v1/files/{}", id(&file)), None).await.refusal(), missing);
    let answer: Answer = api.send(Method::GET, &format!("/v1/files/{}/content", id(&file)), None).await;
    assert_eq!((answer.headers["x-should-retry"].to_str().unwrap(), answer.refusal()), ("false", missing));
}

#[tokio::test]
async fn an_upload_that_is_not_right_is_refused_in_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let file = ("file", Some("a.txt"), &b"content"[..]);
    for (parts, message) in [
        (vec![], "file: Field required"),
        (vec![("expires_in_seconds", None, &b"3600"[..])], "file: Field required"),
        (vec![file, file], "file: value must be sent once"),
        (vec![file, ("colour", None, b"x")], "colour: Extra inputs are not permitted"),
        (vec![("expires_in_seconds", None, b"soon"), file], "expires_in_seconds: Input should be a valid integer"),
        (
            vec![file, ("expires_in_seconds", None, b"3599")],
            "expires_in_seconds: must be greater than or equal to 3600 and less than or equal to 7776000",
        ),
        (
            vec![file, ("expires_in_seconds", None, b"7776001")],
            "expires_in_seconds: must be greater than or equal to 3600 and less than or equal to 7776000",
        ),
    ] {
        assert_eq!(refused(api, &parts).await, invalid(message));
    }
    let long = "x".repeat(256);
    let name = "file: the filename must have at most 255 characters, and none that is a control character";
    assert_eq!(refused(api, &[("file", Some(&long), b"x")]).await, invalid(name));
    assert!(upload(api, &long[1..], b"x").await["filename"] == long[1..]);
    let json = api.request(Method::POST, "/v1/files").json(&json!({"file": "x"}));
    let refusal = api.answer(json).await.refusal();
    assert_eq!(refusal, invalid("content-type: must be multipart/form-data with a boundary"));
    let cut = form(&[file]);
    let answer = api.answer(sending(api, cut[..cut.len() - 20].to_vec())).await.refusal();
    assert!(answer.status == 400 && answer.message.starts_with("the body could not be read: "), "{answer:?}");
    assert_eq!(api.get("/v1/files").await["data"].as_array().unwrap().len(), 1, "the one of 255 characters");
}

#[tokio::test]
async fn files_are_listed_page_by_page_by_id_and_by_session() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.insert(0, id(&upload(api, name, name.as_bytes()).await).to_owned());
    }
    let all = api.all("/v1/files", 2).await;
    assert_eq!(all.iter().map(|file| id(file).to_owned()).collect::<Vec<_>>(), ids, "newest first");
    let page = api.get("/v1/files?limit=1").await;
    assert!(page["next_page"].as_str().unwrap().starts_with("page_"));
    let some = api.get(&format!("/v1/files?ids={}&ids[]={}&ids=file_gone", ids[2], ids[0])).await;
    assert_eq!(some["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [&ids[0], &ids[2]]);
    assert_eq!(some["next_page"], Value::Null);
    let refused = api.get_refused(&format!("/v1/files?ids={}&limit=1", ids[0])).await;
    assert_eq!(refused, invalid("ids: cannot be set together with page or limit"));
    let many = (0..101).map(|i| format!("ids=file_{i}")).collect::<Vec<_>>().join("&");
    let refused = api.get_refused(&format!("/v1/files?{many}")).await;
    assert_eq!(refused, invalid("ids: value must contain no more than 100 item(s)"));
    let session = Parts::new(api).await.session(api, json!({"resources": [{"type": "file", "file_id": ids[0]}]})).await;
    let files = files_of(api, id(&session), 1).await;
    assert_eq!(files[0]["scope"]["id"], *id(&session));
    assert_eq!(api.get("/v1/files?scope_id=sesn_other").await["data"], json!([]));
    assert_eq!(api.all("/v1/files", 100).await.len(), 3);
}

#[tokio::test]
async fn a_mounted_file_outlives_the_upload_and_the_session_takes_its_files_with_it() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let file = upload(api, "a.txt", b"kept").await;
    let twice = json!([resource(&file, &json!({})), resource(&file, &json!({"mount_path": "b.txt"}))]);
    let session = Parts::new(api).await.session(api, json!({ "resources": twice })).await;
    let resources = session["resources"].as_array().unwrap();
    assert_eq!(resources[0]["mount_path"], format!("/mnt/session/uploads/{}", id(&file)), "the id that was sent");
    assert_ne!(resources[0]["file_id"], resources[1]["file_id"], "each is a copy of its own");
    api.delete(&format!("/v1/files/{}", id(&file))).await;
    api.events(id(&session), json!([script("cat /mnt/session/uploads/*; echo made > /mnt/session/outputs/o")])).await;
    let events = turn(api, &session).await;
    assert!(text(first(&events, "agent.tool_result")).contains("keptkept"));
    assert_eq!(api.get(&format!("/v1/sessions/{}", id(&session))).await["resources"], session["resources"]);
    let files = files_of(api, id(&session), 3).await;
    api.call(&format!("/v1/sessions/{}/archive", id(&session))).await;
    assert_eq!(files_of(api, id(&session), 3).await, files);
    let usage = bytes_of_files(&rota).await;
    assert_eq!(usage, 4 + 5, "shared bytes count once");
    api.delete(&format!("/v1/sessions/{}", id(&session))).await;
    for file in files {
        assert_eq!(api.get_refused(&format!("/v1/files/{}", id(&file))).await.status, 404);
    }
    assert_eq!(bytes_of_files(&rota).await, 0);
}

async fn bytes_of_files(rota: &Rota) -> i64 {
    let read = |tx: &mut rota_server::db::Tx<'_>| {
        tx.one("SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM file_usage", &[], |row| row.int(0))
    };
    rota.server.app().db.read(read).await.unwrap().unwrap_or(0)
}

#[tokio::test]
async fn resources_of_a_session_are_added_listed_and_deleted_and_the_agent_sees_it_at_its_next_call() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let (first_file, second) = (upload(api, "a", b"first").await, upload(api, "b", b"second").await);
    let session = parts.session(api, json!({"resources": [resource(&first_file, &json!({"mount_path": "a"}))]})).await;
    let path = format!("/v1/sessions/{}/resources", id(&session));
    let look = script("cd /mnt/session/uploads && find . -type f | sort | xargs cat");
    let see = async || {
        api.events(id(&session), json!([look])).await;
        let events = api.stream_from(id(&session), 0).await;
        drop(events);
        let done = api.once(&format!("/v1/sessions/{}", id(&session)), |session| session["status"] == "idle").await;
        drop(done);
        let events =
            api.all(&format!("/v1/sessions/{}/events?types=agent.tool_result&order=desc", id(&session)), 1).await;
        text(&events[0]).trim().to_owned()
    };
    assert_eq!(see().await, "first");
    let added = api.post(&path, resource(&second, &json!({"mount_path": "/deep/er/b"}))).await;
    assert_eq!(added["mount_path"], "/mnt/session/uploads/deep/er/b");
    assert_eq!(see().await, "firstsecond");
    assert_eq!(api.get(&format!("{path}/{}", id(&added))).await, added);
    let all = api.all(&path, 1).await;
    assert_eq!(all[1], added);
    assert_eq!(api.get(&path).await, json!({ "data": all }), "no cursor on the last page");
    assert_eq!(api.get(&format!("/v1/sessions/{}", id(&session))).await["resources"], json!(all));
    let gone = api.delete(&format!("{path}/{}", id(&all[0]))).await;
    assert_eq!(gone, json!({"id": id(&all[0]), "type": "session_resource_deleted"}));
    assert_eq!(see().await, "second");

    let missing = not_found("Resource not found: memstore_x");
    assert_eq!(api.get_refused(&format!("{path}/memstore_x")).await, missing);
    assert_eq!(api.send(Method::DELETE, &format!("{path}/memstore_x"), None).await.refusal(), missing);
    let token = json!({"authorization_token": "x"});
    let refused = api.post_refused(&format!("{path}/{}", id(&added)), token).await;
    assert_eq!(refused, invalid("authorization_token: a resource of type \"file\" has none"));
    for (body, refusal) in [
        (
            json!({"type": "memory_store", "memory_store_id": "memstore_x"}),
            invalid("Failed to parse request: type: \"memory_store\" is not a valid value"),
        ),
        (
            resource(&second, &json!({"mount_path": "deep"})),
            invalid(
                "Invalid `file` resource: `mount_path` overlaps another resource: /mnt/session/uploads/deep/er/b and \
                 /mnt/session/uploads/deep; set distinct `mount_path` values",
            ),
        ),
        (resource(&second, &json!({"mount_path": "../x"})), invalid("mount_path: must not contain `..`")),
        (
            json!({"type": "file", "file_id": "nonsense"}),
            invalid("Invalid file resource: invalid file_id: \"nonsense\""),
        ),
    ] {
        assert_eq!(api.post_refused(&path, body).await, refusal);
    }
    let absent = "file_1111111111111111111111";
    let refusal =
        not_found(format!("One or more files not found. Check that each `file_id` exists and is accessible: {absent}"));
    assert_eq!(api.post_refused(&path, json!({"type": "file", "file_id": absent})).await, refusal);
    let blind =
        agent(api, json!({"tools": [over(toolset(), &json!({"configs": [{"name": "read", "enabled": false}]}))]}))
            .await;
    let blind = Parts { agent: blind, ..parts }.session(api, json!({})).await;
    let refused =
        api.post_refused(&format!("/v1/sessions/{}/resources", id(&blind)), resource(&second, &json!({}))).await;
    assert_eq!(
        refused,
        invalid(
            "Missing required tool: file resources require the read tool to be usable (enabled and not always_deny) on the \
             session's `agent_toolset`"
        )
    );
}

#[tokio::test]
async fn a_file_that_is_deleted_while_a_call_reads_it_is_read_to_its_end_and_gone_at_the_next_call() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let (gone, stays) = (upload(api, "a", b"was here").await, upload(api, "b", b"is here").await);
    let resources = [&gone, &stays].map(|file| resource(file, &json!({"mount_path": file["filename"]})));
    let reads = "exec 3< /mnt/session/uploads/a; touch started; while [ ! -e go ]; do sleep 0.05; done; cat <&3";
    let changes = json!({"resources": resources, "initial_events": [script(reads)]});
    let session = Parts::new(api).await.session(api, changes).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    // The upload and the session's copy of it, so that the bytes go too.
    for file in [id(&gone), session["resources"][0]["file_id"].as_str().unwrap()] {
        api.delete(&format!("/v1/files/{file}")).await;
    }
    rota.advance_seconds(3601);
    sweep(&rota).await;
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    let mut stream = api.stream_from(id(&session), 0).await;
    assert_eq!(text(first(&stream.turn().await, "agent.tool_result")), "was here");
    api.events(id(&session), json!([script("ls /mnt/session/uploads")])).await;
    assert_eq!(text(first(&stream.turn().await, "agent.tool_result")).trim(), "b");
}

#[tokio::test]
async fn a_deployment_whose_file_is_gone_or_has_expired_records_file_not_found_error() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let parts_of = |body: &[u8]| form(&[("expires_in_seconds", None, b"3600"), ("file", Some("a"), body)]);
    let short = api.answer(sending(api, parts_of(b"x"))).await.success();
    let long = upload(api, "b", b"y").await;
    let deploy = async |file: &Value| {
        let schedule = json!({"type": "cron", "expression": "0 * * * *", "timezone": "UTC"});
        parts.deployment(api, json!({"resources": [resource(file, &json!({}))], "schedule": schedule})).await
    };
    let (expiring, deleting) = (deploy(&short).await, deploy(&long).await);
    let run = async |deployment: &Value| api.call(&format!("/v1/deployments/{}/run", id(deployment))).await;
    assert_eq!(run(&expiring).await["error"], Value::Null);
    rota.advance_seconds(3600);
    let refused = not_found(format!(
        "One or more files not found. Check that each `file_id` exists and is accessible: {}",
        id(&short)
    ));
    let body = parts.session_body(&json!({"resources": [resource(&short, &json!({}))]}));
    assert_eq!(api.post_refused("/v1/sessions", body).await, refused);
    let answer = download(api, id(&short)).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        (&body["error"]["details"]["error_code"], &body["error"]["message"]),
        (&json!("file_expired"), &json!(format!("File `{}` has expired.", id(&short))))
    );
    api.delete(&format!("/v1/files/{}", id(&long))).await;
    for deployment in [&expiring, &deleting] {
        let failed = run(deployment).await;
        assert_eq!((&failed["error"]["type"], &failed["session_id"]), (&json!("file_not_found_error"), &Value::Null));
        let standing = api.get(&format!("/v1/deployments/{}", id(deployment))).await;
        assert_eq!(standing["status"], "active", "a run by hand pauses nothing");
    }
    rota.tick().await;
    for deployment in [&expiring, &deleting] {
        let standing = api.get(&format!("/v1/deployments/{}", id(deployment))).await;
        assert_eq!(standing["status"], "paused");
        assert_eq!(standing["paused_reason"]["error"]["type"], "file_not_found_error", "{standing}");
    }
}

#[tokio::test]
async fn an_output_is_taken_in_again_when_it_changes_and_links_are_left_out() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let first_turn =
        "cd /mnt/session/outputs && mkdir d && echo one > d/a.txt && ln -s /etc/passwd link && mkfifo fifo";
    let session = Parts::new(api).await.session_with(api, script(first_turn)).await;
    turn(api, &session).await;
    let files = files_of(api, id(&session), 1).await;
    assert_eq!(files[0]["filename"], "a.txt");
    assert_eq!(download(api, id(&files[0])).await.text().await.unwrap(), "one\n");
    let shown = format!("/rota/v1/sessions/{}", id(&session));
    let left_out = |shown: &Value| {
        let of = |warning: &&Value| warning["code"] == "outputs_left_out";
        let warning = shown["warnings"].as_array().unwrap().iter().find(of);
        warning.map_or(String::new(), |warning| warning["message"].as_str().unwrap().to_owned())
    };
    let shown = api.once(&shown, |shown| !left_out(shown).is_empty()).await;
    assert!(left_out(&shown).contains("link: ") && left_out(&shown).contains("fifo: "), "{shown}");
    api.events(id(&session), json!([script("cd /mnt/session/outputs && echo another > d/a.txt && touch empty")])).await;
    files_of(api, id(&session), 2).await;
    let path = format!("/v1/files/{}", id(&files[0]));
    api.once(&path, |file| file["size_bytes"] == 8).await;
    assert_eq!(download(api, id(&files[0])).await.text().await.unwrap(), "another\n", "under the same id");
    let rota = rota.restart().await;
    assert_eq!(download(&rota.api, id(&files[0])).await.text().await.unwrap(), "another\n", "without a sandbox");
}

#[tokio::test]
async fn outputs_of_a_session_that_came_to_rest_before_the_server_died_are_taken_in_after_it() {
    let rota = Rota::start().await;
    let session = Parts::new(&rota.api).await.session_with(&rota.api, script("echo x > /mnt/session/outputs/a")).await;
    turn(&rota.api, &session).await;
    let session_id = id(&session).to_owned();
    files_of(&rota.api, &session_id, 1).await;
    // As if it had died in between: the row says so, and the file is not there.
    let of = session_id.clone();
    rota.server
        .app()
        .db
        .write(move |tx| {
            let node = "SELECT id, workspace_id, home, 1, 0, 0 FROM sessions WHERE id = $1";
            let of = rota_server::db::Val::Text(&of);
            tx.execute("DELETE FROM files WHERE session_id = $1", &[of])?;
            // The row of the rest may still be there, about to go.
            let again = "ON CONFLICT (session_id) DO UPDATE SET rests = session_outputs_due.rests + 1";
            tx.execute(&format!("INSERT INTO session_outputs_due {node} {again}"), &[of])
        })
        .await
        .unwrap();
    let rota = rota.restart().await;
    files_of(&rota.api, &session_id, 1).await;
}

#[tokio::test]
async fn bytes_that_no_file_names_are_deleted_after_an_hour_and_no_others() {
    let rota = Rota::without_engine().await;
    let blobs = || {
        let folder = rota_data(&rota).join("blobs");
        let folders = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).count()
    };
    let (gone, kept) = (upload(&rota.api, "a", b"gone").await, upload(&rota.api, "b", b"kept").await);
    assert_eq!(blobs(), 2);
    let session = json!({"resources": [resource(&kept, &json!({}))]});
    Parts::new(&rota.api).await.session(&rota.api, session).await;
    for file in [&gone, &kept] {
        rota.api.delete(&format!("/v1/files/{}", id(file))).await;
    }
    sweep(&rota).await;
    assert_eq!(blobs(), 2, "within the hour nothing goes");
    rota.advance_seconds(3601);
    sweep(&rota).await;
    assert_eq!(blobs(), 1, "the session's copy names the other");
}

fn rota_data(rota: &Rota) -> std::path::PathBuf {
    rota.server.app().config.data.clone()
}

async fn sweep(rota: &Rota) {
    rota_server::sweep::blobs_once(rota.server.app()).await.unwrap();
}

#[tokio::test]
async fn a_workspace_keeps_no_more_bytes_than_it_may() {
    let rota = Rota::with(|config| {
        config.engine.concurrency = 0;
        config.blobs.workspace_mib = 1;
    })
    .await;
    let api = &rota.api;
    let half = vec![b'x'; 512 * 1024];
    let first_half = upload(api, "a", &half).await;
    upload(api, "b", &half).await;
    let answer = api.answer(sending(api, form(&[("file", Some("c"), b"x")]))).await;
    assert_eq!(answer.body["error"]["details"]["error_code"], "storage_quota_exceeded");
    assert_eq!(
        answer.refusal(),
        invalid(
            "the files of the workspace would have more than 1 MB, which is its limit; delete some, also those of sessions"
        )
    );
    api.delete(&format!("/v1/files/{}", id(&first_half))).await;
    upload(api, "c", b"x").await;
    upload(&rota.other_workspace().await, "d", &half).await;
}

#[tokio::test]
async fn outputs_that_the_workspace_has_no_room_for_are_told_of_until_they_are_taken_in() {
    let rota = Rota::with(|config| config.blobs.workspace_mib = 1).await;
    let api = &rota.api;
    let full = upload(api, "full", &vec![b'x'; 1024 * 1024 - 1]).await;
    let session = Parts::new(api).await.session_with(api, script("echo report > /mnt/session/outputs/r.txt")).await;
    let path = format!("/rota/v1/sessions/{}", id(&session));
    let of = |shown: &Value, code: &str| shown["warnings"].as_array().unwrap().iter().any(|w| w["code"] == code);
    let shown = api.once(&path, |shown| of(shown, "outputs_left_out")).await;
    assert!(
        shown["warnings"].to_string().contains("r.txt: the files of the workspace would have more than 1 MB"),
        "{shown}"
    );
    api.delete(&format!("/v1/files/{}", id(&full))).await;
    api.events(id(&session), json!([message("again")])).await;
    files_of(api, id(&session), 1).await;
    api.once(&path, |shown| !of(shown, "outputs_left_out")).await;
}

/// A body with one file of so many bytes, which is never in memory.
pub fn large(bytes: usize) -> Body {
    const PIECE: usize = 1 << 20;
    let (head, tail) = {
        let whole = form(&[("file", Some("large"), b"#")]);
        let at = whole.iter().position(|byte| *byte == b'#').unwrap();
        (whole[..at].to_vec(), whole[at + 1..].to_vec())
    };
    let pieces = (0..bytes.div_ceil(PIECE)).map(move |i| vec![b'x'; PIECE.min(bytes - i * PIECE)]);
    let all = std::iter::once(head).chain(pieces).chain(std::iter::once(tail)).map(Ok::<_, std::io::Error>);
    Body::wrap_stream(futures_util::stream::iter(all))
}

#[tokio::test]
async fn a_place_of_blobs_that_is_down_is_said_and_leaves_nothing_half() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let file = upload(api, "a", b"content").await;
    let session =
        Parts::new(api).await.session(api, json!({"resources": [resource(&file, &json!({"mount_path": "a"}))]})).await;
    let folder = rota_data(&rota).join("blobs");
    std::fs::rename(&folder, folder.with_extension("away")).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let refused = refused(api, &[("file", Some("b"), b"x")]).await;
    let message = "the place where files are kept does not answer, or has no room; try again";
    assert_eq!((refused.status, &*refused.kind, &*refused.message), (529, "overloaded_error", message));
    assert_eq!(api.get("/v1/files").await["data"].as_array().unwrap().len(), 1);
    api.events(id(&session), json!([script("cat /mnt/session/uploads/a")])).await;
    let path = format!("/v1/sessions/{}/events?types=session.error", id(&session));
    let error = api.once(&path, |list| !list["data"].as_array().unwrap().is_empty()).await["data"][0]["error"].clone();
    assert_eq!((&error["message"], &error["retry_status"]["type"]), (&json!(message), &json!("retrying")), "{error}");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(folder.with_extension("away"), &folder).unwrap();
    // The pause before the next try is over. While the session works its lease must not run out.
    let result = format!("/v1/sessions/{}/events?types=agent.tool_result", id(&session));
    let done = async {
        loop {
            if api.get(&format!("/v1/sessions/{}", id(&session))).await["status"] == "rescheduling" {
                rota.advance_seconds(60);
            }
            let list = api.get(&result).await;
            if let Some(event) = list["data"].as_array().unwrap().first() {
                return event.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let event = tokio::time::timeout(crate::server::PATIENCE, done).await.unwrap();
    assert!(text(&event).contains("content"), "{event}");
}

#[tokio::test]
async fn another_workspace_neither_reads_nor_mounts_a_file() {
    let rota = Rota::without_engine().await;
    let file = upload(&rota.api, "a", b"secret").await;
    let other = rota.other_workspace().await;
    assert_eq!(other.get("/v1/files").await["data"], json!([]));
    assert_eq!(other.get(&format!("/v1/files?ids={}", id(&file))).await["data"], json!([]));
    let body = Parts::new(&other).await.session_body(&json!({"resources": [resource(&file, &json!({}))]}));
    assert_eq!(other.post_refused("/v1/sessions", body).await.status, 404);
    let beta = other.http.post(format!("{}/v1/files", other.base)).header(BETA.0, BETA.1);
    assert_eq!(other.answer(beta).await.refusal().status, 401, "without a key");
}
