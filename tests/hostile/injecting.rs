//! Somebody on the way who adds bytes in clear text: before, behind and inside of STARTTLS and QTLS, to the server and to
//! `onetrip submit`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::thread;

use data_encoding::BASE64;

use crate::floods::client_hello;
use crate::process::client::{Client, auth};
use crate::process::{HOSTNAME, PASSWORD, RECIPIENT, SENDER, Server, Site, USER, onetrip, run_with_input};

const INJECTED: &str =
    "EHLO eve.example\r\nNOOP\r\nMAIL FROM:<eve@example.org>\r\nRCPT TO:<bob@example.org>\r\nQUIT\r\n";

/// All that the server says to these pieces, each in a packet of its own, and what it says of the end.
fn say(server: &Server, pieces: &[&[u8]]) -> (Vec<u8>, String) {
    let mut stream = TcpStream::connect(server.starttls).unwrap();
    stream.set_nodelay(true).unwrap();
    let address = stream.local_addr().unwrap();
    for piece in pieces {
        // It may have had enough already.
        let _ = stream.write_all(piece);
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    (heard, server.summary(address)["outcome"].as_str().unwrap().to_owned())
}

#[test]
fn what_is_placed_around_the_start_of_tls_is_never_carried_out_by_the_server() {
    let site = Site::new();
    let server = site.serve(&[]);
    let hello = client_hello();
    let half = hello.len() / 2;
    let injected = INJECTED.as_bytes();
    for command in ["STARTTLS\r\n", "QTLS\r\n"] {
        let command = command.as_bytes();
        let attempts: [&[&[u8]]; 7] = [
            &[&[command, injected].concat()],
            &[command, injected],
            &[&[command, injected, &hello].concat()],
            &[command, injected, &hello],
            &[&[command, &hello[..half], injected, &hello[half..]].concat()],
            &[&[command, &hello, injected].concat()],
            &[command, &hello, injected],
        ];
        for (number, pieces) in attempts.into_iter().enumerate() {
            let (heard, outcome) = say(&server, pieces);
            let text = String::from_utf8_lossy(&heard).into_owned();
            let greeting_end = text.find("220 HELP\r\n").unwrap() + "220 HELP\r\n".len();
            let behind = text[greeting_end..].trim_start_matches("220 2.0.0 Ready to start TLS\r\n");
            let said: Vec<&str> = ["250", "221", "354", "500", "501", "503", "530"]
                .into_iter()
                .filter(|code| behind.starts_with(code))
                .collect();
            assert_eq!(said, Vec::<&str>::new(), "{number}: {text}");
            assert_eq!(outcome, "tls_failed", "{number}");
        }
    }
    server.stop(&site);
    assert!(site.messages(RECIPIENT).is_empty());
}

#[test]
fn clear_text_inside_of_tls_ends_the_connection() {
    let site = Site::new();
    let server = site.serve(&[]);
    let stream = TcpStream::connect(server.tls).unwrap();
    let mut aside = stream.try_clone().unwrap();
    let mut client = Client::over(stream);
    client.secure();
    client.expect("220");
    client.ask("EHLO client.example", "250");
    aside.write_all(INJECTED.as_bytes()).unwrap();
    let summary = server.summary(client.address);
    assert_eq!((&summary["outcome"], &summary["messages"]), (&"tls_failed".into(), &0.into()), "{summary}");
    server.stop(&site);
}

#[test]
fn what_was_said_before_tls_counts_for_nothing_inside() {
    let site = Site::new();
    let server = site.serve(&[]);
    let mut client = Client::connect(server.starttls);
    client.expect("220");
    client.ask("EHLO eve.example", "250");
    client.ask("MAIL FROM:<eve@example.org>", "5");
    client.ask("RCPT TO:<bob@example.org>", "5");
    client.ask("STARTTLS", "220");
    client.secure();
    client.ask("MAIL FROM:<ann@example.org>", "5");
    client.ask("RCPT TO:<bob@example.org>", "5");
    // Inside, nobody has said EHLO yet.
    client.ask(&auth(USER, PASSWORD), "503");
    client.ask("EHLO client.example", "250");
    client.ask("MAIL FROM:<ann@example.org>", "530");
    client.quit();
    server.stop(&site);
}

// ── Against our own client ──────────────────────────────────────────────────────────────────────────────────────────

/// What somebody on the way does to what the server says in clear text.
#[derive(Clone, Copy)]
enum Tamper {
    /// Takes QUICKSTART out of everything, so that STARTTLS is waited for, and puts this behind the reply to it.
    BehindReady(&'static str),
    /// Puts this behind the greeting.
    BehindGreeting(&'static str),
    /// Takes QUICKSTART out of everything, and puts AUTH in the place of STARTTLS.
    Strip,
}

/// Stands between clients and the server until one comes that says [`ENOUGH`]. Returns where, and what was sent by clients.
fn stand_between(server: SocketAddr, tamper: Tamper) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = thread::spawn(move || {
        let mut heard = Vec::new();
        while !heard.ends_with(ENOUGH) {
            // A client may come back to try it otherwise.
            let (client, _) = listener.accept().unwrap();
            heard.extend(pass_on(client, server, tamper));
        }
        heard
    });
    (address, heard)
}

const ENOUGH: &[u8] = b"that is enough";

fn pass_on(mut client: TcpStream, server: SocketAddr, tamper: Tamper) -> Vec<u8> {
    let mut server = TcpStream::connect(server).unwrap();
    let (mut to_client, mut from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let back = thread::spawn(move || {
        let mut buffer = [0; 16_384];
        while let Ok(bytes @ 1..) = from_server.read(&mut buffer) {
            if to_client.write_all(&tampered(&buffer[..bytes], tamper)).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut heard = Vec::new();
    let mut buffer = [0; 16_384];
    while let Ok(bytes @ 1..) = client.read(&mut buffer) {
        heard.extend_from_slice(&buffer[..bytes]);
        if server.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    back.join().unwrap();
    heard
}

fn tampered(bytes: &[u8], tamper: Tamper) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_vec() };
    let behind = |mark: &str, more: &str| text.replacen(mark, &format!("{mark}{more}"), 1);
    let text = match tamper {
        Tamper::BehindReady(more) => {
            behind("220 2.0.0 Ready to start TLS\r\n", more).replace("QUICKSTART", "XXXXXXXXXX")
        }
        Tamper::BehindGreeting(more) => behind("220 HELP\r\n", more),
        Tamper::Strip => text.replace("QUICKSTART QTLS STARTTLS", "XXXXXXXXXX").replace("STARTTLS", "AUTH PLAIN"),
    };
    text.into_bytes()
}

fn submit(site: &Site, to: SocketAddr) -> Output {
    let mut command = onetrip();
    command.args(["submit", "-i", "-f", SENDER, "--server", &format!("{HOSTNAME}:{}", to.port())]);
    command.args(["--user", USER, "--password-file"]).arg(site.write("password", PASSWORD));
    command.arg("--ca").arg(site.certificate()).arg(RECIPIENT);
    run_with_input(&mut command, b"Subject: x\r\n\r\nHello\r\n")
}

#[test]
fn replies_placed_in_clear_text_are_never_believed_by_our_client() {
    const FORGED: &str = "250-eve.example\r\n250 AUTH PLAIN\r\n235 2.7.0 Come in\r\n250 2.1.0 Yes\r\n250 2.1.5 Yes\r\n354 Go on\r\n250 2.0.0 Queued as nothing\r\n";
    for tamper in [Tamper::BehindReady(FORGED), Tamper::BehindGreeting(FORGED), Tamper::Strip] {
        let site = Site::new();
        let server = site.serve(&[]);
        let (between, heard) = stand_between(server.starttls, tamper);
        let output = submit(&site, between);
        TcpStream::connect(between).unwrap().write_all(ENOUGH).unwrap();
        let heard = heard.join().unwrap();
        let said = String::from_utf8_lossy(&heard);
        let credential = BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes());
        assert!(!said.contains("AUTH") && !said.contains(&credential) && !said.contains(PASSWORD), "{said}");
        assert!(!said.contains("MAIL FROM") && !said.contains("Subject:"), "{said}");
        // Either nothing is stored and the client says so, or it has found its own way to TLS and the message is there.
        let stored = usize::from(output.status.success());
        site.arrived(RECIPIENT, stored);
        server.stop(&site);
        assert_eq!(site.messages(RECIPIENT).len(), stored, "{output:?}");
    }
}
