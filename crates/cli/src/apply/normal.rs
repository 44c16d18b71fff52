//! What a server would answer of a file, and what it answers of a resource, in one form, so that both can be compared. What a file
//! leaves out has its default in it, so that a field that is taken out of a file is cleared.
//!
//! Files are read by the readers that the server has for its requests: what they refuse is refused before anything is sent.

use rota_api::{
    agent::{AgentChoice, CreateAgent, Multiagent},
    decode,
    deployment::DeploymentFields,
    environment::EnvironmentFields,
    hook::HookFields,
    policy::{self, UpdatePolicy},
    session::Resource as Mounted,
    vault::VaultFields,
    webhook::EndpointFields,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    files::Fields,
    kind::Kind,
    label::{Label, OURS},
};

/// Names of a deployment's fields in files, and those of the API, whose ids are keys in files.
pub const NAMES_IN_FILES: [(&str, &str); 2] = [("environment", "environment_id"), ("vaults", "vault_ids")];

/// The fields of a policy whose default is in the configuration of the server.
pub const SET_BY_SERVER: [&str; 2] = ["catch_up_seconds", "jitter"];

/// A message of the API about a field, in the names that files have, the field first.
pub fn in_words_of_files(message: &str) -> String {
    let message = match message.strip_prefix("Failed to parse request body: unknown field ") {
        Some(field) => format!("{}: is no field", field.trim_matches('"')),
        None => message.strip_prefix("Failed to parse request: ").unwrap_or(message).to_owned(),
    };
    NAMES_IN_FILES.iter().fold(message, |message, (ours, theirs)| message.replace(theirs, ours))
}

/// Reads the fields of a create request.
///
/// # Errors
/// What is wrong with them, in the server's words.
pub fn read(kind: Kind, body: &Fields) -> Result<Fields, String> {
    let body = Value::Object(body.clone());
    let invalid = |invalid: decode::Invalid| invalid.to_string();
    let normal = match kind {
        Kind::Agent => {
            let CreateAgent { config, multiagent } = decode::body(&body, CreateAgent::read).map_err(invalid)?;
            let mut agent = written(&config);
            agent["multiagent"] = multiagent.as_ref().map_or(Value::Null, roster);
            agent
        }
        Kind::Environment => {
            let fields = decode::body(&body, EnvironmentFields::read).map_err(invalid)?;
            let EnvironmentFields { name, description, config, metadata, scope } = fields;
            json!({"name": name, "description": description, "config": config, "scope": scope, "metadata": metadata})
        }
        Kind::Deployment => {
            let fields = decode::body(&body, DeploymentFields::read).map_err(invalid)?;
            let schedule =
                fields.schedule.map(|of| json!({"type": "cron", "expression": of.expression, "timezone": of.timezone}));
            json!({
                "name": fields.name,
                "description": fields.description,
                "agent": choice(&fields.agent),
                "environment_id": fields.environment_id,
                "initial_events": fields.initial_events,
                "resources": fields.resources,
                "vault_ids": fields.vault_ids,
                "schedule": schedule,
                "metadata": fields.metadata,
            })
        }
        Kind::Vault => {
            let VaultFields { display_name, metadata } = decode::body(&body, VaultFields::read).map_err(invalid)?;
            json!({"display_name": display_name, "metadata": metadata})
        }
        Kind::Webhook => {
            let mut create = body;
            let state = create.as_object_mut().and_then(|fields| fields.shift_remove("state"));
            let state = state.unwrap_or_else(|| json!("enabled"));
            if state != "enabled" && state != "disabled" {
                return Err("state: must be enabled or disabled".to_owned());
            }
            let fields = decode::body(&create, EndpointFields::read).map_err(invalid)?;
            json!({
                "name": fields.name,
                "description": fields.description,
                "url": fields.url,
                "enabled_events": fields.enabled_events,
                "state": state,
            })
        }
        Kind::Skill => {
            if let Some(other) = body.as_object().and_then(|fields| fields.keys().find(|name| *name != "display_name"))
            {
                return Err(format!("{other}: is no field; a skill has display_name, and its files"));
            }
            match &body["display_name"] {
                Value::Null => json!({"display_name": null}),
                Value::String(name) if !name.trim().is_empty() && name.chars().count() <= MAX_DISPLAY_NAME => {
                    json!({"display_name": name.trim()})
                }
                _ => return Err(format!("display_name: must be a text of 1 to {MAX_DISPLAY_NAME} characters")),
            }
        }
        Kind::Hook => return hook(body.as_object().cloned().unwrap_or_default(), None),
    };
    Ok(fields_of(normal))
}

/// Most characters of the display name of a skill: the label stands behind it.
const MAX_DISPLAY_NAME: usize = 100;

/// The fields of a hook without its secret.
///
/// # Errors
/// What is wrong with them, in the server's words.
pub fn hook(mut body: Fields, secret: Option<&str>) -> Result<Fields, String> {
    if let Some(secret) = secret {
        body.insert("secret".to_owned(), json!(secret));
    }
    let body = Value::Object(body);
    let fields = decode::body(&body, HookFields::read).map_err(|invalid| invalid.to_string())?;
    let max = fields.max_per_minute;
    Ok(fields_of(json!({"name": fields.name, "scheme": fields.scheme, "max_per_minute": max})))
}

/// The policy that `said` makes, without those fields of [`SET_BY_SERVER`] that it does not name.
///
/// # Errors
/// What is wrong with it, in the server's words.
pub fn policy(said: Option<&Fields>) -> Result<Fields, String> {
    let body = Value::Object(said.cloned().unwrap_or_default());
    let read = |body| decode::body(body, UpdatePolicy::read)?.merged(&policy::Policy::default());
    let policy = read(&body).map_err(|invalid| invalid.to_string())?;
    if policy.starts_at.zip(policy.ends_at).is_some_and(|(starts_at, ends_at)| ends_at <= starts_at) {
        return Err("ends_at: must be later than starts_at".to_owned());
    }
    let mut normal = fields_of(json!({
        "overlap": policy.overlap.unwrap_or_default(),
        "max_concurrent_sessions": policy.max_concurrent_sessions,
        "retry": policy.retry.unwrap_or_default(),
        "catch_up_seconds": policy.catch_up_seconds,
        "jitter": policy.jitter,
        "silent_after_intervals": policy.silent_after_intervals.unwrap_or(policy::SILENT_AFTER_INTERVALS),
        "spend": policy.spend,
        "session": policy.session.unwrap_or_default(),
        "carry_forward": policy.carry_forward,
        "unattended": policy.unattended.unwrap_or_default(),
        "max_session_seconds": policy.max_session_seconds,
        "max_idle_waiting_seconds": policy.max_idle_waiting_seconds,
        "pause_after_failures": policy.pause_after_failures,
        "starts_at": policy.starts_at,
        "ends_at": policy.ends_at,
    }));
    for field in SET_BY_SERVER {
        if normal[field].is_null() {
            normal.shift_remove(field);
        }
    }
    Ok(normal)
}

/// Which of [`SET_BY_SERVER`] a policy names: what the deployment's metadata remembers.
pub fn set_by_file(policy: &Fields) -> Option<String> {
    let named: Vec<&str> = SET_BY_SERVER.into_iter().filter(|field| policy.contains_key(*field)).collect();
    (!named.is_empty()).then(|| named.join(" "))
}

/// What a server answers of a resource, as [`read`] gives it. `key` names the resource of a kind with an id as files do.
pub fn view(kind: Kind, raw: &Value, key: &dyn Fn(Kind, &str) -> String) -> Fields {
    let mut view = Fields::new();
    for field in fields(kind) {
        view.insert((*field).to_owned(), raw[*field].clone());
    }
    for text in ["description", "system"] {
        if view.get(text) == Some(&json!("")) && kind != Kind::Webhook {
            view.insert(text.to_owned(), Value::Null);
        }
    }
    if let Some(metadata) = view.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !name.starts_with(OURS));
    }
    if let Some(labelled) = kind.labelled_text()
        && let Some(Value::String(text)) = view.get_mut(labelled)
    {
        *text = Label::part(text).0.to_owned();
    }
    match kind {
        Kind::Agent => {
            for skill in view.get_mut("skills").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(id) = skill.get_mut("skill_id") {
                    rename(Kind::Skill, id, key);
                }
            }
            if let Some(roster) = view.get_mut("multiagent") {
                keyed(roster, raw["id"].as_str().unwrap_or_default(), key);
            }
        }
        Kind::Deployment => {
            if let Some(agent) = view.get_mut("agent") {
                keyed(agent, "", key);
            }
            if let Some(id) = view.get_mut("environment_id") {
                rename(Kind::Environment, id, key);
            }
            for vault in view.get_mut("vault_ids").and_then(Value::as_array_mut).into_iter().flatten() {
                rename(Kind::Vault, vault, key);
            }
            if let Some(schedule) = view.get_mut("schedule").and_then(Value::as_object_mut) {
                schedule.retain(|field, _| matches!(field.as_str(), "type" | "expression" | "timezone"));
            }
            // As they are written today, whatever a server adds.
            if let Some(mounted) = view.get_mut("resources")
                && let Ok(read) = serde_json::from_value::<Vec<Mounted>>(mounted.clone())
            {
                *mounted = written(&read);
            }
        }
        _ => {}
    }
    view
}

/// The fields of a kind that files have.
fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Agent => &[
            "name",
            "description",
            "system",
            "model",
            "tools",
            "mcp_servers",
            "skills",
            "multiagent",
            "execution_identity",
            "metadata",
        ],
        Kind::Environment => &["name", "description", "config", "scope", "metadata"],
        Kind::Deployment => &[
            "name",
            "description",
            "agent",
            "environment_id",
            "initial_events",
            "resources",
            "vault_ids",
            "schedule",
            "metadata",
        ],
        Kind::Vault => &["display_name", "metadata"],
        Kind::Webhook => &["name", "description", "url", "enabled_events", "state"],
        Kind::Skill => &["display_name"],
        Kind::Hook => &["name", "scheme", "max_per_minute"],
    }
}

/// An agent of a file: `KEY`, or `KEY@VERSION` where a version is named, or `self`.
fn choice(choice: &AgentChoice) -> String {
    match choice {
        AgentChoice::Latest(key) => key.clone(),
        AgentChoice::Pinned(key, version) => format!("{key}@{version}"),
        AgentChoice::Itself => ITSELF.to_owned(),
    }
}

/// How a roster names the agent that has it.
pub const ITSELF: &str = "self";

fn roster(roster: &Multiagent<AgentChoice>) -> Value {
    let named = roster.try_map(|member| Ok::<_, std::convert::Infallible>(choice(member)));
    match named {
        Ok(named) => written(&named),
        Err(never) => match never {},
    }
}

/// Replaces each agent in an answer by its name in files: `KEY@VERSION`.
fn keyed(value: &mut Value, itself: &str, key: &dyn Fn(Kind, &str) -> String) {
    match value {
        Value::Object(fields) if fields.get("type") == Some(&json!("agent")) => {
            let id = fields.get("id").and_then(Value::as_str).unwrap_or_default();
            *value = if id == itself {
                json!(ITSELF)
            } else {
                match &fields.get("version") {
                    Some(Value::Number(version)) => json!(format!("{}@{version}", key(Kind::Agent, id))),
                    _ => json!(key(Kind::Agent, id)),
                }
            };
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| keyed(field, itself, key)),
        Value::Array(items) => items.iter_mut().for_each(|item| keyed(item, itself, key)),
        _ => {}
    }
}

fn rename(kind: Kind, id: &mut Value, key: &dyn Fn(Kind, &str) -> String) {
    if let Value::String(id) = id {
        *id = key(kind, id);
    }
}

/// Calls `f` with each place of a normal form that names another resource.
pub fn references(kind: Kind, normal: &mut Fields, f: &mut dyn FnMut(Kind, &mut Value)) {
    match kind {
        Kind::Agent => {
            for skill in normal.get_mut("skills").and_then(Value::as_array_mut).into_iter().flatten() {
                if skill["type"] == "custom"
                    && let Some(id) = skill.get_mut("skill_id")
                {
                    f(Kind::Skill, id);
                }
            }
            if let Some(roster) = normal.get_mut("multiagent") {
                members(roster, &mut |member| f(Kind::Agent, member));
            }
        }
        Kind::Deployment => {
            for (field, of) in [("agent", Kind::Agent), ("environment_id", Kind::Environment)] {
                if let Some(id) = normal.get_mut(field) {
                    f(of, id);
                }
            }
            for vault in normal.get_mut("vault_ids").and_then(Value::as_array_mut).into_iter().flatten() {
                f(Kind::Vault, vault);
            }
        }
        _ => {}
    }
}

/// Calls `f` with each agent of a roster but the one that has it.
fn members(roster: &mut Value, f: &mut dyn FnMut(&mut Value)) {
    let Value::Object(fields) = roster else { return };
    for (name, value) in fields {
        match value {
            Value::Array(agents) if name == "agents" || name == "predefined_agents" => {
                agents.iter_mut().filter(|agent| agent.is_string() && *agent != ITSELF).for_each(&mut *f);
            }
            _ => members(value, f),
        }
    }
}

/// `KEY@VERSION` as its two parts.
pub fn pinned(agent: &str) -> (&str, Option<i64>) {
    let parts = agent.split_once('@').and_then(|(key, version)| Some((key, Some(version.parse().ok()?))));
    parts.unwrap_or((agent, None))
}

/// What a request says of a field whose normal form, with ids in it, is `value`.
pub fn sent(kind: Kind, field: &str, value: &Value) -> Value {
    match (kind, field) {
        (Kind::Agent, "multiagent") => {
            let mut roster = value.clone();
            agents_sent(&mut roster);
            roster
        }
        (Kind::Deployment, "agent") => agent_sent(value.as_str().unwrap_or_default()),
        _ => value.clone(),
    }
}

fn agents_sent(roster: &mut Value) {
    let Value::Object(fields) = roster else { return };
    for (name, value) in fields {
        match value {
            Value::Array(agents) if name == "agents" || name == "predefined_agents" => {
                for agent in agents {
                    if let Value::String(named) = agent {
                        *agent = if named == ITSELF { json!({"type": "self"}) } else { agent_sent(named) };
                    }
                }
            }
            _ => agents_sent(value),
        }
    }
}

fn agent_sent(named: &str) -> Value {
    match pinned(named) {
        (id, Some(version)) => json!({"type": "agent", "id": id, "version": version}),
        (id, None) => json!({"type": "agent", "id": id}),
    }
}

fn written(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("wire types can be written")
}

fn fields_of(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind, id: &str) -> String {
        match (kind, id) {
            (Kind::Agent, "agent_1") => "reviewer".to_owned(),
            (Kind::Environment, "env_1") => "python".to_owned(),
            (Kind::Skill, "skill_1") => "report".to_owned(),
            _ => id.to_owned(),
        }
    }

    #[test]
    fn what_a_server_answers_of_a_deployment_is_what_its_file_says() {
        let file = json!({
            "name": "Nightly", "agent": "reviewer", "environment_id": "python",
            "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "go"}]}],
            "schedule": {"type": "cron", "expression": "0 2 * * *", "timezone": "UTC"},
        });
        let answer = json!({
            "id": "depl_1", "type": "deployment", "name": "Nightly", "description": null,
            "agent": {"type": "agent", "id": "agent_1", "version": 3}, "environment_id": "env_1",
            "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "go"}]}],
            "resources": [], "vault_ids": [], "status": "active",
            "schedule": {
                "type": "cron", "expression": "0 2 * * *", "timezone": "UTC", "last_run_at": null, "upcoming_runs_at": []
            },
            "metadata": {"rota.dev/key": "acme/nightly"},
        });
        let mut expected = read(Kind::Deployment, file.as_object().unwrap()).unwrap();
        expected.insert("agent".to_owned(), json!("reviewer@3"));
        assert_eq!(view(Kind::Deployment, &answer, &key), expected);
    }

    #[test]
    fn a_roster_is_sent_as_the_api_has_it() {
        let body = json!({
            "name": "Lead", "model": "m",
            "multiagent": {"type": "coordinator", "agents": ["reviewer", {"type": "self"}, {"type": "agent", "id": "b", "version": 2}]},
        });
        let mut normal = read(Kind::Agent, body.as_object().unwrap()).unwrap();
        assert_eq!(normal["multiagent"]["agents"], json!(["reviewer", "self", "b@2"]));
        let mut named = Vec::new();
        references(Kind::Agent, &mut normal, &mut |kind, name| named.push((kind, name.clone())));
        assert_eq!(named, [(Kind::Agent, json!("reviewer")), (Kind::Agent, json!("b@2"))]);
        let sent = sent(Kind::Agent, "multiagent", &normal["multiagent"]);
        let expected =
            json!([{"type": "agent", "id": "reviewer"}, {"type": "self"}, {"type": "agent", "id": "b", "version": 2}]);
        assert_eq!(sent["agents"], expected);
    }

    #[test]
    fn what_a_file_leaves_out_has_its_default() {
        let body = json!({"name": "a", "model": {"id": "m", "effort": "low"}});
        let normal = read(Kind::Agent, body.as_object().unwrap()).unwrap();
        assert_eq!(normal["model"]["effort"], json!({"type": "low"}));
        assert_eq!((&normal["system"], &normal["tools"]), (&Value::Null, &json!([])));
        let policy = policy(Some(json!({"jitter": 30}).as_object().unwrap())).unwrap();
        assert_eq!((&policy["overlap"], &policy["jitter"]), (&json!("allow"), &json!(30)));
        assert!(!policy.contains_key("catch_up_seconds"));
        assert_eq!(set_by_file(&policy).as_deref(), Some("jitter"));
    }

    #[test]
    fn what_the_server_refuses_is_refused_in_its_words_and_the_names_of_files() {
        for (kind, body, message) in [
            (Kind::Agent, json!({"name": "a"}), "model: Field required"),
            (Kind::Vault, json!({"display_name": "a", "x": 1}), "x: is no field"),
            (Kind::Webhook, json!({"url": "u", "enabled_events": ["agent.created"], "state": "off"}), "state: must be"),
            (Kind::Skill, json!({"name": "a"}), "name: is no field"),
        ] {
            let refused = in_words_of_files(&read(kind, body.as_object().unwrap()).unwrap_err());
            assert!(refused.starts_with(message), "{refused}");
        }
        assert_eq!(in_words_of_files("environment_id: Field required"), "environment: Field required");
        let retry = json!({"retry": {"max_attempts": 11}});
        assert!(policy(Some(retry.as_object().unwrap())).unwrap_err().contains("max_attempts"));
    }
}
