//! A session whose ClientHello was answered: the handshake and everything after.
//!
//! Must not decide what may be said early, nor know what the plaintext means.

use std::io::BufRead;

use rustls::{PeerMisbehaved, ServerConnection};

use super::buffered::{plaintext, rest, send};
use super::failure::TlsFailure;
use super::{EarlyOutcome, Facts, Flow, Origin, Plaintext, agreed};
use crate::tls::early::{EarlyInput, Passed, Skipper, TooMuchSkipped};

/// A connection whose ClientHello was answered.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) connection: ServerConnection,
    pub(super) early: EarlyInput,
    pub(super) skipper: Skipper,
}

impl Running {
    /// Takes from `rest` until there is plaintext to be read that is not early data. So what is held is bounded: by the
    /// bound on early data, and by one read's worth of what comes after it.
    pub(super) fn receive(&mut self, flow: &mut Flow, rest: &mut &[u8]) -> Result<(), TlsFailure> {
        while !rest.is_empty() && plaintext(&mut self.connection).is_empty() {
            if self.early.outcome == EarlyOutcome::Rejected && self.connection.is_handshaking() {
                self.pass_or_skip(flow, rest)?;
                continue;
            }
            let result = flow.receive_piece(&mut self.connection, rest);
            // Early data from before a fault stays good.
            self.early.gather(&mut self.connection);
            result?;
        }
        Ok(())
    }

    /// Takes a part of a record, and gives it to the library unless it is early data that was rejected.
    fn pass_or_skip(&mut self, flow: &mut Flow, rest: &mut &[u8]) -> Result<(), TlsFailure> {
        match self.skipper.next(rest) {
            Err(TooMuchSkipped) => Err(flow.fail(PeerMisbehaved::TooMuchEarlyDataReceived.into())),
            Ok(Passed::Nothing) => Ok(()),
            Ok(Passed::Header(header)) => flow.receive_all(&mut self.connection, &header),
            Ok(Passed::Content(content)) => flow.receive_all(&mut self.connection, content),
        }
    }

    pub(super) fn send(&mut self, ciphertext: &mut Vec<u8>) {
        self.skipper.note_answer(self.connection.wants_write());
        send(&mut self.connection, ciphertext);
    }

    /// Early data comes first: all of it was sent before anything else.
    pub(super) fn plaintext(&mut self) -> Plaintext<'_> {
        match self.early.unread() {
            [] => Plaintext { bytes: plaintext(&mut self.connection), origin: Origin::Confirmed },
            bytes => Plaintext { bytes, origin: Origin::Early },
        }
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        if self.early.unread().is_empty() {
            self.connection.reader().consume(bytes);
        } else {
            self.early.consume(bytes);
        }
    }

    pub(super) fn agreed(&self) -> Option<Facts<'_>> {
        agreed(&self.connection, self.connection.server_name())
    }

    pub(super) fn rest(&mut self) {
        self.early.rest();
        rest(&mut self.connection);
    }
}
