//! The tools that a model is offered, and running one.

use rota_api::{
    agent::{BuiltInTool, ThreadAgent, Tool, built_in, needs_network},
    event::EventBody,
};
use rota_sandbox::{ToolCall, tool_definitions};
use serde_json::{Value, json, value::RawValue};

use super::fold::Call;
use crate::{error::Result, mcp::McpTool, model::ToolDefinition};

/// What the two web tools answer.
const NO_WEB_TOOLS: &str =
    "This server does not search or fetch pages: web_fetch and web_search are not available here.";

/// The tools of an agent, built-in ones first and those of MCP servers last, always in the same order. Those that need a network
/// are not offered: they are the server's also where a worker of the user runs the others.
pub(super) fn offered(agent: &ThreadAgent, of_servers: &[McpTool]) -> Result<Vec<ToolDefinition>> {
    let known = tool_definitions();
    let mut offered = Vec::new();
    for tool in BuiltInTool::ALL {
        if built_in(&agent.tools, tool).is_none() {
            continue;
        }
        let Some(tool) = known.iter().find(|known| known.name == tool.as_str()) else { continue };
        offered.push(ToolDefinition {
            name: tool.name.to_owned(),
            description: tool.description.to_owned(),
            input_schema: RawValue::from_string(tool.input_schema.to_owned())?,
        });
    }
    for tool in &agent.tools {
        if let Tool::Custom(custom) = tool {
            offered.push(ToolDefinition {
                name: custom.name.clone(),
                description: custom.description.clone(),
                input_schema: serde_json::value::to_raw_value(&custom.input_schema)?,
            });
        }
    }
    offered.extend(of_servers.iter().map(|tool| ToolDefinition {
        name: tool.for_model.clone(),
        description: tool.description.clone(),
        input_schema: tool.input_schema.clone(),
    }));
    Ok(offered)
}

/// Whether a call changes nothing, so that it may run again after a crash. Of a tool of an MCP server nobody knows.
pub(super) fn is_read_only(call: &Call) -> bool {
    call.server.is_none() && parse(call).is_ok_and(|parsed| parsed.is_none_or(|tool| tool.is_read_only()))
}

/// What runs in the sandbox; `None` for a tool that the server answers itself.
///
/// # Errors
/// The arguments do not fit; the text is for the model to read.
pub(super) fn parse(call: &Call) -> Result<Option<ToolCall>, String> {
    if needs_network(&call.name) {
        return Ok(None);
    }
    let input = serde_json::value::to_raw_value(&call.input).map_err(|error| error.to_string())?;
    ToolCall::parse(&call.name, &input).map(Some)
}

/// The answer of a tool that the server answers itself.
pub(super) fn answer_of_the_server(call: &Call) -> EventBody {
    result(call, NO_WEB_TOOLS, true)
}

/// The result of a call. Models' APIs refuse a text that is blank, so there is always something in it.
pub(super) fn result(call: &Call, text: &str, is_error: bool) -> EventBody {
    let text = if text.trim().is_empty() { "(no output)" } else { text };
    result_of(call, vec![json!({"type": "text", "text": text})], is_error)
}

/// The result of a call, in the event that belongs to who ran it.
pub(super) fn result_of(call: &Call, content: Vec<Value>, is_error: bool) -> EventBody {
    let id = call.id.clone();
    match call.server {
        None => EventBody::AgentToolResult { tool_use_id: id, content, is_error },
        Some(_) => EventBody::AgentMcpToolResult { mcp_tool_use_id: id, content, is_error },
    }
}

#[cfg(test)]
mod tests {
    use rota_api::id::{EventId, Id};

    use super::*;
    use crate::engine::fold::Stage;

    #[test]
    fn a_result_is_never_a_blank_text() {
        let call = Call {
            id: EventId::trusted("sevt_1".to_owned()),
            server: None,
            name: "bash".to_owned(),
            input: json!({"command": "true"}),
            stage: Stage::Allowed,
        };
        for (text, wanted) in [("", "(no output)"), (" \n", "(no output)"), ("done\n", "done\n")] {
            let EventBody::AgentToolResult { content, .. } = result(&call, text, false) else { panic!("not a result") };
            assert_eq!(content, [json!({"type": "text", "text": wanted})], "{text:?}");
        }
    }
}
