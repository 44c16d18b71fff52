//! Where a command talks to, and with which key.
//!
//! What is given goes first: `--url`, then `ROTA_URL`; `ROTA_API_KEY`. What is not given comes from a profile: the one that
//! `--profile` names, else `ROTA_PROFILE`, else the file's `default`. `--profile` goes before the environment as a whole. The key
//! of a profile is sent to the address of that profile only.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use clap::Args;
use reqwest::Url;
use rota_api::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::{
    client::{Error, Result},
    limits::PROFILE_BYTES,
    output::clean_line,
};

/// Where a server is that nobody has named: `rota serve` on this machine.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7420";
/// The name of the profile that nobody has named.
pub const DEFAULT_PROFILE: &str = "default";

/// Which server to talk to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// The server's address. Else it is ROTA_URL, that of the profile, or http://127.0.0.1:7420. The key is in ROTA_API_KEY or in
    /// the profile.
    #[arg(long, value_name = "URL", conflicts_with = "profile")]
    pub url: Option<String>,
    /// The profile, written by `rota login`. It goes before ROTA_URL, ROTA_API_KEY and ROTA_PROFILE.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// The workspace to act in, by its id: for an administrator's key. Else it is ROTA_WORKSPACE or that of the profile.
    #[arg(long, value_name = "ID")]
    pub workspace: Option<String>,
    /// Write JSON.
    #[arg(long)]
    pub json: bool,
}

/// A server and a key for it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its address.
    pub url: Url,
    /// The key.
    pub key: Secret,
    /// The workspace that an administrator's key acts in.
    pub workspace: Option<String>,
}

/// What is set in the environment.
#[derive(Debug, Default)]
struct Environment {
    url: Option<String>,
    key: Option<String>,
    profile: Option<String>,
    workspace: Option<String>,
}

impl Environment {
    fn read() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            url: set("ROTA_URL"),
            key: set("ROTA_API_KEY"),
            profile: set("ROTA_PROFILE"),
            workspace: set("ROTA_WORKSPACE"),
        }
    }
}

/// The file of profiles.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The profile that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// By their names.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

/// A server with a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its address.
    pub url: String,
    /// The key.
    pub key: String,
    /// The workspace that an administrator's key acts in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Profile({}, ..)", self.url)
    }
}

impl Target {
    /// Which server the arguments, the environment and the file of profiles name.
    ///
    /// # Errors
    /// When there is no key for it, no such profile, or the file is not one that only its user can read.
    pub fn find(args: &ServerArgs) -> Result<Self> {
        let path = path();
        choose(args, Environment::read(), || path.as_deref().map_or_else(|| Ok(Profiles::default()), read))
    }

    /// The same, once its key and its workspace are known to be such as headers can hold.
    ///
    /// # Errors
    /// When they are not.
    pub fn checked(self) -> Result<Self> {
        let header = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        if !header(self.key.reveal()) {
            return Err(Error::Usage(format!("the key for {} has characters that no key has", self.url)));
        }
        if self.workspace.as_deref().is_some_and(|workspace| !header(workspace)) {
            return Err(Error::Usage("a workspace is named by its id, wrkspc_…".to_owned()));
        }
        Ok(self)
    }
}

fn choose(args: &ServerArgs, mut set: Environment, file: impl FnOnce() -> Result<Profiles>) -> Result<Target> {
    if args.profile.is_some() {
        set = Environment { workspace: set.workspace, ..Environment::default() };
    }
    let given = args.url.clone().or(set.url);
    let given = given.map(|url| address(&url)).transpose()?;
    let named = args.profile.clone().or(set.profile);
    let profile = match (&given, &set.key) {
        // A file that nobody has asked for is not even looked at.
        (Some(_), Some(_)) if named.is_none() => None,
        _ => file()?.take(named)?,
    };
    let own = profile.as_ref().map(|profile| address(&profile.url)).transpose()?;
    let url = match given.or_else(|| own.clone()) {
        Some(url) => url,
        None => address(DEFAULT_URL)?,
    };
    let profile = profile.filter(|_| own.as_ref() == Some(&url));
    let workspace = args.workspace.clone().or(set.workspace);
    let workspace = workspace.or_else(|| profile.as_ref().and_then(|profile| profile.workspace.clone()));
    let Some(key) = set.key.or_else(|| profile.map(|profile| profile.key)) else {
        return Err(Error::Usage(format!(
            "no key for {url}: set ROTA_API_KEY, or keep one in a profile with `rota login --url {url}`. `rota keys create` on the \
             server's machine makes one"
        )));
    };
    Target { url, key: Secret::new(key), workspace }.checked()
}

impl Profiles {
    /// The profile of the name; without one the default, if there is one.
    fn take(mut self, name: Option<String>) -> Result<Option<Profile>> {
        if let Some(name) = &name
            && !self.profiles.contains_key(name)
        {
            let known: Vec<_> = self.profiles.keys().map(|name| clean_line(name).into_owned()).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            let name = clean_line(name);
            return Err(Error::Usage(format!("there is no profile \"{name}\" ({known}); `rota login` writes one")));
        }
        let name = name.or(self.default).unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
        Ok(self.profiles.remove(&name))
    }
}

/// An address as it is given, without what does not belong to it.
///
/// # Errors
/// When it is no HTTP address, or has a user, a query or a fragment.
pub fn address(text: &str) -> Result<Url> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let wrong = |why: &str| Error::Usage(format!("\"{}\" is not the address of a server: {why}", clean_line(text)));
    let url: Url = with_scheme.parse().map_err(|error| wrong(&format!("{error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it begins with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a host, a port and a path, and nothing else"));
    }
    Ok(url)
}

/// Where the file of profiles is: `rota/profiles.toml` in XDG_CONFIG_HOME, or in `.config` of the home folder.
pub fn path() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")))?;
    Some(config.join("rota").join("profiles.toml"))
}

/// Reads the file of profiles; one that is not there has none.
///
/// # Errors
/// When others can read or change it, or it is not written as one.
pub fn read(path: &Path) -> Result<Profiles> {
    let shown = path.display();
    let failed = |error: io::Error| Error::Usage(format!("cannot read {shown}: {error}"));
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Profiles::default()),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let words = format!("{shown} has keys, and others may read or change it (mode {mode:04o}): chmod 600 {shown}");
        return Err(Error::Usage(words));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(Error::Usage(format!("{shown} belongs to another user ({})", metadata.uid())));
    }
    let mut text = String::new();
    file.take(PROFILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > PROFILE_BYTES {
        return Err(Error::Usage(format!("{shown} is larger than {PROFILE_BYTES} bytes")));
    }
    // What is wrong is told without the line, which may have a key.
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].lines().count().max(1));
        let line = line.map(|line| format!(" line {line}:")).unwrap_or_default();
        Error::Usage(format!("{shown}:{line} {}", clean_line(error.message())))
    })
}

/// Writes the file of profiles, for its user alone. It is whole or as it was before.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, profiles: &Profiles) -> Result<()> {
    let failed = |error: io::Error| Error::Failed(format!("cannot write {}: {error}", path.display()));
    let text = toml::to_string(profiles).map_err(|error| Error::Failed(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let fresh = path.with_extension(format!("toml.{}", std::process::id()));
    let written = (|| {
        // One that is there was left by a process that is gone.
        let _ = fs::remove_file(&fresh);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&fresh);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn profiles() -> Profiles {
        let text = "default = \"work\"\n\
                    [profiles.work]\nurl = \"https://work.example/\"\nkey = \"sk-work\"\nworkspace = \"wrkspc_1\"\n\
                    [profiles.home]\nurl = \"http://127.0.0.1:1\"\nkey = \"sk-home\"\n";
        toml::from_str(text).unwrap()
    }

    /// What `--url`, `--profile`, ROTA_URL, ROTA_API_KEY and ROTA_PROFILE lead to.
    fn chosen(given: [&str; 5]) -> std::result::Result<(String, String), String> {
        let [url, profile, set_url, key, set_profile] = given.map(|text| (!text.is_empty()).then(|| text.to_owned()));
        let args = ServerArgs { url, profile, ..ServerArgs::default() };
        let set = Environment { url: set_url, key, profile: set_profile, workspace: None };
        let target = choose(&args, set, || Ok(profiles())).map_err(|error| error.to_string())?;
        Ok((target.url.to_string(), target.key.reveal().to_owned()))
    }

    #[test]
    fn what_is_given_goes_first_and_a_key_goes_to_the_address_of_its_profile_only() {
        for (given, wanted) in [
            (["", "", "", "", ""], Some(("https://work.example/", "sk-work"))),
            (["", "home", "", "", ""], Some(("http://127.0.0.1:1/", "sk-home"))),
            (["", "home", "http://other", "sk-env", "work"], Some(("http://127.0.0.1:1/", "sk-home"))),
            (["", "", "", "", "home"], Some(("http://127.0.0.1:1/", "sk-home"))),
            (["", "", "", "sk-env", "home"], Some(("http://127.0.0.1:1/", "sk-env"))),
            (["", "", "http://other", "sk-env", ""], Some(("http://other/", "sk-env"))),
            (["http://given", "", "http://other", "sk-env", ""], Some(("http://given/", "sk-env"))),
            (["https://work.example", "", "", "", ""], Some(("https://work.example/", "sk-work"))),
            (["https://other.example", "", "", "", ""], None),
            (["", "", "http://other", "", "home"], None),
        ] {
            match (chosen(given), wanted) {
                (Ok((url, key)), Some(wanted)) => assert_eq!((&*url, &*key), wanted, "{given:?}"),
                (Err(said), None) => assert!(said.starts_with("no key for http"), "{said}"),
                (found, _) => panic!("{given:?}: {found:?}"),
            }
        }
        let unknown = chosen(["", "nowhere", "", "", ""]).unwrap_err();
        assert_eq!(unknown, "there is no profile \"nowhere\" (home, work); `rota login` writes one");
        assert!(chosen(["", "", "http://other", "sk\nenv", ""]).unwrap_err().contains("characters that no key has"));
    }

    #[test]
    fn an_address_is_a_host_and_a_path() {
        assert_eq!(address("localhost:7420").unwrap().as_str(), "http://localhost:7420/");
        assert_eq!(address("https://a.example/rota").unwrap().as_str(), "https://a.example/rota");
        for text in ["", "ftp://a", "http://user:secret@a", "http://a?b", "http://a#b", "http://"] {
            assert_eq!(address(text).unwrap_err().exit() as u8, 2, "{text}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_and_no_key_is_in_the_words() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("rota/profiles.toml");
        assert!(read(&path).unwrap().profiles.is_empty());
        write(&path, &profiles()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().take(None).unwrap().unwrap().key, "sk-work");
        write(&path, &Profiles::default()).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        for mode in [0o644, 0o640, 0o604, 0o620, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let said = read(&path).unwrap_err().to_string();
            assert!(said.contains(&format!("(mode {mode:04o}): chmod 600")), "{said}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "[profiles.a]\nurl = \"http://a\"\nkey = \"sk-secret\" oops\n").unwrap();
        let said = read(&path).unwrap_err().to_string();
        assert!(said.contains("line 3") && !said.contains("secret"), "{said}");
        fs::write(&path, vec![b'#'; PROFILE_BYTES as usize + 1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger than"));
    }
}
