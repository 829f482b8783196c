//! What the attacks have in common: who watches that others are served, and what the server holds meanwhile.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
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

/// A server with [`OPEN_DOORS`] and these flags besides. Figures can be compared only if the server has a core of its own:
/// `ONETRIP_SERVER_CORE` names it, and then no client runs there.
pub(crate) fn serve(site: &Site, flags: &[&str]) -> Server {
    let core = std::env::var("ONETRIP_SERVER_CORE").ok();
    let pinned = core.as_deref().map(|core| ["--cores", core]);
    let all: Vec<&str> = OPEN_DOORS.iter().chain(flags).chain(pinned.iter().flatten()).copied().collect();
    let Some(core) = core.as_ref().map(|core| core.parse::<usize>().expect("the number of a core")) else {
        return start(site, &all);
    };
    run_on(|_| true);
    let server = start(site, &all);
    run_on(|other| other != core);
    server
}

/// A server that gives memory back to the system as soon as it needs it no longer. Otherwise the 19 MiB that the hash of the first
/// login has left would be room in which growth does not show.
fn start(site: &Site, flags: &[&str]) -> Server {
    let mut command = site.command(flags);
    command.env("MIMALLOC_PURGE_DELAY", "0");
    Server::start(command, site)
}

/// Lets the calling thread, and those that it starts, run on these cores alone.
fn run_on(is_allowed: impl Fn(usize) -> bool) {
    let cores = thread::available_parallelism().unwrap().get().max(2);
    // SAFETY: a set of cores is plain bits, all of which may be zero.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for core in (0..cores).filter(|core| is_allowed(*core)) {
        // SAFETY: the number is less than that of the bits in a set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: the pointer is to a set that lives until the call returns, and its size is given.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    assert_eq!(done, 0);
}

/// The calling thread, and those that it starts, attack: they step back behind everybody else on this host, so that the honest
/// client waits for the server and not for a core that attackers have.
fn step_back() {
    // SAFETY: the call takes no pointers, and may fail.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// How many connections an attack may have: `wanted`, or what the limit of descriptors leaves after it was raised as far
/// as it goes. The server inherits the same limit.
pub(crate) fn crowd(wanted: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the right type that lives until the call returns.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(read, 0);
    let needed = wanted as u64 + BESIDE_DESCRIPTORS;
    if limit.rlim_max < needed {
        // Root may have more than the limit that it was given.
        set_limit(libc::rlimit { rlim_cur: needed, rlim_max: needed });
    } else {
        set_limit(libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
    }
    // SAFETY: as above.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let room = usize::try_from(limit.rlim_cur.saturating_sub(BESIDE_DESCRIPTORS)).unwrap_or(usize::MAX);
    let crowd = wanted.min(room);
    if crowd < wanted {
        eprintln!("{crowd} connections and not {wanted}: there are no more descriptors");
    }
    crowd
}

/// Descriptors that either process has besides.
const BESIDE_DESCRIPTORS: u64 = 1_000;

fn set_limit(limit: libc::rlimit) {
    // SAFETY: the pointer is to a value of the right type that lives until the call returns. It may fail.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
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

/// The factor by which the 99th percentile of an honest client's submissions may grow while others attack, for whoever has a
/// machine to himself and sets this variable. Otherwise it is printed: it is one of time, and of all other processes too.
const FACTOR_MAX: &str = "ONETRIP_FACTOR_MAX";

/// How long an honest client takes at a server that nobody attacks.
pub(crate) struct Peace {
    server: SocketAddr,
    shard: PathBuf,
    took: Took,
}

/// What submissions took.
struct Took {
    /// On the clock.
    time: Vec<Duration>,
    /// Of the shard's processor time, for whomever it worked meanwhile: what the client had to wait for, however busy the host
    /// is otherwise.
    work: Vec<Duration>,
}

impl Peace {
    /// Measures it.
    pub(crate) fn at(server: &Server) -> Self {
        // The first login is hashed, as no later one is.
        submit_once(server.tls);
        let shard = shard_of(server);
        let mut took = Took { time: Vec::new(), work: Vec::new() };
        (0..SUBMISSIONS).for_each(|_| took.one_more(server.tls, &shard));
        Self { server: server.tls, shard, took }
    }

    /// Runs the attack, and lets the honest client submit all the while. What the attack returns is returned.
    pub(crate) fn holds_during<T: Send>(&self, what: &str, attack: impl FnOnce() -> T + Send) -> T {
        let is_over = AtomicBool::new(false);
        let mut took = Took { time: Vec::new(), work: Vec::new() };
        let result = thread::scope(|scope| {
            let attack = scope.spawn(|| {
                step_back();
                let _over = Over(&is_over);
                attack()
            });
            while took.time.len() < SUBMISSIONS || !is_over.load(Ordering::Relaxed) {
                took.one_more(self.server, &self.shard);
            }
            attack.join().unwrap()
        });
        self.compare(what, &took);
        result
    }

    /// Lets the honest client submit while the attackers' connections are merely there.
    pub(crate) fn holds_beside(&self, what: &str) {
        let mut took = Took { time: Vec::new(), work: Vec::new() };
        (0..SUBMISSIONS).for_each(|_| took.one_more(self.server, &self.shard));
        self.compare(what, &took);
    }

    fn compare(&self, what: &str, took: &Took) {
        let factor = |disturbed: &[Duration], before: &[Duration], percent| {
            percentile(disturbed, percent).as_secs_f64() / percentile(before, percent).as_secs_f64()
        };
        let time = |percent| factor(&took.time, &self.took.time, percent);
        let work = |percent| factor(&took.work, &self.took.work, percent);
        let worst = time(99);
        eprintln!(
            "{what}: {} submissions, p99 {:.1?}, factor {worst:.1}, of the median {:.1}; of the shard's work p99 {:.1?}, \
             factor {:.1}, of the median {:.1}",
            took.time.len(),
            percentile(&took.time, 99),
            time(50),
            percentile(&took.work, 99),
            work(99),
            work(50),
        );
        if let Some(most) = std::env::var_os(FACTOR_MAX) {
            let most: f64 = most.to_str().and_then(|most| most.parse().ok()).expect("a factor");
            assert!(worst <= most, "{what}: an honest client waits {worst:.1} times as long");
        }
    }
}

impl Took {
    fn one_more(&mut self, server: SocketAddr, shard: &Path) {
        let worked = worked(shard);
        self.time.push(submit_once(server));
        self.work.push(self::worked(shard) - worked);
    }
}

/// Where the system tells of the first shard's thread.
fn shard_of(server: &Server) -> PathBuf {
    let threads = fs::read_dir(format!("/proc/{}/task", server.process())).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().path());
    threads.find(|thread| fs::read_to_string(thread.join("comm")).unwrap().starts_with("onetrip-shard")).unwrap()
}

/// How long the thread has run so far.
fn worked(thread: &Path) -> Duration {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Says that the attack is over when it is dropped, should a test fail by it too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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

fn percentile(took: &[Duration], percent: usize) -> Duration {
    let mut took = took.to_vec();
    took.sort_unstable();
    took[(took.len() * percent).div_ceil(100) - 1]
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
