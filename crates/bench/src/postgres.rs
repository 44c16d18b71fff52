//! Starting deployments on demand with PostgreSQL as the store, beside what `pgbench` does there with the same rows.

use std::{
    fs,
    path::Path,
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;

use crate::{
    Settings,
    database::{Database, connect},
    figures::{median, milliseconds, verdict},
    run_now::{DEPLOYMENTS, MESSAGE, load},
    server::Server,
};

const CLIENTS: [usize; 3] = [1, 8, 64];
/// Threads of `pgbench`: as many as make it no bottleneck on two processors.
const THREADS: usize = 2;

/// What one subject took.
struct Figures {
    p50: f64,
    p99: f64,
    rate: f64,
}

impl Figures {
    fn new(mut took: Vec<Duration>, elapsed: Duration) -> Result<Self> {
        ensure!(!took.is_empty(), "nothing was done");
        took.sort_unstable();
        let at = |share: f64| milliseconds(took[((took.len() - 1) as f64 * share) as usize]);
        Ok(Self { p50: at(0.5), p99: at(0.99), rate: took.len() as f64 / elapsed.as_secs_f64() })
    }

    fn median(of: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> f64| median(of.iter().map(figure));
        Self { p50: median(|f| f.p50), p99: median(|f| f.p99), rate: median(|f| f.rate) }
    }
}

/// Measures, when there is a PostgreSQL server to measure on.
pub async fn measure(settings: &Settings) -> Result<()> {
    println!("## Run now, PostgreSQL\n");
    let Some(database) = Database::create("run_now").await? else { return Ok(()) };
    let measured = on_database(settings, &database.url).await;
    database.drop().await?;
    measured
}

async fn on_database(settings: &Settings, url: &str) -> Result<()> {
    let folder = settings.temporary()?;
    let server = Server::start_on(&settings.rota, &folder.path().join("data"), 0, Some(url)).await?;
    let deployments = server.create_deployments(DEPLOYMENTS, MESSAGE, &serde_json::Value::Null).await?;
    let requests: Rc<[Vec<u8>]> = server.run_requests(&deployments).into();
    load(server.address, &requests, 1, Duration::from_secs(1)).await?;
    let rows = rows_of_a_run(&connect(url).await?).await?;
    let (rounds, length) = (settings.rounds, Duration::from_secs(settings.seconds));
    println!(
        "{DEPLOYMENTS} deployments in turn; {rounds} rounds of {} s a row, medians. A run is {} rows.\n",
        settings.seconds,
        rows.len()
    );
    println!("| | p50 ms | p99 ms | per s | of pgbench's rate |\n|---|---:|---:|---:|---:|");
    let mut shown = Vec::new();
    for clients in CLIENTS {
        let (mut bare, mut http) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            bare.push(pgbench(folder.path(), url, &rows, clients, round, settings.seconds)?);
            let begin = Instant::now();
            let took = load(server.address, &requests, clients, length).await?;
            http.push(Figures::new(took, begin.elapsed())?);
        }
        let (bare, http) = (Figures::median(&bare), Figures::median(&http));
        println!(
            "| pgbench, the same rows, {clients} clients | {:.2} | {:.2} | {:.0} | |",
            bare.p50, bare.p99, bare.rate
        );
        let share = http.rate / bare.rate * 100.0;
        println!("| HTTP, {clients} clients | {:.2} | {:.2} | {:.0} | {share:.0} % |", http.p50, http.p99, http.rate);
        shown.push(http);
    }
    let many = shown.last().context("there are clients")?;
    println!("\n| target | measured | |\n|---|---:|---|");
    println!("| 64 clients: at least 3,000 a second | {:.0} | {} |", many.rate, verdict(many.rate >= 3000.0));
    println!("| 64 clients: p99 at most 50 ms | {:.1} ms | {} |\n", many.p99, verdict(many.p99 <= 50.0));
    Ok(())
}

/// The statements that write the rows of one run again, with ids that `pgbench` makes.
async fn rows_of_a_run(client: &Client) -> Result<Vec<String>> {
    let run = client
        .query_one("SELECT id, session_id FROM deployment_runs WHERE session_id IS NOT NULL LIMIT 1", &[])
        .await?;
    let (run, session): (String, String) = (run.try_get(0)?, run.try_get(1)?);
    let mut statements = Vec::new();
    for (table, column, id) in
        [("session_inputs", "session_id", &session), ("sessions", "id", &session), ("deployment_runs", "id", &run)]
    {
        let sql = "SELECT column_name::text FROM information_schema.columns
            WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position";
        let columns = client.query(sql, &[&table]).await?;
        let columns: Vec<String> = columns.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let literals: Vec<String> = columns.iter().map(|column| format!("quote_nullable({column})")).collect();
        let sql = format!("SELECT concat_ws(', ', {}) FROM {table} WHERE {column} = $1", literals.join(", "));
        for row in client.query(&sql, &[id]).await? {
            let values: String = row.try_get(0)?;
            let values = values.replace(&format!("'{session}'"), ID).replace(&format!("'{run}'"), ID);
            statements.push(format!("INSERT INTO {table} ({}) VALUES ({values});", columns.join(", ")));
        }
    }
    Ok(statements)
}

/// Ids that nobody else makes and that sort by time, as the server's do.
const ID: &str = "(:run || lpad(:n, 12, '0') || '-' || :client_id)";

/// Runs `pgbench`: each transaction writes the rows of a run, all its statements in one round trip.
fn pgbench(folder: &Path, url: &str, rows: &[String], clients: usize, round: u32, seconds: u64) -> Result<Figures> {
    let logs = folder.join("pgbench");
    fs::create_dir_all(&logs)?;
    let script = folder.join("run.sql");
    let statements = rows.join("\n");
    fs::write(&script, format!("\\set n :n + 1\n\\startpipeline\nBEGIN;\n{statements}\nCOMMIT;\n\\endpipeline\n"))?;
    let begin = Instant::now();
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--log", "--define=n=0"])
        .arg(format!("--define=run=bench{clients}-{round}-"))
        .arg(format!("--log-prefix={}/log", logs.display()))
        .arg(format!("--client={clients}"))
        .arg(format!("--jobs={}", THREADS.min(clients)))
        .arg(format!("--time={seconds}"))
        .arg(format!("--file={}", script.display()))
        .arg(url)
        .output()
        .context("running pgbench")?;
    ensure!(output.status.success(), "pgbench says: {}", String::from_utf8_lossy(&output.stderr));
    let elapsed = begin.elapsed().min(Duration::from_secs(seconds + 1));
    let mut took = Vec::new();
    for log in fs::read_dir(&logs)? {
        // client, transaction, microseconds, script, when
        let text = fs::read_to_string(log?.path())?;
        let micros = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok());
        took.extend(micros.map(Duration::from_micros));
    }
    fs::remove_dir_all(&logs)?;
    Figures::new(took, elapsed)
}
