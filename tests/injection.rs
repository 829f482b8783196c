//! Commands that somebody placed behind STARTTLS or QTLS in the clear are given to TLS, and are never carried out.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use onetrip::proto::server::Opening;
use onetrip::tls::Versions;
use support::{Client, PASSWORD, Site, USER, client_tls};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const INJECTED: &[u8] = b"NOOP\r\nMAIL FROM:<eve@example.org>\r\nRCPT TO:<bob@example.org>\r\nQUIT\r\n";

/// What the server sends behind its greeting when `command` and `injected` arrive cut in two.
fn answer(site: &Site, command: &[u8], injected: &[u8], cut: usize) -> (Vec<u8>, bool) {
    let mut driver = site.connect(Opening::Clear);
    let greeting = driver.receive(&[]);
    assert!(greeting.ends_with(b"220 HELP\r\n"));
    let packet = [command, injected].concat();
    let sent = driver.receive(&[&packet[..cut], &packet[cut..]]);
    (sent, driver.closed)
}

/// Takes one TLS record from the front. `None` unless it is all that there is.
fn only_record(bytes: &[u8]) -> Option<u8> {
    let header = bytes.get(..5)?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    (bytes.len() == 5 + length).then_some(header[0])
}

#[test]
fn commands_behind_starttls_in_the_clear_are_never_carried_out() {
    let site = Site::new();
    let (starttls, qtls) = (&b"STARTTLS\r\n"[..], &b"QTLS\r\n"[..]);
    for (command, reply) in [(starttls, &b"220 2.0.0 Ready to start TLS\r\n"[..]), (qtls, &b""[..])] {
        for cut in 0..=command.len() + INJECTED.len() {
            let (sent, closed) = answer(&site, command, INJECTED, cut);
            let behind = sent.strip_prefix(reply).unwrap();
            assert_eq!(only_record(behind), Some(ALERT), "cut at {cut}: {}", String::from_utf8_lossy(&sent));
            assert!(closed, "cut at {cut}");
        }
    }
}

#[test]
fn an_injected_handshake_record_gets_no_reply_of_smtp_either() {
    let record = [&[HANDSHAKE, 3, 1, 0, 6][..], b"QUIT\r\n", b"QUIT\r\n"].concat();
    let (sent, _) = answer(&Site::new(), b"QTLS\r\n", &record, 0);
    assert!(!sent.windows(4).any(|bytes| bytes == b"221 "), "{sent:?}");
}

// ── With early data ─────────────────────────────────────────────────────────────────────────────────────────────────

/// The first flight of a returning client, with a whole submission as early data: its records.
fn early_flight(site: &Site) -> Vec<Vec<u8>> {
    let config = client_tls(Versions::Tls13);
    let mut server = site.connect(Opening::ImplicitTls);
    let mut client = Client::new(std::sync::Arc::clone(&config));
    let mut packet = Vec::new();
    client.begin_tls(&mut packet);
    for _ in 0..3 {
        client.hear(&server.receive(&[&packet]));
        packet.clear();
        client.flush_tls(&mut packet);
    }
    let login = data_encoding::BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes());
    let words = format!(
        "EHLO client.example\r\nAUTH PLAIN {login}\r\nMAIL FROM:<ann@example.org> XONCE=t\r\n\
         RCPT TO:<bob@example.org>\r\nBDAT 4 LAST\r\nHi\r\n"
    );
    let mut flight = Vec::new();
    let mut client = Client::new(config);
    client.begin_tls_early();
    client.say(words.as_bytes(), &mut flight);
    records(&flight)
}

fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let [_, _, _, high, low, ..] = *bytes {
        let (record, rest) = bytes.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
        records.push(record.to_vec());
        bytes = rest;
    }
    records
}

#[test]
fn commands_placed_before_or_between_the_records_of_early_data_are_never_carried_out() {
    let site = Site::new();
    for place in 0..3 {
        for piece in [usize::MAX, 1, 50] {
            let mut flight = early_flight(&site);
            assert!(flight.len() >= 2, "a ClientHello, and early data");
            flight.insert(place.min(flight.len() - 1), INJECTED.to_vec());
            let packet = [b"STARTTLS\r\n".to_vec(), flight.concat()].concat();
            let mut driver = site.connect(Opening::Clear);
            driver.receive(&[]);
            let pieces: Vec<&[u8]> = packet.chunks(piece.min(packet.len())).collect();
            let sent = driver.receive(&pieces);
            let behind = sent.strip_prefix(b"220 2.0.0 Ready to start TLS\r\n").unwrap();
            assert!(records(behind).concat() == behind, "place {place}: nothing but TLS is sent");
            assert!(driver.closed && driver.stored.is_empty(), "place {place}, pieces of {piece}");
            assert_eq!(driver.connection.server().tally().messages, 0);
        }
    }
}

#[test]
fn commands_placed_behind_early_data_do_not_join_it() {
    let site = Site::new();
    let packet = [b"STARTTLS\r\n".to_vec(), early_flight(&site).concat(), INJECTED.to_vec()].concat();
    let mut driver = site.connect(Opening::Clear);
    driver.receive(&[]);
    driver.receive(&[&packet]);
    let tally = driver.connection.server().tally();
    assert!(driver.closed && tally.messages == 0 && tally.errors == 0, "{tally:?}");
    assert_eq!(driver.connection.server().outcome(), None, "the QUIT was not heard");
}

#[test]
fn what_was_said_in_the_clear_is_forgotten_where_early_data_follows_at_once() {
    let site = Site::new();
    // A hello in the clear must not serve for the login inside TLS.
    let mut driver = site.connect(Opening::Clear);
    driver.receive(&[]);
    let packet = [b"EHLO eve.example\r\nSTARTTLS\r\n".to_vec(), early_flight(&site).concat()].concat();
    driver.receive(&[&packet]);
    assert_eq!(driver.stored.len(), 1);
    let trace = String::from_utf8_lossy(&driver.stored[0].trace).into_owned();
    assert!(trace.contains("from client.example") && !trace.contains("eve.example"), "{trace}");
}
