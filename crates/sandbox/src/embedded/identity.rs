//! Which host ids a sandbox's ids stand for: a range a session under root, the user's own otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::wire::{Identity, RANGE};

/// The first host id that is ever given to a sandbox of a server run by root.
const FIRST: u32 = 1_000_000;
/// How many ranges there are above [`FIRST`].
const RANGES: u32 = (u32::MAX - FIRST) / RANGE;
/// The number of the last range, which is no session's: layers that sessions share are its.
const OF_LAYERS: u32 = RANGES - 1;

/// The scheme of this process.
pub(super) enum Identities {
    /// Root: one range a session; the set holds the numbers of those in use.
    Ranges(Mutex<Option<BTreeSet<u32>>>),
    /// A plain user: the same ids for every session.
    Fixed(Identity),
}

impl Identities {
    pub(super) fn choose() -> Self {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        if uid == 0 {
            return Self::Ranges(Mutex::new(None));
        }
        Self::Fixed(subordinate(uid, gid).unwrap_or(Identity::Single { uid, gid }))
    }

    /// Where the root of containers is the host's root: its ids, for every session.
    pub(super) fn of_host() -> Self {
        Self::Fixed(Identity::Single { uid: 0, gid: 0 })
    }

    /// The ids for a session: those that already own its files, else new ones.
    pub(super) fn for_session(&self, owner: Owner<'_>) -> Result<Identity, Error> {
        let taken = match self {
            Self::Fixed(identity) => return Ok(*identity),
            Self::Ranges(taken) => taken,
        };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = taken.get_or_insert_with(|| (owner.all)().into_iter().filter_map(number_of).collect());
        let number = match owner.existing.and_then(number_of) {
            Some(number) => number,
            None => (0..OF_LAYERS).find(|number| !taken.contains(number)).ok_or_else(|| Error::CannotIsolate {
                cause: format!("all {OF_LAYERS} ranges of user ids are in use"),
                remedy: "Delete sessions that are no longer needed.".to_owned(),
            })?,
        };
        taken.insert(number);
        Ok(Identity::Range { base: FIRST + number * RANGE })
    }

    /// The ids that own layers, and of sandboxes in which layers are made.
    pub(super) fn of_layers(&self) -> Identity {
        match self {
            Self::Ranges(_) => Identity::Range { base: FIRST + OF_LAYERS * RANGE },
            Self::Fixed(identity) => *identity,
        }
    }

    /// The ids of a plain user who has subordinate ones.
    pub(super) fn subordinate(&self) -> Option<Identity> {
        match self {
            Self::Fixed(identity @ Identity::Subordinate { .. }) => Some(*identity),
            Self::Fixed(_) | Self::Ranges(_) => None,
        }
    }

    /// Whether sessions differ in their host ids.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Ranges(_) => format!("a range of {RANGE} user ids of its own for each session, from {FIRST} up"),
            Self::Fixed(Identity::Subordinate { count, .. }) => {
                format!("the server's user and {count} subordinate ids")
            }
            Self::Fixed(_) => "the server's own user, as the only id inside".to_owned(),
        }
    }

    /// Any identity of the scheme, for a trial.
    pub(super) fn example(&self) -> Identity {
        match self {
            Self::Ranges(_) => Identity::Range { base: FIRST },
            Self::Fixed(identity) => *identity,
        }
    }
}

/// Who owns a session's files, and how to find out who owns each session's.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) existing: Option<u32>,
    pub(super) all: &'a dyn Fn() -> Vec<u32>,
}

/// The number of the range that an id is in.
fn number_of(uid: u32) -> Option<u32> {
    let number = uid.checked_sub(FIRST)? / RANGE;
    (number < RANGES).then_some(number)
}

/// The first id of the range that an id is in.
pub(super) fn base_of(uid: u32) -> Option<u32> {
    number_of(uid).map(|number| FIRST + number * RANGE)
}

/// The ids that `/etc/subuid` and `/etc/subgid` give to a user, when the programs that map them are there too.
fn subordinate(uid: u32, gid: u32) -> Option<Identity> {
    let helpers = ["newuidmap", "newgidmap"];
    let found = helpers.iter().all(|name| ["/usr/bin", "/bin"].iter().any(|at| Path::new(at).join(name).exists()));
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let entry = |file: &str| parse_subordinate(&fs::read_to_string(file).ok()?, uid, name.as_deref());
    let (users, groups) = (entry("/etc/subuid")?, entry("/etc/subgid")?);
    let count = users.1.min(groups.1).min(RANGE - 1);
    found.then_some(Identity::Subordinate { uid, gid, first_uid: users.0, first_gid: groups.0, count })
}

fn parse_subordinate(text: &str, uid: u32, name: Option<&str>) -> Option<(u32, u32)> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let entry = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (who == uid || Some(who) == name).then_some(entry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_session_under_root_has_a_range_of_its_own_and_keeps_it() {
        let identities = Identities::Ranges(Mutex::new(None));
        let all = || vec![FIRST, FIRST + 2 * RANGE, 0, 12];
        let give = |existing| match identities.for_session(Owner { existing, all: &all }).unwrap() {
            Identity::Range { base } => base,
            other => panic!("{other:?}"),
        };
        assert_eq!(give(None), FIRST + RANGE, "the first free one");
        assert_eq!(give(None), FIRST + 3 * RANGE);
        assert_eq!(give(Some(FIRST + 2 * RANGE)), FIRST + 2 * RANGE, "files keep their owner");
        assert_eq!(give(Some(FIRST + 2 * RANGE + 7)), FIRST + 2 * RANGE, "whichever of its ids the agent gave them to");
        let Identity::Range { base } = identities.of_layers() else { panic!("root has ranges") };
        assert_eq!(number_of(base + RANGE - 1), Some(OF_LAYERS), "a whole range");
        assert_eq!(give(Some(0)), FIRST + 4 * RANGE, "files of the host's root are nobody's range");
    }

    #[test]
    fn no_range_reaches_past_the_last_id() {
        assert!(FIRST.checked_add((RANGES - 1) * RANGE).and_then(|base| base.checked_add(RANGE - 1)).is_some());
    }

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let text = "other:1:2\nalice:100000:65536\n1001:300000:1000\nbroken\n";
        assert_eq!(parse_subordinate(text, 7, Some("alice")), Some((100_000, 65_536)));
        assert_eq!(parse_subordinate(text, 1001, None), Some((300_000, 1000)));
        assert_eq!(parse_subordinate(text, 7, None), None);
    }
}
