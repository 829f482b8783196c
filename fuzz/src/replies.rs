//! Replies as a client reads them, of any bytes.
//!
//! Promises: cut anywhere, the same comes out; not a byte behind a reply's end is taken; bounds hold; text is printable.

use onetrip::limits::{REPLY_LINE_BYTES_MAX, REPLY_LINES_MAX};
use onetrip::proto::client::{Capabilities, ServerMemory};
use onetrip::proto::reply_reader::{Reply, ReplyError, ReplyReader};

use crate::input::cuts;

/// See the [module](self).
pub fn check(data: &[u8]) {
    let (parts, whole) = cuts(data);
    let (found, error) = read(&parts);
    let expected = read(&[whole]);
    assert_eq!((&found, error), (&expected.0, expected.1));
    for reply in &found {
        check_reply(reply);
    }
}

fn read(parts: &[&[u8]]) -> (Vec<Reply>, Option<ReplyError>) {
    let mut reader = ReplyReader::default();
    let mut found = Vec::new();
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            match reader.handle_bytes(rest) {
                Err(error) => return (found, Some(error)),
                Ok(progress) => {
                    let taken = &rest[..progress.consumed];
                    assert!(!taken.is_empty());
                    rest = &rest[progress.consumed..];
                    match progress.reply {
                        Some(reply) => {
                            assert!(taken.ends_with(b"\n"), "a byte behind the reply was taken");
                            found.push(reply);
                        }
                        None => assert!(rest.is_empty()),
                    }
                }
            }
        }
    }
    (found, None)
}

fn check_reply(reply: &Reply) {
    assert!((0..1_000).contains(&reply.code()));
    assert!(reply.lines().count() <= REPLY_LINES_MAX);
    for line in reply.lines() {
        assert!(line.len() <= 3 * REPLY_LINE_BYTES_MAX);
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    assert!(!reply.to_string().contains('\n'));
    if let Some((class, ..)) = reply.enhanced() {
        assert_eq!(class, reply.code() / 100);
    }
    let list = Capabilities::from_reply(reply);
    assert_eq!(Capabilities::from_lines(list.lines()), list, "a list changes when it is remembered");
    let mut memory = ServerMemory::default();
    memory.learn(onetrip::proto::client::Point::Connect, &list);
}
