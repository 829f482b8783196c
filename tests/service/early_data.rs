//! Returning clients: sessions that are resumed on any shard, early data, copies of a first flight, and listeners that
//! differ in what they allow.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;

use onetrip::tls::Versions;
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use onetrip::tls::session::{ClientSession, EarlyOutcome};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::process::client::{Client, auth};
use crate::process::{HOSTNAME, PASSWORD, PATIENCE, RECIPIENT, SENDER, Server, Site, USER};

const LETTER: &str = "Subject: early\r\n\r\nHello\r\n";

/// A client that remembers its TLS sessions.
struct Returning(Arc<ClientConfig>);

/// One connection of such a client.
struct Visit {
    stream: TcpStream,
    session: ClientSession,
    replies: String,
}

impl Returning {
    fn new() -> Self {
        let settings = ClientSettings { trust: Trust::Anyone, versions: Versions::Tls13, sessions_max: 16 };
        Self(client_config(settings).unwrap())
    }

    /// A client that was here, so that it has a ticket.
    fn after_a_visit(address: SocketAddr) -> Self {
        let client = Self::new();
        client.visit(address, "").say("QUIT\r\n", "221 ");
        client
    }

    /// A session with this as early data, and its first flight. If there is no ticket, nothing is said early.
    fn first_flight(&self, early: &str) -> (ClientSession, Vec<u8>) {
        let mut session = ClientSession::with_early_data(&self.0, ServerName::try_from(HOSTNAME).unwrap()).unwrap();
        let taken = session.write_early(early.as_bytes());
        assert!(taken == early.len() || taken == 0);
        let mut flight = Vec::new();
        session.send(&mut flight);
        (session, flight)
    }

    /// Connects to a listener for implicit TLS, and goes through the handshake.
    fn visit(&self, address: SocketAddr, early: &str) -> Visit {
        let (session, flight) = self.first_flight(early);
        let mut visit = Visit { stream: deliver(address, &flight), session, replies: String::new() };
        while visit.session.is_handshaking() {
            visit.receive();
        }
        visit.flush();
        visit
    }
}

impl Visit {
    /// Says this, and waits until the replies hold that.
    fn say(&mut self, text: &str, reply: &str) {
        assert_eq!(self.session.write(text.as_bytes()), text.len());
        self.flush();
        self.wait_for(reply);
    }

    fn wait_for(&mut self, reply: &str) {
        while !self.replies.contains(reply) {
            self.receive();
        }
    }

    fn flush(&mut self) {
        let mut flight = Vec::new();
        self.session.send(&mut flight);
        self.stream.write_all(&flight).unwrap();
    }

    fn receive(&mut self) {
        let mut buffer = [0; 8_192];
        let bytes = self.stream.read(&mut buffer).unwrap();
        assert!(bytes > 0, "the server closed after {:?}", self.replies);
        let mut rest = &buffer[..bytes];
        while !rest.is_empty() {
            let taken = self.session.receive(rest).unwrap();
            rest = &rest[taken..];
            while !self.session.plaintext().is_empty() {
                self.replies.push_str(std::str::from_utf8(self.session.plaintext()).unwrap());
                let bytes = self.session.plaintext().len();
                self.session.consume(bytes);
            }
        }
    }
}

/// Sends a first flight on a connection of its own.
fn deliver(address: SocketAddr, flight: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(flight).unwrap();
    stream
}

fn login(password: &str) -> String {
    format!("EHLO client.example\r\n{}\r\n", auth(USER, password))
}

/// All that a client says to submit one message.
fn submission(parameters: &str) -> String {
    let login = login(PASSWORD);
    let bytes = LETTER.len();
    format!("{login}MAIL FROM:<{SENDER}>{parameters}\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT {bytes} LAST\r\n{LETTER}")
}

fn stored(site: &Site) -> usize {
    site.messages(RECIPIENT).len()
}

const QUEUED: &str = "250 2.0.0 Queued as";

#[test]
fn a_message_in_early_data_is_stored_and_the_summary_tells_of_it() {
    let site = Site::new();
    let server = site.serve(&[]);
    let client = Returning::after_a_visit(server.tls);
    for parameters in [" XONCE=t", ""] {
        let mut visit = client.visit(server.tls, &submission(parameters));
        assert_eq!(visit.session.early_outcome(), EarlyOutcome::Accepted);
        visit.wait_for(QUEUED);
        let address = visit.stream.local_addr().unwrap();
        visit.say("QUIT\r\n", "221 ");
        let summary = server.summary(address);
        assert_eq!((&summary["early_data"], &summary["messages"]), (&"accepted".into(), &1.into()), "{summary}");
    }
    server.stop(&site);
    assert_eq!(stored(&site), 2);
}

#[test]
fn after_a_restart_early_data_is_rejected_and_sent_again() {
    let site = Site::new();
    let server = site.serve(&[]);
    let client = Returning::after_a_visit(server.tls);
    server.stop(&site);
    let server = site.serve(&[]);
    let mut visit = client.visit(server.tls, &submission(" XONCE=t"));
    assert_eq!(visit.session.early_outcome(), EarlyOutcome::Rejected);
    visit.say(&submission(" XONCE=t"), QUEUED);
    let address = visit.stream.local_addr().unwrap();
    visit.say("QUIT\r\n", "221 ");
    assert_eq!(server.summary(address)["early_data"], "rejected");
    server.stop(&site);
    assert_eq!(stored(&site), 1);
}

#[test]
fn copies_of_a_first_flight_that_race_on_two_shards_and_come_late_are_stored_once() {
    const ROUNDS: usize = 10;
    let site = Site::new();
    let server = site.serve(&["--shards", "2"]);
    for (round, parameters) in (0..ROUNDS).flat_map(|round| [(round, true), (round, false)]) {
        let token = if parameters { format!(" XONCE=t{round}") } else { String::new() };
        let client = Returning::after_a_visit(server.tls);
        let (_, flight) = client.first_flight(&submission(&token));
        let barrier = Arc::new(Barrier::new(4));
        let copies: Vec<_> = (0..4)
            .map(|_| {
                let (barrier, flight) = (Arc::clone(&barrier), flight.clone());
                thread::spawn(move || {
                    barrier.wait();
                    deliver(server.tls, &flight)
                })
            })
            .collect();
        let copies: Vec<TcpStream> = copies.into_iter().map(|copy| copy.join().unwrap()).collect();
        // Each has its ServerHello, and with it whatever its early data was answered.
        let answered = |mut copy: &TcpStream| assert!(copy.read(&mut [0; 4_096]).unwrap() > 0);
        copies.iter().for_each(answered);
        let mut again = Returning::new().visit(server.tls, "");
        again.say(&submission(&token), QUEUED);
        again.say("QUIT\r\n", "221 ");
        answered(&deliver(server.tls, &flight));
    }
    server.stop(&site);
    assert_eq!(stored(&site), 2 * ROUNDS);
}

#[test]
fn sessions_are_resumed_and_early_data_is_taken_on_whichever_shard_the_client_lands() {
    const VISITS: usize = 40;
    let site = Site::new();
    let server = site.serve(&["--shards", "2"]);
    let client = Returning::after_a_visit(server.tls);
    let mut shards = BTreeSet::new();
    let mut moves = 0;
    let mut last = Value::Null;
    for _ in 0..VISITS {
        let mut visit = client.visit(server.tls, &login(PASSWORD));
        assert_eq!(visit.session.early_outcome(), EarlyOutcome::Accepted);
        visit.wait_for("235 ");
        let address = visit.stream.local_addr().unwrap();
        visit.say("QUIT\r\n", "221 ");
        let summary = server.summary(address);
        assert_eq!((&summary["session"], &summary["early_data"]), (&"resumed".into(), &"accepted".into()), "{summary}");
        shards.insert(summary["shard"].to_string());
        moves += usize::from(!last.is_null() && last != summary["shard"]);
        last = summary["shard"].clone();
    }
    assert_eq!(shards.len(), 2, "the system spreads {VISITS} connections over both shards");
    assert!(moves > 0, "a session of one shard was resumed on the other");
    server.stop(&site);
}

#[test]
fn a_resumed_session_does_not_outlive_its_password() {
    let site = Site::new();
    let server = site.serve(&["--shards", "2"]);
    let client = Returning::after_a_visit(server.tls);
    // Remembered by now on both shards, as far as the system has chosen them.
    for _ in 0..8 {
        let mut visit = client.visit(server.tls, &login(PASSWORD));
        visit.wait_for("235 ");
        visit.say("QUIT\r\n", "221 ");
    }
    site.add_user(USER, "another-secret-0815", &[]);
    server.wait_for_events("users_reloaded", 1);
    for _ in 0..4 {
        let mut visit = client.visit(server.tls, &login(PASSWORD));
        assert_eq!(visit.session.early_outcome(), EarlyOutcome::Accepted);
        visit.wait_for("535 5.7.8");
        visit.say(&format!("{}QUIT\r\n", login("another-secret-0815")), "221 ");
        assert!(visit.replies.contains("235 "), "{}", visit.replies);
    }
    site.remove_user(USER);
    server.wait_for_events("users_reloaded", 2);
    let mut visit = client.visit(server.tls, &login("another-secret-0815"));
    visit.wait_for("535 5.7.8");
    visit.say("QUIT\r\n", "221 ");
    server.stop(&site);
}

// ── Listeners that differ ───────────────────────────────────────────────────────────────────────────────────────────

fn announces_early_data(address: SocketAddr) -> bool {
    let mut client = Client::connect(address);
    let listing = client.expect("220");
    client.quit();
    listing.contains("XEARLYDATA")
}

fn serve_with_options(site: &Site, options: &str) -> Server {
    site.serve(&["--listen-tls", &format!("127.0.0.1:0{options}")])
}

#[test]
fn one_listener_can_go_without_early_data_and_still_resumes() {
    let site = Site::new();
    let server = serve_with_options(&site, ",early-data=off");
    assert!(announces_early_data(server.starttls));
    let client = Returning::after_a_visit(server.tls);
    let mut visit = client.visit(server.tls, &login(PASSWORD));
    assert_eq!(visit.session.early_outcome(), EarlyOutcome::None, "the ticket promises none");
    assert!(visit.session.facts().unwrap().resumed);
    visit.say("EHLO client.example\r\n", "250 HELP");
    assert!(!visit.replies.contains("XEARLYDATA"), "{}", visit.replies);
    visit.say("QUIT\r\n", "221 ");
    server.stop(&site);
}

#[test]
fn one_listener_can_go_without_resumption() {
    let site = Site::new();
    let server = serve_with_options(&site, ",resumption=off");
    let client = Returning::after_a_visit(server.tls);
    let mut visit = client.visit(server.tls, &login(PASSWORD));
    assert_eq!(visit.session.early_outcome(), EarlyOutcome::None);
    assert!(!visit.session.facts().unwrap().resumed);
    visit.say("QUIT\r\n", "221 ");
    server.stop(&site);
}

#[test]
fn a_session_of_one_listener_is_nothing_to_a_listener_that_allows_less() {
    let site = Site::new();
    let server = site.serve(&["--listen", "127.0.0.1:0,early-data=off"]);
    assert!(!announces_early_data(server.starttls));
    let client = Returning::after_a_visit(server.tls);
    let (session, flight) = client.first_flight(&submission(" XONCE=t"));
    let mut stream = TcpStream::connect(server.starttls).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"220 HELP\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        greeting.extend(byte);
    }
    stream.write_all(&[b"QTLS\r\n", &flight[..]].concat()).unwrap();
    let mut visit = Visit { stream, session, replies: String::new() };
    visit.wait_for("220 HELP\r\n");
    assert_eq!(visit.session.early_outcome(), EarlyOutcome::Rejected);
    assert!(!visit.session.facts().unwrap().resumed);
    visit.say("QUIT\r\n", "221 ");
    server.stop(&site);
    assert_eq!(stored(&site), 0);
}

#[test]
fn early_data_can_be_off_everywhere_but_on_one_listener() {
    let site = Site::new();
    let server = site.serve(&["--early-data", "off", "--listen-tls", "127.0.0.1:0,early-data=on"]);
    assert!(!announces_early_data(server.starttls));
    let client = Returning::after_a_visit(server.tls);
    let mut visit = client.visit(server.tls, &login(PASSWORD));
    assert_eq!(visit.session.early_outcome(), EarlyOutcome::Accepted);
    visit.wait_for("235 ");
    visit.say("QUIT\r\n", "221 ");
    server.stop(&site);
}

#[test]
fn a_listener_with_an_option_that_is_none_is_refused() {
    let site = Site::empty();
    let (exit, words) = site.serve_refused(&["--listen-tls", "127.0.0.1:0,early=off"]);
    assert_eq!(exit, 64, "{words}");
    assert!(words.contains("--listen-tls: \"early=off\" is no option of a listener: write early-data=on"), "{words}");
}
