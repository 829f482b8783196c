//! Kernel, io_uring, limits of the process, memory and clock.

use std::io::ErrorKind;

use super::descriptors::{are_missed, connections_that_fit, needed};
use super::facts::{ClockState, HostFacts, Refused};
use super::{Finding, Remedy};
use crate::config::Config;
use crate::exit::Exit;
use crate::tls::config::Returning;

/// Everything that concerns the machine and this process.
pub(super) fn judge(host: &HostFacts, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![kernel(host), io_uring(host), locked_memory(host)];
    if let Some(config) = config {
        findings.push(open_files(host, config));
        findings.extend(memory(host, config));
    }
    findings.push(clock(host.clock));
    findings
}

fn kernel(host: &HostFacts) -> Finding {
    let Some(release) = &host.kernel_release else {
        let remedy = Remedy::command("uname -r");
        return Finding::note("kernel", "its version could not be read; 5.8 or newer is needed", remedy);
    };
    match version(release) {
        Some(version) if version >= KERNEL_MIN => Finding::ok("kernel", format!("Linux {release}")),
        Some(_) => {
            let what = format!("Linux {release} is too old: its io_uring lacks what the server is built on");
            let remedy = Remedy::words("boot Linux 5.8 or newer; 5.12 or newer counts rings no more as locked memory");
            Finding::failure("kernel", Exit::Unavailable, what, remedy)
        }
        None => {
            let what = format!("the version {release:?} cannot be read; 5.8 or newer is needed");
            Finding::note("kernel", what, None)
        }
    }
}

/// `6.12` of `6.12.9-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn io_uring(host: &HostFacts) -> Finding {
    let failed = |what: String, remedy| Finding::failure("io_uring", Exit::Unavailable, what, remedy);
    match (&host.ring, &host.executor) {
        (Ok(()), Ok(())) if host.sysctls.number(IO_URING_DISABLED) == Some(1) => {
            let what = "a ring was set up, but kernel.io_uring_disabled is 1: a user without CAP_SYS_ADMIN is refused \
                        unless in the group of kernel.io_uring_group";
            Finding::note("io_uring", what, Remedy::words("run this check as the user that the server runs as"))
        }
        (Ok(()), Ok(())) => {
            Finding::ok("io_uring", "a ring was set up, and an executor as each shard has one ran on it")
        }
        (Ok(()), Err(refused)) => failed(
            format!("a plain ring can be set up, but no executor as each shard has one: {}", refused.text),
            Remedy::words("raise the limits on locked memory (LimitMEMLOCK=) and on processes (TasksMax=) in the unit"),
        ),
        (Err(refused), _) => {
            let (reason, remedy) = why_no_ring(refused, host);
            failed(format!("no ring can be set up ({}): {reason}", refused.text), remedy)
        }
    }
}

fn why_no_ring(refused: &Refused, host: &HostFacts) -> (&'static str, Remedy) {
    match (refused.kind, host.sysctls.number(IO_URING_DISABLED)) {
        (ErrorKind::PermissionDenied, Some(2)) => {
            ("kernel.io_uring_disabled is 2, which forbids it to everybody", Remedy::sysctl(IO_URING_DISABLED, "0"))
        }
        (ErrorKind::PermissionDenied, Some(1)) => (
            "kernel.io_uring_disabled is 1, which forbids it to this user",
            Remedy::words(
                "set kernel.io_uring_group to the number of a group that the server's user is in, or \
                 kernel.io_uring_disabled to 0",
            ),
        ),
        (ErrorKind::PermissionDenied, _) => (
            "a seccomp filter or a security module forbids it, as container runtimes do by default",
            Remedy::words(
                "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of the container \
                 or in SystemCallFilter= of the unit",
            ),
        ),
        (ErrorKind::OutOfMemory, _) => {
            ("the limit on locked memory is too low", Remedy::words("LimitMEMLOCK=8M in the unit, or ulimit -l 8192"))
        }
        (ErrorKind::Unsupported, _) => (
            "the kernel is built without io_uring, or a seccomp filter pretends so",
            Remedy::words("use a kernel with CONFIG_IO_URING, and allow io_uring_setup in the seccomp profile"),
        ),
        _ => ("the kernel gave no better reason", Remedy::words("see what dmesg says")),
    }
}

fn locked_memory(host: &HostFacts) -> Finding {
    let subject = "locked memory";
    match host.locked_memory {
        None => Finding::ok(subject, "no limit"),
        Some(bytes) if bytes >= LOCKED_MEMORY_BYTES_MIN => Finding::ok(subject, format!("{} KiB", bytes >> 10)),
        Some(bytes) => {
            let what = format!("{} KiB may be locked; an executor does not start with less than 512 KiB", bytes >> 10);
            let remedy = Remedy::words("LimitMEMLOCK=8M in the unit, or ulimit -l 8192 in the shell");
            Finding::failure(subject, Exit::Unavailable, what, remedy)
        }
    }
}

fn open_files(host: &HostFacts, config: &Config) -> Finding {
    let subject = "open files";
    let Some(allowed) = host.open_files else {
        return Finding::ok(subject, "no limit");
    };
    let needed = needed(config);
    let fitting = connections_that_fit(config, allowed);
    if fitting >= config.connections_max {
        let what = format!("{allowed} are allowed; {} shards with all their connections need {needed}", config.shards);
        return Finding::ok(subject, what);
    }
    let what = format!(
        "{allowed} are allowed, room for {fitting} connections of each shard and not for --connections-max {}",
        config.connections_max
    );
    let mut remedy =
        format!("LimitNOFILE={needed} in the unit, or ulimit -Hn {needed}, or --connections-max {fitting}");
    if host.sysctls.number(NR_OPEN).is_some_and(|ceiling| ceiling < needed) {
        remedy = format!("sysctl -w {NR_OPEN}={needed}, then {remedy}");
    }
    match are_missed(config, fitting) {
        true => Finding::warning(subject, what, Remedy::words(remedy)),
        false => Finding::note(subject, what, Remedy::words(remedy)),
    }
}

/// What the server may take when everything is in use at once, against what there is.
fn memory(host: &HostFacts, config: &Config) -> Option<Finding> {
    let available = host.memory?;
    let shards = config.shards as u64;
    let fitting = host.open_files.map_or(config.connections_max, |allowed| connections_that_fit(config, allowed));
    let connections = u64::from(fitting.min(config.connections_max)) * CONNECTION_BYTES;
    let without_messages =
        session_caches(config) * config.tls_sessions as u64 * SESSION_BYTES + shards * (SHARD_BYTES + connections);
    let worst = without_messages + shards * config.message_memory;
    let what = format!(
        "{} MiB are there; with every connection open and --message-memory full on {shards} shards it takes {} MiB",
        available >> 20,
        worst >> 20
    );
    if worst <= available / 10 * 9 {
        return Some(Finding::ok("memory", what));
    }
    let for_messages = (available / 2).saturating_sub(without_messages) / shards;
    let per_shard = for_messages.max(config.max_message_size).min(config.message_memory);
    let remedy =
        format!("--message-memory {}M, and lower --connections-max if that is not enough", (per_shard >> 20).max(1));
    Some(Finding::warning("memory", what, Remedy::words(remedy)))
}

/// Listeners keep sessions together only with those on which a returning client may do the same.
fn session_caches(config: &Config) -> u64 {
    let is_used =
        |returning| config.listen.iter().chain(&config.listen_tls).any(|it| config.returning(it) == returning);
    [Returning::Resume, Returning::SendEarlyData].into_iter().filter(|returning| is_used(*returning)).count() as u64
}

fn clock(clock: ClockState) -> Finding {
    match clock {
        ClockState::Synchronized => Finding::ok("clock", "held to another clock"),
        ClockState::Unsynchronized => Finding::warning(
            "clock",
            "the kernel was not told that it is held to another clock: dates in Received fields, of certificates and of \
             the secrets that a fleet shares may be wrong",
            Remedy::command("timedatectl set-ntp true"),
        ),
        ClockState::Unknown => Finding::note("clock", "the kernel does not say whether it is held to another", None),
    }
}

/// The first kernel with all that the executor asks io_uring for.
const KERNEL_MIN: (u32, u32) = (5, 8);

/// The executor refuses to start below this.
const LOCKED_MEMORY_BYTES_MIN: u64 = 512 << 10;

/// An idle TLS connection: about 10 KiB here and some of the kernel's own.
const CONNECTION_BYTES: u64 = 16 << 10;

/// One entry of the TLS session cache, as the table of settings says.
const SESSION_BYTES: u64 = 200;

/// What a shard takes before the first connection, at most.
const SHARD_BYTES: u64 = 32 << 20;

/// 0: everybody may use io_uring; 1: some; 2: nobody.
const IO_URING_DISABLED: &str = "kernel.io_uring_disabled";

/// The highest limit on open files that can be set.
const NR_OPEN: &str = "fs.nr_open";

/// What is asked of the host for these findings.
pub(super) const SYSCTLS: [&str; 2] = [IO_URING_DISABLED, NR_OPEN];
