//! One example of each event, for tests.
//!
//! In the order of the list in the parent module, which a test holds it to.

use std::{net::SocketAddr, time::Duration};

use super::{
    AcceptPaused, AuthFailed, AuthPutOff, CertificateReloadFailed, CertificateReloaded, Concerned, ConnectionEnded,
    ConnectionId, ConnectionRefused, DeliveryFault, DestinationDown, DestinationUp, Draining, Event, HandedOver,
    Listening, LogLinesDropped, MessageDeferred, MessageDelivered, MessageExpired, MessageFailed, MessageRefused,
    MessageRepeated, MessageStored, OnceTokensForgotten, Outcome, Ready, ReportQueued, SessionPanicked, ShardFailed,
    ShardLate, SpoolDamaged, SpoolFault, SpoolFull, SpoolOpened, Stopped, TakingOver, TlsFacts, TookOver,
    UsersReloadFailed, UsersReloaded, Warning,
};
use crate::observe::label::{BodyKind, Bound, EarlyData, ListenerKind, QhloOutcome, Resumption, Start, TlsVersion};

pub(crate) fn client() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 40_000))
}

pub(crate) fn connection_ended(outcome: Outcome) -> ConnectionEnded {
    ConnectionEnded {
        connection: ConnectionId(0xab),
        shard: 1,
        client: client(),
        listener: ListenerKind::Starttls,
        start: Start::Full,
        tls: Some(TlsFacts {
            version: TlsVersion::Tls13,
            cipher: "TLS_AES_128_GCM_SHA256",
            resumption: Resumption::Resumed,
        }),
        early_data: EarlyData::Accepted,
        user: Some("ann".into()),
        qhlo: QhloOutcome::Matched,
        flights_in: 3,
        flights_out: 2,
        bytes_in: 5_000,
        bytes_out: 700,
        messages: 1,
        errors: 0,
        duration: Duration::from_micros(123_456),
        outcome,
    }
}

pub(crate) fn message_stored() -> MessageStored {
    MessageStored {
        connection: ConnectionId(0xab),
        message: "m1".into(),
        user: "ann".into(),
        sender: "ann@example.org".into(),
        recipients: 3,
        bytes: 4_096,
        body: BodyKind::EightBitMime,
        commit: Duration::from_micros(80),
    }
}

pub(crate) fn message_refused(reply_code: u16) -> MessageRefused {
    MessageRefused {
        connection: ConnectionId(0xab),
        user: Some("ann".into()),
        sender: None,
        reply_code,
        reason: "too large".into(),
    }
}

pub(crate) fn concerned() -> Concerned {
    let (message, destination) = ("m1".into(), "relay:mx.example.com:25".into());
    Concerned { message, destination, recipient: Some("bob@example.com".into()), recipients: 1 }
}

pub(crate) fn auth_failed(user: &str) -> AuthFailed {
    AuthFailed { connection: ConnectionId(0xab), client: client(), user: user.into(), reason: "wrong password".into() }
}

pub(crate) fn auth_put_off() -> AuthPutOff {
    AuthPutOff {
        connection: ConnectionId(0xab),
        client: client(),
        user: "ann".into(),
        reason: "too many failures".into(),
    }
}

pub(crate) fn session_panicked() -> SessionPanicked {
    SessionPanicked { connection: ConnectionId(0xab), shard: 1, client: client(), reason: "broken".into() }
}

pub(crate) fn one_of_each() -> Vec<Event> {
    vec![
        connection_ended(Outcome::Quit).into(),
        ConnectionRefused { shard: 0, client: client(), bound: Bound::Connections }.into(),
        ShardLate { shard: 0, lateness: Duration::from_millis(900), turned_away: 17 }.into(),
        AcceptPaused { shard: 0, pause: Duration::from_millis(5), reason: "too many open files".into() }.into(),
        session_panicked().into(),
        auth_failed("ann").into(),
        auth_put_off().into(),
        message_stored().into(),
        MessageRepeated { connection: ConnectionId(0xab), message: "m1".into(), user: "ann".into() }.into(),
        message_refused(552).into(),
        DeliveryFault { message: "m1".into(), recipient: None, reason: "disk full".into() }.into(),
        SpoolOpened { messages: 5, cut_bytes: 4_096, took: Duration::from_millis(20) }.into(),
        SpoolDamaged {
            segment: "spool/0/0000000001".into(),
            offset: 4_096,
            bytes: 512,
            message: None,
            kept: "spool/damaged/0-0000000001-4096".into(),
        }
        .into(),
        SpoolFault { reason: "cannot write".into() }.into(),
        SpoolFull { directory: "spool/0".into() }.into(),
        MessageDelivered { concerned: concerned(), age: Duration::from_millis(3), reply: "250 ok".into() }.into(),
        MessageDeferred {
            concerned: concerned(),
            age: Duration::from_secs(3),
            status: "4.2.0".into(),
            reply: "451 4.2.0 later".into(),
        }
        .into(),
        MessageFailed { concerned: concerned(), status: "5.1.1".into(), reply: "550 5.1.1 no".into() }.into(),
        MessageExpired { concerned: concerned(), reply: "451 4.2.0 later".into() }.into(),
        ReportQueued { message: "m1".into(), report: "m2".into(), sender: "ann@example.org".into(), action: "failed" }
            .into(),
        DestinationDown { shard: 1, destination: "relay:mx.example.com:25".into(), reason: "no route".into() }.into(),
        DestinationUp { shard: 1, destination: "relay:mx.example.com:25".into() }.into(),
        Listening { address: client(), listener: ListenerKind::Tls }.into(),
        Ready { version: "0.1.0".into(), hostname: "mail.example.org".into(), shards: 2 }.into(),
        Warning { subject: "--sync none".into(), consequence: "mail may be lost".into(), remedy: "drop it".into() }
            .into(),
        CertificateReloaded { certificates: 1 }.into(),
        CertificateReloadFailed { reason: "no certificate in FILE".into() }.into(),
        UsersReloaded { users: 12 }.into(),
        UsersReloadFailed { reason: "line 3".into() }.into(),
        LogLinesDropped { lines: 7 }.into(),
        OnceTokensForgotten { tokens: 3 }.into(),
        TakingOver { sockets: 4, patience: Duration::from_secs(50) }.into(),
        TookOver { waited: Duration::from_millis(12) }.into(),
        HandedOver { sockets: 4 }.into(),
        ShardFailed { shard: 1, reason: "broken".into() }.into(),
        Draining { connections: 4, timeout: Duration::from_secs(30) }.into(),
        Stopped { connections_cut: 0, uptime: Duration::from_secs(60) }.into(),
    ]
}
