//! Events of the queue: what became of messages after they were acknowledged.
//!
//! One event tells of one attempt, of all recipients that fared alike. Replies of other servers are told as they came;
//! whoever renders them makes them harmless.

use std::time::Duration;

use super::{Describe, Fields, Severity, Text, microseconds, optional_text};

/// The recipients that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concerned {
    /// The message's id.
    pub message: Box<str>,
    /// Where it was to go, as the configuration says it.
    pub destination: Text,
    /// The recipient, if it concerns one only.
    pub recipient: Option<Box<str>>,
    /// How many recipients it concerns.
    pub recipients: u32,
}

impl Concerned {
    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("message", &self.message);
        fields.text("destination", &self.destination);
        optional_text(fields, "recipient", self.recipient.as_deref());
        fields.number("recipients", self.recipients.into());
    }
}

/// A message has reached its mailboxes, or the next server has taken it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDelivered {
    /// Whom it concerns.
    pub concerned: Concerned,
    /// From the message's arrival.
    pub age: Duration,
    /// What was said.
    pub reply: Box<str>,
}

impl Describe for MessageDelivered {
    const NAME: &'static str = "message_delivered";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        self.concerned.describe(fields);
        microseconds(fields, "age_us", self.age);
        fields.text("reply", &self.reply);
    }
}

/// A message could not be delivered now, and will be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDeferred {
    /// Whom it concerns.
    pub concerned: Concerned,
    /// From the message's arrival.
    pub age: Duration,
    /// The status of RFC 3463.
    pub status: Box<str>,
    /// What was said.
    pub reply: Box<str>,
}

impl Describe for MessageDeferred {
    const NAME: &'static str = "message_deferred";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        self.concerned.describe(fields);
        microseconds(fields, "age_us", self.age);
        fields.text("status", &self.status);
        fields.text("reply", &self.reply);
    }
}

/// A message was refused for good where it was to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageFailed {
    /// Whom it concerns.
    pub concerned: Concerned,
    /// The status of RFC 3463.
    pub status: Box<str>,
    /// What was said.
    pub reply: Box<str>,
}

impl Describe for MessageFailed {
    const NAME: &'static str = "message_failed";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        self.concerned.describe(fields);
        fields.text("status", &self.status);
        fields.text("reply", &self.reply);
    }
}

/// A message has waited longer than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageExpired {
    /// Whom it concerns.
    pub concerned: Concerned,
    /// What the last attempt came to.
    pub reply: Box<str>,
}

impl Describe for MessageExpired {
    const NAME: &'static str = "message_expired";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        self.concerned.describe(fields);
        fields.text("reply", &self.reply);
    }
}

/// The sender of a message is told what became of it, by a message in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportQueued {
    /// The id of the message that is reported on.
    pub message: Box<str>,
    /// The id of the report.
    pub report: Box<str>,
    /// Whom it goes to.
    pub sender: Box<str>,
    /// What is told: `failed`, `delayed`, `delivered` or `relayed`.
    pub action: &'static str,
}

impl Describe for ReportQueued {
    const NAME: &'static str = "report_queued";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("message", &self.message);
        fields.text("report", &self.report);
        fields.text("sender", &self.sender);
        fields.text("action", self.action);
    }
}

/// A destination cannot be reached: all that goes there waits, and one attempt at a time looks whether it is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationDown {
    /// The shard that has noticed; each notices for itself.
    pub shard: u16,
    /// The destination.
    pub destination: Text,
    /// Why.
    pub reason: Box<str>,
}

impl Describe for DestinationDown {
    const NAME: &'static str = "destination_down";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("shard", self.shard.into());
        fields.text("destination", &self.destination);
        fields.text("reason", &self.reason);
    }
}

/// A destination can be reached again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationUp {
    /// The shard that has noticed.
    pub shard: u16,
    /// The destination.
    pub destination: Text,
}

impl Describe for DestinationUp {
    const NAME: &'static str = "destination_up";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("shard", self.shard.into());
        fields.text("destination", &self.destination);
    }
}
