//! One visit from its intended start to its end: which message is due when, and what was measured.
//!
//! Pure. The drivers, `worker` and `single`, bring the socket and the clock.

use std::time::Duration;

use onetrip::proto::client::{Message, Outcome, ServerMemory};
use onetrip::time::Now;

use crate::conversation::{Conversation, Demand, Event};
use crate::random::Random;
use crate::record::{Phase, Record};
use crate::session::Milestone;
use crate::target::{Judgement, Target, Visit};
use crate::tls_sessions::TlsConfigs;

/// Where messages of a visit come from.
#[derive(Clone, Debug)]
pub(crate) struct Letters {
    /// What all ids of this visit begin with.
    pub(crate) id: String,
    /// Their sizes in bytes, one for each message.
    pub(crate) sizes: Vec<u64>,
    /// Recipients of each.
    pub(crate) recipients: u32,
    /// Rest between two messages.
    pub(crate) think_time: Duration,
}

/// The server as one client meets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server<'a> {
    /// The server.
    pub(crate) target: &'a Target,
    /// How TLS is done with it.
    pub(crate) tls: &'a TlsConfigs,
    /// What the client remembers of it.
    pub(crate) memory: &'a ServerMemory,
}

/// A client on its visit.
#[derive(Debug)]
pub(crate) struct Visitor {
    conversation: Conversation,
    visit: Visit,
    letters: Letters,
    random: Random,
    /// When the visit should have begun.
    intended: Duration,
    /// The number of the message in work.
    number: usize,
    /// When it was due.
    due: Duration,
    /// The next message waits for its time.
    resting: bool,
    /// Phases noted already.
    noted: [bool; Phase::ALL.len()],
    /// Whether the visit has its result.
    judged: bool,
}

/// What a visitor tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The message of this id was acknowledged for so many recipients.
    Acknowledged {
        /// Its id.
        id: String,
        /// How many mailboxes have it.
        recipients: usize,
        /// Time since it was due.
        time: Duration,
    },
    /// Something failed.
    Failed,
    /// The socket is to be closed and another one made.
    Reconnect,
}

impl Visitor {
    /// A visit that should have begun at `intended` and begins now.
    pub(crate) fn new(
        now: Now,
        intended: Duration,
        server: &Server<'_>,
        visit: Visit,
        letters: Letters,
        mut random: Random,
    ) -> Self {
        let first = message(server.target, &letters, 0, &mut random);
        let session = server.target.client(now, server.tls, &visit, server.memory, first);
        let conversation = Conversation::new(now, session, &visit.profile, random.split());
        Self {
            conversation,
            visit,
            letters,
            random,
            intended,
            number: 0,
            due: intended,
            resting: false,
            noted: [false; Phase::ALL.len()],
            judged: false,
        }
    }

    /// The socket received bytes.
    pub(crate) fn handle_bytes(&mut self, now: Now, bytes: &[u8]) {
        self.conversation.handle_bytes(now, bytes);
    }

    /// The server closed the connection, or it could not be made.
    pub(crate) fn handle_closed(&mut self, now: Now) {
        self.conversation.handle_closed(now);
    }

    /// Does all that is due: bytes for the socket go to `out`, measurements to `record`, and what the driver must know is
    /// returned.
    pub(crate) fn advance(&mut self, now: Now, target: &Target, record: &mut Record, out: &mut Vec<u8>) -> Vec<News> {
        if self.resting && self.due <= now.monotonic {
            self.resting = false;
            let next = message(target, &self.letters, self.number, &mut self.random);
            let is_last = self.number + 1 >= self.letters.sizes.len();
            self.conversation.handle_message(next, is_last);
        }
        self.conversation.advance(now, out);
        let mut news = Vec::new();
        while let Some((at, event)) = self.conversation.poll_event() {
            self.handle_event(at, event, record, &mut news);
        }
        news
    }

    fn handle_event(&mut self, at: Duration, event: Event, record: &mut Record, news: &mut Vec<News>) {
        match event {
            Event::Connected => {
                record.scenario_mut(self.visit.scenario).connections += 1;
                self.note(Phase::Connect, at, record);
            }
            Event::Reached(Milestone::Secured { resumed }) => {
                let entry = record.scenario_mut(self.visit.scenario);
                entry.handshakes += 1;
                entry.resumed += u64::from(resumed);
                self.note(Phase::Tls, at, record);
            }
            Event::Reached(Milestone::LoggedIn) => self.note(Phase::Ready, at, record),
            Event::Reached(Milestone::MailSent) => self.note(Phase::MailSent, at, record),
            Event::Reached(Milestone::Settled(outcome)) => self.settle(at, &outcome, record, news),
            Event::Reached(Milestone::Reconnect) => news.push(News::Reconnect),
            Event::Reached(Milestone::Closed) => {}
        }
    }

    fn note(&mut self, phase: Phase, at: Duration, record: &mut Record) {
        if !std::mem::replace(&mut self.noted[phase as usize], true) {
            record.scenario_mut(self.visit.scenario).note(phase, at.saturating_sub(self.intended));
        }
    }

    fn settle(&mut self, at: Duration, outcome: &Outcome, record: &mut Record, news: &mut Vec<News>) {
        let scenario = self.visit.scenario;
        match Judgement::of(outcome, scenario) {
            Judgement::Acknowledged(recipients) => {
                let time = at.saturating_sub(self.due);
                record.note_acknowledged(scenario, at, time);
                if self.number == 0 {
                    self.count_trips(record);
                }
                news.push(News::Acknowledged { id: id(&self.letters, self.number), recipients, time });
                self.plan_next(at, record);
            }
            Judgement::RefusedAsExpected => {
                self.note(Phase::Ready, at, record);
                self.end_well(record);
            }
            Judgement::Wrong(kind) => {
                self.judged = true;
                record.note_error(scenario, at, &kind);
                news.push(News::Failed);
            }
        }
    }

    fn count_trips(&self, record: &mut Record) {
        let session = self.conversation.session();
        let entry = record.scenario_mut(self.visit.scenario);
        *entry.round_trips.entry(session.round_trips()).or_default() += 1;
        if let Some(packet) = session.mail_packet() {
            *entry.mail_packets.entry(packet).or_default() += 1;
        }
    }

    fn plan_next(&mut self, at: Duration, record: &mut Record) {
        self.number += 1;
        if self.number >= self.letters.sizes.len() {
            return self.end_well(record);
        }
        self.due = at + self.letters.think_time;
        self.resting = true;
    }

    fn end_well(&mut self, record: &mut Record) {
        if !std::mem::replace(&mut self.judged, true) {
            record.scenario_mut(self.visit.scenario).sessions += 1;
        }
    }

    /// What is to be done with the socket.
    pub(crate) fn demand(&self, now: Now) -> Demand {
        self.conversation.demand(now)
    }

    /// When [`Visitor::advance`] has something to do, if nothing is received before.
    pub(crate) fn next_due(&self, now: Now) -> Option<Duration> {
        let message = self.resting.then_some(self.due);
        [message, self.conversation.next_due(now)].into_iter().flatten().min()
    }

    /// The visit as it was drawn.
    pub(crate) const fn visit(&self) -> &Visit {
        &self.visit
    }
}

fn id(letters: &Letters, number: usize) -> String {
    format!("{}-{number}", letters.id)
}

fn message(target: &Target, letters: &Letters, number: usize, random: &mut Random) -> Message {
    target.message(&id(letters, number), letters.sizes[number], letters.recipients, random)
}
