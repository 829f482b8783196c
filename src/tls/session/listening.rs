//! A session before its ClientHello is complete, and one that ends with it.
//!
//! Must not answer a ClientHello.

use std::fmt;
use std::sync::Arc;

use rustls::Error;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};

use super::failure::message_too_large;
use crate::limits;
use crate::tls::config::ServerConfigs;
use crate::tls::record::{Part, RecordCursor};

/// Waiting for a ClientHello.
pub(super) struct Listening {
    acceptor: Acceptor,
    pub(super) configs: Arc<ServerConfigs>,
    records: RecordCursor,
    /// What the acceptor has taken: the records of a ClientHello, of at most 64 KiB.
    pub(super) heard: Vec<u8>,
    /// Plaintext that was written before the client said anything.
    pub(super) waiting: Vec<u8>,
}

impl Listening {
    pub(super) fn new(configs: Arc<ServerConfigs>) -> Self {
        let records = RecordCursor::default();
        Self { acceptor: Acceptor::default(), configs, records, heard: Vec::new(), waiting: Vec::new() }
    }

    /// Takes some bytes. Returns the ClientHello when it is complete. Nothing that follows it is taken: the library would keep
    /// it, and what becomes of it is not decided yet.
    pub(super) fn hear(&mut self, rest: &mut &[u8]) -> Result<Option<Accepted>, (Error, Option<AcceptedAlert>)> {
        let (Part::Header(mut part) | Part::Content(mut part)) = self.records.next(rest);
        self.heard.extend_from_slice(part);
        while !part.is_empty() {
            self.acceptor.read_tls(&mut part).map_err(|_| (message_too_large(), None))?;
        }
        self.acceptor.accept().map_err(|(error, alert)| (error, Some(alert)))
    }

    pub(super) fn write(&mut self, plaintext: &[u8]) -> usize {
        let taken = plaintext.len().min(limits::TLS_WAITING_BYTES_MAX - self.waiting.len());
        self.waiting.extend_from_slice(&plaintext[..taken]);
        taken
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").finish_non_exhaustive()
    }
}

/// A handshake that failed at its first message.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) alert: Option<AcceptedAlert>,
}

impl Refused {
    pub(super) fn send(&mut self, ciphertext: &mut Vec<u8>) {
        let Some(mut alert) = self.alert.take() else { return };
        alert.write_all(ciphertext).expect("a Vec takes everything");
    }
}
