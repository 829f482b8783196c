//! Writes events to standard error as lines, on a thread of its own.
//!
//! A shard hands over an event and goes on: it neither renders the line nor waits for whoever reads it, and its queue is its
//! own. When lines come faster than they are read, the newest are dropped and counted, and a line says so once there is room.
//! This file does not know what the events mean.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use flume::Receiver;

use self::queues::{Line, Queue, Queues, Shared, WriterThread};
use crate::{
    limits,
    observe::{
        event::{Event, LogLinesDropped, Severity},
        log::{LogFormat, render},
        metrics::Metrics,
    },
    time::Now,
};

mod queues;

/// Takes events from any thread. Clones write to the same log and share a queue; see [`Log::with_own_queue`].
#[derive(Clone, Debug)]
pub struct Log {
    level: Severity,
    queue: Arc<Queue>,
}

impl Log {
    /// The same log by way of a queue of its own, for a shard and the threads that work for it: what they log neither takes
    /// room from others nor touches their caches. The order of lines is kept within a queue only. The queue lives as long as
    /// the writer does: made once for each shard, not for each connection.
    #[must_use]
    pub fn with_own_queue(&self) -> Self {
        Self { level: self.level, queue: self.queue.sibling() }
    }

    /// Hands over an event that happened `now`. Never waits: without room in the queue the line is dropped and counted,
    /// and after [`LogWriter::stop`] it goes nowhere. An event below the level of the log is ignored.
    pub fn event(&self, now: Now, event: impl Into<Event>) {
        let event = event.into();
        if event.severity() < self.level {
            return;
        }
        self.queue.push(Line { unix: now.unix, event });
    }
}

/// The thread that writes, to be stopped when all else has stopped.
#[derive(Debug)]
pub struct LogWriter {
    thread: WriterThread,
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
        Self::start_resting(limits::LOG_REST, sink, format, level, metrics)
    }

    fn start_resting(
        rest: Duration,
        sink: impl Write + Send + 'static,
        format: LogFormat,
        level: Severity,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Log, Self)> {
        let (done, finished) = flume::bounded(1);
        let shared = Arc::new(Shared::default());
        let mut batcher = Batcher::new(rest, format, metrics, Queues::new(Arc::clone(&shared)));
        let started = thread::Builder::new().name("onetrip-log".to_owned()).spawn(move || {
            batcher.run(sink);
            // Nobody waits for it when the stop timed out.
            let _ = done.send(());
        })?;
        let thread = WriterThread::new(shared, started.thread().clone());
        Ok((Log { level, queue: thread.open_queue() }, Self { thread, finished }))
    }

    /// Writes all that was handed over before, by whatever queue, and ends the thread.
    ///
    /// # Errors
    /// When this takes longer than [`limits::LOG_STOP_TIMEOUT`], because whatever reads the lines is stuck; the thread
    /// is then left behind.
    pub fn stop(self) -> Result<(), LogNotFlushed> {
        self.stop_by(Instant::now() + limits::LOG_STOP_TIMEOUT)
    }

    fn stop_by(&self, deadline: Instant) -> Result<(), LogNotFlushed> {
        self.thread.end();
        self.finished.recv_deadline(deadline).map_err(|_| LogNotFlushed)
    }
}

/// A writer that nobody stopped writes what is left all the same, but nobody waits for it.
impl Drop for LogWriter {
    fn drop(&mut self) {
        self.thread.end();
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

/// Gathers lines and writes them together.
struct Batcher {
    /// How long it rests when it has written all that waited.
    rest: Duration,
    format: LogFormat,
    metrics: Arc<Metrics>,
    queues: Queues,
    /// Lines that are lost and that no line has told of yet.
    untold: u64,
    /// When the latest event happened; this file reads no clock for a line.
    latest_unix: Duration,
    batch: Vec<u8>,
}

/// What a batch has taken.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// How many lines waited.
    lines: u64,
    /// More may wait.
    is_full: bool,
}

impl Batcher {
    fn new(rest: Duration, format: LogFormat, metrics: Arc<Metrics>, queues: Queues) -> Self {
        Self { rest, format, metrics, queues, untold: 0, latest_unix: Duration::ZERO, batch: Vec::new() }
    }

    fn run(&mut self, mut sink: impl Write) {
        loop {
            // Noticed before the queues are looked at: what was handed over before the end is in them by then.
            let is_over = self.queues.notice();
            match self.write_batch(&mut sink) {
                Written { lines: 0, .. } if is_over => return,
                Written { lines: 0, .. } => self.queues.sleep_unless_lines_wait(),
                Written { is_full: false, .. } if !is_over => thread::sleep(self.rest),
                Written { .. } => {}
            }
        }
    }

    /// Writes what waits, as much as a batch takes.
    fn write_batch(&mut self, sink: &mut impl Write) -> Written {
        let lines = self.gather();
        if lines == 0 {
            return Written::default();
        }
        let is_full = self.batch.len() >= limits::LOG_BATCH_BYTES_MAX;
        self.lose(self.queues.take_dropped());
        self.tell_of_lost_lines();
        match sink.write_all(&self.batch).and_then(|()| sink.flush()) {
            Ok(()) => self.untold = 0,
            Err(_) => self.lose(lines),
        }
        self.batch.clear();
        Written { lines, is_full }
    }

    /// Renders what waits, until the batch is full or nothing waits; returns how many lines.
    fn gather(&mut self) -> u64 {
        let mut lines = 0;
        while self.batch.len() < limits::LOG_BATCH_BYTES_MAX {
            let Some(Line { unix, event }) = self.queues.pop() else { break };
            render(self.format, unix, &event, &mut self.batch);
            self.latest_unix = unix;
            lines += 1;
        }
        lines
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
        sync::{Arc, Mutex},
        thread,
        time::{Duration, Instant},
    };

    use flume::{Receiver, Sender};

    use super::queues::{Queues, Shared, WriterThread};
    use super::{Batcher, Log, LogNotFlushed, LogWriter, Written};
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

    /// The thread of the test takes the place of the writer's.
    fn unstarted() -> (Log, Batcher) {
        let shared = Arc::new(Shared::default());
        let thread = WriterThread::new(Arc::clone(&shared), thread::current());
        let mut batcher = Batcher::new(Duration::ZERO, LogFormat::Text, metrics(), Queues::new(shared));
        let log = Log { level: Severity::Info, queue: thread.open_queue() };
        batcher.queues.notice();
        (log, batcher)
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
        let (log, mut batcher) = unstarted();
        (0..5_000).for_each(|number| log.event(Now::simulated_ms(0), event(number)));
        let mut written = Vec::new();
        let Written { lines: first, is_full } = batcher.write_batch(&mut written);
        assert!(is_full, "the writer does not rest while lines wait");
        assert!((limits::LOG_BATCH_BYTES_MAX..limits::LOG_BATCH_BYTES_MAX + 100).contains(&written.len()));
        let mut lines = first;
        while lines < 5_000 {
            lines += batcher.write_batch(&mut written).lines;
        }
        assert!(first < 5_000 && lines == 5_000, "{first} of {lines}");
    }

    #[test]
    fn lines_that_come_while_the_writer_rests_are_written_together() {
        let ((entered, was_entered), (release, go_on)) = (flume::unbounded(), flume::bounded(0));
        drop(release);
        let sink = Sink { gates: Some((entered, go_on)), ..Sink::default() };
        let rest = Duration::from_secs(1);
        let (log, writer) =
            LogWriter::start_resting(rest, sink.clone(), LogFormat::Text, Severity::Info, metrics()).unwrap();
        log.event(Now::simulated_ms(0), event(0));
        was_entered.recv().unwrap();
        for number in 1..20 {
            // Long enough for a writer that is awake.
            thread::sleep(Duration::from_millis(2));
            log.event(Now::simulated_ms(0), event(number));
        }
        assert_eq!(stop(&writer), Ok(()));
        assert_eq!(sink.lines().len(), 20);
        let writes = 1 + was_entered.try_iter().count();
        assert!(writes <= 5, "{writes} writes");
    }

    #[test]
    fn lines_that_could_not_be_written_are_told_of_by_the_next_batch_once() {
        let (log, mut batcher) = unstarted();
        (0..limits::LOG_QUEUE_MAX + 3).for_each(|number| log.event(Now::simulated_ms(0), event(number)));
        let lost = 3 + batcher.write_batch(&mut BrokenPipe).lines;
        let mut written = Vec::new();
        let lines = batcher.write_batch(&mut written).lines + batcher.write_batch(&mut written).lines;
        let written = String::from_utf8(written).unwrap();
        assert_eq!(written.lines().count() as u64, lines + 1);
        assert_eq!(written.matches(&format!("log_lines_dropped lines={lost}\n")).count(), 1);
        assert!(batcher.metrics.render().contains(&format!("onetrip_log_lines_dropped_total {lost}\n")));
    }

    /// What a line with the name of a thread and a number says: `thread * THREAD + number`.
    const THREAD: usize = 1_000_000;

    #[test]
    fn the_lines_of_each_queue_are_written_in_order_and_all_before_the_end() {
        let sink = Sink::default();
        let (log, writer) = start(&sink, Severity::Info, &metrics());
        thread::scope(|scope| {
            for thread in 0..4 {
                let log = log.with_own_queue();
                scope.spawn(move || {
                    (0..2_000).for_each(|number| log.event(Now::simulated_ms(0), event(thread * THREAD + number)));
                });
            }
        });
        assert_eq!(stop(&writer), Ok(()));
        let written: Vec<_> = sink.lines().iter().map(|line| number(line)).collect();
        for thread in 0..4 {
            let of_thread: Vec<_> = written.iter().filter(|number| *number / THREAD == thread).collect();
            assert!(of_thread.iter().map(|number| *number % THREAD).eq(0..2_000), "{thread}: {of_thread:?}");
        }
    }

    fn number(line: &str) -> usize {
        line.rsplit_once('=').unwrap().1.parse().unwrap()
    }

    #[test]
    fn a_queue_without_room_takes_none_from_others_and_a_clone_shares_its_own() {
        let ((entered, was_entered), (release, go_on)) = (flume::unbounded(), flume::bounded(0));
        let sink = Sink { gates: Some((entered, go_on)), ..Sink::default() };
        let (log, writer) = start(&sink, Severity::Info, &metrics());
        let (full, other) = (log.with_own_queue(), log.with_own_queue());
        log.event(Now::simulated_ms(0), event(0));
        was_entered.recv().unwrap();
        (0..limits::LOG_QUEUE_MAX).for_each(|number| full.event(Now::simulated_ms(0), event(number)));
        (0..7).for_each(|number| full.clone().event(Now::simulated_ms(0), event(number)));
        (0..9).for_each(|number| other.event(Now::simulated_ms(0), event(THREAD + number)));
        drop(release);
        assert_eq!(stop(&writer), Ok(()));
        let lines = sink.lines();
        assert!(lines.iter().any(|line| line.ends_with("log_lines_dropped lines=7")));
        assert_eq!(lines.iter().filter(|line| number(line) >= THREAD).count(), 9);
        assert_eq!(lines.len(), 1 + limits::LOG_QUEUE_MAX + 9 + 1);
    }

    /// Tells the number of each line that was written.
    struct Echo(Sender<usize>);

    impl Write for Echo {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            std::str::from_utf8(bytes).unwrap().lines().for_each(|line| self.0.send(number(line)).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start_echo() -> (Log, LogWriter, Receiver<usize>) {
        let (echo, heard) = flume::unbounded();
        let started = LogWriter::start_resting(Duration::ZERO, Echo(echo), LogFormat::Text, Severity::Info, metrics());
        let (log, writer) = started.unwrap();
        (log, writer, heard)
    }

    /// Each line is handed over a little later after the one before was written, so that some come just when the writer has
    /// found nothing and is about to sleep.
    #[test]
    fn a_line_that_comes_when_the_writer_falls_asleep_is_written() {
        let (log, writer, heard) = start_echo();
        let queues = [(); 4].map(|()| log.with_own_queue());
        for round in 0..20_000 {
            queues[round % queues.len()].event(Now::simulated_ms(0), event(round));
            let end = Instant::now() + A_LOT;
            let echo = loop {
                // Looked for and not waited for: to be woken takes longer than to fall asleep.
                match heard.try_recv() {
                    Err(_) if Instant::now() < end => std::hint::spin_loop(),
                    echo => break echo,
                }
            };
            assert_eq!(echo, Ok(round), "a wake-up was lost");
            (0..round % 400).for_each(|_| std::hint::spin_loop());
        }
        assert_eq!(stop(&writer), Ok(()));
    }

    /// In each round some threads log one line each at the same moment. Nothing else happens until all of these lines are
    /// written, so nobody makes up for a wake-up that was lost.
    #[test]
    fn a_writer_that_sleeps_is_woken_by_every_queue_however_they_race() {
        const THREADS: usize = 4;
        let (log, writer, heard) = start_echo();
        thread::scope(|scope| {
            let threads = [(); THREADS].map(|()| {
                let (go, gone) = flume::unbounded();
                let log = log.with_own_queue();
                scope.spawn(move || gone.iter().for_each(|number| log.event(Now::simulated_ms(0), event(number))));
                go
            });
            for round in 0..8_000 {
                let at_once = 1 + round / THREADS % THREADS;
                (0..at_once).for_each(|next| threads[(round + next) % THREADS].send(round).unwrap());
                for _ in 0..at_once {
                    assert_eq!(heard.recv_timeout(A_LOT), Ok(round), "a wake-up was lost");
                }
            }
        });
        assert_eq!(stop(&writer), Ok(()));
    }

    /// More than a busy machine can take to wake a thread.
    const A_LOT: Duration = Duration::from_secs(60);

    #[test]
    fn a_queue_that_is_opened_while_the_writer_sleeps_wakes_it() {
        let (log, writer, heard) = start_echo();
        for number in 0..1_000 {
            log.with_own_queue().event(Now::simulated_ms(0), event(number));
            assert_eq!(heard.recv_timeout(A_LOT), Ok(number), "a wake-up was lost");
        }
        assert_eq!(stop(&writer), Ok(()));
    }
}
