//! TLS records by their headers (RFC 8446 §5.1): where one ends and the next begins, however the bytes are cut.
//!
//! Must not look inside a record, nor decide what becomes of one.

/// Follows records through bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(super) struct RecordCursor {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Bytes of the current record's content that are still to come.
    left: usize,
}

/// The next piece of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Of its header.
    Header(&'a [u8]),
    /// Of its content.
    Content(&'a [u8]),
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) bytes: [u8; HEADER_BYTES],
}

impl RecordCursor {
    /// Takes from `rest` what belongs to one part of one record.
    pub(super) fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Part<'a> {
        if self.left > 0 {
            let content = split_off(rest, self.left);
            self.left -= content.len();
            return Part::Content(content);
        }
        if self.header_bytes == HEADER_BYTES {
            self.header_bytes = 0;
        }
        let part = split_off(rest, HEADER_BYTES - self.header_bytes);
        self.header[self.header_bytes..][..part.len()].copy_from_slice(part);
        self.header_bytes += part.len();
        if let Some(header) = self.header() {
            self.left = header.content_bytes();
        }
        Part::Header(part)
    }

    /// Takes from `rest` what belongs to the current record, or to the next one if that is complete.
    pub(super) fn take_record<'a>(&mut self, rest: &mut &'a [u8]) -> &'a [u8] {
        let start = *rest;
        while !rest.is_empty() {
            self.next(rest);
            if self.is_at_end() {
                break;
            }
        }
        &start[..start.len() - rest.len()]
    }

    /// Is the current record complete?
    pub(super) fn is_at_end(&self) -> bool {
        self.header_bytes == HEADER_BYTES && self.left == 0
    }

    /// The header of the current record; `None` until it is complete.
    pub(super) fn header(&self) -> Option<Header> {
        (self.header_bytes == HEADER_BYTES).then_some(Header { bytes: self.header })
    }
}

impl Header {
    /// Is the content encrypted? In TLS 1.3 this type stands for whatever is inside.
    pub(super) fn is_application_data(&self) -> bool {
        self.bytes[0] == APPLICATION_DATA
    }

    pub(super) fn content_bytes(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[3], self.bytes[4]]))
    }
}

fn split_off<'a>(rest: &mut &'a [u8], bytes_max: usize) -> &'a [u8] {
    let (part, after) = rest.split_at(bytes_max.min(rest.len()));
    *rest = after;
    part
}

/// Type, version and length.
pub(super) const HEADER_BYTES: usize = 5;

const APPLICATION_DATA: u8 = 23;

#[cfg(test)]
mod tests {
    use super::{Part, RecordCursor};

    const RECORDS: &[u8] = b"\x16\x03\x01\x00\x03abc\x14\x03\x03\x00\x00\x17\x03\x03\x00\x02de";

    #[test]
    fn headers_and_contents_are_told_apart_however_they_are_cut() {
        for cut in 1..=RECORDS.len() {
            let mut cursor = RecordCursor::default();
            let (mut headers, mut contents, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
            for mut piece in RECORDS.chunks(cut) {
                while !piece.is_empty() {
                    match cursor.next(&mut piece) {
                        Part::Header(part) => {
                            headers.extend_from_slice(part);
                            kinds.extend(cursor.header().map(|header| header.is_application_data()));
                        }
                        Part::Content(part) => contents.extend_from_slice(part),
                    }
                }
            }
            assert_eq!((headers.len(), contents.as_slice()), (15, &b"abcde"[..]), "cut at {cut}");
            assert_eq!(kinds, [false, false, true]);
        }
    }

    #[test]
    fn a_record_is_taken_whole_if_it_is_there_and_nothing_behind_it() {
        for cut in 1..=RECORDS.len() {
            let mut cursor = RecordCursor::default();
            let (mut ends, mut bytes) = (Vec::new(), 0);
            for mut piece in RECORDS.chunks(cut) {
                while !piece.is_empty() {
                    bytes += cursor.take_record(&mut piece).len();
                    assert!(cursor.is_at_end() || piece.is_empty(), "cut at {cut}");
                    ends.extend(cursor.is_at_end().then_some(bytes));
                }
            }
            assert_eq!(ends, [8, 13, 20], "cut at {cut}");
        }
    }
}
