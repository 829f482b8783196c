//! What becomes of a message once it is complete: where it goes, and what the place is called.
//!
//! It must not touch the place itself: no file and no socket is known here.

pub mod mailbox;
pub mod outcome;

use std::path::PathBuf;

/// Where messages are delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Into one Maildir per recipient under this directory.
    Maildir(PathBuf),
    /// Nowhere: accepted and forgotten, for measuring.
    Discard,
}

/// What a `250` to a message promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// The message is on stable storage.
    Commit,
    /// The message is in the hands of the operating system; a crash of the machine may lose it.
    None,
}
