//! What refusals mean (draft §8 and §10): what to do next, and why a session failed if nothing can be done.
//!
//! Judges replies; does not act on them.

use std::fmt;

use super::capabilities::Capabilities;
use super::memory::Point;
use super::state::Hello;
use crate::proto::reply_reader::{Reply, ReplyError};

/// How the next connection shall be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// In plain ESMTP: QUICKSTART broke (draft §10).
    PlainEsmtp,
    /// As this one: the server takes no more messages on one connection (RFC 9422 §4.1).
    Again,
}

/// What to do when all owed replies have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Say QHLO with the right id.
    Qhlo(Point),
    /// Say EHLO.
    Ehlo(Point),
    /// Say HELO: the server knows no EHLO (RFC 5321 §3.2).
    Helo(Point),
    /// Connect again.
    Reconnect(How),
    /// Give up.
    Fail(Failure),
}

/// Why messages were not sent. What a server said about one message or recipient is in its verdict instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The service is not available now (421, 4.3.2, or any 4xx before the first message).
    TryLater(Reply),
    /// The server refuses to serve.
    Refused(Reply),
    /// TLS is required and the server does not offer it.
    TlsNotOffered,
    /// The server could not start TLS.
    TlsUnavailable(Reply),
    /// The TLS handshake failed; the TLS library's words.
    Tls(String),
    /// The server offers no way to log in that this client knows, or none inside TLS.
    LoginNotOffered,
    /// The server refused the credential.
    LoginRefused(Reply),
    /// The server could not judge the credential now.
    LoginDeferred(Reply),
    /// The message is larger than the server takes, in bytes.
    TooLarge {
        /// What the server takes.
        limit: u64,
    },
    /// The message needs SMTPUTF8 and the server does not offer it.
    Smtputf8NotOffered,
    /// The message has 8-bit bytes, must not be sent where they are not welcome, and the server does not offer 8BITMIME.
    EightBitMimeNotOffered,
    /// The message is binary and the server does not offer BINARYMIME with CHUNKING.
    BinaryMimeNotOffered,
    /// The message may travel over verified TLS only, and the server does not promise that for the way that follows.
    RequireTlsNotOffered,
    /// All recipients or none were asked for, and the server takes fewer recipients at once.
    TooManyRecipients {
        /// What the server takes.
        limit: u32,
    },
    /// Another recipient was refused, and all or none were asked for.
    AllOrNothing,
    /// What the server sent is no reply.
    Protocol(ReplyError),
    /// The server sent a reply that was not asked for.
    Unexpected(Reply),
    /// The server closed the connection.
    Closed,
    /// The server did not answer in time.
    TimedOut,
}

impl Failure {
    /// May the same attempt succeed later?
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::TryLater(_)
            | Self::TlsUnavailable(_)
            | Self::LoginDeferred(_)
            | Self::Protocol(_)
            | Self::Unexpected(_)
            | Self::Tls(_)
            | Self::Closed
            | Self::TimedOut => true,
            Self::Refused(_)
            | Self::TlsNotOffered
            | Self::LoginNotOffered
            | Self::LoginRefused(_)
            | Self::TooLarge { .. }
            | Self::Smtputf8NotOffered
            | Self::EightBitMimeNotOffered
            | Self::BinaryMimeNotOffered
            | Self::RequireTlsNotOffered
            | Self::TooManyRecipients { .. }
            | Self::AllOrNothing => false,
        }
    }

    /// Did the server not let us in? Then it has taken no message, and whatever it says next has this reason.
    pub(super) const fn is_of_login(&self) -> bool {
        matches!(self, Self::LoginRefused(_) | Self::LoginDeferred(_))
    }

    /// Is there still a server on the other end that understands QUIT?
    pub(super) const fn leaves_dialog_whole(&self) -> bool {
        !matches!(
            self,
            Self::TryLater(_) | Self::Tls(_) | Self::Protocol(_) | Self::Unexpected(_) | Self::Closed | Self::TimedOut
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TryLater(reply) => write!(f, "the service is not available now: {reply}"),
            Self::Refused(reply) => write!(f, "the server refuses to serve: {reply}"),
            Self::TlsNotOffered => f.write_str("the server does not offer TLS, which is required"),
            Self::TlsUnavailable(reply) => write!(f, "the server could not start TLS: {reply}"),
            Self::Tls(words) => write!(f, "TLS failed: {words}"),
            Self::LoginNotOffered => f.write_str("the server offers neither AUTH PLAIN nor AUTH LOGIN inside TLS"),
            Self::LoginRefused(reply) => write!(f, "the server refused the user's name or password: {reply}"),
            Self::LoginDeferred(reply) => write!(f, "the server could not check the password now: {reply}"),
            Self::TooLarge { limit } => write!(f, "the message is larger than the {limit} bytes that the server takes"),
            Self::Smtputf8NotOffered => f.write_str("the message needs SMTPUTF8, which the server does not offer"),
            Self::EightBitMimeNotOffered => {
                f.write_str("the message has 8-bit characters, and the server does not offer 8BITMIME")
            }
            Self::BinaryMimeNotOffered => {
                f.write_str("the message is binary, and the server does not offer BINARYMIME with CHUNKING")
            }
            Self::RequireTlsNotOffered => f.write_str(
                "the message requires TLS on all its way, and the server does not offer REQUIRETLS inside TLS",
            ),
            Self::TooManyRecipients { limit } => {
                write!(f, "the server takes {limit} recipients at once, and all or none were asked for")
            }
            Self::AllOrNothing => f.write_str("another recipient was refused, and all or none were asked for"),
            Self::Protocol(error) => error.fmt(f),
            Self::Unexpected(reply) => write!(f, "the server sent an unexpected reply: {reply}"),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::TimedOut => f.write_str("the server did not answer in time"),
        }
    }
}

/// What a reply to a hello means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HelloVerdict {
    /// Go on; with the server's list, if the reply bore one.
    Accepted(Option<Capabilities>),
    /// The id was wrong, and this is the list that bears the right one (521), or the greeting did (520).
    WrongId(Option<Capabilities>),
    /// The server does not, or no longer, do QUICKSTART.
    Withdrawn,
    /// The server knows no EHLO.
    NoEhlo,
    /// Not now.
    TryLater,
    /// Not at all.
    Refused,
}

/// Judges the reply to a hello (draft §5, §8, §10).
pub(super) fn judge_hello(hello: Hello, reply: &Reply) -> HelloVerdict {
    if is_service_unavailable(reply) || reply.is_transient() {
        return HelloVerdict::TryLater;
    }
    match (hello, reply.code()) {
        (Hello::Ehlo | Hello::EarlyEhlo, 250) => HelloVerdict::Accepted(Some(Capabilities::from_reply(reply))),
        (_, 200..300) => HelloVerdict::Accepted(None),
        (Hello::EarlyQhlo | Hello::BasicQhlo, 520) => HelloVerdict::WrongId(None),
        // RFC 7504 gives 521 another meaning, so only a list makes it a refusal of the id.
        (Hello::EarlyQhlo | Hello::BasicQhlo, 521) => match Capabilities::from_reply(reply) {
            list if list.quickstart.is_some() => HelloVerdict::WrongId(Some(list)),
            _ => HelloVerdict::Withdrawn,
        },
        (Hello::EarlyEhlo, _) => HelloVerdict::Withdrawn,
        (Hello::Ehlo, 500..=504 | 550) => HelloVerdict::NoEhlo,
        (Hello::Ehlo | Hello::Helo, _) => HelloVerdict::Refused,
        _ => HelloVerdict::Withdrawn,
    }
}

/// 421 or 4.3.2: disconnect and try later (draft §10).
pub(super) fn is_service_unavailable(reply: &Reply) -> bool {
    reply.code() == 421 || reply.enhanced() == Some((4, 3, 2))
}

#[cfg(test)]
mod tests {
    use super::{Hello, HelloVerdict, judge_hello};
    use crate::proto::reply_reader::Reply;

    #[test]
    fn refusals_of_an_early_qhlo_are_told_apart() {
        let judge = |code, text| judge_hello(Hello::EarlyQhlo, &Reply::new(code, text));
        assert_eq!(judge(520, "wrong id"), HelloVerdict::WrongId(None));
        assert!(matches!(judge(521, "host\nQUICKSTART QHLO=b"), HelloVerdict::WrongId(Some(_))));
        for (code, text) in [(521, "no mail here"), (500, "what?"), (502, ""), (550, "no"), (554, "5.7.1 no")] {
            assert_eq!(judge(code, text), HelloVerdict::Withdrawn, "{code} {text}");
        }
        for (code, text) in [(421, "bye"), (451, "4.3.2 full"), (450, "busy")] {
            assert_eq!(judge(code, text), HelloVerdict::TryLater, "{code} {text}");
        }
    }

    #[test]
    fn an_id_that_is_refused_twice_is_not_corrected_again() {
        assert_eq!(judge_hello(Hello::CorrectedQhlo, &Reply::new(520, "")), HelloVerdict::Withdrawn);
        let again = Reply::new(521, "host\nQUICKSTART QHLO=c");
        assert_eq!(judge_hello(Hello::CorrectedQhlo, &again), HelloVerdict::Withdrawn);
    }
}
