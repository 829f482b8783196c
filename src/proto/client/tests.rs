//! Scripted servers: each dialog runs whole, with the server's bytes one at a time, and cut at every offset.
//!
//! In a dialog `C:` is a line that the client must say and `S:` one that the server says; all neighbouring lines of one
//! side are one flight. Marks in angle brackets stand for what is not SMTP:
//!
//! * `C: <tls>`: the client starts the TLS handshake here; `C: <abandon>`: it throws it away;
//!   `C: <plain>`, `C: <again>`: it connects again; `C: <done>`, `C: <close>`.
//! * `S: <tls>`: the handshake is done here, with one round trip (TLS 1.3); `S: <tls12>`: with two;
//!   `S: <accepted>`, `S: <rejected>`: as `<tls>`, and the early data was taken, or not; `S: <closed>`.

use std::time::Duration;

use super::{
    Action, Address, Capabilities, Client, Config, Content, Dialect, EarlyData, EightBit, Ending, Failure, Flights,
    HelloName, How, Layer, Login, Message, Outcome, Point, Profile, Recipient, Security, ServerMemory, Verdict, Xtext,
};
use crate::proto::reply_reader::{Reply, ReplyError};
use crate::proto::secret::Secret;
use crate::time::Now;

const CONNECT_LIST: [&str; 3] = ["PIPELINING", "STARTTLS", "QUICKSTART QTLS QHLO=c1 STARTTLS"];
const SECURED_LIST: [&str; 4] = ["PIPELINING", "CHUNKING", "AUTH PLAIN LOGIN", "QUICKSTART AUTH QHLO=s1"];
const CREDENTIAL: &str = "AGFubgBzZWNyZXQ=";

fn list(lines: &[&str]) -> Capabilities {
    Capabilities::from_lines(lines.iter().copied())
}

fn remembered(connect: &[&str], secured: &[&str]) -> ServerMemory {
    let mut memory = ServerMemory::default();
    if !connect.is_empty() {
        memory.learn(Point::Connect, &list(connect));
    }
    if !secured.is_empty() {
        memory.learn(Point::Secured, &list(secured));
    }
    memory
}

fn full_memory() -> ServerMemory {
    remembered(&CONNECT_LIST, &SECURED_LIST)
}

fn config() -> Config {
    let login = Login::new("ann", Secret::new(b"secret".to_vec())).unwrap();
    Config { login: Some(login), transcript: true, ..Config::new(HelloName::parse("c").unwrap()) }
}

fn plain_config() -> Config {
    Config { security: Security::Plain, login: None, ..config() }
}

fn message_to(recipients: &[&str]) -> Message {
    let recipients = recipients.iter().map(|text| Recipient::new(Address::parse(text).unwrap())).collect();
    Message::new(Address::parse("a@x").unwrap(), recipients, Content::normalised(b".hi\n"))
}

/// One side's lines up to the other side's next.
struct Turn {
    client: bool,
    lines: Vec<String>,
}

fn turns(dialog: &str) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for line in dialog.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (side, text) = line.split_once(':').unwrap();
        let client = side == "C";
        if turns.last().is_none_or(|turn| turn.client != client) {
            turns.push(Turn { client, lines: Vec::new() });
        }
        turns.last_mut().unwrap().lines.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
    }
    turns
}

/// How the server's bytes are cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Single,
    /// Once, at this offset of each flight.
    At(usize),
}

struct Run {
    client: Client,
    now: Now,
    said: Vec<String>,
    outcome: Option<Outcome>,
    early_data_bytes_max: usize,
    in_tls: bool,
    /// All bytes that left outside TLS.
    in_the_clear: Vec<u8>,
}

impl Run {
    /// Takes all output and actions; the lines and marks go to `said`.
    fn collect(&mut self) {
        let mut bytes = Vec::new();
        loop {
            while self.client.poll_output(self.now, &mut bytes) > 0 {
                self.client.handle_transmitted();
            }
            if !self.in_tls {
                self.in_the_clear.extend_from_slice(&bytes);
            }
            self.said.extend(String::from_utf8(std::mem::take(&mut bytes)).unwrap().lines().map(str::to_owned));
            let mark = match self.client.poll_action() {
                Action::Wait => return,
                Action::StartTls => {
                    self.in_tls = true;
                    self.client.handle_transmitted();
                    self.client.handle_tls_started(self.now, self.early_data_bytes_max);
                    "<tls>"
                }
                Action::AbandonTls => {
                    self.in_tls = false;
                    "<abandon>"
                }
                Action::Done(outcome) => {
                    self.outcome = Some(outcome);
                    "<done>"
                }
                Action::Reconnect(how) => {
                    self.in_tls = false;
                    self.client.handle_reconnected(self.now);
                    if how == How::PlainEsmtp { "<plain>" } else { "<again>" }
                }
                Action::Close => "<close>",
            };
            self.said.push(mark.to_owned());
        }
    }

    /// Gives plain bytes, or what TLS decrypted, to the client in pieces.
    fn give(&mut self, bytes: &[u8], cut: Cut) {
        let pieces: Vec<&[u8]> = match cut {
            Cut::Whole => vec![bytes],
            Cut::Single => bytes.chunks(1).collect(),
            Cut::At(at) => vec![&bytes[..at.min(bytes.len())], &bytes[at.min(bytes.len())..]],
        };
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            self.client.handle_received();
            let mut rest = piece;
            while !rest.is_empty() {
                let taken = self.client.handle_bytes(self.now, rest);
                assert!(taken > 0, "the client takes none of {:?}", String::from_utf8_lossy(rest));
                rest = &rest[taken..];
            }
            self.collect();
        }
    }

    fn give_tls(&mut self, mark: &str) {
        self.collect();
        assert_eq!(self.client.incoming(), Layer::Tls, "TLS begins behind the last plain reply");
        self.client.handle_received();
        if mark == "<tls12>" {
            self.client.handle_transmitted();
            self.client.handle_received();
        }
        let early_data = match mark {
            "<accepted>" => EarlyData::Accepted,
            "<rejected>" => EarlyData::Rejected,
            _ => EarlyData::None,
        };
        self.client.handle_secured(self.now, early_data);
    }

    fn server_turn(&mut self, lines: &[String], cut: Cut) {
        let mut bytes = Vec::new();
        for line in lines {
            if !line.starts_with('<') {
                bytes.extend_from_slice(line.as_bytes());
                bytes.extend_from_slice(b"\r\n");
                continue;
            }
            self.give(&std::mem::take(&mut bytes), cut);
            match line.as_str() {
                "<closed>" => self.client.handle_closed(self.now),
                mark => self.give_tls(mark),
            }
        }
        self.give(&bytes, cut);
        self.collect();
    }

    fn play(dialog: &str, mut client: Client, early_data_bytes_max: usize, cut: Cut) -> Self {
        let now = Now::simulated_ms(0);
        if early_data_bytes_max == FAST_OPEN {
            client.handle_fast_open();
        }
        let mut run = Self {
            client,
            now,
            said: Vec::new(),
            outcome: None,
            early_data_bytes_max,
            in_tls: false,
            in_the_clear: Vec::new(),
        };
        run.collect();
        for turn in turns(dialog) {
            if turn.client {
                assert_eq!(run.said, turn.lines, "{cut:?}");
                run.said.clear();
            } else {
                run.server_turn(&turn.lines, cut);
            }
        }
        assert_eq!(run.said, Vec::<String>::new(), "said beyond the dialog's end, {cut:?}");
        let clear = String::from_utf8_lossy(&run.in_the_clear);
        assert!(!clear.contains(CREDENTIAL) && !clear.contains("c2VjcmV0"), "a secret left in the clear");
        run
    }
}

/// An amount of early data that also stands for a SYN that carries the first flight.
const FAST_OPEN: usize = 1_000;

/// Plays the dialog in all cuts; returns what became of it when it was not cut.
fn play_with(dialog: &str, make: impl Fn() -> Client, early_data_bytes_max: usize) -> (Outcome, Flights, Client) {
    let longest = turns(dialog).iter().map(|t| t.lines.iter().map(|l| l.len() + 2).sum()).max().unwrap_or(0);
    let cuts = (1..longest).map(Cut::At).chain([Cut::Single]);
    let whole = Run::play(dialog, make(), early_data_bytes_max, Cut::Whole);
    for cut in cuts {
        let run = Run::play(dialog, make(), early_data_bytes_max, cut);
        assert_eq!(run.outcome, whole.outcome, "{cut:?}");
        assert_eq!(run.client.memory(), whole.client.memory(), "{cut:?}");
    }
    let flights = *whole.client.flights();
    (whole.outcome.expect("the dialog settles all messages"), flights, whole.client)
}

#[expect(clippy::needless_pass_by_value, reason = "each dialog makes its own, and reads better without borrows")]
fn play(dialog: &str, config: Config, memory: ServerMemory, messages: Vec<Message>) -> (Outcome, Flights, Client) {
    let now = Now::simulated_ms(0);
    play_with(dialog, || Client::new(now, config.clone(), memory.clone(), messages.clone()), 0)
}

fn accepted(outcome: &Outcome) -> bool {
    outcome.failure.is_none() && outcome.messages.iter().flatten().all(Verdict::is_accepted)
}

fn assert_packets(dialog: &str, config: &Config, memory: &ServerMemory, mail_packet: u32, packets: u32) {
    let (outcome, flights, _) = play(dialog, config.clone(), memory.clone(), vec![message_to(&["b@y"])]);
    assert!(accepted(&outcome), "{outcome:?}");
    assert_eq!(flights.mail_packet(), Some(mail_packet), "the packet of MAIL");
    // QUIT is the one flight after the last reply.
    assert_eq!(flights.packet() - 1, packets, "the packets before the final reply");
}

// ── The rows of Appendix A ──────────────────────────────────────────────────────────────────────────────────────────

const BDAT: &str = "
    C: MAIL FROM:<a@x>
    C: RCPT TO:<b@y>
    C: BDAT 5 LAST
    C: .hi
    S: 250 ok
    S: 250 ok
    S: 250 taken
    C: QUIT
    C: <done>
    S: 221 bye
    C: <close>";

const PIPELINED_LOGIN_AND_BDAT: &str = "
    C: AUTH PLAIN AGFubgBzZWNyZXQ=
    C: MAIL FROM:<a@x>
    C: RCPT TO:<b@y>
    C: BDAT 5 LAST
    C: .hi
    S: 220 ok
    S: 235 ok
    S: 250 ok
    S: 250 ok
    S: 250 taken
    C: QUIT
    C: <done>
    S: 221 bye
    C: <close>";

const GREETING: &str = "
    S: 220-s
    S: 220-PIPELINING
    S: 220-STARTTLS
    S: 220 QUICKSTART QTLS QHLO=c1 STARTTLS";

const SECURED_GREETING: &str = "
    S: 220-s
    S: 220-PIPELINING
    S: 220-CHUNKING
    S: 220-AUTH PLAIN LOGIN
    S: 220 QUICKSTART AUTH QHLO=s1";

#[test]
fn plain_esmtp_sends_mail_in_the_9th_packet() {
    let dialog = "
        S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 go
        C: <tls>
        S: <tls12>
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250 AUTH PLAIN
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        S: 235 ok
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 354 go
        C: ..hi
        C: .
        S: 250 taken
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    assert_packets(dialog, &config(), &ServerMemory::default(), 9, 10);
}

#[test]
fn a_pipelined_qhlo_alone_sends_mail_in_the_8th_packet() {
    let dialog = "
        S: 220-s
        S: 220-PIPELINING
        S: 220-STARTTLS
        S: 220 QUICKSTART
        C: QHLO c
        C: STARTTLS
        S: 220 ok
        S: 220 go
        C: <tls>
        S: <tls12>
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250-CHUNKING
        S: 250 AUTH PLAIN
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        S: 235 ok";
    assert_packets(&format!("{dialog}{BDAT}"), &config(), &ServerMemory::default(), 8, 8);
}

#[test]
fn qtls_and_qhlo_without_pipelined_login_send_mail_in_the_6th_packet() {
    let dialog = format!(
        "{GREETING}
        C: QTLS
        C: <tls>
        S: <tls12>
        S: 220-s
        S: 220-PIPELINING
        S: 220-CHUNKING
        S: 220-AUTH PLAIN
        S: 220 QUICKSTART
        C: QHLO c
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        S: 220 ok
        S: 235 ok"
    );
    assert_packets(&format!("{dialog}{BDAT}"), &config(), &ServerMemory::default(), 6, 6);
}

fn basic_dialog(tls: &str) -> String {
    format!(
        "{GREETING}
        C: QTLS
        C: <tls>
        S: {tls}
        {SECURED_GREETING}
        C: QHLO c{PIPELINED_LOGIN_AND_BDAT}"
    )
}

#[test]
fn the_basic_profile_sends_mail_in_the_5th_packet_and_with_tls_1_3_in_the_4th() {
    assert_packets(&basic_dialog("<tls12>"), &config(), &ServerMemory::default(), 5, 5);
    assert_packets(&basic_dialog("<tls>"), &config(), &ServerMemory::default(), 4, 4);
}

#[test]
fn the_basic_profile_remembers_and_never_speaks_early() {
    let basic = Config { profile: Profile::Basic, ..config() };
    let message = vec![message_to(&["b@y"])];
    let (outcome, _, client) = play(&basic_dialog("<tls>"), basic, full_memory(), message);
    assert!(accepted(&outcome));
    assert_eq!(client.memory().at(Point::Connect), Some(&list(&CONNECT_LIST)));
    assert_eq!(client.memory().at(Point::Secured), Some(&list(&SECURED_LIST)));
}

#[test]
fn qtls_with_a_full_qhlo_inside_sends_mail_in_the_4th_packet() {
    let dialog = format!(
        "{GREETING}
        C: QTLS
        C: <tls>
        S: <tls>
        C: QHLO c s1
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        {SECURED_GREETING}
        S: 220 ok
        S: 235 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>"
    );
    assert_packets(&dialog, &config(), &remembered(&[], &SECURED_LIST), 4, 4);
}

fn full_dialog(tls: &str) -> String {
    format!(
        "C: QHLO c c1
        C: STARTTLS
        C: <tls>
        {GREETING}
        S: 220 ok
        S: 220 go
        S: {tls}
        C: QHLO c s1{PIPELINED_LOGIN_AND_BDAT}"
    )
}

#[test]
fn the_full_profile_sends_mail_in_the_4th_packet_and_with_tls_1_3_in_the_3rd() {
    assert_packets(&full_dialog("<tls12>"), &config(), &full_memory(), 4, 4);
    assert_packets(&full_dialog("<tls>"), &config(), &full_memory(), 3, 3);
}

fn wrong_id_dialog(tls: &str) -> String {
    format!(
        "C: QHLO c c1
        C: STARTTLS
        C: <tls>
        S: 220-s
        S: 220-PIPELINING
        S: 220-STARTTLS
        S: 220 QUICKSTART QTLS QHLO=c2 STARTTLS
        S: 520 wrong id
        S: 503 bad sequence
        C: <abandon>
        C: QHLO c c2
        C: QTLS
        C: <tls>
        S: 220 ok
        S: {tls}
        {SECURED_GREETING}
        C: QHLO c{PIPELINED_LOGIN_AND_BDAT}"
    )
}

#[test]
fn a_wrong_id_falls_back_and_sends_mail_in_the_5th_packet() {
    let memory = remembered(&CONNECT_LIST, &[]);
    assert_packets(&wrong_id_dialog("<tls12>"), &config(), &memory, 5, 5);
    let message = vec![message_to(&["b@y"])];
    let (_, _, client) = play(&wrong_id_dialog("<tls>"), config(), memory, message);
    assert_eq!(client.memory().at(Point::Connect).unwrap().qhlo_id(), Some("c2"), "the new list is remembered");
}

#[test]
fn implicit_tls_sends_mail_in_the_3rd_packet() {
    let dialog = format!(
        "C: <tls>
        S: <tls>
        C: QHLO c s1
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        {SECURED_GREETING}
        S: 220 ok
        S: 235 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>"
    );
    let implicit = Config { security: Security::Implicit, ..config() };
    assert_packets(&dialog, &implicit, &remembered(&[], &SECURED_LIST), 3, 3);
}

// ── Early data ──────────────────────────────────────────────────────────────────────────────────────────────────────

const EARLY_FLIGHT: &str = "
    C: QHLO c c1
    C: STARTTLS
    C: <tls>
    C: QHLO c s1
    C: AUTH PLAIN AGFubgBzZWNyZXQ=
    C: MAIL FROM:<a@x>
    C: RCPT TO:<b@y>
    C: BDAT 5 LAST
    C: .hi";

fn early_memory() -> ServerMemory {
    remembered(&CONNECT_LIST, &["PIPELINING", "CHUNKING", "AUTH PLAIN", "QUICKSTART AUTH QHLO=s1 XEARLYDATA"])
}

fn play_early(dialog: &str, early_data_bytes_max: usize) -> (Outcome, Flights) {
    let now = Now::simulated_ms(0);
    let make = || Client::new(now, config(), early_memory(), vec![message_to(&["b@y"])]);
    let (outcome, flights, _) = play_with(dialog, make, early_data_bytes_max);
    (outcome, flights)
}

const REPLIES: &str = "
    S: 220 ok
    S: 235 ok
    S: 250 ok
    S: 250 ok
    S: 250 taken
    C: QUIT
    C: <done>
    S: 221 bye
    C: <close>";

#[test]
fn early_data_sends_mail_in_the_2nd_packet_and_with_fast_open_in_the_1st() {
    let dialog = format!("{EARLY_FLIGHT}{GREETING}\nS: 220 ok\nS: 220 go\nS: <accepted>{REPLIES}");
    let (outcome, flights) = play_early(&dialog, 10_000);
    assert!(accepted(&outcome));
    assert_eq!((flights.mail_packet(), flights.packet() - 1), (Some(2), 2));
    let (outcome, flights) = play_early(&dialog, FAST_OPEN);
    assert!(accepted(&outcome));
    assert_eq!((flights.mail_packet(), flights.packet() - 1), (Some(1), 1));
}

#[test]
fn rejected_early_data_is_sent_again() {
    let resent = EARLY_FLIGHT.split_once("<tls>").unwrap().1;
    let dialog = format!("{EARLY_FLIGHT}{GREETING}\nS: 220 ok\nS: 220 go\nS: <rejected>{resent}{REPLIES}");
    assert!(accepted(&play_early(&dialog, 10_000).0));
}

#[test]
fn early_data_is_thrown_away_with_the_handshake() {
    let dialog = format!(
        "{EARLY_FLIGHT}
        S: 220-s
        S: 220-PIPELINING
        S: 220-STARTTLS
        S: 220 QUICKSTART QTLS QHLO=c2 STARTTLS
        S: 520 wrong id
        S: 503 bad sequence
        C: <abandon>
        C: QHLO c c2
        C: QTLS
        C: <tls>
        C: QHLO c s1
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: 220 ok
        S: <accepted>
        {SECURED_GREETING}{REPLIES}"
    );
    assert!(accepted(&play_early(&dialog, 10_000).0));
}

#[test]
fn what_does_not_fit_the_early_data_follows_the_handshake() {
    let now = Now::simulated_ms(0);
    let mut client = Client::new(now, config(), early_memory(), vec![message_to(&["b@y"])]);
    let mut output = Vec::new();
    while client.poll_output(now, &mut output) > 0 {}
    assert_eq!(client.poll_action(), Action::StartTls);
    client.handle_tls_started(now, 20);
    output.clear();
    while client.poll_output(now, &mut output) > 0 {}
    assert_eq!(output, b"QHLO c s1\r\nAUTH PLAI");
    assert_eq!(client.poll_action(), Action::Wait);
    client.handle_bytes(now, b"220 s\r\n220 ok\r\n220 go\r\n");
}

#[test]
fn no_early_data_goes_to_a_server_that_did_not_announce_it() {
    let now = Now::simulated_ms(0);
    let mut client = Client::new(now, config(), full_memory(), vec![message_to(&["b@y"])]);
    let mut output = Vec::new();
    while client.poll_output(now, &mut output) > 0 {}
    assert_eq!(client.poll_action(), Action::StartTls);
    client.handle_tls_started(now, 10_000);
    assert_eq!(client.poll_output(now, &mut output), 0);
}

// ── Fallbacks ───────────────────────────────────────────────────────────────────────────────────────────────────────

const EHLO_INSIDE: &str = "
    C: EHLO c
    S: 250-s
    S: 250-PIPELINING
    S: 250-CHUNKING
    S: 250 AUTH PLAIN
    C: AUTH PLAIN AGFubgBzZWNyZXQ=
    S: 235 ok";

fn plain_esmtp_from_greeting() -> String {
    format!(
        "S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 go
        C: <tls>
        S: <tls>{EHLO_INSIDE}{BDAT}"
    )
}

/// Everything that can be said at once, up to the end of a message: in the clear, and inside TLS before any reply there.
fn hurried_flight() -> String {
    format!(
        "C: QHLO c c1
        C: STARTTLS
        C: <tls>
        {GREETING}
        S: 220 ok
        S: 220 go
        S: <tls>
        C: QHLO c s1
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi"
    )
}

#[test]
fn a_521_with_the_list_is_answered_with_the_right_id_and_all_is_said_again() {
    let flight = hurried_flight();
    let dialog = format!(
        "{flight}
        S: 521-s
        S: 521-PIPELINING
        S: 521-CHUNKING
        S: 521-AUTH PLAIN
        S: 521 QUICKSTART AUTH QHLO=s2
        S: 503 5.5.1 bad sequence
        S: 503 5.5.1 bad sequence
        S: 503 5.5.1 bad sequence
        S: 503 5.5.1 bad sequence
        C: QHLO c s2{PIPELINED_LOGIN_AND_BDAT}"
    );
    let (outcome, _, client) = play(&dialog, config(), full_memory(), vec![message_to(&["b@y"])]);
    assert!(accepted(&outcome));
    assert_eq!(client.memory().at(Point::Secured).unwrap().qhlo_id(), Some("s2"));
}

#[test]
fn a_withdrawn_quickstart_after_a_pipelined_handshake_means_a_new_connection_in_plain_esmtp() {
    let esmtp = plain_esmtp_from_greeting();
    for greeting in ["S: 220 s\nC: <plain>", &format!("{GREETING}\nS: 502 5.5.1 what?\nC: <plain>")] {
        let dialog = format!("C: QHLO c c1\nC: STARTTLS\nC: <tls>\n{greeting}\n{esmtp}");
        let (outcome, _, client) = play(&dialog, config(), full_memory(), vec![message_to(&["b@y"])]);
        assert!(accepted(&outcome));
        assert!(client.memory().avoids_quickstart(Now::simulated_ms(0).unix));
        assert_eq!(client.connections(), 2);
    }
}

#[test]
fn a_server_that_closes_on_early_commands_is_spoken_to_in_plain_esmtp() {
    let esmtp = plain_esmtp_from_greeting();
    for server in ["S: <closed>", &format!("{GREETING}\nS: <closed>"), "S: 554 you speak too early"] {
        let dialog = format!("C: QHLO c c1\nC: STARTTLS\nC: <tls>\n{server}\nC: <plain>\n{esmtp}");
        assert!(accepted(&play(&dialog, config(), full_memory(), vec![message_to(&["b@y"])]).0), "{server}");
    }
}

#[test]
fn a_withdrawn_quickstart_without_a_hurried_handshake_is_answered_with_ehlo() {
    let dialog = format!(
        "C: QHLO c c1
        C: STARTTLS
        S: 220 s
        S: 500 5.5.1 what?
        S: 503 no
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 go
        C: <tls>
        S: <tls>{EHLO_INSIDE}{BDAT}"
    );
    let memory = remembered(&["PIPELINING", "STARTTLS", "QUICKSTART QHLO=c1"], &[]);
    let (outcome, _, client) = play(&dialog, config(), memory, vec![message_to(&["b@y"])]);
    assert!(accepted(&outcome));
    assert_eq!(client.memory().at(Point::Connect).unwrap().quickstart, None);
}

#[test]
fn quickstart_that_is_refused_inside_tls_after_qtls_means_a_new_connection() {
    let dialog = format!(
        "{GREETING}
        C: QTLS
        C: <tls>
        S: <tls>
        C: QHLO c s1
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: 220 s
        S: 550 5.7.1 no
        S: 503 no
        S: 503 no
        S: 503 no
        S: 503 no
        C: <plain>
        {}",
        plain_esmtp_from_greeting()
    );
    let memory = remembered(&[], &SECURED_LIST);
    assert!(accepted(&play(&dialog, config(), memory, vec![message_to(&["b@y"])]).0));
}

#[test]
fn a_message_that_was_taken_in_spite_of_a_refused_hello_is_not_sent_again() {
    let dialog = "
        C: <tls>
        S: <tls>
        C: QHLO c s1
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: 220 s
        S: 502 what?
        S: 235 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken
        C: EHLO c
        S: 250 s
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    let implicit = Config { security: Security::Implicit, ..config() };
    let memory = remembered(&[], &SECURED_LIST);
    assert!(accepted(&play(dialog, implicit, memory, vec![message_to(&["b@y"])]).0));
}

#[test]
fn a_server_that_is_not_available_is_tried_later() {
    for server in ["S: 421 4.3.2 down", "S: 220 s\nS: 421 down", &format!("{GREETING}\nS: 451 4.3.2 full")] {
        let memory = remembered(&["PIPELINING", "STARTTLS", "QUICKSTART QHLO=c1"], &[]);
        let dialog = format!("C: QHLO c c1\nC: STARTTLS\n{server}\nC: <done>\nC: <close>");
        let (outcome, ..) = play(&dialog, config(), memory, vec![message_to(&["b@y"])]);
        assert!(matches!(outcome.failure, Some(Failure::TryLater(_))), "{outcome:?}");
        assert!(outcome.messages[0][0].is_temporary());
    }
}

#[test]
fn a_pipelined_starttls_that_is_put_off_abandons_the_handshake_and_sends_nothing() {
    let dialog = format!(
        "C: QHLO c c1
        C: STARTTLS
        C: <tls>
        {GREETING}
        S: 220 ok
        S: 454 4.7.0 no TLS now
        C: <abandon>
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>"
    );
    let (outcome, ..) = play(&dialog, config(), full_memory(), vec![message_to(&["b@y"])]);
    assert!(matches!(outcome.failure, Some(Failure::TlsUnavailable(_))), "{outcome:?}");
}

#[test]
fn a_failed_pipelined_login_ends_the_session_and_its_530s_are_no_verdicts() {
    let flight = hurried_flight();
    let dialog = format!(
        "{flight}
        S: 220 ok
        S: 535 5.7.8 wrong password
        S: 530 5.7.0 Authentication failure
        S: 530 5.7.0 Authentication failure
        S: 530 5.7.0 Authentication failure
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>"
    );
    let (outcome, ..) = play(&dialog, config(), full_memory(), vec![message_to(&["b@y"])]);
    let refused = Failure::LoginRefused(Reply::new(535, "5.7.8 wrong password"));
    assert_eq!(outcome.messages, [[Verdict::Unsent(refused.clone())]]);
    assert_eq!(outcome.failure, Some(refused));
}

/// A pipelined login that is answered so, with the message behind it.
fn play_login(replies: &str) -> Outcome {
    let flight = hurried_flight();
    let dialog = format!(
        "{flight}
        S: 220 ok
        {replies}
        C: <done>
        C: <close>"
    );
    play(&dialog, config(), full_memory(), vec![message_to(&["b@y"])]).0
}

#[test]
fn a_server_that_closes_behind_a_failed_login_has_taken_nothing() {
    let refused = Failure::LoginRefused(Reply::new(535, "no"));
    let deferred = Failure::LoginDeferred(Reply::new(454, "not now"));
    for (reply, failure) in [("S: 535 no", refused), ("S: 454 not now", deferred)] {
        let outcome = play_login(&format!("{reply}\nS: <closed>"));
        assert_eq!(outcome.messages, [[Verdict::Unsent(failure.clone())]]);
        assert_eq!(outcome.failure, Some(failure));
    }
}

#[test]
fn a_421_behind_a_failed_login_does_not_hide_it() {
    let outcome = play_login("S: 535 no\nS: 421 4.7.0 too many errors");
    assert_eq!(outcome.failure, Some(Failure::LoginRefused(Reply::new(535, "no"))));
}

#[test]
fn a_changed_list_in_the_greeting_is_remembered_even_if_the_id_was_taken() {
    let dialog = "
        C: QHLO c s1
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: 220-s
        S: 220-PIPELINING
        S: 220 QUICKSTART QHLO=s9
        S: 220 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    let memory = remembered(&SECURED_LIST, &[]);
    let (outcome, _, client) = play(dialog, plain_config(), memory, vec![message_to(&["b@y"])]);
    assert!(accepted(&outcome));
    assert_eq!(client.memory().at(Point::Connect).unwrap().qhlo_id(), Some("s9"));
}

#[test]
fn an_id_of_one_point_is_never_used_at_the_other() {
    let dialog =
        format!("{GREETING}\nC: QTLS\nC: <tls>\nS: <tls>\n{SECURED_GREETING}\nC: QHLO c{PIPELINED_LOGIN_AND_BDAT}");
    let only_qtls = ["PIPELINING", "STARTTLS", "QUICKSTART QTLS QHLO=c1"];
    assert!(accepted(&play(&dialog, config(), remembered(&only_qtls, &[]), vec![message_to(&["b@y"])]).0));
}

#[test]
fn quickstart_is_tried_again_when_it_has_been_avoided_long_enough() {
    let mut memory = full_memory();
    memory.avoid_quickstart_until(Now::simulated_ms(1_000).unix);
    let speaks_early = |ms| {
        let now = Now::simulated_ms(ms);
        let mut client = Client::new(now, config(), memory.clone(), vec![message_to(&["b@y"])]);
        client.poll_output(now, &mut Vec::new()) > 0
    };
    assert!(!speaks_early(999));
    assert!(speaks_early(1_000));
}

// ── Plain ESMTP, as well as the server allows ───────────────────────────────────────────────────────────────────────

#[test]
fn a_server_that_announced_pipeconnect_gets_its_ehlo_early() {
    let dialog = format!(
        "C: EHLO c
        C: STARTTLS
        S: 220 s
        S: 250-s
        S: 250-PIPELINING
        S: 250-PIPECONNECT
        S: 250 STARTTLS
        S: 220 go
        C: <tls>
        S: <tls>
        C: EHLO c
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        S: 250-s
        S: 250-PIPELINING
        S: 250-CHUNKING
        S: 250-PIPECONNECT
        S: 250 AUTH PLAIN
        S: 235 ok{BDAT}"
    );
    let exim = ["PIPELINING", "PIPECONNECT", "STARTTLS"];
    let exim_inside = ["PIPELINING", "PIPECONNECT", "CHUNKING", "AUTH PLAIN"];
    assert_packets(&dialog, &config(), &remembered(&exim, &exim_inside), 5, 5);
}

#[test]
fn without_pipelining_each_command_waits() {
    let dialog = "
        S: 220 s
        C: EHLO c
        S: 250 s
        C: MAIL FROM:<a@x>
        S: 250 ok
        C: RCPT TO:<b@y>
        S: 250 ok
        C: DATA
        S: 354 go
        C: ..hi
        C: .
        S: 250 taken
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    assert!(accepted(&play(dialog, plain_config(), ServerMemory::default(), vec![message_to(&["b@y"])]).0));
}

#[test]
fn a_server_without_ehlo_gets_helo() {
    let dialog = "
        S: 220 s
        C: EHLO c
        S: 502 what?
        C: HELO c
        S: 250 s
        C: MAIL FROM:<a@x>
        S: 550 go away
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    let (outcome, ..) = play(dialog, plain_config(), ServerMemory::default(), vec![message_to(&["b@y"])]);
    assert_eq!(outcome.messages, [[Verdict::Refused(Reply::new(550, "go away"))]]);
}

#[test]
fn login_is_used_where_plain_is_not_offered() {
    let dialog = format!(
        "C: <tls>
        S: <tls>
        S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250-CHUNKING
        S: 250 AUTH LOGIN
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: YW5u
        S: 334 UGFzc3dvcmQ6
        C: c2VjcmV0
        S: 235 ok{BDAT}"
    );
    let implicit = Config { security: Security::Implicit, ..config() };
    let (outcome, _, mut client) = play(&dialog, implicit, ServerMemory::default(), vec![message_to(&["b@y"])]);
    assert!(accepted(&outcome));
    while let Some(entry) = client.poll_transcript() {
        assert!(!entry.text.contains("c2VjcmV0"), "{entry:?}");
    }
}

#[test]
fn the_transcript_shows_the_dialog_and_hides_the_secret() {
    let (_, _, mut client) = play(&full_dialog("<tls>"), config(), full_memory(), vec![message_to(&["b@y"])]);
    let entries: Vec<_> = std::iter::from_fn(|| client.poll_transcript()).collect();
    let find = |text: &str| entries.iter().find(|entry| entry.text == text).map(|entry| entry.packet);
    assert_eq!(find("QHLO c c1"), Some(2));
    assert_eq!(find("MAIL FROM:<a@x>"), Some(3));
    assert_eq!(find("250 taken"), Some(3));
    assert!(find("AUTH PLAIN (hidden)").is_some());
    assert!(entries.iter().all(|entry| !entry.text.contains(CREDENTIAL)));
}

#[test]
fn no_login_is_said_without_tls_even_if_the_server_asks_for_it() {
    let dialog = "
        S: 220 s
        C: EHLO c
        S: 250-s
        S: 250 AUTH PLAIN
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    for security in [Security::Plain, Security::IfOffered] {
        let config = Config { security, ..config() };
        let (outcome, ..) = play(dialog, config, ServerMemory::default(), vec![message_to(&["b@y"])]);
        assert_eq!(outcome.failure, Some(Failure::LoginNotOffered));
    }
    let (outcome, ..) = play(dialog, config(), ServerMemory::default(), vec![message_to(&["b@y"])]);
    assert_eq!(outcome.failure, Some(Failure::TlsNotOffered));
}

// ── Messages and recipients ─────────────────────────────────────────────────────────────────────────────────────────

fn after_ehlo(extensions: &str, rest: &str) -> String {
    let list: Vec<_> = extensions.split(',').collect();
    let (last, first) = list.split_last().unwrap();
    let first: String = first.iter().map(|line| format!("S: 250-{line}\n")).collect();
    format!("S: 220 s\nC: EHLO c\nS: 250-s\n{first}S: 250 {last}\n{rest}\nC: QUIT\nC: <done>\nS: 221 bye\nC: <close>")
}

fn play_plain(dialog: &str, messages: Vec<Message>) -> Outcome {
    play(dialog, plain_config(), ServerMemory::default(), messages).0
}

#[test]
fn refused_recipients_are_reported_and_the_others_get_the_message() {
    let dialog = after_ehlo(
        "PIPELINING,CHUNKING",
        "C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: RCPT TO:<c@y>
        C: RCPT TO:<d@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: 550 no such user
        S: 452 full
        S: 250 ok
        S: 250 taken",
    );
    let outcome = play_plain(&dialog, vec![message_to(&["b@y", "c@y", "d@y"])]);
    let expected = [
        Verdict::Refused(Reply::new(550, "no such user")),
        Verdict::Deferred(Reply::new(452, "full")),
        Verdict::Accepted(Reply::new(250, "taken")),
    ];
    assert_eq!(outcome.messages, [expected]);
    assert_eq!(outcome.failure, None);
}

#[test]
fn all_or_nothing_waits_for_the_recipients_and_sends_nothing_if_one_is_refused() {
    let dialog = after_ehlo(
        "PIPELINING,CHUNKING",
        "C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: RCPT TO:<c@y>
        S: 250 ok
        S: 550 no such user
        S: 250 ok",
    );
    let mut message = message_to(&["b@y", "c@y"]);
    message.all_or_nothing = true;
    let outcome = play_plain(&dialog, vec![message]);
    assert_eq!(outcome.messages[0][1], Verdict::Unsent(Failure::AllOrNothing));
}

#[test]
fn a_354_although_nobody_was_accepted_is_ended_at_once() {
    let dialog = after_ehlo(
        "PIPELINING",
        "C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: DATA
        S: 250 ok
        S: 550 no such user
        S: 354 go
        C: .
        S: 554 no valid recipients",
    );
    let outcome = play_plain(&dialog, vec![message_to(&["b@y"])]);
    assert_eq!(outcome.messages, [[Verdict::Refused(Reply::new(550, "no such user"))]]);
}

#[test]
fn the_next_message_follows_at_once_behind_rset_and_a_refusal_touches_only_its_own() {
    let dialog = after_ehlo(
        "PIPELINING,CHUNKING",
        "C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        C: RSET
        C: MAIL FROM:<a@x>
        C: RCPT TO:<c@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: 250 ok
        S: 552 too much
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken",
    );
    let outcome = play_plain(&dialog, vec![message_to(&["b@y"]), message_to(&["c@y"])]);
    assert_eq!(outcome.messages[0], [Verdict::Refused(Reply::new(552, "too much"))]);
    assert!(outcome.messages[1][0].is_accepted());
}

#[test]
fn a_refused_mail_with_pipelined_content_still_sends_what_it_announced() {
    let dialog = after_ehlo(
        "PIPELINING,CHUNKING",
        "C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: 553 not your address
        S: 503 no
        S: 503 no",
    );
    let outcome = play_plain(&dialog, vec![message_to(&["b@y"])]);
    assert_eq!(outcome.messages, [[Verdict::Refused(Reply::new(553, "not your address"))]]);
}

#[test]
fn limits_split_recipients_and_messages() {
    let dialog = "
        S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250-CHUNKING
        S: 250 LIMITS RCPTMAX=2 MAILMAX=1
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: RCPT TO:<c@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken
        C: <again>
        S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250-CHUNKING
        S: 250 LIMITS RCPTMAX=2 MAILMAX=1
        C: MAIL FROM:<a@x>
        C: RCPT TO:<d@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: 250 ok
        S: 250 taken
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    assert!(accepted(&play_plain(dialog, vec![message_to(&["b@y", "c@y", "d@y"])])));
}

#[test]
fn limits_on_domains_split_recipients() {
    let dialog = after_ehlo(
        "LIMITS RCPTDOMAINMAX=1",
        "C: MAIL FROM:<a@x>
        S: 250 ok
        C: RCPT TO:<b@y>
        S: 250 ok
        C: RCPT TO:<d@Y>
        S: 250 ok
        C: DATA
        S: 354 go
        C: ..hi
        C: .
        S: 250 taken
        C: MAIL FROM:<a@x>
        S: 250 ok
        C: RCPT TO:<c@z>
        S: 250 ok
        C: DATA
        S: 354 go
        C: ..hi
        C: .
        S: 250 taken",
    );
    assert!(accepted(&play_plain(&dialog, vec![message_to(&["b@y", "c@z", "d@Y"])])));
}

// ── LMTP ────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn after_lhlo(extensions: &str, rest: &str) -> String {
    let lines: String = extensions.split_whitespace().map(|word| format!("S: 250-{word}\n")).collect();
    format!("S: 220 s LMTP\nC: LHLO c\nS: 250-s\n{lines}S: 250 HELP\n{rest}")
}

fn play_lmtp(dialog: &str, messages: Vec<Message>) -> Outcome {
    // What is remembered is of no use: LMTP has no QUICKSTART.
    play(dialog, Config { dialect: Dialect::Lmtp, ..plain_config() }, full_memory(), messages).0
}

#[test]
fn lmtp_has_a_verdict_for_each_recipient_that_was_accepted_in_their_order() {
    let envelope = "
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: RCPT TO:<c@y>
        C: RCPT TO:<d@y>
        C: RCPT TO:<e@y>";
    let replies = "
        S: 250 ok
        S: 250 ok
        S: 550 nobody
        S: 250 ok
        S: 250 ok";
    let ends = "
        S: 250 taken for b
        S: 452 full
        S: 552 too much
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    let with_chunks = format!("{envelope}\nC: BDAT 5 LAST\nC: .hi\n{replies}\n{ends}");
    let with_data = format!("{envelope}\nC: DATA\n{replies}\nS: 354 go\nC: ..hi\nC: .\n{ends}");
    let expected = [
        Verdict::Accepted(Reply::new(250, "taken for b")),
        Verdict::Refused(Reply::new(550, "nobody")),
        Verdict::Deferred(Reply::new(452, "full")),
        Verdict::Refused(Reply::new(552, "too much")),
    ];
    for (extensions, dialog) in [("PIPELINING CHUNKING", with_chunks), ("PIPELINING", with_data)] {
        let message = message_to(&["b@y", "c@y", "d@y", "e@y"]);
        let outcome = play_lmtp(&after_lhlo(extensions, &dialog), vec![message]);
        assert_eq!((outcome.messages[0].as_slice(), &outcome.failure), (expected.as_slice(), &None));
    }
}

#[test]
fn lmtp_answers_once_when_no_recipient_was_accepted_and_the_next_message_goes_on() {
    let dialog = "
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        C: RSET
        C: MAIL FROM:<a@x>
        C: RCPT TO:<c@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: 550 nobody
        S: 503 no valid recipients
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    let messages = vec![message_to(&["b@y"]), message_to(&["c@y"])];
    let outcome = play_lmtp(&after_lhlo("PIPELINING CHUNKING", dialog), messages);
    assert_eq!(outcome.messages[0], [Verdict::Refused(Reply::new(550, "nobody"))]);
    assert!(outcome.messages[1][0].is_accepted());
}

#[test]
fn lmtp_that_breaks_off_among_its_answers_leaves_only_the_unanswered_uncertain() {
    let dialog = "
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: RCPT TO:<c@y>
        C: RCPT TO:<d@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 250 taken for b
        S: 550 not for c
        S: <closed>
        C: <done>
        C: <close>";
    let outcome = play_lmtp(&after_lhlo("PIPELINING CHUNKING", dialog), vec![message_to(&["b@y", "c@y", "d@y"])]);
    let verdicts = &outcome.messages[0];
    assert!(verdicts[0].is_accepted() && matches!(verdicts[1], Verdict::Refused(_)), "{verdicts:?}");
    assert_eq!(verdicts[2], Verdict::Uncertain);
}

#[test]
fn a_server_that_knows_no_lhlo_is_no_lmtp_server() {
    let dialog = "
        S: 220 s ESMTP
        C: LHLO c
        S: 500 what?
        C: QUIT
        C: <done>
        S: 221 bye
        C: <close>";
    let outcome = play_lmtp(dialog, vec![message_to(&["b@y"])]);
    assert!(matches!(outcome.failure, Some(Failure::Refused(_))), "{outcome:?}");
}

// ── What the server cannot take ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_message_that_requires_tls_goes_only_inside_tls_to_a_server_that_requires_it_too() {
    let mut message = message_to(&["b@y"]);
    message.requires_tls = true;
    let outcome = play_plain(&after_ehlo("REQUIRETLS,CHUNKING", ""), vec![message.clone()]);
    assert_eq!(outcome.messages[0][0], Verdict::Unsent(Failure::RequireTlsNotOffered), "there is no TLS");

    let end = "C: QUIT\nC: <done>\nS: 221 bye\nC: <close>";
    let secured = |list: &str, rest: &str| format!("C: <tls>\nS: <tls>\nS: 220 s\nC: EHLO c\nS: 250-s\n{list}\n{rest}");
    let config = Config { security: Security::Implicit, login: None, ..config() };
    let dialog = secured("S: 250 CHUNKING", end);
    let (outcome, _, _) = play(&dialog, config.clone(), ServerMemory::default(), vec![message.clone()]);
    assert_eq!(outcome.messages[0][0], Verdict::Unsent(Failure::RequireTlsNotOffered), "it does not offer it");

    let taken = BDAT.replace("MAIL FROM:<a@x>", "MAIL FROM:<a@x> REQUIRETLS");
    let dialog = secured("S: 250-PIPELINING\nS: 250-REQUIRETLS\nS: 250 CHUNKING", &taken);
    let (outcome, _, _) = play(&dialog, config, ServerMemory::default(), vec![message]);
    assert!(accepted(&outcome), "{outcome:?}");
}

#[test]
fn who_passes_on_the_messages_of_others_sends_no_8_bit_bytes_where_they_are_not_welcome() {
    let mut message = message_to(&["b@y"]);
    message.content = Content::normalised("ü\n".as_bytes());
    message.eight_bit = EightBit::Refuse;
    let outcome = play_plain(&after_ehlo("CHUNKING", ""), vec![message]);
    assert_eq!(outcome.messages[0][0], Verdict::Unsent(Failure::EightBitMimeNotOffered));
}

#[test]
fn what_the_server_cannot_take_is_not_sent() {
    let too_large = play_plain(&after_ehlo("SIZE 4", ""), vec![message_to(&["b@y"])]);
    assert_eq!(too_large.messages, [[Verdict::Unsent(Failure::TooLarge { limit: 4 })]]);
    let utf8 = play_plain(&after_ehlo("SIZE", ""), vec![message_to(&["jürgen@y"])]);
    assert_eq!(utf8.messages, [[Verdict::Unsent(Failure::Smtputf8NotOffered)]]);
    let mut message = message_to(&["b@y", "c@y"]);
    message.all_or_nothing = true;
    let many = play_plain(&after_ehlo("LIMITS RCPTMAX=1", ""), vec![message]);
    assert_eq!(many.messages[0][0], Verdict::Unsent(Failure::TooManyRecipients { limit: 1 }));
}

#[test]
fn a_connection_that_stays_takes_more_messages() {
    let now = Now::simulated_ms(0);
    let stay = Config { ending: Ending::Stay, ..plain_config() };
    let mut client = Client::new(now, stay, ServerMemory::default(), vec![message_to(&["b@y"])]);
    let mut output = Vec::new();
    for replies in ["220 s\r\n", "250-s\r\n250-PIPELINING\r\n250 CHUNKING\r\n", "250 a\r\n250 b\r\n250 c\r\n"] {
        client.handle_bytes(now, replies.as_bytes());
        while client.poll_output(now, &mut output) > 0 {}
    }
    assert!(matches!(client.poll_action(), Action::Done(_)));
    assert_eq!(client.poll_action(), Action::Wait);
    // However long the next message lets wait for itself, that is no silence of the server.
    assert_eq!(client.poll_timeout(), None);
    let now = Now::simulated_ms(3_600_000);
    client.handle_message(message_to(&["c@y"]));
    client.handle_timeout(now);
    output.clear();
    client.poll_output(now, &mut output);
    assert!(output.starts_with(b"MAIL"), "{}", String::from_utf8_lossy(&output));
    assert_eq!(client.poll_timeout(), Some(Duration::from_secs(4_200)));
    client.handle_bytes(now, b"250 a\r\n250 b\r\n250 c\r\n");
    client.handle_quit();
    output.clear();
    client.poll_output(now, &mut output);
    assert_eq!(output, b"QUIT\r\n");
}

#[test]
fn a_server_that_stops_right_behind_its_answer_to_the_last_message_has_taken_it() {
    let dialog = "
        S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250 CHUNKING
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: 250 ok
        S: 250 taken
        S: 421 4.3.2 bye
        C: <done>
        C: <close>";
    let client = Client::new(Now::simulated_ms(0), plain_config(), ServerMemory::default(), vec![message_to(&["b@y"])]);
    let run = Run::play(dialog, client, 0, Cut::Whole);
    assert!(accepted(&run.outcome.unwrap()));
}

const ENVELOPE_AND_DATA: &str = "
    C: MAIL FROM:<a@x>
    C: RCPT TO:<b@y>
    C: DATA";

const ENVELOPE_AND_BDAT: &str = "
    C: MAIL FROM:<a@x>
    C: RCPT TO:<b@y>
    C: BDAT 5 LAST
    C: .hi";

/// What becomes of one message to a server that answers it so and is not spoken to any more.
fn play_to_an_end(extensions: &str, message: &str, replies: &str) -> Outcome {
    let dialog = format!(
        "S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250 {extensions}{message}
        {replies}
        C: <done>
        C: <close>"
    );
    play_plain(&dialog, vec![message_to(&["b@y"])])
}

#[test]
fn a_421_to_a_command_is_about_the_server_and_no_verdict_on_the_message() {
    let failure = Failure::TryLater(Reply::new(421, "4.3.2 bye"));
    for before in ["", "S: 250 ok\n", "S: 250 ok\nS: 250 ok\n"] {
        let outcome = play_to_an_end("HELP", ENVELOPE_AND_DATA, &format!("{before}S: 421 4.3.2 bye"));
        assert_eq!(outcome.messages, [[Verdict::Unsent(failure.clone())]], "{before}");
        assert_eq!(outcome.failure, Some(failure.clone()), "{before}");
    }
}

#[test]
fn a_421_to_a_message_defers_it_and_is_about_the_server_too() {
    let reply = Reply::new(421, "4.3.2 bye");
    let outcome = play_to_an_end("CHUNKING", ENVELOPE_AND_BDAT, "S: 250 ok\nS: 250 ok\nS: 421 4.3.2 bye");
    assert_eq!(outcome.messages, [[Verdict::Deferred(reply.clone())]]);
    assert_eq!(outcome.failure, Some(Failure::TryLater(reply)));
}

#[test]
fn a_reply_of_a_class_that_does_not_belong_there_is_no_verdict() {
    for replies in ["S: 354 go", "S: 250 ok\nS: 354 go", "S: 250 ok\nS: 250 ok\nS: 354 go"] {
        let outcome = play_to_an_end("CHUNKING", ENVELOPE_AND_BDAT, replies);
        assert_eq!(outcome.messages, [[Verdict::Uncertain]], "the message left whole: {replies}");
        assert_eq!(outcome.failure, Some(Failure::Unexpected(Reply::new(354, "go"))), "{replies}");
    }
    for (replies, reply) in [
        ("S: 354 go", Reply::new(354, "go")),
        ("S: 250 ok\nS: 250 ok\nS: 250 what?", Reply::new(250, "what?")),
        ("S: 250 ok\nS: 250 ok\nS: 334 what?", Reply::new(334, "what?")),
    ] {
        let outcome = play_to_an_end("HELP", ENVELOPE_AND_DATA, replies);
        assert_eq!(outcome.messages, [[Verdict::Unsent(Failure::Unexpected(reply))]], "{replies}");
        assert!(outcome.messages[0][0].is_temporary());
    }
}

// ── What a server may have taken before it said anything ────────────────────────────────────────────────────────────

/// A whole submission behind QTLS, to a server whose list inside TLS is remembered: nothing inside is answered yet.
const HURRIED: &str = "
    S: 220-s
    S: 220-PIPELINING
    S: 220-STARTTLS
    S: 220 QUICKSTART QTLS QHLO=c1 STARTTLS
    C: QTLS
    C: <tls>
    S: <tls>
    C: QHLO c s1
    C: AUTH PLAIN AGFubgBzZWNyZXQ=
    C: MAIL FROM:<a@x>
    C: RCPT TO:<b@y>
    C: BDAT 5 LAST
    C: .hi
    ";

const OVER: &str = "\nC: <done>\nC: <close>";

/// The same messages in plain ESMTP.
fn in_plain_esmtp(mail: &str, inside: &str) -> String {
    let esmtp = plain_esmtp_from_greeting();
    format!("\nC: <plain>\n{}", esmtp.replace("MAIL FROM:<a@x>", mail).replace("250-CHUNKING", inside))
}

fn with_token(recipients: &[&str]) -> Message {
    Message { once: Some(Xtext::once_token("t").unwrap()), ..message_to(recipients) }
}

const ONCE_LIST: [&str; 5] = ["PIPELINING", "CHUNKING", "XONCE", "AUTH PLAIN LOGIN", "QUICKSTART AUTH QHLO=s1"];

#[test]
fn a_message_that_left_whole_before_a_server_agreed_to_anything_is_not_sent_again() {
    for replies in [
        "S: <closed>",
        "S: 220 s\nS: <closed>",
        "S: 220 s\nS: 550 5.7.1 no\nS: <closed>",
        "S: 220 s\nS: 550 5.7.1 no\nS: 235 in\nS: 250 ok\nS: 250 ok\nS: <closed>",
        "S: rubbish",
    ] {
        let dialog = format!("{HURRIED}{replies}{OVER}");
        let memory = remembered(&[], &SECURED_LIST);
        let (outcome, _, client) = play(&dialog, config(), memory, vec![message_to(&["b@y"])]);
        assert_eq!(outcome.messages, [[Verdict::Uncertain]], "{replies}");
        assert!(outcome.failure.is_some(), "{replies}");
        assert!(client.memory().avoids_quickstart(Now::simulated_ms(0).unix), "{replies}");
    }
}

#[test]
fn a_message_that_left_along_with_its_commands_has_the_time_of_a_message() {
    let now = Now::simulated_ms(0);
    let memory = remembered(&SECURED_LIST, &[]);
    let mut client = Client::new(now, plain_config(), memory, vec![message_to(&["b@y"])]);
    client.poll_output(now, &mut Vec::new());
    assert_eq!(client.poll_timeout(), Some(Duration::from_secs(600)));
    client.handle_timeout(Now::simulated_ms(600_000));
    let Action::Done(outcome) = client.poll_action() else { panic!("it goes on") };
    assert_eq!((outcome.messages, outcome.failure), (vec![vec![Verdict::Uncertain]], Some(Failure::TimedOut)));
}

#[test]
fn however_the_hurry_began_the_message_may_be_there() {
    let flight = "
        C: QHLO c s1
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: <closed>";
    let pipelined = format!("C: QHLO c c1\nC: STARTTLS\nC: <tls>{GREETING}\nS: 220 ok\nS: 220 go\nS: <tls>{flight}");
    let implicit = format!("C: <tls>\nS: <tls>{flight}");
    let plain = format!("C: QHLO c s1{ENVELOPE_AND_BDAT}\nS: <closed>");
    for (dialog, config, memory) in [
        (pipelined, config(), full_memory()),
        (implicit, Config { security: Security::Implicit, ..config() }, full_memory()),
        (plain, plain_config(), remembered(&SECURED_LIST, &[])),
    ] {
        let dialog = format!("{dialog}{OVER}");
        let (outcome, ..) = play(&dialog, config, memory, vec![message_to(&["b@y"])]);
        assert_eq!(outcome.messages, [[Verdict::Uncertain]], "{dialog}");
    }
}

#[test]
fn the_messages_behind_one_that_may_be_there_go_on_in_plain_esmtp() {
    let rest = in_plain_esmtp("MAIL FROM:<a@x>", "250-CHUNKING").replace("b@y", "c@y");
    let dialog = format!("{HURRIED}S: <closed>{rest}");
    let messages = vec![message_to(&["b@y"]), message_to(&["c@y"])];
    let (outcome, ..) = play(&dialog, config(), remembered(&[], &SECURED_LIST), messages);
    assert_eq!(outcome.messages[0], [Verdict::Uncertain]);
    assert!(outcome.messages[1][0].is_accepted());
    assert_eq!(outcome.failure, None);
}

#[test]
fn a_message_that_cannot_have_been_taken_is_sent_again_at_once() {
    let never_left = HURRIED.split_once("S: <tls>").unwrap().0.to_owned() + "S: <tls>\nS: <closed>";
    let mail_refused = format!("{HURRIED}S: 220 s\nS: 550 5.7.1 no\nS: 503 no\nS: 503 no\nS: <closed>");
    let id_refused = format!("{HURRIED}{}\nS: 520 wrong id\nS: <closed>", SECURED_GREETING.trim());
    let not_served = format!("{HURRIED}S: 554 no");
    for start in [never_left, mail_refused, id_refused, not_served] {
        let dialog = format!("{start}{}", in_plain_esmtp("MAIL FROM:<a@x>", "250-CHUNKING"));
        let memory = remembered(&[], &SECURED_LIST);
        let (outcome, ..) = play(&dialog, config(), memory, vec![message_to(&["b@y"])]);
        assert!(accepted(&outcome), "{start}");
    }
}

#[test]
fn a_message_that_may_be_there_is_sent_again_under_its_token() {
    let mail = "MAIL FROM:<a@x> XONCE=t";
    let start = HURRIED.replace("MAIL FROM:<a@x>", mail) + "S: <closed>";
    let dialog = format!("{start}{}", in_plain_esmtp(mail, "250-CHUNKING\nS: 250-XONCE"));
    let memory = remembered(&[], &ONCE_LIST);
    let (outcome, ..) = play(&dialog, config(), memory, vec![with_token(&["b@y"])]);
    assert!(accepted(&outcome));
}

#[test]
fn without_token_or_not_to_all_at_once_a_message_that_may_be_there_is_not_sent_again() {
    let start = HURRIED.replace("MAIL FROM:<a@x>", "MAIL FROM:<a@x> XONCE=t") + "S: <closed>\nC: <plain>\n";
    let esmtp = plain_esmtp_from_greeting();
    let until_login = esmtp.split_once("C: MAIL").unwrap().0;
    let bye = "C: QUIT\nC: <done>\nS: 221 bye\nC: <close>";
    let not_offered = format!("{start}{until_login}{bye}");
    let memory = remembered(&[], &ONCE_LIST);
    let (outcome, ..) = play(&not_offered, config(), memory.clone(), vec![with_token(&["b@y"])]);
    assert_eq!(outcome.messages, [[Verdict::Uncertain]]);

    // In two parts it would be two other messages.
    let two = |dialog: &str| dialog.replace("C: RCPT TO:<b@y>", "C: RCPT TO:<b@y>\nC: RCPT TO:<c@y>");
    let until_login = until_login.replace("250-CHUNKING", "250-LIMITS RCPTMAX=1\nS: 250-XONCE");
    let in_parts = format!("{}{until_login}{bye}", two(&start));
    let (outcome, ..) = play(&in_parts, config(), memory, vec![with_token(&["b@y", "c@y"])]);
    assert_eq!(outcome.messages, [[Verdict::Uncertain, Verdict::Uncertain]]);
}

/// A server that takes messages once, up to the beginning of the first.
fn once_hello(extensions: &str) -> String {
    format!("S: 220 s\nC: EHLO c\nS: 250-s\nS: 250-PIPELINING\nS: 250-CHUNKING\n{extensions}S: 250 HELP\n")
}

/// One message in one flight, under the token, up to its answer.
const UNDER_TOKEN: &str = "
    C: MAIL FROM:<a@x> XONCE=t
    C: RCPT TO:<b@y>
    C: BDAT 5 LAST
    C: .hi
    S: 250 ok
    S: 250 ok
    ";

const BYE: &str = "
    C: QUIT
    C: <done>
    S: 221 bye
    C: <close>";

#[test]
fn the_parts_of_a_message_bear_one_token_and_go_one_after_the_other() {
    let hello = once_hello("S: 250-XONCE\nS: 250-LIMITS RCPTMAX=1\n");
    let second = UNDER_TOKEN.replace("b@y", "c@y");
    let dialog = format!("{hello}{UNDER_TOKEN}S: 250 taken\n{second}S: 250 taken\n{BYE}");
    assert!(accepted(&play_plain(&dialog, vec![with_token(&["b@y", "c@y"])])));
    let lost = format!("{hello}{UNDER_TOKEN}S: <closed>{OVER}");
    let outcome = play_plain(&lost, vec![with_token(&["b@y", "c@y"])]);
    assert_eq!(outcome.messages, [[Verdict::Uncertain, Verdict::Unsent(Failure::Closed)]], "one part is in doubt");
}

fn in_doubt(recipients: &[&str]) -> Message {
    Message { doubted: true, ..with_token(recipients) }
}

/// Up to the answer for the second recipient.
const BOTH_ASKED: &str = "
    C: MAIL FROM:<a@x> XONCE=t
    C: RCPT TO:<b@y>
    C: RCPT TO:<c@y>
    S: 250 ok
    S: 250 ok
    ";

#[test]
fn a_message_in_doubt_is_sent_to_all_at_once_and_under_its_token() {
    let content = "C: BDAT 5 LAST\nC: .hi\n";
    let dialog = format!("{}{BOTH_ASKED}S: 250 ok\n{content}S: 250 taken\n{BYE}", once_hello("S: 250-XONCE\n"));
    assert!(accepted(&play_plain(&dialog, vec![in_doubt(&["b@y", "c@y"])])));
    let refused = BOTH_ASKED.replace("S: 250 ok", "S: 550 no");
    let dialog = format!("{}{refused}S: 550 no\n{BYE}", once_hello("S: 250-XONCE\n"));
    let outcome = play_plain(&dialog, vec![in_doubt(&["b@y", "c@y"])]);
    assert!(matches!(&*outcome.messages[0], [Verdict::Refused(_), Verdict::Refused(_)]), "{outcome:?}");
}

/// Waits for the answers to RCPT: the server takes the message for those whom it accepts now.
#[test]
fn a_message_in_doubt_is_not_sent_to_some_of_its_recipients_only() {
    let refused = format!("{}{BOTH_ASKED}S: 451 later\n{BYE}", once_hello("S: 250-XONCE\n"));
    let outcome = play_plain(&refused, vec![in_doubt(&["b@y", "c@y"])]);
    assert!(matches!(&*outcome.messages[0], [Verdict::Uncertain, Verdict::Deferred(_)]), "{outcome:?}");
}

#[test]
fn a_message_in_doubt_is_not_sent_without_its_token_nor_in_parts_nor_where_it_does_not_fit() {
    let uncertain = [[Verdict::Uncertain, Verdict::Uncertain]];
    let once = "S: 250-XONCE\n";
    for extensions in ["", &format!("{once}S: 250-LIMITS RCPTMAX=1\n"), &format!("{once}S: 250-SIZE 1\n")] {
        let dialog = format!("{}{BYE}", once_hello(extensions));
        let outcome = play_plain(&dialog, vec![in_doubt(&["b@y", "c@y"])]);
        assert_eq!(outcome.messages, uncertain, "{extensions}");
        assert_eq!(outcome.failure, None, "{extensions}");
    }
    for server in ["S: <closed>", "S: 421 4.3.2 down"] {
        let outcome = play_plain(&format!("{server}{OVER}"), vec![in_doubt(&["b@y", "c@y"])]);
        assert_eq!(outcome.messages, uncertain, "{server}");
    }
}

#[test]
fn a_message_in_doubt_waits_until_a_list_that_is_only_remembered_is_confirmed() {
    let hello = "
        C: QHLO c s1
        S: 220-s
        S: 220-PIPELINING
        S: 220-CHUNKING
        S: 220-XONCE
        S: 220 QUICKSTART AUTH QHLO=s2
        S: 520 wrong id
        C: QHLO c s2";
    let answered = UNDER_TOKEN.replacen("S: 250 ok", "S: 250 ok\nS: 250 ok", 1);
    let dialog = format!("{hello}{answered}S: 250 taken\n{BYE}");
    let without_once = remembered(&["PIPELINING", "CHUNKING", "QUICKSTART AUTH QHLO=s1"], &[]);
    let (outcome, ..) = play(&dialog, plain_config(), without_once, vec![in_doubt(&["b@y"])]);
    assert!(accepted(&outcome), "{outcome:?}");
}

#[test]
fn a_message_that_may_be_there_stays_so_whatever_becomes_of_the_second_attempt() {
    let start = HURRIED.replace("MAIL FROM:<a@x>", "MAIL FROM:<a@x> XONCE=t") + "S: <closed>\nC: <plain>\n";
    let esmtp = plain_esmtp_from_greeting().replace("MAIL FROM:<a@x>", "MAIL FROM:<a@x> XONCE=t");
    let (with_mail, _) = esmtp.split_once("S: 250 taken").unwrap();
    let with_mail = with_mail.replace("250-CHUNKING", "250-CHUNKING\nS: 250-XONCE") + "S: <closed>";
    for second in ["S: <closed>", "S: 421 4.3.2 down", "S: 554 no", &with_mail] {
        let end = if second == "S: 554 no" { "\nC: QUIT\nC: <done>\nS: 221 bye\nC: <close>" } else { OVER };
        let dialog = format!("{start}{second}{end}");
        let memory = remembered(&[], &ONCE_LIST);
        let (outcome, ..) = play(&dialog, config(), memory, vec![with_token(&["b@y"])]);
        assert_eq!(outcome.messages, [[Verdict::Uncertain]], "{second}");
        assert!(outcome.failure.is_some(), "{second}");
    }
}

#[test]
fn early_data_without_a_token_is_taken_only_when_the_handshake_is_done() {
    let agreed = format!("{EARLY_FLIGHT}{GREETING}\nS: 220 ok\nS: 220 go\n");
    let (outcome, _) = play_early(&format!("{agreed}S: <accepted>\nS: <closed>{OVER}"), 10_000);
    assert_eq!(outcome.messages, [[Verdict::Uncertain]]);

    let again = in_plain_esmtp("MAIL FROM:<a@x>", "250-CHUNKING");
    for server in ["S: <closed>", "S: <rejected>\nS: <closed>"] {
        let (outcome, _) = play_early(&format!("{agreed}{server}{again}"), 10_000);
        assert!(accepted(&outcome), "{server}");
    }
}

#[test]
fn early_data_with_a_token_may_be_taken_before_the_handshake_is_done() {
    let mail = "MAIL FROM:<a@x> XONCE=t";
    let flight = EARLY_FLIGHT.replace("MAIL FROM:<a@x>", mail);
    let inside = ["PIPELINING", "CHUNKING", "XONCE", "AUTH PLAIN", "QUICKSTART AUTH QHLO=s1 XEARLYDATA"];
    let make = || {
        let memory = remembered(&CONNECT_LIST, &inside);
        Client::new(Now::simulated_ms(0), config(), memory, vec![with_token(&["b@y"])])
    };
    let unusual = format!("{}\nS: 520 wrong id\nS: 220 go", GREETING.replace("QHLO=c1", "QHLO=c2"));
    for server in ["\nS: <closed>", unusual.as_str()] {
        let again = in_plain_esmtp(mail, "250-CHUNKING\nS: 250-XONCE");
        let (outcome, ..) = play_with(&format!("{flight}{server}{again}"), make, 10_000);
        assert!(accepted(&outcome), "{server}");
        let lost = format!("{flight}{server}\nC: <plain>\nS: <closed>{OVER}");
        let (outcome, ..) = play_with(&lost, make, 10_000);
        assert_eq!(outcome.messages, [[Verdict::Uncertain]], "{server}");
    }
}

// ── Servers that abuse ──────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_connection_lost_after_the_message_leaves_its_fate_uncertain() {
    let dialog = "
        S: 220 s
        C: EHLO c
        S: 250-s
        S: 250-PIPELINING
        S: 250 CHUNKING
        C: MAIL FROM:<a@x>
        C: RCPT TO:<b@y>
        C: BDAT 5 LAST
        C: .hi
        S: 250 ok
        S: <closed>
        C: <done>
        C: <close>";
    let outcome = play_plain(dialog, vec![message_to(&["b@y"])]);
    assert_eq!(outcome.messages, [[Verdict::Uncertain]]);
    assert_eq!(outcome.failure, Some(Failure::Closed));
}

#[test]
fn what_is_no_reply_ends_the_session() {
    for (bytes, error) in [
        ("S: 220-s\nS: 221 t", ReplyError::MixedCodes),
        ("S: hello", ReplyError::NoCode),
        ("S: 220 a\0b", ReplyError::Nul),
    ] {
        let dialog = format!("{bytes}\nC: <done>\nC: <close>");
        let outcome = play_plain(&dialog, vec![message_to(&["b@y"])]);
        assert_eq!(outcome.failure, Some(Failure::Protocol(error)), "{bytes:?}");
    }
}

#[test]
fn a_reply_that_nobody_asked_for_ends_the_session() {
    let dialog = "S: 220 s\nS: 250 injected\nC: EHLO c\nC: <done>\nC: <close>";
    let now = Now::simulated_ms(0);
    let mut client = Client::new(now, plain_config(), ServerMemory::default(), vec![message_to(&["b@y"])]);
    client.handle_bytes(now, dialog.as_bytes());
    client.poll_output(now, &mut Vec::new());
    assert!(matches!(client.poll_action(), Action::Done(Outcome { failure: Some(_), .. })));
}

#[test]
fn bytes_injected_behind_the_reply_to_starttls_are_never_read_as_replies() {
    let now = Now::simulated_ms(0);
    let mut client = Client::new(now, config(), ServerMemory::default(), vec![message_to(&["b@y"])]);
    let mut output = Vec::new();
    for replies in ["220 s\r\n", "250 STARTTLS\r\n250"] {
        client.handle_bytes(now, replies.as_bytes());
        client.poll_output(now, &mut output);
    }
    let mut client = Client::new(now, config(), ServerMemory::default(), vec![message_to(&["b@y"])]);
    client.handle_bytes(now, b"220 s\r\n");
    client.poll_output(now, &mut output);
    client.handle_bytes(now, b"250-s\r\n250 STARTTLS\r\n");
    client.poll_output(now, &mut output);
    let taken = client.handle_bytes(now, b"220 go\r\n250 injected\r\n");
    assert_eq!(taken, 8);
    assert_eq!(client.incoming(), Layer::Tls);
}

#[test]
fn a_silent_server_is_given_up_when_its_time_has_come() {
    let now = Now::simulated_ms(0);
    let mut client = Client::new(now, plain_config(), ServerMemory::default(), vec![message_to(&["b@y"])]);
    assert_eq!(client.poll_action(), Action::Wait);
    client.handle_timeout(Now::simulated_ms(299_999));
    assert_eq!(client.poll_action(), Action::Wait);
    client.handle_timeout(Now::simulated_ms(300_000));
    assert!(matches!(client.poll_action(), Action::Done(Outcome { failure: Some(Failure::TimedOut), .. })));
    assert_eq!(client.poll_action(), Action::Close);
    assert_eq!(client.poll_timeout(), None);
}

/// Numbers that look random and are the same in every run with the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

#[test]
fn no_server_however_wild_makes_the_client_panic_loop_or_leak() {
    const LINES: [&str; 24] = [
        "220 s",
        "220-s\r\n220 QUICKSTART QTLS QHLO=c9 STARTTLS",
        "250-s\r\n250-PIPELINING\r\n250 STARTTLS",
        "250 ok",
        "220 go",
        "235 in",
        "334 ",
        "354 go",
        "421 bye",
        "450 4.3.2 no",
        "451 later",
        "454 no TLS",
        "500 what",
        "502 what",
        "503 bad",
        "520 id",
        "521 no",
        "521-s\r\n521-PIPELINING\r\n521 QUICKSTART AUTH QHLO=s9",
        "530 no",
        "535 no",
        "550 no",
        "554 no",
        "250-s\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 AUTH PLAIN LOGIN",
        "rubbish",
    ];
    for seed in 1..20_000_u64 {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let memory = [ServerMemory::default(), full_memory(), early_memory()][numbers.below(3)].clone();
        let security = [Security::Implicit, Security::Required, Security::IfOffered][numbers.below(3)];
        let now = Now::simulated_ms(0);
        let messages = vec![message_to(&["b@y", "c@z"]), message_to(&["d@y"])];
        let client = Client::new(now, Config { security, ..config() }, memory, messages);
        let early_data_bytes_max = [0, 20, 10_000][numbers.below(3)];
        let in_the_clear = Vec::new();
        let (said, outcome) = (Vec::new(), None);
        let mut run = Run { client, now, said, outcome, early_data_bytes_max, in_tls: false, in_the_clear };
        run.collect();
        for _ in 0..numbers.below(40) {
            match numbers.below(12) {
                0 if run.in_tls => {
                    run.client.handle_secured(now, [EarlyData::Accepted, EarlyData::Rejected][numbers.below(2)]);
                }
                1 if seed % 5 == 0 => run.client.handle_closed(now),
                _ => {
                    let line = format!("{}\r\n", LINES[numbers.below(LINES.len())]);
                    run.client.handle_bytes(now, line.as_bytes());
                }
            }
            run.collect();
        }
        run.client.handle_closed(now);
        run.collect();
        run.client.handle_closed(now);
        run.collect();
        run.client.handle_closed(now);
        run.collect();
        let clear = String::from_utf8_lossy(&run.in_the_clear);
        assert!(!clear.contains(CREDENTIAL) && !clear.contains("c2VjcmV0"), "seed {seed}: a secret left in the clear");
        let outcome = run.outcome.unwrap_or_else(|| panic!("seed {seed}: no outcome"));
        assert_eq!(outcome.messages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1], "seed {seed}");
    }
}
