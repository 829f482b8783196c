//! What a server offers: the list from its extended greeting, its reply to EHLO, or its refusal of a QHLO.
//!
//! Reads lists; does not decide what to do with them.

use crate::limits::{REPLY_LINE_BYTES_MAX, REPLY_LINES_MAX};
use crate::proto::reply_reader::Reply;

/// A server's list of extensions and what this client understands of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts that a server states, not a state")]
pub struct Capabilities {
    lines: Vec<String>,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// BINARYMIME (RFC 3030 §3).
    pub binary_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// `PIPECONNECT`, by which Exim takes an EHLO before its greeting.
    pub pipeconnect: bool,
    /// `XONCE`: MAIL may name a message so that it is taken once.
    pub once: bool,
    /// SIZE (RFC 1870): offered, and the limit in bytes if one is stated.
    pub size: Option<Option<u64>>,
    /// AUTH PLAIN is offered.
    pub auth_plain: bool,
    /// AUTH LOGIN is offered.
    pub auth_login: bool,
    /// LIMITS (RFC 9422).
    pub limits: Limits,
    /// QUICKSTART (draft §3).
    pub quickstart: Option<Quickstart>,
}

/// What LIMITS states (RFC 9422 §4), `None` where it states nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// MAILMAX: messages on one connection.
    pub mail_max: Option<u32>,
    /// RCPTMAX: recipients of one message.
    pub rcpt_max: Option<u32>,
    /// RCPTDOMAINMAX: domains among the recipients of one message.
    pub rcpt_domain_max: Option<u32>,
}

/// The parameters of QUICKSTART (draft §4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts that a server states, not a state")]
pub struct Quickstart {
    /// QTLS is supported (draft §6).
    pub qtls: bool,
    /// AUTH may be pipelined (draft §7).
    pub auth: bool,
    /// STARTTLS may be pipelined with the TLS handshake (draft §9).
    pub starttls: bool,
    /// The qhlo-id (draft §8).
    pub qhlo_id: Option<String>,
    /// `XEARLYDATA`: commands may come in TLS 1.3 early data.
    pub early_data: bool,
}

impl Capabilities {
    /// The list in a reply: all its lines but the first, which is the server's name.
    pub fn from_reply(reply: &Reply) -> Self {
        Self::from_lines(reply.lines().skip(1))
    }

    /// The list whose lines these are. Unknown lines are kept and otherwise ignored (draft §4, RFC 5321 §4.1.1.1).
    pub fn from_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut list = Self::default();
        for line in lines.filter(|line| line.len() <= REPLY_LINE_BYTES_MAX).take(REPLY_LINES_MAX) {
            list.read_line(line);
            list.lines.push(line.to_owned());
        }
        list
    }

    /// The lines as the server wrote them.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The qhlo-id, if the list has one.
    pub fn qhlo_id(&self) -> Option<&str> {
        self.quickstart.as_ref()?.qhlo_id.as_deref()
    }

    /// Does this QUICKSTART parameter hold?
    pub fn quick(&self, parameter: impl Fn(&Quickstart) -> bool) -> bool {
        self.quickstart.as_ref().is_some_and(parameter)
    }

    fn read_line(&mut self, line: &str) {
        // Some servers write `AUTH=PLAIN` for the sake of clients that predate RFC 2554.
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else { return };
        match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            "CHUNKING" => self.chunking = true,
            "STARTTLS" => self.starttls = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "BINARYMIME" => self.binary_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "REQUIRETLS" => self.require_tls = true,
            "DSN" => self.dsn = true,
            "PIPECONNECT" | "X_PIPE_CONNECT" => self.pipeconnect = true,
            "XONCE" => self.once = true,
            // A limit of zero states none (RFC 1870 §3).
            "SIZE" => self.size = Some(words.next().and_then(|word| word.parse().ok()).filter(|&size| size > 0)),
            "AUTH" => words.for_each(|mechanism| self.read_mechanism(mechanism)),
            "LIMITS" => words.for_each(|limit| self.limits.read(limit)),
            "QUICKSTART" => {
                let mut quickstart = Quickstart::default();
                words.for_each(|parameter| quickstart.read(parameter));
                self.quickstart = Some(quickstart);
            }
            _ => {}
        }
    }

    fn read_mechanism(&mut self, mechanism: &str) {
        self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
        self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
    }
}

impl Limits {
    fn read(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let Some(value) = value.parse().ok().filter(|&value| value > 0) else { return };
        match name.to_ascii_uppercase().as_str() {
            "MAILMAX" => self.mail_max = Some(value),
            "RCPTMAX" => self.rcpt_max = Some(value),
            "RCPTDOMAINMAX" => self.rcpt_domain_max = Some(value),
            _ => {}
        }
    }
}

impl Quickstart {
    fn read(&mut self, word: &str) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        match (name.to_ascii_uppercase().as_str(), value) {
            ("QTLS", None) => self.qtls = true,
            ("AUTH", None) => self.auth = true,
            ("STARTTLS", None) => self.starttls = true,
            ("XEARLYDATA", _) => self.early_data = true,
            ("QHLO", Some(id)) if is_esmtp_value(id) => self.qhlo_id = Some(id.to_owned()),
            _ => {}
        }
    }
}

/// `esmtp-value` of RFC 5321 §4.1.2: printable ASCII but space and `=`. We send it back, so it must be just that.
fn is_esmtp_value(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, Quickstart};

    fn list(lines: &[&str]) -> Capabilities {
        Capabilities::from_lines(lines.iter().copied())
    }

    #[test]
    fn the_parameters_of_quickstart_are_read_and_unknown_ones_ignored() {
        let read = list(&["QuickStart QTLS AUTH qhlo=Ab-_9 STARTTLS XNEW=1 XOTHER"]);
        let expected =
            Quickstart { qtls: true, auth: true, starttls: true, qhlo_id: Some("Ab-_9".to_owned()), early_data: false };
        assert_eq!(read.quickstart, Some(expected));
    }

    #[test]
    fn an_id_that_cannot_be_sent_back_is_no_id() {
        for line in ["QUICKSTART QHLO=", "QUICKSTART QHLO=a=b", "QUICKSTART QHLO=ä", "QUICKSTART QHLO"] {
            assert_eq!(list(&[line]).qhlo_id(), None, "{line}");
        }
    }

    #[test]
    fn limits_and_sizes_are_read_and_zero_states_none() {
        let read = list(&["SIZE 1000", "LIMITS MAILMAX=5 RCPTMAX=0 RCPTDOMAINMAX=x OTHER=1"]);
        assert_eq!(read.size, Some(Some(1000)));
        assert_eq!((read.limits.mail_max, read.limits.rcpt_max, read.limits.rcpt_domain_max), (Some(5), None, None));
        assert_eq!(list(&["SIZE 0"]).size, Some(None));
        assert_eq!(list(&["SIZE"]).size, Some(None));
    }

    #[test]
    fn mechanisms_are_read() {
        let read = list(&["AUTH LOGIN plain CRAM-MD5"]);
        assert!(read.auth_plain && read.auth_login);
        assert!(!list(&["AUTH CRAM-MD5"]).auth_plain);
    }
}
