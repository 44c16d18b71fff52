//! A deployment that mounts one of everything, run by hand and by its schedule, with an agent that uses each.

use rota_server::config::Role;
use serde_json::{Value, json};

use crate::{
    client::Api,
    database::NEEDED,
    files::upload,
    git_server::{GitServer, Manner},
    given::{Parts, agent, environment, id, message, over, script},
    memory_stores::{memories, memory, path, store},
    repositories::{allow, repository},
    scheduled::{fire_on, nine_o_clock},
    server::{Rota, appears},
    skills::skill,
    stream::text,
    upstream::{Reply, Upstream},
    vaults::{credentials, variable},
};

/// Something that the deployment mounts, and how its agent shows that it is there.
struct Mount {
    /// The resource of the deployment; `None` for a skill, which is the agent's.
    resource: Option<Value>,
    /// What the agent runs.
    script: &'static str,
    /// What it reads then.
    said: &'static str,
}

/// The deployment, and what it writes to.
struct Scene {
    mounts: Vec<Mount>,
    deployment: Value,
    notes: Value,
    rules: Value,
}

impl Scene {
    async fn set(api: &Api, host: &GitServer) -> Self {
        host.repository("o/app", |folder| std::fs::write(folder.join("README.md"), "read me\n").unwrap());
        let (numbers, words) =
            (upload(api, "numbers.csv", b"1,2,3\n").await, upload(api, "words.txt", b"hello\n").await);
        let (notes, rules) = (store(api, "Notes").await, store(api, "Rules").await);
        memory(api, &notes, "/known.md", "what is known").await;
        memory(api, &rules, "/style.md", "be brief").await;
        let report = skill(api, "report").await;
        let file = |file: &Value, at: &str| json!({"type": "file", "file_id": id(file), "mount_path": at});
        let memory = |store: &Value, access: &str| json!({"type": "memory_store", "memory_store_id": id(store), "access": access});
        let mount = |resource, script, said| Mount { resource, script, said };
        let mounts = vec![
            mount(Some(file(&numbers, "/data/numbers.csv")), "cat /mnt/session/uploads/data/numbers.csv", "1,2,3\n"),
            mount(Some(file(&words, "/words.txt")), "cat /mnt/session/uploads/words.txt", "hello\n"),
            mount(
                Some(memory(&rules, "read_only")),
                "cd /mnt/memory/rules && cat style.md && ! echo x 2> /dev/null > style.md && echo ' and kept'",
                "be brief and kept\n",
            ),
            mount(
                Some(memory(&notes, "read_write")),
                "cd /mnt/memory/notes && cat known.md && echo run >> runs.md",
                "what is known",
            ),
            mount(Some(repository(&host.url("o/app"), &json!({}))), "cd /workspace/app && cat README.md", "read me\n"),
            mount(None, "cd /workspace/skills/report && sh scripts/run.sh", "from the skill\n"),
        ];
        let resources: Vec<&Value> = mounts.iter().filter_map(|mount| mount.resource.as_ref()).collect();
        let blocks: Vec<String> = mounts.iter().map(|mount| format!("```bash\n{}\n```", mount.script)).collect();
        let changes =
            over(nine_o_clock(), &json!({"resources": resources, "initial_events": [message(&blocks.join("\n"))]}));
        let skills = json!({"skills": [{"type": "custom", "skill_id": id(&report)}]});
        let parts = Parts { agent: agent(api, skills).await, environment: environment(api, "workshop").await };
        let deployment = parts.deployment(api, changes).await;
        Self { mounts, deployment, notes, rules }
    }

    async fn run(&self, api: &Api) -> Value {
        api.call(&format!("/v1/deployments/{}/run", id(&self.deployment))).await
    }

    /// Waits for the session of a run and checks that each mount was used. The session's id.
    async fn check(&self, api: &Api, run: &Value) -> String {
        assert_eq!(run["error"], Value::Null, "{run}");
        let session = run["session_id"].as_str().unwrap();
        let said = results(api, session, self.mounts.len()).await;
        for (mount, said) in self.mounts.iter().zip(&said) {
            assert_eq!(said, mount.said, "{}", mount.script);
        }
        session.to_owned()
    }
}

/// What the calls of a session returned, once it is at rest and has made so many.
async fn results(api: &Api, session: &str, count: usize) -> Vec<String> {
    let path = format!("/v1/sessions/{session}/events?types=agent.tool_result");
    api.once(&format!("{path}&limit=100"), |page| page["data"].as_array().unwrap().len() == count).await;
    api.once(&format!("/v1/sessions/{session}"), |session| session["status"] == "idle").await;
    api.all(&path, 100).await.iter().map(|result| text(result).to_owned()).collect()
}

async fn content(api: &Api, store: &Value, at: &str) -> Value {
    let all = api.all(&format!("{}?view=full", memories(store)), 20).await;
    all.into_iter().find(|memory| memory["path"] == at).map_or(Value::Null, |memory| memory["content"].clone())
}

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn each_mount_is_used_by_hand_and_by_schedule() {
    let host = GitServer::start(Manner::Private).await;
    let rota = Rota::with(|config| allow(&host, config)).await;
    let api = &rota.api;
    let scene = Scene::set(api, &host).await;
    let by_hand = scene.run(api).await;
    let first = scene.check(api, &by_hand).await;
    let scheduled = fire_on(&rota, 2, &scene.deployment).await;
    let second = scene.check(api, &scheduled).await;
    assert_ne!(first, second);
    assert_eq!(
        content(api, &scene.notes, "/runs.md").await,
        "run\nrun\n",
        "what the first wrote is there for the second"
    );
    assert_eq!(api.all(&memories(&scene.rules), 20).await.len(), 1);
    let versions = api.all(&format!("{}/memory_versions", path(&scene.notes)), 20).await;
    let of_runs = versions.iter().filter(|version| version["path"] == "/runs.md");
    let authors: Vec<&Value> = of_runs.map(|version| &version["created_by"]["session_id"]).collect();
    assert_eq!(authors, [&json!(second), &json!(first)]);
    race(&scene, (&rota, &first), (&rota, &second)).await;
}

/// What the model is told of all that a session can have, word for word.
const TOLD: &str = "Be brief.

Files that the user gave to this session are below `/mnt/session/uploads`, for reading: list that folder to see them. What you \
leave below `/mnt/session/outputs` is handed over to the user when your turn ends.

You have persistent memory: files in the directories below are kept after this session and are there in later ones. Look at them \
before you begin, for they may hold what you need to know. Write down what will be of use later as small text files, each under \
a path that says what it is about. Others may read and change them while you work: when a change of yours was not taken over, \
the result of the tool call says so.

Available stores (write only inside the directories listed below):
 - \"Notes\" → /mnt/memory/notes/ (read-write)
 - \"Rules\" → /mnt/memory/rules/ (read-only)

Git repositories that the user gave to this session (each a shallow clone; git fetches and pushes there with credentials that \
you do not see, where the network allows the host):
 - {host}/o/app → /workspace/app/
 - {host}/o/none is not there: it could not be cloned, because its host has none there, or none that the `authorization_token` \
may know of; check its `url`

## Skills usage policy

A skill is a folder with instructions, and perhaps files, for one kind of task. When a task fits the description of a skill \
below, read the `SKILL.md` in its folder before you begin, and follow it; read the other files there when it refers to them. The \
skills below are at `/workspace/skills/<name>/SKILL.md`, unless their entry names another location.

<available_skills>
<skill>
<name>report</name>
<description>What report is for.</description>
</skill>
</available_skills>

## Network

The sandbox reaches these hosts and no others:

- api.example.com

Any other host is refused: over HTTP with `Host not in allowlist`, over HTTPS with the TLS alert \"access denied\". When a task \
needs one, say so: it has to be added to `allowed_hosts` of the environment. Only names, HTTP and HTTPS go out (ports 53, 80 and \
443, and further ones that the operator opens): no other UDP and no ping. Private and local addresses are not reachable.

## Secrets

Some variables of your shell stand for secrets of the user. You see placeholders; in requests over HTTPS to the hosts below the \
secret takes their place on the way, and in answers it is hidden again. So use a variable as if it were the secret (`curl -H \
\"Authorization: Bearer $NAME\" …`), only there, and not within a URL: elsewhere it means nothing. Do not look for the secret \
itself, and do not write the placeholder into what you hand over.

- `$API_KEY`: in headers to api.example.com, *.example.org, 192.0.2.1";

#[tokio::test]
#[cfg_attr(not(git), ignore = "needs git: apt install git")]
async fn the_model_is_told_of_everything_in_these_words() {
    let host = GitServer::start(Manner::Private).await;
    let upstream = Upstream::start([Reply::Message(vec![json!({"type": "text", "text": "seen"})])]).await;
    let rota = Rota::with(|config| {
        allow(&host, config);
        config.models = vec![upstream.model()];
    })
    .await;
    let api = &rota.api;
    host.repository("o/app", |folder| std::fs::write(folder.join("README.md"), "read me\n").unwrap());
    let file = upload(api, "words.txt", b"hello\n").await;
    let (notes, rules) = (store(api, "Notes").await, store(api, "Rules").await);
    let vault = api.post("/v1/vaults", json!({"display_name": "v"})).await;
    api.post(&credentials(&vault), variable("API_KEY", &json!({}))).await;
    let report = skill(api, "report").await;
    let skills = json!([{"type": "custom", "skill_id": id(&report)}]);
    let reads = agent(api, json!({"model": "house", "system": "Be brief.", "skills": skills})).await;
    let limited = json!({"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["api.example.com"]}});
    let environment = api.post("/v1/environments", json!({"name": "workshop", "config": limited})).await;
    let resources = json!([
        {"type": "file", "file_id": id(&file)},
        {"type": "memory_store", "memory_store_id": id(&notes), "access": "read_write"},
        {"type": "memory_store", "memory_store_id": id(&rules), "access": "read_only"},
        repository(&host.url("o/app"), &json!({})),
        repository(&host.url("o/none"), &json!({})),
    ]);
    let changes = json!({"resources": resources, "vault_ids": [id(&vault)], "initial_events": [message("Look.")]});
    let session = Parts { agent: reads, environment }.session(api, changes).await;
    api.stream_from(id(&session), 0).await.turn().await;
    let asked = upstream.asked();
    let said = asked[0]["system"].as_array().unwrap().iter().map(|block| block["text"].as_str().unwrap());
    let url = host.url("o/app");
    assert_eq!(said.collect::<String>(), TOLD.replace("{host}", url.strip_suffix("/o/app").unwrap()));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn each_mount_is_used_on_two_servers() {
    let host = GitServer::start(Manner::Private).await;
    let one = Rota::with(|config| allow(&host, config)).await;
    let blobs = one.server.app().config.data.join("blobs");
    let two = one.beside(|config| {
        config.blobs.folder = Some(blobs);
        config.roles = [Role::Api].into_iter().collect();
    });
    let two = two.await.expect(NEEDED);
    let scene = Scene::set(&one.api, &host).await;
    let by_hand = scene.run(&two.api).await;
    let first = scene.check(&two.api, &by_hand).await;

    let one = one.restart_with(|config| config.roles = [Role::Api].into_iter().collect()).await;
    let two = two.restart_with(|config| config.roles = [Role::Api, Role::Runner].into_iter().collect()).await;
    let scheduled = fire_on(&one, 2, &scene.deployment).await;
    let second = scene.check(&one.api, &scheduled).await;
    assert_eq!(content(&one.api, &scene.notes, "/runs.md").await, "run\nrun\n");

    let one = one.restart_with(|config| config.roles = [Role::Api, Role::Runner].into_iter().collect()).await;
    race(&scene, (&one, &first), (&two, &second)).await;
}

/// Two sessions, each on its server, write the same memory in calls that overlap: the one that ends first has it, the other's
/// content is kept beside it, and its agent is told.
async fn race(scene: &Scene, (one, first): (&Rota, &str), (two, second): (&Rota, &str)) {
    let api = &one.api;
    let command = |mine: &str| {
        script(&format!(
            "cd /mnt/memory/notes && echo -n {mine} > known.md && touch /workspace/there && \
             until [ -e /workspace/go ]; do sleep 0.01; done"
        ))
    };
    let done = scene.mounts.len() + 1;
    api.events(first, json!([command("first")])).await;
    api.events(second, json!([command("second")])).await;
    appears(one.workspace_file(first, "there")).await;
    appears(two.workspace_file(second, "there")).await;
    std::fs::write(one.workspace_file(first, "go"), "").unwrap();
    let won = results(api, first, done).await;
    std::fs::write(two.workspace_file(second, "go"), "").unwrap();
    let lost = results(api, second, done).await;
    assert!(!won.last().unwrap().contains("somebody else"), "{won:?}");
    let told = lost.last().unwrap();
    assert!(told.contains("/mnt/memory/notes/known.md was changed in the store by somebody else"), "{told}");
    assert_eq!(content(api, &scene.notes, "/known.md").await, "first");
    let all = api.all(&format!("{}?view=full", memories(&scene.notes)), 20).await;
    let beside = all.iter().find(|memory| memory["path"].as_str().unwrap().starts_with("/known.md.conflict-"));
    assert_eq!(beside.unwrap()["content"], "second");
}
