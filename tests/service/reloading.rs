//! What changes while the server runs: certificates and users.

use std::collections::BTreeSet;
use std::fs;

use data_encoding::BASE64;
use onetrip::time::Now;
use onetrip::tls::certificate::SelfSigned;

use crate::process::client::{Client, auth};
use crate::process::{HOSTNAME, PASSWORD, RECIPIENT, Server, Site, USER};

/// The site's certificate and key files.
struct Files<'a>(&'a Site);

impl Files<'_> {
    /// Puts a new certificate in place, and returns it as clients see it.
    fn renew(&self) -> Vec<u8> {
        let made = SelfSigned::new(HOSTNAME, Now::simulated_ms(0)).unwrap();
        self.0.write("key.pem", &made.key);
        let path = self.0.write("cert.pem", &made.certificate);
        let text = fs::read_to_string(path).unwrap();
        BASE64.decode(text.lines().filter(|line| !line.starts_with('-')).collect::<String>().as_bytes()).unwrap()
    }

    fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    fn serve_with(&self, flags: &[&str]) -> Server {
        let (certificate, key) = (self.0.path("cert.pem"), self.0.path("key.pem"));
        let files = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        self.0.serve(&[&files, flags].concat())
    }
}

#[test]
fn a_new_certificate_is_shown_from_the_next_handshake_on_and_open_connections_stay() {
    let site = Site::new();
    let files = Files(&site);
    let old = files.renew();
    let server = files.serve();
    let mut open = Client::logged_in(&server);
    assert_eq!(open.certificate(), old);
    let new = files.renew();
    assert_eq!(Client::over_tls(&server).certificate(), old, "not before the signal");
    server.signal(libc::SIGHUP);
    server.event("certificate_reloaded");
    assert_eq!(Client::over_tls(&server).certificate(), new);
    assert_eq!(Client::over_starttls(&server).certificate(), new);
    open.submit("Subject: still here\r\n", "250");
    open.quit();
    server.stop(&site);
}

#[test]
fn after_a_reload_every_shard_shows_the_new_certificate() {
    let site = Site::new();
    let files = Files(&site);
    files.renew();
    let server = files.serve_with(&["--shards", "2"]);
    let new = files.renew();
    server.signal(libc::SIGHUP);
    server.event("certificate_reloaded");
    let mut shards = BTreeSet::new();
    for _ in 0..VISITS {
        let client = Client::over_tls(&server);
        let (address, shown) = (client.address, client.certificate());
        client.quit();
        let shard = server.summary(address)["shard"].as_u64().unwrap();
        assert_eq!(shown, new, "on shard {shard}");
        shards.insert(shard);
    }
    assert_eq!(shards.len(), 2, "the system spreads {VISITS} connections over both shards");
    server.stop(&site);
}

/// So many that each shard gets some.
const VISITS: usize = 40;

#[test]
fn a_broken_new_certificate_leaves_the_old_one_in_force() {
    let site = Site::new();
    let files = Files(&site);
    let old = files.renew();
    let server = files.serve();
    site.write("cert.pem", "nonsense");
    server.signal(libc::SIGHUP);
    let failed = server.event("certificate_reload_failed");
    assert!(failed["reason"].as_str().unwrap().contains("cert.pem"), "{failed}");
    assert_eq!(Client::over_tls(&server).certificate(), old);
    server.stop(&site);
}

/// Changes the users and waits until the server has noticed.
fn change_users(server: &Server, change: impl FnOnce()) {
    let before = server.events("users_reloaded").len();
    change();
    server.signal(libc::SIGHUP);
    server.wait_for_events("users_reloaded", before + 1);
}

#[test]
fn an_added_user_can_log_in_without_a_restart() {
    let site = Site::new();
    let server = site.serve(&[]);
    Client::over_tls(&server).ask(&auth("bob", "hunter2"), "535");
    change_users(&server, || site.add_user("bob", "hunter2", &[]));
    Client::over_tls(&server).ask(&auth("bob", "hunter2"), "235");
    server.stop(&site);
}

#[test]
fn a_removed_user_cannot_log_in_although_remembered() {
    let site = Site::new();
    let server = site.serve(&[]);
    Client::logged_in(&server).quit();
    Client::logged_in(&server).quit();
    change_users(&server, || site.remove_user(USER));
    Client::over_tls(&server).ask(&auth(USER, PASSWORD), "535");
    server.stop(&site);
}

#[test]
fn a_changed_password_replaces_the_one_that_was_remembered() {
    let site = Site::new();
    let server = site.serve(&[]);
    Client::logged_in(&server).quit();
    change_users(&server, || site.add_user(USER, "another", &[]));
    Client::over_tls(&server).ask(&auth(USER, PASSWORD), "535");
    Client::over_tls(&server).ask(&auth(USER, "another"), "235");
    server.stop(&site);
}

#[test]
fn a_users_file_that_becomes_damaged_leaves_the_old_users() {
    let site = Site::new();
    let server = site.serve(&[]);
    fs::write(site.state().join("users"), "nonsense\n").unwrap();
    server.signal(libc::SIGHUP);
    server.event("users_reload_failed");
    let mut client = Client::logged_in(&server);
    client.submit("Subject: one\r\n", "250");
    assert_eq!(site.arrived(RECIPIENT, 1).len(), 1);
    client.quit();
    server.stop(&site);
}
