//! Sandboxes without a server: from nothing to the answer of the first command and to their end, without a network and with one.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use rota_sandbox::{Config, Embedded, ToolCall};

use crate::{
    Settings,
    figures::{median, milliseconds, verdict},
    machine::{Watch, spent},
};

/// Sandboxes of a kind in a round, one alone.
const ALONE: usize = 40;
/// How many are started at a time: as many sessions as a server runs at a time by default.
const AT_A_TIME: usize = 16;
/// Ports of the gate that a server has by default.
const PORTS: [u16; 2] = [80, 443];
/// The most that one alone may take from nothing to its first answer, in milliseconds.
const MOST: f64 = 10.0;
/// The same with a network.
const MOST_WITH_NETWORK: f64 = 15.0;
/// What the machine itself takes for a shell, and for one in namespaces of its own.
const SHELL: &[&str] = &["bash", "-c", "true"];
const SHELL_APART: &[&str] = &[
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--pid",
    "--fork",
    "--net",
    "--ipc",
    "--uts",
    "--cgroup",
    "bash",
    "-c",
    "true",
];

/// What is started.
enum Kind {
    Sandbox(Arc<Embedded>),
    Program(&'static [&'static str]),
}

/// One that was started and has ended, in milliseconds.
#[derive(Clone, Copy)]
struct Taken {
    /// Until its first answer.
    start: f64,
    /// From there until it has ended and its files are deleted.
    end: f64,
}

/// Medians of a round.
#[derive(Clone, Copy)]
struct Figures {
    alone: Taken,
    /// Started and ended a second, many at a time.
    rate: f64,
    /// Processor time of this program and of all that it started, for each, in milliseconds.
    processor: f64,
}

pub async fn measure(settings: &Settings) -> Result<()> {
    println!(
        "## Sandboxes\n\nFrom nothing to the answer of `true`, and on until it has ended and its files are deleted: {ALONE} of \
         a kind alone, kinds in turn; then {AT_A_TIME} at a time for {} s. {} rounds, medians.\n",
        settings.seconds, settings.rounds
    );
    let folder = settings.temporary()?;
    let sandboxes = |name: &str, gate_ports: Option<&[u16]>| -> Result<Kind> {
        let gate_ports = gate_ports.map(<[u16]>::to_vec);
        Ok(Kind::Sandbox(Embedded::new(Config { gate_ports, ..Config::new(folder.path().join(name)) })?))
    };
    let kinds = [
        ("machine: a shell", Kind::Program(SHELL)),
        ("machine: a shell in namespaces of its own", Kind::Program(SHELL_APART)),
        ("sandbox", sandboxes("without", None)?),
        ("sandbox with a network", sandboxes("with", Some(&PORTS))?),
    ];
    let mut shown = kinds.each_ref().map(|_| Vec::new());
    let mut others: f64 = 0.0;
    for _ in 0..settings.rounds {
        let watch = Watch::start(None);
        tokio::time::sleep(LOOK).await;
        others = others.max(watch.used().shares().others);
        for (figures, shown) in round(&kinds, settings).await?.into_iter().zip(&mut shown) {
            shown.push(figures);
        }
    }
    println!(
        "| | start, ms | end, ms | {AT_A_TIME} at a time, a second | processor, ms each |\n|---|---:|---:|---:|---:|"
    );
    let middle = |figures: &[Figures], figure: fn(&Figures) -> f64| median(figures.iter().map(figure));
    for ((name, _), figures) in kinds.iter().zip(&shown) {
        println!(
            "| {name} | {:.1} | {:.1} | {:.0} | {:.1} |",
            middle(figures, |f| f.alone.start),
            middle(figures, |f| f.alone.end),
            middle(figures, |f| f.rate),
            middle(figures, |f| f.processor)
        );
    }
    println!("\n| target | measured | |\n|---|---:|---|");
    for (name, figures, most) in [("without", &shown[2], MOST), ("with", &shown[3], MOST_WITH_NETWORK)] {
        let start = middle(figures, |f| f.alone.start);
        println!(
            "| a sandbox {name} a network to its first answer: at most {most} ms | {start:.1} ms | {} |",
            verdict(start <= most)
        );
    }
    println!("\nOthers used at most {:.0} % of the machine before a round.\n", others * 100.0);
    Ok(())
}

/// How long the machine is watched before a round, to see whether it is quiet.
const LOOK: Duration = Duration::from_secs(1);

async fn round<const KINDS: usize>(kinds: &[(&str, Kind); KINDS], settings: &Settings) -> Result<[Figures; KINDS]> {
    let mut alone = kinds.each_ref().map(|_| Vec::new());
    for number in 0..=ALONE {
        for ((_, kind), taken) in kinds.iter().zip(&mut alone) {
            let one = take(kind, &format!("alone_{number}")).await?;
            // The first is left out: it copies the program that sandboxes run.
            if number > 0 {
                taken.push(one);
            }
        }
    }
    let mut figures = Vec::new();
    for ((_, kind), alone) in kinds.iter().zip(alone) {
        let (rate, processor) = many(kind, Duration::from_secs(settings.seconds)).await?;
        let alone = Taken {
            start: median(alone.iter().map(|taken| taken.start)),
            end: median(alone.iter().map(|taken| taken.end)),
        };
        figures.push(Figures { alone, rate, processor });
    }
    figures.try_into().ok().context("a figure of each kind")
}

/// Starts one and ends it.
async fn take(kind: &Kind, session: &str) -> Result<Taken> {
    let begin = Instant::now();
    match kind {
        Kind::Program(arguments) => {
            let mut command = tokio::process::Command::from(program(arguments));
            let status = command.status().await.with_context(|| format!("running {}", arguments[0]))?;
            ensure!(status.success(), "{} failed", arguments.join(" "));
            Ok(Taken { start: milliseconds(begin.elapsed()), end: 0.0 })
        }
        Kind::Sandbox(embedded) => {
            let sandbox = embedded.open(session).await?;
            sandbox.call("1", &ToolCall::bash("true")).await?;
            let start = milliseconds(begin.elapsed());
            drop(sandbox);
            let begin = Instant::now();
            embedded.remove(session).await?;
            Ok(Taken { start, end: milliseconds(begin.elapsed()) })
        }
    }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Starts and ends many at a time. How many a second, and the processor time of each in milliseconds.
async fn many(kind: &Kind, time: Duration) -> Result<(f64, f64)> {
    let (begin, before) = (Instant::now(), spent());
    let one_after_the_other = async |place: usize| {
        let mut count = 0;
        while begin.elapsed() < time {
            take(kind, &format!("many_{place}_{count}")).await?;
            count += 1;
        }
        anyhow::Ok(count)
    };
    let counts: Vec<usize> = try_join_all((0..AT_A_TIME).map(one_after_the_other)).await?;
    let (count, seconds) = (counts.iter().sum::<usize>() as f64, begin.elapsed().as_secs_f64());
    Ok((count / seconds, (spent() - before) * 1e3 / count))
}
