//! Counts flights and packets, and writes down the dialog.
//!
//! Observes only; never sees a secret.

use std::collections::VecDeque;

use crate::limits::TRANSCRIPT_ENTRIES_MAX;

/// The flights of one connection: a flight is what leaves together, after a wait for the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flights {
    sent: u32,
    in_flight: bool,
    /// The server spoke before the first flight left.
    greeted_first: bool,
    fast_open: bool,
    mail: Mail,
}

/// Where the first MAIL of a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mail {
    #[default]
    Unsaid,
    Said,
    /// It left in this flight.
    Left(u32),
}

impl Flights {
    /// The first flight travelled in the SYN itself (RFC 7413); that may become known later.
    pub const fn handle_fast_open(&mut self) {
        self.fast_open = true;
    }

    /// Bytes have left.
    pub const fn handle_transmitted(&mut self) {
        if !self.in_flight {
            self.in_flight = true;
            self.sent += 1;
        }
        if matches!(self.mail, Mail::Said) {
            self.mail = Mail::Left(self.sent);
        }
    }

    /// Bytes have come.
    pub const fn handle_received(&mut self) {
        self.greeted_first |= self.sent == 0;
        self.in_flight = false;
    }

    pub(super) const fn note_mail(&mut self) {
        if matches!(self.mail, Mail::Unsaid) {
            self.mail = Mail::Said;
        }
    }

    /// Flights sent.
    pub const fn sent(&self) -> u32 {
        self.sent
    }

    /// The client's packet that the last flight began, as the draft's Appendix A counts: the SYN is 1, and the ACK
    /// shares a packet with what is sent at once after it. It is also the round trips gone by when its answer comes.
    pub const fn packet(&self) -> u32 {
        if self.sent == 0 { 1 } else { self.first_packet() - 1 + self.sent }
    }

    /// The packet that bytes produced now will leave in.
    pub const fn next_packet(&self) -> u32 {
        match (self.sent, self.in_flight) {
            (0, _) => self.first_packet(),
            (_, true) => self.packet(),
            (_, false) => self.packet() + 1,
        }
    }

    /// The packet that carried the first MAIL of this connection.
    pub const fn mail_packet(&self) -> Option<u32> {
        match self.mail {
            Mail::Left(flight) => Some(self.first_packet() - 1 + flight),
            Mail::Unsaid | Mail::Said => None,
        }
    }

    const fn first_packet(&self) -> u32 {
        match (self.fast_open, self.greeted_first) {
            (true, false) => 1,
            (false, false) => 2,
            (_, true) => 3,
        }
    }
}

/// Who said a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// This client.
    Client,
    /// The server.
    Server,
    /// Nobody: a remark of the client about what goes on.
    Remark,
}

/// One line of the dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who said it.
    pub speaker: Speaker,
    /// The client's packet that carries it, or after which it came.
    pub packet: u32,
    /// The line, without its end and without secrets.
    pub text: String,
}

/// The dialog as far as nobody has taken it yet.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    wanted: bool,
    entries: VecDeque<Entry>,
}

impl Transcript {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, entries: VecDeque::new() }
    }

    pub(super) fn push(&mut self, speaker: Speaker, packet: u32, text: impl FnOnce() -> String) {
        if self.wanted && self.entries.len() < TRANSCRIPT_ENTRIES_MAX {
            self.entries.push_back(Entry { speaker, packet, text: text() });
        }
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::Flights;

    #[test]
    fn packets_are_counted_as_in_appendix_a() {
        let mut waits_for_greeting = Flights::default();
        waits_for_greeting.handle_received();
        waits_for_greeting.handle_transmitted();
        assert_eq!(waits_for_greeting.packet(), 3);

        let mut early = Flights::default();
        early.handle_transmitted();
        early.handle_transmitted();
        assert_eq!((early.sent(), early.packet()), (1, 2));
        early.handle_received();
        assert_eq!(early.next_packet(), 3);

        let mut fast_open = Flights::default();
        fast_open.handle_fast_open();
        fast_open.handle_transmitted();
        assert_eq!(fast_open.packet(), 1);
    }
}
