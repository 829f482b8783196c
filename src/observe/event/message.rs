//! Events in the life of a message.
//!
//! They name envelope and size; nothing from inside the message is told.

use std::time::Duration;

use super::{ConnectionId, Describe, Fields, Severity, Text, UserName, microseconds, optional_text};
use crate::observe::label::{BodyKind, ReplyClass};

/// A message is stored durably and acknowledged.
///
/// Nothing need be done. A growing `commit_us` says that the disk is slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageStored {
    /// The connection's number.
    pub connection: ConnectionId,
    /// The message's id, as the client was told it.
    pub message: Box<str>,
    /// Who submitted it.
    pub user: UserName,
    /// The envelope's sender; empty for the null sender.
    pub sender: Box<str>,
    /// The number of recipients.
    pub recipients: u32,
    /// Bytes of the message as stored.
    pub bytes: u64,
    /// The encoding that MAIL announced.
    pub body: BodyKind,
    /// From the end of the message to its being durable.
    pub commit: Duration,
}

impl Describe for MessageStored {
    const NAME: &'static str = "message_stored";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("id", &self.connection.to_string());
        fields.text("message", &self.message);
        fields.text("user", &self.user);
        fields.text("sender", &self.sender);
        fields.number("recipients", self.recipients.into());
        fields.number("bytes", self.bytes);
        fields.text("body", self.body.word());
        microseconds(fields, "commit_us", self.commit);
    }
}

/// A message that was stored before came again under the same token (`XONCE`): it was acknowledged and not stored.
///
/// Nothing need be done: a client did not learn what became of its message, and asked in the safe way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRepeated {
    /// The connection's number.
    pub connection: ConnectionId,
    /// The id under which it was stored the first time.
    pub message: Box<str>,
    /// Who submitted it.
    pub user: UserName,
}

impl Describe for MessageRepeated {
    const NAME: &'static str = "message_repeated";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("id", &self.connection.to_string());
        fields.text("message", &self.message);
        fields.text("user", &self.user);
    }
}

/// A message was refused, at MAIL, at its end or in between.
///
/// A reply of 5xx is the client's affair and `reason` says which rule it met; 4xx is ours: look at memory and disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRefused {
    /// The connection's number.
    pub connection: ConnectionId,
    /// Who wanted to submit it, if anyone had authenticated.
    pub user: Option<UserName>,
    /// The envelope's sender, if MAIL could be understood.
    pub sender: Option<Box<str>>,
    /// The code of the reply, 400 to 599.
    pub reply_code: u16,
    /// Why.
    pub reason: Text,
}

impl MessageRefused {
    /// Whether the client may try again.
    pub const fn class(&self) -> ReplyClass {
        if self.reply_code < 500 { ReplyClass::Transient } else { ReplyClass::Permanent }
    }
}

impl Describe for MessageRefused {
    const NAME: &'static str = "message_refused";

    fn severity(&self) -> Severity {
        match self.class() {
            ReplyClass::Transient => Severity::Warning,
            ReplyClass::Permanent => Severity::Info,
        }
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("id", &self.connection.to_string());
        optional_text(fields, "user", self.user.as_deref());
        optional_text(fields, "sender", self.sender.as_deref());
        fields.number("reply_code", self.reply_code.into());
        fields.text("reason", &self.reason);
    }
}

/// A message could not be put where it belongs, because something here does not work.
///
/// Look at the place that `reason` names: room, permissions, the device. Nothing that was acknowledged is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryFault {
    /// The message's id.
    pub message: Box<str>,
    /// The recipient concerned, if it concerns one only.
    pub recipient: Option<Box<str>>,
    /// What went wrong, and where.
    pub reason: Text,
}

impl Describe for DeliveryFault {
    const NAME: &'static str = "delivery_fault";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("message", &self.message);
        optional_text(fields, "recipient", self.recipient.as_deref());
        fields.text("reason", &self.reason);
    }
}
