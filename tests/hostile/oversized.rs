//! Everything larger than it may be: lines, credentials, lists of recipients, messages, chunks, ids, handshakes.

use std::io::{Read, Write};

use crate::process::client::Client;
use crate::process::{RECIPIENT, SENDER, Site};
use crate::world::{Holdings, Peace, alone, assert_sound, connect, figure, serve};

/// Bytes of what is far too large.
const FAR_TOO_LARGE: usize = 32 << 20;
/// Memory in KiB by which far too large things may make the server grow.
const GROWTH_KIB_MAX: u64 = 4 << 10;

/// Says something far too large, in pieces; the server may hang up on the way.
fn pour(client: &mut Client, piece: &str) {
    for _ in 0..FAR_TOO_LARGE / piece.len() {
        if client.try_send(piece.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn lines_far_too_long_are_refused_and_not_kept() {
    let site = Site::new();
    let server = serve(&site, &[]);
    let kilobyte = "x".repeat(16 << 10);
    let mut clear = Client::greeted(&server);
    let mut inside = Client::logged_in(&server);
    let before = Holdings::of(&server);
    for client in [&mut clear, &mut inside] {
        for begin in ["", "NOOP ", "EHLO ", "QHLO client.example ", "MAIL FROM:<", "VRFY "] {
            client.send(begin);
            pour(client, &kilobyte);
            client.say("");
            client.expect("500 5.5.2");
        }
    }
    before.assert_grown_by_at_most(&server, "lines of 32 MiB", GROWTH_KIB_MAX);
    clear.quit();
    inside.quit();
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn credentials_far_too_long_are_refused_and_not_kept() {
    let site = Site::new();
    let server = serve(&site, &["--auth-attempts-max", "100"]);
    let letters = "QUFB".repeat(4 << 10);
    let mut client = Client::over_tls(&server);
    let before = Holdings::of(&server);
    for begin in ["AUTH PLAIN ", "AUTH LOGIN "] {
        client.send(begin);
        pour(&mut client, &letters);
        client.say("");
        client.expect("500");
    }
    for mechanism in ["PLAIN", "LOGIN"] {
        client.ask(&format!("AUTH {mechanism}"), "334");
        pour(&mut client, &letters);
        client.say("");
        client.expect("500");
    }
    before.assert_grown_by_at_most(&server, "credentials of 32 MiB", GROWTH_KIB_MAX);
    client.quit();
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn a_message_far_too_large_is_read_to_its_end_and_not_kept() {
    let site = Site::new();
    let server = serve(&site, &["--max-message-size", "100K"]);
    let mut client = Client::logged_in(&server);
    let before = Holdings::of(&server);
    client.ask(&format!("MAIL FROM:<{SENDER}> SIZE=100000000000"), "552 5.3.4");
    for piece in [format!("{}\r\n", "x".repeat(998)), "y".repeat(16 << 10), "\r\n..".repeat(4 << 10)] {
        client.begin_message(RECIPIENT);
        pour(&mut client, &piece);
        client.ask("\r\n.", "552 5.3.4");
    }
    before.assert_grown_by_at_most(&server, "messages of 32 MiB", GROWTH_KIB_MAX);
    // What is large goes to the disk while it comes, and this is not to get there either.
    let written = figure(&server, "onetrip_spool_written_bytes_total");
    assert!(written <= GROWTH_KIB_MAX << 10, "{written} bytes are in the spool");
    client.submit("Subject: small\r\n", "250");
    client.quit();
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn a_chunk_far_too_large_ends_the_connection_before_it_is_read() {
    let site = Site::new();
    let server = serve(&site, &["--max-message-size", "100K"]);
    for size in ["4294967296", "9223372036854775807"] {
        let mut client = Client::logged_in(&server);
        client.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
        client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
        client.ask(&format!("BDAT {size} LAST"), "552 5.3.4");
        client.expect("421 4.5.2");
        client.expect_end();
    }
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn recipients_without_end_are_refused_and_then_the_client_is() {
    let site = Site::new();
    let server = serve(&site, &["--recipients-max", "100"]);
    let mut client = Client::logged_in(&server);
    let before = Holdings::of(&server);
    client.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
    let mut replies = (0..100_000).map(|number| {
        client.say(&format!("RCPT TO:<{number}@example.org>"));
        client.reply()
    });
    assert!(replies.by_ref().take(100).all(|reply| reply.starts_with("250")));
    let end = replies.find(|reply| !reply.starts_with("452 4.5.3")).unwrap();
    assert!(end.starts_with("421 4.7.0"), "{end}");
    before.assert_grown_by_at_most(&server, "recipients without end", GROWTH_KIB_MAX);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn many_large_messages_at_once_stay_within_the_memory_for_messages() {
    let _turn = alone();
    const CLIENTS: usize = 40;
    let site = Site::new();
    let server = serve(&site, &["--message-memory", "8M", "--max-message-size", "4M"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::logged_in(&server)).collect();
    let megabyte = format!("{}\r\n", "x".repeat(998)).repeat(1_000);
    let mut begun = Vec::new();
    for client in &mut clients {
        client.say(&format!("MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT {}", megabyte.len()));
        client.send(&megabyte);
        begun.push((0..3).map(|_| client.reply()).collect::<Vec<_>>());
    }
    let stored = begun.iter().filter(|replies| replies[2].starts_with("250")).count();
    let put_off = begun.iter().filter(|replies| replies.iter().any(|reply| reply.starts_with("452"))).count();
    assert_eq!((stored > 0, put_off > 0, stored + put_off), (true, true, CLIENTS), "{begun:?}");
    // Content, a record each, and what a buffer that grows has let go of.
    before.assert_grown_by_at_most(&server, "40 messages of 1 MB with room for 8", (3 * 8) << 10);
    drop(clients);
    before.assert_given_back(&server);
    peace.holds_beside("after large messages");
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn a_client_hello_far_too_large_is_refused() {
    let site = Site::new();
    let server = serve(&site, &[]);
    assert_sound(&server);
    let before = Holdings::of(&server);
    // A handshake message that says it has 16 MiB, and full records of it.
    let mut stream = connect(0, server.tls);
    let address = stream.local_addr().unwrap();
    let record = [&[22, 3, 1, 64, 0, 1, 255, 255, 255][..], &[0; (16 << 10) - 4]].concat();
    let is_over = (0..2_000).any(|_| stream.write_all(&record).is_err());
    assert!(is_over, "32 MiB of a ClientHello are read");
    assert_eq!(server.summary(address)["outcome"], "tls_failed");
    // In clear text, behind a STARTTLS that is refused, it is skipped up to a bound.
    let mut stream = connect(0, server.starttls);
    stream.write_all(b"QHLO client.example AAAAAAAAAAAAAAAA\r\nSTARTTLS\r\n").unwrap();
    let is_over = (0..2_000).any(|_| stream.write_all(&record).is_err());
    let mut words = Vec::new();
    let _ = stream.read_to_end(&mut words);
    assert!(is_over, "32 MiB of a refused ClientHello are skipped: {}", String::from_utf8_lossy(&words));
    before.assert_grown_by_at_most(&server, "a ClientHello of 32 MiB", GROWTH_KIB_MAX);
    assert_sound(&server);
    server.stop(&site);
}
