//! A server takes the place of another: nobody who connects is refused or reset, nothing that was acknowledged is lost, and
//! nothing is stored twice.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crate::process::client::{Client, auth};
use crate::process::{PASSWORD, PATIENCE, RECIPIENT, SENDER, Server, Site, USER};

/// Flags for a server in the place of this one.
fn same_place(server: &Server) -> [String; 6] {
    let [starttls, tls] = [server.starttls, server.tls].map(|address| address.to_string());
    ["--listen".to_owned(), starttls, "--listen-tls".to_owned(), tls, "--takeover".to_owned(), "on".to_owned()]
}

/// Starts a server that takes over from this one, and returns when it is ready and the other is gone.
fn take_over(site: &Site, mut old: Server, flags: &[&str]) -> Server {
    let place = same_place(&old);
    let flags: Vec<&str> = place.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let new = site.serve(&flags);
    assert_eq!(old.ended().code(), Some(0));
    assert_eq!(old.event("stopped")["connections_cut"], 0);
    new
}

// ── Load ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Clients that submit one message after the other, each on a connection of its own, until they are told to stop.
struct Load {
    is_over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn begin(server: &Server) -> Self {
        let (is_over, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = [(server.starttls, false), (server.tls, true), (server.starttls, false), (server.tls, true)];
        let clients = clients.into_iter().enumerate().map(|(number, (address, is_tls))| {
            let (is_over, acknowledged) = (Arc::clone(&is_over), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let mut tokens = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let token = format!("client{number}-message{}", tokens.len());
                    // Turned away, it comes again with the same message.
                    while submit(address, is_tls, &token).is_err() {}
                    tokens.push(token);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                tokens
            })
        });
        let clients = clients.collect();
        Self { is_over, clients, acknowledged }
    }

    /// Waits until some more messages are acknowledged.
    fn go_on(&self) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + 12;
        while self.acknowledged.load(Ordering::Relaxed) < enough {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client has lost its connection");
            thread::yield_now();
        }
    }

    /// The tokens of all messages that were acknowledged.
    fn end(self) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        let tokens = self.clients.into_iter().map(|client| client.join().expect("no connection was lost"));
        tokens.flatten().collect()
    }
}

/// The server has said that it stops, and asks to come again.
struct TurnedAway;

/// Submits a message. Whatever else than a proper reply happens to the connection is a failure of the test.
fn submit(address: SocketAddr, is_tls: bool, token: &str) -> Result<(), TurnedAway> {
    let mut client = Client::connect(address);
    if is_tls {
        client.secure();
    }
    take(&mut client, "220")?;
    if !is_tls {
        ask(&mut client, "EHLO client.example", "250")?;
        ask(&mut client, "STARTTLS", "220")?;
        client.secure();
    }
    ask(&mut client, "EHLO client.example", "250")?;
    ask(&mut client, &auth(USER, PASSWORD), "235")?;
    ask(&mut client, &format!("MAIL FROM:<{SENDER}> XONCE={token}"), "250")?;
    ask(&mut client, &format!("RCPT TO:<{RECIPIENT}>"), "250")?;
    ask(&mut client, "DATA", "354")?;
    ask(&mut client, &format!("Subject: {token}\r\n\r\ntext\r\n."), "250")?;
    // It may be told that the server stops instead; the message is acknowledged.
    let _ = ask(&mut client, "QUIT", "221");
    Ok(())
}

fn ask(client: &mut Client, line: &str, reply: &str) -> Result<(), TurnedAway> {
    client.say(line);
    take(client, reply)
}

fn take(client: &mut Client, reply: &str) -> Result<(), TurnedAway> {
    let said = client.reply();
    if said.starts_with("421 4.3.2") {
        client.expect_end();
        return Err(TurnedAway);
    }
    assert!(said.starts_with(reply), "expected {reply}, got {said}");
    Ok(())
}

/// Is each message of these there exactly once, and no other one twice?
fn assert_stored_once(site: &Site, acknowledged: &[String]) {
    let mut stored = BTreeMap::new();
    for message in site.arrived(RECIPIENT, acknowledged.len()) {
        let text = String::from_utf8(message).unwrap();
        let token = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned();
        *stored.entry(token).or_insert(0) += 1;
    }
    assert!(stored.values().all(|times| *times == 1), "stored twice: {stored:?}");
    for token in acknowledged {
        assert!(stored.contains_key(token), "{token} was acknowledged and is lost");
    }
}

// ── A server that takes over ────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn restarts_under_load_lose_no_connection_and_no_message_and_store_none_twice() {
    let site = Site::new();
    let mut server = site.serve(&["--shards", "2"]);
    let load = Load::begin(&server);
    for _ in 0..4 {
        load.go_on();
        server = take_over(&site, server, &["--shards", "2"]);
        assert_eq!(server.event("taking_over")["sockets"], 4);
        server.event("took_over");
    }
    load.go_on();
    let acknowledged = load.end();
    server.stop(&site);
    assert_stored_once(&site, &acknowledged);
}

#[test]
fn a_server_with_another_number_of_shards_takes_over_too() {
    let site = Site::new();
    let mut server = site.serve(&["--shards", "2"]);
    let load = Load::begin(&server);
    for shards in ["1", "3"] {
        load.go_on();
        server = take_over(&site, server, &["--shards", shards]);
    }
    load.go_on();
    let acknowledged = load.end();
    server.stop(&site);
    assert_stored_once(&site, &acknowledged);
}

#[test]
fn who_connects_during_a_transaction_of_the_old_server_is_greeted_by_the_new_one() {
    let site = Site::new();
    let mut old = site.serve(&[]);
    let mut client = Client::logged_in(&old);
    client.begin_message(RECIPIENT);
    let mut idle = Client::logged_in(&old);
    let place = same_place(&old);
    let flags: Vec<&str> = place.iter().map(String::as_str).collect();
    let command = site.command(&flags);
    thread::scope(|scope| {
        let new = scope.spawn(|| Server::start(command, &site));
        // Its shard accepts nobody from then on.
        idle.expect("421 4.3.2");
        assert_eq!(old.event("handed_over")["sockets"], 2);
        let mut waiting = Client::connect(old.starttls);
        client.ask("Subject: one\r\n\r\none\r\n.", "250");
        client.expect("421 4.3.2");
        client.expect_end();
        drop(client);
        waiting.expect("220");
        let new = new.join().unwrap();
        waiting.ask("QUIT", "221");
        assert_eq!(old.ended().code(), Some(0));
        new.stop(&site);
    });
    assert_eq!(site.messages(RECIPIENT).len(), 1);
}

#[test]
fn a_handshake_under_way_ends_with_words_and_holds_up_nobody() {
    let site = Site::new();
    let old = site.serve(&[]);
    // The server has accepted it, and has heard nothing of it yet.
    let mut client = Client::connect(old.tls);
    let mut other = Client::over_tls(&old);
    let new = thread::scope(|scope| {
        let new = scope.spawn(|| {
            let place = same_place(&old);
            site.serve(&place.iter().map(String::as_str).collect::<Vec<_>>())
        });
        other.expect("421 4.3.2");
        client.secure();
        client.expect("220");
        client.expect("421 4.3.2");
        client.expect_end();
        new.join().unwrap()
    });
    new.stop(&site);
}

#[test]
fn a_server_that_cannot_serve_leaves_the_running_one_alone() {
    let site = Site::new();
    let old = site.serve(&[]);
    let broken = site.write("broken.pem", "no certificate");
    let place = same_place(&old);
    let mut flags: Vec<&str> = place.iter().map(String::as_str).collect();
    flags.extend(["--tls-cert", broken.to_str().unwrap(), "--tls-key", broken.to_str().unwrap()]);
    let (exit, _) = site.serve_refused(&flags);
    assert_eq!(exit, 65);
    Client::logged_in(&old).quit();
    assert!(old.events("handed_over").is_empty());
    old.stop(&site);
}

#[test]
fn without_takeover_a_second_server_is_refused_and_where_none_runs_takeover_changes_nothing() {
    let site = Site::new();
    let server = site.serve(&["--takeover", "on"]);
    assert!(server.events("taking_over").is_empty());
    let (exit, line) = site.serve_refused(&[]);
    assert_eq!(exit, 69);
    assert!(line.contains("already serves from"), "{line}");
    server.stop(&site);
}

#[test]
fn a_server_that_takes_over_from_one_that_stops_waits_for_its_end() {
    let site = Site::new();
    let mut old = site.serve(&[]);
    let mut client = Client::logged_in(&old);
    client.begin_message(RECIPIENT);
    old.signal(libc::SIGTERM);
    old.event("draining");
    let command = site.command(&["--takeover", "on"]);
    thread::scope(|scope| {
        let new = scope.spawn(|| Server::start(command, &site));
        client.ask("Subject: one\r\n\r\none\r\n.", "250");
        drop(client);
        let new = new.join().unwrap();
        assert_eq!(old.ended().code(), Some(0));
        new.stop(&site);
    });
}

// ── A service manager that keeps the sockets ────────────────────────────────────────────────────────────────────────────

/// Sockets as a service manager keeps them: one for each address, of which the server knows nothing but the number.
struct Manager {
    sockets: [TcpListener; 2],
}

impl Manager {
    fn new() -> Self {
        Self { sockets: [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap()) }
    }

    fn addresses(&self) -> [String; 2] {
        self.sockets.each_ref().map(|socket| socket.local_addr().unwrap().to_string())
    }

    /// The server with the sockets as descriptors 3 and 4.
    fn command(&self, site: &Site, flags: &[&str]) -> Command {
        let plain = site.command(flags);
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\""]).arg(plain.get_program());
        command.args(plain.get_args());
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        let sockets = self.sockets.each_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: between fork and exec only descriptors are copied, which needs no memory and no lock.
        unsafe { command.pre_exec(move || pass_on(sockets)) };
        command
    }

    fn serve(&self, site: &Site) -> Server {
        let [starttls, tls] = self.addresses();
        let flags = ["--listen", &starttls, "--listen-tls", &tls, "--shards", "2"];
        Server::start(self.command(site, &flags), site)
    }
}

fn pass_on(sockets: [RawFd; 2]) -> std::io::Result<()> {
    let mut twins = [0; 2];
    for (twin, socket) in twins.iter_mut().zip(sockets) {
        // SAFETY: the descriptor is open; the copy is above those that are given away.
        *twin = unsafe { libc::fcntl(socket, libc::F_DUPFD_CLOEXEC, 10) };
    }
    for (twin, place) in twins.into_iter().zip(3..) {
        // SAFETY: both are descriptors of this process, which is about to become another program.
        if unsafe { libc::dup2(twin, place) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[test]
fn with_the_sockets_of_a_manager_stops_and_starts_under_load_lose_nothing_either() {
    let site = Site::new();
    let manager = Manager::new();
    let mut server = manager.serve(&site);
    let load = Load::begin(&server);
    for _ in 0..3 {
        load.go_on();
        server.signal(libc::SIGTERM);
        assert_eq!(server.ended().code(), Some(0));
        assert_eq!(server.event("stopped")["connections_cut"], 0);
        server = manager.serve(&site);
    }
    load.go_on();
    let acknowledged = load.end();
    server.signal(libc::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    assert_stored_once(&site, &acknowledged);
}

#[test]
fn who_waits_at_a_managers_socket_outlives_even_a_kill() {
    let site = Site::new();
    let manager = Manager::new();
    let mut server = manager.serve(&site);
    server.signal(libc::SIGKILL);
    server.ended();
    let mut client = Client::connect(server.starttls);
    let server = manager.serve(&site);
    client.expect("220");
    client.quit();
    server.signal(libc::SIGTERM);
}

#[test]
fn a_managers_socket_that_no_flag_names_is_refused() {
    let site = Site::new();
    let manager = Manager::new();
    let [starttls, tls] = manager.addresses();
    let (exit, line) =
        crate::process::refusal(manager.command(&site, &["--listen", &starttls, "--listen-tls", "127.0.0.1:0"]));
    assert_eq!(exit, 78);
    assert!(line.contains(&tls) && !line.contains(&starttls), "{line}");
}

// ── A stop without a successor ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn who_waited_to_be_accepted_is_told_that_the_server_stops() {
    let site = Site::new();
    let mut server = site.serve(&[]);
    server.signal(libc::SIGSTOP);
    let clients: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(server.starttls).unwrap()).collect();
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGCONT);
    for stream in clients {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client::over(stream);
        let said = client.reply();
        let last = if said.starts_with("220") { client.reply() } else { said };
        assert!(last.starts_with("421 4.3.2"), "{last}");
        client.expect_end();
    }
    assert_eq!(server.ended().code(), Some(0));
}
