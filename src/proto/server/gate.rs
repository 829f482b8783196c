//! May I? One table says which command is allowed at which stage and what refuses it otherwise. The code that carries a
//! command out never asks again.

use super::state::Stage;
use crate::proto::channel::Channel;
use crate::proto::command::Verb;
use crate::proto::reply::{self, Reply};

/// The gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Allowed,
    Refused(Reply),
}

/// Looks the command up. The first row that fits decides.
pub(super) fn gate(stage: Stage, channel: Channel, verb: Verb) -> Passage {
    use Channel::{Clear, Secure};
    use Passage::{Allowed, Refused};
    use Stage as S;
    use Verb as V;
    match (stage, channel, verb) {
        // Always possible.
        (_, _, V::Quit | V::Noop) => Allowed,
        // After a wrong id: NOOP, QHLO, QUIT (draft §8).
        (S::Mismatched, _, V::Qhlo) => Allowed,
        (S::Mismatched, _, _) => Refused(reply::BAD_SEQUENCE),
        // After a failed AUTH: AUTH, NOOP, HELO, EHLO, QHLO, QUIT (draft §7).
        (S::AuthFailed, _, V::Auth | V::Helo | V::Ehlo | V::Qhlo) => Allowed,
        (S::AuthFailed, _, _) => Refused(reply::AUTH_HAS_FAILED),
        // Between chunks: BDAT, RSET and what starts anew (RFC 3030 §2).
        (S::Chunking, _, V::Bdat | V::Rset | V::Helo | V::Ehlo | V::Qhlo) => Allowed,
        (S::Chunking, _, V::Data) => Refused(reply::CHUNKS_ONLY),
        (S::Chunking, _, V::Mail | V::Rcpt) => Refused(reply::BAD_SEQUENCE),
        // A hello may come at any time; it forgets an open transaction (RFC 5321 §4.1.4).
        (_, _, V::Helo | V::Ehlo | V::Qhlo) => Allowed,
        // TLS: once, from the clear; QTLS and STARTTLS need no hello (draft §6, RFC 3207 §4).
        (_, Clear, V::StartTls | V::Qtls) => Allowed,
        (_, Secure(_), V::StartTls | V::Qtls) => Refused(reply::ALREADY_SECURE),
        // AUTH: inside TLS, after EHLO or QHLO, once, and not within a transaction (RFC 4954 §4).
        (_, Clear, V::Auth) => Refused(reply::ENCRYPTION_REQUIRED),
        (S::Ready, Secure(_), V::Auth) => Allowed,
        (S::Greeted | S::Plain, Secure(_), V::Auth) => Refused(reply::HELLO_FIRST),
        (S::Authorized, Secure(_), V::Auth) => Refused(reply::ALREADY_AUTHENTICATED),
        (_, Secure(_), V::Auth) => Refused(reply::BAD_SEQUENCE),
        // Mail: TLS first, then AUTH, then in order.
        (_, Clear, V::Mail | V::Rcpt | V::Data | V::Bdat) => Refused(reply::TLS_FIRST),
        (S::Greeted | S::Plain | S::Ready, Secure(_), V::Mail | V::Rcpt | V::Data | V::Bdat) => {
            Refused(reply::AUTH_FIRST)
        }
        (S::Authorized, _, V::Mail) => Allowed,
        (S::Authorized, _, V::Rcpt | V::Data | V::Bdat) => Refused(reply::MAIL_FIRST),
        (S::Enveloping, _, V::Mail) => Refused(reply::BAD_SEQUENCE),
        (S::Enveloping, _, V::Rcpt | V::Data | V::Bdat) => Allowed,
        (S::Busy, _, _) => Refused(reply::BAD_SEQUENCE),
        // Harmless, or refused by themselves.
        (_, _, V::Rset | V::Help | V::Vrfy | V::NotImplemented | V::Foreign | V::Unknown) => Allowed,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::{Passage, Stage, Verb, gate};
    use crate::proto::channel::Channel;
    use crate::proto::proof::Encrypted;

    /// The whole table as text: one line for each stage and channel that can occur together.
    fn table() -> String {
        let secure = Channel::Secure(Encrypted::attested_by_handshake());
        let mut text = String::new();
        for stage in Stage::ALL {
            for channel in [Channel::Clear, secure] {
                let inside_only = !matches!(stage, Stage::Greeted | Stage::Plain | Stage::Ready | Stage::Mismatched);
                if inside_only && channel == Channel::Clear {
                    continue;
                }
                let name = if channel == Channel::Clear { "clear" } else { "TLS" };
                let _ = writeln!(text, "{stage:?}, {name}");
                for verb in Verb::ALL {
                    let answer = match gate(stage, channel, verb) {
                        Passage::Allowed => "yes",
                        Passage::Refused(reply) => reply.text(),
                    };
                    let _ = writeln!(text, "  {:<15} {answer}", format!("{verb:?}"));
                }
            }
        }
        text
    }

    #[test]
    fn the_gate_is_as_the_snapshot_has_it() {
        let snapshot = include_str!("gate.snapshot.txt");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/proto/server/gate.snapshot.txt");
        if std::env::var_os("ONETRIP_BLESS").is_some() {
            std::fs::write(path, table()).unwrap();
            return;
        }
        assert_eq!(
            table(),
            snapshot,
            "if the change is meant, run the test with ONETRIP_BLESS=1 and read the difference"
        );
    }

    #[test]
    fn mail_passes_nowhere_but_after_auth() {
        for stage in Stage::ALL {
            for channel in [Channel::Clear, Channel::Secure(Encrypted::attested_by_handshake())] {
                let passes = gate(stage, channel, Verb::Mail) == Passage::Allowed;
                assert_eq!(passes, stage == Stage::Authorized && channel != Channel::Clear, "{stage:?}, {channel:?}");
            }
        }
        assert_ne!(gate(Stage::Ready, Channel::Clear, Verb::Auth), Passage::Allowed);
    }
}
