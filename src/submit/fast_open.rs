//! TCP Fast Open (RFC 7413) for the client: the first flight in the SYN, if kernel and server allow it.
//!
//! Falls back to an ordinary connection by itself: the kernel does.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// A socket that connects when the first bytes are written to it, and takes them along if it has a cookie of that
/// server. Where the kernel does not know the option it connects at once.
pub(super) fn connect(address: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    if set_fast_open_connect(&socket).is_err() {
        return TcpStream::connect_timeout(address, timeout);
    }
    // Bounds the handshake, which happens within the first write.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&(*address).into())?;
    Ok(socket.into())
}

/// Did the SYN carry data that the server took?
pub(super) fn was_used(stream: &TcpStream) -> bool {
    tcp_info_options(stream).is_ok_and(|options| options & TCPI_OPT_SYN_DATA != 0)
}

fn set_fast_open_connect(socket: &Socket) -> io::Result<()> {
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

/// The field `tcpi_options` of `struct tcp_info`, its sixth byte. Only as much of the structure is asked for.
fn tcp_info_options(stream: &TcpStream) -> io::Result<u8> {
    let mut info = [0_u8; 8];
    let mut bytes = libc::socklen_t::try_from(info.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `bytes` bytes to `info`, which has that many, and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result == 0 { Ok(info[5]) } else { Err(io::Error::last_os_error()) }
}

/// From `linux/tcp.h`: the data of the SYN was acknowledged with it.
const TCPI_OPT_SYN_DATA: u8 = 32;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::{connect, was_used};

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
        assert!(!was_used(&stream));
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
