//! `SKILL.md`: what its front matter says of a skill.

use serde::Deserialize;

use crate::limits::MAX_FRONT_MATTER_BYTES;

/// What a front matter says, as far as it matters here. Other fields are the author's own.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub struct FrontMatter {
    /// What the skill is called.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is for, and when to use it.
    #[serde(default)]
    pub description: Option<String>,
}

/// Reads the front matter of a `SKILL.md`: YAML between two lines `---`, at its beginning. A text without one says nothing.
///
/// # Errors
/// What is wrong with it, in words for who wrote it.
pub fn read(text: &str) -> Result<FrontMatter, String> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let Some(rest) = text.strip_prefix("---\n") else { return Ok(FrontMatter::default()) };
    let end = if rest.starts_with("---") { Some(0) } else { rest.find("\n---").map(|at| at + 1) };
    let Some(end) = end else { return Err("its front matter has no end: put a line `---` behind it".to_owned()) };
    let yaml = &rest[..end];
    if yaml.len() > MAX_FRONT_MATTER_BYTES {
        return Err(format!("its front matter has more than {MAX_FRONT_MATTER_BYTES} bytes"));
    }
    if yaml.trim().is_empty() {
        return Ok(FrontMatter::default());
    }
    // The library bounds what aliases may grow to.
    serde_saphyr::from_str(yaml).map_err(|error| {
        let first = error.to_string();
        format!("its front matter is not YAML that can be read: {}", first.lines().next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matter(name: Option<&str>, description: Option<&str>) -> FrontMatter {
        FrontMatter { name: name.map(str::to_owned), description: description.map(str::to_owned) }
    }

    #[test]
    fn a_front_matter_says_name_and_description_and_may_say_more() {
        for (text, said) in [
            (
                "---\nname: report\ndescription: Writes reports.\n---\n# Report\n",
                matter(Some("report"), Some("Writes reports.")),
            ),
            ("---\r\nname: report\r\ndescription: a\r\n---\r\n", matter(Some("report"), Some("a"))),
            ("\u{feff}---\nname: report\n---", matter(Some("report"), None)),
            (
                "---\ndescription: >-\n  Two\n  lines.\nallowed-tools: [bash]\nmetadata: {a: b}\n---\n",
                matter(None, Some("Two lines.")),
            ),
            ("---\nname: \"quoted\"\ndescription: 'a: b'\n---\n", matter(Some("quoted"), Some("a: b"))),
            ("---\n---\n", matter(None, None)),
            ("# Report\n---\nname: late\n---\n", matter(None, None)),
            ("", matter(None, None)),
        ] {
            assert_eq!(read(text), Ok(said), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (text, part) in [
            ("---\nname: report\n", "has no end"),
            ("---\nname: [unclosed\n---\n", "is not YAML"),
            ("---\nname: {a: b}\n---\n", "is not YAML"),
            ("---\n- a\n- b\n---\n", "is not YAML"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(part), "{text:?}: {said}");
        }
        let long = format!("---\nname: report\nnote: {}\n---\n", "x".repeat(MAX_FRONT_MATTER_BYTES));
        assert!(read(&long).unwrap_err().contains("more than"));
    }

    #[test]
    fn aliases_that_grow_without_end_are_refused() {
        let mut yaml = "---\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let last = format!("*a{}", i - 1);
            yaml += &format!("a{i}: &a{i} [{}]\n", [last.as_str(); 10].join(", "));
        }
        yaml += "name: report\n---\n";
        assert!(read(&yaml).is_err());
    }
}
