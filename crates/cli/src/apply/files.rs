//! Reads a directory: every file that describes a resource, or everything that is wrong.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{
    kind::Kind,
    label::{OURS, is_key},
    limits::{
        MAX_ENTRIES, MAX_FILE_BYTES, MAX_PROBLEMS, MAX_SKILL_BYTES, MAX_SKILL_DEPTH, MAX_SKILL_FILES, MAX_TOTAL_BYTES,
    },
    normal,
    problem::Problem,
    skill::{self, MANIFEST, Skill, SkillFile},
};

/// The file that names the project.
pub const PROJECT: &str = "rota.yaml";
/// What a file may end with.
const ENDINGS: [&str; 3] = ["yaml", "yml", "md"];

/// Fields of a JSON object.
pub type Fields = Map<String, Value>;

/// What a directory describes.
#[derive(Debug, Default)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// In the order of their kinds.
    pub resources: Vec<Resource>,
}

/// What a file describes.
#[derive(Debug)]
pub struct Resource {
    pub kind: Kind,
    /// Its key: the name of its file.
    pub key: String,
    /// Below the directory.
    pub file: String,
    /// The text of the file, in which a field is looked for when something is wrong with it.
    text: String,
    /// The resource of a store that it stands for, where none has its label.
    pub id: Option<String>,
    /// The fields as the API has them, with keys in the places of ids.
    pub body: Fields,
    /// The same, read as the server reads them: what it would answer.
    pub normal: Fields,
    /// The policy of a deployment.
    pub policy: Option<Fields>,
    /// Whether a deployment is to be paused, where the file says.
    pub paused: Option<bool>,
    /// The hooks of a deployment.
    pub hooks: Vec<Hook>,
    /// The files of a skill.
    pub skill: Option<Skill>,
}

/// A hook of a deployment.
#[derive(Debug)]
pub struct Hook {
    pub key: String,
    /// The hook of a store that it stands for, where none has its label.
    pub id: Option<String>,
    /// Without the secret.
    pub body: Fields,
    /// The secret, where the file names a variable that has it.
    pub secret: Option<String>,
}

impl Resource {
    /// What is wrong with it, at the line of the field that `message` begins with.
    pub fn problem(&self, message: impl std::fmt::Display) -> Problem {
        at_field(&self.file, &self.text, &message.to_string())
    }
}

/// The problem that `message` tells, at the line of the field that it begins with.
fn at_field(file: &str, text: &str, message: &str) -> Problem {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let field: String = message.trim_start_matches('`').chars().take_while(|c| is_name(*c)).collect();
    let begins = |line: &str| line.strip_prefix(&field).is_some_and(|rest| rest.trim_start().starts_with(':'));
    let line = if field.is_empty() { None } else { text.lines().position(begins).map(|at| at + 1) };
    Problem { file: file.to_owned(), line, message: message.to_owned() }
}

/// Reads the directory `root`.
///
/// # Errors
/// Everything that is wrong, as far as it can be told at once.
pub fn read(root: &Path) -> Result<Project, Vec<Problem>> {
    let mut reading = Reading { root: root.to_owned(), entries: 0, bytes: 0, problems: Vec::new() };
    let project = reading.project();
    if let Some(project) = project
        && reading.problems.is_empty()
    {
        return Ok(project);
    }
    reading.problems.sort();
    reading.problems.dedup();
    let more = reading.problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        reading.problems.truncate(MAX_PROBLEMS);
        reading.problems.push(Problem::new("…", format!("and {more} more")));
    }
    Err(reading.problems)
}

struct Reading {
    root: PathBuf,
    entries: usize,
    bytes: u64,
    problems: Vec<Problem>,
}

/// What stands in a folder.
struct Entry {
    name: String,
    /// Below the directory.
    path: String,
    is_folder: bool,
    is_executable: bool,
}

impl Reading {
    fn wrong(&mut self, path: &str, message: impl std::fmt::Display) {
        self.problems.push(Problem::new(path, message));
    }

    fn project(&mut self) -> Option<Project> {
        let mut folders = BTreeSet::new();
        let mut has_name = false;
        for entry in self.entries("")? {
            let ending = entry.name.rsplit_once('.').map(|(_, ending)| ending);
            if entry.is_folder {
                let kind = Kind::WITH_FILES.into_iter().find(|kind| kind.folder() == entry.name);
                folders.extend(kind);
                if kind.is_none() {
                    let known = Kind::WITH_FILES.map(Kind::folder).join(", ");
                    let message = format!("no resources are in a folder of this name; there are {known}");
                    self.wrong(&entry.path, message);
                }
            } else if entry.name == PROJECT {
                has_name = true;
            } else if matches!(ending, Some("yaml" | "yml")) {
                self.wrong(&entry.path, "put it into the folder of its kind, for example agents/");
            }
        }
        if !has_name {
            self.wrong(
                PROJECT,
                "is missing: write a line `project: NAME`, by which resources of this directory are known",
            );
            return None;
        }
        let mut project = Project { name: self.name()?, resources: Vec::new() };
        for kind in folders {
            self.folder(kind, &mut project.resources);
        }
        Some(project)
    }

    fn name(&mut self) -> Option<String> {
        let text = self.text(PROJECT)?;
        let mut fields = self.yaml(PROJECT, &text, 0)?;
        let name = fields.remove("project");
        if let Some(other) = fields.keys().next() {
            self.wrong(PROJECT, format!("{other}: is no field; there is `project`"));
        }
        let name = name.as_ref().and_then(Value::as_str).filter(|name| is_key(name));
        if name.is_none() {
            self.wrong(PROJECT, format!("project: {KEY_RULE}"));
        }
        name.map(str::to_owned)
    }

    /// What is in a folder, sorted by name, without what begins with a dot. No link is followed.
    fn entries(&mut self, folder: &str) -> Option<Vec<Entry>> {
        let place = if folder.is_empty() { "." } else { folder };
        let listed = match fs::read_dir(self.root.join(folder)) {
            Ok(listed) => listed,
            Err(error) => {
                self.wrong(place, format!("cannot be read: {error}"));
                return None;
            }
        };
        let mut entries = Vec::new();
        for entry in listed {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.wrong(place, format!("cannot be read: {error}"));
                    return None;
                }
            };
            let Ok(name) = entry.file_name().into_string() else {
                self.wrong(place, "has a file whose name is not UTF-8; rename it");
                continue;
            };
            if folder.is_empty() && name.starts_with('.') {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                self.wrong(place, format!("the directory has more than {MAX_ENTRIES} files and folders"));
                return None;
            }
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            match entry.metadata() {
                Ok(kind) if kind.is_dir() || kind.is_file() => {
                    let is_executable = kind.permissions().mode() & 0o111 != 0;
                    entries.push(Entry { name, path, is_folder: kind.is_dir(), is_executable });
                }
                Ok(_) => self.wrong(&path, "is a link or a device; put the file itself here"),
                Err(error) => self.wrong(&path, format!("cannot be read: {error}")),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Some(entries)
    }

    /// The bytes of a file.
    fn bytes(&mut self, path: &str, most: u64) -> Option<Vec<u8>> {
        use std::os::unix::fs::OpenOptionsExt;

        // What has become a link since it was listed is not followed, and what has become a pipe is not waited for.
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let mut content = Vec::new();
        let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(self.root.join(path));
        if let Err(error) = opened.and_then(|file| file.take(most + 1).read_to_end(&mut content)) {
            self.wrong(path, format!("cannot be read: {error}"));
            return None;
        }
        self.bytes += content.len() as u64;
        if content.len() as u64 > most {
            self.wrong(path, format!("has more than {most} bytes"));
            return None;
        }
        if self.bytes > MAX_TOTAL_BYTES {
            self.wrong(path, format!("the files of the directory have more than {MAX_TOTAL_BYTES} bytes"));
            return None;
        }
        Some(content)
    }

    fn text(&mut self, path: &str) -> Option<String> {
        let bytes = self.bytes(path, MAX_FILE_BYTES)?;
        let Ok(text) = String::from_utf8(bytes) else {
            self.wrong(path, "is not UTF-8");
            return None;
        };
        Some(text.trim_start_matches('\u{feff}').replace("\r\n", "\n"))
    }

    fn yaml(&mut self, path: &str, text: &str, before: usize) -> Option<Fields> {
        match fields_of(text) {
            Ok(fields) => Some(fields),
            Err((line, message)) => {
                self.problems.push(Problem { file: path.to_owned(), line: line.map(|line| line + before), message });
                None
            }
        }
    }

    fn folder(&mut self, kind: Kind, resources: &mut Vec<Resource>) {
        let Some(entries) = self.entries(kind.folder()) else { return };
        let mut keys = BTreeSet::new();
        let mut folders = BTreeSet::new();
        for entry in &entries {
            if !entry.is_folder {
                continue;
            }
            if kind != Kind::Skill {
                self.wrong(&entry.path, format!("is a folder; put the files of {} beside each other", kind.folder()));
            } else if is_key(&entry.name) {
                folders.insert(entry.name.clone());
            } else {
                self.wrong(&entry.path, format!("the name of a folder is a key: {KEY_RULE}"));
            }
        }
        for entry in entries.iter().filter(|entry| !entry.is_folder) {
            let (key, ending) = entry.name.rsplit_once('.').unwrap_or((&entry.name, ""));
            if !ENDINGS.contains(&ending) {
                self.wrong(&entry.path, "is neither .yaml nor .md");
            } else if !is_key(key) {
                self.wrong(&entry.path, format!("the name of a file is a key: {KEY_RULE}"));
            } else if !keys.insert(key.to_owned()) {
                self.wrong(&entry.path, format!("there is another file for the {} {key}", kind.noun()));
            } else if kind == Kind::Skill && !folders.contains(key) {
                self.wrong(&entry.path, format!("there is no folder {key} with a {MANIFEST} beside it"));
            } else if let Some(resource) = self.resource(kind, key, &entry.path) {
                resources.push(resource);
            }
        }
        for key in folders.iter().filter(|key| !keys.contains(*key)) {
            let path = format!("{}/{key}/{MANIFEST}", kind.folder());
            if let Some(resource) = self.described(kind, key, &path, "", Fields::new()) {
                resources.push(resource);
            }
        }
    }

    fn resource(&mut self, kind: Kind, key: &str, path: &str) -> Option<Resource> {
        let text = self.text(path)?;
        let mut fields = if path.rsplit_once('.').is_some_and(|(_, ending)| ending == "md") {
            let (front, body) = match parted(&text) {
                Ok(parts) => parts,
                Err((line, message)) => {
                    self.problems.push(Problem { file: path.to_owned(), line, message });
                    return None;
                }
            };
            let mut fields = front;
            if let Err(message) = with_body(kind, &mut fields, body) {
                self.wrong(path, message);
                return None;
            }
            fields
        } else {
            self.yaml(path, &text, 0)?
        };
        if let Some(name) = fields.keys().find(|name| is_secret(kind, name)) {
            let message = format!(
                "{name}: a file has no secrets, and a vault in it only a name; give the vault its credentials with \
                 POST /v1/vaults/{{vault_id}}/credentials"
            );
            self.problems.push(at_field(path, &text, &message));
            return None;
        }
        fields.shift_remove("type").filter(|kind_named| kind_named != kind.noun()).inspect(|other| {
            self.problems.push(at_field(
                path,
                &text,
                &format!("type: {other} is not what this folder has; leave it out"),
            ));
        });
        self.described(kind, key, path, &text, fields)
    }

    fn described(&mut self, kind: Kind, key: &str, file: &str, text: &str, mut body: Fields) -> Option<Resource> {
        let before = self.problems.len();
        let mut wrong = |message: String| self.problems.push(at_field(file, text, &message));
        let id = body.shift_remove("id").and_then(|id| match id {
            Value::String(id) if id.starts_with(kind.prefix()) => Some(id),
            _ => {
                wrong(format!("id: must be the id of a {}, which begins with {}", kind.noun(), kind.prefix()));
                None
            }
        });
        if let Some(metadata) = body.get("metadata").and_then(Value::as_object)
            && let Some(name) = metadata.keys().find(|name| name.starts_with(OURS))
        {
            wrong(format!("metadata.{name}: pairs that begin with {OURS} are written by rota apply; leave it out"));
        }
        if let Some(label) = kind.labelled_text()
            && body.get(label).and_then(Value::as_str).is_some_and(|text| text.contains(&format!("[{OURS}")))
        {
            wrong(format!("{label}: what is in brackets behind it is written by rota apply; leave it out"));
        }
        let mut resource = Resource {
            kind,
            key: key.to_owned(),
            file: file.to_owned(),
            text: text.to_owned(),
            id,
            body,
            normal: Fields::new(),
            policy: None,
            paused: None,
            hooks: Vec::new(),
            skill: None,
        };
        let mut messages = Vec::new();
        if kind == Kind::Deployment {
            messages.extend(deployment(&mut resource));
        }
        if kind == Kind::Agent {
            skills_by_key(&mut resource.body);
        }
        if kind == Kind::Skill {
            resource.skill = self.skill(key);
        }
        match normal::read(kind, &resource.body) {
            Ok(normal) => resource.normal = normal,
            Err(message) => messages.push(normal::in_words_of_files(&message)),
        }
        for message in messages {
            self.problems.push(at_field(file, text, &message));
        }
        (self.problems.len() == before).then_some(resource)
    }

    fn skill(&mut self, key: &str) -> Option<Skill> {
        let root = format!("{}/{key}", Kind::Skill.folder());
        let mut skill = Skill::default();
        let mut bytes = 0;
        let mut folders = vec![(root.clone(), 1)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in self.entries(&folder)? {
                if entry.is_folder && depth == MAX_SKILL_DEPTH {
                    self.wrong(&entry.path, format!("the folders of a skill go at most {MAX_SKILL_DEPTH} deep"));
                    return None;
                }
                if entry.is_folder {
                    folders.push((entry.path, depth + 1));
                    continue;
                }
                let content = self.bytes(&entry.path, MAX_SKILL_BYTES)?;
                bytes += content.len() as u64;
                if bytes > MAX_SKILL_BYTES || skill.files.len() == MAX_SKILL_FILES {
                    let message = format!("a skill has at most {MAX_SKILL_FILES} files and {MAX_SKILL_BYTES} bytes");
                    self.wrong(&root, message);
                    return None;
                }
                let path = entry.path[root.len() + 1..].to_owned();
                skill.files.insert(path, SkillFile { content, is_executable: entry.is_executable });
            }
        }
        let path = format!("{root}/{MANIFEST}");
        let Some(manifest) = skill.files.get(MANIFEST) else {
            self.wrong(&path, "is missing: it says what the skill is for");
            return None;
        };
        let text = String::from_utf8_lossy(&manifest.content).replace("\r\n", "\n");
        match skill::named(&text) {
            Ok(name) => skill.name = name.unwrap_or_else(|| key.to_owned()),
            Err((line, message)) => {
                self.problems.push(Problem { file: path, line, message });
                return None;
            }
        }
        Some(skill)
    }
}

/// What a key is.
const KEY_RULE: &str = "1 to 64 lowercase letters, digits, `.`, `_` and `-`, a letter or digit first";

/// Fields with which a vault would be given a secret.
fn is_secret(kind: Kind, name: &str) -> bool {
    let name = name.to_lowercase();
    let words = ["secret", "token", "password", "credential", "api_key", "apikey", "auth"];
    kind == Kind::Vault && words.iter().any(|word| name.contains(word))
}

/// Reads YAML that is a mapping; an empty text is an empty one.
fn fields_of(text: &str) -> Result<Fields, (Option<usize>, String)> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Fields::new());
    }
    // The library bounds what aliases grow to, and refuses a key that is there twice.
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_str_with_options(text, options) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err((None, "must be a mapping: lines `field: value`".to_owned())),
        Err(error) => {
            let line = error.location().map(|location| location.line() as usize).filter(|line| *line > 0);
            let said = error.to_string();
            Err((line, format!("is not YAML that can be read: {}", said.lines().next().unwrap_or_default())))
        }
    }
}

/// The front matter of a text, and what follows it without the line breaks around it.
pub fn parted(text: &str) -> Result<(Fields, &str), (Option<usize>, String)> {
    let Some(rest) = text.strip_prefix("---\n") else {
        return Err((Some(1), "must begin with a line `---`, then fields, then a line `---`".to_owned()));
    };
    let end = if rest.starts_with("---\n") || rest == "---" {
        Some(0)
    } else {
        let mut at = rest.match_indices("\n---").map(|(at, _)| at + 1);
        at.find(|at| matches!(rest.as_bytes().get(at + 3), None | Some(b'\n')))
    };
    let Some(end) = end else {
        return Err((Some(1), "its front matter has no end: put a line `---` behind it".to_owned()));
    };
    let front = fields_of(&rest[..end]).map_err(|(line, message)| (line.map(|line| line + 1), message))?;
    Ok((front, rest[end + 3..].trim_matches('\n')))
}

/// Puts the body of a Markdown file where it belongs.
fn with_body(kind: Kind, fields: &mut Fields, body: &str) -> Result<(), String> {
    let (field, value) = match kind {
        Kind::Agent => ("system", json!(body)),
        Kind::Deployment => {
            ("initial_events", json!([{"type": "user.message", "content": [{"type": "text", "text": body}]}]))
        }
        _ if body.trim().is_empty() => return Ok(()),
        _ => return Err(format!("a {} has no text of its own; use a .yaml file", kind.noun())),
    };
    if body.trim().is_empty() {
        return Ok(());
    }
    if fields.contains_key(field) {
        return Err(format!("{field}: is also the text below the front matter; keep one of both"));
    }
    fields.insert(field.to_owned(), value);
    Ok(())
}

/// Skills of an agent that are named by their key alone.
fn skills_by_key(body: &mut Fields) {
    for skill in body.get_mut("skills").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::String(key) = skill {
            *skill = json!({"type": "custom", "skill_id": key});
        }
    }
}

/// Parts the file of a deployment into what the API has apart. Returns what is wrong.
fn deployment(resource: &mut Resource) -> Vec<String> {
    let mut wrong = Vec::new();
    let body = &mut resource.body;
    for (ours, theirs) in normal::NAMES_IN_FILES {
        if body.contains_key(theirs) {
            wrong.push(format!("{theirs}: is written `{ours}`, with keys of files or ids"));
        }
        if let Some(value) = body.shift_remove(ours) {
            body.insert(theirs.to_owned(), value);
        }
    }
    if body.get("budget").is_some_and(|budget| !budget.is_null()) {
        wrong.push("budget: is not supported; use policy.spend".to_owned());
    }
    match body.shift_remove("paused") {
        None => {}
        Some(Value::Bool(paused)) => resource.paused = Some(paused),
        Some(_) => wrong.push("paused: must be true or false".to_owned()),
    }
    match body.shift_remove("policy") {
        None | Some(Value::Null) => {}
        Some(Value::Object(policy)) => resource.policy = Some(policy),
        Some(_) => wrong.push("policy: must be a mapping".to_owned()),
    }
    if let Err(message) = normal::policy(resource.policy.as_ref()) {
        wrong.push(format!("policy.{message}"));
    }
    for mounted in body.get_mut("resources").and_then(Value::as_array_mut).into_iter().flatten() {
        wrong.extend(token(mounted).err());
    }
    match body.shift_remove("hooks") {
        None | Some(Value::Null) => {}
        Some(Value::Object(hooks)) => {
            for (key, fields) in hooks {
                match hook(&key, fields) {
                    Ok(hook) => resource.hooks.push(hook),
                    Err(message) => wrong.push(format!("hooks.{key}{message}")),
                }
            }
        }
        Some(_) => wrong.push("hooks: must be a mapping of keys to hooks".to_owned()),
    }
    wrong
}

/// Takes the token of a repository from the environment.
fn token(mounted: &mut Value) -> Result<(), String> {
    let Some(fields) = mounted.as_object_mut().filter(|fields| fields.get("type") == Some(&json!("github_repository")))
    else {
        return Ok(());
    };
    if fields.contains_key("authorization_token") {
        return Err("resources: a file has no secrets; write `authorization_token_env: NAME` with the name of an \
                    environment variable that has the token, in place of `authorization_token`"
            .to_owned());
    }
    let Some(name) = fields.shift_remove("authorization_token_env") else { return Ok(()) };
    let token = variable(&name).map_err(|message| format!("resources: authorization_token_env: {message}"))?;
    fields.insert("authorization_token".to_owned(), json!(token));
    Ok(())
}

fn hook(key: &str, fields: Value) -> Result<Hook, String> {
    if !is_key(key) {
        return Err(format!(": the name of a hook is a key: {KEY_RULE}"));
    }
    let Value::Object(mut body) = fields else { return Err(": must be a mapping".to_owned()) };
    if body.contains_key("secret") {
        return Err(
            ".secret: a file has no secrets; write `secret_env: NAME` with the name of an environment variable \
                    that has it, or leave it out and the server makes one"
                .to_owned(),
        );
    }
    if body.get("name").and_then(Value::as_str).is_some_and(|name| name.contains(&format!("[{OURS}"))) {
        return Err(".name: what is in brackets behind it is written by rota apply; leave it out".to_owned());
    }
    let id = match body.shift_remove("id") {
        None => None,
        Some(Value::String(id)) if id.starts_with(Kind::Hook.prefix()) => Some(id),
        Some(_) => return Err(format!(".id: must be the id of a hook, which begins with {}", Kind::Hook.prefix())),
    };
    let secret = match body.shift_remove("secret_env") {
        None => None,
        Some(name) => Some(variable(&name).map_err(|message| format!(".secret_env: {message}"))?),
    };
    let body = normal::hook(body, secret.as_deref()).map_err(|message| format!(".{message}"))?;
    Ok(Hook { key: key.to_owned(), id, body, secret })
}

/// The value of an environment variable that a file names.
fn variable(name: &Value) -> Result<String, String> {
    let Some(name) = name.as_str().filter(|name| !name.is_empty() && !name.contains(['=', '\0'])) else {
        return Err("must be the name of an environment variable".to_owned());
    };
    match env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => Err(format!("the environment variable {name} is not set; set it where rota apply runs")),
    }
}
