//! Runs sessions: takes them up, does what `next` says, appends what happened.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rota_api::{
    agent::ThreadAgent,
    environment::EnvironmentConfig,
    event::{EventBody, ModelUsage, Permission, RetryStatus, SessionError, SessionErrorType, StopDetails, StopReason},
    id::{EventId, Id},
};
use serde_json::json;
use tokio::{sync::Semaphore, time::sleep};

use super::{
    fold::{Call, State},
    lease::{self, Lease},
    next::{Action, Closing, next},
    permission::{self, Verdict},
    step::{Beside, Left, Rest, Step, perform},
    tools,
};
use crate::{
    app::App,
    db::{Tx, vals},
    error::{Error, Result},
    hub::{self, Watcher},
    limits,
    model::{Block, Delta, ModelError, ModelReply, ModelRequest, Stop, Usage},
    resources::{
        events::{
            interrupted_result,
            log::{self, NewEvent},
        },
        sessions::{Waiting, WaitingFor},
    },
};

/// Runs sessions until the server stops.
pub async fn run(app: App) {
    let slots = Arc::new(Semaphore::new(app.config.engine.concurrency));
    if app.config.engine.concurrency == 0 {
        return;
    }
    app.spawn(renew(app.clone()));
    app.spawn(tidy(app.clone()));
    loop {
        // Waits until a slot is free; all that are free are filled at once.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let free = slots.available_permits() as i64 + 1;
        drop(slot);
        let claimed = match claim(&app, free).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::error!(%error, "no sessions could be taken up");
                Vec::new()
            }
        };
        let none = claimed.is_empty();
        for lease in claimed {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let app_ = app.clone();
            app.spawn(async move {
                drive(&app_, lease).await;
                drop(slot);
            });
        }
        if none {
            tokio::select! {
                () = app.hub.runnable() => {}
                () = sleep(limits::RUNNER_POLL) => {}
                () = app.stopping() => return,
            }
        }
    }
}

async fn claim(app: &App, count: i64) -> Result<Vec<Lease>> {
    if app.is_stopping() || !app.db.lookup(lease::is_due)? {
        return Ok(Vec::new());
    }
    let owner = app.node.clone();
    app.db.write(move |tx| lease::claim(tx, &owner, count)).await
}

async fn renew(app: App) {
    loop {
        tokio::select! {
            () = sleep(limits::LEASE_RENEW_EVERY) => {}
            () = app.stopping() => return,
        }
        let owner = app.node.clone();
        if let Err(error) = app.db.write(move |tx| lease::renew(tx, &owner)).await {
            tracing::error!(%error, "the leases of this server could not be renewed");
        }
    }
}

async fn tidy(app: App) {
    loop {
        tokio::select! {
            () = sleep(limits::SANDBOX_TIDY_EVERY) => app.sandboxes.tidy().await,
            () = app.stopping() => return,
        }
    }
}

async fn drive(app: &App, lease: Lease) {
    let left = tokio::select! {
        left = Runner::load_and_run(app, &lease) => left,
        () = app.stopping() => Ok(()),
    };
    match left {
        Ok(()) => {}
        Err(Left::Lost) => tracing::info!(session_id = %lease.session, "another runner has the session"),
        Err(Left::Failed(error)) => {
            tracing::error!(session_id = %lease.session, %error, "a session could not be run on; it is taken up again");
            sleep(Duration::from_secs(1)).await;
        }
    }
    // Does nothing when the session has come to rest, or is another runner's.
    if let Err(error) = app.db.write(move |tx| lease::release(tx, &lease)).await {
        tracing::debug!(%error, "a lease was not released; it ends by itself");
    }
}

/// One runner on one session.
struct Runner<'a> {
    app: &'a App,
    lease: &'a Lease,
    agent: ThreadAgent,
    self_hosted: bool,
    state: State,
    watcher: Watcher,
    /// Whether a runner before this one ended in the middle of the turn.
    recovering: bool,
}

impl<'a> Runner<'a> {
    async fn load_and_run(app: &'a App, lease: &'a Lease) -> Result<(), Left> {
        let inner = lease.clone();
        let (agent, self_hosted) = app.db.read(move |tx| load(tx, &inner)).await?;
        let watcher = app.hub.watch(&lease.session);
        let state = State::default();
        let mut runner = Self { app, lease, agent, self_hosted, state, watcher, recovering: false };
        let mut beside = runner.catch_up().await?;
        runner.recovering = runner.state.running;
        loop {
            let action = next(&runner.state, beside.surroundings(runner.recovering, runner.self_hosted));
            runner.recovering &= matches!(action, Action::Close(_));
            if runner.act(action, &beside).await? {
                return Ok(());
            }
            beside = runner.catch_up().await?;
        }
    }

    /// Reads what is new in the log and beside it.
    async fn catch_up(&mut self) -> Result<Beside> {
        // Whatever changes after this moment wakes `interrupted`.
        self.watcher.changes.borrow_and_update();
        loop {
            let (session, seq) = (self.lease.session.clone(), self.state.seq);
            let (events, inputs) = self
                .app
                .db
                .read(move |tx| Ok((log::read(tx, &session, seq, limits::STREAM_BATCH)?, log::queued(tx, &session)?)))
                .await?;
            self.state.apply(&events);
            if (events.len() as i64) < limits::STREAM_BATCH {
                return Ok(Beside { inputs });
            }
        }
    }

    /// Does what `next` says. Whether the session has come to rest.
    async fn act(&mut self, action: Action, beside: &Beside) -> Result<bool, Left> {
        match action {
            Action::Interrupt { count } => {
                let mut work = self.begin();
                work.take_up = beside.inputs[..count].to_vec();
                let built_in = self.state.calls.iter().filter(|call| call.stage != super::fold::Stage::Custom);
                let closed: Vec<_> = built_in.map(|call| self.event(interrupted_result(&call.id))).collect();
                work.events.extend(closed);
                work.waiting = Some(Vec::new());
                work.rest = Some(Rest::Over(StopReason::EndTurn, None));
                self.perform(work).await
            }
            Action::Close(calls) => {
                let mut work = self.begin();
                for (id, closing) in calls {
                    let body = closing_result(&id, closing);
                    work.events.push(self.event(body));
                }
                self.perform(work).await
            }
            Action::Run(call) => self.run(call).await,
            Action::Wait => {
                let mut work = self.begin();
                if self.self_hosted {
                    work.waiting = Some(self.waiting());
                }
                work.rest = Some(Rest::Waiting);
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

    async fn perform(&self, work: Step) -> Result<bool, Left> {
        perform(self.app, self.lease, &self.state, work).await
    }

    fn event(&self, body: EventBody) -> NewEvent {
        NewEvent::new(self.app.clock.now(), body)
    }

    /// What a step begins with: the status after a pause, and the end of a request that a runner before left open.
    fn begin(&self) -> Step {
        let mut work = Step::default();
        if !self.state.running {
            work.resume = true;
            work.events.push(self.event(EventBody::StatusRunning {}));
        }
        if let Some(start) = &self.state.open_request {
            work.events.push(self.event(request_end(start, true, Usage::default())));
        }
        work
    }

    /// What waits for the client, given the calls that are open.
    fn waiting(&self) -> Vec<Waiting> {
        use super::fold::Stage;

        let waits = |call: &Call| {
            let for_ = match call.stage {
                Stage::Custom => WaitingFor::CustomToolResult,
                Stage::Asked => WaitingFor::Confirmation,
                Stage::Allowed if self.self_hosted => WaitingFor::ToolResult,
                Stage::Allowed | Stage::Denied { .. } => return None,
            };
            Some(Waiting { id: call.id.clone(), for_ })
        };
        self.state.calls.iter().filter_map(waits).collect()
    }

    /// Runs a call of a built-in tool. Its result is appended whatever it is; an interrupt is left to the next step.
    async fn run(&mut self, call: Call) -> Result<bool, Left> {
        if !self.state.running {
            let work = self.begin();
            self.perform(work).await?;
        }
        let tool = match tools::parse(&call) {
            Ok(None) => return self.record(tools::answer_of_the_server(&call)).await,
            Err(problem) => return self.record(tools::result(&call, &problem, true)).await,
            Ok(Some(tool)) => tool,
        };
        let ran = tokio::select! {
            ran = self.app.sandboxes.call(&self.lease.session, call.id.as_ref(), &tool) => Some(ran),
            () = interrupted(self.app, self.lease, &mut self.watcher) => None,
        };
        match ran {
            None => Ok(false),
            Some(Ok(output)) => self.record(tools::result(&call, &output.content, output.is_error)).await,
            Some(Err(rota_sandbox::Error::Died { cause })) => {
                let text = format!(
                    "The sandbox ended while the tool was running ({cause}). Whether it did anything is unknown: look \
                     before you try again. Files are kept; processes and shell variables are gone."
                );
                self.record(tools::result(&call, &text, true)).await
            }
            Some(Err(error)) => {
                let text = "The tool was not run: no sandbox could be started.";
                let open = self.state.calls.iter().filter(|call| call.stage == super::fold::Stage::Allowed);
                let closed = open.map(|call| self.event(tools::result(call, text, true))).collect();
                tracing::error!(session_id = %self.lease.session, %error, "no sandbox could be started");
                self.die(SessionErrorType::UnknownError, error.to_string(), closed).await
            }
        }
    }

    async fn record(&self, body: EventBody) -> Result<bool, Left> {
        let events = vec![self.event(body)];
        self.perform(Step { events, ..Step::default() }).await
    }

    /// Ends the turn with an error that no retry can mend.
    async fn die(&self, r#type: SessionErrorType, message: String, closed: Vec<NewEvent>) -> Result<bool, Left> {
        let mut work = self.begin();
        work.events.extend(closed);
        let error = SessionError { r#type, message, retry_status: RetryStatus::Exhausted };
        work.events.push(self.event(EventBody::SessionError { error }));
        work.waiting = Some(Vec::new());
        work.rest = Some(Rest::Dead);
        self.perform(work).await
    }

    /// Sends the conversation to the model and appends what it answers.
    async fn ask(&mut self, beside: &Beside) -> Result<bool, Left> {
        let mut work = self.begin();
        work.take_up.clone_from(&beside.inputs);
        let start = self.event(EventBody::ModelRequestStart {});
        let start_id = start.id.clone();
        work.events.push(start);
        self.perform(work).await?;
        let beside = self.catch_up().await?;
        if !beside.inputs.is_empty() {
            // Something came in at the same moment. Unless it is an interrupt, it waits for the next request.
            let interrupts = |input: &log::Input| matches!(input.event.body, EventBody::UserInterrupt { .. });
            if beside.inputs.iter().any(interrupts) {
                return Ok(false);
            }
        }
        let Some(offered) = self.app.offer.get(&self.agent.model.id).cloned() else {
            let message = format!("model \"{}\" is not offered by this server any more", self.agent.model.id);
            return self.die(SessionErrorType::ModelRequestFailedError, message, Vec::new()).await;
        };
        let request = self.request(&offered)?;
        let mut drafts = Drafts::new(self.app, self.lease);
        let mut sink = |delta: Delta| drafts.receive(delta);
        let reply = tokio::select! {
            reply = offered.provider.reply(&request, &mut sink) => Some(reply),
            () = interrupted(self.app, self.lease, &mut self.watcher) => None,
        };
        match reply {
            None => Ok(false),
            Some(Ok(reply)) => {
                let work = self.replied(reply, &start_id, drafts);
                self.perform(work).await
            }
            Some(Err(error)) => self.failed(error, &start_id).await,
        }
    }

    fn request(&self, offered: &crate::model::offer::Offered) -> Result<ModelRequest> {
        let texts = self.agent.system.iter().chain(&self.state.system).map(String::as_str);
        let system = texts.collect::<Vec<_>>().join("\n\n");
        Ok(ModelRequest {
            model: offered.upstream.clone(),
            effort: self.agent.model.effort.as_ref().map(|effort| effort.level.clone()),
            max_tokens: offered.max_tokens,
            system: (!system.is_empty()).then_some(system),
            messages: self.state.messages.clone(),
            tools: tools::offered(&self.agent)?,
        })
    }

    /// The step that a reply makes: what the agent said, then its calls, then perhaps rest.
    fn replied(&self, reply: ModelReply, start: &EventId, mut drafts: Drafts<'_>) -> Step {
        let mut work = Step::default();
        let mut calls = Vec::new();
        let mut waiting = Vec::new();
        for block in reply.content {
            match block {
                Block::Text { text } => {
                    let body = EventBody::AgentMessage { content: vec![json!({"type": "text", "text": text})] };
                    let id = drafts.message(&text).unwrap_or_else(|| EventId::new(self.app.clock.now()));
                    work.events.push(NewEvent { id, body, hidden: None });
                }
                Block::Verbatim(raw) => {
                    let id = drafts.thinking().unwrap_or_else(|| EventId::new(self.app.clock.now()));
                    let hidden = Some(raw.get().to_owned());
                    work.events.push(NewEvent { id, body: EventBody::AgentThinking {}, hidden });
                }
                Block::ToolUse { name, input, .. } => self.called(name, &input, &mut calls, &mut waiting),
                Block::ToolResult { .. } => {}
            }
        }
        work.events.push(NewEvent {
            hidden: serde_json::to_string(&reply.usage).ok(),
            ..self.event(request_end(start, false, reply.usage))
        });
        let none = calls.is_empty();
        work.events.append(&mut calls);
        if !waiting.is_empty() {
            work.waiting = Some(waiting);
        }
        let mut totals = State { usage: self.state.usage, ..State::default() };
        totals.add(reply.usage);
        work.usage = Some(totals.session_usage(0.0));
        if none {
            work.rest = Some(match reply.stop {
                Stop::Refusal => Rest::Over(StopReason::Refusal, Some(refusal())),
                Stop::EndTurn | Stop::ToolUse | Stop::MaxTokens => Rest::Over(StopReason::EndTurn, None),
            });
        }
        work
    }

    fn called(
        &self,
        name: String,
        input: &serde_json::value::RawValue,
        calls: &mut Vec<NewEvent>,
        waiting: &mut Vec<Waiting>,
    ) {
        let input = serde_json::from_str(input.get()).unwrap_or_default();
        let wait = |event: &NewEvent, for_| Waiting { id: event.id.clone(), for_ };
        match permission::judge(&self.agent.tools, &name) {
            Verdict::Custom => {
                let event = self.event(EventBody::AgentCustomToolUse { name, input });
                waiting.push(wait(&event, WaitingFor::CustomToolResult));
                calls.push(event);
            }
            Verdict::BuiltIn(permission, evaluation) => {
                let evaluation = Some(evaluation);
                let body = EventBody::AgentToolUse { name, input, evaluated_permission: permission, evaluation };
                let event = self.event(body);
                match permission {
                    Permission::Ask => waiting.push(wait(&event, WaitingFor::Confirmation)),
                    _ if self.self_hosted => waiting.push(wait(&event, WaitingFor::ToolResult)),
                    _ => {}
                }
                calls.push(event);
            }
            Verdict::Unknown => {
                let text = format!("The agent has no tool named \"{name}\".");
                let evaluated_permission = Permission::Deny;
                let body = EventBody::AgentToolUse { name, input, evaluated_permission, evaluation: None };
                let event = self.event(body);
                let content = vec![json!({"type": "text", "text": text})];
                let tool_use_id = event.id.clone();
                calls.push(event);
                calls.push(self.event(EventBody::AgentToolResult { tool_use_id, content, is_error: true }));
            }
        }
    }

    /// The step that a failed request makes: another try later, or the end of the turn.
    async fn failed(&self, error: ModelError, start: &EventId) -> Result<bool, Left> {
        let (r#type, retryable, asked) = match &error {
            ModelError::Overloaded { retry_after, .. } => (SessionErrorType::ModelOverloadedError, true, *retry_after),
            ModelError::RateLimited { retry_after, .. } => {
                (SessionErrorType::ModelRateLimitedError, true, *retry_after)
            }
            ModelError::Billing { .. } => (SessionErrorType::BillingError, false, None),
            ModelError::RequestFailed { retryable, .. } => {
                (SessionErrorType::ModelRequestFailedError, *retryable, None)
            }
        };
        let retries = retryable && self.state.failures + 1 < limits::MODEL_TRIES;
        let retry_status = if retries { RetryStatus::Retrying } else { RetryStatus::Exhausted };
        let error = SessionError { r#type, message: error.to_string(), retry_status };
        tracing::warn!(session_id = %self.lease.session, error = error.message, retries, "a model request failed");
        let mut events = vec![self.event(request_end(start, true, Usage::default()))];
        events.push(self.event(EventBody::SessionError { error }));
        if !retries {
            return self.perform(Step { events, rest: Some(Rest::Dead), ..Step::default() }).await;
        }
        events.push(self.event(EventBody::StatusRescheduled {}));
        let retry_in_micros = Some(backoff_micros(self.state.failures, asked));
        self.perform(Step { events, retry_in_micros, ..Step::default() }).await
    }
}

fn backoff_micros(failures: u32, asked: Option<Duration>) -> i64 {
    let own = limits::MODEL_RETRY_FIRST_MICROS << failures.min(16);
    let asked = asked.map_or(0, |asked| i64::try_from(asked.as_micros()).unwrap_or(i64::MAX));
    own.max(asked).min(limits::MODEL_RETRY_MAX_MICROS)
}

fn request_end(start: &EventId, is_error: bool, usage: Usage) -> EventBody {
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

fn closing_result(id: &EventId, closing: Closing) -> EventBody {
    let text = match closing {
        Closing::Denied(Some(message)) => format!("The user denied this call: {message}"),
        Closing::Denied(None) => "The user denied this call.".to_owned(),
        Closing::Unknown => {
            "The server was restarted while this call may have been running. Whether it did anything is \
            unknown: look before you try again. Files are kept; processes and shell variables are gone."
                .to_owned()
        }
    };
    let content = vec![json!({"type": "text", "text": text})];
    EventBody::AgentToolResult { tool_use_id: id.clone(), content, is_error: true }
}

fn refusal() -> StopDetails {
    StopDetails { r#type: "refusal".to_owned(), category: None, explanation: None }
}

/// The agent of a session, and whether its tools run at a worker of the user.
fn load(tx: &mut Tx<'_>, lease: &Lease) -> Result<(ThreadAgent, bool)> {
    let found = tx.one(
        "SELECT coalesce(s.agent, v.snapshot), e.config FROM sessions s
         JOIN agent_versions v ON v.agent_id = s.agent_id AND v.version = s.agent_version
         LEFT JOIN environments e ON e.workspace_id = s.workspace_id AND e.id = s.environment_id
         WHERE s.workspace_id = $1 AND s.id = $2",
        vals![&lease.workspace, &lease.session],
        |row| {
            let environment: Option<EnvironmentConfig> =
                row.opt_text(1)?.map(|config| serde_json::from_str(&config)).transpose()?;
            Ok((row.json(0)?, matches!(environment, Some(EnvironmentConfig::SelfHosted {}))))
        },
    )?;
    found.ok_or_else(|| Error::not_found("Session", lease.session.as_ref()))
}

/// Returns when the client has sent an interrupt since the runner last caught up.
async fn interrupted(app: &App, lease: &Lease, watcher: &mut Watcher) {
    loop {
        tokio::select! {
            Ok(()) = watcher.changes.changed() => {}
            () = sleep(limits::INTERRUPT_POLL) => {}
        }
        let session = lease.session.clone();
        let sql = "SELECT 1 FROM session_inputs WHERE session_id = $1 AND type = 'user.interrupt' LIMIT 1";
        let found = app.db.read(move |tx| tx.one(sql, vals![&session], |_| Ok(()))).await;
        if matches!(found, Ok(Some(()))) {
            return;
        }
    }
}

/// The events that a reply is becoming, for streams that watch it: each has its id from its first piece on.
struct Drafts<'a> {
    app: &'a App,
    lease: &'a Lease,
    messages: VecDeque<(EventId, String)>,
    thinking: VecDeque<EventId>,
}

impl<'a> Drafts<'a> {
    fn new(app: &'a App, lease: &'a Lease) -> Self {
        Self { app, lease, messages: VecDeque::new(), thinking: VecDeque::new() }
    }

    fn receive(&mut self, delta: Delta) {
        match delta {
            Delta::TextStart => {
                let id = EventId::new(self.app.clock.now());
                self.send(
                    "agent.message",
                    "event_start",
                    &json!({"type": "event_start", "event": {"id": id, "type": "agent.message"}}),
                );
                self.messages.push_back((id, String::new()));
            }
            Delta::Text(text) => {
                let Some((id, so_far)) = self.messages.back_mut() else { return };
                so_far.push_str(&text);
                let delta = json!({"type": "content_delta", "index": 0, "content": {"type": "text", "text": text}});
                let frame = json!({"type": "event_delta", "event_id": id, "delta": delta});
                self.send("agent.message", "event_delta", &frame);
            }
            Delta::ThinkingStart => {
                let id = EventId::new(self.app.clock.now());
                let frame = json!({"type": "event_start", "event": {"id": id, "type": "agent.thinking"}});
                self.send("agent.thinking", "event_start", &frame);
                self.thinking.push_back(id);
            }
        }
    }

    fn send(&self, of: &'static str, name: &'static str, frame: &serde_json::Value) {
        let json = frame.to_string().into();
        self.app.hub.send_delta(&self.lease.session, hub::Delta { of, name, json });
    }

    /// The id under which a message was shown while it was produced. Blank texts are in no reply.
    fn message(&mut self, text: &str) -> Option<EventId> {
        while let Some((id, shown)) = self.messages.pop_front() {
            if shown == text {
                return Some(id);
            }
        }
        None
    }

    fn thinking(&mut self) -> Option<EventId> {
        self.thinking.pop_front()
    }
}
