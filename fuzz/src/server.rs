//! A server's conversation as a list of operations: what the client says, and what the driver does in between.
//!
//! | operation | what it is |
//! |---|---|
//! | text | the client says it |
//! | `s`, `e`, `n` | TLS is done; it takes early data; the client's Finished has come |
//! | `a`, `d`, `u` | the credential is good; it is bad; nobody can tell |
//! | `k`, `f`, `b`, `x`, `p` | the message is kept; no room; busy; fault; another server's refusal |
//! | `D`, `c`, `t` | drain, cut, timeout |
//! | `r`, `w` | rest; a second passes |
//!
//! An operation that is not due is passed over, as the driver would never do it. Whatever has been asked for and not been
//! answered by the end is answered with yes.
//!
//! Promises: no panic; bounded memory, replies and commands; every reply is whole; nothing is verified in the clear and
//! nothing stored without a login, without recipients, with what another transaction said, or while it may be a copy; a 250
//! for a message only after it was kept; nothing crosses RSET or the beginning of TLS.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use onetrip::proto::channel::TlsFacts;
use onetrip::proto::credential::{Credential, Member, Senders, Verdict};
use onetrip::proto::message::Message;
use onetrip::proto::proof::{Committed, Encrypted};
use onetrip::proto::reply::Foreign;
use onetrip::proto::server::{Action, Opening, Peer, Server, StoreFailure};
use onetrip::time::Now;

use crate::input::{Piece, pieces};
use crate::support::Site;

/// See the [module](self). The first byte says how the connection begins, and whether bytes come line by line.
pub fn check(data: &[u8]) {
    let Some((first, conversation)) = data.split_first() else {
        return;
    };
    thread_local!(static SITE: OnceCell<Site> = const { OnceCell::new() });
    SITE.with(|site| {
        let site = site.get_or_init(Site::new);
        let mut play = Play::new(site, *first);
        for piece in pieces(conversation) {
            match piece {
                Piece::Text(text) => play.say(text),
                Piece::Operation(operation) => play.operate(operation),
            }
        }
        play.end();
        drop(play);
        assert_eq!(site.resources.message_bytes(), 0, "room was not given back");
    });
}

/// What was asked for and not answered yet.
enum Asked {
    Nothing,
    Verdict,
    Storing(Box<Message>),
}

struct Play<'a> {
    site: &'a Site,
    server: Server,
    now: Now,
    input: Vec<u8>,
    /// The server gets lines one by one, so that what crosses from one to the next is seen.
    by_lines: bool,
    asked: Asked,
    replies: Vec<u8>,
    /// All that the client has said since TLS began, or since the last RSET in it that was obeyed.
    said: Vec<u8>,
    secured: bool,
    authenticated: bool,
    may_be_copy: bool,
    kept: usize,
    closed: bool,
}

impl<'a> Play<'a> {
    fn new(site: &'a Site, first: u8) -> Self {
        let opening = if first & 1 == 0 { Opening::Clear } else { Opening::ImplicitTls };
        let peer = Peer { client: "198.51.100.7:40000".parse().unwrap(), server: "192.0.2.1".parse().unwrap() };
        let now = Now::simulated_ms(0);
        let server = Server::new(Arc::clone(&site.settings), Arc::clone(&site.resources), peer, opening, now);
        let mut play = Self {
            site,
            server,
            now,
            input: Vec::new(),
            by_lines: first & 2 != 0,
            asked: Asked::Nothing,
            replies: Vec::new(),
            said: Vec::new(),
            secured: false,
            authenticated: false,
            may_be_copy: false,
            kept: 0,
            closed: false,
        };
        play.server.greet(&mut play.replies);
        play
    }

    fn say(&mut self, text: &[u8]) {
        self.input.extend_from_slice(text);
        self.server.handle_progress(self.now);
        self.advance();
    }

    /// Hands over what is there as long as it is taken.
    fn advance(&mut self) {
        while !self.closed && !self.input.is_empty() && !self.server.is_waiting() {
            let before = self.replies.len();
            let line = self.input.iter().position(|byte| *byte == b'\n').map_or(self.input.len(), |at| at + 1);
            let offered = if self.by_lines { line } else { self.input.len() };
            let taken = self.server.handle_bytes(self.now, &self.input[..offered], &mut self.replies);
            self.said.extend(self.input.drain(..taken));
            assert!(taken > 0 || self.server.is_waiting(), "nothing is waited for, and nothing taken");
            // Each command has at most one reply, and the longest is the list in answer to a hello.
            assert!(self.replies.len() - before <= 2_048 * (taken + 1), "replies without end");
            self.poll();
            self.forget_what_is_over();
        }
        self.poll();
    }

    fn poll(&mut self) {
        match self.server.poll_action() {
            None => {}
            Some(Action::Close) => {
                assert!(self.server.outcome().is_some());
                self.closed = true;
            }
            Some(Action::Verify(credential)) => self.verify(&credential),
            Some(Action::Store(message)) => self.store(message),
            Some(Action::KeepPiece(_)) => panic!("nobody said that pieces can be kept"),
        }
        if self.server.is_securing() {
            // Whatever came along belongs to TLS.
            self.input.clear();
            self.said.clear();
        }
        assert!(self.server.tally().messages as usize == self.kept, "messages are miscounted");
        assert!(self.site.resources.message_bytes() <= 4 * 100_000 + 65_536, "memory grows");
    }

    fn verify(&mut self, _: &Credential) {
        assert!(self.secured, "a credential was taken in the clear");
        assert!(!self.authenticated, "a second login");
        self.asked = Asked::Verdict;
    }

    fn store(&mut self, message: Box<Message>) {
        assert!(self.secured && self.authenticated, "mail was taken from a stranger");
        let envelope = &message.envelope;
        assert!((1..=3).contains(&envelope.recipient_count()), "too few or too many recipients");
        assert!(message.content.len() as u64 <= 100_000, "a message over the bound");
        assert!(message.trace.starts_with(b"Received: from ") && message.trace.ends_with(b"\r\n"));
        assert!(!self.may_be_copy || envelope.once().is_some(), "a message that may be a copy");
        assert_eq!(envelope.user(), "ann");
        // What the envelope says was said since TLS began and since the last RSET.
        assert!(self.was_said(envelope.sender()), "a sender from elsewhere");
        assert!(envelope.recipients().all(|recipient| self.was_said(recipient.address)), "a recipient from elsewhere");
        self.asked = Asked::Storing(message);
    }

    fn was_said(&self, word: &str) -> bool {
        let word = word.as_bytes();
        word.is_empty() || self.said.windows(word.len()).any(|window| window == word)
    }

    /// Nothing of what was said before may count when no transaction is open.
    fn forget_what_is_over(&mut self) {
        if !self.server.is_in_transaction() && matches!(self.asked, Asked::Nothing) && !self.server.is_awaiting_finish()
        {
            // The beginning of a line that has not ended belongs to what comes.
            let line = self.said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            self.said.drain(..line);
        }
    }

    fn operate(&mut self, operation: u8) {
        if self.closed {
            return;
        }
        match operation {
            b's' | b'e' => self.secure(operation == b'e'),
            b'n' if self.may_be_copy => {
                self.may_be_copy = false;
                self.server.handle_finished();
            }
            b'a' => self
                .answer_verdict(Verdict::Accepted(Arc::new(Member { name: "ann".to_owned(), senders: Senders::Any }))),
            b'd' => self.answer_verdict(Verdict::Denied { delay: Duration::ZERO }),
            b'u' => self.answer_verdict(Verdict::Unavailable),
            b'k' => self.answer_store(Ok(Committed::attested_by_storage())),
            b'f' => self.answer_store(Err(StoreFailure::Full)),
            b'b' => self.answer_store(Err(StoreFailure::Busy)),
            b'x' => self.answer_store(Err(StoreFailure::Fault)),
            b'p' => {
                self.answer_store(Err(StoreFailure::Foreign(Foreign::new(550, "5.7.1", "No\r\n250 2.0.0 Queued as x"))))
            }
            b'D' => self.server.handle_drain(&mut self.replies),
            b'c' => self.server.handle_cut(&mut self.replies),
            b't' => self.time_out(),
            b'r' if matches!(self.asked, Asked::Nothing) => self.server.rest(),
            b'w' => {
                self.now = Now {
                    monotonic: self.now.monotonic + Duration::from_secs(1),
                    unix: self.now.unix + Duration::from_secs(1),
                }
            }
            _ => {}
        }
        self.poll();
        self.advance();
    }

    fn secure(&mut self, early: bool) {
        if !self.server.is_securing() {
            return;
        }
        self.server.greet(&mut self.replies);
        let facts = TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: early };
        match early {
            true => self.server.handle_secured_early(facts, Encrypted::attested_by_handshake()),
            false => self.server.handle_secured(facts, Encrypted::attested_by_handshake()),
        }
        assert!(!self.server.is_in_transaction() && self.server.client_name().is_empty(), "state crossed into TLS");
        assert!(self.server.member().is_none());
        (self.secured, self.may_be_copy) = (true, early);
        self.said.clear();
    }

    fn answer_verdict(&mut self, verdict: Verdict) {
        if !matches!(self.asked, Asked::Verdict) {
            return;
        }
        self.asked = Asked::Nothing;
        self.authenticated = matches!(verdict, Verdict::Accepted(_));
        self.server.handle_verdict(verdict, &mut self.replies);
        assert_eq!(self.server.member().is_some(), self.authenticated);
    }

    fn answer_store(&mut self, result: Result<Committed, StoreFailure>) {
        let Asked::Storing(message) = std::mem::replace(&mut self.asked, Asked::Nothing) else {
            return;
        };
        self.kept += usize::from(result.is_ok());
        self.server.handle_stored(result, message, &mut self.replies);
        self.said.clear();
    }

    fn time_out(&mut self) {
        if self.server.poll_timeout().is_some() {
            self.server.handle_timeout(&mut self.replies);
        }
    }

    fn end(&mut self) {
        for operation in *b"enak" {
            self.operate(operation);
        }
        self.check_replies();
    }

    fn check_replies(&self) {
        let text = std::str::from_utf8(&self.replies).expect("replies are text");
        assert!(text.is_empty() || text.ends_with("\r\n"), "an unfinished reply");
        for line in text.split_terminator("\r\n") {
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            assert!(code.is_some_and(|code| (200..600).contains(&code)), "{line:?} is no reply");
            assert!(line.len() <= 510 && !line.contains(['\r', '\n']), "{line:?} is no line");
        }
        let promises = text.split("\r\n").filter(|line| line.starts_with("250 2.0.0 Queued as")).count();
        assert_eq!(promises, self.kept, "a promise without a message, or the reverse");
    }
}
