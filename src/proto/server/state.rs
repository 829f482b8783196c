//! Where a conversation stands. One enum, a struct per state; transitions take the old state and give the new one.

use crate::proto::body::TextReader;
use crate::proto::channel::Channel;
use crate::proto::proof::{Authenticated, Encrypted};
use crate::proto::reply::Reply;
use crate::proto::trace::Hello;

/// ```text
///  Waiting ──greet──▶ Greeted ◀──────────────── handshake ── Securing ◀── STARTTLS, QTLS (from any state in the clear)
///                     │     ▲                                              and implicit TLS
///     QHLO, wrong id  ▼     │ QHLO
///                  Mismatched ── QHLO, right id ─▶ (Ready or Authorized, whatever it was)
///
///  Greeted ── EHLO, QHLO ──▶ Ready ── AUTH ──▶ [Challenged ──▶] Verifying ── yes ──▶ Authorized
///                              ▲                                    │ no
///                              └──────── EHLO, QHLO ── AuthFailed ◀─┘      (AuthFailed ── AUTH ──▶ Verifying)
///
///  Authorized ── MAIL ──▶ Enveloping ── DATA ──────────────▶ Receiving ── end ──▶ Storing ── done ──▶ Authorized
///                              └─ BDAT ─▶ Receiving ◀─ BDAT ─ Chunking    (RSET, EHLO, QHLO, a refusal ──▶ Authorized)
///
///  Receiving ── end, in early data and without a token ──▶ Unconfirmed ── the client's Finished ──▶ Storing
///
///  Receiving ── as much as a piece has come ──▶ Keeping ── storage has it, or refuses it ──▶ Receiving
///
///  any ── QUIT, 421, time out ──▶ Ended
/// ```
#[derive(Debug)]
pub(super) enum State {
    /// The greeting has not been sent yet.
    Waiting,
    /// TLS is being set up; no byte is ours until it is.
    Securing(Securing),
    /// At the start of a conversation, or of one inside TLS: no hello yet.
    Greeted(Greeted),
    /// A QHLO with a wrong id was refused (draft §8).
    Mismatched(Mismatched),
    /// A hello was accepted.
    Ready(Ready),
    /// A challenge was sent and the client's response is awaited (RFC 4954 §4).
    Challenged(Challenged),
    /// Whoever judges credentials has been asked.
    Verifying(Login),
    /// An AUTH has failed, and what was sent along with it is refused (draft §7).
    AuthFailed(Login),
    /// The client has proved who it is; no transaction is open.
    Authorized(Authorized),
    /// MAIL was accepted.
    Enveloping(Authorized),
    /// A chunk was accepted, and it was not the last (RFC 3030 §2).
    Chunking(Chunking),
    /// Content is coming in.
    Receiving(Receiving),
    /// Content is coming in, and storage has been asked to keep a piece of it before more is taken.
    Keeping(Receiving),
    /// The message is complete, but it may be a copy that somebody else sends: it came in early data and bears no token by
    /// which a second one could be told. It waits for the client's Finished.
    Unconfirmed(Authorized),
    /// Storage has been asked to keep the message.
    Storing(Authorized),
    /// Nothing more is read or said.
    Ended,
}

/// Has the list of extensions been given at this point? It decides between 520 and 521 (draft §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Yes,
    No,
}

/// Who speaks first inside TLS: after STARTTLS the client, after QTLS and at the start of implicit TLS the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Securing {
    /// The client will say hello.
    Silent,
    /// An extended greeting goes out (draft §6).
    Greeting,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Greeted {
    pub(super) channel: Channel,
    pub(super) listed: Listed,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mismatched {
    pub(super) channel: Channel,
    /// What the conversation had come to before.
    pub(super) authenticated: Option<Authenticated>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) channel: Channel,
    pub(super) listed: Listed,
    pub(super) hello: Hello,
}

/// What is kept while the client proves who it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Login {
    pub(super) encrypted: Encrypted,
    pub(super) listed: Listed,
    pub(super) hello: Hello,
}

#[derive(Debug)]
pub(super) struct Challenged {
    pub(super) login: Login,
    pub(super) exchange: Exchange,
}

/// Which response is awaited.
#[derive(Debug)]
pub(super) enum Exchange {
    /// PLAIN's only one.
    Plain,
    /// LOGIN's first.
    LoginUser,
    /// LOGIN's second.
    LoginPassword(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Authorized {
    pub(super) authenticated: Authenticated,
    pub(super) encrypted: Encrypted,
    pub(super) listed: Listed,
    pub(super) hello: Hello,
}

#[derive(Debug)]
pub(super) struct Chunking {
    pub(super) authorized: Authorized,
    pub(super) reader: TextReader,
}

#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) authorized: Authorized,
    pub(super) reader: TextReader,
    pub(super) source: Source,
    /// Why the message will not be taken. What is left of it is read and dropped.
    pub(super) refusal: Option<Reply>,
}

/// How the content is framed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// DATA: it ends with a dot.
    Dotted,
    /// BDAT: it ends after so many octets.
    Chunk { left: u64, last: bool },
}

/// The rows of the gate: a state without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No hello yet.
    Greeted,
    /// After HELO.
    Plain,
    /// After EHLO or QHLO, in the clear or inside TLS.
    Ready,
    Mismatched,
    AuthFailed,
    Authorized,
    Enveloping,
    Chunking,
    /// Not a time for commands.
    Busy,
}

impl Stage {
    #[cfg(test)]
    pub(super) const ALL: [Self; 8] = [
        Self::Greeted,
        Self::Plain,
        Self::Ready,
        Self::Mismatched,
        Self::AuthFailed,
        Self::Authorized,
        Self::Enveloping,
        Self::Chunking,
    ];
}

impl State {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Greeted(_) => Stage::Greeted,
            Self::Ready(Ready { hello: Hello::Helo, .. }) => Stage::Plain,
            Self::Ready(_) => Stage::Ready,
            Self::Mismatched(_) => Stage::Mismatched,
            Self::AuthFailed(_) => Stage::AuthFailed,
            Self::Authorized(_) => Stage::Authorized,
            Self::Enveloping(_) => Stage::Enveloping,
            Self::Chunking(_) => Stage::Chunking,
            Self::Waiting
            | Self::Securing(_)
            | Self::Challenged(_)
            | Self::Verifying(_)
            | Self::Receiving(_)
            | Self::Keeping(_)
            | Self::Unconfirmed(_)
            | Self::Storing(_)
            | Self::Ended => Stage::Busy,
        }
    }

    pub(super) fn channel(&self) -> Channel {
        match self {
            Self::Greeted(Greeted { channel, .. })
            | Self::Mismatched(Mismatched { channel, .. })
            | Self::Ready(Ready { channel, .. }) => *channel,
            Self::Challenged(Challenged { login, .. }) | Self::Verifying(login) | Self::AuthFailed(login) => {
                Channel::Secure(login.encrypted)
            }
            Self::Authorized(at)
            | Self::Enveloping(at)
            | Self::Chunking(Chunking { authorized: at, .. })
            | Self::Receiving(Receiving { authorized: at, .. })
            | Self::Keeping(Receiving { authorized: at, .. })
            | Self::Unconfirmed(at)
            | Self::Storing(at) => Channel::Secure(at.encrypted),
            Self::Waiting | Self::Securing(_) | Self::Ended => Channel::Clear,
        }
    }

    pub(super) fn listed(&self) -> Listed {
        match self {
            Self::Greeted(Greeted { listed, .. }) | Self::Ready(Ready { listed, .. }) => *listed,
            Self::Challenged(Challenged { login, .. }) | Self::Verifying(login) | Self::AuthFailed(login) => {
                login.listed
            }
            Self::Authorized(at)
            | Self::Enveloping(at)
            | Self::Chunking(Chunking { authorized: at, .. })
            | Self::Receiving(Receiving { authorized: at, .. })
            | Self::Keeping(Receiving { authorized: at, .. })
            | Self::Unconfirmed(at)
            | Self::Storing(at) => at.listed,
            Self::Mismatched(_) => Listed::Yes,
            Self::Waiting | Self::Securing(_) | Self::Ended => Listed::No,
        }
    }

    pub(super) fn authenticated(&self) -> Option<Authenticated> {
        match self {
            Self::Mismatched(Mismatched { authenticated, .. }) => *authenticated,
            Self::Authorized(at)
            | Self::Enveloping(at)
            | Self::Chunking(Chunking { authorized: at, .. })
            | Self::Receiving(Receiving { authorized: at, .. })
            | Self::Keeping(Receiving { authorized: at, .. })
            | Self::Unconfirmed(at)
            | Self::Storing(at) => Some(at.authenticated),
            _ => None,
        }
    }

    /// What AUTH goes on from, where it may.
    pub(super) fn login(&self) -> Option<Login> {
        match self {
            Self::Ready(Ready { channel: Channel::Secure(encrypted), listed, hello }) => {
                Some(Login { encrypted: *encrypted, listed: *listed, hello: *hello })
            }
            Self::AuthFailed(login) => Some(*login),
            _ => None,
        }
    }

    /// From MAIL to the final reply.
    pub(super) fn is_in_transaction(&self) -> bool {
        matches!(
            self,
            Self::Enveloping(_)
                | Self::Chunking(_)
                | Self::Receiving(_)
                | Self::Keeping(_)
                | Self::Unconfirmed(_)
                | Self::Storing(_)
        )
    }

    /// Is the next move somebody else's than that of the client's commands?
    pub(super) fn takes_no_bytes(&self) -> bool {
        matches!(
            self,
            Self::Securing(_)
                | Self::Verifying(_)
                | Self::Keeping(_)
                | Self::Unconfirmed(_)
                | Self::Storing(_)
                | Self::Ended
                | Self::Waiting
        )
    }

    /// The state with the open transaction forgotten.
    pub(super) fn without_transaction(self) -> Self {
        match self {
            Self::Enveloping(at)
            | Self::Chunking(Chunking { authorized: at, .. })
            | Self::Receiving(Receiving { authorized: at, .. })
            | Self::Keeping(Receiving { authorized: at, .. })
            | Self::Unconfirmed(at)
            | Self::Storing(at) => Self::Authorized(at),
            other => other,
        }
    }
}
