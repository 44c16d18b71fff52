//! `rota approve`, `rota deny`, `rota interrupt`: what a session that waits is answered, and what stops one.

use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::{Client, Error, Result, id},
    find::{session, text},
    limits::WAITING_EVENTS,
    output::{Exit, Out, clean_line},
    profile::{ServerArgs, Target},
    story::{arguments, callee},
};

/// A session and its calls.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// The session, or its run.
    pub session: String,
    /// The calls that wait, as `rota logs` names them. Not needed where only one waits.
    pub calls: Vec<String>,
    /// All calls that wait.
    #[arg(long, conflicts_with = "calls")]
    pub all: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A denial.
#[derive(Debug, Args)]
pub struct DenyArgs {
    #[command(flatten)]
    pub answer: AnswerArgs,
    /// What the agent reads about it.
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
}

/// A session to interrupt.
#[derive(Debug, Args)]
pub struct InterruptArgs {
    /// The session, or its run.
    pub session: String,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Lets calls run.
pub async fn approve(args: AnswerArgs) -> Result<Exit> {
    answer(args, "allowed", |call| json!({"type": "user.tool_confirmation", "tool_use_id": call, "result": "allow"}))
        .await
}

/// Refuses calls.
pub async fn deny(args: DenyArgs) -> Result<Exit> {
    let message = args.message;
    let denial = |call: &str| {
        let mut event = json!({"type": "user.tool_confirmation", "tool_use_id": call, "result": "deny"});
        if let Some(message) = &message {
            event["deny_message"] = json!(message);
        }
        event
    };
    answer(args.answer, "denied", denial).await
}

/// Stops what a session does.
pub async fn interrupt(args: InterruptArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let session = session(&client, &args.session).await?;
    let sent = send(&client, &session, vec![json!({"type": "user.interrupt"})]).await?;
    if out.json {
        out.value(&sent)?;
    } else {
        out.line(&format!("interrupted  {session}"))?;
    }
    Ok(Exit::Done)
}

async fn answer(args: AnswerArgs, done: &str, event: impl Fn(&str) -> Value) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let session = session(&client, &args.session).await?;
    let calls = if args.calls.is_empty() {
        let waiting = waiting(&client, &session).await?;
        if waiting.len() > 1 && !args.all {
            let calls = waiting.iter().map(|call| {
                format!("\n  {}  {}  {}", text(call, "id"), clean_line(&callee(call)), clean_line(&arguments(call)))
            });
            let calls: String = calls.collect();
            return Err(Error::Usage(format!("{} calls wait: name some, or --all of them{calls}", waiting.len())));
        }
        waiting.iter().map(|call| text(call, "id").to_owned()).collect()
    } else {
        args.calls
    };
    let calls = calls.iter().map(|call| id(call)).collect::<Result<Vec<_>>>()?;
    let sent = send(&client, &session, calls.iter().map(|call| event(call)).collect()).await?;
    if out.json {
        out.value(&sent)?;
    } else {
        calls.iter().try_for_each(|call| out.line(&format!("{done}  {call}")))?;
    }
    Ok(Exit::Done)
}

async fn send(client: &Client, session: &str, events: Vec<Value>) -> Result<Value> {
    client.post(&format!("/v1/sessions/{session}/events"), &json!({ "events": events })).await
}

/// The calls of a session that wait for somebody, in their order.
async fn waiting(client: &Client, session: &str) -> Result<Vec<Value>> {
    let types = [
        "agent.tool_use",
        "agent.mcp_tool_use",
        "user.tool_confirmation",
        "session.status_idle",
        "session.status_running",
    ];
    let mut query: Vec<(&str, &str)> = types.iter().map(|name| ("types[]", *name)).collect();
    query.push(("order", "desc"));
    let events = client.list(&format!("/v1/sessions/{session}/events"), &query, WAITING_EVENTS).await?.data;
    let calls = calls_that_wait(&events);
    if calls.is_empty() {
        return Err(Error::Failed(format!("session {session} waits for nobody to allow or deny a call")));
    }
    Ok(calls)
}

/// The same out of its events, newest first.
fn calls_that_wait(events: &[Value]) -> Vec<Value> {
    let status = events.iter().find(|event| text(event, "type").starts_with("session."));
    let asked = status.and_then(|status| status["stop_reason"]["event_ids"].as_array());
    let asked = asked.map(Vec::as_slice).unwrap_or_default();
    let is_answered = |call: &Value| events.iter().any(|event| event["tool_use_id"] == *call);
    let call = |id: &Value| events.iter().find(|event| event["id"] == *id);
    asked.iter().filter(|call| !is_answered(call)).filter_map(call).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_what_the_last_rest_names_and_nobody_has_answered() {
        let call = |id: &str| json!({"type": "agent.tool_use", "id": id});
        let rest = json!({"type": "session.status_idle", "id": "r", "stop_reason": {"type": "requires_action", "event_ids": ["a", "b", "custom"]}});
        let answer = json!({"type": "user.tool_confirmation", "id": "c", "tool_use_id": "a"});
        let running = json!({"type": "session.status_running", "id": "s"});
        let waits = |events: &[Value]| -> Vec<String> {
            calls_that_wait(events).iter().map(|call| text(call, "id").to_owned()).collect()
        };
        assert_eq!(waits(&[rest.clone(), call("b"), call("a"), call("old")]), ["a", "b"]);
        assert_eq!(waits(&[answer, rest.clone(), call("b"), call("a")]), ["b"]);
        assert!(waits(&[running, rest, call("b"), call("a")]).is_empty());
        assert!(waits(&[]).is_empty());
    }
}
