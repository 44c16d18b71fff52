//! Makes the changes of a plan, one after the other. Killed between any two requests, it leaves what another apply goes on from:
//! whatever it has made has its label from the beginning.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    files::{Fields, Hook, Project, Resource},
    kind::Kind,
    label::Label,
    limits::TWIN_PATIENCE_SECONDS,
    normal::{self, pinned},
    plan::{Action, Change, Plan, hook_key, metadata},
    skill::Skill,
    state::{self, State},
};
use crate::{
    client::{Client, Error, Result, id as in_path},
    output::Out,
};

/// Where secrets are written that a server shows once.
pub struct Secrets {
    file: fs::File,
}

impl Secrets {
    /// Opens the file, or makes it, for its user alone.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Failed(format!("cannot write {}: {error}", path.display()));
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            let shown = path.display();
            let words = format!(
                "{shown} is for secrets, and others may read or change it (mode {mode:04o}): chmod 600 {shown}"
            );
            return Err(Error::Usage(words));
        }
        Ok(Self { file })
    }

    /// Writes a line, which is on the disk when this returns.
    fn keep(&mut self, line: &Value) -> Result<()> {
        let written = writeln!(self.file, "{line}").and_then(|()| self.file.sync_all());
        written.map_err(|error| Error::Failed(format!("cannot write the file of secrets: {error}")))
    }
}

/// Whether a change makes a secret that a server shows once.
pub fn makes_secret(project: &Project, change: &Change) -> bool {
    let has_own = || {
        let mut hooks = project.resources.iter().flat_map(|file| file.hooks.iter().map(move |hook| (file, hook)));
        hooks.any(|(file, hook)| hook_key(file, hook) == change.key && hook.secret.is_some())
    };
    change.action == Action::Create && (change.kind == Kind::Webhook || (change.kind == Kind::Hook && !has_own()))
}

/// Makes the changes of a plan.
pub async fn perform(
    client: &Client,
    out: &Out,
    project: &Project,
    state: &State,
    plan: &Plan,
    secrets: Option<Secrets>,
) -> Result<()> {
    let mut performing = Performing { client, project, state, ids: plan.ids.clone(), secrets };
    for change in &plan.changes {
        let named = |error| in_words(error, change);
        let id = performing.change(change).await.map_err(named)?;
        let done = match change.action {
            Action::Create => "created",
            Action::Update => "changed",
            Action::Remove if change.kind.is_archived() => "archived",
            Action::Remove => "deleted",
        };
        if out.json {
            out.value(
                &json!({"type": "applied", "kind": change.kind.noun(), "key": change.key, "done": done, "id": id}),
            )?;
        } else {
            out.line(&format!("{done} {} {} ({id})", change.kind.noun(), change.key))?;
        }
    }
    Ok(())
}

/// An error with the change that it is about, and what to do.
fn in_words(error: Error, change: &Change) -> Error {
    let name = change.name();
    match error {
        Error::Refused(mut refusal) => {
            let again = if refusal.status == 409 { "; somebody has changed it meanwhile: apply again" } else { "" };
            refusal.message = format!("{name}: {}{again}", refusal.message);
            Error::Refused(refusal)
        }
        Error::Failed(words) => Error::Failed(format!("{name}: {words}")),
        Error::Unreachable { base, why } => {
            let why = format!("{why} ({name} may be done or not; what is done stays: apply again)");
            Error::Unreachable { base, why }
        }
        other => other,
    }
}

struct Performing<'a> {
    client: &'a Client,
    project: &'a Project,
    state: &'a State,
    ids: BTreeMap<(Kind, String), String>,
    secrets: Option<Secrets>,
}

impl Performing<'_> {
    async fn change(&mut self, change: &Change) -> Result<String> {
        if let (Action::Remove, Some(id)) = (change.action, &change.id) {
            self.remove(change.kind, id).await?;
            return Ok(id.clone());
        }
        let project = self.project;
        let of_hook = change.key.split_once('/').filter(|_| change.kind == Kind::Hook);
        let (kind, key) = of_hook.map_or((change.kind, change.key.as_str()), |(key, _)| (Kind::Deployment, key));
        let file = project.resources.iter().find(|file| file.kind == kind && file.key == key);
        let file = file.ok_or_else(|| Error::Failed("its file is gone".to_owned()))?;
        let id = match (change.kind, &change.id) {
            (Kind::Hook, _) => {
                let hook = file.hooks.iter().find(|hook| hook_key(file, hook) == change.key);
                let hook = hook.ok_or_else(|| Error::Failed("its file is gone".to_owned()))?;
                return self.create_hook(file, hook).await;
            }
            (Kind::Skill, id) => self.upload(file, id.as_deref()).await?,
            (Kind::Webhook, None) => self.create_webhook(file).await?,
            (Kind::Deployment, None) => self.create_deployment(file).await?,
            (_, None) => self.create(file, self.body(file, None)?).await?,
            (Kind::Deployment, Some(id)) => self.update_deployment(file, id, change).await?,
            (_, Some(id)) => self.update(file, id, &fields_of(change)).await?,
        };
        self.ids.insert((change.kind, change.key.clone()), id.clone());
        Ok(id)
    }

    fn label(&self, key: &str) -> Label {
        Label::new(&self.project.name, key)
    }

    /// The fields of a file as requests have them: all that it names, or those of `only`, where null clears what it does not name.
    fn body(&self, file: &Resource, only: Option<&BTreeSet<String>>) -> Result<Fields> {
        let mut normal = file.normal.clone();
        let mut missing = None;
        normal::references(file.kind, &mut normal, &mut |kind, name| {
            let text = name.as_str().unwrap_or_default().to_owned();
            let (key, version) = if kind == Kind::Agent { pinned(&text) } else { (text.as_str(), None) };
            let id = match self.ids.get(&(kind, key.to_owned())) {
                Some(id) => id,
                None if self.state.get(kind, key).is_some() => key,
                None => {
                    missing = Some(format!("there is no {} {key}", kind.noun()));
                    return;
                }
            };
            *name = json!(version.map_or_else(|| id.to_owned(), |version| format!("{id}@{version}")));
        });
        if let Some(missing) = missing {
            return Err(Error::Failed(missing));
        }
        let is_made = |field: &str| {
            let made = ["skills", "multiagent", "agent", "environment_id", "vault_ids", "model", "config"];
            made.contains(&field) || file.kind == Kind::Webhook
        };
        let named: BTreeSet<String> = match only {
            Some(only) => only.clone(),
            None => file.body.keys().cloned().collect(),
        };
        let mut body = Fields::new();
        for field in named {
            let value = match file.body.get(&field) {
                _ if is_made(&field) => normal::sent(file.kind, &field, normal.get(&field).unwrap_or(&Value::Null)),
                Some(value) => value.clone(),
                None => Value::Null,
            };
            body.insert(field, value);
        }
        if file.kind == Kind::Webhook {
            if only.is_none_or(|only| only.contains("description")) {
                let description = normal.get("description").and_then(Value::as_str).unwrap_or_default();
                body.insert("description".to_owned(), json!(self.label(&file.key).behind(description)));
            }
            return Ok(body);
        }
        let stored = match only {
            None => None,
            Some(only) if !only.contains("metadata") => return Ok(body),
            Some(_) => self.ids.get(&(file.kind, file.key.clone())).and_then(|id| self.state.get(file.kind, id)),
        };
        body.insert("metadata".to_owned(), metadata(file, &self.project.name, stored.map(|found| &found.raw)));
        Ok(body)
    }

    async fn create(&self, file: &Resource, body: Fields) -> Result<String> {
        let label = self.label(&file.key);
        let path = file.kind.path();
        match self.client.post(path, &Value::Object(body)).await {
            Ok(made) => self.settled(file.kind, path, &label, &made).await,
            Err(Error::Refused(refusal)) => {
                // Names of environments are taken once: by another apply, perhaps.
                let twins = self.newer(file.kind, path, &label).await?;
                twins.into_iter().min().ok_or(Error::Refused(refusal))
            }
            Err(error) => Err(error),
        }
    }

    async fn newer(&self, kind: Kind, path: &str, label: &Label) -> Result<Vec<String>> {
        let known = self.state.of(kind).iter().map(|found| found.id.clone()).collect();
        state::newer(self.client, kind, path, &known, label).await
    }

    /// Which resource stands for a label that was just given to `made`. Another apply may have made one at the same time: the older
    /// one stays, and whoever made the other one takes it back. Where nobody does, this one is taken back.
    async fn settled(&self, kind: Kind, path: &str, label: &Label, made: &Value) -> Result<String> {
        let own = made["id"].as_str().unwrap_or_default().to_owned();
        let patience = Instant::now() + Duration::from_secs(TWIN_PATIENCE_SECONDS);
        loop {
            let twins = self.newer(kind, path, label).await?;
            let Some(other) = twins.into_iter().filter(|id| *id != own).min() else { return Ok(own) };
            if other < own || Instant::now() > patience {
                self.remove(kind, &own).await?;
                return Ok(other);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn remove(&self, kind: Kind, id: &str) -> Result<()> {
        let path = format!("{}/{}", kind.path(), in_path(id)?);
        if kind.is_archived() {
            self.client.post(&format!("{path}/archive"), &Value::Null).await?;
            return Ok(());
        }
        match self.client.delete(&path).await {
            // It is gone: that is what was wanted.
            Err(Error::Refused(refusal)) if refusal.status == 404 => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn update(&self, file: &Resource, id: &str, fields: &BTreeSet<String>) -> Result<String> {
        let mut body = self.body(file, Some(fields))?;
        if file.kind == Kind::Agent
            && let Some(version) = self.state.get(Kind::Agent, id).map(|agent| agent.raw["version"].clone())
        {
            body.insert("version".to_owned(), version);
        }
        self.client.post(&format!("{}/{}", file.kind.path(), in_path(id)?), &Value::Object(body)).await?;
        Ok(id.to_owned())
    }

    async fn create_webhook(&mut self, file: &Resource) -> Result<String> {
        let mut body = self.body(file, None)?;
        let state = body.shift_remove("state").filter(|state| state == "disabled");
        let path = Kind::Webhook.path();
        let made = self.client.post(path, &Value::Object(body)).await?;
        let id = self.settled(Kind::Webhook, path, &self.label(&file.key), &made).await?;
        if made["id"] == *id {
            self.keep(
                &json!({"kind": "webhook", "key": file.key, "id": id, "signing_secret": made["signing_secret"]}),
            )?;
        }
        if let Some(state) = state {
            self.client.post(&format!("{path}/{}", in_path(&id)?), &json!({ "state": state })).await?;
        }
        Ok(id)
    }

    async fn create_hook(&mut self, file: &Resource, hook: &Hook) -> Result<String> {
        let deployment = self.ids.get(&(Kind::Deployment, file.key.clone())).cloned().unwrap_or_default();
        let path = format!("/rota/v1/deployments/{}/hooks", in_path(&deployment)?);
        let label = self.label(&hook.key);
        let mut body = hook.body.clone();
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
        body.insert("name".to_owned(), json!(label.behind(name)));
        body.extend(hook.secret.as_ref().map(|secret| ("secret".to_owned(), json!(secret))));
        let made = self.client.post(&path, &Value::Object(body)).await?;
        let id = self.settled(Kind::Hook, &path, &label, &made).await?;
        if made["id"] == *id && hook.secret.is_none() {
            let key = hook_key(file, hook);
            self.keep(&json!({"kind": "hook", "key": key, "id": id, "path": made["path"], "secret": made["secret"]}))?;
        }
        Ok(id)
    }

    fn keep(&mut self, line: &Value) -> Result<()> {
        match &mut self.secrets {
            Some(secrets) => secrets.keep(line),
            None => Err(Error::Failed("its secret was not written anywhere: --secrets names a file".to_owned())),
        }
    }

    async fn upload(&self, file: &Resource, id: Option<&str>) -> Result<String> {
        let empty = Skill::default();
        let skill = file.skill.as_ref().unwrap_or(&empty);
        let archive = skill.archive().map_err(|error| Error::Failed(error.to_string()))?;
        let label = self.label(&file.key);
        let name = file.normal["display_name"].as_str().unwrap_or(&skill.name);
        let shown = label.behind(name);
        let path = match id {
            None => Kind::Skill.path().to_owned(),
            Some(id) => format!("{}/{}/versions", Kind::Skill.path(), in_path(id)?),
        };
        let (boundary, form) = form(id.is_none().then_some(shown.as_str()), &archive);
        let request = self.client.request(Method::POST, &path);
        let request = request.header("content-type", format!("multipart/form-data; boundary={boundary}")).body(form);
        let made = self.client.answer(request).await?;
        match id {
            Some(id) => Ok(id.to_owned()),
            None => self.settled(Kind::Skill, &path, &label, &made).await,
        }
    }

    /// Creates it without a schedule, which comes last: nothing fires before the policy holds, and twice while there are twins.
    async fn create_deployment(&self, file: &Resource) -> Result<String> {
        let mut body = self.body(file, None)?;
        let schedule = body.shift_remove("schedule").filter(|schedule| !schedule.is_null());
        let id = self.create(file, body).await?;
        let path = format!("{}/{}", Kind::Deployment.path(), in_path(&id)?);
        if let Some(policy) = file.policy.as_ref().filter(|policy| !policy.is_empty()) {
            self.set_policy(&id, policy).await?;
        }
        if file.paused == Some(true) {
            self.client.post(&format!("{path}/pause"), &Value::Null).await?;
        }
        if let Some(schedule) = schedule {
            self.client.post(&path, &json!({ "schedule": schedule })).await?;
        }
        Ok(id)
    }

    /// What pauses and what bounds comes first, then the schedule with the rest, and what lets it fire again last.
    async fn update_deployment(&self, file: &Resource, id: &str, change: &Change) -> Result<String> {
        let path = format!("{}/{}", Kind::Deployment.path(), in_path(id)?);
        let mut fields = fields_of(change);
        let paused = fields.remove("paused").then_some(file.paused).flatten();
        if paused == Some(true) {
            self.client.post(&format!("{path}/pause"), &Value::Null).await?;
        }
        if fields.remove("policy") {
            let named = |difference: &super::plan::Difference| {
                let field = difference.field.strip_prefix("policy.")?;
                Some(field.split(['.', '[']).next().unwrap_or(field).to_owned())
            };
            let said = file.policy.clone().unwrap_or_default();
            let value = |field: String| {
                let value = said.get(&field).cloned().unwrap_or_default();
                (field, value)
            };
            self.set_policy(id, &change.differences.iter().filter_map(named).map(value).collect()).await?;
        }
        if !fields.is_empty() {
            self.update(file, id, &fields).await?;
        }
        if paused == Some(false) {
            self.client.post(&format!("{path}/unpause"), &Value::Null).await?;
        }
        Ok(id.to_owned())
    }

    async fn set_policy(&self, deployment: &str, policy: &Fields) -> Result<()> {
        let path = format!("/rota/v1/deployments/{}/policy", in_path(deployment)?);
        self.client.post(&path, &Value::Object(policy.clone())).await.map(drop)
    }
}

/// The fields of a request that a change is about.
fn fields_of(change: &Change) -> BTreeSet<String> {
    let field = |field: &str| field.split(['.', '[']).next().unwrap_or(field).to_owned();
    let label = if change.kind == Kind::Webhook { "description" } else { "metadata" };
    let fields = change.differences.iter().map(|difference| field(&difference.field));
    fields.map(|field| if field == "label" { label.to_owned() } else { field }).collect()
}

/// A form with an archive, and what parts its fields.
fn form(display_name: Option<&str>, archive: &[u8]) -> (String, Vec<u8>) {
    let mut boundary = "rota-skill".to_owned();
    while archive.windows(boundary.len()).any(|window| window == boundary.as_bytes()) {
        boundary.push('x');
    }
    let mut form = Vec::with_capacity(archive.len() + 512);
    let mut part = |about: &str, content: &[u8]| {
        form.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; {about}\r\n\r\n").as_bytes());
        form.extend_from_slice(content);
        form.extend_from_slice(b"\r\n");
    };
    if let Some(name) = display_name {
        part("name=\"display_name\"", name.as_bytes());
    }
    part("name=\"files[]\"; filename=\"skill.zip\"", archive);
    form.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (boundary, form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parts_a_form_is_not_in_its_archive() {
        let (boundary, form) = form(Some("Reports"), b"PK rota-skill rota-skillx");
        assert_eq!(boundary, "rota-skillxx");
        assert!(form.ends_with(b"--rota-skillxx--\r\n"));
    }
}
