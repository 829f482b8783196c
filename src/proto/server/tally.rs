//! What a conversation came to: numbers and facts for the operator's summary. Nothing is decided by them but the bounds.

use crate::proto::reply::{Foreign, Reply};
use crate::proto::trace::Hello;

/// Counts of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How the client opened the conversation.
    pub start: Start,
    /// The first accepted hello inside TLS or, if there was none, in the clear: what the mail was sent under.
    pub hello: Option<Hello>,
    /// QHLO commands whose id was right.
    pub ids_matched: u32,
    /// QHLO commands whose id was wrong.
    pub ids_mismatched: u32,
    /// Was TLS started with QTLS?
    pub qtls: bool,
    /// Was TLS started with STARTTLS?
    pub starttls: bool,
    /// Commands received.
    pub commands: u32,
    /// Commands refused for what they are or where they stand, which count towards the bound on errors.
    pub errors: u32,
    /// AUTH commands that failed.
    pub logins_failed: u32,
    /// Messages stored.
    pub messages: u32,
    /// Those of them that were stored and answered before the client had finished its TLS handshake.
    pub messages_early: u32,
    /// Messages that came whole before that, and had to wait for it.
    pub messages_waited: u32,
    /// Recipients of the messages stored.
    pub recipients: u64,
    /// Transactions refused with 4xx.
    pub refused_for_now: u32,
    /// Transactions refused with 5xx.
    pub refused_for_good: u32,
    /// The last refusal of a transaction.
    pub last_refusal: Option<Refusal>,
}

/// A reply that refused a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// In our own words.
    Own(Reply),
    /// In those of the server that should have had the message.
    Foreign(Foreign),
}

impl Refusal {
    /// The three-digit code.
    pub fn code(&self) -> u16 {
        match self {
            Self::Own(reply) => reply.code(),
            Self::Foreign(reply) => reply.code(),
        }
    }

    /// The reply as text, without its CRLF.
    pub fn text(&self) -> &str {
        match self {
            Self::Own(reply) => reply.text(),
            Self::Foreign(reply) => reply.text(),
        }
    }
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        Self::Own(reply)
    }
}

impl From<Foreign> for Refusal {
    fn from(reply: Foreign) -> Self {
        Self::Foreign(reply)
    }
}

/// How a client opened the conversation, by its first command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// No command came.
    #[default]
    None,
    /// HELO, or MAIL without a hello: RFC 821.
    Smtp,
    /// EHLO, after the greeting.
    Esmtp,
    /// EHLO before the greeting was sent, or together with the next step: Exim's early pipelining.
    PipeConnect,
    /// QUICKSTART's basic profile: QTLS, or QHLO without an id.
    Basic,
    /// QUICKSTART's full profile: QHLO with an id.
    Full,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// QUIT.
    Quit,
    /// The client was silent for too long, or took too long over something.
    TimedOut,
    /// The server is being stopped.
    Drained,
    /// The bound on errors was reached.
    TooManyErrors,
    /// The bound on commands without a message was reached.
    TooManyCommands,
    /// The bound on failed AUTH commands was reached.
    TooManyLogins,
    /// The bound on messages was reached.
    TooManyMessages,
    /// A line ended in LF without CR.
    BareNewline,
    /// A chunk, or a refused handshake, that could not be skipped.
    Unskippable,
    /// Commands came before the greeting where that marks an abuser.
    EarlyTalker,
    /// What came is not SMTP.
    NotSmtp,
    /// We are broken.
    Fault,
}

impl Tally {
    /// Notes a refused transaction.
    pub(super) fn refuse(&mut self, reply: impl Into<Refusal>) {
        let reply = reply.into();
        if reply.code() < 500 {
            self.refused_for_now += 1;
        } else {
            self.refused_for_good += 1;
        }
        self.last_refusal = Some(reply);
    }
}
