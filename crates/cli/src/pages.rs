//! What is made from the definitions of the commands: completions of shells and the manual page.

use std::{fs, path::Path};

use clap_complete::Shell;

use crate::{
    client::{Error, Result},
    output::{Exit, Out},
};

/// Writes what a shell has to know to complete the commands.
pub fn completions(shell: Shell, mut root: clap::Command) -> Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut root, "rota", &mut text);
    Out::plain().write(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}

/// Writes the manual page, for `man -l`; into a folder, a page for each command.
pub fn manual(to: Option<&Path>, root: clap::Command) -> Result<Exit> {
    let Some(folder) = to else {
        let mut text = Vec::new();
        clap_mangen::Man::new(root).render(&mut text).map_err(Error::writing)?;
        Out::plain().write(&String::from_utf8_lossy(&text))?;
        return Ok(Exit::Done);
    };
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(root, folder));
    written.map_err(|error| Error::Failed(format!("cannot write to {}: {error}", folder.display())))?;
    Ok(Exit::Done)
}
