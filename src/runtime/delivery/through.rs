//! Messages handed through to another server while their clients wait: no queue, nothing kept (`--sync through`).
//!
//! It must not acknowledge what the other server has not acknowledged.

use super::Delivered;
use super::relay::{Relay, RelaySettings};
use crate::limits::DELIVERY_QUEUE_MAX;
use crate::proto::message::Message;
use crate::proto::proof::Committed;
use crate::proto::server::StoreFailure;
use crate::relay::through::answer;
use crate::runtime::clock::Clock;

/// One shard's way through.
#[derive(Debug)]
pub struct Through {
    relay: Relay,
}

impl Through {
    /// Nothing is connected yet. Must be called on an executor of glommio, on which it stays.
    pub fn start(settings: RelaySettings, clock: Clock) -> Self {
        Self { relay: Relay::start(settings, clock) }
    }

    /// Hands a message to the other server, for all its recipients or none, and waits for its answer.
    pub async fn deliver(&self, message: Box<Message>) -> Delivered {
        if self.relay.waiting() >= DELIVERY_QUEUE_MAX {
            return Delivered::busy(message);
        }
        let result = self.relay.carry_whole(&message).await;
        match answer(&message.envelope, &result) {
            // The other server has it, and has said so: that is the storage here.
            Ok(()) => Delivered { result: Ok(Committed::attested_by_storage()), message, fault: None },
            Err(refused) => Delivered {
                result: Err(StoreFailure::Foreign(refused.reply)),
                message,
                fault: refused.fault.map(String::from),
            },
        }
    }

    /// Says goodbye to the other server.
    pub async fn close(&self) {
        self.relay.close().await;
    }
}
