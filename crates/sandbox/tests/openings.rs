//! Opening and stopping sandboxes, at once and by callers that give up.

#![allow(clippy::unwrap_used)] // A test that cannot go on panics.

mod inside;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use inside::{Backend, bash};
use rota_sandbox::{ProtectionState, ToolCall};
use tokio::time::timeout;

/// Holds a lock on a file of the session for as long as its shell lives; says so when another sandbox holds it.
const ALONE: &str = "exec 9>>/workspace/lock; flock -n 9 && echo alone || echo beside another one";

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_in_use_is_not_stopped_with_those_that_are_not_and_a_session_has_one_at_a_time() {
    let backend = Backend::new();
    let over = AtomicBool::new(false);
    let calling = async {
        for _ in 0..40 {
            let output = backend.open().await.call("c", &ToolCall::bash(ALONE)).await.unwrap();
            assert_eq!(output.content, "alone\n");
        }
        over.store(true, Ordering::Relaxed);
    };
    let stopping = async {
        while !over.load(Ordering::Relaxed) {
            backend.embedded.stop_unused("s").await;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(calling, stopping);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_its_caller_gives_up_comes_to_its_end() {
    let backend = Backend::new();
    for patience in 0..30 {
        let _ = timeout(Duration::from_millis(patience), backend.embedded.open("s")).await;
        let sandbox = backend.open().await;
        assert!(bash(&sandbox, ALONE).await.content.ends_with("alone\n"));
        drop(sandbox);
        let _ = timeout(Duration::from_millis(patience / 5), backend.embedded.stop("s")).await;
    }
    backend.embedded.shutdown().await;
    let records = std::fs::read_dir(backend.folder.path().join("sandboxes")).unwrap();
    assert_eq!(records.count(), 0, "every one was seen to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_sandboxes_open_the_trial_of_one_finds_nothing_missing() {
    let backend = Backend::new();
    drop(backend.open().await);
    let rows = backend.embedded.probe();
    assert!(rows.iter().all(|row| row.state != ProtectionState::Missing), "{rows:?}");
}
