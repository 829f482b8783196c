//! The load generator of onetrip: high-latency submission clients, simulated by the ten thousand.
#![allow(dead_code)]
mod audit;
mod letter;
mod link;
mod plan;
mod random;
mod real_link;
mod record;
mod scenario;
mod sink;
mod veil;
fn main() {}
