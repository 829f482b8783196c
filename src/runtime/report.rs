//! From what the protocol counted to what operators read.

use std::sync::Arc;
use std::time::Duration;

use crate::observe::event::{ConnectionEnded, ConnectionId, MessageStored, Outcome, TlsFacts, UserName};
use crate::observe::label::{
    self, BodyKind, EarlyCommit, ListenerKind, QhloId, QhloOutcome, Resumption, Shortcut, TlsVersion,
};
use crate::observe::metrics::ShardMetrics;
use crate::proto::channel;
use crate::proto::command::Body;
use crate::proto::message::Message;
use crate::proto::server::{self, Opening, Server, Start, Tally};
use crate::proto::trace::Hello;
use crate::tls::session::EarlyOutcome;
use crate::wire::{Connection, failure_name};

/// Bytes and flights of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) flights_in: u32,
    pub(super) flights_out: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Who and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) connection: ConnectionId,
    pub(super) shard: u16,
    pub(super) client: std::net::SocketAddr,
    pub(super) opening: Opening,
}

pub(super) fn listener_kind(opening: Opening) -> ListenerKind {
    match opening {
        Opening::Clear => ListenerKind::Starttls,
        Opening::ImplicitTls => ListenerKind::Tls,
    }
}

/// The one line of a connection.
pub(super) fn connection_ended(
    identity: &Identity,
    connection: &Connection,
    traffic: &Traffic,
    duration: Duration,
) -> ConnectionEnded {
    let server = connection.server();
    let tally = server.tally();
    ConnectionEnded {
        connection: identity.connection,
        shard: identity.shard,
        client: identity.client,
        listener: listener_kind(identity.opening),
        start: start(tally.start),
        tls: server.tls().map(tls_facts),
        early_data: early_data(connection.early_outcome()),
        user: user(server),
        qhlo: qhlo_outcome(tally),
        flights_in: traffic.flights_in,
        flights_out: traffic.flights_out,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        messages: tally.messages,
        errors: tally.errors,
        duration,
        outcome: outcome(connection),
    }
}

/// The one line of a message.
pub(super) fn message_stored(connection: ConnectionId, message: &Message, commit: Duration) -> MessageStored {
    let envelope = &message.envelope;
    MessageStored {
        connection,
        message: message.id.as_str().into(),
        user: envelope.user().into(),
        sender: envelope.sender().into(),
        recipients: u32::try_from(envelope.recipient_count()).unwrap_or(u32::MAX),
        bytes: message.size(),
        body: match envelope.body() {
            Body::SevenBit => BodyKind::SevenBit,
            Body::EightBitMime => BodyKind::EightBitMime,
            Body::BinaryMime => BodyKind::BinaryMime,
        },
        commit,
    }
}

/// The authenticated user, if there is one.
pub(super) fn user(server: &Server) -> Option<UserName> {
    server.member().map(|member| Arc::from(member.name.as_str()))
}

/// Counts what the summary of a connection does not.
pub(super) fn count(connection: &Connection, metrics: &ShardMetrics) {
    let server = connection.server();
    let tally = server.tally();
    for _ in 0..tally.ids_matched {
        metrics.qhlo_ids.count(QhloId::Matched);
    }
    for _ in 0..tally.ids_mismatched {
        metrics.qhlo_ids.count(QhloId::Mismatched);
    }
    if tally.qtls {
        metrics.shortcuts.count(Shortcut::Qtls);
    }
    if tally.starttls && tally.start == Start::Full {
        metrics.shortcuts.count(Shortcut::EarlyStarttls);
    }
    if tally.start == Start::PipeConnect {
        metrics.shortcuts.count(Shortcut::PipeConnect);
    }
    if server.tls().is_some() {
        metrics.early_data.count(early_data(connection.early_outcome()));
    }
    for _ in 0..tally.messages_early {
        metrics.early_messages.count(EarlyCommit::AtOnce);
    }
    for _ in 0..tally.messages_waited {
        metrics.early_messages.count(EarlyCommit::Waited);
    }
    if let Some(hello) = tally.hello {
        metrics.hellos.count(match hello {
            Hello::Helo => label::Hello::Helo,
            Hello::Ehlo => label::Hello::Ehlo,
            Hello::QhloBasic => label::Hello::QhloBasic,
            Hello::QhloFull => label::Hello::QhloFull,
        });
    }
}

/// The handshake as metrics count it.
pub(super) fn handshake(facts: channel::TlsFacts) -> label::Handshake {
    let TlsFacts { version, resumption, .. } = tls_facts(facts);
    label::Handshake { version, resumption }
}

fn start(start: Start) -> label::Start {
    match start {
        Start::None => label::Start::None,
        Start::Smtp => label::Start::Smtp,
        Start::Esmtp => label::Start::Esmtp,
        Start::PipeConnect => label::Start::PipeConnect,
        Start::Basic => label::Start::Basic,
        Start::Full => label::Start::Full,
    }
}

fn tls_facts(facts: channel::TlsFacts) -> TlsFacts {
    TlsFacts {
        version: if facts.version == "TLSv1.2" { TlsVersion::Tls12 } else { TlsVersion::Tls13 },
        cipher: facts.cipher,
        resumption: if facts.resumed { Resumption::Resumed } else { Resumption::Full },
    }
}

fn early_data(outcome: EarlyOutcome) -> label::EarlyData {
    match outcome {
        EarlyOutcome::None => label::EarlyData::None,
        EarlyOutcome::Accepted => label::EarlyData::Accepted,
        EarlyOutcome::Rejected => label::EarlyData::Rejected,
    }
}

fn qhlo_outcome(tally: &Tally) -> QhloOutcome {
    match (tally.ids_matched, tally.ids_mismatched) {
        (0, 0) => QhloOutcome::None,
        (_, 0) => QhloOutcome::Matched,
        _ => QhloOutcome::Mismatched,
    }
}

fn outcome(connection: &Connection) -> Outcome {
    use server::Outcome as Ended;
    if let Some(failure) = connection.tls_failure() {
        return Outcome::TlsFailed(format!("{}: {failure}", failure_name(failure.kind())).into());
    }
    match connection.server().outcome() {
        None => Outcome::ClientClosed,
        Some(Ended::Quit) => Outcome::Quit,
        Some(Ended::TimedOut) => Outcome::TimedOut,
        Some(Ended::Drained) => Outcome::Drained,
        Some(Ended::TooManyErrors) => Outcome::TooManyErrors,
        Some(Ended::TooManyCommands) => Outcome::Refused("too many commands".into()),
        Some(Ended::TooManyLogins) => Outcome::Refused("too many failed authentications".into()),
        Some(Ended::TooManyMessages) => Outcome::Refused("too many messages".into()),
        Some(Ended::BareNewline) => Outcome::Refused("a line without CR".into()),
        Some(Ended::Unskippable) => Outcome::Refused("more refused octets than are skipped".into()),
        Some(Ended::EarlyTalker) => Outcome::Refused("spoke before the greeting".into()),
        Some(Ended::NotSmtp) => Outcome::Refused("not SMTP".into()),
        Some(Ended::Fault) => Outcome::Fault("the server is broken".into()),
    }
}
