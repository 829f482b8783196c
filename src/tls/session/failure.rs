//! Why a session is broken, and how operators count it.
//!
//! Must not decide what becomes of the connection.

use std::fmt;

use rustls::Error;

/// Why a session is broken.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsFailure {
    kind: FailureKind,
    error: Error,
}

/// The kinds of failures, as operators count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// What arrived cannot be read as TLS: often plain text on a port for TLS, or the reverse.
    Malformed,
    /// The other side gave up with an alert, for instance because it does not trust our certificate.
    PeerAlert,
    /// The two sides have no version, cipher suite or group in common.
    Incompatible,
    /// The server's certificate is not good enough for this client.
    Certificate,
    /// The other side broke the rules of the protocol, or somebody changed its bytes.
    Violation,
    /// Something is wrong on our side.
    Fault,
}

impl TlsFailure {
    pub(super) fn new(error: Error) -> Self {
        Self { kind: kind(&error), error }
    }

    /// The kind, for counting.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = match self.kind {
            FailureKind::Malformed => "what arrived is not TLS (does one side speak plain text here?)",
            FailureKind::PeerAlert => "the other side gave up",
            FailureKind::Incompatible => "no version, cipher suite or group in common",
            FailureKind::Certificate => "the server's certificate is refused",
            FailureKind::Violation => "the other side broke the TLS protocol",
            FailureKind::Fault => "TLS failed on this side",
        };
        write!(f, "{summary}: {}", self.error)
    }
}

impl std::error::Error for TlsFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

fn kind(error: &Error) -> FailureKind {
    match error {
        Error::InvalidMessage(_) => FailureKind::Malformed,
        Error::AlertReceived(_) => FailureKind::PeerAlert,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => FailureKind::Incompatible,
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => FailureKind::Certificate,
        Error::PeerMisbehaved(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => FailureKind::Violation,
        _ => FailureKind::Fault,
    }
}

/// The library has room for 64 KiB of a handshake message; a larger one ends the session.
pub(super) fn message_too_large() -> Error {
    rustls::InvalidMessage::HandshakePayloadTooLarge.into()
}
