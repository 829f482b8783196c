//! The messages of a run: each bears an id and a digest of its body, so that it can be recognised wherever it ends up.
//!
//! Pure. `audit` reads what is written here.

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

use crate::random::Random;

/// Field that bears the id.
pub(crate) const ID_FIELD: &str = "X-Loadgen-Id";

/// Field that bears the SHA-256 of the body, its line ends taken as LF.
pub(crate) const DIGEST_FIELD: &str = "X-Loadgen-Digest";

/// Length of a body line without its end, in characters.
const LINE_CHARACTERS: usize = 76;

/// A message of about `bytes` bytes, with CRLF; never shorter than its header.
pub(crate) fn write(id: &str, sender: &str, recipients: &[String], bytes: u64, random: &mut Random) -> Vec<u8> {
    let header = |digest: &str| {
        let to = recipients.join(",\r\n ");
        format!(
            "From: <{sender}>\r\nTo: {to}\r\nSubject: load {id}\r\nMessage-ID: <{id}@loadgen.invalid>\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n{ID_FIELD}: {id}\r\n{DIGEST_FIELD}: {digest}\r\n\r\n"
        )
    };
    let header_bytes = header("").len() + 64;
    let body = body(usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(header_bytes), random);
    let mut letter = header(&body_digest(&body)).into_bytes();
    letter.extend_from_slice(&body);
    letter
}

/// Lines of random letters, at least one.
fn body(bytes: usize, random: &mut Random) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
    let mut body = Vec::with_capacity(bytes + LINE_CHARACTERS);
    while body.len() + 2 < bytes.max(3) {
        let characters = LINE_CHARACTERS.min(bytes.saturating_sub(body.len() + 2)).max(1);
        let mut numbers = 0;
        for position in 0..characters {
            if position % 10 == 0 {
                numbers = random.next_u64();
            }
            body.push(LETTERS[(numbers & 63) as usize]);
            numbers >>= 6;
        }
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// What [`read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The message's id.
    pub(crate) id: String,
    /// Whether the body is the one that was sent.
    pub(crate) intact: bool,
}

/// Recognises a message of a run, with whatever line ends and further fields it was kept; `None` if it is none.
pub(crate) fn read(message: &[u8]) -> Option<Found> {
    let text = without_carriage_returns(message);
    let end = text.windows(2).position(|pair| pair == b"\n\n")?;
    let header = String::from_utf8_lossy(&text[..end]).into_owned();
    let id = field(&header, ID_FIELD)?;
    let stated = field(&header, DIGEST_FIELD)?;
    let intact = body_digest(&text[end + 2..]) == stated;
    Some(Found { id, intact })
}

fn field(header: &str, name: &str) -> Option<String> {
    let found = header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.map(|value| value.trim().to_owned())
}

fn body_digest(body: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, &without_carriage_returns(body)).as_ref())
}

fn without_carriage_returns(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|&byte| byte != b'\r').collect()
}

#[cfg(test)]
mod tests {
    use super::{Found, read, write};
    use crate::random::Random;

    fn letter(bytes: u64) -> Vec<u8> {
        write("1-2", "a@example.org", &["b@example.org".to_owned()], bytes, &mut Random::new(1))
    }

    #[test]
    fn a_message_has_the_size_that_was_asked_for() {
        for bytes in [1_000, 4_096, 100_000] {
            let size = letter(bytes).len() as u64;
            assert!((bytes - 2..=bytes + 2).contains(&size), "{size} for {bytes}");
        }
        assert!(letter(0).len() > 200, "the header is always there");
    }

    #[test]
    fn a_message_is_recognised_with_added_fields_and_other_line_ends() {
        let sent = String::from_utf8(letter(2_000)).unwrap();
        let kept = format!("Received: from a\n by b\n{}", sent.replace("\r\n", "\n"));
        let found = Some(Found { id: "1-2".to_owned(), intact: true });
        assert_eq!(read(sent.as_bytes()), found);
        assert_eq!(read(kept.as_bytes()), found);
    }

    #[test]
    fn a_changed_or_shortened_body_is_not_intact() {
        let mut sent = letter(2_000);
        let last = sent.len() - 5;
        sent[last] ^= 1;
        assert_eq!(read(&sent).map(|found| found.intact), Some(false));
        assert_eq!(read(&letter(2_000)[..1_500]).map(|found| found.intact), Some(false));
    }

    #[test]
    fn other_mail_is_none_of_ours() {
        assert_eq!(read(b"Subject: hello\n\nX-Loadgen-Id: 1\n"), None);
        assert_eq!(read(b""), None);
    }
}
