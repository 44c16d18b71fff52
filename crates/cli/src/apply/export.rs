//! Writes what a server has as the files that `rota apply` reads. Secrets are in none of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use rota_api::secret::Secret;
use serde_json::{Value, json};

use super::{
    ApplyArgs,
    files::{Fields, PROJECT},
    kind::Kind,
    label::{Label, is_key, key_of},
    limits::{MAX_KEY, MAX_TOTAL_BYTES},
    normal::{self, pinned},
    skill::Skill,
    state::{Found, State},
};
use crate::{
    client::{Client, Error, Result},
    output::{Exit, Out, clean_line},
    profile::{ServerArgs, Target, address},
};

/// What `rota export` is told.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The directory for the files, which is made, or is empty.
    #[arg(long, value_name = "DIR", default_value = "rota")]
    to: PathBuf,
    /// The project of the files; without it the name of the directory.
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `rota import` is told.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The address of the hosted service, or of another Rota.
    #[arg(long, value_name = "URL")]
    from_url: String,
    /// The environment variable that has a key of it.
    #[arg(long, value_name = "NAME")]
    from_key_env: String,
    /// The directory for the files, which is made, or is empty.
    #[arg(long, value_name = "DIR", default_value = "rota", conflicts_with = "apply")]
    to: PathBuf,
    /// Write no files, but apply them to the server at once.
    #[arg(long)]
    apply: bool,
    /// With --apply: only say what would change. The exit code is 7 where something would.
    #[arg(long, requires = "apply")]
    dry_run: bool,
    /// The project of the files; without it `imported`.
    #[arg(long, value_name = "NAME", default_value = "imported")]
    project: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// `rota export`.
///
/// # Errors
/// When the directory is not empty, or the server does not answer.
pub async fn export(args: ExportArgs) -> Result<Exit> {
    let out = &Out::new(args.server.json);
    let client = &Client::new(Target::find(&args.server)?)?;
    let project = match &args.project {
        Some(name) => name.clone(),
        None => key_of(&args.to.file_name().unwrap_or_default().to_string_lossy()),
    };
    check(&project)?;
    let mut state = State::read(client, &Kind::WITH_FILES).await?;
    read_skills(client, &mut state).await?;
    let deployments: Vec<String> = state.of(Kind::Deployment).iter().map(|found| found.id.clone()).collect();
    for id in deployments {
        state.read_deployment(client, &id).await?;
    }
    let export = Export::of(&project, &state, false);
    write(&args.to, &export)?;
    tell(&args.to, &export, out)
}

/// `rota import`.
///
/// # Errors
/// When there is no key, the directory is not empty, or a server does not answer.
pub async fn import(args: ImportArgs) -> Result<Exit> {
    let out = &Out::new(args.server.json);
    check(&args.project)?;
    let key = env::var(&args.from_key_env).ok().filter(|key| !key.is_empty()).ok_or_else(|| {
        Error::Usage(format!("--from-key-env: the environment variable {} is not set", clean_line(&args.from_key_env)))
    })?;
    let source = Client::new(Target { url: address(&args.from_url)?, key: Secret::new(key), workspace: None })?;
    let official: Vec<Kind> = Kind::WITH_FILES.into_iter().filter(|kind| kind.is_official()).collect();
    let mut state = State::read(&source, &official).await?;
    read_skills(&source, &mut state).await?;
    let export = Export::of(&args.project, &state, true);
    if !args.apply {
        write(&args.to, &export)?;
        return tell(&args.to, &export, out);
    }
    let folder = tempfile::tempdir().map_err(|error| Error::Failed(format!("no folder for the files: {error}")))?;
    write(folder.path(), &export)?;
    if !out.json {
        export.notes.iter().try_for_each(|note| out.line(&clean_line(note)))?;
    }
    let dir = folder.path().to_owned();
    super::apply(ApplyArgs { dir, dry_run: args.dry_run, prune: false, secrets: None, server: args.server }).await
}

fn check(project: &str) -> Result<()> {
    if is_key(project) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--project: must be 1 to {MAX_KEY} lowercase letters, digits, `.`, `_` and `-`, a letter or digit first"
    )))
}

async fn read_skills(client: &Client, state: &mut State) -> Result<()> {
    let mut bytes = 0;
    for skill in state.of(Kind::Skill).to_vec() {
        state.read_skill(client, &skill).await?;
        let files = state.skills.get(&skill.id).into_iter().flat_map(|skill| skill.files.values());
        bytes += files.map(|file| file.content.len() as u64).sum::<u64>();
        if bytes > MAX_TOTAL_BYTES {
            let words = format!("the skills have more than {MAX_TOTAL_BYTES} bytes, which is what one directory holds");
            return Err(Error::Failed(words));
        }
    }
    Ok(())
}

/// A file to be written.
struct File {
    path: String,
    content: Vec<u8>,
    is_executable: bool,
}

struct Export {
    files: Vec<File>,
    /// What is not in the files, for whoever reads what the command says.
    notes: Vec<String>,
    resources: usize,
}

/// Names of resources in files, by kind and id.
type Keys = BTreeMap<(Kind, String), String>;

impl Export {
    fn of(project: &str, state: &State, is_import: bool) -> Self {
        let keys = keys(project, state);
        let mut export = Self { files: Vec::new(), notes: Vec::new(), resources: 0 };
        for kind in Kind::WITH_FILES {
            for found in state.of(kind) {
                let key = &keys[&(kind, found.id.clone())];
                export.resource(kind, key, found, state, &keys, is_import);
            }
        }
        export.add(PROJECT, format!("project: {project}\n").into_bytes(), false);
        export
    }

    fn add(&mut self, path: &str, content: Vec<u8>, is_executable: bool) {
        self.files.push(File { path: path.to_owned(), content, is_executable });
    }

    fn resource(&mut self, kind: Kind, key: &str, found: &Found, state: &State, keys: &Keys, is_import: bool) {
        self.resources += 1;
        let name = |kind: Kind, id: &str| keys.get(&(kind, id.to_owned())).map_or_else(|| id.to_owned(), Clone::clone);
        let view = normal::view(kind, &found.raw, &name);
        let mut fields = Fields::new();
        fields.insert("id".to_owned(), json!(found.id));
        let mut text = None;
        match kind {
            Kind::Agent => {
                let skills = view.get("skills").and_then(Value::as_array).into_iter().flatten();
                for skill in skills.filter(|skill| skill["type"] == "anthropic") {
                    self.notes.push(format!(
                        "agent {key} has the skill {}, which only the hosted service has",
                        skill["skill_id"]
                    ));
                }
                text = agent(view, &mut fields);
            }
            Kind::Deployment => {
                let pins = view.get("agent").and_then(Value::as_str).map(pinned);
                if let Some((of, Some(version))) = pins
                    && state.of(Kind::Agent).iter().any(|agent| {
                        name(Kind::Agent, &agent.id) == of && agent.raw["version"].as_i64() != Some(version)
                    })
                {
                    self.notes.push(format!(
                        "deployment {key} runs version {version} of the agent {of}; its file names the newest"
                    ));
                }
                if !found.raw["budget"].is_null() {
                    self.notes.push(format!("deployment {key} has a budget, which is not taken; see policy.spend"));
                }
                text = deployment(view, &mut fields);
                for mounted in fields.get("resources").and_then(Value::as_array).into_iter().flatten() {
                    let what = mounted["type"].as_str().unwrap_or_default();
                    let need =
                        if what == "github_repository" { "set GITHUB_TOKEN to apply it" } else { "it has to be there" };
                    self.notes.push(format!("deployment {key} mounts a {what}: {need}"));
                }
                self.beside(found, state, &mut fields, key, is_import);
            }
            Kind::Vault => {
                fields.extend(full(view));
                self.notes.push(format!("vault {key}: its credentials are not taken"));
            }
            Kind::Environment => {
                let mut view = view;
                if view.get("scope") == Some(&json!("organization")) {
                    view.shift_remove("scope");
                }
                view.get_mut("config").into_iter().for_each(trim);
                fields.extend(full(view));
            }
            Kind::Webhook => {
                let mut view = full(view);
                if view.get("state") == Some(&json!("enabled")) {
                    view.shift_remove("state");
                }
                for text in ["name", "description"] {
                    if view.get(text) == Some(&json!("")) {
                        view.shift_remove(text);
                    }
                }
                fields.extend(view);
                self.notes.push(format!("webhook {key}: apply makes another signing secret in another store"));
            }
            Kind::Skill => {
                fields.extend(full(view));
                let empty = Skill::default();
                let skill = state.skills.get(&found.id).unwrap_or(&empty);
                for (path, file) in &skill.files {
                    self.add(&format!("skills/{key}/{path}"), file.content.clone(), file.is_executable);
                }
            }
            Kind::Hook => {}
        }
        let yaml = yaml(&fields);
        let folder = kind.folder();
        let (ending, content) = match text {
            Some(text) => ("md", format!("---\n{yaml}---\n{text}\n")),
            None => ("yaml", yaml),
        };
        self.add(&format!("{folder}/{key}.{ending}"), content.into_bytes(), false);
    }

    /// What the file of a deployment has beside what the API has of it.
    fn beside(&mut self, found: &Found, state: &State, fields: &mut Fields, key: &str, is_import: bool) {
        let is_paused = found.raw["status"] == "paused";
        if is_import && fields.contains_key("schedule") && !is_paused {
            self.notes.push(format!(
                "deployment {key} is paused in its file, because it still fires where it comes from: take `paused` out when it should fire here"
            ));
        }
        if is_paused || (is_import && fields.contains_key("schedule")) {
            fields.insert("paused".to_owned(), json!(true));
        }
        if let Some(stored) = state.policies.get(&found.id) {
            let mut defaults = normal::policy(None).unwrap_or_default();
            defaults.extend(defaults_of_server());
            let differs = |(field, default): (&String, &Value)| {
                let value = stored.get(field).unwrap_or(&Value::Null);
                (value != default).then(|| (field.clone(), value.clone()))
            };
            let policy: Fields = defaults.iter().filter_map(differs).collect();
            if !policy.is_empty() {
                fields.insert("policy".to_owned(), Value::Object(policy));
            }
        }
        let mut hooks = Fields::new();
        for hook in state.hooks(&found.id) {
            let view = normal::view(Kind::Hook, &hook.raw, &|_, id| id.to_owned());
            let named = view.get("name").and_then(Value::as_str).unwrap_or_default();
            let wanted = hook.label.as_ref().map_or_else(|| key_of(named), |label| label.key.clone());
            let hook_key = unused(&wanted, |key| hooks.contains_key(key));
            let mut said = Fields::new();
            said.insert("id".to_owned(), json!(hook.id));
            if !named.is_empty() {
                said.insert("name".to_owned(), json!(named));
            }
            said.extend(
                view.iter().filter(|(field, _)| *field != "name").map(|(name, value)| (name.clone(), value.clone())),
            );
            if view.get("scheme") == Some(&json!("slack")) {
                said.insert("secret_env".to_owned(), json!("SLACK_SIGNING_SECRET"));
            }
            self.notes.push(format!("hook {key}/{hook_key}: its secret is not taken"));
            hooks.insert(hook_key, Value::Object(said));
        }
        if !hooks.is_empty() {
            fields.insert("hooks".to_owned(), Value::Object(hooks));
        }
    }
}

/// What the fields of [`normal::SET_BY_SERVER`] are where nobody has configured them.
fn defaults_of_server() -> [(String, Value); 2] {
    let [catch_up_seconds, jitter] = normal::SET_BY_SERVER.map(str::to_owned);
    [(catch_up_seconds, json!(3600)), (jitter, json!("off"))]
}

/// A key for each resource: that of its label where it is one of the project, or else made of its name.
fn keys(project: &str, state: &State) -> Keys {
    let mut keys = Keys::new();
    for kind in Kind::WITH_FILES {
        let mut taken = BTreeSet::new();
        let of_project = |found: &Found| found.label.clone().filter(|label| label.project == project);
        for found in state.of(kind) {
            if let Some(label) = of_project(found)
                && taken.insert(label.key.clone())
            {
                keys.insert((kind, found.id.clone()), label.key);
            }
        }
        // The oldest first, so that a new resource changes no key.
        let mut others: Vec<&Found> = state.of(kind).iter().collect();
        others.sort_by(|a, b| a.id.cmp(&b.id));
        for found in others {
            let place = (kind, found.id.clone());
            if keys.contains_key(&place) {
                continue;
            }
            let wanted = match (&found.label, state.skills.get(&found.id)) {
                (Some(label), _) => label.key.clone(),
                (None, Some(skill)) => key_of(&skill.name),
                (None, None) => {
                    let name = ["name", "display_name"].into_iter().find_map(|name| found.raw[name].as_str());
                    key_of(Label::part(name.unwrap_or_default()).0)
                }
            };
            let key = unused(&wanted, |key| taken.contains(key));
            taken.insert(key.clone());
            keys.insert(place, key);
        }
    }
    keys
}

/// The key, or the first with a number behind it that is not taken.
fn unused(wanted: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let wanted = wanted.get(..MAX_KEY - 8).unwrap_or(wanted);
    let mut numbered = (2..).map(|number| format!("{wanted}-{number}"));
    if !is_taken(wanted) {
        return wanted.to_owned();
    }
    numbered.find(|key| !is_taken(key)).unwrap_or_default()
}

/// Fields that say something.
fn full(fields: Fields) -> Fields {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    fields.into_iter().filter(|(_, value)| says(value)).collect()
}

/// Takes out of an environment's configuration what says nothing.
fn trim(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(trim);
        *fields = full(std::mem::take(fields));
        if fields.get("packages") == Some(&json!({"type": "packages"})) {
            fields.shift_remove("packages");
        }
    }
}

/// The fields of an agent's file, and the text below them.
fn agent(view: Fields, fields: &mut Fields) -> Option<String> {
    let mut view = full(view);
    if view.get("execution_identity") == Some(&json!({"type": "service_account"})) {
        view.shift_remove("execution_identity");
    }
    if let Some(Value::Object(model)) = view.get_mut("model") {
        model.retain(|field, value| match field.as_str() {
            "effort" => *value != json!({"type": "high"}),
            "speed" => *value != json!("standard"),
            _ => !value.is_null(),
        });
        if model.len() == 1
            && let Some(id) = model.get("id").cloned()
        {
            view.insert("model".to_owned(), id);
        }
    }
    for skill in view.get_mut("skills").and_then(Value::as_array_mut).into_iter().flatten() {
        if skill["type"] == "custom" && skill["version"] == "latest" {
            *skill = skill["skill_id"].take();
        }
    }
    unpinned(Kind::Agent, &mut view);
    if let Some(roster) = view.get_mut("multiagent") {
        *roster = normal::sent(Kind::Agent, "multiagent", roster);
    }
    let text = view.get("system").and_then(Value::as_str).filter(|text| is_body(text)).map(str::to_owned);
    if text.is_some() {
        view.shift_remove("system");
    }
    fields.extend(view);
    text
}

/// The fields of a deployment's file, and the text below them.
fn deployment(view: Fields, fields: &mut Fields) -> Option<String> {
    let mut view = full(view);
    unpinned(Kind::Deployment, &mut view);
    for mounted in view.get_mut("resources").and_then(Value::as_array_mut).into_iter().flatten() {
        if mounted["type"] == "github_repository" {
            mounted["authorization_token_env"] = json!("GITHUB_TOKEN");
        }
    }
    let message = |text: &str| json!([{"type": "user.message", "content": [{"type": "text", "text": text}]}]);
    let events = view.get("initial_events").cloned().unwrap_or_default();
    let text = events[0]["content"][0]["text"].as_str();
    let text = text.filter(|text| is_body(text) && message(text) == events).map(str::to_owned);
    if text.is_some() {
        view.shift_remove("initial_events");
    }
    for (field, value) in view {
        let ours = normal::NAMES_IN_FILES.into_iter().find(|(_, theirs)| *theirs == field);
        fields.insert(ours.map_or(field, |(ours, _)| ours.to_owned()), value);
    }
    text
}

/// Versions of agents mean nothing in another store: the file names the newest.
fn unpinned(kind: Kind, view: &mut Fields) {
    normal::references(kind, view, &mut |kind, name| {
        if kind == Kind::Agent
            && let Some(text) = name.as_str()
        {
            *name = json!(pinned(text).0);
        }
    });
}

/// Whether a text is read back from below a front matter as it is.
fn is_body(text: &str) -> bool {
    !text.trim().is_empty() && text.trim_matches('\n') == text && !text.contains('\r')
}

fn yaml(fields: &Fields) -> String {
    serde_saphyr::to_string(fields).expect("JSON can be written as YAML")
}

fn write(to: &Path, export: &Export) -> Result<()> {
    let failed = |path: &Path, error: &io::Error| Error::Failed(format!("cannot write {}: {error}", path.display()));
    let is_empty = match fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(to, &error)),
    };
    if !is_empty {
        return Err(Error::Usage(format!("{} is not empty: name another directory with --to", to.display())));
    }
    // The file that names the project comes last: without it nothing is applied.
    for file in &export.files {
        let path = to.join(&file.path);
        let written = || {
            fs::create_dir_all(path.parent().unwrap_or(to))?;
            fs::write(&path, &file.content)?;
            if file.is_executable {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
            Ok(())
        };
        written().map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

fn tell(to: &Path, export: &Export, out: &Out) -> Result<Exit> {
    if out.json {
        let files: Vec<&str> = export.files.iter().map(|file| file.path.as_str()).collect();
        out.value(&json!({"type": "export", "to": to, "files": files, "notes": export.notes}))?;
        return Ok(Exit::Done);
    }
    for note in &export.notes {
        out.line(&clean_line(note))?;
    }
    out.line(&format!("{} resources in {}", export.resources, to.display()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::files::parted;

    #[test]
    fn any_text_is_read_back_as_it_was_written() {
        for text in [
            "plain",
            "yes",
            "no",
            "null",
            "~",
            "1",
            "1.5",
            "0x10",
            "1e3",
            "0123",
            "2026-03-02",
            "12:30",
            "- a",
            "a: b",
            "a #b",
            "#c",
            "",
            " ",
            " a",
            "a ",
            "a\nb",
            "a\nb\n",
            "\na",
            "a\n\n",
            "  indented\nless",
            "tab\tin",
            "\"quoted\"",
            "'single'",
            "back\\slash",
            "---",
            "...",
            "漢字",
            "\u{1f600}",
            "\u{7}",
            "\u{feff}x",
            "{{branch}}",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a`",
            "x: |\n  y",
            "a\r\nb",
            ".inf",
            "<<",
            "=",
            &"word ".repeat(80),
            &"long\n".repeat(80),
        ] {
            let mut fields = Fields::new();
            fields.insert("text".to_owned(), json!(text));
            fields.insert("list".to_owned(), json!([text, {"of": [text]}]));
            let file = format!("---\n{}---\nbody\n", yaml(&fields));
            let (read, body) = parted(&file).unwrap_or_else(|(line, said)| panic!("{text:?} {line:?} {said}: {file}"));
            assert_eq!((&read, body), (&fields, "body"), "{file}");
        }
    }

    #[test]
    fn each_resource_has_a_key_of_its_own_that_a_later_one_does_not_change() {
        let agent = |id: &str, name: &str| (Kind::Agent, json!({"id": id, "name": name, "metadata": {}}));
        let labelled = json!({"id": "agent_9", "name": "x", "metadata": {"rota.dev/key": "acme/review"}});
        let state = State::given([agent("agent_2", "Review"), agent("agent_1", "review!"), (Kind::Agent, labelled)]);
        let keys = keys("acme", &state);
        let key = |id: &str| keys[&(Kind::Agent, id.to_owned())].as_str();
        assert_eq!([key("agent_9"), key("agent_1"), key("agent_2")], ["review", "review-2", "review-3"]);
    }
}
