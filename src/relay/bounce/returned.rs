//! What a report gives back of the message that it is about: all of it, or its header.
//!
//! It must not give back more than was asked for, nor declare a part to be what it is not: what is not ASCII goes as 8-bit
//! text, and a header that is not, as RFC 6533 has it.

use super::{Action, Told};
use crate::limits::{RETURNED_HEADER_BYTES_MAX, RETURNED_MESSAGE_BYTES_MAX};
use crate::proto::command::{Body, Ret};
use crate::proto::message::Message;

/// The last part of a report.
pub(super) struct Returned {
    pub(super) content_type: &'static str,
    pub(super) bytes: Vec<u8>,
    /// Is there a header that only RFC 6532 allows?
    pub(super) is_international: bool,
}

impl Returned {
    pub(super) fn of(original: &Message, told: &[Told<'_>]) -> Self {
        let header = header_of(original);
        let is_international = !header.is_ascii();
        if is_returned_whole(original, told) {
            let content_type = if is_international { "message/global" } else { "message/rfc822" };
            let bytes = [&*original.trace, &*original.content].concat();
            return Self { content_type, bytes, is_international };
        }
        let content_type = if is_international { "message/global-headers" } else { "text/rfc822-headers" };
        Self { content_type, bytes: header, is_international }
    }
}

/// Only a failure gives back all (RFC 3461 §4.3). Not what must not leave TLS (RFC 8689 §5), what is no text (RFC 3030 §3:
/// it would need another encoding inside), or what is very large.
fn is_returned_whole(original: &Message, told: &[Told<'_>]) -> bool {
    original.envelope.ret() == Some(Ret::Full)
        && told.iter().any(|told| told.action == Action::Failed)
        && !original.envelope.requires_tls()
        && original.envelope.body() != Body::BinaryMime
        && original.size() <= RETURNED_MESSAGE_BYTES_MAX as u64
}

/// Trace and header section, whole lines, as far as they fit; a line break that is none becomes a space.
fn header_of(original: &Message) -> Vec<u8> {
    let mut header = Vec::new();
    let lines = lines_of(&original.trace).chain(lines_of(&original.content));
    for line in lines.take_while(|line| *line != b"\r\n") {
        if header.len() + line.len() + 2 > RETURNED_HEADER_BYTES_MAX {
            break;
        }
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        header.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { *byte }));
        header.extend_from_slice(b"\r\n");
    }
    // What claims to be UTF-8 must be.
    if std::str::from_utf8(&header).is_err() {
        return String::from_utf8_lossy(&header).into_owned().into_bytes();
    }
    header
}

/// With their CRLF.
fn lines_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(line)
    })
}
