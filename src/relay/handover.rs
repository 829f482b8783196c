//! Handing a message over to the next hop: what is said to it, and what its answers mean for each recipient.
//!
//! It turns a stored message into one for the client core, and the client core's verdicts into outcomes. It must not decide
//! when something is tried again, and touches no connection.

use data_encoding::BASE64URL_NOPAD;
use ring::digest;

use super::outcome::{AttemptResult, Hop, Outcome, Reason};
use crate::limits::LAST_REPLY_BYTES_MAX;
use crate::proto::client::{self, Address, Content, EightBit, Failure, Notify, Recipient, Return, Verdict, Xtext};
use crate::proto::command::{self, Body, Ret};
use crate::proto::envelope;
use crate::proto::message::Message;
use crate::proto::reply_reader::Reply;

/// On which terms messages are handed over to one hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The hop's name, for whoever reads a report.
    pub hop: Box<str>,
    /// This server's name: a part of every token, so that those of two servers never meet.
    pub host_name: Box<str>,
    /// Whether TLS is used and the hop's certificate is verified, as messages with REQUIRETLS demand (RFC 8689 §4.2.1).
    pub verified_tls: bool,
}

/// Is a message sent to nobody when one recipient is refused?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomicity {
    /// Each recipient has an outcome of its own.
    EachForItself,
    /// All or none, at the price of a round trip where there are several.
    AllOrNone,
}

/// A message made ready for a hop.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// What the client core sends; `None` if nobody is left to send it to.
    pub message: Option<client::Message>,
    /// The recipients in it, by their numbers in the envelope.
    pub recipients: Vec<u32>,
    /// Recipients who cannot have it, whatever the hop says.
    pub hopeless: Vec<(u32, Outcome)>,
}

/// What one conversation with a hop came to.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// One verdict for each recipient of the parcel.
    pub verdicts: Vec<Verdict>,
    /// Why the conversation ended, if it did.
    pub failure: Option<Failure>,
    /// Whether the hop had agreed to take messages before that.
    pub confirmed: bool,
    /// Whether the hop takes over the duty to notify (RFC 3461 §5.2.2).
    pub offers_dsn: bool,
    /// Whether the hop takes each message that bears a token once.
    pub offers_once: bool,
}

/// Makes a message ready for these of its recipients, who are given by their numbers in the envelope.
///
/// The bytes are copied once. Recipients whose numbers the envelope does not have are left out.
pub fn pack(message: &Message, recipients: &[u32], atomicity: Atomicity, terms: &Terms) -> Parcel {
    let mut parcel = Parcel { message: None, recipients: Vec::with_capacity(recipients.len()), hopeless: Vec::new() };
    let mut addressed = Vec::with_capacity(recipients.len());
    let all: Vec<envelope::Recipient<'_>> = message.envelope.recipients().collect();
    for number in recipients {
        let Some(recipient) = usize::try_from(*number).ok().and_then(|index| all.get(index)) else { continue };
        match Address::parse(recipient.address) {
            Ok(address) => {
                addressed.push(with_wishes(Recipient::new(address), recipient));
                parcel.recipients.push(*number);
            }
            Err(_) => parcel.hopeless.push((*number, Outcome::Failed(ours("5.1.3", "the address cannot be sent")))),
        }
    }
    let all_or_none_is_none = atomicity == Atomicity::AllOrNone && !parcel.hopeless.is_empty();
    if !addressed.is_empty() && !all_or_none_is_none {
        match outgoing(message, addressed, atomicity, terms) {
            Ok(outgoing) => parcel.message = Some(outgoing),
            Err(reason) => {
                let failed = parcel.recipients.drain(..).map(|number| (number, Outcome::Failed(reason.clone())));
                parcel.hopeless.extend(failed);
            }
        }
    }
    parcel
}

fn with_wishes(mut to: Recipient, from: &envelope::Recipient<'_>) -> Recipient {
    to.notify = from.notify.map(|wishes| Notify {
        success: wishes.wants(command::Notify::SUCCESS),
        failure: wishes.wants(command::Notify::FAILURE),
        delay: wishes.wants(command::Notify::DELAY),
    });
    to.original = from.orcpt.and_then(|original| Xtext::encoded_original(original).ok());
    to
}

fn outgoing(
    message: &Message,
    recipients: Vec<Recipient>,
    atomicity: Atomicity,
    terms: &Terms,
) -> Result<client::Message, Reason> {
    let envelope = &message.envelope;
    if envelope.requires_tls() && !terms.verified_tls {
        return Err(unsent(&Failure::RequireTlsNotOffered));
    }
    let sender = match envelope.sender() {
        "" => Address::null(),
        sender => Address::parse(sender).map_err(|_| ours("5.1.7", "the sender's address cannot be sent"))?,
    };
    let mut bytes = Vec::with_capacity(message.trace.len() + message.content.len());
    bytes.extend_from_slice(&message.trace);
    bytes.extend_from_slice(&message.content);
    let utf8_header = envelope.smtputf8() && !header_of(&bytes).is_ascii();
    let content = match envelope.body() {
        Body::BinaryMime => Content::binary(bytes),
        // What is stored keeps to CRLF. It is looked at again, because a line that ends otherwise could smuggle a message.
        Body::SevenBit | Body::EightBitMime => {
            Content::new(bytes).map_err(|_| ours("5.6.0", "the message has a bare CR or LF"))?
        }
    };
    let several = recipients.len() > 1;
    let mut outgoing = client::Message::new(sender, recipients, content);
    outgoing.all_or_nothing = atomicity == Atomicity::AllOrNone && several;
    outgoing.utf8_header = utf8_header;
    outgoing.return_content = envelope.ret().map(|ret| match ret {
        Ret::Full => Return::Full,
        Ret::Headers => Return::Headers,
    });
    outgoing.envelope_id = envelope.envid().and_then(|id| Xtext::encoded_envelope_id(id).ok());
    outgoing.once = token(message, terms);
    outgoing.eight_bit = EightBit::Refuse;
    outgoing.requires_tls = envelope.requires_tls();
    Ok(outgoing)
}

/// Everything before the first empty line.
fn header_of(bytes: &[u8]) -> &[u8] {
    memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes, |end| &bytes[..end])
}

/// The name under which a hop takes this message once. It is the same in every attempt and for whichever recipients: the hop
/// takes it for those whom it accepts, so the message for others is another one to it.
fn token(message: &Message, terms: &Terms) -> Option<Xtext> {
    let host = digest::digest(&digest::SHA256, terms.host_name.as_bytes());
    let host = BASE64URL_NOPAD.encode(&host.as_ref()[..TOKEN_DIGEST_BYTES]);
    Xtext::once_token(&format!("{}.{host}", message.id)).ok()
}

// ── What the answers mean ───────────────────────────────────────────────────────────────────────────────────────────

/// What became of each recipient, and whether there was anybody.
pub fn judge(parcel: &Parcel, answers: &Answers, terms: &Terms) -> AttemptResult {
    let outcomes = parcel
        .recipients
        .iter()
        .zip(&answers.verdicts)
        .map(|(number, verdict)| (*number, outcome(verdict, answers.offers_dsn, terms)));
    AttemptResult { outcomes: outcomes.chain(parcel.hopeless.iter().cloned()).collect(), hop: hop(answers, terms) }
}

/// Nobody could be talked to: every recipient waits, and so does the hop.
pub fn unreachable(parcel: &Parcel, status: &str, words: &str) -> AttemptResult {
    let reason = ours(status, words);
    let deferred = parcel.recipients.iter().map(|number| (*number, Outcome::Deferred(reason.clone())));
    AttemptResult {
        outcomes: deferred.chain(parcel.hopeless.iter().cloned()).collect(),
        hop: Hop::Unreachable(reason.clone()),
    }
}

/// Nobody had to be talked to: none of the recipients can have the message.
pub fn unasked(parcel: Parcel) -> AttemptResult {
    AttemptResult { outcomes: parcel.hopeless, hop: Hop::Unasked }
}

/// A hop that breaks off in the middle of one message is there; only what happens before the first message, and 421, are
/// about the hop itself.
fn hop(answers: &Answers, terms: &Terms) -> Hop {
    match &answers.failure {
        Some(Failure::TryLater(reply)) => Hop::Unreachable(theirs(reply, terms)),
        Some(failure) if !answers.confirmed => Hop::Unreachable(failed(failure, terms)),
        _ => Hop::Reached,
    }
}

fn outcome(verdict: &Verdict, offers_dsn: bool, terms: &Terms) -> Outcome {
    match verdict {
        Verdict::Accepted(reply) => Outcome::Delivered(Reason { passes_dsn: offers_dsn, ..theirs(reply, terms) }),
        Verdict::Refused(reply) => Outcome::Failed(theirs(reply, terms)),
        Verdict::Deferred(reply) => Outcome::Deferred(theirs(reply, terms)),
        Verdict::Uncertain => {
            Outcome::Deferred(ours("4.4.2", "the message was sent, and the connection ended before the answer"))
        }
        Verdict::Unsent(failure) if is_about_the_message(failure) => Outcome::Failed(unsent(failure)),
        Verdict::Unsent(failure) => Outcome::Deferred(failed(failure, terms)),
    }
}

/// Will the hop never take this message, while it may take others?
fn is_about_the_message(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::TooLarge { .. }
            | Failure::Smtputf8NotOffered
            | Failure::EightBitMimeNotOffered
            | Failure::BinaryMimeNotOffered
            | Failure::RequireTlsNotOffered
    )
}

/// The statuses of RFC 3463 and its additions that RFC 1870, 3030, 6152, 6531 and 8689 name.
fn unsent(failure: &Failure) -> Reason {
    let status = match failure {
        Failure::TooLarge { .. } => "5.3.4",
        Failure::Smtputf8NotOffered => "5.6.7",
        Failure::EightBitMimeNotOffered => "5.6.3",
        Failure::BinaryMimeNotOffered => "5.6.1",
        Failure::RequireTlsNotOffered => "5.7.30",
        _ => "5.0.0",
    };
    ours(status, &failure.to_string())
}

/// A failure of the conversation. All of them may pass: even a refused password is a matter between operators, and no
/// reason to return mail.
fn failed(failure: &Failure, terms: &Terms) -> Reason {
    let status = match failure {
        Failure::TryLater(reply)
        | Failure::Refused(reply)
        | Failure::TlsUnavailable(reply)
        | Failure::LoginRefused(reply)
        | Failure::LoginDeferred(reply)
        | Failure::Unexpected(reply) => {
            let said = theirs(reply, terms);
            // What is final for the conversation is not for the message.
            let status = match failure {
                _ if reply.is_transient() => said.status,
                Failure::LoginRefused(_) => "4.7.8".into(),
                _ => "4.3.0".into(),
            };
            return Reason { status, ..said };
        }
        Failure::TlsNotOffered | Failure::Tls(_) => "4.7.5",
        Failure::LoginNotOffered => "4.7.0",
        Failure::TooManyRecipients { .. } => "4.5.3",
        Failure::AllOrNothing => "4.5.0",
        Failure::Protocol(_) => "4.5.0",
        _ => "4.4.2",
    };
    ours(status, &failure.to_string())
}

/// Words of ours.
fn ours(status: &str, words: &str) -> Reason {
    Reason { status: status.into(), text: bounded(words.to_owned()), remote: None, passes_dsn: false }
}

/// A reply of the hop's.
fn theirs(reply: &Reply, terms: &Terms) -> Reason {
    let status = match reply.enhanced() {
        Some((class, subject, detail)) => format!("{class}.{subject}.{detail}"),
        None => format!("{}.0.0", reply.code() / 100),
    };
    Reason {
        status: status.into(),
        text: bounded(reply.to_string()),
        remote: Some(terms.hop.clone()),
        passes_dsn: false,
    }
}

fn bounded(mut text: String) -> Box<str> {
    let end = (0..=text.len().min(LAST_REPLY_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text.into()
}

/// Of the digest in a token: so many bytes never meet by chance.
const TOKEN_DIGEST_BYTES: usize = 15;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Answers, Atomicity, Parcel, Terms, judge, pack, unreachable};
    use crate::proto::client::{Capabilities, Failure, Verdict};
    use crate::proto::command::{Command, parse};
    use crate::proto::message::{Message, MessageId};
    use crate::proto::reply_reader::Reply;
    use crate::relay::outcome::{Hop, Outcome, Reason};

    fn terms() -> Terms {
        Terms { hop: "mx.example.net".into(), host_name: "mail.example.org".into(), verified_tls: true }
    }

    fn message(mail: &str, recipients: &[&str], content: &[u8]) -> Message {
        let mut message = Message::default();
        let Ok(Command::Mail(mail)) = parse(mail.as_bytes()).command else { panic!("{mail}") };
        message.envelope.begin(&mail, "ann");
        for rcpt in recipients {
            let line = format!("RCPT TO:{rcpt}");
            let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!("{line}") };
            message.envelope.add(&rcpt);
        }
        message.trace.extend_from_slice(b"Received: by x\r\n");
        message.content.extend_from_slice(content);
        message
    }

    fn packed(mail: &str, recipients: &[&str], content: &[u8]) -> Parcel {
        let numbers: Vec<u32> = (0..recipients.len() as u32).collect();
        pack(&message(mail, recipients, content), &numbers, Atomicity::EachForItself, &terms())
    }

    fn status(outcome: &Outcome) -> (&'static str, &str) {
        match outcome {
            Outcome::Delivered(reason) => ("delivered", &reason.status),
            Outcome::Deferred(reason) => ("deferred", &reason.status),
            Outcome::Failed(reason) => ("failed", &reason.status),
        }
    }

    fn answers(verdicts: Vec<Verdict>) -> Answers {
        Answers { verdicts, failure: None, confirmed: true, offers_dsn: false, offers_once: false }
    }

    #[test]
    fn a_message_is_handed_over_whole_with_all_that_was_wished_for_it() {
        let mail = "MAIL FROM:<a@b> ENVID=e+2B1 RET=HDRS";
        let parcel =
            packed(mail, &["<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@z", "<g@h>"], b"Subject: x\r\n\r\nx\r\n");
        let sent = parcel.message.unwrap();
        assert_eq!(sent.content.as_bytes(), b"Received: by x\r\nSubject: x\r\n\r\nx\r\n");
        let all = Capabilities::from_lines(["DSN", "SIZE"].into_iter());
        assert_eq!(sent.command(&all), "MAIL FROM:<a@b> SIZE=33 RET=HDRS ENVID=e+2B1");
        let recipients: Vec<String> = sent.recipients.iter().map(|recipient| recipient.command(&all)).collect();
        assert_eq!(recipients, ["RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@z", "RCPT TO:<g@h>"]);
        assert_eq!((parcel.recipients, parcel.hopeless), (vec![0, 1], Vec::new()));
        assert!(packed("MAIL FROM:<>", &["<c@d>"], b"").message.unwrap().sender.as_str().is_empty());
    }

    #[test]
    fn a_message_has_one_token_for_whomever_it_is_sent_and_another_one_from_another_server() {
        let mut message = message("MAIL FROM:<a@b>", &["<c@d>", "<e@f>", "<\"a b\"@d>"], b"x\r\n");
        let once = Capabilities::from_lines(["XONCE"].into_iter());
        let mail = |message: &Message, recipients: &[u32], terms: &Terms| {
            pack(message, recipients, Atomicity::EachForItself, terms).message.unwrap().command(&once)
        };
        let first = mail(&message, &[0, 1], &terms());
        assert!(first.starts_with("MAIL FROM:<a@b> XONCE=0000000000000000."), "{first}");
        for recipients in [&[0, 1][..], &[0], &[1], &[0, 1, 2]] {
            let elsewhere = Terms { hop: "mx.example.com".into(), ..terms() };
            assert_eq!(mail(&message, recipients, &elsewhere), first, "{recipients:?}");
        }
        let from_another = Terms { host_name: "other.example.org".into(), ..terms() };
        assert_ne!(mail(&message, &[0, 1], &from_another), first);
        message.id = MessageId::new(Duration::ZERO, 0, 1);
        assert_ne!(mail(&message, &[0, 1], &terms()), first);
    }

    #[test]
    fn utf8_in_the_header_needs_smtputf8_only_if_it_was_asked_for() {
        let eight_bit_mime = Capabilities::from_lines(["8BITMIME"].into_iter());
        let objection = |mail: &str, content: &str| {
            packed(mail, &["<c@d>"], content.as_bytes()).message.unwrap().objection(&eight_bit_mime)
        };
        let in_header = "Subject: ü\r\n\r\nx\r\n";
        assert_eq!(objection("MAIL FROM:<a@b> SMTPUTF8", in_header), Some(Failure::Smtputf8NotOffered));
        assert_eq!(objection("MAIL FROM:<a@b>", in_header), None, "8-bit bytes as they ever were");
        assert_eq!(
            objection("MAIL FROM:<a@b> SMTPUTF8", "Subject: x\r\n\r\nü\r\n"),
            None,
            "the body needs 8BITMIME only"
        );
    }

    #[test]
    fn what_cannot_be_sent_at_all_is_hopeless_and_the_rest_goes_out() {
        let requires = message("MAIL FROM:<a@b> REQUIRETLS", &["<c@d>"], b"x\r\n");
        let unverified = Terms { verified_tls: false, ..terms() };
        let parcel = pack(&requires, &[0], Atomicity::EachForItself, &unverified);
        assert!(parcel.message.is_none());
        assert_eq!(status(&parcel.hopeless[0].1), ("failed", "5.7.30"));
        assert!(pack(&requires, &[0], Atomicity::EachForItself, &terms()).message.is_some());

        let parcel = packed("MAIL FROM:<a@b>", &["<c@d>", "<\"a b\"@d>"], b"bare\nnewline\r\n");
        assert!(parcel.message.is_none());
        assert_eq!(parcel.hopeless.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(status(&parcel.hopeless[1].1), ("failed", "5.6.0"));
        let binary = packed("MAIL FROM:<a@b> BODY=BINARYMIME", &["<c@d>"], b"bare\nnewline");
        assert_eq!(binary.message.unwrap().objection(&Capabilities::default()), Some(Failure::BinaryMimeNotOffered));
    }

    #[test]
    fn several_recipients_are_all_or_nothing_only_where_that_is_asked_for() {
        let two = message("MAIL FROM:<a@b>", &["<c@d>", "<e@f>"], b"x\r\n");
        let all_or_nothing =
            |recipients: &[u32], atomicity| pack(&two, recipients, atomicity, &terms()).message.unwrap().all_or_nothing;
        assert!(all_or_nothing(&[0, 1], Atomicity::AllOrNone));
        assert!(!all_or_nothing(&[1], Atomicity::AllOrNone), "it costs a round trip");
        assert!(!all_or_nothing(&[0, 1], Atomicity::EachForItself));
    }

    #[test]
    fn each_verdict_is_an_outcome_with_status_words_and_the_one_who_said_them() {
        let parcel = packed("MAIL FROM:<a@b>", &["<a@d>", "<b@d>", "<c@d>", "<d@d>", "<e@d>"], b"x\r\n");
        let verdicts = vec![
            Verdict::Accepted(Reply::new(250, "2.6.0 taken")),
            Verdict::Refused(Reply::new(550, "5.1.1 no such user")),
            Verdict::Refused(Reply::new(550, "no such user")),
            Verdict::Deferred(Reply::new(450, "4.2.1 later")),
            Verdict::Uncertain,
        ];
        let result = judge(&parcel, &Answers { offers_dsn: true, ..answers(verdicts) }, &terms());
        assert_eq!(result.hop, Hop::Reached);
        let statuses: Vec<_> = result.outcomes.iter().map(|(_, outcome)| status(outcome)).collect();
        let expected = [
            ("delivered", "2.6.0"),
            ("failed", "5.1.1"),
            ("failed", "5.0.0"),
            ("deferred", "4.2.1"),
            ("deferred", "4.4.2"),
        ];
        assert_eq!(statuses, expected);
        let reason = |status: &str, text: &str, passes_dsn| Reason {
            status: status.into(),
            text: text.into(),
            remote: Some("mx.example.net".into()),
            passes_dsn,
        };
        assert_eq!(result.outcomes[0].1, Outcome::Delivered(reason("2.6.0", "250 2.6.0 taken", true)));
        assert_eq!(result.outcomes[1].1, Outcome::Failed(reason("5.1.1", "550 5.1.1 no such user", false)));
    }

    #[test]
    fn what_a_hop_cannot_take_fails_with_the_status_of_its_rfc() {
        let parcel = packed("MAIL FROM:<a@b>", &["<c@d>"], b"x\r\n");
        for (failure, expected) in [
            (Failure::TooLarge { limit: 1 }, "5.3.4"),
            (Failure::Smtputf8NotOffered, "5.6.7"),
            (Failure::EightBitMimeNotOffered, "5.6.3"),
            (Failure::BinaryMimeNotOffered, "5.6.1"),
            (Failure::RequireTlsNotOffered, "5.7.30"),
        ] {
            let result = judge(&parcel, &answers(vec![Verdict::Unsent(failure)]), &terms());
            assert_eq!((status(&result.outcomes[0].1), &result.hop), (("failed", expected), &Hop::Reached));
        }
    }

    #[test]
    fn a_hop_that_serves_nobody_is_unreachable_and_its_messages_wait() {
        let parcel = packed("MAIL FROM:<a@b>", &["<c@d>"], b"x\r\n");
        for (failure, confirmed, expected) in [
            (Failure::TryLater(Reply::new(421, "4.3.2 stopping")), true, Some("4.3.2")),
            (Failure::Refused(Reply::new(554, "go away")), false, Some("4.3.0")),
            (Failure::TlsNotOffered, false, Some("4.7.5")),
            (Failure::Tls("certificate".to_owned()), false, Some("4.7.5")),
            (Failure::LoginRefused(Reply::new(535, "5.7.8 wrong")), false, Some("4.7.8")),
            (Failure::LoginNotOffered, false, Some("4.7.0")),
            (Failure::TimedOut, false, Some("4.4.2")),
            (Failure::Closed, false, Some("4.4.2")),
            (Failure::Closed, true, None),
            (Failure::TimedOut, true, None),
        ] {
            let verdicts = vec![Verdict::Unsent(failure.clone())];
            let result =
                judge(&parcel, &Answers { failure: Some(failure.clone()), confirmed, ..answers(verdicts) }, &terms());
            let said = match &result.hop {
                Hop::Unreachable(reason) => Some(&*reason.status),
                Hop::Reached | Hop::Unasked => None,
            };
            assert_eq!(said, expected, "{failure:?}, confirmed: {confirmed}");
            assert_eq!(status(&result.outcomes[0].1).0, "deferred", "{failure:?}");
        }
        let result = unreachable(&parcel, "4.4.1", "connection refused");
        assert_eq!(status(&result.outcomes[0].1), ("deferred", "4.4.1"));
        assert!(matches!(result.hop, Hop::Unreachable(_)));
    }

    #[test]
    fn a_reply_without_end_is_cut() {
        let parcel = packed("MAIL FROM:<a@b>", &["<c@d>"], b"x\r\n");
        let verdicts = vec![Verdict::Refused(Reply::new(550, &"ü".repeat(4_000)))];
        let result = judge(&parcel, &answers(verdicts), &terms());
        let Outcome::Failed(reason) = &result.outcomes[0].1 else { panic!("{result:?}") };
        assert!(reason.text.len() <= crate::limits::LAST_REPLY_BYTES_MAX && reason.text.starts_with("550 ü"));
    }
}
