//! The users file on disk: read whole, replaced whole.
//!
//! Writers lock `FILE.lock` and replace the file by renaming a new one over it, so a reader needs no lock and never sees
//! half a file. It must not run on a shard (it waits for the disk), and it must not throw users away because a file is
//! damaged: the ones it had stay until the file can be read again.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::atomic_file::{AtomicFile, WriteFault, create_directory, directory_of};
use super::passwords::Publish;
use crate::auth::users::{Users, UsersError};
use crate::limits;

/// The users file of a running server.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    seen: Seen,
}

/// What [`UsersFile::reload_if_changed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The file is the one that was read last.
    Unchanged,
    /// The file was read, and its users are the users now.
    Loaded {
        /// How many they are.
        users: usize,
    },
}

/// Why the users file could not be read or written.
#[derive(Debug)]
pub enum UsersFileError {
    /// The system refused something.
    Io {
        /// What was tried, such as "read".
        attempt: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file was read, and it is no users file.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and the remedy.
        error: UsersError,
    },
    /// The file is larger than [`limits::USERS_FILE_BYTES_MAX`], or it is not UTF-8.
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The file was there and is gone.
    Vanished {
        /// The file.
        path: PathBuf,
    },
    /// The file is a symbolic link, which may be read but not written through.
    Link {
        /// The link.
        path: PathBuf,
    },
}

impl UsersFile {
    /// The users file at `path`, not read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: Seen::Nothing }
    }

    /// Reads the file if it is not the one that was read last, and publishes its users.
    ///
    /// No file at the first look means no users. Each damage is reported once: while the file stays as it is, the next
    /// look finds it unchanged. What the system refuses is reported at every look.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is gone; the users published before stay.
    pub fn reload_if_changed(&mut self, passwords: &dyn Publish) -> Result<Reload, UsersFileError> {
        let Some(present) = Stamp::of_path(&self.path)? else {
            return self.handle_missing(passwords);
        };
        if self.seen == Seen::File(present) {
            return Ok(Reload::Unchanged);
        }
        let Some((text, stamp)) = read(&self.path)? else {
            return self.handle_missing(passwords);
        };
        self.seen = Seen::File(stamp);
        let users = parse(&self.path, text)?;
        let loaded = Reload::Loaded { users: users.len() };
        passwords.publish(Arc::new(users));
        Ok(loaded)
    }

    fn handle_missing(&mut self, passwords: &dyn Publish) -> Result<Reload, UsersFileError> {
        match std::mem::replace(&mut self.seen, Seen::NoFile) {
            Seen::NoFile => Ok(Reload::Unchanged),
            Seen::Nothing => {
                passwords.publish(Arc::default());
                Ok(Reload::Loaded { users: 0 })
            }
            Seen::File(_) => Err(UsersFileError::Vanished { path: self.path.clone() }),
        }
    }
}

/// Reads all users; a missing file has none.
///
/// # Errors
/// The file cannot be read, or it is damaged.
pub fn load(path: &Path) -> Result<Users, UsersFileError> {
    match read(path)? {
        Some((text, _)) => parse(path, text),
        None => Ok(Users::default()),
    }
}

/// Changes the users file: locks it, reads it, lets `change` work on the users, and replaces the file if `change`
/// succeeds. The directory is made if it is missing.
///
/// The new file belongs to whom the old one belonged to, or the directory, so that root can change the users of a server
/// that runs under a user of its own; and only its owner may read it.
///
/// # Errors
/// Those of `change`, and whatever the system refuses; the file is then as it was.
pub fn edit<T, E: From<UsersFileError>>(path: &Path, change: impl FnOnce(&mut Users) -> Result<T, E>) -> Result<T, E> {
    let place = Place::of(path)?;
    let _locked = place.lock()?;
    let mut users = load(&place.file)?;
    let outcome = change(&mut users)?;
    place.replace(users.render().as_bytes())?;
    Ok(outcome)
}

/// What was found at the last look.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// There was no look yet.
    Nothing,
    NoFile,
    File(Stamp),
}

/// What tells one state of a file from another. The time of change is in it because the time of modification can be
/// set back, and because it moves when permissions are mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of_path(path: &Path) -> Result<Option<Self>, UsersFileError> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(UsersFileError::io("look at", path, error)),
        }
    }

    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The text of the file with the stamp that it had when reading began, so that a change meanwhile is seen next time.
fn read(path: &Path) -> Result<Option<(Vec<u8>, Stamp)>, UsersFileError> {
    let failed = |error| UsersFileError::io("read", path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let mut text = Vec::new();
    file.take(limits::USERS_FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    Ok(Some((text, stamp)))
}

fn parse(path: &Path, text: Vec<u8>) -> Result<Users, UsersFileError> {
    let not_text = || UsersFileError::NotText { path: path.to_owned() };
    if text.len() as u64 > limits::USERS_FILE_BYTES_MAX {
        return Err(not_text());
    }
    let text = String::from_utf8(text).map_err(|_| not_text())?;
    Users::parse(&text).map_err(|error| UsersFileError::Damaged { path: path.to_owned(), error })
}

/// Where the users file is, and what stands beside it.
struct Place {
    file: PathBuf,
    owner: (u32, u32),
}

impl Place {
    fn of(path: &Path) -> Result<Self, UsersFileError> {
        let directory = directory_of(path);
        create_directory(directory).map_err(UsersFileError::from)?;
        let metadata = fs::symlink_metadata(path).or_else(|_| fs::metadata(directory));
        let metadata = metadata.map_err(|error| UsersFileError::io("look at", directory, error))?;
        // Renaming would put a file in the place of the link. Writing behind it would let the server's own user, who
        // may make links in this directory, choose what root writes to.
        if metadata.is_symlink() {
            return Err(UsersFileError::Link { path: path.to_owned() });
        }
        Ok(Self { file: path.to_owned(), owner: (metadata.uid(), metadata.gid()) })
    }

    /// Waits for other writers; the lock lasts as long as the file that is returned.
    fn lock(&self) -> Result<File, UsersFileError> {
        let path = self.beside(".lock");
        let locked = self.open_lock(&path).and_then(|file| file.lock().map(|()| file));
        locked.map_err(|error| UsersFileError::io("lock", &path, error))
    }

    /// Only a file made here is given away: one that was there may be a link to something that must stay root's.
    fn open_lock(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        match options.clone().create_new(true).open(path) {
            Ok(file) => self.give_to_owner(&file).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
            Err(error) => Err(error),
        }
    }

    /// Puts a new file in the place of the old one. The lock keeps other writers away from the name of the new one.
    fn replace(&self, text: &[u8]) -> Result<(), UsersFileError> {
        let (user, group) = self.owner;
        let replaced = AtomicFile::private(&self.file).with_owner(user, group).replace(text);
        replaced.map_err(UsersFileError::from)
    }

    fn give_to_owner(&self, file: &File) -> io::Result<()> {
        let metadata = file.metadata()?;
        if (metadata.uid(), metadata.gid()) == self.owner {
            return Ok(());
        }
        let (user, group) = self.owner;
        fchown(file, Some(user), Some(group))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = OsString::from(&self.file);
        name.push(ending);
        PathBuf::from(name)
    }
}

impl UsersFileError {
    fn io(attempt: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { attempt, path: path.to_owned(), error }
    }
}

impl From<WriteFault> for UsersFileError {
    fn from(fault: WriteFault) -> Self {
        Self::Io { attempt: fault.attempt, path: fault.path, error: fault.error }
    }
}

impl fmt::Display for UsersFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { attempt, path, error } if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(f, "cannot {attempt} {}: {error}; do this as the owner of the file, or as root", path.display())
            }
            Self::Io { attempt, path, error } => write!(f, "cannot {attempt} {}: {error}", path.display()),
            Self::Damaged { path, error } => write!(f, "{}, {error}", path.display()),
            Self::NotText { path } => write!(
                f,
                "{} is no users file: it is not UTF-8, or larger than {} MiB",
                path.display(),
                limits::USERS_FILE_BYTES_MAX >> 20
            ),
            Self::Link { path } => {
                write!(f, "{} is a symbolic link; name the file that it leads to with --users", path.display())
            }
            Self::Vanished { path } => write!(
                f,
                "{} is gone; its last users stay until the server stops; to have no users, make the file empty",
                path.display()
            ),
        }
    }
}

impl std::error::Error for UsersFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Damaged { error, .. } => Some(error),
            Self::NotText { .. } | Self::Vanished { .. } | Self::Link { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::thread;

    use futures_lite::future::block_on;

    use super::{Reload, UsersFile, UsersFileError, edit, load};
    use crate::auth::hash::StoredHash;
    use crate::auth::users::User;
    use crate::proto::credential::{Credential, Mechanism, Senders, Verdict};
    use crate::proto::secret::Secret;
    use crate::runtime::passwords::{PasswordSettings, Passwords};
    use crate::time::Now;

    /// "secret", at the least cost that argon2 allows.
    fn hash_of_secret() -> StoredHash {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version, password_hash::Salt};
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let hash = hasher.hash_password(b"secret", Salt::from_b64("c29tZXNhbHQ").unwrap()).unwrap();
        StoredHash::parse(&hash.to_string()).unwrap()
    }

    fn add(path: &Path, name: &str) {
        let user = User::new(name, hash_of_secret(), Senders::Any).unwrap();
        edit::<_, UsersFileError>(path, |users| Ok(users.put(user))).unwrap();
    }

    fn line(name: &str) -> String {
        format!("{name}:{}:\n", hash_of_secret().as_str())
    }

    fn knows(passwords: &Passwords, name: &str) -> bool {
        let password = Secret::new(b"secret".to_vec());
        let credential = Credential { mechanism: Mechanism::Plain, user: name.to_owned(), password };
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        matches!(block_on(passwords.judge(Now::simulated_ms(0), address, credential)), Verdict::Accepted(_))
    }

    fn passwords() -> Passwords {
        Passwords::start(&PasswordSettings::default()).unwrap()
    }

    #[test]
    fn a_missing_file_has_no_users_and_is_made_with_its_directory_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state").join("users");
        assert!(load(&path).unwrap().is_empty());
        add(&path, "ann");
        assert_eq!(fs::read_to_string(&path).unwrap(), line("ann"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn an_edit_that_fails_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        add(&path, "ann");
        let before = fs::read_to_string(&path).unwrap();
        let refused = edit::<(), UsersFileError>(&path, |users| {
            users.remove("ann");
            Err(UsersFileError::NotText { path: path.clone() })
        });
        assert!(refused.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn a_damaged_file_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for damaged in ["ann\n".as_bytes(), b"\xff\n"] {
            fs::write(&path, damaged).unwrap();
            assert!(edit::<(), UsersFileError>(&path, |_| Ok(())).is_err());
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_file_left_behind_by_a_crash_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        fs::write(directory.path().join("users.new"), "half a li").unwrap();
        add(&path, "ann");
        assert_eq!(fs::read_to_string(&path).unwrap(), line("ann"));
        assert!(!directory.path().join("users.new").exists());
    }

    #[test]
    fn a_link_is_read_but_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("users"));
        fs::write(&real, line("ann")).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(load(&link).unwrap().len(), 1);
        let refused = edit::<_, UsersFileError>(&link, |users| Ok(users.remove("ann")));
        assert!(matches!(refused, Err(UsersFileError::Link { .. })));
        assert_eq!(fs::read_to_string(&real).unwrap(), line("ann"));
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_or_of_the_new_file_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, precious) = (directory.path().join("users"), directory.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, directory.path().join("users.new")).unwrap();
        add(&path, "ann");
        fs::remove_file(directory.path().join("users.lock")).unwrap();
        std::os::unix::fs::symlink(&precious, directory.path().join("users.lock")).unwrap();
        assert!(edit::<_, UsersFileError>(&path, |users| Ok(users.remove("ann"))).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), line("ann"));
    }

    #[test]
    fn writers_at_the_same_time_lose_no_user() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || (0..8).for_each(|n| add(path, &format!("user-{writer}-{n}"))));
            }
        });
        assert_eq!(load(&path).unwrap().len(), 32);
    }

    #[test]
    fn a_changed_file_is_published_once() {
        let directory = tempfile::tempdir().unwrap();
        let (passwords, path) = (passwords(), directory.path().join("users"));
        let mut file = UsersFile::new(path.clone());
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Loaded { users: 0 });
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Unchanged);
        add(&path, "ann");
        assert!(!knows(&passwords, "ann"));
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Loaded { users: 1 });
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Unchanged);
        assert!(knows(&passwords, "ann"));
        edit::<_, UsersFileError>(&path, |users| Ok(users.remove("ann"))).unwrap();
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Loaded { users: 0 });
        assert!(!knows(&passwords, "ann"));
    }

    #[test]
    fn a_damaged_file_is_reported_once_and_the_old_users_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (passwords, path) = (passwords(), directory.path().join("users"));
        let mut file = UsersFile::new(path.clone());
        add(&path, "ann");
        file.reload_if_changed(&passwords).unwrap();
        fs::write(&path, format!("{}bob\n", line("eve"))).unwrap();
        let error = file.reload_if_changed(&passwords).unwrap_err();
        assert!(error.to_string().contains("line 2: not NAME:HASH:SENDERS"), "{error}");
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Unchanged);
        assert!(knows(&passwords, "ann") && !knows(&passwords, "eve"));
        fs::write(&path, line("bob")).unwrap();
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Loaded { users: 1 });
        assert!(knows(&passwords, "bob"));
    }

    #[test]
    fn a_file_that_vanished_is_reported_once_and_the_old_users_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (passwords, path) = (passwords(), directory.path().join("users"));
        let mut file = UsersFile::new(path.clone());
        add(&path, "ann");
        file.reload_if_changed(&passwords).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(file.reload_if_changed(&passwords), Err(UsersFileError::Vanished { .. })));
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Unchanged);
        assert!(knows(&passwords, "ann"));
        fs::write(&path, "").unwrap();
        assert_eq!(file.reload_if_changed(&passwords).unwrap(), Reload::Loaded { users: 0 });
        assert!(!knows(&passwords, "ann"));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_the_path_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = UsersFile::new(directory.path().to_owned()).reload_if_changed(&passwords()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot read {}", directory.path().display())), "{error}");
    }
}
