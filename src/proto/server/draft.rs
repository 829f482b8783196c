//! The message that a conversation is receiving.
//!
//! It takes memory when the first is begun, and none while it is away being stored or while the connection rests.

use std::ops::{Deref, DerefMut};

use crate::proto::message::Message;

/// A message under way, or none.
#[derive(Debug, Default)]
pub(super) struct Draft(Option<Box<Message>>);

static NOTHING: Message = Message::EMPTY;

impl Draft {
    /// Hands the message over.
    pub(super) fn take(&mut self) -> Box<Message> {
        self.0.take().unwrap_or_default()
    }

    /// Takes a message back, for its memory.
    pub(super) fn put_back(&mut self, message: Box<Message>) {
        self.0 = Some(message);
    }

    /// Forgets the message but keeps its memory, up to so many bytes of content.
    pub(super) fn clear(&mut self, kept_bytes_max: usize) {
        let Some(message) = &mut self.0 else {
            return;
        };
        message.clear();
        if message.content.capacity() > kept_bytes_max {
            message.content = Vec::new();
        }
    }

    /// Gives all memory back.
    pub(super) fn release(&mut self) {
        self.0 = None;
    }
}

impl Deref for Draft {
    type Target = Message;

    fn deref(&self) -> &Message {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut Message {
        self.0.get_or_insert_default()
    }
}
