//! A log read back from segments of any content: well made, badly made, torn and damaged.
//!
//! The input is a list of operations that write segments ([`Disk`]). Records may say anything, with checksums that are right.
//!
//! Promises: no panic, and memory by what is there; each message that is found can be read; reading again finds the same; and
//! the log goes on: a message appended to it is there after the next start, and so are those that were found before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use onetrip::proto::command::{Command, parse};
use onetrip::proto::message::{Message, MessageId};
use onetrip::spool::frame::{self, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, SegmentHeader};
use onetrip::spool::log::{Log, LogSettings, Write};
use onetrip::spool::record::{
    Record, Token, kind, write_disowned, write_done, write_message, write_part, write_progress, write_token,
};
use onetrip::spool::recovery::{Recovered, Recovery, committed_before, read_progress};
use onetrip::spool::upkeep::Upkeep;
use onetrip::spool::{Place, Progress, RecipientState};
use onetrip::time::Now;

use crate::input::Input;

const SETTINGS: LogSettings = LogSettings {
    segment_bytes: 16 * BLOCK_BYTES,
    batch_bytes_max: 8_192,
    part_bytes: 3_000,
    waiting_bytes_max: 1 << 20,
    note_delay: Duration::from_millis(5),
    token_retention: Duration::from_secs(100),
};

/// See the [module](self).
pub fn check(data: &[u8]) {
    let mut disk = Disk::default();
    disk.build(Input::new(data));
    let now = Now::simulated_ms(1_000);
    let found = disk.recover(now);
    let messages: BTreeSet<_> = found.log.messages().collect();
    assert_eq!(messages, disk.recover(now).log.messages().collect(), "the same bytes tell something else");
    disk.check_messages(&found.log);
    let lost = found.damage.iter().filter_map(|damage| damage.message).collect();
    disk.go_on(found.log, now, &messages, &lost);
}

/// Segments by number.
#[derive(Default)]
struct Disk {
    segments: BTreeMap<u32, Vec<u8>>,
    /// The one that is being written, its seed, and where its next batch goes.
    current: (u32, u64, u32),
}

impl Disk {
    /// | operation | what it is |
    /// |---|---|
    /// | 0 | a segment: how far its number is from the last, its seed, its blocks, and is its header right |
    /// | 1 | a batch where the last ended: its number, what it says was committed, its records |
    /// | 2, 3 | a byte is another; the segment is cut |
    /// | 4, 5 | room is left before the next batch; it overwrites the last block |
    fn build(&mut self, mut input: Input<'_>) {
        while !input.is_empty() {
            match input.byte() % 6 {
                0 => self.begin_segment(&mut input),
                1 => self.write_batch(&mut input),
                2 => {
                    let (at, value) = (usize::from(input.short()), input.byte());
                    let bytes = self.bytes();
                    if let Some(byte) = at.checked_rem(bytes.len()).and_then(|at| bytes.get_mut(at)) {
                        *byte ^= value;
                    }
                }
                3 => {
                    let at = usize::from(input.short());
                    self.bytes().truncate(at);
                }
                4 => self.current.2 = self.current.2.saturating_add(BLOCK_BYTES),
                _ => self.current.2 = self.current.2.saturating_sub(BLOCK_BYTES).max(BLOCK_BYTES),
            }
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        self.segments.entry(self.current.0).or_default()
    }

    fn begin_segment(&mut self, input: &mut Input<'_>) {
        if self.segments.len() >= 8 {
            return;
        }
        let number = self.current.0.saturating_add(1 + u32::from(input.byte() % 3));
        let seed = u64::from(input.byte());
        let blocks = 1 + u32::from(input.byte() % 8);
        self.current = (number, seed, BLOCK_BYTES);
        let mut bytes = vec![0; (blocks * BLOCK_BYTES) as usize];
        let header = match input.byte() % 4 {
            0..=2 => SegmentHeader { number, bytes: blocks * BLOCK_BYTES, seed },
            _ => SegmentHeader { number: number / 2, bytes: 0, seed: 3 },
        };
        bytes[..BLOCK_BYTES as usize].copy_from_slice(&header.encode());
        self.segments.insert(number, bytes);
    }

    fn write_batch(&mut self, input: &mut Input<'_>) {
        let (segment, seed, offset) = self.current;
        let mut batch = vec![0; BATCH_HEADER_BYTES];
        let number = u64::from(input.byte());
        let committed = match input.byte() {
            0xff => Place { segment: input.word(), offset: input.word() },
            back if back & 1 == 0 => Place { segment, offset },
            back => Place {
                segment: segment.saturating_sub(u32::from(back >> 4)),
                offset: u32::from(back >> 1 & 7) * BLOCK_BYTES,
            },
        };
        for _ in 0..input.byte() % 8 {
            write_record(input, &mut batch);
        }
        frame::seal(&mut batch, BatchHeader { number, seed, place: Place { segment, offset }, committed, bytes: 0 });
        if input.byte() == 0xff {
            // A header that promises more, or less, than there is.
            batch[40..44].copy_from_slice(&input.word().to_le_bytes());
            let checksum = crc32fast::hash(&batch[8..BATCH_HEADER_BYTES]);
            batch[4..8].copy_from_slice(&checksum.to_le_bytes());
        }
        let bytes = self.bytes();
        let start = offset as usize;
        let end = (start + batch.len()).min(bytes.len());
        if start < end {
            bytes[start..end].copy_from_slice(&batch[..end - start]);
        }
        self.current.2 = offset.saturating_add(batch.len() as u32);
    }

    fn recover(&self, now: Now) -> Recovered {
        let mut recovery = Recovery::new(SETTINGS, now);
        for (number, bytes) in &self.segments {
            let after = self.segments.range(number + 1..);
            let later = after.map(|(number, bytes)| committed_before(bytes, *number)).find_map(|place| place);
            recovery.read_segment(*number, bytes, later, &mut |token: Token<'_>| {
                assert!(token.id.received() + SETTINGS.token_retention > now.unix, "an old token");
            });
        }
        recovery.finish(1)
    }

    fn read(&self, place: Place, bytes: u32) -> Option<&[u8]> {
        let segment = self.segments.get(&place.segment)?.get(place.offset as usize..)?;
        segment.get(..(bytes as usize).min(segment.len()))
    }

    /// Each message that the log names is where it says.
    fn check_messages(&self, log: &Log) {
        for id in log.messages() {
            let location = log.locate(id).expect("a message that is in the log");
            let head = self.read(location.head.place, location.head.bytes).expect("bytes of a message");
            let frame = frame::read(head, location.head.seed, location.head.place.offset).expect("its record");
            let Some(Record::Message(head)) = Record::decode(frame.kind, frame.payload) else { panic!("a message") };
            assert_eq!(head.id, id);
            assert!(head.parts == 0 || head.parts as usize == location.parts.len(), "parts are missing");
            for (index, part) in (0..).zip(&location.parts) {
                let bytes = self.read(part.place, part.bytes).expect("bytes of a part");
                let frame = frame::read(bytes, part.seed, part.place.offset).expect("its record");
                let Some(Record::Part { id: of, index: found, .. }) = Record::decode(frame.kind, frame.payload) else {
                    panic!("a part")
                };
                assert_eq!((of, found), (id, index));
            }
            if let Some(progress) = location.progress {
                let found = read_progress(progress, |address| self.read(address.place, address.bytes).map(Vec::from).ok_or(()));
                assert!(found.expect("bytes of progress").is_some_and(|found| found.message == id));
            }
        }
        for segment in log.message_segments() {
            log.visit_segment(segment, &self.segments[&segment], &mut |head| assert!(log.contains(head.id)));
        }
    }

    /// The log is written to, kept up, and read once more.
    fn go_on(&mut self, mut log: Log, now: Now, before: &BTreeSet<MessageId>, lost: &BTreeSet<MessageId>) {
        let mut message = simple(99);
        message.id = MessageId::new(now.unix, 1, 99);
        log.append_message(now, &message, 1).expect("a small message has room");
        self.settle(&mut log, now);
        let done = log.take_completions();
        assert!(done.len() == 1 && done[0].result.is_ok(), "{done:?}");
        log.close(now);
        self.settle(&mut log, now);
        self.check_messages(&log);
        let after: BTreeSet<_> = self.recover(now).log.messages().collect();
        assert!(after.contains(&message.id), "the new message is lost");
        assert!(after.is_superset(before), "a message is lost");
        // What was reported as lost because its records contradict each other may come back when some of them are gone.
        assert!(
            after.iter().all(|id| *id == message.id || before.contains(id) || lost.contains(id)),
            "a message from nowhere"
        );
    }

    fn settle(&mut self, log: &mut Log, now: Now) {
        for _ in 0..1_000 {
            if let Some(write) = log.poll_write(now) {
                self.write(&write);
                log.handle_written(Ok(()));
            } else if !self.keep_up(log, now) {
                return;
            }
        }
        panic!("upkeep without end");
    }

    fn write(&mut self, write: &Write) {
        let start = write.place.offset as usize;
        let segment = self.segments.get_mut(&write.place.segment).expect("a segment that was prepared");
        segment[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    fn keep_up(&mut self, log: &mut Log, now: Now) -> bool {
        match log.poll_upkeep(now) {
            Some(Upkeep::Prepare { header, recycled }) => {
                let old = recycled.and_then(|number| self.segments.remove(&number));
                let mut bytes = old.unwrap_or_default();
                bytes.resize(header.bytes as usize, 0);
                bytes[..BLOCK_BYTES as usize].copy_from_slice(&header.encode());
                assert!(self.segments.insert(header.number, bytes).is_none(), "a segment that is there already");
                log.handle_prepared(now, Ok(()));
            }
            Some(Upkeep::Remove(number)) => {
                self.segments.remove(&number);
                log.handle_removed(now, Ok(()));
            }
            Some(Upkeep::Read { place, bytes }) => {
                let bytes = self.read(place, bytes).map(<[u8]>::to_vec);
                log.handle_read(now, bytes.as_deref());
            }
            None => return false,
        }
        true
    }
}

fn write_record(input: &mut Input<'_>, batch: &mut Vec<u8>) {
    let which = input.byte();
    let number = u32::from(input.byte() % 4);
    let id = MessageId::new(Now::simulated_ms(u64::from(number)).unix, 0, number);
    match which % 9 {
        0 => {
            let (kind, payload) = (input.byte(), input.counted());
            frame::append(batch, kind, |out| out.extend_from_slice(payload));
        }
        1 | 2 => {
            let (parts, content) = (u32::from(input.byte() % 4), input.counted());
            frame::append(batch, kind::MESSAGE, |out| write_message(&simple(number), parts, 0, content, out));
        }
        3 => {
            let index = match input.byte() {
                0xff => input.word(),
                index => u32::from(index % 4),
            };
            let piece = input.counted();
            frame::append(batch, kind::PART, |out| write_part(id, index, piece, out));
        }
        4 => {
            let progress = Progress {
                message: id,
                recipients: vec![RecipientState::Waiting; usize::from(input.byte() % 3)],
                attempts: input.word(),
                next_attempt: Duration::from_micros(u64::from(input.word()) << 20),
                held: false,
                warned: false,
                last_reply: "later".to_owned(),
            };
            frame::append(batch, kind::PROGRESS, |out| write_progress(&progress, out));
        }
        5 => {
            frame::append(batch, kind::DONE, |out| write_done(id, out));
        }
        6 => {
            frame::append(batch, kind::TOKEN, |out| write_token(Token { id, user: "ann", token: "t" }, out));
        }
        7 => {
            frame::append(batch, kind::DISOWNED, |out| write_disowned(id, out));
        }
        _ => {
            frame::append(batch, kind::NOTHING, |_| {});
        }
    }
}

fn simple(number: u32) -> Message {
    let mut message = Message::default();
    let once = if number == 3 { " XONCE=t" } else { "" };
    let mail = format!("MAIL FROM:<a@b.example>{once}");
    let Ok(Command::Mail(mail)) = parse(mail.as_bytes()).command else { panic!("{mail}") };
    message.envelope.begin(&mail, "ann");
    let Ok(Command::Rcpt(rcpt)) = parse(b"RCPT TO:<c@d.example>").command else { panic!("RCPT") };
    message.envelope.add(&rcpt);
    message.id = MessageId::new(Now::simulated_ms(u64::from(number)).unix, 0, number);
    message.trace.extend_from_slice(b"Received: from here\r\n");
    message.content.extend_from_slice(b"Subject: x\r\n");
    message
}
