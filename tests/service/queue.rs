//! The queue of the real server: what is acknowledged arrives, once, whatever happens to the server; and senders hear of what
//! does not.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use crate::process::client::Client;
use crate::process::{HOSTNAME, PASSWORD, RECIPIENT, SENDER, Server, Site, USER, http_get};

const LETTER: &str = "Subject: hello\r\n\r\nHello\r\n";

/// So that nobody waits for long.
const SOON: [&str; 4] = ["--retry-min", "1", "--retry-max", "1"];

/// Ends it as a crash would.
fn kill(mut server: Server) {
    server.signal(libc::SIGKILL);
    server.ended();
}

fn send(client: &mut Client, mail: &str, recipient: &str, reply: &str) {
    client.ask(mail, "250");
    client.ask(&format!("RCPT TO:{recipient}"), "250");
    client.ask("DATA", "354");
    client.ask(&format!("{LETTER}."), reply);
}

/// The one report that has come for the sender.
fn report(site: &Site) -> String {
    let reports = site.arrived(SENDER, 1);
    assert_eq!(reports.len(), 1);
    let report = String::from_utf8(reports.into_iter().next().unwrap()).unwrap();
    assert!(report.starts_with("Return-Path: <>\r\n"), "{report}");
    report
}

#[test]
fn what_is_queued_when_the_server_stops_is_delivered_by_the_next_one() {
    let site = Site::new();
    let server = site.serve(&[]);
    fs::write(site.mail(), "in the way").unwrap();
    let mut client = Client::logged_in(&server);
    for _ in 0..3 {
        client.submit(LETTER, "250");
    }
    client.quit();
    server.wait_for_events("message_deferred", 3);
    server.signal(libc::SIGTERM);
    let mut server = server;
    assert_eq!(server.ended().code(), Some(0));
    fs::remove_file(site.mail()).unwrap();
    // What was put off waits for its time; it is brought forward by a wait that is shorter.
    let server = site.serve(&SOON);
    assert_eq!(site.arrived(RECIPIENT, 3).len(), 3);
    server.stop(&site);
}

#[test]
fn what_was_acknowledged_before_a_crash_is_delivered_once() {
    let site = Site::new();
    fs::write(site.mail(), "in the way").unwrap();
    let server = site.serve(&SOON);
    let mut client = Client::logged_in(&server);
    for _ in 0..5 {
        client.submit(LETTER, "250");
    }
    kill(server);
    drop(client);
    fs::remove_file(site.mail()).unwrap();
    let server = site.serve(&SOON);
    site.arrived(RECIPIENT, 5);
    kill(server);
    // Whatever was not noted as done is tried again, and finds itself.
    let server = site.serve(&SOON);
    let mut client = Client::logged_in(&server);
    client.submit(LETTER, "250");
    client.quit();
    assert_eq!(site.arrived(RECIPIENT, 6).len(), 6);
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 6);
}

#[test]
fn a_message_that_a_reader_has_moved_is_not_delivered_again_after_a_crash() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    for count in 1..=20 {
        client.submit(LETTER, "250");
        if count % 5 == 0 {
            site.arrived(RECIPIENT, 1);
        }
    }
    site.arrived(RECIPIENT, 20);
    kill(server);
    drop(client);
    let mailbox = site.mail().join(RECIPIENT);
    for path in crate::process::files(&mailbox.join("new")) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        fs::rename(&path, mailbox.join("cur").join(format!("{name}:2,S"))).unwrap();
    }
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    client.submit(LETTER, "250");
    client.quit();
    site.arrived(RECIPIENT, 1);
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 1, "only the new one");
}

#[test]
fn new_mail_is_put_off_while_the_queue_is_full() {
    let site = Site::new();
    let flags = ["--queue-max", "2"];
    let server = site.serve(&[&flags[..], &SOON].concat());
    fs::write(site.mail(), "in the way").unwrap();
    let mut client = Client::logged_in(&server);
    client.submit(LETTER, "250");
    client.submit(LETTER, "250");
    client.submit(LETTER, "452 4.3.1");
    fs::remove_file(site.mail()).unwrap();
    assert_eq!(site.arrived(RECIPIENT, 2).len(), 2);
    server.wait_for_events("message_delivered", 2);
    client.submit(LETTER, "250");
    client.quit();
    site.arrived(RECIPIENT, 3);
    server.stop(&site);
}

#[test]
fn a_sender_gets_back_what_waited_for_too_long() {
    let site = Site::new();
    fs::create_dir_all(site.mail()).unwrap();
    fs::write(site.mail().join(RECIPIENT), "in the way").unwrap();
    let server = site.serve(&[&["--queue-lifetime", "2"], &SOON[..]].concat());
    let mut client = Client::logged_in(&server);
    send(&mut client, &format!("MAIL FROM:<{SENDER}> RET=FULL ENVID=e1"), &format!("<{RECIPIENT}>"), "250");
    client.quit();
    let report = report(&site);
    for words in ["Action: failed", "Status: 4.4.7", "Original-Envelope-Id: e1", "Subject: hello", RECIPIENT, HOSTNAME]
    {
        assert!(report.contains(words), "{words} in {report}");
    }
    assert_eq!(server.event("message_expired")["recipient"], RECIPIENT);
    assert_eq!(server.event("report_queued")["action"], "failed");
    server.stop(&site);
    assert_eq!(site.messages(SENDER).len(), 1);
}

#[test]
fn nobody_gets_a_report_of_a_message_from_nobody_or_one_that_never_asked() {
    let site = Site::new();
    fs::create_dir_all(site.mail()).unwrap();
    fs::write(site.mail().join(RECIPIENT), "in the way").unwrap();
    let server = site.serve(&[&["--queue-lifetime", "2"], &SOON[..]].concat());
    let mut client = Client::logged_in(&server);
    send(&mut client, "MAIL FROM:<>", &format!("<{RECIPIENT}>"), "250");
    send(&mut client, &format!("MAIL FROM:<{SENDER}>"), &format!("<{RECIPIENT}> NOTIFY=NEVER"), "250");
    client.quit();
    server.wait_for_events("message_expired", 2);
    assert_eq!(server.events("report_queued").len(), 0);
    server.stop(&site);
    assert!(site.messages(SENDER).is_empty());
}

#[test]
fn a_sender_who_asks_is_told_of_delivery() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    send(&mut client, &format!("MAIL FROM:<{SENDER}>"), &format!("<{RECIPIENT}> NOTIFY=SUCCESS"), "250");
    client.quit();
    let report = report(&site);
    assert!(report.contains("Action: delivered\r\nStatus: 2.1.5\r\n"), "{report}");
    assert_eq!(site.arrived(RECIPIENT, 1).len(), 1);
    server.stop(&site);
}

#[test]
fn mail_goes_on_to_another_server_by_its_route_and_what_is_refused_there_comes_back() {
    let (front_site, back_site) = (Site::new(), Site::new());
    let back = back_site.serve(&["--max-message-size", "2000"]);
    let relay = format!("relay:localhost:{}", back.starttls.port());
    let logins = front_site.write("logins", format!("* {USER} {PASSWORD}\n"));
    fs::set_permissions(&logins, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let certificate = back_site.certificate();
    let route = format!("example.com={relay}");
    let flags = [
        "--route",
        &route,
        "--relay-auth",
        logins.to_str().unwrap(),
        "--relay-ca",
        certificate.to_str().unwrap(),
        "--metrics",
        "127.0.0.1:0",
    ];
    let front = front_site.serve(&[&flags[..], &SOON].concat());
    let mut client = Client::logged_in(&front);
    send(&mut client, &format!("MAIL FROM:<{SENDER}>"), "<joe@example.com>", "250");
    assert_eq!(back_site.arrived("joe@example.com", 1).len(), 1);
    client.begin_message("joe@example.com");
    client.ask(&format!("Subject: large\r\n\r\n{}\r\n.", "x".repeat(900).repeat(3)), "250");
    client.quit();
    let report = report(&front_site);
    assert!(report.contains("Action: failed\r\nStatus: 5.3.4\r\n"), "{report}");
    assert_eq!(front.event("message_failed")["destination"].as_str().unwrap(), relay);
    let metrics = http_get(front.metrics.unwrap(), "/metrics");
    let attempts = |destination: &str, result: &str| {
        format!("onetrip_attempts_total{{shard=\"0\",destination=\"{destination}\",result=\"{result}\"}} 1")
    };
    assert!(metrics.contains(&attempts(&relay, "delivered")), "{metrics}");
    assert!(metrics.contains(&attempts(&relay, "failed")), "{metrics}");
    front.stop(&front_site);
    back.stop(&back_site);
}

#[test]
fn mail_waits_for_a_server_that_is_away_and_flows_when_it_is_there() {
    let (front_site, back_site) = (Site::new(), Site::new());
    let back = back_site.serve(&[]);
    let port = back.starttls.port();
    back.stop(&back_site);
    let logins = front_site.write("logins", format!("* {USER} {PASSWORD}\n"));
    fs::set_permissions(&logins, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let certificate = back_site.certificate();
    let relay = format!("relay:localhost:{port}");
    let flags =
        ["--deliver", &relay, "--relay-auth", logins.to_str().unwrap(), "--relay-ca", certificate.to_str().unwrap()];
    let front = front_site.serve(&[&flags[..], &SOON].concat());
    let mut client = Client::logged_in(&front);
    for _ in 0..10 {
        client.submit(LETTER, "250");
    }
    client.quit();
    assert_eq!(front.event("destination_down")["destination"].as_str().unwrap(), relay);
    let back = back_site.serve(&["--listen", &format!("127.0.0.1:{port}")]);
    assert_eq!(back_site.arrived(RECIPIENT, 10).len(), 10);
    front.event("destination_up");
    front.stop(&front_site);
    back.stop(&back_site);
    assert_eq!(back_site.messages(RECIPIENT).len(), 10);
}

/// Takes a message whole as the next hop would, says this, and closes. What it was told with MAIL.
fn take_message(hop: &TcpListener, answers: &str) -> String {
    let (mut socket, _) = hop.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(socket.try_clone().unwrap());
    socket.write_all(b"220 hop\r\n").unwrap();
    let mut mail = String::new();
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it says more");
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["EHLO", ..] => {
                socket.write_all(b"250-hop\r\n250-PIPELINING\r\n250-XONCE\r\n250 CHUNKING\r\n").unwrap();
            }
            ["BDAT", bytes, ..] => {
                lines.read_exact(&mut vec![0; bytes.parse().unwrap()]).unwrap();
                socket.write_all(answers.as_bytes()).unwrap();
                return mail;
            }
            ["MAIL", ..] => mail.clone_from(&line),
            _ => {}
        }
    }
}

#[test]
fn a_lost_answer_is_asked_for_later_under_the_same_token_though_somebody_was_refused_meanwhile() {
    let site = Site::new();
    let hop = TcpListener::bind("127.0.0.1:0").unwrap();
    let route = format!("hop.example=relay:{}", hop.local_addr().unwrap());
    let server = site.serve(&[&SOON[..], &["--route", &route, "--relay-tls", "off"]].concat());
    let mut client = Client::logged_in(&server);
    client.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
    for recipient in ["ann@hop.example", "nobody@hop.example"] {
        client.ask(&format!("RCPT TO:<{recipient}>"), "250");
    }
    client.ask("DATA", "354");
    client.ask(&format!("{LETTER}."), "250");
    client.quit();
    let first = take_message(&hop, "250 sender\r\n250 recipient\r\n550 5.1.1 nobody\r\n");
    // It is asked again at once, and does not answer.
    drop(hop.accept().unwrap());
    assert!(report(&site).contains("nobody@hop.example"));
    let later = take_message(&hop, "250 sender\r\n250 recipient\r\n250 taken\r\n");
    assert!(first.contains(" XONCE="), "{first}");
    assert_eq!(first, later);
    server.wait_for_events("message_delivered", 2);
    server.stop(&site);
}

/// A hop to which nothing comes ends the test.
const PATIENCE: Duration = Duration::from_secs(30);
