//! Sends webhooks: `claim` takes what is due from the outbox, `send` makes one attempt, `dispatch` shares the places for
//! attempts among the endpoints, so that a slow one holds up no other.
//!
//! A delivery is claimed before it is sent and recorded after. A server that ends in between leaves a claim that runs
//! out, and the event is sent again under the same id: at least once, never silently not at all.

mod claim;
mod dispatch;
pub mod next;
mod send;
mod sign;

pub use claim::release_all;
pub use dispatch::run;
