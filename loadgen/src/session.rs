//! One client with its TLS: bytes of the network in, bytes of the network out, and milestones on the way.
//!
//! Drives the client core as its manual says. No sockets, no clock, no delay: `conversation` adds the link.

use std::collections::VecDeque;
use std::sync::Arc;

use onetrip::proto::client::{Action, Client, Config, EarlyData, Entry, Layer, Message, Outcome, ServerMemory, Trust};
use onetrip::time::Now;
use onetrip::tls::session::{ClientSession, FailureKind, TlsFailure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::veil::{Hidden, Veil};

/// Reply to a good login (RFC 4954 §4).
const LOGGED_IN: u16 = 235;

/// Something that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Milestone {
    /// TLS's handshake is done.
    Secured {
        /// An earlier session was resumed.
        resumed: bool,
    },
    /// The login was accepted.
    LoggedIn,
    /// The first MAIL of this connection left.
    MailSent,
    /// All messages given so far are settled.
    Settled(Outcome),
    /// This connection is over and another one is needed.
    Reconnect,
    /// This connection is over.
    Closed,
}

/// How TLS is done.
#[derive(Clone, Debug)]
pub(crate) struct TlsSetup {
    /// What to offer and whom to trust.
    pub(crate) config: Arc<ClientConfig>,
    /// The name that the server's certificate must bear.
    pub(crate) server_name: ServerName<'static>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    setup: TlsSetup,
    hidden: Hidden,
    connection: Connection,
    milestones: VecDeque<Milestone>,
    /// Round trips gone by when all messages were settled, before a QUIT left.
    round_trips: u32,
}

/// What belongs to one connection.
#[derive(Debug)]
struct Connection {
    tls: Option<ClientSession>,
    secured: bool,
    mail_sent: bool,
    veil: Veil,
}

impl Connection {
    const fn new(hidden: Hidden) -> Self {
        Self { tls: None, secured: false, mail_sent: false, veil: Veil::new(hidden) }
    }
}

impl Session {
    /// A client whose connection is being made.
    pub(crate) fn new(
        now: Now,
        config: Config,
        setup: TlsSetup,
        hidden: Hidden,
        memory: ServerMemory,
        messages: Vec<Message>,
    ) -> Self {
        let client = Client::new(now, config, memory, messages);
        Self { client, setup, hidden, connection: Connection::new(hidden), milestones: VecDeque::new(), round_trips: 0 }
    }

    /// Bytes came from the network.
    pub(crate) fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        self.client.handle_received();
        let mut rest = bytes;
        if self.client.incoming() == Layer::Plain {
            let mut shown = Vec::with_capacity(bytes.len());
            self.connection.veil.handle_bytes(bytes, &mut shown);
            let taken = self.client.handle_bytes(now, &shown);
            // What the client leaves is TLS, which the veil does not change; so it is the end of `bytes` too.
            rest = &bytes[bytes.len() - (shown.len() - taken)..];
        }
        if !rest.is_empty() {
            self.handle_tls_bytes(now, rest);
        }
        self.note_codes();
    }

    fn handle_tls_bytes(&mut self, now: Now, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(tls) = &mut self.connection.tls else { return };
            match tls.receive(rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(failure) => return self.client.handle_tls_failed(now, &failure.to_string(), trust(&failure)),
            }
            self.note_secured(now);
            self.read_plaintext(now);
        }
        if self.connection.tls.as_ref().is_some_and(ClientSession::peer_closed) {
            self.client.handle_closed(now);
        }
    }

    fn note_secured(&mut self, now: Now) {
        let Some(tls) = &self.connection.tls else { return };
        if self.connection.secured || tls.is_handshaking() {
            return;
        }
        self.connection.secured = true;
        let resumed = tls.facts().is_some_and(|facts| facts.resumed);
        self.milestones.push_back(Milestone::Secured { resumed });
        self.client.handle_secured(now, EarlyData::None);
    }

    /// Gives all that is decrypted to the client; TLS shows it a record at a time.
    fn read_plaintext(&mut self, now: Now) {
        let mut shown = Vec::new();
        while let Some(tls) = &mut self.connection.tls {
            let plaintext = tls.plaintext();
            let bytes = plaintext.len();
            if bytes == 0 {
                return;
            }
            shown.clear();
            self.connection.veil.handle_bytes(plaintext, &mut shown);
            tls.consume(bytes);
            self.client.handle_bytes(now, &shown);
        }
    }

    fn note_codes(&mut self) {
        if self.connection.veil.poll_codes().contains(&LOGGED_IN) {
            self.milestones.push_back(Milestone::LoggedIn);
        }
    }

    /// The server closed the connection, or it broke.
    pub(crate) fn handle_closed(&mut self, now: Now) {
        self.client.handle_closed(now);
    }

    /// The time of [`Session::poll_timeout`] has come.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        self.client.handle_timeout(now);
    }

    /// The new connection that was asked for is being made.
    pub(crate) fn handle_reconnected(&mut self, now: Now) {
        self.connection = Connection::new(self.hidden);
        self.client.handle_reconnected(now);
    }

    /// One more message, and whether it is the last.
    pub(crate) fn handle_message(&mut self, message: Message, is_last: bool) {
        if is_last {
            self.client.handle_quit();
        }
        self.client.handle_message(message);
    }

    /// No more messages will come: goodbye is said when all are settled.
    pub(crate) fn handle_quit(&mut self) {
        self.client.handle_quit();
    }

    /// Adds what leaves now, in one flight, to `out`.
    pub(crate) fn poll_bytes(&mut self, now: Now, out: &mut Vec<u8>) {
        let before = out.len();
        while self.turn(now, out) {}
        if let Some(tls) = &mut self.connection.tls {
            tls.send(out);
        }
        if out.len() > before {
            self.client.handle_transmitted();
        }
        if !self.connection.mail_sent && self.client.flights().mail_packet().is_some() {
            self.connection.mail_sent = true;
            self.milestones.push_back(Milestone::MailSent);
        }
    }

    /// True if there is more to do.
    fn turn(&mut self, now: Now, out: &mut Vec<u8>) -> bool {
        match &mut self.connection.tls {
            None => while self.client.poll_output(now, out) > 0 {},
            Some(tls) => {
                let mut plaintext = Vec::new();
                while self.client.poll_output(now, &mut plaintext) > 0 {
                    write_all(tls, &plaintext, out);
                    plaintext.clear();
                }
            }
        }
        match self.client.poll_action() {
            Action::Wait => return false,
            Action::StartTls => self.start_tls(now),
            Action::AbandonTls => self.connection.tls = None,
            Action::Done(outcome) => {
                self.round_trips = self.client.flights().packet();
                self.milestones.push_back(Milestone::Settled(outcome));
            }
            Action::Reconnect(_) => {
                self.milestones.push_back(Milestone::Reconnect);
                return false;
            }
            Action::Close => {
                self.milestones.push_back(Milestone::Closed);
                return false;
            }
        }
        true
    }

    fn start_tls(&mut self, now: Now) {
        match ClientSession::new(Arc::clone(&self.setup.config), self.setup.server_name.clone()) {
            Ok(tls) => {
                self.connection.tls = Some(tls);
                self.client.handle_tls_started(now, 0);
            }
            Err(failure) => self.client.handle_tls_failed(now, &failure.to_string(), trust(&failure)),
        }
    }

    /// What was reached since this was asked last.
    pub(crate) fn poll_milestone(&mut self) -> Option<Milestone> {
        self.milestones.pop_front()
    }

    /// When [`Session::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<std::time::Duration> {
        self.client.poll_timeout()
    }

    /// The next line of the dialog, if the configuration asked for it.
    pub(crate) fn poll_transcript(&mut self) -> Option<Entry> {
        self.client.poll_transcript()
    }

    /// Round trips from the SYN to the last [`Milestone::Settled`].
    pub(crate) const fn round_trips(&self) -> u32 {
        self.round_trips
    }

    /// The packet that carried the first MAIL of this connection.
    pub(crate) fn mail_packet(&self) -> Option<u32> {
        self.client.flights().mail_packet()
    }

    /// What is remembered of the server now.
    pub(crate) fn memory(&self) -> &ServerMemory {
        self.client.memory()
    }
}

/// Encrypts all of it; whatever does not fit into TLS's buffer leaves at once.
fn write_all(tls: &mut ClientSession, plaintext: &[u8], out: &mut Vec<u8>) {
    let mut rest = plaintext;
    while !rest.is_empty() {
        let taken = tls.write(rest);
        rest = &rest[taken..];
        let before = out.len();
        tls.send(out);
        assert!(taken > 0 || out.len() > before, "TLS takes plaintext or gives ciphertext once the handshake is done");
    }
}

fn trust(failure: &TlsFailure) -> Trust {
    if failure.kind() == FailureKind::Certificate { Trust::Distrusted } else { Trust::Unknown }
}
