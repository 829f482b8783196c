//! Typed events: what happened, for operators.
//!
//! Whoever notices something builds the struct that says it, once, with every fact that helps; how it looks as a line
//! or which figure it raises is decided elsewhere. An event never holds a secret: no password, no credential, no key
//! and no byte of a message. Each event has its entry in the manual page "events".

mod connection;
mod login;
mod message;
mod queue;
mod service;
mod spool;

use std::{borrow::Cow, fmt, sync::Arc};

pub use connection::{AcceptPaused, ConnectionEnded, ConnectionRefused, Outcome, SessionPanicked, ShardLate, TlsFacts};
pub use login::{AuthFailed, AuthPutOff};
pub use message::{DeliveryFault, MessageRefused, MessageRepeated, MessageStored};
pub use queue::{
    Concerned, DestinationDown, DestinationUp, MessageDeferred, MessageDelivered, MessageExpired, MessageFailed,
    ReportQueued,
};
pub use service::{
    CertificateReloadFailed, CertificateReloaded, Draining, HandedOver, Listening, LogLinesDropped,
    OnceTokensForgotten, Ready, ShardFailed, Stopped, TakingOver, TookOver, UsersReloadFailed, UsersReloaded, Warning,
};
pub use spool::{SpoolDamaged, SpoolFault, SpoolFull, SpoolOpened};

/// Words in an event: most are written in the program, some are put together for the occasion.
pub type Text = Cow<'static, str>;

/// A user's name, shared with the connection that the user opened.
pub type UserName = Arc<str>;

/// Declares [`Event`] from the list of its structs: the one place where a new event is entered.
macro_rules! events {
    ($($name:ident),+ $(,)?) => {
        /// Something that happened. Each variant holds a struct of the same name, which says what it means.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name)),+
        }

        impl Event {
            /// The names of all events, as they stand in log lines and in the manual.
            pub const NAMES: &'static [&'static str] = &[$($name::NAME),+];

            /// The stable name of this event: programs that read the log may rely on it.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => $name::NAME),+
                }
            }

            /// How much it matters.
            pub fn severity(&self) -> Severity {
                match self {
                    $(Self::$name(event) => event.severity()),+
                }
            }

            /// Tells all fields, in the order in which a person wants to read them.
            pub fn describe(&self, fields: &mut dyn Fields) {
                match self {
                    $(Self::$name(event) => event.describe(fields)),+
                }
            }
        }

        $(impl From<$name> for Event {
            fn from(event: $name) -> Self {
                Self::$name(event)
            }
        })+
    };
}

events! {
    ConnectionEnded,
    ConnectionRefused,
    ShardLate,
    AcceptPaused,
    SessionPanicked,
    AuthFailed,
    AuthPutOff,
    MessageStored,
    MessageRepeated,
    MessageRefused,
    DeliveryFault,
    SpoolOpened,
    SpoolDamaged,
    SpoolFault,
    SpoolFull,
    MessageDelivered,
    MessageDeferred,
    MessageFailed,
    MessageExpired,
    ReportQueued,
    DestinationDown,
    DestinationUp,
    Listening,
    Ready,
    Warning,
    CertificateReloaded,
    CertificateReloadFailed,
    UsersReloaded,
    UsersReloadFailed,
    LogLinesDropped,
    OnceTokensForgotten,
    TakingOver,
    TookOver,
    HandedOver,
    ShardFailed,
    Draining,
    Stopped,
}

/// How much an event matters; the least is the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For those who look for a fault.
    Debug,
    /// The course of business.
    Info,
    /// Something to look at when there is time.
    Warning,
    /// Something does not work: look at it now.
    Error,
}

impl Severity {
    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warning, Self::Error];

    /// The word in log lines and of `--log-level`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// The severity that `word` names, if any.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.word() == word)
    }
}

/// Takes the fields of an event, one by one. A name is a word in lower case with its unit last.
pub trait Fields {
    /// A field of words. They may come from a client: whoever renders them makes them harmless.
    fn text(&mut self, name: &'static str, value: &str);

    /// A field of a number.
    fn number(&mut self, name: &'static str, value: u64);

    /// A field that has no value this time.
    fn absent(&mut self, name: &'static str);
}

/// The number of a connection, unique in the life of the process; shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What each event says of itself.
trait Describe {
    /// The stable name.
    const NAME: &'static str;

    /// How much it matters.
    fn severity(&self) -> Severity;

    /// Tells all fields.
    fn describe(&self, fields: &mut dyn Fields);
}

/// Tells a field that may have no value.
fn optional_text(fields: &mut dyn Fields, name: &'static str, value: Option<&str>) {
    match value {
        Some(value) => fields.text(name, value),
        None => fields.absent(name),
    }
}

/// Tells a duration in whole microseconds; the name ends in `_us`.
fn microseconds(fields: &mut dyn Fields, name: &'static str, value: std::time::Duration) {
    fields.number(name, u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
}

#[cfg(test)]
pub(super) mod examples;

#[cfg(test)]
mod tests {
    use super::{ConnectionId, Event, Fields, Severity, examples};

    #[derive(Default)]
    struct Names(Vec<&'static str>);

    impl Fields for Names {
        fn text(&mut self, name: &'static str, _value: &str) {
            self.0.push(name);
        }

        fn number(&mut self, name: &'static str, _value: u64) {
            self.0.push(name);
        }

        fn absent(&mut self, name: &'static str) {
            self.0.push(name);
        }
    }

    /// The manual's entry for an event: from its heading to the next.
    fn manual_entry(name: &str) -> Option<&'static str> {
        let page = include_str!("../manual/events.md");
        page.split("\n## ").find(|entry| entry.lines().next() == Some(&format!("`{name}`")))
    }

    #[test]
    fn every_event_has_an_example() {
        let names: Vec<_> = examples::one_of_each().iter().map(Event::name).collect();
        assert_eq!(names, Event::NAMES);
    }

    #[test]
    fn every_event_and_each_of_its_fields_is_in_the_manual_with_what_to_do() {
        for event in examples::one_of_each() {
            let entry = manual_entry(event.name()).unwrap_or_else(|| panic!("{} has no entry", event.name()));
            assert!(entry.contains("**What to do**"), "{} does not say what to do", event.name());
            assert!(entry.contains(&format!("({}", event.severity().word())), "{}: severity", event.name());
            let mut fields = Names::default();
            event.describe(&mut fields);
            for field in fields.0 {
                assert!(entry.contains(&format!("`{field}`")), "{} does not explain {field}", event.name());
            }
        }
    }

    #[test]
    fn no_field_takes_the_name_of_what_every_line_bears() {
        for event in examples::one_of_each() {
            let mut fields = Names::default();
            event.describe(&mut fields);
            let unique: std::collections::HashSet<_> = fields.0.iter().collect();
            assert_eq!(unique.len(), fields.0.len(), "{} names a field twice", event.name());
            assert!(!fields.0.iter().any(|name| ["ts", "level", "event"].contains(name)), "{}", event.name());
        }
    }

    #[test]
    fn a_severity_is_found_by_its_word_and_no_other() {
        for severity in Severity::ALL {
            assert_eq!(Severity::from_word(severity.word()), Some(severity));
        }
        assert_eq!(Severity::from_word("warn"), None);
        assert!(Severity::Error > Severity::Warning);
    }

    #[test]
    fn a_connection_is_numbered_in_hexadecimal() {
        assert_eq!(ConnectionId(0x1_0000_00ff).to_string(), "1000000ff");
    }
}
