//! Rosters: which other agents an agent may start, and how.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{AgentReference, MAX_NAME, ThreadAgent};
use crate::{
    decode::{Decoded, Invalid, Node, Object, Patch},
    fields::Nothing,
};

/// Most agents in a roster.
pub const MAX_ROSTER: usize = 20;

/// Which agents another may start, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Multiagent<R = AgentReference> {
    /// A roster that the agent coordinates.
    #[serde(rename = "coordinator")]
    Coordinator {
        /// 1 to [`MAX_ROSTER`] entries.
        agents: Vec<RosterEntry<R>>,
    },
    /// Subagents, workflows and an advisor, each on or off.
    #[serde(rename = "multiagent_20261001")]
    Members {
        /// A model that can be consulted.
        advisor: Switch<Advisor>,
        /// Session threads.
        subagents: Switch<Predefined<R>>,
        /// Workflow runs.
        workflows: Switch<Predefined<R>>,
    },
}

/// The roster of a session, each entry a snapshot.
pub type SessionMultiagent = Multiagent<ThreadAgent>;

/// An entry of a coordinator's roster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RosterEntry<R> {
    /// An agent.
    Agent(R),
    /// A model that gives advice.
    Advisor {
        /// Always `advisor`.
        r#type: String,
        /// The model.
        model: String,
    },
}

/// A member of [`Multiagent::Members`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Switch<T> {
    /// On, with its settings.
    Enabled(T),
    /// Off.
    Disabled {},
}

/// The advisor of [`Multiagent::Members`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advisor {
    /// The model.
    pub model: String,
}

/// Which agents may be started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predefined<R> {
    /// Whether the agent may define others itself.
    pub inline_agents: Switch<Nothing>,
    /// Saved agents.
    pub predefined_agents: Vec<R>,
}

impl<R: Clone> Multiagent<R> {
    /// The same roster with every agent replaced.
    pub fn try_map<S, E>(&self, mut f: impl FnMut(&R) -> Result<S, E>) -> Result<Multiagent<S>, E> {
        Ok(match self {
            Self::Coordinator { agents } => Multiagent::Coordinator {
                agents: agents
                    .iter()
                    .map(|entry| match entry {
                        RosterEntry::Agent(agent) => f(agent).map(RosterEntry::Agent),
                        RosterEntry::Advisor { r#type, model } => {
                            Ok(RosterEntry::Advisor { r#type: r#type.clone(), model: model.clone() })
                        }
                    })
                    .collect::<Result<_, E>>()?,
            },
            Self::Members { advisor, subagents, workflows } => Multiagent::Members {
                advisor: advisor.clone(),
                subagents: map_predefined(subagents, &mut f)?,
                workflows: map_predefined(workflows, &mut f)?,
            },
        })
    }

    /// Every agent named, in order.
    pub fn agents(&self) -> Vec<&R> {
        match self {
            Self::Coordinator { agents } => agents
                .iter()
                .filter_map(|entry| match entry {
                    RosterEntry::Agent(agent) => Some(agent),
                    RosterEntry::Advisor { .. } => None,
                })
                .collect(),
            Self::Members { subagents, workflows, .. } => [subagents, workflows]
                .into_iter()
                .filter_map(|switch| match switch {
                    Switch::Enabled(predefined) => Some(&predefined.predefined_agents),
                    Switch::Disabled {} => None,
                })
                .flatten()
                .collect(),
        }
    }
}

fn map_predefined<R, S, E>(
    switch: &Switch<Predefined<R>>,
    f: &mut impl FnMut(&R) -> Result<S, E>,
) -> Result<Switch<Predefined<S>>, E> {
    Ok(match switch {
        Switch::Enabled(Predefined { inline_agents, predefined_agents }) => Switch::Enabled(Predefined {
            inline_agents: inline_agents.clone(),
            predefined_agents: predefined_agents.iter().map(f).collect::<Result<_, E>>()?,
        }),
        Switch::Disabled {} => Switch::Disabled {},
    })
}

/// How a request names an agent of a roster, before it is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentChoice {
    /// The latest version of an agent.
    Latest(String),
    /// One version of an agent.
    Pinned(String, i64),
    /// The agent that carries the roster.
    Itself,
}

/// What a body says about a roster. What it leaves out of members is kept, where an update has something to keep.
#[derive(Debug, Clone, PartialEq)]
pub enum MultiagentFields {
    /// A roster that the agent coordinates.
    Coordinator {
        /// 1 to [`MAX_ROSTER`] entries.
        agents: Vec<RosterEntry<AgentChoice>>,
    },
    /// Subagents, workflows and an advisor.
    Members {
        /// Null turns it off.
        advisor: Patch<Switch<Advisor>>,
        /// Null is the default.
        subagents: Patch<Switch<PredefinedFields>>,
        /// Null is the default.
        workflows: Patch<Switch<PredefinedFields>>,
    },
}

/// What a body says about a member of [`MultiagentFields::Members`] that is on.
#[derive(Debug, Clone, PartialEq)]
pub struct PredefinedFields {
    inline_agents: Patch<Switch<Nothing>>,
    predefined_agents: Patch<Vec<AgentChoice>>,
}

impl MultiagentFields {
    pub(super) fn read(node: &Node<'_>) -> Decoded<Self> {
        let tag = node.tag()?;
        let kind = if tag == "coordinator" { node.of_kind("coordinator") } else { node.clone() };
        kind.object(|o| {
            o.tagged();
            match tag {
                "coordinator" => {
                    let agents = o.required("agents")?;
                    let entries = agents.items(1, MAX_ROSTER, read_entry)?;
                    check_itself(node, &entries)?;
                    Ok(Self::Coordinator { agents: entries })
                }
                "multiagent_20261001" => Ok(Self::Members {
                    advisor: o.patch("advisor").read(read_advisor)?,
                    subagents: o.patch("subagents").read(read_predefined)?,
                    workflows: o.patch("workflows").read(read_predefined)?,
                }),
                other => Err(node.wrong_tag(other)),
            }
        })
    }

    /// The roster that `stored` becomes.
    ///
    /// # Errors
    /// When a member that is on would have nobody to start.
    pub fn over(&self, stored: Option<&Multiagent>) -> Decoded<Multiagent<AgentChoice>> {
        match self {
            Self::Coordinator { agents } => Ok(Multiagent::Coordinator { agents: agents.clone() }),
            Self::Members { advisor, subagents, workflows } => {
                let (kept_advisor, kept_subagents, kept_workflows) = match stored {
                    Some(Multiagent::Members { advisor, subagents, workflows }) => {
                        (advisor.clone(), pinned(subagents), pinned(workflows))
                    }
                    _ => (
                        Switch::Disabled {},
                        Switch::Enabled(Predefined::default()),
                        Switch::Enabled(Predefined::default()),
                    ),
                };
                Ok(Multiagent::Members {
                    advisor: advisor.clone().over_or(kept_advisor, Switch::Disabled {}),
                    subagents: members_over("subagents", subagents, kept_subagents)?,
                    workflows: members_over("workflows", workflows, kept_workflows)?,
                })
            }
        }
    }
}

/// On, with inline agents and no others.
impl<R> Default for Predefined<R> {
    fn default() -> Self {
        Self { inline_agents: Switch::Enabled(Nothing {}), predefined_agents: Vec::new() }
    }
}

fn members_over(
    name: &str,
    sent: &Patch<Switch<PredefinedFields>>,
    kept: Switch<Predefined<AgentChoice>>,
) -> Decoded<Switch<Predefined<AgentChoice>>> {
    let PredefinedFields { inline_agents, predefined_agents } = match sent {
        Patch::Keep => return Ok(kept),
        Patch::Clear => return Ok(Switch::Enabled(Predefined::default())),
        Patch::Set(Switch::Disabled {}) => return Ok(Switch::Disabled {}),
        Patch::Set(Switch::Enabled(fields)) => fields.clone(),
    };
    let base = match kept {
        Switch::Enabled(predefined) => predefined,
        Switch::Disabled {} => Predefined::default(),
    };
    let inline_agents = inline_agents.over_or(base.inline_agents, Switch::Enabled(Nothing {}));
    let predefined_agents = predefined_agents.over_or(base.predefined_agents, Vec::new());
    if predefined_agents.is_empty() && inline_agents == (Switch::Disabled {}) {
        return Err(Invalid::field(
            &format!("multiagent.{name}.predefined_agents"),
            "must name at least one agent when inline_agents is disabled",
        ));
    }
    Ok(Switch::Enabled(Predefined { inline_agents, predefined_agents }))
}

fn pinned(stored: &Switch<Predefined<AgentReference>>) -> Switch<Predefined<AgentChoice>> {
    let pin = |r: &AgentReference| Ok::<_, ()>(AgentChoice::Pinned(r.id.to_string(), r.version));
    map_predefined(stored, &mut { pin }).expect("pinning cannot fail")
}

/// An agent names itself once at most. `node` is the roster.
fn check_itself(node: &Node<'_>, entries: &[RosterEntry<AgentChoice>]) -> Decoded<()> {
    let itself = |entry: &&RosterEntry<AgentChoice>| matches!(entry, RosterEntry::Agent(AgentChoice::Itself));
    let mut places = entries.iter().enumerate().filter(|(_, entry)| itself(entry)).map(|(i, _)| i);
    match places.nth(1) {
        Some(i) => Err(node.invalid_at(&format!("agents.{i}"), "at most one {\"type\":\"self\"} entry is allowed")),
        None => Ok(()),
    }
}

fn read_entry(node: &Node<'_>) -> Decoded<RosterEntry<AgentChoice>> {
    if !node.value().is_object() && !node.value().is_string() {
        return Err(node.unreadable(format_args!("must be a string or an object (got {})", kind_of(node.value()))));
    }
    if node.value().is_object() && node.tag()? == "advisor" {
        let model = node.object(|o| {
            o.tagged();
            o.required("model")?.text(1, MAX_NAME)
        })?;
        return Ok(RosterEntry::Advisor { r#type: "advisor".to_owned(), model });
    }
    read_choice(node, true).map(RosterEntry::Agent)
}

fn read_advisor(node: &Node<'_>) -> Decoded<Switch<Advisor>> {
    read_switch(node, |o| Ok(Advisor { model: o.required("model")?.text(1, MAX_NAME)? }))
}

fn read_predefined(node: &Node<'_>) -> Decoded<Switch<PredefinedFields>> {
    read_switch(node, |o| {
        Ok(PredefinedFields {
            inline_agents: o.patch("inline_agents").read(|n| read_switch(n, |_| Ok(Nothing {})))?,
            predefined_agents: o
                .patch("predefined_agents")
                .read(|n| n.items(0, MAX_ROSTER, |n| read_choice(n, true)))?,
        })
    })
}

/// A member that is on, with the settings that `read` reads, or off.
fn read_switch<T>(node: &Node<'_>, read: impl FnOnce(&mut Object<'_>) -> Decoded<T>) -> Decoded<Switch<T>> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match Switch::<IgnoredAny>::deserialize(node.value()) {
            Ok(Switch::Enabled(_)) => read(o).map(Switch::Enabled),
            Ok(Switch::Disabled {}) => Ok(Switch::Disabled {}),
            Err(_) => Err(node.wrong_tag(tag)),
        }
    })
}

/// What kind of JSON a value is.
fn kind_of(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// An agent by id, by id and version, or, where `itself` is allowed, as `{"type": "self"}`.
pub fn read_choice(node: &Node<'_>, itself: bool) -> Decoded<AgentChoice> {
    if node.value().is_string() {
        return Ok(AgentChoice::Latest(node.text(1, 128)?));
    }
    match node.tag()? {
        "agent" => node.object(|o| {
            o.tagged();
            let id = o.required("id")?.text(1, 128)?;
            let version = o.optional("version").map(|n| n.integer(1, i64::MAX)).transpose()?;
            Ok(version.map_or_else(|| AgentChoice::Latest(id.clone()), |v| AgentChoice::Pinned(id.clone(), v)))
        }),
        "self" if itself => node.object(|o| {
            o.tagged();
            Ok(AgentChoice::Itself)
        }),
        other => Err(node.wrong_tag(other)),
    }
}
