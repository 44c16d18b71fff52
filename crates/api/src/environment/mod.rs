//! Environments: where the tools of a session run.

mod request;

use serde::{Deserialize, Serialize};

use crate::{Time, id::EnvironmentId, metadata::Metadata};

pub use request::{ConfigFields, EnvironmentFields, NetworkingFields, UpdateEnvironment};

/// Most characters of an environment's name.
pub const MAX_NAME: usize = 256;
/// Most hosts that a limited network allows.
pub const MAX_HOSTS: usize = 256;
/// Most packages of one package manager.
pub const MAX_PACKAGES: usize = 256;

/// An environment as the API shows it.
#[derive(Debug, Serialize)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Always `environment`.
    pub r#type: &'static str,
    /// Unique among the workspace's environments that are not archived.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What it is made of.
    pub config: EnvironmentConfig,
    /// Free pairs.
    pub metadata: Metadata,
    /// Always `organization`.
    pub scope: &'static str,
    /// When it was created.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// What an environment is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EnvironmentConfig {
    /// Sandboxes that this server starts.
    Cloud {
        /// What they reach.
        networking: Networking,
        /// What is installed in them.
        packages: Packages,
    },
    /// Workers that the user runs.
    SelfHosted {},
}

/// What a sandbox reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Networking {
    /// Every public address.
    Unrestricted {},
    /// Named hosts.
    Limited(LimitedNetwork),
}

/// The hosts that a sandbox reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitedNetwork {
    /// Host names, `*.` in front for their subdomains.
    pub allowed_hosts: Vec<String>,
    /// Whether the agent's MCP servers are allowed too.
    pub allow_mcp_servers: bool,
    /// Whether the public package registries are allowed too.
    pub allow_package_managers: bool,
}

impl LimitedNetwork {
    /// Whether `host` is one of [`LimitedNetwork::allowed_hosts`], or below one that begins with `*.`.
    pub fn allows(&self, host: &str) -> bool {
        self.allowed_hosts.iter().any(|allowed| match allowed.strip_prefix('*') {
            Some(tail) => {
                let at = host.len().saturating_sub(tail.len());
                at > 0 && host.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(tail))
            }
            None => allowed.eq_ignore_ascii_case(host),
        })
    }
}

/// What is installed in a sandbox, per package manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// Always `packages`.
    pub r#type: PackagesTag,
    /// Debian packages.
    pub apt: Vec<String>,
    /// Rust crates.
    pub cargo: Vec<String>,
    /// Ruby gems.
    pub gem: Vec<String>,
    /// Go modules.
    pub go: Vec<String>,
    /// Node packages.
    pub npm: Vec<String>,
    /// Python packages.
    pub pip: Vec<String>,
}

/// The `type` of [`Packages`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackagesTag {
    /// The only one.
    #[default]
    Packages,
}

impl Packages {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        [&self.apt, &self.cargo, &self.gem, &self.go, &self.npm, &self.pip].into_iter().all(Vec::is_empty)
    }
}

impl EnvironmentConfig {
    fn cloud() -> Self {
        Self::Cloud { networking: Networking::Unrestricted {}, packages: Packages::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_allowed_by_its_name_or_by_a_wildcard_above_it() {
        let allowed_hosts = ["api.example.com", "*.example.org"].map(str::to_owned).to_vec();
        let network = LimitedNetwork { allowed_hosts, ..LimitedNetwork::default() };
        for (host, allowed) in [
            ("api.example.com", true),
            ("API.Example.Com", true),
            ("x.api.example.com", false),
            ("example.com", false),
            ("a.example.org", true),
            ("a.b.EXAMPLE.org", true),
            ("example.org", false),
            (".example.org", false),
            ("badexample.org", false),
            ("a.example.org.evil.com", false),
            ("é.example.org", true),
            ("", false),
        ] {
            assert_eq!(network.allows(host), allowed, "{host}");
        }
    }
}
