//! Who is greeted when, where clients are made to wait (draft §12), and how long qhlo-ids are good.

use crate::process::client::{Client, qhlo_id};
use crate::process::{Server, Site};

/// The id of the next connection, from a greeting that was waited for.
fn id_of(server: &Server) -> String {
    let mut client = Client::connect(server.starttls);
    let id = qhlo_id(&client.expect("220"));
    client.quit();
    id
}

#[test]
fn a_client_that_speaks_before_the_greeting_is_refused() {
    let site = Site::new();
    let server = site.serve(&["--greet-pause", "60000"]);
    let mut client = Client::connect(server.starttls);
    client.say("EHLO client.example");
    client.expect("554 5.5.1");
    client.expect_end();
    assert_eq!(server.summary(client.address)["outcome"], "refused");
    server.stop(&site);
}

#[test]
fn a_client_with_the_right_id_is_greeted_while_others_wait_and_the_id_outlives_a_restart() {
    let site = Site::new();
    let server = site.serve(&["--greet-pause", "1000"]);
    let id = id_of(&server);
    server.stop(&site);
    let server = site.serve(&["--greet-pause", "60000"]);
    let mut silent = Client::connect(server.starttls);
    let mut known = Client::connect(server.starttls);
    known.say(&format!("QHLO client.example {id}"));
    known.expect("220");
    known.expect("220");
    known.quit();
    server.signal(libc::SIGTERM);
    // The first thing that it hears: it was not greeted yet.
    silent.expect("421 4.3.2");
    silent.expect_end();
    server.event("stopped");
}

#[test]
fn a_client_with_a_wrong_id_waits_but_is_not_refused() {
    let site = Site::new();
    let server = site.serve(&["--greet-pause", "1000"]);
    let mut client = Client::connect(server.starttls);
    client.say("QHLO client.example AAAAAAAAAAAAAAAA");
    let id = qhlo_id(&client.expect("220"));
    client.expect("520");
    client.ask(&format!("QHLO client.example {id}"), "220");
    client.quit();
    server.stop(&site);
}

#[test]
fn ids_stay_good_over_a_restart() {
    let site = Site::new();
    let server = site.serve(&[]);
    let id = id_of(&server);
    server.stop(&site);
    let server = site.serve(&[]);
    assert_eq!(id_of(&server), id);
    let mut client = Client::connect(server.starttls);
    client.say(&format!("QHLO client.example {id}"));
    client.expect("220");
    client.expect("220");
    client.quit();
    server.stop(&site);
}

#[test]
fn ids_are_forgotten_with_their_secret() {
    let site = Site::new();
    let server = site.serve(&[]);
    let id = id_of(&server);
    server.stop(&site);
    std::fs::remove_file(site.state().join("qhlo-secrets")).unwrap();
    let server = site.serve(&[]);
    let mut client = Client::connect(server.starttls);
    client.say(&format!("QHLO client.example {id}"));
    client.expect("220");
    client.expect("520");
    client.quit();
    server.stop(&site);
}
