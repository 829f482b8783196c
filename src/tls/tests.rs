//! Server and client sessions against each other, in memory.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::ServerName;
use rustls::server::StoresServerSessions;
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite};

use super::cache::SessionCache;
use super::certificate::{Certificate, SelfSigned, chain_from_pem};
use super::client::{ClientSettings, Trust, client_config};
use super::config::{CertificateSet, Certificates, Returning, ServerConfigs, ServerSettings};
use super::session::{ClientSession, Facts, FailureKind, Session, TlsFailure};
use super::store::{LibraryStore, SessionStore, Uses};
use super::{Version, Versions};
use crate::limits;
use crate::time::Now;

pub(super) const NOW: Now = Now::simulated_ms(0);
pub(super) const HOST: &str = "mail.example.org";
pub(super) const GREETING: &[u8] = b"220 mail.example.org ESMTP\r\n";

/// A server with its certificate and its sessions, and what a client needs to trust it.
pub(super) struct World {
    pub(super) configs: Arc<ServerConfigs>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) sessions: Arc<SessionCache>,
    pub(super) roots: Trust,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_minimum(Version::Tls12)
    }

    fn with_minimum(minimum_version: Version) -> Self {
        let (certificate, roots) = issued(HOST);
        let certificates = Arc::new(Certificates::new(CertificateSet::new(&certificate, &[])));
        let sessions = Arc::new(SessionCache::new(1_000, limits::TLS_SESSION_LIFETIME).unwrap());
        let configs = ServerConfigs::new(&ServerSettings {
            certificates: Arc::clone(&certificates),
            minimum_version,
            sessions: Arc::<SessionCache>::clone(&sessions),
            returning: Returning::SendEarlyData,
        });
        Self { configs: Arc::new(configs), certificates, sessions, roots }
    }

    pub(super) fn client(&self, versions: Versions) -> Arc<ClientConfig> {
        let sessions_max = limits::TLS_CLIENT_SESSIONS_MAX;
        client_config(ClientSettings { trust: self.roots.clone(), versions, sessions_max }).unwrap()
    }

    pub(super) fn pair(&self, config: &Arc<ClientConfig>) -> Pair {
        self.pair_for(config, HOST)
    }

    fn pair_for(&self, config: &Arc<ClientConfig>, name: &str) -> Pair {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Pair {
            server: Session::new(Arc::clone(&self.configs)),
            client: ClientSession::new(Arc::clone(config), name).unwrap(),
        }
    }
}

pub(super) fn issued(host_name: &str) -> (Certificate, Trust) {
    let made = SelfSigned::new(host_name, NOW).unwrap();
    let certificate = Certificate::from_pem(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
    (certificate, Trust::Roots(chain_from_pem(made.certificate.as_bytes()).unwrap()))
}

pub(super) struct Pair {
    pub(super) server: Session,
    pub(super) client: ClientSession,
}

impl Pair {
    /// The next flight of the client, to the server. Returns what the server read.
    pub(super) fn client_speaks(&mut self) -> Result<Vec<u8>, TlsFailure> {
        let mut flight = Vec::new();
        self.client.send(&mut flight);
        feed_server(&mut self.server, &flight)
    }

    /// The next flight of the server, to the client. Returns what the client read.
    pub(super) fn server_speaks(&mut self) -> Result<Vec<u8>, TlsFailure> {
        let mut flight = Vec::new();
        self.server.send(&mut flight);
        feed_client(&mut self.client, &flight)
    }

    /// Flights to and fro until nobody has anything to send.
    pub(super) fn settle(&mut self) -> Result<(), TlsFailure> {
        while self.client.has_output() || self.server.has_output() {
            self.client_speaks()?;
            self.server_speaks()?;
        }
        Ok(())
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        self.server.facts().unwrap()
    }
}

pub(super) fn feed_server(server: &mut Session, mut ciphertext: &[u8]) -> Result<Vec<u8>, TlsFailure> {
    let mut read = Vec::new();
    loop {
        let taken = server.receive(ciphertext)?;
        ciphertext = &ciphertext[taken..];
        loop {
            let plaintext = server.plaintext().bytes;
            let bytes = plaintext.len();
            if bytes == 0 {
                break;
            }
            read.extend_from_slice(plaintext);
            server.consume(bytes);
        }
        if ciphertext.is_empty() {
            return Ok(read);
        }
    }
}

pub(super) fn feed_client(client: &mut ClientSession, mut ciphertext: &[u8]) -> Result<Vec<u8>, TlsFailure> {
    let mut read = Vec::new();
    loop {
        let taken = client.receive(ciphertext)?;
        ciphertext = &ciphertext[taken..];
        loop {
            let plaintext = client.plaintext();
            let bytes = plaintext.len();
            if bytes == 0 {
                break;
            }
            read.extend_from_slice(plaintext);
            client.consume(bytes);
        }
        if ciphertext.is_empty() {
            return Ok(read);
        }
    }
}

pub(super) fn all_written(taken: usize, plaintext: &[u8]) {
    assert_eq!(taken, plaintext.len());
}

#[test]
fn a_handshake_agrees_on_the_cheapest_suite_of_each_version_and_says_so_on_both_ends() {
    let world = World::new();
    for (versions, version, cipher_suite) in [
        (Versions::Both, Version::Tls13, "TLS_AES_128_GCM_SHA256"),
        (Versions::Tls13, Version::Tls13, "TLS_AES_128_GCM_SHA256"),
        (Versions::Tls12, Version::Tls12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ] {
        let mut pair = world.pair(&world.client(versions));
        assert!(pair.server.is_handshaking() && pair.client.is_handshaking());
        assert_eq!(pair.server.facts(), None);
        pair.settle().unwrap();
        assert!(!pair.server.is_handshaking() && !pair.client.is_handshaking());
        let expected = Facts { version, cipher_suite, resumed: false, server_name: Some(HOST) };
        assert_eq!(pair.server.facts(), Some(expected));
        assert_eq!(pair.client.facts(), Some(expected));
    }
}

#[test]
fn a_second_connection_resumes_the_session_of_the_first() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        let client = world.client(versions);
        for resumed in [false, true, true] {
            let mut pair = world.pair(&client);
            pair.settle().unwrap();
            assert_eq!(pair.facts().resumed, resumed, "{versions:?}");
            assert_eq!(pair.client.facts().unwrap().resumed, resumed, "{versions:?}");
        }
    }
}

#[test]
fn a_connection_leaves_one_ticket_and_a_resumed_one_spends_it() {
    let world = World::new();
    let client = world.client(Versions::Tls13);
    for _ in 0..3 {
        world.pair(&client).settle().unwrap();
        assert_eq!(world.sessions.len(), 1);
    }
}

#[test]
fn an_expired_session_is_not_resumed_and_the_handshake_is_full() {
    for versions in [Versions::Tls13, Versions::Tls12] {
        let world = World::new();
        let client = world.client(versions);
        world.pair(&client).settle().unwrap();
        let end_ms = u64::try_from(limits::TLS_SESSION_LIFETIME.as_millis()).unwrap();
        world.sessions.tick(Now::simulated_ms(end_ms));
        let mut pair = world.pair(&client);
        pair.settle().unwrap();
        assert!(!pair.facts().resumed);
    }
}

#[test]
fn with_tls_1_3_what_was_written_before_the_hello_arrives_with_the_first_flight() {
    let world = World::new();
    let client = world.client(Versions::Both);
    for resumed in [false, true] {
        let mut pair = world.pair(&client);
        all_written(pair.server.write(GREETING), GREETING);
        pair.client_speaks().unwrap();
        assert!(pair.server.is_handshaking(), "the client's Finished has not come");
        assert_eq!(pair.server_speaks().unwrap(), GREETING);
        pair.settle().unwrap();
        assert_eq!(pair.facts().resumed, resumed);
    }
}

#[test]
fn with_tls_1_3_what_is_written_after_the_hello_still_leaves_with_the_first_flight() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Both));
    pair.client_speaks().unwrap();
    all_written(pair.server.write(GREETING), GREETING);
    assert_eq!(pair.server_speaks().unwrap(), GREETING);
}

#[test]
fn with_tls_1_2_what_was_written_early_waits_for_the_end_of_the_handshake() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Tls12));
    all_written(pair.server.write(GREETING), GREETING);
    pair.client_speaks().unwrap();
    assert_eq!(pair.server_speaks().unwrap(), b"");
    pair.client_speaks().unwrap();
    assert_eq!(pair.server_speaks().unwrap(), GREETING);
}

#[test]
fn what_a_client_writes_before_the_handshake_leaves_with_its_second_flight() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Tls13));
    all_written(pair.client.write(b"EHLO client\r\n"), b"EHLO client\r\n");
    assert_eq!(pair.client_speaks().unwrap(), b"");
    pair.server_speaks().unwrap();
    assert_eq!(pair.client_speaks().unwrap(), b"EHLO client\r\n");
}

#[test]
fn a_session_fed_byte_by_byte_reads_the_same() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        let mut pair = world.pair(&world.client(versions));
        all_written(pair.server.write(GREETING), GREETING);
        all_written(pair.client.write(b"QUIT\r\n"), b"QUIT\r\n");
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        while pair.client.has_output() || pair.server.has_output() {
            let mut flight = Vec::new();
            pair.client.send(&mut flight);
            for byte in &flight {
                at_server.extend(feed_server(&mut pair.server, std::slice::from_ref(byte)).unwrap());
            }
            flight.clear();
            pair.server.send(&mut flight);
            for byte in &flight {
                at_client.extend(feed_client(&mut pair.client, std::slice::from_ref(byte)).unwrap());
            }
        }
        assert_eq!((&at_server[..], &at_client[..]), (&b"QUIT\r\n"[..], GREETING));
    }
}

#[test]
fn a_hello_in_many_small_records_is_put_together() {
    let world = World::new();
    let mut config = (*world.client(Versions::Both)).clone();
    config.max_fragment_size = Some(32);
    let mut pair = world.pair(&Arc::new(config));
    pair.settle().unwrap();
    assert_eq!(pair.facts().version, Version::Tls13);
}

#[test]
fn a_hello_whose_first_flight_brings_everything_in_one_piece_is_worked_through() {
    // A ClientHello and garbage behind it: the fault is found at once and not with the next bytes.
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Both));
    let mut flight = Vec::new();
    pair.client.send(&mut flight);
    flight.extend_from_slice(b"GARBAGE BEHIND IT");
    assert_eq!(pair.server.receive(&flight).unwrap_err().kind(), FailureKind::Malformed);
}

#[test]
fn plain_text_instead_of_tls_gives_an_alert_and_a_lasting_failure() {
    let world = World::new();
    let mut server = Session::new(Arc::clone(&world.configs));
    all_written(server.write(GREETING), GREETING);
    let failure = server.receive(b"EHLO client.example.org\r\n").unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Malformed);
    assert_eq!(server.receive(b"more").unwrap_err(), failure);
    assert!(server.has_output());
    let mut alert = Vec::new();
    server.send(&mut alert);
    // A fatal decode_error (RFC 8446 §6.2) in a plain record, and not a byte of the greeting.
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 50]);
    assert!(!server.has_output());
    assert_eq!(server.facts(), None);
    all_written(server.write(GREETING), GREETING);
    server.close();
    server.rest();
    assert!(!server.has_output());
}

#[test]
fn no_changed_byte_in_a_hello_makes_the_server_panic_or_read_anything() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        let config = world.client(versions);
        let bytes = first_flight_bytes(&world, &config);
        for (place, flip) in (0..bytes).flat_map(|place| [(place, 0x01), (place, 0xff)]) {
            let mut pair = world.pair(&config);
            let mut flight = Vec::new();
            pair.client.send(&mut flight);
            flight[place] ^= flip;
            let fed = feed_server(&mut pair.server, &flight);
            assert!(fed.is_err() || fed.unwrap().is_empty());
            let _ = pair.settle();
        }
    }
}

#[test]
fn random_records_of_every_type_end_in_a_failure_or_in_nothing_and_never_in_a_panic() {
    let world = World::new();
    for seed in 1..=2_000_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut flight: Vec<u8> = (0..200)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_be_bytes()[0]
            })
            .collect();
        let (record_type, version, bytes) = (20 + flight[0] % 5, flight[2] % 5, flight[4] % 195);
        flight[..5].copy_from_slice(&[record_type, 3, version, 0, bytes]);
        if seed % 2 == 0 {
            // A handshake message whose type and length look right.
            flight[5..9].copy_from_slice(&[1, 0, 0, bytes.saturating_sub(4)]);
        }
        let mut pair = world.pair(&world.client(Versions::Both));
        let fed = feed_server(&mut pair.server, &flight);
        assert!(fed.is_err() || fed.unwrap().is_empty(), "seed {seed}");
        let fed = feed_client(&mut pair.client, &flight);
        assert!(fed.is_err() || fed.unwrap().is_empty(), "seed {seed}");
        pair.server.send(&mut Vec::new());
        pair.client.send(&mut Vec::new());
    }
}

fn first_flight_bytes(world: &World, config: &Arc<ClientConfig>) -> usize {
    let mut flight = Vec::new();
    world.pair(config).client.send(&mut flight);
    flight.len()
}

#[test]
fn a_changed_record_after_the_handshake_gives_an_alert_that_the_other_side_understands() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Both));
    pair.settle().unwrap();
    all_written(pair.client.write(b"QUIT\r\n"), b"QUIT\r\n");
    let mut flight = Vec::new();
    pair.client.send(&mut flight);
    *flight.last_mut().unwrap() ^= 1;
    assert_eq!(feed_server(&mut pair.server, &flight).unwrap_err().kind(), FailureKind::Violation);
    assert_eq!(pair.server_speaks().unwrap_err().kind(), FailureKind::PeerAlert);
}

#[test]
fn a_server_that_wants_tls_1_3_refuses_an_older_client_with_an_alert() {
    let world = World::with_minimum(Version::Tls13);
    let mut pair = world.pair(&world.client(Versions::Tls12));
    assert_eq!(pair.client_speaks().unwrap_err().kind(), FailureKind::Incompatible);
    assert_eq!(pair.server_speaks().unwrap_err().kind(), FailureKind::PeerAlert);
}

#[test]
fn a_client_refuses_a_server_that_it_does_not_trust_and_the_server_learns_it() {
    let (world, stranger) = (World::new(), World::new());
    let mut pair = world.pair(&stranger.client(Versions::Both));
    pair.client_speaks().unwrap();
    let failure = pair.server_speaks().unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Certificate);
    assert!(failure.to_string().starts_with("the server's certificate is refused: "), "{failure}");
    assert_eq!(pair.client_speaks().unwrap_err().kind(), FailureKind::PeerAlert);
}

#[test]
fn a_client_that_trusts_anyone_takes_any_certificate_for_any_name() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        let config = client_config(ClientSettings { trust: Trust::Anyone, versions, sessions_max: 0 }).unwrap();
        let mut pair = world.pair_for(&config, "unknown.example");
        pair.settle().unwrap();
        assert_eq!(pair.facts().server_name, Some("unknown.example"));
    }
}

#[test]
fn a_client_without_roots_is_told_so() {
    let settings = ClientSettings { trust: Trust::Roots(Vec::new()), versions: Versions::Both, sessions_max: 0 };
    assert!(client_config(settings).is_err());
}

#[test]
fn a_client_that_remembers_nothing_does_not_resume() {
    let world = World::new();
    let settings = ClientSettings { trust: world.roots.clone(), versions: Versions::Both, sessions_max: 0 };
    let config = client_config(settings).unwrap();
    for _ in 0..2 {
        let mut pair = world.pair(&config);
        pair.settle().unwrap();
        assert!(!pair.facts().resumed);
    }
}

#[test]
fn alpn_chooses_smtp_if_offered_and_refuses_nobody() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        for (offered, chosen) in [(&["smtp"][..], true), (&["h2", "smtp"], true), (&["h2"], false), (&[], false)] {
            let mut config = (*world.client(versions)).clone();
            config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
            let mut pair = world.pair(&Arc::new(config));
            pair.settle().unwrap();
            assert_eq!(pair.client.chosen_protocol() == Some(b"smtp"), chosen, "{offered:?}");
        }
    }
}

#[test]
fn aes_128_is_agreed_unless_the_client_wants_chacha20_before_all_else() {
    use cipher_suite as suite;
    let world = World::new();
    let hard_aes = [
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ];
    let mut soft_aes = hard_aes;
    soft_aes.swap(0, 1);
    soft_aes.swap(3, 4);
    for (suites, version, agreed) in [
        (hard_aes, Versions::Tls13, "TLS_AES_128_GCM_SHA256"),
        (soft_aes, Versions::Tls13, "TLS_CHACHA20_POLY1305_SHA256"),
        (hard_aes, Versions::Tls12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        (soft_aes, Versions::Tls12, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ] {
        let config = offering(&world.roots, suites.to_vec(), version);
        for resumed in [false, true] {
            let mut pair = world.pair(&config);
            pair.settle().unwrap();
            assert_eq!((pair.facts().cipher_suite, pair.facts().resumed), (agreed, resumed));
        }
    }
}

/// A foreign client, with an order of suites of its own.
fn offering(trust: &Trust, cipher_suites: Vec<SupportedCipherSuite>, versions: Versions) -> Arc<ClientConfig> {
    let Trust::Roots(certificates) = trust else { panic!("the world has roots") };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    let provider = CryptoProvider { cipher_suites, ..default_provider() };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(versions.supported()).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn the_name_asked_for_chooses_the_certificate_and_the_default_is_for_all_others() {
    let world = World::new();
    let (exact, exact_roots) = issued("smtp.example.net");
    let (wildcard, wildcard_roots) = issued("*.example.net");
    let (default, default_roots) = issued(HOST);
    world.certificates.replace(CertificateSet::new(&default, &[wildcard, exact]));
    for (name, roots) in [
        ("smtp.example.net", &exact_roots),
        ("SMTP.Example.NET", &exact_roots),
        ("other.example.net", &wildcard_roots),
        (HOST, &default_roots),
        // An address goes without a name, and the default certificate is good for it.
        ("127.0.0.1", &default_roots),
    ] {
        let mut pair = world.pair_for(&trusting(roots.clone()), name);
        pair.settle().unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert_eq!(pair.facts().server_name.is_none(), name == "127.0.0.1");
    }
    for unknown in ["a.b.example.net", "example.net", "unknown.example"] {
        let failure = world.pair_for(&trusting(default_roots.clone()), unknown).settle().unwrap_err();
        assert!(failure.to_string().contains("not valid for name"), "the default certificate came: {failure}");
    }
}

fn trusting(trust: Trust) -> Arc<ClientConfig> {
    client_config(ClientSettings { trust, versions: Versions::Both, sessions_max: 0 }).unwrap()
}

#[test]
fn new_certificates_are_for_the_next_handshake_and_an_open_session_goes_on() {
    let world = World::new();
    let mut open = world.pair(&trusting(world.roots.clone()));
    open.settle().unwrap();
    let mut begun = world.pair(&trusting(world.roots.clone()));
    begun.client_speaks().unwrap();
    let (certificate, roots) = issued(HOST);
    world.certificates.replace(CertificateSet::new(&certificate, &[]));
    assert!(world.pair(&trusting(world.roots.clone())).settle().is_err());
    world.pair(&trusting(roots)).settle().unwrap();
    begun.settle().unwrap();
    all_written(open.client.write(b"NOOP\r\n"), b"NOOP\r\n");
    assert_eq!(open.client_speaks().unwrap(), b"NOOP\r\n");
}

#[test]
fn a_large_message_passes_in_order_through_bounded_buffers() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        let mut pair = world.pair(&world.client(versions));
        pair.settle().unwrap();
        let message: Vec<u8> =
            (0..1_000_000_u32).map(|number| number.to_le_bytes()[usize::from(number % 7 == 0)]).collect();
        let (mut unsent, mut read) = (&message[..], Vec::new());
        while !unsent.is_empty() {
            let taken = pair.client.write(unsent);
            assert!(taken > 0 && taken <= limits::TLS_WAITING_BYTES_MAX);
            unsent = &unsent[taken..];
            read.extend(pair.client_speaks().unwrap());
        }
        assert!(read == message);
    }
}

#[test]
fn what_waits_for_the_handshake_is_bounded_on_both_ends() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Both));
    let much = vec![b'x'; limits::TLS_WAITING_BYTES_MAX - 10];
    all_written(pair.server.write(&much), &much);
    all_written(pair.client.write(&much), &much);
    assert_eq!(pair.server.write(&much), 10);
    assert_eq!(pair.client.write(&much), 10);
    assert_eq!(pair.server.write(&much), 0);
    assert_eq!(pair.client.write(&much), 0);
    pair.client_speaks().unwrap();
    assert_eq!(pair.server_speaks().unwrap().len(), limits::TLS_WAITING_BYTES_MAX);
    assert_eq!(pair.client_speaks().unwrap().len(), limits::TLS_WAITING_BYTES_MAX);
}

#[test]
fn unread_plaintext_holds_back_what_comes_behind_it() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Both));
    pair.settle().unwrap();
    let much = vec![b'x'; limits::TLS_WAITING_BYTES_MAX];
    all_written(pair.client.write(&much), &much);
    let mut flight = Vec::new();
    pair.client.send(&mut flight);
    let taken = pair.server.receive(&flight).unwrap();
    assert!(taken < 40_000, "{taken}");
    assert_eq!(pair.server.receive(&flight[taken..]).unwrap(), 0);
    let first = pair.server.plaintext().bytes.len();
    pair.server.consume(first);
    let rest = feed_server(&mut pair.server, &flight[taken..]).unwrap();
    assert_eq!(first + rest.len(), much.len());
}

#[test]
fn a_close_comes_behind_what_was_written_and_what_follows_it_is_ignored() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        let mut pair = world.pair(&world.client(versions));
        pair.settle().unwrap();
        all_written(pair.client.write(b"QUIT\r\n"), b"QUIT\r\n");
        pair.client.close();
        all_written(pair.client.write(b"dropped"), b"dropped");
        assert!(!pair.server.peer_closed());
        let mut flight = Vec::new();
        pair.client.send(&mut flight);
        flight.extend_from_slice(b"not even TLS");
        assert_eq!(feed_server(&mut pair.server, &flight).unwrap(), b"QUIT\r\n");
        assert!(pair.server.peer_closed());
        assert_eq!(pair.server.receive(b"more of it").unwrap(), 10);
        // The server may still answer (RFC 8446 §6.1).
        all_written(pair.server.write(b"221 bye\r\n"), b"221 bye\r\n");
        pair.server.close();
        assert_eq!(pair.server_speaks().unwrap(), b"221 bye\r\n");
        assert!(pair.client.peer_closed());
    }
}

#[test]
fn a_close_before_the_hello_still_lets_the_greeting_out() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Tls13));
    all_written(pair.server.write(GREETING), GREETING);
    pair.server.close();
    pair.client_speaks().unwrap();
    assert_eq!(pair.server_speaks().unwrap(), GREETING);
    assert!(pair.client.peer_closed());
}

#[test]
fn resting_in_the_middle_of_anything_loses_nothing() {
    let world = World::new();
    for versions in [Versions::Tls13, Versions::Tls12] {
        let mut pair = world.pair(&world.client(versions));
        pair.settle().unwrap();
        let text = vec![b'y'; 20_000];
        all_written(pair.client.write(&text), &text);
        let mut flight = Vec::new();
        pair.client.send(&mut flight);
        let mut read = Vec::new();
        for piece in flight.chunks(999) {
            read.extend(feed_server(&mut pair.server, piece).unwrap());
            pair.server.rest();
            pair.client.rest();
        }
        assert!(read == text);
        let taken = pair.server.receive(&[]).unwrap();
        assert_eq!(taken, 0);
    }
}

#[test]
fn a_flood_of_new_sessions_does_not_stop_the_newest_from_being_resumed() {
    let world = World::new();
    let client = world.client(Versions::Both);
    for number in 0..5_000_u64 {
        let mut key = [0; super::store::KEY_BYTES];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        world.sessions.put(key, vec![0; 72], Uses::Once);
    }
    assert!(world.sessions.len() <= 1_000);
    world.pair(&client).settle().unwrap();
    let mut pair = world.pair(&client);
    pair.settle().unwrap();
    assert!(pair.facts().resumed);
}

#[test]
fn a_ticket_that_was_spent_leads_to_a_full_handshake() {
    let world = World::new();
    let client = world.client(Versions::Tls13);
    world.pair(&client).settle().unwrap();
    // The client goes away after its first flight: the ticket is spent on both ends.
    let mut lost = world.pair(&client);
    lost.client_speaks().unwrap();
    assert!(world.sessions.is_empty());
    let mut pair = world.pair(&client);
    pair.settle().unwrap();
    assert!(!pair.facts().resumed);
}

#[test]
fn a_store_that_keeps_nothing_serves_full_handshakes() {
    let mut world = World::new();
    let sessions = Arc::new(SessionCache::new(0, Duration::from_secs(1)).unwrap());
    world.configs = Arc::new(ServerConfigs::new(&ServerSettings {
        certificates: Arc::clone(&world.certificates),
        minimum_version: Version::Tls12,
        sessions,
        returning: Returning::SendEarlyData,
    }));
    for versions in [Versions::Tls13, Versions::Tls12] {
        let client = world.client(versions);
        for _ in 0..2 {
            let mut pair = world.pair(&client);
            pair.settle().unwrap();
            assert!(!pair.facts().resumed);
        }
    }
}

#[test]
fn a_session_id_overheard_from_tls_1_2_cannot_be_spent_as_a_tls_1_3_ticket() {
    let world = World::new();
    let victim = world.client(Versions::Tls12);
    let mut overheard = Vec::new();
    let mut pair = world.pair(&victim);
    let mut flight = Vec::new();
    pair.client_speaks().unwrap();
    pair.server.send(&mut flight);
    feed_client(&mut pair.client, &flight).unwrap();
    overheard.extend_from_slice(session_id_of_server_hello(&flight));
    pair.settle().unwrap();
    assert_eq!(world.sessions.len(), 1);
    let key = overheard.as_slice().try_into().unwrap();
    assert!(world.sessions.get(key).is_some(), "this is the id that the session is kept under");

    assert_eq!(LibraryStore::new(Arc::<SessionCache>::clone(&world.sessions)).take(&overheard), None);
    let mut pair = world.pair(&victim);
    pair.settle().unwrap();
    assert!(pair.facts().resumed);
}

/// In a ServerHello at the start of a flight: record header 5, handshake header 4, version 2, random 32, then the id with
/// its length in front (RFC 5246 §7.4.1.3).
fn session_id_of_server_hello(flight: &[u8]) -> &[u8] {
    let length = usize::from(flight[43]);
    &flight[44..44 + length]
}
