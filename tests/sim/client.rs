//! Clients: the real client core with real TLS, which remember the server from one connection to the next and try again as
//! `onetrip submit` does.

use std::sync::Arc;

use onetrip::limits::CLIENT_FLUSH_BYTES;
use onetrip::proto::client::Verdict;
use onetrip::proto::client::{Client, Config, HelloName, Login, Message, Outcome, Profile, Security, ServerMemory};
use onetrip::proto::message::MessageId;
use onetrip::proto::secret::Secret;
use onetrip::proto::server::Opening;
use onetrip::tls::Versions;
use onetrip::wire::client::{Connection, Milestone, Step, TlsSetup};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::chance::Chance;
use crate::letter::{Kind, Letter};
use crate::net::{End, Link, LinkName};
use crate::support::{HOSTNAME, PASSWORD, USER, client_tls};
use crate::world::{Event, World};

/// One client.
#[derive(Debug)]
pub struct Submitter {
    config: Config,
    tls: Arc<ClientConfig>,
    memory: ServerMemory,
    /// Its letters, by their number in the world.
    letters: Vec<usize>,
    end: Option<ClientEnd>,
    tries: u32,
}

/// The client's end of a connection.
#[derive(Debug)]
struct ClientEnd {
    link: LinkName,
    connection: Connection,
    /// What it was given: which letters, for which of their recipients.
    sending: Vec<(usize, Vec<usize>)>,
    /// How long the first flight waits for the connection; zero after it.
    wait_us: u64,
    is_settled: bool,
    /// It waits for the server's last words and tickets, and does not leave at once.
    lingers: bool,
}

impl Submitter {
    /// A client with habits of its own, and what it has to say.
    pub fn new(chance: &mut Chance, number: usize, large_bytes: usize, letters: &mut Vec<Letter>) -> Self {
        let name = HelloName::parse(&format!("client{number}.example")).expect("a name");
        let login = Login::new(USER, Secret::new(PASSWORD.as_bytes().to_vec())).expect("a login");
        let config = Config {
            security: if chance.one_in(3) { Security::Implicit } else { Security::Required },
            profile: chance.pick(&[Profile::Full, Profile::Full, Profile::Full, Profile::Basic, Profile::Esmtp]),
            login: Some(login),
            ..Config::new(name)
        };
        let versions = if chance.one_in(4) { Versions::Tls12 } else { Versions::Both };
        let mut mine = Vec::new();
        for at in 0..chance.count(1, 4) {
            let bytes = match chance.below(12) {
                0 => chance.count(1, large_bytes),
                1..=3 => chance.count(1, 8_000),
                _ => chance.count(1, 400),
            };
            let kind = Kind { has_token: !chance.one_in(3), is_doomed: chance.one_in(8), may_be_special: true, bytes };
            mine.push(letters.len());
            letters.push(Letter::new(chance, number, at, kind));
        }
        Self { config, tls: client_tls(versions), memory: ServerMemory::default(), letters: mine, end: None, tries: 0 }
    }

    /// How its connections begin.
    pub fn opening(&self) -> Opening {
        if self.config.security == Security::Implicit { Opening::ImplicitTls } else { Opening::Clear }
    }

    /// Is it connected?
    pub fn is_connected(&self) -> bool {
        self.end.is_some()
    }

    fn end_on(&mut self, link: LinkName) -> Option<&mut ClientEnd> {
        self.end.as_mut().filter(|end| end.link == link)
    }
}

impl World {
    /// A client connects with some of what it has still to say.
    pub fn begin_client(&mut self, number: usize) {
        let sending = self.choose_letters(number);
        let messages = sending.iter().map(|(letter, recipients)| self.message_for(*letter, recipients)).collect();
        let now = self.now();
        let submitter = &mut self.submitters[number];
        assert!(submitter.end.is_none(), "one connection at a time");
        submitter.tries += 1;
        assert!(submitter.tries < TRIES_MAX, "client {number} tries for ever");
        let client = Client::new(now, submitter.config.clone(), submitter.memory.clone(), messages);
        let server_name = ServerName::try_from(HOSTNAME).expect("a name");
        let connection = Connection::new(client, TlsSetup { config: Arc::clone(&submitter.tls), server_name });
        let lingers = self.chance.one_in(2);
        let (link, wait_us) = self.connect(number);
        let end = ClientEnd { link, connection, sending, wait_us, is_settled: false, lingers };
        self.submitters[number].end = Some(end);
        self.drive(number);
    }

    fn choose_letters(&mut self, number: usize) -> Vec<(usize, Vec<usize>)> {
        let letters = self.submitters[number].letters.clone();
        let mut open: Vec<_> = letters.into_iter().filter(|letter| !self.letters[*letter].is_settled()).collect();
        open.truncate(self.chance.count(1, open.len()));
        open.into_iter().map(|letter| (letter, self.choose_recipients(letter))).collect()
    }

    /// Those who have no answer yet; or all, as `submit` does, where the token makes that safe.
    fn choose_recipients(&mut self, letter: usize) -> Vec<usize> {
        let letter = &self.letters[letter];
        let as_submit_does = letter.message.once.is_some() && self.chance.one_in(2);
        if as_submit_does { (0..letter.fates.len()).collect() } else { letter.open() }
    }

    fn message_for(&self, letter: usize, recipients: &[usize]) -> Message {
        let letter = &self.letters[letter];
        if recipients.len() == letter.fates.len() { letter.message.clone() } else { letter.message.part(recipients) }
    }

    /// Returns the link, and how long the first flight has to wait.
    pub fn connect(&mut self, number: usize) -> (LinkName, u64) {
        let is_calm = self.is_calm();
        let mut link = Link::new(&mut self.chance, number, is_calm);
        let (open_us, wait_us) = link.open(self.now_us);
        self.last_link += 1;
        let name = self.last_link;
        self.links.insert(name, link);
        // A busy server takes it a little later.
        if !is_calm && self.chance.one_in(4) {
            let later_us = self.chance.pick(&[100_000, 2_000_000, 10_000_000]);
            let broken_us = open_us + self.chance.below(later_us);
            self.events.push(broken_us, Event::Breaks { link: name });
        }
        let taken_us = open_us + self.chance.below(3_000);
        self.events.push(taken_us, Event::Opened { link: name });
        (name, wait_us)
    }

    /// Lets a client do all it can.
    pub fn drive(&mut self, number: usize) {
        let Some(mut end) = self.submitters[number].end.take() else {
            return;
        };
        let now = self.now();
        loop {
            let mut out = Vec::new();
            let step = end.connection.poll_step(now, &mut out);
            assert!(out.len() <= CLIENT_OUT_BYTES_MAX, "the client gathers {} bytes", out.len());
            while let Some(Milestone::Secured { resumed, early_data }) = end.connection.poll_milestone() {
                self.seen.note_handshake(resumed, early_data);
            }
            self.send(end.link, End::Server, &out, end.wait_us);
            match step {
                Step::Send => {}
                Step::Receive => break,
                Step::Settled(outcome) => {
                    assert!(!end.is_settled, "an outcome comes once");
                    end.is_settled = true;
                    self.hear_outcome(&end, &outcome);
                    if !end.lingers {
                        return self.leave(number, end);
                    }
                }
                Step::Reconnect(_) => {
                    self.hang_up(end.link, End::Server);
                    (end.link, end.wait_us) = self.connect(number);
                    end.connection.handle_reconnected(now);
                }
                Step::Close => {
                    assert!(end.is_settled, "a client that closes has an outcome");
                    let again = end.connection.poll_step(now, &mut out);
                    assert!(again == Step::Receive && end.connection.poll_timeout().is_none(), "closed is closed");
                    return self.part(number, &end);
                }
            }
        }
        if let Some(due) = end.connection.poll_timeout() {
            self.events.push_timer(due, Event::ClientTimer { client: number, link: end.link });
        }
        self.submitters[number].end = Some(end);
    }

    /// It says goodbye and does not wait for the answer.
    fn leave(&mut self, number: usize, mut end: ClientEnd) {
        let (mut out, now) = (Vec::new(), self.now());
        while let Step::Send | Step::Settled(_) = end.connection.poll_step(now, &mut out) {}
        end.connection.close(&mut out);
        self.send(end.link, End::Server, &out, 0);
        self.part(number, &end);
    }

    fn part(&mut self, number: usize, end: &ClientEnd) {
        self.hang_up(end.link, End::Server);
        let submitter = &mut self.submitters[number];
        submitter.memory = end.connection.client().memory().clone();
        if submitter.letters.iter().any(|letter| !self.letters[*letter].is_settled()) {
            let pause_us = if self.chance.one_in(3) { 0 } else { self.chance.between(200_000, 20_000_000) };
            self.events.push(self.now_us + pause_us, Event::ClientBegins(number));
        }
    }

    // ── What it is told ─────────────────────────────────────────────────────────────────────────────────────────────

    fn hear_outcome(&mut self, end: &ClientEnd, outcome: &Outcome) {
        assert_eq!(outcome.messages.len(), end.sending.len(), "an outcome for each message");
        for ((letter, recipients), verdicts) in end.sending.iter().zip(&outcome.messages) {
            assert_eq!(recipients.len(), verdicts.len(), "a verdict for each recipient");
            for (recipient, verdict) in recipients.iter().zip(verdicts) {
                self.hear_verdict(*letter, *recipient, verdict);
            }
        }
    }

    fn hear_verdict(&mut self, letter: usize, recipient: usize, verdict: &Verdict) {
        let gives_up = self.chance.one_in(2);
        let letter = &mut self.letters[letter];
        let (name, has_token) = (&letter.name, letter.message.once.is_some());
        let fate = &mut letter.fates[recipient];
        match verdict {
            Verdict::Accepted(reply) => {
                self.seen.acknowledged += 1;
                let words = reply.lines().last().unwrap_or_default().split(' ').next_back().unwrap_or_default();
                let id = MessageId::from_text(words.as_bytes()).expect("the name of the message");
                fate.acknowledged.insert(id);
                fate.is_settled = true;
            }
            Verdict::Refused(reply) => {
                assert!(letter.is_doomed, "{name} was refused: {reply}");
                fate.is_settled = true;
            }
            // A batch that failed may be found whole after a crash, if nothing was written behind it.
            Verdict::Deferred(_) => fate.uncertain += u32::from(self.plan.disk_fails),
            Verdict::Unsent(failure) => assert!(failure.is_temporary(), "{name} was not sent: {failure}"),
            Verdict::Uncertain => {
                self.seen.uncertain += 1;
                fate.uncertain += 1;
                fate.is_settled |= !has_token && gives_up;
            }
        }
    }

    // ── What happens to it ──────────────────────────────────────────────────────────────────────────────────────────

    /// Bytes have come. Says whether anybody was there to take them.
    pub fn client_hears(&mut self, link: LinkName, bytes: &[u8]) -> bool {
        let (number, now) = (self.links[&link].client, self.now());
        if self.ramblers.contains_key(&number) {
            return self.rambler_hears(number, link, bytes);
        }
        let Some(end) = self.submitters[number].end_on(link) else {
            return false;
        };
        end.wait_us = 0;
        end.connection.handle_input(now, bytes);
        self.drive(number);
        true
    }

    /// The connection is gone.
    pub fn client_loses(&mut self, link: LinkName) {
        let (number, now) = (self.links[&link].client, self.now());
        if self.ramblers.contains_key(&number) {
            return self.end_rambler(number);
        }
        if let Some(end) = self.submitters[number].end_on(link) {
            end.wait_us = 0;
            end.connection.handle_closed(now);
            self.drive(number);
        }
    }

    /// A time has come that a client may have named.
    pub fn client_timer(&mut self, number: usize, link: LinkName) {
        let now = self.now();
        let Some(end) = self.submitters[number].end_on(link) else {
            return;
        };
        if end.connection.poll_timeout().is_some_and(|due| due <= now.monotonic) {
            end.connection.handle_timeout(now);
            self.drive(number);
        }
    }
}

/// More than any client needs to get through.
const TRIES_MAX: u32 = 300;

/// What a client gathers before it sends: what TLS makes of one piece more than the bound.
const CLIENT_OUT_BYTES_MAX: usize = 2 * CLIENT_FLUSH_BYTES;
