//! onetrip.

#[cfg(feature = "server")]
pub mod auth;
pub mod limits;
pub mod proto;
#[cfg(feature = "server")]
pub mod runtime;
pub mod time;
