//! The server's end of a connection, driven as `src/runtime/connection.rs` drives it.
//!
//! It decides nothing that the real server decides: it hands on bytes, judges passwords, and says what came of what it was
//! told to do. What becomes of messages is in `taking.rs`.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use onetrip::proto::credential::Verdict;
use onetrip::proto::message::{Message, MessageId, Piece};
use onetrip::proto::reply;
use onetrip::proto::server::{Opening, Peer, Server};
use onetrip::runtime::once::{Claim, Turn};
use onetrip::spool::Place;
use onetrip::spool::log::{Refusal, Ticket};
use onetrip::wire::{Connection, Output, Step};

use crate::client::Submitter;
use crate::net::{End, LinkName, MEDDLER};
use crate::process::Process;
use crate::storage::Shard;
use crate::support::{PASSWORD, USER, accepted};
use crate::world::{Event, World};

/// The server's end of a connection.
pub struct Conversation {
    /// Which process it belongs to.
    pub life: u32,
    pub shard: usize,
    pub connection: Connection,
    pub output: Output,
    /// What has arrived and was not taken yet.
    inbox: Vec<u8>,
    /// The client has closed, or is gone.
    is_ended: bool,
    /// Nobody waits for it any more, and nobody hears what it says.
    is_cut: bool,
    pub doing: Doing,
    /// The message that comes in pieces.
    pub incoming: Option<Incoming>,
}

/// What a connection waits for.
pub enum Doing {
    /// Its client.
    Receiving,
    /// Whether the password is right.
    Verifying(Verdict),
    /// The piece before this one, to be on the disk.
    Keeping(Piece),
    /// What becomes of the message that has the token now.
    Claiming(Pin<Box<dyn Future<Output = Turn>>>, Box<Message>),
    /// The disk.
    Storing { ticket: Ticket, message: Box<Message>, claim: Option<Claim>, outcome: Option<Result<Place, Refusal>> },
}

/// A message of which the log has the beginning.
pub struct Incoming {
    pub message: MessageId,
    pub newest: Ticket,
    /// What became of the newest piece.
    pub outcome: Option<Result<Place, Refusal>>,
}

impl Conversation {
    /// Does it wait for its client, with no transaction open?
    pub fn is_idle(&self) -> bool {
        let server = self.connection.server();
        matches!(self.doing, Doing::Receiving) && !server.is_in_transaction() && !server.is_securing()
    }

    /// Does it wait for its client in the middle of a transaction?
    pub fn is_receiving(&self) -> bool {
        matches!(self.doing, Doing::Receiving) && self.connection.server().is_in_transaction()
    }

    /// Is it in the middle of a TLS handshake, where nothing can be said?
    pub fn is_in_handshake(&self) -> bool {
        matches!(self.doing, Doing::Receiving) && self.connection.server().is_securing()
    }

    /// Lets it know that the server stops, before it is told anything else.
    pub fn note_drain(&mut self, breaks_off: bool) {
        let (is_open, has_ended) = (self.connection.server().is_in_transaction(), self.has_ended());
        if breaks_off {
            self.connection.handle_cut(&mut self.output);
        } else {
            self.connection.handle_drain(&mut self.output);
        }
        assert!(!is_open || self.has_ended() == has_ended, "a transaction was broken off by a server that stops");
    }

    /// Ends it, whatever is open.
    pub fn cut(&mut self) {
        self.is_cut = true;
        if let Doing::Receiving = self.doing {
            self.connection.handle_cut(&mut self.output);
        }
    }

    fn has_ended(&self) -> bool {
        self.connection.server().outcome().is_some()
    }

    /// Something has become of what was appended for it.
    pub fn tell(&mut self, ticket: Ticket, result: Result<Place, Refusal>) {
        match (&mut self.doing, &mut self.incoming) {
            (_, Some(incoming)) if incoming.newest == ticket => incoming.outcome = Some(result),
            (Doing::Storing { ticket: of, outcome, .. }, _) if *of == ticket => *outcome = Some(result),
            _ => {}
        }
    }
}

impl World {
    // ── What happens to it ──────────────────────────────────────────────────────────────────────────────────────────

    /// Takes a connection: what has come with it is answered together with the greeting.
    pub fn accept(&mut self, name: LinkName) {
        let now = self.now();
        let is_open = self.process.as_ref().is_some_and(|process| process.stopping.is_none());
        if !is_open && self.doors_are_kept {
            self.outside.push(name);
            return;
        }
        let link = self.links.get_mut(&name).expect("a link that was made");
        let early = link.backlog.take().unwrap_or_default();
        let client = link.client;
        // Whoever is not among the clients speaks TLS at once.
        let opening = self.submitters.get(client).map_or(Opening::ImplicitTls, Submitter::opening);
        if !is_open {
            return self.turn_away(name, opening);
        }
        let peer = Peer { client: "198.51.100.7:40000".parse().unwrap(), server: "192.0.2.1".parse().unwrap() };
        let shard = self.chance.count(0, self.shard_count() - 1);
        let process = self.process.as_ref().expect("it is open");
        let resources = Arc::clone(&process.shards[shard].resources);
        let server = Server::new(Arc::clone(&self.site.settings), resources, peer, opening, now);
        let mut connection = Connection::new(server, opening, Arc::clone(&process.configs), now);
        let mut output = Output::default();
        connection.handle_early(&early);
        connection.greet(&mut output);
        if !early.is_empty() {
            connection.handle_input(now, &early, &mut output);
        }
        let (inbox, doing) = (Vec::new(), Doing::Receiving);
        let life = self.life;
        let (is_ended, is_cut) = (false, false);
        let conversation =
            Conversation { life, shard, connection, output, inbox, is_ended, is_cut, doing, incoming: None };
        self.conversations.insert(name, conversation);
        self.woken_links.insert(name);
    }

    /// Nobody accepts any more. What the kernel has accepted before is told so, where there is no TLS to say it in.
    fn turn_away(&mut self, name: LinkName, opening: Opening) {
        self.seen.turned_away += u64::from(self.process.is_some());
        if self.process.is_some() && opening == Opening::Clear {
            self.send(name, End::Client, reply::SHUTTING_DOWN.bytes(), 0);
        }
        self.hang_up(name, End::Client);
    }

    /// Bytes have come. Says whether anybody was there to take them.
    pub fn server_hears(&mut self, name: LinkName, bytes: &[u8]) -> bool {
        let link = self.links.get_mut(&name).expect("a link that was made");
        if let Some(backlog) = &mut link.backlog {
            backlog.extend_from_slice(bytes);
            return true;
        }
        let conversation = self.conversations.get_mut(&name);
        let Some(conversation) = conversation else {
            return false;
        };
        conversation.inbox.extend_from_slice(bytes);
        self.woken_links.insert(name);
        true
    }

    /// The client has closed, or is gone.
    pub fn server_loses(&mut self, name: LinkName) {
        let conversation = self.conversations.get_mut(&name);
        if let Some(conversation) = conversation {
            conversation.is_ended = true;
            self.woken_links.insert(name);
        }
    }

    /// A password is judged.
    pub fn hear_verdict_on_login(&mut self, name: LinkName) {
        let now = self.now();
        let conversation = self.conversations.get_mut(&name);
        let Some(conversation) = conversation else {
            return;
        };
        if let Doing::Verifying(verdict) = mem::replace(&mut conversation.doing, Doing::Receiving) {
            conversation.connection.handle_verdict(now, verdict, &mut conversation.output);
            self.woken_links.insert(name);
        }
    }

    /// A time has come that a connection may have named.
    pub fn server_timer(&mut self, name: LinkName) {
        let now = self.now();
        let conversation = self.conversations.get_mut(&name);
        if let Some(Conversation { connection, output, doing: Doing::Receiving, .. }) = conversation
            && connection.poll_timeout().is_some_and(|due| due <= now.monotonic)
        {
            connection.handle_timeout(output);
            self.woken_links.insert(name);
        }
    }

    // ── The loop of one connection ──────────────────────────────────────────────────────────────────────────────────

    /// Lets a connection do all it can.
    pub fn serve(&mut self, name: LinkName) {
        let Some(mut conversation) = self.conversations.remove(&name) else {
            return;
        };
        let goes_on = loop {
            if !self.is_free(name, &mut conversation) {
                break true;
            }
            let Conversation { connection, output, .. } = &mut conversation;
            let step = connection.poll_step(output);
            assert!(output.wire.len() <= SERVER_OUT_BYTES_MAX, "the server gathers {} bytes", output.wire.len());
            assert!(
                connection.server().tls().is_none() || connection.server().client_name() != MEDDLER,
                "what was said in the clear is known inside TLS"
            );
            match step {
                Step::Receive => match self.receive(name, &mut conversation) {
                    Received::Bytes | Received::LastWords => {}
                    Received::Nothing => break true,
                    Received::End => break false,
                },
                Step::Send => {
                    self.flush(name, &mut conversation);
                    self.note_drain(&mut conversation);
                    let (now, output) = (self.now(), &mut conversation.output);
                    conversation.connection.handle_sent(now, output);
                }
                Step::Verify(credential) => {
                    let is_right = credential.user == USER && credential.password.expose() == PASSWORD.as_bytes();
                    assert!(is_right, "the credential is what the client was given");
                    let is_busy = !self.is_calm() && self.chance.one_in(30);
                    conversation.doing = Doing::Verifying(if is_busy { Verdict::Unavailable } else { accepted() });
                    let took_us = self.chance.between(1, 100_000);
                    self.events.push(self.now_us + took_us, Event::Judged { link: name });
                }
                Step::KeepPiece(piece) => conversation.doing = Doing::Keeping(piece),
                Step::Store(message) => self.begin_store(name, &mut conversation, message),
                Step::Close => {
                    self.flush(name, &mut conversation);
                    let has_ended = conversation.connection.server().outcome().is_some();
                    let waits = conversation.connection.poll_timeout().is_some();
                    assert!(!(has_ended && waits), "what has ended waits for nothing");
                    break false;
                }
            }
        };
        if goes_on {
            self.conversations.insert(name, conversation);
        } else {
            self.forget_incoming(&mut conversation);
            self.hang_up(name, End::Client);
        }
    }

    /// Is nothing of ours under way for it? What has come to an end is told to it.
    fn is_free(&mut self, name: LinkName, conversation: &mut Conversation) -> bool {
        match mem::replace(&mut conversation.doing, Doing::Receiving) {
            Doing::Receiving => true,
            doing @ Doing::Verifying(_) => {
                conversation.doing = doing;
                false
            }
            Doing::Keeping(piece) => self.keep(name, conversation, piece),
            Doing::Claiming(mut turn, mut message) => {
                match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => conversation.doing = Doing::Claiming(turn, message),
                    Poll::Ready(Turn::First(claim)) => self.append(name, conversation, message, Some(claim)),
                    Poll::Ready(Turn::Repeat(first, committed)) => {
                        self.seen.repeats += 1;
                        message.id = first;
                        self.note_drain(conversation);
                        let (now, output) = (self.now(), &mut conversation.output);
                        conversation.connection.handle_stored(now, Ok(committed), message, output);
                    }
                }
                matches!(conversation.doing, Doing::Receiving)
            }
            Doing::Storing { message, claim, outcome: Some(result), .. } => {
                self.finish_store(conversation, message, claim, result);
                true
            }
            doing @ Doing::Storing { .. } => {
                conversation.doing = doing;
                false
            }
        }
    }

    fn receive(&mut self, name: LinkName, conversation: &mut Conversation) -> Received {
        if conversation.connection.server().message_in_pieces().is_none() {
            self.forget_incoming(conversation);
        }
        self.flush(name, conversation);
        let now = self.now();
        self.note_drain(conversation);
        if conversation.is_cut {
            conversation.cut();
        }
        if conversation.has_ended() {
            return Received::LastWords;
        }
        let Conversation { connection, output, inbox, is_ended, .. } = conversation;
        if connection.peer_closed() {
            return Received::End;
        }
        if inbox.is_empty() {
            if *is_ended {
                return Received::End;
            }
            connection.rest();
            if let Some(due) = connection.poll_timeout() {
                self.events.push_timer(due, Event::ServerTimer { link: name });
            }
            return Received::Nothing;
        }
        let taken = self.chance.count(1, inbox.len().min(RECEIVE_BYTES_MAX));
        let taken = if self.chance.one_in(4) { taken } else { inbox.len().min(RECEIVE_BYTES_MAX) };
        let bytes: Vec<u8> = inbox.drain(..taken).collect();
        // Whether the server stops was noted above.
        connection.handle_input(now, &bytes, output);
        Received::Bytes
    }

    fn flush(&mut self, name: LinkName, conversation: &mut Conversation) {
        let out = mem::take(&mut conversation.output.wire);
        if !conversation.is_cut {
            self.send(name, End::Client, &out, 0);
        }
    }

    /// Lets a conversation know that its server stops.
    pub fn note_drain(&self, conversation: &mut Conversation) {
        let serves = |process: &Process| process.stopping.is_none();
        if conversation.life != self.life || !self.process.as_ref().is_some_and(serves) {
            conversation.note_drain(false);
        }
    }

    /// Bounds that hold at every moment.
    pub fn check(&self) {
        let stops = self.process.as_ref().is_some_and(|process| process.stopping.is_some());
        for conversation in self.conversations.values() {
            assert!(conversation.output.wire.is_empty() || !matches!(conversation.doing, Doing::Receiving));
            let is_told = !conversation.is_idle() || conversation.life == self.life && !stops;
            assert!(is_told, "somebody idle was not told that the server stops");
        }
        let Some(process) = &self.process else { return };
        process.shards.iter().for_each(Shard::check);
    }
}

/// What a receive has come to.
enum Received {
    Bytes,
    /// None, because the conversation has come to its end.
    LastWords,
    Nothing,
    End,
}

/// The most that one receive takes.
const RECEIVE_BYTES_MAX: usize = 64 << 10;

/// What the server gathers before it sends: a flight's replies, and a handshake's certificate and tickets.
const SERVER_OUT_BYTES_MAX: usize = 32 << 10;
