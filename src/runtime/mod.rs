//! The only part that knows sockets, files, clocks and threads.
//!
//! It carries out what the other parts decide, and takes no decision of the protocol itself.

pub mod log_writer;
pub mod metrics_server;
