//! Bounds on time, connections and descriptors: whoever meets one is told so, and nobody else notices.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::process::client::Client;
use crate::process::{PATIENCE, RECIPIENT, Server, Site};

/// Connects from another address of this host.
fn connect_from(address: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

// ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_silent_client_is_told_and_left() {
    let site = Site::new();
    let server = site.serve(&["--idle-timeout", "2"]);
    let mut clients = [Client::greeted(&server), Client::over_starttls(&server), Client::logged_in(&server)];
    for client in &mut clients {
        client.expect("421 4.4.2");
        client.expect_end();
        assert_eq!(server.summary(client.address)["outcome"], "timed_out");
    }
    drop(clients);
    server.stop(&site);
}

#[test]
fn a_client_that_falls_silent_within_a_message_has_sent_none() {
    let site = Site::new();
    let server = site.serve(&["--idle-timeout", "2"]);
    let mut client = Client::logged_in(&server);
    client.begin_message(RECIPIENT);
    client.say("Subject: never finished");
    client.expect("421 4.4.2");
    client.expect_end();
    drop(client);
    server.stop(&site);
    assert!(site.messages(RECIPIENT).is_empty());
}

#[test]
fn a_client_that_never_begins_tls_is_left() {
    let site = Site::new();
    let server = site.serve(&["--idle-timeout", "1"]);
    let client = Client::connect(server.tls);
    assert_eq!(server.summary(client.address)["outcome"], "timed_out");
    server.stop(&site);
}

#[test]
fn a_client_that_talks_without_logging_in_is_left() {
    let site = Site::new();
    let server = site.serve(&["--login-timeout", "1", "--commands-max", "100000000"]);
    let mut client = Client::over_tls(&server);
    let reply = (0..).find_map(|_| {
        client.say("NOOP");
        Some(client.reply()).filter(|reply| !reply.starts_with("250"))
    });
    assert!(reply.unwrap().starts_with("421 4.4.2"));
    server.stop(&site);
}

/// Says the same again and again, on a thread of its own, until the server hangs up.
fn pump(mut client: Client, piece: &'static [u8]) -> (SocketAddr, thread::JoinHandle<()>) {
    let address = client.address;
    (address, thread::spawn(move || while client.try_send(piece).is_ok() {}))
}

#[test]
fn a_client_that_never_stops_sending_is_left_when_its_time_is_over() {
    static LETTERS: [u8; 1 << 20] = [b'x'; 1 << 20];
    let site = Site::new();
    let server = site.serve(&["--login-timeout", "3", "--transaction-timeout", "1"]);
    // More than one, so that there is always more to read than the server has taken.
    let mut pumps: Vec<_> = (0..4).map(|_| pump(Client::greeted(&server), &LETTERS)).collect();
    let mut client = Client::logged_in(&server);
    client.begin_message(RECIPIENT);
    pumps.push(pump(client, &LETTERS));
    for (address, sending) in pumps {
        let summary = server.summary(address);
        assert_eq!(summary["outcome"], "timed_out", "{summary}");
        sending.join().unwrap();
    }
    server.stop(&site);
    assert!(site.messages(RECIPIENT).is_empty());
}

// ── Connections ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn one_connection_too_many_is_refused_and_the_others_are_served() {
    let site = Site::new();
    let server = site.serve(&["--connections-max", "2"]);
    let (first, mut second) = (Client::greeted(&server), Client::logged_in(&server));
    let mut third = Client::connect(server.starttls);
    third.expect("421 4.3.2");
    third.expect_end();
    assert_eq!(server.event("connection_refused")["bound"], "connections");
    Client::connect(server.tls).expect_end();
    second.submit("Subject: served\r\n", "250");
    let address = first.address;
    first.quit();
    server.summary(address);
    Client::greeted(&server).quit();
    second.quit();
    server.stop(&site);
}

#[test]
fn one_connection_too_many_from_one_address_is_refused_and_other_addresses_are_served() {
    let site = Site::new();
    let server = site.serve(&["--connections-per-address-max", "1"]);
    let first = Client::greeted(&server);
    let mut second = Client::connect(server.starttls);
    second.expect("421 4.7.0");
    second.expect_end();
    assert_eq!(server.event("connection_refused")["bound"], "connections_per_address");
    let other = connect_from([127, 0, 0, 2], server.starttls);
    Client::over(other).expect("220");
    let address = first.address;
    first.quit();
    server.summary(address);
    Client::greeted(&server).quit();
    server.stop(&site);
}

/// Stops the server's process, lets whoever `comes` wait for it for longer than [`BOUND`], and lets it go on.
fn while_stopped<T>(server: &Server, comes: impl FnOnce() -> T) -> T {
    server.signal(libc::SIGSTOP);
    let came = comes();
    let since = Instant::now();
    // How long they have waited is told by the kernel, so nothing but time makes it pass.
    while since.elapsed() < BOUND * 3 {
        thread::yield_now();
    }
    server.signal(libc::SIGCONT);
    came
}

const BOUND: Duration = Duration::from_millis(50);

#[test]
fn a_shard_that_is_late_for_a_while_turns_new_clients_away_until_it_has_caught_up_and_serves_those_inside() {
    let site = Site::new();
    let server = site.serve(&["--lateness-max", &BOUND.as_millis().to_string()]);
    let mut inside = Client::logged_in(&server);
    let turned_away = (0..100).find_map(|_| {
        let mut client = while_stopped(&server, || {
            inside.say("NOOP");
            Client::connect(server.starttls)
        });
        inside.expect("250");
        Some(client.reply()).filter(|reply| !reply.starts_with("220")).map(|reply| (client, reply))
    });
    let (mut client, reply) = turned_away.unwrap();
    assert!(reply.starts_with("421 4.3.2 Too busy"), "{reply}");
    client.expect_end();
    let told = server.event("shard_late");
    assert!(told["lateness_us"].as_u64() >= Some(50_000) && told["turned_away"] == 1, "{told}");
    while_stopped(&server, || Client::connect(server.tls)).expect_end();
    inside.submit("Subject: served\r\n", "250");
    assert!((0..).any(|_| Client::connect(server.starttls).reply().starts_with("220")), "it catches up");
    inside.quit();
    server.stop(&site);
}

#[test]
fn without_a_bound_on_lateness_everybody_is_let_in_however_late_it_is() {
    let site = Site::new();
    let server = site.serve(&["--lateness-max", "0"]);
    for _ in 0..3 {
        let mut waiting = while_stopped(&server, || Client::connect(server.starttls));
        waiting.expect("220");
        waiting.quit();
    }
    server.stop(&site);
}

#[test]
fn connections_are_spread_over_the_shards() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: there is one core only");
        return;
    }
    let site = Site::new();
    let server = site.serve(&["--shards", "2", "--cores", "0,1"]);
    let shards: Vec<_> = (0..32)
        .map(|_| {
            let client = Client::greeted(&server);
            let address = client.address;
            client.quit();
            server.summary(address)["shard"].as_u64()
        })
        .collect();
    assert!(shards.contains(&Some(0)) && shards.contains(&Some(1)), "{shards:?}");
    server.stop(&site);
}

// ── Descriptors ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Sets the soft limit of open files of a running server; returns the one before.
fn limit_descriptors(server: &Server, descriptors: u64) -> u64 {
    let process = i32::try_from(server.process()).unwrap();
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the right type that lives until the call returns.
    let read = unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) };
    let wanted = libc::rlimit { rlim_cur: descriptors, ..before };
    // SAFETY: as above.
    let written = unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, &raw const wanted, std::ptr::null_mut()) };
    assert_eq!((read, written), (0, 0));
    before.rlim_cur
}

fn descriptors_in_use(server: &Server) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", server.process())).unwrap().count() as u64
}

#[test]
fn a_server_without_descriptors_lives_and_serves_again_when_there_are_some() {
    let site = Site::new();
    let server = site.serve(&["--retry-min", "1"]);
    let mut open = Client::logged_in(&server);
    let before = limit_descriptors(&server, descriptors_in_use(&server));
    // The accept that is under way was given its limit before.
    let last = Client::connect(server.starttls);
    server.event("accept_paused");
    let mut waiting = Client::connect(server.starttls);
    open.ask("NOOP", "250");
    // It may still go into a file of the spool that is open.
    let early = open.submit("Subject: no file can be opened\r\n", "").starts_with("250");
    limit_descriptors(&server, before);
    waiting.expect("220");
    open.submit("Subject: now it can\r\n", "250");
    let expected = 1 + usize::from(early);
    assert_eq!(site.arrived(RECIPIENT, expected).len(), expected);
    waiting.quit();
    drop(last);
    open.quit();
    server.stop(&site);
}

#[test]
fn few_descriptors_from_the_start_bound_the_connections() {
    let prlimit = || Command::new("prlimit");
    if prlimit().arg("--version").output().is_err() {
        eprintln!("skipped: prlimit is not installed (apt-get install util-linux)");
        return;
    }
    let site = Site::new();
    let command = site.command(&[]);
    let mut limited = prlimit();
    limited.args(["--nofile=320:320", "--"]).arg(command.get_program()).args(command.get_args());
    limited.stdout(Stdio::null()).stderr(Stdio::piped());
    let server = Server::start(limited, &site);
    let warning = server.wait_for("open files", |event| event["subject"] == "open files");
    let clients: Vec<_> = (0..room(&warning)).map(|_| Client::greeted(&server)).collect();
    let mut refused = Client::connect(server.starttls);
    refused.expect("421 4.3.2");
    refused.expect_end();
    drop(clients);
    server.stop(&site);
}

/// For how many connections there is room, as the warning says.
fn room(warning: &Value) -> usize {
    let words = warning["consequence"].as_str().unwrap();
    words.split_once("room for ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

// ── Clients that misbehave ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_client_that_never_reads_holds_up_nobody() {
    let site = Site::new();
    let server = site.serve(&["--idle-timeout", "2", "--commands-max", "1000000"]);
    let mut deaf = Client::connect(server.starttls);
    let address = deaf.address;
    let flood = thread::spawn(move || {
        let commands = "EHLO client.example\r\n".repeat(1_000);
        while deaf.try_send(commands.as_bytes()).is_ok() {}
    });
    let mut client = Client::logged_in(&server);
    client.submit("Subject: in time\r\n", "250");
    client.quit();
    let summary = server.summary(address);
    assert_eq!(summary["outcome"], "timed_out", "{summary}");
    flood.join().unwrap();
    server.stop(&site);
}

#[test]
fn half_a_command_and_the_end_harm_nobody() {
    let site = Site::new();
    let server = site.serve(&[]);
    for client in [Client::greeted(&server), Client::logged_in(&server)] {
        let mut client = client;
        client.send("MAIL FR");
        let summary = server.summary(client.close());
        assert_eq!((&summary["outcome"], &summary["errors"]), (&"client_closed".into(), &0.into()), "{summary}");
    }
    server.stop(&site);
}

#[test]
fn a_client_that_closes_within_a_message_has_sent_none() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut data = Client::logged_in(&server);
    data.begin_message(RECIPIENT);
    data.send("Subject: half\r\n\r\nno end\r\n");
    let mut chunks = Client::logged_in(&server);
    chunks.send("MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nBDAT 100 LAST\r\nSubject: half\r\n");
    let mut between = Client::logged_in(&server);
    between.send("MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nBDAT 4\r\nA: \r");
    for _ in 0..3 {
        between.expect("250");
    }
    for client in [data, chunks, between] {
        assert_eq!(server.summary(client.close())["messages"], 0);
    }
    server.stop(&site);
    assert!(site.messages(RECIPIENT).is_empty());
}

#[test]
fn a_client_that_stops_sending_still_gets_its_replies() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::greeted(&server);
    client.send("NOOP\r\nNOOP\r\nQUIT\r\n");
    client.stop_sending();
    for code in ["250", "250", "221"] {
        client.expect(code);
    }
    client.expect_end();
    server.stop(&site);
}
