//! How many connections one address has open, over all shards, without a lock.
//!
//! Addresses are hashed into a fixed number of counters. Two that meet in one counter share its bound: with a keyed hash
//! nobody can choose whom to meet, and a bound that is far above what one address needs is not missed. It decides
//! nothing else.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::auth::throttle::network;

/// Open connections by address; one for the process.
#[derive(Debug)]
pub(super) struct AddressCounts {
    counters: Box<[AtomicU32]>,
    hasher: RandomState,
    /// Most connections of one address; 0 for no bound.
    connections_max: u32,
}

/// The counts as one shard sees them. What its connections hold on to is this, so that only this shard counts who does.
#[derive(Debug)]
pub(super) struct ShardAddresses(Arc<AddressCounts>);

/// One connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    addresses: Arc<ShardAddresses>,
    slot: usize,
}

/// 256 KiB in all: with 10,000 clients at once one in seven shares its counter with another.
const COUNTERS: usize = 65_536;

impl AddressCounts {
    pub(super) fn new(connections_max: u32) -> Self {
        let counters = (0..COUNTERS).map(|_| AtomicU32::new(0)).collect();
        Self { counters, hasher: RandomState::new(), connections_max }
    }

    fn slot(&self, address: IpAddr) -> usize {
        (self.hasher.hash_one(network(address)) as usize) % COUNTERS
    }
}

impl ShardAddresses {
    pub(super) fn new(counts: &Arc<AddressCounts>) -> Self {
        Self(Arc::clone(counts))
    }

    /// Counts one more, unless that would be too many.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let counts = &self.0;
        let slot = counts.slot(address);
        let before = counts.counters[slot].fetch_add(1, Ordering::Relaxed);
        let counted = Counted { addresses: Arc::clone(self), slot };
        let fits = counts.connections_max == 0 || before < counts.connections_max;
        fits.then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.addresses.0.counters[self.slot].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{AddressCounts, ShardAddresses};

    /// The counts as two shards see them.
    fn counts(connections_max: u32) -> [Arc<ShardAddresses>; 2] {
        let counts = Arc::new(AddressCounts::new(connections_max));
        [(); 2].map(|()| Arc::new(ShardAddresses::new(&counts)))
    }

    #[test]
    fn an_address_is_refused_over_its_bound_and_welcome_again_after() {
        let [counts, other_shard] = counts(2);
        let address = "192.0.2.1".parse().unwrap();
        let first = counts.enter(address).unwrap();
        let _second = other_shard.enter(address).unwrap();
        assert!(counts.enter(address).is_none());
        assert!(counts.enter("192.0.2.2".parse().unwrap()).is_some(), "others are not concerned");
        drop(first);
        assert!(counts.enter(address).is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let [counts, _] = counts(1);
        let _first = counts.enter("2001:db8::1".parse().unwrap()).unwrap();
        assert!(counts.enter("2001:db8::2".parse().unwrap()).is_none());
        assert!(counts.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[test]
    fn an_ipv4_address_is_the_same_however_it_is_written() {
        let [counts, _] = counts(1);
        let _first = counts.enter("192.0.2.1".parse().unwrap()).unwrap();
        assert!(counts.enter("::ffff:192.0.2.1".parse().unwrap()).is_none());
    }

    #[test]
    fn without_a_bound_everybody_is_welcome() {
        let [counts, _] = counts(0);
        let open: Vec<_> = (0..100).map(|_| counts.enter("::1".parse().unwrap())).collect();
        assert!(open.iter().all(Option::is_some));
    }
}
