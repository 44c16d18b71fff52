//! The first floor: how often a second the disk makes 4 KiB durable.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

/// What is written at a time: a page of the store.
const PAGE: [u8; 4096] = [0x5a; 4096];
/// Pages of the file that is written over: as many as the store's log has before it begins anew.
const PAGES: u64 = 1000;

/// How long it takes to append to a file.
pub fn append(folder: &Path, length: Duration) -> Result<Vec<Duration>> {
    let mut file = File::create(folder.join("appended"))?;
    repeat(length, |_| {
        file.write_all(&PAGE)?;
        Ok(file.sync_data()?)
    })
}

/// How long it takes to write over a part of a file whose length stays.
pub fn overwrite(folder: &Path, length: Duration) -> Result<Vec<Duration>> {
    let mut file = File::create(folder.join("overwritten"))?;
    for _ in 0..PAGES {
        file.write_all(&PAGE)?;
    }
    file.sync_all()?;
    repeat(length, |number| {
        file.write_all_at(&PAGE, number % PAGES * PAGE.len() as u64)?;
        Ok(file.sync_data()?)
    })
}

fn repeat(length: Duration, mut write: impl FnMut(u64) -> Result<()>) -> Result<Vec<Duration>> {
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < length {
        let started = Instant::now();
        write(took.len() as u64)?;
        took.push(started.elapsed());
    }
    Ok(took)
}
