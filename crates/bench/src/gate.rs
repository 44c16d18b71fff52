//! The gate: what a sandbox moves through it to a server on this machine, beside the same program connected to it directly.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection as Store, OpenFlags};
use serde_json::{Value, json};

use crate::{
    Settings,
    figures::{median, verdict},
    http::stream_request,
    machine::Watch,
    server::{Server, user_message},
};

/// Bytes of a transfer.
const BYTES: u64 = 256 << 20;
/// Transfers of each kind in a round.
const TRANSFERS: usize = 3;
/// Answers that are waited for on one connection.
const ANSWERS: usize = 300;
/// Connections that are made, each for one answer. Fewer than a sandbox may make at once.
const CONNECTIONS: usize = 100;
/// The least share of a direct connection's rate.
const LEAST: f64 = 0.5;
/// The most that the gate may add to an answer, in milliseconds.
const MOST: f64 = 1.0;
/// The port that the gate passes on unread.
const PORT: u16 = 5000;
/// What the server on this machine is called inside.
const NAME: &str = "bench.example";
/// The frame that ends a turn.
const AT_REST: &str = "\"type\":\"session.status_idle\"";

/// Prints the microseconds that pass while `$1` is done, `$2` times. Both bash, inside and outside.
const TIMED: &str = "timed() { local i t u; for ((i = 0; i < $2; i++)); do t=${EPOCHREALTIME/[.,]/}; $1; u=${EPOCHREALTIME/[.,]/}; \
                     echo $((u - t)); done; }\n";

/// What is done, as bash does it with `$host` and `$port`, and how often.
const PLAIN: (&str, usize) = ("exec 3<>/dev/tcp/$host/$port; echo BYTES >&3; cat <&3 >/dev/null; exec 3>&-", TRANSFERS);
const HTTP: (&str, usize) = (
    "exec 3<>/dev/tcp/$host/$port; printf 'GET /BYTES HTTP/1.1\\r\\nHost: NAME\\r\\nConnection: close\\r\\n\\r\\n' >&3; \
     cat <&3 >/dev/null; exec 3>&-",
    TRANSFERS,
);
const ANSWER: (&str, usize) = ("echo >&3; read -r -u 3 _", ANSWERS);
const CONNECT: (&str, usize) =
    ("exec 4<>/dev/tcp/$host/$port; echo echo >&4; echo >&4; read -r -u 4 _; exec 4>&-", CONNECTIONS);

/// Medians of a round: rates in MB a second, times in milliseconds.
#[derive(Clone, Copy)]
struct Figures {
    plain: f64,
    http: f64,
    answer: f64,
    connect: f64,
}

pub async fn measure(settings: &Settings) -> Result<()> {
    println!(
        "## The gate\n\nA bash in a sandbox and one beside it read from a server on this machine: {} MB, {TRANSFERS} times by a port \
         that is passed on unread and by HTTP; {ANSWERS} answers of one byte on one connection; {CONNECTIONS} new connections with \
         one answer each, for which the sandbox also looks up the name. {} rounds, medians.\n",
        BYTES >> 20,
        settings.rounds
    );
    let (mut direct, mut gate) = (Vec::new(), Vec::new());
    let mut others: f64 = 0.0;
    for _ in 0..settings.rounds {
        let (of_direct, of_gate, of_others) = round(settings).await?;
        direct.push(of_direct);
        gate.push(of_gate);
        others = others.max(of_others);
    }
    let middle = |figures: &[Figures], figure: fn(&Figures) -> f64| median(figures.iter().map(figure));
    println!("| | direct | by the gate | |\n|---|---:|---:|---:|");
    let mut shares = Vec::new();
    for (name, figure) in
        [("unread, MB a second", (|f| f.plain) as fn(&Figures) -> f64), ("HTTP, MB a second", |f| f.http)]
    {
        let (direct, gate) = (middle(&direct, figure), middle(&gate, figure));
        println!("| {name} | {direct:.0} | {gate:.0} | {:.0} % |", gate / direct * 100.0);
        shares.push(gate / direct);
    }
    let mut added = Vec::new();
    for (name, figure) in [
        ("an answer, p50 ms", (|f| f.answer) as fn(&Figures) -> f64),
        ("a new connection and an answer, p50 ms", |f| f.connect),
    ] {
        let (direct, gate) = (middle(&direct, figure), middle(&gate, figure));
        println!("| {name} | {direct:.2} | {gate:.2} | + {:.2} |", gate - direct);
        added.push(gate - direct);
    }
    println!("\n| target | measured | |\n|---|---:|---|");
    let share = shares[0].min(shares[1]);
    println!("| at least 50 % of a direct connection's rate | {:.0} % | {} |", share * 100.0, verdict(share >= LEAST));
    println!("| an answer takes at most {MOST} ms longer, p50 | {:.2} ms | {} |", added[0], verdict(added[0] <= MOST));
    println!("\nOthers used at most {:.0} % of the machine before a round.\n", others * 100.0);
    Ok(())
}

async fn round(settings: &Settings) -> Result<(Figures, Figures, f64)> {
    let folder = settings.temporary()?;
    let host = serve()?;
    let config = folder.path().join("rota.toml");
    let network = format!(
        "[network]\nports = [{PORT}]\nopen = [\"127.0.0.1\"]\n[network.hosts]\n\"{NAME}:80\" = [\"{host}\"]\n\"{NAME}:{PORT}\" = \
         [\"{host}\"]\n"
    );
    fs::write(&config, network)?;
    let server = Server::start_configured(&settings.rota, &folder.path().join("data"), 1, &config).await?;
    let watch = Watch::start(Some(server.pid()));
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let others = watch.used().shares().others;
    let deployment = server.create_deployments(1, "```bash\ntrue\n```\n", &json!({})).await?;
    let request = server.run_requests(&deployment).concat();
    let run: Value = serde_json::from_slice(server.connect().await?.exchange(&request).await?)?;
    let session = run["session_id"].as_str().context("the run started a session")?;
    let inside = Inside { server: &server, session, turns: 1.into() };
    inside.rests(1).await?;
    let direct_port = host.port();
    let (mut direct, mut gate) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
    let subjects = [(PLAIN, PORT), (HTTP, 80), (ANSWER, PORT), (CONNECT, PORT)];
    for (place, ((what, count), port)) in subjects.into_iter().enumerate() {
        direct[place] = outside(&script("127.0.0.1", direct_port, what, count))?;
        gate[place] = inside.run(&script(NAME, port, what, count)).await?;
    }
    let figures = |times: [Vec<f64>; 4]| {
        let [plain, http, answer, connect] = times.map(median);
        let rate = |micros: f64| (BYTES >> 20) as f64 / (micros / 1e6);
        Figures { plain: rate(plain), http: rate(http), answer: answer / 1e3, connect: connect / 1e3 }
    };
    Ok((figures(direct), figures(gate), others))
}

fn script(host: &str, port: u16, what: &str, count: usize) -> String {
    let what = what.replace("BYTES", &BYTES.to_string()).replace("NAME", NAME);
    let opened = if what == ANSWER.0 { "exec 3<>/dev/tcp/$host/$port; echo echo >&3\n" } else { "" };
    format!("host={host} port={port}\n{opened}{TIMED}what() {{ {what}; }}\ntimed what {count}\nexec 3>&-\n")
}

fn times(printed: &str, whence: &str) -> Result<Vec<f64>> {
    let times: Option<Vec<f64>> = printed.split_whitespace().map(|time| time.parse().ok()).collect();
    let times = times.filter(|times| !times.is_empty());
    times.with_context(|| format!("what was timed {whence} says: {printed}"))
}

fn outside(script: &str) -> Result<Vec<f64>> {
    let output = Command::new("bash").args(["-c", script]).output().context("running bash")?;
    ensure!(output.status.success(), "bash failed: {}", String::from_utf8_lossy(&output.stderr));
    times(&String::from_utf8_lossy(&output.stdout), "outside")
}

/// A session, whose sandbox is up.
struct Inside<'a> {
    server: &'a Server,
    session: &'a str,
    turns: std::cell::Cell<usize>,
}

impl Inside<'_> {
    async fn run(&self, script: &str) -> Result<Vec<f64>> {
        let path = format!("/v1/sessions/{}/events", self.session);
        let message = user_message(&format!("```bash\n{script}```\n"));
        let request = self.server.request("POST", &path, &json!({"events": [message]}));
        self.server.connect().await?.exchange(&request).await?;
        self.turns.set(self.turns.get() + 1);
        self.rests(self.turns.get()).await?;
        let store = Store::open_with_flags(self.server.store(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sql = "SELECT body FROM session_events WHERE session_id = ?1 AND type = 'agent.tool_result' ORDER BY seq DESC LIMIT 1";
        let body: String = store.query_row(sql, [self.session], |row| row.get(0))?;
        let body: Value = serde_json::from_str(&body)?;
        times(body["content"][0]["text"].as_str().unwrap_or_default(), "in a sandbox")
    }

    /// Waits until the session has rested so many times.
    async fn rests(&self, times: usize) -> Result<()> {
        let mut stream = self.server.connect().await?;
        stream.send(&stream_request(self.session, &self.server.key)).await?;
        for _ in 0..times {
            stream.skip_past(AT_REST).await?;
        }
        Ok(())
    }
}

/// A server on this machine: to a number it answers with so many bytes, to the path of a GET request too, and after `echo` it sends
/// back what it reads.
fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who has gone does not need the rest.
            thread::spawn(move || drop(answer(&stream)));
        }
    });
    Ok(address)
}

fn answer(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line == "echo\n" {
        let mut byte = String::new();
        while reader.read_line(&mut byte)? > 0 {
            stream.write_all(byte.as_bytes())?;
            byte.clear();
        }
        return Ok(());
    }
    let number = line.strip_prefix("GET /").and_then(|rest| rest.split(' ').next());
    let mut left: u64 = number.unwrap_or(&line).trim().parse().map_err(io::Error::other)?;
    if number.is_some() {
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {left}\r\nConnection: close\r\n\r\n")?;
    }
    let piece = vec![b'x'; 256 << 10];
    while left > 0 {
        let now = left.min(piece.len() as u64);
        stream.write_all(&piece[..now as usize])?;
        left -= now;
    }
    Ok(())
}
