//! The same promises, asked of the real server: random requests and looks at the same time, over HTTP and the real store,
//! with webhooks that are sent to receivers on this machine.

mod planned;
mod receivers;
mod record;

use jiff::Timestamp;
use reqwest::Method;
use rota_api::policy::{Jitter, Overlap};
use rota_server::scheduler::policy::Policy;
use serde_json::{Value, json};

use super::{SCHEDULES, dice::Dice, policies, seeds};
use crate::{
    given::{Parts, environment, id, message},
    schedules::tamper,
    server::{Rota, START},
};
use receivers::Receivers;
use record::AtWork;

/// Stories that are played unless `ROTA_SIMULATION_SEEDS` says otherwise.
const SEEDS: u64 = 16;
/// What happens in a story.
const STEPS: u32 = 60;

#[tokio::test]
async fn no_story_on_the_real_store_breaks_a_promise() {
    for jitter in [Jitter::OFF, Jitter::HOSTED] {
        let rota = Rota::receiving(|config| {
            config.engine.concurrency = 0;
            config.scheduler.jitter = jitter;
            config.rate.sessions_per_minute = 2;
            config.webhooks.attempts = 2;
        })
        .await;
        let parts = Parts::new(&rota.api).await;
        for seed in seeds(SEEDS) {
            if let Err(wrong) = Story::new(&rota, &parts.agent, seed).await.play().await {
                panic!("{wrong}\nplay it again with ROTA_SIMULATION_SEED={seed}");
            }
        }
    }
}

/// A deployment, and what a client knows of it.
struct Known {
    id: String,
    policy: Policy,
    /// Every policy that it has had.
    policies: Vec<Policy>,
    is_broken: bool,
}

impl Known {
    /// Makes the store unreadable where a session would be started from, or readable again.
    async fn break_or_mend(&mut self, rota: &Rota) {
        self.is_broken = !self.is_broken;
        let (from, to) = if self.is_broken { ("[{", "{[{") } else { ("{[{", "[{") };
        let events = format!("replace(initial_events, '{from}', '{to}')");
        tamper(rota, format!("UPDATE deployments SET initial_events = {events} WHERE id = '{}'", self.id)).await;
    }
}

struct Story<'a> {
    rota: &'a Rota,
    dice: Dice,
    parts: Parts,
    deployments: Vec<Known>,
    receivers: Receivers,
    /// Whether the clock may be set back.
    wanders: bool,
    clock_went_back: bool,
}

impl<'a> Story<'a> {
    async fn new(rota: &'a Rota, agent: &Value, seed: u64) -> Self {
        let jitter = rota.server.app().config.scheduler.jitter;
        let mut dice = Dice::new(if jitter == Jitter::OFF { seed } else { !seed });
        // A month for each story, also when it is played alone.
        let month = i64::try_from(seed).expect("a small number") * 30 * 86_400;
        rota.set_time(START);
        rota.advance_seconds(month);
        let environment = environment(&rota.api, &format!("story {seed}")).await;
        let parts = Parts { agent: agent.clone(), environment };
        let receivers = Receivers::start(&rota.api).await;
        let mut deployments = Vec::new();
        for _ in 0..2 {
            let changes = json!({ "schedule": schedule(&mut dice), "initial_events": [message("hi")] });
            let made = parts.deployment(&rota.api, changes).await;
            let policy = Policy::default();
            deployments.push(Known { id: id(&made).to_owned(), policy, policies: vec![policy], is_broken: false });
        }
        let wanders = dice.chance(25);
        Self { rota, dice, parts, deployments, receivers, wanders, clock_went_back: false }
    }

    async fn play(mut self) -> Result<(), String> {
        for which in [0, 0, 0, 1, 1, 1] {
            self.set_policy(which).await;
        }
        for step in 0..STEPS {
            self.step().await.map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        self.end().await
    }

    async fn step(&mut self) -> Result<(), String> {
        let which = self.dice.place(self.deployments.len()).expect("there are two");
        match self.dice.within(0..20) {
            0..=5 => self.rota.advance_seconds(self.dice.seconds()),
            6 if self.wanders => {
                self.rota.advance_seconds(-self.dice.seconds());
                self.clock_went_back = true;
            }
            7 if self.dice.chance(3) => {
                self.rota.api.call(&format!("/v1/environments/{}/archive", id(&self.parts.environment))).await;
            }
            8 => self.break_or_mend(which).await,
            9..=10 => self.change(which).await,
            11..=13 => {
                self.set_policy(which).await;
                self.look().await?;
            }
            14..=15 => self.rest(which).await,
            16 => {
                self.rota
                    .api
                    .send(Method::POST, &format!("/v1/deployments/{}/run", self.deployments[which].id), None)
                    .await;
            }
            17 => {
                self.receivers.change(&self.rota.api, &mut self.dice).await;
                self.receivers.check(self.rota).await?;
            }
            _ => self.look().await?,
        }
        Ok(())
    }

    /// Two servers look at the same time. No policy lets them start too many sessions, and what is pending then waits for
    /// something that comes.
    async fn look(&mut self) -> Result<(), String> {
        let mut before = Vec::new();
        for known in &self.deployments {
            before.push(AtWork::of(self.rota, &known.id).await);
        }
        tokio::join!(self.rota.tick(), self.rota.tick());
        for (known, before) in self.deployments.iter().zip(before) {
            let after = AtWork::of(self.rota, &known.id).await;
            let counted =
                if known.policy.overlap == Some(Overlap::CancelPrevious) { after.undisturbed } else { after.all };
            let is_too_many = policies::limit(&known.policy).is_some_and(|limit| counted > limit);
            if after.all > before.all && is_too_many {
                return Err(format!("{}: {before:?}, then {after:?} at work by {:?}", known.id, known.policy));
            }
            if let Some(pending) = record::pending(self.rota, known).await.filter(|_| !self.clock_went_back) {
                // They have just looked, so that a place that is free does not wait for the next look.
                pending.check(Timestamp::MIN).map_err(|wrong| format!("{}: {wrong}", known.id))?;
            }
        }
        Ok(())
    }

    /// Changes the schedule or the state while a server looks.
    async fn change(&mut self, which: usize) {
        let path = format!("/v1/deployments/{}", self.deployments[which].id);
        let (verb, body) = match self.dice.within(0..30) {
            0..=8 => ("", Some(json!({ "schedule": schedule(&mut self.dice) }))),
            9..=10 => ("", Some(json!({ "schedule": null }))),
            11..=15 => ("/pause", None),
            16..=28 => ("/unpause", None),
            _ => ("/archive", None),
        };
        // It is refused once the deployment is archived.
        let path = format!("{path}{verb}");
        tokio::join!(self.rota.tick(), self.rota.api.send(Method::POST, &path, body.as_ref()));
    }

    /// Changes the policy while a server looks.
    async fn set_policy(&mut self, which: usize) {
        let known = &mut self.deployments[which];
        let mut policy = known.policy;
        if self.dice.chance(20) {
            policies::change_window(&mut policy, &mut self.dice, now(self.rota));
        } else {
            policies::change(&mut policy, &mut self.dice, false);
        }
        let body = json!({
            "starts_at": policy.starts_at,
            "ends_at": policy.ends_at,
            "overlap": policy.overlap,
            "max_concurrent_sessions": policy.max_concurrent_sessions,
            "retry": policy.retry,
            "catch_up_seconds": policy.catch_up_seconds,
            "jitter": policy.jitter,
            "spend": policy.spend,
            "session": policy.session,
        });
        let path = format!("/rota/v1/deployments/{}/policy", known.id);
        let ((), answer) = tokio::join!(self.rota.tick(), self.rota.api.send(Method::POST, &path, Some(&body)));
        if answer.status.is_success() {
            known.policy = policy;
            known.policies.push(policy);
        }
    }

    /// The session that works longest comes to rest, if any is at work.
    async fn rest(&mut self, which: usize) {
        tokio::join!(self.rota.tick(), record::come_to_rest(self.rota, &self.deployments[which].id));
    }

    /// Starts of sessions break from now on, or no longer do.
    async fn break_or_mend(&mut self, which: usize) {
        let known = &mut self.deployments[which];
        if known.is_broken || self.dice.chance(30) {
            known.break_or_mend(self.rota).await;
        }
    }

    /// All that has come is accounted for, what waits waits for something, and all webhooks arrive or stop in sight.
    async fn end(mut self) -> Result<(), String> {
        self.rota.advance_seconds(self.dice.seconds());
        self.look().await?;
        let mut runs = Vec::new();
        for known in &self.deployments {
            let history = record::history(self.rota, known, self.clock_went_back).await;
            history.check().map_err(|wrong| format!("{}: {wrong}", known.id))?;
            self.end_what_is_pending(known).await?;
            runs.extend(record::runs(self.rota, &known.id).await);
        }
        for known in &mut self.deployments {
            if known.is_broken {
                known.break_or_mend(self.rota).await;
            }
            self.rota.api.send(Method::POST, &format!("/v1/deployments/{}/archive", known.id), None).await;
        }
        self.receivers.end(self.rota, &runs).await
    }

    /// A place is free: then nothing waits for one.
    async fn end_what_is_pending(&self, known: &Known) -> Result<(), String> {
        while AtWork::of(self.rota, &known.id).await.all > 0 {
            record::come_to_rest(self.rota, &known.id).await;
        }
        self.rota.tick().await;
        match record::pending(self.rota, known).await {
            Some(pending) if pending.retry_at.is_none() && !self.clock_went_back => {
                Err(format!("{}: {pending:?} is left", known.id))
            }
            _ => Ok(()),
        }
    }
}

fn schedule(dice: &mut Dice) -> Value {
    // Mostly one that occurs often.
    let (expression, timezone) = if dice.chance(70) { dice.one_of(&SCHEDULES[..2]) } else { dice.one_of(&SCHEDULES) };
    json!({"type": "cron", "expression": expression, "timezone": timezone})
}

/// The time of the server.
fn now(rota: &Rota) -> Timestamp {
    rota.clock.now().timestamp()
}
