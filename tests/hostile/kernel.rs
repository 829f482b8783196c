//! A kernel that has no memory left, or no ring: what becomes of the shard, and of its clients.
//!
//! `strace` puts the kernel's answers into the place of its own.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;

use crate::process::client::Client;
use crate::process::{RECIPIENT, SENDER, Server, Site};

/// A server to which the kernel answers `error` at these calls of io_uring_enter, counted for each thread apart. `None` where
/// `strace` is not installed.
fn serve_where_entering(site: &Site, error: &str, calls: &str, flags: &[&str]) -> Option<Server> {
    let is_there = Command::new("strace").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_there {
        eprintln!("skipped: strace is not installed");
        return None;
    }
    let served = site.command(&[flags, &["--deliver", "discard", "--sync", "none"]].concat());
    let mut command = Command::new("strace");
    // The tracer is the child: the process that the test started is the server, and so is what it ends with.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
    command.args(["-e", "trace=io_uring_enter", "-e", &format!("inject=io_uring_enter:error={error}:when={calls}")]);
    command.arg(served.get_program()).args(served.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Some(Server::start(command, site))
}

/// Keeps a shard awake until it has failed. A client whose shard is gone may hear nothing until the whole server is, so it is
/// not waited for.
fn until_it_fails(server: &Server) {
    let mut client = Client::greeted(server);
    thread::spawn(move || while client.try_send(b"NOOP\r\n").and_then(|()| client.try_reply()).is_ok() {});
    server.event("shard_failed");
    server.event("draining");
}

/// What the kernel tells of the rings of a server.
fn rings(server: &Server) -> Vec<String> {
    let process = format!("/proc/{}", server.process());
    let numbers = fs::read_dir(format!("{process}/fd")).unwrap().map(|entry| entry.unwrap());
    let rings = numbers.filter(|number| {
        fs::read_link(number.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:[io_uring]")
    });
    rings.map(|ring| fs::read_to_string(format!("{process}/fdinfo/{}", ring.file_name().display())).unwrap()).collect()
}

#[test]
fn the_ring_on_which_clients_are_waited_for_has_room_for_a_crowd() {
    let site = Site::new();
    let server = site.serve(&[]);
    let clients: Vec<Client> = (0..50).map(|_| Client::greeted(&server)).collect();
    let rings = rings(&server);
    let polled = rings.iter().find(|ring| ring.matches("op=6,").count() >= clients.len());
    let Some(polled) = polled else {
        return eprintln!("skipped: this kernel does not tell what is polled on a ring");
    };
    let mask = polled.lines().find_map(|line| line.strip_prefix("CqMask:")).expect("the size of a ring").trim();
    let mask = u32::from_str_radix(mask.trim_start_matches("0x"), 16).unwrap();
    assert!(mask >= 16_383, "{polled}");
    clients.into_iter().for_each(Client::quit);
    server.stop(&site);
}

#[test]
fn a_shard_whose_ring_lost_something_lets_its_clients_finish_and_the_server_ends() {
    let site = Site::new();
    let Some(mut server) = serve_where_entering(&site, "EBADR", "200", &[]) else { return };
    let client = begun(Client::logged_in(&server));
    until_it_fails(&server);
    assert!(is_finished(client));
    let status = server.ended();
    let failed = server.events("shard_failed");
    assert_eq!((status.code(), failed.len()), (Some(70), 1), "{}", server.log_text());
    assert_eq!(failed[0]["shard"], 0);
    assert!(failed[0]["reason"].as_str().unwrap().contains("is lost"), "{failed:?}");
    assert_eq!(server.events("stopped")[0]["connections_cut"], 0);
    assert!(!server.log_text().contains("panicked"), "{}", server.log_text());
}

#[test]
fn a_kernel_that_has_no_memory_now_and_then_is_asked_again_and_nobody_notices() {
    let site = Site::new();
    for error in ["EAGAIN", "ENOMEM"] {
        // Of a thread that makes no other calls, no two that follow each other.
        let Some(server) = serve_where_entering(&site, error, "20+2", &[]) else { return };
        for _ in 0..3 {
            let mut client = Client::logged_in(&server);
            client.submit("Subject: patient\r\n\r\nHello", "250");
            client.quit();
        }
        assert!(server.events("shard_failed").is_empty());
        server.stop(&site);
    }
}

#[test]
fn a_shard_that_panics_ends_the_server_and_the_clients_of_others_finish() {
    let site = Site::new();
    let Some(mut server) =
        serve_where_entering(&site, "EBADF", "12000", &["--shards", "2", "--commands-max", "100000"])
    else {
        return;
    };
    // The kernel spreads them over both shards.
    let others: Vec<Client> = (0..16).map(|_| Client::logged_in(&server)).collect();
    let others: Vec<Client> = others.into_iter().map(begun).collect();
    until_it_fails(&server);
    for _ in 0..16 {
        // The other shard greets them, turns them away, or has closed its listeners. This one would say nothing.
        let Ok(stream) = TcpStream::connect(server.starttls) else { continue };
        let silence = Client::over(stream).try_reply().err().filter(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(silence.is_none(), "a new client waits for a shard that is gone");
    }
    let finished = thread::scope(|scope| {
        let others: Vec<_> = others.into_iter().map(|other| scope.spawn(|| is_finished(other))).collect();
        others.into_iter().map(|other| usize::from(other.join().unwrap())).sum::<usize>()
    });
    let status = server.ended();
    let failed = server.events("shard_failed");
    assert_eq!((status.code(), failed.len()), (Some(70), 1), "{}", server.log_text());
    assert!(failed[0]["reason"].as_str().unwrap().contains("Bad file descriptor"), "{failed:?}");
    assert!((1..16).contains(&finished), "{finished} of 16 have finished");
}

/// The client is in the middle of a transaction.
fn begun(mut client: Client) -> Client {
    client.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
    client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
    client
}

/// May the client finish its transaction?
fn is_finished(mut client: Client) -> bool {
    let said = client.try_send(b"BDAT 4 LAST\r\nabcd");
    said.is_ok() && client.try_reply().is_ok_and(|reply| reply.starts_with("250"))
}
