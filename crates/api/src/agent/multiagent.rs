//! Rosters: which other agents an agent may start, and how.

use serde::{Deserialize, Serialize};

use super::{AgentReference, MAX_NAME, ThreadAgent};
use crate::decode::{Decoded, Node, Patch};

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

/// A switch without settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

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

pub(super) fn read_multiagent(node: &Node<'_>, stored: Option<&Multiagent>) -> Decoded<Multiagent<AgentChoice>> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "coordinator" => {
                let agents = o.required("agents")?.items(1, MAX_ROSTER, |n| {
                    if n.value().is_object() && n.tag()? == "advisor" {
                        let model = n.object(|o| {
                            o.tagged();
                            o.required("model")?.text(1, MAX_NAME)
                        })?;
                        return Ok(RosterEntry::Advisor { r#type: "advisor".to_owned(), model });
                    }
                    read_choice(n, true).map(RosterEntry::Agent)
                })?;
                Ok(Multiagent::Coordinator { agents })
            }
            "multiagent_20261001" => {
                let kept = match stored {
                    Some(Multiagent::Members { advisor, subagents, workflows }) => {
                        Some((advisor, pinned(subagents), pinned(workflows)))
                    }
                    _ => None,
                };
                let advisor = match (o.patch("advisor"), &kept) {
                    (Patch::Set(n), _) => read_advisor(&n)?,
                    (Patch::Keep, Some((advisor, ..))) => (*advisor).clone(),
                    _ => Switch::Disabled {},
                };
                let subagents = read_predefined(o.patch("subagents"), kept.as_ref().map(|k| &k.1))?;
                let workflows = read_predefined(o.patch("workflows"), kept.as_ref().map(|k| &k.2))?;
                Ok(Multiagent::Members { advisor, subagents, workflows })
            }
            other => Err(node.wrong_tag(other)),
        }
    })
}

fn pinned(stored: &Switch<Predefined<AgentReference>>) -> Switch<Predefined<AgentChoice>> {
    let pin = |r: &AgentReference| Ok::<_, ()>(AgentChoice::Pinned(r.id.to_string(), r.version));
    map_predefined(stored, &mut { pin }).expect("pinning cannot fail")
}

fn read_advisor(node: &Node<'_>) -> Decoded<Switch<Advisor>> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "enabled" => Ok(Switch::Enabled(Advisor { model: o.required("model")?.text(1, MAX_NAME)? })),
            "disabled" => Ok(Switch::Disabled {}),
            other => Err(node.wrong_tag(other)),
        }
    })
}

/// A member that is absent keeps what is stored; what is stored nowhere is enabled, with inline agents and no others.
fn read_predefined(
    patch: Patch<Node<'_>>,
    stored: Option<&Switch<Predefined<AgentChoice>>>,
) -> Decoded<Switch<Predefined<AgentChoice>>> {
    let default = || Predefined { inline_agents: Switch::Enabled(Nothing {}), predefined_agents: Vec::new() };
    let node = match patch {
        Patch::Keep => return Ok(stored.cloned().unwrap_or_else(|| Switch::Enabled(default()))),
        Patch::Clear => return Ok(Switch::Enabled(default())),
        Patch::Set(node) => node,
    };
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "disabled" => Ok(Switch::Disabled {}),
            "enabled" => {
                let base = match stored {
                    Some(Switch::Enabled(predefined)) => predefined.clone(),
                    _ => default(),
                };
                let inline_agents = match o.patch("inline_agents") {
                    Patch::Keep => base.inline_agents,
                    Patch::Clear => Switch::Enabled(Nothing {}),
                    Patch::Set(n) => read_switch(&n)?,
                };
                let predefined_agents = match o.patch("predefined_agents") {
                    Patch::Keep => base.predefined_agents,
                    Patch::Clear => Vec::new(),
                    Patch::Set(n) => n.items(0, MAX_ROSTER, |n| read_choice(n, true))?,
                };
                if predefined_agents.is_empty() && inline_agents == (Switch::Disabled {}) {
                    return Err(
                        o.invalid("predefined_agents", "must name at least one agent when inline_agents is disabled")
                    );
                }
                Ok(Switch::Enabled(Predefined { inline_agents, predefined_agents }))
            }
            other => Err(node.wrong_tag(other)),
        }
    })
}

fn read_switch(node: &Node<'_>) -> Decoded<Switch<Nothing>> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "enabled" => Ok(Switch::Enabled(Nothing {})),
            "disabled" => Ok(Switch::Disabled {}),
            other => Err(node.wrong_tag(other)),
        }
    })
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
