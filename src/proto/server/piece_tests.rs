//! Messages that are given to storage in pieces: what is the same as with whole ones, and what is left when they fail.

use std::sync::Arc;

use super::tests::{TRANSACTION, Talk};
use super::{Action, Resources, Server, StoreFailure};
use crate::limits::{STREAM_MEMORY_BYTES, STREAM_PIECE_BYTES};
use crate::proto::body::BareNewline;
use crate::proto::message::{Message, Pieces};
use crate::proto::proof::Committed;
use crate::time::Now;

const HEADER: &str = "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nSubject: large\r\n\r\n";
const ROOM: u64 = STREAM_MEMORY_BYTES;

/// Logged in with a server that may ask for pieces to be kept, and what it shares.
fn talk(message_bytes_max: u64, policy: BareNewline) -> (Talk, Arc<Resources>) {
    let mut talk = Talk::secured();
    let settings = Arc::get_mut(&mut talk.server.settings).unwrap();
    settings.bounds.message_bytes_max = message_bytes_max;
    settings.bare_newline = policy;
    let resources = Arc::new(Resources::new(0, ROOM).streaming());
    talk.server.room = super::Room::new(Arc::clone(&resources));
    talk.log_in();
    (talk, resources)
}

/// A storage that takes pieces, or does not.
struct Storage {
    kept: Vec<u8>,
    pieces: u32,
    answer: Result<(), StoreFailure>,
}

impl Storage {
    fn new(answer: Result<(), StoreFailure>) -> Self {
        Self { kept: Vec::new(), pieces: 0, answer }
    }

    /// Sends bytes in flights of such a size and keeps the pieces that are asked for; returns the replies.
    fn feed(&mut self, talk: &mut Talk, words: &[u8], flight_bytes: usize) -> String {
        let mut out = Vec::new();
        for flight in words.chunks(flight_bytes) {
            let mut rest = flight;
            loop {
                let taken = talk.server.handle_bytes(talk.now, rest, &mut out);
                rest = &rest[taken..];
                if !matches!(talk.server.action, Some(Action::KeepPiece(_))) {
                    break;
                }
                self.keep(&mut talk.server, &mut out);
            }
        }
        String::from_utf8(out).unwrap()
    }

    fn keep(&mut self, server: &mut Server, out: &mut Vec<u8>) {
        let Some(Action::KeepPiece(piece)) = server.poll_action() else { panic!("no piece") };
        assert!(server.is_waiting() && server.poll_timeout().is_none(), "nothing is taken while a piece is kept");
        assert_eq!((piece.index, Some(piece.message)), (self.pieces, server.message_in_pieces()));
        assert!((STREAM_PIECE_BYTES..=2 * STREAM_PIECE_BYTES + 4).contains(&piece.content.len()));
        self.pieces += 1;
        self.kept.extend_from_slice(&piece.content);
        server.handle_piece_kept(self.answer.clone(), piece.content, out);
    }

    /// The message that is to be stored, with its content whole.
    fn end(&mut self, talk: &mut Talk) -> Box<Message> {
        let Some(Action::Store(message)) = talk.server.poll_action() else { panic!("nothing to store") };
        assert_eq!(message.pieces, Pieces { count: self.pieces, bytes: self.kept.len() as u64 });
        self.kept.extend_from_slice(&message.content);
        assert_eq!(message.content_size(), self.kept.len() as u64);
        message
    }
}

/// Content of lines that begin with dots and letters, so many bytes at least.
fn content(bytes: usize) -> String {
    let mut text = HEADER.to_owned();
    for number in 0.. {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&format!("{}{number} {}\r\n", if number % 3 == 0 { "." } else { "" }, "x".repeat(number % 70)));
    }
    text
}

fn dotted(content: &str) -> Vec<u8> {
    format!("{}.\r\n", content.replace("\r\n.", "\r\n..")).into_bytes()
}

fn chunked(content: &str, chunk_bytes: usize) -> Vec<u8> {
    let chunks = content.as_bytes().chunks(chunk_bytes);
    let mut words: Vec<u8> =
        chunks.flat_map(|chunk| [format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk].concat()).collect();
    words.extend_from_slice(b"BDAT 0 LAST\r\n");
    words
}

fn assert_stored_whole(talk: &mut Talk, storage: &mut Storage, expected: &str, resources: &Resources) {
    let message = storage.end(talk);
    assert!(storage.pieces >= 2 && storage.kept == expected.as_bytes(), "{} pieces", storage.pieces);
    let trace = String::from_utf8(message.trace.clone()).unwrap();
    assert!(!trace.contains("Date: ") && trace.contains("Message-ID: "), "the header is in the first piece: {trace}");
    assert!(resources.message_bytes() <= ROOM);
    let id = message.id;
    let reply = talk.reply(|server, out| server.handle_stored(Ok(Committed::attested_by_storage()), message, out));
    assert_eq!(reply, format!("250 2.0.0 Queued as {id}\r\n"));
    assert_eq!(talk.server.message_in_pieces(), None);
    assert!(talk.submit(Ok(())).starts_with("250"), "a small one follows");
}

#[test]
fn a_large_message_is_the_same_in_pieces_whatever_its_framing() {
    let text = content(700_000);
    let data = [TRANSACTION.as_bytes(), b"DATA\r\n", &dotted(&text)].concat();
    let binary = TRANSACTION.replace("org>\r\nRCPT", "org> BODY=BINARYMIME\r\nRCPT");
    for policy in [BareNewline::Reject, BareNewline::Normalize] {
        for flight_bytes in [1_000, 65_536, usize::MAX] {
            let chunks = |chunk_bytes| chunked(&text, chunk_bytes);
            let by_chunks = |transaction: &str, bytes| [transaction.as_bytes(), &chunks(bytes)].concat();
            let cases = [
                data.clone(),
                by_chunks(TRANSACTION, 300_001),
                by_chunks(&binary, 300_001),
                by_chunks(&binary, 1 << 18),
            ];
            for words in cases {
                let (mut talk, resources) = talk(4 << 20, policy);
                let mut storage = Storage::new(Ok(()));
                let replies = storage.feed(&mut talk, &words, flight_bytes);
                assert!(!replies.contains("\r\n5") && !replies.contains("\r\n4"), "{replies}");
                assert_stored_whole(&mut talk, &mut storage, &text, &resources);
            }
        }
    }
}

#[test]
fn newlines_that_stand_alone_are_made_whole_or_refused_in_any_piece() {
    let text = format!("{HEADER}{}", "\n".repeat(300_000));
    let words = [TRANSACTION.as_bytes(), &chunked(&text, 1 << 20)].concat();
    let (mut normalizing, resources) = talk(4 << 20, BareNewline::Normalize);
    let mut storage = Storage::new(Ok(()));
    storage.feed(&mut normalizing, &words, 65_536);
    assert_stored_whole(&mut normalizing, &mut storage, &format!("{HEADER}{}", "\r\n".repeat(300_000)), &resources);

    let text = content(600_000).replacen("0 ", "\n", 1);
    let words = [TRANSACTION.as_bytes(), b"DATA\r\n", &dotted(&text)].concat();
    let (mut rejecting, _) = talk(4 << 20, BareNewline::Reject);
    let replies = Storage::new(Ok(())).feed(&mut rejecting, &words, 65_536);
    assert!(replies.lines().last().unwrap().starts_with("550 5.6.0"), "{replies}");
    assert_eq!(rejecting.server.message_in_pieces(), None);
}

#[test]
fn a_piece_that_storage_refuses_refuses_the_message_at_its_end_and_nothing_else() {
    for (failure, reply) in
        [(StoreFailure::Full, "452 4.3.1"), (StoreFailure::Busy, "451 4.3.2"), (StoreFailure::Fault, "451 4.3.0")]
    {
        let (mut talk, resources) = talk(4 << 20, BareNewline::Normalize);
        let text = content(1_000_000);
        let mut storage = Storage::new(Err(failure));
        let content = dotted(&text);
        let (beginning, end) = content.split_at(900_000);
        let words = [TRANSACTION.as_bytes(), b"DATA\r\n", beginning].concat();
        let replies = storage.feed(&mut talk, &words, 65_536);
        assert!(replies.lines().last().unwrap().starts_with("354"), "it is read to its end: {replies}");
        assert_eq!((storage.pieces, talk.server.message_in_pieces(), resources.message_bytes()), (1, None, 0));
        let replies = storage.feed(&mut talk, end, 65_536);
        assert!(replies.starts_with(reply), "{replies}");
        assert!(talk.submit(Ok(())).starts_with("250"));
    }
}

#[test]
fn all_pieces_count_for_the_size_limit() {
    let text = content(1_000_000);
    for words in [[b"DATA\r\n", &dotted(&text)[..]].concat(), chunked(&text, 400_000)] {
        let (mut talk, _) = talk(700_000, BareNewline::Normalize);
        let mut storage = Storage::new(Ok(()));
        let replies = storage.feed(&mut talk, &[TRANSACTION.as_bytes(), &words].concat(), 65_536);
        assert!(replies.contains("552 5.3.4"), "{replies}");
        assert!(storage.pieces > 0 && talk.server.message_in_pieces().is_none());
        assert!(talk.submit(Ok(())).starts_with("250"));
    }
}

#[test]
fn a_transaction_that_is_given_up_has_no_message_in_pieces() {
    let (mut talk, _) = talk(4 << 20, BareNewline::Normalize);
    let mut storage = Storage::new(Ok(()));
    let chunk = [TRANSACTION.as_bytes(), b"BDAT 600000\r\n", &content(600_000).as_bytes()[..600_000]].concat();
    storage.feed(&mut talk, &chunk, 65_536);
    assert!(talk.server.message_in_pieces().is_some());
    talk.say("RSET\r\n");
    assert_eq!(talk.server.message_in_pieces(), None);
    storage.pieces = 0;
    storage.feed(&mut talk, &chunk, 65_536);
    assert!(talk.server.message_in_pieces().is_some());
    talk.reply(Server::handle_timeout);
    assert_eq!(talk.server.message_in_pieces(), None);
}

#[test]
fn a_drain_lets_a_message_in_pieces_come_to_its_end() {
    let (mut talk, _) = talk(4 << 20, BareNewline::Normalize);
    let words = [TRANSACTION.as_bytes(), b"DATA\r\n", &dotted(&content(600_000))].concat();
    let mut out = Vec::new();
    let taken = talk.server.handle_bytes(talk.now, &words, &mut out);
    talk.server.handle_drain(&mut out);
    let mut storage = Storage::new(Ok(()));
    storage.keep(&mut talk.server, &mut out);
    storage.feed(&mut talk, &words[taken..], 65_536);
    let message = storage.end(&mut talk);
    let reply = talk.reply(|server, out| server.handle_stored(Ok(Committed::attested_by_storage()), message, out));
    assert!(reply.starts_with("250") && reply.contains("\r\n421"), "{reply}");
}

#[test]
fn in_early_data_without_a_token_a_message_in_pieces_waits_for_the_finished() {
    let mut talk = Talk::logged_in_early(|settings| settings.bounds.message_bytes_max = 4 << 20);
    talk.server.room = super::Room::new(Arc::new(Resources::new(0, ROOM).streaming()));
    let text = content(600_000);
    let mut storage = Storage::new(Ok(()));
    let words = [TRANSACTION.as_bytes(), b"DATA\r\n", &dotted(&text)].concat();
    storage.feed(&mut talk, &words, 65_536);
    assert!(talk.server.is_awaiting_finish() && talk.server.message_in_pieces().is_some());
    talk.server.handle_finished();
    let message = storage.end(&mut talk);
    assert!(storage.kept == text.as_bytes() && message.id.received() == Now::simulated_ms(0).unix);
}
