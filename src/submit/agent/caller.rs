//! The caller's side: finds the agent or starts one, hands the request over, and shows what comes back.
//!
//! As long as the request has not been handed over, anything that goes wrong means that the caller does it itself.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::door::is_of_the_same_user;
use super::frame::{Frame, Kind, read, write};
use super::{VERSION, is_taken_once, wire_form};
use crate::exit::Exit;
use crate::limits::SUBMIT_AGENT_TIMEOUT;
use crate::submit::SubmitError;
use crate::submit::request::Request;

/// What became of a request that an agent took; `None` if none is wanted, or none took it.
pub(in crate::submit) fn hand_over(request: &Request) -> Option<Result<(), SubmitError>> {
    if request.linger_s == 0 {
        return None;
    }
    let door = door_path(request)?;
    let stream = knock(&door).or_else(|| start(&door))?;
    submit(stream, request)
}

/// In the user's runtime directory, or beside the memory.
fn door_path(request: &Request) -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    match (runtime, &request.memory) {
        (Some(runtime), _) => Some(runtime.join("onetrip/submit.sock")),
        (None, Some(memory)) => {
            let mut name = memory.clone().into_os_string();
            name.push(".sock");
            Some(name.into())
        }
        (None, None) => None,
    }
}

/// A connection to an agent that has agreed to take a request.
pub(super) fn knock(door: &Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(door).ok()?;
    is_of_the_same_user(&stream).then(|| greet(stream)).flatten()
}

fn start(door: &Path) -> Option<UnixStream> {
    let (ours, theirs) = UnixStream::pair().ok()?;
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(["submit", "--agent"]).arg(door).current_dir("/");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    // Neither the terminal's signals nor its end are meant for the agent.
    let detach = || {
        // SAFETY: `setsid` is a mere system call, which is allowed between fork and exec.
        if unsafe { libc::setsid() } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(detach) };
    command.spawn().ok()?;
    // The command holds the agent's end, whose closing is how we would learn that the agent is gone.
    drop(command);
    greet(ours)
}

fn greet(mut stream: UnixStream) -> Option<UnixStream> {
    stream.set_read_timeout(Some(SUBMIT_AGENT_TIMEOUT)).ok()?;
    write(&mut stream, Kind::Hello, VERSION.as_bytes()).ok()?;
    let Frame { kind, .. } = read(&mut stream, 0).ok()?;
    (kind == Kind::Taken).then_some(stream)
}

/// Hands the request over and waits for its result.
pub(super) fn submit(mut stream: UnixStream, request: &Request) -> Option<Result<(), SubmitError>> {
    stream.set_read_timeout(None).ok()?;
    let sent = write(&mut stream, Kind::Request, &wire_form::encode(request));
    if sent.is_err() {
        // It was not read to its end, so nothing was done.
        return None;
    }
    loop {
        match read(&mut stream, RESULT_BYTES_MAX) {
            Ok(Frame { kind: Kind::Shown, bytes }) => {
                let _ = io::stderr().write_all(&bytes);
            }
            Ok(Frame { kind: Kind::Result, bytes }) => return Some(result(&bytes)),
            Ok(_) | Err(_) => return after_a_loss(request),
        }
    }
}

fn result(bytes: &[u8]) -> Result<(), SubmitError> {
    let (&code, message) = bytes.split_first().unwrap_or((&Exit::Software.code(), b"the agent gave no result"));
    match Exit::of_code(code) {
        Exit::Success => Ok(()),
        exit => Err(SubmitError::new(exit, String::from_utf8_lossy(message))),
    }
}

/// The agent is gone, and may or may not have submitted the message.
fn after_a_loss(request: &Request) -> Option<Result<(), SubmitError>> {
    if is_taken_once(request) {
        // Sent again under its token, it is not stored twice.
        return None;
    }
    let message = "the agent ended before it could tell whether the server has the message";
    Some(Err(SubmitError::new(Exit::Temporary, message)))
}

/// Longest text that comes back in one piece.
const RESULT_BYTES_MAX: u64 = 1 << 20;
