//! One client with its TLS: bytes of the network in, bytes of the network out, and milestones on the way.
//!
//! Adds to `onetrip::wire::client` what measuring needs: a veil over the server's lists, and the moment of the login. No
//! sockets, no clock, no delay: `conversation` adds the link.

use std::collections::VecDeque;

use onetrip::proto::client::{Client, Config, EarlyData, Entry, Message, Outcome, ServerMemory};
use onetrip::time::Now;
pub(crate) use onetrip::wire::client::TlsSetup;
use onetrip::wire::client::{Connection, Step};

use crate::veil::{Hidden, Veil};

/// Reply to a good login (RFC 4954 §4).
const LOGGED_IN: u16 = 235;

/// Something that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Milestone {
    /// TLS's handshake is done.
    Secured {
        /// An earlier session was resumed.
        resumed: bool,
        /// What became of what was said along with the handshake.
        early_data: EarlyData,
    },
    /// The login was accepted.
    LoggedIn,
    /// The first MAIL of this connection left.
    MailSent,
    /// All messages given so far are settled.
    Settled(Outcome),
    /// This connection is over and another one is needed.
    Reconnect,
    /// This connection is over.
    Closed,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection<Veil>,
    milestones: VecDeque<Milestone>,
}

impl Session {
    /// A client whose connection is being made.
    pub(crate) fn new(
        now: Now,
        config: Config,
        setup: TlsSetup,
        hidden: Hidden,
        memory: ServerMemory,
        messages: Vec<Message>,
    ) -> Self {
        let client = Client::new(now, config, memory, messages);
        Self { connection: Connection::with_lens(client, setup, Veil::new(hidden)), milestones: VecDeque::new() }
    }

    /// Bytes came from the network.
    pub(crate) fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        self.connection.handle_input(now, bytes);
        self.take_milestones();
        if self.connection.lens_mut().poll_codes().contains(&LOGGED_IN) {
            self.milestones.push_back(Milestone::LoggedIn);
        }
    }

    /// The server closed the connection, or it broke.
    pub(crate) fn handle_closed(&mut self, now: Now) {
        self.connection.handle_closed(now);
    }

    /// The time of [`Session::poll_timeout`] has come.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        self.connection.handle_timeout(now);
    }

    /// The new connection that was asked for is being made.
    pub(crate) fn handle_reconnected(&mut self, now: Now) {
        self.connection.handle_reconnected(now);
    }

    /// The whole first flight leaves in the SYN.
    pub(crate) fn handle_fast_open(&mut self) {
        self.connection.handle_fast_open();
    }

    /// One more message, and whether it is the last.
    pub(crate) fn handle_message(&mut self, message: Message, is_last: bool) {
        let client = self.connection.client_mut();
        if is_last {
            client.handle_quit();
        }
        client.handle_message(message);
    }

    /// No more messages will come: goodbye is said when all are settled.
    pub(crate) fn handle_quit(&mut self) {
        self.connection.client_mut().handle_quit();
    }

    /// Adds what leaves now, in one flight, to `out`.
    pub(crate) fn poll_bytes(&mut self, now: Now, out: &mut Vec<u8>) {
        loop {
            let step = self.connection.poll_step(now, out);
            self.take_milestones();
            match step {
                Step::Send => {}
                Step::Settled(outcome) => self.milestones.push_back(Milestone::Settled(outcome)),
                Step::Reconnect(_) => return self.milestones.push_back(Milestone::Reconnect),
                Step::Close => return self.milestones.push_back(Milestone::Closed),
                Step::Receive => return,
            }
        }
    }

    fn take_milestones(&mut self) {
        use onetrip::wire::client::Milestone as Reached;
        while let Some(reached) = self.connection.poll_milestone() {
            self.milestones.push_back(match reached {
                Reached::Secured { resumed, early_data } => Milestone::Secured { resumed, early_data },
                Reached::MailSent => Milestone::MailSent,
            });
        }
    }

    /// What was reached since this was asked last.
    pub(crate) fn poll_milestone(&mut self) -> Option<Milestone> {
        self.milestones.pop_front()
    }

    /// When [`Session::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<std::time::Duration> {
        self.connection.poll_timeout()
    }

    /// The next line of the dialog, if the configuration asked for it.
    pub(crate) fn poll_transcript(&mut self) -> Option<Entry> {
        self.connection.client_mut().poll_transcript()
    }

    /// Round trips from the SYN to the last [`Milestone::Settled`].
    pub(crate) fn round_trips(&self) -> u32 {
        self.connection.client().round_trips()
    }

    /// The packet that carried the first MAIL of this connection.
    pub(crate) fn mail_packet(&self) -> Option<u32> {
        self.connection.client().flights().mail_packet()
    }

    /// What is remembered of the server now.
    pub(crate) fn memory(&self) -> &ServerMemory {
        self.connection.client().memory()
    }
}
