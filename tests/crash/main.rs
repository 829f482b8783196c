//! The real server is killed at random moments, again and again, under load, and started again: every message that it has
//! acknowledged is there in the end, exactly once and byte for byte.
//!
//! `ONETRIP_CRASH_KILLS` says how often (a handful without it), `ONETRIP_CRASH_SEED` which moments and messages. What a kill
//! cannot show, a power failure, is shown by simulation: a killed process loses nothing that the system has.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]
#![allow(unreachable_pub, reason = "what one test uses another may")]
#![allow(clippy::print_stderr, reason = "a long test says how it is getting on")]

#[path = "../process/mod.rs"]
mod process;

mod courier;
mod load;
mod maildir;
mod next_hop;
mod relay;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use process::Server;

/// Random numbers that a seed brings back: splitmix64.
pub struct Random(u64);

impl Random {
    /// From `ONETRIP_CRASH_SEED`, or from this number.
    pub fn from_environment(otherwise: u64) -> Self {
        Self(number("ONETRIP_CRASH_SEED").unwrap_or(otherwise))
    }

    /// Another sequence, made from this one and a number.
    pub fn branch(&mut self, number: u64) -> Self {
        Self(self.draw() ^ number)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}

/// How often a server is killed.
pub fn kills() -> u64 {
    number("ONETRIP_CRASH_KILLS").unwrap_or(KILLS_IN_SHORT)
}

/// An address that a server can come back to. It is below the ports that the system gives to clients: one that connects
/// to such a port of its own machine while nobody listens there can meet itself, and then the port is taken.
pub fn lasting_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let ports = 10_000..32_000;
    // Other processes begin elsewhere, and no port is given twice.
    let first = std::process::id().wrapping_mul(131).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % 20_000;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = ports.cycle().skip(first as usize).find(free).expect("a port is free");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Stops a server in an orderly way. What its killed predecessors left behind in `tmp/` is for mail readers to remove, as
/// with every Maildir.
pub fn stop(mut server: Server) {
    server.signal(libc::SIGTERM);
    assert_eq!(server.ended().code(), Some(0), "{}", server.log_text());
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Lets a random part of `most` pass. The moment of a kill has to be a matter of time, and of nothing that the server does.
pub fn let_time_pass(random: &mut Random, most: Duration) {
    let most_us = u64::try_from(most.as_micros()).unwrap();
    std::thread::sleep(Duration::from_micros(random.below(most_us)));
}

/// Enough to find what breaks often, in a few seconds.
const KILLS_IN_SHORT: u64 = 6;
