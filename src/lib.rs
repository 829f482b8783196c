//! onetrip.

pub mod limits;
pub mod proto;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
