//! A real link with a real delay: two network namespaces joined by TUN devices, and a thread that holds each packet back.
//!
//! ```text
//!   namespace "near"                                              namespace "far"
//!   client ── kernel TCP ── TUN 198.18.0.1   ◄─ pump ─►   TUN 198.18.0.2 ── kernel TCP ── server
//! ```
//!
//! Kernel TCP on both sides sees the delay, so what is measured here is what a client far away would see. Needs root and
//! `/dev/net/tun`, but no netem. Everything goes away with the process: nothing is left behind on the machine, and the
//! addresses (set aside for such tests by RFC 2544) exist inside the namespaces only.
//!
//! Must not know SMTP: `ladder` reads the packets.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::link::Profile;
use crate::random::Random;

/// The client's address.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The server's address.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Longest packet on the link in bytes: that of Ethernet.
const PACKET_BYTES_MAX: usize = 1_500;

/// Packets that may be on their way in one direction; further ones are lost, as on a router without memory.
const QUEUE_PACKETS_MAX: usize = 100_000;

/// Longest wait of the pump in one piece, so that it notices soon that nobody needs it any more.
const PUMP_WAIT_MAX: Duration = Duration::from_millis(100);

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A packet as it was put on the link.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    /// When it was seen.
    pub(crate) at: Instant,
    /// Which way it goes.
    pub(crate) way: Way,
    /// The packet, beginning with its IP header.
    pub(crate) packet: Vec<u8>,
}

/// A network namespace, which lives as long as somebody is in it or holds it.
#[derive(Debug)]
pub(crate) struct Namespace {
    handle: File,
}

impl Namespace {
    /// Moves the calling thread into this namespace. Sockets that it makes afterwards belong there.
    ///
    /// # Errors
    ///
    /// The kernel's, for lack of the right to do so.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `self` lives, and `setns` touches no memory of ours.
        let result = unsafe { libc::setns(self.handle.as_raw_fd(), libc::CLONE_NEWNET) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Starts a program inside this namespace.
    ///
    /// # Errors
    ///
    /// If there is no such program.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let descriptor = self.handle.as_raw_fd();
        let enter = move || {
            // SAFETY: `setns` is a mere system call, which is allowed between fork and exec, and the descriptor was
            // inherited open by fork.
            let result = unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) };
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command.spawn()
    }
}

/// Two namespaces and the link between them.
#[derive(Debug)]
pub(crate) struct RealLink {
    /// Where clients belong.
    pub(crate) near: Namespace,
    /// Where the server belongs.
    pub(crate) far: Namespace,
    sightings: Receiver<Sighting>,
}

impl RealLink {
    /// Makes the namespaces and lets packets pass between them.
    ///
    /// # Errors
    ///
    /// Words for the user: what is missing on this machine.
    pub(crate) fn new(profile: &Profile) -> Result<Self, String> {
        let (near, near_device) = make_side(NEAR, FAR)?;
        let (far, far_device) = make_side(FAR, NEAR)?;
        let (sender, sightings) = channel();
        let pump = Pump::new(profile, near_device, far_device, sender);
        std::thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || pump.run())
            .map_err(|error| format!("cannot start the thread that delays packets: {error}"))?;
        Ok(Self { near, far, sightings })
    }

    /// The packets seen since this was asked last, in their order.
    pub(crate) fn poll_sightings(&self) -> Vec<Sighting> {
        self.sightings.try_iter().collect()
    }
}

/// Makes a namespace with a TUN device in it. A thread of its own does it, so that this one stays where it is.
fn make_side(own: Ipv4Addr, peer: Ipv4Addr) -> Result<(Namespace, OwnedFd), String> {
    let made = std::thread::spawn(move || make_side_here(own, peer)).join();
    made.map_err(|_| "the thread that makes a namespace died".to_owned())?
}

fn make_side_here(own: Ipv4Addr, peer: Ipv4Addr) -> Result<(Namespace, OwnedFd), String> {
    // SAFETY: only this thread's view of the network changes, and it ends right after this function.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result != 0 {
        return Err(format!(
            "cannot make a network namespace (--real-link needs root): {}",
            io::Error::last_os_error()
        ));
    }
    let handle =
        File::open("/proc/thread-self/ns/net").map_err(|error| format!("cannot hold the namespace: {error}"))?;
    let device = open_tun()?;
    let peer = format!("{peer}");
    let own = format!("{own}");
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &own, "peer", &peer, "dev", DEVICE])?;
    ip(&["link", "set", DEVICE, "mtu", "1500", "txqueuelen", "10000", "up"])?;
    choose_congestion_control();
    allow_fast_open();
    Ok((Namespace { handle }, device))
}

/// Name of the device inside each namespace.
const DEVICE: &str = "onetrip0";

/// Slow start as most senders do it. A kernel's default may be one that spreads its first packets over time.
fn choose_congestion_control() {
    let choose = |name| std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name);
    // Both kinds begin alike, so a kernel that has only the second measures the same; without either the default stays.
    let _ = choose("cubic").or_else(|_| choose("reno"));
}

/// Lets both sides do Fast Open (RFC 7413); a new namespace lets only clients. Where it cannot be had, SYNs stay empty.
fn allow_fast_open() {
    let _ = std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3");
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run the program ip (Debian's package iproute2): {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`ip {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// What the kernel wants to know of a new device (`struct ifreq` of `linux/if.h`, as far as TUNSETIFF reads it).
#[repr(C)]
struct InterfaceRequest {
    name: [c_char; libc::IFNAMSIZ],
    flags: libc::c_short,
    unused: [u8; 22],
}

fn open_tun() -> Result<OwnedFd, String> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|error| format!("cannot open /dev/net/tun (load the kernel's module tun): {error}"))?;
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        unused: [0; 22],
    };
    for (place, byte) in request.name.iter_mut().zip(DEVICE.bytes()) {
        *place = byte as c_char;
    }
    // SAFETY: the request is as large as `struct ifreq` and lives during the call; the kernel writes the name only.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result != 0 {
        return Err(format!("cannot make a TUN device: {}", io::Error::last_os_error()));
    }
    Ok(device.into())
}

/// Carries packets from one device to the other, each after its delay.
struct Pump {
    up: Lane,
    down: Lane,
    sightings: Sender<Sighting>,
}

impl Pump {
    fn new(profile: &Profile, near: OwnedFd, far: OwnedFd, sightings: Sender<Sighting>) -> Self {
        let mut random = Random::new(u64::from(FAR.to_bits()));
        Self {
            up: Lane::new(Way::Up, profile, profile.up_bits_per_s, random.split(), near),
            down: Lane::new(Way::Down, profile, profile.down_bits_per_s, random.split(), far),
            sightings,
        }
    }

    /// Runs until a device breaks or nobody listens any more.
    fn run(mut self) {
        loop {
            self.wait();
            let now = Instant::now();
            let taken = self.up.take(now, &self.sightings).and_then(|()| self.down.take(now, &self.sightings));
            if taken.is_err() {
                return;
            }
            self.up.deliver(now, &mut self.down.device);
            self.down.deliver(now, &mut self.up.device);
        }
    }

    /// Waits for a packet, or until the next one is due.
    fn wait(&self) {
        let due = [&self.up, &self.down].into_iter().filter_map(Lane::next_due).min();
        let wait = due.map_or(PUMP_WAIT_MAX, |due| due.saturating_duration_since(Instant::now()).min(PUMP_WAIT_MAX));
        let entry = |lane: &Lane| libc::pollfd { fd: lane.device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut entries = [entry(&self.up), entry(&self.down)];
        // Under 100 ms, so neither figure overflows.
        let timeout = libc::timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let count = entries.len() as libc::nfds_t;
        // SAFETY: the entries and the timeout live during the call, and the count is that of the entries. An interrupted
        // wait is only a shorter one.
        unsafe { libc::ppoll(entries.as_mut_ptr(), count, &raw const timeout, std::ptr::null()) };
    }
}

/// One direction.
struct Lane {
    way: Way,
    delay: Duration,
    jitter: Duration,
    bits_per_s: u64,
    random: Random,
    /// Where packets of this direction come from.
    device: File,
    /// Packets on their way, and when each of them is due.
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// When the last bit left.
    left: Instant,
    /// When the last packet is due; none overtakes it.
    last_due: Instant,
}

impl Lane {
    fn new(way: Way, profile: &Profile, bits_per_s: u64, random: Random, device: OwnedFd) -> Self {
        let now = Instant::now();
        Self {
            way,
            delay: profile.round_trip / 2,
            jitter: profile.jitter / 2,
            bits_per_s,
            random,
            device: device.into(),
            queue: VecDeque::new(),
            left: now,
            last_due: now,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|&(due, _)| due)
    }

    /// Takes all packets that wait in the device.
    fn take(&mut self, now: Instant, sightings: &Sender<Sighting>) -> io::Result<()> {
        let mut buffer = [0; PACKET_BYTES_MAX];
        loop {
            let bytes = match self.device.read(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let packet = buffer[..bytes].to_vec();
            let sighting = Sighting { at: now, way: self.way, packet: packet.clone() };
            if sightings.send(sighting).is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.queue.len() < QUEUE_PACKETS_MAX {
                let due = self.due(now, bytes);
                self.queue.push_back((due, packet));
            }
        }
    }

    fn due(&mut self, now: Instant, bytes: usize) -> Instant {
        let on_the_wire = match self.bits_per_s {
            0 => Duration::ZERO,
            bits_per_s => Duration::from_nanos(bytes as u64 * 8 * 1_000_000_000 / bits_per_s),
        };
        self.left = self.left.max(now) + on_the_wire;
        let jitter = self.jitter.mul_f64(self.random.unit() * 2.0);
        self.last_due = self.last_due.max(self.left + (self.delay - self.jitter) + jitter);
        self.last_due
    }

    /// Hands over the packets that are due. One that the other side does not take is lost, as on any network.
    fn deliver(&mut self, now: Instant, other: &mut File) {
        while let Some((due, _)) = self.queue.front()
            && *due <= now
        {
            if let Some((_, packet)) = self.queue.pop_front() {
                let _ = other.write(&packet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::{FAR, RealLink, Way};
    use crate::link::Profile;

    #[test]
    fn on_a_real_link_of_200_ms_kernel_tcp_needs_200_ms_for_each_round_trip() {
        let link = match RealLink::new(&Profile::parse("200").unwrap()) {
            Ok(link) => link,
            Err(words) => {
                println!("skipped: {words}");
                return;
            }
        };
        let listener = std::thread::scope(|scope| {
            scope.spawn(|| link.far.enter().and_then(|()| TcpListener::bind((FAR, 7)))).join().unwrap().unwrap()
        });
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4];
            while stream.read_exact(&mut buffer).is_ok() {
                stream.write_all(&buffer).unwrap();
            }
        });
        link.near.enter().unwrap();
        let begun = Instant::now();
        let mut stream = TcpStream::connect((FAR, 7)).unwrap();
        let connected = begun.elapsed();
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        let echoed = begun.elapsed() - connected;
        for round_trip in [connected, echoed] {
            assert!(round_trip >= Duration::from_millis(200), "{round_trip:?} is faster than the link");
        }
        println!("connect {connected:?}, echo {echoed:?}");
        if let Ok(output) = Command::new("ping").args(["-c", "3", "-i", "0.3", &FAR.to_string()]).output() {
            println!("{}", String::from_utf8_lossy(&output.stdout));
        }
        drop(stream);
        echo.join().unwrap();
        let seen = link.poll_sightings();
        assert!(seen.iter().any(|packet| packet.way == Way::Up) && seen.iter().any(|packet| packet.way == Way::Down));
    }
}
