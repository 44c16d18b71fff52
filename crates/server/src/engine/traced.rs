//! The spans of what a runner does, named and described by the conventions of OpenTelemetry for generative AI. What is said is in them
//! only where the configuration asks for that.

use rota_api::{agent::ThreadAgent, event::EventBody, id::EventId};
use rota_sandbox::{Error, ToolOutput};
use serde_json::{Value, json};

use super::{fold::Call, lease::Lease};
use crate::{
    app::App,
    mcp::Called,
    model::{Block, Message, ModelError, ModelReply, ModelRequest, Route, Stop, Usage},
    traces::{Context, Side, Span},
};

/// From when a session is taken up until it is let go.
pub(super) fn turn(app: &App, lease: &Lease, agent: &ThreadAgent) -> Span {
    let Lease { workspace, session, request, .. } = lease;
    let parent = app.traces.after(request.as_deref(), session.as_ref());
    let mut span = app.traces.step(parent, Side::Internal, || format!("invoke_agent {}", agent.name));
    span.set("gen_ai.operation.name", "invoke_agent");
    span.set("gen_ai.conversation.id", session.to_string());
    span.set("gen_ai.agent.id", agent.id.to_string());
    span.set("gen_ai.agent.name", agent.name.as_str());
    span.set("gen_ai.agent.version", agent.version.to_string());
    span.set("gen_ai.request.model", agent.model.id.as_str());
    span.set("rota.workspace.id", workspace.to_string());
    span
}

/// A request to a model: of the agent's `model` to the upstream of `route`.
pub(super) fn chat(app: &App, turn: Context, model: &str, route: &Route, request: &ModelRequest) -> Span {
    let mut span = app.traces.step(turn, Side::Client, || format!("chat {}", route.model));
    span.set("gen_ai.operation.name", "chat");
    span.set("gen_ai.provider.name", route.speaks);
    span.set("gen_ai.request.model", route.model.as_str());
    span.set("gen_ai.request.max_tokens", request.max_tokens);
    span.set("rota.model", model);
    span.set("rota.upstream", route.name.as_str());
    if let Some(system) = &request.system {
        span.say("gen_ai.system_instructions", || json!([text(system)]).to_string());
    }
    span.say("gen_ai.input.messages", || request.messages.iter().map(message).collect::<Value>().to_string());
    span
}

/// Ends it. There is no reply where it was interrupted, and of one that failed `spent` is what is known.
pub(super) fn replied(mut span: Span, reply: Option<&Result<ModelReply, ModelError>>, spent: &Usage) {
    let used = match reply {
        Some(Ok(reply)) => &reply.usage,
        _ => spent,
    };
    let cache_write = used.cache_creation_5m_input_tokens + used.cache_creation_1h_input_tokens;
    // By the conventions, those of the cache are among them.
    let input = used.input_tokens + used.cache_read_input_tokens + cache_write;
    span.set("gen_ai.usage.input_tokens", input);
    span.set("gen_ai.usage.output_tokens", used.output_tokens);
    span.set("gen_ai.usage.cache_read.input_tokens", used.cache_read_input_tokens);
    span.set("gen_ai.usage.cache_creation.input_tokens", cache_write);
    match reply {
        None => span.fail("interrupted"),
        Some(Err(error)) => span.fail(match error {
            ModelError::Overloaded { .. } => "overloaded",
            ModelError::RateLimited { .. } => "rate_limited",
            ModelError::Billing { .. } => "billing",
            ModelError::TooLong { .. } => "too_long",
            ModelError::Unusable { .. } => "unusable",
            ModelError::RequestFailed { .. } => "request_failed",
        }),
        Some(Ok(reply)) => {
            let finished = match reply.stop {
                Stop::EndTurn => "stop",
                Stop::ToolUse => "tool_call",
                Stop::MaxTokens | Stop::CutCall | Stop::ContextFull => "length",
                Stop::Refusal => "content_filter",
            };
            span.set("gen_ai.response.finish_reasons", json!([finished]));
            let said = || json!([{"role": "assistant", "parts": parts(&reply.content), "finish_reason": finished}]);
            span.say("gen_ai.output.messages", || said().to_string());
        }
    }
}

/// Calls of built-in tools that begin together.
pub(super) fn tools(app: &App, turn: Context, calls: &[Call]) -> Vec<(EventId, Span)> {
    if turn == Context::NONE {
        return Vec::new();
    }
    let span = |call: &Call| (call.id.clone(), tool(app, turn, Side::Internal, call));
    calls.iter().map(span).collect()
}

/// A call of a tool of an MCP server.
pub(super) fn mcp(app: &App, turn: Context, server: &str, call: &Call) -> Span {
    let mut span = tool(app, turn, Side::Client, call);
    span.set("mcp.method.name", "tools/call");
    span.set("rota.mcp_server.name", server);
    span
}

fn tool(app: &App, turn: Context, side: Side, call: &Call) -> Span {
    let mut span = app.traces.step(turn, side, || format!("execute_tool {}", call.name));
    span.set("gen_ai.operation.name", "execute_tool");
    span.set("gen_ai.tool.name", call.name.as_str());
    span.set("gen_ai.tool.call.id", call.id.to_string());
    span.say("gen_ai.tool.call.arguments", || call.input.to_string());
    span
}

/// What came of calls that began together.
pub(super) enum Ran<'a> {
    /// They were interrupted.
    Interrupted,
    /// They were not run.
    Not,
    /// Those `inside` a sandbox have these outputs, the others these results.
    Answered { inside: &'a [&'a Call], outputs: &'a [Result<ToolOutput, Error>], results: &'a [EventBody] },
}

/// Ends calls of built-in tools.
pub(super) fn ran(spans: Vec<(EventId, Span)>, ran: &Ran<'_>) {
    for (call, mut span) in spans {
        match ran {
            Ran::Interrupted => span.fail("interrupted"),
            Ran::Not => span.fail("not_run"),
            Ran::Answered { inside, outputs, results } => {
                let output = inside.iter().position(|inside| inside.id == call).and_then(|at| outputs.get(at));
                match output {
                    Some(Ok(output)) => {
                        if output.is_error {
                            span.fail("tool_error");
                        }
                        span.say("gen_ai.tool.call.result", || output.content.clone());
                    }
                    Some(Err(_)) => span.fail("sandbox_ended"),
                    None => answered(&mut span, &call, results),
                }
            }
        }
    }
}

fn answered(span: &mut Span, call: &EventId, results: &[EventBody]) {
    for result in results {
        if let EventBody::AgentToolResult { tool_use_id, content, is_error } = result
            && tool_use_id == call
        {
            if *is_error {
                span.fail("tool_error");
            }
            span.say("gen_ai.tool.call.result", || Value::from(content.clone()).to_string());
        }
    }
}

/// Ends a call of a tool of an MCP server.
pub(super) fn called(mut span: Span, called: Option<&Called>) {
    match called {
        None => span.fail("interrupted"),
        Some(Called::Failed { .. }) => span.fail("server_failed"),
        Some(Called::Result { content, is_error }) => {
            if *is_error {
                span.fail("tool_error");
            }
            span.say("gen_ai.tool.call.result", || Value::from(content.clone()).to_string());
        }
    }
}

fn message(message: &Message) -> Value {
    json!({"role": message.role, "parts": parts(&message.content)})
}

fn parts(blocks: &[Block]) -> Vec<Value> {
    blocks.iter().map(part).collect()
}

fn text(text: &str) -> Value {
    json!({"type": "text", "content": text})
}

fn part(block: &Block) -> Value {
    match block {
        Block::Text { text: said } => text(said),
        Block::ToolUse { id, name, input } => json!({"type": "tool_call", "id": id, "name": name, "arguments": input}),
        Block::ToolResult { tool_use_id, content, .. } => {
            json!({"type": "tool_call_response", "id": tool_use_id, "response": parts(content)})
        }
        Block::UnreadableCall { name, .. } => json!({"type": "tool_call", "name": name}),
        // What only its upstream reads, and images.
        Block::Thought(_) => json!({"type": "reasoning", "content": ""}),
        Block::Verbatim(_) => json!({"type": "blob"}),
    }
}
