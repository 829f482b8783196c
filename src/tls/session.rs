//! A TLS session as a pump: ciphertext in, plaintext out, and the same backwards.
//!
//! [`Session`] is the server's end and [`ClientSession`] the client's; they have the same methods. Both hide the TLS
//! library, so that its successor, which decrypts in the caller's buffer, can take its place.
//!
//! ```text
//!  socket ── receive() ──►             ──► plaintext(), consume() ── protocol
//!                            session
//!  socket ◄──── send() ────            ◄── write() ───────────────── protocol
//! ```
//!
//! One turn: `receive` until all is taken, reading the plaintext each time; `write` the answers; `send` once. Whatever
//! belongs together then leaves together: with TLS 1.3 a greeting that was written before the client said anything is in
//! the server's first flight, and so are the answers to early data (RFC 8446 §2.3), which comes before the client's
//! Finished and may therefore be a copy that somebody else sends. What that is allowed to do is not decided here; but of
//! every byte it is known which of the two it is ([`Origin`]).
//!
//! Must not hold more than the bounds in [`limits`](crate::limits), nor know what the plaintext means.

use std::sync::Arc;

use rustls::server::{Accepted, AcceptedAlert};
use rustls::{CipherSuite, CommonState, Error, HandshakeKind, ProtocolVersion};

pub use client::ClientSession;
pub use failure::{FailureKind, TlsFailure};

use listening::{Listening, Refused};
use running::{Heard, Running};

use super::Version;
use super::config::ServerConfigs;
use super::hello::offers_early_data;

mod buffered;
mod client;
mod failure;
mod inbox;
mod listening;
mod running;

/// The server's end of a TLS session.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    flow: Flow,
}

/// ```text
///   Listening ── ClientHello ──► Running
///       └─────── not a good one ──► Refused
/// ```
#[derive(Debug)]
enum Stage {
    /// The ClientHello is not complete.
    Listening(Listening),
    /// Handshake and everything after.
    Running(Running),
    /// The ClientHello was none, or asked for what we do not have.
    Refused(Refused),
}

impl Session {
    /// Waits for a client.
    pub fn new(configs: Arc<ServerConfigs>) -> Self {
        Self { stage: Stage::Listening(Listening::new(configs)), flow: Flow::default() }
    }

    /// Takes bytes from the network and works through them. Returns how many were taken: fewer than all means that there
    /// is plaintext to be read first; then call again with the rest. Early data is always taken, up to
    /// [`TLS_EARLY_DATA_BYTES_MAX`](crate::limits::TLS_EARLY_DATA_BYTES_MAX) of it, so that whoever waits for the client's
    /// Finished gets to it. After the peer's close_notify everything is taken and ignored (RFC 8446 §6.1).
    ///
    /// # Errors
    ///
    /// The session is broken for good, and every later call returns the same. `send` may still have an alert for the peer,
    /// and plaintext from before the fault may still be read.
    pub fn receive(&mut self, ciphertext: &[u8]) -> Result<usize, TlsFailure> {
        self.flow.check()?;
        let mut rest = ciphertext;
        if let Stage::Listening(_) = self.stage {
            self.listen(&mut rest)?;
        }
        if let Stage::Running(running) = &mut self.stage {
            running.receive(&mut self.flow, &mut rest)?;
        }
        Ok(ciphertext.len() - rest.len())
    }

    /// Decrypted bytes that were not consumed yet, and how they came: all early data that is there, or else the content of
    /// one record at most. Empty if there is none.
    pub fn plaintext(&mut self) -> Plaintext<'_> {
        match &mut self.stage {
            Stage::Running(running) => running.plaintext(),
            Stage::Listening(_) | Stage::Refused(_) => Plaintext { bytes: &[], origin: Origin::Confirmed },
        }
    }

    /// Drops the first `bytes` of what [`Session::plaintext`] shows.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn consume(&mut self, bytes: usize) {
        match &mut self.stage {
            Stage::Running(running) => running.consume(bytes),
            Stage::Listening(_) | Stage::Refused(_) => assert_eq!(bytes, 0, "more consumed than there is"),
        }
    }

    /// Takes plaintext for the client, which leaves with `send` as soon as the handshake allows it. Returns how many bytes
    /// were taken: fewer than all if [`TLS_WAITING_BYTES_MAX`](crate::limits::TLS_WAITING_BYTES_MAX) wait already; then `send`
    /// first. After a failure or `close` everything is taken and dropped, as nothing can be sent any more.
    #[must_use = "bytes that were not taken have to be written again after `send`"]
    pub fn write(&mut self, plaintext: &[u8]) -> usize {
        if self.flow.cannot_send() {
            return plaintext.len();
        }
        match &mut self.stage {
            Stage::Listening(listening) => listening.write(plaintext),
            Stage::Running(running) => running.write(&mut self.flow, plaintext),
            Stage::Refused(_) => plaintext.len(),
        }
    }

    /// Appends everything that is ready for the network.
    pub fn send(&mut self, ciphertext: &mut Vec<u8>) {
        match &mut self.stage {
            Stage::Listening(_) => {}
            Stage::Running(running) => running.send(ciphertext),
            Stage::Refused(refused) => refused.send(ciphertext),
        }
    }

    /// Whether `send` would append something.
    pub fn has_output(&self) -> bool {
        match &self.stage {
            Stage::Listening(_) => false,
            Stage::Running(running) => running.has_output(),
            Stage::Refused(refused) => refused.alert.is_some(),
        }
    }

    /// What was agreed, as soon as plaintext can come: once the handshake is complete, or before that, once early data is
    /// accepted.
    pub fn facts(&self) -> Option<Facts<'_>> {
        match &self.stage {
            Stage::Running(running) if running.early_outcome() == EarlyOutcome::Accepted => running.agreed(),
            Stage::Running(running) if !running.is_handshaking() => running.agreed(),
            Stage::Running(_) | Stage::Listening(_) | Stage::Refused(_) => None,
        }
    }

    /// What became of the client's early data; known as soon as its ClientHello is answered.
    pub fn early_outcome(&self) -> EarlyOutcome {
        match &self.stage {
            Stage::Running(running) => running.early_outcome(),
            Stage::Listening(_) | Stage::Refused(_) => EarlyOutcome::None,
        }
    }

    /// Whether the handshake is not complete yet: until it is, all that was read is early data.
    pub fn is_handshaking(&self) -> bool {
        match &self.stage {
            Stage::Running(running) => running.is_handshaking(),
            Stage::Listening(_) | Stage::Refused(_) => true,
        }
    }

    /// Whether the client said that it sends no more (close_notify). An end of the connection without it may be an
    /// attacker's doing.
    pub fn peer_closed(&self) -> bool {
        self.flow.peer_closed()
    }

    /// Says that nothing more will be sent (close_notify), after what was written before.
    pub fn close(&mut self) {
        self.flow.close();
        if let Stage::Running(running) = &mut self.stage {
            running.close(&mut self.flow);
        }
    }

    /// Gives buffers back. To be called when the connection falls idle.
    pub fn rest(&mut self) {
        match &mut self.stage {
            Stage::Running(running) => running.rest(),
            Stage::Listening(_) | Stage::Refused(_) => {}
        }
    }

    /// Reads a ClientHello, as far as it is there.
    fn listen(&mut self, rest: &mut &[u8]) -> Result<(), TlsFailure> {
        while let Stage::Listening(listening) = &mut self.stage {
            if rest.is_empty() {
                return Ok(());
            }
            match listening.hear(rest) {
                Ok(None) => {}
                Ok(Some(accepted)) => self.open(accepted)?,
                Err((error, alert)) => return Err(self.refuse(error, alert)),
            }
        }
        Ok(())
    }

    /// Answers a ClientHello: the server's flight and what waits behind it are ready to be sent afterwards.
    fn open(&mut self, accepted: Accepted) -> Result<(), TlsFailure> {
        let Stage::Listening(listening) = &mut self.stage else { return Ok(()) };
        let config = listening.configs.choose(&accepted.client_hello());
        let server_name = accepted.client_hello().server_name().map(Box::from);
        let offers_early_data = offers_early_data(&listening.heard);
        let records = std::mem::take(&mut listening.heard);
        let waiting = std::mem::take(&mut listening.waiting);
        // What was read to choose is read once more by the connection, which cannot begin with a hello that another has read.
        drop(accepted);
        let heard = Heard { records, server_name, offers_early_data };
        let mut running = Running::new(config, heard, waiting).map_err(|error| self.refuse(error, None))?;
        let answered = running.answer(&mut self.flow);
        self.stage = Stage::Running(running);
        answered
    }

    fn refuse(&mut self, error: Error, alert: Option<AcceptedAlert>) -> TlsFailure {
        self.stage = Stage::Refused(Refused { alert });
        self.flow.fail(error)
    }
}

/// What became of a client's early data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyOutcome {
    /// There was none.
    None,
    /// The server took it.
    Accepted,
    /// The server skipped it.
    Rejected,
}

/// Decrypted bytes at the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plaintext<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// How they came.
    pub origin: Origin,
}

/// Whether the client that now speaks is known to have sent these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They came as early data. Somebody may have held them back, and sends them in the client's place.
    Early,
    /// They came behind the client's Finished.
    Confirmed,
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The version of the protocol.
    pub version: Version,
    /// The cipher suite as IANA spells it, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher_suite: &'static str,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The DNS name that the client asked for (SNI, RFC 6066 §3), in lower case on the server.
    pub server_name: Option<&'a str>,
}

/// How far the two directions of a session are.
#[derive(Debug, Default)]
struct Flow {
    receiving: Receiving,
    sending: Sending,
}

#[derive(Debug, Default)]
enum Receiving {
    #[default]
    Open,
    /// The peer sent close_notify.
    Closed,
    /// Boxed, so that the many sessions that do not fail stay small.
    Failed(Box<TlsFailure>),
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Sending {
    #[default]
    Open,
    /// We sent close_notify, or it follows the ServerHello.
    Closed,
}

impl Flow {
    fn check(&self) -> Result<(), TlsFailure> {
        match &self.receiving {
            Receiving::Failed(failure) => Err((**failure).clone()),
            Receiving::Open | Receiving::Closed => Ok(()),
        }
    }

    fn cannot_send(&self) -> bool {
        self.sending == Sending::Closed || matches!(self.receiving, Receiving::Failed(_))
    }

    fn peer_closed(&self) -> bool {
        matches!(self.receiving, Receiving::Closed)
    }

    fn note_peer_closed(&mut self) {
        self.receiving = Receiving::Closed;
    }

    fn close(&mut self) {
        self.sending = Sending::Closed;
    }

    fn fail(&mut self, error: Error) -> TlsFailure {
        let failure = TlsFailure::new(error);
        self.receiving = Receiving::Failed(Box::new(failure.clone()));
        failure
    }
}

fn facts<'a>(connection: &CommonState, server_name: Option<&'a str>) -> Option<Facts<'a>> {
    if connection.is_handshaking() { None } else { agreed(connection, server_name) }
}

fn agreed<'a>(connection: &CommonState, server_name: Option<&'a str>) -> Option<Facts<'a>> {
    let version = match connection.protocol_version()? {
        ProtocolVersion::TLSv1_3 => Version::Tls13,
        _ => Version::Tls12,
    };
    Some(Facts {
        version,
        cipher_suite: cipher_suite_name(connection.negotiated_cipher_suite()?.suite()),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name,
    })
}

/// The name in IANA's registry of TLS cipher suites; the library spells those of TLS 1.3 differently.
fn cipher_suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or("unknown"),
    }
}
