//! The server's end of early data (RFC 8446 §2.3): where it is held until somebody reads it, and how it is skipped if it was
//! rejected.
//!
//! Must not decide whether it is accepted (the TLS library does), nor what it may do.

use std::io::Read;

use rustls::ServerConnection;

use super::record::{HEADER_BYTES, Header, Part, RecordCursor};
use super::session::EarlyOutcome;
use crate::limits;

/// The early data of one connection on its way to the reader.
#[derive(Debug)]
pub(super) struct EarlyInput {
    pub(super) outcome: EarlyOutcome,
    bytes: Vec<u8>,
    read: usize,
}

impl EarlyInput {
    pub(super) fn new(outcome: EarlyOutcome) -> Self {
        Self { outcome, bytes: Vec::new(), read: 0 }
    }

    /// Empties the library's buffer, whose bound counts what it holds and what has passed through it alike.
    pub(super) fn gather(&mut self, connection: &mut ServerConnection) {
        let Some(mut early) = connection.early_data() else { return };
        let mut piece = [0; EARLY_PIECE_BYTES];
        while let Ok(bytes @ 1..) = early.read(&mut piece) {
            self.bytes.extend_from_slice(&piece[..bytes]);
        }
        assert!(self.bytes.len() <= limits::TLS_EARLY_DATA_BYTES_MAX, "the library keeps the bound");
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    /// Gives its memory back, if there is nothing in it.
    pub(super) fn rest(&mut self) {
        if self.unread().is_empty() {
            self.bytes = Vec::new();
        }
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.unread().len(), "more consumed than there is");
        self.read += bytes;
        if self.unread().is_empty() {
            self.bytes.clear();
            self.read = 0;
        }
    }
}

/// Early data is taken out of the library in pieces of this size: most of it fits one.
const EARLY_PIECE_BYTES: usize = 2_048;

/// Parts rejected early data from the handshake that goes on behind it, by the outside of their records.
///
/// The library would try to decrypt each record, and keep those that it cannot until it meets one that it can: beyond 16
/// KiB of them it breaks the connection. But until the server's first flight has left, a client can send nothing that is
/// encrypted but early data; and afterwards the one message that it must send is the Finished, a small record.
#[derive(Debug, Default)]
pub(super) struct Skipper {
    records: RecordCursor,
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
    pub(super) fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Passed<'a>, TooMuchSkipped> {
        match (self.records.next(rest), self.records.header()) {
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
