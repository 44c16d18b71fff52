//! The free key-value pairs that most resources carry.

use std::collections::BTreeMap;

use crate::decode::{Decoded, Dialect, Invalid, Node, Patch};

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
    check_count(node.dialect(), &node.path(), &pairs)?;
    Ok(pairs)
}

/// What an update says about the pairs of a resource.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// How a refusal tells of them.
    node: Option<(Dialect, String)>,
    pairs: BTreeMap<String, Option<String>>,
}

impl Changes {
    /// Reads the pairs of an update request: null deletes a key.
    pub fn read(patch: Patch<Node<'_>>) -> Decoded<Self> {
        Self::reading(patch, |_| false)
    }

    /// The same where an empty text deletes a key too, as it does of environments.
    pub fn read_with_empty(patch: Patch<Node<'_>>) -> Decoded<Self> {
        Self::reading(patch, str::is_empty)
    }

    fn reading(patch: Patch<Node<'_>>, deletes: impl Fn(&str) -> bool) -> Decoded<Self> {
        let Patch::Set(node) = patch else { return Ok(Self::default()) };
        let mut pairs = BTreeMap::new();
        for (key, value) in node.entries()? {
            check_key(&node, key)?;
            let text = (!value.value().is_null()).then(|| value.text(0, MAX_VALUE)).transpose()?;
            pairs.insert(key.clone(), text.filter(|text| !deletes(text)));
        }
        Ok(Self { node: Some((node.dialect(), node.path())), pairs })
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
        if let Some((dialect, path)) = &self.node {
            check_count(*dialect, path, &pairs)?;
        }
        Ok(pairs)
    }
}

fn check_key(node: &Node<'_>, key: &str) -> Decoded<()> {
    if (1..=MAX_KEY).contains(&key.chars().count()) {
        return Ok(());
    }
    Err(node.invalid(format_args!("keys must have 1 to {MAX_KEY} characters")))
}

fn check_count(dialect: Dialect, path: &str, pairs: &Metadata) -> Decoded<()> {
    let count = pairs.len();
    if count <= MAX_PAIRS {
        return Ok(());
    }
    Err(match dialect {
        Dialect::Plain => Invalid::field(path, format_args!("value must contain no more than {MAX_PAIRS} item(s)")),
        _ => Invalid::request(format!(
            "invalid metadata: metadata map would have {count} entries, exceeding the maximum of {MAX_PAIRS}"
        )),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::body;

    #[test]
    fn an_update_merges_by_key_and_null_deletes_and_an_empty_text_where_it_may() {
        let stored = Metadata::from([("a".into(), "1".into()), ("b".into(), "2".into()), ("c".into(), "3".into())]);
        let sent = json!({"metadata": {"a": null, "b": "", "c": "4", "d": "5"}});
        let merged = Metadata::from([("c".into(), "4".into()), ("d".into(), "5".into())]);
        let changes = body(&sent, |o| Changes::read_with_empty(o.patch("metadata"))).unwrap();
        assert_eq!(changes.over(&stored).unwrap(), merged);
        let kept = Metadata::from([("b".into(), String::new())]).into_iter().chain(merged).collect::<Metadata>();
        let changes = body(&sent, |o| Changes::read(o.patch("metadata"))).unwrap();
        assert_eq!(changes.over(&stored).unwrap(), kept);
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
