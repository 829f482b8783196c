//! Clients that mean harm, against the real server: what each of them gets, that memory and descriptors are bounded and
//! given back, and that others are served meanwhile.
//!
//! Nothing here counts seconds. How well others are served is a factor: the 99th percentile of an honest client's
//! submissions while the attack lasts, over the one of the same client at the same server just before (`world::Peace`). It is printed; what a test holds is that each is
//! served.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]
#![allow(clippy::print_stderr, reason = "a test says how large its attack was, or why it is skipped")]

#[path = "../process/mod.rs"]
mod process;
mod world;

mod desynchronizing;
mod early;
mod floods;
mod guessing;
mod injecting;
mod kernel;
mod oversized;
mod slow;
mod smuggling;
