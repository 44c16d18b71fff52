//! Policies of deployments: what happens when scheduled sessions overlap, fail to start or die, how times are kept, and what may be
//! spent.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

use crate::{
    Time,
    decode::{Decoded, Node},
    fields::{Decode, Flag, Kind, OneOf, Whole, described, names},
    id::{DeploymentId, RunId},
    warning::Warning,
};

/// Most sessions that a policy can allow at a time.
pub const MAX_CONCURRENT_SESSIONS: i64 = 10_000;
/// Most attempts to start the session of one occurrence, the first included.
pub const MAX_ATTEMPTS: i64 = 10;
/// Most sessions for one occurrence, of which each but the last has died.
pub const MAX_SESSIONS: i64 = 10;
/// The highest ceiling on what a deployment spends, in US cents: ten million dollars.
pub const MAX_SPEND_CENTS: i64 = 1_000_000_000;
/// Most characters that a new session can be told of an earlier run.
pub const MAX_CARRIED_CHARACTERS: i64 = 100_000;
/// How many those are unless a number is given.
pub const CARRIED_CHARACTERS: u32 = 10_000;
/// The longest pause before the second attempt, in seconds.
pub const MAX_INITIAL_BACKOFF_SECONDS: i64 = 3600;
/// The longest pause between two attempts, in seconds.
pub const MAX_BACKOFF_SECONDS: i64 = 86_400;
/// Most by which a pause can grow from one attempt to the next.
pub const MAX_BACKOFF_MULTIPLIER: i64 = 10;
/// The longest time that an occurrence can be caught up with, in seconds: 31 days.
pub const MAX_CATCH_UP_SECONDS: i64 = 31 * 86_400;
/// The widest range over which deployments can be spread, in seconds.
pub const MAX_JITTER_SECONDS: i64 = 3600;

/// The longest that a session may wait for an answer, or take for all of its turn, in seconds: 31 days.
pub const MAX_DEADLINE_SECONDS: i64 = 31 * 86_400;
/// Most failed runs in a row before a deployment is paused.
pub const MAX_FAILURES: i64 = 1000;
/// Most intervals that may pass without a good run before a deployment counts as silent.
pub const MAX_SILENT_AFTER_INTERVALS: i64 = 1000;
/// How many may pass where nobody said.
pub const SILENT_AFTER_INTERVALS: u32 = 3;

/// The policy of a deployment as the API shows it: what holds, whether it was set or is the server's default.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeploymentPolicy {
    /// Always `deployment_policy`.
    pub r#type: &'static str,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// What becomes of an occurrence that finds as many sessions at work as there may be.
    pub overlap: Overlap,
    /// How many sessions of the deployment may be at work at a time. None: no limit with [`Overlap::Allow`], else 1.
    pub max_concurrent_sessions: Option<u32>,
    /// How often, and when, the session of an occurrence is tried to be started, and started anew where it died.
    pub retry: Retry,
    /// How long after its time an occurrence still fires that nothing was there to fire.
    pub catch_up_seconds: u32,
    /// Whether occurrences are delayed.
    pub jitter: Jitter,
    /// After how many of its own intervals without a good run it counts as silent.
    pub silent_after_intervals: u32,
    /// What may be spent before occurrences are skipped; null is no ceiling.
    pub spend: Option<Spend>,
    /// Which session a start sends the first events to.
    pub session: SessionChoice,
    /// Most characters of the last message of an earlier run that a new session begins with; null: it begins with none.
    pub carry_forward: Option<u32>,
    /// What becomes of calls that wait for an answer.
    pub unattended: Unattended,
    /// How many seconds after its start a session is interrupted that has not come to the end of its turn. None: never.
    pub max_session_seconds: Option<u32>,
    /// After how many seconds of waiting for an answer a session is interrupted. None: never.
    pub max_idle_waiting_seconds: Option<u32>,
    /// After how many failed runs in a row the deployment is paused. None: never.
    pub pause_after_failures: Option<u32>,
    /// From when on the schedule has occurrences. None: at all times.
    pub starts_at: Option<Time>,
    /// Until when, exclusive, the schedule has occurrences. None: without end.
    pub ends_at: Option<Time>,
    /// Why the policy has paused the deployment; null while it is not paused, or is paused for another reason.
    pub paused_by: Option<PausedByPolicy>,
    /// What the agent of the deployment does that the policy leaves without an end.
    pub warnings: Vec<Warning>,
}

/// Runs that have all failed, and because of which their deployment was paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PausedByPolicy {
    /// How many in a row.
    pub failures: i64,
    /// When the first of them failed.
    pub since: Time,
    /// The last of them.
    pub run_id: Option<RunId>,
    /// Why that one failed.
    pub message: String,
}

names! {
    /// What becomes of an occurrence that finds as many sessions of its deployment at work as there may be.
    #[derive(Default, JsonSchema)]
    Overlap {
        /// It fires, unless a limit is set: then it is skipped.
        #[default]
        "allow" => Allow,
        /// It is skipped.
        "skip" => Skip,
        /// It waits for a place. The next occurrence takes its place in the queue.
        "queue_one" => QueueOne,
        /// It fires, and the longest running sessions are interrupted.
        "cancel_previous" => CancelPrevious,
    }
}

names! {
    /// Which session a start sends the first events to.
    #[derive(Default, JsonSchema)]
    SessionChoice {
        /// A new one.
        #[default]
        "new" => New,
        /// That of the last run, where it has come to the end of its turn; otherwise a new one.
        "continue" => Continue,
    }
}

described! {
    /// How often, and when, the session of an occurrence is tried to be started, and started anew where it died.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    Retry,
    /// What a body says about that.
    RetryFields {
        /// Attempts to start a session, the first included: 1 to [`MAX_ATTEMPTS`]. 1 is no retry.
        max_attempts: u32, needs as Whole(1, MAX_ATTEMPTS);
        /// Sessions for one occurrence, the first included: 1 to [`MAX_SESSIONS`]. One that died is followed by another one, up to so
        /// many; 1 is no retry.
        max_sessions: u32, needs as Whole(1, MAX_SESSIONS);
        /// Whether a session is followed by another one also where its agent has called a tool that may change something.
        even_after_changes: bool, needs as Flag;
        /// The pause before the second attempt: 1 to [`MAX_INITIAL_BACKOFF_SECONDS`].
        initial_backoff_seconds: u32, needs as Whole(1, MAX_INITIAL_BACKOFF_SECONDS);
        /// The longest pause: from the first pause to [`MAX_BACKOFF_SECONDS`].
        max_backoff_seconds: u32, needs as Whole(1, MAX_BACKOFF_SECONDS);
        /// By what each pause is longer than the one before: 1 to [`MAX_BACKOFF_MULTIPLIER`].
        multiplier: u32, needs as Whole(1, MAX_BACKOFF_MULTIPLIER);
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            max_sessions: 1,
            even_after_changes: false,
            initial_backoff_seconds: 30,
            max_backoff_seconds: 600,
            multiplier: 2,
        }
    }
}

described! {
    /// What a deployment may spend, in US cents. Days and months are those of UTC.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
    Spend,
    /// What a body says about that.
    SpendFields {
        /// In a day: 1 to [`MAX_SPEND_CENTS`]. Null is no ceiling.
        per_day_cents: u32, clears as Whole(1, MAX_SPEND_CENTS);
        /// In a month: 1 to [`MAX_SPEND_CENTS`]. Null is no ceiling.
        per_month_cents: u32, clears as Whole(1, MAX_SPEND_CENTS);
    }
}

/// Whether occurrences are delayed: on the wire a name, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// As the name says.
    Named(NamedJitter),
    /// A deployment fires after a delay of its own of less than this many seconds: 1 to [`MAX_JITTER_SECONDS`].
    Seconds(u32),
}

names! {
    /// A [`Jitter`] that has a name.
    NamedJitter {
        /// A deployment fires at its time.
        "off" => Off,
        /// It fires after a delay of its own, from a range that the interval between its occurrences decides.
        "hosted" => Hosted,
    }
}

impl Default for Jitter {
    fn default() -> Self {
        Self::OFF
    }
}

impl fmt::Display for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(named) => f.write_str(named.as_str()),
            Self::Seconds(seconds) => seconds.fmt(f),
        }
    }
}

impl Jitter {
    /// [`NamedJitter::Off`].
    pub const OFF: Self = Self::Named(NamedJitter::Off);
    /// [`NamedJitter::Hosted`].
    pub const HOSTED: Self = Self::Named(NamedJitter::Hosted);

    /// Reads a name. `None` when there is no such jitter.
    pub fn from_name(name: &str) -> Option<Self> {
        NamedJitter::from_name(name).map(Self::Named)
    }

    /// Reads a number of seconds. `None` when it is out of range.
    pub fn from_seconds(seconds: u32) -> Option<Self> {
        (1..=MAX_JITTER_SECONDS).contains(&i64::from(seconds)).then_some(Self::Seconds(seconds))
    }
}

/// What [`Jitter`] is displayed as.
impl FromStr for Jitter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = || text.parse().ok().and_then(Self::from_seconds);
        Self::from_name(text).or_else(seconds).ok_or_else(|| no_jitter(text))
    }
}

fn no_jitter(written: impl fmt::Debug) -> String {
    let names = format!("{:?}", NamedJitter::NAMES);
    let names = names.trim_matches(['[', ']']);
    format!("{written:?} is neither {names} nor a number of seconds from 1 to {MAX_JITTER_SECONDS}")
}

impl Serialize for Jitter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(named) => named.serialize(serializer),
            Self::Seconds(seconds) => serializer.serialize_u32(*seconds),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenJitter {
    Name(String),
    Seconds(u32),
}

impl<'de> Deserialize<'de> for Jitter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match WrittenJitter::deserialize(deserializer)? {
            WrittenJitter::Name(name) => Self::from_name(&name).ok_or_else(|| de::Error::custom(no_jitter(name))),
            WrittenJitter::Seconds(seconds) => {
                Self::from_seconds(seconds).ok_or_else(|| de::Error::custom(no_jitter(seconds)))
            }
        }
    }
}

/// What becomes of a call that waits for an answer, a confirmation or the result of a custom tool: on the wire a name or an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Unattended {
    /// As the name says.
    Named(NamedUnattended),
    /// It waits for so long, and is denied then.
    AnswerWithin(AnswerWithin),
}

names! {
    /// An [`Unattended`] that has a name.
    #[derive(Default, JsonSchema)]
    NamedUnattended {
        /// It waits until somebody answers.
        #[default]
        "wait" => Wait,
        /// It is denied at once.
        "deny" => Deny,
    }
}

described! {
    /// How long a call waits for its answer.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    AnswerWithin,
    /// What a body says about that.
    AnswerWithinFields {
        /// Seconds: 1 to [`MAX_DEADLINE_SECONDS`].
        answer_within_seconds: u32, required as Whole(1, MAX_DEADLINE_SECONDS);
    }
}

impl Default for Unattended {
    fn default() -> Self {
        Self::WAIT
    }
}

impl Unattended {
    /// [`NamedUnattended::Wait`].
    pub const WAIT: Self = Self::Named(NamedUnattended::Wait);
    /// [`NamedUnattended::Deny`].
    pub const DENY: Self = Self::Named(NamedUnattended::Deny);

    /// How many seconds a call waits before it is denied. `None`: without end.
    pub fn patience(self) -> Option<u32> {
        match self {
            Self::Named(NamedUnattended::Wait) => None,
            Self::Named(NamedUnattended::Deny) => Some(0),
            Self::AnswerWithin(AnswerWithin { answer_within_seconds }) => Some(answer_within_seconds),
        }
    }
}

names! {
    /// The limit of a policy for which a session was interrupted.
    #[derive(JsonSchema)]
    InterruptedBy {
        /// It had not come to the end of its turn in time.
        "max_session_seconds" => MaxSession,
        /// It had waited for an answer for too long.
        "max_idle_waiting_seconds" => MaxIdleWaiting,
    }
}

described! {
    /// What of a deployment differs from the server's defaults.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    Policy,
    /// An update request. What is cleared goes back to the server's default.
    UpdatePolicy {
        /// What becomes of an occurrence that finds as many sessions at work as there may be.
        overlap: Overlap, clears as OneOf(Overlap::NAMES);
        /// How many sessions may be at work at a time.
        max_concurrent_sessions: u32, clears as Whole(1, MAX_CONCURRENT_SESSIONS);
        /// How often, and when, the session of an occurrence is tried to be started, and started anew where it died.
        retry: Retry, clears as WholeRetry;
        /// How long an occurrence may be overdue and still fire, in seconds.
        catch_up_seconds: u32, clears as Whole(0, MAX_CATCH_UP_SECONDS);
        /// Whether occurrences are delayed.
        jitter: Jitter, clears as AnyJitter;
        /// After how many of its own intervals without a good run it counts as silent.
        silent_after_intervals: u32, clears as Whole(1, MAX_SILENT_AFTER_INTERVALS);
        /// What becomes of calls that wait for an answer.
        unattended: Unattended, clears as AnyUnattended;
        /// How long a session may take from its start to the end of its turn, in seconds.
        max_session_seconds: u32, clears as Whole(1, MAX_DEADLINE_SECONDS);
        /// How long a session may wait for an answer, in seconds.
        max_idle_waiting_seconds: u32, clears as Whole(1, MAX_DEADLINE_SECONDS);
        /// After how many failed runs in a row the deployment is paused.
        pause_after_failures: u32, clears as Whole(1, MAX_FAILURES);
        /// From when on the schedule has occurrences.
        starts_at: Time, clears as AnyTime;
        /// Until when, exclusive, the schedule has occurrences.
        ends_at: Time, clears as AnyTime;
        /// What may be spent.
        spend: Spend, clears as WholeSpend;
        /// Which session a start sends the first events to.
        session: SessionChoice, clears as OneOf(SessionChoice::NAMES);
        /// Most characters that a new session is told of what an earlier run said last.
        carry_forward: u32, clears as Characters;
    }
}

/// What a call waits for: a name, or an object that says for how long.
struct AnyUnattended;

impl Kind<Unattended> for AnyUnattended {
    fn read(&self, node: &Node<'_>) -> Decoded<Unattended> {
        match node.value() {
            Value::Object(_) => {
                let AnswerWithinFields { answer_within_seconds } = AnswerWithinFields::decode(node)?;
                Ok(Unattended::AnswerWithin(AnswerWithin { answer_within_seconds }))
            }
            _ => NamedUnattended::decode(node).map(Unattended::Named),
        }
    }

    fn schema(&self) -> Value {
        let within = AnswerWithinFields::json_schema(&mut SchemaGenerator::default()).to_value();
        json!({"anyOf": [{"enum": NamedUnattended::NAMES}, within]})
    }
}

/// An RFC 3339 time with any offset.
struct AnyTime;

impl Kind<Time> for AnyTime {
    fn read(&self, node: &Node<'_>) -> Decoded<Time> {
        node.string()?.parse().map_err(|_| node.invalid("Input should be a valid RFC 3339 time"))
    }

    fn schema(&self) -> Value {
        json!({"type": "string", "format": "date-time"})
    }
}

/// A retry as a whole: fields that are left out are the default's.
struct WholeRetry;

impl Kind<Retry> for WholeRetry {
    fn read(&self, node: &Node<'_>) -> Decoded<Retry> {
        node.object(|o| {
            let retry = RetryFields::read(o)?.merged(&Retry::default())?;
            if retry.max_backoff_seconds < retry.initial_backoff_seconds {
                let least = retry.initial_backoff_seconds;
                return Err(o.invalid(
                    "max_backoff_seconds",
                    format_args!("value must be greater than or equal to initial_backoff_seconds, which is {least}"),
                ));
            }
            Ok(retry)
        })
    }

    fn schema(&self) -> Value {
        RetryFields::json_schema(&mut SchemaGenerator::default()).to_value()
    }
}

/// Ceilings as a whole, of which there is at least one.
struct WholeSpend;

impl Kind<Spend> for WholeSpend {
    fn read(&self, node: &Node<'_>) -> Decoded<Spend> {
        let spend = node.object(|o| SpendFields::read(o)?.merged(&Spend::default()))?;
        if spend == Spend::default() {
            return Err(node.invalid("must have per_day_cents or per_month_cents; null is no ceiling at all"));
        }
        Ok(spend)
    }

    fn schema(&self) -> Value {
        SpendFields::json_schema(&mut SchemaGenerator::default()).to_value()
    }
}

/// A number of characters, or `true` for [`CARRIED_CHARACTERS`].
struct Characters;

impl Characters {
    const NUMBER: Whole = Whole(1, MAX_CARRIED_CHARACTERS);
}

impl Kind<u32> for Characters {
    fn read(&self, node: &Node<'_>) -> Decoded<u32> {
        match node.value() {
            Value::Bool(true) => Ok(CARRIED_CHARACTERS),
            _ => Self::NUMBER.read(node),
        }
    }

    fn schema(&self) -> Value {
        json!({"anyOf": [{"const": true}, Self::NUMBER.schema()]})
    }
}

/// A jitter with a name, or a number of seconds.
struct AnyJitter;

impl AnyJitter {
    const SECONDS: Whole = Whole(1, MAX_JITTER_SECONDS);
}

impl Kind<Jitter> for AnyJitter {
    fn read(&self, node: &Node<'_>) -> Decoded<Jitter> {
        match node.value() {
            Value::String(_) => NamedJitter::decode(node).map(Jitter::Named),
            _ => Self::SECONDS.read(node).map(Jitter::Seconds),
        }
    }

    fn schema(&self) -> Value {
        json!({"anyOf": [{"enum": NamedJitter::NAMES}, Self::SECONDS.schema()]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_jitter_is_read_as_it_is_written() {
        for (jitter, written) in
            [(Jitter::OFF, json!("off")), (Jitter::HOSTED, json!("hosted")), (Jitter::Seconds(30), json!(30))]
        {
            assert_eq!(serde_json::to_value(jitter).unwrap(), written);
            assert_eq!(serde_json::from_value::<Jitter>(written).unwrap(), jitter);
            assert_eq!(jitter.to_string().parse(), Ok(jitter));
        }
        for wrong in [json!("on"), json!("30"), json!(0), json!(3601), json!(1.5), json!(true)] {
            assert!(serde_json::from_value::<Jitter>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_becomes_of_a_call_is_read_as_it_is_written() {
        let within = Unattended::AnswerWithin(AnswerWithin { answer_within_seconds: 90 });
        for (unattended, written, patience) in [
            (Unattended::WAIT, json!("wait"), None),
            (Unattended::DENY, json!("deny"), Some(0)),
            (within, json!({"answer_within_seconds": 90}), Some(90)),
        ] {
            assert_eq!(serde_json::to_value(unattended).unwrap(), written);
            assert_eq!(serde_json::from_value::<Unattended>(written).unwrap(), unattended);
            assert_eq!(unattended.patience(), patience);
        }
        assert_eq!(Unattended::default(), Unattended::WAIT);
    }
}
