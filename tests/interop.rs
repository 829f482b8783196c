//! Programs that we did not write submit mail to the real server, over STARTTLS and over implicit TLS, and check its
//! certificate; the message must lie in the Maildir byte for byte.
//!
//! A program that is not installed is skipped with a word on how to get it. Where `ONETRIP_REQUIRE_INTEROP=1` is set, as in
//! CI, its absence is a failure.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

#[path = "interop/libraries.rs"]
mod libraries;
mod process;
#[path = "interop/scanning.rs"]
mod scanning;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use process::client::auth;
use process::{HOSTNAME, PASSWORD, RECIPIENT, SENDER, Server, Site, USER, onetrip, run_with_input, without_trace};

/// Everything that goes wrong easily: dots at the start of lines, one alone, empty lines, spaces and a tab at the end of
/// lines, `From ` at the start, letters beyond ASCII, a long line.
fn message() -> String {
    let long = "0123456789".repeat(90);
    format!(
        "Date: Thu, 01 Jan 2026 12:00:00 +0000\r\n\
         From: Ann <{SENDER}>\r\n\
         To: Bob <{RECIPIENT}>\r\n\
         Message-ID: <1@example.org>\r\n\
         Subject: Gr\u{fc}\u{df}e\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\
         \r\n\
         .\r\n\
         .leading dot\r\n\
         ..two dots\r\n\
         \r\n\
         From here on, spaces at the end  \r\n\
         and a tab\t\r\n\
         {long}\r\n\
         \u{20ac} 5\r\n\
         \r\n"
    )
}

/// How TLS begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    Starttls,
    Implicit,
}

/// Is the program there? Says how to get it if not.
fn is_there(program: &str, package: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|path| path.join(program).is_file()) {
        return true;
    }
    let required = std::env::var_os("ONETRIP_REQUIRE_INTEROP").is_some_and(|value| value == "1");
    assert!(!required, "{program} is not installed: apt-get install {package}");
    eprintln!("skipped: {program} is not installed (apt-get install {package})");
    false
}

/// Lets a program submit [`message`] both ways.
fn submits(program: &str, package: &str, submit: impl Fn(&Site, Tls, u16) -> Output) {
    if is_there(program, package) {
        assert_submits(submit);
    }
}

/// Lets something that is there submit [`message`] both ways.
fn assert_submits(submit: impl Fn(&Site, Tls, u16) -> Output) {
    for tls in [Tls::Starttls, Tls::Implicit] {
        let site = Site::new();
        let server = site.serve(&[]);
        let output = submit(&site, tls, port(&server, tls));
        assert!(output.status.success(), "{}", words(&output));
        assert_stored(&site, "ESMTPSA");
        let log = server.stop(&site);
        assert!(log.contains("\"message_stored\""), "{log}");
    }
}

fn port(server: &Server, tls: Tls) -> u16 {
    match tls {
        Tls::Starttls => server.starttls.port(),
        Tls::Implicit => server.tls.port(),
    }
}

/// [`message`] is what lies in the recipient's mailbox, under a trace header with this keyword.
fn assert_stored(site: &Site, with: &str) {
    let mut messages = site.arrived(RECIPIENT, 1);
    assert_eq!(messages.len(), 1);
    let (trace, content) = without_trace(&messages.remove(0));
    assert_eq!(String::from_utf8(content).unwrap(), message());
    assert!(trace.contains(&format!("with {with}")), "{trace}");
}

fn words(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn swaks_submits_a_message() {
    submits("swaks", "swaks", |site, tls, port| {
        // It turns LF into CRLF and ends the message by a line break of its own.
        let content = message().replace("\r\n", "\n");
        let file = site.write("message", content.strip_suffix('\n').unwrap());
        let mut command = Command::new("swaks");
        command.args(["--server", HOSTNAME, "--port", &port.to_string(), "--auth", "PLAIN"]);
        command.args(["--auth-user", USER, "--auth-password", PASSWORD, "--from", SENDER, "--to", RECIPIENT]);
        command.args([if tls == Tls::Implicit { "--tls-on-connect" } else { "--tls" }, "--tls-verify"]);
        command.arg("--tls-ca-path").arg(site.certificate());
        command.arg("--data").arg(format!("@{}", file.display()));
        command.output().unwrap()
    });
}

#[test]
fn curl_submits_a_message() {
    submits("curl", "curl", |site, tls, port| {
        let scheme = if tls == Tls::Implicit { "smtps" } else { "smtp" };
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--ssl-reqd", "--url", &format!("{scheme}://{HOSTNAME}:{port}")]);
        command.args(["--user", &format!("{USER}:{PASSWORD}"), "--mail-from", SENDER, "--mail-rcpt", RECIPIENT]);
        command.arg("--cacert").arg(site.certificate());
        command.arg("--upload-file").arg(site.write("message", message()));
        command.output().unwrap()
    });
}

#[test]
fn msmtp_submits_a_message() {
    submits("msmtp", "msmtp", |site, tls, port| {
        let mut command = Command::new("msmtp");
        command.args([&format!("--host={HOSTNAME}"), &format!("--port={port}"), "--auth=plain", "--tls=on"]);
        command.args([&format!("--user={USER}"), &format!("--passwordeval=echo {PASSWORD}")]);
        command.arg(if tls == Tls::Implicit { "--tls-starttls=off" } else { "--tls-starttls=on" });
        command.arg(format!("--tls-trust-file={}", site.certificate().display()));
        command.args([&format!("--from={SENDER}"), "--", RECIPIENT]);
        run_with_input(&mut command, message().replace("\r\n", "\n").as_bytes())
    });
}

#[test]
fn python_smtplib_submits_a_message() {
    const PROGRAM: &str = "\
import smtplib, ssl, sys
way, host, port, user, password, sender, recipient, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
if way == 'implicit':
    client = smtplib.SMTP_SSL(host, int(port), context=context)
else:
    client = smtplib.SMTP(host, int(port))
    client.starttls(context=context)
client.login(user, password)
refused = client.sendmail(sender, [recipient], sys.stdin.buffer.read(), mail_options=['BODY=8BITMIME'])
client.quit()
sys.exit(len(refused))
";
    submits("python3", "python3", |site, tls, port| {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM, if tls == Tls::Implicit { "implicit" } else { "starttls" }, HOSTNAME]);
        command.args([&port.to_string(), USER, PASSWORD, SENDER, RECIPIENT]).arg(site.certificate());
        run_with_input(&mut command, message().as_bytes())
    });
}

#[test]
fn openssl_carries_a_dialog_typed_by_hand() {
    if !is_there("openssl", "openssl") {
        return;
    }
    for tls in [Tls::Starttls, Tls::Implicit] {
        for version in ["-tls1_2", "-tls1_3"] {
            let site = Site::new();
            let server = site.serve(&[]);
            let mut typed = Typed::start(s_client(&site, tls, port(&server, tls)).arg("-quiet").arg(version), tls);
            typed.ask("EHLO client.example", "250");
            typed.ask(&auth(USER, PASSWORD), "235");
            typed.ask(&format!("MAIL FROM:<{SENDER}> BODY=8BITMIME"), "250");
            typed.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
            typed.ask("DATA", "354");
            let stuffed = message().replace("\r\n.", "\r\n..").replace("\r\n", "\n");
            typed.ask(&format!("{stuffed}."), "250");
            typed.ask("QUIT", "221");
            typed.end();
            assert_stored(&site, "ESMTPSA");
            server.stop(&site);
        }
    }
}

#[test]
fn openssl_resumes_its_session_with_either_version() {
    if !is_there("openssl", "openssl") {
        return;
    }
    let site = Site::new();
    let server = site.serve(&[]);
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let session = site.path(name);
        let run = |flag: &str| {
            let mut command = s_client(&site, Tls::Implicit, server.tls.port());
            command.args([version, "-ign_eof", flag]).arg(&session);
            let output = run_with_input(&mut command, b"EHLO client.example\nQUIT\n");
            assert!(output.status.success(), "{}", words(&output));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(run("-sess_out").contains(&format!("New, {name}")));
        assert!(run("-sess_in").contains(&format!("Reused, {name}")));
        server.wait_for("a resumed session", |event| event["tls"] == name && event["session"] == "resumed");
    }
    server.stop(&site);
}

#[test]
fn openssl_submits_a_message_in_early_data() {
    if !is_there("openssl", "openssl") {
        return;
    }
    let site = Site::new();
    let server = site.serve(&[]);
    let session = site.path("session");
    let (login, content) = (auth(USER, PASSWORD), message());
    let submission = format!(
        "EHLO client.example\r\n{login}\r\nMAIL FROM:<{SENDER}> BODY=8BITMIME\r\nRCPT TO:<{RECIPIENT}>\r\n\
         BDAT {} LAST\r\n{content}",
        content.len()
    );
    let submission = site.write("submission", submission);
    let run = |arguments: &[&std::ffi::OsStr]| {
        let mut command = s_client(&site, Tls::Implicit, server.tls.port());
        command.args(["-tls1_3", "-ign_eof"]).args(arguments);
        let output = run_with_input(&mut command, b"QUIT\n");
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&["-sess_out".as_ref(), session.as_os_str()]);
    let with_early_data = ["-sess_in".as_ref(), session.as_os_str(), "-early_data".as_ref(), submission.as_os_str()];
    let said = run(&with_early_data);
    assert!(said.contains("Early data was accepted") && said.contains("250 2.0.0 Queued as"), "{said}");
    server.wait_for("early data", |event| event["early_data"] == "accepted" && event["messages"] == 1);
    // The session is spent, so the same file is skipped, and the server notices nothing else.
    let said = run(&with_early_data);
    assert!(said.contains("Early data was rejected"), "{said}");
    server.wait_for("skipped early data", |event| event["early_data"] == "rejected" && event["outcome"] == "quit");
    assert_stored(&site, "ESMTPSA");
    server.stop(&site);
}

/// `openssl s_client` with LF turned into CRLF and the certificate checked.
fn s_client(site: &Site, tls: Tls, port: u16) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", HOSTNAME, "-crlf"]);
    command.args(["-verify_return_error", "-verify_hostname", HOSTNAME, "-CAfile"]).arg(site.certificate());
    if tls == Tls::Starttls {
        command.args(["-starttls", "smtp"]);
    }
    command
}

/// A program that a person types into, one line after the reply to the last.
struct Typed {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Typed {
    /// Waits for the greeting, which is not shown where `-starttls` has dealt with it.
    fn start(command: &mut Command, tls: Tls) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut typed = Self { child, input, output };
        if tls == Tls::Implicit {
            typed.expect("220");
        }
        typed
    }

    fn ask(&mut self, text: &str, reply: &str) {
        writeln!(self.input.as_mut().unwrap(), "{text}").unwrap();
        self.expect(reply);
    }

    fn expect(&mut self, code: &str) {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "no reply {code}");
            assert!(line.starts_with(code), "expected {code}: {line}");
            if !line[3..].starts_with('-') {
                return;
            }
        }
    }

    fn end(mut self) {
        self.input = None;
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn our_own_client_takes_the_full_profile_once_it_knows_the_server() {
    for tls in [Tls::Starttls, Tls::Implicit] {
        let site = Site::new();
        let server = site.serve(&[]);
        onetrip_submits(&site, &server, tls);
        let first = server.event("connection_ended");
        onetrip_submits(&site, &server, tls);
        let second = server.wait_for("a second connection", |event| {
            event["event"] == "connection_ended" && event["client"] != first["client"]
        });
        assert_eq!((&first["start"], &first["qhlo"]), (&"basic".into(), &"none".into()), "{first}");
        // A process of its own remembers the server, but no TLS session.
        assert_eq!((&second["start"], &second["qhlo"]), (&"full".into(), &"matched".into()), "{second}");
        assert_eq!((&second["session"], &second["messages"]), (&"full".into(), &1.into()), "{second}");
        assert_eq!(site.arrived(RECIPIENT, 2).len(), 2);
        for stored in site.messages(RECIPIENT) {
            let (trace, content) = without_trace(&stored);
            assert_eq!(String::from_utf8(content).unwrap(), message());
            assert!(trace.contains("with QSMTPSA"), "{trace}");
        }
        server.stop(&site);
    }
}

/// Runs `onetrip submit`, which remembers the server in a file of the site.
fn onetrip_submits(site: &Site, server: &Server, tls: Tls) {
    let mut command = onetrip();
    command.args(["submit", "-i", "-f", SENDER, "--server", &format!("{HOSTNAME}:{}", port(server, tls))]);
    command.args((tls == Tls::Implicit).then_some("--implicit-tls"));
    command.args(["--user", USER, "--password-file"]).arg(site.write("password", PASSWORD));
    command.arg("--ca").arg(site.certificate()).arg("--memory").arg(site.path("memory")).arg(RECIPIENT);
    let output = run_with_input(&mut command, message().as_bytes());
    assert!(output.status.success(), "{}", words(&output));
}
