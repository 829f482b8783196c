//! The loop of one connection.
//!
//! Receive into the shard's one buffer, hand the bytes on, do what is asked, send once. What is decided here: nothing but the
//! order of system calls.
//!
//! * A receive that finds bytes costs one system call; only one that finds none waits for the reactor.
//! * A client that sends without end, or has more answered than one send takes, lets all others have their turn after each
//!   such piece: see [`super::rounds`].
//! * While a connection waits for its client it holds no buffer of its own.
//! * Whatever ends a wait early (a deadline, a drain) does it by shutting the socket down: see [`super::connections`].

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;

use super::admission::Counted;
use super::connections::{Activity, Interrupt, Registration};
use super::delivery::Delivered;
use super::once::Turn;
use super::report::{self, Identity, Traffic};
use super::rounds::{Lane, Place};
use super::shard::Shard;
use super::socket::descriptor;
use super::spool::{Incoming, Stored};
use crate::lateness::Flight;
use crate::limits;
use crate::observe::event::{AuthFailed, AuthPutOff, DeliveryFault, MessageRefused, MessageRepeated};
use crate::observe::label::AuthOutcome;
use crate::observe::metrics::OpenConnection;
use crate::proto::credential::{Credential, Verdict};
use crate::proto::message::{Message, MessageId, Piece};
use crate::proto::proof::Committed;
use crate::proto::server::{Early, Opening, Outcome, StoreFailure};
use crate::relay::SyncPolicy;
use crate::tcp_info::TcpInfo;
use crate::time::Now;
use crate::wire::{Connection, Output, Step};

/// One connection with its socket.
pub(super) struct Conversation {
    shard: Rc<Shard>,
    connection: Connection,
    /// Dropped before the stream, as the table of connections demands.
    registration: Registration,
    stream: TcpStream,
    identity: Identity,
    output: Output,
    traffic: Traffic,
    /// The pieces of the message that is coming in, if it is large.
    incoming: Option<Incoming>,
    /// What is already reported.
    reported: Reported,
    /// Has the client sent as much as one receive takes? Then there may be more, and others come first.
    has_filled_receive: bool,
    /// Was what it sent last so little that there was nothing to be said to it? It begins as one that has sent nothing yet.
    is_dribbling: bool,
    /// When it began, on the monotonic clock.
    began: Duration,
    _counted: Counted,
    _open: OpenConnection,
}

/// What has been counted already, so that it is counted once.
#[derive(Default)]
struct Reported {
    handshake: bool,
    first_mail: bool,
    refusals: u32,
}

/// The client is gone, or its connection is.
struct Gone;

impl Conversation {
    pub(super) fn new(
        shard: Rc<Shard>,
        connection: Connection,
        stream: TcpStream,
        identity: Identity,
        counted: Counted,
    ) -> Self {
        Self {
            registration: shard.connections.register(stream.as_raw_fd()),
            output: shard.take_output(),
            began: shard.clock.now().monotonic,
            _open: shard.metrics.open_connection(),
            _counted: counted,
            traffic: Traffic::default(),
            incoming: None,
            reported: Reported::default(),
            has_filled_receive: false,
            is_dribbling: true,
            shard,
            connection,
            stream,
            identity,
        }
    }

    /// Serves the client until one side has had enough.
    pub(super) async fn run(&mut self) {
        if self.converse().await.is_ok() {
            self.see_off().await;
        }
        self.report_end();
        self.shard.return_output(std::mem::take(&mut self.output));
    }

    async fn converse(&mut self) -> Result<(), Gone> {
        self.open().await?;
        loop {
            match self.connection.poll_step(&mut self.output) {
                Step::Receive | Step::Send if self.is_late() => self.connection.handle_timeout(&mut self.output),
                Step::Receive => {
                    self.is_dribbling &= self.output.wire.is_empty();
                    self.forget_pieces();
                    self.send().await?;
                    if self.has_filled_receive {
                        self.shard.pieces.enter().await;
                    }
                    self.receive().await?;
                }
                Step::Send => self.send_much().await?,
                // These three take memory of their own while they last, and none from a client that is silent.
                Step::Verify(credential) => Box::pin(self.verify(credential)).await,
                Step::KeepPiece(piece) => Box::pin(self.keep_piece(piece)).await,
                Step::Store(message) => Box::pin(self.store(message)).await,
                Step::Close => return self.send().await,
            }
        }
    }

    /// Has its time passed? Who is waited for is told so by the sweep. But a client of whom there is always more to be read is
    /// never waited for, and goes on being read from even when its socket was shut down for that.
    fn is_late(&self) -> bool {
        self.connection.poll_timeout().is_some_and(|deadline| deadline <= self.shard.clock.now().monotonic)
    }

    // ── The beginning ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Greets the client. Bytes that are there already are answered in the same send (draft, Appendix A).
    async fn open(&mut self) -> Result<(), Gone> {
        let pause = self.shard.greet_pause();
        if self.identity.opening == Opening::Clear && !pause.is_zero() {
            // It takes memory of its own while it lasts, and none from a client that was greeted.
            return Box::pin(self.open_after(pause)).await;
        }
        let shard = Rc::clone(&self.shard);
        let mut buffer = shard.receive_buffer.borrow_mut();
        let bytes = self.receive_at_once(&mut buffer)?;
        let early = &buffer[..bytes];
        self.connection.handle_early(early);
        self.connection.greet(&mut self.output);
        self.take_input(early);
        Ok(())
    }

    /// Takes what the kernel has received so far, if anything. Speculative: the stream's own first read would wait for the
    /// reactor even when bytes are there.
    fn receive_at_once(&mut self, buffer: &mut [u8]) -> Result<usize, Gone> {
        match recv(descriptor(&self.stream), buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(Gone),
            Ok((bytes, _)) => {
                self.note_received(bytes);
                Ok(bytes)
            }
            Err(Errno::WOULDBLOCK) => Ok(0),
            Err(_) => Err(Gone),
        }
    }

    /// Makes the client wait for its greeting, and looks at what it says meanwhile (draft §12).
    async fn open_after(&mut self, pause: Duration) -> Result<(), Gone> {
        let shard = Rc::clone(&self.shard);
        let bytes = self.receive_at_once(&mut shard.receive_buffer.borrow_mut())?;
        let mut early = shard.receive_buffer.borrow()[..bytes].to_vec();
        let end = self.shard.clock.now().monotonic + pause;
        loop {
            match self.connection.judge_early(&early) {
                Early::Greet => break,
                Early::Refuse if !early.is_empty() => {
                    self.connection.refuse_early(&mut self.output);
                    return Ok(());
                }
                Early::Refuse | Early::Wait => {}
            }
            let left = end.saturating_sub(self.shard.clock.now().monotonic);
            if left.is_zero() || early.len() >= limits::COMMAND_LINE_BYTES_MAX {
                break;
            }
            self.registration.wait(Activity::Idle, None);
            let (shard, stream) = (&self.shard, &mut self.stream);
            let received = future::or(async { Some(receive_into(shard, stream, &mut early).await) }, async {
                Timer::new(left).await;
                None
            });
            match received.await {
                None => break,
                Some(Ok(bytes)) => self.note_received(bytes),
                Some(Err(Gone)) => return self.interrupted(),
            }
        }
        self.connection.greet(&mut self.output);
        self.take_input(&early);
        Ok(())
    }

    // ── Bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn take_input(&mut self, input: &[u8]) {
        if !input.is_empty() {
            self.connection.handle_input(self.shard.clock.now(), input, &mut self.output);
            self.note_progress();
        }
    }

    /// Waits for the client and takes what it says. Nothing is left in the output.
    async fn receive(&mut self) -> Result<(), Gone> {
        if self.shard.is_draining() {
            self.connection.handle_drain(&mut self.output);
            if self.connection.server().outcome().is_some() {
                return Ok(());
            }
        }
        if self.connection.peer_closed() {
            return Err(Gone);
        }
        self.registration.wait(self.what_is_awaited(), self.connection.poll_timeout());
        let flight = self.awaited_flight();
        let (mut polls, mut place) = (0_u32, Place::default());
        let received = poll_fn(|context| {
            polls = polls.saturating_add(1);
            // The first poll only waits for bytes; when it is woken there are some.
            if polls > 1 {
                ready!(self.lane().poll_enter(&mut place, context));
            }
            self.poll_receive(context)
        });
        let received = received.await;
        self.registration.wait(Activity::Elsewhere, None);
        match received {
            Ok(0) | Err(_) => self.interrupted(),
            Ok(bytes) => {
                // What was there already had waited for what was done before, and for nobody else.
                if let (Some(flight), 2..) = (flight, polls) {
                    self.note_lateness(flight);
                }
                self.note_received(bytes);
                self.note_progress();
                Ok(())
            }
        }
    }

    /// What comes next, if the wait for it tells how late the shard is. What dribbles does not: it waits by design.
    fn awaited_flight(&self) -> Option<Flight> {
        match (self.connection.is_handshaking(), self.is_dribbling) {
            (true, _) => Some(Flight::Handshake),
            (false, true) => None,
            (false, false) => Some(Flight::Other),
        }
    }

    /// A flight has come for which the shard had nothing else to wait for: what it had to wait for was the shard.
    fn note_lateness(&self, flight: Flight) {
        let mut lateness = self.shard.lateness.borrow_mut();
        if lateness.looks_at_flight()
            && let Ok(info) = TcpInfo::of(&descriptor(&self.stream))
        {
            lateness.note(self.shard.clock.now().monotonic, flight, info.since_data());
            self.shard.metrics.flight_wait_seconds.observe(info.since_data());
        }
    }

    /// What it has to pass before it is received from, because crowds are.
    fn lane(&self) -> &Rc<Lane> {
        match self.awaited_flight() {
            Some(Flight::Handshake) => &self.shard.handshakes,
            Some(Flight::Other) => &self.shard.flights,
            None => &self.shard.dribbles,
        }
    }

    fn what_is_awaited(&self) -> Activity {
        match self.connection.server() {
            server if server.is_in_transaction() => Activity::Receiving,
            server if server.is_securing() => Activity::Securing,
            _ => Activity::Idle,
        }
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let shard = Rc::clone(&self.shard);
        let mut buffer = shard.receive_buffer.borrow_mut();
        let Poll::Ready(received) = Pin::new(&mut self.stream).poll_read(context, &mut buffer) else {
            self.fall_idle();
            return Poll::Pending;
        };
        let bytes = received?;
        if bytes > 0 {
            self.wake_up();
            self.note_drain();
            self.connection.handle_input(shard.clock.now(), &buffer[..bytes], &mut self.output);
        }
        Poll::Ready(Ok(bytes))
    }

    /// Lets the conversation know that the server stops, before it is told anything else: what is open is the last, and
    /// whoever has begun nothing is not to begin, as its socket may be shut down for receiving already.
    fn note_drain(&mut self) {
        if self.shard.is_draining() {
            self.connection.handle_drain(&mut self.output);
        }
    }

    /// Gives back what is not needed while the client is silent.
    fn fall_idle(&mut self) {
        self.connection.rest();
        if self.output.wire.capacity() > 0 {
            self.shard.return_output(std::mem::take(&mut self.output));
        }
    }

    fn wake_up(&mut self) {
        if self.output.wire.capacity() == 0 {
            self.output = self.shard.take_output();
        }
    }

    /// Sends what has gathered, lets others have their turn, and goes on with what is received already.
    async fn send_much(&mut self) -> Result<(), Gone> {
        self.send().await?;
        self.shard.pieces.enter().await;
        self.note_drain();
        self.connection.handle_sent(self.shard.clock.now(), &mut self.output);
        self.note_progress();
        Ok(())
    }

    /// Sends everything that has gathered. The client has as long for that as for its next word.
    async fn send(&mut self) -> Result<(), Gone> {
        if self.output.wire.is_empty() {
            return Ok(());
        }
        let now = self.shard.clock.now().monotonic;
        let timeout = self.connection.poll_timeout().unwrap_or(now + self.shard.idle_timeout());
        let are_last_words = self.connection.server().outcome().is_some();
        let activity = if are_last_words { Activity::Leaving } else { Activity::Sending };
        self.registration.wait(activity, Some(timeout));
        let mut sent = 0;
        let result = poll_fn(|context| {
            while sent < self.output.wire.len() {
                let bytes = ready!(Pin::new(&mut self.stream).poll_write(context, &self.output.wire[sent..]))?;
                if bytes == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero)));
                }
                self.traffic.flights_out += 1;
                sent += bytes;
            }
            Poll::Ready(Ok(()))
        });
        let result = result.await;
        self.traffic.bytes_out += sent as u64;
        self.output.wire.clear();
        self.registration.wait(if are_last_words { Activity::Leaving } else { Activity::Elsewhere }, None);
        result.map_err(|_: io::Error| {
            // If it was we who ended it, the summary is to say so. There is nobody to tell any more.
            let _ = self.interrupted();
            self.output.wire.clear();
            Gone
        })
    }

    /// A wait has ended without bytes: because the client is gone, or because we ended it.
    fn interrupted(&mut self) -> Result<(), Gone> {
        self.wake_up();
        match self.registration.interrupted() {
            Some(Interrupt::TimedOut) => self.connection.handle_timeout(&mut self.output),
            Some(Interrupt::Drained) => self.connection.handle_drain(&mut self.output),
            Some(Interrupt::Cut) => self.connection.handle_cut(&mut self.output),
            None => return Err(Gone),
        }
        if self.connection.server().outcome().is_some() { Ok(()) } else { Err(Gone) }
    }

    /// The last words are sent. Unless the client said QUIT it may still be talking, and a socket closed with unread bytes
    /// resets the connection, which can destroy the last words on their way: so we wait a moment for its end.
    async fn see_off(&mut self) {
        if self.connection.server().outcome() == Some(Outcome::Quit) {
            return;
        }
        if SockRef::from(&descriptor(&self.stream)).shutdown(Shutdown::Write).is_err() {
            return;
        }
        self.registration.wait(Activity::Leaving, None);
        let shard = Rc::clone(&self.shard);
        let stream = &mut self.stream;
        let drain = async {
            let mut dropped = 0;
            while dropped < SEE_OFF_BYTES_MAX {
                match poll_fn(|context| {
                    Pin::new(&mut *stream).poll_read(context, &mut shard.receive_buffer.borrow_mut())
                })
                .await
                {
                    Ok(bytes) if bytes > 0 => dropped += bytes,
                    _ => break,
                }
            }
        };
        future::or(drain, async {
            Timer::new(SEE_OFF_TIME_MAX).await;
        })
        .await;
    }

    // ── What is done elsewhere ──────────────────────────────────────────────────────────────────────────────────────

    async fn verify(&mut self, credential: Credential) {
        let start = self.shard.clock.now();
        let verdict = match self.shard.passwords.recall(start, &credential) {
            Some(member) => {
                self.shard.metrics.auths.count(AuthOutcome::Remembered);
                Verdict::Accepted(member)
            }
            None => self.judge(start, credential).await,
        };
        let now = self.shard.clock.now();
        self.shard.metrics.auth_seconds.observe(now.monotonic.saturating_sub(start.monotonic));
        if let Verdict::Denied { delay } = verdict {
            Timer::new(delay).await;
        }
        self.connection.handle_verdict(self.shard.clock.now(), verdict, &mut self.output);
        self.note_progress();
    }

    async fn judge(&mut self, now: Now, credential: Credential) -> Verdict {
        let user = std::sync::Arc::from(credential.user.as_str());
        let verdict = self.shard.passwords.judge(now, self.identity.client.ip(), credential).await;
        let Identity { connection, client, .. } = self.identity;
        match &verdict {
            Verdict::Accepted(_) => self.shard.metrics.auths.count(AuthOutcome::Accepted),
            Verdict::Denied { .. } => {
                self.shard.report(AuthFailed { connection, client, user, reason: "wrong user or password".into() });
            }
            Verdict::Unavailable => {
                let reason = "too many failures before, or too many logins at once".into();
                self.shard.report(AuthPutOff { connection, client, user, reason });
            }
        }
        verdict
    }

    /// Puts the beginning of a message into the spool while the rest is still to come.
    async fn keep_piece(&mut self, piece: Piece) {
        let begun = self.incoming.take().filter(|incoming| incoming.is_of(piece.message));
        let mut incoming = begun.unwrap_or_else(|| self.shard.spool.begin(piece.message));
        let result = incoming.append(&piece).await;
        self.incoming = result.is_ok().then_some(incoming);
        self.note_drain();
        self.connection.handle_piece_kept(self.shard.clock.now(), result, piece.content, &mut self.output);
        self.note_progress();
    }

    /// The message that came in pieces may have been refused.
    fn forget_pieces(&mut self) {
        if self.connection.server().message_in_pieces().is_none() {
            self.incoming = None;
        }
    }

    /// Stores a message, unless its token says that it is stored already.
    async fn store(&mut self, message: Box<Message>) {
        let start = self.shard.clock.now();
        let incoming = self.incoming.take().filter(|incoming| incoming.is_of(message.id));
        let claim = match self.claim(start, &message).await {
            None => None,
            Some(Turn::First(claim)) => Some(claim),
            Some(Turn::Repeat(first, committed)) => return self.acknowledge_again(message, first, committed),
        };
        let delivered = match &self.shard.through {
            Some(through) => through.deliver(message).await,
            None if self.shard.sync == SyncPolicy::Through => self.shard.delivery.deliver(message).await,
            None => self.commit(message, incoming).await,
        };
        let now = self.shard.clock.now();
        if let (Some(claim), Ok(committed)) = (claim, &delivered.result) {
            claim.stored(now, delivered.message.id, committed);
        }
        if let Some(reason) = delivered.fault {
            let message = delivered.message.id.as_str().into();
            self.shard.report(DeliveryFault { message, recipient: None, reason: reason.into() });
        }
        if delivered.result.is_ok() {
            let took = now.monotonic.saturating_sub(start.monotonic);
            self.shard.report(report::message_stored(self.identity.connection, &delivered.message, took));
        }
        self.note_drain();
        self.connection.handle_stored(now, delivered.result, delivered.message, &mut self.output);
        self.note_progress();
    }

    /// Puts a message into the spool, and from there into the queue.
    async fn commit(&self, message: Box<Message>, incoming: Option<Incoming>) -> Delivered {
        if self.shard.queue.is_full() {
            return Delivered { result: Err(StoreFailure::Full), message, fault: None };
        }
        let Stored { result, message, fault } = match incoming {
            Some(incoming) => incoming.commit(message).await,
            None => self.shard.spool.commit(message).await,
        };
        if result.is_ok() {
            self.shard.queue.accept(&message);
        }
        Delivered { result, message, fault }
    }

    /// The turn of a message that bears a token; `None` for any other.
    async fn claim(&self, now: Now, message: &Message) -> Option<Turn> {
        let registry = &self.shard.once;
        let envelope = &message.envelope;
        let key = registry.key(envelope.user(), envelope.once()?);
        Some(registry.claim(now, key).await)
    }

    /// The client hears the id of the first one, as it would have heard it then.
    fn acknowledge_again(&mut self, mut message: Box<Message>, first: MessageId, committed: Committed) {
        message.id = first;
        self.shard.report(MessageRepeated {
            connection: self.identity.connection,
            message: first.as_str().into(),
            user: message.envelope.user().into(),
        });
        self.note_drain();
        self.connection.handle_stored(self.shard.clock.now(), Ok(committed), message, &mut self.output);
        self.note_progress();
    }

    // ── What is told ────────────────────────────────────────────────────────────────────────────────────────────────

    fn note_received(&mut self, bytes: usize) {
        self.has_filled_receive = bytes == limits::RECEIVE_BYTES;
        self.is_dribbling = bytes < limits::DRIBBLE_BYTES_MAX;
        self.traffic.flights_in += 1;
        self.traffic.bytes_in += bytes as u64;
    }

    /// Reports what happened since the last time.
    fn note_progress(&mut self) {
        let server = self.connection.server();
        if let (false, Some(time), Some(facts)) =
            (self.reported.handshake, self.connection.handshake_took(), server.tls())
        {
            self.reported.handshake = true;
            self.shard.metrics.tls_handshakes.count(report::handshake(facts));
            self.shard.metrics.tls_handshake_seconds.observe(time);
        }
        if !self.reported.first_mail && server.is_in_transaction() {
            self.reported.first_mail = true;
            let since = self.shard.clock.now().monotonic.saturating_sub(self.began);
            self.shard.metrics.first_mail_seconds.observe(since);
        }
        self.report_refusals();
    }

    fn report_refusals(&mut self) {
        let server = self.connection.server();
        let tally = server.tally();
        let refusals = tally.refused_for_now + tally.refused_for_good;
        let Some(reply) = tally.last_refusal.as_ref().filter(|_| refusals > self.reported.refusals) else {
            return;
        };
        self.reported.refusals = refusals;
        let user = report::user(server);
        self.shard.report(MessageRefused {
            connection: self.identity.connection,
            user,
            sender: None,
            reply_code: reply.code(),
            reason: reply.text().to_owned().into(),
        });
    }

    fn report_end(&mut self) {
        self.report_refusals();
        report::count(&self.connection, &self.shard.metrics);
        let duration = self.shard.clock.now().monotonic.saturating_sub(self.began);
        self.shard.report(report::connection_ended(&self.identity, &self.connection, &self.traffic, duration));
    }
}

/// Appends what arrives next.
async fn receive_into(shard: &Shard, stream: &mut TcpStream, early: &mut Vec<u8>) -> Result<usize, Gone> {
    let received = poll_fn(|context| {
        let mut buffer = shard.receive_buffer.borrow_mut();
        let bytes = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        early.extend_from_slice(&buffer[..bytes]);
        Poll::Ready(Ok::<_, io::Error>(bytes))
    });
    match received.await {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(Gone),
    }
}

/// How long a client may take to notice that we have hung up.
const SEE_OFF_TIME_MAX: Duration = Duration::from_secs(2);

/// How much a client may still be saying then.
const SEE_OFF_BYTES_MAX: usize = 1 << 20;
