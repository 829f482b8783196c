//! The server as a process: its connections, driven as the runtime drives them, and what all shards share.
//!
//! It decides nothing that the real server decides: it hands on bytes, judges passwords, asks the registry and the log, and
//! says what came of it.

use std::collections::BTreeMap;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onetrip::observe::metrics::OnceMetrics;
use onetrip::proto::credential::Verdict;
use onetrip::proto::message::{Message, MessageId, Piece};
use onetrip::proto::proof::Committed;
use onetrip::proto::server::{Opening, Peer, Server};
use onetrip::runtime::once::{Claim, OnceRegistry, Turn};
use onetrip::spool::Place;
use onetrip::spool::log::{Refusal, Ticket};
use onetrip::spool::once::OnceBounds;
use onetrip::tls::config::ServerConfigs;
use onetrip::wire::{Connection, Output, Step};

use crate::client::Submitter;
use crate::net::{End, LinkName, MEDDLER};
use crate::storage::Shard;
use crate::support::{PASSWORD, USER, accepted};
use crate::world::{Event, Sabotage, World};

/// The server while it lives.
pub struct Process {
    registry: Arc<OnceRegistry>,
    /// Its TLS, with the sessions of this life.
    configs: Arc<ServerConfigs>,
    pub shards: Vec<Shard>,
    conversations: BTreeMap<LinkName, Conversation>,
}

/// The server's end of a connection.
struct Conversation {
    shard: usize,
    connection: Connection,
    output: Output,
    /// What has arrived and was not taken yet.
    inbox: Vec<u8>,
    /// The client has closed, or is gone.
    is_ended: bool,
    doing: Doing,
    /// The message that comes in pieces.
    incoming: Option<Incoming>,
}

/// What a connection waits for.
enum Doing {
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

struct Incoming {
    message: MessageId,
    newest: Ticket,
    /// What became of the newest piece.
    outcome: Option<Result<Place, Refusal>>,
}

impl Process {
    /// A registry that knows no token yet.
    pub fn registry(retention: Duration) -> OnceRegistry {
        let bounds = OnceBounds { retention, tokens_max: 1_000 };
        OnceRegistry::new(bounds, Arc::new(OnceMetrics::default())).expect("random bytes")
    }

    /// A process with these shards, and what its registry has found.
    pub fn new(world: &World, shards: Vec<Shard>, registry: OnceRegistry) -> Self {
        let configs = world.site.restarted().configs;
        Self { registry: Arc::new(registry), configs, shards, conversations: BTreeMap::new() }
    }

    /// Nothing is left over.
    pub fn check_end(&self) {
        assert!(self.conversations.is_empty(), "connections never ended: {:?}", self.conversations.keys());
        self.shards.iter().for_each(Shard::check_end);
    }

    /// Something has become of what was appended for a connection.
    pub fn tell(&mut self, link: LinkName, ticket: Ticket, result: Result<Place, Refusal>) {
        let Some(conversation) = self.conversations.get_mut(&link) else {
            return;
        };
        match (&mut conversation.doing, &mut conversation.incoming) {
            (_, Some(incoming)) if incoming.newest == ticket => incoming.outcome = Some(result),
            (Doing::Storing { ticket: of, outcome, .. }, _) if *of == ticket => *outcome = Some(result),
            _ => {}
        }
    }

    /// Connections that wait for others to store a message.
    fn claiming(&self) -> Vec<LinkName> {
        let waits = |(name, conversation): (&LinkName, &Conversation)| {
            matches!(conversation.doing, Doing::Claiming(..)).then_some(*name)
        };
        self.conversations.iter().filter_map(waits).collect()
    }
}

impl World {
    // ── What happens to it ──────────────────────────────────────────────────────────────────────────────────────────

    /// Takes a connection: what has come with it is answered together with the greeting.
    pub fn accept(&mut self, name: LinkName) {
        let now = self.now();
        let link = self.links.get_mut(&name).expect("a link that was made");
        let early = link.backlog.take().unwrap_or_default();
        let (shard, delay_us) = (link.shard, link.delay_us);
        // Whoever is not among the clients speaks TLS at once.
        let opening = self.submitters.get(link.client).map_or(Opening::ImplicitTls, Submitter::opening);
        let peer = Peer { client: "198.51.100.7:40000".parse().unwrap(), server: "192.0.2.1".parse().unwrap() };
        let Some(process) = &mut self.process else {
            self.events.push(self.now_us + delay_us, Event::HungUp { link: name, to: End::Client });
            return;
        };
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
        let conversation = Conversation { shard, connection, output, inbox, is_ended: false, doing, incoming: None };
        process.conversations.insert(name, conversation);
        self.woken_links.insert(name);
    }

    /// Bytes have come. Says whether anybody was there to take them.
    pub fn server_hears(&mut self, name: LinkName, bytes: &[u8]) -> bool {
        let link = self.links.get_mut(&name).expect("a link that was made");
        if let Some(backlog) = &mut link.backlog {
            backlog.extend_from_slice(bytes);
            return true;
        }
        let conversation = self.process.as_mut().and_then(|process| process.conversations.get_mut(&name));
        let Some(conversation) = conversation else {
            return false;
        };
        conversation.inbox.extend_from_slice(bytes);
        self.woken_links.insert(name);
        true
    }

    /// The client has closed, or is gone.
    pub fn server_loses(&mut self, name: LinkName) {
        let conversation = self.process.as_mut().and_then(|process| process.conversations.get_mut(&name));
        if let Some(conversation) = conversation {
            conversation.is_ended = true;
            self.woken_links.insert(name);
        }
    }

    /// A password is judged.
    pub fn hear_verdict_on_login(&mut self, name: LinkName) {
        let now = self.now();
        let conversation = self.process.as_mut().and_then(|process| process.conversations.get_mut(&name));
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
        let conversation = self.process.as_mut().and_then(|process| process.conversations.get_mut(&name));
        if let Some(Conversation { connection, output, doing: Doing::Receiving, .. }) = conversation
            && connection.poll_timeout().is_some_and(|due| due <= now.monotonic)
        {
            connection.handle_timeout(output);
            self.woken_links.insert(name);
        }
    }

    /// The machine stops. What it was doing is half done, and whoever was connected hears of it, or does not.
    pub fn crash(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.life += 1;
        self.seen.crashes += 1;
        let Process { shards, conversations, .. } = process;
        let is_told = self.chance.one_in(2);
        for name in conversations.into_keys() {
            let link = self.links.get_mut(&name).expect("a link that was made");
            link.kill();
            let at_us = self.now_us + link.delay_us;
            if is_told {
                self.events.push(at_us, Event::Lost { link: name, to: End::Client });
            }
        }
        for (number, shard) in shards.into_iter().enumerate() {
            self.tear(number, shard);
        }
    }

    // ── The loop of one connection ──────────────────────────────────────────────────────────────────────────────────

    /// Lets a connection do all it can.
    pub fn serve(&mut self, name: LinkName) {
        let process = self.process.as_mut().expect("only the living are woken");
        let Some(mut conversation) = process.conversations.remove(&name) else {
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
                    Received::Bytes => {}
                    Received::Nothing => break true,
                    Received::End => break false,
                },
                Step::Send => {
                    self.flush(name, &mut conversation);
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
            let process = self.process.as_mut().expect("it lives");
            process.conversations.insert(name, conversation);
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
        connection.handle_input(now, &bytes, output);
        Received::Bytes
    }

    fn flush(&mut self, name: LinkName, conversation: &mut Conversation) {
        let out = mem::take(&mut conversation.output.wire);
        self.send(name, End::Client, &out, 0);
    }

    // ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn keep(&mut self, name: LinkName, conversation: &mut Conversation, piece: Piece) -> bool {
        let begun = conversation.incoming.take().filter(|incoming| incoming.message == piece.message);
        if let Some(Incoming { outcome: None, .. }) = begun {
            conversation.incoming = begun;
            conversation.doing = Doing::Keeping(piece);
            return false;
        }
        self.seen.pieces += 1;
        let (now, shard) = (self.now(), conversation.shard);
        let before = begun.and_then(|incoming| incoming.outcome).unwrap_or(Ok(Place { segment: 0, offset: 0 }));
        let Piece { message, index, content } = piece;
        let shard_of = &mut self.process.as_mut().expect("it lives").shards[shard];
        let ticket = shard_of.ticket(name);
        let result = before.and_then(|_| shard_of.log.append_part(now, message, index, &content, ticket));
        match result {
            Ok(()) => conversation.incoming = Some(Incoming { message, newest: ticket, outcome: None }),
            Err(_) => shard_of.log.abandon(message),
        }
        let result = result.map_err(Into::into);
        conversation.connection.handle_piece_kept(now, result, content, &mut conversation.output);
        self.woken_shards.insert(shard);
        true
    }

    fn forget_incoming(&mut self, conversation: &mut Conversation) {
        if let Some(incoming) = conversation.incoming.take() {
            let process = self.process.as_mut().expect("it lives");
            process.shards[conversation.shard].log.abandon(incoming.message);
            self.woken_shards.insert(conversation.shard);
        }
    }

    fn begin_store(&mut self, name: LinkName, conversation: &mut Conversation, message: Box<Message>) {
        let token = message.envelope.once().filter(|_| self.plan.sabotage != Sabotage::ForgetsTokens);
        let Some(token) = token else {
            return self.append(name, conversation, message, None);
        };
        let registry = Arc::clone(&self.process.as_ref().expect("it lives").registry);
        let (key, now) = (registry.key(message.envelope.user(), token), self.now());
        let mut turn: Pin<Box<dyn Future<Output = Turn>>> = Box::pin(async move { registry.claim(now, key).await });
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Turn::First(claim)) => self.append(name, conversation, message, Some(claim)),
            Poll::Ready(turn) => conversation.doing = Doing::Claiming(Box::pin(async move { turn }), message),
            Poll::Pending => {
                self.seen.waited += 1;
                conversation.doing = Doing::Claiming(turn, message);
            }
        }
    }

    /// Gives the message to the log, or what follows the pieces of it that the log has.
    fn append(&mut self, name: LinkName, conversation: &mut Conversation, message: Box<Message>, claim: Option<Claim>) {
        let now = self.now();
        let answers_now = self.plan.sabotage == Sabotage::AnswersTooEarly;
        let shard = &mut self.process.as_mut().expect("it lives").shards[conversation.shard];
        let incoming = conversation.incoming.take().filter(|incoming| incoming.message == message.id);
        let failure = incoming.and_then(|incoming| incoming.outcome).and_then(Result::err);
        let ticket = shard.ticket(name);
        let appended = match (failure, message.pieces.count) {
            (Some(failure), _) => {
                shard.log.abandon(message.id);
                Err(failure)
            }
            (None, 0) => shard.log.append_message(now, &message, ticket),
            (None, count) => shard.log.append_end(now, &message, (count, message.pieces.bytes), ticket),
        };
        self.woken_shards.insert(conversation.shard);
        match appended {
            Ok(()) if answers_now => {
                shard.answered.insert(ticket, message.clone());
                if let Some(claim) = claim {
                    claim.stored(now, message.id, &Committed::attested_by_storage());
                }
                let committed = Committed::attested_by_storage();
                conversation.connection.handle_stored(now, Ok(committed), message, &mut conversation.output);
            }
            Ok(()) => conversation.doing = Doing::Storing { ticket, message, claim, outcome: None },
            Err(refusal) => self.finish_store(conversation, message, claim, Err(refusal)),
        }
    }

    fn finish_store(
        &mut self,
        conversation: &mut Conversation,
        message: Box<Message>,
        claim: Option<Claim>,
        result: Result<Place, Refusal>,
    ) {
        let now = self.now();
        let process = self.process.as_mut().expect("it lives");
        let stored = result.map(|_| {
            process.shards[conversation.shard].enqueue(&message);
            Committed::attested_by_storage()
        });
        if let (Some(claim), Ok(committed)) = (claim, &stored) {
            claim.stored(now, message.id, committed);
        }
        let stored = stored.map_err(Into::into);
        conversation.connection.handle_stored(now, stored, message, &mut conversation.output);
        self.woken_shards.insert(conversation.shard);
        self.woken_links.extend(process.claiming());
    }

    /// Bounds that hold at every moment.
    pub fn check(&self) {
        let Some(process) = &self.process else { return };
        for conversation in process.conversations.values() {
            assert!(conversation.output.wire.is_empty() || !matches!(conversation.doing, Doing::Receiving));
        }
        process.shards.iter().for_each(Shard::check);
    }
}

/// What a receive has come to.
enum Received {
    Bytes,
    Nothing,
    End,
}

/// The most that one receive takes.
const RECEIVE_BYTES_MAX: usize = 64 << 10;

/// What the server gathers before it sends: a flight's replies, and a handshake's certificate and tickets.
const SERVER_OUT_BYTES_MAX: usize = 32 << 10;
