//! What `onetrip check` says: findings about a host, made from facts about it.
//!
//! Facts come in as values ([`facts`]), findings go out. It must not touch the host itself: what is gathered, and how, is
//! the runtime's business, and so is what is set to mend it.

pub mod descriptors;
pub mod facts;
mod kernel;
mod network;
pub mod profile;
mod report;
mod site;
mod storage;

#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::exit::Exit;
use crate::time::Now;
use facts::{HostFacts, SiteFacts};
use profile::Profile;
pub use report::{Applied, Report};

/// One thing that was looked at, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub subject: String,
    /// How good or bad it is.
    pub level: Level,
    /// What was found and what follows from it, one sentence or two.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<Remedy>,
}

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// The server runs, but worse than it could.
    Warning,
    /// The server does not start, or breaks a promise. The command ends with this exit code.
    Failure(Exit),
}

/// What mends a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A setting of the kernel, which `--apply` can set.
    Sysctl(Change),
    /// A command for the shell.
    Command(String),
    /// What no single command does.
    Words(String),
}

/// A setting of the kernel and the value that it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name as `sysctl` knows it, such as `net.core.somaxconn`.
    pub name: String,
    /// The value as text.
    pub value: String,
}

/// A configuration that cannot be used: why, and the exit code of a server that was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationFault {
    /// The problem, a colon, the remedy.
    pub text: String,
    /// As `onetrip serve` would end.
    pub exit: Exit,
}

/// What was configured: the configuration with the facts about what it names, or why there is none.
#[derive(Clone, Copy, Debug)]
pub enum Site<'a> {
    /// The configuration is good in itself.
    Configured {
        /// The configuration.
        config: &'a Config,
        /// What is known about the files and addresses that it names.
        facts: &'a SiteFacts,
    },
    /// The configuration was refused; only the host itself is judged.
    Refused(&'a ConfigurationFault),
}

/// Judges a host, and holds it against a profile if one is given.
pub fn judge(now: Now, host: &HostFacts, site: Site<'_>, profile: Option<Profile>) -> Report {
    let config = match site {
        Site::Configured { config, .. } => Some(config),
        Site::Refused(_) => None,
    };
    let mut findings = kernel::judge(host, config);
    findings.extend(network::judge_host(host, config));
    match site {
        Site::Configured { config, facts } => {
            findings.push(Finding::ok("configuration", "onetrip serve accepts it"));
            findings.extend(network::judge_addresses(host, facts));
            findings.extend(storage::judge(&facts.places, config, facts.user));
            findings.extend(site::judge(now, config, facts));
        }
        Site::Refused(fault) => {
            findings.push(Finding::failure("configuration", fault.exit, &fault.text, None));
        }
    }
    findings.extend(profile.into_iter().flat_map(|profile| profile.judge(host)));
    Report::new(findings)
}

impl Finding {
    fn new(subject: &str, level: Level, what: impl Into<String>, remedy: Option<Remedy>) -> Self {
        Self { subject: subject.to_owned(), level, what: what.into(), remedy }
    }

    fn ok(subject: &str, what: impl Into<String>) -> Self {
        Self::new(subject, Level::Ok, what, None)
    }

    fn note(subject: &str, what: impl Into<String>, remedy: impl Into<Option<Remedy>>) -> Self {
        Self::new(subject, Level::Note, what, remedy.into())
    }

    fn warning(subject: &str, what: impl Into<String>, remedy: Remedy) -> Self {
        Self::new(subject, Level::Warning, what, Some(remedy))
    }

    fn failure(subject: &str, exit: Exit, what: impl Into<String>, remedy: impl Into<Option<Remedy>>) -> Self {
        Self::new(subject, Level::Failure(exit), what, remedy.into())
    }
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failure(_) => "failure",
        }
    }
}

impl Remedy {
    fn sysctl(name: &str, value: impl Into<String>) -> Self {
        Self::Sysctl(Change { name: name.to_owned(), value: value.into() })
    }

    fn command(text: impl Into<String>) -> Self {
        Self::Command(text.into())
    }

    fn words(text: impl Into<String>) -> Self {
        Self::Words(text.into())
    }

    /// The change that `--apply` would make.
    pub const fn change(&self) -> Option<&Change> {
        match self {
            Self::Sysctl(change) => Some(change),
            Self::Command(_) | Self::Words(_) => None,
        }
    }
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sysctl(change) => change.fmt(f),
            Self::Command(text) | Self::Words(text) => f.write_str(text),
        }
    }
}

impl std::fmt::Display for Change {
    /// As a command for the shell.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let quote = if self.value.contains([' ', '\t']) { "'" } else { "" };
        write!(f, "sysctl -w {quote}{}={}{quote}", self.name, self.value)
    }
}
