//! Sessions that work: what the engine adds to a turn, what a sandbox costs, how many sessions a second.

use std::{
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rusqlite::{Connection as Store, OpenFlags};
use serde_json::{Value, json};

use crate::{
    Settings,
    figures::{median, milliseconds, verdict},
    http::{Connection, stream_request},
    machine::Watch,
    run_now::load,
    server::{Server, user_message},
};

/// Sessions that run at the same time: the server's default.
const CONCURRENCY: usize = 16;
/// Clients that run deployments while sessions work.
const CLIENTS: usize = 8;
/// Turns of each kind in a round.
const TURNS: usize = 40;
/// What a session does: one block of shell.
const ONE_BLOCK: &str = "```bash\ntrue\n```\n";
/// What a session answers without a tool.
const NO_BLOCK: &str = "Hello.";
/// The frame that ends a turn.
const AT_REST: &str = "\"type\":\"session.status_idle\"";
/// How long the machine is watched before a round, to see whether it is quiet.
const LOOK: Duration = Duration::from_secs(1);

/// Medians of one round, in milliseconds, and rates a second.
struct Round {
    no_tool: f64,
    warm: Turn,
    cold: Turn,
    started: f64,
    finished: f64,
    memory_mib: f64,
    others: f64,
}

/// The medians of a kind of turn, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// From the request to the end of the turn, as a client sees it.
    whole: f64,
    /// From the commit of the call to its result.
    tool: f64,
}

pub async fn measure(settings: &Settings) -> Result<()> {
    let (rounds, seconds) = (settings.rounds, settings.seconds);
    println!("## Sessions\n\n{rounds} rounds of {TURNS} turns a row and {seconds} s of load, medians.\n");
    let mut shown = Vec::new();
    for _ in 0..rounds {
        shown.push(round(settings).await?);
    }
    report(&shown);
    Ok(())
}

async fn round(settings: &Settings) -> Result<Round> {
    let folder = settings.temporary()?;
    let server = Server::start(&settings.rota, &folder.path().join("data"), CONCURRENCY).await?;
    let deployments = server.create_deployments(CLIENTS, ONE_BLOCK, &json!({})).await?;
    let watch = Watch::start(Some(server.pid()));
    tokio::time::sleep(LOOK).await;
    let others = watch.used().shares().others;

    let mut clients = Clients { server: &server, asking: server.connect().await?, store: open(&server.store())? };
    let requests: Rc<[Vec<u8>]> = server.run_requests(&deployments).into();
    // The first session is left out: it copies the program that sandboxes run.
    let session = clients.start(&requests[0]).await?.session;
    let mut cold = Vec::new();
    for number in 0..TURNS {
        cold.push(clients.start(&requests[number % requests.len()]).await?);
    }
    let mut warm = Vec::new();
    let mut no_tool = Vec::new();
    for _ in 0..TURNS {
        warm.push(clients.send(&session, ONE_BLOCK).await?);
        no_tool.push(clients.send(&session, NO_BLOCK).await?);
    }
    let before = clients.at_rest()?;
    let begin = Instant::now();
    let started = load(server.address, &requests, CLIENTS, Duration::from_secs(settings.seconds)).await?.len();
    let finished = clients.at_rest()? - before;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Round {
        no_tool: median(no_tool.iter().map(|taken| taken.whole)),
        warm: clients.medians(&warm)?,
        cold: clients.medians(&cold)?,
        started: started as f64 / seconds,
        finished: finished as f64 / seconds,
        memory_mib: server.memory_mib(),
        others,
    })
}

/// A turn that was waited for.
struct Taken {
    session: String,
    whole: f64,
}

struct Clients<'a> {
    server: &'a Server,
    asking: Connection,
    store: Store,
}

impl Clients<'_> {
    /// Runs a deployment and waits until its session rests.
    async fn start(&mut self, request: &[u8]) -> Result<Taken> {
        let begin = Instant::now();
        let run: Value = serde_json::from_slice(self.asking.exchange(request).await?)?;
        let session = run["session_id"].as_str().context("the run started a session")?.to_owned();
        let mut stream = self.server.connect().await?;
        stream.send(&stream_request(&session, &self.server.key)).await?;
        stream.skip_past(AT_REST).await?;
        Ok(Taken { session, whole: milliseconds(begin.elapsed()) })
    }

    /// Sends a message to a session that rests and waits until it rests again.
    async fn send(&mut self, session: &str, message: &str) -> Result<Taken> {
        let turns = self.turns(session)?;
        let mut stream = self.server.connect().await?;
        stream.send(&stream_request(session, &self.server.key)).await?;
        for _ in 0..turns {
            stream.skip_past(AT_REST).await?;
        }
        let path = format!("/v1/sessions/{session}/events");
        let request = self.server.request("POST", &path, &json!({"events": [user_message(message)]}));
        let begin = Instant::now();
        self.asking.exchange(&request).await?;
        stream.skip_past(AT_REST).await?;
        Ok(Taken { session: session.to_owned(), whole: milliseconds(begin.elapsed()) })
    }

    fn turns(&self, session: &str) -> Result<i64> {
        let sql = "SELECT count(*) FROM session_events WHERE session_id = ?1 AND type = 'session.status_idle'";
        Ok(self.store.query_row(sql, [session], |row| row.get(0))?)
    }

    fn at_rest(&self) -> Result<i64> {
        Ok(self.store.query_row("SELECT count(*) FROM sessions WHERE status = 'idle'", [], |row| row.get(0))?)
    }

    fn medians(&self, turns: &[Taken]) -> Result<Turn> {
        let mut tools = Vec::new();
        for turn in turns {
            tools.extend(self.tool_times(&turn.session)?);
        }
        Ok(Turn { whole: median(turns.iter().map(|turn| turn.whole)), tool: median(tools) })
    }

    /// How long each call of a session took, from the log.
    fn tool_times(&self, session: &str) -> Result<Vec<f64>> {
        let sql = "SELECT (r.processed_at - u.processed_at) / 1e3 FROM session_events u
            JOIN session_events r ON r.session_id = u.session_id AND r.seq = u.seq + 2
            WHERE u.session_id = ?1 AND u.type = 'agent.tool_use' AND r.type = 'agent.tool_result'";
        let mut statement = self.store.prepare(sql)?;
        let times = statement.query_map([session], |row| row.get(0))?;
        Ok(times.collect::<Result<_, _>>()?)
    }
}

fn open(store: &Path) -> Result<Store> {
    Ok(Store::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
}

fn report(rounds: &[Round]) {
    let middle = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
    let others = rounds.iter().map(|round| round.others).fold(0.0, f64::max) * 100.0;
    println!("| turn | whole, ms | of it the tool, ms | the rest, ms |\n|---|---:|---:|---:|");
    let row = |name: &str, whole: f64, tool: f64| println!("| {name} | {whole:.1} | {tool:.1} | {:.1} |", whole - tool);
    row("without a tool", middle(|r| r.no_tool), 0.0);
    row("one shell block, sandbox up", middle(|r| r.warm.whole), middle(|r| r.warm.tool));
    row("one shell block, sandbox from nothing", middle(|r| r.cold.whole), middle(|r| r.cold.tool));
    let engine = middle(|r| r.warm.whole - r.warm.tool).max(middle(|r| r.no_tool));
    let sandbox = middle(|r| r.cold.tool);
    println!("\n| target | measured | |\n|---|---:|---|");
    println!("| engine a turn, without model and tool: at most 4 ms | {engine:.1} ms | {} |", verdict(engine <= 4.0));
    println!(
        "| sandbox from nothing to the first answer: at most 30 ms | {sandbox:.1} ms | {} |",
        verdict(sandbox <= 30.0)
    );
    println!(
        "\n{CLIENTS} clients while {CONCURRENCY} sessions at a time work: {:.0} runs acknowledged a second, {:.1} sessions \
         finished a second; memory of the server {:.0} MiB.",
        middle(|r| r.started),
        middle(|r| r.finished),
        middle(|r| r.memory_mib)
    );
    println!("Others used at most {others:.0} % of the machine before a round.\n");
}
