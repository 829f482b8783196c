//! What the conversations of one shard share: room for messages, and numbers for their names.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::proto::message::MessageId;
use crate::time::Now;

/// The share of one shard. Only that shard's conversations touch it, so its atomics are never contended.
#[derive(Debug)]
pub struct Resources {
    shard: u16,
    message_bytes_max: u64,
    message_bytes: AtomicU64,
    messages: AtomicU32,
    streaming: Streaming,
}

/// Does whoever drives the conversations take messages in pieces?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streaming {
    Yes,
    No,
}

impl Resources {
    /// For shard number `shard`, with room for `message_bytes_max` bytes of messages in transit.
    pub fn new(shard: u16, message_bytes_max: u64) -> Self {
        Self {
            shard,
            message_bytes_max,
            message_bytes: AtomicU64::new(0),
            messages: AtomicU32::new(0),
            streaming: Streaming::No,
        }
    }

    /// The driver carries out [`Action::KeepPiece`](super::Action::KeepPiece): a large message is given to it in pieces, and
    /// only what it has not got yet takes room.
    #[must_use]
    pub fn streaming(self) -> Self {
        Self { streaming: Streaming::Yes, ..self }
    }

    pub(super) fn takes_pieces(&self) -> bool {
        self.streaming == Streaming::Yes
    }

    /// Bytes of messages in transit now.
    pub fn message_bytes(&self) -> u64 {
        self.message_bytes.load(Ordering::Relaxed)
    }

    /// A name for a message of this shard, its own among all.
    pub fn next_message_id(&self, now: Now) -> MessageId {
        MessageId::new(now.unix, self.shard, self.messages.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes room, if there is some.
    fn reserve(&self, bytes: u64) -> bool {
        let before = self.message_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.message_bytes_max;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: u64) {
        self.message_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The room that one conversation has taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    resources: std::sync::Arc<Resources>,
    bytes: u64,
}

impl Room {
    pub(super) fn new(resources: std::sync::Arc<Resources>) -> Self {
        Self { resources, bytes: 0 }
    }

    /// Grows the content's buffer so that `more` bytes fit; `false` if there is no room for that. The buffer at least
    /// doubles, so that a message is not copied over and over as it grows.
    pub(super) fn grow(&mut self, content: &mut Vec<u8>, more: usize) -> bool {
        let needed = content.len() + more;
        if needed <= content.capacity() {
            return true;
        }
        let target = needed.max(content.capacity() * 2);
        let growth = target.saturating_sub(usize::try_from(self.bytes).unwrap_or(usize::MAX)) as u64;
        if !self.resources.reserve(growth) {
            return false;
        }
        self.bytes += growth;
        content.reserve_exact(target - content.len());
        true
    }

    /// Gives back what a buffer of this capacity does not need.
    pub(super) fn shrink_to(&mut self, capacity: usize) {
        let excess = self.bytes.saturating_sub(capacity as u64);
        self.resources.release(excess);
        self.bytes -= excess;
    }

    pub(super) fn resources(&self) -> &Resources {
        &self.resources
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.resources.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Resources, Room};

    #[test]
    fn room_is_taken_and_given_back() {
        let resources = Arc::new(Resources::new(0, 1_000));
        let mut room = Room::new(Arc::clone(&resources));
        let mut content = Vec::new();
        assert!(room.grow(&mut content, 600));
        assert_eq!(resources.message_bytes(), 600);
        content.resize(600, 0);
        assert!(!room.grow(&mut content, 1), "doubling to 1,200 does not fit");
        assert_eq!(resources.message_bytes(), 600);
        room.shrink_to(100);
        assert_eq!(resources.message_bytes(), 100);
        drop(room);
        assert_eq!(resources.message_bytes(), 0);
    }
}
