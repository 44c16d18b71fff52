//! What a request is about to do, as the audit list tells it: by its line in the table of operations.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use axum::extract::MatchedPath;
use http::{Method, request::Parts};
use serde_json::value::RawValue;

use super::operations::operations;
use crate::{
    db::{Act, named},
    request::caller::Admission,
};

/// What changes something and leaves no row in the audit list: the method, the path, and why.
pub const NOT_AUDITED: [(&str, &str, &str); 14] = [
    ("POST", "/rota/v1/deployments/{deployment_id}/backfill", "the planned starts and their runs are the record of it"),
    ("POST", "/rota/v1/deployments/{deployment_id}/runs", "the run or the planned start is the record of it"),
    ("POST", "/rota/v1/hooks/{hook_id}", "the run is the record of it, and names the hook"),
    (
        "POST",
        "/rota/v1/runs/{deployment_run_id}/rerun",
        "the run is the record of it, and names the one that it does again",
    ),
    ("POST", "/v1/deployments/{deployment_id}/run", "the run is the record of it, and has the id of its request"),
    ("POST", "/v1/environments/{environment_id}/work/{work_id}/ack", "workers say so each time they are given work"),
    ("POST", "/v1/environments/{environment_id}/work/{work_id}/heartbeat", "workers say so many times a minute"),
    (
        "POST",
        "/v1/sessions/{session_id}/events",
        "the session's own log is the record of it; decisions on calls leave a row each",
    ),
    ("POST", "/v1/sessions/{session_id}/threads/{thread_id}/archive", "it is always refused"),
    ("POST", "/v1/tunnels/{tunnel_id}/reveal_token", "it changes nothing"),
    ("POST", "/v1/user_profiles/{user_profile_id}/action_urls", "it is always refused"),
    ("POST", "/v1/user_profiles/{user_profile_id}/enrollment_url", "it is always refused"),
    (
        "POST",
        "/v1/user_profiles/{user_profile_id}/providers/google/data_controls",
        "what it can set is what there is: it changes nothing",
    ),
    (
        "POST",
        "/v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate",
        "it tries what is stored, and may renew a token as the server does by itself",
    ),
];

/// Collections whose things are named otherwise than by leaving out the last letter, each below another one or anywhere.
const NAMES: [(&str, &str, &str); 8] = [
    ("environments", "keys", "environment_key"),
    ("environments", "work", "work"),
    ("sessions", "resources", "session_resource"),
    ("sessions", "threads", "session_thread"),
    ("skills", "versions", "skill_version"),
    ("tunnels", "certificates", "tunnel_certificate"),
    ("webhook_endpoints", "deliveries", "webhook_delivery"),
    ("", "memories", "memory"),
];

/// What an operation does to what.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    operation: String,
    resource: String,
    /// How many segments of the path come before the id of the resource, and before that of what it is part of.
    id: Option<usize>,
    parent: Option<usize>,
}

static ACTS: LazyLock<HashMap<(Method, &'static str), Named>> = LazyLock::new(|| {
    let all = operations();
    let is_there =
        |method: &Method, path: &str| all.iter().any(|operation| operation.method == *method && operation.path == path);
    let is_audited = |method: &Method, path: &str| {
        !method.is_safe() && !NOT_AUDITED.iter().any(|(not, at, _)| method == not && path == *at)
    };
    let audited = all.iter().filter(|operation| is_audited(&operation.method, operation.path));
    let named = audited.map(|operation| {
        let (method, path) = (&operation.method, operation.path);
        let items = format!("{path}/{{");
        let verb = match () {
            () if *method == Method::DELETE => Some("delete"),
            () if path.ends_with('}') => Some("update"),
            // What can be read where it is posted to is a collection, or one thing of what stands before it.
            () if is_there(&Method::GET, path) && all.iter().any(|other| other.path.starts_with(&items)) => {
                Some("create")
            }
            () if is_there(&Method::GET, path) => Some("update"),
            () => None,
        };
        ((method.clone(), path), name(path, verb))
    });
    named.collect()
});

/// What an operation at `path` is called that does what `verb` says, or what the last segment does.
fn name(path: &str, verb: Option<&str>) -> Named {
    let segments: Vec<&str> = path.split('/').collect();
    let is_id = |segment: &str| segment.starts_with('{');
    let ids: Vec<usize> = (0..segments.len()).filter(|place| is_id(segments[*place])).collect();
    let words =
        segments.iter().filter(|segment| !is_id(segment) && !["", "rota", "v1", "organizations"].contains(segment));
    let words: Vec<&str> = words.copied().chain(verb).collect();
    let (id, parents) = match (verb, ids.split_last()) {
        (Some("create"), _) => (None, &ids[..]),
        (_, Some((last, parents))) => (Some(*last), parents),
        (_, None) => (None, &[][..]),
    };
    // The collection that the resource is in stands before its id, or is the last segment.
    let of = id.unwrap_or(segments.len());
    let (collection, parent) = (segments[of - 1], parents.last().copied());
    let above = parent.map_or("", |parent| segments[parent - 1]);
    let known = NAMES.iter().find(|(below, plural, _)| *plural == collection && ["", above].contains(below));
    let resource = known.map_or_else(|| collection.trim_end_matches('s'), |(_, _, one)| *one).to_owned();
    Named { operation: words.join("."), resource, id, parent }
}

/// What a request does, with a body of these bytes. `None` of one that leaves no row.
pub(super) fn of(admission: &Admission, parts: &Parts, body: &[u8]) -> Option<Act> {
    if parts.method.is_safe() {
        return None;
    }
    let matched = parts.extensions.get::<MatchedPath>()?;
    let Named { operation, resource, id, parent } = ACTS.get(&(parts.method.clone(), matched.as_str()))?;
    let segment = |place: &Option<usize>| {
        let segment = parts.uri.path().split('/').nth((*place)?)?;
        Some(segment.to_owned())
    };
    let (id, parent) = (segment(id), segment(parent));
    let workspace = admission.workspace().cloned();
    let fields = (id.is_some() && !body.is_empty()).then(|| sent(body)).flatten();
    Some(Act {
        actor: admission.actor(),
        operation: operation.clone(),
        resource: resource.clone(),
        id,
        parent,
        workspace,
        fields,
    })
}

/// The fields that a body names, where it is an object.
fn sent(body: &[u8]) -> Option<Vec<String>> {
    let fields: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    Some(named(fields.keys().map(Cow::as_ref)))
}

/// The names of all operations that leave rows, and of the kinds of resources that they change.
pub fn names() -> (Vec<&'static str>, Vec<&'static str>) {
    let of = |part: fn(&Named) -> &str| {
        let mut names: Vec<&'static str> = ACTS.values().map(part).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    (of(|named| &named.operation), of(|named| &named.resource))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_named_by_their_paths() {
        for (method, path, operation, resource) in [
            (Method::POST, "/v1/agents", "agents.create", "agent"),
            (Method::POST, "/v1/agents/{agent_id}", "agents.update", "agent"),
            (Method::POST, "/v1/agents/{agent_id}/archive", "agents.archive", "agent"),
            (Method::DELETE, "/v1/files/{file_id}", "files.delete", "file"),
            (Method::POST, "/v1/organizations/workspaces/{workspace_id}", "workspaces.update", "workspace"),
            (Method::POST, "/v1/skills/{skill_id}/versions", "skills.versions.create", "skill_version"),
            (Method::POST, "/v1/memory_stores/{memory_store_id}/memories", "memory_stores.memories.create", "memory"),
            (
                Method::POST,
                "/v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}/redact",
                "memory_stores.memory_versions.redact",
                "memory_version",
            ),
            (Method::POST, "/v1/vaults/{vault_id}/credentials", "vaults.credentials.create", "credential"),
            (Method::POST, "/v1/environments/{environment_id}/work/{work_id}/stop", "environments.work.stop", "work"),
            (Method::POST, "/rota/v1/deployments/{deployment_id}/policy", "deployments.policy.update", "deployment"),
            (Method::POST, "/rota/v1/environments/{environment_id}/image", "environments.image.update", "environment"),
            (
                Method::POST,
                "/rota/v1/environments/{environment_id}/keys",
                "environments.keys.create",
                "environment_key",
            ),
            (Method::POST, "/v1/tunnels/{tunnel_id}/rotate_token", "tunnels.rotate_token", "tunnel"),
        ] {
            let named = &ACTS[&(method, path)];
            assert_eq!((named.operation.as_str(), named.resource.as_str()), (operation, resource), "{path}");
        }
    }

    #[test]
    fn what_is_part_of_something_names_it() {
        let (of, made) = (
            name("/v1/vaults/{a}/credentials/{b}", Some("update")),
            name("/v1/vaults/{a}/credentials", Some("create")),
        );
        assert_eq!((of.id, of.parent), (Some(5), Some(3)));
        assert_eq!((made.id, made.parent), (None, Some(3)));
    }

    #[test]
    fn whatever_is_not_audited_is_an_operation_that_changes_something() {
        for (method, path, _) in NOT_AUDITED {
            let operation =
                operations().into_iter().find(|operation| operation.method == method && operation.path == path);
            assert!(operation.is_some_and(|operation| !operation.method.is_safe()), "{method} {path}");
        }
    }
}
