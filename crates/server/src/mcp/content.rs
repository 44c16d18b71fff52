//! Pure: what an MCP server answers, as the log has it: texts, images and documents, in bounds.
//!
//! It is read as JSON and not as the client's types: what a server adds to a block, or a kind of block that is newer than the
//! client, is no reason to lose the rest.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::limits::{MCP_IMAGE_BYTES, MCP_RESULT_BLOCKS, MCP_RESULT_CHARS, MCP_RESULT_MEDIA_BYTES};

/// The images that models take.
const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const PDF: &str = "application/pdf";

/// The content blocks of the result of a call, and whether the tool failed.
pub(super) fn of_result(result: &Value) -> (Vec<Value>, bool) {
    let mut content = Content { blocks: Vec::new(), chars: 0, media_bytes: 0, left_out: 0 };
    let blocks = result["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    for block in blocks {
        content.block(block);
    }
    // Servers are asked to say the same as a text too, and most do.
    let structured = &result["structuredContent"];
    if !structured.is_null() && !blocks.iter().any(|block| says(block, structured)) {
        content.text(&structured.to_string());
    }
    let is_error = result["isError"].as_bool().unwrap_or(false);
    (content.end(), is_error)
}

/// Whether a text says what is structured. What is no object has the name `result` there, as the Python SDK has it.
fn says(block: &Value, structured: &Value) -> bool {
    let Some(text) = block["text"].as_str() else { return false };
    let inner = structured.as_object().filter(|object| object.len() == 1).and_then(|object| object.get("result"));
    let said = serde_json::from_str::<Value>(text).ok();
    inner.is_some_and(|inner| inner == text || said.as_ref() == Some(inner)) || said.as_ref() == Some(structured)
}

struct Content {
    blocks: Vec<Value>,
    /// Characters of the texts so far.
    chars: usize,
    /// Bytes of the images and documents so far.
    media_bytes: usize,
    /// Characters that there was no room for.
    left_out: usize,
}

impl Content {
    fn block(&mut self, block: &Value) {
        let text = |field: &str| block[field].as_str().unwrap_or_default();
        match text("type") {
            "text" => self.text(text("text")),
            "image" => self.media(text("mimeType"), text("data"), None),
            "audio" => self.not_shown(text("mimeType"), text("data"), None),
            "resource" => self.resource(&block["resource"]),
            "resource_link" => self.text(&link(block)),
            _ => self.text(&block.to_string()),
        }
    }

    fn resource(&mut self, resource: &Value) {
        let field = |field: &str| resource[field].as_str().unwrap_or_default();
        let uri = field("uri");
        match resource["text"].as_str() {
            Some(text) => self.text(&format!("Resource {uri}:\n{text}")),
            None => self.media(field("mimeType"), field("blob"), Some(uri)),
        }
    }

    /// Blank text is left out: models' APIs refuse it.
    fn text(&mut self, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        let room = MCP_RESULT_CHARS - self.chars;
        let (mut kept, mut rest) = (text, 0);
        if let Some((end, _)) = text.char_indices().nth(room) {
            kept = &text[..end];
            rest = text[end..].chars().count();
        }
        self.chars += kept.chars().count();
        self.left_out += rest;
        if !kept.trim().is_empty() {
            self.push(json!({"type": "text", "text": kept}));
        }
    }

    /// An image or a document, if models take it and there is room for it.
    fn media(&mut self, mime_type: &str, data: &str, uri: Option<&str>) {
        let mime_type = mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let (is_image, is_pdf) = (IMAGES.contains(&&*mime_type), mime_type == PDF);
        let fits = data.len() <= MCP_IMAGE_BYTES && self.media_bytes + data.len() <= MCP_RESULT_MEDIA_BYTES;
        if !(is_image || is_pdf) || !fits || data.is_empty() || STANDARD.decode(data).is_err() {
            return self.not_shown(&mime_type, data, uri);
        }
        self.media_bytes += data.len();
        let source = json!({"type": "base64", "media_type": mime_type, "data": data});
        self.push(if is_image {
            json!({"type": "image", "source": source})
        } else {
            json!({"type": "document", "source": source, "title": uri})
        });
    }

    fn not_shown(&mut self, mime_type: &str, data: &str, uri: Option<&str>) {
        let mime_type = if mime_type.is_empty() { "unknown type" } else { mime_type };
        let of = uri.map(|uri| format!(" of {uri}")).unwrap_or_default();
        let bytes = data.len() / 4 * 3;
        self.text(&format!("[Content of the type {mime_type}{of}, about {bytes} bytes, is not shown.]"));
    }

    fn push(&mut self, block: Value) {
        if self.blocks.len() < MCP_RESULT_BLOCKS {
            self.blocks.push(block);
        } else {
            self.left_out += block["text"].as_str().map_or(1, |text| text.chars().count());
        }
    }

    fn end(mut self) -> Vec<Value> {
        if self.left_out > 0 {
            let told = format!(
                "[{} further characters are left out: a result has at most {MCP_RESULT_CHARS}. Ask the tool for less at a time.]",
                self.left_out
            );
            self.blocks.push(json!({"type": "text", "text": told}));
        }
        if self.blocks.is_empty() {
            self.blocks.push(json!({"type": "text", "text": "(no output)"}));
        }
        self.blocks
    }
}

/// A link to a resource in words.
fn link(block: &Value) -> String {
    let part = |field: &str, before: &str| {
        let text = block[field].as_str().filter(|text| !text.is_empty());
        text.map(|text| format!("{before}{text}")).unwrap_or_default()
    };
    let title = if block["title"].is_string() { "title" } else { "name" };
    format!("Resource{}{}{}", part("uri", " "), part(title, ": "), part("description", "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        json!({"type": "text", "text": text})
    }

    #[test]
    fn each_kind_of_content_is_one_that_the_log_and_models_have() {
        let png = json!({"type": "base64", "media_type": "image/png", "data": "aGk="});
        let pdf = json!({"type": "base64", "media_type": "application/pdf", "data": "aGk="});
        let rows = [
            (json!([text("a"), text("b")]), json!([text("a"), text("b")])),
            (json!([text(" \n")]), json!([text("(no output)")])),
            (json!([]), json!([text("(no output)")])),
            (Value::Null, json!([text("(no output)")])),
            (
                json!([{"type": "image", "mimeType": "image/png", "data": "aGk="}]),
                json!([{"type": "image", "source": png}]),
            ),
            (
                json!([{"type": "image", "mimeType": "image/svg+xml", "data": "aGk="}]),
                json!([text("[Content of the type image/svg+xml, about 3 bytes, is not shown.]")]),
            ),
            (
                json!([{"type": "image", "mimeType": "image/png", "data": "not base64"}]),
                json!([text("[Content of the type image/png, about 6 bytes, is not shown.]")]),
            ),
            (
                json!([{"type": "audio", "mimeType": "audio/wav", "data": "aGk="}]),
                json!([text("[Content of the type audio/wav, about 3 bytes, is not shown.]")]),
            ),
            (
                json!([{"type": "resource", "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "hi"}}]),
                json!([text("Resource file:///a.txt:\nhi")]),
            ),
            (
                json!([{"type": "resource", "resource": {"uri": "file:///a.pdf", "mimeType": "application/pdf", "blob": "aGk="}}]),
                json!([{"type": "document", "source": pdf, "title": "file:///a.pdf"}]),
            ),
            (
                json!([{"type": "resource", "resource": {"uri": "file:///a.bin", "blob": "aGk="}}]),
                json!([text("[Content of the type unknown type of file:///a.bin, about 3 bytes, is not shown.]")]),
            ),
            (
                json!([{"type": "resource_link", "uri": "file:///a", "name": "a", "description": "what it is"}]),
                json!([text("Resource file:///a: a\nwhat it is")]),
            ),
            (json!([{"type": "hologram", "x": 1}]), json!([text(r#"{"type":"hologram","x":1}"#)])),
        ];
        for (content, expect) in rows {
            let (blocks, is_error) = of_result(&json!({"content": content}));
            assert_eq!((json!(blocks), is_error), (expect, false), "{content}");
        }
    }

    #[test]
    fn structured_content_is_told_once() {
        let structured = json!({"degrees": 21});
        let alone = json!({"content": [], "structuredContent": structured, "isError": true});
        assert_eq!(of_result(&alone), (vec![text(r#"{"degrees":21}"#)], true));
        let twice = json!({"content": [text("{\"degrees\": 21}")], "structuredContent": structured});
        assert_eq!(of_result(&twice), (vec![text("{\"degrees\": 21}")], false));
        for (said, result) in [("42", json!(42)), ("at last", json!("at last")), ("[1]", json!([1]))] {
            let named = json!({"content": [text(said)], "structuredContent": {"result": result}});
            assert_eq!(of_result(&named).0, [text(said)], "{result}");
        }
        let beside = json!({"content": [text("warm")], "structuredContent": structured});
        assert_eq!(of_result(&beside).0, [text("warm"), text(r#"{"degrees":21}"#)]);
    }

    #[test]
    fn a_result_is_cut_at_its_bound_and_says_so() {
        let fits = "é".repeat(MCP_RESULT_CHARS);
        assert_eq!(of_result(&json!({"content": [text(&fits)]})).0, [text(&fits)]);
        let (blocks, _) = of_result(&json!({"content": [text(&fits), text("ab"), text(&format!("{fits}x"))]}));
        let left_out = 2 + MCP_RESULT_CHARS + 1;
        let told = format!(
            "[{left_out} further characters are left out: a result has at most {MCP_RESULT_CHARS}. Ask the tool for less at a time.]"
        );
        assert_eq!(blocks, [text(&fits), text(&told)]);
        let many = vec![text("a"); MCP_RESULT_BLOCKS + 3];
        let (blocks, _) = of_result(&json!({"content": many}));
        assert_eq!(blocks.len(), MCP_RESULT_BLOCKS + 1);
        assert!(blocks.last().unwrap()["text"].as_str().unwrap().starts_with("[3 further"));
    }

    #[test]
    fn images_are_kept_up_to_their_bounds() {
        let image = |bytes: usize| json!({"type": "image", "mimeType": "image/png", "data": "A".repeat(bytes)});
        let kinds = |content: Value| -> Vec<String> {
            let (blocks, _) = of_result(&json!({"content": content}));
            blocks.iter().map(|block| block["type"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(kinds(json!([image(MCP_IMAGE_BYTES), image(MCP_IMAGE_BYTES + 4)])), ["image", "text"]);
        let most = MCP_RESULT_MEDIA_BYTES / MCP_IMAGE_BYTES;
        let all = kinds(json!(vec![image(MCP_IMAGE_BYTES); most + 1]));
        assert_eq!(all.iter().filter(|kind| *kind == "image").count(), most);
    }
}
