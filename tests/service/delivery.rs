//! Trouble with the place where mail goes: the client is told to try again, nothing lies about half-delivered, and the
//! next message fares well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::client::Client;
use crate::process::{RECIPIENT, Site};

const SMALL: &str = "Subject: small\r\n\r\nHello\r\n";

#[test]
fn mail_is_put_off_while_its_directory_cannot_be_made() {
    let site = Site::new();
    let server = site.serve(&[]);
    fs::write(site.mail(), "in the way").unwrap();
    let mut client = Client::logged_in(&server);
    let reply = client.submit(SMALL, "45");
    assert!(reply.starts_with("451 4.3.") || reply.starts_with("452 4.3."), "{reply}");
    assert!(server.event("delivery_fault")["reason"].as_str().unwrap().contains("mail"));
    fs::remove_file(site.mail()).unwrap();
    client.submit(SMALL, "250");
    client.quit();
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 1);
}

#[test]
fn mail_is_put_off_when_its_directory_goes_away_and_accepted_when_it_is_back() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    client.submit(SMALL, "250");
    let aside = site.path("aside");
    fs::rename(site.mail(), &aside).unwrap();
    fs::write(site.mail(), "in the way").unwrap();
    client.submit(SMALL, "45");
    fs::remove_file(site.mail()).unwrap();
    fs::rename(&aside, site.mail()).unwrap();
    client.submit(SMALL, "250");
    client.quit();
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 2);
}

#[test]
fn a_message_that_one_recipient_cannot_have_is_given_to_none() {
    let site = Site::new();
    let server = site.serve(&[]);
    fs::create_dir(site.mail()).unwrap();
    fs::write(site.mail().join("eve@example.org"), "in the way").unwrap();
    let mut client = Client::logged_in(&server);
    client.ask("MAIL FROM:<ann@example.org>", "250");
    for recipient in ["bob@example.org", "eve@example.org", "joe@example.org"] {
        client.ask(&format!("RCPT TO:<{recipient}>"), "250");
    }
    client.ask("DATA", "354");
    client.ask(&format!("{SMALL}."), "45");
    client.quit();
    for recipient in ["bob@example.org", "joe@example.org"] {
        assert!(site.messages(recipient).is_empty());
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
fn a_full_disk_puts_mail_off_and_leaves_no_half_message() {
    let site = Site::new();
    let Some(disk) = SmallDisk::mount(&site.path("disk")) else {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    };
    let mail = disk.0.join("mail");
    let server = site.serve(&["--deliver", &format!("maildir:{}", mail.display())]);
    let mut client = Client::logged_in(&server);
    let large = format!("Subject: large\r\n\r\n{}", "0123456789abcdef\r\n".repeat(32 << 10));
    client.submit(large.trim_end(), "452 4.3.1");
    for part in ["tmp", "new"] {
        assert_eq!(crate::process::files(&mail.join(RECIPIENT).join(part)), Vec::<PathBuf>::new());
    }
    client.submit(SMALL, "250");
    client.quit();
    assert_eq!(crate::process::files(&mail.join(RECIPIENT).join("new")).len(), 1);
    server.stop(&site);
}
