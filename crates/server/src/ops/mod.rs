//! What operators do with a store as a whole: copies of it, and whether it is whole.

mod backup;
mod check;
mod manifest;
mod named;
mod restore;
mod retention;
mod source;

pub use backup::{Backup, backup};
pub use check::{Checked, Findings, Problem, check};
pub use manifest::{About, Kept, NamedImage, StoreKind};
pub use restore::{Restored, restore};
pub use retention::retention_preview;
