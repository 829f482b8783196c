//! Killed while it delivers to Maildirs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::courier::{Couriers, recipient, token_of};
use crate::process::{PATIENCE, Site, files};
use crate::{Random, kills, lasting_address, let_time_pass, stop};

/// The tokens of all messages in all mailboxes, each with the number of its copies.
fn delivered(site: &Site) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for mailbox in files(&site.mail()) {
        let name = mailbox.file_name().unwrap().to_str().unwrap().to_owned();
        for message in site.messages(&name) {
            let token = token_of(&message);
            assert_eq!(recipient(&token), name, "a message in a wrong mailbox");
            *copies.entry(token).or_default() += 1;
        }
    }
    copies
}

/// Waits until so many messages have been delivered; whoever is killed may leave some for later.
fn wait_until_delivered(site: &Site, expected: usize) {
    let end = Instant::now() + PATIENCE;
    let count = || files(&site.mail()).iter().map(|mailbox| files(&mailbox.join("new")).len()).sum::<usize>();
    while count() < expected && Instant::now() < end {
        std::thread::sleep(LOOK);
    }
}

#[test]
fn what_was_acknowledged_is_there_once_however_often_the_server_is_killed_and_the_message_sent_again() {
    let mut random = Random::from_environment(1);
    let site = Site::new();
    let address = lasting_address();
    let start = || site.serve(&["--shards", "2", "--listen-tls", &address.to_string()]);
    let mut server = start();
    let couriers = Couriers::start(6, address, &mut random);
    for _ in 0..kills() {
        couriers.wait_for(1);
        let_time_pass(&mut random, LIFE_MAX);
        // Dropped is killed, with SIGKILL.
        drop(server);
        server = start();
    }
    let acknowledged = couriers.stop();
    wait_until_delivered(&site, acknowledged.len());
    eprintln!("{} kills, {} messages", kills(), acknowledged.len());
    let delivered = delivered(&site);
    let missing: Vec<_> = acknowledged.keys().filter(|token| !delivered.contains_key(*token)).collect();
    let repeated: Vec<_> = delivered.iter().filter(|(_, copies)| **copies > 1).collect();
    let unknown: Vec<_> = delivered.keys().filter(|token| !acknowledged.contains_key(*token)).collect();
    assert!(missing.is_empty(), "acknowledged, but not there: {missing:?}");
    assert!(repeated.is_empty(), "there more than once: {repeated:?}");
    assert!(unknown.is_empty(), "there, but sent by nobody: {unknown:?}");
    stop(server);
}

/// How long a server lives at most after it has acknowledged something.
const LIFE_MAX: Duration = Duration::from_millis(300);

/// How often the mailboxes are looked at.
const LOOK: Duration = Duration::from_millis(20);
