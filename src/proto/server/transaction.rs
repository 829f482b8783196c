//! One message: MAIL, RCPT, DATA or BDAT, and its end (RFC 5321 §3.3, RFC 3030, RFC 6409).
//!
//! A refused message leaves nothing behind: no sender, no recipient, no content. Its remaining octets are read and dropped
//! in the framing in which they come, so that they can never be taken for commands.

use std::mem;

use super::framing::Framing;
use super::state::{Authorized, Chunking, Receiving, Source, State};
use super::{
    Action, ClientInTrace, Finish, HOPS_MAX, KEPT_BUFFER_BYTES_MAX, Outcome, SenderCheck, Server, Stopping, say,
};
use crate::limits::{REFUSED_CHUNK_BYTES_MAX, STREAM_PIECE_BYTES};
use crate::proto::body::{BareNewline, Sink, TextReader};
use crate::proto::command::{Body, Mail, Rcpt};
use crate::proto::message::{Message, Piece, Pieces};
use crate::proto::proof::Committed;
use crate::proto::reply::{self, Foreign, Reply};
use crate::proto::trace::{HeaderFacts, Origin, Protection, with_keyword, write_trace};
use crate::time::Now;

/// Why a message was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFailure {
    /// There is no room (RFC 3463: 4.3.1).
    Full,
    /// Too many messages wait to be stored.
    Busy,
    /// Anything else; an event has told the operator what.
    Fault,
    /// The server to which it was handed through did not take it; its reply is passed on.
    Foreign(Foreign),
}

impl Server {
    pub(super) fn handle_mail(&mut self, now: Now, mail: &Mail<'_>, out: &mut Vec<u8>) {
        let State::Authorized(at) = self.state else {
            self.broken(out);
            return;
        };
        self.mails += 1;
        if self.mails > self.settings.bounds.messages_max {
            self.end_with(reply::TOO_MANY_MESSAGES, Outcome::TooManyMessages, out);
            return;
        }
        if let Some(refusal) = self.refusal_of_sender(mail) {
            self.tally.refuse(refusal);
            self.refuse(refusal, out);
            return;
        }
        let user = self.member.as_ref().map_or("", |member| &member.name);
        self.message.envelope.begin(mail, user);
        self.deadlines.transaction = now.monotonic + self.settings.timeouts.transaction;
        self.state = State::Enveloping(at);
        say(reply::SENDER_OK, out);
    }

    fn refusal_of_sender(&self, mail: &Mail<'_>) -> Option<Reply> {
        let may_use = |address| match self.settings.sender_check {
            SenderCheck::Off => true,
            SenderCheck::Enforced => self.member.as_ref().is_some_and(|member| member.senders.allow(address)),
        };
        match mail {
            _ if mail.path.needs_smtputf8() && !mail.smtputf8 => Some(reply::UTF8_SENDER),
            _ if mail.size.is_some_and(|size| size > self.settings.bounds.message_bytes_max) => {
                Some(reply::MESSAGE_TOO_LARGE)
            }
            _ if !may_use(mail.path.address) => Some(reply::SENDER_NOT_ALLOWED),
            _ => None,
        }
    }

    pub(super) fn handle_rcpt(&mut self, rcpt: &Rcpt<'_>, out: &mut Vec<u8>) {
        let envelope = &mut self.message.envelope;
        if rcpt.path.needs_smtputf8() && !envelope.smtputf8() {
            self.refuse(reply::UTF8_RECIPIENT, out);
        } else if envelope.recipient_count() >= self.settings.bounds.recipients_max as usize {
            // Not an error of the client's: it sends the rest with another message (RFC 5321 §4.5.3.1.10).
            say(reply::TOO_MANY_RECIPIENTS, out);
        } else {
            envelope.add(rcpt);
            say(reply::RECIPIENT_OK, out);
        }
    }

    pub(super) fn handle_rset(&mut self, out: &mut Vec<u8>) {
        self.abandon_transaction();
        say(reply::RESET, out);
    }

    pub(super) fn handle_data(&mut self, out: &mut Vec<u8>) {
        let State::Enveloping(at) = self.state else {
            self.broken(out);
            return;
        };
        if self.message.envelope.recipient_count() == 0 {
            self.refuse(reply::NO_RECIPIENTS, out);
        } else if self.message.envelope.body() == Body::BinaryMime {
            self.refuse(reply::CHUNKS_ONLY, out);
        } else {
            say(reply::START_MESSAGE, out);
            self.receive(at, TextReader::new(self.settings.bare_newline), Source::Dotted);
        }
    }

    pub(super) fn handle_bdat(&mut self, now: Now, size: u64, last: bool, out: &mut Vec<u8>) {
        let (at, reader) = match &self.state {
            State::Enveloping(at) if self.message.envelope.recipient_count() == 0 => {
                let at = *at;
                self.tally.refuse(reply::NO_RECIPIENTS);
                self.forget_transaction();
                self.state = State::Authorized(at);
                self.refuse_chunk(size, reply::NO_RECIPIENTS, out);
                return;
            }
            State::Enveloping(at) => (*at, TextReader::new(self.settings.bare_newline)),
            State::Chunking(chunking) => (chunking.authorized, chunking.reader),
            _ => {
                self.broken(out);
                return;
            }
        };
        if self.message.content_size().saturating_add(size) > self.settings.bounds.message_bytes_max {
            self.tally.refuse(reply::MESSAGE_TOO_LARGE);
            self.forget_transaction();
            self.state = State::Authorized(at);
            self.refuse_chunk(size, reply::MESSAGE_TOO_LARGE, out);
            return;
        }
        self.receive(at, reader, Source::Chunk { left: size, last });
        if size == 0 {
            self.finish_chunk(now, out);
        }
    }

    fn receive(&mut self, authorized: Authorized, reader: TextReader, source: Source) {
        self.framing = Framing::Content;
        self.state = State::Receiving(Receiving { authorized, reader, source, refusal: None });
    }

    // ── Content ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn take_content<'a>(&mut self, now: Now, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let State::Receiving(receiving) = &self.state else {
            self.broken(out);
            return &[];
        };
        let (source, room) = (receiving.source, self.room_in_piece());
        if room == 0 {
            self.ask_to_keep_piece(now);
            return input;
        }
        let next = &input[..room.min(input.len())];
        match source {
            Source::Dotted => {
                let taken = self.take_dotted(now, next, out);
                &input[taken..]
            }
            Source::Chunk { left, .. } => {
                let size = usize::try_from(left).map_or(next.len(), |left| left.min(next.len()));
                let (chunk, rest) = input.split_at(size);
                self.take_chunk(chunk);
                if left == chunk.len() as u64 {
                    self.finish_chunk(now, out);
                }
                rest
            }
        }
    }

    /// Returns how much it took.
    fn take_dotted(&mut self, now: Now, input: &[u8], out: &mut Vec<u8>) -> usize {
        self.make_room(input.len());
        let State::Receiving(receiving) = &mut self.state else {
            return 0;
        };
        let (taken, ended) = match receiving.refusal {
            None => receiving.reader.read_dotted(input, &mut self.message.content),
            Some(_) => receiving.reader.read_dotted(input, &mut Nowhere),
        };
        if ended {
            self.finish_message(now, out);
        }
        taken
    }

    fn take_chunk(&mut self, chunk: &[u8]) {
        self.make_room(chunk.len());
        let State::Receiving(receiving) = &mut self.state else {
            return;
        };
        if let Source::Chunk { left, .. } = &mut receiving.source {
            *left -= chunk.len() as u64;
        }
        match (receiving.refusal, self.message.envelope.body()) {
            (Some(_), _) => {}
            (None, Body::BinaryMime) => self.message.content.extend_from_slice(chunk),
            (None, _) => receiving.reader.read_chunk(chunk, &mut self.message.content),
        }
    }

    /// Makes sure that the content's buffer can take the next input, or decides to refuse the message.
    fn make_room(&mut self, input_bytes: usize) {
        let State::Receiving(receiving) = &mut self.state else {
            return;
        };
        if receiving.refusal.is_some() {
            return;
        }
        let is_too_large = self.message.content_size() > self.settings.bounds.message_bytes_max;
        let content = &mut self.message.content;
        if is_too_large {
            receiving.refusal = Some(reply::MESSAGE_TOO_LARGE);
        } else if !self.room.grow(content, content_bytes_max(input_bytes, self.settings.bare_newline)) {
            receiving.refusal = Some(reply::NO_ROOM);
        }
        if receiving.refusal.is_some() {
            self.drop_content();
        }
    }

    /// Nothing of the content is needed any more.
    fn drop_content(&mut self) {
        self.message.content = Vec::new();
        self.message.pieces = Pieces::NONE;
        self.room.shrink_to(0);
    }

    // ── Pieces ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// How many bytes may be taken before a piece is to be kept.
    fn room_in_piece(&self) -> usize {
        match &self.state {
            State::Receiving(Receiving { refusal: None, .. }) if self.room.resources().takes_pieces() => {
                STREAM_PIECE_BYTES.saturating_sub(self.message.content.len())
            }
            _ => usize::MAX,
        }
    }

    /// The message is large: what has come of it is given to storage before more is taken.
    fn ask_to_keep_piece(&mut self, now: Now) {
        let state = mem::replace(&mut self.state, State::Ended);
        let State::Receiving(receiving) = state else {
            self.state = state;
            return;
        };
        self.state = State::Keeping(receiving);
        if self.message.pieces == Pieces::NONE {
            self.message.id = self.room.resources().next_message_id(now);
            self.header = HeaderFacts::of(&self.message.content);
        }
        let message = &mut *self.message;
        let content = mem::take(&mut message.content);
        let index = message.pieces.count;
        message.pieces.count += 1;
        message.pieces.bytes += content.len() as u64;
        self.action = Some(Action::KeepPiece(Piece { message: message.id, index, content }));
    }

    /// What became of the piece that was to be kept. `buffer` is the piece's content, which comes back so that its memory serves
    /// for the next. A message whose piece is refused is read to its end, and then refused.
    pub fn handle_piece_kept(&mut self, result: Result<(), StoreFailure>, mut buffer: Vec<u8>, out: &mut Vec<u8>) {
        let state = mem::replace(&mut self.state, State::Ended);
        let State::Keeping(mut receiving) = state else {
            self.state = state;
            // It may have been ended meanwhile.
            if self.outcome.is_none() {
                self.broken(out);
            }
            return;
        };
        receiving.refusal = result.err().map(|failure| refusal_of_storage(&failure));
        let is_refused = receiving.refusal.is_some();
        self.state = State::Receiving(receiving);
        if is_refused {
            self.drop_content();
            return;
        }
        buffer.clear();
        self.message.content = buffer;
    }

    /// What the message's header says, wherever its beginning is now.
    fn header_facts(&self) -> HeaderFacts {
        if self.message.pieces == Pieces::NONE { HeaderFacts::of(&self.message.content) } else { self.header }
    }

    // ── The end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A chunk is complete.
    fn finish_chunk(&mut self, now: Now, out: &mut Vec<u8>) {
        let State::Receiving(receiving) = &mut self.state else {
            return;
        };
        let authorized = receiving.authorized;
        match (receiving.source, receiving.refusal) {
            (Source::Chunk { last: true, .. }, _) => {
                receiving.reader.finish_chunks(&mut self.message.content);
                self.finish_message(now, out);
            }
            (_, Some(refusal)) => self.refuse_message(authorized, refusal, out),
            (_, None) => {
                let reader = receiving.reader;
                self.framing = Framing::Lines;
                self.state = State::Chunking(Chunking { authorized, reader });
                say(reply::CHUNK_RECEIVED, out);
            }
        }
    }

    /// The content is complete: checks it, writes the trace header, and asks for it to be stored.
    fn finish_message(&mut self, now: Now, out: &mut Vec<u8>) {
        let State::Receiving(receiving) = &self.state else {
            return;
        };
        let at = receiving.authorized;
        let header = self.header_facts();
        let refusal = match receiving {
            Receiving { refusal: Some(refusal), .. } => Some(*refusal),
            _ if self.message.content_size() > self.settings.bounds.message_bytes_max => Some(reply::MESSAGE_TOO_LARGE),
            _ if receiving.reader.must_refuse() => Some(reply::BARE_NEWLINE_IN_MESSAGE),
            _ if header.hops > HOPS_MAX => Some(reply::LOOP_DETECTED),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.refuse_message(at, refusal, out);
            return;
        }
        self.framing = Framing::Lines;
        self.message.envelope.bind_once();
        self.write_trace(at, &header, now);
        if self.may_be_a_copy() {
            self.tally.messages_waited += 1;
            self.state = State::Unconfirmed(at);
        } else {
            self.store(at);
        }
    }

    /// Could the same message be stored a second time, because it came in early data that somebody held back, and the client
    /// sent it again meanwhile? Not if it bears a token, where tokens are honoured.
    fn may_be_a_copy(&self) -> bool {
        let is_told_apart = self.settings.secured.takes_once() && self.message.envelope.once().is_some();
        self.finish == Finish::Awaited && !is_told_apart
    }

    pub(super) fn store(&mut self, at: Authorized) {
        self.state = State::Storing(at);
        self.action = Some(Action::Store(self.message.take()));
    }

    fn write_trace(&mut self, at: Authorized, header: &HeaderFacts, now: Now) {
        let message = &mut *self.message;
        if message.pieces == Pieces::NONE {
            message.id = self.room.resources().next_message_id(now);
        }
        message.trace.clear();
        let envelope = &message.envelope;
        let mut recipients = envelope.recipients();
        let only_recipient = recipients.next().filter(|_| recipients.len() == 0);
        let origin = Origin {
            hostname: &self.settings.hostname,
            client: match self.settings.client_in_trace {
                ClientInTrace::Shown => Some((&self.client_name, self.peer.client.ip())),
                ClientInTrace::Hidden => None,
            },
            with: with_keyword(at.hello, Protection::Both, envelope.smtputf8()),
            tls: self.tls,
            id: message.id,
            recipient: only_recipient.map(|recipient| recipient.address),
        };
        write_trace(&origin, header, now, &mut message.trace);
    }

    /// What became of the message that was to be stored. `message` comes back, so that its memory serves for the next one.
    pub fn handle_stored(&mut self, result: Result<Committed, StoreFailure>, message: Box<Message>, out: &mut Vec<u8>) {
        let State::Storing(at) = self.state else {
            self.broken(out);
            return;
        };
        self.message.put_back(message);
        match result {
            Ok(committed) => self.acknowledge(&committed, out),
            Err(StoreFailure::Foreign(refusal)) => {
                out.extend_from_slice(refusal.bytes());
                self.tally.refuse(refusal);
            }
            Err(failure) => {
                let refusal = refusal_of_storage(&failure);
                self.tally.refuse(refusal);
                say(refusal, out);
            }
        }
        self.close_transaction(at, out);
    }

    /// The only place that writes the 250 for a message: it takes the proof that the message is kept.
    fn acknowledge(&mut self, _: &Committed, out: &mut Vec<u8>) {
        out.extend_from_slice(b"250 2.0.0 Queued as ");
        out.extend_from_slice(self.message.id.as_str().as_bytes());
        out.extend_from_slice(b"\r\n");
        self.tally.messages += 1;
        self.tally.messages_early += u32::from(self.finish == Finish::Awaited);
        self.tally.recipients += self.message.envelope.recipient_count() as u64;
        self.commands_since_message = 0;
    }

    fn refuse_message(&mut self, at: Authorized, refusal: Reply, out: &mut Vec<u8>) {
        self.framing = Framing::Lines;
        self.tally.refuse(refusal);
        self.refuse(refusal, out);
        if self.outcome.is_none() {
            self.close_transaction(at, out);
        }
    }

    fn close_transaction(&mut self, at: Authorized, out: &mut Vec<u8>) {
        self.forget_transaction();
        self.state = State::Authorized(at);
        if self.stopping == Stopping::Soon {
            self.end_with(reply::SHUTTING_DOWN, Outcome::Drained, out);
        }
    }

    // ── Endings that are not good ───────────────────────────────────────────────────────────────────────────────────

    /// Refuses a BDAT. Its octets come all the same and are dropped; the reply goes out after them (RFC 3030 §2).
    pub(super) fn refuse_chunk(&mut self, size: u64, reply: Reply, out: &mut Vec<u8>) {
        if size > self.settings.bounds.message_bytes_max.saturating_add(REFUSED_CHUNK_BYTES_MAX) {
            say(reply, out);
            self.end_with(reply::UNSKIPPABLE, Outcome::Unskippable, out);
        } else if size == 0 {
            self.refuse(reply, out);
        } else {
            self.framing = Framing::RefusedChunk { left: size, reply };
        }
    }

    pub(super) fn skip_chunk<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let Framing::RefusedChunk { left, reply } = &mut self.framing else {
            return input;
        };
        let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
        *left -= taken as u64;
        if *left == 0 {
            let reply = *reply;
            self.framing = Framing::Lines;
            self.refuse(reply, out);
        }
        &input[taken..]
    }

    fn abandon_transaction(&mut self) {
        let state = mem::replace(&mut self.state, State::Ended);
        self.forget_transaction();
        self.state = state.without_transaction();
    }

    /// Forgets sender, recipients and content.
    pub(super) fn forget_transaction(&mut self) {
        self.message.clear(KEPT_BUFFER_BYTES_MAX);
        self.room.shrink_to(self.message.content.capacity());
    }

    /// Gives back all memory that messages need.
    pub(super) fn release_message_memory(&mut self) {
        self.message.release();
        self.room.shrink_to(0);
    }
}

/// What the client is told when our own storage does not take its message.
fn refusal_of_storage(failure: &StoreFailure) -> Reply {
    match failure {
        StoreFailure::Full => reply::NO_ROOM,
        StoreFailure::Busy => reply::STORE_BUSY,
        StoreFailure::Fault | StoreFailure::Foreign(_) => reply::STORE_FAULT,
    }
}

/// Content that is read past.
struct Nowhere;

impl Sink for Nowhere {
    fn take(&mut self, _: &[u8]) {}
}

/// The most content that so many bytes of input can become: with what was held back before them, and with a CR added to
/// each newline that stands alone.
fn content_bytes_max(input_bytes: usize, policy: BareNewline) -> usize {
    const HELD_BACK_BYTES: usize = 2;
    match policy {
        BareNewline::Reject => input_bytes + HELD_BACK_BYTES,
        BareNewline::Normalize => 2 * (input_bytes + HELD_BACK_BYTES),
    }
}
