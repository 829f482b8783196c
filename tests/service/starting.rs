//! What keeps a server from starting: one line, which names the remedy, the right exit code, and nothing left behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use onetrip::time::Now;
use onetrip::tls::certificate::SelfSigned;

use crate::process::{HOSTNAME, Site, refusal};

const UNAVAILABLE: i32 = 69;
const DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const NO_PERMISSION: i32 = 77;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server with these flags does not start in a new site, and leaves no trace there.
fn assert_refused(flags: &[&str], exit: i32, words: &[&str]) {
    let site = Site::empty();
    let (code, line) = site.serve_refused(flags);
    assert_eq!(code, exit, "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    assert!(!site.state().exists(), "a state directory was left behind");
}

#[test]
fn a_missing_certificate_is_named() {
    let site = Site::empty();
    let made = SelfSigned::new(HOSTNAME, Now::simulated_ms(0)).unwrap();
    let (missing, key) = (site.path("missing.pem"), site.write("key.pem", made.key));
    assert_refused(
        &["--tls-cert", text(&missing), "--tls-key", text(&key)],
        NO_INPUT,
        &[text(&missing), "check the path"],
    );
}

#[test]
fn a_file_that_is_no_certificate_is_named() {
    let site = Site::empty();
    let made = SelfSigned::new(HOSTNAME, Now::simulated_ms(0)).unwrap();
    let (certificate, key) = (site.write("cert.pem", "nonsense"), site.write("key.pem", made.key));
    assert_refused(&["--tls-cert", text(&certificate), "--tls-key", text(&key)], DATA, &[text(&certificate)]);
}

#[test]
fn a_key_that_belongs_to_another_certificate_is_named() {
    let site = Site::empty();
    let made = || SelfSigned::new(HOSTNAME, Now::simulated_ms(0)).unwrap();
    let (certificate, key) = (site.write("cert.pem", made().certificate), site.write("key.pem", made().key));
    assert_refused(&["--tls-cert", text(&certificate), "--tls-key", text(&key)], DATA, &[text(&key)]);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    for flag in ["--listen", "--listen-tls", "--metrics"] {
        assert_refused(&[flag, &address], UNAVAILABLE, &[&address, flag]);
    }
}

#[test]
fn a_port_of_another_onetrip_is_in_use_too() {
    let site = Site::new();
    let server = site.serve(&[]);
    let address = server.starttls.to_string();
    assert_refused(&["--listen", &address], UNAVAILABLE, &[&address, "--listen"]);
    server.stop(&site);
}

#[test]
fn an_address_of_another_host_is_named() {
    assert_refused(&["--listen", "192.0.2.1:0"], UNAVAILABLE, &["192.0.2.1:0", "--listen"]);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let site = Site::empty();
    let file = site.write("file", "");
    let below = file.join("state");
    for path in [file.as_path(), &below] {
        let (code, line) = site.serve_refused(&["--state-dir", text(path)]);
        assert!((70..=77).contains(&code), "{code} {line}");
        assert!(line.contains(text(&file)), "{line}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"", "the file is as it was");
}

#[test]
fn a_state_directory_that_may_not_be_written_is_named_with_what_to_do() {
    const NOBODY: u32 = 65_534;
    let site = Site::empty();
    let locked = site.path("locked");
    fs::create_dir(&locked).unwrap();
    let state = locked.join("state");
    let mut command = site.command(&["--state-dir", text(&state)]);
    // SAFETY: the call has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        // Modes mean nothing to root.
        command.uid(NOBODY);
    } else {
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    }
    match command.output() {
        Err(error) => eprintln!("skipped: another user cannot run the program here ({error})"),
        Ok(_) => {
            let (code, line) = refusal(command);
            assert_eq!(code, NO_PERMISSION, "{line}");
            assert!(line.contains(text(&locked)) && line.contains("--state-dir"), "{line}");
        }
    }
}

#[test]
fn a_second_server_on_the_same_state_directory_is_told_who_has_it() {
    let site = Site::new();
    let server = site.serve(&[]);
    let (code, line) = site.serve_refused(&[]);
    assert_eq!(code, UNAVAILABLE, "{line}");
    assert!(line.contains(text(&site.state())), "{line}");
    assert!(line.contains(&server.process().to_string()), "{line}");
    server.stop(&site);
}

#[test]
fn a_damaged_users_file_is_named_with_its_line_and_left_as_it_is() {
    let site = Site::new();
    let users = site.state().join("users");
    let damaged = format!("{}bob\n", fs::read_to_string(&users).unwrap());
    fs::write(&users, &damaged).unwrap();
    let (code, line) = refusal(site.command(&[]));
    assert_eq!(code, DATA, "{line}");
    assert!(line.contains(text(&users)) && line.contains("line 2"), "{line}");
    assert_eq!(fs::read_to_string(&users).unwrap(), damaged);
    site.assert_nothing_left_behind();
}

#[test]
fn a_server_that_could_not_start_starts_when_the_cause_is_gone() {
    let site = Site::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    site.serve_refused(&["--listen", &address]);
    drop(other);
    let server = site.serve(&["--listen", &address]);
    assert_eq!(server.starttls.to_string(), address);
    server.stop(&site);
}
