//! Pure: what a sandbox may reach, by the name that it asks for.

use http::Uri;
use rota_api::environment::{LimitedNetwork, Networking};

/// What `allow_package_managers` opens: the exact hosts that the hosted service was recorded to open.
const PACKAGE_HOSTS: [&str; 30] = [
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "nodejs.org",
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "rubygems.org",
    "index.rubygems.org",
    "proxy.golang.org",
    "sum.golang.org",
    "archive.ubuntu.com",
    "security.ubuntu.com",
    "ppa.launchpad.net",
    "packagist.org",
    "repo.maven.apache.org",
    "repo1.maven.org",
    "plugins.gradle.org",
    "github.com",
    "api.github.com",
    "raw.githubusercontent.com",
    "codeload.github.com",
    "objects.githubusercontent.com",
    "gitlab.com",
    "bitbucket.org",
    "ghcr.io",
    "registry-1.docker.io",
    "auth.docker.io",
    "download.docker.com",
];

/// What the sandbox of a session may reach.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// Nothing: the operator has switched the network off.
    Off,
    /// Every public address.
    Unrestricted,
    /// Named hosts.
    Limited {
        /// As the environment names them.
        network: LimitedNetwork,
        /// The hosts of the agent's MCP servers, where the environment allows them.
        servers: Vec<String>,
    },
}

impl Policy {
    /// Of an environment, for an agent with MCP servers at `urls`.
    pub fn new<'a>(networking: &Networking, urls: impl IntoIterator<Item = &'a str>) -> Self {
        let Networking::Limited(network) = networking else { return Self::Unrestricted };
        let mut servers = Vec::new();
        if network.allow_mcp_servers {
            let host = |url: &str| Some(url.parse::<Uri>().ok()?.host()?.to_ascii_lowercase());
            servers.extend(urls.into_iter().filter_map(host));
        }
        Self::Limited { network: network.clone(), servers }
    }

    /// Whether `host` may be reached: a name in lower case, or an address. What it resolves to is another question.
    pub fn allows(&self, host: &str) -> bool {
        match self {
            Self::Off => false,
            Self::Unrestricted => true,
            Self::Limited { network, servers } => {
                network.allows(host)
                    || servers.iter().any(|server| server == host)
                    || (network.allow_package_managers && PACKAGE_HOSTS.contains(&host))
            }
        }
    }

    /// Whether not every public host may be reached.
    pub fn is_limited(&self) -> bool {
        *self != Self::Unrestricted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(hosts: &[&str], mcp: bool, packages: bool) -> Networking {
        Networking::Limited(LimitedNetwork {
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            allow_mcp_servers: mcp,
            allow_package_managers: packages,
        })
    }

    #[test]
    fn a_limited_network_is_its_hosts_and_what_it_opens_beside_them() {
        let urls = ["https://MCP.example.com:8443/sse", "not a url"];
        let rows: [(&[&str], bool, bool, &str, bool); 14] = [
            (&[], false, false, "example.com", false),
            (&["example.com"], false, false, "example.com", true),
            (&["example.com"], false, false, "www.example.com", false),
            (&["*.example.com"], false, false, "a.b.example.com", true),
            (&["*.example.com"], false, false, "example.com", false),
            (&["*.example.com"], false, false, "notexample.com", false),
            (&["192.0.2.1"], false, false, "192.0.2.1", true),
            (&["example.com"], false, false, "192.0.2.1", false),
            (&[], true, false, "mcp.example.com", true),
            (&[], false, true, "mcp.example.com", false),
            (&[], false, true, "pypi.org", true),
            (&[], true, false, "pypi.org", false),
            (&[], false, true, "test.pypi.org", false),
            (&[], false, true, "deb.debian.org", false),
        ];
        for (hosts, mcp, packages, host, allowed) in rows {
            let policy = Policy::new(&limited(hosts, mcp, packages), urls);
            assert_eq!(policy.allows(host), allowed, "{hosts:?} {mcp} {packages} {host}");
        }
        assert!(Policy::new(&Networking::default(), urls).allows("anything.example"));
        assert!(!Policy::Off.allows("example.com"));
    }
}
