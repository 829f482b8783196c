//! How an answer reads: as text for a person, or as JSON for a program, one object a line.
//!
//! What others have written (addresses, replies of other servers, headers) goes to a terminal, so nothing in it may be a
//! control character.

use std::fmt::Write;

use serde::Serialize;

use super::wire::{Details, Item, Order, Reply, WhatBecame, line_of};

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Turns replies into what is printed.
#[derive(Debug)]
pub struct Listing {
    format: Format,
    order: Order,
    /// Bytes of all messages shown.
    bytes: u64,
}

impl Listing {
    /// For the answer to this order.
    pub fn new(format: Format, order: Order) -> Self {
        Self { format, order, bytes: 0 }
    }

    /// What is printed for one reply: whole lines, or nothing.
    pub fn show(&mut self, reply: &Reply) -> String {
        match self.format {
            Format::Json => json(reply),
            Format::Text => self.text(reply),
        }
    }

    fn text(&mut self, reply: &Reply) -> String {
        match reply {
            Reply::Item(item) => {
                self.bytes += item.bytes;
                item_text(item)
            }
            Reply::Details(details) => details_text(details),
            Reply::Done { message, became: WhatBecame::Gone } => format!("{message} had left the queue already\n"),
            Reply::End { messages } => self.end(*messages),
            Reply::Done { .. } | Reply::File { .. } | Reply::Piece(_) | Reply::Fault(_) => String::new(),
        }
    }

    fn end(&self, messages: u64) -> String {
        let number = if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") };
        match self.order {
            Order::Show => String::new(),
            Order::List if messages == 0 => "no messages\n".to_owned(),
            Order::List => format!("{number}, {}\n", size(self.bytes)),
            Order::Flush => format!("{number} due now\n"),
            Order::Hold => format!("{number} held\n"),
            Order::Release => format!("{number} released\n"),
            Order::Remove => format!("{number} removed\n"),
            Order::Export => format!("{number} exported\n"),
        }
    }
}

fn json(reply: &Reply) -> String {
    #[derive(Serialize)]
    struct Done<'a> {
        message: &'a str,
        became: WhatBecame,
    }
    match reply {
        Reply::Item(item) => line_of(item),
        Reply::Details(details) => line_of(details),
        Reply::Done { message, became } => line_of(&Done { message, became: *became }),
        Reply::File { .. } | Reply::Piece(_) | Reply::End { .. } | Reply::Fault(_) => String::new(),
    }
}

/// A line of figures, one of recipients, and one of what happened last.
fn item_text(item: &Item) -> String {
    let mut text = format!(
        "{}  {:<8}  {:>7}  {:>9}  {}\n",
        item.message,
        item.state.word(),
        age(item.age_s),
        size(item.bytes),
        sender(item)
    );
    let _ = writeln!(text, "    to {}", recipients(item));
    if item.attempts > 0 {
        let attempts = if item.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", item.attempts) };
        let reply = item.last_reply.as_deref().unwrap_or("no reply");
        let _ = writeln!(text, "    {attempts}, the last: {}", harmless(reply));
    }
    text
}

fn sender(item: &Item) -> String {
    let sender = if item.sender.is_empty() { "<>" } else { &item.sender };
    let user = if item.user.is_empty() { String::new() } else { format!(" (user {})", item.user) };
    harmless(&format!("{sender}{user}"))
}

/// The first few who wait, and how many more.
fn recipients(item: &Item) -> String {
    let shown: Vec<String> = item.recipients.iter().take(RECIPIENTS_SHOWN_MAX).map(|one| harmless(one)).collect();
    let more = item.recipients.len().saturating_sub(shown.len());
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn details_text(details: &Details) -> String {
    let item = &details.item;
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<13} {}", harmless(value));
    };
    field("message", &item.message);
    field("state", item.state.word());
    field("received", &format!("{} ({} ago)", item.received, age(item.age_s)));
    field("size", &size(item.bytes));
    field("sender", &sender(item));
    for recipient in &details.envelope {
        let notify = recipient.notify.as_ref().map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        let orcpt = recipient.orcpt.as_ref().map(|orcpt| format!(" ORCPT={orcpt}")).unwrap_or_default();
        field("recipient", &format!("{} ({}){notify}{orcpt}", recipient.address, recipient.state));
    }
    field("destination", &item.destinations.join(", "));
    field("attempts", &item.attempts.to_string());
    if let Some(next) = &item.next_attempt {
        field("next attempt", next);
    }
    if let Some(reply) = &item.last_reply {
        field("last reply", reply);
    }
    field("body", &details.body);
    for (name, value) in [("envid", &details.envid), ("ret", &details.ret), ("once", &details.once)] {
        if let Some(value) = value {
            field(name, value);
        }
    }
    for (name, holds) in [("smtputf8", details.smtputf8), ("requiretls", details.requires_tls)] {
        if holds {
            field(name, "yes");
        }
    }
    text.push('\n');
    for line in details.header.lines() {
        let _ = writeln!(text, "    {}", harmless(line));
    }
    text
}

/// 45s, 12m, 5h 3m, 3d 4h.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// 812 B, 4.1 KiB, 3.0 MiB, 1.2 GiB.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// With every control character made visible; a tab is a blank.
fn harmless(text: &str) -> String {
    let shown = |character: char| match character {
        '\t' => ' ',
        character if character.is_control() => char::REPLACEMENT_CHARACTER,
        character => character,
    };
    text.chars().map(shown).collect()
}

/// Recipients of a message in a list.
const RECIPIENTS_SHOWN_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::{Format, Listing, age, size};
    use crate::queue::wire::tests::{details, item};
    use crate::queue::wire::{Order, Reply, WhatBecame};

    fn shown(format: Format, order: Order, replies: &[Reply]) -> String {
        let mut listing = Listing::new(format, order);
        replies.iter().map(|reply| listing.show(reply)).collect()
    }

    #[test]
    fn a_list_has_figures_recipients_and_the_last_reply_of_each_and_a_sum() {
        let mut fresh = item("06b8k2v4m1s00001");
        (fresh.attempts, fresh.last_reply, fresh.sender) = (0, None, String::new());
        fresh.recipients = (0..5).map(|number| format!("r{number}@example.net")).collect();
        let replies = [Reply::Item(item("06b8k2v4m1s00000")), Reply::Item(fresh), Reply::End { messages: 2 }];
        let expected = "\
06b8k2v4m1s00000  deferred    2h 5m    4.1 KiB  ann@example.org (user ann)
    to bob@example.net
    3 attempts, the last: 450 4.2.1 busy
06b8k2v4m1s00001  deferred    2h 5m    4.1 KiB  <> (user ann)
    to r0@example.net, r1@example.net, r2@example.net and 2 more
2 messages, 8.2 KiB
";
        assert_eq!(shown(Format::Text, Order::List, &replies), expected);
        assert_eq!(shown(Format::Text, Order::List, &[Reply::End { messages: 0 }]), "no messages\n");
    }

    #[test]
    fn all_about_a_message_is_a_field_a_line_and_its_header() {
        let text =
            shown(Format::Text, Order::Show, &[Reply::Details(Box::new(details("06b8"))), Reply::End { messages: 1 }]);
        let expected = "\
message       06b8
state         deferred
received      2026-01-01T00:00:00Z (2h 5m ago)
size          4.1 KiB
sender        ann@example.org (user ann)
recipient     bob@example.net (waiting)
recipient     eve@example.net (delivered)
destination   relay:mx.example.net:25
attempts      3
next attempt  2026-01-01T03:00:00Z
last reply    450 4.2.1 busy
body          8BITMIME
envid         x1
once          t1
requiretls    yes

    Received: from here
    Subject: hello
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_is_one_object_a_line_and_nothing_else() {
        let done = Reply::Done { message: "06b8".to_owned(), became: WhatBecame::Held };
        let text = shown(Format::Json, Order::Hold, &[done, Reply::End { messages: 1 }]);
        assert_eq!(text, "{\"message\":\"06b8\",\"became\":\"held\"}\n");
        let text = shown(Format::Json, Order::List, &[Reply::Item(item("06b8")), Reply::End { messages: 1 }]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["message"].as_str(), value["state"].as_str()), (Some("06b8"), Some("deferred")));
        let text = shown(Format::Json, Order::Show, &[Reply::Details(Box::new(details("06b8")))]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["message"].as_str(), value["once"].as_str()), (Some("06b8"), Some("t1")));
    }

    #[test]
    fn an_order_says_how_many_messages_it_was_carried_out_on() {
        let done = |became| Reply::Done { message: "06b8".to_owned(), became };
        let replies = [done(WhatBecame::Removed), done(WhatBecame::Gone), Reply::End { messages: 1 }];
        let text = shown(Format::Text, Order::Remove, &replies);
        assert_eq!(text, "06b8 had left the queue already\n1 message removed\n");
    }

    #[test]
    fn what_others_have_written_cannot_control_a_terminal() {
        let mut evil = details("06b8");
        evil.header = "Subject: \u{1b}[2Jgone\r\n\tfolded\u{9b}\r\n".to_owned();
        evil.item.last_reply = Some("450 \u{7}\r\nmessage  06b9".to_owned());
        let replies = [Reply::Item(evil.item.clone()), Reply::Details(Box::new(evil))];
        let text = shown(Format::Text, Order::Show, &replies);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
        assert!(!text.contains("\nmessage  06b9"));
    }

    #[test]
    fn ages_and_sizes_have_the_unit_that_a_person_would_choose() {
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 1_000_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h 0m", "23h 59m", "1d 0h", "11d 13h"]);
        assert_eq!([0, 1_023, 1_024, 5 << 20, 3 << 30].map(size), ["0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 GiB"]);
    }
}
