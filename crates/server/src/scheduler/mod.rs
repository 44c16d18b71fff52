//! When deployments fire.

pub mod cron;
pub mod schedule;
