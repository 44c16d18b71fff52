//! How much each workspace holds of something of which it may hold so much.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rota_api::id::WorkspaceId;

/// What the workspaces hold.
#[derive(Clone, Default)]
pub struct Shares(Arc<Mutex<HashMap<WorkspaceId, usize>>>);

impl Shares {
    /// Takes `amount` for a workspace, which then holds no more than `most`. `None` when it would hold more.
    pub fn take(&self, workspace: &WorkspaceId, amount: usize, most: usize) -> Option<Share> {
        let mut held = self.held();
        let taken = held.get(workspace).copied().unwrap_or_default() + amount;
        if taken > most {
            return None;
        }
        held.insert(workspace.clone(), taken);
        Some(Share { shares: self.clone(), workspace: workspace.clone(), amount })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<WorkspaceId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was taken, until it is dropped.
pub struct Share {
    shares: Shares,
    workspace: WorkspaceId,
    amount: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        if let Some(taken) = held.get_mut(&self.workspace) {
            *taken -= self.amount;
            if *taken == 0 {
                held.remove(&self.workspace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rota_api::id::Id;

    use super::*;

    #[test]
    fn a_workspace_holds_so_much_and_leaves_the_others_theirs() {
        let shares = Shares::default();
        let [a, b] = ["a", "b"].map(|name| WorkspaceId::trusted(name.to_owned()));
        let first = shares.take(&a, 2, 3);
        assert!(first.is_some());
        assert!(shares.take(&a, 2, 3).is_none());
        let third = shares.take(&a, 1, 3);
        assert!(third.is_some() && shares.take(&b, 3, 3).is_some());
        drop(first);
        assert!(shares.take(&a, 2, 3).is_some(), "what is dropped is free");
        drop(third);
        assert!(shares.held().is_empty());
    }
}
