//! Reports to senders about any message, with any words of others in them.
//!
//! Promises: a report is a message of three parts that any program can take apart; no words of others end a line, a field or
//! a part; a report of ASCII text only says so; it goes from nobody to the sender.

use std::time::Duration;

use onetrip::proto::command::{Body, Command, Notify, parse};
use onetrip::proto::message::{Message, MessageId};
use onetrip::relay::bounce::{Action, Circumstances, Told, report, settled};
use onetrip::relay::outcome::{Outcome, Reason};
use onetrip::time::Now;

use crate::input::Input;

const NOW: Now = Now::simulated_ms(3_600_000);

/// See the [module](self).
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let action = [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed][usize::from(input.byte() % 4)];
    let words: Vec<_> = (0..3).map(|_| String::from_utf8_lossy(input.counted()).into_owned()).collect();
    let [status, text, remote] = words.try_into().unwrap();
    let remote = (!remote.is_empty()).then(|| remote.into());
    let reason = Reason { status: status.into(), text: text.into(), remote, passes_dsn: false };
    let Some(original) = message(&mut input) else {
        return;
    };
    let told: Vec<_> = (0..original.envelope.recipient_count() as u32)
        .map(|recipient| Told { recipient, action, reason: &reason })
        .collect();
    let id = MessageId::new(NOW.unix, 0, 2);
    let left = Some(Duration::from_secs(u64::from(input.word())));
    let circumstances = Circumstances { id, host_name: "mail.example.net", now: NOW, time_left: left };
    check_report(&original, &report(&original, &told, &circumstances));
    let outcomes: Vec<_> = told.iter().map(|told| (told.recipient, Outcome::Failed(reason.clone()))).collect();
    assert!(settled(&original.envelope, &outcomes, action).len() <= told.len());
}

fn message(input: &mut Input<'_>) -> Option<Message> {
    let mut message = Message { id: MessageId::new(Now::simulated_ms(0).unix, 0, 1), ..Message::default() };
    let mail = [b"MAIL FROM:<", input.counted()].concat();
    let Ok(Command::Mail(mail)) = parse(&mail).command else { return None };
    message.envelope.begin(&mail, "ann");
    for _ in 0..=input.byte() % 2 {
        let rcpt = [b"RCPT TO:<", input.counted()].concat();
        let Ok(Command::Rcpt(rcpt)) = parse(&rcpt).command else { return None };
        message.envelope.add(&rcpt);
    }
    message.trace.extend_from_slice(b"Received: from here\r\n");
    let times = 1 + usize::from(input.byte()) * usize::from(input.byte()) / 16;
    let content = input.counted();
    message.content = content.repeat(times);
    (!message.envelope.sender().is_empty()).then_some(message)
}

fn check_report(original: &Message, report: &Message) {
    let envelope = &report.envelope;
    let recipients: Vec<_> = envelope.recipients().map(|to| (to.address, to.notify)).collect();
    assert_eq!((envelope.sender(), recipients), ("", vec![(original.envelope.sender(), Some(Notify::NEVER))]));
    let is_eight_bit = envelope.body() == Body::EightBitMime;
    assert!(is_eight_bit || report.content.is_ascii(), "bytes beyond ASCII are not declared");
    let content = String::from_utf8_lossy(&report.content);
    let (header, body) = content.split_once("\r\n\r\n").expect("a header and a body");
    check_fields(
        header,
        &["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"],
    );
    let (_, boundary) = header.split_once("boundary=\"").expect("a boundary");
    let boundary = boundary.strip_suffix('"').expect("a boundary that ends");
    let parts: Vec<_> = body.split(&format!("--{boundary}")).collect();
    let [_, people, programs, returned, end] = parts[..] else { panic!("{} pieces for three parts", parts.len()) };
    assert_eq!(end, "--\r\n");
    for part in [people, programs, returned] {
        let (fields, text) =
            part.strip_prefix("\r\n").and_then(|part| part.split_once("\r\n\r\n")).expect("a part's header");
        check_fields(fields, &["Content-Type", "Content-Transfer-Encoding"]);
        assert!(part.ends_with("\r\n"), "a part that does not end");
        assert!(fields.ends_with("8bit") || text.is_ascii(), "a part of 7 bits that has 8");
    }
    for part in [people, programs] {
        assert!(!part.replace("\r\n", "").contains(['\r', '\n', '\0']), "words of others end a line");
    }
    check_status(original, programs);
}

fn check_fields(header: &str, expected: &[&str]) {
    let lines = header.split("\r\n").filter(|line| !line.starts_with('\t'));
    let names: Vec<_> = lines.map(|line| line.split_once(": ").expect("a field").0).collect();
    assert_eq!(names, expected);
}

/// A group of fields for the message, and one for each recipient (RFC 3464 §2.1).
fn check_status(original: &Message, part: &str) {
    const KNOWN: [&str; 12] = [
        "Original-Envelope-Id",
        "Reporting-MTA",
        "Arrival-Date",
        "Original-Recipient",
        "Final-Recipient",
        "Action",
        "Status",
        "Remote-MTA",
        "Diagnostic-Code",
        "Last-Attempt-Date",
        "Will-Retry-Until",
        "Final-Log-ID",
    ];
    let groups: Vec<_> = part.trim_end().split("\r\n\r\n").skip(1).collect();
    assert_eq!(groups.len(), 1 + original.envelope.recipient_count());
    for group in &groups {
        for line in group.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])) {
            let (name, value) = line.split_once(": ").expect("a field");
            assert!(KNOWN.contains(&name) && !value.is_empty(), "{line}");
        }
    }
    for group in &groups[1..] {
        assert_eq!(group.matches("Status: ").count().min(1), 1);
    }
}
