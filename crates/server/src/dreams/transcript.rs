//! What was said and done in a session, as a text for a model to read.

use rota_api::{event::EventBody, id::SessionId};
use serde_json::Value;

use crate::{
    db::Tx,
    error::Result,
    limits::{DREAM_PART_BYTES, DREAM_SAID_BYTES, DREAM_TOOL_BYTES},
    resources::sessions::events::log,
};

/// A part of a transcript.
#[derive(Debug)]
pub(super) struct Part {
    /// The text; empty when nothing was said.
    pub(super) text: String,
    /// The last event that is in it.
    pub(super) last: i64,
    /// Whether there are events after it.
    pub(super) more: bool,
}

/// The part of a session's transcript that begins after the event `after`: about [`DREAM_PART_BYTES`] of it.
pub(super) fn read(tx: &mut Tx<'_>, session: &SessionId, after: i64) -> Result<Part> {
    let mut part = Part { text: String::new(), last: after, more: true };
    while part.more {
        let (events, more) = log::read(tx, session, part.last)?;
        part.more = more;
        let count = events.len();
        for (i, logged) in events.into_iter().enumerate() {
            part.last = logged.seq;
            if let Some(line) = line(&logged.event.body) {
                part.text.push_str(&line);
                part.text.push_str("\n\n");
            }
            if part.text.len() >= DREAM_PART_BYTES {
                part.more = more || i + 1 < count;
                return Ok(part);
            }
        }
    }
    Ok(part)
}

/// Pure: what an event tells a reader; `None` for one that tells nothing.
fn line(body: &EventBody) -> Option<String> {
    let said = |who: &str, content: &[Value]| {
        let text = text(content);
        (!text.is_empty()).then(|| format!("{who}: {}", cut(&text, DREAM_SAID_BYTES)))
    };
    let called = |name: &str, input: &serde_json::Map<String, Value>| {
        let input = serde_json::to_string(input).unwrap_or_default();
        Some(format!("Agent calls {name}: {}", cut(&input, DREAM_TOOL_BYTES)))
    };
    let returned = |content: &[Value], is_error: bool| {
        let how = if is_error { "It fails" } else { "It returns" };
        Some(format!("{how}: {}", cut(&text(content), DREAM_TOOL_BYTES)))
    };
    match body {
        EventBody::UserMessage { content } => said("User", content),
        EventBody::SystemMessage { content } => said("System", content),
        EventBody::AgentMessage { content } => said("Agent", content),
        EventBody::UserDefineOutcome { description, .. } => {
            Some(format!("User wants: {}", cut(description, DREAM_SAID_BYTES)))
        }
        EventBody::UserInterrupt { .. } => Some("User interrupts the agent.".to_owned()),
        EventBody::UserToolConfirmation { deny_message: Some(message), .. } => {
            Some(format!("User denies a call: {}", cut(message, DREAM_SAID_BYTES)))
        }
        EventBody::AgentToolUse { name, input, .. } | EventBody::AgentCustomToolUse { name, input } => {
            called(name, input)
        }
        EventBody::AgentMcpToolUse { mcp_server_name, name, input, .. } => {
            called(&format!("{name} of {mcp_server_name}"), input)
        }
        EventBody::AgentToolResult { content, is_error, .. }
        | EventBody::AgentMcpToolResult { content, is_error, .. } => returned(content, *is_error),
        EventBody::UserToolResult { content, is_error, .. }
        | EventBody::UserCustomToolResult { content, is_error, .. } => {
            returned(content.as_deref().unwrap_or_default(), is_error.unwrap_or(false))
        }
        _ => None,
    }
}

/// The texts of content blocks; what is no text is named.
fn text(content: &[Value]) -> String {
    let block = |block: &Value| match block["text"].as_str() {
        Some(text) => text.to_owned(),
        None => format!("({})", block["type"].as_str().unwrap_or("content that is not text")),
    };
    content.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// The beginning and the end of a text that is longer than `most` bytes.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let (begin, end) = (text.floor_char_boundary(most / 2), text.ceil_char_boundary(text.len() - most / 2));
    format!("{}\n({} bytes left out)\n{}", &text[..begin], end - begin, &text[end..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_transcript_has_what_was_said_and_done_and_cuts_what_is_long() {
        let texts = |text: &str| vec![json!({"type": "text", "text": text})];
        let check = |body: EventBody, expect: Option<&str>| assert_eq!(line(&body).as_deref(), expect);
        check(EventBody::UserMessage { content: texts("hi") }, Some("User: hi"));
        check(EventBody::AgentMessage { content: texts("hello") }, Some("Agent: hello"));
        let image = vec![json!({"type": "image"}), json!({"type": "text", "text": "what is it?"})];
        check(EventBody::UserMessage { content: image }, Some("User: (image)\nwhat is it?"));
        check(EventBody::StatusRunning {}, None);
        assert_eq!(cut("0123456789", 10), "0123456789");
        assert_eq!(cut("0123456789ab", 10), "01234\n(2 bytes left out)\n789ab");
        assert_eq!(cut("üüüüüü", 5), "ü\n(8 bytes left out)\nü");
    }
}
