//! The floor of sockets: the bytes of an exchange over loopback and the server's runtime, without SMTP and without TLS.
//!
//! As the server does it: accept, one receive and one send for each flight, close. As many clients at once as there are in
//! the run of the server beside it.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

use crate::records::Flights;

/// Sessions, one after the other, of so many clients at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) clients: usize,
    pub(crate) sessions: usize,
}

/// The server's processor time for one session, in microseconds.
pub(crate) fn session_us(flights: &Flights, crowd: Crowd) -> f64 {
    let listener = StdListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answers = flights.clone();
    let server = on_core(0, move || async move { serve(listener, answers, crowd.sessions).await });
    let flights = flights.clone();
    let clients = on_core(1, move || async move { visit(address, flights, crowd).await });
    clients.join().expect("clients end well");
    let took = server.join().expect("the server ends well");
    took.as_secs_f64() * 1e6 / crowd.sessions as f64
}

fn on_core<F, T>(core: usize, work: impl FnOnce() -> F + Send + 'static) -> thread::JoinHandle<T>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    thread::spawn(move || {
        let executor = LocalExecutorBuilder::new(Placement::Fixed(core)).io_memory(64 << 10).ring_depth(128).make();
        executor.expect("a ring").run(work())
    })
}

/// Serves so many sessions; returns the time of this thread.
async fn serve(listener: StdListener, flights: Flights, sessions: usize) -> Duration {
    let listener = socket2::Socket::from(listener);
    listener.set_tcp_nodelay(true).expect("an option");
    listener.listen(4_096).expect("a longer queue");
    // SAFETY: the descriptor's owner has given it up.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    let flights = Rc::new(flights);
    let buffer = Rc::new(RefCell::new(vec![0; 65_536]));
    let left = Rc::new(Cell::new(sessions));
    let before = thread_time();
    for _ in 0..sessions {
        let stream = listener.accept().await.expect("a client");
        let (flights, buffer, left) = (Rc::clone(&flights), Rc::clone(&buffer), Rc::clone(&left));
        glommio::spawn_local(async move {
            answer(stream, &flights, &buffer).await;
            left.set(left.get() - 1);
        })
        .detach();
    }
    while left.get() > 0 {
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    thread_time() - before
}

async fn answer(mut stream: TcpStream, flights: &Flights, buffer: &RefCell<Vec<u8>>) {
    for (asked, answered) in flights {
        let mut received = 0;
        while received < *asked {
            let bytes = std::future::poll_fn(|context| {
                let mut stream = std::pin::Pin::new(&mut stream);
                futures_lite::AsyncRead::poll_read(stream.as_mut(), context, &mut buffer.borrow_mut())
            });
            received += bytes.await.expect("bytes");
        }
        stream.write_all(&ANSWER[..*answered]).await.expect("a client that listens");
    }
}

async fn visit(address: SocketAddr, flights: Flights, crowd: Crowd) {
    let flights = Rc::new(flights);
    let clients: Vec<_> = (0..crowd.clients)
        .map(|number| {
            let flights = Rc::clone(&flights);
            let visits = crowd.sessions / crowd.clients + usize::from(number < crowd.sessions % crowd.clients);
            glommio::spawn_local(async move {
                for _ in 0..visits {
                    ask(address, &flights).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await;
    }
}

async fn ask(address: SocketAddr, flights: &Flights) {
    let mut stream = TcpStream::connect(address).await.expect("a server");
    stream.set_nodelay(true).expect("an option");
    let mut buffer = [0; 4_096];
    for (asked, answered) in flights {
        if *asked > 0 {
            stream.write_all(&ANSWER[..*asked]).await.expect("a server that listens");
        }
        let mut received = 0;
        while received < *answered {
            received += stream.read(&mut buffer).await.expect("an answer");
        }
    }
    let _ = stream.read(&mut buffer).await;
}

fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives during the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every thread has a clock of its own");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// What is said, in both directions.
const ANSWER: [u8; 8_192] = [b'x'; 8_192];
