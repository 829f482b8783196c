//! The one table of settings: every flag of `onetrip serve`, which is also a key of the configuration file, with its
//! type, its default, what it accepts, and what it is for.
//!
//! It decides nothing: [`super`] judges whether the values go together. Command line, file, help and manual are all
//! made from this table, so a setting is added by adding a row.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::destination::{DeliverTo, RouteTo};
use super::kind::{
    Address, Bytes, Choice, Cores, DomainName, Each, FilePath, Kind, Number, Optional, SWITCH, days, milliseconds,
    seconds,
};
use super::listen::{Listen, ListenOn};
use super::{ConfigError, Given, Host};
use crate::limits;
use crate::observe::event::Severity;
use crate::observe::log::LogFormat;
use crate::proto::body::BareNewline;
use crate::proto::qhlo_id::Binding;
use crate::relay::{Destination, RelayTls, Route, SyncPolicy};
use crate::tls::Version;

/// Turns the table into [`Config`], into the reader that fills it, and into the [`Setting`]s that help and manual
/// show.
///
/// A row reads: help, flag, name of the value, field, type, default, kind, and how the default is shown where it is
/// not a constant. Rows are read from the top, so a default may use the fields above it.
macro_rules! settings {
    (
        ($given:ident, $host:ident)
        $($heading:literal {
            $($(#[doc = $help:literal])+
            $flag:literal $value:literal
            $field:ident: $type:ty = $default:expr, $kind:expr $(, shown $shown:literal)?;)+
        })+
    ) => {
        /// The configuration of `onetrip serve`, complete and checked: one field for each flag, of the same name.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($($(#[doc = $help])+ pub $field: $type,)+)+
        }

        impl Config {
            /// Fills every field from the command line, else from the file, else from the default.
            pub(super) fn read($given: &Given<'_>, $host: &Host) -> Result<Self, ConfigError> {
                $($(let $field: $type = match $given.value($flag, &$kind)? {
                    Some(value) => value,
                    None => $default,
                };)+)+
                Ok(Self { $($($field,)+)+ })
            }
        }

        /// Every setting, in the order of the table.
        pub fn settings() -> Vec<Setting> {
            vec![$($(Setting {
                name: $flag,
                value: $value,
                heading: $heading,
                help: concat!($($help),+).trim(),
                accepts: Kind::<$type>::accepts(&$kind),
                default: settings!(@default $type, $default, $kind $(, $shown)?),
                repeatable: repeatable::<$type, _>(&$kind),
            }),+),+]
        }

        #[cfg(test)]
        pub(super) const FLAGS_AND_FIELDS: &[(&str, &str)] = &[$($(($flag, stringify!($field))),+),+];
    };
    (@default $type:ty, $default:expr, $kind:expr) => { Kind::<$type>::show(&$kind, &$default) };
    (@default $type:ty, $default:expr, $kind:expr, $shown:literal) => { $shown.to_owned() };
}

/// What help and manual say about one setting.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The name of the flag without its dashes, and of the key in the file.
    pub name: &'static str,
    /// The name of the value: its unit or its form.
    pub value: &'static str,
    /// The theme under which it is listed.
    pub heading: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What may be written.
    pub accepts: String,
    /// What holds when it is not given.
    pub default: String,
    /// May it be given several times?
    pub repeatable: bool,
}

settings! {
    (given, host)

    "Runtime" {
        /// Directory in which the server keeps what must outlive it: users, secrets, the certificate it makes for
        /// itself, and mail. It is made on the first start.
        "state-dir" "DIR"
        state_dir: PathBuf = PathBuf::from("./onetrip-data"), FilePath;

        /// Processor cores to run on, one shard pinned to each. Without it, shards are pinned only when there are
        /// as many as cores available to the process.
        "cores" "LIST"
        cores: Vec<usize> = host.cores.clone(), Cores, shown "all that are available";

        /// Number of shards. Each is one thread that serves its own connections and shares nothing on the way.
        "shards" "N"
        shards: usize = cores.len(), Number(1, limits::SHARDS_MAX as u64), shown "one for each core";

        /// Take the place of a server that runs on the same state directory: its listening sockets, and then the
        /// directory, without a connection lost. Where none runs it makes no difference.
        "takeover" "on|off"
        takeover: bool = false, SWITCH;

        /// How long transactions may go on after the first signal to stop; 0 stops at once.
        "drain-timeout" "SECONDS"
        drain_timeout: Duration = limits::DRAIN_TIMEOUT, seconds(0, DAY_S);
    }

    "Listeners" {
        /// Where mail programs connect in plain text first and then secure the connection with STARTTLS or QTLS.
        "listen" "ADDR:PORT"
        listen: Vec<Listen> = unless_given(given, "listen-tls", limits::LISTEN), Each(ListenOn),
            shown "127.0.0.1:2587; nothing when only --listen-tls is given";

        /// Where mail programs connect with TLS from the first byte on (RFC 8314).
        "listen-tls" "ADDR:PORT"
        listen_tls: Vec<Listen> = unless_given(given, "listen", limits::LISTEN_TLS), Each(ListenOn),
            shown "127.0.0.1:2465; nothing when only --listen is given";

        /// The name by which the server introduces itself, in greetings and in Received fields. Clients check the
        /// certificate against the name they connect to, so it is best the same.
        "hostname" "NAME"
        hostname: String = host.name.clone(), DomainName, shown "the name of the host";

        /// How long to wait before the greeting. Clients that speak before it without QHLO give themselves
        /// away as robots (draft §12); all others wait.
        "greet-pause" "MS"
        greet_pause: Duration = limits::GREET_PAUSE, milliseconds(0, 60_000);

        /// Connections of one listener that may wait to be accepted. The kernel lowers it to net.core.somaxconn.
        "backlog" "N"
        backlog: u32 = limits::BACKLOG, Number(1, 1 << 20);

        /// TCP Fast Open: connections of one listener that may bring data before their handshake is finished; 0
        /// turns it off. The kernel must allow it too (net.ipv4.tcp_fastopen).
        "fast-open" "N"
        fast_open: u32 = limits::FAST_OPEN_QUEUE, Number(0, 1 << 16);
    }

    "TLS" {
        /// Certificate chain in PEM, the server's own certificate first. The first file is for clients that ask for
        /// no name or for one that no certificate bears. Without any, a self-signed one is made in the state
        /// directory.
        "tls-cert" "FILE"
        tls_cert: Vec<PathBuf> = Vec::new(), Each(FilePath), shown "a self-signed certificate";

        /// Private key in PEM, one for each certificate, in the same order.
        "tls-key" "FILE"
        tls_key: Vec<PathBuf> = Vec::new(), Each(FilePath), shown "the key of the self-signed certificate";

        /// The oldest TLS version that is accepted.
        "tls-min" "VERSION"
        tls_min: Version = Version::Tls12, TLS_MIN;

        /// Sessions kept so that clients can resume them, 200 bytes each, all shards together; 0 turns resumption
        /// off, and each connection pays for a full handshake. Listeners with early data and listeners without keep
        /// their sessions apart, and as many each.
        "tls-sessions" "N"
        tls_sessions: usize = limits::TLS_SESSIONS_MAX, Number(0, 1 << 26);

        /// Let clients that resume a session send commands, and a whole message, with their first flight (TLS 1.3
        /// early data), which saves them a round trip. A listener may say otherwise for itself.
        "early-data" "on|off"
        early_data: bool = true, SWITCH;
    }

    "Delivery" {
        /// What becomes of accepted messages: maildir:DIR puts them into DIR/RECIPIENT/new/; relay:HOST:PORT hands
        /// them to another server by SMTP, relays:HOST:PORT with TLS from the first byte on; lmtp:HOST:PORT and
        /// lmtp:PATH hand them over by LMTP; discard forgets them (for measuring).
        "deliver" "DESTINATION"
        deliver: Destination = Destination::Maildir(state_dir.join("mail")), DeliverTo, shown "maildir:STATE-DIR/mail";

        /// Where messages for one recipient domain go instead; .DOMAIN stands for all domains below it. The longest
        /// match counts.
        "route" "DOMAIN=DESTINATION"
        route: Vec<Route> = Vec::new(), Each(RouteTo);

        /// TLS on the way to other servers: require a verified certificate for the host that is named; opportunistic
        /// uses TLS where it is offered and verifies nothing; off. It counts for LMTP to this host only where it is
        /// given, and never for a Unix-domain socket.
        "relay-tls" "require|opportunistic|off"
        relay_tls: Option<RelayTls> = None, Optional(RELAY_TLS), shown "require; off for LMTP to this host";

        /// Certificates in PEM that other servers are verified against.
        "relay-ca" "FILE"
        relay_ca: Option<PathBuf> = None, Optional(FilePath), shown "what the system trusts";

        /// Names and passwords for other servers: lines of HOST:PORT, user and password, with * for every HOST:PORT.
        /// They are said over TLS with a verified certificate only.
        "relay-auth" "FILE"
        relay_auth: Option<PathBuf> = None, Optional(FilePath);

        /// Connections of each shard to each other server.
        "relay-connections" "N"
        relay_connections: usize = limits::RELAY_CONNECTIONS, Number(1, 10_000);

        /// How long a connection to another server stays open for the next message.
        "relay-idle" "SECONDS"
        relay_idle: Duration = limits::RELAY_IDLE, seconds(0, 300);

        /// What the final 250 promises: commit, that the message is on stable storage; none, that the operating
        /// system has it, and that a crash of the machine may lose it; through, that the place it is delivered to has
        /// it, and nothing is kept here.
        "sync" "commit|none|through"
        sync: SyncPolicy = SyncPolicy::Commit, SYNC;

        /// How long a message that bears a token (XONCE) is known by it: sent again within this time, it is
        /// acknowledged again but not stored again.
        "once-retention" "SECONDS"
        once_retention: Duration = limits::ONCE_RETENTION, seconds(limits::ONCE_RETENTION_MIN.as_secs(), 365 * DAY_S);

        /// Tokens known at a time, all shards together, about 120 bytes of memory each. Beyond it the oldest are
        /// forgotten early.
        "once-max" "N"
        once_max: usize = limits::ONCE_TOKENS_MAX, Number(1, COUNT_MAX);

        /// Threads of each shard that write messages down.
        "delivery-threads" "N"
        delivery_threads: usize = limits::DELIVERY_THREADS, Number(1, 256);

        /// A message with a bare LF or CR: normalize stores CRLF instead, reject refuses it. Neither ever lets one
        /// end a message, which is how messages are smuggled.
        "bare-newline" "reject|normalize"
        bare_newline: BareNewline = BareNewline::Normalize, BARE_NEWLINE;

        /// Leave the client's name and address out of the Received field, so that recipients do not learn where a
        /// user was.
        "hide-client" "on|off"
        hide_client: bool = false, SWITCH;
    }

    "Queue" {
        /// How long to wait after the first attempt to deliver that was put off. The wait doubles with each further
        /// one.
        "retry-min" "SECONDS"
        retry_min: Duration = limits::RETRY_MIN, seconds(1, DAY_S);

        /// The longest wait between two attempts to deliver, and between two looks at a destination that cannot be
        /// reached.
        "retry-max" "SECONDS"
        retry_max: Duration = limits::RETRY_MAX.max(retry_min), seconds(1, 7 * DAY_S),
            shown "3600, or --retry-min if that is longer";

        /// How long a message may wait before its sender gets it back. RFC 5321 §4.5.4.1 asks for four to five days.
        "queue-lifetime" "SECONDS"
        queue_lifetime: Duration = limits::QUEUE_LIFETIME, seconds(1, 365 * DAY_S);

        /// The age at which senders who asked for it (NOTIFY=DELAY) are told that a message is late.
        "delay-warning" "SECONDS"
        delay_warning: Duration = limits::DELAY_WARNING, seconds(1, 365 * DAY_S);

        /// Messages in the queue, all shards together. Beyond it new mail is put off with 452; reports to senders are
        /// still taken.
        "queue-max" "N"
        queue_max: u64 = limits::QUEUE_MAX, Number(1, COUNT_MAX);
    }

    "Limits" {
        /// Largest message, announced as SIZE.
        "max-message-size" "BYTES"
        max_message_size: u64 = limits::MESSAGE_BYTES_MAX, Bytes(1, 1 << 32);

        /// Memory of each shard for messages that are coming in. Over it, further mail is put off with 452. A message takes
        /// some 512 KiB at most, as large ones go into the spool piece by piece; with `--sync through`, all of its size.
        "message-memory" "BYTES"
        message_memory: u64 = limits::MESSAGE_MEMORY_BYTES.max(max_message_size), Bytes(1, 1 << 40),
            shown "512MiB, or room for one message of --max-message-size";

        /// Recipients of one message, announced as LIMITS RCPTMAX. RFC 5321 §4.5.3.1.8 asks for at least 100.
        "recipients-max" "N"
        recipients_max: u32 = limits::RECIPIENTS_MAX, Number(1, 1_000_000);

        /// Messages on one connection, announced as LIMITS MAILMAX.
        "messages-max" "N"
        messages_max: u32 = limits::MESSAGES_MAX, Number(1, COUNT_MAX);

        /// Commands on one connection that lead to no message; each message starts the count anew.
        "commands-max" "N"
        commands_max: u32 = limits::COMMANDS_MAX, Number(COMMANDS_MIN, COUNT_MAX);

        /// Refused commands on one connection before it is closed.
        "errors-max" "N"
        errors_max: u32 = limits::ERRORS_MAX, Number(1, COUNT_MAX);

        /// Open connections of each shard.
        "connections-max" "N"
        connections_max: u32 = limits::CONNECTIONS_MAX, Number(1, COUNT_MAX);

        /// Open connections from one address, all shards together. Many users may share one address behind a NAT.
        "connections-per-address-max" "N"
        connections_per_address_max: u32 = limits::CONNECTIONS_PER_ADDRESS_MAX, Number(1, COUNT_MAX);

        /// How late a shard may be with what its clients have sent. One that is later than a quarter of that, for five times as
        /// long as that, is asked for more than it can do: it turns some new clients away with 421, and seven in eight when
        /// it is as late as that. 0 turns nobody away.
        "lateness-max" "MS"
        lateness_max: Duration = limits::LATENESS_MAX, milliseconds(0, 60_000);

        /// How long a client may be silent. RFC 5321 §4.5.3.2.7 asks for five minutes.
        "idle-timeout" "SECONDS"
        idle_timeout: Duration = limits::IDLE_TIMEOUT, seconds(1, DAY_S);

        /// How long a client may take from connecting to a successful AUTH.
        "login-timeout" "SECONDS"
        login_timeout: Duration = limits::LOGIN_TIMEOUT, seconds(1, DAY_S);

        /// How long one transaction may take, from MAIL to the end of the message.
        "transaction-timeout" "SECONDS"
        transaction_timeout: Duration = limits::TRANSACTION_TIMEOUT, seconds(1, DAY_S);
    }

    "Authentication" {
        /// The file with the users and the hashes of their passwords, as onetrip user writes it.
        "users" "FILE"
        users: PathBuf = state_dir.join("users"), FilePath, shown "STATE-DIR/users";

        /// Let each user send only from the addresses that the users file allows. Without it, a list of senders in
        /// that file is not looked at.
        "enforce-sender" "on|off"
        enforce_sender: bool = false, SWITCH;

        /// How long a verified password is remembered, so that it is not hashed again; 0 hashes it each
        /// time.
        "auth-remember" "SECONDS"
        auth_remember: Duration = limits::AUTH_REMEMBER, seconds(0, 30 * DAY_S);

        /// Failed AUTH commands on one connection before it is closed.
        "auth-attempts-max" "N"
        auth_attempts_max: u32 = limits::AUTH_ATTEMPTS_MAX, Number(1, COUNT_MAX);

        /// Failures of one address or of one user within the window; further attempts are put off unjudged.
        "auth-failures-max" "N"
        auth_failures_max: u32 = limits::AUTH_FAILURES_MAX, Number(1, COUNT_MAX);

        /// How long a failure counts.
        "auth-failure-window" "SECONDS"
        auth_failure_window: Duration = limits::AUTH_FAILURE_WINDOW, seconds(1, DAY_S);

        /// How long the answer to the first failure waits; the wait doubles with each further failure, up to 15
        /// seconds.
        "auth-failure-delay" "MS"
        auth_failure_delay: Duration = limits::AUTH_FAILURE_DELAY, milliseconds(0, AUTH_FAILURE_DELAY_MAX_MS);

        /// Threads that hash passwords, all shards together. Each can take a core from mail while many log in.
        "password-threads" "N"
        password_threads: usize = limits::PASSWORD_THREADS, Number(1, 256);
    }

    "QUICKSTART" {
        /// How much of the client's address a qhlo-id is bound to: all of it; its network (/24 of IPv4, /56 of
        /// IPv6), for clients that move about in one; or none, for clients that change networks, at the price that
        /// an id can be passed on.
        "qhlo-binding" "address|network|none"
        qhlo_binding: Binding = Binding::Address, QHLO_BINDING;

        /// How long the secret of the qhlo-ids is in use. The one before stays good, so a client that comes back
        /// within this time never loses a round trip.
        "qhlo-rotation" "DAYS"
        qhlo_rotation: Duration = limits::QHLO_ROTATION, days(1, 3_650);
    }

    "Observing" {
        /// Where metrics are served over HTTP in the Prometheus format. There is no password: keep it inside.
        "metrics" "ADDR:PORT"
        metrics: Option<SocketAddr> = None, Optional(Address);

        /// How log lines are written: text for people, json for programs.
        "log-format" "text|json"
        log_format: LogFormat = LogFormat::Text, LOG_FORMAT;

        /// The least important events that are logged.
        "log-level" "LEVEL"
        log_level: Severity = Severity::Info, LOG_LEVEL;
    }
}

/// The default of one kind of listener applies only if the other kind was not asked for either.
fn unless_given(given: &Given<'_>, other: &str, default: SocketAddr) -> Vec<Listen> {
    if given.has(other) { Vec::new() } else { vec![Listen::on(default)] }
}

fn repeatable<T, K: Kind<T>>(_kind: &K) -> bool {
    K::REPEATABLE
}

const TLS_MIN: Choice<Version> = Choice(&[("1.2", Version::Tls12), ("1.3", Version::Tls13)]);
const SYNC: Choice<SyncPolicy> =
    Choice(&[("commit", SyncPolicy::Commit), ("none", SyncPolicy::None), ("through", SyncPolicy::Through)]);
const RELAY_TLS: Choice<RelayTls> =
    Choice(&[("require", RelayTls::Require), ("opportunistic", RelayTls::Opportunistic), ("off", RelayTls::Off)]);
const BARE_NEWLINE: Choice<BareNewline> =
    Choice(&[("reject", BareNewline::Reject), ("normalize", BareNewline::Normalize)]);
const QHLO_BINDING: Choice<Binding> =
    Choice(&[("address", Binding::Address), ("network", Binding::Network), ("none", Binding::None)]);
const LOG_FORMAT: Choice<LogFormat> = Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
const LOG_LEVEL: Choice<Severity> = Choice(&[
    ("error", Severity::Error),
    ("warning", Severity::Warning),
    ("info", Severity::Info),
    ("debug", Severity::Debug),
]);

/// Longest wait that makes sense for one connection, in seconds: a day.
const DAY_S: u64 = 86_400;

/// Highest count that can be asked for: beyond it a limit is none, and a slip of the keyboard is likelier.
const COUNT_MAX: u64 = 1_000_000_000;

/// The commands of one login in the longest way, EHLO, STARTTLS, EHLO, AUTH and QUIT, must fit.
const COMMANDS_MIN: u64 = 5;

/// The first wait may not be longer than the longest.
const AUTH_FAILURE_DELAY_MAX_MS: u64 = limits::AUTH_FAILURE_DELAY_MAX.as_millis() as u64;
