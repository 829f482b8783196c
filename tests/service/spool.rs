//! What was acknowledged is found again, whatever became of the server; and a full disk puts mail off and nothing more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::process::client::Client;
use crate::process::{PATIENCE, RECIPIENT, Server, Site};

fn letter(number: usize) -> String {
    format!("Subject: letter {number}\r\n\r\nHello\r\n")
}

/// Submits letters with these numbers; all must be acknowledged.
fn submit(server: &Server, numbers: std::ops::Range<usize>) {
    let mut client = Client::logged_in(server);
    for number in numbers {
        client.submit(&letter(number), "250");
    }
    client.quit();
}

/// Kills a server without warning.
fn kill(mut server: Server) {
    server.signal(libc::SIGKILL);
    server.ended();
}

#[test]
fn every_acknowledged_message_is_there_after_a_kill() {
    const LETTERS: usize = 20;
    let site = Site::new();
    for round in 0..2 {
        let server = site.serve(&[]);
        submit(&server, round * LETTERS..(round + 1) * LETTERS);
        kill(server);
    }
    let server = site.serve(&[]);
    assert_eq!(server.event("spool_opened")["event"], "spool_opened");
    let found = || {
        let messages = site.messages(RECIPIENT);
        let has = |number: &usize| {
            let subject = format!("Subject: letter {number}\r\n");
            messages.iter().any(|message| String::from_utf8_lossy(message).contains(&subject))
        };
        (0..2 * LETTERS).filter(has).count()
    };
    let end = Instant::now() + PATIENCE;
    while found() < 2 * LETTERS {
        assert!(Instant::now() < end, "{} of {} letters", found(), 2 * LETTERS);
        std::thread::yield_now();
    }
    server.stop(&site);
}

#[test]
fn any_number_of_shards_starts_where_another_stopped() {
    let site = Site::new();
    for (round, shards) in ["2", "1", "3"].into_iter().enumerate() {
        let server = site.serve(&["--shards", shards]);
        submit(&server, round..round + 1);
        kill(server);
    }
    let server = site.serve(&["--shards", "1"]);
    server.stop(&site);
    let logs = fs::read_dir(site.state().join("spool")).unwrap().count();
    assert_eq!(logs, 1, "the logs of shards that are no more are gone");
    assert!(site.messages(RECIPIENT).len() >= 3);
}

#[test]
fn messages_that_go_nowhere_are_committed_first_and_gone_after() {
    let site = Site::new();
    let server = site.serve(&["--deliver", "discard", "--metrics", "127.0.0.1:0"]);
    submit(&server, 0..5);
    let page = crate::process::http_get(server.metrics.unwrap(), "/metrics");
    let sample = |name: &str| {
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name}: {page}"))
    };
    assert_eq!(sample("onetrip_spool_batch_messages_total"), 5);
    assert!(sample("onetrip_spool_batches_total") >= 5);
    server.stop(&site);
    let server = site.serve(&["--deliver", "discard"]);
    assert_eq!(server.event("spool_opened")["messages"], 0);
    server.stop(&site);
}

/// A file system of its own, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "onetrip-test"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let grown = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_puts_mail_off_and_service_comes_back_with_room() {
    let site = Site::new();
    // Room for one segment and not for two.
    let Some(disk) = SmallDisk::mount(&site.state().join("spool"), "20m") else {
        eprintln!("skipped: mounting a file system needs root");
        return;
    };
    let server = site.serve(&["--deliver", "discard", "--commands-max", "1000000"]);
    let mut client = Client::logged_in(&server);
    client.submit(&letter(0), "250");
    server.event("spool_full");
    let reply = client.submit(&letter(1), "452 4.3.1");
    assert!(reply.starts_with("452"), "{reply}");
    disk.grow("80m");
    let end = Instant::now() + PATIENCE;
    while !client.submit(&letter(2), "").starts_with("250") {
        assert!(Instant::now() < end, "service does not come back");
    }
    client.quit();
    server.stop(&site);
    drop(disk);
}
