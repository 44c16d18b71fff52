//! `rota demo`: on a terminal its server stays until it is ended, elsewhere the demo ends by itself.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{process, server::PATIENCE};

const DEMO: &str = concat!(env!("CARGO_BIN_EXE_rota"), " demo");

#[tokio::test]
async fn without_a_terminal_the_demo_ends_by_itself() {
    let mut demo = Command::new("sh");
    demo.args(["-c", &format!("exec {DEMO}")]).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(2 * PATIENCE, demo.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Next: start a server that stays") && !said.contains("Ctrl-C"), "{said}");
}

#[tokio::test]
async fn on_a_terminal_the_server_of_the_demo_stays_until_it_is_ended() {
    // Of util-linux: runs a command on a terminal of its own, to which it passes on what it is told.
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &format!("exec {DEMO}"), "/dev/null"]);
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut terminal = terminal.spawn().unwrap();
    let mut keys = terminal.stdin.take().unwrap();
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let mut until = async |words: &str, said: &mut String| {
        while !said.contains(words) {
            let line = timeout(2 * PATIENCE, lines.next_line()).await.expect("it says something").unwrap();
            *said += &format!("{}\n", line.unwrap_or_else(|| panic!("it ended before it said {words:?}: {said}")));
        }
    };
    until("/events", &mut said).await;
    assert!(said.contains("/console#sign-in="), "it opens signed in: {said}");
    let value = |name: &str| {
        let (_, after) = said.split_once(&format!("{name}=")).unwrap();
        after.split_whitespace().next().unwrap().to_owned()
    };
    let (base, key) = (value("ANTHROPIC_BASE_URL"), value("ANTHROPIC_API_KEY"));
    let client = process::Client::new(base.strip_prefix("http://").unwrap().parse().unwrap(), key);
    for _ in 0..3 {
        let sessions = client.get("/v1/sessions").await;
        assert_eq!(sessions["data"].as_array().unwrap().len(), 1, "what it made is there");
    }
    assert_eq!(terminal.try_wait().unwrap(), None, "it goes on: {said}");

    keys.write_all(b"\x03").await.unwrap();
    until("Next: start a server that stays", &mut said).await;
    let status = timeout(PATIENCE, terminal.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}: {said}");
    assert!(client.request(reqwest::Method::GET, "/v1/sessions").send().await.is_err(), "and its server with it");
}
