//! When deployments fire.

pub mod again;
pub mod continuity;
pub mod cron;
pub mod pending;
pub mod policy;
pub mod preview;
pub mod schedule;
pub mod settle;
pub mod silence;
pub mod spans;
pub mod spend;
pub mod starts;
pub mod unattended;
