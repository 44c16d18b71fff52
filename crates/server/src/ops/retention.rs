//! What the next sweep of a store would remove, without removing it. Servers may go on meanwhile.

use std::collections::BTreeMap;

use rota_api::{
    id::WorkspaceId,
    retention::{RetentionKind, RetentionPreview, RetentionPreviewLine},
};

use super::source::Source;
use crate::{
    config::{Config, RetentionConfig},
    db::{self, Db, Tx},
    error::{Error, Result},
    resources::{
        retention::{self, Kept},
        workspaces,
    },
};

/// Counts what goes of the store of a configuration, in all workspaces or in one, which is named by its id, or by its name while it
/// is not archived; `database` where the configuration names one. Every row is looked at, some of them in each snapshot.
///
/// # Errors
/// When there is no store, it is of another version of this program, or it has no such workspace.
pub async fn retention_preview(
    config: Config,
    database: Option<Db>,
    workspace: Option<String>,
) -> Result<RetentionPreview> {
    let source = Source::of(&config, database)?;
    let counting = move || {
        if let Source::File(file) = &source {
            db::check_version(file)?;
        }
        let days = config.retention;
        let lines = match workspace {
            Some(named) => {
                let workspace = source.read(move |tx| workspaces::id_of(tx, &named))?;
                RetentionKind::ALL
                    .iter()
                    .map(|kind| of(&source, *kind, Some(&workspace), days))
                    .collect::<Result<Vec<_>>>()?
            }
            None => everywhere(&source, days)?,
        };
        Ok(RetentionPreview { r#type: "retention_preview", data: lines })
    };
    tokio::task::spawn_blocking(counting).await.map_err(Error::internal)?
}

/// As a sweep walks: some kinds workspace by workspace, others all together.
fn everywhere(source: &Source, days: RetentionConfig) -> Result<Vec<RetentionPreviewLine>> {
    let mut counts: BTreeMap<RetentionKind, i64> = RetentionKind::ALL.iter().map(|kind| (*kind, 0)).collect();
    let mut add = |line: RetentionPreviewLine| *counts.entry(line.kind).or_default() += line.count;
    let mut after = String::new();
    loop {
        let behind = after.clone();
        let some = source.read(move |tx| retention::workspaces(tx, &days, &behind))?;
        let Some(last) = some.last() else { break };
        after = last.to_string();
        for workspace in &some {
            for kind in [RetentionKind::Sessions, RetentionKind::Outputs, RetentionKind::Runs] {
                add(of(source, kind, Some(workspace), days)?);
            }
        }
    }
    for kind in [RetentionKind::Deliveries, RetentionKind::Egress, RetentionKind::Audit] {
        add(of(source, kind, None, days)?);
    }
    let line = |kind: &RetentionKind| RetentionPreviewLine { kind: *kind, count: counts[kind], is_cut: false };
    Ok(RetentionKind::ALL.iter().map(line).collect())
}

fn of(
    source: &Source,
    kind: RetentionKind,
    workspace: Option<&WorkspaceId>,
    days: RetentionConfig,
) -> Result<RetentionPreviewLine> {
    let workspace = workspace.cloned();
    source.read(move |tx: &mut Tx<'_>| {
        let of = workspace.as_ref().map_or(Kept::Everywhere, Kept::In);
        retention::count(tx, kind, of, &days, i64::MAX)
    })
}
