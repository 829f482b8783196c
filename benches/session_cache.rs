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
    println!("sessions threads candidate ns_per_operation_median least most hits_percent");
    for sessions in SESSIONS {
        for threads in THREADS {
            measure(sessions, threads);
        }
    }
}

/// All candidates at one size and number of threads, in turns.
fn measure(sessions: usize, threads: u64) {
    let mut candidates = candidates(sessions);
    for candidate in &candidates {
        fill(&*candidate.store, sessions);
    }
    for _ in 0..TURNS {
        for candidate in &mut candidates {
            candidate.take_turn(threads);
        }
    }
    for candidate in &mut candidates {
        candidate.times_ns.sort_by(f64::total_cmp);
        let times = &candidate.times_ns;
        let (median, least, most) = (times[times.len() / 2], times[0], times[times.len() - 1]);
        let hits_percent = 100.0 * candidate.hits as f64 / candidate.takes as f64;
        println!("{sessions} {threads} {} {median:.0} {least:.0} {most:.0} {hits_percent:.1}", candidate.name);
    }
}

struct Candidate {
    name: &'static str,
    store: Arc<dyn StoresServerSessions>,
    /// Puts, and as many takes, of one thread between two meetings.
    batch: u64,
    /// Such batches in one turn.
    batches: u64,
    /// Batches that were done in all turns so far.
    done: u64,
    times_ns: Vec<f64>,
    hits: u64,
    takes: u64,
}

impl Candidate {
    fn new(name: &'static str, store: Arc<dyn StoresServerSessions>, batch: u64, batches: u64) -> Self {
        Self { name, store, batch, batches, done: 0, times_ns: Vec::new(), hits: 0, takes: 0 }
    }

    /// All threads at once, each through all batches.
    fn take_turn(&mut self, threads: u64) {
        let meeting = Barrier::new(usize::try_from(threads).expect("a few"));
        let this = &*self;
        let results: Vec<(Duration, u64)> = std::thread::scope(|scope| {
            let spawn = |thread| {
                scope.spawn({
                    let meeting = &meeting;
                    move || this.work(meeting, thread, threads)
                })
            };
            let workers: Vec<_> = (0..threads).map(spawn).collect();
            workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).collect()
        });
        let operations = 2 * self.batch * self.batches * threads;
        let time: Duration = results.iter().map(|result| result.0).sum();
        self.times_ns.push(time.as_secs_f64() * 1e9 / operations as f64);
        self.hits += results.iter().map(|result| result.1).sum::<u64>();
        self.takes += operations / 2;
        self.done += self.batches;
    }

    /// What resumptions do: each takes a session that another thread put, and puts a new one. The threads meet after each
    /// batch, outside of the time that is measured, so that what is taken has been put.
    fn work(&self, meeting: &Barrier, thread: u64, threads: u64) -> (Duration, u64) {
        let (mut time, mut hits) = (Duration::ZERO, 0);
        for batch in self.done + 1..=self.done + self.batches {
            let mine = batch * MEETING_MAX + thread;
            let theirs = (batch - 1) * MEETING_MAX + (thread + 1) % threads;
            meeting.wait();
            let start = Instant::now();
            for number in 0..self.batch {
                black_box(self.store.put(key(mine, number), value()));
                hits += u64::from(black_box(self.store.take(&key(theirs, number))).is_some());
            }
            time += start.elapsed();
        }
        (time, hits)
    }
}

fn candidates(sessions: usize) -> Vec<Candidate> {
    let cache = SessionCache::new(sessions, Duration::from_secs(86_400)).expect("memory");
    let batch = sessions as u64 / 32;
    let batches = OPERATIONS / batch;
    vec![
        Candidate::new("nothing", Arc::new(Nothing), batch, batches),
        Candidate::new("onetrip", Arc::new(LibraryStore::new(Arc::new(cache))), batch, batches),
        Candidate::new("mutex-map", Arc::new(MutexMaps::new(sessions)), batch, batches),
        Candidate::new("papaya", Arc::new(PapayaMap::new(sessions)), batch, batches),
        // Its `take` looks through all sessions: a fraction of the operations says as much.
        Candidate::new("rustls", ServerSessionMemoryCache::new(sessions), 64, 8),
    ]
}

/// Three quarters full of sessions that nobody asks for.
fn fill(store: &dyn StoresServerSessions, sessions: usize) {
    for number in 0..sessions as u64 * 3 / 4 {
        store.put(key(FILLER, number), value());
    }
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

/// What keys and values cost by themselves.
#[derive(Debug)]
struct Nothing;

impl StoresServerSessions for Nothing {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        black_box((key, value));
        true
    }

    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        black_box(key);
        Some(value())
    }

    fn can_cache(&self) -> bool {
        true
    }
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
const THREADS: [u64; 2] = [1, 2];
/// Turns of each candidate.
const TURNS: usize = 21;
/// Puts, and as many takes, of one thread in one turn.
const OPERATIONS: u64 = 65_536;
/// More than there are threads, so that each batch of each thread has a stream of keys of its own.
const MEETING_MAX: u64 = 16;
/// The stream of the keys that nobody takes.
const FILLER: u64 = u64::MAX;
