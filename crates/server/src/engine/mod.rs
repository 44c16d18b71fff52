//! Runs sessions: the log is the journal, [`fold`] reads it into a state, [`next`] says what to do, a `runner` does it and
//! appends what happened. Nothing that matters lives in memory.

mod acted;
mod ask;
mod attached;
mod brakes;
mod definitions;
mod drafts;
mod drive;
mod driven;
mod ended;
pub mod fold;
mod lease;
pub mod next;
mod permission;
mod prompt;
mod runner;
mod servers;
mod step;
mod tools;
mod traced;

pub use drive::run;
pub use lease::release_all_of;
