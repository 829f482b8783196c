//! Shows a client only a part of what a server offers, so that one client can play all scenarios.
//!
//! A hidden word is replaced by an unknown one of the same length, which the client must ignore (draft §4, RFC 5321
//! §4.1.1.1). Bytes that are no reply pass untouched: in plain text a TLS record never begins with a digit.

use onetrip::proto::client::{Capabilities, Point, ServerMemory};
use onetrip::wire::client::Lens;

/// Longest line that is held back until its end has come, in bytes. A server with longer ones is shown as it is.
const LINE_BYTES_MAX: usize = 4_096;

/// What a client must not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// Keywords of extensions.
    pub(crate) keywords: &'static [&'static str],
    /// Parameters of QUICKSTART, without their values.
    pub(crate) parameters: &'static [&'static str],
}

impl Hidden {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self { keywords: &[], parameters: &[] };
}

/// Changes one direction of one connection.
#[derive(Debug)]
pub(crate) struct Veil {
    hidden: Hidden,
    line: Vec<u8>,
    shown: Vec<u8>,
    /// Codes of the replies that have passed whole.
    codes: Vec<u16>,
}

impl Lens for Veil {
    fn show<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut shown = std::mem::take(&mut self.shown);
        shown.clear();
        self.handle_bytes(bytes, &mut shown);
        self.shown = shown;
        &self.shown
    }

    fn reset(&mut self) {
        *self = Self::new(self.hidden);
    }
}

impl Veil {
    /// A veil over these words.
    pub(crate) const fn new(hidden: Hidden) -> Self {
        Self { hidden, line: Vec::new(), shown: Vec::new(), codes: Vec::new() }
    }

    /// Takes bytes from the server and adds what the client may see to `out`. The beginning of a reply line is held back
    /// until its end has come.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.line.is_empty() && !rest[0].is_ascii_digit() {
                out.extend_from_slice(rest);
                return;
            }
            let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            if self.line.ends_with(b"\n") || self.line.len() > LINE_BYTES_MAX {
                self.pass_line(out);
            }
        }
    }

    /// The codes of the replies that passed since this was asked last.
    pub(crate) fn poll_codes(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.codes)
    }

    fn pass_line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let is_last = text.as_bytes().get(3) != Some(&b'-');
        if let (true, Some(code)) = (is_last, text.get(..3).and_then(|code| code.parse().ok())) {
            self.codes.push(code);
        }
        match text.get(4..) {
            Some(list_line) if text.is_ascii() => {
                out.extend_from_slice(&line[..4]);
                out.extend_from_slice(hide(list_line, self.hidden).as_bytes());
            }
            _ => out.extend_from_slice(&line),
        }
    }
}

/// What a client remembers that has always looked through this veil.
pub(crate) fn veiled_memory(server: &ServerMemory, hidden: Hidden) -> ServerMemory {
    let mut veiled = ServerMemory::default();
    for point in [Point::Connect, Point::Secured] {
        let Some(list) = server.at(point) else { continue };
        let lines: Vec<String> = list.lines().map(|line| hide(line, hidden)).collect();
        veiled.learn(point, &Capabilities::from_lines(lines.iter().map(String::as_str)));
    }
    veiled
}

fn hide(line: &str, hidden: Hidden) -> String {
    let mut words = line.split(' ');
    let keyword = words.next().unwrap_or_default();
    let bare = keyword.trim_end();
    let mut shown = if is_among(bare, hidden.keywords) { disguise(keyword) } else { keyword.to_owned() };
    for word in words {
        let name = word.trim_end().split('=').next().unwrap_or_default();
        let is_hidden = bare.eq_ignore_ascii_case("QUICKSTART") && is_among(name, hidden.parameters);
        shown.push(' ');
        shown.push_str(&if is_hidden { disguise(word) } else { word.to_owned() });
    }
    shown
}

fn is_among(word: &str, names: &[&str]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(word))
}

/// The same word with another first letter.
fn disguise(word: &str) -> String {
    let first = if word.starts_with(['X', 'x']) { 'Y' } else { 'X' };
    let rest = word.chars().skip(1);
    std::iter::once(first).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use onetrip::proto::client::{Capabilities, Point, ServerMemory};

    use super::{Hidden, Veil, veiled_memory};

    const HIDDEN: Hidden = Hidden { keywords: &["CHUNKING"], parameters: &["QTLS", "QHLO"] };

    const GREETING: &[u8] = b"220-host ready\r\n220-STARTTLS\r\n220-CHUNKING\r\n220 QUICKSTART QTLS AUTH QHLO=QTLS\r\n";

    fn through(hidden: Hidden, pieces: &[&[u8]]) -> Vec<u8> {
        let mut veil = Veil::new(hidden);
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| veil.handle_bytes(piece, &mut out));
        out
    }

    #[test]
    fn hidden_words_become_unknown_ones_wherever_the_bytes_are_cut() {
        let expected = "220-host ready\r\n220-STARTTLS\r\n220-XHUNKING\r\n220 QUICKSTART XTLS AUTH XHLO=QTLS\r\n";
        for cut in 0..=GREETING.len() {
            let seen = through(HIDDEN, &[&GREETING[..cut], &GREETING[cut..]]);
            assert_eq!(String::from_utf8(seen).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn tls_records_behind_a_reply_pass_untouched_and_at_once() {
        let bytes = b"220 go on\r\n\x16\x03\x03\x00\x05CHUNKING 220 CHUNKING";
        assert_eq!(through(HIDDEN, &[bytes]), bytes);
    }

    #[test]
    fn without_hidden_words_nothing_changes() {
        assert_eq!(through(Hidden::NOTHING, &[GREETING]), GREETING);
    }

    #[test]
    fn the_codes_of_whole_replies_are_noted() {
        let mut veil = Veil::new(HIDDEN);
        veil.handle_bytes(b"250-a\r\n250 b\r\n235 ok\r\n2", &mut Vec::new());
        assert_eq!(veil.poll_codes(), [250, 235]);
        assert!(veil.poll_codes().is_empty());
    }

    #[test]
    fn a_memory_is_veiled_like_the_lists_it_came_from() {
        let mut server = ServerMemory::default();
        server.learn(Point::Connect, &Capabilities::from_lines(["CHUNKING", "QUICKSTART QTLS QHLO=a"].into_iter()));
        let veiled = veiled_memory(&server, HIDDEN);
        let list = veiled.at(Point::Connect).unwrap();
        assert!(!list.chunking && list.qhlo_id().is_none() && list.quickstart.is_some());
        assert!(veiled.at(Point::Secured).is_none());
    }
}
