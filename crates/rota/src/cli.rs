//! What can be asked of the command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rota_server::config::{DatabaseUrl, Role};

/// A self-hosted server for managed agents: deployments that run on demand or on schedule, inside your own network.
///
/// Exit codes: 0 done, 1 failed, 2 wrong arguments. Of commands that talk to a server: 3 there is no such thing, 4 refused, 5 no server
/// answers, 6 a session that was followed waits for an answer, 7 `apply --dry-run` would change something. Of `backup` and `check`:
/// 3 done and something is wrong with the store. Of `doctor`: 78 this machine cannot isolate agents.
#[derive(Debug, Parser)]
#[command(name = "rota", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The exit code of a backup or a check that found something wrong with the store.
pub const SOMETHING_IS_WRONG: u8 = 3;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Copy the store and the files that it names to a folder. Works while the server runs. docs/operations.md says what is in it.
    Backup(BackupArgs),
    /// Read a store through and name what is wrong with it. Works while the server runs, and changes nothing.
    Check(CheckArgs),
    /// Start a server on a fresh folder, run a deployment now and follow its session, then stop.
    Demo(DemoArgs),
    /// Say which protections this machine gives to sandboxes, and what to do about missing ones.
    Doctor(DoctorArgs),
    /// Bring root file systems for sandboxes to this machine, list and remove them. Works while the server runs.
    Images(ImagesArgs),
    /// Make, list and revoke API keys. Works while the server runs.
    Keys(KeysArgs),
    /// Move a store to another database.
    Migrate(MigrateArgs),
    /// Look whether the upstreams of models are there and take their keys.
    Models(ModelsArgs),
    /// Put a backup into an empty data folder, once all of it was found to be what was written.
    Restore(RestoreArgs),
    /// Say what the next sweep of the store would remove, which keeps things as `[retention]` and the workspaces say. Works while
    /// the server runs, and removes nothing.
    Retention(RetentionArgs),
    /// Show the organization, and switch all its workspaces off and on. Works while the server runs.
    Org(OrgArgs),
    /// Hold all schedules, or those of a workspace, and let them go on. Works while the server runs.
    Schedules(SchedulesArgs),
    /// Change the key under which the secrets of the store are sealed. Works while the server runs.
    Vault(VaultArgs),
    #[command(flatten)]
    Client(rota_cli::Command),
}

#[derive(Debug, Args)]
#[command(after_long_help = CONFIGURATION)]
pub struct ServeArgs {
    /// The configuration file. Options given here go before it.
    #[arg(long, value_name = "FILE", env = "ROTA_CONFIG")]
    pub config: Option<PathBuf>,
    /// The folder that holds the store and the sandboxes; made when it is missing. [default: rota-data]
    #[arg(long, value_name = "DIR", env = "ROTA_DATA")]
    pub data: Option<PathBuf>,
    /// The PostgreSQL database that is the store, `postgres://user:password@host/name`; several servers can share it.
    /// Without it the store is SQLite, in the data folder.
    #[arg(long, value_name = "URL", env = "ROTA_DATABASE", hide_env_values = true)]
    pub database: Option<DatabaseUrl>,
    /// What this server does, if not everything: some of `api`, `scheduler`, `runner`, `webhooks`.
    #[arg(long, value_name = "ROLE,…", env = "ROTA_ROLES", value_delimiter = ',')]
    pub roles: Vec<Role>,
    /// The address to listen on. Only this machine reaches the default. [default: 127.0.0.1:7420]
    #[arg(long, value_name = "HOST:PORT", env = "ROTA_LISTEN")]
    pub listen: Option<String>,
    /// Sessions that are at work on this machine at the same time, without those that wait for a tool; 0 accepts sessions and
    /// runs none. [default: 64]
    #[arg(long, value_name = "N", env = "ROTA_CONCURRENCY")]
    pub concurrency: Option<usize>,
    /// Sessions that a workspace may create in any minute; 0 is no limit. [default: 0]
    #[arg(long, value_name = "N", env = "ROTA_SESSIONS_PER_MINUTE")]
    pub sessions_per_minute: Option<u32>,
    /// A folder with a root file system for sandboxes. Without it they see this machine's own programs, read-only.
    #[arg(long, value_name = "DIR", env = "ROTA_ROOT_FS")]
    pub root_fs: Option<PathBuf>,
    /// How the log is written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "ROTA_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: `error`, `warn`, `info`, `debug`, or a filter such as `rota_server=debug`. [default: info]
    #[arg(long, value_name = "FILTER", env = "ROTA_LOG")]
    pub log: Option<String>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The folder to use instead of a fresh one that is deleted at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file of the server. It says whether sandboxes are containers.
    #[arg(long, value_name = "FILE", env = "ROTA_CONFIG")]
    pub config: Option<PathBuf>,
    /// The data folder of the server. [default: rota-data]
    #[arg(long, value_name = "DIR", env = "ROTA_DATA")]
    pub data: Option<PathBuf>,
    /// A folder with a root file system for sandboxes, as the server is given it.
    #[arg(long, value_name = "DIR", env = "ROTA_ROOT_FS")]
    pub root_fs: Option<PathBuf>,
    /// Write one JSON array.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// The folder of the backup: empty, or not there yet.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Put the vault key into the backup too. Whoever has that can read every secret of the store.
    #[arg(long)]
    pub with_keys: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct RetentionArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Count, and remove nothing. It has to be given: what goes is removed by a server, within an hour.
    #[arg(long, required = true)]
    pub dry_run: bool,
    /// Only what goes of this workspace, by its name or its id. The audit list then counts as far as it is the workspace's.
    #[arg(long, value_name = "NAME")]
    pub workspace: Option<String>,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The folder of the backup.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The data folder for a server: empty, or not there yet.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(subcommand)]
    pub command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Copy the store of a data folder into an empty PostgreSQL database. The server must be stopped.
    SqliteToPostgres {
        /// The data folder of the server.
        #[arg(long, value_name = "DIR", env = "ROTA_DATA")]
        data: PathBuf,
        /// The database, `postgres://user:password@host/name`.
        #[arg(long, value_name = "URL", env = "ROTA_DATABASE", hide_env_values = true)]
        database: DatabaseUrl,
    },
}

#[derive(Debug, Args)]
pub struct ImagesArgs {
    #[command(subcommand)]
    pub command: ImagesCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// Pull an image from a registry. Where the registry wants a user, ROTA_REGISTRY_USER and ROTA_REGISTRY_PASSWORD are sent.
    Pull {
        #[command(flatten)]
        store: StoreArgs,
        /// `[REGISTRY/]NAME[:TAG]` or `[REGISTRY/]NAME@sha256:…`; without a registry it is Docker Hub.
        reference: String,
        /// The name that environments use. One that is taken stands for the new image from then on. [default: NAME-TAG]
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// Speak HTTP without TLS. A registry on this machine is spoken to like that anyway.
        #[arg(long)]
        plain_http: bool,
    },
    /// Make an image of an archive: what `docker save` writes, or an OCI layout in a tar file.
    Import {
        #[command(flatten)]
        store: StoreArgs,
        /// The archive.
        archive: PathBuf,
        /// The name that environments use.
        #[arg(long = "as", value_name = "NAME")]
        name: String,
    },
    /// List the images of this machine.
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove an image. One that environments or sessions have, or a sandbox runs on, stays.
    Remove {
        #[command(flatten)]
        store: StoreArgs,
        /// Its name.
        name: String,
        /// Also where environments or sessions have it: their sessions then end with an error until it is back.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key. It is shown once. In a folder without a store this begins one.
    Create {
        #[command(flatten)]
        store: StoreArgs,
        /// The workspace that the key reaches; made when there is none of the name. [default: the first workspace]
        #[arg(long, value_name = "NAME", conflicts_with = "admin")]
        workspace: Option<String>,
        /// Make an administrator's key: it manages workspaces and keys, and acts in any workspace that it names.
        #[arg(long)]
        admin: bool,
        /// A name for the key.
        #[arg(long, default_value = "key")]
        name: String,
        /// The key ends by itself after so many days. Without this it does not.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// List the keys, without their secrets.
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// End a key for good.
    Revoke {
        #[command(flatten)]
        store: StoreArgs,
        /// The key's id, `apikey_…`.
        id: String,
    },
}

#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Ask each upstream of `[[models]]` for its list of models, which costs nothing. The keys are read from the environment, as the
    /// server reads them. Exit code 1 where an address or a key is wrong.
    Check {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", env = "ROTA_CONFIG")]
        config: Option<PathBuf>,
        /// Write one JSON array.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct OrgArgs {
    #[command(subcommand)]
    pub command: OrgCommand,
}

#[derive(Debug, Subcommand)]
pub enum OrgCommand {
    /// Show the organization's id and whether it is enabled.
    Show {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Switch all workspaces off: requests are refused, nothing starts, and sessions stop before their next model request.
    Disable {
        #[command(flatten)]
        store: StoreArgs,
        /// Stop what runs, too: calls and requests to models end within seconds, and sandboxes with them. Files stay, and
        /// sessions go on when the organization is enabled.
        #[arg(long)]
        now: bool,
    },
    /// Switch all workspaces on again: sessions go on where they stopped.
    Enable {
        #[command(flatten)]
        store: StoreArgs,
    },
}

#[derive(Debug, Args)]
pub struct SchedulesArgs {
    #[command(subcommand)]
    pub command: SchedulesCommand,
}

#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// Show which schedules are held, and since when.
    Show {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Hold schedules: what is due is passed over with the reason `held`. Sessions go on, and deployments are run by hand.
    Hold {
        #[command(flatten)]
        store: StoreArgs,
        /// Only those of this workspace, by its name or its id.
        #[arg(long, value_name = "NAME")]
        workspace: Option<String>,
    },
    /// Let them go on: what is due from now on fires. A hold of all schedules and one of a workspace end apart.
    Release {
        #[command(flatten)]
        store: StoreArgs,
        /// Only those of this workspace, by its name or its id.
        #[arg(long, value_name = "NAME")]
        workspace: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct VaultArgs {
    #[command(subcommand)]
    pub command: VaultCommand,
}

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Give the store a new master key: data keys are wrapped anew, secrets stay as they are. One that was cut off goes on.
    RotateKey {
        #[command(flatten)]
        store: StoreArgs,
        /// Only put the new key into the key file, so that the file can be copied to other servers first.
        #[arg(long)]
        prepare: bool,
    },
    /// Print a new master key, for one that is kept in a file or a variable of your own (`[vault]` in the configuration).
    NewKey,
}

#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The configuration file of the server. Options given here go before it.
    #[arg(long, value_name = "FILE", env = "ROTA_CONFIG")]
    pub config: Option<PathBuf>,
    /// The data folder of the server. [default: rota-data]
    #[arg(long, value_name = "DIR", env = "ROTA_DATA")]
    pub data: Option<PathBuf>,
    /// The PostgreSQL database of the server, when it has one.
    #[arg(long, value_name = "URL", env = "ROTA_DATABASE", hide_env_values = true)]
    pub database: Option<DatabaseUrl>,
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

const CONFIGURATION: &str = "\
Configuration file (every key is optional; an unknown key is an error). SIGHUP has a running server read it again: [[models]],
[rate], model_tries, unattended_model_tries, drain_seconds and log take effect at once, and the log says what needs a restart.

  data = \"rota-data\"                 the same as --data
  database = \"postgres://…\"          the same as --database
  log = \"info\"                       the same as --log
  listen = \"127.0.0.1:7420\"          the same as --listen
  roles = [\"api\", \"scheduler\"]       the same as --roles

  [http]
  hosts = [\"rota.example.com\"]       the names by which clients reach this server, as a proxy in front passes them on;
                                     on a loopback address only these, localhost and IP addresses are answered
  connections = 10000                most connections at the same time; silent ones make room for new ones

  [metrics]
  listen = \"127.0.0.1:9464\"          an address for /metrics alone, which is then not on the server's own
  key_env = \"METRICS_KEY\"            the environment variable that holds the key to read them with, as a bearer token

  [telemetry]
  otlp_endpoint = \"http://127.0.0.1:4318\"
                                     a collector of traces, to which OTLP is sent over HTTP: docs/metrics.md
  otlp_headers_env = \"OTLP_HEADERS\" the environment variable that holds headers for it: name=value,name=value
  content = false                    send what is said in sessions too

  [[models]]                         a model that agents can name; `playbook` is always there
  id = \"claude-opus-5-5\"             the name that agents use
  provider = \"messages\"              `messages` (an upstream with the Anthropic Messages API), `openai` (one with chat
                                     completions: docs/models.md) or `playbook`
  base_url = \"https://…\"             where the upstream is, for `messages` without /v1 and /v1/messages
  api_key_env = \"UPSTREAM_KEY\"       the environment variable that holds the upstream's key
  bearer = false                     send the key as a bearer token and not as x-api-key
  upstream = \"…\"                     the upstream's name for the model, when it differs from id
  display_name = \"…\"                 a name for people
  max_tokens = 16000                 most tokens of a reply
  max_input_tokens = 200000          most tokens of a request, for clients to read
  price = { input = 5, output = 25, cache_read = 0.5, cache_write_5m = 6.25, cache_write_1h = 10 }
                                     US dollars for a million tokens; without it sessions show no cost
  aliases = [\"opus\"]                other names that agents can use
  released_at = \"2026-03-02T00:00:00Z\"  when it was released, for clients to read; the list has the newest first
  line = \"opus\"                      the line that it belongs to: haiku, sonnet, opus, fable or mythos
  lifecycle = \"active\"               or `deprecated`; a `retired` one is listed when it is asked for, and never called
  deprecated_at = \"…\"                when it was deprecated, of one that is not active
  retires_at = \"…\"                   when it retires, or has retired
  fallbacks = [\"house\"]             ids of other entries, which are asked in this order when this upstream cannot answer
  concurrency = 4                    most requests to it that are under way at the same time
  requests_per_second = 10           most requests to it in a second; without it what its answers say is kept
  api_version = \"2023-06-01\"        of `messages`: the version that requests name
  thinking = \"adaptive\"            of `messages`: how the model is asked to think, or most tokens of it, 1024 or more
  reasoning_field = \"reasoning\"    of `openai`: the field in which reasoning is sent back, or `reasoning_content`

  [scheduler]
  jitter = \"off\"                     `hosted` spreads deployments that share a time, a number does over so many seconds
  catch_up_seconds = 3600            how late an occurrence still fires after a downtime

  [engine]
  concurrency = 64                   the same as --concurrency; one workspace alone has at most three quarters of it
  model_tries = 5                    tries of a request to a model, with pauses from a second to a minute, 1 to 1000
  unattended_model_tries = 17        the same in sessions that deployments start; these outlast ten minutes
  drain_seconds = 20                 how long calls and requests to models go on when the server is told to end, 0 to 86400

  [webhooks]
  allow_private = false              send webhooks also to private addresses, and without TLS
  attempts = 8                       how often a delivery is tried, 1 to 20
  timeout_seconds = 15               how long an attempt may take, 1 to 60

  [retention]                        after how many days things go; without a key they are kept (docs/retention.md)
  sessions_days = 90                 sessions at rest, with their events and files, after they came to rest
  outputs_days = 30                  files that agents left in their outputs
  runs_days = 90                     runs, and what became of occurrences
  deliveries_days = 30               deliveries of webhooks, at most 30
  egress_days = 30                   the egress log, at most 30
  audit_days = 365                   the audit list

  [vault]
  key_file = \"/etc/rota/vault.key\"  the file with the master key; `vault.key` in the data folder, made by the first start
  key_env = \"VAULT_KEY\"             the environment variable that holds the key, in place of a file
  allow_private = false              renew tokens and try credentials also at private addresses, and without TLS

  [git]                              which repositories sessions can mount; the machine needs the program git for them
  hosts = [\"github.com\"]             their hosts, each with :port where that is not 443
  allow_private = false              clone also from private addresses
  authorities = \"/etc/rota/ca.pem\" certificates of authorities that are trusted beside those of the machine
  timeout_seconds = 600              how long the clones of a session may take together, 1 to 86400
  max_mib = 2048                     most bytes of a clone; disk_mib of [sandbox] is a bound too
  max_files = 500000                 most files and folders of a clone

  [mcp]                              how MCP servers of agents are reached: docs/mcp.md
  allow_private = false              reach them also at private addresses, and without TLS
  connect_seconds = 30               how long one may take until it has listed its tools, 1 to 3600
  call_seconds = 300                 how long a call of a tool may take, 1 to 3600

  [sandbox]
  backend = \"embedded\"             or \"docker\", \"podman\": sandboxes are containers of that daemon (docs/containers.md)
  socket = \"/run/podman/podman.sock\" its Unix socket, of containers only; absent: where root's daemon has it
  runtime = \"runc\"                 the runtime that starts containers; absent: the daemon's own choice
  root_fs = \"/srv/rootfs\"            the same as --root-fs
  image = \"debian-12\"              in its place: an image of `rota images`, for environments that name none;
                                     of containers: the image that all are made from, as the daemon knows it
  places = 64                        most sandboxes that are up; one workspace alone has calls in three quarters of them
  memory_mib = 2048                  most memory of one sandbox, 64 or more
  processes = 512                    most processes of one sandbox, 16 or more
  cpus = 2.0                         most processor time of one sandbox, 0.01 or more
  disk_mib = 10240                   most bytes on disk of one sandbox, 1 or more
  checkpoints = false                keep the files of sessions at rest with those of users, so that another server has them
  checkpoint_mib = 4096              most bytes of one session that are kept so, 1 or more

  [network]                          the way out of sandboxes: docs/network.md
  enabled = true                     false: they have none, whatever an environment allows
  ports = [5432]                     further TCP ports that go out, beside those of names, HTTP and HTTPS
  open = [\"10.1.0.0/16\"]           networks that may be reached although they are private
  hosts = { \"db.internal\" = [\"10.1.0.7\"] }
                                     names that stand for these addresses and are not looked up
  session_mib = 10240                the MiB that a session may move
  never_open = [\"pinned.example\"]  hosts whose TLS passes unread: no credential is put into requests to them
  authorities = \"/etc/rota/ca.pem\" certificates of authorities that hosts of credentials may have beside those of the machine

  [web]                              what agents see of the web through this server: docs/tools.md
  fetch = true                       false: they are not offered web_fetch
  allow_private = false              fetch also from private addresses
  search = { provider = \"brave\", api_key_env = \"SEARCH_KEY\", base_url = \"https://…\" }
                                     who searches for web_search: brave, tavily or searxng, the environment variable that
                                     holds its key, and where it is if not where it is for everybody; absent: nobody does

  [packages]                         how packages of environments are installed: docs/images.md
  hosts = [\"pypi.internal\"]         hosts that package managers may reach besides the public registries
  variables = { PIP_INDEX_URL = \"https://pypi.internal/simple\" }
                                     variables of the shell in which they run
  authorities = \"/etc/rota/ca.pem\" certificates of authorities that they trust beside those of the machine
  seconds = 600                      how long one package manager may take, 1 to 600
  mib = 10240                        most MiB on disk of the packages of one
  store_mib = 51200                  most MiB of all; then those that were not used for longest are removed

  [blobs]                            where the content of files is; servers that share a database share this too
  folder = \"/srv/files\"             absent: blobs in the data folder
  bucket = \"rota\"                   in place of a folder: a bucket of an S3-compatible service
  prefix = \"production\"             what the names of its objects begin with
  endpoint = \"https://s3.example\"   the address of the service; absent: that of AWS
  region = \"us-east-1\"
  access_key_id_env = \"S3_ID\"       the environment variables that hold the key; absent: the machine's own credentials
  secret_access_key_env = \"S3_KEY\"
  workspace_mib = 1048576            bytes of the files that a workspace may keep

  [rate]
  sessions_per_minute = 0            the same as --sessions-per-minute
";

#[cfg(test)]
mod tests {
    use rota_server::config::Config;

    use super::CONFIGURATION;

    /// The keys that a section of the file may have: what the refusal of another one names.
    fn keys(section: &str) -> Vec<String> {
        let refused = Config::from_text(&format!("{section}\nunheard_of = 1")).unwrap_err().to_string();
        let (_, expected) = refused.split_once("expected ").expect("what there is");
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// The least and the most that each number of the file can be.
    const RANGES: [(&str, &str, f64, f64); 28] = [
        ("[http]", "connections", 1.0, 1e6),
        ("[[models]]", "max_tokens", 1.0, 1e8),
        ("[[models]]", "max_input_tokens", 1.0, 1e8),
        ("[[models]]", "concurrency", 1.0, 1e5),
        ("[[models]]", "requests_per_second", 0.001, 1e5),
        ("[scheduler]", "catch_up_seconds", 0.0, 2_678_400.0),
        ("[engine]", "concurrency", 0.0, 1e5),
        ("[engine]", "model_tries", 1.0, 1000.0),
        ("[engine]", "unattended_model_tries", 1.0, 1000.0),
        ("[engine]", "drain_seconds", 0.0, 86_400.0),
        ("[webhooks]", "attempts", 1.0, 20.0),
        ("[webhooks]", "timeout_seconds", 1.0, 60.0),
        ("[retention]", "sessions_days", 1.0, 36_500.0),
        ("[retention]", "egress_days", 1.0, 30.0),
        ("[git]", "timeout_seconds", 1.0, 86_400.0),
        ("[git]", "max_mib", 1.0, 1_048_576.0),
        ("[git]", "max_files", 1.0, 1e8),
        ("[mcp]", "connect_seconds", 1.0, 3600.0),
        ("[mcp]", "call_seconds", 1.0, 3600.0),
        ("[sandbox]", "places", 1.0, 1e5),
        ("[sandbox]", "memory_mib", 64.0, 16_777_216.0),
        ("[sandbox]", "processes", 16.0, 4_194_304.0),
        ("[sandbox]", "cpus", 0.01, 4096.0),
        ("[sandbox]", "disk_mib", 1.0, 1_073_741_824.0),
        ("[sandbox]", "checkpoint_mib", 1.0, 1_073_741_824.0),
        ("[network]", "session_mib", 1.0, 1_073_741_824.0),
        ("[packages]", "seconds", 1.0, 600.0),
        ("[rate]", "sessions_per_minute", 0.0, 1e6),
    ];
    /// Those with the range of another one.
    const LIKE: [(&str, &str, &str); 7] = [
        ("[retention]", "outputs_days", "sessions_days"),
        ("[retention]", "runs_days", "sessions_days"),
        ("[retention]", "audit_days", "sessions_days"),
        ("[retention]", "deliveries_days", "egress_days"),
        ("[packages]", "mib", "disk_mib"),
        ("[packages]", "store_mib", "disk_mib"),
        ("[blobs]", "workspace_mib", "disk_mib"),
    ];

    /// What the refusal of a number says; `None` when it is taken.
    fn refusal(section: &str, key: &str, number: f64) -> Option<String> {
        let entry = if section == "[[models]]" { "id = \"a\"\nprovider = \"playbook\"\n" } else { "" };
        let number =
            if ["cpus", "requests_per_second"].contains(&key) { format!("{number:?}") } else { number.to_string() };
        Config::from_text(&format!("{section}\n{entry}{key} = {number}\n")).err().map(|error| error.to_string())
    }

    #[test]
    fn each_number_of_the_configuration_file_has_a_least_and_a_most() {
        let alike = LIKE.iter().map(|(section, key, like)| {
            let (.., least, most) = RANGES.iter().find(|(_, key, ..)| key == like).expect("the other one");
            (*section, *key, *least, *most)
        });
        let ranges: Vec<_> = RANGES.into_iter().chain(alike).collect();
        for (section, key, least, most) in &ranges {
            for taken in [*least, *most] {
                assert_eq!(refusal(section, key, taken), None, "{section} {key} = {taken}");
            }
            let step = if *least > 0.0 && *least < 1.0 { least / 2.0 } else { 1.0 };
            for refused in [least - step, most + 1.0] {
                let said = refusal(section, key, refused).unwrap_or_default();
                // A number below zero is none at all; the line is named.
                let is_said = said.contains(&format!("{key}: must be")) || refused < 0.0 && said.starts_with("line ");
                assert!(is_said, "{section} {key} = {refused}: {said:?}");
            }
        }
        // No other number is in the help.
        for block in CONFIGURATION.split("\n\n").skip(1) {
            let section = block.split_whitespace().next().unwrap_or_default();
            for line in block.lines() {
                let Some((key, value)) = line.trim_start().split_once(" = ") else { continue };
                if !value.starts_with(|c: char| c.is_ascii_digit()) {
                    continue;
                }
                assert!(ranges.iter().any(|known| (known.0, known.1) == (section, key)), "{section} {key}");
            }
        }
    }

    #[test]
    fn the_help_of_serve_explains_every_key_of_the_configuration_file() {
        let blocks: Vec<&str> = CONFIGURATION.split("\n\n").skip(1).collect();
        let name =
            |block: &str| block.split_whitespace().next().filter(|word| word.starts_with('[')).map(str::to_owned);
        let names: Vec<String> = blocks.iter().filter_map(|block| name(block)).collect();
        for block in &blocks {
            let section = name(block).unwrap_or_default();
            for key in keys(&section) {
                let is_section = section.is_empty() && names.iter().any(|name| name.trim_matches(['[', ']']) == key);
                let is_told = block.lines().any(|line| line.trim_start().starts_with(&format!("{key} = ")));
                assert!(is_section || is_told, "{section} {key}");
            }
        }
        for key in keys("[[models]]\n[models.price]") {
            assert!(CONFIGURATION.contains(&format!(" {key} = ")), "price: {key}");
        }
    }
}
