//! Servers of the official SDKs: `server.py` of the Python SDK, `tests/mcp/server.mjs` of the TypeScript SDK. `tests/with-mcp` starts a
//! command that can start them.

use std::{fs, path::PathBuf, process::Stdio};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{House, call, done, errors, renewable, tokens, toolset, vault_with};
use crate::{
    database::NEEDED,
    given::{id, message},
    models::calls,
    oauth_server::OAuthServer,
    server::{PATIENCE, appears},
    stream::{Stream, first, stop_reason, text},
    upstream::Reply,
};

/// A running server. It is killed when this is dropped.
struct Official {
    url: String,
    folder: TempDir,
    process: Child,
}

impl Official {
    /// One of the Python SDK.
    async fn start(name: &str, options: &[&str]) -> Self {
        let python = std::env::var("ROTA_TEST_MCP").expect("tests/with-mcp says where the SDK is");
        let folder = TempDir::new().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/mcp/server.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).arg(name).arg(folder.path()).args(options);
        Self::run(command, folder).await
    }

    /// One of the TypeScript SDK.
    async fn of_typescript() -> Self {
        let script = std::env::var("ROTA_TEST_MCP_TYPESCRIPT").expect("tests/with-mcp says where the SDK is");
        let mut command = Command::new("node");
        command.arg(script);
        Self::run(command, TempDir::new().unwrap()).await
    }

    async fn run(mut command: Command, folder: TempDir) -> Self {
        let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // It is slow to begin on a machine that has much else to do.
        let port = timeout(4 * PATIENCE, lines.next_line()).await.expect("the server starts").unwrap();
        let url = format!("http://127.0.0.1:{}/mcp", port.expect("it prints its port"));
        Self { url, folder, process }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.file("calls")).unwrap_or_default().lines().count()
    }

    /// Takes no other token from now on.
    fn takes(&self, token: &str) {
        let aside = self.file("token.new");
        fs::write(&aside, token).unwrap();
        fs::rename(&aside, self.file("token")).unwrap();
    }
}

fn texts(events: &[Value]) -> Vec<&str> {
    let results = events.iter().filter(|event| event["type"] == "agent.mcp_tool_result");
    results.map(text).collect()
}

#[tokio::test]
#[ignore = "needs the official SDK: tests/with-mcp cargo test -p rota --test it mcp::official -- --include-ignored"]
async fn tools_images_resources_structured_results_and_failures_come_through_in_each_mode() {
    for options in [&[][..], &["--json"], &["--stateless"], &["--json", "--stateless"]] {
        let server = Official::start("tracker", options).await;
        let reply = |name: &str, input: Value| calls(&format!("toolu_{name}"), &format!("mcp__t__{name}"), &input);
        let reply = Reply::Message(vec![
            reply("add", json!({"a": 20, "b": 22})),
            reply("weather", json!({"city": "Rome"})),
            reply("picture", json!({})),
            reply("notes", json!({})),
            reply("fails", json!({})),
            reply("add", json!({"a": "x"})),
        ]);
        let house = House::new(vec![reply, done()]).await;
        let (_, mut stream) = house.session(&[("t", &server.url)]).await;
        let events = stream.turn().await;
        assert_eq!(errors(&events), [] as [Value; 0], "{options:?}");
        let results: Vec<&Value> = events.iter().filter(|event| event["type"] == "agent.mcp_tool_result").collect();
        assert_eq!(results.len(), 6, "{options:?}");
        assert_eq!(results[0]["content"], json!([{"type": "text", "text": "42"}]), "it is told once: {options:?}");
        let weather: Value = serde_json::from_str(text(results[1])).unwrap();
        assert_eq!(weather, json!({"city": "Rome", "degrees": 21}), "{options:?}");
        assert_eq!(results[1]["content"].as_array().unwrap().len(), 1, "it is told once: {options:?}");
        let source = &results[2]["content"][0]["source"];
        assert_eq!((&source["type"], &source["media_type"]), (&json!("base64"), &json!("image/png")), "{options:?}");
        assert_eq!(text(results[3]), "Resource notes://today:\nbuy milk", "{options:?}");
        let failed = (text(results[4]), &results[4]["is_error"]);
        assert_eq!(failed, ("Error executing tool fails", &json!(true)), "{options:?}");
        assert_eq!(results[5]["is_error"], true, "{options:?}");
        assert!(house.offered().contains(&"mcp__t__slowly".to_owned()));
    }
}

#[tokio::test]
#[ignore = "needs the official SDK: tests/with-mcp cargo test -p rota --test it mcp::official -- --include-ignored"]
async fn a_tool_that_is_added_is_offered_with_one_of_the_next_requests() {
    let server = Official::start("t", &[]).await;
    let script = std::iter::once(call("mcp__t__grow")).chain(std::iter::repeat_with(done).take(1000));
    let house = House::new(script.collect()).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    assert_eq!(texts(&stream.turn().await), ["there is more"]);
    grows(&house, &session, &mut stream).await;
}

#[tokio::test]
#[ignore = "needs the official SDK: tests/with-mcp cargo test -p rota --test it mcp::official -- --include-ignored"]
async fn a_server_that_is_killed_in_the_middle_of_a_call_leaves_it_unknown_and_the_session_goes_on_without() {
    for options in [&[][..], &["--json"]] {
        let mut server = Official::start("t", options).await;
        let house = House::new(vec![call("mcp__t__slowly"), done()]).await;
        let (_, mut stream) = house.session(&[("t", &server.url)]).await;
        appears(server.file("calls")).await;
        server.process.kill().await.unwrap();
        let events = stream.turn().await;
        let result = first(&events, "agent.mcp_tool_result");
        assert!(text(result).contains("Whether the call did anything is unknown"), "{options:?}: {}", text(result));
        let told = errors(&events);
        assert_eq!((told.len(), &told[0]["type"]), (1, &json!("mcp_connection_failed_error")), "{options:?}");
        assert_eq!(stop_reason(&events)["type"], "end_turn");
        assert_eq!(house.offered(), [] as [String; 0], "its tools are gone");
        assert_eq!(server.calls(), 1);
    }
}

#[tokio::test]
#[ignore = "needs the official SDK: tests/with-mcp cargo test -p rota --test it mcp::official -- --include-ignored"]
async fn a_call_is_waited_for_interrupted_and_outlived_by_its_session() {
    let server = Official::start("t", &[]).await;
    let house = House::new(vec![call("mcp__t__slowly"), call("mcp__t__slowly"), done()]).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    appears(server.file("calls")).await;
    house.api().events(id(&session), json!([{"type": "user.interrupt"}])).await;
    let events = stream.turn().await;
    assert_eq!(texts(&events), ["Tool execution was interrupted before completion. Please retry."]);
    fs::write(server.file("go"), "").unwrap();
    house.api().events(id(&session), json!([message("again")])).await;
    let events = stream.turn().await;
    assert_eq!((texts(&events), errors(&events)), (vec!["at last"], vec![]));
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
#[ignore = "needs the official SDK: tests/with-mcp cargo test -p rota --test it mcp::official -- --include-ignored"]
async fn five_servers_have_their_tools_called_at_once() {
    let servers =
        join_all((0..5).map(|i| async move { Official::start(&format!("s{i}"), &["--tools", "8"]).await })).await;
    let names: Vec<String> = (0..5).map(|i| format!("s{i}")).collect();
    let reply = (0..5).map(|i| calls(&format!("toolu_{i}"), &format!("mcp__s{i}__tool_{i}"), &json!({})));
    let house = House::new(vec![Reply::Message(reply.collect()), done()]).await;
    let named: Vec<(&str, &str)> = names.iter().zip(&servers).map(|(name, server)| (&**name, &*server.url)).collect();
    let (_, mut stream) = house.session(&named).await;
    let events = stream.turn().await;
    assert_eq!(errors(&events), [] as [Value; 0]);
    assert_eq!(texts(&events), ["s0 0", "s1 1", "s2 2", "s3 3", "s4 4"]);
    assert!(house.offered().len() >= 40, "{:?}", house.offered());
}

/// Sessions of two servers of Rota, which may be one, whose credential for the same MCP server is not taken any more.
#[tokio::test]
#[ignore = "needs PostgreSQL and the official SDK: tests/with-mcp tests/with-postgres"]
async fn of_all_sessions_at_two_servers_whose_token_is_not_taken_one_renews_it() {
    let server = Official::start("t", &[]).await;
    server.takes("access-1");
    let mut oauth = OAuthServer::start("unused").await;
    let script =
        (0..6).flat_map(|_| [Reply::Message(vec![calls("toolu_1", "mcp__t__add", &json!({"a": 1, "b": 2}))]), done()]);
    let house = House::new(script.collect()).await;
    let two = house.rota.beside(|_| {}).await.expect(NEEDED);
    let (vault, _) = vault_with(house.api(), "v", renewable(&oauth, &server.url, "access-0", "refresh-0")).await;
    let parts = house.parts(&[("t", &server.url)], json!([toolset("t", &json!({}))])).await;
    oauth.holds();
    oauth.grants(tokens("access-1", "refresh-1"));
    let body = json!({"vault_ids": [id(&vault)], "initial_events": [message("hello")]});
    let mut streams = Vec::new();
    for api in [house.api(), &two.api, house.api(), &two.api, house.api(), &two.api] {
        let session = parts.session(api, body.clone()).await;
        streams.push(api.stream_from(id(&session), 0).await);
    }
    assert_eq!(oauth.next().await.form["refresh_token"], "refresh-0");
    oauth.lets_go();
    for mut stream in streams {
        let events = stream.turn().await;
        assert_eq!(errors(&events), [] as [Value; 0]);
        assert_eq!(stop_reason(&events)["type"], "end_turn");
    }
    assert_eq!(oauth.so_far(), 0, "there was one exchange");
}

#[tokio::test]
#[ignore = "needs the official SDK: tests/with-mcp cargo test -p rota --test it mcp::official -- --include-ignored"]
async fn a_server_of_the_typescript_sdk_is_used_taken_up_where_its_stream_broke_off_and_opened_anew() {
    let server = Official::of_typescript().await;
    let reply = |name: &str, input: Value| calls(&format!("toolu_{name}"), &format!("mcp__t__{name}"), &input);
    let first_reply = Reply::Message(vec![
        reply("add", json!({"a": 20, "b": 22})),
        reply("picture", json!({})),
        reply("weather", json!({})),
        reply("fails", json!({})),
        reply("breaks_off", json!({})),
        reply("grow", json!({})),
    ]);
    let again = Reply::Message(vec![reply("add", json!({"a": 1, "b": 1}))]);
    let script = [first_reply, done(), again].into_iter().chain(std::iter::repeat_with(done).take(1000));
    let house = House::new(script.collect()).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    let events = stream.turn().await;
    assert_eq!(errors(&events), [] as [Value; 0]);
    let results: Vec<&Value> = events.iter().filter(|event| event["type"] == "agent.mcp_tool_result").collect();
    assert_eq!(results[1]["content"][0]["source"]["media_type"], "image/png");
    let told: Vec<&str> = [0, 2, 3, 4, 5].map(|i| text(results[i])).into();
    assert_eq!((told[0], told[1], told[3], told[4]), ("42", r#"{"degrees":21}"#, "taken up", "there is more"));
    assert!(told[2].contains("it is broken") && results[3]["is_error"] == true, "{}", results[3]);

    let forgotten = house.api().http.get(server.url.replace("/mcp", "/forget")).send().await.unwrap();
    assert!(forgotten.status().is_success());
    house.api().events(id(&session), json!([message("again")])).await;
    let events = stream.turn().await;
    assert_eq!((texts(&events), errors(&events)), (vec!["2"], vec![]));
}

#[tokio::test]
#[ignore = "needs the official SDK: tests/with-mcp cargo test -p rota --test it mcp::official -- --include-ignored"]
async fn a_tool_that_a_server_of_the_typescript_sdk_adds_is_offered_with_one_of_the_next_requests() {
    let server = Official::of_typescript().await;
    let script = std::iter::once(call("mcp__t__grow")).chain(std::iter::repeat_with(done).take(1000));
    let house = House::new(script.collect()).await;
    let (session, mut stream) = house.session(&[("t", &server.url)]).await;
    stream.turn().await;
    grows(&house, &session, &mut stream).await;
}

/// Returns when the model is offered the tool that was added.
async fn grows(house: &House, session: &Value, stream: &mut Stream) {
    let following = async {
        while !house.offered().contains(&"mcp__t__grown".to_owned()) {
            house.api().events(id(session), json!([message("next")])).await;
            stream.turn().await;
        }
    };
    timeout(PATIENCE, following).await.expect("the change is followed");
}
