//! The configuration of `onetrip serve`, made from the command line, the configuration file and the defaults.
//!
//! A flag beats the file, and the file beats the default. Every flag is a key of the file, spelled the same way:
//! `--idle-timeout 60` on the command line is `idle-timeout = 60` in the file.
//!
//! It opens no file, asks the system nothing and prints nothing: text comes in, a [`Config`] or a [`ConfigError`] goes
//! out. What the system knows comes in as [`Host`].

mod destination;
mod file;
mod kind;
mod listen;
mod reference;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches};

use crate::exit::Exit;
use crate::limits::{ROUTES_MAX, STREAM_MEMORY_BYTES};
use crate::relay::{Destination, RelayTls, SyncPolicy};
use crate::tls::config::Returning;
use file::FileValues;
use kind::{Cores, DomainName, Kind, bytes};
pub use listen::Listen;
pub use reference::page;
pub use table::{Config, Setting, settings};

/// What was said on the command line: for each flag its values, unjudged.
#[derive(Clone, Debug, Default)]
pub struct Flags(BTreeMap<String, Vec<String>>);

/// The configuration file: its path, for messages, and its text.
#[derive(Clone, Copy, Debug)]
pub struct ConfigFile<'a> {
    /// The path as it was given.
    pub path: &'a Path,
    /// All of its text.
    pub text: &'a str,
}

/// What the system knows and some defaults depend on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The host's own name.
    pub name: String,
    /// The numbers of the cores that this process may run on, in ascending order.
    pub cores: Vec<usize>,
}

/// What is wrong with the configuration, where, and what to do about it. It prints on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    place: Place,
    problem: String,
    remedy: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The value of a flag on the command line.
    Flag(String),
    /// A line of the file, and the key on it if the text could be read that far.
    File { path: PathBuf, line: usize, key: Option<String> },
    /// What the system or the defaults say, or values that do not go together.
    Whole { exit: Exit },
}

impl Config {
    /// Puts the configuration together and checks it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: an unknown key, a value that is not of its kind, values that do not go together.
    pub fn resolve(flags: &Flags, file: Option<ConfigFile<'_>>, host: &Host) -> Result<Self, ConfigError> {
        let given = Given::new(flags, file)?;
        let mut config = Self::read(&given, host)?;
        check_host_name(&config, &given)?;
        check_listeners(&config, &given)?;
        check_certificates(&config, &given)?;
        check_destinations(&config, &given)?;
        check_cores(&config, &given, host)?;
        check_times(&config, &given)?;
        check_retries(&config, &given)?;
        check_memory(&config, &given)?;
        if !given.has("cores") && config.shards != config.cores.len() {
            config.cores.clear();
        }
        Ok(config)
    }

    /// Only the path of the users file, for commands that need nothing else.
    ///
    /// # Errors
    ///
    /// As for [`Config::resolve`], but values are not held against each other.
    pub fn users_file(flags: &Flags, file: Option<ConfigFile<'_>>) -> Result<PathBuf, ConfigError> {
        let given = Given::new(flags, file)?;
        Ok(Self::read(&given, &Host::default())?.users)
    }

    /// What a client that was here before may do on a listener.
    pub fn returning(&self, listen: &Listen) -> Returning {
        if self.tls_sessions == 0 { Returning::StartAnew } else { listen.returning(self.early_data) }
    }

    /// Only the path of the state directory, for commands that need nothing else.
    ///
    /// # Errors
    ///
    /// As for [`Config::resolve`], but values are not held against each other.
    pub fn state_dir(flags: &Flags, file: Option<ConfigFile<'_>>) -> Result<PathBuf, ConfigError> {
        let given = Given::new(flags, file)?;
        Ok(Self::read(&given, &Host::default())?.state_dir)
    }

    /// The core that a shard is pinned to, or `None` if the kernel may move it.
    pub fn core_of_shard(&self, shard: usize) -> Option<usize> {
        self.cores.get(shard).copied()
    }

    /// The certificate chains with their keys, the default one first; empty if the server makes its own.
    pub fn certificates(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.tls_cert.iter().zip(&self.tls_key).map(|(chain, key)| (chain.as_path(), key.as_path()))
    }
}

impl Flags {
    /// Takes what clap has found of our settings.
    pub fn from_matches(matches: &ArgMatches) -> Self {
        let found = settings().into_iter().filter_map(|setting| {
            let values = matches.try_get_many::<String>(setting.name).ok()??;
            Some((setting.name.to_owned(), values.cloned().collect()))
        });
        Self(found.collect())
    }

    /// Flags by name and value, as if they had been given on the command line: for tests and for programs that run
    /// the server inside themselves. Unknown names are ignored.
    pub fn of(flags: &[(&str, &str)]) -> Self {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in flags {
            values.entry((*name).to_owned()).or_default().push((*value).to_owned());
        }
        Self(values)
    }
}

impl Setting {
    /// The flag as clap wants to know it. Values stay text: [`Config::resolve`] reads them, wherever they come from.
    pub fn argument(&self) -> Arg {
        let action = if self.repeatable { ArgAction::Append } else { ArgAction::Set };
        Arg::new(self.name)
            .long(self.name)
            .value_name(self.value)
            .help(format!("{} [{}] [default: {}]", self.help, self.accepts, self.default))
            .help_heading(self.heading)
            .action(action)
    }
}

impl ConfigError {
    /// The exit code: a wrong command line is told apart from a wrong file.
    pub fn exit(&self) -> Exit {
        match self.place {
            Place::Flag(_) => Exit::Usage,
            Place::File { .. } => Exit::Config,
            Place::Whole { exit } => exit,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Flag(name) => write!(f, "--{name}: ")?,
            Place::File { path, line, key: None } => write!(f, "{}:{line}: ", path.display())?,
            Place::File { path, line, key: Some(key) } => write!(f, "{}:{line}: {key}: ", path.display())?,
            Place::Whole { .. } => {}
        }
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ConfigError {}

/// Everything that was given, from both sources.
struct Given<'a> {
    flags: &'a Flags,
    file: FileValues,
    file_path: &'a Path,
}

impl<'a> Given<'a> {
    fn new(flags: &'a Flags, file: Option<ConfigFile<'a>>) -> Result<Self, ConfigError> {
        let Some(file) = file else {
            return Ok(Self { flags, file: FileValues::default(), file_path: Path::new("") });
        };
        Ok(Self { flags, file: FileValues::read(file)?, file_path: file.path })
    }

    fn has(&self, name: &str) -> bool {
        self.flags.0.contains_key(name) || self.file.value(name).is_some()
    }

    /// The value of a setting if it was given. A bad value in the file is an error even where a flag beats it:
    /// otherwise it would come to light on the day the flag is dropped.
    fn value<T>(&self, name: &str, kind: &impl Kind<T>) -> Result<Option<T>, ConfigError> {
        let of_file = self.file.value(name).map(|value| {
            let key = Some(name.to_owned());
            let place = || Place::File { path: self.file_path.to_owned(), line: value.line, key };
            read_at(place, kind, &value.texts)
        });
        let of_flag = self.flags.0.get(name).map(|texts| read_at(|| Place::Flag(name.to_owned()), kind, texts));
        let (of_file, of_flag) = (of_file.transpose()?, of_flag.transpose()?);
        Ok(of_flag.or(of_file))
    }

    /// An error of values that do not go together: the file is to blame if it set any of them.
    fn mismatch(&self, names: &[&str], problem: String, remedy: &str) -> ConfigError {
        let file_has_part =
            names.iter().any(|name| self.file.value(name).is_some() && !self.flags.0.contains_key(*name));
        let exit = if file_has_part { Exit::Config } else { Exit::Usage };
        ConfigError { place: Place::Whole { exit }, problem, remedy: remedy.to_owned() }
    }
}

fn read_at<T>(place: impl FnOnce() -> Place, kind: &impl Kind<T>, texts: &[String]) -> Result<T, ConfigError> {
    kind.parse_all(texts).map_err(|invalid| {
        let (problem, remedy) = (invalid.problem, invalid.remedy);
        ConfigError { place: place(), problem, remedy }
    })
}

fn check_host_name(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    if given.has("hostname") || DomainName.parse(&config.hostname).is_ok() {
        return Ok(());
    }
    let problem = format!("the name of this host, {:?}, is not a domain name", config.hostname);
    let remedy = "give the name that clients connect to with --hostname, like mail.example.org".to_owned();
    Err(ConfigError { place: Place::Whole { exit: Exit::Config }, problem, remedy })
}

fn check_listeners(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    let names = ["listen", "listen-tls", "metrics"];
    if config.listen.is_empty() && config.listen_tls.is_empty() {
        let remedy = "give an address to --listen or --listen-tls, or leave both out";
        return Err(given.mismatch(&names, "there is nothing to listen on".to_owned(), remedy));
    }
    let mut seen = BTreeSet::new();
    let listeners = config.listen.iter().chain(&config.listen_tls).map(|listen| &listen.address);
    for address in listeners.chain(&config.metrics) {
        // Port 0 stands for a different free port each time.
        if address.port() != 0 && !seen.insert(address) {
            let remedy = "give each of --listen, --listen-tls and --metrics a port of its own";
            return Err(given.mismatch(&names, format!("{address} is to be listened on twice"), remedy));
        }
    }
    Ok(())
}

fn check_certificates(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    let (chains, keys) = (config.tls_cert.len(), config.tls_key.len());
    if chains == keys {
        return Ok(());
    }
    let problem = match (chains, keys) {
        (_, 0) => "--tls-cert is given without --tls-key".to_owned(),
        (0, _) => "--tls-key is given without --tls-cert".to_owned(),
        _ => format!("--tls-cert is given {chains} times, --tls-key {keys} times"),
    };
    Err(given.mismatch(&["tls-cert", "tls-key"], problem, "give one key for each certificate, in the same order"))
}

fn check_destinations(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    if config.route.len() > ROUTES_MAX {
        let problem = format!("--route is given {} times, and {ROUTES_MAX} is the most", config.route.len());
        return Err(given.mismatch(
            &["route"],
            problem,
            "let one rule stand for all domains below a name: .example.org",
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = config.route.iter().find(|route| !seen.insert(&route.domain)) {
        let problem = format!("--route is given twice for {}", twice.domain);
        return Err(given.mismatch(&["route"], problem, "give one destination for each domain"));
    }
    let all = || std::iter::once(&config.deliver).chain(config.route.iter().map(|route| &route.destination));
    if let Some(clear) = all().find(|place| is_implicit(place) && place.tls(config.relay_tls) == RelayTls::Off) {
        let problem = format!("{clear} begins with TLS, and --relay-tls is off");
        return Err(given.mismatch(
            &["deliver", "route", "relay-tls"],
            problem,
            "leave --relay-tls out, or write relay:",
        ));
    }
    if config.sync == SyncPolicy::Through {
        return check_through(config, given);
    }
    Ok(())
}

fn is_implicit(place: &Destination) -> bool {
    matches!(place, Destination::Relay { implicit_tls: true, .. })
}

/// One reply must answer for the whole message.
fn check_through(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    let names = ["deliver", "route", "sync"];
    if matches!(config.deliver, Destination::Lmtp(_)) {
        let problem = "--sync through has one answer for a message, and LMTP one for each recipient".to_owned();
        return Err(given.mismatch(&names, problem, "use relay:HOST:PORT, or --sync commit"));
    }
    if !config.route.is_empty() {
        let problem = "--sync through has one answer for a message, and --route more than one place".to_owned();
        return Err(given.mismatch(&names, problem, "leave --route out, or use --sync commit"));
    }
    Ok(())
}

fn check_cores(config: &Config, given: &Given<'_>, host: &Host) -> Result<(), ConfigError> {
    let names = ["cores", "shards"];
    if config.shards == 0 {
        let problem = "the cores of this process are not known".to_owned();
        return Err(given.mismatch(&names, problem, "say how many shards to run with --shards"));
    }
    if !given.has("cores") {
        return Ok(());
    }
    if let Some(core) = config.cores.iter().find(|core| !host.cores.contains(core)) {
        let problem = format!("--cores names core {core}, on which this process may not run");
        let remedy = format!("choose from {}", Cores.show(&host.cores));
        return Err(given.mismatch(&names, problem, &remedy));
    }
    if config.shards != config.cores.len() {
        let problem = format!("--shards is {} but --cores names {}", config.shards, config.cores.len());
        return Err(given.mismatch(&names, problem, "name one core for each shard, or leave out one of the two"));
    }
    Ok(())
}

fn check_times(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    if config.greet_pause < config.login_timeout {
        return Ok(());
    }
    let problem = format!(
        "--greet-pause ({} ms) takes all of --login-timeout ({} s), so that nobody could log in",
        config.greet_pause.as_millis(),
        config.login_timeout.as_secs()
    );
    Err(given.mismatch(&["greet-pause", "login-timeout"], problem, "lower the one or raise the other"))
}

fn check_retries(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    if config.retry_min <= config.retry_max {
        return Ok(());
    }
    let (min, max) = (config.retry_min.as_secs(), config.retry_max.as_secs());
    let problem = format!("--retry-min ({min} s) is longer than --retry-max ({max} s)");
    Err(given.mismatch(&["retry-min", "retry-max"], problem, "lower the one or raise the other"))
}

fn check_memory(config: &Config, given: &Given<'_>) -> Result<(), ConfigError> {
    let is_spooled = config.sync != SyncPolicy::Through;
    let needed = if is_spooled { config.max_message_size.min(STREAM_MEMORY_BYTES) } else { config.max_message_size };
    if config.message_memory >= needed {
        return Ok(());
    }
    let what = if config.max_message_size > needed {
        "a piece of a large message"
    } else {
        "one message of --max-message-size"
    };
    let problem =
        format!("--message-memory ({}) has no room for {what} ({})", bytes(config.message_memory), bytes(needed));
    Err(given.mismatch(&["message-memory", "max-message-size"], problem, "raise the one or lower the other"))
}

#[cfg(test)]
mod tests;
