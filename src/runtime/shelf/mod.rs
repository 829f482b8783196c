//! What `onetrip queue` is answered from: the spool of a stopped server, or the shards of a running one.
//!
//! Here is how a queued message is told of; it is the same in both cases. It must not decide what a request means: that is
//! [`crate::queue::answer`]'s.

mod running;
mod stopped;

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) use self::running::RunningQueue;
pub(super) use self::stopped::StoppedQueue;
use crate::proto::command::{Notify, Ret};
use crate::proto::envelope::Envelope;
use crate::proto::message::{Message, MessageId};
use crate::queue::{Details, HEADER_BYTES_SHOWN_MAX, Item, ItemState, RecipientDetails};
use crate::spool::RecipientState;
use crate::time::Now;

/// What is known of a queued message besides its envelope.
#[derive(Clone, Debug)]
struct Facts {
    message: MessageId,
    bytes: u64,
    state: ItemState,
    /// By number in the envelope; whoever is not named still waits.
    recipients: Vec<RecipientState>,
    destinations: Vec<String>,
    attempts: u32,
    next_attempt: Option<Duration>,
    last_reply: Option<String>,
}

impl Facts {
    fn recipient(&self, number: usize) -> RecipientState {
        self.recipients.get(number).copied().unwrap_or_default()
    }

    /// The message in a list.
    fn item(&self, now: Now, envelope: &Envelope) -> Item {
        let received = self.message.received();
        let recipients = envelope.recipients().enumerate();
        let waiting = recipients.filter(|(number, _)| self.recipient(*number) == RecipientState::Waiting);
        Item {
            message: self.message.to_string(),
            state: self.state,
            received: date(received),
            age_s: now.unix.saturating_sub(received).as_secs(),
            bytes: self.bytes,
            user: envelope.user().to_owned(),
            sender: envelope.sender().to_owned(),
            recipients: waiting.map(|(_, recipient)| recipient.address.to_owned()).collect(),
            recipients_in_all: u32::try_from(envelope.recipient_count()).unwrap_or(u32::MAX),
            destinations: self.destinations.clone(),
            attempts: self.attempts,
            next_attempt: self.next_attempt.map(date),
            last_reply: self.last_reply.clone(),
        }
    }

    /// All about it. `message` need not have all of its content.
    fn details(&self, now: Now, message: &Message) -> Details {
        let envelope = &message.envelope;
        let recipient = |(number, recipient): (usize, crate::proto::envelope::Recipient<'_>)| RecipientDetails {
            address: recipient.address.to_owned(),
            state: state_word(self.recipient(number)).to_owned(),
            orcpt: recipient.orcpt.map(str::to_owned),
            notify: recipient.notify.map(notify_words),
        };
        Details {
            item: self.item(now, envelope),
            envelope: envelope.recipients().enumerate().map(recipient).collect(),
            envid: envelope.envid().map(str::to_owned),
            ret: envelope.ret().map(|ret| if ret == Ret::Full { "FULL" } else { "HDRS" }.to_owned()),
            body: envelope.body().name().to_owned(),
            smtputf8: envelope.smtputf8(),
            requires_tls: envelope.requires_tls(),
            once: envelope.once().map(str::to_owned),
            header: header(message),
        }
    }
}

/// The message as it would be delivered.
fn whole(message: &Message) -> Vec<u8> {
    [message.trace.as_slice(), message.content.as_slice()].concat()
}

/// The header of a message with its trace; what follows the first empty line is left out.
fn header(message: &Message) -> String {
    const END: &[u8] = b"\r\n\r\n";
    let begins_with_body = message.content.starts_with(b"\r\n");
    let end = message.content.windows(END.len()).position(|window| window == END).map(|at| at + 2);
    let of_content = if begins_with_body { 0 } else { end.unwrap_or(message.content.len()) };
    let mut header = [message.trace.as_slice(), &message.content[..of_content]].concat();
    header.truncate(HEADER_BYTES_SHOWN_MAX);
    String::from_utf8_lossy(&header).into_owned()
}

const fn state_word(state: RecipientState) -> &'static str {
    match state {
        RecipientState::Waiting => "waiting",
        RecipientState::Delivered => "delivered",
        RecipientState::Failed => "failed",
    }
}

/// As it stands behind `NOTIFY=` (RFC 3461 §4.1).
fn notify_words(notify: Notify) -> String {
    const WORDS: [(Notify, &str); 3] =
        [(Notify::SUCCESS, "SUCCESS"), (Notify::FAILURE, "FAILURE"), (Notify::DELAY, "DELAY")];
    let wanted: Vec<&str> = WORDS.iter().filter(|(wish, _)| notify.wants(*wish)).map(|(_, word)| *word).collect();
    if wanted.is_empty() { "NEVER".to_owned() } else { wanted.join(",") }
}

/// A moment on the wall clock in UTC, in whole seconds (RFC 3339).
fn date(unix: Duration) -> String {
    let seconds = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok();
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Facts, date, header, notify_words, whole};
    use crate::proto::command::{Command, Notify, parse};
    use crate::proto::envelope::Envelope;
    use crate::proto::message::{Message, MessageId};
    use crate::queue::ItemState;
    use crate::spool::RecipientState;
    use crate::time::Now;

    const NOW: Now = Now::simulated_ms(100_000);

    fn envelope() -> Envelope {
        let mut envelope = Envelope::default();
        let line = b"MAIL FROM:<a@b.example> ENVID=x1 RET=HDRS BODY=8BITMIME XONCE=t1 REQUIRETLS";
        let Ok(Command::Mail(mail)) = parse(line).command else { panic!("no MAIL") };
        envelope.begin(&mail, "ann");
        for line in ["RCPT TO:<c@d.example> NOTIFY=SUCCESS,DELAY", "RCPT TO:<e@f.example> ORCPT=rfc822;g@h"] {
            let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!("no RCPT") };
            envelope.add(&rcpt);
        }
        envelope
    }

    fn facts() -> Facts {
        Facts {
            message: MessageId::new(Now::simulated_ms(10_000).unix, 1, 2),
            bytes: 77,
            state: ItemState::Deferred,
            recipients: vec![RecipientState::Delivered],
            destinations: vec!["relay:mx.example:25".to_owned()],
            attempts: 2,
            next_attempt: Some(Now::simulated_ms(160_000).unix),
            last_reply: Some("450 later".to_owned()),
        }
    }

    fn message(trace: &str, content: &str) -> Message {
        Message { trace: trace.into(), content: content.into(), envelope: envelope(), ..Message::default() }
    }

    #[test]
    fn an_item_names_those_who_still_wait() {
        let item = facts().item(NOW, &envelope());
        assert_eq!((item.recipients, item.recipients_in_all), (vec!["e@f.example".to_owned()], 2));
        assert_eq!((item.age_s, item.bytes, item.attempts), (90, 77, 2));
        assert_eq!((item.user.as_str(), item.sender.as_str()), ("ann", "a@b.example"));
        assert_eq!(item.received, "2026-01-01T00:00:10Z");
        assert_eq!(item.next_attempt.as_deref(), Some("2026-01-01T00:02:40Z"));
    }

    #[test]
    fn details_tell_every_parameter_and_what_became_of_each_recipient() {
        let details = facts().details(NOW, &message("Received: x\r\n", "Subject: y\r\n\r\nbody\r\n"));
        let recipients: Vec<_> =
            details.envelope.iter().map(|one| (one.address.as_str(), one.state.as_str())).collect();
        assert_eq!(recipients, [("c@d.example", "delivered"), ("e@f.example", "waiting")]);
        assert_eq!(details.envelope[0].notify.as_deref(), Some("SUCCESS,DELAY"));
        assert_eq!(details.envelope[1].orcpt.as_deref(), Some("rfc822;g@h"));
        assert_eq!((details.envid.as_deref(), details.ret.as_deref()), (Some("x1"), Some("HDRS")));
        assert_eq!((details.body.as_str(), details.once.as_deref()), ("8BITMIME", Some("t1")));
        assert!(details.requires_tls && !details.smtputf8);
        assert_eq!(details.header, "Received: x\r\nSubject: y\r\n");
    }

    #[test]
    fn a_header_ends_where_the_body_begins_wherever_that_is() {
        for (content, expected) in [
            ("Subject: a\r\n\r\nbody", "Subject: a\r\n"),
            ("Subject: a\r\n", "Subject: a\r\n"),
            ("\r\nbody\r\n\r\nmore", ""),
            ("", ""),
        ] {
            assert_eq!(header(&message("T: t\r\n", content)), format!("T: t\r\n{expected}"), "{content:?}");
        }
        assert_eq!(whole(&message("T: t\r\n", "\r\nbody")), b"T: t\r\n\r\nbody");
        assert!(header(&message("", &"x".repeat(1 << 20))).len() < 1 << 17);
    }

    #[test]
    fn wishes_and_dates_are_written_as_their_rfcs_have_them() {
        assert_eq!(notify_words(Notify::NEVER), "NEVER");
        assert_eq!(notify_words(Notify::FAILURE), "FAILURE");
        assert_eq!(date(Duration::from_millis(1_500)), "1970-01-01T00:00:01Z");
        assert_eq!(date(Duration::MAX), "", "beyond all calendars");
    }
}
