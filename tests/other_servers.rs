//! Other people's servers: `onetrip submit` sends through Postfix, Exim and OpenSMTPD, Postfix and Exim send through
//! `onetrip serve`, and `onetrip serve` passes messages on to Postfix and Dovecot.
//!
//! The servers are never installed. `tests/other_servers/fetch` puts Debian's packages into `target/other-servers`, or into
//! the folder that `ONETRIP_OTHER_SERVERS` names, and each test runs its server from there in namespaces of its own, for
//! which it must be root. Without the folder or the right the tests say so and pass; with
//! `ONETRIP_REQUIRE_OTHER_SERVERS=1` they fail.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "the parts of a test binary are not a library")]
#![allow(clippy::print_stderr, reason = "a test says why it proves nothing, and shows the logs of what failed")]

mod process;

/// The other servers, and the world in which they run.
mod other_servers {
    pub mod dovecot;
    pub mod dovecot_auth;
    pub mod exim;
    pub mod opensmtpd;
    pub mod postfix;
    pub mod world;
}

use std::fs;
use std::net::TcpStream;
use std::process::Output;

use other_servers::world::{OtherServer, Relay, World, skip};
use other_servers::{dovecot, exim, opensmtpd, postfix};
use process::{HOSTNAME, PASSWORD, RECIPIENT, SENDER, Server, Site, USER, onetrip, run_with_input};

use serde_json::Value;

#[test]
fn postfix_takes_messages_over_starttls_and_over_implicit_tls() {
    let Some(world) = World::new("postfix") else { return };
    takes_messages(&postfix::start(world, None), Expected { starttls: [8, 8], implicit_tls: [6, 6] });
}

#[test]
fn exim_takes_messages_over_starttls_and_over_implicit_tls_and_early() {
    let Some(world) = World::new("exim") else { return };
    takes_messages(&exim::start(world, None), Expected { starttls: [8, 5], implicit_tls: [6, 4] });
}

#[test]
fn opensmtpd_takes_messages_over_starttls_and_over_implicit_tls() {
    let Some(world) = World::new("opensmtpd") else { return };
    let server = opensmtpd::start(world);
    let output = submit(&server, Transport::StartTls, "wrong", &messages()[0]);
    if String::from_utf8_lossy(&output.stderr).contains("TLS failed") {
        // Debian 12's: then nobody can talk TLS to it, and any other cause is a failure.
        server.wait_for_output("missing private key");
        return skip("opensmtpd", "this release of it loses its key to OpenSSL 3, and fetch got no later one");
    }
    // It has neither PIPELINING nor CHUNKING: a round trip for each command, and nothing to gain by what is remembered.
    takes_messages(&server, Expected { starttls: [11, 11], implicit_tls: [9, 9] });
}

#[test]
fn exim_sends_through_onetrip_and_early_from_the_second_message_on() {
    for transport in [Transport::StartTls, Transport::ImplicitTls] {
        let Some(world) = World::new("exim") else { return };
        let endings = relays(world, transport, exim::start);
        // The first connection fills what Exim remembers of the server: its list of extensions and a TLS session.
        assert_eq!((&endings[0]["start"], &endings[0]["session"]), (&"esmtp".into(), &"full".into()), "{transport:?}");
        for ending in &endings[1..] {
            assert_eq!(ending["start"], "pipeconnect", "{transport:?}: {ending}");
            // Exim 4.96 resumes no session where TLS comes first.
            assert!(transport == Transport::ImplicitTls || ending["session"] == "resumed", "{ending}");
        }
    }
}

#[test]
fn postfix_sends_through_onetrip() {
    for transport in [Transport::StartTls, Transport::ImplicitTls] {
        let Some(world) = World::new("postfix") else { return };
        let endings = relays(world, transport, postfix::start);
        assert!(endings.iter().all(|ending| ending["start"] == "esmtp"), "{transport:?}: {endings:?}");
    }
}

#[test]
fn the_load_generator_measures_postfix_and_exim_and_says_what_they_do_not_offer() {
    for (name, start, left_out) in [
        ("postfix", postfix::start as fn(World, Option<Relay>) -> OtherServer, ["full", "pipeconnect"].as_slice()),
        ("exim", exim::start, ["full"].as_slice()),
    ] {
        let Some(world) = World::new(name) else { return };
        let server = start(world, None);
        let Some(output) = measure(&server) else { return };
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {said}");
        for scenario in left_out {
            let word = said.lines().find(|line| line.contains(scenario) && line.contains("left out"));
            assert!(word.is_some(), "{name}: nothing is said of {scenario}: {said}");
        }
        let report: Value = serde_json::from_slice(&fs::read(server.path("report.json")).unwrap()).unwrap();
        let total = &report["total"];
        assert_eq!((&total["acknowledged"], &total["errors"]), (&20.into(), &serde_json::json!({})), "{name}: {said}");
    }
}

/// Runs the load generator, which is built beside the tests with the rest of the workspace.
fn measure(server: &OtherServer) -> Option<Output> {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_onetrip")).with_file_name("onetrip-loadgen");
    if !program.exists() {
        skip("onetrip-loadgen", "it is not built; `cargo test --workspace` builds it");
        return None;
    }
    let mut command = std::process::Command::new(program);
    command.args(["run", &server.starttls.to_string(), "--implicit-tls", &server.tls.to_string(), "--user", USER]);
    command.arg("--password-file").arg(server.write("password", PASSWORD));
    command.args(["--connections", "2", "--count", "20", "--sources", "1", "--mailboxes", "1"]);
    command.args(["--scenario", "esmtp,implicit-tls,pipeconnect,full"]);
    command.arg("--json").arg(server.path("report.json"));
    Some(command.output().unwrap())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    StartTls,
    ImplicitTls,
}

/// Round trips from connect to the final 250: of the first message, and of one for which the server is remembered.
#[derive(Clone, Copy)]
struct Expected {
    starttls: [u32; 2],
    implicit_tls: [u32; 2],
}

// ── onetrip submit ──────────────────────────────────────────────────────────────────────────────────────────────────

fn takes_messages(server: &OtherServer, expected: Expected) {
    for (transport, round_trips) in
        [(Transport::StartTls, expected.starttls), (Transport::ImplicitTls, expected.implicit_tls)]
    {
        let messages = messages();
        let counts: Vec<u32> = messages.iter().map(|message| takes_message(server, transport, message)).collect();
        assert_eq!(counts[..2], round_trips, "{transport:?}: round trips");
        refuses_wrong_password(server, transport);
    }
}

/// Submits a message and finds it in the mailbox as it was. Returns the round trips that it took.
fn takes_message(server: &OtherServer, transport: Transport, message: &[u8]) -> u32 {
    let output = submit(server, transport, PASSWORD, message);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{transport:?}: {:?}\n{said}", output.status);
    let stored = without_carriage_returns(&server.next_message());
    assert_arrived(&stored, message);
    round_trips(&said)
}

fn refuses_wrong_password(server: &OtherServer, transport: Transport) {
    let output = submit(server, transport, "wrong", &messages()[0]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{transport:?}: {said}");
    assert!(said.contains("the server refused the user's name or password: 535"), "{said}");
}

fn submit(server: &OtherServer, transport: Transport, password: &str, message: &[u8]) -> Output {
    let password_file = server.write("password", password);
    let port = match transport {
        Transport::StartTls => server.starttls.port(),
        Transport::ImplicitTls => server.tls.port(),
    };
    let mut command = onetrip();
    command.args(["submit", "-v", "-i", "--server", &format!("{HOSTNAME}:{port}"), "--user", USER, "-f", SENDER]);
    command.arg("--ca").arg(server.certificate());
    command.arg("--password-file").arg(password_file);
    command.arg("--memory").arg(server.path("memory"));
    if transport == Transport::ImplicitTls {
        command.arg("--implicit-tls");
    }
    run_with_input(command.arg(RECIPIENT), message)
}

/// What the last line that `-v` shows begins with.
fn round_trips(said: &str) -> u32 {
    let summary = said.lines().find(|line| line.contains(" round trips")).expect("a summary");
    summary.split_whitespace().find_map(|word| word.parse().ok()).expect("a number")
}

// ── onetrip serve ───────────────────────────────────────────────────────────────────────────────────────────────────

/// Has another server send all messages through onetrip. Returns the summaries of their connections.
fn relays(world: World, transport: Transport, start: fn(World, Option<Relay>) -> OtherServer) -> Vec<Value> {
    let site = Site::new();
    let onetrip = site.serve(&[]);
    let relay = match transport {
        Transport::StartTls => Relay { port: onetrip.starttls.port(), implicit_tls: false },
        Transport::ImplicitTls => Relay { port: onetrip.tls.port(), implicit_tls: true },
    };
    fs::copy(site.certificate(), world.path("onetrip.pem")).unwrap();
    let server = start(world, Some(relay));
    let messages = messages();
    for message in &messages {
        let ended = onetrip.events("connection_ended");
        let output = submit(&server, Transport::StartTls, PASSWORD, message);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        onetrip.wait_for("the end of a connection", |event| {
            event["event"] == "connection_ended" && !ended.contains(event)
        });
    }
    let endings = onetrip.events("connection_ended");
    assert_eq!(endings.len(), messages.len());
    for ending in &endings {
        assert_eq!((&ending["user"], &ending["messages"], &ending["errors"]), (&USER.into(), &1.into(), &0.into()));
        assert_eq!(ending["outcome"], "quit", "{ending}");
    }
    let stored: Vec<_> =
        site.arrived(RECIPIENT, messages.len()).iter().map(|stored| without_carriage_returns(stored)).collect();
    assert_eq!(stored.len(), messages.len());
    for message in &messages {
        let stored = stored.iter().find(|stored| subject(stored) == subject(message)).expect("the message arrives");
        assert_arrived(stored, message);
    }
    onetrip.stop(&site);
    endings
}

// ── Passing on ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn onetrip_hands_messages_through_to_postfix_over_starttls_and_over_implicit_tls() {
    for transport in [Transport::StartTls, Transport::ImplicitTls] {
        let Some(world) = World::new("postfix") else { return };
        let server = postfix::start(world, None);
        let hop = match transport {
            Transport::StartTls => format!("relay:{HOSTNAME}:{}", server.starttls.port()),
            Transport::ImplicitTls => format!("relays:{HOSTNAME}:{}", server.tls.port()),
        };
        let site = Site::new();
        let onetrip = site.serve(&flags(&site, &server, &["--deliver", &hop, "--sync", "through"]));
        for message in &messages() {
            let stored = passes_on(&site, &onetrip, &server, message);
            let trace = String::from_utf8_lossy(&stored).replace("\n\t", " ");
            assert!(
                trace.contains(&format!("from {HOSTNAME} (")) && trace.contains("by localhost (Postfix) with ESMTPSA")
            );
            assert!(trace.contains("by localhost (onetrip) with "), "{trace}");
        }
        onetrip.stop(&site);
    }
}

#[test]
fn dovecot_takes_messages_by_lmtp_over_tcp_and_over_its_socket() {
    for over_tcp in [true, false] {
        let Some(world) = World::new("dovecot") else { return };
        let server = dovecot::start(world);
        let hop = match over_tcp {
            true => format!("lmtp:127.0.0.1:{}", server.starttls.port()),
            false => format!("lmtp:{}", server.path(dovecot::SOCKET).display()),
        };
        let site = Site::new();
        let onetrip = site.serve(&["--deliver", &hop]);
        for message in &messages() {
            passes_on(&site, &onetrip, &server, message);
        }
        drop(onetrip);
    }
}

#[test]
fn postfix_takes_messages_from_the_queue() {
    let Some(world) = World::new("postfix") else { return };
    let server = postfix::start(world, None);
    let site = Site::new();
    let hop = format!("relay:{HOSTNAME}:{}", server.starttls.port());
    let onetrip = site.serve(&flags(&site, &server, &["--deliver", &hop]));
    for message in &messages() {
        passes_on(&site, &onetrip, &server, message);
    }
    onetrip.stop(&site);
}

/// What lets onetrip log in at the other server.
fn flags<'a>(site: &Site, server: &OtherServer, first: &[&'a str]) -> Vec<&'a str> {
    let logins = site.write("logins", format!("* {USER} {PASSWORD}\n"));
    let paths = [logins, server.certificate()].map(|path| path.into_os_string().into_string().unwrap());
    let [logins, ca] = paths.map(|path| &*Box::leak(path.into_boxed_str()));
    [first, &["--relay-auth", logins, "--relay-ca", ca]].concat()
}

/// Submits a message to onetrip and finds it at the other server as it was.
fn passes_on(site: &Site, onetrip: &Server, server: &OtherServer, message: &[u8]) -> Vec<u8> {
    let password_file = site.write("password", PASSWORD);
    let mut command = process::onetrip();
    command.args(["submit", "-i", "--server", &format!("{HOSTNAME}:{}", onetrip.starttls.port())]);
    command.args(["--user", USER, "-f", SENDER]).arg("--ca").arg(site.certificate());
    command.arg("--password-file").arg(password_file).arg(RECIPIENT);
    let output = run_with_input(&mut command, message);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stored = without_carriage_returns(&server.next_message());
    assert_arrived(&stored, message);
    stored
}

// ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A plain one, one with all that a transfer could spoil, and one that needs many segments and records.
fn messages() -> Vec<Vec<u8>> {
    let header = |subject: &str| {
        format!(
            "From: {SENDER}\nTo: {RECIPIENT}\nSubject: {subject}\nDate: Sun, 22 Nov 2026 12:00:00 +0000\n\
             Message-ID: <{subject}@example.org>\nMIME-Version: 1.0\n\
             Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
        )
    };
    let long = "x".repeat(998);
    let delicate = format!("..\n.\n.dot\nFrom here\nQUIT\nGrüße, 寿司\ttab \n{long}\n =20\n\n\nthe end\n\n\n");
    let large: String =
        (0..6_000).map(|line| format!(".{line}: sixty bytes or so on every line of a long letter\n")).collect();
    [("plain", "Hello.\n".to_owned()), ("delicate", delicate), ("large", large)]
        .map(|(subject, body)| (header(subject) + &body).into_bytes())
        .to_vec()
}

fn subject(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    text.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned))
}

/// Servers put fields before the header, and change nothing from there on.
fn assert_arrived(stored: &[u8], message: &[u8]) {
    if !stored.ends_with(message) {
        let (stored, message) = (String::from_utf8_lossy(stored), String::from_utf8_lossy(message));
        let start = |text: &str| text.chars().take(3_000).collect::<String>();
        panic!("the message was changed\n── sent ──\n{}\n── stored ──\n{}", start(&message), start(&stored));
    }
}

fn without_carriage_returns(stored: &[u8]) -> Vec<u8> {
    String::from_utf8(stored.to_vec()).expect("text").replace("\r\n", "\n").into_bytes()
}

#[test]
fn a_world_ends_with_its_server() {
    let Some(world) = World::new("opensmtpd") else { return };
    let server = opensmtpd::start(world);
    let folder = server.path("");
    let addresses = [server.starttls, server.tls];
    drop(server);
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "{address} still answers");
    }
    assert!(!folder.exists(), "the world's folder is removed");
}
