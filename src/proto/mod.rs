//! SMTP and QUICKSTART without I/O: bytes and time in, bytes and actions out.
//!
//! [`server`] holds the server's side of a conversation, [`client`] the client's. Around them stand the words that both
//! sides share: lines, commands, replies, addresses, envelopes, the list of extensions and the qhlo-id. No socket, file,
//! clock or thread is known here, and no runtime: any Rust program can drive it.
//!
//! "Draft" means draft-fanf-smtp-quickstart-00, throughout.

pub mod address;
pub mod body;
pub mod channel;
pub mod client;
pub mod command;
pub mod credential;
pub mod dot_stuffing;
pub mod envelope;
pub mod extension;
pub mod line;
pub mod message;
pub mod proof;
pub mod qhlo_id;
pub mod reply;
pub mod reply_reader;
pub mod sasl;
pub mod secret;
pub mod server;
pub mod trace;
