//! Dreams: jobs that read a memory store and past sessions, and write what they make of them into a memory store.

use serde::Serialize;

use crate::{
    Time,
    agent::Speed,
    decode::{Decoded, Dialect, Node, Object},
    fields::{Decode, names},
    id::{DreamId, MemoryStoreId, SessionId},
};

/// Most sessions that a dream reads.
pub const MAX_SESSIONS: usize = 100;
/// Most characters of the instructions.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Most characters of the id of a model.
pub const MAX_MODEL: usize = 256;

names! {
    /// Where a dream is in its life. The last three are final.
    DreamStatus {
        /// It waits.
        "pending" => Pending,
        /// It reads and writes.
        "running" => Running,
        /// Its memory store is whole.
        "completed" => Completed,
        /// It cannot go on.
        "failed" => Failed,
        /// It was stopped.
        "canceled" => Canceled,
    }
}

impl DreamStatus {
    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// A dream as the API shows it.
#[derive(Debug, Serialize)]
pub struct Dream {
    /// Its id.
    pub id: DreamId,
    /// Always `dream`.
    pub r#type: &'static str,
    /// Where it is in its life.
    pub status: DreamStatus,
    /// The model that it works with.
    pub model: DreamModel,
    /// What it reads: a memory store, then sessions.
    pub inputs: (MemoryStoreRef, SessionsInput),
    /// What the caller wants of it.
    pub instructions: Option<String>,
    /// Where it writes.
    pub output_behavior: OutputBehavior,
    /// The memory store that it writes to, once there is one.
    pub outputs: Vec<MemoryStoreRef>,
    /// Always null: it is a job of its own and no session.
    pub session_id: Option<SessionId>,
    /// Why it failed.
    pub error: Option<DreamError>,
    /// The tokens that it has used.
    pub usage: DreamUsage,
    /// When it was created.
    pub created_at: Time,
    /// When it came to its end.
    pub ended_at: Option<Time>,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// The model of a dream.
#[derive(Debug, Clone, Serialize)]
pub struct DreamModel {
    /// Its id.
    pub id: String,
    /// Always `standard`.
    pub speed: Speed,
}

/// A memory store that a dream reads or writes.
#[derive(Debug, Serialize)]
pub struct MemoryStoreRef {
    /// Always `memory_store`.
    pub r#type: &'static str,
    /// The store.
    pub memory_store_id: MemoryStoreId,
}

impl MemoryStoreRef {
    /// The store `id`.
    pub fn new(id: MemoryStoreId) -> Self {
        Self { r#type: "memory_store", memory_store_id: id }
    }
}

/// The sessions that a dream reads.
#[derive(Debug, Serialize)]
pub struct SessionsInput {
    /// Always `sessions`.
    pub r#type: &'static str,
    /// Their ids, sorted.
    pub session_ids: Vec<SessionId>,
}

/// Where a dream writes.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputBehavior {
    /// Into a new store, which begins as a copy of the one that it reads.
    CreateNew,
    /// Into the store that it reads.
    UpdateExisting {
        /// That store.
        memory_store_id: MemoryStoreId,
    },
}

/// Why a dream failed.
#[derive(Debug, Clone, Serialize)]
pub struct DreamError {
    /// A name for programs, such as `timeout`.
    pub r#type: String,
    /// What happened, and what to do.
    pub message: String,
}

/// The tokens that a dream has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DreamUsage {
    /// Tokens read, without those of the cache.
    pub input_tokens: i64,
    /// Tokens written.
    pub output_tokens: i64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: i64,
    /// Tokens written to the prompt cache.
    pub cache_creation_input_tokens: i64,
}

/// A request that creates a dream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDream {
    /// The memory store that it reads.
    pub store: String,
    /// The sessions that it reads: sorted, each once, at least one.
    pub sessions: Vec<String>,
    /// The id of its model.
    pub model: String,
    /// What the caller wants of it.
    pub instructions: Option<String>,
    /// Whether it writes into the store that it reads.
    pub updates: bool,
}

/// One of the things that a dream reads.
enum Input {
    Store(String),
    Sessions(Vec<String>),
}

impl CreateDream {
    /// Reads the body.
    ///
    /// # Errors
    /// When it breaks a rule of the API; the message names the field.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Agents);
        let inputs = o.required("inputs")?;
        let (mut store, mut sessions) = (None, None);
        for node in inputs.list(0, usize::MAX)? {
            let again = match read_input(&node)? {
                Input::Store(id) => store.replace(id).is_some(),
                Input::Sessions(ids) => sessions.replace(ids).is_some(),
            };
            if again {
                break;
            }
        }
        let count = inputs.value().as_array().map_or(0, Vec::len);
        let (Some(store), Some(sessions), 2) = (store, sessions, count) else {
            return Err(inputs.invalid("must contain exactly one memory_store entry and exactly one sessions entry"));
        };
        let model = read_model(&o.required("model")?)?;
        let instructions = o.kept("instructions", |n| n.text(1, MAX_INSTRUCTIONS))?;
        let written = o.needed("output_behavior", read_behavior)?.flatten();
        if written.as_ref().is_some_and(|written| *written != store) {
            let message = "must be the memory store of inputs";
            return Err(o.invalid("output_behavior.memory_store_id", message));
        }
        Ok(Self { store, sessions, model, instructions, updates: written.is_some() })
    }
}

fn read_input(node: &Node<'_>) -> Decoded<Input> {
    let tag = node.tag_of(&["memory_store", "sessions"])?;
    node.object(|o| {
        o.tagged();
        if tag == "memory_store" {
            return Ok(Input::Store(o.required("memory_store_id")?.text(1, MAX_MODEL)?));
        }
        let ids = o.required("session_ids")?;
        let mut sessions = ids.items(1, MAX_SESSIONS, |n| n.text(1, MAX_MODEL))?;
        sessions.sort();
        let count = sessions.len();
        sessions.dedup();
        if sessions.len() < count {
            return Err(ids.invalid("must not contain duplicates"));
        }
        Ok(Input::Sessions(sessions))
    })
}

/// The id of the model, which may stand alone.
fn read_model(node: &Node<'_>) -> Decoded<String> {
    if node.value().is_string() {
        return node.text(1, MAX_MODEL);
    }
    node.object(|o| {
        let id = o.required("id")?.text(1, MAX_MODEL)?;
        let speed = o.kept("speed", Speed::decode)?;
        if speed.is_some_and(|speed| speed != Speed::Standard) {
            return Err(o.invalid("speed", "dreams accept only \"standard\""));
        }
        Ok(id)
    })
}

/// The store to write into, where it is the one that is read.
fn read_behavior(node: &Node<'_>) -> Decoded<Option<String>> {
    let tag = node.tag_of(&["create_new", "update_existing"])?;
    node.object(|o| {
        o.tagged();
        if tag == "create_new" {
            return Ok(None);
        }
        o.required("memory_store_id")?.text(1, MAX_MODEL).map(Some)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::body;

    fn read(changes: &Value) -> Result<CreateDream, String> {
        let store = json!({"type": "memory_store", "memory_store_id": "m"});
        let sessions = json!({"type": "sessions", "session_ids": ["b", "a"]});
        let mut whole = json!({"inputs": [sessions, store], "model": "playbook"});
        whole.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        body(&whole, CreateDream::read).map_err(|error| error.to_string())
    }

    #[test]
    fn a_dream_reads_one_store_and_sessions_and_writes_a_new_store_unless_it_says_otherwise() {
        let plain = read(&json!({})).unwrap();
        assert_eq!((&*plain.store, plain.sessions.as_slice()), ("m", &["a".to_owned(), "b".to_owned()][..]));
        assert!(!plain.updates);
        let behavior = json!({"type": "update_existing", "memory_store_id": "m"});
        let updates = read(&json!({"output_behavior": behavior, "model": {"id": "x", "speed": "standard"}})).unwrap();
        assert!(updates.updates && updates.model == "x");
        assert!(!read(&json!({"output_behavior": {"type": "create_new"}})).unwrap().updates);
    }

    #[test]
    fn what_breaks_a_rule_is_refused_and_named() {
        let store = json!({"type": "memory_store", "memory_store_id": "m"});
        let sessions = |count: usize| {
            let ids: Vec<String> = (0..count).map(|i| format!("sesn_{i:03}")).collect();
            json!({"type": "sessions", "session_ids": ids})
        };
        assert!(read(&json!({"inputs": [store, sessions(100)]})).is_ok());
        assert!(read(&json!({"instructions": "x".repeat(4096)})).is_ok());
        let twice = json!({"type": "sessions", "session_ids": ["a", "a"]});
        for (changes, part) in [
            (json!({"inputs": [store]}), "inputs: must contain exactly one memory_store entry"),
            (json!({"inputs": [store, store]}), "inputs: must contain exactly one"),
            (json!({"inputs": [store, sessions(1), sessions(1)]}), "inputs: must contain exactly one"),
            (json!({"inputs": [store, sessions(0)]}), "session_ids"),
            (json!({"inputs": [store, sessions(101)]}), "session_ids"),
            (json!({"inputs": [store, twice]}), "must not contain duplicates"),
            (json!({"model": {"id": "x", "speed": "fast"}}), "dreams accept only"),
            (json!({"model": "x".repeat(257)}), "model"),
            (json!({"instructions": ""}), "instructions"),
            (json!({"instructions": "x".repeat(4097)}), "instructions"),
            (
                json!({"output_behavior": {"type": "update_existing", "memory_store_id": "other"}}),
                "output_behavior.memory_store_id: must be the memory store of inputs",
            ),
            (json!({"output_behavior": null}), "output_behavior"),
            (json!({"colour": "red"}), "colour"),
        ] {
            let message = read(&changes).unwrap_err();
            assert!(message.contains(part), "{changes}: {message}");
        }
    }
}
