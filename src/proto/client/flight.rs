//! What may leave together: the client's half of the dialog.
//!
//! Says commands as far as what is known of the server allows; does not judge replies.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::capabilities::Capabilities;
use super::fallback::{Failure, How, Recovery};
use super::flights::Speaker;
use super::memory::Point;
use super::message::Verdict;
use super::state::{Expected, Hello, LoginStep, SecuredBy, State};
use super::transaction::{Fate, Phase, Transaction};
use super::{Client, Dialect, Ending, Profile, Security};
use crate::limits::{CLIENT_PIECE_BYTES, EAGER_MESSAGE_BYTES_MAX, OUTSTANDING_REPLIES_MAX};
use crate::proto::dot_stuffing::DotStuffing;

/// Whether a step could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was said or decided; there may be more.
    Taken,
    /// Nothing can be done before something arrives.
    Blocked,
}

impl Client {
    /// Says all that may be said now, up to one piece of output.
    pub(super) fn advance(&mut self) {
        while self.link.output.len() < CLIENT_PIECE_BYTES && self.step() == Step::Taken {}
    }

    fn step(&mut self) -> Step {
        match self.link.state {
            State::AtPoint(point) => self.begin_point(point),
            State::Greeted(point) => self.answer_extended_greeting(point),
            State::Secure => self.secure(),
            State::Login => self.log_in(),
            State::Transactions => self.step_transactions(),
            State::Draining(_) => self.drain(),
            State::AwaitGreeting(_)
            | State::AwaitHello(_)
            | State::AwaitStartTls
            | State::Handshake
            | State::AwaitLogin
            | State::Closing
            | State::Closed(_) => Step::Blocked,
        }
    }

    // ── Hello ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn begin_point(&mut self, point: Point) -> Step {
        self.link.point = point;
        let greeting_comes =
            point == Point::Connect || matches!(self.link.secured_by, Some(SecuredBy::Implicit | SecuredBy::Qtls));
        if greeting_comes {
            self.link.expected.push_back(Expected::Greeting(point));
        }
        if self.can_hello_early(point) {
            return self.say_early_qhlo(point);
        }
        if self.can_ehlo_early(point) {
            return self.say_early_ehlo(point);
        }
        if greeting_comes {
            self.link.state = State::AwaitGreeting(point);
            return Step::Taken;
        }
        self.say_ehlo(point);
        Step::Taken
    }

    /// Is an id remembered for this very point (draft §8), and would the early QHLO save anything?
    fn can_hello_early(&self, point: Point) -> bool {
        let Some(list) = self.memory.at(point) else { return false };
        if self.profile != Profile::Full || list.qhlo_id().is_none() || !list.pipelining {
            return false;
        }
        // An early QHLO must not be followed by QTLS (draft §8). Where STARTTLS cannot be pipelined either, waiting for
        // the greeting and saying QTLS takes as long and cannot be refused.
        let saves_nothing = !list.quick(|quick| quick.starttls) && list.quick(|quick| quick.qtls);
        !(point == Point::Connect && self.wants_tls() && (saves_nothing || !list.starttls))
    }

    fn say_early_qhlo(&mut self, point: Point) -> Step {
        let list = self.memory.at(point).cloned().unwrap_or_default();
        self.link.facts_mut(point).known = list;
        self.say_qhlo(point, Hello::EarlyQhlo);
        self.link.state = self.after_hello(point);
        Step::Taken
    }

    /// Did the server announce that it takes an EHLO before its greeting (Exim's PIPECONNECT)?
    fn can_ehlo_early(&self, point: Point) -> bool {
        let Some(list) = self.memory.at(point) else { return false };
        self.profile == Profile::Full && list.pipeconnect && list.pipelining
    }

    fn say_early_ehlo(&mut self, point: Point) -> Step {
        let list = self.memory.at(point).cloned().unwrap_or_default();
        // One more command may follow, the last before a wait: unlike with QHLO, the server cannot refuse it because
        // its list has changed.
        let continues = match point {
            Point::Connect => self.wants_tls() && list.starttls,
            Point::Secured => self.config.login.is_some() && list.auth_plain,
        };
        self.link.facts_mut(point).known = list;
        self.say_hello(point, Hello::EarlyEhlo);
        self.link.state = if continues { self.after_hello(point) } else { State::AwaitHello(point) };
        Step::Taken
    }

    fn answer_extended_greeting(&mut self, point: Point) -> Step {
        let list = self.link.facts(point).listed.clone().unwrap_or_default();
        let pipelining = list.pipelining;
        let secure_first = point == Point::Connect && self.wants_tls() && list.quick(|quick| quick.qtls);
        self.link.facts_mut(point).known = list;
        if secure_first {
            self.link.state = State::Secure;
            return Step::Taken;
        }
        self.say_qhlo(point, Hello::BasicQhlo);
        self.link.state = if pipelining { self.after_hello(point) } else { State::AwaitHello(point) };
        Step::Taken
    }

    /// What follows a hello that needs no wait, or whose reply has come.
    pub(super) fn after_hello(&self, point: Point) -> State {
        if point == Point::Connect && self.wants_tls() { State::Secure } else { State::Login }
    }

    /// QHLO; with the id, unless the greeting has just listed the extensions (draft §5, §8).
    fn say_qhlo(&mut self, point: Point, hello: Hello) {
        self.say_hello(point, hello);
    }

    fn say_ehlo(&mut self, point: Point) {
        self.link.facts_mut(point).known = Capabilities::default();
        self.say_hello(point, Hello::Ehlo);
        self.link.state = State::AwaitHello(point);
    }

    fn say_hello(&mut self, point: Point, hello: Hello) {
        let verb = match (hello, self.config.dialect) {
            (Hello::EarlyQhlo | Hello::BasicQhlo | Hello::CorrectedQhlo, _) => "QHLO",
            (Hello::EarlyEhlo | Hello::Ehlo, Dialect::Smtp) => "EHLO",
            (Hello::EarlyEhlo | Hello::Ehlo, Dialect::Lmtp) => "LHLO",
            (Hello::Helo, _) => "HELO",
        };
        let mut line = format!("{verb} {}", self.config.hello_name.0);
        let states_id = matches!(hello, Hello::EarlyQhlo | Hello::CorrectedQhlo);
        if let (true, Some(id)) = (states_id, self.link.facts(point).known.qhlo_id()) {
            line.push(' ');
            line.push_str(id);
        }
        self.say(&line);
        self.link.expected.push_back(Expected::Hello(point, hello));
        let facts = self.link.facts_mut(point);
        facts.hello = Some(hello);
        facts.accepted = false;
    }

    // ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn secure(&mut self) -> Step {
        let facts = &self.link.connect;
        let list = &facts.known;
        // After EHLO the dialog is plain ESMTP, whatever the greeting said (draft §10).
        let quick = self.profile != Profile::Esmtp && facts.hello.is_none_or(Hello::is_qhlo);
        if quick && facts.hello != Some(Hello::EarlyQhlo) && list.quick(|quick| quick.qtls) {
            return self.say_qtls();
        }
        if !list.starttls {
            return self.do_without_tls();
        }
        let pipelined = quick && list.pipelining && list.quick(|quick| quick.starttls);
        self.say("STARTTLS");
        self.link.expected.push_back(Expected::StartTls);
        if pipelined {
            self.start_tls(SecuredBy::PipelinedStartTls);
        } else {
            self.link.state = State::AwaitStartTls;
        }
        Step::Taken
    }

    fn say_qtls(&mut self) -> Step {
        self.say("QTLS");
        // The replies to what was pipelined before QTLS still come in plain text; there is none to QTLS itself.
        self.link.plain_replies_left = self.link.expected.len();
        if self.link.plain_replies_left == 0 {
            self.link.incoming = super::Layer::Tls;
        }
        self.start_tls(SecuredBy::Qtls);
        Step::Taken
    }

    pub(super) fn do_without_tls(&mut self) -> Step {
        self.link.state = match self.config.security {
            Security::IfOffered => State::Login,
            _ => State::Draining(Recovery::Fail(Failure::TlsNotOffered)),
        };
        Step::Taken
    }

    /// May what follows the handshake be sent along with it? Only to a server that announced it at this point, since
    /// early data can be replayed, and only behind an early QHLO.
    pub fn may_send_early_data(&self) -> bool {
        let announced = |list: &Capabilities| list.quick(|quick| quick.early_data);
        self.can_hello_early(Point::Secured) && self.memory.at(Point::Secured).is_some_and(announced)
    }

    // ── Login ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn log_in(&mut self) -> Step {
        if self.config.login.is_none() || self.link.authenticated {
            return self.begin_transactions();
        }
        let point = self.link.point;
        let facts = self.link.facts(point);
        let list = &facts.known;
        let offered = point == Point::Secured && (list.auth_plain || list.auth_login);
        if !offered {
            self.link.state = match facts.accepted {
                true => State::Draining(Recovery::Fail(Failure::LoginNotOffered)),
                false => State::AwaitHello(point),
            };
            return Step::Taken;
        }
        let may_go_on = list.auth_plain
            && list.pipelining
            && list.quick(|quick| quick.auth)
            && facts.hello.is_some_and(Hello::is_qhlo);
        if list.auth_plain {
            self.say_secret("AUTH PLAIN ", &self.plain_response(), LoginStep::Plain);
        } else {
            self.say("AUTH LOGIN");
            self.link.expected.push_back(Expected::Login(LoginStep::LoginStart));
        }
        self.link.state = if may_go_on { State::Transactions } else { State::AwaitLogin };
        Step::Taken
    }

    /// The message of SASL PLAIN (RFC 4616 §2) in base64.
    pub(super) fn plain_response(&self) -> Zeroizing<String> {
        let mut message = Zeroizing::new(vec![0]);
        if let Some(login) = &self.config.login {
            message.extend_from_slice(login.user.as_bytes());
            message.push(0);
            message.extend_from_slice(login.password.expose());
        }
        Zeroizing::new(BASE64.encode(&message))
    }

    pub(super) fn say_secret(&mut self, start: &str, secret: &Zeroizing<String>, step: LoginStep) {
        // The one place where a secret becomes output. Nothing before it may go wrong silently.
        assert_eq!(self.link.point, Point::Secured, "secrets go into TLS only");
        self.transcript.push(Speaker::Client, self.flights.next_packet(), || format!("{start}(hidden)"));
        // A growing buffer leaves its old copy behind, so it grows before the secret is in it.
        self.link.output.reserve(start.len() + secret.len() + 2);
        self.link.output.extend_from_slice(start.as_bytes());
        self.link.output.extend_from_slice(secret.as_bytes());
        self.link.output.extend_from_slice(b"\r\n");
        self.link.output_has_secret = true;
        self.link.expected.push_back(Expected::Login(step));
    }

    fn begin_transactions(&mut self) -> Step {
        let point = self.link.point;
        let facts = self.link.facts(point);
        let must_wait = !facts.accepted && !facts.hello.is_some_and(Hello::is_qhlo);
        self.link.state = if must_wait { State::AwaitHello(point) } else { State::Transactions };
        Step::Taken
    }

    // ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn step_transactions(&mut self) -> Step {
        if self.link.transactions.back().is_none_or(Transaction::is_sent) {
            return self.begin_transaction();
        }
        self.step_transaction()
    }

    /// Has this connection come so far that the server judged a message? Stays true when the connection ends after that.
    pub fn was_ready(&self) -> bool {
        self.link.messages_begun > 0 && self.is_confirmed()
    }

    /// Has the server agreed to all that comes before the first MAIL?
    pub(super) fn is_confirmed(&self) -> bool {
        self.link.facts(self.link.point).accepted && (self.config.login.is_none() || self.link.authenticated)
    }

    /// What the server offers where the client stands, as far as it is known.
    pub fn offered(&self) -> &Capabilities {
        &self.link.facts(self.link.point).known
    }

    /// May a command follow others that are not answered yet?
    fn may_pipeline(&self) -> bool {
        let expected = self.link.expected.len();
        expected == 0 || (self.offered().pipelining && expected < OUTSTANDING_REPLIES_MAX)
    }

    fn begin_transaction(&mut self) -> Step {
        // One message ahead keeps the connection busy; more would only add to what a lost connection leaves uncertain.
        let open = self.link.transactions.len();
        if open > 1 || (open == 1 && !(self.is_confirmed() && self.may_pipeline())) {
            return Step::Blocked;
        }
        while self.jobs.get(self.first_unsettled).is_some_and(super::Job::is_settled) {
            self.first_unsettled += 1;
        }
        let next = (self.first_unsettled..self.jobs.len()).find(|&job| self.jobs[job].waiting().next().is_some());
        let Some(job) = next else { return self.rest() };
        if self.bears_token(job) && self.link.transactions.iter().any(|open| open.job == job) {
            // Were the answers to two parts lost, nobody could say any more which recipients were sent together.
            return Step::Blocked;
        }
        if self.offered().limits.mail_max.is_some_and(|max| self.link.messages_begun >= max) {
            return self.begin_again_elsewhere();
        }
        if let Some(failure) = self.objection(job) {
            return self.refuse_locally(job, failure);
        }
        let recipients = self.batch(job);
        if !self.may_be_sent(job, &recipients) {
            return self.leave_uncertain(job);
        }
        self.open_transaction(job, recipients);
        Step::Taken
    }

    /// Nothing is left to send.
    fn rest(&mut self) -> Step {
        if !self.link.transactions.is_empty() || !self.link.expected.is_empty() {
            return Step::Blocked;
        }
        match (self.config.ending, self.jobs.is_empty()) {
            (Ending::Quit, _) => self.finish(None),
            (Ending::Stay, true) => return Step::Blocked,
            (Ending::Stay, false) => self.report(None),
        }
        Step::Taken
    }

    fn begin_again_elsewhere(&mut self) -> Step {
        if self.link.transactions.is_empty() && self.link.expected.is_empty() {
            self.link.state = State::Draining(Recovery::Reconnect(How::Again));
            return Step::Taken;
        }
        Step::Blocked
    }

    /// Why this server cannot take this message, by its list.
    fn objection(&self, job: usize) -> Option<Failure> {
        let message = &self.jobs[job].message;
        let offered = self.offered();
        if message.requires_tls && !(offered.require_tls && self.link.point == Point::Secured) {
            return Some(Failure::RequireTlsNotOffered);
        }
        if let Some(failure) = message.objection(offered) {
            return Some(failure);
        }
        let limit = offered.limits.rcpt_max.filter(|&max| message.recipients.len() > max as usize);
        limit.filter(|_| message.all_or_nothing).map(|limit| Failure::TooManyRecipients { limit })
    }

    fn refuse_locally(&mut self, job: usize, failure: Failure) -> Step {
        if !self.is_confirmed() {
            // The list is only remembered so far and may have changed.
            return Step::Blocked;
        }
        self.jobs[job].settle_waiting(&Verdict::Unsent(failure));
        Step::Taken
    }

    /// As many waiting recipients as the server takes in one transaction (RFC 9422 §4.2, §4.3).
    fn batch(&self, job: usize) -> Vec<usize> {
        let limits = self.offered().limits;
        let job = &self.jobs[job];
        let count_max = limits.rcpt_max.map_or(usize::MAX, |max| max as usize);
        let Some(domains_max) = limits.rcpt_domain_max else {
            return job.waiting().take(count_max).collect();
        };
        let mut domains = BTreeSet::new();
        let fits = |&recipient: &usize| {
            let domain = job.message.recipients[recipient].address.domain();
            domains.contains(&domain) || (domains.len() < domains_max as usize && domains.insert(domain))
        };
        job.waiting().filter(fits).take(count_max).collect()
    }

    fn open_transaction(&mut self, job: usize, recipients: Vec<usize>) {
        // A message after one whose end is not known to be accepted begins with RSET: were it refused, the server could
        // take the next recipients and the next message for the old sender (RFC 3030 §2).
        if self.link.needs_reset || !self.link.transactions.is_empty() {
            self.say("RSET");
            self.link.expected.push_back(Expected::Reset);
            self.link.needs_reset = false;
        }
        for &recipient in &recipients {
            self.jobs[job].fates[recipient] = Fate::Open;
        }
        self.link.messages_begun += 1;
        self.link.transactions.push_back(Transaction::new(self.next_number, job, recipients));
        self.next_number += 1;
    }

    fn step_transaction(&mut self) -> Step {
        let Some(transaction) = self.link.transactions.back() else { return Step::Blocked };
        match transaction.phase {
            Phase::Body { .. } => self.say_body(),
            Phase::AwaitData | Phase::Sent => Step::Blocked,
            _ if !self.may_pipeline() => Step::Blocked,
            Phase::Mail => self.say_mail(),
            Phase::Recipient(position) => self.say_recipient(position),
            Phase::Content => self.say_content(),
        }
    }

    fn say_mail(&mut self) -> Step {
        let Some(transaction) = self.link.transactions.back() else { return Step::Blocked };
        let line = self.jobs[transaction.job].message.command(self.offered());
        self.flights.note_mail();
        self.say_for_transaction(&line, Phase::Recipient(0), Expected::Mail)
    }

    fn say_recipient(&mut self, position: usize) -> Step {
        let Some(transaction) = self.link.transactions.back() else { return Step::Blocked };
        let recipient = transaction.recipients[position];
        let line = self.jobs[transaction.job].message.recipients[recipient].command(self.offered());
        let last = position + 1 == transaction.recipients.len();
        let next = if last { Phase::Content } else { Phase::Recipient(position + 1) };
        self.say_for_transaction(&line, next, |number| Expected::Recipient(number, recipient))
    }

    fn say_content(&mut self) -> Step {
        let Some(transaction) = self.link.transactions.back() else { return Step::Blocked };
        let message = &self.jobs[transaction.job].message;
        let all_or_none = message.all_or_nothing || self.is_in_doubt(transaction);
        let eager = self.offered().pipelining && !all_or_none && message.size() <= EAGER_MESSAGE_BYTES_MAX;
        if transaction.owed > 0 && !eager {
            return Step::Blocked;
        }
        if transaction.owed == 0 && !transaction.is_worth_its_content(all_or_none) {
            return self.leave_content_out();
        }
        if !self.offered().chunking {
            return self.say_for_transaction("DATA", Phase::AwaitData, Expected::Data);
        }
        let line = format!("BDAT {} LAST", message.size());
        self.say_for_transaction(&line, Phase::Body { offset: 0, dots: None }, Expected::End)
    }

    /// All recipients were refused, or one of those who were to have the message together.
    fn leave_content_out(&mut self) -> Step {
        let Some(transaction) = self.link.transactions.back_mut() else { return Step::Blocked };
        transaction.phase = Phase::Sent;
        let (job, accepted) = (transaction.job, std::mem::take(&mut transaction.accepted));
        self.settle_open(job, &accepted, &Verdict::Unsent(Failure::AllOrNothing));
        self.close_transactions();
        Step::Taken
    }

    fn say_for_transaction(&mut self, line: &str, next: Phase, expected: impl Fn(u64) -> Expected) -> Step {
        self.say(line);
        if let Some(transaction) = self.link.transactions.back_mut() {
            transaction.phase = next;
            transaction.owed += 1;
            self.link.expected.push_back(expected(transaction.number));
        }
        Step::Taken
    }

    fn say_body(&mut self) -> Step {
        let Some(transaction) = self.link.transactions.back_mut() else { return Step::Blocked };
        let Phase::Body { offset, dots } = &mut transaction.phase else { return Step::Blocked };
        let content = self.jobs[transaction.job].message.content.as_bytes();
        let output = &mut self.link.output;
        let room = CLIENT_PIECE_BYTES.saturating_sub(output.len()).max(1);
        let part = &content[*offset..content.len().min(*offset + room)];
        match dots {
            Some(dots) => dots.write(part, output),
            None => output.extend_from_slice(part),
        }
        *offset += part.len();
        if *offset < content.len() {
            return Step::Taken;
        }
        if let Some(dots) = dots.take() {
            dots.finish(output);
            transaction.owed += 1;
            self.link.expected.push_back(Expected::End(transaction.number));
        }
        transaction.phase = Phase::Sent;
        let bytes = content.len();
        self.transcript.push(Speaker::Client, self.flights.next_packet(), || format!("(message, {bytes} bytes)"));
        Step::Taken
    }

    /// The server is ready for the message after DATA.
    pub(super) fn begin_dotted_body(&mut self, number: u64) {
        let Some(transaction) = self.link.transactions.iter_mut().find(|t| t.number == number) else { return };
        if transaction.accepted.is_empty() {
            // It should not have been: nobody is there to have it. End it at once; the server must refuse (RFC 2920 §3.1).
            transaction.phase = Phase::Sent;
            transaction.owed += 1;
            self.link.expected.push_back(Expected::End(number));
            return self.say(".");
        }
        transaction.phase = Phase::Body { offset: 0, dots: Some(DotStuffing::default()) };
    }

    // ── Recovery ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends the rest of a message whose length the server was told, waits for the replies owed, then recovers.
    fn drain(&mut self) -> Step {
        if self.link.transactions.back().is_some_and(|t| matches!(t.phase, Phase::Body { .. })) {
            return self.say_body();
        }
        if !self.link.expected.is_empty() {
            return Step::Blocked;
        }
        let State::Draining(recovery) = self.link.state.clone() else { return Step::Blocked };
        self.void_transactions();
        match recovery {
            Recovery::Qhlo(point) => self.correct_qhlo(point),
            Recovery::Ehlo(point) => self.say_ehlo(point),
            Recovery::Helo(point) => {
                self.say_hello(point, Hello::Helo);
                self.link.state = State::AwaitHello(point);
            }
            Recovery::Reconnect(how) => {
                self.link.state = State::Closed(Some(how));
                self.actions.push_back(super::Action::Reconnect(how));
            }
            Recovery::Fail(failure) => self.finish(Some(failure)),
        }
        Step::Taken
    }

    /// QHLO with the id from the list that the server has just given; then all as before.
    fn correct_qhlo(&mut self, point: Point) {
        let list = self.link.facts(point).listed.clone().unwrap_or_default();
        let pipelining = list.pipelining;
        self.link.facts_mut(point).known = list;
        self.link.point = point;
        self.say_qhlo(point, Hello::CorrectedQhlo);
        self.link.state = if pipelining { self.after_hello(point) } else { State::AwaitHello(point) };
    }

    pub(super) fn say(&mut self, line: &str) {
        self.transcript.push(Speaker::Client, self.flights.next_packet(), || line.to_owned());
        self.link.output.extend_from_slice(line.as_bytes());
        self.link.output.extend_from_slice(b"\r\n");
    }
}
