//! The wire contract: which operations there are, and whether an answer fits the one that gave it.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, LazyLock, Mutex},
};

use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

/// The contract of requests with the managed agents beta header.
pub static MANAGED_AGENTS: LazyLock<Contract> = LazyLock::new(|| Contract::load("openapi.json"));
/// The contract of requests without a beta header.
pub static GENERAL: LazyLock<Contract> = LazyLock::new(|| Contract::load("general.json"));
/// The contract of the organization's own resources.
pub static ADMINISTRATION: LazyLock<Contract> = LazyLock::new(|| Contract::load("administration.json"));
/// The contract of what is Rota's own, which names parts of the first.
pub static OWN: LazyLock<Contract> = LazyLock::new(|| Contract::load("rota.json"));

/// One file of the contract.
pub struct Contract {
    /// What there is to call.
    pub operations: Vec<Operation>,
    uri: String,
    registry: Registry<'static>,
    compiled: Mutex<HashMap<String, Arc<Validator>>>,
}

/// Something to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// In capitals.
    pub method: String,
    /// With the names of its parameters in braces.
    pub path: String,
    /// Those in its query.
    pub query: Vec<Parameter>,
    /// Its JSON body, when it has one.
    pub body: Option<Body>,
    /// Where the schema of its answer is; `None` when it answers with bytes.
    schema: Option<String>,
}

/// A parameter of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Where its schema is.
    pub schema: String,
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The names of the fields that must be there.
    pub required: Vec<String>,
    /// The name of each field, and where its schema is.
    pub fields: Vec<(String, String)>,
}

/// The base of the schemas' names.
const BASE: &str = "https://contract.invalid/";

impl Contract {
    fn load(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contract");
        let read = |name: &str| {
            let mut document: Value =
                serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap();
            add_recorded(&mut document);
            close(&mut document);
            document
        };
        let (uri, document) = (format!("{BASE}{name}"), read(name));
        let operations = operations(&document, &uri);
        let mut registry = Registry::new().add(&uri, document).unwrap();
        if name == "rota.json" {
            registry = registry.add(format!("{BASE}openapi.json"), read("openapi.json")).unwrap();
        }
        let registry = registry.prepare().unwrap();
        Self { operations, uri, registry, compiled: Mutex::default() }
    }

    /// Panics unless `body` is what the operation at `path`, without its query, may answer with.
    pub fn check(&self, method: &str, path: &str, body: &Value) {
        let known = self.operations.iter().find(|known| known.method == method && fits(&known.path, path));
        let known = known.unwrap_or_else(|| panic!("the contract has no {method} {path}"));
        let validator = self.validator(known.schema.as_ref().unwrap());
        let mut typed = body.clone();
        if known.path.ends_with("/memories") && method == "GET" {
            // Recorded, and not in the SDK's types.
            assert_eq!(typed.as_object_mut().unwrap().remove("prefixes"), Some(json!([])));
        }
        let faults: Vec<String> = validator.iter_errors(&typed).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "the answer to {method} {path} breaks the contract: {faults:#?}\n{body:#}");
    }

    /// Panics unless `event` is what the contract says a webhook of its type sends.
    pub fn check_event(&self, event: &Value) {
        let kind = event["data"]["type"].as_str().unwrap();
        let pointer = ["webhooks", kind, "post", "requestBody", "content", "application/json", "schema"];
        let validator = self.validator(&format!("{}#/{}", self.uri, pointer.map(escaped).join("/")));
        let faults: Vec<String> = validator.iter_errors(event).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "the event breaks the contract: {faults:#?}\n{event:#}");
    }

    /// Whether `value` is what the schema at `schema` allows.
    pub fn allows(&self, schema: &str, value: &Value) -> bool {
        self.validator(schema).is_valid(value)
    }

    fn validator(&self, schema: &str) -> Arc<Validator> {
        let mut compiled = self.compiled.lock().unwrap();
        let compile = || {
            let options = jsonschema::options().with_registry(&self.registry).should_validate_formats(true);
            Arc::new(options.build(&json!({ "$ref": schema })).unwrap())
        };
        compiled.entry(schema.to_owned()).or_insert_with(compile).clone()
    }
}

fn operations(document: &Value, uri: &str) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let at = |rest: &[&str]| {
                let pointer = [&["paths", path.as_str(), method.as_str()][..], rest].concat();
                format!("{uri}#/{}", pointer.into_iter().map(escaped).collect::<Vec<_>>().join("/"))
            };
            let media = operation["responses"]["200"]["content"].as_object().and_then(|content| content.keys().next());
            let schema = media.map(|media| at(&["responses", "200", "content", media, "schema"]));
            let parameters = operation["parameters"].as_array().into_iter().flatten().enumerate();
            let query =
                parameters.filter(|(_, parameter)| parameter["in"] == "query").map(|(i, parameter)| Parameter {
                    name: parameter["name"].as_str().unwrap().to_owned(),
                    schema: at(&["parameters", &i.to_string(), "schema"]),
                });
            let body = operation["requestBody"]["content"]["application/json"]["schema"].as_object().map(|body| {
                let place = ["requestBody", "content", "application/json", "schema", "properties"];
                let fields = body["properties"].as_object().unwrap().keys();
                let required = body.get("required").and_then(Value::as_array).into_iter().flatten();
                Body {
                    required: required.map(|name| name.as_str().unwrap().to_owned()).collect(),
                    fields: fields.map(|name| (name.clone(), at(&[&place[..], &[name]].concat()))).collect(),
                }
            });
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                query: query.collect(),
                body,
                schema,
            });
        }
    }
    operations
}

fn fits(template: &str, path: &str) -> bool {
    let (wanted, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    wanted.len() == given.len()
        && wanted.iter().zip(given).all(|(wanted, given)| wanted.starts_with('{') || *wanted == given)
}

/// A token of a JSON pointer inside the fragment of a URI.
fn escaped(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1").replace('{', "%7B").replace('}', "%7D")
}

/// What the hosted service was recorded to send and the SDK's types do not say: `actor` of work, and that a poll is answered with
/// null where there is none.
fn add_recorded(value: &mut Value) {
    let poll =
        "/paths/~1v1~1environments~1{environment_id}~1work~1poll/get/responses/200/content/application~1json/schema";
    if let Some(given) = value.pointer_mut(poll) {
        *given = json!({"anyOf": [given.take(), {"type": "null"}]});
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(add_recorded),
        Value::Object(map) => {
            map.values_mut().for_each(add_recorded);
            if let Some(Value::Object(fields)) = map.get_mut("properties")
                && fields.contains_key("acknowledged_at")
            {
                fields.insert("actor".to_owned(), json!({"type": "null"}));
            }
        }
        _ => {}
    }
}

/// The models of the SDK keep fields that they do not know, so the contract leaves every object open. The server sends
/// none that are not there: an object that lists its fields has no others.
fn close(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Object(map) => {
            map.values_mut().for_each(close);
            let open = map.get("additionalProperties").is_none_or(|allowed| *allowed == json!(true));
            if map.get("type") == Some(&json!("object")) && map.get("properties").is_some_and(Value::is_object) && open
            {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        _ => {}
    }
}
