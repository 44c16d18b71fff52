//! `rota login`: keeps an address and a key in a profile.

use std::io::{self, BufRead, IsTerminal, Read};

use clap::Args;
use rota_api::secret::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::{
    client::{Client, Error, Result},
    limits::KEY_BYTES,
    output::{Exit, Out, clean_line},
    profile::{DEFAULT_PROFILE, DEFAULT_URL, Profile, Target, address, path, read, write},
};

/// What to keep.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The server's address.
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// The profile's name. The first one that is written is used where none is named.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PROFILE)]
    pub profile: String,
    /// The workspace to act in, by its id: for an administrator's key.
    #[arg(long, value_name = "ID")]
    pub workspace: Option<String>,
    /// Use this profile from now on where none is named.
    #[arg(long)]
    pub default: bool,
}

/// Reads a key from standard input, asks the server whether it takes it, and writes the profile.
pub async fn login(args: LoginArgs) -> Result<Exit> {
    let path = path().ok_or_else(|| Error::Usage("neither HOME nor XDG_CONFIG_HOME is set".to_owned()))?;
    let mut profiles = read(&path)?;
    let url = address(&args.url)?;
    let key = read_key()?;
    let target = Target { url: url.clone(), key: Secret::new(key.clone()), workspace: args.workspace.clone() };
    Client::new(target.checked()?)?.get("/v1/agents", &[("limit", "1")]).await?;
    profiles.profiles.insert(args.profile.clone(), Profile { url: url.into(), key, workspace: args.workspace });
    if args.default || profiles.default.is_none() {
        profiles.default = Some(args.profile.clone());
    }
    write(&path, &profiles)?;
    let default =
        if profiles.default.as_ref() == Some(&args.profile) { ", and is used where none is named" } else { "" };
    let line = format!("profile {} is in {}{default}", clean_line(&args.profile), path.display());
    Out::plain().line(&line)?;
    Ok(Exit::Done)
}

fn read_key() -> Result<String> {
    let stdin = io::stdin();
    let silent = if stdin.is_terminal() {
        eprint!("API key (it is not shown): ");
        Silent::begin()
    } else {
        None
    };
    let mut key = String::new();
    let reading = stdin.lock().take(KEY_BYTES).read_line(&mut key);
    if silent.is_some() {
        eprintln!();
    }
    reading.map_err(|error| Error::Failed(format!("cannot read the key: {error}")))?;
    match key.trim() {
        "" => Err(Error::Usage("no key was given: write it to standard input".to_owned())),
        key => Ok(key.to_owned()),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent(Termios);

impl Silent {
    fn begin() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &silent).ok()?;
        Some(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
