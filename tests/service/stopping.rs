//! Signals: what is under way is finished, everything else is turned away, and the process ends in time.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use crate::process::client::Client;
use crate::process::{PATIENCE, RECIPIENT, Server, Site, http_get};

/// Signals, and waits until the server has noticed.
fn begin_to_stop(server: &Server, signal: i32) {
    server.signal(signal);
    server.event("draining");
}

/// Waits for the end, and returns how many connections were cut.
fn assert_stopped(mut server: Server, site: &Site) -> u64 {
    let status = server.ended();
    assert_eq!(status.code(), Some(0));
    site.assert_nothing_left_behind();
    server.event("stopped")["connections_cut"].as_u64().unwrap()
}

/// A new client is turned away: by a 421, after the greeting if it was just in time for that, or because nobody listens
/// any more.
fn assert_turned_away(address: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    if stream.read_to_string(&mut said).is_ok() {
        assert!(said.lines().last().is_none_or(|line| line.starts_with("421 4.3.2")), "{said}");
    }
}

#[test]
fn idle_connections_are_told_that_the_server_stops() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let site = Site::new();
        let server = site.serve(&[]);
        let mut clear = Client::greeted(&server);
        let mut secure = Client::logged_in(&server);
        begin_to_stop(&server, signal);
        for client in [&mut clear, &mut secure] {
            client.expect("421 4.3.2");
            client.expect_end();
            assert_eq!(server.summary(client.address)["outcome"], "drained");
        }
        drop((clear, secure));
        assert_eq!(assert_stopped(server, &site), 0);
    }
}

#[test]
fn a_transaction_under_way_is_finished_and_acknowledged() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    client.begin_message(RECIPIENT);
    client.say("Subject: first half");
    begin_to_stop(&server, libc::SIGTERM);
    client.ask("\r\nsecond half\r\n.", "250");
    client.expect("421 4.3.2");
    client.expect_end();
    drop(client);
    assert_eq!(assert_stopped(server, &site), 0);
    assert!(site.message(RECIPIENT).ends_with(b"Subject: first half\r\n\r\nsecond half\r\n"));
}

#[test]
fn a_further_transaction_is_refused_while_the_server_stops() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    client.begin_message(RECIPIENT);
    begin_to_stop(&server, libc::SIGTERM);
    client.send("Subject: one\r\n\r\none\r\n.\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\n");
    client.expect("250");
    client.expect("421 4.3.2");
    client.expect_end();
    drop(client);
    assert_stopped(server, &site);
    assert_eq!(site.messages(RECIPIENT).len(), 1);
}

#[test]
fn new_connections_are_turned_away_while_the_server_stops() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    client.begin_message(RECIPIENT);
    begin_to_stop(&server, libc::SIGTERM);
    assert_turned_away(server.starttls);
    assert_turned_away(server.tls);
    client.ask("Subject: one\r\n\r\none\r\n.", "250");
    drop(client);
    assert_stopped(server, &site);
}

#[test]
fn a_transaction_that_does_not_end_is_cut_when_the_time_is_over() {
    let site = Site::new();
    let server = site.serve(&["--drain-timeout", "1"]);
    let mut client = Client::logged_in(&server);
    client.begin_message(RECIPIENT);
    server.signal(libc::SIGTERM);
    let address = client.address;
    assert_eq!(server.summary(address)["outcome"], "drained");
    assert_eq!(assert_stopped(server, &site), 1);
    assert!(site.messages(RECIPIENT).is_empty());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let site = Site::new();
        let server = site.serve(&["--drain-timeout", "3600"]);
        let mut client = Client::logged_in(&server);
        client.begin_message(RECIPIENT);
        begin_to_stop(&server, libc::SIGTERM);
        server.signal(second);
        assert_eq!(assert_stopped(server, &site), 1);
    }
}

#[test]
fn a_client_that_has_not_begun_holds_up_nothing() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut silent = [Client::connect(server.tls), Client::greeted(&server)];
    // Half of a ClientHello.
    silent[0].send(b"\x16\x03\x01\x02\x00\x01\x00");
    silent[1].ask("STARTTLS", "220");
    begin_to_stop(&server, libc::SIGTERM);
    for client in &silent {
        server.summary(client.address);
    }
    drop(silent);
    assert_eq!(assert_stopped(server, &site), 0);
}

#[test]
fn load_balancers_learn_that_the_server_stops() {
    let site = Site::new();
    let server = site.serve(&["--metrics", "127.0.0.1:0"]);
    let metrics = server.metrics.unwrap();
    assert!(http_get(metrics, "/health").starts_with("HTTP/1.1 200 "));
    let mut client = Client::logged_in(&server);
    client.begin_message(RECIPIENT);
    begin_to_stop(&server, libc::SIGTERM);
    assert!(http_get(metrics, "/health").starts_with("HTTP/1.1 503 "));
    client.ask("Subject: one\r\n\r\none\r\n.", "250");
    drop(client);
    assert_stopped(server, &site);
}
