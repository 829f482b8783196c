//! One connection to the server: the socket, and the bytes between it and the client.
//!
//! Blocking, because a command has nothing else to do. Decides nothing about the protocol.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::fast_open::{self, Taken};
use crate::limits::{CLIENT_REPLY_TIMEOUT, RECEIVE_BYTES, SUBMIT_CONNECT_TIMEOUT};
use crate::proto::client::{Client, How, Outcome};
use crate::time::Now;
use crate::wire::client::{Connection, Step};

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// All messages are settled.
    Done(Outcome),
    /// The client wants another connection.
    Reconnect(How),
}

/// Who is told what goes on.
pub(super) trait Observer {
    /// Something may have been said, and this many bytes have left so far.
    fn observe(&mut self, client: &mut Client, bytes_sent: u64);
}

/// A connection.
struct Link<'a> {
    addresses: &'a [SocketAddr],
    connection: &'a mut Connection,
    clock: &'a dyn Fn() -> Now,
    observer: &'a mut dyn Observer,
    stream: Option<TcpStream>,
    /// A write failed: part of it may have left, so nothing may follow.
    write_failed: bool,
    /// Bytes of the first flight, as long as it may have left in the SYN.
    in_syn: Option<usize>,
    out: Vec<u8>,
    bytes_sent: u64,
}

/// Makes a connection and drives the client until the connection has served its purpose.
///
/// # Errors
///
/// If no address of the server takes a connection. Whatever happens later is told to the client.
pub(super) fn converse(
    addresses: &[SocketAddr],
    connection: &mut Connection,
    clock: &dyn Fn() -> Now,
    observer: &mut dyn Observer,
) -> io::Result<End> {
    let mut link = Link {
        addresses,
        connection,
        clock,
        observer,
        stream: None,
        write_failed: false,
        in_syn: None,
        out: Vec::new(),
        bytes_sent: 0,
    };
    link.run()
}

impl Link<'_> {
    fn run(&mut self) -> io::Result<End> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut done = None;
        loop {
            match self.connection.poll_step((self.clock)(), &mut self.out) {
                Step::Settled(outcome) => done = Some(outcome),
                Step::Reconnect(how) => return Ok(End::Reconnect(how)),
                Step::Send => self.send()?,
                Step::Close => {
                    self.send()?;
                    return done.map(End::Done).ok_or_else(|| io::Error::other("the client gave no outcome"));
                }
                Step::Receive => {
                    if let Some(outcome) = done {
                        // The messages are with the server and QUIT is ready. Its answer would tell nothing new, and
                        // waiting for it would cost a round trip.
                        self.connection.close(&mut self.out);
                        self.send()?;
                        return Ok(End::Done(outcome));
                    }
                    self.send()?;
                    self.receive(&mut buffer);
                }
            }
        }
    }

    /// Sends what has gathered. The first time it connects, even if there is nothing to be sent.
    fn send(&mut self) -> io::Result<()> {
        match &mut self.stream {
            None => self.connect()?,
            Some(stream) => self.write_failed = self.write_failed || stream.write_all(&self.out).is_err(),
        }
        // After a failure the server may have said why before it closed: reading comes next, and finds the end after it.
        self.bytes_sent += self.out.len() as u64;
        self.out.clear();
        self.observer.observe(self.connection.client_mut(), self.bytes_sent);
        Ok(())
    }

    /// Connects to the first address that answers, and sends the first flight: in the SYN, if there is one and the
    /// kernel agrees.
    fn connect(&mut self) -> io::Result<()> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the server's name has no address");
        for address in self.addresses {
            match open(address, &self.out) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.in_syn = Some(self.out.len()).filter(|&bytes| bytes > 0);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        let wait = self.connection.poll_timeout().map(|deadline| deadline.saturating_sub((self.clock)().monotonic));
        let Some(stream) = &mut self.stream else { return };
        // Zero would mean to wait for ever.
        let wait = wait.map(|wait| wait.max(Duration::from_millis(1)));
        let read = stream.set_read_timeout(wait).and_then(|()| stream.read(buffer));
        let now = (self.clock)();
        match read {
            Ok(0) => self.connection.handle_closed(now),
            Ok(bytes) => {
                let in_syn = self.in_syn.take();
                if in_syn.is_some_and(|first_flight| fast_open::taken(stream, first_flight) == Taken::All) {
                    self.connection.handle_fast_open();
                }
                self.connection.handle_input(now, &buffer[..bytes]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                self.connection.handle_timeout(now);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.connection.handle_closed(now),
        }
        self.observer.observe(self.connection.client_mut(), self.bytes_sent);
    }
}

/// A connected socket to which the first flight has been given.
fn open(address: &SocketAddr, first_flight: &[u8]) -> io::Result<TcpStream> {
    let mut stream = if first_flight.is_empty() {
        TcpStream::connect_timeout(address, SUBMIT_CONNECT_TIMEOUT)?
    } else {
        fast_open::connect(address, SUBMIT_CONNECT_TIMEOUT)?
    };
    stream.set_nodelay(true)?;
    stream.write_all(first_flight)?;
    // A server that reads nothing for so long is as good as gone.
    stream.set_write_timeout(Some(CLIENT_REPLY_TIMEOUT))?;
    Ok(stream)
}
