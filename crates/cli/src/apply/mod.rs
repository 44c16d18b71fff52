//! `rota apply`, `rota export` and `rota import`: resources as files.

mod export;
mod files;
mod kind;
mod label;
mod limits;
mod normal;
mod perform;
mod plan;
mod problem;
mod skill;
mod state;

use std::path::PathBuf;

use clap::Args;

use crate::{
    client::{Client, Error, Result},
    output::{Exit, Out},
    profile::{ServerArgs, Target},
};
pub use export::{ExportArgs, ImportArgs, export, import};
use files::Project;
use kind::Kind;
pub use label::Label;
use perform::Secrets;
use plan::Plan;
use problem::Problem;
use state::State;

/// What `rota apply` is told.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The directory with the files.
    #[arg(short = 'f', long = "file", value_name = "DIR")]
    dir: PathBuf,
    /// Only say what would change. The exit code is 7 where something would.
    #[arg(long)]
    dry_run: bool,
    /// Archive, or delete, what an earlier apply of this project has made and what is in no file any more.
    #[arg(long)]
    prune: bool,
    /// Where the secrets of new webhooks and hooks are written, a line of JSON each. A server shows them once.
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// `rota apply`.
///
/// # Errors
/// When a file is wrong, before anything is changed; when the server refuses a change, after those before it.
pub async fn apply(args: ApplyArgs) -> Result<Exit> {
    let out = &Out::new(args.server.json);
    let client = &Client::new(Target::find(&args.server)?)?;
    let project = files::read(&args.dir).map_err(|problems| wrong(&problems))?;
    let (state, plan) = planned(client, &project, args.prune).await?;
    if out.json {
        out.value(&plan.value())?;
    } else {
        out.write(&plan.text())?;
    }
    if plan.is_empty() {
        return Ok(Exit::Done);
    }
    if args.dry_run {
        return Ok(Exit::Changes);
    }
    let secret = plan.changes.iter().find(|change| perform::makes_secret(&project, change));
    if let (Some(change), None) = (secret, &args.secrets) {
        return Err(Error::Usage(format!(
            "{}: its secret is shown once: name a file for it with --secrets FILE{}",
            change.name(),
            if change.kind == Kind::Hook { ", or give the hook one of your own with secret_env" } else { "" }
        )));
    }
    let secrets = args.secrets.as_deref().filter(|_| secret.is_some()).map(Secrets::open).transpose()?;
    perform::perform(client, out, &project, &state, &plan, secrets).await?;
    Ok(Exit::Done)
}

async fn planned(client: &Client, project: &Project, prune: bool) -> Result<(State, Plan)> {
    let mut state = State::read(client, &Kind::WITH_FILES).await?;
    let ids = plan::match_files(project, &state).map_err(|problems| wrong(&problems))?;
    for ((kind, _), id) in &ids {
        match (kind, state.get(*kind, id).cloned()) {
            (Kind::Deployment, _) => state.read_deployment(client, id).await?,
            (Kind::Skill, Some(skill)) => state.read_skill(client, &skill).await?,
            _ => {}
        }
    }
    let plan = plan::plan(project, &state, ids, prune).map_err(|problems| wrong(&problems))?;
    Ok((state, plan))
}

/// Everything that is wrong, a line each.
fn wrong(problems: &[Problem]) -> Error {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    Error::Failed(format!("nothing was changed:\n{}", crate::output::clean(&lines.join("\n"))))
}
