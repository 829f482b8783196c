//! The code that knows glommio, sockets, files, clocks and threads.
//!
//! Must not take protocol decisions.

pub mod certificates;
