//! A request to the model: what it is sent, and the step that its answer makes.

use std::time::Duration;

use rota_api::{
    agent::DEFAULT_EFFORT,
    event::{EventBody, Permission, RetryStatus, SessionError, SessionErrorType, StopDetails, StopReason},
    id::{EventId, Id},
};
use serde_json::{json, value::RawValue};

use super::{
    drafts::Drafts,
    permission::{self, Verdict},
    runner::{Runner, closed, interrupted, request_end},
    step::{Beside, Left, Rest, Step},
    tools,
};
use crate::{
    backoff::Backoff,
    closed::Closed,
    error::Result,
    limits,
    model::{Block, Delta, ModelError, ModelReply, ModelRequest, Stop, Usage, offer::Offered},
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
        let mut work = self.begin();
        work.take_up.clone_from(&beside.inputs);
        let start = self.event(EventBody::ModelRequestStart {});
        let start_id = start.id.clone();
        work.events.push(start);
        self.perform(work).await?;
        let beside = self.catch_up().await?;
        if !beside.inputs.is_empty() {
            // Something came in at the same moment. Unless it is an interrupt, it waits for the next request.
            if beside.inputs.iter().any(|input| input.is_interrupt) {
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
            Some(Ok(mut reply)) => {
                reply.usage.cost_nanos = offered.price.map(|price| price.of(&reply.usage));
                if reply.stop == Stop::CutCall {
                    return self.cut(reply.usage, &start_id).await;
                }
                let work = self.replied(reply, &start_id, drafts);
                self.perform(work).await
            }
            Some(Err(error)) => self.failed(error, &start_id).await,
        }
    }

    fn request(&self, offered: &Offered) -> Result<ModelRequest> {
        let texts = self.agent.system.iter().chain(&self.state.system).map(String::as_str);
        let system = texts.collect::<Vec<_>>().join("\n\n");
        Ok(ModelRequest {
            model: offered.upstream.clone(),
            effort: self.effort(),
            max_tokens: offered.max_tokens,
            system: (!system.is_empty()).then_some(system),
            messages: self.state.messages.clone(),
            tools: tools::offered(&self.agent)?,
        })
    }

    /// The level of effort to ask for. The default needs no word, which not every upstream knows.
    fn effort(&self) -> Option<String> {
        let level = self.agent.model.effort.as_ref().map(|effort| effort.level.clone());
        level.filter(|level| level != DEFAULT_EFFORT)
    }

    /// The step that a reply makes: what the agent said and called, in the order of its blocks, then perhaps rest.
    fn replied(&self, reply: ModelReply, start: &EventId, mut drafts: Drafts<'_>) -> Step {
        let mut work = Step::default();
        let mut waiting = Vec::new();
        let mut answers = Vec::new();
        let calls = reply.content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
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
                Block::ToolUse { name, input, .. } => {
                    let event = self.called(name, &input, &mut waiting, &mut answers);
                    work.events.push(event);
                }
                Block::ToolResult { .. } => {}
            }
        }
        // Recorded: the request ends after the last of its events, the calls too.
        work.events.push(self.request_end(start, false, reply.usage));
        // A model wants the answers to all calls of a reply after the last of them, also where one is answered at once.
        work.events.append(&mut answers);
        if !waiting.is_empty() {
            work.waiting = Some(waiting);
        }
        work.usage = Some(self.state.totals(reply.usage));
        if !calls {
            work.rest = Some(match reply.stop {
                Stop::Refusal => Rest::Over(StopReason::Refusal, Some(refusal())),
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
        let input = serde_json::from_str(input.get()).unwrap_or_default();
        let wait = |event: &NewEvent, for_| Waiting { id: event.id.clone(), for_ };
        match permission::judge(&self.agent.tools, &name) {
            Verdict::Custom => {
                let event = self.event(EventBody::AgentCustomToolUse { name, input });
                waiting.push(wait(&event, WaitingFor::CustomToolResult));
                event
            }
            Verdict::BuiltIn(permission, evaluation) => {
                let evaluation = Some(evaluation);
                let tool = &name.clone();
                let body = EventBody::AgentToolUse { name, input, evaluated_permission: permission, evaluation };
                let event = self.event(body);
                match permission {
                    Permission::Ask => waiting.push(wait(&event, self.confirmation_of(tool))),
                    _ if self.is_of_a_worker(tool) => waiting.push(wait(&event, WaitingFor::ToolResult)),
                    _ => {}
                }
                event
            }
            Verdict::Unknown => {
                let text = format!("The agent has no tool named \"{name}\".");
                let evaluated_permission = Permission::Deny;
                let body = EventBody::AgentToolUse { name, input, evaluated_permission, evaluation: None };
                let event = self.event(body);
                let content = vec![json!({"type": "text", "text": text})];
                let tool_use_id = event.id.clone();
                answers.push(self.event(EventBody::AgentToolResult { tool_use_id, content, is_error: true }));
                event
            }
        }
    }

    /// The end of a request, with what it cost.
    fn request_end(&self, start: &EventId, is_error: bool, usage: Usage) -> NewEvent {
        NewEvent { hidden: serde_json::to_string(&usage).ok(), ..self.event(request_end(start, is_error, usage)) }
    }

    /// The step that a reply makes which ended within the call of a tool: nothing of it can be sent back.
    async fn cut(&self, used: Usage, start: &EventId) -> Result<bool, Left> {
        let message = "the model's reply reached `max_tokens` within the call of a tool; a higher `max_tokens` in \
            [[models]], or smaller steps, make room for it";
        let mut work = Step { usage: Some(self.state.totals(used)), ..Step::default() };
        work.events.push(self.request_end(start, true, used));
        let retries = self.state.failures + 1 < limits::CUT_CALL_TRIES;
        self.try_again(
            work,
            SessionErrorType::ToolUseLimitReachedError,
            message.to_owned(),
            retries.then_some(Duration::ZERO),
        )
        .await
    }

    /// The step that a failed request makes: another try later, or the end of the turn.
    async fn failed(&self, error: ModelError, start: &EventId) -> Result<bool, Left> {
        let (r#type, retryable, asked) = match &error {
            ModelError::Overloaded { retry_after, .. } => (SessionErrorType::ModelOverloadedError, true, *retry_after),
            ModelError::RateLimited { retry_after, .. } => {
                (SessionErrorType::ModelRateLimitedError, true, *retry_after)
            }
            ModelError::Billing { .. } => (SessionErrorType::BillingError, false, None),
            ModelError::TooLong { .. } => (SessionErrorType::CompactionLimitReachedError, false, None),
            ModelError::RequestFailed { retryable, .. } => {
                (SessionErrorType::ModelRequestFailedError, *retryable, None)
            }
        };
        let retries = retryable && self.state.failures + 1 < limits::MODEL_TRIES;
        let message = match &error {
            ModelError::TooLong { message } => format!(
                "the conversation is longer than the model takes, and this server does not shorten conversations ({message}); \
                 what was said in this turn is not sent again: send something shorter, or begin another session"
            ),
            other => other.to_string(),
        };
        let mut work = Step::default();
        work.events.push(self.event(request_end(start, true, Usage::default())));
        self.try_again(work, r#type, message, retries.then(|| asked.unwrap_or_default())).await
    }

    /// Tells of an error and ends the turn, or tries again later: after `after`, where that is longer than a pause that grows.
    pub(super) async fn try_again(
        &self,
        mut work: Step,
        r#type: SessionErrorType,
        message: String,
        after: Option<Duration>,
    ) -> Result<bool, Left> {
        let retry_status = if after.is_some() { RetryStatus::Retrying } else { RetryStatus::Exhausted };
        tracing::warn!(session_id = %self.lease.session, error = message, retries = after.is_some(), "a step failed");
        let error = SessionError { r#type, message, retry_status };
        work.events.push(self.event(EventBody::SessionError { error }));
        match after {
            None => work.rest = Some(Rest::Dead),
            Some(after) => {
                work.events.extend(status::is_rescheduled(self.thread()).map(|body| self.event(body)));
                work.retry_in_micros = Some(backoff_micros(self.state.failures, after));
            }
        }
        self.perform(work).await
    }
}

fn backoff_micros(failures: u32, asked: Duration) -> i64 {
    let [first, longest] = [limits::MODEL_RETRY_FIRST_MICROS, limits::MODEL_RETRY_MAX_MICROS];
    let [first, longest] = [first, longest].map(|micros| Duration::from_micros(micros as u64));
    let own = Backoff::doubling(first, longest).pause(failures + 1).as_micros() as i64;
    let asked = i64::try_from(asked.as_micros()).unwrap_or(i64::MAX);
    own.max(asked).min(limits::MODEL_RETRY_MAX_MICROS)
}

fn refusal() -> StopDetails {
    StopDetails { r#type: "refusal".to_owned(), category: None, explanation: None }
}
