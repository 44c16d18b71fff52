//! What dreams show to models, and how the playbook, which is no model, answers: it writes down what it is shown.

use serde::Serialize;
use serde_json::value::to_raw_value;

use super::{Block, Message, ModelRequest, Role};

/// The tool that writes a memory.
pub const WRITE: &str = "write_memory";

/// Most bytes of a transcript that the playbook writes down: a memory has no room for more.
const NOTE_BYTES: usize = 100_000;
/// What the first line of a transcript begins with.
const HEAD: &str = "Transcript of session ";

/// The text in which a part of a transcript is shown.
pub fn transcript(session: &str, part: i64, text: &str) -> String {
    format!("{HEAD}{session}, part {part}:\n\n{text}")
}

#[derive(Serialize)]
struct Note<'a> {
    path: &'a str,
    content: &'a str,
}

/// The playbook's answer to a dream, `None` to another request: it writes the transcript into a memory of its own, and is
/// done when that has been tried.
pub(super) fn playbook(request: &ModelRequest) -> Option<Block> {
    if !request.tools.iter().any(|tool| tool.name == WRITE) {
        return None;
    }
    let shown = request.messages.iter().find_map(shown)?;
    if request.messages.iter().any(|message| message.role == Role::Assistant) {
        return Some(Block::Text { text: "The transcript is written down.".to_owned() });
    }
    let (head, text) = shown.split_once('\n').unwrap_or((shown, ""));
    let (session, part) = head.strip_prefix(HEAD)?.trim_end_matches(':').split_once(", part ")?;
    let path = format!("/sessions/{session}/{part}.md");
    let content = &text[..text.floor_char_boundary(NOTE_BYTES)];
    let input = to_raw_value(&Note { path: &path, content: content.trim() }).expect("texts are JSON");
    Some(Block::ToolUse { id: "toolu_playbook_1".to_owned(), name: WRITE.to_owned(), input })
}

/// The transcript in a message.
fn shown(message: &Message) -> Option<&str> {
    message.content.iter().find_map(|block| match block {
        Block::Text { text } if text.starts_with(HEAD) => Some(text.as_str()),
        _ => None,
    })
}
