//! What can be done with early data that nobody should do.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use data_encoding::BASE64;
use onetrip::limits::{RECEIVE_BYTES, TLS_EARLY_DATA_BYTES_MAX};
use onetrip::tls::Versions;
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::process::client::auth;
use crate::process::{HOSTNAME, PASSWORD, RECIPIENT, SENDER, Server, Site, USER, run_with_input};
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
    let bound = UNFINISHED as u64 * UNFINISHED_KIB_MAX + (4 << 10);
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

/// Runs `openssl s_client` against the server with these arguments; it says this, and hears all until the end. `None` if it is
/// not installed.
fn openssl(server: &Server, arguments: &[&str], words: &str) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-connect", &server.tls.to_string()]).args(arguments);
    if Command::new("openssl").arg("version").output().is_err() {
        let required = std::env::var_os("ONETRIP_REQUIRE_INTEROP").is_some_and(|value| value == "1");
        assert!(!required, "openssl is not installed: apt-get install openssl");
        eprintln!("skipped: openssl is not installed (apt-get install openssl)");
        return None;
    }
    let output = run_with_input(&mut command, words.as_bytes());
    Some((String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)).into_owned())
}

/// OpenSSL sends no more early data than the session's file says that it may: this makes it more (an INTEGER of the same
/// length, in the field with the tag 15).
fn allow_more(session: &str) -> String {
    let (begin, end) = ("-----BEGIN SSL SESSION PARAMETERS-----", "-----END SSL SESSION PARAMETERS-----");
    let body: String = session.lines().filter(|line| !line.starts_with('-')).collect();
    let mut bytes = BASE64.decode(body.as_bytes()).unwrap();
    let allowed = [&[0xaf, 5, 2, 3], &u32::try_from(TLS_EARLY_DATA_BYTES_MAX).unwrap().to_be_bytes()[1..]].concat();
    let place = bytes.windows(allowed.len()).position(|window| window == allowed).expect("what the server allows");
    bytes[place + 4..place + 7].copy_from_slice(&[0x7f, 0xff, 0xff]);
    let text = BASE64.encode(&bytes);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("{begin}\n{}\n{end}\n", lines.join("\n"))
}

#[test]
fn more_accepted_early_data_than_is_allowed_ends_the_connection() {
    let site = Site::new();
    let server = serve(&site, &["--commands-max", "1000000000"]);
    assert_sound(&server);
    let before = Holdings::of(&server);
    let path = |name: &str| site.path(name).into_os_string().into_string().unwrap();
    for (times, is_allowed) in [(1, true), (4, false), (64, false)] {
        let session = path("session");
        if openssl(&server, &["-sess_out", &session], "QUIT\r\n").is_none() {
            return;
        }
        site.write("more", allow_more(&fs::read_to_string(&session).unwrap()));
        // Half of what is allowed, or a multiple of it.
        let noops = "NOOP\r\n".repeat(times * TLS_EARLY_DATA_BYTES_MAX / 12);
        site.write("early", format!("EHLO early.example\r\n{noops}QUIT\r\n"));
        let said = openssl(&server, &["-sess_in", &path("more"), "-early_data", &path("early")], "").unwrap();
        let replies = said.matches("\n250 ").count();
        assert_eq!(said.contains("\n221 "), is_allowed, "{times}: {said}");
        assert!(replies <= TLS_EARLY_DATA_BYTES_MAX / 6, "{times}: {replies} replies");
    }
    // The one to begin with, and two for each.
    server.wait_for_events("connection_ended", 7);
    let ended = server.events("connection_ended");
    let early: Vec<_> = ended.iter().filter(|event| event["early_data"] == "accepted").collect();
    let outcomes: Vec<_> = early.iter().map(|event| event["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["quit", "tls_failed", "tls_failed"]);
    let read = early.iter().map(|event| event["bytes_in"].as_u64().unwrap()).max().unwrap();
    assert!(read <= (TLS_EARLY_DATA_BYTES_MAX + 2 * RECEIVE_BYTES) as u64, "{read} bytes are read");
    before.assert_grown_by_at_most(&server, "accepted early data without end", 4 << 10);
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
