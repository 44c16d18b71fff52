//! `rota apply`, `rota export` and `rota import`: the real program, against real servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rota_server::clock::Clock;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};

use crate::{
    client::Api,
    given::{Parts, agent, environment, id, over, toolset},
    process::{self, Server, create_key},
    server::Rota,
    skills,
};

/// How `rota apply --dry-run` ends where something would change.
const CHANGES: i32 = 7;

/// An apply that nobody listens to.
fn silent(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The program, with `arguments`, as a client of the server at `base`.
fn program(base: &str, key: &str, arguments: &[&str]) -> Command {
    let mut command = Command::from(process::rota());
    command.args(arguments).env("ROTA_URL", base).env("ROTA_API_KEY", key).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(api: &Api, arguments: &[&str]) -> Output {
    program(&api.base, &api.key, arguments).output().await.unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A directory of files.
struct Files {
    folder: TempDir,
}

impl Files {
    /// That of a project `name`, with nothing in it.
    fn of(name: &str) -> Self {
        let files = Self { folder: TempDir::new().unwrap() };
        files.put("rota.yaml", &format!("project: {name}\n"));
        files
    }

    /// An agent, an environment and a deployment.
    fn three() -> Self {
        let files = Self::of("acme");
        files.put("environments/workshop.yaml", "name: Workshop\n");
        files.put("agents/worker.md", "---\nname: Worker\nmodel: playbook\n---\nYou work.\n");
        files.put("deployments/nightly.md", "---\nname: Nightly\nagent: worker\nenvironment: workshop\n---\nGo.\n");
        files
    }

    /// The example of the documentation.
    fn example() -> Self {
        let files = Self { folder: TempDir::new().unwrap() };
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/project"), files.folder.path());
        files
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn change(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.at(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from}");
        self.put(path, &text.replace(from, to));
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
    }

    /// The arguments of an apply, which may make secrets.
    fn arguments<'a>(&'a self, more: &[&'a str], secrets: &'a str) -> Vec<&'a str> {
        [&["apply", "-f", self.path(), "--secrets", secrets], more].concat()
    }

    async fn apply(&self, api: &Api, more: &[&str]) -> String {
        let aside = TempDir::new().unwrap();
        let secrets = aside.path().join("secrets").to_str().unwrap().to_owned();
        let output = run(api, &self.arguments(more, &secrets)).await;
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    async fn changes_nothing(&self, api: &Api) {
        let output = run(api, &["apply", "-f", self.path(), "--dry-run"]).await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains("nothing to change"), "{}", said(&output));
    }

    async fn refused(&self, api: &Api, more: &[&str]) -> String {
        let output = run(api, &[&["apply", "-f", self.path()], more].concat()).await;
        assert!(!output.status.success(), "{}", said(&output));
        said(&output)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// The lists of what files describe.
const LISTS: [&str; 6] =
    ["/v1/vaults", "/v1/skills", "/v1/environments", "/v1/agents", "/v1/deployments", "/rota/v1/webhook_endpoints"];

/// Everything of the server that is not archived, by list.
async fn everything(api: &Api) -> BTreeMap<&'static str, Vec<Value>> {
    let mut everything = BTreeMap::new();
    for list in LISTS {
        everything.insert(list, api.all(list, 100).await);
    }
    everything
}

/// The one resource of a list with this name.
async fn named(api: &Api, list: &str, name: &str) -> Value {
    let rows = api.all(list, 100).await;
    let found: Vec<&Value> = rows.iter().filter(|row| row["name"] == name || row["display_name"] == name).collect();
    assert_eq!(found.len(), 1, "{list} {name}: {rows:#?}");
    found[0].clone()
}

async fn count(api: &Api) -> usize {
    everything(api).await.values().map(Vec::len).sum()
}

#[tokio::test]
async fn an_agent_an_environment_and_a_deployment_are_applied_and_a_second_time_nothing_changes() {
    let rota = Rota::without_engine().await;
    let files = Files::three();
    let dry = run(&rota.api, &["apply", "-f", files.path(), "--dry-run"]).await;
    assert_eq!(dry.status.code(), Some(CHANGES), "{}", said(&dry));
    assert_eq!(count(&rota.api).await, 0, "a dry run changes nothing");
    files.apply(&rota.api, &[]).await;
    let agent = named(&rota.api, "/v1/agents", "Worker").await;
    assert_eq!((&agent["system"], &agent["version"]), (&json!("You work."), &json!(1)));
    assert_eq!(agent["metadata"], json!({"rota.dev/key": "acme/worker"}));
    let deployment = named(&rota.api, "/v1/deployments", "Nightly").await;
    assert_eq!(deployment["agent"]["id"], agent["id"]);
    assert_eq!(deployment["initial_events"][0]["content"][0]["text"], "Go.");
    let before = everything(&rota.api).await;
    files.changes_nothing(&rota.api).await;
    files.apply(&rota.api, &[]).await;
    assert_eq!(everything(&rota.api).await, before);
}

#[tokio::test]
async fn the_example_is_applied_whole_and_a_second_time_nothing_changes() {
    let rota = Rota::without_engine().await;
    let files = Files::example();
    let refused = files.refused(&rota.api, &[]).await;
    assert!(refused.contains("name a file for it with --secrets FILE"), "{refused}");
    assert_eq!(count(&rota.api).await, 0);
    let secrets = files.folder.path().with_extension("secrets");
    let output = run(&rota.api, &files.arguments(&[], secrets.to_str().unwrap())).await;
    assert!(output.status.success(), "{}", said(&output));
    let kept = fs::read_to_string(&secrets).unwrap();
    assert_eq!(fs::metadata(&secrets).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&secrets).unwrap();
    let lines: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["hook", "webhook"]);
    for secret in [&lines[0]["secret"], &lines[1]["signing_secret"]] {
        assert!(!said(&output).contains(secret.as_str().unwrap()), "a secret is in no output");
    }
    let deployment = named(&rota.api, "/v1/deployments", "Nightly review").await;
    assert_eq!(deployment["schedule"]["expression"], "0 2 * * 1-5");
    let policy = rota.api.get(&format!("/rota/v1/deployments/{}/policy", id(&deployment))).await;
    assert_eq!(
        (&policy["overlap"], &policy["jitter"], &policy["retry"]["max_attempts"]),
        (&json!("skip"), &json!(60), &json!(3))
    );
    let lead = named(&rota.api, "/v1/agents", "Lead").await;
    let reviewer = named(&rota.api, "/v1/agents", "Reviewer").await;
    assert_eq!(lead["multiagent"]["agents"][0]["id"], reviewer["id"]);
    files.changes_nothing(&rota.api).await;
}

#[tokio::test]
async fn a_rename_in_a_file_renames_one_resource_and_makes_none() {
    let rota = Rota::without_engine().await;
    let files = Files::three();
    files.apply(&rota.api, &[]).await;
    let mut before = everything(&rota.api).await;
    files.change("environments/workshop.yaml", "Workshop", "Workbench");
    let plan = run(&rota.api, &["apply", "-f", files.path(), "--dry-run", "--json"]).await;
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!((&plan["created"], &plan["changed"], &plan["removed"]), (&json!(0), &json!(1), &json!(0)));
    let difference = json!([{"field": "name", "old": "Workshop", "new": "Workbench"}]);
    assert_eq!(plan["changes"][0]["differences"], difference);
    files.apply(&rota.api, &[]).await;
    let mut after = everything(&rota.api).await;
    let (old, new) = (before.remove("/v1/environments").unwrap(), after.remove("/v1/environments").unwrap());
    assert_eq!((old.len(), new.len()), (1, 1));
    assert_eq!((&new[0]["id"], &new[0]["name"]), (&old[0]["id"], &json!("Workbench")));
    assert_eq!(after, before, "everything else is as it was");
}

#[tokio::test]
async fn a_deployment_runs_the_agent_as_its_file_is_now() {
    let rota = Rota::without_engine().await;
    let files = Files::three();
    files.apply(&rota.api, &[]).await;
    files.change("agents/worker.md", "You work.", "You work\nwith care.");
    let told = files.apply(&rota.api, &[]).await;
    assert!(told.contains("-You work.") && told.contains("+with care."), "{told}");
    let deployment = named(&rota.api, "/v1/deployments", "Nightly").await;
    assert_eq!(deployment["agent"]["version"], 2);
    let shown = run(&rota.api, &["deployments", "show", "nightly", "--json"]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["id"], deployment["id"], "the key of its file is a name too");
    files.changes_nothing(&rota.api).await;
}

#[tokio::test]
async fn what_is_taken_out_of_a_file_is_cleared() {
    let rota = Rota::without_engine().await;
    let files = Files::example();
    files.apply(&rota.api, &[]).await;
    files.put("agents/reviewer.md", "---\nname: Reviewer\nmodel: playbook\n---\n");
    files.put("agents/lead.yaml", "name: Lead\nmodel: playbook\n");
    files.put("environments/python.yaml", "name: Python\n");
    files.put("deployments/nightly.md", "---\nname: Nightly review\nagent: reviewer\nenvironment: python\n---\nGo.\n");
    files.apply(&rota.api, &[]).await;
    let reviewer = named(&rota.api, "/v1/agents", "Reviewer").await;
    assert_eq!((&reviewer["system"], &reviewer["description"]), (&Value::Null, &Value::Null));
    assert_eq!((&reviewer["tools"], &reviewer["skills"]), (&json!([]), &json!([])));
    let lead = named(&rota.api, "/v1/agents", "Lead").await;
    assert_eq!((&lead["multiagent"], &lead["model"]["effort"]["type"]), (&Value::Null, &json!("high")));
    let python = named(&rota.api, "/v1/environments", "Python").await;
    assert_eq!(python["metadata"], json!({"rota.dev/key": "example/python"}));
    assert_eq!(
        (&python["config"]["networking"]["type"], &python["config"]["packages"]["pip"]),
        (&json!("unrestricted"), &json!([]))
    );
    let nightly = named(&rota.api, "/v1/deployments", "Nightly review").await;
    assert_eq!((&nightly["schedule"], &nightly["vault_ids"]), (&Value::Null, &json!([])));
    let policy = rota.api.get(&format!("/rota/v1/deployments/{}/policy", id(&nightly))).await;
    assert_eq!(
        (&policy["overlap"], &policy["jitter"], &policy["max_session_seconds"]),
        (&json!("allow"), &json!("off"), &Value::Null)
    );
    files.changes_nothing(&rota.api).await;
}

#[tokio::test]
async fn a_file_that_is_wrong_is_named_with_its_line_and_nothing_is_changed() {
    let rota = Rota::without_engine().await;
    let large = format!("name: a\nmodel: playbook\nsystem: {}\n", "x".repeat(1024 * 1024));
    for (path, text, wanted) in [
        ("agents/a.yaml", "name: a\n", "agents/a.yaml: model: Field required"),
        ("agents/a.yaml", "name: a\nmodel: playbook\ntools:\n  - type: nothing\n", "agents/a.yaml:3: tools"),
        ("agents/a.yaml", "name: a\nmodel: playbook\nname: b\n", "agents/a.yaml:3: is not YAML that can be read"),
        ("agents/a.yaml", "name: [\n", "agents/a.yaml:"),
        ("agents/a.md", "name: a\n", "agents/a.md:1: must begin with a line `---`"),
        (
            "agents/a.yaml",
            "name: a\nmodel: playbook\nskills: [missing]\n",
            "agents/a.yaml:3: skills: there is no skill \"missing\"",
        ),
        ("agents/a.yaml", &large, "agents/a.yaml: has more than 1048576 bytes"),
        ("agents/A.yaml", "name: a\nmodel: playbook\n", "agents/A.yaml: the name of a file is a key"),
        ("agents/worker.yaml", "name: a\nmodel: playbook\n", "there is another file for the agent worker"),
        ("agents/more/a.yaml", "name: a\nmodel: playbook\n", "agents/more: is a folder"),
        ("agent/a.yaml", "name: a\nmodel: playbook\n", "agent: no resources are in a folder of this name"),
        ("a.yaml", "name: a\n", "a.yaml: put it into the folder of its kind"),
        (
            "agents/a.yaml",
            "name: a\nmodel: playbook\nmetadata: {rota.dev/key: x/y}\n",
            "agents/a.yaml:3: metadata.rota.dev/key",
        ),
        (
            "deployments/a.md",
            "---\nname: a\nagent: worker\nenvironment: nowhere\n---\nGo.\n",
            "deployments/a.md:4: environment: there is no environment \"nowhere\"",
        ),
        (
            "deployments/a.md",
            "---\nname: a\nagent: agent_011111111111111111111111\nenvironment: workshop\n---\nGo.\n",
            "deployments/a.md:3: agent: the server has no agent",
        ),
        ("deployments/a.yaml", "name: a\nagent: worker\nenvironment: workshop\n", "initial_events: Field required"),
        (
            "deployments/a.md",
            "---\nname: a\nagent: worker\nenvironment: workshop\npolicy: {overlap: never}\n---\nGo.\n",
            "deployments/a.md:5: policy.overlap",
        ),
        (
            "deployments/a.md",
            "---\nname: a\nagent: worker\nenvironment: workshop\nhooks:\n  x: {scheme: github, secret: 0123456789abcdef}\n---\nGo.\n",
            "hooks.x.secret: a file has no secrets; write `secret_env: NAME`",
        ),
        (
            "vaults/a.yaml",
            "display_name: a\ntoken: sk-very-secret\n",
            "vaults/a.yaml:2: token: a file has no secrets, and a vault in it only a name",
        ),
        ("skills/a/other.md", "x", "skills/a/SKILL.md: is missing"),
        (
            "webhooks/a.yaml",
            "url: https://a.example\nenabled_events: [nothing.happened]\n",
            "webhooks/a.yaml:2: enabled_events",
        ),
        ("rota.yaml", "project: No Name\n", "rota.yaml: project: 1 to 64 lowercase letters"),
    ] {
        let files = Files::three();
        files.put(path, text);
        let refused = files.refused(&rota.api, &[]).await;
        assert!(refused.contains("nothing was changed") && refused.contains(wanted), "{path}: {wanted}\n{refused}");
        assert!(!refused.contains("sk-very-secret"), "{refused}");
        assert_eq!(count(&rota.api).await, 0, "{path}");
    }
    let files = Files::three();
    files.remove("rota.yaml");
    assert!(files.refused(&rota.api, &[]).await.contains("rota.yaml: is missing: write a line `project: NAME`"));
}

#[tokio::test]
async fn no_link_is_followed() {
    let rota = Rota::without_engine().await;
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("a.yaml"), "name: a\nmodel: playbook\n").unwrap();
    for (link, to) in [("agents/a.yaml", outside.path().join("a.yaml")), ("vaults", outside.path().to_owned())] {
        let files = Files::three();
        symlink(to, files.at(link)).unwrap();
        let refused = files.refused(&rota.api, &[]).await;
        assert!(refused.contains(&format!("{link}: is a link or a device")), "{refused}");
    }
    assert_eq!(count(&rota.api).await, 0);
}

#[tokio::test]
async fn pruning_takes_what_is_in_no_file_of_its_own_project() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let by_hand = Parts::new(api).await;
    let other = Files::of("other");
    other.put("agents/worker.yaml", "name: Worker of another\nmodel: playbook\n");
    other.apply(api, &[]).await;
    let files = Files::example();
    files.apply(api, &[]).await;
    for file in ["agents/lead.yaml", "deployments/nightly.md", "webhooks/on-call.yaml", "vaults/github.yaml"] {
        files.remove(file);
    }
    files.put("agents/reviewer.md", "---\nname: Reviewer\nmodel: playbook\n---\nYou review.\n");
    fs::remove_dir_all(files.at("skills")).unwrap();
    let kept = files.apply(api, &[]).await;
    assert!(kept.contains("is in no file; --prune removes it"), "{kept}");
    named(api, "/v1/deployments", "Nightly review").await;
    files.apply(api, &["--prune"]).await;
    let left = everything(api).await;
    let names = |list: &str| -> BTreeSet<String> {
        left[list].iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/v1/agents"), ["Reviewer", "Worker of another", "worker"].map(str::to_owned).into());
    assert_eq!(names("/v1/environments"), ["Python", "workshop"].map(str::to_owned).into());
    for list in ["/v1/deployments", "/v1/skills", "/v1/vaults", "/rota/v1/webhook_endpoints"] {
        assert!(left[list].is_empty(), "{list}: {:#?}", left[list]);
    }
    files.changes_nothing(api).await;
    let reviewer = named(api, "/v1/agents", "Reviewer").await;
    let foreign = by_hand.deployment(api, json!({"name": "foreign", "agent": id(&reviewer)})).await;
    files.remove("agents/reviewer.md");
    let refused = files.refused(api, &["--prune"]).await;
    assert!(refused.contains(&format!("and with it the deployment {}", id(&foreign))), "{refused}");
}

#[tokio::test]
async fn what_a_server_does_not_change_is_refused_before_anything_is_changed() {
    let rota = Rota::without_engine().await;
    let files = Files::example();
    files.apply(&rota.api, &[]).await;
    let before = everything(&rota.api).await;
    for (path, from, to, wanted) in [
        ("deployments/nightly.md", "scheme: github", "scheme: standard", "hooks.push.scheme: a hook cannot be changed"),
        (
            "skills/report/SKILL.md",
            "name: report",
            "name: table",
            "the name in SKILL.md (report, not table) cannot be changed",
        ),
        ("environments/python.yaml", "name: Python", "name: Snake", ""),
    ] {
        files.change(path, from, to);
        if wanted.is_empty() {
            continue;
        }
        let refused = files.refused(&rota.api, &[]).await;
        assert!(refused.contains(wanted), "{refused}");
        assert_eq!(everything(&rota.api).await, before);
        files.change(path, to, from);
    }
}

#[tokio::test]
async fn twins_are_told_and_not_chosen_between() {
    let rota = Rota::without_engine().await;
    let files = Files::three();
    files.apply(&rota.api, &[]).await;
    let twin = agent(&rota.api, json!({"name": "twin", "metadata": {"rota.dev/key": "acme/worker"}})).await;
    let refused = files.refused(&rota.api, &[]).await;
    assert!(refused.contains("2 resources have the label acme/worker") && refused.contains(id(&twin)), "{refused}");
}

#[tokio::test]
async fn a_skill_has_another_version_when_a_file_of_it_changes() {
    let rota = Rota::without_engine().await;
    let files = Files::example();
    files.apply(&rota.api, &[]).await;
    let skill = rota.api.all("/v1/skills", 10).await.remove(0);
    assert_eq!(skill["display_name"], "report [rota.dev/key=example/report]");
    fs::set_permissions(files.at("skills/report/scripts/table.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    let told = files.apply(&rota.api, &[]).await;
    assert!(told.contains("scripts/table.sh: \"a file\" → \"another file\""), "{told}");
    let versions = rota.api.all(&format!("/v1/skills/{}/versions", id(&skill)), 10).await;
    assert_eq!(versions.len(), 2);
    files.changes_nothing(&rota.api).await;
}

/// What stands between a client and a server: it counts what changes something, and may kill at one.
struct Between {
    base: String,
    seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    to: Mutex<String>,
    paths: Mutex<Vec<String>>,
    /// After how many changes that came through something is killed, and what.
    killer: Mutex<Option<(usize, Kill)>>,
}

type Kill = Box<dyn FnOnce() + Send>;

impl Between {
    async fn new(to: &str) -> Self {
        let seen = Arc::new(Seen { to: Mutex::new(to.to_owned()), ..Seen::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shared = seen.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = shared.clone();
                let service = service_fn(move |request| pass(seen.clone(), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { base, seen, _serving: serving }
    }

    /// Calls `kill` after the server has made the `at`th change from now, before the client hears of it.
    fn kill_at(&self, at: usize, kill: impl FnOnce() + Send + 'static) {
        *self.seen.killer.lock().unwrap() = Some((at, Box::new(kill)));
    }
}

/// More than any request or answer of these tests has.
const MOST: usize = 1 << 26;

async fn pass(seen: Arc<Seen>, request: Request<Incoming>) -> reqwest::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    seen.paths.lock().unwrap().push(parts.uri.path().to_owned());
    let to = seen.to.lock().unwrap().clone();
    let client = reqwest::Client::builder().tls_backend_preconfigured(rota_server::tls::client_config().unwrap());
    let mut request = client.no_proxy().build()?.request(parts.method.clone(), format!("{to}{}", parts.uri));
    for (name, value) in &parts.headers {
        if name != "host" && name != "content-length" {
            request = request.header(name, value);
        }
    }
    let answer = request.body(to_bytes(Body::new(body), MOST).await.unwrap()).send().await?;
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    let content = answer.bytes().await?;
    let kill = if parts.method == Method::GET { None } else { seen.counts_down() };
    if let Some(kill) = kill {
        kill();
        std::future::pending::<()>().await;
    }
    Ok(response.body(Body::from(content)).unwrap())
}

impl Seen {
    /// What is to be done after the change that has just come through.
    fn counts_down(&self) -> Option<Kill> {
        let mut killer = self.killer.lock().unwrap();
        let (left, kill) = killer.take()?;
        if left == 1 {
            return Some(kill);
        }
        *killer = Some((left - 1, kill));
        None
    }
}

/// Everything of a server as the same things of another one are there too: without ids, times and labels, and names in the places
/// of ids.
async fn comparable(api: &Api) -> BTreeMap<&'static str, Vec<String>> {
    let found = everything(api).await;
    let mut names = BTreeMap::new();
    for rows in found.values() {
        for row in rows {
            let name = row.get("name").or(row.get("display_name")).unwrap().as_str().unwrap();
            names.insert(id(row).to_owned(), name.split(" [rota.dev").next().unwrap().to_owned());
        }
    }
    let mut comparable = BTreeMap::new();
    for (list, rows) in &found {
        let mut texts = Vec::new();
        for row in rows {
            let mut value = row.clone();
            if *list == "/v1/deployments" {
                let path = format!("/rota/v1/deployments/{}", id(row));
                value["policy"] = api.get(&format!("{path}/policy")).await;
                value["hooks"] = api.get(&format!("{path}/hooks")).await["data"].take();
            }
            if *list == "/v1/skills" {
                let path = format!("/v1/skills/{}/versions/{}", id(row), row["latest_version_id"].as_str().unwrap());
                value["version"] = api.get(&path).await;
                let content = api.request(Method::GET, &format!("{path}/content")).send().await.unwrap();
                value["content"] = json!(content.bytes().await.unwrap().to_vec());
            }
            strip(&mut value);
            let mut text = serde_json::to_string_pretty(&value).unwrap();
            for (id, name) in &names {
                text = text.replace(id, name);
            }
            texts.push(text);
        }
        texts.sort();
        comparable.insert(*list, texts);
    }
    comparable
}

/// Takes out what is of one store only.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|field, value| {
                let own = ["created_at", "updated_at", "version", "latest_version_id", "path", "upcoming_runs_at"];
                let is_own_id = field == "id" && !value.as_str().is_some_and(|id| id.starts_with("agent_"));
                !field.starts_with("rota.dev/") && !is_own_id && (!own.contains(&field.as_str()) || value.is_object())
            });
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::String(text) => {
            if let Some(at) = text.find("[rota.dev/") {
                text.truncate(at);
                text.truncate(text.trim_end().len());
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn an_apply_that_is_killed_after_each_change_ends_in_what_one_that_is_not_makes() {
    let (whole, killed) = (Rota::without_engine().await, Rota::without_engine().await);
    let files = Files::example();
    files.apply(&whole.api, &[]).await;
    let between = Between::new(&killed.api.base).await;
    let secrets = TempDir::new().unwrap();
    let secrets = secrets.path().join("secrets").to_str().unwrap().to_owned();
    let mut kills = 0;
    loop {
        let mut child = silent(program(&between.base, &killed.api.key, &files.arguments(&[], &secrets)));
        let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        between.kill_at(1, move || rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap());
        if child.wait().await.unwrap().success() {
            break;
        }
        kills += 1;
        assert!(kills < 40, "each apply goes on from where the last one was killed");
    }
    // Three agents and environments, a skill, a vault, a webhook, a hook; a deployment is made in three steps.
    assert!(kills >= 9, "{kills} kills");
    files.changes_nothing(&killed.api).await;
    assert_eq!(comparable(&killed.api).await, comparable(&whole.api).await);
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_an_apply_has_what_the_next_one_makes_whole() {
    let whole = Rota::without_engine().await;
    let files = Files::example();
    files.apply(&whole.api, &[]).await;
    let folder = TempDir::new().unwrap();
    let mut server = Server::new(folder.path(), &[]);
    server.start().await;
    let key = create_key(folder.path(), &[]);
    let between = Between::new(&format!("http://{}", server.address)).await;
    let secrets = folder.path().join("secrets.of.apply").to_str().unwrap().to_owned();
    for at in [2, 3, 4] {
        let pid = rustix::process::Pid::from_raw(server.pid().unwrap().cast_signed()).unwrap();
        let mut child = silent(program(&between.base, &key, &files.arguments(&[], &secrets)));
        let client = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        between.kill_at(at, move || {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            rustix::process::kill_process(client, rustix::process::Signal::TERM).unwrap();
        });
        assert!(!child.wait().await.unwrap().success());
        server.kill();
        server.start().await;
    }
    let api = Api::new(server.address, key, Clock::System);
    files.apply(&api, &[]).await;
    files.changes_nothing(&api).await;
    assert_eq!(comparable(&api).await, comparable(&whole.api).await);
}

#[tokio::test]
async fn two_that_apply_at_once_leave_one_of_each() {
    let rota = Rota::at(Clock::System, |config| config.engine.concurrency = 0).await;
    let files = Files::three();
    files.put("agents/second.yaml", "name: Second\nmodel: playbook\n");
    files.put("vaults/keys.yaml", "display_name: Keys\n");
    let arguments = ["apply", "-f", files.path()];
    let (one, two) = tokio::join!(run(&rota.api, &arguments), run(&rota.api, &arguments));
    // Who came second may have met what the other one took back meanwhile: it says so, and again is enough.
    for output in [one, two] {
        assert!(output.status.success() || said(&output).contains("error: "), "{}", said(&output));
    }
    files.apply(&rota.api, &[]).await;
    files.changes_nothing(&rota.api).await;
    let left = everything(&rota.api).await;
    let counts: Vec<usize> = LISTS.iter().map(|list| left[list].len()).collect();
    assert_eq!(counts, [1, 0, 1, 2, 1, 0], "{left:#?}");
}

/// A server with the example, and with what people make by hand.
async fn furnished() -> Rota {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    Files::example().apply(api, &[]).await;
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": []});
    let tools = json!([
        over(toolset(), &json!({"configs": [{"name": "web_search", "enabled": false}]})),
        {"type": "custom", "name": "ask", "description": "Asks: \"yes\" or no?\n", "input_schema": schema},
        {"type": "mcp_toolset", "mcp_server_name": "docs"},
    ]);
    let servers = json!([{"type": "url", "name": "docs", "url": "https://mcp.example.com/mcp"}]);
    let system = "\n  You keep line breaks.\r\n---\nno: front matter\n\n";
    let by_hand = agent(
        api,
        json!({
            "name": "By hand: #1", "tools": tools, "mcp_servers": servers, "system": system,
            "model": {"id": "playbook", "effort": "max"}, "metadata": {"yes": "no", "1": "0123"},
        }),
    )
    .await;
    let skill = skills::skill(api, "chart").await;
    let skilled = json!({"name": "By hand: #1", "skills": [{"type": "custom", "skill_id": id(&skill)}]});
    agent(api, over(skilled, &json!({"description": "null"}))).await;
    let workshop = environment(api, "Workshop").await;
    let events = json!([
        {"type": "user.message", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two: {{x}}"}]},
    ]);
    let body = json!({
        "name": "By hand", "agent": id(&by_hand), "environment_id": id(&workshop), "initial_events": events,
        "schedule": {"type": "cron", "expression": "*/5 * * * *", "timezone": "UTC"},
    });
    let deployment = api.post("/v1/deployments", body).await;
    let policy =
        json!({"spend": {"per_day_cents": 100}, "unattended": {"answer_within_seconds": 60}, "catch_up_seconds": 60});
    api.post(&format!("/rota/v1/deployments/{}/policy", id(&deployment)), policy).await;
    let hook = json!({"scheme": "bearer", "max_per_minute": 5});
    api.post(&format!("/rota/v1/deployments/{}/hooks", id(&deployment)), hook).await;
    api.call(&format!("/v1/deployments/{}/pause", id(&deployment))).await;
    rota
}

#[tokio::test]
async fn what_is_exported_makes_an_empty_store_equal() {
    let (from, to) = (furnished().await, Rota::without_engine().await);
    let files = Files { folder: TempDir::new().unwrap() };
    let output = run(&from.api, &["export", "--to", files.path(), "--project", "example"]).await;
    assert!(output.status.success(), "{}", said(&output));
    files.apply(&to.api, &[]).await;
    files.changes_nothing(&to.api).await;
    let (wanted, made) = (comparable(&from.api).await, comparable(&to.api).await);
    for list in LISTS {
        assert_eq!(made[list].join("\n"), wanted[list].join("\n"), "{list}");
    }
    let again = run(&from.api, &["export", "--to", files.path()]).await;
    assert!(!again.status.success() && said(&again).contains("is not empty"), "{}", said(&again));
}

#[tokio::test]
async fn what_is_exported_takes_over_what_is_there_and_makes_nothing_new() {
    let rota = furnished().await;
    let before = comparable(&rota.api).await;
    let files = Files { folder: TempDir::new().unwrap() };
    run(&rota.api, &["export", "--to", files.path(), "--project", "example"]).await;
    let told = files.apply(&rota.api, &[]).await;
    assert!(told.contains("\n0 to create, ") || told.starts_with("0 to create, "), "{told}");
    assert_eq!(comparable(&rota.api).await, before);
    files.changes_nothing(&rota.api).await;
}

#[tokio::test]
async fn an_import_asks_the_official_api_alone_and_what_it_makes_does_not_fire_yet() {
    let (from, to) = (furnished().await, Rota::without_engine().await);
    let between = Between::new(&from.api.base).await;
    let arguments = ["import", "--from-url", &between.base, "--from-key-env", "KEY_OF_SOURCE", "--apply"];
    let mut command = program(&to.api.base, &to.api.key, &arguments);
    let output = command.env("KEY_OF_SOURCE", &from.api.key).output().await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let paths = between.seen.paths.lock().unwrap().clone();
    assert!(!paths.is_empty() && paths.iter().all(|path| path.starts_with("/v1/")), "{paths:?}");
    let (wanted, made) = (comparable(&from.api).await, comparable(&to.api).await);
    for list in ["/v1/vaults", "/v1/skills", "/v1/environments", "/v1/agents"] {
        assert_eq!(made[list].join("\n"), wanted[list].join("\n"), "{list}");
    }
    let deployments = to.api.all("/v1/deployments", 100).await;
    assert_eq!(deployments.len(), 2);
    for deployment in deployments {
        assert_eq!(
            (&deployment["status"], deployment["schedule"].is_null()),
            (&json!("paused"), false),
            "{deployment}"
        );
    }
    assert!(to.api.all("/rota/v1/webhook_endpoints", 100).await.is_empty());
}
