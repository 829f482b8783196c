//! What `onetrip queue` does: asks the running server, or reads the spool of a stopped one, and hands on what there is to
//! say.
//!
//! It must not change anything itself: only a running server does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use super::atomic_file::PRIVATE_FILE_MODE;
use super::control;
use super::shelf::StoppedQueue;
use crate::exit::Exit;
use crate::queue::{Asked, Fault, Listing, Order, Reply, Request, answer};

/// Asks about the queue in `state_dir`, and writes what there is to say to `out`.
///
/// # Errors
/// Whatever keeps the question from being answered. What was written before is right.
pub fn run(state_dir: &Path, asked: &Asked, out: &mut dyn Write) -> Result<(), Fault> {
    let mut presenter = Presenter {
        listing: Listing::new(asked.format, asked.request.order),
        export: (asked.request.order == Order::Export).then(|| Export::new(asked.to.clone())).transpose()?,
        out,
        is_complete: false,
    };
    match control::connect(state_dir) {
        Ok(stream) => ask_running(stream, &asked.request, &mut presenter),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            ask_stopped(state_dir, &asked.request, &mut presenter)
        }
        Err(error) => Err(cannot_connect(state_dir, &error)),
    }?;
    presenter.flush()
}

fn cannot_connect(state_dir: &Path, error: &io::Error) -> Fault {
    let problem = format!("cannot ask the server of {}: {error}", state_dir.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Fault::new(Exit::NoPermission, problem, "run this as the user that the server runs as, or as root")
        }
        _ => Fault::new(Exit::Io, problem, "see whether the server still runs"),
    }
}

fn ask_running(
    stream: std::os::unix::net::UnixStream,
    request: &Request,
    presenter: &mut Presenter<'_>,
) -> Result<(), Fault> {
    let broken = |error: &io::Error| {
        Fault::new(
            Exit::Io,
            format!("the server's answer was broken off ({error})"),
            "see the server's log, and ask again",
        )
    };
    (&stream).write_all(request.to_line().as_bytes()).map_err(|error| broken(&error))?;
    let mut lines = BufReader::with_capacity(READ_BYTES, stream);
    let mut line = String::new();
    while !presenter.is_complete {
        line.clear();
        if lines.read_line(&mut line).map_err(|error| broken(&error))? == 0 {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
        presenter.take(Reply::from_line(&line)?)?;
    }
    Ok(())
}

/// Answers from the spool that a stopped server has left.
fn ask_stopped(state_dir: &Path, request: &Request, presenter: &mut Presenter<'_>) -> Result<(), Fault> {
    let mut shelf = StoppedQueue::open(state_dir)?;
    let mut lines = Lines { presenter, line: Vec::new(), fault: None };
    let answered = answer(request, &mut shelf, &mut lines);
    match (lines.fault, answered) {
        (Some(fault), _) => Err(fault),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(Fault::new(Exit::Io, error.to_string(), "ask again")),
    }
}

/// Takes an answer of our own apart again, so that it is shown as one from a server is.
struct Lines<'a, 'b> {
    presenter: &'a mut Presenter<'b>,
    line: Vec<u8>,
    fault: Option<Fault>,
}

impl Write for Lines<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let reply = Reply::from_line(&String::from_utf8_lossy(&line));
            if let Err(fault) = reply.and_then(|reply| self.presenter.take(reply)) {
                self.fault = Some(fault);
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows replies, and writes exported messages down.
struct Presenter<'a> {
    listing: Listing,
    export: Option<Export>,
    out: &'a mut dyn Write,
    is_complete: bool,
}

impl Presenter<'_> {
    fn take(&mut self, reply: Reply) -> Result<(), Fault> {
        self.is_complete = matches!(reply, Reply::End { .. });
        if let Reply::Fault(fault) = reply {
            return Err(fault);
        }
        let goes_to_output = match &mut self.export {
            None => true,
            Some(export) => export.take(&reply, self.out)?,
        };
        if goes_to_output {
            let text = self.listing.show(&reply);
            let printed = self.out.write_all(text.as_bytes());
            self.note_printed(printed)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let flushed = self.out.flush();
        self.note_printed(flushed)
    }

    /// A reader that has seen enough, like `head`, makes no fault.
    fn note_printed(&mut self, printed: io::Result<()>) -> Result<(), Fault> {
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_complete = true;
                Ok(())
            }
            printed => printed.map_err(|error| cannot_print(&error)),
        }
    }
}

/// Where exported messages go.
struct Export {
    to: Option<PathBuf>,
    /// The message whose pieces come next.
    current: Option<Current>,
    messages: u64,
}

struct Current {
    /// `None` for standard output.
    file: Option<(PathBuf, File)>,
    bytes_left: u64,
}

impl Export {
    fn new(to: Option<PathBuf>) -> Result<Self, Fault> {
        if let Some(directory) = &to
            && !directory.is_dir()
        {
            let problem = format!("{} is no directory", directory.display());
            return Err(Fault::new(Exit::CannotCreate, problem, "make it first, or name another one with --to"));
        }
        Ok(Self { to, current: None, messages: 0 })
    }

    /// Takes a reply; true if it is to be shown.
    fn take(&mut self, reply: &Reply, out: &mut dyn Write) -> Result<bool, Fault> {
        match reply {
            Reply::File { message, bytes } => self.begin(message, *bytes)?,
            Reply::Piece(text) => self.piece(text, out)?,
            // Words would be taken for a part of the message.
            _ => return Ok(self.to.is_some()),
        }
        self.finish_if_whole()?;
        Ok(false)
    }

    fn begin(&mut self, message: &str, bytes: u64) -> Result<(), Fault> {
        self.messages += 1;
        if self.to.is_none() && self.messages > 1 {
            let problem = "more than one message is to be exported, and standard output takes one";
            return Err(Fault::new(Exit::Usage, problem, "name a directory with --to"));
        }
        let file = self.to.as_ref().map(|directory| create(directory, message)).transpose()?;
        self.current = Some(Current { file, bytes_left: bytes });
        Ok(())
    }

    fn piece(&mut self, text: &str, out: &mut dyn Write) -> Result<(), Fault> {
        let content = BASE64.decode(text.as_bytes()).map_err(|_| out_of_step())?;
        let current = self.current.as_mut().ok_or_else(out_of_step)?;
        current.bytes_left = current.bytes_left.checked_sub(content.len() as u64).ok_or_else(out_of_step)?;
        match &mut current.file {
            Some((path, file)) => file.write_all(&content).map_err(|error| cannot_write(path, &error)),
            None => out.write_all(&content).map_err(|error| cannot_print(&error)),
        }
    }

    fn finish_if_whole(&mut self) -> Result<(), Fault> {
        let Some(Current { file: Some((path, file)), .. }) = self.current.take_if(|current| current.bytes_left == 0)
        else {
            return Ok(());
        };
        file.sync_all().map_err(|error| cannot_write(&path, &error))
    }
}

/// A file left half-written would look like a whole message.
impl Drop for Export {
    fn drop(&mut self) {
        if let Some(Current { file: Some((path, _)), .. }) = &self.current {
            let _ = fs::remove_file(path);
        }
    }
}

fn create(directory: &Path, message: &str) -> Result<(PathBuf, File), Fault> {
    let path = directory.join(format!("{message}.eml"));
    let file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE_MODE).open(&path);
    let file = file.map_err(|error| {
        let problem = format!("cannot make {}: {error}", path.display());
        Fault::new(Exit::CannotCreate, problem, "remove what is in the way, or name another directory with --to")
    })?;
    Ok((path, file))
}

fn cannot_write(path: &Path, error: &io::Error) -> Fault {
    Fault::new(Exit::Io, format!("cannot write {}: {error}", path.display()), "make room, and export again")
}

fn cannot_print(error: &io::Error) -> Fault {
    Fault::new(Exit::Io, format!("standard output cannot be written to: {error}"), "see where the output goes")
}

fn out_of_step() -> Fault {
    let remedy = "use the onetrip queue of the same version as the server";
    Fault::new(Exit::Software, "the pieces of a message do not fit together", remedy)
}

/// Lines of an answer are read in pieces of this size.
const READ_BYTES: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{self, Write};
    use std::path::Path;

    use super::super::control::ControlServer;
    use super::super::control::tests::start;
    use super::run;
    use crate::exit::Exit;
    use crate::queue::{Asked, Fault, Format, Order, Request, Selection};

    fn asked(order: Order, ids: &[&str]) -> Asked {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let request = Request { order, select: Selection { ids, ..Selection::default() } };
        Asked { request, format: Format::Text, to: None }
    }

    fn site(messages: u64) -> (tempfile::TempDir, ControlServer) {
        let directory = tempfile::tempdir().unwrap();
        let server = start(directory.path(), messages);
        (directory, server)
    }

    fn said(state_dir: &Path, asked: &Asked) -> Result<String, Fault> {
        let mut out = Vec::new();
        run(state_dir, asked, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_a_server_answers_is_shown() {
        let (directory, _server) = site(2);
        let text = said(directory.path(), &asked(Order::List, &[])).unwrap();
        assert!(text.starts_with("000000  ready") && text.ends_with("2 messages, 3 B\n"), "{text}");
        assert_eq!(said(directory.path(), &asked(Order::Hold, &["000001"])).unwrap(), "1 message held\n");
        let json = Asked { format: Format::Json, ..asked(Order::Hold, &["000001"]) };
        assert_eq!(said(directory.path(), &json).unwrap(), "{\"message\":\"000001\",\"became\":\"held\"}\n");
    }

    #[test]
    fn a_servers_fault_is_the_commands() {
        let (directory, _server) = site(2);
        let fault = said(directory.path(), &asked(Order::Show, &["000009"])).unwrap_err();
        assert_eq!(fault.exit(), Exit::NoInput);
        assert!(fault.to_string().contains("there is no message 000009 in the queue: "), "{fault}");
    }

    #[test]
    fn one_message_is_exported_to_standard_output_and_nothing_else_is_said() {
        let (directory, _server) = site(100_000);
        let text = said(directory.path(), &asked(Order::Export, &["050000"])).unwrap();
        assert_eq!((text.len(), text.trim_matches('x')), (150_000, ""));
        let fault = said(directory.path(), &asked(Order::Export, &["000001", "000002"])).unwrap_err();
        assert_eq!(fault.exit(), Exit::Usage);
    }

    #[test]
    fn messages_are_exported_into_a_directory_and_none_is_overwritten() {
        let (directory, _server) = site(3);
        let to = directory.path().join("out");
        let into = |ids| Asked { to: Some(to.clone()), ..asked(Order::Export, ids) };
        assert_eq!(said(directory.path(), &into(&[])).unwrap_err().exit(), Exit::CannotCreate);
        fs::create_dir(&to).unwrap();
        assert_eq!(said(directory.path(), &into(&["000000", "000002"])).unwrap(), "2 messages exported\n");
        assert_eq!(fs::read(to.join("000000.eml")).unwrap(), b"");
        assert_eq!(fs::read(to.join("000002.eml")).unwrap(), b"xxxxxx");
        assert_eq!(said(directory.path(), &into(&[])).unwrap_err().exit(), Exit::CannotCreate);
        assert!(!to.join("000001.eml").exists());
    }

    #[test]
    fn who_closes_the_output_early_has_seen_enough() {
        struct Head;
        impl Write for Head {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (directory, _server) = site(100_000);
        assert_eq!(run(directory.path(), &asked(Order::List, &[]), &mut Head), Ok(()));
    }

    #[test]
    fn an_answer_that_is_broken_off_is_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("control")).unwrap();
        let server = std::thread::spawn(move || drop(listener.accept()));
        let fault = said(directory.path(), &asked(Order::List, &[])).unwrap_err();
        assert_eq!(fault.exit(), Exit::Io);
        server.join().unwrap();
    }
}
