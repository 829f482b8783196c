//! The spool: how acknowledged messages lie on the disk until they have gone where they belong.
//!
//! Pure functions and state over bytes: what a record looks like, which bytes are written where and when, what is found
//! after a crash. Files, waits and clocks are the runtime's. The manual's page is [`spool`](crate::manual::spool).
//!
//! | module | what it knows |
//! |---|---|
//! | [`record`] | what records say |
//! | [`frame`] | how they lie in batches and segments |
//! | [`log`], [`upkeep`] | which bytes go where and when; which segments are made, freed, cleaned |
//! | [`recovery`] | what is found at start |
//! | [`resting`] | what moves between logs then, because shards are fewer |
//! | [`once`] | which tokens are known |

mod contents;
pub mod frame;
pub mod log;
mod messages;
pub mod once;
mod place;
mod progress;
pub mod record;
pub mod recovery;
pub mod resting;
pub mod upkeep;

pub use place::Place;
pub use progress::{Progress, RecipientState};

#[cfg(test)]
pub(crate) mod tests;
