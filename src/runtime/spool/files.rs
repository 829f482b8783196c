//! The files of one log: `STATE-DIR/spool/SHARD/NNNNNNNNNN`, a file for each segment.
//!
//! It waits for the disk and must not run on a shard. It knows how files are made so that they stay, and nothing of what
//! is in them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::relay::SyncPolicy;
use crate::runtime::atomic_file::{PRIVATE_FILE_MODE, WriteFault, create_directory, remove_if_there, sync_directory};
use crate::spool::Place;
use crate::spool::frame::{BatchHeader, SegmentHeader};
use crate::spool::log::{Refusal, Write as Batch};
use crate::spool::resting::Segments;

/// The directory of one log.
#[derive(Clone, Debug)]
pub struct Files {
    path: PathBuf,
    sync: SyncPolicy,
}

impl Files {
    /// Makes the directory if it is missing, and removes what a crash left half-made.
    pub(super) fn open(path: PathBuf, sync: SyncPolicy) -> Result<Self, WriteFault> {
        create_directory(&path)?;
        let files = Self { path, sync };
        let half_made = files.half_made();
        remove_if_there(&half_made).map_err(WriteFault::of("remove", &half_made))?;
        Ok(files)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a segment.
    pub(super) fn segment(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:010}"))
    }

    /// The numbers of all segments, ascending.
    pub(super) fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_str().filter(|name| name.len() == NAME_DIGITS);
            numbers.extend(name.and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// All bytes of a segment.
    pub(super) fn read(&self, number: u32) -> io::Result<Vec<u8>> {
        fs::read(self.segment(number))
    }

    /// Some bytes of a segment.
    pub(super) fn read_at(&self, place: Place, bytes: u32) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes as usize];
        File::open(self.segment(place.segment))?.read_exact_at(&mut buffer, u64::from(place.offset))?;
        Ok(buffer)
    }

    /// Makes sure that what was read of a segment is on stable storage, and not only in memory.
    pub(super) fn sync_segment(&self, number: u32) -> Result<(), WriteFault> {
        let path = self.segment(number);
        File::open(&path).and_then(|file| file.sync_all()).map_err(WriteFault::of("sync", &path))
    }

    /// Opens a segment so that each write returns when it is on stable storage.
    pub(super) fn open_for_writing(&self, number: u32) -> Result<File, WriteFault> {
        let path = self.segment(number);
        let flags = if self.sync == SyncPolicy::None { 0 } else { libc::O_DSYNC };
        OpenOptions::new().write(true).custom_flags(flags).open(&path).map_err(WriteFault::of("open", &path))
    }

    /// Writes a batch once more, as it was read, to where it lies: then it is on stable storage, or the write fails. A sync
    /// alone would not say: after a write that has failed a system may keep the bytes in memory, give them to whoever reads,
    /// and have nothing left to sync. The batch is among `segments`, by number, unless a later one says that it is committed.
    pub(super) fn write_again(&self, batch: BatchHeader, segments: &[(u32, Vec<u8>)]) -> Result<(), WriteFault> {
        let Place { segment, offset } = batch.place;
        let Some((_, bytes)) = segments.iter().find(|(number, _)| *number == segment) else {
            return Ok(());
        };
        let start = offset as usize;
        let end = (u64::from(offset) + batch.whole_bytes()).min(bytes.len() as u64) as usize;
        let written = self.open_for_writing(segment)?.write_all_at(&bytes[start..end], offset.into());
        written.map_err(WriteFault::of("write", &self.segment(segment)))
    }

    /// Makes a segment, and opens it for writing: all its blocks are written, so that a write to it later changes nothing but
    /// their content. If that fails there is none under its number, which nobody would ask for or remove.
    pub(super) fn prepare(&self, header: SegmentHeader, recycled: Option<u32>) -> Result<File, WriteFault> {
        let path = self.segment(header.number);
        let prepared = self.prepare_at(&path, header, recycled).and_then(|()| self.open_for_writing(header.number));
        if prepared.is_err() {
            // It would only take the room that may be missing already. The first error counts.
            let _ = remove_if_there(&path);
        }
        prepared
    }

    fn prepare_at(&self, path: &Path, header: SegmentHeader, recycled: Option<u32>) -> Result<(), WriteFault> {
        let made = match recycled {
            Some(old) => {
                fs::rename(self.segment(old), path).map_err(WriteFault::of("use again", &self.segment(old)))?;
                self.recycle(path, header)
            }
            None => self.make(path, header),
        };
        made.map_err(WriteFault::of("make", path))?;
        self.sync_names()
    }

    fn make(&self, path: &Path, header: SegmentHeader) -> io::Result<()> {
        let half_made = self.half_made();
        let made = self.make_at(&half_made, header);
        if made.is_err() {
            // It would only take the room that is missing already.
            let _ = fs::remove_file(&half_made);
        }
        made?;
        fs::rename(&half_made, path)
    }

    fn make_at(&self, path: &Path, header: SegmentHeader) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(PRIVATE_FILE_MODE).open(path)?;
        allocate(&file, header.bytes)?;
        fill(&mut file, header)?;
        self.sync_file(&file)
    }

    fn recycle(&self, path: &Path, header: SegmentHeader) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() == u64::from(header.bytes) {
            file.write_all_at(&header.encode(), 0)?;
        } else {
            file.set_len(0)?;
            fill(&mut file, header)?;
        }
        self.sync_file(&file)
    }

    /// Removes a segment. One that is not there is removed already: it was to be used again, which failed.
    pub(super) fn remove(&self, number: u32) -> Result<(), WriteFault> {
        let path = self.segment(number);
        remove_if_there(&path).map_err(WriteFault::of("remove", &path))?;
        self.sync_names()
    }

    /// Removes the directory, which is empty but for the names given.
    pub(super) fn remove_directory(&self) -> Result<(), WriteFault> {
        fs::remove_dir(&self.path).map_err(WriteFault::of("remove", &self.path))
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.sync == SyncPolicy::None { Ok(()) } else { file.sync_all() }
    }

    fn sync_names(&self) -> Result<(), WriteFault> {
        if self.sync == SyncPolicy::None { Ok(()) } else { sync_directory(&self.path) }
    }

    /// A segment that is not one yet.
    fn half_made(&self) -> PathBuf {
        self.path.join("new")
    }
}

/// As a start uses them, which may wait for the disk.
impl Segments for Files {
    type Fault = WriteFault;

    fn numbers(&self) -> Result<Vec<u32>, WriteFault> {
        Self::numbers(self).map_err(WriteFault::of("read", &self.path))
    }

    fn read(&self, number: u32) -> Result<Vec<u8>, WriteFault> {
        Self::read(self, number).map_err(WriteFault::of("read", &self.segment(number)))
    }

    fn read_at(&self, place: Place, bytes: u32) -> Result<Vec<u8>, WriteFault> {
        Self::read_at(self, place, bytes).map_err(WriteFault::of("read", &self.segment(place.segment)))
    }

    fn write(&mut self, Batch { place, bytes, .. }: &Batch) -> Result<(), WriteFault> {
        let file = self.open_for_writing(place.segment)?;
        let written = file.write_all_at(bytes, place.offset.into());
        written.map_err(WriteFault::of("write", &self.segment(place.segment)))
    }

    fn prepare(&mut self, header: SegmentHeader, recycled: Option<u32>) -> Result<(), WriteFault> {
        Self::prepare(self, header, recycled).map(drop)
    }

    fn remove(&mut self, number: u32) -> Result<(), WriteFault> {
        Self::remove(self, number)
    }

    fn refused(&self, refusal: Refusal) -> WriteFault {
        let error = match refusal {
            Refusal::Full => io::ErrorKind::StorageFull.into(),
            Refusal::Busy | Refusal::Fault => io::Error::other("the log refuses it"),
        };
        WriteFault::of("move a message to", &self.path)(error)
    }

    fn refusal(fault: &WriteFault) -> Refusal {
        if fault.is_full() { Refusal::Full } else { Refusal::Fault }
    }
}

/// Asks for all room at once, so that a disk that is nearly full is not filled for nothing.
fn allocate(file: &File, bytes: u32) -> io::Result<()> {
    // SAFETY: the descriptor is that of a file which stays open during the call; no memory is passed.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, libc::off_t::from(bytes)) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // A file system without this call takes the zeroes just as well.
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(()) } else { Err(error) }
}

fn fill(file: &mut File, header: SegmentHeader) -> io::Result<()> {
    const PIECE_BYTES: usize = 1 << 20;
    let start = header.encode();
    file.write_all(&start)?;
    let zeroes = vec![0; PIECE_BYTES];
    let mut left = header.bytes as usize - start.len();
    while left > 0 {
        let bytes = left.min(zeroes.len());
        file.write_all(&zeroes[..bytes])?;
        left -= bytes;
    }
    Ok(())
}

/// Digits in the name of a segment's file.
const NAME_DIGITS: usize = 10;
