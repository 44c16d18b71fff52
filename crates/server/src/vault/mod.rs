//! Secrets in the store: how they are sealed, and how OAuth tokens are renewed.
//!
//! Each secret is sealed under the data key of its workspace, together with which row it belongs to. Data keys are rows,
//! wrapped by the master key, which is in no store: in a file of the data folder, or where the configuration says.

mod capture;
mod copy;
mod derived;
mod master;
pub mod oauth;
pub mod probe;
mod rotate;
mod seal;
pub mod sealed;

pub use copy::{MasterKeys, can_copy_key, copy_key};
pub use master::new_key;
pub use rotate::{Rotation, prepare, rotate};
pub use seal::{DataKey, Owner, Vault, fingerprint};

use reqwest::Url;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// The form of an MCP server's URL in which credentials are found: case of the host, default port, fragment and slashes at the
/// end make no difference.
pub fn matching_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    // Where there is no path, a URL shows a slash.
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    url.set_query(None);
    format!("{}{query}", url.as_str().trim_end_matches('/'))
}

/// Keeps what this process has in memory out of core dumps, and from other processes of its user: nobody but root reads its
/// memory or its environment in `/proc`, or attaches a debugger. What it starts has no core dumps either.
///
/// A limit of 0 would not do: the kernel looks at no limit but 1 where dumps go to a program (`core_pattern` with a pipe).
pub fn no_core_dumps() {
    let one = Rlimit { current: Some(1), maximum: Some(1) };
    let set = setrlimit(Resource::Core, one).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = set {
        tracing::warn!(%error, "core dumps could not be switched off; one would hold secrets");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn there_are_no_core_dumps_and_the_process_is_its_own() {
        no_core_dumps();
        assert_eq!(getrlimit(Resource::Core).current, Some(1));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }

    #[test]
    fn urls_of_one_server_match_and_those_of_others_do_not() {
        let same = ["https://mcp.example.com/a", "https://MCP.example.com/a/", "HTTPS://mcp.example.com:443/a#x"];
        let matching = |text: &str| matching_url(&text.parse().unwrap());
        for text in same {
            assert_eq!(matching(text), "https://mcp.example.com/a", "{text}");
        }
        assert_eq!(matching("https://mcp.example.com/"), matching("https://mcp.example.com"));
        assert_eq!(matching("https://mcp.example.com/?a=/"), matching("https://mcp.example.com?a=/"));
        for text in [
            "https://mcp.example.com/b",
            "https://mcp.example.com:8443/a",
            "https://mcp.example.com/a?b=c",
            "http://mcp.example.com/a",
            "https://mcp.example.com/A",
        ] {
            assert_ne!(matching(text), matching(same[0]), "{text}");
        }
    }
}
