//! A client's connection without its socket: SMTP, inside TLS when that is in force, over bytes.
//!
//! The mirror image of [`super::Connection`]: it joins [`crate::proto::client`] and [`crate::tls`], which know nothing of
//! each other, for every driver alike. Whoever drives it sends what [`Connection::poll_step`] has gathered, receives, calls
//! one `handle_*`, and asks again. It opens, waits for and decides nothing by itself.
//!
//! ```text
//!   received ──▶ handle_input ──▶ [TLS] ──▶ [Lens] ──▶ Client ──▶ Step: Receive | Send | Settled | Reconnect | Close
//!                                   │                     │
//!   to send  ◀──── poll_step ◀───[TLS]◀──── commands and messages
//! ```
//!
//! The first call of [`Connection::poll_step`] is for before there is a connection: what it gathers is the first flight,
//! which can travel in the SYN (RFC 7413) or right behind TCP's handshake. It may be nothing.
//!
//! While TLS is still shaking hands, what the client says goes as early data (RFC 8446 §2.3) where the client core allows
//! it and the session resumed does. Data that the server did not take is said again by the client core.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use zeroize::{Zeroize, Zeroizing};

use crate::limits::CLIENT_FLUSH_BYTES;
use crate::proto::client::{Action, Client, EarlyData, How, Layer, Outcome, Trust};
use crate::time::Now;
use crate::tls::session::{ClientSession, EarlyOutcome, FailureKind, TlsFailure};

/// How TLS is done with the server.
#[derive(Clone, Debug)]
pub struct TlsSetup {
    /// What to offer, whom to trust, and the sessions that can be resumed.
    pub config: Arc<ClientConfig>,
    /// The name that the server's certificate must bear.
    pub server_name: ServerName<'static>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send what has gathered; there is more behind it, so ask again without waiting for the server.
    Send,
    /// Send what has gathered, then receive, or call [`Connection::handle_timeout`] when [`Connection::poll_timeout`] is due.
    Receive,
    /// All messages are settled. What has gathered may wait: ask again, as there may be a goodbye to say.
    Settled(Outcome),
    /// Close this connection, make another one, and say [`Connection::handle_reconnected`].
    Reconnect(How),
    /// Send what has gathered, then close.
    Close,
}

/// Something that was reached on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// TLS's handshake is done.
    Secured {
        /// An earlier session was resumed.
        resumed: bool,
        /// What became of what was sent along with the handshake.
        early_data: EarlyData,
    },
    /// The first MAIL of this connection leaves.
    MailSent,
}

/// Looks at what a server says in SMTP before the client does, and may change it.
pub trait Lens {
    /// What the client is to see of these bytes. Bytes behind the last reply, which belong to TLS, must come out as they are
    /// and at once.
    fn show<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8];

    /// Another connection begins.
    fn reset(&mut self);
}

/// Shows everything as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clear;

impl Lens for Clear {
    fn show<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        bytes
    }

    fn reset(&mut self) {}
}

/// One client's connection, and those that follow it if the client asks for others.
#[derive(Debug)]
pub struct Connection<Through = Clear> {
    client: Client,
    setup: TlsSetup,
    lens: Through,
    security: Security,
    milestones: VecDeque<Milestone>,
    mail_sent: bool,
    /// What the client says on its way into TLS; empty and wiped between calls.
    plain: Vec<u8>,
    /// A record that waits for company.
    held: Vec<u8>,
}

/// ```text
///   None ──StartTls──▶ Tls(Handshaking) ──▶ Tls(Done)
///     ▲──AbandonTls──────────┘
/// ```
#[derive(Debug)]
enum Security {
    None,
    Tls(Box<Tls>),
}

#[derive(Debug)]
struct Tls {
    session: ClientSession,
    handshake: Handshake,
}

#[derive(Debug)]
enum Handshake {
    /// Under way. What the client said early and did not fit any more goes first when it is done.
    Running {
        late: Zeroizing<Vec<u8>>,
    },
    Done,
}

impl Connection {
    /// A connection that is being made, for a client that has just begun.
    pub fn new(client: Client, setup: TlsSetup) -> Self {
        Self::with_lens(client, setup, Clear)
    }
}

impl<Through: Lens> Connection<Through> {
    /// As [`Connection::new`]; the client sees what the server says through a lens.
    pub fn with_lens(client: Client, setup: TlsSetup, lens: Through) -> Self {
        Self {
            client,
            setup,
            lens,
            security: Security::None,
            milestones: VecDeque::new(),
            mail_sent: false,
            plain: Vec::new(),
            held: Vec::new(),
        }
    }

    // ── What arrived ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes received bytes, all of them.
    pub fn handle_input(&mut self, now: Now, input: &[u8]) {
        self.client.handle_received();
        let mut rest = input;
        while !rest.is_empty() {
            let taken = match self.client.incoming() {
                Layer::Plain => self.hear_plain(now, rest),
                Layer::Tls => self.hear_tls(now, rest),
            };
            rest = &rest[taken..];
        }
    }

    /// The server closed the connection, or it broke.
    pub fn handle_closed(&mut self, now: Now) {
        self.client.handle_closed(now);
    }

    /// The time has come that [`Connection::poll_timeout`] named.
    pub fn handle_timeout(&mut self, now: Now) {
        self.client.handle_timeout(now);
    }

    /// The connection that [`Step::Reconnect`] asked for is being made: the next [`Connection::poll_step`] gathers its first
    /// flight.
    pub fn handle_reconnected(&mut self, now: Now) {
        self.security = Security::None;
        self.lens.reset();
        self.mail_sent = false;
        self.held.clear();
        self.client.handle_reconnected(now);
    }

    /// The server took the whole first flight with the SYN. To be said before the server's answer is given to
    /// [`Connection::handle_input`]; for the counts.
    pub fn handle_fast_open(&mut self) {
        self.client.handle_fast_open();
    }

    // ── What to do next ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Adds what leaves now, in one flight, to `out`, and says what to do next.
    pub fn poll_step(&mut self, now: Now, out: &mut Vec<u8>) -> Step {
        let before = out.len();
        out.append(&mut self.held);
        let step = self.gather(now, out);
        if step == Step::Receive && out[before..] == CHANGE_CIPHER_SPEC {
            // It asks for no answer, and would make a packet by itself.
            self.held.extend_from_slice(&CHANGE_CIPHER_SPEC);
            out.truncate(before);
        }
        if out.len() > before {
            self.note_sent();
        }
        step
    }

    /// When [`Connection::handle_timeout`] is due, on the monotonic clock; `None` if nothing is waited for.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.client.poll_timeout()
    }

    /// What was reached since this was asked last.
    pub fn poll_milestone(&mut self) -> Option<Milestone> {
        self.milestones.pop_front()
    }

    /// Says that nothing more will be sent (close_notify, RFC 8446 §6.1), for a driver that leaves before
    /// [`Step::Close`]: the server can tell an end from a cut.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if let Security::Tls(tls) = &mut self.security {
            tls.session.close();
            tls.session.send(out);
        }
    }

    /// The client.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The client, to give it messages or to take its transcript.
    pub const fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The lens.
    pub const fn lens_mut(&mut self) -> &mut Through {
        &mut self.lens
    }

    /// The client, when the connection has served its purpose.
    pub fn into_client(self) -> Client {
        self.client
    }

    // ── Bytes in ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn hear_plain(&mut self, now: Now, bytes: &[u8]) -> usize {
        let shown = self.lens.show(bytes);
        // What the client leaves is TLS, which a lens does not change; so it is the end of `bytes` too.
        let left = shown.len() - self.client.handle_bytes(now, shown);
        bytes.len() - left
    }

    /// Takes TLS records; returns how many bytes were taken, all of them after a failure.
    fn hear_tls(&mut self, now: Now, bytes: &[u8]) -> usize {
        let Security::Tls(tls) = &mut self.security else {
            // Bytes behind the reply to STARTTLS, before TLS could begin: they cannot be the server's TLS.
            self.client.handle_tls_failed(now, "the server sent something before TLS began", Trust::Unknown);
            return bytes.len();
        };
        let received = tls.session.receive(bytes);
        self.note_secured(now);
        self.read_plaintext(now);
        match received {
            Ok(taken) if self.peer_closed() => {
                self.client.handle_closed(now);
                taken.max(bytes.len())
            }
            Ok(taken) => taken,
            Err(failure) => {
                self.fail(now, &failure);
                bytes.len()
            }
        }
    }

    fn peer_closed(&self) -> bool {
        matches!(&self.security, Security::Tls(tls) if tls.session.peer_closed())
    }

    fn note_secured(&mut self, now: Now) {
        let Security::Tls(tls) = &mut self.security else { return };
        let Handshake::Running { late } = &mut tls.handshake else { return };
        if tls.session.is_handshaking() {
            return;
        }
        let early_data = match tls.session.early_outcome() {
            EarlyOutcome::None => EarlyData::None,
            EarlyOutcome::Accepted => EarlyData::Accepted,
            EarlyOutcome::Rejected => EarlyData::Rejected,
        };
        if early_data == EarlyData::Accepted {
            // The client core takes it for sent. What was rejected it says again, this too.
            self.plain.append(late);
        }
        let resumed = tls.session.facts().is_some_and(|facts| facts.resumed);
        tls.handshake = Handshake::Done;
        self.milestones.push_back(Milestone::Secured { resumed, early_data });
        self.client.handle_secured(now, early_data);
    }

    /// Gives all that is decrypted to the client; TLS shows it a record at a time.
    fn read_plaintext(&mut self, now: Now) {
        let Security::Tls(tls) = &mut self.security else { return };
        loop {
            let plaintext = tls.session.plaintext();
            let bytes = plaintext.len();
            if bytes == 0 {
                return;
            }
            self.client.handle_bytes(now, self.lens.show(plaintext));
            tls.session.consume(bytes);
        }
    }

    // ── Bytes out ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes all output, through TLS if there is TLS, until the client waits or enough has gathered.
    fn gather(&mut self, now: Now, out: &mut Vec<u8>) -> Step {
        loop {
            self.seal(out);
            while self.client.poll_output(now, &mut self.plain) > 0 {
                self.seal(out);
                if out.len() >= CLIENT_FLUSH_BYTES {
                    return Step::Send;
                }
            }
            match self.client.poll_action() {
                Action::StartTls => self.start_tls(now),
                Action::AbandonTls => self.security = Security::None,
                Action::Done(outcome) => return Step::Settled(outcome),
                Action::Reconnect(how) => return Step::Reconnect(how),
                Action::Close => {
                    self.close(out);
                    return Step::Close;
                }
                Action::Wait => return Step::Receive,
            }
        }
    }

    /// Moves what the client said, and what TLS has to say by itself, to the output.
    fn seal(&mut self, out: &mut Vec<u8>) {
        match &mut self.security {
            Security::None => out.append(&mut self.plain),
            Security::Tls(tls) => {
                tls.write(&self.plain, out);
                self.plain.zeroize();
            }
        }
    }

    fn start_tls(&mut self, now: Now) {
        let TlsSetup { config, server_name } = self.setup.clone();
        let begun = match self.client.may_send_early_data() {
            true => ClientSession::with_early_data(&config, server_name),
            false => ClientSession::new(config, server_name),
        };
        match begun {
            Ok(session) => {
                let early_bytes_max = session.early_bytes_max();
                let handshake = Handshake::Running { late: Zeroizing::default() };
                self.security = Security::Tls(Box::new(Tls { session, handshake }));
                self.client.handle_tls_started(now, early_bytes_max);
            }
            Err(failure) => self.fail(now, &failure),
        }
    }

    fn fail(&mut self, now: Now, failure: &TlsFailure) {
        let trust = if failure.kind() == FailureKind::Certificate { Trust::Distrusted } else { Trust::Unknown };
        self.client.handle_tls_failed(now, &failure.to_string(), trust);
    }

    fn note_sent(&mut self) {
        self.client.handle_transmitted();
        if !self.mail_sent && self.client.flights().mail_packet().is_some() {
            self.mail_sent = true;
            self.milestones.push_back(Milestone::MailSent);
        }
    }
}

impl Tls {
    /// Encrypts all of it, and adds what is ready for the network to `out`.
    fn write(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        self.session.send(out);
        let mut rest = plaintext;
        while !rest.is_empty() {
            let taken = match &mut self.handshake {
                Handshake::Done => self.session.write(rest),
                Handshake::Running { late } => match self.session.write_early(rest) {
                    0 => {
                        late.extend_from_slice(rest);
                        rest.len()
                    }
                    taken => taken,
                },
            };
            rest = &rest[taken..];
            let before = out.len();
            self.session.send(out);
            assert!(
                taken > 0 || out.len() > before,
                "TLS takes plaintext or gives ciphertext once the handshake is done"
            );
        }
    }
}

/// The record that TLS 1.3 clients send after the ServerHello for the sake of old middleboxes (RFC 8446, Appendix D.4). In
/// TLS 1.2 it never stands alone.
const CHANGE_CIPHER_SPEC: [u8; 6] = [20, 3, 3, 0, 1, 1];

#[cfg(test)]
mod tests;
