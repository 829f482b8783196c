//! The floor of TLS: the bytes of an exchange through the TLS library alone, without SMTP and without sockets. Only the
//! server's half is timed. The configuration is that of the server: suites, groups, certificate, session cache, one ticket.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onetrip::limits;
use onetrip::time::Now;
use onetrip::tls::Versions;
use onetrip::tls::cache::SessionCache;
use onetrip::tls::certificate::{SelfSigned, chain_from_pem};
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use onetrip::tls::provider::provider;
use onetrip::tls::store::LibraryStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use crate::exchange::{Exchange, Opening, Turn};

/// Bytes on the wire: of each flight of the client, and of the answer.
pub(crate) type Flights = Vec<(usize, usize)>;

/// Both ends' configurations.
pub(crate) struct Ends {
    server: Arc<ServerConfig>,
    fresh: Arc<ClientConfig>,
    resuming: Arc<ClientConfig>,
}

/// The server's half of one exchange.
struct Server {
    connection: ServerConnection,
    took: Duration,
    scratch: Vec<u8>,
}

impl Ends {
    pub(crate) fn new() -> Self {
        let pair = SelfSigned::new("localhost", Now::simulated_ms(0)).expect("a certificate");
        let chain = chain_from_pem(pair.certificate.as_bytes()).expect("a chain");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("suites for both versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they belong together");
        server.ignore_client_order = true;
        server.send_half_rtt_data = true;
        server.max_early_data_size = limits::TLS_EARLY_DATA_BYTES_MAX as u32;
        server.send_tls13_tickets = 1;
        let cache = SessionCache::new(SESSIONS, limits::TLS_SESSION_LIFETIME).expect("memory");
        server.session_storage = Arc::new(LibraryStore::new(Arc::new(cache)));
        let client = |sessions_max| {
            let settings = ClientSettings { trust: Trust::Anyone, versions: Versions::Tls13, sessions_max };
            let mut config = ClientConfig::clone(&client_config(settings).expect("anyone is trusted"));
            config.enable_early_data = true;
            Arc::new(config)
        };
        Self { server: Arc::new(server), fresh: client(0), resuming: client(1) }
    }

    /// Plays an exchange, with `more` at its end so many times. Returns how long the server took, and the flights.
    pub(crate) fn play(&self, exchange: &Exchange, more: &[Turn], times: usize) -> (Duration, Flights) {
        let config = if exchange.opening == Opening::Full { &self.fresh } else { &self.resuming };
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
        let mut server = Server::new(&self.server);
        let mut flights: Flights = exchange.clear.iter().map(|turn| (turn.asked, turn.answered)).collect();
        let (first, rest) = exchange.secured.split_first().expect("something is said");
        let is_early = exchange.opening == Opening::Early && client.early_data().is_some();
        if is_early {
            client.early_data().expect("looked at").write_all(&BYTES[..first.asked]).expect("it fits");
        }
        // The ClientHello, and the server's first flight.
        let mut hello = flight_of(&mut client);
        let answer = server.take(&hello, if is_early { *first } else { Turn { asked: 0, answered: 0 } });
        if exchange.hello_waits {
            flights.push((hello.len(), answer.len()));
        } else if let Some(clear) = flights.last_mut() {
            *clear = (clear.0 + hello.len(), clear.1 + answer.len());
        }
        take(&mut client, &answer);
        let (next, rest) = if is_early { rest.split_first().expect("QUIT") } else { (first, rest) };
        for turn in [next].into_iter().chain((0..times).flat_map(|_| more)).chain(rest) {
            client.writer().write_all(&BYTES[..turn.asked]).expect("it fits");
            hello = flight_of(&mut client);
            let answer = server.take(&hello, *turn);
            flights.push((hello.len(), answer.len()));
            take(&mut client, &answer);
        }
        (server.took, flights)
    }

    /// The median of many exchanges, in microseconds.
    pub(crate) fn median_us(&self, exchange: &Exchange) -> f64 {
        let mut times: Vec<_> = (0..PLAYED).map(|_| self.play(exchange, &[], 0).0).collect();
        times.sort_unstable();
        times[PLAYED / 2].as_secs_f64() * 1e6
    }

    /// The same of what `more` adds.
    pub(crate) fn more_us(&self, exchange: &Exchange, more: &[Turn]) -> f64 {
        let timed = |times| {
            let mut all: Vec<_> = (0..MORE_PLAYED).map(|_| self.play(exchange, more, times).0).collect();
            all.sort_unstable();
            all[MORE_PLAYED / 2].as_secs_f64() * 1e6
        };
        (timed(MORE) - timed(0)) / MORE as f64
    }
}

impl Server {
    fn new(config: &Arc<ServerConfig>) -> Self {
        let start = Instant::now();
        let connection = ServerConnection::new(Arc::clone(config)).expect("a server");
        Self { connection, took: start.elapsed(), scratch: vec![0; 65_536] }
    }

    /// Reads a flight, and answers it.
    fn take(&mut self, flight: &[u8], turn: Turn) -> Vec<u8> {
        let start = Instant::now();
        let mut out = Vec::with_capacity(4_096);
        let mut rest = flight;
        let mut read = 0;
        while !rest.is_empty() {
            self.connection.read_tls(&mut rest).expect("memory");
            self.connection.process_new_packets().expect("a good client");
            if let Some(mut early) = self.connection.early_data() {
                read += early.read(&mut self.scratch).unwrap_or(0);
            }
            while let Ok(bytes @ 1..) = self.connection.reader().read(&mut self.scratch) {
                read += bytes;
            }
        }
        assert_eq!(read, turn.asked, "all that was said is read");
        self.connection.writer().write_all(&BYTES[..turn.answered]).expect("it fits");
        while self.connection.wants_write() {
            self.connection.write_tls(&mut out).expect("memory");
        }
        self.took += start.elapsed();
        out
    }
}

fn flight_of(client: &mut ClientConnection) -> Vec<u8> {
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).expect("memory");
    }
    flight
}

fn take(client: &mut ClientConnection, mut answer: &[u8]) {
    while !answer.is_empty() {
        client.read_tls(&mut answer).expect("memory");
        client.process_new_packets().expect("a good server");
        let _ = client.reader().read(&mut [0; 4_096]);
    }
}

/// What is said.
const BYTES: [u8; 8_192] = [b'x'; 8_192];

/// Exchanges of one turn.
const PLAYED: usize = 1_000;

/// Exchanges of one turn with, and as many without, the messages that are added.
const MORE_PLAYED: usize = 50;

/// Messages that are added.
const MORE: usize = 100;

/// Sessions that the cache has room for.
const SESSIONS: usize = 16_384;
