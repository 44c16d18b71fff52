//! Starting a deployment otherwise: with inputs, at a time, for occurrences that were passed over, and again. It is Rota's own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Time, content,
    decode::{Decoded, Node, Object},
    deployment::DeploymentRun,
    fields::{Kind, described, names},
    id::{DeploymentId, HookId, RunId, StartId},
    listed_run::RunTrigger,
    occurrence::OccurrenceReason,
};

/// Most inputs of a start.
pub const MAX_INPUTS: usize = 100;
/// Most characters of the name of an input.
pub const MAX_INPUT_NAME: usize = 64;
/// Most characters of an input.
pub const MAX_INPUT: usize = 100_000;

/// Texts by the names that stand in the first events, each as `{{name}}`.
pub type Inputs = BTreeMap<String, String>;

described! {
    /// How a deployment is to be started.
    #[derive(Debug, Clone, Default, PartialEq)]
    StartRun,
    /// A request to start it.
    SentStartRun {
        /// What fills `{{name}}` in the first events. Without it they are sent as they are.
        inputs: Inputs, clears as NamedTexts;
        /// Content blocks that follow those of the first message.
        content: Vec<Value>, clears as Blocks;
        /// When, if not now.
        at: Time, clears as AnyTime;
    }
}

impl StartRun {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        SentStartRun::read(o)?.merged(&Self::default())
    }
}

described! {
    /// Which occurrences are to be made up for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Range,
    /// A request to make up for occurrences that were passed over.
    Backfill {
        /// From when on, inclusive.
        from: Time, required as AnyTime;
        /// Until when, exclusive.
        to: Time, required as AnyTime;
    }
}

/// Whether a text can be the name of an input: letters, digits and underscores, and no digit first.
pub fn is_input_name(name: &str) -> bool {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=MAX_INPUT_NAME).contains(&name.len())
        && name.chars().all(is_of_a_name)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

struct NamedTexts;

impl Kind<Inputs> for NamedTexts {
    fn read(&self, node: &Node<'_>) -> Decoded<Inputs> {
        let mut inputs = Inputs::new();
        for (name, text) in node.entries()? {
            if !is_input_name(name) {
                return Err(text.invalid(format_args!(
                    "the name of an input has 1 to {MAX_INPUT_NAME} letters, digits and underscores, and begins with no digit"
                )));
            }
            inputs.insert(name.clone(), text.text(0, MAX_INPUT)?);
        }
        if inputs.len() > MAX_INPUTS {
            return Err(node.invalid(format_args!("value must contain no more than {MAX_INPUTS} item(s)")));
        }
        Ok(inputs)
    }

    fn schema(&self) -> Value {
        let text = json!({"type": "string", "maxLength": MAX_INPUT});
        json!({"type": "object", "additionalProperties": text, "maxProperties": MAX_INPUTS})
    }
}

struct Blocks;

impl Kind<Vec<Value>> for Blocks {
    fn read(&self, node: &Node<'_>) -> Decoded<Vec<Value>> {
        content::message_blocks(node)
    }

    fn schema(&self) -> Value {
        let block = json!({"type": "object", "required": ["type"]});
        json!({"type": "array", "items": block, "minItems": 1, "maxItems": content::MAX_BLOCKS})
    }
}

struct AnyTime;

impl Kind<Time> for AnyTime {
    fn read(&self, node: &Node<'_>) -> Decoded<Time> {
        node.string()?.parse().map_err(|_| node.invalid("Input should be a valid RFC 3339 time"))
    }

    fn schema(&self) -> Value {
        json!({"type": "string", "format": "date-time"})
    }
}

/// How a run was started, which the run itself does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RunStart {
    /// What started it.
    pub trigger: RunTrigger,
    /// What filled the first events; null where nothing did.
    pub inputs: Option<Inputs>,
    /// The planned start that it came of.
    pub start_id: Option<StartId>,
    /// The hook that it came of.
    pub hook_id: Option<HookId>,
    /// The failed run that it does again.
    pub rerun_of: Option<RunId>,
    /// The run that does it again.
    pub rerun_by: Option<RunId>,
}

/// A run that was just started, and how.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StartedRun {
    /// The run.
    #[serde(flatten)]
    #[schemars(skip)]
    pub run: DeploymentRun,
    /// How it was started.
    pub start: RunStart,
}

/// What a request to start a deployment leads to.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Started {
    /// A run, now.
    Run(Box<StartedRun>),
    /// A run later.
    Planned(Box<PlannedStart>),
}

/// A start that comes later, or has come.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PlannedStart {
    /// Its id.
    pub id: StartId,
    /// Always `planned_start`.
    pub r#type: &'static str,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// `at`, `hook` or `backfill`.
    pub trigger: RunTrigger,
    /// The time that it is for: of a hook that waits, when it was called; of a backfill, the occurrence.
    pub at: Time,
    /// The occurrence that is made up for.
    pub scheduled_at: Option<Time>,
    /// What became of it.
    pub state: StartState,
    /// Why it waits although its time has come, or why it never ran.
    pub reason: Option<OccurrenceReason>,
    /// What fills the first events.
    pub inputs: Option<Inputs>,
    /// The hook that it comes of.
    pub hook_id: Option<HookId>,
    /// Its run.
    pub run_id: Option<RunId>,
    /// When it was planned.
    pub created_at: Time,
    /// When it was decided on.
    pub ended_at: Option<Time>,
}

names! {
    /// What became of a planned start.
    #[derive(JsonSchema)]
    StartState {
        /// Its time has not come, or it waits.
        "planned" => Planned,
        /// It has a run, which created a session.
        "ran" => Ran,
        /// It has a run, and that has an error.
        "failed" => Failed,
        /// It has no run, for the reason that is given.
        "skipped" => Skipped,
        /// It has no run, for no server was there in time.
        "missed" => Missed,
        /// Somebody cancelled it.
        "cancelled" => Cancelled,
    }
}

/// What a request to make up for occurrences leads to: a planned start of each.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PlannedBackfill {
    /// Always `planned_backfill`.
    pub r#type: &'static str,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// How many occurrences of the range were passed over and are run now, one after the other.
    pub planned: usize,
    /// The first of them.
    pub first_at: Option<Time>,
    /// The last of them.
    pub last_at: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    #[test]
    fn a_start_is_read_strictly() {
        let read = |body: Value| decode::body(&body, StartRun::read).map_err(|error| error.to_string());
        assert_eq!(read(json!({})), Ok(StartRun::default()));
        assert_eq!(read(json!({"inputs": null, "content": null, "at": null})), Ok(StartRun::default()));
        assert_eq!(read(json!({"inputs": {}})).unwrap().inputs, Some(Inputs::new()));
        let name = "the name of an input has 1 to 64 letters, digits and underscores, and begins with no digit";
        let many: serde_json::Map<_, _> = (0..=MAX_INPUTS).map(|i| (format!("a{i}"), json!("b"))).collect();
        for (body, message) in [
            (json!({"inputs": []}), "inputs: Input should be an object".to_owned()),
            (json!({"inputs": {"a": 1}}), "inputs.a: Input should be a valid string".to_owned()),
            (json!({"inputs": {"1a": ""}}), format!("inputs.1a: {name}")),
            (json!({"inputs": {"a b": ""}}), format!("inputs.a b: {name}")),
            (json!({"inputs": {"": ""}}), format!("inputs.\"\": {name}")),
            (
                json!({"inputs": {"a": "x".repeat(MAX_INPUT + 1)}}),
                format!("inputs.a: String should have at most {MAX_INPUT} characters"),
            ),
            (json!({"inputs": {"a": "\0"}}), "inputs.a: value must not contain the character U+0000".to_owned()),
            (json!({ "inputs": many }), "inputs: value must contain no more than 100 item(s)".to_owned()),
            (json!({"content": []}), "content: value must contain at least 1 item".to_owned()),
            (
                json!({"content": [{"type": "search_result"}]}),
                "content[0].type: \"search_result\" is not a valid value".to_owned(),
            ),
            (
                json!({"content": [{"type": "text", "text": " "}]}),
                "content[0].text: text content blocks must contain non-whitespace text".to_owned(),
            ),
            (json!({"at": "tomorrow"}), "at: Input should be a valid RFC 3339 time".to_owned()),
            (json!({"when": 1}), "when: Extra inputs are not permitted".to_owned()),
        ] {
            assert_eq!(read(body).unwrap_err(), message);
        }
    }
}
