//! `onetrip queue`: what can be asked about the queue, how question and answer look on the wire, and how they read.
//!
//! ```text
//! arguments ──► Request ──── one line of JSON ───► answer ──► Shelf: whoever has the messages
//!                                                    │
//! text ◄────── Reply ◄────── lines of JSON ──────────┘
//! ```
//!
//! A running server answers on a socket; of a stopped one the command reads the spool itself, and answers itself. Both
//! go through [`answer()`], so that they cannot differ. It must not open the socket or a file: that is the runtime's.

mod answer;
mod arguments;
mod selection;
mod text;
mod wire;

pub use answer::{Shelf, answer};
pub use arguments::{Asked, asked, command};
pub use selection::{ItemState, Selection, message_name};
pub use text::{Format, Listing};
pub use wire::{Details, Fault, HEADER_BYTES_SHOWN_MAX, Item, Order, RecipientDetails, Reply, Request, WhatBecame};
