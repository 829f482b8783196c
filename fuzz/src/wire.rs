//! A whole server connection, TLS included, at whose other end is a TLS client that is scripted and does not behave.
//!
//! | operation | what it is |
//! |---|---|
//! | text | the client says it, inside TLS if that has begun |
//! | `h`, `e`, `f` | TLS begins; it begins with early data, if there is a ticket; early data is over |
//! | `g`, `z` | the client forgets TLS; close_notify |
//! | `!`, `=` | the packet leaves, and the answer is heard; it leaves twice |
//! | `0` to `9` | the packet arrives in two pieces, cut at so many tenths of it |
//! | `~` | a bit of the packet turns, where the first byte of the input says |
//! | `c` | another connection of the same client's |
//!
//! Promises: no panic; what was said outside TLS is never obeyed inside; nothing is stored that the client did not say; what
//! the server says inside TLS is text.

use std::cell::OnceCell;
use std::sync::Arc;

use onetrip::proto::server::Opening;
use onetrip::tls::Versions;
use onetrip::tls::session::ClientSession;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::input::{Piece, pieces};
use crate::support::{Driver, HOSTNAME, Site, client_tls};

/// See the [module](self). The first byte says how connections begin, and where bits turn.
pub fn check(data: &[u8]) {
    let Some((first, script)) = data.split_first() else {
        return;
    };
    thread_local!(static SITE: OnceCell<Site> = const { OnceCell::new() });
    SITE.with(|site| {
        let site = site.get_or_init(Site::new);
        let mut play = Play::new(site, *first);
        for piece in pieces(script).take(PIECES_MAX) {
            play.take(piece);
        }
        play.leave(5, 1);
        drop(play);
        assert_eq!(site.resources.message_bytes(), 0, "room was not given back");
    });
}

struct Play<'a> {
    site: &'a Site,
    opening: Opening,
    /// Where bits turn.
    turning: usize,
    /// Its memory for tickets is this input's.
    config: Arc<ClientConfig>,
    driver: Driver,
    session: Option<ClientSession>,
    speaks_early: bool,
    /// The server has sent TLS.
    hears_tls: bool,
    /// It has said that it ends.
    is_deaf: bool,
    packet: Vec<u8>,
    /// All that was said inside TLS, on any connection.
    inside: Vec<u8>,
}

impl<'a> Play<'a> {
    fn new(site: &'a Site, first: u8) -> Self {
        let opening = if first & 1 == 0 { Opening::Clear } else { Opening::ImplicitTls };
        Self {
            site,
            opening,
            turning: usize::from(first),
            config: client_tls(Versions::Both),
            driver: site.connect(opening),
            session: None,
            speaks_early: false,
            hears_tls: false,
            is_deaf: false,
            packet: Vec::new(),
            inside: Vec::new(),
        }
    }

    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Text(text) => self.say(text),
            Piece::Operation(b'h') => self.begin_tls(false),
            Piece::Operation(b'e') => self.begin_tls(true),
            Piece::Operation(b'f') => {
                self.speaks_early = false;
                self.flush();
            }
            Piece::Operation(b'g') => self.session = None,
            Piece::Operation(b'z') => {
                self.session.iter_mut().for_each(ClientSession::close);
                self.flush();
                // The library must be given nothing more after its close_notify: an error would be a second alert, and it
                // asserts that there is none.
                self.is_deaf = true;
            }
            Piece::Operation(b'!') => self.leave(5, 1),
            Piece::Operation(b'=') => self.leave(5, 2),
            Piece::Operation(tenths @ b'0'..=b'9') => self.leave(usize::from(tenths - b'0'), 1),
            Piece::Operation(b'~') => self.turn(),
            Piece::Operation(b'c') => self.connect(),
            Piece::Operation(_) => {}
        }
    }

    fn say(&mut self, text: &[u8]) {
        let Some(session) = &mut self.session else {
            self.packet.extend_from_slice(text);
            return;
        };
        let taken = if self.speaks_early { session.write_early(text) } else { session.write(text) };
        self.inside.extend_from_slice(&text[..taken]);
        session.send(&mut self.packet);
    }

    fn begin_tls(&mut self, early: bool) {
        let name = ServerName::try_from(HOSTNAME).expect("a name");
        let begun = match early {
            true => ClientSession::with_early_data(&self.config, name),
            false => ClientSession::new(Arc::clone(&self.config), name),
        };
        self.session = Some(begun.expect("a session"));
        (self.speaks_early, self.hears_tls, self.is_deaf) = (early, false, false);
        if !early {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(session) = &mut self.session {
            session.send(&mut self.packet);
        }
    }

    fn turn(&mut self) {
        let at = self.turning * self.packet.len() / 256;
        if let Some(byte) = self.packet.get_mut(at) {
            *byte ^= 1 << (self.turning % 8);
        }
    }

    fn leave(&mut self, tenths: usize, times: usize) {
        self.flush();
        let packet = std::mem::take(&mut self.packet);
        for _ in 0..times {
            let (one, other) = packet.split_at(packet.len() * tenths / 10);
            let sent = self.driver.receive(&[one, other]);
            self.hear(&sent);
        }
        self.check();
    }

    fn hear(&mut self, sent: &[u8]) {
        let Some(session) = self.session.as_mut().filter(|_| !self.is_deaf) else {
            return;
        };
        let mut rest = sent;
        if !self.hears_tls {
            let start = sent.iter().position(|byte| (20..=23).contains(byte)).unwrap_or(sent.len());
            rest = &sent[start..];
            self.hears_tls = !rest.is_empty();
        }
        while let Ok(taken) = session.receive(rest) {
            rest = &rest[taken..];
            let plaintext = session.plaintext();
            let heard = plaintext.len();
            assert!(std::str::from_utf8(plaintext).is_ok(), "the server says what is no text");
            session.consume(heard);
            if taken == 0 && heard == 0 {
                return;
            }
        }
        // The two ends do not understand each other any more.
        self.session = None;
    }

    fn connect(&mut self) {
        self.leave(5, 1);
        self.driver = self.site.connect(self.opening);
        self.session = None;
        self.speaks_early = false;
    }

    fn check(&self) {
        let was_said = |word: &str| {
            let word = word.as_bytes();
            word.is_empty() || self.inside.windows(word.len()).any(|window| window == word)
        };
        for message in &self.driver.stored {
            assert!(was_said(message.envelope.sender()), "a sender whom nobody named inside TLS");
            assert!(message.envelope.recipients().all(|to| was_said(to.address)), "a recipient from elsewhere");
            let mut lines = message.content.split(|byte| *byte == b'\n');
            let is_said = |line: &[u8]| self.inside.windows(line.len().max(1)).any(|window| window == line);
            assert!(lines.all(|line| line.is_empty() || is_said(line)), "content that nobody said inside TLS");
        }
    }
}

/// Handshakes are dear, and more of them show nothing new.
const PIECES_MAX: usize = 64;
