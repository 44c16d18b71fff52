//! One module per resource of the API: handlers, rules and SQL.

pub mod agents;
pub mod api_keys;
pub mod archiving;
pub mod credentials;
pub mod deployment_runs;
pub mod deployments;
pub mod dreams;
pub mod environment_keys;
pub mod environments;
pub mod files;
pub mod memory_stores;
pub mod models;
pub mod organization;
pub mod run_outcomes;
pub mod schedules;
pub mod sessions;
pub mod skills;
pub mod threads;
pub mod tunnels;
pub mod user_profiles;
pub mod vaults;
pub mod webhook_endpoints;
pub mod webhook_outbox;
pub mod work;
pub mod work_queue;
pub mod workspaces;
