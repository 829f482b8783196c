//! Passes messages on to another server by SMTP or LMTP, from a shard's executor.
//!
//! ```text
//!   carry ──▶ Errand ──▶ an open connection that has nothing to do, else a new one, else the queue of the hop
//!                                │
//!                              Line: MAIL, RCPT, BDAT in one flight ──▶ Answers ──▶ AttemptResult
//!                                │
//!                              waits for the next errand, says QUIT when none comes
//! ```
//!
//! What is said and what the answers mean is decided by [`crate::proto::client`] and [`crate::relay::handover`]; here are
//! the sockets, the number of connections, and when they end. It must not decide when a message is tried again.

mod line;
mod material;
mod resolver;
mod stream;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::sleep;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use self::line::{Line, NoConnection, Woken};
use self::resolver::Resolver;
use self::stream::Stream;
use crate::limits::{RECEIVE_BYTES, RELAY_GOODBYE_TIMEOUT, RELAY_ROUNDS_MAX};
use crate::proto::client;
use crate::proto::client::{Config, Dialect, Ending, Failure, HelloName, Login, Security, ServerMemory, Verdict};
use crate::proto::message::Message;
use crate::relay::handover::{self, Answers, Atomicity, Parcel, Terms};
use crate::relay::outcome::AttemptResult;
use crate::relay::{Destination, LmtpAddress, RelayTls};
use crate::runtime::clock::Clock;
use crate::runtime::shard::spawn_guarded;
use crate::time::Now;
use crate::wire::client::TlsSetup;

pub use self::material::{RelayMaterial, RelayMaterialError};

/// How one shard talks to one other server.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Where it is. Must be another server: [`Destination::is_remote`].
    pub destination: Destination,
    /// This server's name.
    pub host_name: String,
    /// Connections at a time.
    pub connections_max: usize,
    /// How long a connection waits for the next message.
    pub idle: Duration,
    /// How long a reply may take, and how long the server may take nothing of what it is sent.
    pub reply_timeout: Duration,
    /// Whether TLS is used.
    pub tls: RelayTls,
    /// Whom to trust, and the sessions that can be resumed.
    pub tls_config: Arc<ClientConfig>,
    /// Who this server is there.
    pub login: Option<Login>,
}

/// One shard's way to one other server.
#[derive(Debug)]
pub struct Relay {
    hop: Rc<Hop>,
}

/// What all connections to the server share.
#[derive(Debug)]
struct Hop {
    settings: RelaySettings,
    terms: Terms,
    clock: Clock,
    place: Place,
    server_name: ServerName<'static>,
    /// What is remembered of the server, so that the next connection needs fewer round trips.
    memory: RefCell<ServerMemory>,
    /// Used between two waits, never across one.
    receive_buffer: RefCell<Box<[u8]>>,
    /// Connections that are open or being made.
    connections: Cell<usize>,
    /// Errands that are being run or wait.
    errands: Cell<usize>,
    /// Errands for which there was no connection.
    waiting: RefCell<VecDeque<Errand>>,
    /// Connections that have nothing to do, the one that had something last at the end: it is the one least likely to have
    /// been closed.
    resting: RefCell<Vec<Resting>>,
    next_number: Cell<u64>,
    closing: Cell<bool>,
}

#[derive(Debug)]
enum Place {
    Tcp(Resolver),
    Unix(PathBuf),
}

#[derive(Debug)]
struct Resting {
    number: u64,
    errands: flume::Sender<Errand>,
}

/// One message on its way, and who waits for what becomes of it.
#[derive(Debug)]
struct Errand {
    message: client::Message,
    answer: flume::Sender<Result<Answers, NoConnection>>,
}

impl Relay {
    /// A way to the server; nothing is connected yet. Must be called on an executor of glommio, on which it stays.
    pub fn start(settings: RelaySettings, clock: Clock) -> Self {
        let place = match &settings.destination {
            Destination::Lmtp(LmtpAddress::Unix(path)) => Place::Unix(path.clone()),
            Destination::Lmtp(LmtpAddress::Tcp { host, port }) | Destination::Relay { host, port, .. } => {
                Place::Tcp(Resolver::new(host, *port))
            }
            other => unreachable!("{other} is not another server"),
        };
        let terms = Terms {
            hop: name(&settings.destination).into(),
            host_name: settings.host_name.as_str().into(),
            verified_tls: settings.tls == RelayTls::Require,
        };
        let server_name = ServerName::try_from(name(&settings.destination));
        Self {
            hop: Rc::new(Hop {
                // Only a Unix-domain socket has no name that TLS could ask for, and it has no TLS.
                server_name: server_name
                    .unwrap_or_else(|_| ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())),
                terms,
                clock,
                place,
                memory: RefCell::default(),
                receive_buffer: RefCell::new(vec![0; RECEIVE_BYTES].into_boxed_slice()),
                connections: Cell::new(0),
                errands: Cell::new(0),
                waiting: RefCell::default(),
                resting: RefCell::default(),
                next_number: Cell::new(0),
                closing: Cell::new(false),
                settings,
            }),
        }
    }

    /// How many messages it can take at a time.
    pub fn connections_max(&self) -> usize {
        self.hop.settings.connections_max
    }

    /// How many messages it can take now. More are not refused, but wait here.
    pub fn capacity(&self) -> usize {
        self.hop.settings.connections_max.saturating_sub(self.hop.errands.get())
    }

    /// How many messages wait here for a connection.
    pub fn waiting(&self) -> usize {
        self.hop.waiting.borrow().len()
    }

    /// Passes a message on to these of its recipients. Every one of them has an outcome; none of them is tried again here but
    /// where the server asked for it.
    pub async fn carry(&self, message: &Message, recipients: &[u32]) -> AttemptResult {
        self.carry_packed(handover::pack(message, recipients, Atomicity::EachForItself, &self.hop.terms)).await
    }

    /// Passes a message on to all its recipients, or to none of them.
    pub async fn carry_whole(&self, message: &Message) -> AttemptResult {
        let recipients: Vec<u32> = (0..).take(message.envelope.recipient_count()).collect();
        let parcel = handover::pack(message, &recipients, Atomicity::AllOrNone, &self.hop.terms);
        self.carry_packed(parcel).await
    }

    async fn carry_packed(&self, mut parcel: Parcel) -> AttemptResult {
        let Some(outgoing) = parcel.message.take() else {
            return handover::unasked(parcel);
        };
        match self.hop.run(outgoing).await {
            Ok(answers) => handover::judge(&parcel, &answers, &self.hop.terms),
            Err(NoConnection(words)) => handover::unreachable(&parcel, NO_ANSWER, &words),
        }
    }

    /// Says goodbye on all connections that have nothing to do, and waits for it a moment.
    pub async fn close(&self) {
        self.hop.close();
        let mut looks = RELAY_GOODBYE_TIMEOUT.as_millis() / CLOSE_LOOK.as_millis();
        while self.hop.connections.get() > 0 && looks > 0 {
            sleep(CLOSE_LOOK).await;
            looks -= 1;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.hop.close();
    }
}

/// What the server is called in reports and certificates.
fn name(destination: &Destination) -> String {
    match destination {
        Destination::Relay { host, .. } | Destination::Lmtp(LmtpAddress::Tcp { host, .. }) => host.clone(),
        other => other.to_string(),
    }
}

// ── Messages and connections ────────────────────────────────────────────────────────────────────────────────────────

impl Hop {
    /// Has a message carried, by whichever connection.
    async fn run(self: &Rc<Self>, message: client::Message) -> Result<Answers, NoConnection> {
        self.errands.set(self.errands.get() + 1);
        let (answer, answers) = flume::bounded(1);
        self.hand_out(Errand { message, answer });
        let result = answers.recv_async().await;
        self.errands.set(self.errands.get() - 1);
        result.unwrap_or_else(|_| Err(NoConnection("carrying the message failed in an unforeseen way".to_owned())))
    }

    fn hand_out(self: &Rc<Self>, mut errand: Errand) {
        while let Some(resting) = self.rouse() {
            match resting.errands.try_send(errand) {
                Ok(()) => return,
                Err(refused) => errand = refused.into_inner(),
            }
        }
        if self.connections.get() < self.settings.connections_max {
            spawn_guarded(serve(Rc::clone(self), Seat::take(self), errand));
        } else {
            self.waiting.borrow_mut().push_back(errand);
        }
    }

    fn rouse(&self) -> Option<Resting> {
        self.resting.borrow_mut().pop()
    }

    fn lie_down(&self) -> (u64, flume::Receiver<Errand>) {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let (errands, wait) = flume::bounded(1);
        if !self.closing.get() {
            self.resting.borrow_mut().push(Resting { number, errands });
        }
        (number, wait)
    }

    fn get_up(&self, number: u64) {
        self.resting.borrow_mut().retain(|resting| resting.number != number);
    }

    /// Connections that have nothing to do see that nothing will come, and end.
    fn close(&self) {
        self.closing.set(true);
        self.resting.borrow_mut().clear();
    }

    // ── What a connection needs ─────────────────────────────────────────────────────────────────────────────────────

    fn now(&self) -> Now {
        self.clock.now()
    }

    /// A connection on which the first flight is sent.
    async fn connect(&self, first_flight: &[u8]) -> Result<Stream, NoConnection> {
        let failed =
            |error: io::Error| NoConnection(format!("{} cannot be reached: {error}", self.settings.destination));
        match &self.place {
            Place::Unix(path) => Stream::over_unix(path, first_flight).await.map_err(failed),
            Place::Tcp(resolver) => {
                let found = resolver.addresses(self.now().monotonic).await;
                let addresses = found.map_err(|error| NoConnection(error.to_string()))?;
                Stream::over_tcp(&addresses, first_flight).await.map_err(|error| {
                    resolver.doubt();
                    failed(error)
                })
            }
        }
    }

    fn config(&self, security: Security) -> Config {
        let name = HelloName::parse(&self.settings.host_name);
        let localhost = || HelloName::parse("localhost").expect("it is one printable word");
        let dialect = if self.is_lmtp() { Dialect::Lmtp } else { Dialect::Smtp };
        Config {
            dialect,
            security,
            login: self.settings.login.clone(),
            ending: Ending::Stay,
            reply_timeout: self.settings.reply_timeout,
            ..Config::new(name.unwrap_or_else(|_| localhost()))
        }
    }

    fn is_lmtp(&self) -> bool {
        matches!(self.settings.destination, Destination::Lmtp(_))
    }

    fn security(&self) -> Security {
        match (&self.settings.destination, self.settings.tls) {
            (Destination::Relay { implicit_tls: true, .. }, _) => Security::Implicit,
            (_, RelayTls::Require) => Security::Required,
            (_, RelayTls::Opportunistic) => Security::IfOffered,
            (_, RelayTls::Off) => Security::Plain,
        }
    }

    fn memory(&self) -> ServerMemory {
        self.memory.borrow().clone()
    }

    fn remember(&self, memory: &ServerMemory) {
        if *self.memory.borrow() != *memory {
            self.memory.borrow_mut().clone_from(memory);
        }
    }

    fn tls_setup(&self) -> TlsSetup {
        TlsSetup { config: Arc::clone(&self.settings.tls_config), server_name: self.server_name.clone() }
    }
}

/// A connection's place among those that are allowed.
struct Seat(Rc<Hop>);

impl Seat {
    fn take(hop: &Rc<Hop>) -> Self {
        hop.connections.set(hop.connections.get() + 1);
        Self(Rc::clone(hop))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        // Whoever still waits must not wait for a connection that is gone.
        let next = self.0.waiting.borrow_mut().pop_front();
        if let Some(errand) = next {
            self.0.hand_out(errand);
        }
    }
}

/// The life of a connection: errand after errand, and a new socket when the old one is of no more use.
async fn serve(hop: Rc<Hop>, _seat: Seat, first: Errand) {
    let mut line = None;
    let mut next = Some(first);
    while let Some(errand) = next.take() {
        let result = carry(&hop, &mut line, &errand.message).await;
        // Whoever asked may be gone; the message was carried all the same.
        let _ = errand.answer.send(result);
        next = hop.waiting.borrow_mut().pop_front();
        if let (None, Some(open)) = (&next, line.as_mut()) {
            let (woken, left_over) = rest(&hop, open).await;
            match woken {
                Woken::By(errand) => next = Some(errand),
                Woken::Closed => line = None,
                Woken::Tired => {}
            }
            next = next.or(left_over);
        }
    }
    if let Some(line) = line {
        line.part().await;
    }
}

/// Waits for an errand. One that was handed over while the wait ended for another reason comes too.
async fn rest(hop: &Rc<Hop>, line: &mut Line) -> (Woken, Option<Errand>) {
    let (number, errands) = hop.lie_down();
    let woken = line.wait(&errands, hop.settings.idle).await;
    hop.get_up(number);
    (woken, errands.try_recv().ok())
}

// ── One message ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Carries a message, in further transactions too for recipients whom the server wants to have so (RFC 5321 §4.5.3.1.10).
async fn carry(hop: &Rc<Hop>, line: &mut Option<Line>, message: &client::Message) -> Result<Answers, NoConnection> {
    let mut answers = exchange(hop, line, message.clone()).await?;
    for _ in 0..RELAY_ROUNDS_MAX {
        let left =
            if answers.failure.is_none() { put_off_to_another_transaction(&answers.verdicts) } else { Vec::new() };
        if left.is_empty() || message.all_or_nothing || hop.is_lmtp() {
            break;
        }
        // If nobody is there any more, those who have the message have it all the same, and the others wait.
        let Ok(further) = exchange(hop, line, message.part(&left)).await else { break };
        let progress = further.verdicts.iter().any(Verdict::is_accepted);
        for (recipient, verdict) in left.iter().zip(further.verdicts) {
            answers.verdicts[*recipient] = verdict;
        }
        answers.failure = further.failure;
        if !progress {
            break;
        }
    }
    Ok(answers)
}

/// Recipients beyond those that the server takes at once; none if it took none.
fn put_off_to_another_transaction(verdicts: &[Verdict]) -> Vec<usize> {
    if !verdicts.iter().any(Verdict::is_accepted) {
        return Vec::new();
    }
    let is_put_off = |verdict: &Verdict| match verdict {
        Verdict::Deferred(reply) => {
            reply.code() == TOO_MANY && matches!(reply.enhanced(), None | Some(TOO_MANY_DETAIL))
        }
        _ => false,
    };
    verdicts.iter().enumerate().filter(|(_, verdict)| is_put_off(verdict)).map(|(index, _)| index).collect()
}

/// Carries a message over the open connection or a new one; over a new one too if the open one had been closed meanwhile, or
/// to ask for a lost answer.
async fn exchange(hop: &Rc<Hop>, line: &mut Option<Line>, message: client::Message) -> Result<Answers, NoConnection> {
    let answers = match over_open_line(line, &message).await {
        Some(answers) => answers,
        None => {
            let answers = over_new_line(hop, line, message.clone(), hop.security()).await?;
            if is_tls_of_no_use(hop, &answers) {
                return over_new_line(hop, line, message, Security::Plain).await;
            }
            answers
        }
    };
    Ok(if answers.offers_once { ask_again(hop, line, &message, answers).await } else { answers })
}

/// `None` if there was no open connection to carry the message over.
async fn over_open_line(line: &mut Option<Line>, message: &client::Message) -> Option<Answers> {
    let open = line.as_mut()?;
    open.add(message.clone());
    // One that ends without an answer had ended before the message was said.
    let answers = open.converse().await.ok().filter(|answers| !was_closed_meanwhile(answers));
    match &answers {
        Some(answers) => keep_or_part(line, answers),
        None => *line = None,
    }
    answers
}

async fn over_new_line(
    hop: &Rc<Hop>,
    line: &mut Option<Line>,
    message: client::Message,
    security: Security,
) -> Result<Answers, NoConnection> {
    let fresh = line.insert(Line::new(Rc::clone(hop), message, security));
    match fresh.converse().await {
        Ok(answers) => {
            keep_or_part(line, &answers);
            Ok(answers)
        }
        Err(error) => {
            *line = None;
            Err(error)
        }
    }
}

/// A connection on which something failed takes no more messages, nor does one that the server ended right behind its answer,
/// which harms no message. Whoever waits for the answer does not wait for the goodbye.
fn keep_or_part(line: &mut Option<Line>, answers: &Answers) {
    if let Some(line) = line.take_if(|line| answers.failure.is_some() || line.is_over()) {
        spawn_guarded(line.part());
    }
}

/// Nothing was answered to the message: the server had closed the connection before it came, or was about to. The same can
/// be seen when it breaks in between, and then the message may come twice, as it may whenever it is tried again.
fn was_closed_meanwhile(answers: &Answers) -> bool {
    let unanswered = |verdict: &Verdict| matches!(verdict, Verdict::Unsent(_) | Verdict::Uncertain);
    matches!(answers.failure, Some(Failure::Closed | Failure::TryLater(_))) && answers.verdicts.iter().all(unanswered)
}

/// Asks again, over a new connection, for those recipients of whom the server has not said whether it took the message. What it
/// said of the others stands. If nobody is there any more, they stay uncertain, and the hop is as it was: it had agreed to take
/// the message.
async fn ask_again(hop: &Rc<Hop>, line: &mut Option<Line>, message: &client::Message, mut answers: Answers) -> Answers {
    let uncertain = client::uncertain(&answers.verdicts);
    if uncertain.is_empty() {
        return answers;
    }
    let in_doubt = client::Message { doubted: true, ..message.part(&uncertain) };
    if let Some(open) = line.take() {
        spawn_guarded(open.part());
    }
    let Ok(again) = over_new_line(hop, line, in_doubt, hop.security()).await else { return answers };
    if !again.confirmed {
        return answers;
    }
    for (recipient, verdict) in uncertain.into_iter().zip(again.verdicts) {
        answers.verdicts[recipient] = verdict;
    }
    let offers_dsn = answers.offers_dsn || again.offers_dsn;
    Answers { verdicts: answers.verdicts, offers_dsn, ..again }
}

/// Where TLS is only used if that works, one that does not work is done without (RFC 7435 §3). TLS that fails later worked:
/// whoever breaks it then must not get to read what went through it.
fn is_tls_of_no_use(hop: &Hop, answers: &Answers) -> bool {
    let is_unsent = |verdict: &Verdict| matches!(verdict, Verdict::Unsent(_));
    hop.settings.tls == RelayTls::Opportunistic
        && hop.security() == Security::IfOffered
        && matches!(answers.failure, Some(Failure::Tls(_) | Failure::TlsUnavailable(_)))
        && !answers.confirmed
        && answers.verdicts.iter().all(is_unsent)
}

/// RFC 3463 §3.5: no answer from the host.
const NO_ANSWER: &str = "4.4.1";

/// RFC 5321 §4.5.3.1.10: too many recipients, the rest in another transaction.
const TOO_MANY: u16 = 452;

/// The same in RFC 3463 §3.6; 452 has other meanings too.
const TOO_MANY_DETAIL: (u16, u16, u16) = (4, 5, 3);

/// How often a relay that is being closed looks whether all connections are.
const CLOSE_LOOK: Duration = Duration::from_millis(20);
