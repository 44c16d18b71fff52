//! The line before an upstream: who may ask now, who waits, and whether the upstream is up.
//!
//! A request needs a [`Slot`]. There is none while the upstream has asked everybody to wait, while as many requests are under way as
//! it takes, and while its rate is used up: the rate of the configuration, and the one that its answers tell. Those that wait are
//! served in turn by workspace, and within a workspace whoever waits for longest comes first. After a refusal half as many requests
//! as were under way are let through at a time, and one more once so many have succeeded: so an upstream that tells nothing of its
//! limits is not asked at once again by everybody.
//!
//! All of it is in memory, and of this server alone: nothing is lost with it but what the next answers tell again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rota_api::{Time, id::WorkspaceId};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::rate_limits::RateLimits;
use crate::{
    backoff::Backoff,
    clock::Clock,
    limits::{
        MODEL_DOWN_FIRST, MODEL_DOWN_MAX, MODEL_LINE_POLL, MODEL_RETRY_FIRST_MICROS, MODEL_RETRY_MAX_MICROS,
        MODEL_WINDOW,
    },
};

/// How long an upstream is left alone that refuses and does not say for how long.
const REFUSED: Backoff = Backoff::doubling(
    Duration::from_micros(MODEL_RETRY_FIRST_MICROS as u64),
    Duration::from_micros(MODEL_RETRY_MAX_MICROS as u64),
);

/// How long an upstream that fails is passed over where another one can be asked.
const DOWN: Backoff = Backoff::doubling(MODEL_DOWN_FIRST, MODEL_DOWN_MAX);

/// The least pause of one that waits: a rate is no finer than this.
const LEAST_PAUSE: Duration = Duration::from_millis(2);

/// The line before one upstream.
#[derive(Debug)]
pub(super) struct Queue(Mutex<State>);

/// A request that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    queue: Arc<Queue>,
    clock: Clock,
    /// Its place among all requests to the upstream.
    number: u64,
    /// Whether the upstream has begun to answer.
    is_answered: bool,
    /// Whether it looks whether an upstream that failed is up again.
    is_probe: bool,
}

/// What a request says of its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It works.
    Up,
    /// It refuses for now, for as long as it says.
    Refused(Option<Duration>),
    /// It fails, in a way that may pass.
    Down,
    /// It fails until somebody does something: its key is wrong, its account cannot pay.
    Unusable,
}

#[derive(Debug)]
struct State {
    /// Most requests at the same time, by the configuration.
    most: Option<usize>,
    /// The rate of the configuration.
    rate: Option<Bucket>,
    /// The rate that answers tell.
    told: Option<Bucket>,
    /// Requests that may be under way since the upstream has refused.
    window: Option<f64>,
    under_way: usize,
    /// Those of them that the upstream has not begun to answer: what an answer tells does not count them.
    unanswered: usize,
    /// Requests so far.
    begun: u64,
    /// How many there were when it last refused: what became of them says nothing new.
    begun_at_refusal: u64,
    /// Refusals in a row.
    refusals: u32,
    opens_at: Time,
    /// Failures in a row, and how many requests there were at the last one.
    failures: u32,
    begun_at_failure: u64,
    /// Whether the last of them was one that does not pass by itself.
    is_unusable: bool,
    down_until: Time,
    is_probed: bool,
    line: Line,
}

impl Queue {
    /// One for an upstream that takes `most` requests at the same time and `per_second` in a second, if it has such bounds.
    pub(super) fn new(most: Option<usize>, per_second: Option<f64>) -> Self {
        let start = Time::from_micros(0);
        // No burst of a second's requests: an upstream that counts by the second would refuse it with those that follow.
        let bucket = |rate: f64| Bucket { left: 1.0, most: (rate / 10.0).max(1.0), per_second: rate, at: start };
        Self(Mutex::new(State {
            most,
            rate: per_second.map(bucket),
            told: None,
            window: None,
            under_way: 0,
            unanswered: 0,
            begun: 0,
            begun_at_refusal: 0,
            refusals: 0,
            opens_at: start,
            failures: 0,
            begun_at_failure: 0,
            is_unusable: false,
            down_until: start,
            is_probed: false,
            line: Line::default(),
        }))
    }

    /// Waits for a slot, for at most `patience`; not at all where the upstream has asked for a longer wait.
    pub(super) async fn slot(
        self: &Arc<Self>,
        clock: &Clock,
        workspace: &WorkspaceId,
        since: Time,
        patience: Duration,
    ) -> Option<Slot> {
        if self.opens_in(clock.now()) > patience {
            return None;
        }
        let (sender, mut served) = oneshot::channel();
        let waiting = Waiting { queue: self, workspace, place: self.state().line.join(workspace, since, sender) };
        let slot = timeout(patience, async {
            loop {
                let next = self.serve(clock);
                tokio::select! {
                    biased;
                    slot = &mut served => return slot.ok(),
                    () = sleep(next) => {}
                }
            }
        });
        let slot = slot.await.ok().flatten();
        drop(waiting);
        // Served at the last moment.
        slot.or_else(|| served.try_recv().ok())
    }

    /// How long nobody may ask from now on: because the upstream has asked for it, or because its rate is used up.
    pub(super) fn opens_in(&self, now: Time) -> Duration {
        self.state().opens_in(now)
    }

    /// Whether it works, as far as that is known; or it is time that one request looks.
    pub(super) fn is_up(&self, now: Time) -> bool {
        let state = self.state();
        state.failures == 0 || (now >= state.down_until && !state.is_probed)
    }

    /// Whether it would fail as it did the last time, as far as that is known.
    pub(super) fn is_unusable(&self, now: Time) -> bool {
        !self.is_up(now) && self.state().is_unusable
    }

    /// Whether a request could begin at once.
    pub(super) fn is_free(&self, now: Time) -> bool {
        let mut state = self.state();
        state.line.is_empty() && state.may_begin(now).is_ok()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().line.len()
    }

    /// Gives slots to those that wait, as far as there are some. How long it is until there may be more.
    fn serve(self: &Arc<Self>, clock: &Clock) -> Duration {
        // Slots of those that have given up. They come back here when they are dropped, so not before the lock is free.
        let mut unwanted = Vec::new();
        let mut state = self.state();
        let next = loop {
            if state.line.is_empty() {
                break MODEL_LINE_POLL;
            }
            let now = clock.now();
            if let Err(wait) = state.may_begin(now) {
                break wait.clamp(LEAST_PAUSE, MODEL_LINE_POLL);
            }
            let Some(waiter) = state.line.next() else { break MODEL_LINE_POLL };
            let (number, is_probe) = state.begin();
            let slot = Slot { queue: self.clone(), clock: clock.clone(), number, is_answered: false, is_probe };
            unwanted.extend(waiter.send(slot).err());
        };
        drop(state);
        drop(unwanted);
        next
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The time.
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// The upstream has begun to answer, and has told so much of its limits.
    pub(super) fn answered(&mut self, limits: &RateLimits) {
        let now = self.clock.now();
        let mut state = self.queue.state();
        if !self.is_answered {
            self.is_answered = true;
            state.unanswered -= 1;
        }
        if let Some(requests) = limits.requests {
            let full_in = requests.full_in.as_secs_f64();
            state.told = Some(Bucket {
                left: requests.remaining - state.unanswered as f64,
                most: requests.limit,
                per_second: (requests.limit - requests.remaining) / full_in,
                at: now,
            });
        }
        if let Some(wait) = limits.without_tokens {
            state.opens_at = state.opens_at.max(after(now, wait));
        }
    }

    /// What came of the request. Whether it has changed what is known of the upstream: that it is up, or that it is not.
    pub(super) fn came_to(&self, outcome: Outcome) -> bool {
        let now = self.clock.now();
        let mut state = self.queue.state();
        let was_up = state.failures == 0;
        match outcome {
            Outcome::Up => {
                (state.refusals, state.failures) = (0, 0);
                state.window =
                    state.window.map(|window| window + 1.0 / window).filter(|window| *window <= MODEL_WINDOW);
            }
            Outcome::Refused(asked) => {
                state.failures = 0;
                if self.number > state.begun_at_refusal {
                    state.begun_at_refusal = state.begun;
                    state.refusals += 1;
                    state.window = Some((state.under_way as f64 / 2.0).max(1.0));
                }
                let wait = asked.unwrap_or_else(|| REFUSED.pause(state.refusals));
                state.opens_at = state.opens_at.max(after(now, wait));
            }
            Outcome::Down | Outcome::Unusable if self.number > state.begun_at_failure => {
                state.begun_at_failure = state.begun;
                state.failures += 1;
                state.is_unusable = outcome == Outcome::Unusable;
                let pause = if outcome == Outcome::Down { DOWN.pause(state.failures) } else { MODEL_DOWN_MAX };
                state.down_until = after(now, pause);
            }
            Outcome::Down | Outcome::Unusable => {}
        }
        was_up != (state.failures == 0)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.under_way -= 1;
        if !self.is_answered {
            state.unanswered -= 1;
        }
        if self.is_probe {
            state.is_probed = false;
        }
        drop(state);
        self.queue.serve(&self.clock);
    }
}

impl State {
    /// Whether a request may begin now, or how long it is until one may.
    fn may_begin(&mut self, now: Time) -> Result<(), Duration> {
        let wait = self.opens_in(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        let most = self.most.unwrap_or(usize::MAX).min(self.window.map_or(usize::MAX, |window| window as usize));
        if self.under_way < most { Ok(()) } else { Err(MODEL_LINE_POLL) }
    }

    fn opens_in(&mut self, now: Time) -> Duration {
        // What was told is true until the bucket is full again.
        self.told = self.told.take().map(|told| told.at(now)).filter(|told| told.left < told.most);
        self.rate = self.rate.take().map(|rate| rate.at(now));
        let waits = [&self.rate, &self.told].into_iter().flatten().filter_map(Bucket::wait);
        waits.max().unwrap_or_default().max(between(now, self.opens_at))
    }

    /// Counts one more request. Its number, and whether it looks whether the upstream is up again.
    fn begin(&mut self) -> (u64, bool) {
        for bucket in [&mut self.rate, &mut self.told].into_iter().flatten() {
            bucket.left -= 1.0;
        }
        self.under_way += 1;
        self.unanswered += 1;
        self.begun += 1;
        let is_probe = self.failures > 0 && !self.is_probed;
        self.is_probed |= is_probe;
        (self.begun, is_probe)
    }
}

/// Requests that may be made, of which more come evenly up to a bound.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    most: f64,
    per_second: f64,
    at: Time,
}

impl Bucket {
    /// What it has at `now`.
    fn at(self, now: Time) -> Self {
        let more = now.seconds_since(self.at).max(0.0) * self.per_second;
        Self { left: (self.left + more).min(self.most), at: now, ..self }
    }

    /// How long it is until there is one, unless there is.
    fn wait(&self) -> Option<Duration> {
        // Less than a thousandth is lost in the sum of many parts.
        let missing = 0.999 - self.left;
        (missing > 0.0).then(|| Duration::try_from_secs_f64(missing / self.per_second).unwrap_or(MODEL_LINE_POLL))
    }
}

/// Since when somebody waits, and a number that tells those apart who wait since the same moment.
type Place = (Time, u64);

/// Those that wait.
#[derive(Debug, Default)]
struct Line {
    joined: u64,
    of: HashMap<WorkspaceId, BTreeMap<Place, oneshot::Sender<Slot>>>,
    /// The workspaces of which somebody waits, in the order of their turns.
    turns: VecDeque<WorkspaceId>,
}

impl Line {
    fn join(&mut self, workspace: &WorkspaceId, since: Time, waiter: oneshot::Sender<Slot>) -> Place {
        self.joined += 1;
        let place = (since, self.joined);
        if !self.of.contains_key(workspace) {
            self.turns.push_back(workspace.clone());
        }
        self.of.entry(workspace.clone()).or_default().insert(place, waiter);
        place
    }

    fn leave(&mut self, workspace: &WorkspaceId, place: Place) {
        let Some(waiting) = self.of.get_mut(workspace) else { return };
        waiting.remove(&place);
        if waiting.is_empty() {
            self.of.remove(workspace);
            self.turns.retain(|other| other != workspace);
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<Slot>> {
        let workspace = self.turns.pop_front()?;
        let waiting = self.of.get_mut(&workspace)?;
        let first = waiting.pop_first();
        if waiting.is_empty() {
            self.of.remove(&workspace);
        } else {
            self.turns.push_back(workspace);
        }
        first.map(|(_, waiter)| waiter)
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    fn len(&self) -> usize {
        self.of.values().map(BTreeMap::len).sum()
    }
}

/// Somebody who waits, until this is dropped.
struct Waiting<'a> {
    queue: &'a Arc<Queue>,
    workspace: &'a WorkspaceId,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.state().line.leave(self.workspace, self.place);
    }
}

fn after(now: Time, wait: Duration) -> Time {
    now.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX))
}

fn between(now: Time, later: Time) -> Duration {
    Duration::from_micros(u64::try_from(later.micros().saturating_sub(now.micros())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, poll};
    use rota_api::id::Id;

    use super::*;
    use crate::model::rate_limits::Requests;

    const LONG: Duration = Duration::from_hours(1);

    fn workspace(name: &str) -> WorkspaceId {
        WorkspaceId::trusted(name.to_owned())
    }

    fn start() -> Clock {
        Clock::fixed(Time::from_micros(1_000_000_000))
    }

    fn queue(most: Option<usize>, per_second: Option<f64>) -> Arc<Queue> {
        Arc::new(Queue::new(most, per_second))
    }

    /// A slot, if there is one at once.
    fn now(queue: &Arc<Queue>, clock: &Clock) -> Option<Slot> {
        queue.slot(clock, &workspace("a"), clock.now(), LONG).now_or_never().flatten()
    }

    /// As many slots as there are at once, but for more than 40: a task may not go on for ever without a pause.
    fn all(queue: &Arc<Queue>, clock: &Clock) -> Vec<Slot> {
        std::iter::from_fn(|| now(queue, clock)).take(40).collect()
    }

    fn seconds(clock: &Clock, seconds: f64) {
        clock.advance_micros((seconds * 1e6) as i64);
    }

    #[tokio::test]
    async fn no_more_are_under_way_than_the_configuration_allows() {
        let (queue, clock) = (queue(Some(2), None), start());
        let mut under_way = all(&queue, &clock);
        assert_eq!(under_way.len(), 2);
        under_way.pop();
        assert_eq!(all(&queue, &clock).len(), 1);
    }

    #[tokio::test]
    async fn a_rate_of_the_configuration_is_kept_in_every_second() {
        let (queue, clock) = (queue(None, Some(10.0)), start());
        let mut times = Vec::new();
        for _ in 0..500 {
            times.extend(all(&queue, &clock).iter().map(|_| clock.now().micros()));
            seconds(&clock, 0.01);
        }
        assert!((48..=51).contains(&times.len()), "{} in five seconds", times.len());
        assert!(times.windows(11).all(|eleven| eleven[10] - eleven[0] >= 990_000), "{times:?}");
    }

    #[tokio::test]
    async fn what_answers_tell_of_their_limits_is_kept() {
        let (queue, clock) = (queue(None, None), start());
        let mut slots = all(&queue, &clock);
        assert_eq!(slots.len(), 40, "nothing is known yet");
        slots.truncate(3);
        let told = |remaining: f64| RateLimits {
            requests: Some(Requests { limit: 10.0, remaining, full_in: Duration::from_secs(8) }),
            without_tokens: None,
        };
        // Two others are on their way, and will be counted.
        slots[0].answered(&told(6.0));
        assert_eq!(all(&queue, &clock).len(), 4);
        seconds(&clock, 4.0);
        assert_eq!(all(&queue, &clock).len(), 2, "half of what is missing has come back");
        seconds(&clock, 8.0);
        assert_eq!(all(&queue, &clock).len(), 4);
        seconds(&clock, 20.0);
        assert_eq!(all(&queue, &clock).len(), 40, "a full bucket is forgotten: who tells nothing more has no limit");
    }

    #[tokio::test]
    async fn an_upstream_without_tokens_is_left_alone() {
        let (queue, clock) = (queue(None, None), start());
        let limits = RateLimits { requests: None, without_tokens: Some(Duration::from_secs(5)) };
        now(&queue, &clock).unwrap().answered(&limits);
        assert!(now(&queue, &clock).is_none());
        seconds(&clock, 5.0);
        assert!(now(&queue, &clock).is_some());
    }

    #[tokio::test]
    async fn a_refusal_shuts_the_line_for_everybody_and_then_lets_half_as_many_through() {
        let (queue, clock) = (queue(None, None), start());
        let mut slots = all(&queue, &clock);
        for slot in slots.drain(..20) {
            slot.came_to(Outcome::Up);
        }
        for slot in &slots {
            slot.came_to(Outcome::Refused(Some(Duration::from_secs(2))));
        }
        slots.clear();
        assert_eq!(queue.opens_in(clock.now()), Duration::from_secs(2));
        assert!(queue.slot(&clock, &workspace("a"), clock.now(), Duration::from_secs(1)).await.is_none());
        seconds(&clock, 2.0);
        let slots = all(&queue, &clock);
        assert_eq!(slots.len(), 10, "half of those that were under way; the others of that time refused nothing new");
        for slot in slots.iter().chain(&slots) {
            slot.came_to(Outcome::Up);
        }
        assert_eq!(all(&queue, &clock).len(), 1, "one more when so many have succeeded");
    }

    #[tokio::test]
    async fn who_refuses_without_a_word_is_left_alone_for_longer_each_time() {
        let (queue, clock) = (queue(None, None), start());
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            now(&queue, &clock).unwrap().came_to(Outcome::Refused(None));
            assert_eq!(queue.opens_in(clock.now()), Duration::from_secs(pause));
            seconds(&clock, pause as f64);
        }
        now(&queue, &clock).unwrap().came_to(Outcome::Up);
        now(&queue, &clock).unwrap().came_to(Outcome::Refused(None));
        assert_eq!(queue.opens_in(clock.now()), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn workspaces_are_served_in_turn_and_who_waits_for_longest_first() {
        let (queue, clock) = (queue(Some(1), None), start());
        let taken = now(&queue, &clock).unwrap();
        let (a, b) = (workspace("a"), workspace("b"));
        let at = |micros| Time::from_micros(micros);
        let mut waiting = [(&a, 3), (&a, 1), (&a, 2), (&b, 9)]
            .map(|(workspace, since)| Box::pin(queue.slot(&clock, workspace, at(since), LONG)));
        for one in &mut waiting {
            assert!(poll!(one).is_pending());
        }
        assert_eq!(queue.waiting(), 4);
        let mut free = Some(taken);
        for next in [1, 3, 2, 0] {
            drop(free.take());
            for (place, one) in waiting.iter_mut().enumerate().filter(|(place, _)| *place != next) {
                if [1, 3, 2, 0].iter().position(|of| *of == place) > [1, 3, 2, 0].iter().position(|of| *of == next) {
                    assert!(poll!(one).is_pending(), "{place} before {next}");
                }
            }
            free = waiting[next].as_mut().now_or_never().flatten();
            assert!(free.is_some(), "{next}");
        }
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn a_slot_that_was_waited_for_in_vain_is_not_lost() {
        let (queue, clock) = (queue(Some(1), None), start());
        let taken = now(&queue, &clock).unwrap();
        let a = workspace("a");
        let mut given_up = Box::pin(queue.slot(&clock, &a, clock.now(), LONG));
        let mut served = Box::pin(queue.slot(&clock, &a, clock.now(), LONG));
        let mut late = Box::pin(queue.slot(&clock, &a, clock.now(), LONG));
        for waiting in [&mut given_up, &mut served, &mut late] {
            assert!(poll!(waiting).is_pending());
        }
        drop(given_up);
        assert_eq!(queue.waiting(), 2);
        drop(taken);
        // Served, but dropped before it could look.
        drop(served);
        drop(late.now_or_never().flatten().unwrap());
        let state = queue.state();
        assert_eq!((state.under_way, state.unanswered, state.line.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn an_upstream_that_fails_is_looked_at_by_one_request_after_a_while() {
        let (queue, clock) = (queue(None, None), start());
        let slots = all(&queue, &clock);
        assert!(slots[0].came_to(Outcome::Down), "that is new");
        assert!(!slots[1].came_to(Outcome::Down), "of the same time");
        drop(slots);
        for pause in [15.0, 30.0, 60.0, 120.0, 240.0, 300.0] {
            seconds(&clock, pause - 1.0);
            assert!(!queue.is_up(clock.now()), "for {pause} s");
            seconds(&clock, 1.0);
            assert!(queue.is_up(clock.now()));
            let probe = now(&queue, &clock).unwrap();
            assert!(!queue.is_up(clock.now()), "one looks");
            probe.came_to(Outcome::Down);
        }
        seconds(&clock, 300.0);
        drop(now(&queue, &clock));
        assert!(queue.is_up(clock.now()), "who looked was interrupted");
        assert!(now(&queue, &clock).unwrap().came_to(Outcome::Up));
        assert!(queue.is_up(clock.now()));
        now(&queue, &clock).unwrap().came_to(Outcome::Unusable);
        seconds(&clock, 299.0);
        assert!(!queue.is_up(clock.now()));
    }
}
