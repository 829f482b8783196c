//! The agent on a thread, behind a door in a directory of its own, against our own server core.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::door::Door;
use super::frame::{Kind, read, write};
use super::{Agent, caller, wire_form};
use crate::exit::Exit;
use crate::limits::SUBMIT_AGENT_TIMEOUT;
use crate::proto::client::{Notify, Return};
use crate::proto::server::Opening;
use crate::submit::request::{Request, TrustWish};
use crate::submit::tests::{TestServer, settings, start_server, wishes};

/// A wait longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Site {
    server: TestServer,
    folder: tempfile::TempDir,
    request: Request,
    agent: Option<JoinHandle<()>>,
}

impl Site {
    /// A server, and an agent that has just been started by a caller.
    fn new() -> Self {
        let server = start_server(1 << 20, Opening::ImplicitTls);
        let (mut settings, folder) = settings(&server);
        settings.implicit_tls = true;
        settings.linger_s = 60;
        let request = Request::new(&settings, &wishes(), b"Subject: x\n\nhello\n").unwrap();
        Self { server, folder, request, agent: None }
    }

    fn door(&self) -> PathBuf {
        self.folder.path().join("agent/door")
    }

    /// Begins an agent; returns a connection as its starter has it.
    fn start(&mut self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let door = self.door();
        self.agent = Some(thread::spawn(move || Agent::new(&door).serve(Some(theirs))));
        ours
    }

    /// What a caller gets from the agent that it finds at the door.
    fn call(&self) -> Option<Result<(), crate::submit::SubmitError>> {
        caller::submit(knock_patiently(&self.door())?, &self.request)
    }
}

/// An agent that has just been started may not have opened its door yet.
fn knock_patiently(door: &std::path::Path) -> Option<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match caller::knock(door) {
            None if Instant::now() < deadline => thread::yield_now(),
            found => return found,
        }
    }
}

fn greet(mut stream: UnixStream) -> UnixStream {
    write(&mut stream, Kind::Hello, super::VERSION.as_bytes()).unwrap();
    assert_eq!(read(&mut stream, 0).unwrap().kind, Kind::Taken);
    stream
}

#[test]
fn the_second_message_through_the_agent_resumes_a_session_that_the_first_one_left() {
    let mut site = Site::new();
    let first = greet(site.start());
    caller::submit(first, &site.request).unwrap().unwrap();
    let seen = site.server.seen.recv().unwrap();
    assert!(!seen.resumed && seen.message.is_some());
    for _ in 0..3 {
        site.call().unwrap().unwrap();
        let seen = site.server.seen.recv().unwrap();
        assert!(seen.resumed && seen.message.is_some());
        assert!(seen.token.is_some_and(|token| token.starts_with(&site.request.token)));
    }
    assert!(site.request.memory.as_ref().unwrap().exists(), "the memory is written as without the agent");
}

#[test]
fn refusals_come_back_with_their_exit_code_and_words() {
    let mut site = Site::new();
    let (user, _) = site.request.login.take().unwrap();
    site.request.login = Some((user, crate::proto::secret::Secret::new(b"wrong".to_vec())));
    let error = caller::submit(greet(site.start()), &site.request).unwrap().unwrap_err();
    assert_eq!(error.exit(), Exit::NoPermission);
    assert!(error.to_string().contains("535"), "{error}");
}

#[test]
fn the_door_is_its_users_alone_and_one_agent_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/door");
    std::fs::create_dir(folder.path().join("new")).unwrap();
    std::fs::write(&path, "left behind").unwrap();
    let door = Door::open(&path).expect("what was left behind is no agent");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Door::open(&path).is_none(), "another one has it");
    let _knocking = UnixStream::connect(&path).unwrap();
    assert_eq!(door.close().len(), 1, "who knocked is not left standing");
    assert!(!path.exists());
    assert!(Door::open(&path).is_some());
}

#[test]
fn an_agent_of_another_version_takes_nothing_and_makes_room() {
    let mut site = Site::new();
    let mut stream = site.start();
    write(&mut stream, Kind::Hello, b"0.0.1 0").unwrap();
    assert_eq!(read(&mut stream, 0).unwrap().kind, Kind::Other);
    site.agent.take().unwrap().join().unwrap();
    assert!(!site.door().exists());
}

#[test]
fn an_agent_whose_time_is_over_ends_and_takes_its_door_away() {
    let mut site = Site::new();
    site.request.linger_s = 0;
    caller::submit(greet(site.start()), &site.request).unwrap().unwrap();
    site.agent.take().unwrap().join().unwrap();
    assert!(!site.door().exists());
}

#[test]
fn a_caller_whose_agent_dies_before_it_took_the_request_does_it_itself() {
    let site = Site::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert_eq!(caller::submit(ours, &site.request), None);
}

#[test]
fn a_caller_whose_agent_dies_with_the_request_says_that_it_is_uncertain() {
    let site = Site::new();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let dies = thread::spawn(move || {
        theirs.set_read_timeout(Some(SUBMIT_AGENT_TIMEOUT)).unwrap();
        assert_eq!(read(&mut theirs, 1 << 20).unwrap().kind, Kind::Request);
    });
    let error = caller::submit(ours, &site.request).unwrap().unwrap_err();
    assert_eq!(error.exit(), Exit::Temporary);
    dies.join().unwrap();
}

#[test]
fn a_request_is_the_same_at_the_other_end_and_damaged_bytes_are_none() {
    let mut request = Site::new().request;
    request.notify = Some(Notify { success: true, failure: false, delay: true });
    request.return_content = Some(Return::Headers);
    request.envelope_id = Some("id".to_owned());
    request.trust = TrustWish::Roots(vec![vec![1, 2], vec![]]);
    let bytes = wire_form::encode(&request);
    let read = wire_form::decode(&bytes).unwrap();
    assert_eq!(format!("{read:?}"), format!("{request:?}"));
    assert_eq!(*wire_form::encode(&read), *bytes, "secrets do not print");
    for cut in 0..bytes.len() {
        assert!(wire_form::decode(&bytes[..cut]).is_none(), "cut at {cut}");
    }
}
