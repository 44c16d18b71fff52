//! Who did what: the rows of the audit list. A transaction writes them itself, as the last thing before its commit, so that
//! no change is without its row and no row without its change.
//!
//! Who acts is known before a handler begins ([`acting`]); a closure that changes something for it leaves a row by that
//! alone. It adds what only it knows: the id of what it makes ([`Tx::audit_made`]), which fields are another value now
//! ([`Tx::audit_changed`]), and what changes with it ([`Tx::audit_also`]).

use std::sync::Arc;

use rota_api::{
    audit::{Actor, ActorType, AuditedResource},
    id::{AuditEventId, Id, WorkspaceId},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Tx, vals};
use crate::{
    error::Result,
    limits::{AUDIT_FIELDS, AUDIT_NAME_BYTES},
};

/// What somebody is about to do, as far as that is known before it is done.
#[derive(Debug, Clone)]
pub struct Act {
    /// Who does it.
    pub actor: Actor,
    /// What is done: `agents.update`.
    pub operation: String,
    /// The kind of what is changed: `agent`.
    pub resource: String,
    /// The id of that, where it has one by now.
    pub id: Option<String>,
    /// The id of what it is part of.
    pub parent: Option<String>,
    /// The workspace that it is in.
    pub workspace: Option<WorkspaceId>,
    /// The fields that are sent.
    pub fields: Option<Vec<String>>,
}

/// Something that changes together with what a transaction is for, or that the server does by itself.
#[derive(Debug)]
pub struct Also<'a> {
    /// Who does it. A cascade has the key of the request by itself.
    pub by: ActorType,
    /// What is done: `deployments.pause`.
    pub operation: &'static str,
    /// The kind of what is changed.
    pub resource: &'static str,
    /// The id of that.
    pub id: &'a str,
    /// The workspace that it is in.
    pub workspace: Option<&'a WorkspaceId>,
}

tokio::task_local! {
    static ACT: Option<Arc<Act>>;
}

/// Does what `doing` is as `act`. Without one, what is changed is nobody's act and leaves no row.
pub fn acting<F: Future>(act: Option<Act>, doing: F) -> impl Future<Output = F::Output> {
    ACT.scope(act.map(Arc::new), doing)
}

/// What is being done by this task.
pub(super) fn act() -> Option<Arc<Act>> {
    ACT.try_with(Clone::clone).ok().flatten()
}

/// What a transaction has found out for the row that it leaves.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) act: Option<Arc<Act>>,
    /// Whether it has changed anything.
    pub(super) changed: bool,
    id: Option<String>,
    workspace: Option<WorkspaceId>,
    fields: Option<Vec<String>>,
    also: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    actor: Actor,
    operation: String,
    resource: String,
    id: Option<String>,
    parent: Option<String>,
    workspace: Option<WorkspaceId>,
    fields: Option<Vec<String>>,
}

impl Tx<'_> {
    /// The id of what this transaction makes.
    pub fn audit_made(&mut self, id: impl AsRef<str>) {
        self.noted.id = Some(id.as_ref().to_owned());
    }

    /// The workspace of what is changed, where a request is none of a workspace.
    pub fn audit_in(&mut self, workspace: &WorkspaceId) {
        self.noted.workspace = Some(workspace.clone());
    }

    /// What it changes was `before`, and is `after` now: the fields of which one has another value than the other.
    pub fn audit_changed(&mut self, before: &impl Serialize, after: &impl Serialize) -> Result<()> {
        if self.noted.act.is_some() {
            self.noted.fields = Some(differing(&serde_json::to_value(before)?, &serde_json::to_value(after)?));
        }
        Ok(())
    }

    /// Leaves a row for what changes with this.
    pub fn audit_also(&mut self, also: &Also<'_>) {
        let key = match (also.by, &self.noted.act) {
            (ActorType::Cascade, Some(act)) => act.actor.id.clone(),
            _ => None,
        };
        self.noted.also.push(Row {
            actor: Actor { r#type: also.by, id: key },
            operation: also.operation.to_owned(),
            resource: also.resource.to_owned(),
            id: Some(also.id.to_owned()),
            parent: None,
            workspace: also.workspace.cloned(),
            fields: None,
        });
    }

    /// Leaves a row for a decision on something that is `part` of a resource. A request that decides on several things leaves one for
    /// each.
    pub fn audit_decision(&mut self, actor: Actor, workspace: &WorkspaceId, operation: &str, part: &AuditedResource) {
        self.noted.also.push(Row {
            actor,
            operation: operation.to_owned(),
            resource: part.r#type.clone(),
            id: part.id.clone(),
            parent: part.parent_id.clone(),
            workspace: Some(workspace.clone()),
            fields: None,
        });
    }

    /// Writes the rows of what was done. To be called once, after everything else.
    pub(super) fn write_audit(&mut self) -> Result<()> {
        let Noted { act, changed, id, workspace, fields, also } = std::mem::take(&mut self.noted);
        if let Some(act) = act.filter(|_| changed) {
            let Act { actor, operation, resource, id: known, parent, workspace: own, fields: sent } = &*act;
            let row = Row {
                actor: actor.clone(),
                operation: operation.clone(),
                resource: resource.clone(),
                id: id.or_else(|| known.clone()),
                parent: parent.clone(),
                workspace: workspace.or_else(|| own.clone()),
                fields: fields.or_else(|| sent.clone()),
            };
            insert(self, &row)?;
        }
        also.iter().try_for_each(|row| insert(self, row))
    }
}

fn insert(tx: &mut Tx<'_>, row: &Row) -> Result<()> {
    let now = tx.now();
    let id = AuditEventId::new(now);
    let fields = row.fields.as_ref().map(serde_json::to_string).transpose()?;
    let request = tx.request();
    tx.add(
        "INSERT INTO audit (id, workspace_id, actor_type, actor_id, operation, resource_type, resource_id, parent_id, fields,
             request_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        vals![
            &id,
            row.workspace.as_ref(),
            row.actor.r#type.as_str(),
            row.actor.id.as_deref(),
            &row.operation,
            &row.resource,
            row.id.as_deref(),
            row.parent.as_deref(),
            fields.as_deref(),
            request.as_deref(),
            now
        ],
    )
}

/// The names of fields of two objects that do not have the same value in both. When it was changed is no such field.
fn differing(before: &Value, after: &Value) -> Vec<String> {
    let empty = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let names = after.keys().filter(|name| before.get(*name) != after.get(*name)).chain(gone);
    named(names.filter(|name| *name != "updated_at").map(String::as_str))
}

/// As many of `names` as a row has, in the order of the alphabet.
pub fn named<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> =
        names.filter(|name| name.len() <= AUDIT_NAME_BYTES).take(AUDIT_FIELDS).map(str::to_owned).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{clock::Clock, db::Db};

    #[test]
    fn the_fields_that_differ_are_named_and_their_values_are_not() {
        let before = json!({"name": "a", "same": [1], "gone": 1, "updated_at": 1});
        let after = json!({"name": "b", "same": [1], "new": null, "updated_at": 2});
        assert_eq!(differing(&before, &after), ["gone", "name", "new"]);
        assert_eq!(differing(&json!(null), &json!(1)), [""; 0]);
    }

    fn act(actor: Actor) -> Act {
        Act {
            actor,
            operation: "things.update".to_owned(),
            resource: "thing".to_owned(),
            id: Some("thing_1".to_owned()),
            parent: None,
            workspace: None,
            fields: Some(vec!["name".to_owned()]),
        }
    }

    fn rows(tx: &mut Tx<'_>) -> Result<Vec<String>> {
        let sql = "SELECT actor_type, actor_id, operation, resource_id, fields FROM audit ORDER BY created_at, operation DESC";
        tx.all(sql, &[], |row| {
            let (actor, fields) = (row.opt_text(1)?.unwrap_or_default(), row.opt_text(4)?.unwrap_or_default());
            Ok(format!("{} {actor} {} {} {fields}", row.text(0)?, row.text(2)?, row.text(3)?))
        })
    }

    #[tokio::test]
    async fn a_change_leaves_its_row_in_its_own_transaction_and_what_changes_nothing_leaves_none() {
        let folder = tempfile::TempDir::new().unwrap();
        let (db, writer) = Db::open(folder.path(), Clock::System, Box::new(|_| {})).unwrap();
        let write = "INSERT INTO nodes (id, alive_until) VALUES ($1, 0)";
        let by_key = || Some(act(Actor::key(ActorType::ApiKey, "apikey_1")));
        let add = |id: &'static str| move |tx: &mut Tx<'_>| tx.execute(write, vals![id]);
        db.write(add("by nobody")).await.unwrap();
        acting(by_key(), db.write(add("a"))).await.unwrap();
        acting(by_key(), db.write(|tx| tx.execute("DELETE FROM nodes WHERE id = 'none'", &[]))).await.unwrap();
        acting(by_key(), db.write(|tx| tx.one("SELECT 1", &[], |_| Ok(())))).await.unwrap();
        let failing = acting(
            by_key(),
            db.write(move |tx| {
                tx.execute(write, vals!["c"])?;
                Err::<(), _>(crate::error::Error::invalid("no"))
            }),
        );
        failing.await.unwrap_err();
        acting(by_key(), acting(None, db.write(add("beside")))).await.unwrap();
        let made = acting(
            by_key(),
            db.write(move |tx| {
                tx.one("UPDATE nodes SET alive_until = 1 WHERE id = 'a' RETURNING id", &[], |_| Ok(()))?;
                tx.audit_made("thing_2");
                tx.audit_changed(&json!({"a": 1}), &json!({"a": 2}))?;
                let also = Also {
                    by: ActorType::Cascade,
                    operation: "parts.archive",
                    resource: "part",
                    id: "part_1",
                    workspace: None,
                };
                tx.audit_also(&also);
                Ok(())
            }),
        );
        made.await.unwrap();
        assert_eq!(
            db.read(rows).await.unwrap(),
            [
                r#"api_key apikey_1 things.update thing_1 ["name"]"#,
                r#"api_key apikey_1 things.update thing_2 ["a"]"#,
                "cascade apikey_1 parts.archive part_1 ",
            ]
        );
        drop(db);
        writer.join();
    }
}
