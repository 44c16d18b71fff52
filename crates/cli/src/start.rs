//! `rota run`: starts a deployment, and follows its session if told to.

use std::fmt::Write as _;

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::{
    client::{Client, Error, Result},
    find::{Kind, failure, named, text},
    follow,
    limits::{RETRY_FIRST, START_TRIES},
    output::{Exit, Out, clean_line},
    profile::{ServerArgs, Target},
};

/// What to start, and how.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The deployment, by its id, its exact name, or the key of its file.
    pub deployment: String,
    /// Follow the session until it rests. The exit code says how it went: 0 well, 1 not, 6 it waits for an answer.
    #[arg(long, short, conflicts_with = "at")]
    pub follow: bool,
    /// A text for `{{name}}` in the first events of the deployment; can be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = input)]
    pub input: Vec<(String, String)>,
    /// A further text for the agent, after the first message.
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Start at this time and not now, as 2026-03-06T18:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// The same key starts it once within 24 hours, however often it is sent: for a job that may be run again.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
}

fn input(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Starts it.
pub async fn run(args: RunArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let inputs = inputs(&args.input)?;
    let client = Client::new(Target::find(&args.server)?)?;
    let deployment = named(&client, Kind::Deployments, &args.deployment).await?;
    let key = match args.idempotency_key {
        Some(key) => key,
        None => fresh_key()?,
    };
    let mut body = Map::new();
    if let Some(inputs) = inputs {
        body.insert("inputs".to_owned(), inputs);
    }
    if let Some(message) = args.message {
        body.insert("content".to_owned(), json!([{"type": "text", "text": message}]));
    }
    if let Some(at) = args.at {
        body.insert("at".to_owned(), json!(at));
    }
    let started = start(&client, &deployment, &key, &body).await?;
    if out.json {
        out.value(&started)?;
    } else if started["type"] == "planned_start" {
        let (id, at) = (text(&started, "id"), text(&started, "at"));
        out.line(&format!("planned  {}  at {}", clean_line(id), clean_line(at)))?;
    }
    if started["type"] == "planned_start" {
        return Ok(Exit::Done);
    }
    let Some(session) = started["session_id"].as_str() else { return Err(Error::Failed(failure(&started))) };
    if !out.json {
        out.line(&format!("run      {}\nsession  {}", clean_line(text(&started, "id")), clean_line(session)))?;
    }
    if !args.follow {
        return Ok(Exit::Done);
    }
    match follow::follow(&client, session, &out).await? {
        Exit::Done => interrupted(&client, text(&started, "id")).await,
        other => Ok(other),
    }
}

/// The inputs by their names. `None`: none were given, and the first events are sent as they are.
fn inputs(given: &[(String, String)]) -> Result<Option<Value>> {
    let mut inputs = Map::new();
    for (name, value) in given {
        if inputs.insert(name.clone(), json!(value)).is_some() {
            return Err(Error::Usage(format!("--input {}: it is given twice", clean_line(name))));
        }
    }
    Ok((!inputs.is_empty()).then_some(Value::Object(inputs)))
}

/// Sends what starts it. Where the connection breaks before the answer it is sent again: the key has it happen once.
async fn start(client: &Client, deployment: &str, key: &str, body: &Map<String, Value>) -> Result<Value> {
    let mut pause = RETRY_FIRST;
    for attempt in 1.. {
        let request = if body.is_empty() {
            client.request(Method::POST, &format!("/v1/deployments/{deployment}/run"))
        } else {
            client.request(Method::POST, &format!("/rota/v1/deployments/{deployment}/runs")).json(body)
        };
        match client.answer(request.header("idempotency-key", key)).await {
            Err(Error::Unreachable { .. }) if attempt < START_TRIES => sleep(pause).await,
            outcome => return outcome,
        }
        pause *= 4;
    }
    unreachable!("the last attempt returns")
}

/// How a session has ended that rests well: not so where a limit of the deployment's policy has interrupted it. A server that is
/// no Rota has no such limits.
async fn interrupted(client: &Client, run: &str) -> Result<Exit> {
    let run = match client.get(&format!("/rota/v1/deployment_runs/{run}"), &[]).await {
        Ok(run) => run,
        Err(Error::Refused(refusal)) if refusal.status == 404 => return Ok(Exit::Done),
        Err(error) => return Err(error),
    };
    match run["outcome"]["session"]["interrupted_by"].as_str() {
        Some(limit) => {
            Err(Error::Failed(format!("the session was interrupted by {} of the policy", clean_line(limit))))
        }
        None => Ok(Exit::Done),
    }
}

fn fresh_key() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::Failed(format!("no random numbers: {error}")))?;
    let mut key = "rota-cli-".to_owned();
    for byte in random {
        write!(key, "{byte:02x}").expect("a String takes it");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_a_name_and_a_text() {
        assert_eq!(input("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(input("a="), Ok(("a".to_owned(), String::new())));
        assert!(input("a").is_err() && input("=b").is_err());
        assert_eq!(inputs(&[]).unwrap(), None);
        let twice = [input("a=1").unwrap(), input("a=2").unwrap()];
        assert!(inputs(&twice).unwrap_err().to_string().contains("given twice"));
    }
}
