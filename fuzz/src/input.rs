//! Inputs taken apart: numbers and bytes from the front, or text with operations in it.

/// The byte that begins an operation within text. It is in no UTF-8, so that it never stands in the way of text.
pub const MARK: u8 = 0xff;

/// Takes an input apart from its front. Where it is used up, everything is zero or empty.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of an input.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Is nothing left?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    /// A number of two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    /// A number of four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from(self.short()) << 16 | u32::from(self.short())
    }

    /// At most `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Bytes with their count before them, at most 255.
    pub fn counted(&mut self) -> &'a [u8] {
        let count = self.byte();
        self.bytes(usize::from(count))
    }

    /// Whatever is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A piece of text with operations in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text, not empty.
    Text(&'a [u8]),
    /// The byte behind a [`MARK`].
    Operation(u8),
}

/// The pieces of a text in order.
pub fn pieces(data: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = data;
    std::iter::from_fn(move || match rest {
        [] => None,
        [MARK, operation, after @ ..] => {
            rest = after;
            Some(Piece::Operation(*operation))
        }
        _ => {
            // A mark at the very end is text like any other byte.
            let end = rest.iter().skip(1).position(|byte| *byte == MARK).map_or(rest.len(), |at| at + 1);
            let (text, after) = rest.split_at(end);
            rest = after;
            Some(Piece::Text(text))
        }
    })
}

/// An input cut into two or three, at places that its first two bytes say.
pub fn cuts(data: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut input = Input::new(data);
    let (first, second) = (usize::from(input.byte()), usize::from(input.byte()));
    let whole = input.rest();
    let at = |place: usize| place * (whole.len() + 1) / 256;
    let (low, high) = (at(first.min(second)), at(first.max(second)));
    (vec![&whole[..low], &whole[low..high], &whole[high..]], whole)
}
