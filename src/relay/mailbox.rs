//! What the directory of a recipient's mailbox is called.
//!
//! An address comes from a stranger and becomes the name of a directory, so this must never let two addresses share
//! one, nor let a name lead anywhere else. It decides nothing about who has a mailbox.

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use ring::digest;

use crate::limits::FILE_NAME_BYTES_MAX;

/// The name of the directory for `address`: `local@domain`, or `local` alone for the mailbox of this name at
/// `host_name`, as RFC 5321 §4.1.1.3 has it for `postmaster`.
///
/// Ways to write the same address give the same name, different addresses different names: the domain is in lower case,
/// quotes and backslashes of a quoted local part are taken off (RFC 5321 §4.1.2), and `postmaster` is known however it
/// is written (§4.5.1). Case in other local parts counts (§2.4).
///
/// Letters, digits and `. _ - + =` stand for themselves. Every byte of any other character, and a dot or hyphen at the
/// front, is written as `%` and two hexadecimal digits: nothing hides in a listing, and neither a shell nor a mail
/// reader finds a character that means something to it. A name of more than [`FILE_NAME_BYTES_MAX`] bytes is cut, and
/// ends in `~` and the SHA-256 digest of the whole; there is no `~` in other names.
pub fn mailbox_name(address: &str, host_name: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, host_name));
    let mut name = String::with_capacity(address.len() + host_name.len() + 1);
    encode(&canonical_local_part(local), &mut name);
    name.push('@');
    encode(&domain.to_lowercase(), &mut name);
    if name.len() > FILE_NAME_BYTES_MAX { cut(&name) } else { name }
}

/// What the local part means, without the ways of writing it.
fn canonical_local_part(local: &str) -> Cow<'_, str> {
    let quoted = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let meaning = quoted.map_or(Cow::Borrowed(local), |content| Cow::Owned(without_backslashes(content)));
    if meaning.eq_ignore_ascii_case("postmaster") { Cow::Borrowed("postmaster") } else { meaning }
}

fn without_backslashes(content: &str) -> String {
    let mut characters = content.chars();
    let mut plain = String::with_capacity(content.len());
    while let Some(character) = characters.next() {
        let meant = if character == '\\' { characters.next() } else { Some(character) };
        plain.push(meant.unwrap_or('\\'));
    }
    plain
}

fn encode(part: &str, name: &mut String) {
    for character in part.chars() {
        let leads = name.is_empty() && matches!(character, '.' | '-');
        if is_plain(character) && !leads {
            name.push(character);
        } else {
            escape(character, name);
        }
    }
}

fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '.' | '_' | '-' | '+' | '=')
}

fn escape(character: char, name: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        name.push('%');
        name.push(char::from(DIGITS[usize::from(byte >> 4)]));
        name.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn cut(name: &str) -> String {
    let whole = HEXLOWER.encode(digest::digest(&digest::SHA256, name.as_bytes()).as_ref());
    let longest = FILE_NAME_BYTES_MAX - 1 - whole.len();
    let kept = (0..=longest).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
    format!("{}~{whole}", &name[..kept])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::mailbox_name;
    use crate::limits::FILE_NAME_BYTES_MAX;

    fn name(address: &str) -> String {
        mailbox_name(address, "Mail.Example.ORG")
    }

    /// Reads a name that was not cut back into local part and domain.
    fn read_back(name: &str) -> (String, String) {
        let decode = |part: &str| {
            let mut pieces = part.split('%');
            let mut bytes = pieces.next().unwrap().as_bytes().to_vec();
            for piece in pieces {
                bytes.push(u8::from_str_radix(&piece[..2], 16).unwrap());
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            String::from_utf8(bytes).unwrap()
        };
        let (local, domain) = name.split_once('@').unwrap();
        (decode(local), decode(domain))
    }

    #[test]
    fn ordinary_addresses_are_their_own_names() {
        for address in
            ["bob@example.org", "a.b-c_d+e=f@x-y.example", "0@localhost", "jörg@exämple.org", "Bob@example.org"]
        {
            assert_eq!(name(address), address);
        }
    }

    #[test]
    fn ways_to_write_the_same_address_give_the_same_name() {
        for (address, expected) in [
            ("bob@EXAMPLE.Org", "bob@example.org"),
            ("bob@EXÄMPLE.org", "bob@exämple.org"),
            ("\"bob\"@example.org", "bob@example.org"),
            ("\"b\\ob\"@example.org", "bob@example.org"),
            ("postmaster", "postmaster@mail.example.org"),
            ("PostMaster", "postmaster@mail.example.org"),
            ("Postmaster@mail.example.org", "postmaster@mail.example.org"),
            ("\"POSTMASTER\"@mail.example.org", "postmaster@mail.example.org"),
        ] {
            assert_eq!(name(address), expected, "{address}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_or_means_something_to_others_is_escaped() {
        for (address, expected) in [
            ("../../etc/passwd@example.org", "%2E.%2F..%2Fetc%2Fpasswd@example.org"),
            ("\"..\"@example.org", "%2E.@example.org"),
            ("\".\"@example.org", "%2E@example.org"),
            ("\"\"@example.org", "@example.org"),
            ("-rf@example.org", "%2Drf@example.org"),
            ("100%@example.org", "100%25@example.org"),
            ("\"a b\"@example.org", "a%20b@example.org"),
            ("\"a@b\"@example.org", "a%40b@example.org"),
            ("\"\\\"\\\\\"@example.org", "%22%5C@example.org"),
            ("`reboot`$HOME~@example.org", "%60reboot%60%24HOME%7E@example.org"),
            ("a\0b\n\u{7f}@example.org", "a%00b%0A%7F@example.org"),
            ("a\u{202e}b@example.org", "a%E2%80%AEb@example.org"),
            ("a@[IPv6:2001:DB8::1]", "a@%5Bipv6%3A2001%3Adb8%3A%3A1%5D"),
        ] {
            assert_eq!(name(address), expected, "{address}");
        }
    }

    #[test]
    fn addresses_that_try_to_look_like_each_others_names_stay_apart() {
        let mut seen = HashMap::new();
        for address in [
            "a%2Fb@x",
            "a/b@x",
            "a%252Fb@x",
            "\"a@b\"@x",
            "a%40b@x",
            "\"a\\\"b\"@x",
            "a%22b@x",
            "\" a\"@x",
            "\"a \"@x",
            "a@x",
            "A@x",
            "\".a\"@x",
            "%2Ea@x",
            "a@x.y",
            "a.x@y",
            "postmaster",
            "postmaster@x",
            "\"postmaster@mail.example.org\"@mail.example.org",
            "\"\"@x",
            "ä@x",
            "%C3%A4@x",
            "a\u{308}@x",
        ] {
            assert_eq!(seen.insert(name(address), address), None, "{address}");
        }
    }

    /// All pairs of an alphabet of troublemakers, so that a name that can be read back proves that no two share it.
    #[test]
    fn a_name_that_was_not_cut_can_be_read_back() {
        let troublemakers =
            ["a", "A", ".", "-", "%", "2F", "/", "@", "~", " ", "\0", "\u{85}", "é", "\u{301}", "😀", ""];
        for first in troublemakers {
            for second in troublemakers {
                let local = format!("{first}{second}x{second}{first}");
                let name = name(&format!("{local}@example.org"));
                assert_eq!(read_back(&name), (local, "example.org".to_owned()), "{name}");
                assert!(!name.contains(['/', '\0', ' ', '~']) && !name.starts_with(['.', '-']), "{name}");
            }
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_and_still_its_own() {
        let domain = ["d".repeat(63), "e".repeat(63), "f".repeat(63)].join(".");
        let fits = name(&format!("{}@{domain}", "l".repeat(FILE_NAME_BYTES_MAX - 1 - domain.len())));
        assert_eq!((fits.len(), fits.contains('~')), (FILE_NAME_BYTES_MAX, false));
        let mut names: Vec<String> = ["/", "ä", "😀", "l", "\u{1}"]
            .iter()
            .flat_map(|local| [64, 65, 66, 300].map(|times| name(&format!("{}@{domain}", local.repeat(times)))))
            .collect();
        let count = names.len();
        assert!(names.iter().all(|name| name.len() <= FILE_NAME_BYTES_MAX && name.contains('~')), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
