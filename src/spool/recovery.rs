//! A log read back at start: what is queued, which tokens hold, and what is damaged.
//!
//! ```text
//! read_segment, the oldest first ──▶ finish ──▶ Recovered: the log, ready to go on
//!                                                  └─ visit_segment, once more ──▶ each queued message with its envelope
//! ```
//!
//! * What a later batch says was committed must be whole: what is not is damage, which is reported, and the rest is
//!   read on.
//! * The last batch may be torn. It was not acknowledged, so it is cut, whole.
//! * A batch whose write failed does not count, however much of it is there: the next batch says so.
//!
//! It changes nothing on the disk.

use std::collections::HashMap;
use std::ops::Range;

use super::contents::{Contents, Piece, Segment};
use super::frame::{self, BLOCK_BYTES, BatchHeader, Frame, Item, Records, SegmentHeader};
use super::log::{Address, Log, LogSettings};
use super::record::{Head, Record, Token};
use super::{Place, Progress};
use crate::limits::SPOOL_PARTS_MAX;
use crate::proto::message::MessageId;
use crate::time::Now;

/// Bytes of a segment that were committed and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u32,
    /// Where in it.
    pub bytes: Range<u32>,
    /// The message that is lost by it, if that is known.
    pub message: Option<MessageId>,
}

/// A log that is being read.
#[derive(Debug)]
pub struct Recovery {
    settings: LogSettings,
    now: Now,
    contents: Contents,
    /// Progress that was found before its message, which was copied forward.
    early_progress: HashMap<MessageId, Place>,
    damage: Vec<Damage>,
    cut_bytes: u64,
    last_segment: u32,
    last_batch: u64,
    /// The one with that number.
    newest: Option<BatchHeader>,
    /// A torn one lies behind it, which was begun when the newest was done with.
    is_followed: bool,
    committed: Place,
    /// Segments in which nothing was ever written.
    unused: Vec<u32>,
}

/// A log that was read.
#[derive(Debug)]
pub struct Recovered {
    /// It goes on in a fresh segment.
    pub log: Log,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Bytes of a last batch that was torn by a crash, and so was not acknowledged.
    pub cut_bytes: u64,
}

/// The end of what was on stable storage when the first whole batch of this segment was written; `None` if the segment
/// has none.
pub fn committed_before(segment: &[u8], number: u32) -> Option<Place> {
    let seed = seed_of(segment, number)?;
    frame::next_batch(segment, number, Some(seed), BLOCK_BYTES).map(|header| header.committed)
}

/// The seed of a segment; if its header is damaged, its first batch tells it. One with the header of another is about to be used
/// again, and nothing in it counts: there a batch of this number could only be something that was written in a message.
fn seed_of(segment: &[u8], number: u32) -> Option<u64> {
    match SegmentHeader::decode(segment) {
        Some(header) => (header.number == number).then_some(header.seed),
        None => frame::next_batch(segment, number, None, BLOCK_BYTES).map(|batch| batch.seed),
    }
}

impl Recovery {
    /// Nothing is read yet. Tokens older than the settings' retention are passed over.
    pub fn new(settings: LogSettings, now: Now) -> Self {
        Self {
            settings,
            now,
            contents: Contents::default(),
            early_progress: HashMap::new(),
            damage: Vec::new(),
            cut_bytes: 0,
            last_segment: 0,
            last_batch: 0,
            newest: None,
            is_followed: false,
            committed: Place { segment: 0, offset: 0 },
            unused: Vec::new(),
        }
    }

    /// Reads a segment; the oldest comes first. `later` is what [`committed_before`] says of the next segment in which
    /// something was written. `on_token` is told each token that holds, perhaps more than once.
    pub fn read_segment(
        &mut self,
        number: u32,
        bytes: &[u8],
        later: Option<Place>,
        on_token: &mut dyn FnMut(Token<'_>),
    ) {
        self.last_segment = self.last_segment.max(number);
        let Some(seed) = seed_of(bytes, number) else {
            self.unused.push(number);
            if let Some(place) = later.filter(|place| place.segment == number) {
                self.damage.push(Damage { segment: number, bytes: 0..place.offset, message: None });
            }
            return;
        };
        if SegmentHeader::decode(bytes).is_none_or(|header| header.number != number) {
            self.damage.push(Damage { segment: number, bytes: 0..BLOCK_BYTES, message: None });
        }
        let limit = match later {
            Some(place) if place.segment == number => Some(place.offset),
            // Only batches that failed: the log went on elsewhere.
            Some(place) if place.segment < number => Some(BLOCK_BYTES),
            _ => None,
        };
        self.contents.segments.push_back(Segment::new(number, seed));
        let scan = Scan { number, seed, bytes, limit };
        let end = scan.run(&mut |found| match found {
            Found::Batch(header) => {
                if header.number > self.last_batch {
                    (self.last_batch, self.newest) = (header.number, Some(header));
                    self.is_followed = false;
                }
            }
            Found::Record(frame) => self.take(number, frame, on_token),
            Found::Damage(bytes) => self.damage.push(Damage { segment: number, bytes, message: None }),
            Found::Torn(bytes) => {
                self.cut_bytes += u64::from(bytes);
                self.is_followed = true;
            }
        });
        if end > BLOCK_BYTES {
            self.committed = Place { segment: number, offset: end };
        }
        if let Some(segment) = self.contents.segments.back_mut() {
            // What is not there cannot be read again either.
            segment.end = end.min(bytes.len() as u32).max(BLOCK_BYTES);
        }
    }

    /// The last batch that counts. What was read of it need not be on the disk: its write may have failed and have left it in
    /// memory. All before it is there, as it says itself.
    pub fn newest_batch(&self) -> Option<BatchHeader> {
        self.newest
    }

    fn take(&mut self, number: u32, frame: Frame<'_>, on_token: &mut dyn FnMut(Token<'_>)) {
        let place = Place { segment: number, offset: frame.offset };
        let piece = Piece { place, bytes: frame.bytes() as u32 };
        match Record::decode(frame.kind, frame.payload) {
            Some(Record::Message(head)) => {
                self.contents.place_message(head.id, piece);
                if let Some(place) = self.early_progress.remove(&head.id) {
                    self.contents.place_progress(head.id, place);
                }
                match head.parts {
                    // What an earlier record said of parts counts no longer.
                    0 => self.contents.remove_parts(head.id),
                    parts => self.contents.large.entry(head.id).or_default().expected = parts,
                }
                if let Some(token) = head.envelope.once() {
                    self.take_token(number, Token { id: head.id, user: head.envelope.user(), token }, on_token);
                }
            }
            Some(Record::Part { id, index, .. }) if index < SPOOL_PARTS_MAX => {
                self.contents.place_part(id, index, piece);
            }
            Some(Record::Progress(progress)) if self.contents.messages.contains(progress.message) => {
                self.contents.place_progress(progress.message, place);
            }
            Some(Record::Progress(progress)) => {
                self.early_progress.insert(progress.message, place);
            }
            Some(Record::Done(id)) => self.remove(id),
            Some(Record::Disowned(id)) => {
                self.remove(id);
                if self.holds_token_of(id) {
                    self.contents.disowned.insert(id);
                }
            }
            Some(Record::Token(token)) => self.take_token(number, token, on_token),
            Some(Record::Nothing) => {}
            Some(Record::Part { .. }) | None => {
                let end = frame.offset + frame.bytes() as u32;
                self.damage.push(Damage { segment: number, bytes: frame.offset..end, message: None });
            }
        }
    }

    fn take_token(&mut self, number: u32, token: Token<'_>, on_token: &mut dyn FnMut(Token<'_>)) {
        if self.holds_token_of(token.id) {
            self.contents.place_token(number, token.id.received());
            on_token(token);
        }
    }

    fn holds_token_of(&self, id: MessageId) -> bool {
        id.received() + self.settings.token_retention > self.now.unix
    }

    fn remove(&mut self, id: MessageId) {
        self.early_progress.remove(&id);
        self.contents.remove(id);
    }

    /// All segments are read. `random` is for the seeds of new segments.
    pub fn finish(mut self, random: u64) -> Recovered {
        self.drop_incomplete();
        let last_of_all = self.newest.filter(|_| !self.is_followed);
        let Self { settings, contents, last_segment, last_batch, committed, .. } = self;
        let mut log = Log::with(settings, contents, last_segment, last_batch, committed, random);
        log.last_batch_found =
            last_of_all.map(|batch| (batch.place, u32::try_from(batch.whole_bytes()).unwrap_or(u32::MAX)));
        for number in self.unused {
            log.keeping.add_freed(number);
        }
        Recovered { log, damage: self.damage, cut_bytes: self.cut_bytes }
    }

    /// Parts without a message were coming in when the server stopped. A message without all its parts was damaged.
    fn drop_incomplete(&mut self) {
        let large: Vec<_> = self.contents.large.iter().map(|(id, large)| (*id, large.expected)).collect();
        for (id, expected) in large {
            let Some(entry) = self.contents.messages.get(id).copied() else {
                self.contents.remove_parts(id);
                continue;
            };
            if !self.contents.has_parts(id, expected) {
                let Place { segment, offset } = entry.head.place;
                let bytes = offset..offset + entry.head.bytes;
                self.damage.push(Damage { segment, bytes, message: Some(id) });
                self.contents.lost.insert(id);
                self.contents.remove(id);
            }
        }
    }
}

impl Log {
    /// The numbers of the segments in which queued messages lie.
    pub fn message_segments(&self) -> Vec<u32> {
        let mut numbers: Vec<_> = self.contents.messages.iter().map(|entry| entry.head.place.segment).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Tells each queued message of this segment, in the order of the log.
    pub fn visit_segment(&self, number: u32, bytes: &[u8], visit: &mut dyn FnMut(&Head<'_>)) {
        let Some(segment) = self.contents.segment(number) else {
            return;
        };
        let scan = Scan { number, seed: segment.seed, bytes, limit: Some(segment.end) };
        scan.run(&mut |found| {
            let Found::Record(frame) = found else {
                return;
            };
            let place = Place { segment: number, offset: frame.offset };
            if let Some(Record::Message(head)) = Record::decode(frame.kind, frame.payload)
                && self.contents.messages.get(head.id).is_some_and(|entry| entry.head.place == place)
            {
                visit(&head);
            }
        });
    }
}

/// Reads the progress that lies at this address; `None` if none does. Most are short; `read` is asked a second time for one that is
/// longer.
///
/// # Errors
/// Those of `read`.
pub fn read_progress<E>(
    address: Address,
    mut read: impl FnMut(Address) -> Result<Vec<u8>, E>,
) -> Result<Option<Progress>, E> {
    let first = Address { bytes: address.bytes.min(PROGRESS_BYTES), ..address };
    let mut bytes = read(first)?;
    let claimed = frame::claimed_bytes(&bytes).and_then(|claimed| u32::try_from(claimed).ok()).unwrap_or_default();
    if claimed > first.bytes && claimed <= address.bytes {
        bytes = read(Address { bytes: claimed, ..address })?;
    }
    let frame = frame::read(&bytes, address.seed, address.place.offset);
    Ok(match frame.and_then(|frame| Record::decode(frame.kind, frame.payload)) {
        Some(Record::Progress(progress)) => Some(progress),
        _ => None,
    })
}

/// What is read of progress at first: some thousand recipients and the longest reply fit.
const PROGRESS_BYTES: u32 = 4_096;

enum Found<'a> {
    Batch(BatchHeader),
    Record(Frame<'a>),
    Damage(Range<u32>),
    /// So many bytes of a batch that nobody was told of.
    Torn(u32),
}

/// A segment, from its first batch to its last.
struct Scan<'a> {
    number: u32,
    seed: u64,
    bytes: &'a [u8],
    /// Up to where it was committed, if that is known.
    limit: Option<u32>,
}

impl<'a> Scan<'a> {
    /// Returns where the last batch that counts ends.
    fn run(&self, found: &mut dyn FnMut(Found<'a>)) -> u32 {
        let mut offset = BLOCK_BYTES;
        loop {
            if self.limit.is_some_and(|limit| offset >= limit) {
                return offset;
            }
            match self.batch_from(offset) {
                Some(header) if header.place.offset > offset => {
                    found(Found::Damage(offset..header.place.offset));
                    offset = header.place.offset;
                }
                Some(header) => match self.read_batch(header, found) {
                    Some(end) => offset = end,
                    None => return offset,
                },
                None => {
                    let Some(limit) = self.limit else {
                        return offset;
                    };
                    found(Found::Damage(offset..limit));
                    return limit;
                }
            }
        }
    }

    /// The next batch that counts, at or after `offset`.
    fn batch_from(&self, offset: u32) -> Option<BatchHeader> {
        let header = frame::next_batch(self.bytes, self.number, Some(self.seed), offset)?;
        self.limit.is_none_or(|limit| header.place.offset < limit).then_some(header)
    }

    /// Reads a batch and returns its end; nothing if it was torn.
    fn read_batch(&self, header: BatchHeader, found: &mut dyn FnMut(Found<'a>)) -> Option<u32> {
        let start = header.place.offset;
        let end = u64::from(start) + header.whole_bytes();
        let bytes = &self.bytes[start as usize..];
        let end = u32::try_from(end).unwrap_or(u32::MAX).min(self.bytes.len() as u32);
        let is_whole = Records::new(bytes, header).all(|item| matches!(item, Item::Record(_)));
        if !is_whole && self.limit.is_none() && self.batch_from(end).is_none() {
            found(Found::Torn(end - start));
            return None;
        }
        found(Found::Batch(header));
        for item in Records::new(bytes, header) {
            match item {
                Item::Record(frame) => found(Found::Record(frame)),
                Item::Damage(range) => found(Found::Damage(range)),
            }
        }
        Some(end)
    }
}
