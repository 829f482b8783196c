//! One client behind its link, in virtual time: what its socket has to do, and when.
//!
//! ```text
//!   session ──► link.up ──► to the socket          socket ──► link.down ──► session
//! ```
//!
//! Pure: whoever drives it owns the socket and the clock. The socket is on this machine, so all delay is the link's.

use std::collections::VecDeque;
use std::time::Duration;

use onetrip::proto::client::Message;
use onetrip::time::Now;

use crate::link::{Handshake, Link, Profile};
use crate::random::Random;
use crate::session::{Milestone, Session};

/// What was reached, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// TCP's handshake is done.
    Connected,
    /// Something that the session reached.
    Reached(Milestone),
}

/// What the driver has to do with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Nothing yet: the SYN is still on its way.
    None,
    /// There has to be a connection; if there is none, it is to be made.
    Connection,
    /// The connection is to be closed.
    Close,
}

/// One client behind its link.
#[derive(Debug)]
pub(crate) struct Conversation {
    session: Session,
    profile: Profile,
    random: Random,
    link: Link,
    stage: Stage,
    events: VecDeque<(Duration, Event)>,
    /// When the end of the server's bytes reaches the client.
    end: Option<Duration>,
    arrived: Vec<u8>,
    leaving: Vec<u8>,
}

/// ```text
///  Connecting ──SYN-ACK──► Talking ──► Over
///      ▲                     │
///      └──── another one ────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting(Handshake),
    Talking(Handshake),
    Over,
}

impl Conversation {
    /// The SYN leaves now.
    pub(crate) fn new(now: Now, session: Session, profile: &Profile, mut random: Random) -> Self {
        let mut link = Link::new(profile, &mut random);
        let handshake = link.connect(now.monotonic);
        Self {
            session,
            profile: profile.clone(),
            random,
            link,
            stage: Stage::Connecting(handshake),
            events: VecDeque::new(),
            end: None,
            arrived: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// The socket received bytes.
    pub(crate) fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        self.link.down.handle_bytes(now.monotonic, bytes);
    }

    /// The server closed the connection, or it could not be made.
    pub(crate) fn handle_closed(&mut self, now: Now) {
        if self.end.is_none() {
            self.end = Some(self.link.down.bare_segment(now.monotonic));
        }
    }

    /// One more message, and whether it is the last.
    pub(crate) fn handle_message(&mut self, message: Message, is_last: bool) {
        self.session.handle_message(message, is_last);
    }

    /// Does all that is due, and adds to `out` what is to be written to the socket.
    pub(crate) fn advance(&mut self, now: Now, out: &mut Vec<u8>) {
        self.finish_handshake(now);
        if matches!(self.stage, Stage::Talking(_)) {
            self.receive(now);
            self.speak(now);
        }
        self.link.up.poll_arrived(now.monotonic, out);
    }

    fn finish_handshake(&mut self, now: Now) {
        if let Stage::Connecting(handshake) = self.stage
            && now.monotonic >= handshake.client_ready
        {
            self.stage = Stage::Talking(handshake);
            self.events.push_back((now.monotonic, Event::Connected));
        }
    }

    fn receive(&mut self, now: Now) {
        self.link.down.poll_arrived(now.monotonic, &mut self.arrived);
        if !self.arrived.is_empty() {
            self.session.handle_bytes(now, &self.arrived);
            self.arrived.clear();
        }
        if self.end.is_some_and(|end| end <= now.monotonic) && self.link.down.next_arrival().is_none() {
            self.session.handle_closed(now);
        }
        if self.session.poll_timeout().is_some_and(|deadline| deadline <= now.monotonic) {
            self.session.handle_timeout(now);
        }
    }

    fn speak(&mut self, now: Now) {
        self.session.poll_bytes(now, &mut self.leaving);
        self.link.up.handle_bytes(now.monotonic, &self.leaving);
        self.leaving.clear();
        while let Some(milestone) = self.session.poll_milestone() {
            match milestone {
                Milestone::Reconnect => self.reconnect(now),
                Milestone::Closed => self.stage = Stage::Over,
                _ => {}
            }
            self.events.push_back((now.monotonic, Event::Reached(milestone)));
        }
    }

    fn reconnect(&mut self, now: Now) {
        self.link = Link::new(&self.profile, &mut self.random);
        self.stage = Stage::Connecting(self.link.connect(now.monotonic));
        self.end = None;
        self.session.handle_reconnected(now);
    }

    /// What is to be done with the socket now. After an [`Event::Reached`] of [`Milestone::Reconnect`] the old one is to
    /// be closed first.
    pub(crate) fn demand(&self, now: Now) -> Demand {
        match self.stage {
            // The server has closed, or was never there: another connection is for the client to ask for.
            Stage::Connecting(_) | Stage::Talking(_) if self.end.is_some() => Demand::None,
            Stage::Connecting(handshake) | Stage::Talking(handshake) if now.monotonic < handshake.server_ready => {
                Demand::None
            }
            Stage::Connecting(_) | Stage::Talking(_) => Demand::Connection,
            Stage::Over => Demand::Close,
        }
    }

    /// When [`Conversation::advance`] or [`Conversation::demand`] has something to do, if nothing is received before.
    pub(crate) fn next_due(&self, now: Now) -> Option<Duration> {
        let (ready, session) = match self.stage {
            Stage::Connecting(handshake) => (Some(handshake.client_ready), None),
            Stage::Talking(handshake) => {
                let awaited = (now.monotonic < handshake.server_ready).then_some(handshake.server_ready);
                (awaited, self.session.poll_timeout())
            }
            Stage::Over => return None,
        };
        let arrivals = [self.link.up.next_arrival(), self.link.down.next_arrival()];
        [ready, session, self.end].into_iter().chain(arrivals).flatten().min()
    }

    /// The next thing that was reached, and when.
    pub(crate) fn poll_event(&mut self) -> Option<(Duration, Event)> {
        self.events.pop_front()
    }

    /// The client.
    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    /// The client, to take its transcript.
    pub(crate) const fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
