//! Rings that do not interrupt their own shard, and that have room for what a crowd makes ready at once.
//!
//! When a socket becomes ready, the kernel has a few instructions to run in the shard's name before the completion can be
//! seen. By default it interrupts the shard for that, wherever it is: an interrupt between processors for each flight of each
//! client, and on a virtual machine an exit to its host at both ends. With `IORING_SETUP_COOP_TASKRUN` (Linux 5.19) it waits
//! until the shard makes its next system call, which is never far.
//!
//! A ring keeps twice as many completions as its depth. What is more, the kernel keeps in memory that it takes at that moment
//! and without waiting for any; where there is none, the completion is lost, and whoever waits for it waits for ever
//! (see [`super::ring_enter`]). Thousands of sockets become ready at once when thousands of clients want it. So the ring on
//! which sockets are waited for gets its room in advance (`IORING_SETUP_CQSIZE`, Linux 5.5).
//!
//! The runtime has no setting for either, and makes its rings by way of liburing. So the linker (`build.rs`) leads the one
//! call of liburing that makes a ring here instead. Programs that are linked without it, tests among them, have
//! ordinary rings; they work the same. Must not change anything else about a ring.

use std::cell::Cell;
use std::ffi::{c_int, c_uint};

use crate::limits;

/// `struct io_uring_params` of the kernel, as far as it is looked at here.
#[repr(C)]
#[derive(Clone, Copy)]
struct Params {
    submissions: c_uint,
    completions: c_uint,
    flags: c_uint,
}

/// Since Linux 5.5.
const COMPLETIONS_GIVEN: c_uint = 1 << 3;

/// Since Linux 5.19.
const COOP_TASKRUN: c_uint = 1 << 8;

thread_local! {
    /// Has this thread made a ring? The runtime makes three for each executor, and waits for sockets on the first.
    static HAS_RING: Cell<bool> = const { Cell::new(false) };
}

/// Stands in for liburing's function of this name: -1 and `errno` after a failure.
///
/// # Safety
/// `params` points to the parameters of a ring that is being made, as io_uring_setup(2) wants them.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap___sys_io_uring_setup(entries: c_uint, params: *mut Params) -> c_int {
    // SAFETY: the caller's parameters are valid, and begin as `Params` does.
    let asked = unsafe { *params };
    for wished in wishes(asked, HAS_RING.replace(true)) {
        // SAFETY: as above.
        unsafe { *params = wished };
        // SAFETY: the parameters are the caller's, with flags that are as good as none.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params) };
        if ring >= 0 || !is_refusal_of_a_wish() {
            return ring as c_int;
        }
    }
    // SAFETY: as above.
    unsafe { *params = asked };
    // SAFETY: the parameters are again as the caller made them.
    unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params) as c_int }
}

/// What is tried before the ring that the runtime asked for, the best first.
fn wishes(asked: Params, has_ring: bool) -> impl Iterator<Item = Params> {
    let quiet = |asked: Params| Params { flags: asked.flags | COOP_TASKRUN, ..asked };
    let roomy = Params { flags: asked.flags | COMPLETIONS_GIVEN, completions: limits::COMPLETIONS_PER_RING, ..asked };
    let first = (!has_ring).then_some([quiet(roomy), roomy]);
    first.into_iter().flatten().chain([quiet(asked)])
}

/// The kernel does not know a flag, or the user's locked memory has no room for so large a ring.
fn is_refusal_of_a_wish() -> bool {
    matches!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL | libc::ENOMEM))
}
