//! The HTTP surface: every operation in one table, and what holds for all of them.

mod absent;
pub mod acts;
mod answers;
mod guests;
mod hosts;
mod layers;
mod lent;
mod listen;
pub mod operations;
mod router;
mod wire;

pub use listen::{bind, listen};
pub use router::{metrics_router, router};
