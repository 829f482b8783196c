//! Relays against servers that follow a script, over real sockets.
//!
//! In a script `S:` is what the server says and `C:` what it waits for: the beginning of a line, or a mark. `C: <7>` waits
//! for so many bytes, `C: <dot>` for the end of a message after DATA, `C: <end>` until the client closes; `S: <tls>` shakes
//! hands, `S: <noise>` breaks TLS, `S: <close>` closes, and so does the script's end. What stands on one line with ` | `
//! between is said in one piece.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use super::stream::Stream;
use super::{Relay, RelaySettings};
use crate::proto::client::Login;
use crate::proto::command::{Command, parse};
use crate::proto::message::Message;
use crate::proto::secret::Secret;
use crate::relay::outcome::{AttemptResult, Hop, Outcome};
use crate::relay::{Destination, LmtpAddress, RelayTls};
use crate::runtime::clock::Clock;
use crate::tls::Version;
use crate::tls::Versions;
use crate::tls::cache::SessionCache;
use crate::tls::certificate::{Certificate, SelfSigned, chain_from_pem};
use crate::tls::client::{ClientSettings, Trust, client_config};
use crate::tls::config::{CertificateSet, Certificates, Returning, ServerConfigs, ServerSettings};
use crate::tls::session::Session;

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// A server that plays one script for each connection, in order, and then takes no more.
struct Scripted {
    port: u16,
    thread: JoinHandle<Vec<String>>,
    trust: Trust,
}

impl Scripted {
    fn start(scripts: &[&str]) -> Self {
        Self::at("127.0.0.1", scripts)
    }

    /// At this address. Its certificate is good for `localhost` and 127.0.0.1.
    fn at(address: &str, scripts: &[&str]) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (configs, trust) = certified();
        let scripts: Vec<String> = scripts.iter().map(|script| (*script).to_owned()).collect();
        let thread = std::thread::spawn(move || {
            let (mut listener, last) = (Some(listener), scripts.len() - 1);
            let play = |(number, script): (usize, String)| {
                let (socket, _) = listener.as_ref().unwrap().accept().unwrap();
                listener.take_if(|_| number == last);
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let ending = socket.try_clone().unwrap();
                let heard = Playing::new(Box::new(socket), Arc::clone(&configs)).play(&script);
                let _ = ending.shutdown(Shutdown::Both);
                heard
            };
            scripts.into_iter().enumerate().map(play).collect()
        });
        Self { port, thread, trust }
    }

    fn settings(&self, tls: RelayTls) -> RelaySettings {
        settings(
            Destination::Relay { host: "localhost".to_owned(), port: self.port, implicit_tls: false },
            tls,
            &self.trust,
        )
    }

    /// What each connection heard, line by line.
    fn heard(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

fn certified() -> (Arc<ServerConfigs>, Trust) {
    let own = SelfSigned::new("localhost", Clock::start().now()).unwrap();
    let certificate = Certificate::from_pem(own.certificate.as_bytes(), own.key.as_bytes()).unwrap();
    let configs = ServerConfigs::new(&ServerSettings {
        certificates: Arc::new(Certificates::new(CertificateSet::new(&certificate, &[]))),
        minimum_version: Version::Tls12,
        sessions: Arc::new(SessionCache::new(64, Duration::from_secs(60)).unwrap()),
        returning: Returning::default(),
    });
    (Arc::new(configs), Trust::Roots(chain_from_pem(own.certificate.as_bytes()).unwrap()))
}

fn settings(destination: Destination, tls: RelayTls, trust: &Trust) -> RelaySettings {
    let trust = if tls == RelayTls::Require { trust.clone() } else { Trust::Anyone };
    RelaySettings {
        destination,
        host_name: "mail.example.org".to_owned(),
        connections_max: 2,
        idle: Duration::from_secs(60),
        reply_timeout: PATIENCE,
        tls,
        tls_config: client_config(ClientSettings { trust, versions: Versions::Both, sessions_max: 8 }).unwrap(),
        login: None,
    }
}

/// One connection of a scripted server.
struct Playing {
    socket: Box<dyn Socket>,
    configs: Arc<ServerConfigs>,
    tls: Option<Session>,
    input: Vec<u8>,
    heard: String,
}

impl Playing {
    fn new(socket: Box<dyn Socket>, configs: Arc<ServerConfigs>) -> Self {
        Self { socket, configs, tls: None, input: Vec::new(), heard: String::new() }
    }

    fn play(mut self, script: &str) -> String {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let done = match (line.split_at(2), line.get(3..).unwrap_or_default()) {
                (("S:", _), "<close>") => return self.heard,
                (("S:", _), "<tls>") => self.shake_hands(),
                (("S:", _), "<noise>") => self.socket.write_all(b"this is no record of TLS").is_ok(),
                (("S:", _), text) => self.say(text),
                ((_, _), "<end>") => {
                    while self.receive() {}
                    true
                }
                ((_, _), "<dot>") => self.hear(|input| find(input, b"\r\n.\r\n").map(|at| at + 5)),
                ((_, _), mark) if mark.starts_with('<') => {
                    let bytes: usize = mark.trim_matches(['<', '>']).parse().unwrap();
                    self.hear(|input| (input.len() >= bytes).then_some(bytes))
                }
                ((_, _), beginning) => {
                    let heard = self.hear(|input| find(input, b"\r\n").map(|at| at + 2));
                    let last = self.heard.lines().last().unwrap_or_default();
                    assert!(!heard || last.starts_with(beginning), "{beginning} was expected, not {last}");
                    heard
                }
            };
            if !done {
                self.heard.push_str("<gone>\n");
                return self.heard;
            }
        }
        self.heard
    }

    fn say(&mut self, text: &str) -> bool {
        let line = format!("{}\r\n", text.replace(" | ", "\r\n"));
        let mut out = Vec::new();
        match &mut self.tls {
            None => out.extend_from_slice(line.as_bytes()),
            Some(tls) => {
                assert_eq!(tls.write(line.as_bytes()), line.len());
                tls.send(&mut out);
            }
        }
        self.socket.write_all(&out).is_ok()
    }

    fn shake_hands(&mut self) -> bool {
        let mut tls = Session::new(Arc::clone(&self.configs));
        let early = std::mem::take(&mut self.input);
        let mut out = Vec::new();
        let mut good = early.is_empty() || tls.receive(&early).is_ok();
        while good && tls.is_handshaking() {
            tls.send(&mut out);
            good = self.socket.write_all(&std::mem::take(&mut out)).is_ok();
            let mut buffer = [0; 16_384];
            match self.socket.read(&mut buffer) {
                Ok(bytes) if good && bytes > 0 => good = tls.receive(&buffer[..bytes]).is_ok(),
                _ => good = false,
            }
        }
        tls.send(&mut out);
        let _ = self.socket.write_all(&out);
        self.tls = Some(tls);
        self.take_plaintext();
        good
    }

    /// Waits until `end` finds where it ends; what came up to there is noted.
    fn hear(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> bool {
        loop {
            if let Some(end) = end(&self.input) {
                let taken: Vec<u8> = self.input.drain(..end).collect();
                self.heard.push_str(String::from_utf8_lossy(&taken).replace("\r\n", "\n").trim_end());
                self.heard.push('\n');
                return true;
            }
            if !self.receive() {
                return false;
            }
        }
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 16_384];
        let Ok(bytes) = self.socket.read(&mut buffer) else { return false };
        match &mut self.tls {
            None => self.input.extend_from_slice(&buffer[..bytes]),
            Some(tls) => {
                if tls.receive(&buffer[..bytes]).is_err() || tls.peer_closed() {
                    return false;
                }
                self.take_plaintext();
            }
        }
        bytes > 0
    }

    fn take_plaintext(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        loop {
            let plaintext = tls.plaintext().bytes;
            let bytes = plaintext.len();
            if bytes == 0 {
                return;
            }
            self.input.extend_from_slice(plaintext);
            tls.consume(bytes);
        }
    }
}

fn find(input: &[u8], what: &[u8]) -> Option<usize> {
    input.windows(what.len()).position(|window| window == what)
}

fn message(mail: &str, recipients: &[&str]) -> Message {
    let mut message = Message::default();
    let line = format!("MAIL FROM:{mail}");
    let Ok(Command::Mail(mail)) = parse(line.as_bytes()).command else { panic!("{line}") };
    message.envelope.begin(&mail, "ann");
    for rcpt in recipients {
        let line = format!("RCPT TO:<{rcpt}>");
        let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!("{line}") };
        message.envelope.add(&rcpt);
    }
    message.content.extend_from_slice(b"hello\r\n");
    message
}

/// Runs a task on an executor of its own. One that never ends fails its test and does not stop the others.
fn run<T: Send + 'static>(task: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let executor = || LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).make().unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(executor().run(task())));
    end.recv_timeout(2 * PATIENCE).expect("the task ends")
}

/// Carries messages one after the other, then says goodbye.
fn carry(settings: RelaySettings, messages: Vec<Message>) -> Vec<AttemptResult> {
    run(async move || {
        let relay = Relay::start(settings, Clock::start());
        let mut results = Vec::new();
        for message in &messages {
            let recipients: Vec<u32> = (0..message.envelope.recipient_count() as u32).collect();
            results.push(relay.carry(message, &recipients).await);
        }
        relay.close().await;
        results
    })
}

fn carry_one(settings: RelaySettings, message: Message) -> AttemptResult {
    carry(settings, vec![message]).remove(0)
}

/// Each outcome in a word, with its status.
fn words(result: &AttemptResult) -> Vec<String> {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Delivered(reason) => format!("delivered {}", reason.status),
        Outcome::Deferred(reason) => format!("deferred {}", reason.status),
        Outcome::Failed(reason) => format!("failed {}", reason.status),
    };
    result.outcomes.iter().map(|(number, outcome)| format!("{number} {}", word(outcome))).collect()
}

fn unreachable(result: &AttemptResult) -> String {
    match &result.hop {
        Hop::Unreachable(reason) => format!("{} {}", reason.status, reason.text),
        Hop::Reached | Hop::Unasked => panic!("it is not unreachable: {result:?}"),
    }
}

const HELLO: &str = "
    S: 220 hop
    C: EHLO mail.example.org
    S: 250-hop
    S: 250-PIPELINING
    S: 250 CHUNKING";

const ONE_MESSAGE: &str = "
    C: MAIL FROM:<a@b>
    C: RCPT TO:<c@d>
    C: BDAT 7 LAST
    C: <7>
    S: 250 sender
    S: 250 recipient
    S: 250 2.6.0 taken";

const GOODBYE: &str = "
    C: QUIT
    S: 221 bye";

// ── Connections ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn messages_go_over_one_connection_and_each_in_one_flight() {
    let hop = Scripted::start(&[&format!("{HELLO}{ONE_MESSAGE}{ONE_MESSAGE}{GOODBYE}")]);
    let messages = vec![message("<a@b>", &["c@d"]), message("<a@b>", &["c@d"])];
    let results = carry(hop.settings(RelayTls::Off), messages);
    for result in &results {
        assert_eq!((words(result), &result.hop), (vec!["0 delivered 2.6.0".to_owned()], &Hop::Reached));
    }
    let heard = hop.heard();
    assert_eq!(heard[0].matches("MAIL FROM").count(), 2, "{heard:?}");
}

#[test]
fn several_messages_at_once_share_as_many_connections_as_are_allowed() {
    let script = format!("{HELLO}{ONE_MESSAGE}{ONE_MESSAGE}{ONE_MESSAGE}{GOODBYE}");
    let hop = Scripted::start(&[&script]);
    let settings = RelaySettings { connections_max: 1, ..hop.settings(RelayTls::Off) };
    let delivered = run(async move || {
        let relay = Relay::start(settings, Clock::start());
        let message = message("<a@b>", &["c@d"]);
        assert_eq!(relay.capacity(), 1);
        let one = async || words(&relay.carry(&message, &[0]).await);
        let (first, (second, third)) = futures_lite::future::zip(one(), futures_lite::future::zip(one(), one())).await;
        assert_eq!(relay.capacity(), 1);
        relay.close().await;
        [first, second, third].concat()
    });
    assert_eq!(delivered, ["0 delivered 2.6.0", "0 delivered 2.6.0", "0 delivered 2.6.0"]);
    assert_eq!(hop.heard().len(), 1);
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_costs_nothing_but_a_new_one() {
    let closing = format!("{HELLO}{ONE_MESSAGE}\nS: 421 4.4.2 idle for too long");
    let hop = Scripted::start(&[&closing, &format!("{HELLO}{ONE_MESSAGE}{GOODBYE}")]);
    let results = carry(hop.settings(RelayTls::Off), vec![message("<a@b>", &["c@d"]), message("<a@b>", &["c@d"])]);
    assert!(results.iter().all(|result| words(result) == ["0 delivered 2.6.0"]), "{results:?}");
    assert_eq!(hop.heard().len(), 2);
}

#[test]
fn a_server_that_says_goodbye_right_behind_its_answer_gets_what_waits_over_a_new_connection() {
    let last = ONE_MESSAGE.replace("2.6.0 taken", "2.6.0 taken | 421 4.3.2 stopping");
    let hop = Scripted::start(&[
        &format!("{HELLO}{last}\nS: <close>"),
        &format!("{HELLO}{last}\nS: <close>"),
        &format!("{HELLO}{ONE_MESSAGE}{GOODBYE}"),
    ]);
    let settings = RelaySettings { connections_max: 1, ..hop.settings(RelayTls::Off) };
    let delivered = run(async move || {
        let relay = Relay::start(settings, Clock::start());
        let message = message("<a@b>", &["c@d"]);
        let one = async || words(&relay.carry(&message, &[0]).await);
        let (first, (second, third)) = futures_lite::future::zip(one(), futures_lite::future::zip(one(), one())).await;
        relay.close().await;
        [first, second, third].concat()
    });
    assert_eq!(delivered, ["0 delivered 2.6.0", "0 delivered 2.6.0", "0 delivered 2.6.0"]);
    assert_eq!(hop.heard().len(), 3);
}

#[test]
fn a_server_that_takes_one_message_on_a_connection_gets_one_on_each() {
    let hello = HELLO.replace("CHUNKING", "CHUNKING\nS: 250 LIMITS MAILMAX=1").replace("250 CHUNKING", "250-CHUNKING");
    let each = format!("{hello}{ONE_MESSAGE}{GOODBYE}");
    let once = format!("{hello}{ONE_MESSAGE}\nC: <end>");
    let hop = Scripted::start(&[&once, &each]);
    let results = carry(hop.settings(RelayTls::Off), vec![message("<a@b>", &["c@d"]), message("<a@b>", &["c@d"])]);
    assert!(results.iter().all(|result| words(result) == ["0 delivered 2.6.0"]), "{results:?}");
    assert_eq!(hop.heard().len(), 2);
}

#[test]
fn an_idle_connection_says_goodbye_by_itself() {
    let hop = Scripted::start(&[&format!("{HELLO}{ONE_MESSAGE}{GOODBYE}\nC: <end>")]);
    let settings = RelaySettings { idle: Duration::ZERO, ..hop.settings(RelayTls::Off) };
    let heard = run(async move || {
        let relay = Relay::start(settings, Clock::start());
        assert_eq!(words(&relay.carry(&message("<a@b>", &["c@d"]), &[0]).await), ["0 delivered 2.6.0"]);
        while relay.hop.connections.get() > 0 {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        hop.heard()
    });
    assert!(heard[0].ends_with("QUIT\n"), "{heard:?}");
}

#[test]
fn all_addresses_are_tried_whether_the_server_or_the_client_speaks_first() {
    for first_flight in [&b""[..], b"QHLO early\r\n"] {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = silent.local_addr().unwrap();
        drop(silent);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [nobody, listener.local_addr().unwrap()];
        let heard = run(async move || {
            let stream = Stream::over_tcp(&addresses, first_flight).await.unwrap();
            let (mut server, _) = listener.accept().unwrap();
            drop(stream);
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).unwrap();
            heard
        });
        assert_eq!(heard, first_flight);
        let error = run(async move || Stream::over_tcp(&[nobody], first_flight).await.unwrap_err());
        assert!(error.to_string().starts_with(&nobody.to_string()), "{error}");
    }
}

#[test]
fn nobody_there_is_unreachable_and_every_recipient_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let destination = Destination::Relay { host: "127.0.0.1".to_owned(), port, implicit_tls: false };
    let result = carry_one(settings(destination, RelayTls::Off, &Trust::Anyone), message("<a@b>", &["c@d", "e@f"]));
    assert_eq!(words(&result), ["0 deferred 4.4.1", "1 deferred 4.4.1"]);
    let said = unreachable(&result);
    assert!(said.starts_with(&format!("4.4.1 relay:127.0.0.1:{port} cannot be reached: 127.0.0.1:{port}: ")), "{said}");
}

// ── What servers do ─────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn refusals_are_per_recipient_and_the_others_get_the_message() {
    let script = "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: RCPT TO:<e@d>
        C: RCPT TO:<f@d>
        C: BDAT 7 LAST
        C: <7>
        S: 250 sender
        S: 550 5.1.1 nobody
        S: 250 recipient
        S: 450 4.2.1 later
        S: 250 2.6.0 taken";
    let hop = Scripted::start(&[&format!("{HELLO}{script}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d", "e@d", "f@d"]));
    assert_eq!(words(&result), ["0 failed 5.1.1", "1 delivered 2.6.0", "2 deferred 4.2.1"]);
}

const ONE_OF_TWO: &str = "
    C: MAIL FROM:<a@b>
    C: RCPT TO:<c@d>
    C: RCPT TO:<e@d>
    C: BDAT 7 LAST
    C: <7>
    S: 250 sender
    S: 250 recipient
    S: 452 4.5.3 too many
    S: 250 2.6.0 taken";

#[test]
fn recipients_beyond_what_the_server_takes_at_once_follow_at_once() {
    let rest = ONE_MESSAGE.replace("<c@d>", "<e@d>").replace("2.6.0 taken", "2.6.0 taken too");
    let hop = Scripted::start(&[&format!("{HELLO}{ONE_OF_TWO}{rest}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d", "e@d"]));
    assert_eq!(words(&result), ["0 delivered 2.6.0", "1 delivered 2.6.0"]);
}

#[test]
fn recipients_beyond_what_the_server_takes_at_once_follow_over_a_new_connection_if_it_says_goodbye() {
    let rest = ONE_MESSAGE.replace("<c@d>", "<e@d>").replace("2.6.0 taken", "2.6.0 taken too");
    let first = format!("{HELLO}{ONE_OF_TWO} | 421 4.3.2 stopping\nS: <close>");
    let hop = Scripted::start(&[&first, &format!("{HELLO}{rest}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d", "e@d"]));
    assert_eq!(words(&result), ["0 delivered 2.6.0", "1 delivered 2.6.0"]);
    assert_eq!(hop.heard().len(), 2);
}

#[test]
fn who_has_the_message_has_it_though_nobody_is_there_for_those_who_were_to_follow() {
    let hop = Scripted::start(&[&format!("{HELLO}{ONE_OF_TWO}\nS: <close>")]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d", "e@d"]));
    assert_eq!(words(&result), ["0 delivered 2.6.0", "1 deferred 4.5.3"]);
}

#[test]
fn a_server_that_breaks_off_in_the_message_leaves_it_waiting_and_is_there_all_the_same() {
    let hello = HELLO.replace("CHUNKING", "8BITMIME");
    let script = "
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: DATA
        S: 250 sender
        S: 250 recipient
        S: <close>";
    let hop = Scripted::start(&[&format!("{hello}{script}")]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d"]));
    assert_eq!((words(&result), &result.hop), (vec!["0 deferred 4.4.2".to_owned()], &Hop::Reached));
}

#[test]
fn a_server_that_breaks_off_after_the_message_leaves_it_uncertain() {
    let script = ONE_MESSAGE.replace("S: 250 2.6.0 taken", "S: <close>");
    let hop = Scripted::start(&[&format!("{HELLO}{script}")]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d"]));
    assert_eq!((words(&result), &result.hop), (vec!["0 deferred 4.4.2".to_owned()], &Hop::Reached));
    let Outcome::Deferred(reason) = &result.outcomes[0].1 else { panic!("{result:?}") };
    assert_eq!(&*reason.text, "the message was sent, and the connection ended before the answer");
}

#[test]
fn where_messages_are_taken_once_a_lost_answer_is_asked_for_again_with_the_same_token() {
    let hello = HELLO.replace("250 CHUNKING", "250-CHUNKING\nS: 250 XONCE");
    let lost = ONE_MESSAGE.replace("S: 250 2.6.0 taken", "S: <close>");
    let hop = Scripted::start(&[&format!("{hello}{lost}"), &format!("{hello}{ONE_MESSAGE}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d"]));
    assert_eq!(words(&result), ["0 delivered 2.6.0"]);
    let heard = hop.heard();
    let mail = |heard: &str| heard.lines().find(|line| line.starts_with("MAIL")).unwrap().to_owned();
    assert!(mail(&heard[0]).contains(" XONCE=0000000000000000."), "{heard:?}");
    assert_eq!(mail(&heard[0]), mail(&heard[1]));
}

/// A hop that takes a message once and one recipient at a time: c has the message, the answer for e is lost.
fn lost_for_the_second() -> (String, String) {
    let hello = HELLO.replace("250 CHUNKING", "250-CHUNKING\nS: 250-XONCE\nS: 250 LIMITS RCPTMAX=1");
    let lost = for_e().replace("S: 250 2.6.0 taken", "S: <close>");
    (format!("{hello}{ONE_MESSAGE}{lost}"), hello)
}

fn for_e() -> String {
    ONE_MESSAGE.replace("<c@d>", "<e@d>")
}

/// What was said with each MAIL.
fn mails(heard: &[String]) -> Vec<&str> {
    heard.iter().flat_map(|heard| heard.lines()).filter(|line| line.starts_with("MAIL")).collect()
}

#[test]
fn who_has_the_message_has_it_though_a_lost_answer_cannot_be_asked_for_again() {
    let (first, hello) = lost_for_the_second();
    let nobody = for_e().replace("S: 250 recipient", "S: 550 5.1.1 nobody").replace("S: 250 2.6.0 taken", "S: 554 no");
    for (second, expected) in [
        (format!("{hello}\nS: <close>"), "1 deferred 4.4.2"),
        (format!("{HELLO}{GOODBYE}"), "1 deferred 4.4.2"),
        (format!("{hello}{nobody}{GOODBYE}"), "1 failed 5.1.1"),
        (format!("{hello}{}{GOODBYE}", for_e()), "1 delivered 2.6.0"),
    ] {
        let hop = Scripted::start(&[&first, &second]);
        let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d", "e@d"]));
        let heard = hop.heard();
        assert_eq!(words(&result), ["0 delivered 2.6.0", expected], "{heard:?}");
        assert!(!heard[1].contains("<c@d>"), "{heard:?}");
    }
}

#[test]
fn all_parts_of_a_message_and_all_attempts_bear_the_same_token() {
    let (first, hello) = lost_for_the_second();
    let hop = Scripted::start(&[&first, &format!("{hello}\nS: <close>"), &format!("{hello}{}{GOODBYE}", for_e())]);
    let settings = hop.settings(RelayTls::Off);
    let later = run(async move || {
        let relay = Relay::start(settings, Clock::start());
        let message = message("<a@b>", &["c@d", "e@d"]);
        assert_eq!(words(&relay.carry(&message, &[0, 1]).await), ["0 delivered 2.6.0", "1 deferred 4.4.2"]);
        let later = relay.carry(&message, &[1]).await;
        relay.close().await;
        later
    });
    assert_eq!(words(&later), ["1 delivered 2.6.0"]);
    let heard = hop.heard();
    let mails = mails(&heard);
    assert!(mails[0].contains(" XONCE=0000000000000000."), "{heard:?}");
    assert_eq!(mails, [mails[0]; 3]);
}

#[test]
fn who_follows_in_another_transaction_follows_under_the_same_token() {
    let hello = HELLO.replace("250 CHUNKING", "250-CHUNKING\nS: 250 XONCE");
    let hop = Scripted::start(&[&format!("{hello}{ONE_OF_TWO}{}{GOODBYE}", for_e())]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d", "e@d"]));
    assert_eq!(words(&result), ["0 delivered 2.6.0", "1 delivered 2.6.0"]);
    let heard = hop.heard();
    let mails = mails(&heard);
    assert!(mails[0].contains(" XONCE="), "{heard:?}");
    assert_eq!(mails, [mails[0]; 2]);
}

#[test]
fn an_answer_that_was_lost_on_a_connection_used_before_is_asked_for_again_too() {
    let (split, hello) = lost_for_the_second();
    let used = split.replacen(ONE_MESSAGE, &ONE_MESSAGE.repeat(2), 1);
    let hop = Scripted::start(&[&used, &format!("{hello}{}{GOODBYE}", for_e())]);
    let messages = vec![message("<a@b>", &["c@d"]), message("<a@b>", &["c@d", "e@d"])];
    let results = carry(hop.settings(RelayTls::Off), messages);
    assert_eq!(words(&results[1]), ["0 delivered 2.6.0", "1 delivered 2.6.0"]);
    let heard = hop.heard();
    assert!(!heard[1].contains("<c@d>"), "{heard:?}");
}

#[test]
fn a_server_that_is_being_stopped_is_unreachable() {
    let hop = Scripted::start(&["S: 421 4.3.2 stopping"]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d"]));
    assert_eq!(
        (words(&result), unreachable(&result)),
        (vec!["0 deferred 4.3.2".to_owned()], "4.3.2 421 4.3.2 stopping".to_owned())
    );
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    for (script, hop_says) in [
        ("C: <end>".to_owned(), Some("4.4.2 the server did not answer in time")),
        (format!("{HELLO}\nC: MAIL FROM:<a@b>\nC: <end>"), None),
    ] {
        let hop = Scripted::start(&[&script]);
        let settings = RelaySettings { reply_timeout: Duration::from_millis(50), ..hop.settings(RelayTls::Off) };
        let result = carry_one(settings, message("<a@b>", &["c@d"]));
        assert_eq!(words(&result), ["0 deferred 4.4.2"]);
        match hop_says {
            Some(words) => assert_eq!(unreachable(&result), words),
            None => assert_eq!(result.hop, Hop::Reached, "it is slow with this message"),
        }
    }
}

#[test]
fn what_is_no_smtp_server_is_unreachable() {
    let hop = Scripted::start(&["S: SSH-2.0-OpenSSH_9.2"]);
    let result = carry_one(hop.settings(RelayTls::Off), message("<a@b>", &["c@d"]));
    assert_eq!(words(&result), ["0 deferred 4.5.0"]);
    assert_eq!(unreachable(&result), "4.5.0 the server's reply does not begin with a code");
}

// ── TLS and login ───────────────────────────────────────────────────────────────────────────────────────────────────

const HELLO_WITH_TLS: &str = "
    S: 220 hop
    C: EHLO mail.example.org
    S: 250-hop
    S: 250 STARTTLS
    C: STARTTLS
    S: 220 go
    S: <tls>";

const HELLO_INSIDE: &str = "
    C: EHLO mail.example.org
    S: 250-hop
    S: 250-PIPELINING
    S: 250-AUTH PLAIN
    S: 250 CHUNKING";

#[test]
fn a_message_goes_inside_tls_and_the_login_too() {
    let login = "
        C: AUTH PLAIN AGFubgBzZWNyZXQ=
        S: 235 welcome";
    let hop = Scripted::start(&[&format!("{HELLO_WITH_TLS}{HELLO_INSIDE}{login}{ONE_MESSAGE}{GOODBYE}")]);
    let login = Login::new("ann", Secret::new(b"secret".to_vec())).unwrap();
    let settings = RelaySettings { login: Some(login), ..hop.settings(RelayTls::Require) };
    assert_eq!(words(&carry_one(settings, message("<a@b>", &["c@d"]))), ["0 delivered 2.6.0"]);
}

#[test]
fn tls_from_the_first_byte_goes_without_starttls() {
    let inside = HELLO_INSIDE.replacen("C: EHLO", "S: 220 hop\n    C: EHLO", 1);
    let hop = Scripted::start(&[&format!("S: <tls>{inside}{ONE_MESSAGE}{GOODBYE}")]);
    let destination = Destination::Relay { host: "localhost".to_owned(), port: hop.port, implicit_tls: true };
    let settings = RelaySettings { destination, ..hop.settings(RelayTls::Require) };
    assert_eq!(words(&carry_one(settings, message("<a@b>", &["c@d"]))), ["0 delivered 2.6.0"]);
}

#[test]
fn a_server_without_tls_gets_no_message_where_tls_is_required() {
    let hop = Scripted::start(&[&format!("{HELLO}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Require), message("<a@b>", &["c@d"]));
    assert_eq!(unreachable(&result), "4.7.5 the server does not offer TLS, which is required");
    let heard = hop.heard();
    assert!(!heard[0].contains("MAIL"), "{heard:?}");
}

#[test]
fn a_certificate_that_is_not_trusted_or_not_for_this_host_ends_it_before_anything_is_said() {
    let script = format!("{HELLO_WITH_TLS}{HELLO_INSIDE}");
    let stranger = Scripted::start(&[&script]);
    let (_, trust) = certified();
    let port = stranger.port;
    let relay_to = |host: &str, port| Destination::Relay { host: host.to_owned(), port, implicit_tls: false };
    let untrusted = settings(relay_to("localhost", port), RelayTls::Require, &trust);
    let elsewhere = Scripted::at("127.0.0.2", &[&script]);
    let misnamed = settings(relay_to("127.0.0.2", elsewhere.port), RelayTls::Require, &elsewhere.trust);
    for (settings, hop) in [(untrusted, stranger), (misnamed, elsewhere)] {
        let result = carry_one(settings, message("<a@b>", &["c@d"]));
        assert!(unreachable(&result).starts_with("4.7.5 TLS failed: "), "{result:?}");
        assert_eq!(words(&result), ["0 deferred 4.7.5"]);
        let heard = hop.heard();
        assert_eq!(heard[0].matches("EHLO").count(), 1, "{heard:?}");
    }
}

#[test]
fn opportunistic_tls_takes_any_certificate_and_does_without_one_that_does_not_work() {
    let inside = format!("{HELLO_WITH_TLS}{HELLO_INSIDE}{ONE_MESSAGE}{GOODBYE}");
    let hop = Scripted::start(&[&inside]);
    let result = carry_one(hop.settings(RelayTls::Opportunistic), message("<a@b>", &["c@d"]));
    assert_eq!(words(&result), ["0 delivered 2.6.0"]);
    assert!(hop.heard()[0].contains("STARTTLS"));

    let broken = HELLO_WITH_TLS.replace("S: <tls>", "S: 500 this is no TLS");
    let hop = Scripted::start(&[&broken, &format!("{HELLO}{ONE_MESSAGE}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Opportunistic), message("<a@b>", &["c@d"]));
    assert_eq!(words(&result), ["0 delivered 2.6.0"]);
}

#[test]
fn tls_that_fails_when_the_message_has_been_sent_is_not_done_without() {
    let message_sent = ONE_MESSAGE.split("S: 250 sender").next().unwrap();
    let broken = format!("{HELLO_WITH_TLS}{HELLO_INSIDE}{message_sent}\nS: <noise>\nC: <end>");
    let hop = Scripted::start(&[&broken, &format!("{HELLO}{ONE_MESSAGE}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Opportunistic), message("<a@b>", &["c@d"]));
    assert_eq!((words(&result), &result.hop), (vec!["0 deferred 4.4.2".to_owned()], &Hop::Reached));
}

#[test]
fn a_refused_login_leaves_all_mail_waiting() {
    let script = "
        C: AUTH PLAIN
        S: 535 5.7.8 no";
    let hop = Scripted::start(&[&format!("{HELLO_WITH_TLS}{HELLO_INSIDE}{script}{GOODBYE}")]);
    let login = Login::new("ann", Secret::new(b"wrong".to_vec())).unwrap();
    let settings = RelaySettings { login: Some(login), ..hop.settings(RelayTls::Require) };
    let result = carry_one(settings, message("<a@b>", &["c@d"]));
    assert_eq!(
        (words(&result), unreachable(&result)),
        (vec!["0 deferred 4.7.8".to_owned()], "4.7.8 535 5.7.8 no".to_owned())
    );
}

#[test]
fn a_message_that_requires_tls_is_not_handed_to_a_server_that_does_not_promise_it() {
    let hop = Scripted::start(&[&format!("{HELLO_WITH_TLS}{HELLO_INSIDE}{GOODBYE}")]);
    let result = carry_one(hop.settings(RelayTls::Require), message("<a@b> REQUIRETLS", &["c@d"]));
    assert_eq!((words(&result), &result.hop), (vec!["0 failed 5.7.30".to_owned()], &Hop::Reached));
    drop(hop);
    let destination = Destination::Relay { host: "127.0.0.1".to_owned(), port: 9, implicit_tls: false };
    let unverified = settings(destination, RelayTls::Opportunistic, &Trust::Anyone);
    let result = carry_one(unverified, message("<a@b> REQUIRETLS", &["c@d"]));
    assert_eq!(
        (words(&result), &result.hop),
        (vec!["0 failed 5.7.30".to_owned()], &Hop::Unasked),
        "it is not even asked"
    );
}

// ── LMTP ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const LMTP: &str = "
    S: 220 hop LMTP
    C: LHLO mail.example.org
    S: 250-hop
    S: 250-PIPELINING
    S: 250 8BITMIME
    C: MAIL FROM:<a@b>
    C: RCPT TO:<c@d>
    C: RCPT TO:<e@d>
    C: RCPT TO:<f@d>
    C: DATA
    S: 250 sender
    S: 250 recipient
    S: 550 5.1.1 nobody
    S: 250 recipient
    S: 354 go
    C: <dot>
    S: 250 2.0.0 saved
    S: 452 4.2.2 mailbox full
    C: QUIT
    S: 221 bye";

const LMTP_RESULT: [&str; 3] = ["0 delivered 2.0.0", "1 failed 5.1.1", "2 deferred 4.2.2"];

#[test]
fn lmtp_over_tcp_has_an_outcome_for_each_recipient() {
    let hop = Scripted::start(&[LMTP]);
    let destination = Destination::Lmtp(LmtpAddress::Tcp { host: "127.0.0.1".to_owned(), port: hop.port });
    let result =
        carry_one(settings(destination, RelayTls::Off, &Trust::Anyone), message("<a@b>", &["c@d", "e@d", "f@d"]));
    assert_eq!(words(&result), LMTP_RESULT);
    assert!(hop.heard()[0].contains("hello\n."));
}

#[test]
fn lmtp_over_a_unix_domain_socket_does_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let listener = UnixListener::bind(&path).unwrap();
    let (configs, _) = certified();
    let thread = std::thread::spawn(move || Playing::new(Box::new(listener.accept().unwrap().0), configs).play(LMTP));
    let lmtp =
        |path: &Path| settings(Destination::Lmtp(LmtpAddress::Unix(path.to_owned())), RelayTls::Off, &Trust::Anyone);
    let result = carry_one(lmtp(&path), message("<a@b>", &["c@d", "e@d", "f@d"]));
    assert_eq!(words(&result), LMTP_RESULT);
    thread.join().unwrap();
    let result = carry_one(lmtp(&directory.path().join("nobody")), message("<a@b>", &["c@d"]));
    assert!(unreachable(&result).contains("/nobody cannot be reached: "), "{result:?}");
}

/// A script that waits for what does not come ends the test.
const PATIENCE: Duration = Duration::from_secs(20);
