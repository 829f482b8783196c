//! One connection to the server: the socket, and the bytes between it and the client.
//!
//! Blocking, because a command has nothing else to do. Decides nothing about the protocol.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::unix_now;
use crate::fast_open::{self, Taken};
use crate::limits::{CLIENT_REPLY_TIMEOUT, RECEIVE_BYTES, SUBMIT_CONNECT_TIMEOUT};
use crate::proto::client::{Client, How, Outcome};
use crate::time::Now;
use crate::wire::client::{Connection, Step};

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// All messages are settled. The connection is still there: [`Link::leave`] it, or [`Link::linger`].
    Done(Outcome),
    /// The client wants another connection.
    Reconnect(How),
}

/// Who is told what goes on.
pub(super) trait Observer {
    /// Something may have been said, and this many bytes have left so far.
    fn observe(&mut self, client: &mut Client, bytes_sent: u64);
}

/// What time it is, counted from the start of a submission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Now {
        Now { monotonic: self.0.elapsed(), unix: unix_now() }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    clock: Clock,
    stream: Option<TcpStream>,
    /// A write failed: part of it may have left, so nothing may follow.
    write_failed: bool,
    /// Bytes of the first flight, as long as it may have left in the SYN.
    in_syn: Option<usize>,
    out: Vec<u8>,
    bytes_sent: u64,
}

impl Link {
    pub(super) const fn new(clock: Clock) -> Self {
        Self { clock, stream: None, write_failed: false, in_syn: None, out: Vec::new(), bytes_sent: 0 }
    }

    /// Connects and drives the client until its messages are settled or it wants another connection.
    ///
    /// # Errors
    ///
    /// If no address of the server takes a connection. Whatever happens later is told to the client.
    pub(super) fn converse(
        &mut self,
        addresses: &[SocketAddr],
        connection: &mut Connection,
        observer: &mut dyn Observer,
    ) -> io::Result<End> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let step = connection.poll_step(self.clock.now(), &mut self.out);
            match step {
                Step::Settled(outcome) => {
                    observer.observe(connection.client_mut(), self.bytes_sent);
                    return Ok(End::Done(outcome));
                }
                Step::Reconnect(how) => return Ok(End::Reconnect(how)),
                Step::Close => return Err(io::Error::other("the client gave no outcome")),
                Step::Send | Step::Receive => {}
            }
            if self.stream.is_none() {
                self.connect(addresses)?;
            } else {
                self.flush();
            }
            observer.observe(connection.client_mut(), self.bytes_sent);
            if step == Step::Receive {
                self.receive(connection, &mut buffer);
                observer.observe(connection.client_mut(), self.bytes_sent);
            }
        }
    }

    /// Says goodbye and does not wait for the answer, which would tell nothing new and cost a round trip.
    pub(super) fn leave(mut self, connection: &mut Connection) {
        while let Step::Send | Step::Settled(_) = connection.poll_step(self.clock.now(), &mut self.out) {
            self.flush();
        }
        connection.close(&mut self.out);
        self.flush();
    }

    /// Says goodbye and stays until the server has said its last, but no longer than so: TLS sessions for the next time come
    /// behind the final reply.
    pub(super) fn linger(mut self, connection: &mut Connection, time: Duration) {
        let end = self.clock.now().monotonic + time;
        let mut buffer = vec![0; RECEIVE_BYTES];
        while self.stream.is_some() && self.clock.now().monotonic < end {
            let step = connection.poll_step(self.clock.now(), &mut self.out);
            self.flush();
            match step {
                Step::Send | Step::Settled(_) => {}
                Step::Receive => self.receive_within(connection, &mut buffer, Some(end)),
                Step::Reconnect(_) | Step::Close => return,
            }
        }
    }

    /// Connects to the first address that answers, and sends the first flight: in the SYN, if there is one and the
    /// kernel agrees.
    fn connect(&mut self, addresses: &[SocketAddr]) -> io::Result<()> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the server's name has no address");
        for address in addresses {
            match open(address, &self.out) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.in_syn = Some(self.out.len()).filter(|&bytes| bytes > 0);
                    self.note_sent();
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn note_sent(&mut self) {
        self.bytes_sent += self.out.len() as u64;
        self.out.clear();
    }

    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        // After a failure the server may have said why before it closed: reading comes next, and finds the end after it.
        self.write_failed = self.write_failed || stream.write_all(&self.out).is_err();
        self.note_sent();
    }

    fn receive(&mut self, connection: &mut Connection, buffer: &mut [u8]) {
        self.receive_within(connection, buffer, None);
    }

    fn receive_within(&mut self, connection: &mut Connection, buffer: &mut [u8], end: Option<Duration>) {
        let now = self.clock.now().monotonic;
        let deadline = [connection.poll_timeout(), end].into_iter().flatten().min();
        let Some(stream) = &mut self.stream else { return };
        // Zero would mean to wait for ever.
        let wait = deadline.map(|deadline| deadline.saturating_sub(now).max(Duration::from_millis(1)));
        let read = stream.set_read_timeout(wait).and_then(|()| stream.read(buffer));
        let now = self.clock.now();
        match read {
            Ok(0) => connection.handle_closed(now),
            Ok(bytes) => {
                let in_syn = self.in_syn.take();
                if in_syn.is_some_and(|first_flight| fast_open::taken(stream, first_flight) == Taken::All) {
                    connection.handle_fast_open();
                }
                connection.handle_input(now, &buffer[..bytes]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                connection.handle_timeout(now);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => connection.handle_closed(now),
        }
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
