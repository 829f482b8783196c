//! Reports to senders, read back by a MIME reader that is not ours: Python's `email` package.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::Write;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use onetrip::proto::command::{Command, parse};
use onetrip::proto::message::{Message, MessageId};
use onetrip::relay::bounce::{Action, Circumstances, Told, report};
use onetrip::relay::outcome::Reason;
use onetrip::time::Now;
use serde_json::{Value, json};

/// Reads a message and says what it found in it.
const READER: &str = r#"
import email, email.policy, json, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTPUTF8)
def walk(part):
    return [p for p in part.iter_parts()] if part.is_multipart() else []
parts = walk(message)
status = parts[1].get_payload()
if parts[1].get_content_type() == 'message/global-delivery-status':
    # This reader knows only the older form; to it the blocks after the first are a body.
    blocks = status[0].as_bytes().decode('utf-8').replace('\r\n', '\n').split('\n\n')
    status = [email.message_from_string(block) for block in blocks if block]
fields = [[f"{name}: {value}" for name, value in block.items()] for block in status]
last = parts[2]
if last.get_content_maintype() == 'message':
    inner = last.get_payload(0)
    body = inner.get_payload(decode=True).decode('utf-8')
    returned = [str(inner['Subject']), body or None]
else:
    inner = email.message_from_bytes(last.get_payload(decode=True), policy=email.policy.SMTPUTF8)
    returned = [str(inner['Subject']), None]
defects = [str(d) for p in message.walk() for d in p.defects]
print(json.dumps({
    'type': message.get_content_type(), 'report': message.get_param('report-type'),
    'to': str(message['To']), 'auto': str(message['Auto-Submitted']), 'defects': defects,
    'types': [p.get_content_type() for p in parts], 'text': parts[0].get_content(),
    'fields': fields, 'returned': returned,
}))
"#;

fn original(mail: &str, recipients: &[&str], content: &str) -> Message {
    let mut message = Message { id: MessageId::new(Now::simulated_ms(0).unix, 0, 1), ..Message::default() };
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

fn read_back(original: &Message, action: Action, reason: &Reason) -> Option<Value> {
    let count = u32::try_from(original.envelope.recipient_count()).unwrap();
    let told: Vec<_> = (0..count).map(|recipient| Told { recipient, action, reason }).collect();
    let now = Now::simulated_ms(7_000);
    let id = MessageId::new(now.unix, 0, 2);
    let time_left = Some(Duration::from_secs(7_200));
    let report = report(original, &told, &Circumstances { id, host_name: "mail.example.net", now, time_left });
    let mut python =
        Process::new("python3").args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    python.stdin.take().unwrap().write_all(&report.content).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&report.content));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn no_such_user() -> Reason {
    let (status, text) = ("5.1.1".into(), "550 5.1.1 no such user".into());
    Reason { status, text, remote: Some("mx.example.com".into()), passes_dsn: false }
}

#[test]
fn a_failure_with_the_whole_message_is_read_back() {
    let original = original(
        "MAIL FROM:<ann@example.org> RET=FULL ENVID=e1 BODY=8BITMIME",
        &["<bob@example.com> ORCPT=rfc822;robert@example.com", "<eve@example.com>"],
        "Subject: hello\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n",
    );
    let Some(read) = read_back(&original, Action::Failed, &no_such_user()) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    assert_eq!(read["type"], "multipart/report");
    assert_eq!(read["report"], "delivery-status");
    assert_eq!(read["to"], "ann@example.org");
    assert_eq!(read["auto"], "auto-replied");
    assert_eq!(read["defects"], json!([]));
    assert_eq!(read["types"], json!(["text/plain", "message/delivery-status", "message/rfc822"]));
    assert!(read["text"].as_str().unwrap().contains("<bob@example.com>: 550 5.1.1 no such user"));
    let blocks = read["fields"].as_array().unwrap();
    assert_eq!(blocks.len(), 3, "one for the message, one for each recipient: {blocks:?}");
    assert_eq!(blocks[0][0], "Original-Envelope-Id: e1");
    assert_eq!(blocks[1][0], "Original-Recipient: rfc822;robert@example.com");
    assert_eq!(blocks[2][0], "Final-Recipient: rfc822;eve@example.com");
    assert_eq!(read["returned"], json!(["hello", "Grüße\r\n"]));
}

#[test]
fn a_delay_with_the_header_is_read_back() {
    let original = original("MAIL FROM:<ann@example.org>", &["<bob@example.com>"], "Subject: hello\r\n\r\nbody\r\n");
    let Some(read) = read_back(&original, Action::Delayed, &no_such_user()) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    assert_eq!(read["types"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]));
    assert_eq!(read["defects"], json!([]));
    assert_eq!(read["returned"], json!(["hello", null]));
}

#[test]
fn a_report_on_international_mail_is_read_back() {
    let original =
        original("MAIL FROM:<änn@example.org> SMTPUTF8", &["<bøb@example.com>"], "Subject: Grüße\r\n\r\nbody\r\n");
    let Some(read) = read_back(&original, Action::Failed, &no_such_user()) else {
        eprintln!("skipped: there is no python3");
        return;
    };
    assert_eq!(read["types"], json!(["text/plain", "message/global-delivery-status", "message/global-headers"]));
    assert!(read["text"].as_str().unwrap().contains("<bøb@example.com>"));
    assert!(read["fields"].to_string().contains("Final-Recipient: utf-8;bøb@example.com"), "{read}");
}
