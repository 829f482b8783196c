//! Killed under the load of `onetrip-loadgen`, whose clients come in all ways there are, and audited by it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::process::{PASSWORD, PATIENCE, Site, USER};
use crate::{Random, kills, lasting_address, let_time_pass, stop};

/// The load generator. It is built along with these tests when the whole workspace is tested, and here otherwise.
pub fn generator() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PROGRAM.get_or_init(|| {
        let beside = PathBuf::from(env!("CARGO_BIN_EXE_onetrip")).with_file_name("onetrip-loadgen");
        let directory = beside.parent().unwrap();
        let profile = match directory.file_name().and_then(|name| name.to_str()).unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--package", "onetrip-loadgen", "--profile", profile, "--target-dir"]);
        let status = command.arg(directory.parent().unwrap()).status().expect("cargo runs");
        assert!(status.success(), "cargo cannot build {}", beside.display());
        beside
    }))
}

/// A generator at work; stopped, if the test fails.
struct Load(Child);

impl Load {
    fn start(site: &Site, server: std::net::SocketAddr, seed: u64) -> Self {
        let mut command = generator();
        command.args(["run", &server.to_string(), "--user", USER, "--password-file"]);
        command.arg(site.write("password", PASSWORD)).arg("--acknowledged").arg(site.path("acknowledged"));
        command.args(["--scenario", "full-resumed:4,full:2,basic:1,esmtp:1", "--connections", "8", "--messages", "3"]);
        command.args(["--size", "1k-40k", "--recipients", "2", "--mailboxes", "20"]);
        command.args(["--duration", LIFE_OF_LOAD_S, "--seed", &seed.to_string()]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the generator starts"))
    }

    /// Waits for its end.
    fn end(mut self) {
        self.0.wait().expect("it ends");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended already, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn under_load_every_acknowledged_message_is_in_its_mailboxes_exactly_once_however_often_the_server_is_killed() {
    let mut random = Random::from_environment(2);
    let site = Site::new();
    let address = lasting_address();
    let listen = address.to_string();
    let flags = ["--shards", "2", "--listen", &listen, "--connections-per-address-max", "100000"];
    for life in 0..kills() {
        let server = site.serve(&flags);
        // One load for each life, each with messages of its own: between two lives it would only count refusals.
        let load = Load::start(&site, address, 1_000 + life);
        server.event("message_stored");
        let_time_pass(&mut random, LIFE_MAX);
        // Dropped is killed, with SIGKILL.
        drop(server);
        load.end();
    }
    let server = site.serve(&flags);
    let text = audit_until_clean(&site);
    eprintln!("{} kills\n{text}", kills());
    stop(server);
}

/// Audits until everything is there; whoever was killed may have left some for later.
fn audit_until_clean(site: &Site) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut audit = generator();
        audit.arg("audit").arg(site.mail()).arg("--acknowledged").arg(site.path("acknowledged"));
        let output = audit.output().expect("the audit runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let acknowledged: u64 = text.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("a number");
        assert!(acknowledged >= kills(), "there was no load: {text}");
        if output.status.success() {
            return text;
        }
        assert!(Instant::now() < end && text.contains("repeated: 0 ") && text.contains("damaged: 0 "), "{text}");
    }
}

/// A generator whose server is gone has ended soon after.
const LIFE_OF_LOAD_S: &str = "1";

/// How long a server lives at most after it has acknowledged something.
const LIFE_MAX: Duration = Duration::from_millis(700);
