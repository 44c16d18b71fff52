//! The forms with which skills are uploaded. Their bodies are small enough to be in memory before they are read.

use bytes::Bytes;
use rota_api::skill::MAX_DISPLAY_NAME;

use super::{
    Shape,
    bundle::{Bundle, UploadedFile},
};
use crate::{
    error::{Error, Result},
    limits::{MAX_SKILL_FILES, MAX_SKILL_FORM_PARTS},
    request::{Part, Upload},
};

/// What a form says.
pub(super) struct Form {
    /// The name for people, where there is one.
    pub(super) display_name: Option<String>,
    pub(super) bundle: Bundle,
}

/// Most bytes of a field that is no file.
const MAX_FIELD: usize = 4 * (MAX_DISPLAY_NAME + 1);

/// Reads a form. Parts that nobody asks for are passed over, as the hosted service does.
///
/// # Errors
/// 400 when it is no form, or holds no skill.
pub(super) async fn read(mut form: Upload, shape: Shape) -> Result<Form> {
    let label = if shape == Shape::Old { "display_title" } else { "display_name" };
    let (mut display_name, mut files, mut count) = (None, Vec::new(), 0);
    while let Some(part) = form.next().await? {
        count += 1;
        if count > MAX_SKILL_FORM_PARTS {
            return Err(Error::invalid(format_args!("the form has more than {MAX_SKILL_FORM_PARTS} parts")));
        }
        match part.name.as_str() {
            "files[]" | "files" => {
                let Some(name) = part.filename.clone() else {
                    let at = files.len();
                    let message = format!("files[].{at}: Expected UploadFile, received: <class 'str'>");
                    return Err(Error::Invalid(message));
                };
                if files.len() == MAX_SKILL_FILES {
                    return Err(Error::invalid(format_args!("a skill may have no more than {MAX_SKILL_FILES} files")));
                }
                files.push(UploadedFile { name, content: content(part).await? });
            }
            name if name == label => display_name = read_label(label, &part.text(MAX_FIELD).await?)?,
            _ => {}
        }
    }
    if files.is_empty() {
        return Err(Error::invalid("files[]: Field required"));
    }
    let bundle = tokio::task::spawn_blocking(move || Bundle::read(files)).await.map_err(Error::internal)??;
    Ok(Form { display_name, bundle })
}

/// The content of a part, which is mostly one piece.
async fn content(mut part: Part) -> Result<Bytes> {
    let Some(first) = part.piece().await? else { return Ok(Bytes::new()) };
    let Some(second) = part.piece().await? else { return Ok(first) };
    let mut content = [first, second].concat();
    while let Some(piece) = part.piece().await? {
        content.extend_from_slice(&piece);
    }
    Ok(content.into())
}

/// A name for people; an empty one is none.
fn read_label(label: &str, text: &str) -> Result<Option<String>> {
    let text = text.trim();
    if text.chars().count() > MAX_DISPLAY_NAME {
        return Err(Error::invalid(format_args!("{label} must be at most {MAX_DISPLAY_NAME} characters long")));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(format_args!("{label} must be a single line")));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
