//! Whole conversations of the protocol core, from the greeting to QUIT, without TLS's own work between the two sides.
//!
//! Client and server talk once, and what each of them hears is written down; then one side alone hears it again and again.

use std::hint::black_box;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use onetrip::proto::body::BareNewline;
use onetrip::proto::channel::TlsFacts;
use onetrip::proto::client::{
    self, Address, Client, Config, Content, EarlyData, HelloName, Login, Recipient, ServerMemory, Xtext,
};
use onetrip::proto::credential::{Member, Senders, Verdict};
use onetrip::proto::extension::{Listing, Offer};
use onetrip::proto::proof::{Committed, Encrypted};
use onetrip::proto::qhlo_id::{Binding, Point, QhloIds};
use onetrip::proto::secret::Secret;
use onetrip::proto::server::{
    Action, Bounds, ClientInTrace, Opening, Peer, Resources, SenderCheck, Server, Settings, Timeouts,
};
use onetrip::time::Now;

use super::{Work, letter};

const NOW: Now = Now::simulated_ms(0);
const USER: &str = "ann";
const PASSWORD: &[u8] = b"secret";
/// More than any conversation here takes.
const FLIGHTS_MAX: usize = 20;

/// A session of plain ESMTP on the server's side: greeting, EHLO, STARTTLS, EHLO, AUTH, MAIL, RCPT, DATA, QUIT.
pub fn server_esmtp() -> Work {
    serve_again(heard_in_esmtp())
}

/// What the server hears in a session of plain ESMTP.
pub fn heard_in_esmtp() -> Vec<Heard> {
    let said = |text: &[u8]| Heard::Bytes(text.to_vec());
    let mut stuffed = String::from_utf8(letter()).expect("ASCII").replace("\r\n.", "\r\n..").into_bytes();
    stuffed.extend_from_slice(b".\r\n");
    vec![
        said(b"EHLO client.example.org\r\n"),
        said(b"STARTTLS\r\n"),
        Heard::Secured,
        said(b"EHLO client.example.org\r\n"),
        said(b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n"),
        said(b"MAIL FROM:<ann@example.org> SIZE=4096\r\n"),
        said(b"RCPT TO:<bob@example.org>\r\n"),
        said(b"DATA\r\n"),
        Heard::Bytes(stuffed),
        said(b"QUIT\r\n"),
    ]
}

/// The same message with all of QUICKSTART.
pub fn server_quickstart() -> Work {
    serve_again(Script::new().by_server)
}

fn serve_again(by_server: Vec<Heard>) -> Work {
    let site = Site::new();
    let mut out = Vec::with_capacity(16_384);
    Box::new(move || {
        out.clear();
        let mut server = site.connect();
        server.greet(&mut out);
        for heard in &by_server {
            site.tell(&mut server, heard, &mut out);
        }
        assert!(black_box(&out).ends_with(b"\r\n221 2.0.0 Closing connection\r\n"), "{}", out.escape_ascii());
    })
}

/// The client's side of a session with all of QUICKSTART, with one message.
pub fn client_quickstart() -> Work {
    let script = Script::new();
    let message = message();
    let mut out = Vec::with_capacity(16_384);
    Box::new(move || {
        out.clear();
        let mut client = Client::new(NOW, config(), script.memory.clone(), vec![message.clone()]);
        let mut outcome = speak(&mut client, &mut out).outcome;
        for heard in &script.by_client {
            tell_client(&mut client, heard);
            outcome = speak(&mut client, &mut out).outcome.or(outcome);
        }
        assert!(black_box(outcome).is_some_and(|outcome| outcome.failure.is_none()));
    })
}

/// What one side hears.
pub enum Heard {
    /// Bytes of the layer that is in force.
    Bytes(Vec<u8>),
    /// The TLS handshake is done.
    Secured,
}

/// What each side hears in one conversation.
pub struct Script {
    /// What the server hears.
    pub by_server: Vec<Heard>,
    /// What the client hears.
    pub by_client: Vec<Heard>,
    /// What the client remembered before.
    memory: ServerMemory,
}

impl Script {
    /// Has a client who was here before submit a message.
    pub fn new() -> Self {
        let first = Self::play(ServerMemory::default()).1;
        Self::play(first).0
    }

    /// One conversation, and what the client remembers after it.
    fn play(memory: ServerMemory) -> (Self, ServerMemory) {
        let site = Site::new();
        let mut script = Self { by_server: Vec::new(), by_client: Vec::new(), memory: memory.clone() };
        let mut server = site.connect();
        let mut client = Client::new(NOW, config(), memory, vec![message()]);
        let mut answer = Vec::new();
        server.greet(&mut answer);
        for _ in 0..FLIGHTS_MAX {
            let mut flight = Vec::new();
            let said = speak(&mut client, &mut flight);
            let first = script.by_client.len();
            for heard in [Some(Heard::Bytes(flight)), said.starts_tls.then_some(Heard::Secured)].into_iter().flatten() {
                if let Heard::Secured = heard {
                    script.by_client.push(Heard::Secured);
                }
                site.tell(&mut server, &heard, &mut answer);
                script.by_server.push(heard);
                script.by_client.push(Heard::Bytes(mem::take(&mut answer)));
            }
            if said.closes {
                return (script, client.memory().clone());
            }
            for heard in &script.by_client[first..] {
                tell_client(&mut client, heard);
            }
        }
        panic!("client and server do not come to an end");
    }
}

/// What the client did beside speaking.
#[derive(Default)]
struct Said {
    starts_tls: bool,
    closes: bool,
    outcome: Option<client::Outcome>,
}

/// All that the client says now.
fn speak(client: &mut Client, out: &mut Vec<u8>) -> Said {
    let mut said = Said::default();
    loop {
        while client.poll_output(NOW, out) > 0 {}
        match client.poll_action() {
            client::Action::Wait => break,
            client::Action::StartTls => said.starts_tls = true,
            client::Action::Done(outcome) => said.outcome = Some(outcome),
            client::Action::Close => said.closes = true,
            other => panic!("the server did as expected, but: {other:?}"),
        }
    }
    client.handle_transmitted();
    said
}

fn tell_client(client: &mut Client, heard: &Heard) {
    match heard {
        Heard::Bytes(bytes) => {
            client.handle_received();
            assert_eq!(client.handle_bytes(NOW, bytes), bytes.len());
        }
        Heard::Secured => client.handle_secured(NOW, EarlyData::None),
    }
}

fn config() -> Config {
    let login = Login::new(USER, Secret::new(PASSWORD.to_vec())).expect("a name and a password");
    let name = HelloName::parse("client.example.org").expect("a name");
    Config { login: Some(login), ..Config::new(name) }
}

fn message() -> client::Message {
    let address = |text| Address::parse(text).expect("an address");
    let recipients = vec![Recipient::new(address("bob@example.org"))];
    let content = Content::new(letter()).expect("lines");
    let mut message = client::Message::new(address("ann@example.org"), recipients, content);
    message.once = Some(Xtext::once_token("0123456789abcdef").expect("a token"));
    message
}

/// A server that connections can be opened to.
struct Site {
    settings: Arc<Settings>,
    resources: Arc<Resources>,
    member: Arc<Member>,
}

impl Site {
    fn new() -> Self {
        Self {
            settings: Arc::new(settings()),
            resources: Arc::new(Resources::new(0, 1 << 30)),
            member: Arc::new(Member { name: USER.to_owned(), senders: Senders::Any }),
        }
    }

    fn connect(&self) -> Server {
        let peer = Peer { client: ([198, 51, 100, 7], 40_000).into(), server: [192, 0, 2, 1].into() };
        Server::new(Arc::clone(&self.settings), Arc::clone(&self.resources), peer, Opening::Clear, NOW)
    }

    /// Tells the server, and does what it asks for: every password is good, and every message is stored at once.
    fn tell(&self, server: &mut Server, heard: &Heard, out: &mut Vec<u8>) {
        let Heard::Bytes(bytes) = heard else {
            server.greet(out);
            let facts = TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: false };
            return server.handle_secured(facts, Encrypted::attested_by_handshake());
        };
        let mut taken = 0;
        while taken < bytes.len() {
            let more = server.handle_bytes(NOW, &bytes[taken..], out);
            assert!(more > 0, "the server takes no more");
            taken += more;
            match server.poll_action() {
                Some(Action::Verify(_)) => server.handle_verdict(Verdict::Accepted(Arc::clone(&self.member)), out),
                Some(Action::Store(message)) => {
                    server.handle_stored(Ok(Committed::attested_by_storage()), message, out);
                }
                Some(Action::KeepPiece(_)) => unreachable!("the message is small"),
                Some(Action::Close) | None => {}
            }
        }
    }
}

fn settings() -> Settings {
    let offer = Offer {
        hostname: "mail.example".to_owned(),
        message_bytes_max: 100_000,
        recipients_max: 100,
        messages_max: 100,
        early_ehlo: true,
        early_data: true,
        once: true,
    };
    Settings {
        hostname: offer.hostname.clone(),
        connect: Listing::new(&offer, Point::Connect),
        secured: Listing::new(&offer, Point::Secured),
        qhlo_ids: QhloIds::new(&[7; QhloIds::SECRET_BYTES], None, Binding::Address),
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
