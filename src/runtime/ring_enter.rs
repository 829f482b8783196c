//! What the kernel may answer to a shard that submits or waits, and the runtime would take for the end.
//!
//! The runtime panics where it waits for its ring and the kernel says anything but that it was busy or interrupted; that ends
//! the shard with all its connections. Two answers can come from a kernel whose rings are in order:
//!
//! * **A completion was lost** (EBADR). More became ready at once than the ring has room for (see [`super::ring_setup`]), and
//!   there was no memory for the rest. The kernel says so once, to whoever waits next. To the runtime it becomes an
//!   interrupted wait, after which it looks at what there is. But what was lost stays lost, and whoever waits for it would
//!   wait for ever: so it is noted, and the shard ends [in good order](super::shard).
//! * **There is no memory for what is submitted** (EAGAIN, ENOMEM). Nothing was taken, and it can be submitted again. The
//!   runtime would panic in one place, where it counts what was taken, and elsewhere too. So it is tried again for a moment.
//!
//! Everything else passes as it is: a ring that is at its end must not be asked again and again.
//!
//! As this is where a shard asks the kernel, it is also where its [rounds](super::rounds) are counted.
//!
//! The linker (`build.rs`) leads the calls of liburing here instead, as it does in [`super::ring_setup`].

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

thread_local! {
    static TURNS: Cell<u64> = const { Cell::new(0) };
    static HAS_LOST: Cell<bool> = const { Cell::new(false) };
}

/// Grows with each turn of this thread's executor, and never between two: it submits something each time, and nothing
/// meanwhile. Zero for ever in a program that is linked without this.
pub(super) fn turns() -> u64 {
    TURNS.get()
}

/// Has the kernel told this thread that a completion of one of its rings is lost?
pub(super) fn has_lost_completions() -> bool {
    HAS_LOST.get()
}

/// Stands in for liburing's function of this name: -1 and `errno` after a failure.
///
/// # Safety
/// The arguments are as io_uring_enter(2) wants them.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap___sys_io_uring_enter(
    ring: c_int,
    submissions: c_uint,
    completions_min: c_uint,
    flags: c_uint,
    signals: *const c_void,
) -> c_int {
    // SAFETY: the arguments are the caller's; the kernel's set of signals has this size on all Linux systems but MIPS.
    unsafe { __wrap___sys_io_uring_enter2(ring, submissions, completions_min, flags, signals, SIGNALS_BYTES) }
}

/// Stands in for liburing's function of this name: -1 and `errno` after a failure.
///
/// # Safety
/// The arguments are as io_uring_enter(2) wants them.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap___sys_io_uring_enter2(
    ring: c_int,
    submissions: c_uint,
    completions_min: c_uint,
    flags: c_uint,
    argument: *const c_void,
    argument_bytes: c_int,
) -> c_int {
    TURNS.set(TURNS.get() + 1);
    let mut tries = 1;
    loop {
        // SAFETY: the arguments are the caller's.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                ring,
                submissions,
                completions_min,
                flags,
                argument,
                argument_bytes as usize,
            )
        };
        if entered >= 0 {
            return entered as c_int;
        }
        let error = std::io::Error::last_os_error().raw_os_error();
        let is_lost = error == Some(libc::EBADR);
        if is_lost {
            HAS_LOST.set(true);
        }
        if is_lost && submissions == 0 {
            set_error(libc::EINTR);
            return -1;
        }
        if !matches!(error, Some(libc::EBADR | libc::EAGAIN | libc::ENOMEM)) || tries == TRIES_MAX {
            return -1;
        }
        tries += 1;
        std::thread::sleep(PAUSE);
    }
}

fn set_error(error: c_int) {
    // SAFETY: the function has no conditions, and returns the place of this thread's `errno`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the place is valid as long as the thread lives, and is this thread's alone.
    unsafe { *place = error };
}

/// The size of the kernel's set of signals.
const SIGNALS_BYTES: c_int = 8;

/// With the pause, a tenth of a second for the kernel to find memory: the whole shard waits meanwhile.
const TRIES_MAX: u32 = 100;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(1);
