//! Messages into Maildirs: `DIR/MAILBOX/{tmp,new,cur}`, one file per message and mailbox, as Bernstein described it.
//!
//! ```text
//!   tmp/NAME of the first mailbox ── written once, synced
//!     ├── linked to tmp/NAME of every other mailbox (copied where links do not reach)
//!     └── each renamed to new/NAME ── every new/ synced ── Committed
//! ```
//!
//! All that may well fail comes before the first rename, for what is in `new/` may be read at once. The messages of a
//! batch take each step together, so that a `new/` that several of them share is synced once.
//!
//! It must not change a byte of a message, and it must not leave a file behind of a message that failed. (It leaves an
//! empty mailbox there: another thread may be using it already.)
//!
//! A message's file is called after the message, so that a delivery that is repeated after a crash, when nobody knows how far
//! the first one came, finds the first one's file, or replaces it, but never puts a second one beside it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Parcel, Store, Trouble};
use crate::limits::{FILE_HOST_NAME_BYTES_MAX, KNOWN_MAILBOXES_MAX};
use crate::proto::message::{Message, MessageId};
use crate::proto::proof::Committed;
use crate::proto::server::StoreFailure;
use crate::relay::SyncPolicy;
use crate::relay::mailbox::mailbox_name;
use crate::runtime::atomic_file::{
    PRIVATE_DIRECTORY_MODE, PRIVATE_FILE_MODE, WriteFault, create_directory, directory_of, make_directory,
    sync_directory,
};

/// All Maildirs under one directory, as one thread sees them.
#[derive(Clone, Debug)]
pub(super) struct Maildirs {
    root: PathBuf,
    host_name: String,
    sync: SyncPolicy,
    names: FileNames,
    /// Mailboxes that this thread has made sure of. What another thread has just made may not be on the disk yet, so
    /// each thread syncs for itself.
    known: HashSet<PathBuf>,
}

impl Maildirs {
    pub(super) fn new(root: &Path, host_name: &str, sync: SyncPolicy) -> Self {
        let names = FileNames::new(host_name);
        Self { root: root.to_owned(), host_name: host_name.to_owned(), sync, names, known: HashSet::new() }
    }

    /// Writes a message into the `tmp/` of all its mailboxes.
    fn write(&mut self, parcel: &Parcel<'_>, found: &mut Found) -> Result<Copies, Trouble> {
        let message = parcel.message;
        let mut mailboxes = self.mailboxes_of(parcel);
        if mailboxes.is_empty() {
            return Err(Trouble::fault(
                "a message without recipients came for delivery; report this, it is a defect".to_owned(),
            ));
        }
        let name = self.names.of(message.id);
        if parcel.may_be_there {
            mailboxes = found.without(mailboxes, &name, self.sync)?;
        }
        let copies = match self.write_into(&mailboxes, message) {
            // Somebody removed a mailbox that this thread knew: once more, without relying on what it knows.
            Err(fault) if fault.error.kind() == io::ErrorKind::NotFound => {
                self.known.clear();
                self.write_into(&mailboxes, message)
            }
            copies => copies,
        };
        Ok(copies?)
    }

    /// The directories of its recipients' mailboxes, each once, in the order of the recipients.
    fn mailboxes_of(&self, parcel: &Parcel<'_>) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let mailboxes =
            parcel.recipients().map(|recipient| self.root.join(mailbox_name(recipient.address, &self.host_name)));
        mailboxes.filter(|mailbox| seen.insert(mailbox.clone())).collect()
    }

    fn write_into(&mut self, mailboxes: &[PathBuf], message: &Message) -> Result<Copies, WriteFault> {
        let mut copies = Copies::new(self.names.of(message.id));
        for mailbox in mailboxes {
            self.prepare(mailbox)?;
            copies.add(mailbox, message, self.sync)?;
        }
        Ok(copies)
    }

    /// Makes the mailbox if it is not there.
    fn prepare(&mut self, mailbox: &Path) -> Result<(), WriteFault> {
        if self.known.contains(mailbox) {
            return Ok(());
        }
        self.prepare_root()?;
        make_directory(mailbox)?;
        for part in ["tmp", "new", "cur"] {
            make_directory(&mailbox.join(part))?;
        }
        if self.sync != SyncPolicy::None {
            sync_directory(mailbox)?;
            sync_directory(&self.root)?;
            sync_directory(directory_of(&self.root))?;
        }
        if self.known.len() >= KNOWN_MAILBOXES_MAX {
            self.known.clear();
        }
        self.known.insert(mailbox.to_owned());
        Ok(())
    }

    fn prepare_root(&self) -> Result<(), WriteFault> {
        match self.sync {
            SyncPolicy::Commit | SyncPolicy::Through => create_directory(&self.root),
            SyncPolicy::None => {
                let made = DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY_MODE).create(&self.root);
                made.map_err(WriteFault::of("make the directory", &self.root))
            }
        }
    }

    fn forget(&mut self, copies: &Copies) {
        for mailbox in &copies.mailboxes {
            self.known.remove(mailbox);
        }
    }
}

impl Store for Maildirs {
    fn store(&mut self, parcels: &[Parcel<'_>]) -> Vec<Result<Committed, Trouble>> {
        let mut found = Found::default();
        let mut batch: Vec<_> = parcels.iter().map(|parcel| self.write(parcel, &mut found)).collect();
        if self.sync != SyncPolicy::None {
            if batch.len() > 1 {
                batch.iter().flatten().for_each(Copies::begin_sync);
            }
            each(&mut batch, Copies::sync);
        }
        each(&mut batch, |copies| {
            let moved = copies.move_to_new();
            if moved.is_err() {
                self.forget(copies);
            }
            moved
        });
        if self.sync != SyncPolicy::None {
            let mut directories = SyncedDirectories::default();
            each(&mut batch, |copies| directories.sync_all_of(copies));
        }
        // For all of them before any is kept, because after a panic none may be.
        let all_moved = batch.iter().flatten().all(|copies| copies.moved == copies.mailboxes.len());
        assert!(all_moved, "every copy is in its place");
        batch.into_iter().map(|copies| copies.map(Copies::keep)).collect()
    }
}

/// Takes a step with every message that has not failed yet. The copies of one that fails now are removed.
fn each<E: Into<Trouble>>(batch: &mut [Result<Copies, Trouble>], mut step: impl FnMut(&mut Copies) -> Result<(), E>) {
    for entry in batch {
        if let Ok(copies) = entry
            && let Err(error) = step(copies)
        {
            *entry = Err(error.into());
        }
    }
}

/// The files of one message. Dropped before they are [kept](Self::keep), they are removed, in a panic too.
#[derive(Debug)]
struct Copies {
    name: String,
    /// The first copy while it is being written.
    first: Option<File>,
    mailboxes: Vec<PathBuf>,
    /// How many of the mailboxes have their copy in `new/` already; the others have it in `tmp/`.
    moved: usize,
}

impl Copies {
    fn new(name: String) -> Self {
        Self { name, first: None, mailboxes: Vec::new(), moved: 0 }
    }

    /// Puts a copy into the `tmp/` of one more mailbox.
    fn add(&mut self, mailbox: &Path, message: &Message, sync: SyncPolicy) -> Result<(), WriteFault> {
        let path = mailbox.join("tmp").join(&self.name);
        let Some(first) = self.mailboxes.first() else {
            self.first = Some(self.create(mailbox, &path, message)?);
            return Ok(());
        };
        match link_anew(&first.join("tmp").join(&self.name), &path) {
            Ok(()) => self.mailboxes.push(mailbox.to_owned()),
            Err(error) if is_out_of_reach_of_links(&error) => {
                let copy = self.create(mailbox, &path, message)?;
                if sync != SyncPolicy::None {
                    copy.sync_all().map_err(WriteFault::of("sync", &path))?;
                }
            }
            Err(error) => return Err(WriteFault::of("make a link at", &path)(error)),
        }
        Ok(())
    }

    fn create(&mut self, mailbox: &Path, path: &Path, message: &Message) -> Result<File, WriteFault> {
        let mut file = create_anew(path).map_err(WriteFault::of("make", path))?;
        // From here on there is something to remove.
        self.mailboxes.push(mailbox.to_owned());
        write_message(&mut file, message).map_err(WriteFault::of("write", path))?;
        Ok(file)
    }

    /// Lets the system begin to write, and waits for nothing. When the first file of a batch is then synced, the places of
    /// all of them on the disk are settled and go into the same commit of the file system's journal.
    fn begin_sync(&self) {
        if let Some(first) = &self.first {
            // SAFETY: the descriptor is that of a file which stays open during the call; no memory is passed.
            unsafe { libc::sync_file_range(first.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
            // A refusal costs time and nothing else: `sync` does all that is promised.
        }
    }

    /// Waits until the content is on stable storage.
    fn sync(&mut self) -> Result<(), WriteFault> {
        let Some(first) = self.first.take() else {
            return Ok(());
        };
        first.sync_all().map_err(|error| WriteFault::of("sync", &self.path_of(0))(error))
    }

    fn move_to_new(&mut self) -> Result<(), WriteFault> {
        while let Some(mailbox) = self.mailboxes.get(self.moved) {
            let path = mailbox.join("new").join(&self.name);
            fs::rename(self.path_of(self.moved), &path).map_err(WriteFault::of("move a message to", &path))?;
            self.moved += 1;
        }
        Ok(())
    }

    fn path_of(&self, number: usize) -> PathBuf {
        let part = if number < self.moved { "new" } else { "tmp" };
        self.mailboxes[number].join(part).join(&self.name)
    }

    fn keep(mut self) -> Committed {
        self.mailboxes.clear();
        Committed::attested_by_storage()
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for number in 0..self.mailboxes.len() {
            // The first error is on its way to the operator. A reader may have taken the file already, and a crash now
            // may bring it back; the client is told to send again, and twice is better than never.
            let _ = fs::remove_file(self.path_of(number));
        }
    }
}

/// The directories that were synced for this batch, and how that went.
#[derive(Default)]
struct SyncedDirectories(HashMap<PathBuf, Result<(), Trouble>>);

impl SyncedDirectories {
    fn sync_all_of(&mut self, copies: &Copies) -> Result<(), Trouble> {
        copies.mailboxes.iter().try_for_each(|mailbox| {
            let synced = self.0.entry(mailbox.join("new"));
            synced.or_insert_with_key(|directory| Ok(sync_directory(directory)?)).clone()
        })
    }
}

impl From<WriteFault> for Trouble {
    fn from(fault: WriteFault) -> Self {
        let failure = if fault.is_full() { StoreFailure::Full } else { StoreFailure::Fault };
        Self { failure, text: fault.to_string() }
    }
}

/// Writes the sender as RFC 5321 §4.4 asks of final delivery, then the message byte for byte.
fn write_message(file: &mut File, message: &Message) -> io::Result<()> {
    let return_path = format!("Return-Path: <{}>\r\n", message.envelope.sender());
    let mut parts = [return_path.as_bytes(), &message.trace, &message.content].map(IoSlice::new);
    let mut rest = &mut parts[..];
    // Skips parts that are empty from the start.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => IoSlice::advance_slices(&mut rest, bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Another file system, a file system without links, or a file with as many links as it may have.
fn is_out_of_reach_of_links(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EMLINK | libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS))
}

/// Makes a file. One that is there already is what a crash has left of the same message, perhaps half of it.
fn create_anew(path: &Path) -> io::Result<File> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE_MODE).open(path);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(path).and_then(|()| create()),
        created => created,
    }
}

/// Makes a link, likewise.
fn link_anew(original: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(original, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path).and_then(|()| fs::hard_link(original, path))
        }
        linked => linked,
    }
}

/// What lies in the mailboxes that messages may have come to before, looked at once for each batch.
#[derive(Default)]
struct Found(HashMap<PathBuf, HashMap<String, PathBuf>>);

impl Found {
    /// The mailboxes that do not have the file yet. In `cur/` a reader has appended its flags to the name. A file that is
    /// there is synced: whoever put it there may not have come so far.
    fn without(&mut self, mailboxes: Vec<PathBuf>, name: &str, sync: SyncPolicy) -> Result<Vec<PathBuf>, WriteFault> {
        let mut missing = Vec::new();
        for mailbox in mailboxes {
            let files = match self.0.entry(mailbox.clone()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(files_of(&mailbox)?),
            };
            match files.get(name) {
                None => missing.push(mailbox),
                Some(path) if sync != SyncPolicy::None => sync_found(path)?,
                Some(_) => {}
            }
        }
        Ok(missing)
    }
}

/// What is delivered in a mailbox, by name without flags.
fn files_of(mailbox: &Path) -> Result<HashMap<String, PathBuf>, WriteFault> {
    let mut files = HashMap::new();
    // A file on its way from the one to the other is seen in one of them at least if they are read in this order.
    for part in ["new", "cur"] {
        let directory = mailbox.join(part);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(WriteFault::of("look into", &directory))?,
        };
        for entry in entries {
            let path = entry.map_err(WriteFault::of("look into", &directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let without_flags = name.split_once(":2,").map_or(&*name, |(name, _)| name).to_owned();
            files.insert(without_flags, path);
        }
    }
    Ok(files)
}

fn sync_found(path: &Path) -> Result<(), WriteFault> {
    match File::open(path).and_then(|file| file.sync_all()) {
        // The reader has just moved or removed it: it has been delivered.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced.map_err(WriteFault::of("sync", path)).and_then(|()| sync_directory(directory_of(path))),
    }
}

/// Names for message files: the time of arrival, as every Maildir reader expects it, the message's own name, which no other
/// message of this host ever bears, and the host.
#[derive(Clone, Debug)]
struct FileNames {
    host_name: String,
}

impl FileNames {
    fn new(host_name: &str) -> Self {
        Self { host_name: escaped_host_name(host_name) }
    }

    fn of(&self, message: MessageId) -> String {
        let received = message.received();
        format!("{}.M{:06}Q{message}.{}", received.as_secs(), received.subsec_micros(), self.host_name)
    }
}

/// The host name as Maildir wants it: `/` and `:` mean something in the names of message files.
fn escaped_host_name(host_name: &str) -> String {
    let mut escaped = String::new();
    for character in host_name.chars() {
        match character {
            '/' => escaped.push_str("\\057"),
            ':' => escaped.push_str("\\072"),
            _ if character.is_control() => escaped.push('_'),
            _ => escaped.push(character),
        }
        if escaped.len() >= FILE_HOST_NAME_BYTES_MAX {
            break;
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use super::super::tests::message;
    use super::{FileNames, Found, Maildirs, Parcel, Store, Trouble};
    use crate::limits::FILE_NAME_BYTES_MAX;
    use crate::proto::message::{Message, MessageId};
    use crate::proto::server::StoreFailure;
    use crate::relay::SyncPolicy;

    const BOTH: &[&str] = &["ann@example.org", "bob@example.org"];

    struct Place {
        directory: tempfile::TempDir,
        maildirs: Maildirs,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let maildirs = Maildirs::new(directory.path(), "mail.example.org", SyncPolicy::Commit);
            Self { directory, maildirs }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.directory.path().join(path)
        }

        fn store(&mut self, message: &Message) -> Result<(), Trouble> {
            self.maildirs.store(&[Parcel::whole(message)]).remove(0).map(|_| ())
        }

        /// The files that lie in `path`, in order.
        fn files(&self, path: &str) -> Vec<PathBuf> {
            files_in(&self.path(path))
        }
    }

    fn files_in(directory: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Every file under `directory`, however deep.
    fn all_files(directory: &Path) -> Vec<PathBuf> {
        let (directories, files): (Vec<_>, Vec<_>) = files_in(directory).into_iter().partition(|path| path.is_dir());
        directories.iter().flat_map(|directory| all_files(directory)).chain(files).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// Runs as a user whom permissions bind, on a thread of its own.
    fn without_privileges(run: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let ran = scope.spawn(|| {
                // SAFETY: the call changes how this thread, which ends with this closure, is treated by file systems.
                unsafe { libc::setfsuid(65_534) };
                run();
            });
            ran.join().unwrap();
        });
    }

    #[test]
    fn a_message_lies_in_new_byte_for_byte_behind_its_return_path() {
        let mut place = Place::new();
        let content = b"Subject: x\r\n\r\n.dot\r\n\0\xff bare\n and \r end without newline";
        place.store(&message("ann@example.org", &["bob@EXAMPLE.org"], content)).unwrap();
        let files = place.files("bob@example.org/new");
        let expected = [b"Return-Path: <ann@example.org>\r\n".as_slice(), b"Received: from here\r\n", content].concat();
        assert_eq!(files.len(), 1);
        assert_eq!(fs::read(&files[0]).unwrap(), expected);
        assert_eq!(mode(&files[0]), 0o600);
        for part in ["", "tmp", "new", "cur"] {
            assert_eq!(mode(&place.path("bob@example.org").join(part)), 0o700, "{part}");
        }
        assert_eq!(all_files(place.directory.path()).len(), 1);
    }

    #[test]
    fn the_null_sender_has_an_empty_return_path() {
        let mut place = Place::new();
        place.store(&message("", &["postmaster"], b"")).unwrap();
        let files = place.files("postmaster@mail.example.org/new");
        assert_eq!(fs::read(&files[0]).unwrap(), b"Return-Path: <>\r\nReceived: from here\r\n");
    }

    #[test]
    fn several_recipients_share_one_file_on_disk() {
        let mut place = Place::new();
        place.store(&message("x@y", BOTH, b"text")).unwrap();
        let (ann, bob) = (place.files("ann@example.org/new"), place.files("bob@example.org/new"));
        assert_eq!((ann.len(), bob.len()), (1, 1));
        let (ann, bob) = (fs::metadata(&ann[0]).unwrap(), fs::metadata(&bob[0]).unwrap());
        assert_eq!((ann.ino(), ann.nlink()), (bob.ino(), 2), "tmp holds no link any more");
    }

    #[test]
    fn a_mailbox_that_is_named_twice_gets_one_copy() {
        let mut place = Place::new();
        place.store(&message("x@y", &["bob@example.org", "\"bob\"@EXAMPLE.org", "bob@example.org"], b"text")).unwrap();
        assert_eq!(all_files(place.directory.path()).len(), 1);
    }

    #[test]
    fn a_mailbox_on_another_file_system_gets_a_copy_of_its_own() {
        let mut place = Place::new();
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
            println!("skipped: there is no /dev/shm to write to");
            return;
        };
        symlink(elsewhere.path(), place.path("bob@example.org")).unwrap();
        place.store(&message("x@y", BOTH, b"text")).unwrap();
        let (ann, bob) = (place.files("ann@example.org/new"), place.files("bob@example.org/new"));
        assert_eq!(fs::read(&ann[0]).unwrap(), fs::read(&bob[0]).unwrap());
        assert_eq!(all_files(elsewhere.path()).len(), 1);
    }

    #[test]
    fn a_file_in_place_of_a_mailbox_fails_the_message_everywhere_and_no_other() {
        let mut place = Place::new();
        fs::write(place.path("bob@example.org"), "in the way").unwrap();
        let to_both = message("x@y", BOTH, b"to both");
        let to_ann = message("x@y", &BOTH[..1], b"to ann");
        let outcomes = place.maildirs.store(&[&to_both, &to_ann].map(|message| Parcel::whole(message)));
        let trouble = outcomes[0].as_ref().unwrap_err();
        assert_eq!(trouble.failure, StoreFailure::Fault);
        let path = place.path("bob@example.org");
        assert!(trouble.text.starts_with(&format!("cannot make the directory {}: ", path.display())), "{trouble:?}");
        assert!(trouble.text.ends_with("; something that is no directory is in the way: move it"), "{trouble:?}");
        assert!(outcomes[1].is_ok());
        assert_eq!((place.files("ann@example.org/new").len(), all_files(place.directory.path()).len()), (1, 2));
    }

    #[test]
    fn a_copy_that_was_in_place_already_is_taken_back() {
        let mut place = Place::new();
        place.store(&message("x@y", BOTH, b"first")).unwrap();
        fs::remove_dir_all(place.path("bob@example.org/new")).unwrap();
        fs::write(place.path("bob@example.org/new"), "in the way").unwrap();
        let before = all_files(place.directory.path());
        let trouble = place.store(&message("x@y", BOTH, b"second")).unwrap_err();
        assert!(trouble.text.starts_with("cannot move a message to "), "{trouble:?}");
        assert_eq!(all_files(place.directory.path()), before);
        fs::remove_file(place.path("bob@example.org/new")).unwrap();
        place.store(&message("x@y", BOTH, b"third")).expect("the mailbox is looked at anew");
    }

    #[test]
    fn a_mailbox_that_was_removed_is_made_again() {
        let mut place = Place::new();
        for _ in 0..2 {
            place.store(&message("x@y", BOTH, b"text")).unwrap();
            fs::remove_dir_all(place.path("bob@example.org")).unwrap();
        }
        assert_eq!(place.files("ann@example.org/new").len(), 2);
    }

    #[test]
    fn a_full_file_system_says_full_and_keeps_nothing() {
        let mut place = Place::new();
        let root = place.directory.path().to_owned();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&root).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            println!("skipped: a small file system cannot be mounted here");
            return;
        }
        place.store(&message("x@y", BOTH, b"fits")).unwrap();
        let before = all_files(&root);
        let trouble = place.store(&message("x@y", BOTH, &[b'x'; 300_000])).unwrap_err();
        let after = all_files(&root);
        let fits_again = place.store(&message("x@y", BOTH, &[b'x'; 100_000]));
        assert!(Command::new("umount").arg(&root).status().unwrap().success());
        assert_eq!(trouble.failure, StoreFailure::Full);
        assert!(trouble.text.ends_with("; free some room on this file system"), "{trouble:?}");
        assert_eq!(after, before);
        fits_again.unwrap();
    }

    #[test]
    fn a_directory_that_may_not_be_written_to_is_told_with_a_remedy() {
        let mut place = Place::new();
        let root = place.directory.path().to_owned();
        fs::set_permissions(&root, Permissions::from_mode(0o555)).unwrap();
        without_privileges(|| {
            let trouble = place.store(&message("x@y", BOTH, b"text")).unwrap_err();
            assert_eq!(trouble.failure, StoreFailure::Fault);
            assert!(trouble.text.contains("ann@example.org: Permission denied"), "{trouble:?}");
            assert!(trouble.text.ends_with("; let the server's user write there"), "{trouble:?}");
        });
        assert_eq!(files_in(&root).len(), 0);
    }

    #[test]
    fn a_message_whose_directory_cannot_be_synced_is_taken_back() {
        let mut place = Place::new();
        let root = place.directory.path().to_owned();
        fs::set_permissions(&root, Permissions::from_mode(0o777)).unwrap();
        without_privileges(|| {
            place.store(&message("x@y", BOTH, b"first")).unwrap();
            fs::set_permissions(place.path("bob@example.org/new"), Permissions::from_mode(0o300)).unwrap();
            let (to_both, to_ann) = (message("x@y", BOTH, b"second"), message("x@y", &BOTH[..1], b"third"));
            let outcomes = place.maildirs.store(&[&to_both, &to_ann].map(|message| Parcel::whole(message)));
            let text = &outcomes[0].as_ref().unwrap_err().text;
            assert!(text.starts_with("cannot sync the directory "), "{text}");
            assert!(outcomes[1].is_ok());
            fs::set_permissions(place.path("bob@example.org/new"), Permissions::from_mode(0o700)).unwrap();
            assert_eq!((place.files("ann@example.org/new").len(), place.files("bob@example.org/new").len()), (2, 1));
            place.maildirs.sync = SyncPolicy::None;
            place.store(&to_both).expect("nothing is synced");
        });
    }

    #[test]
    fn a_panic_takes_back_what_was_written() {
        let place = Place::new();
        let mut maildirs = place.maildirs.clone();
        let message = message("x@y", BOTH, b"text");
        let panicked = thread::spawn(move || {
            let mut copies = maildirs.write(&Parcel::whole(&message), &mut Found::default()).unwrap();
            copies.moved = 1;
            fs::rename(maildirs_file(&copies, "tmp"), maildirs_file(&copies, "new")).unwrap();
            panic!("after the first of two was moved");
        });
        assert!(panicked.join().is_err());
        assert_eq!(all_files(place.directory.path()), Vec::<PathBuf>::new());
    }

    fn maildirs_file(copies: &super::Copies, part: &str) -> PathBuf {
        copies.mailboxes[0].join(part).join(&copies.name)
    }

    #[test]
    fn a_message_without_recipients_is_a_defect_and_not_committed() {
        let mut place = Place::new();
        assert_eq!(place.store(&message("x@y", &[], b"text")).unwrap_err().failure, StoreFailure::Fault);
    }

    #[test]
    fn a_delivery_that_is_repeated_replaces_its_file_or_finds_it_where_a_reader_has_put_it() {
        let mut place = Place::new();
        let message = message("x@y", BOTH, b"text");
        let repeat = |place: &mut Place| {
            let parcel = Parcel { may_be_there: true, ..Parcel::whole(&message) };
            place.maildirs.store(&[parcel]).remove(0).map(|_| ())
        };
        place.store(&message).unwrap();
        place.store(&message).expect("it replaces itself");
        assert_eq!(place.files("ann@example.org/new").len(), 1);
        let delivered = place.files("ann@example.org/new").remove(0);
        let name = delivered.file_name().unwrap().to_str().unwrap().to_owned();
        fs::rename(&delivered, place.path(&format!("ann@example.org/cur/{name}:2,RS"))).unwrap();
        fs::remove_file(place.files("bob@example.org/new").remove(0)).unwrap();
        repeat(&mut place).unwrap();
        assert_eq!(place.files("ann@example.org/new").len(), 0, "she has read it");
        assert_eq!(place.files("bob@example.org/new").len(), 1, "his was missing");
        repeat(&mut place).unwrap();
        assert_eq!(all_files(place.directory.path()).len(), 2);
    }

    #[test]
    fn half_a_file_that_a_crash_has_left_is_written_anew() {
        let mut place = Place::new();
        let message = message("x@y", BOTH, b"text");
        let name = FileNames::new("mail.example.org").of(message.id);
        for mailbox in BOTH {
            fs::create_dir_all(place.path(mailbox).join("tmp")).unwrap();
            fs::write(place.path(mailbox).join("tmp").join(&name), "ha").unwrap();
        }
        let parcel = Parcel { may_be_there: true, ..Parcel::whole(&message) };
        place.maildirs.store(&[parcel]).remove(0).unwrap();
        for mailbox in BOTH {
            assert!(fs::read(place.path(mailbox).join("new").join(&name)).unwrap().ends_with(b"text"));
        }
        assert_eq!(all_files(place.directory.path()).len(), 2);
    }

    #[test]
    fn a_message_goes_to_the_chosen_ones_of_its_recipients() {
        let mut place = Place::new();
        let message = message("x@y", BOTH, b"text");
        let parcel = Parcel { recipients: Some(&[1]), ..Parcel::whole(&message) };
        place.maildirs.store(&[parcel]).remove(0).unwrap();
        assert_eq!(files_in(place.directory.path()), [place.path("bob@example.org")]);
    }

    #[test]
    fn names_of_files_are_those_of_their_messages_and_hold_nothing_that_means_something_to_a_maildir_reader() {
        let names = FileNames::new("a/b:c.example");
        let id = MessageId::new(Duration::from_micros(1_700_000_000_000_042), 7, 9);
        let name = names.of(id);
        assert_eq!(name, format!("1700000000.M000042Q{id}.a\\057b\\072c.example"));
        let long = FileNames::new(&"ä/".repeat(300)).of(id);
        assert!(long.len() + ":2,DFPRST".len() <= FILE_NAME_BYTES_MAX && !long.contains('/'), "{long}");
    }
}
