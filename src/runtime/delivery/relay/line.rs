//! One connection to another server, from its first message to its goodbye.
//!
//! Sends what the client core has to say in one write, receives, and waits: for the server, for the next message, for
//! the time to be up. What is decided here is the order of system calls, and no more.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future;
use glommio::timer::Timer;

use super::stream::Stream;
use super::{Errand, Hop};
use crate::limits::RELAY_GOODBYE_TIMEOUT;
use crate::proto::client::{self, Client, Outcome};
use crate::relay::handover::Answers;
use crate::wire::client::{Connection, Step};

/// No connection could be made; the words are for the operator.
#[derive(Debug)]
pub(super) struct NoConnection(pub(super) String);

/// A connection with its socket.
#[derive(Debug)]
pub(super) struct Line {
    hop: Rc<Hop>,
    wire: Connection,
    stream: Option<Stream>,
    output: Vec<u8>,
    /// A write failed. Part of it may have left, so nothing may follow; but the server may have said why.
    write_failed: bool,
    was_connected: bool,
}

/// Why a connection that had nothing to do does not wait any longer.
pub(super) enum Woken {
    /// There is a message.
    By(Errand),
    /// The server closed it.
    Closed,
    /// It has waited long enough, or nothing more will come.
    Tired,
}

impl Line {
    /// A connection for this message, which is not made yet.
    pub(super) fn new(hop: Rc<Hop>, message: client::Message, security: client::Security) -> Self {
        let client = Client::new(hop.now(), hop.config(security), hop.memory(), vec![message]);
        let wire = Connection::new(client, hop.tls_setup());
        Self { hop, wire, stream: None, output: Vec::new(), write_failed: false, was_connected: false }
    }

    /// Gives it one more message.
    pub(super) fn add(&mut self, message: client::Message) {
        self.wire.client_mut().handle_message(message);
    }

    /// Has the connection ended? Then it must not be given a message, and nothing will be heard from it.
    pub(super) fn is_over(&self) -> bool {
        self.wire.client().is_over()
    }

    /// Talks until the message is settled.
    pub(super) async fn converse(&mut self) -> Result<Answers, NoConnection> {
        let result = self.converse_to_the_end().await;
        self.hop.remember(self.wire.client().memory());
        let outcome = result?;
        let client = self.wire.client();
        Ok(Answers {
            verdicts: outcome.messages.into_iter().next().unwrap_or_default(),
            failure: outcome.failure,
            confirmed: client.was_ready(),
            offers_dsn: client.offered().dsn,
            offers_once: client.offered().once,
        })
    }

    async fn converse_to_the_end(&mut self) -> Result<Outcome, NoConnection> {
        loop {
            match self.wire.poll_step(self.hop.now(), &mut self.output) {
                Step::Send => self.send().await?,
                Step::Receive if self.is_over() => return Err(no_outcome()),
                Step::Receive => {
                    self.send().await?;
                    if self.stream.is_some() {
                        self.receive().await;
                    }
                }
                Step::Settled(outcome) => return Ok(outcome),
                Step::Reconnect(_) => {
                    self.output.clear();
                    self.stream = None;
                    self.write_failed = false;
                    self.wire.handle_reconnected(self.hop.now());
                }
                Step::Close => return Err(no_outcome()),
            }
        }
    }

    /// Waits for the next message, and hears what the server has to say meanwhile.
    pub(super) async fn wait(&mut self, errands: &flume::Receiver<Errand>, idle: Duration) -> Woken {
        loop {
            match self.wire.poll_step(self.hop.now(), &mut self.output) {
                // A socket that was closed is always ready to be read: whoever waited for it would never stop.
                Step::Receive if self.is_over() => return Woken::Closed,
                Step::Receive if self.send().await.is_ok() && !self.write_failed => {}
                _ => return Woken::Closed,
            }
            let heard = async {
                self.receive_once().await;
                None
            };
            let asked = async { Some(errands.recv_async().await.map_or(Woken::Tired, Woken::By)) };
            let tired = async {
                Timer::new(idle).await;
                Some(Woken::Tired)
            };
            // What was asked counts more than what was heard: an errand that was taken must not be dropped.
            if let Some(woken) = future::or(asked, future::or(heard, tired)).await {
                return woken;
            }
        }
    }

    /// Ends it, politely if there is anybody left.
    pub(super) async fn part(mut self) {
        self.wire.client_mut().handle_quit();
        let goodbye = async {
            loop {
                match self.wire.poll_step(self.hop.now(), &mut self.output) {
                    Step::Receive if self.stream.is_none() || self.write_failed || self.is_over() => return,
                    Step::Receive => {
                        let _ = self.send().await;
                        self.receive().await;
                    }
                    Step::Close => {
                        let _ = self.send().await;
                        return;
                    }
                    Step::Reconnect(_) => return,
                    Step::Send | Step::Settled(_) => {}
                }
            }
        };
        let too_slow = async {
            Timer::new(RELAY_GOODBYE_TIMEOUT).await;
        };
        future::or(goodbye, too_slow).await;
    }

    // ── Bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends what has gathered; makes the connection first if there is none.
    async fn send(&mut self) -> Result<(), NoConnection> {
        if self.stream.is_none() {
            match self.hop.connect(&self.output).await {
                Ok(stream) => self.stream = Some(stream),
                // Some recipients may have their verdicts already: the client core knows.
                Err(_) if self.was_connected => self.wire.handle_closed(self.hop.now()),
                Err(error) => return Err(error),
            }
            self.was_connected = true;
            self.output.clear();
        }
        if let (Some(stream), false) = (&mut self.stream, self.write_failed || self.output.is_empty()) {
            let sent = stream.write_all(&self.output, self.hop.settings.reply_timeout).await;
            self.write_failed = !sent.unwrap_or(false);
        }
        self.output.clear();
        Ok(())
    }

    /// Receives, or waits until it has taken too long.
    async fn receive(&mut self) {
        let now = self.hop.now();
        let left =
            self.wire.poll_timeout().map_or(self.hop.settings.reply_timeout, |due| due.saturating_sub(now.monotonic));
        let too_slow = async {
            Timer::new(left).await;
            false
        };
        let heard = async {
            self.receive_once().await;
            true
        };
        if !future::or(heard, too_slow).await {
            self.wire.handle_timeout(self.hop.now());
        }
    }

    /// One receive. Cancelling it loses nothing: bytes are taken in the same poll in which they are read.
    async fn receive_once(&mut self) {
        poll_fn(|context| self.poll_receive(context)).await;
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut buffer = self.hop.receive_buffer.borrow_mut();
        let Some(stream) = &mut self.stream else { return Poll::Ready(()) };
        let received: io::Result<usize> = ready!(stream.poll_read(context, &mut buffer));
        match received {
            Ok(bytes) if bytes > 0 => self.wire.handle_input(self.hop.now(), &buffer[..bytes]),
            _ => self.wire.handle_closed(self.hop.now()),
        }
        Poll::Ready(())
    }
}

fn no_outcome() -> NoConnection {
    NoConnection("the connection ended without an outcome".to_owned())
}
