//! What records say: their kinds, and how each is written and read.
//!
//! Numbers are little-endian; text and bytes have their length before them. Reading trusts nothing: what is not in order
//! gives `None`.

use std::time::Duration;

use super::{Progress, RecipientState};
use crate::proto::address::Path;
use crate::proto::command::{Body, Mail, Notify, Rcpt, Ret};
use crate::proto::envelope::Envelope;
use crate::proto::message::{Message, MessageId, Pieces};

/// The numbers of the kinds of records. They are on disks: one that is given up is never used again.
pub mod kind {
    /// Nothing: it was taken back before it was written.
    pub const NOTHING: u8 = 0;
    /// A message; what does not fit lies in parts before it.
    pub const MESSAGE: u8 = 1;
    /// A piece of a large message.
    pub const PART: u8 = 2;
    /// How far a message has come.
    pub const PROGRESS: u8 = 3;
    /// Nothing is left to do for a message.
    pub const DONE: u8 = 4;
    /// A token that outlives its message.
    pub const TOKEN: u8 = 5;
    /// A message that does not count, because another one bears its token.
    pub const DISOWNED: u8 = 6;
}

/// A record, read.
#[derive(Debug)]
pub enum Record<'a> {
    /// A message.
    Message(Head<'a>),
    /// A piece of a large message.
    Part {
        /// The message.
        id: MessageId,
        /// Which piece, from 0.
        index: u32,
        /// The piece.
        bytes: &'a [u8],
    },
    /// How far a message has come.
    Progress(Progress),
    /// Nothing is left to do for this message.
    Done(MessageId),
    /// A user's token.
    Token(Token<'a>),
    /// This message does not count, nor does its token.
    Disowned(MessageId),
    /// Taken back before it was written.
    Nothing,
}

/// A message as its record has it. The content is the message's end: all of it, or what follows the parts.
#[derive(Debug)]
pub struct Head<'a> {
    /// The message's name.
    pub id: MessageId,
    /// How many parts there are.
    pub parts: u32,
    /// Bytes of content in the parts.
    pub part_bytes: u64,
    /// Who sent it and to whom.
    pub envelope: Envelope,
    /// The trace header.
    pub trace: &'a [u8],
    /// What follows the parts.
    pub content: &'a [u8],
}

/// A token under which a user submitted a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The message. Its name tells when it arrived.
    pub id: MessageId,
    /// The user.
    pub user: &'a str,
    /// The token as the client wrote it.
    pub token: &'a str,
}

impl Head<'_> {
    /// Bytes of the whole message, trace header included.
    pub fn size(&self) -> u64 {
        self.part_bytes.saturating_add((self.trace.len() + self.content.len()) as u64)
    }

    /// The message without its parts.
    pub fn to_message(&self) -> Box<Message> {
        Box::new(Message {
            id: self.id,
            envelope: self.envelope.clone(),
            trace: self.trace.to_vec(),
            content: self.content.to_vec(),
            pieces: Pieces::NONE,
        })
    }
}

impl<'a> Record<'a> {
    /// Reads a record; `None` if it is not in order.
    pub fn decode(kind: u8, payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let record = match kind {
            kind::NOTHING => return Some(Self::Nothing),
            kind::MESSAGE => Self::Message(reader.head()?),
            kind::PART => Self::Part { id: reader.id()?, index: reader.u32()?, bytes: reader.rest() },
            kind::PROGRESS => Self::Progress(reader.progress()?),
            kind::DONE => Self::Done(reader.id()?),
            kind::TOKEN => Self::Token(Token { id: reader.id()?, user: reader.text()?, token: reader.text()? }),
            kind::DISOWNED => Self::Disowned(reader.id()?),
            _ => return None,
        };
        reader.0.is_empty().then_some(record)
    }
}

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Appends a message of which the first `part_bytes` bytes of content lie in so many parts.
pub fn write_message(message: &Message, parts: u32, part_bytes: u64, content: &[u8], out: &mut Vec<u8>) {
    out.reserve(content.len() + message.trace.len() + message.envelope.capacity() + 64);
    write_id(message.id, out);
    out.extend_from_slice(&parts.to_le_bytes());
    out.extend_from_slice(&part_bytes.to_le_bytes());
    write_envelope(&message.envelope, out);
    write_bytes(&message.trace, out);
    out.extend_from_slice(content);
}

/// Appends a piece of a message.
pub fn write_part(id: MessageId, index: u32, bytes: &[u8], out: &mut Vec<u8>) {
    write_id(id, out);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends the progress of a message.
pub fn write_progress(progress: &Progress, out: &mut Vec<u8>) {
    write_id(progress.message, out);
    out.extend_from_slice(&progress.attempts.to_le_bytes());
    out.extend_from_slice(&u64::try_from(progress.next_attempt.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
    out.push(u8::from(progress.held) | u8::from(progress.warned) << 1);
    write_text(&progress.last_reply, out);
    out.extend_from_slice(&(progress.recipients.len() as u32).to_le_bytes());
    out.extend(progress.recipients.iter().map(|state| match state {
        RecipientState::Waiting => 0,
        RecipientState::Delivered => 1,
        RecipientState::Failed => 2,
    }));
}

/// Appends that nothing is left to do for a message.
pub fn write_done(id: MessageId, out: &mut Vec<u8>) {
    write_id(id, out);
}

/// Appends that a message does not count.
pub fn write_disowned(id: MessageId, out: &mut Vec<u8>) {
    write_id(id, out);
}

/// Appends a token.
pub fn write_token(token: Token<'_>, out: &mut Vec<u8>) {
    write_id(token.id, out);
    write_text(token.user, out);
    write_text(token.token, out);
}

fn write_envelope(envelope: &Envelope, out: &mut Vec<u8>) {
    let body = match envelope.body() {
        Body::SevenBit => 0,
        Body::EightBitMime => 1,
        Body::BinaryMime => 2,
    };
    let ret = match envelope.ret() {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    };
    let flags = [envelope.smtputf8(), envelope.requires_tls()];
    out.extend_from_slice(&[body, ret, flags.iter().rev().fold(0, |all, flag| all << 1 | u8::from(*flag))]);
    write_optional(envelope.declared_size().as_ref(), out, |size, out| out.extend_from_slice(&size.to_le_bytes()));
    write_text(envelope.sender(), out);
    write_text(envelope.user(), out);
    write_optional(envelope.envid().as_ref(), out, |text, out| write_text(text, out));
    write_optional(envelope.once().as_ref(), out, |text, out| write_text(text, out));
    out.extend_from_slice(&(envelope.recipient_count() as u32).to_le_bytes());
    for recipient in envelope.recipients() {
        write_text(recipient.address, out);
        write_optional(recipient.orcpt.as_ref(), out, |text, out| write_text(text, out));
        write_optional(recipient.notify.as_ref(), out, |notify, out| {
            let wishes = [Notify::SUCCESS, Notify::FAILURE, Notify::DELAY];
            out.push(wishes.iter().rev().fold(0, |all, wish| all << 1 | u8::from(notify.wants(*wish))));
        });
    }
}

fn write_optional<T>(value: Option<&T>, out: &mut Vec<u8>, write: impl FnOnce(&T, &mut Vec<u8>)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        write(value, out);
    }
}

fn write_id(id: MessageId, out: &mut Vec<u8>) {
    out.extend_from_slice(id.as_str().as_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_bytes(text.as_bytes(), out);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let bytes = self.u32()?;
        self.take(bytes as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn id(&mut self) -> Option<MessageId> {
        const ID_BYTES: usize = 16;
        MessageId::from_text(self.take(ID_BYTES)?)
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.u8()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn head(&mut self) -> Option<Head<'a>> {
        Some(Head {
            id: self.id()?,
            parts: self.u32()?,
            part_bytes: self.u64()?,
            envelope: self.envelope()?,
            trace: self.bytes()?,
            content: self.rest(),
        })
    }

    fn envelope(&mut self) -> Option<Envelope> {
        let body = match self.u8()? {
            0 => Body::SevenBit,
            1 => Body::EightBitMime,
            2 => Body::BinaryMime,
            _ => return None,
        };
        let ret = match self.u8()? {
            0 => None,
            1 => Some(Ret::Full),
            2 => Some(Ret::Headers),
            _ => return None,
        };
        let flags = self.u8()?;
        let size = self.optional(Self::u64)?;
        let path = Path { address: self.text()? };
        let user = self.text()?;
        let envid = self.optional(Self::text)?;
        let once = self.optional(Self::text)?;
        let (smtputf8, requires_tls) = (flags & 1 != 0, flags & 2 != 0);
        let mut envelope = Envelope::default();
        envelope.begin(&Mail { path, size, body, smtputf8, ret, envid, once, requires_tls, extended: true }, user);
        for _ in 0..self.u32()? {
            self.recipient(&mut envelope)?;
        }
        Some(envelope)
    }

    fn recipient(&mut self, envelope: &mut Envelope) -> Option<()> {
        let path = Path { address: self.text()? };
        let orcpt = self.optional(Self::text)?;
        let notify = self.optional(Self::u8)?.map(|wishes| {
            let all = [Notify::SUCCESS, Notify::FAILURE, Notify::DELAY];
            let wanted = (0..).zip(all).filter(|(bit, _)| wishes & 1 << bit != 0);
            wanted.fold(Notify::NEVER, |wishes, (_, wish)| wishes.with(wish))
        });
        envelope.add(&Rcpt { path, notify, orcpt, extended: true });
        Some(())
    }

    fn progress(&mut self) -> Option<Progress> {
        let (message, attempts) = (self.id()?, self.u32()?);
        let next_attempt = Duration::from_micros(self.u64()?);
        let flags = self.u8()?;
        let last_reply = self.text()?.to_owned();
        let count = self.u32()? as usize;
        let recipients = self.take(count)?.iter().map(|state| match state {
            0 => Some(RecipientState::Waiting),
            1 => Some(RecipientState::Delivered),
            2 => Some(RecipientState::Failed),
            _ => None,
        });
        let recipients = recipients.collect::<Option<_>>()?;
        let (held, warned) = (flags & 1 != 0, flags & 2 != 0);
        Some(Progress { message, recipients, attempts, next_attempt, held, warned, last_reply })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        Record, Token, kind, write_disowned, write_done, write_message, write_part, write_progress, write_token,
    };
    use crate::proto::envelope::Envelope;
    use crate::proto::message::{Message, MessageId};
    use crate::spool::tests::message;
    use crate::spool::{Progress, RecipientState};

    fn id() -> MessageId {
        MessageId::new(Duration::from_secs(1_800_000_000), 3, 9)
    }

    fn progress() -> Progress {
        Progress {
            message: id(),
            recipients: vec![RecipientState::Waiting, RecipientState::Delivered, RecipientState::Failed],
            attempts: 7,
            next_attempt: Duration::from_micros(1_800_000_000_123_456),
            held: true,
            warned: false,
            last_reply: "451 4.3.0 später".to_owned(),
        }
    }

    fn full_message() -> Message {
        let mail = "MAIL FROM:<a@b.example> SIZE=9 BODY=BINARYMIME RET=HDRS ENVID=e+2B1 SMTPUTF8 XONCE=t1 REQUIRETLS";
        let recipients = [
            "RCPT TO:<ü@d.example> ORCPT=rfc822;e@f NOTIFY=SUCCESS,DELAY",
            "RCPT TO:<x@y> NOTIFY=NEVER",
            "RCPT TO:<g@h>",
        ];
        let mut message = message(mail, &recipients, b"content\0\xff");
        message.id = id();
        message
    }

    fn facts(envelope: &Envelope) -> String {
        let of_mail = (
            (envelope.sender(), envelope.user(), envelope.envid(), envelope.once(), envelope.requires_tls()),
            (envelope.ret(), envelope.body(), envelope.smtputf8(), envelope.declared_size()),
        );
        format!("{of_mail:?} {:?}", envelope.recipients().collect::<Vec<_>>())
    }

    /// All kinds, as payloads.
    fn payloads() -> Vec<(u8, Vec<u8>)> {
        let write = |kind, write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            (kind, out)
        };
        vec![
            write(kind::MESSAGE, &|out| write_message(&full_message(), 2, 512, &full_message().content, out)),
            write(kind::PART, &|out| write_part(id(), 1, b"piece", out)),
            write(kind::PROGRESS, &|out| write_progress(&progress(), out)),
            write(kind::DONE, &|out| write_done(id(), out)),
            write(kind::TOKEN, &|out| write_token(Token { id: id(), user: "ann", token: "t1" }, out)),
            write(kind::DISOWNED, &|out| write_disowned(id(), out)),
        ]
    }

    #[test]
    fn every_kind_is_read_back_as_it_was_written() {
        let payloads = payloads();
        let read = |at: usize| Record::decode(payloads[at].0, &payloads[at].1).unwrap();
        let Record::Message(head) = read(0) else { panic!() };
        let original = full_message();
        assert_eq!((head.id, head.parts, head.part_bytes), (id(), 2, 512));
        assert_eq!(facts(&head.envelope), facts(&original.envelope));
        assert_eq!((head.trace, head.content), (&original.trace[..], &original.content[..]));
        assert!(matches!(read(1), Record::Part { id: of, index: 1, bytes: b"piece" } if of == id()));
        assert!(matches!(read(2), Record::Progress(found) if found == progress()));
        assert!(matches!(read(3), Record::Done(of) if of == id()));
        assert!(matches!(read(4), Record::Token(Token { user: "ann", token: "t1", .. })));
        assert!(matches!(read(5), Record::Disowned(of) if of == id()));
    }

    #[test]
    fn a_record_cut_anywhere_or_of_no_known_kind_is_not_read() {
        for (number, payload) in payloads() {
            // The last field of these two is whatever is left.
            let shortest = if [kind::MESSAGE, kind::PART].contains(&number) { 20 } else { payload.len() };
            for end in 0..shortest {
                assert!(Record::decode(number, &payload[..end]).is_none(), "kind {number} cut at {end}");
            }
            assert!(Record::decode(99, &payload).is_none());
        }
    }

    #[test]
    fn a_message_that_says_it_is_larger_than_anything_has_a_size() {
        let mut payload = Vec::new();
        write_message(&full_message(), 2, u64::MAX, b"rest", &mut payload);
        let Some(Record::Message(head)) = Record::decode(kind::MESSAGE, &payload) else { panic!() };
        assert_eq!(head.size(), u64::MAX);
    }

    #[test]
    fn bytes_behind_a_record_make_it_none() {
        for (kind, mut payload) in payloads().into_iter().skip(2) {
            payload.push(0);
            assert!(Record::decode(kind, &payload).is_none(), "kind {kind}");
        }
    }

    #[test]
    fn nonsense_never_panics() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (kind, mut payload) = payloads().swap_remove((state >> 33) as usize % 6);
            let at = (state >> 40) as usize % payload.len();
            payload[at] = (state >> 20) as u8;
            let _ = Record::decode(kind, &payload);
        }
    }
}
