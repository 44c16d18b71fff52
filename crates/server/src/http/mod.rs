//! The HTTP surface: every route in one table, and what holds for all of them.

mod answers;
mod layers;
mod listen;
mod router;

pub use listen::listen;
pub use router::router;
