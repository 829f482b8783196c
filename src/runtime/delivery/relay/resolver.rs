//! Where another server's host is: looked up by the system's resolver, on a thread, because that waits.
//!
//! An address in numbers is taken as it is. Names are looked up anew when what is known is old or led nowhere; while the
//! resolver fails, what was known before is still tried. It must never make a shard wait, nor start a second lookup while
//! one is under way.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_lite::future;
use glommio::timer::Timer;

use crate::limits::{RELAY_ADDRESS_LIFETIME, RELAY_ADDRESSES_MAX, RELAY_LOOKUP_TIMEOUT};

/// The addresses of one host, as one shard knows them.
#[derive(Debug)]
pub(super) struct Resolver {
    host: String,
    port: u16,
    known: RefCell<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// Until when they are good, on the monotonic clock.
    good_until: Duration,
    /// The lookup that was begun last.
    lookup: Option<Lookup>,
}

/// A lookup on its thread. When the thread has the answer it ends, and that wakes everybody who waits.
#[derive(Clone, Debug)]
struct Lookup {
    found: Arc<OnceLock<Found>>,
    end: flume::Receiver<Infallible>,
}

type Found = Result<Vec<SocketAddr>, LookupError>;

/// Why a host has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LookupError(String);

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Resolver {
    pub(super) fn new(host: &str, port: u16) -> Self {
        let mut known = Known::default();
        if let Ok(address) = host.parse::<IpAddr>() {
            known.addresses.push(SocketAddr::new(address, port));
            known.good_until = Duration::MAX;
        }
        Self { host: host.to_owned(), port, known: RefCell::new(known) }
    }

    /// The addresses, in the order in which they are to be tried.
    pub(super) async fn addresses(&self, monotonic: Duration) -> Found {
        if let Some(addresses) = self.known.borrow().good(monotonic) {
            return Ok(addresses);
        }
        let lookup = self.lookup();
        let too_slow = async {
            Timer::new(RELAY_LOOKUP_TIMEOUT).await;
            let words = format!("looking {} up takes longer than {} s", self.host, RELAY_LOOKUP_TIMEOUT.as_secs());
            Err(LookupError(words))
        };
        let found = future::or(lookup.wait(&self.host), too_slow).await;
        self.known.borrow_mut().learn(found, monotonic)
    }

    /// None of the addresses answered.
    pub(super) fn doubt(&self) {
        let mut known = self.known.borrow_mut();
        if known.good_until != Duration::MAX {
            known.good_until = Duration::ZERO;
        }
    }

    /// The lookup that is under way, or a new one.
    fn lookup(&self) -> Lookup {
        let mut known = self.known.borrow_mut();
        if let Some(lookup) = known.lookup.as_ref().filter(|lookup| !lookup.end.is_disconnected()) {
            return lookup.clone();
        }
        let lookup = Lookup::begin(self.host.clone(), self.port);
        known.lookup = Some(lookup.clone());
        lookup
    }
}

impl Lookup {
    fn begin(host: String, port: u16) -> Self {
        let (waking, end) = flume::bounded(0);
        let found = Arc::new(OnceLock::new());
        let answer = Arc::clone(&found);
        // Without a thread the wait ends at once, and there is no answer.
        let _ = std::thread::Builder::new().name("relay-lookup".to_owned()).spawn(move || {
            let _ = answer.set(ask_system(&host, port));
            drop(waking);
        });
        Self { found, end }
    }

    async fn wait(&self, host: &str) -> Found {
        let Err(flume::RecvError::Disconnected) = self.end.recv_async().await;
        let lost = || Err(LookupError(format!("{host} cannot be looked up: the system gave no thread for it")));
        self.found.get().cloned().unwrap_or_else(lost)
    }
}

impl Known {
    fn good(&self, monotonic: Duration) -> Option<Vec<SocketAddr>> {
        (!self.addresses.is_empty() && monotonic < self.good_until).then(|| self.addresses.clone())
    }

    fn learn(&mut self, found: Found, monotonic: Duration) -> Found {
        match found {
            Ok(addresses) => {
                self.addresses.clone_from(&addresses);
                self.good_until = monotonic + RELAY_ADDRESS_LIFETIME;
                Ok(addresses)
            }
            Err(_) if !self.addresses.is_empty() => Ok(self.addresses.clone()),
            Err(error) => Err(error),
        }
    }
}

fn ask_system(host: &str, port: u16) -> Found {
    let mut addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| LookupError(format!("{host} cannot be looked up: {error}")))?
        .collect();
    addresses.truncate(RELAY_ADDRESSES_MAX);
    if addresses.is_empty() { Err(LookupError(format!("{host} has no address"))) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use glommio::{LocalExecutorBuilder, Placement};

    use super::{Known, LookupError, Resolver};
    use crate::limits::RELAY_ADDRESS_LIFETIME;

    fn run<T: Send + 'static>(task: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(|| {
            let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).make().unwrap();
            executor.run(task())
        })
        .join()
        .unwrap()
    }

    #[test]
    fn an_address_in_numbers_is_never_looked_up() {
        for (host, expected) in [("192.0.2.1", "192.0.2.1:25"), ("2001:db8::1", "[2001:db8::1]:25")] {
            let resolver = Resolver::new(host, 25);
            resolver.doubt();
            let found = run(async move || resolver.addresses(Duration::from_secs(1 << 40)).await);
            assert_eq!(found, Ok(vec![expected.parse().unwrap()]));
        }
    }

    #[test]
    fn everybody_who_waits_hears_of_the_one_lookup() {
        let found = run(async || {
            let resolver = Resolver::new("localhost", 25);
            let (first, second) =
                futures_lite::future::zip(resolver.addresses(Duration::ZERO), resolver.addresses(Duration::ZERO)).await;
            assert_eq!(first, second);
            first
        });
        assert!(found.unwrap().iter().all(|address| address.ip().is_loopback() && address.port() == 25));
    }

    #[test]
    fn a_name_that_nobody_has_is_an_error_that_names_it() {
        let found = run(async || Resolver::new("nobody.invalid", 25).addresses(Duration::ZERO).await);
        assert!(found.unwrap_err().to_string().starts_with("nobody.invalid cannot be looked up: "));
    }

    #[test]
    fn what_was_known_is_good_for_a_while_and_still_tried_when_the_resolver_fails() {
        let mut known = Known::default();
        let error = || Err(LookupError("no".to_owned()));
        assert_eq!(known.learn(error(), Duration::ZERO), error());
        let addresses = vec!["192.0.2.1:25".parse().unwrap()];
        assert_eq!(known.learn(Ok(addresses.clone()), Duration::ZERO), Ok(addresses.clone()));
        assert_eq!(known.good(RELAY_ADDRESS_LIFETIME - Duration::from_secs(1)), Some(addresses.clone()));
        assert_eq!(known.good(RELAY_ADDRESS_LIFETIME), None);
        assert_eq!(known.learn(error(), RELAY_ADDRESS_LIFETIME), Ok(addresses));
    }
}
