//! What client and server say in each row, in bytes: taken from the system calls of the real server (`strace -e network`).
//!
//! Nothing is measured here.

/// A flight of the client, and the server's answer to it, in bytes of plaintext.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// What the client says.
    pub(crate) asked: usize,
    /// What the server answers.
    pub(crate) answered: usize,
}

/// How TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// With a full handshake.
    Full,
    /// With a TLS session from before.
    Resumed,
    /// The same, and the first secured turn is early data.
    Early,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// In clear text, the greeting first. The ClientHello follows at once, in a flight with what the last of these asks if
    /// [`Exchange::hello_waits`] is not set.
    pub(crate) clear: &'static [Turn],
    /// Is the answer to the last of them waited for before the ClientHello?
    pub(crate) hello_waits: bool,
    /// How TLS begins.
    pub(crate) opening: Opening,
    /// Inside TLS. The first leaves with the client's Finished.
    pub(crate) secured: &'static [Turn],
}

const fn turn(asked: usize, answered: usize) -> Turn {
    Turn { asked, answered }
}

/// Plain ESMTP: greeting, EHLO, STARTTLS; EHLO, AUTH, envelope with DATA, message, QUIT.
pub(crate) const ESMTP: Exchange = Exchange {
    clear: &[turn(0, 310), turn(18, 296), turn(10, 30)],
    hello_waits: true,
    opening: Opening::Full,
    secured: &[turn(18, 312), turn(41, 36), turn(76, 114), turn(MESSAGE_BYTES + 3, 38), turn(6, 30)],
};

/// All of QUICKSTART: QHLO and STARTTLS with the ClientHello; QHLO, AUTH, MAIL, RCPT, BDAT and the message; QUIT.
pub(crate) const QUICKSTART: Exchange = Exchange {
    clear: &[turn(44, 340)],
    hello_waits: false,
    opening: Opening::Resumed,
    secured: &[turn(MESSAGE_BYTES + 210, 140), turn(6, 30)],
};

/// The same in early data.
pub(crate) const EARLY: Exchange = Exchange { opening: Opening::Early, ..QUICKSTART };

/// One more message with MAIL, RCPT and DATA in one flight.
pub(crate) const DATA: &[Turn] = &[turn(76, 114), turn(MESSAGE_BYTES + 3, 38)];

/// One more message in one flight.
pub(crate) const BDAT: &[Turn] = &[turn(MESSAGE_BYTES + 140, 120)];

/// Of the content of each message.
const MESSAGE_BYTES: usize = 4_096;
