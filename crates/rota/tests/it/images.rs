//! Images: pulled from a registry and imported from archives, used by environments, and removed.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::{Api, invalid},
    given::{Parts, id, script},
    image_files::{Image, digest, gzip, layer},
    server::{Rota, appears},
    static_host::StaticHost,
    stream::{first, text},
};

pub async fn rota(arguments: &[&str], data: &Path) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    command.arg("images").args(arguments).arg("--data").arg(data).env_remove("ROTA_CONFIG");
    command.output().await.unwrap()
}

async fn done(arguments: &[&str], rota_server: &Rota) -> String {
    let output = command(arguments, rota_server).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

async fn refused(arguments: &[&str], rota_server: &Rota, because: &str) {
    let output = command(arguments, rota_server).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(because), "{arguments:?}: {said}");
}

/// With the database of the server, where it has one.
async fn command(arguments: &[&str], rota_server: &Rota) -> Output {
    let data = &rota_server.server.app().config.data;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    command.arg("images").args(arguments).arg("--data").arg(data).env_remove("ROTA_CONFIG").env_remove("ROTA_DATABASE");
    if let Some(database) = rota_server.database() {
        command.env("ROTA_DATABASE", database.url().0);
    }
    command.output().await.unwrap()
}

/// Gives an environment an image.
pub async fn give(api: &Api, environment: &Value, image: &str) -> Value {
    api.post(&format!("/rota/v1/environments/{}/image", id(environment)), json!({ "image": image })).await
}

/// What a session of `parts` says to a script.
pub async fn answer(api: &Api, parts: &Parts, command: &str) -> (Value, String) {
    let session = parts.session_with(api, script(command)).await;
    let turn = api.stream_from(id(&session), 0).await.turn().await;
    let said = text(first(&turn, "agent.tool_result")).to_owned();
    (session, said)
}

/// The error of the turn that a message begins in a session at rest.
pub async fn error_of(api: &Api, session: &Value, message: Value) -> String {
    // The log is numbered without gaps.
    let before = api.all(&format!("/v1/sessions/{}/events", id(session)), 100).await.len();
    api.events(id(session), json!([message])).await;
    let turn = api.stream_from(id(session), before as i64).await.turn().await;
    first(&turn, "session.error")["error"]["message"].as_str().unwrap().to_owned()
}

/// Imports an image into the data folder of a server that may not have begun yet.
pub async fn import(image: &Image, name: &str, data: &Path) {
    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("image.tar");
    image.save(&archive);
    let output = rota(&["import", archive.to_str().unwrap(), "--as", name], data).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn an_image_is_pulled_used_by_two_environments_and_removed() {
    let (server, registry) = (Rota::start().await, StaticHost::start().await);
    let api = &server.api;
    let image = Image::with(&[("etc/added", 0o644, "added\n")]);
    image.publish(&registry, "tools/shell", "1");
    registry.protect("a-token");
    let reference = format!("{}/tools/shell:1", registry.address);
    assert_eq!(api.get("/rota/v1/images").await, json!({"data": []}));
    let (by_default, as_other) = (["pull", &reference], ["pull", &reference, "--as", "other"]);
    let both = tokio::join!(done(&by_default, &server), done(&as_other, &server));
    assert!(both.0.starts_with("The image shell-1 ") && both.1.starts_with("The image other "), "{both:?}");
    let images = api.get("/rota/v1/images").await["data"].as_array().unwrap().clone();
    let names: Vec<&str> = images.iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["other", "shell-1"]);
    assert!(images.iter().all(|found| found["digest"] == digest(&image.manifest)), "{images:?}");
    assert!(done(&["list"], &server).await.contains(&format!("shell-1  {}", digest(&image.manifest))));

    let one = Parts::new(api).await;
    let two =
        Parts { agent: one.agent.clone(), environment: api.post("/v1/environments", json!({"name": "two"})).await };
    let place = format!("/rota/v1/environments/{}/image", id(&one.environment));
    let unknown = api.post_refused(&place, json!({"image": "unknown"})).await;
    assert!(
        unknown.message.starts_with("image: there is no image \"unknown\"")
            && unknown.message.contains("rota images pull")
    );
    let wrong = "image: \"../x\" is no name of an image: 1 to 64 small letters, digits, `.`, `_` and `-`, not a dot or dash first";
    assert_eq!(api.post_refused(&place, json!({"image": "../x"})).await, invalid(wrong));
    for parts in [&one, &two] {
        assert_eq!(give(api, &parts.environment, "shell-1").await["image"], "shell-1");
        let (_, said) =
            answer(api, parts, "echo $FROM_IMAGE; cat /etc/note /etc/added; ls /bin/mv; echo own > /etc/note").await;
        assert!(said.starts_with("yes\noriginal\nadded\n") && said.contains("No such file"), "{said}");
    }
    assert_eq!(api.get(&place).await["image"], "shell-1");
    done(&["remove", "other"], &server).await;
    refused(&["remove", "shell-1"], &server, "that of 2 environments and 2 sessions").await;
    refused(&["remove", "shell-1", "--force"], &server, "a sandbox runs on the image").await;
    for session in api.all("/v1/sessions", 100).await {
        api.delete(&format!("/v1/sessions/{}", id(&session))).await;
        server.server.app().sandboxes.remove(id(&session)).await;
    }
    for parts in [&one, &two] {
        api.post(&format!("/rota/v1/environments/{}/image", id(&parts.environment)), json!({"image": null})).await;
    }
    assert!(done(&["remove", "shell-1"], &server).await.contains("is removed"));
    refused(&["remove", "shell-1"], &server, "there is no image").await;
    assert_eq!(api.get("/rota/v1/images").await, json!({"data": []}));
}

#[tokio::test]
async fn a_session_keeps_the_image_of_its_creation_and_says_when_it_is_gone() {
    let server = Rota::start().await;
    let (api, data) = (&server.api, server.server.app().config.data.clone());
    let old = Image::with(&[("etc/version", 0o644, "old\n")]);
    import(&old, "tools", &data).await;
    let parts = Parts::new(api).await;
    give(api, &parts.environment, "tools").await;
    let (session, said) = answer(api, &parts, "cat /etc/version; echo mine > /etc/mine").await;
    assert_eq!(said, "old\n");
    import(&Image::with(&[("etc/version", 0o644, "new\n")]), "tools", &data).await;
    assert_eq!(answer(api, &parts, "cat /etc/version").await.1, "new\n");
    server.server.app().sandboxes.backend().shutdown().await;
    // No name leads to it any more; the session's own key does.
    let key = digest(&old.config);
    let key = key.trim_start_matches("sha256:");
    let images = server.server.app().images.layers().clone();
    images.remove(key).unwrap().unwrap();
    let told = error_of(api, &session, script("cat /etc/version")).await;
    assert!(told.contains("the image \"tools\"") && told.contains(key) && told.contains("rota images"), "{told}");
    import(&old, "again", &data).await;
    api.events(id(&session), json!([script("cat /etc/version /etc/mine")])).await;
    let events = format!("/v1/sessions/{}/events?limit=100&order=desc", id(&session));
    let is_there = |event: &Value| event["type"] == "agent.tool_result" && text(event).contains("old\nmine\n");
    api.once(&events, |page| page["data"].as_array().unwrap().iter().any(is_there)).await;
}

#[tokio::test]
async fn an_image_whose_files_are_removed_by_hand_under_a_sandbox_ends_what_needs_them_and_nothing_else() {
    let server = Rota::start().await;
    let (api, data) = (&server.api, server.server.app().config.data.clone());
    let image = Image::with(&[("etc/version", 0o644, "old\n")]);
    import(&image, "tools", &data).await;
    let parts = Parts::new(api).await;
    give(api, &parts.environment, "tools").await;
    let (session, said) = answer(api, &parts, "cat /etc/version; echo mine > mine").await;
    assert_eq!(said, "old\n");
    let folder = data.join("images").join(digest(&image.config).trim_start_matches("sha256:"));
    fs::remove_dir_all(&folder).unwrap();
    // What runs is there as long as it runs, and so is what the kernel still has of the image.
    let further = async |place: usize| {
        api.events(id(&session), json!([script("echo still here; cat /etc/version; ls / > /dev/null; echo $?")])).await;
        let events = format!("/v1/sessions/{}/events?limit=100", id(&session));
        let results = |page: &Value| -> Vec<Value> {
            let events = page["data"].as_array().unwrap().iter();
            events.filter(|event| event["type"] == "agent.tool_result").cloned().collect()
        };
        let page = api.once(&events, |page| results(page).len() > place).await;
        text(&results(&page)[place]).to_owned()
    };
    let said = further(1).await;
    assert!(said.starts_with("still here\n"), "{said}");
    assert!(said.contains("No such file or directory") || said.contains("not found"), "{said}");
    let status = format!("/v1/sessions/{}", id(&session));
    api.once(&status, |session| session["status"] == "idle").await;
    server.server.app().sandboxes.end(&id(&session).parse().unwrap()).await;
    let told = error_of(api, &session, script("cat mine")).await;
    assert!(told.contains("the image \"tools\"") && told.contains("rota images"), "{told}");
    assert_eq!(api.get("/rota/v1/images").await, json!({"data": []}));
    import(&image, "tools", &data).await;
    let said = further(3).await;
    assert!(said.contains("still here\nold\n0\n"), "as before: {said}");
}

#[tokio::test]
async fn what_a_registry_gives_that_is_wrong_is_no_image() {
    let (server, registry) = (Rota::without_engine().await, StaticHost::start().await);
    let folder = server.server.app().config.data.join("images");
    let image = Image::with(&[]);
    let hostile = Image::of(vec![layer(&[("fine", 0o644, "x"), ("../../escaped", 0o644, "x")])]);
    for (name, image) in [("lies", &image), ("long", &image), ("cut", &image), ("short", &image), ("hostile", &hostile)]
    {
        image.publish(&registry, name, "1");
    }
    let blob = |name: &str, at: usize| format!("/v2/{name}/blobs/{}", digest(&image.blobs()[at]));
    registry.change(&blob("lies", 2), |served| served.content[20] ^= 1);
    registry.change(&blob("long", 2), |served| served.content.extend(vec![0; 1 << 20]));
    registry.change(&blob("cut", 1), |served| served.cut_at = Some(100_000));
    registry.change(&blob("short", 1), |served| served.content.truncate(100_000));
    let manifest = format!("/v2/manifest/manifests/{}", digest(b"a"));
    image.publish(&registry, "manifest", "1");
    registry.put(manifest, crate::image_files::MANIFEST, image.manifest.clone());
    let by_digest = format!("{}/manifest@{}", registry.address, digest(b"a"));
    let of = |name: &str| format!("{}/{name}:1", registry.address);
    for (reference, because) in [
        (of("lies"), "it was changed or cut off on the way"),
        (of("long"), "which it may not"),
        (of("cut"), "the registry does not answer"),
        (of("short"), "it was changed or cut off on the way"),
        (of("hostile"), "a path that leads outside: ../../escaped; nothing of it was kept"),
        (of("missing"), "the registry has no such image"),
        (by_digest, "it was changed or cut off on the way"),
        ("127.0.0.1:1/x".to_owned(), "the registry does not answer"),
        ("a b".to_owned(), "names no image"),
    ] {
        refused(&["pull", &reference, "--as", "x"], &server, because).await;
        assert_eq!(server.api.get("/rota/v1/images").await, json!({"data": []}), "{reference}");
        assert_eq!(fs::read_dir(folder.join(".incoming")).unwrap().count(), 0, "{reference}");
    }
    assert!(!folder.join("escaped").exists());
    refused(&["pull", &of("lies"), "--as", "../x"], &server, "is no name of an image").await;
}

#[tokio::test]
async fn archives_are_imported_and_one_that_was_changed_is_not() {
    let server = Rota::without_engine().await;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let image = Image::with(&[]);
    image.save(Path::new(&at("saved.tar")));
    image.save_layout(Path::new(&at("layout.tar")));
    let mut other = image.clone();
    other.layers[1] = layer(&[("changed", 0o644, "x")]);
    other.save(Path::new(&at("changed.tar")));
    fs::write(at("other.tar"), layer(&[("file", 0o644, "x")])).unwrap();
    fs::write(at("packed.tar.gz"), gzip(&fs::read(at("saved.tar")).unwrap())).unwrap();
    let whole = fs::read(at("layout.tar")).unwrap();
    fs::write(at("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    for (name, because) in [
        ("changed.tar", "it was changed or cut off on the way"),
        ("other.tar", "it has no index.json and no manifest.json"),
        ("packed.tar.gz", "unpack it with gunzip first"),
        ("cut.tar", "cut.tar"),
        ("missing.tar", "cannot be read"),
    ] {
        refused(&["import", &at(name), "--as", "x"], &server, because).await;
        assert_eq!(server.api.get("/rota/v1/images").await, json!({"data": []}), "{name}");
    }
    done(&["import", &at("saved.tar"), "--as", "saved"], &server).await;
    done(&["import", &at("layout.tar"), "--as", "layout"], &server).await;
    let again = done(&["import", &at("layout.tar"), "--as", "layout"], &server).await;
    assert!(again.contains("was there already"), "{again}");
    let images = server.api.get("/rota/v1/images").await;
    let digests: Vec<&str> = images["data"].as_array().unwrap().iter().map(|i| i["digest"].as_str().unwrap()).collect();
    assert_eq!(digests, [digest(&image.manifest), digest(&image.config)]);
}

#[tokio::test]
async fn the_servers_image_is_that_of_environments_that_name_none() {
    let server = Rota::without_engine().await;
    let data = server.server.app().config.data.clone();
    import(&Image::with(&[("etc/which", 0o644, "the server's\n")]), "usual", &data).await;
    let server = server
        .restart_with(|config| {
            config.engine.concurrency = 4;
            config.sandbox.image = Some("usual".to_owned());
        })
        .await;
    let parts = Parts::new(&server.api).await;
    assert_eq!(answer(&server.api, &parts, "cat /etc/which").await.1, "the server's\n");
    let deployment = parts.deployment(&server.api, json!({"initial_events": [script("cat /etc/which")]})).await;
    let run = server.api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let turn = server.api.stream_from(run["session_id"].as_str().unwrap(), 0).await.turn().await;
    assert_eq!(text(first(&turn, "agent.tool_result")), "the server's\n");
    let (config, clock) = (server.server.app().config.clone(), server.clock.clone());
    server.server.stop().await;
    let mut missing = config;
    missing.sandbox.image = Some("missing".to_owned());
    let refused = rota_server::serve(missing, clock).await.err().unwrap().to_string();
    assert!(refused.starts_with("sandbox.image: there is no image \"missing\" in the data folder"), "{refused}");
}

#[tokio::test]
async fn a_self_hosted_environment_has_no_image() {
    let server = Rota::without_engine().await;
    let own = json!({"name": "own", "config": {"type": "self_hosted"}});
    let environment = server.api.post("/v1/environments", own).await;
    let place = format!("/rota/v1/environments/{}/image", id(&environment));
    let data = server.server.app().config.data.clone();
    import(&Image::with(&[]), "x", &data).await;
    let refused = server.api.post_refused(&place, json!({"image": "x"})).await;
    assert!(refused.message.starts_with("image: a self-hosted environment has none"), "{}", refused.message);
}

#[tokio::test]
async fn a_pull_that_is_killed_leaves_no_image_and_the_next_one_sweeps_it() {
    let (server, registry) = (Rota::without_engine().await, StaticHost::start().await);
    let image = Image::with(&[]);
    image.publish(&registry, "shell", "1");
    let last = format!("/v2/shell/blobs/{}", digest(&image.blobs()[2]));
    registry.change(&last, |served| (served.cut_at, served.hangs) = (Some(1), true));
    let reference = format!("{}/shell:1", registry.address);
    let data = server.server.app().config.data.clone();
    let incoming = data.join("images/.incoming");
    let mut pulling = tokio::process::Command::new(env!("CARGO_BIN_EXE_rota"));
    pulling.args(["images", "pull", &reference, "--as", "x", "--data"]).arg(&data);
    let mut child = pulling.env_remove("ROTA_CONFIG").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The first layer is there, and the second one is waited for.
    let left = async {
        loop {
            if let Some(entry) = fs::read_dir(&incoming).unwrap().next() {
                break entry.unwrap().path();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let left = tokio::time::timeout(crate::server::PATIENCE, left).await.unwrap();
    appears(left.join("blob-2")).await;
    child.kill().await.unwrap();
    assert!(left.exists());
    assert_eq!(server.api.get("/rota/v1/images").await, json!({"data": []}));
    image.publish(&registry, "shell", "1");
    done(&["pull", &reference, "--as", "x"], &server).await;
    assert!(!left.exists(), "the next command has swept it");
}
