//! The message as it was given, made fit to be submitted: recipients found, missing fields added, Bcc removed.
//!
//! Changes nothing else: a body and the fields that are there may be signed.

use crate::limits::SUBMIT_HEADER_BYTES_MAX;

/// A message whose header has been taken apart. All lines end in CRLF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    fields: Vec<Field>,
    body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    /// The whole field with its folded lines and their ends.
    bytes: Vec<u8>,
}

/// What is added where it is missing.
#[derive(Clone, Debug)]
pub(super) struct Missing<'a> {
    /// For From, with or without a full name.
    pub(super) from: &'a str,
    /// For Date (RFC 5322 §3.3).
    pub(super) date: &'a str,
    /// For Message-ID, without angle brackets.
    pub(super) message_id: &'a str,
}

impl Draft {
    /// Takes a message apart whose lines end in CRLF. Text without a header is all body.
    pub(super) fn parse(message: &[u8]) -> Self {
        // A line of mailbox files, which some programs leave in front.
        let rest = if message.starts_with(b"From ") { after_line(message) } else { message };
        let mut rest = rest;
        let mut taken = 0;
        let mut fields: Vec<Field> = Vec::new();
        while taken < SUBMIT_HEADER_BYTES_MAX && !rest.is_empty() {
            let next = after_line(rest);
            let line = &rest[..rest.len() - next.len()];
            match (field_name(line), fields.last_mut()) {
                _ if line == b"\r\n" => return Self { fields, body: next.to_vec() },
                (_, Some(field)) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                    field.bytes.extend_from_slice(line);
                }
                (Some(name), _) => fields.push(Field { name, bytes: line.to_vec() }),
                (None, _) => break,
            }
            taken += line.len();
            rest = next;
        }
        Self { fields, body: rest.to_vec() }
    }

    /// The addresses in To, Cc and Bcc, or in their Resent counterparts if there are any (RFC 5322 §3.6.6).
    pub(super) fn recipients(&self) -> Vec<String> {
        let resent = self.addresses(&["resent-to", "resent-cc", "resent-bcc"]);
        if resent.is_empty() { self.addresses(&["to", "cc", "bcc"]) } else { resent }
    }

    /// The address that the message says it is from.
    pub(super) fn author(&self) -> Option<String> {
        ["resent-from", "sender", "from"].iter().find_map(|name| self.addresses(&[name]).into_iter().next())
    }

    pub(super) fn remove_blind_copies(&mut self) {
        self.fields.retain(|field| !matches!(field.name.as_str(), "bcc" | "resent-bcc"));
    }

    /// Adds the fields that RFC 5322 §3.6 and RFC 6409 §8 want.
    pub(super) fn complete(&mut self, missing: &Missing<'_>) {
        let wanted = [
            ("From", missing.from.to_owned()),
            ("Date", missing.date.to_owned()),
            ("Message-ID", format!("<{}>", missing.message_id)),
        ];
        for (name, value) in wanted {
            let lower = name.to_ascii_lowercase();
            if !self.fields.iter().any(|field| field.name == lower) {
                self.fields.push(Field { name: lower, bytes: format!("{name}: {value}\r\n").into_bytes() });
            }
        }
    }

    /// The message in one piece.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut message: Vec<u8> = self.fields.into_iter().flat_map(|field| field.bytes).collect();
        if !message.ends_with(b"\r\n") {
            message.extend_from_slice(b"\r\n");
        }
        message.extend_from_slice(b"\r\n");
        message.extend_from_slice(&self.body);
        message
    }

    fn addresses(&self, names: &[&str]) -> Vec<String> {
        let wanted = self.fields.iter().filter(|field| names.contains(&field.name.as_str()));
        wanted.flat_map(|field| addresses(&field.value())).collect()
    }
}

impl Field {
    fn value(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.split_once(':').map(|(_, value)| value.replace(['\r', '\n'], "")).unwrap_or_default()
    }
}

fn after_line(text: &[u8]) -> &[u8] {
    memchr::memchr(b'\n', text).map_or(&[], |at| &text[at + 1..])
}

/// The name before the colon, in small letters; `None` if the line begins no field (RFC 5322 §2.2).
fn field_name(line: &[u8]) -> Option<String> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// The addresses in a list (RFC 5322 §3.4): names, comments and groups are left out.
pub(super) fn addresses(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut word = String::new();
    let mut angle: Option<String> = None;
    let mut comment_depth = 0_usize;
    let mut quoted = false;
    let mut in_angle = false;
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let target = if in_angle { angle.get_or_insert_default() } else { &mut word };
        match character {
            '\\' if quoted || comment_depth > 0 => {
                let escaped = characters.next();
                if comment_depth == 0 {
                    target.extend(['\\'].into_iter().chain(escaped));
                }
            }
            '"' if comment_depth == 0 => {
                quoted = !quoted;
                target.push(character);
            }
            _ if quoted => target.push(character),
            '(' => comment_depth += 1,
            ')' => comment_depth = comment_depth.saturating_sub(1),
            _ if comment_depth > 0 => {}
            '<' => in_angle = true,
            '>' => in_angle = false,
            ',' | ';' if !in_angle => take_address(&mut word, &mut angle, &mut found),
            // The name of a group ends here.
            ':' if !in_angle => word.clear(),
            _ if character.is_whitespace() => {
                if !in_angle && !word.is_empty() {
                    word.push(' ');
                }
            }
            _ => target.push(character),
        }
    }
    take_address(&mut word, &mut angle, &mut found);
    found
}

fn take_address(word: &mut String, angle: &mut Option<String>, found: &mut Vec<String>) {
    let bare = std::mem::take(word).trim().to_owned();
    let address = angle.take().unwrap_or(bare);
    // A route before the mailbox (RFC 5322 §4.4) means nothing any more.
    let address = match address.strip_prefix('@').and_then(|routed| routed.split_once(':')) {
        Some((_, mailbox)) => mailbox.to_owned(),
        None => address,
    };
    if !address.is_empty() {
        found.push(address);
    }
}

#[cfg(test)]
mod tests {
    use super::{Draft, Missing, addresses};

    const MISSING: Missing<'_> = Missing { from: "a@b", date: "today", message_id: "1@b" };

    fn complete(message: &str) -> String {
        let mut draft = Draft::parse(message.as_bytes());
        draft.complete(&MISSING);
        String::from_utf8(draft.into_bytes()).unwrap()
    }

    #[test]
    fn missing_fields_are_added_and_nothing_else_changes() {
        let added = "From: a@b\r\nDate: today\r\nMessage-ID: <1@b>\r\n";
        assert_eq!(complete("Subject: x\r\n y\r\n\r\nbody\r\n"), format!("Subject: x\r\n y\r\n{added}\r\nbody\r\n"));
        let whole = "FROM: c@d\r\nDate: then\r\nMessage-Id: <2@d>\r\n\r\nbody\r\n";
        assert_eq!(complete(whole), whole);
    }

    #[test]
    fn text_without_a_header_is_all_body() {
        let added = "From: a@b\r\nDate: today\r\nMessage-ID: <1@b>\r\n";
        assert_eq!(complete("just text\r\nmore\r\n"), format!("{added}\r\njust text\r\nmore\r\n"));
        assert_eq!(complete(""), format!("{added}\r\n"));
        assert_eq!(complete("\r\ntext\r\n"), format!("{added}\r\ntext\r\n"));
    }

    #[test]
    fn recipients_come_from_to_cc_and_bcc_and_bcc_goes() {
        let mut draft = Draft::parse(b"To: a@b, \"C, D\" <c@d>\r\nCc: e@f\r\nbcc: g@h\r\n i@j\r\nSubject: x\r\n\r\n");
        assert_eq!(draft.recipients(), ["a@b", "c@d", "e@f", "g@h i@j"]);
        draft.remove_blind_copies();
        let message = String::from_utf8(draft.into_bytes()).unwrap();
        assert!(!message.contains("g@h") && !message.contains("i@j") && message.contains("e@f"));
    }

    #[test]
    fn a_message_that_is_resent_goes_to_the_resent_recipients_only() {
        let draft = Draft::parse(b"To: a@b\r\nResent-To: c@d\r\nResent-From: e@f\r\nFrom: g@h\r\n\r\n");
        assert_eq!(draft.recipients(), ["c@d"]);
        assert_eq!(draft.author().as_deref(), Some("e@f"));
    }

    #[test]
    fn names_comments_and_groups_are_no_addresses() {
        assert_eq!(addresses("Ann (the \\) one) <ann@x>, bob@y (Bob)"), ["ann@x", "bob@y"]);
        assert_eq!(addresses("Team: a@b, c@d;, e@f"), ["a@b", "c@d", "e@f"]);
        assert_eq!(addresses("\"a<b>, c\"@d"), ["\"a<b>, c\"@d"]);
        assert_eq!(addresses("<@relay:a@b>"), ["a@b"]);
        assert_eq!(addresses("undisclosed-recipients:;"), Vec::<String>::new());
        assert_eq!(addresses(""), Vec::<String>::new());
    }

    #[test]
    fn a_mailbox_line_in_front_is_dropped() {
        let draft = Draft::parse(b"From a Mon Jan\r\nTo: a@b\r\n\r\n");
        assert_eq!(draft.recipients(), ["a@b"]);
    }
}
