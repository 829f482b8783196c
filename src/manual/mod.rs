//! The manual: pages for those who run onetrip, for those who change it, and for those who build on it.
//!
//! | to | read |
//! |---|---|
//! | send a first message | [`tutorial`] |
//! | set it up | [`configuration`], [`relay`], [`tuning`], [`security`] |
//! | restart it | [`restarting`] |
//! | watch it | [`events`], [`metrics`] |
//! | know what becomes of acknowledged mail | [`queue`] |
//! | see and steer the queue | [`queue_command`] |
//! | measure it, or another server | [`measuring`], [`comparison`] |
//! | know what a session costs, and where its time goes | [`performance`] |
//! | know what happens when more is asked than it can do, and what more cores bring | [`overload`], [`scaling`] |
//! | know the extensions, and what onetrip makes of them | [`quickstart`], [`at_most_once`], [`early_data`] |
//! | know the code | [`life_of_a_connection`], [`spool`], [`session_cache`], [`decisions`], [`dependencies`], [`testing`] |
//! | know what the RFCs ask, and what answers it | [`coverage`] |
//! | use the protocol core in another program | [`library`] |
//!
//! It must not say what is not so: `tests/manual.rs` holds the pages against the tree where a test can.

#[doc = include_str!("tutorial.md")]
pub mod tutorial {}

#[doc = include_str!("configuration.md")]
pub mod configuration {}

#[doc = include_str!("relay.md")]
pub mod relay {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}

#[doc = include_str!("restarting.md")]
pub mod restarting {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("events.md")]
pub mod events {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("queue_command.md")]
pub mod queue_command {}

#[doc = include_str!("measuring.md")]
pub mod measuring {}

#[doc = include_str!("comparison.md")]
pub mod comparison {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("overload.md")]
pub mod overload {}

#[doc = include_str!("scaling.md")]
pub mod scaling {}

#[doc = include_str!("quickstart.md")]
pub mod quickstart {}

#[doc = include_str!("at_most_once.md")]
pub mod at_most_once {}

#[doc = include_str!("early_data.md")]
pub mod early_data {}

#[doc = include_str!("spool.md")]
pub mod spool {}

#[doc = include_str!("queue.md")]
pub mod queue {}

#[doc = include_str!("session_cache.md")]
pub mod session_cache {}

#[doc = include_str!("life_of_a_connection.md")]
pub mod life_of_a_connection {}

#[doc = include_str!("decisions.md")]
pub mod decisions {}

#[doc = include_str!("dependencies.md")]
pub mod dependencies {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("coverage.md")]
pub mod coverage {}

#[doc = include_str!("library.md")]
pub mod library {}
