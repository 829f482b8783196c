//! The audit of what a real server delivered.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use crate::process::{LOOK, PATIENCE, Site, generator};

/// All messages under a directory of Maildirs.
fn messages(directory: &Path) -> Vec<PathBuf> {
    let mailboxes = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let inside =
        |mailbox: PathBuf| fs::read_dir(mailbox.join("new")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = mailboxes.flat_map(inside).collect();
    all.sort();
    all
}

/// Waits for what was acknowledged: it follows at once, but not before the reply.
fn await_messages(mail: &Path, count: usize) {
    let end = Instant::now() + PATIENCE;
    while !mail.exists() || messages(mail).len() < count {
        assert!(Instant::now() < end, "{count} messages in {}", mail.display());
        thread::sleep(LOOK);
    }
}

#[test]
fn what_was_acknowledged_is_there_and_what_is_lost_doubled_or_altered_is_found() {
    let site = Site::new();
    let journal = site.path("acknowledged");
    let load = ["--count", "12", "--connections", "3", "--recipients", "2", "--messages", "2"];
    site.report(&[&load[..], &["--acknowledged", &journal]].concat());
    let mail = site.mail();
    await_messages(&mail, 48);
    let audit = || generator(&["audit", mail.to_str().unwrap(), "--acknowledged", &journal]);
    let clean = audit();
    assert_eq!(clean.code, 0, "{}", clean.out);
    assert!(clean.out.starts_with("acknowledged 24 messages for 48 mailboxes; found 48 files\n"), "{}", clean.out);
    let victim = messages(&mail).pop().unwrap();
    let whole = fs::read(&victim).unwrap();

    fs::remove_file(&victim).unwrap();
    let lost = audit();
    assert!(lost.code == 1 && lost.out.contains("missing: 1"), "{}", lost.out);

    fs::write(&victim, &whole).unwrap();
    let copy = victim.with_extension("copy");
    fs::write(&copy, &whole).unwrap();
    let doubled = audit();
    assert!(doubled.code == 1 && doubled.out.contains("repeated: 1"), "{}", doubled.out);
    fs::remove_file(&copy).unwrap();

    let mut altered = whole.clone();
    let at = altered.len() - 10;
    altered[at] ^= 1;
    fs::write(&victim, altered).unwrap();
    let damaged = audit();
    assert!(damaged.code == 1 && damaged.out.contains("damaged: 1"), "{}", damaged.out);

    fs::write(&victim, &whole).unwrap();
    assert_eq!(audit().code, 0);
}
