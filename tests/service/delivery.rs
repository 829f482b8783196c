//! Trouble with the place where mail goes: what was acknowledged waits in the queue, nothing lies about half-delivered, and
//! everything arrives once when the trouble is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::client::Client;
use crate::process::{RECIPIENT, Site};

const SMALL: &str = "Subject: small\r\n\r\nHello\r\n";

/// So that nobody waits for long.
const SOON: [&str; 4] = ["--retry-min", "1", "--retry-max", "1"];

#[test]
fn mail_waits_while_its_directory_cannot_be_made() {
    let site = Site::new();
    let server = site.serve(&SOON);
    fs::write(site.mail(), "in the way").unwrap();
    let mut client = Client::logged_in(&server);
    client.submit(SMALL, "250");
    assert!(server.event("delivery_fault")["reason"].as_str().unwrap().contains("mail"));
    let deferred = server.event("message_deferred");
    assert_eq!((&deferred["status"], &deferred["recipients"]), (&"4.3.0".into(), &1.into()), "{deferred}");
    fs::remove_file(site.mail()).unwrap();
    client.submit(SMALL, "250");
    client.quit();
    assert_eq!(site.arrived(RECIPIENT, 2).len(), 2);
    server.stop(&site);
}

#[test]
fn mail_waits_when_its_directory_goes_away_and_flows_when_it_is_back() {
    let site = Site::new();
    let server = site.serve(&SOON);
    let mut client = Client::logged_in(&server);
    client.submit(SMALL, "250");
    site.arrived(RECIPIENT, 1);
    let aside = site.path("aside");
    fs::rename(site.mail(), &aside).unwrap();
    fs::write(site.mail(), "in the way").unwrap();
    client.submit(SMALL, "250");
    server.event("message_deferred");
    fs::remove_file(site.mail()).unwrap();
    fs::rename(&aside, site.mail()).unwrap();
    client.submit(SMALL, "250");
    client.quit();
    assert_eq!(site.arrived(RECIPIENT, 3).len(), 3);
    server.stop(&site);
}

#[test]
fn a_message_that_one_recipient_cannot_have_is_given_to_the_others_once() {
    let site = Site::new();
    let server = site.serve(&SOON);
    fs::create_dir(site.mail()).unwrap();
    fs::write(site.mail().join("eve@example.org"), "in the way").unwrap();
    let all = ["bob@example.org", "eve@example.org", "joe@example.org"];
    let mut client = Client::logged_in(&server);
    client.ask("MAIL FROM:<ann@example.org>", "250");
    for recipient in all {
        client.ask(&format!("RCPT TO:<{recipient}>"), "250");
    }
    client.ask("DATA", "354");
    client.ask(&format!("{SMALL}."), "250");
    client.quit();
    let deferred = server.event("message_deferred");
    assert_eq!(deferred["recipient"], "eve@example.org", "{deferred}");
    fs::remove_file(site.mail().join("eve@example.org")).unwrap();
    for recipient in all {
        assert_eq!(site.arrived(recipient, 1).len(), 1);
    }
    server.stop(&site);
}

/// A file system of its own, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "onetrip-test"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_lets_mail_wait_and_leaves_no_half_message() {
    let site = Site::new();
    let Some(disk) = SmallDisk::mount(&site.path("disk")) else {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    };
    let mail = disk.0.join("mail");
    let server = site.serve(&[&["--deliver", &format!("maildir:{}", mail.display())], &SOON[..]].concat());
    let mut client = Client::logged_in(&server);
    let large = format!("Subject: large\r\n\r\n{}", "0123456789abcdef\r\n".repeat(32 << 10));
    client.submit(large.trim_end(), "250");
    assert!(server.event("destination_down")["reason"].as_str().unwrap().contains("No space left"));
    for part in ["tmp", "new"] {
        assert_eq!(crate::process::files(&mail.join(RECIPIENT).join(part)), Vec::<PathBuf>::new());
    }
    client.submit(SMALL, "250");
    client.quit();
    server.event("message_delivered");
    assert_eq!(crate::process::files(&mail.join(RECIPIENT).join("new")).len(), 1);
    server.stop(&site);
}
