//! How many files and connections this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{EGRESS_CONNECTIONS, RESERVED_DESCRIPTORS};

/// Raises what the process may have open to the most that it is allowed. Sandboxes have a limit of their own.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// How many connections sandboxes can have to the outside: each takes two descriptors, and they have no more than a quarter.
pub fn for_egress() -> usize {
    EGRESS_CONNECTIONS.min(most() / 8).max(1)
}

fn most() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// How many connections there can be of those that are `wanted`: the rest needs descriptors too.
pub fn for_connections(wanted: usize) -> usize {
    let most = most();
    let room = most.saturating_sub(RESERVED_DESCRIPTORS).max(most / 2);
    if room < wanted {
        tracing::warn!(most, connections = room, "the limit of open files is low: there can be fewer connections");
    }
    wanted.min(room)
}
