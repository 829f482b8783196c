//! Lines and content out of a stream of bytes: cut anywhere, the same comes out.
//!
//! Promises: a line has no LF and is within its bound; what is cut reads as what is whole; nothing but CRLF `.` CRLF ends a
//! message; text that a client stuffs with dots is read back as it was.

use onetrip::limits::COMMAND_LINE_BYTES_MAX;
use onetrip::proto::body::{BareNewline, TextReader};
use onetrip::proto::dot_stuffing::DotStuffing;
use onetrip::proto::line::{BEGINNING_BYTES_MAX, LineReader, Scan};

use crate::input::cuts;

/// See the [module](self).
pub fn check(data: &[u8]) {
    let (parts, whole) = cuts(data);
    assert_eq!(lines(&parts), lines(&[whole]));
    for policy in [BareNewline::Reject, BareNewline::Normalize] {
        let (content, taken, ended, refused) = content(&parts, policy);
        assert_eq!((content.clone(), taken, ended, refused), self::content(&[whole], policy));
        if ended {
            assert!(whole[..taken].ends_with(b".\r\n"), "a message has ended without its dot");
        }
        assert!(content.len() <= 2 * taken);
        if !refused {
            is_text(&content);
        }
        chunks(&parts, whole, policy);
    }
    stuffed(&parts, whole);
}

fn lines(parts: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let mut reader = LineReader::default();
    let mut found = Vec::new();
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let before = rest.len();
            match reader.scan(&mut rest, COMMAND_LINE_BYTES_MAX) {
                Scan::Line(line) => {
                    assert!(line.len() + 2 <= COMMAND_LINE_BYTES_MAX && !line.contains(&b'\n'));
                    found.push(Some(line.to_vec()));
                }
                Scan::TooLong(beginning) => {
                    assert_eq!(beginning.len(), BEGINNING_BYTES_MAX);
                    found.push(Some(beginning.to_vec()));
                }
                Scan::BareNewline => found.push(None),
                Scan::Incomplete => assert!(rest.is_empty()),
            }
            assert!(rest.len() < before, "no progress");
        }
        reader.rest();
    }
    found
}

fn content(parts: &[&[u8]], policy: BareNewline) -> (Vec<u8>, usize, bool, bool) {
    let mut reader = TextReader::new(policy);
    let (mut content, mut taken) = (Vec::new(), 0);
    for part in parts {
        let (count, ended) = reader.read_dotted(part, &mut content);
        taken += count;
        if ended {
            return (content, taken, true, reader.must_refuse());
        }
        assert_eq!(count, part.len());
    }
    (content, taken, false, reader.must_refuse())
}

fn chunks(parts: &[&[u8]], whole: &[u8], policy: BareNewline) {
    let read = |parts: &[&[u8]]| {
        let (mut reader, mut content) = (TextReader::new(policy), Vec::new());
        parts.iter().for_each(|part| reader.read_chunk(part, &mut content));
        reader.finish_chunks(&mut content);
        (content, reader.must_refuse())
    };
    let (content, refused) = read(parts);
    assert_eq!((content.clone(), refused), read(&[whole]));
    if !refused {
        is_text(&content);
    }
    if policy == BareNewline::Reject && !refused {
        assert_eq!(content, whole, "a chunk without bare line ends is altered");
    }
}

/// CR and LF stand together only.
fn is_text(content: &[u8]) {
    for (at, byte) in content.iter().enumerate() {
        match byte {
            b'\n' => assert!(at > 0 && content[at - 1] == b'\r', "a bare LF came through"),
            b'\r' if at + 1 < content.len() => assert_eq!(content[at + 1], b'\n', "a bare CR came through"),
            _ => {}
        }
    }
}

/// What a client sends is what the server reads.
fn stuffed(parts: &[&[u8]], whole: &[u8]) {
    let (mut dots, mut sent) = (DotStuffing::default(), Vec::new());
    parts.iter().for_each(|part| dots.write(part, &mut sent));
    dots.finish(&mut sent);
    sent.extend_from_slice(b"MAIL");
    let (content, taken, ended, _) = content(&[&sent], BareNewline::Reject);
    let is_text = whole.iter().enumerate().all(|(at, byte)| match byte {
        b'\n' => at > 0 && whole[at - 1] == b'\r',
        b'\r' => whole.get(at + 1) == Some(&b'\n'),
        _ => true,
    });
    if is_text {
        assert!(ended && taken == sent.len() - 4, "the message ended elsewhere");
        assert_eq!(
            content.strip_prefix(whole),
            Some(if whole.is_empty() || whole.ends_with(b"\n") { &b""[..] } else { b"\r\n" })
        );
    }
}
