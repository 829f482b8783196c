//! Kinds of values: how each is read from text, shown as text, and described to a person.
//!
//! A kind knows one value at a time. Whether two values go together is judged in [`super`].

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

/// A kind of value whose domain type is `T`.
pub(super) trait Kind<T> {
    /// May the setting be given more than once?
    const REPEATABLE: bool = false;

    /// Reads one value.
    fn parse(&self, text: &str) -> Result<T, Invalid>;

    /// The value as a person would write it: `parse` reads it back.
    fn show(&self, value: &T) -> String;

    /// What may be written, for help and manual.
    fn accepts(&self) -> String;

    /// Reads all that was given for one setting.
    fn parse_all(&self, texts: &[String]) -> Result<T, Invalid> {
        let [text] = texts else {
            return Err(Invalid::new("takes one value, not a list", "give one value"));
        };
        self.parse(text)
    }
}

/// A value that is not of its kind: what is wrong with it, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Invalid {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }

    /// The value is not of its kind; the remedy is the description of the kind.
    fn not(text: &str, what: &str, remedy: impl Into<String>) -> Self {
        Self::new(format!("{text:?} is not {what}"), remedy)
    }
}

/// A setting that may be given several times; each value is of the inner kind.
pub(super) struct Each<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Vec<T>> for Each<K> {
    const REPEATABLE: bool = true;

    fn parse(&self, text: &str) -> Result<Vec<T>, Invalid> {
        Ok(vec![self.0.parse(text)?])
    }

    fn show(&self, values: &Vec<T>) -> String {
        let shown: Vec<String> = values.iter().map(|value| self.0.show(value)).collect();
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    }

    fn accepts(&self) -> String {
        format!("{}; may be given several times", self.0.accepts())
    }

    fn parse_all(&self, texts: &[String]) -> Result<Vec<T>, Invalid> {
        texts.iter().map(|text| self.0.parse(text)).collect()
    }
}

/// A setting that is off until it is given.
pub(super) struct Optional<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for Optional<K> {
    fn parse(&self, text: &str) -> Result<Option<T>, Invalid> {
        self.0.parse(text).map(Some)
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| "none".to_owned(), |value| self.0.show(value))
    }

    fn accepts(&self) -> String {
        self.0.accepts()
    }
}

/// A count, both bounds included.
pub(super) struct Number(pub(super) u64, pub(super) u64);

impl<T: TryFrom<u64> + Display> Kind<T> for Number {
    fn parse(&self, text: &str) -> Result<T, Invalid> {
        let value = whole(text, "a whole number", self.0, self.1)?;
        T::try_from(value).map_err(|_| Invalid::not(text, "in reach of this machine", "give a smaller number"))
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }

    fn accepts(&self) -> String {
        format!("a whole number from {} to {}", self.0, self.1)
    }
}

/// A length of time in whole units, both bounds included.
pub(super) struct Time {
    unit: Unit,
    min: u64,
    max: u64,
}

#[derive(Clone, Copy)]
enum Unit {
    Milliseconds,
    Seconds,
    Days,
}

/// Whole milliseconds, both bounds included.
pub(super) const fn milliseconds(min: u64, max: u64) -> Time {
    Time { unit: Unit::Milliseconds, min, max }
}

/// Whole seconds, both bounds included.
pub(super) const fn seconds(min: u64, max: u64) -> Time {
    Time { unit: Unit::Seconds, min, max }
}

/// Whole days, both bounds included.
pub(super) const fn days(min: u64, max: u64) -> Time {
    Time { unit: Unit::Days, min, max }
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "milliseconds",
            Self::Seconds => "seconds",
            Self::Days => "days",
        }
    }

    const fn milliseconds(self) -> u64 {
        match self {
            Self::Milliseconds => 1,
            Self::Seconds => 1_000,
            Self::Days => 86_400_000,
        }
    }
}

impl Kind<Duration> for Time {
    fn parse(&self, text: &str) -> Result<Duration, Invalid> {
        let count = whole(text, &format!("a whole number of {}", self.unit.name()), self.min, self.max)?;
        Ok(Duration::from_millis(count * self.unit.milliseconds()))
    }

    fn show(&self, value: &Duration) -> String {
        (value.as_millis() / u128::from(self.unit.milliseconds())).to_string()
    }

    fn accepts(&self) -> String {
        format!("whole {} from {} to {}", self.unit.name(), self.min, self.max)
    }
}

fn whole(text: &str, what: &str, min: u64, max: u64) -> Result<u64, Invalid> {
    let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits_only {
        return Err(Invalid::not(text, what, format!("write digits only, from {min} to {max}")));
    }
    // Digits that do not fit into 64 bits are too many for every setting.
    let value = text.parse().unwrap_or(u64::MAX);
    if value < min {
        return Err(Invalid::new(format!("{text} is too little"), format!("give at least {min}")));
    }
    if value > max {
        return Err(Invalid::new(format!("{text} is too much"), format!("give at most {max}")));
    }
    Ok(value)
}

/// A size in bytes, both bounds included; K, M and G (also KiB, MiB and GiB) multiply by powers of 1,024.
pub(super) struct Bytes(pub(super) u64, pub(super) u64);

const BYTE_UNITS: [(&str, u64); 6] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

impl Kind<u64> for Bytes {
    fn parse(&self, text: &str) -> Result<u64, Invalid> {
        let (digits, unit) = match BYTE_UNITS.iter().find_map(|(name, size)| Some((text.strip_suffix(name)?, *size))) {
            Some((digits, size)) => (digits, size),
            None => (text, 1),
        };
        let not_a_size = || Invalid::not(text, "a size", "write bytes, or a number with K, M or G, like 50M or 50MiB");
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_a_size());
        }
        let value = digits.parse::<u64>().map_err(|_| not_a_size())?.saturating_mul(unit);
        if value < self.0 {
            return Err(Invalid::new(format!("{text} is too little"), format!("give at least {}", bytes(self.0))));
        }
        if value > self.1 {
            return Err(Invalid::new(format!("{text} is too much"), format!("give at most {}", bytes(self.1))));
        }
        Ok(value)
    }

    fn show(&self, value: &u64) -> String {
        bytes(*value)
    }

    fn accepts(&self) -> String {
        format!("bytes, or a number with K, M or G, from {} to {}", bytes(self.0), bytes(self.1))
    }
}

/// A number of bytes in the largest unit that holds it without a remainder.
pub(super) fn bytes(value: u64) -> String {
    for (name, size) in BYTE_UNITS {
        if value >= size && value.is_multiple_of(size) {
            return format!("{}{name}", value / size);
        }
    }
    value.to_string()
}

/// One word of a few.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

/// `on` or `off`.
pub(super) const SWITCH: Choice<bool> = Choice(&[("on", true), ("off", false)]);

impl<T: Copy + PartialEq> Kind<T> for Choice<T> {
    fn parse(&self, text: &str) -> Result<T, Invalid> {
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            Invalid::new(format!("{text:?} is not one of the choices"), format!("give {}", self.accepts()))
        })
    }

    fn show(&self, value: &T) -> String {
        let found = self.0.iter().find(|(_, choice)| choice == value);
        found.map_or_else(String::new, |(word, _)| (*word).to_owned())
    }

    fn accepts(&self) -> String {
        let words: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    }
}

/// An IP address with a port. Names are not looked up: a listener must not depend on the resolver.
pub(super) struct Address;

impl Kind<SocketAddr> for Address {
    fn parse(&self, text: &str) -> Result<SocketAddr, Invalid> {
        let remedy = "write the address in numbers and the port, like 127.0.0.1:2587 or [::1]:2587";
        text.parse().map_err(|_| Invalid::not(text, "an IP address with a port", remedy))
    }

    fn show(&self, value: &SocketAddr) -> String {
        value.to_string()
    }

    fn accepts(&self) -> String {
        "an IP address with a port, like 0.0.0.0:587; port 0 takes any free port".to_owned()
    }
}

/// The path of a file or directory.
pub(super) struct FilePath;

impl Kind<PathBuf> for FilePath {
    fn parse(&self, text: &str) -> Result<PathBuf, Invalid> {
        if text.is_empty() {
            return Err(Invalid::new("the path is empty", "give the path, or leave the setting out"));
        }
        Ok(PathBuf::from(text))
    }

    fn show(&self, value: &PathBuf) -> String {
        value.display().to_string()
    }

    fn accepts(&self) -> String {
        "a path".to_owned()
    }
}

/// A domain name as RFC 5321 §4.1.2 allows it after EHLO: labels of letters, digits and inner hyphens.
pub(super) struct DomainName;

/// Longest label of a domain name in bytes (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

impl Kind<String> for DomainName {
    fn parse(&self, text: &str) -> Result<String, Invalid> {
        if text.len() > limits::DOMAIN_BYTES_MAX || !text.split('.').all(is_label) {
            let remedy = "give letters, digits and hyphens with dots between, like mail.example.org";
            return Err(Invalid::not(text, "a domain name", remedy));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn accepts(&self) -> String {
        "a domain name, like mail.example.org".to_owned()
    }
}

fn is_label(label: &str) -> bool {
    let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    inner && (1..=LABEL_BYTES_MAX).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

/// Numbers of processor cores, like `0-3,6`.
pub(super) struct Cores;

impl Kind<Vec<usize>> for Cores {
    fn parse(&self, text: &str) -> Result<Vec<usize>, Invalid> {
        let remedy = format!("give numbers up to {} and ranges, each core once, like 0-3,6", limits::CORE_NUMBER_MAX);
        let mut cores = Vec::new();
        for part in text.split(',') {
            let range = core_range(part).ok_or_else(|| Invalid::not(text, "a list of cores", remedy.as_str()))?;
            cores.extend(range);
        }
        cores.sort_unstable();
        if let Some(pair) = cores.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Invalid::new(format!("core {} is named twice", pair[0]), remedy));
        }
        Ok(cores)
    }

    fn show(&self, value: &Vec<usize>) -> String {
        let cores: Vec<String> = value.iter().map(ToString::to_string).collect();
        cores.join(",")
    }

    fn accepts(&self) -> String {
        "numbers of cores and ranges of them, like 0-3,6".to_owned()
    }
}

fn core_range(part: &str) -> Option<std::ops::RangeInclusive<usize>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let core = |text: &str| text.parse().ok().filter(|core| *core <= limits::CORE_NUMBER_MAX);
    let range = core(first)?..=core(last)?;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::{
        Address, Bytes, Choice, Cores, DomainName, Each, FilePath, Invalid, Kind, Number, SWITCH, bytes, days,
        milliseconds, seconds,
    };
    use std::time::Duration;

    fn problem<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
        let Invalid { problem, remedy } = result.unwrap_err();
        format!("{problem}: {remedy}")
    }

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        let size = Bytes(1, 1 << 40);
        for (text, value) in
            [("1", 1), ("4096", 4_096), ("2K", 2_048), ("50M", 50 << 20), ("50MiB", 50 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(size.parse(text), Ok(value), "{text}");
        }
        for text in ["", "M", "MiB", "50MB", "50 M", "-1", "1.5M", "+1", "0x10"] {
            let remedy = "write bytes, or a number with K, M or G, like 50M or 50MiB";
            assert_eq!(problem(size.parse(text)), format!("{text:?} is not a size: {remedy}"));
        }
        assert_eq!(problem(size.parse("0")), "0 is too little: give at least 1");
        assert_eq!(problem(size.parse("99999999999G")), "99999999999G is too much: give at most 1024GiB");
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_without_a_remainder() {
        for (value, text) in [(0, "0"), (1_023, "1023"), (1_024, "1KiB"), (1_025, "1025"), (50 << 20, "50MiB")] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn times_are_whole_numbers_in_the_unit_that_the_flag_names() {
        assert_eq!(seconds(1, 60).parse("5"), Ok(Duration::from_secs(5)));
        assert_eq!(milliseconds(0, 60).parse("5"), Ok(Duration::from_millis(5)));
        assert_eq!(days(1, 60).parse("5"), Ok(Duration::from_secs(5 * 86_400)));
        let text = problem(seconds(1, 60).parse("5s"));
        assert_eq!(text, "\"5s\" is not a whole number of seconds: write digits only, from 1 to 60");
        assert_eq!(problem(seconds(1, 60).parse("0")), "0 is too little: give at least 1");
        assert_eq!(problem(seconds(1, 60).parse("61")), "61 is too much: give at most 60");
        assert_eq!(
            problem(days(1, 60).parse("99999999999999999999")),
            "99999999999999999999 is too much: give at most 60"
        );
    }

    #[test]
    fn a_number_that_does_not_fit_its_type_is_refused_and_not_cut() {
        assert_eq!(Kind::<u8>::parse(&Number(0, 1_000), "255"), Ok(255));
        assert!(Kind::<u8>::parse(&Number(0, 1_000), "256").is_err());
    }

    #[test]
    fn a_choice_names_all_its_words_when_it_refuses_another() {
        assert_eq!(problem(SWITCH.parse("yes")), "\"yes\" is not one of the choices: give on or off");
        assert_eq!(Choice(&[("a", 1), ("b", 2), ("c", 3)]).accepts(), "a, b or c");
    }

    #[test]
    fn an_address_is_in_numbers_and_has_a_port() {
        assert_eq!(Address.parse("[::1]:25").unwrap().port(), 25);
        for text in ["localhost:25", "127.0.0.1", ":25", "::1:25:", ""] {
            assert!(problem(Address.parse(text)).ends_with("like 127.0.0.1:2587 or [::1]:2587"), "{text}");
        }
    }

    #[test]
    fn a_host_name_is_a_domain_of_rfc_5321() {
        for text in ["a", "mail.example.org", "3com.example", "xn--bcher-kva.example", &["a"; 127].join(".")] {
            assert_eq!(DomainName.parse(text).as_deref(), Ok(text));
        }
        let label = "a".repeat(64);
        let long = ["a"; 129].join(".");
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "[127.0.0.1]",
            "b\u{fc}cher.example",
            "a b",
            "a\r\nb",
            &label,
            &long,
        ] {
            assert!(problem(DomainName.parse(text)).contains("is not a domain name"), "{text}");
        }
    }

    #[test]
    fn cores_are_numbers_and_ranges_each_named_once() {
        assert_eq!(Cores.parse("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(Cores.parse("5"), Ok(vec![5]));
        for text in ["", "a", "3-1", "1-", "-1", "0,,1", "0-4294967296", "0 - 3"] {
            assert!(problem(Cores.parse(text)).contains("is not a list of cores"), "{text}");
        }
        assert!(problem(Cores.parse("0-3,2")).starts_with("core 2 is named twice"));
    }

    #[test]
    fn a_list_is_refused_where_one_value_is_wanted_and_read_in_order_where_several_are() {
        let texts = ["b".to_owned(), "a".to_owned()];
        assert_eq!(problem(FilePath.parse_all(&texts)), "takes one value, not a list: give one value");
        assert_eq!(Each(FilePath).parse_all(&texts).unwrap(), ["b", "a"].map(std::path::PathBuf::from));
        assert_eq!(
            problem(Each(FilePath).parse_all(&[String::new()])),
            "the path is empty: give the path, or leave the setting out"
        );
    }
}
