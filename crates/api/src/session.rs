//! Sessions: one agent at work in one environment. The bodies of their requests are not [declared](crate::fields): a create and
//! an update have little in common.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    Time,
    agent::{self, AgentChoice, McpServer, ModelConfig, Skill, Tool},
    decode::{Decoded, Dialect, Invalid, Node, Object, Patch},
    event,
    fields::{Decode, names},
    id::{DeploymentId, EnvironmentId, FileId, SessionId, SessionResourceId},
    metadata::{self, Changes, Metadata},
    repository::{self, Repository},
    secret::Secret,
};

/// Most characters of a title.
pub const MAX_TITLE: usize = 512;
/// Most resources of a session or a deployment.
pub const MAX_RESOURCES: usize = 500;
/// Most vaults of a session or a deployment.
pub const MAX_VAULTS: usize = 50;
/// Most memory stores among the resources of a session or a deployment.
pub const MAX_MEMORY_STORES: usize = 8;
/// Most characters of the instructions for a memory store.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// A session as the API shows it.
#[derive(Debug, Serialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Always `session`.
    pub r#type: &'static str,
    /// Whether the agent works, waits or has ended.
    pub status: Status,
    /// The snapshot that runs.
    pub agent: Box<RawValue>,
    /// Where its tools run.
    pub environment_id: EnvironmentId,
    /// The deployment that started it.
    pub deployment_id: Option<DeploymentId>,
    /// A title for people.
    pub title: Option<String>,
    /// Free pairs.
    pub metadata: Box<RawValue>,
    /// The most it may spend. None is enforced, so it is always null.
    pub budget: Option<Value>,
    /// What is mounted.
    pub resources: Box<RawValue>,
    /// Where its credentials are.
    pub vault_ids: Box<RawValue>,
    /// How its outcomes fare.
    pub outcome_evaluations: Box<RawValue>,
    /// How long it has worked.
    pub stats: Stats,
    /// What it has used.
    pub usage: SessionUsage,
    /// When it was created.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

names! {
    /// Whether a session works, waits or has ended.
    Status {
        /// It waits for the client.
        "idle" => Idle,
        /// It works.
        "running" => Running,
        /// It waits to retry after a transient error.
        "rescheduling" => Rescheduling,
        /// It has ended for good.
        "terminated" => Terminated,
    }
}

/// How long a session has worked.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stats {
    /// Seconds spent running.
    pub active_seconds: f64,
    /// Seconds since creation, until the end where there is one.
    pub duration_seconds: f64,
}

/// What a session has used, over all turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionUsage {
    /// Tokens read, without those of the cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: u64,
    /// Tokens written to the prompt cache; null before the first turn.
    pub cache_creation: Option<CacheCreation>,
    /// Seconds spent running.
    pub active_seconds: f64,
    /// What the tokens cost; absent until a model with a price has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_cost: Option<MonetaryAmount>,
    /// The same in billionths of a dollar. Not on the wire.
    #[serde(skip)]
    pub cost_nanos: Option<u64>,
    /// Calls of the web tools that the server has answered.
    #[serde(default)]
    pub server_tool_use: ServerToolUse,
}

/// Calls of the web tools that were answered with what was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerToolUse {
    /// Pages.
    pub web_fetch_requests: u64,
    /// Searches, also those of which nothing was left.
    pub web_search_requests: u64,
}

/// An amount of US dollars in whole cents: `{"amount": "125", "currency": "USD"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonetaryAmount {
    #[serde(rename = "amount", with = "cents")]
    cents: u64,
    currency: Currency,
}

/// The currency of an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Currency {
    Usd,
}

impl MonetaryAmount {
    /// Billionths of a dollar, rounded to the nearest cent.
    pub fn from_nanos(nanos: u64) -> Self {
        const CENT: u64 = 10_000_000;
        Self { cents: nanos.saturating_add(CENT / 2) / CENT, currency: Currency::Usd }
    }
}

/// Cents are a string of digits.
mod cents {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    pub(super) fn serialize<S: Serializer>(cents: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cents)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Tokens written to the prompt cache, by how long they stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCreation {
    /// For five minutes.
    pub ephemeral_5m_input_tokens: u64,
    /// For one hour.
    pub ephemeral_1h_input_tokens: u64,
}

/// A create request.
#[derive(Debug)]
pub struct CreateSession {
    /// The agent.
    pub agent: AgentChoice,
    /// What differs from the agent.
    pub overrides: Overrides,
    /// The environment, unchecked.
    pub environment_id: String,
    /// A title for people.
    pub title: Option<String>,
    /// Free pairs.
    pub metadata: Metadata,
    /// What to mount.
    pub resources: Vec<Resource>,
    /// Where credentials are, unchecked.
    pub vault_ids: Vec<String>,
    /// Whether a spend ceiling was asked for.
    pub budget: Option<Value>,
    /// The first events, as they were sent.
    pub initial_events: Vec<Value>,
}

impl CreateSession {
    /// Reads the body of a create request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Sessions);
        let (agent, overrides) = read_agent(&o.required("agent")?)?;
        Ok(Self {
            agent,
            overrides,
            environment_id: o.required("environment_id")?.text(1, 128)?,
            title: o.optional("title").map(|n| n.text(0, MAX_TITLE)).transpose()?,
            metadata: metadata::create(o.optional("metadata"))?,
            resources: read_resources(o.optional("resources"))?,
            vault_ids: read_vault_ids(o.optional("vault_ids"))?,
            budget: o.optional("budget").map(|n| read_budget(&n)).transpose()?,
            initial_events: match o.optional("initial_events") {
                Some(node) => event::read_session_events(&node)?,
                None => Vec::new(),
            },
        })
    }
}

/// What a session changes of its agent. `None` inherits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// Another model.
    pub model: Option<ModelConfig>,
    /// Another system prompt, or none.
    pub system: Option<Option<String>>,
    /// Other tools.
    pub tools: Option<Vec<Tool>>,
    /// Other MCP servers.
    pub mcp_servers: Option<Vec<McpServer>>,
    /// Other skills.
    pub skills: Option<Vec<Skill>>,
}

fn read_agent(node: &Node<'_>) -> Decoded<(AgentChoice, Overrides)> {
    let selector = node.under("selector");
    if !node.value().is_object() {
        return Ok((agent::read_choice(node, false)?, Overrides::default()));
    }
    if selector.tag()? != "agent_with_overrides" {
        return Ok((agent::read_choice(&selector, false)?, Overrides::default()));
    }
    node.of_kind("agent_with_overrides").of_kind("config").object(|o| {
        o.tagged();
        let id = o.required("id")?.text(1, 128)?;
        let version = o.optional("version").map(|n| n.integer(1, i64::MAX)).transpose()?;
        let overrides = Overrides {
            model: match o.patch("model") {
                Patch::Keep => None,
                Patch::Clear => return Err(o.invalid("model", "agent_model_required: the model cannot be cleared")),
                Patch::Set(n) => Some(agent::read_model(&n)?.resolved()),
            },
            system: match o.patch("system") {
                Patch::Keep => None,
                Patch::Clear => Some(None),
                Patch::Set(n) => Some(agent::text_or_none(&n, agent::MAX_SYSTEM)?),
            },
            tools: replaced(o.patch("tools"), agent::read_tools)?,
            mcp_servers: replaced(o.patch("mcp_servers"), agent::read_mcp_servers)?,
            skills: replaced(o.patch("skills"), agent::read_skills)?,
        };
        let choice = version.map_or_else(|| AgentChoice::Latest(id.clone()), |v| AgentChoice::Pinned(id.clone(), v));
        Ok((choice, overrides))
    })
}

fn replaced<T>(patch: Patch<Node<'_>>, read: impl Fn(&Node<'_>) -> Decoded<Vec<T>>) -> Decoded<Option<Vec<T>>> {
    match patch {
        Patch::Keep => Ok(None),
        Patch::Clear => Ok(Some(Vec::new())),
        Patch::Set(node) => read(&node).map(Some),
    }
}

/// An update request.
#[derive(Debug)]
pub struct UpdateSession {
    /// The title.
    pub title: Patch<String>,
    /// Pairs to set and to delete.
    pub metadata: Changes,
    /// New tools.
    pub tools: Option<Vec<Tool>>,
    /// New MCP servers.
    pub mcp_servers: Option<Vec<McpServer>>,
    /// The spend ceiling: null removes it, a value replaces it.
    pub budget: Patch<Value>,
}

impl UpdateSession {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Sessions);
        if let Some(node) = o.optional("vault_ids") {
            return Err(node.invalid("not yet supported"));
        }
        let (tools, mcp_servers) = match o.optional("agent") {
            None => (None, None),
            Some(node) => node.object(|o| {
                let tools = o.optional("tools").map(|n| agent::read_tools(&n)).transpose()?;
                let servers = o.optional("mcp_servers").map(|n| agent::read_mcp_servers(&n)).transpose()?;
                Ok((tools, servers))
            })?,
        };
        Ok(Self {
            title: o.patch("title").read(|n| n.text(0, MAX_TITLE))?,
            metadata: Changes::read(o.patch("metadata"))?,
            tools,
            mcp_servers,
            budget: o.patch("budget").read(read_budget)?,
        })
    }
}

/// A spend ceiling: `{"type": "limit", "max_list_cost": {"amount": "125", "currency": "USD"}}`, whole cents.
pub fn read_budget(node: &Node<'_>) -> Decoded<Value> {
    node.object(|o| {
        match node.tag()? {
            "limit" => o.tagged(),
            other => return Err(node.wrong_tag(other)),
        }
        o.required("max_list_cost")?.object(|o| {
            o.required("currency")?.one_of(&["USD"])?;
            let amount = o.required("amount")?;
            let text = amount.text(1, 18)?;
            if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(amount.invalid("must be a whole number of cents greater than zero, without leading zeros"));
            }
            Ok(())
        })?;
        Ok(node.value().clone())
    })
}

/// Something that is mounted into a session, as a deployment or a create request names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Resource {
    /// An uploaded file.
    File {
        /// The file.
        file_id: String,
        /// Where it is mounted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mount_path: Option<String>,
    },
    /// A git repository.
    GithubRepository(Repository),
    /// A memory store.
    MemoryStore {
        /// The store.
        memory_store_id: String,
        /// What the agent may do with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        access: Option<Access>,
        /// How the agent should use it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instructions: Option<String>,
    },
}

names! {
    /// What an agent may do with a memory store.
    Access {
        /// Read it and change it.
        "read_write" => ReadWrite,
        /// Read it.
        "read_only" => ReadOnly,
    }
}

/// Where the files of a session are mounted.
pub const UPLOADS: &str = "/mnt/session/uploads";
/// Most bytes of one name on the way to a mounted file.
const MAX_MOUNT_NAME: usize = 255;

/// The path of a mounted file below [`UPLOADS`], by what was asked for: a path is rooted there, and without one it is the id of
/// the file.
///
/// # Errors
/// When the path leads nowhere below it.
pub fn upload_path(mount_path: Option<&str>, file_id: &str) -> Result<String, &'static str> {
    let Some(asked) = mount_path else { return Ok(file_id.to_owned()) };
    let below = [UPLOADS, "/uploads"].iter().find_map(|root| asked.strip_prefix(*root)?.strip_prefix('/'));
    let names: Vec<&str> = below.unwrap_or(asked).split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err("must not contain `..`");
    }
    if names.is_empty() {
        return Err("must name a file");
    }
    if names.iter().any(|name| name.len() > MAX_MOUNT_NAME || name.chars().any(char::is_control)) {
        return Err("each name in it must have at most 255 bytes, and no control character");
    }
    Ok(names.join("/"))
}

/// Whether of two paths one is the other, or in it.
pub fn overlap(a: &str, b: &str) -> bool {
    let is_in = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    is_in(a, b) || is_in(b, a)
}

/// The error for two files that would be mounted at, or below, one place.
pub fn overlapping(a: &str, b: &str) -> String {
    format!(
        "Invalid `file` resource: `mount_path` overlaps another resource: {UPLOADS}/{a} and {UPLOADS}/{b}; set distinct \
         `mount_path` values"
    )
}

/// A file that is mounted, as the API shows it among the resources of a session.
#[derive(Debug, Serialize)]
pub struct FileResource {
    /// Its id.
    pub id: SessionResourceId,
    /// Always `file`.
    pub r#type: &'static str,
    /// The session's own copy of the file.
    pub file_id: FileId,
    /// Where it is, in full.
    pub mount_path: String,
    /// When it was mounted.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
}

/// A file to be mounted into a session that is there.
#[derive(Debug)]
pub struct AddResource {
    /// The file.
    pub file_id: String,
    /// Where it is to be, below [`UPLOADS`].
    pub path: String,
}

impl AddResource {
    /// Reads the body of a request that adds a resource. Only files can be.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Sessions);
        let r#type = o.required("type")?.text(1, 128)?;
        if ResourceKind::from_name(&r#type) != Some(ResourceKind::File) {
            let message = format!("Failed to parse request: type: \"{type}\" is not a valid value");
            return Err(Invalid::request(message));
        }
        let file_id = o.required("file_id")?.text(1, 128)?;
        let path = read_mount_path(o, &file_id)?.1;
        Ok(Self { file_id, path })
    }
}

/// The credential of a repository, to be replaced.
#[derive(Debug)]
pub struct UpdateResource {
    /// The new one.
    pub authorization_token: Secret,
}

impl UpdateResource {
    /// Reads the body of a request that changes a resource.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Sessions);
        Ok(Self { authorization_token: repository::read_token(&o.required("authorization_token")?)? })
    }
}

/// The path of a file as it was sent, and below [`UPLOADS`].
fn read_mount_path(o: &mut Object<'_>, file_id: &str) -> Decoded<(Option<String>, String)> {
    let node = o.optional("mount_path");
    let sent = node.as_ref().map(|n| n.text(1, 4096)).transpose()?;
    match (upload_path(sent.as_deref(), file_id), &node) {
        (Ok(path), _) => Ok((sent, path)),
        (Err(problem), Some(node)) => Err(node.invalid(problem)),
        (Err(problem), None) => Err(Invalid::request(problem)),
    }
}

/// The resources of a create request.
pub fn read_resources(node: Option<Node<'_>>) -> Decoded<Vec<Resource>> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let resources = node.items(0, MAX_RESOURCES, read_resource)?;
    let mut stores = BTreeSet::new();
    for resource in &resources {
        let Resource::MemoryStore { memory_store_id, .. } = resource else { continue };
        if !stores.insert(memory_store_id) {
            let message = format!("resources contains duplicate memory_store_id: {memory_store_id}");
            return Err(Invalid::request(message));
        }
    }
    let mut files: Vec<(&str, String)> = Vec::new();
    for resource in &resources {
        let Resource::File { file_id, mount_path } = resource else { continue };
        let path = upload_path(mount_path.as_deref(), file_id).map_err(Invalid::request)?;
        // The same file may be at one place twice.
        if let Some((_, other)) =
            files.iter().find(|(other, at)| overlap(at, &path) && (*other, at) != (file_id, &path))
        {
            return Err(Invalid::request(overlapping(other, &path)));
        }
        files.push((file_id, path));
    }
    let mut repositories: Vec<String> = Vec::new();
    for resource in &resources {
        let Resource::GithubRepository(repository) = resource else { continue };
        // Of a URL that names no repository more is told by who knows the hosts.
        let Ok(path) = repository.path() else { continue };
        if let Some(other) = repositories.iter().find(|other| overlap(other, &path)) {
            return Err(Invalid::request(repository::overlapping(other, &path)));
        }
        repositories.push(path);
    }
    if stores.len() > MAX_MEMORY_STORES {
        return Err(node.invalid(format_args!("at most {MAX_MEMORY_STORES} memory stores can be attached")));
    }
    Ok(resources)
}

names! {
    /// What can be mounted into a session.
    ResourceKind {
        /// A file, below the uploads.
        "file" => File,
        /// A clone of a repository.
        "github_repository" => GithubRepository,
        /// The memories of a store.
        "memory_store" => MemoryStore,
    }
}

fn read_resource(node: &Node<'_>) -> Decoded<Resource> {
    let tag = node.tag_of(ResourceKind::NAMES)?;
    let kind = ResourceKind::from_name(tag).ok_or_else(|| node.wrong_tag(tag))?;
    node.of_kind(tag).object(|o| {
        o.tagged();
        match kind {
            ResourceKind::File => {
                let file_id = o.required("file_id")?.text(1, 128)?;
                let mount_path = read_mount_path(o, &file_id)?.0;
                Ok(Resource::File { file_id, mount_path })
            }
            ResourceKind::GithubRepository => Repository::read(o).map(Resource::GithubRepository),
            ResourceKind::MemoryStore => Ok(Resource::MemoryStore {
                memory_store_id: o.required("memory_store_id")?.text(1, 128)?,
                access: o.kept("access", Access::decode)?,
                instructions: o.optional("instructions").map(|n| n.text(0, MAX_INSTRUCTIONS)).transpose()?,
            }),
        }
    })
}

/// The vaults of a create request.
pub fn read_vault_ids(node: Option<Node<'_>>) -> Decoded<Vec<String>> {
    node.map_or(Ok(Vec::new()), |n| n.items(0, MAX_VAULTS, |n| n.text(1, 128)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_file_is_rooted_below_the_uploads() {
        for (asked, path) in [
            (None, Ok("file_1")),
            (Some("/tmp/elsewhere.txt"), Ok("tmp/elsewhere.txt")),
            (Some("/uploads/x"), Ok("x")),
            (Some("/mnt/session/uploads/a//b/./c"), Ok("a/b/c")),
            (Some("data.csv"), Ok("data.csv")),
            (Some("/mnt/session/uploads-2/x"), Ok("mnt/session/uploads-2/x")),
            (Some("/mnt/session/uploads/../outputs/x"), Err("must not contain `..`")),
            (Some("/mnt/session/uploads/"), Err("must name a file")),
        ] {
            assert_eq!(upload_path(asked, "file_1"), path.map(str::to_owned), "{asked:?}");
        }
        assert!(upload_path(Some("a\nb"), "file_1").is_err() && upload_path(Some(&"x".repeat(256)), "file_1").is_err());
    }

    #[test]
    fn two_paths_overlap_when_one_is_in_the_other() {
        for (a, b, overlaps) in
            [("a", "a", true), ("a", "a/b", true), ("a/b", "a", true), ("a", "ab", false), ("a/b", "a/c", false)]
        {
            assert_eq!(overlap(a, b), overlaps, "{a} {b}");
        }
    }
}
