//! Files in a conversation: their content in the place of their ids, which no upstream knows.

use rota_api::id::WorkspaceId;
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    app::App,
    error::Result,
    limits::MAX_INLINED_BYTES,
    model::{Block, Message},
    resources::{
        files::{self, Source},
        sessions::events::files::{Form, form, referred},
    },
    room::Held,
};

/// Puts the content of files into a conversation. What comes back is the memory for it, until the model has answered; `None`
/// when there are no files.
pub(super) async fn attach(app: &App, workspace: &WorkspaceId, messages: &mut [Message]) -> Result<Option<Held>> {
    let mut places: Vec<(&mut Block, Value)> = Vec::new();
    for block in messages.iter_mut().flat_map(|message| &mut message.content) {
        match block {
            Block::ToolResult { content, .. } => places.extend(content.iter_mut().filter_map(with_file)),
            block => places.extend(with_file(block)),
        }
    }
    if places.is_empty() {
        return Ok(None);
    }
    let room = app.blobs.room_to_inline(workspace).await;
    let mut left = MAX_INLINED_BYTES;
    // The newest first: when there is not room for all, it is the oldest that are left out.
    for (place, mut block) in places.into_iter().rev() {
        let id = referred(&block["source"]).unwrap_or_default().to_owned();
        let (of, file_id) = (workspace.clone(), id.clone());
        let file = app.db.read(move |tx| files::source(tx, &of, &file_id)).await?;
        let source = match file {
            None => None,
            Some(file) if file.size as usize > left => {
                *place = Block::Text {
                    text: format!("[The file {id} is left out: the files of the conversation are too large.]"),
                };
                continue;
            }
            Some(file) => {
                left -= file.size as usize;
                source(app, &file).await?
            }
        };
        match source {
            Some(source) => {
                block["source"] = source;
                *place = Block::Verbatim(to_raw_value(&block)?);
            }
            None => *place = Block::Text { text: format!("[The file {id} is not there any more.]") },
        }
    }
    Ok(Some(room))
}

/// A block that refers to a file.
fn with_file(block: &mut Block) -> Option<(&mut Block, Value)> {
    let Block::Verbatim(raw) = &*block else { return None };
    // Most have none, and may be large.
    if !raw.get().contains("\"file_id\"") {
        return None;
    }
    let value: Value = serde_json::from_str(raw.get()).ok()?;
    referred(&value["source"]).is_some().then_some((block, value))
}

/// The source of a block with the content of a file.
async fn source(app: &App, file: &Source) -> Result<Option<Value>> {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let Some(form) = form(&file.mime_type) else { return Ok(None) };
    let content = app.blobs.read_whole(&file.blob, file.size as usize).await?;
    Ok(Some(match form {
        Form::Image | Form::Pdf => {
            json!({"type": "base64", "media_type": file.mime_type, "data": STANDARD.encode(content)})
        }
        Form::Text => {
            let text = String::from_utf8_lossy(&content);
            // Upstreams refuse a text that is blank.
            let text = if text.trim().is_empty() { "(the file is empty)" } else { &*text };
            json!({"type": "text", "media_type": "text/plain", "data": text})
        }
    }))
}
