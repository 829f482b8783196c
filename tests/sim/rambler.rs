//! Clients of another make: they say all they have to say in one go, inside TLS, and begin transactions that come to nothing.
//!
//! The real client never does what these do: RSET in the middle, a hello instead of the end, BDAT without recipients, DATA
//! that is refused. Nobody whom such a transaction named may get anything of the next one.

use data_encoding::BASE64;
use onetrip::proto::message::MessageId;
use onetrip::proto::reply_reader::{Reply, ReplyReader};
use onetrip::tls::Versions;
use onetrip::tls::session::ClientSession;
use rustls::pki_types::ServerName;

use crate::chance::Chance;
use crate::letter::{Kind, Letter};
use crate::net::{End, LinkName};
use crate::support::{HOSTNAME, PASSWORD, USER, client_tls};
use crate::world::{Event, World};

/// One of them, with one connection in its life.
#[derive(Debug)]
pub struct Rambler {
    link: LinkName,
    session: ClientSession,
    /// What it says when TLS is there; empty once it is said.
    script: Vec<u8>,
    was_said: bool,
    /// The letter whose fate each reply decides.
    expected: Vec<Option<usize>>,
    letters: Vec<usize>,
    reader: ReplyReader,
    replies: Vec<Reply>,
}

impl Rambler {
    /// One with letters of its own, and a script that is not to the point.
    pub fn new(chance: &mut Chance, number: usize, letters: &mut Vec<Letter>) -> Self {
        let name = ServerName::try_from(HOSTNAME).expect("a name");
        let session = ClientSession::new(client_tls(Versions::Both), name).expect("a session");
        let mut rambler = Self {
            link: 0,
            session,
            script: Vec::new(),
            was_said: false,
            // The greeting.
            expected: vec![None],
            letters: Vec::new(),
            reader: ReplyReader::default(),
            replies: Vec::new(),
        };
        let secret = BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes());
        rambler.say("EHLO rambler.example");
        rambler.say(&format!("AUTH PLAIN {secret}"));
        for at in 0..chance.count(1, 3) {
            if chance.one_in(2) {
                rambler.ramble(chance);
            }
            let kind = Kind { has_token: false, is_doomed: false, may_be_special: false, bytes: chance.count(1, 600) };
            let letter = Letter::new(chance, number, at, kind);
            rambler.tell(chance, &letter, letters.len());
            rambler.letters.push(letters.len());
            letters.push(letter);
        }
        rambler.say("QUIT");
        rambler
    }

    fn say(&mut self, line: &str) {
        self.script.extend_from_slice(line.as_bytes());
        self.script.extend_from_slice(b"\r\n");
        self.expected.push(None);
    }

    /// Begins a transaction and does not end it as one should.
    fn ramble(&mut self, chance: &mut Chance) {
        const NOBODY: &str = "RCPT TO:<nobody@a.example>";
        const GHOST: &str = "X-Letter: ghost\r\n\r\nboo\r\n";
        self.say("MAIL FROM:<ghost@example.org>");
        match chance.below(6) {
            0 => {
                self.say(NOBODY);
                self.say("RSET");
            }
            1 => {
                self.say(NOBODY);
                self.say("EHLO rambler.example");
            }
            2 => {
                self.say(&format!("BDAT {} LAST\r\n{}", NOBODY.len(), NOBODY));
                // What is counted is no line.
                self.script.truncate(self.script.len() - 2);
            }
            3 => {
                self.say(NOBODY);
                self.say(&format!("BDAT {}\r\n{}", GHOST.len(), GHOST));
                self.script.truncate(self.script.len() - 2);
                self.say("RSET");
            }
            4 => {
                self.say(NOBODY);
                self.say("DATA");
                self.say(&format!("{GHOST}a bare\nnewline\r\n."));
            }
            _ => {
                self.say("RCPT TO:<>");
                self.say("DATA");
                self.say("RSET");
            }
        }
    }

    /// Says a letter, by DATA or in chunks.
    fn tell(&mut self, chance: &mut Chance, letter: &Letter, number: usize) {
        let message = &letter.message;
        self.say(&format!("MAIL FROM:<{}> BODY=8BITMIME", message.sender.as_str()));
        for recipient in &message.recipients {
            self.say(&format!("RCPT TO:<{}>", recipient.address.as_str()));
        }
        let content = message.content.as_bytes();
        if chance.one_in(2) {
            self.say("DATA");
            for line in content.split_inclusive(|byte| *byte == b'\n') {
                if line.starts_with(b".") {
                    self.script.push(b'.');
                }
                self.script.extend_from_slice(line);
            }
            self.say(".");
        } else {
            let mut rest = content;
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(chance.count(1, rest.len()));
                let last = if after.is_empty() { " LAST" } else { "" };
                self.say(&format!("BDAT {}{last}", chunk.len()));
                self.script.extend_from_slice(chunk);
                rest = after;
            }
        }
        *self.expected.last_mut().expect("something was said") = Some(number);
    }

    /// Takes what the server says; returns what to say to it.
    fn hear(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        loop {
            self.read();
            if bytes.is_empty() {
                break;
            }
            let taken = self.session.receive(bytes).expect("the server speaks TLS");
            bytes = &bytes[taken..];
        }
        let mut out = Vec::new();
        self.session.send(&mut out);
        if !self.session.is_handshaking() {
            self.was_said = true;
            let script = std::mem::take(&mut self.script);
            let mut rest = &script[..];
            while !rest.is_empty() {
                let taken = self.session.write(rest);
                rest = &rest[taken..];
                self.session.send(&mut out);
            }
        }
        out
    }

    fn read(&mut self) {
        loop {
            let plaintext = self.session.plaintext();
            if plaintext.is_empty() {
                return;
            }
            let progress = self.reader.handle_bytes(plaintext).expect("the server speaks SMTP");
            self.replies.extend(progress.reply);
            self.session.consume(progress.consumed);
        }
    }
}

impl World {
    /// One of them connects.
    pub fn begin_rambler(&mut self, number: usize) {
        let (link, wait_us) = self.connect(number);
        let mut out = Vec::new();
        let rambler = self.rambler(number);
        rambler.link = link;
        rambler.session.send(&mut out);
        self.send(link, End::Server, &out, wait_us);
        self.events.push(self.now_us + PATIENCE_US, Event::RamblerLeaves(number));
    }

    fn rambler(&mut self, number: usize) -> &mut Rambler {
        self.ramblers.get_mut(&number).expect("one that was made").as_mut().expect("it is still here")
    }

    /// Bytes have come. Says whether anybody was there to take them.
    pub fn rambler_hears(&mut self, number: usize, link: LinkName, bytes: &[u8]) -> bool {
        if self.ramblers[&number].is_none() {
            return false;
        }
        let out = self.rambler(number).hear(bytes);
        self.send(link, End::Server, &out, 0);
        true
    }

    /// The connection is gone, or it has waited long enough: what it has heard is all.
    pub fn end_rambler(&mut self, number: usize) {
        let Some(rambler) = self.ramblers.get_mut(&number).and_then(Option::take) else {
            return;
        };
        self.hang_up(rambler.link, End::Server);
        let is_logged_in = rambler.replies.get(AUTH_REPLY).is_none_or(|reply| reply.code() == 235);
        for letter in rambler.letters {
            let at = rambler.expected.iter().position(|expected| *expected == Some(letter)).expect("it was said");
            let reply = rambler.replies.get(at).filter(|_| is_logged_in);
            let may_be_there = is_logged_in && rambler.was_said;
            self.note_letter(letter, reply, may_be_there);
        }
    }

    fn note_letter(&mut self, letter: usize, reply: Option<&Reply>, may_be_there: bool) {
        let letter = &mut self.letters[letter];
        for (at, fate) in letter.fates.iter_mut().enumerate() {
            fate.is_settled = true;
            // More the server does not take at once.
            if at >= RECIPIENTS_MAX {
                continue;
            }
            match reply {
                None => fate.uncertain += u32::from(may_be_there),
                Some(reply) if reply.code() == 250 => {
                    let words = reply.lines().last().unwrap_or_default().split(' ').next_back().unwrap_or_default();
                    fate.acknowledged.insert(MessageId::from_text(words.as_bytes()).expect("the message's name"));
                    self.seen.rambled += 1;
                }
                Some(reply) => {
                    let may_be_refused = self.plan.disk_fails || reply.code() == 421;
                    assert!(reply.is_transient() && may_be_refused, "{} was refused: {reply}", letter.name);
                    fate.uncertain += 1;
                }
            }
        }
    }
}

/// Longer than the server's patience.
const PATIENCE_US: u64 = 700_000_000;

/// Which reply is that to AUTH: it follows the greeting and that to EHLO.
const AUTH_REPLY: usize = 2;

/// Recipients that the server takes at once.
const RECIPIENTS_MAX: usize = 3;
