//! onetrip.

pub mod limits;
pub mod proto;
#[cfg(feature = "server")]
pub mod runtime;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
