//! What operators see: one line per connection, figures, and no secret.

use std::io::Write;
use std::net::TcpStream;

use data_encoding::BASE64;

use crate::process::client::{Client, auth, qhlo_id};
use crate::process::{PASSWORD, Server, Site, USER, http_get};

#[test]
fn a_connection_in_plain_esmtp_has_one_line() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::over_starttls(&server);
    client.ask(&auth(USER, PASSWORD), "235");
    client.submit("Subject: one\r\n", "250");
    let address = client.address;
    client.quit();
    let summary = server.summary(address);
    for (field, value) in [
        ("listener", "starttls"),
        ("start", "esmtp"),
        ("qhlo", "none"),
        ("tls", "TLSv1.3"),
        ("session", "full"),
        ("user", USER),
        ("outcome", "quit"),
    ] {
        assert_eq!(summary[field], value, "{summary}");
    }
    assert_eq!((&summary["messages"], &summary["errors"]), (&1.into(), &0.into()));
    // EHLO, STARTTLS, ClientHello, EHLO with or without the end of the handshake, AUTH, MAIL, RCPT, DATA, the message, QUIT.
    assert!(matches!(summary["flights_in"].as_u64(), Some(10..=12)), "{summary}");
    assert_eq!(server.event("message_stored")["user"], USER);
    assert_eq!(server.events("connection_ended").len(), 1);
    server.stop(&site);
}

#[test]
fn the_basic_and_the_full_profile_are_told_apart() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut basic = Client::connect(server.starttls);
    let id = qhlo_id(&basic.expect("220"));
    basic.ask("QHLO client.example", "220");
    let mut full = Client::connect(server.starttls);
    full.expect("220");
    full.ask(&format!("QHLO client.example {id}"), "220");
    let mut wrong = Client::connect(server.starttls);
    wrong.expect("220");
    wrong.ask("QHLO client.example AAAAAAAAAAAAAAAA", "520");
    for (client, start, qhlo) in [(basic, "basic", "none"), (full, "full", "matched"), (wrong, "full", "mismatched")] {
        let address = client.address;
        client.quit();
        let summary = server.summary(address);
        assert_eq!((&summary["start"], &summary["qhlo"]), (&start.into(), &qhlo.into()), "{summary}");
    }
    server.stop(&site);
}

#[test]
fn an_ehlo_that_came_before_the_greeting_is_answered_in_the_same_send() {
    let site = Site::new();
    let server = site.serve(&[]);
    // While the server stands still the kernel completes the connection and takes the command.
    server.signal(libc::SIGSTOP);
    let mut client = Client::connect(server.starttls);
    client.say("EHLO client.example");
    server.signal(libc::SIGCONT);
    client.expect("220");
    client.expect("250");
    let address = client.address;
    client.quit();
    let summary = server.summary(address);
    assert_eq!((&summary["start"], &summary["flights_out"]), (&"pipeconnect".into(), &2.into()), "{summary}");
    server.stop(&site);
}

#[test]
fn no_secret_is_ever_logged() {
    let site = Site::new();
    let server = site.serve(&["--log-level", "debug"]);
    let wrong = "mistyped-0815";
    Client::logged_in(&server).quit();
    let mut client = Client::over_tls(&server);
    client.ask(&auth(USER, wrong), "535");
    client.quit();
    let mut steps = Client::over_tls(&server);
    steps.ask("AUTH LOGIN", "334");
    steps.ask(&BASE64.encode(USER.as_bytes()), "334");
    steps.ask(&BASE64.encode(PASSWORD.as_bytes()), "235");
    steps.quit();
    let mut clear = Client::greeted(&server);
    clear.ask(&auth(USER, PASSWORD), "5");
    clear.quit();
    let log = server.stop(&site);
    for password in [PASSWORD, wrong] {
        let credential = format!("\0{USER}\0{password}");
        for secret in [password, &BASE64.encode(password.as_bytes()), &BASE64.encode(credential.as_bytes())] {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}

#[test]
fn the_figures_are_those_of_what_happened() {
    let site = Site::new();
    let server = site.serve(&["--metrics", "127.0.0.1:0"]);
    let mut denied = Client::over_starttls(&server);
    denied.ask(&auth(USER, "wrong"), "535");
    let mut first = Client::logged_in(&server);
    first.submit("Subject: one\r\n", "250");
    first.submit("Subject: two\r\n", "250");
    let second = Client::logged_in(&server);
    let mut open = Client::greeted(&server);
    for client in [denied, first, second] {
        let address = client.address;
        client.quit();
        server.summary(address);
    }
    // A summary is written while its connection still counts as open; the shard's next answer comes after that.
    open.ask("NOOP", "250");
    let page = http_get(server.metrics.unwrap(), "/metrics");
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"));
    for (name, labels, value) in [
        ("onetrip_connections_accepted_total", &[][..], 4),
        ("onetrip_connections_open", &[], 1),
        ("onetrip_connections_ended_total", &["outcome=\"quit\""], 3),
        ("onetrip_tls_handshakes_total", &["version=\"TLSv1.3\"", "session=\"full\""], 3),
        ("onetrip_auths_total", &["result=\"accepted\""], 1),
        ("onetrip_auths_total", &["result=\"remembered\""], 1),
        ("onetrip_auths_total", &["result=\"denied\""], 1),
        ("onetrip_messages_stored_total", &[], 2),
        ("onetrip_recipients_total", &[], 2),
        ("onetrip_commit_seconds_count", &[], 2),
    ] {
        assert_eq!(figure(body, name, labels), Some(value), "{name} {labels:?}\n{body}");
    }
    open.quit();
    server.stop(&site);
}

/// The value of a figure with these labels, whatever other labels it has.
fn figure(page: &str, name: &str, labels: &[&str]) -> Option<u64> {
    let line = page.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label)))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn other_pages_and_slow_requests_do_no_harm() {
    let site = Site::new();
    let server: Server = site.serve(&["--metrics", "127.0.0.1:0"]);
    let metrics = server.metrics.unwrap();
    assert!(http_get(metrics, "/secrets").starts_with("HTTP/1.1 404 "));
    let mut half = TcpStream::connect(metrics).unwrap();
    half.write_all(b"GET /met").unwrap();
    drop(half);
    assert!(http_get(metrics, "/health").starts_with("HTTP/1.1 200 "));
    server.stop(&site);
}
