//! What a submission server writes above a message: `Received` (RFC 5321 §4.4), and `Date` and `Message-ID` where the
//! client left them out (RFC 6409 §8.2, §8.3).
//!
//! The content itself is never changed.

use std::io::Write;
use std::net::IpAddr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::channel::TlsFacts;
use super::message::MessageId;
use crate::time::Now;

/// How the client introduced itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// HELO: SMTP without extensions.
    Helo,
    /// EHLO.
    Ehlo,
    /// QHLO without an id (draft §5).
    QhloBasic,
    /// QHLO with the right id (draft §8).
    QhloFull,
}

/// Who may read the conversation, and who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Neither TLS nor AUTH.
    None,
    /// AUTH without TLS.
    Authenticated,
    /// TLS without AUTH.
    Encrypted,
    /// Both.
    Both,
}

/// The keyword for the `with` clause: draft §11 for QUICKSTART, RFC 3848 for ESMTP, RFC 6531 §4.3 for messages that use
/// SMTPUTF8 over ESMTP.
pub const fn with_keyword(hello: Hello, protection: Protection, smtputf8: bool) -> &'static str {
    match (hello, protection, smtputf8) {
        (Hello::Helo, _, _) => "SMTP",
        (Hello::Ehlo, Protection::None, false) => "ESMTP",
        (Hello::Ehlo, Protection::Authenticated, false) => "ESMTPA",
        (Hello::Ehlo, Protection::Encrypted, false) => "ESMTPS",
        (Hello::Ehlo, Protection::Both, false) => "ESMTPSA",
        (Hello::Ehlo, Protection::None, true) => "UTF8SMTP",
        (Hello::Ehlo, Protection::Authenticated, true) => "UTF8SMTPA",
        (Hello::Ehlo, Protection::Encrypted, true) => "UTF8SMTPS",
        (Hello::Ehlo, Protection::Both, true) => "UTF8SMTPSA",
        (Hello::QhloBasic | Hello::QhloFull, Protection::None, _) => "QSMTP",
        (Hello::QhloBasic | Hello::QhloFull, Protection::Authenticated, _) => "QSMTPA",
        (Hello::QhloBasic | Hello::QhloFull, Protection::Encrypted, _) => "QSMTPS",
        (Hello::QhloBasic | Hello::QhloFull, Protection::Both, _) => "QSMTPSA",
    }
}

/// What the header of a message holds, as far as a submission server cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderFacts {
    /// Is there a `Date` field?
    pub has_date: bool,
    /// Is there a `Message-ID` field?
    pub has_message_id: bool,
    /// How many `Received` fields there are: servers passed.
    pub hops: usize,
    /// Does the content begin without any header, so that an empty line must part it from what is added?
    pub is_missing: bool,
}

impl HeaderFacts {
    /// Reads the header section: up to the first empty line, or to the first line that is no field.
    pub fn of(content: &[u8]) -> Self {
        let mut facts = Self::default();
        for (number, line) in content.split_inclusive(|byte| *byte == b'\n').enumerate() {
            match line.first() {
                Some(b' ' | b'\t') if number > 0 => continue,
                _ if line == b"\r\n" => break,
                _ => {}
            }
            let Some(name) = field_name(line) else {
                facts.is_missing = number == 0;
                break;
            };
            facts.note(name);
        }
        facts
    }

    fn note(&mut self, name: &[u8]) {
        self.has_date |= name.eq_ignore_ascii_case(b"Date");
        self.has_message_id |= name.eq_ignore_ascii_case(b"Message-ID");
        self.hops += usize::from(name.eq_ignore_ascii_case(b"Received"));
    }
}

/// The name of a header field (RFC 5322 §2.2), spaces before the colon let pass (§4.5.8).
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii_end();
    if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) { Some(name) } else { None }
}

/// Where a message came from, for its `Received` field.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// This server's name.
    pub hostname: &'a str,
    /// What the client called itself, and its address; `None` where clients are not disclosed.
    pub client: Option<(&'a str, IpAddr)>,
    /// The `with` clause.
    pub with: &'static str,
    /// The TLS session, if there is one (RFC 8314 §4.3: the `tls` clause).
    pub tls: Option<TlsFacts>,
    /// The message's name.
    pub id: MessageId,
    /// The recipient, when there is just one: more are never disclosed to each other.
    pub recipient: Option<&'a str>,
}

/// Writes everything that goes above the content.
pub fn write_trace(origin: &Origin<'_>, header: &HeaderFacts, now: Now, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = write_received(origin, now, out);
    if !header.has_date {
        let _ = write!(out, "Date: ").and_then(|()| write_date(now, out)).and_then(|()| write!(out, "\r\n"));
    }
    if !header.has_message_id {
        let _ = write!(out, "Message-ID: <{}@{}>\r\n", origin.id, origin.hostname);
    }
    if header.is_missing {
        out.extend_from_slice(b"\r\n");
    }
}

fn write_received(origin: &Origin<'_>, now: Now, out: &mut Vec<u8>) -> std::io::Result<()> {
    write!(out, "Received: ")?;
    if let Some((name, address)) = origin.client {
        write_from(name, address, out)?;
    }
    write!(out, "by {} (onetrip) with {} id {}", origin.hostname, origin.with, origin.id)?;
    if let Some(recipient) = origin.recipient {
        write!(out, "\r\n\tfor <{recipient}>")?;
    }
    // Clauses that were registered later come last (RFC 5321 §4.4).
    if let Some(tls) = origin.tls {
        write!(out, "\r\n\ttls {} ({})", tls.cipher, tls.version)?;
    }
    write!(out, ";\r\n\t")?;
    write_date(now, out)?;
    write!(out, "\r\n")
}

fn write_from(name: &str, address: IpAddr, out: &mut Vec<u8>) -> std::io::Result<()> {
    match address.to_canonical() {
        IpAddr::V4(v4) => write!(out, "from {name} ([{v4}])\r\n\t"),
        IpAddr::V6(v6) => write!(out, "from {name} ([IPv6:{v6}])\r\n\t"),
    }
}

/// A date of RFC 5322 §3.3, in UTC.
pub(crate) fn write_date(now: Now, out: &mut Vec<u8>) -> std::io::Result<()> {
    let seconds = i64::try_from(now.unix.as_secs()).unwrap_or_default();
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    date.format_into(out, &Rfc2822).map(|_| ()).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::{HeaderFacts, Hello, Origin, Protection, with_keyword, write_trace};
    use crate::proto::channel::TlsFacts;
    use crate::proto::message::MessageId;
    use crate::time::Now;

    fn trace(content: &str, origin: &Origin<'_>) -> String {
        let mut out = Vec::new();
        write_trace(origin, &HeaderFacts::of(content.as_bytes()), Now::simulated_ms(0), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn origin() -> Origin<'static> {
        Origin {
            hostname: "mail.example",
            client: Some(("laptop.example", "192.0.2.7".parse().unwrap())),
            with: "QSMTPSA",
            tls: Some(TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: false }),
            id: MessageId::default(),
            recipient: Some("bob@example.org"),
        }
    }

    #[test]
    fn received_tells_from_whom_by_whom_how_and_when() {
        assert_eq!(
            trace("Date: x\r\nMessage-ID: <y>\r\n\r\nbody\r\n", &origin()),
            "Received: from laptop.example ([192.0.2.7])\r\n\
             \tby mail.example (onetrip) with QSMTPSA id 0000000000000000\r\n\
             \tfor <bob@example.org>\r\n\
             \ttls TLS_AES_128_GCM_SHA256 (TLSv1.3);\r\n\
             \tThu, 01 Jan 2026 00:00:00 +0000\r\n"
        );
    }

    #[test]
    fn the_client_is_left_out_where_it_is_hidden() {
        let hidden = Origin { client: None, tls: None, recipient: None, ..origin() };
        let text = trace("Date: x\r\nMessage-ID: <y>\r\n\r\n", &hidden);
        assert!(text.starts_with("Received: by mail.example (onetrip) with QSMTPSA id"), "{text}");
        assert!(!text.contains("192.0.2.7") && !text.contains("laptop"));
    }

    #[test]
    fn an_ipv6_client_is_written_as_a_literal() {
        let v6 = Origin { client: Some(("x", "2001:db8::1".parse().unwrap())), ..origin() };
        assert!(trace("", &v6).contains("([IPv6:2001:db8::1])"));
    }

    #[test]
    fn missing_fields_are_added_and_present_ones_left_alone() {
        let all = trace("From: a@b\r\n\r\nbody\r\n", &origin());
        assert!(all.contains("\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"), "{all}");
        assert!(all.ends_with("Message-ID: <0000000000000000@mail.example>\r\n"), "{all}");
        let folded = trace("From: a@b\r\n (x)\r\nDATE : now\r\nmessage-id:\r\n <x@y>\r\n\r\n", &origin());
        assert!(!folded.contains("Date: ") && !folded.contains("Message-ID"), "{folded}");
        let in_body = trace("From: a@b\r\n\r\nDate: not a field\r\n", &origin());
        assert!(in_body.contains("\r\nDate: "), "{in_body}");
    }

    #[test]
    fn a_message_without_header_is_parted_from_what_is_added() {
        assert!(trace("hello\r\n", &origin()).ends_with(">\r\n\r\n"));
        assert!(trace(" folded\r\n", &origin()).ends_with(">\r\n\r\n"));
        assert!(trace("\r\nhello\r\n", &origin()).ends_with("example>\r\n"));
    }

    #[test]
    fn hops_are_counted() {
        assert_eq!(HeaderFacts::of(b"Received: a\r\n\tb\r\nreceived: c\r\nX: Received: d\r\n\r\n").hops, 2);
    }

    #[test]
    fn the_keywords_are_those_of_the_draft_and_of_rfc_3848() {
        use Hello::{Ehlo, Helo, QhloBasic, QhloFull};
        use Protection::{Authenticated, Both, Encrypted, None};
        for (hello, keywords) in [
            (Helo, ["SMTP", "SMTP", "SMTP", "SMTP"]),
            (Ehlo, ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"]),
            (QhloBasic, ["QSMTP", "QSMTPA", "QSMTPS", "QSMTPSA"]),
            (QhloFull, ["QSMTP", "QSMTPA", "QSMTPS", "QSMTPSA"]),
        ] {
            assert_eq!([None, Authenticated, Encrypted, Both].map(|p| with_keyword(hello, p, false)), keywords);
        }
        assert_eq!(with_keyword(Ehlo, Both, true), "UTF8SMTPSA");
    }
}
