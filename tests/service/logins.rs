//! Passwords that are wrong, and senders that are somebody else's.

use std::time::{Duration, Instant};

use crate::process::client::{Client, auth};
use crate::process::{PASSWORD, Site, USER};

#[test]
fn a_wrong_password_is_denied_and_slowed() {
    let site = Site::new();
    let server = site.serve(&["--auth-failure-delay", "300"]);
    let mut client = Client::over_starttls(&server);
    let start = Instant::now();
    client.ask(&auth(USER, "wrong"), "535 5.7.8");
    assert!(start.elapsed() >= Duration::from_millis(300));
    let failed = server.event("auth_failed");
    assert_eq!((&failed["user"], &failed["client"]), (&USER.into(), &client.address.to_string().into()));
    client.quit();
    server.stop(&site);
}

#[test]
fn waiting_for_a_denial_holds_up_nobody() {
    let site = Site::new();
    let mut server = site.serve(&["--auth-failure-delay", "15000"]);
    let mut slowed = Client::over_tls(&server);
    slowed.say(&auth(USER, "wrong"));
    server.event("auth_failed");
    Client::logged_in(&server).quit();
    server.signal(libc::SIGTERM);
    server.event("draining");
    server.signal(libc::SIGTERM);
    assert_eq!(server.ended().code(), Some(0), "nor does it hold up the end");
}

#[test]
fn too_many_failures_put_off_even_the_right_password_and_other_users_are_served() {
    let site = Site::new();
    site.add_user("bob", "hunter2", &[]);
    let server = site.serve(&["--auth-failures-max", "2"]);
    for _ in 0..2 {
        Client::over_tls(&server).ask(&auth(USER, "wrong"), "535 5.7.8");
    }
    Client::over_tls(&server).ask(&auth(USER, PASSWORD), "454 4.7.0");
    Client::over_tls(&server).ask(&auth("bob", "hunter2"), "454 4.7.0");
    assert_eq!(server.event("auth_put_off")["user"], USER);
    server.stop(&site);
}

#[test]
fn a_user_may_be_held_to_senders() {
    let site = Site::empty();
    site.add_user(USER, PASSWORD, &["ann@example.org", "@example.net"]);
    let server = site.serve(&["--enforce-sender", "on"]);
    let mut client = Client::logged_in(&server);
    client.ask("MAIL FROM:<bob@example.org>", "550 5.7.1");
    let refused = server.event("message_refused");
    assert_eq!((&refused["user"], &refused["reply_code"]), (&USER.into(), &550.into()), "{refused}");
    for sender in ["ann@example.org", "anybody@example.net"] {
        client.ask(&format!("MAIL FROM:<{sender}>"), "250");
        client.ask("RSET", "250");
    }
    client.quit();
    server.stop(&site);
}

#[test]
fn without_enforcement_any_sender_may_be_named() {
    let site = Site::empty();
    site.add_user(USER, PASSWORD, &["ann@example.org"]);
    let server = site.serve(&[]);
    let mut client = Client::logged_in(&server);
    client.ask("MAIL FROM:<bob@example.org>", "250");
    client.quit();
    server.stop(&site);
}
