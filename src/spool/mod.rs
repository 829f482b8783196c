//! The spool: how acknowledged messages lie on the disk until they have gone where they belong.
//!
//! Pure functions and state over bytes: what a record looks like, which bytes are written where and when, what is found
//! after a crash. Files, waits and clocks are the runtime's.

pub mod once;
mod place;
mod progress;

pub use place::Place;
pub use progress::{Progress, RecipientState};
