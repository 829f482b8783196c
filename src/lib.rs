//! onetrip.

pub mod limits;
pub mod proto;
pub mod time;
