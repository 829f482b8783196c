//! Files that are there whole or not at all, whenever the machine stops, and directories that stay.
//!
//! It waits for the disk and must not run on a shard. It keeps nobody else from writing the same file: whoever may have
//! company locks first.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::exit::Exit;

/// Permission bits of a file that only its owner may read and write.
pub const PRIVATE_FILE_MODE: u32 = 0o600;

/// Permission bits of a directory that only its owner may enter.
pub const PRIVATE_DIRECTORY_MODE: u32 = 0o700;

/// A file that is always replaced as a whole.
#[derive(Clone, Copy, Debug)]
pub struct AtomicFile<'a> {
    path: &'a Path,
    mode: u32,
    owner: Option<(u32, u32)>,
}

/// What the system refused while a file or directory was written.
#[derive(Debug)]
pub struct WriteFault {
    /// What was tried, such as "write".
    pub attempt: &'static str,
    /// With which file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

impl<'a> AtomicFile<'a> {
    /// The file at `path`, to be read and written by its owner alone.
    pub const fn private(path: &'a Path) -> Self {
        Self { path, mode: PRIVATE_FILE_MODE, owner: None }
    }

    /// With these permission bits instead, whatever the umask says.
    #[must_use]
    pub const fn with_mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Given to this user and group, by their numbers.
    #[must_use]
    pub const fn with_owner(self, user: u32, group: u32) -> Self {
        Self { owner: Some((user, group)), ..self }
    }

    /// Puts a file with this content in the place of the old one, by way of a file with `.new` behind its name. After a
    /// crash at any point there is the old one or the new one, whole; after success the new one stays.
    ///
    /// A symbolic link at the path is replaced, not followed.
    ///
    /// # Errors
    /// Whatever the system refuses. The old file is then as it was, unless the last step, syncing the directory, failed.
    pub fn replace(self, content: &[u8]) -> Result<(), WriteFault> {
        let mut temporary = OsString::from(self.path);
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let placed = self.write_and_rename(&temporary, content);
        if placed.is_err() {
            // The first error counts; the next writer removes what is left anyway.
            let _ = fs::remove_file(&temporary);
        }
        placed?;
        sync_directory(directory_of(self.path))
    }

    fn write_and_rename(self, temporary: &Path, content: &[u8]) -> Result<(), WriteFault> {
        self.write(temporary, content).map_err(WriteFault::of("write", temporary))?;
        fs::rename(temporary, self.path).map_err(WriteFault::of("replace", self.path))
    }

    fn write(self, temporary: &Path, content: &[u8]) -> io::Result<()> {
        // One left behind by a crash may have another owner and other permissions than the new file must have from its
        // first byte on.
        remove_if_there(temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(temporary)?;
        file.set_permissions(Permissions::from_mode(self.mode))?;
        self.give_to_owner(&file)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn give_to_owner(self, file: &File) -> io::Result<()> {
        let Some((user, group)) = self.owner else {
            return Ok(());
        };
        let metadata = file.metadata()?;
        if (metadata.uid(), metadata.gid()) == (user, group) {
            return Ok(());
        }
        fchown(file, Some(user), Some(group))
    }
}

/// Makes a directory that only its owner may enter, and those above it that are missing, so that they stay after a
/// crash. One that is there already is left as it is.
///
/// # Errors
/// Whatever the system refuses, such as a file being in the way.
pub fn create_directory(path: &Path) -> Result<(), WriteFault> {
    if path.is_dir() {
        return Ok(());
    }
    let above = directory_of(path);
    create_directory(above)?;
    make_directory(path)?;
    sync_directory(above)
}

/// Makes one directory that only its owner may enter, without waiting for the disk: whoever needs it to stay calls
/// [`sync_directory`] on the one above. One that is there already is left as it is.
///
/// # Errors
/// Whatever the system refuses, such as a file being in the way.
pub fn make_directory(path: &Path) -> Result<(), WriteFault> {
    match DirBuilder::new().mode(PRIVATE_DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(WriteFault::of("make the directory", path)),
    }
}

/// Waits until the names in this directory are on stable storage.
///
/// # Errors
/// Whatever the system refuses.
pub fn sync_directory(directory: &Path) -> Result<(), WriteFault> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(WriteFault::of("sync the directory", directory))
}

/// The directory in which a file lies.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a file that may be gone already.
///
/// # Errors
/// Whatever the system refuses.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl WriteFault {
    /// For `map_err`: what `attempt` with `path` was refused with.
    pub fn of(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { attempt, path: path.to_owned(), error }
    }

    /// Is there no room, or has the owner of the files none left?
    pub fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// The exit code that says the same.
    pub fn exit(&self) -> Exit {
        match self.error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => Exit::CannotCreate,
            _ => Exit::Io,
        }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self.error.kind() {
            io::ErrorKind::StorageFull => "free some room on this file system",
            io::ErrorKind::QuotaExceeded => "free some room, or raise the quota of the server's user",
            io::ErrorKind::PermissionDenied => "let the server's user write there",
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                "something that is no directory is in the way: move it"
            }
            io::ErrorKind::NotFound => "it was removed meanwhile: put it back, or let the server make it",
            io::ErrorKind::ReadOnlyFilesystem => "mount the file system for writing",
            _ if matches!(self.error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                "let the server open more files (LimitNOFILE= in systemd, ulimit -n)"
            }
            _ => "see what the kernel's log says of this file system",
        }
    }
}

impl fmt::Display for WriteFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempt, path, error } = self;
        write!(f, "cannot {attempt} {}: {error}; {}", path.display(), self.remedy())
    }
}

impl std::error::Error for WriteFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::{AtomicFile, create_directory};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        AtomicFile::private(&path).replace(b"a longer text").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        AtomicFile::private(&path).replace(b"short").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"short".to_vec(), 0o600));
        AtomicFile::private(&path).with_mode(0o644).replace(b"open").unwrap();
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn what_a_crash_left_behind_is_neither_kept_nor_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (directory.path().join("file"), directory.path().join("elsewhere"));
        fs::write(&elsewhere, "untouched").unwrap();
        symlink(&elsewhere, directory.path().join("file.new")).unwrap();
        AtomicFile::private(&path).replace(b"new").unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"untouched");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_the_error_names_path_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        let fault = AtomicFile::private(&path).replace(b"x").unwrap_err();
        assert!(fault.to_string().starts_with(&format!("cannot replace {}: ", path.display())), "{fault}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
        let fault = AtomicFile::private(&directory.path().join("none/file")).replace(b"x").unwrap_err();
        assert!(fault.to_string().contains("; it was removed meanwhile"), "{fault}");
    }

    #[test]
    fn a_file_can_be_given_away_by_those_who_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let owner = fs::metadata(directory.path()).unwrap();
        AtomicFile::private(&path).with_owner(owner.uid(), owner.gid()).replace(b"x").unwrap();
        if owner.uid() == 0 {
            AtomicFile::private(&path).with_owner(65_534, 65_534).replace(b"x").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().uid(), 65_534);
        }
    }

    #[test]
    fn missing_directories_are_made_private_and_present_ones_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        create_directory(&path).unwrap();
        assert_eq!((mode(&path), mode(&directory.path().join("a"))), (0o700, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        create_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o750);
        fs::write(path.join("file"), "").unwrap();
        let fault = create_directory(&path.join("file")).unwrap_err();
        assert!(fault.to_string().ends_with("something that is no directory is in the way: move it"), "{fault}");
    }
}
