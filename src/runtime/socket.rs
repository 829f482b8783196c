//! The descriptor of a stream, for the few calls that the executor does not offer. It decides nothing.

use std::os::fd::{AsRawFd, BorrowedFd};

use glommio::net::TcpStream;

/// The stream's descriptor, borrowed for as long as the stream is.
pub(super) fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns the descriptor, and the borrow does not outlive the stream.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
