//! The gate while the store is away. On SQLite, which is a file, there is nothing to test here.

use std::{fs, time::Duration};

use reqwest::StatusCode;
use rota_server::limits::EGRESS_LOG_QUEUE;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    ATTACKS, NAMES, limited, log, parts, result,
    secrets::{self, SECRET, keys},
};
use crate::{
    database::{Database, NEEDED},
    given::{id, script, toolset},
    process::{self, PATIENCE},
    proxy::Proxy,
    secure::Secure,
    server::appears,
    stream::{first, text},
    web::Web,
};

/// Connections of one session, each of which has two entries for the log: when it is made, and when it is over.
const CROWD: usize = 1000;

/// The number of a metric, 0 where nothing was counted yet.
async fn metric(client: &process::Client, name: &str) -> usize {
    let text = client.http.get(format!("{}/metrics", client.base)).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let looking = async {
        while !is_so().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(6 * PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn what_the_log_has_no_room_for_while_the_store_is_away_is_counted_and_nothing_stands_still() {
    let (proxy, database) = (Proxy::start().expect(NEEDED), Database::create().expect(NEEDED));
    let web = Web::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("rota.toml"));
    let hosts: Vec<String> = web.hosts(&NAMES).iter().map(|(name, to)| format!("\"{name}\" = {to:?}")).collect();
    let settings = format!("[network]\nopen = [\"127.0.0.1\"]\n[network.hosts]\n{}\n", hosts.join("\n"));
    fs::write(&config, settings).unwrap();
    fs::create_dir(&data).unwrap();
    let url = proxy.url(&database.url()).0;
    let options = ["--config", config.to_str().unwrap(), "--database", &url, "--concurrency", "32"];
    let mut server = process::Server::new(&data, &options);
    server.log = Some(folder.path().join("log"));
    let key = process::create_key(&data, &["--database", &url]);
    server.start().await;
    let client = process::Client::new(server.address, key);

    let agent = client.post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": [toolset()]})).await;
    let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
    let start = async |command: &str| {
        let command =
            format!("touch started; until [ -e go ]; do sleep 0.05; done; {command} > said 2>&1; touch over; cat said");
        let body =
            json!({"agent": id(&agent), "environment_id": id(&environment), "initial_events": [script(&command)]});
        id(&client.post("/v1/sessions", &body).await).to_owned()
    };
    let crowd = format!("/usr/bin/python3 - crowd {CROWD} <<'END_OF_PROGRAM'\n{ATTACKS}\nEND_OF_PROGRAM\n");
    let crowd = format!("{{ {crowd}}}");
    let count = EGRESS_LOG_QUEUE / (2 * CROWD) + 1;
    let mut crowds = Vec::new();
    for _ in 0..count {
        crowds.push(start(&crowd).await);
    }
    let other = start("curl -s http://allowed.example/").await;
    let file = |session: &str, name: &str| data.join("sessions").join(session).join("workspace").join(name);
    for session in crowds.iter().chain([&other]) {
        appears(file(session, "started")).await;
    }

    proxy.close();
    let over = async |session: &str| {
        fs::write(file(session, "go"), "").unwrap();
        until("a command goes on while the store is away", async || file(session, "over").exists()).await;
        fs::read_to_string(file(session, "said")).unwrap()
    };
    for session in &crowds {
        fs::write(file(session, "go"), "").unwrap();
    }
    for session in &crowds {
        assert_eq!(over(session).await.trim(), CROWD.to_string());
    }
    let lost = "rota_egress_rows_lost_total";
    until("rows are lost", async || metric(&client, lost).await > 0).await;
    assert_eq!(over(&other).await.trim(), "hello from allowed.example");
    let ready = client.http.get(format!("{}/readyz", client.base)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let told = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(told.contains("the egress log cannot be written for so long that rows of it are lost"));
    let lost = metric(&client, lost).await;

    proxy.open();
    for session in crowds.iter().chain([&other]) {
        result(&client, session, 0).await;
    }
    // Every connection of which something was kept has a row; nothing more was lost than what was counted.
    let (all, most) = (count * CROWD, 2 * (count * CROWD + 1) - EGRESS_LOG_QUEUE);
    assert!(lost <= most, "{lost} of at most {most}: as many as there is room for are kept");
    let rows = async || {
        let mut rows = 0;
        for session in &crowds {
            rows += client.list(&format!("/rota/v1/sessions/{session}/egress?limit=100")).await.len();
        }
        rows
    };
    until("the rows that were kept are written", async || all - rows().await <= lost).await;
    let counted = metric(&client, "rota_egress_rows_lost_total").await;
    assert_eq!(counted, lost, "none is lost when the store is back");
}

/// Asks on a connection that is open, and on new ones, when it is told to.
const ASKS: &str = "import http.client, os, ssl
key = {'K': os.environ['API_KEY']}
def ask(connection):
    try:
        connection.request('GET', '/', headers=key)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return type(error).__name__, str(error)
old = http.client.HTTPSConnection('api.example', timeout=60)
ask(old)
open('started', 'w').close()
import time
while not os.path.exists('go'): time.sleep(0.02)
for connection in (old, http.client.HTTPSConnection('api.example', timeout=60),
        http.client.HTTPSConnection('never.example', timeout=60, context=ssl._create_unverified_context()),
        http.client.HTTPConnection('api.example', timeout=60)):
    status, body = ask(connection)
    print(status, [line for line in body.splitlines() if line.startswith(('k:', 'A credential'))])
";

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_session_with_secrets_goes_on_or_is_told_why_not_while_the_store_is_away() {
    for is_silent in [false, true] {
        let proxy = Proxy::start().expect(NEEDED);
        let hosts = Secure::start(&secrets::NAMES).await;
        let rota = secrets::rota(&hosts, |config| {
            config.database = config.database.take().map(|url| proxy.url(&url));
        })
        .await;
        let api = &rota.api;
        let (keys, _) = keys(api, &json!({})).await;
        let command = script(&format!(
            "cat > a.py <<'END'\n{ASKS}END\n/usr/bin/python3 a.py > said 2>&1; touch over; echo $API_KEY"
        ));
        let changes = json!({"vault_ids": [id(&keys)], "initial_events": [command]});
        let session = parts(api, limited(&["*.example"])).await.session(api, changes).await;
        let mut stream = api.stream_from(id(&session), 0).await;
        appears(rota.workspace_file(id(&session), "started")).await;
        if is_silent {
            proxy.silence();
        } else {
            proxy.close();
        }
        fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
        until("its connections come to an end", async || rota.workspace_file(id(&session), "over").exists()).await;
        let said = fs::read_to_string(rota.workspace_file(id(&session), "said")).unwrap();
        proxy.open();
        let events = stream.turn().await;
        let placeholder = text(first(&events, "agent.tool_result")).trim().to_owned();
        let echo = format!("200 ['k: {placeholder}']");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        assert_eq!([lines[0], lines[2], lines[3]], [&echo; 3], "what needs no credential goes on: {said}");
        assert!(lines[1].starts_with("502 ['A credential of the session for api.example cannot be used"), "{said}");
        let seen = hosts.seen();
        let asked_with = |text: &str| seen.iter().filter(|request| request.contains(&format!("k: {text}\n"))).count();
        assert_eq!((asked_with(SECRET), asked_with(&placeholder)), (2, 2), "{seen:?}");
        let rows = log(api, &session, 4).await;
        let failed: Vec<&Value> = rows.iter().filter(|row| row["outcome"] == "failed").collect();
        assert!(failed.len() == 1 && failed[0]["reason"] == "credential_unusable", "{rows:?}");
    }
}
