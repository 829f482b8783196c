//! What the attacks have in common: who watches that others are served, and what the server holds meanwhile.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::process::client::{Client, auth};
use crate::process::{PASSWORD, PATIENCE, RECIPIENT, SENDER, Server, Site, USER, http_get};

/// Attacks of many connections come one after the other: they share this process's descriptors and the two cores that a
/// build machine has.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The flags of a server that is attacked from one address by many connections.
pub(crate) const OPEN_DOORS: [&str; 8] =
    ["--metrics", "127.0.0.1:0", "--deliver", "discard", "--sync", "none", "--connections-per-address-max", "100000"];

/// A server with [`OPEN_DOORS`] and these flags besides.
pub(crate) fn serve(site: &Site, flags: &[&str]) -> Server {
    let all: Vec<&str> = OPEN_DOORS.iter().chain(flags).copied().collect();
    site.serve(&all)
}

/// How many connections an attack may have: `wanted`, or what the limit of descriptors leaves after it was raised as far
/// as it goes. The server inherits the same limit.
pub(crate) fn crowd(wanted: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the right type that lives until the call returns.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(read, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let written = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(written, 0);
    let room = usize::try_from(limit.rlim_max).unwrap_or(usize::MAX).saturating_sub(1_000);
    let crowd = wanted.min(room);
    if crowd < wanted {
        eprintln!("{crowd} connections and not {wanted}: there are no more descriptors");
    }
    crowd
}

/// Connects from one of many addresses of this host, so that ports do not run out.
pub(crate) fn connect(number: usize, server: SocketAddr) -> TcpStream {
    connect_over(Socket::new(Domain::IPV4, Type::STREAM, None).unwrap(), number, server)
}

/// The same, with room for little that was not read.
pub(crate) fn connect_with_window(number: usize, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    connect_over(socket, number, server)
}

fn connect_over(socket: Socket, number: usize, server: SocketAddr) -> TcpStream {
    let address = [127, 0, 1 + u8::try_from(number / 250 % 250).unwrap(), 1 + u8::try_from(number % 250).unwrap()];
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

// ── Others are served ───────────────────────────────────────────────────────────────────────────────────────────────

/// Submissions that the honest client makes before an attack, and at least as many while it lasts.
const SUBMISSIONS: usize = 120;

/// The 99th percentile of an honest client's submissions may grow by this factor while others attack. The attackers run on the
/// same two cores as the server, unoptimized like it; what the factor excludes is a client that waits for timeouts.
pub(crate) const FACTOR_MAX: f64 = 300.0;

/// How long an honest client takes at a server that nobody attacks.
pub(crate) struct Peace {
    server: SocketAddr,
    p99: Duration,
}

impl Peace {
    /// Measures it.
    pub(crate) fn at(server: &Server) -> Self {
        // The first login is hashed, as no later one is.
        submit_once(server.tls);
        let took = (0..SUBMISSIONS).map(|_| submit_once(server.tls)).collect();
        Self { server: server.tls, p99: p99(took) }
    }

    /// Runs the attack, and lets the honest client submit all the while. What the attack returns is returned.
    pub(crate) fn holds_during<T>(&self, what: &str, attack: impl FnOnce() -> T) -> T {
        let is_over = AtomicBool::new(false);
        let (result, took) = thread::scope(|scope| {
            let honest = scope.spawn(|| {
                let mut took = Vec::new();
                while took.len() < SUBMISSIONS || !is_over.load(Ordering::Relaxed) {
                    took.push(submit_once(self.server));
                }
                took
            });
            let result = attack();
            is_over.store(true, Ordering::Relaxed);
            (result, honest.join().unwrap())
        });
        self.compare(what, took);
        result
    }

    /// Lets the honest client submit while the attackers' connections are merely there.
    pub(crate) fn holds_beside(&self, what: &str) {
        self.compare(what, (0..SUBMISSIONS).map(|_| submit_once(self.server)).collect());
    }

    fn compare(&self, what: &str, took: Vec<Duration>) {
        let count = took.len();
        let disturbed = p99(took);
        let factor = disturbed.as_secs_f64() / self.p99.as_secs_f64();
        eprintln!(
            "{what}: p99 of {count} submissions {disturbed:.1?}, undisturbed {:.1?}: factor {factor:.1}",
            self.p99
        );
        assert!(factor <= FACTOR_MAX, "{what}: an honest client waits {factor:.1} times as long");
    }
}

const LETTER: &str = "Subject: honest\r\n\r\nHello\r\n";

/// A whole submission on a connection of its own; how long it took.
fn submit_once(server: SocketAddr) -> Duration {
    let begin = Instant::now();
    let mut client = Client::connect(server);
    client.secure();
    client.expect("220");
    let login = auth(USER, PASSWORD);
    client.send(format!(
        "EHLO honest.example\r\n{login}\r\nMAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT {} LAST\r\n{LETTER}QUIT\r\n",
        LETTER.len()
    ));
    for code in ["250", "235", "250", "250", "250", "221"] {
        client.expect(code);
    }
    begin.elapsed()
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[(took.len() * 99).div_ceil(100) - 1]
}

// ── What the server holds ───────────────────────────────────────────────────────────────────────────────────────────

/// Segments that the spool may open meanwhile, for itself.
const SPOOL_DESCRIPTORS: usize = 4;

/// Memory and descriptors of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holdings {
    pub(crate) memory_kib: u64,
    pub(crate) descriptors: usize,
}

impl Holdings {
    /// What it holds now.
    pub(crate) fn of(server: &Server) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory_kib = line.trim().trim_end_matches(" kB").parse().unwrap();
        Self { memory_kib, descriptors: fs::read_dir(format!("/proc/{}/fd", server.process())).unwrap().count() }
    }

    /// Memory has grown by no more than so much since.
    pub(crate) fn assert_grown_by_at_most(&self, server: &Server, what: &str, growth_kib: u64) {
        let now = Self::of(server);
        let grown = now.memory_kib.saturating_sub(self.memory_kib);
        eprintln!("{what}: memory grew from {} by {grown} KiB, bound {growth_kib} KiB", self.memory_kib);
        assert!(grown <= growth_kib, "{what}: memory grew by {grown} KiB, over {growth_kib}");
    }

    /// Waits until the server has no more connections, and then as few descriptors as before.
    pub(crate) fn assert_given_back(&self, server: &Server) {
        wait_for_open(server, |open| open == 0);
        let end = Instant::now() + PATIENCE;
        // The ring closes a descriptor a moment after the connection is counted out.
        while Self::of(server).descriptors > self.descriptors + SPOOL_DESCRIPTORS {
            assert!(Instant::now() < end, "descriptors are kept, beyond {self:?}: {:?}", descriptors(server));
            figure(server, "onetrip_connections_open");
        }
    }
}

/// What the descriptors of a server lead to.
fn descriptors(server: &Server) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", server.process())).unwrap();
    // One that was closed meanwhile leads nowhere.
    entries.map(|entry| format!("{:?}", fs::read_link(entry.unwrap().path()).ok())).collect()
}

/// A figure from the page of metrics, added up over shards.
pub(crate) fn figure(server: &Server, name: &str) -> u64 {
    let page = http_get(server.metrics.unwrap(), "/metrics");
    let rows = page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    rows.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
}

/// Waits until so many connections are open.
pub(crate) fn wait_for_open(server: &Server, is_enough: impl Fn(u64) -> bool) {
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        let open = figure(server, "onetrip_connections_open");
        if is_enough(open) {
            return;
        }
        assert!(Instant::now() < end, "{open} connections are open");
    }
}

/// An honest client submits a message, and no defect was met.
pub(crate) fn assert_sound(server: &Server) {
    submit_once(server.tls);
    assert_eq!(server.events("session_panicked").len(), 0);
    if server.metrics.is_some() {
        assert_eq!(figure(server, "onetrip_sessions_panicked_total"), 0);
    }
}
