//! Greetings and hellos: draft §4, §5, §8, §10 and RFC 5321 §4.1.1.1.

use std::mem;

use super::state::{Authorized, Greeted, Listed, Mismatched, Ready, Securing, State};
use super::{Outcome, Server, Start, say};
use crate::proto::channel::Channel;
use crate::proto::reply;
use crate::proto::trace::Hello;

impl Server {
    /// Appends the extended greeting, where one is due: at the start of the connection, after QTLS, and at the start of
    /// implicit TLS. Says nothing after STARTTLS.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        match self.state {
            State::Waiting => {
                let listing = &self.settings.connect;
                listing.write_greeting(&self.id(listing), out);
                self.state = State::Greeted(Greeted { channel: Channel::Clear, listed: Listed::Yes });
            }
            State::Securing(Securing::Greeting) => {
                let listing = &self.settings.secured;
                listing.write_greeting(&self.id(listing), out);
            }
            _ => {}
        }
    }

    /// The client spoke before it was greeted, and is welcome to: an EHLO that comes so is Exim's early pipelining.
    pub fn handle_early(&mut self, bytes: &[u8]) {
        if bytes.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"EHLO")) {
            self.tally.start = Start::PipeConnect;
        }
    }

    /// The client spoke before it was greeted, and that marks an abuser (draft §12).
    pub fn refuse_early(&mut self, out: &mut Vec<u8>) {
        self.end_with(reply::EARLY_TALKER, Outcome::EarlyTalker, out);
    }

    pub(super) fn handle_helo(&mut self, domain: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"250 ");
        out.extend_from_slice(self.settings.hostname.as_bytes());
        out.extend_from_slice(b"\r\n");
        self.accept_hello(Hello::Helo, domain);
    }

    pub(super) fn handle_ehlo(&mut self, domain: &str, out: &mut Vec<u8>) {
        let listing = self.listing(self.state.channel());
        listing.write_ehlo(&self.id(listing), out);
        self.accept_hello(Hello::Ehlo, domain);
    }

    pub(super) fn handle_qhlo(&mut self, domain: &str, id: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(id) = id else {
            self.accept_quick(Hello::QhloBasic, domain, out);
            return;
        };
        if self.id_matches(self.listing(self.state.channel()), id) {
            self.tally.ids_matched += 1;
            self.accept_quick(Hello::QhloFull, domain, out);
        } else {
            self.tally.ids_mismatched += 1;
            self.refuse_id(out);
        }
    }

    fn accept_quick(&mut self, hello: Hello, domain: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"220 ");
        out.extend_from_slice(self.settings.hostname.as_bytes());
        out.extend_from_slice(b"\r\n");
        self.accept_hello(hello, domain);
    }

    /// 520 where the list has been given, 521 with the list where it has not (draft §8).
    fn refuse_id(&mut self, out: &mut Vec<u8>) {
        let state = mem::replace(&mut self.state, State::Ended);
        let (channel, authenticated) = (state.channel(), state.authenticated());
        match state.listed() {
            Listed::Yes => say(reply::WRONG_QHLO_ID, out),
            Listed::No => {
                let listing = self.listing(channel);
                listing.write_refusal(&self.id(listing), out);
            }
        }
        self.forget_transaction();
        self.state = State::Mismatched(Mismatched { channel, authenticated });
    }

    /// A hello forgets an open transaction and a failed AUTH, but never a good one.
    fn accept_hello(&mut self, hello: Hello, domain: &str) {
        let state = mem::replace(&mut self.state, State::Ended);
        let channel = state.channel();
        // EHLO gives the list; a QHLO was accepted because the client has it.
        let listed = if hello == Hello::Ehlo { Listed::Yes } else { state.listed() };
        self.forget_transaction();
        self.client_name.clear();
        self.client_name.push_str(domain);
        self.tally.hello = Some(hello);
        self.state = match (state.authenticated(), channel) {
            (Some(authenticated), Channel::Secure(encrypted)) => {
                State::Authorized(Authorized { authenticated, encrypted, listed, hello })
            }
            _ => State::Ready(Ready { channel, listed, hello }),
        };
    }
}
