//! The same promises, asked of the real server: random requests and looks at the same time, over HTTP and the real store.

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use rota_api::{Time, policy::Jitter};
use rota_server::{
    db::{Tx, Val},
    scheduler::{cron::Cron, settle::State},
};
use serde_json::{Value, json};

use super::{
    SCHEDULES,
    dice::Dice,
    history::{History, Run, Skip, Span},
    seeds,
};
use crate::{
    given::{Parts, environment, id},
    server::{Rota, START},
};

/// Stories that are played unless `ROTA_SIMULATION_SEEDS` says otherwise.
const SEEDS: u64 = 20;
/// What happens in a story.
const STEPS: u32 = 40;

#[tokio::test]
async fn no_story_on_the_real_store_breaks_a_promise() {
    for jitter in [Jitter::Off, Jitter::Hosted] {
        let rota = Rota::with(|config| {
            config.engine.concurrency = 0;
            config.scheduler.jitter = jitter;
        })
        .await;
        let parts = Parts::new(&rota.api).await;
        for seed in seeds(SEEDS) {
            if let Err(wrong) = story(&rota, &parts.agent, seed).await {
                panic!("{wrong}\nplay it again with ROTA_SIMULATION_SEED={seed}");
            }
        }
    }
}

async fn story(rota: &Rota, agent: &Value, seed: u64) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    // A month for each story, also when it is played alone.
    let month = i64::try_from(seed).expect("a small number") * 30 * 86_400;
    rota.set_time(START);
    rota.advance_seconds(month);
    let environment = environment(&rota.api, &format!("story {seed}")).await;
    let parts = Parts { agent: agent.clone(), environment };
    let mut deployments = Vec::new();
    for _ in 0..2 {
        let changes = json!({ "schedule": schedule(&mut dice) });
        deployments.push(parts.deployment(&rota.api, changes).await);
    }
    let mut clock_went_back = false;
    for _ in 0..STEPS {
        match dice.within(0..10) {
            0..=3 => rota.advance_seconds(dice.seconds()),
            4 if dice.chance(30) => {
                rota.advance_seconds(-dice.seconds());
                clock_went_back = true;
            }
            // Two servers look at the same time.
            4..=6 => {
                tokio::join!(rota.tick(), rota.tick());
            }
            7 if dice.chance(3) => {
                rota.api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
            }
            _ => {
                let deployment = &deployments[dice.within(0..2) as usize];
                tokio::join!(rota.tick(), change(rota, deployment, &mut dice));
            }
        }
    }
    rota.advance_seconds(dice.seconds());
    rota.tick().await;
    let now = rota.clock.now().timestamp();
    for deployment in &deployments {
        let history = history(rota, deployment, now, clock_went_back).await;
        history.check().map_err(|wrong| format!("{}: {wrong}", id(deployment)))?;
        rota.api.call(&format!("/v1/deployments/{}/archive", id(deployment))).await;
    }
    Ok(())
}

fn schedule(dice: &mut Dice) -> Value {
    let (expression, timezone) = dice.one_of(&SCHEDULES);
    json!({"type": "cron", "expression": expression, "timezone": timezone})
}

async fn change(rota: &Rota, deployment: &Value, dice: &mut Dice) {
    let path = format!("/v1/deployments/{}", id(deployment));
    let (verb, body) = match dice.within(0..30) {
        0..=8 => ("", Some(json!({ "schedule": schedule(dice) }))),
        9..=10 => ("", Some(json!({ "schedule": null }))),
        11..=17 => ("/pause", None),
        18..=28 => ("/unpause", None),
        _ => ("/archive", None),
    };
    // It is refused once the deployment is archived.
    rota.api.send(Method::POST, &format!("{path}{verb}"), body.as_ref()).await;
}

async fn history(rota: &Rota, deployment: &Value, now: Timestamp, clock_went_back: bool) -> History {
    let app = rota.server.app();
    let deployment = id(deployment).to_owned();
    let timing = app.config.scheduler.timing();
    let runs = rota.api.all(&format!("/v1/deployment_runs?deployment_id={deployment}"), 1000).await;
    let time = |text: &Value| text.as_str().unwrap().parse::<Timestamp>().unwrap();
    let run = |run: &Value| Run {
        occurrence: time(&run["trigger_context"]["scheduled_at"]),
        created_at: time(&run["created_at"]),
        timings: vec![timing],
        was_pending: false,
    };
    let delay = if timing.jitter == Jitter::Hosted { SignedDuration::from_mins(9) } else { SignedDuration::ZERO };
    let id = deployment.clone();
    let read = move |tx: &mut Tx<'_>| {
        let spans = "SELECT since, cron, timezone, state FROM deployment_spans WHERE deployment_id = $1 ORDER BY seq";
        let spans = tx.all(spans, &[Val::Text(&deployment)], |row| {
            let schedule = row.opt_text(1)?.zip(row.opt_text(2)?);
            let cron = schedule.map(|(expression, zone)| Cron::parse(&expression, &zone).unwrap());
            let state = [State::Active, State::Paused, State::Archived];
            let name = row.text(3)?;
            let state = state.into_iter().find(|state| state.as_str() == name).unwrap();
            Ok(Span { since: row.time(0)?.timestamp(), cron, state })
        })?;
        let skips = "SELECT first_at, last_at, reason FROM deployment_skips WHERE deployment_id = $1 ORDER BY first_at";
        let skips = tx.all(skips, &[Val::Text(&deployment)], |row| {
            let time = |column| row.time(column).map(Time::timestamp);
            Ok(Skip { first: time(0)?, last: time(1)?, reason: row.text(2)? })
        })?;
        let settled = "SELECT coalesce(settled_at, 0) FROM deployments WHERE id = $1";
        let settled = tx.one(settled, &[Val::Text(&deployment)], |row| row.time(0))?.unwrap().timestamp();
        Ok((spans, skips, settled))
    };
    let (spans, skips, settled) = app.db.read(read).await.unwrap();
    let (runs, until) = (runs.iter().map(run).collect(), settled.max(now - delay));
    History { id, spans, skips, runs, pending: None, until, latest: now, clock_went_back }
}
