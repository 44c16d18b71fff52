//! Starting deployments on demand: a server that accepts sessions and runs none, so that the store is what is measured.

use std::{
    cell::Cell,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::json;
use tokio::{
    task::{JoinSet, LocalSet},
    time::sleep,
};

use crate::{
    Settings,
    bare_store::BareStore,
    disk,
    figures::{Figures, Measured, median, milliseconds, verdict},
    http::Connection,
    machine::Watch,
    server::Server,
};

pub const DEPLOYMENTS: usize = 100;
/// Runs that the bare store commits at a time when it is compared with many clients.
const GROUP: usize = 64;
/// What each session is sent.
pub const MESSAGE: &str = "Nightly report.\n\n```bash\nuname -a\n```\n";
/// How long a subject is measured before the next one's turn.
const SLICE: Duration = Duration::from_secs(1);
/// Slices of a round that are measured again because others used the machine.
const MAX_REPEATED: u32 = 100;
/// How long the load goes on before the server is killed in it.
const BEFORE_KILL: Duration = Duration::from_secs(1);

/// What is measured, in the order of the table.
const SUBJECTS: [Subject; 7] = [
    Subject::Append,
    Subject::Overwrite,
    Subject::BareStore(1),
    Subject::BareStore(GROUP),
    Subject::Clients(1),
    Subject::Clients(8),
    Subject::Clients(64),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Append,
    Overwrite,
    /// Runs a commit.
    BareStore(usize),
    Clients(usize),
}

impl Subject {
    fn name(self) -> String {
        match self {
            Self::Append => "disk: append 4 KiB, fdatasync".to_owned(),
            Self::Overwrite => "disk: overwrite 4 KiB, fdatasync".to_owned(),
            Self::BareStore(group) => format!("bare store, {group} a commit"),
            Self::Clients(clients) => format!("HTTP, {clients} closed-loop clients"),
        }
    }
}

/// What one round has shown.
struct Round {
    figures: Vec<(Subject, Figures)>,
    repeated: u32,
    idle_mib: f64,
    loaded_mib: f64,
    restart_ms: f64,
}

impl Round {
    fn of(&self, subject: Subject) -> Figures {
        let found = self.figures.iter().find(|(measured, _)| *measured == subject);
        found.expect("every subject is measured in every round").1
    }
}

pub async fn measure(settings: &Settings) -> Result<()> {
    let (rounds, seconds) = (settings.rounds, settings.seconds);
    println!("## Run now\n\n{DEPLOYMENTS} deployments in turn; {rounds} rounds of {seconds} s a row, medians.\n");
    let mut shown = Vec::new();
    for _ in 0..rounds {
        shown.push(round(settings).await?);
    }
    table(&shown);
    targets(&shown);
    Ok(())
}

async fn round(settings: &Settings) -> Result<Round> {
    let folder = settings.temporary()?;
    let server = Server::start(&settings.rota, &folder.path().join("data"), 0).await?;
    let idle_mib = server.memory_mib();
    let deployments = server.create_deployments(DEPLOYMENTS, MESSAGE, &json!({})).await?;
    let requests: Rc<[Vec<u8>]> = server.run_requests(&deployments).into();
    run_each_once(&server, &requests).await?;
    let bare = BareStore::copy(&server.store(), &folder.path().join("bare.db"))?;
    let mut bench = Bench { folder: folder.path(), server, requests, bare, repeated: 0 };
    let figures = bench.figures(settings.seconds).await?;
    let Bench { mut server, requests, repeated, .. } = bench;
    let loaded_mib = server.memory_mib();
    kill_under_load(&mut server, &requests).await?;
    Ok(Round { figures, repeated, idle_mib, loaded_mib, restart_ms: milliseconds(server.started_in) })
}

/// What one round measures with.
struct Bench<'a> {
    folder: &'a Path,
    server: Server,
    requests: Rc<[Vec<u8>]>,
    bare: BareStore,
    repeated: u32,
}

impl Bench<'_> {
    /// Measures every subject for `seconds`, a slice at a time in turn, so that a machine that is faster at one time
    /// than at another is so for all of them.
    async fn figures(&mut self, seconds: u64) -> Result<Vec<(Subject, Figures)>> {
        let mut order: Vec<usize> = (0..SUBJECTS.len()).collect();
        let mut measured = [(); SUBJECTS.len()].map(|()| Measured::default());
        for _ in 0..seconds {
            for place in &order {
                measured[*place] += self.undisturbed(SUBJECTS[*place]).await?;
            }
            // Back and forth, so that nothing always comes first.
            order.reverse();
        }
        Ok(SUBJECTS.into_iter().zip(measured.into_iter().map(Figures::new)).collect())
    }

    /// Measures a slice, and again when others used the machine, unless they always do.
    async fn undisturbed(&mut self, subject: Subject) -> Result<Measured> {
        loop {
            let measured = self.slice(subject).await?;
            if self.repeated == MAX_REPEATED || !measured.used.shares().disturbed() {
                return Ok(measured);
            }
            self.repeated += 1;
        }
    }

    async fn slice(&mut self, subject: Subject) -> Result<Measured> {
        let watch = Watch::start(Some(self.server.pid()));
        let begin = Instant::now();
        let (took, each) = match subject {
            Subject::Append => (disk::append(self.folder, SLICE)?, 1),
            Subject::Overwrite => (disk::overwrite(self.folder, SLICE)?, 1),
            Subject::BareStore(group) => (self.bare.commit_for(SLICE, group)?, group),
            Subject::Clients(clients) => (load(self.server.address, &self.requests, clients, SLICE).await?, 1),
        };
        let count = took.len() * each;
        Ok(Measured { took, count, elapsed: begin.elapsed(), used: watch.used() })
    }
}

/// Warms the server up and leaves one run of each deployment, for the bare store to copy.
async fn run_each_once(server: &Server, requests: &[Vec<u8>]) -> Result<()> {
    let mut connection = server.connect().await?;
    for request in requests {
        connection.exchange(request).await?;
    }
    Ok(())
}

/// Runs deployments with `clients` connections, each of which waits for its answer before it asks again. Returns how
/// long each answer took.
pub async fn load(
    address: SocketAddr,
    requests: &Rc<[Vec<u8>]>,
    clients: usize,
    length: Duration,
) -> Result<Vec<Duration>> {
    let turn = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    let local = LocalSet::new();
    for _ in 0..clients {
        let (requests, turn) = (requests.clone(), turn.clone());
        tasks.spawn_local_on(
            async move {
                let mut connection = Connection::open(address).await?;
                let begin = Instant::now();
                let mut took = Vec::new();
                while begin.elapsed() < length {
                    let request = &requests[turn.get() % requests.len()];
                    turn.set(turn.get() + 1);
                    let sent = Instant::now();
                    connection.exchange(request).await?;
                    took.push(sent.elapsed());
                }
                anyhow::Ok(took)
            },
            &local,
        );
    }
    let all = local.run_until(tasks.join_all()).await;
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

async fn kill_under_load(server: &mut Server, requests: &Rc<[Vec<u8>]>) -> Result<()> {
    let (address, length) = (server.address, BEFORE_KILL * 10);
    tokio::select! {
        ended = load(address, requests, GROUP, length) => drop(ended?),
        () = sleep(BEFORE_KILL) => {}
    }
    server.kill_and_start().await
}

fn table(rounds: &[Round]) {
    println!("| | p50 ms | p99 ms | max ms | per s | load | server | others |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for subject in SUBJECTS {
        let of_rounds: Vec<Figures> = rounds.iter().map(|round| round.of(subject)).collect();
        let Figures { p50, p99, max, rate, shares } = Figures::median(&of_rounds);
        let [load, server, others] = [shares.load, shares.server, shares.others].map(|share| share * 100.0);
        let name = subject.name();
        println!(
            "| {name} | {p50:.2} | {p99:.2} | {max:.1} | {rate:.0} | {load:.0} % | {server:.0} % | {others:.0} % |"
        );
    }
    let disturbed = rounds.iter().flat_map(|round| &round.figures).any(|(_, figures)| figures.shares.disturbed());
    let repeated: u32 = rounds.iter().map(|round| round.repeated).sum();
    println!("\n(load, server, others: shares of the whole machine's processors.)");
    println!("{repeated} slices of 1 s were measured again because others used the machine.");
    if disturbed {
        println!("DISTURBED all the same: the figures are too low.");
    }
}

fn targets(rounds: &[Round]) {
    let middle = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure));
    let one = |round: &Round| round.of(Subject::Clients(1));
    let many = |round: &Round| round.of(Subject::Clients(64));
    let p50_ratio = middle(&|round| one(round).p50 / round.of(Subject::BareStore(1)).p50);
    let rate_ratio = middle(&|round| many(round).rate / round.of(Subject::BareStore(GROUP)).rate);
    let (p50, rate, p99) = (middle(&|r| one(r).p50), middle(&|r| many(r).rate), middle(&|r| many(r).p99));
    let (idle, loaded, restart) =
        (middle(&|r| r.idle_mib), middle(&|r| r.loaded_mib), middle(&|round| round.restart_ms));
    println!("\n| target | measured | |\n|---|---:|---|");
    let row = |target: &str, measured: String, met: bool| println!("| {target} | {measured} | {} |", verdict(met));
    row("1 client: p50 at most 2 times a bare commit's", format!("{p50_ratio:.2}"), p50_ratio <= 2.0);
    row(
        "64 clients: at least 70 % of the bare store's rate",
        format!("{:.0} %", rate_ratio * 100.0),
        rate_ratio >= 0.7,
    );
    row("1 client: p50 at most 1.0 ms", format!("{p50:.2} ms"), p50 <= 1.0);
    row("64 clients: at least 6,000 a second", format!("{rate:.0}"), rate >= 6000.0);
    row("64 clients: p99 at most 30 ms", format!("{p99:.1} ms"), p99 <= 30.0);
    row("memory, idle: at most 40 MiB", format!("{idle:.1} MiB"), idle <= 40.0);
    row("kill -9 under load to ready: at most 1 s", format!("{restart:.0} ms"), restart <= 1000.0);
    println!("\nMemory after the load: {loaded:.0} MiB.\n");
}
