//! Replies as a client reads them: bytes in, whole replies out.
//!
//! Never takes a byte beyond the end of a reply, because what follows the reply to STARTTLS is TLS; never holds more
//! than the limits allow, whatever a server sends.

use std::fmt;

use crate::limits::{REPLY_LINE_BYTES_MAX, REPLY_LINES_MAX};

/// One reply: a code and the text of its lines (RFC 5321 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    text: String,
}

impl Reply {
    /// A reply as if it had been read: for tests and for refusals that the client makes itself.
    pub fn new(code: u16, text: &str) -> Self {
        Self { code, text: text.to_owned() }
    }

    /// The three-digit code.
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The text of each line, without code and line end. Control characters are already made harmless.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// The server did it, or is ready for it (2xx).
    pub const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// It did not work now and may work later (4xx).
    pub const fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// The enhanced status code at the start of the text (RFC 2034 §4), if there is one of the same class.
    pub fn enhanced(&self) -> Option<(u16, u16, u16)> {
        let mut parts = self.text.split([' ', '\n']).next()?.splitn(3, '.').map(|part| part.parse().ok());
        let status = (parts.next()??, parts.next()??, parts.next()??);
        (status.0 == self.code / 100).then_some(status)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.lines().filter(|line| !line.is_empty()).try_for_each(|line| write!(f, " {line}"))
    }
}

/// What makes bytes no reply. The connection cannot go on after any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line is longer than [`REPLY_LINE_BYTES_MAX`].
    LineTooLong,
    /// A reply has more lines than [`REPLY_LINES_MAX`].
    TooManyLines,
    /// A line does not begin with three digits and a space, a hyphen or its end.
    NoCode,
    /// The lines of one reply bear different codes.
    MixedCodes,
    /// A line feed without a carriage return, or the other way round.
    BareLineEnd,
    /// A NUL byte.
    Nul,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LineTooLong => "a line of the server's reply is too long",
            Self::TooManyLines => "the server's reply has too many lines",
            Self::NoCode => "the server's reply does not begin with a code",
            Self::MixedCodes => "the lines of the server's reply bear different codes",
            Self::BareLineEnd => "the server's reply has a line feed or a carriage return alone",
            Self::Nul => "the server's reply has a NUL byte",
        })
    }
}

impl std::error::Error for ReplyError {}

/// What became of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many of the bytes were taken.
    pub consumed: usize,
    /// The reply that the last of them ended, if it did.
    pub reply: Option<Reply>,
}

/// Collects the bytes of one reply after the other.
#[derive(Debug, Default)]
pub struct ReplyReader {
    line: Vec<u8>,
    code: Option<u16>,
    text: String,
    lines: usize,
}

impl ReplyReader {
    /// Takes bytes up to the end of the first reply, or all of them if none ends there.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Progress, ReplyError> {
        let mut consumed = 0;
        while consumed < bytes.len() {
            let rest = &bytes[consumed..];
            let end = memchr::memchr(b'\n', rest).map(|at| at + 1);
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + part.len() > REPLY_LINE_BYTES_MAX {
                return Err(ReplyError::LineTooLong);
            }
            self.line.extend_from_slice(part);
            consumed += part.len();
            if end.is_some()
                && let Some(reply) = self.handle_line()?
            {
                return Ok(Progress { consumed, reply: Some(reply) });
            }
        }
        Ok(Progress { consumed, reply: None })
    }

    fn handle_line(&mut self) -> Result<Option<Reply>, ReplyError> {
        let line = std::mem::take(&mut self.line);
        let content = line.strip_suffix(b"\r\n").ok_or(ReplyError::BareLineEnd)?;
        if content.contains(&b'\r') {
            return Err(ReplyError::BareLineEnd);
        }
        if content.contains(&0) {
            return Err(ReplyError::Nul);
        }
        let (code, last, text) = split_line(content)?;
        if *self.code.get_or_insert(code) != code {
            return Err(ReplyError::MixedCodes);
        }
        self.lines += 1;
        if self.lines > REPLY_LINES_MAX {
            return Err(ReplyError::TooManyLines);
        }
        if self.lines > 1 {
            self.text.push('\n');
        }
        push_harmless(&mut self.text, text);
        if !last {
            return Ok(None);
        }
        self.code = None;
        self.lines = 0;
        Ok(Some(Reply { code, text: std::mem::take(&mut self.text) }))
    }
}

/// Code, whether the line is the last of its reply, and text. A code alone is a whole line (RFC 5321 §4.2 tells
/// clients to accept it).
fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let (&[a, b, c], rest) = line.split_first_chunk::<3>().ok_or(ReplyError::NoCode)?;
    if !(b'2'..=b'5').contains(&a) || !b.is_ascii_digit() || !c.is_ascii_digit() {
        return Err(ReplyError::NoCode);
    }
    let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match rest {
        [] => Ok((code, true, rest)),
        [b' ', text @ ..] => Ok((code, true, text)),
        [b'-', text @ ..] => Ok((code, false, text)),
        _ => Err(ReplyError::NoCode),
    }
}

/// Adds text that a terminal or a log may show: control characters could otherwise act on it.
fn push_harmless(text: &mut String, bytes: &[u8]) {
    text.extend(String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }));
}

#[cfg(test)]
mod tests {
    use super::{Reply, ReplyError, ReplyReader};
    use crate::limits::{REPLY_LINE_BYTES_MAX, REPLY_LINES_MAX};

    fn read(bytes: &[u8]) -> Result<Option<Reply>, ReplyError> {
        ReplyReader::default().handle_bytes(bytes).map(|progress| progress.reply)
    }

    #[test]
    fn a_reply_is_read_alike_however_it_is_cut() {
        let bytes = b"250-first\r\n250-\r\n250 last\r\n";
        let whole = read(bytes).unwrap().unwrap();
        assert_eq!(whole.lines().collect::<Vec<_>>(), ["first", "", "last"]);
        for cut in 0..bytes.len() {
            let mut reader = ReplyReader::default();
            assert_eq!(reader.handle_bytes(&bytes[..cut]).unwrap().reply, None);
            assert_eq!(reader.handle_bytes(&bytes[cut..]).unwrap().reply.as_ref(), Some(&whole), "cut at {cut}");
        }
    }

    #[test]
    fn no_byte_beyond_the_reply_is_taken() {
        let progress = ReplyReader::default().handle_bytes(b"220 go\r\n\x16\x03\x01").unwrap();
        assert_eq!(progress.consumed, 8);
        assert_eq!(progress.reply, Some(Reply::new(220, "go")));
    }

    #[test]
    fn a_code_without_text_is_a_reply() {
        assert_eq!(read(b"250\r\n").unwrap(), Some(Reply::new(250, "")));
        assert_eq!(read(b"250 \r\n").unwrap(), Some(Reply::new(250, "")));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        assert_eq!(read(b"250-a\r\n251 b\r\n"), Err(ReplyError::MixedCodes));
        assert_eq!(read(b"250 a\n"), Err(ReplyError::BareLineEnd));
        assert_eq!(read(b"250 a\rb\r\n"), Err(ReplyError::BareLineEnd));
        assert_eq!(read(b"250 a\0b\r\n"), Err(ReplyError::Nul));
        for bytes in [&b"\r\n"[..], b"25\r\n", b"abc d\r\n", b"2500 x\r\n", b"150 x\r\n", b"650 x\r\n"] {
            assert_eq!(read(bytes), Err(ReplyError::NoCode), "{bytes:?}");
        }
    }

    #[test]
    fn endless_lines_and_endless_replies_are_errors() {
        assert_eq!(read(&vec![b'2'; REPLY_LINE_BYTES_MAX + 1]), Err(ReplyError::LineTooLong));
        assert_eq!(read(&b"250-x\r\n".repeat(REPLY_LINES_MAX + 1)), Err(ReplyError::TooManyLines));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(read(b"250 \x1b[2J\x07\r\n").unwrap(), Some(Reply::new(250, "?[2J?")));
    }

    #[test]
    fn an_enhanced_status_code_is_read_if_its_class_is_that_of_the_reply() {
        assert_eq!(Reply::new(530, "5.7.0 no").enhanced(), Some((5, 7, 0)));
        assert_eq!(Reply::new(530, "4.7.0 no").enhanced(), None);
        assert_eq!(Reply::new(530, "sorry").enhanced(), None);
    }
}
