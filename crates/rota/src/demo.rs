//! `rota demo`: the whole way once, as a client sees it.

use std::{
    io::{IsTerminal, stdout},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method, Response};
use rota_server::{clock::Clock, config::Config, tls};
use serde_json::{Value, json};

use crate::cli::DemoArgs;

/// What the demo's deployment sends to each session.
const PLAYBOOK: &str = "\
Write a note, then look at it and at where you are.

```bash
echo \"Rota was here\" > note.txt && cat note.txt
```

```bash
id -u; hostname; ls /; cat /proc/sys/kernel/ostype
```

```grep
{\"pattern\": \"Rota\", \"path\": \"/workspace\"}
```
";

pub async fn run(args: DemoArgs) -> Result<ExitCode> {
    let fresh = args.data.is_none();
    let data = args.data.unwrap_or_else(|| std::env::temp_dir().join(format!("rota-demo-{}", std::process::id())));
    let outcome = in_folder(data.clone()).await;
    if fresh {
        // The files of a sandbox are its own user's: the backend deletes them, the rest goes here.
        std::fs::remove_dir_all(&data).with_context(|| format!("cannot delete {}", data.display()))?;
    }
    outcome
}

async fn in_folder(data: PathBuf) -> Result<ExitCode> {
    let config = Config { data, listen: "127.0.0.1:0".to_owned(), ..Config::default() };
    let server = rota_server::serve(config, Clock::System).await?;
    let key = server.first_key.as_ref().context("the folder has a store already; use a fresh one")?.key.clone();
    let client = Api { http: client()?, base: format!("http://{}", server.address), key };
    let stay = stdout().is_terminal().then(|| server.console_address()).transpose()?.flatten();
    let outcome = drive(&client, stay.as_deref()).await;
    server.stop().await;
    outcome
}

/// Goes the whole way. Somebody who watches may stay and look at what there is in the `console`, until the demo is interrupted.
async fn drive(api: &Api, console: Option<&str>) -> Result<ExitCode> {
    println!("A server listens on {}\n", api.base);
    let tools = json!([{"type": "agent_toolset_20260401"}]);
    let agent = api.post("/v1/agents", &json!({"name": "demo", "model": "playbook", "tools": tools})).await?;
    println!("agent         {}", text(&agent, "id"));
    let environment = api.post("/v1/environments", &json!({"name": "demo"})).await?;
    println!("environment   {}", text(&environment, "id"));
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": PLAYBOOK}]});
    let deployment = json!({
        "name": "demo",
        "agent": agent["id"],
        "environment_id": environment["id"],
        "initial_events": [message],
        "schedule": {"type": "cron", "expression": "0 9 * * 1-5", "timezone": "UTC"},
    });
    let deployment = api.post("/v1/deployments", &deployment).await?;
    println!("deployment    {}", text(&deployment, "id"));
    println!("next weekday  {}", deployment["schedule"]["upcoming_runs_at"][0].as_str().unwrap_or("none"));
    let run = api.post(&format!("/v1/deployments/{}/run", text(&deployment, "id")), &Value::Null).await?;
    println!("run           {}", text(&run, "id"));
    let session = run["session_id"].as_str().with_context(|| format!("the run failed: {}", run["error"]))?;
    println!("session       {session}\n");
    let code = follow(api, session).await?;
    let done = api.get(&format!("/v1/sessions/{session}")).await?;
    println!(
        "\nThe session is {}. Its run record stays: GET /v1/deployment_runs/{}",
        text(&done, "status"),
        text(&run, "id")
    );
    if let Some(console) = console {
        println!("{}", to_look_at(api, session, console));
        tokio::signal::ctrl_c().await?;
    }
    api.delete(&format!("/v1/sessions/{session}")).await?;
    println!("{}", next());
    Ok(code)
}

/// What to do once the demo is over.
fn next() -> String {
    // As it was called: after `make demo` it is in no folder of PATH.
    let program = std::env::args().next().unwrap_or_else(|| "rota".to_owned());
    format!(
        "
Next: start a server that stays, and give it work.

  {program} serve --data ./data      shows the first API key, once

docs/quickstart.md goes on from there, and docs/install.md names every way to install it."
    )
}

/// What to do while the server of the demo is there.
fn to_look_at(api: &Api, session: &str, console: &str) -> String {
    let Api { base, key, .. } = api;
    format!(
        "
The server stays until you end it with Ctrl-C; then what it made is deleted. Until then, in a browser, where this address
signs you in once:

  {console}

Or in another shell:

  export ANTHROPIC_BASE_URL={base} ANTHROPIC_API_KEY={key}
  curl -s -H \"x-api-key: $ANTHROPIC_API_KEY\" -H \"anthropic-beta: managed-agents-2026-04-01\" \\
    $ANTHROPIC_BASE_URL/v1/sessions/{session}/events"
    )
}

/// Prints the events of a session until it rests. From the log's start: what happened before the stream was opened
/// belongs to the story.
async fn follow(api: &Api, session: &str) -> Result<ExitCode> {
    let path = format!("/v1/sessions/{session}/events/stream");
    let mut stream = api.request(Method::GET, &path).header("last-event-id", "0").send().await?.error_for_status()?;
    let mut unread = String::new();
    let mut failed = false;
    while let Some(chunk) = stream.chunk().await? {
        unread += std::str::from_utf8(&chunk)?;
        while let Some((frame, rest)) = unread.split_once("\n\n") {
            let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).map(serde_json::from_str::<Value>);
            unread = rest.to_owned();
            let Some(event) = data.transpose()? else { continue };
            show(&event);
            match event["type"].as_str() {
                Some("session.error") => failed = true,
                Some("session.status_idle") => {
                    return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
                }
                _ => {}
            }
        }
    }
    bail!("the stream ended before the session came to rest")
}

fn show(event: &Value) {
    let kind = text(event, "type");
    let said = match kind {
        "agent.tool_use" => format!("{} {}", text(event, "name"), event["input"]),
        "session.error" => text(&event["error"], "message").to_owned(),
        "session.status_idle" => text(&event["stop_reason"], "type").to_owned(),
        "session.usage" => {
            format!("{} tokens in, {} out", event["usage"]["input_tokens"], event["usage"]["output_tokens"])
        }
        _ => event["content"][0]["text"].as_str().unwrap_or_default().to_owned(),
    };
    let mut lines = said.lines();
    println!("{kind:28} {}", lines.next().unwrap_or_default());
    lines.for_each(|line| println!("{:28} {line}", ""));
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn client() -> Result<Client> {
    Ok(Client::builder().tls_backend_preconfigured(tls::client_config()?).no_proxy().build()?)
}

/// The server, as a client reaches it.
struct Api {
    http: Client,
    base: String,
    key: String,
}

impl Api {
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        request.header("x-api-key", &self.key).header("anthropic-beta", "managed-agents-2026-04-01")
    }

    async fn get(&self, path: &str) -> Result<Value> {
        answer(self.request(Method::GET, path).send().await?).await
    }

    async fn delete(&self, path: &str) -> Result<Value> {
        answer(self.request(Method::DELETE, path).send().await?).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.request(Method::POST, path);
        let request = if body.is_null() { request } else { request.json(body) };
        answer(request.send().await?).await
    }
}

async fn answer(response: Response) -> Result<Value> {
    let status = response.status();
    let body: Value = response.json().await?;
    if !status.is_success() {
        bail!("{status}: {}", body["error"]["message"].as_str().unwrap_or_default());
    }
    Ok(body)
}
