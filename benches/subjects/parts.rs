//! Parts of the server by themselves: commands, qhlo-ids, the session cache, records of the spool.

use std::hint::black_box;
use std::time::Duration;

use onetrip::proto::command::{Command, parse};
use onetrip::proto::envelope::Envelope;
use onetrip::proto::message::{Message, MessageId, Pieces};
use onetrip::proto::qhlo_id::{Binding, Point, QhloIds, Subject};
use onetrip::spool::Place;
use onetrip::spool::frame::{self, BATCH_HEADER_BYTES, BatchHeader};
use onetrip::spool::record::{self, Record, kind};
use onetrip::tls::cache::SessionCache;
use onetrip::tls::store::{KEY_BYTES, SessionStore, Uses};

use super::{Work, letter};

/// What clients say in a session, a line each.
pub const LINES: [&[u8]; 12] = [
    b"EHLO client.example.org",
    b"STARTTLS",
    b"QHLO [192.0.2.7] 4gToB9yXb_HOO2H6",
    b"AUTH PLAIN AGFubgBzZWNyZXQ=",
    b"MAIL FROM:<ann@example.org> SIZE=4096 BODY=8BITMIME XONCE=0123456789abcdef",
    b"RCPT TO:<bob@example.org>",
    b"RCPT TO:<carl@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;carl@example.org",
    b"BDAT 4096 LAST",
    b"DATA",
    b"RSET",
    b"NOOP",
    b"QUIT",
];

/// Reads each of [`LINES`] once.
pub fn commands() -> Work {
    Box::new(|| {
        for line in LINES {
            let parsed = parse(black_box(line));
            assert!(black_box(&parsed).command.is_ok());
        }
    })
}

/// The id of one client.
pub fn qhlo_id_issue() -> Work {
    let ids = ids();
    Box::new(move || {
        black_box(ids.issue(black_box(&subject(&[5; 32]))));
    })
}

/// The id of one client is checked, and good.
pub fn qhlo_id_check() -> Work {
    let ids = ids();
    let id = ids.issue(&subject(&[5; 32]));
    Box::new(move || assert!(ids.matches(black_box(&subject(&[5; 32])), black_box(id.as_bytes()))))
}

fn ids() -> QhloIds {
    QhloIds::new(&[7; QhloIds::SECRET_BYTES], Some(&[6; QhloIds::SECRET_BYTES]), Binding::Address)
}

fn subject(list_digest: &[u8; 32]) -> Subject<'_> {
    Subject { point: Point::Secured, list_digest, server: [192, 0, 2, 1].into(), client: [198, 51, 100, 7].into() }
}

/// Puts a session and takes it, beside as many others as fill three quarters of the cache.
pub fn session_cache() -> Work {
    const SESSIONS: u64 = 4_096;
    let cache = SessionCache::new(SESSIONS as usize, Duration::from_secs(86_400)).expect("memory");
    for number in 0..SESSIONS * 3 / 4 {
        cache.put(session_key(number), vec![7; 72], Uses::Once);
    }
    let mut number = SESSIONS;
    Box::new(move || {
        number += 1;
        let key = session_key(number);
        assert!(cache.put(key, vec![7; 72], Uses::Once));
        assert!(black_box(cache.take(&key)).is_some());
    })
}

/// As evenly spread as the TLS library's, and the same in each run.
fn session_key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let mut state = number;
    for part in key.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        part.copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    }
    key
}

/// A message of 4 KiB is written into a batch, sealed, and read back.
pub fn spool_record() -> Work {
    const SEED: u64 = 11;
    let message = stored_message();
    let place = Place { segment: 1, offset: frame::BLOCK_BYTES };
    let header = BatchHeader { number: 1, seed: SEED, place, committed: place, bytes: 0 };
    let mut batch = Vec::new();
    Box::new(move || {
        batch.clear();
        frame::append(&mut batch, kind::MESSAGE, |out| record::write_message(&message, 0, 0, &message.content, out));
        frame::seal(&mut batch, header);
        let records = &batch[BATCH_HEADER_BYTES..];
        let frame = frame::read(records, SEED, place.offset + BATCH_HEADER_BYTES as u32).expect("it is whole");
        let Some(Record::Message(head)) = Record::decode(frame.kind, frame.payload) else { panic!("no message") };
        assert_eq!(black_box(head).content.len(), message.content.len());
    })
}

/// A message as a connection hands it to storage.
pub fn stored_message() -> Message {
    let mut envelope = Envelope::EMPTY;
    let (Ok(Command::Mail(mail)), Ok(Command::Rcpt(rcpt))) = (parse(LINES[4]).command, parse(LINES[5]).command) else {
        panic!("these are commands");
    };
    envelope.begin(&mail, "ann");
    envelope.add(&rcpt);
    Message {
        id: MessageId::new(Duration::from_secs(1_795_000_000), 0, 1),
        envelope,
        trace: vec![b't'; 240],
        content: letter(),
        pieces: Pieces::NONE,
    }
}
