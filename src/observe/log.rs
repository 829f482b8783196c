//! Turns an event into one line of the log, for people or for programs.
//!
//! Whatever a client can put into an event stays inside its field: no value can end the line, begin another field or
//! move a terminal's cursor. Nothing here decides which events are written, or where to.

use std::{
    fmt::{self, Write as _},
    io,
    time::Duration,
};

use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use time::OffsetDateTime;

use super::event::{Event, Fields};
use crate::limits;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: time, severity, name, then `field=value`.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

impl LogFormat {
    /// The format that `word` of `--log-format` names, if any.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Appends `event`, which happened at `unix` (time since 1970 in UTC), to `out` as one line with its line feed.
pub fn render(format: LogFormat, unix: Duration, event: &Event, out: &mut Vec<u8>) {
    match format {
        LogFormat::Text => render_text(unix, event, out),
        LogFormat::Json => render_json(unix, event, out),
    }
}

fn render_text(unix: Duration, event: &Event, out: &mut Vec<u8>) {
    let mut line = format!("{} {} {}", Timestamp(unix), event.severity().word(), event.name());
    event.describe(&mut TextFields(&mut line));
    line.push('\n');
    out.extend_from_slice(line.as_bytes());
}

fn render_json(unix: Duration, event: &Event, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out as &mut dyn io::Write, &JsonLine { unix, event })
        .expect("strings and numbers can always be written to memory");
    out.push(b'\n');
}

/// A moment as RFC 3339 writes it, in UTC, with milliseconds.
struct Timestamp(Duration);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.as_secs()).unwrap_or(i64::MAX);
        // A clock beyond the year 9999 is broken; the line is still worth having.
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second) = at.to_hms();
        let month = u8::from(month);
        let millisecond = self.0.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
    }
}

/// Appends ` name=value` for each field.
struct TextFields<'a>(&'a mut String);

impl TextFields<'_> {
    fn append(&mut self, name: &str, value: impl fmt::Display) {
        write!(self.0, " {name}={value}").expect("writing to a String cannot fail");
    }
}

impl Fields for TextFields<'_> {
    fn text(&mut self, name: &'static str, value: &str) {
        let value = shortened(value);
        if is_plain(value) {
            self.append(name, value);
        } else {
            // Rust's own quoting escapes quotes, backslashes and every character that does not print.
            self.append(name, format_args!("{value:?}"));
        }
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.append(name, value);
    }

    fn absent(&mut self, name: &'static str) {
        self.append(name, ABSENT);
    }
}

/// Whether `value` can stand without quotes: visible ASCII that cannot be taken for a quote, for the next field or
/// for the sign of an absent value.
fn is_plain(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    !value.is_empty() && value != ABSENT && value.bytes().all(plain)
}

/// The first part of `value` that a line has room for, cut between characters.
fn shortened(value: &str) -> &str {
    let mut end = value.len().min(limits::LOG_VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// One line as a JSON object.
struct JsonLine<'a> {
    unix: Duration,
    event: &'a Event,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("ts", &Timestamp(self.unix).to_string())?;
        object.serialize_entry("level", self.event.severity().word())?;
        object.serialize_entry("event", self.event.name())?;
        let mut fields = JsonFields { object: &mut object, result: Ok(()) };
        self.event.describe(&mut fields);
        fields.result.map_err(S::Error::custom)?;
        object.end()
    }
}

/// Adds one entry to the object for each field; the first failure is kept and ends it.
struct JsonFields<'a, M: SerializeMap> {
    object: &'a mut M,
    result: Result<(), M::Error>,
}

impl<M: SerializeMap> JsonFields<'_, M> {
    fn append<V: Serialize + ?Sized>(&mut self, name: &str, value: &V) {
        if self.result.is_ok() {
            self.result = self.object.serialize_entry(name, value);
        }
    }
}

impl<M: SerializeMap> Fields for JsonFields<'_, M> {
    fn text(&mut self, name: &'static str, value: &str) {
        self.append(name, shortened(value));
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.append(name, &value);
    }

    fn absent(&mut self, name: &'static str) {
        self.append(name, &());
    }
}

/// What stands in a text line for a field without value; JSON has `null` for it.
const ABSENT: &str = "-";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LogFormat, Timestamp, render};
    use crate::{
        limits,
        observe::event::{Event, Outcome, examples},
        time::Now,
    };

    fn line(format: LogFormat, event: &Event) -> String {
        let mut out = Vec::new();
        render(format, Now::simulated_ms(123).unix, event, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn text(event: impl Into<Event>) -> String {
        line(LogFormat::Text, &event.into())
    }

    fn json(event: impl Into<Event>) -> serde_json::Value {
        serde_json::from_str(&line(LogFormat::Json, &event.into())).unwrap()
    }

    /// The names of the fields of a text line whose values hold no space.
    fn text_names(line: &str) -> Vec<&str> {
        line.split(' ').filter_map(|part| part.split_once('=')).map(|(name, _)| name).collect()
    }

    #[test]
    fn a_connection_is_one_line_for_people() {
        assert_eq!(
            text(examples::connection_ended(Outcome::Quit)),
            "2026-01-01T00:00:00.123Z info connection_ended id=ab shard=1 client=192.0.2.7:40000 listener=starttls \
             outcome=quit reason=- start=full qhlo=matched tls=TLSv1.3 cipher=TLS_AES_128_GCM_SHA256 session=resumed \
             early_data=accepted user=ann messages=1 errors=0 flights_in=3 flights_out=2 bytes_in=5000 bytes_out=700 duration_us=123456\n"
        );
    }

    #[test]
    fn a_connection_is_one_object_for_programs() {
        let object = json(examples::connection_ended(Outcome::Quit));
        assert_eq!(object["ts"], "2026-01-01T00:00:00.123Z");
        assert_eq!(object["level"], "info");
        assert_eq!(object["event"], "connection_ended");
        assert_eq!(object["duration_us"], 123_456);
        assert!(object["reason"].is_null());
    }

    #[test]
    fn both_formats_bear_the_same_field_names_for_every_event() {
        for event in examples::one_of_each() {
            let mut of_text =
                text_names(&line(LogFormat::Text, &event)).iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            let object = json(event.clone());
            let mut of_json: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
            of_text.extend(["ts", "level", "event"].map(str::to_owned));
            of_text.sort();
            of_json.sort();
            assert_eq!(of_text, of_json, "{}", event.name());
        }
    }

    #[test]
    fn a_value_cannot_end_the_line_or_begin_another_field() {
        let hostile = [
            "a\r\n2026-01-01T00:00:00.000Z info ready",
            "a user=root",
            "a\" user=root",
            "a\\",
            "a\u{1b}[2J",
            "a\u{202e}b",
            "a\u{2028}b",
            "a\u{85}b",
            "a\0b",
            "user=root",
        ];
        for value in hostile {
            for format in [LogFormat::Text, LogFormat::Json] {
                let rendered = line(format, &examples::auth_failed(value).into());
                assert_eq!(rendered.matches('\n').count(), 1, "{rendered:?}");
                assert!(!rendered.trim_end().contains(|c: char| c.is_ascii_control()), "{rendered:?}");
            }
            let rendered = text(examples::auth_failed(value));
            assert!(rendered.contains(&format!("user={value:?} reason=")), "{rendered:?}");
            assert!(!rendered.trim_end().contains(['\u{202e}', '\u{2028}', '\u{85}']), "{rendered:?}");
            assert_eq!(json(examples::auth_failed(value))["user"], value);
        }
    }

    #[test]
    fn an_absent_value_an_empty_one_and_a_dash_are_told_apart() {
        assert!(text(examples::message_refused(552)).contains(" sender=- "));
        assert!(text(examples::auth_failed("-")).contains(" user=\"-\" "));
        assert!(text(examples::auth_failed("")).contains(" user=\"\" "));
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let long = format!("{}é", "a".repeat(limits::LOG_VALUE_BYTES_MAX - 1));
        assert_eq!(json(examples::auth_failed(&long))["user"], "a".repeat(limits::LOG_VALUE_BYTES_MAX - 1));
    }

    #[test]
    fn a_fault_is_an_error_with_its_reason() {
        let rendered = text(examples::connection_ended(Outcome::Fault("no room".into())));
        assert!(
            rendered.contains(" error connection_ended ") && rendered.contains(" reason=\"no room\" "),
            "{rendered}"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar_and_a_broken_clock_breaks_nothing() {
        assert_eq!(Timestamp(Duration::from_millis(1_709_210_096_007)).to_string(), "2024-02-29T12:34:56.007Z");
        assert_eq!(Timestamp(Duration::MAX).to_string().len(), "2024-02-29T12:34:56.007Z".len());
    }

    #[test]
    fn a_format_is_found_by_its_word_and_no_other() {
        assert_eq!(LogFormat::from_word("text"), Some(LogFormat::Text));
        assert_eq!(LogFormat::from_word("json"), Some(LogFormat::Json));
        assert_eq!(LogFormat::from_word("JSON"), None);
    }
}
