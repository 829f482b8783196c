//! Group commit against a file for each message, the ways to write a batch against each other, and a start with a million
//! queued messages.
//!
//! Method and results: `benches/README.md`. What it must not do: measure one candidate after the other, so that what the
//! machine does meanwhile falls on one of them; they take turns, and medians count.

#![allow(clippy::print_stdout, reason = "results are for whoever runs this")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing to say")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use glommio::io::{DmaBuffer, OpenOptions as RingOptions};
use glommio::{LocalExecutorBuilder, Placement};
use onetrip::observe::event::Severity;
use onetrip::observe::log::LogFormat;
use onetrip::observe::metrics::Metrics;
use onetrip::proto::command::{Command, parse};
use onetrip::proto::message::{Message, MessageId};
use onetrip::relay::SyncPolicy;
use onetrip::runtime::clock::Clock;
use onetrip::runtime::log_writer::LogWriter;
use onetrip::runtime::spool::{OpenedLog, Spool, SpoolParts, SpoolSettings, log_settings, open};
use onetrip::spool::log::Note;
use onetrip::spool::record::Token;

fn main() {
    // Cargo passes --bench, and test runners ask for what there is.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let root =
        std::env::var_os("ONETRIP_BENCH_DIR").map_or_else(|| PathBuf::from("target/group-commit"), PathBuf::from);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    measure_methods(&root);
    measure_writers(&root);
    measure_start(&root);
    fs::remove_dir_all(&root).unwrap();
}

/// Sorted durations in nanoseconds.
struct Times(Vec<u64>);

impl Times {
    fn new(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn us(&self, share: f64) -> f64 {
        let at = ((self.0.len() - 1) as f64 * share) as usize;
        self.0[at] as f64 / 1e3
    }
}

fn nanoseconds(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

// ── Ways to write a batch ───────────────────────────────────────────────────────────────────────────────────────────

fn measure_methods(root: &Path) {
    println!("method batch_bytes p50_us p99_us");
    let path = root.join("methods");
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![0; METHOD_FILE_BYTES]).unwrap();
    file.sync_all().unwrap();
    for bytes in METHOD_BATCH_BYTES {
        let mut times: [Vec<u64>; 4] = Default::default();
        for _ in 0..METHOD_TURNS {
            times[0].extend(on_ring(&path, bytes, Way::BufferedDsync));
            times[1].extend(on_ring(&path, bytes, Way::DirectDsync));
            times[2].extend(on_ring(&path, bytes, Way::DirectThenSync));
            times[3].extend(on_ring(&path, bytes, Way::Thread));
        }
        let names = ["buffered_o_dsync", "direct_o_dsync", "direct_then_fdatasync", "thread_o_dsync"];
        for (name, times) in names.into_iter().zip(times) {
            let times = Times::new(times);
            println!("{name} {bytes} {:.0} {:.0}", times.us(0.5), times.us(0.99));
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    BufferedDsync,
    DirectDsync,
    DirectThenSync,
    Thread,
}

fn on_ring(path: &Path, bytes: usize, way: Way) -> Vec<u64> {
    let path = path.to_owned();
    executor(move || async move {
        let offsets =
            (0..METHOD_WRITES).map(|number| (number * bytes % (METHOD_FILE_BYTES - bytes) / 4_096 * 4_096) as u64);
        let mut times = Vec::new();
        match way {
            Way::BufferedDsync => {
                let file =
                    RingOptions::new().write(true).custom_flags(libc::O_DSYNC).buffered_open(&path).await.unwrap();
                for offset in offsets {
                    let batch = vec![7; bytes];
                    let start = Instant::now();
                    assert_eq!(file.write_at(batch, offset).await.unwrap(), bytes);
                    times.push(nanoseconds(start));
                }
                file.close().await.unwrap();
            }
            Way::DirectDsync | Way::DirectThenSync => {
                let flags = if matches!(way, Way::DirectDsync) { libc::O_DSYNC } else { 0 };
                let file = RingOptions::new().write(true).custom_flags(flags).dma_open(&path).await.unwrap();
                for offset in offsets {
                    let mut batch: DmaBuffer = file.alloc_dma_buffer(bytes);
                    batch.as_bytes_mut().fill(7);
                    let start = Instant::now();
                    assert_eq!(file.write_at(batch, offset).await.unwrap(), bytes);
                    if matches!(way, Way::DirectThenSync) {
                        file.fdatasync().await.unwrap();
                    }
                    times.push(nanoseconds(start));
                }
                file.close().await.unwrap();
            }
            Way::Thread => {
                let file = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
                let (jobs, asked) = flume::unbounded::<(Vec<u8>, u64, flume::Sender<()>)>();
                let thread = thread::spawn(move || {
                    for (batch, offset, answer) in asked {
                        file.write_all_at(&batch, offset).unwrap();
                        let _ = answer.send(());
                    }
                });
                for offset in offsets {
                    let batch = vec![7; bytes];
                    let (answer, answered) = flume::bounded(1);
                    let start = Instant::now();
                    jobs.send((batch, offset, answer)).unwrap();
                    answered.recv_async().await.unwrap();
                    times.push(nanoseconds(start));
                }
                drop(jobs);
                thread.join().unwrap();
            }
        }
        times
    })
}

fn executor<T: Send + 'static, F: Future<Output = T> + 'static>(work: impl FnOnce() -> F + Send + 'static) -> T {
    let builder = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(64 << 10).ring_depth(128);
    builder.spawn(work).unwrap().join().unwrap()
}

// ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn measure_writers(root: &Path) {
    println!("writers candidate messages_per_second p50_us p99_us messages_per_sync");
    for writers in WRITERS {
        let (mut spool, mut files) = (Vec::new(), Vec::new());
        for turn in 0..TURNS {
            let directory = root.join(format!("turn-{writers}-{turn}"));
            spool.push(spool_turn(&directory.join("spool"), writers));
            files.push(file_turn(&directory.join("files"), writers));
            fs::remove_dir_all(&directory).unwrap();
        }
        for (name, mut turns) in [("spool", spool), ("file_each", files)] {
            turns.sort_by(|one, other| one.rate.total_cmp(&other.rate));
            let Turn { rate, times, together } = &turns[turns.len() / 2];
            println!("{writers} {name} {rate:.0} {:.0} {:.0} {together:.1}", times.us(0.5), times.us(0.99));
        }
    }
}

struct Turn {
    rate: f64,
    times: Times,
    together: f64,
}

fn message() -> Box<Message> {
    let mut message = Box::<Message>::default();
    let Ok(Command::Mail(mail)) = parse(b"MAIL FROM:<ann@example.org>").command else { panic!() };
    message.envelope.begin(&mail, "ann");
    let Ok(Command::Rcpt(rcpt)) = parse(b"RCPT TO:<bob@example.org>").command else { panic!() };
    message.envelope.add(&rcpt);
    message.trace = vec![b't'; 200];
    message.content = vec![b'x'; CONTENT_BYTES];
    message
}

fn open_log(path: &Path) -> OpenedLog {
    let log = log_settings(Duration::from_secs(86_400));
    let settings = SpoolSettings {
        path: path.to_owned(),
        shards: 1,
        sync: SyncPolicy::Commit,
        log,
        repeats_within: Duration::ZERO,
    };
    let mut no_token = |_: Token<'_>| unreachable!("no message has one");
    open(&settings, Clock::start().now(), &mut no_token).unwrap().logs.remove(0)
}

/// Runs with a spool, and says how many messages shared a sync.
fn with_spool<T: Send + 'static, F: Future<Output = T>>(
    path: &Path,
    work: impl FnOnce(Spool) -> F + Send + 'static,
) -> (T, f64) {
    let opened = open_log(path);
    let keeper = opened.start_keeper(0).unwrap();
    let metrics = Arc::new(Metrics::new("0", 1));
    let shard = metrics.shard(0).unwrap();
    let (log, writer) = LogWriter::start(LogFormat::Text, Severity::Error, metrics).unwrap();
    let counted = Arc::clone(&shard);
    let done = executor(move || async move {
        let spool = Spool::start(SpoolParts { opened, keeper, clock: Clock::start(), metrics: shard, log });
        let done = work(spool.clone()).await;
        spool.stop().await;
        done
    });
    let _ = writer.stop();
    (done, counted.spool_batch_messages.value() as f64 / counted.spool_batches.value().max(1) as f64)
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn next_id(clock: Clock) -> MessageId {
    MessageId::new(clock.now().unix, 0, COUNT.fetch_add(1, Ordering::Relaxed))
}

fn spool_turn(path: &Path, writers: usize) -> Turn {
    let (times, together) = with_spool(path, move |spool| async move {
        let end = Instant::now() + TURN_TIME;
        let clock = Clock::start();
        let tasks: Vec<_> =
            (0..writers).map(|_| glommio::spawn_local(write_until(spool.clone(), clock, end))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await);
        }
        times
    });
    Turn { rate: times.len() as f64 / TURN_TIME.as_secs_f64(), times: Times::new(times), together }
}

async fn write_until(spool: Spool, clock: Clock, end: Instant) -> Vec<u64> {
    let (mut message, mut times) = (message(), Vec::new());
    while Instant::now() < end {
        message.id = next_id(clock);
        let start = Instant::now();
        let stored = spool.commit(message).await;
        times.push(nanoseconds(start));
        stored.result.unwrap();
        message = stored.message;
        spool.note(&Note::Done(message.id));
    }
    times
}

/// As a Maildir is written: a file in `tmp`, synced, renamed into `new`, and that directory synced.
fn file_turn(path: &Path, writers: usize) -> Turn {
    let (tmp, new) = (path.join("tmp"), path.join("new"));
    fs::create_dir_all(&tmp).unwrap();
    fs::create_dir_all(&new).unwrap();
    let end = Instant::now() + TURN_TIME;
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let (tmp, new) = (tmp.clone(), new.clone());
            thread::spawn(move || {
                let (message, directory, mut times) = (message(), File::open(&new).unwrap(), Vec::new());
                while Instant::now() < end {
                    let name = format!("{writer}.{}", times.len());
                    let start = Instant::now();
                    let mut file = File::create_new(tmp.join(&name)).unwrap();
                    file.write_all(&message.trace).unwrap();
                    file.write_all(&message.content).unwrap();
                    file.sync_all().unwrap();
                    fs::rename(tmp.join(&name), new.join(&name)).unwrap();
                    directory.sync_all().unwrap();
                    times.push(nanoseconds(start));
                }
                times
            })
        })
        .collect();
    let times: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    Turn { rate: times.len() as f64 / TURN_TIME.as_secs_f64(), times: Times::new(times), together: 1.0 }
}

// ── A start ─────────────────────────────────────────────────────────────────────────────────────────────────────────

fn measure_start(root: &Path) {
    let path = root.join("start");
    let filled = Instant::now();
    with_spool(&path, |spool| async move {
        let next = Rc::new(std::cell::Cell::new(0_u32));
        let clock = Clock::start();
        let tasks: Vec<_> = (0..256)
            .map(|_| {
                let (spool, next) = (spool.clone(), Rc::clone(&next));
                glommio::spawn_local(async move {
                    let mut message = message();
                    message.content.truncate(START_CONTENT_BYTES);
                    while next.get() < START_MESSAGES {
                        next.set(next.get() + 1);
                        message.id = next_id(clock);
                        let stored = spool.commit(message).await;
                        stored.result.unwrap();
                        message = stored.message;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
    });
    let filled = filled.elapsed().as_secs_f64();
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let start = Instant::now();
    let opened = open_log(&path);
    let read = start.elapsed().as_secs_f64();
    let each = (LIVE_BYTES.load(Ordering::Relaxed) - before) as f64 / opened.message_count() as f64;
    let mut told = 0;
    opened.recovered(&mut |_| told += 1).unwrap();
    let all = start.elapsed().as_secs_f64();
    println!("start_messages content_bytes filled_s read_s read_and_told_s bytes_per_message");
    println!("{told} {START_CONTENT_BYTES} {filled:.1} {read:.2} {all:.2} {each:.0}");
}

// ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Counts what is allocated and not given back.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the promises that this function asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the promises that this function asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WRITERS: [usize; 4] = [1, 16, 64, 256];
const TURNS: usize = 5;
const TURN_TIME: Duration = Duration::from_secs(1);
const CONTENT_BYTES: usize = 4_096;

const METHOD_FILE_BYTES: usize = 16 << 20;
const METHOD_BATCH_BYTES: [usize; 3] = [8 << 10, 64 << 10, 512 << 10];
const METHOD_WRITES: usize = 400;
const METHOD_TURNS: usize = 5;

const START_MESSAGES: u32 = 1_000_000;
const START_CONTENT_BYTES: usize = 1_024;
