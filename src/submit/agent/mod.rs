//! The agent: a process that stays after a submission with `--linger`, and keeps TLS sessions and lists in memory.
//!
//! ```text
//!   caller ── hello, version ──▶ agent        a Unix-domain socket; each looks at who the other is
//!          ◀── taken ──────────               from here on the agent answers for the message
//!          ── request ─────────▶
//!          ◀── shown, result ───               as soon as the final reply is there
//!                                 │
//!                                 └─▶ waits for new TLS sessions, fetches one if it has none left
//! ```
//!
//! A caller that finds no agent starts one and gives it its request over a pair of sockets, so that it never waits for a door
//! to open. Must decide nothing about the protocol, and must keep no password longer than its request.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};
use rustls::ClientConfig;
use rustls::client::Resumption;

use super::delivery::Delivery;
use super::request::{Request, TrustWish};
use super::show::Show;
use super::{SubmitError, files, load_memory, save_memory};
use crate::exit::Exit;
use crate::limits::{
    REMEMBERED_SERVERS_MAX, SUBMIT_AGENT_REQUESTS_MAX, SUBMIT_AGENT_TIMEOUT, SUBMIT_MESSAGE_BYTES_MAX,
    SUBMIT_TICKET_TIMEOUT, TLS_CLIENT_STOCK_MAX,
};
use crate::proto::client::{Memory, Point, ServerMemory};
use crate::tls::stock::SessionStock;
use door::{Door, is_of_the_same_user};
use frame::{Frame, Kind, read, write};

mod caller;
mod door;
mod frame;
mod wire_form;

#[cfg(test)]
mod tests;

pub(super) use caller::hand_over;

/// Two programs that differ in this do not understand each other.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " 1");

/// Serves the caller on standard input, and those who come to the door afterwards.
pub(super) fn serve_first_from_standard_input(door: &Path) -> Result<(), SubmitError> {
    let input = io::stdin().as_fd().try_clone_to_owned();
    let first = input.map_err(|error| SubmitError::new(Exit::System, format!("standard input: {error}")))?;
    Agent::new(door).serve(Some(UnixStream::from(first)));
    Ok(())
}

/// What all requests share.
struct Agent {
    door: PathBuf,
    keeps: Mutex<BTreeMap<Vec<u8>, Arc<Keep>>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Requests under way.
    active: usize,
    /// When the last one ended.
    rested: Instant,
    /// How long to stay after that.
    linger: Duration,
}

/// What is kept for one user of one server.
struct Keep {
    tls: Arc<ClientConfig>,
    stock: Arc<SessionStock>,
    memory: Mutex<Option<ServerMemory>>,
}

impl Agent {
    fn new(door: &Path) -> Arc<Self> {
        let state = State { active: 0, rested: Instant::now(), linger: Duration::ZERO };
        Arc::new(Self {
            door: door.to_owned(),
            keeps: Mutex::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// Serves until nobody has come for a while. If another agent has the door, only this first caller is served.
    fn serve(self: &Arc<Self>, first: Option<UnixStream>) {
        first.into_iter().for_each(|stream| self.begin(stream));
        if let Some(door) = Door::open(&self.door) {
            while let Some(wait) = self.time_left() {
                door.accept(wait).into_iter().for_each(|stream| self.begin(stream));
            }
            // Who knocked before the door was gone is still served.
            door.close().into_iter().for_each(|stream| self.begin(stream));
        }
        let mut state = self.state();
        while state.active > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait for the next caller; `None` if nobody is waited for any more.
    fn time_left(&self) -> Option<Duration> {
        let state = self.state();
        if state.active > 0 {
            return Some(LOOK);
        }
        let left = state.linger.checked_sub(state.rested.elapsed()).filter(|left| !left.is_zero());
        left.map(|left| left.max(Duration::from_millis(1)))
    }

    /// Serves a caller on a thread of its own; on this one, which keeps others waiting, if there are many already.
    fn begin(self: &Arc<Self>, stream: UnixStream) {
        let mut state = self.state();
        state.active += 1;
        let is_busy = state.active > SUBMIT_AGENT_REQUESTS_MAX;
        drop(state);
        let agent = Arc::clone(self);
        let work = move || {
            let _turn = Turn(Arc::clone(&agent));
            agent.attend(stream);
        };
        if is_busy {
            return work();
        }
        thread::spawn(work);
    }

    fn attend(&self, mut stream: UnixStream) {
        let Some(request) = self.hear(&mut stream) else { return };
        self.state().linger = Duration::from_secs(request.linger_s);
        let keep = self.keep(&request);
        let ended = keep.and_then(|keep| {
            let (result, delivery) = keep.deliver(&request, &stream)?;
            answer(&mut stream, &result);
            Ok((keep, delivery))
        });
        match ended {
            Err(error) => answer(&mut stream, &Err(error)),
            Ok((keep, delivery)) => {
                // The caller has what it wants and need not wait for the rest.
                drop(stream);
                delivery.linger(SUBMIT_TICKET_TIMEOUT);
                keep.refill(&request);
            }
        }
    }

    /// A request, if the caller is the same user and speaks as we do. One who does not finds another agent next time.
    fn hear(&self, stream: &mut UnixStream) -> Option<Request> {
        stream.set_read_timeout(Some(SUBMIT_AGENT_TIMEOUT)).ok()?;
        if !is_of_the_same_user(stream) {
            return None;
        }
        let hello = read(stream, VERSION.len() as u64 * 4).ok()?;
        if hello.kind != Kind::Hello || *hello.bytes != *VERSION.as_bytes() {
            self.state().linger = Duration::ZERO;
            let _ = write(stream, Kind::Other, b"");
            return None;
        }
        write(stream, Kind::Taken, b"").ok()?;
        let Frame { kind, bytes } = read(stream, REQUEST_BYTES_MAX).ok()?;
        (kind == Kind::Request).then(|| wire_form::decode(&bytes)).flatten()
    }

    fn keep(&self, request: &Request) -> Result<Arc<Keep>, SubmitError> {
        let name = keep_name(request);
        let mut keeps = self.keeps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keep) = keeps.get(&name) {
            return Ok(Arc::clone(keep));
        }
        if keeps.len() == REMEMBERED_SERVERS_MAX {
            keeps.pop_first();
        }
        let keep = Arc::new(Keep::new(request)?);
        keeps.insert(name, Arc::clone(&keep));
        Ok(keep)
    }
}

/// A request under way; it ends even if its thread panics.
struct Turn(Arc<Agent>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.active -= 1;
        state.rested = Instant::now();
        drop(state);
        self.0.changed.notify_all();
    }
}

/// Users do not share sessions: a session may tell the server who comes. Nor do those who trust different roots, because
/// a session that is resumed is not judged again.
fn keep_name(request: &Request) -> Vec<u8> {
    let mut name = Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        name.update(&(part.len() as u64).to_be_bytes());
        name.update(part);
    };
    add(request.server.key().as_bytes());
    add(&[u8::from(request.implicit_tls)]);
    add(request.login.as_ref().map_or(b"", |(user, _)| user.as_bytes()));
    match &request.trust {
        TrustWish::Anyone => add(b"anyone"),
        TrustWish::System => add(b"system"),
        TrustWish::Roots(roots) => roots.iter().for_each(|root| add(root)),
    }
    name.finish().as_ref().to_vec()
}

impl Keep {
    fn new(request: &Request) -> Result<Self, SubmitError> {
        let stock = Arc::new(SessionStock::new(TLS_CLIENT_STOCK_MAX));
        let mut tls = ClientConfig::clone(&*request.tls()?);
        tls.resumption = Resumption::store(Arc::<SessionStock>::clone(&stock));
        Ok(Self { tls: Arc::new(tls), stock, memory: Mutex::default() })
    }

    fn memory(&self) -> MutexGuard<'_, Option<ServerMemory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits; the result comes with what is left of the connection.
    fn deliver<'a>(
        &self,
        request: &'a Request,
        caller: &UnixStream,
    ) -> Result<(Result<(), SubmitError>, Delivery<'a>), SubmitError> {
        let output = caller.try_clone().map_err(|error| SubmitError::new(Exit::System, error.to_string()))?;
        let mut show = Show::new(request, Box::new(Shown(output)));
        let known = self.memory().clone();
        let memory = known.unwrap_or_else(|| {
            let from_file = |path: &PathBuf| load_memory(path, &mut show);
            request.memory.as_ref().map_or_else(Memory::default, from_file).server(&request.server.key())
        });
        let mut delivery = Delivery::new(request, Arc::clone(&self.tls), memory)?;
        let result = delivery.run(&mut show);
        *self.memory() = Some(delivery.memory().clone());
        save_memory(request, delivery.memory(), &mut show);
        Ok((result, delivery))
    }

    /// Fetches a session if there is none left, with a visit that brings no message.
    fn refill(&self, request: &Request) {
        if !self.stock.is_empty() {
            return;
        }
        let memory = self.memory().clone().unwrap_or_default();
        let mut show = Show::silent(Box::new(io::sink()));
        let Ok(mut visit) = Delivery::without_message(request, Arc::clone(&self.tls), memory) else { return };
        // Without a session the next message needs a round trip more, and nobody is there to be told.
        if visit.run(&mut show).is_ok() {
            *self.memory() = Some(visit.memory().clone());
            visit.linger(SUBMIT_TICKET_TIMEOUT);
        }
    }
}

/// What the caller's user is to see.
struct Shown(UnixStream);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(&mut self.0, Kind::Shown, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// If the caller has gone meanwhile, there is nobody to be told.
fn answer(stream: &mut UnixStream, result: &Result<(), SubmitError>) {
    let (exit, message) = match result {
        Ok(()) => (Exit::Success, ""),
        Err(error) => (error.exit, error.message.as_str()),
    };
    let _ = write(stream, Kind::Result, &[&[exit.code()], message.as_bytes()].concat());
}

/// Whether the server would know this message again.
fn is_taken_once(request: &Request) -> bool {
    let memory = request.memory.as_deref().map_or_else(Memory::default, |path| files::load_memory(path).0);
    memory.server(&request.server.key()).at(Point::Secured).is_some_and(|list| list.once)
}

/// A message, and room for everything else.
const REQUEST_BYTES_MAX: u64 = 2 * SUBMIT_MESSAGE_BYTES_MAX + (16 << 20);

/// How often the end of what is under way is looked for.
const LOOK: Duration = Duration::from_millis(200);
