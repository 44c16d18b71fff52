//! Packages of environments: installed once, shown to every session that has them, and never half.
//!
//! Most tests run on an image whose package managers are scripts of the test, which do what a name of a package says; one installs from
//! an index over TLS and through the gate, with the `pip` of this machine (Debian: `python3-pip`).

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rota_server::config::Config;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    database::NEEDED,
    given::{Parts, agent, id, message, script, toolset},
    image_files::Image,
    images::{answer, error_of, give, import},
    indexes::{simple_page, wheel},
    process,
    proxy::Proxy,
    server::{PATIENCE, Rota},
    static_host::{CERTIFICATE, NAME, StaticHost},
    stream::{first, text},
    upstream::{Reply, Upstream},
};

/// What plays `python3 -m pip install …` and `npm install …`: a package is a file with a number that no other installation has.
const INSTALLER: &str = r#"#!/bin/bash
folder= packages=()
while (($#)); do
  case $1 in
    --target | --prefix) folder=$2; shift ;;
    --) shift; packages=("$@"); break ;;
  esac
  shift
done
for package in "${packages[@]}"; do
  echo "installing $package"
  case $package in
    missing) echo "ERROR: no such package: $package $RANDOM$RANDOM"; exit 1 ;;
    hang) while :; do sleep 60; done ;;
    wait) echo x > /workspace/waiting; while [[ ! -e /workspace/go ]]; do sleep 0.05; done; echo "went on" > "$folder/wait" ;;
    large) dd if=/dev/zero of="$folder/large" bs=1048576 count=3 2>/dev/null ;;
    variable) echo "$PIP_INDEX_URL" > "$folder/variable" ;;
    *) echo "$package $(od -An -N8 -tx8 /dev/urandom | tr -d ' ')" > "$folder/${package//\//_}" ;;
  esac
done
"#;

/// The same for `apt-get`, which changes the root.
const APT: &str = r#"#!/bin/bash
case " $* " in
  *" install "*) echo "$(id -u)" > /etc/installed-by; mkdir -p /usr/share/apt && echo "${@: -1}" > /usr/share/apt/package ;;
esac
"#;

/// An image with these package managers.
fn image() -> Image {
    Image::with(&[
        ("usr/bin/python3", 0o755, INSTALLER),
        ("usr/bin/npm", 0o755, INSTALLER),
        ("usr/bin/apt-get", 0o755, APT),
    ])
}

/// A server that has the image as `tools`.
async fn server(configure: impl FnOnce(&mut Config)) -> Rota {
    let server = Rota::with(configure).await;
    import(&image(), "tools", &server.server.app().config.data.clone()).await;
    server
}

/// An agent and an environment of the image with packages.
async fn parts(server: &Rota, name: &str, packages: Value) -> Parts {
    let body = json!({"name": name, "config": {"type": "cloud", "packages": packages}});
    let environment = server.api.post("/v1/environments", body).await;
    give(&server.api, &environment, "tools").await;
    Parts { agent: agent(&server.api, json!({})).await, environment }
}

async fn build(server: &Rota, parts: &Parts) -> Value {
    server.api.get(&format!("/rota/v1/environments/{}/build", id(&parts.environment))).await
}

/// How many layers of packages there are.
fn layers(server: &Rota) -> usize {
    server.server.app().sandboxes.backend().packages().all().unwrap().len()
}

/// What a session's error says.
async fn failed(server: &Rota, parts: &Parts) -> String {
    let session = parts.session_with(&server.api, script("echo it ran")).await;
    let turn = server.api.stream_from(id(&session), 0).await.turn().await;
    assert_eq!(text(first(&turn, "agent.tool_result")), "The tool was not run: no sandbox could be started.");
    let error = &first(&turn, "session.error")["error"];
    assert_eq!((&error["type"], &error["retry_status"]["type"]), (&json!("unknown_error"), &json!("exhausted")));
    error["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn ten_sessions_that_start_together_install_once() {
    let server = server(|_| {}).await;
    let parts = parts(&server, "e", json!({"pip": ["one", "two"], "npm": ["three"]})).await;
    assert_eq!(build(&server, &parts).await["state"], "not_built");
    let show = "cat /mnt/packages/pip/one /mnt/packages/pip/two /mnt/packages/npm/three; echo $PATH $PYTHONPATH";
    let mut said = Vec::new();
    for session in 0..10 {
        let title = json!({"title": session.to_string(), "initial_events": [script(show)]});
        said.push(parts.session(&server.api, title).await);
    }
    let mut answers = Vec::new();
    for session in &said {
        let turn = server.api.stream_from(id(session), 0).await.turn().await;
        answers.push(text(first(&turn, "agent.tool_result")).to_owned());
    }
    assert!(answers[0].starts_with("one ") && answers[0].contains("\nthree "), "{}", answers[0]);
    assert!(
        answers[0].ends_with("/mnt/packages/npm/bin:/mnt/packages/pip/bin:/usr/bin:/bin /mnt/packages/pip\n"),
        "{}",
        answers[0]
    );
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(layers(&server), 2, "one for each package manager");
    let built = build(&server, &parts).await;
    assert_eq!((&built["state"], &built["error"]), (&json!("ready"), &Value::Null));
    let log = built["log"].as_str().unwrap();
    assert!(log.contains("npm:\ninstalling three") && log.contains("pip:\ninstalling one\ninstalling two"), "{log}");
    let (_, written) = answer(&server.api, &parts, "echo x > /mnt/packages/pip/one || rm -rf /mnt/packages/npm").await;
    assert!(written.contains("Read-only file system"), "{written}");
    let warnings = server.api.get(&format!("/rota/v1/sessions/{}", id(&said[0]))).await;
    assert_eq!(
        warnings["warnings"].as_array().unwrap().iter().filter(|w| w["code"] == "packages_not_installed").count(),
        0
    );
}

#[tokio::test]
async fn an_installation_that_fails_is_told_and_tried_again_by_the_next_session() {
    let server = server(|_| {}).await;
    let parts = parts(&server, "e", json!({"npm": ["fine"], "pip": ["one", "missing"]})).await;
    let first_error = failed(&server, &parts).await;
    assert!(first_error.starts_with("pip could not install one, missing: installing one"), "{first_error}");
    assert!(first_error.contains("ERROR: no such package: missing"), "{first_error}");
    let built = build(&server, &parts).await;
    assert_eq!((&built["state"], &built["error"]), (&json!("failed"), &json!(first_error)));
    assert!(built["log"].as_str().unwrap().contains("npm:\ninstalling fine"));
    assert_eq!(layers(&server), 1, "that of npm stays");
    let second = failed(&server, &parts).await;
    assert!(second.contains("no such package: missing") && second != first_error, "it was tried again");
    let place = format!("/v1/environments/{}", id(&parts.environment));
    server.api.post(&place, json!({"config": {"type": "cloud", "packages": {"npm": ["fine"], "pip": ["one"]}}})).await;
    assert!(answer(&server.api, &parts, "cat /mnt/packages/pip/one").await.1.starts_with("one "));
    assert_eq!(build(&server, &parts).await["state"], "ready");
}

#[tokio::test]
async fn a_changed_list_is_installed_anew_and_what_comes_before_it_is_kept() {
    let server = server(|_| {}).await;
    let parts = parts(&server, "e", json!({"npm": ["same"], "pip": ["one"]})).await;
    let show = "cat /mnt/packages/npm/same; ls /mnt/packages/pip; cat /mnt/packages/pip/one";
    let (old, before) = answer(&server.api, &parts, show).await;
    let lines = |said: &str| said.lines().map(str::to_owned).collect::<Vec<_>>();
    let place = format!("/v1/environments/{}", id(&parts.environment));
    let more = json!({"config": {"type": "cloud", "packages": {"npm": ["same"], "pip": ["one", "two"]}}});
    server.api.post(&place, more).await;
    let (_, after) = answer(&server.api, &parts, show).await;
    let (before, after) = (lines(&before), lines(&after));
    assert_eq!(before[0], after[0], "npm installed nothing again");
    assert_eq!((before.len(), after.len(), after[1..3].to_vec()), (3, 4, vec!["one".to_owned(), "two".to_owned()]));
    assert_ne!(before[2], after[3], "pip has installed everything anew");
    // A session keeps what its environment had when it was created.
    server.server.app().sandboxes.end(&serde_json::from_value(old["id"].clone()).unwrap()).await;
    server.api.events(id(&old), json!([script("ls /mnt/packages/pip > seen")])).await;
    crate::server::appears(server.workspace_file(id(&old), "seen")).await;
    let seen = async {
        while fs::read_to_string(server.workspace_file(id(&old), "seen")).unwrap() != "one\n" {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap();
}

#[tokio::test]
async fn an_installation_that_hangs_or_fills_the_disk_ends_and_leaves_nothing() {
    let server = server(|config| {
        config.packages.seconds = 2;
        config.packages.mib = 2;
    })
    .await;
    let hanging = parts(&server, "hanging", json!({"pip": ["hang"]})).await;
    let error = failed(&server, &hanging).await;
    assert!(error.starts_with("pip could not install hang: installing hang") && error.contains("timed out"), "{error}");
    let large = parts(&server, "large", json!({"pip": ["large"]})).await;
    let error = failed(&server, &large).await;
    assert!(error.starts_with("pip could not install large: "), "{error}");
    assert_eq!(layers(&server), 0);
    let data = &server.server.app().config.data;
    let sessions = fs::read_dir(data.join("sessions")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!sessions.into_iter().any(|name| name.to_string_lossy().starts_with("build_")));
    assert_eq!(fs::read_dir(data.join("packages/.incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn packages_of_debian_need_an_image_and_change_its_root() {
    let server = server(|_| {}).await;
    let body = json!({"name": "bare", "config": {"type": "cloud", "packages": {"apt": ["jq"]}}});
    let bare = Parts {
        agent: agent(&server.api, json!({})).await,
        environment: server.api.post("/v1/environments", body).await,
    };
    let error = failed(&server, &bare).await;
    assert!(error.starts_with("config.packages.apt: ") && error.contains("/rota/v1/environments/"), "{error}");
    let parts = parts(&server, "with an image", json!({"apt": ["jq"], "pip": ["one"]})).await;
    let show = "cat /etc/installed-by /usr/share/apt/package /mnt/packages/pip/one; rm /usr/share/apt/package; ls /usr/share/apt";
    let (_, said) = answer(&server.api, &parts, show).await;
    assert!(said.starts_with("0\njq\none "), "{said}");
    let (_, other) = answer(&server.api, &parts, show).await;
    assert_eq!(said, other, "what a session removes is there for the next one");
}

#[tokio::test]
async fn an_agent_is_told_of_the_packages_that_its_session_keeps() {
    let upstream = Upstream::start([Reply::Message(vec![json!({"type": "text", "text": "hi"})])]).await;
    let server = server(|config| config.models = vec![upstream.model()]).await;
    let mut parts = parts(&server, "e", json!({"npm": ["left-pad@1"], "pip": ["one", "two"]})).await;
    parts.agent = agent(&server.api, json!({"model": "house"})).await;
    let session = parts.session(&server.api, json!({})).await;
    let other = json!({"config": {"type": "cloud", "packages": {"pip": ["later"]}}});
    server.api.post(&format!("/v1/environments/{}", id(&parts.environment)), other).await;
    server.api.events(id(&session), json!([message("hello")])).await;
    server.api.stream_from(id(&session), 0).await.turn().await;
    let system = upstream.asked()[0]["system"].to_string();
    assert!(system.contains("\\n- npm: left-pad@1\\n- pip: one, two"), "{system}");
}

#[tokio::test]
async fn a_package_that_is_an_option_and_a_missing_manager_are_told() {
    let server = server(|_| {}).await;
    let option = parts(&server, "option", json!({"pip": ["--index-url=http://evil.example"]})).await;
    let error = failed(&server, &option).await;
    assert_eq!(error, "config.packages.pip: \"--index-url=http://evil.example\" is an option and no package");
    let missing = parts(&server, "missing", json!({"gem": ["rails"]})).await;
    let error = failed(&server, &missing).await;
    assert!(
        error.starts_with("gem could not install rails: the root file system of the environment has no gem"),
        "{error}"
    );
    let off = server.restart_with(|config| config.network.enabled = false).await;
    let parts = parts(&off, "off", json!({"pip": ["one"]})).await;
    let error = failed(&off, &parts).await;
    assert!(error.contains("pip cannot install packages: sandboxes of this server have no network"), "{error}");
}

#[tokio::test]
async fn what_was_not_used_for_longest_makes_room_but_never_under_a_sandbox() {
    let server = server(|config| {
        config.packages.mib = 8;
        config.packages.store_mib = 4;
    })
    .await;
    // Each has three MiB, by a list of its own.
    let of = async |name: &str| parts(&server, name, json!({"pip": ["large", name]})).await;
    let (one, two, three) = (of("one").await, of("two").await, of("three").await);
    let first_session = answer(&server.api, &one, "ls /mnt/packages/pip").await;
    assert_eq!(first_session.1, "large\none\n");
    answer(&server.api, &two, "true").await;
    assert_eq!(layers(&server), 2, "both are in use");
    let (still, said) = (first_session.0, "cat /mnt/packages/pip/one > seen");
    server.api.events(id(&still), json!([script(said)])).await;
    crate::server::appears(server.workspace_file(id(&still), "seen")).await;
    server.server.app().sandboxes.backend().shutdown().await;
    answer(&server.api, &three, "true").await;
    assert_eq!(layers(&server), 1, "those that nobody uses are gone");
}

#[tokio::test]
async fn a_server_that_ends_meanwhile_leaves_nothing_and_the_next_one_installs() {
    let server = server(|_| {}).await;
    let parts = parts(&server, "e", json!({"npm": ["fine"], "pip": ["hang"]})).await;
    let session = parts.session_with(&server.api, script("echo it ran")).await;
    let sessions = server.server.app().config.data.join("sessions");
    let is_build = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        entry.file_name().to_string_lossy().starts_with("build_").then(|| entry.path())
    };
    let builds = || fs::read_dir(&sessions).unwrap().filter_map(is_build).collect::<Vec<PathBuf>>();
    let hanging = async {
        while layers(&server) == 0 || builds().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, hanging).await.unwrap();
    assert_eq!(build(&server, &parts).await["state"], "building");
    let server = server.restart_with(|config| config.packages.seconds = 1).await;
    let swept = async {
        while build(&server, &parts).await["state"] == "building" && !builds().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, swept).await.unwrap();
    // Nobody knows what the call has done that waited, as after every restart; the next one installs.
    server.api.stream_from(id(&session), 0).await.turn().await;
    let error = error_of(&server.api, &session, script("echo it ran")).await;
    assert!(error.starts_with("pip could not install hang"), "{error}");
    assert_eq!(layers(&server), 1, "that of npm was whole");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn an_installation_whose_store_goes_away_in_the_middle_goes_on_and_is_recorded() {
    let proxy = Proxy::start().expect(NEEDED);
    let server = server(|config| config.database = config.database.take().map(|url| proxy.url(&url))).await;
    let parts = parts(&server, "e", json!({"npm": ["fine"], "pip": ["wait"]})).await;
    let session = parts.session_with(&server.api, script("cat /mnt/packages/pip/wait")).await;
    let mut stream = server.api.stream_from(id(&session), 0).await;
    let sessions = server.server.app().config.data.join("sessions");
    let waiting = || {
        let mut folders = fs::read_dir(&sessions).unwrap().map(|entry| entry.unwrap().path().join("workspace"));
        folders.find(|folder| folder.join("waiting").exists())
    };
    let found = async {
        loop {
            match waiting() {
                Some(folder) => return folder,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let build_folder = timeout(PATIENCE, found).await.unwrap();
    proxy.close();
    fs::write(build_folder.join("go"), "").unwrap();
    let made = async {
        while layers(&server) < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, made).await.expect("nothing of an installation needs the store");
    proxy.open();
    let turn = stream.turn().await;
    assert_eq!(text(first(&turn, "agent.tool_result")), "went on\n");
    let path = format!("/rota/v1/environments/{}/build", id(&parts.environment));
    let built = server.api.once(&path, |built| built["state"] != "building").await;
    assert_eq!((&built["state"], &built["error"]), (&json!("ready"), &Value::Null));
}

/// `nobody`, who runs a server when the tests run as root.
const NOBODY: u32 = 65_534;

/// A server as a process, run by `user`, with the image as `tools`; and a client of it.
async fn process(folder: &Path, user: Option<u32>) -> (process::Server, process::Client) {
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let mut server = process::Server::new(&data, &[]);
    let key = process::create_key(&data, &[]);
    import(&image(), "tools", &data).await;
    if let Some(user) = user {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let program = folder.join("rota");
        let owner = format!("{user}:{user}");
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_rota")).arg(&program).status().unwrap().success());
        // An image of root's is of no use to another user: it is imported again by the one who runs the server.
        fs::remove_dir_all(data.join("images")).unwrap();
        assert!(Command::new("chown").args(["-R", &owner]).arg(&data).status().unwrap().success());
        let archive = folder.join("image.tar");
        image().save(&archive);
        let mut importing = Command::new(&program);
        importing.args(["images", "import", "--as", "tools", "--data"]).arg(&data).arg(&archive);
        let imported =
            importing.uid(user).gid(user).env_remove("ROTA_CONFIG").env_remove("ROTA_DATABASE").output().unwrap();
        assert!(imported.status.success(), "{imported:?}");
        server.user = Some((user, program));
    }
    server.start().await;
    let client = process::Client::new(server.address, key);
    (server, client)
}

#[tokio::test]
async fn a_server_that_is_killed_while_packages_are_installed_has_none_of_them_half() {
    let users = if rustix::process::geteuid().is_root() { vec![None, Some(NOBODY)] } else { vec![None] };
    for user in users {
        let folder = tempfile::tempdir().unwrap();
        let (mut server, client) = process(folder.path(), user).await;
        let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": [toolset()]})).await;
        let packages = json!({"apt": ["jq"], "npm": ["fine"], "pip": ["hang"]});
        let body = json!({"name": "e", "config": {"type": "cloud", "packages": packages}});
        let environment = client.post("/v1/environments", &body).await;
        client.post(&format!("/rota/v1/environments/{}/image", id(&environment)), &json!({"image": "tools"})).await;
        let body = |command: &str| json!({"agent": id(&agent), "environment_id": id(&environment), "initial_events": [script(command)]});
        client.post("/v1/sessions", &body("true")).await;
        let layers = || {
            let names = fs::read_dir(server_data(folder.path())).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.len() == 64).count()
        };
        let hanging = async {
            while layers() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, hanging).await.expect("apt's and npm's");
        let fine = |layer: PathBuf| fs::read_to_string(layer.join("files/fine")).ok();
        let npm =
            fs::read_dir(server_data(folder.path())).unwrap().find_map(|entry| fine(entry.unwrap().path())).unwrap();
        server.kill();
        server.start().await;
        let place = format!("/v1/environments/{}", id(&environment));
        let packages =
            json!({"config": {"type": "cloud", "packages": {"apt": ["jq"], "npm": ["fine"], "pip": ["one"]}}});
        client.post(&place, &packages).await;
        let session = client
            .post("/v1/sessions", &body("cat /usr/share/apt/package /mnt/packages/npm/fine /mnt/packages/pip/one"))
            .await;
        let events = format!("/v1/sessions/{}/events?limit=100", id(&session));
        let said = async {
            loop {
                let events = client.get(&events).await;
                let found =
                    events["data"].as_array().unwrap().iter().find(|event| event["type"] == "agent.tool_result");
                if let Some(found) = found {
                    break text(found).to_owned();
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let said = timeout(PATIENCE, said).await.unwrap();
        assert!(said.starts_with("jq\nfine ") && said.contains("\none "), "{user:?}: {said}");
        assert!(said.contains(&npm), "{user:?}: npm has not installed again: {npm} {said}");
    }
}

fn server_data(folder: &Path) -> PathBuf {
    folder.join("data/packages")
}

#[tokio::test]
#[cfg_attr(not(pip), ignore = "needs pip: apt install python3-pip")]
async fn pip_installs_from_an_index_of_the_operator_through_the_gate() {
    let index = StaticHost::over_tls().await;
    let content = wheel();
    let (page, file) = simple_page(&content);
    index.put("/simple/rota-greeting/", "text/html", page);
    index.put(file, "application/zip", content);
    let server = Rota::with(|config| {
        config.network.open = vec!["127.0.0.1".to_owned()];
        config.network.hosts = [(format!("{NAME}:443"), vec![index.address.to_string()])].into();
        config.packages.hosts = vec![NAME.to_owned()];
        config.packages.authorities = Some(CERTIFICATE.into());
        config.packages.variables = [
            ("PIP_INDEX_URL".to_owned(), format!("https://{NAME}/simple/")),
            ("PIP_RETRIES".to_owned(), "0".to_owned()),
        ]
        .into();
    })
    .await;
    let networking = json!({"type": "limited", "allow_package_managers": true});
    let config = json!({"type": "cloud", "networking": networking, "packages": {"pip": ["rota-greeting==1.0"]}});
    let body = json!({"name": "e", "config": config});
    let parts = Parts {
        agent: agent(&server.api, json!({})).await,
        environment: server.api.post("/v1/environments", body).await,
    };
    let command = "rota-greeting && /usr/bin/python3 -c 'import rota_greeting; print(rota_greeting.__file__)'";
    let (session, said) = answer(&server.api, &parts, command).await;
    assert_eq!(said, "hello from a package\n/mnt/packages/pip/rota_greeting.py\n");
    let asked = index.asked();
    assert_eq!(asked.iter().filter(|path| path.starts_with("/files/")).count(), 1, "{asked:?}");
    answer(&server.api, &parts, "rota-greeting").await;
    assert_eq!(index.asked(), asked, "nothing is installed twice");
    let (egress, is_index) = (format!("/rota/v1/sessions/{}/egress", id(&session)), |row: &Value| row["host"] == NAME);
    server.api.once(&egress, |page| page["data"].as_array().unwrap().iter().any(is_index)).await;
    // The environment's own network stays what it is.
    let (reaching, _) = answer(&server.api, &parts, &format!("curl -sS https://{NAME}/")).await;
    let (egress, is_refused) =
        (format!("/rota/v1/sessions/{}/egress", id(&reaching)), |row: &Value| row["outcome"] == "refused");
    server.api.once(&egress, |page| page["data"].as_array().unwrap().iter().any(is_refused)).await;
    let missing = json!({"config": {"type": "cloud", "packages": {"pip": ["rota-nothing"]}}});
    server.api.post(&format!("/v1/environments/{}", id(&parts.environment)), missing).await;
    let error = failed(&server, &parts).await;
    assert!(
        error.starts_with("pip could not install rota-nothing") && error.contains("No matching distribution"),
        "{error}"
    );
}
