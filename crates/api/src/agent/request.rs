//! Reading the bodies of create and update requests.

use super::{
    AgentChoice, AgentConfig, Effort, ExecutionIdentity, MAX_DESCRIPTION, MAX_NAME, MAX_SKILLS, MAX_SYSTEM,
    ModelConfig, Multiagent, Skill, check_tool_references, multiagent::read_multiagent, read_mcp_servers, read_tools,
    text_or_none, text_patch,
};
use crate::{
    decode::{Decoded, Node, Object, Patch},
    metadata::{self, Changes},
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
            metadata: Changes::read(o.patch("metadata"))?.over(&stored.metadata)?,
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

const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

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
