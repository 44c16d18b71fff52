//! The label by which a resource of a store is known as that of a file.

use std::fmt;

use serde_json::Value;

use super::limits::MAX_KEY;

/// The metadata pair that has the label.
pub const LABEL: &str = "rota.dev/key";
/// The metadata pair of a deployment that names the fields of its policy whose default only the server knows and that a file sets.
pub const SET_BY_FILE: &str = "rota.dev/policy";
/// What our metadata pairs begin with. Files name none of them.
pub const OURS: &str = "rota.dev/";

/// `project/key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// The project of the directory.
    pub project: String,
    /// The key of the file.
    pub key: String,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.key)
    }
}

impl Label {
    pub fn new(project: &str, key: &str) -> Self {
        Self { project: project.to_owned(), key: key.to_owned() }
    }

    fn parse(text: &str) -> Option<Self> {
        let (project, key) = text.split_once('/')?;
        (is_key(project) && is_key(key)).then(|| Self::new(project, key))
    }

    /// The label in the metadata of a resource.
    pub fn of_metadata(resource: &Value) -> Option<Self> {
        resource["metadata"][LABEL].as_str().and_then(Self::parse)
    }

    /// `text` with the label behind it: that of resources without metadata.
    pub fn behind(&self, text: &str) -> String {
        let space = if text.is_empty() { "" } else { " " };
        format!("{text}{space}[{LABEL}={self}]")
    }

    /// A text without the label behind it, and the label.
    pub fn part(text: &str) -> (&str, Option<Self>) {
        let parted = || {
            let (before, label) = text.strip_suffix(']')?.rsplit_once(&format!("[{LABEL}="))?;
            Some((before.strip_suffix(' ').unwrap_or(before), Self::parse(label)?))
        };
        parted().map_or((text, None), |(before, label)| (before, Some(label)))
    }
}

/// Whether `text` can name a project or a file: lowercase letters, digits, `.`, `_` and `-`, a letter or digit first.
pub fn is_key(text: &str) -> bool {
    let part = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=MAX_KEY).contains(&text.len())
        && part(text.as_bytes()[0])
        && text.bytes().all(|c| part(c) || matches!(c, b'.' | b'_' | b'-'))
}

/// A key made of a name.
pub fn key_of(name: &str) -> String {
    let mut key = String::new();
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => key.push(c),
            _ if key.is_empty() || key.ends_with('-') => {}
            _ => key.push('-'),
        }
        if key.len() == MAX_KEY - 8 {
            break;
        }
    }
    let key = key.trim_end_matches('-');
    if key.is_empty() { "unnamed".to_owned() } else { key.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_label_is_read_back_from_metadata_and_from_behind_a_text() {
        let label = Label::new("acme", "reviewer.v2");
        assert_eq!(Label::of_metadata(&json!({"metadata": {LABEL: "acme/reviewer.v2"}})), Some(label.clone()));
        for text in ["", "Reports", "a [b]", "two\nlines"] {
            assert_eq!(Label::part(&label.behind(text)), (text, Some(label.clone())));
        }
        for text in ["Reports", "[rota.dev/key=acme]", "[rota.dev/key=Acme/x]", "[rota.dev/key=a/b] later"] {
            assert_eq!(Label::part(text), (text, None));
        }
    }

    #[test]
    fn a_key_is_made_of_any_name() {
        for (name, key) in
            [("Nightly review", "nightly-review"), ("  --Ünïcode & Co. ", "n-code-co"), ("漢字", "unnamed"), ("a", "a")]
        {
            assert_eq!(key_of(name), key);
            assert!(is_key(key));
        }
        assert!(is_key(&key_of(&"x".repeat(500))));
        for wrong in ["", "A", "-a", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(!is_key(wrong), "{wrong}");
        }
    }
}
