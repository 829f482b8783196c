//! The thread that makes and removes segments for one shard, one at a time, in the order in which it is asked.

use std::fs::File;
use std::io;
use std::thread;

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

/// The way to the thread. The thread ends when it is dropped.
#[derive(Debug)]
pub(in crate::runtime) struct Keeper(flume::Sender<(Job, flume::Sender<Answer>)>);

impl Keeper {
    /// Starts the thread. It runs on the cores on which the caller may run: call it before the caller binds itself to one
    /// core.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(files: Files, shard: u16) -> io::Result<Self> {
        let (jobs, asked) = flume::unbounded::<(Job, flume::Sender<Answer>)>();
        thread::Builder::new().name(format!("spool-{shard}")).spawn(move || {
            for (job, answer) in asked {
                // Whoever asked may be gone.
                let _ = answer.send(carry_out(&files, job));
            }
        })?;
        Ok(Self(jobs))
    }

    /// Has the thread do something.
    pub(super) async fn make(&self, job: Job) -> Answer {
        let (answer, answered) = flume::bounded(1);
        let ended = || WriteFault::of("ask the keeper of", "the spool".as_ref())(io::ErrorKind::BrokenPipe.into());
        self.0.send((job, answer)).map_err(|_| ended())?;
        answered.recv_async().await.unwrap_or_else(|_| Err(ended()))
    }
}

fn carry_out(files: &Files, job: Job) -> Answer {
    match job {
        Job::Prepare { header, recycled } => {
            files.prepare(header, recycled)?;
            files.open_for_writing(header.number).map(Some)
        }
        Job::Remove(number) => files.remove(number).map(|()| None),
    }
}
