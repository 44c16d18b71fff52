//! Events of a session: what clients send, what the server records and streams.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Time, content,
    decode::{Decoded, Invalid, Node, Object},
    fields::{Decode, names},
    id::{EventId, Id, OutcomeId, ThreadId},
    metadata::Metadata,
    session::SessionUsage,
};

/// Most events of one request, and most first events of a session or a deployment.
pub const MAX_EVENTS: usize = 50;
/// Most characters of an outcome's rubric.
pub const MAX_RUBRIC: usize = 262_144;
/// Most iterations of an outcome.
pub const MAX_ITERATIONS: i64 = 20;

/// An event as it is stored: everything but the time at which it was processed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Declares what can happen: each type of event is named here and nowhere else. What clients may send is `read by` the function that
/// reads its fields.
macro_rules! events {
    (
        $(
            $(#[$doc:meta])* $tag:literal => $variant:ident $(read by $read:ident)? {
                $($(#[$of_field:meta])* $field:ident: $type:ty,)*
            },
        )*
        only on streams: $($(#[$streamed_doc:meta])* $streamed_tag:literal => $streamed:ident,)*
        never here: $($never:literal,)*
    ) => {
        /// What happened.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type")]
        pub enum EventBody {
            $($(#[$doc])* #[serde(rename = $tag)] $variant { $($(#[$of_field])* $field: $type,)* },)*
            $($(#[$streamed_doc])* #[serde(rename = $streamed_tag)] $streamed {},)*
        }

        impl EventBody {
            /// The event's `type`.
            pub fn tag(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $tag,)*
                    $(Self::$streamed {} => $streamed_tag,)*
                }
            }
        }

        /// Every type of event that a list can be asked for.
        pub const TYPES: &[&str] = &[$($tag,)* $($never,)*];

        /// An event that a client sends.
        fn read_sent(node: &Node<'_>, now: Time) -> Decoded<EventBody> {
            match node.tag()? {
                $($($tag => node.of_kind($tag).object(|o| {
                    o.tagged();
                    $read(o, now)
                }),)?)*
                other => Err(node.wrong_tag(other)),
            }
        }
    };
}

events! {
    /// The user says something.
    "user.message" => UserMessage read by read_message {
        /// Content blocks.
        content: Vec<Value>,
    },
    /// The user stops the agent.
    "user.interrupt" => UserInterrupt read by read_interrupt {
        /// The one thread to stop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_thread_id: Option<String>,
    },
    /// The user allows or denies a call that waits.
    "user.tool_confirmation" => UserToolConfirmation read by read_confirmation {
        /// The `agent.tool_use` or `agent.mcp_tool_use` that waits.
        tool_use_id: String,
        /// The decision.
        result: Confirmation,
        /// For the model to read when denied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deny_message: Option<String>,
    },
    /// The client's result of a custom tool.
    "user.custom_tool_result" => UserCustomToolResult read by read_custom_result {
        /// The `agent.custom_tool_use` that this answers.
        custom_tool_use_id: String,
        /// Content blocks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Value>>,
        /// Whether the tool failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
    },
    /// A worker's result of a built-in tool in a self-hosted environment.
    "user.tool_result" => UserToolResult read by read_result {
        /// The `agent.tool_use` that this answers.
        tool_use_id: String,
        /// Content blocks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Vec<Value>>,
        /// Whether the tool failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_error: Option<bool>,
    },
    /// The user says what the agent should produce.
    "user.define_outcome" => UserDefineOutcome read by read_outcome {
        /// The outcome, named by the server.
        outcome_id: OutcomeId,
        /// The task.
        description: String,
        /// How it is graded.
        rubric: Value,
        /// Revisions before giving up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_iterations: Option<i64>,
    },
    /// More system context from here on.
    "system.message" => SystemMessage read by read_system_message {
        /// Text blocks.
        content: Vec<Value>,
    },
    /// The agent says something.
    "agent.message" => AgentMessage {
        /// Text blocks.
        content: Vec<Value>,
    },
    /// The agent thought; what it thought is not shown.
    "agent.thinking" => AgentThinking {},
    /// The agent calls a built-in tool.
    "agent.tool_use" => AgentToolUse {
        /// The tool.
        name: String,
        /// The arguments.
        input: Map<String, Value>,
        /// Whether it runs, waits or is refused.
        evaluated_permission: Permission,
        /// The policy that decided; absent when no policy applied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evaluation: Option<Evaluation>,
    },
    /// What a built-in tool returned.
    "agent.tool_result" => AgentToolResult {
        /// The `agent.tool_use` that this answers.
        tool_use_id: EventId,
        /// Text blocks.
        content: Vec<Value>,
        /// Whether the tool failed.
        is_error: bool,
    },
    /// The agent calls a tool of an MCP server.
    "agent.mcp_tool_use" => AgentMcpToolUse {
        /// The server, as the agent names it.
        mcp_server_name: String,
        /// The tool, as the server names it.
        name: String,
        /// The arguments.
        input: Map<String, Value>,
        /// Whether it runs, waits or is refused.
        evaluated_permission: Permission,
        /// The policy that decided; absent when no policy applied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evaluation: Option<Evaluation>,
    },
    /// What a tool of an MCP server returned.
    "agent.mcp_tool_result" => AgentMcpToolResult {
        /// The `agent.mcp_tool_use` that this answers.
        mcp_tool_use_id: EventId,
        /// Texts, images and documents.
        content: Vec<Value>,
        /// Whether the tool failed.
        is_error: bool,
    },
    /// The agent calls a tool that the client runs.
    "agent.custom_tool_use" => AgentCustomToolUse {
        /// The tool.
        name: String,
        /// The arguments.
        input: Map<String, Value>,
    },
    /// The agent begins to work.
    "session.status_running" => StatusRunning {},
    /// The agent stops and waits for the client.
    "session.status_idle" => StatusIdle {
        /// Why.
        stop_reason: StopReason,
        /// More about a refusal.
        stop_details: Option<StopDetails>,
    },
    /// A transient error is being retried.
    "session.status_rescheduled" => StatusRescheduled {},
    /// The session has ended for good.
    "session.status_terminated" => StatusTerminated {},
    /// A thread begins to work.
    "session.thread_status_running" => ThreadStatusRunning {
        /// The thread.
        #[serde(flatten)]
        thread: ThreadName,
    },
    /// A thread stops and waits for the client.
    "session.thread_status_idle" => ThreadStatusIdle {
        /// The thread.
        #[serde(flatten)]
        thread: ThreadName,
        /// Why.
        stop_reason: StopReason,
        /// More about a refusal.
        stop_details: Option<StopDetails>,
    },
    /// A transient error of a thread is being retried.
    "session.thread_status_rescheduled" => ThreadStatusRescheduled {
        /// The thread.
        #[serde(flatten)]
        thread: ThreadName,
    },
    /// A thread has ended for good.
    "session.thread_status_terminated" => ThreadStatusTerminated {
        /// The thread.
        #[serde(flatten)]
        thread: ThreadName,
    },
    /// Something went wrong.
    "session.error" => SessionError {
        /// What.
        error: SessionError,
    },
    /// The session's own fields were changed; only those that were are here.
    "session.updated" => SessionUpdated {
        /// The new agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<Value>,
        /// The new title.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// The new pairs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Metadata>,
    },
    /// What the session has used so far.
    "session.usage" => Usage {
        /// The totals.
        usage: SessionUsage,
    },
    /// A request to the model begins.
    "span.model_request_start" => ModelRequestStart {},
    /// A request to the model has ended.
    "span.model_request_end" => ModelRequestEnd {
        /// The start.
        model_request_start_id: EventId,
        /// Whether it failed or was cut off.
        is_error: bool,
        /// Tokens used.
        model_usage: ModelUsage,
    },

    only on streams:
    /// The session was deleted.
    "session.deleted" => SessionDeleted,

    never here:
    "agent.thread_message_received",
    "agent.thread_message_sent",
    "agent.thread_context_compacted",
    "session.thread_created",
    "span.outcome_evaluation_start",
    "span.outcome_evaluation_ongoing",
    "span.outcome_evaluation_end",
    "workflow_run.created",
    "workflow_run.status_running",
    "workflow_run.status_idle",
    "workflow_run.status_ended",
    "workflow_run.error",
    "workflow_run.phase_started",
    "workflow_run.phase_ended",
}

/// A thread as the events of its status name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadName {
    /// Its id.
    pub session_thread_id: ThreadId,
    /// The name of the agent that it runs.
    pub agent_name: String,
}

names! {
    /// The decision on a call that waits.
    Confirmation {
        /// Run it.
        "allow" => Allow,
        /// Do not run it.
        "deny" => Deny,
    }
}

/// Whether a call runs, waits or is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// It runs at once.
    Allow,
    /// It waits for a confirmation.
    Ask,
    /// It is refused.
    Deny,
}

/// Which policy decided on a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Evaluation {
    /// Every call runs.
    AlwaysAllow,
    /// Every call waits.
    AlwaysAsk,
    /// The server judged the call.
    Auto {
        /// Its judgement.
        evaluated_permission: AutoPermission,
    },
}

/// The server's judgement of a call under the `auto` policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AutoPermission {
    /// It runs.
    Allow,
    /// It waits.
    Ask {
        /// `indeterminate` or `high_risk`.
        reason_code: String,
    },
}

/// Why a session became idle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StopReason {
    /// The agent is done, or was interrupted.
    EndTurn,
    /// The client must answer these events first.
    RequiresAction {
        /// The events.
        event_ids: Vec<EventId>,
    },
    /// An error stayed after all retries.
    RetriesExhausted,
    /// The model declined.
    Refusal,
}

impl StopReason {
    /// Its name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::RequiresAction { .. } => "requires_action",
            Self::RetriesExhausted => "retries_exhausted",
            Self::Refusal => "refusal",
        }
    }
}

/// More about a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopDetails {
    /// Always `refusal`.
    pub r#type: String,
    /// The kind of refusal, where the model tells.
    pub category: Option<String>,
    /// The model's words, where it has any.
    pub explanation: Option<String>,
}

/// What went wrong in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionError {
    /// The kind of error.
    pub r#type: SessionErrorType,
    /// What is wrong and what to do.
    pub message: String,
    /// What happens now.
    pub retry_status: RetryStatus,
    /// The repository that could not be cloned, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_url: Option<String>,
    /// The MCP server that failed, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_server_name: Option<String>,
}

impl SessionError {
    /// An error that is about no repository and no MCP server.
    pub fn new(r#type: SessionErrorType, message: String, retry_status: RetryStatus) -> Self {
        Self { r#type, message, retry_status, repository_url: None, mcp_server_name: None }
    }
}

/// The kinds of [`SessionError`] that the server records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionErrorType {
    /// The model is overloaded or cannot be reached.
    ModelOverloadedError,
    /// The model's rate limit is reached.
    ModelRateLimitedError,
    /// The model refused the request.
    ModelRequestFailedError,
    /// The account behind the model cannot pay.
    BillingError,
    /// The agent has called more tools in one turn than is allowed, or its replies ended within a call each time.
    ToolUseLimitReachedError,
    /// The conversation is longer than the model takes.
    CompactionLimitReachedError,
    /// The host of a repository did not take the token, or wants one that it was not given.
    RepositoryAuthenticationError,
    /// The host of a repository refused access to it.
    RepositoryForbiddenError,
    /// The host of a repository has none there.
    RepositoryNotFoundError,
    /// The branch or commit that is to be checked out is not in the repository.
    RepositoryCheckoutError,
    /// A repository could not be cloned for another reason.
    RepositoryCloneError,
    /// An MCP server cannot be reached, or does not speak as one.
    McpConnectionFailedError,
    /// An MCP server wants a credential that the session does not have, or does not take the one that it has.
    McpAuthenticationFailedError,
    /// Anything else.
    UnknownError,
}

impl SessionErrorType {
    /// Whether the session keeps running, without a repository or without an MCP server.
    pub fn leaves_it_running(self) -> bool {
        matches!(
            self,
            Self::McpConnectionFailedError
                | Self::McpAuthenticationFailedError
                | Self::RepositoryAuthenticationError
                | Self::RepositoryForbiddenError
                | Self::RepositoryNotFoundError
                | Self::RepositoryCheckoutError
                | Self::RepositoryCloneError
        )
    }
}

/// What happens after a [`SessionError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RetryStatus {
    /// The server tries again.
    Retrying,
    /// The turn is dead; the session waits for the client.
    Exhausted,
    /// The session ends.
    Terminal,
}

/// Tokens that one request to a model used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsage {
    /// Tokens read, without those of the cache.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: u64,
    /// Tokens written to the prompt cache.
    pub cache_creation_input_tokens: u64,
}

/// The text of an event on the wire: `body`, which is the text of an [`Event`], with `processed_at` put in. What waits to be
/// processed has none.
pub fn with_processed_at(body: &str, processed_at: Option<Time>) -> String {
    let Some(at) = processed_at else { return body.to_owned() };
    let open = body.strip_suffix('}').expect("an event is an object");
    format!("{open},\"processed_at\":\"{at}\"}}")
}

/// When an event that waits to be taken up was processed: some types are when they come in, and say so at once.
pub fn processed_on_receipt(tag: &str, id: &EventId) -> Option<Time> {
    (tag == "user.define_outcome").then(|| id.made_at())
}

/// The first events of a deployment: messages and outcomes, at the end perhaps a system message.
pub fn read_deployment_events(node: &Node<'_>) -> Decoded<Vec<Value>> {
    let allowed = ["user.message", "user.define_outcome", "system.message"];
    let events = read_initial(node, 1, &allowed)?;
    check_system_message(node, &tags(&events))?;
    Ok(events)
}

/// The first events of a session: messages and outcomes.
pub fn read_session_events(node: &Node<'_>) -> Decoded<Vec<Value>> {
    read_initial(node, 0, &["user.message", "user.define_outcome"])
}

fn read_initial(node: &Node<'_>, least: usize, allowed: &[&str]) -> Decoded<Vec<Value>> {
    let events = node.items(least, MAX_EVENTS, |event| {
        let tag = event.tag()?;
        if !allowed.contains(&tag) {
            return Err(event.wrong_tag(tag));
        }
        read_sent(event, Time::from_micros(0))?;
        Ok(event.value().clone())
    })?;
    if tags(&events).iter().filter(|tag| **tag == "user.define_outcome").count() > 1 {
        return Err(node.invalid("at most one `user.define_outcome` event is allowed"));
    }
    if !events.is_empty() && !tags(&events).iter().any(|tag| tag.starts_with("user.")) {
        return Err(node.invalid("at least one `user.message` or `user.define_outcome` event is required"));
    }
    Ok(events)
}

fn tags(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

/// The events that a client sends to a session.
pub fn read_events(node: &Node<'_>, now: Time) -> Decoded<Vec<EventBody>> {
    let events = node.items(1, MAX_EVENTS, |event| read_sent(event, now))?;
    check_deny_messages(&events)?;
    check_system_message(node, &events.iter().map(EventBody::tag).collect::<Vec<_>>())?;
    Ok(events)
}

/// A message goes with a denial only.
fn check_deny_messages(events: &[EventBody]) -> Decoded<()> {
    let allows = |event: &EventBody| match event {
        EventBody::UserToolConfirmation { result, deny_message, .. } => {
            *result == Confirmation::Allow && deny_message.is_some()
        }
        _ => false,
    };
    match events.iter().position(allows) {
        Some(i) => Err(Invalid::request(format!(
            "Invalid tool_confirmation event at index {i}: deny_message is only allowed when result is 'deny'"
        ))),
        None => Ok(()),
    }
}

fn check_system_message(node: &Node<'_>, tags: &[&str]) -> Decoded<()> {
    let Some(at) = tags.iter().position(|tag| *tag == "system.message") else { return Ok(()) };
    if at + 1 != tags.len() {
        return Err(node.invalid("a `system.message` event must be the last event in the list"));
    }
    let follows = ["user.message", "user.tool_result", "user.custom_tool_result", "user.define_outcome"];
    if at == 0 || !follows.contains(&tags[at - 1]) {
        return Err(node.invalid("a `system.message` event must immediately follow a user event"));
    }
    Ok(())
}

fn read_message(o: &mut Object<'_>, _: Time) -> Decoded<EventBody> {
    Ok(EventBody::UserMessage { content: content::message_blocks(&o.required("content")?)? })
}

fn read_interrupt(o: &mut Object<'_>, _: Time) -> Decoded<EventBody> {
    Ok(EventBody::UserInterrupt { session_thread_id: o.kept("session_thread_id", |n| n.text(1, 128))? })
}

/// The call says which thread a confirmation is for, whatever the client does.
fn read_confirmation(o: &mut Object<'_>, _: Time) -> Decoded<EventBody> {
    o.kept("session_thread_id", Node::string)?;
    Ok(EventBody::UserToolConfirmation {
        tool_use_id: o.required("tool_use_id")?.text(1, 128)?,
        result: Confirmation::decode(&o.required("result")?)?,
        deny_message: o.kept("deny_message", |n| n.text(1, MAX_RUBRIC))?,
    })
}

fn read_custom_result(o: &mut Object<'_>, _: Time) -> Decoded<EventBody> {
    Ok(EventBody::UserCustomToolResult {
        custom_tool_use_id: o.required("custom_tool_use_id")?.text(1, 128)?,
        content: o.kept("content", content::result_blocks)?,
        is_error: o.kept("is_error", Node::boolean)?,
    })
}

fn read_result(o: &mut Object<'_>, _: Time) -> Decoded<EventBody> {
    Ok(EventBody::UserToolResult {
        tool_use_id: o.required("tool_use_id")?.text(1, 128)?,
        content: o.kept("content", content::result_blocks)?,
        is_error: o.kept("is_error", Node::boolean)?,
    })
}

fn read_outcome(o: &mut Object<'_>, now: Time) -> Decoded<EventBody> {
    Ok(EventBody::UserDefineOutcome {
        outcome_id: OutcomeId::new(now),
        description: o.required("description")?.text(1, MAX_RUBRIC)?,
        rubric: read_rubric(&o.required("rubric")?)?,
        max_iterations: o.kept("max_iterations", |n| n.integer(1, MAX_ITERATIONS))?,
    })
}

fn read_system_message(o: &mut Object<'_>, _: Time) -> Decoded<EventBody> {
    Ok(EventBody::SystemMessage { content: content::text_blocks(&o.required("content")?)? })
}

fn read_rubric(node: &Node<'_>) -> Decoded<Value> {
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "text" => o.required("content")?.text(1, MAX_RUBRIC)?,
            "file" => o.required("file_id")?.text(1, 128)?,
            other => return Err(node.wrong_tag(other)),
        };
        Ok(node.value().clone())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::body;

    fn deployment(events: &Value) -> Decoded<Vec<Value>> {
        body(&json!({ "initial_events": events }), |o| read_deployment_events(&o.required("initial_events")?))
    }

    #[test]
    fn first_events_of_a_deployment_follow_the_rules() {
        let message = json!({"type": "user.message", "content": [{"type": "text", "text": "hi"}]});
        let system = json!({"type": "system.message", "content": [{"type": "text", "text": "hi"}]});
        let outcome =
            json!({"type": "user.define_outcome", "description": "x", "rubric": {"type": "text", "content": "y"}});
        for good in [json!([message]), json!([message, system]), json!([outcome]), json!([outcome, system])] {
            assert!(deployment(&good).is_ok(), "{good}");
        }
        for (bad, message) in [
            (json!([]), "initial_events: value must contain at least 1 item"),
            (json!([{"type": "user.interrupt"}]), "initial_events[0].type: \"user.interrupt\" is not a valid value"),
            (json!(vec![message.clone(); 51]), "initial_events: value must contain no more than 50 item(s)"),
            (
                json!([message, system, message]),
                "initial_events: a `system.message` event must be the last event in the list",
            ),
            (json!([{"type": "user.message"}]), "initial_events[0].content: Field required"),
            (
                json!([{"type": "user.message", "content": [{"type": "text", "text": "x", "y": 1}]}]),
                "initial_events[0].content[0].y: Extra inputs are not permitted",
            ),
        ] {
            assert_eq!(deployment(&bad).unwrap_err().to_string(), message);
        }
        assert!(deployment(&json!([system])).is_err());
    }

    #[test]
    fn text_without_anything_to_read_is_refused_wherever_a_client_sends_some() {
        let text = |text: &str| json!([{"type": "text", "text": text}]);
        let content = |content: Value| ("content[0].text", content);
        let search = |inner: Value| {
            let result = json!({"type": "search_result", "source": "s", "title": "t", "citations": {"enabled": true}});
            let mut result = result.as_object().unwrap().clone();
            result.insert("content".to_owned(), inner);
            ("content[0].content[0].text", json!([result]))
        };
        for (blank, said) in [
            ("", "value is required"),
            (" \n\t", "text content blocks must contain non-whitespace text"),
            ("\u{2003}", "text content blocks must contain non-whitespace text"),
        ] {
            let message = json!({"type": "user.message", "content": text("hi")});
            for (fields, (place, content)) in [
                (json!({"type": "user.message"}), content(text(blank))),
                (json!({"type": "user.custom_tool_result", "custom_tool_use_id": "c"}), content(text(blank))),
                (json!({"type": "user.custom_tool_result", "custom_tool_use_id": "c"}), search(text(blank))),
                (json!({"type": "user.tool_result", "tool_use_id": "t"}), content(text(blank))),
                (json!({"type": "system.message"}), content(text(blank))),
            ] {
                let mut event = fields.as_object().unwrap().clone();
                event.insert("content".to_owned(), content);
                let sent = json!({"events": [message, event]});
                let read = body(&sent, |o| read_events(&o.required("events")?, Time::from_micros(0)));
                assert_eq!(read.unwrap_err().to_string(), format!("events[1].{place}: {said}"), "{event:?}");
            }
            let first = deployment(&json!([{"type": "user.message", "content": text(blank)}])).unwrap_err();
            assert_eq!(first.to_string(), format!("initial_events[0].content[0].text: {said}"));
        }
        let deny = json!({"type": "user.tool_confirmation", "tool_use_id": "t", "result": "deny", "deny_message": ""});
        let read = body(&json!({"events": [deny]}), |o| read_events(&o.required("events")?, Time::from_micros(0)));
        let said = "events[0].deny_message: String should have at least 1 character";
        assert_eq!(read.unwrap_err().to_string(), said);
    }

    #[test]
    fn every_stored_event_reads_back_and_names_its_type() {
        let id: EventId = crate::id::Id::new(Time::from_micros(1));
        for body in [
            EventBody::StatusRunning {},
            EventBody::StatusIdle {
                stop_reason: StopReason::RequiresAction { event_ids: vec![id.clone()] },
                stop_details: None,
            },
            EventBody::AgentMessage { content: vec![json!({"type": "text", "text": "hi"})] },
        ] {
            let text = serde_json::to_string(&Event { id: id.clone(), body: body.clone() }).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["type"], body.tag());
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap().body, body);
            let wire: Value = serde_json::from_str(&with_processed_at(&text, Some(Time::from_micros(0)))).unwrap();
            assert_eq!(wire["processed_at"], "1970-01-01T00:00:00.000000Z");
        }
    }
}
