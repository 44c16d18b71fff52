//! Files that events refer to.

use rota_api::event::EventBody;
use serde_json::Value;

use crate::{
    error::{Error, Result},
    limits::MAX_FILES_OF_EVENTS,
};

/// That the files are there which events refer to.
pub fn check<'a>(events: impl IntoIterator<Item = &'a EventBody>) -> Result<()> {
    check_sent(
        events
            .into_iter()
            .filter_map(|event| match event {
                EventBody::UserMessage { content } => Some(content.as_slice()),
                EventBody::UserCustomToolResult { content, .. } | EventBody::UserToolResult { content, .. } => {
                    content.as_deref()
                }
                EventBody::UserDefineOutcome { rubric, .. } => Some(std::slice::from_ref(rubric)),
                _ => None,
            })
            .flatten(),
    )
}

/// The same for events, or parts of them, as a client sent them. This server holds no files yet, so none is there.
pub fn check_sent<'a>(sent: impl IntoIterator<Item = &'a Value>) -> Result<()> {
    let mut files = Vec::new();
    sent.into_iter().for_each(|value| collect(value, &mut files));
    if files.len() > MAX_FILES_OF_EVENTS {
        return Err(Error::invalid(format_args!(
            "the events refer to {} files; at most {MAX_FILES_OF_EVENTS} are allowed",
            files.len()
        )));
    }
    if files.is_empty() {
        return Ok(());
    }
    Err(Error::NotFound(format!(
        "One or more files not found. Check that each `file_id` exists and is accessible: {}",
        files.join(", ")
    )))
}

/// References are the sources of blocks and rubrics: `{"type": "file", "file_id": …}`.
fn collect<'a>(value: &'a Value, files: &mut Vec<&'a str>) {
    if value["type"] == "file" {
        files.extend(value["file_id"].as_str());
    }
    for field in ["content", "source", "rubric"] {
        match &value[field] {
            Value::Array(items) => items.iter().for_each(|item| collect(item, files)),
            inner @ Value::Object(_) => collect(inner, files),
            _ => {}
        }
    }
}
