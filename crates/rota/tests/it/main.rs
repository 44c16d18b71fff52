//! Integration tests: each boots a server of its own and speaks plain HTTP to it.
//!
//! They live beside the binary because the init of a sandbox is the real `rota` program. Every answer and every event
//! is held against the contract on its way through (`contract.rs`). The clock stands still unless a test moves it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod access;
mod administration;
mod agents;
mod as_many;
mod attached_files;
mod bodies;
mod bounds;
mod bucket;
mod checkpoints;
mod client;
mod closed;
mod command_line;
mod contract;
mod credentials;
mod database;
mod database_connections;
mod database_outages;
mod dead_turns;
mod demo;
mod deployments;
#[allow(clippy::needless_pass_by_value, reason = "values made in place read better in its tables")]
mod dialects;
mod door;
mod dreams;
mod driving;
mod egress;
mod environments;
mod errors;
mod everything_mounted;
mod files;
mod full_disk;
mod git_server;
mod given;
mod image_files;
mod images;
mod indexes;
mod installers;
mod large_files;
mod leases;
mod lost_files;
mod memory_mounts;
mod memory_stores;
mod migration;
mod models;
mod node_policies;
mod nodes;
mod oauth_server;
mod occurrences;
mod odd_inputs;
mod packages;
mod places;
mod policies;
mod preview;
#[path = "../process/mod.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod process;
mod providers;
mod proxy;
mod receiver;
mod recorded;
mod recorded_events;
mod refusals;
mod replies;
mod repositories;
mod request;
mod restarts;
mod routes;
mod run_outcomes;
mod runs;
mod scheduled;
mod schedules;
mod sealing;
mod secure;
mod server;
mod sessions;
mod shortages;
mod simulation;
mod skills;
mod static_host;
mod store;
mod stream;
mod streams;
mod tunnels;
mod turns;
mod upstream;
mod user_profiles;
mod vaults;
mod web;
mod webhook_deliveries;
mod webhook_endpoints;
mod webhook_events;
mod webhook_tls;
mod wire;
mod work;
mod worker_reach;
mod workers;
