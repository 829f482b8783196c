//! What the kernel tells of a TCP connection (`TCP_INFO`, tcp(7)), as far as it is needed here. It decides nothing.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The beginning of the kernel's `struct tcp_info`.
pub(crate) struct TcpInfo {
    fields: [u8; FIELDS_BYTES],
}

impl TcpInfo {
    /// Asks for that of a socket.
    pub(crate) fn of(socket: &impl AsRawFd) -> io::Result<Self> {
        let mut fields = [0; FIELDS_BYTES];
        let mut bytes = libc::socklen_t::try_from(fields.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `bytes` bytes to `fields`, which has that many, and outlives the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                fields.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fields })
    }

    /// One that says this, for tests.
    #[cfg(test)]
    pub(crate) fn with(options: u8, segment_bytes: u32) -> Self {
        let mut fields = [0; FIELDS_BYTES];
        fields[OPTIONS_AT] = options;
        fields[SEGMENT_BYTES_AT..SEGMENT_BYTES_AT + 4].copy_from_slice(&segment_bytes.to_ne_bytes());
        Self { fields }
    }

    /// `tcpi_options`.
    pub(crate) fn options(&self) -> u8 {
        self.fields[OPTIONS_AT]
    }

    /// `tcpi_snd_mss`: what one segment carries, in bytes.
    pub(crate) fn segment_bytes(&self) -> u32 {
        self.number(SEGMENT_BYTES_AT)
    }

    /// `tcpi_last_data_recv`: how long ago data arrived last. It is as fine as the kernel's tick, 1 to 10 ms.
    pub(crate) fn since_data(&self) -> Duration {
        Duration::from_millis(self.number(SINCE_DATA_AT).into())
    }

    /// `tcpi_last_ack_recv`: how long ago a packet arrived last, be it only the one that completes TCP's handshake. As fine
    /// as [`TcpInfo::since_data`].
    pub(crate) fn since_packet(&self) -> Duration {
        Duration::from_millis(self.number(SINCE_PACKET_AT).into())
    }

    /// Has any data come, taken from the kernel or not (`tcpi_bytes_received`)?
    pub(crate) fn has_received(&self) -> bool {
        self.fields[BYTES_RECEIVED_AT..BYTES_RECEIVED_AT + 8].iter().any(|byte| *byte != 0)
    }

    fn number(&self, at: usize) -> u32 {
        let field = &self.fields[at..at + 4];
        u32::from_ne_bytes([field[0], field[1], field[2], field[3]])
    }
}

/// Where the fields are, from `linux/tcp.h`.
const OPTIONS_AT: usize = 5;
const SEGMENT_BYTES_AT: usize = 16;
const SINCE_DATA_AT: usize = 52;
const SINCE_PACKET_AT: usize = 56;
const BYTES_RECEIVED_AT: usize = 128;
const FIELDS_BYTES: usize = 136;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::TcpInfo;

    #[test]
    fn a_connection_tells_its_segments_and_for_how_long_it_has_waited() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"hello").unwrap();
        let (server, _) = listener.accept().unwrap();
        let long = Duration::from_millis(60);
        while TcpInfo::of(&server).unwrap().since_data() < long {
            std::thread::yield_now();
        }
        let info = TcpInfo::of(&server).unwrap();
        assert!(info.segment_bytes() >= 536, "{}", info.segment_bytes());
        assert!(info.has_received());
        assert!(info.since_packet() >= long && info.since_packet() < Duration::from_secs(60));
        let said_nothing = TcpInfo::of(&client).unwrap();
        assert!(!said_nothing.has_received());
        assert!(said_nothing.since_packet() >= long, "the server has acknowledged and said no more");
    }

    #[test]
    fn who_is_no_tcp_connection_tells_nothing() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(TcpInfo::of(&one).is_err());
    }
}
