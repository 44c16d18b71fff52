//! The tools of an agent: built-in ones, those of MCP servers, and those that the client runs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::MAX_SYSTEM;
use crate::{
    decode::{Decoded, Invalid, Node, Object},
    fields::{Decode, names, types},
};

/// Most tools of an agent, over all its toolsets.
pub const MAX_TOOLS: usize = 256;
/// Most MCP servers of an agent.
pub const MAX_MCP_SERVERS: usize = 20;
/// Most domains in a list of a web tool.
pub const MAX_DOMAINS: usize = 64;

/// Most tools in a list of `url_sources`.
pub const MAX_SOURCE_TOOLS: usize = 128;

names! {
    /// A built-in tool. They are declared in the order in which a model is offered them.
    BuiltInTool {
        /// Runs a command in the session's shell.
        "bash" => Bash,
        /// Reads a file.
        "read" => Read,
        /// Writes a file.
        "write" => Write,
        /// Replaces a text in a file.
        "edit" => Edit,
        /// Finds files by their names.
        "glob" => Glob,
        /// Finds lines of files.
        "grep" => Grep,
        /// Reads a page of the web.
        "web_fetch" => WebFetch,
        /// Searches the web.
        "web_search" => WebSearch,
    }
}

impl BuiltInTool {
    /// Those that need a network.
    pub const WEB: [Self; 2] = [Self::WebFetch, Self::WebSearch];
}

/// Whether a tool is a built-in one that needs a network.
pub fn needs_network(name: &str) -> bool {
    BuiltInTool::from_name(name).is_some_and(|tool| BuiltInTool::WEB.contains(&tool))
}

names! {
    /// Where a URL comes from that `web_fetch` is called with.
    UrlSource {
        /// The result of a custom tool.
        "client_tool_results" => ClientToolResults,
        /// The result of a web tool.
        "server_tool_results" => ServerToolResults,
        /// What the user wrote.
        "user_input" => UserInput,
    }
}

names! {
    /// Which URLs of a source may be fetched.
    UrlFilter {
        /// All.
        "all" => All,
        /// None.
        "none" => None,
        /// Those of the tools that are listed.
        "only" => Only,
        /// Those of the tools that are not listed.
        "except" => Except,
    }
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

/// The policy of a built-in tool, where `tools` have it and it is switched on.
pub fn built_in(tools: &[Tool], tool: BuiltInTool) -> Option<PermissionPolicy> {
    let (configs, default) = tools.iter().find_map(|tool| match tool {
        Tool::BuiltIn { configs, default_config } => Some((configs, default_config)),
        _ => None,
    })?;
    let config = configs.iter().find(|config| config.name == tool);
    let (enabled, policy) = config
        .map_or((default.enabled, default.permission_policy), |config| (config.enabled, config.permission_policy));
    enabled.then_some(policy)
}

/// The policy of a tool of an MCP server, where `tools` have the server's tools and this one is switched on.
pub fn of_mcp_server(tools: &[Tool], server: &str, name: &str) -> Option<PermissionPolicy> {
    let (configs, default) = tools.iter().find_map(|tool| match tool {
        Tool::Mcp { mcp_server_name, configs, default_config } if mcp_server_name == server => {
            Some((configs, default_config))
        }
        _ => None,
    })?;
    let config = configs.iter().find(|config| config.name == name);
    let (enabled, policy) = config
        .map_or((default.enabled, default.permission_policy), |config| (config.enabled, config.permission_policy));
    enabled.then_some(policy)
}

/// Which tools may wait for an answer, each as a client names it: built-in tools and those of MCP servers that ask, or may, and custom
/// tools, which a client runs.
pub fn waits_for_answers(tools: &[Tool]) -> Vec<String> {
    let asks = |enabled: bool, policy: PermissionPolicy| enabled && policy != PermissionPolicy::AlwaysAllow;
    let mut waits = Vec::new();
    for tool in tools {
        match tool {
            Tool::BuiltIn { .. } => {
                let asked = BuiltInTool::ALL
                    .into_iter()
                    .filter(|tool| built_in(tools, *tool).is_some_and(|policy| asks(true, policy)));
                waits.extend(asked.map(|tool| tool.as_str().to_owned()));
            }
            Tool::Mcp { mcp_server_name, configs, default_config } => {
                let by_default = asks(default_config.enabled, default_config.permission_policy);
                if by_default || configs.iter().any(|config| asks(config.enabled, config.permission_policy)) {
                    waits.push(format!("mcp_toolset {mcp_server_name}"));
                }
            }
            Tool::Custom(custom) => waits.push(custom.name.clone()),
        }
    }
    waits
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

types! {
    /// Whether a call of a tool waits for a person.
    PermissionPolicy {
        /// Every call runs at once.
        "always_allow" => AlwaysAllow,
        /// Every call waits for a confirmation.
        "always_ask" => AlwaysAsk,
        /// The server judges each call.
        "auto" => Auto,
    }
}

/// What differs for one built-in tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuiltInToolConfig {
    /// The tool.
    pub name: BuiltInTool,
    /// The tool again.
    pub r#type: BuiltInTool,
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
        count += if matches!(tool, Tool::BuiltIn { .. }) { BuiltInTool::ALL.len() } else { 1 };
    }
    if count > MAX_TOOLS {
        return Err(node.invalid(format_args!("value must contain no more than {MAX_TOOLS} item(s)")));
    }
    check_url_sources(node, &tools)?;
    Ok(tools)
}

/// What a list of `client_tool_results` names must be a custom tool beside it.
fn check_url_sources(node: &Node<'_>, tools: &[Tool]) -> Decoded<()> {
    let is_custom = |name: &str| tools.iter().any(|tool| matches!(tool, Tool::Custom(custom) if custom.name == name));
    let configs = tools.iter().flat_map(|tool| match tool {
        Tool::BuiltIn { configs, .. } => &configs[..],
        Tool::Mcp { .. } | Tool::Custom(_) => &[],
    });
    for sources in configs.filter_map(|config| config.url_sources.as_ref()) {
        let listed = sources[UrlSource::ClientToolResults.as_str()]["tools"].as_array().into_iter().flatten();
        if let Some(name) = listed.filter_map(|tool| tool["name"].as_str()).find(|name| !is_custom(name)) {
            return Err(node.invalid(format_args!(
                "url_sources.client_tool_results names \"{name}\", which is no custom tool of these tools"
            )));
        }
    }
    Ok(())
}

fn read_tool(node: &Node<'_>) -> Decoded<Tool> {
    let tag = node.tag()?;
    let node = if tag == "custom" { &node.of_kind("custom") } else { node };
    node.object(|o| {
        o.tagged();
        match tag {
            "agent_toolset_20260401" => {
                let default_config = read_default(o.optional("default_config"), PermissionPolicy::AlwaysAllow)?;
                let configs = o.optional("configs");
                let configs = configs.map(|n| {
                    let configs = n.items(0, MAX_TOOLS, |n| read_built_in(n, default_config))?;
                    check_once(&n, configs.iter().map(|config| config.name.as_str()))?;
                    Ok(configs)
                });
                Ok(Tool::BuiltIn { configs: configs.transpose()?.unwrap_or_default(), default_config })
            }
            "mcp_toolset" => {
                let default_config = read_default(o.optional("default_config"), PermissionPolicy::AlwaysAsk)?;
                let configs = o.optional("configs");
                let configs = configs.map(|n| {
                    let configs = n.items(0, MAX_TOOLS, |n| read_mcp_tool(n, default_config))?;
                    check_once(&n, configs.iter().map(|config| &*config.name))?;
                    Ok(configs)
                });
                let configs = configs.transpose()?.unwrap_or_default();
                let mcp_server_name = o.required("mcp_server_name")?.text(1, 255)?;
                Ok(Tool::Mcp { mcp_server_name, configs, default_config })
            }
            "custom" => read_custom(o).map(Tool::Custom),
            other => Err(node.wrong_tag(other)),
        }
    })
}

/// That no tool has a second entry.
fn check_once<'a>(node: &Node<'_>, names: impl Iterator<Item = &'a str>) -> Decoded<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(node.invalid(format_args!("\"{name}\" has more than one entry")));
        }
    }
    Ok(())
}

fn read_default(node: Option<Node<'_>>, policy: PermissionPolicy) -> Decoded<ToolDefault> {
    let default = ToolDefault { enabled: true, permission_policy: policy };
    let Some(node) = node else { return Ok(default) };
    node.object(|o| read_switches(o, default))
}

fn read_switches(o: &mut Object<'_>, default: ToolDefault) -> Decoded<ToolDefault> {
    let enabled = o.optional("enabled").map(|n| n.boolean()).transpose()?;
    let policy = o.optional("permission_policy").map(|n| PermissionPolicy::decode(&n)).transpose()?;
    Ok(ToolDefault {
        enabled: enabled.unwrap_or(default.enabled),
        permission_policy: policy.unwrap_or(default.permission_policy),
    })
}

fn read_built_in(node: &Node<'_>, default: ToolDefault) -> Decoded<BuiltInToolConfig> {
    node.object(|o| {
        let tag = o.optional("type").map(|tag| tag.string()).transpose()?;
        let name = match (o.optional("name"), tag) {
            (None, Some(tag)) => {
                let message = format_args!("must be \"{tag}\" on a config of type \"{tag}\"");
                return Err(o.unreadable("name", message));
            }
            (Some(name), _) => BuiltInTool::decode(&name)?,
            (None, None) => o.needs("name", BuiltInTool::decode)?,
        };
        if let Some(tag) = tag.filter(|tag| *tag != name.as_str()) {
            let name = name.as_str();
            return Err(o.unreadable("type", format_args!("\"{tag}\" does not match name \"{name}\"")));
        }
        o.refuse_others_for(name.as_str());
        let ToolDefault { enabled, permission_policy } = read_switches(o, default)?;
        let mut config = BuiltInToolConfig {
            name,
            r#type: name,
            enabled,
            permission_policy,
            allowed_domains: None,
            blocked_domains: None,
            max_content_tokens: None,
            url_sources: None,
            user_location: None,
        };
        if BuiltInTool::WEB.contains(&name) {
            let with_path = name == BuiltInTool::WebSearch;
            config.allowed_domains = o.optional("allowed_domains").map(|n| read_domains(&n, with_path)).transpose()?;
            config.blocked_domains = o.optional("blocked_domains").map(|n| read_domains(&n, with_path)).transpose()?;
            if config.allowed_domains.is_some() && config.blocked_domains.is_some() {
                return Err(node.invalid("allowed_domains cannot be combined with blocked_domains"));
            }
        }
        match name {
            BuiltInTool::WebFetch => {
                config.max_content_tokens =
                    o.optional("max_content_tokens").map(|n| n.integer(1, i64::MAX)).transpose()?;
                config.url_sources = o.optional("url_sources").map(|n| read_url_sources(&n)).transpose()?;
            }
            BuiltInTool::WebSearch => {
                config.user_location = o.optional("user_location").map(|n| read_location(&n)).transpose()?;
            }
            _ => {}
        }
        Ok(config)
    })
}

/// Those of `web_search` may have a path behind the name.
fn read_domains(node: &Node<'_>, with_path: bool) -> Decoded<Vec<String>> {
    node.items(1, MAX_DOMAINS, |n| {
        let domain = n.text(1, 253)?;
        let (name, path) = domain.split_at(domain.find('/').unwrap_or(domain.len()));
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
        let is_path = |c: char| c.is_ascii_graphic() && !"?#\\".contains(c);
        match with_path {
            false if !is_name || !path.is_empty() => {
                Err(n.invalid("must be a plain hostname without scheme, port or path"))
            }
            true if !is_name || !path.chars().all(is_path) => {
                Err(n.invalid("must be a plain hostname, with a path behind it or not, without scheme or port"))
            }
            _ => Ok(domain),
        }
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
        for source in UrlSource::ALL {
            if let Some(node) = o.optional(source.as_str()) {
                sources.insert(source.as_str().to_owned(), read_url_source(&node, source)?);
            }
        }
        Ok(sources)
    })?;
    let is_none = |filter: &Value| filter["type"] == UrlFilter::None.as_str();
    if sources.len() == UrlSource::ALL.len() && sources.values().all(is_none) {
        return Err(node.invalid("at least one source must not be \"none\": else no URL may be fetched"));
    }
    Ok(Value::Object(sources))
}

/// `"all"` and `"none"` are short for `{"type": "all"}` and `{"type": "none"}`.
fn read_url_source(node: &Node<'_>, source: UrlSource) -> Decoded<Value> {
    use UrlFilter::{All, Except, None, Only};

    if node.value().is_string() {
        return Ok(serde_json::json!({"type": node.one_of(&[All, None].map(UrlFilter::as_str))?}));
    }
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match UrlFilter::from_name(tag) {
            Some(All | None) => {}
            Some(Only | Except) if source != UrlSource::UserInput => {
                let list = o.required("tools")?;
                let names = list.items(1, MAX_SOURCE_TOOLS, |tool| {
                    tool.object(|o| {
                        o.required("type")?.one_of(&["tool_reference"])?;
                        let name = o.required("name")?;
                        if source == UrlSource::ServerToolResults {
                            return name.one_of(&BuiltInTool::WEB.map(BuiltInTool::as_str)).map(str::to_owned);
                        }
                        name.text(1, 128)
                    })
                })?;
                check_once(&list, names.iter().map(String::as_str))?;
            }
            _ => return Err(node.wrong_tag(tag)),
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
    if name.starts_with("mcp__") {
        return Err(node.invalid(format_args!("custom tool name \"{name}\" uses reserved MCP tool prefix")));
    }
    if BuiltInTool::from_name(&name).is_some() {
        return Err(node.invalid(format_args!("custom tool name \"{name}\" is the name of a built-in tool")));
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
