//! What can be done with early data that nobody should do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use onetrip::limits::TLS_EARLY_DATA_BYTES_MAX;
use onetrip::tls::Versions;
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::process::client::auth;
use crate::process::{HOSTNAME, PASSWORD, RECIPIENT, SENDER, Site, USER};
use crate::world::{Holdings, Peace, alone, assert_sound, connect, figure, serve, wait_for_open};

/// Clients at once that send a message as early data and never finish the handshake.
const UNFINISHED: usize = 300;
/// Memory in KiB that one of them may hold.
const UNFINISHED_KIB_MAX: u64 = 96;

/// A client that remembers its sessions, of which there are tickets after each visit.
fn client() -> Arc<ClientConfig> {
    let settings = ClientSettings { trust: Trust::Anyone, versions: Versions::Tls13, sessions_max: 16 };
    let mut config = ClientConfig::clone(&client_config(settings).unwrap());
    config.enable_early_data = true;
    Arc::new(config)
}

fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(HOSTNAME).unwrap()).unwrap()
}

/// Greets and quits, and so has a ticket.
fn visit(config: &Arc<ClientConfig>, server: SocketAddr) {
    let mut stream = StreamOwned::new(session(config), TcpStream::connect(server).unwrap());
    stream.write_all(b"QUIT\r\n").unwrap();
    let mut words = Vec::new();
    let _ = stream.read_to_end(&mut words);
    assert!(String::from_utf8_lossy(&words).contains("221 "));
}

/// The first flight of a client that was here, with this as early data.
fn flight(config: &Arc<ClientConfig>, early: &[u8]) -> Vec<u8> {
    let mut session = session(config);
    session.early_data().expect("there is a ticket").write_all(early).unwrap();
    let mut flight = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut flight).unwrap();
    }
    flight
}

fn submission() -> String {
    let content = format!("Subject: early\r\n\r\n{}\r\n", "x".repeat(8_000));
    format!(
        "EHLO early.example\r\n{}\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT {} LAST\r\n{content}",
        auth(USER, PASSWORD),
        content.len()
    )
}

#[test]
fn hundreds_that_never_finish_behind_their_early_data_store_nothing_and_are_left_in_time() {
    let _turn = alone();
    let site = Site::new();
    let server = serve(&site, &["--idle-timeout", "10"]);
    let peace = Peace::at(&server);
    let config = client();
    let flights: Vec<Vec<u8>> = (0..UNFINISHED)
        .map(|_| {
            visit(&config, server.tls);
            flight(&config, submission().as_bytes())
        })
        .collect();
    wait_for_open(&server, |open| open == 0);
    let before = Holdings::of(&server);
    let stored = figure(&server, "onetrip_messages_stored_total");
    let mut unfinished: Vec<TcpStream> = Vec::new();
    for (number, flight) in flights.iter().enumerate() {
        let mut stream = connect(number, server.tls);
        stream.write_all(flight).unwrap();
        unfinished.push(stream);
    }
    // Each has been answered, so its early data was read.
    unfinished.iter_mut().for_each(|stream| assert!(stream.read(&mut [0; 64]).unwrap() > 0));
    assert_eq!(figure(&server, "onetrip_messages_stored_total"), stored, "nobody has finished");
    let bound = UNFINISHED as u64 * UNFINISHED_KIB_MAX + (24 << 10);
    before.assert_grown_by_at_most(&server, "early data that is never finished", bound);
    peace.holds_beside(&format!("{UNFINISHED} that never finish"));
    wait_for_open(&server, |open| open == 0);
    before.assert_given_back(&server);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn more_rejected_early_data_than_is_allowed_ends_the_connection() {
    let site = Site::new();
    let server = serve(&site, &[]);
    let config = client();
    visit(&config, server.tls);
    let flight = flight(&config, submission().as_bytes());
    // Its session is taken by the first to come, so that the second one's early data is rejected, and skipped.
    let mut first = connect(0, server.tls);
    first.write_all(&flight).unwrap();
    assert!(first.read(&mut [0; 64]).unwrap() > 0);
    let before = Holdings::of(&server);
    let mut second = connect(0, server.tls);
    let address = second.local_addr().unwrap();
    second.write_all(&flight).unwrap();
    let record = [&[23, 3, 3, 4, 0][..], &[7; 1_024]].concat();
    let records = 100 * TLS_EARLY_DATA_BYTES_MAX / record.len();
    let is_over = (0..records).any(|_| second.write_all(&record).is_err());
    assert!(is_over, "a hundred times what is allowed is skipped");
    assert_eq!(server.summary(address)["outcome"], "tls_failed");
    before.assert_grown_by_at_most(&server, "early data without end", 4 << 10);
    drop(first);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn early_data_that_was_changed_on_the_way_ends_the_connection() {
    let site = Site::new();
    let server = serve(&site, &[]);
    let config = client();
    for from_end in [1, 20, 1_000] {
        visit(&config, server.tls);
        let mut flight = flight(&config, submission().as_bytes());
        let place = flight.len() - from_end;
        flight[place] ^= 1;
        let mut stream = connect(0, server.tls);
        let address = stream.local_addr().unwrap();
        stream.write_all(&flight).unwrap();
        let summary = server.summary(address);
        assert_eq!((&summary["outcome"], &summary["messages"]), (&"tls_failed".into(), &0.into()), "{summary}");
    }
    assert_sound(&server);
    server.stop(&site);
}
