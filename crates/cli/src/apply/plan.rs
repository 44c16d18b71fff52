//! What has to change on a server so that it has what the files say. Nothing here sends anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Value, json};
use similar::TextDiff;

use super::{
    files::{Fields, Hook, Project, Resource},
    kind::Kind,
    label::{LABEL, Label, SET_BY_FILE},
    normal::{self, pinned},
    problem::Problem,
    state::{Found, State},
};
use crate::output::{clean, clean_line};

/// What is done with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Create,
    Update,
    /// Archived, or deleted where it cannot be.
    Remove,
}

/// A change of one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub kind: Kind,
    /// Its key; of a hook that of its deployment before it: `nightly/push`.
    pub key: String,
    pub action: Action,
    /// The resource; a new one has none.
    pub id: Option<String>,
    pub differences: Vec<Difference>,
}

/// A field that changes. None: it is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub field: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// Everything that changes, in the order in which it is done.
#[derive(Debug, Default)]
pub struct Plan {
    pub changes: Vec<Change>,
    /// The ids of what is there, by kind and key.
    pub ids: BTreeMap<(Kind, String), String>,
    /// What has a label of the project and is in no file.
    pub left_over: Vec<(Kind, String, String)>,
}

/// Which resources of the server the files stand for: by their labels, or else by the id that a file names.
pub fn match_files(project: &Project, state: &State) -> Result<BTreeMap<(Kind, String), String>, Vec<Problem>> {
    let mut ids = BTreeMap::new();
    let mut problems = Vec::new();
    for file in &project.resources {
        let label = Label::new(&project.name, &file.key);
        let labelled: Vec<&Found> = state.of(file.kind).iter().filter(|of| of.label.as_ref() == Some(&label)).collect();
        let of_id = file.id.as_ref().and_then(|id| state.get(file.kind, id));
        let found = match (&labelled[..], of_id) {
            ([], None) => continue,
            ([], Some(found)) if found.label.is_none() => found,
            ([], Some(found)) => {
                let other = found.label.as_ref().map(ToString::to_string).unwrap_or_default();
                problems.push(file.problem(format!(
                    "id: {} has the label {other} of another file; take the id out, or apply that file no more and \
                     remove the label",
                    found.id
                )));
                continue;
            }
            ([found], _) => found,
            (twins, _) => {
                let twins: Vec<&str> = twins.iter().map(|twin| twin.id.as_str()).collect();
                problems.push(file.problem(format!(
                    "{} resources have the label {label}: {}; keep one and archive or delete the others",
                    twins.len(),
                    twins.join(", ")
                )));
                continue;
            }
        };
        ids.insert((file.kind, file.key.clone()), found.id.clone());
    }
    let mut taken = BTreeMap::new();
    for file in &project.resources {
        let Some(id) = ids.get(&(file.kind, file.key.clone())) else { continue };
        if let Some(other) = taken.insert(id.clone(), &file.key) {
            problems.push(file.problem(format!("id: {id} is also that of {other}; each file has its own")));
        }
    }
    if problems.is_empty() { Ok(ids) } else { Err(problems) }
}

/// What has to change. `ids` is what [`match_files`] has found, whose policies, hooks and files `state` has.
///
/// # Errors
/// References to what is not there, changes that a server does not make, and what pruning would take with it.
pub fn plan(
    project: &Project,
    state: &State,
    ids: BTreeMap<(Kind, String), String>,
    prune: bool,
) -> Result<Plan, Vec<Problem>> {
    let keys = ids.iter().map(|((kind, key), id)| ((*kind, id.clone()), key.clone())).collect();
    let mut planning =
        Planning { project, state, ids, keys, changing: BTreeSet::new(), plan: Plan::default(), problems: Vec::new() };
    for file in in_order(project) {
        planning.references(file);
        planning.file(file);
    }
    planning.left_over(prune);
    let Planning { ids, mut plan, problems, .. } = planning;
    plan.ids = ids;
    if problems.is_empty() { Ok(plan) } else { Err(problems) }
}

/// The files, each after those that it refers to: agents with a roster after those without, for a roster has none of the former.
fn in_order(project: &Project) -> Vec<&Resource> {
    let mut files: Vec<&Resource> = project.resources.iter().collect();
    files.sort_by_key(|file| {
        let has_roster = file.normal.get("multiagent").is_some_and(|roster| !roster.is_null());
        (file.kind, has_roster, &file.key)
    });
    files
}

struct Planning<'a> {
    project: &'a Project,
    state: &'a State,
    ids: BTreeMap<(Kind, String), String>,
    keys: BTreeMap<(Kind, String), String>,
    /// Agents that get another version, by what files call them.
    changing: BTreeSet<String>,
    plan: Plan,
    problems: Vec<Problem>,
}

impl Planning<'_> {
    fn key(&self, kind: Kind, id: &str) -> String {
        self.keys.get(&(kind, id.to_owned())).cloned().unwrap_or_else(|| id.to_owned())
    }

    fn found(&self, kind: Kind, name: &str) -> Option<&Found> {
        let id = self.ids.get(&(kind, name.to_owned())).map_or(name, String::as_str);
        self.state.get(kind, id)
    }

    /// Each reference is to another file, or to a resource of the server.
    fn references(&mut self, file: &Resource) {
        let mut wrong = Vec::new();
        normal::references(file.kind, &mut file.normal.clone(), &mut |kind, name| {
            let name = name.as_str().unwrap_or_default();
            let name = if kind == Kind::Agent { pinned(name).0 } else { name };
            let is_file = self.project.resources.iter().any(|file| file.kind == kind && file.key == name);
            if is_file || self.state.get(kind, name).is_some() {
                return;
            }
            let field = field_of(file.kind, kind);
            let (noun, folder) = (kind.noun(), kind.folder());
            wrong.push(if name.starts_with(kind.prefix()) {
                format!("{field}: the server has no {noun} {name} that is not archived")
            } else {
                format!("{field}: there is no {noun} \"{name}\": neither a file in {folder}/ nor an id")
            });
        });
        self.problems.extend(wrong.into_iter().map(|message| file.problem(message)));
    }

    fn file(&mut self, file: &Resource) {
        let key = (file.kind, file.key.clone());
        let Some(id) = self.ids.get(&key).cloned() else {
            self.create(file);
            return;
        };
        let Some(found) = self.state.get(file.kind, &id).cloned() else { return };
        let mut differences = self.compare(file, &found);
        let label = Label::new(&self.project.name, &file.key);
        // The label of a skill is there from its beginning or never.
        if found.label.is_none() && file.kind != Kind::Skill {
            differences.push(Difference { field: "label".to_owned(), old: None, new: Some(json!(label.to_string())) });
        }
        if let Some(message) = unchangeable(file, &found.raw, self.state.skills.get(&id)) {
            self.problems.push(file.problem(message));
            return;
        }
        if file.kind == Kind::Skill
            && let (Some(wanted), Some(stored)) = (&file.skill, self.state.skills.get(&id))
        {
            let files = wanted.differences(stored).into_iter().map(|(path, what)| {
                let old = (what != "added").then(|| json!("a file"));
                let new = (what != "removed").then(|| json!(if what == "changed" { "another file" } else { "a file" }));
                Difference { field: path, old, new }
            });
            differences.extend(files);
        }
        if file.kind == Kind::Deployment {
            differences.extend(self.compare_policy(file, &found));
            let is_paused = found.raw["status"] == "paused";
            if let Some(paused) = file.paused.filter(|paused| *paused != is_paused) {
                differences.push(Difference {
                    field: "paused".to_owned(),
                    old: Some(json!(is_paused)),
                    new: Some(json!(paused)),
                });
            }
        }
        if !differences.is_empty() {
            if file.kind == Kind::Agent {
                self.changing.insert(file.key.clone());
            }
            self.plan.changes.push(Change {
                kind: file.kind,
                key: file.key.clone(),
                action: Action::Update,
                id: Some(id.clone()),
                differences,
            });
        }
        if file.kind == Kind::Deployment {
            self.hooks(file, Some(&id));
        }
    }

    fn create(&mut self, file: &Resource) {
        let mut differences: Vec<Difference> = file
            .body
            .iter()
            .map(|(field, value)| {
                let new = file.normal.get(field).unwrap_or(value).clone();
                Difference { field: field.clone(), old: None, new: Some(new) }
            })
            .collect();
        let said = |field: &str, new| Difference { field: field.to_owned(), old: None, new: Some(new) };
        differences
            .extend(file.policy.iter().flatten().map(|(field, value)| said(&format!("policy.{field}"), value.clone())));
        differences.extend(file.paused.map(|paused| said("paused", json!(paused))));
        if let Some(skill) = &file.skill {
            differences.extend(skill.files.keys().map(|path| said(path, json!("a file"))));
        }
        self.plan.changes.push(Change {
            kind: file.kind,
            key: file.key.clone(),
            action: Action::Create,
            id: None,
            differences,
        });
        if file.kind == Kind::Deployment {
            self.hooks(file, None);
        }
    }

    fn compare(&self, file: &Resource, found: &Found) -> Vec<Difference> {
        let mut stored = normal::view(file.kind, &found.raw, &|kind, id| self.key(kind, id));
        let mut wanted = file.normal.clone();
        // A version that is the newest one, and stays it, is the same as none.
        let mut settle = |kind: Kind, name: &mut Value| {
            if kind != Kind::Agent {
                return;
            }
            let (agent, version) = pinned(name.as_str().unwrap_or_default());
            let newest = self.found(kind, agent).and_then(|agent| agent.raw["version"].as_i64());
            if version.is_some() && version == newest && !self.changing.contains(agent) {
                *name = json!(agent);
            }
        };
        normal::references(file.kind, &mut stored, &mut settle);
        normal::references(file.kind, &mut wanted, &mut settle);
        if file.kind == Kind::Skill && wanted["display_name"].is_null() {
            wanted.remove("display_name");
        }
        let mut differences = Vec::new();
        for (field, new) in &wanted {
            let old = stored.get(field).unwrap_or(&Value::Null);
            differ(field, Some(old), Some(new), &mut differences);
        }
        differences
    }

    fn compare_policy(&self, file: &Resource, found: &Found) -> Vec<Difference> {
        let mut differences = Vec::new();
        let wanted = normal::policy(file.policy.as_ref()).unwrap_or_default();
        let empty = Fields::new();
        // A server that is no Rota has no policies; one that a file asks for is asked of it, and refused.
        let stored = match self.state.policies.get(&found.id) {
            None if file.policy.is_none() => return differences,
            stored => stored.unwrap_or(&empty),
        };
        for (field, new) in &wanted {
            let old = stored.get(field).unwrap_or(&Value::Null);
            differ(&format!("policy.{field}"), Some(old), Some(new), &mut differences);
        }
        let was_set = found.raw["metadata"][SET_BY_FILE].as_str();
        for field in was_set.iter().flat_map(|set| set.split(' ')).filter(|field| !wanted.contains_key(*field)) {
            differences.push(Difference {
                field: format!("policy.{field}"),
                old: stored.get(field).cloned(),
                new: None,
            });
        }
        let is_set = normal::set_by_file(&wanted);
        if was_set != is_set.as_deref() {
            let (old, new) = (was_set.map(|set| json!(set)), is_set.map(|set| json!(set)));
            differences.push(Difference { field: format!("metadata.{SET_BY_FILE}"), old, new });
        }
        differences
    }

    fn hooks(&mut self, file: &Resource, deployment: Option<&str>) {
        let stored: Vec<&Found> = deployment.map(|id| self.state.hooks(id).collect()).unwrap_or_default();
        for hook in &file.hooks {
            let label = Label::new(&self.project.name, &hook.key);
            let labelled = stored.iter().find(|found| found.label.as_ref() == Some(&label));
            let of_id = || stored.iter().find(|found| found.label.is_none() && Some(&found.id) == hook.id.as_ref());
            let Some(found) = labelled.or_else(of_id) else {
                let said = |(field, value): (&String, &Value)| Difference {
                    field: field.clone(),
                    old: None,
                    new: Some(value.clone()),
                };
                self.plan.changes.push(Change {
                    kind: Kind::Hook,
                    key: hook_key(file, hook),
                    action: Action::Create,
                    id: None,
                    differences: hook.body.iter().map(said).collect(),
                });
                continue;
            };
            let stored = normal::view(Kind::Hook, &found.raw, &|_, id| id.to_owned());
            if let Some((field, _)) = hook.body.iter().find(|(field, value)| stored.get(*field) != Some(value)) {
                self.problems.push(file.problem(format!(
                    "hooks.{}.{field}: a hook cannot be changed ({} is {}): give it another key, which makes a hook with \
                     an address of its own, and delete the old one with --prune",
                    hook.key, found.id, stored[field]
                )));
            }
        }
    }

    fn left_over(&mut self, prune: bool) {
        let in_files: BTreeSet<(Kind, &str)> =
            self.project.resources.iter().map(|file| (file.kind, file.key.as_str())).collect();
        let mut left_over = Vec::new();
        for kind in
            [Kind::Hook, Kind::Deployment, Kind::Webhook, Kind::Agent, Kind::Environment, Kind::Skill, Kind::Vault]
        {
            for found in self.state.of(kind) {
                let Some(label) = found.label.as_ref().filter(|label| label.project == self.project.name) else {
                    continue;
                };
                let key = match kind {
                    Kind::Hook => {
                        let id = found.raw["deployment_id"].as_str().unwrap_or_default();
                        let deployment = self.key(Kind::Deployment, id);
                        let file = self
                            .project
                            .resources
                            .iter()
                            .find(|file| file.kind == Kind::Deployment && file.key == deployment);
                        let Some(file) = file else { continue };
                        if file.hooks.iter().any(|hook| hook.key == label.key) {
                            continue;
                        }
                        format!("{deployment}/{}", label.key)
                    }
                    _ if in_files.contains(&(kind, &label.key)) => continue,
                    _ => label.key.clone(),
                };
                left_over.push((kind, key, found.id.clone()));
            }
        }
        // Agents with a roster go before those in it.
        if !prune {
            self.plan.left_over = left_over;
            return;
        }
        let goes: BTreeSet<&str> = left_over.iter().map(|(_, _, id)| id.as_str()).collect();
        let stays = |found: &&Found| {
            !goes.contains(found.id.as_str()) && !self.keys.contains_key(&(Kind::Deployment, found.id.clone()))
        };
        for (kind, key, id) in left_over.iter().filter(|(kind, ..)| *kind == Kind::Agent) {
            let used = self.state.of(Kind::Deployment).iter().filter(stays).find(|of| of.raw["agent"]["id"] == **id);
            if let Some(deployment) = used {
                self.problems.push(Problem::new(
                    &format!("{}/{key}", kind.folder()),
                    format!(
                        "--prune would archive the agent {id}, and with it the deployment {}, which is not of this \
                         project; archive that first, or keep the file",
                        deployment.id
                    ),
                ));
            }
        }
        self.plan.changes.extend(left_over.into_iter().map(|(kind, key, id)| Change {
            kind,
            key,
            action: Action::Remove,
            id: Some(id),
            differences: Vec::new(),
        }));
    }
}

/// How a change of a hook names it.
pub fn hook_key(file: &Resource, hook: &Hook) -> String {
    format!("{}/{}", file.key, hook.key)
}

/// The field of a file in which others of a kind are named.
fn field_of(of: Kind, named: Kind) -> &'static str {
    match (of, named) {
        (Kind::Agent, Kind::Agent) => "multiagent",
        (_, Kind::Agent) => "agent",
        (_, Kind::Skill) => "skills",
        (_, Kind::Environment) => "environment",
        _ => "vaults",
    }
}

/// What a server does not change of a resource that is there.
fn unchangeable(file: &Resource, raw: &Value, stored: Option<&super::skill::Skill>) -> Option<String> {
    match file.kind {
        Kind::Environment => {
            let (wanted, is) = (&file.normal["config"]["type"], &raw["config"]["type"]);
            (wanted != is).then(|| {
                format!(
                    "config: the type of an environment cannot be changed ({} is {is}); rename the file, which makes \
                     another environment, and archive the old one with --prune",
                    raw["id"]
                )
            })
        }
        Kind::Skill => {
            let again =
                "cannot be changed; rename the folder, which makes another skill, and delete the old one with --prune";
            let (shown, _) = Label::part(raw["display_name"].as_str().unwrap_or_default());
            if let Some(name) = file.normal["display_name"].as_str().filter(|name| *name != shown) {
                return Some(format!("display_name: that of a skill ({shown:?}, not {name:?}) {again}"));
            }
            let (wanted, is) = (&file.skill.as_ref()?.name, &stored?.name);
            (wanted != is).then(|| format!("the name in SKILL.md ({is}, not {wanted}) {again}"))
        }
        _ => None,
    }
}

/// Adds where `old` and `new` differ, field by field.
fn differ(field: &str, old: Option<&Value>, new: Option<&Value>, differences: &mut Vec<Difference>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Object(olds)), Some(Value::Object(news))) => {
            let names: BTreeSet<&String> = olds.keys().chain(news.keys()).collect();
            for name in names {
                differ(&format!("{field}.{name}"), olds.get(name), news.get(name), differences);
            }
        }
        (Some(Value::Array(olds)), Some(Value::Array(news))) if olds.len() == news.len() => {
            for (at, (old, new)) in olds.iter().zip(news).enumerate() {
                differ(&format!("{field}[{at}]"), Some(old), Some(new), differences);
            }
        }
        _ => {
            let (old, new) = (old.cloned(), new.cloned());
            differences.push(Difference { field: field.to_owned(), old, new });
        }
    }
}

impl Plan {
    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many are created, changed and removed.
    pub fn counts(&self) -> [usize; 3] {
        let count = |action| self.changes.iter().filter(|change| change.action == action).count();
        [count(Action::Create), count(Action::Update), count(Action::Remove)]
    }

    /// For people: a paragraph for each change.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            text += &change.text();
        }
        for (kind, key, id) in &self.left_over {
            let (noun, key, id) = (kind.noun(), clean_line(key), clean_line(id));
            writeln!(text, "  {noun} {key} ({id}) is in no file; --prune removes it").expect("a String takes it");
        }
        let [created, changed, removed] = self.counts();
        if self.is_empty() {
            text += "nothing to change\n";
        } else {
            writeln!(text, "{created} to create, {changed} to change, {removed} to remove").expect("a String takes it");
        }
        text
    }

    /// For programs.
    pub fn value(&self) -> Value {
        let [created, changed, removed] = self.counts();
        let changes: Vec<Value> = self.changes.iter().map(Change::value).collect();
        let left_over = self.left_over.iter().map(|(kind, key, id)| json!({"kind": kind.noun(), "key": key, "id": id}));
        json!({
            "type": "plan",
            "created": created,
            "changed": changed,
            "removed": removed,
            "changes": changes,
            "in_no_file": left_over.collect::<Vec<_>>(),
        })
    }
}

impl Action {
    pub fn as_str(self, kind: Kind) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "change",
            Self::Remove if kind.is_archived() => "archive",
            Self::Remove => "delete",
        }
    }
}

impl Change {
    /// Its kind, key and id, for people.
    pub fn name(&self) -> String {
        let id = self.id.as_ref().map(|id| format!(" ({})", clean_line(id))).unwrap_or_default();
        format!("{} {}{id}", self.kind.noun(), clean_line(&self.key))
    }

    fn text(&self) -> String {
        let sign = match self.action {
            Action::Create => '+',
            Action::Update => '~',
            Action::Remove => '-',
        };
        let mut text = format!("{sign} {} {}\n", self.action.as_str(self.kind), self.name());
        if self.kind == Kind::Vault && self.action == Action::Remove {
            text += "    its credentials are deleted with it\n";
        }
        for difference in &self.differences {
            text += &difference.text();
        }
        text
    }

    fn value(&self) -> Value {
        let differences: Vec<Value> = self
            .differences
            .iter()
            .map(|difference| json!({"field": difference.field, "old": difference.old, "new": difference.new}))
            .collect();
        json!({
            "kind": self.kind.noun(),
            "key": self.key,
            "id": self.id,
            "action": self.action.as_str(self.kind),
            "differences": differences,
        })
    }
}

/// Most characters of a value that is shown in one line.
const MAX_SHOWN: usize = 200;

impl Difference {
    fn text(&self) -> String {
        let field = normal::in_words_of_files(&self.field);
        let field = clean_line(&field);
        let texts = (self.old.as_ref().and_then(Value::as_str), self.new.as_ref().and_then(Value::as_str));
        match texts {
            (Some(old), Some(new)) if old.contains('\n') || new.contains('\n') => {
                let mut text = format!("    {field}:\n");
                for hunk in TextDiff::from_lines(old, new).unified_diff().context_radius(2).iter_hunks() {
                    for line in hunk.to_string().lines().filter(|line| !line.starts_with('\\')) {
                        writeln!(text, "      {}", clean(line)).expect("a String takes it");
                    }
                }
                text
            }
            _ => match (&self.old, &self.new) {
                (None, Some(new)) => format!("    {field}: {}\n", shown(new)),
                (Some(old), Some(new)) => format!("    {field}: {} → {}\n", shown(old), shown(new)),
                (Some(old), None) => format!("    {field}: {} → the default\n", shown(old)),
                (None, None) => format!("    {field}: the default\n"),
            },
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    let text = clean_line(&text);
    match text.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into_owned(),
    }
}

/// The metadata of a request: the label, the pairs of the file, and null for what is there and in no file.
pub fn metadata(file: &Resource, project: &str, stored: Option<&Value>) -> Value {
    let mut metadata = Fields::new();
    if let Some(stored) = stored.and_then(|raw| raw["metadata"].as_object()) {
        metadata.extend(stored.keys().map(|name| (name.clone(), Value::Null)));
    }
    if let Some(pairs) = file.normal.get("metadata").and_then(Value::as_object) {
        metadata.extend(pairs.clone());
    }
    metadata.insert(LABEL.to_owned(), json!(Label::new(project, &file.key).to_string()));
    if file.kind == Kind::Deployment {
        let wanted = normal::policy(file.policy.as_ref()).unwrap_or_default();
        metadata.extend(normal::set_by_file(&wanted).map(|set| (SET_BY_FILE.to_owned(), json!(set))));
    }
    Value::Object(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::files;

    /// A project with these files.
    fn project(texts: &[(&str, &str)]) -> Project {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [("rota.yaml", "project: acme\n")].iter().chain(texts) {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        files::read(folder.path()).unwrap()
    }

    fn agent(id: &str, version: i64, system: &str, label: Option<&str>) -> (Kind, Value) {
        let metadata = label.map_or_else(|| json!({}), |label| json!({ LABEL: label }));
        let raw = json!({
            "id": id, "version": version, "name": "Worker", "description": null, "system": system,
            "model": {"id": "m", "effort": {"type": "high"}, "speed": "standard", "inference_geo": null}, "tools": [],
            "mcp_servers": [], "skills": [], "multiagent": null, "execution_identity": {"type": "service_account"},
            "metadata": metadata,
        });
        (Kind::Agent, raw)
    }

    fn deployment(agent: &str, version: i64) -> (Kind, Value) {
        let raw = json!({
            "id": "depl_1", "name": "Nightly", "description": null, "agent": {"type": "agent", "id": agent, "version": version},
            "environment_id": "env_1", "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "Go."}]}],
            "resources": [], "vault_ids": [], "schedule": null, "status": "active", "metadata": {LABEL: "acme/nightly"},
        });
        (Kind::Deployment, raw)
    }

    fn environment() -> (Kind, Value) {
        (Kind::Environment, json!({"id": "env_1", "name": "Workshop", "metadata": {}}))
    }

    const WORKER: (&str, &str) = ("agents/worker.md", "---\nname: Worker\nmodel: m\n---\nYou work.\n");
    const NIGHTLY: (&str, &str) =
        ("deployments/nightly.md", "---\nname: Nightly\nagent: worker\nenvironment: env_1\n---\nGo.\n");

    fn planned(project: &Project, state: &State, prune: bool) -> Result<Plan, String> {
        let told = |problems: Vec<Problem>| problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
        let ids = match_files(project, state).map_err(told)?;
        plan(project, state, ids, prune).map_err(told)
    }

    fn changes(plan: &Plan) -> Vec<(Action, Kind, &str)> {
        plan.changes.iter().map(|change| (change.action, change.kind, change.key.as_str())).collect()
    }

    #[test]
    fn what_is_referred_to_comes_first() {
        let project = project(&[
            ("agents/a-lead.yaml", "name: Lead\nmodel: m\nmultiagent: {type: coordinator, agents: [worker]}\n"),
            NIGHTLY,
            WORKER,
        ]);
        let plan = planned(&project, &State::given([environment()]), false).unwrap();
        let expected = [(Kind::Agent, "worker"), (Kind::Agent, "a-lead"), (Kind::Deployment, "nightly")];
        assert_eq!(changes(&plan), expected.map(|(kind, key)| (Action::Create, kind, key)));
    }

    #[test]
    fn an_agent_that_changes_takes_its_deployment_along() {
        let project = project(&[WORKER, NIGHTLY]);
        let of = |system, version| {
            State::given([
                agent("agent_1", 3, system, Some("acme/worker")),
                environment(),
                deployment("agent_1", version),
            ])
        };
        assert!(planned(&project, &of("You work.", 3), false).unwrap().is_empty());
        let plan = planned(&project, &of("You rest.", 3), false).unwrap();
        assert_eq!(changes(&plan).len(), 2, "{}", plan.text());
        assert!(plan.text().contains("agent: \"worker@3\" → \"worker\""), "{}", plan.text());
        // An apply that was killed between the two.
        let plan = planned(&project, &of("You work.", 2), false).unwrap();
        assert_eq!(changes(&plan), [(Action::Update, Kind::Deployment, "nightly")]);
    }

    #[test]
    fn a_resource_is_known_by_its_label_then_by_its_id_and_never_by_its_name() {
        let by_id = ("agents/worker.md", "---\nid: agent_1\nname: Worker\nmodel: m\n---\nYou work.\n");
        let (named, with_id) = (project(&[WORKER]), project(&[by_id]));
        let unlabelled = State::given([agent("agent_1", 1, "You work.", None)]);
        assert_eq!(changes(&planned(&named, &unlabelled, false).unwrap()), [(Action::Create, Kind::Agent, "worker")]);
        assert_eq!(changes(&planned(&with_id, &unlabelled, false).unwrap()), [(Action::Update, Kind::Agent, "worker")]);
        let labelled =
            State::given([agent("agent_2", 1, "You work.", Some("acme/worker")), agent("agent_1", 1, "", None)]);
        assert!(planned(&with_id, &labelled, false).unwrap().is_empty());
        let other = State::given([agent("agent_1", 1, "You work.", Some("other/worker"))]);
        assert!(
            planned(&with_id, &other, false)
                .unwrap_err()
                .contains("agents/worker.md:2: id: agent_1 has the label other/worker")
        );
    }

    #[test]
    fn what_is_in_no_file_goes_when_it_is_of_the_project_and_nobody_else_uses_it() {
        let project = project(&[]);
        let ours = || agent("agent_1", 1, "", Some("acme/worker"));
        let plan =
            planned(&project, &State::given([ours(), agent("agent_2", 1, "", Some("other/worker"))]), true).unwrap();
        assert_eq!(changes(&plan), [(Action::Remove, Kind::Agent, "worker")]);
        let both = State::given([ours(), deployment("agent_1", 1)]);
        let plan = planned(&project, &both, true).unwrap();
        assert_eq!(plan.changes.iter().map(|change| change.kind).collect::<Vec<_>>(), [Kind::Deployment, Kind::Agent]);
        assert!(planned(&project, &both, false).unwrap().is_empty());
        let (kind, mut foreign) = deployment("agent_1", 1);
        foreign["metadata"] = json!({});
        let refused = planned(&project, &State::given([ours(), (kind, foreign)]), true).unwrap_err();
        assert!(refused.contains("and with it the deployment depl_1"), "{refused}");
    }

    #[test]
    fn the_default_of_a_server_is_put_back_when_a_file_names_it_no_more() {
        let jittered = (
            "deployments/nightly.md",
            "---\nname: Nightly\nagent: worker\nenvironment: env_1\npolicy: {jitter: 60}\n---\nGo.\n",
        );
        let state = |set: Option<&str>, jitter: Value| {
            let (kind, mut raw) = deployment("agent_1", 1);
            raw["metadata"][SET_BY_FILE] = json!(set);
            let mut state =
                State::given([agent("agent_1", 1, "You work.", Some("acme/worker")), environment(), (kind, raw)]);
            let mut policy = normal::policy(None).unwrap();
            policy.insert("jitter".to_owned(), jitter);
            state.policies.insert("depl_1".to_owned(), policy);
            state
        };
        let fields = |files: &[(&str, &str)], state: &State| -> Vec<String> {
            let plan = planned(&project(files), state, false).unwrap();
            plan.changes.iter().flat_map(|change| &change.differences).map(|of| of.field.clone()).collect()
        };
        assert!(fields(&[WORKER, NIGHTLY], &state(None, json!("hosted"))).is_empty(), "the server's own default");
        assert!(fields(&[WORKER, jittered], &state(Some("jitter"), json!(60))).is_empty());
        let both = ["policy.jitter", "metadata.rota.dev/policy"];
        assert_eq!(fields(&[WORKER, jittered], &state(None, json!("off"))), both);
        assert_eq!(fields(&[WORKER, NIGHTLY], &state(Some("jitter"), json!(60))), both);
    }
}
