//! Files: uploads, the copies of them that sessions have mounted, and what agents hand over.

use serde::Serialize;

use crate::{
    Time,
    id::{FileId, SessionId},
};

/// What `expires_in_seconds` of an upload can be: an hour to ninety days.
pub const EXPIRES_IN_SECONDS: std::ops::RangeInclusive<i64> = 3600..=7_776_000;

/// A file as the API shows it.
#[derive(Debug, Serialize)]
pub struct File {
    /// Its id.
    pub id: FileId,
    /// Always `file`.
    pub r#type: &'static str,
    /// The last name of the path under which it was uploaded or found.
    pub filename: String,
    /// The type of its content, as its uploader says or its name does.
    pub mime_type: String,
    /// Its length, in bytes.
    pub size_bytes: i64,
    /// Whether its content can be read back: not that of an upload.
    pub downloadable: bool,
    /// When it was created.
    pub created_at: Time,
    /// When its content is gone; null: never.
    pub expires_at: Option<Time>,
    /// What it belongs to; only in the shape of the managed agents beta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// What a file belongs to.
#[derive(Debug, Serialize)]
pub struct Scope {
    /// Always `session`.
    pub r#type: &'static str,
    /// The session.
    pub id: SessionId,
}

/// The last name of a path, as the name of a file is stored. `None` when there is none.
pub fn filename(path: &str) -> Option<&str> {
    path.rsplit(['/', '\\']).next().filter(|name| !name.is_empty())
}

/// Types of content by the ends of names, for what says nothing of itself.
const TYPES: [(&str, &str); 32] = [
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("c", "text/x-c"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("log", "text/plain"),
    ("md", "text/markdown"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("py", "text/x-python"),
    ("rs", "text/x-rust"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain"),
    ("webp", "image/webp"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("yaml", "application/yaml"),
    ("zip", "application/zip"),
];

/// The type of content that a name speaks of.
pub fn type_of(filename: &str) -> &'static str {
    let end = filename.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase();
    TYPES.iter().find(|(known, _)| *known == end).map_or("application/octet-stream", |(_, r#type)| r#type)
}

/// The name of a file that was uploaded without one.
pub fn unnamed(mime_type: &str) -> String {
    let known = TYPES.iter().find(|(_, r#type)| *r#type == mime_type && *r#type != "application/octet-stream");
    known.map_or_else(|| "unnamed".to_owned(), |(end, _)| format!("unnamed.{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_path_the_last_name_is_kept() {
        for (path, name) in [
            ("a.txt", Some("a.txt")),
            ("/etc/passwd", Some("passwd")),
            ("C:\\Users\\me\\a b.pdf", Some("a b.pdf")),
            ("folder/", None),
            ("", None),
        ] {
            assert_eq!(filename(path), name, "{path:?}");
        }
    }

    #[test]
    fn a_type_and_a_name_are_made_of_each_other() {
        assert_eq!(type_of("REPORT.PDF"), "application/pdf");
        assert_eq!(type_of("Makefile"), "application/octet-stream");
        assert_eq!(unnamed("text/csv"), "unnamed.csv");
        assert_eq!(unnamed("application/octet-stream"), "unnamed");
        assert_eq!(unnamed("text/html"), "unnamed.htm");
    }
}
