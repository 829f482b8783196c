//! The queues between those who have something to log and the thread that writes: one for each handle that was given its
//! own, so that shards contend for nothing. Must not know what a line looks like.
//!
//! While the thread is awake, a shard that hands over a line writes nothing that another shard writes or reads; only whoever
//! finds the thread asleep writes the flag that says so, and wakes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::limits;
use crate::observe::event::Event;

/// What waits in a queue: an event, and when it happened since 1970.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) unix: Duration,
    pub(super) event: Event,
}

/// The end at which lines are handed over. The alignment is two cache lines, because processors fetch them in pairs: nothing
/// of another shard's may lie beside it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    thread: WriterThread,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Line>,
    /// Lines that found no room, since the thread last asked.
    dropped: u64,
    /// After the stop nobody takes lines out.
    is_closed: bool,
}

impl Queue {
    /// Hands over a line, or counts it as dropped if there is no room.
    pub(super) fn push(&self, line: Line) {
        let mut waiting = lock(&self.waiting);
        if waiting.is_closed {
            return;
        }
        if waiting.lines.len() >= limits::LOG_QUEUE_MAX {
            waiting.dropped += 1;
            return;
        }
        waiting.lines.push_back(line);
        drop(waiting);
        self.thread.wake();
    }

    /// A queue to the same thread.
    pub(super) fn sibling(&self) -> Arc<Self> {
        self.thread.open_queue()
    }

    fn pop(&self) -> Option<Line> {
        lock(&self.waiting).lines.pop_front()
    }

    fn is_empty(&self) -> bool {
        lock(&self.waiting).lines.is_empty()
    }

    fn take_dropped(&self) -> u64 {
        std::mem::take(&mut lock(&self.waiting).dropped)
    }

    fn close(&self) {
        lock(&self.waiting).is_closed = true;
    }
}

/// The way to the thread that writes.
#[derive(Clone, Debug)]
pub(super) struct WriterThread {
    shared: Arc<Shared>,
    thread: Thread,
}

impl WriterThread {
    /// `shared` is what the thread's [`Queues`] were made with.
    pub(super) fn new(shared: Arc<Shared>, thread: Thread) -> Self {
        Self { shared, thread }
    }

    /// A new queue, from which the thread takes lines as long as it lives.
    pub(super) fn open_queue(&self) -> Arc<Queue> {
        let mut notices = lock(&self.shared.notices);
        let waiting = Waiting { is_closed: notices.is_over, ..Waiting::default() };
        let queue = Arc::new(Queue { waiting: Mutex::new(waiting), thread: self.clone() });
        if !notices.is_over {
            notices.opened.push(Arc::clone(&queue));
        }
        queue
    }

    /// Lets the thread end when it has written all that was handed over before.
    pub(super) fn end(&self) {
        lock(&self.shared.notices).is_over = true;
        self.wake();
    }

    /// To be called after something was put where the thread looks, and after the lock around it was released: that lock is
    /// what orders the flag (see [`Queues::sleep_unless_lines_wait`]).
    fn wake(&self) {
        let is_asleep = &self.shared.is_asleep.0;
        // Looked at first: to swap would write the one line that all shards read.
        if is_asleep.load(Ordering::Relaxed) && is_asleep.swap(false, Ordering::Relaxed) {
            self.thread.unpark();
        }
    }
}

/// What all queues and the thread share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    is_asleep: Flag,
    notices: Mutex<Notices>,
}

/// Alone on its cache lines: all shards read it with every line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Flag(AtomicBool);

/// What the thread has not noticed yet.
#[derive(Debug, Default)]
struct Notices {
    opened: Vec<Arc<Queue>>,
    is_over: bool,
}

/// The end at which the thread takes lines out: from all queues in turns.
#[derive(Debug)]
pub(super) struct Queues {
    shared: Arc<Shared>,
    queues: Vec<Arc<Queue>>,
    /// Whose turn it is, and how many lines it has had of it.
    turn: usize,
    lines_of_turn: usize,
    is_over: bool,
}

impl Queues {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, queues: Vec::new(), turn: 0, lines_of_turn: 0, is_over: false }
    }

    /// The next line; `None` when all queues are empty.
    pub(super) fn pop(&mut self) -> Option<Line> {
        // Once around, and back to the queue whose turn was over if it is the only one with lines.
        for _ in 0..=self.queues.len() {
            let queue = self.queues.get(self.turn)?;
            if self.lines_of_turn < limits::LOG_TURN_LINES_MAX
                && let Some(line) = queue.pop()
            {
                self.lines_of_turn += 1;
                return Some(line);
            }
            self.turn = (self.turn + 1) % self.queues.len();
            self.lines_of_turn = 0;
        }
        None
    }

    /// How many lines have found no room since this was last asked.
    pub(super) fn take_dropped(&self) -> u64 {
        self.queues.iter().map(|queue| queue.take_dropped()).sum()
    }

    /// Takes note of new queues and of the end; at the end all queues are closed, so that what is left is bounded. Returns
    /// whether it is the end.
    pub(super) fn notice(&mut self) -> bool {
        let mut notices = lock(&self.shared.notices);
        self.queues.append(&mut notices.opened);
        if notices.is_over && !self.is_over {
            self.is_over = true;
            self.queues.iter().for_each(|queue| queue.close());
        }
        self.is_over
    }

    /// Sleeps until there may be lines, or something to notice; not at all if there is already.
    ///
    /// No wake-up is lost: the flag is set before the last look at each queue, and a shard looks at the flag after it has put
    /// a line into the queue. Both hold the queue's lock in between. So whoever came first with the lock, either the line is
    /// seen here or the flag there, and no further fence is needed; the same goes for notices and their lock.
    pub(super) fn sleep_unless_lines_wait(&mut self) {
        self.shared.is_asleep.0.store(true, Ordering::Relaxed);
        if self.notice() || self.queues.iter().any(|queue| !queue.is_empty()) {
            self.shared.is_asleep.0.store(false, Ordering::Relaxed);
            return;
        }
        // A park may end for no reason. Whoever unparks has taken the flag down before.
        while self.shared.is_asleep.0.load(Ordering::Relaxed) {
            thread::park();
        }
    }
}

/// Nothing under these locks can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::event::UsersReloaded;

    fn line(number: u64) -> Line {
        Line { unix: Duration::ZERO, event: UsersReloaded { users: number }.into() }
    }

    fn number(line: &Line) -> u64 {
        let Event::UsersReloaded(event) = &line.event else { panic!("{line:?}") };
        event.users
    }

    /// The thread of the test plays the one that writes.
    fn open() -> (WriterThread, Queues) {
        let shared = Arc::new(Shared::default());
        (WriterThread::new(Arc::clone(&shared), thread::current()), Queues::new(shared))
    }

    fn drain(queues: &mut Queues) -> Vec<u64> {
        std::iter::from_fn(|| queues.pop()).map(|line| number(&line)).collect()
    }

    #[test]
    fn queues_have_turns_and_one_that_is_full_keeps_no_other_waiting() {
        let (thread, mut queues) = open();
        let [full, other] = [thread.open_queue(), thread.open_queue()];
        (0..100).for_each(|number| full.push(line(number)));
        (100..102).for_each(|number| other.push(line(number)));
        queues.notice();
        let taken = drain(&mut queues);
        let turn = limits::LOG_TURN_LINES_MAX as u64;
        let expected: Vec<_> = (0..turn).chain(100..102).chain(turn..100).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_queue_without_room_drops_and_counts_only_its_own_lines() {
        let (thread, mut queues) = open();
        let [full, other] = [thread.open_queue(), thread.open_queue()];
        (0..limits::LOG_QUEUE_MAX as u64 + 5).for_each(|number| full.push(line(number)));
        other.push(line(0));
        queues.notice();
        assert_eq!([full.take_dropped(), other.take_dropped()], [5, 0]);
        full.push(line(0));
        assert_eq!([queues.take_dropped(), queues.take_dropped()], [1, 0]);
        assert_eq!(drain(&mut queues).len(), limits::LOG_QUEUE_MAX + 1);
    }

    #[test]
    fn at_the_end_what_was_handed_over_is_left_and_no_queue_takes_more() {
        let (thread, mut queues) = open();
        let [early, unnoticed] = [thread.open_queue(), thread.open_queue()];
        early.push(line(1));
        unnoticed.push(line(2));
        thread.end();
        assert!(queues.notice());
        let late = thread.open_queue();
        [early, unnoticed, late].iter().for_each(|queue| queue.push(line(3)));
        assert!(queues.notice());
        assert_eq!(drain(&mut queues), [1, 2]);
    }

    #[test]
    fn no_sleep_begins_while_something_waits() {
        let (thread, mut queues) = open();
        // A sleep would have no end: nobody wakes this thread.
        thread.open_queue().push(line(1));
        queues.sleep_unless_lines_wait();
        assert_eq!(drain(&mut queues), [1]);
        thread.end();
        queues.sleep_unless_lines_wait();
        assert!(!queues.shared.is_asleep.0.load(Ordering::Relaxed));
    }

    #[test]
    fn who_finds_the_thread_asleep_takes_the_flag_down_and_wakes_it() {
        let (thread, queues) = open();
        queues.shared.is_asleep.0.store(true, Ordering::Relaxed);
        thread.open_queue().push(line(1));
        assert!(!queues.shared.is_asleep.0.load(Ordering::Relaxed));
        // Would have no end.
        thread::park();
    }

    #[test]
    fn no_two_queues_lie_on_the_same_cache_lines() {
        assert_eq!(align_of::<Queue>(), 128);
        assert_eq!(align_of::<Flag>(), 128);
        assert!(size_of::<Line>() <= 256, "the bound on a queue counts with it: {}", size_of::<Line>());
    }
}
