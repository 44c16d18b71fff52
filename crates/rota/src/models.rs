//! `rota models`.

use std::process::ExitCode;

use anyhow::Result;
use rota_server::{
    config::Config,
    model::{
        Offer,
        look::{Found, Looked},
    },
};
use serde_json::json;

use crate::cli::{ModelsArgs, ModelsCommand};

pub async fn run(args: &ModelsArgs) -> Result<ExitCode> {
    let ModelsCommand::Check { config, json: as_json } = &args.command;
    let config = config.as_deref().map(Config::from_file).transpose()?.unwrap_or_default();
    let looked = Offer::new(&config.models)?.look().await;
    if *as_json {
        let rows: Vec<_> = looked
            .iter()
            .map(|l| {
                json!({
                    "models": l.models, "base_url": l.base_url, "state": state(l), "detail": detail(l),
                    "unlisted": l.unlisted,
                })
            })
            .collect();
        println!("{}", serde_json::to_string(&rows)?);
    } else if looked.is_empty() {
        println!("no model of the configuration has an upstream");
    } else {
        for l in &looked {
            println!("{:7} {} at {}: {}", state(l), l.models.join(", "), l.base_url, detail(l));
            for name in &l.unlisted {
                println!(
                    "        \"{name}\" is not in its list of models: check `upstream`, which is `id` unless it is said"
                );
            }
        }
    }
    Ok(if looked.iter().any(|l| l.wrong.is_some()) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn state(looked: &Looked) -> &'static str {
    match (&looked.wrong, &looked.found) {
        (Some(_), _) => "wrong",
        (None, Found::NoList(_)) => "unknown",
        (None, _) => "ok",
    }
}

fn detail(looked: &Looked) -> String {
    match (&looked.wrong, &looked.found) {
        (Some(wrong), _) => wrong.clone(),
        (None, Found::NoList(said)) => format!("something answers there and has no list of models ({said})"),
        (None, Found::Models(models)) => format!("it takes the key and has {} models", models.len()),
        (None, _) => String::new(),
    }
}
