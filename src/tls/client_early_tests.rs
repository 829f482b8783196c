//! The client's early data against the TLS library's own server, in memory.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, ServerConfig, ServerConnection};

use super::certificate::{SelfSigned, chain_from_pem};
use super::client::{ClientSettings, Trust, client_config};
use super::session::{ClientSession, EarlyOutcome};
use super::{Version, Versions};
use crate::limits::TLS_RECORD_OVERHEAD_BYTES;
use crate::time::Now;

/// A server that allows so much early data, and a client that trusts it.
struct World {
    server: ServerConfig,
    client: Arc<ClientConfig>,
}

impl World {
    fn new(early_bytes_max: u32) -> Self {
        let made = SelfSigned::new("localhost", Now::simulated_ms(0)).unwrap();
        let chain = chain_from_pem(made.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
        let provider = super::provider::provider();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(Versions::Both.supported())
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key)
            .unwrap();
        server.max_early_data_size = early_bytes_max;
        server.send_half_rtt_data = true;
        let settings = ClientSettings { trust: Trust::Roots(chain), versions: Versions::Both, sessions_max: 8 };
        Self { server, client: client_config(settings).unwrap() }
    }

    /// With a ticket of the server's, which may forget it.
    fn with_ticket(early_bytes_max: u32) -> Self {
        let world = Self::new(early_bytes_max);
        let mut visit = world.visit();
        visit.turn();
        visit.turn();
        assert!(!visit.client.is_handshaking());
        world
    }

    fn forget_sessions(&mut self) {
        self.server.session_storage = ServerSessionMemoryCache::new(8);
    }

    fn visit(&self) -> Visit {
        let name = ServerName::try_from("localhost").unwrap();
        Visit {
            client: ClientSession::with_early_data(&self.client, name).unwrap(),
            server: ServerConnection::new(Arc::new(self.server.clone())).unwrap(),
            early: Vec::new(),
            later: Vec::new(),
            heard: Vec::new(),
        }
    }
}

struct Visit {
    client: ClientSession,
    server: ServerConnection,
    /// What the server read as early data, and what it read later.
    early: Vec<u8>,
    later: Vec<u8>,
    /// What the client read.
    heard: Vec<u8>,
}

impl Visit {
    /// Writes all of it early; how much fitted.
    fn write_early(&mut self, plaintext: &[u8], flight: &mut Vec<u8>) -> usize {
        let mut written = 0;
        loop {
            let taken = self.client.write_early(&plaintext[written..]);
            self.client.send(flight);
            if taken == 0 {
                return written;
            }
            written += taken;
        }
    }

    /// One flight each way.
    fn turn(&mut self) {
        let mut flight = Vec::new();
        self.client.send(&mut flight);
        self.arrive(&flight);
        let mut answer = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut answer).unwrap();
        }
        self.return_flight(&answer);
    }

    fn arrive(&mut self, mut flight: &[u8]) {
        while !flight.is_empty() {
            self.server.read_tls(&mut flight).unwrap();
            self.server.process_new_packets().unwrap();
            if let Some(mut early) = self.server.early_data() {
                early.read_to_end(&mut self.early).unwrap();
            }
            let _ = self.server.reader().read_to_end(&mut self.later);
        }
    }

    fn return_flight(&mut self, mut answer: &[u8]) {
        while !answer.is_empty() {
            let taken = self.client.receive(answer).unwrap();
            answer = &answer[taken..];
            let heard = self.client.plaintext().to_vec();
            self.client.consume(heard.len());
            self.heard.extend(heard);
        }
    }
}

/// Bytes that show where one is missing.
fn words(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[test]
fn early_data_is_answered_before_the_client_has_finished() {
    let mut visit = World::with_ticket(1 << 18).visit();
    let mut flight = Vec::new();
    assert_eq!(visit.write_early(b"QHLO c id\r\n", &mut flight), 11);
    visit.arrive(&flight);
    assert_eq!(visit.early, b"QHLO c id\r\n");
    visit.server.writer().write_all(b"220 s\r\n").unwrap();
    visit.turn();
    assert_eq!(visit.heard, b"220 s\r\n");
    assert!(!visit.client.is_handshaking() && visit.server.is_handshaking());
    assert_eq!(visit.client.early_outcome(), EarlyOutcome::Accepted);
    assert!(visit.client.facts().is_some_and(|facts| facts.resumed && facts.version == Version::Tls13));
}

#[test]
fn without_a_session_or_the_servers_leave_nothing_goes_early() {
    for world in [World::new(1 << 18), World::with_ticket(0), World::with_ticket(71)] {
        let mut visit = world.visit();
        assert_eq!(visit.client.early_bytes_max(), 0);
        assert_eq!(visit.client.write_early(b"x"), 0);
        visit.turn();
        assert!(!visit.client.is_handshaking());
        assert_eq!(visit.client.early_outcome(), EarlyOutcome::None);
    }
}

#[test]
fn a_client_that_does_not_ask_for_early_data_offers_none() {
    let world = World::with_ticket(1 << 18);
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientSession::new(Arc::clone(&world.client), name).unwrap();
    assert_eq!((client.early_bytes_max(), client.write_early(b"x")), (0, 0));
}

/// Limits of servers around those where something changes.
const LIMITS: [u32; 7] = [72, 1_000, 4_000, 65_603, 65_604, 100_000, 1 << 20];

#[test]
fn all_that_may_go_early_arrives_and_not_a_byte_more() {
    for allowed in LIMITS {
        let mut visit = World::with_ticket(allowed).visit();
        let most = visit.client.early_bytes_max();
        assert_eq!(most, (allowed as usize / 4).min(16_401) - TLS_RECORD_OVERHEAD_BYTES);
        let sent = words(most + 100);
        let mut flight = Vec::new();
        assert_eq!(visit.write_early(&sent, &mut flight), most, "{allowed} allowed");
        visit.arrive(&flight);
        assert_eq!(visit.early, sent[..most], "{allowed} allowed");
        visit.turn();
        assert_eq!(visit.client.early_outcome(), EarlyOutcome::Accepted);
    }
}

#[test]
fn a_server_that_rejects_the_most_that_may_go_early_skips_it_and_goes_on() {
    for allowed in LIMITS {
        let mut world = World::with_ticket(allowed);
        world.forget_sessions();
        let mut visit = world.visit();
        let sent = words(visit.client.early_bytes_max());
        let mut flight = Vec::new();
        assert_eq!(visit.write_early(&sent, &mut flight), sent.len());
        visit.arrive(&flight);
        visit.turn();
        assert_eq!(visit.client.early_outcome(), EarlyOutcome::Rejected);
        assert!(visit.early.is_empty());
        // What was said in vain can be said again, and arrives however the network cuts it.
        assert_eq!(visit.client.write(b"again"), 5);
        let mut flight = Vec::new();
        visit.client.send(&mut flight);
        let (first, rest) = flight.split_at(10);
        visit.arrive(first);
        visit.arrive(rest);
        assert_eq!(visit.later, b"again", "{allowed} allowed");
    }
}

#[test]
fn the_bound_is_needed_because_a_server_breaks_the_connection_over_as_much_as_it_allows() {
    let mut world = World::with_ticket(1 << 18);
    world.forget_sessions();
    let mut visit = world.visit();
    visit.client.lift_early_bound();
    let sent = words(40_000);
    let mut flight = Vec::new();
    assert_eq!(visit.write_early(&sent, &mut flight), sent.len());
    let mut rest = &flight[..];
    let broken = std::iter::from_fn(|| {
        let read = visit.server.read_tls(&mut rest);
        Some(read.is_err() || visit.server.process_new_packets().is_err())
    });
    assert!(broken.take(100).any(|is_broken| is_broken), "the library has learnt to skip: the bound can go");
}

#[test]
fn early_data_that_comes_in_small_pieces_keeps_to_the_same_bound() {
    let mut world = World::with_ticket(1_000);
    world.forget_sessions();
    let mut visit = world.visit();
    let mut flight = Vec::new();
    let mut records = 0;
    while visit.write_early(b"x", &mut flight) > 0 {
        records += 1;
    }
    assert_eq!(records, 250 / (1 + TLS_RECORD_OVERHEAD_BYTES));
    visit.arrive(&flight);
    visit.turn();
    assert_eq!(visit.client.early_outcome(), EarlyOutcome::Rejected);
    visit.turn();
    assert!(!visit.server.is_handshaking());
}
