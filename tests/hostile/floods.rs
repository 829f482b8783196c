//! Floods: of connections, of handshakes, of renegotiations, key updates and records that mean nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use onetrip::limits::RECEIVE_BYTES;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use socket2::SockRef;

use crate::process::client::{Client, tls};
use crate::process::{HOSTNAME, Server, Site};
use crate::world::{Holdings, Peace, alone, assert_sound, connect, crowd, figure, serve, wait_for_open};

/// Connections that come and go at once, from four threads.
const CONNECTIONS: usize = 8_000;
/// Connections that begin a handshake and leave it there, all open at the same time.
const HALF_HANDSHAKES: usize = 2_000;
/// Whole handshakes, from four threads that do nothing else.
const HANDSHAKES: usize = 800;
/// Memory in KiB that half a handshake may hold: the ClientHello, the keys, and the server's flight.
const HALF_HANDSHAKE_KIB_MAX: u64 = 48;
/// Bytes of a meaningless flood that the server may read before it has had enough: a few receives.
const READ_BYTES_MAX: u64 = 4 * RECEIVE_BYTES as u64;
/// What a server may take besides, whoever is connected.
const BESIDE_KIB: u64 = 24 << 10;

/// Four threads that each do their share of `count`.
fn from_four_threads(count: usize, act: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for first in 0..4 {
            let act = &act;
            scope.spawn(move || (first..count).step_by(4).for_each(act));
        }
    });
}

fn session() -> ClientConnection {
    ClientConnection::new(tls(), ServerName::try_from(HOSTNAME).unwrap()).unwrap()
}

/// The first flight of a client that means well so far.
pub(crate) fn client_hello() -> Vec<u8> {
    let mut hello = Vec::new();
    session().write_tls(&mut hello).unwrap();
    hello
}

/// Everything that the server says until it has had enough; a reset counts as the end.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut words = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        words.extend_from_slice(&buffer[..bytes]);
    }
    words
}

#[test]
fn a_flood_of_connections_that_come_and_go_leaves_nothing_and_holds_up_nobody() {
    let _turn = alone();
    let site = Site::new();
    let server = serve(&site, &[]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let (starttls, implicit) = (server.starttls, server.tls);
    peace.holds_during(&format!("{CONNECTIONS} connections that come and go"), || {
        from_four_threads(CONNECTIONS, |number| {
            let client = connect(number, if number % 2 == 0 { starttls } else { implicit });
            // Half of them end in a reset, while the greeting may be on its way.
            if number % 4 < 2 {
                SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        });
    });
    before.assert_given_back(&server);
    before.assert_grown_by_at_most(&server, "after the flood", BESIDE_KIB);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn a_flood_over_the_bound_is_refused_and_who_is_inside_is_served() {
    let _turn = alone();
    const ROOM: usize = 100;
    let site = Site::new();
    let server = serve(&site, &["--connections-max", "100"]);
    assert_sound(&server);
    wait_for_open(&server, |open| open == 0);
    let before = Holdings::of(&server);
    let mut inside = Client::logged_in(&server);
    let crowd: Vec<TcpStream> = (1..ROOM).map(|number| connect(number, server.starttls)).collect();
    wait_for_open(&server, |open| open == ROOM as u64);
    from_four_threads(2_000, |number| {
        let client = connect(number, server.starttls);
        let words = String::from_utf8(rest(&client)).unwrap();
        assert!(words.starts_with("421 4.3.2"), "{words}");
    });
    assert_eq!(figure(&server, "onetrip_connections_refused_total"), 2_000);
    inside.submit("Subject: served\r\n", "250");
    inside.quit();
    drop(crowd);
    before.assert_given_back(&server);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn a_flood_of_handshakes_holds_up_nobody() {
    let _turn = alone();
    let site = Site::new();
    let server = serve(&site, &[]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let implicit = server.tls;
    peace.holds_during(&format!("{HANDSHAKES} handshakes from four threads"), || {
        from_four_threads(HANDSHAKES, |number| {
            let mut stream = StreamOwned::new(session(), connect(number, implicit));
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
        });
    });
    before.assert_given_back(&server);
    before.assert_grown_by_at_most(&server, "after the handshakes", BESIDE_KIB);
    assert_sound(&server);
    server.stop(&site);
}

#[test]
fn handshakes_that_come_all_at_once_let_others_in_between_however_long_each_takes() {
    let _turn = alone();
    const CROWD: usize = 200;
    let site = Site::new();
    let Some(flags) = rsa(&site) else { return };
    let server = serve(&site, &flags.each_ref().map(String::as_str));
    let mut inside = Client::greeted(&server);
    let hello = client_hello();
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|number| connect(number, server.tls)).collect();
    wait_for_open(&server, |open| open > CROWD as u64);
    // While the server is asleep all of them speak, and then the one who was there before.
    server.signal(libc::SIGSTOP);
    crowd.iter_mut().for_each(|client| client.write_all(&hello).unwrap());
    inside.say("NOOP");
    server.signal(libc::SIGCONT);
    inside.expect("250");
    server.signal(libc::SIGSTOP);
    let is_answered = |client: &TcpStream| {
        client.set_nonblocking(true).unwrap();
        client.peek(&mut [0]).is_ok()
    };
    let answered = crowd.iter().filter(|client| is_answered(client)).count();
    server.signal(libc::SIGCONT);
    eprintln!("{answered} of {CROWD} handshakes with RSA were before the one who was there");
    assert!(answered <= CROWD / 4, "{answered} of {CROWD} handshakes were before the one who was there");
    for client in &crowd {
        client.set_nonblocking(false).unwrap();
    }
    crowd.iter_mut().for_each(|client| client.read_exact(&mut [0; 5]).unwrap());
    drop(crowd);
    assert_sound(&server);
    server.stop(&site);
}

/// The flags that name an RSA certificate, which makes a handshake slow. `None` where there is no program to make one.
fn rsa(site: &Site) -> Option<[String; 4]> {
    let path = |name: &str| site.path(name).into_os_string().into_string().unwrap();
    let (certificate, key) = (path("rsa.pem"), path("rsa.key"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=localhost"]);
    command.args(["-keyout", &key, "-out", &certificate]);
    let made = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let Ok(made) = made else {
        let required = std::env::var_os("ONETRIP_REQUIRE_INTEROP").is_some_and(|value| value == "1");
        assert!(!required, "openssl is not installed: apt-get install openssl");
        eprintln!("skipped: openssl is not installed (apt-get install openssl)");
        return None;
    };
    assert!(made.success());
    Some(["--tls-cert".to_owned(), certificate, "--tls-key".to_owned(), key])
}

#[test]
fn thousands_of_handshakes_that_are_never_finished_cost_little_and_are_left_in_time() {
    let _turn = alone();
    let count = crowd(HALF_HANDSHAKES);
    let site = Site::new();
    let server = serve(&site, &["--login-timeout", "20"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    let (hello, implicit) = (client_hello(), server.tls);
    let half: Vec<TcpStream> = peace.holds_during(&format!("{count} handshakes that are never finished"), || {
        let half = Mutex::new(Vec::new());
        from_four_threads(count, |number| {
            let mut client = connect(number, implicit);
            if number % 4 == 0 {
                client.write_all(&hello[..hello.len() / 2]).unwrap();
            } else {
                // Who floods as fast as the server answers; a burst would only show how long the work itself takes.
                client.write_all(&hello).unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
            }
            half.lock().unwrap().push(client);
        });
        half.into_inner().unwrap()
    });
    before.assert_grown_by_at_most(&server, "half handshakes", count as u64 * HALF_HANDSHAKE_KIB_MAX + BESIDE_KIB);
    peace.holds_beside("the same, silent now");
    wait_for_open(&server, |open| open == 0);
    before.assert_given_back(&server);
    drop(half);
    assert_sound(&server);
    server.stop(&site);
}

// ── Within TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn secured(server: &Server) -> (StreamOwned<ClientConnection, TcpStream>, SocketAddr) {
    let stream = connect(0, server.tls);
    let address = stream.local_addr().unwrap();
    let mut stream = StreamOwned::new(session(), stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    (stream, address)
}

#[test]
fn a_flood_of_key_updates_ends_the_connection_and_holds_up_nobody() {
    let _turn = alone();
    let site = Site::new();
    // Sessions of the honest client, which does not come back for them, would be what memory grows by.
    let server = serve(&site, &["--tls-sessions", "100"]);
    let peace = Peace::at(&server);
    let before = Holdings::of(&server);
    peace.holds_during("20 floods of key updates", || {
        for _ in 0..20 {
            let (mut stream, address) = secured(&server);
            let sent = (0..100_000).find(|_| {
                stream.conn.refresh_traffic_keys().unwrap();
                stream.conn.write_tls(&mut stream.sock).is_err()
            });
            assert!(sent.is_some(), "the server hears 100,000 key updates and says nothing");
            assert_eq!(server.summary(address)["outcome"], "tls_failed");
        }
    });
    before.assert_given_back(&server);
    before.assert_grown_by_at_most(&server, "after the key updates", BESIDE_KIB);
    server.stop(&site);
}

#[test]
fn a_client_that_changes_its_keys_now_and_then_is_served() {
    let site = Site::new();
    let server = serve(&site, &[]);
    let (mut stream, address) = secured(&server);
    for _ in 0..200 {
        stream.conn.refresh_traffic_keys().unwrap();
        stream.write_all(b"NOOP\r\n").unwrap();
        let mut reply = [0; 8];
        while !reply.ends_with(b"\r\n") {
            reply.rotate_left(1);
            stream.read_exact(&mut reply[7..]).unwrap();
        }
    }
    stream.write_all(b"QUIT\r\n").unwrap();
    assert_eq!(server.summary(address)["outcome"], "quit");
    server.stop(&site);
}

/// Types these lines into `openssl s_client`, one after each reply; returns what it said.
fn typed(server: &Server, version: &str, lines: &[&str]) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &server.tls.to_string(), version, "-crlf"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        let required = std::env::var_os("ONETRIP_REQUIRE_INTEROP").is_some_and(|value| value == "1");
        assert!(!required, "openssl is not installed: apt-get install openssl");
        eprintln!("skipped: openssl is not installed (apt-get install openssl)");
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut said = Vec::new();
    let mut hear = |until: &[u8]| {
        let mut byte = [0];
        let begin = said.len();
        while !said[begin..].windows(until.len()).any(|window| window == until) {
            if output.read(&mut byte).unwrap() == 0 {
                return false;
            }
            said.push(byte[0]);
        }
        true
    };
    assert!(hear(b"220 HELP"), "no greeting");
    for line in lines {
        if writeln!(input, "{line}").is_err() || !hear(b"\n") {
            break;
        }
    }
    drop(input);
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    hear(b"never said");
    child.wait().unwrap();
    Some(String::from_utf8_lossy(&said).into_owned() + &words)
}

#[test]
fn a_renegotiation_is_refused_and_nothing_more_is_done_for_who_asked() {
    let site = Site::new();
    let server = serve(&site, &[]);
    let Some(words) = typed(&server, "-tls1_2", &["R", "R", "R"]) else { return };
    assert!(words.contains("RENEGOTIATING") && words.contains("no renegotiation"), "{words}");
    assert_eq!(figure(&server, "onetrip_tls_handshakes_total"), 1, "no second handshake was made");
    assert_sound(&server);
    server.stop(&site);
}

// ── Records that mean nothing ───────────────────────────────────────────────────────────────────────────────────────

#[test]
fn floods_of_records_that_mean_nothing_end_the_connection() {
    let _turn = alone();
    let site = Site::new();
    let server = serve(&site, &[]);
    assert_sound(&server);
    wait_for_open(&server, |open| open == 0);
    let before = Holdings::of(&server);
    let hello = client_hello();
    let floods: [(&str, &[u8]); 6] = [
        ("change_cipher_spec", &[20, 3, 3, 0, 1, 1]),
        ("a warning", &[21, 3, 3, 0, 2, 1, 90]),
        ("an empty handshake record", &[22, 3, 3, 0, 0]),
        ("an empty record of data", &[23, 3, 3, 0, 0]),
        ("a handshake message of 16 MiB", &[22, 3, 3, 0, 4, 1, 255, 255, 255]),
        (
            "data that cannot be decrypted",
            &[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
        ),
    ];
    for (what, record) in floods {
        for begin in [&hello[..], &[]] {
            let mut stream = connect(0, server.tls);
            let address = stream.local_addr().unwrap();
            stream.write_all(begin).unwrap();
            // The system's buffers take some of it even when nobody reads.
            let flood = record.repeat(1_000);
            let _ = (0..1_000).find(|_| stream.write_all(&flood).is_err());
            let summary = server.summary(address);
            assert_eq!(summary["outcome"], "tls_failed", "{what}");
            assert!(summary["bytes_in"].as_u64().unwrap() <= READ_BYTES_MAX, "{what}: {summary}");
        }
    }
    before.assert_given_back(&server);
    before.assert_grown_by_at_most(&server, "after the records", BESIDE_KIB);
    assert_sound(&server);
    server.stop(&site);
}
