//! What the init of sandboxes takes of the machine's memory. Alone in its process: it looks at all that is open there.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;

mod inside;

/// What the system calls a file in memory with this name.
const NAME: &str = "/memfd:rota-sandbox-init";

/// Bytes of files in memory that this process holds: their blocks are pages of shared memory.
fn shared_memory() -> Vec<u64> {
    let open = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let in_memory = open.filter(|path| fs::read_link(path).is_ok_and(|file| file.to_string_lossy().starts_with(NAME)));
    in_memory.map(|path| fs::metadata(path).unwrap().blocks() * 512).collect()
}

#[tokio::test]
async fn after_the_first_call_the_init_takes_at_most_four_megabytes_of_shared_memory_for_all_sandboxes() {
    let backend = inside::Backend::new();
    for session in ["first", "second"] {
        let sandbox = backend.embedded.open(session).await.unwrap();
        inside::bash(&sandbox, "true").await;
    }
    let held = shared_memory();
    assert_eq!(held.len(), 1, "copies of the init: {held:?}");
    assert!((1_000_000..4_000_000).contains(&held[0]), "{held:?}");
}
