//! Every bound of the commands, by name.

use std::time::Duration;

/// How long a connection to the server may take.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take, from the request to its last byte.
pub const ANSWER: Duration = Duration::from_secs(60);
/// How long a stream may be silent: more than twice what a server is silent for.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Most bytes of an answer.
pub const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Most bytes of the file of profiles.
pub const PROFILE_BYTES: u64 = 64 * 1024;
/// Most bytes of a key.
pub const KEY_BYTES: u64 = 1024;
/// Rows that are asked for at a time.
pub const PAGE: usize = 100;
/// Most rows that are looked at for one that has a name.
pub const NAMED_ROWS: usize = 10_000;
