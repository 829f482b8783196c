//! Who may submit: from a [`Credential`](crate::proto::credential::Credential) to the member it proves.
//!
//! [`users`] holds who there is, [`hash`] compares a password, [`remembered`] spares a password that was good a moment
//! ago from being hashed again, and [`throttle`] makes guessing slow.
//!
//! It must not open a file, read a clock, draw randomness or start a thread: those who call it pass all of these in.
//! What it does is dear (one hash takes about 20 ms), so no shard may call [`hash`] itself.

mod aging;
pub mod hash;
pub mod remembered;
pub mod throttle;
pub mod users;
