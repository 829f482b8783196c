//! Where a connection stands: what has been said last, and what is still to be answered.
//!
//! Names the states; `flight` and `reply` move between them.

use super::capabilities::Capabilities;
use super::fallback::{How, Recovery};
use super::memory::Point;

/// How far the client has got with what it says. What the server still owes is in the queue of [`Expected`] replies,
/// so that a client that issues commands early can be in `Transactions` before the greeting has come.
///
/// ```text
///            nothing remembered        greeting
///  AtPoint ────────────────────▶ AwaitGreeting ──QUICKSTART──▶ Greeted ─┐ QHLO or QTLS
///     │ │                              │ otherwise: EHLO                │
///     │ └─STARTTLS came before: EHLO─▶ AwaitHello ◀─no PIPELINING───────┤
///     │ early QHLO, early EHLO         │ listed                         │
///     ▼                                ▼                                ▼
///  ┌─ Secure (connect, TLS wanted) ──STARTTLS──▶ AwaitStartTls ──220──▶ Handshake ──▶ AtPoint(Secured)
///  │      └────────QTLS, or STARTTLS with the handshake pipelined──────────▲   (at once, if TLS takes early data)
///  └▶ Login ──AUTH──▶ AwaitLogin ──235──▶ Transactions ──all settled──▶ Closing ──▶ Closed
///        └─────AUTH pipelined, or none────────▲
///
///  any ──refusal──▶ Draining ──the replies still owed have come──▶ Greeted/AwaitHello/Closing, or Closed to reconnect
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// At the start of this point; nothing has been said.
    AtPoint(Point),
    /// Nothing may be said before the greeting.
    AwaitGreeting(Point),
    /// The greeting listed QUICKSTART.
    Greeted(Point),
    /// The reply to QHLO, EHLO or HELO must come before anything else is said.
    AwaitHello(Point),
    /// Hello was said in plain text and TLS is wanted next.
    Secure,
    /// STARTTLS was said and its reply must come before the handshake.
    AwaitStartTls,
    /// The TLS handshake is under way and takes no early data.
    Handshake,
    /// AUTH may be said, if it is wanted.
    Login,
    /// The reply to AUTH must come first.
    AwaitLogin,
    /// Messages may be sent.
    Transactions,
    /// Something was refused: nothing new is said until all owed replies have come.
    Draining(Recovery),
    /// QUIT was said.
    Closing,
    /// This connection is over, or is to be replaced by another one.
    Closed(Option<How>),
}

/// A reply that the server owes, in the order of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Greeting(Point),
    Hello(Point, Hello),
    StartTls,
    Login(LoginStep),
    Reset,
    /// To MAIL of the transaction of this number.
    Mail(u64),
    /// To RCPT: the transaction's number and the recipient's index in its message.
    Recipient(u64, usize),
    Data(u64),
    /// To the end of the message.
    End(u64),
    Quit,
}

/// Which hello was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// QHLO with a remembered id, before the server said anything here (draft §8).
    EarlyQhlo,
    /// QHLO after the greeting (draft §5).
    BasicQhlo,
    /// QHLO with the id from the server's refusal of the last one (draft §8).
    CorrectedQhlo,
    /// EHLO before the greeting, to a server that announced PIPECONNECT.
    EarlyEhlo,
    Ehlo,
    Helo,
}

impl Hello {
    pub(super) const fn is_qhlo(self) -> bool {
        matches!(self, Self::EarlyQhlo | Self::BasicQhlo | Self::CorrectedQhlo)
    }

    pub(super) const fn is_early(self) -> bool {
        matches!(self, Self::EarlyQhlo | Self::EarlyEhlo)
    }
}

/// What the outstanding line of an AUTH exchange was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginStep {
    /// AUTH PLAIN with the credential in it.
    Plain,
    /// The credential of PLAIN after a prompt.
    PlainAnswer,
    /// AUTH LOGIN.
    LoginStart,
    /// The user's name.
    LoginUser,
    /// The password.
    LoginPassword,
}

/// What is known of the server at one point of this connection.
#[derive(Clone, Debug, Default)]
pub(super) struct PointFacts {
    /// The list that decides what may be sent: remembered, or the server's own.
    pub(super) known: Capabilities,
    /// The list that the server stated on this connection in its greeting or with 521.
    pub(super) listed: Option<Capabilities>,
    /// The last hello said here.
    pub(super) hello: Option<Hello>,
    /// The server accepted it.
    pub(super) accepted: bool,
}

/// How TLS came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecuredBy {
    /// From the first byte of the connection.
    Implicit,
    /// By QTLS: a greeting follows inside (draft §6).
    Qtls,
    /// By STARTTLS after its reply: no greeting follows (RFC 3207 §4.2).
    StartTls,
    /// By STARTTLS with the handshake pipelined (draft §9).
    PipelinedStartTls,
}

impl SecuredBy {
    /// Has the client sent TLS bytes that the server cannot refuse in words?
    pub(super) const fn was_hurried(self) -> bool {
        matches!(self, Self::Qtls | Self::PipelinedStartTls)
    }
}
