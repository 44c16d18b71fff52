//! The commands that talk to a server, each once: what they write for people and for scripts, and the codes they end with.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{
    client::Api,
    given::{Parts, agent, environment, id, message, over, script, toolset},
    process,
    server::{PATIENCE, Rota},
};

/// What somebody types who has a home of their own, an address and a key.
pub struct Shell {
    pub home: TempDir,
    pub url: String,
    pub key: String,
}

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code().expect("it exits"), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What a command wrote that must have ended with `code`.
    #[track_caller]
    pub fn with(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        self.out
    }

    /// What a command said that must have ended with `code` and written nothing.
    #[track_caller]
    fn refused(self, code: i32) -> String {
        assert_eq!((self.code, &*self.out), (code, ""), "{self:?}");
        self.err
    }
}

impl Shell {
    pub fn of(api: &Api) -> Self {
        Self { home: TempDir::new().unwrap(), url: api.base.clone(), key: api.key.clone() }
    }

    /// The command, which is ended when it is dropped.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::from(process::rota());
        command.args(arguments).env("HOME", self.home.path()).env("ROTA_URL", &self.url).env("ROTA_API_KEY", &self.key);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let output = timeout(2 * PATIENCE, self.command(arguments).output()).await;
        Ran::of(output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap())
    }

    /// What a command writes for scripts, which must have ended well.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let out = self.run(&[arguments, &["--json"]].concat()).await.with(0);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }
}

/// An agent whose `bash` waits for a confirmation, in a sandbox.
async fn asking(api: &Api) -> Parts {
    let config = json!({"name": "bash", "permission_policy": {"type": "always_ask"}});
    let tools = json!([over(toolset(), &json!({"configs": [config]}))]);
    Parts { agent: agent(api, json!({ "tools": tools })).await, environment: environment(api, "e").await }
}

#[tokio::test]
async fn lists_and_single_ones_are_tables_for_people_and_what_the_api_has_for_scripts() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let shell = Shell::of(api);
    let parts = Parts::new(api).await;
    let schedule = json!({"type": "cron", "expression": "0 9 * * *", "timezone": "UTC"});
    let deployment = parts.deployment(api, json!({ "schedule": schedule })).await;
    let session = parts.session(api, json!({"title": "by hand"})).await;
    for (kind, one, name) in [
        ("deployments", &deployment, "nightly"),
        ("agents", &parts.agent, "worker"),
        ("environments", &parts.environment, "workshop"),
        ("sessions", &session, "by hand"),
    ] {
        let path = format!("/v1/{kind}/{}", id(one));
        let listed = shell.json(&[kind, "list"]).await;
        assert_eq!(listed.as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [id(one)], "{kind}");
        let table = shell.run(&[kind, "list"]).await.with(0);
        assert!(table.starts_with("ID ") && table.contains(id(one)) && table.contains(name), "{table}");
        // How long a session has been there goes on.
        let shown = over(shell.json(&[kind, "show", id(one)]).await, &json!({"stats": null}));
        assert_eq!(shown, over(api.get(&path).await, &json!({"stats": null})));
        if kind != "sessions" {
            assert_eq!(id(&shell.json(&[kind, "show", name]).await), id(one), "by its name");
        }
        let shown = shell.run(&[kind, "show", id(one)]).await.with(0);
        assert!(shown.starts_with("FIELD ") && shown.contains(id(one)), "{shown}");
    }

    assert_eq!(shell.json(&["deployments", "pause", "nightly"]).await["status"], "paused");
    let said = shell.run(&["deployments", "unpause", "nightly"]).await.with(0);
    assert_eq!(said, format!("unpaused  {}\n", id(&deployment)));
    assert_eq!(api.get(&format!("/v1/deployments/{}", id(&deployment))).await["status"], "active");
    for (kind, one) in [
        ("deployments", &deployment),
        ("agents", &parts.agent),
        ("sessions", &session),
        ("environments", &parts.environment),
    ] {
        assert_eq!(shell.run(&[kind, "archive", id(one)]).await.with(0), format!("archived  {}\n", id(one)));
        assert_eq!(shell.json(&[kind, "list"]).await, json!([]), "{kind}");
        assert_eq!(shell.json(&[kind, "list", "--all"]).await[0]["id"], one["id"], "{kind}");
    }
}

#[tokio::test]
async fn what_is_named_must_be_there_once() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let shell = Shell::of(api);
    let parts = Parts::new(api).await;
    let unknown = shell.run(&["run", "nightly"]).await.refused(3);
    assert_eq!(unknown, "error: no deployment is named \"nightly\"; `rota deployments list` shows them\n");
    let first = parts.deployment(api, json!({})).await;
    let started = shell.json(&["run", "nightly"]).await;
    assert_eq!(started["deployment_id"], first["id"]);
    let second = parts.deployment(api, json!({})).await;
    let several = shell.run(&["run", "nightly"]).await.refused(2);
    assert!(several.contains("2 deployments are named \"nightly\"") && several.contains(id(&first)), "{several}");
    assert_eq!(shell.json(&["run", id(&second)]).await["deployment_id"], second["id"]);
    shell.run(&["deployments", "archive", id(&first)]).await.with(0);
    assert_eq!(shell.json(&["run", "nightly"]).await["deployment_id"], second["id"], "an archived one has no name");

    let missing = shell.run(&["run", "depl_111111111111111111111111"]).await.refused(3);
    assert!(missing.contains("(404 not_found_error, request req_"), "{missing}");
    for odd in ["depl_../agents", "depl_a?b", "depl_\u{1b}[2J"] {
        let said = shell.run(&["deployments", "show", odd]).await.refused(2);
        assert!(said.contains("is not an id") && !said.contains('\u{1b}'), "{said}");
    }
    for command in [["logs", "sesn_111111111111111111111111"], ["interrupt", "drun_111111111111111111111111"]] {
        shell.run(&command).await.refused(3);
    }
}

#[tokio::test]
async fn the_code_says_why_a_command_did_nothing() {
    let rota = Rota::without_engine().await;
    let mut shell = Shell::of(&rota.api);
    let other = rota.api.key.replace("sk-rota-", "sk-rota-x");
    let key = std::mem::replace(&mut shell.key, other);
    let refused = shell.run(&["ps"]).await.refused(4);
    assert!(refused.contains("(401 authentication_error, request req_") && refused.contains("rota login"), "{refused}");
    assert!(!refused.contains("sk-rota"), "{refused}");
    shell.key = String::new();
    let none = shell.run(&["ps"]).await.refused(2);
    assert!(none.starts_with("error: no key for http://127.0.0.1:"), "{none}");
    shell.key = key;
    shell.run(&["ps", "--json"]).await.with(0);
    for wrong in [&["ps", "--limit", "0"][..], &["ps", "--profile", "work"], &["ps", "--url", "ftp://a"], &["run"]] {
        shell.run(wrong).await.refused(2);
    }

    // A port that is taken, and at which nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = socket.local_addr().unwrap();
    let away = shell.run(&["ps", "--url", &format!("http://{nobody}")]).await.refused(5);
    assert_eq!(away, format!("error: cannot reach http://{nobody}: nothing listens there. Is the server running?\n"));
    assert!(shell.run(&["top"]).await.refused(2).contains("draws on a terminal"));
}

#[tokio::test]
async fn a_run_takes_inputs_and_times_and_one_idempotency_key_starts_it_once() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let shell = Shell::of(api);
    let parts = Parts::new(api).await;
    let made = parts.deployment(api, json!({"initial_events": [message("look at {{branch}}")]})).await;
    let run = shell.json(&["run", "nightly", "--input", "branch=a=b", "--message", "and then"]).await;
    let path = format!("/v1/sessions/{}/events", run["session_id"].as_str().unwrap());
    let sent = api.get(&path).await["data"][0]["content"].clone();
    assert_eq!(sent, json!([{"type": "text", "text": "look at a=b"}, {"type": "text", "text": "and then"}]));
    let wrong = shell.run(&["run", "nightly", "--input", "tag=1"]).await.refused(1);
    assert!(wrong.contains("inputs.branch: Field required") && wrong.contains("(400 invalid_request_error"), "{wrong}");
    shell.run(&["run", "nightly", "--input", "branch=1", "--input", "branch=2"]).await.refused(2);
    shell.run(&["run", "nightly", "--input", "branch"]).await.refused(2);

    let planned = shell.json(&["run", "nightly", "--at", "2026-03-02T12:00:00Z", "--input", "branch=c"]).await;
    assert_eq!((&planned["type"], &planned["state"]), (&json!("planned_start"), &json!("planned")));
    let said = shell.run(&["run", "nightly", "--at", "2026-03-02T13:00:00Z", "--input", "branch=c"]).await.with(0);
    assert!(said.starts_with("planned  start_"), "{said}");
    shell.run(&["run", "nightly", "--at", "2026-03-02T12:00:00Z", "--follow"]).await.refused(2);

    let once = ["run", "nightly", "--idempotency-key", "job-1"];
    let (first, again) = (shell.json(&once).await, shell.json(&once).await);
    assert_eq!(first["id"], again["id"]);
    assert_ne!(first["id"], shell.json(&["run", "nightly"]).await["id"]);

    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    let failed = shell.run(&["run", id(&made)]).await.refused(1);
    assert!(failed.contains("has failed") && failed.contains("environment_archived_error"), "{failed}");
    let rows = shell.json(&["runs", "nightly", "--state", "failed"]).await;
    assert_eq!(rows[0]["error"]["type"], "environment_archived_error");
    let table = shell.run(&["runs"]).await.with(0);
    assert!(table.starts_with("AT ") && table.contains("failed") && table.contains("queued"), "{table}");
    let queued = shell.json(&["ps"]).await;
    assert!(queued.as_array().unwrap().iter().all(|session| session["state"] == "queued"), "{queued}");
    assert!(shell.run(&["ps", "--limit", "1"]).await.err.contains("1 of each state are shown"));
}

#[tokio::test]
async fn a_session_is_followed_until_it_rests() {
    let rota = Rota::start().await;
    let shell = Shell::of(&rota.api);
    let parts = Parts::new(&rota.api).await;
    parts.deployment(&rota.api, json!({"initial_events": [script("echo hello; echo there")]})).await;
    let said = shell.run(&["run", "nightly", "--follow"]).await.with(0);
    let mut lines = said.lines();
    let run = lines.next().and_then(|line| line.strip_prefix("run      ")).unwrap().to_owned();
    assert!(lines.next().unwrap().starts_with("session  sesn_"), "{said}");
    for part in ["\n→ bash  echo hello; echo there\n← hello  (+1 lines)\n", "\n· rests: end_turn\n"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains('\u{1b}'), "no colours without a terminal: {said}");

    // The same is in its log, and following it again ends at once.
    let told = said.split_once("\n> ").unwrap().1;
    for again in [&["logs", &run][..], &["logs", &run, "-f"]] {
        assert_eq!(shell.run(again).await.with(0), format!("> {told}"), "{again:?}");
    }
    let session = shell.json(&["sessions", "list"]).await[0]["id"].as_str().unwrap().to_owned();
    let events = rota.api.all(&format!("/v1/sessions/{session}/events"), 100).await;
    for follow in [&["--json"][..], &["--json", "-f"]] {
        let out = shell.run(&[&["logs", &session], follow].concat()).await.with(0);
        let told: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(told, events, "{follow:?}");
    }
}

#[tokio::test]
async fn calls_that_wait_are_allowed_and_denied() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let shell = Shell::of(api);
    let parts = asking(api).await;
    let two = message("```bash\necho one\n```\n```bash\necho two\n```");
    parts.deployment(api, json!({"initial_events": [two]})).await;
    let waits = shell.run(&["run", "nightly", "--follow"]).await.with(6);
    let session = waits.lines().nth(1).unwrap().strip_prefix("session  ").unwrap().to_owned();
    assert!(
        waits.contains(&format!("  waits: rota approve {session} sevt_")) && waits.contains("· rests: requires_action"),
        "{waits}"
    );
    let needs = shell.json(&["attention"]).await;
    assert_eq!((&needs[0]["kind"], &needs[0]["session_id"]), (&json!("waiting"), &json!(session)));
    assert!(shell.run(&["attention"]).await.with(0).contains(&session));
    assert!(shell.run(&["ps"]).await.with(0).contains("waiting"));

    assert!(shell.run(&["approve", &session]).await.with(0).starts_with("allowed  sevt_"));
    let second = shell.run(&["logs", &session, "-f"]).await.with(6);
    assert!(second.contains("← one") && second.contains("→ bash  echo two"), "{second}");
    let call = second.rsplit_once(&format!("rota approve {session} ")).unwrap().1.lines().next().unwrap().to_owned();
    let denied = shell.run(&["deny", &session, &call, "--message", "not today"]).await.with(0);
    assert_eq!(denied, format!("denied  {call}\n"));
    shell.run(&["logs", &session, "-f"]).await.with(0);
    let events = api.all(&format!("/v1/sessions/{session}/events"), 100).await;
    let answers: Vec<_> = events.iter().filter(|event| event["type"] == "user.tool_confirmation").collect();
    assert_eq!((&answers[0]["result"], &answers[1]["deny_message"]), (&json!("allow"), &json!("not today")));

    let nothing = shell.run(&["approve", &session]).await.refused(1);
    assert!(nothing.contains("waits for nobody"), "{nothing}");
    let late = shell.run(&["approve", &session, &call]).await.refused(1);
    assert!(late.contains("(400 invalid_request_error") || late.contains("(409 "), "{late}");
    assert!(shell.run(&["attention"]).await.with(0).contains("Nothing needs anybody"));
}

#[tokio::test]
async fn an_interrupt_ends_what_a_session_does() {
    let rota = Rota::start().await;
    let shell = Shell::of(&rota.api);
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("touch begun; sleep 1000")).await;
    crate::server::appears(rota.workspace_file(id(&session), "begun")).await;
    let said = shell.run(&["interrupt", id(&session)]).await.with(0);
    assert_eq!(said, format!("interrupted  {}\n", id(&session)));
    let told = shell.run(&["logs", id(&session), "-f"]).await.with(0);
    assert!(told.contains("\n> interrupt\n"), "{told}");
}

#[tokio::test]
async fn what_others_wrote_does_not_reach_the_terminal_raw() {
    let rota = Rota::start().await;
    let api = &rota.api;
    let shell = Shell::of(api);
    let parts = Parts::new(api).await;
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}";
    let printing = script(r"printf '\033]0;owned\007\033[2J\302\23331m\342\200\256'");
    let changes = json!({"name": format!("a{evil}"), "initial_events": [printing, message(evil)]});
    let deployment = parts.deployment(api, changes).await;
    let followed = shell.run(&["run", id(&deployment), "--follow"]).await.with(0);
    let session = followed.lines().nth(1).unwrap().strip_prefix("session  ").unwrap().to_owned();
    api.post(&format!("/v1/sessions/{session}"), json!({ "title": evil })).await;
    let mut all = vec![followed];
    for command in [
        &["logs", &session][..],
        &["logs", &session, "--json"],
        &["logs", &session, "-f"],
        &["sessions", "list"],
        &["sessions", "list", "--json"],
        &["sessions", "show", &session],
        &["deployments", "list"],
        &["deployments", "show", id(&deployment)],
        &["runs"],
        &["runs", "--json"],
    ] {
        all.push(shell.run(command).await.with(0));
    }
    all.push(shell.run(&["run", &format!("b{evil}")]).await.refused(3));
    for said in all {
        assert!(said.contains("owned"), "{said}");
        let acts = said.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(acts, None, "{said:?}");
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_away_ends_a_command_quietly() {
    let rota = Rota::start().await;
    let shell = Shell::of(&rota.api);
    let parts = Parts::new(&rota.api).await;
    let session = parts.session_with(&rota.api, script("echo hello")).await;
    shell.run(&["logs", id(&session), "-f"]).await.with(0);
    for command in
        [&["logs", id(&session)][..], &["logs", id(&session), "-f"], &["agents", "list"], &["completions", "bash"]]
    {
        let mut running = shell.command(command).spawn().unwrap();
        drop(running.stdout.take());
        let output = timeout(2 * PATIENCE, running.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(0), String::new()),
            "{command:?}"
        );
    }
}

#[tokio::test]
async fn a_login_keeps_the_key_for_its_user_alone() {
    let rota = Rota::without_engine().await;
    let mut shell = Shell::of(&rota.api);
    let (url, key) = (std::mem::take(&mut shell.url), std::mem::take(&mut shell.key));
    let login = async |key: &str| {
        let mut running =
            shell.command(&["login", "--url", &url, "--profile", "work"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = running.stdin.take().unwrap();
        stdin.write_all(format!("{key}\n").as_bytes()).await.unwrap();
        drop(stdin);
        Ran::of(timeout(PATIENCE, running.wait_with_output()).await.unwrap().unwrap())
    };
    let file = shell.home.path().join(".config/rota/profiles.toml");
    login("").await.refused(2);
    login("sk-rota-wrong").await.refused(4);
    assert!(!file.exists(), "what the server does not take is not kept");
    let said = login(&key).await.with(0);
    assert!(said.contains("profile work is in") && !said.contains(&key), "{said}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for command in [&["ps", "--json"][..], &["ps", "--json", "--profile", "work"], &["ps", "--json", "--url", &url]] {
        shell.run(command).await.with(0);
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = shell.run(&["ps"]).await.refused(2);
    assert!(refused.contains("others may read or change it (mode 0644): chmod 600"), "{refused}");
}

#[tokio::test]
async fn completions_and_manual_pages_name_the_commands() {
    let shell = Shell { home: TempDir::new().unwrap(), url: String::new(), key: String::new() };
    for kind in ["bash", "zsh", "fish"] {
        let text = shell.run(&["completions", kind]).await.with(0);
        assert!(["attention", "unpause", "idempotency-key"].iter().all(|word| text.contains(word)), "{kind}");
    }
    let page = shell.run(&["man"]).await.with(0);
    assert!(page.starts_with(".ie") || page.contains(".TH rota 1"), "{page}");
    let folder = shell.home.path().join("man1");
    shell.run(&["man", "--to", folder.to_str().unwrap()]).await.with(0);
    let run = fs::read_to_string(folder.join("rota-run.1")).unwrap();
    assert!(run.contains("idempotency"), "{run}");
    assert!(folder.join("rota-deployments-list.1").exists() && folder.join("rota-serve.1").exists());
}
