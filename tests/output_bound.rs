//! What a client may make the server say in one go: much said in one packet is answered in full, in order, and in sends of
//! a bounded size.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod support;

use data_encoding::BASE64;
use onetrip::limits::{RECEIVE_BYTES, REPLIES_BYTES_MAX};
use onetrip::proto::server::Opening;
use onetrip::tls::Versions;
use support::{Client, Driver, PASSWORD, Site, USER, client_tls};

/// What a send may have besides: one reply, the first flight of TLS, and what encryption adds.
const BESIDE: usize = 4_096;

fn site() -> Site {
    Site::with(|settings| {
        settings.bounds.commands_max = 1_000_000;
        settings.bounds.messages_max = 1_000_000;
    })
}

/// A connection that has greeted, inside TLS if there are versions of it, and the client's end.
fn opened(site: &Site, versions: Option<Versions>) -> (Driver, Client) {
    let mut client = Client::new(client_tls(versions.unwrap_or(Versions::Tls13)));
    let Some(_) = versions else {
        let mut server = site.connect(Opening::Clear);
        client.hear(&server.receive(&[]));
        return (server, client);
    };
    let mut server = site.connect(Opening::ImplicitTls);
    let mut packet = Vec::new();
    client.begin_tls(&mut packet);
    while !packet.is_empty() {
        let sent = server.receive(&[&packet]);
        packet.clear();
        client.hear(&sent);
        client.flush_tls(&mut packet);
    }
    (server, client)
}

/// What a client says that says a lot, and how often the server answers.
fn commands() -> (Vec<u8>, usize) {
    let command = b"EHLO client.example\r\nNOOP\r\n";
    let count = RECEIVE_BYTES / command.len();
    (command.repeat(count), 2 * count)
}

/// Says all of it in packets of so many bytes; returns the reply lines that end a reply.
fn say(server: &mut Driver, client: &mut Client, words: &[u8], packet_bytes: usize) -> Vec<String> {
    let mut packet = Vec::new();
    for piece in words.chunks(8_192) {
        client.say(piece, &mut packet);
    }
    let mut replies = Vec::new();
    for piece in packet.chunks(packet_bytes) {
        replies.extend(client.hear(&server.receive(&[piece])).0);
    }
    replies.retain(|line| &line[3..4] == " ");
    replies
}

#[test]
fn much_that_is_said_at_once_is_answered_in_full_and_in_sends_of_a_bounded_size() {
    for versions in [None, Some(Versions::Tls12), Some(Versions::Tls13)] {
        for packet_bytes in [usize::MAX, RECEIVE_BYTES, 1_000] {
            let site = site();
            let (mut server, mut client) = opened(&site, versions);
            let (words, count) = commands();
            let replies = say(&mut server, &mut client, &words, packet_bytes);
            assert_eq!(replies.len(), count, "{versions:?}");
            assert!(replies.iter().all(|line| line.starts_with("250 ")), "{versions:?}");
            assert!(server.largest_send <= REPLIES_BYTES_MAX + BESIDE, "{versions:?}: {}", server.largest_send);
        }
    }
}

#[test]
fn logins_and_messages_among_much_that_is_said_at_once_are_answered_in_order() {
    let site = site();
    let (mut server, mut client) = opened(&site, Some(Versions::Tls13));
    let login = BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes());
    let noops = "NOOP\r\n".repeat(3_000);
    let message = "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nBDAT 6 LAST\r\nS: x\r\n";
    let words = format!("EHLO client.example\r\n{noops}AUTH PLAIN {login}\r\n{}{noops}QUIT\r\n", message.repeat(500));
    let replies = say(&mut server, &mut client, words.as_bytes(), RECEIVE_BYTES);
    let codes: Vec<&str> = replies.iter().map(|line| &line[..3]).collect();
    let expected = [vec!["250"; 3_001], vec!["235"], vec!["250"; 1_500 + 3_000], vec!["221"]].concat();
    assert_eq!(codes, expected);
    assert_eq!(server.stored.len(), 500);
    assert!(server.closed && server.largest_send <= REPLIES_BYTES_MAX + BESIDE, "{}", server.largest_send);
}

#[test]
fn what_follows_the_beginning_of_tls_is_not_answered_because_the_output_was_full() {
    let site = site();
    let (mut server, mut client) = opened(&site, None);
    let (mut words, count) = commands();
    words.extend_from_slice(b"STARTTLS\r\nNOOP\r\nNOOP\r\n");
    let sent = server.receive(&[&words]);
    let text = String::from_utf8_lossy(&sent);
    assert_eq!(text.matches("\r\n250 ").count(), count, "each one before it is answered");
    assert!(text.contains("\r\n220 2.0.0 "), "{}", &text[text.len() - 200..]);
    assert!(server.closed, "commands are no ClientHello");
    client.give_up_tls();
}
