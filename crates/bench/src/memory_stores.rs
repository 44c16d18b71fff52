//! Lists of a memory store that has as many memories as it may.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::{
    Settings,
    database::Database,
    figures::{Figures, Measured, median, verdict},
    machine::Watch,
    server::Server,
};

/// Memories of the store.
const MEMORIES: usize = 2_000;
/// Folders that they are in.
const FOLDERS: usize = 40;
/// Connections that write them.
const WRITERS: usize = 16;
/// Requests of each kind of list in a round.
const LISTS: usize = 1_000;
/// The longest p99, in milliseconds.
const MOST: f64 = 10.0;

pub async fn measure(settings: &Settings) -> Result<()> {
    println!(
        "## Lists of a memory store\n\n{MEMORIES} memories of 1 KB in {FOLDERS} folders, one client, {LISTS} requests a row; \
         {} rounds, medians.\n",
        settings.rounds
    );
    println!("| list | p50 ms | p99 ms | max ms | others |\n|---|---:|---:|---:|---:|");
    let folder = settings.temporary()?;
    let server = Server::start(&settings.rota, &folder.path().join("sqlite"), 0).await?;
    let mut slowest = vec![("SQLite", lists(settings, "SQLite", &server).await?)];
    drop(server);
    if let Some(database) = Database::create("memory").await? {
        let server = Server::start_on(&settings.rota, &folder.path().join("postgres"), 0, Some(&database.url)).await?;
        let listed = lists(settings, "PostgreSQL", &server).await;
        drop(server);
        database.drop().await?;
        slowest.push(("PostgreSQL", listed?));
    }
    println!("\n| target | measured | |\n|---|---:|---|");
    for (store, p99) in slowest {
        println!("| {store}: every page, p99 at most {MOST:.0} ms | {p99:.1} ms | {} |", verdict(p99 <= MOST));
    }
    println!();
    Ok(())
}

/// Measures each kind of list. Returns the longest p99, in milliseconds.
async fn lists(settings: &Settings, name: &str, server: &Server) -> Result<f64> {
    let path = format!("/v1/memory_stores/{}/memories", fill(server).await?);
    let mut slowest: f64 = 0.0;
    for (kind, query) in [
        ("newest, 100 a page", "limit=100"),
        ("folders, 100 a page", "limit=100&depth=1"),
        ("of a folder", "limit=100&path_prefix=/topic-7/"),
        ("right below a folder", "limit=100&path_prefix=/topic-7/&depth=1"),
        ("with contents, 20 a page", "limit=20&view=full"),
    ] {
        let request = server.request("GET", &format!("{path}?{query}"), &Value::Null);
        let mut shown = Vec::new();
        for _ in 0..settings.rounds {
            shown.push(Figures::new(list(server, &request).await?));
        }
        let Figures { p50, p99, max, shares, .. } = Figures::median(&shown);
        println!("| {name}: {kind} | {p50:.2} | {p99:.2} | {max:.1} | {:.0} % |", shares.others * 100.0);
        slowest = slowest.max(p99);
    }
    let mut whole = Vec::new();
    for _ in 0..settings.rounds {
        let begin = Instant::now();
        ensure!(walk(server, &path).await? == MEMORIES, "every memory is listed once");
        whole.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    println!("| {name}: all of it, page by page | {:.1} | | | |", median(whole));
    Ok(slowest)
}

async fn list(server: &Server, request: &[u8]) -> Result<Measured> {
    let mut connection = server.connect().await?;
    let first: Value = serde_json::from_slice(connection.exchange(request).await?)?;
    ensure!(first["data"][0].is_object(), "the list shows something: {first}");
    let (watch, begin) = (Watch::start(Some(server.pid())), Instant::now());
    let mut took = Vec::with_capacity(LISTS);
    for _ in 0..LISTS {
        let sent = Instant::now();
        connection.exchange(request).await?;
        took.push(sent.elapsed());
    }
    Ok(Measured { took, count: LISTS, elapsed: begin.elapsed(), used: watch.used() })
}

/// How many memories all pages have.
async fn walk(server: &Server, path: &str) -> Result<usize> {
    let mut connection = server.connect().await?;
    let (mut count, mut page) = (0, String::new());
    loop {
        let request = server.request("GET", &format!("{path}?limit=100{page}"), &Value::Null);
        let list: Value = serde_json::from_slice(connection.exchange(&request).await?)?;
        count += list["data"].as_array().context("a list")?.len();
        let Some(next) = list["next_page"].as_str() else { return Ok(count) };
        page = format!("&page={next}");
    }
}

/// Makes a store with its memories. Returns its id.
async fn fill(server: &Server) -> Result<String> {
    let store = server.create_one("/v1/memory_stores", &json!({"name": "Bench"})).await?;
    let path = format!("/v1/memory_stores/{store}/memories");
    let write = async |first: usize| {
        let mut connection = server.connect().await?;
        for number in (first..MEMORIES).step_by(WRITERS) {
            let place = format!("/topic-{}/note-{number}.md", number % FOLDERS);
            let memory = json!({"path": place, "content": format!("{number} ").repeat(1024 / 5)});
            connection.exchange(&server.request("POST", &path, &memory)).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..WRITERS).map(write)).await?;
    Ok(store)
}
