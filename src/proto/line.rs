//! Lines out of a stream of bytes.
//!
//! A line that arrives whole is borrowed from the receive buffer; only one that was cut by a segment is copied. Lines
//! end in CRLF and in nothing else (RFC 5321 §2.3.8): a bare LF is reported, never taken for an end of line, because two
//! programs that disagree on where a line ends are how messages are smuggled. It knows nothing of commands.

use memchr::memchr;
use zeroize::Zeroize;

/// Collects lines; keeps the beginning of one that is not complete yet.
#[derive(Debug, Default)]
pub struct LineReader {
    partial: Vec<u8>,
    progress: Progress,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Progress {
    /// `partial` is the beginning of a line.
    #[default]
    Collecting,
    /// `partial` was handed out and is void.
    HandedOut,
    /// The line is longer than allowed: `partial` is its beginning, and the rest of it is dropped but for the last byte so far.
    Skipping { last: Option<u8> },
}

/// What was found at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan<'a> {
    /// A line, without its CRLF.
    Line(&'a [u8]),
    /// The input is used up and no line has ended.
    Incomplete,
    /// A line was longer than allowed; all of it has been dropped but [`BEGINNING_BYTES_MAX`] bytes from its first visible one.
    TooLong(&'a [u8]),
    /// A line ended in LF without CR; it has been dropped.
    BareNewline,
}

impl LineReader {
    /// Takes bytes from the front of `input` up to the end of a line of at most `bytes_max` bytes, CRLF included.
    pub fn scan<'line, 'input: 'line>(&'line mut self, input: &mut &'input [u8], bytes_max: usize) -> Scan<'line> {
        if self.progress == Progress::HandedOut {
            self.partial.clear();
            self.progress = Progress::Collecting;
        }
        let Some(newline) = memchr(b'\n', input) else {
            self.collect(input, bytes_max);
            *input = &[];
            return Scan::Incomplete;
        };
        let (end, rest) = input.split_at(newline + 1);
        *input = rest;
        self.finish(end, bytes_max)
    }

    /// Is there the beginning of a line?
    pub fn is_midway(&self) -> bool {
        match self.progress {
            Progress::Collecting => !self.partial.is_empty(),
            Progress::HandedOut => false,
            Progress::Skipping { .. } => true,
        }
    }

    /// Overwrites what was copied, after a line that bore a secret.
    pub fn wipe(&mut self) {
        self.partial.zeroize();
        self.progress = Progress::Collecting;
    }

    /// Gives the memory back when no line is under way.
    pub fn rest(&mut self) {
        if !self.is_midway() {
            self.partial = Vec::new();
            self.progress = Progress::Collecting;
        }
    }

    fn collect(&mut self, beginning: &[u8], bytes_max: usize) {
        if self.is_too_long(beginning, bytes_max) {
            self.progress = Progress::Skipping { last: self.last_of(beginning) };
            self.keep_beginning(beginning);
            return;
        }
        self.partial.extend_from_slice(beginning);
    }

    fn is_too_long(&self, next: &[u8], bytes_max: usize) -> bool {
        matches!(self.progress, Progress::Skipping { .. }) || self.partial.len() + next.len() > bytes_max
    }

    /// The line's last byte, if `next` is what follows in it.
    fn last_of(&self, next: &[u8]) -> Option<u8> {
        let before = match self.progress {
            Progress::Skipping { last } => last,
            Progress::Collecting | Progress::HandedOut => self.partial.last().copied(),
        };
        next.last().copied().or(before)
    }

    /// Of a line that is too long no more is kept than what it began with, but for blanks. `next` is what follows `partial` in it.
    fn keep_beginning(&mut self, next: &[u8]) {
        let blanks = blanks_before(&self.partial);
        self.partial.drain(..blanks);
        self.partial.truncate(BEGINNING_BYTES_MAX);
        let next = if self.partial.is_empty() { &next[blanks_before(next)..] } else { next };
        let missing = BEGINNING_BYTES_MAX - self.partial.len();
        self.partial.extend_from_slice(&next[..missing.min(next.len())]);
    }

    fn finish<'a>(&'a mut self, end: &'a [u8], bytes_max: usize) -> Scan<'a> {
        if self.is_too_long(end, bytes_max) {
            let before_newline = self.last_of(&end[..end.len() - 1]);
            self.keep_beginning(end);
            self.progress = Progress::HandedOut;
            return if before_newline == Some(b'\r') { Scan::TooLong(&self.partial) } else { Scan::BareNewline };
        }
        let whole = if self.partial.is_empty() {
            end
        } else {
            self.partial.extend_from_slice(end);
            self.progress = Progress::HandedOut;
            &self.partial
        };
        match whole.strip_suffix(b"\r\n") {
            Some(line) => Scan::Line(line),
            None => Scan::BareNewline,
        }
    }
}

/// Is this a space or a control character?
pub fn is_blank(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

/// How many bytes come before the first visible one.
fn blanks_before(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is_blank(*byte)).unwrap_or(bytes.len())
}

/// How much of a line that is too long is kept. It tells which command the line was, as other bytes may belong to it: the
/// longest word of a command has 8 letters, and what ends the word is one more.
pub const BEGINNING_BYTES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::{LineReader, Scan};

    fn lines(chunks: &[&[u8]], bytes_max: usize) -> Vec<String> {
        let mut reader = LineReader::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            loop {
                match reader.scan(&mut input, bytes_max) {
                    Scan::Line(line) => seen.push(String::from_utf8_lossy(line).into_owned()),
                    Scan::Incomplete => break,
                    Scan::TooLong(beginning) => seen.push(format!("{}…", String::from_utf8_lossy(beginning))),
                    other => seen.push(format!("{other:?}")),
                }
            }
        }
        seen
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let stream = b"NOOP\r\nQUIT\r\n\r\nlast\r\n";
        let whole = lines(&[stream], 512);
        assert_eq!(whole, ["NOOP", "QUIT", "", "last"]);
        for cut in 0..=stream.len() {
            assert_eq!(lines(&[&stream[..cut], &stream[cut..]], 512), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(lines(&bytes, 512), whole);
    }

    #[test]
    fn a_whole_line_is_borrowed_from_the_input() {
        let mut reader = LineReader::default();
        let stream = b"NOOP\r\n";
        let mut input = &stream[..];
        let Scan::Line(line) = reader.scan(&mut input, 512) else { panic!("no line") };
        assert_eq!(line.as_ptr(), stream.as_ptr());
    }

    #[test]
    fn a_bare_newline_never_ends_a_line_quietly() {
        assert_eq!(lines(&[b"NOOP\nQUIT\r\n"], 512), ["BareNewline", "QUIT"]);
        assert_eq!(lines(&[b"NOOP", b"\n"], 512), ["BareNewline"]);
    }

    #[test]
    fn a_bare_newline_does_not_end_a_line_over_the_bound_quietly_either() {
        for (stream, expected) in [
            (&b"12345678901234567890\nok\r\n"[..], "BareNewline"),
            (b"1234567890\r234567890\nok\r\n", "BareNewline"),
            (b"12345678901234567890\r\nok\r\n", "1234567890123456…"),
        ] {
            for cut in 0..=stream.len() {
                assert_eq!(lines(&[&stream[..cut], &stream[cut..]], 8), [expected, "ok"], "{stream:?}, cut at {cut}");
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(lines(&bytes, 8), [expected, "ok"], "{stream:?}");
        }
    }

    #[test]
    fn a_line_over_the_bound_is_dropped_whole_and_the_next_one_read() {
        assert_eq!(lines(&[b"12345678\r\nok\r\n"], 8), ["12345678\r\n…", "ok"]);
        assert_eq!(lines(&[b"123456\r\nok\r\n"], 8), ["123456", "ok"]);
    }

    #[test]
    fn of_a_line_over_the_bound_the_same_beginning_is_known_however_it_is_cut() {
        let stream = b"\t  \x7f 12345678901234567890\r\nok\r\n";
        for bytes_max in [4, 5, 8, 16, 21, 26] {
            let expected = ["1234567890123456…", "ok"];
            for cut in 0..=stream.len() {
                assert_eq!(lines(&[&stream[..cut], &stream[cut..]], bytes_max), expected, "{bytes_max}, cut at {cut}");
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(lines(&bytes, bytes_max), expected, "{bytes_max}");
        }
    }
}
