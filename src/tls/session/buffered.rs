//! The TLS library's connections that hold what they read and write in buffers of their own, as the client's end uses them.
//!
//! Must not decide what is said, nor when.

use std::io::{self, Read, Write};

use rustls::ConnectionCommon;

use super::failure::{TlsFailure, message_too_large};
use super::{Flow, Receiving};

impl Flow {
    /// Takes from `rest` until there is plaintext to be read. So no more than one read's worth of plaintext is ever held.
    pub(super) fn receive<Data>(
        &mut self,
        connection: &mut ConnectionCommon<Data>,
        rest: &mut &[u8],
    ) -> Result<(), TlsFailure> {
        while !rest.is_empty() && plaintext(connection).is_empty() {
            self.receive_piece(connection, rest)?;
        }
        Ok(())
    }

    /// Takes as much from `rest` as the library reads at once, a few KiB, and works through it.
    fn receive_piece<Data>(
        &mut self,
        connection: &mut ConnectionCommon<Data>,
        rest: &mut &[u8],
    ) -> Result<(), TlsFailure> {
        match connection.read_tls(rest) {
            // Closed: what follows close_notify is nobody's.
            Ok(0) => *rest = &[],
            Ok(_) => self.process(connection)?,
            Err(_) => return Err(self.fail(message_too_large())),
        }
        Ok(())
    }

    /// Works through what the connection has taken.
    fn process<Data>(&mut self, connection: &mut ConnectionCommon<Data>) -> Result<(), TlsFailure> {
        match connection.process_new_packets() {
            Ok(state) if state.peer_has_closed() => self.receiving = Receiving::Closed,
            Ok(_) => {}
            Err(error) => return Err(self.fail(error)),
        }
        Ok(())
    }
}

pub(super) fn plaintext<Data>(connection: &mut ConnectionCommon<Data>) -> &[u8] {
    // An error only says that there is nothing now or nothing more to come.
    connection.reader().into_first_chunk().unwrap_or_default()
}

pub(super) fn write<Data>(connection: &mut ConnectionCommon<Data>, plaintext: &[u8]) -> usize {
    // An error is the session's failure, after which nothing is sent.
    connection.writer().write(plaintext).unwrap_or(plaintext.len())
}

pub(super) fn send<Data>(connection: &mut ConnectionCommon<Data>, ciphertext: &mut Vec<u8>) {
    while connection.wants_write() {
        connection.write_tls(ciphertext).expect("a Vec takes everything");
    }
}

pub(super) fn rest<Data>(connection: &mut ConnectionCommon<Data>) {
    if plaintext(connection).is_empty() {
        // The library looks at the size of its buffer before it asks for bytes; that there are none is no error.
        let _ = connection.read_tls(&mut NothingYet);
    }
}

/// A reader that has no bytes now.
struct NothingYet;

impl Read for NothingYet {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
