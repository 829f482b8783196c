//! What is said when something is wrong, each time with what to do about it. It decides nothing.

use std::io;
use std::net::SocketAddr;

use super::ServeError;
use crate::config::Config;
use crate::exit::Exit;
use crate::observe::event::Warning;
use crate::proto::server::Opening;
use crate::runtime::certificates::CertificateWarning;
use crate::runtime::handover::HandoverError;
use crate::runtime::listeners::Endpoint;

pub(super) fn warning(subject: &'static str, consequence: String, remedy: &'static str) -> Warning {
    Warning { subject: subject.into(), consequence: consequence.into(), remedy: remedy.into() }
}

pub(super) fn certificate_warning(found: &CertificateWarning) -> Warning {
    warning("certificate", found.to_string(), "see the message")
}

/// What somebody who has just started a server for the first time wants to know.
pub(super) fn first_steps(config: &Config, listening: &[Endpoint]) -> Warning {
    let port = listening.first().map_or(0, |endpoint| endpoint.address.port());
    Warning {
        subject: "no users".into(),
        consequence: "nobody can submit mail yet".into(),
        remedy: format!(
            "add one: onetrip user add ann --state-dir {} (the password is asked for); then send a first message: \
             swaks --server 127.0.0.1:{port} --tls --auth-user ann --from ann@example.org --to bob@example.org",
            config.state_dir.display()
        )
        .into(),
    }
}

pub(super) fn no_thread(error: &io::Error) -> ServeError {
    ServeError::new(
        Exit::System,
        format!("the system gives no thread: {error}"),
        "raise the limit on processes (ulimit -u)",
    )
}

pub(super) fn no_executor(error: &io::Error) -> ServeError {
    ServeError::new(
        Exit::Unavailable,
        format!("io_uring cannot be used: {error}"),
        "onetrip needs Linux 5.8 or newer, io_uring allowed (sysctl kernel.io_uring_disabled=0, and no seccomp filter \
         against it), and 512 KiB of lockable memory (ulimit -l)",
    )
}

pub(super) fn shard_failed() -> ServeError {
    ServeError::new(Exit::Software, "a shard has failed", "start the server again, and report what the log says")
}

pub(super) fn cannot_listen(endpoint: Endpoint, error: &io::Error) -> ServeError {
    let flag = match endpoint.opening {
        Opening::Clear => "--listen",
        Opening::ImplicitTls => "--listen-tls",
    };
    let (exit, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            (Exit::Unavailable, format!("stop what uses the port, or name another one with {flag}"))
        }
        io::ErrorKind::AddrNotAvailable => {
            (Exit::Unavailable, format!("this host does not have the address; name one that it has with {flag}"))
        }
        io::ErrorKind::PermissionDenied => (
            Exit::NoPermission,
            format!("ports below 1024 need CAP_NET_BIND_SERVICE; give it, or name another port with {flag}"),
        ),
        _ => (Exit::System, format!("name another address with {flag}")),
    };
    ServeError::new(exit, format!("cannot listen on {}: {error}", endpoint.address), remedy)
}

/// What a service manager has passed on is not what it should be.
pub(super) fn not_inherited(error: &io::Error) -> ServeError {
    ServeError::new(
        Exit::Config,
        format!("the sockets passed on to this process cannot be used: {error}"),
        "pass on TCP sockets that listen (ListenStream= in a socket unit, with Accept=no), or none",
    )
}

/// Connections to these would wait for ever.
pub(super) fn inherited_but_unknown(addresses: &[SocketAddr]) -> ServeError {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    ServeError::new(
        Exit::Config,
        format!("sockets were passed on that no listener names: {}", addresses.join(", ")),
        "name the same addresses with --listen and --listen-tls as in the socket unit",
    )
}

pub(super) fn no_handover(error: &HandoverError) -> ServeError {
    ServeError::new(
        Exit::CannotCreate,
        format!("cannot make the socket {error}"),
        "name another directory with --state-dir",
    )
}
