//! The client's end of a session, and its early data.
//!
//! Must not decide what may be said early: it says how much.

use std::io::{BufRead, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::buffered::{plaintext, rest, send, write};
use super::{EarlyOutcome, Facts, Flow, TlsFailure, facts};
use crate::limits;

/// The client's end of a TLS session. Its methods are those of [`super::Session`].
#[derive(Debug)]
pub struct ClientSession {
    connection: ClientConnection,
    server_name: ServerName<'static>,
    flow: Flow,
    early: Early,
}

/// A client's early data.
#[derive(Debug, Default)]
struct Early {
    /// Ciphertext that may still be sent.
    room_bytes: usize,
    was_sent: bool,
}

impl ClientSession {
    /// Begins a handshake with the server of this name; the ClientHello is ready to be sent.
    ///
    /// # Errors
    ///
    /// [`super::FailureKind::Fault`], if the configuration does not allow one.
    pub fn new(config: Arc<ClientConfig>, server_name: ServerName<'static>) -> Result<Self, TlsFailure> {
        let mut connection = ClientConnection::new(config, server_name.clone()).map_err(TlsFailure::new)?;
        connection.set_buffer_limit(Some(limits::TLS_WAITING_BYTES_MAX));
        Ok(Self { connection, server_name, flow: Flow::default(), early: Early::default() })
    }

    /// As [`ClientSession::new`], and asks the server to take early data (RFC 8446 §2.3) if a session is resumed whose
    /// ticket allows it.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn with_early_data(config: &ClientConfig, server_name: ServerName<'static>) -> Result<Self, TlsFailure> {
        let mut config = config.clone();
        config.enable_early_data = true;
        let mut session = Self::new(Arc::new(config), server_name)?;
        let allowed = session.connection.early_data().map_or(0, |early| early.bytes_left());
        session.early.room_bytes =
            limits::TLS_CLIENT_EARLY_DATA_BYTES_MAX.min(allowed / limits::TLS_CLIENT_EARLY_DATA_SKIPS);
        Ok(session)
    }

    /// How many bytes of plaintext [`ClientSession::write_early`] can take in full records. Zero if there can be no early
    /// data.
    pub const fn early_bytes_max(&self) -> usize {
        let (full, rest) = (self.early.room_bytes / FULL_RECORD_BYTES, self.early.room_bytes % FULL_RECORD_BYTES);
        full * limits::TLS_RECORD_BYTES_MAX + rest.saturating_sub(limits::TLS_RECORD_OVERHEAD_BYTES)
    }

    /// Takes plaintext that leaves with the ClientHello, a record of it at most; `send` after each. Returns how many bytes
    /// were taken: none if there is no more room, or if the handshake is past the point.
    #[must_use = "bytes that were not taken have to be written when the handshake is done"]
    pub fn write_early(&mut self, plaintext: &[u8]) -> usize {
        let room = self.early.room_bytes.saturating_sub(limits::TLS_RECORD_OVERHEAD_BYTES);
        let part = &plaintext[..plaintext.len().min(room).min(limits::TLS_RECORD_BYTES_MAX)];
        let Some(mut early) = self.connection.early_data() else { return 0 };
        // An error says that there is no more room.
        let taken = if part.is_empty() { 0 } else { early.write(part).unwrap_or_default() };
        if taken > 0 {
            self.early.room_bytes -= taken + limits::TLS_RECORD_OVERHEAD_BYTES;
            self.early.was_sent = true;
        }
        taken
    }

    /// Lets as much early data be written as the ticket allows, whatever a cautious client would do.
    #[cfg(test)]
    pub(in crate::tls) fn lift_early_bound(&mut self) {
        self.early.room_bytes = self.connection.early_data().map_or(0, |early| early.bytes_left());
    }

    /// What became of the early data, once the handshake is done.
    pub fn early_outcome(&self) -> EarlyOutcome {
        match (self.early.was_sent, self.connection.is_early_data_accepted()) {
            (false, _) => EarlyOutcome::None,
            (true, true) => EarlyOutcome::Accepted,
            (true, false) => EarlyOutcome::Rejected,
        }
    }

    /// See [`super::Session::receive`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn receive(&mut self, ciphertext: &[u8]) -> Result<usize, TlsFailure> {
        self.flow.check()?;
        let mut rest = ciphertext;
        self.flow.receive(&mut self.connection, &mut rest)?;
        Ok(ciphertext.len() - rest.len())
    }

    /// See [`super::Session::plaintext`].
    pub fn plaintext(&mut self) -> &[u8] {
        plaintext(&mut self.connection)
    }

    /// See [`super::Session::consume`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn consume(&mut self, bytes: usize) {
        self.connection.reader().consume(bytes);
    }

    /// See [`super::Session::write`].
    #[must_use = "bytes that were not taken have to be written again after `send`"]
    pub fn write(&mut self, plaintext: &[u8]) -> usize {
        if self.flow.cannot_send() {
            return plaintext.len();
        }
        write(&mut self.connection, plaintext)
    }

    /// See [`super::Session::send`].
    pub fn send(&mut self, ciphertext: &mut Vec<u8>) {
        send(&mut self.connection, ciphertext);
    }

    /// See [`super::Session::has_output`].
    pub fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// See [`super::Session::facts`].
    pub fn facts(&self) -> Option<Facts<'_>> {
        let server_name = match &self.server_name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            _ => None,
        };
        facts(&self.connection, server_name)
    }

    /// See [`super::Session::is_handshaking`].
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// See [`super::Session::peer_closed`].
    pub fn peer_closed(&self) -> bool {
        self.flow.peer_closed()
    }

    /// The ALPN protocol that the server chose (RFC 7301).
    #[cfg(test)]
    pub(in crate::tls) fn chosen_protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// See [`super::Session::close`].
    pub fn close(&mut self) {
        self.flow.close();
        self.connection.send_close_notify();
    }

    /// See [`super::Session::rest`].
    pub fn rest(&mut self) {
        rest(&mut self.connection);
    }
}

/// What a full record of early data takes of the server's allowance.
const FULL_RECORD_BYTES: usize = limits::TLS_RECORD_BYTES_MAX + limits::TLS_RECORD_OVERHEAD_BYTES;
