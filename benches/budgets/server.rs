//! The real server under the load generator: processor time of its whole process for one session.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A server that runs until this is dropped.
pub(crate) struct Server {
    process: Child,
    address: String,
    directory: PathBuf,
    generator: PathBuf,
}

/// A run of the load generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) scenario: &'static str,
    pub(crate) clients: usize,
    pub(crate) sessions: usize,
    pub(crate) messages: usize,
}

impl Server {
    /// Starts a server on core 0 with one shard and an empty state directory, and lets one client log in.
    pub(crate) fn start(program: &Path, directory: &Path) -> Self {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).expect("a directory");
        fs::write(directory.join("password"), "a-password-to-measure-with\n").expect("a file");
        let mut add = Command::new(program);
        add.args(["user", "add", "load", "--state-dir"]).arg(directory.join("state"));
        add.stdin(File::open(directory.join("password")).expect("a password")).stdout(Stdio::null());
        assert!(add.status().expect("the server's program").success(), "a user is added");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let address = format!("127.0.0.1:{port}");
        let log = File::create(directory.join("log")).expect("a log");
        let mut serve = Command::new("taskset");
        serve.args(["-c", "0"]).arg(program).arg("serve").arg("--state-dir").arg(directory.join("state"));
        serve.args(["--listen", &address, "--hostname", "localhost", "--shards", "1", "--cores", "0"]);
        serve.args(["--sync", "commit", "--deliver", "discard"]).stderr(log);
        let process = serve.spawn().expect("taskset and the server");
        let generator = Path::new(env!("CARGO_BIN_EXE_onetrip")).with_file_name("onetrip-loadgen");
        let server = Self { process, address, directory: directory.to_owned(), generator };
        server.wait_until_ready();
        server.us_per_session(Run { scenario: "full-resumed", clients: 16, sessions: WARMING_SESSIONS, messages: 1 });
        server
    }

    fn wait_until_ready(&self) {
        for _ in 0..READY_LOOKS_MAX {
            let log = BufReader::new(File::open(self.directory.join("log")).expect("the log"));
            if log.lines().map_while(Result::ok).any(|line| line.contains(" ready ")) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the server does not start: see {}", self.directory.join("log").display());
    }

    /// The server's processor time for one session, in microseconds.
    pub(crate) fn us_per_session(&self, run: Run) -> f64 {
        let report = self.directory.join("report.json");
        let mut generator = Command::new("taskset");
        generator.args(["-c", "1"]).arg(&self.generator).args(["run", &self.address, "--user", "load"]);
        generator.arg("--password-file").arg(self.directory.join("password"));
        generator.args(["--tls", "1.3", "--cores", "1", "--size", "4k", "--scenario", run.scenario]);
        generator.args(["--connections", &run.clients.to_string(), "--count", &run.sessions.to_string()]);
        generator.args(["--messages", &run.messages.to_string(), "--server-pid", &self.process.id().to_string()]);
        generator.arg("--json").arg(&report).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(generator.status().expect("cargo build --release --workspace").success(), "a run without errors");
        let report: Value = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
        let acknowledged = report["total"]["acknowledged"].as_u64().unwrap_or_default();
        assert_eq!(acknowledged, (run.sessions * run.messages) as u64, "every message is acknowledged");
        report["server"]["cpu_s"].as_f64().expect("the server's time") * 1e6 / run.sessions as f64
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::io::stdout().flush();
    }
}

/// Until segments are made and buffers are warm.
const WARMING_SESSIONS: usize = 2_000;

/// Ten seconds.
const READY_LOOKS_MAX: u32 = 1_000;
