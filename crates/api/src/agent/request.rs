//! Reading the bodies of create and update requests. Their fields are not [declared](crate::fields): a roster is merged with the
//! agents that it names, which only the store knows, and stands among fields that are.

use super::{
    AgentChoice, AgentConfig, Effort, ExecutionIdentity, IdentityFields, MAX_DESCRIPTION, MAX_NAME, MAX_SKILLS,
    MAX_SYSTEM, McpServer, ModelConfig, Multiagent, MultiagentFields, Skill, Speed, Tool, check_tool_references,
    optional_text, read_mcp_servers, read_tools, text_patch,
};
use crate::{
    decode::{Decoded, Dialect, Invalid, Node, Object, Patch},
    fields::Decode,
    metadata::{self, Changes},
    skill::{LATEST, Source},
    workspace::Geo,
};

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
        o.speak(Dialect::Agents);
        let config = AgentConfig {
            name: o.required("name")?.text(1, MAX_NAME)?,
            description: optional_text(o.optional("description"), MAX_DESCRIPTION)?,
            system: optional_text(o.optional("system"), MAX_SYSTEM)?,
            model: read_model(&o.required("model")?)?.resolved(),
            tools: o.kept("tools", read_tools)?.unwrap_or_default(),
            mcp_servers: o.kept("mcp_servers", read_mcp_servers)?.unwrap_or_default(),
            skills: o.kept("skills", read_skills)?.unwrap_or_default(),
            multiagent: None,
            execution_identity: o.kept("execution_identity", read_identity)?.unwrap_or_default(),
            metadata: metadata::create(o.optional("metadata"))?,
        };
        check_tool_references("", &config.tools, &config.mcp_servers)?;
        let multiagent = o.optional("multiagent").map(|n| MultiagentFields::read(&n)?.over(None)).transpose()?;
        Ok(Self { config, multiagent })
    }
}

/// An update request. `None` keeps what is stored.
#[derive(Debug)]
pub struct UpdateAgent {
    /// The version that the caller has seen, where it named one.
    pub version: Option<i64>,
    /// A new name.
    pub name: Option<String>,
    /// The description; null or an empty text clears it.
    pub description: Patch<String>,
    /// The system prompt; null or an empty text clears it.
    pub system: Patch<String>,
    /// Another model; without `effort` the stored level is kept.
    pub model: Option<ModelConfig>,
    /// Other tools; null is none.
    pub tools: Patch<Vec<Tool>>,
    /// Other MCP servers; null is none.
    pub mcp_servers: Patch<Vec<McpServer>>,
    /// Other skills; null is none.
    pub skills: Patch<Vec<Skill>>,
    /// Another identity; null is the workspace's own.
    pub execution_identity: Patch<ExecutionIdentity>,
    /// Pairs to set and to delete.
    pub metadata: Changes,
    /// The roster; null clears it.
    pub multiagent: Patch<MultiagentFields>,
}

impl UpdateAgent {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Agents);
        o.stand_under("agent");
        Ok(Self {
            version: o.kept("version", |n| n.integer(1, i64::MAX))?,
            name: o.needed("name", |n| n.text(1, MAX_NAME))?,
            description: text_patch(o.patch("description"), MAX_DESCRIPTION)?,
            system: text_patch(o.patch("system"), MAX_SYSTEM)?,
            model: o.needed("model", read_model)?,
            tools: o.patch("tools").read(read_tools)?,
            mcp_servers: o.patch("mcp_servers").read(read_mcp_servers)?,
            skills: o.patch("skills").read(read_skills)?,
            execution_identity: o.patch("execution_identity").read(read_identity)?,
            metadata: Changes::read(o.patch("metadata"))?,
            multiagent: o.patch("multiagent").read(MultiagentFields::read)?,
        })
    }

    /// The configuration that `stored` becomes; its roster is still the stored one.
    ///
    /// # Errors
    /// When what is kept and what is new do not go together.
    pub fn over(&self, stored: &AgentConfig) -> Decoded<AgentConfig> {
        let config = AgentConfig {
            name: self.name.as_ref().unwrap_or(&stored.name).clone(),
            description: self.description.clone().over(stored.description.clone()),
            system: self.system.clone().over(stored.system.clone()),
            model: self.model.as_ref().map_or_else(|| stored.model.clone(), |sent| model_over(sent, &stored.model)),
            tools: self.tools.clone().over_or(stored.tools.clone(), Vec::new()),
            mcp_servers: self.mcp_servers.clone().over_or(stored.mcp_servers.clone(), Vec::new()),
            skills: self.skills.clone().over_or(stored.skills.clone(), Vec::new()),
            multiagent: stored.multiagent.clone(),
            execution_identity: self
                .execution_identity
                .clone()
                .over_or(stored.execution_identity.clone(), ExecutionIdentity::default()),
            metadata: self.metadata.over(&stored.metadata)?,
        };
        check_tool_references("", &config.tools, &config.mcp_servers)?;
        Ok(config)
    }
}

/// An update without `effort` keeps the stored level; everything else of the model is replaced.
fn model_over(sent: &ModelConfig, stored: &ModelConfig) -> ModelConfig {
    ModelConfig { effort: sent.effort.or(stored.effort), ..sent.clone() }.resolved()
}

/// A model: its name, or an object with more settings.
pub fn read_model(node: &Node<'_>) -> Decoded<ModelConfig> {
    let speed = Some(Speed::Standard);
    if node.value().is_string() {
        return Ok(ModelConfig { id: node.text(1, MAX_NAME)?, effort: None, speed, inference_geo: None });
    }
    node.object(|o| {
        let effort = o.kept("effort", read_effort)?;
        let named = o.kept("speed", Speed::decode)?;
        Ok(ModelConfig {
            id: o.required("id")?.text(1, MAX_NAME)?,
            effort,
            speed: named.or(speed),
            inference_geo: o.kept("inference_geo", read_geo)?,
        })
    })
}

/// The words for a geo that is none are not those for other names.
fn read_geo(node: &Node<'_>) -> Decoded<Geo> {
    Geo::from_name(node.string()?).ok_or_else(|| {
        let names = Geo::NAMES.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" ");
        Invalid::request(format!("`inference_geo`: must be one of [{names}]: invalid inference_geo value"))
    })
}

fn read_effort(node: &Node<'_>) -> Decoded<Effort> {
    if !node.value().is_string() {
        return Effort::decode(node);
    }
    let name = node.one_of(Effort::NAMES)?;
    Effort::from_name(name).ok_or_else(|| node.not_a_value(name))
}

fn read_identity(node: &Node<'_>) -> Decoded<ExecutionIdentity> {
    IdentityFields::decode(node)?.merged(&ExecutionIdentity::default())
}

/// The skills of an agent or of an override.
pub fn read_skills(node: &Node<'_>) -> Decoded<Vec<Skill>> {
    node.items(0, MAX_SKILLS, |skill| {
        let tag = skill.tag()?;
        let source = Source::from_name(tag).ok_or_else(|| skill.wrong_tag(tag))?;
        skill.object(|o| {
            o.tagged();
            let version = o.kept("version", |n| n.text(1, 128))?;
            Ok(Skill {
                r#type: source.as_str().to_owned(),
                skill_id: o.required("skill_id")?.text(1, 128)?,
                version: version.unwrap_or_else(|| LATEST.to_owned()),
            })
        })
    })
}
