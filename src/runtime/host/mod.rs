//! What `onetrip check` looks at on this host: gathers facts, has them judged, and sets what is to be set.
//!
//! It tries things as the server would, because what a kernel says it allows and what it does are two matters. It must not
//! leave anything behind, and it judges nothing: [`crate::check`] does.

mod network;
mod storage;
mod sysctl;

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::process::{Resource, geteuid, getrlimit};

use super::certificates::CertificateFiles;
use super::clock::Clock;
use super::shard::try_executor;
use super::users_file::{self, UsersFileError};
use crate::check::facts::{
    CertificateFacts, CertificateFound, ClockState, HostFacts, Refused, Role, SiteFacts, UsersFacts, UsersFound,
};
use crate::check::profile::Profile;
use crate::check::{Applied, ConfigurationFault, Report, Site, judge};
use crate::config::Config;
use crate::exit::Exit;
use crate::relay::Destination;
use crate::time::Now;

/// Looks at this host and says what was found.
pub fn check(configured: &Result<Config, ConfigurationFault>, profile: Option<Profile>) -> Report {
    let now = Clock::start().now();
    let host = host_facts();
    match configured {
        Ok(config) => {
            let facts = site_facts(config, now);
            judge(now, &host, Site::Configured { config, facts: &facts }, profile)
        }
        Err(fault) => judge(now, &host, Site::Refused(fault), profile),
    }
}

/// Sets every setting of the kernel that a report asks for, and says what was done.
pub fn apply(report: &Report) -> Vec<Applied> {
    report.changes().into_iter().map(sysctl::set).collect()
}

fn host_facts() -> HostFacts {
    HostFacts {
        kernel_release: sysctl::read("kernel.osrelease"),
        ring: try_ring().map_err(|error| Refused::from(&error)),
        executor: try_executor().map_err(|error| Refused::from(&error)),
        locked_memory: getrlimit(Resource::Memlock).current,
        open_files: getrlimit(Resource::Nofile).maximum,
        memory: memory(),
        sysctls: sysctl::read_all(),
        fast_open: network::try_fast_open(),
        clock: clock_state(),
    }
}

fn site_facts(config: &Config, now: Now) -> SiteFacts {
    let mut places = vec![storage::place(Role::State, &config.state_dir)];
    if let Destination::Maildir(directory) = &config.deliver {
        places.push(storage::place(Role::Mail, directory));
    }
    SiteFacts {
        user: geteuid().as_raw(),
        server: storage::holder_of_lock(&config.state_dir.join("lock")),
        addresses: network::addresses(config),
        places,
        certificates: certificates(config, now),
        users: users(&config.users),
    }
}

// ── Kernel and process ──────────────────────────────────────────────────────────────────────────────────────────────

/// Sets up a ring of a few entries and closes it again: what sysctl, seccomp and security modules allow shows only so.
pub(super) fn try_ring() -> io::Result<()> {
    // struct io_uring_params of linux/io_uring.h: 30 words, all of which may be zero.
    let mut parameters = [0_u32; 30];
    // SAFETY: the kernel reads and writes one io_uring_params, which `parameters` has room for and outlives the call.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, RING_ENTRIES, parameters.as_mut_ptr()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(())
}

fn clock_state() -> ClockState {
    // SAFETY: `timex` is plain numbers, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: with no mode set the call only writes to `timex`, which outlives it.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        ..0 => ClockState::Unknown,
        libc::TIME_ERROR => ClockState::Unsynchronized,
        _ => ClockState::Synchronized,
    }
}

/// The memory of this host or of the control group that this process is in, whichever is less, in bytes.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.split_whitespace().next()?.parse::<u64>().ok()? << 10;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_group = groups.lines().filter_map(group_memory).min();
    Some(of_group.map_or(total, |bytes| bytes.min(total)))
}

/// The limit of the group on one line of `/proc/self/cgroup`, in either version of control groups.
fn group_memory(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let file = match controllers {
        "" => format!("/sys/fs/cgroup{path}/memory.max"),
        "memory" => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
        _ => return None,
    };
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

// ── What the configuration names ────────────────────────────────────────────────────────────────────────────────────

fn certificates(config: &Config, now: Now) -> Vec<CertificateFacts> {
    let named: Vec<CertificateFacts> = config
        .certificates()
        .map(|(certificate, key)| CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() })
        .map(|files| CertificateFacts { found: found(&files), file: files.certificate, is_own: false })
        .collect();
    if !named.is_empty() {
        return named;
    }
    let own = CertificateFiles::in_state_directory(&config.state_dir);
    let found = if own.certificate.exists() { found(&own) } else { would_be_made(&config.hostname, now) };
    vec![CertificateFacts { found, file: own.certificate, is_own: true }]
}

fn found(files: &CertificateFiles) -> CertificateFound {
    match files.load() {
        Ok(certificate) => CertificateFound::Loaded {
            certificate,
            key_file: files.key.clone(),
            key_mode: fs::metadata(&files.key).map_or(0, |metadata| metadata.permissions().mode() & MODE_BITS),
        },
        Err(fault) => CertificateFound::Refused { text: fault.to_string(), exit: fault.exit() },
    }
}

/// A certificate for this host name is made and thrown away: not every name can stand in one.
fn would_be_made(host_name: &str, now: Now) -> CertificateFound {
    match crate::tls::certificate::SelfSigned::new(host_name, now) {
        Ok(_) => CertificateFound::NotMadeYet,
        Err(error) => CertificateFound::Refused {
            text: format!("{error}; set --hostname to this host's full DNS name"),
            exit: Exit::Data,
        },
    }
}

fn users(file: &Path) -> UsersFacts {
    let found = match (users_file::load(file), fs::metadata(file)) {
        (Err(error), _) => UsersFound::Refused { text: error.to_string(), exit: users_exit(&error) },
        (Ok(_), Err(_)) => UsersFound::Missing,
        (Ok(users), Ok(metadata)) => UsersFound::Loaded { users: users.len(), mode: metadata.mode() & MODE_BITS },
    };
    UsersFacts { file: file.to_owned(), found }
}

fn users_exit(error: &UsersFileError) -> Exit {
    match error {
        UsersFileError::Io { error, .. } => Exit::of_read_error(error),
        _ => Exit::Data,
    }
}

/// Enough to see whether a ring can be had.
const RING_ENTRIES: libc::c_uint = 4;

/// The bits of a mode that `chmod` sets.
const MODE_BITS: u32 = 0o7777;

#[cfg(test)]
mod tests {
    use super::{clock_state, group_memory, memory, try_ring};

    #[test]
    fn a_ring_can_be_set_up_where_these_tests_run() {
        try_ring().unwrap();
    }

    #[test]
    fn memory_is_no_more_than_there_is() {
        let bytes = memory().unwrap();
        assert!((1 << 20..1 << 50).contains(&bytes), "{bytes}");
        assert_eq!(group_memory("5:cpuset:/"), None);
        assert_eq!(group_memory("nonsense"), None);
    }

    #[test]
    fn the_kernel_can_be_asked_about_its_clock_without_privilege() {
        let _ = clock_state();
    }
}
