//! A message as DATA carries it: a dot before each line that begins with one, and a lone dot at the end
//! (RFC 5321 §4.5.2).
//!
//! Expects lines that end in CRLF and nothing else; does not repair others.

/// Writes one message, in as many parts as it comes in.
#[derive(Clone, Copy, Debug)]
pub struct DotStuffing {
    at_line_start: bool,
}

impl Default for DotStuffing {
    fn default() -> Self {
        Self { at_line_start: true }
    }
}

impl DotStuffing {
    /// Adds the next part of the message to `out`.
    pub fn write(&mut self, part: &[u8], out: &mut Vec<u8>) {
        for line in part.split_inclusive(|&byte| byte == b'\n') {
            if self.at_line_start && line.first() == Some(&b'.') {
                out.push(b'.');
            }
            out.extend_from_slice(line);
            self.at_line_start = line.ends_with(b"\n");
        }
    }

    /// Ends the message; its last line gets the line end that it lacks.
    pub fn finish(self, out: &mut Vec<u8>) {
        if !self.at_line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::DotStuffing;

    fn stuffed(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut dots = DotStuffing::default();
        for part in parts {
            dots.write(part, &mut out);
        }
        dots.finish(&mut out);
        out
    }

    #[test]
    fn dots_are_doubled_at_the_start_of_lines_only_however_the_message_is_cut() {
        let message = b".a\r\nb.c\r\n..\r\n.\r\n";
        let expected = b"..a\r\nb.c\r\n...\r\n..\r\n.\r\n";
        for cut in 0..=message.len() {
            assert_eq!(stuffed(&[&message[..cut], &message[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_last_line_without_its_end_gets_one() {
        assert_eq!(stuffed(&[b"a"]), b"a\r\n.\r\n");
        assert_eq!(stuffed(&[]), b".\r\n");
    }
}
