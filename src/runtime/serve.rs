//! `onetrip serve`: from a configuration to running shards, and back.
//!
//! Everything that can be wrong is found before the first client is accepted; then one line says what and how to mend it, and
//! nothing is left behind. While the shards work, the first thread waits for signals, looks once a second whether files have
//! changed, and in the end stops everything in the order in which nothing is lost.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::admission::{AddressCounts, ShardAddresses};
use super::certificates::{CertificateFiles, CertificateLoader};
use super::clock::Clock;
use super::control::{ControlServer, ControlSocket};
use super::delivery::relay::{RelayMaterial, RelaySettings};
use super::delivery::{Delivery, DeliverySettings};
use super::handover::{HandoverServer, Legacy};
use super::listeners::{ByReturning, Endpoint, Inherited, Listener};
use super::log_writer::{Log, LogWriter};
use super::metrics_server::{Health, MetricsServer};
use super::once::{OnceRegistry, ShardOnce};
use super::pages::take_small_pages;
use super::passwords::{PasswordSettings, Passwords, Publish};
use super::qhlo_secrets::{QHLO_SECRETS_FILE, QhloSecrets, QhloSecretsError};
use super::queue::{CarrierParts, Depth, QueueHandle, QueueParts, Request, ShardDepth};
use super::report::listener_kind;
use super::shard::{self, ListenerSettings, Order, ShardParts, try_executor, words_of};
use super::shelf::RunningQueue;
use super::spool::{self, Keeper, OpenedLog, SpoolSettings, log_settings, spool_directory};
use super::state_directory::StateDirectory;
use super::users_file::{Reload, UsersFile};
use crate::auth::throttle::ThrottleSettings;
use crate::check::descriptors;
use crate::config::Config;
use crate::exit::Exit;
use crate::limits;
use crate::observe::event::{
    CertificateReloadFailed, CertificateReloaded, Draining, Event, HandedOver, Listening, Ready, ShardFailed,
    SpoolOpened, Stopped, UsersReloadFailed, UsersReloaded, Warning,
};
use crate::observe::label::ListenerKind;
use crate::observe::metrics::Metrics;
use crate::proto::extension::{Listing, Offer};
use crate::proto::qhlo_id::Point;
use crate::proto::server::{Bounds, ClientInTrace, SenderCheck, Settings, Timeouts};
use crate::relay::queue::QueueSettings;
use crate::relay::route::Routes;
use crate::relay::{Destination, SyncPolicy};
use crate::spool::once::{OnceBounds, StoredToken, repeats_within};
use crate::time::Now;
use crate::tls::cache::SessionCache;
use crate::tls::config::{Returning, ServerSettings};
use crate::tls::store::SessionStore;

mod place;
mod running;
mod words;

use self::place::{Place, open_listeners, to_hand_over};
use self::running::{RunningShard, doors_of};
use self::words::{certificate_warning, first_steps, no_executor, no_handover, no_thread, shard_failed, warning};

/// Why the server does not run: what went wrong, what to do about it, and the exit code. Prints on one line.
#[derive(Debug)]
pub struct ServeError {
    text: String,
    exit: Exit,
}

impl ServeError {
    fn new(exit: Exit, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { text: format!("{problem}: {remedy}"), exit }
    }

    /// For errors that name their own remedy.
    fn of(exit: Exit, error: impl fmt::Display) -> Self {
        Self { text: error.to_string(), exit }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Serves until a signal says stop, or another server takes over.
///
/// # Errors
///
/// Whatever keeps the server from starting, or a shard that broke.
pub fn serve(config: Config) -> Result<(), ServeError> {
    take_small_pages();
    let routes = Arc::new(Routes::new(config.deliver.clone(), &config.route, &config.hostname));
    let destinations = routes.destinations().iter().map(ToString::to_string).collect();
    let metrics = Metrics::with_destinations(env!("CARGO_PKG_VERSION"), shard_count(&config), destinations);
    let metrics = Arc::new(metrics);
    let (log, writer) = LogWriter::start(config.log_format, config.log_level, Arc::clone(&metrics))
        .map_err(|error| no_thread(&error))?;
    let result = Start { config, clock: Clock::start(), log, metrics, routes }.serve();
    // Whatever was logged must be on the terminal before the reason for the end is.
    let _ = writer.stop();
    result
}

/// What is there before anything is opened.
struct Start {
    config: Config,
    clock: Clock,
    log: Log,
    metrics: Arc<Metrics>,
    routes: Arc<Routes>,
}

impl Start {
    fn serve(self) -> Result<(), ServeError> {
        let Place { directory, inherited } = Place::take(&self)?;
        match Service::open(self, &directory, inherited) {
            Ok(service) => service.run(directory),
            Err(error) => {
                withdraw(directory);
                Err(error)
            }
        }
    }

    fn report(&self, event: impl Into<Event>) {
        let event = event.into();
        self.metrics.observe(&event);
        self.log.event(self.clock.now(), event);
    }
}

/// Leaves nothing behind of a first start that has failed.
fn withdraw(directory: StateDirectory) {
    let CertificateFiles { certificate, key } = CertificateFiles::in_state_directory(directory.path());
    let secrets = directory.file(QHLO_SECRETS_FILE);
    directory.withdraw(&[certificate, key, secrets]);
}

/// All that is open while the server runs.
struct Service {
    config: Config,
    clock: Clock,
    log: Log,
    metrics: Arc<Metrics>,
    health: Health,
    metrics_server: Option<MetricsServer>,
    settings: Arc<ArcSwap<ListenerSettings>>,
    secrets: QhloSecrets,
    /// When a rotation that failed was last told of.
    rotation_failed: Option<Duration>,
    certificates: CertificateLoader,
    sessions: ByReturning<Arc<SessionCache>>,
    users: Arc<Users>,
    passwords: Passwords,
    once: Arc<OnceRegistry>,
    relays: RelayMaterial,
    routes: Arc<Routes>,
    /// The way to the queues of all shards.
    queue: QueueHandle,
    control: Option<ControlServer>,
    handover: Option<HandoverServer>,
    shards: Vec<RunningShard>,
    calls: flume::Receiver<Call>,
}

/// What the first thread is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Reload,
    Stop,
    /// Another server has so many listening sockets of this one.
    HandedOver(u64),
}

/// The users file, looked at by the first thread once a second and by hashing threads before each hash.
struct Users {
    file: Mutex<UsersFile>,
    clock: Clock,
    log: Log,
    metrics: Arc<Metrics>,
}

impl Users {
    fn reload_if_changed(&self, passwords: &dyn Publish) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let event: Event = match file.reload_if_changed(passwords) {
            Ok(Reload::Unchanged) => return,
            Ok(Reload::Loaded { users }) => UsersReloaded { users: users as u64 }.into(),
            Err(error) => UsersReloadFailed { reason: error.to_string().into() }.into(),
        };
        self.metrics.observe(&event);
        self.log.event(self.clock.now(), event);
    }
}

/// What can be told only when the server is about to be ready.
struct Opened {
    listening: Vec<Endpoint>,
    warnings: Vec<Warning>,
}

impl Service {
    fn open(start: Start, directory: &StateDirectory, inherited: Inherited) -> Result<Self, ServeError> {
        let Start { config, clock, log, metrics, routes } = start;
        let now = clock.now();
        let mut warnings = Vec::new();
        let (caller, calls) = flume::unbounded();
        listen_to_signals(caller.clone())?;
        try_executor().map_err(|error| no_executor(&error))?;
        let connections_max = make_room_for_descriptors(&config, &mut warnings);
        let certificates = open_certificates(&config, directory.path(), now, &mut warnings)?;
        let (secrets, damage) = QhloSecrets::open(directory.path(), config.qhlo_rotation, now)
            .map_err(|error| ServeError::of(Exit::Io, error))?;
        warnings.extend(damage.map(|damage| {
            warning("qhlo-secrets", format!("{damage}"), "returning clients fall back by one round trip, once")
        }));
        let settings = Arc::new(ArcSwap::from_pointee(protocol_settings(&config, &secrets)));
        let password_settings = password_settings(&config);
        let passwords = Passwords::start(&password_settings).map_err(|error| no_thread(&error))?;
        let mut users = UsersFile::new(config.users.clone());
        let loaded = users.reload_if_changed(&passwords).map_err(|error| ServeError::of(Exit::Data, error))?;
        let users = Arc::new(Users { file: Mutex::new(users), clock, log: log.clone(), metrics: Arc::clone(&metrics) });
        let before_hashing = Arc::clone(&users);
        passwords.look_before_hashing(Box::new(move |passwords| before_hashing.reload_if_changed(passwords)));
        let sessions = open_sessions(&config)?;
        let health = Health::default();
        let metrics_server = config
            .metrics
            .map(|address| MetricsServer::start(address, Arc::clone(&metrics), health.clone()))
            .transpose()
            .map_err(|error| ServeError::of(Exit::Unavailable, error))?;
        let once = open_once(&config, &metrics)?;
        let relays = RelayMaterial::open(&config).map_err(|error| ServeError::of(error.exit(), error))?;
        let exposed = relays.warning().map(|problem| {
            warning("--relay-auth", problem.to_owned(), "take the right to read it from others with chmod o-rwx")
        });
        warnings.extend(exposed);
        let (listening, listeners) = open_listeners(&config, inherited)?;
        let legacy = to_hand_over(&listeners, &config)?;
        let spool = open_spool(&config, directory.path(), clock, &once)?;
        if config.sync == SyncPolicy::None {
            warnings.push(warning(
                "--sync none",
                "a crash of this machine can lose messages that were acknowledged".to_owned(),
                "use --sync commit for mail that matters",
            ));
        }

        let mut service = Self {
            config,
            clock,
            log,
            metrics,
            health,
            metrics_server,
            settings,
            secrets,
            rotation_failed: None,
            certificates,
            sessions,
            users,
            passwords,
            once,
            relays,
            routes,
            queue: QueueHandle::new(Vec::new()),
            control: None,
            handover: None,
            shards: Vec::new(),
            calls,
        };
        spool.events.iter().for_each(|event| service.report(event.clone()));
        let control = ControlSocket::bind(directory.path()).map_err(|error| ServeError::of(error.exit(), error))?;
        service.start_shards(listeners, spool.logs, connections_max, &password_settings)?;
        service.answer_on(control)?;
        service.offer(directory, legacy, caller)?;
        service.announce(&Opened { listening, warnings }, loaded);
        Ok(service)
    }

    fn start_shards(
        &mut self,
        listeners: Vec<Vec<Listener>>,
        logs: Vec<(OpenedLog, Keeper)>,
        connections_max: u32,
        passwords: &PasswordSettings,
    ) -> Result<(), ServeError> {
        let addresses = Arc::new(AddressCounts::new(self.config.connections_per_address_max));
        let all_depths = Arc::new(Depth::new(self.config.queue_max));
        let mut ways = Vec::new();
        for (index, (listeners, log)) in listeners.into_iter().zip(logs).enumerate() {
            let number = u16::try_from(index).unwrap_or(u16::MAX);
            let (orders, received) = flume::unbounded();
            let has_failed = Arc::new(AtomicBool::new(false));
            let has_let_go = Arc::new(AtomicBool::new(false));
            let (way, requests) = flume::unbounded();
            let depth = ShardDepth::new(&all_depths, self.config.shards);
            ways.push(way);
            let doors = doors_of(&listeners);
            let parts = ShardParts {
                number,
                core: self.config.core_of_shard(index),
                clock: self.clock,
                listeners,
                settings: Arc::clone(&self.settings),
                tls: ByReturning::each(|returning| ServerSettings {
                    certificates: self.certificates.of_shard(number),
                    minimum_version: self.config.tls_min,
                    sessions: Arc::<SessionCache>::clone(self.sessions.of(returning)),
                    returning,
                }),
                message_memory: self.config.message_memory,
                connections_max,
                lateness_max: self.config.lateness_max,
                greet_pause: self.config.greet_pause,
                drain_timeout: self.config.drain_timeout,
                addresses: Arc::new(ShardAddresses::new(&addresses)),
                passwords: self.passwords.for_shard(passwords),
                delivery: start_delivery(&self.config, number)?,
                through: through(&self.config, &self.relays),
                spool: log,
                sync: self.config.sync,
                queue: queue_parts(&self.config, &self.relays, &self.routes, number, depth, requests)?,
                once: Arc::new(ShardOnce::new(&self.once)),
                metrics: self.metrics.shard(number).expect("the metrics were made for this many shards"),
                log: self.log.with_own_queue(),
                orders: received,
                has_failed: Arc::clone(&has_failed),
                has_let_go: Arc::clone(&has_let_go),
            };
            let thread = shard::start(parts).map_err(|error| no_executor(&io::Error::other(error)))?;
            self.shards.push(RunningShard { number, orders, has_failed, has_let_go, doors, thread });
        }
        self.queue = QueueHandle::new(ways);
        Ok(())
    }

    /// From now on `onetrip queue` is answered.
    fn answer_on(&mut self, socket: ControlSocket) -> Result<(), ServeError> {
        let queue = RunningQueue::new(self.queue.clone(), &self.routes, self.clock);
        let control = socket.serve(Box::new(move || Box::new(queue.clone())));
        self.control = Some(control.map_err(|error| no_thread(&error))?);
        Ok(())
    }

    /// From now on another server may take this one's place.
    fn offer(
        &mut self,
        directory: &StateDirectory,
        legacy: Legacy,
        caller: flume::Sender<Call>,
    ) -> Result<(), ServeError> {
        let sockets = legacy.sockets.len() as u64;
        let gone = move || {
            // If nobody listens, the server is stopping anyway.
            let _ = caller.send(Call::HandedOver(sockets));
        };
        let server = HandoverServer::start(directory.path(), legacy, gone);
        self.handover = Some(server.map_err(|error| no_handover(&error))?);
        Ok(())
    }

    fn announce(&self, opened: &Opened, loaded: Reload) {
        for warning in &opened.warnings {
            self.report(warning.clone());
        }
        for endpoint in &opened.listening {
            self.report(Listening { address: endpoint.address, listener: listener_kind(endpoint.opening) });
        }
        if let Some(server) = &self.metrics_server {
            self.report(Listening { address: server.address(), listener: ListenerKind::Metrics });
        }
        self.report(Ready {
            version: env!("CARGO_PKG_VERSION").into(),
            hostname: self.config.hostname.clone().into(),
            shards: shard_count(&self.config),
        });
        if loaded == (Reload::Loaded { users: 0 }) {
            self.report(first_steps(&self.config, &opened.listening));
        }
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    // ── While it runs ───────────────────────────────────────────────────────────────────────────────────────────────

    fn run(mut self, directory: StateDirectory) -> Result<(), ServeError> {
        loop {
            match self.calls.recv_timeout(TICK) {
                Ok(Call::Reload) => self.reload(),
                Ok(Call::Stop) => return self.stop(directory, Order::Drain),
                Ok(Call::HandedOver(sockets)) => {
                    self.report(HandedOver { sockets });
                    return self.stop(directory, Order::HandOver);
                }
                Err(_) => self.tick(),
            }
            if let Some(broken) = self.shards.iter().position(RunningShard::is_broken) {
                return self.stop_broken(broken, directory);
            }
        }
    }

    /// A shard has ended by itself, as none should, or has to end. The server does, in good order.
    fn stop_broken(mut self, broken: usize, directory: StateDirectory) -> Result<(), ServeError> {
        let mut error = shard_failed();
        if self.shards[broken].thread.is_finished() {
            let shard = self.shards.remove(broken);
            shard.close_doors();
            error = self.bury(shard).err().unwrap_or(error);
        }
        self.stop(directory, Order::Drain).and(Err(error))
    }

    /// What a shard that has ended says: how many connections it has cut.
    fn bury(&self, shard: RunningShard) -> Result<u64, ServeError> {
        match shard.thread.join() {
            Ok(Ok(connections)) => Ok(connections as u64),
            Ok(Err(error)) => Err(no_executor(&io::Error::other(error))),
            Err(panic) => {
                self.report(ShardFailed { shard: shard.number, reason: words_of(&*panic).into() });
                Err(shard_failed())
            }
        }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        for returning in Returning::ALL {
            self.sessions.of(returning).tick(now);
        }
        self.users.reload_if_changed(&self.passwords);
        if let Some(forgotten) = self.once.tick(now) {
            self.report(forgotten);
        }
        match self.secrets.rotate_if_due(now) {
            Ok(false) => {}
            Ok(true) => self.publish_settings(),
            Err(error) => self.report_rotation_failure(&error, now),
        }
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }

    fn reload(&mut self) {
        let now = self.clock.now();
        match self.certificates.reload(now) {
            Ok(warnings) => {
                for found in warnings {
                    self.report(certificate_warning(&found));
                }
                let certificates = self.config.certificates().count().max(1);
                self.report(CertificateReloaded { certificates: u32::try_from(certificates).unwrap_or(u32::MAX) });
            }
            Err(error) => self.report(CertificateReloadFailed { reason: error.to_string().into() }),
        }
        self.users.reload_if_changed(&self.passwords);
        match self.secrets.reload(now) {
            Ok(()) => self.publish_settings(),
            Err(error) => {
                self.report(warning("qhlo-secrets", error.to_string(), "the secrets read before stay in force"));
            }
        }
    }

    /// Told once an hour: it is tried every second.
    fn report_rotation_failure(&mut self, error: &QhloSecretsError, now: Now) {
        if self.rotation_failed.is_none_or(|last| now.monotonic.saturating_sub(last) >= REMIND_EVERY) {
            self.rotation_failed = Some(now.monotonic);
            self.report(warning("qhlo-secrets", error.to_string(), "the secret in use stays in force"));
        }
    }

    fn publish_settings(&self) {
        self.settings.store(Arc::new(protocol_settings(&self.config, &self.secrets)));
    }

    fn report(&self, event: impl Into<Event>) {
        let event = event.into();
        self.metrics.observe(&event);
        self.log.event(self.clock.now(), event);
    }

    // ── The end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Drains all shards; a second signal ends them at once. As soon as none of them needs the state directory any more,
    /// another server may have it, while here the last clients take note of what they were told.
    fn stop(mut self, directory: StateDirectory, how: Order) -> Result<(), ServeError> {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        self.health.drain();
        self.report(Draining { connections: self.connections_open(), timeout: self.config.drain_timeout });
        drop(self.handover.take());
        self.order(how);
        self.wait_for_all(|shard| shard.has_let_go.load(Ordering::Acquire));
        drop(self.control.take());
        if let Some(server) = self.metrics_server.take() {
            server.stop();
        }
        drop(directory);
        self.wait_for_all(|_| false);
        self.finish()
    }

    /// Waits until each shard has ended, or gone so far.
    fn wait_for_all(&self, is_so_far: impl Fn(&RunningShard) -> bool) {
        while !self.shards.iter().all(|shard| shard.thread.is_finished() || is_so_far(shard)) {
            if self.calls.recv_timeout(STOP_LOOK) == Ok(Call::Stop) {
                self.order(Order::Stop);
            }
        }
    }

    fn finish(mut self) -> Result<(), ServeError> {
        let mut cut = 0;
        let mut broken = None;
        for shard in std::mem::take(&mut self.shards) {
            match self.bury(shard) {
                Ok(connections) => cut += connections,
                Err(error) => broken = Some(error),
            }
        }
        self.report(Stopped { connections_cut: cut, uptime: self.clock.now().monotonic });
        broken.map_or(Ok(()), Err)
    }

    fn order(&self, order: Order) {
        for shard in &self.shards {
            // One that has ended needs no order.
            let _ = shard.orders.send(order);
        }
    }

    fn connections_open(&self) -> u64 {
        (0..shard_count(&self.config))
            .filter_map(|number| self.metrics.shard(number))
            .map(|shard| shard.connections_open.value())
            .sum()
    }
}

// ── From the configuration ──────────────────────────────────────────────────────────────────────────────────────────

fn shard_count(config: &Config) -> u16 {
    u16::try_from(config.shards).unwrap_or(u16::MAX)
}

fn protocol_settings(config: &Config, secrets: &QhloSecrets) -> ListenerSettings {
    ByReturning::each(|returning| Arc::new(conversation_settings(config, secrets, returning)))
}

fn conversation_settings(config: &Config, secrets: &QhloSecrets, returning: Returning) -> Settings {
    let offer = Offer {
        hostname: config.hostname.clone(),
        message_bytes_max: config.max_message_size,
        recipients_max: config.recipients_max,
        messages_max: config.messages_max,
        early_ehlo: config.greet_pause.is_zero(),
        early_data: returning == Returning::SendEarlyData,
        // Handed through, a message leaves nothing behind that would know its token after a restart.
        once: config.sync != SyncPolicy::Through,
    };
    Settings {
        hostname: config.hostname.clone(),
        connect: Listing::new(&offer, Point::Connect),
        secured: Listing::new(&offer, Point::Secured),
        qhlo_ids: secrets.ids(config.qhlo_binding),
        bounds: Bounds {
            message_bytes_max: config.max_message_size,
            recipients_max: config.recipients_max,
            messages_max: config.messages_max,
            commands_max: config.commands_max,
            errors_max: config.errors_max,
            logins_failed_max: config.auth_attempts_max,
        },
        timeouts: Timeouts {
            idle: config.idle_timeout,
            login: config.login_timeout,
            transaction: config.transaction_timeout,
        },
        bare_newline: config.bare_newline,
        client_in_trace: if config.hide_client { ClientInTrace::Hidden } else { ClientInTrace::Shown },
        sender_check: if config.enforce_sender { SenderCheck::Enforced } else { SenderCheck::Off },
    }
}

fn password_settings(config: &Config) -> PasswordSettings {
    PasswordSettings {
        threads: NonZeroUsize::new(config.password_threads).unwrap_or(NonZeroUsize::MIN),
        remember: config.auth_remember,
        throttle: ThrottleSettings {
            address_failures_max: config.auth_failures_max,
            user_failures_max: config.auth_failures_max,
            window: config.auth_failure_window,
            first_delay: config.auth_failure_delay,
            ..ThrottleSettings::default()
        },
        ..PasswordSettings::default()
    }
}

fn open_once(config: &Config, metrics: &Metrics) -> Result<Arc<OnceRegistry>, ServeError> {
    let bounds = OnceBounds { retention: config.once_retention, tokens_max: config.once_max };
    let registry = OnceRegistry::new(bounds, metrics.once())
        .map_err(|error| ServeError::new(Exit::System, error, "see why the system's random device does not work"))?;
    Ok(Arc::new(registry))
}

/// The server to which all messages are handed through, if they are.
fn through(config: &Config, relays: &RelayMaterial) -> Option<RelaySettings> {
    relays.settings(&config.deliver).filter(|_| config.sync == SyncPolicy::Through).cloned()
}

/// The spool, and what to tell of it.
struct SpoolFound {
    logs: Vec<(OpenedLog, Keeper)>,
    events: Vec<Event>,
}

fn open_spool(config: &Config, state: &Path, clock: Clock, once: &OnceRegistry) -> Result<SpoolFound, ServeError> {
    let start = clock.now();
    let settings = SpoolSettings {
        path: spool_directory(state),
        shards: shard_count(config),
        sync: config.sync,
        // A name is older than its message is stored, by what a large one took to come in.
        log: log_settings(config.once_retention + config.transaction_timeout),
        repeats_within: repeats_within(config.once_retention, config.transaction_timeout),
    };
    let opened = spool::open(&settings, start, &mut |found| {
        let key = once.key(found.user, found.token);
        StoredToken::found(start, key, found.id, config.transaction_timeout)
    });
    let opened = opened.map_err(|error| ServeError::of(error.exit(), error))?;
    once.restore(start, opened.tokens);
    let messages = opened.logs.iter().map(|log| log.message_count() as u64).sum();
    let took = clock.now().monotonic.saturating_sub(start.monotonic);
    let mut events = vec![SpoolOpened { messages, cut_bytes: opened.cut_bytes, took }.into()];
    events.extend(opened.damage.into_iter().map(Event::from));
    let logs = (0..).zip(opened.logs).map(|(shard, log)| {
        let keeper = log.start_keeper(shard).map_err(|error| no_thread(&error))?;
        Ok((log, keeper))
    });
    Ok(SpoolFound { logs: logs.collect::<Result<_, _>>()?, events })
}

fn start_delivery(config: &Config, shard: u16) -> Result<Delivery, ServeError> {
    // What goes to another server never comes here, nor does what goes by way of the queue.
    let is_direct = config.sync == SyncPolicy::Through && !config.deliver.is_remote();
    let destination = if is_direct { &config.deliver } else { &Destination::Discard };
    Delivery::start(&delivery_settings(config, destination, shard)).map_err(|error| no_thread(&error))
}

fn delivery_settings(config: &Config, destination: &Destination, shard: u16) -> DeliverySettings {
    DeliverySettings {
        sync: config.sync,
        threads: NonZeroUsize::new(config.delivery_threads).unwrap_or(NonZeroUsize::MIN),
        ..DeliverySettings::new(destination.clone(), &config.hostname, shard)
    }
}

/// The queue of one shard, with a carrier for each destination.
fn queue_parts(
    config: &Config,
    relays: &RelayMaterial,
    routes: &Arc<Routes>,
    shard: u16,
    depth: ShardDepth,
    requests: flume::Receiver<Request>,
) -> Result<QueueParts, ServeError> {
    let carrier = |destination: &Destination| match relays.settings(destination) {
        Some(settings) => Ok(CarrierParts::remote(settings)),
        None => CarrierParts::local(&delivery_settings(config, destination, shard)).map_err(|error| no_thread(&error)),
    };
    let mut seed = [0; 8];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|error| ServeError::new(Exit::System, error, "see why the system's random device does not work"))?;
    Ok(QueueParts {
        settings: QueueSettings {
            retry_min: config.retry_min,
            retry_max: config.retry_max,
            lifetime: config.queue_lifetime,
            delay_warning: config.delay_warning,
        },
        carriers: routes.destinations().iter().map(carrier).collect::<Result<_, _>>()?,
        routes: Arc::clone(routes),
        depth,
        requests,
        host_name: config.hostname.clone(),
        seed: u64::from_ne_bytes(seed),
    })
}

fn open_certificates(
    config: &Config,
    directory: &Path,
    now: Now,
    warnings: &mut Vec<Warning>,
) -> Result<CertificateLoader, ServeError> {
    let fault = |error: super::certificates::CertificateFault| ServeError::of(error.exit(), error);
    let mut files = config
        .certificates()
        .map(|(certificate, key)| CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() });
    let default = match files.next() {
        Some(default) => default,
        None => {
            let own = CertificateFiles::in_state_directory(directory);
            own.create_if_missing(&config.hostname, now).map_err(fault)?;
            warnings.push(warning(
                "self-signed certificate",
                format!("clients must be told to trust {}", own.certificate.display()),
                "give a certificate that they trust with --tls-cert and --tls-key",
            ));
            own
        }
    };
    let (loader, found) = CertificateLoader::open(default, files.collect(), shard_count(config), now).map_err(fault)?;
    warnings.extend(found.iter().map(certificate_warning));
    Ok(loader)
}

/// Where sessions are kept: apart for listeners that allow different things with them, and only where there is one.
fn open_sessions(config: &Config) -> Result<ByReturning<Arc<SessionCache>>, ServeError> {
    let open = |returning| {
        let is_used =
            config.listen.iter().chain(&config.listen_tls).any(|listen| config.returning(listen) == returning);
        let sessions_max = if is_used && returning != Returning::StartAnew { config.tls_sessions } else { 0 };
        SessionCache::new(sessions_max, limits::TLS_SESSION_LIFETIME).map(Arc::new)
    };
    ByReturning::try_each(open)
        .map_err(|error| ServeError::new(Exit::System, error, "ask for fewer with --tls-sessions"))
}

/// Raises the limit on descriptors as far as the system lets it, and makes the bound on connections fit: a server that
/// runs out of descriptors cannot even refuse.
fn make_room_for_descriptors(config: &Config, warnings: &mut Vec<Warning>) -> u32 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let Some(allowed) = getrlimit(Resource::Nofile).current else {
        return config.connections_max;
    };
    let fitting = descriptors::connections_that_fit(config, allowed);
    if descriptors::are_missed(config, fitting) {
        warnings.push(warning(
            "open files",
            format!("the system allows {allowed}, which is room for {fitting} connections of each shard"),
            "raise the limit (ulimit -n, or LimitNOFILE= in the unit), or lower --connections-max",
        ));
    }
    fitting.min(config.connections_max)
}

fn listen_to_signals(caller: flume::Sender<Call>) -> Result<(), ServeError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| no_thread(&error))?;
    std::thread::Builder::new()
        .name("onetrip-signal".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let call = if signal == SIGHUP { Call::Reload } else { Call::Stop };
                if caller.send(call).is_err() {
                    return;
                }
            }
        })
        .map_err(|error| no_thread(&error))?;
    Ok(())
}

/// How often files are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often an operator is reminded of the same trouble.
const REMIND_EVERY: Duration = Duration::from_secs(3_600);

/// How often a stop looks whether it is done.
const STOP_LOOK: Duration = Duration::from_millis(1);
