//! The client's connection against the server's, in memory.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::{Connection, Lens, Milestone, Step, TlsSetup};
use crate::limits::CLIENT_FLUSH_BYTES;
use crate::proto::body::BareNewline;
use crate::proto::client::{
    Address, Client, Config, Content, EarlyData, Failure, HelloName, How, Login, Message, Outcome, Recipient, Security,
    ServerMemory, Verdict,
};
use crate::proto::credential::{self, Member, Senders};
use crate::proto::extension::{Listing, Offer};
use crate::proto::proof::Committed;
use crate::proto::qhlo_id::{Binding, Point, QhloIds};
use crate::proto::secret::Secret;
use crate::proto::server::{
    Bounds, ClientInTrace, Opening, Peer, Resources, SenderCheck, Server, Settings, Start, Timeouts,
};
use crate::time::Now;
use crate::tls::cache::SessionCache;
use crate::tls::certificate::{Certificate, SelfSigned};
use crate::tls::client::{ClientSettings, Trust, client_config};
use crate::tls::config::{CertificateSet, Certificates, Returning, ServerConfigs, ServerSettings};
use crate::tls::{Version, Versions};
use crate::wire;

/// More turns than any dialog here takes.
const TURNS_MAX: usize = 100;

fn now() -> Now {
    Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_800_000_000) }
}

/// A server that many connections are made to.
struct World {
    rules: Arc<Settings>,
    configs: Arc<ServerConfigs>,
    setup: TlsSetup,
}

impl World {
    fn new() -> Self {
        Self::with_versions(Versions::Both)
    }

    fn with_versions(versions: Versions) -> Self {
        let own = SelfSigned::new("localhost", Now { unix: real_time(), ..now() }).unwrap();
        let certificate = Certificate::from_pem(own.certificate.as_bytes(), own.key.as_bytes()).unwrap();
        let configs = Arc::new(ServerConfigs::new(&ServerSettings {
            certificates: Arc::new(Certificates::new(CertificateSet::new(&certificate, &[]))),
            minimum_version: Version::Tls12,
            sessions: Arc::new(SessionCache::new(64, Duration::from_secs(60)).unwrap()),
            returning: Returning::SendEarlyData,
        }));
        let roots = crate::tls::certificate::chain_from_pem(own.certificate.as_bytes()).unwrap();
        Self { rules: Arc::new(rules()), configs, setup: setup(Trust::Roots(roots), versions) }
    }

    fn server(&self, opening: Opening) -> wire::Connection {
        let peer = Peer { client: ([127, 0, 0, 1], 40_000).into(), server: [127, 0, 0, 1].into() };
        let resources = Arc::new(Resources::new(0, 1 << 30));
        let server = Server::new(Arc::clone(&self.rules), resources, peer, opening, now());
        wire::Connection::new(server, opening, Arc::clone(&self.configs), now())
    }
}

/// The TLS library looks at the clock to judge certificates.
fn real_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

fn setup(trust: Trust, versions: Versions) -> TlsSetup {
    let config = client_config(ClientSettings { trust, versions, sessions_max: 8 }).unwrap();
    TlsSetup { config, server_name: ServerName::try_from("localhost").unwrap() }
}

fn rules() -> Settings {
    let offer = Offer {
        hostname: "localhost".to_owned(),
        message_bytes_max: 8 << 20,
        recipients_max: 100,
        messages_max: 100,
        early_ehlo: true,
        early_data: false,
        once: false,
    };
    let day = Duration::from_secs(86_400);
    Settings {
        hostname: "localhost".to_owned(),
        connect: Listing::new(&offer, Point::Connect),
        secured: Listing::new(&offer, Point::Secured),
        qhlo_ids: QhloIds::new(&[7; QhloIds::SECRET_BYTES], None, Binding::Address),
        bounds: Bounds {
            message_bytes_max: 8 << 20,
            recipients_max: 100,
            messages_max: 100,
            commands_max: 100,
            errors_max: 20,
            logins_failed_max: 3,
        },
        timeouts: Timeouts { idle: day, login: day, transaction: day },
        bare_newline: BareNewline::default(),
        client_in_trace: ClientInTrace::Shown,
        sender_check: SenderCheck::default(),
    }
}

fn client(security: Security, memory: ServerMemory, content: &[u8]) -> Client {
    let recipient = Recipient::new(Address::parse("b@y").unwrap());
    let message = Message::new(Address::parse("a@x").unwrap(), vec![recipient], Content::normalised(content));
    let mut config = Config::new(HelloName::parse("c").unwrap());
    config.security = security;
    config.login = Some(Login::new("ann", Secret::new(b"secret".to_vec())).unwrap());
    Client::new(now(), config, memory, vec![message])
}

/// What one visit came to.
#[derive(Debug)]
struct Visit {
    outcome: Outcome,
    milestones: Vec<Milestone>,
    memory: ServerMemory,
    /// What the server stored.
    stored: Vec<Vec<u8>>,
    start: Start,
    round_trips: u32,
    mail_packet: Option<u32>,
}

impl Visit {
    fn is_good(&self) -> bool {
        self.outcome.failure.is_none() && self.outcome.messages.iter().flatten().all(Verdict::is_accepted)
    }
}

/// One visit to the end. What the server sends reaches the client in pieces of at most so many bytes.
fn visit<Through: Lens>(
    mut connection: Connection<Through>,
    mut server: wire::Connection,
    piece_bytes: usize,
) -> Visit {
    let (mut output, mut stored, mut outcome) = (wire::Output::default(), Vec::new(), None);
    let mut milestones = Vec::new();
    server.greet(&mut output);
    let mut up = Vec::new();
    for _ in 0..TURNS_MAX {
        let step = connection.poll_step(now(), &mut up);
        milestones.extend(std::iter::from_fn(|| connection.poll_milestone()));
        match &step {
            Step::Settled(settled) => outcome = Some(settled.clone()),
            Step::Reconnect(how) => panic!("another connection: {how:?}"),
            Step::Send | Step::Receive | Step::Close => {
                server.handle_input(now(), &std::mem::take(&mut up), &mut output);
                serve(&mut server, &mut output, &mut stored);
                if step == Step::Close {
                    let client = connection.client();
                    return Visit {
                        outcome: outcome.expect("an outcome comes before the end"),
                        milestones,
                        memory: client.memory().clone(),
                        stored,
                        start: server.server().tally().start,
                        round_trips: client.round_trips(),
                        mail_packet: client.flights().mail_packet(),
                    };
                }
            }
        }
        if step == Step::Receive {
            let down = std::mem::take(&mut output.wire);
            assert!(!down.is_empty(), "both sides wait: {:?} {milestones:?}", connection.client());
            down.chunks(piece_bytes).for_each(|piece| connection.handle_input(now(), piece));
        }
    }
    panic!("no end")
}

fn serve(server: &mut wire::Connection, output: &mut wire::Output, stored: &mut Vec<Vec<u8>>) {
    loop {
        match server.poll_step(output) {
            wire::Step::Receive | wire::Step::Close => return,
            wire::Step::Send => unreachable!("so much is not said here"),
            wire::Step::Verify(credential) => {
                let member = Member { name: credential.user, senders: Senders::Any };
                server.handle_verdict(now(), credential::Verdict::Accepted(Arc::new(member)), output);
            }
            wire::Step::KeepPiece(_) => unreachable!("the server was not told that it may ask"),
            wire::Step::Store(message) => {
                stored.push(message.content.clone());
                server.handle_stored(now(), Ok(Committed::attested_by_storage()), message, output);
            }
        }
    }
}

#[test]
fn a_first_visit_and_the_next_are_those_of_the_client_core_over_every_kind_of_tls() {
    for versions in [Versions::Tls12, Versions::Tls13] {
        let world = World::with_versions(versions);
        for (security, opening) in [(Security::Required, Opening::Clear), (Security::Implicit, Opening::ImplicitTls)] {
            let connect = |memory| Connection::new(client(security, memory, b"hi\n"), world.setup.clone());
            let first = visit(connect(ServerMemory::default()), world.server(opening), usize::MAX);
            assert!(first.is_good(), "{first:?}");
            assert_eq!(first.start, Start::Basic);
            assert!(first.stored[0].ends_with(b"hi\r\n"));

            let second = visit(connect(first.memory.clone()), world.server(opening), usize::MAX);
            assert!(second.is_good() && second.start == Start::Full, "{second:?}");
            assert!(second.round_trips <= first.round_trips && second.mail_packet <= first.mail_packet);
            let secured = Milestone::Secured { resumed: true, early_data: EarlyData::None };
            assert_eq!(second.milestones, [secured, Milestone::MailSent]);
        }
    }
}

#[test]
fn it_does_not_matter_how_the_servers_bytes_are_cut() {
    let world = World::new();
    let mut memory = ServerMemory::default();
    for piece_bytes in [1, 2, 7, 100, 1_000] {
        let connection = Connection::new(client(Security::Required, memory, b"hi\n"), world.setup.clone());
        let visit = visit(connection, world.server(Opening::Clear), piece_bytes);
        assert!(visit.is_good(), "pieces of {piece_bytes}: {visit:?}");
        memory = visit.memory;
    }
}

#[test]
fn a_large_message_leaves_in_parts_and_is_never_gathered_whole() {
    let world = World::new();
    let long = b"all work and no play\n".repeat(200_000);
    let mut connection =
        Connection::new(client(Security::Implicit, ServerMemory::default(), &long), world.setup.clone());
    let mut server = world.server(Opening::ImplicitTls);
    let (mut output, mut stored, mut parts) = (wire::Output::default(), Vec::new(), 0);
    server.greet(&mut output);
    for _ in 0..TURNS_MAX {
        let mut up = Vec::new();
        let step = connection.poll_step(now(), &mut up);
        assert!(up.len() < 2 * CLIENT_FLUSH_BYTES, "{} bytes at once", up.len());
        parts += usize::from(step == Step::Send);
        server.handle_input(now(), &up, &mut output);
        serve(&mut server, &mut output, &mut stored);
        if step == Step::Close {
            break;
        }
        connection.handle_input(now(), &std::mem::take(&mut output.wire));
    }
    assert!(parts > 10, "{parts}");
    assert_eq!(stored[0], b"all work and no play\r\n".repeat(200_000));
}

#[test]
fn a_record_that_asks_for_no_answer_waits_for_the_next_flight() {
    let world = World::with_versions(Versions::Tls13);
    let mut connection =
        Connection::new(client(Security::Implicit, ServerMemory::default(), b"hi\n"), world.setup.clone());
    let mut server = world.server(Opening::ImplicitTls);
    let (mut up, mut output) = (Vec::new(), wire::Output::default());
    server.greet(&mut output);
    assert_eq!(connection.poll_step(now(), &mut up), Step::Receive);
    server.handle_input(now(), &up, &mut output);
    // The ServerHello alone: the client changes to the new keys and has nothing else to say.
    let hello_bytes = 5 + usize::from(u16::from_be_bytes([output.wire[3], output.wire[4]]));
    connection.handle_input(now(), &output.wire[..hello_bytes]);
    up.clear();
    assert_eq!(connection.poll_step(now(), &mut up), Step::Receive);
    assert!(up.is_empty(), "{up:?}");
    assert_eq!(connection.client().flights().sent(), 1);

    connection.handle_input(now(), &output.wire[hello_bytes..]);
    assert_eq!(connection.poll_step(now(), &mut up), Step::Receive);
    assert!(up.starts_with(&super::CHANGE_CIPHER_SPEC) && up.len() > 100, "{up:?}");
}

#[test]
fn a_certificate_that_is_not_trusted_ends_it_and_the_server_is_told_why() {
    let (world, other) = (World::new(), World::new());
    let mut connection =
        Connection::new(client(Security::Implicit, ServerMemory::default(), b"hi\n"), other.setup.clone());
    let mut server = world.server(Opening::ImplicitTls);
    let (mut up, mut output) = (Vec::new(), wire::Output::default());
    server.greet(&mut output);
    connection.poll_step(now(), &mut up);
    server.handle_input(now(), &std::mem::take(&mut up), &mut output);
    connection.handle_input(now(), &output.wire);
    let Step::Settled(outcome) = connection.poll_step(now(), &mut up) else { panic!("{connection:?}") };
    assert!(matches!(outcome.failure, Some(Failure::Tls(_))), "{outcome:?}");
    assert_eq!(connection.poll_step(now(), &mut up), Step::Close);
    server.handle_input(now(), &up, &mut output);
    assert!(server.tls_failure().is_some(), "an alert tells the server");
}

#[test]
fn what_comes_between_the_reply_to_starttls_and_tls_is_not_taken_for_either() {
    let client = client(Security::Required, ServerMemory::default(), b"hi\n");
    let mut connection = Connection::new(client, World::new().setup);
    let mut up = Vec::new();
    for said in ["220 s\r\n", "250-s\r\n250 STARTTLS\r\n"] {
        connection.poll_step(now(), &mut up);
        connection.handle_input(now(), said.as_bytes());
    }
    connection.poll_step(now(), &mut up);
    connection.handle_input(now(), b"220 go\r\n250 evil\r\n");
    let step = connection.poll_step(now(), &mut up);
    assert!(matches!(&step, Step::Settled(Outcome { failure: Some(Failure::Tls(_)), .. })), "{step:?}");
    assert_eq!(connection.poll_step(now(), &mut up), Step::Close);
}

#[test]
fn a_new_connection_begins_from_nothing() {
    let world = World::new();
    let first = Connection::new(client(Security::Required, ServerMemory::default(), b"hi\n"), world.setup.clone());
    let memory = visit(first, world.server(Opening::Clear), usize::MAX).memory;
    let mut connection = Connection::new(client(Security::Required, memory, b"hi\n"), world.setup.clone());
    let mut up = Vec::new();
    connection.poll_step(now(), &mut up);
    assert!(up.starts_with(b"QHLO c "), "{up:?}");
    // Something else stands there now, which takes the handshake for commands.
    connection.handle_input(now(), b"220 s\r\n");
    assert_eq!(connection.poll_step(now(), &mut up), Step::Reconnect(How::PlainEsmtp));
    connection.handle_reconnected(now());
    let visit = visit(connection, world.server(Opening::Clear), usize::MAX);
    assert!(visit.is_good() && visit.start == Start::Esmtp, "{visit:?}");
}

/// Hides one word.
struct Hiding {
    word: &'static str,
    shown: Vec<u8>,
}

impl Lens for Hiding {
    fn show<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        self.shown = bytes.to_vec();
        let found = bytes.windows(self.word.len()).position(|part| part == self.word.as_bytes());
        found.inspect(|&at| self.shown[at] = b'X');
        &self.shown
    }

    fn reset(&mut self) {}
}

#[test]
fn a_client_knows_only_what_it_sees_through_its_lens() {
    let world = World::new();
    let client = client(Security::Required, ServerMemory::default(), b"hi\n");
    let lens = Hiding { word: "QUICKSTART", shown: Vec::new() };
    let connection = Connection::with_lens(client, world.setup.clone(), lens);
    let visit = visit(connection, world.server(Opening::Clear), usize::MAX);
    assert!(visit.is_good() && visit.start == Start::Esmtp, "{visit:?}");
}
