//! A run from the first look at the server to the summary.
//!
//! Starts a thread with an executor on each core, shows how it goes, and gathers what was measured.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use onetrip::proto::client::{Failure, ServerMemory};

use crate::audit::Journal;
use crate::clock::Clock;
use crate::conversation::Conversation;
use crate::link::Profile;
use crate::live::{Glance, Live};
use crate::plan::{Load, Plan};
use crate::random::Random;
use crate::record::Record;
use crate::report::{Circumstances, Summary};
use crate::scenario::Scenario;
use crate::server_watch::{Usage, thread_cpu, usage};
use crate::single::{self, Opening};
use crate::target::Target;
use crate::tls_sessions::TlsConfigs;
use crate::worker::{Core, Shared};

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How often the end of the run is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Most TLS sessions that each core collects before the run.
const TICKETS_BEFORE_MAX: u64 = 500;

/// Memory that each executor registers with the kernel in bytes: sockets do not use it, so as little as is allowed.
const REGISTERED_BYTES: usize = 64 << 10;

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Order {
    /// The server.
    pub(crate) target: Target,
    /// What shall be done.
    pub(crate) plan: Plan,
    /// Processors to use, one executor on each.
    pub(crate) cores: Vec<usize>,
    /// Where acknowledged messages are written down.
    pub(crate) journal: Option<PathBuf>,
    /// The server's process.
    pub(crate) server_pid: Option<u32>,
    /// The command line, for the report.
    pub(crate) command: String,
}

/// Carries an order out.
///
/// # Errors
///
/// Words for the user, if the run could not begin.
pub(crate) fn run(order: Order) -> Result<(Record, Summary), String> {
    let Order { target, mut plan, cores, journal, server_pid, command } = order;
    let clock = Clock::start();
    let scout_tls = TlsConfigs::new(&target.trust, target.versions).map_err(|error| error.to_string())?;
    let memories = scout_all(&clock, &target, &scout_tls)?;
    let (offered, left_out) = what_is_offered(&target, &memories[0]);
    let left_out = left_out.among(plan.scenarios.values());
    left_out.iter().for_each(|words| say(&format!("left out: {words}")));
    let nothing = || "the server offers none of the scenarios asked for".to_owned();
    plan.scenarios = plan.scenarios.filtered(|scenario| offered.contains(scenario)).ok_or_else(nothing)?;
    fetch_cookies(&target, &plan);
    let shared = Arc::new(Shared {
        run_id: format!("{:x}{:x}", clock.unix().as_millis(), std::process::id()),
        cores: cores.len() as u64,
        live: Live::default(),
        clock: Clock::start(),
        target,
        plan,
        memories,
    });
    let cores: Result<Vec<_>, String> = cores
        .into_iter()
        .enumerate()
        .map(|(number, processor)| prepare(&shared, number as u64, processor, journal.as_ref()))
        .collect();
    let cores = cores?;
    let usage_before =
        server_pid.map(|pid| usage(pid).ok_or_else(|| format!("there is no process {pid}"))).transpose()?;
    // Collecting sessions took its time; the run itself begins now.
    let shared = Arc::new(Shared { clock: Clock::start(), ..unshare(shared) });
    let measured = watch(&shared, cores, server_pid);
    let circumstances = Circumstances {
        began: shared.clock.unix(),
        command,
        took: shared.clock.now().monotonic,
        left_out,
        generator_busy: measured.busy,
        server: usage_before.map(|before| Usage {
            cpu: measured.server.cpu.saturating_sub(before.cpu),
            resident_bytes: measured.server.resident_bytes.max(before.resident_bytes),
        }),
    };
    let summary = Summary::new(&measured.record, circumstances);
    Ok((measured.record, summary))
}

fn unshare(shared: Arc<Shared>) -> Shared {
    Arc::try_unwrap(shared).expect("no core has begun")
}

/// Asks the server what it offers, once from each source address, because its ids may be bound to addresses.
fn scout_all(clock: &Clock, target: &Target, tls: &TlsConfigs) -> Result<Vec<ServerMemory>, String> {
    (0..target.sources.len()).map(|source| scout(clock, target, tls, source)).collect()
}

fn scout(clock: &Clock, target: &Target, tls: &TlsConfigs, source: usize) -> Result<ServerMemory, String> {
    let immediate = Profile::parse("loopback").expect("it is a preset");
    let session = target.scout(clock.now(), tls);
    let conversation = Conversation::new(clock.now(), session, &immediate, Random::new(0));
    let trip = single::run(clock, conversation, target.address, target.sources[source], Opening::Ordinary)
        .map_err(|error| format!("cannot connect to {}: {error}", target.address))?;
    match trip.outcome().and_then(|(_, outcome)| outcome.failure.clone()) {
        // A server without AUTH or TLS still has something to offer to some scenarios.
        None | Some(Failure::LoginNotOffered | Failure::TlsNotOffered) => Ok(trip.memory),
        Some(failure) => Err(format!("a first look at {} failed: {failure}", target.address)),
    }
}

/// Clients that open fast have been here before, so this kernel has the server's cookies. Where it gets none it opens
/// ordinary connections, and the report counts them.
fn fetch_cookies(target: &Target, plan: &Plan) {
    for scenario in plan.scenarios.values().filter(|scenario| scenario.opens_fast()) {
        let Some(address) = target.address_for(*scenario) else { continue };
        for &source in &target.sources {
            if let Err(error) = single::fetch_cookie(address, source) {
                return say(&format!("{scenario}: this machine's own connections do without Fast Open: {error}"));
            }
        }
    }
}

/// What can be measured, and words about what cannot.
pub(crate) fn what_is_offered(target: &Target, server: &ServerMemory) -> (Vec<Scenario>, LeftOut) {
    let mut offered = Vec::new();
    let mut left_out = Vec::new();
    for scenario in Scenario::ALL {
        if scenario.is_implicit() && target.implicit_address.is_none() {
            left_out.push((scenario, format!("{scenario}: no --implicit-tls ADDRESS was given")));
        } else if let Some(missing) = scenario.missing(server) {
            left_out.push((scenario, format!("{scenario}: the server does not offer {missing}")));
        } else {
            offered.push(scenario);
        }
    }
    (offered, LeftOut(left_out))
}

/// Scenarios that are left out, with the reason.
#[derive(Clone, Debug)]
pub(crate) struct LeftOut(Vec<(Scenario, String)>);

impl LeftOut {
    /// Only those that were asked for.
    pub(crate) fn among<'a>(self, wanted: impl Iterator<Item = &'a Scenario>) -> Vec<String> {
        let wanted: Vec<_> = wanted.copied().collect();
        self.0.into_iter().filter(|(scenario, _)| wanted.contains(scenario)).map(|(_, words)| words).collect()
    }
}

/// What one core needs to begin.
struct Prepared {
    number: u64,
    processor: usize,
    tls: TlsConfigs,
    journal: Option<Journal>,
}

fn prepare(shared: &Shared, number: u64, processor: usize, journal: Option<&PathBuf>) -> Result<Prepared, String> {
    let tls = TlsConfigs::new(&shared.target.trust, shared.target.versions).map_err(|error| error.to_string())?;
    if shared.plan.scenarios.values().any(|scenario| scenario.resumes()) {
        collect_tickets(shared, &tls)?;
    }
    let open =
        |path: &PathBuf| Journal::open(path).map_err(|error| format!("cannot write {}: {error}", path.display()));
    Ok(Prepared { number, processor, tls, journal: journal.map(open).transpose()? })
}

/// Lets clients come and go until there is a TLS session for each client that is under way at once.
fn collect_tickets(shared: &Shared, tls: &TlsConfigs) -> Result<(), String> {
    let wanted = match shared.plan.load {
        Load::Closed { clients } => u64::from(clients) / shared.cores + 1,
        Load::Open { per_s, .. } => (per_s / shared.cores as f64 * longest_visit_s(&shared.plan)) as u64 + 1,
    };
    let sources = shared.target.sources.len() as u64;
    (0..wanted.min(TICKETS_BEFORE_MAX))
        .try_for_each(|number| scout(&shared.clock, &shared.target, tls, (number % sources) as usize).map(drop))
}

/// About how long a visit takes on the longest of the links.
fn longest_visit_s(plan: &Plan) -> f64 {
    let longest = plan.links.values().map(|link| link.round_trip + link.jitter).max().unwrap_or_default();
    longest.as_secs_f64() * 6.0 + 0.05
}

struct Measured {
    record: Record,
    busy: Vec<f64>,
    server: Usage,
}

/// Starts all cores, shows how it goes, and waits for the end.
fn watch(shared: &Arc<Shared>, cores: Vec<Prepared>, server_pid: Option<u32>) -> Measured {
    let running = Arc::new(AtomicUsize::new(cores.len()));
    let threads: Vec<_> = cores.into_iter().map(|prepared| start(shared, prepared, &running)).collect();
    let mut progress = Progress::default();
    let mut server = Usage::default();
    let mut next = PROGRESS_INTERVAL;
    while running.load(Ordering::Acquire) > 0 {
        std::thread::sleep(LOOK_INTERVAL);
        if shared.clock.now().monotonic >= next {
            next += PROGRESS_INTERVAL;
            progress.show(&shared.live.take(), shared.clock.now().monotonic);
            note_usage(&mut server, server_pid);
        }
    }
    progress.end();
    note_usage(&mut server, server_pid);
    let mut record = Record::default();
    let mut busy = Vec::new();
    for thread in threads {
        let (part, share) = thread.join().expect("a core does not panic");
        record.merge(&part);
        busy.push(share);
    }
    Measured { record, busy, server }
}

fn note_usage(server: &mut Usage, pid: Option<u32>) {
    if let Some(now) = pid.and_then(usage) {
        server.cpu = now.cpu;
        server.resident_bytes = server.resident_bytes.max(now.resident_bytes);
    }
}

fn start(shared: &Arc<Shared>, prepared: Prepared, running: &Arc<AtomicUsize>) -> JoinHandle<(Record, f64)> {
    let (shared, running) = (Arc::clone(shared), Arc::clone(running));
    let work = move || {
        let _done = Done(running);
        let Prepared { number, processor, tls, journal } = prepared;
        let clock = shared.clock;
        let executor = LocalExecutorBuilder::new(Placement::Fixed(processor)).io_memory(REGISTERED_BYTES).make();
        let executor = executor.expect("io_uring works here and memory may be locked (ulimit -l)");
        let record = executor.run(async move { Core::new(shared, number, tls, journal).run().await });
        let busy = thread_cpu().as_secs_f64() / clock.now().monotonic.as_secs_f64().max(1e-9);
        (record, busy)
    };
    std::thread::Builder::new().name("core".to_owned()).spawn(work).expect("threads can be started")
}

/// Says that a core has ended, even if it panicked.
struct Done(Arc<AtomicUsize>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// What people see: one line that changes on a terminal, plain lines otherwise.
#[derive(Default)]
struct Progress {
    acknowledged: u64,
    shown: bool,
}

impl Progress {
    fn show(&mut self, glance: &Glance, at: Duration) {
        let times = glance.recent.histogram();
        let line = format!(
            "{:>5} s  {:>7} msg/s  {:>6} under way  {:>8} messages  {:>5} errors  p50 {:>8.1} ms  p99 {:>8.1} ms",
            at.as_secs(),
            glance.acknowledged - self.acknowledged,
            glance.in_flight,
            glance.acknowledged,
            glance.errors,
            times.value_at_percentile(50.0) as f64 / 1e3,
            times.value_at_percentile(99.0) as f64 / 1e3,
        );
        self.acknowledged = glance.acknowledged;
        self.shown = true;
        let mut stderr = std::io::stderr();
        // Progress that cannot be shown must not end a run.
        let _ = if stderr.is_terminal() { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
    }

    fn end(&self) {
        let mut stderr = std::io::stderr();
        if self.shown && stderr.is_terminal() {
            let _ = writeln!(stderr);
        }
    }
}

/// Says something to the person at the terminal.
pub(crate) fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
