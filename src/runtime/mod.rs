//! The only part that knows glommio, sockets, files, clocks, threads and signals.
//!
//! It carries out what the other parts decide and takes no decision of the protocol itself. [`serve`] is the way in: it
//! opens what the server needs, starts one shard per core, and stays to reload and to stop.
//!
//! | thread | what it does |
//! |---|---|
//! | `onetrip-shard-N`, pinned | accepts, receives, sends; runs every conversation; never waits for a disk or a hash |
//! | `password-N` | hashes passwords |
//! | `spool-N` | makes, recycles and removes the files of a shard's log |
//! | `delivery-SHARD-N` | writes and syncs files |
//! | `onetrip-log` | writes log lines |
//! | `onetrip-metrics` | answers whoever asks for metrics |
//! | `onetrip-control` | answers `onetrip queue`, on a socket in the state directory |
//! | `onetrip-handover` | gives the listening sockets to the server that takes this one's place |
//! | the first one | waits for signals, notices changed files, ticks once a second |

mod accept;
mod admission;
pub mod atomic_file;
mod bell;
pub mod certificates;
pub mod clock;
mod connection;
mod connections;
mod control;
pub mod delivery;
mod handover;
pub mod host;
mod listeners;
pub mod log_writer;
pub mod metrics_server;
pub mod once;
mod pages;
pub mod passwords;
pub mod qhlo_secrets;
pub mod queue;
pub mod queue_command;
mod report;
mod ring_enter;
mod ring_setup;
mod rounds;
mod serve;
mod shard;
mod shelf;
mod socket;
pub mod spool;
pub mod state_directory;
pub mod user_command;
pub mod users_file;

pub use serve::{ServeError, serve};
