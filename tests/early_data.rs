//! Copies of a first flight with early data, and what else can happen to one: a message is stored exactly once, or, if its
//! client has gone, at most once.
//!
//! Flights are captured and let go as somebody on the way could: twice, elsewhere, at the same time, late. Storage and the
//! registry of tokens are doubles.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::{Arc, Barrier};

use data_encoding::BASE64;
use onetrip::proto::credential::{Member, Senders, Verdict};
use onetrip::proto::proof::Committed;
use onetrip::proto::server::Opening;
use onetrip::tls::Versions;
use onetrip::tls::session::EarlyOutcome;
use onetrip::wire::{Connection, Output, Step};
use rustls::ClientConfig;
use support::{Client, Driver, NOW, PASSWORD, Site, USER, client_tls};

const MESSAGE: &str = "Subject: hello\r\n\r\nHello, Bob.\r\n";

/// Everything that a client says inside TLS to have one message sent.
fn submission(parameters: &str) -> String {
    let credentials = BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes());
    format!(
        "EHLO client.example\r\nAUTH PLAIN {credentials}\r\nMAIL FROM:<ann@example.org>{parameters}\r\n\
         RCPT TO:<bob@example.org>\r\nBDAT {} LAST\r\n{MESSAGE}",
        MESSAGE.len()
    )
}

/// A client that was here once, and so has a ticket.
fn returning_client(site: &Site) -> Arc<ClientConfig> {
    let config = client_tls(Versions::Tls13);
    visit(site, &config);
    config
}

/// A connection that comes to nothing but a new ticket.
fn visit(site: &Site, config: &Arc<ClientConfig>) {
    let mut server = site.connect(Opening::ImplicitTls);
    let mut client = Client::new(Arc::clone(config));
    let mut packet = Vec::new();
    client.begin_tls(&mut packet);
    for _ in 0..3 {
        client.hear(&server.receive(&[&packet]));
        packet.clear();
        client.flush_tls(&mut packet);
    }
}

/// A client with its first flight, which holds a whole submission as early data and has not left yet.
fn first_flight(config: &Arc<ClientConfig>, parameters: &str) -> (Client, Vec<u8>) {
    let mut client = Client::new(Arc::clone(config));
    let mut flight = Vec::new();
    client.begin_tls_early();
    client.say(submission(parameters).as_bytes(), &mut flight);
    (client, flight)
}

/// Gives a first flight to a new connection of this server.
fn deliver(site: &Site, flight: &[u8]) -> (Driver, Vec<u8>) {
    let mut server = site.connect(Opening::ImplicitTls);
    let sent = server.receive(&[flight]);
    (server, sent)
}

/// Goes on with a conversation until the client has its answer. The client says all again if its early data was rejected.
fn finish(client: &mut Client, server: &mut Driver, sent: &[u8], parameters: &str) -> Vec<String> {
    let (mut replies, _) = client.hear(sent);
    let mut packet = Vec::new();
    client.flush_tls(&mut packet);
    if client.early_outcome() == EarlyOutcome::Rejected {
        client.say(submission(parameters).as_bytes(), &mut packet);
    }
    replies.extend(client.hear(&server.receive(&[&packet])).0);
    replies
}

/// An ordinary submission on a new connection. Returns how many messages it made the server store.
fn resubmit(site: &Site, config: &Arc<ClientConfig>, parameters: &str) -> usize {
    let mut server = site.connect(Opening::ImplicitTls);
    let mut client = Client::new(Arc::clone(config));
    let mut packet = Vec::new();
    client.begin_tls(&mut packet);
    client.say(submission(parameters).as_bytes(), &mut packet);
    let mut replies = Vec::new();
    for _ in 0..3 {
        replies.extend(client.hear(&server.receive(&[&packet])).0);
        packet.clear();
        client.flush_tls(&mut packet);
    }
    assert!(was_taken(&replies), "{replies:?}");
    server.stored.len()
}

fn was_taken(replies: &[String]) -> bool {
    replies.iter().any(|reply| reply.starts_with("250 2.0.0 Queued as"))
}

const WITH_AND_WITHOUT_TOKEN: [&str; 2] = [" XONCE=token", ""];

// ── Copies ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_flight_that_arrives_twice_at_one_host_is_stored_once() {
    for parameters in WITH_AND_WITHOUT_TOKEN {
        let site = Site::new();
        let (mut client, flight) = first_flight(&returning_client(&site), parameters);
        let (mut server, sent) = deliver(&site, &flight);
        let (copy, _) = deliver(&site, &flight);
        assert!(was_taken(&finish(&mut client, &mut server, &sent, parameters)));
        assert_eq!((server.stored.len(), copy.stored.len()), (1, 0), "{parameters:?}");
        assert_eq!(copy.connection.early_outcome(), EarlyOutcome::Rejected);
    }
}

#[test]
fn a_copy_that_arrives_first_takes_the_early_data_and_the_message_is_still_stored_once() {
    for parameters in WITH_AND_WITHOUT_TOKEN {
        let site = Site::new();
        let (mut client, flight) = first_flight(&returning_client(&site), parameters);
        let (copy, _) = deliver(&site, &flight);
        let (mut server, sent) = deliver(&site, &flight);
        assert!(was_taken(&finish(&mut client, &mut server, &sent, parameters)), "the client falls back");
        assert_eq!(server.stored.len() + copy.stored.len(), 1, "{parameters:?}");
    }
}

#[test]
fn a_flight_that_is_sent_to_another_host_too_is_stored_once() {
    for parameters in WITH_AND_WITHOUT_TOKEN {
        let site = Site::new();
        let elsewhere = site.another_host();
        let (mut client, flight) = first_flight(&returning_client(&site), parameters);
        let (copy, _) = deliver(&elsewhere, &flight);
        let (mut server, sent) = deliver(&site, &flight);
        assert!(was_taken(&finish(&mut client, &mut server, &sent, parameters)));
        assert_eq!((server.stored.len(), copy.stored.len()), (1, 0), "{parameters:?}");
    }
}

#[test]
fn a_client_that_lands_on_another_host_says_the_same_again_and_is_stored_once() {
    for parameters in WITH_AND_WITHOUT_TOKEN {
        let site = Site::new();
        let (mut client, flight) = first_flight(&returning_client(&site), parameters);
        let (mut server, sent) = deliver(&site.another_host(), &flight);
        assert!(was_taken(&finish(&mut client, &mut server, &sent, parameters)));
        assert_eq!(server.stored.len(), 1);
    }
}

#[test]
fn of_copies_that_arrive_on_two_shards_at_the_same_time_one_is_taken() {
    let site = Site::new();
    let config = returning_client(&site);
    for round in 0..50 {
        let (_, flight) = first_flight(&config, &format!(" XONCE=token-{round}"));
        let barrier = Barrier::new(2);
        let race = || {
            barrier.wait();
            deliver(&site, &flight).0.stored.len()
        };
        let stored: usize = std::thread::scope(|scope| {
            let shards = [scope.spawn(race), scope.spawn(race)];
            shards.into_iter().map(|shard| shard.join().unwrap()).sum()
        });
        assert_eq!(stored, 1, "round {round}");
        visit(&site, &config);
    }
}

#[test]
fn a_flight_from_before_a_restart_is_taken_for_nothing_after_it() {
    for parameters in WITH_AND_WITHOUT_TOKEN {
        let site = Site::new();
        let (mut client, flight) = first_flight(&returning_client(&site), parameters);
        let (mut server, sent) = deliver(&site, &flight);
        assert!(was_taken(&finish(&mut client, &mut server, &sent, parameters)));
        let (copy, _) = deliver(&site.restarted(), &flight);
        assert_eq!((server.stored.len(), copy.stored.len()), (1, 0), "{parameters:?}");
    }
}

#[test]
fn a_flight_that_was_withheld_until_its_client_had_sent_the_message_again_is_stored_once() {
    for parameters in WITH_AND_WITHOUT_TOKEN {
        let site = Site::new();
        let config = returning_client(&site);
        let (_, withheld) = first_flight(&config, parameters);
        assert_eq!(resubmit(&site, &config, parameters), 1);
        let (copy, sent) = deliver(&site, &withheld);
        assert_eq!(copy.connection.early_outcome(), EarlyOutcome::Accepted, "it is the first use of its ticket");
        assert!(!sent.is_empty());
        assert_eq!(copy.stored.len(), 0, "{parameters:?}");
    }
}

#[test]
fn a_flight_whose_answer_was_withheld_until_its_client_had_sent_the_message_again_is_stored_once() {
    let site = Site::new();
    let config = returning_client(&site);
    for (parameters, stored_early) in [(" XONCE=token", 1), ("", 0)] {
        let (_, flight) = first_flight(&config, parameters);
        let (server, _) = deliver(&site, &flight);
        assert_eq!(server.stored.len(), stored_early, "{parameters:?}");
        assert_eq!(server.stored.len() + resubmit(&site, &config, parameters), 1, "{parameters:?}");
    }
}

#[test]
fn a_tampered_copy_is_not_taken_and_the_message_is_stored_once() {
    let site = Site::new();
    let (mut client, flight) = first_flight(&returning_client(&site), " XONCE=token");
    let mut tampered = flight.clone();
    *tampered.last_mut().unwrap() ^= 1;
    let (copy, _) = deliver(&site, &tampered);
    assert!(copy.closed && copy.stored.is_empty());
    let (mut server, sent) = deliver(&site, &flight);
    assert!(was_taken(&finish(&mut client, &mut server, &sent, " XONCE=token")));
    assert_eq!(server.stored.len(), 1);
}

// ── What else can happen ────────────────────────────────────────────────────────────────────────────────────────────

/// What a driver that takes its time sees: it is asked to judge a credential, and lets the rest arrive meanwhile.
#[test]
fn what_arrives_while_a_login_in_early_data_is_judged_is_answered_in_order() {
    for parameters in WITH_AND_WITHOUT_TOKEN {
        let site = Site::new();
        let (mut client, first) = first_flight(&returning_client(&site), parameters);
        let mut connection = site.connect(Opening::ImplicitTls).connection;
        let mut output = Output::default();
        connection.greet(&mut output);
        connection.handle_input(NOW, &first, &mut output);
        assert!(matches!(connection.poll_step(&mut output), Step::Verify(_)));
        let (mut replies, _) = client.hear(&std::mem::take(&mut output.wire));
        let mut second = Vec::new();
        client.flush_tls(&mut second);
        client.say(b"NOOP\r\nQUIT\r\n", &mut second);
        for byte in second {
            connection.handle_input(NOW, &[byte], &mut output);
        }
        assert!(connection.is_handshaking(), "nothing is looked at until the verdict is in");
        let member = Arc::new(Member { name: USER.to_owned(), senders: Senders::Any });
        connection.handle_verdict(NOW, Verdict::Accepted(member), &mut output);
        while let Step::Store(message) = connection.poll_step(&mut output) {
            connection.handle_stored(NOW, Ok(Committed::attested_by_storage()), message, &mut output);
        }
        replies.extend(client.hear(&output.wire).0);
        let codes: Vec<&str> = replies.iter().filter(|reply| &reply[3..4] == " ").map(|reply| &reply[..3]).collect();
        assert_eq!(codes, ["220", "250", "235", "250", "250", "250", "250", "221"], "{parameters:?}: {replies:?}");
    }
}

#[test]
fn a_client_that_says_all_that_it_may_and_never_finishes_is_held_within_bounds() {
    let site = Site::new();
    let mut client = Client::new(returning_client(&site));
    let mut flight = Vec::new();
    client.begin_tls_early();
    client.say(submission("").as_bytes(), &mut flight);
    // With this its one record is nearly full: our client sends no second one, because some servers trip over it.
    client.say(&[b'x'; 16_000], &mut flight);
    let (mut server, _) = deliver(&site, &flight);
    assert!(server.connection.server().is_awaiting_finish());
    assert_eq!(server.stored.len(), 0);
    // What is not TLS ends it; nothing of what was held is carried out.
    server.receive(&[b"NOOP\r\n"]);
    assert!(server.closed && server.stored.is_empty());
}

#[test]
fn a_closing_alert_in_place_of_the_finished_drops_a_message_without_a_token() {
    let site = Site::new();
    let (mut client, flight) = first_flight(&returning_client(&site), "");
    let (mut server, _) = deliver(&site, &flight);
    let mut alert = Vec::new();
    client.close_tls(&mut alert);
    server.receive(&[&alert]);
    assert!(server.stored.is_empty());
    assert!(server.connection.peer_closed() || server.closed);
}

/// For readers of the summary: which copies a connection tells apart.
#[test]
fn the_tally_tells_messages_that_were_stored_early_from_those_that_waited() {
    for (parameters, early, waited) in [(" XONCE=token", 1, 0), ("", 0, 1)] {
        let site = Site::new();
        let (mut client, flight) = first_flight(&returning_client(&site), parameters);
        let (mut server, sent) = deliver(&site, &flight);
        finish(&mut client, &mut server, &sent, parameters);
        let tally = server.connection.server().tally();
        assert_eq!((tally.messages, tally.messages_early, tally.messages_waited), (1, early, waited));
    }
}

/// The compiler's word that connections of one server may be driven by several threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Connection>();
};
