//! Where a record lies.

/// The place of a record in its log: small, because each queued message keeps one in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of the segment, counted from the log's beginning.
    pub segment: u32,
    /// Bytes from the segment's start to the record's.
    pub offset: u32,
}
