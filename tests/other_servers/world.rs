//! The world of one fetched server: namespaces in which it seems to be installed, and a folder shared with the test.
//!
//! It knows how a server is started and stopped, and nothing of any one server's configuration. What a server of somebody
//! else's does can only be asked for, so that waiting here means asking again, within a bound.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use onetrip::time::Now;
use onetrip::tls::certificate::SelfSigned;
use tempfile::TempDir;

use crate::process::{HOSTNAME, PATIENCE, files};

/// A folder for one server, with a certificate in it.
pub struct World {
    server: PathBuf,
    shared: TempDir,
}

/// Where a server shall send what it has taken, with the user's name and password: to onetrip at this port of this host.
#[derive(Clone, Copy)]
pub struct Relay {
    /// The port.
    pub port: u16,
    /// TLS from the first byte, or STARTTLS.
    pub implicit_tls: bool,
}

/// A server that runs, until this is dropped.
pub struct OtherServer {
    world: World,
    process: Child,
    seen: Mutex<BTreeSet<PathBuf>>,
    /// Where plain text comes first.
    pub starttls: SocketAddr,
    /// Where TLS comes first.
    pub tls: SocketAddr,
}

impl World {
    /// A world for the server that was fetched under this name; `None`, after saying why, if there can be none.
    pub fn new(name: &str) -> Option<Self> {
        let server = fetched().join(name);
        let shared = tempfile::tempdir().expect("a temporary directory");
        // Servers look into it as users of their own.
        fs::set_permissions(shared.path(), Permissions::from_mode(0o755)).expect("the folder is ours");
        let world = Self { server, shared };
        match world.obstacle() {
            None => {
                world.make_certificate();
                Some(world)
            }
            Some(reason) => {
                skip(name, &reason);
                None
            }
        }
    }

    fn obstacle(&self) -> Option<String> {
        if !self.server.is_dir() {
            return Some(format!("{} is not there: run tests/other_servers/fetch", self.server.display()));
        }
        let output = self.command("true").stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "no namespaces can be made for it, which needs root and overlayfs: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Some(format!("unshare (of util-linux) cannot be run: {error}")),
        }
    }

    fn make_certificate(&self) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let made = SelfSigned::new(HOSTNAME, Now { monotonic: Duration::ZERO, unix }).expect("a certificate");
        self.write("certificate.pem", made.certificate);
        let key = self.write("key.pem", &*made.key);
        // OpenSMTPD reads no key that others may read.
        fs::set_permissions(key, Permissions::from_mode(0o600)).expect("the file is ours");
    }

    /// The path of something in the shared folder; it is the same inside and outside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.shared.path().join(name)
    }

    /// The shared folder.
    pub fn folder(&self) -> &str {
        self.shared.path().to_str().expect("a path of text")
    }

    /// Writes a file into the shared folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file in the shared folder is written");
        path
    }

    /// Runs a shell script inside, whose last command is the server, and waits until the server listens on both ports.
    pub fn start(self, script: &str, ports: [u16; 2]) -> OtherServer {
        let log = File::create(self.path("output.log")).expect("a log");
        let mut process = self
            .command(script)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("unshare has just been run");
        let [starttls, tls] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let ended = process.try_wait();
        let server = OtherServer { world: self, process, seen: Mutex::default(), starttls, tls };
        assert!(matches!(ended, Ok(None)), "the server ended at once");
        for address in [starttls, tls] {
            eventually("server listens", || TcpStream::connect(address).ok());
        }
        server
    }

    fn command(&self, script: &str) -> Command {
        let enter = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/other_servers/enter");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        command.arg(enter).arg(&self.server).arg(self.shared.path()).args(["sh", "-ec", script]);
        command
    }
}

impl OtherServer {
    /// The path of something in the shared folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    /// Writes a file into the shared folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.world.write(name, content)
    }

    /// The certificate that the server shows.
    pub fn certificate(&self) -> PathBuf {
        self.path("certificate.pem")
    }

    /// Waits until the server has written this to its standard output or error.
    pub fn wait_for_output(&self, text: &str) {
        eventually(text, || fs::read_to_string(self.path("output.log")).ok()?.contains(text).then_some(()));
    }

    /// Waits for a message in the mailbox that was not there before.
    pub fn next_message(&self) -> Vec<u8> {
        eventually("message arrives", || {
            let mut seen = self.seen.lock().expect("nobody has panicked");
            let new = files(&self.path("mail/new")).into_iter().find(|path| !seen.contains(path))?;
            let content = fs::read(&new).expect("a message");
            seen.insert(new);
            Some(content)
        })
    }
}

impl Drop for OtherServer {
    fn drop(&mut self) {
        // The first process in there ends with its standard input, and all others with it, before it can be waited for.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        if thread::panicking() {
            let logs = [files(&self.path("")), files(&self.path("logs"))].concat();
            for log in logs.iter().filter(|path| path.extension() == Some("log".as_ref())) {
                eprintln!("── {} ──\n{}", log.display(), fs::read_to_string(log).unwrap_or_default());
            }
        }
    }
}

/// Says why a test of a server proves nothing here; fails if it must.
pub fn skip(name: &str, reason: &str) {
    let required = std::env::var_os("ONETRIP_REQUIRE_OTHER_SERVERS").is_some_and(|value| value == "1");
    assert!(!required, "{name}: {reason}");
    eprintln!("skipped: {name}: {reason}");
}

/// Two ports that nobody listens on.
pub fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// Asks until there is an answer. A test that waits too long has failed.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "no {what} within {PATIENCE:?}");
        thread::sleep(PAUSE);
    }
}

fn fetched() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/other-servers");
    std::env::var_os("ONETRIP_OTHER_SERVERS").map_or_else(default, PathBuf::from)
}

/// Between two questions: short beside the start of a server, long beside the cost of asking.
const PAUSE: Duration = Duration::from_millis(10);
