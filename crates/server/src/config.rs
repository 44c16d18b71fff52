//! The server's configuration: `rota.toml`, and what the command line puts over it.

use std::{
    collections::BTreeMap,
    fmt, iter,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
};

use jiff::SignedDuration;
use rota_api::{
    Time,
    agent::BuiltInTool,
    model::{Lifecycle, Line},
    policy::{Jitter, MAX_CATCH_UP_SECONDS},
    repository::GITHUB,
    retention::{MAX_DAYS, MAX_LOG_DAYS},
};
use serde::Deserialize;

use crate::{
    error::{Error, Result},
    limits::{
        CHECKPOINT_MIB, CLONE_FILES, CLONE_MIB, CLONE_SECONDS, DRAIN_SECONDS, DRAIN_SECONDS_RANGE, EGRESS_SESSION_MIB,
        LEAST_THINKING_TOKENS, MAX_CONCURRENCY, MAX_CONNECTIONS, MAX_CONTAINER_NAME, MAX_EGRESS_PORTS, MAX_GIT_HOSTS,
        MAX_MODEL_FALLBACKS, MAX_MODEL_TOKENS, MAX_NEVER_OPEN, MAX_PRICE, MAX_SANDBOX_PLACES, MCP_CALL_SECONDS,
        MCP_CONNECT_SECONDS, MCP_SECONDS_RANGE, MODEL_RATE, MODEL_TRIES, MODEL_TRIES_RANGE, PACKAGES_MIB,
        PACKAGES_SECONDS, PACKAGES_SECONDS_RANGE, PACKAGES_SETTINGS, PACKAGES_STORE_MIB, SANDBOX_CPUS,
        SANDBOX_DISK_MIB, SANDBOX_MEMORY_MIB, SANDBOX_PROCESSES, SESSIONS_PER_MINUTE, UNATTENDED_MODEL_TRIES,
        WORKSPACE_FILES_MIB,
    },
    scheduler::settle::Timing,
};

/// Everything that can be configured. Unknown keys are errors.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder that holds the sandboxes and, unless there is a `database`, the store. Made when it is missing.
    pub data: PathBuf,
    /// The PostgreSQL database that is the store, shared by every server that is given it. Absent: SQLite in `data`.
    pub database: Option<DatabaseUrl>,
    /// What is logged: a level, or a filter. `info` when absent.
    pub log: Option<String>,
    /// The address to listen on.
    pub listen: String,
    /// What this server does of what servers on one store do together.
    pub roles: Roles,
    /// How requests come in.
    pub http: HttpConfig,
    /// Who may read the metrics.
    pub metrics: MetricsConfig,
    /// Where traces go.
    pub telemetry: TelemetryConfig,
    /// The models on offer, besides the built-in `playbook`.
    pub models: Vec<ModelConfig>,
    /// How deployments keep their times.
    pub scheduler: SchedulerConfig,
    /// How sessions are run.
    pub engine: EngineConfig,
    /// How sandboxes are made.
    pub sandbox: SandboxConfig,
    /// What sandboxes reach.
    pub network: NetworkConfig,
    /// What a workspace may do how often.
    pub rate: RateConfig,
    /// How webhooks are sent.
    pub webhooks: WebhooksConfig,
    /// Where the content of files is.
    pub blobs: BlobsConfig,
    /// How secrets are sealed, and where OAuth tokens are renewed.
    pub vault: VaultConfig,
    /// Which repositories sessions can mount.
    pub git: GitConfig,
    /// How MCP servers are reached.
    pub mcp: McpConfig,
    /// How the packages of environments are installed.
    pub packages: PackagesConfig,
    /// What agents see of the web through this server.
    pub web: WebConfig,
    /// How long things are kept.
    pub retention: RetentionConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("rota-data"),
            database: None,
            log: None,
            listen: "127.0.0.1:7420".to_owned(),
            roles: Roles::default(),
            http: HttpConfig::default(),
            metrics: MetricsConfig::default(),
            telemetry: TelemetryConfig::default(),
            models: Vec::new(),
            scheduler: SchedulerConfig::default(),
            engine: EngineConfig::default(),
            sandbox: SandboxConfig::default(),
            network: NetworkConfig::default(),
            rate: RateConfig::default(),
            webhooks: WebhooksConfig::default(),
            blobs: BlobsConfig::default(),
            vault: VaultConfig::default(),
            git: GitConfig::default(),
            mcp: McpConfig::default(),
            packages: PackagesConfig::default(),
            web: WebConfig::default(),
            retention: RetentionConfig::default(),
        }
    }
}

/// Where a PostgreSQL database is: `postgres://user:password@host:port/name`. It may hold a password, so it is not shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(pub String);

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://…")
    }
}

impl FromStr for DatabaseUrl {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Something that a server does, or leaves to other servers on the same store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Answers requests under `/v1` and `/rota`.
    Api,
    /// Fires what is due.
    Scheduler,
    /// Runs sessions and their sandboxes.
    Runner,
    /// Delivers webhooks.
    Webhooks,
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "api" => Ok(Self::Api),
            "scheduler" => Ok(Self::Scheduler),
            "runner" => Ok(Self::Runner),
            "webhooks" => Ok(Self::Webhooks),
            _ => Err(Error::invalid(format_args!("roles: \"{name}\" is not one of api, scheduler, runner, webhooks"))),
        }
    }
}

/// The roles of a server; all of them by default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Roles(Vec<Role>);

impl Default for Roles {
    fn default() -> Self {
        Self(vec![Role::Api, Role::Scheduler, Role::Runner, Role::Webhooks])
    }
}

impl Roles {
    /// Whether the server does this.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().collect())
    }
}

/// How requests come in: `[http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// The names by which clients reach this server, as a proxy in front of it passes them on in the `Host` header.
    /// IP addresses and `localhost` need no naming. Empty: on a loopback address no other name is answered, on any other
    /// address every name is.
    pub hosts: Vec<String>,
    /// Connections that are open at the same time.
    pub connections: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { hosts: Vec::new(), connections: MAX_CONNECTIONS }
    }
}

impl HttpConfig {
    fn check(&self) -> Result<()> {
        let is_name = |name: &String| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        };
        if let Some(wrong) = self.hosts.iter().find(|name| !is_name(name)) {
            return Err(Error::invalid(format_args!("http.hosts: \"{wrong}\" is not a host name without a port")));
        }
        within("http.connections", self.connections, &(1..=1_000_000))
    }
}

/// How long things are kept, in days: `[retention]`. Absent: for ever, as the hosted service does; deliveries of webhooks and
/// the egress log for 30 days. Workspaces and deployments can say otherwise of theirs, but for the audit list.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Sessions at rest, with their events and files, after they came to rest.
    pub sessions_days: Option<u32>,
    /// Files that agents left in their outputs, after their session came to rest.
    pub outputs_days: Option<u32>,
    /// Runs and what became of occurrences.
    pub runs_days: Option<u32>,
    /// Deliveries of webhooks that are no longer tried.
    pub deliveries_days: Option<u32>,
    /// The egress log.
    pub egress_days: Option<u32>,
    /// The audit list.
    pub audit_days: Option<u32>,
}

impl RetentionConfig {
    fn check(&self) -> Result<()> {
        for (key, days, most) in [
            ("sessions_days", self.sessions_days, MAX_DAYS),
            ("outputs_days", self.outputs_days, MAX_DAYS),
            ("runs_days", self.runs_days, MAX_DAYS),
            ("deliveries_days", self.deliveries_days, MAX_LOG_DAYS),
            ("egress_days", self.egress_days, MAX_LOG_DAYS),
            ("audit_days", self.audit_days, MAX_DAYS),
        ] {
            within(&format!("retention.{key}"), i64::from(days.unwrap_or(1)), &(1..=most))?;
        }
        Ok(())
    }
}

/// Who may read the metrics: `[metrics]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// An address of their own to listen on. They are then not on the server's own address any more.
    pub listen: Option<String>,
    /// The environment variable that holds the key with which they are read, as `Authorization: Bearer`. Absent: they
    /// need none.
    pub key_env: Option<String>,
}

/// Where traces go: `[telemetry]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// The collector: the address before `/v1/traces`, to which OTLP is sent over HTTP as JSON. Absent: nothing is noted.
    pub otlp_endpoint: Option<String>,
    /// The environment variable that holds headers for it, as a key: `name=value`, with commas between them.
    pub otlp_headers_env: Option<String>,
    /// Whether what is said in sessions goes there too: prompts, replies, calls of tools and their results.
    pub content: bool,
}

/// A model on offer: an entry of `[[models]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The name that agents use.
    pub id: String,
    /// Who answers.
    pub provider: Provider,
    /// A name for people; the id when absent.
    pub display_name: Option<String>,
    /// The name that the upstream knows the model by; the id when absent.
    pub upstream: Option<String>,
    /// Where the upstream is, for example `https://api.anthropic.com`, or `http://127.0.0.1:11434/v1` for `openai`.
    pub base_url: Option<String>,
    /// The environment variable that holds the upstream's key.
    pub api_key_env: Option<String>,
    /// Send the key as `Authorization: Bearer` and not as `x-api-key`. To an upstream of `openai` it always is.
    #[serde(default)]
    pub bearer: bool,
    /// Most tokens of a reply.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// Most tokens of a request, for clients to read.
    pub max_input_tokens: Option<u32>,
    /// What it costs. Absent: sessions of this model show no cost.
    pub price: Option<PriceConfig>,
    /// Other names that agents can use for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// When it was released, for clients to read: the list has the newest first.
    pub released_at: Option<Time>,
    /// How far it is on its way out. A `retired` one is listed when it is asked for, and never called.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// When it was deprecated. It is said of each model that is not `active`, and of no other.
    pub deprecated_at: Option<Time>,
    /// When it retires, or has retired. Not of an `active` one.
    pub retires_at: Option<Time>,
    /// The model line that it belongs to, if it belongs to one that the API has a name for.
    pub line: Option<Line>,
    /// The ids of other entries, which are asked in this order when this upstream cannot answer.
    #[serde(default)]
    pub fallbacks: Vec<String>,
    /// Most requests that are under way at the same time. Absent: no bound of its own.
    pub concurrency: Option<usize>,
    /// Most requests in a second. Absent: what the upstream's answers say.
    pub requests_per_second: Option<f64>,
    /// The version of the Messages API that requests name; `2023-06-01` when absent.
    pub api_version: Option<String>,
    /// How a model behind the Messages API is asked to think: `adaptive`, or most tokens of it. Absent: it is not asked.
    pub thinking: Option<ThinkingConfig>,
    /// The field in which an upstream of chat completions is sent back what it thought. Absent: it is not sent back.
    pub reasoning_field: Option<ReasoningFieldConfig>,
}

/// How a model is asked to think: `thinking` of an entry of `[[models]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "thinking is \"adaptive\" or a number of tokens")]
pub enum ThinkingConfig {
    /// As much as the model finds right.
    Named(AdaptiveThinking),
    /// At most so many tokens.
    Budget(u32),
}

/// The one word for how much a model thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdaptiveThinking {
    /// As much as it finds right.
    Adaptive,
}

/// Where an upstream of chat completions wants its reasoning back: `reasoning_field` of an entry of `[[models]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningFieldConfig {
    /// `reasoning_content`.
    ReasoningContent,
    /// `reasoning`.
    Reasoning,
}

impl ModelConfig {
    /// The names that agents can use.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        iter::once(&self.id).chain(&self.aliases)
    }

    fn check(&self, earlier: &[Self]) -> Result<()> {
        let id = &self.id;
        let taken = |name: &str| earlier.iter().flat_map(Self::names).any(|earlier| earlier == name);
        if id.is_empty() || taken(id) {
            return Err(Error::invalid(format_args!("models: the id \"{id}\" is empty or not unique")));
        }
        let alias_is_wrong = |(i, alias): (usize, &String)| {
            alias.is_empty() || alias == id || taken(alias) || self.aliases[..i].contains(alias)
        };
        if self.aliases.iter().enumerate().any(alias_is_wrong) {
            return Err(Error::invalid(format_args!("models: \"{id}\": an alias is empty or not unique")));
        }
        if self.provider != Provider::Playbook && self.base_url.is_none() {
            return Err(Error::invalid(format_args!("models: \"{id}\" needs a base_url")));
        }
        let tokens = 1..=MAX_MODEL_TOKENS;
        within(&format!("models: \"{id}\": max_tokens"), self.max_tokens, &tokens)?;
        within(&format!("models: \"{id}\": max_input_tokens"), self.max_input_tokens.unwrap_or(1), &tokens)?;
        self.check_upstream()?;
        let is_price = |dollars: f64| (0.0..=MAX_PRICE).contains(&dollars);
        if self.price.is_some_and(|price| !price.all().all(is_price)) {
            return Err(Error::invalid(format_args!("models: \"{id}\": a price is 0 to {MAX_PRICE} US dollars")));
        }
        match self.lifecycle {
            Lifecycle::Active if self.deprecated_at.is_some() || self.retires_at.is_some() => {
                Err(Error::invalid(format_args!(
                    "models: \"{id}\": deprecated_at and retires_at are not of an active model: set lifecycle"
                )))
            }
            Lifecycle::Deprecated | Lifecycle::Retired if self.deprecated_at.is_none() => {
                let lifecycle = self.lifecycle.as_str();
                Err(Error::invalid(format_args!("models: \"{id}\": a {lifecycle} model needs deprecated_at")))
            }
            _ => Ok(()),
        }
    }
}

impl ModelConfig {
    /// What an entry says of how its upstream is spoken to.
    fn check_upstream(&self) -> Result<()> {
        let id = &self.id;
        let of_another = [
            ("api_version", self.api_version.is_some(), Provider::Messages),
            ("thinking", self.thinking.is_some(), Provider::Messages),
            ("reasoning_field", self.reasoning_field.is_some(), Provider::OpenAi),
        ];
        if let Some((key, _, _)) = of_another.iter().find(|(_, is_set, of)| *is_set && *of != self.provider) {
            return Err(Error::invalid(format_args!(
                "models: \"{id}\": {key} says nothing to an upstream of this provider: leave it out"
            )));
        }
        within(&format!("models: \"{id}\": concurrency"), self.concurrency.unwrap_or(1), &(1..=MAX_CONCURRENCY))?;
        let rate = self.requests_per_second.unwrap_or(1.0);
        within(&format!("models: \"{id}\": requests_per_second"), rate, &MODEL_RATE)?;
        if let Some(ThinkingConfig::Budget(tokens)) = self.thinking {
            let most = self.max_tokens.saturating_sub(1).max(LEAST_THINKING_TOKENS);
            within(&format!("models: \"{id}\": thinking"), tokens, &(LEAST_THINKING_TOKENS..=most))?;
        }
        Ok(())
    }

    /// That the fallbacks are other entries that can be asked.
    fn check_fallbacks(&self, all: &[Self]) -> Result<()> {
        let id = &self.id;
        within(
            &format!("models: \"{id}\": fallbacks: how many there are"),
            self.fallbacks.len(),
            &(0..=MAX_MODEL_FALLBACKS),
        )?;
        for (i, fallback) in self.fallbacks.iter().enumerate() {
            let entry = all.iter().find(|model| model.id == *fallback);
            let problem = match entry {
                _ if fallback == id || self.fallbacks[..i].contains(fallback) => "is there twice",
                None => "is not the id of another entry",
                Some(entry) if entry.lifecycle == Lifecycle::Retired => "is retired",
                Some(_) => continue,
            };
            return Err(Error::invalid(format_args!("models: \"{id}\": fallbacks: \"{fallback}\" {problem}")));
        }
        Ok(())
    }
}

/// What a model costs, in US dollars for a million tokens: `price` of an entry of `[[models]]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// Tokens read, without those of the cache.
    pub input: f64,
    /// Tokens written.
    pub output: f64,
    /// Tokens read from the prompt cache; `input` when absent.
    pub cache_read: Option<f64>,
    /// Tokens written to the prompt cache for five minutes; `input` when absent.
    pub cache_write_5m: Option<f64>,
    /// Tokens written to the prompt cache for one hour; `input` when absent.
    pub cache_write_1h: Option<f64>,
}

impl PriceConfig {
    fn all(&self) -> impl Iterator<Item = f64> {
        let cached = [self.cache_read, self.cache_write_5m, self.cache_write_1h];
        [self.input, self.output].into_iter().chain(cached.into_iter().flatten())
    }
}

/// Most tokens of a reply, unless a model is configured otherwise.
pub const DEFAULT_MAX_TOKENS: u32 = 16_000;

fn default_max_tokens() -> u32 {
    DEFAULT_MAX_TOKENS
}

/// Who answers for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// An upstream that speaks the Anthropic Messages API.
    Messages,
    /// An upstream that speaks OpenAI's chat completions.
    #[serde(rename = "openai")]
    OpenAi,
    /// The built-in model that runs the fenced blocks of a message.
    Playbook,
}

/// How deployments keep their times: `[scheduler]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Whether deployments that share a time are spread.
    pub jitter: Jitter,
    /// How long after its time an occurrence still fires that nothing was there to fire. A minute is always forgiven.
    pub catch_up_seconds: u32,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { jitter: Jitter::OFF, catch_up_seconds: 3600 }
    }
}

impl SchedulerConfig {
    /// The same for the scheduler.
    pub fn timing(&self) -> Timing {
        Timing { jitter: self.jitter, catch_up: SignedDuration::from_secs(i64::from(self.catch_up_seconds)) }
    }
}

/// How sessions are run: `[engine]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Sessions that are at work on this machine at the same time; those that wait for a call of a tool are not counted. 0:
    /// this server runs none, it only accepts them.
    pub concurrency: usize,
    /// Tries of one request to a model, the first included. The pauses between them grow from a second to a minute; a wait that
    /// the upstream asks for is no try.
    pub model_tries: u32,
    /// The same in a session that a deployment started, where nobody may be there to send a message again.
    pub unattended_model_tries: u32,
    /// How long calls and requests to models that are under way may go on when the server is told to end.
    pub drain_seconds: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            concurrency: 64,
            model_tries: MODEL_TRIES,
            unattended_model_tries: UNATTENDED_MODEL_TRIES,
            drain_seconds: DRAIN_SECONDS,
        }
    }
}

/// What sandboxes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Rota's own namespaces.
    Embedded,
    /// Containers of Docker, or of another daemon that speaks its API.
    Docker,
    /// Containers of Podman.
    Podman,
}

impl SandboxConfig {
    /// The image of `rota images` that sandboxes are made from whose environment says none.
    pub fn own_image(&self) -> Option<&String> {
        self.image.as_ref().filter(|_| self.backend == Backend::Embedded)
    }

    fn check(&self) -> Result<()> {
        if self.backend == Backend::Embedded {
            for (key, is_set) in [("socket", self.socket.is_some()), ("runtime", self.runtime.is_some())] {
                if is_set {
                    return Err(Error::invalid(format_args!(
                        "sandbox.{key}: only containers have one; set backend = \"docker\" or \"podman\", or leave the key out"
                    )));
                }
            }
            let Some(image) = &self.image else { return Ok(()) };
            if !rota_sandbox::is_name(image) {
                return Err(Error::invalid(format_args!("sandbox.image: \"{image}\" is no name of an image")));
            }
            if self.root_fs.is_some() {
                return Err(Error::invalid("sandbox: name a root_fs or an image, not both"));
            }
            return Ok(());
        }
        if self.root_fs.is_some() {
            return Err(Error::invalid(
                "sandbox.root_fs: containers have the root of their image; leave the key out, or set backend = \"embedded\"",
            ));
        }
        let Some(image) = &self.image else {
            return Err(Error::invalid(
                "sandbox.image: name the image that containers are made from, as the daemon knows it: image = \"docker.io/library/debian:12\"",
            ));
        };
        let is_plain = |text: &str, more: &str| {
            (1..=MAX_CONTAINER_NAME).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.as_bytes().contains(&byte))
        };
        if !is_plain(image, "._-/:@") {
            return Err(Error::invalid(format_args!("sandbox.image: \"{image}\" is no reference of an image")));
        }
        if let Some(runtime) = self.runtime.as_ref().filter(|runtime| !is_plain(runtime, "._-/")) {
            return Err(Error::invalid(format_args!("sandbox.runtime: \"{runtime}\" is no name of a runtime")));
        }
        Ok(())
    }

    /// The daemon whose containers sandboxes are, for the server of this name.
    pub fn containers(&self, server: &str) -> Option<rota_sandbox::Containers> {
        let (engine, usual) = match self.backend {
            Backend::Embedded => return None,
            Backend::Docker => (rota_sandbox::Engine::Docker, "/var/run/docker.sock"),
            Backend::Podman => (rota_sandbox::Engine::Podman, "/run/podman/podman.sock"),
        };
        Some(rota_sandbox::Containers {
            engine,
            socket: self.socket.clone().unwrap_or_else(|| usual.into()),
            image: self.image.clone()?,
            runtime: self.runtime.clone(),
            server: server.to_owned(),
        })
    }
}

/// How sandboxes are made: `[sandbox]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// What sandboxes are.
    pub backend: Backend,
    /// A folder with a root file system for sandboxes. Absent: the host's own programs, read-only.
    pub root_fs: Option<PathBuf>,
    /// The name of the image that sandboxes are made from whose environment says none. Absent: `root_fs`, or the host's own programs.
    /// Of containers: the image that all of them are made from, as their daemon knows it.
    pub image: Option<String>,
    /// Of containers: the Unix socket of their daemon. Absent: where root's daemon has it.
    pub socket: Option<PathBuf>,
    /// Of containers: the runtime that starts them, as their daemon knows it. Absent: the daemon's own choice.
    pub runtime: Option<String>,
    /// Most sandboxes that are up at the same time, at least 1. Idle ones end when another session needs the room; a call
    /// waits until there is some.
    pub places: usize,
    /// Most memory of one sandbox, in MiB.
    pub memory_mib: u64,
    /// Most processes of one sandbox.
    pub processes: u32,
    /// Most processor time of one sandbox, in processors.
    pub cpus: f64,
    /// Most bytes on disk of one sandbox, in MiB.
    pub disk_mib: u64,
    /// Whether the files of sessions at rest are kept with those of users, so that another server goes on with them when this
    /// one is lost.
    pub checkpoints: bool,
    /// Most bytes of the files of a session that are kept so, in MiB.
    pub checkpoint_mib: u64,
    /// The program that becomes the init of a sandbox, for tests. Absent: the one that is built in.
    #[serde(skip)]
    pub init_program: Option<PathBuf>,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            backend: Backend::Embedded,
            root_fs: None,
            image: None,
            socket: None,
            runtime: None,
            places: 64,
            memory_mib: 2048,
            processes: 512,
            cpus: 2.0,
            disk_mib: 10_240,
            checkpoints: false,
            checkpoint_mib: CHECKPOINT_MIB,
            init_program: None,
        }
    }
}

/// What sandboxes reach, through the gate of this server and in no other way: `[network]`. Environments say which hosts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Whether there is a network at all. Off: sandboxes have loopback and nothing else, whatever an environment allows.
    pub enabled: bool,
    /// TCP ports that are served besides 53, 80 and 443. What is said there is passed on unread.
    pub ports: Vec<u16>,
    /// Networks that sandboxes may reach although they are private, local or this machine's own: `10.1.0.0/16`, or an address.
    pub open: Vec<String>,
    /// Names, or names with a port, that stand for these addresses, which may have a port too; they are not resolved
    /// otherwise. Private addresses have to be in `open` as well.
    pub hosts: BTreeMap<String, Vec<String>>,
    /// What a session may move, in MiB.
    pub session_mib: u64,
    /// Hosts, `*.` in front for those below, whose TLS is never opened: no credential is put into requests to them.
    pub never_open: Vec<String>,
    /// A file with authorities, in PEM, that are trusted beside those of the machine where TLS is opened.
    pub authorities: Option<PathBuf>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            ports: Vec::new(),
            open: Vec::new(),
            hosts: BTreeMap::new(),
            session_mib: EGRESS_SESSION_MIB,
            never_open: Vec::new(),
            authorities: None,
        }
    }
}

/// Whether a text is the name of a host, or `*.` with the name of one below which all are meant.
fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

impl NetworkConfig {
    fn check(&self) -> Result<()> {
        let is_taken = |port: &u16| [0, 53, 80, 443].contains(port);
        if let Some(port) = self.ports.iter().find(|port| is_taken(port)) {
            return Err(Error::invalid(format_args!(
                "network.ports: {port} is no further port: 53, 80 and 443 are served"
            )));
        }
        if (1..self.ports.len()).any(|i| self.ports[..i].contains(&self.ports[i])) {
            return Err(Error::invalid("network.ports: a port is there twice"));
        }
        if let Some(host) = self.never_open.iter().find(|host| !is_host(host)) {
            return Err(Error::invalid(format_args!(
                "network.never_open: \"{host}\" is not a host name, with \"*.\" in front for those below"
            )));
        }
        within("network.never_open: their number", self.never_open.len(), &(0..=MAX_NEVER_OPEN))?;
        within("network.ports: their number", self.ports.len(), &(0..=MAX_EGRESS_PORTS))?;
        within("network.session_mib", self.session_mib, &(1..=1024 * 1024 * 1024))
    }

    /// What a session may move, in bytes.
    pub fn session_bytes(&self) -> u64 {
        self.session_mib * 1024 * 1024
    }
}

/// How the packages of environments are installed: `[packages]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackagesConfig {
    /// Hosts that package managers may reach besides the public registries.
    pub hosts: Vec<String>,
    /// Variables of the shell in which they run, such as `PIP_INDEX_URL`.
    pub variables: BTreeMap<String, String>,
    /// A file with authorities that they trust beside those of their root file system.
    pub authorities: Option<PathBuf>,
    /// How long one package manager may take, in seconds.
    pub seconds: u64,
    /// What the packages of one may take on the disk, in MiB.
    pub mib: u64,
    /// What all installed packages may take, in MiB, before those that were not used for longest are removed.
    pub store_mib: u64,
}

impl Default for PackagesConfig {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            variables: BTreeMap::new(),
            authorities: None,
            seconds: PACKAGES_SECONDS,
            mib: PACKAGES_MIB,
            store_mib: PACKAGES_STORE_MIB,
        }
    }
}

impl PackagesConfig {
    fn check(&self) -> Result<()> {
        within("packages.hosts: their number", self.hosts.len(), &(0..=PACKAGES_SETTINGS))?;
        within("packages.variables: their number", self.variables.len(), &(0..=PACKAGES_SETTINGS))?;
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && name != "PATH"
        };
        let wrong = |(name, value): &(&String, &String)| !is_name(name) || value.contains('\0') || value.len() > 4096;
        if let Some((name, _)) = self.variables.iter().find(wrong) {
            return Err(Error::invalid(format_args!(
                "packages.variables: \"{name}\" is not a variable that can be set: letters, digits and `_`, not PATH, and at \
                 most 4096 bytes"
            )));
        }
        within("packages.seconds", self.seconds, &PACKAGES_SECONDS_RANGE)?;
        within("packages.mib", self.mib, &SANDBOX_DISK_MIB)?;
        within("packages.store_mib", self.store_mib, &SANDBOX_DISK_MIB)
    }
}

/// What agents see of the web through this server: `[web]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebConfig {
    /// Whether agents are offered `web_fetch`.
    pub fetch: bool,
    /// Fetch also from private addresses: for pages in the operator's own network. Whoever can create a session can then make
    /// this server send requests inside that network.
    pub allow_private: bool,
    /// Who searches the web. Absent: agents are not offered `web_search`.
    pub search: Option<SearchConfig>,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self { fetch: true, allow_private: false, search: None }
    }
}

/// Who searches the web: `[web.search]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// The service.
    pub provider: SearchProvider,
    /// Where it is. Absent: where the service is for everybody, which SearXNG is not.
    pub base_url: Option<String>,
    /// The environment variable that holds the key of the service.
    pub api_key_env: Option<String>,
}

/// A service that searches the web.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchProvider {
    /// Brave Search.
    Brave,
    /// Tavily.
    Tavily,
    /// An instance of SearXNG.
    Searxng,
}

impl SearchProvider {
    /// Where it is for everybody.
    pub fn base_url(self) -> Option<&'static str> {
        match self {
            Self::Brave => Some("https://api.search.brave.com"),
            Self::Tavily => Some("https://api.tavily.com"),
            Self::Searxng => None,
        }
    }
}

impl WebConfig {
    /// Whether a model is offered a built-in tool: those that need no web always are.
    pub fn offers(&self, tool: BuiltInTool) -> bool {
        match tool {
            BuiltInTool::WebFetch => self.fetch,
            BuiltInTool::WebSearch => self.search.is_some(),
            _ => true,
        }
    }

    fn check(&self) -> Result<()> {
        let Some(search) = &self.search else { return Ok(()) };
        match (search.provider, &search.base_url, &search.api_key_env) {
            (SearchProvider::Searxng, None, _) => Err(Error::invalid(
                "web.search.base_url: say where the instance of SearXNG is, for example \"http://127.0.0.1:8888\"",
            )),
            (SearchProvider::Brave | SearchProvider::Tavily, None, None) => Err(Error::invalid(
                "web.search.api_key_env: name the environment variable with the key of this service",
            )),
            _ => Ok(()),
        }
    }
}

/// What a workspace may do how often: `[rate]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateConfig {
    /// Sessions that a workspace may create in any minute. 0: no limit.
    pub sessions_per_minute: u32,
}

/// How webhooks are sent: `[webhooks]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// Send also to private addresses, and without TLS: for receivers in the operator's own network. Whoever can create
    /// an endpoint can then make this server send requests inside that network.
    pub allow_private: bool,
    /// How often a delivery is tried, 1 to 20, before it counts as failed.
    pub attempts: u32,
    /// How long an attempt may take, 1 to 60 seconds.
    pub timeout_seconds: u32,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self { allow_private: false, attempts: 8, timeout_seconds: 15 }
    }
}

/// Where the content of files is: `[blobs]`. A folder, or a bucket of an S3-compatible service; servers that share a database
/// share this too.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlobsConfig {
    /// The folder. Absent: `blobs` in `data`.
    pub folder: Option<PathBuf>,
    /// The bucket, in place of a folder.
    pub bucket: Option<String>,
    /// What the names of the server's objects begin with.
    pub prefix: Option<String>,
    /// The address of the service. Absent: that of AWS.
    pub endpoint: Option<String>,
    /// The region; `us-east-1` when absent.
    pub region: Option<String>,
    /// The environment variable that holds the id of the access key. Absent: the machine's own credentials.
    pub access_key_id_env: Option<String>,
    /// The environment variable that holds the secret of the access key.
    pub secret_access_key_env: Option<String>,
    /// Bytes of the files that a workspace may keep, in MiB.
    pub workspace_mib: u64,
}

impl Default for BlobsConfig {
    fn default() -> Self {
        Self {
            folder: None,
            bucket: None,
            prefix: None,
            endpoint: None,
            region: None,
            access_key_id_env: None,
            secret_access_key_env: None,
            workspace_mib: WORKSPACE_FILES_MIB,
        }
    }
}

impl BlobsConfig {
    fn check(&self) -> Result<()> {
        if self.folder.is_some() && self.bucket.is_some() {
            return Err(Error::invalid("blobs: name a folder or a bucket, not both"));
        }
        let of_a_bucket = [
            ("prefix", &self.prefix),
            ("endpoint", &self.endpoint),
            ("region", &self.region),
            ("access_key_id_env", &self.access_key_id_env),
            ("secret_access_key_env", &self.secret_access_key_env),
        ];
        if let Some((key, _)) = of_a_bucket.iter().find(|(_, value)| value.is_some() && self.bucket.is_none()) {
            return Err(Error::invalid(format_args!(
                "blobs.{key}: says something of a bucket, and blobs.bucket names none"
            )));
        }
        if self.access_key_id_env.is_some() != self.secret_access_key_env.is_some() {
            return Err(Error::invalid("blobs: access_key_id_env and secret_access_key_env go together"));
        }
        within("blobs.workspace_mib", self.workspace_mib, &(1..=1024 * 1024 * 1024))
    }

    /// Bytes of the files that a workspace may keep.
    pub fn workspace_bytes(&self) -> i64 {
        i64::try_from(self.workspace_mib * 1024 * 1024).unwrap_or(i64::MAX)
    }
}

/// How secrets are sealed, and where OAuth tokens are renewed: `[vault]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VaultConfig {
    /// The file with the master key. Absent: `vault.key` in the data folder, made when the store is new.
    pub key_file: Option<PathBuf>,
    /// The environment variable with the master key, in place of a file.
    pub key_env: Option<String>,
    /// Renew tokens and try credentials also at private addresses, and without TLS: for servers in the operator's own
    /// network. Whoever can create a credential can then make this server send requests inside that network.
    pub allow_private: bool,
}

/// How MCP servers are reached: `[mcp]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpConfig {
    /// Reach them also at private addresses, and without TLS: for servers in the operator's own network. Whoever can create an
    /// agent can then make this server send requests inside that network.
    pub allow_private: bool,
    /// How long a server may take until it has opened a session and listed its tools.
    pub connect_seconds: u64,
    /// How long a call of a tool may take.
    pub call_seconds: u64,
}

impl Default for McpConfig {
    fn default() -> Self {
        Self { allow_private: false, connect_seconds: MCP_CONNECT_SECONDS, call_seconds: MCP_CALL_SECONDS }
    }
}

impl McpConfig {
    fn check(&self) -> Result<()> {
        within("mcp.connect_seconds", self.connect_seconds, &MCP_SECONDS_RANGE)?;
        within("mcp.call_seconds", self.call_seconds, &MCP_SECONDS_RANGE)
    }
}

/// Which repositories sessions can mount: `[git]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GitConfig {
    /// The hosts whose repositories can be mounted: names, each with `:port` behind it where that is not 443.
    pub hosts: Vec<String>,
    /// Clone also from private addresses: for hosts in the operator's own network.
    pub allow_private: bool,
    /// A file with certificates of authorities, in PEM, that are trusted beside those of the machine.
    pub authorities: Option<PathBuf>,
    /// Seconds that the clones of a session may take together before it goes on without those that are missing.
    pub timeout_seconds: u32,
    /// Most bytes of a clone, what git keeps included, in MiB. `sandbox.disk_mib` is a bound too.
    pub max_mib: u64,
    /// Most files and folders of a clone, those of git included.
    pub max_files: u64,
}

impl Default for GitConfig {
    fn default() -> Self {
        Self {
            hosts: vec![GITHUB.to_owned()],
            allow_private: false,
            authorities: None,
            timeout_seconds: CLONE_SECONDS,
            max_mib: CLONE_MIB,
            max_files: CLONE_FILES,
        }
    }
}

impl GitConfig {
    fn check(&self) -> Result<()> {
        within("git.hosts: how many there are", self.hosts.len(), &(0..=MAX_GIT_HOSTS))?;
        let is_host = |host: &&String| {
            let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
            let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
            !name.is_empty() && name.chars().all(is_of_a_name) && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        if let Some(wrong) = self.hosts.iter().find(|host| !is_host(host)) {
            return Err(Error::invalid(format_args!(
                "git.hosts: \"{wrong}\" is not a host name, or one with a port, as \"git.example.com:8443\""
            )));
        }
        within("git.timeout_seconds", self.timeout_seconds, &(1..=24 * 3600))?;
        within("git.max_mib", self.max_mib, &(1..=1024 * 1024))?;
        within("git.max_files", self.max_files, &(1..=100_000_000))
    }

    /// Whether repositories of `host`, as a URL names it, can be mounted.
    pub fn allows(&self, host: &str) -> bool {
        let plain = |host: &str| host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase();
        self.hosts.iter().any(|allowed| plain(allowed) == plain(host))
    }
}

/// Refuses a number that is not in `range`, with the name of its key.
fn within<T: PartialOrd + Copy + fmt::Display>(key: &str, value: T, range: &RangeInclusive<T>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format_args!("{key}: must be {} to {}", range.start(), range.end())))
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML, or has a key that does not exist; the message names the place.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::invalid(format_args!("cannot read {}: {error}", path.display())))?;
        Self::from_text(&text).map_err(|error| Error::invalid(format_args!("{}: {error}", path.display())))
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// When it is not TOML, or has a key that does not exist. The message names the line and does not show it: it may hold
    /// a password.
    pub fn from_text(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = 1 + before.matches('\n').count();
            Error::invalid(format_args!("line {line}: {}", error.message()))
        })?;
        config.check()?;
        Ok(config)
    }

    /// That every value is one that the server can work with.
    ///
    /// # Errors
    /// When one is not; the message has the name of its key, and what it can be.
    pub fn check(&self) -> Result<()> {
        if self.roles.0.is_empty() {
            return Err(Error::invalid("roles: name at least one of api, scheduler, runner, webhooks"));
        }
        let catch_up = i64::from(self.scheduler.catch_up_seconds);
        within("scheduler.catch_up_seconds", catch_up, &(0..=MAX_CATCH_UP_SECONDS))?;
        within("engine.concurrency", self.engine.concurrency, &(0..=MAX_CONCURRENCY))?;
        within("engine.model_tries", self.engine.model_tries, &MODEL_TRIES_RANGE)?;
        within("engine.unattended_model_tries", self.engine.unattended_model_tries, &MODEL_TRIES_RANGE)?;
        within("engine.drain_seconds", self.engine.drain_seconds, &DRAIN_SECONDS_RANGE)?;
        within("webhooks.attempts", self.webhooks.attempts, &(1..=20))?;
        within("webhooks.timeout_seconds", self.webhooks.timeout_seconds, &(1..=60))?;
        within("rate.sessions_per_minute", self.rate.sessions_per_minute, &SESSIONS_PER_MINUTE)?;
        within("sandbox.places", self.sandbox.places, &(1..=MAX_SANDBOX_PLACES))?;
        within("sandbox.memory_mib", self.sandbox.memory_mib, &SANDBOX_MEMORY_MIB)?;
        within("sandbox.processes", self.sandbox.processes, &SANDBOX_PROCESSES)?;
        within("sandbox.cpus", self.sandbox.cpus, &SANDBOX_CPUS)?;
        within("sandbox.disk_mib", self.sandbox.disk_mib, &SANDBOX_DISK_MIB)?;
        within("sandbox.checkpoint_mib", self.sandbox.checkpoint_mib, &SANDBOX_DISK_MIB)?;
        if self.sandbox.checkpoints
            && self.database.is_some()
            && self.blobs.bucket.is_none()
            && self.blobs.folder.is_none()
        {
            return Err(Error::invalid(
                "sandbox.checkpoints: other servers must reach what is kept: name a bucket, or a folder that they share, in [blobs]",
            ));
        }
        self.http.check()?;
        self.network.check()?;
        self.blobs.check()?;
        self.git.check()?;
        self.mcp.check()?;
        self.packages.check()?;
        self.web.check()?;
        self.retention.check()?;
        self.sandbox.check()?;
        if self.vault.key_file.is_some() && self.vault.key_env.is_some() {
            return Err(Error::invalid("vault: name key_file or key_env, not both"));
        }
        for (i, model) in self.models.iter().enumerate() {
            model.check(&self.models[..i])?;
            model.check_fallbacks(&self.models)?;
        }
        Ok(())
    }

    /// That what the configuration names on this machine is there, if this server needs it: a sandbox would miss it much
    /// later.
    ///
    /// # Errors
    /// When something is missing; the message has the name of its key.
    pub(crate) fn check_machine(&self) -> Result<()> {
        if !self.runs_sessions() {
            return Ok(());
        }
        let SandboxConfig { root_fs, init_program, .. } = &self.sandbox;
        if let Some(path) = root_fs.as_ref().filter(|path| path.join("bin").symlink_metadata().is_err()) {
            let what = if path.is_dir() { "has no /bin" } else { "is not a folder" };
            return Err(Error::invalid(format_args!(
                "sandbox.root_fs: {} {what}; unpack a root file system there, or leave the key out to use the programs of \
                 this machine",
                path.display()
            )));
        }
        if let Some(path) = init_program.as_ref().filter(|path| !path.is_file()) {
            return Err(Error::invalid(format_args!("sandbox.init_program: {} is not a file", path.display())));
        }
        Ok(())
    }

    /// Whether this server runs sessions, and with them sandboxes.
    pub fn runs_sessions(&self) -> bool {
        self.roles.has(Role::Runner) && self.engine.concurrency > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_names_what_is_wrong() {
        for (text, part) in [
            ("colour = 1", "colour"),
            ("roles = []", "at least one"),
            ("roles = [\"cook\"]", "cook"),
            ("[engine]\nspeed = 1", "speed"),
            ("[scheduler]\njitter = \"on\"", "on"),
            ("[scheduler]\ncatch_up_seconds = 2678401", "scheduler.catch_up_seconds: must be 0 to 2678400"),
            (
                "[http]\nhosts = [\"https://rota.example.com\"]",
                "http.hosts: \"https://rota.example.com\" is not a host name",
            ),
            ("[http]\nconnections = 0", "http.connections: must be 1 to 1000000"),
            ("[sandbox]\nplaces = 0", "sandbox.places: must be 1 to 100000"),
            ("[sandbox]\nbackend = \"lxc\"", "lxc"),
            ("[sandbox]\nsocket = \"/s\"", "sandbox.socket: only containers have one"),
            ("[sandbox]\nruntime = \"runc\"", "sandbox.runtime: only containers have one"),
            ("[sandbox]\nbackend = \"docker\"", "sandbox.image: name the image that containers are made from"),
            ("[sandbox]\nbackend = \"podman\"\nimage = \"a b\"", "sandbox.image: \"a b\" is no reference of an image"),
            (
                "[sandbox]\nbackend = \"podman\"\nimage = \"a\"\nruntime = \"\"",
                "sandbox.runtime: \"\" is no name of a runtime",
            ),
            (
                "[sandbox]\nbackend = \"podman\"\nimage = \"a\"\nroot_fs = \"/r\"",
                "sandbox.root_fs: containers have the root of their image",
            ),
            ("[network]\nports = [443]", "network.ports: 443 is no further port"),
            ("[network]\nports = [22, 22]", "network.ports: a port is there twice"),
            ("[network]\nsession_mib = 0", "network.session_mib: must be 1 to"),
            ("[blobs]\nfolder = \"a\"\nbucket = \"b\"", "a folder or a bucket"),
            ("[blobs]\nendpoint = \"https://s3.example\"", "blobs.endpoint: says something of a bucket"),
            ("[blobs]\nbucket = \"b\"\naccess_key_id_env = \"A\"", "go together"),
            ("[blobs]\nworkspace_mib = 0", "blobs.workspace_mib: must be 1 to 1073741824"),
            ("[vault]\nkey_file = \"k\"\nkey_env = \"K\"", "vault: name key_file or key_env, not both"),
            (
                "[git]\nhosts = [\"https://git.example.com\"]",
                "git.hosts: \"https://git.example.com\" is not a host name",
            ),
            ("[git]\nhosts = [\"git.example.com:x\"]", "is not a host name, or one with a port"),
            ("[git]\ntimeout_seconds = 0", "git.timeout_seconds: must be 1 to 86400"),
            ("[git]\nmax_mib = 0", "git.max_mib: must be 1 to 1048576"),
            ("[git]\nmax_files = 0", "git.max_files: must be 1 to 100000000"),
            ("[web.search]\nprovider = \"searxng\"", "web.search.base_url: say where"),
            ("[web.search]\nprovider = \"brave\"", "web.search.api_key_env: name"),
            ("[web.search]\nprovider = \"bing\"", "bing"),
            ("[webhooks]\nattempts = 0", "webhooks.attempts: must be 1 to 20"),
            ("[webhooks]\ntimeout_seconds = 61", "webhooks.timeout_seconds: must be 1 to 60"),
            ("[engine]\nconcurrency = 100001", "engine.concurrency: must be 0 to 100000"),
            ("[sandbox]\nmemory_mib = 0", "sandbox.memory_mib: must be 64 to 16777216"),
            ("[sandbox]\nmemory_mib = 18446744073709551", "sandbox.memory_mib: must be 64 to"),
            ("[sandbox]\nprocesses = 0", "sandbox.processes: must be 16 to 4194304"),
            ("[sandbox]\ncpus = 0.0", "sandbox.cpus: must be 0.01 to 4096"),
            ("[sandbox]\ncpus = nan", "sandbox.cpus: must be"),
            ("[sandbox]\ncpus = inf", "sandbox.cpus: must be"),
            ("[sandbox]\ndisk_mib = 0", "sandbox.disk_mib: must be 1 to 1073741824"),
            ("[sandbox]\ncheckpoint_mib = 0", "sandbox.checkpoint_mib: must be 1 to 1073741824"),
            (
                "database = \"postgres://x\"\n[sandbox]\ncheckpoints = true",
                "sandbox.checkpoints: other servers must reach what is kept: name a bucket, or a folder",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nmax_tokens = 0",
                "\"a\": max_tokens: must be 1 to 100000000",
            ),
            ("[[models]]\nid = \"a\"\nprovider = \"playbook\"\nmax_input_tokens = 0", "max_input_tokens: must be 1"),
            ("[[models]]\nid = \"a\"\nprovider = \"messages\"", "base_url"),
            ("[engine]\nmodel_tries = 0", "engine.model_tries: must be 1 to 1000"),
            ("[engine]\nunattended_model_tries = 1001", "engine.unattended_model_tries: must be 1 to 1000"),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nthinking = \"adaptive\"",
                "\"a\": thinking says nothing to an upstream of this provider",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"openai\"\nbase_url = \"http://a\"\napi_version = \"1\"",
                "\"a\": api_version says nothing to an upstream of this provider",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"messages\"\nbase_url = \"http://a\"\nreasoning_field = \"reasoning\"",
                "\"a\": reasoning_field says nothing to an upstream of this provider",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"messages\"\nbase_url = \"http://a\"\nthinking = 16000",
                "\"a\": thinking: must be 1024 to 15999",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"messages\"\nbase_url = \"http://a\"\nthinking = \"much\"",
                "thinking is \"adaptive\" or a number of tokens",
            ),
            ("[[models]]\nid = \"a\"\nprovider = \"playbook\"\nconcurrency = 0", "\"a\": concurrency: must be 1 to"),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nrequests_per_second = 0",
                "\"a\": requests_per_second: must be 0.001 to 100000",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nfallbacks = [\"b\"]",
                "\"a\": fallbacks: \"b\" is not the id of another entry",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nfallbacks = [\"a\"]",
                "\"a\": fallbacks: \"a\" is there twice",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nfallbacks = [\"b\"]\n[[models]]\nid = \"b\"\nprovider = \"playbook\"\n\
                 lifecycle = \"retired\"\ndeprecated_at = \"2026-03-02T00:00:00Z\"",
                "\"a\": fallbacks: \"b\" is retired",
            ),
            ("[[models]]\nid = \"a\"\nprovider = \"other\"", "other"),
            ("[[models]]\nid = \"a\"\nprovider = \"playbook\"\nprice = {input = -1, output = 1}", "a price is 0"),
            ("[[models]]\nid = \"a\"\nprovider = \"playbook\"\nprice = {input = 1}", "output"),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\n[[models]]\nid = \"b\"\nprovider = \"playbook\"\naliases = [\"a\"]",
                "\"b\": an alias is empty or not unique",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nretires_at = \"2026-03-02T00:00:00Z\"",
                "\"a\": deprecated_at and retires_at are not of an active model",
            ),
            (
                "[[models]]\nid = \"a\"\nprovider = \"playbook\"\nlifecycle = \"retired\"",
                "\"a\": a retired model needs deprecated_at",
            ),
            ("[[models]]\nid = \"a\"\nprovider = \"playbook\"\nlifecycle = \"old\"", "old"),
        ] {
            let error = Config::from_text(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_sandboxes_need_and_is_not_there_is_named_by_a_server_that_runs_them() {
        let missing = |set: fn(&mut SandboxConfig)| {
            let mut config = Config::default();
            set(&mut config.sandbox);
            config
        };
        for (config, part) in [
            (
                missing(|sandbox| sandbox.root_fs = Some("/missing/root".into())),
                "sandbox.root_fs: /missing/root is not a folder",
            ),
            (missing(|sandbox| sandbox.root_fs = Some("/proc".into())), "sandbox.root_fs: /proc has no /bin"),
            (
                missing(|sandbox| sandbox.init_program = Some("/missing".into())),
                "sandbox.init_program: /missing is not",
            ),
        ] {
            let error = config.check_machine().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            let roles = [Role::Api].into_iter().collect();
            assert!(Config { roles, ..config }.check_machine().is_ok());
        }
        assert!(Config::default().check_machine().is_ok());
    }

    #[test]
    fn repositories_of_named_hosts_can_be_mounted() {
        let git = Config::from_text("[git]\nhosts = [\"github.com\", \"Git.internal:8443\"]").unwrap().git;
        for (host, allowed) in [
            ("github.com", true),
            ("GitHub.com:443", true),
            ("git.internal:8443", true),
            ("git.internal", false),
            ("github.com:8443", false),
            ("evil.github.com", false),
            ("me@github.com", false),
        ] {
            assert_eq!(git.allows(host), allowed, "{host}");
        }
    }

    #[test]
    fn an_error_names_its_line_and_shows_no_password() {
        for wrong in ["database = \"postgres://rota:secret@db/rota", "database = 'secret' x", "database = [\"secret\"]"]
        {
            let error = Config::from_text(&format!("data = \"d\"\n{wrong}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && !error.contains("secret"), "{error}");
        }
    }
}
