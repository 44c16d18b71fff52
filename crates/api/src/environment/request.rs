//! Reading the bodies of create and update requests.

use super::{EnvironmentConfig, LimitedNetwork, MAX_HOSTS, MAX_NAME, MAX_PACKAGES, Networking, Packages, PackagesTag};
use crate::{
    agent::MAX_DESCRIPTION,
    decode::{Decoded, Invalid, Node, Object, Patch},
    metadata::{self, Changes, Metadata},
};

/// A create request, or the state after an update.
#[derive(Debug, PartialEq, Eq)]
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
                Some(node) => ConfigFields::read(&node)?.alone()?,
                None => EnvironmentConfig::cloud(),
            },
            metadata: metadata::create(o.optional("metadata"))?,
        })
    }
}

/// An update request. `None` keeps what is stored.
#[derive(Debug)]
pub struct UpdateEnvironment {
    /// A new name.
    pub name: Option<String>,
    /// The description; null clears it.
    pub description: Patch<String>,
    /// Another configuration of the same type.
    pub config: Option<ConfigFields>,
    /// Pairs to set and to delete.
    pub metadata: Changes,
}

impl UpdateEnvironment {
    /// Reads the body of an update request.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        check_scope(o)?;
        Ok(Self {
            name: o.optional("name").map(|n| n.text(1, MAX_NAME)).transpose()?,
            description: o.patch("description").read(|n| n.text(0, MAX_DESCRIPTION))?,
            config: o.optional("config").map(|n| ConfigFields::read(&n)).transpose()?,
            metadata: Changes::read_with_empty(o.patch("metadata"))?,
        })
    }

    /// What `stored` becomes.
    ///
    /// # Errors
    /// When the type of the configuration would change, or what is kept and what is new do not go together.
    pub fn over(&self, stored: &EnvironmentFields) -> Decoded<EnvironmentFields> {
        Ok(EnvironmentFields {
            name: self.name.as_ref().unwrap_or(&stored.name).clone(),
            description: self.description.clone().over(stored.description.clone()),
            config: match &self.config {
                Some(config) => config.over(&stored.config)?,
                None => stored.config.clone(),
            },
            metadata: self.metadata.over(&stored.metadata)?,
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

/// What a body says about a configuration; what it leaves out is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigFields {
    /// Sandboxes that this server starts.
    Cloud {
        /// What they reach; null is every public address.
        networking: Patch<NetworkingFields>,
        /// What is installed in them; null is nothing.
        packages: Patch<Packages>,
    },
    /// Workers that the user runs.
    SelfHosted,
}

impl ConfigFields {
    fn read(node: &Node<'_>) -> Decoded<Self> {
        let tag = node.tag_of(&["cloud", "self_hosted"])?;
        node.object(|o| {
            o.tagged();
            match tag {
                "cloud" => Ok(Self::Cloud {
                    networking: o.patch("networking").read(NetworkingFields::read)?,
                    packages: o.patch("packages").read(read_packages)?,
                }),
                _ => Ok(Self::SelfHosted),
            }
        })
    }

    /// The configuration where nothing is stored yet.
    fn alone(&self) -> Decoded<EnvironmentConfig> {
        match self {
            Self::Cloud { .. } => self.over(&EnvironmentConfig::cloud()),
            Self::SelfHosted => Ok(EnvironmentConfig::SelfHosted {}),
        }
    }

    fn over(&self, stored: &EnvironmentConfig) -> Decoded<EnvironmentConfig> {
        let (networking, packages) = match (self, stored) {
            (Self::SelfHosted, EnvironmentConfig::SelfHosted {}) => return Ok(EnvironmentConfig::SelfHosted {}),
            (
                Self::Cloud { networking, packages },
                EnvironmentConfig::Cloud { networking: reached, packages: installed },
            ) => {
                let networking = match networking {
                    Patch::Keep => reached.clone(),
                    Patch::Clear => Networking::Unrestricted {},
                    Patch::Set(fields) => fields.over(reached),
                };
                (networking, packages.clone().over_or(installed.clone(), Packages::default()))
            }
            (Self::SelfHosted, _) => return Err(kind_change("Cloud", "BYOC")),
            (Self::Cloud { .. }, _) => return Err(kind_change("BYOC", "Cloud")),
        };
        if let Networking::Limited(limited) = &networking
            && !packages.is_empty()
            && !limited.allow_package_managers
        {
            return Err(Invalid::field("config", "packages require networking.allow_package_managers to be true"));
        }
        Ok(EnvironmentConfig::Cloud { networking, packages })
    }
}

/// The kinds are told as the hosted service does, where a self-hosted environment is "bring your own compute".
fn kind_change(from: &str, to: &str) -> Invalid {
    let message = format!("Cannot change environment type from {from} to {to}");
    Invalid::request(message).with_code("invalid_config_type_change")
}

/// What a body says about what a sandbox reaches; what it leaves out is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkingFields {
    /// Every public address.
    Unrestricted,
    /// Named hosts.
    Limited {
        /// Host names, `*.` in front for their subdomains.
        allowed_hosts: Option<Vec<String>>,
        /// Whether the agent's MCP servers are allowed too.
        allow_mcp_servers: Option<bool>,
        /// Whether the public package registries are allowed too.
        allow_package_managers: Option<bool>,
    },
}

impl NetworkingFields {
    fn read(node: &Node<'_>) -> Decoded<Self> {
        let tag = node.tag_of(&["unrestricted", "limited"])?;
        node.object(|o| {
            o.tagged();
            match tag {
                "unrestricted" => Ok(Self::Unrestricted),
                _ => {
                    let mut flag = |name| o.optional(name).map(|n| n.boolean()).transpose();
                    let allow_mcp_servers = flag("allow_mcp_servers")?;
                    let allow_package_managers = flag("allow_package_managers")?;
                    let hosts = o.optional("allowed_hosts").map(|n| n.items(0, MAX_HOSTS, read_host)).transpose()?;
                    Ok(Self::Limited { allowed_hosts: hosts, allow_mcp_servers, allow_package_managers })
                }
            }
        })
    }

    fn over(&self, stored: &Networking) -> Networking {
        let Self::Limited { allowed_hosts, allow_mcp_servers, allow_package_managers } = self else {
            return Networking::Unrestricted {};
        };
        let base = match stored {
            Networking::Limited(limited) => limited.clone(),
            Networking::Unrestricted {} => LimitedNetwork::default(),
        };
        Networking::Limited(LimitedNetwork {
            allowed_hosts: allowed_hosts.clone().unwrap_or(base.allowed_hosts),
            allow_mcp_servers: allow_mcp_servers.unwrap_or(base.allow_mcp_servers),
            allow_package_managers: allow_package_managers.unwrap_or(base.allow_package_managers),
        })
    }
}

fn read_host(node: &Node<'_>) -> Decoded<String> {
    let host = node.text(1, 253)?;
    let name = host.strip_prefix("*.").unwrap_or(&host);
    if name.is_empty() || name.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')) {
        return Err(node.invalid("must be a host name, with \"*.\" in front for its subdomains"));
    }
    Ok(host)
}

fn read_packages(node: &Node<'_>) -> Decoded<Packages> {
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
