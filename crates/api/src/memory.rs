//! Memory stores: memories at paths, and the versions that tell how they came about.

use serde::Serialize;
use unicode_normalization::is_nfc;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::{
    Time,
    decode::{Decoded, Dialect, Invalid, Node, Object, Patch},
    fields::{fields, names},
    id::{ApiKeyId, MemoryId, MemoryStoreId, MemoryVersionId, SessionId},
    metadata::{self, Changes, Metadata},
};

/// Most characters of a store's name.
pub const MAX_NAME: usize = 255;
/// Most characters of a store's description.
pub const MAX_DESCRIPTION: usize = 1024;
/// Most memories of a store.
pub const MAX_MEMORIES: i64 = 2000;
/// Most bytes of a memory's content.
pub const MAX_CONTENT_BYTES: usize = 102_400;
/// Most bytes of a path.
pub const MAX_PATH_BYTES: usize = 1024;
/// Most segments of a path.
pub const MAX_SEGMENTS: usize = 20;
/// Most rows of a page that shows contents.
pub const MAX_FULL_PAGE: i64 = 20;

/// A store as the API shows it.
#[derive(Debug, Serialize)]
pub struct MemoryStore {
    /// `memstore_…`
    pub id: MemoryStoreId,
    /// `memory_store`.
    pub r#type: &'static str,
    /// 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// Empty when none was given.
    pub description: String,
    /// Free pairs.
    pub metadata: Metadata,
    /// When it was created.
    pub created_at: Time,
    /// When its fields last changed; its memories do not count.
    pub updated_at: Time,
    /// When it was archived; absent until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Time>,
}

fields! {
    /// What a caller says of a store.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    MemoryStoreFields,
    /// What a body says of it.
    UpdateMemoryStore {
        /// 1 to [`MAX_NAME`] characters.
        name: String, needs = read_name;
        /// At most [`MAX_DESCRIPTION`] characters.
        description: String, resets = |node| node.text(0, MAX_DESCRIPTION);
        /// Free pairs.
        metadata: Metadata, pairs = Changes::read;
    }
}

fn read_name(node: &Node<'_>) -> Decoded<String> {
    let name = node.text(1, MAX_NAME)?;
    if name.chars().any(char::is_control) {
        return Err(node.invalid("must not contain control characters"));
    }
    Ok(name)
}

impl MemoryStoreFields {
    /// Reads the body of a create.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Agents);
        o.required("name")?;
        metadata::create(o.optional("metadata"))?;
        UpdateMemoryStore::read(o)?.merged(&Self::default())
    }
}

impl UpdateMemoryStore {
    /// Reads the body of an update, which changes something.
    pub fn read_change(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Agents);
        let sent = ["name", "description", "metadata"].map(|field| o.patch(field));
        if sent.iter().all(|field| matches!(field, Patch::Keep)) {
            return Err(Invalid::request("at least one of name, description, or metadata must be provided"));
        }
        if matches!(sent[0], Patch::Clear) {
            return Err(Invalid::request("name cannot be empty"));
        }
        if matches!(sent[2], Patch::Clear) {
            return Err(Invalid::request(
                "Failed to parse request: params: field \"metadata\": null is not a valid value for a map field; omit the \
                 field to preserve, or set individual keys to null to delete them",
            ));
        }
        Self::read(o)
    }
}

/// A memory as the API shows it.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// `mem_…`; it stays when the path changes.
    pub id: MemoryId,
    /// `memory`.
    pub r#type: &'static str,
    /// The store that it is in.
    pub memory_store_id: MemoryStoreId,
    /// The version that holds its content.
    pub memory_version_id: MemoryVersionId,
    /// Where it stands.
    pub path: String,
    /// Null where only the rest was asked for.
    pub content: Option<String>,
    /// SHA-256 of the content's bytes, 64 digits in lower case.
    pub content_sha256: String,
    /// The bytes of the content.
    pub content_size_bytes: i64,
    /// When it was created.
    pub created_at: Time,
    /// When its content or its path last changed.
    pub updated_at: Time,
}

/// What a list of memories has.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum MemoryListItem {
    /// A memory.
    Memory(Box<Memory>),
    /// A folder, which stands for the memories below it.
    Prefix(MemoryPrefix),
}

/// A folder of a list with `depth=1`.
#[derive(Debug, Serialize)]
pub struct MemoryPrefix {
    /// Its path, with the slash at its end.
    pub path: String,
    /// `memory_prefix`.
    pub r#type: &'static str,
}

names! {
    /// Whether an answer has the content of memories.
    View {
        /// It does not.
        "basic" => Basic,
        /// It does.
        "full" => Full,
    }
}

names! {
    /// What a version records.
    Operation {
        /// The memory was created.
        "created" => Created,
        /// Its content or its path was changed.
        "modified" => Modified,
        /// It was deleted.
        "deleted" => Deleted,
    }
}

/// Who changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub enum Actor {
    /// A caller with an API key.
    #[serde(rename = "api_actor")]
    Api {
        /// The key.
        api_key_id: ApiKeyId,
    },
    /// The agent of a session, through its folder.
    #[serde(rename = "session_actor")]
    Session {
        /// The session.
        session_id: SessionId,
    },
}

/// A change of a memory.
#[derive(Debug, Serialize)]
pub struct MemoryVersion {
    /// `memver_…`
    pub id: MemoryVersionId,
    /// `memory_version`.
    pub r#type: &'static str,
    /// The memory that was changed, which may be gone.
    pub memory_id: MemoryId,
    /// The store that it was in.
    pub memory_store_id: MemoryStoreId,
    /// What was done.
    pub operation: Operation,
    /// Where the memory stood after the change; null once redacted.
    pub path: Option<String>,
    /// Null after a deletion, once redacted, and where only the rest was asked for.
    pub content: Option<String>,
    /// Null after a deletion and once redacted.
    pub content_sha256: Option<String>,
    /// Null after a deletion and once redacted.
    pub content_size_bytes: Option<i64>,
    /// Who changed it.
    pub created_by: Option<Actor>,
    /// When.
    pub created_at: Time,
    /// When it was redacted.
    pub redacted_at: Option<Time>,
    /// Who did so.
    pub redacted_by: Option<Actor>,
}

/// A new memory.
#[derive(Debug, Clone)]
pub struct CreateMemory {
    /// Where it stands.
    pub path: String,
    /// Its content.
    pub content: String,
}

impl CreateMemory {
    /// Reads the body of a create.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Sessions);
        Ok(Self { path: read_path(&o.required("path")?)?, content: read_content(&o.required("content")?)? })
    }
}

/// What a caller changes of a memory.
#[derive(Debug, Clone)]
pub struct UpdateMemory {
    /// A new content.
    pub content: Option<String>,
    /// A new path.
    pub path: Option<String>,
    /// The hash that its content must have.
    pub precondition: Option<String>,
}

impl UpdateMemory {
    /// Reads the body of an update, which changes something.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.speak(Dialect::Sessions);
        let update = Self {
            content: o.kept("content", read_content)?,
            path: o.kept("path", read_path)?,
            precondition: o.kept("precondition", read_precondition)?,
        };
        if update.content.is_none() && update.path.is_none() {
            return Err(Invalid::request("v1_update_memory_params: at least one of content or path must be provided"));
        }
        Ok(update)
    }
}

fn read_precondition(node: &Node<'_>) -> Decoded<String> {
    match node.tag()? {
        "content_sha256" => node.object(|o| {
            o.tagged();
            match o.patch("content_sha256") {
                Patch::Clear => Err(o.invalid("content_sha256", "Value is not nullable")),
                Patch::Keep => Err(o.invalid("content_sha256", "value is required")),
                Patch::Set(hash) => {
                    let text = hash.string()?;
                    check_hash(text).map_err(|message| hash.invalid(message))?;
                    Ok(text.to_owned())
                }
            }
        }),
        other => Err(node.wrong_tag(other)),
    }
}

/// That a text can be the hash of a content.
///
/// # Errors
/// What is wrong with it, without its place.
pub fn check_hash(text: &str) -> Result<(), &'static str> {
    if text.chars().count() != 64 {
        return Err("must be 64 characters (and 1 more validation errors)");
    }
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if text.chars().all(is_digit) { Ok(()) } else { Err("must be 64 lowercase hexadecimal characters") }
}

fn read_content(node: &Node<'_>) -> Decoded<String> {
    let content = node.string()?;
    check_content(content).map_err(|message| Invalid::request(format!("content {message}")))?;
    Ok(content.to_owned())
}

/// That a text can be the content of a memory.
///
/// # Errors
/// What is wrong with it, without its place.
pub fn check_content(content: &str) -> Result<(), String> {
    if content.len() > MAX_CONTENT_BYTES {
        return Err(format!("must be at most {MAX_CONTENT_BYTES} bytes"));
    }
    if content.contains('\0') {
        return Err("must not contain the character U+0000".to_owned());
    }
    Ok(())
}

fn read_path(node: &Node<'_>) -> Decoded<String> {
    let path = node.string()?;
    check_path(path).map_err(|message| node.invalid(message))?;
    Ok(path.to_owned())
}

/// That a memory can stand at a path: `/` and 1 to [`MAX_SEGMENTS`] segments.
///
/// # Errors
/// What is wrong with it, without its place.
pub fn check_path(path: &str) -> Result<(), String> {
    let Some(segments) = path.strip_prefix('/') else { return Err("must begin with /".to_owned()) };
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("must be at most {MAX_PATH_BYTES} bytes"));
    }
    if segments.split('/').count() > MAX_SEGMENTS {
        return Err(format!("must have at most {MAX_SEGMENTS} segments"));
    }
    if segments.split('/').any(str::is_empty) {
        return Err("must not have an empty segment".to_owned());
    }
    if segments.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("must not have the segment . or ..".to_owned());
    }
    let is_refused = |c: char| {
        use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};

        matches!(c.general_category(), Control | Format | LineSeparator | ParagraphSeparator)
    };
    if path.chars().any(is_refused) {
        return Err("must not contain control characters, format characters or line separators".to_owned());
    }
    if !is_nfc(path) {
        return Err("must be in Unicode Normalization Form C".to_owned());
    }
    Ok(())
}

/// Where a store is mounted below `/mnt/memory/`: its name in lower case, where each run of anything but ASCII letters and
/// digits is a hyphen, and none stands at an end; where nothing is left, its id. One that is `taken` gets a number.
pub fn slug(name: &str, id: &MemoryStoreId, taken: impl Fn(&str) -> bool) -> String {
    let hyphenated = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
    };
    let own = Some(hyphenated(name)).filter(|slug| !slug.is_empty());
    let own = own.unwrap_or_else(|| hyphenated(id.as_ref()));
    let numbered = (2..).map(|number| format!("{own}-{number}"));
    let mut free = std::iter::once(own.clone()).chain(numbered).filter(|slug| !taken(slug));
    free.next().expect("numbers do not end")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{decode, id::Id};

    #[test]
    fn a_path_has_segments_that_a_file_could_have() {
        let long = format!("/{}", "a".repeat(MAX_PATH_BYTES - 1));
        for path in ["/a", "/a/b.md", "/Ä/é", "/.hidden", "/a b", "/...", &"/a".repeat(MAX_SEGMENTS), &long] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for (path, message) in [
            ("", "must begin with /"),
            ("a", "must begin with /"),
            ("/", "must not have an empty segment"),
            ("/a/", "must not have an empty segment"),
            ("/a//b", "must not have an empty segment"),
            ("/a/./b", "must not have the segment . or .."),
            ("/..", "must not have the segment . or .."),
            (&"/a".repeat(MAX_SEGMENTS + 1), "must have at most 20 segments"),
            (&format!("{long}a"), "must be at most 1024 bytes"),
            ("/a\u{301}", "must be in Unicode Normalization Form C"),
        ] {
            assert_eq!(check_path(path), Err(message.to_owned()), "{path}");
        }
        for c in ['\0', '\n', '\u{7f}', '\u{85}', '\u{ad}', '\u{200d}', '\u{202e}', '\u{feff}', '\u{2028}', '\u{2029}']
        {
            assert!(check_path(&format!("/a{c}b")).unwrap_err().starts_with("must not contain control"), "{c:?}");
        }
    }

    #[test]
    fn a_slug_is_ascii_and_unique() {
        let id = MemoryStoreId::new(Time::from_micros(1_800_000_000_000_000));
        let of_the_id = id.as_ref().replace('_', "-").to_lowercase();
        for (name, expected) in [
            ("User Preferences", "user-preferences"),
            ("Ünïcode", "n-code"),
            ("(Notes)", "notes"),
            ("知识", &of_the_id),
        ] {
            assert_eq!(slug(name, &id, |_| false), expected);
        }
        assert_eq!(slug("Notes", &id, |slug| slug == "notes"), "notes-2");
        assert_eq!(slug("Notes", &id, |slug| ["notes", "notes-2"].contains(&slug)), "notes-3");
    }

    #[test]
    fn refusals_have_the_recorded_words() {
        let store = |body| decode::body(&body, UpdateMemoryStore::read_change).map(drop).map_err(|e| e.to_string());
        let memory = |body| decode::body(&body, UpdateMemory::read).map(drop).map_err(|e| e.to_string());
        assert!(store(json!({"description": null})).is_ok());
        assert!(store(json!({"name": null})).unwrap_err() == "name cannot be empty");
        assert!(store(json!({"metadata": null})).unwrap_err().starts_with("Failed to parse request: params: field "));
        for (body, message) in [
            (json!({}), "v1_update_memory_params: at least one of content or path must be provided"),
            (json!({"content": "c", "precondition": {}}), "Failed to parse request: precondition.type: Field required"),
            (
                json!({"content": "c", "precondition": {"type": "content_sha256", "content_sha256": null}}),
                "precondition.content_sha256: Value is not nullable",
            ),
            (
                json!({"content": "c", "precondition": {"type": "content_sha256", "content_sha256": "ab"}}),
                "precondition.content_sha256: must be 64 characters (and 1 more validation errors)",
            ),
            (json!({"content": "x".repeat(MAX_CONTENT_BYTES + 1)}), "content must be at most 102400 bytes"),
        ] {
            assert_eq!(memory(body).unwrap_err(), message);
        }
    }
}
