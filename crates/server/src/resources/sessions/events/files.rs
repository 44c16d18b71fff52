//! Files that events refer to: images and documents that a model reads, and rubrics.

use rota_api::{event::EventBody, id::WorkspaceId};
use serde_json::Value;

use crate::{
    db::Tx,
    error::{Error, Result},
    limits::{MAX_FILES_OF_EVENTS, MAX_INLINE_BYTES},
    resources::{
        files::{self, Source},
        sessions::resources::files_missing,
    },
};

/// How a model is given a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// An image, in base64.
    Image,
    /// A PDF, in base64.
    Pdf,
    /// A text, as it is.
    Text,
}

/// What a block or a rubric makes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Image,
    Document,
    Rubric,
}

/// That the files are there which events refer to, and that a model can read them.
pub fn check<'a>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    events: impl IntoIterator<Item = &'a EventBody>,
) -> Result<()> {
    let mut found = Vec::new();
    for event in events {
        let content = match event {
            EventBody::UserMessage { content } => Some(content.as_slice()),
            EventBody::UserCustomToolResult { content, .. } | EventBody::UserToolResult { content, .. } => {
                content.as_deref()
            }
            EventBody::UserDefineOutcome { rubric, .. } => {
                collect_rubric(rubric, &mut found);
                None
            }
            _ => None,
        };
        content.into_iter().flatten().for_each(|block| collect(block, &mut found));
    }
    check_found(tx, workspace, found)
}

/// The same for events as a client sent them.
pub fn check_sent<'a>(
    tx: &mut Tx<'_>,
    workspace: &WorkspaceId,
    sent: impl IntoIterator<Item = &'a Value>,
) -> Result<()> {
    let mut found = Vec::new();
    for event in sent {
        collect_rubric(&event["rubric"], &mut found);
        event["content"].as_array().into_iter().flatten().for_each(|block| collect(block, &mut found));
    }
    check_found(tx, workspace, found)
}

fn check_found(tx: &mut Tx<'_>, workspace: &WorkspaceId, mut found: Vec<(&str, Use)>) -> Result<()> {
    if found.len() > MAX_FILES_OF_EVENTS {
        return Err(Error::invalid(format_args!(
            "the events refer to {} files; at most {MAX_FILES_OF_EVENTS} are allowed",
            found.len()
        )));
    }
    found.sort_unstable();
    found.dedup();
    let mut missing = Vec::new();
    for (id, used) in found {
        match files::source(tx, workspace, id)? {
            None => missing.push(id),
            Some(file) => check_readable(&file, used)?,
        }
    }
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(files_missing(&missing.join(", "))) }
}

fn check_readable(Source { id, size, mime_type, .. }: &Source, used: Use) -> Result<()> {
    let form = form(mime_type);
    let fits = match used {
        Use::Image => form == Some(Form::Image),
        Use::Document => matches!(form, Some(Form::Pdf | Form::Text)),
        Use::Rubric => form == Some(Form::Text),
    };
    if !fits {
        let what = match used {
            Use::Image => "an image (image/jpeg, image/png, image/gif or image/webp)",
            Use::Document => "a document (application/pdf or a text)",
            Use::Rubric => "a text",
        };
        return Err(Error::invalid(format_args!(
            "File `{id}` is of type {mime_type:?} and cannot be read as {what}; mount it as a resource of the session, where \
             tools can read it"
        )));
    }
    if *size > MAX_INLINE_BYTES as i64 {
        let mebibytes = MAX_INLINE_BYTES / 1024 / 1024;
        return Err(Error::invalid(format_args!(
            "File `{id}` has more than {mebibytes} MB, which is the most that a model is sent; mount it as a resource of the \
             session, where tools can read it"
        )));
    }
    Ok(())
}

/// How a model is given a file of this type. `None` when it is not.
pub fn form(mime_type: &str) -> Option<Form> {
    const TEXTS: [&str; 5] =
        ["application/json", "application/jsonl", "application/xml", "application/yaml", "application/x-ndjson"];
    match mime_type {
        "image/jpeg" | "image/png" | "image/gif" | "image/webp" => Some(Form::Image),
        "application/pdf" => Some(Form::Pdf),
        text if text.starts_with("text/") || TEXTS.contains(&text) => Some(Form::Text),
        _ => None,
    }
}

/// The file that a block or a rubric refers to: `{"type": "file", "file_id": …}`.
pub fn referred(source: &Value) -> Option<&str> {
    (source["type"] == "file").then(|| source["file_id"].as_str()).flatten()
}

fn collect<'a>(block: &'a Value, found: &mut Vec<(&'a str, Use)>) {
    let used = if block["type"] == "image" { Use::Image } else { Use::Document };
    if let Some(id) = referred(&block["source"]) {
        found.push((id, used));
    }
}

fn collect_rubric<'a>(rubric: &'a Value, found: &mut Vec<(&'a str, Use)>) {
    if let Some(id) = referred(rubric) {
        found.push((id, Use::Rubric));
    }
}
