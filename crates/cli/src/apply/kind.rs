//! The kinds of resources that files describe.

/// A kind, in the order in which resources refer to each other: each only to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Vault,
    Skill,
    Environment,
    Agent,
    Deployment,
    Hook,
    Webhook,
}

impl Kind {
    /// Those that have a folder of files. Hooks stand in the file of their deployment.
    pub const WITH_FILES: [Self; 6] =
        [Self::Vault, Self::Skill, Self::Environment, Self::Agent, Self::Deployment, Self::Webhook];

    /// The folder of its files.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Vault => "vaults",
            Self::Skill => "skills",
            Self::Environment => "environments",
            Self::Agent => "agents",
            Self::Deployment => "deployments",
            Self::Hook => "hooks",
            Self::Webhook => "webhooks",
        }
    }

    /// What one is called.
    pub fn noun(self) -> &'static str {
        let folder = self.folder();
        &folder[..folder.len() - 1]
    }

    /// Where the API has them.
    pub fn path(self) -> &'static str {
        match self {
            Self::Vault => "/v1/vaults",
            Self::Skill => "/v1/skills",
            Self::Environment => "/v1/environments",
            Self::Agent => "/v1/agents",
            Self::Deployment => "/v1/deployments",
            Self::Hook => "/rota/v1/hooks",
            Self::Webhook => "/rota/v1/webhook_endpoints",
        }
    }

    /// How its ids begin.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Vault => "vlt_",
            Self::Skill => "skill_",
            Self::Environment => "env_",
            Self::Agent => "agent_",
            Self::Deployment => "depl_",
            Self::Hook => "hook_",
            Self::Webhook => "whep_",
        }
    }

    /// The text that has the label, where there is no metadata.
    pub fn labelled_text(self) -> Option<&'static str> {
        match self {
            Self::Skill => Some("display_name"),
            Self::Hook => Some("name"),
            Self::Webhook => Some("description"),
            Self::Vault | Self::Environment | Self::Agent | Self::Deployment => None,
        }
    }

    /// Whether it is archived where a file is gone. The others are deleted: they cannot be archived.
    pub fn is_archived(self) -> bool {
        self.labelled_text().is_none()
    }

    /// Whether the official API has it.
    pub fn is_official(self) -> bool {
        self.path().starts_with("/v1/")
    }
}
