//! Policies of deployments: what happens when scheduled sessions overlap or fail to start, and how times are kept.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

use crate::{
    decode::{Decoded, Node},
    fields::{Decode, Kind, OneOf, Whole, described, names},
    id::DeploymentId,
};

/// Most sessions that a policy can allow at a time.
pub const MAX_CONCURRENT_SESSIONS: i64 = 10_000;
/// Most attempts to start the session of one occurrence, the first included.
pub const MAX_ATTEMPTS: i64 = 10;
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
    /// How often, and when, the session of an occurrence is tried to be started.
    pub retry: Retry,
    /// How long after its time an occurrence still fires that nothing was there to fire.
    pub catch_up_seconds: u32,
    /// Whether occurrences are delayed.
    pub jitter: Jitter,
    /// After how many of its own intervals without a good run it counts as silent.
    pub silent_after_intervals: u32,
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

described! {
    /// How often, and when, the session of an occurrence is tried to be started.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    Retry,
    /// What a body says about that.
    RetryFields {
        /// Attempts, the first included: 1 to [`MAX_ATTEMPTS`]. 1 is no retry.
        max_attempts: u32, needs as Whole(1, MAX_ATTEMPTS);
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
        Self { max_attempts: 1, initial_backoff_seconds: 30, max_backoff_seconds: 600, multiplier: 2 }
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
        /// How often, and when, the session of an occurrence is tried to be started.
        retry: Retry, clears as WholeRetry;
        /// How long an occurrence may be overdue and still fire, in seconds.
        catch_up_seconds: u32, clears as Whole(0, MAX_CATCH_UP_SECONDS);
        /// Whether occurrences are delayed.
        jitter: Jitter, clears as AnyJitter;
        /// After how many of its own intervals without a good run it counts as silent.
        silent_after_intervals: u32, clears as Whole(1, MAX_SILENT_AFTER_INTERVALS);
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
}
