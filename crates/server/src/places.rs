//! Places that workspaces share. None of them takes all, so that one that comes later finds room at once, and nothing that
//! runs has to be ended for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rota_api::id::WorkspaceId;
use tokio::sync::{Notify, oneshot};

/// How much more a workspace may use than is left: alone it gets three quarters of all places, and each further one finds
/// three quarters of the rest.
const SHARE: usize = 3;

/// Whether a workspace that uses `used` places may take one more while `free` are free. The rule is that of buffers which
/// the ports of a switch share (A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds", 1998): what is left
/// free says how contended the places are, so nobody has to be counted.
fn may_take(used: usize, free: usize) -> bool {
    used < SHARE * free
}

/// A number of places.
#[derive(Debug)]
pub(crate) struct Places {
    shares: Mutex<Shares>,
    freed: Notify,
}

#[derive(Debug)]
struct Shares {
    free: usize,
    used: HashMap<WorkspaceId, usize>,
    /// Those of a workspace are served in turn; the workspace that uses the fewest places comes first.
    waiting: HashMap<WorkspaceId, VecDeque<oneshot::Sender<Place>>>,
}

/// A place, taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    workspace: WorkspaceId,
}

impl Places {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let shares = Shares { free: count, used: HashMap::new(), waiting: HashMap::new() };
        Arc::new(Self { shares: Mutex::new(shares), freed: Notify::new() })
    }

    /// Takes a place for `workspace`, as soon as there is one for it.
    pub(crate) async fn take(self: &Arc<Self>, workspace: &WorkspaceId) -> Place {
        let waiting = {
            let mut shares = self.shares();
            if !shares.waiting.contains_key(workspace) && shares.take(workspace) {
                return self.place(workspace);
            }
            let (sender, waiting) = oneshot::channel();
            shares.waiting.entry(workspace.clone()).or_default().push_back(sender);
            waiting
        };
        waiting.await.expect("who waits is served or gives up")
    }

    /// Takes what there is for `workspace` now, at most `count` places.
    pub(crate) fn take_free(self: &Arc<Self>, workspace: &WorkspaceId, count: usize) -> Vec<Place> {
        let mut shares = self.shares();
        (0..count).take_while(|_| shares.take(workspace)).map(|_| self.place(workspace)).collect()
    }

    /// How many places nobody uses.
    pub(crate) fn free(&self) -> usize {
        self.shares().free
    }

    /// Returns when a place may have become free since the last time.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn place(self: &Arc<Self>, workspace: &WorkspaceId) -> Place {
        Place { places: self.clone(), workspace: workspace.clone() }
    }

    /// Gives free places to those that wait.
    fn serve(self: &Arc<Self>) {
        // Places of those that have given up. They come back here when they are dropped, so not before the lock is free.
        let mut unwanted = Vec::new();
        let mut shares = self.shares();
        while let Some((workspace, waiter)) = shares.next() {
            unwanted.extend(waiter.send(self.place(&workspace)).err());
        }
        drop(shares);
        drop(unwanted);
        self.freed.notify_one();
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shares {
    fn used(&self, workspace: &WorkspaceId) -> usize {
        self.used.get(workspace).copied().unwrap_or(0)
    }

    fn take(&mut self, workspace: &WorkspaceId) -> bool {
        if !may_take(self.used(workspace), self.free) {
            return false;
        }
        self.free -= 1;
        *self.used.entry(workspace.clone()).or_default() += 1;
        true
    }

    fn give_back(&mut self, workspace: &WorkspaceId) {
        self.free += 1;
        if let Some(used) = self.used.get_mut(workspace) {
            *used -= 1;
            if *used == 0 {
                self.used.remove(workspace);
            }
        }
    }

    /// Takes a place for one of those that wait, where one of them may have it.
    fn next(&mut self) -> Option<(WorkspaceId, oneshot::Sender<Place>)> {
        let workspace = self.waiting.keys().min_by_key(|workspace| self.used(workspace))?.clone();
        // When it may not, no other one may, which uses as many or more.
        if !self.take(&workspace) {
            return None;
        }
        let queue = self.waiting.get_mut(&workspace)?;
        let waiter = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&workspace);
        }
        Some((workspace, waiter?))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.shares().give_back(&self.workspace);
        self.places.serve();
    }
}

#[cfg(test)]
mod tests {
    use rota_api::id::Id;

    use super::*;

    fn workspace(name: &str) -> WorkspaceId {
        WorkspaceId::trusted(name.to_owned())
    }

    #[test]
    fn a_workspace_takes_three_times_what_it_leaves_to_others() {
        for (count, alone, next, third) in [
            (0, 0, 0, 0),
            (1, 1, 0, 0),
            (2, 2, 0, 0),
            (3, 3, 0, 0),
            (4, 3, 1, 0),
            (16, 12, 3, 1),
            (64, 48, 12, 3),
            (1024, 768, 192, 48),
        ] {
            let places = Places::new(count);
            let taken = ["a", "b", "c"].map(|name| places.take_free(&workspace(name), usize::MAX));
            assert_eq!(taken.each_ref().map(Vec::len), [alone, next, third], "of {count}");
        }
    }

    #[tokio::test]
    async fn who_uses_the_fewest_places_is_served_first_and_those_of_one_workspace_in_turn() {
        let places = Places::new(8);
        let (a, b) = (workspace("a"), workspace("b"));
        let mut of_a = places.take_free(&a, 100);
        let mut of_b = places.take_free(&b, 100);
        assert_eq!((of_a.len(), of_b.len()), (6, 2));
        let (mut first, mut second) = (Box::pin(places.take(&a)), Box::pin(places.take(&a)));
        let mut late = Box::pin(places.take(&b));
        for waiting in [&mut first, &mut second, &mut late] {
            assert!(futures_util::poll!(waiting).is_pending(), "all are taken");
        }
        drop(of_a.pop());
        let late = late.await;
        assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
        of_b.clear();
        let first = first.await;
        assert!(futures_util::poll!(&mut second).is_pending());
        drop((late, of_a));
        drop((first, second.await));
        assert_eq!(places.free(), 8);
    }

    #[tokio::test]
    async fn a_place_that_was_waited_for_in_vain_is_not_lost() {
        let places = Places::new(1);
        let (a, b) = (workspace("a"), workspace("b"));
        let taken = places.take(&a).await;
        let mut given_up = Box::pin(places.take(&b));
        let mut served = Box::pin(places.take(&b));
        let mut late = Box::pin(places.take(&a));
        for waiting in [&mut given_up, &mut served, &mut late] {
            assert!(futures_util::poll!(waiting).is_pending());
        }
        drop(given_up);
        drop(taken);
        // Served, but dropped before it could look.
        drop(served);
        drop(late.await);
        assert_eq!(places.free(), 1);
        assert!(places.shares().used.is_empty() && places.shares().waiting.is_empty());
    }
}
