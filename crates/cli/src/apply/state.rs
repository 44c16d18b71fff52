//! What a server has.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::Value;

use super::{files::Fields, kind::Kind, label::Label, limits::MAX_ROWS, skill::Skill};
use crate::client::{Client, Error, Result, id as in_path};

/// A resource of a server that is not archived.
#[derive(Debug, Clone)]
pub struct Found {
    pub id: String,
    pub label: Option<Label>,
    /// As the server answers it.
    pub raw: Value,
}

impl Found {
    pub fn of(kind: Kind, raw: Value) -> Self {
        let label = match kind.labelled_text() {
            Some(text) => raw[text].as_str().and_then(|text| Label::part(text).1),
            None => Label::of_metadata(&raw),
        };
        Self { id: raw["id"].as_str().unwrap_or_default().to_owned(), label, raw }
    }
}

/// What a server has, as far as it was asked for.
#[derive(Debug, Default)]
pub struct State {
    found: BTreeMap<Kind, Vec<Found>>,
    /// The policies of deployments that were read.
    pub policies: BTreeMap<String, Fields>,
    /// The newest files of skills that were read.
    pub skills: BTreeMap<String, Skill>,
}

impl State {
    /// Reads the lists of `kinds`.
    pub async fn read(client: &Client, kinds: &[Kind]) -> Result<Self> {
        let mut state = Self::default();
        for kind in kinds {
            let found = match all(client, *kind, kind.path()).await {
                Err(error) if !kind.is_official() && is_absent(&error) => Vec::new(),
                found => found?,
            };
            state.found.insert(*kind, found);
        }
        Ok(state)
    }

    /// Reads what a deployment has apart: its policy and its hooks.
    pub async fn read_deployment(&mut self, client: &Client, id: &str) -> Result<()> {
        let path = format!("/rota/v1/deployments/{}", in_path(id)?);
        match client.get(&format!("{path}/policy"), &[]).await {
            Ok(Value::Object(policy)) => drop(self.policies.insert(id.to_owned(), policy)),
            Ok(_) => {}
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        let hooks = all(client, Kind::Hook, &format!("{path}/hooks")).await?;
        self.found.entry(Kind::Hook).or_default().extend(hooks);
        Ok(())
    }

    /// Reads the newest files of a skill.
    pub async fn read_skill(&mut self, client: &Client, skill: &Found) -> Result<()> {
        let version = skill.raw["latest_version_id"].as_str().unwrap_or_default();
        let path = format!("{}/{}/versions/{}/content", Kind::Skill.path(), in_path(&skill.id)?, in_path(version)?);
        let response = client.open(client.request(Method::GET, &path)).await?;
        let archive = client.body(response).await?;
        let files =
            Skill::of_archive(&archive).map_err(|error| Error::Failed(format!("skill {}: {error}", skill.id)))?;
        self.skills.insert(skill.id.clone(), files);
        Ok(())
    }

    /// Those of a kind.
    pub fn of(&self, kind: Kind) -> &[Found] {
        self.found.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// One by its id.
    pub fn get(&self, kind: Kind, id: &str) -> Option<&Found> {
        self.of(kind).iter().find(|found| found.id == id)
    }

    /// The hooks of a deployment.
    pub fn hooks<'a>(&'a self, deployment: &'a str) -> impl Iterator<Item = &'a Found> {
        self.of(Kind::Hook).iter().filter(move |hook| hook.raw["deployment_id"] == deployment)
    }

    /// A state of resources that are given, for tests.
    #[cfg(test)]
    pub fn given(found: impl IntoIterator<Item = (Kind, Value)>) -> Self {
        let mut state = Self::default();
        for (kind, raw) in found {
            state.found.entry(kind).or_default().push(Found::of(kind, raw));
        }
        state
    }
}

/// Whether a server has nothing there: the hosted service has none of what is Rota's own.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.status == 404)
}

async fn all(client: &Client, kind: Kind, path: &str) -> Result<Vec<Found>> {
    let rows = client.list(path, &[], MAX_ROWS).await?;
    if rows.is_cut {
        let words =
            format!("the server has more than {MAX_ROWS} {}: too many to tell which are of these files", kind.folder());
        return Err(Error::Failed(words));
    }
    // The hosted service lists skills of its own too.
    let is_left = |row: &Value| row["archived_at"].is_null() && row["source"]["type"] != "anthropic";
    Ok(rows.data.into_iter().filter(is_left).map(|row| Found::of(kind, row)).collect())
}

/// Those of a list that have this label and are newer than what was `known`: the newest come first.
pub async fn newer(
    client: &Client,
    kind: Kind,
    path: &str,
    known: &BTreeSet<String>,
    label: &Label,
) -> Result<Vec<String>> {
    let mut most = 100;
    loop {
        let rows = client.list(path, &[], most).await?;
        let is_known = |row: &Value| row["id"].as_str().is_some_and(|id| known.contains(id));
        let fresh = rows.data.iter().position(is_known).unwrap_or(rows.data.len());
        if fresh == rows.data.len() && rows.is_cut && most < MAX_ROWS {
            most = MAX_ROWS;
            continue;
        }
        let fresh = rows.data.into_iter().take(fresh).filter(|row| row["archived_at"].is_null());
        let fresh = fresh.map(|row| Found::of(kind, row)).filter(|found| found.label.as_ref() == Some(label));
        return Ok(fresh.map(|found| found.id).collect());
    }
}
