//! Paths and domains as RFC 5321 §4.1.2 writes them, with the UTF-8 of RFC 6531 §3.3.
//!
//! Everything is borrowed from the line. Nothing here decides whether an address is welcome.

use std::str;

use crate::limits::{DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX, PATH_BYTES_MAX};

/// A forward-path or reverse-path with its angle brackets and source route taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// `local@domain`; `local` alone for `<postmaster>`; empty for the null reverse-path `<>`.
    pub address: &'a str,
}

impl Path<'_> {
    /// Does the address need SMTPUTF8 (RFC 6531 §3.4)?
    pub fn needs_smtputf8(&self) -> bool {
        !self.address.is_ascii()
    }
}

/// The text is not a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath;

/// Reads `<…>` from the front of `text` and returns what follows it. A source route (`<@a,@b:c@d>`) is dropped, as RFC
/// 5321 §4.1.1.3 asks. Accepts the null path, and a local part alone only for `postmaster`.
pub fn parse_path(text: &[u8]) -> Result<(Path<'_>, &[u8]), BadPath> {
    let inner = text.strip_prefix(b"<").ok_or(BadPath)?;
    let end = closing_bracket(inner).ok_or(BadPath)?;
    if end + 2 > PATH_BYTES_MAX {
        return Err(BadPath);
    }
    let address = parse_mailbox(without_route(&inner[..end])?)?;
    Ok((Path { address }, &inner[end + 1..]))
}

/// The domain of an address, if it has one.
pub fn domain_of(address: &str) -> Option<&str> {
    address.rsplit_once('@').map(|(_, domain)| domain)
}

/// Is this a domain name or an address literal, as HELO, EHLO and QHLO need one? Underscores are let pass: many hosts
/// have them in their names.
pub fn is_domain(text: &[u8]) -> bool {
    is_literal(text) || is_name(text, |byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Where the bracket is that closes the path: one inside a quoted string does not count.
fn closing_bracket(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn without_route(path: &[u8]) -> Result<&[u8], BadPath> {
    if !path.starts_with(b"@") {
        return Ok(path);
    }
    let colon = path.iter().position(|byte| *byte == b':').ok_or(BadPath)?;
    let hops_are_domains =
        path[..colon].split(|byte| *byte == b',').all(|hop| matches!(hop, [b'@', name @ ..] if is_domain(name)));
    let mailbox = &path[colon + 1..];
    if hops_are_domains && !mailbox.is_empty() { Ok(mailbox) } else { Err(BadPath) }
}

fn parse_mailbox(mailbox: &[u8]) -> Result<&str, BadPath> {
    let address = str::from_utf8(mailbox).map_err(|_| BadPath)?;
    if address.is_empty() || address.eq_ignore_ascii_case("postmaster") {
        return Ok(address);
    }
    let (local, domain) = address.rsplit_once('@').ok_or(BadPath)?;
    let local_ok = local.len() <= LOCAL_PART_BYTES_MAX && is_local_part(local.as_bytes());
    let domain_ok = is_literal(domain.as_bytes()) || is_name(domain.as_bytes(), is_domain_byte);
    if local_ok && domain_ok { Ok(address) } else { Err(BadPath) }
}

fn is_local_part(local: &[u8]) -> bool {
    match local {
        [b'"', quoted @ .., b'"'] => is_quoted_content(quoted),
        dotted => {
            dotted.split(|byte| *byte == b'.').all(|atom| !atom.is_empty() && atom.iter().copied().all(is_atom_byte))
        }
    }
}

fn is_quoted_content(content: &[u8]) -> bool {
    let mut escaped = false;
    for byte in content {
        match byte {
            0..=31 | 127 => return false,
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return false,
            _ => {}
        }
    }
    !escaped
}

/// `atext` of RFC 5322 §3.2.3, or a byte of a non-ASCII character.
fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_domain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || byte == b'_'
}

fn is_name(name: &[u8], is_byte: impl Fn(u8) -> bool) -> bool {
    let label_ok = |label: &[u8]| {
        !label.is_empty()
            && label.iter().all(|byte| is_byte(*byte) || *byte == b'-')
            && label[0] != b'-'
            && label[label.len() - 1] != b'-'
    };
    name.len() <= DOMAIN_BYTES_MAX && name.split(|byte| *byte == b'.').all(label_ok)
}

fn is_literal(text: &[u8]) -> bool {
    matches!(text, [b'[', inner @ .., b']'] if !inner.is_empty()
        && text.len() <= DOMAIN_BYTES_MAX
        && inner.iter().all(|byte| byte.is_ascii_alphanumeric() || b".:-".contains(byte)))
}

#[cfg(test)]
mod tests {
    use super::{BadPath, is_domain, parse_path};

    fn address(text: &str) -> Result<String, BadPath> {
        parse_path(text.as_bytes()).map(|(path, _)| path.address.to_owned())
    }

    #[test]
    fn the_paths_of_rfc_5321_are_read() {
        for (text, expected) in [
            ("<a@example.org>", "a@example.org"),
            ("<>", ""),
            ("<Postmaster>", "Postmaster"),
            ("<@one.example,@two.example:a@b.example>", "a@b.example"),
            ("<\"a b>c\\\"\"@example.org>", "\"a b>c\\\"\"@example.org"),
            ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
            ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
            ("<ü@exämple.org>", "ü@exämple.org"),
            ("<a.b+c/d=e@x-y.example>", "a.b+c/d=e@x-y.example"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("<{}@example.org>", "a".repeat(65));
        for text in [
            "a@b",
            "<a@b",
            "<a>",
            "<a@>",
            "<@b>",
            "<a b@c>",
            "<a..b@c>",
            "<.a@c>",
            "<a@-c>",
            "<a@c..d>",
            "<a@b@c>",
            "<\"a\"b\"@c>",
            "<a@[]>",
            "<@one:>>",
            "<a@c\u{7f}>",
            &long,
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        assert!(parse_path(b"<\xff@b>").is_err(), "not UTF-8");
    }

    #[test]
    fn what_follows_the_path_is_returned() {
        let (path, rest) = parse_path(b"<a@b> SIZE=1").unwrap();
        assert_eq!((path.address, rest), ("a@b", &b" SIZE=1"[..]));
    }

    #[test]
    fn hello_names_are_domains_or_literals() {
        for good in ["localhost", "a.example", "[127.0.0.1]", "[IPv6:::1]", "my_pc.local"] {
            assert!(is_domain(good.as_bytes()), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "[]", "a b", "a\u{0}", "ü.example", "<a>"] {
            assert!(!is_domain(bad.as_bytes()), "{bad}");
        }
    }
}
