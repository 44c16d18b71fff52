//! Content blocks that clients send: checked against the contract, then kept as they were sent.

use serde_json::Value;

use crate::decode::{Decoded, Node};

/// Most blocks of one message.
pub const MAX_BLOCKS: usize = 1000;

/// The blocks of a `user.message`: text, image, document or redacted.
pub fn message_blocks(node: &Node<'_>) -> Decoded<Vec<Value>> {
    blocks(node, 1, &["text", "image", "document", "redacted"])
}

/// The blocks of a tool's result: text, image, document or search result.
pub fn result_blocks(node: &Node<'_>) -> Decoded<Vec<Value>> {
    blocks(node, 0, &["text", "image", "document", "search_result"])
}

/// The blocks of a `system.message`: text only.
pub fn text_blocks(node: &Node<'_>) -> Decoded<Vec<Value>> {
    blocks(node, 1, &["text"])
}

fn blocks(node: &Node<'_>, least: usize, allowed: &[&str]) -> Decoded<Vec<Value>> {
    node.items(least, MAX_BLOCKS, |block| {
        let tag = block.tag()?;
        if !allowed.contains(&tag) {
            return Err(block.wrong_tag(tag));
        }
        check_block(block, tag)?;
        Ok(block.value().clone())
    })
}

fn check_block(block: &Node<'_>, tag: &str) -> Decoded<()> {
    block.object(|o| {
        o.tagged();
        match tag {
            "text" => check_text(&o.required("text")?)?,
            "image" => check_source(&o.required("source")?, &["base64", "url", "file"])?,
            "document" => {
                check_source(&o.required("source")?, &["base64", "text", "url", "file"])?;
                for field in ["context", "title"] {
                    o.optional(field).map(|n| n.string()).transpose()?;
                }
            }
            "search_result" => {
                o.required("source")?.string()?;
                o.required("title")?.string()?;
                o.required("citations")?.object(|o| o.required("enabled")?.boolean())?;
                blocks(&o.required("content")?, 0, &["text"])?;
            }
            _ => {}
        }
        Ok(())
    })
}

/// Models refuse a request with blank text in it, and what a log has taken in is sent with every later one.
fn check_text(text: &Node<'_>) -> Decoded<()> {
    match text.string()? {
        "" => Err(text.invalid("value is required")),
        blank if blank.trim().is_empty() => Err(text.invalid("text content blocks must contain non-whitespace text")),
        _ => Ok(()),
    }
}

fn check_source(source: &Node<'_>, allowed: &[&str]) -> Decoded<()> {
    let tag = source.tag()?;
    if !allowed.contains(&tag) {
        return Err(source.wrong_tag(tag));
    }
    source.object(|o| {
        o.tagged();
        let fields: &[&'static str] = match tag {
            "url" => &["url"],
            "file" => &["file_id"],
            _ => &["data", "media_type"],
        };
        fields.iter().try_for_each(|field| o.required(field)?.string().map(drop))?;
        match (tag, o.optional("media_type")) {
            ("text", Some(media)) => media.one_of(&["text/plain"]).map(drop),
            _ => Ok(()),
        }
    })
}
