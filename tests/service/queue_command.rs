//! `onetrip queue` on a running server and on a stopped one: both tell the same.

use std::net::TcpListener;
use std::process::Output;

use serde_json::Value;

use crate::process::client::Client;
use crate::process::{RECIPIENT, SENDER, Server, Site, onetrip};

const LETTER: &str = "Subject: waiting\r\n\r\nHello\r\n";

/// A port where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("relay:{}", listener.local_addr().unwrap())
}

/// A server whose next hop is down, with so many messages in its queue.
fn with_queued(site: &Site, messages: usize, flags: &[&str]) -> (Server, Vec<String>) {
    let server = site.serve(&[&["--deliver", &nobody(), "--relay-tls", "off"], flags].concat());
    let mut client = Client::logged_in(&server);
    let submit = |number| {
        client.ask(&format!("MAIL FROM:<{SENDER}> ENVID=e{number}"), "250");
        client.ask(&format!("RCPT TO:<{RECIPIENT}> NOTIFY=NEVER"), "250");
        client.ask("DATA", "354");
        client.ask(&format!("{LETTER}."), "250 2.0.0 Queued as ").rsplit(' ').next().unwrap().to_owned()
    };
    let ids = (0..messages).map(submit).collect();
    client.quit();
    (server, ids)
}

fn queue(site: &Site, arguments: &[&str]) -> Output {
    let (name, rest) = arguments.split_first().unwrap();
    onetrip().args(["queue", name, "--state-dir"]).arg(site.state()).args(rest).output().unwrap()
}

/// What the command says on standard output; it must succeed.
fn said(site: &Site, arguments: &[&str]) -> String {
    let output = queue(site, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code and the one line of a command that must fail.
fn failed(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = queue(site, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("onetrip: ") && text.matches('\n').count() == 1, "{text}");
    (output.status.code().unwrap(), text)
}

fn listed(site: &Site, conditions: &[&str]) -> Vec<Value> {
    let text = said(site, &[&["list", "--json"], conditions].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn states(site: &Site) -> Vec<String> {
    listed(site, &[]).iter().map(|item| item["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_empty_queue_says_so() {
    let site = Site::new();
    let server = site.serve(&[]);
    assert_eq!(said(&site, &["list"]), "no messages\n");
    assert_eq!(said(&site, &["list", "--json"]), "");
    assert_eq!(said(&site, &["flush"]), "0 messages due now\n");
    assert_eq!(failed(&site, &["show", "06b8"]).0, 66);
    server.stop(&site);
    assert_eq!(said(&site, &["list"]), "no messages\n");
}

#[test]
fn what_waits_is_listed_and_shown_by_a_running_server_and_by_a_stopped_one() {
    let site = Site::new();
    let (server, ids) = with_queued(&site, 3, &["--shards", "2"]);
    server.event("message_deferred");
    let check = || {
        let items = listed(&site, &[]);
        let of_items: Vec<_> = items.iter().map(|item| item["message"].as_str().unwrap()).collect();
        assert_eq!(of_items, ids);
        assert_eq!((items[0]["user"].as_str(), items[0]["sender"].as_str()), (Some("ann"), Some(SENDER)));
        assert_eq!(items[0]["recipients"].as_array().unwrap().len(), 1);
        assert!(said(&site, &["list"]).ends_with(&format!("3 messages, {}\n", sum(&items))));
        let shown: Value = serde_json::from_str(&said(&site, &["show", &ids[1], "--json"])).unwrap();
        assert_eq!((shown["envid"].as_str(), shown["envelope"][0]["notify"].as_str()), (Some("e1"), Some("NEVER")));
        let header = shown["header"].as_str().unwrap();
        assert!(header.starts_with("Received:") && header.contains("Subject: waiting"), "{header}");
        assert!(said(&site, &["show", &ids[1]]).contains("    Subject: waiting\n"));
        let exported = said(&site, &["export", &ids[2]]);
        assert!(exported.starts_with("Received:") && exported.ends_with("\r\n\r\nHello\r\n"), "{exported}");
    };
    check();
    assert_eq!(failed(&site, &["show", &ids[0][..3]]).0, 64, "it fits all of them");
    server.stop(&site);
    check();
    let (code, text) = failed(&site, &["hold", &ids[0]]);
    assert_eq!(code, 69, "{text}");
}

fn sum(items: &[Value]) -> String {
    let bytes: u64 = items.iter().map(|item| item["bytes"].as_u64().unwrap()).sum();
    if bytes < 1_024 { format!("{bytes} B") } else { format!("{:.1} KiB", bytes as f64 / 1_024.0) }
}

#[test]
fn conditions_choose_among_what_waits() {
    let site = Site::new();
    let (server, _) = with_queued(&site, 2, &[]);
    for (conditions, expected) in [
        (&["--user", "ann"][..], 2),
        (&["--user", "bob"], 0),
        (&["--sender", SENDER, "--recipient-domain", "EXAMPLE.org"], 2),
        (&["--sender", "@example.org"], 2),
        (&["--sender", "<>"], 0),
        (&["--recipient-domain", "example.net"], 0),
        (&["--older-than", "1h"], 0),
        (&["--state", "held"], 0),
    ] {
        assert_eq!(listed(&site, conditions).len(), expected, "{conditions:?}");
    }
    server.stop(&site);
}

#[test]
fn a_message_is_held_and_released_and_stays_held_over_a_restart() {
    let site = Site::new();
    let (server, ids) = with_queued(&site, 2, &[]);
    server.wait_for_events("message_deferred", 1);
    assert_eq!(said(&site, &["hold", &ids[0]]), "1 message held\n");
    assert_eq!(states(&site)[0], "held");
    assert_eq!(said(&site, &["flush"]), "2 messages due now\n");
    assert_eq!(states(&site)[0], "held");
    server.stop(&site);
    assert_eq!(states(&site)[0], "held");
    let server = site.serve(&["--deliver", &nobody(), "--relay-tls", "off"]);
    assert_eq!(states(&site)[0], "held");
    assert_eq!(said(&site, &["release", "--state", "held"]), "1 message released\n");
    assert_ne!(states(&site)[0], "held");
    server.stop(&site);
}

#[test]
fn a_removed_message_is_gone_for_good_and_nothing_is_told_to_anybody() {
    let site = Site::new();
    let (server, ids) = with_queued(&site, 3, &[]);
    let to = site.path("exported");
    std::fs::create_dir(&to).unwrap();
    let exported = said(&site, &["export", "--all", "--to", to.to_str().unwrap()]);
    assert_eq!(exported, "3 messages exported\n");
    assert!(to.join(format!("{}.eml", ids[0])).exists());
    assert_eq!(said(&site, &["remove", &ids[0], &ids[2]]), "2 messages removed\n");
    assert_eq!(listed(&site, &[]).len(), 1);
    assert_eq!(failed(&site, &["remove", &ids[0]]).0, 66);
    server.stop(&site);
    let left = listed(&site, &[]);
    assert_eq!((left.len(), left[0]["message"].as_str()), (1, Some(ids[1].as_str())));
}

#[test]
fn flushed_messages_are_tried_at_once() {
    let site = Site::new();
    let (server, ids) = with_queued(&site, 1, &["--retry-min", "3000"]);
    server.wait_for_events("message_deferred", 1);
    assert_eq!(said(&site, &["flush", &ids[0]]), "1 message due now\n");
    server.wait_for_events("message_deferred", 2);
    server.stop(&site);
}
