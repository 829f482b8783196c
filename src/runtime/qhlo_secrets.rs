//! The secrets of the qhlo-ids (draft §12) on disk.
//!
//! ```text
//! current 1767225600 q7r0…=      when it was made, in seconds since 1970, and 32 bytes in base64
//! previous 1764633600 W0kd…=
//! ```
//!
//! Servers that share the file take each other's ids: copy it by hand, and let one of them alone do the rotating. It must
//! not stop the server: an id that is not known any more costs its client one round trip.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::atomic_file::{AtomicFile, WriteFault, directory_of, sync_directory};
use crate::limits::QHLO_SECRETS_FILE_BYTES_MAX;
use crate::proto::qhlo_id::{Binding, QhloIds};
use crate::proto::secret::Secret;
use crate::time::Now;

/// The file's name in the state directory.
pub const QHLO_SECRETS_FILE: &str = "qhlo-secrets";

/// The secret that ids are issued with, and the one before, whose ids are still taken.
#[derive(Debug)]
pub struct QhloSecrets {
    path: PathBuf,
    rotation: Duration,
    pair: Pair,
}

/// Something about the file that an operator should know, although the server goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QhloSecretsWarning {
    /// The file was damaged, and was set aside; a new one was made.
    SetAside {
        /// The file.
        path: PathBuf,
        /// What it is called now.
        aside: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
}

/// What is wrong with a file of secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not text, or larger than [`QHLO_SECRETS_FILE_BYTES_MAX`].
    NotText,
    /// This line, counted from 1, is not `current` or `previous` with a time and 32 bytes in base64.
    Line(usize),
    /// This line, counted from 1, says again what another one said.
    Repeated(usize),
    /// There is no current secret.
    NoCurrent,
}

/// Why the secrets could not be read or written.
#[derive(Debug)]
pub enum QhloSecretsError {
    /// The system does not let the file be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The system does not let the file be written or set aside.
    Refused(WriteFault),
    /// The file that was to be read again is damaged.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The system has no randomness to give.
    NoRandomness,
}

impl QhloSecrets {
    /// Reads [`QHLO_SECRETS_FILE`] in the state directory, or makes it with a new secret if it is missing. A damaged file
    /// is set aside under a name with the time in it, and a new one made.
    ///
    /// `rotation` is how long a secret is in use.
    ///
    /// # Errors
    /// The file cannot be read or made.
    pub fn open(
        state_directory: &Path,
        rotation: Duration,
        now: Now,
    ) -> Result<(Self, Option<QhloSecretsWarning>), QhloSecretsError> {
        let path = state_directory.join(QHLO_SECRETS_FILE);
        let (found, warning) = match read(&path) {
            Ok(found) => (found, None),
            Err(QhloSecretsError::Damaged { damage, .. }) => {
                let aside = set_aside(now, &path)?;
                (None, Some(QhloSecretsWarning::SetAside { path: path.clone(), aside, damage }))
            }
            Err(error) => return Err(error),
        };
        let pair = found.map_or_else(|| make(now, &path, None), Ok)?;
        let mut secrets = Self { path, rotation, pair };
        secrets.rotate_if_due(now)?;
        Ok((secrets, warning))
    }

    /// Reads the file again, as after it was copied from another server, and rotates if that is due.
    ///
    /// # Errors
    /// The file is missing, damaged or cannot be read or written; the secrets read before stay good.
    pub fn reload(&mut self, now: Now) -> Result<(), QhloSecretsError> {
        let missing =
            || QhloSecretsError::Unreadable { path: self.path.clone(), error: io::ErrorKind::NotFound.into() };
        self.pair = read(&self.path)?.ok_or_else(missing)?;
        self.rotate_if_due(now).map(|_| ())
    }

    /// Makes a new secret if the current one is older than the rotation allows; the current one becomes the previous one.
    /// Says whether other secrets are in use now.
    ///
    /// The file is looked at first: one that was copied from another server meanwhile counts, not what was read before.
    ///
    /// # Errors
    /// The file cannot be read or written; the secrets stay as they were.
    pub fn rotate_if_due(&mut self, now: Now) -> Result<bool, QhloSecretsError> {
        if !self.pair.is_due(now, self.rotation) {
            return Ok(false);
        }
        let present = match read(&self.path) {
            // A damaged file is written anew, like a missing one: what is in memory is good.
            Err(QhloSecretsError::Damaged { .. }) => None,
            present => present?,
        };
        self.pair = match present {
            Some(fresh) if !fresh.is_due(now, self.rotation) => fresh,
            old => make(now, &self.path, Some(old.as_ref().unwrap_or(&self.pair).current.clone()))?,
        };
        Ok(true)
    }

    /// Issues and checks ids with these secrets.
    pub fn ids(&self, binding: Binding) -> QhloIds {
        let previous = self.pair.previous.as_ref().map(|previous| previous.secret.expose());
        QhloIds::new(self.pair.current.secret.expose(), previous, binding)
    }
}

#[derive(Debug)]
struct Pair {
    current: Dated,
    previous: Option<Dated>,
}

#[derive(Clone, Debug)]
struct Dated {
    made_unix_s: u64,
    secret: Secret<[u8; QhloIds::SECRET_BYTES]>,
}

impl Pair {
    fn is_due(&self, now: Now, rotation: Duration) -> bool {
        now.unix.saturating_sub(Duration::from_secs(self.current.made_unix_s)) > rotation
    }

    fn parse(text: &str) -> Result<Self, Damage> {
        let (mut current, mut previous) = (None, None);
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, dated) = Dated::parse(line).ok_or(Damage::Line(number))?;
            let place = match name {
                "current" => &mut current,
                "previous" => &mut previous,
                _ => return Err(Damage::Line(number)),
            };
            if place.replace(dated).is_some() {
                return Err(Damage::Repeated(number));
            }
        }
        Ok(Self { current: current.ok_or(Damage::NoCurrent)?, previous })
    }

    fn render(&self) -> Zeroizing<String> {
        // Reserved at once: a text that grows leaves copies of the secrets behind.
        let mut text = Zeroizing::new(String::with_capacity(512));
        text.push_str(
            "# Secrets of the qhlo-ids: current or previous, time made in unix seconds, base64. Keep private.\n",
        );
        self.current.render("current", &mut text);
        if let Some(previous) = &self.previous {
            previous.render("previous", &mut text);
        }
        text
    }
}

impl Dated {
    fn parse(line: &str) -> Option<(&str, Self)> {
        let mut words = line.split_ascii_whitespace();
        let (name, made, encoded, None) = (words.next()?, words.next()?, words.next()?, words.next()) else {
            return None;
        };
        let decoded = Zeroizing::new(BASE64.decode(encoded.as_bytes()).ok()?);
        let secret = Secret::new(<[u8; QhloIds::SECRET_BYTES]>::try_from(&decoded[..]).ok()?);
        Some((name, Self { made_unix_s: made.parse().ok()?, secret }))
    }

    fn render(&self, name: &str, text: &mut String) {
        text.push_str(name);
        text.push(' ');
        text.push_str(&self.made_unix_s.to_string());
        text.push(' ');
        BASE64.encode_append(self.secret.expose(), text);
        text.push('\n');
    }
}

/// `None` if there is no file.
fn read(path: &Path) -> Result<Option<Pair>, QhloSecretsError> {
    let unreadable = |error| QhloSecretsError::Unreadable { path: path.to_owned(), error };
    let damaged = |damage| QhloSecretsError::Damaged { path: path.to_owned(), damage };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut content = Zeroizing::new(Vec::with_capacity(QHLO_SECRETS_FILE_BYTES_MAX as usize + 1));
    file.take(QHLO_SECRETS_FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > QHLO_SECRETS_FILE_BYTES_MAX {
        return Err(damaged(Damage::NotText));
    }
    let text = std::str::from_utf8(&content).map_err(|_| damaged(Damage::NotText))?;
    Pair::parse(text).map(Some).map_err(damaged)
}

/// Writes the file with a new current secret.
fn make(now: Now, path: &Path, previous: Option<Dated>) -> Result<Pair, QhloSecretsError> {
    let mut secret = Zeroizing::new([0; QhloIds::SECRET_BYTES]);
    SystemRandom::new().fill(&mut *secret).map_err(|_| QhloSecretsError::NoRandomness)?;
    let current = Dated { made_unix_s: now.unix.as_secs(), secret: Secret::new(*secret) };
    let pair = Pair { current, previous };
    AtomicFile::private(path).replace(pair.render().as_bytes()).map_err(QhloSecretsError::Refused)?;
    Ok(pair)
}

/// Renames the file so that whoever damaged it can find out how.
fn set_aside(now: Now, path: &Path) -> Result<PathBuf, QhloSecretsError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".damaged-{}", now.unix.as_secs()));
    let aside = PathBuf::from(aside);
    let renamed = fs::rename(path, &aside).map_err(WriteFault::of("rename", path));
    renamed.and_then(|()| sync_directory(directory_of(path))).map_err(QhloSecretsError::Refused)?;
    Ok(aside)
}

impl fmt::Display for QhloSecretsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::SetAside { path, aside, damage } = self;
        let (path, aside) = (path.display(), aside.display());
        write!(
            f,
            "{path}: {damage}; it is now {aside}, a new one was made, and returning clients need one round trip more"
        )
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => f.write_str("this is no file of qhlo-id secrets"),
            Self::Line(number) => {
                write!(f, "line {number} is not `current` or `previous` with a time and 32 bytes in base64")
            }
            Self::Repeated(number) => write!(f, "line {number} says again what an earlier line said"),
            Self::NoCurrent => f.write_str("there is no line `current`"),
        }
    }
}

impl fmt::Display for QhloSecretsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                let path = path.display();
                write!(f, "cannot read {path}: {error}; let the server's user read it, or copy it there again")
            }
            Self::Refused(fault) => fault.fmt(f),
            Self::Damaged { path, damage } => {
                write!(f, "{}: {damage}; copy it there again, or restart the server to get a new one", path.display())
            }
            Self::NoRandomness => f.write_str("the system has no randomness to give for a qhlo-id secret"),
        }
    }
}

impl std::error::Error for QhloSecretsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Refused(fault) => Some(fault),
            Self::Damaged { .. } | Self::NoRandomness => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::{Damage, QhloSecrets, QhloSecretsError, QhloSecretsWarning};
    use crate::proto::qhlo_id::{Binding, Point, QhloId, QhloIds, Subject};
    use crate::time::Now;

    const START: Now = Now::simulated_ms(0);
    const DAY_MS: u64 = 86_400_000;
    const ROTATION: Duration = Duration::from_millis(30 * DAY_MS);
    const DUE: Now = Now::simulated_ms(31 * DAY_MS);
    const DUE_AGAIN: Now = Now::simulated_ms(62 * DAY_MS);

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qhlo-secrets");
        (directory, path)
    }

    fn open(path: &Path) -> QhloSecrets {
        let (secrets, warning) = QhloSecrets::open(path.parent().unwrap(), ROTATION, START).unwrap();
        assert_eq!(warning, None);
        secrets
    }

    fn with_subject<T>(use_it: impl FnOnce(&Subject<'_>) -> T) -> T {
        let here = "192.0.2.1".parse().unwrap();
        use_it(&Subject { point: Point::Connect, list_digest: &[7; 32], server: here, client: here })
    }

    fn issue(secrets: &QhloSecrets) -> QhloId {
        with_subject(|subject| secrets.ids(Binding::Address).issue(subject))
    }

    fn takes(secrets: &QhloSecrets, id: &QhloId) -> bool {
        with_subject(|subject| secrets.ids(Binding::Address).matches(subject, id.as_bytes()))
    }

    #[test]
    fn the_first_start_makes_a_secret_that_the_next_start_finds() {
        let (_directory, path) = place();
        let id = issue(&open(&path));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(issue(&open(&path)), id);
        let (_other_directory, other) = place();
        assert_ne!(issue(&open(&other)), id);
    }

    #[test]
    fn a_secret_is_replaced_when_it_is_due_and_stays_good_once_more() {
        let (_directory, path) = place();
        let mut secrets = open(&path);
        let first = issue(&secrets);
        assert!(!secrets.rotate_if_due(Now::simulated_ms(30 * DAY_MS)).unwrap(), "thirty days are not over");
        assert!(secrets.rotate_if_due(DUE).unwrap());
        assert!(!secrets.rotate_if_due(DUE).unwrap(), "once is enough");
        let second = issue(&secrets);
        assert!(second != first && takes(&secrets, &first));
        let after_restart = open(&path);
        assert!(issue(&after_restart) == second && takes(&after_restart, &first));
        assert!(secrets.rotate_if_due(DUE_AGAIN).unwrap());
        assert!(takes(&secrets, &second) && !takes(&secrets, &first));
    }

    #[test]
    fn a_secret_that_fell_due_while_the_server_was_down_is_replaced_at_the_start() {
        let (_directory, path) = place();
        let id = issue(&open(&path));
        let (secrets, _) = QhloSecrets::open(path.parent().unwrap(), ROTATION, DUE).unwrap();
        assert!(issue(&secrets) != id && takes(&secrets, &id));
    }

    #[test]
    fn a_clock_that_was_set_back_rotates_nothing() {
        let (_directory, path) = place();
        let (mut secrets, _) = QhloSecrets::open(path.parent().unwrap(), ROTATION, DUE).unwrap();
        assert!(!secrets.rotate_if_due(START).unwrap());
    }

    #[test]
    fn a_file_copied_from_another_server_is_taken_over() {
        let ((_directory, path), (_other_directory, other_path)) = (place(), place());
        let (mut secrets, other) = (open(&path), open(&other_path));
        secrets.reload(START).unwrap();
        assert_ne!(issue(&secrets), issue(&other));
        fs::copy(&other_path, &path).unwrap();
        secrets.reload(START).unwrap();
        assert_eq!(issue(&secrets), issue(&other));
    }

    #[test]
    fn rotation_does_not_write_over_a_fresh_file_from_another_server() {
        let ((_directory, path), (_other_directory, other_path)) = (place(), place());
        let (mut secrets, mut other) = (open(&path), open(&other_path));
        other.rotate_if_due(DUE).unwrap();
        fs::copy(&other_path, &path).unwrap();
        assert!(secrets.rotate_if_due(DUE).unwrap());
        assert_eq!(issue(&secrets), issue(&other));
        assert_eq!(fs::read(&path).unwrap(), fs::read(&other_path).unwrap());
    }

    #[test]
    fn a_failed_reload_keeps_the_secrets_and_the_file() {
        let (_directory, path) = place();
        let mut secrets = open(&path);
        let id = issue(&secrets);
        fs::write(&path, "current 1").unwrap();
        assert!(matches!(secrets.reload(START), Err(QhloSecretsError::Damaged { damage: Damage::Line(1), .. })));
        fs::remove_file(&path).unwrap();
        let text = secrets.reload(START).unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot read {}: ", path.display())), "{text}");
        assert_eq!(issue(&secrets), id);
        assert!(secrets.rotate_if_due(DUE).unwrap(), "what is in memory is enough");
        assert!(takes(&open(&path), &id));
    }

    #[test]
    fn every_damage_is_told_and_the_file_set_aside() {
        let good = "A".repeat(43) + "=";
        let large = "#".repeat(5_000);
        let twice = format!("current 1 {good}\ncurrent 1 {good}");
        for (text, expected) in [
            ("", Damage::NoCurrent),
            (&*format!("previous 1 {good}"), Damage::NoCurrent),
            ("current 1", Damage::Line(1)),
            (&*format!("current x {good}"), Damage::Line(1)),
            (&*format!("# remark\n\ncurrent 1 {good} more"), Damage::Line(3)),
            (&*format!("other 1 {good}"), Damage::Line(1)),
            ("current 1 AAAA", Damage::Line(1)),
            (&*twice, Damage::Repeated(2)),
            (&*large, Damage::NotText),
        ] {
            let (directory, path) = place();
            fs::write(&path, text).unwrap();
            let (_, warning) = QhloSecrets::open(path.parent().unwrap(), ROTATION, START).unwrap();
            let aside = directory.path().join("qhlo-secrets.damaged-1767225600");
            assert_eq!(fs::read_to_string(&aside).unwrap(), text);
            assert_eq!(warning, Some(QhloSecretsWarning::SetAside { path: path.clone(), aside, damage: expected }));
            open(&path);
        }
    }

    #[test]
    fn a_file_written_by_hand_is_read() {
        let (_directory, path) = place();
        fs::write(&path, format!("# ours\r\n\r\n current  1767225600 {}= \r\n", "A".repeat(43))).unwrap();
        let expected = with_subject(|subject| QhloIds::new(&[0; 32], None, Binding::Address).issue(subject));
        assert_eq!(issue(&open(&path)), expected);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_alone() {
        let (_directory, path) = place();
        fs::create_dir(&path).unwrap();
        assert!(matches!(
            QhloSecrets::open(path.parent().unwrap(), ROTATION, START),
            Err(QhloSecretsError::Unreadable { .. })
        ));
        assert!(path.is_dir());
    }

    #[test]
    fn secrets_do_not_print() {
        let (_directory, path) = place();
        fs::write(&path, format!("current 1 {}=", "Q".repeat(42) + "A")).unwrap();
        let printed = format!("{:?}", open(&path));
        assert!(printed.contains("Secret(…)") && !printed.contains("65"), "{printed}");
    }
}
