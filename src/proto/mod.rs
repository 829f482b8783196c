//! SMTP and QUICKSTART without I/O.

pub mod credential;
pub mod secret;
