//! What is tried with any bytes: each module is one target ([`TARGETS`]), whose `check` takes an input and panics if a promise is
//! broken.
//!
//! An input is what the target makes of it: bytes of a peer, a file, or a list of operations ([`input`]). It must not
//! touch the network, ask for the time or draw random numbers where that changes what happens, so that an input that
//! breaks something breaks it every time.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a promise that is broken is to panic")]

pub mod client;
pub mod command;
pub mod config;
pub mod input;
pub mod lines;
pub mod memory;
pub mod qhlo_secrets;
pub mod replies;
pub mod report;
pub mod server;
pub mod sessions;
pub mod spool_record;
pub mod spool_recovery;
#[path = "../../tests/support/mod.rs"]
mod support;
pub mod users;
pub mod wire;

/// Takes an input; panics if a promise is broken.
pub type Check = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Check)] = &[
    ("client", client::check),
    ("command", command::check),
    ("config", config::check),
    ("lines", lines::check),
    ("memory", memory::check),
    ("qhlo_secrets", qhlo_secrets::check),
    ("replies", replies::check),
    ("report", report::check),
    ("server", server::check),
    ("sessions", sessions::check),
    ("spool_record", spool_record::check),
    ("spool_recovery", spool_recovery::check),
    ("users", users::check),
    ("wire", wire::check),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Check> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}
