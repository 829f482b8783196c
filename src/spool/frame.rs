//! How bytes lie in a segment: its header, batches, records, and the checksums that tell them from anything else.
//!
//! ```text
//! segment   │ header, one block │ batch │ batch │ … │ whatever was there before │
//! batch     │ batch header │ record │ record │ … │ zeroes up to the next block │
//! record    │ checksum, length, kind │ payload │ zeroes up to the next word │
//! ```
//!
//! A batch is what one write brought. It begins on a block of its own, so that a write never touches a byte that was
//! committed before. All checksums take in the segment's seed and the offset: what lay in a recycled segment before, or
//! stands inside a message, never passes for a record.
//!
//! Nothing here knows what a record means.

use std::ops::Range;

use super::Place;

/// Batches begin at multiples of this many bytes: a page of memory, and the sector of every disk.
pub const BLOCK_BYTES: u32 = 4_096;

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 48;

/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 12;

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number, which is its file's name too.
    pub number: u32,
    /// Its length in bytes.
    pub bytes: u32,
    /// Drawn anew each time that the segment is used.
    pub seed: u64,
}

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Its number in the log.
    pub number: u64,
    /// The seed of its segment, so that the batch can be read when the segment's header cannot.
    pub seed: u64,
    /// Where it lies.
    pub place: Place,
    /// The end of what was on stable storage when it was written.
    pub committed: Place,
    /// Bytes of its records.
    pub bytes: u32,
}

/// A record as it lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Which kind, by number.
    pub kind: u8,
    /// Bytes from the segment's start to the record's.
    pub offset: u32,
    /// What it says.
    pub payload: &'a [u8],
}

impl SegmentHeader {
    /// Bytes that are not zero.
    const BYTES: usize = 28;
    const MAGIC: [u8; 8] = *b"onetrip\x01";

    /// The header as it is written, one block.
    pub fn encode(self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        block[..8].copy_from_slice(&Self::MAGIC);
        block[8..12].copy_from_slice(&self.number.to_le_bytes());
        block[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        block[16..24].copy_from_slice(&self.seed.to_le_bytes());
        let checksum = crc32fast::hash(&block[..24]);
        block[24..Self::BYTES].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the header at the start of a segment; `None` if there is none.
    pub fn decode(segment: &[u8]) -> Option<Self> {
        let header = segment.get(..Self::BYTES)?;
        let is_whole = header[..8] == Self::MAGIC && u32_at(header, 24)? == crc32fast::hash(&header[..24]);
        is_whole.then_some(())?;
        Some(Self { number: u32_at(header, 8)?, bytes: u32_at(header, 12)?, seed: u64_at(header, 16)? })
    }
}

impl BatchHeader {
    const MAGIC: [u8; 4] = *b"BTCH";

    fn write(&self, header: &mut [u8]) {
        header[..4].copy_from_slice(&Self::MAGIC);
        header[8..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&self.seed.to_le_bytes());
        header[24..28].copy_from_slice(&self.place.segment.to_le_bytes());
        header[28..32].copy_from_slice(&self.place.offset.to_le_bytes());
        header[32..36].copy_from_slice(&self.committed.segment.to_le_bytes());
        header[36..40].copy_from_slice(&self.committed.offset.to_le_bytes());
        header[40..44].copy_from_slice(&self.bytes.to_le_bytes());
        let checksum = crc32fast::hash(&header[8..BATCH_HEADER_BYTES]);
        header[4..8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the header of the batch that lies at `place`; `None` if none does.
    pub fn decode(bytes: &[u8], place: Place) -> Option<Self> {
        let header = bytes.get(..BATCH_HEADER_BYTES)?;
        let is_whole =
            header[..4] == Self::MAGIC && u32_at(header, 4)? == crc32fast::hash(&header[8..BATCH_HEADER_BYTES]);
        is_whole.then_some(())?;
        let found = Self {
            number: u64_at(header, 8)?,
            seed: u64_at(header, 16)?,
            place: Place { segment: u32_at(header, 24)?, offset: u32_at(header, 28)? },
            committed: Place { segment: u32_at(header, 32)?, offset: u32_at(header, 36)? },
            bytes: u32_at(header, 40)?,
        };
        // Beyond the largest offset no batch can end, whatever its header says.
        let ends = u64::from(place.offset) + found.whole_bytes() <= u64::from(u32::MAX);
        (found.place == place && ends).then_some(found)
    }

    /// Bytes of the whole batch, up to where the next may begin.
    pub fn whole_bytes(&self) -> u64 {
        whole_bytes(self.bytes as usize)
    }
}

/// Bytes of a batch with so many bytes of records, up to where the next may begin.
pub fn whole_bytes(record_bytes: usize) -> u64 {
    (BATCH_HEADER_BYTES as u64 + record_bytes as u64).next_multiple_of(u64::from(BLOCK_BYTES))
}

/// Appends a record without its checksum, which [`seal`] adds when its place is known. `write` appends the payload.
/// Returns where in the batch the record begins.
pub fn append(batch: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> usize {
    if batch.is_empty() {
        batch.resize(BATCH_HEADER_BYTES, 0);
    }
    let at = batch.len();
    batch.resize(at + RECORD_HEADER_BYTES, 0);
    write(batch);
    let bytes = (batch.len() - at - RECORD_HEADER_BYTES) as u32;
    batch[at + 4..at + 8].copy_from_slice(&bytes.to_le_bytes());
    batch[at + 8] = kind;
    batch.resize(batch.len().next_multiple_of(WORD_BYTES), 0);
    at
}

/// Makes the record at `at` one of another kind, before its batch is sealed.
pub fn replace_kind(batch: &mut [u8], at: usize, kind: u8) {
    batch[at + 8] = kind;
}

/// Makes a gathered batch ready to be written at the header's place: fills in its header and all checksums, and pads it.
/// `header.bytes` is set here.
pub fn seal(batch: &mut Vec<u8>, mut header: BatchHeader) {
    header.bytes = (batch.len() - BATCH_HEADER_BYTES) as u32;
    let mut at = BATCH_HEADER_BYTES;
    while at < batch.len() {
        let bytes = u32_at(batch, at + 4).unwrap_or_default() as usize;
        let end = at + RECORD_HEADER_BYTES + bytes;
        let checksum = checksum(header.seed, header.place.offset + at as u32, &batch[at + 4..end]);
        batch[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        at = end.next_multiple_of(WORD_BYTES);
    }
    header.write(&mut batch[..BATCH_HEADER_BYTES]);
    batch.resize(whole_bytes(header.bytes as usize) as usize, 0);
}

/// Reads the record that lies at `offset` of a segment with this seed; `None` if none does. `bytes` begins with it.
pub fn read(bytes: &[u8], seed: u64, offset: u32) -> Option<Frame<'_>> {
    let length = u32_at(bytes, 4)? as usize;
    let kind = *bytes.get(8)?;
    let end = RECORD_HEADER_BYTES.checked_add(length)?;
    let covered = bytes.get(4..end)?;
    let is_whole = bytes[9..RECORD_HEADER_BYTES] == [0; 3] && u32_at(bytes, 0)? == checksum(seed, offset, covered);
    is_whole.then(|| Frame { kind, offset, payload: &bytes[RECORD_HEADER_BYTES..end] })
}

/// How many bytes the record has that begins here, by what it says itself: more than there are, if it was cut.
pub fn claimed_bytes(bytes: &[u8]) -> Option<usize> {
    RECORD_HEADER_BYTES.checked_add(u32_at(bytes, 4)? as usize)
}

impl Frame<'_> {
    /// Bytes from this record's start to the next one's.
    pub fn bytes(&self) -> usize {
        (RECORD_HEADER_BYTES + self.payload.len()).next_multiple_of(WORD_BYTES)
    }
}

/// What lies next in the records of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A record.
    Record(Frame<'a>),
    /// Bytes that are no record, as offsets in the segment.
    Damage(Range<u32>),
}

/// The records of a batch, one after the other. What is damaged is skipped up to the next record.
#[derive(Debug)]
pub struct Records<'a> {
    /// From the batch's start.
    bytes: &'a [u8],
    header: BatchHeader,
    at: usize,
    end: usize,
}

impl<'a> Records<'a> {
    /// `bytes` begins with the batch; it may end too early, and what is missing is then damage.
    pub fn new(bytes: &'a [u8], header: BatchHeader) -> Self {
        Self { bytes, header, at: BATCH_HEADER_BYTES, end: BATCH_HEADER_BYTES + header.bytes as usize }
    }

    fn record_at(&self, at: usize) -> Option<Frame<'a>> {
        let end = self.end.min(self.bytes.len());
        read(self.bytes.get(at..end)?, self.header.seed, self.header.place.offset.checked_add(at as u32)?)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if self.at >= self.end {
            return None;
        }
        if let Some(frame) = self.record_at(self.at) {
            self.at += frame.bytes();
            return Some(Item::Record(frame));
        }
        let start = self.at;
        self.at = ((start + WORD_BYTES)..self.end.min(self.bytes.len()))
            .step_by(WORD_BYTES)
            .find(|at| self.record_at(*at).is_some())
            .unwrap_or(self.end);
        let offset = self.header.place.offset;
        Some(Item::Damage(offset + start as u32..offset + self.at as u32))
    }
}

/// The next batch in a segment at or after `offset`, and where it begins.
pub fn next_batch(segment: &[u8], number: u32, seed: Option<u64>, offset: u32) -> Option<BatchHeader> {
    (offset..segment.len() as u32).step_by(BLOCK_BYTES as usize).find_map(|offset| {
        let header = BatchHeader::decode(&segment[offset as usize..], Place { segment: number, offset })?;
        seed.is_none_or(|seed| seed == header.seed).then_some(header)
    })
}

fn checksum(seed: u64, offset: u32, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(record);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// Records begin at multiples of this many bytes.
const WORD_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::{
        BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, Item, Records, SegmentHeader, append, next_batch, read, seal,
    };
    use crate::spool::Place;

    const PLACE: Place = Place { segment: 7, offset: BLOCK_BYTES };

    fn header() -> BatchHeader {
        let committed = Place { segment: 6, offset: 3 * BLOCK_BYTES };
        BatchHeader { number: 12, seed: 99, place: PLACE, committed, bytes: 0 }
    }

    fn batch(payloads: &[&[u8]]) -> (Vec<u8>, BatchHeader) {
        let mut bytes = Vec::new();
        for (kind, payload) in (1..).zip(payloads) {
            append(&mut bytes, kind, |out| out.extend_from_slice(payload));
        }
        seal(&mut bytes, header());
        let found = BatchHeader::decode(&bytes, PLACE).unwrap();
        (bytes, found)
    }

    fn payloads(bytes: &[u8], header: BatchHeader) -> (Vec<Vec<u8>>, usize) {
        let (mut whole, mut damaged) = (Vec::new(), 0);
        for item in Records::new(bytes, header) {
            match item {
                Item::Record(frame) => whole.push(frame.payload.to_vec()),
                Item::Damage(_) => damaged += 1,
            }
        }
        (whole, damaged)
    }

    #[test]
    fn a_batch_gives_back_its_records() {
        let (bytes, header) = batch(&[b"one", b"", b"three"]);
        assert_eq!(bytes.len(), BLOCK_BYTES as usize);
        assert_eq!((header.number, header.committed.segment), (12, 6));
        assert_eq!(payloads(&bytes, header), (vec![b"one".to_vec(), vec![], b"three".to_vec()], 0));
    }

    #[test]
    fn a_header_that_promises_more_than_a_segment_can_hold_is_none() {
        for (bytes, is_read) in [(u32::MAX, false), (u32::MAX - 3 * BLOCK_BYTES, true)] {
            let mut block = vec![0; BATCH_HEADER_BYTES];
            BatchHeader { bytes, ..header() }.write(&mut block);
            let found = BatchHeader::decode(&block, PLACE);
            assert_eq!(found.is_some(), is_read, "{bytes} bytes");
            if let Some(found) = found {
                assert_eq!(Records::new(&block, found).count(), 1, "all of it is damage");
            }
        }
    }

    #[test]
    fn a_segment_header_is_read_back_and_nothing_else_is() {
        let header = SegmentHeader { number: 3, bytes: 1 << 20, seed: 5 };
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), Some(header));
        for at in 0..28 {
            let mut block = block.clone();
            block[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&block), None, "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(&[0; 28]), None);
    }

    #[test]
    fn a_flipped_byte_costs_its_own_record_and_no_other() {
        let (bytes, header) = batch(&[b"one", b"second", b"three"]);
        let whole = payloads(&bytes, header).0;
        for at in BATCH_HEADER_BYTES..BATCH_HEADER_BYTES + header.bytes as usize {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            let (found, damaged) = payloads(&flipped, header);
            // The byte after "one" is padding, so its flip does no harm.
            assert!(damaged == 1 && found.len() == 2 || damaged == 0 && found == whole, "byte {at}: {found:?}");
            assert!(found.iter().all(|payload| whole.contains(payload)), "byte {at}");
        }
    }

    #[test]
    fn a_batch_cut_anywhere_gives_a_beginning_of_its_records() {
        let (bytes, header) = batch(&[b"one", b"second", b"three"]);
        let whole = payloads(&bytes, header).0;
        for end in 0..bytes.len() {
            let found = payloads(&bytes[..end], header).0;
            assert_eq!(found, whole[..found.len()], "cut at {end}");
        }
    }

    #[test]
    fn a_record_counts_at_its_place_and_in_its_segments_life_only() {
        let (bytes, _) = batch(&[b"one"]);
        let record = &bytes[BATCH_HEADER_BYTES..];
        let offset = BLOCK_BYTES + BATCH_HEADER_BYTES as u32;
        assert!(read(record, 99, offset).is_some());
        assert!(read(record, 99, offset + BLOCK_BYTES).is_none());
        assert!(read(record, 98, offset).is_none());
    }

    #[test]
    fn the_next_batch_is_found_behind_what_is_damaged() {
        let (bytes, _) = batch(&[b"one"]);
        let mut segment = vec![0xee; BLOCK_BYTES as usize];
        segment.extend_from_slice(&bytes);
        assert_eq!(next_batch(&segment, 7, Some(99), 0).map(|header| header.number), Some(12));
        assert_eq!(next_batch(&segment, 7, None, 0).map(|header| header.number), Some(12));
        assert_eq!(next_batch(&segment, 8, None, 0), None, "another segment's");
        assert_eq!(next_batch(&segment, 7, Some(1), 0), None, "from another life of the segment");
    }
}
