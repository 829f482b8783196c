//! The place that a server takes before it serves: the state directory, and the sockets that listen. Both may be another
//! server's still, or a service manager's.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};

use socket2::Socket;

use super::words::{cannot_listen, inherited_but_unknown, no_executor, not_inherited};
use super::{ServeError, Start};
use crate::config::{Config, Listen};
use crate::exit::Exit;
use crate::observe::event::{TakingOver, TookOver};
use crate::proto::server::Opening;
use crate::runtime::certificates::{CertificateFiles, CertificateLoader};
use crate::runtime::delivery::relay::RelayMaterial;
use crate::runtime::handover::{self, Legacy};
use crate::runtime::listeners::{Endpoint, Inherited, Keeper, Listener, ListenerSettings, listen};
use crate::runtime::shard::try_executor;
use crate::runtime::state_directory::{StateDirectory, StateDirectoryError};
use crate::runtime::users_file;
use crate::{limits, time::Now};

/// What a server must have before anything else is opened.
pub(super) struct Place {
    pub(super) directory: StateDirectory,
    pub(super) inherited: Inherited,
}

impl Place {
    /// Takes the state directory, from a server that runs there if that is wanted, and what a service manager has passed on.
    pub(super) fn take(start: &Start) -> Result<Self, ServeError> {
        let mut inherited = passed_on_by_manager()?;
        let directory = match StateDirectory::open(&start.config.state_dir) {
            Err(StateDirectoryError::InUse { .. }) if start.config.takeover => take_over(start, &mut inherited)?,
            outcome => outcome.map_err(|error| ServeError::of(error.exit(), error))?,
        };
        Ok(Self { directory, inherited })
    }
}

/// Sockets that systemd, or whoever speaks as it does, has opened for this process (sd_listen_fds(3)).
fn passed_on_by_manager() -> Result<Inherited, ServeError> {
    let mut inherited = Inherited::default();
    for descriptor in sd_notify::listen_fds().map_err(|error| not_inherited(&error))? {
        // SAFETY: by the protocol of LISTEN_FDS these descriptors are this process's own, and they are taken only here.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        inherited.add(Socket::from(descriptor), Keeper::Manager).map_err(|error| not_inherited(&error))?;
    }
    Ok(inherited)
}

/// The other server is asked only when this one has what it needs: a server that runs is worth more than one that cannot.
fn take_over(start: &Start, inherited: &mut Inherited) -> Result<StateDirectory, ServeError> {
    let Start { config, clock, .. } = start;
    rehearse(config, clock.now())?;
    let of_other =
        |error| ServeError::new(Exit::Unavailable, error, "stop the server that runs, and start this one then");
    let offered = handover::ask(&config.state_dir).map_err(of_other)?;
    let legacy = offered.map(handover::Offered::accept).transpose().map_err(of_other)?;
    let Legacy { sockets, drain_timeout } =
        legacy.unwrap_or(Legacy { sockets: Vec::new(), drain_timeout: config.drain_timeout });
    let patience = drain_timeout.saturating_add(limits::TAKEOVER_PATIENCE);
    start.report(TakingOver { sockets: sockets.len() as u64, patience });
    let since = clock.now().monotonic;
    for socket in sockets {
        inherited.add(socket, Keeper::Server).map_err(|error| not_inherited(&error))?;
    }
    let directory = StateDirectory::open_when_free(&config.state_dir, patience)
        .map_err(|error| ServeError::of(error.exit(), error))?;
    start.report(TookOver { waited: clock.now().monotonic.saturating_sub(since) });
    Ok(directory)
}

/// Reads whatever could be wrong, and changes nothing.
fn rehearse(config: &Config, now: Now) -> Result<(), ServeError> {
    try_executor().map_err(|error| no_executor(&error))?;
    let mut files = config
        .certificates()
        .map(|(certificate, key)| CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() });
    let default = files.next().unwrap_or_else(|| CertificateFiles::in_state_directory(&config.state_dir));
    // No shard is to have them.
    CertificateLoader::open(default, files.collect(), 0, now).map_err(|fault| ServeError::of(fault.exit(), fault))?;
    users_file::load(&config.users).map_err(|error| ServeError::of(Exit::Data, error))?;
    RelayMaterial::open(config).map_err(|error| ServeError::of(error.exit(), error))?;
    Ok(())
}

/// All listeners, by shard, and each address once.
pub(super) fn open_listeners(
    config: &Config,
    mut inherited: Inherited,
) -> Result<(Vec<Endpoint>, Vec<Vec<Listener>>), ServeError> {
    let settings = ListenerSettings { backlog: config.backlog, fast_open: config.fast_open };
    let endpoints_of = |listeners: &[Listen], opening| {
        let endpoint =
            |listen: &Listen| Endpoint { address: listen.address, opening, returning: config.returning(listen) };
        listeners.iter().map(endpoint).collect::<Vec<_>>()
    };
    let clear = endpoints_of(&config.listen, Opening::Clear);
    let tls = endpoints_of(&config.listen_tls, Opening::ImplicitTls);
    let mut by_shard: Vec<Vec<Listener>> = (0..config.shards).map(|_| Vec::new()).collect();
    let mut endpoints = Vec::new();
    for endpoint in clear.into_iter().chain(tls) {
        let listeners = listen(endpoint, config.shards, settings, &mut inherited)
            .map_err(|error| cannot_listen(endpoint, &error))?;
        endpoints.extend(listeners.iter().flatten().next().map(|listener| listener.endpoint));
        for (shard, listeners) in by_shard.iter_mut().zip(listeners) {
            shard.extend(listeners);
        }
    }
    let unknown: Vec<SocketAddr> = inherited.left(Keeper::Manager).collect();
    if unknown.is_empty() { Ok((endpoints, by_shard)) } else { Err(inherited_but_unknown(&unknown)) }
}

/// The listeners that another server may ask for.
pub(super) fn to_hand_over(listeners: &[Vec<Listener>], config: &Config) -> Result<Legacy, ServeError> {
    let sockets = listeners.iter().flatten().map(|listener| {
        let twin = listener.socket.try_clone();
        twin.map_err(|error| cannot_listen(listener.endpoint, &error))
    });
    Ok(Legacy { sockets: sockets.collect::<Result<_, _>>()?, drain_timeout: config.drain_timeout })
}
