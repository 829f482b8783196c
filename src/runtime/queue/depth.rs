//! How many messages are queued, all shards together: the one figure that shards share, because the bound on it is one.
//!
//! Each shard adds and subtracts what has changed with it. It must not be asked for anything exact: a shard that takes a
//! message at the same moment as another may pass the bound by one.

use std::sync::atomic::{AtomicU64, Ordering};

/// The depth of all queues together, and how deep they may be.
#[derive(Debug)]
pub struct Depth {
    messages: AtomicU64,
    max: u64,
}

impl Depth {
    /// Empty queues that may hold `max` messages.
    pub const fn new(max: u64) -> Self {
        Self { messages: AtomicU64::new(0), max }
    }

    /// Is there no room for new mail?
    pub fn is_full(&self) -> bool {
        self.messages.load(Ordering::Relaxed) >= self.max
    }

    /// One shard has `now` messages, and had `before`.
    pub(super) fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.messages.fetch_add((now - before) as u64, Ordering::Relaxed);
        } else {
            self.messages.fetch_sub((before - now) as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Depth;

    #[test]
    fn shards_share_one_bound() {
        let depth = Depth::new(3);
        depth.change(0, 2);
        assert!(!depth.is_full());
        depth.change(0, 1);
        assert!(depth.is_full());
        depth.change(2, 1);
        assert!(!depth.is_full());
    }
}
