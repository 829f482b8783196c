//! A message that bears a token is taken once: sent again it is acknowledged again, under the first id, and not stored
//! again.

use std::fs;
use std::sync::{Arc, Barrier};
use std::thread;

use crate::process::client::{Client, auth};
use crate::process::{RECIPIENT, SENDER, Server, Site};

const LETTER: &str = "Subject: once\r\n\r\nHello\r\n";

/// Submits a message under a token; the last reply must begin as given.
fn submit(client: &mut Client, token: &str, reply: &str) -> String {
    begin(client, token);
    client.ask(&format!("{LETTER}."), reply)
}

fn begin(client: &mut Client, token: &str) {
    client.ask(&format!("MAIL FROM:<{SENDER}> XONCE={token}"), "250");
    client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
    client.ask("DATA", "354");
}

/// The id in the last reply to a message.
fn id(reply: &str) -> &str {
    reply.strip_prefix("250 2.0.0 Queued as ").unwrap_or_else(|| panic!("no id: {reply}"))
}

fn stored(site: &Site) -> usize {
    site.messages(RECIPIENT).len()
}

#[test]
fn the_same_token_on_one_connection_is_stored_once_and_answered_with_the_first_id() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    let first = submit(&mut client, "t", "250");
    let again = submit(&mut client, "t", "250");
    let other = submit(&mut client, "u", "250");
    assert_eq!(id(&first), id(&again));
    assert_ne!(id(&first), id(&other));
    let event = server.event("message_repeated");
    assert_eq!((event["message"].as_str(), event["user"].as_str()), (Some(id(&first)), Some("ann")));
    client.quit();
    server.stop(&site);
    assert_eq!(stored(&site), 2);
}

#[test]
fn the_same_token_on_another_connection_is_stored_once_also_after_the_first_was_cut_off() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    begin(&mut client, "t");
    client.say(&format!("{LETTER}."));
    // The reply is not waited for: whatever has become of the message, sending it again is safe.
    client.close();
    let mut client = Client::logged_in(&server);
    submit(&mut client, "t", "250");
    client.quit();
    server.stop(&site);
    assert_eq!(stored(&site), 1);
}

#[test]
fn the_same_token_of_another_user_is_another_message() {
    let site = Site::new();
    site.add_user("bob", "another-secret-0815", &[]);
    let server = site.serve(&[]);
    let mut ann = Client::logged_in(&server);
    let mut bob = Client::over_tls(&server);
    bob.ask(&auth("bob", "another-secret-0815"), "235");
    let (first, second) = (submit(&mut ann, "t", "250"), submit(&mut bob, "t", "250"));
    assert_ne!(id(&first), id(&second));
    ann.quit();
    bob.quit();
    server.stop(&site);
    assert_eq!(stored(&site), 2);
}

#[test]
fn after_a_first_that_failed_the_same_token_is_stored() {
    let site = Site::new();
    let server = site.serve(&["--queue-max", "1", "--retry-min", "1"]);
    fs::write(site.mail(), "in the way").unwrap();
    let mut client = Client::logged_in(&server);
    submit(&mut client, "another", "250");
    submit(&mut client, "t", "452 4.3.1");
    fs::remove_file(site.mail()).unwrap();
    server.event("message_delivered");
    submit(&mut client, "t", "250");
    submit(&mut client, "t", "250");
    client.quit();
    server.stop(&site);
    assert_eq!(stored(&site), 2);
}

#[test]
fn a_message_that_was_refused_or_broken_off_leaves_its_token_free() {
    let site = Site::new();
    let server = site.serve(&["--max-message-size", "1000", "--message-memory", "100000"]);
    let mut client = Client::logged_in(&server);
    begin(&mut client, "t");
    client.ask(&format!("{}.", "too much\r\n".repeat(1_000)), "552");
    client.ask(&format!("MAIL FROM:<{SENDER}> XONCE=t"), "250");
    client.ask("RSET", "250");
    begin(&mut client, "t");
    client.close();
    let mut client = Client::logged_in(&server);
    submit(&mut client, "t", "250");
    client.quit();
    server.stop(&site);
    assert_eq!(stored(&site), 1);
}

#[test]
fn when_there_are_too_many_tokens_the_oldest_is_forgotten_and_that_is_told() {
    let site = Site::new();
    let server = site.serve(&["--once-max", "1"]);
    let mut client = Client::logged_in(&server);
    let first = submit(&mut client, "t", "250");
    submit(&mut client, "u", "250");
    let again = submit(&mut client, "t", "250");
    assert_ne!(id(&first), id(&again));
    // Told within a second or two, so that it may be one or both.
    assert!(server.event("once_tokens_forgotten")["tokens"].as_u64() >= Some(1));
    client.quit();
    server.stop(&site);
    assert_eq!(stored(&site), 3);
}

#[test]
fn a_token_is_known_after_a_restart_and_after_a_kill_whether_its_message_is_delivered_or_not() {
    for flags in [&["--deliver", "discard"][..], &["--deliver", "relay:127.0.0.1:1"], &["--sync", "none"]] {
        let site = Site::new();
        let serve = || site.serve(&[&["--shards", "2"], flags].concat());
        let server = serve();
        let mut client = Client::logged_in(&server);
        let first = submit(&mut client, "t", "250");
        client.quit();
        server.stop(&site);
        let server = serve();
        let again = submit(&mut Client::logged_in(&server), "t", "250");
        assert_eq!(id(&first), id(&again), "{flags:?}");
        let other = submit(&mut Client::logged_in(&server), "u", "250");
        // Dropped is killed.
        drop(server);
        let server = serve();
        assert_eq!(id(&other), id(&submit(&mut Client::logged_in(&server), "u", "250")), "{flags:?}");
        assert_eq!(id(&first), id(&submit(&mut Client::logged_in(&server), "t", "250")), "{flags:?}");
        server.stop(&site);
    }
}

#[test]
fn the_extension_is_announced_where_tokens_outlive_the_process_and_nowhere_else() {
    for (flags, is_announced) in
        [(["--sync", "commit"], true), (["--sync", "none"], true), (["--sync", "through"], false)]
    {
        let site = Site::new();
        let server = site.serve(&flags);
        let mut client = Client::over_tls(&server);
        let list = client.ask("EHLO client.example", "250");
        assert_eq!(list.lines().any(|line| line[4..] == *"XONCE"), is_announced, "{flags:?}: {list}");
        client.quit();
        server.stop(&site);
    }
}

/// Two clients on a server of two shards send the same token at the same moment. Which shard serves whom is the kernel's
/// choice; over the pairs of connections both cases occur.
#[test]
fn the_same_token_from_two_clients_at_once_is_stored_once_whichever_shards_serve_them() {
    const PAIRS: usize = 6;
    const ROUNDS: usize = 15;
    let site = Site::new();
    let server = Arc::new(site.serve(&["--shards", "2"]));
    for pair in 0..PAIRS {
        let start = Arc::new(Barrier::new(2));
        let race = || {
            let (server, start) = (Arc::clone(&server), Arc::clone(&start));
            thread::spawn(move || ids_of_a_race(&server, &start, pair, ROUNDS))
        };
        let (left, right) = (race(), race());
        assert_eq!(left.join().unwrap(), right.join().unwrap());
    }
    let server = Arc::into_inner(server).expect("all threads have ended");
    server.wait_for_events("message_repeated", PAIRS * ROUNDS);
    server.stop(&site);
    assert_eq!(stored(&site), PAIRS * ROUNDS);
}

fn ids_of_a_race(server: &Server, start: &Barrier, pair: usize, rounds: usize) -> Vec<String> {
    let mut client = Client::logged_in(server);
    let race = |round| {
        begin(&mut client, &format!("{pair}-{round}"));
        start.wait();
        id(&client.ask(&format!("{LETTER}."), "250")).to_owned()
    };
    let ids = (0..rounds).map(race).collect();
    client.quit();
    ids
}
