//! The files of the submit command: password, memory, dead letters, configuration.
//!
//! A memory that cannot be read or written costs round trips, never a message; so it only warns.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::SubmitError;
use super::arguments::Settings;
use crate::exit::Exit;
use crate::limits::{CERTIFICATE_FILE_BYTES_MAX, MEMORY_TEXT_BYTES_MAX, SUBMIT_PASSWORD_FILE_BYTES_MAX};
use crate::proto::client::Memory;
use crate::proto::secret::Secret;
use crate::tls::certificate::chain_from_pem;

/// The text of the configuration file; `None` if there is none and none was named.
pub(super) fn configuration(named: Option<&PathBuf>) -> Result<Option<String>, SubmitError> {
    let path = match named {
        Some(path) => path.clone(),
        None => match default_configuration() {
            Some(path) if path.exists() => path,
            _ => return Ok(None),
        },
    };
    fs::read_to_string(&path).map(Some).map_err(|error| unreadable(&path, &error))
}

fn default_configuration() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(folder.join("onetrip/submit.toml"))
}

/// The certificates to trust, from a PEM file.
pub(super) fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, SubmitError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CERTIFICATE_FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(|error| unreadable(path, &error))?;
    chain_from_pem(&text).map_err(|error| {
        SubmitError::new(Exit::Data, format!("{}: {error}: name a PEM file with --ca", path.display()))
    })
}

/// The password, if the settings say where it is.
pub(super) fn password(settings: &Settings) -> Result<Option<Secret<Vec<u8>>>, SubmitError> {
    if let Some(path) = &settings.password_file {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        return first_line(file).map(Some).map_err(|error| unreadable(path, &error));
    }
    settings.password_command.as_deref().map(password_from_command).transpose()
}

fn password_from_command(command: &str) -> Result<Secret<Vec<u8>>, SubmitError> {
    let failed = |reason: String| {
        SubmitError::new(Exit::Config, format!("the password command failed: {reason}: run it by hand to see why"))
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let line = child.stdout.take().map(first_line).transpose().map_err(|error| failed(error.to_string()))?;
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    match line {
        Some(line) if status.success() => Ok(line),
        _ => Err(failed(status.to_string())),
    }
}

fn first_line(source: impl Read) -> io::Result<Secret<Vec<u8>>> {
    let mut reader = BufReader::new(source.take(SUBMIT_PASSWORD_FILE_BYTES_MAX));
    let mut line = Zeroizing::new(Vec::new());
    reader.read_until(b'\n', &mut line)?;
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Secret::new(std::mem::take(&mut *line)))
}

/// The memory in this file: empty if there is no such file, empty with a warning if it is damaged.
pub(super) fn load_memory(path: &Path) -> (Memory, Option<String>) {
    let warning = |reason: String| Some(format!("{}: {reason}: beginning a new memory", path.display()));
    let text = File::open(path).and_then(|file| {
        let mut text = String::new();
        file.take(MEMORY_TEXT_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    });
    match text {
        Ok(text) => match Memory::from_text(&text) {
            Ok(memory) => (memory, None),
            Err(error) => (Memory::default(), warning(error.to_string())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Memory::default(), None),
        Err(error) => (Memory::default(), warning(error.to_string())),
    }
}

/// Replaces the memory file at once, so that another call never reads half of it. Only its owner may read it.
pub(super) fn save_memory(path: &Path, memory: &Memory) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            // A file that was left behind may have another mode.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(memory.to_text().as_bytes())
        })
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Appends a message to a mailbox file (mboxrd), which only its owner may read if it is made here.
pub(super) fn append_dead_letter(path: &Path, sender: &str, date: &str, message: &[u8]) -> io::Result<()> {
    let sender = if sender.is_empty() { "MAILER-DAEMON" } else { sender };
    let mut mailbox = format!("From {sender} {date}\n").into_bytes();
    message.split_inclusive(|&byte| byte == b'\n').for_each(|line| push_quoted(&mut mailbox, line));
    mailbox.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&mailbox)?;
    file.sync_all()
}

/// A line that could be taken for the beginning of the next message gets a `>` in front.
fn push_quoted(mailbox: &mut Vec<u8>, line: &[u8]) {
    let quotes = line.iter().take_while(|&&byte| byte == b'>').count();
    if line[quotes..].starts_with(b"From ") {
        mailbox.push(b'>');
    }
    mailbox.extend_from_slice(line.strip_suffix(b"\r\n").unwrap_or(line));
    if line.ends_with(b"\r\n") {
        mailbox.push(b'\n');
    }
}

fn unreadable(path: &Path, error: &io::Error) -> SubmitError {
    let message = format!("{}: {error}: name a file that this user can read", path.display());
    SubmitError::new(Exit::of_read_error(error), message)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{append_dead_letter, load_memory, password, save_memory};
    use crate::proto::client::{Memory, ServerMemory};
    use crate::submit::arguments::Settings;

    #[test]
    fn a_memory_is_written_for_its_owner_only_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let mut memory = Memory::default();
        memory.remember("a:587", ServerMemory::default());
        save_memory(&path, &memory).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_memory(&path), (memory, None));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_damaged_memory_is_a_warning_and_a_missing_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        assert_eq!(load_memory(&path), (Memory::default(), None));
        fs::write(&path, "rubbish").unwrap();
        let (memory, warning) = load_memory(&path);
        assert_eq!(memory, Memory::default());
        assert!(warning.unwrap().contains("beginning a new memory"));
    }

    #[test]
    fn the_password_is_the_first_line_of_a_file_or_of_what_a_command_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "secret word\r\nmore").unwrap();
        let from_file = Settings { password_file: Some(path), ..Settings::default() };
        assert_eq!(password(&from_file).unwrap().unwrap().expose(), b"secret word");
        let command = |text: &str| Settings { password_command: Some(text.to_owned()), ..Settings::default() };
        assert_eq!(password(&command("echo other")).unwrap().unwrap().expose(), b"other");
        assert!(password(&command("exit 3")).is_err());
        assert!(password(&Settings::default()).unwrap().is_none());
    }

    #[test]
    fn dead_letters_stay_apart_in_their_mailbox() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead");
        append_dead_letter(&path, "a@b", "today", b"Subject: x\r\n\r\nFrom here\r\n>From there\r\nFar\r\n").unwrap();
        append_dead_letter(&path, "", "today", b"y\r\n").unwrap();
        let expected = "From a@b today\nSubject: x\n\n>From here\n>>From there\nFar\n\nFrom MAILER-DAEMON today\ny\n\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }
}
