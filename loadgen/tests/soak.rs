//! The real server under mixed load for a while: what it holds at the end is what it held when it was warm.
//!
//! All kinds of sessions, messages of all sizes, through the spool and the queue to a next hop; between them clients that reset,
//! stop in the middle of a handshake or talk nonsense. Between two slices of the load everything is read: memory,
//! descriptors, connections, queue. `ONETRIP_SOAK_SECONDS` says for how long; the short form is what CI runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "a long test says how it is getting on")]

#[allow(dead_code, reason = "another test uses the rest of it")]
#[path = "against_server/process.rs"]
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use process::{LOOK, PATIENCE, USER, directory_with_users, generator, server_program};
use serde_json::Value;
use socket2::SockRef;

/// How long the load lasts without the variable.
const SHORT: Duration = Duration::from_secs(20);
/// Slices of the short form, and the longest one of any.
const SLICES: u32 = 4;
const SLICE_MAX: Duration = Duration::from_secs(30);
/// Memory in KiB, and descriptors, by which a server may hold more later: the allocator keeps or gives back pages as it likes.
/// The spool keeps segments open, some more each time until the log is cleaned, which the short form may be over before; and
/// connections to the next hop stay open for a while.
const MEMORY_KIB_SLACK: u64 = 8 << 10;
const DESCRIPTORS_SLACK: usize = 16;
/// Clients of each slice that mean no good.
const NUISANCES: usize = 300;

/// Caches are small, so that they are full soon: what grows after that is lost.
const SERVER: [&str; 24] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--listen-tls",
    "127.0.0.1:0",
    "--metrics",
    "127.0.0.1:0",
    "--hostname",
    "localhost",
    "--shards",
    "1",
    "--log-format",
    "json",
    "--tls-sessions",
    "1024",
    "--once-max",
    "1000",
    "--connections-per-address-max",
    "100000",
    "--relay-tls",
    "off",
    "--lateness-max",
    "0",
    "--deliver",
];

const LOAD: [&str; 12] = [
    "--scenario",
    "esmtp:1,implicit-tls:1,qtls:1,full:2,full-resumed:4,early-data:3,one-trip:3,pipeconnect:1,fallback:1",
    "--connections",
    "24",
    "--messages",
    "3",
    "--size",
    "1k-64k",
    "--recipients",
    "2",
    "--link",
    "loopback:3,lan:1",
];

/// A process whose words are read until what is waited for was said, and thrown away after that.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> (Self, BufReader<std::process::ChildStderr>) {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let words = BufReader::new(child.stderr.take().unwrap());
        (Self(child), words)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Server {
    process: Process,
    starttls: SocketAddr,
    tls: SocketAddr,
    metrics: SocketAddr,
}

impl Server {
    fn start(state: &Path, next_hop: SocketAddr) -> Self {
        let mut command = Command::new(server_program());
        command.args(SERVER).arg(format!("relay:{next_hop}")).arg("--state-dir").arg(state);
        let (process, mut words) = Process::start(&mut command);
        let mut listening = Vec::new();
        loop {
            let mut line = String::new();
            assert!(words.read_line(&mut line).unwrap() > 0, "the server does not start");
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            match event["event"].as_str() {
                Some("listening") => listening.push(event),
                Some("ready") => break,
                _ => {}
            }
        }
        thread::spawn(move || std::io::copy(&mut words, &mut std::io::sink()));
        let address = |kind: &str| {
            let event = listening.iter().find(|event| event["listener"] == kind).unwrap();
            event["address"].as_str().unwrap().parse().unwrap()
        };
        Self { process, starttls: address("starttls"), tls: address("tls"), metrics: address("metrics") }
    }

    /// A figure from the page of metrics, added up over its labels.
    fn figure(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let rows = page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        rows.map(|row| row.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
    }

    /// Waits until nobody is connected and nothing is queued, then looks at what it holds.
    fn reading(&self) -> Reading {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (connections, queue) = (self.figure("onetrip_connections_open"), self.figure("onetrip_queue_messages"));
            if connections + queue == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{connections} connections are open and {queue} messages are queued");
            thread::sleep(LOOK);
        }
        let directory = format!("/proc/{}", self.process.0.id());
        let status = fs::read_to_string(format!("{directory}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Reading {
            memory_kib: memory.trim().trim_end_matches(" kB").parse().unwrap(),
            descriptors: fs::read_dir(format!("{directory}/fd")).unwrap().count(),
            messages: self.figure("onetrip_messages_stored_total"),
            panics: self.figure("onetrip_sessions_panicked_total"),
        }
    }
}

/// What a server holds that nobody wants anything of, and what it has done so far.
#[derive(Clone, Copy, Debug)]
struct Reading {
    memory_kib: u64,
    descriptors: usize,
    messages: u64,
    panics: u64,
}

/// Clients that mean no good, one after the other.
fn be_a_nuisance(server: &Server) {
    for number in 0..NUISANCES {
        let address = if number % 2 == 0 { server.starttls } else { server.tls };
        let mut stream = TcpStream::connect(address).unwrap();
        let words: &[u8] = match number % 5 {
            0 => b"",
            1 => &[22, 3, 1, 2, 0, 1, 0, 1, 252],
            2 => b"GET / HTTP/1.1\r\n\r\n",
            3 => b"EHLO nuisance.example\r\nSTARTTLS\r\nMAIL FROM:<a@b>\r\n",
            _ => &[0; 3_000],
        };
        let _ = stream.write_all(words);
        if number % 3 == 0 {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

#[test]
fn what_a_server_holds_after_a_long_mixed_load_is_what_it_held_when_it_was_warm() {
    let seconds = std::env::var("ONETRIP_SOAK_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let length = seconds.map_or(SHORT, Duration::from_secs);
    let slice = (length / SLICES).min(SLICE_MAX);
    let slices = usize::try_from(length.as_secs() / slice.as_secs().max(1)).unwrap().max(2);

    let directory = directory_with_users(&[]);
    let mut sink = Command::new(env!("CARGO_BIN_EXE_onetrip-loadgen"));
    let (_sink, mut words) = Process::start(sink.args(["sink", "--listen", "127.0.0.1:0"]));
    let mut line = String::new();
    words.read_line(&mut line).unwrap();
    let next_hop = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    thread::spawn(move || std::io::copy(&mut words, &mut std::io::sink()));
    let server = Server::start(&directory.path().join("state"), next_hop);

    let password = directory.path().join("password").into_os_string().into_string().unwrap();
    let (starttls, tls) = (server.starttls.to_string(), server.tls.to_string());
    let duration = slice.as_secs().to_string();
    let mut readings = Vec::new();
    for number in 1..=slices {
        let seed = number.to_string();
        let where_to = ["run", &starttls, "--implicit-tls", &tls, "--user", USER, "--password-file", &password];
        let this_time = ["--duration", &duration, "--seed", &seed, "--fail-if", "errors>0"];
        let ended = thread::scope(|scope| {
            scope.spawn(|| be_a_nuisance(&server));
            generator(&[&where_to[..], &LOAD, &this_time].concat())
        });
        assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
        let reading = server.reading();
        eprintln!("slice {number} of {slices}, {duration} s: {reading:?}");
        readings.push(reading);
    }
    let (warm, late) = readings.split_at(readings.len() / 2);
    assert!(late[late.len() - 1].messages > warm[0].messages, "nothing was submitted");
    assert!(late.iter().all(|reading| reading.panics == 0), "{readings:#?}");
    // What leaks is never given back: then the least of the later readings is over the largest of the earlier ones.
    let memory = |readings: &[Reading]| readings.iter().map(|reading| reading.memory_kib).collect::<Vec<_>>();
    let descriptors = |readings: &[Reading]| readings.iter().map(|reading| reading.descriptors).collect::<Vec<_>>();
    let (most, least) = (memory(warm).into_iter().max().unwrap(), memory(late).into_iter().min().unwrap());
    assert!(least <= most + MEMORY_KIB_SLACK, "memory grows: {readings:#?}");
    let (most, least) = (descriptors(warm).into_iter().max().unwrap(), descriptors(late).into_iter().min().unwrap());
    assert!(least <= most + DESCRIPTORS_SLACK, "descriptors grow: {readings:#?}");
}
