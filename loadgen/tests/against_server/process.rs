//! The processes: the server under test, the generator, and its sink.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The user of most tests.
pub(crate) const USER: &str = "ann";
/// Her password.
pub(crate) const PASSWORD: &str = "secret-of-ann";

/// A test that waits longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often the end of a process is looked for.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// What a process said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the generator to its end.
pub(crate) fn generator(arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onetrip-loadgen"));
    end_of(command.args(arguments), "")
}

fn end_of(command: &mut Command, input: &str) -> Ended {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).expect("it reads its input");
    let out = collect(child.stdout.take().unwrap());
    let err = collect(child.stderr.take().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{command:?} does not end:\n{}\n{}", out.join().unwrap(), err.join().unwrap());
        }
        std::thread::sleep(LOOK);
    };
    Ended { code: status.code().expect("an exit code"), out: out.join().unwrap(), err: err.join().unwrap() }
}

fn collect(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = from.read_to_string(&mut text);
        text
    })
}

/// The path of the server's program.
pub(crate) fn server_program() -> String {
    onetrip().get_program().to_str().unwrap().to_owned()
}

/// The server's program. It is built along with these tests when the whole workspace is tested, and here otherwise.
fn onetrip() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PROGRAM.get_or_init(|| {
        let beside = Path::new(env!("CARGO_BIN_EXE_onetrip-loadgen")).with_file_name("onetrip");
        if !beside.exists() {
            build(&beside);
        }
        beside
    }))
}

fn build(program: &Path) {
    let directory = program.parent().unwrap();
    let profile = match directory.file_name().and_then(|name| name.to_str()).unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--package", "onetrip", "--bin", "onetrip", "--profile", profile, "--target-dir"]);
    let status = command.arg(directory.parent().unwrap()).status().expect("cargo runs");
    assert!(status.success() && program.exists(), "cargo cannot build {}", program.display());
}

/// A directory with a state directory in which ann and these are users, and a file with ann's password.
pub(crate) fn directory_with_users(users: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    for (name, password) in users.iter().chain(&[(USER, PASSWORD)]) {
        let mut add = onetrip();
        let ended = end_of(add.args(["user", "add", name, "--state-dir"]).arg(&state), &format!("{password}\n"));
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    fs::write(directory.path().join("password"), PASSWORD).unwrap();
    directory
}

/// A process that goes on until the test ends.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // When nobody listens any more the lines are still read, so that the process never waits for us.
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        Self { child, lines }
    }

    /// The first line from now on that `wanted` makes something of.
    pub(crate) fn wait_for<Found>(&self, wanted: impl Fn(&str) -> Option<Found>) -> Found {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("it never said what was waited for:\n{said}") };
            if let Some(found) = wanted(&line) {
                return found;
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// The number of the process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server under test and the files around it.
pub(crate) struct Site {
    directory: TempDir,
    server: Running,
    starttls: SocketAddr,
    tls: SocketAddr,
}

impl Site {
    /// A server with these users besides ann.
    pub(crate) fn with_users(users: &[(&str, &str)]) -> Self {
        let directory = directory_with_users(users);
        let state = directory.path().join("state");
        let mut serve = onetrip();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--hostname", "localhost"]);
        // A machine that is busy with other tests makes every server late.
        serve.args(["--max-message-size", "1048576", "--lateness-max", "0"]);
        serve.args(["--shards", "1", "--log-format", "json", "--auth-failure-delay", "0", "--state-dir"]).arg(&state);
        let server = Running::start(&mut serve);
        let address = |kind: &'static str| server.wait_for(|line| listener(line, kind));
        let (starttls, tls) = (address("starttls"), address("tls"));
        Self { directory, server, starttls, tls }
    }

    /// A server with ann alone.
    pub(crate) fn new() -> Self {
        Self::with_users(&[])
    }

    /// The path of something in this site's directory, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).into_os_string().into_string().unwrap()
    }

    /// Where the Maildirs are.
    pub(crate) fn mail(&self) -> PathBuf {
        self.directory.path().join("state/mail")
    }

    /// The number of the server's process.
    pub(crate) fn process(&self) -> u32 {
        self.server.process()
    }

    /// What the server says to whoever connects.
    pub(crate) fn greeting(&self) -> String {
        let stream = TcpStream::connect(self.starttls).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = String::new();
        for line in BufReader::new(stream).lines().map(|line| line.expect("a greeting comes")) {
            greeting.push_str(&line);
            greeting.push_str("\r\n");
            if line.starts_with("220 ") {
                break;
            }
        }
        greeting
    }

    /// The generator with `run` against this server as ann, and these arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let password = self.path("password");
        self.run_as(&["--user", USER, "--password-file", &password], arguments)
    }

    /// The same as somebody else.
    pub(crate) fn run_as(&self, who: &[&str], arguments: &[&str]) -> Ended {
        let (starttls, tls) = (self.starttls.to_string(), self.tls.to_string());
        let first = ["run", &starttls, "--implicit-tls", &tls];
        generator(&[&first, who, arguments].concat())
    }

    /// A run that must end well; its report as JSON.
    pub(crate) fn report(&self, arguments: &[&str]) -> Value {
        let path = self.path("report.json");
        let ended = self.run(&[arguments, &["--json", &path]].concat());
        assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }
}

fn listener(line: &str, kind: &str) -> Option<SocketAddr> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["event"] == "listening" && event["listener"] == kind).then(|| event["address"].as_str()?.parse().ok())?
}
