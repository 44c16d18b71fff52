//! Blobs: whether the bytes that rows name are there, and are what the rows say.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use rota_api::id::BlobId;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::Findings;
use crate::{
    blobs::Blobs,
    clock::Clock,
    config::Config,
    error::{Error, Result},
    hex,
    ops::{
        named::{Named, ROWS, Rows},
        source::Source,
    },
};

pub(super) fn check(config: &Config, source: &Source, handle: &Handle, found: &mut Findings) -> Result<()> {
    let blobs = Blobs::open(config, Clock::System)?;
    let mut seen = HashMap::new();
    for rows in ROWS {
        check_rows(source, rows, &mut seen, found, |id| handle.block_on(content(&blobs, id)))?;
    }
    let named: HashSet<&BlobId> = seen.keys().collect();
    let unnamed = async {
        let (mut count, mut old) = (0, std::pin::pin!(blobs.old()));
        while let Some(batch) = old.try_next().await? {
            count += batch.iter().filter(|blob| !named.contains(&blob.id)).count() as u64;
        }
        Ok::<_, Error>(count)
    };
    found.checked.unnamed_blobs = handle.block_on(unnamed)?;
    Ok(())
}

/// What is in a blob: how many bytes, and their SHA-256. `None` when it is not there.
type Content = Option<(u64, String)>;

fn check_rows(
    source: &Source,
    rows: Rows,
    seen: &mut HashMap<BlobId, Content>,
    found: &mut Findings,
    read: impl Fn(&BlobId) -> Result<Content>,
) -> Result<()> {
    let mut after = String::new();
    loop {
        let from = after.clone();
        let page = source.read(move |tx| rows.page(tx, &from))?;
        let Some(last) = page.last() else { return Ok(()) };
        last.id.as_ref().clone_into(&mut after);
        for named in page {
            let content = if let Some(content) = seen.get(&named.id) {
                content.clone()
            } else {
                let content = read(&named.id)?;
                found.checked.blobs += 1;
                found.checked.blob_bytes += content.as_ref().map_or(0, |(bytes, _)| *bytes);
                seen.insert(named.id.clone(), content.clone());
                content
            };
            let Some((kind, problem)) = problem(rows, &named, content.as_ref()) else { continue };
            // It may have been deleted meanwhile.
            let id = named.id.clone();
            if source.read(move |tx| rows.name(tx, &id))? {
                found.add(kind, None, &named.id, &problem);
            }
        }
    }
}

fn problem(rows: Rows, named: &Named, content: Option<&(u64, String)>) -> Option<(&'static str, String)> {
    let what = rows.what;
    let Some((bytes, sha256)) = content else {
        return Some(("missing_bytes", format!("the bytes of {what} are not there")));
    };
    if let Some(known) = named.bytes
        && known as u64 != *bytes
    {
        return Some(("damaged_bytes", format!("{what} has {known} bytes, and {bytes} are there")));
    }
    let known = named.sha256.as_ref().filter(|known| *known != sha256)?;
    Some(("damaged_bytes", format!("the SHA-256 of {what} is {known}, and that of the bytes is {sha256}")))
}

async fn content(blobs: &Blobs, id: &BlobId) -> Result<Content> {
    let mut pieces = match blobs.read(id).await {
        Ok(pieces) => pieces,
        // What is not there, as against a place that does not answer.
        Err(Error::Internal(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    while let Some(piece) = pieces.try_next().await? {
        hash.update(&piece);
        bytes += piece.len() as u64;
    }
    Ok(Some((bytes, hex::digits(&hash.finalize()))))
}
