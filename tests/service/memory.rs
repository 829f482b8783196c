//! What the process takes of memory: when nobody is there, and for each client who is silent.

use std::fs;

use crate::process::client::Client;
use crate::process::{Server, Site};

/// The promise of the manual for one shard, all that the process has besides included.
const AT_START_BYTES_MAX: u64 = 32 << 20;
/// Less than the budget of 10 KiB in the manual, so that one buffer of a page that stays with each client is seen.
const CONNECTION_BYTES_MAX: u64 = 8 << 10;
/// After so many clients the process has what it needs once: the 19 MiB of the one password hash, for instance, which would be
/// counted as that of the clients.
const FIRST_CLIENTS: usize = 500;
const CLIENTS: u64 = 2_000;

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

    let mut clients: Vec<_> = (0..FIRST_CLIENTS).map(|_| Client::logged_in(&server)).collect();
    let before = own_bytes(&server);
    clients.extend((0..CLIENTS).map(|_| Client::logged_in(&server)));
    let each = own_bytes(&server).saturating_sub(before) / CLIENTS;
    assert!(each < CONNECTION_BYTES_MAX, "{each} bytes for each client");
    for client in &mut clients {
        client.ask("NOOP", "250");
    }
    drop(clients);
    server.stop(&site);
}
