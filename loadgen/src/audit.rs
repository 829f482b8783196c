//! Proves that every message that the server acknowledged is there exactly once in each of its mailboxes, and intact.
//!
//! During a run, [`Journal`] writes down what was acknowledged; afterwards [`audit`] compares it with Maildirs.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::letter;

/// Bytes of the journal that are kept back before they are written.
const JOURNAL_BUFFER_BYTES: usize = 1 << 16;

/// Messages that are named of each kind of finding; the others are counted.
const NAMED_MAX: usize = 10;

/// Writes down what was acknowledged: one line with the id and the number of mailboxes.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    buffer: Vec<u8>,
}

impl Journal {
    /// Goes on with the file of this path, or begins it. Several journals may write to one file.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, buffer: Vec::new() })
    }

    /// The server took the message for so many recipients.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn note(&mut self, id: &str, mailboxes: usize) -> io::Result<()> {
        self.buffer.extend_from_slice(format!("{id} {mailboxes}\n").as_bytes());
        if self.buffer.len() < JOURNAL_BUFFER_BYTES { Ok(()) } else { self.flush() }
    }

    /// Writes what was kept back, in whole lines, so that two journals never mix within one.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Messages acknowledged.
    pub(crate) acknowledged: usize,
    /// Mailboxes that should have one of them, all messages together.
    pub(crate) expected: usize,
    /// Files that are messages of a run.
    pub(crate) files: usize,
    /// Messages missing from at least one mailbox.
    pub(crate) missing: Vec<String>,
    /// Messages that are in one mailbox more than once.
    pub(crate) repeated: Vec<String>,
    /// Messages whose body is not the one sent.
    pub(crate) damaged: Vec<String>,
    /// Messages that are there although the client never saw an acknowledgement. Not a fault: the reply may have been lost.
    pub(crate) unacknowledged: usize,
}

impl Findings {
    /// Is every acknowledged message there exactly once and intact?
    pub(crate) const fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.repeated.is_empty() && self.damaged.is_empty()
    }

    /// The findings in words.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "acknowledged {} messages for {} mailboxes; found {} files\n",
            self.acknowledged, self.expected, self.files
        );
        for (what, ids) in [("missing", &self.missing), ("repeated", &self.repeated), ("damaged", &self.damaged)] {
            let named: Vec<_> = ids.iter().take(NAMED_MAX).map(String::as_str).collect();
            let more = if ids.len() > NAMED_MAX { " …" } else { "" };
            text.push_str(&format!("{what}: {}  {}{more}\n", ids.len(), named.join(" ")));
        }
        text.push_str(&format!("there without an acknowledgement: {}\n", self.unacknowledged));
        text.push_str(if self.is_clean() {
            "every acknowledged message is there exactly once and intact\n"
        } else {
            "NOT every acknowledged message is there exactly once and intact\n"
        });
        text
    }
}

/// Copies of one message: how many in each mailbox.
type Copies = BTreeMap<PathBuf, usize>;

/// Compares the journal with all Maildirs under `directory`.
///
/// # Errors
///
/// Of the file system, with the path, and if the journal is not one.
pub(crate) fn audit(journal: &Path, directory: &Path) -> Result<Findings, String> {
    let acknowledged = read_journal(journal)?;
    let mut findings = Findings { acknowledged: acknowledged.len(), ..Findings::default() };
    findings.expected = acknowledged.values().sum();
    let mut found = BTreeMap::new();
    walk(directory, &mut found, &mut findings)?;
    for (id, &mailboxes) in &acknowledged {
        if found.get(id).map_or(0, Copies::len) < mailboxes {
            findings.missing.push(id.clone());
        }
    }
    for (id, copies) in &found {
        if copies.values().any(|&copies| copies > 1) || acknowledged.get(id).is_some_and(|&most| copies.len() > most) {
            findings.repeated.push(id.clone());
        }
        findings.unacknowledged += usize::from(!acknowledged.contains_key(id));
    }
    Ok(findings)
}

fn read_journal(path: &Path) -> Result<BTreeMap<String, usize>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let entry = |line: &str| {
        let (id, mailboxes) = line.split_once(' ')?;
        Some((id.to_owned(), mailboxes.parse().ok()?))
    };
    let entries: Option<_> = text.lines().map(entry).collect();
    entries.ok_or_else(|| format!("{} is no file of acknowledged messages (see --acknowledged)", path.display()))
}

/// Reads all messages in `new` and `cur` under this directory, however deep.
fn walk(directory: &Path, found: &mut BTreeMap<String, Copies>, findings: &mut Findings) -> Result<(), String> {
    let words = |error: io::Error| format!("cannot read {}: {error}", directory.display());
    let holds_mail = directory.file_name().is_some_and(|name| name == "new" || name == "cur");
    for entry in fs::read_dir(directory).map_err(words)? {
        let entry = entry.map_err(words)?;
        let kind = entry.file_type().map_err(words)?;
        if kind.is_dir() {
            walk(&entry.path(), found, findings)?;
        } else if kind.is_file() && holds_mail {
            read_file(&entry.path(), found, findings)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path, found: &mut BTreeMap<String, Copies>, findings: &mut Findings) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let Some(letter) = letter::read(&bytes) else { return Ok(()) };
    findings.files += 1;
    if !letter.intact {
        findings.damaged.push(letter.id.clone());
    }
    let mailbox = path.parent().and_then(Path::parent).unwrap_or(path).to_owned();
    *found.entry(letter.id).or_default().entry(mailbox).or_default() += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Findings, Journal, audit};
    use crate::letter;
    use crate::random::Random;

    fn keep(directory: &Path, mailbox: &str, name: &str, id: &str) {
        let bytes = letter::write(id, "a@b", &["c@d".to_owned()], 1_000, &mut Random::new(1));
        let new = directory.join(mailbox).join("new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join(name), bytes).unwrap();
    }

    fn audited(acknowledged: &[(&str, usize)], prepare: impl Fn(&Path)) -> Findings {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acknowledged");
        let mut journal = Journal::open(&path).unwrap();
        acknowledged.iter().for_each(|&(id, mailboxes)| journal.note(id, mailboxes).unwrap());
        journal.flush().unwrap();
        prepare(directory.path());
        audit(&path, directory.path()).unwrap()
    }

    #[test]
    fn messages_that_are_there_once_and_intact_pass() {
        let findings = audited(&[("1", 1), ("2", 2)], |directory| {
            keep(directory, "x", "a", "1");
            keep(directory, "x", "b", "2");
            keep(directory, "y", "a", "2");
            fs::write(directory.join("x/new/other"), "Subject: hello\n\n").unwrap();
        });
        assert!(findings.is_clean(), "{findings:?}");
        assert_eq!((findings.acknowledged, findings.expected, findings.files), (2, 3, 3));
    }

    #[test]
    fn a_missing_message_is_found_even_if_one_of_its_mailboxes_has_it() {
        let findings = audited(&[("1", 1), ("2", 2)], |directory| keep(directory, "x", "b", "2"));
        assert_eq!(findings.missing, ["1", "2"]);
    }

    #[test]
    fn a_message_that_is_there_twice_is_found_in_one_mailbox_or_in_two() {
        let findings = audited(&[("1", 1), ("2", 1)], |directory| {
            keep(directory, "x", "a", "1");
            keep(directory, "x", "b", "1");
            keep(directory, "x", "c", "2");
            keep(directory, "y", "c", "2");
        });
        assert_eq!(findings.repeated, ["1", "2"]);
    }

    #[test]
    fn a_damaged_message_is_found() {
        let findings = audited(&[("1", 1)], |directory| {
            keep(directory, "x", "a", "1");
            let path = directory.join("x/new/a");
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 4;
            bytes[last] ^= 1;
            fs::write(path, bytes).unwrap();
        });
        assert_eq!(findings.damaged, ["1"]);
        assert!(!findings.is_clean());
    }

    #[test]
    fn a_message_without_an_acknowledgement_is_counted_and_is_no_fault() {
        let findings = audited(&[], |directory| keep(directory, "x", "a", "1"));
        assert!(findings.is_clean());
        assert_eq!(findings.unacknowledged, 1);
    }

    #[test]
    fn another_file_is_no_journal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "hello\n").unwrap();
        assert!(audit(&path, directory.path()).is_err());
    }
}
