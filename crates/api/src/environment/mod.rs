//! Environments: where the tools of a session run.

mod request;

use serde::Serialize;

use crate::{
    Time,
    agent::MAX_DESCRIPTION,
    decode::Node,
    fields::{Decode, Nothing, SaidNothing, fields, names, tagged},
    id::EnvironmentId,
    metadata::{Changes, Metadata},
};

pub(crate) use request::read_host;
use request::{read_packages, read_scope};

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
    /// Whose it is: always [`Scope::Organization`].
    pub scope: Scope,
    /// When it was created.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

fields! {
    /// What an update of an environment can change.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    EnvironmentFields,
    /// An update request.
    UpdateEnvironment {
        /// 1 to [`MAX_NAME`] characters.
        name: String, keeps = |n| n.text(1, MAX_NAME);
        /// At most [`MAX_DESCRIPTION`] characters.
        description: String, clears = |n| n.text(0, MAX_DESCRIPTION);
        /// What it is made of. Its type never changes.
        config: EnvironmentConfig, joins<ConfigFields> = Decode::decode;
        /// Free pairs.
        metadata: Metadata, pairs = Changes::read_with_empty;
        /// Whose it is.
        scope: Scope, keeps = read_scope;
    }
}

tagged! {
    /// What an environment is made of.
    EnvironmentConfig,
    /// What a body says about that; what it leaves out is kept.
    ConfigFields {
        /// Sandboxes that this server starts.
        "cloud" => Cloud(CloudConfig, CloudFields),
        /// Workers that the user runs.
        "self_hosted" => SelfHosted(Nothing, SaidNothing),
    }
}

fields! {
    /// Sandboxes that this server starts.
    #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    CloudConfig,
    /// What a body says about them.
    CloudFields {
        /// What they reach; null is every public address.
        networking: Networking, merges<NetworkingFields> = Decode::decode;
        /// What is installed in them; null is nothing.
        packages: Packages, resets = |n| PackagesFields::decode(n)?.merged(&Packages::default());
    }
}

tagged! {
    /// What a sandbox reaches.
    Networking,
    /// What a body says about that; what it leaves out is kept.
    NetworkingFields {
        /// Every public address.
        "unrestricted" => Unrestricted(Nothing, SaidNothing),
        /// Named hosts.
        "limited" => Limited(LimitedNetwork, LimitedFields),
    }
}

fields! {
    /// The hosts that a sandbox reaches.
    #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    LimitedNetwork,
    /// What a body says about them.
    LimitedFields {
        /// Host names, `*.` in front for their subdomains.
        allowed_hosts: Vec<String>, keeps = |n| n.items(0, MAX_HOSTS, read_host);
        /// Whether the agent's MCP servers are allowed too.
        allow_mcp_servers: bool, keeps = Node::boolean;
        /// Whether the public package registries are allowed too.
        allow_package_managers: bool, keeps = Node::boolean;
    }
}

fields! {
    /// What is installed in a sandbox, per package manager.
    #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    Packages,
    /// What a body says about that.
    PackagesFields {
        /// Always `packages`.
        r#type: PackagesTag, keeps = Decode::decode;
        /// Debian packages.
        apt: Vec<String>, keeps = read_packages;
        /// Rust crates.
        cargo: Vec<String>, keeps = read_packages;
        /// Ruby gems.
        gem: Vec<String>, keeps = read_packages;
        /// Go modules.
        go: Vec<String>, keeps = read_packages;
        /// Node packages.
        npm: Vec<String>, keeps = read_packages;
        /// Python packages.
        pip: Vec<String>, keeps = read_packages;
    }
}

names! {
    /// The `type` of [`Packages`].
    #[derive(Default)]
    PackagesTag {
        /// The only one.
        #[default]
        "packages" => Packages,
    }
}

names! {
    /// Whose an environment is.
    #[derive(Default)]
    Scope {
        /// Everybody's in the workspace.
        #[default]
        "organization" => Organization,
        /// One account's.
        "account" => Account,
    }
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

impl Packages {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        [&self.apt, &self.cargo, &self.gem, &self.go, &self.npm, &self.pip].into_iter().all(Vec::is_empty)
    }
}

impl EnvironmentConfig {
    /// What a sandbox of this server reaches. `None`: workers of the user run the tools.
    pub fn networking(&self) -> Option<&Networking> {
        match self {
            Self::Cloud(cloud) => Some(&cloud.networking),
            Self::SelfHosted(_) => None,
        }
    }

    /// Whether workers of the user run the tools.
    pub fn is_self_hosted(&self) -> bool {
        matches!(self, Self::SelfHosted(_))
    }
}

impl Default for EnvironmentConfig {
    fn default() -> Self {
        Self::Cloud(CloudConfig::default())
    }
}

impl Default for Networking {
    fn default() -> Self {
        Self::Unrestricted(Nothing::default())
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
