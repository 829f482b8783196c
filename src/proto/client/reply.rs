//! What each reply changes: the server's half of the dialog.
//!
//! Judges replies and moves the state; says nothing but the answers within an AUTH exchange.

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::capabilities::Capabilities;
use super::fallback::{Failure, HelloVerdict, How, Recovery, is_service_unavailable, judge_hello};
use super::flights::Speaker;
use super::memory::Point;
use super::message::Verdict;
use super::state::{Expected, Hello, LoginStep, SecuredBy, State};
use super::transaction::{Fate, Phase, Transaction};
use super::{Action, Client, Dialect, Layer, Profile, Security};
use crate::proto::reply_reader::Reply;
use crate::time::Now;

impl Client {
    pub(super) fn handle_reply(&mut self, now: Now, reply: &Reply) {
        self.write_down(reply);
        let Some(expected) = self.link.expected.pop_front() else {
            return self.handle_unasked(now, reply);
        };
        match expected {
            Expected::Greeting(point) => self.handle_greeting(now, point, reply),
            Expected::Hello(point, hello) => self.handle_hello_reply(now, point, hello, reply),
            Expected::StartTls => self.handle_start_tls_reply(now, reply),
            Expected::Login(step) => self.handle_login_reply(now, step, reply),
            Expected::Reset => self.handle_reset_reply(now, reply),
            Expected::Quit => self.close(),
            Expected::Mail(number)
            | Expected::Recipient(number, _)
            | Expected::Data(number)
            | Expected::End(number) => self.handle_transaction_reply(now, number, expected, reply),
        }
        self.count_plain_reply();
    }

    fn write_down(&mut self, reply: &Reply) {
        let packet = self.flights.packet();
        let lines = reply.lines().count();
        for (index, line) in reply.lines().enumerate() {
            let separator = if index + 1 == lines { ' ' } else { '-' };
            self.transcript.push(Speaker::Server, packet, || format!("{}{separator}{line}", reply.code()));
        }
    }

    /// After a QTLS that was pipelined, TLS begins behind the last plain reply.
    fn count_plain_reply(&mut self) {
        if self.link.plain_replies_left > 0 {
            self.link.plain_replies_left -= 1;
            if self.link.plain_replies_left == 0 && !self.is_over() {
                self.link.incoming = Layer::Tls;
            }
        }
    }

    fn handle_unasked(&mut self, now: Now, reply: &Reply) {
        if is_service_unavailable(reply) && self.are_all_settled() {
            // A server that stops may say so right behind its answer to the last message. That harms no message any more.
            return self.finish_without_goodbye(None);
        }
        let failure = Failure::Unexpected(reply.clone());
        self.handle_unavailable_or(now, reply, failure);
    }

    fn handle_unavailable_or(&mut self, now: Now, reply: &Reply, failure: Failure) {
        if is_service_unavailable(reply) {
            self.finish_unavailable(reply);
        } else {
            self.handle_broken(now, failure);
        }
    }

    /// The server serves this connection no more. If the login has failed before, that is the reason, and what the user has
    /// to know.
    fn finish_unavailable(&mut self, reply: &Reply) {
        let failure = self.failed_login().unwrap_or_else(|| Failure::TryLater(reply.clone()));
        self.finish_without_goodbye(Some(failure));
    }

    fn is_draining(&self) -> bool {
        matches!(self.link.state, State::Draining(_))
    }

    // ── Greeting and hello ──────────────────────────────────────────────────────────────────────────────────────────

    fn handle_greeting(&mut self, now: Now, point: Point, reply: &Reply) {
        if !reply.is_positive() {
            return self.handle_refused_greeting(now, reply);
        }
        let list = Capabilities::from_reply(reply);
        if list.quickstart.is_none() {
            return self.handle_plain_greeting(now, point);
        }
        self.memory.learn(point, &list);
        self.link.facts_mut(point).listed = Some(list);
        if self.link.state == State::AwaitGreeting(point) {
            let quick = self.profile != Profile::Esmtp;
            self.link.state = if quick { State::Greeted(point) } else { State::Draining(Recovery::Ehlo(point)) };
        }
    }

    fn handle_refused_greeting(&mut self, now: Now, reply: &Reply) {
        if is_service_unavailable(reply) || reply.is_transient() {
            return self.finish(Some(Failure::TryLater(reply.clone())));
        }
        if self.is_hurried() {
            // Some servers refuse whoever speaks before the greeting.
            return self.reconnect(now, How::PlainEsmtp);
        }
        self.finish(Some(Failure::Refused(reply.clone())));
    }

    fn handle_plain_greeting(&mut self, now: Now, point: Point) {
        if self.memory.at(point).is_some_and(|list| list.quickstart.is_some()) {
            self.memory.forget(point);
        }
        let hurried = self.link.secured_by.is_some_and(SecuredBy::was_hurried);
        if self.link.state == State::AwaitGreeting(point) {
            self.link.state = State::Draining(Recovery::Ehlo(point));
        } else if point == Point::Connect && hurried {
            // The TLS handshake is on its way to a server that will take it for commands (draft §10).
            self.reconnect(now, How::PlainEsmtp);
        }
    }

    fn handle_hello_reply(&mut self, now: Now, point: Point, hello: Hello, reply: &Reply) {
        match judge_hello(hello, reply) {
            HelloVerdict::Accepted(list) => self.handle_hello_accepted(point, hello, list),
            HelloVerdict::WrongId(list) => self.handle_wrong_id(now, point, list),
            HelloVerdict::Withdrawn => self.handle_withdrawn(now, point),
            HelloVerdict::NoEhlo if self.config.dialect == Dialect::Lmtp => {
                self.link.state = State::Draining(Recovery::Fail(Failure::Refused(reply.clone())));
            }
            HelloVerdict::NoEhlo => self.link.state = State::Draining(Recovery::Helo(point)),
            HelloVerdict::TryLater => self.finish(Some(Failure::TryLater(reply.clone()))),
            HelloVerdict::Refused => {
                self.link.state = State::Draining(Recovery::Fail(Failure::Refused(reply.clone())));
            }
        }
    }

    fn handle_hello_accepted(&mut self, point: Point, hello: Hello, list: Option<Capabilities>) {
        if let Some(list) = &list {
            self.memory.learn(point, list);
        }
        let facts = self.link.facts_mut(point);
        facts.accepted = true;
        match (hello, list) {
            (_, Some(list)) => facts.known = list,
            (Hello::Helo, None) => facts.known = Capabilities::default(),
            // The server took an old id although its list has changed: the newer list counts from here on.
            (_, None) => facts.known = facts.listed.clone().unwrap_or_else(|| std::mem::take(&mut facts.known)),
        }
        if self.link.state == State::AwaitHello(point) {
            self.link.state = self.after_hello(point);
        }
    }

    fn handle_wrong_id(&mut self, now: Now, point: Point, list: Option<Capabilities>) {
        if let Some(list) = list {
            self.memory.learn(point, &list);
            self.link.facts_mut(point).listed = Some(list);
        }
        if self.link.facts(point).listed.is_none() {
            // There is no list to take the right id from.
            return self.handle_withdrawn(now, point);
        }
        self.remark("the id is out of date: taking the new one");
        self.link.state = State::Draining(Recovery::Qhlo(point));
    }

    /// The server does QUICKSTART no more (draft §10).
    fn handle_withdrawn(&mut self, now: Now, point: Point) {
        self.memory.forget(point);
        let hurried = self.link.secured_by.is_some_and(SecuredBy::was_hurried);
        match (hurried, point) {
            (true, Point::Connect) => self.reconnect(now, How::PlainEsmtp),
            // Within TLS the server still answers what was pipelined; it may even have taken the message.
            (true, Point::Secured) => {
                self.give_up_quickstart(now);
                self.link.state = State::Draining(Recovery::Reconnect(How::PlainEsmtp));
            }
            (false, _) => self.link.state = State::Draining(Recovery::Ehlo(point)),
        }
    }

    // ── TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn handle_start_tls_reply(&mut self, now: Now, reply: &Reply) {
        match (self.link.secured_by, reply.code()) {
            (None, 220) => {
                self.link.incoming = Layer::Tls;
                self.start_tls(SecuredBy::StartTls);
            }
            (None, _) => self.handle_start_tls_refused(reply),
            (Some(_), 220) => self.handle_pipelined_tls_accepted(now, reply),
            (Some(_), _) => self.handle_pipelined_tls_refused(now, reply),
        }
    }

    fn handle_start_tls_refused(&mut self, reply: &Reply) {
        if self.is_draining() {
            return;
        }
        self.link.state = match self.config.security {
            _ if is_service_unavailable(reply) => State::Draining(Recovery::Fail(Failure::TryLater(reply.clone()))),
            Security::IfOffered => State::Login,
            _ if reply.is_transient() => State::Draining(Recovery::Fail(Failure::TlsUnavailable(reply.clone()))),
            _ => State::Draining(Recovery::Fail(Failure::TlsNotOffered)),
        };
    }

    fn handle_pipelined_tls_accepted(&mut self, now: Now, reply: &Reply) {
        self.link.incoming = Layer::Tls;
        if !self.is_draining() {
            return;
        }
        // QHLO was refused, STARTTLS was not: unusual, but the handshake is under way all the same.
        if self.link.early.is_some() {
            return self.reconnect_broken(now, How::PlainEsmtp, Failure::Unexpected(reply.clone()));
        }
        self.link.state = State::Handshake;
    }

    /// The server threw our handshake away, so do we, and with it all that was said inside (draft §9).
    fn handle_pipelined_tls_refused(&mut self, now: Now, reply: &Reply) {
        self.link.expected.clear();
        self.void_transactions();
        self.link.early = None;
        self.link.secured_by = None;
        self.link.point = Point::Connect;
        self.link.secured = super::PointFacts::default();
        zeroize::Zeroize::zeroize(&mut self.link.output);
        self.actions.retain(|action| *action != Action::StartTls);
        self.actions.push_back(Action::AbandonTls);
        if self.is_draining() {
            return;
        }
        if is_service_unavailable(reply) {
            return self.finish(Some(Failure::TryLater(reply.clone())));
        }
        if reply.is_transient() {
            return self.handle_start_tls_refused(reply);
        }
        self.reconnect(now, How::PlainEsmtp);
    }

    // ── Login ───────────────────────────────────────────────────────────────────────────────────────────────────────

    fn handle_login_reply(&mut self, now: Now, step: LoginStep, reply: &Reply) {
        match reply.code() {
            200..300 => {
                self.link.authenticated = true;
                if self.link.state == State::AwaitLogin {
                    self.link.state = State::Transactions;
                }
            }
            _ if self.is_draining() => {}
            300..400 if self.link.state == State::AwaitLogin => self.answer_prompt(step, reply),
            // The server did not see the credential in the command, and now takes MAIL for it.
            300..400 => self.reconnect(now, How::PlainEsmtp),
            _ if is_service_unavailable(reply) => self.finish(Some(Failure::TryLater(reply.clone()))),
            _ => self.fail_login(reply),
        }
    }

    fn fail_login(&mut self, reply: &Reply) {
        let failure = match reply.is_transient() {
            true => Failure::LoginDeferred(reply.clone()),
            false => Failure::LoginRefused(reply.clone()),
        };
        self.link.state = State::Draining(Recovery::Fail(failure));
    }

    fn answer_prompt(&mut self, step: LoginStep, reply: &Reply) {
        let Some(login) = self.config.login.clone() else { return };
        match step {
            LoginStep::Plain => self.say_secret("", &self.plain_response(), LoginStep::PlainAnswer),
            LoginStep::LoginStart => {
                let user = Zeroizing::new(BASE64.encode(login.user.as_bytes()));
                self.say_secret("", &user, LoginStep::LoginUser);
            }
            LoginStep::LoginUser => {
                let password = Zeroizing::new(BASE64.encode(login.password.expose()));
                self.say_secret("", &password, LoginStep::LoginPassword);
            }
            LoginStep::PlainAnswer | LoginStep::LoginPassword => self.fail_login(reply),
        }
    }

    // ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn handle_reset_reply(&mut self, now: Now, reply: &Reply) {
        if !reply.is_positive() {
            // A server that cannot forget a transaction must not be told of another one.
            let failure = Failure::Unexpected(reply.clone());
            self.handle_unavailable_or(now, reply, failure);
        }
    }

    fn handle_transaction_reply(&mut self, now: Now, number: u64, expected: Expected, reply: &Reply) {
        if !can_answer(expected, reply) {
            // The server is out of step with us: what it says here is about something else, and our answer is still owed.
            self.link.expected.push_front(expected);
            return self.handle_broken(now, Failure::Unexpected(reply.clone()));
        }
        let Some(transaction) = self.link.transactions.iter_mut().find(|t| t.number == number) else { return };
        transaction.owed -= 1;
        let job = transaction.job;
        match expected {
            // It is about the server, whatever it answers. After the end of a message it says what became of that too.
            Expected::Mail(_) | Expected::Recipient(..) | Expected::Data(_) if reply.code() == 421 => {}
            Expected::Mail(_) => self.handle_mail_reply(number, reply),
            Expected::Recipient(_, recipient) => self.handle_recipient_reply(number, job, recipient, reply),
            Expected::Data(_) => self.handle_data_reply(number, reply),
            _ => self.handle_end_reply(number, reply),
        }
        if reply.code() == 421 {
            return self.finish_unavailable(reply);
        }
        self.close_transactions();
    }

    fn transaction(&mut self, number: u64) -> Option<&mut Transaction> {
        self.link.transactions.iter_mut().find(|transaction| transaction.number == number)
    }

    fn handle_mail_reply(&mut self, number: u64, reply: &Reply) {
        let draining = self.is_draining();
        let Some(transaction) = self.transaction(number) else { return };
        transaction.mail_accepted = Some(reply.is_positive());
        if reply.is_positive() {
            return;
        }
        transaction.stop();
        if draining {
            return;
        }
        let (job, recipients) = (transaction.job, transaction.recipients.clone());
        self.settle_open(job, &recipients, &Verdict::refusal(reply));
    }

    fn handle_recipient_reply(&mut self, number: u64, job: usize, recipient: usize, reply: &Reply) {
        let draining = self.is_draining();
        let Some(transaction) = self.transaction(number) else { return };
        if transaction.mail_accepted == Some(false) {
            return;
        }
        if reply.is_positive() {
            return transaction.accepted.push(recipient);
        }
        transaction.any_refused = true;
        if !draining {
            self.settle_open(job, &[recipient], &Verdict::refusal(reply));
        }
    }

    fn handle_data_reply(&mut self, number: u64, reply: &Reply) {
        if reply.code() == 354 {
            return self.begin_dotted_body(number);
        }
        if let Some(transaction) = self.transaction(number) {
            transaction.phase = Phase::Sent;
        }
        self.settle_refused_message(number, reply);
    }

    fn handle_end_reply(&mut self, number: u64, reply: &Reply) {
        if self.config.dialect == Dialect::Lmtp {
            return self.handle_end_reply_of_one(number, reply);
        }
        if !reply.is_positive() {
            return self.settle_refused_message(number, reply);
        }
        let Some(transaction) = self.transaction(number) else { return };
        transaction.taken = true;
        let (job, accepted) = (transaction.job, transaction.accepted.clone());
        self.settle_open(job, &accepted, &Verdict::Accepted(reply.clone()));
    }

    /// LMTP: the server answers for each recipient that it accepted, in the order of their RCPTs (RFC 2033 §4.2).
    fn handle_end_reply_of_one(&mut self, number: u64, reply: &Reply) {
        let Some(transaction) = self.transaction(number) else { return };
        let Some(&recipient) = transaction.accepted.get(transaction.answered) else { return };
        transaction.answered += 1;
        // Whatever was answered, the transaction is over with the last of the replies.
        transaction.taken = true;
        let job = transaction.job;
        if transaction.answered < transaction.accepted.len() {
            transaction.owed += 1;
            self.link.expected.push_front(Expected::End(number));
        }
        let verdict = if reply.is_positive() { Verdict::Accepted(reply.clone()) } else { Verdict::refusal(reply) };
        self.settle_open(job, &[recipient], &verdict);
    }

    fn settle_refused_message(&mut self, number: u64, reply: &Reply) {
        if self.is_draining() {
            return;
        }
        let Some(transaction) = self.transaction(number) else { return };
        let (job, accepted) = (transaction.job, transaction.accepted.clone());
        self.settle_open(job, &accepted, &Verdict::refusal(reply));
    }

    pub(super) fn settle_open(&mut self, job: usize, recipients: &[usize], verdict: &Verdict) {
        let job = &mut self.jobs[job];
        for &recipient in recipients {
            if job.fates[recipient] == Fate::Open {
                job.settle(recipient, verdict);
            }
        }
    }

    /// Removes the transactions to which nothing more will happen.
    pub(super) fn close_transactions(&mut self) {
        while self.link.transactions.front().is_some_and(Transaction::is_over) {
            let Some(transaction) = self.link.transactions.pop_front() else { return };
            self.void(&transaction);
            if self.link.transactions.is_empty() && !transaction.taken {
                self.link.needs_reset = transaction.mail_accepted == Some(true);
            }
        }
    }
}

/// Is a reply of this class an answer to that part of a transaction (RFC 5321 §4.3.2)?
fn can_answer(expected: Expected, reply: &Reply) -> bool {
    match (expected, reply.code()) {
        (_, 400..600) => true,
        (Expected::Data(_), code) => code == 354,
        (_, code) => code / 100 == 2,
    }
}
