//! A client's session against any server.
//!
//! The first three bytes say how the client is set up. Then comes what the server says, with operations in it:
//!
//! | operation | what it is |
//! |---|---|
//! | text | the server says it, in the layer that is in force |
//! | `s`, `A`, `R` | TLS is done; and it took the early data, or did not |
//! | `T`, `C` | TLS failed; the server's certificate is not trusted |
//! | `c`, `t`, `w` | the connection is closed; an hour passes; a second passes |
//! | `m`, `q`, `F` | another message; no more messages; the first flight left in the SYN |
//!
//! Promises: no panic; no secret outside TLS or in the transcript; each message has a verdict for each recipient, once, and
//! "accepted" only with a positive reply; it comes to an end; output, connections and steps are bounded by what the server
//! said.

use std::time::Duration;

use onetrip::proto::client::{
    Action, Address, Capabilities, Client, Config, Content, Dialect, EarlyData, Ending, HelloName, Layer, Login,
    Message, Point, Profile, Recipient, Security, ServerMemory, Speaker, Trust, Verdict,
};
use onetrip::proto::secret::Secret;
use onetrip::time::Now;

use crate::input::{Input, Piece, pieces};

/// See the [module](self).
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (setup, work, early) = (input.byte(), input.byte(), input.byte());
    let mut play = Play::new(setup, work, early);
    play.collect();
    for piece in pieces(input.rest()) {
        match piece {
            Piece::Text(text) => play.hear(text),
            Piece::Operation(operation) => play.operate(operation),
        }
        play.collect();
    }
    play.end();
}

struct Play {
    client: Client,
    now: Now,
    early_data_bytes_max: usize,
    tls: Tls,
    /// Recipients of each message without verdicts.
    open: Vec<usize>,
    over: bool,
    reconnects: bool,
    in_the_clear: Vec<u8>,
    heard: Vec<u8>,
    said_bytes: usize,
    steps: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    None,
    Handshake,
    Done,
}

impl Play {
    fn new(setup: u8, work: u8, early: u8) -> Self {
        let login = Login::new("ann", Secret::new(PASSWORD.to_vec())).unwrap();
        let config = Config {
            dialect: if setup & 0x20 == 0 { Dialect::Smtp } else { Dialect::Lmtp },
            security: [Security::Required, Security::Implicit, Security::IfOffered, Security::Plain]
                [usize::from(setup & 3)],
            profile: [Profile::Full, Profile::Basic, Profile::Esmtp, Profile::Full][usize::from(setup >> 2 & 3)],
            login: (setup & 0x10 == 0).then_some(login),
            ending: if setup & 0x40 == 0 { Ending::Quit } else { Ending::Stay },
            transcript: true,
            ..Config::new(HelloName::parse("client.example").unwrap())
        };
        let messages: Vec<_> = (0..work & 3).map(|_| message(work)).collect();
        let open = messages.iter().map(|message| message.recipients.len()).collect();
        let now = Now::simulated_ms(0);
        let client = Client::new(now, config, memory(setup), messages);
        Self {
            client,
            now,
            early_data_bytes_max: usize::from(early) * 64,
            tls: Tls::None,
            open,
            over: false,
            reconnects: false,
            in_the_clear: Vec::new(),
            heard: Vec::new(),
            said_bytes: 0,
            steps: 0,
        }
    }

    /// Takes all that the client says, and does what it asks for.
    fn collect(&mut self) {
        loop {
            self.steps += 1;
            assert!(self.steps <= 1_000 + 8 * self.heard.len(), "it does not come to an end");
            let mut out = Vec::new();
            while self.client.poll_output(self.now, &mut out) > 0 {}
            self.note_output(&out);
            match self.client.poll_action() {
                Action::Wait => return,
                Action::StartTls => {
                    self.tls = Tls::Handshake;
                    let bytes_max = if self.client.may_send_early_data() { self.early_data_bytes_max } else { 0 };
                    self.client.handle_tls_started(self.now, bytes_max);
                }
                Action::AbandonTls => self.tls = Tls::None,
                Action::Done(outcome) => self.settle(&outcome.messages),
                Action::Reconnect(_) => {
                    self.tls = Tls::None;
                    self.reconnects = true;
                    self.client.handle_reconnected(self.now);
                }
                Action::Close => {
                    self.over = true;
                    return;
                }
            }
        }
    }

    fn note_output(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        self.client.handle_transmitted();
        self.said_bytes += out.len();
        let connections = self.client.connections() as usize;
        assert!(connections <= 4 + self.heard.len(), "it connects again and again");
        assert!(self.said_bytes <= (65_536 + 16 * CONTENT_BYTES) * (connections + 1 + self.heard.len() / 4));
        if self.tls == Tls::None {
            self.in_the_clear.extend_from_slice(out);
        }
    }

    fn settle(&mut self, messages: &[Vec<Verdict>]) {
        let counts: Vec<_> = messages.iter().map(Vec::len).collect();
        assert_eq!(counts, std::mem::take(&mut self.open), "a verdict for each recipient");
        for verdict in messages.iter().flatten() {
            assert!(!verdict.to_string().contains('\n'));
            if let Verdict::Accepted(reply) = verdict {
                assert!(reply.is_positive(), "{reply} is no acceptance");
            }
        }
    }

    /// The server says something: into the layer in which the client listens.
    fn hear(&mut self, text: &[u8]) {
        self.heard.extend_from_slice(text);
        self.client.handle_received();
        let mut rest = text;
        while !rest.is_empty() && !self.over {
            if self.client.incoming() == Layer::Tls && self.tls != Tls::Done {
                // It would be for the handshake, and is nothing of the kind.
                return;
            }
            let taken = self.client.handle_bytes(self.now, rest);
            assert!(taken > 0, "it listens, and takes nothing");
            rest = &rest[taken..];
        }
    }

    fn operate(&mut self, operation: u8) {
        match operation {
            b's' => self.secure(EarlyData::None),
            b'A' => self.secure(EarlyData::Accepted),
            b'R' => self.secure(EarlyData::Rejected),
            b'T' if self.tls != Tls::None => self.client.handle_tls_failed(self.now, "words", Trust::Unknown),
            b'C' if self.tls != Tls::None => self.client.handle_tls_failed(self.now, "words", Trust::Distrusted),
            b'c' => self.client.handle_closed(self.now),
            b't' => self.pass(3_600),
            b'w' => self.pass(1),
            b'm' if !self.over && self.open.len() < 16 => {
                self.open.push(2);
                self.client.handle_message(message(0x14));
            }
            b'q' => self.client.handle_quit(),
            b'F' => self.client.handle_fast_open(),
            _ => {}
        }
    }

    fn secure(&mut self, early_data: EarlyData) {
        if self.tls == Tls::Handshake && self.client.incoming() == Layer::Tls {
            self.tls = Tls::Done;
            self.client.handle_received();
            self.client.handle_secured(self.now, early_data);
        }
    }

    fn pass(&mut self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        self.now = Now { monotonic: self.now.monotonic + time, unix: self.now.unix + time };
        self.client.handle_timeout(self.now);
    }

    fn end(&mut self) {
        self.client.handle_quit();
        for _ in 0..8 {
            self.client.handle_closed(self.now);
            self.collect();
        }
        assert!(self.over, "it does not come to an end when every connection is closed");
        let mut transcript = String::new();
        while let Some(entry) = self.client.poll_transcript() {
            // What the server says is no secret of the client's; not even if it says "a secret word".
            if entry.speaker != Speaker::Server {
                transcript.push_str(&format!("{entry:?}\n"));
            }
        }
        let heard = String::from_utf8_lossy(&self.heard);
        let clear = String::from_utf8_lossy(&self.in_the_clear);
        // What the client repeats of the server's words, an identifier say, was none either.
        for secret in SECRETS.iter().filter(|secret| !heard.contains(**secret)) {
            assert!(!clear.contains(secret), "a secret left in the clear");
            assert!(!transcript.contains(secret), "a secret is in the transcript");
        }
        let known = self.client.memory();
        for point in [Point::Connect, Point::Secured] {
            let list = known.at(point);
            assert!(list.is_none_or(|list| list.lines().all(|line| !line.contains('\n'))));
        }
    }
}

fn message(work: u8) -> Message {
    let recipients = ["bob@example.org", "carl@example.org", "b\u{f8}b@example.org"];
    let recipients = recipients[..1 + usize::from(work >> 2 & 3).min(2)].iter();
    let recipients = recipients.map(|address| Recipient::new(Address::parse(address).unwrap())).collect();
    let content = match work >> 4 & 3 {
        0 => Content::normalised(b"Subject: hello\n\n.\n..dots\n"),
        1 => Content::normalised("Subject: gr\u{fc}n\n\nx\n".as_bytes()),
        2 => Content::binary(b"Subject: b\r\n\r\n\0\n\r".to_vec()),
        _ => Content::normalised(&b"Subject: long\n\n0123456789 0123456789 0123456789\n".repeat(CONTENT_BYTES / 64)),
    };
    let mut message = Message::new(Address::parse("ann@example.org").unwrap(), recipients, content);
    message.all_or_nothing = work & 0x40 != 0;
    message.requires_tls = work & 0x80 != 0;
    message
}

fn memory(setup: u8) -> ServerMemory {
    let mut memory = ServerMemory::default();
    if setup & 0x80 != 0 {
        let connect = ["PIPELINING", "STARTTLS", "QUICKSTART QTLS QHLO=c1 STARTTLS XEARLYDATA"];
        let secured = ["PIPELINING", "CHUNKING", "AUTH PLAIN LOGIN", "QUICKSTART AUTH QHLO=s1 XEARLYDATA", "XONCE"];
        memory.learn(Point::Connect, &Capabilities::from_lines(connect.into_iter()));
        memory.learn(Point::Secured, &Capabilities::from_lines(secured.into_iter()));
    }
    memory
}

const CONTENT_BYTES: usize = 100_000;
const PASSWORD: &[u8] = b"a secret word";
/// The password, and in the base64 of PLAIN and LOGIN.
const SECRETS: [&str; 3] = ["a secret word", "AGFubgBhIHNlY3JldCB3b3Jk", "YSBzZWNyZXQgd29yZA"];
