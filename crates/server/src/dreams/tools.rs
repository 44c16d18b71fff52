//! What a dream's model can do with the memory store that it writes to.

use rota_api::{
    id::MemoryStoreId,
    memory::{check_content, check_path},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::Left;
use crate::{
    app::App,
    error::{Error, Result},
    limits::DREAM_LIST_BYTES,
    model::{ToolDefinition, dreaming::WRITE},
    resources::dreams::work::Claim,
};

/// The tools on offer, always in this order.
pub(super) fn offered() -> Result<Vec<ToolDefinition>> {
    let path = json!({"type": "string", "description": "Where the memory stands: begins with a slash, such as /people/ada.md"});
    let closed = |properties: serde_json::Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let prefix = json!({"type": "string", "description": "Only memories whose path begins so"});
    let content = json!({"type": "string", "description": "The whole content, at most 100 kB"});
    let tools = [
        ("list_memories", "Lists the paths of the memories and their sizes.", closed(json!({"prefix": prefix}), &[])),
        ("read_memory", "Reads a memory.", closed(json!({ "path": path }), &["path"])),
        (
            WRITE,
            "Writes a memory: a new one, or the whole content of the one at this path.",
            closed(json!({"path": path, "content": content}), &["path", "content"]),
        ),
        ("delete_memory", "Deletes a memory.", closed(json!({ "path": path }), &["path"])),
    ];
    let define = |(name, description, schema): (&str, &str, serde_json::Value)| {
        Ok(ToolDefinition {
            name: name.to_owned(),
            description: description.to_owned(),
            input_schema: serde_json::value::to_raw_value(&schema)?,
        })
    };
    tools.into_iter().map(define).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    path: Option<String>,
    prefix: Option<String>,
    content: Option<String>,
}

/// Runs a call. What it returns is for the model to read: a text, or what is wrong with the call.
pub(super) async fn call(
    app: &App,
    claim: &Claim,
    output: &MemoryStoreId,
    name: &str,
    input: &RawValue,
) -> Result<Result<String, String>, Left> {
    let input: Input = match serde_json::from_str(input.get()) {
        Ok(input) => input,
        Err(problem) => return Ok(Err(format!("the arguments cannot be read: {problem}"))),
    };
    let path = || {
        let path = input.path.clone().ok_or_else(|| "path: Field required".to_owned())?;
        check_path(&path).map_err(|wrong| format!("path: {wrong}"))?;
        Ok(path)
    };
    match name {
        "list_memories" => list(app, claim, output, input.prefix.as_deref().unwrap_or_default()).await.map(Ok),
        "read_memory" => match path() {
            Ok(path) => {
                let (held, output, at) = (claim.clone(), output.clone(), path.clone());
                let content = app.db.read(move |tx| held.read(tx, &output, &at)).await?;
                Ok(content.ok_or_else(|| format!("there is no memory at {path}")))
            }
            Err(wrong) => Ok(Err(wrong)),
        },
        WRITE => {
            let checked = path().and_then(|path| {
                let content = input.content.clone().ok_or_else(|| "content: Field required".to_owned())?;
                check_content(&content).map_err(|wrong| format!("content: {wrong}"))?;
                Ok((path, content))
            });
            match checked {
                Ok((path, content)) => {
                    Ok(change(app, claim, output, path, Some(content)).await?.map(|_| "Written.".to_owned()))
                }
                Err(wrong) => Ok(Err(wrong)),
            }
        }
        "delete_memory" => match path() {
            Ok(path) => Ok(change(app, claim, output, path, None).await?.and_then(|was_there| {
                if was_there { Ok("Deleted.".to_owned()) } else { Err("there is no memory at this path".to_owned()) }
            })),
            Err(wrong) => Ok(Err(wrong)),
        },
        other => Ok(Err(format!("there is no tool named \"{other}\""))),
    }
}

/// The paths of the memories that begin with `prefix`, with their sizes, as far as there is room.
pub(super) async fn list(app: &App, claim: &Claim, output: &MemoryStoreId, prefix: &str) -> Result<String, Left> {
    let (held, output) = (claim.clone(), output.clone());
    let memories = app.db.read(move |tx| held.memories(tx, &output)).await?;
    let mut text = String::new();
    let mut left_out = 0;
    for (path, bytes) in memories.iter().filter(|(path, _)| path.starts_with(prefix)) {
        if text.len() < DREAM_LIST_BYTES {
            text += &format!("{path} ({bytes} bytes)\n");
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        text += &format!("({left_out} more: name a prefix)\n");
    }
    if text.is_empty() {
        text += "(none)\n";
    }
    Ok(text)
}

/// Writes or deletes a memory. Whether there was one; or what a caller would be told.
async fn change(
    app: &App,
    claim: &Claim,
    output: &MemoryStoreId,
    path: String,
    content: Option<String>,
) -> Result<Result<bool, String>, Left> {
    let (held, output) = (claim.clone(), output.clone());
    match app.db.write(move |tx| held.write(tx, &output, &path, content.as_deref())).await {
        Ok(written) => Ok(Ok(written.ok_or(Left::Lost)??)),
        Err(error @ (Error::Database(_) | Error::Internal(_))) => Err(error.into()),
        Err(told) => Ok(Err(told.to_string())),
    }
}
