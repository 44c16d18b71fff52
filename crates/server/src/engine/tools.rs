//! The tools that a model is offered, and running those that the server answers itself.

use rota_api::{
    agent::{BuiltInTool, BuiltInToolConfig, ThreadAgent, Tool, built_in, needs_network},
    event::EventBody,
    id::WorkspaceId,
};
use rota_sandbox::{Media, ToolCall};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{definitions::definition, fold::Call};
use crate::{
    config::WebConfig,
    error::Result,
    limits::WEB_PAGE_CHARACTERS,
    mcp::McpTool,
    model::{Message, ToolDefinition},
    web::{
        Failure, Web,
        rules::{Domains, is_shown},
    },
};

/// The tools of an agent, built-in ones first and those of MCP servers last, always in the same order. Those of the web are the
/// server's also where a worker of the user runs the others; which of them it answers, its configuration says.
pub(super) fn offered(
    agent: &ThreadAgent,
    web: &WebConfig,
    today: &str,
    of_servers: &[McpTool],
) -> Result<Vec<ToolDefinition>> {
    let mut offered = Vec::new();
    for tool in BuiltInTool::ALL {
        if built_in(&agent.tools, tool).is_some() && web.offers(tool) {
            offered.push(definition(tool, today)?);
        }
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

/// Whether a call changes nothing, so that it may run beside others of the kind, and again after a crash. Of a tool of an MCP
/// server nobody knows.
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

/// Whether a call runs in the sandbox.
pub(super) fn needs_files(call: &Call) -> bool {
    call.server.is_none() && matches!(parse(call), Ok(Some(_)))
}

/// What the answers of the web tools depend on.
pub(super) struct Asking<'a> {
    pub(super) web: &'a Web,
    pub(super) workspace: &'a WorkspaceId,
    pub(super) agent: &'a ThreadAgent,
    /// The conversation, which shows the URLs that may be fetched.
    pub(super) messages: &'a [Message],
}

#[derive(Deserialize)]
struct FetchInput {
    url: String,
}

#[derive(Deserialize)]
struct SearchInput {
    query: String,
}

impl Asking<'_> {
    /// The result of a call of a web tool.
    pub(super) async fn answer(&self, call: &Call) -> EventBody {
        let answered = match BuiltInTool::from_name(&call.name) {
            Some(BuiltInTool::WebFetch) => self.fetch(&call.input).await,
            _ => self.search(&call.input).await,
        };
        match answered {
            Ok(content) => EventBody::AgentToolResult { tool_use_id: call.id.clone(), content, is_error: false },
            Err(failure) => result(call, &failure.to_string(), true),
        }
    }

    /// Recorded: a document with a title and a text.
    async fn fetch(&self, input: &Value) -> Result<Vec<Value>, Failure> {
        let FetchInput { url } =
            FetchInput::deserialize(input).map_err(|error| Failure::fetch("invalid_tool_input", error))?;
        let config = self.config(BuiltInTool::WebFetch);
        let sources = config.and_then(|config| config.url_sources.as_ref());
        let ThreadAgent { tools, system, .. } = self.agent;
        if !is_shown(&url, system.as_deref(), self.messages, tools, sources) {
            let words = "this URL has not appeared in the conversation. Fetch URLs that the user gave, or that results of searches \
                         and fetches have shown, exactly as they stand there";
            return Err(Failure::fetch("url_not_in_prior_context", words));
        }
        let mut page = self.web.fetch(self.workspace, &url, domains(config)).await?;
        if let Some(tokens) = config.and_then(|config| config.max_content_tokens) {
            page = page.with_most_tokens(tokens);
        }
        let mut document = json!({"type": "document", "title": page.title,
            "source": {"type": "text", "media_type": "text/plain", "data": page.text}});
        if page.is_cut {
            document["context"] =
                json!(format!("Only the beginning of the page, at most {WEB_PAGE_CHARACTERS} characters."));
        }
        Ok(vec![document])
    }

    /// Recorded: blocks of results, with citations.
    async fn search(&self, input: &Value) -> Result<Vec<Value>, Failure> {
        let SearchInput { query } =
            SearchInput::deserialize(input).map_err(|error| Failure::search("invalid_tool_input", error))?;
        let config = self.config(BuiltInTool::WebSearch);
        let location = config.and_then(|config| config.user_location.as_ref());
        let country = location.and_then(|location| location["country"].as_str());
        let hits = self.web.search(self.workspace, &query, country, domains(config)).await?;
        if hits.is_empty() {
            return Ok(vec![json!({"type": "text", "text": "No results found"})]);
        }
        let block = |hit: crate::web::Hit| {
            json!({"type": "search_result", "source": hit.url.as_str(), "title": hit.title,
                "content": [{"type": "text", "text": hit.text}], "citations": {"enabled": true}})
        };
        Ok(hits.into_iter().map(block).collect())
    }

    fn config(&self, tool: BuiltInTool) -> Option<&BuiltInToolConfig> {
        self.agent.tools.iter().find_map(|of| match of {
            Tool::BuiltIn { configs, .. } => configs.iter().find(|config| config.name == tool),
            _ => None,
        })
    }
}

fn domains(config: Option<&BuiltInToolConfig>) -> Domains<'_> {
    Domains {
        allowed: config.and_then(|config| config.allowed_domains.as_deref()),
        blocked: config.and_then(|config| config.blocked_domains.as_deref()),
    }
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

/// The result of a call that read an image or a PDF, and what else there is to tell.
pub(super) fn media_result(call: &Call, media: &Media, text: &str) -> EventBody {
    let kind = if media.is_pdf() { "document" } else { "image" };
    let mut content =
        vec![json!({"type": kind, "source": {"type": "base64", "media_type": media.media_type, "data": media.data}})];
    if !text.trim().is_empty() {
        content.push(json!({"type": "text", "text": text.trim_start()}));
    }
    EventBody::AgentToolResult { tool_use_id: call.id.clone(), content, is_error: false }
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

    #[test]
    fn an_image_and_a_pdf_are_blocks_of_their_own() {
        let call = Call {
            id: EventId::trusted("sevt_1".to_owned()),
            server: None,
            name: "read".to_owned(),
            input: json!({"file_path": "/a.png"}),
            stage: Stage::Allowed,
        };
        for (media_type, kind) in [("image/png", "image"), ("application/pdf", "document")] {
            let media = Media { media_type: media_type.to_owned(), data: "AAAA".to_owned() };
            let block = json!({"type": kind, "source": {"type": "base64", "media_type": media_type, "data": "AAAA"}});
            for (text, expected) in
                [("", vec![block.clone()]), ("\n\nnote", vec![block.clone(), json!({"type": "text", "text": "note"})])]
            {
                let EventBody::AgentToolResult { content, .. } = media_result(&call, &media, text) else {
                    panic!("not a result")
                };
                assert_eq!(content, expected);
            }
        }
    }
}
