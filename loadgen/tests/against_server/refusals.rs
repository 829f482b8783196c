//! Wrong words and servers that are not there.

use std::net::TcpListener;

use crate::process::{Site, generator};

#[test]
fn wrong_flags_are_refused_with_the_usual_exit_code_and_name_the_remedy() {
    for (wrong, remedy) in [
        (&["run", "127.0.0.1:1", "--scenario", "quick"][..], "qtls-resumed"),
        (&["run", "127.0.0.1:1", "--link", "fast"], "satellite"),
        (&["run", "127.0.0.1:1", "--size", "big"], "4k"),
        (&["run", "127.0.0.1:1", "--user", "ann"], "--password-file"),
        (&["run"], "<SERVER>"),
        (&["sink", "--rule", "mail"], "STAGE"),
        (&["compare", "--repeat", "0", "--", "true"], "1.."),
        (&["audit", "/"], "--acknowledged"),
    ] {
        let ended = generator(wrong);
        assert_eq!(ended.code, 64, "{wrong:?}: {ended:?}");
        assert!(ended.err.contains(remedy), "{wrong:?}: {}", ended.err);
    }
}

#[test]
fn a_server_that_is_not_there_ends_the_run_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ended = generator(&["run", &format!("127.0.0.1:{port}")]);
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.err.contains("cannot connect"), "{}", ended.err);
}

#[test]
fn a_missing_file_and_a_missing_process_are_told_by_name() {
    let site = Site::new();
    let ended = site.run_as(&["--users", "/nonexistent/users"], &[]);
    assert!(ended.code == 69 && ended.err.contains("/nonexistent/users"), "{ended:?}");
    let ended = site.run(&["--server-pid", "4000000000"]);
    assert!(ended.code == 69 && ended.err.contains("there is no process 4000000000"), "{ended:?}");
    let ended = generator(&["audit", "/nonexistent/mail", "--acknowledged", "/nonexistent/journal"]);
    assert!(ended.code == 69 && ended.err.contains("/nonexistent/journal"), "{ended:?}");
}
