//! The client's half of SMTP, ESMTP and QUICKSTART as a state machine: bytes and time in, bytes and actions out.
//!
//! Opens no socket, does no TLS and reads no clock; whoever drives it does, and is told when. It never puts a secret into
//! bytes outside TLS.
//!
//! # Driving a client
//!
//! Connect, then repeat:
//!
//! 1. [`Client::poll_output`] until it adds nothing. The bytes belong to the current layer: plain text until
//!    [`Action::StartTls`], TLS from then on, plain text again after [`Action::AbandonTls`].
//! 2. [`Client::poll_action`] and do what it says; begin again at 1 unless it says [`Action::Wait`].
//! 3. Send all that came together in one write, and say so with [`Client::handle_transmitted`].
//! 4. Receive, or wait until [`Client::poll_timeout`]. Say [`Client::handle_received`]; then, as long as there are bytes:
//!    if [`Client::incoming`] is [`Layer::Plain`], give them to [`Client::handle_bytes`] and keep those that it leaves;
//!    otherwise give them to TLS, tell [`Client::handle_secured`] once when the handshake is done, and give what TLS
//!    decrypts to [`Client::handle_bytes`].
//!
//! With a pipelined STARTTLS (draft §9) the handshake has already left while the greeting and the replies to QHLO and
//! STARTTLS are still to come in plain text: replies are counted, and the first byte after the 220 to STARTTLS is TLS.
//! If STARTTLS was refused the server threw the handshake away, so the client does the same and goes on in plain text.
//!
//! ```
//! use onetrip::proto::client::{Action, Address, Client, Config, Content, HelloName, Message, Recipient};
//! use onetrip::proto::client::{Security, ServerMemory};
//! use onetrip::time::Now;
//!
//! let now = Now::simulated_ms(0);
//! let recipient = Recipient::new(Address::parse("ann@example.org").unwrap());
//! let content = Content::normalised(b"Subject: hello\n\nHello.\n");
//! let message = Message::new(Address::parse("bob@example.org").unwrap(), vec![recipient], content);
//! let name = HelloName::parse("client.example.org").unwrap();
//! let config = Config { security: Security::Plain, ..Config::new(name) };
//! let mut client = Client::new(now, config, ServerMemory::default(), vec![message]);
//! let mut output = Vec::new();
//! assert_eq!(client.poll_output(now, &mut output), 0); // nothing is known: the greeting comes first
//! client.handle_bytes(now, b"220 server\r\n");
//! client.poll_output(now, &mut output);
//! assert_eq!(output, b"EHLO client.example.org\r\n");
//! assert!(matches!(client.poll_action(), Action::Wait));
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

pub use capabilities::{Capabilities, Limits, Quickstart};
pub use fallback::{Failure, How};
pub use flights::{Entry, Flights, Speaker};
pub use memory::{Memory, MemoryError, Point, ServerMemory};
pub use message::{
    Address, Content, EightBit, InvalidValue, Message, Notify, Recipient, Return, Verdict, Xtext, uncertain,
};

use crate::limits::{
    CLIENT_MESSAGE_TIMEOUT, CLIENT_REPLY_TIMEOUT, DOMAIN_BYTES_MAX, PASSWORD_BYTES_MAX, QUICKSTART_AVOID,
    USER_NAME_BYTES_MAX,
};
use crate::proto::reply_reader::ReplyReader;
use crate::proto::secret::Secret;
use crate::time::Now;
use fallback::Recovery;
use flights::Transcript;
use state::{Expected, PointFacts, SecuredBy, State};
use transaction::{Fate, Job, Transaction};

mod capabilities;
mod doubt;
mod fallback;
mod flight;
mod flights;
mod memory;
mod message;
mod reply;
mod state;
mod transaction;

#[cfg(test)]
mod tests;

/// Who the user is: sent inside TLS only.
#[derive(Clone, Debug)]
pub struct Login {
    user: String,
    password: Secret<Vec<u8>>,
}

impl Login {
    /// A name and a password that SASL PLAIN can carry: neither empty, neither with NUL (RFC 4616 §2).
    pub fn new(user: &str, password: Secret<Vec<u8>>) -> Result<Self, InvalidValue> {
        let password_bytes = password.expose();
        if user.is_empty() || password_bytes.is_empty() {
            return Err(InvalidValue::Empty);
        }
        if user.len() > USER_NAME_BYTES_MAX || password_bytes.len() > PASSWORD_BYTES_MAX {
            return Err(InvalidValue::TooLong);
        }
        if user.contains('\0') || password_bytes.contains(&0) {
            return Err(InvalidValue::Character);
        }
        Ok(Self { user: user.to_owned(), password })
    }
}

/// How a client names itself to the server: a domain or an address literal (RFC 5321 §4.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloName(String);

impl HelloName {
    /// Takes a name that is one printable word.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "" => Err(InvalidValue::Empty),
            _ if text.len() > DOMAIN_BYTES_MAX => Err(InvalidValue::TooLong),
            _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => Err(InvalidValue::Character),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// When TLS is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// From the first byte (RFC 8314 §3.3).
    Implicit,
    /// By QTLS or STARTTLS; without it nothing is sent.
    Required,
    /// By QTLS or STARTTLS if the server offers it.
    IfOffered,
    /// Never.
    Plain,
}

/// How much of QUICKSTART is used, if the server offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// All of it: commands are issued early where a list is remembered.
    Full,
    /// The client always waits for the list.
    Basic,
    /// None: EHLO.
    Esmtp,
}

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SMTP.
    Smtp,
    /// LMTP (RFC 2033): LHLO, and a reply for each recipient at the end of a message. It has no QUICKSTART.
    Lmtp,
}

/// What a client is told before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which protocol is spoken.
    pub dialect: Dialect,
    /// How the client names itself.
    pub hello_name: HelloName,
    /// When TLS is used.
    pub security: Security,
    /// How much of QUICKSTART is used.
    pub profile: Profile,
    /// Who the user is; `None` for no AUTH.
    pub login: Option<Login>,
    /// What becomes of the connection when all messages are settled.
    pub ending: Ending,
    /// Whether the dialog is written down for [`Client::poll_transcript`].
    pub transcript: bool,
    /// Longest wait for a reply.
    pub reply_timeout: Duration,
    /// Longest wait for the reply to a message.
    pub message_timeout: Duration,
}

/// What becomes of the connection when all messages are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// QUIT.
    Quit,
    /// It stays open for [`Client::handle_message`], until [`Client::handle_quit`].
    Stay,
}

impl Config {
    /// TLS required, the full profile, no login.
    pub const fn new(hello_name: HelloName) -> Self {
        Self {
            dialect: Dialect::Smtp,
            hello_name,
            security: Security::Required,
            profile: Profile::Full,
            login: None,
            ending: Ending::Quit,
            transcript: false,
            reply_timeout: CLIENT_REPLY_TIMEOUT,
            message_timeout: CLIENT_MESSAGE_TIMEOUT,
        }
    }
}

/// A layer of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// SMTP directly on TCP.
    Plain,
    /// SMTP inside TLS.
    Tls,
}

/// What became of the early data of a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyData {
    /// None was sent.
    None,
    /// The server took it.
    Accepted,
    /// The server did not take it; it must be sent again.
    Rejected,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a TLS handshake right behind the bytes already taken, then say [`Client::handle_tls_started`].
    StartTls,
    /// Throw the TLS handshake away: the server did. SMTP goes on in plain text.
    AbandonTls,
    /// All messages are settled. The connection may still say goodbye.
    Done(Outcome),
    /// Close this connection, make a new one, and say [`Client::handle_reconnected`].
    Reconnect(How),
    /// Close the connection; nothing more will come.
    Close,
    /// Nothing, until bytes or time arrive.
    Wait,
}

/// What became of the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For each message, in the order they were given, one verdict for each recipient.
    pub messages: Vec<Vec<Verdict>>,
    /// Why the session ended, if it did before all messages were sent.
    pub failure: Option<Failure>,
}

/// Early data sent so far.
#[derive(Debug)]
struct Early {
    bytes_left: usize,
    sent: Zeroizing<Vec<u8>>,
}

/// A client on its way to have some messages submitted to one server.
#[derive(Debug)]
pub struct Client {
    config: Config,
    memory: ServerMemory,
    jobs: Vec<Job>,
    /// Jobs before this one are settled.
    first_unsettled: usize,
    profile: Profile,
    flights: Flights,
    transcript: Transcript,
    actions: VecDeque<Action>,
    connections: u32,
    next_number: u64,
    link: Link,
}

/// What belongs to one connection.
#[derive(Debug)]
struct Link {
    state: State,
    point: Point,
    connect: PointFacts,
    secured: PointFacts,
    expected: VecDeque<Expected>,
    transactions: VecDeque<Transaction>,
    /// MAIL would fall into a transaction that the server may still hold open.
    needs_reset: bool,
    messages_begun: u32,
    authenticated: bool,
    incoming: Layer,
    secured_by: Option<SecuredBy>,
    /// Plain replies that come before TLS begins, after a QTLS that was pipelined.
    plain_replies_left: usize,
    early: Option<Early>,
    reader: ReplyReader,
    output: Vec<u8>,
    output_has_secret: bool,
    active: Duration,
    /// Gone by when the last verdicts were handed over.
    round_trips: u32,
}

impl Link {
    fn new(now: Now) -> Self {
        Self {
            state: State::AtPoint(Point::Connect),
            point: Point::Connect,
            connect: PointFacts::default(),
            secured: PointFacts::default(),
            expected: VecDeque::new(),
            transactions: VecDeque::new(),
            needs_reset: false,
            messages_begun: 0,
            authenticated: false,
            incoming: Layer::Plain,
            secured_by: None,
            plain_replies_left: 0,
            early: None,
            reader: ReplyReader::default(),
            output: Vec::new(),
            output_has_secret: false,
            active: now.monotonic,
            round_trips: 0,
        }
    }

    fn facts(&self, point: Point) -> &PointFacts {
        match point {
            Point::Connect => &self.connect,
            Point::Secured => &self.secured,
        }
    }

    fn facts_mut(&mut self, point: Point) -> &mut PointFacts {
        match point {
            Point::Connect => &mut self.connect,
            Point::Secured => &mut self.secured,
        }
    }
}

impl Client {
    /// A client with what it remembers of its server; the connection is being made now.
    pub fn new(now: Now, config: Config, memory: ServerMemory, messages: Vec<Message>) -> Self {
        let mut client = Self {
            profile: config.profile,
            transcript: Transcript::new(config.transcript),
            config,
            memory,
            jobs: messages.into_iter().map(Job::new).collect(),
            first_unsettled: 0,
            flights: Flights::default(),
            actions: VecDeque::new(),
            connections: 0,
            next_number: 0,
            link: Link::new(now),
        };
        if client.memory.avoids_quickstart(now.unix) || client.config.dialect == Dialect::Lmtp {
            client.profile = Profile::Esmtp;
        }
        client.memory.see(now.unix);
        client.start_connection(now);
        client
    }

    // ── What arrived ────────────────────────────────────────────────────────────────────────────────────────────────

    /// The new connection that [`Action::Reconnect`] asked for is being made.
    pub fn handle_reconnected(&mut self, now: Now) {
        if matches!(self.link.state, State::Closed(Some(_))) {
            self.start_connection(now);
        }
    }

    /// Bytes of the current layer came. Returns how many were taken; the others belong to the next layer.
    pub fn handle_bytes(&mut self, now: Now, bytes: &[u8]) -> usize {
        self.link.active = now.monotonic;
        let layer = self.link.incoming;
        let mut taken = 0;
        while taken < bytes.len() && layer == self.link.incoming && !self.is_over() {
            match self.link.reader.handle_bytes(&bytes[taken..]) {
                Ok(progress) => {
                    taken += progress.consumed;
                    if let Some(reply) = progress.reply {
                        self.handle_reply(now, &reply);
                    }
                }
                Err(error) => self.handle_broken(now, Failure::Protocol(error)),
            }
        }
        if self.is_over() { bytes.len() } else { taken }
    }

    /// The TLS handshake that was asked for is on its way. `early_data_bytes_max` is what TLS can carry at once
    /// because it resumes a session; zero if it does not.
    pub fn handle_tls_started(&mut self, now: Now, early_data_bytes_max: usize) {
        if early_data_bytes_max == 0 || self.link.state != State::Handshake || !self.may_send_early_data() {
            return;
        }
        self.link.active = now.monotonic;
        self.link.early = Some(Early { bytes_left: early_data_bytes_max, sent: Zeroizing::default() });
        self.link.state = State::AtPoint(Point::Secured);
    }

    /// The TLS handshake is done: what comes and goes from now on is protected.
    pub fn handle_secured(&mut self, now: Now, early_data: EarlyData) {
        self.link.active = now.monotonic;
        self.link.incoming = Layer::Tls;
        if let Some(early) = self.link.early.take()
            && early_data != EarlyData::Accepted
        {
            // The server saw none of it, so all of it goes first again.
            self.link.output.splice(..0, early.sent.iter().copied());
            self.link.output_has_secret = true;
            self.remark("the server did not take the early data: it is sent again");
        }
        if self.link.state == State::Handshake {
            self.link.state = State::AtPoint(Point::Secured);
        }
        // The server's greeting may be in the same packet as the end of its handshake.
        self.advance();
    }

    /// TLS failed for good; the words are the TLS library's. If the server's certificate is the reason,
    /// trying in another way would not help.
    pub fn handle_tls_failed(&mut self, now: Now, words: &str, trust: Trust) {
        match trust {
            Trust::Distrusted => self.finish(Some(Failure::Tls(words.to_owned()))),
            Trust::Unknown => self.handle_broken(now, Failure::Tls(words.to_owned())),
        }
    }

    /// The server closed the connection, or it broke.
    pub fn handle_closed(&mut self, now: Now) {
        self.handle_broken(now, Failure::Closed);
    }

    /// The time that [`Client::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.poll_timeout().is_some_and(|deadline| now.monotonic >= deadline) {
            self.handle_broken(now, Failure::TimedOut);
        }
    }

    /// One more message; its verdicts come at its place in the next [`Outcome`].
    pub fn handle_message(&mut self, message: Message) {
        self.jobs.push(Job::new(message));
    }

    /// No more messages will come: say goodbye when all are settled.
    pub fn handle_quit(&mut self) {
        self.config.ending = Ending::Quit;
    }

    /// The first flight leaves in the SYN (RFC 7413).
    pub fn handle_fast_open(&mut self) {
        self.flights.handle_fast_open();
    }

    /// Bytes of any layer have left; for the counts.
    pub fn handle_transmitted(&mut self) {
        self.flights.handle_transmitted();
    }

    /// Bytes of any layer have come; for the counts.
    pub fn handle_received(&mut self) {
        self.flights.handle_received();
    }

    // ── What to do next ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Adds what may leave now to `out`, in pieces of about [`crate::limits::CLIENT_PIECE_BYTES`]; returns how many
    /// bytes were added. Zero means: ask for the action.
    pub fn poll_output(&mut self, now: Now, out: &mut Vec<u8>) -> usize {
        if self.actions.contains(&Action::AbandonTls) {
            // What follows is plain text, and whoever drives us does not know that yet.
            return 0;
        }
        self.advance();
        let output = &mut self.link.output;
        let bytes = self.link.early.as_ref().map_or(output.len(), |early| early.bytes_left.min(output.len()));
        if bytes == 0 {
            return 0;
        }
        self.link.active = now.monotonic;
        out.extend_from_slice(&output[..bytes]);
        if let Some(early) = &mut self.link.early {
            early.sent.extend_from_slice(&output[..bytes]);
            early.bytes_left -= bytes;
        }
        if bytes < output.len() {
            output.drain(..bytes);
        } else if std::mem::take(&mut self.link.output_has_secret) {
            output.zeroize();
        } else {
            output.clear();
        }
        bytes
    }

    /// What to do now that all output is taken.
    pub fn poll_action(&mut self) -> Action {
        let output_waits = !self.link.output.is_empty() && self.link.early.is_none();
        if output_waits && matches!(self.actions.front(), Some(Action::StartTls)) {
            return Action::Wait;
        }
        self.actions.pop_front().unwrap_or(Action::Wait)
    }

    /// When [`Client::handle_timeout`] is due, on the monotonic clock; `None` if nothing is waited for.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.is_over() || self.is_resting() {
            return None;
        }
        // A server that passes a message on before it answers may hold back the replies before that one with it.
        let waits_for_message = self.link.expected.iter().any(|expected| matches!(expected, Expected::End(_)));
        let wait = if waits_for_message { self.config.message_timeout } else { self.config.reply_timeout };
        Some(self.link.active + wait)
    }

    /// Is all that was said answered, and does the client stay for the next message? How long that takes is not the
    /// server's doing.
    fn is_resting(&self) -> bool {
        let link = &self.link;
        matches!(link.state, State::Transactions)
            && self.config.ending == Ending::Stay
            && link.expected.is_empty()
            && link.transactions.is_empty()
            && link.output.is_empty()
    }

    /// The next line of the dialog, if the configuration asked for it. Secrets are left out.
    pub fn poll_transcript(&mut self) -> Option<Entry> {
        self.transcript.pop()
    }

    /// Which layer received bytes belong to.
    pub fn incoming(&self) -> Layer {
        self.link.incoming
    }

    /// What is remembered of the server now.
    pub fn memory(&self) -> &ServerMemory {
        &self.memory
    }

    /// The flights of the connection.
    pub fn flights(&self) -> &Flights {
        &self.flights
    }

    /// The round trips from the start of the connection until the last message was settled.
    pub fn round_trips(&self) -> u32 {
        self.link.round_trips
    }

    /// Connections made so far.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    // ── Beginnings and ends ─────────────────────────────────────────────────────────────────────────────────────────

    fn start_connection(&mut self, now: Now) {
        self.link = Link::new(now);
        self.flights = Flights::default();
        self.connections += 1;
        if self.config.security == Security::Implicit {
            self.start_tls(SecuredBy::Implicit);
            self.link.incoming = Layer::Tls;
        }
        self.advance();
    }

    fn start_tls(&mut self, by: SecuredBy) {
        self.link.secured_by = Some(by);
        self.link.state = State::Handshake;
        self.actions.push_back(Action::StartTls);
        self.remark("TLS handshake");
    }

    fn wants_tls(&self) -> bool {
        matches!(self.config.security, Security::Required | Security::IfOffered)
    }

    /// Has this connection ended, or is it to be replaced by another one? It takes no more messages.
    pub fn is_over(&self) -> bool {
        matches!(self.link.state, State::Closed(_))
    }

    /// The connection broke in one way or another. If QUICKSTART may be the reason, plain ESMTP is tried.
    fn handle_broken(&mut self, now: Now, failure: Failure) {
        if self.is_over() {
            return;
        }
        if self.link.state == State::Closing {
            return self.close();
        }
        if let State::Draining(Recovery::Reconnect(how)) = self.link.state {
            return self.reconnect_broken(now, how, failure);
        }
        if let Some(cause) = self.failed_login() {
            return self.finish_without_goodbye(Some(cause));
        }
        if let State::Draining(Recovery::Fail(cause)) = &self.link.state {
            let cause = cause.clone();
            return self.finish_broken(cause);
        }
        if self.is_hurried() {
            return self.reconnect_broken(now, How::PlainEsmtp, failure);
        }
        self.finish_broken(failure);
    }

    /// Has the client said something before the server agreed to it?
    fn is_hurried(&self) -> bool {
        let early = |facts: &PointFacts| facts.hello.is_some_and(state::Hello::is_early) && !facts.accepted;
        let in_handshake = self.link.secured_by.is_some_and(SecuredBy::was_hurried) && !self.link.secured.accepted;
        self.profile != Profile::Esmtp && (early(&self.link.connect) || early(&self.link.secured) || in_handshake)
    }

    /// Gives this connection up and asks for another one.
    fn reconnect(&mut self, now: Now, how: How) {
        self.void_transactions();
        if how == How::PlainEsmtp {
            self.give_up_quickstart(now);
        }
        self.link.state = State::Closed(Some(how));
        self.link.output.zeroize();
        self.actions.retain(|action| matches!(action, Action::Done(_)));
        self.actions.push_back(Action::Reconnect(how));
    }

    fn give_up_quickstart(&mut self, now: Now) {
        self.profile = Profile::Esmtp;
        self.memory.avoid_quickstart_until(now.unix + QUICKSTART_AVOID);
        self.memory.forget(Point::Connect);
        self.memory.forget(Point::Secured);
        self.remark("QUICKSTART failed: plain ESMTP from here on");
    }

    /// Settles everything and says goodbye.
    fn finish(&mut self, failure: Option<Failure>) {
        if self.is_over() {
            return;
        }
        let whole = failure.as_ref().is_none_or(Failure::leaves_dialog_whole);
        self.settle_all(failure);
        if whole && self.link.expected.is_empty() {
            self.say("QUIT");
            self.link.expected.push_back(Expected::Quit);
            self.link.state = State::Closing;
        } else {
            self.close();
        }
    }

    /// Settles everything when the server has said that it goes, or has gone: nobody would hear a goodbye.
    fn finish_without_goodbye(&mut self, failure: Option<Failure>) {
        self.settle_all(failure);
        self.close();
    }

    fn settle_all(&mut self, failure: Option<Failure>) {
        self.link.transactions.clear();
        if let Some(failure) = &failure {
            self.remark(&failure.to_string());
            let verdict = Verdict::Unsent(failure.clone());
            self.jobs.iter_mut().for_each(|job| job.settle_rest(&verdict));
        }
        self.report(failure);
    }

    fn are_all_settled(&self) -> bool {
        !self.jobs.is_empty() && self.jobs.iter().all(Job::is_settled)
    }

    /// The failure of the login, if that is why this connection is being ended.
    fn failed_login(&self) -> Option<Failure> {
        match &self.link.state {
            State::Draining(Recovery::Fail(cause)) if cause.is_of_login() => Some(cause.clone()),
            _ => None,
        }
    }

    /// Hands over the verdicts of all messages.
    fn report(&mut self, failure: Option<Failure>) {
        let messages = std::mem::take(&mut self.jobs).into_iter().map(Job::into_verdicts).collect();
        self.first_unsettled = 0;
        self.link.round_trips = self.flights.packet();
        self.actions.push_back(Action::Done(Outcome { messages, failure }));
    }

    fn close(&mut self) {
        self.link.state = State::Closed(None);
        self.link.output.zeroize();
        self.actions.push_back(Action::Close);
    }

    /// Takes open transactions back: their unsettled recipients wait again.
    fn void_transactions(&mut self) {
        for transaction in std::mem::take(&mut self.link.transactions) {
            self.void(&transaction);
        }
    }

    fn void(&mut self, transaction: &Transaction) {
        let fates = &mut self.jobs[transaction.job].fates;
        for &recipient in transaction.recipients.iter() {
            if fates[recipient] == Fate::Open {
                fates[recipient] = Fate::Waiting;
            }
        }
    }

    fn remark(&mut self, text: &str) {
        self.transcript.push(Speaker::Remark, self.flights.next_packet(), || text.to_owned());
    }
}

/// What is known about the server's certificate when TLS failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The certificate is the reason.
    Distrusted,
    /// Something else is.
    Unknown,
}
