//! Environments: where the tools of a session run.

use serde::{Deserialize, Serialize};

use crate::{
    Time,
    agent::MAX_DESCRIPTION,
    decode::{Decoded, Invalid, Node, Object, Patch},
    id::EnvironmentId,
    metadata::{self, Changes, Metadata},
};

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
    fn is_empty(&self) -> bool {
        [&self.apt, &self.cargo, &self.gem, &self.go, &self.npm, &self.pip].into_iter().all(Vec::is_empty)
    }
}

impl EnvironmentConfig {
    fn cloud() -> Self {
        Self::Cloud { networking: Networking::Unrestricted {}, packages: Packages::default() }
    }
}

/// A create request, or the state after an update.
#[derive(Debug)]
pub struct EnvironmentFields {
    /// 1 to [`MAX_NAME`] characters.
    pub name: String,
    /// At most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
    /// What it is made of.
    pub config: EnvironmentConfig,
    /// Free pairs.
    pub metadata: Metadata,
}

impl EnvironmentFields {
    /// Reads the body of a create request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        check_scope(o)?;
        Ok(Self {
            name: o.required("name")?.text(1, MAX_NAME)?,
            description: o.optional("description").map(|n| n.text(0, MAX_DESCRIPTION)).transpose()?,
            config: match o.optional("config") {
                Some(node) => read_config(&node, None)?,
                None => EnvironmentConfig::cloud(),
            },
            metadata: metadata::create(o.optional("metadata"))?,
        })
    }

    /// Reads the body of an update request over what is stored.
    pub fn read_update(o: &mut Object<'_>, stored: &Self) -> Decoded<Self> {
        check_scope(o)?;
        Ok(Self {
            name: match o.optional("name") {
                Some(node) => node.text(1, MAX_NAME)?,
                None => stored.name.clone(),
            },
            description: match o.patch("description") {
                Patch::Keep => stored.description.clone(),
                Patch::Clear => None,
                Patch::Set(node) => Some(node.text(0, MAX_DESCRIPTION)?),
            },
            config: match o.optional("config") {
                Some(node) => read_config(&node, Some(&stored.config))?,
                None => stored.config.clone(),
            },
            metadata: Changes::read(o.patch("metadata"))?.over(&stored.metadata)?,
        })
    }
}

fn check_scope(o: &mut Object<'_>) -> Decoded<()> {
    let Some(node) = o.optional("scope") else { return Ok(()) };
    match node.one_of(&["organization", "account"])? {
        "account" => Err(node.invalid("\"account\" is not supported for API organizations; use \"organization\"")),
        _ => Ok(()),
    }
}

fn read_config(node: &Node<'_>, stored: Option<&EnvironmentConfig>) -> Decoded<EnvironmentConfig> {
    let tag = node.tag()?;
    let config = node.object(|o| {
        o.tagged();
        match tag {
            "cloud" => {
                let (networking, packages) = match stored {
                    Some(EnvironmentConfig::Cloud { networking, packages }) => (Some(networking), Some(packages)),
                    _ => (None, None),
                };
                Ok(EnvironmentConfig::Cloud {
                    networking: read_networking(o.patch("networking"), networking)?,
                    packages: read_packages(o.patch("packages"), packages)?,
                })
            }
            "self_hosted" => Ok(EnvironmentConfig::SelfHosted {}),
            other => Err(node.wrong_tag(other)),
        }
    })?;
    if stored.is_some_and(|stored| std::mem::discriminant(stored) != std::mem::discriminant(&config)) {
        return Err(Invalid::field(&format!("{}.type", node.path()), "cannot be changed after creation"));
    }
    if let EnvironmentConfig::Cloud { networking: Networking::Limited(limited), packages } = &config
        && !packages.is_empty()
        && !limited.allow_package_managers
    {
        return Err(node.invalid("packages require networking.allow_package_managers to be true"));
    }
    Ok(config)
}

fn read_networking(patch: Patch<Node<'_>>, stored: Option<&Networking>) -> Decoded<Networking> {
    let node = match patch {
        Patch::Keep => return Ok(stored.cloned().unwrap_or(Networking::Unrestricted {})),
        Patch::Clear => return Ok(Networking::Unrestricted {}),
        Patch::Set(node) => node,
    };
    let tag = node.tag()?;
    node.object(|o| {
        o.tagged();
        match tag {
            "unrestricted" => Ok(Networking::Unrestricted {}),
            "limited" => {
                let base = match stored {
                    Some(Networking::Limited(limited)) => limited.clone(),
                    _ => LimitedNetwork::default(),
                };
                let flag = |node: Option<Node<'_>>, stored| node.map_or(Ok(stored), |n| n.boolean());
                let hosts = o.optional("allowed_hosts").map(|n| n.items(0, MAX_HOSTS, read_host)).transpose()?;
                Ok(Networking::Limited(LimitedNetwork {
                    allowed_hosts: hosts.unwrap_or(base.allowed_hosts),
                    allow_mcp_servers: flag(o.optional("allow_mcp_servers"), base.allow_mcp_servers)?,
                    allow_package_managers: flag(o.optional("allow_package_managers"), base.allow_package_managers)?,
                }))
            }
            other => Err(node.wrong_tag(other)),
        }
    })
}

fn read_host(node: &Node<'_>) -> Decoded<String> {
    let host = node.text(1, 253)?;
    let name = host.strip_prefix("*.").unwrap_or(&host);
    if name.is_empty() || name.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')) {
        return Err(node.invalid("must be a host name, with \"*.\" in front for its subdomains"));
    }
    Ok(host)
}

fn read_packages(patch: Patch<Node<'_>>, stored: Option<&Packages>) -> Decoded<Packages> {
    let node = match patch {
        Patch::Keep => return Ok(stored.cloned().unwrap_or_default()),
        Patch::Clear => return Ok(Packages::default()),
        Patch::Set(node) => node,
    };
    node.object(|o| {
        o.optional("type").map(|n| n.one_of(&["packages"])).transpose()?;
        let mut list = |name| {
            let names = o.optional(name).map(|n| n.items(0, MAX_PACKAGES, |n| n.text(1, 256))).transpose()?;
            Ok(names.unwrap_or_default())
        };
        Ok(Packages {
            r#type: PackagesTag::Packages,
            apt: list("apt")?,
            cargo: list("cargo")?,
            gem: list("gem")?,
            go: list("go")?,
            npm: list("npm")?,
            pip: list("pip")?,
        })
    })
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
