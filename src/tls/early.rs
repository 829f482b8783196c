//! How a server skips early data (RFC 8446 §2.3) that was rejected.
//!
//! Must not decide whether it is (the TLS library does).

use super::record::{HEADER_BYTES, Header, Part, RecordCursor};
use crate::limits;

/// Parts rejected early data from the handshake that goes on behind it, by the outside of their records.
///
/// The library would try to decrypt each record, and keep those that it cannot until it meets one that it can: beyond 16
/// KiB of them it breaks the connection. But until the server's first flight has left, a client can send nothing that is
/// encrypted but early data; and afterwards the one message that it must send is the Finished, a small record.
#[derive(Debug, Default)]
pub(super) struct Skipper {
    fate: Fate,
    answer: Answer,
    skipped_bytes: usize,
}

/// Where the current record goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Library,
    Nowhere,
}

/// Has the server's first flight left?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Answer {
    #[default]
    Pending,
    Sent,
}

/// What a skipper lets pass of the bytes that it took.
pub(super) enum Passed<'a> {
    Nothing,
    Header([u8; HEADER_BYTES]),
    Content(&'a [u8]),
}

pub(super) struct TooMuchSkipped;

impl Skipper {
    pub(super) fn next<'a>(
        &mut self,
        records: &mut RecordCursor,
        rest: &mut &'a [u8],
    ) -> Result<Passed<'a>, TooMuchSkipped> {
        match (records.next(rest), records.header()) {
            (Part::Header(_), None) => Ok(Passed::Nothing),
            (Part::Header(_), Some(header)) => self.judge(header),
            (Part::Content(content), _) if self.fate == Fate::Library => Ok(Passed::Content(content)),
            (Part::Content(_), _) => Ok(Passed::Nothing),
        }
    }

    fn judge<'a>(&mut self, header: Header) -> Result<Passed<'a>, TooMuchSkipped> {
        let may_be_finished = self.answer == Answer::Sent && header.content_bytes() <= FINISHED_RECORD_BYTES_MAX;
        if !header.is_application_data() || may_be_finished {
            self.fate = Fate::Library;
            return Ok(Passed::Header(header.bytes));
        }
        self.fate = Fate::Nowhere;
        self.skipped_bytes += header.content_bytes();
        if self.skipped_bytes > limits::TLS_EARLY_DATA_BYTES_MAX { Err(TooMuchSkipped) } else { Ok(Passed::Nothing) }
    }

    pub(super) fn note_answer(&mut self, leaves_now: bool) {
        if leaves_now {
            self.answer = Answer::Sent;
        }
    }
}

/// Longest record, as its header has it, that is tried for the client's Finished: with the hash of all our suites it has 36
/// bytes (RFC 8446 §4.4.4), and encryption adds 17. What is more is left for a client that pads its records (§5.4).
const FINISHED_RECORD_BYTES_MAX: usize = 128;
