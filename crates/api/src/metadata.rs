//! The free key-value pairs that most resources carry.

use std::collections::BTreeMap;

use crate::decode::{Decoded, Invalid, Node, Patch};

/// Pairs of a resource, at most [`MAX_PAIRS`].
pub type Metadata = BTreeMap<String, String>;

/// Most pairs that a resource carries.
pub const MAX_PAIRS: usize = 16;
/// Most characters of a key.
pub const MAX_KEY: usize = 64;
/// Most characters of a value.
pub const MAX_VALUE: usize = 512;

/// Reads the pairs of a create request.
pub fn create(node: Option<Node<'_>>) -> Decoded<Metadata> {
    let Some(node) = node else { return Ok(Metadata::new()) };
    let mut pairs = Metadata::new();
    for (key, value) in node.entries()? {
        check_key(&node, key)?;
        pairs.insert(key.clone(), value.text(0, MAX_VALUE)?);
    }
    check_count(node.path(), &pairs)?;
    Ok(pairs)
}

/// What an update says about the pairs of a resource.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    path: String,
    pairs: BTreeMap<String, Option<String>>,
}

impl Changes {
    /// Reads the pairs of an update request: null or an empty text deletes a key.
    pub fn read(patch: Patch<Node<'_>>) -> Decoded<Self> {
        let Patch::Set(node) = patch else { return Ok(Self::default()) };
        let mut pairs = BTreeMap::new();
        for (key, value) in node.entries()? {
            check_key(&node, key)?;
            let text = if value.value().is_null() { String::new() } else { value.text(0, MAX_VALUE)? };
            pairs.insert(key.clone(), (!text.is_empty()).then_some(text));
        }
        Ok(Self { path: node.path().to_owned(), pairs })
    }

    /// The pairs that `stored` becomes.
    ///
    /// # Errors
    /// When they are more than [`MAX_PAIRS`].
    pub fn over(&self, stored: &Metadata) -> Decoded<Metadata> {
        let mut pairs = stored.clone();
        for (key, value) in &self.pairs {
            match value {
                None => drop(pairs.remove(key)),
                Some(value) => drop(pairs.insert(key.clone(), value.clone())),
            }
        }
        check_count(&self.path, &pairs)?;
        Ok(pairs)
    }
}

fn check_key(node: &Node<'_>, key: &str) -> Decoded<()> {
    if (1..=MAX_KEY).contains(&key.chars().count()) {
        return Ok(());
    }
    Err(node.invalid(format_args!("keys must have 1 to {MAX_KEY} characters")))
}

fn check_count(path: &str, pairs: &Metadata) -> Decoded<()> {
    if pairs.len() <= MAX_PAIRS {
        return Ok(());
    }
    Err(Invalid::field(path, format_args!("value must contain no more than {MAX_PAIRS} item(s)")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::body;

    #[test]
    fn an_update_merges_by_key_and_null_or_empty_deletes() {
        let stored = Metadata::from([("a".into(), "1".into()), ("b".into(), "2".into()), ("c".into(), "3".into())]);
        let sent = json!({"metadata": {"a": null, "b": "", "c": "4", "d": "5"}});
        let changes = body(&sent, |o| Changes::read(o.patch("metadata"))).unwrap();
        let merged = changes.over(&stored).unwrap();
        assert_eq!(merged, Metadata::from([("c".into(), "4".into()), ("d".into(), "5".into())]));
    }

    #[test]
    fn pairs_keys_and_values_are_bounded() {
        let many: serde_json::Map<_, _> = (0..17).map(|i| (i.to_string(), json!("x"))).collect();
        for sent in [
            json!({ "metadata": many }),
            json!({"metadata": {"k".repeat(65): "v"}}),
            json!({"metadata": {"k": "v".repeat(513)}}),
        ] {
            assert!(body(&sent, |o| create(o.optional("metadata"))).is_err(), "{sent}");
        }
    }
}
