//! Every operation of the API, one line each. The router is made from this table; so are the list in
//! `docs/compatibility.md` and the tests that walk every operation.

use std::{collections::HashMap, sync::LazyLock};

use axum::{
    handler::Handler,
    routing::{self, MethodRouter},
};
use http::Method;

use crate::{
    app::App,
    resources::{
        agents, api_keys, archiving, attention, audit, credentials, deployment_runs, deployments, dreams, egress,
        environment_keys, environments, files, hooks, images,
        memory_stores::{self, memories, versions},
        models, organization, retention, run_outcomes, run_sums, runs, schedule_holds, schedules, session_states,
        sessions::{self, events, resources as session_resources},
        skills, threads, tunnels, user_profiles, vaults, webhook_endpoints, work, workspaces,
    },
};

/// Something to call.
pub struct Operation {
    /// `GET`, `POST` or `DELETE`.
    pub method: Method,
    /// With the names of its parameters in braces.
    pub path: &'static str,
    /// Whose key it takes. The handler's signature decides; the tests hold this line to it.
    pub who: Who,
    /// Whether the request has a JSON body.
    pub has_body: bool,
    /// Whether it has files in its body, which the handler reads piece by piece.
    pub uploads: bool,
    /// Whether the request must name the beta. It is the same for all operations of a path.
    pub beta: Beta,
    pub(super) handler: MethodRouter<App>,
}

/// Whose key an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// That of a workspace, or an administrator's that names one. One that changes something is refused in a workspace
    /// that is archived or switched off.
    Workspace,
    /// The same, also where nothing may be changed any more: the answer records why nothing started.
    Starter,
    /// That of a workspace, or a worker's: the key of an environment, or the token that came with its work.
    WorkspaceOrWorker,
    /// A worker's.
    Worker,
    /// An administrator's.
    Administrator,
    /// None: whoever signs with the secret of what the path names.
    Signed,
    /// That of a workspace, which it is about, or an administrator's: then it is about all, or the one that is named.
    Reader,
}

/// Whether a request must name the managed agents beta, or another, in its `anthropic-beta` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beta {
    /// It must.
    Required,
    /// It must name this one instead.
    Named(&'static str),
    /// It must, or the beta of memory stores in its place.
    AgentMemory,
    /// It may.
    Optional,
}

/// Every operation that the server has, by path.
pub fn operations() -> Vec<Operation> {
    use Beta::{AgentMemory, Named, Optional, Required};
    use Who::{Administrator, Reader, Signed, Starter, Worker, Workspace, WorkspaceOrWorker};

    const ARCHIVE_CREDENTIAL: &str = "/v1/vaults/{vault_id}/credentials/{credential_id}/archive";
    const CREDENTIAL: &str = "/v1/vaults/{vault_id}/credentials/{credential_id}";
    const VALIDATE_CREDENTIAL: &str = "/v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate";
    const ENDPOINT: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}";
    const DELIVERIES: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries";
    const DELIVERY: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}";
    const REPLAY: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}/replay";
    const SECRET: &str = "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/regenerate_signing_secret";
    const RESOURCE: &str = "/v1/sessions/{session_id}/resources/{resource_id}";
    const DATA_CONTROLS: &str = "/v1/user_profiles/{user_profile_id}/providers/google/data_controls";
    const GOOGLE: Beta = Named("google-managed-data-controls-2026-09-01");
    const ENROLLMENT: &str = "/v1/user_profiles/{user_profile_id}/enrollment_url";
    const DREAMS: Beta = Named("dreaming-2026-04-21");
    const TUNNELS: Beta = Named("mcp-tunnels-2026-06-22");
    const CERTIFICATE: &str = "/v1/tunnels/{tunnel_id}/certificates/{certificate_id}";
    const ARCHIVED_CERTIFICATE: &str = "/v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive";
    const STORE: &str = "/v1/memory_stores/{memory_store_id}";
    const MEMORIES: &str = "/v1/memory_stores/{memory_store_id}/memories";
    const MEMORY: &str = "/v1/memory_stores/{memory_store_id}/memories/{memory_id}";
    const VERSIONS: &str = "/v1/memory_stores/{memory_store_id}/memory_versions";
    const VERSION: &str = "/v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}";
    const REDACT: &str = "/v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact";
    const SKILL_VERSION: &str = "/v1/skills/{skill_id}/versions/{version}";
    const KEYS: &str = "/rota/v1/environments/{environment_id}/keys";
    const REVOKE: &str = "/rota/v1/environments/{environment_id}/keys/{environment_key_id}/revoke";
    const IMAGE: &str = "/rota/v1/environments/{environment_id}/image";
    const WORK: &str = "/v1/environments/{environment_id}/work/{work_id}";
    const OCCURRENCES: &str = "/rota/v1/deployments/{deployment_id}/occurrences";
    const BACKFILL: &str = "/rota/v1/deployments/{deployment_id}/backfill";
    const HOOKS: &str = "/rota/v1/deployments/{deployment_id}/hooks";
    const RERUN: &str = "/rota/v1/runs/{deployment_run_id}/rerun";

    vec![
        get("/rota/v1/attention", Workspace, Optional, attention::list),
        get("/rota/v1/audit", Reader, Optional, audit::list),
        get("/rota/v1/deployment_runs/{deployment_run_id}", Workspace, Optional, run_outcomes::retrieve),
        post(BACKFILL, Workspace, Optional, deployments::starts::backfill),
        get(HOOKS, Workspace, Optional, hooks::list),
        post(HOOKS, Workspace, Optional, hooks::create),
        get(OCCURRENCES, Workspace, Optional, deployments::occurrences::list),
        get("/rota/v1/deployments/{deployment_id}/policy", Workspace, Optional, deployments::policy::get),
        post("/rota/v1/deployments/{deployment_id}/policy", Workspace, Optional, deployments::policy::set),
        post("/rota/v1/deployments/{deployment_id}/runs", Workspace, Optional, deployments::starts::create),
        get("/rota/v1/deployments/{deployment_id}/starts", Workspace, Optional, deployments::starts::list),
        get("/rota/v1/deployments/{deployment_id}/retention", Workspace, Optional, retention::of_deployment),
        post("/rota/v1/deployments/{deployment_id}/retention", Workspace, Optional, retention::set_of_deployment),
        get(KEYS, Workspace, Optional, environment_keys::list),
        post(KEYS, Workspace, Optional, environment_keys::create),
        call(REVOKE, Workspace, Optional, environment_keys::revoke),
        get(IMAGE, Workspace, Optional, images::of_environment),
        post(IMAGE, Workspace, Optional, images::set),
        get("/rota/v1/environments/{environment_id}/build", Workspace, Optional, images::build),
        get("/rota/v1/hooks/{hook_id}", Workspace, Optional, hooks::retrieve),
        call("/rota/v1/hooks/{hook_id}", Signed, Optional, hooks::receive),
        delete("/rota/v1/hooks/{hook_id}", Workspace, Optional, hooks::delete),
        post("/rota/v1/hooks/{hook_id}/rotate", Workspace, Optional, hooks::rotate),
        get("/rota/v1/images", Workspace, Optional, images::list),
        get("/rota/v1/retention", Workspace, Optional, retention::of_workspace),
        post("/rota/v1/retention", Workspace, Optional, retention::set_of_workspace),
        get("/rota/v1/retention/preview", Workspace, Optional, retention::preview_of_workspace),
        get("/rota/v1/runs", Workspace, Optional, runs::list),
        call(RERUN, Workspace, Optional, deployments::starts::rerun),
        get("/rota/v1/runs/sums", Workspace, Optional, run_sums::list),
        get("/rota/v1/schedules/hold", Administrator, Optional, schedule_holds::retrieve),
        call("/rota/v1/schedules/hold", Administrator, Optional, schedule_holds::hold_all),
        get("/rota/v1/schedules/preview", Workspace, Optional, schedules::preview),
        call("/rota/v1/schedules/release", Administrator, Optional, schedule_holds::release_all),
        get("/rota/v1/sessions", Workspace, Optional, session_states::list),
        get("/rota/v1/sessions/{session_id}", Workspace, Optional, sessions::warnings::retrieve),
        get("/rota/v1/sessions/{session_id}/egress", Workspace, Optional, egress::list),
        get("/rota/v1/starts/{start_id}", Workspace, Optional, deployments::starts::retrieve),
        call("/rota/v1/starts/{start_id}/cancel", Workspace, Optional, deployments::starts::cancel),
        get("/rota/v1/tunnels/{tunnel_id}", Workspace, Optional, tunnels::status),
        get("/rota/v1/webhook_endpoints", Workspace, Optional, webhook_endpoints::list),
        post("/rota/v1/webhook_endpoints", Workspace, Optional, webhook_endpoints::create),
        get(ENDPOINT, Workspace, Optional, webhook_endpoints::retrieve),
        post(ENDPOINT, Workspace, Optional, webhook_endpoints::update),
        delete(ENDPOINT, Workspace, Optional, webhook_endpoints::delete),
        get(DELIVERIES, Workspace, Optional, webhook_endpoints::deliveries::list),
        get(DELIVERY, Workspace, Optional, webhook_endpoints::deliveries::retrieve),
        call(REPLAY, Workspace, Optional, webhook_endpoints::deliveries::replay),
        call(SECRET, Workspace, Optional, webhook_endpoints::regenerate_signing_secret),
        call("/rota/v1/workspaces/{workspace_id}/schedules/hold", Administrator, Optional, schedule_holds::hold_of),
        call(
            "/rota/v1/workspaces/{workspace_id}/schedules/release",
            Administrator,
            Optional,
            schedule_holds::release_of,
        ),
        get("/v1/agents", Workspace, Required, agents::list),
        post("/v1/agents", Workspace, Required, agents::create),
        get("/v1/agents/{agent_id}", Workspace, Required, agents::retrieve),
        post("/v1/agents/{agent_id}", Workspace, Required, agents::update),
        call("/v1/agents/{agent_id}/archive", Workspace, Required, archiving::agent),
        get("/v1/agents/{agent_id}/versions", Workspace, Required, agents::versions),
        get("/v1/deployment_runs", Workspace, Required, deployment_runs::list),
        get("/v1/deployment_runs/{deployment_run_id}", Workspace, Required, deployment_runs::retrieve),
        get("/v1/deployments", Workspace, Required, deployments::list),
        post("/v1/deployments", Workspace, Required, deployments::create),
        get("/v1/deployments/{deployment_id}", Workspace, Required, deployments::retrieve),
        post("/v1/deployments/{deployment_id}", Workspace, Required, deployments::update),
        call("/v1/deployments/{deployment_id}/archive", Workspace, Required, deployments::archive),
        call("/v1/deployments/{deployment_id}/pause", Workspace, Required, deployments::pause),
        call("/v1/deployments/{deployment_id}/run", Starter, Required, deployments::run),
        call("/v1/deployments/{deployment_id}/unpause", Workspace, Required, deployments::unpause),
        get("/v1/dreams", Workspace, DREAMS, dreams::list),
        post("/v1/dreams", Workspace, DREAMS, dreams::create),
        get("/v1/dreams/{dream_id}", Workspace, DREAMS, dreams::retrieve),
        call("/v1/dreams/{dream_id}/archive", Workspace, DREAMS, dreams::archive),
        call("/v1/dreams/{dream_id}/cancel", Workspace, DREAMS, dreams::cancel),
        get("/v1/environments", Workspace, Required, environments::list),
        post("/v1/environments", Workspace, Required, environments::create),
        get("/v1/environments/{environment_id}", Workspace, Required, environments::retrieve),
        post("/v1/environments/{environment_id}", Workspace, Required, environments::update),
        delete("/v1/environments/{environment_id}", Workspace, Required, archiving::delete_environment),
        call("/v1/environments/{environment_id}/archive", Workspace, Required, environments::archive),
        get("/v1/files", Workspace, Optional, files::list),
        upload("/v1/files", Workspace, Optional, files::upload),
        get("/v1/files/{file_id}", Workspace, Optional, files::retrieve),
        delete("/v1/files/{file_id}", Workspace, Optional, files::delete),
        get("/v1/files/{file_id}/content", Workspace, Optional, files::content),
        get("/v1/memory_stores", Workspace, AgentMemory, memory_stores::list),
        post("/v1/memory_stores", Workspace, AgentMemory, memory_stores::create),
        get(STORE, Workspace, AgentMemory, memory_stores::retrieve),
        post(STORE, Workspace, AgentMemory, memory_stores::update),
        delete(STORE, Workspace, AgentMemory, memory_stores::delete),
        call("/v1/memory_stores/{memory_store_id}/archive", Workspace, AgentMemory, memory_stores::archive),
        get(MEMORIES, WorkspaceOrWorker, AgentMemory, memories::list),
        post(MEMORIES, WorkspaceOrWorker, AgentMemory, memories::create),
        get(MEMORY, WorkspaceOrWorker, AgentMemory, memories::retrieve),
        post(MEMORY, WorkspaceOrWorker, AgentMemory, memories::update),
        delete(MEMORY, WorkspaceOrWorker, AgentMemory, memories::delete),
        get(VERSIONS, Workspace, AgentMemory, versions::list),
        get(VERSION, Workspace, AgentMemory, versions::retrieve),
        call(REDACT, Workspace, AgentMemory, versions::redact),
        get("/v1/environments/{environment_id}/work", Worker, Required, work::list),
        get("/v1/environments/{environment_id}/work/poll", Worker, Required, work::poll),
        get("/v1/environments/{environment_id}/work/stats", WorkspaceOrWorker, Required, work::stats),
        get(WORK, Workspace, Required, work::retrieve),
        post(WORK, Workspace, Required, work::update),
        call("/v1/environments/{environment_id}/work/{work_id}/ack", Worker, Required, work::ack),
        call("/v1/environments/{environment_id}/work/{work_id}/heartbeat", Worker, Required, work::heartbeat),
        post("/v1/environments/{environment_id}/work/{work_id}/stop", WorkspaceOrWorker, Required, work::stop),
        get("/v1/models", Workspace, Optional, models::list),
        get("/v1/models/{model_id}", Workspace, Optional, models::retrieve),
        get("/v1/organizations/api_keys", Administrator, Optional, api_keys::list),
        get("/v1/organizations/api_keys/{api_key_id}", Administrator, Optional, api_keys::retrieve),
        post("/v1/organizations/api_keys/{api_key_id}", Administrator, Optional, api_keys::update),
        get("/v1/organizations/me", Administrator, Optional, organization::retrieve),
        get("/v1/organizations/workspaces", Administrator, Optional, workspaces::list),
        post("/v1/organizations/workspaces", Administrator, Optional, workspaces::create),
        get("/v1/organizations/workspaces/{workspace_id}", Administrator, Optional, workspaces::retrieve),
        post("/v1/organizations/workspaces/{workspace_id}", Administrator, Optional, workspaces::update),
        call("/v1/organizations/workspaces/{workspace_id}/archive", Administrator, Optional, archiving::workspace),
        get("/v1/sessions", Workspace, Required, sessions::list),
        post("/v1/sessions", Workspace, Required, sessions::create),
        get("/v1/sessions/{session_id}", WorkspaceOrWorker, Required, sessions::retrieve),
        post("/v1/sessions/{session_id}", Workspace, Required, sessions::update),
        delete("/v1/sessions/{session_id}", Workspace, Required, sessions::delete),
        call("/v1/sessions/{session_id}/archive", Workspace, Required, sessions::archive),
        get("/v1/sessions/{session_id}/events", WorkspaceOrWorker, Required, events::list),
        post("/v1/sessions/{session_id}/events", WorkspaceOrWorker, Required, events::send),
        get("/v1/sessions/{session_id}/events/stream", WorkspaceOrWorker, Required, events::stream::open),
        get("/v1/sessions/{session_id}/resources", Workspace, Required, session_resources::list),
        post("/v1/sessions/{session_id}/resources", Workspace, Required, session_resources::add),
        get(RESOURCE, Workspace, Required, session_resources::retrieve),
        post(RESOURCE, Workspace, Required, session_resources::update),
        delete(RESOURCE, Workspace, Required, session_resources::delete),
        get("/v1/sessions/{session_id}/threads", Workspace, Required, threads::list),
        get("/v1/sessions/{session_id}/threads/{thread_id}", Workspace, Required, threads::retrieve),
        call("/v1/sessions/{session_id}/threads/{thread_id}/archive", Workspace, Required, threads::archive),
        get("/v1/sessions/{session_id}/threads/{thread_id}/events", Workspace, Required, threads::events),
        get("/v1/sessions/{session_id}/threads/{thread_id}/stream", Workspace, Required, threads::stream),
        get("/v1/skills", Workspace, Optional, skills::list),
        form("/v1/skills", Workspace, Optional, skills::create),
        get("/v1/skills/{skill_id}", Workspace, Optional, skills::retrieve),
        delete("/v1/skills/{skill_id}", Workspace, Optional, skills::delete),
        get("/v1/skills/{skill_id}/versions", Workspace, Optional, skills::list_versions),
        form("/v1/skills/{skill_id}/versions", Workspace, Optional, skills::create_version),
        get(SKILL_VERSION, WorkspaceOrWorker, Optional, skills::retrieve_version),
        delete(SKILL_VERSION, Workspace, Optional, skills::delete_version),
        get("/v1/skills/{skill_id}/versions/{version}/content", WorkspaceOrWorker, Optional, skills::download),
        get("/v1/vaults", Workspace, Required, vaults::list),
        post("/v1/vaults", Workspace, Required, vaults::create),
        get("/v1/vaults/{vault_id}", Workspace, Required, vaults::retrieve),
        post("/v1/vaults/{vault_id}", Workspace, Required, vaults::update),
        delete("/v1/vaults/{vault_id}", Workspace, Required, vaults::delete),
        call("/v1/vaults/{vault_id}/archive", Workspace, Required, vaults::archive),
        get("/v1/vaults/{vault_id}/credentials", Workspace, Required, credentials::list),
        post("/v1/vaults/{vault_id}/credentials", Workspace, Required, credentials::create),
        get(CREDENTIAL, Workspace, Required, credentials::retrieve),
        post(CREDENTIAL, Workspace, Required, credentials::update),
        delete(CREDENTIAL, Workspace, Required, credentials::delete),
        call(ARCHIVE_CREDENTIAL, Workspace, Required, credentials::archive),
        call(VALIDATE_CREDENTIAL, Workspace, Required, credentials::validate),
        get("/v1/tunnels", Workspace, TUNNELS, tunnels::list),
        post("/v1/tunnels", Workspace, TUNNELS, tunnels::create),
        get("/v1/tunnels/{tunnel_id}", Workspace, TUNNELS, tunnels::retrieve),
        call("/v1/tunnels/{tunnel_id}/archive", Workspace, TUNNELS, tunnels::archive),
        get("/v1/tunnels/{tunnel_id}/certificates", Workspace, TUNNELS, tunnels::certificates::list),
        post("/v1/tunnels/{tunnel_id}/certificates", Workspace, TUNNELS, tunnels::certificates::create),
        get(CERTIFICATE, Workspace, TUNNELS, tunnels::certificates::retrieve),
        call(ARCHIVED_CERTIFICATE, Workspace, TUNNELS, tunnels::certificates::archive),
        call("/v1/tunnels/{tunnel_id}/reveal_token", Workspace, TUNNELS, tunnels::reveal_token),
        post("/v1/tunnels/{tunnel_id}/rotate_token", Workspace, TUNNELS, tunnels::rotate_token),
        get("/v1/user_profiles", Workspace, Optional, user_profiles::list),
        post("/v1/user_profiles", Workspace, Optional, user_profiles::create),
        get("/v1/user_profiles/{user_profile_id}", Workspace, Optional, user_profiles::retrieve),
        post("/v1/user_profiles/{user_profile_id}", Workspace, Optional, user_profiles::update),
        delete("/v1/user_profiles/{user_profile_id}", Workspace, Optional, user_profiles::delete),
        post("/v1/user_profiles/{user_profile_id}/action_urls", Workspace, Optional, user_profiles::create_action_url),
        call(ENROLLMENT, Workspace, Optional, user_profiles::create_enrollment_url),
        get(DATA_CONTROLS, Workspace, GOOGLE, user_profiles::data_controls),
        post(DATA_CONTROLS, Workspace, GOOGLE, user_profiles::update_data_controls),
    ]
}

/// What the API has and this server does not: how its paths begin, and what stands there. An operation that comes to be
/// served moves from here to the table above.
pub const NOT_SERVED: [(&str, &str); 12] = [
    ("/v1/organizations/federation_issuers", "federation"),
    ("/v1/organizations/federation_rules", "federation"),
    ("/v1/organizations/invites", "invites"),
    ("/v1/organizations/rate_limits", "rate limits of the organization"),
    ("/v1/organizations/service_accounts", "service accounts"),
    ("/v1/organizations/spend_limits", "spend limits"),
    ("/v1/organizations/telemetry_destinations", "telemetry destinations"),
    ("/v1/organizations/users", "users"),
    (
        "/v1/organizations/webhooks",
        "webhooks of the organization; those of a workspace are at /rota/v1/webhook_endpoints",
    ),
    ("/v1/organizations/workspaces/{workspace_id}/members", "members of workspaces"),
    ("/v1/organizations/workspaces/{workspace_id}/rate_limits", "rate limits of workspaces"),
    ("/v1/organizations/workspaces/{workspace_id}/service_accounts", "service accounts"),
];

/// What operations of the table lack of what the API says of them: the method, the path and what is missing.
pub const PARTIAL: [(&str, &str, &str); 9] = [
    ("POST", "/v1/agents", "rosters are stored and not used"),
    ("POST", "/v1/agents/{agent_id}", "rosters are stored and not used"),
    ("POST", "/v1/deployments", "budgets are refused"),
    ("POST", "/v1/deployments/{deployment_id}", "budgets are refused"),
    ("POST", "/v1/sessions", "budgets are refused"),
    ("POST", "/v1/sessions/{session_id}", "budgets are refused"),
    ("POST", "/v1/sessions/{session_id}/events", "outcomes are worked towards and not graded"),
    (
        "POST",
        "/v1/user_profiles/{user_profile_id}/action_urls",
        "always refused: the pages that such a URL leads to are the vendor's",
    ),
    (
        "POST",
        "/v1/user_profiles/{user_profile_id}/enrollment_url",
        "always refused: the pages that such a URL leads to are the vendor's",
    ),
];

/// What the API has at `path`, when this server does not serve it.
pub fn not_served(path: &str) -> Option<&'static str> {
    let begins = |beginning: &str| {
        let mut segments = path.split('/');
        beginning
            .split('/')
            .all(|wanted| segments.next().is_some_and(|given| wanted.starts_with('{') || wanted == given))
    };
    NOT_SERVED.iter().find(|(beginning, _)| begins(beginning)).map(|(_, what)| *what)
}

/// The beta rule of a path of the table.
pub(super) fn beta(path: &str) -> Option<Beta> {
    static RULES: LazyLock<HashMap<&str, Beta>> =
        LazyLock::new(|| operations().into_iter().map(|operation| (operation.path, operation.beta)).collect());
    RULES.get(path).copied()
}

/// Whether a method of a path of the table takes files in its body.
pub(super) fn uploads(method: &Method, path: &str) -> bool {
    static UPLOADS: LazyLock<Vec<(Method, &str)>> = LazyLock::new(|| {
        let operations = operations().into_iter().filter(|operation| operation.uploads);
        operations.map(|operation| (operation.method, operation.path)).collect()
    });
    UPLOADS.iter().any(|(uploads, at)| uploads == method && *at == path)
}

/// Whether a method of a path of the table takes no key, but a signature.
pub(super) fn is_signed(method: &Method, path: &str) -> bool {
    static SIGNED: LazyLock<Vec<(Method, &str)>> = LazyLock::new(|| {
        let operations = operations().into_iter().filter(|operation| operation.who == Who::Signed);
        operations.map(|operation| (operation.method, operation.path)).collect()
    });
    SIGNED.iter().any(|(signed, at)| signed == method && *at == path)
}

fn get<T: 'static>(path: &'static str, who: Who, beta: Beta, handler: impl Handler<T, App>) -> Operation {
    Operation { method: Method::GET, path, who, has_body: false, uploads: false, beta, handler: routing::get(handler) }
}

fn post<T: 'static>(path: &'static str, who: Who, beta: Beta, handler: impl Handler<T, App>) -> Operation {
    Operation { method: Method::POST, path, who, has_body: true, uploads: false, beta, handler: routing::post(handler) }
}

/// A `POST` without a body.
fn call<T: 'static>(path: &'static str, who: Who, beta: Beta, handler: impl Handler<T, App>) -> Operation {
    Operation {
        method: Method::POST,
        path,
        who,
        has_body: false,
        uploads: false,
        beta,
        handler: routing::post(handler),
    }
}

/// A `POST` with files in its body that are small enough to be in memory: the body is there before the handler acts.
fn form<T: 'static>(path: &'static str, who: Who, beta: Beta, handler: impl Handler<T, App>) -> Operation {
    call(path, who, beta, handler)
}

/// A `POST` with files in its body.
fn upload<T: 'static>(path: &'static str, who: Who, beta: Beta, handler: impl Handler<T, App>) -> Operation {
    Operation { uploads: true, ..call(path, who, beta, handler) }
}

fn delete<T: 'static>(path: &'static str, who: Who, beta: Beta, handler: impl Handler<T, App>) -> Operation {
    Operation {
        method: Method::DELETE,
        path,
        who,
        has_body: false,
        uploads: false,
        beta,
        handler: routing::delete(handler),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_beta_rule_holds_for_all_operations_of_a_path() {
        for operation in operations() {
            assert_eq!(beta(operation.path), Some(operation.beta), "{} {}", operation.method, operation.path);
        }
    }

    #[test]
    fn what_is_not_served_is_known_by_the_beginning_of_its_path() {
        for (path, what) in [
            ("/v1/organizations/invites", Some("invites")),
            ("/v1/organizations/invites/invite_1", Some("invites")),
            ("/v1/organizations/invitesystem", None),
            ("/v1/organizations/workspaces/wrkspc_1/members/user_1", Some("members of workspaces")),
            ("/v1/organizations/workspaces/wrkspc_1/nothing", None),
            ("/v1", None),
        ] {
            assert_eq!(not_served(path), what, "{path}");
        }
    }
}
