//! A sandbox from the command line, for tests and for looking around: `rota-sandbox DATA_DIR SESSION COMMAND…` runs the
//! commands in one sandbox, one call each, and prints what they answer; `rota-sandbox DATA_DIR doctor` prints the probe, `… measure` how long a
//! sandbox takes from nothing to its first answer and how many commands a second its shell then runs, `… remove` deletes sessions,
//! `… sweep` clears up after an earlier run, `… reopen SESSION MILLISECONDS` starts a session's sandbox anew again and again.
//! `… import KEY TAR…` makes an image of layers; the variable ROTA_SANDBOX_IMAGE names one by its key, and ROTA_SANDBOX_PACKAGES one
//! that is shown as packages: `measure` then opens sandboxes with and without them, in turn.
//! The variable ROTA_SANDBOX_CONTAINERS names a daemon whose containers are the sandboxes: `podman=SOCKET=IMAGE`.
//! The variable ROTA_SANDBOX_ROOT_FS names a root file system, ROTA_SANDBOX_GATE_PORTS ports of a gate, which nobody attends to. With `--json` in front, answers are printed as JSON, one a line.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rota_sandbox::{About, Config, Containers, Embedded, Engine, Root, ToolCall, UnpackBounds, Unpacking};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let as_json = arguments.first().is_some_and(|first| first == "--json");
    arguments.drain(..usize::from(as_json));
    let [data_dir, session, commands @ ..] = &arguments[..] else {
        eprintln!(
            "usage: rota-sandbox DATA_DIR (doctor | measure | sweep | reopen SESSION MILLISECONDS | remove SESSION... | SESSION COMMAND...)"
        );
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(data_dir, session, commands, as_json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if error.is_passing() { ExitCode::from(MAY_PASS) } else { ExitCode::FAILURE }
        }
    }
}

/// The code for what may work a moment later (`EX_TEMPFAIL` of sysexits).
const MAY_PASS: u8 = 75;

async fn run(data_dir: &str, session: &str, commands: &[String], as_json: bool) -> Result<(), rota_sandbox::Error> {
    let root_fs = std::env::var_os("ROTA_SANDBOX_ROOT_FS").map(Into::into);
    let ports = std::env::var("ROTA_SANDBOX_GATE_PORTS").ok();
    let gate_ports = ports.map(|ports| ports.split(',').filter_map(|port| port.parse().ok()).collect());
    let embedded =
        Embedded::new(Config { root_fs, gate_ports, containers: containers(data_dir), ..Config::new(data_dir) })?;
    if session == "doctor" {
        for row in embedded.probe() {
            println!("{:?}\t{}\t{}\t{}", row.state, row.name, row.detail, row.remedy);
        }
        return Ok(());
    }
    if session == "remove" {
        for session in commands {
            embedded.remove(session).await?;
        }
        return Ok(());
    }
    if session == "sweep" {
        return embedded.sweep().await;
    }
    if let ("reopen", [session, milliseconds]) = (session, commands) {
        let over = Instant::now() + Duration::from_millis(milliseconds.parse().unwrap_or(0));
        while Instant::now() < over {
            // What is in the way of one opening may be gone at the next.
            let _ = embedded.open(session).await;
            embedded.stop(session).await;
        }
        return Ok(());
    }
    if let ("import", [key, archives @ ..]) = (session, commands) {
        import(&embedded, key, archives);
        return Ok(());
    }
    let image = std::env::var("ROTA_SANDBOX_IMAGE").ok();
    let image = image.map(|key| embedded.images().get(&key).ok().flatten().expect("no such image"));
    let packages = std::env::var("ROTA_SANDBOX_PACKAGES").ok();
    let packages = packages.map(|key| embedded.images().get(&key).ok().flatten().expect("no such layer"));
    let packages = packages.into_iter().map(|layer| ("pip".to_owned(), layer)).collect();
    let root = Root { image, packages, ..Root::default() };
    if session == "measure" {
        return measure(&embedded, &root).await;
    }
    for (number, command) in commands.iter().enumerate() {
        let sandbox = embedded.open_with(session, root.clone().into()).await?;
        let output = sandbox.call(&number.to_string(), &ToolCall::bash(command)).await?;
        let content = output.content;
        println!("{}", if as_json { serde_json::Value::from(content).to_string() } else { content });
    }
    embedded.shutdown().await;
    Ok(())
}

/// The daemon whose containers are used: `docker` or `podman`, its socket, and an image, each behind an equals sign.
fn containers(data_dir: &str) -> Option<Containers> {
    let text = std::env::var("ROTA_SANDBOX_CONTAINERS").ok()?;
    let mut parts = text.splitn(3, '=');
    let engine = if parts.next()? == "podman" { Engine::Podman } else { Engine::Docker };
    let (socket, image) = (parts.next()?.into(), parts.next()?.to_owned());
    Some(Containers { engine, socket, image, runtime: None, server: data_dir.to_owned() })
}

/// Sessions that are opened to measure.
const MEASURED: usize = 40;
/// Calls of each command that are timed, one after the other in one shell.
const MEASURED_CALLS: u32 = 300;
/// A builtin, a program, and what bash alone can tell to be complete.
const MEASURED_COMMANDS: [&str; 3] = ["true", "ls -la /workspace | head -3", "for i in 1 2 3; do echo \"$i\"; done"];

/// Unpacks the layers of an image, the lowest first, and says what was refused.
fn import(embedded: &Embedded, key: &str, archives: &[String]) {
    let bounds = UnpackBounds { bytes: 4 << 30, entries: 1_000_000, time: Duration::from_mins(5) };
    let unpack = || -> Result<(), Box<dyn std::error::Error>> {
        let new = embedded.images().begin()?;
        let mut image = Unpacking::new(&new, bounds)?;
        for archive in archives {
            image.layer(std::fs::File::open(archive)?)?;
        }
        let (bytes, files, _) = image.finish()?;
        new.place(key, &About { bytes, files, ..About::default() })?;
        Ok(())
    };
    if let Err(error) = unpack() {
        println!("refused: {error}");
    }
}

async fn measure(embedded: &Arc<Embedded>, root: &Root) -> Result<(), rota_sandbox::Error> {
    let bare = Root { packages: Vec::new(), ..root.clone() };
    let roots = if root.packages.is_empty() {
        vec![(root, "")]
    } else {
        vec![(&bare, "without packages: "), (root, "with them: ")]
    };
    let mut times = vec![Vec::new(); roots.len()];
    for number in 0..MEASURED {
        for ((root, _), times) in roots.iter().zip(&mut times) {
            let session = format!("measure_{number}");
            let start = Instant::now();
            let sandbox = embedded.open_with(&session, (*root).clone().into()).await?;
            let opened = start.elapsed();
            sandbox.call("first", &ToolCall::bash("true")).await?;
            times.push((start.elapsed(), opened));
            embedded.remove(&session).await?;
        }
    }
    println!("the first, with the program copied into memory: {:?}", times[0].remove(0));
    for ((_, what), times) in roots.iter().zip(&mut times) {
        times.sort_unstable();
        println!(
            "{what}fastest {:?}, median {:?}, slowest {:?}",
            times[0],
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
    println!("(until the first command's answer, of which until the fence stood)");
    let sandbox = embedded.open_with("measure_calls", root.clone().into()).await?;
    for command in MEASURED_COMMANDS {
        let start = std::time::Instant::now();
        for number in 0..MEASURED_CALLS {
            sandbox.call(&number.to_string(), &ToolCall::bash(command)).await?;
        }
        let a_second = f64::from(MEASURED_CALLS) / start.elapsed().as_secs_f64();
        println!("{a_second:.0} calls a second of {command:?}");
    }
    embedded.remove("measure_calls").await
}
