//! Skills: uploads, versions, both shapes; agents that name them and sessions that are given them.

use std::io::{Cursor, Read};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    client::{Api, Refusal, invalid, not_found},
    given::{Parts, agent, environment, id, over, script, toolset},
    server::Rota,
    upstream::{Reply, Upstream},
};

const SKILLS: &str = "/v1/skills";
const OLD: (&str, &str) = ("anthropic-beta", "skills-2025-10-02");

/// A part of a form: its name, the name of its file, its content.
type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

/// A `SKILL.md`.
pub fn manifest(name: &str, description: &str) -> Vec<u8> {
    format!("---\nname: {name}\ndescription: {description}\n---\n# How to\n").into_bytes()
}

pub fn form(request: RequestBuilder, parts: &[Part<'_>]) -> RequestBuilder {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend_from_slice(content);
        body.extend(b"\r\n");
    }
    body.extend(b"--edge--\r\n");
    request.header("content-type", "multipart/form-data; boundary=edge").body(body)
}

pub async fn upload(api: &Api, path: &str, parts: &[Part<'_>]) -> Value {
    api.answer(form(api.request(Method::POST, path), parts)).await.success()
}

async fn upload_refused(api: &Api, path: &str, parts: &[Part<'_>]) -> Refusal {
    let answer = api.answer(form(api.request(Method::POST, path), parts)).await;
    assert_eq!(answer.headers["x-should-retry"], "false", "{:#}", answer.body);
    answer.refusal()
}

/// A skill of this name, with a script.
pub async fn skill(api: &Api, name: &str) -> Value {
    let text = manifest(name, &format!("What {name} is for."));
    let (first, second) = (format!("{name}/SKILL.md"), format!("{name}/scripts/run.sh"));
    upload(api, SKILLS, &[("files[]", Some(&first), &text), ("files[]", Some(&second), b"echo from the skill\n")]).await
}

async fn new_version(api: &Api, skill: &Value, description: &str) -> Value {
    let name = skill["display_name"].as_str().unwrap();
    let text = manifest(name, description);
    let file = format!("{name}/SKILL.md");
    upload(api, &versions(skill), &[("files[]", Some(&file), &text)]).await
}

fn path(skill: &Value) -> String {
    format!("{SKILLS}/{}", id(skill))
}

fn versions(skill: &Value) -> String {
    format!("{}/versions", path(skill))
}

fn custom(skill: &Value, version: Option<&str>) -> Value {
    let reference = json!({"type": "custom", "skill_id": id(skill)});
    version.map_or(reference.clone(), |version| over(reference, &json!({ "version": version })))
}

#[tokio::test]
async fn a_skill_is_uploaded_read_listed_and_deleted_with_its_versions() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = skill(api, "report").await;
    let version = made["latest_version_id"].as_str().unwrap();
    assert!(id(&made).starts_with("skill_") && version.starts_with("skver_"), "{made}");
    let fields = ["type", "id", "display_name", "source", "latest_version_id", "created_at", "updated_at"];
    assert_eq!(made.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    assert_eq!((&made["display_name"], &made["source"]), (&json!("report"), &json!({"type": "custom"})));
    assert_eq!(api.get(&path(&made)).await, made);
    let first = api.get(&format!("{}/{version}", versions(&made))).await;
    let fields = ["type", "id", "skill_id", "name", "description", "created_at"];
    assert_eq!(first.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    assert_eq!((&first["name"], &first["description"]), (&json!("report"), &json!("What report is for.")));
    let text = manifest("other", "d");
    let labelled: [Part<'_>; 3] =
        [("files[]", Some("x/SKILL.md"), &text), ("display_name", None, b"Report"), ("unknown", None, b"passed over")];
    let other = upload(api, SKILLS, &labelled).await;
    let again = upload(api, SKILLS, &labelled).await;
    assert_eq!((&other["display_name"], &again["display_name"]), (&json!("Report"), &json!("Report")), "not unique");
    let all = api.all(SKILLS, 2).await;
    assert_eq!(all.iter().map(id).collect::<Vec<_>>(), [id(&again), id(&other), id(&made)], "newest first");
    assert_eq!(api.get(&format!("{SKILLS}?source=custom")).await["data"].as_array().unwrap().len(), 3);
    let prebuilt = api.get(&format!("{SKILLS}?source=anthropic")).await;
    assert_eq!(prebuilt, json!({"data": [], "next_page": null}));

    let second = new_version(api, &made, "Better.").await;
    let now = api.get(&path(&made)).await;
    assert_eq!((&now["latest_version_id"], &now["created_at"]), (&second["id"], &made["created_at"]));
    assert!(now["updated_at"].as_str() > made["updated_at"].as_str());
    assert_eq!(api.get(&format!("{}/latest", versions(&made))).await, second);
    assert_eq!(api.all(&versions(&made), 1).await, [second.clone(), first.clone()]);
    let gone = api.delete(&format!("{}/{}", versions(&made), id(&second))).await;
    assert_eq!(gone, json!({"id": id(&second), "type": "skill_version_deleted"}));
    assert_eq!(api.get(&path(&made)).await["latest_version_id"], first["id"], "the one before is the newest again");
    assert_eq!(api.delete(&path(&made)).await, json!({"id": id(&made), "type": "skill_deleted"}));
    let missing = not_found(format!("Skill not found: {}", id(&made)));
    assert_eq!(api.get_refused(&path(&made)).await, missing);
    assert_eq!(api.get_refused(&versions(&made)).await, missing);
    assert_eq!(api.send(Method::DELETE, &path(&made), None).await.refusal(), missing);
}

#[tokio::test]
async fn what_is_no_skill_is_refused_in_the_recorded_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let text = manifest("report", "d");
    let file = ("files[]", Some("report/SKILL.md"), text.as_slice());
    let long = "x".repeat(256);
    let wrong = manifest("report", &"x".repeat(1025));
    let not_resolved = "`name` and `description` must resolve from `SKILL.md` frontmatter or its fallbacks, within their \
        length limits";
    let cases: &[(&[Part<'_>], &str)] = &[
        (&[], "files[]: Field required"),
        (&[("display_name", None, b"x")], "files[]: Field required"),
        (&[("files[]", None, b"text")], "files[].0: Expected UploadFile, received: <class 'str'>"),
        (&[file, ("files[]", None, b"text")], "files[].1: Expected UploadFile, received: <class 'str'>"),
        (&[("files[]", Some("report/skill.md"), &text)], "SKILL.md not found in uploaded files"),
        (&[("files[]", Some("report/SKILL.md"), &wrong)], not_resolved),
        (&[("files[]", Some("report/SKILL.md"), b"no front matter")], not_resolved),
        (
            &[("files[]", Some("report.zip"), b"no zip")],
            r#"archive must be a readable, unencrypted zip using "DEFLATE" or "STORE" compression"#,
        ),
        (&[file, ("display_name", None, long.as_bytes())], "display_name must be at most 255 characters long"),
        (&[file, ("files[]", Some("../escape"), b"x")], "files: \"../escape\" leads out of the skill"),
        (&[file, ("files[]", Some("/etc/passwd"), b"x")], "files: \"/etc/passwd\" is an absolute path"),
    ];
    for (parts, message) in cases {
        assert_eq!(upload_refused(api, SKILLS, parts).await, invalid(*message));
    }
    let at = "x".repeat(255);
    let most = upload(api, SKILLS, &[file, ("display_name", None, at.as_bytes())]).await;
    assert_eq!(most["display_name"], json!(at));
    let other = manifest("other", "d");
    let renamed = upload_refused(api, &versions(&most), &[("files[]", Some("report/SKILL.md"), &other)]).await;
    let message = "Skill name 'other' in SKILL.md must be consistent across all versions for a given `skill_id`. Expected \
        'report'.";
    assert_eq!(renamed, invalid(message));
    let json = api.send(Method::POST, SKILLS, Some(&json!({"files": []}))).await;
    assert_eq!(json.status, 400);
    assert_eq!(api.all(SKILLS, 100).await.len(), 1, "nothing of a refused upload remains");
}

#[tokio::test]
async fn versions_are_addressed_by_their_ids_and_the_last_one_stays() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = skill(api, "report").await;
    let version = made["latest_version_id"].as_str().unwrap();
    let at = |version: &str| format!("{}/{version}", versions(&made));
    let absent = id(&made).replace("skill_", "skver_");
    for wrong in ["1759178010641129", "skillver_01", "xlsx"] {
        assert_eq!(api.get_refused(&at(wrong)).await, invalid(format!("Invalid version id: '{wrong}'")));
    }
    assert_eq!(api.get_refused(&at(&absent)).await, not_found("Skill version not found"));
    let prebuilt = invalid("Invalid skill_id format: xlsx");
    assert_eq!(api.get_refused("/v1/skills/xlsx/versions/1").await, prebuilt);
    assert_eq!(api.get_refused("/v1/skills/xlsx/versions").await, prebuilt);
    assert_eq!(api.get_refused("/v1/skills/xlsx").await, not_found("Skill not found: xlsx"));
    let named = |doing: &str| {
        invalid(format!(
            "'latest' is not accepted when {doing} a skill version. Address a specific version id: read the skill's \
             latest_version_id, or GET /v1/skills/{{skill_id}}/versions/latest, and use that id."
        ))
    };
    assert_eq!(api.send(Method::DELETE, &at("latest"), None).await.refusal(), named("deleting"));
    assert_eq!(api.get_refused(&format!("{}/content", at("latest"))).await, named("downloading"));
    let only = api.send(Method::DELETE, &at(version), None).await;
    let message = "cannot delete a Skill's only version. Delete the Skill, or create another version first";
    assert_eq!(only.refusal(), invalid(message));
    assert_eq!(only.headers["x-should-retry"], "false");
    for (query, message) in [
        ("limit=0", "limit must be between 1 and 1000"),
        ("limit=1001", "limit must be between 1 and 1000"),
        ("limit=x", "limit must be between 1 and 1000"),
        ("page=nonsense", "page is not a valid page token."),
    ] {
        assert_eq!(api.get_refused(&format!("{SKILLS}?{query}")).await, invalid(message));
        assert_eq!(api.get_refused(&format!("{}?{query}", versions(&made))).await, invalid(message));
    }
    let source = api.get_refused(&format!("{SKILLS}?source=plugin")).await;
    assert_eq!(source, invalid("source must be one of custom, anthropic"));
    api.get(&format!("{SKILLS}?limit=1000")).await;
}

#[tokio::test]
async fn a_version_is_downloaded_as_the_archive_of_its_folder() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = skill(api, "report").await;
    let content = format!("{}/{}/content", versions(&made), made["latest_version_id"].as_str().unwrap());
    let response = api.request(Method::GET, &content).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-disposition"], "attachment; filename*=utf-8''report.zip");
    let mut archive = zip::ZipArchive::new(Cursor::new(response.bytes().await.unwrap())).unwrap();
    let mut files = Vec::new();
    for at in 0..archive.len() {
        let mut file = archive.by_index(at).unwrap();
        let mut text = String::new();
        let name = file.name().unwrap().into_owned();
        file.read_to_string(&mut text).unwrap();
        files.push((name, text));
    }
    let text = String::from_utf8(manifest("report", "What report is for.")).unwrap();
    let script = ("report/scripts/run.sh".to_owned(), "echo from the skill\n".to_owned());
    assert_eq!(files, [("report/SKILL.md".to_owned(), text), script]);
}

#[tokio::test]
async fn the_old_header_has_the_old_shape_and_may_empty_a_skill() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let old = async |method: Method, path: &str, parts: Option<&[Part<'_>]>| {
        let request = api.http.request(method, format!("{}{path}", api.base));
        let request = request.header("x-api-key", &api.key).header(OLD.0, OLD.1);
        let request = parts.map_or(request.try_clone().unwrap(), |parts| form(request, parts));
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let text = manifest("report", "d");
    let parts: [Part<'_>; 2] = [("files[]", Some("report/SKILL.md"), &text), ("display_title", None, b"Report")];
    let (status, made) = old(Method::POST, SKILLS, Some(&parts)).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!((&made["display_title"], &made["source"]), (&json!("Report"), &json!("custom")));
    let number = made["latest_version"].as_str().unwrap();
    assert!(number.parse::<i64>().unwrap() > 1_700_000_000_000_000, "a time in microseconds: {number}");
    let at = |version: &str| format!("{}/versions/{version}", path(&made));
    let (_, version) = old(Method::GET, &at(number), None).await;
    assert!(id(&version).starts_with("skill_version_"), "{version}");
    assert_eq!((&version["version"], &version["directory"]), (&json!(number), &json!("report")));
    let (_, list) = old(Method::GET, SKILLS, None).await;
    assert_eq!((&list["data"][0], &list["has_more"]), (&made, &json!(false)));
    let (status, refused) = old(Method::GET, &at("skver_x"), None).await;
    let message = "Invalid version format: 'skver_x'. Version must be a numeric timestamp (e.g., '1759178010641129').";
    assert_eq!((status, &refused["error"]["message"]), (400, &json!(message)));
    let (status, refused) = old(Method::DELETE, &path(&made), None).await;
    let message = "Cannot delete skill with existing versions. Delete all versions first.";
    assert_eq!((status, &refused["error"]["message"]), (400, &json!(message)));
    // A client of the old shape refers to versions by their numbers.
    let numbered = json!({"type": "custom", "skill_id": id(&made), "version": number});
    agent(api, json!({"skills": [numbered]})).await;
    let (_, gone) = old(Method::DELETE, &at(number), None).await;
    assert_eq!(gone, json!({"id": number, "type": "skill_version_deleted"}));
    assert_eq!(old(Method::GET, &path(&made), None).await.1["latest_version"], Value::Null);
    assert_eq!(api.get_refused(&path(&made)).await.status, 404, "in the shape of today a skill has a version");
    assert_eq!(api.all(SKILLS, 10).await, Vec::<Value>::new());
    assert_eq!(old(Method::DELETE, &path(&made), None).await.0, 200);
}

#[tokio::test]
async fn skills_are_those_of_their_workspace() {
    let rota = Rota::without_engine().await;
    let made = skill(&rota.api, "report").await;
    let other = rota.other_workspace().await;
    assert_eq!(other.all(SKILLS, 10).await, Vec::<Value>::new());
    let missing = not_found(format!("Skill not found: {}", id(&made)));
    assert_eq!(other.get_refused(&path(&made)).await, missing);
    assert_eq!(other.get_refused(&versions(&made)).await, missing);
    assert_eq!(other.send(Method::DELETE, &path(&made), None).await.refusal(), missing);
    let body = json!({"name": "a", "model": "playbook", "tools": [toolset()], "skills": [custom(&made, None)]});
    let refused = other.post_refused("/v1/agents", body).await;
    assert_eq!(refused.message, format!("Agent has invalid configuration: `skill_id` `{}` not found", id(&made)));
}

#[tokio::test]
async fn an_agent_names_skills_that_are_there_when_it_is_saved() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let made = skill(api, "report").await;
    let version = made["latest_version_id"].as_str().unwrap();
    let worker = agent(api, json!({"skills": [custom(&made, None)]})).await;
    assert_eq!(worker["skills"], json!([{"type": "custom", "skill_id": id(&made), "version": "latest"}]));
    let pinned = agent(api, json!({"skills": [custom(&made, Some(version))]})).await;
    assert_eq!(pinned["skills"][0]["version"], json!(version));
    for skills in [json!([custom(&made, Some("skver_x"))]), json!([{"type": "anthropic", "skill_id": "xlsx"}])] {
        let body = json!({"name": "a", "model": "playbook", "skills": skills});
        let refused = api.post_refused("/v1/agents", body).await;
        assert!(refused.message.starts_with("Agent has invalid configuration: `skill_id` `"), "{refused:?}");
        assert!(refused.message.ends_with(" not found"), "{refused:?}");
    }
    let parts = Parts { agent: worker.clone(), environment: environment(api, "workshop").await };
    api.delete(&path(&made)).await;
    let message = format!("Agent has invalid configuration: `skill_id` `{}` not found", id(&made));
    assert_eq!(api.post_refused("/v1/sessions", parts.session_body(&json!({}))).await, invalid(&message));
    let without = json!({"agent": {"type": "agent_with_overrides", "id": id(&worker), "skills": []}});
    parts.session(api, without).await;
    let renamed = json!({"name": "still here", "version": 1});
    api.post(&format!("/v1/agents/{}", id(&worker)), renamed).await;
}

/// What a session's calls returned, once it is at rest.
async fn results(api: &Api, session: &Value) -> Vec<String> {
    api.once(&format!("/v1/sessions/{}", id(session)), |session| session["status"] == "idle").await;
    let events = api.all(&format!("/v1/sessions/{}/events", id(session)), 100).await;
    let results = events.iter().filter(|event| event["type"] == "agent.tool_result");
    results.map(|event| event["content"][0]["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_session_finds_its_skills_in_its_sandbox_as_they_were_when_it_began() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let made = skill(api, "report").await;
    let second = skill(api, "report").await;
    let worker = agent(api, json!({"skills": [custom(&made, None), custom(&second, None), custom(&made, None)]})).await;
    let parts = Parts { agent: worker, environment: environment(api, "workshop").await };
    let session = parts.session(api, json!({})).await;
    let waits = parts.session(api, json!({})).await;
    new_version(api, &made, "Later.").await;
    api.delete(&path(&second)).await;
    let look = script(
        "cd skills && ls && cat report/SKILL.md && sh report/scripts/run.sh && stat -c %u report report/SKILL.md",
    );
    api.events(id(&session), json!([look])).await;
    let said = results(api, &session).await;
    let text = String::from_utf8(manifest("report", "What report is for.")).unwrap();
    assert_eq!(said, [format!("report\nreport-2\n{text}from the skill\n0\n0\n")]);
    api.events(id(&session), json!([script("rm -r report; ls")])).await;
    let session = api.get(&format!("/v1/sessions/{}", id(&session))).await;
    assert_eq!(results(api, &session).await[1], "report-2\n", "what the agent makes of them is its own affair");
    api.events(id(&waits), json!([script("ls skills")])).await;
    assert_eq!(results(api, &waits).await, ["report\nreport-2\n"], "deleted since, and here all the same");
}

#[tokio::test]
async fn the_model_is_told_which_skills_there_are() {
    let upstream = Upstream::start([Reply::Message(vec![json!({"type": "text", "text": "done"})])]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let made = skill(api, "report").await;
    let worker = agent(api, json!({"model": "house", "system": "Be brief.", "skills": [custom(&made, None)]})).await;
    let parts = Parts { agent: worker, environment: environment(api, "workshop").await };
    let session = parts.session_with(api, crate::given::message("hello")).await;
    api.once(&format!("/v1/sessions/{}", id(&session)), |session| session["status"] == "idle").await;
    let system = upstream.asked()[0]["system"].to_string();
    for part in [
        "Be brief.",
        "Skills usage policy",
        "<available_skills>\\n<skill>\\n<name>report</name>\\n<description>What report is for.</description>",
    ] {
        assert!(system.contains(part), "{system}");
    }
}
