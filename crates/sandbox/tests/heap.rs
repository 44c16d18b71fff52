//! Memory that is not used any more goes back to the system. Alone in its process: other tests use memory too.

#![cfg(target_env = "gnu")]

use std::fs;

use rota_sandbox::heap::{give_back, keep_little};

/// The memory of this process that is its own and not a file's, in bytes.
fn resident() -> usize {
    let told = fs::read_to_string("/proc/self/status").unwrap();
    let kib = told.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[test]
fn what_is_not_used_any_more_goes_back_to_the_system() {
    keep_little();
    let before = resident();
    // A piece that is used lies behind all the others, so that they are not simply the end of the heap.
    let pieces: Vec<Vec<u8>> = (0..100_000).map(|_| vec![1; 1000]).collect();
    let last = vec![1_u8; 1000];
    assert!(resident() > before + 90_000_000);
    drop(pieces);
    give_back(16 << 20);
    assert!(resident() < before + (32 << 20), "{before} {}", resident());
    let large = vec![1_u8; 30 << 20];
    assert!(resident() > before + (30 << 20));
    drop(large);
    assert!(resident() < before + (32 << 20));
    drop(last);
}
