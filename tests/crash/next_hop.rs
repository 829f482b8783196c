//! A next hop that is down, slow, or refuses, and one that breaks off in the middle of a message or after it: nothing is
//! lost, and nothing comes twice but where the sender cannot know.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::load::generator;
use crate::process::client::Client;
use crate::process::{PATIENCE, RECIPIENT, SENDER, Site, files};
use crate::{lasting_address, stop};

/// The load generator's sink, which keeps what it takes and misbehaves by rule.
struct Sink(Child);

impl Sink {
    fn start(address: SocketAddr, keep: &Path, rules: &[&str]) -> Self {
        let mut command = generator();
        command.args(["sink", "--listen", &address.to_string(), "--keep"]).arg(keep);
        command.args(rules.iter().flat_map(|rule| ["--rule", rule]));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the sink starts");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says where it listens");
        // It goes on talking, and must not wait for a reader.
        std::thread::spawn(move || said.lines().for_each(drop));
        Self(child)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The numbers of the messages that a sink has kept, each with the number of its copies.
fn kept(keep: &Path) -> BTreeMap<usize, usize> {
    let mut copies = BTreeMap::new();
    for file in files(&keep.join("new")) {
        let text = String::from_utf8(std::fs::read(file).unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject");
        *copies.entry(line.parse().expect("a number")).or_default() += 1;
    }
    copies
}

/// Submits messages to a server whose next hop is a sink with these rules, and returns what the sink has kept when every
/// message has arrived. `before` is what happens to the sink first.
fn relayed(rules: &[&str], before: Before) -> BTreeMap<usize, usize> {
    let site = Site::new();
    let keep: PathBuf = site.path("kept");
    let address = lasting_address();
    let hop = format!("relay:{address}");
    let mut sink = match before {
        Before::Up => Some(Sink::start(address, &keep, rules)),
        Before::Down => None,
    };
    let flags = ["--deliver", &hop, "--relay-tls", "off", "--retry-min", "1", "--retry-max", "1"];
    let server = site.serve(&flags);
    let mut client = Client::logged_in(&server);
    for number in 0..MESSAGES {
        client.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
        client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
        client.ask("DATA", "354");
        client.ask(&format!("Subject: {number}\r\n\r\n{}.", "some words\r\n".repeat(200)), "250");
    }
    client.quit();
    if sink.is_none() {
        server.event("message_deferred");
        sink = Some(Sink::start(address, &keep, rules));
    }
    let end = Instant::now() + PATIENCE;
    while kept(&keep).len() < MESSAGES && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    stop(server);
    drop(sink);
    kept(&keep)
}

#[derive(Clone, Copy)]
enum Before {
    Up,
    Down,
}

fn assert_once(kept: &BTreeMap<usize, usize>) {
    assert_eq!(*kept, (0..MESSAGES).map(|number| (number, 1)).collect());
}

const MESSAGES: usize = 20;

#[test]
fn a_next_hop_that_is_down_gets_everything_once_when_it_is_up() {
    assert_once(&relayed(&[], Before::Down));
}

#[test]
fn a_slow_next_hop_gets_everything_once() {
    assert_once(&relayed(&["mail=delay 20", "end=delay 50"], Before::Up));
}

#[test]
fn a_next_hop_that_refuses_now_and_then_gets_everything_once() {
    let rules =
        ["connect@20=421 4.3.2 not now", "mail@20=451 4.3.0 later", "rcpt@20=452 4.2.2 full", "end@20=451 4.3.0 no"];
    assert_once(&relayed(&rules, Before::Up));
}

#[test]
fn a_next_hop_that_breaks_off_before_it_has_a_message_gets_everything_once() {
    assert_once(&relayed(&["hello@10=disconnect", "data@20=disconnect", "end@20=disconnect"], Before::Up));
}

#[test]
fn where_a_next_hop_keeps_a_message_and_breaks_off_nothing_is_lost_and_only_that_comes_twice() {
    let kept = relayed(&["end@20=lose"], Before::Up);
    assert_eq!(kept.len(), MESSAGES);
    assert!(kept.values().any(|copies| *copies > 1), "the fault has not struck: {kept:?}");
}
