//! The sink as a process: what it keeps, and how it misbehaves by rule.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::process::{Running, generator};

/// A test that waits longer than this for a reply has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Sink {
    _process: Running,
    address: SocketAddr,
}

impl Sink {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onetrip-loadgen"));
        let process = Running::start(command.args(["sink", "--listen", "127.0.0.1:0"]).args(arguments));
        let address = process.wait_for(|line| line.strip_prefix("ready on ")?.parse().ok());
        Self { _process: process, address }
    }

    /// Says each line, and returns the last line of each reply until the sink closes or all is said.
    fn dialog(&self, lines: &[&str]) -> Vec<String> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut replies = Vec::new();
        for line in std::iter::once(None).chain(lines.iter().map(Some)) {
            if let Some(line) = line {
                // A sink that has closed shows by its missing reply.
                let _ = stream.write_all(format!("{line}\r\n").as_bytes());
            }
            let Some(reply) = reply(&mut reader) else { break };
            replies.push(reply);
        }
        replies
    }
}

fn reply(reader: &mut impl BufRead) -> Option<String> {
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Some(line.trim_end().to_owned());
        }
    }
}

const MESSAGE: [&str; 5] =
    ["EHLO c", "MAIL FROM:<a@x>", "RCPT TO:<bob@y>", "DATA", "Subject: hello\r\n\r\nHello.\r\n.\r\nNOOP\r\nQUIT"];

fn codes(replies: &[String]) -> Vec<&str> {
    replies.iter().map(|reply| &reply[..3]).collect()
}

#[test]
fn a_sink_that_keeps_mail_has_it_when_it_says_250() {
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::start(&["--keep", directory.path().to_str().unwrap()]);
    let replies = sink.dialog(&MESSAGE);
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "354", "250"]);
    let kept: Vec<_> = fs::read_dir(directory.path().join("new")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert!(fs::read_to_string(&kept[0]).unwrap().contains("Hello."));
}

#[test]
fn rules_refuse_put_off_and_disconnect_where_they_say() {
    let sink = Sink::start(&["--rule", "rcpt~bob=452 4.2.2 full", "--rule", "mail~evil=550 5.7.1 no"]);
    assert_eq!(codes(&sink.dialog(&MESSAGE[..3])), ["220", "250", "250", "452"]);
    assert_eq!(codes(&sink.dialog(&["EHLO c", "MAIL FROM:<evil@x>"])), ["220", "250", "550"]);
    assert_eq!(codes(&sink.dialog(&["EHLO c", "MAIL FROM:<a@x>", "RCPT TO:<carol@y>"]))[3], "250");
    let closing = Sink::start(&["--rule", "mail=disconnect"]);
    assert_eq!(codes(&closing.dialog(&MESSAGE)), ["220", "250"]);
    let greeting = Sink::start(&["--rule", "connect=421 4.3.2 later"]);
    assert_eq!(codes(&greeting.dialog(&[])), ["421"]);
}

#[test]
fn a_server_without_tls_is_left_alone_and_each_scenario_says_why() {
    let sink = Sink::start(&[]);
    let ended = generator(&["run", &sink.address.to_string(), "--scenario", "full,esmtp,bad-auth"]);
    assert_eq!(ended.code, 69, "{ended:?}");
    for scenario in ["full", "esmtp", "bad-auth"] {
        let words = format!("left out: {scenario}: the server does not offer STARTTLS");
        assert!(ended.err.contains(&words), "{}", ended.err);
    }
    assert!(ended.err.contains("the server offers none of the scenarios asked for"), "{}", ended.err);
}

#[test]
fn a_server_that_closes_at_once_ends_the_first_look_and_the_reason_is_told() {
    let sink = Sink::start(&["--rule", "connect=disconnect"]);
    let ended = generator(&["run", &sink.address.to_string()]);
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.err.contains("a first look at"), "{}", ended.err);
}
