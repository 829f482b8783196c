//! The only code that knows sockets, files, clocks and threads. It must not take a protocol decision.

pub mod passwords;
pub mod user_command;
pub mod users_file;
//! The code that knows glommio, sockets, files, clocks and threads.
//!
//! Must not take protocol decisions.

pub mod certificates;
