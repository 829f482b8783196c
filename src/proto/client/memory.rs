//! What is remembered of servers from one connection to the next (draft §8), and its form as text.
//!
//! Reads and writes text, not files, and trusts none of it: damaged text is an error, and a remembered list only ever
//! decides what is tried first.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::capabilities::Capabilities;
use crate::limits::{MEMORY_TEXT_BYTES_MAX, REMEMBERED_SERVERS_MAX, REPLY_LINES_MAX};
pub use crate::proto::qhlo_id::Point;

/// What is remembered of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMemory {
    connect: Option<Capabilities>,
    secured: Option<Capabilities>,
    seen_unix_s: u64,
    avoid_until_unix_s: u64,
}

impl ServerMemory {
    /// The list that the server gave at this point when last asked.
    pub fn at(&self, point: Point) -> Option<&Capabilities> {
        match point {
            Point::Connect => self.connect.as_ref(),
            Point::Secured => self.secured.as_ref(),
        }
    }

    /// Remembers a list; true if it differs from what was remembered.
    pub fn learn(&mut self, point: Point, list: &Capabilities) -> bool {
        if self.at(point) == Some(list) {
            return false;
        }
        *self.slot(point) = Some(list.clone());
        true
    }

    /// Forgets the list of this point.
    pub fn forget(&mut self, point: Point) {
        *self.slot(point) = None;
    }

    /// QUICKSTART broke here: speak plain ESMTP until then (time since 1970).
    pub fn avoid_quickstart_until(&mut self, unix: Duration) {
        self.avoid_until_unix_s = unix.as_secs();
    }

    /// Is QUICKSTART to be avoided at this time (since 1970)?
    pub fn avoids_quickstart(&self, unix: Duration) -> bool {
        unix.as_secs() < self.avoid_until_unix_s
    }

    /// Notes when the server was last spoken to (time since 1970).
    pub fn see(&mut self, unix: Duration) {
        self.seen_unix_s = unix.as_secs();
    }

    fn slot(&mut self, point: Point) -> &mut Option<Capabilities> {
        match point {
            Point::Connect => &mut self.connect,
            Point::Secured => &mut self.secured,
        }
    }
}

/// What is remembered of all servers, each under its `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    servers: BTreeMap<String, ServerMemory>,
}

/// Why a text is no memory. The caller may warn and go on with an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for MemoryError {}

impl Memory {
    /// What is remembered of this server; nothing if it is unknown.
    pub fn server(&self, host_port: &str) -> ServerMemory {
        self.servers.get(host_port).cloned().unwrap_or_default()
    }

    /// Remembers a server, and forgets the one longest unseen if there are more than [`REMEMBERED_SERVERS_MAX`].
    /// A name that is not one printable word cannot be written down and is not remembered.
    pub fn remember(&mut self, host_port: &str, server: ServerMemory) {
        if !is_name(host_port) {
            return;
        }
        self.servers.insert(host_port.to_owned(), server);
        if self.servers.len() > REMEMBERED_SERVERS_MAX {
            let oldest = self.servers.iter().min_by_key(|(_, server)| server.seen_unix_s).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.servers.remove(&name));
        }
    }

    /// The memory as text: a heading, then for each server its name, two times, and the lines of its lists.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADING}\n");
        for (name, server) in &self.servers {
            // Writing to a String cannot fail.
            let _ = write!(text, "server {name}\nseen {}\navoid {}\n", server.seen_unix_s, server.avoid_until_unix_s);
            for (word, list) in [("connect", &server.connect), ("secured", &server.secured)] {
                list.iter().flat_map(Capabilities::lines).for_each(|line| {
                    let _ = writeln!(text, "{word} {line}");
                });
            }
        }
        text
    }

    /// Reads what [`Memory::to_text`] wrote.
    pub fn from_text(text: &str) -> Result<Self, MemoryError> {
        if text.len() > MEMORY_TEXT_BYTES_MAX {
            return Err(MemoryError { line: 1, problem: "the memory is too large" });
        }
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        if lines.next().map(|(_, line)| line) != Some(HEADING) {
            return Err(MemoryError { line: 1, problem: "this is not a memory of servers, or of another version" });
        }
        let mut reading = Reading::default();
        for (line, content) in lines {
            reading.handle_line(content).map_err(|problem| MemoryError { line, problem })?;
        }
        reading.end_server();
        Ok(reading.memory)
    }
}

/// A server's entry while its lines are read.
#[derive(Default)]
struct Reading {
    memory: Memory,
    name: Option<String>,
    times: ServerMemory,
    connect: Vec<String>,
    secured: Vec<String>,
}

impl Reading {
    fn handle_line(&mut self, line: &str) -> Result<(), &'static str> {
        let (word, value) = line.split_once(' ').ok_or("a word and a value are expected")?;
        if word == "server" {
            return self.begin_server(value);
        }
        if self.name.is_none() {
            return Err("a server's name is expected first");
        }
        match word {
            "seen" => self.times.seen_unix_s = value.parse().map_err(|_| "a number of seconds is expected")?,
            "avoid" => self.times.avoid_until_unix_s = value.parse().map_err(|_| "a number of seconds is expected")?,
            "connect" => push_line(&mut self.connect, value)?,
            "secured" => push_line(&mut self.secured, value)?,
            _ => return Err("this word is unknown"),
        }
        Ok(())
    }

    fn begin_server(&mut self, name: &str) -> Result<(), &'static str> {
        self.end_server();
        if !is_name(name) {
            return Err("the server's name is malformed");
        }
        if self.memory.servers.len() == REMEMBERED_SERVERS_MAX {
            return Err("there are too many servers");
        }
        self.name = Some(name.to_owned());
        Ok(())
    }

    fn end_server(&mut self) {
        let mut server = std::mem::take(&mut self.times);
        server.connect = list(&std::mem::take(&mut self.connect));
        server.secured = list(&std::mem::take(&mut self.secured));
        if let Some(name) = self.name.take() {
            self.memory.servers.insert(name, server);
        }
    }
}

fn push_line(lines: &mut Vec<String>, line: &str) -> Result<(), &'static str> {
    if lines.len() == REPLY_LINES_MAX {
        return Err("the list has too many lines");
    }
    if line.chars().any(char::is_control) {
        // A server's list has none by the time it is remembered.
        return Err("the list has a control character");
    }
    lines.push(line.to_owned());
    Ok(())
}

fn list(lines: &[String]) -> Option<Capabilities> {
    (!lines.is_empty()).then(|| Capabilities::from_lines(lines.iter().map(String::as_str)))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

const HEADING: &str = "onetrip-memory 1";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Capabilities, Memory, Point, ServerMemory};
    use crate::limits::REMEMBERED_SERVERS_MAX;

    fn example() -> Memory {
        let mut server = ServerMemory::default();
        server.learn(Point::Connect, &Capabilities::from_lines(["PIPELINING", "QUICKSTART QHLO=a"].into_iter()));
        server.learn(Point::Secured, &Capabilities::from_lines(["SIZE 5", "QUICKSTART QHLO=b AUTH"].into_iter()));
        server.see(Duration::from_secs(7));
        let mut memory = Memory::default();
        memory.remember("mail.example.org:587", server);
        memory.remember("[2001:db8::1]:465", ServerMemory::default());
        memory
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(Memory::from_text(&example().to_text()), Ok(example()));
    }

    #[test]
    fn the_points_are_never_confused() {
        let server = Memory::from_text(&example().to_text()).unwrap().server("mail.example.org:587");
        assert_eq!(server.at(Point::Connect).unwrap().qhlo_id(), Some("a"));
        assert_eq!(server.at(Point::Secured).unwrap().qhlo_id(), Some("b"));
    }

    #[test]
    fn damaged_text_is_an_error_wherever_it_is_damaged() {
        let text = example().to_text();
        for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            // Cutting may leave a shorter memory that is whole; it must not panic.
            let _ = Memory::from_text(&text[..cut]);
        }
        for damaged in [
            "",
            "x",
            "onetrip-memory 2",
            "onetrip-memory 1\nseen 1",
            "onetrip-memory 1\nserver a\nseen x",
            "onetrip-memory 1\nserver a\nconnect X\rY",
        ] {
            assert!(Memory::from_text(damaged).is_err(), "{damaged:?}");
        }
        let error = Memory::from_text("onetrip-memory 1\nserver a\nwhat 1").unwrap_err();
        assert_eq!(error.line, 3);
    }

    #[test]
    fn the_server_longest_unseen_makes_room() {
        let mut memory = Memory::default();
        for number in 0..=REMEMBERED_SERVERS_MAX {
            let mut server = ServerMemory::default();
            server.see(Duration::from_secs(number as u64 + 1));
            memory.remember(&format!("server{number}:25"), server);
        }
        assert_eq!(memory.servers.len(), REMEMBERED_SERVERS_MAX);
        assert!(!memory.servers.contains_key("server0:25"));
    }

    #[test]
    fn a_name_that_would_break_the_text_is_not_remembered() {
        let mut memory = Memory::default();
        memory.remember("a\nserver b", ServerMemory::default());
        assert!(memory.servers.is_empty());
    }
}
