//! The whole command against our own server core, over real sockets with real TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use super::arguments::{Settings, Wishes};
use super::{
    Server as ServerName, SubmitError, end_at_dot, mailbox_date, message_date, submit, unix_now, with_full_name,
};
use crate::exit::Exit;
use crate::proto::body::BareNewline;
use crate::proto::credential::{Member, Senders, Verdict};
use crate::proto::extension::{Listing, Offer};
use crate::proto::proof::Committed;
use crate::proto::qhlo_id::{Binding, Point, QhloIds};
use crate::proto::server::{Bounds, ClientInTrace, Opening, Peer, Resources, SenderCheck};
use crate::proto::server::{Server, Settings as Rules, Start, Timeouts};
use crate::time::Now;
use crate::tls::Version;
use crate::tls::cache::SessionCache;
use crate::tls::certificate::{Certificate, SelfSigned, chain_from_pem};
use crate::tls::config::{CertificateSet, Certificates, Returning, ServerConfigs, ServerSettings};
use crate::wire::{Connection, Output, Step};

/// A server that takes one connection after the other and passes on what it was given.
pub(super) struct TestServer {
    address: SocketAddr,
    certificate: String,
    pub(super) seen: Receiver<Seen>,
}

/// What one connection came to.
pub(super) struct Seen {
    start: Start,
    pub(super) message: Option<String>,
    receives: usize,
    pub(super) token: Option<String>,
    pub(super) resumed: bool,
}

fn rules(message_bytes_max: u64) -> Rules {
    let offer = Offer {
        hostname: "localhost".to_owned(),
        message_bytes_max,
        recipients_max: 100,
        messages_max: 100,
        early_ehlo: true,
        early_data: true,
        once: true,
    };
    let day = Duration::from_secs(86_400);
    Rules {
        hostname: "localhost".to_owned(),
        connect: Listing::new(&offer, Point::Connect),
        secured: Listing::new(&offer, Point::Secured),
        qhlo_ids: QhloIds::new(&[7; QhloIds::SECRET_BYTES], None, Binding::Address),
        bounds: Bounds {
            message_bytes_max,
            recipients_max: 100,
            messages_max: 100,
            commands_max: 100,
            errors_max: 20,
            logins_failed_max: 3,
        },
        timeouts: Timeouts { idle: day, login: day, transaction: day },
        bare_newline: BareNewline::default(),
        client_in_trace: ClientInTrace::Shown,
        sender_check: SenderCheck::default(),
    }
}

fn now() -> Now {
    Now { monotonic: Duration::ZERO, unix: unix_now() }
}

pub(super) fn start_server(message_bytes_max: u64, opening: Opening) -> TestServer {
    start_forgetful_server(message_bytes_max, opening, &[])
}

/// A server whose first connections go so, and all others well.
fn start_forgetful_server(message_bytes_max: u64, opening: Opening, first: &'static [Answers]) -> TestServer {
    let own = SelfSigned::new("localhost", now()).unwrap();
    let certificate = Certificate::from_pem(own.certificate.as_bytes(), own.key.as_bytes()).unwrap();
    let configs = Arc::new(ServerConfigs::new(&ServerSettings {
        certificates: Arc::new(Certificates::new(CertificateSet::new(&certificate, &[]))),
        minimum_version: Version::Tls12,
        sessions: Arc::new(SessionCache::new(64, Duration::from_secs(60)).unwrap()),
        returning: Returning::SendEarlyData,
    }));
    let rules = Arc::new(rules(message_bytes_max));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, seen) = channel();
    thread::spawn(move || {
        let mut first = first.iter();
        while let Ok((mut stream, client)) = listener.accept() {
            let peer = Peer { client, server: address.ip() };
            let resources = Arc::new(Resources::new(0, 1 << 30));
            let server = Server::new(Arc::clone(&rules), resources, peer, opening, now());
            let connection = Connection::new(server, opening, Arc::clone(&configs), now());
            let answers = *first.next().unwrap_or(&Answers::Given);
            let seen = serve(connection, &mut stream, answers);
            if answers == Answers::LostForGood {
                drop(listener);
                let _ = sender.send(seen);
                return;
            }
            if sender.send(seen).is_err() {
                return;
            }
        }
    });
    TestServer { address, certificate: own.certificate.clone(), seen }
}

#[derive(Clone, Copy, PartialEq)]
enum Answers {
    Given,
    /// The message is taken, and the connection breaks before it is answered.
    Lost,
    /// The same, and then nobody listens any more.
    LostForGood,
}

fn serve(mut connection: Connection, stream: &mut (impl Read + Write), answers: Answers) -> Seen {
    let mut token = None;
    let mut output = Output::default();
    let mut buffer = vec![0; 65_536];
    let mut message = None;
    let mut receives = 0;
    connection.greet(&mut output);
    loop {
        match connection.poll_step(&mut output) {
            Step::Verify(credential) => {
                let good = credential.user == "ann" && credential.password.expose() == b"secret";
                let member = Member { name: credential.user, senders: Senders::Any };
                let denied = Verdict::Denied { delay: Duration::ZERO };
                let verdict = if good { Verdict::Accepted(Arc::new(member)) } else { denied };
                connection.handle_verdict(now(), verdict, &mut output);
                continue;
            }
            Step::Store(stored) => {
                message = Some(String::from_utf8(stored.content.clone()).unwrap());
                token = stored.envelope.once().map(str::to_owned);
                if answers != Answers::Given {
                    let start = connection.server().tally().start;
                    return Seen { start, message, receives, token, resumed: false };
                }
                connection.handle_stored(now(), Ok(Committed::attested_by_storage()), stored, &mut output);
                continue;
            }
            Step::Receive | Step::Close => {}
            Step::Send => unreachable!("so much is not said here"),
            Step::KeepPiece(_) => unreachable!("the server was not told that it may ask"),
        }
        let _ = stream.write_all(&std::mem::take(&mut output.wire));
        match stream.read(&mut buffer) {
            Ok(bytes) if bytes > 0 => {
                receives += 1;
                connection.handle_input(now(), &buffer[..bytes], &mut output);
            }
            _ => {
                let start = connection.server().tally().start;
                let resumed = connection.server().tls().is_some_and(|facts| facts.resumed);
                return Seen { start, message, receives, token, resumed };
            }
        }
    }
}

/// Settings that lead to the server, and the folder that must outlive them.
pub(super) fn settings(server: &TestServer) -> (Settings, tempfile::TempDir) {
    settings_for(server.address, &server.certificate)
}

fn settings_for(address: SocketAddr, certificate: &str) -> (Settings, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let settings = Settings {
        server: Some(format!("localhost:{}", address.port())),
        user: Some("ann".to_owned()),
        password_file: Some(file("password", "secret\n")),
        ca: Some(file("ca", certificate)),
        memory: Some(folder.path().join("memory")),
        sender: Some("ann@example.org".to_owned()),
        ..Settings::default()
    };
    (settings, folder)
}

pub(super) fn wishes() -> Wishes {
    Wishes { recipients: vec!["bob@example.org".to_owned()], ..Wishes::default() }
}

#[test]
fn a_message_arrives_whole_and_the_second_one_needs_fewer_flights() {
    let server = start_server(1 << 20, Opening::Clear);
    let (settings, _folder) = settings(&server);
    submit(&settings, &wishes(), b"Subject: hello\n\n.dots\nand more\n").unwrap();
    let first = server.seen.recv().unwrap();
    let message = first.message.unwrap();
    assert!(message.starts_with("Subject: hello\r\nFrom: ann@example.org\r\nDate: "), "{message}");
    assert!(message.contains("\r\nMessage-ID: <") && message.ends_with("\r\n\r\n.dots\r\nand more\r\n"), "{message}");
    assert_eq!(first.start, Start::Basic);

    submit(&settings, &wishes(), b"Subject: again\n\nx\n").unwrap();
    let second = server.seen.recv().unwrap();
    assert!(second.message.is_some());
    assert_eq!(second.start, Start::Full);
    assert!(second.receives <= first.receives, "{} after {}", second.receives, first.receives);
}

#[test]
fn a_message_whose_answer_is_lost_is_sent_again_under_the_same_token() {
    let server = start_forgetful_server(1 << 20, Opening::Clear, &[Answers::Lost]);
    let (settings, _folder) = settings(&server);
    submit(&settings, &wishes(), b"Subject: hello\n\nx\n").unwrap();
    let (first, second) = (server.seen.recv().unwrap(), server.seen.recv().unwrap());
    assert_eq!(first.message, second.message);
    assert!(first.token.is_some() && first.token == second.token, "{:?} and {:?}", first.token, second.token);
    submit(&settings, &wishes(), b"Subject: hello\n\nx\n").unwrap();
    assert_ne!(server.seen.recv().unwrap().token, first.token, "another message has another name");
}

#[test]
fn a_message_whose_answer_is_lost_every_time_is_uncertain() {
    let server = start_forgetful_server(1 << 20, Opening::Clear, &[Answers::Lost; 3]);
    let (settings, _folder) = settings(&server);
    let error = submit(&settings, &wishes(), b"x\n").unwrap_err();
    assert_eq!(error.exit(), Exit::Temporary, "{error}");
}

#[test]
fn a_message_that_may_be_there_is_uncertain_when_no_other_connection_can_be_made() {
    let server = start_forgetful_server(1 << 20, Opening::Clear, &[Answers::Given, Answers::LostForGood]);
    let (settings, _folder) = settings(&server);
    submit(&settings, &wishes(), b"x\n").unwrap();
    let error = submit(&settings, &wishes(), b"x\n").unwrap_err();
    assert!(server.seen.iter().nth(1).unwrap().message.is_some());
    assert_eq!(error.exit(), Exit::Temporary, "{error}");
    assert!(error.to_string().contains("before the server's answer"), "{error}");
}

#[test]
fn implicit_tls_and_a_message_of_many_records_work_too() {
    let server = start_server(8 << 20, Opening::ImplicitTls);
    let (settings, _folder) = settings(&server);
    let settings = Settings { implicit_tls: true, ..settings };
    let long = [b"Subject: long\n\n".to_vec(), b"all work and no play\n".repeat(150_000)].concat();
    for _ in 0..2 {
        submit(&settings, &wishes(), &long).unwrap();
        let message = server.seen.recv().unwrap().message.unwrap();
        assert_eq!(message.matches("all work and no play\r\n").count(), 150_000);
    }
}

/// A server that greets only after it has seen the client's last word of the handshake, as servers that know nothing of
/// QUICKSTART do. Takes one connection with one message, and passes the message on.
fn start_patient_server(version: &'static SupportedProtocolVersion) -> (SocketAddr, String, Receiver<Heard>) {
    start_scripted_server(version, &[&[]])
}

/// What is answered otherwise than with consent: the beginning of a line, and the answer to the first one that begins so. Of
/// two with the same beginning the second is for the second line.
type Script = &'static [(&'static str, &'static str)];

/// In place of an answer: the connection ends.
const CLOSES: &str = "";

/// What a connection brought.
struct Heard {
    commands: String,
    message: String,
}

/// The same with one script for each connection. When the last one has come nobody listens any more.
fn start_scripted_server(
    version: &'static SupportedProtocolVersion,
    scripts: &'static [Script],
) -> (SocketAddr, String, Receiver<Heard>) {
    let own = SelfSigned::new("localhost", now()).unwrap();
    let chain = chain_from_pem(own.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heard) = channel();
    let config = Arc::new(config);
    thread::spawn(move || {
        let (mut listener, last) = (Some(listener), scripts.len() - 1);
        for (number, script) in scripts.iter().enumerate() {
            let (stream, _) = listener.as_ref().unwrap().accept().unwrap();
            listener.take_if(|_| number == last);
            let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock).unwrap();
            }
            // A test that fails does not wait for this.
            let _ = sender.send(converse_in_lines(BufReader::new(tls), script));
        }
    });
    (address, own.certificate.clone(), heard)
}

/// Agrees to every line of which the script does not say otherwise.
fn converse_in_lines(mut stream: BufReader<impl Read + Write>, script: Script) -> Heard {
    let mut heard = Heard { commands: String::new(), message: String::new() };
    let mut script = script.to_vec();
    let mut in_message = false;
    let mut reply = "220 localhost\r\n";
    loop {
        stream.get_mut().write_all(reply.as_bytes()).unwrap();
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return heard;
        }
        let is_text = in_message && line != ".\r\n";
        let scripted = script.iter().position(|(beginning, _)| !is_text && line.starts_with(beginning));
        let scripted = scripted.map(|place| script.remove(place).1);
        if scripted == Some(CLOSES) {
            return heard;
        }
        if !is_text {
            heard.commands.push_str(&line);
        }
        reply = match line.split([' ', '\r']).next().unwrap_or_default() {
            _ if is_text => {
                heard.message.push_str(&line);
                ""
            }
            _ if scripted.is_some() => scripted.unwrap_or_default(),
            "." => "250 taken\r\n",
            "EHLO" => "250-localhost\r\n250 AUTH PLAIN\r\n",
            "AUTH" => "235 welcome\r\n",
            "DATA" => "354 go on\r\n",
            "QUIT" => return heard,
            _ => "250 fine\r\n",
        };
        in_message = (in_message && line != ".\r\n") || line == "DATA\r\n";
    }
}

#[test]
fn the_handshake_is_completed_before_the_greeting_comes() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (address, certificate, messages) = start_patient_server(version);
        let (settings, _folder) = settings_for(address, &certificate);
        let settings = Settings { implicit_tls: true, memory: None, ..settings };
        let (done, outcome) = channel();
        // A thread, so that a client that waits for ever fails the test instead of holding it up.
        thread::spawn(move || done.send(submit(&settings, &wishes(), b"Subject: hello\n\nx\n")));
        outcome.recv_timeout(Duration::from_secs(30)).expect("nobody waits for the other").unwrap();
        assert!(messages.recv().unwrap().message.ends_with("\r\n\r\nx\r\n"));
    }
}

/// Submits a message for Bob and Eve to a server that follows these scripts. The error, and what each connection heard.
fn submit_to_two(scripts: &'static [Script]) -> (SubmitError, Vec<String>) {
    let (address, certificate, heard) = start_scripted_server(&rustls::version::TLS13, scripts);
    let (settings, _folder) = settings_for(address, &certificate);
    let settings = Settings { implicit_tls: true, ..settings };
    let wishes = Wishes { recipients: vec![BOB.to_owned(), EVE.to_owned()], ..Wishes::default() };
    let (done, outcome) = channel();
    // A thread, so that a client that waits for ever fails the test instead of holding it up.
    thread::spawn(move || done.send(submit(&settings, &wishes, b"Subject: hello\n\nx\n")));
    let error = outcome.recv_timeout(Duration::from_secs(30)).expect("nobody waits for the other").unwrap_err();
    let heard = scripts.iter().map(|_| heard.recv_timeout(Duration::from_secs(30)).expect("it was visited").commands);
    (error, heard.collect())
}

const BOB: &str = "bob@example.org";
const EVE: &str = "eve@example.org";
const UNCERTAIN: &str = "eve@example.org: sent, but the connection ended before the server's answer";

const ONCE: (&str, &str) = ("EHLO", "250-localhost\r\n250-XONCE\r\n250 AUTH PLAIN\r\n");
const ONE_AT_A_TIME: (&str, &str) =
    ("EHLO", "250-localhost\r\n250-XONCE\r\n250-LIMITS RCPTMAX=1\r\n250 AUTH PLAIN\r\n");
const ONE_ON_A_CONNECTION: (&str, &str) =
    ("EHLO", "250-localhost\r\n250-LIMITS RCPTMAX=1 MAILMAX=1\r\n250 AUTH PLAIN\r\n");
const BOB_REFUSED: (&str, &str) = ("RCPT TO:<bob", "550 5.1.1 nobody\r\n");
const TAKEN: (&str, &str) = (".", "250 taken\r\n");
const ANSWER_LOST: (&str, &str) = (".", CLOSES);

#[test]
fn who_was_refused_is_refused_though_a_lost_answer_cannot_be_asked_for_again() {
    const SCRIPTS: [&[Script]; 3] = [
        &[&[ONCE, BOB_REFUSED, ANSWER_LOST]],
        &[&[ONCE, BOB_REFUSED, ANSWER_LOST], &[("EHLO", CLOSES)]],
        &[&[ONCE, BOB_REFUSED, ANSWER_LOST], &[("EHLO", "250 localhost\r\n")]],
    ];
    for scripts in SCRIPTS {
        let (error, heard) = submit_to_two(scripts);
        assert_eq!(error.exit(), Exit::NoUser, "{error}");
        assert_eq!(error.to_string(), format!("{BOB}: refused: 550 5.1.1 nobody\n{UNCERTAIN}"), "{heard:?}");
    }
}

#[test]
fn who_has_the_message_is_not_asked_for_again_and_has_it_whatever_becomes_of_the_other() {
    let (error, heard) = submit_to_two(&[
        &[ONE_AT_A_TIME, TAKEN, ANSWER_LOST],
        &[ONE_AT_A_TIME, ("RCPT", "550 5.1.1 nobody\r\n"), ("RCPT", "550 5.1.1 nobody\r\n")],
    ]);
    assert_eq!((error.exit(), error.to_string()), (Exit::NoUser, format!("{EVE}: refused: 550 5.1.1 nobody")));
    assert!(heard[1].contains(EVE) && !heard[1].contains(BOB), "{heard:?}");
    let mails: Vec<_> = heard.iter().flat_map(|heard| heard.lines()).filter(|line| line.starts_with("MAIL")).collect();
    assert!(mails[0].contains(" XONCE="), "{mails:?}");
    assert_eq!(mails, [mails[0]; 3]);
}

#[test]
fn what_may_be_there_is_not_sent_where_a_second_one_could_not_be_told() {
    const SCRIPTS: [&[Script]; 2] =
        [&[&[ONE_AT_A_TIME, TAKEN, ANSWER_LOST], &[]], &[&[ONCE, BOB_REFUSED, ANSWER_LOST], &[]]];
    for scripts in SCRIPTS {
        let (error, heard) = submit_to_two(scripts);
        assert!(error.to_string().ends_with(UNCERTAIN), "{error}");
        assert!(!heard[1].contains("MAIL"), "{heard:?}");
    }
    let (error, heard) = submit_to_two(&[&[ONCE, ANSWER_LOST], &[ONE_AT_A_TIME]]);
    assert_eq!(error.exit(), Exit::Temporary);
    assert!(!heard[1].contains("MAIL"), "it would be two other messages: {heard:?}");
}

#[test]
fn who_has_an_answer_keeps_it_when_no_connection_can_be_made_for_the_others() {
    let unsent = format!("{EVE}: not sent: the server closed the connection");
    let (error, heard) = submit_to_two(&[&[ONE_ON_A_CONNECTION]]);
    assert_eq!((error.exit(), error.to_string()), (Exit::Temporary, unsent.clone()), "{heard:?}");
    let (error, heard) = submit_to_two(&[&[ONE_ON_A_CONNECTION, BOB_REFUSED]]);
    let told = format!("{BOB}: refused: 550 5.1.1 nobody\n{unsent}");
    assert_eq!((error.exit(), error.to_string()), (Exit::NoUser, told), "{heard:?}");
}

#[test]
fn each_profile_works() {
    let server = start_server(1 << 20, Opening::Clear);
    let (settings, _folder) = settings(&server);
    for (profile, start) in [("esmtp", Start::Esmtp), ("basic", Start::Basic), ("full", Start::Full)] {
        let settings = Settings { profile: Some(profile.to_owned()), ..settings.clone() };
        submit(&settings, &wishes(), b"x\n").unwrap();
        assert_eq!(server.seen.recv().unwrap().start, start, "{profile}");
    }
}

#[test]
fn a_wrong_password_is_said_and_nothing_is_sent() {
    let server = start_server(1 << 20, Opening::Clear);
    let (settings, folder) = settings(&server);
    std::fs::write(folder.path().join("password"), "wrong").unwrap();
    let error = submit(&settings, &wishes(), b"x\n").unwrap_err();
    assert_eq!(error.exit(), Exit::NoPermission, "{error}");
    assert_eq!(server.seen.recv().unwrap().message, None);
}

#[test]
fn a_certificate_that_is_not_trusted_ends_it_before_the_password_leaves() {
    let server = start_server(1 << 20, Opening::Clear);
    let other = start_server(1 << 20, Opening::Clear);
    let (settings, folder) = settings(&server);
    std::fs::write(folder.path().join("ca"), &other.certificate).unwrap();
    let error = submit(&settings, &wishes(), b"x\n").unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable, "{error}");
    let insecure = Settings { insecure: true, ..settings };
    submit(&insecure, &wishes(), b"x\n").unwrap();
}

#[test]
fn a_message_that_is_too_large_is_not_sent() {
    let server = start_server(100, Opening::Clear);
    let (settings, _folder) = settings(&server);
    let error = submit(&settings, &wishes(), &[b'x'; 200]).unwrap_err();
    assert_eq!(error.exit(), Exit::Data, "{error}");
}

#[test]
fn a_server_that_is_not_there_may_be_there_later() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings =
        Settings { server: Some(listener.local_addr().unwrap().to_string()), insecure: true, ..Settings::default() };
    drop(listener);
    let error = submit(&settings, &wishes(), b"x\n").unwrap_err();
    assert_eq!(error.exit(), Exit::Temporary, "{error}");
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let nowhere = submit(&Settings::default(), &wishes(), b"x\n").unwrap_err();
    assert_eq!(nowhere.exit(), Exit::Config);
    assert!(nowhere.to_string().contains("--server HOST:PORT"), "{nowhere}");
    let nobody = submit(&Settings::default(), &Wishes::default(), b"x\n").unwrap_err();
    assert_eq!(nobody.exit(), Exit::Usage);
}

#[test]
fn a_server_is_named_by_host_and_port() {
    let parse = |text| ServerName::parse(text, 587).map(|server| server.key());
    assert_eq!(parse("Mail.Example.org").as_deref(), Some("mail.example.org:587"));
    assert_eq!(parse("a:25").as_deref(), Some("a:25"));
    assert_eq!(parse("[::1]:25").as_deref(), Some("[::1]:25"));
    assert_eq!(parse("::1").as_deref(), Some("[::1]:587"));
    for text in ["", ":25", "a:0", "a:x", "a:70000", "[::1"] {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn a_single_dot_ends_the_message_and_only_that() {
    assert_eq!(end_at_dot(b"a\n.\nb\n"), 2);
    assert_eq!(end_at_dot(b"a\n.\r\nb\n"), 2);
    assert_eq!(end_at_dot(b"a\n..\n .\n.b\n"), 11);
    assert_eq!(end_at_dot(b"."), 0);
}

#[test]
fn dates_are_written_as_mail_and_as_mailboxes_want_them() {
    let moment = Duration::from_secs(1_767_225_600);
    assert_eq!(message_date(moment), "Thu, 01 Jan 2026 00:00:00 +0000");
    assert_eq!(mailbox_date(moment), "Thu Jan 01 00:00:00 2026");
}

#[test]
fn a_full_name_is_quoted() {
    assert_eq!(with_full_name(Some("A \"B\"\r\nBcc: c"), "a@b"), "\"A \\\"B\\\"Bcc: c\" <a@b>");
    assert_eq!(with_full_name(Some(""), "a@b"), "a@b");
}
