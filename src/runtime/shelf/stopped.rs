//! The queue of a server that does not run, read from its spool.
//!
//! It only reads: no directory is made, nothing damaged is set aside, no log is moved. What the next start of the server
//! would find is what is told.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Facts, whole};
use crate::exit::Exit;
use crate::proto::envelope::Envelope;
use crate::proto::message::{Message, MessageId};
use crate::queue::{Details, Fault, Item, ItemState, Order, Selection, Shelf};
use crate::runtime::clock::Clock;
use crate::runtime::spool::{log_settings, spool_directory};
use crate::spool::Progress;
use crate::spool::frame;
use crate::spool::log::{Address, Log};
use crate::spool::record::Record;
use crate::spool::recovery::{self, Recovery, committed_before};
use crate::time::Now;

/// The logs of all shards.
pub(in crate::runtime) struct StoppedQueue {
    now: Now,
    logs: Vec<FoundLog>,
    /// Every message, oldest first, with the number of its log. A move between logs that was interrupted leaves a message in
    /// two; it counts once.
    messages: Vec<(MessageId, usize)>,
}

struct FoundLog {
    directory: PathBuf,
    log: Log,
}

impl StoppedQueue {
    /// Reads the logs in a state directory.
    ///
    /// # Errors
    /// There is no state directory, or a file cannot be read.
    pub(in crate::runtime) fn open(state_dir: &Path) -> Result<Self, Fault> {
        if !state_dir.is_dir() {
            let problem = format!("there is no state directory {}", state_dir.display());
            return Err(Fault::new(Exit::NoInput, problem, "name that of the server with --state-dir"));
        }
        let now = Clock::start().now();
        let directory = spool_directory(state_dir);
        let logs = log_directories(&directory)
            .and_then(|directories| directories.into_iter().map(|directory| FoundLog::read(directory, now)).collect())
            .map_err(|error| unreadable(&directory, &error))?;
        let mut queue = Self { now, logs, messages: Vec::new() };
        for (number, found) in queue.logs.iter().enumerate() {
            queue.messages.extend(found.log.messages().map(|message| (message, number)));
        }
        queue.messages.sort_unstable();
        queue.messages.dedup_by_key(|(message, _)| *message);
        Ok(queue)
    }

    fn find(&self, message: &str) -> Option<(MessageId, &FoundLog)> {
        let message = MessageId::from_text(message.as_bytes())?;
        let at = self.messages.binary_search_by_key(&message, |(message, _)| *message).ok()?;
        Some((message, &self.logs[self.messages[at].1]))
    }
}

impl Shelf for StoppedQueue {
    fn list(&mut self, _: &Selection, each: &mut dyn FnMut(Item) -> io::Result<()>) -> Result<io::Result<()>, Fault> {
        for (message, number) in &self.messages {
            // A damaged message is set aside at the next start, and told then.
            let Some((envelope, facts)) = self.logs[*number].envelope(self.now, *message)? else { continue };
            if let Err(gone) = each(facts.item(self.now, &envelope)) {
                return Ok(Err(gone));
            }
        }
        Ok(Ok(()))
    }

    fn names(&mut self, beginning: &str, most: usize) -> Result<Vec<String>, Fault> {
        let names = self.messages.iter().map(|(message, _)| message.to_string());
        Ok(names.filter(|name| name.starts_with(beginning)).take(most).collect())
    }

    fn item(&mut self, message: &str) -> Result<Option<Item>, Fault> {
        let Some((id, found)) = self.find(message) else { return Ok(None) };
        let found = found.envelope(self.now, id)?;
        Ok(found.map(|(envelope, facts)| facts.item(self.now, &envelope)))
    }

    fn details(&mut self, message: &str) -> Result<Option<Details>, Fault> {
        let Some((id, found)) = self.find(message) else { return Ok(None) };
        let message = found.message(id)?;
        Ok(message.map(|(message, facts)| facts.details(self.now, &message)))
    }

    fn content(&mut self, message: &str) -> Result<Option<Vec<u8>>, Fault> {
        let Some((id, found)) = self.find(message) else { return Ok(None) };
        Ok(found.message(id)?.map(|(message, _)| whole(&message)))
    }

    fn change(&mut self, _: Order, _: &str) -> Result<bool, Fault> {
        Err(nobody_there())
    }

    fn flush_everything(&mut self) -> Result<(), Fault> {
        Err(nobody_there())
    }
}

impl FoundLog {
    /// Reads all segments, as a start of the server does.
    fn read(directory: PathBuf, now: Now) -> io::Result<Self> {
        let mut recovery = Recovery::new(log_settings(std::time::Duration::ZERO), now);
        let mut held: Vec<(u32, Vec<u8>)> = Vec::new();
        for number in segments(&directory)? {
            let bytes = fs::read(segment(&directory, number))?;
            let later = committed_before(&bytes, number);
            if later.is_some() {
                for (number, bytes) in held.drain(..) {
                    recovery.read_segment(number, &bytes, later, &mut |_| {});
                }
            }
            held.push((number, bytes));
        }
        for (number, bytes) in held {
            recovery.read_segment(number, &bytes, None, &mut |_| {});
        }
        Ok(Self { log: recovery.finish(0).log, directory })
    }

    /// The envelope of a message, and what is known of it; nothing if it is damaged.
    fn envelope(&self, now: Now, id: MessageId) -> Result<Option<(Envelope, Facts)>, Fault> {
        self.facts(now, id).map_err(|error| unreadable(&self.directory, &error))
    }

    fn facts(&self, now: Now, id: MessageId) -> io::Result<Option<(Envelope, Facts)>> {
        let Some(location) = self.log.locate(id) else { return Ok(None) };
        let bytes = self.read_at(location.head)?;
        let Some(Record::Message(head)) = record(&bytes, location.head) else { return Ok(None) };
        let progress = location.progress.map(|address| self.progress(address)).transpose()?.flatten();
        let facts = facts(now, id, head.size(), progress);
        Ok(Some((head.envelope, facts)))
    }

    /// A whole message; nothing if it is damaged.
    fn message(&self, id: MessageId) -> Result<Option<(Message, Facts)>, Fault> {
        self.whole_message(id).map_err(|error| unreadable(&self.directory, &error))
    }

    fn whole_message(&self, id: MessageId) -> io::Result<Option<(Message, Facts)>> {
        let now = Clock::start().now();
        let (Some(location), Some((_, facts))) = (self.log.locate(id), self.facts(now, id)?) else { return Ok(None) };
        let mut content = Vec::new();
        for part in &location.parts {
            let bytes = self.read_at(*part)?;
            let Some(Record::Part { bytes, .. }) = record(&bytes, *part) else { return Ok(None) };
            content.extend_from_slice(bytes);
        }
        let bytes = self.read_at(location.head)?;
        let Some(Record::Message(head)) = record(&bytes, location.head) else { return Ok(None) };
        let mut message = head.to_message();
        content.append(&mut message.content);
        message.content = content;
        Ok(Some((*message, facts)))
    }

    fn progress(&self, address: Address) -> io::Result<Option<Progress>> {
        recovery::read_progress(address, |address| self.read_at(address))
    }

    fn read_at(&self, address: Address) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; address.bytes as usize];
        let file = File::open(segment(&self.directory, address.place.segment))?;
        file.read_exact_at(&mut bytes, address.place.offset.into())?;
        Ok(bytes)
    }
}

fn record(bytes: &[u8], address: Address) -> Option<Record<'_>> {
    let frame = frame::read(bytes, address.seed, address.place.offset)?;
    Record::decode(frame.kind, frame.payload)
}

fn facts(now: Now, message: MessageId, bytes: u64, progress: Option<Progress>) -> Facts {
    let Some(progress) = progress else {
        return Facts {
            message,
            bytes,
            state: ItemState::Ready,
            recipients: Vec::new(),
            destinations: Vec::new(),
            attempts: 0,
            next_attempt: None,
            last_reply: None,
        };
    };
    let is_due = progress.next_attempt <= now.unix;
    let state = match () {
        () if progress.held => ItemState::Held,
        () if is_due => ItemState::Ready,
        () => ItemState::Deferred,
    };
    Facts {
        message,
        bytes,
        state,
        recipients: progress.recipients,
        // Where a message goes is a matter of the configuration that the server is started with.
        destinations: Vec::new(),
        attempts: progress.attempts,
        next_attempt: (state == ItemState::Deferred).then_some(progress.next_attempt),
        last_reply: Some(progress.last_reply).filter(|reply| !reply.is_empty()),
    }
}

/// The directories of all logs; none if no server has run yet.
fn log_directories(spool: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(spool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut directories = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_log = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u16>().is_ok());
        directories.extend(is_log.then_some(path));
    }
    directories.sort();
    Ok(directories)
}

/// The numbers of all segments, ascending.
fn segments(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn segment(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}"))
}

fn nobody_there() -> Fault {
    Fault::new(Exit::Unavailable, "no server runs that could do it", "start it, and ask again")
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let problem = format!("cannot read the spool in {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Fault::new(Exit::NoPermission, problem, "run this as the user that the server runs as, or as root")
        }
        _ => Fault::new(Exit::Io, problem, "if a server has just been started, ask again; else look at the disk"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::time::Duration;

    use super::{StoppedQueue, segment};
    use crate::exit::Exit;
    use crate::proto::command::{Command, parse};
    use crate::proto::message::{Message, MessageId};
    use crate::queue::{Item, ItemState, Order, Selection, Shelf};
    use crate::runtime::spool::{log_settings, spool_directory};
    use crate::spool::log::{Log, Note};
    use crate::spool::upkeep::Upkeep;
    use crate::spool::{Progress, RecipientState};
    use crate::time::Now;

    const NOW: Now = Now::simulated_ms(0);

    fn id(number: u32) -> MessageId {
        MessageId::new(NOW.unix, 0, number)
    }

    fn message(number: u32) -> Message {
        let mut message = Message { id: id(number), ..Message::default() };
        let Ok(Command::Mail(mail)) = parse(b"MAIL FROM:<a@b.example> XONCE=t").command else { panic!("no MAIL") };
        message.envelope.begin(&mail, "ann");
        for line in ["RCPT TO:<c@d.example>", "RCPT TO:<e@f.example>"] {
            let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!("no RCPT") };
            message.envelope.add(&rcpt);
        }
        message.trace = b"Received: x\r\n".to_vec();
        message.content = format!("Subject: {number}\r\n\r\nbody\r\n").into_bytes();
        message
    }

    fn progress(number: u32, next_attempt: Duration, held: bool) -> Note {
        Note::Progress(Progress {
            message: id(number),
            recipients: vec![RecipientState::Delivered, RecipientState::Waiting],
            attempts: 3,
            next_attempt,
            held,
            warned: false,
            last_reply: "450 later".to_owned(),
        })
    }

    /// Writes what a shard has appended and noted, as the server does.
    fn settle(log: &mut Log, directory: &Path) {
        log.hurry();
        while !log.is_idle() {
            if let Some(write) = log.poll_write(NOW) {
                let file = fs::OpenOptions::new().write(true).open(segment(directory, write.place.segment)).unwrap();
                file.write_all_at(&write.bytes, write.place.offset.into()).unwrap();
                log.handle_written(Ok(()));
            }
            if let Some(Upkeep::Prepare { header, .. }) = log.poll_upkeep(NOW) {
                let mut bytes = header.encode();
                bytes.resize(header.bytes as usize, 0);
                fs::write(segment(directory, header.number), bytes).unwrap();
                log.handle_prepared(NOW, Ok(()));
            }
        }
    }

    /// A state directory with the logs of shards; each is filled by a call.
    fn state(fill: &[&dyn Fn(&mut Log)]) -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        for (shard, fill) in fill.iter().enumerate() {
            let directory = spool_directory(state.path()).join(shard.to_string());
            fs::create_dir_all(&directory).unwrap();
            let mut log = Log::new(log_settings(Duration::from_secs(60)), 7);
            fill(&mut log);
            settle(&mut log, &directory);
        }
        state
    }

    fn append(log: &mut Log, number: u32) {
        log.append_message(NOW, &message(number), 1).unwrap();
    }

    fn list(queue: &mut StoppedQueue) -> Vec<Item> {
        let mut items = Vec::new();
        let all = queue.list(&Selection::default(), &mut |item| {
            items.push(item);
            Ok(())
        });
        all.unwrap().unwrap();
        items
    }

    #[test]
    fn messages_of_all_shards_are_listed_oldest_first_with_what_is_noted_of_them() {
        let later = Duration::from_secs(1 << 40);
        let state = state(&[
            &|log| {
                append(log, 3);
                append(log, 1);
                log.note(NOW, &progress(3, later, false), None);
            },
            &|log| {
                append(log, 2);
                append(log, 4);
                append(log, 5);
                log.note(NOW, &progress(2, later, true), None);
                log.note(NOW, &progress(4, Duration::ZERO, false), None);
                log.note(NOW, &Note::Done(id(5)), None);
            },
        ]);
        let items = list(&mut StoppedQueue::open(state.path()).unwrap());
        let states: Vec<_> = items.iter().map(|item| (item.message.clone(), item.state)).collect();
        let expected = [(1, ItemState::Ready), (2, ItemState::Held), (3, ItemState::Deferred), (4, ItemState::Ready)];
        assert_eq!(states, expected.map(|(number, state)| (id(number).to_string(), state)));
        assert_eq!(items[0].recipients.len(), 2);
        assert_eq!((items[2].recipients.clone(), items[2].attempts), (vec!["e@f.example".to_owned()], 3));
        assert_eq!(items[2].last_reply.as_deref(), Some("450 later"));
    }

    #[test]
    fn a_message_is_shown_and_exported_whole() {
        let state = state(&[&|log| append(log, 1)]);
        let mut queue = StoppedQueue::open(state.path()).unwrap();
        let name = queue.names(&id(1).as_str()[..10], 9).unwrap().remove(0);
        let details = queue.details(&name).unwrap().unwrap();
        assert_eq!((details.header.as_str(), details.once.as_deref()), ("Received: x\r\nSubject: 1\r\n", Some("t")));
        let content = queue.content(&name).unwrap().unwrap();
        assert_eq!(content, b"Received: x\r\nSubject: 1\r\n\r\nbody\r\n");
        assert_eq!(queue.content(id(2).as_str()), Ok(None));
    }

    #[test]
    fn a_message_that_lies_in_two_logs_counts_once() {
        let state = state(&[&|log| append(log, 1), &|log| append(log, 1)]);
        assert_eq!(list(&mut StoppedQueue::open(state.path()).unwrap()).len(), 1);
    }

    #[test]
    fn reading_changes_nothing_and_nothing_can_be_changed() {
        let state = state(&[&|log| append(log, 1)]);
        let segment = segment(&spool_directory(state.path()).join("0"), 0);
        let files = || fs::read_dir(segment.parent().unwrap()).unwrap().count();
        let before = (files(), fs::metadata(&segment).map(|metadata| metadata.modified().unwrap()).ok());
        let mut queue = StoppedQueue::open(state.path()).unwrap();
        list(&mut queue);
        let fault = queue.change(Order::Hold, id(1).as_str()).unwrap_err();
        assert_eq!(fault.exit(), Exit::Unavailable);
        assert_eq!(before, (files(), fs::metadata(&segment).map(|metadata| metadata.modified().unwrap()).ok()));
    }

    #[test]
    fn a_state_directory_without_a_spool_has_no_messages_and_none_at_all_is_a_fault() {
        let state = tempfile::tempdir().unwrap();
        assert!(list(&mut StoppedQueue::open(state.path()).unwrap()).is_empty());
        let fault = StoppedQueue::open(&state.path().join("missing")).err().unwrap();
        assert_eq!(fault.exit(), Exit::NoInput);
    }
}
