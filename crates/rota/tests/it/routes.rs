//! Every operation that this server claims to have is there: those of the contract and its own.

use reqwest::{Method, StatusCode};

use crate::{
    client::{Api, invalid},
    contract::{ADMINISTRATION, MANAGED_AGENTS, Operation},
    given::id,
    server::Rota,
};

/// Resources of the contract that this server does not have yet, and parts of those that it has.
const ABSENT: [&str; 9] = [
    "/v1/dreams",
    "/v1/environments/{environment_id}/work",
    "/v1/files",
    "/v1/memory_stores",
    "/v1/sessions/{session_id}/resources",
    "/v1/skills",
    "/v1/tunnels",
    "/v1/user_profiles",
    "/v1/vaults",
];

/// What the server has of the organization's own resources.
const ADMINISTERED: [&str; 6] = [
    "/v1/organizations/api_keys",
    "/v1/organizations/api_keys/{api_key_id}",
    "/v1/organizations/me",
    "/v1/organizations/workspaces",
    "/v1/organizations/workspaces/{workspace_id}",
    "/v1/organizations/workspaces/{workspace_id}/archive",
];

/// What the server has beside the contract.
const OWN: [(Method, &str); 15] = [
    (Method::GET, "/rota/v1/deployment_runs/{deployment_run_id}"),
    (Method::GET, "/rota/v1/deployments/{deployment_id}/occurrences"),
    (Method::GET, "/rota/v1/deployments/{deployment_id}/policy"),
    (Method::POST, "/rota/v1/deployments/{deployment_id}/policy"),
    (Method::GET, "/rota/v1/schedules/preview"),
    (Method::GET, "/rota/v1/sessions/{session_id}"),
    (Method::GET, "/rota/v1/webhook_endpoints"),
    (Method::POST, "/rota/v1/webhook_endpoints"),
    (Method::GET, "/rota/v1/webhook_endpoints/{webhook_endpoint_id}"),
    (Method::POST, "/rota/v1/webhook_endpoints/{webhook_endpoint_id}"),
    (Method::DELETE, "/rota/v1/webhook_endpoints/{webhook_endpoint_id}"),
    (Method::GET, "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries"),
    (Method::GET, "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}"),
    (Method::POST, "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/deliveries/{webhook_event_id}/replay"),
    (Method::POST, "/rota/v1/webhook_endpoints/{webhook_endpoint_id}/regenerate_signing_secret"),
];

/// Every operation that the server has.
pub fn served() -> Vec<(Method, &'static str)> {
    of_the_contract().into_iter().chain(administration()).chain(OWN).collect()
}

/// The operations of the contract that the server has.
fn of_the_contract() -> Vec<(Method, &'static str)> {
    let operations = MANAGED_AGENTS.operations.iter();
    let present = operations.filter(|operation| !ABSENT.iter().any(|absent| operation.path.starts_with(absent)));
    present.map(named).collect()
}

/// The operations on the organization's own resources that the server has. They need an administrator's key.
pub fn administration() -> Vec<(Method, &'static str)> {
    let operations = ADMINISTRATION.operations.iter();
    operations.filter(|operation| ADMINISTERED.contains(&operation.path.as_str())).map(named).collect()
}

fn named(operation: &'static Operation) -> (Method, &'static str) {
    (operation.method.parse().unwrap(), operation.path.as_str())
}

#[tokio::test]
async fn every_operation_is_served() {
    let rota = Rota::without_engine().await;
    let operations = of_the_contract();
    assert_eq!(operations.len(), 38, "{operations:#?}");
    assert_eq!(administration().len(), 9);
    for (method, path) in served() {
        let path = path.replace(['{', '}'], "");
        let answer = rota.api.send(method.clone(), &path, None).await;
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_ne!(answer.body["error"]["message"], "Not found", "{method} {path}");
    }
}

/// A client that every operation lets in.
async fn everywhere(rota: &Rota) -> Api {
    let workspaces = rota.administrator().await.get("/v1/organizations/workspaces?include_default=true").await;
    rota.administrator().await.in_workspace(id(&workspaces["data"][0]))
}

#[tokio::test]
async fn a_parameter_that_an_operation_does_not_have_is_refused_by_every_operation_in_the_same_words() {
    let rota = Rota::without_engine().await;
    let api = everywhere(&rota).await;
    for (method, path) in served() {
        let required = if path.ends_with("/preview") { "expression=0+9+*+*+*&timezone=UTC&" } else { "" };
        let path = path.replace(['{', '}'], "");
        for (query, named) in [("colour=red", "colour"), ("beta=true&colour=", "colour"), ("include=1", "include")] {
            let answer = api.send(method.clone(), &format!("{path}?{required}{query}"), None).await;
            let refused = invalid(format!("{named}: Extra inputs are not permitted"));
            assert_eq!(answer.refusal(), refused, "{method} {path}?{query}");
        }
    }
}

#[tokio::test]
async fn every_parameter_of_the_contract_is_taken_and_so_is_what_the_sdks_send_with_each_request() {
    let rota = Rota::without_engine().await;
    let api = everywhere(&rota).await;
    let operations = MANAGED_AGENTS.operations.iter().chain(&ADMINISTRATION.operations);
    let served = served();
    let mut parameters = 0;
    for operation in operations.filter(|operation| served.contains(&named(operation))) {
        let (method, path) = named(operation);
        let path = path.replace(['{', '}'], "");
        for parameter in operation.query.iter().map(String::as_str).chain(["beta"]) {
            let answer = api.send(method.clone(), &format!("{path}?{parameter}=true"), None).await;
            let said = answer.body["error"]["message"].as_str().unwrap_or_default();
            assert!(!said.contains("Extra inputs"), "{method} {path}?{parameter}: {said}");
            parameters += 1;
        }
    }
    assert!(parameters > 90, "only {parameters} were tried");
}
