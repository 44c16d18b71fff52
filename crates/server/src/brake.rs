//! What makes this process stop what it runs, or begin nothing more.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The brakes of a process.
#[derive(Debug)]
pub struct Brake {
    draining: CancellationToken,
    halted: watch::Sender<bool>,
}

impl Default for Brake {
    fn default() -> Self {
        Self { draining: CancellationToken::new(), halted: watch::Sender::new(false) }
    }
}

impl Brake {
    /// Begins no further call of a tool and no further request to a model; those under way go on.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Whether none is begun.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Says whether the operator has stopped everything. Whether that is new.
    pub fn set_halted(&self, halted: bool) -> bool {
        self.halted.send_if_modified(|known| std::mem::replace(known, halted) != halted)
    }

    /// Returns when the operator has stopped everything.
    pub async fn halted(&self) {
        // The sender lives as long as this.
        let _ = self.halted.subscribe().wait_for(|halted| *halted).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_of_a_halt_and_who_comes_after_its_end_is_not() {
        let brake = Brake::default();
        assert!(brake.halted().now_or_never().is_none());
        assert!(brake.set_halted(true) && !brake.set_halted(true));
        timeout(Duration::from_secs(30), brake.halted()).await.unwrap();
        assert!(brake.set_halted(false));
        assert!(brake.halted().now_or_never().is_none());
    }
}
