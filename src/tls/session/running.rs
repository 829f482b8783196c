//! A session whose ClientHello was answered: the handshake and everything after.
//!
//! The TLS library has no buffers here: it works on what is given to it, and keeps nothing but keys. So a session holds bytes
//! only while there are some: a record that is not complete yet, plaintext that nobody has read, ciphertext that is not sent.
//!
//! ```text
//!   receive() ──► incoming ──► [library] ──► early, plaintext ──► plaintext(), consume()
//!                                  │
//!   send() ◄────── outgoing ◄──────┴──◄── waiting ◄── write(), while the handshake lets nothing out
//! ```
//!
//! The library is given one record at a time, so that what waits to be read is what one record holds. Must not decide what may
//! be said early, nor know what the plaintext means.

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, HandshakeKind, PeerMisbehaved, ServerConfig};

use super::failure::{TlsFailure, message_too_large};
use super::inbox::Inbox;
use super::{EarlyOutcome, Facts, Flow, Origin, Plaintext, agreed};
use crate::limits;
use crate::tls::early::{Passed, Skipper, TooMuchSkipped};
use crate::tls::read_keys::read_keys_made;
use crate::tls::record::RecordCursor;

/// A connection whose ClientHello was answered.
pub(super) struct Running {
    connection: UnbufferedServerConnection,
    server_name: Option<Box<str>>,
    /// Where in a record `incoming` ends.
    records: RecordCursor,
    /// The record that is coming in, and what the library still needs of those before it: pieces of a handshake message, or
    /// records that it hopes to read later.
    incoming: Vec<u8>,
    /// Boxed, as few connections have any, and most are silent most of the time.
    early: Option<Box<EarlyData>>,
    plaintext: Inbox,
    outgoing: Vec<u8>,
    waiting: Vec<u8>,
}

/// The early data that a ClientHello offered.
struct EarlyData {
    outcome: EarlyOutcome,
    skipper: Skipper,
    inbox: Inbox,
}

/// A ClientHello, and what was found out about it.
pub(super) struct Heard {
    /// The records that it came in.
    pub(super) records: Vec<u8>,
    pub(super) server_name: Option<Box<str>>,
    pub(super) offers_early_data: bool,
}

impl Running {
    /// Nothing is answered until [`Running::answer`] is called. `waiting` is said as soon as the handshake allows it.
    pub(super) fn new(config: Arc<ServerConfig>, heard: Heard, waiting: Vec<u8>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            server_name: heard.server_name,
            records: RecordCursor::default(),
            incoming: heard.records,
            early: heard.offers_early_data.then(|| Box::new(EarlyData::default())),
            plaintext: Inbox::default(),
            outgoing: Vec::new(),
            waiting,
        })
    }

    /// Answers the ClientHello: the server's flight and what waits behind it are ready to be sent afterwards.
    pub(super) fn answer(&mut self, flow: &mut Flow) -> Result<(), TlsFailure> {
        let before = read_keys_made();
        self.work(flow, &mut &[][..])?;
        // The library does not tell. But when it resumes a session, it makes the key for early data, and at once replaces it
        // by the one for the client's Finished, unless early data is to be read first.
        let is_next_key_early = read_keys_made() - before == 1;
        let is_resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        if let Some(early) = &mut self.early
            && is_resumed
            && is_next_key_early
        {
            early.outcome = EarlyOutcome::Accepted;
        }
        Ok(())
    }

    /// Takes from `rest` until there is plaintext to be read that is not early data. So what is held is bounded: by the
    /// bound on early data, and by one record of what comes after it.
    pub(super) fn receive(&mut self, flow: &mut Flow, rest: &mut &[u8]) -> Result<(), TlsFailure> {
        while !rest.is_empty() && self.plaintext.unread().is_empty() {
            if flow.peer_closed() {
                // What follows close_notify is nobody's.
                *rest = &[];
            } else if let Some(early) = self.early.as_mut().filter(|early| early.outcome == EarlyOutcome::Rejected)
                && self.connection.is_handshaking()
            {
                match early.skipper.next(&mut self.records, rest) {
                    Err(TooMuchSkipped) => return Err(flow.fail(PeerMisbehaved::TooMuchEarlyDataReceived.into())),
                    Ok(Passed::Nothing) => {}
                    Ok(Passed::Header(header)) => self.take(flow, &header, rest.is_empty())?,
                    Ok(Passed::Content(content)) => self.take(flow, content, rest.is_empty())?,
                }
            } else {
                let record = self.records.take_record(rest);
                self.take(flow, record, rest.is_empty())?;
            }
        }
        Ok(())
    }

    /// Takes a part of a record, and works on it if nothing more of that is there: a header may be wrong before its record is
    /// complete.
    fn take(&mut self, flow: &mut Flow, part: &[u8], is_last: bool) -> Result<(), TlsFailure> {
        self.incoming.extend_from_slice(part);
        let is_enough = self.records.is_at_end() || (is_last && self.records.header().is_some());
        if is_enough { self.work(flow, &mut &[][..]) } else { Ok(()) }
    }

    /// Takes plaintext. Returns how much.
    pub(super) fn write(&mut self, flow: &mut Flow, plaintext: &[u8]) -> usize {
        let room = limits::TLS_WAITING_BYTES_MAX.saturating_sub(self.waiting.len() + self.outgoing.len());
        let mut said = &plaintext[..plaintext.len().min(room)];
        let taken = said.len();
        // If it fails, nothing is sent any more, and `receive` will say so.
        if taken > 0 && self.work(flow, &mut said).is_ok() {
            self.waiting.extend_from_slice(said);
        }
        taken
    }

    /// Says that nothing more will be sent, as soon as the handshake allows it.
    pub(super) fn close(&mut self, flow: &mut Flow) {
        // If it fails, there is nobody to say it to.
        let _ = self.work(flow, &mut &[][..]);
    }

    pub(super) fn send(&mut self, ciphertext: &mut Vec<u8>) {
        if let Some(early) = &mut self.early {
            early.skipper.note_answer(!self.outgoing.is_empty());
        }
        ciphertext.extend_from_slice(&self.outgoing);
        self.outgoing.clear();
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Early data comes first: all of it was sent before anything else.
    pub(super) fn plaintext(&self) -> Plaintext<'_> {
        match self.early.as_ref().map_or(&[][..], |early| early.inbox.unread()) {
            [] => Plaintext { bytes: self.plaintext.unread(), origin: Origin::Confirmed },
            bytes => Plaintext { bytes, origin: Origin::Early },
        }
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        match self.early.as_mut().filter(|early| !early.inbox.unread().is_empty()) {
            Some(early) => early.inbox.consume(bytes),
            None => self.plaintext.consume(bytes),
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) fn early_outcome(&self) -> EarlyOutcome {
        self.early.as_ref().map_or(EarlyOutcome::None, |early| early.outcome)
    }

    pub(super) fn agreed(&self) -> Option<Facts<'_>> {
        agreed(&self.connection, self.server_name.as_deref())
    }

    /// Gives the memory of all that is empty back.
    pub(super) fn rest(&mut self) {
        if let Some(early) = &mut self.early {
            early.inbox.rest();
        }
        self.plaintext.rest();
        for bytes in [&mut self.incoming, &mut self.outgoing, &mut self.waiting] {
            if bytes.is_empty() {
                *bytes = Vec::new();
            }
        }
    }

    // ── The library ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Lets the library work through `incoming` until it needs more. `said` is taken if the handshake allows it to leave.
    /// After a failure it is never shown anything again: it may look for pieces of a message where they were.
    fn work(&mut self, flow: &mut Flow, said: &mut &[u8]) -> Result<(), TlsFailure> {
        flow.check()?;
        loop {
            match self.step(flow, said) {
                Ok(Progress::Some) => {}
                Ok(Progress::None) if self.incoming.len() <= INCOMING_BYTES_MAX => return Ok(()),
                Ok(Progress::None) => return Err(flow.fail(message_too_large())),
                Err(error) => {
                    self.take_alert();
                    return Err(flow.fail(error));
                }
            }
        }
    }

    fn step(&mut self, flow: &mut Flow, said: &mut &[u8]) -> Result<Progress, Error> {
        let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut self.incoming);
        let mut progress = Progress::Some;
        match state? {
            ConnectionState::ReadTraffic(mut records) => {
                while let Some(record) = records.next_record() {
                    let record = record?;
                    self.plaintext.put(record.payload);
                    discard += record.discard;
                }
            }
            ConnectionState::ReadEarlyData(mut records) => {
                let early = self.early.get_or_insert_default();
                early.outcome = EarlyOutcome::Accepted;
                while let Some(record) = records.next_record() {
                    let record = record?;
                    early.inbox.put(record.payload);
                    discard += record.discard;
                }
                let held = early.inbox.unread().len();
                assert!(held <= limits::TLS_EARLY_DATA_BYTES_MAX, "the library keeps the bound");
            }
            ConnectionState::EncodeTlsData(data) => encode(data, &mut self.outgoing),
            // `outgoing` is not lost any more, so for the library it has left.
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => flow.note_peer_closed(),
            ConnectionState::WriteTraffic(mut traffic) => {
                encrypt(&mut traffic, &self.waiting, &mut self.outgoing);
                self.waiting = Vec::new();
                encrypt(&mut traffic, said, &mut self.outgoing);
                *said = &[];
                if flow.cannot_send() {
                    close(&mut traffic, &mut self.outgoing);
                }
                progress = Progress::None;
            }
            // Blocked, or closed in both directions.
            _ => progress = Progress::None,
        }
        self.incoming.drain(..discard);
        Ok(progress)
    }

    /// The library has failed, and must not be shown `incoming` again; but it may have something to say about it.
    fn take_alert(&mut self) {
        self.incoming = Vec::new();
        while self.connection.wants_write() {
            let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } =
                self.connection.process_tls_records(&mut [])
            else {
                return;
            };
            encode(data, &mut self.outgoing);
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Default for EarlyData {
    fn default() -> Self {
        // Until it turns out better.
        Self { outcome: EarlyOutcome::Rejected, skipper: Skipper::default(), inbox: Inbox::default() }
    }
}

/// Whether the library has done something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

/// Appends what the library has to say in the handshake, or to end it.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Vec<u8>) {
    // Asked without room, it says how much it needs.
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return };
    append(outgoing, size.required_size, |room| data.encode(room).ok());
}

/// Appends this as records. After the last one that the keys are good for it is dropped, as the session is closed then.
fn encrypt<Data>(traffic: &mut WriteTraffic<'_, Data>, plaintext: &[u8], outgoing: &mut Vec<u8>) {
    if plaintext.is_empty() {
        return;
    }
    let Err(EncryptError::InsufficientSize(size)) = traffic.encrypt(plaintext, &mut []) else { return };
    append(outgoing, size.required_size, |room| traffic.encrypt(plaintext, room).ok());
}

/// Appends a close_notify, the first time.
fn close<Data>(traffic: &mut WriteTraffic<'_, Data>, outgoing: &mut Vec<u8>) {
    let Err(EncryptError::InsufficientSize(size)) = traffic.queue_close_notify(&mut []) else { return };
    append(outgoing, size.required_size, |room| traffic.queue_close_notify(room).ok());
}

fn append(outgoing: &mut Vec<u8>, bytes_max: usize, fill: impl FnOnce(&mut [u8]) -> Option<usize>) {
    let start = outgoing.len();
    outgoing.resize(start + bytes_max, 0);
    let bytes = fill(&mut outgoing[start..]).unwrap_or_default();
    outgoing.truncate(start + bytes);
}

/// As much may gather of a handshake message before the session ends: the library has no bound of its own on how many records
/// a message may be spread over. As much is what its buffered connections have room for.
const INCOMING_BYTES_MAX: usize = 0xffff;
