//! Reports to senders: that a message could not be delivered, is late, or has arrived (RFC 3461, RFC 3464).
//!
//! A report is a message like any other: it goes into the spool and through the queue to the sender of the message it is
//! about. It bears the null sender, and nothing with a null sender is ever reported on: so there is no report of a report.
//!
//! | `NOTIFY=` | told of failure | told of delay | told of success |
//! |---|---|---|---|
//! | absent | yes | no | no |
//! | `NEVER` | no | no | no |
//! | a list | if it has `FAILURE` | if it has `DELAY` | if it has `SUCCESS` and the next hop does not see to it |
//!
//! RFC 3461 §4.1 leaves it to us whether a sender who is silent hears of delays. No: a hop that is down for an afternoon would
//! otherwise turn each queued message into two.
//!
//! It must not put anything into a report that could end a line or a part: all words of others are cleaned first.

mod returned;
mod status;

use std::io::Write;
use std::time::Duration;

use memchr::memmem;

use self::returned::Returned;
use super::outcome::{Outcome, Reason};
use crate::proto::address::Path;
use crate::proto::command::{Body, Mail, Notify, Rcpt};
use crate::proto::envelope::{Envelope, Recipient};
use crate::proto::message::{Message, MessageId};
use crate::proto::trace::write_date;
use crate::time::Now;

/// What became of a recipient, in the words of RFC 3464 §2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was given up.
    Failed,
    /// It will be tried further.
    Delayed,
    /// It is in the mailbox.
    Delivered,
    /// A host that sends no reports has it (RFC 3461 §5.2.2).
    Relayed,
}

/// One recipient that a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// Its number in the envelope.
    pub recipient: u32,
    /// What became of it.
    pub action: Action,
    /// Why, and who says so.
    pub reason: &'a Reason,
}

/// What a report needs besides the message that it is about.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The name of the report.
    pub id: MessageId,
    /// This server's name.
    pub host_name: &'a str,
    /// Now.
    pub now: Now,
    /// How much longer a late message will be tried.
    pub time_left: Option<Duration>,
}

/// Whom of the recipients that an attempt has settled the sender wants to hear of. `success` is what it means that the
/// message was taken: [`Action::Delivered`] or [`Action::Relayed`].
pub fn settled<'a>(envelope: &Envelope, outcomes: &'a [(u32, Outcome)], success: Action) -> Vec<Told<'a>> {
    if envelope.sender().is_empty() {
        return Vec::new();
    }
    let notify = notifications(envelope, outcomes.iter().map(|(number, _)| *number));
    let told = outcomes.iter().zip(notify).filter_map(|((recipient, outcome), notify)| match outcome {
        Outcome::Failed(reason) if notify.is_none_or(|notify| notify.wants(Notify::FAILURE)) => {
            Some(Told { recipient: *recipient, action: Action::Failed, reason })
        }
        Outcome::Delivered(reason)
            if !reason.passes_dsn && notify.is_some_and(|notify| notify.wants(Notify::SUCCESS)) =>
        {
            Some(Told { recipient: *recipient, action: success, reason })
        }
        _ => None,
    });
    told.collect()
}

/// Whom of `recipients`, who wait, the sender wants to hear of.
pub fn late<'a>(envelope: &Envelope, recipients: &[u32], reason: &'a Reason) -> Vec<Told<'a>> {
    if envelope.sender().is_empty() {
        return Vec::new();
    }
    let notify = notifications(envelope, recipients.iter().copied());
    let told = recipients.iter().zip(notify).filter(|(_, notify)| notify.is_some_and(|it| it.wants(Notify::DELAY)));
    told.map(|(recipient, _)| Told { recipient: *recipient, action: Action::Delayed, reason }).collect()
}

fn notifications(envelope: &Envelope, numbers: impl Iterator<Item = u32>) -> impl Iterator<Item = Option<Notify>> {
    let all: Vec<_> = envelope.recipients().map(|recipient| recipient.notify).collect();
    // A number that is none of the envelope's has nobody who wants to hear of it.
    numbers.map(move |number| all.get(number as usize).copied().unwrap_or(Some(Notify::NEVER)))
}

/// Why a message is given back that was here for too long.
pub fn expiry_reason(last_reply: Option<&str>) -> Reason {
    match last_reply {
        Some(last) => Reason::ours(TOO_OLD, &format!("it could not be delivered in time; the last attempt: {last}")),
        None => Reason::ours(TOO_OLD, "it could not be delivered in time"),
    }
}

/// Why a message is late.
pub fn delay_reason(last_reply: Option<&str>) -> Reason {
    Reason::ours(TOO_OLD, last_reply.unwrap_or("the destination could not be reached yet"))
}

/// Writes the report. `told` must not be empty, and the message must have a sender.
pub fn report(original: &Message, told: &[Told<'_>], circumstances: &Circumstances<'_>) -> Box<Message> {
    let text = human_text(original, told, circumstances);
    let status = status::fields(original, told, circumstances);
    let returned = Returned::of(original, told);
    let is_international = status.is_international || !original.envelope.sender().is_ascii();
    let is_eight_bit = is_international || !text.is_ascii() || !returned.bytes.is_ascii();
    let boundary = boundary(circumstances.id, &[text.as_bytes(), status.text.as_bytes(), &returned.bytes]);

    let mut report = Box::<Message>::default();
    report.id = circumstances.id;
    address(&mut report.envelope, original, is_eight_bit, is_international || returned.is_international);
    let mut out = Vec::with_capacity(returned.bytes.len() + text.len() + status.text.len() + 2_048);
    // Writing to memory cannot fail.
    let _ = write_header(&mut out, original, told, circumstances, &boundary);
    let text_type = if text.is_ascii() { "text/plain; charset=us-ascii" } else { "text/plain; charset=utf-8" };
    let status_type =
        if status.is_international { "message/global-delivery-status" } else { "message/delivery-status" };
    let parts = [
        (text_type, text.as_bytes()),
        (status_type, status.text.as_bytes()),
        (returned.content_type, &*returned.bytes),
    ];
    for (content_type, bytes) in parts {
        let encoding = if bytes.is_ascii() { "7bit" } else { "8bit" };
        let _ = write!(
            out,
            "--{boundary}\r\nContent-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        );
        out.extend_from_slice(bytes);
        // It belongs to the boundary (RFC 2046 §5.1.1).
        out.extend_from_slice(b"\r\n");
    }
    let _ = write!(out, "--{boundary}--\r\n");
    report.content = out;
    report
}

/// From nobody to the sender. What had to travel over TLS may be told of over TLS only (RFC 8689 §5).
fn address(envelope: &mut Envelope, original: &Message, is_eight_bit: bool, needs_smtputf8: bool) {
    let mail = Mail {
        path: Path { address: "" },
        size: None,
        body: if is_eight_bit { Body::EightBitMime } else { Body::SevenBit },
        smtputf8: needs_smtputf8,
        ret: None,
        envid: None,
        once: None,
        requires_tls: original.envelope.requires_tls(),
        extended: true,
    };
    envelope.begin(&mail, "");
    let path = Path { address: original.envelope.sender() };
    envelope.add(&Rcpt { path, notify: Some(Notify::NEVER), orcpt: None, extended: true });
}

fn write_header(
    out: &mut Vec<u8>,
    original: &Message,
    told: &[Told<'_>],
    circumstances: &Circumstances<'_>,
    boundary: &str,
) -> std::io::Result<()> {
    let Circumstances { id, host_name, now, .. } = circumstances;
    write!(out, "From: Mail Delivery System <MAILER-DAEMON@{host_name}>\r\n")?;
    write!(out, "To: <{}>\r\n", original.envelope.sender())?;
    write!(out, "Subject: {}\r\n", subject(told))?;
    write!(out, "Date: ")?;
    write_date(*now, out)?;
    write!(out, "\r\nMessage-ID: <{id}@{host_name}>\r\n")?;
    write!(out, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
    write!(out, "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n")?;
    write!(out, "This is a delivery status notification in MIME format.\r\n")
}

fn subject(told: &[Told<'_>]) -> &'static str {
    let has = |action| told.iter().any(|told| told.action == action);
    if has(Action::Failed) {
        "Your message could not be delivered"
    } else if has(Action::Delayed) {
        "Your message is delayed"
    } else {
        "Your message was delivered"
    }
}

/// What a person wants to know, in plain words.
fn human_text(original: &Message, told: &[Told<'_>], circumstances: &Circumstances<'_>) -> String {
    let mut text = format!("This is the mail system of {}.\r\n", circumstances.host_name);
    for action in [Action::Failed, Action::Delayed, Action::Relayed, Action::Delivered] {
        let concerned: Vec<_> = told.iter().filter(|told| told.action == action).collect();
        if concerned.is_empty() {
            continue;
        }
        text.push_str(introduction(action));
        for told in concerned {
            text.push_str(&line_of(original, told));
        }
    }
    if let Some(left) = circumstances.time_left.filter(|_| told.iter().any(|told| told.action == Action::Delayed)) {
        text.push_str(&format!("\r\nIt will be tried for another {}. You need not do anything.\r\n", in_words(left)));
    }
    text
}

fn introduction(action: Action) -> &'static str {
    match action {
        Action::Failed => "\r\nYour message could not be delivered to:\r\n\r\n",
        Action::Delayed => "\r\nYour message has not been delivered yet to:\r\n\r\n",
        Action::Relayed => {
            "\r\nYour message was handed to a mail system that will not tell you what becomes of it, for:\r\n\r\n"
        }
        Action::Delivered => "\r\nYour message was delivered to:\r\n\r\n",
    }
}

fn line_of(original: &Message, told: &Told<'_>) -> String {
    let address = recipient(&original.envelope, told.recipient).map_or("", |recipient| recipient.address);
    let said_by = told.reason.remote.as_deref().map(|remote| format!(" (said by {remote})")).unwrap_or_default();
    format!("  <{}>: {}{}\r\n", clean(address), clean(&told.reason.text), clean(&said_by))
}

fn in_words(time: Duration) -> String {
    let hours = time.as_secs() / 3_600;
    match (hours / 24, hours) {
        (0, 0) => format!("{} minutes", time.as_secs() / 60),
        (0, hours) => format!("{hours} hours"),
        (1, _) => "day".to_owned(),
        (days, _) => format!("{days} days"),
    }
}

fn recipient(envelope: &Envelope, number: u32) -> Option<Recipient<'_>> {
    envelope.recipients().nth(number as usize)
}

/// Words of others: nothing that could end a line or begin a new one.
fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A line that occurs in none of the parts.
fn boundary(id: MessageId, parts: &[&[u8]]) -> String {
    let candidates = (0_u32..).map(|number| format!("=_{id}_{number}"));
    let occurs = |boundary: &String| parts.iter().any(|part| memmem::find(part, boundary.as_bytes()).is_some());
    candidates.into_iter().find(|boundary| !occurs(boundary)).expect("a message is finite")
}

/// Delivery time expired (RFC 3463 §3.5).
const TOO_OLD: &str = "4.4.7";

#[cfg(test)]
mod tests;
