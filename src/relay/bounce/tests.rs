//! What a report says, to whom, and what it must never contain.

use std::time::Duration;

use super::{Action, Circumstances, Told, late, report, settled};
use crate::limits::{RETURNED_HEADER_BYTES_MAX, RETURNED_MESSAGE_BYTES_MAX};
use crate::proto::command::{Body, Command, Notify, parse};
use crate::proto::message::{Message, MessageId};
use crate::relay::outcome::{Outcome, Reason};
use crate::time::Now;

const NOW: Now = Now::simulated_ms(3_600_000);

fn message(mail: &str, recipients: &[&str], content: &str) -> Box<Message> {
    let mut message = Box::<Message>::default();
    message.id = MessageId::new(Now::simulated_ms(0).unix, 0, 1);
    let Ok(Command::Mail(mail)) = parse(mail.as_bytes()).command else { panic!("{mail}") };
    message.envelope.begin(&mail, "ann");
    for recipient in recipients {
        let line = format!("RCPT TO:{recipient}");
        let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!("{line}") };
        message.envelope.add(&rcpt);
    }
    message.trace.extend_from_slice(b"Received: from here\r\n");
    message.content.extend_from_slice(content.as_bytes());
    message
}

fn simple(parameters: &str) -> Box<Message> {
    message(
        &format!("MAIL FROM:<ann@example.org>{parameters}"),
        &["<bob@example.com>", "<eve@example.com>"],
        "Subject: hello\r\nX-Folded: one\r\n two\r\n\r\nsecret body\r\n",
    )
}

fn said(status: &str, text: &str) -> Reason {
    Reason { status: status.into(), text: text.into(), remote: Some("mx.example.com".into()), passes_dsn: false }
}

fn circumstances() -> Circumstances<'static> {
    let id = MessageId::new(NOW.unix, 0, 2);
    Circumstances { id, host_name: "mail.example.net", now: NOW, time_left: Some(Duration::from_secs(90_000 * 2)) }
}

fn written(original: &Message, action: Action, reason: &Reason) -> (Box<Message>, String) {
    let told: Vec<_> =
        (0..original.envelope.recipient_count() as u32).map(|recipient| Told { recipient, action, reason }).collect();
    let report = report(original, &told, &circumstances());
    let text = String::from_utf8(report.content.clone()).unwrap();
    (report, text)
}

/// The three parts, each with its header.
fn parts(text: &str) -> Vec<&str> {
    let (_, rest) = text.split_once("boundary=\"").unwrap();
    let (boundary, _) = rest.split_once('"').unwrap();
    let mut pieces: Vec<_> = text.split(&format!("--{boundary}")).collect();
    assert_eq!(pieces.pop(), Some("--\r\n"));
    pieces.remove(0);
    assert_eq!(pieces.len(), 3, "{text}");
    pieces
}

fn outcomes(outcomes: &[Outcome]) -> Vec<(u32, Outcome)> {
    (0..).zip(outcomes.iter().cloned()).collect()
}

#[test]
fn notify_decides_who_is_told_of_what() {
    let recipients = [
        "<a@x.example>",
        "<b@x.example> NOTIFY=NEVER",
        "<c@x.example> NOTIFY=FAILURE",
        "<d@x.example> NOTIFY=SUCCESS",
        "<e@x.example> NOTIFY=DELAY",
        "<f@x.example> NOTIFY=SUCCESS,FAILURE,DELAY",
    ];
    let original = message("MAIL FROM:<ann@example.org>", &recipients, "");
    let numbers = |told: Vec<Told<'_>>| told.iter().map(|told| told.recipient).collect::<Vec<_>>();
    let failed = outcomes(&vec![Outcome::Failed(said("5.1.1", "no")); 6]);
    assert_eq!(numbers(settled(&original.envelope, &failed, Action::Relayed)), [0, 2, 5]);
    let taken = outcomes(&vec![Outcome::Delivered(said("2.0.0", "ok")); 6]);
    assert_eq!(numbers(settled(&original.envelope, &taken, Action::Relayed)), [3, 5]);
    let passed = Reason { passes_dsn: true, ..said("2.0.0", "ok") };
    let passed = outcomes(&vec![Outcome::Delivered(passed); 6]);
    assert_eq!(numbers(settled(&original.envelope, &passed, Action::Relayed)), [0; 0]);
    let deferred = outcomes(&vec![Outcome::Deferred(said("4.0.0", "later")); 6]);
    assert_eq!(numbers(settled(&original.envelope, &deferred, Action::Relayed)), [0; 0]);
    assert_eq!(numbers(late(&original.envelope, &[0, 1, 2, 3, 4, 5, 9], &said("4.0.0", ""))), [4, 5]);
}

#[test]
fn nobody_is_told_of_a_message_from_nobody() {
    let original = message("MAIL FROM:<>", &["<bob@example.com> NOTIFY=SUCCESS,FAILURE,DELAY"], "");
    let reason = said("5.1.1", "no");
    assert_eq!(settled(&original.envelope, &[(0, Outcome::Failed(reason.clone()))], Action::Relayed), []);
    assert_eq!(late(&original.envelope, &[0], &reason), []);
}

#[test]
fn a_report_goes_from_nobody_to_the_sender_and_asks_for_no_report() {
    let (report, text) = written(&simple(""), Action::Failed, &said("5.1.1", "550 5.1.1 no such user"));
    assert_eq!(
        (report.envelope.sender(), report.envelope.body(), report.envelope.smtputf8()),
        ("", Body::SevenBit, false)
    );
    let recipients: Vec<_> = report.envelope.recipients().map(|it| (it.address, it.notify)).collect();
    assert_eq!(recipients, [("ann@example.org", Some(Notify::NEVER))]);
    assert_eq!(report.id, circumstances().id);
    for field in [
        "From: Mail Delivery System <MAILER-DAEMON@mail.example.net>\r\n",
        "To: <ann@example.org>\r\n",
        "Subject: Your message could not be delivered\r\n",
        "Date: Thu, 01 Jan 2026 01:00:00 +0000\r\n",
        &format!("Message-ID: <{}@mail.example.net>\r\n", circumstances().id),
        "Auto-Submitted: auto-replied\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/report; report-type=delivery-status;\r\n",
    ] {
        assert!(text.split_once("\r\n\r\n").unwrap().0.contains(field.trim_end()), "{field} in {text}");
    }
}

#[test]
fn a_failure_is_told_to_people_and_to_programs() {
    let original = message(
        "MAIL FROM:<ann@example.org> ENVID=a+2Bb",
        &["<bob@example.com> ORCPT=rfc822;robert+2Bx@example.com", "<eve@example.com>"],
        "Subject: hello\r\n\r\nbody\r\n",
    );
    let (_, text) = written(&original, Action::Failed, &said("5.1.1", "550 5.1.1 no such user"));
    let [people, programs, header] = *parts(&text) else { panic!("three parts") };
    assert!(people.contains("  <bob@example.com>: 550 5.1.1 no such user (said by mx.example.com)\r\n"), "{people}");
    assert!(people.contains("Content-Type: text/plain; charset=us-ascii\r\n"));
    let expected = "\r\nContent-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
        Original-Envelope-Id: a+b\r\nReporting-MTA: dns; mail.example.net\r\n\
        Arrival-Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\r\n\
        Original-Recipient: rfc822;robert+x@example.com\r\nFinal-Recipient: rfc822;bob@example.com\r\n\
        Action: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; mx.example.com\r\n\
        Diagnostic-Code: smtp; 550 5.1.1 no such user\r\nLast-Attempt-Date: Thu, 01 Jan 2026 01:00:00 +0000\r\n\r\n\
        Final-Recipient: rfc822;eve@example.com\r\n\
        Action: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; mx.example.com\r\n\
        Diagnostic-Code: smtp; 550 5.1.1 no such user\r\nLast-Attempt-Date: Thu, 01 Jan 2026 01:00:00 +0000\r\n\r\n";
    assert_eq!(programs, expected);
    assert!(
        header.contains("text/rfc822-headers") && header.ends_with("Received: from here\r\nSubject: hello\r\n\r\n")
    );
}

#[test]
fn a_delay_says_how_long_it_will_be_tried() {
    let (_, text) = written(&simple(""), Action::Delayed, &said("4.4.1", "nobody there"));
    let [people, programs, _] = *parts(&text) else { panic!("three parts") };
    assert!(people.contains("It will be tried for another 2 days."), "{people}");
    assert!(programs.contains("Action: delayed\r\n") && programs.contains("Will-Retry-Until: Sat, 03 Jan 2026"));
    assert!(text.contains("Subject: Your message is delayed\r\n"));
}

#[test]
fn success_tells_a_mailbox_from_a_host_that_keeps_silent() {
    let own = Reason { remote: None, ..said("", "delivered") };
    let (_, text) = written(&simple(" RET=FULL"), Action::Delivered, &own);
    assert!(text.contains("Action: delivered\r\nStatus: 2.0.0\r\nLast-Attempt-Date"), "{text}");
    assert!(!text.contains("secret body"), "only a failure gives back all");
    let (_, text) = written(&simple(""), Action::Relayed, &said("2.1.5", "250 ok"));
    assert!(text.contains("Action: relayed\r\nStatus: 2.1.5\r\n"));
}

#[test]
fn the_whole_message_is_given_back_only_where_it_was_asked_for_and_may_be() {
    let no = said("5.1.1", "no");
    let is_whole = |original: &Message| written(original, Action::Failed, &no).1.contains("secret body");
    assert!(is_whole(&simple(" RET=FULL")));
    assert!(!is_whole(&simple("")));
    assert!(!is_whole(&simple(" RET=HDRS")));
    assert!(!is_whole(&simple(" RET=FULL REQUIRETLS")));
    assert!(!is_whole(&simple(" RET=FULL BODY=BINARYMIME")));
    let mut large = simple(" RET=FULL");
    large.content.resize(RETURNED_MESSAGE_BYTES_MAX, b'x');
    assert!(!is_whole(&large));
    let (report, text) = written(&simple(" RET=FULL"), Action::Failed, &no);
    assert!(parts(&text)[2].contains("Content-Type: message/rfc822\r\n"));
    assert!(
        parts(&text)[2]
            .ends_with("Received: from here\r\nSubject: hello\r\nX-Folded: one\r\n two\r\n\r\nsecret body\r\n\r\n")
    );
    assert!(!report.envelope.requires_tls());
    assert!(written(&simple(" REQUIRETLS"), Action::Failed, &no).0.envelope.requires_tls());
}

#[test]
fn what_is_not_ascii_is_declared() {
    let no = said("5.1.1", "no");
    let eight_bit = message(
        "MAIL FROM:<ann@example.org> RET=FULL BODY=8BITMIME",
        &["<bob@example.com>"],
        "Subject: hello\r\n\r\nGrüße\r\n",
    );
    let (report, text) = written(&eight_bit, Action::Failed, &no);
    assert_eq!((report.envelope.body(), report.envelope.smtputf8()), (Body::EightBitMime, false));
    assert!(parts(&text)[2].starts_with("\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n"));

    let international = message(
        "MAIL FROM:<änn@example.org> SMTPUTF8",
        &["<bøb@example.com> ORCPT=utf-8;b\\x{F8}b@example.com", "<eve@example.com>"],
        "Subject: Grüße\r\n\r\nbody\r\n",
    );
    let (report, text) = written(&international, Action::Failed, &no);
    assert_eq!((report.envelope.body(), report.envelope.smtputf8()), (Body::EightBitMime, true));
    let [people, programs, header] = *parts(&text) else { panic!("three parts") };
    assert!(
        people.contains("charset=utf-8") && people.contains("Encoding: 8bit") && people.contains("<bøb@example.com>")
    );
    assert!(programs.contains("message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n"));
    assert!(
        programs.contains("Original-Recipient: utf-8;b\\x{F8}b@example.com\r\nFinal-Recipient: utf-8;bøb@example.com")
    );
    assert!(programs.contains("Final-Recipient: rfc822;eve@example.com"));
    assert!(header.contains("message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n"));
}

#[test]
fn words_of_others_cannot_make_a_field_a_part_or_a_line() {
    let mut evil = said("5.1.1\r\nX-Evil: 1", "no\r\nX-Evil: 2\n--boundary\0é");
    evil.remote = Some("mx\r\nX-Evil: 3".into());
    let original = message(
        "MAIL FROM:<ann@example.org> ENVID=x+0D+0AX-Evil:+204",
        &["<bob@example.com> ORCPT=rfc822;x+0D+0AX-Evil:+205"],
        "Subject: a\rX-Evil: 6\r\n\r\n",
    );
    let (_, text) = written(&original, Action::Failed, &evil);
    for line in text.split(['\r', '\n']) {
        assert!(!line.starts_with("X-Evil"), "{text}");
        assert!(!line.starts_with("--boundary"), "{text}");
    }
    assert!(text.contains("Status: 5.0.0\r\n"));
    assert!(parts(&text)[1].is_ascii());
}

#[test]
fn the_boundary_occurs_in_no_part() {
    let first = format!("=_{}_0", circumstances().id);
    let original =
        message("MAIL FROM:<ann@example.org> RET=FULL", &["<bob@example.com>"], &format!("A: b\r\n\r\n--{first}\r\n"));
    let (_, text) = written(&original, Action::Failed, &said("5.1.1", "no"));
    assert!(text.contains(&format!("boundary=\"=_{}_1\"", circumstances().id)));
    assert!(parts(&text)[2].contains(&first));
}

#[test]
fn a_header_that_is_given_back_is_bounded_and_ends_at_a_line() {
    let fields = "X-Long: 0123456789\r\n".repeat(RETURNED_HEADER_BYTES_MAX / 10);
    let original = message("MAIL FROM:<ann@example.org>", &["<bob@example.com>"], &fields);
    let (report, text) = written(&original, Action::Failed, &said("5.1.1", "no"));
    assert!(report.content.len() < RETURNED_HEADER_BYTES_MAX + 4_096);
    assert!(parts(&text)[2].ends_with("X-Long: 0123456789\r\n\r\n"));
}

#[test]
fn a_header_that_is_no_text_is_given_back_as_far_as_it_is() {
    let mut original = simple("");
    original.content.splice(..0, *b"X-Latin: \xe9\r\n");
    let (_, text) = written(&original, Action::Failed, &said("5.1.1", "no"));
    assert!(text.contains("X-Latin: \u{fffd}\r\n"));
}
