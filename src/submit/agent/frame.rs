//! Pieces of the conversation with the agent: a kind, a length, and so many bytes.
//!
//! Wipes what it has read when that is dropped, since a password may be in it.

use std::io::{self, Read, Write};

use zeroize::Zeroizing;

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The caller's version.
    Hello,
    /// The agent will take the request.
    Taken,
    /// The agent is of another version.
    Other,
    /// The request.
    Request,
    /// For the user's eyes.
    Shown,
    /// The exit code and words about it.
    Result,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Hello, Self::Taken, Self::Other, Self::Request, Self::Shown, Self::Result];

    const fn letter(self) -> u8 {
        match self {
            Self::Hello => b'H',
            Self::Taken => b'T',
            Self::Other => b'O',
            Self::Request => b'Q',
            Self::Shown => b'S',
            Self::Result => b'R',
        }
    }
}

/// A piece.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// Writes a piece.
pub(super) fn write(stream: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&[kind.letter()])?;
    stream.write_all(&(bytes.len() as u64).to_be_bytes())?;
    stream.write_all(bytes)
}

/// Reads a piece of at most so many bytes.
pub(super) fn read(stream: &mut impl Read, bytes_max: u64) -> io::Result<Frame> {
    let mut letter = [0];
    stream.read_exact(&mut letter)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.letter() == letter[0]);
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    let (Some(kind), true) = (kind, length <= bytes_max) else { return Err(io::ErrorKind::InvalidData.into()) };
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut bytes)?;
    Ok(Frame { kind, bytes })
}
