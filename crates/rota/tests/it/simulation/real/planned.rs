//! Planned starts, asked of the real server: two servers look while starts are planned, asked for twice, cancelled, and their deployment is
//! paused and held. On SQLite, which has one server, that one looks twice.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    super::{dice::Dice, seeds},
    record,
};
use crate::{
    client::Api,
    given::{Parts, environment, id, message, over},
    schedules::every,
    server::{Rota, START},
};

/// Stories that are played unless `ROTA_SIMULATION_SEEDS` says otherwise.
const SEEDS: u64 = 12;
/// What happens in a story.
const STEPS: u32 = 50;

#[tokio::test]
async fn no_story_of_planned_starts_on_the_real_store_breaks_a_promise() {
    let rota = Rota::without_engine().await;
    let other = rota.beside(|_| {}).await;
    let agent = Parts::new(&rota.api).await.agent;
    let administrator = rota.administrator().await;
    for seed in seeds(SEEDS) {
        let servers = [&rota, other.as_ref().unwrap_or(&rota)];
        let story = Story::new(servers, &administrator, agent.clone(), seed).await;
        if let Err(wrong) = story.play().await {
            panic!("{wrong}\nplay it again with ROTA_SIMULATION_SEED={seed}");
        }
    }
}

struct Story<'a> {
    servers: [&'a Rota; 2],
    administrator: &'a Api,
    dice: Dice,
    deployment: String,
    /// The starts at a time that were planned, and what callers who cancelled were told: whether they could.
    planned: Vec<String>,
    cancelled: BTreeMap<String, bool>,
}

impl<'a> Story<'a> {
    async fn new(servers: [&'a Rota; 2], administrator: &'a Api, agent: Value, seed: u64) -> Self {
        let rota = servers[0];
        // A month for each story, also when it is played alone.
        rota.set_time(START);
        rota.advance_seconds(i64::try_from(seed).expect("a small number") * 30 * 86_400);
        let environment = environment(&rota.api, &format!("planned {seed}")).await;
        let changes = over(every("*/10 * * * *"), &json!({"initial_events": [message("hi")]}));
        let made = Parts { agent, environment }.deployment(&rota.api, changes).await;
        let deployment = id(&made).to_owned();
        let (planned, cancelled) = (Vec::new(), BTreeMap::new());
        Self { servers, administrator, dice: Dice::new(seed), deployment, planned, cancelled }
    }

    fn own(&self, what: &str) -> String {
        format!("/rota/v1/deployments/{}/{what}", self.deployment)
    }

    async fn play(mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            self.step().await;
        }
        self.end().await
    }

    async fn step(&mut self) {
        let [one, two] = self.servers;
        match self.dice.within(0..20) {
            0..=4 => one.advance_seconds(self.dice.seconds().min(20_000)),
            5..=7 => {
                let at = one.clock.now().plus_micros((1 + self.dice.within(0..4000)) * 1_000_000);
                let answer = one.api.send(Method::POST, &self.own("runs"), Some(&json!({ "at": at }))).await;
                if answer.status.is_success() {
                    self.planned.push(id(&answer.body).to_owned());
                }
            }
            8..=9 => {
                let (now, back) = (one.clock.now(), self.dice.within(600..20_000));
                let body = json!({"from": now.plus_micros(-back * 1_000_000), "to": now});
                let path = self.own("backfill");
                // Asked for twice at once, while a server looks. It is refused while the deployment is paused.
                tokio::join!(
                    one.api.send(Method::POST, &path, Some(&body)),
                    two.api.send(Method::POST, &path, Some(&body)),
                    two.tick()
                );
            }
            10..=12 => self.cancel().await,
            13 => self.policy().await,
            14 => {
                let verb = self.dice.one_of(&["pause", "unpause", "unpause"]);
                let path = format!("/v1/deployments/{}/{verb}", self.deployment);
                tokio::join!(one.api.send(Method::POST, &path, None), two.tick());
            }
            15 => {
                let verb = self.dice.one_of(&["hold", "release"]);
                let path = format!("/rota/v1/schedules/{verb}");
                tokio::join!(self.administrator.call(&path), two.tick());
            }
            16..=17 => {
                tokio::join!(record::come_to_rest(one, &self.deployment), two.tick());
            }
            _ => {
                tokio::join!(one.tick(), two.tick());
            }
        }
    }

    /// Two callers cancel a start while a server looks.
    async fn cancel(&mut self) {
        let Some(which) = self.dice.place(self.planned.len()) else { return };
        let (id, [one, two]) = (self.planned[which].clone(), self.servers);
        let path = format!("/rota/v1/starts/{id}/cancel");
        let (first, second, ()) =
            tokio::join!(one.api.send(Method::POST, &path, None), two.api.send(Method::POST, &path, None), two.tick());
        assert_eq!(first.status, second.status, "both are told the same");
        assert!([200, 409].contains(&first.status.as_u16()), "{}", first.body);
        let could = first.status.is_success();
        assert_eq!(*self.cancelled.entry(id).or_insert(could), could, "it stays so");
    }

    async fn policy(&mut self) {
        let overlap = self.dice.one_of(&["allow", "skip", "queue_one", "cancel_previous"]);
        let most = self.dice.one_of(&[None, Some(1), Some(4)]);
        let body = json!({"overlap": overlap, "max_concurrent_sessions": most});
        let path = self.own("policy");
        let [one, two] = self.servers;
        tokio::join!(one.api.send(Method::POST, &path, Some(&body)), two.tick());
    }

    /// Nothing holds anything back, and time goes on: then nothing is left.
    async fn end(self) -> Result<(), String> {
        let [one, two] = self.servers;
        self.administrator.call("/rota/v1/schedules/release").await;
        one.api.send(Method::POST, &format!("/v1/deployments/{}/unpause", self.deployment), None).await;
        one.api.post(&self.own("policy"), json!({"overlap": null, "max_concurrent_sessions": null})).await;
        one.advance_seconds(8000);
        let all = async || one.api.all(&self.own("starts"), 100).await;
        // Each look may bring the next occurrence on.
        for _ in 0..=all().await.len() {
            while record::AtWork::of(one, &self.deployment).await.all > 0 {
                record::come_to_rest(one, &self.deployment).await;
            }
            tokio::join!(one.tick(), two.tick());
        }
        let (starts, runs) = (all().await, self.runs().await);
        self.check(&starts, &runs)?;
        one.api.call(&format!("/v1/deployments/{}/archive", self.deployment)).await;
        Ok(())
    }

    async fn runs(&self) -> Vec<Value> {
        let list = format!("/rota/v1/runs?deployment_id={}", self.deployment);
        let listed = self.servers[0].api.all(&list, 100).await;
        listed.into_iter().filter(|run| run["run_id"].is_string()).collect()
    }

    fn check(&self, starts: &[Value], runs: &[Value]) -> Result<(), String> {
        let mut occurrences = HashSet::new();
        for run in runs.iter().filter(|run| !run["scheduled_at"].is_null()) {
            if !occurrences.insert(run["scheduled_at"].as_str()) {
                return Err(format!("an occurrence ran twice: {run:#}"));
            }
        }
        let mut started = HashSet::new();
        for start in starts {
            let (state, run_id) = (start["state"].as_str().unwrap(), start["run_id"].as_str());
            let run = run_id.and_then(|id| runs.iter().find(|run| run["run_id"] == id));
            let ran = ["ran", "failed"].contains(&state);
            if state == "planned" || ran != run.is_some() {
                return Err(format!("it is left, or has no run, or one that it must not have: {start:#}"));
            }
            if let Some(run) = run {
                if !started.insert(run_id) {
                    return Err(format!("two starts have one run: {start:#}"));
                }
                if start["trigger"] == "at" && time(&run["at"]) < time(&start["at"]) {
                    return Err(format!("it ran before its time: {start:#} {run:#}"));
                }
            }
            let could = self.cancelled.get(id(start));
            if could.is_some_and(|could| *could) != (state == "cancelled") {
                return Err(format!("cancelled: {could:?}, and it is {state}: {start:#}"));
            }
        }
        let of_starts = runs.iter().filter(|run| ["at", "backfill"].contains(&run["trigger"].as_str().unwrap()));
        let of_starts = of_starts.count();
        if of_starts == started.len() { Ok(()) } else { Err(format!("{of_starts} runs of {} starts", started.len())) }
    }
}

fn time(text: &Value) -> Timestamp {
    text.as_str().unwrap().parse().unwrap()
}
