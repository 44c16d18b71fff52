//! A request to the model: what it is sent, and the step that its answer makes.

use std::{pin::pin, task::Poll, time::Duration};

use futures_util::poll;
use rota_api::{
    agent::{DEFAULT_EFFORT, Speed, needs_network},
    event::{EventBody, Permission, RetryStatus, SessionError, SessionErrorType, StopDetails, StopReason},
    id::{EventId, Id},
};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    attached,
    drafts::Drafts,
    fold::{Call, Kept, KeptThought, PassedOver, Stage},
    permission::{self, Verdict},
    prompt,
    runner::{Files, Runner, closed, interrupted, request_end},
    step::{Beside, Left, Rest, Step},
    tools, traced,
};
use crate::{
    backoff::Backoff,
    closed::Closed,
    error::{Error, Result},
    limits,
    mcp::McpTool,
    model::{
        Asker, Block, Delta, InLine, ModelError, ModelReply, ModelRequest, Refusal, Route, Stop, Turn, Usage,
        offer::Offered,
    },
    resources::{
        sessions::events::log::NewEvent,
        sessions::{Waiting, WaitingFor, status},
    },
};

impl Runner<'_> {
    /// Sends the conversation to the model and appends what it answers.
    pub(super) async fn ask(&mut self, beside: &Beside) -> Result<bool, Left> {
        match closed(self.app, self.lease).await? {
            None => {}
            Some(Closed::OrganizationDisabled) => return Ok(true),
            Some(Closed::WorkspaceArchived) => return self.terminate("the workspace is archived").await,
        }
        // Where the result of a call began the request, it may be the one that is open now.
        let begun = self.begun.take().filter(|begun| self.state.open_request.as_ref() == Some(begun));
        let offered = self.app.offer().callable(&self.agent.model.id).cloned();
        let seen = &mut None;
        let turn = match &offered {
            None => None,
            Some(offered) => match self.turn(offered).await {
                Waited::Not(turn) => Some(turn),
                Waited::Until(_) if self.app.brake.is_draining() => return Err(Left::Drained),
                Waited::Until(turn) => {
                    // What came in meanwhile is part of the request.
                    *seen = Some(self.catch_up().await?);
                    Some(turn)
                }
                Waited::Interrupted => return Ok(false),
                Waited::InVain(in_line) => return self.comes_again(in_line, offered).await,
            },
        };
        let beside = seen.as_ref().unwrap_or(beside);
        if beside.inputs.iter().any(|input| input.is_interrupt) {
            return Ok(false);
        }
        let start_id = if let Some(begun) = begun {
            begun
        } else {
            let mut work = self.begin();
            work.take_up.clone_from(&beside.inputs);
            let start = self.event(EventBody::ModelRequestStart {});
            let start_id = start.id.clone();
            work.events.push(start);
            self.perform(work).await?;
            let beside = self.catch_up().await?;
            // Something came in at the same moment. Unless it is an interrupt, it waits for the next request.
            if beside.inputs.iter().any(|input| input.is_interrupt) {
                return Ok(false);
            }
            start_id
        };
        let (Some(offered), Some(turn)) = (offered, turn) else {
            let message = format!("model \"{}\" is not offered by this server any more", self.agent.model.id);
            return self.die(SessionErrorType::ModelRequestFailedError, message, Vec::new()).await;
        };
        let route = turn.route().clone();
        let mut request = self.request(&route)?;
        let attached = attached::attach(self.app, &self.lease.workspace, &mut request.messages).await;
        let _room = match attached {
            Ok(room) => room,
            Err(Error::Overloaded(message)) => {
                let error = ModelError::Overloaded { message: message.to_owned(), retry_after: None };
                return self.failed(error, Usage::default(), &start_id).await;
            }
            Err(error) => return Err(error.into()),
        };
        let span = traced::chat(self.app, self.trace, &self.agent.model.id, &route, &request);
        let mut drafts = Drafts::new(self.app, self.lease, &start_id);
        let mut spent = Usage::default();
        let mut sink = |delta: Delta| match delta {
            Delta::Usage(used) => spent = used,
            delta => drafts.receive(delta),
        };
        let reply = tokio::select! {
            reply = turn.reply(&request, &mut sink) => Some(reply),
            () = interrupted(self.app, self.lease, &mut self.watcher) => None,
        };
        traced::replied(span, reply.as_ref(), &spent);
        spent.cost_nanos = route.price.map(|price| price.of(&spent));
        match reply {
            None => {
                // The step that takes up the interrupt knows nothing of what the request has cost by now.
                let mut work = Step { usage: Some(self.state.totals(spent)), ..Step::default() };
                work.events.push(self.request_end(&start_id, true, spent, None));
                self.perform(work).await
            }
            Some(Ok(mut reply)) => {
                reply.usage.cost_nanos = route.price.map(|price| price.of(&reply.usage));
                if reply.stop == Stop::CutCall {
                    return self.cut(reply.usage, &start_id).await;
                }
                let mut work = self.replied(reply, &start_id, drafts);
                let is_first = self.files == Files::Nowhere && work.events.iter().any(|event| self.needs_files(event));
                if is_first {
                    work.home = Some(self.app.node.clone());
                }
                let rests = self.perform(work).await?;
                if is_first {
                    self.files = Files::Here;
                }
                Ok(rests)
            }
            Some(Err(error)) => {
                let passed_over = self.state.passed_over.iter().map(|route| &*route.name);
                let failed: Vec<&str> = passed_over.chain([&*route.name]).collect();
                match offered.after(&failed, &error, self.app.clock.now()).cloned() {
                    Some(next) => self.passed_over(&route, &next, error, spent, &start_id).await,
                    None => self.failed(error, spent, &start_id).await,
                }
            }
        }
    }

    /// Waits for a turn with an upstream. Who really waits gives up the place of a session at work.
    async fn turn(&mut self, offered: &Offered) -> Waited {
        let (clock, workspace) = (&self.app.clock, &self.lease.workspace);
        let since = self.state.waits_since.unwrap_or_else(|| clock.now());
        let failed: Vec<&str> = self.state.passed_over.iter().map(|route| &*route.name).collect();
        let mut turn = pin!(offered.turn(clock, Asker { workspace, since }, &failed));
        match poll!(&mut turn) {
            Poll::Ready(Ok(turn)) => return Waited::Not(turn),
            Poll::Ready(Err(in_line)) => return Waited::InVain(in_line),
            Poll::Pending => {}
        }
        self.place = None;
        let waited = tokio::select! {
            turn = &mut turn => turn.map_or_else(Waited::InVain, Waited::Until),
            () = interrupted(self.app, self.lease, &mut self.watcher) => Waited::Interrupted,
        };
        self.place = self.at_work.take_free(workspace, 1).pop();
        if self.place.is_none() && !matches!(waited, Waited::InVain(_)) {
            self.place = Some(self.at_work.take(workspace).await);
        }
        waited
    }

    /// The step of a session whose turn has not come: it gives back its places, and waits in line again later. Its log says so once.
    async fn comes_again(&mut self, InLine { message, wait }: InLine, offered: &Offered) -> Result<bool, Left> {
        let now = self.app.clock.now();
        let waited = self.state.waits_since.map_or(0.0, |since| now.seconds_since(since).max(0.0));
        let r#type = SessionErrorType::ModelRateLimitedError;
        if waited > limits::MODEL_LINE_LONGEST.as_secs_f64() {
            let retry = Retry::Failed { wait }.while_fewer(self.state.failures, self.tries());
            let work = self.begin();
            return self.try_again(work, r#type, message, retry).await;
        }
        let least = Duration::from_secs_f64(waited / 2.0).clamp(limits::MODEL_LINE_PAUSE, limits::MODEL_LINE_PAUSE_MAX);
        let mut wait = wait.max(least);
        if offered.left(&[]).count() > 1 {
            // Another one of them may be up again.
            wait = wait.min(limits::MODEL_LINE_PAUSE_MAX);
        }
        // Otherwise the log has to say that a new try begins, in which each upstream may be asked.
        if !self.state.running && self.state.waits_since.is_some() && self.state.passed_over.is_empty() {
            let retry_in_micros = i64::try_from(wait.as_micros()).ok();
            return self.perform(Step { retry_in_micros, ..Step::default() }).await;
        }
        let work = self.begin();
        self.try_again(work, r#type, message, Retry::InLine { wait }).await
    }

    /// The step of a request that is made anew to another upstream.
    async fn passed_over(
        &mut self,
        failed: &Route,
        next: &Route,
        error: ModelError,
        spent: Usage,
        start: &EventId,
    ) -> Result<bool, Left> {
        let Judged { r#type, is_passing, asked } = Judged::of(&error);
        tracing::warn!(session_id = %self.lease.session, upstream = failed.name, next = next.name, %error, "another upstream is asked");
        let message = format!("{error}; \"{}\" is asked in its place", next.name);
        let body = EventBody::SessionError { error: SessionError::new(r#type, message, RetryStatus::Retrying) };
        let kept = PassedOver { name: failed.name.clone(), is_passing, asked: asked.map(|wait| wait.as_secs_f64()) };
        let hidden = serde_json::to_string(&Kept { passed_over: Some(kept), ..Kept::default() }).ok();
        let mut work = Step { usage: Some(self.state.totals(spent)), ..Step::default() };
        work.events.push(self.request_end(start, true, spent, None));
        work.events.push(NewEvent { hidden, ..self.event(body) });
        self.perform(work).await
    }

    fn request(&self, route: &Route) -> Result<ModelRequest> {
        let model = &self.agent.model;
        Ok(ModelRequest {
            model: route.model.clone(),
            effort: self.effort(),
            speed: model.speed.filter(|speed| *speed != Speed::Standard).map(|speed| speed.as_str().to_owned()),
            inference_geo: model.inference_geo.map(|geo| geo.as_str().to_owned()),
            max_tokens: route.max_tokens,
            system: prompt::system(self.agent.system.as_deref(), &self.around, &self.mounts.repositories()),
            messages: route.understood(&self.state.messages),
            tools: tools::offered(
                &self.agent,
                &self.app.config.web,
                &self.app.clock.now().to_string()[..10],
                self.servers.offered(),
            )?,
        })
    }

    /// Tries of a request to the model, the first included.
    fn tries(&self) -> u32 {
        let settings = self.app.settings();
        if self.unattended { settings.unattended_model_tries } else { settings.model_tries }
    }

    /// The level of effort to ask for. The default needs no word, which not every upstream knows.
    fn effort(&self) -> Option<String> {
        let effort = self.agent.model.effort.filter(|effort| *effort != DEFAULT_EFFORT);
        effort.map(|effort| effort.as_str().to_owned())
    }

    /// The step that a reply makes: what the agent said and called, in the order of its blocks, then perhaps rest. Texts that
    /// follow each other are one message.
    fn replied(&self, reply: ModelReply, start: &EventId, mut drafts: Drafts<'_>) -> Step {
        let mut work = Step::default();
        let mut waiting = Vec::new();
        let mut answers = Vec::new();
        let is_call = |block: &Block| matches!(block, Block::ToolUse { .. } | Block::UnreadableCall { .. });
        let calls = reply.content.iter().any(is_call);
        for block in reply.content {
            match block {
                Block::Text { text } => {
                    let block = json!({"type": "text", "text": text});
                    if let Some(EventBody::AgentMessage { content }) =
                        work.events.last_mut().map(|event| &mut event.body)
                    {
                        content.push(block);
                        continue;
                    }
                    let body = EventBody::AgentMessage { content: vec![block] };
                    let id = drafts.message().unwrap_or_else(|| EventId::new(self.app.clock.now()));
                    work.events.push(NewEvent { id, body, hidden: None });
                }
                Block::Thought(thought) => {
                    let id = drafts.thinking().unwrap_or_else(|| EventId::new(self.app.clock.now()));
                    let hidden = KeptThought::of(&thought);
                    work.events.push(NewEvent { id, body: EventBody::AgentThinking {}, hidden });
                }
                Block::ToolUse { name, input, .. } => {
                    let event = self.called(name, &input, &mut waiting, &mut answers);
                    work.events.push(event);
                }
                Block::UnreadableCall { name, problem } => {
                    work.events.push(self.unreadable(name, &problem, &mut answers));
                }
                Block::Verbatim(_) | Block::ToolResult { .. } => {}
            }
        }
        let cut = match reply.stop {
            Stop::MaxTokens => Some("max_tokens"),
            Stop::ContextFull => Some("model_context_window_exceeded"),
            _ => None,
        };
        // Recorded: the request ends after the last of its events, the calls too.
        work.events.push(self.request_end(start, false, reply.usage, cut));
        // A model wants the answers to all calls of a reply after the last of them, also where one is answered at once.
        work.events.append(&mut answers);
        if !waiting.is_empty() {
            work.waiting = Some(waiting);
        }
        work.usage = Some(self.state.totals(reply.usage));
        if !calls {
            work.rest = Some(match reply.stop {
                Stop::Refusal => Rest::Over(StopReason::Refusal, Some(refusal(reply.refusal))),
                _ => Rest::Over(StopReason::EndTurn, None),
            });
        }
        work
    }

    /// The event of a call. Adds to what waits for the client, and to what is answered at once.
    fn called(
        &self,
        name: String,
        input: &RawValue,
        waiting: &mut Vec<Waiting>,
        answers: &mut Vec<NewEvent>,
    ) -> NewEvent {
        let input = match serde_json::from_str(input.get()) {
            Ok(input) => input,
            Err(problem) => return self.unreadable(name, &problem.to_string(), answers),
        };
        let wait = |event: &NewEvent, for_| Waiting { id: event.id.clone(), for_ };
        if let Some(McpTool { server, name: tool, .. }) = self.servers.tool(&name) {
            // What is switched off was not offered.
            if let Some((evaluated_permission, evaluation)) = permission::judge_mcp(&self.agent.tools, server, tool) {
                let evaluation = Some(evaluation);
                let (mcp_server_name, name) = (server.clone(), tool.clone());
                let event = self.event(EventBody::AgentMcpToolUse {
                    mcp_server_name,
                    name,
                    input,
                    evaluated_permission,
                    evaluation,
                });
                if evaluated_permission == Permission::Ask {
                    waiting.push(wait(&event, WaitingFor::Confirmation));
                }
                return event;
            }
        }
        match permission::judge(&self.agent.tools, &name) {
            Verdict::Custom => {
                let event = self.event(EventBody::AgentCustomToolUse { name, input });
                waiting.push(wait(&event, WaitingFor::CustomToolResult));
                event
            }
            Verdict::BuiltIn(permission, evaluation) => {
                let evaluation = Some(evaluation);
                let of_a_worker = self.around.self_hosted && !needs_network(&name);
                let body = EventBody::AgentToolUse { name, input, evaluated_permission: permission, evaluation };
                let event = self.event(body);
                match permission {
                    Permission::Ask if of_a_worker => waiting.push(wait(&event, WaitingFor::WorkerConfirmation)),
                    Permission::Ask => waiting.push(wait(&event, WaitingFor::Confirmation)),
                    _ if of_a_worker => waiting.push(wait(&event, WaitingFor::ToolResult)),
                    _ => {}
                }
                event
            }
            Verdict::Unknown => {
                let text = format!("The agent has no tool named \"{name}\".");
                self.answered(name, input, &text, answers)
            }
        }
    }

    /// Whether an event is a call that will be run in the sandbox here, without waiting for anybody.
    fn needs_files(&self, event: &NewEvent) -> bool {
        let EventBody::AgentToolUse { name, input, evaluated_permission: Permission::Allow, .. } = &event.body else {
            return false;
        };
        let (id, name, input) = (event.id.clone(), name.clone(), Value::Object(input.clone()));
        let call = Call { id, server: None, name, input, stage: Stage::Allowed };
        !self.is_of_a_worker(&call) && tools::needs_files(&call)
    }

    /// The event of a call whose arguments cannot be read. It is one of a built-in tool also where the client has the tool:
    /// no client is to run a call without its arguments.
    fn unreadable(&self, name: String, problem: &str, answers: &mut Vec<NewEvent>) -> NewEvent {
        let text = format!(
            "The arguments of this call could not be read, and nothing was run: {problem}. Call the tool again, with arguments \
             that are one JSON object."
        );
        self.answered(name, serde_json::Map::new(), &text, answers)
    }

    /// The event of a call that nobody runs, and its answer.
    fn answered(
        &self,
        name: String,
        input: serde_json::Map<String, Value>,
        text: &str,
        answers: &mut Vec<NewEvent>,
    ) -> NewEvent {
        let (evaluated_permission, evaluation) = (Permission::Deny, None);
        let body = match self.servers.tool(&name) {
            None => EventBody::AgentToolUse { name, input, evaluated_permission, evaluation },
            Some(McpTool { server, name, .. }) => {
                let (mcp_server_name, name) = (server.clone(), name.clone());
                EventBody::AgentMcpToolUse { mcp_server_name, name, input, evaluated_permission, evaluation }
            }
        };
        let event = self.event(body);
        let content = vec![json!({"type": "text", "text": text})];
        let call = event.id.clone();
        answers.push(self.event(match event.body {
            EventBody::AgentMcpToolUse { .. } => {
                EventBody::AgentMcpToolResult { mcp_tool_use_id: call, content, is_error: true }
            }
            _ => EventBody::AgentToolResult { tool_use_id: call, content, is_error: true },
        }));
        event
    }

    /// The end of a request, with what it cost, and why its reply was `cut` off where it was.
    fn request_end(&self, start: &EventId, is_error: bool, usage: Usage, cut: Option<&'static str>) -> NewEvent {
        let hidden = serde_json::to_string(&RequestEnded { usage, cut }).ok();
        NewEvent { hidden, ..self.event(request_end(start, is_error, usage)) }
    }

    /// The step that a reply makes which ended within the call of a tool: nothing of it can be sent back.
    async fn cut(&mut self, used: Usage, start: &EventId) -> Result<bool, Left> {
        let message = "the model's reply reached `max_tokens` within the call of a tool; a higher `max_tokens` in \
            [[models]], or smaller steps, make room for it";
        let mut work = Step { usage: Some(self.state.totals(used)), ..Step::default() };
        work.events.push(self.request_end(start, true, used, None));
        let retry = Retry::Failed { wait: Duration::ZERO }.while_fewer(self.state.failures, limits::CUT_CALL_TRIES);
        self.try_again(work, SessionErrorType::ToolUseLimitReachedError, message.to_owned(), retry).await
    }

    /// The step that a failed request makes: another try later, or the end of the turn.
    async fn failed(&mut self, error: ModelError, spent: Usage, start: &EventId) -> Result<bool, Left> {
        let Judged { mut r#type, mut is_passing, asked } = Judged::of(&error);
        // One of them may be up again.
        let earlier = self.state.passed_over.iter().filter(|route| route.is_passing);
        let waits = earlier.clone().filter_map(|route| Duration::try_from_secs_f64(route.asked?).ok()).chain(asked);
        let mut wait = waits.min().unwrap_or_default();
        if earlier.count() > 0 {
            if !is_passing {
                (r#type, is_passing) = (SessionErrorType::ModelOverloadedError, true);
            }
            wait = wait.min(limits::MODEL_LINE_PAUSE_MAX);
        }
        // What is no reply costs a whole one each time.
        let is_no_reply = matches!(error, ModelError::RequestFailed { .. });
        let tries = if is_no_reply { self.app.settings().model_tries } else { self.tries() };
        let retry = match is_passing {
            false => Retry::Never,
            true if !wait.is_zero() && self.state.waits < limits::MODEL_WAITS => Retry::Asked { wait },
            true => Retry::Failed { wait }.while_fewer(self.state.failures, tries),
        };
        let message = match &error {
            ModelError::TooLong { message } if retry == Retry::Never => format!(
                "the conversation is longer than the model takes, and this server does not shorten conversations ({message}); \
                 what was said in this turn is not sent again: send something shorter, or begin another session"
            ),
            other => other.to_string(),
        };
        let mut work = Step { usage: Some(self.state.totals(spent)), ..Step::default() };
        work.events.push(self.request_end(start, true, spent, None));
        self.try_again(work, r#type, message, retry).await
    }

    /// Tells of an error and ends the turn, or tries again later.
    pub(super) async fn try_again(
        &mut self,
        mut work: Step,
        r#type: SessionErrorType,
        message: String,
        retry: Retry,
    ) -> Result<bool, Left> {
        let retry_status = if retry == Retry::Never { RetryStatus::Exhausted } else { RetryStatus::Retrying };
        tracing::warn!(session_id = %self.lease.session, error = message, ?retry, "a step failed");
        let error = self.event(EventBody::SessionError { error: SessionError::new(r#type, message, retry_status) });
        let (kept, wait) = match retry {
            Retry::Never => {
                work.events.push(error);
                work.rest = Some(Rest::Dead);
                return self.perform(work).await;
            }
            Retry::Failed { wait } => (None, wait),
            Retry::Asked { wait } | Retry::InLine { wait } => {
                let is_in_line = matches!(retry, Retry::InLine { .. });
                (Some(Kept { seconds: Some(wait.as_secs_f64()), is_in_line, passed_over: None }), wait)
            }
        };
        let hidden = kept.and_then(|kept| serde_json::to_string(&kept).ok());
        work.events.push(NewEvent { hidden, ..error });
        work.events.extend(status::is_rescheduled(self.thread()).map(|body| self.event(body)));
        work.retry_in_micros = Some(backoff_micros(self.state.failures, wait));
        self.perform(work).await
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The end of the turn.
    Never,
    /// Another try after a pause that grows with each, and after `wait` where that is longer.
    Failed {
        /// What the upstream asks for.
        wait: Duration,
    },
    /// Another try after the time that the upstream asks for: that it asked is no failed try.
    Asked {
        /// What it asks for.
        wait: Duration,
    },
    /// Another place in the line before the upstream: nothing was asked yet.
    InLine {
        /// When.
        wait: Duration,
    },
}

/// What came of waiting for a turn with an upstream.
enum Waited {
    /// There was one at once.
    Not(Turn),
    /// There was one after a while.
    Until(Turn),
    /// There was none yet.
    InVain(InLine),
    /// There is an interrupt.
    Interrupted,
}

/// What a failure means to a session.
struct Judged {
    r#type: SessionErrorType,
    /// Whether a later try may succeed.
    is_passing: bool,
    /// The wait that the upstream asks for.
    asked: Option<Duration>,
}

impl Judged {
    fn of(error: &ModelError) -> Self {
        use SessionErrorType as Type;

        let (r#type, is_passing, asked) = match error {
            ModelError::Overloaded { retry_after, .. } => (Type::ModelOverloadedError, true, *retry_after),
            ModelError::RateLimited { retry_after, .. } => (Type::ModelRateLimitedError, true, *retry_after),
            ModelError::Billing { .. } => (Type::BillingError, false, None),
            ModelError::TooLong { .. } => (Type::CompactionLimitReachedError, false, None),
            ModelError::Unusable { .. } => (Type::ModelRequestFailedError, false, None),
            ModelError::RequestFailed { retryable, .. } => (Type::ModelRequestFailedError, *retryable, None),
        };
        Self { r#type, is_passing, asked: asked.filter(|wait| !wait.is_zero()) }
    }
}

impl Retry {
    /// This, unless the failure was the last of `tries` after `failures`.
    pub(super) fn while_fewer(self, failures: u32, tries: u32) -> Self {
        if failures + 1 < tries { self } else { Self::Never }
    }
}

/// What is kept beside the end of a request.
#[derive(Serialize)]
struct RequestEnded {
    #[serde(flatten)]
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<&'static str>,
}

fn backoff_micros(failures: u32, asked: Duration) -> i64 {
    let [first, longest] = [limits::MODEL_RETRY_FIRST_MICROS, limits::MODEL_RETRY_MAX_MICROS];
    let [first, longest] = [first, longest].map(|micros| Duration::from_micros(micros as u64));
    let own = Backoff::doubling(first, longest).pause(failures + 1);
    i64::try_from(own.max(asked).as_micros()).unwrap_or(i64::MAX)
}

fn refusal(Refusal { category, explanation }: Refusal) -> StopDetails {
    StopDetails { r#type: "refusal".to_owned(), category, explanation }
}
