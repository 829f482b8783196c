//! Messages handed through to another onetrip while their clients wait (`--sync through`): what its answer is, the client
//! hears, and nothing is kept in between.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::process::client::Client;
use crate::process::{PASSWORD, RECIPIENT, SENDER, Server, Site, USER, files, without_trace};

const LETTER: &str = "Subject: through\r\n\r\nHello\r\n";

/// A server that hands everything through to another one.
struct Pair {
    back_site: Site,
    back: Server,
    front_site: Site,
}

impl Pair {
    fn new(back_flags: &[&str]) -> Self {
        let back_site = Site::new();
        let back = back_site.serve(back_flags);
        Self { back_site, back, front_site: Site::new() }
    }

    fn front(&self, flags: &[&str]) -> Server {
        self.front_at(&format!("relay:localhost:{}", self.back.starttls.port()), PASSWORD, flags)
    }

    fn front_at(&self, destination: &str, password: &str, flags: &[&str]) -> Server {
        let ca = text(self.back_site.certificate());
        let (_, hop) = destination.split_once(':').unwrap();
        let logins = text(self.front_site.write("logins", format!("{hop} {USER} {password}\n")));
        let mut all = vec!["--deliver", destination, "--sync", "through", "--relay-ca", &ca, "--relay-auth", &logins];
        all.extend(flags);
        self.front_site.serve(&all)
    }

    /// Nothing of a message lies in the front server's directory.
    fn assert_front_keeps_nothing(&self) {
        assert_eq!(files(&self.front_site.mail()), Vec::<PathBuf>::new());
    }
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

fn endings(server: &Server, count: usize) -> Vec<Value> {
    server.wait_for_events("connection_ended", count);
    server.events("connection_ended")
}

#[test]
fn a_message_is_acknowledged_when_the_other_server_has_it_and_the_connection_serves_the_next() {
    let pair = Pair::new(&[]);
    for destination in
        [format!("relay:localhost:{}", pair.back.starttls.port()), format!("relays:127.0.0.1:{}", pair.back.tls.port())]
    {
        let front = pair.front_at(&destination, PASSWORD, &[]);
        let mut client = Client::logged_in(&front);
        client.submit(LETTER, "250 2.0.0 Queued as ");
        let stored = pair.back_site.arrived(RECIPIENT, 1);
        assert_eq!(stored.len(), 1);
        let (_, below) = without_trace(&stored[0]);
        let below = String::from_utf8(below).unwrap();
        assert!(below.starts_with("Received: from client.example "), "the trace of the first server: {below}");
        assert!(below.contains(LETTER), "{below}");
        client.submit(LETTER, "250");
        client.quit();
        front.stop(&pair.front_site);
        pair.assert_front_keeps_nothing();
        assert_eq!(pair.back_site.arrived(RECIPIENT, 2).len(), 2);
        fs::remove_dir_all(pair.back_site.mail()).unwrap();
    }
    let endings = endings(&pair.back, 2);
    assert!(endings.iter().all(|ending| ending["messages"] == 2), "one connection for both: {endings:?}");
}

#[test]
fn the_second_connection_to_another_onetrip_speaks_early_and_resumes_tls() {
    let pair = Pair::new(&[]);
    // No connection waits for the next message.
    let front = pair.front(&["--relay-idle", "0"]);
    let mut client = Client::logged_in(&front);
    for number in 1..=3 {
        client.submit(LETTER, "250");
        pair.back.wait_for_events("connection_ended", number);
    }
    let endings = endings(&pair.back, 3);
    assert_eq!((&endings[0]["start"], &endings[0]["session"]), (&"basic".into(), &"full".into()));
    for ending in &endings[1..] {
        assert_eq!((&ending["start"], &ending["session"]), (&"full".into(), &"resumed".into()), "{ending}");
        assert_eq!(ending["early_data"], "accepted", "{ending}");
    }
    client.quit();
    front.stop(&pair.front_site);
    assert_eq!(pair.back_site.arrived(RECIPIENT, 3).len(), 3);
}

#[test]
fn a_refusal_is_passed_on_as_it_is_and_nothing_is_sent_to_anybody() {
    let pair = Pair::new(&["--enforce-sender", "on"]);
    pair.back_site.add_user(USER, PASSWORD, &["other@example.org"]);
    let front = pair.front(&[]);
    let mut client = Client::logged_in(&front);
    let reply = client.submit(LETTER, "55");
    assert!(reply.contains(" 5.7.1 This sender address is not yours to use"), "{reply}");
    let refused = front.event("message_refused");
    assert!(refused["reason"].as_str().unwrap().contains("not yours"), "{refused}");
    client.ask("MAIL FROM:<other@example.org>", "250");
    client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
    client.ask("DATA", "354");
    client.ask(&format!("{LETTER}."), "250");
    client.quit();
    front.stop(&pair.front_site);
    assert_eq!(pair.back_site.arrived(RECIPIENT, 1).len(), 1);
}

#[test]
fn one_recipient_too_many_for_the_other_server_and_nobody_gets_the_message() {
    let pair = Pair::new(&["--recipients-max", "1"]);
    let front = pair.front(&[]);
    let mut client = Client::logged_in(&front);
    client.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
    client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
    client.ask("RCPT TO:<joe@example.org>", "250");
    client.ask("DATA", "354");
    client.ask(&format!("{LETTER}."), "452 4.5.3 ");
    client.submit(LETTER, "250");
    client.quit();
    front.stop(&pair.front_site);
    assert_eq!(pair.back_site.arrived(RECIPIENT, 1).len(), 1);
    assert_eq!(pair.back_site.messages("joe@example.org").len(), 0);
}

#[test]
fn while_the_other_server_is_away_mail_is_put_off_and_when_it_is_back_all_is_well() {
    let pair = Pair::new(&[]);
    let address = pair.back.starttls.to_string();
    let front = pair.front(&[]);
    let mut client = Client::logged_in(&front);
    client.submit(LETTER, "250");
    let Pair { back_site, back, front_site } = pair;
    back.stop(&back_site);
    client.submit(LETTER, "451 4.4.1 The next server does not take messages now; try again later");
    let fault = front.event("delivery_fault");
    let reason = fault["reason"].as_str().unwrap();
    assert!(reason.starts_with("relay:localhost:") && reason.contains(" cannot be reached: "), "{reason}");
    let back = back_site.serve(&["--listen", &address]);
    client.submit(LETTER, "250");
    client.quit();
    front.stop(&front_site);
    back.stop(&back_site);
    assert_eq!(back_site.arrived(RECIPIENT, 2).len(), 2);
}

#[test]
fn a_wrong_password_for_the_other_server_is_told_to_the_operator_and_not_to_the_client() {
    let pair = Pair::new(&[]);
    let front = pair.front_at(&format!("relay:localhost:{}", pair.back.starttls.port()), "wrong", &[]);
    let mut client = Client::logged_in(&front);
    client.submit(LETTER, "451 4.4.1 The next server does not take messages now; try again later");
    let fault = front.event("delivery_fault");
    assert!(fault["reason"].as_str().unwrap().starts_with("535 5.7.8 "), "{fault}");
    client.quit();
    front.stop(&pair.front_site);
}

#[test]
fn a_server_whose_certificate_is_not_trusted_gets_no_message() {
    let pair = Pair::new(&[]);
    let stranger = Site::new();
    let server = stranger.serve(&[]);
    let destination = format!("relay:localhost:{}", server.starttls.port());
    let front = pair.front_at(&destination, PASSWORD, &[]);
    let mut client = Client::logged_in(&front);
    client.submit(LETTER, "451 4.4.1 ");
    assert!(front.event("delivery_fault")["reason"].as_str().unwrap().starts_with("TLS failed: "));
    client.quit();
    front.stop(&pair.front_site);
    assert_eq!(stranger.messages(RECIPIENT).len(), 0);
}

#[test]
fn what_cannot_work_is_refused_before_the_start() {
    let site = Site::new();
    let logins = text(site.write("logins", "localhost:25 ann\n"));
    let missing = text(site.path("missing"));
    let through = ["--deliver", "relay:localhost:25", "--sync", "through"];
    let refused = |flags: &[&str]| site.serve_refused(&[&through[..], flags].concat());
    let (code, line) = refused(&["--relay-auth", &logins]);
    assert_eq!(code, 65, "{line}");
    assert!(line.contains("logins: line 1: a user and a password are expected: "), "{line}");
    assert_eq!(refused(&["--relay-auth", &missing]).0, 66);
    let good = text(site.write("good", "* ann secret\n"));
    let (code, line) = refused(&["--relay-auth", &good, "--relay-tls", "opportunistic"]);
    assert_eq!(code, 78, "{line}");
    assert!(
        line.contains("--relay-auth has a password for relay:localhost:25, where no certificate is verified"),
        "{line}"
    );
    assert!(!line.contains("secret"), "{line}");
    assert_eq!(refused(&["--relay-ca", &missing]).0, 65);
}
