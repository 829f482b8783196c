//! The agent's door: a Unix-domain socket in the file system that one process at a time has, and only its user may use.
//!
//! Knows nothing of what is said through it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::SockRef;

/// An open door.
#[derive(Debug)]
pub(super) struct Door {
    path: PathBuf,
    listener: UnixListener,
    /// Held as long as the door is ours. Its file stays: were it removed, two could hold one lock each.
    _lock: File,
}

impl Door {
    /// Opens it; `None` if another process has it, or if it cannot be made.
    pub(super) fn open(path: &Path) -> Option<Self> {
        if let Some(folder) = path.parent() {
            // It is there in most cases; if it cannot be made, what follows fails.
            let _ = DirBuilder::new().mode(0o700).recursive(true).create(folder);
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(lock_path).ok()?;
        lock.try_lock().ok()?;
        // What is there was left behind: whoever made it does not hold the lock any more.
        let _ = fs::remove_file(path);
        let listener = bind_for_owner(path).ok()?;
        Some(Self { path: path.to_owned(), listener, _lock: lock })
    }

    /// The next caller, or `None` after this time.
    pub(super) fn accept(&self, wait: Duration) -> Option<UnixStream> {
        SockRef::from(&self.listener).set_read_timeout(Some(wait)).ok()?;
        self.listener.accept().ok().map(|(stream, _)| stream)
    }

    /// Takes the door away; returns those who stand before it.
    pub(super) fn close(self) -> Vec<UnixStream> {
        let _ = fs::remove_file(&self.path);
        if self.listener.set_nonblocking(true).is_err() {
            return Vec::new();
        }
        let waiting = std::iter::from_fn(|| self.listener.accept().ok().map(|(stream, _)| stream));
        waiting.filter(|stream| stream.set_nonblocking(false).is_ok()).collect()
    }
}

/// The socket's file is made with the mode 0600: at no time may anybody else connect.
fn bind_for_owner(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: `umask` only changes the mode of files that this process makes; the agent makes no other at this time.
    let before = unsafe { libc::umask(0o177) };
    let bound = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    bound
}

/// Is the process at the other end one of our own user?
pub(super) fn is_of_the_same_user(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let Ok(mut bytes) = libc::socklen_t::try_from(size_of_val(&peer)) else { return false };
    // SAFETY: the kernel writes at most `bytes` bytes to `peer`, which has that many, and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut peer).cast(),
            &raw mut bytes,
        )
    };
    // SAFETY: it reads a number of this process.
    let own = unsafe { libc::geteuid() };
    result == 0 && peer.uid == own
}
