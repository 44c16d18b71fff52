//! The table of operations, held against the contract and the server.

use std::collections::HashMap;

use reqwest::{Method, StatusCode};
use rota_server::http::operations::{NOT_SERVED, Operation, Who, not_served, operations};
use serde_json::json;

use crate::{
    client::{Api, invalid, not_found},
    contract::{ADMINISTRATION, MANAGED_AGENTS, OWN},
    given::id,
    server::Rota,
    workers::Site,
};

/// Every operation of the official contract: managed agents, and what administrator's keys manage.
fn of_the_contract() -> Vec<(Method, &'static str)> {
    let all = MANAGED_AGENTS.operations.iter().chain(&ADMINISTRATION.operations);
    all.map(|operation| (operation.method.parse().unwrap(), operation.path.as_str())).collect()
}

fn named(operation: &Operation) -> (Method, &'static str) {
    (operation.method.clone(), operation.path)
}

#[test]
fn every_operation_of_the_contract_is_served_or_said_not_to_be() {
    let contract = of_the_contract();
    let served: Vec<_> = operations().iter().map(named).collect();
    for (method, path) in &contract {
        let is_served = served.contains(&(method.clone(), path));
        assert_ne!(is_served, not_served(path).is_some(), "{method} {path}: it is served, or it is in NOT_SERVED");
    }
    for (method, path) in &served {
        let own = OWN.operations.iter().any(|own| own.method == method.as_str() && own.path == *path);
        assert_ne!(own, contract.contains(&(method.clone(), *path)), "{method} {path}: one contract has it");
    }
    for (beginning, what) in NOT_SERVED {
        assert!(
            contract.iter().any(|(_, path)| path.starts_with(beginning)),
            "the contract has no {beginning} ({what})"
        );
    }
    assert_eq!(served.len(), 176);
}

#[tokio::test]
async fn every_operation_of_the_table_is_there() {
    let rota = Rota::without_engine().await;
    for Operation { method, path, .. } in operations() {
        let answer = rota.api.send(method.clone(), &path.replace(['{', '}'], ""), None).await;
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        let said = answer.body["error"]["message"].as_str().unwrap_or_default();
        assert!(!["not found", "not found: "].contains(&&*said.to_lowercase()), "{method} {path}: {said}");
    }
}

#[tokio::test]
async fn what_is_not_served_says_so_with_and_without_the_beta_header() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    for (method, path) in of_the_contract() {
        let Some(what) = not_served(path) else { continue };
        let refused = not_found(format!("Not found: this server does not serve {what}"));
        let path = path.replace(['{', '}'], "");
        assert_eq!(api.send(method.clone(), &path, None).await.refusal(), refused, "{method} {path}");
        let bare = api.http.request(method.clone(), format!("{}{path}", api.base)).header("x-api-key", &api.key);
        assert_eq!(api.answer(bare).await.refusal(), refused, "{method} {path}");
    }
    for path in ["/v1/nothing", "/v1/vaultsmith", "/v2/vaults"] {
        let bare = api.http.get(format!("{}{path}", api.base)).header("x-api-key", &api.key);
        assert_eq!(api.answer(bare).await.refusal(), not_found("Not found"), "{path}: no header brings it");
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
    let (api, worker) = (everywhere(&rota).await, Site::new(&rota.api, json!({})).await.worker);
    for Operation { method, path, who, .. } in operations() {
        let api = if who == Who::Worker { &worker } else { &api };
        let required = if path.ends_with("/schedules/preview") { "expression=0+9+*+*+*&timezone=UTC&" } else { "" };
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
    let (api, worker) = (everywhere(&rota).await, Site::new(&rota.api, json!({})).await.worker);
    let served: HashMap<_, _> = operations().iter().map(|operation| (named(operation), operation.who)).collect();
    let mut parameters = 0;
    for operation in MANAGED_AGENTS.operations.iter().chain(&ADMINISTRATION.operations) {
        let method: Method = operation.method.parse().unwrap();
        let Some(who) = served.get(&(method.clone(), operation.path.as_str())) else { continue };
        let api = if *who == Who::Worker { &worker } else { &api };
        let path = operation.path.replace(['{', '}'], "");
        for parameter in operation.query.iter().map(|parameter| parameter.name.as_str()).chain(["beta"]) {
            let answer = api.send(method.clone(), &format!("{path}?{parameter}=true"), None).await;
            let said = answer.body["error"]["message"].as_str().unwrap_or_default();
            assert!(!said.contains("Extra inputs"), "{method} {path}?{parameter}: {said}");
            parameters += 1;
        }
    }
    assert!(parameters > 90, "only {parameters} were tried");
}
