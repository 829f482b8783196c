//! The server's side of a conversation, without I/O.
//!
//! A [`Server`] is one connection. Whoever drives it hands it the bytes that arrived, at the layer that is in force (clear
//! text, or what was inside TLS), sends what it appended to `out`, and carries out the [`Action`] that it asks for. Nothing
//! here blocks, waits, looks at a clock or knows where bytes come from.
//!
//! * `handle_*` takes what happened, `poll_*` tells what to do next, `now` comes first.
//! * While an action is under way ([`Server::is_waiting`]) no bytes are taken: what arrives stays with the driver.
//! * Replies that belong to one flight stand in `out` together; the driver sends them when the server wants more input,
//!   and not before, so that a flight is answered by one send.

mod draft;
mod framing;
mod gate;
mod hello;
mod login;
mod resources;
mod secure;
mod state;
mod tally;
mod transaction;

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use resources::Resources;
pub use tally::{Outcome, Start, Tally};
pub use transaction::StoreFailure;

use self::draft::Draft;
use self::framing::{Framing, Skip};
use self::gate::{Passage, gate};
use self::resources::Room;
use self::state::{Greeted, Securing, Stage, State};
use super::body::BareNewline;
use super::channel::{Channel, TlsFacts};
use super::command::{Command, Parsed, Syntax, Verb, meant_verb, parse};
use super::credential::{Credential, Member};
use super::extension::Listing;
use super::line::{LineReader, Scan};
use super::message::{Message, MessageId, Piece};
use super::qhlo_id::{QhloId, QhloIds, Subject};
use super::reply::{self, Reply};
use super::trace::HeaderFacts;
use crate::limits::{AUTH_LINE_BYTES_MAX, COMMAND_LINE_BYTES_MAX, HOPS_MAX, KEPT_BUFFER_BYTES_MAX};
use crate::time::Now;

/// What all conversations of a listener have in common. Made once; each shard has its copy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name in greetings and trace fields.
    pub hostname: String,
    /// What is announced in clear text.
    pub connect: Listing,
    /// What is announced inside TLS.
    pub secured: Listing,
    /// Makes and checks qhlo-ids.
    pub qhlo_ids: QhloIds,
    /// How much a client may do.
    pub bounds: Bounds,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// What to do about a CR or LF that stands alone in a message.
    pub bare_newline: BareNewline,
    /// What the trace header tells of the client.
    pub client_in_trace: ClientInTrace,
    /// May users name only the senders that are theirs?
    pub sender_check: SenderCheck,
}

/// Is a user held to the senders that the users file allows (RFC 6409 §6.1)?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenderCheck {
    /// Any sender may be named.
    #[default]
    Off,
    /// Only the user's own.
    Enforced,
}

/// Does `Received` name the client and its address?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientInTrace {
    /// As RFC 5321 §4.4 asks.
    #[default]
    Shown,
    /// Left out, for the privacy of people who submit from home.
    Hidden,
}

/// How much one client may do.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Octets of a message's content.
    pub message_bytes_max: u64,
    /// Recipients of a message.
    pub recipients_max: u32,
    /// MAIL commands of a connection.
    pub messages_max: u32,
    /// Commands since the last stored message.
    pub commands_max: u32,
    /// Refused commands of a connection.
    pub errors_max: u32,
    /// Failed AUTH commands of a connection.
    pub logins_failed_max: u32,
}

/// How long one client may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Silence.
    pub idle: Duration,
    /// From the start of the connection to a good AUTH.
    pub login: Duration,
    /// From MAIL to the end of the message.
    pub transaction: Duration,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub server: IpAddr,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// In clear text.
    Clear,
    /// With a TLS handshake (RFC 8314 §3).
    ImplicitTls,
}

/// What the server asks of whoever drives it.
#[derive(Debug)]
pub enum Action {
    /// Judge the credential, then call [`Server::handle_verdict`].
    Verify(Credential),
    /// Keep the message, then call [`Server::handle_stored`] with it, so that its memory serves again.
    Store(Box<Message>),
    /// Keep the beginning of a message whose rest is still coming, then call [`Server::handle_piece_kept`] with its buffer. It
    /// is asked for only if [`Resources::streaming`] says that it can be done. What was kept is to be forgotten when
    /// [`Server::message_in_pieces`] no longer names the message.
    KeepPiece(Piece),
    /// Send what is in `out` and close.
    Close,
}

/// What to do about a client that spoke before it was greeted (draft §12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// It has proved that it was here before: greet it at once.
    Greet,
    /// It may be a QUICKSTART client, but it has proved nothing: greet it when the pause is over.
    Wait,
    /// It does what no client of this protocol does.
    Refuse,
}

/// One conversation.
#[derive(Debug)]
pub struct Server {
    settings: Arc<Settings>,
    peer: Peer,
    state: State,
    framing: Framing,
    line: LineReader,
    action: Option<Action>,
    message: Draft,
    room: Room,
    client_name: String,
    member: Option<Arc<Member>>,
    tls: Option<TlsFacts>,
    /// What the header of the message says whose first piece storage has.
    header: HeaderFacts,
    finish: Finish,
    tally: Tally,
    outcome: Option<Outcome>,
    stopping: Stopping,
    commands_since_message: u32,
    mails: u32,
    deadlines: Deadlines,
}

/// Has the driver been told to stop?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// When the open transaction is done.
    Soon,
}

/// Has the client finished its TLS handshake? Until it has, all that it says came as early data, and may be a copy that
/// somebody else sends (RFC 8446 §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Awaited,
    Seen,
}

#[derive(Clone, Copy, Debug)]
struct Deadlines {
    idle: Duration,
    login: Duration,
    transaction: Duration,
}

impl Server {
    /// A new connection.
    pub fn new(settings: Arc<Settings>, resources: Arc<Resources>, peer: Peer, opening: Opening, now: Now) -> Self {
        let timeouts = settings.timeouts;
        Self {
            settings,
            peer,
            state: match opening {
                Opening::Clear => State::Waiting,
                Opening::ImplicitTls => State::Securing(Securing::Greeting),
            },
            framing: Framing::Lines,
            line: LineReader::default(),
            action: None,
            message: Draft::default(),
            room: Room::new(resources),
            client_name: String::new(),
            member: None,
            tls: None,
            header: HeaderFacts::default(),
            finish: Finish::Seen,
            tally: Tally::default(),
            outcome: None,
            stopping: Stopping::No,
            commands_since_message: 0,
            mails: 0,
            deadlines: Deadlines {
                idle: now.monotonic + timeouts.idle,
                login: now.monotonic + timeouts.login,
                transaction: Duration::MAX,
            },
        }
    }

    /// Takes bytes that arrived, appends replies to `out`, and returns how many bytes it took. It stops early when it asks
    /// for an [`Action`].
    pub fn handle_bytes(&mut self, now: Now, input: &[u8], out: &mut Vec<u8>) -> usize {
        self.handle_bytes_within(usize::MAX, now, input, out)
    }

    /// The same, but it stops early as well when `out` has `room` bytes or more: then they are to be sent, and it is to be
    /// called again with the rest. The last reply may go beyond `room`.
    pub fn handle_bytes_within(&mut self, room: usize, now: Now, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut rest = input;
        while !rest.is_empty() && !self.is_waiting() && out.len() < room {
            rest = match self.framing {
                Framing::Lines => self.take_line(now, rest, out),
                Framing::Content => self.take_content(now, rest, out),
                Framing::RefusedHandshake(_) => self.skip_handshake(rest, out),
                Framing::RefusedChunk { .. } => self.skip_chunk(rest, out),
            };
        }
        input.len() - rest.len()
    }

    /// The bytes before the greeting have been looked at or there are none: says what to do about them, where clients
    /// are made to wait.
    pub fn judge_early(&self, bytes: &[u8]) -> Early {
        const QHLO: &[u8] = b"QHLO ";
        let word = &bytes[..bytes.len().min(QHLO.len())];
        if !word.eq_ignore_ascii_case(&QHLO[..word.len()]) {
            return Early::Refuse;
        }
        let mut reader = LineReader::default();
        let Scan::Line(line) = reader.scan(&mut &*bytes, COMMAND_LINE_BYTES_MAX) else {
            return Early::Wait;
        };
        match parse(line).command {
            Ok(Command::Qhlo { id: Some(id), .. }) if self.id_matches(&self.settings.connect, id) => Early::Greet,
            _ => Early::Wait,
        }
    }

    /// Is TLS being set up? From the moment that this turns true every byte that has not been taken yet belongs to TLS. Call
    /// [`Server::greet`] at once (its text may leave as soon as TLS can carry it), and [`Server::handle_secured`] when the
    /// handshake is done, or [`Server::handle_secured_early`] before that.
    pub fn is_securing(&self) -> bool {
        matches!(self.state, State::Securing(_))
    }

    /// Does it wait for the client's Finished, so that it takes no bytes? Whatever arrives may have to be worked through for
    /// it by TLS, and is kept until [`Server::handle_finished`].
    pub fn is_awaiting_finish(&self) -> bool {
        matches!(self.state, State::Unconfirmed(_))
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take()
    }

    /// When to call [`Server::handle_timeout`], on the monotonic clock; `None` while the next move is not the client's.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let Deadlines { idle, login, transaction } = self.deadlines;
        match &self.state {
            State::Verifying(_) | State::Keeping(_) | State::Storing(_) | State::Ended => None,
            state if state.is_in_transaction() => Some(idle.min(transaction)),
            state if state.authenticated().is_some() => Some(idle),
            _ => Some(idle.min(login)),
        }
    }

    /// Bytes came in, whatever they were: the client is not silent.
    pub fn handle_progress(&mut self, now: Now) {
        self.deadlines.idle = now.monotonic + self.settings.timeouts.idle;
    }

    /// The time that [`Server::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, out: &mut Vec<u8>) {
        self.end_with(reply::TIMED_OUT, Outcome::TimedOut, out);
    }

    /// The server is being stopped: ends the connection now, or when the open transaction is done. In the middle of a TLS
    /// handshake nothing can be said: it may be finished, and the first command inside is answered by the end.
    pub fn handle_drain(&mut self, out: &mut Vec<u8>) {
        self.stopping = Stopping::Soon;
        if !self.state.is_in_transaction() && !matches!(self.state, State::Verifying(_) | State::Securing(_)) {
            self.end_with(reply::SHUTTING_DOWN, Outcome::Drained, out);
        }
    }

    /// The server is being stopped and can wait no longer: ends the connection, whatever is open.
    pub fn handle_cut(&mut self, out: &mut Vec<u8>) {
        self.end_with(reply::SHUTTING_DOWN, Outcome::Drained, out);
    }

    /// Is it waiting for TLS or for the outcome of an action, so that it takes no bytes?
    pub fn is_waiting(&self) -> bool {
        self.action.is_some() || self.state.takes_no_bytes()
    }

    /// Is a transaction open?
    pub fn is_in_transaction(&self) -> bool {
        self.state.is_in_transaction()
    }

    /// The connection falls idle: gives back the memory that it does not need while nothing happens.
    pub fn rest(&mut self) {
        self.line.rest();
        if !self.state.is_in_transaction() {
            self.release_message_memory();
        }
    }

    /// The message that is coming in and of which storage has pieces already.
    pub fn message_in_pieces(&self) -> Option<MessageId> {
        let is_coming = self.state.is_in_transaction() && self.message.pieces.count > 0;
        is_coming.then_some(self.message.id)
    }

    /// Counts and facts so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Why the conversation ended; `None` as long as it goes on.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// The user, once authenticated.
    pub fn member(&self) -> Option<&Arc<Member>> {
        self.member.as_ref()
    }

    /// The TLS session, once there is one.
    pub fn tls(&self) -> Option<TlsFacts> {
        self.tls
    }

    /// What the client calls itself; empty before its hello.
    pub fn client_name(&self) -> &str {
        &self.client_name
    }

    // ── Lines ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn take_line<'a>(&mut self, now: Now, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        if self.is_tls_in_the_clear(input) {
            self.end_with(reply::NOT_SMTP, Outcome::NotSmtp, out);
            return input;
        }
        let mut rest = input;
        let mut reader = mem::take(&mut self.line);
        match reader.scan(&mut rest, self.line_bytes_max()) {
            Scan::Incomplete => {}
            Scan::Line(line) => {
                self.handle_line(now, line, out);
                self.note_what_follows(rest);
            }
            Scan::TooLong(beginning) => self.refuse_long_line(beginning, out),
            Scan::BareNewline => self.end_with(reply::BARE_NEWLINE, Outcome::BareNewline, out),
        }
        // Not the beginning of a line whose end is still to come.
        let bore_a_secret = matches!(self.state, State::Challenged(_) | State::Verifying(_) | State::AuthFailed(_));
        if bore_a_secret && !reader.is_midway() {
            reader.wipe();
        }
        self.line = reader;
        rest
    }

    /// A ClientHello where a line should begin: the client takes this port for an implicit-TLS one.
    fn is_tls_in_the_clear(&self, input: &[u8]) -> bool {
        input.first().copied().is_some_and(framing::begins_record)
            && !self.line.is_midway()
            && matches!(self.state, State::Greeted(Greeted { channel: Channel::Clear, .. }))
    }

    /// AUTH may be long (RFC 4954 §4), so lines may be wherever AUTH may come.
    fn line_bytes_max(&self) -> usize {
        let auth_may_come = self.state.channel() != Channel::Clear && self.state.authenticated().is_none();
        if auth_may_come { AUTH_LINE_BYTES_MAX } else { COMMAND_LINE_BYTES_MAX }
    }

    fn refuse_long_line(&mut self, beginning: &[u8], out: &mut Vec<u8>) {
        match mem::replace(&mut self.state, State::Ended) {
            State::Challenged(challenged) => self.fail_login(challenged.login, reply::AUTH_LINE_TOO_LONG, out),
            state => {
                self.state = state;
                self.refuse_unread(reply::LINE_TOO_LONG, beginning, out);
            }
        }
    }

    fn handle_line(&mut self, now: Now, line: &[u8], out: &mut Vec<u8>) {
        self.tally.commands += 1;
        if matches!(self.state, State::Challenged(_)) {
            self.handle_response(line, out);
            return;
        }
        self.commands_since_message += 1;
        if self.commands_since_message > self.settings.bounds.commands_max {
            self.end_with(reply::TOO_MANY_COMMANDS, Outcome::TooManyCommands, out);
        } else if self.stopping == Stopping::Soon && !self.state.is_in_transaction() {
            self.end_with(reply::SHUTTING_DOWN, Outcome::Drained, out);
        } else if !line.iter().all(|byte| *byte >= b' ' && *byte != 0x7f) {
            self.refuse_unread(reply::BAD_CHARACTERS, line, out);
        } else {
            self.handle_command(now, line, out);
        }
    }

    fn handle_command(&mut self, now: Now, line: &[u8], out: &mut Vec<u8>) {
        let parsed = parse(line);
        if parsed.verb != Verb::Auth && line.len() + b"\r\n".len() > COMMAND_LINE_BYTES_MAX {
            self.refuse_unread(reply::LINE_TOO_LONG, line, out);
            return;
        }
        self.note_start(&parsed);
        match gate(self.state.stage(), self.state.channel(), parsed.verb) {
            Passage::Refused(reply) => self.refuse_at_gate(reply, &parsed, line, out),
            Passage::Allowed => match parsed.command {
                Ok(command) => self.carry_out(now, command, out),
                Err(syntax) => self.refuse_syntax(syntax, parsed.verb, line, out),
            },
        }
    }

    fn note_start(&mut self, parsed: &Parsed<'_>) {
        if self.tally.start != Start::None {
            return;
        }
        self.tally.start = match (parsed.verb, &parsed.command) {
            (Verb::Qhlo, Ok(Command::Qhlo { id: Some(_), .. })) => Start::Full,
            (Verb::Qhlo | Verb::Qtls, _) => Start::Basic,
            (Verb::Ehlo, _) => Start::Esmtp,
            (Verb::Helo | Verb::Mail, _) => Start::Smtp,
            _ => Start::None,
        };
    }

    /// An early EHLO may come just after the greeting has left. That its client relied on a list that it remembers shows in
    /// the next step behind it, which may not be taken before the list has come (RFC 2920 §3.1).
    fn note_what_follows(&mut self, rest: &[u8]) {
        let steps: [&[u8]; 2] = [b"STARTTLS", b"AUTH "];
        let begins = |step: &[u8]| rest.get(..step.len()).is_some_and(|word| word.eq_ignore_ascii_case(step));
        if self.tally.commands == 1 && self.tally.start == Start::Esmtp && steps.into_iter().any(begins) {
            self.tally.start = Start::PipeConnect;
        }
    }

    /// Refuses a line for its form or its word, unread. What would have followed it, had it been read, follows all the same, and
    /// is not to be taken for commands: octets of which nobody can say how many they are, or a handshake.
    fn refuse_unread(&mut self, reply: Reply, beginning: &[u8], out: &mut Vec<u8>) {
        match meant_verb(beginning) {
            Verb::Bdat => self.end_with(reply::BAD_CHUNK_SIZE, Outcome::Unskippable, out),
            Verb::StartTls | Verb::Qtls => self.refuse_handshake(reply, out),
            _ => self.refuse(reply, out),
        }
    }

    /// Refuses a command for where it stands, and makes sure that what belongs to it is not taken for something else.
    fn refuse_at_gate(&mut self, reply: Reply, parsed: &Parsed<'_>, line: &[u8], out: &mut Vec<u8>) {
        match (parsed.verb, &parsed.command) {
            (Verb::Unknown, _) => self.refuse_unread(reply, line, out),
            (Verb::Bdat, Ok(Command::Bdat { size, .. })) => self.refuse_chunk(*size, reply, out),
            (Verb::Bdat, _) => self.end_with(reply::BAD_CHUNK_SIZE, Outcome::Unskippable, out),
            (Verb::StartTls | Verb::Qtls, _) => self.refuse_handshake(reply, out),
            _ => self.refuse(reply, out),
        }
    }

    fn refuse_syntax(&mut self, syntax: Syntax, verb: Verb, line: &[u8], out: &mut Vec<u8>) {
        let reply = match (syntax, verb) {
            (Syntax::Verb, _) => {
                self.refuse_unread(reply::UNKNOWN_COMMAND, line, out);
                return;
            }
            (Syntax::ChunkSize, _) => {
                self.end_with(reply::BAD_CHUNK_SIZE, Outcome::Unskippable, out);
                return;
            }
            (Syntax::Hello, _) => reply::BAD_HELLO,
            (Syntax::Path, Verb::Mail) => reply::BAD_SENDER,
            (Syntax::Path, _) => reply::BAD_RECIPIENT,
            (Syntax::Parameter, _) => reply::UNKNOWN_PARAMETER,
            (Syntax::Arguments, _) => reply::BAD_ARGUMENTS,
        };
        match verb {
            Verb::StartTls | Verb::Qtls => self.refuse_handshake(reply, out),
            _ => self.refuse(reply, out),
        }
    }

    /// Does what the gate let pass.
    fn carry_out(&mut self, now: Now, command: Command<'_>, out: &mut Vec<u8>) {
        match command {
            Command::Mail(mail) => self.handle_mail(now, &mail, out),
            Command::Rcpt(rcpt) => self.handle_rcpt(&rcpt, out),
            Command::Data => self.handle_data(out),
            Command::Bdat { size, last } => self.handle_bdat(now, size, last, out),
            Command::Rset => self.handle_rset(out),
            Command::Helo(domain) => self.handle_helo(domain, out),
            Command::Ehlo(domain) => self.handle_ehlo(domain, out),
            Command::Qhlo { domain, id } => self.handle_qhlo(domain, id, out),
            Command::StartTls => self.handle_starttls(out),
            Command::Qtls => self.handle_qtls(),
            Command::Auth { mechanism, initial } => self.handle_auth(mechanism, initial, out),
            Command::Noop => say(reply::NOTHING_DONE, out),
            Command::Help => say(reply::HELP, out),
            Command::Vrfy => say(reply::CANNOT_VERIFY, out),
            Command::Quit => self.end_with(reply::BYE, Outcome::Quit, out),
            Command::Foreign => self.end_with(reply::NOT_SMTP, Outcome::NotSmtp, out),
            Command::NotImplemented => self.refuse(reply::NOT_IMPLEMENTED, out),
        }
    }

    // ── Words that all parts use ────────────────────────────────────────────────────────────────────────────────────

    /// Refuses a command and counts it, unless it was sent along with a command whose failure it suffers from.
    fn refuse(&mut self, reply: Reply, out: &mut Vec<u8>) {
        say(reply, out);
        if matches!(self.state.stage(), Stage::Mismatched | Stage::AuthFailed) {
            return;
        }
        self.tally.errors += 1;
        if self.tally.errors > self.settings.bounds.errors_max {
            self.end_with(reply::TOO_MANY_ERRORS, Outcome::TooManyErrors, out);
        }
    }

    fn end_with(&mut self, reply: Reply, outcome: Outcome, out: &mut Vec<u8>) {
        if self.outcome.is_some() {
            return;
        }
        say(reply, out);
        if self.state.is_in_transaction() && reply.code() >= 400 {
            self.tally.refuse(reply);
        }
        self.outcome = Some(outcome);
        self.state = State::Ended;
        self.action = Some(Action::Close);
    }

    /// A state that cannot be: we are broken, and this connection ends. A driver that does what it was not asked to do gets
    /// here; no client can.
    fn broken(&mut self, out: &mut Vec<u8>) {
        debug_assert!(false, "state {:?} does not allow this", self.state);
        self.end_with(reply::INTERNAL_FAULT, Outcome::Fault, out);
    }

    fn listing(&self, channel: Channel) -> &Listing {
        match channel {
            Channel::Clear => &self.settings.connect,
            Channel::Secure(_) => &self.settings.secured,
        }
    }

    fn subject<'a>(&self, listing: &'a Listing) -> Subject<'a> {
        Subject {
            point: listing.point(),
            list_digest: listing.digest(),
            server: self.peer.server,
            client: self.peer.client.ip(),
        }
    }

    fn id(&self, listing: &Listing) -> QhloId {
        self.settings.qhlo_ids.issue(&self.subject(listing))
    }

    fn id_matches(&self, listing: &Listing, presented: &[u8]) -> bool {
        self.settings.qhlo_ids.matches(&self.subject(listing), presented)
    }
}

fn say(reply: Reply, out: &mut Vec<u8>) {
    out.extend_from_slice(reply.bytes());
}

#[cfg(test)]
mod piece_tests;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
