//! Thousands of requests that are almost right: each is answered in the API's own words, and none is the server's fault.
//!
//! `ROTA_ODD_INPUTS` says how many are sent, and `ROTA_ODD_INPUTS_SEED` from which number they are made.

use std::{collections::BTreeMap, env};

use reqwest::Method;
use rota_server::http::operations::operations;
use serde_json::{Map, Value, json};

use crate::{
    access::{filled, one_of_each},
    client::{Api, ENDPOINTS},
    given::{message, over, toolset},
    server::Rota,
    simulation::dice::Dice,
};

/// Inputs that are sent unless `ROTA_ODD_INPUTS` says otherwise.
const INPUTS: u64 = 2_000;

/// Pieces of text where something else is expected.
const TEXTS: [&str; 12] = [
    "",
    " ",
    "\u{0}",
    "\u{feff}",
    "\u{202e}abc",
    "ÅÄÖ",
    "🦀",
    "a\nb",
    "%00",
    "'; DROP TABLE sessions; --",
    "../../etc/passwd",
    "99999999999999999999",
];
/// Pieces of paths, percent-encoded.
const SEGMENTS: [&str; 8] = ["%00", "..%2f..", "%ff", "agent_", "agent_%C3%A9", "%20", "session_0", "-1"];
/// Parameters that some operation has, and one that none has.
const PARAMETERS: [&str; 10] = [
    "limit",
    "page",
    "order",
    "include_archived",
    "created_at[gte]",
    "created_at[lt]",
    "statuses[]",
    "agent_id",
    "version",
    "color",
];
const VALUES: [&str; 12] = [
    "",
    "0",
    "-1",
    "1",
    "101",
    "99999999999999999999",
    "1.5",
    "true",
    "%FF",
    "%00",
    "page_AAAA",
    "2026-13-45T00:00:00Z",
];

/// A body that the operation accepts, or nearly so, with every kind of field that it has.
fn body(path: &str, ids: &BTreeMap<&str, String>) -> Value {
    let (agent, environment) = (&ids["{agent_id}"], &ids["{environment_id}"]);
    let first = json!([message("hi"), {"type": "user.define_outcome", "description": "d", "max_iterations": 3}]);
    let session = json!({"agent": {"type": "agent", "id": agent, "version": 1}, "environment_id": environment,
        "title": "t", "metadata": {"k": "v"}, "vault_ids": [], "resources": [], "initial_events": first});
    let deployment = json!({"name": "n", "schedule": {"expression": "0 9 * * *", "timezone": "Europe/Berlin"}});
    if path.starts_with("/v1/agents") {
        let custom = json!({"type": "custom", "name": "c", "description": "d", "input_schema": {"type": "object"}});
        json!({"name": "n", "model": {"id": "playbook"}, "system": "s", "description": "d", "version": 1,
            "tools": [toolset(), custom], "mcp_servers": [], "skills": [], "metadata": {"k": "v"}})
    } else if path.starts_with("/v1/environments") {
        let networking = json!({"type": "limited", "allowed_hosts": ["example.com"], "allow_mcp_servers": true});
        json!({"name": "n", "description": "d", "metadata": {"k": "v"},
            "config": {"type": "cloud", "networking": networking, "packages": {"pip": ["numpy"]}}})
    } else if path.ends_with("/events") {
        json!({ "events": first })
    } else if path.ends_with("/policy") {
        json!({"overlap": "skip", "catch_up": "latest"})
    } else if path.starts_with("/v1/deployments") {
        over(session, &deployment)
    } else if path.starts_with(ENDPOINTS) {
        json!({"url": "https://hooks.invalid/", "enabled_events": ["agent.created"], "description": "d"})
    } else {
        session
    }
}

/// Where each node of `value` is.
fn nodes(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| nodes(item, &format!("{at}/{index}"), found));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            nodes(field, &format!("{at}/{name}"), found);
        }),
        _ => {}
    }
}

/// What stands where something else is expected.
fn odd(dice: &mut Dice) -> Value {
    match dice.within(0..12) {
        0 => Value::Null,
        1 => json!(dice.chance(50)),
        2 => json!(dice.one_of(&[-1, 0, 1, i64::MAX, i64::MIN])),
        3 => json!(dice.one_of(&[0.5, -0.0, 1e300, 5e-324])),
        4 => json!([]),
        5 => json!({}),
        6 => (0..100).fold(json!(1), |inner, _| json!([inner])),
        7 => json!("x".repeat(dice.one_of(&[300, 5_000, 70_000]))),
        8 => json!((0..600).collect::<Vec<_>>()),
        9 => json!({"type": dice.one_of(&TEXTS)}),
        _ => json!(dice.one_of(&TEXTS)),
    }
}

/// Changes one node.
fn change(body: &mut Value, dice: &mut Dice) {
    let mut all = Vec::new();
    nodes(body, "", &mut all);
    let node = body.pointer_mut(&all[dice.place(all.len()).unwrap()]).unwrap();
    match (dice.within(0..4), node) {
        (0, Value::Object(fields)) => drop(fields.insert(dice.one_of(&TEXTS).to_owned(), odd(dice))),
        (1, Value::Object(fields)) => {
            let name = dice.place(fields.len()).and_then(|place| fields.keys().nth(place).cloned());
            *fields = std::mem::take(fields)
                .into_iter()
                .filter(|(field, _)| Some(field) != name.as_ref())
                .collect::<Map<_, _>>();
        }
        (2, Value::Array(items)) if !items.is_empty() => {
            let item = items[0].clone();
            items.resize(dice.one_of(&[2, 21, 129, 501]), item);
        }
        (_, node) => *node = odd(dice),
    }
}

/// Damages text that was JSON.
fn damage(text: String, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    let place = dice.place(bytes.len()).unwrap();
    match dice.within(0..4) {
        0 => bytes.truncate(place),
        1 => bytes[place] = dice.next() as u8,
        2 => drop(bytes.splice(place..place, *b"\"\\ud800\"")),
        _ => drop(bytes.splice(place..place, *b"1e999")),
    }
    bytes
}

/// Sends one input. What the answer is held to stands in [`Api::answer`].
async fn send(api: &Api, method: &Method, path: &str, ids: &BTreeMap<&str, String>, dice: &mut Dice) {
    let ends = *method == Method::DELETE || path.ends_with("/archive");
    let mut path = path.to_owned();
    if ends || dice.chance(10) {
        let mut segments: Vec<&str> = path.split('/').collect();
        let place = dice.within(2..segments.len() as i64) as usize;
        segments[place] = dice.one_of(&SEGMENTS);
        path = segments.join("/");
    }
    if dice.chance(if *method == Method::GET { 90 } else { 10 }) {
        let mut parameter = || format!("{}={}", dice.one_of(&PARAMETERS), dice.one_of(&VALUES));
        path = format!("{path}?{}&{}", parameter(), parameter());
    }
    let mut request = api.request(method.clone(), &path).header("content-type", "application/json");
    if *method == Method::POST {
        let mut body = body(&path, ids);
        (0..dice.within(1..4)).for_each(|_| change(&mut body, dice));
        let text = body.to_string();
        request = request.body(if dice.chance(20) { damage(text, dice) } else { text.into_bytes() });
    }
    let answer = api.answer(request).await;
    assert!(!answer.status.is_server_error(), "{method} {path}: {}", answer.body);
    assert!(
        !answer.body.to_string().contains("/rota-"),
        "{method} {path} names a place of the server: {}",
        answer.body
    );
}

#[tokio::test]
async fn nothing_that_a_client_sends_is_a_fault_of_the_server() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("ROTA_ODD_INPUTS_SEED").unwrap_or(1);
    let rota = Rota::without_engine().await;
    let ids = one_of_each(&rota.api).await;
    let mut all: Vec<_> = operations().iter().map(|one| (one.method.clone(), filled(one, &ids))).collect();
    // A stream does not end, and the content of a skill is no JSON.
    all.retain(|(_, path)| !["/stream", "/content"].iter().any(|end| path.ends_with(end)));
    for input in 0..number("ROTA_ODD_INPUTS").unwrap_or(INPUTS) {
        let mut dice = Dice::new(seed.wrapping_mul(1 << 32).wrapping_add(input));
        let (method, path) = &all[dice.place(all.len()).unwrap()];
        send(&rota.api, method, path, &ids, &mut dice).await;
    }
    rota.api.get("/v1/agents").await;
}
