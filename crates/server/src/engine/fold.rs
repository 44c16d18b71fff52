//! Reads the log of a session into the state of its agent. Pure.

use rota_api::{
    Time,
    agent::{BuiltInTool, needs_network},
    event::{Confirmation, EventBody, Permission, RetryStatus, SessionErrorType, StopReason},
    id::EventId,
    session::{CacheCreation, MonetaryAmount, ServerToolUse, SessionUsage},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    mcp,
    model::{Block, INTERRUPTED, Message, Role, Thought, Usage},
    resources::sessions::events::log::Logged,
};

/// What the log says, up to [`State::seq`].
#[derive(Debug, Default)]
pub struct State {
    /// The last event that was read.
    pub seq: i64,
    /// The bytes of all events that were read.
    pub bytes: i64,
    /// Whether the log says that the agent works.
    pub running: bool,
    /// The conversation, as the model is sent it.
    pub messages: Vec<Message>,
    /// System messages that the model has not been sent: they are a turn of their own before its next reply.
    system: Vec<Block>,
    /// Calls without a result, in the order in which they were made.
    pub calls: Vec<Call>,
    /// A request to the model that has not ended.
    pub open_request: Option<EventId>,
    /// The last event after which files may have been changed: the result of a call that does more than look.
    pub changed: i64,
    /// Whether something was said that the model has not answered.
    pub unanswered: bool,
    /// Failed tries of the current request, or of starting a sandbox for the current call.
    pub failures: u32,
    /// How often in a row the model asked to be asked later.
    pub waits: u32,
    /// Since when the current request waits because the model asked for it, or because its turn has not come.
    pub waits_since: Option<Time>,
    /// The upstreams that failed in the current try of the current request, before another one was to be asked.
    pub passed_over: Vec<PassedOver>,
    /// Requests to the model in the current turn.
    pub requests: u32,
    /// Tokens used, over all turns.
    pub usage: Usage,
    /// Calls of web tools that were answered, over all turns.
    pub web: ServerToolUse,
    /// Where the conversation stood when the turn began.
    turn: Mark,
    /// Whether the model has refused what this turn sent it.
    refused: bool,
}

/// A place in a conversation.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    messages: usize,
    /// Blocks of the last of the messages, which what follows may be added to.
    blocks: usize,
}

/// What is kept beside an error after which something is tried again and which is no failed try. Where nothing is kept, it is one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The wait that the upstream asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Whether nothing was asked, because the session's turn has not come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_in_line: bool,
    /// The upstream in whose place another one is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<PassedOver>,
}

/// An upstream that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its name.
    pub name: String,
    /// Whether a later try may succeed.
    pub is_passing: bool,
    /// The wait that it asked for, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<f64>,
}

/// What is kept beside an event of thinking. Earlier versions kept the block alone.
#[derive(Serialize, Deserialize)]
pub struct KeptThought {
    from: Option<String>,
    block: Box<RawValue>,
}

impl KeptThought {
    /// What is kept of `thought`.
    pub fn of(thought: &Thought) -> Option<String> {
        let Thought { from, block } = thought.clone();
        serde_json::to_string(&Self { from, block }).ok()
    }

    fn read(kept: &str) -> Option<Thought> {
        if let Ok(Self { from, block }) = serde_json::from_str(kept) {
            return Some(Thought { from, block });
        }
        let block = RawValue::from_string(kept.to_owned()).ok()?;
        Some(Thought { from: None, block })
    }
}

/// A call of a tool without a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The event that made it.
    pub id: EventId,
    /// The MCP server that has the tool, where one has it.
    pub server: Option<String>,
    /// The tool.
    pub name: String,
    /// The arguments.
    pub input: Value,
    /// Who runs it and what it waits for.
    pub stage: Stage,
}

impl Call {
    /// Whether a worker runs it where the environment has workers. Tools that need a network are the server's everywhere, and
    /// so are those of MCP servers.
    pub(super) fn is_of_a_worker(&self) -> bool {
        self.server.is_none() && !needs_network(&self.name)
    }
}

/// Who runs a call and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The client runs it.
    Custom,
    /// It waits for a confirmation.
    Asked,
    /// It may run: by its policy, or because it was confirmed.
    Allowed,
    /// The client denied it.
    Denied {
        /// For the model to read.
        message: Option<String>,
    },
}

impl State {
    /// Reads further events.
    pub fn apply(&mut self, events: &[Logged]) {
        for logged in events {
            self.seq = logged.seq;
            self.bytes += logged.bytes;
            self.event(logged);
        }
    }

    /// Tokens and time used, as clients see them.
    pub fn session_usage(&self, active_seconds: f64) -> SessionUsage {
        SessionUsage {
            input_tokens: self.usage.input_tokens,
            output_tokens: self.usage.output_tokens,
            cache_read_input_tokens: self.usage.cache_read_input_tokens,
            cache_creation: Some(CacheCreation {
                ephemeral_5m_input_tokens: self.usage.cache_creation_5m_input_tokens,
                ephemeral_1h_input_tokens: self.usage.cache_creation_1h_input_tokens,
            }),
            active_seconds,
            list_cost: self.usage.cost_nanos.map(MonetaryAmount::from_nanos),
            cost_nanos: self.usage.cost_nanos,
            server_tool_use: self.web,
        }
    }

    /// The same with a request that is not in the log yet.
    pub fn totals(&self, used: Usage) -> SessionUsage {
        let mut totals = Self { usage: self.usage, web: self.web, ..Self::default() };
        totals.add(used);
        totals.session_usage(0.0)
    }

    /// Counts the tokens of a request.
    pub fn add(&mut self, used: Usage) {
        let total = &mut self.usage;
        total.input_tokens += used.input_tokens;
        total.output_tokens += used.output_tokens;
        total.cache_read_input_tokens += used.cache_read_input_tokens;
        total.cache_creation_5m_input_tokens += used.cache_creation_5m_input_tokens;
        total.cache_creation_1h_input_tokens += used.cache_creation_1h_input_tokens;
        total.cost_nanos = total.cost_nanos.map_or(used.cost_nanos, |cost| Some(cost + used.cost_nanos.unwrap_or(0)));
    }

    fn event(&mut self, logged: &Logged) {
        match &logged.event.body {
            EventBody::UserMessage { content } => self.say(content.iter().filter_map(verbatim)),
            EventBody::UserDefineOutcome { description, rubric, .. } => self.say(outcome(description, rubric)),
            EventBody::SystemMessage { content } => self.system.extend(content.iter().filter_map(verbatim)),
            EventBody::UserInterrupt { .. } => self.interrupt(),
            EventBody::UserToolConfirmation { tool_use_id, result, deny_message } => {
                self.decide(tool_use_id, *result, deny_message.as_deref());
            }
            EventBody::UserCustomToolResult { custom_tool_use_id: id, content, is_error }
            | EventBody::UserToolResult { tool_use_id: id, content, is_error } => {
                let content = content.as_deref().unwrap_or_default().iter().filter_map(verbatim).collect();
                self.result(id, content, is_error.unwrap_or(false));
            }
            EventBody::AgentToolResult { tool_use_id, content, is_error } => {
                let content = content.iter().filter_map(verbatim).collect();
                let tool = self.calls.iter().find(|call| call.id == *tool_use_id).map(|call| &*call.name);
                if !tool.is_some_and(only_looks) {
                    self.changed = logged.seq;
                }
                match tool.and_then(BuiltInTool::from_name).filter(|_| !is_error) {
                    Some(BuiltInTool::WebFetch) => self.web.web_fetch_requests += 1,
                    Some(BuiltInTool::WebSearch) => self.web.web_search_requests += 1,
                    _ => {}
                }
                self.result(tool_use_id.as_ref(), content, *is_error);
                self.succeed();
            }
            EventBody::AgentMcpToolResult { mcp_tool_use_id, content, is_error } => {
                let content = content.iter().filter_map(verbatim).collect();
                self.result(mcp_tool_use_id.as_ref(), content, *is_error);
                (self.failures, self.waits) = (0, 0);
            }
            EventBody::AgentMessage { content } => {
                content.iter().filter_map(text).for_each(|text| self.push(Role::Assistant, Block::Text { text }));
            }
            EventBody::AgentThinking {} => {
                if let Some(thought) = logged.hidden.as_deref().and_then(KeptThought::read) {
                    self.push(Role::Assistant, Block::Thought(thought));
                }
            }
            EventBody::AgentToolUse { name, input, evaluated_permission, .. } => {
                self.call(&logged.event.id, (None, name), input, stage(*evaluated_permission));
            }
            EventBody::AgentMcpToolUse { mcp_server_name, name, input, evaluated_permission, .. } => {
                self.call(&logged.event.id, (Some(mcp_server_name), name), input, stage(*evaluated_permission));
            }
            EventBody::AgentCustomToolUse { name, input } => {
                self.call(&logged.event.id, (None, name), input, Stage::Custom);
            }
            EventBody::StatusRunning {} => self.running = true,
            EventBody::StatusRescheduled {} | EventBody::StatusTerminated {} => self.running = false,
            EventBody::StatusIdle { stop_reason, .. } => self.rest(stop_reason),
            // The session keeps running, without a repository or an MCP server.
            EventBody::SessionError { error } if error.r#type.leaves_it_running() => {}
            EventBody::SessionError { error } => {
                if error.retry_status == RetryStatus::Retrying {
                    self.tries_again(logged);
                }
                self.refused = error.retry_status == RetryStatus::Exhausted && is_refusal(error.r#type);
            }
            EventBody::ModelRequestStart {} => {
                self.open_request = Some(logged.event.id.clone());
                self.requests += 1;
                for block in std::mem::take(&mut self.system) {
                    self.push(Role::System, block);
                }
            }
            EventBody::ModelRequestEnd { is_error, .. } => {
                self.open_request = None;
                let used = logged.hidden.as_deref().and_then(|hidden| serde_json::from_str(hidden).ok());
                self.add(used.unwrap_or_default());
                if !is_error {
                    self.unanswered = false;
                    self.succeed();
                }
            }
            EventBody::ThreadStatusRunning { .. }
            | EventBody::ThreadStatusIdle { .. }
            | EventBody::ThreadStatusRescheduled { .. }
            | EventBody::ThreadStatusTerminated { .. }
            | EventBody::SessionUpdated { .. }
            | EventBody::Usage { .. }
            | EventBody::SessionDeleted {} => {}
        }
    }

    /// Counts a failure after which something is tried again.
    fn tries_again(&mut self, logged: &Logged) {
        let kept = logged.hidden.as_deref().map(|hidden| serde_json::from_str(hidden).unwrap_or_default());
        let Some(Kept { is_in_line, passed_over, .. }) = kept else {
            self.failures += 1;
            self.passed_over.clear();
            return;
        };
        if let Some(route) = passed_over {
            self.passed_over.push(route);
            return;
        }
        self.waits_since.get_or_insert(logged.processed_at);
        self.waits += u32::from(!is_in_line);
        self.passed_over.clear();
    }

    /// Forgets what was tried in vain.
    fn succeed(&mut self) {
        (self.failures, self.waits, self.waits_since) = (0, 0, None);
        self.passed_over.clear();
    }

    fn say(&mut self, blocks: impl IntoIterator<Item = Block>) {
        blocks.into_iter().for_each(|block| self.push(Role::User, block));
        self.unanswered = true;
    }

    fn push(&mut self, role: Role, block: Block) {
        match self.messages.last_mut() {
            Some(message) if message.role == role => message.content.push(block),
            _ => self.messages.push(Message { role, content: vec![block] }),
        }
    }

    fn call(
        &mut self,
        id: &EventId,
        (server, name): (Option<&String>, &str),
        input: &serde_json::Map<String, Value>,
        stage: Stage,
    ) {
        let input = Value::Object(input.clone());
        if let Ok(raw) = serde_json::value::to_raw_value(&input) {
            let name = server.map_or_else(|| name.to_owned(), |server| mcp::name_for_model(server, name));
            self.push(Role::Assistant, Block::ToolUse { id: id.to_string(), name, input: raw });
        }
        self.calls.push(Call { id: id.clone(), server: server.cloned(), name: name.to_owned(), input, stage });
    }

    fn decide(&mut self, id: &str, result: Confirmation, message: Option<&str>) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.id.as_ref() == id) {
            call.stage = match result {
                Confirmation::Allow => Stage::Allowed,
                Confirmation::Deny => Stage::Denied { message: message.map(str::to_owned) },
            };
        }
    }

    fn result(&mut self, id: &str, content: Vec<Block>, is_error: bool) {
        let Some(place) = self.calls.iter().position(|call| call.id.as_ref() == id) else { return };
        self.calls.remove(place);
        self.push(Role::User, Block::ToolResult { tool_use_id: id.to_owned(), content, is_error });
        self.unanswered = true;
    }

    /// Ends the turn: what was said before is not answered any more, and calls that are still open are closed. The log has
    /// the results of built-in tools that the interrupt found waiting or at work; custom tools are the client's.
    fn interrupt(&mut self) {
        let open: Vec<_> = self.calls.iter().map(|call| call.id.clone()).collect();
        for id in open {
            self.result(id.as_ref(), vec![Block::Text { text: INTERRUPTED.to_owned() }], true);
        }
        self.unanswered = false;
    }

    fn rest(&mut self, reason: &StopReason) {
        self.running = false;
        if matches!(reason, StopReason::RequiresAction { .. }) {
            return;
        }
        if *reason == StopReason::RetriesExhausted {
            self.bury();
        }
        self.unanswered = false;
        self.succeed();
        self.requests = 0;
        let blocks = self.messages.last().map_or(0, |message| message.content.len());
        self.turn = Mark { messages: self.messages.len(), blocks };
    }

    /// Ends a dead turn. What the model refused would be refused again with each later request, and what that was only the
    /// model knows: so all that was said since the turn began is left out from now on. A turn that died of something else
    /// keeps its place in the conversation.
    fn bury(&mut self) {
        let open = std::mem::take(&mut self.calls);
        if std::mem::take(&mut self.refused) {
            let Mark { messages, blocks } = self.turn;
            self.messages.truncate(messages);
            if let Some(last) = self.messages.last_mut() {
                last.content.truncate(blocks);
            }
            self.system.clear();
            return;
        }
        for call in open {
            let content = vec![Block::Text { text: NOT_RUN.to_owned() }];
            self.push(Role::User, Block::ToolResult { tool_use_id: call.id.to_string(), content, is_error: true });
        }
    }
}

fn stage(permission: Permission) -> Stage {
    match permission {
        Permission::Ask => Stage::Asked,
        Permission::Allow | Permission::Deny => Stage::Allowed,
    }
}

/// Whether a tool changes no files.
pub(super) fn only_looks(tool: &str) -> bool {
    use BuiltInTool::{Glob, Grep, Read, WebFetch, WebSearch};

    BuiltInTool::from_name(tool).is_some_and(|tool| matches!(tool, Read | Glob | Grep | WebFetch | WebSearch))
}

/// What the model reads of calls that nobody answered before their turn died.
const NOT_RUN: &str = "This call was not run: an error ended the turn.";

/// Whether an error says that the model does not take what it was sent.
fn is_refusal(error: SessionErrorType) -> bool {
    matches!(error, SessionErrorType::ModelRequestFailedError | SessionErrorType::CompactionLimitReachedError)
}

fn text(block: &Value) -> Option<String> {
    block["text"].as_str().map(str::to_owned)
}

/// A block of a client as the model is sent it. What was redacted is not there to send.
fn verbatim(block: &Value) -> Option<Block> {
    match block["type"].as_str() {
        Some("redacted") => None,
        Some("text") => text(block).map(|text| Block::Text { text }),
        _ => serde_json::value::to_raw_value(block).ok().map(Block::Verbatim),
    }
}

/// An outcome as the model reads it. A rubric in a file is a document behind it.
fn outcome(description: &str, rubric: &Value) -> Vec<Block> {
    let told = |rubric: &str| {
        let text = format!("Work towards this outcome:\n{description}\n\nIt will be graded so:\n{rubric}");
        Block::Text { text }
    };
    if let Some(content) = rubric["content"].as_str() {
        return vec![told(content)];
    }
    let document = json!({"type": "document", "title": "rubric", "source": rubric});
    let told = told("by the rubric in the document that follows.");
    [Some(told), verbatim(&document)].into_iter().flatten().collect()
}

#[cfg(test)]
pub(super) mod tests {
    use rota_api::{
        Time,
        event::{Event, ModelUsage, SessionError},
        id::Id,
    };
    use serde_json::json;

    use super::*;

    /// Events with ids that are their places.
    pub(crate) fn fold(bodies: Vec<EventBody>) -> State {
        let mut state = State::default();
        let logged = (1..).zip(bodies).map(|(seq, body)| Logged {
            seq,
            event: Event { id: id(seq), body },
            hidden: None,
            processed_at: Time::from_micros(seq),
            bytes: 1,
        });
        state.apply(&logged.collect::<Vec<_>>());
        state
    }

    pub(crate) fn id(seq: i64) -> EventId {
        EventId::trusted(format!("sevt_{seq}"))
    }

    fn says(text: &str) -> EventBody {
        EventBody::UserMessage { content: vec![json!({"type": "text", "text": text})] }
    }

    /// A reply, which ends the request before it.
    fn replies(text: &str) -> [EventBody; 2] {
        let model_usage = ModelUsage::default();
        let end = EventBody::ModelRequestEnd { model_request_start_id: id(0), is_error: false, model_usage };
        [EventBody::AgentMessage { content: vec![json!({"type": "text", "text": text})] }, end]
    }

    fn calls(name: &str) -> EventBody {
        let (input, evaluated_permission) = (serde_json::Map::new(), Permission::Allow);
        EventBody::AgentToolUse { name: name.to_owned(), input, evaluated_permission, evaluation: None }
    }

    fn result(of: i64) -> EventBody {
        EventBody::AgentToolResult { tool_use_id: id(of), content: vec![], is_error: true }
    }

    fn dies(r#type: SessionErrorType) -> [EventBody; 2] {
        let error = SessionError::new(r#type, String::new(), RetryStatus::Exhausted);
        [EventBody::SessionError { error }, ends(StopReason::RetriesExhausted)]
    }

    /// A state after a message, and then events with what is kept beside them.
    fn after(events: Vec<(EventBody, Option<&str>)>) -> State {
        let mut state = fold(vec![says("hello")]);
        let logged = (2..).zip(events).map(|(seq, (body, hidden))| Logged {
            seq,
            event: Event { id: id(seq), body },
            hidden: hidden.map(str::to_owned),
            processed_at: Time::from_micros(seq),
            bytes: 1,
        });
        state.apply(&logged.collect::<Vec<_>>());
        state
    }

    #[test]
    fn a_wait_is_no_failed_try_and_an_upstream_that_was_passed_over_is_known_until_the_try_is_over() {
        let fails = |hidden| {
            let (kind, retry) = (SessionErrorType::ModelOverloadedError, RetryStatus::Retrying);
            (EventBody::SessionError { error: SessionError::new(kind, "no".to_owned(), retry) }, hidden)
        };
        let (asked, in_line) = (Some(r#"{"seconds":30.0}"#), Some(r#"{"seconds":5.0,"is_in_line":true}"#));
        let over = Some(r#"{"passed_over":{"name":"house","is_passing":true}}"#);
        let replied = EventBody::ModelRequestEnd {
            model_request_start_id: id(1),
            is_error: false,
            model_usage: ModelUsage::default(),
        };
        let counted = |events: Vec<(EventBody, Option<&str>)>| {
            let State { failures, waits, waits_since, passed_over, .. } = after(events);
            let names: Vec<String> = passed_over.into_iter().map(|route| route.name).collect();
            (failures, waits, waits_since.map(Time::micros), names)
        };
        let house = || vec!["house".to_owned()];
        for (events, expected) in [
            (vec![fails(None), fails(None)], (2, 0, None, vec![])),
            (vec![fails(asked), fails(asked)], (0, 2, Some(2), vec![])),
            (vec![fails(in_line), fails(in_line)], (0, 0, Some(2), vec![])),
            (vec![fails(None), fails(over)], (1, 0, None, house())),
            (vec![fails(over), fails(None)], (1, 0, None, vec![])),
            (vec![fails(over), fails(asked)], (0, 1, Some(3), vec![])),
            (vec![fails(asked), fails(None)], (1, 1, Some(2), vec![])),
            (vec![fails(None), fails(asked), fails(over), (replied, None)], (0, 0, None, vec![])),
        ] {
            assert_eq!(counted(events), expected);
        }
    }

    #[test]
    fn a_thought_is_known_by_its_upstream_and_one_of_an_earlier_version_by_none() {
        let block = r#"{"type":"thinking","thinking":"hm","signature":"s"}"#;
        let thought =
            Thought { from: Some("house".to_owned()), block: RawValue::from_string(block.to_owned()).unwrap() };
        let kept = KeptThought::of(&thought).unwrap();
        let state = after(vec![(EventBody::AgentThinking {}, Some(&kept)), (EventBody::AgentThinking {}, Some(block))]);
        let expected = format!("agent: thought Some(\"house\") {block}, thought None {block}");
        assert_eq!(conversation(&state)[1], expected);
    }

    fn ends(stop_reason: StopReason) -> EventBody {
        EventBody::StatusIdle { stop_reason, stop_details: None }
    }

    /// The conversation in short: a line for each message.
    fn conversation(state: &State) -> Vec<String> {
        let short = |block: &Block| match block {
            Block::Text { text } => text.clone(),
            Block::ToolUse { id, .. } => format!("calls {id}"),
            Block::ToolResult { tool_use_id, .. } => format!("result of {tool_use_id}"),
            Block::Verbatim(raw) => raw.to_string(),
            Block::Thought(thought) => format!("thought {:?} {}", thought.from, thought.block),
            Block::UnreadableCall { .. } => unreachable!("no log has one"),
        };
        let line = |message: &Message| {
            let who = match message.role {
                Role::User => "user",
                Role::System => "system",
                Role::Assistant => "agent",
            };
            format!("{who}: {}", message.content.iter().map(short).collect::<Vec<_>>().join(", "))
        };
        state.messages.iter().map(line).collect()
    }

    #[test]
    fn a_system_message_is_a_turn_before_the_next_reply_and_never_between_calls_and_their_results() {
        let system = || EventBody::SystemMessage { content: vec![json!({"type": "text", "text": "be brief"})] };
        let mut log = vec![says("hello"), system(), EventBody::ModelRequestStart {}];
        log.extend(replies("hi"));
        log.extend([
            says("look"),
            EventBody::ModelRequestStart {},
            calls("a"),
            calls("b"),
            result(8),
            system(),
            result(9),
        ]);
        let state = fold(log.clone());
        let before =
            ["user: hello", "system: be brief", "agent: hi", "user: look", "agent: calls sevt_8, calls sevt_9"];
        let results = "user: result of sevt_8, result of sevt_9";
        assert_eq!(conversation(&state), [&before[..], &[results]].concat());
        log.push(EventBody::ModelRequestStart {});
        assert_eq!(conversation(&fold(log)), [&before[..], &[results, "system: be brief"]].concat());
    }

    #[test]
    fn what_the_model_refused_is_left_out_and_what_came_before_stays() {
        use SessionErrorType::{CompactionLimitReachedError, ModelRequestFailedError};

        for refusal in [ModelRequestFailedError, CompactionLimitReachedError] {
            let system = EventBody::SystemMessage { content: vec![json!({"type": "text", "text": "be odd"})] };
            let mut log = vec![says("hello")];
            log.extend(replies("hi"));
            log.push(ends(StopReason::EndTurn));
            log.extend([system, says("look"), calls("bash"), result(7), says("and this")]);
            log.extend(dies(refusal));
            log.push(says("again"));
            let state = fold(log);
            assert_eq!(conversation(&state), ["user: hello", "agent: hi", "user: again"]);
            assert!(state.system.is_empty() && state.calls.is_empty() && state.unanswered);
        }
    }

    #[test]
    fn a_turn_that_went_on_after_the_client_answered_is_left_out_whole() {
        let asks = ends(StopReason::RequiresAction { event_ids: vec![id(2)] });
        let mut log = vec![says("do it"), calls("bash"), asks, result(2)];
        log.extend(dies(SessionErrorType::ModelRequestFailedError));
        assert_eq!(conversation(&fold(log)), [] as [String; 0]);
    }

    #[test]
    fn files_may_be_changed_by_whatever_does_more_than_look() {
        assert_eq!(fold(vec![says("hello")]).changed, 0);
        assert_eq!(fold(vec![says("look"), calls("read"), result(2), calls("grep"), result(4)]).changed, 0);
        assert_eq!(fold(vec![says("do it"), calls("bash"), result(2), calls("glob"), result(4)]).changed, 3);
        assert_eq!(fold(vec![says("do it"), calls("bash")]).changed, 0, "it is not known to have begun");
        assert_eq!(fold(vec![says("do it"), result(7)]).changed, 2, "of a call that is buried");
    }

    #[test]
    fn a_tool_of_an_mcp_server_has_the_name_under_which_the_model_called_it_and_changes_no_files() {
        let call = EventBody::AgentMcpToolUse {
            mcp_server_name: "tracker".to_owned(),
            name: "bash".to_owned(),
            input: serde_json::Map::new(),
            evaluated_permission: Permission::Ask,
            evaluation: None,
        };
        let result = EventBody::AgentMcpToolResult { mcp_tool_use_id: id(2), content: vec![], is_error: false };
        let state = fold(vec![says("look"), call.clone()]);
        let open = &state.calls[0];
        assert_eq!((open.server.as_deref(), &*open.name, &open.stage), (Some("tracker"), "bash", &Stage::Asked));
        let state = fold(vec![says("look"), call, result]);
        assert!(state.calls.is_empty() && state.changed == 0 && state.unanswered);
        let Block::ToolUse { name, .. } = &state.messages[1].content[0] else { panic!("not a call") };
        assert_eq!(name, "mcp__tracker__bash");
    }

    #[test]
    fn calls_of_web_tools_are_counted_when_they_were_answered() {
        let answered = |of| EventBody::AgentToolResult { tool_use_id: id(of), content: vec![], is_error: false };
        let log = vec![
            says("look"),
            calls("web_search"),
            calls("web_fetch"),
            calls("web_fetch"),
            calls("read"),
            answered(2),
            answered(3),
            result(4),
            answered(5),
        ];
        let usage = fold(log).session_usage(0.0).server_tool_use;
        assert_eq!((usage.web_search_requests, usage.web_fetch_requests), (1, 1));
    }

    #[test]
    fn what_the_session_goes_on_without_is_no_failed_try() {
        let told =
            |r#type| EventBody::SessionError { error: SessionError::new(r#type, String::new(), RetryStatus::Retrying) };
        assert_eq!(fold(vec![says("hello"), told(SessionErrorType::RepositoryCloneError)]).failures, 0);
        assert_eq!(fold(vec![says("hello"), told(SessionErrorType::McpConnectionFailedError)]).failures, 0);
        assert_eq!(fold(vec![says("hello"), told(SessionErrorType::UnknownError)]).failures, 1);
    }

    #[test]
    fn what_an_interrupted_turn_left_in_the_last_message_stays() {
        let interrupt = EventBody::UserInterrupt { session_thread_id: None };
        let mut log = vec![says("do it"), calls("bash"), interrupt, result(2), ends(StopReason::EndTurn), says("bad")];
        log.extend(dies(SessionErrorType::ModelRequestFailedError));
        log.push(says("good"));
        let kept = ["user: do it", "agent: calls sevt_2", "user: result of sevt_2, good"];
        assert_eq!(conversation(&fold(log)), kept);
    }

    #[test]
    fn a_turn_that_died_of_something_else_stays_and_each_of_its_calls_has_a_result() {
        let custom = EventBody::AgentCustomToolUse { name: "weather".to_owned(), input: serde_json::Map::new() };
        let mut log = vec![says("do it"), calls("bash"), custom, result(2)];
        log.extend(dies(SessionErrorType::UnknownError));
        log.push(says("again"));
        let state = fold(log);
        assert!(state.calls.is_empty());
        let user = "user: result of sevt_2, result of sevt_3, again";
        assert_eq!(conversation(&state), ["user: do it", "agent: calls sevt_2, calls sevt_3", user]);
    }
}
