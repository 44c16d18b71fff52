//! Repositories of sessions and deployments: what is refused, how they are cloned, and what becomes of one that cannot be.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use rota_server::config::Config;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::{Api, invalid, not_found},
    git_server::{GitServer, Manner, TOKEN},
    given::{Parts, agent, environment, id, message, over, script},
    process::{Client, Server, create_key},
    receiver::CERTIFICATE,
    server::{PATIENCE, Rota},
    stream::{first, stop_reason, text},
    upstream::{Reply, Upstream},
};

const SESSIONS: &str = "/v1/sessions";
const DEPLOYMENTS: &str = "/v1/deployments";

/// A resource of the type `github_repository`.
pub fn repository(url: &str, changes: &Value) -> Value {
    over(json!({"type": "github_repository", "url": url, "authorization_token": TOKEN}), changes)
}

/// Has the sessions of a server mount what `host` has.
pub fn allow(host: &GitServer, config: &mut Config) {
    config.git.hosts = vec!["github.com".to_owned(), host.host.clone()];
    config.git.allow_private = true;
    config.git.authorities = Some(CERTIFICATE.into());
}

async fn rota(host: &GitServer) -> Rota {
    Rota::with(|config| allow(host, config)).await
}

/// A session with these repositories that runs `command` first.
async fn session(api: &Api, parts: &Parts, repositories: &[Value], command: &str) -> Value {
    parts.session(api, json!({"resources": repositories, "initial_events": [script(command)]})).await
}

/// The events of the first turn of a session.
async fn turn(api: &Api, session: &Value) -> Vec<Value> {
    api.stream_from(id(session), 0).await.turn().await
}

/// What the first call of the first turn said.
async fn said(api: &Api, session: &Value) -> String {
    text(first(&turn(api, session).await, "agent.tool_result")).to_owned()
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn a_repository_is_there_before_the_agent_begins() {
    let host = GitServer::start(Manner::Private).await;
    let made = host.repository("o/app", |folder| {
        std::fs::write(folder.join("README.md"), "read me\n").unwrap();
        std::fs::write(folder.join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
        std::fs::set_permissions(folder.join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    });
    made.commit("main", "second", |folder| std::fs::write(folder.join("more"), "more").unwrap());
    let rota = rota(&host).await;
    let parts = Parts::new(&rota.api).await;
    let command = "cd app && cat README.md && ./run.sh && git log --format=%s && git status --short --branch && git remote -v \
        && git rev-parse --is-shallow-repository && echo x >> README.md && git diff --stat && git commit -qam mine \
        && git log --format='%s %an' && stat -c %a README.md run.sh && id -un && stat -c %U README.md .git";
    let session = session(&rota.api, &parts, &[repository(&host.url("o/app"), &json!({}))], command).await;
    let shown = &session["resources"][0];
    assert_eq!(shown["url"], json!(host.url("o/app")));
    assert_eq!((&shown["mount_path"], &shown["checkout"]), (&json!("/workspace/app"), &Value::Null));
    assert!(shown.get("authorization_token").is_none());
    let url = host.url("o/app") + ".git";
    let expected = format!(
        "read me\nran\nsecond\n## main...origin/main\ngithub\t{url} (fetch)\ngithub\t{url} (push)\norigin\t{url} (fetch)\n\
         origin\t{url} (push)\ntrue\n README.md | 1 +\n 1 file changed, 1 insertion(+)\nmine Agent\nsecond A user\n644\n755\n\
         root\nroot\nroot"
    );
    assert_eq!(said(&rota.api, &session).await.trim(), expected);
}

#[tokio::test]
async fn what_is_no_repository_is_refused_in_recorded_words() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let of_session = |resources: Value| (SESSIONS, parts.session_body(&json!({ "resources": resources })));
    let of_deployment = |resources: Value| (DEPLOYMENTS, parts.deployment_body(&json!({ "resources": resources })));
    let good = "https://github.com/o/r";
    let with = |changes: Value| json!([repository(good, &changes)]);
    let without_token = json!([{"type": "github_repository", "url": good}]);
    let url = "Invalid `github_repository` resource: invalid github_repository url: must be https://github.com/{owner}/{repo} \
        with no .git suffix";
    let of = "validate deployment resources: invalid GitHub repository URL: repo URL must be https://github.com/{owner}/{repo}";
    let overlap = "Invalid `github_repository` resource: `mount_path` overlaps another resource: /workspace/r and \
        /workspace/r/deep; set distinct `mount_path` values";
    let twice = json!([
        repository(good, &json!({})),
        repository("https://github.com/p/x", &json!({"mount_path": "/workspace/r/deep"}))
    ]);
    let at = |field: &str, what: &str| format!("resources.0.github_repository.{field}: {what}");
    let cases = [
        (of_session(without_token.clone()), at("authorization_token", "value is required")),
        (of_session(with(json!({"authorization_token": ""}))), at("authorization_token", "value is required")),
        (
            of_session(with(json!({"authorization_token": "x".repeat(4097)}))),
            at("authorization_token", "must be at most 4096 characters"),
        ),
        (
            of_session(with(json!({"authorization_token": "a\nb"}))),
            at("authorization_token", "must not contain line breaks or other control characters"),
        ),
        (of_session(with(json!({"mount_path": "/etc"}))), at("mount_path", "must be a folder below `/workspace/`")),
        (of_session(with(json!({"mount_path": "/workspace/../x"}))), at("mount_path", "must not contain `..`")),
        (
            of_session(with(json!({"mount_path": "/workspace/skills/x"}))),
            at("mount_path", "`/workspace/skills` has the skills of the session: set another `mount_path`"),
        ),
        (
            of_session(with(json!({"checkout": {"type": "tag", "name": "x"}}))),
            "Failed to parse request: resources[0].checkout.type: \"tag\" is not a valid value".to_owned(),
        ),
        (
            of_session(with(json!({"checkout": {"type": "commit", "sha": "main"}}))),
            at("checkout.commit.sha", "must be the full id of a commit: 40 hexadecimal digits"),
        ),
        (
            of_session(with(json!({"checkout": {"type": "branch", "name": "--upload-pack=x"}}))),
            at("checkout.branch.name", "must be the name of a branch, as `git check-ref-format --branch` takes it"),
        ),
        (of_session(with(json!({"url": "https://github.com/o/r.git"}))), url.to_owned()),
        (of_session(with(json!({"url": "https://git.example/o/r"}))), url.to_owned()),
        (of_session(with(json!({"url": "https://me@github.com/o/r"}))), url.to_owned()),
        (of_session(with(json!({"url": "file:///etc/passwd"}))), url.to_owned()),
        (of_session(with(json!({"x": 1}))), "Failed to parse request body: unknown field \"x\"".to_owned()),
        (of_session(twice.clone()), overlap.to_owned()),
        (of_deployment(json!([{"type": "github_repository"}])), "resources.0.url: Field required".to_owned()),
        (of_deployment(without_token), "resources.0.authorization_token: Field required".to_owned()),
        (of_deployment(with(json!({"url": "https://github.com/o/r.git"}))), of.to_owned()),
        (of_deployment(twice), overlap.to_owned()),
    ];
    for ((path, body), message) in cases {
        assert_eq!(api.post_refused(path, body).await, invalid(message));
    }
    let most = with(json!({"authorization_token": "x".repeat(4096)}));
    parts.session(api, json!({ "resources": most })).await;
}

#[tokio::test]
async fn a_repository_is_shown_without_its_token_which_can_be_replaced() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let checkout = json!({"type": "branch", "name": "main"});
    let wanted = repository("https://github.com/o/r", &json!({"checkout": checkout, "mount_path": "/workspace//src/"}));
    let session = parts.session(api, json!({"resources": [wanted]})).await;
    let all = format!("{SESSIONS}/{}/resources", id(&session));
    let shown = api.get(&all).await["data"][0].clone();
    assert_eq!(session["resources"], json!([shown]));
    let fields = ["id", "type", "url", "mount_path", "checkout", "created_at", "updated_at"];
    assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    assert_eq!((&shown["mount_path"], &shown["checkout"]), (&json!("/workspace/src"), &checkout));
    let path = format!("{all}/{}", id(&shown));
    assert_eq!(api.get(&path).await, shown);
    let replaced = api.post(&path, json!({"authorization_token": "another"})).await;
    assert!(replaced["updated_at"].as_str() > shown["updated_at"].as_str());
    assert_eq!(over(replaced.clone(), &json!({"updated_at": shown["updated_at"]})), shown);
    assert_eq!(api.get(&path).await, replaced);
    let missing = api.post_refused(&path, json!({})).await;
    assert_eq!(missing, invalid("authorization_token: value is required"));
    let added = json!({"type": "github_repository", "url": "https://github.com/o/x", "authorization_token": "x"});
    let message = "Failed to parse request: type: \"github_repository\" is not a valid value";
    assert_eq!(api.post_refused(&all, added).await, invalid(message), "only when the session is created");
    assert_eq!(tokens(&rota, "session_repositories").await, 1);
    assert_eq!(api.delete(&path).await["type"], json!("session_resource_deleted"));
    assert_eq!(tokens(&rota, "session_repositories").await, 0);
    assert_eq!(
        api.post_refused(&path, json!({"authorization_token": "x"})).await,
        not_found(format!("Resource not found: {}", id(&shown)))
    );

    // Of a session that has ended nothing is left of its tokens.
    for end in ["archive", "delete"] {
        let session =
            parts.session(api, json!({"resources": [repository("https://github.com/o/r", &json!({}))]})).await;
        assert_eq!(tokens(&rota, "session_repositories").await, 1);
        let path = format!("{SESSIONS}/{}", id(&session));
        match end {
            "archive" => {
                api.call(&format!("{path}/archive")).await;
                let path = format!("{path}/resources/{}", id(&session["resources"][0]));
                let message = format!("Session {} is terminated and cannot be changed.", id(&session));
                assert_eq!(api.post_refused(&path, json!({"authorization_token": "x"})).await, invalid(message));
            }
            _ => drop(api.delete(&path).await),
        }
        assert_eq!(tokens(&rota, "session_repositories").await, 0, "{end}");
    }
}

/// How many tokens the store has in a table.
async fn tokens(rota: &Rota, table: &'static str) -> i64 {
    let count =
        move |tx: &mut rota_server::db::Tx<'_>| tx.one(&format!("SELECT count(*) FROM {table}"), &[], |row| row.int(0));
    rota.server.app().db.read(count).await.unwrap().unwrap()
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn a_deployment_keeps_its_tokens_and_gives_each_session_its_own() {
    let host = GitServer::start(Manner::Private).await;
    host.repository("group/sub/app", |folder| std::fs::write(folder.join("file"), "in it").unwrap());
    let rota = rota(&host).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let url = host.url("group/sub/app");
    let resources = json!([repository(&url, &json!({"mount_path": "/workspace/a"}))]);
    let changes = json!({"resources": resources, "initial_events": [script("cat a/file")]});
    let deployment = parts.deployment(api, changes).await;
    let shown = json!([{"type": "github_repository", "url": url, "mount_path": "/workspace/a"}]);
    assert_eq!(deployment["resources"], shown, "as it was sent, without its token");
    let path = format!("{DEPLOYMENTS}/{}", id(&deployment));
    for _ in 0..2 {
        let run = api.call(&format!("{path}/run")).await;
        let session = api.get(&format!("{SESSIONS}/{}", run["session_id"].as_str().unwrap())).await;
        assert_eq!(said(api, &session).await.trim(), "in it");
    }
    // Another token for the deployment: sessions that it has started keep theirs.
    let resources = json!([repository(&url, &json!({"authorization_token": "wrong"}))]);
    let renamed = api.post(&path, json!({"resources": resources})).await;
    assert_eq!(renamed["resources"], json!([{"type": "github_repository", "url": url}]));
    let run = api.call(&format!("{path}/run")).await;
    let session = api.get(&format!("{SESSIONS}/{}", run["session_id"].as_str().unwrap())).await;
    let events = turn(api, &session).await;
    assert_eq!(first(&events, "session.error")["error"]["type"], json!("repository_authentication_error"));
    assert_eq!(tokens(&rota, "session_repositories").await, 3);
    assert_eq!(tokens(&rota, "deployment_repositories").await, 1);
    api.post(&path, json!({"name": "renamed"})).await;
    assert_eq!(tokens(&rota, "deployment_repositories").await, 1, "an update without resources leaves them");

    // The operator allows that host no more.
    let rota = rota.restart_with(|config| config.git.hosts = vec!["github.com".to_owned()]).await;
    let run = rota.api.call(&format!("{path}/run")).await;
    let message = "session creation rejected: Invalid `github_repository` resource: invalid github_repository url: must be \
        https://github.com/{owner}/{repo} with no .git suffix";
    assert_eq!(run["error"], json!({"type": "session_creation_rejected_error", "message": message}));
    rota.api.call(&format!("{path}/archive")).await;
    assert_eq!(tokens(&rota, "deployment_repositories").await, 0);
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn a_branch_or_a_commit_is_checked_out() {
    let host = GitServer::start(Manner::Open).await;
    let made = host.repository("o/app", |folder| std::fs::write(folder.join("file"), "one").unwrap());
    let old = made.commit("main", "second", |folder| std::fs::write(folder.join("file"), "two").unwrap());
    made.commit("feature/x", "of a branch", |folder| std::fs::write(folder.join("file"), "three").unwrap());
    made.commit("main", "third", |folder| std::fs::write(folder.join("file"), "four").unwrap());
    host.repository("o/empty", |_| {});
    let rota = rota(&host).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let look = "cd app && cat file && git log --format=' %s' && git branch --show-current";
    let branch = json!({"type": "branch", "name": "feature/x"});
    let commit = json!({"type": "commit", "sha": old.to_uppercase()});
    for (manner, checkout, expected) in [
        (Manner::Open, Value::Null, "four third\nmain"),
        (Manner::NoCommitsById, Value::Null, "four third\nmain"),
        (Manner::Open, branch.clone(), "three of a branch\nfeature/x"),
        (Manner::Open, commit.clone(), "two second"),
        // Its branches are fetched whole.
        (Manner::NoCommitsById, commit, "two second\n first"),
    ] {
        host.answers(manner.clone());
        let wanted = repository(&host.url("o/app"), &json!({ "checkout": checkout }));
        let session = session(api, &parts, &[wanted], look).await;
        assert_eq!(said(api, &session).await.trim(), expected, "{manner:?} {checkout}");
    }
    host.answers(Manner::Open);
    // A wrong token is no hindrance where none is asked for.
    let wanted = repository(&host.url("o/empty"), &json!({"authorization_token": "wrong"}));
    let session = session(api, &parts, &[wanted], "git -C empty status --short --branch; ls empty").await;
    assert_eq!(said(api, &session).await.trim(), "## main...origin/main");
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn what_cannot_be_cloned_is_told_and_the_session_goes_on() {
    let host = GitServer::start(Manner::Open).await;
    let made = host.repository("o/app", |folder| std::fs::write(folder.join("noise"), noise(100_000)).unwrap());
    let hooks = made.tree("100755", "post-checkout", &made.blob("#!/bin/sh\ntouch /tmp/rota-was-here\n"));
    made.commit_tree("trick", &[("40000", ".git", &made.tree("40000", "hooks", &hooks))]);
    let rota = rota(&host).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let elsewhere = GitServer::start(Manner::Open).await;
    let branch = |name: &str| json!({"checkout": {"type": "branch", "name": name}});
    let unknown = "1".repeat(40);
    let cases = [
        (
            Manner::Private,
            "o/app",
            json!({"authorization_token": "wrong"}),
            "repository_authentication_error",
            "did not take",
        ),
        (Manner::Status(401), "o/app", json!({}), "repository_authentication_error", "did not take"),
        (Manner::Status(403), "o/app", json!({}), "repository_forbidden_error", "refused access"),
        (Manner::Open, "o/other", json!({}), "repository_not_found_error", "has none there"),
        (Manner::Open, "o/app", branch("other"), "repository_checkout_error", "it has no branch \"other\""),
        (
            Manner::Open,
            "o/app",
            json!({"checkout": {"type": "commit", "sha": unknown}}),
            "repository_checkout_error",
            "it has no commit 1111",
        ),
        (
            Manner::NoCommitsById,
            "o/app",
            json!({"checkout": {"type": "commit", "sha": unknown}}),
            "repository_checkout_error",
            "on any branch",
        ),
        (Manner::Status(503), "o/app", json!({}), "repository_clone_error", "answered with status 503"),
        (
            Manner::Redirect(elsewhere.url("o/app")),
            "o/app",
            json!({}),
            "repository_clone_error",
            "redirects are not followed",
        ),
        (Manner::Cut, "o/app", json!({}), "repository_clone_error", "was cut off"),
        (Manner::Open, "o/app", branch("trick"), "repository_clone_error", "that git does not check out"),
    ];
    for (manner, name, changes, kind, part) in cases {
        host.answers(manner.clone());
        let url = host.url(name);
        let session = session(api, &parts, &[repository(&url, &changes)], "ls -a /workspace").await;
        let events = turn(api, &session).await;
        let error = &first(&events, "session.error")["error"];
        assert_eq!((&error["type"], &error["repository_url"]), (&json!(kind), &json!(url)), "{manner:?} {error}");
        assert_eq!(error["retry_status"], json!({"type": "retrying"}));
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
        assert_eq!(events.iter().filter(|event| event["type"] == "session.error").count(), 1);
        let said = text(first(&events, "agent.tool_result"));
        assert!(!said.contains("app") && !said.contains("other"), "{said}");
        assert_eq!(stop_reason(&events)["type"], json!("end_turn"));
    }
    assert_eq!(elsewhere.asked(), [""; 0], "nobody follows a redirect");
    assert!(incoming(&rota).is_empty(), "nothing of them is left");
}

/// Bytes that cannot be made smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut random = crate::process::Random(7);
    (0..length).map(|_| random.below(256) as u8).collect()
}

/// What is being made for sessions.
fn incoming(rota: &Rota) -> Vec<std::path::PathBuf> {
    let folder = rota.server.app().config.data.join("sessions/.incoming");
    std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn the_bounds_of_a_clone_hold() {
    let host = GitServer::start(Manner::Open).await;
    host.repository("o/large", |folder| std::fs::write(folder.join("noise"), noise(3 << 20)).unwrap());
    host.repository("o/many", |folder| {
        for i in 0..300 {
            std::fs::write(folder.join(i.to_string()), "").unwrap();
        }
    });
    host.repository("o/small", |folder| std::fs::write(folder.join("file"), "here").unwrap());
    let rota = rota(&host).await.restart_with(|config| (config.git.max_mib, config.git.max_files) = (2, 200)).await;
    let parts = Parts::new(&rota.api).await;
    for (name, part) in [("o/large", "it has more than 2 MB"), ("o/many", "it has more than 200 files")] {
        let session = session(&rota.api, &parts, &[repository(&host.url(name), &json!({}))], "ls").await;
        let events = turn(&rota.api, &session).await;
        let error = &first(&events, "session.error")["error"];
        assert_eq!(error["type"], json!("repository_clone_error"));
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
    host.answers(Manner::Hang);
    let rota = rota.restart_with(|config| config.git.timeout_seconds = 2).await;
    let both = [repository(&host.url("o/large"), &json!({})), repository(&host.url("o/small"), &json!({}))];
    let session = session(&rota.api, &parts, &both, "echo went on").await;
    let events = turn(&rota.api, &session).await;
    let errors: Vec<_> = events.iter().filter(|event| event["type"] == "session.error").collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for error in errors {
        assert!(error["error"]["message"].as_str().unwrap().contains("not there within 2 seconds"), "{error}");
    }
    assert_eq!(text(first(&events, "agent.tool_result")).trim(), "went on");
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn links_and_odd_names_stay_what_they_are() {
    let host = GitServer::start(Manner::Open).await;
    let made = host.repository("o/app", |folder| {
        use std::os::unix::ffi::OsStrExt;
        let odd = std::ffi::OsStr::from_bytes(b"odd-\xff\xfe");
        std::fs::write(folder.join(odd), "odd").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../outside", folder.join("above")).unwrap();
        std::fs::create_dir_all(folder.join(".claude")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.join(".claude/skills")).unwrap();
    });
    drop(made);
    let rota = rota(&host).await;
    let parts = Parts::new(&rota.api).await;
    let look = "cd app && readlink absolute above .claude/skills && cat odd-* && git status --short && id -u && stat -c %u absolute";
    let session = session(&rota.api, &parts, &[repository(&host.url("o/app"), &json!({}))], look).await;
    assert_eq!(said(&rota.api, &session).await.trim(), "/etc/passwd\n../../../outside\n/etc\nodd0\n0");
    let outside = rota.workspace_file(id(&session), "app/above");
    assert!(!outside.exists() && std::fs::symlink_metadata(outside).unwrap().is_symlink());
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn the_model_is_told_of_repositories_and_of_their_skills() {
    let host = GitServer::start(Manner::Open).await;
    host.repository("o/app", |folder| {
        for (name, text) in [
            ("report", "---\nname: report\ndescription: Writes reports.\n---\n"),
            ("broken", "---\nname: [\n---\n"),
            ("Loud", "---\ndescription: Its name is no name.\n---\n"),
            ("silent", "# Nothing is said of it.\n"),
        ] {
            std::fs::create_dir_all(folder.join(format!(".claude/skills/{name}"))).unwrap();
            std::fs::write(folder.join(format!(".claude/skills/{name}/SKILL.md")), text).unwrap();
        }
        for i in 0..60 {
            std::fs::create_dir_all(folder.join(format!(".claude/skills/x{i}"))).unwrap();
            std::fs::write(
                folder.join(format!(".claude/skills/x{i}/SKILL.md")),
                "---\ndescription: One of many.\n---\n",
            )
            .unwrap();
        }
        std::fs::create_dir_all(folder.join(".claude/skills/none")).unwrap();
        std::fs::write(folder.join(".claude/skills/none/other"), "").unwrap();
    });
    let done = || Reply::Message(vec![json!({"type": "text", "text": "done"})]);
    let upstream = Upstream::start([done(), done()]).await;
    let rota = Rota::with(|config| {
        config.git.hosts = vec![host.host.clone()];
        config.git.allow_private = true;
        config.git.authorities = Some(CERTIFICATE.into());
        config.models = vec![upstream.model()];
    })
    .await;
    let api = &rota.api;
    let parts = Parts {
        agent: agent(api, json!({"model": "house", "system": "Be brief."})).await,
        environment: environment(api, "workshop").await,
    };
    let branch = json!({"checkout": {"type": "branch", "name": "main"}});
    let wanted = json!([repository(&host.url("o/app"), &branch), repository(&host.url("o/gone"), &json!({}))]);
    let session = parts.session(api, json!({"resources": wanted, "initial_events": [message("hi")]})).await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.turn().await;
    let system = upstream.asked()[0]["system"].to_string();
    let (app, gone) = (host.url("o/app"), host.url("o/gone"));
    assert!(system.contains(&format!(" - {app} (branch main) → /workspace/app/")), "{system}");
    assert!(
        system.contains(&format!(" - {gone} is not there: it could not be cloned, because its host has none there")),
        "{system}"
    );
    assert!(system.contains("<name>report</name>") && system.contains("Writes reports."), "{system}");
    assert!(system.contains("<location>/workspace/app/.claude/skills/report/SKILL.md</location>"), "{system}");
    assert_eq!(system.matches("<skill>").count(), 50, "{system}");
    let warnings = api.get(&format!("/rota/v1/sessions/{}", id(&session))).await["warnings"].clone();
    let skipped = warnings.as_array().unwrap().iter().find(|warning| warning["code"] == "repository_skills_skipped");
    let told = skipped.unwrap()["message"].as_str().unwrap();
    for part in [
        "/workspace/app/.claude/skills/broken/SKILL.md: its front matter is not YAML",
        "/workspace/app/.claude/skills/Loud/SKILL.md: its `name` is not of",
        "/workspace/app/.claude/skills/silent/SKILL.md: its front matter needs a `description`",
        "/workspace/app/.claude/skills/none/SKILL.md: there is none",
        "/workspace/app/.claude/skills: 11 further ones; a repository has at most 50 skills",
    ] {
        assert!(told.contains(part), "{told}");
    }
    // Taken from the session, it takes its skills with it.
    api.delete(&format!("{SESSIONS}/{}/resources/{}", id(&session), id(&session["resources"][0]))).await;
    api.events(id(&session), json!([message("again")])).await;
    stream.turn().await;
    let system = upstream.asked()[1]["system"].to_string();
    assert!(!system.contains(&app) && !system.contains("<skill>"), "{system}");
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn the_next_turn_tries_again_with_the_token_of_now() {
    let host = GitServer::start(Manner::Private).await;
    host.repository("o/app", |folder| std::fs::write(folder.join("file"), "here").unwrap());
    host.repository("o/mine", |_| {});
    let rota = rota(&host).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let wrong = json!({"authorization_token": "wrong"});
    let wanted = [repository(&host.url("o/app"), &wrong), repository(&host.url("o/mine"), &wrong)];
    let session = session(api, &parts, &wanted, "mkdir mine && ls").await;
    let mut stream = api.stream_from(id(&session), 0).await;
    let events = stream.turn().await;
    assert_eq!(events.iter().filter(|event| event["type"] == "session.error").count(), 2);
    for resource in session["resources"].as_array().unwrap() {
        let path = format!("{SESSIONS}/{}/resources/{}", id(&session), id(resource));
        api.post(&path, json!({"authorization_token": TOKEN})).await;
    }
    api.events(id(&session), json!([script("cat app/file && rm app/file"), script("ls -a app mine")])).await;
    let events = stream.turn().await;
    let error = &first(&events, "session.error")["error"];
    assert!(error["message"].as_str().unwrap().contains("something else is at /workspace/mine already"), "{error}");
    assert_eq!(events.iter().filter(|event| event["type"] == "session.error").count(), 1);
    assert_eq!(text(first(&events, "agent.tool_result")).trim(), "here");
    // What is there is the agent's: nobody clones it again.
    let asked = host.asked().iter().filter(|line| line.contains("o/app")).count();
    api.events(id(&session), json!([script("ls app")])).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.tool_result")).trim(), "(no output)");
    let error = &first(&events, "session.error")["error"];
    assert!(error["message"].as_str().unwrap().contains("something else is at /workspace/mine"), "{error}");
    assert_eq!(host.asked().iter().filter(|line| line.contains("o/app")).count(), asked);
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn a_clone_that_was_put_in_its_place_before_the_server_died_is_taken_for_it() {
    let host = GitServer::start(Manner::Open).await;
    host.repository("o/app", |folder| std::fs::write(folder.join("file"), "here").unwrap());
    let rota = rota(&host).await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let session = session(api, &parts, &[repository(&host.url("o/app"), &json!({}))], "echo mine > app/file").await;
    let mut stream = api.stream_from(id(&session), 0).await;
    stream.turn().await;
    // As it was in the moment between.
    let forget = |tx: &mut rota_server::db::Tx<'_>| tx.execute("UPDATE session_repositories SET placed_on = NULL", &[]);
    assert_eq!(rota.server.app().db.write(forget).await.unwrap(), 1);
    api.events(id(&session), json!([script("cat app/file")])).await;
    let events = stream.turn().await;
    assert_eq!(text(first(&events, "agent.tool_result")).trim(), "mine");
    assert!(events.iter().all(|event| event["type"] != "session.error"), "{events:?}");
    let placed = |tx: &mut rota_server::db::Tx<'_>| {
        tx.one("SELECT placed_on FROM session_repositories", &[], |row| row.opt_text(0))
    };
    assert_eq!(rota.server.app().db.read(placed).await.unwrap().flatten().as_deref(), Some(&*rota.server.app().node));
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn an_interrupt_ends_a_clone_and_nobody_else_waits_for_it() {
    let host = GitServer::start(Manner::Hang).await;
    host.repository("o/app", |_| {});
    let rota = Rota::with(|config| {
        config.git.hosts = vec![host.host.clone()];
        config.git.allow_private = true;
        config.git.authorities = Some(CERTIFICATE.into());
        config.engine.concurrency = 1;
    })
    .await;
    let api = &rota.api;
    let parts = Parts::new(api).await;
    let cloning = session(api, &parts, &[repository(&host.url("o/app"), &json!({}))], "ls").await;
    asked_for_a_pack(&host).await;
    let other = session(api, &parts, &[], "echo other").await;
    assert_eq!(said(api, &other).await.trim(), "other", "the place of the one session at work is free meanwhile");
    let path = format!("{SESSIONS}/{}", id(&cloning));
    let busy = api.send(Method::DELETE, &path, None).await.refusal();
    assert!(busy.message.contains("Send an interrupt event"), "{busy:?}");
    api.events(id(&cloning), json!([{"type": "user.interrupt"}])).await;
    api.once(&path, |session| session["status"] == "idle").await;
    let ended = async {
        while !incoming(&rota).is_empty() || git_runs_in(rota.server.app().config.data.to_str().unwrap()) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the clone is still there");
    api.delete(&path).await;
    assert_eq!(tokens(&rota, "session_repositories").await, 0);
}

async fn asked_for_a_pack(host: &GitServer) {
    let asking = async {
        while host.asked().iter().filter(|line| line.starts_with("POST ")).count() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, asking).await.expect("nobody asks for a pack");
}

/// Whether a process `git` works in a folder of a server's.
fn git_runs_in(data: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let works_there = |process: std::path::PathBuf| {
        std::fs::read_link(process.join("cwd"))
            .is_ok_and(|folder| folder.to_str().is_some_and(|folder| folder.starts_with(data)))
            && std::fs::read(process.join("cmdline")).is_ok_and(|line| line.windows(3).any(|three| three == b"git"))
    };
    processes.into_iter().any(works_there)
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn a_kill_in_the_middle_of_a_clone_leaves_nothing_and_the_token_is_nowhere() {
    let host = GitServer::start(Manner::Private).await;
    host.repository("o/app", |folder| std::fs::write(folder.join("file"), "here").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("rota.toml");
    std::fs::write(&config, format!("[git]\nhosts = [\"{}\"]\nallow_private = true\n", host.host)).unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let mut server = Server::new(&data, &["--config", config.to_str().unwrap()]);
    server.authorities = Some(CERTIFICATE.into());
    server.log = Some(folder.path().join("log"));
    let key = create_key(&data, &[]);
    server.start().await;
    let client = Client::new(server.address, key);
    let agent =
        client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": [crate::given::toolset()]})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    host.answers(Manner::Hang);
    let wanted = repository(&host.url("o/app"), &json!({}));
    let body = json!({"agent": id(&agent), "environment_id": id(&environment), "resources": [wanted],
        "initial_events": [script("cat app/file; env; cat /proc/*/environ; grep -r . app/.git/config")]});
    let session = client.post(SESSIONS, &body).await;
    asked_for_a_pack(&host).await;
    let mut seen = command_lines();
    assert!(seen.contains("fetch"), "the clone is under way");
    server.kill();
    let ended = async {
        while git_runs_in(data.to_str().unwrap()) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("git ends with its server");
    seen += &std::fs::read_to_string(folder.path().join("log")).unwrap();
    host.answers(Manner::Private);
    server.start().await;
    let events = format!("{SESSIONS}/{}/events", id(&session));
    let resting = async {
        loop {
            let list = client.list(&format!("{events}?limit=100")).await;
            if list.iter().any(|event| event["type"] == "session.status_idle") {
                return list;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let list = timeout(PATIENCE, resting).await.expect("it does not come to rest");
    let said = list.iter().find(|event| event["type"] == "agent.tool_result").unwrap().to_string();
    assert!(said.contains("here") && said.contains("[remote"), "{said}");
    assert!(list.iter().all(|event| event["type"] != "session.error"), "{list:?}");
    seen += &Value::from(list).to_string();
    seen += &client.get(&format!("{SESSIONS}/{}", id(&session))).await.to_string();
    seen += &std::fs::read_to_string(folder.path().join("log")).unwrap();
    let coded = STANDARD.encode(format!("x-access-token:{TOKEN}"));
    let in_files =
        files(&data).into_iter().map(|file| (file.display().to_string(), std::fs::read(&file).unwrap_or_default()));
    for (place, bytes) in in_files.chain([("what was said".to_owned(), seen.into_bytes())]) {
        for form in [TOKEN.to_owned(), STANDARD.encode(TOKEN), coded.clone()] {
            assert!(!bytes.windows(form.len()).any(|window| window == form.as_bytes()), "the token is in {place}");
        }
    }
    assert!(std::fs::read_dir(data.join("sessions/.incoming")).unwrap().next().is_none(), "what was begun is gone");
}

/// The command lines of all processes.
fn command_lines() -> String {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("cmdline")));
    processes
        .filter_map(|line| std::fs::read(line).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .collect()
}

/// Every file below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.flat_map(|path| if path.is_dir() && !path.is_symlink() { files(&path) } else { vec![path] }).collect()
}
