//! The content of a message out of a stream of bytes: DATA with its dots, BDAT with its counts.
//!
//! A message ends at CRLF `.` CRLF and nowhere else. A CR or LF that stands alone never ends a line, whatever is done
//! about it: that is the whole defence against smuggled messages. Content is handed on in runs as long as the input
//! allows, so that its bytes are copied once. What becomes of it is not decided here.

use memchr::memchr2;

/// What to do about a CR or LF that stands alone (RFC 5321 §2.3.8 forbids sending one).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareNewline {
    /// Refuse the message.
    Reject,
    /// Make a CRLF of it.
    #[default]
    Normalize,
}

/// Where content goes.
pub trait Sink {
    /// Takes a run of content.
    fn take(&mut self, run: &[u8]);
}

impl Sink for Vec<u8> {
    fn take(&mut self, run: &[u8]) {
        self.extend_from_slice(run);
    }
}

/// Reads text lines; watches for newlines that stand alone.
#[derive(Clone, Copy, Debug)]
pub struct TextReader {
    policy: BareNewline,
    place: Place,
    bare_seen: bool,
}

/// Where in a line the reader is. What has been read of CRLF `.` CRLF is held back until it is known what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// After a CRLF, or at the very start.
    LineStart,
    /// After at least one byte of a line.
    Inside,
    /// After a CR, which is held back.
    Cr,
    /// After a dot at the start of a line, which is held back.
    Dot,
    /// After a dot and a CR, both held back.
    DotCr,
}

impl TextReader {
    /// A reader at the start of a message.
    pub const fn new(policy: BareNewline) -> Self {
        Self { policy, place: Place::LineStart, bare_seen: false }
    }

    /// Was there a CR or LF that stands alone, and is that to be refused?
    pub fn must_refuse(&self) -> bool {
        self.bare_seen && self.policy == BareNewline::Reject
    }

    /// Reads the content of DATA (RFC 5321 §4.5.2). Returns how many bytes of `input` it took, and whether the message has
    /// ended: then what follows is not the message's.
    pub fn read_dotted(&mut self, input: &[u8], sink: &mut impl Sink) -> (usize, bool) {
        self.read(input, sink, Dots::Stuffed)
    }

    /// Reads a piece of a BDAT chunk that is text (RFC 3030): no dots are taken off, nothing ends it.
    pub fn read_chunk(&mut self, input: &[u8], sink: &mut impl Sink) {
        self.read(input, sink, Dots::Plain);
    }

    /// The last chunk is over: hands on what was held back.
    pub fn finish_chunks(&mut self, sink: &mut impl Sink) {
        if self.place == Place::Cr {
            self.bare(sink, b"\r");
        }
    }

    fn read(&mut self, input: &[u8], sink: &mut impl Sink, dots: Dots) -> (usize, bool) {
        let mut run_start = 0;
        let mut at = 0;
        while at < input.len() {
            match (self.place, input[at]) {
                (Place::LineStart, b'.') if dots == Dots::Stuffed => {
                    sink.take(&input[run_start..at]);
                    at += 1;
                    run_start = at;
                    self.place = Place::Dot;
                }
                (Place::LineStart | Place::Inside, _) => match memchr2(b'\r', b'\n', &input[at..]) {
                    None => {
                        self.place = Place::Inside;
                        at = input.len();
                    }
                    Some(offset) if input[at + offset] == b'\r' => {
                        at += offset + 1;
                        self.place = Place::Cr;
                        if input.get(at) == Some(&b'\n') {
                            at += 1;
                            self.place = Place::LineStart;
                        } else {
                            // The CR is held back until what follows it is known.
                            sink.take(&input[run_start..at - 1]);
                            run_start = at;
                        }
                    }
                    Some(offset) => {
                        at += offset;
                        sink.take(&input[run_start..at]);
                        at += 1;
                        run_start = at;
                        self.bare(sink, b"\n");
                    }
                },
                (Place::Cr, b'\n') => {
                    sink.take(b"\r\n");
                    at += 1;
                    run_start = at;
                    self.place = Place::LineStart;
                }
                // Looked at again from the new place.
                (Place::Cr, _) => self.bare(sink, b"\r"),
                (Place::Dot, b'\r') => {
                    at += 1;
                    run_start = at;
                    self.place = Place::DotCr;
                }
                // A stuffed dot: it is gone, what follows is the line.
                (Place::Dot, _) => self.place = Place::Inside,
                (Place::DotCr, b'\n') => {
                    self.place = Place::LineStart;
                    return (at + 1, true);
                }
                // `.` CR and something else: the dot was stuffing, the CR stands alone.
                (Place::DotCr, _) => self.bare(sink, b"\r"),
            }
        }
        if matches!(self.place, Place::LineStart | Place::Inside) {
            sink.take(&input[run_start..]);
        }
        (input.len(), false)
    }

    fn bare(&mut self, sink: &mut impl Sink, newline: &[u8]) {
        self.bare_seen = true;
        self.place = Place::Inside;
        match self.policy {
            BareNewline::Reject => sink.take(newline),
            BareNewline::Normalize => sink.take(b"\r\n"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    /// A dot at the start of a line is stuffing.
    Stuffed,
    /// Dots are dots.
    Plain,
}

#[cfg(test)]
mod tests {
    use super::{BareNewline, TextReader};

    /// Reads `stream` in pieces of the given sizes; returns content, what is left after the end, and whether it ended.
    fn read(stream: &[u8], cuts: &[usize], policy: BareNewline) -> (String, usize, bool, bool) {
        let mut reader = TextReader::new(policy);
        let mut content = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([stream.len()]) {
            let (taken, ended) = reader.read_dotted(&stream[start..end], &mut content);
            if ended {
                return (String::from_utf8(content).unwrap(), start + taken, true, reader.must_refuse());
            }
            start = end;
        }
        (String::from_utf8(content).unwrap(), start, false, reader.must_refuse())
    }

    fn everyhow(stream: &str, policy: BareNewline) -> (String, usize, bool, bool) {
        let stream = stream.as_bytes();
        let whole = read(stream, &[], policy);
        for cut in 0..=stream.len() {
            assert_eq!(read(stream, &[cut], policy), whole, "cut at {cut}");
        }
        let singly: Vec<usize> = (1..stream.len()).collect();
        assert_eq!(read(stream, &singly, policy), whole, "byte by byte");
        whole
    }

    #[test]
    fn stuffed_dots_are_taken_off_and_a_lone_dot_ends_the_message() {
        for (stream, content, taken) in [
            (".\r\n", "", 3),
            ("a\r\n.\r\nQUIT\r\n", "a\r\n", 6),
            ("..\r\n...\r\n.a\r\n.\r\n", ".\r\n..\r\na\r\n", 16),
            ("a.\r\n.b.\r\n.\r\n", "a.\r\nb.\r\n", 12),
            ("\r\n\r\n.\r\n", "\r\n\r\n", 7),
        ] {
            assert_eq!(everyhow(stream, BareNewline::Reject), (content.to_owned(), taken, true, false), "{stream:?}");
        }
    }

    #[test]
    fn no_other_sequence_ends_a_message() {
        for almost in
            ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r\n.\r", "\r.\r", "\r\n.\r\r\n", "\r\n\0.\r\n", ". \r\n"]
        {
            let stream = format!("a{almost}b\r\n");
            for policy in [BareNewline::Reject, BareNewline::Normalize] {
                let (_, _, ended, _) = everyhow(&stream, policy);
                assert!(!ended, "{stream:?} ended under {policy:?}");
            }
        }
    }

    #[test]
    fn newlines_that_stand_alone_are_refused_or_made_whole() {
        for (stream, normalized) in [
            ("a\nb\r\n.\r\n", "a\r\nb\r\n"),
            ("a\rb\r\n.\r\n", "a\r\nb\r\n"),
            ("a\r\r\n.\r\n", "a\r\n\r\n"),
            ("\n.\r\n\r\n.\r\n", "\r\n.\r\n\r\n"),
            ("a\r\n.\rb\r\n.\r\n", "a\r\n\r\nb\r\n"),
        ] {
            assert!(everyhow(stream, BareNewline::Reject).3, "{stream:?} was not refused");
            let (content, _, ended, refuse) = everyhow(stream, BareNewline::Normalize);
            assert_eq!((content.as_str(), ended, refuse), (normalized, true, false), "{stream:?}");
        }
    }

    #[test]
    fn chunks_keep_their_dots_and_a_newline_may_be_cut_by_them() {
        let stream = b".\r\n..\r\nend\r\n";
        for cut in 0..=stream.len() {
            let mut reader = TextReader::new(BareNewline::Reject);
            let mut content = Vec::new();
            reader.read_chunk(&stream[..cut], &mut content);
            reader.read_chunk(&stream[cut..], &mut content);
            reader.finish_chunks(&mut content);
            assert_eq!((content.as_slice(), reader.must_refuse()), (&stream[..], false), "cut at {cut}");
        }
    }

    #[test]
    fn a_cr_at_the_end_of_the_last_chunk_stands_alone() {
        let mut reader = TextReader::new(BareNewline::Reject);
        let mut content = Vec::new();
        reader.read_chunk(b"a\r", &mut content);
        reader.finish_chunks(&mut content);
        assert!(reader.must_refuse());
        assert_eq!(content, b"a\r");
    }
}
