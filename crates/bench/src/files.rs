//! Uploads and downloads of large files, beside what `cp` makes of the same bytes on the same disk.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    Settings,
    figures::{median, verdict},
    http::upload_request,
    machine::Watch,
    server::Server,
};

/// Bytes of a file: 100 MB, as limits of files are counted.
const BYTES: usize = 100 << 20;
/// Bytes that the client hands to its connection at a time.
const PIECE: usize = 1 << 20;
/// Files of each kind in a round.
const TIMES: usize = 5;
/// The least share of the rate of `cp`.
const LEAST: f64 = 0.6;
/// Sessions that run at the same time.
const CONCURRENCY: usize = 1;
/// How long an agent may take to leave its file.
const PATIENCE: Duration = Duration::from_mins(1);

/// Medians of one round, in MB a second.
struct Round {
    copy: f64,
    upload: f64,
    download: f64,
    others: f64,
}

pub async fn measure(settings: &Settings) -> Result<()> {
    println!(
        "## Files\n\nFiles of {} MB, {TIMES} of each kind in turn; {} rounds, medians. `cp` is followed by fsync; what is \
         downloaded is read and not written.\n",
        BYTES >> 20,
        settings.rounds
    );
    let mut shown = Vec::new();
    for _ in 0..settings.rounds {
        shown.push(round(settings).await?);
    }
    let middle = |figure: fn(&Round) -> f64| median(shown.iter().map(figure));
    println!("| | MB a second | of `cp` |\n|---|---:|---:|");
    println!("| `cp`, fsync | {:.0} | |", middle(|r| r.copy));
    let upload = middle(|r| r.upload / r.copy);
    println!("| upload | {:.0} | {:.0} % |", middle(|r| r.upload), upload * 100.0);
    let download = middle(|r| r.download / r.copy);
    println!("| download | {:.0} | {:.0} % |", middle(|r| r.download), download * 100.0);
    println!("\n| target | measured | |\n|---|---:|---|");
    for (name, share) in [("upload", upload), ("download", download)] {
        let (percent, met) = (share * 100.0, verdict(share >= LEAST));
        println!("| {name}: at least 60 % of the rate of `cp` | {percent:.0} % | {met} |");
    }
    println!(
        "\nOthers used at most {:.0} % of the machine.\n",
        shown.iter().map(|r| r.others).fold(0.0, f64::max) * 100.0
    );
    Ok(())
}

async fn round(settings: &Settings) -> Result<Round> {
    let folder = settings.temporary()?;
    let server = Server::start(&settings.rota, &folder.path().join("data"), CONCURRENCY).await?;
    let file = output(&server).await?;
    // What no disk can make smaller.
    let source = folder.path().join("source");
    let content = noise();
    fs::write(&source, &content)?;
    File::open(&source)?.sync_all()?;
    let (mut copies, mut uploads, mut downloads) = (Vec::new(), Vec::new(), Vec::new());
    let mut others: f64 = 0.0;
    for _ in 0..TIMES {
        // `cp` is a process of its own and counts among the others.
        copies.push(copy(&source, &folder.path().join("copy"))?);
        let watch = Watch::start(Some(server.pid()));
        uploads.push(upload(&server, &content).await?);
        downloads.push(download(&server, &file).await?);
        others = others.max(watch.used().shares().others);
    }
    Ok(Round { copy: median(copies), upload: median(uploads), download: median(downloads), others })
}

/// Bytes that look random: xorshift.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(BYTES);
    while content.len() < BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content
}

/// MB a second.
fn rate(took: Duration) -> f64 {
    (BYTES >> 20) as f64 / took.as_secs_f64()
}

fn copy(source: &Path, target: &Path) -> Result<f64> {
    let begin = Instant::now();
    let status = Command::new("cp").arg("--reflink=never").args([source, target]).status().context("running cp")?;
    ensure!(status.success(), "cp failed");
    File::open(target)?.sync_all()?;
    let took = begin.elapsed();
    fs::remove_file(target)?;
    Ok(rate(took))
}

async fn upload(server: &Server, content: &[u8]) -> Result<f64> {
    let mut connection = server.connect().await?;
    let (head, tail) = upload_request("/v1/files", &server.key, content.len());
    let begin = Instant::now();
    connection.send(&head).await?;
    for piece in content.chunks(PIECE) {
        connection.send(piece).await?;
    }
    connection.send(&tail).await?;
    let file: Value = serde_json::from_slice(connection.answer().await?)?;
    let took = begin.elapsed();
    ensure!(file["size_bytes"] == content.len(), "the file is not whole: {file}");
    Ok(rate(took))
}

async fn download(server: &Server, file: &str) -> Result<f64> {
    let mut connection = server.connect().await?;
    let request = server.request("GET", &format!("/v1/files/{file}/content"), &Value::Null);
    let begin = Instant::now();
    connection.send(&request).await?;
    let length = connection.skip_answer().await?;
    let took = begin.elapsed();
    ensure!(length == BYTES, "{length} bytes were sent");
    Ok(rate(took))
}

/// A file that can be downloaded: an agent has left it.
async fn output(server: &Server) -> Result<String> {
    let message = format!("```bash\nhead -c {BYTES} /dev/urandom > /mnt/session/outputs/bench.bin\n```\n");
    let deployments = server.create_deployments(1, &message, &json!({})).await?;
    let mut connection = server.connect().await?;
    let run: Value = serde_json::from_slice(connection.exchange(&server.run_requests(&deployments)[0]).await?)?;
    let session = run["session_id"].as_str().context("the run started a session")?;
    let list = server.request("GET", &format!("/v1/files?scope_id={session}"), &Value::Null);
    let begin = Instant::now();
    loop {
        let files: Value = serde_json::from_slice(connection.exchange(&list).await?)?;
        if let Some(id) = files["data"][0]["id"].as_str() {
            return Ok(id.to_owned());
        }
        ensure!(begin.elapsed() < PATIENCE, "the agent has left no file: can this machine run sandboxes?");
        sleep(Duration::from_millis(50)).await;
    }
}
