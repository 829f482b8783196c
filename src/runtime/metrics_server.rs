//! Serves the figures and the state of health over HTTP, for monitoring on the inside of a network.
//!
//! `GET /metrics` is OpenMetrics text; `GET /health` is 200 while the service takes mail and 503 while it drains. One
//! thread serves one request at a time within a time limit, so that nothing that watches the service can weigh it down.
//! There is no TLS and no password: it must not be bound to an address that strangers reach.

use std::{
    error::Error,
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{limits, observe::metrics::Metrics};

/// Whether the service takes mail, for load balancers; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// From now on the service is draining: no new clients are to be sent here.
    pub fn drain(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Health::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The running server; it stops when dropped.
#[derive(Debug)]
pub struct MetricsServer {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Opens the listener and starts the thread.
    ///
    /// # Errors
    /// When the address cannot be bound or the thread cannot be started; the message says what to do.
    pub fn start(address: SocketAddr, metrics: Arc<Metrics>, health: Health) -> Result<Self, MetricsServerError> {
        let failed = |cause| MetricsServerError { address, cause };
        let listener = Arc::new(TcpListener::bind(address).map_err(failed)?);
        let bound = listener.local_addr().map_err(failed)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = Acceptor {
            listener: Arc::clone(&listener),
            stopping: Arc::clone(&stopping),
            site: Site { metrics, health },
        };
        let thread =
            thread::Builder::new().name("onetrip-metrics".to_owned()).spawn(move || acceptor.run()).map_err(failed)?;
        Ok(Self { listener, address: bound, stopping, thread: Some(thread) })
    }

    /// Where it listens, with the port that the system chose if it was asked to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and waits until the request under way is answered, at most
    /// [`limits::METRICS_EXCHANGE_TIMEOUT`].
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // On Linux this makes the accept() that waits in the thread return at once. If it fails, the listener is broken
        // and the accept() has failed as well.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Read);
        if let Some(thread) = self.thread.take() {
            // A panic in that thread was told of when it happened; there is nothing to add at the end.
            let _ = thread.join();
        }
    }
}

/// The server of metrics could not be started.
#[derive(Debug)]
pub struct MetricsServerError {
    address: SocketAddr,
    cause: io::Error,
}

impl fmt::Display for MetricsServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = match self.cause.kind() {
            io::ErrorKind::AddrInUse => "another program listens there, choose another port",
            io::ErrorKind::AddrNotAvailable => "this host has no such address, choose one that it has",
            io::ErrorKind::PermissionDenied => "choose a port above 1023",
            _ => "choose another address",
        };
        write!(f, "cannot serve metrics on {}: {}: {remedy} with --metrics", self.address, self.cause)
    }
}

impl Error for MetricsServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

/// Accepts one connection after the other.
struct Acceptor {
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
    site: Site,
}

impl Acceptor {
    fn run(&self) {
        while !self.stopping.load(Ordering::Relaxed) {
            match self.listener.accept() {
                // Whoever asked is gone or too slow: it asks again at the next interval.
                Ok((stream, _)) => drop(self.site.exchange(&mut TimedStream::new(stream))),
                Err(_) if self.stopping.load(Ordering::Relaxed) => return,
                Err(_) => thread::sleep(limits::METRICS_ACCEPT_PAUSE),
            }
        }
    }
}

/// A stream whose whole exchange must be over at a deadline, however the peer spreads its bytes.
struct TimedStream {
    stream: TcpStream,
    deadline: Instant,
}

impl TimedStream {
    fn new(stream: TcpStream) -> Self {
        Self { stream, deadline: Instant::now() + limits::METRICS_EXCHANGE_TIMEOUT }
    }

    fn time_left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.time_left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.time_left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// What can be asked for.
struct Site {
    metrics: Arc<Metrics>,
    health: Health,
}

impl Site {
    /// Reads one request and answers it; the connection is closed afterwards.
    fn exchange(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        let answer = match read_request(stream)? {
            Request::Get(path) => self.answer(&path),
            Request::OtherMethod => Answer::plain("405 Method Not Allowed\r\nAllow: GET", "only GET is served\n"),
            Request::Malformed => Answer::plain("400 Bad Request", "this is no request that can be served\n"),
        };
        stream.write_all(&answer.into_bytes())?;
        stream.flush()
    }

    fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => Answer { status: "200 OK", content_type: OPEN_METRICS, body: self.metrics.render() },
            "/health" if self.health.is_draining() => Answer::plain("503 Service Unavailable", "draining\n"),
            "/health" => Answer::plain("200 OK", "ok\n"),
            _ => Answer::plain("404 Not Found", "there are /metrics and /health\n"),
        }
    }
}

/// What was asked.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// GET of a path, without its query.
    Get(String),
    /// A method that is not served.
    OtherMethod,
    /// Not HTTP/1, too long, or cut off.
    Malformed,
}

/// Reads until the request's head is complete or cannot become a good one. A body is not read: GET has none.
fn read_request(stream: &mut impl Read) -> io::Result<Request> {
    let mut buffer = [0; limits::METRICS_REQUEST_BYTES_MAX];
    let mut filled = 0;
    loop {
        let received = stream.read(&mut buffer[filled..])?;
        filled += received;
        if let Some(request) = parse_request(&buffer[..filled]) {
            return Ok(request);
        }
        if received == 0 || filled == buffer.len() {
            return Ok(Request::Malformed);
        }
    }
}

/// The request whose head `bytes` hold, or none while more must come.
fn parse_request(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; limits::METRICS_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Some(Request::Malformed),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else { return Some(Request::Malformed) };
    if method != "GET" {
        return Some(Request::OtherMethod);
    }
    let path = target.split_once('?').map_or(target, |(path, _query)| path);
    Some(Request::Get(path.to_owned()))
}

/// An answer before it is bytes.
struct Answer {
    /// Code and phrase.
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn plain(status: &'static str, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.to_owned() }
    }

    fn into_bytes(self) -> Vec<u8> {
        let Self { status, content_type, body } = self;
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// The media type that the OpenMetrics specification gives its text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read, Write},
        net::{SocketAddr, TcpStream},
        sync::Arc,
        time::Instant,
    };

    use super::{Health, MetricsServer, Request, Site, TimedStream, parse_request};
    use crate::{limits, observe::metrics::Metrics};

    /// A peer that sends its bytes one at a time and keeps what it is sent.
    struct Peer<'a> {
        sends: &'a [u8],
        received: Vec<u8>,
    }

    impl Read for Peer<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1);
            self.sends.read(&mut buffer[..length])
        }
    }

    impl Write for Peer<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.received.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn site() -> Site {
        Site { metrics: Arc::new(Metrics::new("0.1.0", 1)), health: Health::default() }
    }

    fn ask(site: &Site, request: &[u8]) -> String {
        let mut peer = Peer { sends: request, received: Vec::new() };
        site.exchange(&mut peer).unwrap();
        String::from_utf8(peer.received).unwrap()
    }

    fn start() -> MetricsServer {
        let site = site();
        MetricsServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), site.metrics, site.health).unwrap()
    }

    fn ask_over_tcp(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn metrics_are_open_metrics_to_the_end() {
        let answer = ask(&site(), b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0;"));
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert!(body.contains("onetrip_build_info{version=\"0.1.0\"} 1\n") && body.ends_with("# EOF\n"));
    }

    #[test]
    fn a_query_changes_nothing() {
        assert!(ask(&site(), b"GET /health?a=b HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn health_turns_to_503_when_the_service_drains() {
        let site = site();
        assert!(ask(&site, b"GET /health HTTP/1.0\r\n\r\n").ends_with("\r\n\r\nok\n"));
        site.health.drain();
        let answer = ask(&site, b"GET /health HTTP/1.0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\n"), "{answer}");
    }

    #[test]
    fn another_path_is_404_and_another_method_405() {
        assert!(ask(&site(), b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        let answer = ask(&site(), b"POST /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n"), "{answer}");
    }

    #[test]
    fn what_is_not_http_is_400() {
        for request in
            [&b"EHLO client.example\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00", b"GET /metrics HTTP/1.1\r\nHo", b""]
        {
            assert!(ask(&site(), request).starts_with("HTTP/1.1 400 "), "{request:?}");
        }
    }

    #[test]
    fn a_request_of_many_bytes_or_fields_is_400() {
        let long = format!("GET /metrics HTTP/1.1\r\nA: {}", "a".repeat(2 * limits::METRICS_REQUEST_BYTES_MAX));
        assert!(ask(&site(), long.as_bytes()).starts_with("HTTP/1.1 400 "));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(limits::METRICS_HEADERS_MAX + 1));
        assert!(ask(&site(), many.as_bytes()).starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn a_request_is_not_judged_before_it_is_complete() {
        let request = b"GET /metrics?x HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..request.len() {
            assert_eq!(parse_request(&request[..end]), None, "cut at {end}");
        }
        assert_eq!(parse_request(request), Some(Request::Get("/metrics".to_owned())));
    }

    #[test]
    fn an_exchange_past_its_deadline_is_over_in_both_directions() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut stream = TimedStream { stream: listener.accept().unwrap().0, deadline: Instant::now() };
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(stream.write(b"HTTP/1.1").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_server_answers_one_connection_after_another_until_it_is_stopped() {
        let server = start();
        let address = server.address();
        for _ in 0..3 {
            assert!(ask_over_tcp(address, b"GET /metrics HTTP/1.1\r\n\r\n").ends_with("# EOF\n"));
        }
        server.stop();
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn an_address_in_use_is_refused_with_what_to_do() {
        let server = start();
        let site = site();
        let error = MetricsServer::start(server.address(), site.metrics, site.health).unwrap_err().to_string();
        assert!(error.contains(&server.address().to_string()), "{error}");
        assert!(error.ends_with("another program listens there, choose another port with --metrics"), "{error}");
    }
}
