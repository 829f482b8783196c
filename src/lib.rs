//! onetrip.

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod exit;
pub mod limits;
#[cfg(feature = "server")]
pub mod observe;
pub mod proto;
#[cfg(feature = "server")]
pub mod runtime;
pub mod time;
