//! Work of self-hosted environments: sessions that wait for a worker, or have one.

use serde::Serialize;

use crate::{
    Time,
    decode::{Decoded, Node, Object, Patch},
    fields::names,
    id::{EnvironmentId, SessionId},
    metadata::{Changes, Metadata},
};

/// The bounds of a lease, in seconds.
pub const TTL_SECONDS: (i64, i64) = (1, 3600);
/// How long a lease lasts when a worker asks for nothing else, in seconds (recorded).
pub const DEFAULT_TTL_SECONDS: i64 = 300;

names! {
    /// Where work stands.
    WorkState {
        /// It waits for a worker.
        "queued" => Queued,
        /// A worker has acknowledged it.
        "starting" => Starting,
        /// A worker keeps it with heartbeats.
        "active" => Active,
        /// Its worker is asked to end it.
        "stopping" => Stopping,
        /// No worker has it.
        "stopped" => Stopped,
    }
}

/// A session as work for a worker.
#[derive(Debug, Serialize)]
pub struct Work {
    /// The id of the session (recorded).
    pub id: SessionId,
    /// When a worker acknowledged it.
    pub acknowledged_at: Option<Time>,
    /// Always null (recorded).
    pub actor: Option<()>,
    /// When the session first needed a worker.
    pub created_at: Time,
    /// What is to be done.
    pub data: WorkData,
    /// Where it is to be done.
    pub environment_id: EnvironmentId,
    /// When its worker was last heard of.
    pub latest_heartbeat_at: Option<Time>,
    /// Free key-value pairs.
    pub metadata: Metadata,
    /// What its worker works with: base64url of JSON. Only in the answer to a poll.
    pub secret: Option<String>,
    /// When it was last queued.
    pub started_at: Option<Time>,
    /// Where it stands.
    pub state: WorkState,
    /// When it was first asked to stop.
    pub stop_requested_at: Option<Time>,
    /// When it stopped.
    pub stopped_at: Option<Time>,
    /// Always `work`.
    pub r#type: &'static str,
}

/// What work is: to serve a session.
#[derive(Debug, Serialize)]
pub struct WorkData {
    /// The session.
    pub id: SessionId,
    /// Always `session`.
    pub r#type: &'static str,
}

/// What a worker reads in [`Work::secret`].
#[derive(Serialize)]
pub struct WorkSecret<'a> {
    /// The token that reaches the session and its work.
    pub sessions_token: &'a str,
}

/// The answer to a heartbeat.
#[derive(Debug, Serialize)]
pub struct WorkHeartbeat {
    /// The last heartbeat, to be named by the next one; empty when there was none.
    pub last_heartbeat: String,
    /// Whether the lease lasts longer now.
    pub lease_extended: bool,
    /// Where the work stands.
    pub state: WorkState,
    /// How long the lease lasts from the last heartbeat on.
    pub ttl_seconds: i64,
    /// Always `work_heartbeat`.
    pub r#type: &'static str,
}

/// A lease, as a refused heartbeat is told of it.
#[derive(Debug, Clone, Serialize)]
pub struct LeaseState {
    /// Where the work stands.
    pub state: WorkState,
    /// How long the lease lasts from its last heartbeat on.
    pub ttl_seconds: i64,
    /// The heartbeat that the next one must name; null when there was none.
    pub last_heartbeat: Option<Time>,
    /// Always false.
    pub lease_extended: bool,
    /// When the lease was last changed.
    pub lease_updated_at: Option<Time>,
}

/// How much work waits in an environment.
#[derive(Debug, Serialize)]
pub struct WorkStats {
    /// Work that waits for a worker.
    pub depth: i64,
    /// Work that a worker was given and has not acknowledged.
    pub pending: i64,
    /// Since when the oldest of both is queued.
    pub oldest_queued_at: Option<Time>,
    /// Workers that have asked for work within the last 30 seconds; null where none can.
    pub workers_polling: Option<i64>,
    /// Always `work_queue_stats`.
    pub r#type: &'static str,
}

/// An update request.
#[derive(Debug)]
pub struct UpdateWork {
    /// What to change of the pairs.
    pub metadata: Changes,
}

impl UpdateWork {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        let node = o.required("metadata")?;
        Ok(Self { metadata: Changes::read(Patch::Set(node))? })
    }
}

/// A request to stop.
#[derive(Debug)]
pub struct StopWork {
    /// Whether it stops at once, without waiting for its worker.
    pub force: bool,
}

impl StopWork {
    /// Reads the body of a request to stop.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        Ok(Self { force: o.needed("force", Node::boolean)?.unwrap_or(false) })
    }
}
