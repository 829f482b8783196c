//! What the process takes of memory: when nobody is there, and for each client who is silent.

use std::fs;

use crate::process::client::Client;
use crate::process::{Server, Site};

/// The promise of the manual for one shard, all that the process has besides included.
const AT_START_BYTES_MAX: u64 = 32 << 20;
/// More than the budget of a connection: the allocator rounds up, handshakes leave something behind, and the 19 MiB of the one
/// password hash may be there still.
const CONNECTION_BYTES_MAX: u64 = 24 << 10;
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
    let server = site.serve(&["--shards", "1", "--connections-per-address-max", "3000"]);
    let at_start = own_bytes(&server);
    assert!(at_start < AT_START_BYTES_MAX, "{at_start} bytes at start");

    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::logged_in(&server)).collect();
    let each = own_bytes(&server).saturating_sub(at_start) / CLIENTS;
    assert!(each < CONNECTION_BYTES_MAX, "{each} bytes for each client");
    for client in &mut clients {
        client.ask("NOOP", "250");
    }
    drop(clients);
    server.stop(&site);
}
