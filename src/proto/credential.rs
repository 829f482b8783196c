//! What a client claims with AUTH, and what is answered to it.
//!
//! The protocol core carries credentials from the wire to whoever can judge them; it never judges them itself.

use std::sync::Arc;
use std::time::Duration;

use super::secret::Secret;

/// The SASL mechanisms on offer. Both send the password as it is, so both live inside TLS only (RFC 4954 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// PLAIN (RFC 4616): one message, so it can travel with everything else in one flight.
    Plain,
    /// LOGIN (never standardised, widely used): two answers to two prompts.
    Login,
}

impl Mechanism {
    /// The name as registered with IANA.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

/// A claim: "I am this user, and this is my password."
#[derive(Clone, Debug)]
pub struct Credential {
    /// How it came.
    pub mechanism: Mechanism,
    /// The authentication identity, at most [`crate::limits::USER_NAME_BYTES_MAX`] bytes, valid UTF-8, no NUL.
    pub user: String,
    /// The password, UTF-8 by RFC 4616, but kept as bytes because some clients send other things.
    pub password: Secret<Vec<u8>>,
}

/// The judgement on a [`Credential`].
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The credential is good.
    Accepted(Arc<Member>),
    /// The credential is bad: wrong password, or no such user (a client cannot tell which).
    Denied {
        /// How long to wait before the client is told, so that guessing is slow.
        delay: Duration,
    },
    /// It could not be judged now: too many failures from there, or too much to do (RFC 4954 §6: 454).
    Unavailable,
}

/// A user who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user's name as the users file spells it.
    pub name: String,
    /// Which senders this user may name in MAIL FROM.
    pub senders: Senders,
}

/// The senders that a user may name in MAIL FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Senders {
    /// Any address.
    Any,
    /// Only those that match one of these patterns.
    Only(Vec<SenderPattern>),
}

/// One allowed sender, or all of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderPattern {
    /// This address. The domain is compared without regard to case (RFC 5321 §2.4), the local part exactly.
    Address(String),
    /// Any address in this domain (written `@example.org`).
    Domain(String),
}

impl Senders {
    /// May this reverse-path be used? The null reverse-path (an empty `address`) is always allowed: it is how
    /// disposition notifications are sent (RFC 6409 §6.1 leaves it to the site; RFC 8098 §3 requires it).
    pub fn allow(&self, address: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(patterns) => address.is_empty() || patterns.iter().any(|pattern| pattern.matches(address)),
        }
    }
}

impl SenderPattern {
    /// Reads `local@domain` or `@domain`; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.rsplit_once('@')?;
        if domain.is_empty() || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return None;
        }
        Some(if local.is_empty() { Self::Domain(domain.to_owned()) } else { Self::Address(text.to_owned()) })
    }

    fn matches(&self, address: &str) -> bool {
        let Some((local, domain)) = address.rsplit_once('@') else {
            return false;
        };
        match self {
            Self::Domain(allowed) => allowed.eq_ignore_ascii_case(domain),
            Self::Address(allowed) => {
                allowed.rsplit_once('@').is_some_and(|(l, d)| l == local && d.eq_ignore_ascii_case(domain))
            }
        }
    }
}

impl std::fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Domain(domain) => write!(f, "@{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SenderPattern, Senders};

    fn only(patterns: &[&str]) -> Senders {
        Senders::Only(patterns.iter().map(|p| SenderPattern::parse(p).unwrap()).collect())
    }

    #[test]
    fn a_domain_pattern_allows_every_address_of_that_domain_and_no_other() {
        let senders = only(&["@Example.org"]);
        assert!(senders.allow("anyone@example.ORG"));
        assert!(!senders.allow("anyone@sub.example.org"));
        assert!(!senders.allow("anyone@notexample.org"));
    }

    #[test]
    fn an_address_pattern_compares_the_local_part_exactly() {
        let senders = only(&["Ann@example.org"]);
        assert!(senders.allow("Ann@EXAMPLE.org"));
        assert!(!senders.allow("ann@example.org"));
    }

    #[test]
    fn the_null_sender_is_always_allowed() {
        assert!(only(&[]).allow(""));
    }

    #[test]
    fn nonsense_is_no_pattern() {
        for text in ["", "ann", "ann@", "@", "a b@c", "a@b\r\n"] {
            assert_eq!(SenderPattern::parse(text), None, "{text:?}");
        }
    }
}
