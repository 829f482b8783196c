//! onetrip.

#[cfg(feature = "server")]
pub mod auth;
pub mod limits;
pub mod proto;
pub mod time;
