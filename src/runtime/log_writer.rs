//! Writes events to standard error as lines, on a thread of its own.
//!
//! A shard hands over an event and goes on: it neither renders the line nor waits for whoever reads it. When lines
//! come faster than they are read, the newest are dropped and counted, and a line says so once there is room. This
//! file does not know what the events mean.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flume::{Receiver, Sender};

use crate::{
    limits,
    observe::{
        event::{Event, LogLinesDropped, Severity},
        log::{LogFormat, render},
        metrics::Metrics,
    },
    time::Now,
};

/// Takes events from any thread. Clones write to the same log.
#[derive(Clone, Debug)]
pub struct Log {
    level: Severity,
    queue: Sender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// Hands over an event that happened `now`. Never waits: without room in the queue the line is dropped and counted,
    /// and after [`LogWriter::stop`] it goes nowhere. An event below the level of the log is ignored.
    pub fn event(&self, now: Now, event: impl Into<Event>) {
        let event = event.into();
        if event.severity() < self.level {
            return;
        }
        if let Err(flume::TrySendError::Full(_)) = self.queue.try_send(Entry::Line { unix: now.unix, event }) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread that writes, to be stopped when all else has stopped.
#[derive(Debug)]
pub struct LogWriter {
    queue: Sender<Entry>,
    finished: Receiver<()>,
}

impl LogWriter {
    /// Starts a writer to standard error. Events below `level` are ignored; lines that had to be dropped are counted
    /// in `metrics`.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(format: LogFormat, level: Severity, metrics: Arc<Metrics>) -> io::Result<(Log, Self)> {
        Self::start_to(io::stderr(), format, level, metrics)
    }

    /// Starts a writer to `sink`, as [`LogWriter::start`] does for standard error.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start_to(
        sink: impl Write + Send + 'static,
        format: LogFormat,
        level: Severity,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Log, Self)> {
        let (queue, entries) = flume::bounded(limits::LOG_QUEUE_MAX);
        let (done, finished) = flume::bounded(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut batcher = Batcher::new(format, metrics, Arc::clone(&dropped));
        thread::Builder::new().name("onetrip-log".to_owned()).spawn(move || {
            batcher.run(&entries, sink);
            // Nobody waits for it when the stop timed out.
            let _ = done.send(());
        })?;
        Ok((Log { level, queue: queue.clone(), dropped }, Self { queue, finished }))
    }

    /// Writes all that was handed over before, and ends the thread.
    ///
    /// # Errors
    /// When this takes longer than [`limits::LOG_STOP_TIMEOUT`], because whatever reads the lines is stuck; the thread
    /// is then left behind.
    pub fn stop(self) -> Result<(), LogNotFlushed> {
        self.stop_by(Instant::now() + limits::LOG_STOP_TIMEOUT)
    }

    fn stop_by(&self, deadline: Instant) -> Result<(), LogNotFlushed> {
        self.queue.send_deadline(Entry::Stop, deadline).map_err(|_| LogNotFlushed)?;
        self.finished.recv_deadline(deadline).map_err(|_| LogNotFlushed)
    }
}

/// The last log lines could not be written in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogNotFlushed;

impl fmt::Display for LogNotFlushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the last log lines could not be written: see what reads standard error")
    }
}

impl std::error::Error for LogNotFlushed {}

/// What waits in the queue.
#[derive(Debug)]
enum Entry {
    /// An event, and when it happened since 1970.
    Line { unix: Duration, event: Event },
    /// The end of the log.
    Stop,
}

/// Whether the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    Over,
}

/// Gathers lines and writes them together.
struct Batcher {
    format: LogFormat,
    metrics: Arc<Metrics>,
    /// Lines that found no room in the queue, since it was last looked at.
    dropped: Arc<AtomicU64>,
    /// Lines that are lost and that no line has told of yet.
    untold: u64,
    /// When the latest event happened; this file reads no clock for a line.
    latest_unix: Duration,
    batch: Vec<u8>,
}

impl Batcher {
    fn new(format: LogFormat, metrics: Arc<Metrics>, dropped: Arc<AtomicU64>) -> Self {
        Self { format, metrics, dropped, untold: 0, latest_unix: Duration::ZERO, batch: Vec::new() }
    }

    fn run(&mut self, entries: &Receiver<Entry>, mut sink: impl Write) {
        while let Ok(first) = entries.recv() {
            if self.write_batch(first, entries, &mut sink) == Flow::Over {
                return;
            }
        }
    }

    /// Writes `first` and what waits behind it, as much as a batch takes.
    fn write_batch(&mut self, first: Entry, entries: &Receiver<Entry>, sink: &mut impl Write) -> Flow {
        let (lines, flow) = self.gather(first, entries);
        self.lose(self.dropped.swap(0, Ordering::Relaxed));
        self.tell_of_lost_lines();
        match sink.write_all(&self.batch).and_then(|()| sink.flush()) {
            Ok(()) => self.untold = 0,
            Err(_) => self.lose(lines),
        }
        self.batch.clear();
        flow
    }

    /// Renders `first` and what waits behind it, until the batch is full or nothing waits; returns how many lines.
    fn gather(&mut self, first: Entry, entries: &Receiver<Entry>) -> (u64, Flow) {
        let mut lines = 0;
        let mut next = Some(first);
        while let Some(entry) = next {
            let Entry::Line { unix, event } = entry else { return (lines, Flow::Over) };
            render(self.format, unix, &event, &mut self.batch);
            self.latest_unix = unix;
            lines += 1;
            let has_room = self.batch.len() < limits::LOG_BATCH_BYTES_MAX;
            next = if has_room { entries.try_recv().ok() } else { None };
        }
        (lines, Flow::On)
    }

    fn lose(&mut self, lines: u64) {
        self.untold += lines;
        self.metrics.observe(&LogLinesDropped { lines }.into());
    }

    /// Adds the line that says how many are missing, if any are.
    fn tell_of_lost_lines(&mut self) {
        if self.untold > 0 {
            let event = LogLinesDropped { lines: self.untold }.into();
            render(self.format, self.latest_unix, &event, &mut self.batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex, atomic::AtomicU64},
        time::{Duration, Instant},
    };

    use flume::{Receiver, Sender};

    use super::{Batcher, Entry, Flow, Log, LogNotFlushed, LogWriter};
    use crate::{
        limits,
        observe::{
            event::{CertificateReloadFailed, Severity, UsersReloaded},
            log::LogFormat,
            metrics::Metrics,
        },
        time::Now,
    };

    /// Keeps what is written; with gates, tells when a write begins and waits until it may go on.
    #[derive(Clone, Default)]
    struct Sink {
        written: Arc<Mutex<Vec<u8>>>,
        gates: Option<(Sender<()>, Receiver<()>)>,
    }

    impl Sink {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.written.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some((entered, go_on)) = &self.gates {
                entered.send(()).unwrap();
                // Once the test has dropped its end, every write may go on.
                let _ = go_on.recv();
            }
            self.written.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct BrokenPipe;

    impl Write for BrokenPipe {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new("0", 1))
    }

    fn start(sink: &Sink, level: Severity, metrics: &Arc<Metrics>) -> (Log, LogWriter) {
        LogWriter::start_to(sink.clone(), LogFormat::Text, level, Arc::clone(metrics)).unwrap()
    }

    /// Stops with more time than a busy machine can take.
    fn stop(writer: &LogWriter) -> Result<(), LogNotFlushed> {
        writer.stop_by(Instant::now() + Duration::from_secs(600))
    }

    fn event(number: usize) -> UsersReloaded {
        UsersReloaded { users: number as u64 }
    }

    fn entry(number: usize) -> Entry {
        Entry::Line { unix: Now::simulated_ms(0).unix, event: event(number).into() }
    }

    #[test]
    fn all_lines_handed_over_before_the_stop_are_written_in_order() {
        let sink = Sink::default();
        let (log, writer) = start(&sink, Severity::Info, &metrics());
        for number in 0..1_000 {
            log.event(Now::simulated_ms(0), event(number));
        }
        assert_eq!(stop(&writer), Ok(()));
        let expected: Vec<_> =
            (0..1_000).map(|number| format!("2026-01-01T00:00:00.000Z info users_reloaded users={number}")).collect();
        assert_eq!(sink.lines(), expected);
    }

    #[test]
    fn an_event_below_the_level_is_not_written() {
        let sink = Sink::default();
        let (log, writer) = start(&sink, Severity::Error, &metrics());
        log.event(Now::simulated_ms(0), event(1));
        log.event(Now::simulated_ms(0), CertificateReloadFailed { reason: "no".into() });
        assert_eq!(stop(&writer), Ok(()));
        assert_eq!(sink.lines(), ["2026-01-01T00:00:00.000Z error certificate_reload_failed reason=no"]);
    }

    #[test]
    fn lines_without_room_are_dropped_counted_and_told_of_and_no_one_waits() {
        let ((entered, was_entered), (release, go_on)) = (flume::unbounded(), flume::bounded(0));
        let sink = Sink { gates: Some((entered, go_on)), ..Sink::default() };
        let metrics = metrics();
        let (log, writer) = start(&sink, Severity::Info, &metrics);
        log.event(Now::simulated_ms(0), event(0));
        was_entered.recv().unwrap();
        for number in 1..=limits::LOG_QUEUE_MAX + 5 {
            log.event(Now::simulated_ms(0), event(number));
        }
        drop(release);
        assert_eq!(stop(&writer), Ok(()));
        let lines = sink.lines();
        let told: Vec<_> = lines.iter().filter(|line| line.contains("log_lines_dropped")).collect();
        assert_eq!(told, ["2026-01-01T00:00:00.000Z warning log_lines_dropped lines=5"]);
        assert_eq!(lines.len(), 1 + limits::LOG_QUEUE_MAX + 1);
        assert!(metrics.render().contains("onetrip_log_lines_dropped_total 5\n"));
    }

    #[test]
    fn a_stop_gives_up_on_a_sink_that_is_stuck() {
        let ((entered, was_entered), (release, go_on)) = (flume::unbounded(), flume::bounded(0));
        let sink = Sink { gates: Some((entered, go_on)), ..Sink::default() };
        let (log, writer) = start(&sink, Severity::Info, &metrics());
        log.event(Now::simulated_ms(0), event(0));
        was_entered.recv().unwrap();
        assert_eq!(writer.stop_by(Instant::now()), Err(LogNotFlushed));
        drop(release);
    }

    #[test]
    fn after_the_stop_an_event_goes_nowhere_and_breaks_nothing() {
        let sink = Sink::default();
        let (log, writer) = start(&sink, Severity::Info, &metrics());
        writer.stop().unwrap();
        log.event(Now::simulated_ms(0), event(1));
        assert!(sink.lines().is_empty());
    }

    #[test]
    fn a_batch_ends_at_its_bound_and_the_rest_follows() {
        let (queue, entries) = flume::unbounded();
        for number in 0..5_000 {
            queue.send(entry(number)).unwrap();
        }
        let mut batcher = Batcher::new(LogFormat::Text, metrics(), Arc::new(AtomicU64::new(0)));
        let mut written = Vec::new();
        assert_eq!(batcher.write_batch(entry(0), &entries, &mut written), Flow::On);
        assert!((limits::LOG_BATCH_BYTES_MAX..limits::LOG_BATCH_BYTES_MAX + 100).contains(&written.len()));
        assert!(!entries.is_empty());
    }

    #[test]
    fn lines_that_could_not_be_written_are_told_of_by_the_next_batch_once() {
        let (_queue, entries) = flume::unbounded();
        let mut batcher = Batcher::new(LogFormat::Text, metrics(), Arc::new(AtomicU64::new(3)));
        batcher.write_batch(entry(1), &entries, &mut BrokenPipe);
        let mut written = Vec::new();
        batcher.write_batch(entry(2), &entries, &mut written);
        batcher.write_batch(entry(3), &entries, &mut written);
        let written = String::from_utf8(written).unwrap();
        assert_eq!(written.lines().count(), 3, "{written}");
        assert_eq!(written.matches("log_lines_dropped lines=4").count(), 1, "{written}");
        assert!(batcher.metrics.render().contains("onetrip_log_lines_dropped_total 4\n"));
    }
}
