//! The rules of create and update requests. Their fields are declared beside what is stored.

use super::{
    CloudConfig, ConfigFields, EnvironmentConfig, EnvironmentFields, MAX_PACKAGES, Networking, Scope, UpdateEnvironment,
};
use crate::{
    decode::{Decoded, Invalid, Node, Object},
    fields::Decode,
    metadata,
};

impl EnvironmentFields {
    /// Reads the body of a create request: an update of an unrestricted cloud.
    pub fn read(o: &mut Object<'_>) -> Decoded<Self> {
        o.required("name")?;
        metadata::create(o.optional("metadata"))?;
        UpdateEnvironment::read(o)?.merged(&Self::default())?.checked()
    }

    /// That its parts go together.
    fn checked(self) -> Decoded<Self> {
        match &self.config {
            EnvironmentConfig::Cloud(CloudConfig { networking: Networking::Limited(limited), packages })
                if !packages.is_empty() && !limited.allow_package_managers =>
            {
                Err(Invalid::field("config", "packages require networking.allow_package_managers to be true"))
            }
            _ => Ok(self),
        }
    }
}

impl UpdateEnvironment {
    /// What `stored` becomes.
    ///
    /// # Errors
    /// When the type of the configuration would change, or what is kept and what is new do not go together.
    pub fn over(&self, stored: &EnvironmentFields) -> Decoded<EnvironmentFields> {
        use EnvironmentConfig as Stored;

        // The kinds are told as the hosted service does, where a self-hosted environment is "bring your own compute".
        let change = match (&self.config, &stored.config) {
            (Some(ConfigFields::SelfHosted(_)), Stored::Cloud(_)) => "from Cloud to BYOC",
            (Some(ConfigFields::Cloud(_)), Stored::SelfHosted(_)) => "from BYOC to Cloud",
            _ => return self.merged(stored)?.checked(),
        };
        let message = format!("Cannot change environment type {change}");
        Err(Invalid::request(message).with_code("invalid_config_type_change"))
    }
}

pub(super) fn read_scope(node: &Node<'_>) -> Decoded<Scope> {
    match Scope::decode(node)? {
        Scope::Organization => Ok(Scope::Organization),
        Scope::Account => Err(node.invalid("\"account\" is not supported for API organizations; use \"organization\"")),
    }
}

pub(crate) fn read_host(node: &Node<'_>) -> Decoded<String> {
    let host = node.text(1, 253)?;
    let name = host.strip_prefix("*.").unwrap_or(&host);
    if name.is_empty() || name.contains(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')) {
        return Err(node.invalid("must be a host name, with \"*.\" in front for its subdomains"));
    }
    Ok(host)
}

pub(super) fn read_packages(node: &Node<'_>) -> Decoded<Vec<String>> {
    node.items(0, MAX_PACKAGES, |n| n.text(1, 256))
}
