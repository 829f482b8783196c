//! The socket of a connection to another server: TCP or Unix-domain. It decides nothing.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::{TcpStream, UnixStream};
use glommio::timer::Timer;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::fast_open;
use crate::limits::RELAY_CONNECT_TIMEOUT;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects to the first of the addresses that answers, and sends the first flight: in the SYN, if there is one and
    /// the kernel agrees (RFC 7413).
    pub(super) async fn over_tcp(addresses: &[SocketAddr], first_flight: &[u8]) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address");
        for address in addresses {
            match Self::to(address, first_flight).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
            }
        }
        Err(last)
    }

    async fn to(address: &SocketAddr, first_flight: &[u8]) -> io::Result<Self> {
        if first_flight.is_empty() {
            let stream = TcpStream::connect_timeout(address, RELAY_CONNECT_TIMEOUT).await.map_err(io::Error::from)?;
            stream.set_nodelay(true).map_err(io::Error::from)?;
            return Ok(Self::Tcp(stream));
        }
        let mut stream = Self::Tcp(begin(address)?);
        if stream.write_all(first_flight, RELAY_CONNECT_TIMEOUT).await? {
            return Ok(stream);
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }

    /// Connects to a Unix-domain socket, and sends the first flight.
    pub(super) async fn over_unix(path: &Path, first_flight: &[u8]) -> io::Result<Self> {
        let connect = async {
            let mut stream = UnixStream::connect(path).await.map(Self::Unix).map_err(io::Error::from)?;
            stream.write_all(first_flight, RELAY_CONNECT_TIMEOUT).await?;
            Ok(stream)
        };
        let too_slow = async {
            Timer::new(RELAY_CONNECT_TIMEOUT).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        };
        future::or(connect, too_slow).await
    }

    /// Sends all of it; false if that takes too long.
    pub(super) async fn write_all(&mut self, bytes: &[u8], too_long: Duration) -> io::Result<bool> {
        let mut sent = 0;
        let write = poll_fn(|context| {
            while sent < bytes.len() {
                match ready!(self.poll_write(context, &bytes[sent..]))? {
                    0 => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero))),
                    more => sent += more,
                }
            }
            Poll::Ready(Ok(true))
        });
        let too_slow = async {
            Timer::new(too_long).await;
            Ok(false)
        };
        future::or(write, too_slow).await
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }
}

/// A socket that is being connected, or will be when the first bytes are written to it. Whether that works shows then.
fn begin(address: &SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // A kernel that will not do it connects as ever.
    let _ = fast_open::ask(&socket);
    match socket.connect(&(*address).into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    // SAFETY: the socket gives its descriptor away, so that the stream is the only owner.
    Ok(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
}
