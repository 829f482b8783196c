//! What a server may have taken although it did not say so: what is told as uncertain, and what may be sent again.
//!
//! Judges what was sent when a connection broke; sends nothing itself.
//!
//! ```text
//!   sent whole, no answer ──under a token──▶ doubted ──token and same recipients, next connection──▶ sent again
//!                     │                         └─────no token, or not all at once─────┐
//!                     └────without a token─────────────────────────────────────────────┴──▶ Verdict::Uncertain
//! ```
//!
//! A token names a message for the recipients whom the server accepted. So of one message no two parts are in doubt together:
//! the recipients who are left uncertain can be asked for again as they were sent. A message can also come here
//! [in doubt](super::Message::doubted) from an earlier client.

use super::Client;
use super::fallback::{Failure, How, Recovery};
use super::flight::Step;
use super::message::Verdict;
use super::state::State;
use super::transaction::{Fate, Transaction};
use crate::time::Now;

impl Client {
    /// The connection broke and no other one would help.
    pub(super) fn finish_broken(&mut self, failure: Failure) {
        let expected = &self.link.expected;
        let unanswered = self.link.transactions.iter().filter(|transaction| transaction.awaits_end(expected));
        let uncertain: Vec<_> = unanswered.map(|t| (t.job, t.accepted_or_unanswered(expected))).collect();
        for (job, recipients) in uncertain {
            self.settle_open(job, &recipients, &Verdict::Uncertain);
        }
        self.finish_without_goodbye(Some(failure));
    }

    /// The connection broke and another one may do better. What the server may have taken is not sent again by itself; if
    /// nothing else is left, there is no reason to connect.
    pub(super) fn reconnect_broken(&mut self, now: Now, how: How, failure: Failure) {
        let was_settled = self.are_all_settled();
        self.settle_doubts();
        if was_settled || !self.are_all_settled() {
            return self.reconnect(now, how);
        }
        self.give_up_quickstart(now);
        self.finish_without_goodbye(Some(failure));
    }

    /// Settles the messages that may have been taken, or remembers them if the next server may tell by their tokens.
    fn settle_doubts(&mut self) {
        let doubtful = self.link.transactions.iter().filter(|transaction| self.may_be_taken(transaction));
        let doubtful: Vec<_> = doubtful
            .map(|t| (t.job, t.recipients.clone(), t.accepted_or_unanswered(&self.link.expected)))
            .filter(|(_, _, recipients)| !recipients.is_empty())
            .collect();
        for (job, all, recipients) in doubtful {
            if self.bears_token(job) {
                self.jobs[job].doubted = all;
            } else {
                self.settle_open(job, &recipients, &Verdict::Uncertain);
            }
        }
    }

    /// Can the server have the whole message, and reason to keep it?
    fn may_be_taken(&self, transaction: &Transaction) -> bool {
        // Nothing is said behind the message before the server has agreed to something: so it has left, or waits here.
        let has_left = transaction.awaits_end(&self.link.expected) && self.link.output.is_empty();
        // After a wrong id nothing counts but another hello (draft §8).
        let id_refused = self.link.state == State::Draining(Recovery::Qhlo(self.link.point));
        let is_refused = id_refused || transaction.mail_accepted == Some(false);
        // As long as the handshake is not done, a message is stored under a token only (S4 in the profile of early data).
        let counts = self.link.early.is_none() || self.bears_token(transaction.job);
        has_left && counts && !is_refused
    }

    /// Is this message sent under a token here?
    pub(super) fn bears_token(&self, job: usize) -> bool {
        self.offered().once && self.jobs[job].message.once.is_some()
    }

    /// Can sending the message to these recipients make no second one of it?
    pub(super) fn may_be_sent(&self, job: usize, recipients: &[usize]) -> bool {
        let doubted = &self.jobs[job].doubted;
        let is_first = !recipients.iter().any(|recipient| doubted.contains(recipient));
        // For other recipients it would be another message.
        is_first || (self.bears_token(job) && recipients == doubted)
    }

    /// May the message be there already for several recipients together? Should the server refuse one of them now, the token would
    /// name another message to it, so it hears who they are before it gets the content.
    pub(super) fn is_in_doubt(&self, transaction: &Transaction) -> bool {
        let doubted = &self.jobs[transaction.job].doubted;
        doubted.len() > 1 && transaction.recipients == *doubted
    }

    /// The server here could not tell that it has the message already.
    pub(super) fn leave_uncertain(&mut self, job: usize) -> Step {
        if !self.is_confirmed() {
            // The list is only remembered so far and may have changed.
            return Step::Blocked;
        }
        let job = &mut self.jobs[job];
        for recipient in job.doubted.clone() {
            if job.fates[recipient] == Fate::Waiting {
                job.settle(recipient, &Verdict::Uncertain);
            }
        }
        Step::Taken
    }
}
