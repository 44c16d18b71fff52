//! Deployments and their runs. The bodies of their requests are not [declared](crate::fields): what an update does not name is
//! kept as the text that is stored, which nobody reads for it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    Time,
    agent::{self, AgentChoice, AgentReference, MAX_DESCRIPTION, MAX_NAME},
    decode::{Decoded, Dialect, Node, Object, Patch},
    event,
    fields::names,
    id::{DeploymentId, EnvironmentId, RunId, SessionId},
    metadata::{self, Changes, Metadata},
    session::{self, Resource},
};

/// A deployment as the API shows it.
#[derive(Debug, Serialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Always `deployment`.
    pub r#type: &'static str,
    /// A name for people, and the title of its sessions.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The agent and the version that is pinned.
    pub agent: AgentReference,
    /// Where its sessions run.
    pub environment_id: EnvironmentId,
    /// What each session is sent first.
    pub initial_events: Box<RawValue>,
    /// What is mounted into each session.
    pub resources: Box<RawValue>,
    /// Where its sessions find credentials.
    pub vault_ids: Box<RawValue>,
    /// When it fires by itself.
    pub schedule: Option<Schedule>,
    /// `active` or `paused`; an archived deployment is `active`.
    pub status: &'static str,
    /// Why it is paused; set exactly when it is.
    pub paused_reason: Option<PausedReason>,
    /// Free pairs.
    pub metadata: Box<RawValue>,
    /// When it was created.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// When a deployment fires by itself.
#[derive(Debug, Serialize)]
pub struct Schedule {
    /// Always `cron`.
    pub r#type: &'static str,
    /// Five fields: minute, hour, day of month, month, day of week.
    pub expression: String,
    /// The IANA zone whose wall clock the expression is matched against.
    pub timezone: String,
    /// When the last scheduled run started.
    pub last_run_at: Option<Time>,
    /// The next times, at most five; none once archived.
    pub upcoming_runs_at: Vec<Time>,
}

/// What a request says about a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleFields {
    /// The expression, unchecked.
    pub expression: String,
    /// The zone, unchecked.
    pub timezone: String,
}

/// Most characters of a cron expression.
pub const MAX_EXPRESSION: usize = 256;
/// Most characters of a time zone's name. The longest in the tz database has 32.
pub const MAX_TIMEZONE: usize = 64;

fn read_schedule(node: &Node<'_>) -> Decoded<ScheduleFields> {
    match node.tag()? {
        "cron" => node.object(|o| {
            o.tagged();
            Ok(ScheduleFields {
                expression: o.required("expression")?.text(1, MAX_EXPRESSION)?,
                timezone: o.required("timezone")?.text(1, MAX_TIMEZONE)?,
            })
        }),
        other => Err(node.wrong_tag(other)),
    }
}

/// Why a deployment is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PausedReason {
    /// Somebody paused it.
    Manual,
    /// A scheduled fire failed.
    Error {
        /// With this error.
        error: PausedError,
    },
}

/// The error that paused a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedError {
    /// Its type.
    pub r#type: RunErrorType,
}

/// A create request, or the state after an update.
#[derive(Debug)]
pub struct DeploymentFields {
    /// 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// At most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
    /// The agent, unchecked.
    pub agent: AgentChoice,
    /// The environment, unchecked.
    pub environment_id: String,
    /// What each session is sent first, as it was sent.
    pub initial_events: Vec<Value>,
    /// What is mounted.
    pub resources: Vec<Resource>,
    /// Where credentials are, unchecked.
    pub vault_ids: Vec<String>,
    /// When it fires by itself.
    pub schedule: Option<ScheduleFields>,
    /// Whether a spend ceiling was asked for.
    pub budget: Option<Value>,
    /// Free pairs.
    pub metadata: Metadata,
}

impl DeploymentFields {
    /// Reads the body of a create request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        Ok(Self {
            name: o.required("name")?.text(1, MAX_NAME)?,
            description: agent::optional_text(o.optional("description"), MAX_DESCRIPTION)?,
            agent: agent::read_choice(&o.required("agent")?, false)?,
            environment_id: o.required("environment_id")?.text(1, 128)?,
            initial_events: event::read_deployment_events(&o.required("initial_events")?)?,
            resources: session::read_resources(o.optional("resources"))?,
            vault_ids: session::read_vault_ids(o.optional("vault_ids"))?,
            schedule: o.kept("schedule", read_schedule)?,
            budget: o.kept("budget", session::read_budget)?,
            metadata: metadata::create(o.optional("metadata"))?,
        })
    }
}

/// An update request. `None` keeps what is stored.
#[derive(Debug)]
pub struct UpdateDeployment {
    /// A new name.
    pub name: Option<String>,
    /// The description; null or an empty text clears it.
    pub description: Patch<String>,
    /// Another agent, or another version of it.
    pub agent: Option<AgentChoice>,
    /// Another environment.
    pub environment_id: Option<String>,
    /// Other first events.
    pub initial_events: Option<Vec<Value>>,
    /// Other resources.
    pub resources: Option<Vec<Resource>>,
    /// Other vaults.
    pub vault_ids: Option<Vec<String>>,
    /// The schedule; null makes the deployment manual-only.
    pub schedule: Patch<ScheduleFields>,
    /// The spend ceiling.
    pub budget: Patch<Value>,
    /// Pairs to set and to delete.
    pub metadata: Changes,
}

impl UpdateDeployment {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Deployments);
        Ok(Self {
            name: o.needed("name", |n| n.text(1, MAX_NAME))?,
            description: agent::text_patch(o.patch("description"), MAX_DESCRIPTION)?,
            agent: o.needed("agent", |n| agent::read_choice(n, false))?,
            environment_id: o.needed("environment_id", |n| n.text(1, 128))?,
            initial_events: o.needed("initial_events", event::read_deployment_events)?,
            resources: cleared_list(o.patch("resources"), |n| session::read_resources(Some(n)))?,
            vault_ids: cleared_list(o.patch("vault_ids"), |n| session::read_vault_ids(Some(n)))?,
            schedule: o.patch("schedule").read(read_schedule)?,
            budget: o.patch("budget").read(session::read_budget)?,
            metadata: Changes::read(o.patch("metadata"))?,
        })
    }
}

fn cleared_list<T>(patch: Patch<Node<'_>>, read: impl Fn(Node<'_>) -> Decoded<Vec<T>>) -> Decoded<Option<Vec<T>>> {
    match patch {
        Patch::Keep => Ok(None),
        Patch::Clear => Ok(Some(Vec::new())),
        Patch::Set(node) => read(node).map(Some),
    }
}

/// The record of one start of a deployment.
#[derive(Debug, Serialize)]
pub struct DeploymentRun {
    /// Its id.
    pub id: RunId,
    /// Always `deployment_run`.
    pub r#type: &'static str,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The agent version that it ran.
    pub agent: AgentReference,
    /// When the record was made.
    pub created_at: Time,
    /// The session that was created; null exactly when `error` is set.
    pub session_id: Option<SessionId>,
    /// Why no session was created.
    pub error: Option<RunError>,
    /// What started it.
    pub trigger_context: TriggerContext,
}

impl DeploymentRun {
    /// `session_created`, or the type of its error.
    pub fn outcome(&self) -> &'static str {
        self.error.as_ref().map_or("session_created", |error| error.r#type.as_str())
    }
}

/// What started a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TriggerContext {
    /// The schedule.
    Schedule {
        /// When the expression matched, before jitter.
        scheduled_at: Time,
    },
    /// A caller.
    Manual,
}

/// Why a run created no session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// The kind of error.
    pub r#type: RunErrorType,
    /// What is wrong and what to do.
    pub message: String,
}

names! {
    /// The kinds of [`RunError`].
    RunErrorType {
        /// The environment is archived.
        "environment_archived_error" => EnvironmentArchived,
        /// The environment was deleted.
        "environment_not_found_error" => EnvironmentNotFound,
        /// The agent, or one of its roster, is archived.
        "agent_archived_error" => AgentArchived,
        /// A vault is gone.
        "vault_not_found_error" => VaultNotFound,
        /// A vault is archived.
        "vault_archived_error" => VaultArchived,
        /// A file is gone.
        "file_not_found_error" => FileNotFound,
        /// A memory store is archived.
        "memory_store_archived_error" => MemoryStoreArchived,
        /// A skill of the agent is gone.
        "skill_not_found_error" => SkillNotFound,
        /// Something to mount is gone.
        "session_resource_not_found_error" => SessionResourceNotFound,
        /// The workspace is archived.
        "workspace_archived_error" => WorkspaceArchived,
        /// The organization is disabled.
        "organization_disabled_error" => OrganizationDisabled,
        /// The environment is self-hosted and cannot mount what the deployment names.
        "self_hosted_resources_unsupported_error" => SelfHostedResourcesUnsupported,
        /// The environment does not reach an MCP server of the agent.
        "mcp_egress_blocked_error" => McpEgressBlocked,
        /// Too many sessions are being created; the next fire may succeed.
        "session_rate_limited_error" => SessionRateLimited,
        /// The session's settings are not valid.
        "session_creation_rejected_error" => SessionCreationRejected,
        /// Anything else.
        "unknown_error" => Unknown,
    }
}

impl RunErrorType {
    /// Whether a scheduled fire that fails so pauses its deployment.
    pub fn pauses(self) -> bool {
        !matches!(self, Self::SessionRateLimited | Self::SessionCreationRejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fourteen_of_the_sixteen_run_errors_pause() {
        assert_eq!(RunErrorType::ALL.iter().filter(|e| e.pauses()).count(), 14);
        for error in RunErrorType::ALL {
            assert_eq!(serde_json::to_value(error).unwrap(), error.as_str());
        }
    }
}
