//! How far a queued message has come: what is written down beside it after each attempt.

use std::time::Duration;

use crate::proto::message::MessageId;

/// The state of one message in the queue. A newer one takes the place of an older one as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The message.
    pub message: MessageId,
    /// The state of each recipient, in the order of the envelope.
    pub recipients: Vec<RecipientState>,
    /// Attempts so far, all destinations together.
    pub attempts: u32,
    /// When the next attempt is due, on the wall clock since the Unix epoch.
    pub next_attempt: Duration,
    /// An operator holds it back.
    pub held: bool,
    /// Its sender was told that it is late.
    pub warned: bool,
    /// What the last attempt came to, for people to read; at most [`crate::limits::LAST_REPLY_BYTES_MAX`] bytes.
    pub last_reply: String,
}

/// What has become of one recipient so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecipientState {
    /// Still to be delivered.
    #[default]
    Waiting,
    /// Whoever comes next has taken responsibility.
    Delivered,
    /// Given up; the sender was told if they wanted to be.
    Failed,
}
