//! What the process takes of memory: when nobody is there, and for each client who is silent.

use std::fs;

use crate::process::client::Client;
use crate::process::{Server, Site};

/// The promise of the manual for one shard, all that the process has besides included.
const AT_START_BYTES_MAX: u64 = 32 << 20;
/// Less than the budget of 10 KiB in the manual, so that one buffer of a page that stays with each client is seen.
const CONNECTION_BYTES_MAX: u64 = 8 << 10;
/// So often is looked whether the allocator has given back by now what is not the clients': the 19 MiB of the one password hash.
const LOOKS_MAX: usize = 20;
const CLIENTS: u64 = 2_500;

/// Memory that is the process's own and resident.
fn own_bytes(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_server_has_a_fixed_memory_at_start_and_little_for_each_silent_client() {
    let site = Site::new();
    // Without the session cache, whose memory is set aside at the start and touched piece by piece.
    let server = site.serve(&["--shards", "1", "--connections-per-address-max", "3000", "--tls-sessions", "0"]);
    let at_start = own_bytes(&server);
    assert!(at_start < AT_START_BYTES_MAX, "{at_start} bytes at start");

    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::logged_in(&server)).collect();
    let mut looks = Vec::new();
    while looks.len() < LOOKS_MAX && looks.last().is_none_or(|each| *each >= CONNECTION_BYTES_MAX) {
        for client in &mut clients {
            client.ask("NOOP", "250");
        }
        looks.push(own_bytes(&server).saturating_sub(at_start) / CLIENTS);
    }
    assert!(looks.last().is_some_and(|each| *each < CONNECTION_BYTES_MAX), "bytes for each client: {looks:?}");
    drop(clients);
    server.stop(&site);
}
