//! A large message goes into the spool while it comes in: its memory stays small, and an end that never comes leaves nothing.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::process::client::Client;
use crate::process::{PATIENCE, RECIPIENT, SENDER, Server, Site, without_trace};

const MIB: usize = 1 << 20;

/// Room for a piece and little more; the rest of the flags lets a message of 40 MiB in.
const LITTLE_MEMORY: [&str; 4] = ["--message-memory", "1M", "--max-message-size", "50M"];

/// Lines of so many bytes together, no two of them alike, some with a dot to be stuffed.
fn letter(bytes: usize) -> Vec<u8> {
    let mut letter = b"Subject: large\r\nDate: x\r\nMessage-ID: <large@example.org>\r\n\r\n".to_vec();
    for number in 0_u64.. {
        if letter.len() >= bytes {
            break;
        }
        let dot = if number % 5 == 0 { "." } else { "" };
        letter.extend_from_slice(format!("{dot}{number:>60} {:>60}\r\n", number * 7_919).as_bytes());
    }
    letter
}

fn stuffed(letter: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(letter.len() + letter.len() / 64);
    for line in letter.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    stuffed
}

/// The most memory that the process has had, in bytes.
fn peak_memory(server: &Server) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

/// Bytes in the segments of the spool.
fn spool_bytes(site: &Site) -> u64 {
    fn below(directory: &Path) -> u64 {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { below(&entry.path()) } else { size(&entry) }).sum()
    }
    fn size(entry: &fs::DirEntry) -> u64 {
        entry.metadata().map_or(0, |metadata| metadata.len())
    }
    below(&site.state().join("spool"))
}

#[test]
fn a_message_of_forty_mebibytes_arrives_byte_for_byte_and_takes_hardly_any_memory_on_its_way_in() {
    let site = Site::new();
    let server = site.serve(&LITTLE_MEMORY);
    let letter = letter(40 * MIB);
    let wire = stuffed(&letter);
    let mut client = Client::logged_in(&server);
    client.submit("Subject: small\r\n", "250");
    site.arrived(RECIPIENT, 1);
    // The login took more, for its password.
    fs::write(format!("/proc/{}/clear_refs", server.process()), "5").unwrap();
    let before = peak_memory(&server);
    client.begin_message(RECIPIENT);
    client.send(&wire);
    // All that the server has not taken is on the way; it has not begun to deliver.
    // The kernel counts by approximation, so that a peak may even seem lower later.
    let grown = peak_memory(&server).saturating_sub(before);
    assert!(grown < 8 * MIB, "{} KiB more than before", grown >> 10);
    client.ask(".", "250");
    client.quit();
    let arrived = site.arrived(RECIPIENT, 2);
    let arrived = arrived.iter().max_by_key(|message| message.len()).unwrap();
    let found = without_trace(arrived).1;
    assert!(found == letter, "{} bytes of {}", found.len(), letter.len());
    server.stop(&site);
}

#[test]
fn chunks_of_a_large_message_go_the_same_way() {
    let site = Site::new();
    let server = site.serve(&LITTLE_MEMORY);
    let letter = letter(6 * MIB);
    let mut client = Client::logged_in(&server);
    client.ask(&format!("MAIL FROM:<{SENDER}> BODY=BINARYMIME"), "250");
    client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
    for chunk in letter.chunks(2 * MIB) {
        client.say(&format!("BDAT {}", chunk.len()));
        client.send(chunk);
        client.expect("250");
    }
    client.ask("BDAT 0 LAST", "250");
    client.quit();
    assert!(site.message(RECIPIENT) == letter);
    server.stop(&site);
}

#[test]
fn a_large_message_that_comes_again_under_its_token_is_stored_once() {
    let site = Site::new();
    let server = site.serve(&LITTLE_MEMORY);
    let wire = stuffed(&letter(3 * MIB));
    let mut client = Client::logged_in(&server);
    let mut replies = Vec::new();
    for _ in 0..2 {
        client.ask(&format!("MAIL FROM:<{SENDER}> XONCE=large"), "250");
        client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
        client.ask("DATA", "354");
        client.send(&wire);
        replies.push(client.ask(".", "250"));
    }
    assert_eq!(replies[0], replies[1]);
    client.quit();
    site.arrived(RECIPIENT, 1);
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 1);
}

#[test]
fn a_connection_that_breaks_within_a_large_message_leaves_nothing_behind() {
    let site = Site::new();
    let server = site.serve(&LITTLE_MEMORY);
    let wire = stuffed(&letter(20 * MIB));
    for _ in 0..5 {
        let mut client = Client::logged_in(&server);
        client.begin_message(RECIPIENT);
        client.send(&wire);
        let address = client.close();
        server.summary(address);
    }
    let mut client = Client::logged_in(&server);
    client.submit("Subject: small\r\n", "250");
    client.quit();
    site.arrived(RECIPIENT, 1);
    // Of the hundred that went in nothing is needed any more.
    let end = Instant::now() + PATIENCE;
    while spool_bytes(&site) > 64 * MIB as u64 {
        assert!(Instant::now() < end, "{} bytes in the spool", spool_bytes(&site));
        std::thread::yield_now();
    }
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 1);
    let server = site.serve(&[]);
    assert_eq!(server.event("spool_opened")["messages"], 0);
    server.stop(&site);
}

#[test]
fn a_kill_within_a_large_message_leaves_nothing_and_the_log_goes_on() {
    let site = Site::new();
    let wire = stuffed(&letter(20 * MIB));
    for _ in 0..2 {
        let mut server = site.serve(&LITTLE_MEMORY);
        let mut client = Client::logged_in(&server);
        client.begin_message(RECIPIENT);
        client.send(&wire);
        // What the sockets hold is less than half of it.
        server.signal(libc::SIGKILL);
        server.ended();
    }
    let server = site.serve(&LITTLE_MEMORY);
    let opened = server.event("spool_opened");
    assert_eq!(opened["messages"], 0, "{opened}");
    assert!(server.events("spool_damaged").is_empty());
    let mut client = Client::logged_in(&server);
    client.submit("Subject: small\r\n", "250");
    client.quit();
    site.arrived(RECIPIENT, 1);
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 1);
}
