//! One server hands on to another, by names (`XONCE`), and both are killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::courier::{Couriers, token_of};
use crate::process::{HOSTNAME, PASSWORD, PATIENCE, Site, USER, files};
use crate::{Random, kills, lasting_address, let_time_pass, stop};

#[test]
fn what_a_server_hands_on_is_there_once_however_often_the_two_are_killed() {
    let mut random = Random::from_environment(3);
    let (front, back) = (Site::new(), Site::new());
    let (front_tls, back_clear) = (lasting_address().to_string(), lasting_address().to_string());
    let start_back = || back.serve(&["--listen", &back_clear, "--connections-per-address-max", "100000"]);
    let mut back_server = start_back();
    let port = back_server.starttls.port();
    let login = front.write("login", format!("* {USER} {PASSWORD}\n"));
    let (hop, login) = (format!("relay:{HOSTNAME}:{port}"), login.to_str().unwrap().to_owned());
    let certificate = back.certificate().to_str().unwrap().to_owned();
    let flags = [
        ["--listen-tls", &front_tls],
        ["--deliver", &hop],
        ["--relay-auth", &login],
        ["--relay-ca", &certificate],
        ["--retry-min", "1"],
        ["--retry-max", "1"],
    ];
    let start_front = || front.serve(&flags.concat());
    let mut front_server = start_front();
    let couriers = Couriers::start(4, front_server.tls, &mut random);
    for _ in 0..kills() {
        couriers.wait_for(1);
        let_time_pass(&mut random, LIFE_MAX);
        // Dropped is killed, with SIGKILL.
        if random.below(2) == 0 {
            drop(front_server);
            front_server = start_front();
        } else {
            drop(back_server);
            let_time_pass(&mut random, LIFE_MAX);
            back_server = start_back();
        }
    }
    let acknowledged = couriers.stop();
    let delivered = wait_until_delivered(&back, acknowledged.len());
    eprintln!("{} kills, {} messages", kills(), acknowledged.len());
    let missing: Vec<_> = acknowledged.keys().filter(|token| !delivered.contains_key(*token)).collect();
    let repeated: Vec<_> = delivered.iter().filter(|(_, copies)| **copies > 1).collect();
    assert!(missing.is_empty(), "acknowledged, but not there: {missing:?}");
    assert!(repeated.is_empty(), "there more than once: {repeated:?}");
    stop(front_server);
    stop(back_server);
}

fn wait_until_delivered(site: &Site, expected: usize) -> BTreeMap<String, usize> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut copies = BTreeMap::<String, usize>::new();
        for mailbox in files(&site.mail()) {
            for message in files(&mailbox.join("new")) {
                *copies.entry(token_of(&std::fs::read(message).unwrap())).or_default() += 1;
            }
        }
        if copies.len() >= expected || Instant::now() > end {
            return copies;
        }
        std::thread::sleep(LOOK);
    }
}

/// How long a server lives at most.
const LIFE_MAX: Duration = Duration::from_millis(300);

/// How often the mailboxes are looked at.
const LOOK: Duration = Duration::from_millis(50);
