//! The part of a report that programs read: `message/delivery-status` (RFC 3464 §2), or its form for addresses that are not
//! ASCII, `message/global-delivery-status` (RFC 6533 §3).
//!
//! It must not trust a word that came from elsewhere to be a field's worth: see `clean`.

use std::fmt::Write;

use super::{Action, Circumstances, Told, clean, recipient};
use crate::proto::message::Message;
use crate::proto::trace::write_date;
use crate::time::Now;

/// The fields, and whether they need RFC 6533.
pub(super) struct Status {
    pub(super) text: String,
    pub(super) is_international: bool,
}

pub(super) fn fields(original: &Message, told: &[Told<'_>], circumstances: &Circumstances<'_>) -> Status {
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = write_message_fields(&mut text, original, circumstances);
    let mut is_international = false;
    for told in told {
        let address = recipient(&original.envelope, told.recipient).map_or("", |recipient| recipient.address);
        is_international |= !address.is_ascii();
        let _ = write_recipient_fields(&mut text, original, told, circumstances);
    }
    if !is_international {
        // Replies may say anything; here only ASCII can stand.
        text = text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect();
    }
    Status { text, is_international }
}

fn write_message_fields(text: &mut String, original: &Message, circumstances: &Circumstances<'_>) -> std::fmt::Result {
    if let Some(envid) = original.envelope.envid() {
        write!(text, "Original-Envelope-Id: {}\r\n", decoded(envid))?;
    }
    write!(text, "Reporting-MTA: dns; {}\r\n", circumstances.host_name)?;
    let received = Now { unix: original.id.received(), ..circumstances.now };
    write!(text, "Arrival-Date: {}\r\n", date(received))
}

fn write_recipient_fields(
    text: &mut String,
    original: &Message,
    told: &Told<'_>,
    circumstances: &Circumstances<'_>,
) -> std::fmt::Result {
    let Some(recipient) = recipient(&original.envelope, told.recipient) else { return Ok(()) };
    text.push_str("\r\n");
    if let Some((kind, address)) = recipient.orcpt.and_then(|orcpt| orcpt.split_once(';')) {
        // `utf-8` has an encoding of its own, which may stay (RFC 6533 §3).
        let address = if kind.eq_ignore_ascii_case("utf-8") { address.to_owned() } else { decoded(address) };
        write!(text, "Original-Recipient: {};{address}\r\n", clean(kind))?;
    }
    let kind = if recipient.address.is_ascii() { "rfc822" } else { "utf-8" };
    write!(text, "Final-Recipient: {kind};{}\r\n", clean(recipient.address))?;
    write!(text, "Action: {}\r\n", told.action.word())?;
    write!(text, "Status: {}\r\n", status_of(told))?;
    if let Some(remote) = &told.reason.remote {
        write!(text, "Remote-MTA: dns; {}\r\n", clean(remote))?;
        write!(text, "Diagnostic-Code: smtp; {}\r\n", clean(&told.reason.text))?;
    }
    write!(text, "Last-Attempt-Date: {}\r\n", date(circumstances.now))?;
    if let Some(left) = circumstances.time_left.filter(|_| told.action == Action::Delayed) {
        let until = Now { unix: circumstances.now.unix + left, ..circumstances.now };
        write!(text, "Will-Retry-Until: {}\r\n", date(until))?;
    }
    Ok(())
}

/// What was said if it is a status (RFC 3463 §2), else the one that says nothing but the class.
fn status_of<'a>(told: &Told<'a>) -> &'a str {
    let status = &*told.reason.status;
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = status.split('.');
    let class = parts.next().filter(|class| ["2", "4", "5"].contains(class));
    let details: Vec<_> = parts.collect();
    if class.is_some() && details.len() == 2 && details.into_iter().all(is_number) {
        return status;
    }
    match told.action {
        Action::Failed => "5.0.0",
        Action::Delayed => "4.0.0",
        Action::Delivered | Action::Relayed => "2.0.0",
    }
}

fn date(now: Now) -> String {
    let mut date = Vec::new();
    // Writing to memory cannot fail.
    let _ = write_date(now, &mut date);
    String::from_utf8(date).unwrap_or_default()
}

/// Takes off xtext (RFC 3461 §4). Where that would give anything but printable ASCII, it stays as it came.
fn decoded(xtext: &str) -> String {
    let mut pieces = xtext.split('+');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let value = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value.filter(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            Some(byte) => text.push(char::from(byte)),
            None => return clean(xtext),
        }
        text.push_str(piece.get(2..).unwrap_or_default());
    }
    clean(&text)
}

impl Action {
    /// The word of RFC 3464 §2.3.3.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn xtext_is_taken_off_unless_something_that_does_not_print_comes_out() {
        for (xtext, expected) in [
            ("plain@example.org", "plain@example.org"),
            ("a+2Bb+3Dc", "a+b=c"),
            ("a+20b", "a b"),
            ("a+0D+0AX-Evil:+20yes", "a+0D+0AX-Evil:+20yes"),
            ("a+00", "a+00"),
            ("a+C3+A9", "a+C3+A9"),
            ("a+", "a+"),
            ("a+2", "a+2"),
            ("a+zz", "a+zz"),
            ("+41", "A"),
        ] {
            assert_eq!(decoded(xtext), expected);
        }
    }
}
