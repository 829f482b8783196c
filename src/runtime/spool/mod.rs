//! The spool of one shard at work: what is committed, noted and read, over the files of its log.
//!
//! ```text
//! commit ──▶ Log (gathers) ──▶ writer task: one write for all that wait, durable when it returns ──▶ Committed
//! note   ──▶    │
//!               └──▶ keeper task ──▶ keeper thread: makes, recycles and removes segments
//! ```
//!
//! The [`Log`] decides; here is only carried out. A shard never waits for the disk with anything but a future, and what
//! takes long (writing 16 MiB of zeroes, syncing a directory) is done by a thread.

mod files;
mod incoming;
mod keeper;
mod opening;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::future;
use glommio::io::BufferedFile;
use glommio::timer::Timer;

use self::files::Files;
pub use self::incoming::Incoming;
use self::keeper::Job;
pub use self::keeper::Keeper;
pub use self::opening::{OpenedLog, OpenedSpool, Recovered, SpoolError, SpoolSettings, open, spool_directory};
use super::atomic_file::WriteFault;
use super::bell::Bell;
use super::clock::Clock;
use super::log_writer::Log as EventLog;
use super::shard::spawn_guarded;
use crate::limits;
use crate::observe::event::{Event, SpoolFault, SpoolFull};
use crate::observe::metrics::ShardMetrics;
use crate::proto::envelope::Envelope;
use crate::proto::message::{Message, MessageId, Pieces};
use crate::proto::proof::Committed;
use crate::proto::server::StoreFailure;
use crate::spool::Place;
use crate::spool::frame;
use crate::spool::log::{Address, Completion, Log, LogSettings, Note, Refusal, Ticket, Write};
use crate::spool::record::{Head, Record};
use crate::spool::resting::Segments;
use crate::spool::upkeep::Upkeep;
use crate::time::Now;

/// The spool of one shard. Clones are the same spool.
#[derive(Clone)]
pub struct Spool(Rc<Inner>);

/// What became of a message.
#[derive(Debug)]
pub struct Stored {
    /// The proof that it is on stable storage, or why it is not.
    pub result: Result<Committed, StoreFailure>,
    /// The message, so that its memory can be used again.
    pub message: Box<Message>,
    /// What the operator should be told of this message; of a disk that fails, events tell.
    pub fault: Option<String>,
}

/// What a shard's spool needs besides its log.
pub struct SpoolParts {
    /// Its log, as it was opened.
    pub opened: OpenedLog,
    /// The thread that makes its segments.
    pub keeper: Keeper,
    /// What time it is.
    pub clock: Clock,
    /// Where it counts.
    pub metrics: Arc<ShardMetrics>,
    /// Where it reports.
    pub log: EventLog,
}

struct Inner {
    log: RefCell<Log>,
    files: Files,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    events: EventLog,
    keeper: Keeper,
    waiting: RefCell<HashMap<Ticket, Rc<Slot>>>,
    /// Those who hold a piece back until less waits for the disk.
    waiting_for_room: RefCell<Vec<Waker>>,
    last_ticket: Cell<Ticket>,
    /// Segments that are open for writing.
    writers: RefCell<HashMap<u32, Rc<BufferedFile>>>,
    /// Segments that are open for reading, the last used last.
    readers: RefCell<Vec<(u32, Rc<BufferedFile>)>>,
    something_to_write: Bell,
    something_to_keep: Bell,
    /// When the operator was last told that the disk is full.
    told_full: Cell<Option<Duration>>,
    is_stopping: Cell<bool>,
    stopped: Bell,
}

/// Where one caller waits for its outcome.
#[derive(Default)]
struct Slot {
    outcome: Cell<Option<Result<Place, Refusal>>>,
    waker: Cell<Option<Waker>>,
}

impl Slot {
    async fn outcome(&self) -> Result<Place, Refusal> {
        poll_fn(|context| {
            if let Some(outcome) = self.outcome.take() {
                return Poll::Ready(outcome);
            }
            self.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

impl Spool {
    /// Sets a spool to work; to be called on its shard.
    pub fn start(parts: SpoolParts) -> Self {
        let SpoolParts { opened: OpenedLog { log, segments: files }, keeper, clock, metrics, log: events } = parts;
        let spool = Self(Rc::new(Inner {
            log: RefCell::new(log),
            files,
            clock,
            metrics,
            events,
            keeper,
            waiting: RefCell::default(),
            waiting_for_room: RefCell::default(),
            last_ticket: Cell::new(0),
            writers: RefCell::default(),
            readers: RefCell::default(),
            something_to_write: Bell::default(),
            something_to_keep: Bell::default(),
            told_full: Cell::new(None),
            is_stopping: Cell::new(false),
            stopped: Bell::default(),
        }));
        spool.0.count();
        spawn_guarded(write_all(Rc::clone(&spool.0)));
        spawn_guarded(keep_up(Rc::clone(&spool.0)));
        spool
    }

    /// Puts a message on stable storage. It is queued from then on, also after a crash, until [`Note::Done`] is noted.
    ///
    /// A message that was appended is committed even if the future is dropped. One whose beginning was given to an [`Incoming`]
    /// is committed by that.
    pub async fn commit(&self, message: Box<Message>) -> Stored {
        let (ticket, slot) = self.0.slot();
        let appended = self.0.append(&message, ticket);
        let mut fault = None;
        let result = match appended {
            Ok(()) => self.0.wait(&slot).await,
            Err(failure) => {
                self.0.waiting.borrow_mut().remove(&ticket);
                let is_working = self.0.log.borrow().refusing().is_none();
                fault = (failure == Refusal::Fault && is_working).then(|| TOO_LARGE.to_owned());
                Err(failure)
            }
        };
        let result = result.map(|_| Committed::attested_by_storage()).map_err(StoreFailure::from);
        Stored { result, message, fault }
    }

    /// Writes something down beside a message: with the next batch, or within milliseconds if none comes. It is kept
    /// through failing writes.
    pub fn note(&self, note: &Note) {
        self.0.log.borrow_mut().note(self.0.now(), note, None);
        self.0.something_to_write.ring();
    }

    /// The same, and returns when it is on stable storage.
    pub async fn note_committed(&self, note: &Note) {
        let (ticket, slot) = self.0.slot();
        self.0.log.borrow_mut().note(self.0.now(), note, Some(ticket));
        // Notes are kept until they are written.
        let _ = self.0.wait(&slot).await;
    }

    /// A queued message, whole.
    ///
    /// # Errors
    /// It is not queued (any more), or cannot be read.
    pub async fn read(&self, id: MessageId) -> io::Result<Box<Message>> {
        self.0.read_message(id, Wanted::Everything).await
    }

    /// A queued message without those pieces of its content that lie apart: envelope and trace header are whole.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_envelope(&self, id: MessageId) -> io::Result<Envelope> {
        Ok(self.0.read_message(id, Wanted::Head).await?.envelope)
    }

    /// How many messages are queued.
    pub fn message_count(&self) -> usize {
        self.0.log.borrow().message_count()
    }

    /// Writes what is noted, and ends. Nothing may be appended any more.
    pub async fn stop(&self) {
        self.0.log.borrow_mut().close(self.0.now());
        self.0.is_stopping.set(true);
        self.0.something_to_write.ring();
        future::or(self.0.stopped.heard(), async {
            Timer::new(limits::SPOOL_STOP_TIMEOUT).await;
        })
        .await;
        self.0.keeper.stop();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Everything,
    Head,
}

impl Inner {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn slot(&self) -> (Ticket, Rc<Slot>) {
        let ticket = self.last_ticket.get() + 1;
        self.last_ticket.set(ticket);
        let slot = Rc::<Slot>::default();
        self.waiting.borrow_mut().insert(ticket, Rc::clone(&slot));
        (ticket, slot)
    }

    /// Appends a message, or the end of one whose pieces were appended before.
    fn append(&self, message: &Message, ticket: Ticket) -> Result<(), Refusal> {
        let mut log = self.log.borrow_mut();
        match message.pieces {
            Pieces::NONE => log.append_message(self.now(), message, ticket),
            Pieces { count, bytes } => log.append_end(self.now(), message, (count, bytes), ticket),
        }
    }

    async fn wait(&self, slot: &Slot) -> Result<Place, Refusal> {
        self.something_to_write.ring();
        slot.outcome().await
    }

    /// Wakes those whose outcome has come, and those who wait for room.
    fn answer(&self) {
        self.waiting_for_room.take().into_iter().for_each(Waker::wake);
        let completions = self.log.borrow_mut().take_completions();
        let mut waiting = self.waiting.borrow_mut();
        for Completion { ticket, result } in completions {
            let Some(slot) = waiting.remove(&ticket) else { continue };
            slot.outcome.set(Some(result));
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    fn report(&self, event: impl Into<Event>) {
        let event = event.into();
        self.metrics.observe(&event);
        self.events.event(self.now(), event);
    }

    /// Once a minute at most.
    fn report_full(&self) {
        let now = self.now().monotonic;
        if self.told_full.get().is_none_or(|last| now.saturating_sub(last) >= TELL_FULL_EVERY) {
            self.told_full.set(Some(now));
            self.report(SpoolFull { directory: self.files.path().display().to_string().into() });
        }
    }

    fn count(&self) {
        let log = self.log.borrow();
        self.metrics.spool_messages.set(log.message_count() as u64);
        self.metrics.spool_segments.set(log.segment_count() as u64);
        self.metrics.spool_spares.set(log.spare_count() as u64);
    }

    // ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn write(&self, write: Write) -> Result<(), Refusal> {
        let Write { place, bytes, messages } = write;
        let count = bytes.len() as u64;
        self.close_writers_before(place.segment).await;
        let file = self.writers.borrow().get(&place.segment).cloned();
        let written = match file.map_or_else(|| self.open_begun(place.segment), Ok) {
            Ok(file) => write_whole(&file, bytes, place.offset.into()).await,
            Err(error) => Err(error),
        };
        let Err(error) = written else {
            self.metrics.spool_batches.increment();
            self.metrics.spool_batch_messages.add(u64::from(messages));
            self.metrics.spool_bytes.add(count);
            return Ok(());
        };
        self.writers.borrow_mut().remove(&place.segment);
        Err(self.tell(&WriteFault::of("write", &self.files.segment(place.segment))(error)))
    }

    /// Tells the operator of a fault, and says what the log is told.
    fn tell(&self, fault: &WriteFault) -> Refusal {
        let refusal = Files::refusal(fault);
        match refusal {
            Refusal::Full => self.report_full(),
            Refusal::Busy | Refusal::Fault => self.report(SpoolFault { reason: fault.to_string().into() }),
        }
        refusal
    }

    /// Opens a segment that was begun before the start, when the log of a shard that is no more was moved here. That happens
    /// once at most, so it may be waited for.
    fn open_begun(&self, segment: u32) -> io::Result<Rc<BufferedFile>> {
        let file = self.files.open_for_writing(segment).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open, and from here on nobody else's.
        let file = Rc::new(unsafe { BufferedFile::from_raw_fd(file.into_raw_fd()) });
        self.writers.borrow_mut().insert(segment, Rc::clone(&file));
        Ok(file)
    }

    async fn close_writers_before(&self, segment: u32) {
        let past: Vec<_> = self.writers.borrow_mut().extract_if(|number, _| *number < segment).collect();
        for file in past.into_iter().filter_map(|(_, file)| Rc::into_inner(file)) {
            // Every write to it has returned.
            let _ = file.close().await;
        }
    }

    async fn prepare(&self, job: Job) {
        let Job::Prepare { header, .. } = job else {
            return;
        };
        let number = header.number;
        let made = self.keeper.make(job).await;
        let result = match made {
            Ok(None) => Err(Refusal::Fault),
            Ok(Some(file)) => {
                // SAFETY: the descriptor is open, and from here on nobody else's.
                let file = unsafe { BufferedFile::from_raw_fd(file.into_raw_fd()) };
                self.writers.borrow_mut().insert(number, Rc::new(file));
                self.metrics.spool_segments_made.increment();
                Ok(())
            }
            Err(fault) => Err(self.tell(&fault)),
        };
        self.log.borrow_mut().handle_prepared(self.now(), result);
    }

    // ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async fn read_message(&self, id: MessageId, wanted: Wanted) -> io::Result<Box<Message>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{id} is not in the spool"));
        // It may be moved while it is read, and then be read where it went.
        for _ in 0..READ_ATTEMPTS_MAX {
            match self.try_read(id, wanted).await {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => break,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Nothing if there is no such message.
    async fn try_read(&self, id: MessageId, wanted: Wanted) -> io::Result<Option<Box<Message>>> {
        let location = self.log.borrow().locate(id);
        let Some(location) = location else {
            return Ok(None);
        };
        let bytes = self.read_record(location.head).await?;
        let Some(Record::Message(head)) = decode(&bytes, location.head) else {
            return Err(damaged(id));
        };
        let mut message = head.to_message();
        if wanted == Wanted::Everything && !location.parts.is_empty() {
            message.content = self.read_parts(&head, &location.parts).await?;
        }
        Ok(Some(message))
    }

    async fn read_parts(&self, head: &Head<'_>, parts: &[Address]) -> io::Result<Vec<u8>> {
        let whole = usize::try_from(head.part_bytes).unwrap_or_default() + head.content.len();
        let mut content = Vec::with_capacity(whole);
        for part in parts {
            let bytes = self.read_record(*part).await?;
            match decode(&bytes, *part) {
                Some(Record::Part { id, bytes, .. }) if id == head.id => content.extend_from_slice(bytes),
                _ => return Err(damaged(head.id)),
            }
        }
        content.extend_from_slice(head.content);
        Ok(content)
    }

    async fn read_record(&self, address: Address) -> io::Result<Vec<u8>> {
        self.read_at(address.place, address.bytes).await
    }

    async fn read_at(&self, place: Place, bytes: u32) -> io::Result<Vec<u8>> {
        let file = self.reader(place.segment).await?;
        let mut read = Vec::with_capacity(bytes as usize);
        while read.len() < bytes as usize {
            let from = u64::from(place.offset) + read.len() as u64;
            let found = file.read_at(from, bytes as usize - read.len()).await?;
            if found.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read.extend_from_slice(&found);
        }
        Ok(read)
    }

    async fn reader(&self, segment: u32) -> io::Result<Rc<BufferedFile>> {
        let known = self.readers.borrow().iter().position(|(number, _)| *number == segment);
        if let Some(at) = known {
            let mut readers = self.readers.borrow_mut();
            let found = readers.remove(at);
            readers.push(found);
            return Ok(Rc::clone(&readers[readers.len() - 1].1));
        }
        let file = Rc::new(BufferedFile::open(self.files.segment(segment)).await?);
        let mut readers = self.readers.borrow_mut();
        if readers.len() >= limits::SPOOL_READERS_MAX {
            readers.remove(0);
        }
        readers.push((segment, Rc::clone(&file)));
        Ok(file)
    }

    /// A file that is used again under another name is not to be read as the old one.
    fn forget_reader(&self, segment: u32) {
        self.readers.borrow_mut().retain(|(number, _)| *number != segment);
    }
}

/// Writes batch after batch.
async fn write_all(spool: Rc<Inner>) {
    loop {
        let write = spool.log.borrow_mut().poll_write(spool.now());
        if let Some(write) = write {
            let result = spool.write(write).await;
            spool.log.borrow_mut().handle_written(result);
            spool.answer();
            spool.count();
            spool.something_to_keep.ring();
            continue;
        }
        if spool.is_stopping.get() && spool.log.borrow().is_idle() {
            spool.stopped.ring();
            spool.something_to_keep.ring();
            return;
        }
        let due = spool.log.borrow().poll_timeout(spool.now());
        spool.something_to_write.heard_by(due.map(|due| due.saturating_sub(spool.now().monotonic))).await;
    }
}

/// Makes, frees and cleans segments.
async fn keep_up(spool: Rc<Inner>) {
    loop {
        let is_over = spool.is_stopping.get() && spool.log.borrow().is_idle();
        let upkeep = if is_over { None } else { spool.log.borrow_mut().poll_upkeep(spool.now()) };
        match upkeep {
            Some(Upkeep::Prepare { header, recycled }) => {
                recycled.inspect(|number| spool.forget_reader(*number));
                spool.prepare(Job::Prepare { header, recycled }).await;
            }
            Some(Upkeep::Remove(number)) => {
                spool.forget_reader(number);
                let removed = spool.keeper.make(Job::Remove(number)).await.map(|_| ());
                let result = removed.map_err(|fault| {
                    spool.report(SpoolFault { reason: fault.to_string().into() });
                    Refusal::Fault
                });
                spool.log.borrow_mut().handle_removed(spool.now(), result);
            }
            Some(Upkeep::Read { place, bytes }) => {
                let bytes = spool.read_at(place, bytes).await.ok();
                spool.log.borrow_mut().handle_read(spool.now(), bytes.as_deref());
            }
            None if is_over => return,
            None => {
                let now = spool.now();
                let due = spool.log.borrow().poll_upkeep_timeout(now);
                spool.something_to_keep.heard_by(due.map(|due| due.saturating_sub(now.monotonic))).await;
            }
        }
        spool.answer();
        spool.count();
        spool.something_to_write.ring();
    }
}

/// Writes all bytes. A write that is cut short is a failure: what is left of it is gone with the buffer.
async fn write_whole(file: &BufferedFile, bytes: Vec<u8>, at: u64) -> io::Result<()> {
    let whole = bytes.len();
    let written = file.write_at(bytes, at).await?;
    if written == whole { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn decode(bytes: &[u8], address: Address) -> Option<Record<'_>> {
    let frame = frame::read(bytes, address.seed, address.place.offset)?;
    Record::decode(frame.kind, frame.payload)
}

fn damaged(id: MessageId) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what the spool has of {id} is damaged"))
}

/// How logs are kept, but for the time that tokens count.
pub const fn log_settings(token_retention: Duration) -> LogSettings {
    LogSettings {
        segment_bytes: limits::SPOOL_SEGMENT_BYTES,
        batch_bytes_max: limits::SPOOL_BATCH_BYTES_MAX,
        part_bytes: limits::SPOOL_PART_BYTES,
        waiting_bytes_max: limits::SPOOL_WAITING_BYTES_MAX,
        note_delay: limits::SPOOL_NOTE_DELAY,
        token_retention,
    }
}

/// What is said of an envelope that no segment can hold.
const TOO_LARGE: &str = "its envelope is too large for the spool; lower --recipients-max";

/// How often a message that moves is looked for.
const READ_ATTEMPTS_MAX: u32 = 4;

/// How often the operator is told that the disk is full.
const TELL_FULL_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
