//! One connection to the server: the socket, TLS on it, and the bytes between them and the protocol core.
//!
//! Blocking, because a command has nothing else to do. Decides nothing about the protocol.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::fast_open;
use crate::limits::{CLIENT_PIECE_BYTES, CLIENT_REPLY_TIMEOUT, RECEIVE_BYTES, SUBMIT_CONNECT_TIMEOUT};
use crate::proto::client::{Action, Client, EarlyData, How, Layer, Outcome, Trust};
use crate::time::Now;
use crate::tls::session::{ClientSession, FailureKind, TlsFailure};

/// Where to connect to, and how to make TLS there.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) server_name: ServerName<'static>,
    pub(super) tls: Arc<ClientConfig>,
}

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
    destination: &'a Destination,
    client: &'a mut Client,
    clock: &'a dyn Fn() -> Now,
    observer: &'a mut dyn Observer,
    stream: Option<TcpStream>,
    /// A write failed: part of it may have left, so nothing may follow.
    write_failed: bool,
    fast_open: bool,
    tls: Option<ClientSession>,
    secured: bool,
    plain: Vec<u8>,
    wire: Vec<u8>,
    bytes_sent: u64,
}

/// What gathering output came to.
enum Gathered {
    /// The server is to speak next.
    Waiting,
    Ended(End),
    /// The client closed the connection.
    Closed,
}

/// Makes a connection and drives the client until the connection has served its purpose.
///
/// # Errors
///
/// If no address of the server takes a connection. Whatever happens later is told to the client.
pub(super) fn converse(
    destination: &Destination,
    client: &mut Client,
    clock: &dyn Fn() -> Now,
    observer: &mut dyn Observer,
) -> io::Result<End> {
    let mut link = Link {
        destination,
        client,
        clock,
        observer,
        stream: None,
        write_failed: false,
        fast_open: false,
        tls: None,
        secured: false,
        plain: Vec::new(),
        wire: Vec::new(),
        bytes_sent: 0,
    };
    link.run()
}

impl Link<'_> {
    fn run(&mut self) -> io::Result<End> {
        let mut gathered = self.gather();
        self.connect()?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut done = None;
        loop {
            match gathered {
                Gathered::Ended(End::Done(outcome)) => done = Some(outcome),
                Gathered::Ended(end) => return Ok(end),
                Gathered::Closed => {
                    self.close_tls();
                    self.flush();
                    return done.map(End::Done).ok_or_else(|| io::Error::other("the client gave no outcome"));
                }
                Gathered::Waiting => {
                    if let Some(outcome) = done {
                        // The messages are with the server and QUIT is ready. Its answer would tell nothing new, and
                        // waiting for it would cost a round trip.
                        self.close_tls();
                        self.flush();
                        return Ok(End::Done(outcome));
                    }
                    // It asks for no answer, and would make a packet by itself.
                    if self.wire != CHANGE_CIPHER_SPEC {
                        self.flush();
                    }
                    self.receive(&mut buffer);
                }
            }
            gathered = self.gather();
        }
    }

    /// Takes all output, through TLS if there is TLS, until the client waits.
    fn gather(&mut self) -> Gathered {
        loop {
            while self.client.poll_output((self.clock)(), &mut self.plain) > 0 {
                self.wrap();
                // A large message does not fit a buffer; the first flight, before there is a connection, always does.
                if self.wire.len() >= 4 * CLIENT_PIECE_BYTES && self.stream.is_some() {
                    self.flush();
                }
            }
            match self.client.poll_action() {
                Action::StartTls => self.start_tls(),
                Action::AbandonTls => self.tls = None,
                Action::Done(outcome) => return Gathered::Ended(End::Done(outcome)),
                Action::Reconnect(how) => return Gathered::Ended(End::Reconnect(how)),
                Action::Close => return Gathered::Closed,
                Action::Wait => return Gathered::Waiting,
            }
        }
    }

    /// Moves what the client said to the wire.
    fn wrap(&mut self) {
        let Some(tls) = &mut self.tls else {
            self.wire.append(&mut self.plain);
            return;
        };
        let mut rest = self.plain.as_slice();
        while !rest.is_empty() {
            let taken = tls.write(rest);
            rest = &rest[taken..];
            tls.send(&mut self.wire);
        }
        zeroize::Zeroize::zeroize(&mut self.plain);
    }

    fn start_tls(&mut self) {
        let name = self.destination.server_name.clone();
        match ClientSession::new(Arc::clone(&self.destination.tls), name) {
            Ok(mut session) => {
                session.send(&mut self.wire);
                self.tls = Some(session);
                self.secured = false;
                // The TLS library keeps no session from one call of the command to the next, so there is no early data.
                self.client.handle_tls_started((self.clock)(), 0);
            }
            Err(failure) => self.fail_tls(&failure),
        }
    }

    /// Says close_notify, so that the server can tell an end from a cut (RFC 8446 §6.1).
    fn close_tls(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            tls.send(&mut self.wire);
        }
    }

    fn fail_tls(&mut self, failure: &TlsFailure) {
        if let Some(tls) = &mut self.tls {
            tls.send(&mut self.wire);
        }
        let trust = if failure.kind() == FailureKind::Certificate { Trust::Distrusted } else { Trust::Unknown };
        self.client.handle_tls_failed((self.clock)(), &failure.to_string(), trust);
    }

    /// Connects to the first address that answers, and sends the first flight: in the SYN, if there is one and the
    /// kernel agrees.
    fn connect(&mut self) -> io::Result<()> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the server's name has no address");
        for address in &self.destination.addresses {
            match open(address, &self.wire) {
                Ok((stream, fast_open)) => {
                    self.stream = Some(stream);
                    self.fast_open = fast_open;
                    self.note_sent();
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn note_sent(&mut self) {
        if !self.wire.is_empty() {
            self.bytes_sent += self.wire.len() as u64;
            self.wire.clear();
            self.client.handle_transmitted();
        }
        self.observer.observe(self.client, self.bytes_sent);
    }

    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        self.write_failed = self.write_failed || stream.write_all(&self.wire).is_err();
        if self.write_failed {
            // The server may have said why before it closed: reading comes next, and finds the end after it.
            self.wire.clear();
        }
        self.note_sent();
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        let wait = self.client.poll_timeout().map(|deadline| deadline.saturating_sub((self.clock)().monotonic));
        let Some(stream) = &mut self.stream else { return };
        // Zero would mean to wait for ever.
        let wait = wait.map(|wait| wait.max(Duration::from_millis(1)));
        let read = stream.set_read_timeout(wait).and_then(|()| stream.read(buffer));
        match read {
            Ok(0) => self.client.handle_closed((self.clock)()),
            Ok(bytes) => self.handle_received(&buffer[..bytes]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                self.client.handle_timeout((self.clock)());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.client.handle_closed((self.clock)()),
        }
        self.observer.observe(self.client, self.bytes_sent);
    }

    fn handle_received(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.fast_open) && self.stream.as_ref().is_some_and(fast_open::was_used) {
            self.client.handle_fast_open();
        }
        self.client.handle_received();
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match (self.client.incoming(), self.tls.is_some()) {
                (Layer::Plain, _) => self.client.handle_bytes((self.clock)(), rest),
                (Layer::Tls, true) => self.handle_ciphertext(rest),
                // Bytes behind the reply to STARTTLS, before TLS could begin: they cannot be the server's TLS.
                (Layer::Tls, false) => {
                    let words = "the server sent something before TLS began";
                    self.client.handle_tls_failed((self.clock)(), words, Trust::Unknown);
                    return;
                }
            };
            rest = &rest[taken..];
        }
    }

    /// Takes TLS records; returns how many bytes were taken, all of them after a failure.
    fn handle_ciphertext(&mut self, bytes: &[u8]) -> usize {
        let Some(tls) = &mut self.tls else { return bytes.len() };
        let received = tls.receive(bytes);
        // The handshake must go on even if the client has nothing to say: most servers greet only after its end.
        tls.send(&mut self.wire);
        if !self.secured && !tls.is_handshaking() {
            self.secured = true;
            self.client.handle_secured((self.clock)(), EarlyData::None);
        }
        loop {
            let plaintext = tls.plaintext();
            if plaintext.is_empty() {
                break;
            }
            let taken = self.client.handle_bytes((self.clock)(), plaintext);
            tls.consume(taken);
        }
        match received {
            Ok(taken) if tls.peer_closed() => {
                self.client.handle_closed((self.clock)());
                taken.max(bytes.len())
            }
            Ok(taken) => taken,
            Err(failure) => {
                self.fail_tls(&failure);
                bytes.len()
            }
        }
    }
}

/// A connected socket to which the first flight has been given, and whether it may have left in the SYN.
fn open(address: &SocketAddr, first_flight: &[u8]) -> io::Result<(TcpStream, bool)> {
    let mut stream = if first_flight.is_empty() {
        TcpStream::connect_timeout(address, SUBMIT_CONNECT_TIMEOUT)?
    } else {
        fast_open::connect(address, SUBMIT_CONNECT_TIMEOUT)?
    };
    stream.set_nodelay(true)?;
    stream.write_all(first_flight)?;
    // A server that reads nothing for so long is as good as gone.
    stream.set_write_timeout(Some(CLIENT_REPLY_TIMEOUT))?;
    Ok((stream, !first_flight.is_empty()))
}

/// The record that TLS 1.3 clients send after the ServerHello for the sake of old middleboxes (RFC 8446, Appendix D.4). In
/// TLS 1.2 it never stands alone.
const CHANGE_CIPHER_SPEC: [u8; 6] = [20, 3, 3, 0, 1, 1];
