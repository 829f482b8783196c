//! One core of the generator: tens of thousands of clients on one glommio executor.
//!
//! Knows sockets, timers and tasks; what a client says and when is decided by `visitor`, `conversation` and the client core.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, AsyncWriteExt};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use onetrip::fast_open::{self, Taken};
use onetrip::proto::client::ServerMemory;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::audit::Journal;
use crate::clock::Clock;
use crate::conversation::Demand;
use crate::live::Live;
use crate::plan::{End, Load, Plan, Schedule, share, share_of_busy};
use crate::random::Random;
use crate::record::Record;
use crate::target::{Target, Visit};
use crate::tls_sessions::TlsConfigs;
use crate::visitor::{Letters, News, Server, Visitor};

/// Bytes taken from a socket in one receive; one such buffer serves all clients of a core.
const RECEIVE_BYTES: usize = 65_536;

/// Clients of one core that may be under way at once; beyond it an open loop counts failures instead of running out of memory.
const IN_FLIGHT_MAX: usize = 60_000;

/// How long a client of a closed loop rests after a failure, so that a dead server is not asked a million times.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// How often the end of the last visits is looked for.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// Everything that all cores share and nobody changes.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The server under test.
    pub(crate) target: Target,
    /// What shall be done.
    pub(crate) plan: Plan,
    /// What clients remember of the server, for each source address.
    pub(crate) memories: Vec<ServerMemory>,
    /// The clock of the run.
    pub(crate) clock: Clock,
    /// What people see while it runs.
    pub(crate) live: Live,
    /// What all ids of this run begin with.
    pub(crate) run_id: String,
    /// How many cores there are.
    pub(crate) cores: u64,
}

/// One core.
pub(crate) struct Core {
    shared: Arc<Shared>,
    number: u64,
    tls: TlsConfigs,
    record: RefCell<Record>,
    journal: RefCell<Option<Journal>>,
    random: RefCell<Random>,
    scratch: RefCell<Vec<u8>>,
    in_flight: Cell<usize>,
    visits: Cell<u64>,
}

impl Core {
    /// Core number `number`, on whose executor this is called.
    pub(crate) fn new(shared: Arc<Shared>, number: u64, tls: TlsConfigs, journal: Option<Journal>) -> Rc<Self> {
        let seed = shared.plan.seed ^ (number + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Rc::new(Self {
            shared,
            number,
            tls,
            record: RefCell::default(),
            journal: RefCell::new(journal),
            random: RefCell::new(Random::new(seed)),
            scratch: RefCell::new(vec![0; RECEIVE_BYTES]),
            in_flight: Cell::new(0),
            visits: Cell::new(0),
        })
    }

    /// Carries out this core's share of the plan; returns when its last visit is over.
    pub(crate) async fn run(self: Rc<Self>) -> Record {
        match self.shared.plan.load {
            Load::Open { per_s, arrivals } => {
                let schedule = Schedule::new(&self.shared.plan, per_s, arrivals, self.number, self.shared.cores);
                self.run_open(schedule).await;
            }
            Load::Closed { clients } => {
                self.run_closed(u64::from(clients)).await;
            }
        }
        while self.in_flight.get() > 0 {
            Timer::new(DRAIN_LOOK).await;
        }
        if let Some(Err(error)) = self.journal.borrow_mut().as_mut().map(Journal::flush) {
            self.note_journal_fault(&error);
        }
        self.record.take()
    }

    async fn run_open(self: &Rc<Self>, mut schedule: Schedule) {
        while let Some(intended) = schedule.next() {
            self.sleep_until(intended).await;
            if self.in_flight.get() >= IN_FLIGHT_MAX {
                let scenario = *self.shared.plan.scenarios.draw(&mut self.random.borrow_mut());
                let words = "not begun: too many clients under way";
                self.record.borrow_mut().note_error(scenario, intended, words);
                self.shared.live.fail();
                continue;
            }
            let core = Rc::clone(self);
            glommio::spawn_local(async move {
                core.visit(intended).await;
            })
            .detach();
        }
    }

    async fn run_closed(self: &Rc<Self>, clients_of_all: u64) {
        let clients = share(clients_of_all, self.number, self.shared.cores);
        let visits = match self.shared.plan.end {
            End::Sessions(count) => share_of_busy(count, clients_of_all, self.number, self.shared.cores),
            End::After(_) => u64::MAX,
        };
        let left = Rc::new(Cell::new(visits));
        for client in 0..clients {
            let begins = self.shared.plan.ramp.mul_f64(client as f64 / clients as f64);
            let (core, left) = (Rc::clone(self), Rc::clone(&left));
            self.in_flight.set(self.in_flight.get() + 1);
            glommio::spawn_local(async move {
                core.sleep_until(begins).await;
                core.keep_visiting(&left).await;
                core.in_flight.set(core.in_flight.get() - 1);
            })
            .detach();
        }
    }

    async fn keep_visiting(self: &Rc<Self>, left: &Cell<u64>) {
        loop {
            let now = self.shared.clock.now().monotonic;
            let over = matches!(self.shared.plan.end, End::After(end) if now >= end);
            if over || left.get() == 0 {
                return;
            }
            left.set(left.get() - 1);
            if self.visit(now).await == Ending::Bad {
                Timer::new(REST_AFTER_FAILURE).await;
            }
        }
    }

    async fn sleep_until(&self, at: Duration) {
        let now = self.shared.clock.now().monotonic;
        if at > now {
            Timer::new(at - now).await;
        }
    }

    /// One visit from its beginning to its end.
    async fn visit(self: &Rc<Self>, intended: Duration) -> Ending {
        self.in_flight.set(self.in_flight.get() + 1);
        self.shared.live.begin();
        let visitor = self.visitor(intended);
        let ending = self.converse(visitor).await;
        self.shared.live.end();
        self.in_flight.set(self.in_flight.get() - 1);
        ending
    }

    fn visitor(&self, intended: Duration) -> Visitor {
        let shared = &self.shared;
        let plan = &shared.plan;
        let mut random = self.random.borrow_mut();
        let visit = Visit::draw(plan, &shared.target, &mut random);
        let number = self.visits.replace(self.visits.get() + 1);
        let letters = Letters {
            id: format!("{}-{}-{number}", shared.run_id, self.number),
            sizes: (0..plan.messages).map(|_| plan.size.draw(&mut random)).collect(),
            recipients: plan.recipients,
            think_time: plan.think_time,
        };
        let memory = &shared.memories[visit.source];
        let now = shared.clock.now();
        self.record.borrow_mut().lateness.note(now.monotonic.saturating_sub(intended));
        let server = Server { target: &shared.target, tls: &self.tls, memory };
        Visitor::new(now, intended, &server, visit, letters, random.split())
    }

    async fn converse(&self, mut visitor: Visitor) -> Ending {
        let mut ending = Ending::Good;
        let mut stream: Option<TcpStream> = None;
        let mut out = Vec::new();
        // Bytes of the first flight, as long as it is not known whether it left in the SYN.
        let mut in_syn = None;
        loop {
            let now = self.shared.clock.now();
            let news = visitor.advance(now, &self.shared.target, &mut self.record.borrow_mut(), &mut out);
            if self.handle_news(news, &mut ending) {
                (stream, out) = (None, Vec::new());
            }
            match visitor.demand() {
                Demand::Close => return ending,
                Demand::Connection if stream.is_none() => {
                    let fast = visitor.visit().scenario.opens_fast() && !out.is_empty();
                    in_syn = fast.then_some(out.len());
                    stream = self.connect(&mut visitor, fast).await;
                }
                Demand::Connection | Demand::None => {}
            }
            if let Some(open) = &mut stream
                && !out.is_empty()
            {
                if open.write_all(&out).await.is_err() {
                    visitor.handle_closed(self.shared.clock.now());
                }
                out.clear();
            }
            let received = self.wait(&mut visitor, &mut stream).await;
            if let (Received::Bytes, Some(open), Some(first_flight)) = (received, &stream, in_syn) {
                in_syn = None;
                let opened_fast = fast_open::taken(open, first_flight) != Taken::Nothing;
                let mut record = self.record.borrow_mut();
                record.scenario_mut(visitor.visit().scenario).opened_fast += u64::from(opened_fast);
            }
        }
    }

    /// True if the socket is to be replaced.
    fn handle_news(&self, news: Vec<News>, ending: &mut Ending) -> bool {
        let mut reconnect = false;
        for item in news {
            match item {
                News::Acknowledged { id, recipients, time } => {
                    self.shared.live.acknowledge(time);
                    self.write_down(&id, recipients);
                }
                News::Failed => {
                    self.shared.live.fail();
                    *ending = Ending::Bad;
                }
                News::Reconnect => reconnect = true,
            }
        }
        reconnect
    }

    fn write_down(&self, id: &str, recipients: usize) {
        let mut journal = self.journal.borrow_mut();
        let Some(Err(error)) = journal.as_mut().map(|journal| journal.note(id, recipients)) else { return };
        self.note_journal_fault(&error);
    }

    /// An audit with a journal that misses messages would prove nothing.
    fn note_journal_fault(&self, error: &io::Error) {
        let words = format!("the file of acknowledged messages is not complete: {error}");
        self.record.borrow_mut().faults.insert(words);
        self.shared.live.fail();
    }

    /// A connection, or `None` after the visitor was told that there is none.
    async fn connect(&self, visitor: &mut Visitor, fast: bool) -> Option<TcpStream> {
        let shared = &self.shared;
        let visit = visitor.visit();
        let address = shared.target.address_for(visit.scenario)?;
        let source = shared.target.sources[visit.source];
        match connect(address, source, fast).await {
            Ok(stream) => Some(stream),
            Err(_) => {
                visitor.handle_closed(shared.clock.now());
                None
            }
        }
    }

    /// Waits until bytes come or something is due.
    async fn wait(&self, visitor: &mut Visitor, stream: &mut Option<TcpStream>) -> Received {
        let now = self.shared.clock.now();
        let mut timer = match visitor.next_due() {
            Some(due) if due <= now.monotonic => return Received::Nothing,
            Some(due) => Some(Timer::new(due - now.monotonic)),
            None => None,
        };
        let received = poll_fn(|context| {
            if let Some(open) = stream
                && let Poll::Ready(bytes) = self.poll_receive(context, open, visitor)
            {
                return Poll::Ready(bytes);
            }
            match &mut timer {
                Some(timer) => Pin::new(timer).poll(context).map(|_| Received::Nothing),
                None => Poll::Pending,
            }
        })
        .await;
        if received == Received::End {
            *stream = None;
            visitor.handle_closed(self.shared.clock.now());
        }
        received
    }

    fn poll_receive(&self, context: &mut Context<'_>, stream: &mut TcpStream, visitor: &mut Visitor) -> Poll<Received> {
        let mut scratch = self.scratch.borrow_mut();
        match Pin::new(stream).poll_read(context, &mut scratch) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Received::End),
            Poll::Ready(Ok(bytes)) => {
                visitor.handle_bytes(self.shared.clock.now(), &scratch[..bytes]);
                Poll::Ready(Received::Bytes)
            }
        }
    }
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Good,
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    Nothing,
    Bytes,
    End,
}

/// Connects without holding up the other clients of this core; with Fast Open when the first bytes are written.
async fn connect(address: SocketAddr, source: Option<IpAddr>, fast: bool) -> io::Result<TcpStream> {
    let socket = new_socket(address, source)?;
    // Without it this is an ordinary connection.
    let fast = fast && fast_open::ask(&socket).is_ok();
    let mut may_wait_for_bytes = false;
    match socket.connect(&address.into()) {
        Ok(()) => may_wait_for_bytes = fast,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    // SAFETY: the descriptor is an open TCP socket that nobody else owns any more.
    let mut stream = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
    if may_wait_for_bytes {
        return Ok(stream);
    }
    // Sending nothing succeeds as soon as the connection stands, and says why if it cannot.
    poll_fn(|context| Pin::new(&mut stream).poll_write(context, &[])).await?;
    Ok(stream)
}

/// A socket that does not block, bound to its source.
pub(crate) fn new_socket(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        choose_port_late(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    Ok(socket)
}

/// Lets the kernel choose the port when the other end is known, so that ports can be shared by connections to different
/// addresses and binding does not run out of them (IP_BIND_ADDRESS_NO_PORT, ip(7)).
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let yes: libc::c_int = 1;
    let size = size_of_val(&yes) as libc::socklen_t;
    // SAFETY: the value lives during the call and the size is its own.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const yes).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
