//! Which MCP servers the network of an environment keeps a session from.

use http::Uri;
use rota_api::{
    agent::{AgentReference, Multiagent, SessionAgent},
    environment::{CloudConfig, EnvironmentConfig, LimitedNetwork, Networking},
};

use crate::{
    db::{Tx, vals},
    error::{Error, Result},
};

/// Why a session of `agent` cannot reach an MCP server in an environment; `None` when it reaches all of them.
///
/// The agents of a roster work in the same environment, so their servers count too.
pub fn blocked(environment: &EnvironmentConfig, agent: &SessionAgent) -> Option<String> {
    let network = restricted(environment)?;
    let members = agent.multiagent.iter().flat_map(Multiagent::agents);
    let servers = agent.primary.mcp_servers.iter().chain(members.flat_map(|member| &member.mcp_servers));
    let mut blocked: Vec<String> = Vec::new();
    for server in servers.filter(|server| !reaches(network, &server.url)) {
        let told = format!("\"{}\" ({})", server.name, host_of(&server.url));
        if !blocked.contains(&told) {
            blocked.push(told);
        }
    }
    (!blocked.is_empty()).then(|| {
        format!(
            "MCP server host(s) blocked by environment network policy: {}. Add these hosts to the environment's \
             allowed_hosts, or set allow_mcp_servers=true.",
            blocked.join(", ")
        )
    })
}

/// The same, for an agent as it is stored. An environment that reaches every MCP server needs no look at the agent.
pub fn blocked_version(
    tx: &mut Tx<'_>,
    environment: &EnvironmentConfig,
    agent: &AgentReference,
) -> Result<Option<String>> {
    if restricted(environment).is_none() {
        return Ok(None);
    }
    let sql = "SELECT snapshot FROM agent_versions WHERE agent_id = $1 AND version = $2";
    let snapshot = tx.one(sql, vals![&agent.id, agent.version], |row| row.json(0))?;
    let snapshot = snapshot.ok_or_else(|| Error::internal(format!("agent `{}` has lost a version", agent.id)))?;
    Ok(blocked(environment, &snapshot))
}

/// The network, when it does not reach every MCP server.
fn restricted(environment: &EnvironmentConfig) -> Option<&LimitedNetwork> {
    match environment {
        EnvironmentConfig::Cloud(CloudConfig { networking: Networking::Limited(network), .. })
            if !network.allow_mcp_servers =>
        {
            Some(network)
        }
        _ => None,
    }
}

/// Whether the host of `url` is allowed. What is no URL is not.
fn reaches(network: &LimitedNetwork, url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    url.host().is_some_and(|host| network.allows(host))
}

/// The host of `url`, or all of what is no URL.
fn host_of(url: &str) -> String {
    url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_reached_by_its_host_alone() {
        let network = LimitedNetwork { allowed_hosts: vec!["mcp.example.com".to_owned()], ..LimitedNetwork::default() };
        for (url, reached) in [
            ("https://mcp.example.com/sse", true),
            ("http://MCP.Example.com:8080", true),
            ("https://mcp.example.com@elsewhere.example/", false),
            ("https://elsewhere.example/mcp.example.com", false),
            ("https://mcp.example.com\\@elsewhere.example/", false),
            ("https://", false),
        ] {
            assert_eq!(reaches(&network, url), reached, "{url}");
        }
    }
}
