//! How many messages are queued, all shards together: the one figure that shards share, because the bound on it is one.
//!
//! Each shard tells what has changed with it in steps of some messages, so that shards do not write to the same memory for each of
//! them. It must not be asked for anything exact: the bound may be passed by a step for each shard.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The depth of all queues together, and how deep they may be.
#[derive(Debug)]
pub struct Depth {
    messages: AtomicI64,
    max: i64,
}

/// The part of one shard in it.
#[derive(Debug)]
pub struct ShardDepth {
    depth: Arc<Depth>,
    /// What this shard has told.
    told: Cell<i64>,
    /// It tells when it has so many more or fewer.
    step: i64,
}

impl Depth {
    /// Empty queues that may hold `max` messages.
    pub fn new(max: u64) -> Self {
        Self { messages: AtomicI64::new(0), max: i64::try_from(max).unwrap_or(i64::MAX) }
    }
}

impl ShardDepth {
    /// The part of one of so many shards, which has no messages yet.
    pub fn new(depth: &Arc<Depth>, shards: usize) -> Self {
        let shards = i64::try_from(shards).unwrap_or(i64::MAX);
        // All steps together are a hundredth of the bound at most.
        let step = (depth.max / 100 / shards).clamp(1, STEP_MAX);
        Self { depth: Arc::clone(depth), told: Cell::new(0), step }
    }

    /// Is there no room for new mail?
    pub fn is_full(&self) -> bool {
        self.depth.messages.load(Ordering::Relaxed) >= self.depth.max
    }

    /// This shard has so many messages now.
    pub(super) fn change(&self, messages: usize) {
        let messages = i64::try_from(messages).unwrap_or(i64::MAX);
        let more = messages - self.told.get();
        if more.abs() >= self.step || messages == 0 && more != 0 {
            self.told.set(messages);
            self.depth.messages.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// Messages by which a shard's depth may differ from what it has told.
const STEP_MAX: i64 = 256;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::{Depth, ShardDepth};

    #[test]
    fn shards_share_one_bound() {
        let depth = Arc::new(Depth::new(3));
        let shards = [ShardDepth::new(&depth, 2), ShardDepth::new(&depth, 2)];
        shards[0].change(2);
        assert!(!shards[1].is_full());
        shards[1].change(1);
        assert!(shards[0].is_full());
        shards[0].change(1);
        assert!(!shards[1].is_full());
    }

    #[test]
    fn a_shard_tells_in_steps_and_never_stays_behind_by_more() {
        let depth = Arc::new(Depth::new(100_000));
        let shard = ShardDepth::new(&depth, 10);
        let told = || depth.messages.load(Ordering::Relaxed);
        let mut times = 0;
        for messages in 1..=1_000 {
            let before = told();
            shard.change(messages);
            times += usize::from(told() != before);
            assert!((messages as i64 - told()).abs() < 100, "{messages} and {}", told());
        }
        assert_eq!(times, 10);
        shard.change(0);
        assert_eq!(told(), 0, "an empty queue leaves nothing behind");
    }
}
