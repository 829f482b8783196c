//! How long the operations of `subjects` take, each beside the least that could do the same: what its bytes cost anyway.
//!
//! Method and results: `benches/README.md`. What it must not do: measure one candidate after the other, so that what the
//! machine does meanwhile falls on one of them; an operation and its baseline take turns, and the medians count.

#![allow(clippy::print_stdout, reason = "results are for whoever runs this")]

mod subjects;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onetrip::proto::qhlo_id::QhloIds;
use onetrip::time::Now;
use onetrip::tls::Versions;
use onetrip::tls::certificate::SelfSigned;
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use onetrip::tls::provider::provider;
use ring::hmac;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use subjects::conversation::{Heard, Script, heard_in_esmtp};
use subjects::{Work, letter, parts};

fn main() {
    // Cargo passes --bench, and test runners ask for what there is.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    println!("operation candidate ns_median least most");
    for subject in &subjects::ALL {
        let (name, baseline) = baseline(subject.name);
        let mut candidates = [Candidate::new("onetrip", (subject.ready)()), Candidate::new(name, baseline)];
        for _ in 0..TURNS {
            candidates.iter_mut().for_each(Candidate::take_turn);
        }
        candidates.iter_mut().for_each(|candidate| candidate.report(subject.name));
    }
}

struct Candidate {
    name: &'static str,
    work: Work,
    /// Operations of one turn.
    times: u32,
    ns: Vec<f64>,
}

impl Candidate {
    /// Finds out how often it can be done in a turn.
    fn new(name: &'static str, mut work: Work) -> Self {
        let (start, mut times) = (Instant::now(), 0);
        while start.elapsed() < TURN {
            work();
            times += 1;
        }
        Self { name, work, times, ns: Vec::new() }
    }

    fn take_turn(&mut self) {
        let start = Instant::now();
        for _ in 0..self.times {
            (self.work)();
        }
        self.ns.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(self.times));
    }

    fn report(&mut self, operation: &str) {
        self.ns.sort_by(f64::total_cmp);
        let ns = &self.ns;
        println!("{operation} {} {:.0} {:.0} {:.0}", self.name, ns[ns.len() / 2], ns[0], ns[ns.len() - 1]);
    }
}

// ── Baselines ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// The least that could do the same as the operation of this name, with its own.
fn baseline(operation: &str) -> (&'static str, Work) {
    match operation {
        "commands" => ("split", split()),
        "qhlo-id-issue" | "qhlo-id-check" => ("hmac", hmac_alone()),
        "session-cache" => ("hash-map", hash_map()),
        "spool-record" => ("copy-and-crc", copy_and_crc()),
        "server-esmtp" => ("lines", lines(bytes_of(&heard_in_esmtp()))),
        "server-quickstart" => ("lines", lines(bytes_of(&Script::new().by_server))),
        "client-quickstart" => ("lines", lines([bytes_of(&Script::new().by_client), letter()].concat())),
        "tls-message" => ("rustls", rustls_message()),
        "tls-full" => ("rustls", rustls_handshake(0)),
        "tls-resumed" => ("rustls", rustls_handshake(16)),
        _ => panic!("{operation} has no baseline"),
    }
}

/// Lines are split at spaces, and nothing is looked at but the first word.
fn split() -> Work {
    Box::new(|| {
        for line in parts::LINES {
            let mut words = black_box(line).split(|byte| *byte == b' ');
            let known = words.next().is_some_and(|word| VERBS.iter().any(|verb| word.eq_ignore_ascii_case(verb)));
            assert!(known);
            black_box(words.count());
        }
    })
}

/// One HMAC-SHA-256 over as many bytes as an id is made of.
fn hmac_alone() -> Work {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; QhloIds::SECRET_BYTES]);
    Box::new(move || {
        black_box(hmac::sign(&key, black_box(&[5; 65])));
    })
}

/// A map of the standard library, without a bound, a lifetime, a lock, or wiping.
fn hash_map() -> Work {
    let mut map: HashMap<u64, Vec<u8>> = (0..3_072).map(|number| (number, vec![7; 72])).collect();
    let mut number = 4_096;
    Box::new(move || {
        number += 1;
        map.insert(number, vec![7; 72]);
        assert!(black_box(map.remove(&number)).is_some());
    })
}

/// A message is copied, and its checksum is made as often as for a record: when it is written and when it is read.
fn copy_and_crc() -> Work {
    let message = parts::stored_message();
    let mut batch = Vec::new();
    Box::new(move || {
        batch.clear();
        batch.extend_from_slice(black_box(&message.content));
        assert_eq!(crc32fast::hash(&batch), crc32fast::hash(black_box(&batch)));
    })
}

/// Every line end is found and every line is copied.
fn lines(heard: Vec<u8>) -> Work {
    let mut out = Vec::with_capacity(heard.len());
    Box::new(move || {
        out.clear();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', black_box(&heard)) {
            out.extend_from_slice(&heard[start..=end]);
            start = end + 1;
        }
        assert_eq!(black_box(&out).len(), heard.len());
    })
}

fn bytes_of(heard: &[Heard]) -> Vec<u8> {
    let bytes = |heard: &Heard| match heard {
        Heard::Bytes(bytes) => bytes.clone(),
        Heard::Secured => Vec::new(),
    };
    heard.iter().flat_map(bytes).collect()
}

/// The TLS library by itself, as its documentation shows it, with its own store of sessions.
fn rustls_message() -> Work {
    let (mut client, mut server) = open(&configs(0));
    let (letter, mut wire, mut heard) = (letter(), Vec::new(), vec![0; 16_384]);
    Box::new(move || {
        client.writer().write_all(&letter).expect("room");
        pass(&mut client, &mut server, &mut wire);
        let mut taken = 0;
        while taken < letter.len() {
            taken += server.reader().read(&mut heard).expect("plaintext");
        }
        server.writer().write_all(black_box(REPLY)).expect("room");
        pass(&mut server, &mut client, &mut wire);
        assert_eq!(client.reader().read(&mut heard).expect("plaintext"), REPLY.len());
    })
}

fn rustls_handshake(sessions_max: usize) -> Work {
    let configs = configs(sessions_max);
    open(&configs);
    Box::new(move || {
        black_box(open(&configs));
    })
}

fn configs(sessions_max: usize) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let made = SelfSigned::new("mail.example", Now::simulated_ms(0)).expect("a certificate");
    let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes()).expect("it is one of ours")];
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).expect("it is one of ours");
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites for it")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together");
    server.session_storage = ServerSessionMemoryCache::new(1_024);
    let settings = ClientSettings { trust: Trust::Anyone, versions: Versions::Tls13, sessions_max };
    (client_config(settings).expect("nobody needs to be trusted"), Arc::new(server))
}

/// Both ends of a session whose handshake is done; the client has the tickets.
fn open((client, server): &(Arc<ClientConfig>, Arc<ServerConfig>)) -> (Connection, Connection) {
    let name = ServerName::try_from("mail.example").expect("a name");
    let mut client = Connection::from(ClientConnection::new(Arc::clone(client), name).expect("a session"));
    let mut server = Connection::from(ServerConnection::new(Arc::clone(server)).expect("a session"));
    let mut wire = Vec::with_capacity(4_096);
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server, &mut wire);
        pass(&mut server, &mut client, &mut wire);
    }
    (client, server)
}

/// Everything that one end has to say goes to the other.
fn pass(from: &mut Connection, to: &mut Connection, wire: &mut Vec<u8>) {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire).expect("memory takes all");
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("memory gives all");
        to.process_new_packets().expect("the other end speaks TLS");
    }
}

const TURNS: usize = 201;
/// About how long a turn is: short beside the time slice of another program that wants the processor.
const TURN: Duration = Duration::from_micros(500);
const VERBS: [&[u8]; 11] =
    [b"MAIL", b"RCPT", b"DATA", b"BDAT", b"QHLO", b"EHLO", b"AUTH", b"STARTTLS", b"RSET", b"NOOP", b"QUIT"];
const REPLY: &[u8] = b"250 2.0.0 Queued as 1k0w81dqd1601000\r\n";
