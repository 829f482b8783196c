//! A server at the far end of a real link, and single clients that go there, over the link or over its model.
//!
//! The model's clients are at the far end too, where nothing is delayed: so both kinds meet the same server in the same state.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use onetrip::proto::client::ServerMemory;
use onetrip::tls::Versions;

use crate::arguments::FarArguments;
use crate::clock::Clock;
use crate::conversation::Conversation;
use crate::link::Profile;
use crate::random::Random;
use crate::real_link::{FAR, RealLink, Sighting};
use crate::scenario::Scenario;
use crate::single::{self, Opening, Trip};
use crate::target::{Judgement, Target, Visit};
use crate::tls_sessions::TlsConfigs;

/// How long the server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How often it is looked for.
const START_LOOK: Duration = Duration::from_millis(50);

/// TLS sessions collected before a client that resumes one.
const TICKETS: usize = 1;

/// A server at the far end.
#[derive(Debug)]
pub(crate) struct Far {
    link: RealLink,
    server: Child,
    /// The link's figures.
    pub(crate) profile: Profile,
    clock: Clock,
}

/// Where clients stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the near end of the real link.
    Near,
    /// At the far end, behind the model of the link.
    Model,
}

/// One client's submission.
#[derive(Debug)]
pub(crate) struct Submission {
    /// What became of it.
    pub(crate) trip: Trip,
    /// From the SYN to the final reply.
    pub(crate) took: Duration,
    /// The packets, if it went over the real link.
    pub(crate) sightings: Vec<Sighting>,
}

impl Far {
    /// Makes the link and starts the server.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn start(arguments: &FarArguments) -> Result<Self, String> {
        let link = RealLink::new(&arguments.link)?;
        let (program, words) = arguments.server.split_first().ok_or("no command for the server")?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let server = link.far.spawn(&mut command).map_err(|error| format!("cannot start {program}: {error}"))?;
        let mut far = Self { link, server, profile: arguments.link.clone(), clock: Clock::start() };
        far.await_listener(SocketAddr::from((FAR, arguments.port)))?;
        Ok(far)
    }

    fn await_listener(&mut self, address: SocketAddr) -> Result<(), String> {
        let looks = START_TIMEOUT.as_millis() / START_LOOK.as_millis();
        for _ in 0..looks {
            if let Ok(Some(status)) = self.server.try_wait() {
                return Err(format!("the server ended at once: {status}"));
            }
            if self.inside(Place::Model, || TcpStream::connect(address).is_ok())? {
                return Ok(());
            }
            std::thread::sleep(START_LOOK);
        }
        Err(format!("the server does not listen on {address} (it must listen there or on all addresses)"))
    }

    /// Does something on a thread that stands there.
    fn inside<Value: Send>(&self, place: Place, work: impl FnOnce() -> Value + Send) -> Result<Value, String> {
        let namespace = match place {
            Place::Near => &self.link.near,
            Place::Model => &self.link.far,
        };
        let work = || namespace.enter().map(|()| work()).map_err(|error| format!("cannot enter a namespace: {error}"));
        std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| "a client's thread died".to_owned())?
    }

    /// What a client that stands there learns of the server; a TLS session for it goes into `tls`.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn scout(&self, place: Place, target: &Target, tls: &TlsConfigs) -> Result<ServerMemory, String> {
        let session = target.scout(self.clock.now(), tls);
        // Nobody measures this one, so it need not wait for the model.
        let immediate = Profile::parse("loopback")?;
        let clock = self.clock;
        let conversation = Conversation::new(self.clock.now(), session, &immediate, Random::new(0));
        let trip = self.inside(place, || single::run(&clock, conversation, target.address, None, Opening::Ordinary))?;
        let trip = trip.map_err(|error| format!("cannot connect to {}: {error}", target.address))?;
        match trip.outcome().and_then(|(_, outcome)| outcome.failure.as_ref()) {
            Some(failure) => Err(format!("a first look at the server failed: {failure}")),
            None => Ok(trip.memory),
        }
    }

    /// Submits one message.
    ///
    /// # Errors
    ///
    /// Words for the user, if the message was not acknowledged.
    pub(crate) fn submit(
        &self,
        place: Place,
        target: &Target,
        scenario: Scenario,
        bytes: u64,
    ) -> Result<Submission, String> {
        let tls = TlsConfigs::new(&target.trust, target.versions).map_err(|error| error.to_string())?;
        let memories: Result<Vec<_>, String> = (0..TICKETS).map(|_| self.scout(place, target, &tls)).collect();
        let memory = memories?.pop().unwrap_or_default();
        let profile = if place == Place::Near { Profile::parse("loopback")? } else { self.profile.clone() };
        let visit = Visit { scenario, profile, source: 0, user: 0, is_warm: true, messages: 1, transcript: true };
        let mut random = Random::new(bytes);
        // A name that no submission had before, or the server would say that it has the message already.
        let id = format!("ladder-{:x}", self.clock.now().unix.as_nanos());
        let message = target.message(&id, bytes, 1, &mut random);
        let address = target.address_for(scenario).ok_or("the server has no address for implicit TLS")?;
        if scenario.opens_fast() {
            let fetched = self.inside(place, || single::fetch_cookie(address, None))?;
            fetched.map_err(|error| format!("no Fast Open: {error}"))?;
        }
        self.link.poll_sightings();
        let clock = self.clock;
        let begun = clock.now();
        let session = target.client(begun, &tls, &visit, &memory, message);
        let (begin, opening): (fn(_, _, &_, _) -> _, _) = match scenario.opens_fast() {
            true => (Conversation::with_fast_open, Opening::Fast),
            false => (Conversation::new, Opening::Ordinary),
        };
        let conversation = begin(begun, session, &visit.profile, random);
        let trip = self.inside(place, || single::run(&clock, conversation, address, None, opening))?;
        let trip = trip.map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let (at, outcome) = trip.outcome().ok_or("the client came to no end")?;
        match Judgement::of(outcome, scenario) {
            Judgement::Wrong(kind) => return Err(format!("{scenario}: {kind}")),
            Judgement::Acknowledged(_) | Judgement::RefusedAsExpected => {}
        }
        let took = at.saturating_sub(begun.monotonic);
        Ok(Submission { trip, took, sightings: self.link.poll_sightings() })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It may have ended already; either way nobody needs it any more.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The target at the far end, as the command line describes it.
///
/// # Errors
///
/// Words for the user.
pub(crate) fn target(arguments: &FarArguments, versions: Versions) -> Result<Target, String> {
    let implicit = arguments.implicit_tls_port.map(|port| SocketAddr::from((FAR, port)));
    arguments.server_arguments.target(SocketAddr::from((FAR, arguments.port)), implicit, versions, 1)
}
