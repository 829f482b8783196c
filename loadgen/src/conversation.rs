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

use crate::link::{Handshake, Link, Profile, SYN_BYTES_MAX};
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
    /// The time of the last look at the clock. [`Conversation::demand`] and [`Conversation::next_due`] go by it, so that nothing
    /// that falls due between two looks is missed by both.
    looked: Duration,
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
    pub(crate) fn new(now: Now, session: Session, profile: &Profile, random: Random) -> Self {
        Self::begin(now, session, profile, random, |link| link.connect(now.monotonic))
    }

    /// The SYN leaves now and carries as much of the first flight as it can, because the client has the server's cookie.
    pub(crate) fn with_fast_open(now: Now, mut session: Session, profile: &Profile, random: Random) -> Self {
        let mut first_flight = Vec::new();
        session.poll_bytes(now, &mut first_flight);
        if first_flight.is_empty() {
            return Self::new(now, session, profile, random);
        }
        if first_flight.len() <= SYN_BYTES_MAX {
            session.handle_fast_open();
        }
        let connect = |link: &mut Link| link.connect_fast(now.monotonic, &first_flight);
        let mut conversation = Self::begin(now, session, profile, random, connect);
        conversation.take_milestones(now);
        conversation
    }

    fn begin(
        now: Now,
        session: Session,
        profile: &Profile,
        mut random: Random,
        connect: impl FnOnce(&mut Link) -> Handshake,
    ) -> Self {
        let mut link = Link::new(profile, &mut random);
        let handshake = connect(&mut link);
        Self {
            session,
            profile: profile.clone(),
            random,
            link,
            stage: Stage::Connecting(handshake),
            looked: now.monotonic,
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

    /// No more messages will come.
    pub(crate) fn handle_quit(&mut self) {
        self.session.handle_quit();
    }

    /// Does all that is due, and adds to `out` what is to be written to the socket.
    pub(crate) fn advance(&mut self, now: Now, out: &mut Vec<u8>) {
        self.looked = now.monotonic;
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
        self.take_milestones(now);
    }

    fn take_milestones(&mut self, now: Now) {
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

    /// What is to be done with the socket, as of the last [`Conversation::advance`]. After an [`Event::Reached`] of [`Milestone::Reconnect`] the old one is to
    /// be closed first.
    pub(crate) fn demand(&self) -> Demand {
        match self.stage {
            // The server has closed, or was never there: another connection is for the client to ask for.
            Stage::Connecting(_) | Stage::Talking(_) if self.end.is_some() => Demand::None,
            Stage::Connecting(handshake) | Stage::Talking(handshake) if self.looked < handshake.server_ready => {
                Demand::None
            }
            Stage::Connecting(_) | Stage::Talking(_) => Demand::Connection,
            Stage::Over => Demand::Close,
        }
    }

    /// When [`Conversation::advance`] or [`Conversation::demand`] has something to do, if nothing is received before; it may be
    /// over already.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let (ready, session) = match self.stage {
            Stage::Connecting(handshake) => (Some(handshake.client_ready), None),
            Stage::Talking(handshake) => {
                let awaited = (self.looked < handshake.server_ready).then_some(handshake.server_ready);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use onetrip::proto::client::{
        Address, Config, Content, Ending, Failure, HelloName, Message, Recipient, Security, ServerMemory,
    };
    use onetrip::time::Now;
    use onetrip::tls::Versions;
    use onetrip::tls::client::Trust;
    use rustls::pki_types::ServerName;

    use super::{Conversation, Demand, Event};
    use crate::link::Profile;
    use crate::random::Random;
    use crate::session::{Milestone, Session, TlsSetup};
    use crate::tls_sessions::TlsConfigs;
    use crate::veil::Hidden;

    /// More steps than any dialog here takes: a conversation that asks for ever has failed.
    const STEPS_MAX: usize = 1_000;

    fn message() -> Message {
        let recipient = Recipient::new(Address::parse("b@y").unwrap());
        Message::new(Address::parse("a@x").unwrap(), vec![recipient], Content::normalised(b"hi\n"))
    }

    /// A client without TLS, 100 ms from its server.
    fn conversation() -> Conversation {
        conversation_with(Ending::Quit)
    }

    fn conversation_with(ending: Ending) -> Conversation {
        let now = Now::simulated_ms(0);
        let mut config = Config::new(HelloName::parse("c").unwrap());
        config.security = Security::Plain;
        config.ending = ending;
        config.reply_timeout = Duration::from_secs(7);
        let tls = TlsConfigs::new(&Trust::Anyone, Versions::Both).unwrap().fresh;
        let setup = TlsSetup { config: tls, server_name: ServerName::try_from("localhost").unwrap() };
        let session = Session::new(now, config, setup, Hidden::NOTHING, ServerMemory::default(), vec![message()]);
        Conversation::new(now, session, &Profile::parse("100").unwrap(), Random::new(1))
    }

    /// What the server does when bytes or a connection reach it.
    enum Answer {
        Say(&'static str),
        Close,
        Nothing,
    }

    /// Runs to the end in virtual time; what was reached and when, in milliseconds.
    fn play(mut conversation: Conversation, mut answer: impl FnMut(&str) -> Answer) -> Vec<(u128, Event)> {
        let mut at = Duration::ZERO;
        let (mut events, mut connected) = (Vec::new(), false);
        for _ in 0..STEPS_MAX {
            let now = Now { monotonic: at, unix: at };
            let mut out = Vec::new();
            conversation.advance(now, &mut out);
            while let Some((when, event)) = conversation.poll_event() {
                connected &= event != Event::Reached(Milestone::Reconnect);
                events.push((when.as_millis(), event));
            }
            let begins = !connected && conversation.demand() == Demand::Connection;
            connected |= begins;
            if conversation.demand() == Demand::Close {
                return events;
            }
            if begins || !out.is_empty() {
                match answer(&String::from_utf8(out).unwrap()) {
                    Answer::Say(words) => conversation.handle_bytes(now, words.as_bytes()),
                    Answer::Close => conversation.handle_closed(now),
                    Answer::Nothing => {}
                }
            }
            at = conversation.next_due().expect("a conversation that goes on waits for something").max(at);
        }
        panic!("no end: {events:?}");
    }

    fn good_server(said: &str) -> Answer {
        Answer::Say(match said {
            "" => "220 s\r\n",
            _ if said.starts_with("EHLO") => "250-s\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
            _ if said.starts_with("MAIL") => "250 ok\r\n250 ok\r\n250 taken\r\n",
            _ => "221 bye\r\n",
        })
    }

    fn settled(events: &[(u128, Event)]) -> (u128, Option<Failure>) {
        let outcome = events.iter().find_map(|(at, event)| match event {
            Event::Reached(Milestone::Settled(outcome)) => Some((*at, outcome.failure.clone())),
            _ => None,
        });
        outcome.unwrap_or_else(|| panic!("never settled: {events:?}"))
    }

    #[test]
    fn each_step_of_a_dialog_costs_the_round_trips_that_it_costs_on_a_wire() {
        let events = play(conversation(), good_server);
        let at = |wanted: Event| events.iter().find(|(_, event)| *event == wanted).map(|&(at, _)| at);
        // The SYN and the greeting are a round trip each: nothing is sent in between.
        assert_eq!(at(Event::Connected), Some(100));
        assert_eq!(at(Event::Reached(Milestone::MailSent)), Some(300));
        assert_eq!(settled(&events), (400, None));
    }

    #[test]
    fn a_server_that_closes_is_seen_to_have_closed_half_a_round_trip_later() {
        let events = play(conversation(), |said| if said.is_empty() { good_server("") } else { Answer::Close });
        // The EHLO leaves at 200 ms and reaches the server at 250.
        let (at, failure) = settled(&events);
        assert!((300..=301).contains(&at), "{events:?}");
        assert_eq!(failure, Some(Failure::Closed));
    }

    #[test]
    fn what_was_said_before_the_close_is_heard_before_it() {
        let mut conversation = conversation();
        let now = |ms| Now::simulated_ms(ms);
        conversation.advance(now(150), &mut Vec::new());
        conversation.handle_bytes(now(150), b"421 4.3.2 later\r\n");
        conversation.handle_closed(now(150));
        let events = play(conversation, |_| Answer::Nothing);
        assert!(matches!(settled(&events).1, Some(Failure::TryLater(_))), "{events:?}");
    }

    #[test]
    fn a_connection_that_could_not_be_made_is_a_failure_and_no_wait_for_ever() {
        let events = play(conversation(), |_| Answer::Close);
        assert_eq!(settled(&events).1, Some(Failure::Closed));
    }

    #[test]
    fn a_server_that_never_answers_is_given_up_when_the_time_for_a_reply_is_over() {
        let events = play(conversation(), |said| if said.is_empty() { good_server("") } else { Answer::Nothing });
        assert_eq!(settled(&events), (7_200, Some(Failure::TimedOut)));
    }

    #[test]
    fn a_client_that_was_to_stay_leaves_when_it_is_told_that_nothing_will_come() {
        let mut conversation = conversation_with(Ending::Stay);
        conversation.handle_quit();
        let events = play(conversation, good_server);
        assert_eq!(settled(&events), (400, None));
        assert_eq!(events.last(), Some(&(500, Event::Reached(Milestone::Closed))));
    }

    #[test]
    fn the_moment_to_connect_is_not_missed_when_it_passes_after_the_look_at_the_clock() {
        let mut conversation = conversation();
        let just_before = Now { monotonic: Duration::from_micros(149_999), unix: Duration::ZERO };
        conversation.advance(just_before, &mut Vec::new());
        assert_eq!(conversation.demand(), Demand::None);
        // Whoever asks at 150 ms must learn that there is something to do at once.
        assert_eq!(conversation.next_due(), Some(Duration::from_millis(150)));
        conversation.advance(Now::simulated_ms(151), &mut Vec::new());
        assert_eq!(conversation.demand(), Demand::Connection);
        assert_eq!(conversation.next_due(), Some(Duration::from_secs(7)), "only the time for a reply is left");
    }
}
