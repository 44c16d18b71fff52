//! Master keys: where they come from, and how they wrap data keys.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    config::Config,
    error::{Error, Result},
    limits::MAX_MASTER_KEYS,
};

/// The file of the data folder that has the master key, unless the configuration says otherwise.
const FILE: &str = "vault.key";
/// What a key begins with.
const PREFIX: &str = "rota-vault-";
/// The bytes of a key.
pub(super) const KEY_BYTES: usize = 32;

/// A key of this many bytes that is wiped.
pub(super) type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

/// Random bytes for a key.
pub(super) fn random_key() -> Result<KeyBytes> {
    let mut bytes = KeyBytes::default();
    getrandom::fill(&mut *bytes).map_err(Error::internal)?;
    Ok(bytes)
}

/// A key that wraps data keys.
pub(super) struct MasterKey {
    pub(super) bytes: KeyBytes,
    /// A name for it that does not tell it: the store says by which key its data keys are wrapped.
    pub(super) fingerprint: String,
}

impl MasterKey {
    pub(super) fn random() -> Result<Self> {
        Ok(Self::of(random_key()?))
    }

    fn of(bytes: KeyBytes) -> Self {
        let digest = Sha256::new().chain_update(b"rota master key\n").chain_update(*bytes).finalize();
        let first: [u8; 8] = digest[..8].try_into().expect("a digest has 32 bytes");
        Self { bytes, fingerprint: format!("{:016x}", u64::from_be_bytes(first)) }
    }

    fn read(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX)?;
        let mut decoded = Zeroizing::new(vec![0; encoded.len()]);
        let length = STANDARD.decode_slice(encoded, &mut decoded).ok()?;
        let mut bytes = KeyBytes::default();
        bytes.copy_from_slice(decoded.get(..length).filter(|key| key.len() == KEY_BYTES)?);
        Some(Self::of(bytes))
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + KEY_BYTES * 2));
        text.push_str(PREFIX);
        STANDARD.encode_string(*self.bytes, &mut text);
        text
    }
}

/// A new key, as a file or a variable holds it: for operators who keep it elsewhere than in the data folder.
///
/// # Errors
/// When the machine gives no random bytes.
pub fn new_key() -> Result<Zeroizing<String>> {
    Ok(MasterKey::random()?.text())
}

/// Where master keys come from. There may be several: the first one is the newest, and those after it are still needed
/// until everything is wrapped by that.
pub(super) enum Source {
    /// One key a line; what begins with `#` is passed over.
    File {
        path: PathBuf,
        /// Whether it is the one of the data folder, which is made when there is none.
        is_own: bool,
    },
    /// An environment variable with one key, or several with spaces in between.
    Variable(String),
}

/// What is known by now, the newest first.
pub(super) type Masters = Vec<Arc<MasterKey>>;

impl Source {
    pub(super) fn of(config: &Config) -> Self {
        let own = || (config.data.join(FILE), true);
        match (&config.vault.key_env, &config.vault.key_file) {
            (Some(variable), _) => Self::Variable(variable.clone()),
            (None, file) => {
                let (path, is_own) = file.clone().map_or_else(own, |path| (path, false));
                Self::File { path, is_own }
            }
        }
    }

    /// The place, for people.
    pub(super) fn place(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Variable(name) => format!("the environment variable {name}"),
        }
    }

    /// The keys that are there; none when there is no file in the data folder yet.
    pub(super) fn read(&self) -> Result<Masters> {
        let keys = match self {
            Self::Variable(name) => {
                let text = Zeroizing::new(std::env::var(name).unwrap_or_default());
                self.parse(text.split_whitespace())?
            }
            Self::File { path, is_own } => match read_private(path) {
                Ok(text) => self.parse(text.lines().map(str::trim).filter(|line| !line.starts_with('#')))?,
                Err(Refused::Missing) if *is_own => return Ok(Masters::new()),
                Err(refused) => return Err(Error::invalid(format_args!("vault: {}", refused.told(path)))),
            },
        };
        if keys.is_empty() {
            return Err(Error::invalid(format_args!("vault: {} holds no key", self.place())));
        }
        Ok(keys)
    }

    fn parse<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<Masters> {
        let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).take(MAX_MASTER_KEYS + 1).collect();
        if texts.len() > MAX_MASTER_KEYS {
            return Err(Error::invalid(format_args!("vault: {} holds more than {MAX_MASTER_KEYS} keys", self.place())));
        }
        // What cannot be read is not shown: it may be most of a key.
        let read = |(i, text): (usize, &&str)| {
            MasterKey::read(text).map(Arc::new).ok_or_else(|| {
                let place = self.place();
                Error::invalid(format_args!("vault: key {} of {place} is none: `rota vault new-key` makes one", i + 1))
            })
        };
        texts.iter().enumerate().map(read).collect()
    }

    /// Puts `keys` in place of those that are there. Whoever reads meanwhile sees the ones or the others whole.
    ///
    /// # Errors
    /// When the file cannot be written, or the keys are not in a file.
    pub(super) fn write(&self, keys: &[Arc<MasterKey>]) -> Result<()> {
        let Self::File { path, .. } = self else {
            return Err(Error::invalid(format_args!("vault: {} cannot be written", self.place())));
        };
        let mut text = Zeroizing::new(String::with_capacity(4096));
        text.push_str("# The master key of Rota's vaults. Without it no secret of the store can be read: keep a copy elsewhere.\n");
        for key in keys {
            text.push_str(&key.text());
            text.push('\n');
        }
        write_durably(path, text.as_bytes())
            .map_err(|error| Error::invalid(format_args!("vault: cannot write {}: {error}", path.display())))
    }

    /// Removes the file, which this process has made and nothing needs.
    pub(super) fn discard(&self) {
        if let Self::File { path, is_own: true } = self
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, file = %path.display(), "a vault key that nothing needs could not be removed");
        }
    }

    /// Keeps others from changing the keys until the file is dropped.
    pub(super) fn lock(&self) -> Result<Option<File>> {
        let Self::File { path, .. } = self else { return Ok(None) };
        let lock = path.with_extension("lock");
        let cannot = |error| Error::invalid(format_args!("vault: cannot lock {}: {error}", lock.display()));
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock).map_err(cannot)?;
        file.lock().map_err(cannot)?;
        Ok(Some(file))
    }
}

enum Refused {
    Missing,
    Unreadable(std::io::Error),
    Open,
}

impl Refused {
    fn told(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Missing => format!("{path} is missing"),
            Self::Unreadable(error) => format!("cannot read {path}: {error}"),
            Self::Open => format!("everybody can read {path}: `chmod o= {path}` ends that"),
        }
    }
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, Refused> {
    let mode = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Refused::Missing,
        _ => Refused::Unreadable(error),
    })?;
    if mode.mode() & 0o007 != 0 {
        return Err(Refused::Open);
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(Refused::Unreadable)
}

/// Writes a file that only its owner reads, and that is there only when it is whole and on the disk.
fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn source(name: &str) -> Source {
        let path = std::env::temp_dir().join(format!("rota-vault-{}-{name}", std::process::id())).with_extension("key");
        Source::File { path, is_own: true }
    }

    fn path(source: &Source) -> &Path {
        let Source::File { path, .. } = source else { panic!("it is a file") };
        path
    }

    #[test]
    fn keys_are_read_back_in_their_order_from_a_file_that_only_its_owner_reads() {
        let source = source("order");
        assert!(source.read().unwrap().is_empty(), "there is none yet");
        let keys: Masters = (0..2).map(|_| Arc::new(MasterKey::random().unwrap())).collect();
        source.write(&keys).unwrap();
        let read = source.read().unwrap();
        let prints = |keys: &Masters| keys.iter().map(|key| key.fingerprint.clone()).collect::<Vec<_>>();
        assert_eq!(prints(&read), prints(&keys));
        assert_eq!(fs::metadata(path(&source)).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(path(&source), fs::Permissions::from_mode(0o604)).unwrap();
        let refused = source.read().err().unwrap().to_string();
        assert!(refused.contains("everybody can read"), "{refused}");
        fs::remove_file(path(&source)).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        let source = source("none");
        for text in ["", "rota-vault-", "rota-vault-c2hvcnQ=", "c2VjcmV0", &"rota-vault-A\n".repeat(5)] {
            write_durably(path(&source), text.as_bytes()).unwrap();
            let refused = source.read().err().unwrap().to_string();
            assert!(refused.starts_with("vault: ") && !refused.contains("c2"), "{refused}");
        }
        fs::remove_file(path(&source)).unwrap();
    }
}
