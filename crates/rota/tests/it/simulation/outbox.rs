//! A model of the outbox of webhooks: endpoints that accept, fail, are not heard or have moved, and servers that claim a
//! delivery, send it and record how that went.

use jiff::SignedDuration;
use rota_api::{Time, webhook::DeliveryState};
use rota_server::{
    resources::webhook_endpoints::has_failed_for_too_long,
    webhooks::next::{Ended, Next, claim_micros, next},
};

use super::dice::Dice;

/// How long an attempt may take, in seconds.
const TIMEOUT_SECONDS: u32 = 15;

/// How the receiver behind an endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Accepts,
    Fails,
    /// It fails, and says when to come again.
    Postpones,
    /// It accepts, but too late for the sender to hear of it.
    Dawdles,
    /// Its answer does not pass by itself.
    Refuses,
}

const MOODS: [Mood; 5] = [Mood::Accepts, Mood::Fails, Mood::Postpones, Mood::Dawdles, Mood::Refuses];

/// What an endpoint asks for that says when to come again.
const POSTPONED_MICROS: i64 = 60_000_000;

#[derive(Debug)]
struct Endpoint {
    mood: Mood,
    is_enabled: bool,
    failures: i64,
    failing_since: Option<Time>,
    /// Deliveries in a row that failed for good, by when they did.
    given_up: Vec<Time>,
    /// Somebody has disabled it, or it has refused something.
    is_unwanted: bool,
}

#[derive(Debug)]
struct Delivery {
    endpoint: usize,
    state: DeliveryState,
    attempts: i64,
    replayed_after: i64,
    due_at: Option<Time>,
    is_claimed: bool,
    /// How often the receiver has taken it.
    accepted: u32,
}

/// A delivery that a server may attempt.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    delivery: usize,
    attempts: i64,
    replayed_after: i64,
    ended: Option<Ended>,
}

/// What the store keeps of webhooks.
#[derive(Debug)]
pub struct Outbox {
    endpoints: Vec<Endpoint>,
    deliveries: Vec<Delivery>,
    /// Attempts before a delivery counts as failed.
    most: u32,
    /// Events that were written.
    events: usize,
    /// What went wrong first.
    wrong: Option<String>,
}

impl Outbox {
    pub fn new(dice: &mut Dice) -> Self {
        let endpoint = |mood| Endpoint {
            mood,
            is_enabled: true,
            failures: 0,
            failing_since: None,
            given_up: Vec::new(),
            is_unwanted: false,
        };
        let endpoints = vec![endpoint(Mood::Accepts), endpoint(dice.one_of(&[Mood::Fails, Mood::Dawdles]))];
        Self { endpoints, deliveries: Vec::new(), most: dice.one_of(&[1, 2, 3, 8]), events: 0, wrong: None }
    }

    /// How many events were written.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Writes an event for those who want it, and sometimes for one that is just being disabled.
    pub fn emit(&mut self, dice: &mut Dice, now: Time) {
        self.events += 1;
        for endpoint in 0..self.endpoints.len() {
            if !self.endpoints[endpoint].is_enabled && !dice.chance(5) {
                continue;
            }
            self.deliveries.push(Delivery {
                endpoint,
                state: DeliveryState::Pending,
                attempts: 0,
                replayed_after: 0,
                due_at: Some(now),
                is_claimed: false,
                accepted: 0,
            });
        }
    }

    /// Takes some of what is due for one of the endpoints.
    pub fn claim(&mut self, dice: &mut Dice, now: Time) -> Vec<Claim> {
        let endpoint = dice.one_of(&[0, 1]);
        if !self.endpoints[endpoint].is_enabled {
            self.park(endpoint);
            return Vec::new();
        }
        let until = now.plus_micros(claim_micros(TIMEOUT_SECONDS));
        let mut claims = Vec::new();
        for (place, delivery) in self.deliveries.iter_mut().enumerate() {
            let is_due = delivery.endpoint == endpoint && delivery.due_at.is_some_and(|at| at <= now);
            if is_due && claims.len() < 4 {
                delivery.due_at = Some(until);
                delivery.is_claimed = true;
                delivery.attempts += 1;
                let (attempts, replayed_after) = (delivery.attempts, delivery.replayed_after);
                claims.push(Claim { delivery: place, attempts, replayed_after, ended: None });
            }
        }
        claims
    }

    /// Goes on with a claim: sends it, or records how that went. Whether it is done.
    pub fn proceed(&mut self, claim: &mut Claim, dice: &mut Dice, now: Time) -> bool {
        let Some(ended) = claim.ended else {
            claim.ended = Some(self.send(claim.delivery));
            return false;
        };
        self.record(*claim, ended, dice.next(), now);
        true
    }

    fn send(&mut self, delivery: usize) -> Ended {
        let delivery = &mut self.deliveries[delivery];
        let mood = self.endpoints[delivery.endpoint].mood;
        delivery.accepted += u32::from(matches!(mood, Mood::Accepts | Mood::Dawdles));
        match mood {
            Mood::Accepts => Ended::Accepted,
            Mood::Fails | Mood::Dawdles => Ended::Failed,
            Mood::Postpones => Ended::Postponed { wait_micros: POSTPONED_MICROS },
            Mood::Refuses => Ended::Refused,
        }
    }

    fn record(&mut self, claim: Claim, ended: Ended, random: u64, now: Time) {
        let delivery = &mut self.deliveries[claim.delivery];
        let attempt = claim.attempts - claim.replayed_after;
        let next = next(ended, attempt, self.most, random);
        self.wrong = self.wrong.take().or_else(|| unlike_the_docs(ended, attempt, self.most, next));
        // Another attempt was made meanwhile, and speaks for the delivery.
        if delivery.attempts != claim.attempts || !delivery.is_claimed {
            return;
        }
        let (state, due_at) = match next {
            Next::Delivered => (DeliveryState::Delivered, None),
            Next::Again { pause_micros } => (DeliveryState::Pending, Some(now.plus_micros(pause_micros))),
            Next::GivenUp => (DeliveryState::Failed, None),
            Next::Parked => (DeliveryState::Pending, None),
        };
        (delivery.state, delivery.is_claimed) = (state, false);
        delivery.due_at = delivery.due_at.and(due_at);
        let place = delivery.endpoint;
        let endpoint = &mut self.endpoints[place];
        match next {
            Next::Delivered => endpoint.begin_anew(),
            Next::Again { .. } => {}
            Next::GivenUp => {
                endpoint.given_up.push(now);
                endpoint.failures += 1;
                let since = *endpoint.failing_since.get_or_insert(now);
                if has_failed_for_too_long(endpoint.failures, since, now) {
                    self.disable(place);
                }
            }
            Next::Parked => {
                endpoint.is_unwanted = true;
                self.disable(place);
            }
        }
    }

    fn disable(&mut self, endpoint: usize) {
        self.endpoints[endpoint].is_enabled = false;
        self.park(endpoint);
    }

    fn park(&mut self, endpoint: usize) {
        for delivery in self.deliveries.iter_mut().filter(|delivery| delivery.endpoint == endpoint) {
            delivery.due_at = None;
        }
    }

    fn enable(&mut self, endpoint: usize, now: Time) {
        let stored = &mut self.endpoints[endpoint];
        (stored.is_enabled, stored.is_unwanted) = (true, false);
        stored.begin_anew();
        let stopped = |delivery: &&mut Delivery| {
            delivery.endpoint == endpoint && delivery.state == DeliveryState::Pending && delivery.due_at.is_none()
        };
        for delivery in self.deliveries.iter_mut().filter(stopped) {
            delivery.due_at = Some(now);
            delivery.is_claimed = false;
            delivery.replayed_after = delivery.attempts;
        }
    }

    /// Gives back what a server that stops has not recorded: it is due at once.
    pub fn release(&mut self, claims: &[Claim], now: Time) {
        for claim in claims {
            let delivery = &mut self.deliveries[claim.delivery];
            if delivery.attempts == claim.attempts && delivery.is_claimed {
                delivery.is_claimed = false;
                delivery.due_at = delivery.due_at.and(Some(now));
            }
        }
    }

    /// A receiver changes its mood, or a client enables or disables an endpoint or replays a delivery.
    pub fn change(&mut self, dice: &mut Dice, now: Time) {
        let place = dice.one_of(&[0, 1]);
        let endpoint = &mut self.endpoints[place];
        match dice.within(0..10) {
            0..=3 => endpoint.mood = dice.one_of(&MOODS),
            4..=6 if !endpoint.is_enabled => self.enable(place, now),
            4 if endpoint.is_enabled => {
                endpoint.is_unwanted = true;
                self.disable(place);
            }
            _ => {
                if let Some(place) = dice.place(self.deliveries.len()) {
                    self.replay(place, now);
                }
            }
        }
    }

    fn replay(&mut self, delivery: usize, now: Time) {
        let delivery = &mut self.deliveries[delivery];
        if self.endpoints[delivery.endpoint].is_enabled && !delivery.is_claimed {
            delivery.state = DeliveryState::Pending;
            delivery.due_at = Some(now);
            delivery.replayed_after = delivery.attempts;
        }
    }

    /// When something is due next, if ever.
    pub fn next_due(&self) -> Option<Time> {
        self.deliveries.iter().filter_map(|delivery| delivery.due_at).min()
    }

    /// Says what is wrong, if anything is: each delivery has arrived, or is on its way, or has stopped where it is seen.
    pub fn check(&self) -> Result<(), String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        for delivery in &self.deliveries {
            let endpoint = &self.endpoints[delivery.endpoint];
            let right = match (delivery.state, delivery.due_at) {
                (DeliveryState::Delivered, _) => delivery.accepted > 0,
                (DeliveryState::Failed, _) => delivery.attempts - delivery.replayed_after >= self.most.into(),
                (DeliveryState::Pending, None) => !endpoint.is_enabled,
                (DeliveryState::Pending, Some(_)) => true,
            };
            if !right {
                return Err(format!("{delivery:?} to {endpoint:?}"));
            }
        }
        for endpoint in &self.endpoints {
            if endpoint.is_enabled == (endpoint.is_unwanted || endpoint.has_given_up()) {
                return Err(format!("{endpoint:?}"));
            }
        }
        Ok(())
    }
}

impl Endpoint {
    fn begin_anew(&mut self) {
        (self.failures, self.failing_since) = (0, None);
        self.given_up.clear();
    }

    /// Ten deliveries in a row or more have failed for good, and an hour has passed between the first and the last.
    fn has_given_up(&self) -> bool {
        let hour = SignedDuration::from_hours(1);
        let (Some(first), Some(last)) = (self.given_up.first(), self.given_up.last()) else { return false };
        self.given_up.len() >= 10 && last.timestamp().duration_since(first.timestamp()) >= hour
    }
}

/// What is wrong with what follows an attempt, if anything is.
fn unlike_the_docs(ended: Ended, attempt: i64, most: u32, next: Next) -> Option<String> {
    let is_last = attempt >= i64::from(most);
    let right = match (ended, next) {
        (Ended::Accepted, Next::Delivered) | (Ended::Refused, Next::Parked) => true,
        (Ended::Failed | Ended::Postponed { .. }, Next::GivenUp) => is_last,
        (Ended::Postponed { wait_micros }, Next::Again { pause_micros }) => {
            !is_last && (wait_micros..=120_000_000).contains(&pause_micros)
        }
        (Ended::Failed, Next::Again { pause_micros }) => !is_last && (5_000_000..=120_000_000).contains(&pause_micros),
        _ => false,
    };
    (!right).then(|| format!("attempt {attempt} of {most} has {ended:?}, and then {next:?}"))
}
