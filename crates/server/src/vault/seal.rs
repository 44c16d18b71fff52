//! Seals secrets: XChaCha20-Poly1305 under the data key of a workspace, which the master key wraps.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use rota_api::id::WorkspaceId;
use zeroize::Zeroizing;

use super::master::{KEY_BYTES, KeyBytes, MasterKey, Masters, Source, random_key};
use crate::{
    config::Config,
    db::{Db, Tx, acting, vals},
    error::{Error, Result},
    limits::{DATA_KEY_TRIES, DATA_KEYS_IN_MEMORY, MAX_MASTER_KEYS},
};

/// What a sealed text begins with: which way it was sealed.
const FORM: &str = "x1.";
const NONCE_BYTES: usize = 24;

/// Whose a sealed text is. It opens nowhere else: a row's secret that is copied into another row is none.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// What kind of row.
    pub kind: &'static str,
    /// The id of the row.
    pub id: &'a str,
}

impl Owner<'_> {
    fn associated(self, workspace: &str) -> Vec<u8> {
        format!("{}\n{workspace}\n{}", self.kind, self.id).into_bytes()
    }
}

/// The key under which the secrets of a workspace are sealed. Cheap to clone; it does not print and is wiped.
#[derive(Clone)]
pub struct DataKey {
    workspace: WorkspaceId,
    bytes: Arc<KeyBytes>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

impl DataKey {
    pub(super) fn new(workspace: WorkspaceId, bytes: KeyBytes) -> Self {
        Self { workspace, bytes: Arc::new(bytes) }
    }

    /// Seals `secret` for `owner`: a text for the store.
    pub fn seal(&self, owner: Owner<'_>, secret: &[u8]) -> Result<String> {
        seal(&self.bytes, &owner.associated(self.workspace.as_ref()), secret)
    }

    /// Opens what was sealed for `owner`.
    ///
    /// # Errors
    /// When it was sealed for another row or under another key, or was changed.
    pub fn open(&self, owner: Owner<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>> {
        open(&self.bytes, &owner.associated(self.workspace.as_ref()), sealed)
            .ok_or_else(|| Error::internal(format!("the secret of {} {} cannot be opened", owner.kind, owner.id)))
    }
}

pub(super) fn seal(key: &KeyBytes, associated: &[u8], secret: &[u8]) -> Result<String> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(Error::internal)?;
    let cipher = XChaCha20Poly1305::new((&**key).into());
    let sealed = cipher.encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: associated });
    let sealed = sealed.map_err(|_| Error::internal("a secret could not be sealed"))?;
    Ok(format!("{FORM}{}", URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat())))
}

pub(super) fn open(key: &KeyBytes, associated: &[u8], sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = URL_SAFE_NO_PAD.decode(sealed.strip_prefix(FORM)?).ok()?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>()?;
    let cipher = XChaCha20Poly1305::new((&**key).into());
    cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: associated }).ok().map(Zeroizing::new)
}

/// What the wrapped data key of a workspace is bound to.
pub(super) fn wrapping(workspace: &str) -> Vec<u8> {
    Owner { kind: "data_key", id: "" }.associated(workspace)
}

/// The keys of this server: master keys, and the data keys that it has used.
pub struct Vault {
    source: Source,
    pub(super) masters: RwLock<Masters>,
    data_keys: Mutex<HashMap<WorkspaceId, DataKey>>,
}

impl Vault {
    /// Finds the master key of the store. A new store gets one, in the data folder.
    ///
    /// # Errors
    /// When the key is missing or another one than that of the store; the message says what to do.
    pub async fn open(config: &Config, db: &Db) -> Result<Self> {
        let source = Source::of(config);
        let mut masters = source.read()?;
        let stored = db.read(fingerprint).await?;
        let made = masters.is_empty() && stored.is_none();
        if made {
            masters.push(Arc::new(MasterKey::random()?));
            // Before the store knows of it: a key that the store names is on the disk.
            source.write(&masters)?;
        }
        if let Some(first) = masters.first() {
            let own = first.fingerprint.clone();
            let known = match stored {
                Some(stored) => stored,
                None => db.write(move |tx| begin(tx, &own)).await?,
            };
            if masters.iter().any(|master| master.fingerprint == known) {
                return Ok(Self { source, masters: RwLock::new(masters), data_keys: Mutex::default() });
            }
            if made {
                source.discard();
            }
            return Err(wrong_key(&source, &masters, &known));
        }
        Err(wrong_key(&source, &masters, &stored.unwrap_or_default()))
    }

    /// The data key of a workspace, made when it is first asked for.
    ///
    /// It is never taken from a transaction that may still be undone: nothing is sealed under a key that the store does
    /// not have.
    pub async fn key(&self, db: &Db, workspace: &WorkspaceId) -> Result<DataKey> {
        if let Some(key) = self.known(workspace) {
            return Ok(key);
        }
        for _ in 0..DATA_KEY_TRIES {
            let of = workspace.clone();
            if let Some((wrapped, master)) = db.read(move |tx| stored(tx, &of)).await? {
                return self.unwrapped(workspace, &wrapped, &master);
            }
            let current = db.read(fingerprint).await?.ok_or_else(|| Error::internal("the store names no vault key"))?;
            let master = self.master(&current)?;
            let wrapped = seal(&master.bytes, &wrapping(workspace.as_ref()), &random_key()?[..])?;
            let of = workspace.clone();
            // It is no change that the request asks for.
            acting(None, db.write(move |tx| insert(tx, &of, &wrapped, &current))).await?;
        }
        Err(Error::internal("the vault key is being changed again and again"))
    }

    /// The data key of a workspace that has sealed something before, from within a transaction: the store has that key for
    /// good.
    ///
    /// # Errors
    /// When it has none.
    pub fn key_in(&self, tx: &mut Tx<'_>, workspace: &WorkspaceId) -> Result<DataKey> {
        if let Some(key) = self.known(workspace) {
            return Ok(key);
        }
        let found = stored(tx, workspace)?;
        let (wrapped, master) = found.ok_or_else(|| Error::internal(format!("{workspace} has no data key")))?;
        self.unwrapped(workspace, &wrapped, &master)
    }

    fn known(&self, workspace: &WorkspaceId) -> Option<DataKey> {
        self.data_keys.lock().unwrap_or_else(PoisonError::into_inner).get(workspace).cloned()
    }

    fn unwrapped(&self, workspace: &WorkspaceId, wrapped: &str, master: &str) -> Result<DataKey> {
        let bytes = Arc::new(unwrap(&*self.master(master)?, workspace.as_ref(), wrapped)?);
        let key = DataKey { workspace: workspace.clone(), bytes };
        self.keep(key.clone());
        Ok(key)
    }

    fn keep(&self, key: DataKey) {
        let mut keys = self.data_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= DATA_KEYS_IN_MEMORY {
            keys.clear();
        }
        keys.insert(key.workspace.clone(), key);
    }

    /// The master key of this fingerprint. One that is not known may have come with a rotation: the file is read again.
    fn master(&self, fingerprint: &str) -> Result<Arc<MasterKey>> {
        let find = |masters: &Masters| masters.iter().find(|master| master.fingerprint == fingerprint).cloned();
        if let Some(found) = find(&self.masters.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(found);
        }
        let mut masters = self.source.read()?;
        let found = find(&masters).ok_or_else(|| {
            Error::internal(format!(
                "the store has been given the vault key {fingerprint}, which {} does not have: copy the key file of the server \
                 on which the key was changed, or set the variable anew and start this server again",
                self.source.place()
            ))
        })?;
        let mut known = self.masters.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have read a data key a moment ago that was wrapped by one of these.
        masters.extend(known.drain(..));
        masters.truncate(MAX_MASTER_KEYS);
        *known = masters;
        Ok(found)
    }
}

/// The fingerprint of the master key by which the data keys of the store are wrapped.
pub fn fingerprint(tx: &mut Tx<'_>) -> Result<Option<String>> {
    tx.one("SELECT fingerprint FROM vault_master", &[], |row| row.text(0))
}

/// Has the store say that its master key is `own`, unless it says so of another one already. What it says.
fn begin(tx: &mut Tx<'_>, own: &str) -> Result<String> {
    tx.lock_table("vault_master")?;
    if let Some(known) = fingerprint(tx)? {
        return Ok(known);
    }
    tx.execute("INSERT INTO vault_master (fingerprint, changed_at) VALUES ($1, $2)", vals![own, tx.now()])?;
    Ok(own.to_owned())
}

fn stored(tx: &mut Tx<'_>, workspace: &WorkspaceId) -> Result<Option<(String, String)>> {
    let sql = "SELECT wrapped, master FROM data_keys WHERE workspace_id = $1";
    tx.one(sql, vals![workspace], |row| Ok((row.text(0)?, row.text(1)?)))
}

/// Adds the data key of a workspace that has none, if `master`, which wraps it, is still the store's.
fn insert(tx: &mut Tx<'_>, workspace: &WorkspaceId, wrapped: &str, master: &str) -> Result<()> {
    tx.lock("vault_master WHERE fingerprint = $1", vals![master])?;
    if fingerprint(tx)?.as_deref() != Some(master) {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO data_keys (workspace_id, wrapped, master, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (workspace_id) DO NOTHING",
        vals![workspace, wrapped, master, tx.now()],
    )?;
    Ok(())
}

pub(super) fn unwrap(master: &MasterKey, workspace: &str, wrapped: &str) -> Result<KeyBytes> {
    let opened = open(&master.bytes, &wrapping(workspace), wrapped).filter(|bytes| bytes.len() == KEY_BYTES);
    let opened = opened.ok_or_else(|| {
        Error::internal(format!(
            "the data key of {workspace} cannot be opened with the vault key {}",
            master.fingerprint
        ))
    })?;
    let mut key = KeyBytes::default();
    key.copy_from_slice(&opened);
    Ok(key)
}

pub(super) fn wrong_key(source: &Source, masters: &Masters, stored: &str) -> Error {
    let place = source.place();
    let found = match masters.first() {
        None => format!("{place} is missing"),
        Some(first) if masters.len() == 1 => format!("{place} has the key {}", first.fingerprint),
        Some(_) => format!("{place} has other keys"),
    };
    Error::invalid(format_args!(
        "vault: the secrets of this store are sealed with the vault key {stored}, and {found}. Put the right key there: it is \
         in the data folder of the server that began the store (vault.key), or where [vault] of its configuration says"
    ))
}

#[cfg(test)]
mod tests {
    use rota_api::id::Id;

    use super::*;

    fn key(workspace: &str) -> DataKey {
        let workspace = WorkspaceId::trusted(workspace.to_owned());
        DataKey { workspace, bytes: Arc::new(random_key().unwrap()) }
    }

    #[test]
    fn a_secret_opens_under_its_key_and_for_its_row_only() {
        let own = key("wrkspc_a");
        let owner = Owner { kind: "credential", id: "vcrd_a" };
        let sealed = own.seal(owner, b"hush").unwrap();
        assert!(sealed.starts_with(FORM) && !sealed.contains("hush"));
        assert_eq!(**own.open(owner, &sealed).unwrap(), *b"hush");
        let other = DataKey { workspace: WorkspaceId::trusted("wrkspc_b".to_owned()), ..own.clone() };
        for (key, owner, sealed) in [
            (&key("wrkspc_a"), owner, &*sealed),
            (&other, owner, &*sealed),
            (&own, Owner { kind: "credential", id: "vcrd_b" }, &*sealed),
            (&own, Owner { kind: "webhook_endpoint", id: "vcrd_a" }, &*sealed),
            (&own, owner, &sealed[..sealed.len() - 2]),
            (&own, owner, "x1."),
            (&own, owner, "aHVzaA=="),
        ] {
            assert!(key.open(owner, sealed).is_err(), "{owner:?} {sealed}");
        }
    }

    #[test]
    fn the_same_secret_is_never_sealed_the_same_way_twice() {
        let (key, owner) = (key("wrkspc_a"), Owner { kind: "credential", id: "vcrd_a" });
        assert_ne!(key.seal(owner, b"hush").unwrap(), key.seal(owner, b"hush").unwrap());
    }

    #[test]
    fn a_key_does_not_print() {
        assert_eq!(format!("{:?}", key("wrkspc_a")), "DataKey(..)");
    }
}
