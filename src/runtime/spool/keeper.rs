//! The thread that makes and removes segments for one shard, one at a time, in the order in which it is asked.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::thread::{self, JoinHandle};

use super::files::Files;
use crate::runtime::atomic_file::WriteFault;
use crate::spool::frame::SegmentHeader;

/// Something that takes too long for a shard.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// Make a segment, and open it for writing.
    Prepare { header: SegmentHeader, recycled: Option<u32> },
    /// Remove a segment.
    Remove(u32),
}

/// What became of a job: the file, if one was to be opened.
type Answer = Result<Option<File>, WriteFault>;

/// The way to the thread.
#[derive(Debug)]
pub struct Keeper {
    jobs: RefCell<Option<flume::Sender<Asked>>>,
    thread: RefCell<Option<JoinHandle<()>>>,
}

/// A job, and where its answer goes.
type Asked = (Job, flume::Sender<Answer>);

impl Keeper {
    /// Starts the thread. It runs on the cores on which the caller may run: call it before the caller binds itself to one
    /// core.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(files: Files, shard: u16) -> io::Result<Self> {
        let (jobs, asked) = flume::unbounded::<Asked>();
        let thread = thread::Builder::new().name(format!("spool-{shard}")).spawn(move || {
            for (job, answer) in asked {
                // Whoever asked may be gone.
                let _ = answer.send(carry_out(&files, job));
            }
        })?;
        Ok(Self { jobs: RefCell::new(Some(jobs)), thread: RefCell::new(Some(thread)) })
    }

    /// Has the thread do something.
    pub(super) async fn make(&self, job: Job) -> Answer {
        let (answer, answered) = flume::bounded(1);
        let ended = || WriteFault::of("ask the keeper of", "the spool".as_ref())(io::ErrorKind::BrokenPipe.into());
        let sent = self.jobs.borrow().as_ref().map(|jobs| jobs.send((job, answer)));
        sent.and_then(Result::ok).ok_or_else(ended)?;
        answered.recv_async().await.unwrap_or_else(|_| Err(ended()))
    }

    /// Ends the thread, when it is done with what it was asked. Blocks so long.
    pub(super) fn stop(&self) {
        self.jobs.take();
        if let Some(thread) = self.thread.borrow_mut().take() {
            // A panic in it has left a job without its answer, and was told then.
            let _ = thread.join();
        }
    }
}

/// So that nobody else comes to the files while the thread is at work on them.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn carry_out(files: &Files, job: Job) -> Answer {
    match job {
        Job::Prepare { header, recycled } => files.prepare(header, recycled).map(Some),
        Job::Remove(number) => files.remove(number).map(|()| None),
    }
}
