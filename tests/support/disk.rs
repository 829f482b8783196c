//! A disk in memory for the log of one shard: what is on it is on stable storage, and what a crash meets half done is torn.
//!
//! The tests of the spool and the simulator of the whole server share it. It decides nothing: whoever uses it says which
//! sectors of a write a crash has let through.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::collections::BTreeMap;
use std::convert::Infallible;

use onetrip::proto::message::{Message, MessageId};
use onetrip::spool::frame::{self, BLOCK_BYTES, SegmentHeader};
use onetrip::spool::log::{Address, Log, LogSettings, Write};
use onetrip::spool::record::{Record, Token};
use onetrip::spool::recovery::{Recovered, Recovery, committed_before, read_progress};
use onetrip::spool::{Place, Progress};
use onetrip::time::Now;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What is on stable storage, by segment.
#[derive(Clone, Debug, Default)]
pub struct Disk(pub BTreeMap<u32, Vec<u8>>);

impl Disk {
    /// Writes all of it.
    pub fn write(&mut self, write: &Write) {
        self.tear(write, || true);
    }

    /// Writes those sectors of it of which `is_written` says so, one after the other.
    pub fn tear(&mut self, write: &Write, mut is_written: impl FnMut() -> bool) {
        let segment = self.0.get_mut(&write.place.segment).expect("a segment that was prepared");
        for (number, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
            if is_written() {
                let start = write.place.offset as usize + number * SECTOR_BYTES;
                segment[start..start + sector.len()].copy_from_slice(sector);
            }
        }
    }

    /// Makes a segment, of an old one if there is one.
    pub fn prepare(&mut self, header: SegmentHeader, recycled: Option<u32>) {
        self.rename(header, recycled);
        let bytes = self.0.get_mut(&header.number).expect("it was just made");
        bytes[..BLOCK_BYTES as usize].copy_from_slice(&header.encode());
    }

    /// The first half of [`Disk::prepare`]: the segment has its number, and no header of its own yet.
    pub fn rename(&mut self, header: SegmentHeader, recycled: Option<u32>) {
        let old = recycled.map(|number| self.0.remove(&number).expect("a segment that was freed"));
        self.0.insert(header.number, old.unwrap_or_else(|| vec![0; header.bytes as usize]));
    }

    /// The bytes at a place.
    pub fn read(&self, place: Place, bytes: u32) -> &[u8] {
        let segment = &self.0[&place.segment];
        &segment[place.offset as usize..(place.offset + bytes) as usize]
    }

    /// What a start finds.
    pub fn recover(&self, settings: LogSettings, now: Now, on_token: &mut dyn FnMut(Token<'_>)) -> Recovered {
        let mut recovery = Recovery::new(settings, now);
        for (number, bytes) in &self.0 {
            let later = self.0.range(number + 1..).find_map(|(number, bytes)| committed_before(bytes, *number));
            recovery.read_segment(*number, bytes, later, on_token);
        }
        recovery.finish(now.unix.as_nanos() as u64)
    }

    /// A message with its newest progress, as the runtime would read it.
    pub fn message(&self, log: &Log, id: MessageId) -> (Message, Option<Progress>) {
        let location = log.locate(id).expect("it is in the log");
        let record = |address: Address| self.read(address.place, address.bytes).to_vec();
        let mut content = Vec::new();
        for (expected, part) in (0..).zip(&location.parts) {
            let bytes = record(*part);
            let found = frame::read(&bytes, part.seed, part.place.offset).expect("a part");
            let Some(Record::Part { id: of, index, bytes }) = Record::decode(found.kind, found.payload) else {
                panic!("no part lies where one should");
            };
            assert_eq!((of, index), (id, expected));
            content.extend_from_slice(bytes);
        }
        let bytes = record(location.head);
        let found = frame::read(&bytes, location.head.seed, location.head.place.offset).expect("a message");
        let Some(Record::Message(head)) = Record::decode(found.kind, found.payload) else {
            panic!("no message lies where one should");
        };
        assert_eq!(head.part_bytes, content.len() as u64);
        let mut message = *head.to_message();
        content.extend_from_slice(&message.content);
        message.content = content;
        let read = |address| Ok::<_, Infallible>(record(address));
        let progress =
            location.progress.map(|address| read_progress(address, read).unwrap().expect("progress can be read"));
        (message, progress)
    }
}
