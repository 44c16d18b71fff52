//! Wire types of the Managed Agents API: ids, times, errors, resources and events. No I/O.
//!
//! A request body is read with [`decode`], which knows where it is in the body and so can name the field that is
//! wrong; a response is written with serde.

pub mod agent;
pub mod api_key;
pub mod audit;
pub mod content;
pub mod credential;
pub mod decode;
mod deleted;
pub mod deployment;
pub mod dream;
pub mod egress;
pub mod environment;
pub mod environment_key;
pub mod error;
pub mod event;
pub mod fields;
pub mod file;
pub mod hook;
pub mod id;
pub mod image;
pub mod listed_run;
pub mod memory;
pub mod metadata;
pub mod model;
pub mod occurrence;
pub mod organization;
pub mod policy;
pub mod repository;
pub mod retention;
pub mod rota_event;
pub mod run_outcome;
pub mod run_sum;
pub mod schedule;
pub mod schedule_hold;
mod schema;
pub mod secret;
pub mod session;
pub mod session_retry;
pub mod session_state;
pub mod skill;
pub mod start;
pub mod thread;
pub mod time;
pub mod tunnel;
pub mod user_profile;
pub mod vault;
pub mod warning;
pub mod webhook;
pub mod work;
pub mod workspace;

pub use deleted::Deleted;
pub use time::Time;
