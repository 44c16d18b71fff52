//! Changes the master key while servers run: data keys are wrapped anew, secrets stay as they are.
//!
//! 1. The new key is written before the old one in the file: whoever reads it from now on knows both.
//! 2. In one transaction each data key is wrapped by the new key, and the store says that this is its key.
//! 3. The old key is taken out of the file.
//!
//! It can be cut off anywhere and run again. After 1 the store's key is the second one: it goes on with 2. After 2 the
//! store's key is the first one: what is left is 3. A running server that meets a data key wrapped by a key it does not
//! know reads the file again.

use std::sync::Arc;

use super::{
    master::{MasterKey, Masters, Source},
    seal::{fingerprint, seal, unwrap, wrapping, wrong_key},
};
use crate::{
    config::Config,
    db::{Db, Tx, vals},
    error::{Error, Result},
};

/// What became of a change of the master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// The new key is beside the old one, which is still the store's.
    Prepared {
        /// The fingerprint of the new key.
        next: String,
    },
    /// The store has the new key.
    Done {
        /// Its fingerprint.
        current: String,
        /// How many data keys were wrapped anew.
        wrapped: usize,
        /// Whether the old keys are out of the file; a variable is changed by its operator.
        are_old_gone: bool,
    },
    /// An earlier change had only to be tidied up, and is complete now. No further key was made.
    Completed {
        /// The fingerprint of the store's key.
        current: String,
    },
}

/// Puts a new key beside the store's own, without using it: for key files that have copies on other servers.
///
/// # Errors
/// When the keys are not in a file, or are not those of the store.
pub async fn prepare(config: &Config, db: &Db) -> Result<Rotation> {
    let source = Source::of(config);
    let _lock = source.lock()?;
    let (mut masters, stored) = known(&source, db).await?;
    if masters.len() == 1 {
        masters.insert(0, Arc::new(MasterKey::random()?));
        source.write(&masters)?;
    }
    let next = masters[0].fingerprint.clone();
    Ok(if next == stored { complete(&source, &masters, &stored)? } else { Rotation::Prepared { next } })
}

/// Gives the store a new master key: the one that was prepared, or one that is made now.
///
/// # Errors
/// When the keys are not those of the store, or cannot be written. Then the store has its old key, which is still there.
pub async fn rotate(config: &Config, db: &Db) -> Result<Rotation> {
    let source = Source::of(config);
    let _lock = source.lock()?;
    let (mut masters, stored) = known(&source, db).await?;
    if masters.len() == 1 {
        if matches!(source, Source::Variable(_)) {
            return Err(Error::invalid(format_args!(
                "vault: {} holds one key. Put a new one (`rota vault new-key`) before it, with a space in between, start each \
                 server again with that, and then run this again",
                source.place()
            )));
        }
        masters.insert(0, Arc::new(MasterKey::random()?));
        source.write(&masters)?;
    } else if masters[0].fingerprint == stored {
        return complete(&source, &masters, &stored);
    }
    let next = masters[0].clone();
    let known = masters.clone();
    let to = next.clone();
    let wrapped = db.write(move |tx| rewrap(tx, &known, &to)).await?;
    let are_old_gone = matches!(source, Source::File { .. });
    if are_old_gone {
        source.write(&masters[..1])?;
    }
    Ok(Rotation::Done { current: next.fingerprint.clone(), wrapped, are_old_gone })
}

fn complete(source: &Source, masters: &Masters, stored: &str) -> Result<Rotation> {
    if matches!(source, Source::File { .. }) {
        source.write(&masters[..1])?;
    }
    Ok(Rotation::Completed { current: stored.to_owned() })
}

/// The keys that are there, and the fingerprint of the one that is the store's.
async fn known(source: &Source, db: &Db) -> Result<(Masters, String)> {
    let stored = db.read(fingerprint).await?;
    let stored = stored.ok_or_else(|| Error::invalid("vault: the store has no key yet; `rota serve` makes it"))?;
    let masters = source.read()?;
    if masters.iter().any(|master| master.fingerprint == stored) {
        return Ok((masters, stored));
    }
    Err(wrong_key(source, &masters, &stored))
}

/// Wraps each data key by `to` and has the store say so. Servers that make a data key meanwhile wait, and then find that
/// theirs is wrapped by a key which is not the store's any more.
fn rewrap(tx: &mut Tx<'_>, masters: &Masters, to: &MasterKey) -> Result<usize> {
    tx.lock("vault_master WHERE fingerprint IS NOT NULL", &[])?;
    let known = fingerprint(tx)?.unwrap_or_default();
    if !masters.iter().any(|master| master.fingerprint == known) {
        return Err(Error::invalid("vault: another server has changed the key at the same moment"));
    }
    let all = tx.all("SELECT workspace_id, wrapped, master FROM data_keys", &[], |row| {
        Ok((row.text(0)?, row.text(1)?, row.text(2)?))
    })?;
    let mut count = 0;
    for (workspace, wrapped, master) in all {
        if master == to.fingerprint {
            continue;
        }
        let from = masters.iter().find(|known| known.fingerprint == master);
        let from =
            from.ok_or_else(|| Error::internal(format!("nobody knows the vault key {master} of {workspace}")))?;
        let key = unwrap(from, &workspace, &wrapped)?;
        let wrapped = seal(&to.bytes, &wrapping(&workspace), &key[..])?;
        let sql = "UPDATE data_keys SET wrapped = $2, master = $3 WHERE workspace_id = $1";
        tx.execute(sql, vals![&workspace, &wrapped, &to.fingerprint])?;
        count += 1;
    }
    tx.execute("UPDATE vault_master SET fingerprint = $1, changed_at = $2", vals![&to.fingerprint, tx.now()])?;
    Ok(count)
}
