//! The real server as a service: how it refuses to start, stops, reloads, keeps its bounds, survives trouble, and what it
//! tells of all that. What is said on a connection is the dialogs' business.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

#[path = "../process/mod.rs"]
mod process;

mod bounds;
mod delivery;
mod early_data;
mod greeting;
mod large;
mod logins;
mod memory;
mod observing;
mod once;
mod queue;
mod queue_command;
mod reloading;
mod restarting;
mod spool;
mod starting;
mod stopping;
mod through;
