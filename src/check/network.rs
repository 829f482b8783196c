//! Fast Open, backlog, SYN cookies, and the addresses to listen on.

use std::io::ErrorKind;

use super::facts::{AddressFacts, FastOpenTrial, HostFacts, SiteFacts, Sysctls};
use super::{Finding, Remedy};
use crate::config::Config;
use crate::exit::Exit;

/// What the kernel does for all listeners.
pub(super) fn judge_host(host: &HostFacts, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![fast_open(host, config)];
    findings.extend(config.and_then(|config| backlog(&host.sysctls, config)));
    findings.extend(syn_cookies(&host.sysctls));
    findings
}

fn fast_open(host: &HostFacts, config: Option<&Config>) -> Finding {
    let subject = "fast open";
    if config.is_some_and(|config| config.fast_open == 0) {
        return Finding::note(
            subject,
            "--fast-open 0 turns it off: no client can send its first bytes in the SYN",
            None,
        );
    }
    if let FastOpenTrial::OptionRefused(refused) = &host.fast_open {
        let what =
            format!("a listener cannot be told to take data with a SYN ({}), and the server asks for it", refused.text);
        let remedy = Remedy::words("--fast-open 0, or a kernel with TCP Fast Open");
        return Finding::failure(subject, Exit::System, what, remedy);
    }
    let Some(bits) = host.sysctls.number(FAST_OPEN) else {
        return Finding::note(
            subject,
            format!("the kernel does not say what it allows ({FAST_OPEN} is not there)"),
            None,
        );
    };
    if bits & FAST_OPEN_SERVER == 0 {
        let what = format!(
            "{FAST_OPEN} is {bits}, without the server's bit (2): a returning client cannot send its first bytes in the \
             SYN, which costs it a round trip"
        );
        return Finding::warning(subject, what, Remedy::sysctl(FAST_OPEN, (bits | FAST_OPEN_SERVER).to_string()));
    }
    match &host.fast_open {
        FastOpenTrial::Carried => {
            Finding::ok(subject, format!("{FAST_OPEN} is {bits}; data in a SYN was taken on the loopback interface"))
        }
        FastOpenTrial::NotCarried if host.sysctls.number(SYN_COOKIES) == Some(2) => Finding::warning(
            subject,
            format!("{FAST_OPEN} is {bits}, but {SYN_COOKIES} is 2: data in a SYN is never taken"),
            Remedy::sysctl(SYN_COOKIES, "1"),
        ),
        FastOpenTrial::NotCarried => Finding::note(
            subject,
            format!("{FAST_OPEN} is {bits}, but data in a SYN was not taken on the loopback interface"),
            Remedy::words("see whether something between the interfaces filters TCP options"),
        ),
        FastOpenTrial::OptionRefused(_) | FastOpenTrial::Unknown(_) => {
            Finding::ok(subject, format!("{FAST_OPEN} is {bits}; it could not be tried here"))
        }
    }
}

fn backlog(sysctls: &Sysctls, config: &Config) -> Option<Finding> {
    let ceiling = sysctls.number(SOMAXCONN)?;
    let backlog = u64::from(config.backlog);
    if ceiling >= backlog {
        return Some(Finding::ok(
            "backlog",
            format!("{backlog} connections of a listener may wait; {SOMAXCONN} is {ceiling}"),
        ));
    }
    let what = format!(
        "{SOMAXCONN} is {ceiling}, so that only so many connections of a listener wait, and not --backlog {backlog}; \
         in a burst further clients wait for seconds, and some, answered with a SYN cookie, for a greeting that never comes"
    );
    Some(Finding::warning("backlog", what, Remedy::sysctl(SOMAXCONN, backlog.to_string())))
}

fn syn_cookies(sysctls: &Sysctls) -> Option<Finding> {
    let subject = "SYN cookies";
    match sysctls.number(SYN_COOKIES)? {
        0 => Some(Finding::warning(
            subject,
            format!("{SYN_COOKIES} is 0: a flood of forged SYNs fills the backlog and shuts real clients out"),
            Remedy::sysctl(SYN_COOKIES, "1"),
        )),
        1 => Some(Finding::ok(subject, "used when a backlog is full, and only then")),
        value => Some(Finding::warning(
            subject,
            format!("{SYN_COOKIES} is {value}: used for every connection, which rules Fast Open out"),
            Remedy::sysctl(SYN_COOKIES, "1"),
        )),
    }
}

/// Each address to listen on.
pub(super) fn judge_addresses(host: &HostFacts, site: &SiteFacts) -> Vec<Finding> {
    site.addresses.iter().map(|address| judge_address(address, &host.sysctls, site.server)).collect()
}

fn judge_address(facts: &AddressFacts, sysctls: &Sysctls, server: Option<u32>) -> Finding {
    let AddressFacts { flag, address, bind } = facts;
    let subject = format!("--{flag} {address}");
    let Err(refused) = bind else {
        return lent_out(facts, &subject, sysctls).unwrap_or_else(|| Finding::ok(&subject, "free"));
    };
    let failed = |exit, what: String, remedy| Finding::failure(&subject, exit, what, remedy);
    match (refused.kind, server) {
        (ErrorKind::AddrInUse, Some(process)) => {
            let what = format!("in use, as it should be: process {process} serves from this state directory");
            Finding::ok(&subject, what)
        }
        (ErrorKind::AddrInUse, None) => failed(
            Exit::Unavailable,
            "another process listens there".to_owned(),
            Remedy::command(format!("ss -ltnp 'sport = :{}'", address.port())),
        ),
        (ErrorKind::AddrNotAvailable, _) => failed(
            Exit::Unavailable,
            "this host does not have the address".to_owned(),
            Remedy::words(format!("name one that `ip address` shows with --{flag}, or 0.0.0.0 or [::] for all")),
        ),
        (ErrorKind::PermissionDenied, _) => {
            let first = sysctls.number(UNPRIVILEGED_PORT).unwrap_or(1_024);
            failed(
                Exit::NoPermission,
                format!("ports below {first} need CAP_NET_BIND_SERVICE, which this process does not have"),
                Remedy::words(format!(
                    "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or sysctl -w {UNPRIVILEGED_PORT}={}",
                    address.port()
                )),
            )
        }
        _ => failed(
            Exit::System,
            format!("cannot be listened on: {}", refused.text),
            Remedy::words(format!("name another address with --{flag}")),
        ),
    }
}

/// The kernel may lend the port to an outgoing connection while the server is down.
fn lent_out(facts: &AddressFacts, subject: &str, sysctls: &Sysctls) -> Option<Finding> {
    let port = u64::from(facts.address.port());
    let range = sysctls.numbers(LOCAL_PORTS)?;
    let &[first, last] = range.as_slice() else {
        return None;
    };
    let reserved = sysctls.text(RESERVED_PORTS).unwrap_or_default();
    if port == 0 || !(first..=last).contains(&port) || is_reserved(reserved, port) {
        return None;
    }
    let what = format!(
        "free, but {LOCAL_PORTS} is {first} {last}: while the server is down, an outgoing connection may be given the port"
    );
    let with_ours = if reserved.is_empty() { port.to_string() } else { format!("{reserved},{port}") };
    Some(Finding::warning(subject, what, Remedy::sysctl(RESERVED_PORTS, with_ours)))
}

/// Is a port in a list such as `80,3000-3010`?
fn is_reserved(list: &str, port: u64) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&port),
            _ => false,
        }
    })
}

/// Bits: 1 for clients, 2 for servers, more that weaken it.
const FAST_OPEN: &str = "net.ipv4.tcp_fastopen";

/// The bit that lets listeners take data with a SYN.
const FAST_OPEN_SERVER: u64 = 2;

const SOMAXCONN: &str = "net.core.somaxconn";
const SYN_COOKIES: &str = "net.ipv4.tcp_syncookies";
const UNPRIVILEGED_PORT: &str = "net.ipv4.ip_unprivileged_port_start";
const LOCAL_PORTS: &str = "net.ipv4.ip_local_port_range";
const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// What is asked of the host for these findings.
pub(super) const SYSCTLS: [&str; 6] =
    [FAST_OPEN, SOMAXCONN, SYN_COOKIES, UNPRIVILEGED_PORT, LOCAL_PORTS, RESERVED_PORTS];
