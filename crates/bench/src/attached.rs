//! Starting deployments that have two files, a memory store and a vault, beside the same deployments without.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    Settings,
    database::Database,
    figures::{Figures, Measured, median, verdict},
    http::upload_request,
    machine::Watch,
    run_now::{DEPLOYMENTS, MESSAGE, load},
    server::Server,
};

const CLIENTS: [usize; 3] = [1, 8, 64];
/// How long one kind is measured before the other one's turn.
const SLICE: Duration = Duration::from_secs(1);
/// How many times as long as one without attachments a start with them may take.
const MOST: f64 = 1.3;

/// What one round has shown of a number of clients: without attachments and with them.
#[derive(Clone, Copy)]
struct Pair {
    bare: Figures,
    attached: Figures,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.attached.p50 / self.bare.p50
    }
}

pub async fn measure(settings: &Settings) -> Result<()> {
    on(settings, "SQLite", None).await?;
    let Some(database) = Database::create("attached").await? else { return Ok(()) };
    let measured = on(settings, "PostgreSQL", Some(&database.url)).await;
    database.drop().await?;
    measured
}

async fn on(settings: &Settings, store: &str, url: Option<&str>) -> Result<()> {
    let (rounds, seconds) = (settings.rounds, settings.seconds);
    println!(
        "## Run now with attachments, {store}\n\n{DEPLOYMENTS} deployments of each kind in turn, in slices of 1 s one after the \
         other; {rounds} rounds of {seconds} s a row, medians.\n"
    );
    let folder = settings.temporary()?;
    let server = Server::start_on(&settings.rota, &folder.path().join("data"), 0, url).await?;
    let kinds = [Value::Null, attachments(&server).await?];
    let mut requests: Vec<Rc<[Vec<u8>]>> = Vec::new();
    for kind in &kinds {
        let deployments = server.create_deployments(DEPLOYMENTS, MESSAGE, kind).await?;
        requests.push(server.run_requests(&deployments).into());
    }
    println!("| | p50 ms | p99 ms | per s | others |\n|---|---:|---:|---:|---:|");
    let mut ratios = Vec::new();
    for clients in CLIENTS {
        let mut shown = Vec::new();
        for _ in 0..rounds {
            shown.push(round(&server, &requests, clients, seconds).await?);
        }
        for (name, of) in [
            ("without", Figures::median(&of(&shown, |pair| pair.bare))),
            ("with", Figures::median(&of(&shown, |pair| pair.attached))),
        ] {
            let Figures { p50, p99, rate, shares, .. } = of;
            let others = shares.others * 100.0;
            println!("| {clients} clients, {name} | {p50:.2} | {p99:.2} | {rate:.0} | {others:.0} % |");
        }
        ratios.push((
            clients,
            median(shown.iter().map(Pair::ratio)),
            median(shown.iter().map(|pair| pair.bare.rate / pair.attached.rate)),
        ));
    }
    println!("\n| target | measured | |\n|---|---:|---|");
    for (clients, p50, rate) in ratios {
        if clients == 1 {
            println!(
                "| {store}, 1 client: p50 at most {MOST} times one without | {p50:.2} | {} |",
                verdict(p50 <= MOST)
            );
        } else {
            println!(
                "| {store}, {clients} clients: p50, and time of each run, in those of one without | {p50:.2}, {rate:.2} | |"
            );
        }
    }
    println!();
    Ok(())
}

fn of(pairs: &[Pair], which: fn(&Pair) -> Figures) -> Vec<Figures> {
    pairs.iter().map(which).collect()
}

/// Two files, a memory store with a memory and a vault, as the fields of a deployment.
async fn attachments(server: &Server) -> Result<Value> {
    let mut resources = Vec::new();
    for number in 0..2 {
        let content = b"1,2,3\n";
        let (head, tail) = upload_request("/v1/files", &server.key, content.len());
        let mut connection = server.connect().await?;
        let file: Value = serde_json::from_slice(connection.exchange(&[&head[..], content, &tail].concat()).await?)?;
        resources.push(json!({"type": "file", "file_id": file["id"], "mount_path": format!("/data/{number}.csv")}));
    }
    let store = server.create_one("/v1/memory_stores", &json!({"name": "Notes"})).await?;
    let memory = json!({"path": "/notes.md", "content": "What to remember."});
    server.create_one(&format!("/v1/memory_stores/{store}/memories"), &memory).await?;
    resources.push(json!({"type": "memory_store", "memory_store_id": store}));
    let vault = server.create_one("/v1/vaults", &json!({"display_name": "bench"})).await?;
    Ok(json!({"resources": resources, "vault_ids": [vault]}))
}

/// Measures both kinds for `seconds` each, a slice at a time in turn, so that a machine that is faster at one time than at
/// another is so for both.
async fn round(server: &Server, requests: &[Rc<[Vec<u8>]>], clients: usize, seconds: u64) -> Result<Pair> {
    let mut measured = [Measured::default(), Measured::default()];
    let mut order = [0, 1];
    for _ in 0..seconds {
        for kind in order {
            let watch = Watch::start(Some(server.pid()));
            let begin = Instant::now();
            let took = load(server.address, &requests[kind], clients, SLICE).await?;
            let count = took.len();
            measured[kind] += Measured { took, count, elapsed: begin.elapsed(), used: watch.used() };
        }
        // Back and forth, so that neither always comes first.
        order.reverse();
    }
    let [bare, attached] = measured.map(Figures::new);
    Ok(Pair { bare, attached })
}
