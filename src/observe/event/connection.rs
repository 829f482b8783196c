//! Events in the life of a connection.
//!
//! A connection makes one line, at its end: what an operator asks about it is then in one place. Lines on the way are
//! for failures only.

use std::{net::SocketAddr, time::Duration};

use super::{ConnectionId, Describe, Fields, Severity, Text, UserName, microseconds, optional_text};
use crate::observe::label::{Bound, EarlyData, ListenerKind, OutcomeKind, QhloOutcome, Resumption, Start, TlsVersion};

/// A connection is over: its summary.
///
/// Nothing need be done for single ones. `flights_in` counts receives: never fewer than the client's flights, and more where
/// one came in pieces. Many `timed_out`,
/// `tls_failed` or `fault` outcomes are worth a look at `reason`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionEnded {
    /// The connection's number.
    pub connection: ConnectionId,
    /// The shard that served it.
    pub shard: u16,
    /// The client's address and port.
    pub client: SocketAddr,
    /// What the listener expected first.
    pub listener: ListenerKind,
    /// How it began.
    pub start: Start,
    /// What the handshake agreed on, if one was completed.
    pub tls: Option<TlsFacts>,
    /// What became of the client's early data.
    pub early_data: EarlyData,
    /// Who authenticated, if anyone.
    pub user: Option<UserName>,
    /// What became of the QHLO ids; a mismatch anywhere counts as one.
    pub qhlo: QhloOutcome,
    /// Receives that brought data.
    pub flights_in: u32,
    /// Sends.
    pub flights_out: u32,
    /// Bytes received, TLS records included.
    pub bytes_in: u64,
    /// Bytes sent, TLS records included.
    pub bytes_out: u64,
    /// Messages stored.
    pub messages: u32,
    /// Commands refused.
    pub errors: u32,
    /// From accept to close.
    pub duration: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a TLS handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite in IANA's spelling.
    pub cipher: &'static str,
    /// Whether a session was resumed.
    pub resumption: Resumption,
}

/// How a connection ended, with the reason where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client said QUIT.
    Quit,
    /// The client closed without QUIT.
    ClientClosed,
    /// A time limit passed.
    TimedOut,
    /// More commands were refused than one connection may have.
    TooManyErrors,
    /// TLS failed, with the reason that the library gave.
    TlsFailed(Text),
    /// The server ended it by rule: which.
    Refused(Text),
    /// The server was stopping.
    Drained,
    /// The server is broken: how.
    Fault(Text),
}

impl Outcome {
    /// The kind without the reason.
    pub const fn kind(&self) -> OutcomeKind {
        match self {
            Self::Quit => OutcomeKind::Quit,
            Self::ClientClosed => OutcomeKind::ClientClosed,
            Self::TimedOut => OutcomeKind::TimedOut,
            Self::TooManyErrors => OutcomeKind::TooManyErrors,
            Self::TlsFailed(_) => OutcomeKind::TlsFailed,
            Self::Refused(_) => OutcomeKind::Refused,
            Self::Drained => OutcomeKind::Drained,
            Self::Fault(_) => OutcomeKind::Fault,
        }
    }

    /// The reason, if this kind has one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::TlsFailed(reason) | Self::Refused(reason) | Self::Fault(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Describe for ConnectionEnded {
    const NAME: &'static str = "connection_ended";

    fn severity(&self) -> Severity {
        match self.outcome {
            Outcome::Fault(_) => Severity::Error,
            _ => Severity::Info,
        }
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("id", &self.connection.to_string());
        fields.number("shard", self.shard.into());
        fields.text("client", &self.client.to_string());
        fields.text("listener", self.listener.word());
        fields.text("outcome", self.outcome.kind().word());
        optional_text(fields, "reason", self.outcome.reason());
        fields.text("start", self.start.word());
        fields.text("qhlo", self.qhlo.word());
        optional_text(fields, "tls", self.tls.map(|tls| tls.version.word()));
        optional_text(fields, "cipher", self.tls.map(|tls| tls.cipher));
        optional_text(fields, "session", self.tls.map(|tls| tls.resumption.word()));
        fields.text("early_data", self.early_data.word());
        optional_text(fields, "user", self.user.as_deref());
        fields.number("messages", self.messages.into());
        fields.number("errors", self.errors.into());
        fields.number("flights_in", self.flights_in.into());
        fields.number("flights_out", self.flights_out.into());
        fields.number("bytes_in", self.bytes_in);
        fields.number("bytes_out", self.bytes_out);
        microseconds(fields, "duration_us", self.duration);
    }
}

/// A connection was closed at once, because a bound was reached.
///
/// If the clients are real, raise the bound that the field `bound` names; if one address fills it, block that address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRefused {
    /// The shard that accepted it.
    pub shard: u16,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The bound that was reached.
    pub bound: Bound,
}

impl Describe for ConnectionRefused {
    const NAME: &'static str = "connection_refused";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("shard", self.shard.into());
        fields.text("client", &self.client.to_string());
        fields.text("bound", self.bound.word());
    }
}

/// A shard is late with what its clients have sent, and turns some new ones away until it has caught up. Told when it begins, and
/// every ten seconds while it lasts.
///
/// More is asked of it than it can do. Give the server more cores, or another server its share. `--lateness-max` says how late is
/// too late. If the processor is not busy, something else holds the shard up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLate {
    /// The shard.
    pub shard: u16,
    /// How long what a client sends waits until the shard gets to it.
    pub lateness: Duration,
    /// Connections turned away since this was told last.
    pub turned_away: u64,
}

impl Describe for ShardLate {
    const NAME: &'static str = "shard_late";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("shard", self.shard.into());
        microseconds(fields, "lateness_us", self.lateness);
        fields.number("turned_away", self.turned_away);
    }
}

/// The system refused to hand over a new connection, mostly for want of file descriptors; accepting pauses.
///
/// Raise the limit of open files of the service, or lower `--connections-max`. Waiting clients are not lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptPaused {
    /// The shard whose listener pauses.
    pub shard: u16,
    /// How long it pauses.
    pub pause: Duration,
    /// What the system said.
    pub reason: Text,
}

impl Describe for AcceptPaused {
    const NAME: &'static str = "accept_paused";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("shard", self.shard.into());
        microseconds(fields, "pause_us", self.pause);
        fields.text("reason", &self.reason);
    }
}

/// The code that serves one connection broke an invariant; the connection is closed, all others go on.
///
/// It is a defect: report it with this line. Messages that were acknowledged are safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPanicked {
    /// The connection's number.
    pub connection: ConnectionId,
    /// The shard that served it.
    pub shard: u16,
    /// The client's address and port.
    pub client: SocketAddr,
    /// What the broken invariant says, and where.
    pub reason: Text,
}

impl Describe for SessionPanicked {
    const NAME: &'static str = "session_panicked";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("id", &self.connection.to_string());
        fields.number("shard", self.shard.into());
        fields.text("client", &self.client.to_string());
        fields.text("reason", &self.reason);
    }
}
