//! What a session makes of the TLS library: what it holds, what it asks of it, and when it leaves it alone.

use std::io::Write;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::Versions;
use super::session::{FailureKind, Session};
use super::tests::{GREETING, HOST, World, all_written, feed_server};
use crate::limits;

/// A client of the library's own, which can do what ours never does.
struct Stranger {
    client: ClientConnection,
}

impl Stranger {
    /// Both ends of a session whose handshake is done.
    fn met(world: &World, versions: Versions) -> (Self, Session) {
        let name = ServerName::try_from(HOST).unwrap();
        let client = ClientConnection::new(world.client(versions), name).unwrap();
        let (mut stranger, mut server) = (Self { client }, Session::new(Arc::clone(&world.configs)));
        while server.is_handshaking() || server.has_output() {
            feed_server(&mut server, &stranger.flight()).unwrap();
            stranger.hear(&mut server);
        }
        (stranger, server)
    }

    fn flight(&mut self) -> Vec<u8> {
        let mut flight = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut flight).unwrap();
        }
        flight
    }

    /// Takes what the server has to say. Returns how many bytes of plaintext there are to be read.
    fn hear(&mut self, server: &mut Session) -> usize {
        let mut flight = Vec::new();
        server.send(&mut flight);
        let (mut rest, mut bytes) = (&flight[..], 0);
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            bytes = self.client.process_new_packets().unwrap().plaintext_bytes_to_read();
        }
        bytes
    }
}

#[test]
fn new_keys_are_taken_over_and_the_answer_rides_on_the_next_reply() {
    let world = World::new();
    let (mut stranger, mut server) = Stranger::met(&world, Versions::Tls13);
    for number in 1..=100 {
        stranger.client.refresh_traffic_keys().unwrap();
        stranger.client.writer().write_all(b"NOOP\r\n").unwrap();
        assert_eq!(feed_server(&mut server, &stranger.flight()).unwrap(), b"NOOP\r\n");
        assert!(!server.has_output(), "the new keys alone are not worth a packet");
        all_written(server.write(b"250 OK\r\n"), b"250 OK\r\n");
        assert_eq!(stranger.hear(&mut server), number * 8);
    }
}

#[test]
fn a_client_that_sends_nothing_but_new_keys_is_stopped() {
    let world = World::new();
    let (mut stranger, mut server) = Stranger::met(&world, Versions::Tls13);
    let failure = (0..100).find_map(|_| {
        stranger.client.refresh_traffic_keys().unwrap();
        feed_server(&mut server, &stranger.flight()).err()
    });
    assert_eq!(failure.unwrap().kind(), FailureKind::Violation);
}

#[test]
fn a_failed_session_is_left_alone_whatever_is_asked_of_it() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Tls12));
    pair.client_speaks().unwrap();
    // A record with two messages: the first is out of place, and behind it the library has another one ready.
    let failure = pair.server.receive(b"\x16\x03\x03\x00\x08\x14\0\0\0\x14\0\0\0").unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Violation);
    all_written(pair.server.write(GREETING), GREETING);
    pair.server.close();
    pair.server.rest();
    assert_eq!(pair.server.receive(b"\x16\x03\x03\x00\x04\x14\0\0\0").unwrap_err(), failure);
    assert_eq!(pair.server_speaks().unwrap_err().kind(), FailureKind::PeerAlert);
}

#[test]
fn a_handshake_message_spread_over_ever_more_records_ends_the_session() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Tls12));
    pair.client_speaks().unwrap();
    // A ClientKeyExchange of 60,000 bytes, in records of one byte each.
    let mut flight = b"\x16\x03\x03\x00\x04\x10\0\xea\x60".to_vec();
    for _ in 0..60_000 {
        flight.extend_from_slice(b"\x16\x03\x03\x00\x01x");
    }
    let mut taken = 0;
    let failure = flight.chunks(999).find_map(|piece| {
        taken += piece.len();
        pair.server.receive(piece).err()
    });
    assert_eq!(failure.unwrap().kind(), FailureKind::Malformed);
    assert!(taken < 70_000, "{taken} bytes were taken");
}

#[test]
fn a_close_in_the_middle_of_a_tls_1_2_handshake_comes_behind_its_end_and_what_was_written() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Tls12));
    all_written(pair.server.write(GREETING), GREETING);
    pair.client_speaks().unwrap();
    pair.server.close();
    assert_eq!(pair.server_speaks().unwrap(), b"");
    assert!(!pair.client.peer_closed());
    pair.client_speaks().unwrap();
    assert_eq!(pair.server_speaks().unwrap(), GREETING);
    assert!(pair.client.peer_closed());
}

#[test]
fn what_waits_to_be_sent_is_bounded_after_the_handshake_too() {
    let world = World::new();
    let mut pair = world.pair(&world.client(Versions::Tls13));
    pair.settle().unwrap();
    let much = vec![b'x'; limits::TLS_WAITING_BYTES_MAX];
    let taken: usize = (0..10).map(|_| pair.server.write(&much)).sum();
    assert!(taken <= limits::TLS_WAITING_BYTES_MAX, "{taken}");
    assert_eq!(pair.server_speaks().unwrap().len(), taken);
    assert!(pair.server.write(&much) > 0, "there is room again");
}
