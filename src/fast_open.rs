//! TCP Fast Open (RFC 7413) for clients: the first flight in the SYN, if kernel and server allow it.
//!
//! Falls back to an ordinary connection by itself: the kernel does. Knows sockets and nothing of what they carry.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::tcp_info::TcpInfo;

/// A socket that connects when the first bytes are written to it, and takes them along if it has a cookie of that
/// server. Without a cookie it asks for one and connects at once, as it does where the kernel does not know the option.
///
/// # Errors
///
/// As [`TcpStream::connect_timeout`]; with a cookie the same may come from the first write instead.
pub fn connect(address: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    if ask(&socket).is_err() {
        return TcpStream::connect_timeout(address, timeout);
    }
    // Bounds the handshake, which happens within the first write.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&(*address).into())?;
    Ok(socket.into())
}

/// Asks the kernel to do so with this socket, which is not connected yet.
///
/// # Errors
///
/// The kernel's, if it does not know the option or may not use it (`net.ipv4.tcp_fastopen`).
pub fn ask(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let bytes = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the descriptor is the socket's own.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            std::ptr::from_ref(&on).cast(),
            bytes,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the server took together with the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing: the first flight left after TCP's handshake.
    Nothing,
    /// The beginning of the first flight, as much as fits.
    Part,
    /// All of the first flight.
    All,
}

/// What the server took together with the SYN, of a first flight of so many bytes. To be asked when the server has
/// answered.
pub fn taken(socket: &impl AsRawFd, first_flight_bytes: usize) -> Taken {
    match TcpInfo::of(socket) {
        Ok(info) if !syn_data_was_taken(&info) => Taken::Nothing,
        Ok(info) if first_flight_bytes <= syn_bytes_max(&info) => Taken::All,
        Ok(_) => Taken::Part,
        Err(_) => Taken::Nothing,
    }
}

/// Did the server take any data together with the SYN? To be asked when it has answered.
///
/// # Errors
///
/// The kernel's, if it does not tell.
pub fn carried_data(socket: &impl AsRawFd) -> io::Result<bool> {
    Ok(syn_data_was_taken(&TcpInfo::of(socket)?))
}

/// Was data of the SYN acknowledged with it?
fn syn_data_was_taken(info: &TcpInfo) -> bool {
    info.options() & TCPI_OPT_SYN_DATA != 0
}

/// What a SYN can carry: a segment, less the room that is set aside for options. Later segments lack that of
/// timestamps already.
fn syn_bytes_max(info: &TcpInfo) -> usize {
    let timestamps = if info.options() & TCPI_OPT_TIMESTAMPS == 0 { 0 } else { TIMESTAMPS_BYTES };
    (info.segment_bytes() as usize + timestamps).saturating_sub(OPTIONS_BYTES_MAX)
}

/// From `linux/tcp.h`: timestamps are in use (RFC 7323).
const TCPI_OPT_TIMESTAMPS: u8 = 1;

/// From `linux/tcp.h`: the data of the SYN was acknowledged with it.
const TCPI_OPT_SYN_DATA: u8 = 32;

/// What timestamps take of each segment in bytes (RFC 7323).
const TIMESTAMPS_BYTES: usize = 12;

/// Room for options in a TCP header in bytes (RFC 9293 §3.1).
const OPTIONS_BYTES_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::{Taken, connect, syn_bytes_max, taken};
    use crate::tcp_info::TcpInfo;

    #[test]
    fn the_first_bytes_arrive_whether_they_travel_in_the_syn_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = connect(&listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
        stream.write_all(b"hello").unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        // This listener does not do Fast Open.
        assert_eq!(taken(&stream, 5), Taken::Nothing);
    }

    #[test]
    fn a_syn_on_ethernet_carries_1420_bytes_with_timestamps_or_without() {
        assert_eq!(syn_bytes_max(&TcpInfo::with(1, 1_448)), 1_420);
        assert_eq!(syn_bytes_max(&TcpInfo::with(0, 1_460)), 1_420);
        assert_eq!(syn_bytes_max(&TcpInfo::with(0, 0)), 0);
    }

    #[test]
    fn a_closed_port_is_an_error_at_the_first_write_at_the_latest() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let result = connect(&address, Duration::from_secs(5)).and_then(|mut stream| stream.write_all(b"x"));
        assert!(result.is_err());
    }
}
