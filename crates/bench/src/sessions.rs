//! Sessions that work: what the engine adds to a turn, what a sandbox costs, how many sessions a second.

use std::{
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
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
    /// One after the other by each of as many clients as run at the same time, without a tool and with one in a new sandbox.
    at_a_time: [f64; 2],
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
    let time = Duration::from_secs(settings.seconds);
    let without = server.create_deployments(CONCURRENCY, NO_BLOCK, &json!({})).await?;
    let with = server.create_deployments(CONCURRENCY, ONE_BLOCK, &json!({})).await?;
    let mut at_a_time = [0.0; 2];
    for (deployments, rate) in [without, with].iter().zip(&mut at_a_time) {
        *rate = one_after_the_other(&server, &server.run_requests(deployments), time).await?;
    }
    let before = clients.at_rest()?;
    let begin = Instant::now();
    let started = load(server.address, &requests, CLIENTS, time).await?.len();
    let finished = clients.at_rest()? - before;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Round {
        no_tool: median(no_tool.iter().map(|taken| taken.whole)),
        warm: clients.medians(&warm)?,
        cold: clients.medians(&cold)?,
        at_a_time,
        started: started as f64 / seconds,
        finished: finished as f64 / seconds,
        memory_mib: server.memory_mib(),
        others,
    })
}

/// For each of `requests` a client, which runs a deployment and waits until its session rests, again and again. Sessions a second.
async fn one_after_the_other(server: &Server, requests: &[Vec<u8>], time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let client = async |request: &Vec<u8>| {
        let mut asking = server.connect().await?;
        let mut count = 0;
        while begin.elapsed() < time {
            start_and_wait(server, &mut asking, request).await?;
            count += 1;
        }
        anyhow::Ok(count)
    };
    let counts: Vec<usize> = try_join_all(requests.iter().map(client)).await?;
    Ok(counts.iter().sum::<usize>() as f64 / begin.elapsed().as_secs_f64())
}

/// Runs a deployment and waits until its session rests. Returns the session.
async fn start_and_wait(server: &Server, asking: &mut Connection, request: &[u8]) -> Result<String> {
    let run: Value = serde_json::from_slice(asking.exchange(request).await?)?;
    let session = run["session_id"].as_str().context("the run started a session")?.to_owned();
    let mut stream = server.connect().await?;
    stream.send(&stream_request(&session, &server.key)).await?;
    stream.skip_past(AT_REST).await?;
    Ok(session)
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
        let session = start_and_wait(self.server, &mut self.asking, request).await?;
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
    let [without, with] = [middle(|r| r.at_a_time[0]), middle(|r| r.at_a_time[1])];
    println!(
        "| from run to rest with one command in a new sandbox, {CONCURRENCY} at a time: at least 250 a second | {with:.0} | {} |",
        verdict(with >= 250.0)
    );
    println!("\nWithout a tool, {CONCURRENCY} at a time: {without:.0} sessions a second.");
    println!(
        "\n{CLIENTS} clients while {CONCURRENCY} sessions at a time work: {:.0} runs acknowledged a second, {:.1} sessions \
         finished a second; memory of the server {:.0} MiB.",
        middle(|r| r.started),
        middle(|r| r.finished),
        middle(|r| r.memory_mib)
    );
    println!("Others used at most {others:.0} % of the machine before a round.\n");
}
