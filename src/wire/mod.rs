//! One client's connection without its socket: SMTP, inside TLS when that is in force, over bytes.
//!
//! It joins the two machines that know nothing of each other, [`crate::proto::server`] and [`crate::tls`], and holds the
//! rule that matters between them: a byte that followed STARTTLS or QTLS belongs to TLS, and is never read as a command.
//! It also tells the conversation how far TLS is: early data is a conversation already, in which nothing is certain until
//! the client's Finished has come.
//! Whoever drives it receives, calls one `handle_*`, sends what has gathered in [`Output`], and does what
//! [`Connection::poll_step`] says. It opens, waits for and decides nothing by itself.
//!
//! ```text
//!   received ──▶ handle_input ──▶ [TLS] ──▶ Server ──▶ Step: Receive | Send | Verify | KeepPiece | Store | Close
//!                                   │          │
//!   to send  ◀──── Output ◀──────[TLS]◀── replies
//! ```

pub mod client;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::limits::{KEPT_BUFFER_BYTES_MAX, REPLIES_BYTES_MAX};
use crate::proto::channel::TlsFacts;
use crate::proto::credential::{Credential, Verdict};
use crate::proto::message::{Message, Piece};
use crate::proto::proof::{Committed, Encrypted};
use crate::proto::server::{Action, Early, Opening, Server, StoreFailure};
use crate::time::Now;
use crate::tls::config::ServerConfigs;
use crate::tls::session::{EarlyOutcome, FailureKind, Session, TlsFailure};

/// What gathers for one send. One serves all connections of a shard in turn.
#[derive(Debug, Default)]
pub struct Output {
    /// Bytes for the socket.
    pub wire: Vec<u8>,
    /// Replies on their way into TLS; empty between calls.
    plain: Vec<u8>,
}

impl Output {
    /// An output with room for the replies and the handshake of an ordinary flight.
    pub fn with_room() -> Self {
        Self { wire: Vec::with_capacity(KEPT_BUFFER_BYTES_MAX), plain: Vec::new() }
    }
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send what has gathered, then receive.
    Receive,
    /// Send what has gathered, of which there is much, then call [`Connection::handle_sent`]: something that was received
    /// already waits for that.
    Send,
    /// Judge this, then call [`Connection::handle_verdict`].
    Verify(Credential),
    /// Keep this beginning of a message, then call [`Connection::handle_piece_kept`].
    KeepPiece(Piece),
    /// Keep this, then call [`Connection::handle_stored`].
    Store(Box<Message>),
    /// Send what has gathered, then close.
    Close,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    server: Server,
    layer: Layer,
    configs: Arc<ServerConfigs>,
    /// What was received but may not be looked at yet.
    pending: Vec<u8>,
    /// Does the rest of what was received wait only until the output is sent? It is here, or inside TLS.
    is_held_back: bool,
    handshake: Handshake,
}

#[derive(Debug)]
enum Layer {
    Clear,
    Tls(Box<Session>),
    /// TLS has failed; an alert may still go out. Boxed, so that the many connections that do not fail stay small.
    Failed(Box<Failed>),
}

/// What is left of a TLS session that failed.
#[derive(Debug)]
struct Failed {
    failure: TlsFailure,
    early_outcome: EarlyOutcome,
}

/// How far TLS is, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    None,
    Since(Duration),
    Took(Duration),
}

impl Connection {
    /// A new connection. Call [`Connection::greet`] when the greeting may go out.
    pub fn new(server: Server, opening: Opening, configs: Arc<ServerConfigs>, now: Now) -> Self {
        let (layer, handshake) = match opening {
            Opening::Clear => (Layer::Clear, Handshake::None),
            Opening::ImplicitTls => {
                (Layer::Tls(Box::new(Session::new(Arc::clone(&configs)))), Handshake::Since(now.monotonic))
            }
        };
        Self { server, layer, configs, pending: Vec::new(), is_held_back: false, handshake }
    }

    /// Says the greeting. With implicit TLS it waits inside until TLS can carry it: in the server's first flight with TLS
    /// 1.3.
    pub fn greet(&mut self, output: &mut Output) {
        match &mut self.layer {
            Layer::Clear => self.server.greet(&mut output.wire),
            Layer::Tls(_) => {
                self.server.greet(&mut output.plain);
                self.seal(output);
            }
            Layer::Failed(_) => {}
        }
    }

    /// Looks at bytes that came before the greeting, where clients are made to wait for it.
    pub fn judge_early(&self, bytes: &[u8]) -> Early {
        self.server.judge_early(bytes)
    }

    /// Notes that these bytes came before the greeting. Call it before [`Connection::handle_input`].
    pub fn handle_early(&mut self, bytes: &[u8]) {
        if matches!(self.layer, Layer::Clear) {
            self.server.handle_early(bytes);
        }
    }

    /// Refuses a client that did not wait for the greeting.
    pub fn refuse_early(&mut self, output: &mut Output) {
        self.server.refuse_early(&mut output.wire);
    }

    /// Takes received bytes, all of them. What would make the output larger than
    /// [`REPLIES_BYTES_MAX`], and some, is looked at when that is sent: see
    /// [`Step::Send`].
    pub fn handle_input(&mut self, now: Now, input: &[u8], output: &mut Output) {
        self.server.handle_progress(now);
        if self.pending.is_empty() {
            let taken = self.advance(now, input, output);
            self.pending.extend_from_slice(&input[taken..]);
        } else {
            self.pending.extend_from_slice(input);
            self.resume(now, output);
        }
    }

    /// The output that [`Step::Send`] spoke of has left: goes on with what was received before. That the client took it shows
    /// that it is there.
    pub fn handle_sent(&mut self, now: Now, output: &mut Output) {
        self.server.handle_progress(now);
        if self.is_held_back {
            self.resume(now, output);
        }
    }

    /// The judgement on a credential.
    pub fn handle_verdict(&mut self, now: Now, verdict: Verdict, output: &mut Output) {
        self.server.handle_progress(now);
        self.server.handle_verdict(verdict, &mut output.plain);
        self.resume(now, output);
    }

    /// What became of a piece of a message; see [`Server::handle_piece_kept`].
    pub fn handle_piece_kept(
        &mut self,
        now: Now,
        result: Result<(), StoreFailure>,
        buffer: Vec<u8>,
        output: &mut Output,
    ) {
        self.server.handle_progress(now);
        self.server.handle_piece_kept(result, buffer, &mut output.plain);
        self.resume(now, output);
    }

    /// What became of a message; see [`Server::handle_stored`].
    pub fn handle_stored(
        &mut self,
        now: Now,
        result: Result<Committed, StoreFailure>,
        message: Box<Message>,
        output: &mut Output,
    ) {
        self.server.handle_progress(now);
        self.server.handle_stored(result, message, &mut output.plain);
        self.resume(now, output);
    }

    /// The time has come that [`Connection::poll_timeout`] named.
    pub fn handle_timeout(&mut self, output: &mut Output) {
        self.end(output, Server::handle_timeout);
    }

    /// The server is being stopped.
    pub fn handle_drain(&mut self, output: &mut Output) {
        self.end(output, Server::handle_drain);
    }

    /// The server is being stopped, and waits for nobody any more.
    pub fn handle_cut(&mut self, output: &mut Output) {
        self.end(output, Server::handle_cut);
    }

    /// What to do next.
    pub fn poll_step(&mut self, output: &mut Output) -> Step {
        if let Layer::Failed(_) = self.layer {
            return Step::Close;
        }
        match self.server.poll_action() {
            None if self.is_held_back => Step::Send,
            None => Step::Receive,
            Some(Action::Verify(credential)) => Step::Verify(credential),
            Some(Action::KeepPiece(piece)) => Step::KeepPiece(piece),
            Some(Action::Store(message)) => Step::Store(message),
            Some(Action::Close) => {
                self.close(output);
                Step::Close
            }
        }
    }

    /// When to call [`Connection::handle_timeout`], on the monotonic clock.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.server.poll_timeout()
    }

    /// Nothing more can be done at once: gives back memory that is not needed until the client speaks again.
    pub fn rest(&mut self) {
        if self.pending.capacity() > 0 && self.pending.is_empty() {
            self.pending = Vec::new();
        }
        if let Layer::Tls(session) = &mut self.layer {
            session.rest();
        }
        self.server.rest();
    }

    /// The conversation, for whoever reports on it.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// How long the TLS handshake took, once it is done.
    pub fn handshake_took(&self) -> Option<Duration> {
        match self.handshake {
            Handshake::Took(time) => Some(time),
            Handshake::None | Handshake::Since(_) => None,
        }
    }

    /// What became of the client's early data.
    pub fn early_outcome(&self) -> EarlyOutcome {
        match &self.layer {
            Layer::Tls(session) => session.early_outcome(),
            Layer::Clear => EarlyOutcome::None,
            Layer::Failed(failed) => failed.early_outcome,
        }
    }

    /// Is a TLS handshake under way?
    pub fn is_handshaking(&self) -> bool {
        matches!(self.handshake, Handshake::Since(_))
    }

    /// Why TLS failed, if it did.
    pub fn tls_failure(&self) -> Option<&TlsFailure> {
        match &self.layer {
            Layer::Failed(failed) => Some(&failed.failure),
            Layer::Clear | Layer::Tls(_) => None,
        }
    }

    /// Did the client say that it sends no more (close_notify)?
    pub fn peer_closed(&self) -> bool {
        matches!(&self.layer, Layer::Tls(session) if session.peer_closed())
    }

    // ── Bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn resume(&mut self, now: Now, output: &mut Output) {
        let mut pending = mem::take(&mut self.pending);
        let taken = self.advance(now, &pending, output);
        pending.drain(..taken);
        if pending.is_empty() && pending.capacity() > KEPT_BUFFER_BYTES_MAX {
            pending = Vec::new();
        }
        self.pending = pending;
    }

    /// Works through `input` until it is used up, the server waits for something, or the output is large enough. Returns how
    /// much was taken.
    fn advance(&mut self, now: Now, input: &[u8], output: &mut Output) -> usize {
        let mut rest = input;
        self.is_held_back = false;
        if let Layer::Clear = self.layer {
            let taken = self.server.handle_bytes_within(REPLIES_BYTES_MAX, now, rest, &mut output.wire);
            rest = &rest[taken..];
            self.is_held_back = !rest.is_empty() && !self.server.is_waiting();
            self.begin_tls_if_asked(now, output);
        }
        if let Layer::Tls(_) = self.layer {
            rest = self.advance_tls(now, rest, output);
        }
        if let Layer::Failed(_) = self.layer {
            rest = &[];
        }
        input.len() - rest.len()
    }

    /// From here on every byte belongs to TLS, those that came along with the command too.
    fn begin_tls_if_asked(&mut self, now: Now, output: &mut Output) {
        if self.server.is_securing() {
            self.layer = Layer::Tls(Box::new(Session::new(Arc::clone(&self.configs))));
            self.handshake = Handshake::Since(now.monotonic);
            self.greet(output);
        }
    }

    fn advance_tls<'a>(&mut self, now: Now, mut rest: &'a [u8], output: &mut Output) -> &'a [u8] {
        loop {
            self.note_handshake(now);
            self.read_plaintext(now, output);
            self.seal(output);
            let Layer::Tls(session) = &mut self.layer else {
                return &[];
            };
            if self.is_held_back || rest.is_empty() || is_held_up(&self.server) {
                return rest;
            }
            if output.wire.len() >= REPLIES_BYTES_MAX {
                self.is_held_back = true;
                return rest;
            }
            match session.receive(rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(failure) => {
                    self.read_plaintext(now, output);
                    self.fail(failure, output);
                    return &[];
                }
            }
        }
    }

    /// Tells the conversation that it may begin, and that the client has finished the handshake. What came as early data in
    /// one piece with the Finished is no copy either, so it is told of that first.
    fn note_handshake(&mut self, now: Now) {
        let (Layer::Tls(session), Handshake::Since(start)) = (&self.layer, self.handshake) else {
            return;
        };
        let Some(facts) = session.facts() else {
            return;
        };
        let is_done = !session.is_handshaking();
        let facts = TlsFacts { version: facts.version.name(), cipher: facts.cipher_suite, resumed: facts.resumed };
        if is_done {
            self.handshake = Handshake::Took(now.monotonic.saturating_sub(start));
        }
        match (self.server.is_securing(), is_done) {
            (true, true) => self.server.handle_secured(facts, Encrypted::attested_by_handshake()),
            (true, false) => self.server.handle_secured_early(facts, Encrypted::attested_by_handshake()),
            (false, true) => self.server.handle_finished(),
            (false, false) => {}
        }
    }

    /// Hands decrypted bytes to the server as long as it takes them and the output has room for its replies.
    fn read_plaintext(&mut self, now: Now, output: &mut Output) {
        let Layer::Tls(session) = &mut self.layer else {
            return;
        };
        let room = REPLIES_BYTES_MAX.saturating_sub(output.wire.len());
        while !self.server.is_waiting() {
            let plaintext = session.plaintext().bytes;
            if plaintext.is_empty() {
                return;
            }
            if output.plain.len() >= room {
                self.is_held_back = true;
                return;
            }
            let taken = self.server.handle_bytes_within(room, now, plaintext, &mut output.plain);
            session.consume(taken);
        }
    }

    /// Puts replies into TLS, and what TLS has to say into the output.
    fn seal(&mut self, output: &mut Output) {
        let Layer::Tls(session) = &mut self.layer else {
            return;
        };
        let mut rest = &output.plain[..];
        while !rest.is_empty() {
            let taken = session.write(rest);
            rest = &rest[taken..];
            if taken == 0 && !session.has_output() {
                // Only a peer that never lets the handshake end gets here: what waits is bounded, and so is this.
                break;
            }
            if !rest.is_empty() {
                session.send(&mut output.wire);
            }
        }
        output.plain.clear();
        session.send(&mut output.wire);
    }

    fn fail(&mut self, failure: TlsFailure, output: &mut Output) {
        self.seal(output);
        self.layer = Layer::Failed(Box::new(Failed { failure, early_outcome: self.early_outcome() }));
    }

    fn close(&mut self, output: &mut Output) {
        if let Layer::Tls(session) = &mut self.layer {
            session.close();
            session.send(&mut output.wire);
        }
    }

    fn end(&mut self, output: &mut Output, say: impl FnOnce(&mut Server, &mut Vec<u8>)) {
        match self.layer {
            Layer::Clear => say(&mut self.server, &mut output.wire),
            Layer::Tls(_) => {
                say(&mut self.server, &mut output.plain);
                self.seal(output);
            }
            Layer::Failed(_) => {}
        }
    }
}

/// Does it take nothing because something of ours is under way? While it waits for TLS, TLS must have what arrives.
fn is_held_up(server: &Server) -> bool {
    server.is_waiting() && !server.is_securing() && !server.is_awaiting_finish()
}

/// The words for a failed handshake in summaries.
pub const fn failure_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Malformed => "malformed",
        FailureKind::PeerAlert => "peer_alert",
        FailureKind::Incompatible => "incompatible",
        FailureKind::Certificate => "certificate",
        FailureKind::Violation => "violation",
        FailureKind::Fault => "fault",
    }
}
