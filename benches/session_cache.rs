//! The session cache against what else could keep TLS sessions, all behind the interface that the TLS library calls.
//!
//! Method and results: `benches/README.md`. What it must not do: measure one candidate after the other, so that what the
//! machine does meanwhile falls on one of them; the candidates take turns, round after round, and the medians count.

#![allow(clippy::print_stdout, reason = "results are for whoever runs this")]

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use onetrip::tls::cache::SessionCache;
use onetrip::tls::store::LibraryStore;
use parking_lot::Mutex;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};

fn main() {
    // Cargo passes --bench, and test runners ask for what there is.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    println!("sessions threads candidate median_ns min_ns max_ns hits_percent");
    for sessions in SESSIONS {
        for threads in THREADS {
            measure(sessions, threads);
        }
    }
}

/// One row of the result: all candidates at one size and number of threads, in turns.
fn measure(sessions: usize, threads: usize) {
    let candidates: Vec<Candidate> = candidates(sessions).collect();
    let mut times: Vec<Vec<f64>> = candidates.iter().map(|_| Vec::new()).collect();
    let mut hits = vec![0; candidates.len()];
    let mut rounds = vec![0; candidates.len()];
    for candidate in &candidates {
        fill(&*candidate.store, sessions);
    }
    for round in 0..ROUNDS {
        for (number, candidate) in candidates.iter().enumerate() {
            let outcome = run(&candidate.store, threads, candidate.operations, round);
            times[number].push(outcome.ns_per_operation);
            hits[number] += outcome.hits;
            rounds[number] += outcome.takes;
        }
    }
    for (number, candidate) in candidates.iter().enumerate() {
        let times = &mut times[number];
        times.sort_by(f64::total_cmp);
        let (median, least, most) = (times[times.len() / 2], times[0], times[times.len() - 1]);
        let percent = 100 * hits[number] / rounds[number].max(1);
        println!("{sessions} {threads} {} {median:.0} {least:.0} {most:.0} {percent}", candidate.name);
    }
}

struct Candidate {
    name: &'static str,
    store: Arc<dyn StoresServerSessions>,
    /// Per thread and round; fewer for what is so slow that a round would take minutes.
    operations: u64,
}

fn candidates(sessions: usize) -> impl Iterator<Item = Candidate> {
    let cache = SessionCache::new(sessions, Duration::from_secs(86_400)).expect("memory");
    // Its `take` looks through all sessions.
    let rustls_operations = (30_000_000 / sessions as u64).min(OPERATIONS);
    [
        ("onetrip", Arc::new(LibraryStore::new(Arc::new(cache))) as Arc<dyn StoresServerSessions>, OPERATIONS),
        ("mutex-map", Arc::new(MutexMaps::new(sessions)), OPERATIONS),
        ("papaya", Arc::new(PapayaMap::new(sessions)), OPERATIONS),
        ("rustls", ServerSessionMemoryCache::new(sessions), rustls_operations),
    ]
    .into_iter()
    .map(|(name, store, operations)| Candidate { name, store, operations })
}

struct Outcome {
    ns_per_operation: f64,
    hits: u64,
    takes: u64,
}

/// Three quarters full, as a cache is whose clients come back.
fn fill(store: &dyn StoresServerSessions, sessions: usize) {
    for number in 0..sessions as u64 * 3 / 4 {
        store.put(key(FILLER, number), value());
    }
}

/// What resumptions do: each takes a session that another thread has put some time ago, and puts a new one.
fn run(store: &Arc<dyn StoresServerSessions>, threads: usize, operations: u64, round: u64) -> Outcome {
    let start = Barrier::new(threads);
    let results: Vec<(Duration, u64)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads as u64)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || worker(&**store, start, thread, threads as u64, operations, round))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).collect()
    });
    let longest = results.iter().map(|result| result.0).max().unwrap_or_default();
    Outcome {
        ns_per_operation: longest.as_secs_f64() * 1e9 / (2 * operations) as f64,
        hits: results.iter().map(|result| result.1).sum(),
        takes: (operations - LAG.min(operations)) * threads as u64,
    }
}

fn worker(
    store: &dyn StoresServerSessions,
    start: &Barrier,
    thread: u64,
    threads: u64,
    operations: u64,
    round: u64,
) -> (Duration, u64) {
    let (mine, other) = (round * 16 + thread, round * 16 + (thread + 1) % threads);
    let mut hits = 0;
    start.wait();
    let begin = Instant::now();
    for number in 0..operations {
        black_box(store.put(key(mine, number), value()));
        // With two threads the other may lag behind; a miss costs a lookup too.
        let taken = store.take(&key(other, number.wrapping_sub(LAG)));
        hits += u64::from(black_box(taken).is_some());
    }
    (begin.elapsed(), hits)
}

/// As random as the TLS library's, and made anew where it is needed, so that no list of keys takes part.
fn key(stream: u64, number: u64) -> Vec<u8> {
    let mut state = stream.wrapping_mul(0xd134_2543_de82_ef95) ^ number;
    let mut key = Vec::with_capacity(32);
    for _ in 0..4 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        key.extend_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    }
    key
}

/// What a TLS 1.3 session has with a name of 16 letters: 72 bytes.
fn value() -> Vec<u8> {
    let mut value = vec![7; 72];
    value[..2].copy_from_slice(&[1, 16]);
    value[18..20].copy_from_slice(&[3, 4]);
    value
}

/// Maps behind 64 mutexes, each with a queue of its keys in the order in which they came.
#[derive(Debug)]
struct MutexMaps {
    parts: Vec<Mutex<MapWithQueue>>,
    sessions_max: usize,
}

#[derive(Debug, Default)]
struct MapWithQueue {
    map: HashMap<Vec<u8>, Vec<u8>>,
    queue: VecDeque<Vec<u8>>,
}

impl MutexMaps {
    fn new(sessions: usize) -> Self {
        Self { parts: (0..64).map(|_| Mutex::default()).collect(), sessions_max: sessions / 64 }
    }

    fn part(&self, key: &[u8]) -> &Mutex<MapWithQueue> {
        &self.parts[usize::from(key[0]) % self.parts.len()]
    }
}

impl StoresServerSessions for MutexMaps {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let mut part = self.part(&key).lock();
        if part.queue.len() >= self.sessions_max
            && let Some(oldest) = part.queue.pop_front()
        {
            part.map.remove(&oldest);
        }
        part.queue.push_back(key.clone());
        part.map.insert(key, value);
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.part(key).lock().map.get(key).cloned()
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.part(key).lock().map.remove(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// A lock-free map, bounded by a queue in front of a mutex, because it has no bound of its own.
struct PapayaMap {
    map: papaya::HashMap<Vec<u8>, Vec<u8>>,
    queue: Mutex<VecDeque<Vec<u8>>>,
    sessions_max: usize,
}

impl PapayaMap {
    fn new(sessions: usize) -> Self {
        Self { map: papaya::HashMap::new(), queue: Mutex::default(), sessions_max: sessions }
    }
}

impl fmt::Debug for PapayaMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PapayaMap")
    }
}

impl StoresServerSessions for PapayaMap {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let oldest = {
            let mut queue = self.queue.lock();
            queue.push_back(key.clone());
            if queue.len() > self.sessions_max { queue.pop_front() } else { None }
        };
        let map = self.map.pin();
        if let Some(oldest) = oldest {
            map.remove(&oldest);
        }
        map.insert(key, value);
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.map.pin().get(key).cloned()
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.map.pin().remove(key).cloned()
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Room for so many sessions: a small server, and the default.
const SESSIONS: [usize; 2] = [16_384, 131_072];
const THREADS: [usize; 2] = [1, 2];
/// Turns of each candidate.
const ROUNDS: u64 = 11;
/// Puts, and as many takes, of one thread in one turn.
const OPERATIONS: u64 = 100_000;
/// How many puts ago the session that is taken was put.
const LAG: u64 = 1_000;
/// The stream of the keys that nobody takes.
const FILLER: u64 = u64::MAX;
