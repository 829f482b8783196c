//! Events in the life of the service: starting, reloading, stopping.
//!
//! They happen a few times a day; none belongs to a connection.

use std::{net::SocketAddr, time::Duration};

use super::{Describe, Fields, Severity, Text, microseconds};
use crate::observe::label::ListenerKind;

/// A listener is open. Nothing need be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where, with the port that the system chose if it was asked to.
    pub address: SocketAddr,
    /// What it expects first.
    pub listener: ListenerKind,
}

impl Describe for Listening {
    const NAME: &'static str = "listening";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("address", &self.address.to_string());
        fields.text("listener", self.listener.word());
    }
}

/// All listeners are open and all shards serve. Nothing need be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The version of this program.
    pub version: Text,
    /// The name that clients are greeted with.
    pub hostname: Text,
    /// The number of shards.
    pub shards: u16,
}

impl Describe for Ready {
    const NAME: &'static str = "ready";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("version", &self.version);
        fields.text("hostname", &self.hostname);
        fields.number("shards", self.shards.into());
    }
}

/// The service runs, but not as most would want it: a setting gives up safety, or the host holds it back.
///
/// Do what `remedy` says, or be sure that it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The setting or thing concerned, such as `--sync none`.
    pub subject: Text,
    /// What follows from it.
    pub consequence: Text,
    /// What to do about it.
    pub remedy: Text,
}

impl Describe for Warning {
    const NAME: &'static str = "warning";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("subject", &self.subject);
        fields.text("consequence", &self.consequence);
        fields.text("remedy", &self.remedy);
    }
}

/// New certificates are in force from the next handshake on. Nothing need be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateReloaded {
    /// How many certificates there are now.
    pub certificates: u32,
}

impl Describe for CertificateReloaded {
    const NAME: &'static str = "certificate_reloaded";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("certificates", self.certificates.into());
    }
}

/// New certificates could not be loaded; the old ones stay in force, until they expire.
///
/// Mend the file that `reason` names and send the signal again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateReloadFailed {
    /// What is wrong, and with which file.
    pub reason: Text,
}

impl Describe for CertificateReloadFailed {
    const NAME: &'static str = "certificate_reload_failed";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("reason", &self.reason);
    }
}

/// The users file changed and is in force. Nothing need be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersReloaded {
    /// How many users there are now.
    pub users: u64,
}

impl Describe for UsersReloaded {
    const NAME: &'static str = "users_reloaded";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("users", self.users);
    }
}

/// The users file changed but cannot be used; the users known before stay in force.
///
/// Mend the line that `reason` names: until then a removed user can still submit, and a new one cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersReloadFailed {
    /// What is wrong, and in which line.
    pub reason: Text,
}

impl Describe for UsersReloadFailed {
    const NAME: &'static str = "users_reload_failed";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.text("reason", &self.reason);
    }
}

/// Log lines are missing before this one: they came faster than standard error took them.
///
/// Find out what reads standard error so slowly, or raise the level with `--log-level`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLinesDropped {
    /// How many are missing since the last such line.
    pub lines: u64,
}

impl Describe for LogLinesDropped {
    const NAME: &'static str = "log_lines_dropped";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("lines", self.lines);
    }
}

/// Tokens of messages (`XONCE`) were forgotten before their time, because there were too many.
///
/// Raise `--once-max`, or lower `--once-retention`: a message sent again under one of them is stored twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnceTokensForgotten {
    /// How many since the last such line.
    pub tokens: u64,
}

impl Describe for OnceTokensForgotten {
    const NAME: &'static str = "once_tokens_forgotten";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("tokens", self.tokens);
    }
}

/// The service was told to stop: no new connections, and transactions under way may end.
///
/// Nothing need be done; a second signal stops at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    /// Connections still open.
    pub connections: u64,
    /// How long they may go on at most.
    pub timeout: Duration,
}

impl Describe for Draining {
    const NAME: &'static str = "draining";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("connections", self.connections);
        microseconds(fields, "timeout_us", self.timeout);
    }
}

/// A shard cannot go on. The service stops in good order, with exit code 70, so that its manager starts it again.
///
/// The connections of a shard whose code broke an invariant are lost; those of all others, and those of a shard whose ring lost
/// something, may end their transactions. Messages that were acknowledged are safe. It is a defect: report it with this line,
/// unless the machine has run out of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFailed {
    /// The shard.
    pub shard: u16,
    /// What the broken invariant says, or what is lost.
    pub reason: Text,
}

impl Describe for ShardFailed {
    const NAME: &'static str = "shard_failed";

    fn severity(&self) -> Severity {
        Severity::Error
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("shard", self.shard.into());
        fields.text("reason", &self.reason);
    }
}

/// Another server has the listening sockets: this one accepts nobody any more, and stops.
///
/// Nothing need be done; `draining` and `stopped` follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// Sockets that were handed over.
    pub sockets: u64,
}

impl Describe for HandedOver {
    const NAME: &'static str = "handed_over";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("sockets", self.sockets);
    }
}

/// This server takes the place of one that runs, and waits until that one has let go of the state directory. New connections
/// wait too.
///
/// Nothing need be done; `took_over` follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakingOver {
    /// Sockets that were taken over; 0 if the other server had none to give, because it was stopping already.
    pub sockets: u64,
    /// How long it waits at most.
    pub patience: Duration,
}

impl Describe for TakingOver {
    const NAME: &'static str = "taking_over";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("sockets", self.sockets);
        microseconds(fields, "patience_us", self.patience);
    }
}

/// The state directory is this server's now.
///
/// If the wait was long, a transaction went on for so long: lower `--drain-timeout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TookOver {
    /// How long it waited for the other server.
    pub waited: Duration,
}

impl Describe for TookOver {
    const NAME: &'static str = "took_over";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        microseconds(fields, "waited_us", self.waited);
    }
}

/// The service has stopped: its last line.
///
/// If `connections_cut` is often above zero, raise `--drain-timeout`; those clients send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were closed in the middle of something.
    pub connections_cut: u64,
    /// How long the service ran.
    pub uptime: Duration,
}

impl Describe for Stopped {
    const NAME: &'static str = "stopped";

    fn severity(&self) -> Severity {
        Severity::Info
    }

    fn describe(&self, fields: &mut dyn Fields) {
        fields.number("connections_cut", self.connections_cut);
        microseconds(fields, "uptime_us", self.uptime);
    }
}
