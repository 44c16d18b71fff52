//! The transactions of a runner. Each begins by asking whether the lease still holds; one that lost it writes nothing.

use rota_api::{
    Time,
    event::{EventBody, RetryStatus, SessionError, SessionErrorType, StopDetails, StopReason},
    id::{DeploymentId, EventId},
    session::{SessionUsage, Status},
};

use super::{
    fold::State,
    lease::{self, Lease},
    next::Surroundings,
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    resources::{
        deployments,
        sessions::events::log::{self, Input, NewEvent},
        sessions::{self, Waiting},
    },
};

/// Why a runner leaves a session.
#[derive(Debug)]
pub(super) enum Left {
    /// Another runner has it now.
    Lost,
    /// The session takes more memory than was counted for it; it is taken up again, and counted anew.
    Outgrown,
    /// Something failed; the session is taken up again when the lease ends.
    Failed(Error),
}

impl From<Error> for Left {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs `f` in a transaction in which the lease holds.
pub(super) async fn step<T, F>(app: &App, lease: &Lease, f: F) -> Result<T, Left>
where
    F: Fn(&mut Tx<'_>) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    let lease = lease.clone();
    let done = app.db.write(move |tx| if lease::holds(tx, &lease)? { f(tx).map(Some) } else { Ok(None) }).await?;
    done.ok_or(Left::Lost)
}

/// What a runner does with a session in one transaction, in this order.
#[derive(Debug, Clone, Default)]
pub(super) struct Step {
    /// Inputs to take up into the log.
    pub(super) take_up: Vec<Input>,
    /// Events to append.
    pub(super) events: Vec<NewEvent>,
    /// What waits for the client from now on, where that changes.
    pub(super) waiting: Option<Vec<Waiting>>,
    /// Sets the status to running after a pause.
    pub(super) resume: bool,
    /// The server that has the session's files from now on, where that changes.
    pub(super) home: Option<String>,
    /// The totals of the session, where they change.
    pub(super) usage: Option<SessionUsage>,
    /// Ends the turn, unless there is something to do by then.
    pub(super) rest: Option<Rest>,
    /// Tries again at a later time.
    pub(super) retry_in_micros: Option<i64>,
}

/// How a turn ends.
#[derive(Debug, Clone)]
pub(super) enum Rest {
    /// The agent waits for answers.
    Waiting,
    /// The turn is over.
    Over(StopReason, Option<StopDetails>),
    /// The turn is dead, and with it what waited to be taken up.
    Dead,
    /// The session ends for good, and with it what waited to be taken up.
    Terminated,
}

impl Step {
    /// Ends the session for good, and says why.
    pub(super) fn terminate(&mut self, now: Time, message: &str) {
        let retry_status = RetryStatus::Terminal;
        let error = SessionError { r#type: SessionErrorType::UnknownError, message: message.to_owned(), retry_status };
        self.events.push(NewEvent::new(now, EventBody::SessionError { error }));
        self.waiting = Some(Vec::new());
        self.rest = Some(Rest::Terminated);
    }
}

/// What the store says beside the log.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) inputs: Vec<Input>,
}

impl Beside {
    pub(super) fn surroundings(&self, recovering: bool, self_hosted: bool) -> Surroundings<'_> {
        Surroundings { inputs: &self.inputs, recovering, self_hosted, is_read_only: super::tools::is_read_only }
    }
}

/// Performs a step. Whether the session has come to rest.
pub(super) async fn perform(app: &App, lease: &Lease, state: &State, work: Step) -> Result<bool, Left> {
    let usage = state.session_usage(0.0);
    let inner = lease.clone();
    step(app, lease, move |tx| write(tx, &inner, usage, &work)).await
}

/// Ends a session for good whose log cannot be folded: what was used is what the session says. Inputs that wait and cannot
/// be read go with it.
pub(super) async fn abandon(app: &App, lease: &Lease) -> Result<(), Left> {
    let mut work = Step::default();
    work.terminate(
        app.clock.now(),
        "the session cannot be run on because of a fault of the server, whose log says more; create another one",
    );
    let inner = lease.clone();
    step(app, lease, move |tx| {
        let usage = sessions::usage(tx, &inner.workspace, &inner.session)?;
        log::forget_unreadable(tx, &inner.session)?;
        write(tx, &inner, usage, &work).map(drop)
    })
    .await
}

fn write(tx: &mut Tx<'_>, lease: &Lease, usage: SessionUsage, work: &Step) -> Result<bool> {
    let Lease { workspace, session, .. } = lease;
    log::take_up(tx, workspace, session, &work.take_up)?;
    if !work.events.is_empty() {
        log::append_new(tx, workspace, session, &work.events)?;
    }
    if let Some(waiting) = &work.waiting {
        sessions::set_waiting(tx, workspace, session, waiting)?;
    }
    if work.resume {
        tx.send(
            "UPDATE sessions SET status = 'running', running_since = coalesce(running_since, $3)
             WHERE workspace_id = $1 AND id = $2",
            vals![workspace, session, tx.now()],
        )?;
    }
    if let Some(home) = &work.home {
        lease::settle(tx, lease, home)?;
    }
    let usage = work.usage.unwrap_or(usage);
    if work.usage.is_some() {
        set_usage(tx, lease, usage)?;
    }
    if let Some(micros) = work.retry_in_micros {
        pause(tx, lease, micros)?;
        return Ok(true);
    }
    match &work.rest {
        None => Ok(false),
        Some(rest) => end(tx, lease, usage, rest),
    }
}

fn set_usage(tx: &mut Tx<'_>, lease: &Lease, usage: SessionUsage) -> Result<()> {
    tx.send(
        "UPDATE sessions SET usage = $3 WHERE workspace_id = $1 AND id = $2",
        vals![&lease.workspace, &lease.session, &serde_json::to_string(&usage)?],
    )
}

/// Gives the session back until a retry is due.
fn pause(tx: &mut Tx<'_>, lease: &Lease, micros: i64) -> Result<()> {
    tx.send(
        "UPDATE sessions SET status = 'rescheduling', runnable_at = $3, lease_owner = NULL, lease_expires_at = NULL,
             active_micros = active_micros + coalesce($4 - running_since, 0), running_since = NULL
         WHERE workspace_id = $1 AND id = $2",
        vals![&lease.workspace, &lease.session, tx.now().plus_micros(micros), tx.now()],
    )
}

/// Brings the session to rest, unless the client has sent something in the meantime that changes what comes next.
fn end(tx: &mut Tx<'_>, lease: &Lease, usage: SessionUsage, rest: &Rest) -> Result<bool> {
    let Lease { workspace, session, .. } = lease;
    let inputs = log::queued(tx, session)?;
    let last = match rest {
        Rest::Waiting => {
            let waiting = sessions::control(tx, workspace, session.as_ref())?.waiting;
            let interrupted = inputs.iter().any(|input| input.is_interrupt);
            if waiting.is_empty() || interrupted {
                return Ok(false);
            }
            let event_ids: Vec<EventId> = waiting.into_iter().map(|waiting| waiting.id).collect();
            EventBody::StatusIdle { stop_reason: StopReason::RequiresAction { event_ids }, stop_details: None }
        }
        Rest::Over(..) if !inputs.is_empty() => return Ok(false),
        Rest::Over(reason, details) => {
            EventBody::StatusIdle { stop_reason: reason.clone(), stop_details: details.clone() }
        }
        Rest::Dead | Rest::Terminated => {
            log::take_up(tx, workspace, session, &inputs)?;
            match rest {
                Rest::Terminated => EventBody::StatusTerminated {},
                _ => EventBody::StatusIdle { stop_reason: StopReason::RetriesExhausted, stop_details: None },
            }
        }
    };
    let status = if matches!(rest, Rest::Terminated) { Status::Terminated } else { Status::Idle };
    // The status is set before the event: whoever sees the event and asks for the session finds it at rest.
    let rested: Option<(i64, Option<DeploymentId>)> = tx.one(
        "UPDATE sessions SET status = $4, runnable_at = NULL, lease_owner = NULL, lease_expires_at = NULL,
             active_micros = active_micros + coalesce($3 - running_since, 0), running_since = NULL
         WHERE workspace_id = $1 AND id = $2 RETURNING active_micros, deployment_id",
        vals![workspace, session, tx.now(), status.as_str()],
        |row| Ok((row.int(0)?, row.opt_id(1)?)),
    )?;
    let (active_micros, deployment) = rested.unwrap_or_default();
    if let Some(deployment) = deployment {
        deployments::active::leave(tx, workspace, &deployment)?;
    }
    let usage = SessionUsage { active_seconds: active_micros as f64 / 1e6, ..usage };
    log::append(tx, workspace, session, &[EventBody::Usage { usage }, last])?;
    Ok(true)
}
