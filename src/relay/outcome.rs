//! What one attempt to pass a message on came to.

/// An attempt: one message, one destination, some of the message's recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptResult {
    /// For each recipient that was tried, by its number in the envelope.
    pub outcomes: Vec<(u32, Outcome)>,
    /// Whether the destination could be talked to at all. One that could not is left alone for a while, with all that waits
    /// for it.
    pub hop: Hop,
}

/// Was there anybody?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It answered, whatever it said about this message.
    Reached,
    /// No connection, no TLS, no login, or a 421: nothing about this message.
    Unreachable(Reason),
    /// It was not asked: what became of the message was decided here.
    Unasked,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop, or the mailbox, has it.
    Delivered(Reason),
    /// Not now: to be tried again.
    Deferred(Reason),
    /// Never: the sender is told.
    Failed(Reason),
}

/// What was said, and by whom: enough for a log line, `onetrip queue show`, and a delivery status notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The status of RFC 3463, like `5.1.1`.
    pub status: Box<str>,
    /// For people: the reply as it came on one line (`550 5.1.1 no such user`), or words of ours.
    pub text: Box<str>,
    /// The name of the host that replied; `None` if the words are ours.
    pub remote: Option<Box<str>>,
    /// Did the next hop take over the duty to send delivery status notifications (RFC 3461 §5.2.2)?
    pub passes_dsn: bool,
}

impl AttemptResult {
    /// The same has become of all `recipients`, without the destination having been asked.
    pub fn of_all(recipients: &[u32], outcome: &Outcome) -> Self {
        let outcomes = recipients.iter().map(|number| (*number, outcome.clone())).collect();
        Self { outcomes, hop: Hop::Unasked }
    }

    /// Whoever was refused for good waits on, because their sender could not be told.
    pub fn keep_waiting(&mut self) {
        for (_, outcome) in &mut self.outcomes {
            if let Outcome::Failed(reason) = outcome {
                *outcome = Outcome::Deferred(std::mem::take(reason));
            }
        }
    }
}

impl Reason {
    /// In words of ours.
    pub fn ours(status: &str, text: &str) -> Self {
        Self { status: status.into(), text: text.into(), remote: None, passes_dsn: false }
    }
}
