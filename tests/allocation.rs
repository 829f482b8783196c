//! The protocol core takes no memory for a command, and what is kept for long takes little: shown by counting what the
//! allocator is asked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use onetrip::limits;
use onetrip::proto::channel::TlsFacts;
use onetrip::proto::credential::{Member, Senders, Verdict};
use onetrip::proto::message::MessageId;
use onetrip::proto::proof::{Committed, Encrypted};
use onetrip::proto::server::{Action, Opening, Peer, Server};
use onetrip::spool::once::{OnceBounds, OnceKey, Tokens};
use onetrip::tls::Versions;
use onetrip::tls::session::Session;
use onetrip::wire::Connection;
use support::{Client, NOW, Site, client_tls};

/// The system's allocator, with a count of what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn note_held(taken: usize, returned: usize) {
    HELD_BYTES.with(|held| held.set(held.get() + taken as i64 - returned as i64));
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches no memory that it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        note_held(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note_held(0, layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        note_held(bytes, layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ASKED.with(Cell::get);
    work();
    ASKED.with(Cell::get) - before
}

/// A conversation inside TLS, after AUTH.
fn logged_in() -> Server {
    let site = Site::new();
    let peer = Peer { client: "198.51.100.7:40000".parse().unwrap(), server: "192.0.2.1".parse().unwrap() };
    let mut server = Server::new(site.settings, site.resources, peer, Opening::ImplicitTls, NOW);
    let mut out = Vec::new();
    server.greet(&mut out);
    let facts = TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: false };
    server.handle_secured(facts, Encrypted::attested_by_handshake());
    server.handle_bytes(NOW, b"EHLO client.example\r\nAUTH PLAIN AGFubgBzZWNyZXQ=\r\n", &mut out);
    assert!(matches!(server.poll_action(), Some(Action::Verify(_))));
    let member = Arc::new(Member { name: "ann".to_owned(), senders: Senders::Any });
    server.handle_verdict(Verdict::Accepted(member), &mut out);
    server
}

fn submit(server: &mut Server, words: &[u8], out: &mut Vec<u8>) {
    out.clear();
    server.handle_bytes(NOW, words, out);
    let Some(Action::Store(message)) = server.poll_action() else { panic!("nothing to store") };
    server.handle_stored(Ok(Committed::attested_by_storage()), message, out);
    assert!(out.windows(10).any(|window| window == b"250 2.0.0 "));
}

#[test]
fn a_further_message_takes_no_memory() {
    const PIPELINED: &[u8] = b"MAIL FROM:<ann@example.org> SIZE=40 BODY=8BITMIME\r\nRCPT TO:<bob@example.org>\r\n\
        RCPT TO:<carl@example.org> NOTIFY=NEVER\r\nBDAT 35 LAST\r\nSubject: hello\r\n\r\nHello, both of you";
    const WITH_DATA: &[u8] = b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n\
        Subject: hello\r\n\r\n..Hello.\r\n.\r\n";
    let mut server = logged_in();
    let mut out = Vec::with_capacity(4_096);
    submit(&mut server, PIPELINED, &mut out);
    submit(&mut server, WITH_DATA, &mut out);
    for words in [PIPELINED, WITH_DATA] {
        assert_eq!(allocations(|| submit(&mut server, words, &mut out)), 0);
    }
}

#[test]
fn commands_take_no_memory_whether_they_are_allowed_or_not() {
    let mut server = logged_in();
    let mut out = Vec::with_capacity(65_536);
    let words =
        b"NOOP\r\nRSET\r\nVRFY bob\r\nHELP\r\nRCPT TO:<bob@example.org>\r\nSTARTTLS\r\nXYZZY\r\nEHLO a.example\r\n\
        MAIL FROM:<ann@example.org> XFOO=1\r\nBDAT 4 LAST\r\nabcdNOOP\r\n";
    server.handle_bytes(NOW, b"EHLO client.example\r\n", &mut out);
    let asked = allocations(|| {
        server.handle_bytes(NOW, words, &mut out);
    });
    assert_eq!(asked, 0);
}

#[test]
fn a_line_cut_by_segments_takes_memory_once() {
    let mut server = logged_in();
    let mut out = Vec::with_capacity(65_536);
    let mut cut = || {
        for byte in b"NOOP and a few more words to be sure\r\n" {
            server.handle_bytes(NOW, &[*byte], &mut out);
        }
    };
    cut();
    assert_eq!(allocations(&mut cut), 0);
}

#[test]
fn a_known_token_takes_under_120_bytes() {
    const TOKENS: usize = limits::ONCE_STRIPE_TOKENS;
    let before = HELD_BYTES.with(Cell::get);
    let mut tokens = Tokens::new(OnceBounds { retention: limits::ONCE_RETENTION, tokens_max: TOKENS });
    for number in 0..TOKENS * 2 {
        let key = OnceKey::new(&[7; 32], "ann", &number.to_string());
        tokens.claim(NOW, key);
        tokens.store(NOW, key, MessageId::NONE);
    }
    assert_eq!(tokens.len(), TOKENS);
    let held = HELD_BYTES.with(Cell::get) - before;
    assert!(held < TOKENS as i64 * 120, "{held} bytes for {TOKENS} tokens");
}

#[test]
fn a_silent_client_inside_tls_holds_little() {
    // The server's allocator has pieces of 1,280 bytes, and the next larger ones of 1,536.
    assert!(size_of::<Session>() <= 1_280, "{} bytes for a session", size_of::<Session>());
    assert!(size_of::<Connection>() <= 576, "{} bytes for a connection", size_of::<Connection>());
    for (versions, bytes_max) in [(Versions::Tls13, 3_600), (Versions::Tls12, 3_500)] {
        let site = Site::new();
        // What the first connection leaves for all others is not counted.
        held_for_a_silent_client(&site, versions);
        let held = held_for_a_silent_client(&site, versions);
        assert!(held <= bytes_max, "{held} bytes with {versions:?}");
    }
}

/// What a connection holds of the heap when its client has logged in, has sent a message and is silent.
fn held_for_a_silent_client(site: &Site, versions: Versions) -> i64 {
    let mut held = 0;
    let mut driver = noting(&mut held, || site.connect(Opening::ImplicitTls));
    let mut client = Client::new(client_tls(versions));
    let (mut packet, mut replies) = (Vec::new(), Vec::new());
    client.begin_tls(&mut packet);
    let mut words = [
        &b"EHLO client.example\r\nAUTH PLAIN AGFubgBzZWNyZXQ=\r\n"[..],
        b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nBDAT 10 LAST\r\n\r\n12345678",
    ]
    .into_iter();
    while !packet.is_empty() {
        let mut answer = Vec::with_capacity(65_536);
        noting(&mut held, || answer.extend_from_slice(&driver.receive(&[&packet])));
        packet.clear();
        replies.extend(client.hear(&answer).0);
        client.flush_tls(&mut packet);
        if let Some(words) = words.next() {
            client.say(words, &mut packet);
        }
    }
    assert!(replies.iter().any(|reply| reply.starts_with("250 2.0.0 ")), "{replies:?}");
    noting(&mut held, || driver.rest());
    held
}

/// Adds to `held` what the work keeps.
fn noting<T>(held: &mut i64, work: impl FnOnce() -> T) -> T {
    let before = HELD_BYTES.with(Cell::get);
    let result = work();
    *held += HELD_BYTES.with(Cell::get) - before;
    result
}
