//! One visit from its intended start to its end: which message is due when, and what was measured.
//!
//! Pure. The drivers, `worker` and `single`, bring the socket and the clock.

use std::time::Duration;

use onetrip::proto::client::{EarlyData, Message, Outcome, ServerMemory};
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
        // A client that was never here has no cookie.
        let begin = match visit.scenario.opens_fast() && visit.is_warm {
            true => Conversation::with_fast_open,
            false => Conversation::new,
        };
        let conversation = begin(now, session, &visit.profile, random.split());
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
        let mut news = Vec::new();
        loop {
            let judged_before = self.judged;
            self.conversation.advance(now, out);
            while let Some((at, event)) = self.conversation.poll_event() {
                self.handle_event(at, event, record, &mut news);
            }
            // A visit that failed just now has a goodbye to say.
            if self.judged == judged_before {
                return news;
            }
        }
    }

    fn handle_event(&mut self, at: Duration, event: Event, record: &mut Record, news: &mut Vec<News>) {
        match event {
            Event::Connected => {
                record.scenario_mut(self.visit.scenario).connections += 1;
                self.note(Phase::Connect, at, record);
            }
            Event::Reached(Milestone::Secured { resumed, early_data }) => {
                let entry = record.scenario_mut(self.visit.scenario);
                entry.handshakes += 1;
                entry.resumed += u64::from(resumed);
                entry.early_data_accepted += u64::from(early_data == EarlyData::Accepted);
                entry.early_data_rejected += u64::from(early_data == EarlyData::Rejected);
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
        if self.judged {
            return;
        }
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
                // Nothing more is sent after a failure; a client that was to stay must not sit there until it times out.
                self.conversation.handle_quit();
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

    /// What is to be done with the socket, as of the last [`Visitor::advance`].
    pub(crate) fn demand(&self) -> Demand {
        self.conversation.demand()
    }

    /// When [`Visitor::advance`] has something to do, if nothing is received before.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let message = self.resting.then_some(self.due);
        [message, self.conversation.next_due()].into_iter().flatten().min()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use onetrip::proto::client::{Address, Failure, Outcome, ServerMemory, Verdict};
    use onetrip::proto::reply_reader::Reply;
    use onetrip::proto::secret::Secret;
    use onetrip::time::Now;
    use onetrip::tls::Versions;
    use onetrip::tls::client::Trust;
    use rustls::pki_types::ServerName;

    use super::{Letters, News, Server, Visitor};
    use crate::conversation::{Demand, Event};
    use crate::link::Profile;
    use crate::random::Random;
    use crate::record::{Phase, Record};
    use crate::scenario::Scenario;
    use crate::session::Milestone;
    use crate::target::{Target, User, Visit};
    use crate::tls_sessions::TlsConfigs;

    fn target() -> Target {
        Target {
            address: ([127, 0, 0, 1], 2587).into(),
            implicit_address: None,
            server_name: ServerName::try_from("localhost").unwrap(),
            trust: Trust::Anyone,
            versions: Versions::Both,
            users: vec![User { name: "ann".to_owned(), password: Secret::new(b"secret".to_vec()) }],
            sender: Address::parse("a@x").unwrap(),
            domain: "y".to_owned(),
            mailboxes: 3,
            sources: vec![None],
            reply_timeout: Duration::from_secs(7),
        }
    }

    /// A visitor that was due at 40 ms and begins at 50 ms.
    fn visitor(scenario: Scenario, messages: usize) -> Visitor {
        let target = target();
        let tls = TlsConfigs::new(&target.trust, target.versions).unwrap();
        let profile = Profile::parse("100").unwrap();
        let count = u32::try_from(messages).unwrap();
        let visit = Visit { scenario, profile, source: 0, user: 0, is_warm: false, messages: count, transcript: false };
        let letters = Letters {
            id: "run".to_owned(),
            sizes: vec![1_000; messages],
            recipients: 2,
            think_time: Duration::from_millis(30),
        };
        let server = Server { target: &target, tls: &tls, memory: &ServerMemory::default() };
        Visitor::new(Now::simulated_ms(50), ms(40), &server, visit, letters, Random::new(1))
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn settled(verdict: Verdict) -> Event {
        Event::Reached(Milestone::Settled(Outcome { messages: vec![vec![verdict]], failure: None }))
    }

    fn accepted() -> Event {
        settled(Verdict::Accepted(Reply::new(250, "ok")))
    }

    fn handle(visitor: &mut Visitor, at: Duration, event: Event, record: &mut Record) -> Vec<News> {
        let mut news = Vec::new();
        visitor.handle_event(at, event, record, &mut news);
        news
    }

    #[test]
    fn times_count_from_the_intended_start_and_not_from_the_real_one() {
        let mut record = Record::default();
        let mut visitor = visitor(Scenario::Esmtp, 1);
        handle(&mut visitor, ms(150), Event::Connected, &mut record);
        let news = handle(&mut visitor, ms(640), accepted(), &mut record);
        assert_eq!(news, [News::Acknowledged { id: "run-0".to_owned(), recipients: 1, time: ms(600) }]);
        let entry = record.scenario_mut(Scenario::Esmtp);
        assert_eq!((entry.sessions, entry.connections, entry.acknowledged), (1, 1, 1));
        let connect_us = entry.phase(Phase::Connect).histogram().max();
        assert!((109_000..=111_000).contains(&connect_us), "{connect_us}");
    }

    #[test]
    fn a_further_message_is_due_after_the_rest_and_its_time_counts_from_there() {
        let mut record = Record::default();
        let mut visitor = visitor(Scenario::Esmtp, 2);
        handle(&mut visitor, ms(640), accepted(), &mut record);
        assert_eq!(record.scenario_mut(Scenario::Esmtp).sessions, 0, "the visit goes on");
        assert_eq!(visitor.next_due().unwrap().min(ms(670)), ms(150), "the link comes first");
        let news = handle(&mut visitor, ms(800), accepted(), &mut record);
        assert_eq!(news, [News::Acknowledged { id: "run-1".to_owned(), recipients: 1, time: ms(130) }]);
        assert_eq!(record.scenario_mut(Scenario::Esmtp).sessions, 1);
    }

    #[test]
    fn a_phase_that_comes_again_on_a_second_connection_is_noted_once() {
        let mut record = Record::default();
        let mut visitor = visitor(Scenario::Full, 1);
        for at in [150, 400] {
            handle(&mut visitor, ms(at), Event::Connected, &mut record);
        }
        assert_eq!(handle(&mut visitor, ms(400), Event::Reached(Milestone::Reconnect), &mut record), [News::Reconnect]);
        let entry = record.scenario_mut(Scenario::Full);
        assert_eq!((entry.connections, entry.phase(Phase::Connect).histogram().len()), (2, 1));
    }

    #[test]
    fn a_refused_message_is_an_error_and_no_session_that_ended_well() {
        let mut record = Record::default();
        let mut visitor = visitor(Scenario::Esmtp, 1);
        let news = handle(&mut visitor, ms(640), settled(Verdict::Refused(Reply::new(550, "no"))), &mut record);
        assert_eq!(news, [News::Failed]);
        let entry = record.scenario_mut(Scenario::Esmtp);
        assert_eq!((entry.sessions, entry.acknowledged), (0, 0));
        assert_eq!(entry.errors.get("message refused: 550"), Some(&1));
        assert!(handle(&mut visitor, ms(900), accepted(), &mut record).is_empty(), "a visit is judged once");
    }

    #[test]
    fn the_refusal_that_is_expected_ends_a_visit_well_and_acknowledges_nothing() {
        let mut record = Record::default();
        let mut visitor = visitor(Scenario::BadAuth, 1);
        let failure = Some(Failure::LoginRefused(Reply::new(535, "no")));
        let outcome = Outcome { messages: Vec::new(), failure };
        let event = Event::Reached(Milestone::Settled(outcome));
        assert!(handle(&mut visitor, ms(340), event, &mut record).is_empty());
        let entry = record.scenario_mut(Scenario::BadAuth);
        assert_eq!((entry.sessions, entry.acknowledged, entry.errors.len()), (1, 0, 0));
        assert_eq!(entry.phase(Phase::Ready).histogram().len(), 1);
    }

    #[test]
    fn a_server_without_tls_gets_no_login_and_fails_the_visit() {
        let (mut record, target) = (Record::default(), target());
        let mut visitor = visitor(Scenario::Esmtp, 1);
        let (mut said, mut news) = (Vec::new(), Vec::new());
        let mut at = ms(50);
        for _ in 0..100 {
            let now = Now { monotonic: at, unix: at };
            let mut out = Vec::new();
            news.extend(visitor.advance(now, &target, &mut record, &mut out));
            match visitor.demand() {
                Demand::Close => break,
                Demand::Connection if said.is_empty() => {
                    said.extend_from_slice(b"> ");
                    visitor.handle_bytes(now, b"220 s\r\n");
                }
                _ if out.is_empty() => {}
                _ => visitor.handle_bytes(now, if out.starts_with(b"EHLO") { b"250 s\r\n" } else { b"221 bye\r\n" }),
            }
            said.extend_from_slice(&out);
            let Some(due) = visitor.next_due() else { break };
            at = due.max(at);
        }
        assert_eq!(String::from_utf8(said).unwrap(), "> EHLO [127.0.0.1]\r\nQUIT\r\n");
        assert_eq!(news, [News::Failed]);
        assert_eq!(record.scenario_mut(Scenario::Esmtp).sessions, 0);
    }
}
