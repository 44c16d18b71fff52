//! What a session asks for and this server does not do. The API accepts it, so whoever created the session is told here.

use axum::extract::State;
use rota_api::{
    agent::{BuiltInTool, SessionAgent, built_in},
    environment::{CloudConfig, EnvironmentConfig, LimitedNetwork, Networking},
    id::WorkspaceId,
    session::Session,
    warning::{SessionWithWarnings, Warning},
};
use serde::de::IgnoredAny;

use super::{get, store};
use crate::{
    app::App,
    config::Config,
    db::Tx,
    error::Result,
    request::{Caller, Json, Path, SessionRef},
    resources::{checkpoints, environments, repositories},
};

/// `GET /rota/v1/sessions/{session_id}`.
pub async fn retrieve(
    State(app): State<App>,
    caller: Caller,
    Path(SessionRef(id)): Path<SessionRef>,
) -> Result<Json<SessionWithWarnings>> {
    let can = Can::of(&app.config);
    app.db
        .read(move |tx| {
            let session = get(tx, &caller.workspace, &id)?;
            let warnings = of_session(tx, &caller.workspace, &session, can)?;
            Ok(SessionWithWarnings { session, warnings })
        })
        .await
        .map(Json)
}

/// What this server lets sessions have.
#[derive(Debug, Clone, Copy)]
pub struct Can {
    /// A network for sandboxes.
    pub network: bool,
    /// `web_fetch`.
    pub fetch: bool,
    /// `web_search`.
    pub search: bool,
}

impl Can {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        let web = |tool| config.web.offers(tool);
        Self { network: config.network.enabled, fetch: web(BuiltInTool::WebFetch), search: web(BuiltInTool::WebSearch) }
    }
}

/// What a session lacks.
pub fn of_session(tx: &mut Tx<'_>, workspace: &WorkspaceId, session: &Session, can: Can) -> Result<Vec<Warning>> {
    let agent: SessionAgent = serde_json::from_str(session.agent.get())?;
    let environment = environments::config(tx, workspace, session.environment_id.as_ref())?;
    let outcomes: Vec<IgnoredAny> = serde_json::from_str(session.outcome_evaluations.get())?;
    let mut warnings = warnings(&agent, environment.as_ref(), !outcomes.is_empty(), can);
    let skipped = repositories::skipped_skills(tx, workspace, &session.id)?;
    if !skipped.is_empty() {
        let message = format!("skills of repositories are not announced: {}", skipped.join("; "));
        warnings.push(Warning { code: "repository_skills_skipped", message });
    }
    let left_out = store::left_out_outputs(tx, workspace, &session.id)?;
    if !left_out.is_empty() {
        let message = format!("not everything in /mnt/session/outputs became a file: {}", left_out.join("; "));
        warnings.push(Warning { code: "outputs_left_out", message });
    }
    if let Some((problem, taken_at)) = checkpoints::problem(tx, workspace, &session.id)? {
        let instead = match taken_at {
            Some(at) => format!("as they were at {at}"),
            None => "without any".to_owned(),
        };
        let message = format!(
            "the files of the session are not kept as they are now: {problem}. If its server is lost, the session goes on with its \
             files {instead}, and its agent is told"
        );
        warnings.push(Warning { code: "files_not_kept", message });
    }
    Ok(warnings)
}

/// Pure: what a session of `agent` lacks. `environment` is `None` once it is deleted.
fn warnings(
    agent: &SessionAgent,
    environment: Option<&EnvironmentConfig>,
    has_outcomes: bool,
    can: Can,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |wanted: bool, code, message: &str| {
        if wanted {
            warnings.push(Warning { code, message: message.to_owned() });
        }
    };
    let primary = &agent.primary;
    warn(
        agent.multiagent.is_some(),
        "roster_not_started",
        "this server starts no other agents: the roster is not used",
    );
    let has = |tool| built_in(&primary.tools, tool).is_some();
    warn(
        has(BuiltInTool::WebFetch) && !can.fetch,
        "web_fetch_not_offered",
        "the operator of this server has switched web_fetch off: the model is not offered it",
    );
    warn(
        has(BuiltInTool::WebSearch) && !can.search,
        "web_search_not_offered",
        "this server has no search provider: the model is not offered web_search. Its operator names one in [web.search]",
    );
    match environment {
        Some(EnvironmentConfig::Cloud(CloudConfig { networking, packages })) => {
            warn(
                !packages.is_empty() && !can.network,
                "packages_not_installed",
                "sandboxes of this server have no network, so no packages can be installed: a session that has some runs no tools",
            );
            let none = Networking::Limited(LimitedNetwork::default());
            warn(
                !can.network && *networking != none,
                "network_not_available",
                "sandboxes of this server have no network, whatever the environment allows: its operator has switched it off",
            );
        }
        Some(EnvironmentConfig::SelfHosted(_)) | None => {}
    }
    warn(
        has_outcomes,
        "outcomes_not_graded",
        "this server grades no outcomes: they are worked towards and stay pending",
    );
    warnings
}

#[cfg(test)]
mod tests {
    use rota_api::{
        agent::{AgentConfig, CreateAgent, ThreadAgent},
        decode,
        id::{AgentId, Id},
    };
    use serde_json::{Value, json};

    use rota_api::fields::Nothing;

    use super::*;

    const ALL: Can = Can { network: true, fetch: true, search: true };
    const OFF: Can = Can { network: false, ..ALL };

    fn agent(changes: &Value) -> SessionAgent {
        let mut body = json!({"name": "a", "model": "m"});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let config: AgentConfig = decode::body(&body, CreateAgent::read).unwrap().config;
        let id = AgentId::trusted("agent_a".to_owned());
        SessionAgent { primary: ThreadAgent::new(id, 1, config), multiagent: None }
    }

    #[test]
    fn each_thing_that_is_missing_has_a_code_and_nothing_else_has() {
        let cloud = |config: Value| {
            let mut whole = json!({"type": "cloud", "networking": {"type": "limited", "allowed_hosts": [],
                "allow_mcp_servers": false, "allow_package_managers": false},
                "packages": {"type": "packages", "apt": [], "cargo": [], "gem": [], "go": [], "npm": [], "pip": []}});
            whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
            serde_json::from_value::<EnvironmentConfig>(whole).unwrap()
        };
        let check = |agent: &SessionAgent, environment: Option<EnvironmentConfig>, has_outcomes, expect: &[&str]| {
            let warnings = warnings(agent, environment.as_ref(), has_outcomes, ALL);
            assert_eq!(warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), expect);
        };
        let plain = agent(&json!({}));
        let web = agent(&json!({"tools": [{"type": "agent_toolset_20260401"}]}));
        let off = json!([{"name": "web_fetch", "enabled": false}, {"name": "web_search", "enabled": false}]);
        let without = agent(&json!({"tools": [{"type": "agent_toolset_20260401", "configs": off}]}));
        let mcp = agent(&json!({
            "mcp_servers": [{"type": "url", "name": "tracker", "url": "https://mcp.example.com"}],
            "tools": [{"type": "mcp_toolset", "mcp_server_name": "tracker"}],
        }));
        let mut roster = plain.clone();
        roster.multiagent = Some(serde_json::from_value(json!({"type": "coordinator", "agents": []})).unwrap());
        let packages = json!({"packages": {"type": "packages", "apt": ["jq"], "cargo": [], "gem": [], "go": [],
            "npm": [], "pip": []}});
        check(&plain, Some(cloud(json!({}))), false, &[]);
        check(&plain, None, false, &[]);
        check(&web, Some(cloud(json!({}))), false, &[]);
        let self_hosted = EnvironmentConfig::SelfHosted(Nothing::default());
        for (fetch, search, expect) in [
            (true, false, &["web_search_not_offered"][..]),
            (false, false, &["web_fetch_not_offered", "web_search_not_offered"]),
        ] {
            for environment in [&cloud(json!({})), &self_hosted] {
                for (agent, expect) in [(&web, expect), (&without, &[])] {
                    let warnings = super::warnings(agent, Some(environment), false, Can { fetch, search, ..ALL });
                    assert_eq!(warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), expect);
                }
            }
        }
        check(&without, Some(cloud(json!({}))), false, &[]);
        check(&mcp, Some(cloud(json!({}))), false, &[]);
        check(&roster, Some(cloud(json!({}))), false, &["roster_not_started"]);
        check(&plain, Some(cloud(packages.clone())), false, &[]);
        let off = super::warnings(&plain, Some(&cloud(packages)), false, OFF);
        assert_eq!(off.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["packages_not_installed"]);
        let open = cloud(json!({"networking": {"type": "unrestricted"}}));
        check(&plain, Some(open.clone()), true, &["outcomes_not_graded"]);
        for (environment, expect) in [(open, &["network_not_available"][..]), (cloud(json!({})), &[])] {
            let off = super::warnings(&plain, Some(&environment), false, OFF);
            assert_eq!(off.iter().map(|warning| warning.code).collect::<Vec<_>>(), expect);
        }
    }
}
