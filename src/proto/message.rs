//! A message on its way from the connection to storage, and its name.

use std::fmt;
use std::time::Duration;

use super::envelope::Envelope;

/// A complete message: envelope, trace header and content. Its memory is used again for the connection's next message.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The name that the client is told and that all events bear.
    pub id: MessageId,
    /// Who sent it and to whom.
    pub envelope: Envelope,
    /// What goes before the content: `Received`, and what RFC 6409 §8 lets a submission server add.
    pub trace: Vec<u8>,
    /// What the client sent, after the transfer encoding of DATA was taken off; of a large message, what follows its pieces.
    pub content: Vec<u8>,
    /// The beginning of the content that storage has already.
    pub pieces: Pieces,
}

/// The beginning of a large message's content, given to storage while the rest was still coming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// How many there are.
    pub count: u32,
    /// Bytes of content in all of them.
    pub bytes: u64,
}

/// One of them, to be given to storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Whose.
    pub message: MessageId,
    /// Which one, from 0.
    pub index: u32,
    /// The piece.
    pub content: Vec<u8>,
}

impl Pieces {
    /// None: the content is whole.
    pub const NONE: Self = Self { count: 0, bytes: 0 };
}

impl Message {
    /// Nothing at all.
    pub const EMPTY: Self = Self {
        id: MessageId::NONE,
        envelope: Envelope::EMPTY,
        trace: Vec::new(),
        content: Vec::new(),
        pieces: Pieces::NONE,
    };

    /// Bytes of the whole message, trace header included.
    pub fn size(&self) -> u64 {
        self.trace.len() as u64 + self.content_size()
    }

    /// Bytes of content, pieces included.
    pub fn content_size(&self) -> u64 {
        self.pieces.bytes + self.content.len() as u64
    }

    /// Forgets everything but keeps the memory.
    pub fn clear(&mut self) {
        self.envelope.clear();
        self.trace.clear();
        self.content.clear();
        self.pieces = Pieces::NONE;
    }
}

/// The name of a message, unique over time and shards: sorts by time of arrival, readable over the telephone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId([u8; MessageId::LENGTH]);

impl MessageId {
    /// The name of no message.
    pub const NONE: Self = Self([b'0'; Self::LENGTH]);

    const LENGTH: usize = 16;
    const TIME_DIGITS: usize = 11;
    const SHARD_DIGITS: usize = 2;
    const COUNT_DIGITS: usize = 3;
    /// No i, l, o and u: they look like others, or make words.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// A name from the time of arrival, the shard, and a number that differs for each message which that shard receives
    /// in the same microsecond.
    pub fn new(unix: Duration, shard: u16, count: u32) -> Self {
        let mut name = [0; Self::LENGTH];
        let (time, rest) = name.split_at_mut(Self::TIME_DIGITS);
        let (place, number) = rest.split_at_mut(Self::SHARD_DIGITS);
        debug_assert_eq!(number.len(), Self::COUNT_DIGITS);
        write_digits(time, u64::try_from(unix.as_micros()).unwrap_or(u64::MAX));
        write_digits(place, u64::from(shard));
        write_digits(number, u64::from(count));
        Self(name)
    }

    /// When the message was received, on the wall clock since the Unix epoch: the name begins with it.
    pub fn received(&self) -> Duration {
        let digits = self.0[..Self::TIME_DIGITS].iter().map(|digit| digit_value(*digit).unwrap_or_default());
        Duration::from_micros(digits.fold(0, |value, digit| value << 5 | digit))
    }

    /// The name that `text` is, if it is one.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let name: [u8; Self::LENGTH] = text.try_into().ok()?;
        name.iter().all(|digit| digit_value(*digit).is_some()).then_some(Self(name))
    }

    /// The first of all possible names that begin with `beginning`: the name itself, if `beginning` is a whole one. `None`
    /// if no name can begin so.
    pub fn first_with(beginning: &str) -> Option<Self> {
        let mut name = Self::NONE;
        name.0.get_mut(..beginning.len())?.copy_from_slice(beginning.as_bytes());
        name.0.iter().all(|digit| digit_value(*digit).is_some()).then_some(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        // Only letters and digits of `ALPHABET` are ever written.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What a digit stands for; `None` for anything else.
fn digit_value(digit: u8) -> Option<u64> {
    MessageId::ALPHABET.iter().position(|known| *known == digit).map(|value| value as u64)
}

/// Writes the lowest five bits of `value` last; what does not fit is dropped.
fn write_digits(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = MessageId::ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::MessageId;
    use std::time::Duration;

    #[test]
    fn names_differ_by_time_shard_and_count_and_sort_by_time() {
        let base = MessageId::new(Duration::from_micros(1_700_000_000_000_000), 0, 0);
        let later = MessageId::new(Duration::from_micros(1_700_000_000_000_001), 0, 0);
        let elsewhere = MessageId::new(Duration::from_micros(1_700_000_000_000_000), 1, 0);
        let next = MessageId::new(Duration::from_micros(1_700_000_000_000_000), 0, 1);
        assert!(base < next && next < elsewhere && elsewhere < later);
        assert_eq!(base.as_str().len(), 16);
    }

    #[test]
    fn a_name_tells_when_its_message_was_received() {
        let received = Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(MessageId::new(received, 7, 9).received(), received);
        assert_eq!(MessageId::NONE.received(), Duration::ZERO);
    }

    #[test]
    fn a_name_is_read_back_and_nothing_else_is() {
        let id = MessageId::new(Duration::from_micros(1_700_000_000_123_456), 7, 3);
        assert_eq!(MessageId::from_text(id.as_str().as_bytes()), Some(id));
        assert_eq!(MessageId::from_text(b"00000000000000u0"), None, "there is no u in it");
        assert_eq!(MessageId::from_text(b"0"), None);
    }

    #[test]
    fn a_beginning_gives_the_first_name_that_has_it() {
        let id = MessageId::new(Duration::from_micros(1_700_000_000_123_456), 7, 9);
        assert_eq!(MessageId::first_with(id.as_str()), Some(id));
        let first = MessageId::first_with(&id.as_str()[..5]).unwrap();
        assert!(first <= id && first.as_str() == format!("{}00000000000", &id.as_str()[..5]));
        assert_eq!(MessageId::first_with(""), Some(MessageId::NONE));
        for none in ["i", "0l", "A", "é", "00000000000000000"] {
            assert_eq!(MessageId::first_with(none), None, "{none}");
        }
    }
}
