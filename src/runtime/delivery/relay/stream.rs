//! The socket of a connection to another server: TCP or Unix-domain. It decides nothing.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::{TcpStream, UnixStream};
use glommio::timer::Timer;

use crate::limits::RELAY_CONNECT_TIMEOUT;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects to the first of the addresses that answers.
    pub(super) async fn over_tcp(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address");
        for address in addresses {
            match TcpStream::connect_timeout(address, RELAY_CONNECT_TIMEOUT).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(io::Error::from)?;
                    return Ok(Self::Tcp(stream));
                }
                Err(error) => {
                    let error = io::Error::from(error);
                    last = io::Error::new(error.kind(), format!("{address}: {error}"));
                }
            }
        }
        Err(last)
    }

    /// Connects to a Unix-domain socket.
    pub(super) async fn over_unix(path: &Path) -> io::Result<Self> {
        let connect = async { UnixStream::connect(path).await.map(Self::Unix).map_err(io::Error::from) };
        let too_slow = async {
            Timer::new(RELAY_CONNECT_TIMEOUT).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        };
        future::or(connect, too_slow).await
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }
}
