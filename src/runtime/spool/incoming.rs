//! A large message on its way into the spool, piece by piece, while its client is still sending it.
//!
//! It must not hold a piece once it is handed to the log, and it must leave nothing behind: whatever ends it before its
//! commit, its pieces are forgotten.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::{Inner, Slot, Spool, Stored};
use crate::limits::STREAM_WAITING_BYTES_MAX;
use crate::proto::message::{Message, MessageId, Piece};
use crate::proto::server::StoreFailure;
use crate::spool::log::Refusal;

/// The pieces of one message. Dropped before [`Incoming::commit`], they are forgotten.
pub struct Incoming {
    spool: Spool,
    /// None once the message is complete.
    message: Option<MessageId>,
    /// What becomes of the newest piece.
    newest: Option<Rc<Slot>>,
}

impl Spool {
    /// A message begins to come in.
    pub fn begin(&self, message: MessageId) -> Incoming {
        Incoming { spool: self.clone(), message: Some(message), newest: None }
    }
}

impl Incoming {
    /// Is it this message?
    pub fn is_of(&self, message: MessageId) -> bool {
        self.message == Some(message)
    }

    /// Appends the next piece. Returns when the piece before it is on stable storage and not too much waits for the disk: a
    /// client that sends faster than the disk writes is held up here, and has two pieces in memory at most.
    ///
    /// # Errors
    /// This piece or one before it cannot be written. Nothing can follow.
    pub async fn append(&mut self, piece: &Piece) -> Result<(), StoreFailure> {
        if let Some(before) = self.newest.take() {
            before.outcome().await?;
        }
        let spool = &self.spool.0;
        spool.room().await;
        let (ticket, slot) = spool.slot();
        let (message, index) = (piece.message, piece.index);
        let appended = spool.log.borrow_mut().append_part(spool.now(), message, index, &piece.content, ticket);
        if let Err(failure) = appended {
            spool.waiting.borrow_mut().remove(&ticket);
            return Err(failure.into());
        }
        spool.something_to_write.ring();
        self.newest = Some(slot);
        Ok(())
    }

    /// Puts the message, of which `message` is what follows the pieces, on stable storage; as [`Spool::commit`].
    pub async fn commit(mut self, message: Box<Message>) -> Stored {
        if let Some(failure) = self.failure() {
            return Stored { result: Err(failure.into()), message, fault: None };
        }
        // From here on the log has it: the message is committed, or the log forgets the pieces itself.
        self.message = None;
        self.spool.commit(message).await
    }

    /// Why the newest piece is not written, if that is known already.
    fn failure(&self) -> Option<Refusal> {
        self.newest.as_ref()?.outcome.take()?.err()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(message) = self.message {
            self.spool.0.log.borrow_mut().abandon(message);
            self.spool.0.something_to_keep.ring();
        }
    }
}

impl Inner {
    /// Waits until so little waits for the disk that a piece may join it.
    async fn room(&self) {
        poll_fn(|context| {
            if self.log.borrow().waiting_bytes() <= STREAM_WAITING_BYTES_MAX {
                return Poll::Ready(());
            }
            self.waiting_for_room.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
