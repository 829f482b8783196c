//! The command line: what can be asked for, and how it becomes an order.

#![allow(rustdoc::broken_intra_doc_links, reason = "the texts are help for a terminal, where brackets mean optional")]

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use onetrip::proto::client::Address;
use onetrip::proto::secret::Secret;
use onetrip::tls::Versions;
use onetrip::tls::certificate::chain_from_pem;
use onetrip::tls::client::Trust;
use rustls::pki_types::ServerName;

use crate::fail_if::Condition;
use crate::link::Profile;
use crate::plan::{Arrivals, End, Load, Mix, Plan, Size, parse_links, parse_scenarios};
use crate::run::Order;
use crate::scenario::Scenario;
use crate::sink::Rule;
use crate::target::{Target, User};

/// Measures mail submission servers under high latency.
#[derive(Debug, Parser)]
#[command(name = "onetrip-loadgen", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Puts a server under load and reports how it did.
    Run(Box<RunArguments>),
    /// Prints the packets of one submission over a real link (needs root).
    Ladder(LadderArguments),
    /// Runs every scenario over a real link and over the model, and prints them side by side (needs root).
    Compare(CompareArguments),
    /// Runs one program at each end of a real link (needs root).
    Link(LinkArguments),
    /// Proves that every acknowledged message is in the Maildirs exactly once and intact.
    Audit {
        /// Where the Maildirs are, however deep.
        directory: PathBuf,
        /// The file that `run --acknowledged` wrote.
        #[arg(long, value_name = "FILE")]
        acknowledged: PathBuf,
    },
    /// Receives mail, as the next hop of a server under test; no TLS, no AUTH.
    Sink {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:2525")]
        listen: SocketAddr,
        /// Keep mail in this Maildir; otherwise it is thrown away.
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
        /// STAGE[~TEXT][@PERCENT]=DEED; may be repeated, the first that applies strikes. Stages: connect, hello, mail, rcpt,
        /// data, end. Deeds: a 4xx or 5xx reply, disconnect, delay MS.
        #[arg(long = "rule", value_parser = Rule::parse)]
        rules: Vec<Rule>,
        /// For the rules that strike now and then.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// The server under test.
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// The user's name; without one nobody logs in.
    #[arg(long, requires = "password_file", conflicts_with = "users")]
    user: Option<String>,
    /// A file that holds the user's password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A file with a user's name and password on each line; each client is one of them.
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Roots or self-signed certificates to trust (PEM); without it any certificate is taken.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that the certificate must bear.
    #[arg(long, default_value = "localhost")]
    server_name: String,
    /// The sender of all messages.
    #[arg(long, default_value = "load@example.org")]
    from: String,
    /// Domain of the recipients; they are user0@DOMAIN, user1@DOMAIN and so on.
    #[arg(long, default_value = "example.org", value_name = "DOMAIN")]
    to_domain: String,
    /// How many recipients there are.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    mailboxes: u64,
    /// Longest wait for a reply, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    reply_timeout: u64,
}

impl ServerArguments {
    /// The target behind this address.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn target(
        &self,
        address: SocketAddr,
        implicit_address: Option<SocketAddr>,
        versions: Versions,
        sources: u16,
    ) -> Result<Target, String> {
        Address::parse(&format!("user0@{}", self.to_domain)).map_err(|error| format!("--to-domain {error}"))?;
        Ok(Target {
            address,
            implicit_address,
            server_name: ServerName::try_from(self.server_name.clone())
                .map_err(|_| format!("{:?} is no server name", self.server_name))?,
            trust: self.trust()?,
            versions,
            users: self.read_users()?,
            sender: Address::parse(&self.from).map_err(|error| format!("--from {error}"))?,
            domain: self.to_domain.clone(),
            mailboxes: self.mailboxes,
            sources: Target::sources_for(address, sources),
            reply_timeout: Duration::from_secs(self.reply_timeout),
        })
    }

    fn trust(&self) -> Result<Trust, String> {
        let Some(path) = &self.ca else { return Ok(Trust::Anyone) };
        let pem = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        chain_from_pem(&pem).map(Trust::Roots).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn read_users(&self) -> Result<Vec<User>, String> {
        if let (Some(name), Some(path)) = (&self.user, &self.password_file) {
            let password = read(path)?;
            return Ok(vec![user(name, password.trim_end_matches(['\r', '\n']))?]);
        }
        let Some(path) = &self.users else { return Ok(Vec::new()) };
        let entry = |line: &str| {
            let (name, password) =
                line.split_once(' ').ok_or_else(|| format!("{}: NAME PASSWORD expected", path.display()))?;
            user(name, password)
        };
        read(path)?.lines().map(entry).collect()
    }
}

fn user(name: &str, password: &str) -> Result<User, String> {
    let user = User { name: name.to_owned(), password: Secret::new(password.as_bytes().to_vec()) };
    // What the client core does not take is refused here, where it can be told.
    onetrip::proto::client::Login::new(&user.name, user.password.clone())
        .map_err(|error| format!("user {name}: {error}"))?;
    Ok(user)
}

fn read(path: &PathBuf) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// A whole run.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The server: HOST:PORT for STARTTLS and QUICKSTART.
    server: String,
    /// The server's address for the scenarios that begin with TLS.
    #[arg(long, value_name = "HOST:PORT")]
    implicit_tls: Option<String>,
    #[command(flatten)]
    server_arguments: ServerArguments,
    /// Version of TLS to offer: 1.2, 1.3, or both by default.
    #[arg(long, value_parser = parse_versions, default_value = "both")]
    tls: Versions,
    /// Sessions begun per second, whether earlier ones are done or not (open loop).
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "connections", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Clients that are at it all the time (closed loop).
    #[arg(long, value_name = "CLIENTS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Begin sessions at random distances, as many independent people do, instead of even ones.
    #[arg(long)]
    poisson: bool,
    /// The load rises evenly during so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    ramp: u64,
    /// Begin no session after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    duration: u64,
    /// Begin so many sessions instead of running for a time.
    #[arg(long, value_name = "SESSIONS")]
    count: Option<u64>,
    /// Messages of each session.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// Milliseconds between two messages of a session.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    think_time: u64,
    /// Bytes of a message: 4k, 1k-64k, or ~20k (exponential with this mean).
    #[arg(long, default_value = "4k", value_parser = Size::parse)]
    size: Size,
    /// Recipients of each message.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    recipients: u32,
    /// Scenarios by weight, such as full:9,esmtp:1. There are esmtp, implicit-tls, qhlo, qtls, basic, qtls-resumed, full,
    /// full-resumed, early-data, one-trip, implicit-early-data, implicit-one-trip, fallback, pipeconnect and bad-auth.
    #[arg(long, default_value = "full-resumed", value_parser = parse_scenarios)]
    scenario: Mix<Scenario>,
    /// Links of the clients by weight, such as lte:7,200±20:3. There are loopback, lan, dsl, lte, 3g, satellite and
    /// MS[±JITTER][/MBITS].
    #[arg(long, default_value = "loopback", value_parser = parse_links)]
    link: Mix<Profile>,
    /// Share of the clients that come with what they remember (id and TLS session), 0 to 1.
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    /// Everything random follows from this number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Addresses on this machine that clients of a local server come from.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10000))]
    sources: u16,
    /// Processors to use, such as 0,2-3; all by default.
    #[arg(long, value_parser = parse_cores)]
    cores: Option<Cores>,
    /// The server's process on this machine: its processor time and memory are reported.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Write acknowledged messages down here, for `audit`.
    #[arg(long, value_name = "FILE")]
    acknowledged: Option<PathBuf>,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the percentiles for HdrHistogram's plotters.
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
    /// Write the report as one HTML page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Show this run beside an earlier one (its --json).
    #[arg(long, value_name = "FILE")]
    pub(crate) compare_to: Option<PathBuf>,
    /// Exit with 1 if this holds, such as 'p99>50ms', 'full:errors>0', 'rate<500', 'resumed<99%' or
    /// 'early-data<99%'; may be repeated.
    #[arg(long, value_parser = Condition::parse)]
    pub(crate) fail_if: Vec<Condition>,
}

impl RunArguments {
    /// The order.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn order(&self) -> Result<Order, String> {
        let implicit = self.implicit_tls.as_deref().map(resolve).transpose()?;
        if !(0.0..=1.0).contains(&self.warm) {
            return Err("--warm is a share from 0 to 1".to_owned());
        }
        let arrivals = if self.poisson { Arrivals::Poisson } else { Arrivals::Even };
        Ok(Order {
            target: self.server_arguments.target(resolve(&self.server)?, implicit, self.tls, self.sources)?,
            plan: Plan {
                load: self
                    .rate
                    .map_or(Load::Closed { clients: self.connections }, |per_s| Load::Open { per_s, arrivals }),
                ramp: Duration::from_secs(self.ramp),
                end: self.count.map_or(End::After(Duration::from_secs(self.duration)), End::Sessions),
                messages: self.messages,
                think_time: Duration::from_millis(self.think_time),
                size: self.size,
                recipients: self.recipients,
                scenarios: self.scenario.clone(),
                links: self.link.clone(),
                warm_share: self.warm,
                seed: self.seed,
            },
            cores: self.cores.clone().map_or_else(all_cores, |Cores(cores)| cores),
            journal: self.acknowledged.clone(),
            server_pid: self.server_pid,
            command: std::env::args().collect::<Vec<_>>().join(" "),
        })
    }
}

/// One submission over a real link.
#[derive(Debug, Args)]
pub(crate) struct LadderArguments {
    #[command(flatten)]
    pub(crate) far: FarArguments,
    /// The scenario.
    #[arg(long, default_value = "full-resumed", value_parser = Scenario::parse)]
    pub(crate) scenario: Scenario,
    /// Version of TLS: 1.2, 1.3, or both.
    #[arg(long, value_parser = parse_versions, default_value = "both")]
    pub(crate) tls: Versions,
}

/// All scenarios over a real link and over the model.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    #[command(flatten)]
    pub(crate) far: FarArguments,
    /// Exit with 1 if the model is off by more than so many percent in any row.
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    pub(crate) tolerance: f64,
    /// How often each row is measured; the medians count.
    #[arg(long, default_value_t = 3, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
}

/// A server that is started at the far end of a real link.
#[derive(Debug, Args)]
pub(crate) struct FarArguments {
    #[command(flatten)]
    pub(crate) server_arguments: ServerArguments,
    /// The link: lan, dsl, lte, 3g, satellite or MS[±JITTER][/MBITS].
    #[arg(long, default_value = "200", value_parser = Profile::parse)]
    pub(crate) link: Profile,
    /// Bytes of the message.
    #[arg(long, default_value = "4k", value_parser = Size::parse)]
    pub(crate) size: Size,
    /// Where the server listens at the far end for STARTTLS and QUICKSTART.
    #[arg(long, default_value_t = 2587)]
    pub(crate) port: u16,
    /// Where it listens for implicit TLS, if it does.
    #[arg(long, value_name = "PORT")]
    pub(crate) implicit_tls_port: Option<u16>,
    /// The command that starts the server; it must listen on 198.18.0.2 or on all addresses.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) server: Vec<String>,
}

/// Two programs with a real link between them. Both find LINK_NEAR, LINK_FAR (addresses) and LINK_MS (the round trip) in their
/// environment.
#[derive(Debug, Args)]
pub(crate) struct LinkArguments {
    /// The link: lan, dsl, lte, 3g, satellite or MS[±JITTER][/MBITS].
    #[arg(long, default_value = "200", value_parser = Profile::parse)]
    pub(crate) link: Profile,
    /// What runs at the far end, 198.18.0.2, in the words of a shell; it is ended with the other.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) far: String,
    /// What runs at the near end, 198.18.0.1; its exit code is that of this command.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) near: Vec<String>,
}

/// Processors by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores(Vec<usize>);

fn parse_cores(text: &str) -> Result<Cores, String> {
    let words = || format!("{text:?} is no list of processors: say 0,2-3");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = first.parse().ok().zip(last.parse().ok()).ok_or_else(words)?;
        cores.extend((first..=last).take(CORES_MAX));
    }
    if cores.is_empty() { Err(words()) } else { Ok(Cores(cores)) }
}

/// Most processors that one machine may have.
const CORES_MAX: usize = 4_096;

fn all_cores() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.is_empty() { vec![0] } else { cores.into_iter().map(|core| core.id).collect() }
}

fn parse_versions(text: &str) -> Result<Versions, String> {
    match text {
        "1.2" => Ok(Versions::Tls12),
        "1.3" => Ok(Versions::Tls13),
        "both" => Ok(Versions::Both),
        _ => Err("say 1.2, 1.3 or both".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("{text:?} is no rate: say a number above 0"))
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("cannot resolve {text:?}: {error}"))?;
    addresses.next().ok_or_else(|| format!("{text:?} has no address"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Arguments, Cores, parse_cores};

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn processors_are_read() {
        assert_eq!(parse_cores("0,2-4"), Ok(Cores(vec![0, 2, 3, 4])));
        assert!(["", "x", "3-1", "1-"].into_iter().all(|text| parse_cores(text).is_err()));
    }

    #[test]
    fn mistakes_are_refused_before_anything_happens() {
        for wrong in [
            &["run", "127.0.0.1:1", "--scenario", "slow"][..],
            &["run", "127.0.0.1:1", "--rate", "0"],
            &["run", "127.0.0.1:1", "--rate", "5", "--connections", "5"],
            &["run", "127.0.0.1:1", "--fail-if", "p99"],
            &["sink", "--rule", "x"],
            &["ladder"],
        ] {
            let words = std::iter::once("onetrip-loadgen").chain(wrong.iter().copied());
            assert!(Arguments::try_parse_from(words).is_err(), "{wrong:?}");
        }
    }
}
