//! Ids: a prefix that names the kind and 22 characters that sort by creation time.
//!
//! The 22 characters are the base58 form of a UUIDv7 whose sub-millisecond field carries microseconds, so an id is
//! larger than another exactly when it was made in a later microsecond. Lists use that: they walk ids, and a filter on
//! `created_at` is a range of ids ([`floor`]).

use std::{cell::RefCell, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Time;

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const DIGITS: usize = 22;
/// As many digits as a `u64` holds.
const CHUNK_DIGITS: usize = 10;
const CHUNK: u128 = 58_u128.pow(CHUNK_DIGITS as u32);
/// Random numbers that the operating system is asked for at a time: asking costs more than making the rest of an id.
const RANDOM_NUMBERS: usize = 64;

/// A kind of id.
pub trait Id: AsRef<str> + fmt::Display + Clone + Send + Sync + 'static {
    /// What the id begins with, underscore included.
    const PREFIX: &'static str;

    /// Wraps a text that is known to be an id of this kind: one that was read from the store.
    fn trusted(text: String) -> Self;

    /// A new id, made at `at`.
    fn new(at: Time) -> Self {
        Self::trusted(text(Self::PREFIX, at, random()))
    }

    /// When it was made, to the microsecond.
    fn made_at(&self) -> Time {
        let digits = self.as_ref().strip_prefix(Self::PREFIX).unwrap_or_default();
        let digit = |byte: u8| ALPHABET.iter().position(|known| *known == byte).unwrap_or_default() as u128;
        let number = digits.bytes().fold(0_u128, |number, byte| number.wrapping_mul(58).wrapping_add(digit(byte)));
        let (millis, rest) = (number >> 80, (number >> 64 & 0xfff) / 4);
        Time::from_micros(i64::try_from(millis * 1000 + rest).unwrap_or(i64::MAX))
    }
}

impl ThreadId {
    /// The id of the thread that a session begins with: the session's own, under another prefix.
    pub fn primary_of(session: &SessionId) -> Self {
        let digits = session.as_ref().strip_prefix(SessionId::PREFIX).unwrap_or(session.as_ref());
        Self::trusted([Self::PREFIX, digits].concat())
    }
}

/// The least id that something created at `at` can have: ids below it were created before `at`.
pub fn floor<I: Id>(at: Time) -> String {
    text(I::PREFIX, at, 0)
}

fn random() -> u64 {
    thread_local! {
        static UNUSED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    UNUSED.with_borrow_mut(|unused| {
        if unused.is_empty() {
            let mut bytes = [0; RANDOM_NUMBERS * 8];
            getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
            unused.extend(bytes.as_chunks().0.iter().map(|number| u64::from_ne_bytes(*number)));
        }
        unused.pop().expect("it was filled")
    })
}

fn text(prefix: &str, at: Time, random: u64) -> String {
    const VERSION: u128 = 7 << 76;
    const VARIANT: u128 = 2 << 62;
    let micros = at.micros().max(0) as u128;
    let (millis, rest) = (micros / 1000, micros % 1000);
    // 4 * 999 < 4096: the microseconds of the millisecond fit the 12 bits of the field in order.
    let mut number = (millis << 80) | VERSION | ((rest * 4) << 64) | VARIANT | u128::from(random >> 2);
    let mut digits = [0; DIGITS];
    // Division is fast on 64 bits and slow on 128.
    for chunk in digits.rchunks_mut(CHUNK_DIGITS) {
        let mut low = (number % CHUNK) as u64;
        number /= CHUNK;
        for digit in chunk.iter_mut().rev() {
            *digit = ALPHABET[(low % 58) as usize];
            low /= 58;
        }
    }
    let digits = std::str::from_utf8(&digits).expect("the alphabet is ASCII");
    [prefix, digits].concat()
}

/// A text that is no id of the kind asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

fn is_well_formed(prefix: &str, text: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| rest.len() == DIGITS && rest.bytes().all(|b| ALPHABET.contains(&b)))
}

/// Whether a text can be an id of the kind `I`: one of ours, or of the hosted service, whose ids have two characters more.
/// What cannot is told from what is not there where the hosted service does so.
pub fn is_plausible<I: Id>(text: &str) -> bool {
    is_id_like(I::PREFIX, text)
}

/// The same for a kind of id that this server gives to nothing.
pub fn is_id_like(prefix: &str, text: &str) -> bool {
    let digits = text.strip_prefix(prefix).unwrap_or_default();
    [DIGITS, DIGITS + 2].contains(&digits.len()) && digits.bytes().all(|b| ALPHABET.contains(&b))
}

macro_rules! ids {
    ($($name:ident $prefix:literal $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl Id for $name {
            const PREFIX: &'static str = $prefix;

            fn trusted(text: String) -> Self {
                Self(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                if is_well_formed($prefix, text) { Ok(Self(text.to_owned())) } else { Err(Malformed) }
            }
        }
    )*};
}

ids! {
    AgentId "agent_" "An agent.";
    ApiKeyId "apikey_" "An API key (not the key itself).";
    AuditEventId "audev_" "A change that the audit list tells of.";
    BlobId "blob_" "The bytes of a file. No client sees it.";
    CredentialId "vcrd_" "A credential of a vault.";
    DeploymentId "depl_" "A deployment.";
    DreamId "drm_" "A dream.";
    EgressId "egr_" "A connection of a sandbox.";
    EnvironmentId "env_" "An environment.";
    EnvironmentKeyId "envkey_" "A key of an environment (not the key itself).";
    EventId "sevt_" "An event of a session.";
    FileId "file_" "A file.";
    HookId "hook_" "A hook of a deployment.";
    MemoryId "mem_" "A memory.";
    MemoryStoreId "memstore_" "A memory store.";
    MemoryVersionId "memver_" "A version of a memory.";
    OutcomeId "outc_" "An outcome that a session works towards.";
    RequestId "req_" "An HTTP request.";
    RunId "drun_" "A deployment run.";
    SessionId "sesn_" "A session.";
    SessionResourceId "sesrsc_" "A resource of a session.";
    SkillId "skill_" "A skill.";
    SkillVersionId "skver_" "A version of a skill.";
    StartId "start_" "A planned start of a deployment.";
    ThreadId "sthr_" "A thread of a session.";
    TunnelCertificateId "tcrt_" "A certificate of a tunnel.";
    TunnelId "tnl_" "A tunnel.";
    TunnelTokenId "tntk_" "A token of a tunnel (not the token itself).";
    UserProfileId "uprof_" "A user profile.";
    VaultId "vlt_" "A vault.";
    WebhookEndpointId "whep_" "An endpoint that webhooks are sent to.";
    WebhookEventId "whe_" "An event that webhooks tell of.";
    WorkspaceId "wrkspc_" "A workspace.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_read_back_and_other_texts_are_not_ids() {
        let id = AgentId::new(Time::from_micros(1_800_000_000_000_000));
        assert_eq!(id.as_ref().parse::<AgentId>(), Ok(id.clone()));
        for text in ["", "agent_", "agent_short", &id.as_ref().replace("agent_", "env_"), &format!("{id}1")] {
            assert_eq!(text.parse::<AgentId>(), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn a_session_and_its_primary_thread_differ_in_the_prefix() {
        let session = SessionId::new(Time::from_micros(1_800_000_000_000_000));
        let thread = ThreadId::primary_of(&session);
        assert_eq!(thread.as_ref().parse(), Ok(thread.clone()));
        assert_eq!(thread.as_ref().replace("sthr_", "sesn_"), session.as_ref());
    }

    #[test]
    fn no_two_ids_of_one_microsecond_are_the_same() {
        let at = Time::from_micros(1_800_000_000_000_000);
        let ids: HashSet<_> = (0..10_000).map(|_| AgentId::new(at)).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn the_digits_are_base_58() {
        let at = Time::from_micros(1_800_000_000_123_456);
        let digit = |c: u8| ALPHABET.iter().position(|a| *a == c).unwrap() as u128;
        for random in [0, 1 << 40, u64::MAX] {
            let number = text("", at, random).bytes().fold(0, |number, c| number * 58 + digit(c));
            assert_eq!(number >> 80, 1_800_000_000_123);
            assert_eq!((number >> 64) & 0xffff, 0x7000 | (456 * 4));
            assert_eq!(number as u64, (2 << 62) | (random >> 2));
        }
    }

    proptest! {
        #[test]
        fn ids_sort_by_their_microsecond(a in 0..4_000_000_000_000_000_i64, step in 1..10_000_i64) {
            let (early, late) = (Time::from_micros(a), Time::from_micros(a + step));
            prop_assert!(AgentId::new(early) < AgentId::new(late));
            prop_assert!(AgentId::new(early).as_ref() < floor::<AgentId>(late).as_str());
            prop_assert!(AgentId::new(late).as_ref() >= floor::<AgentId>(late).as_str());
            prop_assert_eq!(AgentId::new(early).made_at(), early);
        }
    }
}
