//! Guessers of passwords, and clients that speak before they are spoken to.

use std::io::{Read, Write};
use std::thread;

use crate::process::client::{Client, auth};
use crate::process::{Site, USER};
use crate::world::{Holdings, Peace, alone, assert_sound, connect, figure, serve};

/// A client inside TLS from an address of its own.
fn guesser(number: usize, server: std::net::SocketAddr) -> Client {
    let mut client = Client::over(connect(number, server));
    client.secure();
    client.expect("220");
    client.ask("EHLO guesser.example", "250");
    client
}

#[test]
fn guessers_are_cut_off_and_then_put_off_unjudged_and_the_owner_still_gets_in() {
    let _turn = alone();
    let site = Site::new();
    let server = serve(&site, &["--auth-failures-max", "12"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let tls = server.tls;
    // Her name and others, from many addresses at once: each connection has three attempts.
    peace.holds_during("guesses from 40 addresses", || {
        thread::scope(|scope| {
            for first in 0..4 {
                scope.spawn(move || {
                    for number in (first..40).step_by(4) {
                        let mut client = guesser(number, tls);
                        let user = if number % 2 == 0 { USER.to_owned() } else { format!("user{number}") };
                        for attempt in 0..3 {
                            let reply = client.ask(&auth(&user, &format!("guess {attempt}")), "");
                            assert!(reply.starts_with("535 5.7.8") || reply.starts_with("454 4.7.0"), "{reply}");
                            if reply.starts_with("454") {
                                return;
                            }
                        }
                        client.expect("421");
                        client.expect_end();
                    }
                });
            }
        });
    });
    // Whoever tries her name from elsewhere is put off now, without a hash.
    let hashed = server.events("auth_failed").len();
    let mut client = guesser(77, tls);
    for _ in 0..3 {
        client.ask(&auth(USER, "yet another guess"), "454 4.7.0");
    }
    assert_eq!(server.events("auth_failed").len(), hashed, "no guess is judged any more");
    drop(client);
    // She is remembered and gets in; her password is not in the log, and neither are the guesses.
    assert_sound(&server);
    before.assert_given_back(&server);
    let log = server.stop(&site);
    assert!(!log.contains("guess 1") && !log.contains("yet another guess"));
}

#[test]
fn a_guesser_on_one_connection_has_three_attempts_however_they_are_sent() {
    let site = Site::new();
    let server = site.serve(&[]);
    let guess = auth(USER, "wrong");
    let mut pipelined = guesser(1, server.tls);
    pipelined.send(format!("{guess}\r\n").repeat(50));
    let mut mixed = guesser(2, server.tls);
    mixed.send(format!("{guess}\r\nRSET\r\nEHLO guesser.example\r\nNOOP\r\n").repeat(50));
    for client in [&mut pipelined, &mut mixed] {
        let replies: Vec<String> =
            std::iter::repeat_with(|| client.reply()).take_while(|reply| !reply.starts_with("421")).collect();
        assert_eq!(replies.iter().filter(|reply| reply.starts_with("535")).count(), 3, "{replies:?}");
        client.expect_end();
    }
    server.stop(&site);
}

#[test]
fn early_talkers_without_an_id_are_refused_and_hold_up_nobody() {
    let _turn = alone();
    const TALKERS: usize = 500;
    let site = Site::new();
    // Longer than any of the talkers is willing to wait.
    let server = serve(&site, &["--greet-pause", "60000"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    peace.holds_during(&format!("{TALKERS} early talkers"), || {
        let words = [
            "EHLO robot.example\r\n",
            "HELO robot\r\n",
            "MAIL FROM:<a@b>\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}\0\u{5}hello",
        ];
        let mut talkers = Vec::new();
        for number in 0..TALKERS {
            let mut client = connect(number, server.starttls);
            client.write_all(words[number % words.len()].as_bytes()).unwrap();
            talkers.push((number, client));
        }
        for (number, mut client) in talkers {
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            assert!(heard.starts_with("5") && !heard.contains("220 "), "{}: {heard}", words[number % words.len()]);
        }
    });
    assert_eq!(figure(&server, "onetrip_sessions_panicked_total"), 0);
    before.assert_given_back(&server);
    assert_sound(&server);
    server.stop(&site);
}
