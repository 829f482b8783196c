//! How many descriptors a configuration needs, and how many connections fit into those that the system allows.
//!
//! The server and `onetrip check` count the same way, so that what the one promises the other keeps.

use crate::config::Config;
use crate::limits;

/// Open files that the whole server needs with all the connections it is configured for.
pub fn needed(config: &Config) -> u64 {
    without_connections(config) + config.shards as u64 * u64::from(config.connections_max)
}

/// Connections of each shard that fit when the system allows so many open files; at least one.
pub fn connections_that_fit(config: &Config, allowed: u64) -> u32 {
    let for_connections = allowed.saturating_sub(without_connections(config)) / config.shards as u64;
    u32::try_from(for_connections).unwrap_or(u32::MAX).max(1)
}

/// Would anybody miss the connections that do not fit? Few hosts allow what the default asks for, and few sites need it.
pub fn are_missed(config: &Config, fitting: u32) -> bool {
    fitting < config.connections_max
        && (config.connections_max != limits::CONNECTIONS_MAX || fitting < CONNECTIONS_EXPECTED)
}

fn without_connections(config: &Config) -> u64 {
    let mail_files = (config.delivery_threads * (limits::DELIVERY_BATCH_MAX + 2)) as u64;
    DESCRIPTORS_RESERVED + config.shards as u64 * (DESCRIPTORS_OF_SHARD + mail_files)
}

/// Connections of a shard that nobody is surprised to need.
const CONNECTIONS_EXPECTED: u32 = 1_000;

/// Descriptors for files, logs and whatever else is not a connection.
const DESCRIPTORS_RESERVED: u64 = 128;

/// Descriptors of one shard besides its connections: three rings, an event, listeners.
const DESCRIPTORS_OF_SHARD: u64 = 32;

#[cfg(test)]
mod tests {
    use super::{are_missed, connections_that_fit, needed};
    use crate::check::tests::config;

    #[test]
    fn what_is_needed_is_exactly_what_fits() {
        let config = config(&[("shards", "3"), ("connections-max", "7000"), ("delivery-threads", "4")]);
        assert_eq!(connections_that_fit(&config, needed(&config)), 7_000);
        assert_eq!(connections_that_fit(&config, needed(&config) - 1), 6_999);
        assert_eq!(connections_that_fit(&config, 0), 1, "a server that may refuse is better than none");
    }

    #[test]
    fn the_default_is_missed_only_where_it_becomes_very_small() {
        assert!(!are_missed(&config(&[]), 1_000));
        assert!(are_missed(&config(&[]), 999));
        assert!(are_missed(&config(&[("connections-max", "2000")]), 1_999));
        assert!(!are_missed(&config(&[("connections-max", "2000")]), 2_000));
    }
}
