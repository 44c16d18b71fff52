//! The transactions of a runner. Each begins by asking whether the lease still holds; one that lost it writes nothing.

use std::borrow::Cow;

use rota_api::{
    Time,
    event::{EventBody, RetryStatus, SessionError, SessionErrorType, StopDetails, StopReason, ThreadName},
    id::EventId,
    session::SessionUsage,
};

use super::{
    acted,
    ended::Ended,
    fold::State,
    lease::{self, Lease},
    next::{Action, Surroundings},
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    mounts,
    resources::{
        checkpoints::{self, Placed},
        deployments,
        sessions::events::log::{self, Input, NewEvent},
        sessions::{
            self, Waiting, WaitingFor,
            status::{self, StartedBy},
        },
        work_queue,
    },
};

/// Why a runner leaves a session.
#[derive(Debug)]
pub(super) enum Left {
    /// Another runner has it now.
    Lost,
    /// The server is to end, and nothing more is begun.
    Drained,
    /// The operator has stopped everything.
    Halted,
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
    /// Sets the status to running after a pause.
    pub(super) resume: bool,
    /// Events to append before the inputs that are taken up.
    pub(super) before: Vec<NewEvent>,
    /// Inputs to take up into the log.
    pub(super) take_up: Vec<Input>,
    /// Events to append.
    pub(super) events: Vec<NewEvent>,
    /// The start of the next request to the model, which follows them unless something waits to be taken up before it.
    pub(super) ask: Option<NewEvent>,
    /// What waits for the client from now on, where that changes.
    pub(super) waiting: Option<Vec<Waiting>>,
    /// Calls that are closed without an answer, and wait no more.
    pub(super) closed: Vec<EventId>,
    /// The server that has the session's files from now on, where that changes.
    pub(super) home: Option<String>,
    /// The totals of the session, where they change.
    pub(super) usage: Option<SessionUsage>,
    /// Ends the turn, unless there is something to do by then.
    pub(super) rest: Option<Rest>,
    /// Whether the session has files here, which it may have changed.
    pub(super) has_files: bool,
    /// The last event that may have changed them, where checkpoints are taken.
    pub(super) changed: Option<i64>,
    /// What becomes of a checkpoint.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Tries again at a later time.
    pub(super) retry_in_micros: Option<i64>,
}

/// What becomes of the checkpoint of a session that this server takes over.
#[derive(Debug, Clone)]
pub(super) enum Checkpoint {
    /// The agent is told, with the events of the step, that what was changed since is lost.
    Told,
    /// Its files are about to be put in their place here.
    Coming,
    /// It is not what was written: the next one is to be whole.
    Damaged,
    /// They are there, and with them what another server had put among them.
    Here(Placed),
}

/// How a turn ends.
#[derive(Debug, Clone)]
pub(super) enum Rest {
    /// The agent waits for answers: to these calls, by the log up to `seq`.
    Waiting { calls: Vec<Waiting>, seq: i64 },
    /// The turn is over.
    Over(StopReason, Option<StopDetails>),
    /// The turn is dead, and with it what waited to be taken up.
    Dead,
    /// The session ends for good, and with it what waited to be taken up.
    Terminated,
}

impl Step {
    /// What it tells that went wrong last.
    pub(super) fn error(&self) -> Option<&SessionError> {
        self.before.iter().chain(&self.events).rev().find_map(|event| match &event.body {
            EventBody::SessionError { error } => Some(error),
            _ => None,
        })
    }

    /// Ends the session for good, and says why.
    pub(super) fn terminate(&mut self, now: Time, message: &str) {
        let retry_status = RetryStatus::Terminal;
        let error = SessionError::new(SessionErrorType::UnknownError, message.to_owned(), retry_status);
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

    /// The request that sent the newest of the inputs which `action` takes up, where it is known.
    pub(super) fn request_of(&self, action: &Action) -> Option<&str> {
        let taken = match action {
            Action::Ask => &self.inputs[..],
            Action::Interrupt { count } => &self.inputs[..*count],
            _ => &[],
        };
        taken.iter().rev().find_map(|input| input.request.as_deref())
    }
}

/// Performs a step of the session's thread. Whether the session has come to rest.
pub(super) async fn perform(
    app: &App,
    lease: &Lease,
    state: &State,
    thread: ThreadName,
    work: Step,
) -> Result<bool, Left> {
    let usage = state.session_usage(0.0);
    let (inner, ended) = (lease.clone(), Ended::of(&work));
    let rests = step(app, lease, move |tx| write(tx, &inner, &thread, usage, &work)).await?;
    if rests {
        ended.tell(lease);
    }
    Ok(rests)
}

/// Ends a session for good whose log cannot be folded: what was used is what the session says. Inputs that wait and cannot
/// be read go with it.
pub(super) async fn abandon(app: &App, lease: &Lease) -> Result<(), Left> {
    let mut work = Step::default();
    work.terminate(
        app.clock.now(),
        "the session cannot be run on because of a fault of the server, whose log says more; create another one",
    );
    let (inner, ended) = (lease.clone(), Ended::of(&work));
    step(app, lease, move |tx| {
        let usage = sessions::usage(tx, &inner.workspace, &inner.session)?;
        let thread = status::primary(tx, &inner.workspace, &inner.session)?;
        log::forget_unreadable(tx, &inner.session)?;
        write(tx, &inner, &thread, usage, &work).map(drop)
    })
    .await?;
    ended.tell(lease);
    Ok(())
}

fn write(tx: &mut Tx<'_>, lease: &Lease, thread: &ThreadName, usage: SessionUsage, work: &Step) -> Result<bool> {
    let Lease { workspace, session, .. } = lease;
    if work.resume {
        status::resume(tx, workspace, session)?;
    }
    let mut events = Cow::from(&work.events);
    if let Some(start) = &work.ask
        && log::queued(tx, session)?.is_empty()
    {
        events.to_mut().push(start.clone());
    }
    log::record(tx, workspace, session, &work.before, &work.take_up, &events)?;
    if let Some(waiting) = &work.waiting {
        status::wait(tx, workspace, session, waiting)?;
    }
    if !work.closed.is_empty() {
        let mut waiting = sessions::control(tx, workspace, session.as_ref())?.waiting;
        waiting.retain(|waiting| !work.closed.contains(&waiting.id));
        status::wait(tx, workspace, session, &waiting)?;
    }
    if let Some(home) = &work.home {
        lease::settle(tx, lease, home)?;
    }
    match (&work.checkpoint, &work.home) {
        (Some(Checkpoint::Damaged), _) => checkpoints::remove(tx, workspace, session)?,
        (Some(Checkpoint::Told), _) => checkpoints::loss_is_told(tx, workspace, session)?,
        (Some(Checkpoint::Coming), Some(home)) => checkpoints::is_restoring(tx, workspace, session, home)?,
        (Some(Checkpoint::Here(placed)), Some(home)) => {
            mounts::checkpoints::is_restored(tx, workspace, session, home, placed)?;
        }
        // The files are new ones.
        (None, Some(_)) => checkpoints::is_restored(tx, workspace, session)?,
        (_, None) => {}
    }
    let usage = work.usage.unwrap_or(usage);
    if work.usage.is_some() {
        set_usage(tx, lease, usage)?;
    }
    if let Some(micros) = work.retry_in_micros {
        // One that came in at the same moment found no pause to end.
        let is_interrupted = log::queued(tx, session)?.iter().any(|input| input.is_interrupt);
        status::pause(tx, workspace, session, if is_interrupted { 0 } else { micros }, work.error())?;
        return Ok(true);
    }
    match &work.rest {
        None => Ok(false),
        Some(rest) => {
            let rests = end(tx, lease, thread, usage, rest, work.error())?;
            if rests && work.has_files {
                mounts::comes_to_rest(tx, workspace, session, work.changed)?;
            }
            Ok(rests)
        }
    }
}

fn set_usage(tx: &mut Tx<'_>, lease: &Lease, usage: SessionUsage) -> Result<()> {
    let cost = usage.cost_nanos.map(|nanos| i64::try_from(nanos).unwrap_or(i64::MAX));
    if let Some(nanos) = cost {
        deployments::spend::add(tx, &lease.workspace, &lease.session, nanos)?;
    }
    tx.send(
        "UPDATE sessions SET usage = $3, cost_nanos = $4 WHERE workspace_id = $1 AND id = $2",
        vals![&lease.workspace, &lease.session, &serde_json::to_string(&usage)?, cost],
    )
}

/// Brings the session to rest, unless the client has sent something in the meantime that changes what comes next.
fn end(
    tx: &mut Tx<'_>,
    lease: &Lease,
    thread: &ThreadName,
    usage: SessionUsage,
    rest: &Rest,
    error: Option<&SessionError>,
) -> Result<bool> {
    let Lease { workspace, session, .. } = lease;
    let inputs = log::queued(tx, session)?;
    let reason = match rest {
        Rest::Waiting { calls, seq } => {
            let interrupted = inputs.iter().any(|input| input.is_interrupt);
            let waiting = still_waiting(tx, lease, calls, *seq)?;
            if waiting.is_empty() || interrupted {
                return Ok(false);
            }
            if waiting.iter().any(|waiting| waiting.for_ == WaitingFor::ToolResult) {
                let environment = sessions::control(tx, workspace, session.as_ref())?.environment;
                work_queue::need_again(tx, workspace, &environment, session, tx.now())?;
            }
            let event_ids: Vec<EventId> = waiting.into_iter().map(|waiting| waiting.id).collect();
            (StopReason::RequiresAction { event_ids }, None)
        }
        Rest::Over(..) if !inputs.is_empty() => return Ok(false),
        Rest::Over(reason, details) => (reason.clone(), details.clone()),
        Rest::Dead | Rest::Terminated => {
            log::record(tx, workspace, session, &[], &inputs, &[])?;
            (StopReason::RetriesExhausted, None)
        }
    };
    let error = error.filter(|_| matches!(rest, Rest::Dead | Rest::Terminated));
    let started_by = match rest {
        Rest::Terminated => status::terminate(tx, workspace, session, thread.clone(), error)?,
        _ => status::rest(tx, workspace, session, thread.clone(), usage, reason, error)?,
    };
    if let Some(StartedBy { deployment, run, interrupted_by }) = started_by {
        deployments::active::leave(tx, workspace, &deployment)?;
        deployments::deadlines::rests(tx, workspace, &deployment, session, matches!(rest, Rest::Waiting { .. }))?;
        match rest {
            Rest::Dead | Rest::Terminated => {
                let message = error.map_or("the session ended", |error| &error.message);
                let of = (&deployment, run.as_ref());
                deployments::again::died(tx, workspace, of, |tx, since| acted::has_acted(tx, session, since))?;
                deployments::failures::count(tx, workspace, &deployment, run.as_ref(), message)?;
            }
            Rest::Over(..) => {
                if let Some(by) = interrupted_by {
                    let reason = deployments::deadlines::reason(tx, workspace, &deployment, by)?;
                    deployments::failures::count(tx, workspace, &deployment, run.as_ref(), &reason)?;
                } else {
                    deployments::failures::end(tx, &deployment)?;
                    deployments::silence::end(tx, &deployment)?;
                }
            }
            Rest::Waiting { .. } => {}
        }
    }
    Ok(true)
}

/// What still waits for the client. Where the store says that nothing does, though nothing was answered since the runner
/// read the log, it was written by an earlier version of the server: then it is what the log says.
fn still_waiting(tx: &mut Tx<'_>, lease: &Lease, calls: &[Waiting], seq: i64) -> Result<Vec<Waiting>> {
    let Lease { workspace, session, .. } = lease;
    let stored = sessions::control(tx, workspace, session.as_ref())?;
    if !stored.waiting.is_empty() || stored.events != seq {
        return Ok(stored.waiting);
    }
    status::wait(tx, workspace, session, calls)?;
    Ok(calls.to_vec())
}
