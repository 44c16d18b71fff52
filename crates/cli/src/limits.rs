//! Every bound of the commands, by name.

use std::time::Duration;

/// How long a connection to the server may take.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take, from the request to its last byte.
pub const ANSWER: Duration = Duration::from_mins(1);
/// How long a stream may be silent: more than twice what a server is silent for.
pub const SILENCE: Duration = Duration::from_mins(1);
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
/// Most bytes of a frame of a stream: more than any event has.
pub const FRAME_BYTES: usize = 64 * 1024 * 1024;
/// How long a stream may be open; then it is opened anew.
pub const STREAM: Duration = Duration::from_hours(1);
/// How long a server that has gone away is waited for while a session is followed.
pub const AWAY: Duration = Duration::from_mins(10);
/// How long after the end of a stream it is opened anew for the first time.
pub const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest pause between two tries.
pub const RETRY_MOST: Duration = Duration::from_secs(5);
/// How often a request that starts something is sent, under one idempotency key, while no answer comes.
pub const START_TRIES: u32 = 4;
/// Most characters of a line that tells of a call where there is no terminal.
pub const LINE_CHARS: usize = 200;
/// Rows of a list unless told otherwise.
pub const ROWS: usize = 50;
/// Most rows of a list.
pub const MOST_ROWS: usize = 10_000;
/// Events of a session that are looked at for what it waits for.
pub const WAITING_EVENTS: usize = 500;
/// How often `top` asks.
pub const REFRESH: Duration = Duration::from_secs(2);
