//! From the clear into TLS: STARTTLS (RFC 3207, draft §9) and QTLS (draft §6), and what becomes of a handshake that came
//! along with a refused one.

use std::mem;

use super::framing::{Framing, RecordSkipper};
use super::state::{Greeted, Listed, Securing, State};
use super::{Finish, Outcome, Server, Skip, say};
use crate::proto::channel::{Channel, TlsFacts};
use crate::proto::line::LineReader;
use crate::proto::proof::Encrypted;
use crate::proto::reply::{self, Reply};

impl Server {
    pub(super) fn handle_starttls(&mut self, out: &mut Vec<u8>) {
        say(reply::TLS_READY, out);
        self.tally.starttls = true;
        self.secure(Securing::Silent);
    }

    /// No reply: the handshake follows at once, and the greeting comes inside TLS.
    pub(super) fn handle_qtls(&mut self) {
        self.tally.qtls = true;
        self.secure(Securing::Greeting);
    }

    /// TLS takes the client's early data (RFC 8446 §2.3): the conversation inside TLS begins, and answers leave with the
    /// server's first flight. But what the client says may be a copy until [`Server::handle_finished`].
    pub fn handle_secured_early(&mut self, facts: TlsFacts, encrypted: Encrypted) {
        self.finish = Finish::Awaited;
        self.handle_secured(facts, encrypted);
    }

    /// The client's Finished has come behind its early data: it is here, and was when it began. A message that waited for
    /// this is stored now.
    pub fn handle_finished(&mut self) {
        self.finish = Finish::Seen;
        if let State::Unconfirmed(at) = self.state {
            self.store(at);
        }
    }

    /// The TLS handshake is done: the conversation starts anew, with nothing kept of what was said in the clear (RFC 3207
    /// §4.2).
    pub fn handle_secured(&mut self, facts: TlsFacts, encrypted: Encrypted) {
        let State::Securing(securing) = self.state else {
            self.broken(&mut Vec::new());
            return;
        };
        let listed = match securing {
            Securing::Greeting => Listed::Yes,
            Securing::Silent => Listed::No,
        };
        self.tls = Some(facts);
        self.state = State::Greeted(Greeted { channel: Channel::Secure(encrypted), listed });
    }

    fn secure(&mut self, securing: Securing) {
        self.line = LineReader::default();
        self.client_name.clear();
        self.tally.hello = None;
        self.forget_transaction();
        self.state = State::Securing(securing);
    }

    /// Refuses STARTTLS or QTLS, and drops the ClientHello that may have come along with it (draft §9).
    pub(super) fn refuse_handshake(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.framing = Framing::RefusedHandshake(RecordSkipper::default());
        self.refuse(reply, out);
    }

    pub(super) fn skip_handshake<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let Framing::RefusedHandshake(mut skipper) = mem::replace(&mut self.framing, Framing::Lines) else {
            return input;
        };
        match skipper.skip(input) {
            Skip::Done(rest) => rest,
            Skip::More => {
                self.framing = Framing::RefusedHandshake(skipper);
                &[]
            }
            Skip::TooMuch => {
                self.end_with(reply::UNSKIPPABLE, Outcome::Unskippable, out);
                &[]
            }
        }
    }
}
