//! One transaction: a message on its way to some of its recipients.
//!
//! Keeps count; `flight` sends it and `reply` judges it.

use std::collections::VecDeque;

use super::message::{Message, Verdict};
use super::state::Expected;
use crate::proto::dot_stuffing::DotStuffing;

/// A message and the fate of each of its recipients.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) message: Message,
    pub(super) fates: Vec<Fate>,
    /// Recipients for whom a server may have taken it already, on a connection that broke. They can have it again under the
    /// token, if it is for all of them and nobody else with them: for others it would be another message.
    pub(super) doubted: Vec<usize>,
}

/// Where a recipient stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not in a transaction.
    Waiting,
    /// In a transaction.
    Open,
    /// Done with.
    Settled(Verdict),
}

impl Job {
    pub(super) fn new(message: Message) -> Self {
        let count = message.recipients.len();
        let doubted = if message.doubted { (0..count).collect() } else { Vec::new() };
        Self { fates: vec![Fate::Waiting; count], message, doubted }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.fates.iter().all(|fate| matches!(fate, Fate::Settled(_)))
    }

    /// Recipients that are not in a transaction yet and can be in the next one together.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> {
        let waits = |recipient: &usize| self.fates[*recipient] == Fate::Waiting;
        let doubted_first = self.doubted.iter().any(waits);
        (0..self.fates.len()).filter(waits).filter(move |recipient| !doubted_first || self.doubted.contains(recipient))
    }

    /// Settles one recipient. That the message was not sent now is not the whole truth if it may have been taken before.
    pub(super) fn settle(&mut self, recipient: usize, verdict: &Verdict) {
        let may_have_it = matches!(verdict, Verdict::Unsent(_)) && self.doubted.contains(&recipient);
        self.fates[recipient] = Fate::Settled(if may_have_it { Verdict::Uncertain } else { verdict.clone() });
    }

    /// Settles the recipients that are not settled yet.
    pub(super) fn settle_rest(&mut self, verdict: &Verdict) {
        self.settle_where(|fate| !matches!(fate, Fate::Settled(_)), verdict);
    }

    /// Settles the recipients that are not in a transaction yet.
    pub(super) fn settle_waiting(&mut self, verdict: &Verdict) {
        self.settle_where(|fate| *fate == Fate::Waiting, verdict);
    }

    fn settle_where(&mut self, is_meant: impl Fn(&Fate) -> bool, verdict: &Verdict) {
        for recipient in 0..self.fates.len() {
            if is_meant(&self.fates[recipient]) {
                self.settle(recipient, verdict);
            }
        }
    }

    /// The verdicts; a recipient without one was given up with the session.
    pub(super) fn into_verdicts(self) -> Vec<Verdict> {
        let verdict = |fate| if let Fate::Settled(verdict) = fate { verdict } else { Verdict::Uncertain };
        self.fates.into_iter().map(verdict).collect()
    }
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Counts the transactions of this client, so that replies find theirs.
    pub(super) number: u64,
    /// Index of its job.
    pub(super) job: usize,
    /// Indices of its recipients in the message.
    pub(super) recipients: Vec<usize>,
    /// What is sent next.
    pub(super) phase: Phase,
    /// Replies owed to it.
    pub(super) owed: usize,
    /// The server accepted MAIL; `None` before its reply.
    pub(super) mail_accepted: Option<bool>,
    /// Recipients that the server accepted.
    pub(super) accepted: Vec<usize>,
    /// How many of them have their own reply to the end of the message (LMTP only).
    pub(super) answered: usize,
    /// The server refused one at least.
    pub(super) any_refused: bool,
    /// The reply to the end of the message was positive.
    pub(super) taken: bool,
}

/// What a transaction sends next.
#[derive(Debug)]
pub(super) enum Phase {
    Mail,
    /// RCPT for the recipient of this position.
    Recipient(usize),
    /// DATA or BDAT.
    Content,
    /// The reply to DATA comes first.
    AwaitData,
    /// The message, from this offset in bytes.
    Body {
        offset: usize,
        dots: Option<DotStuffing>,
    },
    /// All is sent, or the rest is not worth sending.
    Sent,
}

impl Transaction {
    pub(super) const fn new(number: u64, job: usize, recipients: Vec<usize>) -> Self {
        Self {
            number,
            job,
            recipients,
            phase: Phase::Mail,
            owed: 0,
            mail_accepted: None,
            accepted: Vec::new(),
            answered: 0,
            any_refused: false,
            taken: false,
        }
    }

    pub(super) const fn is_sent(&self) -> bool {
        matches!(self.phase, Phase::Sent)
    }

    pub(super) const fn is_over(&self) -> bool {
        self.is_sent() && self.owed == 0
    }

    /// Are there recipients left who want the message, by what is known?
    pub(super) fn is_worth_its_content(&self, all_or_none: bool) -> bool {
        self.mail_accepted != Some(false) && !self.accepted.is_empty() && !(all_or_none && self.any_refused)
    }
}

impl Transaction {
    /// Is the message sent whole, and the reply to it owed?
    pub(super) fn awaits_end(&self, expected: &VecDeque<Expected>) -> bool {
        self.is_sent() && expected.contains(&Expected::End(self.number))
    }

    /// The recipients whom the server accepted or has not answered yet.
    pub(super) fn accepted_or_unanswered(&self, expected: &VecDeque<Expected>) -> Vec<usize> {
        let unanswered = |recipient| expected.contains(&Expected::Recipient(self.number, recipient));
        let wanted = |recipient: &usize| self.accepted.contains(recipient) || unanswered(*recipient);
        self.recipients.iter().copied().filter(wanted).collect()
    }
}

impl Transaction {
    /// MAIL was refused: what has not been said yet need not be. A message whose length was announced must still be
    /// sent, and DATA that was said is still answered.
    pub(super) fn stop(&mut self) {
        if matches!(self.phase, Phase::Mail | Phase::Recipient(_) | Phase::Content) {
            self.phase = Phase::Sent;
        }
    }
}
