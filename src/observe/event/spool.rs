//! Events of the spool: what was found at start, and what the disk does meanwhile.

use std::time::Duration;

use super::{Describe, Fields, Severity, Text, microseconds, optional_text};

/// The spool was read. Nothing need be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOpened {
    /// Messages that are queued.
    pub messages: u64,
    /// Bytes that were being written when the server stopped: nobody was told that they were stored.
    pub cut_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl Describe for SpoolOpened {
    const NAME: &'static str = "spool_opened";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("messages", self.messages);
        fields.number("cut_bytes", self.cut_bytes);
        microseconds(fields, "took_us", self.took);
    }
}

/// Something that was stored cannot be read any more. It is set aside, and the rest is used.
///
/// The device loses data: replace it. What was set aside may still be of use to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolDamaged {
    /// The file.
    pub segment: Text,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The message that is lost, if its name is known.
    pub message: Option<Box<str>>,
    /// The file in which the damaged bytes are kept.
    pub kept: Text,
}

impl Describe for SpoolDamaged {
    const NAME: &'static str = "spool_damaged";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("segment", &self.segment);
        fields.number("offset", self.offset);
        fields.number("bytes", self.bytes);
        optional_text(fields, "message", self.message.as_deref());
        fields.text("kept", &self.kept);
    }
}

/// The system refused to write or sync a file of the spool. The file is given up, the messages of that batch were put off.
///
/// Look at the device that `reason` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolFault {
    /// What was refused, and with which file.
    pub reason: Text,
}

impl Describe for SpoolFault {
    const NAME: &'static str = "spool_fault";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("reason", &self.reason);
    }
}

/// The disk has no room for a further segment: messages are put off until it has. Told once a minute at most.
///
/// Make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolFull {
    /// Where there is no room.
    pub directory: Text,
}

impl Describe for SpoolFull {
    const NAME: &'static str = "spool_full";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("directory", &self.directory);
    }
}
