//! The spool at start: every log is read, what is damaged is set aside, and logs of shards that are no more are moved
//! into those of the shards that are.
//!
//! It runs on the first thread, before anybody is served, and waits for the disk.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::files::Files;
use super::keeper::Keeper;
use crate::exit::Exit;
use crate::observe::event::SpoolDamaged;
use crate::proto::envelope::Envelope;
use crate::proto::message::MessageId;
use crate::relay::SyncPolicy;
use crate::runtime::atomic_file::{AtomicFile, WriteFault, create_directory, sync_directory};
use crate::spool::Progress;
use crate::spool::log::LogSettings;
use crate::spool::once::StoredToken;
use crate::spool::record::Token;
use crate::spool::recovery::{Damage, Recovery, committed_before};
use crate::spool::resting::{RestingLog, Vanished, bring_together};
use crate::time::Now;

/// What the spool is opened with.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// The directory of all logs.
    pub path: PathBuf,
    /// How many shards there are.
    pub shards: u16,
    /// What a `250` promises.
    pub sync: SyncPolicy,
    /// How logs are kept.
    pub log: LogSettings,
    /// How far apart two messages with one token are at most, if one is a repeat; see
    /// [`repeats_within`](crate::spool::once::repeats_within).
    pub repeats_within: Duration,
}

/// The log of one shard, read and ready to be handed to it.
pub type OpenedLog = RestingLog<Files>;

/// A queued message that was found at start.
#[derive(Debug)]
pub struct Recovered<'a> {
    /// Its name.
    pub id: MessageId,
    /// Bytes of the whole message, trace header included.
    pub bytes: u64,
    /// Who sent it and to whom.
    pub envelope: &'a Envelope,
    /// How far it has come; `None` if no attempt was noted yet.
    pub progress: Option<Progress>,
}

/// Everything that was found.
#[derive(Debug)]
pub struct OpenedSpool {
    /// By shard.
    pub logs: Vec<OpenedLog>,
    /// One for each token that holds, with the message that it names.
    pub tokens: Vec<StoredToken>,
    /// What the operator should be told.
    pub damage: Vec<SpoolDamaged>,
    /// Bytes of last batches that were torn.
    pub cut_bytes: u64,
}

/// Why the spool cannot be opened. Prints with its remedy.
#[derive(Debug)]
pub struct SpoolError(WriteFault);

impl SpoolError {
    /// The exit code that says the same.
    pub fn exit(&self) -> Exit {
        self.0.exit()
    }
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the spool cannot be opened: {}", self.0)
    }
}

impl From<WriteFault> for SpoolError {
    fn from(fault: WriteFault) -> Self {
        Self(fault)
    }
}

/// Opens all logs. `on_token` is told every token that is found, perhaps more than once, and says what it is known by. Of two
/// messages with one token that are found, one is kept: see [`settle_repeats`](crate::spool::once::settle_repeats).
///
/// # Errors
/// The system refuses something, such as reading a file.
pub fn open(
    settings: &SpoolSettings,
    now: Now,
    on_token: &mut dyn FnMut(Token<'_>) -> StoredToken,
) -> Result<OpenedSpool, SpoolError> {
    create_directory(&settings.path)?;
    let mut opening = Opening { settings, now, damage: Vec::new(), cut_bytes: 0 };
    let (mut logs, mut tokens, mut moving) = (Vec::new(), Vec::new(), Vec::new());
    for shard in 0..settings.shards {
        let path = settings.path.join(shard.to_string());
        logs.push(opening.read(path, &mut |token| tokens.push(on_token(token)))?);
    }
    for (shard, path) in vanished(settings)? {
        let mut found = Vec::new();
        let resting = opening.read(path, &mut |token| {
            tokens.push(on_token(token));
            found.push(token.into());
        })?;
        moving.push(Vanished { shard, resting, tokens: found });
    }
    bring_together(now, &mut logs, moving, &mut tokens, settings.repeats_within, &mut |emptied: Files, _| {
        emptied.remove_directory()?;
        sync_directory(&settings.path)
    })?;
    Ok(OpenedSpool { logs, tokens, damage: opening.damage, cut_bytes: opening.cut_bytes })
}

/// Logs of shards that are no more.
fn vanished(settings: &SpoolSettings) -> Result<Vec<(usize, PathBuf)>, WriteFault> {
    let mut found = Vec::new();
    let entries = fs::read_dir(&settings.path).map_err(WriteFault::of("read", &settings.path))?;
    for entry in entries {
        let path = entry.map_err(WriteFault::of("read", &settings.path))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<usize>().ok());
        found.extend(number.filter(|number| *number >= usize::from(settings.shards)).map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

struct Opening<'a> {
    settings: &'a SpoolSettings,
    now: Now,
    damage: Vec<SpoolDamaged>,
    cut_bytes: u64,
}

impl Opening<'_> {
    fn read(&mut self, path: PathBuf, on_token: &mut dyn FnMut(Token<'_>)) -> Result<OpenedLog, WriteFault> {
        let files = Files::open(path, self.settings.sync)?;
        let numbers = files.numbers().map_err(WriteFault::of("read", files.path()))?;
        let mut recovery = Recovery::new(self.settings.log, self.now);
        let mut held: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut last_used = None;
        for number in numbers {
            let bytes = files.read(number).map_err(WriteFault::of("read", &files.segment(number)))?;
            let later = committed_before(&bytes, number);
            if later.is_some() {
                last_used = Some(number);
                for (number, bytes) in held.drain(..) {
                    recovery.read_segment(number, &bytes, later, on_token);
                }
            }
            held.push((number, bytes));
        }
        for (number, bytes) in &held {
            recovery.read_segment(*number, bytes, None, on_token);
        }
        if let Some(number) = last_used.filter(|_| self.settings.sync != SyncPolicy::None) {
            files.sync_segment(number)?;
            if let Some(batch) = recovery.newest_batch() {
                files.write_again(batch, &held)?;
            }
        }
        let recovered =
            recovery.finish(random_number().map_err(WriteFault::of("draw random bytes for", files.path()))?);
        self.cut_bytes += recovered.cut_bytes;
        for damage in &recovered.damage {
            self.set_aside(&files, damage)?;
        }
        Ok(OpenedLog { log: recovered.log, segments: files })
    }

    /// Keeps what is damaged in a file of its own, for whoever can make something of it. What was set aside before, whole, is
    /// not told again.
    fn set_aside(&mut self, files: &Files, damage: &Damage) -> Result<(), WriteFault> {
        let directory = self.settings.path.join("damaged");
        create_directory(&directory)?;
        let shard = files.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (start, end) = (damage.bytes.start as usize, damage.bytes.end as usize);
        let segment = files.segment(damage.segment);
        let bytes = fs::read(&segment).map_err(WriteFault::of("read", &segment))?;
        let bytes = &bytes[start.min(bytes.len())..end.min(bytes.len())];
        let name = format!("{shard}-{:010}-{start}", damage.segment);
        let Some(path) = place_for(&directory, &name, bytes)? else {
            return Ok(());
        };
        AtomicFile::private(&path).replace(bytes)?;
        self.damage.push(SpoolDamaged {
            segment: segment.display().to_string().into(),
            offset: start as u64,
            bytes: (end - start) as u64,
            message: damage.message.map(|id| id.as_str().into()),
            kept: path.display().to_string().into(),
        });
        Ok(())
    }
}

impl OpenedLog {
    /// Tells each queued message, in the order of the log. One that cannot be read is passed over.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn recovered(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> io::Result<()> {
        let visited = self.visit(&mut |head, progress| {
            visit(Recovered { id: head.id, bytes: head.size(), envelope: &head.envelope, progress });
        });
        visited.map_err(|fault| fault.error)
    }

    /// Starts the thread that makes and removes its segments.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start_keeper(&self, shard: u16) -> io::Result<Keeper> {
        Keeper::start(self.segments.clone(), shard)
    }

    /// How many messages are queued.
    pub fn message_count(&self) -> usize {
        self.log.message_count()
    }
}

/// A name that is free; none if these bytes are kept already. Others may be under the name that they should have: those of a
/// log that was there before, or a copy that was cut short when the disk was full.
fn place_for(directory: &Path, name: &str, bytes: &[u8]) -> Result<Option<PathBuf>, WriteFault> {
    let mut path = directory.join(name);
    // As often as there are files, and one more.
    for number in 1_u64.. {
        match fs::read(&path) {
            Ok(kept) if kept == bytes => return Ok(None),
            Ok(_) => path = directory.join(format!("{name}-{number}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            // Of a directory that cannot be searched the next name would be no better.
            Err(error) => return Err(WriteFault::of("read", &path)(error)),
        }
    }
    Ok(Some(path))
}

fn random_number() -> io::Result<u64> {
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the system has no randomness to give"))?;
    Ok(u64::from_ne_bytes(random))
}

/// Where the spool lies in a state directory.
pub fn spool_directory(state: &Path) -> PathBuf {
    state.join("spool")
}
