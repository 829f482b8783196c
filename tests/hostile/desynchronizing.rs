//! Clients that try to make the server believe in a state that is not theirs.

use crate::process::client::Client;
use crate::process::{RECIPIENT, SENDER, Site};
use crate::world::{Holdings, assert_sound, serve};

const MAIL: &str = "MAIL FROM:<ann@example.org>";
const RCPT: &str = "RCPT TO:<bob@example.org>";

#[test]
fn recipients_do_not_outlive_a_refused_chunk() {
    let site = Site::new();
    let server = site.serve(&["--max-message-size", "1000"]);
    let mut client = Client::logged_in(&server);
    for refused in [format!("BDAT 1001 LAST\r\n{}", "x".repeat(1_001)), format!("BDAT 2000\r\n{}", "y".repeat(2_000))] {
        client.ask(MAIL, "250");
        client.ask(RCPT, "250");
        client.send(&refused);
        client.expect("552");
        // Nothing is left that a chunk, a recipient or DATA could hang on to.
        client.send("BDAT 14 LAST\r\nSubject: no\r\n\n");
        client.expect("503");
        client.ask("DATA", "503");
        client.ask(RCPT, "503");
    }
    client.submit("Subject: yes\r\n", "250");
    client.quit();
    site.arrived(RECIPIENT, 1);
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 1);
}

#[test]
fn a_second_message_needs_its_own_mail_and_recipients() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    for last in ["DATA", "BDAT"] {
        if last == "DATA" {
            client.submit("Subject: first\r\n", "250");
        } else {
            client.send(format!("{MAIL}\r\n{RCPT}\r\nBDAT 2 LAST\r\n\r\n"));
            (0..3).for_each(|_| drop(client.expect("250")));
        }
        client.ask("DATA", "503");
        client.send("BDAT 2 LAST\r\n\r\n");
        client.expect("503");
        client.ask("RCPT TO:<victim@example.org>", "503");
    }
    // In one flight, as a connection that rests in between gives back all that it has of the first one.
    client.send(format!("{MAIL}\r\n{RCPT}\r\nBDAT 2 LAST\r\n\r\n{MAIL}\r\nDATA\r\n"));
    for code in ["250", "250", "250 2.0.0 Queued", "250", "554 5.5.1"] {
        client.expect(code);
    }
    client.quit();
    site.arrived(RECIPIENT, 3);
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 3);
    assert!(site.messages("victim@example.org").is_empty());
}

#[test]
fn a_refused_sender_leaves_no_transaction_behind() {
    let site = Site::new();
    site.add_user("dora", "guess-who-0815", &["dora@example.org"]);
    let server = site.serve(&["--enforce-sender", "on"]);
    let mut client = Client::over_tls(&server);
    client.ask(&crate::process::client::auth("dora", "guess-who-0815"), "235");
    client.send(format!("MAIL FROM:<{SENDER}>\r\n{RCPT}\r\nDATA\r\nBDAT 2 LAST\r\n\r\n"));
    client.expect("55");
    for _ in 0..3 {
        client.expect("503");
    }
    client.quit();
    server.stop(&site);
    assert!(site.messages(RECIPIENT).is_empty());
}

#[test]
fn a_login_does_not_outlive_the_connection_and_none_is_taken_twice() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    client.ask(&crate::process::client::auth("ann", "another"), "503");
    client.ask("STARTTLS", "50");
    client.ask("QTLS", "50");
    client.quit();
    let mut client = Client::over_tls(&server);
    client.ask(MAIL, "530");
    client.quit();
    server.stop(&site);
}

#[test]
fn chunks_of_one_byte_and_of_none_cost_no_more_memory_than_the_message_they_make() {
    const CHUNKS: usize = 50_000;
    let site = Site::new();
    let server = serve(&site, &["--commands-max", "1000000000"]);
    let mut client = Client::logged_in(&server);
    let before = Holdings::of(&server);
    client.ask(MAIL, "250");
    client.ask(RCPT, "250");
    for round in 0..CHUNKS / 100 {
        let chunk = if round % 2 == 0 { "BDAT 1\r\nx" } else { "BDAT 0\r\n" };
        client.send(chunk.repeat(100));
        (0..100).for_each(|_| drop(client.expect("250")));
    }
    before.assert_grown_by_at_most(&server, "50,000 chunks of a byte or none", 4 << 10);
    client.send("BDAT 0 LAST\r\n");
    client.expect("250");
    client.quit();
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn chunks_without_end_meet_the_bound_on_commands_or_on_size() {
    let site = Site::new();
    let server = site.serve(&["--max-message-size", "1000"]);
    let mut client = Client::logged_in(&server);
    client.ask(MAIL, "250");
    client.ask(RCPT, "250");
    let reply = (0..).find_map(|_| {
        client.send("BDAT 1\r\nx");
        Some(client.reply()).filter(|reply| !reply.starts_with("250"))
    });
    assert!(reply.as_ref().unwrap().starts_with("552"), "{reply:?}");
    client.ask(MAIL, "250");
    client.ask(RCPT, "250");
    let reply = (0..10_000).find_map(|_| {
        client.send("BDAT 0\r\n");
        Some(client.reply()).filter(|reply| !reply.starts_with("250"))
    });
    assert!(reply.as_ref().is_some_and(|reply| reply.starts_with("421")), "{reply:?}");
    client.expect_end();
    server.stop(&site);
    assert!(site.messages(RECIPIENT).is_empty());
}
