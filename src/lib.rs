//! onetrip.

#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod exit;
pub mod limits;
pub mod proto;
pub mod time;
