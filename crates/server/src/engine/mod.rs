//! Runs sessions: the log is the journal, [`fold`] reads it into a state, [`next`] says what to do, `drive` does it and
//! appends what happened. Nothing that matters lives in memory.

mod drive;
pub mod fold;
mod lease;
pub mod next;
mod permission;
mod sandboxes;
mod step;
mod tools;

pub use drive::run;
pub use lease::release_all;
pub use sandboxes::Sandboxes;
