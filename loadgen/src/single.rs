//! Drives one client with an ordinary blocking socket: scouts, tickets to begin with, `ladder` and `compare`.
//!
//! Thousands of clients at once are `worker`'s.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use onetrip::fast_open::{self, Taken};
use onetrip::proto::client::{Entry, Outcome, ServerMemory, Speaker};

use crate::clock::Clock;
use crate::conversation::{Conversation, Demand, Event};
use crate::session::Milestone;
use crate::worker::new_socket;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait in one piece.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A line of the dialog and where in the stream of its direction its flight begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saying {
    /// Who said it.
    pub(crate) speaker: Speaker,
    /// The number of the connection, from 0.
    pub(crate) connection: usize,
    /// Bytes of this direction before the flight.
    pub(crate) offset: u64,
    /// The line.
    pub(crate) text: String,
}

/// What became of one client.
#[derive(Clone, Debug)]
pub(crate) struct Trip {
    /// What was reached, and when.
    pub(crate) events: Vec<(Duration, Event)>,
    /// What the client remembers of the server now.
    pub(crate) memory: ServerMemory,
    /// The dialog, if the client wrote it down.
    pub(crate) sayings: Vec<Saying>,
    /// The server took data with the SYN.
    pub(crate) opened_fast: bool,
}

impl Trip {
    /// What became of the message, and when.
    pub(crate) fn outcome(&self) -> Option<(Duration, &Outcome)> {
        self.events.iter().find_map(|(at, event)| match event {
            Event::Reached(Milestone::Settled(outcome)) => Some((*at, outcome)),
            _ => None,
        })
    }
}

/// How TCP's connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// With an empty SYN.
    Ordinary,
    /// With data in the SYN, if the kernel has a cookie.
    Fast,
}

/// Lets the kernel get the server's cookie for later connections from this source (RFC 7413), if it has none.
///
/// # Errors
///
/// If the kernel does no Fast Open, or no connection can be made.
pub(crate) fn fetch_cookie(address: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
    connect(address, source, Opening::Fast).map(drop)
}

/// Runs a client to its end.
///
/// # Errors
///
/// If no connection can be made.
pub(crate) fn run(
    clock: &Clock,
    mut conversation: Conversation,
    address: SocketAddr,
    source: Option<IpAddr>,
    opening: Opening,
) -> io::Result<Trip> {
    let mut driver = Driver::default();
    loop {
        let now = clock.now();
        conversation.advance(now, &mut driver.out);
        driver.write_down(&mut conversation);
        driver.take_events(&mut conversation);
        match conversation.demand() {
            Demand::Close => break,
            Demand::Connection if driver.stream.is_none() => {
                // With Fast Open there is a connection when there is something to be said.
                let opening =
                    if driver.connection == 0 && !driver.out.is_empty() { opening } else { Opening::Ordinary };
                driver.stream = Some(connect(address, source, opening)?);
                driver.in_syn = (opening == Opening::Fast).then_some(driver.out.len());
                continue;
            }
            Demand::Connection | Demand::None => {}
        }
        driver.send(clock, &mut conversation);
        driver.receive(clock, &mut conversation);
    }
    let session = conversation.session();
    let Driver { events, sayings, opened_fast, .. } = driver;
    Ok(Trip { events, memory: session.memory().clone(), sayings, opened_fast })
}

#[derive(Default)]
struct Driver {
    stream: Option<TcpStream>,
    connection: usize,
    out: Vec<u8>,
    sent: u64,
    received: u64,
    /// Where the bytes received last begin.
    received_before: u64,
    events: Vec<(Duration, Event)>,
    sayings: Vec<Saying>,
    /// Bytes of the first flight, as long as it is not known whether it left in the SYN.
    in_syn: Option<usize>,
    opened_fast: bool,
}

impl Driver {
    fn write_down(&mut self, conversation: &mut Conversation) {
        while let Some(Entry { speaker, text, .. }) = conversation.session_mut().poll_transcript() {
            let offset = if speaker == Speaker::Server { self.received_before } else { self.sent };
            self.sayings.push(Saying { speaker, connection: self.connection, offset, text });
        }
    }

    fn take_events(&mut self, conversation: &mut Conversation) {
        while let Some((at, event)) = conversation.poll_event() {
            if event == Event::Reached(Milestone::Reconnect) {
                self.begin_again();
            }
            self.events.push((at, event));
        }
    }

    fn begin_again(&mut self) {
        self.stream = None;
        self.out.clear();
        self.connection += 1;
        (self.sent, self.received, self.received_before) = (0, 0, 0);
    }

    fn send(&mut self, clock: &Clock, conversation: &mut Conversation) {
        let Some(stream) = &mut self.stream else { return };
        if stream.write_all(&self.out).is_err() {
            conversation.handle_closed(clock.now());
        }
        self.sent += self.out.len() as u64;
        self.out.clear();
    }

    /// Receives once, or waits until something is due.
    fn receive(&mut self, clock: &Clock, conversation: &mut Conversation) {
        let now = clock.now();
        let due = conversation.next_due().map_or(WAIT_MAX, |due| due.saturating_sub(now.monotonic));
        let wait = due.min(WAIT_MAX);
        let Some(stream) = &mut self.stream else { return std::thread::sleep(wait) };
        let mut buffer = [0; 16_384];
        if !is_readable(stream, wait) {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) => self.end(clock, conversation),
            Ok(bytes) => {
                let in_syn = self.in_syn.take();
                self.opened_fast |= in_syn.is_some_and(|bytes| fast_open::taken(stream, bytes) != Taken::Nothing);
                self.received_before = self.received;
                self.received += bytes as u64;
                conversation.handle_bytes(clock.now(), &buffer[..bytes]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.end(clock, conversation),
        }
    }

    fn end(&mut self, clock: &Clock, conversation: &mut Conversation) {
        self.stream = None;
        conversation.handle_closed(clock.now());
    }
}

/// Waits until there is something to read, at most so long. A socket's own timeout is rounded up to the kernel's ticks, which
/// is far too coarse for a model of a link.
fn is_readable(stream: &TcpStream, wait: Duration) -> bool {
    let mut entry = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // At most a minute, so the seconds fit into any integer.
    let timeout = libc::timespec { tv_sec: wait.as_secs() as libc::time_t, tv_nsec: i64::from(wait.subsec_nanos()) };
    // SAFETY: the entry and the timeout live during the call and there is one entry. An interrupted wait is a shorter one.
    let ready = unsafe { libc::ppoll(&raw mut entry, 1, &raw const timeout, std::ptr::null()) };
    ready > 0
}

fn connect(address: SocketAddr, source: Option<IpAddr>, opening: Opening) -> io::Result<TcpStream> {
    let socket = new_socket(address, source)?;
    socket.set_nonblocking(false)?;
    if opening == Opening::Fast {
        fast_open::ask(&socket)?;
        // At once, without a look at the socket: there may be nothing to see before the first bytes are written.
        socket.connect(&address.into())?;
        return Ok(socket.into());
    }
    socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
    // `connect_timeout` leaves the socket as it found it.
    Ok(socket.into())
}
