//! Clients by the thousand that are slow, silent, half-closed, or deaf: each costs little and holds up nobody.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use onetrip::limits::{RECEIVE_BYTES, REPLIES_BYTES_MAX};

use crate::process::client::Client;
use crate::process::{RECIPIENT, Server, Site};
use crate::world::{Holdings, Peace, alone, assert_sound, connect, connect_with_window, crowd, serve, wait_for_open};

/// Slow clients in clear text at once.
const SLOW_CLIENTS: usize = 10_000;
/// Slow clients inside TLS at once: each costs two handshakes, of the server and of the test, neither optimized.
const SLOW_TLS_CLIENTS: usize = 500;
/// Clients at once that send and never read.
const DEAF_CLIENTS: usize = 100;
/// Clients that say as much as there is room for.
const TALKERS: usize = 40;

/// Memory in KiB that a connection in clear text may hold. A shard's own buffers are counted in, as they are few.
const CLEAR_KIB_MAX: u64 = 8;
/// The same inside TLS, within a message.
const TLS_KIB_MAX: u64 = 28;
/// The same for one whose replies nobody takes: what one receive brought, and twice what gathers for one send.
const DEAF_KIB_MAX: u64 = (RECEIVE_BYTES + 2 * REPLIES_BYTES_MAX) as u64 / 1_024;
/// What a server may take besides while they are there: little, so that a receive's worth of replies would not fit.
const BESIDE_DEAF_KIB: u64 = 4 << 10;
/// What a server may take besides, whoever is connected.
const BESIDE_KIB: u64 = 24 << 10;

fn all(count: usize, connected_to: std::net::SocketAddr) -> Vec<TcpStream> {
    (0..count).map(|number| connect(number, connected_to)).collect()
}

#[test]
fn thousands_of_slow_senders_cost_little_and_hold_up_nobody() {
    let _turn = alone();
    let count = crowd(SLOW_CLIENTS);
    let site = Site::new();
    let server = serve(&site, &[]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let mut slow = all(count, server.starttls);
    peace.holds_during(&format!("{count} clients that send a byte at a time"), || {
        for byte in b"EHLO slow" {
            for client in &mut slow {
                client.write_all(&[*byte]).unwrap();
            }
        }
    });
    wait_for_open(&server, |open| open >= count as u64);
    before.assert_grown_by_at_most(&server, "slow senders", count as u64 * CLEAR_KIB_MAX + BESIDE_KIB);
    peace.holds_beside("the same, silent now");
    // They are slow, and are served all the same.
    let mut last = Client::over(slow.pop().unwrap());
    last.expect("220");
    last.ask(".example", "250");
    drop((last, slow));
    before.assert_given_back(&server);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn hundreds_of_slow_senders_inside_tls_and_within_a_message_hold_up_nobody() {
    let _turn = alone();
    let count = crowd(SLOW_TLS_CLIENTS);
    let site = Site::new();
    let server = serve(&site, &[]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let mut slow: Vec<Client> = (0..count).map(|_| Client::logged_in(&server)).collect();
    slow.iter_mut().for_each(|client| client.begin_message(RECIPIENT));
    peace.holds_during(&format!("{count} clients inside TLS that send a byte at a time"), || {
        for byte in b"Subject: x\r\n\r\n" {
            slow.iter_mut().for_each(|client| client.send([*byte]));
        }
    });
    before.assert_grown_by_at_most(&server, "slow senders inside TLS", count as u64 * TLS_KIB_MAX + BESIDE_KIB);
    slow.iter_mut().for_each(|client| drop(client.ask(".", "250 2.0.0 Queued")));
    drop(slow);
    before.assert_given_back(&server);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn thousands_of_silent_clients_are_left_in_time_and_give_everything_back() {
    let _turn = alone();
    let count = crowd(SLOW_CLIENTS);
    let site = Site::new();
    let server = serve(&site, &["--idle-timeout", "3"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    // Half of them never begin TLS, a quarter have said that they send no more.
    let silent: Vec<TcpStream> = (0..count)
        .map(|number| {
            let client = connect(number, if number % 2 == 0 { server.tls } else { server.starttls });
            if number % 4 == 1 {
                client.shutdown(Shutdown::Write).unwrap();
            }
            client
        })
        .collect();
    peace.holds_during(&format!("{count} silent clients that are left"), || wait_for_open(&server, |open| open <= 1));
    before.assert_given_back(&server);
    for (number, mut client) in silent.into_iter().enumerate().skip(count - 40) {
        let mut words = String::new();
        client.read_to_string(&mut words).unwrap();
        match number % 4 {
            1 => assert!(words.is_empty() || words.starts_with("220"), "{words}"),
            3 => assert!(words.contains("421 4.4.2"), "{words}"),
            _ => assert_eq!(words, ""),
        }
    }
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn hundreds_of_clients_that_never_read_are_not_read_from_and_are_left_in_time() {
    let _turn = alone();
    let count = crowd(DEAF_CLIENTS);
    let site = Site::new();
    // Few TLS sessions: each that the honest client leaves takes a page of a large cache, and nobody knows how many it leaves.
    let server = serve(&site, &["--idle-timeout", "40", "--commands-max", "1000000", "--tls-sessions", "256"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    // Neither the system's buffers nor a receive have room for the replies to so many.
    let mut deaf: Vec<TcpStream> = (0..count).map(|number| connect_with_window(number, server.starttls)).collect();
    let commands = b"EHLO a.b\r\n".repeat(20_000);
    peace.holds_during(&format!("{count} clients that never read"), || {
        // Not all of it is taken, as nobody reads from who does not read.
        for client in &mut deaf {
            client.set_nonblocking(true).unwrap();
            while client.write(&commands).is_ok_and(|bytes| bytes == commands.len()) {}
        }
    });
    // All are waited for by now: the honest client has had its turn many times since the last of them spoke.
    before.assert_grown_by_at_most(&server, "deaf clients", count as u64 * DEAF_KIB_MAX + BESIDE_DEAF_KIB);
    wait_for_open(&server, |open| open >= count as u64);
    wait_for_open(&server, |open| open == 0);
    before.assert_given_back(&server);
    drop(deaf);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn a_client_that_reads_a_byte_at_a_time_gets_every_reply() {
    let _turn = alone();
    let site = Site::new();
    let server = serve(&site, &["--commands-max", "1000000"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    // Far more than the system's buffers have room for, so that sends take only a part.
    const HELLOS: usize = 20_000;
    let slow = connect_with_window(0, server.starttls);
    let said = [&b"EHLO a.b\r\n".repeat(HELLOS)[..], b"QUIT\r\n"].concat();
    peace.holds_during("a client that reads a byte at a time", || {
        thread::scope(|scope| {
            scope.spawn(|| (&slow).write_all(&said).unwrap());
            let mut words = vec![0; 200_000];
            words.iter_mut().for_each(|byte| (&slow).read_exact(std::slice::from_mut(byte)).unwrap());
            // By now the server waits for it; nobody need wait for the rest.
            (&slow).read_to_end(&mut words).unwrap();
            let words = String::from_utf8(words).unwrap();
            assert_eq!(words.matches("\r\n250 ").count(), HELLOS, "of {} bytes", words.len());
            assert!(words.lines().last().unwrap().starts_with("221 "));
        });
    });
    drop(slow);
    before.assert_given_back(&server);
    server.stop(&site);
}

#[test]
fn thousands_of_slow_readers_cost_little_and_hold_up_nobody() {
    let _turn = alone();
    let count = crowd(SLOW_CLIENTS);
    let site = Site::new();
    let server = serve(&site, &[]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let mut slow = all(count, server.starttls);
    // A full receive buffer of theirs, of which they take a byte now and then, and say a word each time.
    peace.holds_during(&format!("{count} clients that read a byte at a time, and ask for more"), || {
        for _ in 0..5 {
            for client in &mut slow {
                client.write_all(b"EHLO slow.example\r\nNOOP\r\n").unwrap();
                assert_eq!(client.read(&mut [0]).unwrap(), 1);
            }
        }
    });
    before.assert_grown_by_at_most(&server, "slow readers", count as u64 * CLEAR_KIB_MAX + BESIDE_KIB);
    peace.holds_beside("the same, silent now");
    let last = slow.pop().unwrap();
    (&last).write_all(b"QUIT\r\n").unwrap();
    let mut words = String::new();
    (&last).read_to_string(&mut words).unwrap();
    assert_eq!(words.matches("\r\n250 ").count(), 10, "{words}");
    assert!(words.lines().last().unwrap().starts_with("221 "), "{words}");
    drop((last, slow));
    before.assert_given_back(&server);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn who_has_said_much_lets_others_in_between_its_receives() {
    let _turn = alone();
    let site = Site::new();
    // One shard, so that there is a core on which we hear at once what it has answered.
    let server = serve(&site, &["--errors-max", "100000", "--shards", "1"]);
    // The server goes on while we are told that it has answered, and is only as slow as the system lets us be: one good turn
    // says that the others were ours.
    let fewest = (0..5).map(|_| receives_before_a_word(&server)).find(|answered| *answered <= 2 * TALKERS);
    assert!(fewest.is_some(), "too many receives were before the one who was there, five times");
    assert_sound(&server);
    server.stop(&site);
}

/// How many receives of others, who have said much, the server makes before it hears one who was there before them.
fn receives_before_a_word(server: &Server) -> usize {
    let mut inside = Client::greeted(server);
    let mut crowd: Vec<Client> = (0..TALKERS).map(|number| Client::over(connect(number, server.starttls))).collect();
    crowd.iter_mut().for_each(|client| drop(client.expect("220")));
    // A receive takes one such line, and there is one reply to it.
    let line = [&vec![b'x'; RECEIVE_BYTES - 2][..], b"\r\n"].concat();
    // While the server is asleep all of them say what the system has room for, and then the one who was there before a word.
    server.signal(libc::SIGSTOP);
    let said: usize = crowd.iter_mut().map(|client| client.say_what_there_is_room_for(&line.repeat(64))).sum();
    inside.say("NOOP");
    server.signal(libc::SIGCONT);
    inside.expect("250");
    server.signal(libc::SIGSTOP);
    let heard: usize = crowd.iter_mut().map(Client::waiting_bytes).sum();
    server.signal(libc::SIGCONT);
    let (lines, answered) = (said / line.len(), heard / b"500 5.5.2 Line too long\r\n".len());
    eprintln!("{answered} of {lines} receives were before the one who was there");
    assert!(lines > 4 * TALKERS, "the system has room for {lines} lines");
    answered
}

#[test]
fn clients_that_send_at_full_speed_do_not_keep_the_shard_for_themselves() {
    let _turn = alone();
    const MEGABYTES: usize = 64;
    let site = Site::new();
    let server = serve(&site, &["--max-message-size", "1M"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let (starttls, piece) = (server.starttls, vec![b'x'; 1 << 20]);
    let endless_line = |number: usize| {
        let mut client = connect(number, starttls);
        (0..16 * MEGABYTES).for_each(|_| client.write_all(&piece).unwrap());
        client.write_all(b"\r\nQUIT\r\n").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
    };
    let endless_message = || {
        let mut client = Client::logged_in(&server);
        client.begin_message(RECIPIENT);
        (0..MEGABYTES).for_each(|_| client.send(&piece));
        client.ask("\r\n.", "552 5.3.4");
    };
    peace.holds_during("lines and messages without end, at full speed", || {
        thread::scope(|scope| {
            scope.spawn(|| endless_line(0));
            scope.spawn(|| endless_line(1));
            scope.spawn(endless_message);
        });
    });
    before.assert_given_back(&server);
    assert_sound(&server);
    server.stop(&site);
}
