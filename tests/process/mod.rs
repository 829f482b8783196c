//! The real server as a process: started in a directory of its own, watched by its log, stopped by a signal.
//!
//! It listens on ports that the system chooses, and nothing here waits for a span of time: what is waited for is an event
//! in the log, a reply, or the end of a connection, each with a bound after which the test has failed.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

pub mod client;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The user that every site has.
pub const USER: &str = "ann";
/// Her password: not to be found in the log, in any form.
pub const PASSWORD: &str = "open-sesame-4711";
/// Her address.
pub const SENDER: &str = "ann@example.org";
/// Whom most tests send to.
pub const RECIPIENT: &str = "bob@example.org";
/// The name of the server, good for certificates that programs check.
pub const HOSTNAME: &str = "localhost";

/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with everything that a server keeps, removed at the end.
pub struct Site {
    directory: TempDir,
}

impl Site {
    /// A site with one user.
    pub fn new() -> Self {
        let site = Self::empty();
        site.add_user(USER, PASSWORD, &[]);
        site
    }

    /// A site that nobody has used yet.
    pub fn empty() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// The path of something in the site's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Writes a file into the site's directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file in the site is written");
        path
    }

    /// The certificate that the server has made for itself.
    pub fn certificate(&self) -> PathBuf {
        self.state().join("tls-cert.pem")
    }

    // ── Users ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Adds a user by the command, or gives a user a new password; no senders means any.
    pub fn add_user(&self, name: &str, password: &str, senders: &[&str]) {
        let mut command = onetrip();
        command.args(["user", "add", name, "--state-dir"]).arg(self.state());
        command.args(senders.iter().flat_map(|sender| ["--sender", sender]));
        let output = run_with_input(&mut command, format!("{password}\n").as_bytes());
        assert!(output.status.success(), "{output:?}");
    }

    /// Removes a user by the command.
    pub fn remove_user(&self, name: &str) {
        let output =
            onetrip().args(["user", "remove", name, "--state-dir"]).arg(self.state()).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
    }

    // ── Servers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Starts a server of one shard with these flags besides.
    pub fn serve(&self, flags: &[&str]) -> Server {
        Server::start(self.command(flags), self)
    }

    /// The command that [`Site::serve`] runs. A flag given here takes the place of the same default flag.
    pub fn command(&self, flags: &[&str]) -> Command {
        let state = self.state().into_os_string().into_string().expect("a path of text");
        let defaults = [
            ["--state-dir", &state],
            ["--listen", "127.0.0.1:0"],
            ["--listen-tls", "127.0.0.1:0"],
            ["--hostname", HOSTNAME],
            ["--shards", "1"],
            ["--log-format", "json"],
            ["--auth-failure-delay", "10"],
            // A machine that is busy with other tests makes every server late.
            ["--lateness-max", "0"],
        ];
        let mut command = onetrip();
        command.arg("serve").args(flags);
        command.args(defaults.iter().filter(|[flag, _]| !flags.contains(flag)).flatten());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs a server that must not start. Returns its exit code and the only line it writes.
    pub fn serve_refused(&self, flags: &[&str]) -> (i32, String) {
        refusal(self.command(flags))
    }

    // ── Mail ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The one message of a recipient, without the trace header.
    pub fn message(&self, recipient: &str) -> Vec<u8> {
        let mut messages = self.arrived(recipient, 1);
        assert_eq!(messages.len(), 1, "one message for {recipient}");
        without_trace(&messages.remove(0)).1
    }

    /// What lies in a recipient's `new/` once there are at least so many messages: an acknowledged one follows its `250`.
    pub fn arrived(&self, recipient: &str, count: usize) -> Vec<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let messages = self.messages(recipient);
            if messages.len() >= count {
                return messages;
            }
            assert!(Instant::now() < end, "{} of {count} messages for {recipient}", messages.len());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// What lies in a recipient's `new/` now, in no order.
    pub fn messages(&self, recipient: &str) -> Vec<Vec<u8>> {
        files(&self.mail().join(recipient).join("new")).iter().map(|file| fs::read(file).expect("a message")).collect()
    }

    /// Where the Maildirs are.
    pub fn mail(&self) -> PathBuf {
        self.state().join("mail")
    }

    /// Is nothing half-delivered in any mailbox?
    pub fn assert_nothing_half_delivered(&self) {
        for mailbox in files(&self.mail()) {
            assert_eq!(files(&mailbox.join("tmp")), Vec::<PathBuf>::new());
        }
    }

    /// Is there nothing in the state directory but what a server means to leave there?
    pub fn assert_nothing_left_behind(&self) {
        let expected: BTreeSet<&OsStr> =
            ["lock", "mail", "qhlo-secrets", "spool", "tls-cert.pem", "tls-key.pem", "users", "users.lock"]
                .into_iter()
                .map(OsStr::new)
                .collect();
        for file in files(&self.state()) {
            assert!(file.file_name().is_some_and(|name| expected.contains(name)), "left behind: {}", file.display());
        }
        let lock = fs::read(self.state().join("lock")).unwrap_or_default();
        assert!(lock.is_empty(), "the lock still names a process");
        self.assert_nothing_half_delivered();
    }
}

/// The program.
pub fn onetrip() -> Command {
    Command::new(env!("CARGO_BIN_EXE_onetrip"))
}

/// Runs a program with some input to its end.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> std::process::Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut standard_input = child.stdin.take().expect("a pipe");
    // A program that has ended early tells more by its exit code than a broken pipe does.
    let _ = standard_input.write_all(input);
    drop(standard_input);
    child.wait_with_output().expect("its output")
}

/// Runs a server that must not start. Returns its exit code and the only line it writes.
pub fn refusal(mut command: Command) -> (i32, String) {
    let output = command.output().expect("it runs");
    let text = String::from_utf8(output.stderr).expect("text");
    let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(said.len(), 1, "one line: {text}");
    assert!(said[0].starts_with("onetrip: "), "{text}");
    assert!(!text.contains("\"ready\""), "{text}");
    (output.status.code().expect("an exit code"), said[0].to_owned())
}

/// The entries of a directory; none if it is not there.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    paths.sort();
    paths
}

/// Splits what was stored into the trace header, which is `Return-Path` and one `Received`, and the message below it.
pub fn without_trace(stored: &[u8]) -> (String, Vec<u8>) {
    let text = String::from_utf8_lossy(stored);
    let (mut end, mut received) = (0, 0);
    for line in text.split_inclusive("\r\n") {
        let is_trace = match line {
            _ if line.starts_with("Return-Path:") => end == 0,
            _ if line.starts_with("Received:") => {
                received += 1;
                received == 1
            }
            _ => end > 0 && line.starts_with(['\t', ' ']),
        };
        if !is_trace {
            break;
        }
        end += line.len();
    }
    assert!(received >= 1, "no Received field: {text}");
    (text[..end].to_owned(), stored[end..].to_vec())
}

// ── A server that runs ──────────────────────────────────────────────────────────────────────────────────────────────

/// A running server; it is killed if the test fails.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    /// Where plain text comes first.
    pub starttls: SocketAddr,
    /// Where TLS comes first.
    pub tls: SocketAddr,
    /// Where metrics are, if they were asked for.
    pub metrics: Option<SocketAddr>,
    state: PathBuf,
}

impl Server {
    /// Starts `command` and waits until it is ready.
    pub fn start(mut command: Command, site: &Site) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Log::read(child.stderr.take().expect("a pipe"));
        log.wait_for("ready", |event| event["event"] == "ready");
        let listening = log.events("listening");
        let address = |kind: &str| {
            let event = listening.iter().find(|event| event["listener"] == kind)?;
            event["address"].as_str()?.parse().ok()
        };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            child,
            starttls: address("starttls").unwrap_or(nowhere),
            tls: address("tls").unwrap_or(nowhere),
            metrics: address("metrics"),
            log,
            state: site.state(),
        }
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        let process = i32::try_from(self.child.id()).expect("a process number");
        // SAFETY: the number is that of our child, which has not been waited for.
        let result = unsafe { libc::kill(process, signal) };
        assert_eq!(result, 0, "the server is gone");
    }

    /// Waits for an event that `matches`, from the start of the log on.
    pub fn wait_for(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.log.wait_for(what, matches)
    }

    /// Waits for the first event of a name.
    pub fn event(&self, name: &str) -> Value {
        self.wait_for(name, |event| event["event"] == name)
    }

    /// The events of a name so far.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.log.events(name)
    }

    /// Waits for the summary of a client's connection.
    pub fn summary(&self, client: SocketAddr) -> Value {
        let client = client.to_string();
        self.wait_for("connection_ended", |event| event["event"] == "connection_ended" && event["client"] == client)
    }

    /// Waits until there are at least so many events of a name.
    pub fn wait_for_events(&self, name: &str, count: usize) {
        self.log.wait_until(name, |lines| {
            let events = lines.events.iter().filter(|event| event["event"] == name);
            (events.count() >= count).then_some(())
        });
    }

    /// The log so far, as it was written.
    pub fn log_text(&self) -> String {
        self.log.lines().text.join("\n")
    }

    /// Waits for the process to end by itself.
    pub fn ended(&mut self) -> ExitStatus {
        self.log.wait_until("the end of the server", |lines| lines.is_complete.then_some(()));
        self.child.wait().expect("an exit status")
    }

    /// Stops it by a signal, and makes sure that it ends well and leaves nothing behind. Returns its whole log.
    pub fn stop(mut self, site: &Site) -> String {
        self.signal(libc::SIGTERM);
        let status = self.ended();
        let log = self.log_text();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("\"stopped\""), "{log}");
        assert_eq!(self.state, site.state());
        for address in [Some(self.starttls), Some(self.tls), self.metrics].into_iter().flatten() {
            assert!(address.port() == 0 || TcpStream::connect(address).is_err(), "{address} still answers");
        }
        site.assert_nothing_left_behind();
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("── the server's log ──\n{}", self.log_text());
        }
        // It may have ended already, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server has logged, growing while it runs.
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    text: Vec<String>,
    events: Vec<Value>,
    is_complete: bool,
}

impl Log {
    fn read(source: ChildStderr) -> Arc<Self> {
        let log = Arc::new(Self { lines: Mutex::default(), grown: Condvar::new() });
        let ours = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(source).lines() {
                log.add(line.expect("text"));
            }
            log.lines().is_complete = true;
            log.grown.notify_all();
        });
        ours
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: String) {
        let mut lines = self.lines();
        if line.starts_with('{') {
            lines.events.push(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        }
        lines.text.push(line);
        self.grown.notify_all();
    }

    fn events(&self, name: &str) -> Vec<Value> {
        self.lines().events.iter().filter(|event| event["event"] == name).cloned().collect()
    }

    fn wait_for(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.wait_until(what, |lines| {
            let found = lines.events.iter().find(|event| matches(event)).cloned();
            assert!(
                found.is_some() || !lines.is_complete,
                "the server ended before {what}:\n{}",
                lines.text.join("\n")
            );
            found
        })
    }

    fn wait_until<T>(&self, what: &str, find: impl Fn(&Lines) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.lines();
        loop {
            if let Some(found) = find(&lines) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} within {PATIENCE:?}:\n{}", lines.text.join("\n"));
            lines =
                self.grown.wait_timeout(lines, left).map_or_else(|poisoned| poisoned.into_inner().0, |woken| woken.0);
        }
    }
}

/// Asks over HTTP, and returns the whole answer.
pub fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server of metrics");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
