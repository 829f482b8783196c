//! The directory in which a server keeps what must outlive it: users, certificates, secrets.
//!
//! It must not be shared by two running servers, which is what the lock is for. What lies in it is other modules'
//! business.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use super::atomic_file::{PRIVATE_FILE_MODE, WriteFault, create_directory};
use crate::exit::Exit;

/// A state directory that is this server's as long as the value lives.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    lock: File,
    /// Was it made by this process?
    is_new: bool,
}

/// Why the state directory cannot be used.
#[derive(Debug)]
pub enum StateDirectoryError {
    /// The system refused something.
    Refused(WriteFault),
    /// Another server uses it.
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other server's process, if it has written its number already.
        process: Option<u32>,
    },
}

impl StateDirectory {
    /// Makes the directory if it is missing, for its owner alone, and locks it by `lock` in it.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or another server uses it.
    pub fn open(path: &Path) -> Result<Self, StateDirectoryError> {
        let is_new = !path.exists();
        create_directory(path).map_err(StateDirectoryError::Refused)?;
        let lock_path = path.join("lock");
        let refused = |attempt| {
            let lock_path = lock_path.clone();
            move |error| StateDirectoryError::Refused(WriteFault::of(attempt, &lock_path)(error))
        };
        let mut lock = open_lock(&lock_path).map_err(refused("open"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateDirectoryError::InUse { path: path.to_owned(), process: read_process(&mut lock) });
            }
            Err(TryLockError::Error(error)) => return Err(refused("lock")(error)),
        }
        write_process(&mut lock).map_err(refused("write"))?;
        Ok(Self { path: path.to_owned(), lock, is_new })
    }

    /// The same, and waits for a server that is about to end.
    ///
    /// # Errors
    /// As [`Self::open`]; another server still uses it after `patience`.
    pub fn open_when_free(path: &Path, patience: Duration) -> Result<Self, StateDirectoryError> {
        let end = Instant::now() + patience;
        loop {
            match Self::open(path) {
                Err(StateDirectoryError::InUse { .. }) if Instant::now() < end => thread::sleep(LOCK_LOOK),
                outcome => return outcome,
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The server does not start after all: a directory that it has made is removed, with these files. One that was there
    /// before stays, with what was put into it: the next start can use that.
    pub fn withdraw(self, files: &[PathBuf]) {
        if !self.is_new {
            return;
        }
        let lock = self.path.join("lock");
        for file in files.iter().chain([&lock]) {
            // It may not have been made yet; and the reason for the end is worth more than this one.
            let _ = fs::remove_file(file);
        }
        let _ = fs::remove_dir(&self.path);
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        // The lock goes with the file descriptor; a number that stays behind would only mislead. The file itself stays:
        // removing it would let two servers lock two files of the same name.
        let _ = self.lock.set_len(0);
    }
}

/// How often it is looked whether another server has ended: clients wait meanwhile.
const LOCK_LOOK: Duration = Duration::from_millis(1);

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(PRIVATE_FILE_MODE).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

fn write_process(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", process::id())
}

fn read_process(lock: &mut File) -> Option<u32> {
    const DIGITS_MAX: u64 = 20;
    let mut text = String::new();
    lock.take(DIGITS_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

impl StateDirectoryError {
    /// The exit code that says the same.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(fault) => fault.exit(),
            Self::InUse { .. } => Exit::Unavailable,
        }
    }
}

impl fmt::Display for StateDirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(fault) => write!(f, "{fault}, or name another directory with --state-dir"),
            Self::InUse { path, process: Some(process) } => {
                let path = path.display();
                write!(
                    f,
                    "process {process} already serves from {path}; stop it, or name another directory with --state-dir"
                )
            }
            Self::InUse { path, process: None } => {
                let path = path.display();
                write!(
                    f,
                    "another server already serves from {path}; stop it, or name another directory with --state-dir"
                )
            }
        }
    }
}

impl std::error::Error for StateDirectoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(fault) => Some(fault),
            Self::InUse { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process;
    use std::time::Duration;

    use super::{StateDirectory, StateDirectoryError};

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&directory.path().join("a/state")).unwrap();
        assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(state.file("lock")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_second_server_is_refused_with_the_process_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        let error = StateDirectory::open(directory.path()).unwrap_err();
        assert!(matches!(error, StateDirectoryError::InUse { process: Some(number), .. } if number == process::id()));
        let start = format!("process {} already serves from {}; stop it", process::id(), directory.path().display());
        assert!(error.to_string().starts_with(&start), "{error}");
        drop(first);
        StateDirectory::open(directory.path()).unwrap();
    }

    #[test]
    fn a_server_that_waits_has_the_directory_as_soon_as_the_other_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        let path = directory.path().to_owned();
        let second = std::thread::spawn(move || StateDirectory::open_when_free(&path, Duration::from_secs(60)).is_ok());
        drop(first);
        assert!(second.join().unwrap());
    }

    #[test]
    fn patience_with_a_server_that_does_not_end_has_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let _first = StateDirectory::open(directory.path()).unwrap();
        let error = StateDirectory::open_when_free(directory.path(), Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, StateDirectoryError::InUse { .. }));
    }

    #[test]
    fn a_withdrawn_server_removes_what_it_has_made_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let made = path.join("made");
        let open = || {
            let state = StateDirectory::open(&path).unwrap();
            fs::write(&made, "").unwrap();
            state
        };
        open().withdraw(&[made.clone(), path.join("never-made")]);
        assert!(!path.exists());
        let state = open();
        fs::write(path.join("users"), "").unwrap();
        state.withdraw(std::slice::from_ref(&made));
        assert!(path.join("users").exists(), "what others have put there stays");
        open().withdraw(std::slice::from_ref(&made));
        assert!(made.exists(), "the directory was there before");
    }

    #[test]
    fn the_lock_of_a_server_that_crashed_does_not_stand_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("lock"), "1234567890123\n").unwrap();
        let _state = StateDirectory::open(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("lock")).unwrap(), format!("{}\n", process::id()));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        let text = StateDirectory::open(&path).unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot make the directory {}: ", path.display())), "{text}");
        assert!(text.ends_with("in the way: move it, or name another directory with --state-dir"), "{text}");
    }
}
