//! The control socket of a running server, `STATE-DIR/control`: `onetrip queue` asks there.
//!
//! One connection carries one request and its answer; each has a thread, and there are few. Who may connect is a matter
//! of the socket's permissions: its owner, and root. It must not know what a queue is: a [`Shelf`] answers.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use socket2::SockRef;

use super::atomic_file::{PRIVATE_FILE_MODE, remove_if_there};
use crate::exit::Exit;
use crate::limits;
use crate::queue::{Fault, Reply, Request, Shelf, answer};

/// The name of the socket in the state directory.
const CONTROL_SOCKET: &str = "control";

/// Gives each request something to ask.
pub(super) type OpenShelf = dyn Fn() -> Box<dyn Shelf> + Send + Sync;

/// The socket, at which nobody answers yet. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    listener: Arc<UnixListener>,
}

/// The running server of the socket; it stops when dropped.
#[derive(Debug)]
pub(super) struct ControlServer {
    socket: ControlSocket,
    connections: Arc<Connections>,
}

/// The socket cannot be made.
#[derive(Debug)]
pub(super) struct ControlServerError {
    path: PathBuf,
    cause: io::Error,
}

impl ControlSocket {
    /// Makes the socket. Whoever calls holds the lock of the state directory, so that a socket that is there already belongs
    /// to nobody any more.
    ///
    /// # Errors
    /// The system refuses it.
    pub(super) fn bind(state_dir: &Path) -> Result<Self, ControlServerError> {
        let path = state_dir.join(CONTROL_SOCKET);
        let bound = remove_if_there(&path).and_then(|()| with_short_path(&path, UnixListener::bind));
        let listener = bound.map_err(|cause| ControlServerError { path: path.clone(), cause })?;
        let socket = Self { path, listener: Arc::new(listener) };
        fs::set_permissions(&socket.path, Permissions::from_mode(PRIVATE_FILE_MODE))
            .map_err(|cause| ControlServerError { path: socket.path.clone(), cause })?;
        Ok(socket)
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn serve(self, open_shelf: Box<OpenShelf>) -> io::Result<ControlServer> {
        let connections = Arc::new(Connections::default());
        let acceptor = Acceptor {
            listener: Arc::clone(&self.listener),
            connections: Arc::clone(&connections),
            open_shelf: open_shelf.into(),
        };
        thread::Builder::new().name("onetrip-control".to_owned()).spawn(move || acceptor.run())?;
        Ok(ControlServer { socket: self, connections })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // One that stays behind is in nobody's way.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.connections.close();
        // On Linux this makes the accept() that waits in the thread return at once.
        let _ = SockRef::from(&*self.socket.listener).shutdown(Shutdown::Read);
    }
}

impl ControlServerError {
    pub(super) fn exit(&self) -> Exit {
        match self.cause.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::CannotCreate,
        }
    }
}

impl fmt::Display for ControlServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "cannot make the socket {path}: {}: name another directory with --state-dir", self.cause)
    }
}

/// Connects to the server of a state directory.
///
/// # Errors
/// Whatever the system says; [`io::ErrorKind::NotFound`] and [`io::ErrorKind::ConnectionRefused`] mean that none runs.
pub(super) fn connect(state_dir: &Path) -> io::Result<UnixStream> {
    with_short_path(&state_dir.join(CONTROL_SOCKET), UnixStream::connect)
}

/// Calls `work` with a path for the same socket that fits into the address of a socket, which is short.
pub(super) fn with_short_path<T>(path: &Path, work: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return work(path.to_owned());
    };
    if path.as_os_str().as_bytes().len() <= SOCKET_PATH_BYTES_MAX {
        return work(path.to_owned());
    }
    let directory = File::open(above)?;
    work(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

/// The connections that are open, so that they can be closed.
#[derive(Debug, Default)]
struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    streams: HashMap<u64, UnixStream>,
    next: u64,
    closed: bool,
}

impl Connections {
    /// Enters one, unless there are too many.
    fn enter(self: &Arc<Self>, stream: &UnixStream) -> Option<Entered> {
        let stream = stream.try_clone().ok()?;
        let mut open = self.lock();
        if open.closed || open.streams.len() >= limits::CONTROL_CONNECTIONS_MAX {
            return None;
        }
        open.next += 1;
        let number = open.next;
        open.streams.insert(number, stream);
        Some(Entered { connections: Arc::clone(self), number })
    }

    fn close(&self) {
        let mut open = self.lock();
        open.closed = true;
        for (_, stream) in open.streams.drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection that is open until this is dropped.
struct Entered {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.lock().streams.remove(&self.number);
    }
}

/// Accepts connections and gives each a thread.
struct Acceptor {
    listener: Arc<UnixListener>,
    connections: Arc<Connections>,
    open_shelf: Arc<OpenShelf>,
}

impl Acceptor {
    fn run(&self) {
        while !self.connections.is_closed() {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(_) if self.connections.is_closed() => return,
                Err(_) => thread::sleep(limits::METRICS_ACCEPT_PAUSE),
            }
        }
    }

    fn admit(&self, stream: UnixStream) {
        let Some(entered) = self.connections.enter(&stream) else {
            refuse(&stream);
            return;
        };
        let open_shelf = Arc::clone(&self.open_shelf);
        let serve = move || {
            let _entered = entered;
            // Whoever asked is gone: there is nobody to tell.
            let _ = exchange(&stream, &*open_shelf);
        };
        // Without a thread the connection is closed, which the other side takes for a broken answer.
        let _ = thread::Builder::new().name("onetrip-control".to_owned()).spawn(serve);
    }
}

fn refuse(mut stream: &UnixStream) {
    let fault = Fault::new(Exit::Temporary, "the server is busy with other requests about the queue", "try again soon");
    let _ = stream.set_write_timeout(Some(limits::CONTROL_REQUEST_TIMEOUT));
    let _ = stream.write_all(Reply::Fault(fault).to_line().as_bytes());
}

/// Reads the request and writes the answer.
fn exchange(stream: &UnixStream, open_shelf: &OpenShelf) -> io::Result<()> {
    stream.set_read_timeout(Some(limits::CONTROL_REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(limits::CONTROL_WRITE_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.take(limits::CONTROL_REQUEST_BYTES_MAX)).read_line(&mut line)?;
    let mut out = BufWriter::with_capacity(ANSWER_BUFFER_BYTES, stream);
    match Request::from_line(&line) {
        Ok(request) => answer(&request, &mut *open_shelf(), &mut out)?,
        Err(fault) => out.write_all(Reply::Fault(fault).to_line().as_bytes())?,
    }
    out.flush()
}

/// Longest path in the address of a socket (`sun_path` of unix(7)), without the NUL behind it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Lines of an answer leave in pieces of this size.
const ANSWER_BUFFER_BYTES: usize = 65_536;

#[cfg(test)]
pub(super) mod tests {
    use std::io::{self, Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::{Arc, Barrier, Mutex};

    use super::{ControlServer, ControlSocket, OpenShelf, connect};
    use crate::limits;
    use crate::queue::{Details, Fault, Item, ItemState, Order, Reply, Request, Selection, Shelf};

    /// So many messages, numbered from 0.
    struct Numbers(u64);

    fn item(number: u64) -> Item {
        Item {
            message: format!("{number:06}"),
            state: ItemState::Ready,
            received: "2026-01-01T00:00:00Z".to_owned(),
            age_s: 1,
            bytes: 3 * number,
            user: "ann".to_owned(),
            sender: "ann@example.org".to_owned(),
            recipients: vec!["bob@example.org".to_owned()],
            recipients_in_all: 1,
            destinations: vec!["discard".to_owned()],
            attempts: 0,
            next_attempt: None,
            last_reply: None,
        }
    }

    impl Shelf for Numbers {
        fn list(
            &mut self,
            _: &Selection,
            each: &mut dyn FnMut(Item) -> io::Result<()>,
        ) -> Result<io::Result<()>, Fault> {
            Ok((0..self.0).map(item).try_for_each(each))
        }

        fn names(&mut self, beginning: &str, most: usize) -> Result<Vec<String>, Fault> {
            let names = (0..self.0).map(|number| format!("{number:06}"));
            Ok(names.filter(|name| name.starts_with(beginning)).take(most).collect())
        }

        fn item(&mut self, message: &str) -> Result<Option<Item>, Fault> {
            let number: u64 = message.parse().unwrap();
            Ok((number < self.0).then(|| item(number)))
        }

        fn details(&mut self, message: &str) -> Result<Option<Details>, Fault> {
            let number: u64 = message.parse().unwrap();
            Ok((number < self.0).then(|| Details {
                item: item(number),
                envelope: Vec::new(),
                envid: None,
                ret: None,
                body: "7BIT".to_owned(),
                smtputf8: false,
                requires_tls: false,
                once: None,
                header: String::new(),
            }))
        }

        fn content(&mut self, message: &str) -> Result<Option<Vec<u8>>, Fault> {
            let number: u64 = message.parse().unwrap();
            Ok((number < self.0).then(|| vec![b'x'; 3 * number as usize]))
        }

        fn change(&mut self, _: Order, message: &str) -> Result<bool, Fault> {
            let number: u64 = message.parse().unwrap();
            Ok(number < self.0)
        }

        fn flush_everything(&mut self) -> Result<(), Fault> {
            Ok(())
        }
    }

    /// A server that knows so many messages.
    pub(crate) fn start(directory: &Path, messages: u64) -> ControlServer {
        start_with(directory, Box::new(move || Box::new(Numbers(messages))))
    }

    fn start_with(directory: &Path, open_shelf: Box<OpenShelf>) -> ControlServer {
        ControlSocket::bind(directory).unwrap().serve(open_shelf).unwrap()
    }

    fn ask(directory: &Path, request: &str) -> Vec<Reply> {
        let mut stream = connect(directory).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines().map(|line| Reply::from_line(line).unwrap()).collect()
    }

    fn list() -> String {
        Request { order: Order::List, select: Selection::default() }.to_line()
    }

    #[test]
    fn a_request_is_answered_and_the_connection_closed() {
        let directory = tempfile::tempdir().unwrap();
        let _server = start(directory.path(), 2);
        for _ in 0..2 {
            let replies = ask(directory.path(), &list());
            assert_eq!(replies, [Reply::Item(item(0)), Reply::Item(item(1)), Reply::End { messages: 2 }]);
        }
    }

    #[test]
    fn a_long_list_streams() {
        let directory = tempfile::tempdir().unwrap();
        let _server = start(directory.path(), 50_000);
        assert_eq!(ask(directory.path(), &list()).len(), 50_001);
    }

    #[test]
    fn what_is_no_request_is_answered_with_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let _server = start(directory.path(), 1);
        for request in ["\n", "GET / HTTP/1.1\n", "{\"order\":\"dance\"}\n"] {
            assert!(matches!(ask(directory.path(), request)[..], [Reply::Fault(_)]), "{request}");
        }
        let endless = "x".repeat(limits::CONTROL_REQUEST_BYTES_MAX as usize);
        assert!(matches!(ask(directory.path(), &endless)[..], [Reply::Fault(_)]));
    }

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_with_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let server = start(directory.path(), 1);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(server);
        assert!(!path.exists());
        assert_eq!(connect(directory.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_socket_that_a_killed_server_left_behind_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(connect(directory.path()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _server = start(directory.path(), 1);
        assert_eq!(ask(directory.path(), &list()).len(), 2);
    }

    #[test]
    fn a_state_directory_of_any_depth_will_do() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        let _server = start(&deep, 1);
        assert_eq!(ask(&deep, &list()).len(), 2);
    }

    #[test]
    fn there_are_not_more_requests_at_once_than_the_bound_and_the_next_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let _server = start(directory.path(), 1);
        // Connections are taken in order, and these never ask anything.
        let idle: Vec<_> = (0..limits::CONTROL_CONNECTIONS_MAX).map(|_| connect(directory.path()).unwrap()).collect();
        let mut text = String::new();
        connect(directory.path()).unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains("busy"), "{text}");
        drop(idle);
    }

    #[test]
    fn a_server_that_stops_ends_the_answers_under_way() {
        let directory = tempfile::tempdir().unwrap();
        let under_way = Arc::new(Barrier::new(2));
        let shelf_under_way = Arc::clone(&under_way);
        let opened = Mutex::new(());
        let open_shelf = move || {
            let _one = opened.lock().unwrap();
            shelf_under_way.wait();
            Box::new(Numbers(u64::MAX)) as Box<dyn Shelf>
        };
        let server = start_with(directory.path(), Box::new(open_shelf));
        let mut stream = connect(directory.path()).unwrap();
        stream.write_all(list().as_bytes()).unwrap();
        under_way.wait();
        drop(server);
        let mut text = Vec::new();
        // Whatever was on its way arrives, and then the end.
        let _ = stream.read_to_end(&mut text);
        assert!(!String::from_utf8_lossy(&text).contains("\"end\""));
    }
}
