//! What operators see: typed events, the lines they become, and the figures they are counted into.
//!
//! An [`Event`](event::Event) says that something happened, with all its facts; [`log`] turns it into one line and
//! [`metrics`] into counts. Nothing here reads a clock, opens a file or speaks to a network: the writer of lines and
//! the server of figures are part of the runtime.

pub mod event;
pub mod label;
pub mod log;
pub mod metrics;
