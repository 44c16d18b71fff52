//! Git repositories that sessions and deployments mount: how they are named and what of them is checked out.

use serde::{Deserialize, Serialize};

use crate::{
    Time,
    decode::{Decoded, Node, Object},
    id::SessionResourceId,
    secret::Secret,
};

/// Most characters of a repository's URL.
pub const MAX_URL: usize = 2048;
/// Most characters of an `authorization_token`.
pub const MAX_TOKEN: usize = 4096;
/// Most characters of a branch's name.
pub const MAX_BRANCH: usize = 255;
/// Below this folder repositories are mounted.
pub const WORKSPACE: &str = "/workspace";
/// The host whose repositories are always `{owner}/{repo}`.
pub const GITHUB: &str = "github.com";
/// What else the server puts below [`WORKSPACE`].
const TAKEN: &str = "skills";
/// Most names of a path at a host that is not [`GITHUB`], where groups are in groups.
const MAX_NAMES: usize = 20;
/// Most bytes of one name of a path.
const MAX_NAME: usize = 255;

/// A repository as a create request names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Where it is.
    pub url: String,
    /// Where it is mounted, as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_path: Option<String>,
    /// What is checked out; the host's default branch where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkout: Option<Checkout>,
    /// With what it is cloned. It is not written with the rest: the store has it sealed, in a row of its own.
    #[serde(skip)]
    pub authorization_token: Option<Secret>,
}

/// What of a repository is checked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Checkout {
    /// The newest commit of a branch.
    Branch {
        /// Its name, without `refs/heads/`.
        name: String,
    },
    /// A commit.
    Commit {
        /// Its whole id: 40 hexadecimal digits, or 64.
        sha: String,
    },
}

/// A repository as the API shows it among the resources of a session.
#[derive(Debug, Serialize, Deserialize)]
pub struct RepositoryResource {
    /// Its id.
    pub id: SessionResourceId,
    /// Always `github_repository`.
    pub r#type: String,
    /// Where it is.
    pub url: String,
    /// Where it is mounted, in full.
    pub mount_path: String,
    /// What is checked out; null for the default branch.
    pub checkout: Option<Checkout>,
    /// When it was attached.
    pub created_at: Time,
    /// When its token was replaced last.
    pub updated_at: Time,
}

impl Repository {
    /// Reads the fields of a resource of the type `github_repository`.
    pub(crate) fn read(o: &mut Object<'_>) -> Decoded<Self> {
        let url = o.required("url")?.text(1, MAX_URL)?;
        let token = read_token(&o.required("authorization_token")?)?;
        let checkout = o.optional("checkout").map(|node| Checkout::read(&node)).transpose()?;
        let node = o.optional("mount_path");
        let mount_path = node.as_ref().map(|node| node.text(1, 4096)).transpose()?;
        match (path(mount_path.as_deref(), &url), node) {
            (Err(problem), Some(node)) => return Err(node.invalid(problem)),
            // Of a URL that is none: that is told by who knows the hosts.
            (Err(problem), None) if has_path(&url) => return Err(o.invalid("mount_path", problem)),
            _ => {}
        }
        Ok(Self { url, mount_path, checkout, authorization_token: Some(token) })
    }

    /// Its path below [`WORKSPACE`]: by what was asked for, or else the name of the repository.
    ///
    /// # Errors
    /// When the path leads nowhere there.
    pub fn path(&self) -> Result<String, &'static str> {
        path(self.mount_path.as_deref(), &self.url)
    }

    /// Where it is mounted, in full.
    ///
    /// # Errors
    /// The same.
    pub fn mounted_at(&self) -> Result<String, &'static str> {
        self.path().map(|path| format!("{WORKSPACE}/{path}"))
    }
}

/// Reads a token: a text that can stand in a header.
pub(crate) fn read_token(node: &Node<'_>) -> Decoded<Secret> {
    let token = Secret::new(node.text(1, MAX_TOKEN)?);
    if token.reveal().chars().any(char::is_control) {
        return Err(node.invalid("must not contain line breaks or other control characters"));
    }
    Ok(token)
}

impl Checkout {
    fn read(node: &Node<'_>) -> Decoded<Self> {
        let tag = node.tag_of(&["branch", "commit"])?;
        node.of_kind(tag).object(|o| {
            o.tagged();
            if tag == "branch" {
                let name = o.required("name")?;
                let text = name.text(1, MAX_BRANCH)?;
                if !is_branch(&text) {
                    return Err(
                        name.invalid("must be the name of a branch, as `git check-ref-format --branch` takes it")
                    );
                }
                return Ok(Self::Branch { name: text });
            }
            let sha = o.required("sha")?;
            let text = sha.text(1, 64)?;
            if !matches!(text.len(), 40 | 64) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(sha.invalid("must be the full id of a commit: 40 hexadecimal digits"));
            }
            Ok(Self::Commit { sha: text })
        })
    }
}

/// Whether a text can be the name of a branch (`git help check-ref-format`).
fn is_branch(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.as_bytes().ends_with(b".lock")
    };
    let is_odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    name.split('/').all(is_part)
        && !name.starts_with('-')
        && name != "@"
        && name != "HEAD"
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains(is_odd)
}

/// The host of a repository's URL, with its port where it names one, and its path: `https://{host}/{owner}/{repo}`, without the
/// suffix `.git`. At [`GITHUB`] two names are one, elsewhere more of them are groups. `None` when it is another URL.
pub fn parts(url: &str) -> Option<(&str, &str)> {
    let (host, path) = url.strip_prefix("https://")?.split_once('/')?;
    let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_name = |name: &str| {
        !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != ".." && name.bytes().all(is_of_a_name)
    };
    let names: Vec<&str> = path.split('/').collect();
    let most = if host.eq_ignore_ascii_case(GITHUB) { 2 } else { MAX_NAMES };
    let last = names.last().copied().unwrap_or_default();
    let has_suffix = last.len() >= 4 && last.as_bytes()[last.len() - 4..].eq_ignore_ascii_case(b".git");
    let fits = (2..=most).contains(&names.len()) && names.iter().all(|name| is_name(name)) && !has_suffix;
    (fits && !host.is_empty()).then_some((host, path))
}

fn has_path(url: &str) -> bool {
    parts(url).is_some()
}

fn path(mount_path: Option<&str>, url: &str) -> Result<String, &'static str> {
    let asked = match mount_path {
        Some(asked) => asked.strip_prefix(WORKSPACE).and_then(|below| below.strip_prefix('/')).ok_or(ELSEWHERE)?,
        None => url.rsplit('/').next().unwrap_or_default(),
    };
    let names: Vec<&str> = asked.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err("must not contain `..`");
    }
    if names.iter().any(|name| name.len() > MAX_NAME || name.chars().any(char::is_control)) {
        return Err("each name in it must have at most 255 bytes, and no control character");
    }
    match names.first() {
        None => Err(ELSEWHERE),
        Some(&TAKEN) => Err("`/workspace/skills` has the skills of the session: set another `mount_path`"),
        Some(_) => Ok(names.join("/")),
    }
}

const ELSEWHERE: &str = "must be a folder below `/workspace/`";

/// The error for two resources that would be mounted at, or below, one place.
pub(crate) fn overlapping(a: &str, b: &str) -> String {
    format!(
        "Invalid `github_repository` resource: `mount_path` overlaps another resource: {WORKSPACE}/{a} and {WORKSPACE}/{b}; \
         set distinct `mount_path` values"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_and_a_repository_there() {
        for (url, read) in [
            ("https://github.com/o/r", Some(("github.com", "o/r"))),
            ("https://github.com/o/.github", Some(("github.com", "o/.github"))),
            ("https://GitHub.com/o/r.js", Some(("GitHub.com", "o/r.js"))),
            ("https://git.internal:8443/group/sub/r", Some(("git.internal:8443", "group/sub/r"))),
            ("https://git.example/~me/r", Some(("git.example", "~me/r"))),
            ("https://github.com/o/r/tree", None),
            ("https://github.com/o", None),
            ("https://github.com/o/r/", None),
            ("https://github.com//r", None),
            ("https://github.com/o/r.git", None),
            ("https://github.com/o/r.GIT", None),
            ("https://github.com/o/.git", None),
            ("https://github.com/o/..", None),
            ("https://github.com/o/r?x=1", None),
            ("https://github.com/o/r#x", None),
            ("https://github.com/o/r%2f", None),
            ("http://github.com/o/r", None),
            ("git@github.com:o/r", None),
            ("ssh://github.com/o/r", None),
            ("file:///etc/passwd", None),
            ("https:///o/r", None),
        ] {
            assert_eq!(parts(url), read, "{url}");
        }
        // One whose host is compared as a whole: what stands before `@` is no host that an operator allows.
        assert_eq!(parts("https://me@github.com/o/r"), Some(("me@github.com", "o/r")));
    }

    #[test]
    fn a_repository_is_mounted_below_the_workspace() {
        let skills = "`/workspace/skills` has the skills of the session: set another `mount_path`";
        for (asked, url, read) in [
            (None, "https://github.com/o/r", Ok("r")),
            (Some("/workspace/app"), "https://github.com/o/r", Ok("app")),
            (Some("/workspace//a/./b/"), "https://github.com/o/r", Ok("a/b")),
            (Some("/workspace/skills-of-mine"), "https://github.com/o/r", Ok("skills-of-mine")),
            (Some("/workspace"), "https://github.com/o/r", Err(ELSEWHERE)),
            (Some("/workspace/"), "https://github.com/o/r", Err(ELSEWHERE)),
            (Some("/workspaces/a"), "https://github.com/o/r", Err(ELSEWHERE)),
            (Some("/etc"), "https://github.com/o/r", Err(ELSEWHERE)),
            (Some("app"), "https://github.com/o/r", Err(ELSEWHERE)),
            (Some("/workspace/../etc"), "https://github.com/o/r", Err("must not contain `..`")),
            (Some("/workspace/skills/a"), "https://github.com/o/r", Err(skills)),
            (None, "https://github.com/o/skills", Err(skills)),
        ] {
            assert_eq!(path(asked, url), read.map(str::to_owned), "{asked:?} {url}");
        }
        assert!(
            path(Some("/workspace/a\nb"), "").is_err()
                && path(Some(&format!("/workspace/{}", "x".repeat(256))), "").is_err()
        );
    }

    #[test]
    fn a_branch_has_a_name_that_git_takes() {
        for name in ["main", "feature/x", "v1.2", "a-b", "ü", "a@b"] {
            assert!(is_branch(name), "{name}");
        }
        for name in [
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.",
            "a.lock",
            "a.lock/b",
            "@",
            "HEAD",
            "a@{0}",
            "a\u{7f}",
        ] {
            assert!(!is_branch(name), "{name}");
        }
    }

    #[test]
    fn a_token_is_not_written_with_the_rest() {
        let token = Some(Secret::new("hush".to_owned()));
        let url = "https://github.com/o/r".to_owned();
        let repository = Repository { url, mount_path: None, checkout: None, authorization_token: token };
        assert_eq!(serde_json::to_string(&repository).unwrap(), r#"{"url":"https://github.com/o/r"}"#);
        assert!(!format!("{repository:?}").contains("hush"));
    }
}
