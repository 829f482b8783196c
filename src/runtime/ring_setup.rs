//! Rings that do not interrupt their own shard.
//!
//! When a socket becomes ready, the kernel has a few instructions to run in the shard's name before the completion can be
//! seen. By default it interrupts the shard for that, wherever it is: an interrupt between processors for each flight of each
//! client, and on a virtual machine an exit to its host at both ends. With `IORING_SETUP_COOP_TASKRUN` (Linux 5.19) it waits
//! until the shard makes its next system call, which is never far.
//!
//! The runtime has no setting for this, and makes its rings by way of liburing. So the linker (`build.rs`) leads the one
//! call of liburing that makes a ring here instead. Programs that are linked without it, tests among them, have
//! ordinary rings; they work the same. Must not change anything else about a ring.

use std::ffi::{c_int, c_uint};

/// `struct io_uring_params` of the kernel, as far as it is looked at here.
#[repr(C)]
struct Params {
    entries: [c_uint; 2],
    flags: c_uint,
}

/// Since Linux 5.19.
const COOP_TASKRUN: c_uint = 1 << 8;

/// Stands in for liburing's function of this name: -1 and `errno` after a failure.
///
/// # Safety
/// `params` points to the parameters of a ring that is being made, as io_uring_setup(2) wants them.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap___sys_io_uring_setup(entries: c_uint, params: *mut Params) -> c_int {
    // SAFETY: the caller's parameters are valid, and begin as `Params` does.
    let before = unsafe { (*params).flags };
    // SAFETY: as above.
    unsafe { (*params).flags = before | COOP_TASKRUN };
    // SAFETY: the parameters are the caller's, and one flag more is as good as without.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params) };
    if ring >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
        return ring as c_int;
    }
    // SAFETY: as above.
    unsafe { (*params).flags = before };
    // SAFETY: the parameters are again as the caller made them.
    unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params) as c_int }
}
