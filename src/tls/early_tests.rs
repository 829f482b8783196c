//! Early data: what is taken, what is skipped, and what becomes of copies.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::kx_group;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::cache::SessionCache;
use super::client::Trust;
use super::config::{Certificates, Returning, ServerConfigs, ServerSettings};
use super::provider::provider;
use super::session::{ClientSession, EarlyOutcome, FailureKind, Origin, Plaintext, Session, TlsFailure};
use super::store::{LibraryStore, SessionStore};
use super::tests::{GREETING, HOST, Pair, World, all_written, feed_client, feed_server};
use super::{Version, Versions};
use crate::limits;
use crate::time::Now;

const COMMANDS: &[u8] = b"EHLO client.example\r\nNOOP\r\n";
const REPLIES: &[u8] = b"250 mail.example.org\r\n250 OK\r\n";

impl World {
    /// Another server of the same name and certificate, with a store of its own: another host, or this one restarted.
    fn another(&self, returning: Returning) -> Self {
        let sessions = Arc::new(SessionCache::new(1_000, limits::TLS_SESSION_LIFETIME).unwrap());
        let configs = ServerConfigs::new(&ServerSettings {
            certificates: Arc::clone(&self.certificates),
            minimum_version: Version::Tls12,
            sessions: Arc::<SessionCache>::clone(&sessions),
            returning,
        });
        let certificates = Arc::clone(&self.certificates);
        Self { configs: Arc::new(configs), certificates, sessions, roots: self.roots.clone() }
    }

    /// A client that was here before, so that it has a ticket.
    fn returning_client(&self) -> Arc<ClientConfig> {
        let client = self.client(Versions::Tls13);
        self.pair(&client).settle().unwrap();
        client
    }

    fn early_pair(&self, client: &ClientConfig) -> Pair {
        let name = ServerName::try_from(HOST).unwrap();
        let mut client = ClientSession::with_early_data(client, name).unwrap();
        client.lift_early_bound();
        Pair { server: Session::new(Arc::clone(&self.configs)), client }
    }

    /// A returning client's first flight, with `COMMANDS` in it.
    fn captured_flight(&self) -> Vec<u8> {
        let mut pair = self.early_pair(&self.returning_client());
        pair.early_flight(COMMANDS)
    }
}

impl Pair {
    /// The client's first flight with this as early data.
    fn early_flight(&mut self, mut text: &[u8]) -> Vec<u8> {
        let mut flight = Vec::new();
        while !text.is_empty() {
            let taken = self.client.write_early(text);
            assert!(taken > 0, "{} bytes do not fit", text.len());
            text = &text[taken..];
            self.client.send(&mut flight);
        }
        flight
    }

    /// Says this early. Returns what the server reads.
    fn says_early(&mut self, text: &[u8]) -> Result<Vec<u8>, TlsFailure> {
        let flight = self.early_flight(text);
        feed_server(&mut self.server, &flight)
    }

    fn outcomes(&self) -> (EarlyOutcome, EarlyOutcome) {
        (self.server.early_outcome(), self.client.early_outcome())
    }
}

/// What the server reads, with its origin, when it gets these pieces.
fn read_with_origin(server: &mut Session, pieces: &[&[u8]]) -> Result<Vec<(Vec<u8>, Origin)>, TlsFailure> {
    let mut read: Vec<(Vec<u8>, Origin)> = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let result = server.receive(rest);
            while !server.plaintext().bytes.is_empty() {
                let plaintext = server.plaintext();
                let (bytes, origin) = (plaintext.bytes.to_vec(), plaintext.origin);
                server.consume(bytes.len());
                match read.last_mut().filter(|last| last.1 == origin) {
                    Some(last) => last.0.extend(bytes),
                    None => read.push((bytes, origin)),
                }
            }
            rest = &rest[result?..];
        }
    }
    Ok(read)
}

/// Gives a first flight to a new connection. Returns what was read of it.
fn replay(world: &World, flight: &[u8]) -> Vec<u8> {
    let mut server = Session::new(Arc::clone(&world.configs));
    read_with_origin(&mut server, &[flight]).unwrap().into_iter().flat_map(|(bytes, _)| bytes).collect()
}

#[test]
fn early_data_is_read_at_once_and_its_answer_leaves_with_the_servers_first_flight() {
    let world = World::new();
    let mut pair = world.early_pair(&world.returning_client());
    all_written(pair.server.write(GREETING), GREETING);
    assert_eq!(pair.says_early(COMMANDS).unwrap(), COMMANDS);
    assert!(pair.server.is_handshaking(), "the client's Finished has not come");
    let facts = pair.facts();
    assert!(facts.resumed && facts.version == Version::Tls13);
    all_written(pair.server.write(REPLIES), REPLIES);
    assert_eq!(pair.server_speaks().unwrap(), [GREETING, REPLIES].concat());
    pair.settle().unwrap();
    assert!(!pair.server.is_handshaking());
    assert_eq!(pair.outcomes(), (EarlyOutcome::Accepted, EarlyOutcome::Accepted));
}

#[test]
fn the_origin_of_every_byte_is_known_however_the_flights_are_cut() {
    let world = World::new();
    let client = world.returning_client();
    for cut in [usize::MAX, 1, 7, 100] {
        let mut pair = world.early_pair(&client);
        let first = pair.early_flight(COMMANDS);
        let pieces: Vec<&[u8]> = first.chunks(cut.min(first.len())).collect();
        let read = read_with_origin(&mut pair.server, &pieces).unwrap();
        assert_eq!(read, [(COMMANDS.to_vec(), Origin::Early)], "cut at {cut}");
        pair.server_speaks().unwrap();
        all_written(pair.client.write(b"QUIT\r\n"), b"QUIT\r\n");
        let mut second = Vec::new();
        pair.client.send(&mut second);
        let pieces: Vec<&[u8]> = second.chunks(cut.min(second.len())).collect();
        let read = read_with_origin(&mut pair.server, &pieces).unwrap();
        assert_eq!(read, [(b"QUIT\r\n".to_vec(), Origin::Confirmed)], "cut at {cut}");
        pair.settle().unwrap();
    }
}

#[test]
fn early_data_that_nobody_reads_is_held_up_to_its_bound_and_comes_before_the_rest() {
    let world = World::new();
    let mut pair = world.early_pair(&world.returning_client());
    let text = vec![b'x'; pair.client.early_bytes_max()];
    assert!(text.len() > limits::TLS_EARLY_DATA_BYTES_MAX * 9 / 10);
    let mut flight = pair.early_flight(&text);
    assert_eq!(pair.server.receive(&flight).unwrap(), flight.len(), "all is taken, though nothing is read");
    pair.server_speaks().unwrap();
    all_written(pair.client.write(b"QUIT\r\n"), b"QUIT\r\n");
    flight.clear();
    pair.client.send(&mut flight);
    pair.server.receive(&flight).unwrap();
    assert!(!pair.server.is_handshaking(), "the Finished was got to");
    let read = read_with_origin(&mut pair.server, &[b"", &[]]).unwrap();
    assert!(read.is_empty());
    assert_eq!(pair.server.plaintext().bytes.len(), text.len());
    pair.server.consume(text.len());
    assert_eq!(pair.server.plaintext(), Plaintext { bytes: b"QUIT\r\n", origin: Origin::Confirmed });
}

#[test]
fn rejected_early_data_is_skipped_unread_however_much_it_is_and_the_connection_goes_on() {
    for returning in Returning::ALL {
        for bytes in [1, 20_000, usize::MAX] {
            let world = World::new();
            let client = world.returning_client();
            let restarted = world.another(returning);
            let mut pair = restarted.early_pair(&client);
            let text = vec![b'x'; bytes.min(pair.client.early_bytes_max())];
            assert_eq!(pair.says_early(&text).unwrap(), b"", "{returning:?}, {bytes}");
            assert_eq!(pair.server.facts(), None);
            pair.server_speaks().unwrap();
            all_written(pair.client.write(COMMANDS), COMMANDS);
            assert_eq!(pair.client_speaks().unwrap(), COMMANDS);
            assert_eq!(pair.outcomes(), (EarlyOutcome::Rejected, EarlyOutcome::Rejected));
            assert!(!pair.facts().resumed);
        }
    }
}

#[test]
fn rejected_early_data_is_skipped_however_it_is_cut() {
    let world = World::new();
    let restarted = world.another(Returning::SendEarlyData);
    for (bytes, cut) in [(1, 1), (40, 1), (3_000, 1), (3_000, 700), (40_000, 1_400), (100_000, 4_000)] {
        let client = world.returning_client();
        let mut pair = restarted.early_pair(&client);
        let flight = pair.early_flight(&vec![b'x'; bytes]);
        let mut answer = Vec::new();
        for piece in flight.chunks(cut) {
            assert!(read_with_origin(&mut pair.server, &[piece]).unwrap().is_empty());
            pair.server.send(&mut answer);
        }
        feed_client(&mut pair.client, &answer).unwrap();
        all_written(pair.client.write(COMMANDS), COMMANDS);
        let mut second = Vec::new();
        pair.client.send(&mut second);
        let pieces: Vec<&[u8]> = second.chunks(cut).collect();
        let read = read_with_origin(&mut pair.server, &pieces).unwrap();
        assert_eq!(read, [(COMMANDS.to_vec(), Origin::Confirmed)], "{bytes} bytes cut at {cut}");
    }
}

#[test]
fn an_expired_session_takes_no_early_data() {
    let world = World::new();
    let client = world.returning_client();
    let end_ms = u64::try_from(limits::TLS_SESSION_LIFETIME.as_millis()).unwrap();
    world.sessions.tick(Now::simulated_ms(end_ms));
    let mut pair = world.early_pair(&client);
    assert_eq!(pair.says_early(COMMANDS).unwrap(), b"");
    assert_eq!(pair.server.early_outcome(), EarlyOutcome::Rejected);
}

#[test]
fn a_client_that_was_never_here_offers_none() {
    let world = World::new();
    let mut pair = world.early_pair(&world.client(Versions::Tls13));
    assert_eq!((pair.client.early_bytes_max(), pair.client.write_early(COMMANDS)), (0, 0));
    pair.settle().unwrap();
    assert_eq!(pair.outcomes(), (EarlyOutcome::None, EarlyOutcome::None));
}

/// A client that was here before, and whose cryptography was changed since.
fn changed_client(world: &World, change: impl FnOnce(&mut CryptoProvider)) -> ClientConfig {
    let Trust::Roots(roots) = &world.roots else { unreachable!() };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.clone());
    let mut provider = CryptoProvider::clone(&provider());
    let own = Arc::new(provider.clone());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), own).build().unwrap();
    let config = |provider: &CryptoProvider| {
        ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::<WebPkiServerVerifier>::clone(&verifier))
            .with_no_client_auth()
    };
    let before = config(&provider);
    world.pair(&Arc::new(before.clone())).settle().unwrap();
    change(&mut provider);
    let mut after = config(&provider);
    after.resumption = before.resumption;
    after.client_auth_cert_resolver = before.client_auth_cert_resolver;
    after
}

#[test]
fn another_suite_than_the_sessions_makes_a_full_handshake_without_early_data() {
    let world = World::new();
    let client = changed_client(&world, |provider| provider.cipher_suites.swap(0, 1));
    let mut pair = world.early_pair(&client);
    assert_eq!(pair.says_early(COMMANDS).unwrap(), b"");
    pair.settle().unwrap();
    assert_eq!(pair.facts().cipher_suite, "TLS_CHACHA20_POLY1305_SHA256");
    assert_eq!(pair.outcomes(), (EarlyOutcome::Rejected, EarlyOutcome::Rejected));
}

/// A client that was here before, and names an ALPN protocol since.
fn client_with_another_protocol(world: &World) -> ClientConfig {
    let mut client = ClientConfig::clone(&world.returning_client());
    client.alpn_protocols = vec![b"smtp".to_vec()];
    client
}

#[test]
fn what_becomes_of_early_data_is_known_as_soon_as_the_hello_is_answered() {
    let world = World::new();
    let (same, other) = (world.returning_client(), client_with_another_protocol(&world));
    let clients = [(&*same, EarlyOutcome::Accepted), (&other, EarlyOutcome::Rejected)];
    for (client, outcome) in clients {
        let mut pair = world.early_pair(client);
        let flight = pair.early_flight(COMMANDS);
        let hello = 5 + usize::from(u16::from_be_bytes([flight[3], flight[4]]));
        pair.server.receive(&flight[..hello]).unwrap();
        assert!(pair.server.has_output());
        assert_eq!(pair.server.early_outcome(), outcome);
        assert_eq!(pair.server.facts().is_some(), outcome == EarlyOutcome::Accepted);
        feed_server(&mut pair.server, &flight[hello..]).unwrap();
        pair.settle().unwrap();
    }
}

#[test]
fn a_session_that_is_resumed_with_another_protocol_skips_the_early_data() {
    for bytes in [1, 90, 20_000, usize::MAX] {
        let world = World::new();
        let client = client_with_another_protocol(&world);
        let mut pair = world.early_pair(&client);
        let text = vec![b'x'; bytes.min(pair.client.early_bytes_max())];
        assert_eq!(pair.says_early(&text).unwrap(), b"", "{bytes}");
        pair.server_speaks().unwrap();
        all_written(pair.client.write(COMMANDS), COMMANDS);
        assert_eq!(pair.client_speaks().unwrap(), COMMANDS);
        assert_eq!(pair.outcomes(), (EarlyOutcome::Rejected, EarlyOutcome::Rejected));
        assert!(pair.facts().resumed);
    }
}

#[test]
fn a_hello_retry_request_skips_the_early_data_and_the_second_hello_resumes() {
    let world = World::new();
    let groups = vec![kx_group::SECP384R1, kx_group::SECP256R1];
    let client = changed_client(&world, |provider| provider.kx_groups = groups);
    let mut pair = world.early_pair(&client);
    assert_eq!(pair.says_early(COMMANDS).unwrap(), b"");
    pair.settle().unwrap();
    all_written(pair.client.write(COMMANDS), COMMANDS);
    assert_eq!(pair.client_speaks().unwrap(), COMMANDS);
    assert_eq!(pair.outcomes(), (EarlyOutcome::Rejected, EarlyOutcome::Rejected));
}

#[test]
fn more_early_data_than_is_allowed_ends_the_session_and_no_more_than_that_is_held() {
    let world = World::new();
    // A ticket in our store that promises more, as no listener of ours does.
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::<Certificates>::clone(&world.certificates));
    config.session_storage = Arc::new(LibraryStore::new(Arc::<SessionCache>::clone(&world.sessions)));
    config.max_early_data_size = 1 << 20;
    let client = world.client(Versions::Tls13);
    let mut pair = world.pair(&client);
    let mut generous = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    for _ in 0..3 {
        let mut flight = Vec::new();
        pair.client.send(&mut flight);
        let mut rest = &flight[..];
        while !rest.is_empty() {
            generous.read_tls(&mut rest).unwrap();
            generous.process_new_packets().unwrap();
        }
        flight.clear();
        while generous.wants_write() {
            generous.write_tls(&mut flight).unwrap();
        }
        feed_client(&mut pair.client, &flight).unwrap();
    }
    let mut pair = world.early_pair(&client);
    let flight = pair.early_flight(&vec![b'x'; 200_000]);
    let failure = pair.server.receive(&flight).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Violation);
    assert!(pair.server.plaintext().bytes.len() <= limits::TLS_EARLY_DATA_BYTES_MAX);
}

#[test]
fn more_rejected_records_than_are_skipped_end_the_session() {
    let world = World::new();
    let restarted = world.another(Returning::SendEarlyData);
    let mut config = ClientConfig::clone(&world.returning_client());
    config.enable_early_data = true;
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(HOST).unwrap()).unwrap();
    let mut flight = Vec::new();
    // Each byte in a record of its own becomes 23 on the wire, 18 of them ciphertext.
    for _ in 0..limits::TLS_EARLY_DATA_BYTES_MAX / 16 {
        assert_eq!(std::io::Write::write(&mut client.early_data().unwrap(), b"x").unwrap(), 1);
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
    }
    let mut server = Session::new(Arc::clone(&restarted.configs));
    let failure = server.receive(&flight).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Violation);
    assert_eq!(server.early_outcome(), EarlyOutcome::Rejected);
}

// ── Copies ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_captured_flight_is_read_once_by_its_host_and_never_by_another() {
    let world = World::new();
    let flight = world.captured_flight();
    let elsewhere = world.another(Returning::SendEarlyData);
    assert_eq!(replay(&elsewhere, &flight), b"");
    assert_eq!(replay(&world, &flight), COMMANDS);
    for _ in 0..3 {
        assert_eq!(replay(&world, &flight), b"");
        assert_eq!(replay(&elsewhere, &flight), b"");
    }
}

#[test]
fn of_copies_that_arrive_on_several_shards_at_once_one_is_read() {
    let world = World::new();
    for _ in 0..50 {
        let flight = world.captured_flight();
        let barrier = std::sync::Barrier::new(4);
        let read: usize = std::thread::scope(|scope| {
            let shards: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        usize::from(!replay(&world, &flight).is_empty())
                    })
                })
                .collect();
            shards.into_iter().map(|shard| shard.join().unwrap()).sum()
        });
        assert_eq!(read, 1);
    }
}

#[test]
fn a_tampered_copy_that_comes_first_is_not_read_and_costs_the_genuine_one_its_early_data() {
    let world = World::new();
    let flight = world.captured_flight();
    let mut tampered = flight.clone();
    // In the client's random value: record header 5, message header 4, version 2.
    tampered[12] ^= 1;
    let mut server = Session::new(Arc::clone(&world.configs));
    assert_eq!(server.receive(&tampered).unwrap_err().kind(), FailureKind::Violation);
    assert_eq!(server.plaintext().bytes, b"");
    assert_eq!(replay(&world, &flight), b"", "it falls back to a full handshake");
}

#[test]
fn no_changed_byte_of_early_data_is_read() {
    let world = World::new();
    let client = world.returning_client();
    let ciphertext_bytes = COMMANDS.len() + limits::TLS_RECORD_OVERHEAD_BYTES;
    for back in 1..=ciphertext_bytes {
        let mut pair = world.early_pair(&client);
        let mut flight = pair.early_flight(COMMANDS);
        let place = flight.len() - back;
        flight[place] ^= 1;
        assert!(read_with_origin(&mut pair.server, &[&flight]).map_or(true, |read| read.is_empty()), "{back}");
        world.pair(&client).settle().unwrap();
    }
}

#[test]
fn one_connection_costs_one_ticket_of_some_hundred_bytes() {
    for (returning, bytes_max) in [(Returning::SendEarlyData, 120), (Returning::Resume, 120), (Returning::StartAnew, 0)]
    {
        let world = World::new().another(returning);
        let mut pair = world.pair(&world.client(Versions::Tls13));
        pair.client_speaks().unwrap();
        pair.server_speaks().unwrap();
        pair.client_speaks().unwrap();
        let mut flight = Vec::new();
        pair.server.send(&mut flight);
        assert!(flight.len() <= bytes_max, "{returning:?}: {} bytes", flight.len());
        assert_eq!(flight.is_empty(), world.sessions.is_empty());
        assert!(world.sessions.len() <= 1);
    }
}

// ── Listeners that differ ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn where_early_data_is_off_tickets_do_not_promise_it_and_still_resume_once() {
    let world = World::new().another(Returning::Resume);
    let client = world.returning_client();
    assert_eq!(world.sessions.len(), 1);
    for _ in 0..2 {
        let mut pair = world.early_pair(&client);
        assert_eq!(pair.client.early_bytes_max(), 0, "the ticket promises none");
        pair.settle().unwrap();
        assert!(pair.facts().resumed);
        assert_eq!(world.sessions.len(), 1, "one ticket is spent and one is made");
    }
    let mut lost = world.pair(&client);
    lost.client_speaks().unwrap();
    assert!(world.sessions.is_empty(), "taken by the first use");
    let old_client = world.client(Versions::Tls12);
    for resumed in [false, true, true] {
        let mut pair = world.pair(&old_client);
        pair.settle().unwrap();
        assert_eq!(pair.facts().resumed, resumed);
    }
}

#[test]
fn where_resumption_is_off_there_are_no_tickets() {
    let world = World::new().another(Returning::StartAnew);
    for versions in [Versions::Tls13, Versions::Tls12] {
        let client = world.client(versions);
        for _ in 0..2 {
            let mut pair = world.pair(&client);
            pair.settle().unwrap();
            assert!(!pair.facts().resumed);
        }
    }
    assert!(world.sessions.is_empty());
}
