//! What a log holds: the messages that are not done, and in which segments their records lie.
//!
//! It is told what was written and says what may be forgotten. Which bytes that is, it does not know.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::Place;
use super::frame::BLOCK_BYTES;
use super::messages::{Entry, Messages};
use crate::proto::message::MessageId;

/// A record that is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) place: Place,
    /// With its header.
    pub(super) bytes: u32,
}

/// The parts of a large message, perhaps of one that is still coming in.
#[derive(Clone, Debug, Default)]
pub(super) struct Large {
    pub(super) parts: Vec<Option<Piece>>,
    /// How many there must be; known when the message itself is written.
    pub(super) expected: u32,
}

/// A segment that holds something, or may.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) seed: u64,
    /// Where its last batch ends.
    pub(super) end: u32,
    /// A write to it has failed: it is never written to again.
    pub(super) given_up: bool,
    /// Records in it that are still needed.
    live: u32,
    /// Records in it that bear a token.
    pub(super) tokens: u32,
    /// When the newest of these messages arrived.
    newest_token: Duration,
    /// Everything in it that can be copied forward has been.
    pub(super) cleaned: bool,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) messages: Messages,
    pub(super) large: HashMap<MessageId, Large>,
    /// The oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Of all records that are still needed.
    pub(super) live_bytes: u64,
    /// Records with tokens, in all segments.
    pub(super) tokens: u64,
    /// Messages that do not count, nor do their tokens.
    pub(super) disowned: HashSet<MessageId>,
    /// Messages that were not whole at start.
    pub(super) lost: HashSet<MessageId>,
}

impl Segment {
    pub(super) fn new(number: u32, seed: u64) -> Self {
        Self {
            number,
            seed,
            end: BLOCK_BYTES,
            given_up: false,
            live: 0,
            tokens: 0,
            newest_token: Duration::ZERO,
            cleaned: false,
        }
    }

    /// Is nothing in it needed any more? Tokens count as long as their messages arrived within `retention`.
    pub(super) fn is_free(&self, unix: Duration, retention: Duration) -> bool {
        self.live == 0 && (self.tokens == 0 || self.newest_token + retention <= unix)
    }
}

impl Contents {
    pub(super) fn segment(&self, number: u32) -> Option<&Segment> {
        let at = self.segments.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.segments.get(at)
    }

    pub(super) fn segment_mut(&mut self, number: u32) -> Option<&mut Segment> {
        let at = self.segments.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.segments.get_mut(at)
    }

    /// A message lies here, or has been copied here.
    pub(super) fn place_message(&mut self, id: MessageId, piece: Piece) {
        if !self.lost.is_empty() {
            self.lost.remove(&id);
        }
        self.acquire(piece);
        match self.messages.get_mut(id) {
            Some(entry) => {
                let before = std::mem::replace(&mut entry.head, piece);
                self.release(before);
            }
            None => {
                self.messages.insert(Entry::new(id, piece));
            }
        }
    }

    /// A part lies here, or has been copied here.
    pub(super) fn place_part(&mut self, id: MessageId, index: u32, piece: Piece) {
        self.acquire(piece);
        let parts = &mut self.large.entry(id).or_default().parts;
        let index = index as usize;
        if parts.len() <= index {
            parts.resize(index + 1, None);
        }
        if let Some(before) = parts[index].replace(piece) {
            self.release(before);
        }
    }

    /// The newest progress of a message lies here. Nothing happens if the message is done.
    pub(super) fn place_progress(&mut self, id: MessageId, place: Place) {
        let Some(entry) = self.messages.get_mut(id) else {
            return;
        };
        let before = entry.set_progress(place);
        self.acquire(progress_piece(place));
        if let Some(before) = before {
            self.release(progress_piece(before));
        }
    }

    /// A record with a token lies in this segment.
    pub(super) fn place_token(&mut self, segment: u32, received: Duration) {
        let Some(segment) = self.segment_mut(segment) else {
            return;
        };
        segment.tokens += 1;
        segment.newest_token = segment.newest_token.max(received);
        self.tokens += 1;
    }

    /// The message is done.
    pub(super) fn remove(&mut self, id: MessageId) {
        if let Some(entry) = self.messages.remove(id) {
            self.release(entry.head);
            if let Some(place) = entry.progress() {
                self.release(progress_piece(place));
            }
        }
        self.remove_parts(id);
    }

    /// Parts whose message will not come.
    pub(super) fn remove_parts(&mut self, id: MessageId) {
        for piece in self.large.remove(&id).into_iter().flat_map(|large| large.parts).flatten() {
            self.release(piece);
        }
    }

    /// Is this message whole, as far as its parts go?
    pub(super) fn has_parts(&self, id: MessageId, expected: u32) -> bool {
        let found = self.large.get(&id).map_or(&[][..], |large| &large.parts);
        found.len() == expected as usize && found.iter().all(Option::is_some)
    }

    /// The tokens of a segment have been copied forward.
    pub(super) fn forget_tokens(&mut self, segment: u32) {
        if let Some(segment) = self.segment_mut(segment) {
            let tokens = std::mem::take(&mut segment.tokens);
            self.tokens -= u64::from(tokens);
        }
    }

    /// Takes the oldest segment out.
    pub(super) fn pop_segment(&mut self) -> Option<Segment> {
        let segment = self.segments.pop_front()?;
        self.tokens -= u64::from(segment.tokens);
        Some(segment)
    }

    fn acquire(&mut self, piece: Piece) {
        self.live_bytes += u64::from(piece.bytes);
        if let Some(segment) = self.segment_mut(piece.place.segment) {
            segment.live += 1;
        }
    }

    fn release(&mut self, piece: Piece) {
        self.live_bytes -= u64::from(piece.bytes);
        if let Some(segment) = self.segment_mut(piece.place.segment) {
            segment.live -= 1;
        }
    }
}

fn progress_piece(place: Place) -> Piece {
    /// About what one takes; the exact figure is not worth its memory.
    const PROGRESS_BYTES: u32 = 128;
    Piece { place, bytes: PROGRESS_BYTES }
}
