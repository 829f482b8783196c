//! What senders and operators are told of a message's way: reports, events, figures.
//!
//! What a report says is written by [`crate::relay::bounce`]; here it is stored and queued like any other message.

use super::Inner;
use crate::observe::event::{
    Concerned, DeliveryFault, DestinationDown, DestinationUp, MessageDeferred, MessageDelivered, MessageExpired,
    MessageFailed, ReportQueued,
};
use crate::observe::label::AttemptKind;
use crate::proto::message::Message;
use crate::relay::bounce::{self, Action, Circumstances, Told};
use crate::relay::outcome::{AttemptResult, Hop, Outcome, Reason};
use crate::relay::queue::{Attempt, Change, Late};
use crate::relay::route::DestinationNumber;

impl Inner {
    // ── Senders ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Tells the sender what has become of their message, as far as they want to know. Returns whether all that had to be
    /// told is on stable storage.
    pub(super) async fn tell_settled(&self, message: &Message, result: &AttemptResult, success: Action) -> bool {
        let told = bounce::settled(&message.envelope, &result.outcomes, success);
        self.tell(message, &told, None).await
    }

    /// Tells the sender that their message is late, if they want to know.
    pub(super) async fn tell_late(&self, message: &Message, late: &Late) -> bool {
        let reason = bounce::delay_reason(late.last_reply.as_deref());
        let told = bounce::late(&message.envelope, &late.recipients, &reason);
        self.tell(message, &told, Some(late.time_left)).await
    }

    async fn tell(&self, message: &Message, told: &[Told<'_>], time_left: Option<std::time::Duration>) -> bool {
        let Some(first) = told.first() else { return true };
        let now = self.now();
        let id = self.resources.next_message_id(now);
        let circumstances = Circumstances { id, host_name: &self.host_name, now, time_left };
        let report = bounce::report(message, told, &circumstances);
        let stored = self.spool.commit(report).await;
        if stored.result.is_err() {
            self.report_fault(message, "a report to its sender cannot be stored now".to_owned());
            return false;
        }
        self.report(ReportQueued {
            message: message.id.as_str().into(),
            report: id.as_str().into(),
            sender: message.envelope.sender().into(),
            action: first.action.word(),
        });
        self.accept(&stored.message);
        true
    }

    // ── Operators ───────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn report_fault(&self, message: &Message, reason: String) {
        self.report(DeliveryFault { message: message.id.as_str().into(), recipient: None, reason: reason.into() });
    }

    /// One event for all recipients of an attempt that fared alike.
    pub(super) fn report_result(&self, attempt: &Attempt, message: Option<&Message>, result: &AttemptResult) {
        let sorted = Sorted::of(attempt, result);
        if let Some(metrics) = self.metrics.destinations.get(attempt.destination.0 as usize) {
            metrics.attempts.count(sorted.kind(result));
        }
        let age = self.now().unix.saturating_sub(attempt.message.received());
        if let Some((reason, numbers)) = sorted.delivered {
            let concerned = self.concerned(attempt, message, &numbers);
            self.report(MessageDelivered { concerned, age, reply: reason.text.clone() });
        }
        if let Some((Reason { status, text, .. }, numbers)) = sorted.failed {
            let concerned = self.concerned(attempt, message, &numbers);
            self.report(MessageFailed { concerned, status: status.clone(), reply: text.clone() });
        }
        if let Some((Reason { status, text, .. }, numbers)) = sorted.deferred {
            let concerned = self.concerned(attempt, message, &numbers);
            self.report(MessageDeferred { concerned, age, status: status.clone(), reply: text.clone() });
        }
    }

    pub(super) fn report_expiry(&self, attempt: &Attempt, message: Option<&Message>, result: &AttemptResult) {
        let sorted = Sorted::of(attempt, result);
        let age = self.now().unix.saturating_sub(attempt.message.received());
        if let Some((_, numbers)) = sorted.failed {
            let concerned = self.concerned(attempt, message, &numbers);
            self.report(MessageExpired { concerned, reply: attempt.last_reply.as_deref().unwrap_or_default().into() });
        }
        if let Some((Reason { status, text, .. }, numbers)) = sorted.deferred {
            let concerned = self.concerned(attempt, message, &numbers);
            self.report(MessageDeferred { concerned, age, status: status.clone(), reply: text.clone() });
        }
    }

    pub(super) fn report_change(&self, destination: DestinationNumber, change: Change) {
        let name = self.routes.destination(destination).to_string().into();
        match change {
            Change::Up => self.report(DestinationUp { shard: self.shard, destination: name }),
            Change::Down(reason) => {
                self.report(DestinationDown { shard: self.shard, destination: name, reason: reason.text });
            }
        }
    }

    fn concerned(&self, attempt: &Attempt, message: Option<&Message>, numbers: &[u32]) -> Concerned {
        let only = message.filter(|_| numbers.len() == 1);
        let recipient = only.and_then(|message| message.envelope.recipients().nth(numbers[0] as usize));
        Concerned {
            message: attempt.message.as_str().into(),
            destination: self.routes.destination(attempt.destination).to_string().into(),
            recipient: recipient.map(|recipient| recipient.address.into()),
            recipients: u32::try_from(numbers.len()).unwrap_or(u32::MAX),
        }
    }
}

/// The recipients of an attempt by what has become of them, each kind with the first reason.
#[derive(Default)]
struct Sorted<'a> {
    delivered: Option<(&'a Reason, Vec<u32>)>,
    failed: Option<(&'a Reason, Vec<u32>)>,
    deferred: Option<(&'a Reason, Vec<u32>)>,
}

impl<'a> Sorted<'a> {
    fn of(attempt: &Attempt, result: &'a AttemptResult) -> Self {
        let mut sorted = Self::default();
        for (number, outcome) in &result.outcomes {
            let (kind, reason) = match outcome {
                Outcome::Delivered(reason) => (&mut sorted.delivered, reason),
                Outcome::Failed(reason) => (&mut sorted.failed, reason),
                Outcome::Deferred(reason) => (&mut sorted.deferred, reason),
            };
            kind.get_or_insert_with(|| (reason, Vec::new())).1.push(*number);
        }
        if let (Hop::Unreachable(reason), true) = (&result.hop, result.outcomes.is_empty()) {
            sorted.deferred = Some((reason, attempt.recipients.clone()));
        }
        sorted
    }

    /// What the attempt counts as.
    fn kind(&self, result: &AttemptResult) -> AttemptKind {
        if matches!(result.hop, Hop::Unreachable(_)) {
            AttemptKind::Unreachable
        } else if self.deferred.is_some() {
            AttemptKind::Deferred
        } else if self.failed.is_some() {
            AttemptKind::Failed
        } else {
            AttemptKind::Delivered
        }
    }
}
