//! Plays the dialogs in `tests/dialogs/`, with TLS 1.2 and with TLS 1.3: whole, byte by byte, cut at every offset, and with
//! each character in a TLS record of its own.
//!
//! A dialog is written as in Appendix A of the draft. `C:` begins a packet of the client's, `S:` one of the server's; lines
//! without either belong to the same packet. How to write one is told in `tests/dialogs/README.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::BASE64;
use onetrip::proto::command::{Notify, Ret};
use onetrip::proto::envelope::Envelope;
use onetrip::proto::server::Opening;
use onetrip::tls::Versions;
use onetrip::tls::session::EarlyOutcome;
use support::{Client, Driver, PASSWORD, Site, USER, client_tls};

#[derive(Clone, Debug, Default)]
struct Dialog {
    name: String,
    /// `what: value` lines above the first packet.
    facts: HashMap<String, String>,
    packets: Vec<Packet>,
}

#[derive(Clone, Debug)]
struct Packet {
    side: Side,
    only: Option<&'static str>,
    items: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

impl Dialog {
    fn read(path: &Path) -> Self {
        let mut dialog = Self { name: path.file_stem().unwrap().to_string_lossy().into_owned(), ..Self::default() };
        for line in fs::read_to_string(path).unwrap().lines() {
            dialog.read_line(line);
        }
        assert!(!dialog.packets.is_empty(), "{}: no packets", dialog.name);
        dialog
    }

    fn read_line(&mut self, line: &str) {
        if line.trim().is_empty() || line.starts_with('#') {
            return;
        }
        let (only, line) = match line.split_once("| ") {
            Some(("1.2", rest)) => (Some("1.2"), rest),
            Some(("1.3", rest)) => (Some("1.3"), rest),
            _ => (None, line),
        };
        let side = match line.split_at_checked(2) {
            Some(("C:", _)) => Some(Side::Client),
            Some(("S:", _)) => Some(Side::Server),
            _ => None,
        };
        if let Some(side) = side {
            self.packets.push(Packet { side, only, items: vec![line[2..].trim_start().to_owned()] });
        } else if line.starts_with(' ') {
            let packet = self.packets.last_mut().unwrap_or_else(|| panic!("{}: {line:?} is in no packet", self.name));
            assert_eq!(packet.only, only, "{}: {line:?} is for another version than its packet", self.name);
            packet.items.push(line.trim_start().to_owned());
        } else {
            let (what, value) = line.split_once(':').unwrap_or_else(|| panic!("{}: cannot read {line:?}", self.name));
            self.facts.insert(what.to_owned(), value.trim().to_owned());
        }
    }

    fn fact(&self, what: &str) -> &str {
        self.facts.get(what).map_or("", String::as_str)
    }

    /// `9` for both versions, or `9 with TLS 1.2, 8 with TLS 1.3`.
    fn mail_in_packet(&self, version: &str) -> Option<usize> {
        let fact = self.fact("mail-in-packet");
        let part = fact.split(',').find(|part| part.ends_with(version)).unwrap_or(fact);
        part.split_whitespace().next().and_then(|number| number.parse().ok())
    }

    fn versions(&self) -> Vec<&'static str> {
        match self.fact("tls") {
            "1.2" => vec!["1.2"],
            "1.3" => vec!["1.3"],
            _ => vec!["1.2", "1.3"],
        }
    }
}

/// How packets are cut on their way to the server.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    EveryByte,
    /// Not cut, but inside TLS each character is a record.
    EveryCharacter,
    /// Each packet after so many bytes.
    At(usize),
}

impl Cut {
    fn pieces(self, packet: &[u8]) -> Vec<&[u8]> {
        match self {
            Self::Whole | Self::EveryCharacter => vec![packet],
            Self::EveryByte => packet.chunks(1).collect(),
            Self::At(offset) => {
                let (before, after) = packet.split_at(offset.min(packet.len()));
                vec![before, after]
            }
        }
    }
}

/// What a run found out about the dialog.
struct Played {
    longest_packet: usize,
    transcript: Vec<String>,
}

/// Dialogs played so far, so that each has tokens of its own.
static PLAYS: AtomicUsize = AtomicUsize::new(0);

struct Player<'a> {
    dialog: &'a Dialog,
    version: &'static str,
    cut: Cut,
    server: Driver,
    client: Client,
    ids: HashMap<&'static str, String>,
    packet_number: usize,
    mail_packet: Option<usize>,
    token: String,
    played: Played,
}

impl<'a> Player<'a> {
    fn new(dialog: &'a Dialog, version: &'static str, cut: Cut, site: &Site) -> Self {
        let versions = if version == "1.2" { Versions::Tls12 } else { Versions::Tls13 };
        let config = client_tls(versions);
        let ids = warm_up(site, &config);
        let warm = dialog.fact("client").contains("session");
        let config = if warm { config } else { client_tls(versions) };
        let logged_in = dialog.fact("logged-in") == "yes";
        let restarted = (dialog.fact("tickets") == "lost").then(|| site.restarted());
        let site = restarted.as_ref().unwrap_or(site);
        let implicit = logged_in || dialog.fact("listener") == "tls";
        let server = site.connect(if implicit { Opening::ImplicitTls } else { Opening::Clear });
        let played = Played { longest_packet: 0, transcript: Vec::new() };
        let token = format!("token-{}", PLAYS.fetch_add(1, Ordering::Relaxed));
        let client = Client::new(config);
        let mut player =
            Self { dialog, version, cut, server, client, ids, packet_number: 0, mail_packet: None, token, played };
        if logged_in {
            player.log_in();
        }
        player
    }

    /// Everything up to the good AUTH, for dialogs that are about what comes after.
    fn log_in(&mut self) {
        let mut packet = Vec::new();
        self.client.begin_tls(&mut packet);
        let mut replies = Vec::new();
        for _ in 0..3 {
            replies.extend(self.client.hear(&self.server.receive(&[&packet])).0);
            packet.clear();
            self.client.flush_tls(&mut packet);
        }
        let login = self.fill_in("EHLO client.example\r\nAUTH PLAIN <credentials>\r\n", 0);
        self.client.say(login.as_bytes(), &mut packet);
        replies.extend(self.client.hear(&self.server.receive(&[&packet])).0);
        assert!(replies.last().is_some_and(|reply| reply.starts_with("235")), "{}: {replies:?}", self.place());
    }

    fn play(mut self) -> Played {
        let packets: Vec<&Packet> =
            self.dialog.packets.iter().filter(|packet| packet.only.is_none_or(|only| only == self.version)).collect();
        let mut answers = None;
        for (at, packet) in packets.iter().enumerate() {
            match packet.side {
                Side::Client => {
                    self.packet_number += 1;
                    let greets_first = packets.get(at + 1).is_some_and(|next| next.side == Side::Server);
                    let bytes = self.assemble(packet);
                    if packet.items != ["TCP SYN"] || greets_first && self.packet_number > 1 {
                        answers = Some(self.exchange(&bytes));
                    }
                }
                Side::Server if packet.items == ["SYN/ACK"] => {}
                Side::Server => {
                    let (replies, any_tls) = answers.take().unwrap_or_else(|| panic!("{}: two answers", self.place()));
                    self.compare(packet, replies, any_tls);
                }
            }
        }
        self.finish();
        self.played
    }

    /// The bytes of a client's packet.
    fn assemble(&mut self, packet: &Packet) -> Vec<u8> {
        let mut bytes = Vec::new();
        let data_bytes: usize = data_lines(packet).map(data_line_bytes).sum();
        self.client.flush_tls(&mut bytes);
        for item in &packet.items {
            let item = item.strip_prefix("SMTP ").unwrap_or(item);
            match item {
                "TCP SYN" | "ACK" | "ACK only" => {}
                "TLS client hello" => self.client.begin_tls(&mut bytes),
                "TLS client hello, early data" => self.client.begin_tls_early(),
                _ if item.starts_with("TLS") => {
                    assert!(!bytes.is_empty(), "{}: TLS has nothing to say", self.place());
                }
                _ => {
                    let line = item.strip_prefix("| ").unwrap_or(item);
                    let line = if line == "|" { "" } else { line };
                    let text = self.fill_in(line, data_bytes);
                    if text.starts_with("MAIL ") && self.mail_packet.is_none() {
                        self.mail_packet = Some(self.packet_number);
                    }
                    let line = match text.strip_suffix("\\c") {
                        Some(unfinished) => unescape(unfinished),
                        None => format!("{}\r\n", unescape(&text)),
                    };
                    self.say(line.as_bytes(), &mut bytes);
                }
            }
        }
        self.played.longest_packet = self.played.longest_packet.max(bytes.len());
        bytes
    }

    fn say(&mut self, line: &[u8], packet: &mut Vec<u8>) {
        let piece_bytes = if let Cut::EveryCharacter = self.cut { 1 } else { line.len().max(1) };
        for piece in line.chunks(piece_bytes) {
            self.client.say(piece, packet);
        }
    }

    fn fill_in(&self, line: &str, data_bytes: usize) -> String {
        let credentials = |password: &str| BASE64.encode(format!("\0{USER}\0{password}").as_bytes());
        line.replace("<id connect>", &self.ids["connect"])
            .replace("<id secured>", &self.ids["secured"])
            .replace("<token>", &self.token)
            .replace("<wrong id>", "AAAAAAAAAAAAAAAA")
            .replace("<credentials>", &credentials(PASSWORD))
            .replace("<bad credentials>", &credentials("guess"))
            .replace("<size>", &data_bytes.to_string())
    }

    fn exchange(&mut self, bytes: &[u8]) -> (Vec<String>, bool) {
        let sent = self.server.receive(&self.cut.pieces(bytes));
        self.client.hear(&sent)
    }

    fn compare(&mut self, packet: &Packet, replies: Vec<String>, any_tls: bool) {
        let expected: Vec<&String> = packet.items.iter().filter(|item| !is_tls(item)).collect();
        let expects_tls = packet.items.iter().any(|item| is_tls(item));
        if expects_tls {
            assert!(any_tls, "{}: no TLS in the answer", self.place());
        } else if expected.iter().any(|item| item.starts_with("503") || item.starts_with("520")) && !any_tls {
            self.client.give_up_tls();
        }
        let mut replies = replies.into_iter().peekable();
        for item in &expected {
            if item.as_str() == "nothing" || item.as_str() == "closed" {
                continue;
            }
            let reply = take_reply(&mut replies);
            let matches = matches_reply(item, &reply);
            assert!(matches, "{}: expected {item:?}, the server said {reply:?}", self.place());
            self.played.transcript.push(reply.join("\n"));
        }
        let rest: Vec<String> = replies.collect();
        assert!(rest.is_empty(), "{}: the server also said {rest:?}", self.place());
        let closes = expected.iter().any(|item| item.as_str() == "closed");
        assert_eq!(self.server.closed, closes, "{}: closed?", self.place());
    }

    fn finish(&mut self) {
        let stored = self.dialog.fact("stored");
        if !stored.is_empty() {
            assert_eq!(self.server.stored.len().to_string(), stored, "{}: messages stored", self.place());
        }
        let envelope = self.dialog.fact("envelope");
        if !envelope.is_empty() {
            let message = self.server.stored.last().unwrap_or_else(|| panic!("{}: nothing stored", self.place()));
            assert_eq!(describe(&message.envelope), envelope, "{}: envelope", self.place());
        }
        let content = self.dialog.fact("content");
        if !content.is_empty() {
            let last = self.server.stored.last().map(|message| String::from_utf8_lossy(&message.content).into_owned());
            assert_eq!(last.as_deref(), Some(unescape(content).as_str()), "{}: content", self.place());
        }
        let with = self.dialog.fact("with");
        if !with.is_empty() {
            let message = self.server.stored.last().unwrap_or_else(|| panic!("{}: nothing stored", self.place()));
            let trace = String::from_utf8_lossy(&message.trace);
            assert!(trace.contains(&format!(" with {with} id ")), "{}: {trace}", self.place());
        }
        if let Some(expected) = self.dialog.mail_in_packet(self.version) {
            assert_eq!(self.mail_packet, Some(expected), "{}: MAIL is in packet", self.place());
        }
        let early_data = self.dialog.fact("early-data");
        if !early_data.is_empty() {
            let outcomes = (self.client.early_outcome(), self.server.connection.early_outcome());
            let expected = if early_data == "accepted" { EarlyOutcome::Accepted } else { EarlyOutcome::Rejected };
            assert_eq!(outcomes, (expected, expected), "{}: early data", self.place());
        }
        if self.dialog.fact("client").contains("session") && self.dialog.fact("tickets") != "lost" {
            assert!(self.client.is_resumed(), "{}: the session was not resumed", self.place());
        }
    }

    fn place(&self) -> String {
        format!("{} with TLS {}, {:?}, packet {}", self.dialog.name, self.version, self.cut, self.packet_number)
    }
}

/// An envelope on one line.
fn describe(envelope: &Envelope) -> String {
    let mut text = format!("{} {}", envelope.sender(), envelope.body().name());
    if envelope.smtputf8() {
        text.push_str(" SMTPUTF8");
    }
    if let Some(ret) = envelope.ret() {
        text.push_str(if ret == Ret::Full { " RET=FULL" } else { " RET=HDRS" });
    }
    if let Some(envid) = envelope.envid() {
        text.push_str(&format!(" ENVID={envid}"));
    }
    for recipient in envelope.recipients() {
        text.push_str(&format!(" -> {}", recipient.address));
        if let Some(orcpt) = recipient.orcpt {
            text.push_str(&format!(" ORCPT={orcpt}"));
        }
        if let Some(notify) = recipient.notify {
            let words = [(Notify::SUCCESS, "SUCCESS"), (Notify::FAILURE, "FAILURE"), (Notify::DELAY, "DELAY")];
            let wanted: Vec<&str> =
                words.iter().filter(|(wish, _)| notify.wants(*wish)).map(|(_, word)| *word).collect();
            let wanted = if wanted.is_empty() { "NEVER".to_owned() } else { wanted.join(",") };
            text.push_str(&format!(" NOTIFY={wanted}"));
        }
    }
    text
}

fn is_tls(item: &str) -> bool {
    item.starts_with("TLS")
}

fn data_lines(packet: &Packet) -> impl Iterator<Item = &str> {
    packet.items.iter().filter_map(|item| if item == "|" { Some("") } else { item.strip_prefix("| ") })
}

fn data_line_bytes(line: &str) -> usize {
    match line.strip_suffix("\\c") {
        Some(unfinished) => unescape(unfinished).len(),
        None => unescape(line).len() + 2,
    }
}

/// `\r`, `\n` and `\0` stand for the bytes of these names.
fn unescape(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0")
}

/// One reply with all its lines.
fn take_reply(lines: &mut impl Iterator<Item = String>) -> Vec<String> {
    let mut reply = Vec::new();
    for line in lines {
        let is_last = line.as_bytes().get(3) != Some(&b'-');
        reply.push(line);
        if is_last {
            break;
        }
    }
    reply
}

/// `<greeting>`, `<ehlo>` and `<list 521>` are lists; anything else is how the reply's last line begins.
fn matches_reply(item: &str, reply: &[String]) -> bool {
    let item = item.strip_prefix("SMTP ").unwrap_or(item);
    let lists = |code: &str| reply.len() > 3 && reply.iter().all(|line| line.starts_with(code));
    match item {
        "<greeting>" => lists("220"),
        "<ehlo>" => lists("250"),
        "<list 521>" => lists("521"),
        text => reply.len() == 1 && reply[0].starts_with(text),
    }
}

/// A first visit: learns the ids of both points and gets a TLS session.
fn warm_up(site: &Site, config: &std::sync::Arc<rustls::ClientConfig>) -> HashMap<&'static str, String> {
    let mut server = site.connect(Opening::Clear);
    let mut client = Client::new(std::sync::Arc::clone(config));
    let (greeting, _) = client.hear(&server.receive(&[]));
    let mut ids = HashMap::from([("connect", id_in(&greeting))]);
    let mut packet = Vec::new();
    client.say(b"QTLS\r\n", &mut packet);
    client.begin_tls(&mut packet);
    let mut replies = Vec::new();
    for _ in 0..4 {
        replies.extend(client.hear(&server.receive(&[&packet])).0);
        packet.clear();
        client.flush_tls(&mut packet);
    }
    ids.insert("secured", id_in(&replies));
    packet.clear();
    client.say(b"QUIT\r\n", &mut packet);
    client.hear(&server.receive(&[&packet]));
    ids
}

fn id_in(lines: &[String]) -> String {
    let line = lines.iter().find(|line| line.contains("QHLO=")).unwrap_or_else(|| panic!("no id in {lines:?}"));
    line.split("QHLO=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

fn dialogs() -> Vec<Dialog> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut paths: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "txt"))
        .map(|path| Dialog::read(path))
        .collect()
}

fn site_of(dialog: &Dialog) -> Site {
    Site::with(|settings| {
        if dialog.fact("bare-newline") == "normalize" {
            settings.bare_newline = onetrip::proto::body::BareNewline::Normalize;
        }
    })
}

fn each(play: impl Fn(&Dialog, &'static str) + Sync) {
    let dialogs = dialogs();
    let jobs: Vec<(&Dialog, &'static str)> =
        dialogs.iter().flat_map(|dialog| dialog.versions().into_iter().map(move |version| (dialog, version))).collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((dialog, version)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    play(dialog, version);
                }
            });
        }
    });
}

#[test]
fn every_dialog_plays_as_written() {
    each(|dialog, version| {
        Player::new(dialog, version, Cut::Whole, &site_of(dialog)).play();
    });
}

#[test]
fn every_dialog_plays_the_same_when_its_bytes_arrive_one_at_a_time() {
    each(|dialog, version| {
        Player::new(dialog, version, Cut::EveryByte, &site_of(dialog)).play();
    });
}

#[test]
fn every_dialog_plays_the_same_when_each_character_is_a_record_of_its_own() {
    each(|dialog, version| {
        Player::new(dialog, version, Cut::EveryCharacter, &site_of(dialog)).play();
    });
}

#[test]
fn every_dialog_plays_the_same_when_its_packets_are_cut_at_any_offset() {
    each(|dialog, version| {
        let site = site_of(dialog);
        let whole = Player::new(dialog, version, Cut::Whole, &site).play();
        for offset in 1..whole.longest_packet {
            let cut = Player::new(dialog, version, Cut::At(offset), &site).play();
            let same = cut.transcript.iter().zip(&whole.transcript).all(|(a, b)| a[..3] == b[..3]);
            assert!(same, "{}, cut at {offset}", dialog.name);
        }
    });
}

#[test]
fn the_eight_sequences_of_appendix_a_are_among_the_dialogs() {
    let mut packets: Vec<usize> = dialogs()
        .iter()
        .filter(|dialog| dialog.name.starts_with("appendix-a-"))
        .filter_map(|dialog| dialog.mail_in_packet("TLS 1.2"))
        .collect();
    packets.sort_unstable();
    assert_eq!(packets, [3, 4, 4, 5, 5, 6, 8, 9]);
}
