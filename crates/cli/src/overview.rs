//! `rota ps`, `rota runs`, `rota attention`, `rota logs`: what goes on, what was, and what needs somebody.

use clap::Args;
use serde_json::Value;

use crate::{
    client::{Client, Result, Rows},
    find::{Kind, named, session, text},
    follow,
    limits::{MOST_ROWS, ROWS},
    output::{Cell, Colour, Exit, Out, Table, cost, time},
    profile::{ServerArgs, Target},
    resources::rows,
    story::Story,
};

/// What sessions that are not at rest do.
const AT_WORK: [&str; 4] = ["waiting", "retrying", "working", "queued"];

/// Which sessions.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// At most so many of each state.
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = rows)]
    pub limit: usize,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which runs.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Those of a deployment, by its id, its exact name, or the key of its file.
    pub deployment: Option<String>,
    /// Those of which this became: queued, working, retrying, waiting, done, failed, deleted, skipped or missed.
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// At most so many rows.
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = rows)]
    pub limit: usize,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Where to look.
#[derive(Debug, Args)]
pub struct AttentionArgs {
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which session.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The session, or its run.
    pub session: String,
    /// Go on until the session rests. The exit code says how it went: 0 well, 1 not, 6 it waits for an answer.
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Sessions that are not at rest.
pub async fn ps(args: PsArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let found = at_work(&client, args.limit).await?;
    if out.json {
        out.value(&Value::Array(found.data))?;
        return Ok(Exit::Done);
    }
    if found.data.is_empty() {
        out.line("No session is at work or waits for somebody. `rota runs` shows what was.")?;
    } else {
        out.table(&sessions(&found.data))?;
    }
    out.more(found.is_cut, &format!("{} of each state are shown; --limit shows more", args.limit));
    Ok(Exit::Done)
}

/// The same from the server, at most `most` of each state: what waits for somebody first.
pub async fn at_work(client: &Client, most: usize) -> Result<Rows> {
    let mut all = Rows { data: Vec::new(), is_cut: false };
    for state in AT_WORK {
        let rows = client.list("/rota/v1/sessions", &[("state", state)], most).await?;
        all.data.extend(rows.data);
        all.is_cut |= rows.is_cut;
    }
    Ok(all)
}

/// The same as a table.
pub fn sessions(rows: &[Value]) -> Table {
    let mut table = Table::new(["SESSION", "STATE", "SINCE", "COST", "AGENT", "DEPLOYMENT"]);
    for row in rows {
        table.row([
            text(row, "id").into(),
            state(text(row, "state")),
            time(text(row, "since")).into(),
            cost(&row["cost"]).into(),
            text(&row["agent"], "name").into(),
            text(row, "deployment_name").into(),
        ]);
    }
    table
}

fn state(state: &str) -> Cell {
    let colour = match state {
        "working" | "done" => Colour::Green,
        "waiting" | "retrying" | "skipped" => Colour::Yellow,
        "failed" | "missed" => Colour::Red,
        _ => Colour::Plain,
    };
    Cell::new(colour, state)
}

/// Runs, and occurrences that have none.
pub async fn runs(args: RunsArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let deployment = match &args.deployment {
        Some(deployment) => Some(named(&client, Kind::Deployments, deployment).await?),
        None => None,
    };
    let mut query: Vec<(&str, &str)> = Vec::new();
    query.extend(deployment.as_deref().map(|deployment| ("deployment_id", deployment)));
    query.extend(args.state.as_deref().map(|state| ("state", state)));
    let rows = client.list("/rota/v1/runs", &query, args.limit).await?;
    if out.json {
        out.value(&Value::Array(rows.data))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(["AT", "STATE", "TRIGGER", "RUN", "COST", "DEPLOYMENT", "WHY"]);
    for row in &rows.data {
        table.row([
            time(text(row, "at")).into(),
            state(text(row, "state")),
            text(row, "trigger").into(),
            text(row, "run_id").into(),
            cost(&row["session"]["cost"]).into(),
            text(row, "deployment_name").into(),
            reason(row).into(),
        ]);
    }
    out.table(&table)?;
    out.more(rows.is_cut, &format!("the newest {} are shown; --limit shows more", args.limit));
    Ok(Exit::Done)
}

/// Why a run is as it is.
fn reason(run: &Value) -> String {
    let session = &run["session"];
    let error = |error: &Value| error["message"].as_str().map(str::to_owned);
    let told = error(&run["error"]).or_else(|| error(&session["error"]));
    let told = told.or_else(|| session["interrupted_by"].as_str().map(|limit| format!("interrupted by {limit}")));
    told.or_else(|| run["reason"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// What needs somebody.
pub async fn attention(args: AttentionArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let attention = client.get("/rota/v1/attention", &[]).await?;
    if out.json {
        out.value(&attention["data"])?;
        return Ok(Exit::Done);
    }
    let items = attention["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        out.line("Nothing needs anybody.")?;
    } else {
        out.table(&needs(items))?;
    }
    out.more(attention["is_cut"] == true, "there are more of a kind than are listed");
    Ok(Exit::Done)
}

/// The same as a table.
pub fn needs(items: &[Value]) -> Table {
    let mut table = Table::new(["KIND", "SINCE", "ABOUT", "DEPLOYMENT", "WHAT"]);
    for item in items {
        let about = ["session_id", "run_id", "webhook_endpoint_id", "deployment_id"].map(|field| text(item, field));
        let about = about.into_iter().find(|id| !id.is_empty()).unwrap_or_default();
        let kind = text(item, "kind");
        let colour = if matches!(kind, "waiting" | "retrying" | "spend_near") { Colour::Yellow } else { Colour::Red };
        table.row([
            Cell::new(colour, kind),
            time(text(item, "since")).into(),
            about.into(),
            text(item, "deployment_name").into(),
            text(item, "message").into(),
        ]);
    }
    table
}

/// The log of a session.
pub async fn logs(args: LogsArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let session = session(&client, &args.session).await?;
    if args.follow {
        return follow::follow(&client, &session, &out).await;
    }
    let mut story = Story::new(out, &session);
    let path = format!("/v1/sessions/{session}/events");
    let is_cut = client.each(&path, &[], MOST_ROWS, |event| story.tell(event)).await?;
    out.more(is_cut, &format!("the first {MOST_ROWS} events are shown; -f shows all"));
    Ok(Exit::Done)
}
