//! What clients have to say, what they were told about it, and what arrived: the facts by which a run is judged.

use std::collections::{BTreeMap, BTreeSet};

use onetrip::limits::HOPS_MAX;
use onetrip::proto::client::{Address, Content, Message, Recipient, Xtext};
use onetrip::proto::message::{self, MessageId};

use crate::chance::Chance;

/// One message of one client.
#[derive(Debug)]
pub struct Letter {
    /// Client and number, which the message's first line bears.
    pub name: String,
    /// What the client is given.
    pub message: Message,
    /// What is known of each recipient.
    pub fates: Vec<Fate>,
    /// The server must refuse it, whole.
    pub is_doomed: bool,
}

/// What a client knows of one recipient.
#[derive(Debug, Default)]
pub struct Fate {
    /// The names under which it was acknowledged.
    pub acknowledged: BTreeSet<MessageId>,
    /// How often it may have been taken without an acknowledgement.
    pub uncertain: u32,
    /// The client has an answer, or has given up.
    pub is_settled: bool,
}

/// What a letter is like.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub has_token: bool,
    pub is_doomed: bool,
    pub may_be_binary: bool,
    pub bytes: usize,
}

impl Letter {
    pub fn new(chance: &mut Chance, client: usize, number: usize, kind: Kind) -> Self {
        let name = format!("{client}.{number}");
        let most = if chance.one_in(4) { 5 } else { 2 };
        let count = chance.count(1, most);
        let recipient = |at: usize, domain: &str| {
            let address = format!("r{client}-{number}-{at}@{domain}");
            Recipient::new(Address::parse(&address).expect("an address"))
        };
        let recipients = (0..count).map(|at| recipient(at, chance.pick(&DOMAINS))).collect();
        let content = if kind.is_doomed {
            let text = format!("{MARK}{name}\r\n{}\r\nx\r\n", "Received: x\r\n".repeat(HOPS_MAX + 1));
            Content::new(text.into_bytes()).expect("lines")
        } else if kind.may_be_binary && chance.one_in(5) {
            Content::binary(binary(chance, &name, kind.bytes))
        } else {
            Content::new(text(chance, &name, kind.bytes)).expect("lines")
        };
        let sender = Address::parse(&format!("s{client}@example.org")).expect("an address");
        let mut message = Message::new(sender, recipients, content);
        message.once = kind.has_token.then(|| Xtext::once_token(&format!("token {name}")).expect("a token"));
        let fates = (0..count).map(|_| Fate::default()).collect();
        Self { name, message, fates, is_doomed: kind.is_doomed }
    }

    /// Is there nothing left to do for it?
    pub fn is_settled(&self) -> bool {
        self.fates.iter().all(|fate| fate.is_settled)
    }

    /// Recipients for whom the client still tries.
    pub fn open(&self) -> Vec<usize> {
        (0..self.fates.len()).filter(|at| !self.fates[*at].is_settled).collect()
    }

    fn address(&self, at: usize) -> &str {
        self.message.recipients[at].address.as_str()
    }
}

/// Lines of which some are what dot-stuffing and the end of DATA are about.
fn text(chance: &mut Chance, name: &str, bytes: usize) -> Vec<u8> {
    const LINES: [&[u8]; 9] = [
        b"",
        b".",
        b"..",
        b".hidden",
        b"text",
        b"QUIT",
        b"a line of text with some more words in it",
        b"\xc3\xbc.",
        b". .",
    ];
    let mut text = format!("{MARK}{name}\r\nSubject: x\r\n\r\n").into_bytes();
    while text.len() < bytes {
        if chance.one_in(12) {
            let length = chance.count(1, 900);
            text.resize(text.len() + length, b'l');
        } else {
            text.extend_from_slice(chance.pick(&LINES));
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Any bytes, with what would end a message if it were lines.
fn binary(chance: &mut Chance, name: &str, bytes: usize) -> Vec<u8> {
    const PIECES: [&[u8]; 8] = [
        b"\r\n.\r\n",
        b"\n.\n",
        b"\r",
        b"\0\0\xff",
        b"QUIT\r\n",
        b"\r\nRCPT TO:<nobody@a.example>\r\n",
        b"words",
        b"..",
    ];
    let mut bytes_out = format!("{MARK}{name}\r\nSubject: x\r\n\r\n").into_bytes();
    while bytes_out.len() < bytes {
        bytes_out.extend_from_slice(chance.pick(&PIECES));
    }
    bytes_out
}

/// Where everything arrives: a next hop that knows what it has taken, as a Maildir does, and takes it once under one name.
#[derive(Debug, Default)]
pub struct Sink {
    /// Recipient and name of the message, with the letter that it is.
    taken: BTreeMap<(String, MessageId), String>,
}

impl Sink {
    /// Takes a message for these of its recipients.
    pub fn take(&mut self, letters: &[Letter], message: &message::Message, recipients: &[u32], may_be_there: bool) {
        let letter = letter_of(letters, &message.content);
        assert_eq!(message.content, letter.message.content.as_bytes(), "{}: it was altered", letter.name);
        assert_eq!(message.envelope.sender(), letter.message.sender.as_str(), "{}: of another sender", letter.name);
        assert!(message.trace.starts_with(b"Received: "), "{}: without its trace", letter.name);
        for number in recipients {
            let recipient = message.envelope.recipients().nth(*number as usize).expect("one of its recipients");
            let address = recipient.address.to_owned();
            let is_its_own = (0..letter.fates.len()).any(|at| letter.address(at) == address);
            assert!(is_its_own, "{} came to {address}, whom it was never for", letter.name);
            let before = self.taken.insert((address, message.id), letter.name.clone());
            assert!(before.is_none() || may_be_there, "{}: delivered again, and nobody was warned", letter.name);
        }
    }

    /// Judges the whole run.
    pub fn judge(&self, letters: &[Letter]) {
        for letter in letters {
            assert!(letter.is_settled(), "{}: its client never had an answer", letter.name);
            for (at, fate) in letter.fates.iter().enumerate() {
                self.judge_fate(letter, letter.address(at), fate);
            }
        }
    }

    fn judge_fate(&self, letter: &Letter, address: &str, fate: &Fate) {
        let name = &letter.name;
        let copies: Vec<_> = self.taken.keys().filter(|(to, _)| to == address).map(|(_, id)| *id).collect();
        for id in &fate.acknowledged {
            assert!(copies.contains(id), "{name}: acknowledged as {id}, and never delivered to {address}");
        }
        let most = match letter.message.once {
            _ if letter.is_doomed => 0,
            Some(_) => 1,
            None => fate.acknowledged.len() + fate.uncertain as usize,
        };
        let known = &fate.acknowledged;
        assert!(copies.len() <= most, "{name}: {address} has {copies:?}, at most {most} may be; known are {known:?}");
        let has_reason = !fate.acknowledged.is_empty() || fate.uncertain > 0;
        assert!(copies.is_empty() || has_reason, "{name}: {address} has it although it was never sent");
    }
}

fn letter_of<'a>(letters: &'a [Letter], content: &[u8]) -> &'a Letter {
    let line = content.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let name = line.strip_prefix(MARK.as_bytes()).unwrap_or_default();
    let letter = letters.iter().find(|letter| letter.name.as_bytes() == name);
    letter.unwrap_or_else(|| panic!("a message arrived that nobody has sent: {:?}", String::from_utf8_lossy(line)))
}

/// Where recipients are: `b.example` has a destination of its own.
const DOMAINS: [&str; 3] = ["a.example", "b.example", "c.example"];

/// What a message begins with.
const MARK: &str = "X-Letter: ";
