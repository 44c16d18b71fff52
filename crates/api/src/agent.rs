//! Agents: what runs, with which model, tools and instructions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Time,
    decode::{Decoded, Invalid, Node, Object, Patch},
    id::AgentId,
    metadata::{self, Metadata},
};

/// Most characters of an agent's name.
pub const MAX_NAME: usize = 256;
/// Most characters of a description.
pub const MAX_DESCRIPTION: usize = 2048;
/// Most characters of a system prompt.
pub const MAX_SYSTEM: usize = 100_000;
/// Most tools of an agent, over all its toolsets.
pub const MAX_TOOLS: usize = 256;
/// Most MCP servers of an agent.
pub const MAX_MCP_SERVERS: usize = 20;
/// Most skills of an agent.
pub const MAX_SKILLS: usize = 20;
/// Most agents in a roster.
pub const MAX_ROSTER: usize = 20;
/// Most domains in a list of a web tool.
pub const MAX_DOMAINS: usize = 64;

/// The built-in tools, in the order in which a model is offered them.
pub const BUILT_IN_TOOLS: [&str; 8] = ["bash", "read", "write", "edit", "glob", "grep", "web_fetch", "web_search"];

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

/// An agent as the API shows it.
#[derive(Debug, Serialize)]
pub struct Agent {
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
    pub config: AgentConfig,
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
    /// How hard the model works, where the agent says so.
    pub effort: Option<Effort>,
    /// `standard` or `fast`.
    pub speed: Option<String>,
    /// Where inference runs.
    pub inference_geo: Option<String>,
}

/// A level of effort, an object on the wire: `{"type": "high"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// `low`, `medium`, `high`, `xhigh` or `max`.
    #[serde(rename = "type")]
    pub level: String,
}

const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

/// Who an agent acts as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecutionIdentity {
    /// The workspace's own identity.
    ServiceAccount,
    /// A role at a cloud provider.
    AwsRole {
        /// The role's name.
        role_arn: String,
    },
}

/// A tool or a set of tools.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Tool {
    /// The built-in tools.
    #[serde(rename = "agent_toolset_20260401")]
    BuiltIn {
        /// What differs for single tools.
        configs: Vec<BuiltInToolConfig>,
        /// What holds for the others.
        default_config: ToolDefault,
    },
    /// The tools of an MCP server.
    #[serde(rename = "mcp_toolset")]
    Mcp {
        /// The server, one of the agent's `mcp_servers`.
        mcp_server_name: String,
        /// What differs for single tools.
        configs: Vec<McpToolConfig>,
        /// What holds for the others.
        default_config: ToolDefault,
    },
    /// A tool that the client runs.
    #[serde(rename = "custom")]
    Custom(CustomTool),
}

/// A tool that the client runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomTool {
    /// 1 to 128 letters, digits, `_` and `-`.
    pub name: String,
    /// For the model to read.
    pub description: String,
    /// JSON schema of the arguments.
    pub input_schema: Value,
}

/// Whether tools are offered and whether a call waits for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDefault {
    /// Whether the tools are offered.
    pub enabled: bool,
    /// Whether a call waits for a person.
    pub permission_policy: PermissionPolicy,
}

/// Whether a call of a tool waits for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PermissionPolicy {
    /// Every call runs at once.
    AlwaysAllow,
    /// Every call waits for a confirmation.
    AlwaysAsk,
    /// The server judges each call.
    Auto,
}

/// What differs for one built-in tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuiltInToolConfig {
    /// The tool.
    pub name: String,
    /// The tool again.
    pub r#type: String,
    /// Whether it is offered.
    pub enabled: bool,
    /// Whether a call waits for a person.
    pub permission_policy: PermissionPolicy,
    /// Web tools: the only hosts that may be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_domains: Option<Vec<String>>,
    /// Web tools: hosts that are never asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_domains: Option<Vec<String>>,
    /// `web_fetch`: most tokens of text per call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_content_tokens: Option<i64>,
    /// `web_fetch`: where URLs may come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_sources: Option<Value>,
    /// `web_search`: where the user is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_location: Option<Value>,
}

/// What differs for one tool of an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpToolConfig {
    /// The tool.
    pub name: String,
    /// Whether it is offered.
    pub enabled: bool,
    /// Whether a call waits for a person.
    pub permission_policy: PermissionPolicy,
}

/// An MCP server that is reached by URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpServer {
    /// The name that toolsets refer to.
    pub name: String,
    /// Always `url`.
    pub r#type: String,
    /// Where it is.
    pub url: String,
}

/// A skill, by id and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skill {
    /// `anthropic` or `custom`.
    pub r#type: String,
    /// The skill.
    pub skill_id: String,
    /// A version or `latest`.
    pub version: String,
}

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

/// A create request.
#[derive(Debug)]
pub struct CreateAgent {
    /// Everything but the roster.
    pub config: AgentConfig,
    /// The roster as it was asked for.
    pub multiagent: Option<Multiagent<AgentChoice>>,
}

impl CreateAgent {
    /// Reads the body of a create request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        let config = AgentConfig {
            name: o.required("name")?.text(1, MAX_NAME)?,
            description: text_or_none(o.optional("description"), MAX_DESCRIPTION)?,
            system: text_or_none(o.optional("system"), MAX_SYSTEM)?,
            model: read_model(&o.required("model")?)?,
            tools: o.optional("tools").map(|n| read_tools(&n)).transpose()?.unwrap_or_default(),
            mcp_servers: o.optional("mcp_servers").map(|n| read_mcp_servers(&n)).transpose()?.unwrap_or_default(),
            skills: o.optional("skills").map(|n| read_skills(&n)).transpose()?.unwrap_or_default(),
            multiagent: None,
            execution_identity: read_identity(o.optional("execution_identity"))?,
            metadata: metadata::create(o.optional("metadata"))?,
        };
        check_tool_references("", &config.tools, &config.mcp_servers)?;
        let multiagent = o.optional("multiagent").map(|n| read_multiagent(&n, None)).transpose()?;
        Ok(Self { config, multiagent })
    }
}

/// An update of an agent, applied to the stored version.
#[derive(Debug)]
pub struct UpdateAgent {
    /// The version that the caller has seen, where it named one.
    pub version: Option<i64>,
    /// The resulting configuration; its roster is still the stored one.
    pub config: AgentConfig,
    /// What the caller says about the roster.
    pub multiagent: Patch<Multiagent<AgentChoice>>,
}

impl UpdateAgent {
    /// Reads the body of an update request over the `stored` configuration.
    pub fn read(o: &mut Object<'_>, stored: &AgentConfig) -> Decoded<Self> {
        let version = o.settable("version")?.map(|n| n.integer(1, i64::MAX)).transpose()?;
        let config = AgentConfig {
            name: match o.settable("name")? {
                Some(node) => node.text(1, MAX_NAME)?,
                None => stored.name.clone(),
            },
            description: text_patch(o.patch("description"), MAX_DESCRIPTION, stored.description.as_ref())?,
            system: text_patch(o.patch("system"), MAX_SYSTEM, stored.system.as_ref())?,
            model: match o.settable("model")? {
                Some(node) => model_over(read_model(&node)?, &stored.model),
                None => stored.model.clone(),
            },
            tools: list_patch(o.patch("tools"), read_tools, &stored.tools)?,
            mcp_servers: list_patch(o.patch("mcp_servers"), read_mcp_servers, &stored.mcp_servers)?,
            skills: list_patch(o.patch("skills"), read_skills, &stored.skills)?,
            multiagent: stored.multiagent.clone(),
            execution_identity: match o.patch("execution_identity") {
                Patch::Keep => stored.execution_identity.clone(),
                Patch::Clear => read_identity(None)?,
                Patch::Set(node) => read_identity(Some(node))?,
            },
            metadata: metadata::update(&stored.metadata, o.patch("metadata"))?,
        };
        check_tool_references("", &config.tools, &config.mcp_servers)?;
        let multiagent = match o.patch("multiagent") {
            Patch::Keep => Patch::Keep,
            Patch::Clear => Patch::Clear,
            Patch::Set(node) => Patch::Set(read_multiagent(&node, stored.multiagent.as_ref())?),
        };
        Ok(Self { version, config, multiagent })
    }
}

/// An update without `effort` keeps the stored level; everything else of the model is replaced.
fn model_over(sent: ModelConfig, stored: &ModelConfig) -> ModelConfig {
    ModelConfig { effort: sent.effort.or_else(|| stored.effort.clone()), ..sent }
}

/// A text that is cleared by null or by an empty text.
pub fn text_patch(patch: Patch<Node<'_>>, most: usize, stored: Option<&String>) -> Decoded<Option<String>> {
    Ok(match patch {
        Patch::Keep => stored.cloned(),
        Patch::Clear => None,
        Patch::Set(node) => text_or_none(Some(node), most)?,
    })
}

/// An optional text; an empty one is none.
pub fn text_or_none(node: Option<Node<'_>>, most: usize) -> Decoded<Option<String>> {
    let text = node.map(|n| n.text(0, most)).transpose()?;
    Ok(text.filter(|text| !text.is_empty()))
}

fn list_patch<T: Clone>(
    patch: Patch<Node<'_>>,
    read: impl Fn(&Node<'_>) -> Decoded<Vec<T>>,
    stored: &[T],
) -> Decoded<Vec<T>> {
    match patch {
        Patch::Keep => Ok(stored.to_vec()),
        Patch::Clear => Ok(Vec::new()),
        Patch::Set(node) => read(&node),
    }
}

/// A model: its name, or an object with more settings.
pub fn read_model(node: &Node<'_>) -> Decoded<ModelConfig> {
    let standard = || Some("standard".to_owned());
    if node.value().is_string() {
        return Ok(ModelConfig { id: node.text(1, MAX_NAME)?, effort: None, speed: standard(), inference_geo: None });
    }
    node.object(|o| {
        let effort = o.optional("effort").map(|n| read_effort(&n)).transpose()?;
        let speed = o.optional("speed").map(|n| n.one_of(&["standard", "fast"])).transpose()?;
        Ok(ModelConfig {
            id: o.required("id")?.text(1, MAX_NAME)?,
            effort,
            speed: speed.map(str::to_owned).or_else(standard),
            inference_geo: o.optional("inference_geo").map(|n| n.text(1, MAX_NAME)).transpose()?,
        })
    })
}

fn read_effort(node: &Node<'_>) -> Decoded<Effort> {
    let level = if node.value().is_string() {
        node.one_of(&EFFORTS)?
    } else {
        let tag = node.tag()?;
        let level = EFFORTS.iter().find(|e| **e == tag).ok_or_else(|| node.wrong_tag(tag))?;
        node.object(|o| {
            o.tagged();
            Ok(*level)
        })?
    };
    Ok(Effort { level: level.to_owned() })
}

fn read_identity(node: Option<Node<'_>>) -> Decoded<ExecutionIdentity> {
    let Some(node) = node else { return Ok(ExecutionIdentity::ServiceAccount) };
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "service_account" => Ok(ExecutionIdentity::ServiceAccount),
            "aws_role" => Ok(ExecutionIdentity::AwsRole { role_arn: o.required("role_arn")?.text(1, 2048)? }),
            other => Err(node.wrong_tag(other)),
        }
    })
}

/// The tools of an agent or of an override.
pub fn read_tools(node: &Node<'_>) -> Decoded<Vec<Tool>> {
    let tools = node.items(0, MAX_TOOLS, read_tool)?;
    let mut names = Vec::new();
    let mut count = 0;
    for tool in &tools {
        let name = match tool {
            Tool::BuiltIn { .. } => "agent_toolset_20260401",
            Tool::Mcp { mcp_server_name, .. } => mcp_server_name,
            Tool::Custom(custom) => &custom.name,
        };
        if names.contains(&name) {
            return Err(node.invalid(format_args!("\"{name}\" is named more than once")));
        }
        names.push(name);
        count += if matches!(tool, Tool::BuiltIn { .. }) { BUILT_IN_TOOLS.len() } else { 1 };
    }
    if count > MAX_TOOLS {
        return Err(node.invalid(format_args!("value must contain no more than {MAX_TOOLS} item(s)")));
    }
    Ok(tools)
}

fn read_tool(node: &Node<'_>) -> Decoded<Tool> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "agent_toolset_20260401" => {
                let default_config = read_default(o.optional("default_config"), PermissionPolicy::AlwaysAllow)?;
                let configs = o.optional("configs");
                let configs =
                    configs.map(|n| n.items(0, MAX_TOOLS, |n| read_built_in(n, default_config))).transpose()?;
                Ok(Tool::BuiltIn { configs: configs.unwrap_or_default(), default_config })
            }
            "mcp_toolset" => {
                let default_config = read_default(o.optional("default_config"), PermissionPolicy::AlwaysAsk)?;
                let configs = o.optional("configs");
                let configs =
                    configs.map(|n| n.items(0, MAX_TOOLS, |n| read_mcp_tool(n, default_config))).transpose()?;
                let mcp_server_name = o.required("mcp_server_name")?.text(1, 255)?;
                Ok(Tool::Mcp { mcp_server_name, configs: configs.unwrap_or_default(), default_config })
            }
            "custom" => read_custom(o).map(Tool::Custom),
            other => Err(node.wrong_tag(other)),
        }
    })
}

fn read_default(node: Option<Node<'_>>, policy: PermissionPolicy) -> Decoded<ToolDefault> {
    let default = ToolDefault { enabled: true, permission_policy: policy };
    let Some(node) = node else { return Ok(default) };
    node.object(|o| read_switches(o, default))
}

fn read_switches(o: &mut Object<'_>, default: ToolDefault) -> Decoded<ToolDefault> {
    let enabled = o.optional("enabled").map(|n| n.boolean()).transpose()?;
    let policy = o.optional("permission_policy").map(|n| read_policy(&n)).transpose()?;
    Ok(ToolDefault {
        enabled: enabled.unwrap_or(default.enabled),
        permission_policy: policy.unwrap_or(default.permission_policy),
    })
}

fn read_policy(node: &Node<'_>) -> Decoded<PermissionPolicy> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "always_allow" => Ok(PermissionPolicy::AlwaysAllow),
            "always_ask" => Ok(PermissionPolicy::AlwaysAsk),
            "auto" => Ok(PermissionPolicy::Auto),
            other => Err(node.wrong_tag(other)),
        }
    })
}

fn read_built_in(node: &Node<'_>, default: ToolDefault) -> Decoded<BuiltInToolConfig> {
    node.object(|o| {
        let name = o.required("name")?.one_of(&BUILT_IN_TOOLS)?;
        if let Some(tag) = o.optional("type")
            && tag.string()? != name
        {
            return Err(tag.invalid(format_args!("must be \"{name}\", the tool's name")));
        }
        let ToolDefault { enabled, permission_policy } = read_switches(o, default)?;
        let mut config = BuiltInToolConfig {
            name: name.to_owned(),
            r#type: name.to_owned(),
            enabled,
            permission_policy,
            allowed_domains: None,
            blocked_domains: None,
            max_content_tokens: None,
            url_sources: None,
            user_location: None,
        };
        if name.starts_with("web_") {
            config.allowed_domains = o.optional("allowed_domains").map(|n| read_domains(&n)).transpose()?;
            config.blocked_domains = o.optional("blocked_domains").map(|n| read_domains(&n)).transpose()?;
            if config.allowed_domains.is_some() && config.blocked_domains.is_some() {
                return Err(node.invalid("allowed_domains cannot be combined with blocked_domains"));
            }
        }
        match name {
            "web_fetch" => {
                config.max_content_tokens =
                    o.optional("max_content_tokens").map(|n| n.integer(1, i64::MAX)).transpose()?;
                config.url_sources = o.optional("url_sources").map(|n| read_url_sources(&n)).transpose()?;
            }
            "web_search" => {
                config.user_location = o.optional("user_location").map(|n| read_location(&n)).transpose()?;
            }
            _ => {}
        }
        Ok(config)
    })
}

fn read_domains(node: &Node<'_>) -> Decoded<Vec<String>> {
    node.items(1, MAX_DOMAINS, |n| {
        let domain = n.text(1, 253)?;
        if domain.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')) {
            return Err(n.invalid("must be a plain hostname without scheme, port or path"));
        }
        Ok(domain)
    })
}

fn read_location(node: &Node<'_>) -> Decoded<Value> {
    node.object(|o| {
        if node.tag()? != "approximate" {
            return Err(node.wrong_tag(node.tag()?));
        }
        o.tagged();
        for field in ["city", "country", "region", "timezone"] {
            o.optional(field).map(|n| n.text(1, 255)).transpose()?;
        }
        Ok(node.value().clone())
    })
}

fn read_url_sources(node: &Node<'_>) -> Decoded<Value> {
    let sources = node.object(|o| {
        let mut sources = serde_json::Map::new();
        for (field, lists) in [("client_tool_results", true), ("server_tool_results", true), ("user_input", false)] {
            if let Some(source) = o.optional(field) {
                sources.insert(field.to_owned(), read_url_source(&source, lists)?);
            }
        }
        Ok(sources)
    })?;
    Ok(Value::Object(sources))
}

/// `"all"` and `"none"` are short for `{"type": "all"}` and `{"type": "none"}`.
fn read_url_source(node: &Node<'_>, lists: bool) -> Decoded<Value> {
    if node.value().is_string() {
        return Ok(serde_json::json!({"type": node.one_of(&["all", "none"])?}));
    }
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "all" | "none" => {}
            "only" | "except" if lists => {
                o.required("tools")?.items(0, MAX_TOOLS, |tool| {
                    tool.object(|o| {
                        o.required("type")?.one_of(&["tool_reference"])?;
                        o.required("name")?.text(1, 128)
                    })
                })?;
            }
            other => return Err(node.wrong_tag(other)),
        }
        Ok(node.value().clone())
    })
}

fn read_mcp_tool(node: &Node<'_>, default: ToolDefault) -> Decoded<McpToolConfig> {
    node.object(|o| {
        let ToolDefault { enabled, permission_policy } = read_switches(o, default)?;
        Ok(McpToolConfig { name: o.required("name")?.text(1, 255)?, enabled, permission_policy })
    })
}

fn read_custom(o: &mut Object<'_>) -> Decoded<CustomTool> {
    let node = o.required("name")?;
    let name = node.text(1, 128)?;
    if name.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')) {
        return Err(node.invalid("must contain only letters, digits, underscores and hyphens"));
    }
    if BUILT_IN_TOOLS.contains(&name.as_str()) || name.starts_with("mcp__") {
        return Err(node.invalid(format_args!("\"{name}\" is reserved")));
    }
    let schema = o.required("input_schema")?;
    check_schema(&schema)?;
    Ok(CustomTool {
        name,
        description: o.required("description")?.text(1, MAX_SYSTEM)?,
        input_schema: schema.value().clone(),
    })
}

fn check_schema(node: &Node<'_>) -> Decoded<()> {
    node.object(|o| {
        o.required("type")?.one_of(&["object"])?;
        if let Some(properties) = o.optional("properties") {
            properties.map()?;
        }
        if let Some(required) = o.optional("required") {
            required.items(0, MAX_TOOLS, |n| n.string().map(drop))?;
        }
        for union in ["oneOf", "anyOf", "allOf"] {
            if node.map()?.contains_key(union) {
                return Err(o.invalid(union, "is not supported at the top level of input_schema"));
            }
        }
        o.allow_others();
        Ok(())
    })?;
    if mentions_ref(node.value()) { Err(node.invalid("\"$ref\" is not supported")) } else { Ok(()) }
}

fn mentions_ref(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key("$ref") || map.values().any(mentions_ref),
        Value::Array(items) => items.iter().any(mentions_ref),
        _ => false,
    }
}

/// The MCP servers of an agent or of an override.
pub fn read_mcp_servers(node: &Node<'_>) -> Decoded<Vec<McpServer>> {
    let servers = node.items(0, MAX_MCP_SERVERS, |server| {
        server.object(|o| {
            o.required("type")?.one_of(&["url"])?;
            let url = o.required("url")?;
            let text = url.text(1, 2048)?;
            if !(text.starts_with("https://") || text.starts_with("http://")) {
                return Err(url.invalid("must be an http or https URL"));
            }
            Ok(McpServer { name: o.required("name")?.text(1, 255)?, r#type: "url".to_owned(), url: text })
        })
    })?;
    for (i, server) in servers.iter().enumerate() {
        if servers[..i].iter().any(|earlier| earlier.name == server.name) {
            return Err(node.invalid(format_args!("\"{}\" is named more than once", server.name)));
        }
    }
    Ok(servers)
}

/// Each server must be named by a toolset and each toolset must name a server. `prefix` is where both stand in the body.
pub fn check_tool_references(prefix: &str, tools: &[Tool], servers: &[McpServer]) -> Decoded<()> {
    let place = |field: &str| if prefix.is_empty() { field.to_owned() } else { format!("{prefix}.{field}") };
    let named: Vec<&str> = tools
        .iter()
        .filter_map(|tool| match tool {
            Tool::Mcp { mcp_server_name, .. } => Some(mcp_server_name.as_str()),
            _ => None,
        })
        .collect();
    if let Some(name) = named.iter().find(|name| servers.iter().all(|s| s.name != **name)) {
        let message = format_args!("mcp_server_name \"{name}\" is not one of mcp_servers");
        return Err(Invalid::field(&place("tools"), message));
    }
    match servers.iter().find(|server| !named.contains(&server.name.as_str())) {
        Some(McpServer { name, .. }) => {
            let message = format_args!("\"{name}\" is not referenced by an mcp_toolset in tools");
            Err(Invalid::field(&place("mcp_servers"), message))
        }
        None => Ok(()),
    }
}

/// The skills of an agent or of an override.
pub fn read_skills(node: &Node<'_>) -> Decoded<Vec<Skill>> {
    node.items(0, MAX_SKILLS, |skill| {
        let tag = skill.tag()?;
        if !["anthropic", "custom"].contains(&tag) {
            return Err(skill.wrong_tag(tag));
        }
        skill.object(|o| {
            o.tagged();
            let version = o.optional("version").map(|n| n.text(1, 128)).transpose()?;
            Ok(Skill {
                r#type: tag.to_owned(),
                skill_id: o.required("skill_id")?.text(1, 128)?,
                version: version.unwrap_or_else(|| "latest".to_owned()),
            })
        })
    })
}

fn read_multiagent(node: &Node<'_>, stored: Option<&Multiagent>) -> Decoded<Multiagent<AgentChoice>> {
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
