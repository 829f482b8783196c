//! Plaintext on its way to whoever reads it.

/// Bytes that were put in and not consumed yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    read: usize,
}

impl Inbox {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.read..]
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.unread().len(), "more consumed than there is");
        self.read += bytes;
        if self.unread().is_empty() {
            self.bytes.clear();
            self.read = 0;
        }
    }

    /// Gives its memory back, if there is nothing in it.
    pub(super) fn rest(&mut self) {
        if self.unread().is_empty() {
            self.bytes = Vec::new();
        }
    }
}
