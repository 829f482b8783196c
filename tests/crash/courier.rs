//! Clients that never give up: each names its messages (`XONCE`), and sends a message again until it is acknowledged,
//! whatever becomes of the server meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Random;
use crate::process::client::{Client, auth};
use crate::process::{PASSWORD, PATIENCE, SENDER, USER};

/// Couriers at work.
pub struct Couriers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    /// The id that the server gave each message, by its token.
    acknowledged: Mutex<BTreeMap<String, String>>,
    grown: Condvar,
    stopping: AtomicBool,
}

impl Couriers {
    /// Sends so many of them to a server that speaks TLS from the first byte.
    pub fn start(number: u64, server: SocketAddr, random: &mut Random) -> Self {
        let shared = Arc::new(Shared {
            server,
            acknowledged: Mutex::default(),
            grown: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let start = |number| {
            let (shared, random) = (Arc::clone(&shared), random.branch(number));
            thread::spawn(move || shared.work(number, random))
        };
        let threads = (0..number).map(start).collect();
        Self { shared, threads }
    }

    /// Waits until so many further messages are acknowledged.
    pub fn wait_for(&self, further: usize) {
        let acknowledged = self.shared.acknowledged.lock().unwrap();
        let goal = acknowledged.len() + further;
        let wait = self.shared.grown.wait_timeout_while(acknowledged, PATIENCE, |all| all.len() < goal).unwrap();
        assert!(!wait.1.timed_out(), "nothing is acknowledged any more");
    }

    /// Lets each bring its last message home. Returns the tokens of all messages, each with its id.
    pub fn stop(self) -> BTreeMap<String, String> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let shared = Arc::into_inner(self.shared).expect("all threads have ended");
        shared.acknowledged.into_inner().unwrap()
    }
}

impl Shared {
    fn work(&self, number: u64, mut random: Random) {
        let mut connection = None;
        for count in 0.. {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let token = format!("{number}-{count}");
            let content = content(&token, &mut random);
            let id = loop {
                match self.attempt(&mut connection, &token, &content) {
                    Ok(id) => break id,
                    Err(_) => connection = None,
                }
                // The server is just being started again.
                thread::sleep(RETRY_PAUSE);
            };
            self.acknowledged.lock().unwrap().insert(token, id);
            self.grown.notify_all();
        }
    }

    /// Sends a message once. Returns its id.
    fn attempt(&self, connection: &mut Option<Client>, token: &str, content: &str) -> io::Result<String> {
        if connection.is_none() {
            *connection = Some(self.connect()?);
        }
        let client = connection.as_mut().expect("it was just made");
        ask(client, &format!("MAIL FROM:<{SENDER}> XONCE={token}"), "250")?;
        ask(client, &format!("RCPT TO:<{}>", recipient(token)), "250")?;
        ask(client, "DATA", "354")?;
        let reply = ask(client, &format!("{content}."), "250 2.0.0 Queued as ")?;
        Ok(reply.rsplit(' ').next().unwrap().to_owned())
    }

    fn connect(&self) -> io::Result<Client> {
        let mut client = Client::over(TcpStream::connect(self.server)?);
        client.try_secure()?;
        client.try_reply()?;
        ask(&mut client, "EHLO client.example", "250")?;
        ask(&mut client, &auth(USER, PASSWORD), "235")?;
        Ok(client)
    }
}

fn ask(client: &mut Client, line: &str, beginning: &str) -> io::Result<String> {
    client.try_send(format!("{line}\r\n").as_bytes())?;
    let reply = client.try_reply()?;
    if reply.starts_with(beginning) { Ok(reply) } else { Err(io::Error::other(reply)) }
}

/// Who gets the message of a token: couriers have different ones, so that there are several mailboxes.
pub fn recipient(token: &str) -> String {
    let (number, _) = token.split_once('-').unwrap();
    format!("bob{number}@example.org")
}

/// A message that tells its token, and the same each time it is sent.
fn content(token: &str, random: &mut Random) -> String {
    let lines = if random.below(20) == 0 { random.below(3_000) } else { random.below(40) };
    format!("X-Token: {token}\r\nX-Lines: {lines}\r\n\r\n{}", body(token, lines))
}

fn body(token: &str, lines: u64) -> String {
    (0..lines).map(|line| format!("{token} {line} {}\r\n", "x".repeat(60))).collect()
}

/// The token of a message that was stored.
///
/// # Panics
/// If it is not as it was sent.
pub fn token_of(stored: &[u8]) -> String {
    let text = std::str::from_utf8(stored).expect("text");
    let field = |name: &str| {
        let line =
            text.split("\r\n").find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
        line[name.len()..].to_owned()
    };
    let (token, lines) = (field("X-Token: "), field("X-Lines: ").parse().expect("a number"));
    let (_, stored_body) = text.split_once("\r\n\r\n").expect("a body");
    assert!(stored_body == body(&token, lines), "the message {token} is not as it was sent");
    token
}

/// Short beside the time that a server takes to start.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
