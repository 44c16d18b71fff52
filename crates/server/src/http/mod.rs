//! The HTTP surface: every route in one table, and what holds for all of them.

mod layers;
mod router;

pub use router::router;
