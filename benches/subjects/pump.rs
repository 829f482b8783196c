//! TLS as the server pumps it: handshakes and records between the server's and the client's session, over memory.
//!
//! Both ends count, because a record that was sealed once cannot be opened twice.

use std::hint::black_box;
use std::sync::Arc;

use onetrip::limits;
use onetrip::time::Now;
use onetrip::tls::cache::SessionCache;
use onetrip::tls::certificate::{Certificate, SelfSigned};
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use onetrip::tls::config::{CertificateSet, Certificates, Returning, ServerConfigs, ServerSettings};
use onetrip::tls::session::{ClientSession, Session};
use onetrip::tls::{Version, Versions};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::{Work, letter};

const HOSTNAME: &str = "mail.example";

/// A message of 4 KiB from the client to the server, and a short reply.
pub fn message() -> Work {
    let (mut client, mut server) = open(&Site::new(0));
    let letter = letter();
    let (mut wire, mut heard) = (Vec::new(), Vec::with_capacity(letter.len()));
    Box::new(move || {
        heard.clear();
        wire.clear();
        assert_eq!(client.write(&letter), letter.len());
        client.send(&mut wire);
        hear_server(&mut server, &wire, &mut heard);
        assert_eq!(black_box(&heard).len(), letter.len());
        wire.clear();
        assert_eq!(server.write(REPLY), REPLY.len());
        server.send(&mut wire);
        hear_client(&mut client, &wire);
    })
}

/// A whole TLS 1.3 handshake with a P-256 certificate, both ends, with the tickets that the server sends.
pub fn full_handshake() -> Work {
    let site = Site::new(0);
    Box::new(move || {
        let (client, server) = open(&site);
        assert!(black_box(server).facts().is_some_and(|facts| !facts.resumed));
        drop(client);
    })
}

/// A resumed TLS 1.3 handshake, both ends, with a new ticket.
pub fn resumed_handshake() -> Work {
    let site = Site::new(16);
    open(&site);
    Box::new(move || {
        let (client, server) = open(&site);
        assert!(black_box(server).facts().is_some_and(|facts| facts.resumed));
        drop(client);
    })
}

/// A server and what its client keeps.
struct Site {
    configs: Arc<ServerConfigs>,
    client: Arc<ClientConfig>,
}

impl Site {
    fn new(client_sessions_max: usize) -> Self {
        let made = SelfSigned::new(HOSTNAME, Now::simulated_ms(0)).expect("a certificate");
        let certificate =
            Certificate::from_pem(made.certificate.as_bytes(), made.key.as_bytes()).expect("it is one of ours");
        let configs = ServerConfigs::new(&ServerSettings {
            certificates: Arc::new(Certificates::new(CertificateSet::new(&certificate, &[]))),
            minimum_version: Version::Tls12,
            sessions: Arc::new(SessionCache::new(1_024, limits::TLS_SESSION_LIFETIME).expect("memory")),
            returning: Returning::SendEarlyData,
        });
        let settings =
            ClientSettings { trust: Trust::Anyone, versions: Versions::Tls13, sessions_max: client_sessions_max };
        Self { configs: Arc::new(configs), client: client_config(settings).expect("nobody needs to be trusted") }
    }
}

/// Both ends of a session whose handshake is done; the client has the tickets.
fn open(site: &Site) -> (ClientSession, Session) {
    let name = ServerName::try_from(HOSTNAME).expect("a name");
    let mut client = ClientSession::new(Arc::clone(&site.client), name).expect("a session");
    let mut server = Session::new(Arc::clone(&site.configs));
    let mut wire = Vec::with_capacity(4_096);
    while client.is_handshaking() || server.is_handshaking() || server.has_output() {
        client.send(&mut wire);
        hear_server(&mut server, &wire, &mut Vec::new());
        wire.clear();
        server.send(&mut wire);
        hear_client(&mut client, &wire);
        wire.clear();
    }
    (client, server)
}

/// Gives all of this to the server, and what it decrypts to `heard`.
fn hear_server(server: &mut Session, mut wire: &[u8], heard: &mut Vec<u8>) {
    while !wire.is_empty() {
        wire = &wire[server.receive(wire).expect("a record")..];
        loop {
            let bytes = server.plaintext().bytes;
            if bytes.is_empty() {
                break;
            }
            heard.extend_from_slice(bytes);
            let taken = bytes.len();
            server.consume(taken);
        }
    }
}

/// Gives all of this to the client, and drops what it decrypts.
fn hear_client(client: &mut ClientSession, mut wire: &[u8]) {
    while !wire.is_empty() {
        wire = &wire[client.receive(wire).expect("a record")..];
        let taken = black_box(client.plaintext()).len();
        client.consume(taken);
    }
}

const REPLY: &[u8] = b"250 2.0.0 Queued as 1k0w81dqd1601000\r\n";
