//! What the next bytes of the stream are, and how to skip those that belong to something refused.

use crate::limits::REFUSED_TLS_BYTES_MAX;
use crate::proto::reply::Reply;

/// What the next bytes are.
#[derive(Debug)]
pub(super) enum Framing {
    /// Lines.
    Lines,
    /// Content of a message; the state says how it is framed.
    Content,
    /// Perhaps TLS records: a STARTTLS or QTLS was refused, and the client may have sent its ClientHello along with it
    /// (draft §9).
    RefusedHandshake(RecordSkipper),
    /// Octets of a refused BDAT: they come all the same (RFC 3030 §2). The reply goes out after them.
    RefusedChunk { left: u64, reply: Reply },
}

/// Skips TLS records by their headers, however they are cut, early data among them; stops at the first byte that cannot
/// begin a record. Commands begin with letters, records with a content type from 20 to 23, so the two are never mistaken
/// for each other.
#[derive(Debug, Default)]
pub(super) struct RecordSkipper {
    header: [u8; RecordSkipper::HEADER_BYTES],
    header_bytes: usize,
    left: usize,
    skipped: usize,
}

/// What became of some input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Skip<'a> {
    /// All of it was TLS; more may come.
    More,
    /// Here SMTP goes on.
    Done(&'a [u8]),
    /// That is more than any handshake has.
    TooMuch,
}

impl RecordSkipper {
    const HEADER_BYTES: usize = 5;

    pub(super) fn skip<'a>(&mut self, mut input: &'a [u8]) -> Skip<'a> {
        while let Some(first) = input.first() {
            if self.left == 0 && self.header_bytes == 0 && !begins_record(*first) {
                return Skip::Done(input);
            }
            let taken = if self.left > 0 { self.skip_content(input) } else { self.read_header(input) };
            self.skipped += taken;
            if self.skipped > REFUSED_TLS_BYTES_MAX {
                return Skip::TooMuch;
            }
            input = &input[taken..];
        }
        Skip::More
    }

    fn skip_content(&mut self, input: &[u8]) -> usize {
        let taken = self.left.min(input.len());
        self.left -= taken;
        taken
    }

    fn read_header(&mut self, input: &[u8]) -> usize {
        let taken = (Self::HEADER_BYTES - self.header_bytes).min(input.len());
        self.header[self.header_bytes..self.header_bytes + taken].copy_from_slice(&input[..taken]);
        self.header_bytes += taken;
        if self.header_bytes == Self::HEADER_BYTES {
            self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            self.header_bytes = 0;
        }
        taken
    }
}

/// Can this byte begin a TLS record? change_cipher_spec, alert, handshake, application_data (RFC 8446 §5.1).
pub(super) fn begins_record(byte: u8) -> bool {
    (20..=23).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::{RecordSkipper, Skip};

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 3, 1];
        record.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        record.extend_from_slice(content);
        record
    }

    #[test]
    fn records_are_skipped_whole_however_they_are_cut() {
        let mut stream = record(22, b"hello\r\nQUIT\r\n");
        stream.extend(record(20, b"\x01"));
        stream.extend(record(23, b"early data\r\n"));
        stream.extend(record(23, b""));
        stream.extend_from_slice(b"QHLO a b\r\n");
        for cut in 0..=stream.len() {
            let mut skipper = RecordSkipper::default();
            let rest = match skipper.skip(&stream[..cut]) {
                Skip::Done(rest) => [rest, &stream[cut..]].concat(),
                Skip::More => match skipper.skip(&stream[cut..]) {
                    Skip::Done(rest) => rest.to_vec(),
                    other => panic!("cut at {cut}: {other:?}"),
                },
                Skip::TooMuch => panic!("cut at {cut}"),
            };
            assert_eq!(rest, b"QHLO a b\r\n", "cut at {cut}");
        }
    }

    #[test]
    fn a_handshake_without_end_is_not_skipped_for_ever() {
        let stream = record(22, &[0; 65_000]);
        let mut skipper = RecordSkipper::default();
        assert_eq!(skipper.skip(&stream), Skip::More);
        assert_eq!(skipper.skip(&stream), Skip::TooMuch);
    }

    #[test]
    fn a_client_that_sent_no_handshake_loses_nothing() {
        assert_eq!(RecordSkipper::default().skip(b"QUIT\r\n"), Skip::Done(&b"QUIT\r\n"[..]));
    }
}
