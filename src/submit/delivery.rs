//! One request carried out: connections until the message is settled, and the parting.
//!
//! What is left uncertain by a broken connection is sent once more, if the server takes a message once, to those recipients
//! for whom it is uncertain and to nobody else.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::link::{Clock, End, Link};
use super::request::Request;
use super::show::Show;
use super::{SubmitError, judge};
use crate::exit::Exit;
use crate::limits::SUBMIT_CONNECTIONS_MAX;
use crate::proto::client::{Client, How, Message, Outcome, Point, ServerMemory, Verdict, uncertain};
use crate::wire::client::{Connection, Step, TlsSetup};

/// A request under way or done.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    request: &'a Request,
    setup: TlsSetup,
    clock: Clock,
    connection: Connection,
    link: Link,
}

impl<'a> Delivery<'a> {
    /// Begins; nothing is sent yet.
    pub(super) fn new(request: &'a Request, tls: Arc<ClientConfig>, memory: ServerMemory) -> Result<Self, SubmitError> {
        Self::begin(request, tls, memory, vec![request.message()?])
    }

    /// A visit without a message, for the sake of what a server gives to those who visit it.
    pub(super) fn without_message(
        request: &'a Request,
        tls: Arc<ClientConfig>,
        memory: ServerMemory,
    ) -> Result<Self, SubmitError> {
        Self::begin(request, tls, memory, Vec::new())
    }

    fn begin(
        request: &'a Request,
        tls: Arc<ClientConfig>,
        memory: ServerMemory,
        messages: Vec<Message>,
    ) -> Result<Self, SubmitError> {
        let setup = TlsSetup { config: tls, server_name: request.server_name()? };
        let clock = Clock::start();
        let client = Client::new(clock.now(), request.config()?, memory, messages);
        let connection = Connection::new(client, setup.clone());
        Ok(Self { request, setup, clock, connection, link: Link::new(clock) })
    }

    /// Submits, and says what became of it.
    pub(super) fn run(&mut self, show: &mut Show) -> Result<(), SubmitError> {
        let result = self.submit(show);
        show.finish(self.connection.client_mut(), self.clock.now().monotonic);
        judge(&result?, &self.request.recipients)
    }

    fn submit(&mut self, show: &mut Show) -> Result<Outcome, SubmitError> {
        let outcome = self.drive(show)?;
        let uncertain = outcome.messages.first().map(|verdicts| uncertain(verdicts)).unwrap_or_default();
        if uncertain.is_empty() || !self.is_taken_once() {
            return Ok(outcome);
        }
        show.remark(self.connection.client_mut(), "the connection broke: sending again, under the same token");
        let message = Message { doubted: true, ..self.request.message()?.part(&uncertain) };
        let tls = Arc::clone(&self.setup.config);
        let mut again = Self::begin(self.request, tls, self.memory().clone(), vec![message])?;
        // If the server is gone for good, the message stays as uncertain as it was.
        let Ok(second) = again.drive(show) else { return Ok(outcome) };
        *self = again;
        Ok(asked_again(outcome, &uncertain, second))
    }

    fn drive(&mut self, show: &mut Show) -> Result<Outcome, SubmitError> {
        let addresses = self.request.addresses()?;
        let server = self.request.server.key();
        for _ in 0..SUBMIT_CONNECTIONS_MAX {
            match self.link.converse(&addresses, &mut self.connection, show) {
                Ok(End::Done(outcome)) => return Ok(outcome),
                Ok(End::Reconnect(How::PlainEsmtp | How::Again)) => {
                    self.link = Link::new(self.clock);
                    self.connection.handle_reconnected(self.clock.now());
                }
                Err(error) => return self.end(show, format!("{server} cannot be reached: {error}")),
            }
        }
        self.end(show, format!("{server} needs too many connections"))
    }

    /// No further connection can be made. An earlier one may have brought an answer all the same, or the message there.
    fn end(&mut self, show: &mut Show, words: String) -> Result<Outcome, SubmitError> {
        let now = self.clock.now();
        let is_first = self.connection.client().connections() == 1;
        loop {
            self.connection.handle_closed(now);
            match self.connection.poll_step(now, &mut Vec::new()) {
                Step::Settled(outcome) if is_anything_known(&outcome) => {
                    show.remark(self.connection.client_mut(), &words);
                    return Ok(outcome);
                }
                // In plain ESMTP nobody would be there either.
                Step::Reconnect(_) if !is_first => self.connection.handle_reconnected(now),
                _ => return Err(SubmitError::new(Exit::Temporary, words)),
            }
        }
    }

    /// Does the server know the message by its token, if it has it?
    fn is_taken_once(&self) -> bool {
        self.memory().at(Point::Secured).is_some_and(|list| list.once)
    }

    /// What is remembered of the server now.
    pub(super) fn memory(&self) -> &ServerMemory {
        self.connection.client().memory()
    }

    /// Says goodbye without waiting for an answer.
    pub(super) fn leave(mut self) {
        self.link.leave(&mut self.connection);
    }

    /// Says goodbye and takes what comes behind the final reply; returns what is remembered then.
    pub(super) fn linger(mut self, time: Duration) {
        self.link.linger(&mut self.connection, time);
    }
}

/// The second conversation was about these recipients only. What the first one found out about the others stands.
fn asked_again(mut first: Outcome, uncertain: &[usize], second: Outcome) -> Outcome {
    if let Some(verdicts) = first.messages.first_mut() {
        for (recipient, verdict) in uncertain.iter().zip(second.messages.into_iter().flatten()) {
            verdicts[*recipient] = verdict;
        }
    }
    Outcome { failure: second.failure, ..first }
}

/// Was anything sent, or answered?
fn is_anything_known(outcome: &Outcome) -> bool {
    outcome.messages.iter().flatten().any(|verdict| !matches!(verdict, Verdict::Unsent(_)))
}
