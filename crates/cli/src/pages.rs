//! What is made from the definitions of the commands: completions of shells and the manual page.

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

/// Writes the manual page, for `man -l`.
pub fn manual(root: clap::Command) -> Result<Exit> {
    let mut text = Vec::new();
    clap_mangen::Man::new(root).render(&mut text).map_err(Error::writing)?;
    Out::plain().write(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}
