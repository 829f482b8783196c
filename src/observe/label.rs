//! The closed sets of words by which events and figures tell cases apart.
//!
//! One enum serves the log field and the label of the metric, so that a word found in the log can be looked up in the
//! figures. Nothing that a client chooses may become a label: each word is written here.

use std::sync::atomic::AtomicU64;

/// A closed set of words: one counter for each can be kept in an array.
pub trait Label: Copy + 'static {
    /// One counter for each member, in the order of [`Label::ALL`].
    type Counts: Default + AsRef<[AtomicU64]> + Send + Sync;

    /// Every member once.
    const ALL: &'static [Self];

    /// The member's place in [`Label::ALL`].
    fn index(self) -> usize;

    /// The names and values that tell this member apart in a metric.
    fn pairs(self) -> Vec<(&'static str, &'static str)>;
}

/// Declares an enum whose members bear one word each, and the name of the label that the words belong to.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident by $key:literal {
        $($(#[$member_meta:meta])* $member:ident = $word:literal),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$member_meta])* $member),+
        }

        impl $name {
            /// The word in log fields and metric labels.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$member => $word),+
                }
            }

            /// The member that `word` names, if any.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|member| member.word() == word)
            }
        }

        impl Label for $name {
            type Counts = [AtomicU64; [$($word),+].len()];

            const ALL: &'static [Self] = &[$(Self::$member),+];

            fn index(self) -> usize {
                self as usize
            }

            fn pairs(self) -> Vec<(&'static str, &'static str)> {
                vec![($key, self.word())]
            }
        }
    };
}

words! {
    /// What a listener expects first.
    ListenerKind by "listener" {
        /// Plain text first: SMTP, STARTTLS and QUICKSTART.
        Starttls = "starttls",
        /// TLS from the first byte (RFC 8314 §3.3).
        Tls = "tls",
        /// HTTP from whoever watches the service: `--metrics`.
        Metrics = "metrics",
    }
}

words! {
    /// How a connection began, by what the client sent first.
    Start by "start" {
        /// Nothing that could be told apart was sent.
        None = "none",
        /// HELO, or MAIL without a hello (RFC 821).
        Smtp = "smtp",
        /// EHLO after the greeting.
        Esmtp = "esmtp",
        /// EHLO before the greeting, or together with the next step, as clients of PIPECONNECT do.
        PipeConnect = "pipeconnect",
        /// QTLS, or QHLO without an id: the basic profile of QUICKSTART (draft §5, §6).
        Basic = "basic",
        /// QHLO with an id: the full profile of QUICKSTART (draft §8).
        Full = "full",
    }
}

words! {
    /// What became of the extension list that a client's QHLO relied on (draft §8).
    QhloOutcome by "qhlo" {
        /// No QHLO with an id was sent.
        None = "none",
        /// The id named the list that is in force: nothing had to be said again.
        Matched = "matched",
        /// The id did not match: the client had to start over.
        Mismatched = "mismatched",
    }
}

words! {
    /// A version of TLS.
    TlsVersion by "version" {
        /// TLS 1.2 (RFC 5246).
        Tls12 = "TLSv1.2",
        /// TLS 1.3 (RFC 8446).
        Tls13 = "TLSv1.3",
    }
}

words! {
    /// Whether a handshake built on an earlier session.
    Resumption by "session" {
        /// A full handshake.
        Full = "full",
        /// A session was resumed.
        Resumed = "resumed",
    }
}

words! {
    /// What became of the early data of a connection (RFC 8446 §2.3).
    EarlyData by "result" {
        /// The client offered none.
        None = "none",
        /// It was taken.
        Accepted = "accepted",
        /// It was skipped, and the client had to send the same again.
        Rejected = "rejected",
    }
}

words! {
    /// When a message that came as early data was stored.
    EarlyCommit by "commit" {
        /// Before the client had finished its handshake, because the message bears a token.
        AtOnce = "at_once",
        /// It had to wait until the client had, or for ever.
        Waited = "waited",
    }
}

words! {
    /// How a connection ended.
    OutcomeKind by "outcome" {
        /// The client said QUIT.
        Quit = "quit",
        /// The client closed without QUIT.
        ClientClosed = "client_closed",
        /// A time limit passed.
        TimedOut = "timed_out",
        /// More commands were refused than one connection may have.
        TooManyErrors = "too_many_errors",
        /// The TLS handshake, or a record after it, failed.
        TlsFailed = "tls_failed",
        /// The server ended it by rule.
        Refused = "refused",
        /// The server was stopping.
        Drained = "drained",
        /// The server is broken.
        Fault = "fault",
    }
}

words! {
    /// A bound on connections that refuses further ones.
    Bound by "bound" {
        /// `--connections-max`: open connections of one shard.
        Connections = "connections",
        /// `--connections-per-address-max`: open connections from one address.
        ConnectionsPerAddress = "connections_per_address",
        /// `--lateness-max`: how late the shard may be with those it serves.
        Lateness = "lateness",
    }
}

words! {
    /// A hello command that was accepted, by profile.
    Hello by "kind" {
        /// HELO.
        Helo = "helo",
        /// EHLO.
        Ehlo = "ehlo",
        /// QHLO without an id (basic profile).
        QhloBasic = "qhlo_basic",
        /// QHLO with an id that was right (full profile).
        QhloFull = "qhlo_full",
    }
}

words! {
    /// The judgement on the id of one QHLO (draft §8).
    QhloId by "result" {
        /// It named the list in force.
        Matched = "matched",
        /// It did not.
        Mismatched = "mismatched",
    }
}

words! {
    /// A shortcut that a client took.
    Shortcut by "kind" {
        /// QTLS: TLS without waiting for a reply (draft §6).
        Qtls = "qtls",
        /// STARTTLS sent without waiting for the reply to what went before it (draft §9).
        EarlyStarttls = "early_starttls",
        /// EHLO sent before the greeting.
        PipeConnect = "pipeconnect",
    }
}

words! {
    /// What became of one AUTH.
    AuthOutcome by "result" {
        /// Accepted after hashing the password.
        Accepted = "accepted",
        /// Accepted without hashing: the credential was verified a short while ago.
        Remembered = "remembered",
        /// Wrong user or password.
        Denied = "denied",
        /// Not judged: too many failures before, or no hashing thread was free in time.
        PutOff = "put_off",
    }
}

words! {
    /// The kind of a refusing reply (RFC 5321 §4.2.1).
    ReplyClass by "class" {
        /// The client may try again later.
        Transient = "4xx",
        /// The client must not send the same again.
        Permanent = "5xx",
    }
}

words! {
    /// The encoding that MAIL announced for the message (RFC 6152, RFC 3030).
    BodyKind by "body" {
        /// Nothing announced, or `BODY=7BIT`.
        SevenBit = "7bit",
        /// `BODY=8BITMIME`.
        EightBitMime = "8bitmime",
        /// `BODY=BINARYMIME`.
        BinaryMime = "binarymime",
    }
}

words! {
    /// Whether new certificates or users came into force.
    ReloadResult by "result" {
        /// The new ones are in force.
        Loaded = "loaded",
        /// The old ones stay.
        Failed = "failed",
    }
}

words! {
    /// What became of recipients in the queue.
    Settlement by "result" {
        /// They have the message, or the next server has.
        Delivered = "delivered",
        /// They are tried again.
        Deferred = "deferred",
        /// They were refused for good.
        Failed = "failed",
        /// They waited for too long.
        Expired = "expired",
    }
}

words! {
    /// What one attempt came to; of several recipients, the worst.
    AttemptKind by "result" {
        /// All was taken.
        Delivered = "delivered",
        /// Something was refused for good.
        Failed = "failed",
        /// Something is to be tried again.
        Deferred = "deferred",
        /// Nobody was there.
        Unreachable = "unreachable",
    }
}

words! {
    /// News of a destination.
    Reachability by "change" {
        /// It cannot be reached.
        Down = "down",
        /// It can be reached again.
        Up = "up",
    }
}

/// One completed TLS handshake: version and resumption together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The version agreed on.
    pub version: TlsVersion,
    /// Whether a session was resumed.
    pub resumption: Resumption,
}

impl Label for Handshake {
    type Counts = [AtomicU64; 4];

    const ALL: &'static [Self] = &[
        Self { version: TlsVersion::Tls12, resumption: Resumption::Full },
        Self { version: TlsVersion::Tls12, resumption: Resumption::Resumed },
        Self { version: TlsVersion::Tls13, resumption: Resumption::Full },
        Self { version: TlsVersion::Tls13, resumption: Resumption::Resumed },
    ];

    fn index(self) -> usize {
        self.version.index() * Resumption::ALL.len() + self.resumption.index()
    }

    fn pairs(self) -> Vec<(&'static str, &'static str)> {
        [self.version.pairs(), self.resumption.pairs()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::{Handshake, Label, OutcomeKind, ReplyClass, TlsVersion};

    fn assert_indexes_are_places<L: Label>() {
        for (place, member) in L::ALL.iter().enumerate() {
            assert_eq!(member.index(), place);
        }
        assert_eq!(L::Counts::default().as_ref().len(), L::ALL.len());
    }

    #[test]
    fn every_member_has_its_own_counter() {
        assert_indexes_are_places::<OutcomeKind>();
        assert_indexes_are_places::<ReplyClass>();
        assert_indexes_are_places::<Handshake>();
    }

    #[test]
    fn a_member_is_found_by_its_word_and_no_other() {
        assert_eq!(TlsVersion::from_word("TLSv1.2"), Some(TlsVersion::Tls12));
        assert_eq!(TlsVersion::from_word("TLSv1.1"), None);
    }

    #[test]
    fn a_handshake_is_told_apart_by_version_and_session() {
        assert_eq!(Handshake::ALL[3].pairs(), [("version", "TLSv1.3"), ("session", "resumed")]);
    }
}
