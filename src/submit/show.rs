//! What a person sees while a message is submitted: the dialog with `-v`, or how far a long upload has got.
//!
//! Nothing else is shown, because scripts and cron take any output for trouble.

use std::io::Write;
use std::time::Duration;

use super::link::Observer;
use super::request::Request;
use crate::limits::SUBMIT_PROGRESS_BYTES_MIN;
use crate::proto::client::{Client, Entry, Speaker};

/// Shows on standard error, or to the agent's caller.
pub(super) struct Show {
    output: Box<dyn Write + Send>,
    mode: Mode,
    packet: u32,
}

#[derive(Debug)]
enum Mode {
    Silent,
    Dialog,
    Progress { message_bytes: u64, shown_percent: u64 },
}

impl Show {
    pub(super) fn new(request: &Request, output: Box<dyn Write + Send>) -> Self {
        let message_bytes = request.content.len() as u64;
        let mode = match (request.verbose, request.terminal && message_bytes >= SUBMIT_PROGRESS_BYTES_MIN) {
            (true, _) => Mode::Dialog,
            (false, true) => Mode::Progress { message_bytes, shown_percent: 0 },
            (false, false) => Mode::Silent,
        };
        Self { output, mode, packet: 0 }
    }

    /// Shows nothing but warnings.
    pub(super) fn silent(output: Box<dyn Write + Send>) -> Self {
        Self { output, mode: Mode::Silent, packet: 0 }
    }

    /// There is nobody left to tell if this cannot be written.
    fn say(&mut self, text: &str) {
        let _ = writeln!(self.output, "{text}");
    }

    /// Says something about the dialog, behind what has been said in it.
    pub(super) fn remark(&mut self, client: &mut Client, text: &str) {
        if matches!(self.mode, Mode::Dialog) {
            self.show_dialog(client);
            self.say(&format!("          -- {text}"));
        }
    }

    pub(super) fn warn(&mut self, warning: &str) {
        self.say(&format!("onetrip: {warning}"));
    }

    /// The submission is over.
    pub(super) fn finish(&mut self, client: &mut Client, elapsed: Duration) {
        self.show_dialog(client);
        match self.mode {
            Mode::Silent => {}
            Mode::Progress { .. } => {
                let _ = write!(self.output, "\r\x1b[K");
            }
            Mode::Dialog => self.say(&summary(client, elapsed)),
        }
    }

    fn show_dialog(&mut self, client: &mut Client) {
        while let Some(entry) = client.poll_transcript() {
            let line = line(&entry, self.packet);
            self.packet = entry.packet;
            self.say(&line);
        }
    }
}

impl Observer for Show {
    fn observe(&mut self, client: &mut Client, bytes_sent: u64) {
        match &mut self.mode {
            Mode::Silent => {}
            Mode::Dialog => self.show_dialog(client),
            Mode::Progress { message_bytes, shown_percent } => {
                let percent = (bytes_sent * 100 / (*message_bytes).max(1)).min(100);
                if percent != *shown_percent {
                    *shown_percent = percent;
                    let _ = write!(self.output, "\rsubmitting: {percent} %");
                }
            }
        }
    }
}

/// The packet's number stands before its first line only, so that flights can be seen.
fn line(entry: &Entry, packet_before: u32) -> String {
    let speaker = match entry.speaker {
        Speaker::Client => "C:",
        Speaker::Server => "S:",
        Speaker::Remark => "--",
    };
    if entry.packet == packet_before {
        return format!("          {speaker} {}", entry.text);
    }
    format!("packet {:<2} {speaker} {}", entry.packet, entry.text)
}

fn summary(client: &Client, elapsed: Duration) -> String {
    let flights = client.flights();
    let mail = flights.mail_packet().map_or_else(String::new, |packet| format!(", MAIL in packet {packet}"));
    let connections = match client.connections() {
        1 => String::new(),
        connections => format!(", on connection {connections}"),
    };
    let round_trips = client.round_trips();
    format!("{round_trips} round trips{mail}{connections}, {} ms", elapsed.as_millis())
}

#[cfg(test)]
mod tests {
    use super::line;
    use crate::proto::client::{Entry, Speaker};

    #[test]
    fn a_packet_is_named_once() {
        let entry = Entry { speaker: Speaker::Client, packet: 2, text: "QTLS".to_owned() };
        assert_eq!(line(&entry, 1), "packet 2  C: QTLS");
        assert_eq!(line(&entry, 2), "          C: QTLS");
    }
}
