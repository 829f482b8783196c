//! Clients that say anything: thousands of seeds, each a conversation of commands, content, TLS records and noise, cut
//! anywhere. A failing seed is printed; `ONETRIP_SEED=N` plays that one alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use onetrip::limits::HOPS_MAX;
use onetrip::proto::channel::TlsFacts;
use onetrip::proto::credential::{Member, Senders, Verdict};
use onetrip::proto::proof::{Committed, Encrypted};
use onetrip::proto::server::{Action, Opening, Peer, Server, StoreFailure};
use support::{NOW, Site};

const SEEDS: u64 = 20_000;
const STEPS: usize = 40;

/// What a wild client says: most of it in order, so that it gets somewhere.
const WORDS: &[&str] = &[
    "EHLO client.example\r\n",
    "HELO client.example\r\n",
    "QHLO client.example\r\n",
    "QHLO client.example AAAAAAAAAAAAAAAA\r\n",
    "QHLO\r\n",
    "STARTTLS\r\n",
    "QTLS\r\n",
    "AUTH PLAIN AGFubgBzZWNyZXQ=\r\n",
    "AUTH PLAIN\r\n",
    "AUTH LOGIN\r\n",
    "AUTH LOGIN YW5u\r\n",
    "YW5u\r\n",
    "*\r\n",
    "MAIL FROM:<ann@example.org>\r\n",
    "MAIL FROM:<ann@example.org> BODY=BINARYMIME\r\n",
    "MAIL FROM:<>\r\n",
    "RCPT TO:<bob@example.org>\r\n",
    "RCPT TO:<carl@example.org> NOTIFY=NEVER\r\n",
    "DATA\r\n",
    "Subject: x\r\n\r\nbody\r\n",
    ".\r\n",
    "..\r\n",
    "\n.\n",
    "\r.\r\n",
    "BDAT 10\r\n0123456789",
    "BDAT 0 LAST\r\n",
    "BDAT 12 LAST\r\nSubject: y\r\n",
    "BDAT 30000\r\n",
    "BDAT x\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "VRFY x\r\n",
    "HELP\r\n",
    "QUIT\r\n",
    "GET / HTTP/1.1\r\n",
    "\u{16}\u{3}\u{1}\u{0}\u{5}hello",
    "\u{17}\u{3}\u{3}\u{0}\u{1}x",
    "\r\n",
    "\n",
    "\u{0}\u{0}\u{0}",
    "a very long word without an end ",
];

/// What most words are: a client that knows what it wants.
const ORDERLY: &[&str] = &[
    "EHLO client.example\r\n",
    "STARTTLS\r\n",
    "EHLO client.example\r\n",
    "AUTH PLAIN AGFubgBzZWNyZXQ=\r\n",
    "MAIL FROM:<ann@example.org>\r\n",
    "RCPT TO:<bob@example.org>\r\n",
    "BDAT 10\r\nSubject: y",
    "BDAT 2 LAST\r\n\r\n",
    "MAIL FROM:<ann@example.org> XONCE=token\r\n",
    "RCPT TO:<bob@example.org>\r\n",
    "DATA\r\n",
    "Subject: x\r\n\r\nbody\r\n",
    ".\r\n",
];

/// The smallest of random number generators (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// What must hold whatever a client says.
struct Watch {
    replies: Vec<u8>,
    stored: usize,
    authenticated: bool,
    secured: bool,
    /// What the client says may still be a copy.
    unfinished: bool,
    /// Messages stored before the client had finished its handshake.
    early: usize,
}

/// Returns how many messages got in.
fn play(seed: u64, site: &Site) -> usize {
    let mut random = Random::new(seed);
    let peer = Peer { client: "198.51.100.7:40000".parse().unwrap(), server: "192.0.2.1".parse().unwrap() };
    let opening = if random.below(2) == 0 { Opening::Clear } else { Opening::ImplicitTls };
    let mut server = Server::new(Arc::clone(&site.settings), Arc::clone(&site.resources), peer, opening, NOW);
    let mut watch =
        Watch { replies: Vec::new(), stored: 0, authenticated: false, secured: false, unfinished: false, early: 0 };
    let mut input: Vec<u8> = Vec::new();
    server.greet(&mut watch.replies);
    for step in 0..STEPS {
        let word = match random.below(4) {
            0 => WORDS[random.below(WORDS.len())],
            _ => ORDERLY[step % ORDERLY.len()],
        };
        input.extend_from_slice(word.as_bytes());
        if random.below(20) == 0 {
            server.handle_drain(&mut watch.replies);
        }
        let mut offered = random.below(input.len() + 1);
        while offered > 0 {
            let taken = server.handle_bytes(NOW, &input[..offered], &mut watch.replies);
            input.drain(..taken);
            offered -= taken;
            act(&mut server, &mut random, &mut watch);
            if watch.unfinished && random.below(8) == 0 {
                watch.unfinished = false;
                server.handle_finished();
            }
            if server.outcome().is_some() {
                check(&server, &watch);
                return watch.stored;
            }
            if server.is_securing() {
                // Whatever came before the handshake is not ours any more.
                input.clear();
                offered = 0;
                secure(&mut server, &mut random, &mut watch);
            }
        }
        if random.below(50) == 0 {
            server.rest();
        }
    }
    server.handle_timeout(&mut watch.replies);
    check(&server, &watch);
    watch.stored
}

fn secure(server: &mut Server, random: &mut Random, watch: &mut Watch) {
    server.greet(&mut watch.replies);
    let facts = TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: false };
    watch.unfinished = random.below(2) == 0;
    match watch.unfinished {
        true => server.handle_secured_early(facts, Encrypted::attested_by_handshake()),
        false => server.handle_secured(facts, Encrypted::attested_by_handshake()),
    }
    watch.secured = true;
}

fn act(server: &mut Server, random: &mut Random, watch: &mut Watch) {
    match server.poll_action() {
        None => {}
        Some(Action::Close) => assert!(server.outcome().is_some()),
        Some(Action::Verify(_)) => {
            assert!(watch.secured, "a credential was taken in the clear");
            let verdict = match random.below(4) {
                0 => Verdict::Denied { delay: Duration::ZERO },
                1 => Verdict::Unavailable,
                _ => Verdict::Accepted(Arc::new(Member { name: "ann".to_owned(), senders: Senders::Any })),
            };
            watch.authenticated |= matches!(verdict, Verdict::Accepted(_));
            server.handle_verdict(verdict, &mut watch.replies);
        }
        Some(Action::KeepPiece(_)) => unreachable!("the server was not told that it may ask"),
        Some(Action::Store(message)) => {
            assert!(watch.secured && watch.authenticated, "mail was taken from a stranger");
            assert!(message.envelope.recipient_count() > 0, "a message without recipients");
            assert!(message.content.len() as u64 <= 100_000, "a message over the bound");
            assert!(message.trace.starts_with(b"Received: from client.example"));
            let result = match random.below(4) {
                0 => Err(StoreFailure::Full),
                _ => Ok(Committed::attested_by_storage()),
            };
            let is_told_apart = message.envelope.once().is_some();
            assert!(!watch.unfinished || is_told_apart, "a message that may be a copy was stored");
            watch.stored += usize::from(result.is_ok());
            watch.early += usize::from(result.is_ok() && watch.unfinished);
            server.handle_stored(result, message, &mut watch.replies);
        }
    }
}

fn check(server: &Server, watch: &Watch) {
    let text = std::str::from_utf8(&watch.replies).expect("replies are text");
    assert!(text.is_empty() || text.ends_with("\r\n"), "an unfinished reply");
    for line in text.split_terminator("\r\n") {
        let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
        assert!(code.is_some_and(|code| (200..600).contains(&code)), "{line:?} is no reply");
    }
    assert_eq!(
        text.matches("250 2.0.0 Queued as").count(),
        watch.stored,
        "a promise without a message, or the reverse"
    );
    assert_eq!(server.tally().messages as usize, watch.stored);
    assert_eq!(server.tally().messages_early as usize, watch.early);
    assert!(text.len() < 64 * 1_024, "replies without end");
    const { assert!(HOPS_MAX >= 100) };
}

#[test]
fn no_client_breaks_the_server_or_gets_mail_in_without_a_login() {
    let site = Site::new();
    if let Some(seed) = std::env::var("ONETRIP_SEED").ok().and_then(|seed| seed.parse().ok()) {
        play(seed, &site);
        return;
    }
    let mut stored = 0;
    for seed in 0..SEEDS {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, &site)));
        stored += result.unwrap_or_else(|_| panic!("play it again with ONETRIP_SEED={seed}"));
    }
    assert_eq!(site.resources.message_bytes(), 0, "room was not given back");
    assert!(stored > 1_000, "only {stored} messages got in: the clients are too wild to prove anything");
}

#[test]
fn no_bytes_break_a_connection() {
    let site = Site::new();
    for seed in 0..SEEDS / 10 {
        let mut random = Random::new(seed);
        let mut driver = site.connect(if seed % 2 == 0 { Opening::Clear } else { Opening::ImplicitTls });
        for _ in 0..10 {
            let mut bytes: Vec<u8> = (0..random.below(200)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
            if random.below(2) == 0 {
                bytes.splice(0..0, WORDS[random.below(WORDS.len())].bytes());
            }
            driver.receive(&[&bytes]);
        }
        assert!(driver.stored.is_empty());
    }
}
