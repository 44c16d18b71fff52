//! `rota deployments|agents|sessions|environments list|show|…`.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{
    client::{Client, Result},
    find::{Kind, named, text},
    limits::{MOST_ROWS, ROWS},
    output::{Cell, Colour, Exit, Out, Table, time},
    profile::{ServerArgs, Target},
};

/// What can be done with agents, environments and sessions.
#[derive(Debug, Subcommand)]
pub enum Act {
    /// List them, the newest first.
    List(ListArgs),
    /// Show one as the API has it.
    Show(OneArgs),
    /// Archive one, for good: it stays readable and starts nothing any more.
    Archive(OneArgs),
}

/// What can be done with deployments.
#[derive(Debug, Subcommand)]
pub enum DeploymentAct {
    /// List them, the newest first.
    List(ListArgs),
    /// Show one as the API has it.
    Show(OneArgs),
    /// Hold its schedule. It can still be run by hand.
    Pause(OneArgs),
    /// Let its schedule go on.
    Unpause(OneArgs),
    /// Archive it, for good: it starts nothing any more.
    Archive(OneArgs),
}

impl DeploymentAct {
    /// Does it.
    pub async fn run(self) -> Result<Exit> {
        let (args, act) = match self {
            Self::List(args) => return list(Kind::Deployments, &args).await,
            Self::Show(args) => return show(Kind::Deployments, &args).await,
            Self::Pause(args) => (args, "pause"),
            Self::Unpause(args) => (args, "unpause"),
            Self::Archive(args) => (args, "archive"),
        };
        change(Kind::Deployments, &args, act).await
    }
}

impl Act {
    /// Does it.
    pub async fn run(self, kind: Kind) -> Result<Exit> {
        match self {
            Self::List(args) => list(kind, &args).await,
            Self::Show(args) => show(kind, &args).await,
            Self::Archive(args) => change(kind, &args, "archive").await,
        }
    }
}

/// Which rows.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Archived ones too.
    #[arg(long)]
    pub all: bool,
    /// At most so many rows.
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = rows)]
    pub limit: usize,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which one.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Its id, its exact name, or the key of its file. Sessions have ids only.
    pub name: String,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A number of rows.
pub fn rows(text: &str) -> std::result::Result<usize, String> {
    let rows = text.parse().ok().filter(|rows| (1..=MOST_ROWS).contains(rows));
    rows.ok_or_else(|| format!("a number from 1 to {MOST_ROWS}"))
}

async fn list(kind: Kind, args: &ListArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let query: &[(&str, &str)] = if args.all { &[("include_archived", "true")] } else { &[] };
    let rows = client.list(&format!("/v1/{}", kind.plural()), query, args.limit).await?;
    if out.json {
        out.value(&Value::Array(rows.data))?;
    } else {
        out.table(&table(kind, &rows.data))?;
        out.more(rows.is_cut, &format!("the newest {} are shown; --limit shows more", args.limit));
    }
    Ok(Exit::Done)
}

fn table(kind: Kind, rows: &[Value]) -> Table {
    match kind {
        Kind::Deployments => {
            let mut table = Table::new(["ID", "STATUS", "NEXT RUN", "SCHEDULE", "NAME"]);
            for row in rows {
                let schedule = &row["schedule"];
                let next = schedule["upcoming_runs_at"][0].as_str().unwrap_or_default();
                let expression = format!("{} {}", text(schedule, "expression"), text(schedule, "timezone"));
                table.row([
                    text(row, "id").into(),
                    status(row),
                    time(next).into(),
                    expression.trim().into(),
                    text(row, "name").into(),
                ]);
            }
            table
        }
        Kind::Agents => {
            let mut table = Table::new(["ID", "VERSION", "MODEL", "CREATED", "NAME"]);
            for row in rows {
                let model = row["model"]["id"].as_str().or(row["model"].as_str()).unwrap_or_default();
                table.row([
                    text(row, "id").into(),
                    row["version"].to_string().into(),
                    model.into(),
                    time(text(row, "created_at")).into(),
                    text(row, "name").into(),
                ]);
            }
            table
        }
        Kind::Environments => {
            let mut table = Table::new(["ID", "TYPE", "CREATED", "NAME"]);
            for row in rows {
                table.row([
                    text(row, "id").into(),
                    text(&row["config"], "type").into(),
                    time(text(row, "created_at")).into(),
                    text(row, "name").into(),
                ]);
            }
            table
        }
        Kind::Sessions => {
            let mut table = Table::new(["ID", "STATUS", "CREATED", "AGENT", "TITLE"]);
            for row in rows {
                table.row([
                    text(row, "id").into(),
                    status(row),
                    time(text(row, "created_at")).into(),
                    text(&row["agent"], "name").into(),
                    text(row, "title").into(),
                ]);
            }
            table
        }
    }
}

fn status(row: &Value) -> Cell {
    let status = if row["archived_at"].is_string() { "archived" } else { text(row, "status") };
    let colour = match status {
        "active" | "running" => Colour::Green,
        "paused" | "rescheduling" => Colour::Yellow,
        "terminated" => Colour::Red,
        _ => Colour::Plain,
    };
    Cell::new(colour, status)
}

async fn show(kind: Kind, args: &OneArgs) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let id = named(&client, kind, &args.name).await?;
    let one = client.get(&format!("/v1/{}/{id}", kind.plural()), &[]).await?;
    if out.json {
        out.value(&one)?;
    } else {
        out.table(&fields(&one))?;
    }
    Ok(Exit::Done)
}

/// A row for each field that says something.
fn fields(one: &Value) -> Table {
    let mut table = Table::new(["FIELD", "VALUE"]);
    for (field, value) in one.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::String(text) if field.ends_with("_at") => time(text),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        table.row([field.into(), shown.into()]);
    }
    table
}

async fn change(kind: Kind, args: &OneArgs, act: &str) -> Result<Exit> {
    let out = Out::new(args.server.json);
    let client = Client::new(Target::find(&args.server)?)?;
    let id = named(&client, kind, &args.name).await?;
    let changed = client.post(&format!("/v1/{}/{id}/{act}", kind.plural()), &Value::Null).await?;
    if out.json {
        out.value(&changed)?;
    } else {
        let done = match act {
            "pause" => "paused",
            "unpause" => "unpaused",
            _ => "archived",
        };
        out.line(&format!("{done}  {id}"))?;
    }
    Ok(Exit::Done)
}
