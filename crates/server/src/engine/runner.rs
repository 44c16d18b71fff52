//! Runs one session: does what `next` says, and appends what happened.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all};
use rota_api::{
    agent::{BuiltInTool, Multiagent, SessionAgent, ThreadAgent, built_in},
    environment::{EnvironmentConfig, LimitedNetwork, Networking, Packages},
    event::{EventBody, ModelUsage, RetryStatus, SessionError, SessionErrorType, StopReason, ThreadName},
    id::{EventId, VaultId},
};
use rota_sandbox::{Sandbox, Setup, ToolOutput};
use tokio::time::sleep;
use tracing::Instrument;

use super::{
    ask::Retry,
    fold::{Call, Stage, State},
    lease::Lease,
    next::{Action, Closing, next},
    prompt::Surroundings,
    servers::Servers,
    step::{Beside, Checkpoint, Left, Rest, Step, perform},
    tools::{self, Asking},
    traced,
};
use crate::{
    app::App,
    closed::Closed,
    db::{Row, Tx, vals},
    error::{Error, Result},
    gate::Policy,
    hub::Watcher,
    limits,
    mcp::Mcp,
    model::Usage,
    mounts::{
        Failure, Mounts, Target,
        checkpoints::{self, Unfetched},
    },
    packages::Needs,
    places::{Place, Places},
    resources::{
        checkpoints::{Stored, Taken, columns, stored},
        repositories::{self, SessionRepository},
        session_secrets,
        sessions::events::{
            RunBy, interrupted_result,
            log::{self, NewEvent},
        },
        sessions::{Waiting, WaitingFor, status},
        skills,
    },
    traces::Context,
};

/// One runner on one session.
pub(super) struct Runner<'a> {
    pub(super) app: &'a App,
    pub(super) lease: &'a Lease,
    pub(super) agent: ThreadAgent,
    /// What the model is told of beside the agent's own instructions.
    pub(super) around: Surroundings,
    /// Whether a deployment started the session, so that nobody may be there to send a message again.
    pub(super) unattended: bool,
    pub(super) state: State,
    pub(super) watcher: Watcher,
    /// Whether a runner before this one ended in the middle of the turn.
    recovering: bool,
    /// Where the session's files are.
    pub(super) files: Files,
    /// Its checkpoint, where one is kept and can be put back, and of what changes the agent knows that they may be lost.
    checkpoint: Option<Taken>,
    told_seq: i64,
    /// The bytes that its conversation may grow to before they are counted anew.
    bytes_counted: i64,
    /// The start of a request to the model that went into the log with the result of a call, if it did.
    pub(super) begun: Option<EventId>,
    pub(super) mounts: Mounts,
    /// What its sandbox reaches.
    network: Policy,
    /// What it is made from.
    needs: Needs,
    /// Whether its sandbox may have credentials.
    has_secrets: bool,
    /// The results of calls that are not in the log yet. They outlive this runner, when the database is away.
    finished: &'a mut Vec<EventBody>,
    /// Its MCP servers.
    pub(super) servers: Servers,
    pub(super) at_work: &'a Arc<Places>,
    /// The place of a session at work. Given up while it waits for a call, which takes no more of this server than a place
    /// for a sandbox; kept during a request to the model, which holds the conversation a second time and is what an upstream
    /// counts.
    pub(super) place: Option<Place>,
    /// The span of the turn, below which its steps are.
    pub(super) trace: Context,
}

/// Where the files of a session are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// No sandbox was opened yet.
    Nowhere,
    /// On this server.
    Here,
    /// On a server that is gone, or about to be put in their place here.
    Lost,
}

impl<'a> Runner<'a> {
    /// Runs a session until it rests. `finished` are the results of calls that an earlier runner could not record.
    pub(super) async fn load_and_run(
        app: &'a App,
        lease: &'a Lease,
        at_work: &'a Arc<Places>,
        mcp: &Arc<Mcp>,
        finished: &'a mut Vec<EventBody>,
    ) -> Result<(), Left> {
        let place = Some(at_work.take(&lease.workspace).await);
        let inner = lease.clone();
        let gate = app.clone();
        let loaded = app.db.read(move |tx| load(tx, &inner, |of_session| gate.gate.policy(of_session))).await?;
        let Loaded {
            agent,
            around,
            repositories,
            unattended,
            home,
            stored,
            network,
            reach,
            needs,
            has_secrets,
            was_handed_over,
        } = loaded;
        let servers = Servers::new(mcp, &lease.session, reach, &agent);
        let Stored { taken: checkpoint, told_seq, restoring_on } = stored;
        let span = traced::turn(app, lease, &agent);
        let watcher = app.hub.watch(&lease.session);
        let state = State::default();
        let files = match home {
            None => Files::Nowhere,
            Some(home) if home == app.node && restoring_on.as_ref() != Some(&app.node) => Files::Here,
            Some(_) => Files::Lost,
        };
        let recovering = false;
        let Lease { workspace, session, .. } = lease.clone();
        let mounts = Mounts::new(Target { app: app.clone(), workspace, session }, repositories);
        let mut runner = Self {
            app,
            lease,
            agent,
            around,
            unattended,
            state,
            watcher,
            recovering,
            files,
            checkpoint: checkpoint.filter(|_| app.config.sandbox.checkpoints),
            told_seq,
            bytes_counted: 0,
            begun: None,
            mounts,
            network,
            needs,
            has_secrets,
            finished,
            servers,
            at_work,
            place,
            trace: span.context(),
        };
        let mut beside = runner.catch_up().await?;
        runner.recovering = runner.state.running && !was_handed_over;
        if runner.record_finished(None).await? {
            beside = runner.catch_up().await?;
        }
        let counted = runner.bytes(&beside).max(lease.bytes);
        runner.bytes_counted = counted + limits::LARGE_LOG_BYTES.max(counted / 4);
        // The one that set the session to work, then that of what was taken up last.
        let mut request = lease.request.clone();
        loop {
            let action = next(&runner.state, beside.surroundings(runner.recovering, runner.around.self_hosted));
            runner.recovering &= matches!(action, Action::Close(_));
            if matches!(action, Action::Ask) && runner.bytes(&beside) > runner.bytes_counted {
                return Err(Left::Outgrown);
            }
            if matches!(action, Action::Ask | Action::Run(_)) && app.brake.is_draining() {
                return Err(Left::Drained);
            }
            if let Some(newer) = beside.request_of(&action) {
                request = Some(newer.to_owned());
            }
            let turn = tracing::info_span!("turn", request_id = request.as_deref().map(display));
            if runner.act(action, &beside).instrument(turn).await? {
                return Ok(());
            }
            beside = runner.catch_up().await?;
        }
    }

    /// The bytes of the log that was read, and of what waits to enter it.
    fn bytes(&self, beside: &Beside) -> i64 {
        self.state.bytes + beside.inputs.iter().map(|input| input.bytes).sum::<i64>()
    }

    /// Reads what is new in the log and beside it.
    pub(super) async fn catch_up(&mut self) -> Result<Beside> {
        // Whatever changes after this moment wakes `interrupted`.
        self.watcher.changes.borrow_and_update();
        loop {
            let (session, seq) = (self.lease.session.clone(), self.state.seq);
            let read = move |tx: &mut Tx<'_>| Ok((log::read(tx, &session, seq)?, log::queued(tx, &session)?));
            let ((events, more), inputs) = self.app.db.read(read).await?;
            self.state.apply(&events);
            if !more {
                return Ok(Beside { inputs });
            }
        }
    }

    /// Does what `next` says. Whether the runner is done with the session.
    async fn act(&mut self, action: Action, beside: &Beside) -> Result<bool, Left> {
        // The model is told of them and of their skills. Where the files are lost the agent hears of that first.
        if matches!(action, Action::Ask | Action::Run(_))
            && self.files != Files::Lost
            && self.mounts.lack_repositories(self.begins_turn())
        {
            return self.clone_repositories().await;
        }
        // A request that has begun is not held up: it follows a call, before which the servers were looked at.
        if matches!(action, Action::Ask) && self.begun.is_none() && self.lacks_servers() {
            return self.connect_servers().await;
        }
        if let (Action::Run(calls), Files::Lost, Some(taken)) = (&action, self.files, self.checkpoint.clone())
            && let Some(call) = calls.iter().find(|call| tools::needs_files(call))
        {
            return self.bring_back(call, taken).await;
        }
        match action {
            Action::Interrupt { count } => {
                let mut work = self.begin();
                let built_in = self.state.calls.iter().filter(|call| call.stage != Stage::Custom);
                // Recorded: the results of what the interrupt closes stand before it.
                let result = |call: &Call| interrupted_result(&call.id, self.run_by(call));
                work.before.extend(built_in.map(|call| self.event(result(call))));
                work.take_up = beside.inputs[..count].to_vec();
                work.waiting = Some(Vec::new());
                work.rest = Some(Rest::Over(StopReason::EndTurn, None));
                self.perform(work).await
            }
            Action::Close(calls) => {
                let mut work = self.begin();
                let moved = self.files == Files::Lost;
                let left = match (moved, &self.checkpoint) {
                    (false, _) => Remains::Files,
                    (true, Some(_)) => Remains::Checkpoint,
                    (true, None) => Remains::Nothing,
                };
                let is_of_the_sandbox =
                    |id: &EventId| self.state.calls.iter().any(|call| call.id == *id && call.server.is_none());
                let is_lost =
                    |(id, closing): &(EventId, Closing)| *closing == Closing::Unknown && is_of_the_sandbox(id);
                if moved && calls.iter().any(is_lost) {
                    match left {
                        // It is put back before the next call.
                        Remains::Checkpoint => {
                            work.checkpoint = Some(Checkpoint::Told);
                            self.told_seq = i64::MAX;
                        }
                        _ => self.settle(&mut work).await,
                    }
                }
                for (id, closing) in calls {
                    let Some(call) = self.state.calls.iter().find(|call| call.id == id) else { continue };
                    let body = tools::result(call, &closing_text(call, closing, left), true);
                    work.events.push(self.event(body));
                }
                self.perform(work).await
            }
            Action::Run(calls) => self.run(&calls).await,
            Action::Wait => {
                let mut work = self.begin();
                for call in self.calls_without_workers().await? {
                    work.events.push(self.event(tools::result(&call, NO_WORKERS, true)));
                    work.closed.push(call.id);
                }
                if !work.closed.is_empty() {
                    return self.perform(work).await;
                }
                let seq = self.state.seq + work.before.len() as i64;
                work.rest = Some(Rest::Waiting { calls: self.waiting(), seq });
                self.perform(work).await
            }
            Action::Ask => self.ask(beside).await,
            Action::GiveUp => {
                let message = format!(
                    "the agent reached {} model requests in one turn or {} events in all",
                    limits::MAX_TURN_REQUESTS,
                    limits::MAX_SESSION_EVENTS
                );
                self.die(SessionErrorType::ToolUseLimitReachedError, message, Vec::new()).await
            }
            Action::Rest => {
                let mut work = self.begin();
                work.rest = Some(Rest::Over(StopReason::EndTurn, None));
                self.perform(work).await
            }
        }
    }

    pub(super) async fn perform(&mut self, mut work: Step) -> Result<bool, Left> {
        if work.rest.is_some() && self.files == Files::Here {
            self.mounts.before_rest().await;
            work.has_files = true;
            let closes = work.before.iter().chain(&work.events).any(|event| is_result(&event.body));
            let changed = if closes { i64::MAX } else { self.state.changed };
            work.changed = Some(changed).filter(|changed| *changed > 0 && self.app.config.sandbox.checkpoints);
        }
        perform(self.app, self.lease, &self.state, self.thread(), work).await
    }

    /// The session's thread, as events name it.
    pub(super) fn thread(&self) -> ThreadName {
        status::primary_named(&self.lease.session, &self.agent.name)
    }

    pub(super) fn event(&self, body: EventBody) -> NewEvent {
        NewEvent::new(self.app.clock.now(), body)
    }

    /// What a step begins with: the status after a pause, and the end of a request that a runner before left open.
    pub(super) fn begin(&self) -> Step {
        let mut work = Step::default();
        if !self.state.running {
            work.resume = true;
            work.before.extend(status::runs(self.thread()).map(|body| self.event(body)));
        }
        if let Some(start) = &self.state.open_request {
            work.before.push(self.event(request_end(start, true, Usage::default())));
        }
        work
    }

    /// What waits for the client, given the calls that are open.
    fn waiting(&self) -> Vec<Waiting> {
        let waits = |call: &Call| {
            let for_ = match call.stage {
                Stage::Custom => WaitingFor::CustomToolResult,
                Stage::Asked if self.is_of_a_worker(call) => WaitingFor::WorkerConfirmation,
                Stage::Asked => WaitingFor::Confirmation,
                Stage::Allowed if self.is_of_a_worker(call) => WaitingFor::ToolResult,
                Stage::Allowed | Stage::Denied { .. } => return None,
            };
            Some(Waiting { id: call.id.clone(), for_ })
        };
        self.state.calls.iter().filter_map(waits).collect()
    }

    /// The calls that no worker will ever run: those of workers, once the environment is deleted.
    async fn calls_without_workers(&self) -> Result<Vec<Call>> {
        let of_workers =
            self.state.calls.iter().filter(|call| call.stage == Stage::Allowed && self.is_of_a_worker(call));
        let calls: Vec<Call> = of_workers.cloned().collect();
        if calls.is_empty() {
            return Ok(calls);
        }
        let sql = "SELECT 1 FROM sessions s
             JOIN environments e ON e.workspace_id = s.workspace_id AND e.id = s.environment_id
             WHERE s.workspace_id = $1 AND s.id = $2";
        let is_there = self.app.db.lookup(sql, vals![&self.lease.workspace, &self.lease.session], |_| Ok(())).await?;
        Ok(if is_there.is_some() { Vec::new() } else { calls })
    }

    /// Whether a worker of the user runs a call.
    pub(super) fn is_of_a_worker(&self, call: &Call) -> bool {
        self.around.self_hosted && call.is_of_a_worker()
    }

    fn run_by(&self, call: &Call) -> RunBy {
        match call.server {
            Some(_) => RunBy::McpServer,
            None if self.is_of_a_worker(call) => RunBy::Worker,
            None => RunBy::Rota,
        }
    }

    /// Whether the model was asked nothing yet in this turn.
    fn begins_turn(&self) -> bool {
        self.state.requests == 0
    }

    /// Has the repositories of the session cloned, as far as they can be. What cannot be is told, and the session goes on
    /// without it; an interrupt is left to the next step.
    async fn clone_repositories(&mut self) -> Result<bool, Left> {
        let mut work = self.begin();
        if self.files != Files::Here {
            self.settle(&mut work).await;
        }
        self.perform(work).await?;
        let begins_turn = self.begins_turn();
        self.place = None;
        let mounts = &mut self.mounts;
        let cloned = tokio::select! {
            cloned = mounts.clone_repositories(begins_turn) => Some(cloned),
            () = interrupted(self.app, self.lease, &mut self.watcher) => None,
        };
        self.place = Some(self.at_work.take(&self.lease.workspace).await);
        let Some(cloned) = cloned else { return Ok(false) };
        let errors = cloned?;
        let session = self.lease.session.clone();
        self.around.skills = self.app.db.read(move |tx| skills::of_session(tx, &session)).await?;
        if !errors.is_empty() {
            let events = errors.into_iter().map(|error| self.event(EventBody::SessionError { error })).collect();
            self.perform(Step { events, ..Step::default() }).await?;
            self.mounts.failures_are_told().await?;
        }
        Ok(false)
    }

    /// Runs calls of built-in tools, side by side where there are several. Their results are appended whatever they are, in the
    /// order of the calls; an interrupt is left to the next step.
    async fn run(&mut self, calls: &[Call]) -> Result<bool, Left> {
        if !self.state.running {
            let work = self.begin();
            self.perform(work).await?;
        }
        // Nobody knows what a tool of a server changes, so its call is alone.
        if let [call] = calls
            && let Some(server) = &call.server
        {
            return self.call_server(server, call).await;
        }
        let mut inside = Vec::new();
        let mut outside = Vec::new();
        for call in calls {
            match tools::parse(call) {
                Ok(Some(tool)) => inside.push((call, tool)),
                Ok(None) => outside.push(call),
                Err(problem) => return self.record(tools::result(call, &problem, true)).await,
            }
        }
        if let Some((first, _)) = inside.first().filter(|_| self.files != Files::Here) {
            let mut work = Step::default();
            let moved = self.files == Files::Lost;
            // Without checkpoints it is not asked what there was to lose.
            if moved && (self.state.changed > self.told_seq || !self.app.config.sandbox.checkpoints) {
                work.events.push(self.event(tools::result(first, MOVED, true)));
            }
            self.settle(&mut work).await;
            self.perform(work).await?;
            if moved {
                return Ok(false);
            }
        }
        self.place = None;
        let Lease { workspace, session, .. } = self.lease;
        let (mounts, sandboxes, network) = (&mut self.mounts, &self.app.sandboxes, &self.network);
        let in_the_sandbox = async {
            if inside.is_empty() {
                return Ok(Vec::new());
            }
            mounts.before_call().await.map_err(NotRun::Mount)?;
            // Before the call takes a place, for it may take minutes. A sandbox that is up needs none.
            let root = match sandboxes.backend().running(session.as_ref()).await {
                Some(_) => None,
                None => Some(self.app.packages.root(&self.needs).await.map_err(NotRun::Root)?),
            };
            let setup = async {
                let root = match root {
                    Some(root) => root,
                    None => self.app.packages.root(&self.needs).await.map_err(NotRun::Root)?,
                };
                if !self.has_secrets {
                    return Ok(Setup::from(root));
                }
                let setup = self.app.gate.setup(workspace, session, network).await;
                setup.map(|setup| Setup { root, ..setup }).map_err(|error| NotRun::Mount(error.into()))
            };
            let opened = |sandbox: &Sandbox| self.app.gate.attend(sandbox, workspace, session, network);
            let tools: Vec<_> = inside.iter().map(|(call, tool)| (call.id.as_ref(), tool)).collect();
            sandboxes.call(workspace, session, &tools, setup, opened).await?.map_err(NotRun::Sandbox)
        };
        let spans = traced::tools(self.app, self.trace, calls);
        let (agent, messages) = (&self.agent, &self.state.messages[..]);
        let asking = Asking { web: &self.app.web, workspace, agent, messages };
        let by_the_server = join_all(outside.iter().map(|call| asking.answer(call)));
        let ran = tokio::select! {
            (inside, outside) = join(in_the_sandbox, by_the_server) => Some(inside.map(|inside| (inside, outside))),
            () = interrupted(self.app, self.lease, &mut self.watcher) => None,
        };
        let notes = if inside.is_empty() { Vec::new() } else { self.mounts.after_call().await };
        self.place = self.at_work.take_free(&self.lease.workspace, 1).pop();
        let inside: Vec<&Call> = inside.into_iter().map(|(call, _)| call).collect();
        let answered = match &ran {
            None => traced::Ran::Interrupted,
            Some(Err(_)) => traced::Ran::Not,
            Some(Ok((outputs, results))) => traced::Ran::Answered { inside: &inside, outputs, results },
        };
        traced::ran(spans, &answered);
        let rests = self.ran(calls, &inside, ran, &notes).await?;
        if !rests && self.place.is_none() {
            self.place = Some(self.at_work.take(&self.lease.workspace).await);
        }
        Ok(rests)
    }

    /// Puts the files of a checkpoint in their place before a call. An interrupt is left to the next step.
    async fn bring_back(&mut self, call: &Call, taken: Taken) -> Result<bool, Left> {
        if !self.state.running {
            let work = self.begin();
            self.perform(work).await?;
            return Ok(false);
        }
        self.place = None;
        let target = self.mounts.target().clone();
        let fetched = tokio::select! {
            fetched = checkpoints::fetch(&target, &taken) => Some(fetched),
            () = interrupted(self.app, self.lease, &mut self.watcher) => None,
        };
        self.place = Some(self.at_work.take(&self.lease.workspace).await);
        let fetched = match fetched {
            None => return Ok(false),
            Some(Ok(fetched)) => fetched,
            Some(Err(Unfetched::Failure(failure))) => return self.not_brought_back(failure).await,
            Some(Err(Unfetched::Damaged(why))) => {
                tracing::error!(session_id = %self.lease.session, why, "a checkpoint cannot be put back: the session goes on without");
                self.perform(Step { checkpoint: Some(Checkpoint::Damaged), ..Step::default() }).await?;
                self.checkpoint = None;
                // All is lost, also what the agent believes to have.
                self.told_seq = 0;
                return Ok(false);
            }
        };
        let home = Some(self.app.node.clone());
        let coming = Step { home: home.clone(), checkpoint: Some(Checkpoint::Coming), ..Step::default() };
        self.perform(coming).await?;
        let (placed, note) = (fetched.placed().clone(), fetched.note());
        if let Err(failure) = checkpoints::place(&target, fetched).await {
            return self.not_brought_back(failure).await;
        }
        let mut work = Step { home, checkpoint: Some(Checkpoint::Here(placed)), ..Step::default() };
        if self.state.changed > taken.seq.max(self.told_seq) {
            work.events.push(self.event(tools::result(call, MOVED_BACK, true)));
        }
        self.perform(work).await?;
        self.files = Files::Here;
        self.mounts.start_over(note).await?;
        tracing::info!(session_id = %self.lease.session, from = taken.node, "a session goes on here with the files of its checkpoint");
        Ok(false)
    }

    /// Tries later, or gives the turn up. The checkpoint stays.
    async fn not_brought_back(&mut self, failure: Failure) -> Result<bool, Left> {
        let message = format!("the files of the session could not be brought to this server: {failure}");
        if failure.is_passing && self.state.failures + 1 < limits::SANDBOX_TRIES {
            let retry = Retry::Failed { wait: Duration::ZERO };
            return self.try_again(Step::default(), SessionErrorType::UnknownError, message, retry).await;
        }
        let text = "The tool was not run: the files of the session could not be brought to this server.";
        let open = self.state.calls.iter().filter(|call| call.stage == Stage::Allowed);
        let closed = open.map(|call| self.event(tools::result(call, text, true))).collect();
        self.die(SessionErrorType::UnknownError, message, closed).await
    }

    /// Appends what became of calls, of which those `inside` needed the sandbox; nothing when they were interrupted.
    async fn ran(
        &mut self,
        calls: &[Call],
        inside: &[&Call],
        ran: Option<Result<Ran, NotRun>>,
        notes: &[String],
    ) -> Result<bool, Left> {
        let may_try_again = self.state.failures + 1 < limits::SANDBOX_TRIES;
        match ran {
            None => Ok(false),
            Some(Ok((outputs, mut results))) => {
                let last = inside.len().wrapping_sub(1);
                for (at, (call, output)) in inside.iter().zip(outputs).enumerate() {
                    results.push(inside_result(call, output, if at == last { notes } else { &[] }));
                }
                let place = |result: &EventBody| {
                    calls.iter().position(
                        |call| matches!(result, EventBody::AgentToolResult { tool_use_id, .. } if *tool_use_id == call.id),
                    )
                };
                results.sort_by_key(place);
                self.finish(results).await
            }
            Some(Err(NotRun::Mount(failure))) if failure.is_passing && may_try_again => {
                let retry = Retry::Failed { wait: Duration::ZERO };
                self.try_again(Step::default(), SessionErrorType::UnknownError, failure.message, retry).await
            }
            Some(Err(NotRun::Mount(failure))) => {
                tracing::error!(session_id = %self.lease.session, %failure, "what is mounted could not be brought up to date");
                let text = format!("The tool was not run: {failure}");
                self.finish(calls.iter().map(|call| tools::result(call, &text, true)).collect()).await
            }
            Some(Err(NotRun::Sandbox(error))) if error.is_passing() && may_try_again => {
                tracing::warn!(session_id = %self.lease.session, %error, "no sandbox could be started yet");
                let message = format!("no sandbox could be started yet: {}", error.for_client());
                // The call stays open, and whoever takes the session up next runs it.
                let retry = Retry::Failed { wait: Duration::ZERO };
                self.try_again(Step::default(), SessionErrorType::UnknownError, message, retry).await
            }
            Some(Err(NotRun::Sandbox(error))) => {
                tracing::error!(session_id = %self.lease.session, %error, "no sandbox could be started");
                self.without_sandbox(error.for_client()).await
            }
            // It was logged where it was found out.
            Some(Err(NotRun::Root(message))) => self.without_sandbox(message).await,
        }
    }

    /// Ends the turn because the session has no sandbox.
    async fn without_sandbox(&mut self, message: String) -> Result<bool, Left> {
        let text = "The tool was not run: no sandbox could be started.";
        let open = self.state.calls.iter().filter(|call| call.stage == Stage::Allowed);
        let closed = open.map(|call| self.event(tools::result(call, text, true))).collect();
        self.die(SessionErrorType::UnknownError, message, closed).await
    }

    /// Appends the results of calls that have run. Until that is done they are kept: the calls are not to run again.
    pub(super) async fn finish(&mut self, results: Vec<EventBody>) -> Result<bool, Left> {
        let bytes = serde_json::to_string(&results).map(|text| text.len() as i64);
        *self.finished = results;
        let asks =
            self.asks_next(bytes.map_err(Error::from)?) && matches!(closed(self.app, self.lease).await, Ok(None));
        let ask = asks.then(|| self.event(EventBody::ModelRequestStart {}));
        self.record_finished(ask).await?;
        Ok(false)
    }

    /// The same of one call, with an event that tells the client of something before it.
    pub(super) async fn finish_told(&mut self, result: EventBody, told: Option<EventBody>) -> Result<bool, Left> {
        let Some(told) = told else { return self.finish(vec![result]).await };
        *self.finished = vec![result.clone()];
        let events = vec![self.event(told), self.event(result)];
        self.perform(Step { events, ..Step::default() }).await?;
        self.finished.clear();
        Ok(false)
    }

    /// Whether the model is asked as soon as all open calls have their results, which have so many bytes: then one transaction
    /// does for all. What is sent to the session meanwhile still comes first.
    fn asks_next(&self, bytes: i64) -> bool {
        let State { calls, requests, seq, bytes: before, .. } = &self.state;
        let results = self.finished.len();
        self.place.is_some()
            && !self.app.brake.is_draining()
            && calls.len() == results
            && requests + 1 < limits::MAX_TURN_REQUESTS
            && seq + 1 + (results as i64) < limits::MAX_SESSION_EVENTS
            && before + bytes + RESULT_OVERHEAD * results as i64 <= self.bytes_counted
            && self.app.offer().callable(&self.agent.model.id).is_none_or(|model| model.is_free(self.app.clock.now()))
            && !self.mounts.lack_repositories(self.begins_turn())
            && !self.lacks_servers()
    }

    /// Whether there were results to append. Those that the log has were appended, or their calls were closed.
    async fn record_finished(&mut self, ask: Option<NewEvent>) -> Result<bool, Left> {
        let is_open = |result: &&EventBody| match result {
            EventBody::AgentToolResult { tool_use_id: answered, .. }
            | EventBody::AgentMcpToolResult { mcp_tool_use_id: answered, .. } => {
                self.state.calls.iter().any(|call| call.id == *answered)
            }
            _ => false,
        };
        let events: Vec<NewEvent> =
            self.finished.iter().filter(is_open).map(|result| self.event(result.clone())).collect();
        let are_open = !events.is_empty();
        if are_open {
            self.begun = ask.as_ref().map(|start| start.id.clone());
            self.perform(Step { events, ask, ..Step::default() }).await?;
        }
        self.finished.clear();
        Ok(are_open)
    }

    /// Notes with a step that the session's files are here from now on. Those of a stay before it was elsewhere are of no use.
    async fn settle(&mut self, work: &mut Step) {
        if self.files == Files::Lost {
            self.app.sandboxes.remove(self.lease.session.as_ref()).await;
        }
        work.home = Some(self.app.node.clone());
        self.files = Files::Here;
    }

    async fn record(&mut self, body: EventBody) -> Result<bool, Left> {
        let events = vec![self.event(body)];
        self.perform(Step { events, ..Step::default() }).await
    }

    /// Ends the session for good.
    pub(super) async fn terminate(&mut self, message: &str) -> Result<bool, Left> {
        let mut work = if self.state.running { self.begin() } else { Step::default() };
        work.terminate(self.app.clock.now(), message);
        self.perform(work).await
    }

    /// Ends the turn with an error that no retry can mend.
    pub(super) async fn die(
        &mut self,
        r#type: SessionErrorType,
        message: String,
        closed: Vec<NewEvent>,
    ) -> Result<bool, Left> {
        let mut work = self.begin();
        work.events.extend(closed);
        let error = SessionError::new(r#type, message, RetryStatus::Exhausted);
        work.events.push(self.event(EventBody::SessionError { error }));
        work.waiting = Some(Vec::new());
        work.rest = Some(Rest::Dead);
        self.perform(work).await
    }
}

/// What the sandbox answered to its calls, and the results of those that the server answers.
type Ran = (Vec<Result<ToolOutput, rota_sandbox::Error>>, Vec<EventBody>);

/// Why a call has no result of its own.
enum NotRun {
    Mount(Failure),
    Sandbox(rota_sandbox::Error),
    /// What the sandbox is made from is not there.
    Root(String),
}

/// The result of a call that ran in the sandbox.
fn inside_result(call: &Call, output: Result<ToolOutput, rota_sandbox::Error>, notes: &[String]) -> EventBody {
    match output {
        Ok(ToolOutput { media: Some(media), content, is_error: false, .. }) => {
            tools::media_result(call, &media, &with_notes(content, notes))
        }
        Ok(output) => tools::result(call, &with_notes(output.content, notes), output.is_error),
        Err(error) => {
            let cause = match &error {
                rota_sandbox::Error::Died { cause } => cause.clone(),
                error => error.for_client(),
            };
            let text = format!(
                "The sandbox ended while the tool was running ({cause}). Whether it did anything is unknown: look \
                 before you try again. Files are kept; processes and shell variables are gone."
            );
            tools::result(call, &with_notes(text, notes), true)
        }
    }
}

/// What a tool said, and behind it what the agent is told of its mounts.
fn with_notes(mut text: String, notes: &[String]) -> String {
    for note in notes {
        text.push_str("\n\n");
        text.push_str(note);
    }
    text
}

/// Whether the workspace of a session is closed.
pub(super) async fn closed(app: &App, lease: &Lease) -> Result<Option<Closed>> {
    let sql = "SELECT w.archived_at, o.disabled_at FROM workspaces w LEFT JOIN organization o ON TRUE WHERE w.id = $1";
    let read = |row: &Row<'_>| Ok(Closed::of(row.opt_time(0)?, row.opt_time(1)?));
    Ok(app.db.lookup(sql, vals![&lease.workspace], read).await?.flatten())
}

/// The end of a request to the model.
pub(super) fn request_end(start: &EventId, is_error: bool, usage: Usage) -> EventBody {
    EventBody::ModelRequestEnd {
        model_request_start_id: start.clone(),
        is_error,
        model_usage: ModelUsage {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cache_read_input_tokens: usage.cache_read_input_tokens,
            cache_creation_input_tokens: usage.cache_creation_5m_input_tokens + usage.cache_creation_1h_input_tokens,
        },
    }
}

/// More than the log adds to the text of a result and of the start of a request: their ids.
const RESULT_OVERHEAD: i64 = 1024;

/// What the agent reads instead of the result of a call that no worker will run.
const NO_WORKERS: &str =
    "This call was not run. The environment whose workers run the tools of this session has been deleted.";

/// What the agent reads instead of the result of its first call after a move with an earlier checkpoint.
const MOVED_BACK: &str = "This call was not run. The session has moved to another server because the one that ran it is gone. Its \
    files are those of an earlier moment, when the session last was at rest and they could be kept: what was changed after that \
    is lost, as are all processes. Look at what is there before you go on.";

/// What the agent reads instead of the result of its first call after a move.
const MOVED: &str = "This call was not run. The session has moved to another server because the one that ran it is gone, and \
    with it all files and processes: the sandbox is empty now. Set up again what you need.";

/// What is left of a session's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remains {
    Files,
    Checkpoint,
    Nothing,
}

fn is_result(body: &EventBody) -> bool {
    matches!(body, EventBody::AgentToolResult { .. })
}

fn closing_text(call: &Call, closing: Closing, left: Remains) -> String {
    match closing {
        Closing::Denied { tool, message } => {
            let said = message.map(|message| format!(" Rejection message: {message}")).unwrap_or_default();
            format!("Permission to use {tool} has been rejected.{said}")
        }
        Closing::Unknown if call.server.is_some() => {
            "The server was restarted while this call may have been under way at the MCP server. Whether it did anything is \
            unknown: look before you try again."
                .to_owned()
        }
        Closing::Unknown if left == Remains::Checkpoint => {
            "The server that ran this call is gone. Whether the call did anything outside the sandbox is unknown. The session \
            has moved to another server; its files are those of an earlier moment, when it last was at rest and they could be \
            kept: what was changed after that is lost, as are all processes. Look at what is there before you go on."
                .to_owned()
        }
        Closing::Unknown if left == Remains::Nothing => {
            "The server that ran this call is gone. Whether the call did anything outside the sandbox is unknown. The session \
            has moved to another server; all files and processes are lost, and the sandbox is empty now."
                .to_owned()
        }
        Closing::Unknown => {
            "The server was restarted while this call may have been running. Whether it did anything is \
            unknown: look before you try again. Files are kept; processes and shell variables are gone."
                .to_owned()
        }
    }
}

/// A network without hosts.
const NOTHING: Networking = Networking::Limited(LimitedNetwork {
    allowed_hosts: Vec::new(),
    allow_mcp_servers: false,
    allow_package_managers: false,
});

/// What a runner knows of a session from the start.
struct Loaded {
    agent: ThreadAgent,
    around: Surroundings,
    repositories: Vec<SessionRepository>,
    /// Whether a deployment started it.
    unattended: bool,
    /// The server that has its files.
    home: Option<String>,
    /// What is stored of its checkpoint.
    stored: Stored,
    /// What its sandbox reaches.
    network: Policy,
    /// The MCP servers that its environment allows.
    reach: Policy,
    /// What it is made from.
    needs: Needs,
    /// Whether it has vaults or repositories.
    has_secrets: bool,
    /// Whether the runner before this one left it between two steps.
    was_handed_over: bool,
}

/// `permitted` is what the server permits of what the environment does.
fn load(tx: &mut Tx<'_>, lease: &Lease, permitted: impl Fn(Policy) -> Policy) -> Result<Loaded> {
    let skills = skills::of_session(tx, &lease.session)?;
    let now = tx.now();
    let found = tx.one(
        concat!(
            "SELECT coalesce(s.agent, v.snapshot), s.self_hosted, s.home, s.deployment_id, s.resources, s.network,
             CASE WHEN s.network IS NULL THEN e.config END, s.environment_id, s.image, s.packages, s.vault_ids,
             s.handed_over, ",
            columns!(),
            " FROM sessions s
         JOIN agent_versions v ON v.agent_id = s.agent_id AND v.version = s.agent_version
         LEFT JOIN environments e ON e.workspace_id = s.workspace_id AND e.id = s.environment_id
         LEFT JOIN session_checkpoints c ON c.workspace_id = s.workspace_id AND c.session_id = s.id
         WHERE s.workspace_id = $1 AND s.id = $2"
        ),
        vals![&lease.workspace, &lease.session],
        |row| {
            let SessionAgent { primary: agent, multiagent } = row.json(0)?;
            let networking = match row.opt_json(5)? {
                Some(networking) => networking,
                // A session of an earlier version, and perhaps of an environment that is gone.
                None => row
                    .opt_json::<EnvironmentConfig>(6)?
                    .and_then(|config| config.networking().cloned())
                    .unwrap_or(NOTHING),
            };
            let members = multiagent.iter().flat_map(Multiagent::agents);
            let servers = agent.mcp_servers.iter().chain(members.flat_map(|member| &member.mcp_servers));
            let network = Policy::new(&networking, servers.map(|server| server.url.as_str()));
            // Servers are reached from here and not from a sandbox: they are no affair of a worker's network.
            let reach = if row.int(1)? == 1 { Policy::Unrestricted } else { network.clone() };
            let network = permitted(network);
            let packages: Packages = row.opt_json(9)?.unwrap_or_default();
            let has_commands = built_in(&agent.tools, BuiltInTool::Bash).is_some();
            let around = Surroundings {
                self_hosted: row.int(1)? == 1,
                resources: row.json(4)?,
                skills: skills.clone(),
                network: has_commands.then(|| network.clone()),
                packages: if has_commands { packages.clone() } else { Packages::default() },
                secrets: Vec::new(),
            };
            let vaults: Vec<VaultId> = row.json(10)?;
            Ok(Loaded {
                has_secrets: !vaults.is_empty() || around.has_repositories(),
                was_handed_over: row.opt_int("handed_over")?.is_some_and(|epoch| lease.follows(epoch)),
                network,
                reach,
                agent,
                around,
                repositories: Vec::new(),
                unattended: row.opt_text(3)?.is_some(),
                home: row.opt_text(2)?,
                stored: stored(row, now)?,
                needs: Needs {
                    workspace: lease.workspace.clone(),
                    session: lease.session.clone(),
                    environment: row.id(7)?,
                    image: row.opt_text(8)?,
                    packages,
                },
            })
        },
    )?;
    let mut loaded = found.ok_or_else(|| Error::not_found("Session", lease.session.as_ref()))?;
    if loaded.around.has_repositories() {
        loaded.repositories = repositories::of_session(tx, &lease.workspace, &lease.session)?;
    }
    if loaded.has_secrets {
        loaded.around.secrets = session_secrets::of_session(tx, &lease.workspace, &lease.session)?;
    }
    Ok(loaded)
}

/// Returns when the client has sent an interrupt since the runner last caught up.
pub(super) async fn interrupted(app: &App, lease: &Lease, watcher: &mut Watcher) {
    loop {
        tokio::select! {
            Ok(()) = watcher.changes.changed() => {}
            () = sleep(limits::INTERRUPT_POLL) => {}
        }
        // A look-up: many sessions wait here at the same time.
        let sql = "SELECT 1 FROM session_inputs WHERE session_id = $1 AND type = 'user.interrupt' LIMIT 1";
        let found = app.db.lookup(sql, vals![&lease.session], |_| Ok(())).await;
        if matches!(found, Ok(Some(()))) {
            return;
        }
    }
}
