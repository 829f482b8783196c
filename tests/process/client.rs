//! A client that says exactly what a test wants it to say, in clear text or inside TLS.
//!
//! It knows nothing of SMTP but where a reply ends, so that it never mends what the server gets wrong.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use data_encoding::BASE64;
use onetrip::tls::Versions;
use onetrip::tls::client::{ClientSettings, Trust, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{HOSTNAME, PASSWORD, PATIENCE, RECIPIENT, SENDER, Server, USER};

/// One connection to a server.
pub struct Client {
    wire: Wire,
    /// What the server sees it as.
    pub address: SocketAddr,
    /// Received, but not looked at yet.
    received: Vec<u8>,
}

enum Wire {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// TLS for a client that trusts anyone.
pub fn tls() -> Arc<ClientConfig> {
    let settings = ClientSettings { trust: Trust::Anyone, versions: Versions::Both, sessions_max: 0 };
    client_config(settings).expect("nobody need be trusted")
}

impl Client {
    /// Connects, and says nothing.
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the server accepts"))
    }

    /// Speaks over a connection that is there already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        let address = stream.local_addr().expect("an address");
        Self { wire: Wire::Clear(stream), address, received: Vec::new() }
    }

    /// In clear text, greeted, EHLO said.
    pub fn greeted(server: &Server) -> Self {
        let mut client = Self::connect(server.starttls);
        client.expect("220");
        client.ask("EHLO client.example", "250");
        client
    }

    /// Inside TLS by STARTTLS, EHLO said again.
    pub fn over_starttls(server: &Server) -> Self {
        let mut client = Self::greeted(server);
        client.ask("STARTTLS", "220");
        client.secure();
        client.ask("EHLO client.example", "250");
        client
    }

    /// Inside TLS from the start, EHLO said.
    pub fn over_tls(server: &Server) -> Self {
        let mut client = Self::connect(server.tls);
        client.secure();
        client.expect("220");
        client.ask("EHLO client.example", "250");
        client
    }

    /// Inside TLS, and logged in as the user that every site has.
    pub fn logged_in(server: &Server) -> Self {
        let mut client = Self::over_tls(server);
        client.ask(&auth(USER, PASSWORD), "235");
        client
    }

    /// Begins TLS and goes through its handshake.
    pub fn secure(&mut self) {
        self.try_secure().expect("a handshake");
    }

    /// The same with a server that may be gone.
    pub fn try_secure(&mut self) -> io::Result<()> {
        assert!(self.received.is_empty(), "nothing comes in clear text after the reply to STARTTLS");
        let Wire::Clear(stream) = &self.wire else { panic!("TLS inside TLS") };
        let stream = stream.try_clone()?;
        let name = ServerName::try_from(HOSTNAME).expect("a name");
        let session = ClientConnection::new(tls(), name).expect("a session");
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.wire = Wire::Tls(Box::new(stream));
        Ok(())
    }

    /// The certificate that the server has shown.
    pub fn certificate(&self) -> Vec<u8> {
        let Wire::Tls(stream) = &self.wire else { panic!("no TLS") };
        stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
    }

    // ── Speaking ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the server takes it");
    }

    /// Sends bytes to a server that may be gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Clear(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Sends as much of this in clear text as the system takes without waiting; returns how many bytes.
    pub fn say_what_there_is_room_for(&mut self, bytes: &[u8]) -> usize {
        let Wire::Clear(stream) = &mut self.wire else { panic!("clear text") };
        stream.set_nonblocking(true).expect("an option");
        let mut said = 0;
        while said < bytes.len()
            && let Ok(more) = stream.write(&bytes[said..])
        {
            said += more;
        }
        stream.set_nonblocking(false).expect("an option");
        said
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) {
        self.send(format!("{line}\r\n"));
    }

    /// Sends a line and takes the reply, which must begin as given.
    pub fn ask(&mut self, line: &str, reply: &str) -> String {
        self.say(line);
        self.expect(reply)
    }

    /// Opens a transaction, up to the DATA command's 354.
    pub fn begin_message(&mut self, recipient: &str) {
        self.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
        self.ask(&format!("RCPT TO:<{recipient}>"), "250");
        self.ask("DATA", "354");
    }

    /// Submits a small message; the last reply must begin as given.
    pub fn submit(&mut self, content: &str, reply: &str) -> String {
        self.begin_message(RECIPIENT);
        self.ask(&format!("{content}\r\n."), reply)
    }

    /// Quits, and waits for the end.
    pub fn quit(mut self) {
        self.ask("QUIT", "221");
        self.expect_end();
    }

    /// Closes without a word.
    pub fn close(self) -> SocketAddr {
        self.address
    }

    /// Says that it sends no more, by TCP.
    pub fn stop_sending(&self) {
        let socket = match &self.wire {
            Wire::Clear(stream) => stream,
            Wire::Tls(stream) => &stream.sock,
        };
        socket.shutdown(Shutdown::Write).expect("a connection");
    }

    // ── Listening ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes one reply, which must begin as given; lines are parted by LF.
    pub fn expect(&mut self, beginning: &str) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(beginning), "expected {beginning}, got {reply}");
        reply
    }

    /// Takes one reply.
    pub fn reply(&mut self) -> String {
        self.try_reply().expect("the connection is neither closed nor reset nor silent")
    }

    /// Takes one reply of a server that may be gone.
    pub fn try_reply(&mut self) -> io::Result<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if is_last {
                return Ok(lines.join("\n"));
            }
        }
    }

    /// How many bytes in clear text have come and were not taken.
    pub fn waiting_bytes(&mut self) -> usize {
        let Wire::Clear(stream) = &mut self.wire else { panic!("clear text") };
        stream.set_nonblocking(true).expect("an option");
        let waiting = stream.peek(&mut [0; 4_096]).unwrap_or_default();
        stream.set_nonblocking(false).expect("an option");
        self.received.len() + waiting
    }

    /// The server must have nothing more to say, and close in an orderly way.
    pub fn expect_end(&mut self) {
        let line = self.line().expect("the connection is neither reset nor silent");
        assert_eq!(line, None, "the server was to close");
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(end + 1);
                let line = std::mem::replace(&mut self.received, rest);
                let line = line.strip_suffix(b"\r\n").expect("lines end in CRLF");
                return Ok(Some(String::from_utf8(line.to_vec()).expect("text")));
            }
            let mut buffer = [0; 4_096];
            let bytes = match &mut self.wire {
                Wire::Clear(stream) => stream.read(&mut buffer),
                Wire::Tls(stream) => stream.read(&mut buffer),
            };
            match bytes? {
                0 => {
                    assert!(self.received.is_empty(), "half a line: {:?}", self.received);
                    return Ok(None);
                }
                bytes => self.received.extend_from_slice(&buffer[..bytes]),
            }
        }
    }
}

/// `AUTH PLAIN` with its credential.
pub fn auth(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", BASE64.encode(format!("\0{user}\0{password}").as_bytes()))
}

/// The id in an extended greeting, or in an answer to EHLO.
pub fn qhlo_id(reply: &str) -> String {
    let (_, rest) = reply.split_once("QHLO=").expect("an id");
    rest.split_whitespace().next().expect("an id").to_owned()
}
