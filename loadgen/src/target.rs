//! The server under test, who its users are, and the clients that visit it.
//!
//! Makes clients; does not run them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use onetrip::proto::client::{
    Address, Config, Content, Ending, Failure, HelloName, Login, Message, Outcome, Recipient, ServerMemory, Verdict,
    Xtext,
};
use onetrip::proto::secret::Secret;
use onetrip::time::Now;
use onetrip::tls::Versions;
use onetrip::tls::client::Trust;
use rustls::pki_types::ServerName;

use crate::letter;
use crate::link::Profile;
use crate::plan::Plan;
use crate::random::Random;
use crate::scenario::{Scenario, with_wrong_id};
use crate::session::{Session, TlsSetup};
use crate::tls_sessions::TlsConfigs;
use crate::veil::{Hidden, veiled_memory};

/// A user of the server.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// The name.
    pub(crate) name: String,
    /// The password.
    pub(crate) password: Secret<Vec<u8>>,
}

/// The server under test.
#[derive(Debug)]
pub(crate) struct Target {
    /// Where it listens for STARTTLS and QUICKSTART.
    pub(crate) address: SocketAddr,
    /// Where it listens for implicit TLS; `None` leaves that scenario out.
    pub(crate) implicit_address: Option<SocketAddr>,
    /// The name that its certificate bears.
    pub(crate) server_name: ServerName<'static>,
    /// Whom to take for it.
    pub(crate) trust: Trust,
    /// Versions of TLS to offer.
    pub(crate) versions: Versions,
    /// Who submits; nobody for a server without AUTH.
    pub(crate) users: Vec<User>,
    /// The reverse-path of all messages.
    pub(crate) sender: Address,
    /// Domain of the recipients.
    pub(crate) domain: String,
    /// Mailboxes that recipients are drawn from.
    pub(crate) mailboxes: u64,
    /// Addresses that clients come from; at least one entry. `None` leaves the choice to the kernel.
    pub(crate) sources: Vec<Option<IpAddr>>,
    /// Longest wait for a reply.
    pub(crate) reply_timeout: Duration,
}

impl Target {
    /// So many addresses of this machine for a server on it: each simulated client then has an address that it shares with
    /// few others, so limits per address do not see one huge client. For another server the kernel's choice.
    pub(crate) fn sources_for(address: SocketAddr, count: u16) -> Vec<Option<IpAddr>> {
        let SocketAddr::V4(server) = address else { return vec![None] };
        if !server.ip().is_loopback() {
            return vec![None];
        }
        // 127.1.0.1, 127.1.0.2 … 127.1.1.1: never the last number 0 or 255.
        (0..count.max(1)).map(|number| source(number / 250, number % 250)).collect()
    }

    /// Where clients of this scenario connect to.
    pub(crate) fn address_for(&self, scenario: Scenario) -> Option<SocketAddr> {
        if scenario.is_implicit() { self.implicit_address } else { Some(self.address) }
    }

    fn setup(&self, tls: &TlsConfigs, resumes: bool) -> TlsSetup {
        let config = if resumes { &tls.resuming } else { &tls.fresh };
        TlsSetup { config: config.clone(), server_name: self.server_name.clone() }
    }

    /// A client that only asks what the server offers, logs in and leaves.
    pub(crate) fn scout(&self, now: Now, tls: &TlsConfigs) -> Session {
        let mut config = self.config();
        config.login = self.users.first().map(|user| login(user, Scenario::Full));
        Session::new(now, config, self.setup(tls, true), Hidden::NOTHING, ServerMemory::default(), Vec::new())
    }

    fn config(&self) -> Config {
        let mut config = Config::new(HelloName::parse(HELLO_NAME).expect("the name is a good one"));
        config.reply_timeout = self.reply_timeout;
        config
    }

    /// The client of a visit, with its first message.
    pub(crate) fn client(
        &self,
        now: Now,
        tls: &TlsConfigs,
        visit: &Visit,
        memory: &ServerMemory,
        first: Message,
    ) -> Session {
        let scenario = visit.scenario;
        let mut config = self.config();
        config.security = scenario.security();
        config.profile = scenario.profile();
        config.login = self.users.get(visit.user).map(|user| login(user, scenario));
        config.ending = if visit.messages > 1 { Ending::Stay } else { Ending::Quit };
        config.transcript = visit.transcript;
        let hidden = scenario.hidden();
        let memory = match (scenario.is_warm() && visit.is_warm, scenario) {
            (false, _) => ServerMemory::default(),
            (true, Scenario::Fallback) => with_wrong_id(memory),
            (true, _) => memory.clone(),
        };
        let setup = self.setup(tls, scenario.resumes() && visit.is_warm);
        Session::new(now, config, setup, hidden, veiled_memory(&memory, hidden), vec![first])
    }

    /// A message with its id.
    pub(crate) fn message(&self, id: &str, bytes: u64, recipients: u32, random: &mut Random) -> Message {
        let first = random.below(self.mailboxes);
        let mailboxes = (0..u64::from(recipients)).map(|step| (first + step) % self.mailboxes);
        let names: Vec<String> = mailboxes.map(|number| format!("user{number}@{}", self.domain)).collect();
        let letter = letter::write(id, self.sender.as_str(), &names, bytes, random);
        let recipients =
            names.iter().map(|name| Recipient::new(Address::parse(name).expect("the domain was checked"))).collect();
        let content = Content::new(letter).expect("letters keep to CRLF");
        let mut message = Message::new(self.sender.clone(), recipients, content);
        // Where the server offers to take a message once, one in early data is answered at once only if it has a name.
        message.once = Some(Xtext::once_token(id).expect("ids are short and plain"));
        message
    }
}

/// What clients call themselves: the address literal of RFC 5321 §4.1.3.
const HELLO_NAME: &str = "[127.0.0.1]";

fn source(high: u16, low: u16) -> Option<IpAddr> {
    let high = u8::try_from(high).unwrap_or(u8::MAX);
    let low = u8::try_from(low + 1).unwrap_or(u8::MAX);
    Some(IpAddr::V4(Ipv4Addr::new(127, 1, high, low)))
}

fn login(user: &User, scenario: Scenario) -> Login {
    let wrong = || Secret::new(b"not the password".to_vec());
    let password = if scenario.expects_refusal() { wrong() } else { user.password.clone() };
    Login::new(&user.name, password).expect("names and passwords were checked when they were read")
}

/// One client's visit.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// The way it goes.
    pub(crate) scenario: Scenario,
    /// Its link.
    pub(crate) profile: Profile,
    /// Index of its source address.
    pub(crate) source: usize,
    /// Index of its user.
    pub(crate) user: usize,
    /// It comes with what it remembers.
    pub(crate) is_warm: bool,
    /// Messages it sends.
    pub(crate) messages: u32,
    /// Whether its dialog is written down.
    pub(crate) transcript: bool,
}

impl Visit {
    /// A client drawn from the plan's mixes.
    pub(crate) fn draw(plan: &Plan, target: &Target, random: &mut Random) -> Self {
        Self {
            scenario: *plan.scenarios.draw(random),
            profile: plan.links.draw(random).clone(),
            source: random.below(target.sources.len() as u64) as usize,
            user: random.below(target.users.len().max(1) as u64) as usize,
            is_warm: random.unit() < plan.warm_share,
            messages: plan.messages,
            transcript: false,
        }
    }
}

/// What became of a visit's last message, or of the visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The server took the message for so many recipients.
    Acknowledged(usize),
    /// The login was refused, as this scenario expects.
    RefusedAsExpected,
    /// Something went wrong: a short kind for counting.
    Wrong(String),
}

impl Judgement {
    /// Judges an outcome of one message.
    pub(crate) fn of(outcome: &Outcome, scenario: Scenario) -> Self {
        if let Some(failure) = &outcome.failure {
            return match failure {
                // A server that has had enough of wrong passwords from here says "later" instead of "no".
                Failure::LoginRefused(_) | Failure::LoginDeferred(_) if scenario.expects_refusal() => {
                    Self::RefusedAsExpected
                }
                failure => Self::Wrong(kind(failure)),
            };
        }
        let verdicts = || outcome.messages.iter().flatten();
        match verdicts().find(|verdict| !verdict.is_accepted()) {
            Some(verdict) => Self::Wrong(kind_of_verdict(verdict)),
            None => Self::Acknowledged(verdicts().count()),
        }
    }
}

fn kind(failure: &Failure) -> String {
    match failure {
        Failure::TryLater(reply) => format!("try later: {}", reply.code()),
        Failure::Refused(reply) => format!("service refused: {}", reply.code()),
        Failure::TlsUnavailable(reply) => format!("TLS unavailable: {}", reply.code()),
        Failure::LoginRefused(reply) => format!("login refused: {}", reply.code()),
        Failure::LoginDeferred(reply) => format!("login put off: {}", reply.code()),
        Failure::Unexpected(reply) => format!("unexpected reply: {}", reply.code()),
        other => Short(other).to_string(),
    }
}

/// A failure without the server's words, which may be different each time.
struct Short<'a>(&'a Failure);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.to_string();
        f.write_str(words.split(": ").next().unwrap_or_default())
    }
}

fn kind_of_verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted(reply) => format!("accepted: {}", reply.code()),
        Verdict::Refused(reply) => format!("message refused: {}", reply.code()),
        Verdict::Deferred(reply) => format!("message put off: {}", reply.code()),
        Verdict::Unsent(failure) => format!("message not sent: {}", kind(failure)),
        Verdict::Uncertain => "connection ended before the final reply".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use onetrip::proto::client::{Failure, Outcome, Verdict};
    use onetrip::proto::reply_reader::Reply;

    use super::{Judgement, Target};
    use crate::scenario::Scenario;

    #[test]
    fn clients_of_a_local_server_come_from_many_addresses_and_those_of_another_from_one() {
        let local = Target::sources_for(([127, 0, 0, 1], 2587).into(), 600);
        let distinct: std::collections::BTreeSet<_> = local.iter().copied().collect();
        assert_eq!((local.len(), distinct.len()), (600, 600));
        assert_eq!(Target::sources_for(([192, 0, 2, 1], 587).into(), 600), [None]);
    }

    #[test]
    fn a_refused_login_is_right_only_where_it_is_expected() {
        let failure = Some(Failure::LoginRefused(Reply::new(535, "5.7.8 no")));
        let outcome = Outcome { messages: Vec::new(), failure };
        assert_eq!(Judgement::of(&outcome, Scenario::BadAuth), Judgement::RefusedAsExpected);
        assert_eq!(Judgement::of(&outcome, Scenario::Full), Judgement::Wrong("login refused: 535".to_owned()));
        let failure = Some(Failure::LoginDeferred(Reply::new(454, "4.7.0 later")));
        let outcome = Outcome { messages: Vec::new(), failure };
        assert_eq!(Judgement::of(&outcome, Scenario::BadAuth), Judgement::RefusedAsExpected);
        assert_eq!(Judgement::of(&outcome, Scenario::Full), Judgement::Wrong("login put off: 454".to_owned()));
    }

    #[test]
    fn a_message_counts_when_all_its_recipients_have_it() {
        let accepted = || Verdict::Accepted(Reply::new(250, "ok"));
        let refused = Verdict::Refused(Reply::new(550, "no"));
        let judged = |verdicts| Judgement::of(&Outcome { messages: vec![verdicts], failure: None }, Scenario::Esmtp);
        assert_eq!(judged(vec![accepted(), accepted()]), Judgement::Acknowledged(2));
        assert_eq!(judged(vec![accepted(), refused]), Judgement::Wrong("message refused: 550".to_owned()));
    }
}
