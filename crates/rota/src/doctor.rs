//! `rota doctor`.

use std::process::ExitCode;

use anyhow::Result;
use rota_sandbox::{Config, Embedded, Protection, ProtectionState};
use rota_server::{
    gate::WEB_PORTS,
    git::{Probe, probe},
};
use serde_json::json;

use crate::{cli::DoctorArgs, store};

/// The code for a machine that lacks something (`EX_CONFIG` of sysexits).
const CANNOT_ISOLATE: u8 = 78;

pub async fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let settings = store::configured(args.config.as_deref(), args.data.clone(), None)?;
    settings.check()?;
    let mut config = Config::new(&settings.data);
    config.root_fs = args.root_fs.clone().or_else(|| settings.sandbox.root_fs.clone());
    config.containers = settings.sandbox.containers("doctor");
    config.gate_ports = Some(WEB_PORTS.to_vec());
    let mut protections = Embedded::new(config)?.probe();
    protections.push(git().await);
    if args.json {
        let rows: Vec<_> = protections
            .iter()
            .map(|p| json!({"name": p.name, "state": word(p.state), "detail": p.detail, "remedy": p.remedy}))
            .collect();
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        for p in &protections {
            println!("{:9} {:24} {}", word(p.state), p.name, p.detail);
            if !p.remedy.is_empty() {
                println!("{:9} {:24} -> {}", "", "", p.remedy);
            }
        }
    }
    let missing = protections.iter().any(|p| p.state == ProtectionState::Missing);
    Ok(if missing { ExitCode::from(CANNOT_ISOLATE) } else { ExitCode::SUCCESS })
}

/// The program that clones repositories. Without it sessions go on without those that they mount.
async fn git() -> Protection {
    let (name, remedy) = ("git", String::new());
    match probe().await {
        Probe::Found(version) => Protection { name, state: ProtectionState::Ok, detail: version, remedy },
        Probe::Missing(missing) => {
            let remedy = "install it, for sessions that mount a repository (Debian: `apt install git`)".to_owned();
            Protection { name, state: ProtectionState::Degraded, detail: missing, remedy }
        }
    }
}

fn word(state: ProtectionState) -> &'static str {
    match state {
        ProtectionState::Ok => "ok",
        ProtectionState::Degraded => "degraded",
        ProtectionState::Missing => "missing",
    }
}
