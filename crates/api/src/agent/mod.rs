//! Agents: what runs, with which model, tools and instructions.

mod multiagent;
mod request;
mod tools;

use serde::{Deserialize, Serialize};

use crate::{
    Time,
    decode::{Decoded, Node, Patch},
    fields::{Nothing, SaidNothing, fields, names, tagged, types},
    id::AgentId,
    metadata::Metadata,
    workspace::Geo,
};

pub use multiagent::{
    Advisor, AgentChoice, MAX_ROSTER, Multiagent, MultiagentFields, Predefined, RosterEntry, SessionMultiagent, Switch,
    read_choice,
};
pub use request::{CreateAgent, UpdateAgent, read_model, read_skills};
pub use tools::{
    BuiltInTool, BuiltInToolConfig, CustomTool, MAX_DOMAINS, MAX_MCP_SERVERS, MAX_TOOLS, McpServer, McpToolConfig,
    PermissionPolicy, Tool, ToolDefault, UrlFilter, UrlSource, built_in, check_tool_references, needs_network,
    of_mcp_server, read_mcp_servers, read_tools, waits_for_answers,
};

/// Most characters of an agent's name.
pub const MAX_NAME: usize = 256;
/// Most characters of a description.
pub const MAX_DESCRIPTION: usize = 2048;
/// Most characters of a system prompt.
pub const MAX_SYSTEM: usize = 100_000;
/// The level of effort of a model that nobody gave one. It is also what a model does when it is asked for no level.
pub const DEFAULT_EFFORT: Effort = Effort::High;
/// Most skills of an agent.
pub const MAX_SKILLS: usize = 20;

/// What a version of an agent holds: everything that an update can change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// At most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
    /// The system prompt, at most [`MAX_SYSTEM`] characters.
    pub system: Option<String>,
    /// The model and how it is used.
    pub model: ModelConfig,
    /// The tools on offer.
    pub tools: Vec<Tool>,
    /// MCP servers that the toolsets name.
    pub mcp_servers: Vec<McpServer>,
    /// Skills on offer.
    pub skills: Vec<Skill>,
    /// Other agents that this one may start.
    pub multiagent: Option<Multiagent>,
    /// Who the agent acts as.
    pub execution_identity: ExecutionIdentity,
    /// Free pairs.
    pub metadata: Metadata,
}

/// An agent as the API shows it. Without a configuration it is what the others are put behind.
#[derive(Debug, Serialize)]
pub struct Agent<C = AgentConfig> {
    /// Its id.
    pub id: AgentId,
    /// Always `agent`.
    pub r#type: &'static str,
    /// Counts effective changes, from 1.
    pub version: i64,
    /// When the agent was created.
    pub created_at: Time,
    /// When this version was written.
    pub updated_at: Time,
    /// When the agent was archived.
    pub archived_at: Option<Time>,
    /// The rest.
    #[serde(flatten)]
    pub config: C,
}

impl Agent<()> {
    /// The agent with its configuration.
    pub fn with<C>(self, config: C) -> Agent<C> {
        let Self { id, r#type, version, created_at, updated_at, archived_at, config: () } = self;
        Agent { id, r#type, version, created_at, updated_at, archived_at, config }
    }
}

/// The agent inside a session: the snapshot that the session runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionAgent {
    /// What the session's own thread runs.
    #[serde(flatten)]
    pub primary: ThreadAgent,
    /// The roster, each entry a snapshot itself.
    pub multiagent: Option<SessionMultiagent>,
}

/// The agent of one thread of a session: a snapshot without a roster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadAgent {
    /// The agent's id.
    pub id: AgentId,
    /// Always `agent`.
    pub r#type: AgentTag,
    /// The version that was taken.
    pub version: i64,
    /// The agent's name.
    pub name: String,
    /// The agent's description.
    pub description: Option<String>,
    /// The system prompt.
    pub system: Option<String>,
    /// The model.
    pub model: ModelConfig,
    /// The tools.
    pub tools: Vec<Tool>,
    /// The MCP servers.
    pub mcp_servers: Vec<McpServer>,
    /// The skills.
    pub skills: Vec<Skill>,
    /// Who the agent acts as.
    pub execution_identity: ExecutionIdentity,
}

impl ThreadAgent {
    /// The snapshot of version `version` of agent `id`.
    pub fn new(id: AgentId, version: i64, config: AgentConfig) -> Self {
        let AgentConfig { name, description, system, model, tools, mcp_servers, skills, execution_identity, .. } =
            config;
        Self {
            id,
            r#type: AgentTag::Agent,
            version,
            name,
            description,
            system,
            model,
            tools,
            mcp_servers,
            skills,
            execution_identity,
        }
    }
}

/// The `type` of a reference to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentTag {
    /// The only one.
    Agent,
}

/// One version of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentReference {
    /// The agent.
    pub id: AgentId,
    /// Always `agent`.
    pub r#type: AgentTag,
    /// The version.
    pub version: i64,
}

impl AgentReference {
    /// A reference to version `version` of agent `id`.
    pub fn new(id: AgentId, version: i64) -> Self {
        Self { id, r#type: AgentTag::Agent, version }
    }
}

/// The model of an agent and how it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The name that the server's configuration gives the model.
    pub id: String,
    /// How hard the model works. What is stored always has it; see [`ModelConfig::resolved`].
    pub effort: Option<Effort>,
    /// How fast it answers.
    pub speed: Option<Speed>,
    /// Where inference runs.
    pub inference_geo: Option<Geo>,
}

impl ModelConfig {
    /// The same with the effort that holds where none was named: [`DEFAULT_EFFORT`].
    #[must_use]
    pub fn resolved(self) -> Self {
        Self { effort: self.effort.or(Some(DEFAULT_EFFORT)), ..self }
    }
}

types! {
    /// A level of effort, an object on the wire: `{"type": "high"}`.
    Effort {
        /// The least.
        "low" => Low,
        /// Less than a model does by itself.
        "medium" => Medium,
        /// What a model does by itself.
        "high" => High,
        /// More.
        "xhigh" => Xhigh,
        /// The most.
        "max" => Max,
    }
}

names! {
    /// How fast a model answers.
    Speed {
        /// As it does by itself.
        "standard" => Standard,
        /// Faster, and dearer.
        "fast" => Fast,
    }
}

tagged! {
    /// Who an agent acts as.
    ExecutionIdentity,
    /// What a body says about that.
    IdentityFields {
        /// The workspace's own identity.
        "service_account" => ServiceAccount(Nothing, SaidNothing),
        /// A role at a cloud provider.
        "aws_role" => AwsRole(AwsRole, AwsRoleFields),
    }
}

fields! {
    /// A role at a cloud provider.
    #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    AwsRole,
    /// What a body says about it.
    AwsRoleFields {
        /// The role's name.
        role_arn: String, required = |n| n.text(1, 2048);
    }
}

impl Default for ExecutionIdentity {
    fn default() -> Self {
        Self::ServiceAccount(Nothing {})
    }
}

/// A skill, by id and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skill {
    /// A name of [`Source`](crate::skill::Source).
    pub r#type: String,
    /// The skill.
    pub skill_id: String,
    /// A version, or [`LATEST`](crate::skill::LATEST).
    pub version: String,
}

/// A text of an update that is cleared by null or by an empty text.
pub fn text_patch(patch: Patch<Node<'_>>, most: usize) -> Decoded<Patch<String>> {
    Ok(match patch.read(|node| text_or_none(node, most))? {
        Patch::Keep => Patch::Keep,
        Patch::Clear | Patch::Set(None) => Patch::Clear,
        Patch::Set(Some(text)) => Patch::Set(text),
    })
}

/// A text that may be left out; an empty one is none.
pub fn optional_text(node: Option<Node<'_>>, most: usize) -> Decoded<Option<String>> {
    node.map_or(Ok(None), |node| text_or_none(&node, most))
}

/// A text; an empty one is none.
pub fn text_or_none(node: &Node<'_>, most: usize) -> Decoded<Option<String>> {
    Ok(Some(node.text(0, most)?).filter(|text| !text.is_empty()))
}
