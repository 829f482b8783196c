//! What clients have to say, and what they were told about it.

use std::collections::BTreeSet;

use onetrip::limits::HOPS_MAX;
use onetrip::proto::client::{Address, Content, Message, Notify, Recipient, Return, Xtext};
use onetrip::proto::message::MessageId;

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
    /// It is no text.
    pub is_binary: bool,
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
    /// It may be binary, and its sender may say when to be told.
    pub may_be_special: bool,
    pub bytes: usize,
}

impl Letter {
    pub fn new(chance: &mut Chance, client: usize, number: usize, kind: Kind) -> Self {
        let name = format!("{client}.{number}");
        let most = if chance.one_in(4) { 5 } else { 2 };
        let count = chance.count(1, most);
        let recipients = (0..count).map(|at| recipient(chance, &format!("{client}-{number}-{at}"), kind)).collect();
        let is_binary = !kind.is_doomed && kind.may_be_special && chance.one_in(5);
        let content = if kind.is_doomed {
            let text = format!("{MARK}{name}\r\n{}\r\nx\r\n", "Received: x\r\n".repeat(HOPS_MAX + 1));
            Content::new(text.into_bytes()).expect("lines")
        } else if is_binary {
            Content::binary(binary(chance, &name, kind.bytes))
        } else {
            Content::new(text(chance, &name, kind.bytes)).expect("lines")
        };
        let sender = match chance.below(12) {
            0 => format!("xs{client}@example.org"),
            1 => format!("s{client}@{GONE}"),
            _ => format!("s{client}@example.org"),
        };
        let sender = Address::parse(&sender).expect("an address");
        let mut message = Message::new(sender, recipients, content);
        message.once = kind.has_token.then(|| Xtext::once_token(&format!("token {name}")).expect("a token"));
        message.return_content = (kind.may_be_special && chance.one_in(3)).then_some(Return::Full);
        let fates = (0..count).map(|_| Fate::default()).collect();
        Self { name, message, fates, is_doomed: kind.is_doomed, is_binary }
    }

    /// Is there nothing left to do for it?
    pub fn is_settled(&self) -> bool {
        self.fates.iter().all(|fate| fate.is_settled)
    }

    /// Recipients for whom the client still tries.
    pub fn open(&self) -> Vec<usize> {
        (0..self.fates.len()).filter(|at| !self.fates[*at].is_settled).collect()
    }

    /// A recipient's address.
    pub fn address(&self, at: usize) -> &str {
        self.message.recipients[at].address.as_str()
    }
}

/// How the next hop takes to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// It takes their mail.
    Now,
    /// It says that it will, and never does.
    Later,
    /// It knows nobody of that name.
    Never,
}

impl Welcome {
    /// Told by the first letter of the address.
    pub fn of(address: &str) -> Self {
        match address.as_bytes().first() {
            Some(b'x') => Self::Never,
            Some(b'w') => Self::Later,
            _ => Self::Now,
        }
    }
}

fn recipient(chance: &mut Chance, name: &str, kind: Kind) -> Recipient {
    let welcome = chance.pick(&["r", "r", "r", "r", "r", "r", "r", "r", "r", "r", "r", "x", "x", "w"]);
    let domain = if chance.one_in(16) { GONE } else { chance.pick(&DOMAINS) };
    let address = Address::parse(&format!("{welcome}{name}@{domain}")).expect("an address");
    let wishes = Notify { success: chance.one_in(3), failure: !chance.one_in(3), delay: chance.one_in(2) };
    let notify = match chance.below(6) {
        0 => Some(Notify::default()),
        1 | 2 => Some(wishes),
        _ => None,
    };
    Recipient { notify: notify.filter(|_| kind.may_be_special), ..Recipient::new(address) }
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

/// Where recipients are: `b.example` has a destination of its own.
const DOMAINS: [&str; 3] = ["a.example", "b.example", "c.example"];

/// Where nobody ever answers.
pub const GONE: &str = "gone.example";

/// What a message begins with.
pub const MARK: &str = "X-Letter: ";
