//! onetrip: mail submission in one round trip.
//!
//! A server and a client for the QUICKSTART SMTP extension (draft-fanf-smtp-quickstart-00), which lets a client say
//! everything at once that it used to say a line at a time.
//!
//! | layer | what it is | what it may not do |
//! |---|---|---|
//! | [`limits`], [`time`] | bounds, and time as an argument | depend on anything |
//! | [`proto`] | SMTP and QUICKSTART: bytes in, bytes and actions out | touch the world, know TLS or a runtime |
//! | [`tls`] | TLS as a pump of bytes | open sockets or files, know SMTP |
//! | [`auth`] | credentials judged | read files |
//! | [`spool`] | how messages lie on the disk | touch the world |
//! | [`relay`] | which message goes where, and when again | touch the world |
//! | [`queue`] | what can be asked about the queue, and how the answer reads | open sockets or files |
//! | [`observe`] | events, log lines, metrics | write anywhere |
//! | [`wire`] | one connection without its socket: `proto` inside `tls` | receive, send, wait |
//! | [`check`] | is this host ready: findings from facts | touch the host |
//! | [`fast_open`] | the first flight in the SYN | know what it carries |
//! | [`submit`] | the sendmail command: `proto::client` over a blocking socket | decide anything about the protocol |
//! | [`runtime`] | shards, sockets, files, clocks, threads | decide anything about the protocol |
//!
//! The [`manual`] tells how to run it, how it works inside, and why it is built so.
//!
//! Without default features only [`limits`], [`time`] and [`proto`] remain, for programs that bring their own sockets.

// What `tests/` shares with the tests beside the code names this crate from outside.
#[cfg(test)]
extern crate self as onetrip;

#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod check;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "client")]
pub mod exit;
#[cfg(feature = "client")]
pub mod fast_open;
#[cfg(feature = "server")]
pub mod lateness;
pub mod limits;
pub mod manual;
#[cfg(feature = "server")]
pub mod observe;
#[cfg(feature = "spool")]
mod paged_slab;
pub mod proto;
#[cfg(feature = "server")]
pub mod queue;
#[cfg(feature = "server")]
pub mod relay;
#[cfg(feature = "server")]
pub mod runtime;
#[cfg(feature = "spool")]
pub mod spool;
#[cfg(feature = "client")]
pub mod submit;
#[cfg(feature = "client")]
mod tcp_info;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tls")]
pub mod wire;
