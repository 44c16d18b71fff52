//! Memory that workspaces share: so much for all of them, and a part of it for any one, so that one leaves room to others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rota_api::id::WorkspaceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whose memory is counted together: that of a workspace, or of administrators that name none.
type Share = Option<WorkspaceId>;

/// Memory that workspaces share.
pub struct Room {
    part: usize,
    all: Arc<Semaphore>,
    of_one: Mutex<HashMap<Share, Arc<Semaphore>>>,
}

/// What was taken, until this is dropped.
#[derive(Debug)]
pub struct Held {
    of_one: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Room {
    /// Room for `all` bytes, of which one workspace has at most `part`.
    pub fn new(all: usize, part: usize) -> Self {
        Self { part, all: Arc::new(Semaphore::new(kib(all) as usize)), of_one: Mutex::default() }
    }

    /// Takes room for so many bytes as soon as there is some, in the order in which it is asked for: first in the part of
    /// the workspace, then in all. Who asks for more than a part gets a whole one.
    pub async fn take(&self, share: Option<&WorkspaceId>, bytes: usize) -> Held {
        let kib = kib(bytes.min(self.part));
        let of_one = self.of_one(share).acquire_many_owned(kib).await.expect("it is never closed");
        let all = self.all.clone().acquire_many_owned(kib).await.expect("it is never closed");
        Held { of_one, all }
    }

    /// The part of one. Those that nobody uses are forgotten.
    fn of_one(&self, share: Option<&WorkspaceId>) -> Arc<Semaphore> {
        let mut parts = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|_, part| Arc::strong_count(part) > 1);
        let fresh = || Arc::new(Semaphore::new(kib(self.part) as usize));
        parts.entry(share.cloned()).or_insert_with(fresh).clone()
    }
}

impl Held {
    /// Gives back what is more than so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        for permit in [&mut self.of_one, &mut self.all] {
            drop(permit.split(permit.num_permits().saturating_sub(kib(bytes) as usize)));
        }
    }
}

/// A number of bytes in the unit of permits.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use rota_api::id::Id;

    use super::*;

    #[tokio::test]
    async fn a_workspace_that_holds_its_part_waits_and_leaves_the_others_theirs() {
        let room = Room::new(300 << 10, 200 << 10);
        let [one, other, third] = ["one", "other", "third"].map(|name| WorkspaceId::trusted(name.to_owned()));
        let mut first = room.take(Some(&one), 999 << 10).await;
        let mut more = Box::pin(room.take(Some(&one), 1));
        assert!(poll!(&mut more).is_pending(), "it holds its part");
        let of_other = room.take(Some(&other), 100 << 10).await;
        let mut of_third = Box::pin(room.take(Some(&third), 100 << 10));
        assert!(poll!(&mut of_third).is_pending(), "there is no more");
        first.shrink(100 << 10);
        drop(of_third.await);
        drop((more.await, of_other, first));
        drop(room.take(Some(&one), 0).await);
        assert!(room.of_one.lock().unwrap().len() <= 1, "parts that nobody uses are forgotten");
    }
}
