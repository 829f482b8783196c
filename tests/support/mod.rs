//! A server connection without a socket, and a client's TLS at the other end: what the tests play dialogs on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onetrip::limits;
use onetrip::proto::body::BareNewline;
use onetrip::proto::credential::{Member, Senders, Verdict};
use onetrip::proto::extension::{Listing, Offer};
use onetrip::proto::message::{Message, MessageId};
use onetrip::proto::proof::Committed;
use onetrip::proto::qhlo_id::{Binding, Point, QhloIds};
use onetrip::proto::server::{
    Bounds, ClientInTrace, Opening, Peer, Resources, SenderCheck, Server, Settings, StoreFailure, Timeouts,
};
use onetrip::time::Now;
use onetrip::tls::cache::SessionCache;
use onetrip::tls::certificate::{Certificate, SelfSigned};
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use onetrip::tls::config::{CertificateSet, Certificates, Returning, ServerConfigs, ServerSettings};
use onetrip::tls::session::{ClientSession, EarlyOutcome};
use onetrip::tls::{Version, Versions};
use onetrip::wire::{Connection, Output, Step};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// The one user of the tests.
pub const USER: &str = "ann";
/// Her password.
pub const PASSWORD: &str = "secret";
/// The server's name.
pub const HOSTNAME: &str = "mail.example";

/// The moment at which every test happens.
pub const NOW: Now = Now::simulated_ms(0);

/// A server that connections can be opened to.
pub struct Site {
    pub settings: Arc<Settings>,
    pub resources: Arc<Resources>,
    pub configs: Arc<ServerConfigs>,
    certificates: Arc<Certificates>,
    tokens: Tokens,
}

/// Users and tokens of the messages stored so far, with the name of each message: what a registry of tokens does, as far as
/// connections that store one after the other can tell.
type Tokens = Arc<Mutex<HashMap<(String, String), MessageId>>>;

impl Site {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A server whose settings differ.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let made = SelfSigned::new(HOSTNAME, NOW).expect("a certificate is made");
        Self::with_certificate(made.certificate.as_bytes(), made.key.as_bytes(), change)
    }

    /// A server with this certificate and key, both as PEM.
    pub fn with_certificate(certificate: &[u8], key: &[u8], change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let certificate = Certificate::from_pem(certificate, key).expect("the certificate is read");
        let certificates = Arc::new(Certificates::new(CertificateSet::new(&certificate, &[])));
        Self {
            settings: Arc::new(settings),
            resources: Arc::new(Resources::new(0, 1 << 30)),
            configs: configs(&certificates),
            certificates,
            tokens: Tokens::default(),
        }
    }

    /// The same server after a restart: it has forgotten all TLS sessions, and remembers the tokens.
    pub fn restarted(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            resources: Arc::clone(&self.resources),
            configs: configs(&self.certificates),
            certificates: Arc::clone(&self.certificates),
            tokens: Arc::clone(&self.tokens),
        }
    }

    /// Another host of the same fleet: it shares certificates and secrets, but neither TLS sessions nor tokens.
    pub fn another_host(&self) -> Self {
        Self { tokens: Tokens::default(), ..self.restarted() }
    }

    pub fn connect(&self, opening: Opening) -> Driver {
        let peer = Peer { client: "198.51.100.7:40000".parse().unwrap(), server: "192.0.2.1".parse().unwrap() };
        let server = Server::new(Arc::clone(&self.settings), Arc::clone(&self.resources), peer, opening, NOW);
        let connection = Connection::new(server, opening, Arc::clone(&self.configs), NOW);
        Driver {
            connection,
            output: Output::default(),
            tokens: Arc::clone(&self.tokens),
            stored: Vec::new(),
            storage: Ok(()),
            closed: false,
            largest_send: 0,
            greeted: false,
        }
    }
}

fn configs(certificates: &Arc<Certificates>) -> Arc<ServerConfigs> {
    Arc::new(ServerConfigs::new(&ServerSettings {
        certificates: Arc::clone(certificates),
        minimum_version: Version::Tls12,
        sessions: Arc::new(SessionCache::new(1_024, limits::TLS_SESSION_LIFETIME).unwrap()),
        returning: Returning::SendEarlyData,
    }))
}

/// What the server announces.
pub fn offer() -> Offer {
    Offer {
        hostname: HOSTNAME.to_owned(),
        message_bytes_max: 100_000,
        recipients_max: 3,
        messages_max: 10,
        early_ehlo: true,
        early_data: true,
        once: true,
    }
}

fn settings() -> Settings {
    let offer = offer();
    Settings {
        hostname: HOSTNAME.to_owned(),
        connect: Listing::new(&offer, Point::Connect),
        secured: Listing::new(&offer, Point::Secured),
        qhlo_ids: QhloIds::new(&[7; 32], None, Binding::Address),
        bounds: Bounds {
            message_bytes_max: offer.message_bytes_max,
            recipients_max: offer.recipients_max,
            messages_max: offer.messages_max,
            commands_max: 100,
            errors_max: 10,
            logins_failed_max: 3,
        },
        timeouts: Timeouts {
            idle: Duration::from_secs(300),
            login: Duration::from_secs(180),
            transaction: Duration::from_secs(3_600),
        },
        bare_newline: BareNewline::Reject,
        client_in_trace: ClientInTrace::Shown,
        sender_check: SenderCheck::Off,
    }
}

/// Drives one connection as the runtime does, with storage and passwords of its own.
pub struct Driver {
    pub connection: Connection,
    output: Output,
    tokens: Tokens,
    /// Messages stored so far.
    pub stored: Vec<Message>,
    /// What storage says to the next messages.
    pub storage: Result<(), StoreFailure>,
    pub closed: bool,
    /// Bytes of the largest send so far.
    pub largest_send: usize,
    greeted: bool,
}

impl Driver {
    /// The client's packet has arrived, in these pieces. Returns what the server sends.
    pub fn receive(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut sent = Vec::new();
        if !self.greeted {
            self.greeted = true;
            let early = pieces.first().copied().unwrap_or_default();
            self.connection.handle_early(early);
            self.connection.greet(&mut self.output);
            self.work(&mut sent);
        }
        for piece in pieces {
            if !piece.is_empty() && !self.closed {
                self.connection.handle_input(NOW, piece, &mut self.output);
                self.work(&mut sent);
            }
        }
        sent
    }

    /// The client is silent: as the runtime does then, all is given back that is not needed until it speaks again.
    pub fn rest(&mut self) {
        self.connection.rest();
        self.output = Output::default();
        self.stored = Vec::new();
    }

    fn work(&mut self, sent: &mut Vec<u8>) {
        loop {
            match self.connection.poll_step(&mut self.output) {
                Step::Receive => break,
                Step::Send => {
                    self.largest_send = self.largest_send.max(self.output.wire.len());
                    sent.append(&mut self.output.wire);
                    self.connection.handle_sent(NOW, &mut self.output);
                }
                Step::Close => {
                    self.closed = true;
                    break;
                }
                Step::Verify(credential) => {
                    let good = credential.user == USER && credential.password.expose() == PASSWORD.as_bytes();
                    let verdict = if good { accepted() } else { Verdict::Denied { delay: Duration::ZERO } };
                    self.connection.handle_verdict(NOW, verdict, &mut self.output);
                }
                Step::KeepPiece(_) => unreachable!("the server was not told that it may ask"),
                Step::Store(mut message) => {
                    let result = self.store(&mut message);
                    self.connection.handle_stored(NOW, result, message, &mut self.output);
                }
            }
        }
        self.largest_send = self.largest_send.max(self.output.wire.len());
        sent.append(&mut self.output.wire);
    }

    /// Keeps a message, unless its token says that it is kept already.
    fn store(&mut self, message: &mut Message) -> Result<Committed, StoreFailure> {
        self.storage.clone()?;
        let envelope = &message.envelope;
        if let Some(token) = envelope.once() {
            let key = (envelope.user().to_owned(), token.to_owned());
            let first = *self.tokens.lock().unwrap().entry(key).or_insert(message.id);
            if first != message.id {
                message.id = first;
                return Ok(Committed::attested_by_storage());
            }
        }
        self.stored.push(message.clone());
        Ok(Committed::attested_by_storage())
    }
}

/// What becomes of the right password.
pub fn accepted() -> Verdict {
    Verdict::Accepted(Arc::new(Member { name: USER.to_owned(), senders: Senders::Any }))
}

/// A client's TLS configuration, with memory for sessions.
pub fn client_tls(versions: Versions) -> Arc<ClientConfig> {
    client_config(ClientSettings { trust: Trust::Anyone, versions, sessions_max: 16 }).expect("a configuration")
}

/// The client's end of a connection: tells clear text from TLS.
pub struct Client {
    config: Arc<ClientConfig>,
    session: Option<ClientSession>,
    clear: Vec<u8>,
    pub secure: Vec<u8>,
    tls_seen: bool,
    /// Is what is said now said as early data?
    speaks_early: bool,
}

impl Client {
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self { config, session: None, clear: Vec::new(), secure: Vec::new(), tls_seen: false, speaks_early: false }
    }

    /// Begins a TLS handshake and appends its first flight.
    pub fn begin_tls(&mut self, packet: &mut Vec<u8>) {
        let name = ServerName::try_from(HOSTNAME).expect("a name");
        let mut session = ClientSession::new(Arc::clone(&self.config), name).expect("a session");
        session.send(packet);
        self.session = Some(session);
        self.tls_seen = false;
    }

    /// Begins a TLS handshake with early data: what is said until [`Client::flush_tls`] is early, and appended with it.
    pub fn begin_tls_early(&mut self) {
        let name = ServerName::try_from(HOSTNAME).expect("a name");
        self.session = Some(ClientSession::with_early_data(&self.config, name).expect("a session"));
        self.tls_seen = false;
        self.speaks_early = true;
    }

    /// Appends what TLS has to say by itself.
    pub fn flush_tls(&mut self, packet: &mut Vec<u8>) {
        self.speaks_early = false;
        if let Some(session) = &mut self.session {
            session.send(packet);
        }
    }

    /// Appends text, inside TLS if that has begun.
    pub fn say(&mut self, text: &[u8], packet: &mut Vec<u8>) {
        match &mut self.session {
            None => packet.extend_from_slice(text),
            Some(session) if self.speaks_early => {
                assert_eq!(session.write_early(text), text.len(), "the client has no ticket for early data");
                session.send(packet);
            }
            Some(session) => {
                assert_eq!(session.write(text), text.len());
                session.send(packet);
            }
        }
    }

    /// Appends close_notify.
    pub fn close_tls(&mut self, packet: &mut Vec<u8>) {
        if let Some(session) = &mut self.session {
            session.close();
            session.send(packet);
        }
    }

    /// The handshake was refused: it is forgotten.
    pub fn give_up_tls(&mut self) {
        self.session = None;
    }

    /// Takes what the server sent. Returns reply lines, and whether there was any TLS in it.
    pub fn hear(&mut self, mut bytes: &[u8]) -> (Vec<String>, bool) {
        let mut any_tls = false;
        while let Some(first) = bytes.first() {
            let begins_record = self.clear.is_empty() && (20..=23).contains(first);
            if self.session.is_some() && (self.tls_seen || begins_record) {
                self.tls_seen = true;
                any_tls = true;
                self.hear_tls(bytes);
                break;
            }
            let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            self.clear.extend_from_slice(&bytes[..line]);
            bytes = &bytes[line..];
            if self.clear.ends_with(b"\n") {
                self.secure.append(&mut self.clear);
            }
        }
        let text = String::from_utf8(std::mem::take(&mut self.secure)).expect("replies are text");
        (text.split_terminator("\r\n").map(str::to_owned).collect(), any_tls)
    }

    fn hear_tls(&mut self, mut bytes: &[u8]) {
        let Some(session) = &mut self.session else { return };
        loop {
            loop {
                let plaintext = session.plaintext();
                if plaintext.is_empty() {
                    break;
                }
                let taken = plaintext.len();
                self.secure.extend_from_slice(plaintext);
                session.consume(taken);
            }
            if bytes.is_empty() {
                return;
            }
            let taken = session.receive(bytes).expect("the server speaks TLS");
            bytes = &bytes[taken..];
        }
    }

    /// What became of the early data.
    pub fn early_outcome(&self) -> EarlyOutcome {
        self.session.as_ref().map_or(EarlyOutcome::None, ClientSession::early_outcome)
    }

    pub fn is_resumed(&self) -> bool {
        self.session.as_ref().and_then(ClientSession::facts).is_some_and(|facts| facts.resumed)
    }
}
