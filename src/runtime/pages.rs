//! In which pages the system gives the process its memory.

use rustix::thread::disable_transparent_huge_pages;

/// Takes memory in small pages from here on, also for threads to come.
///
/// The allocator asks for pages of two megabytes where the system leaves the choice to programs. A shard has little memory in
/// many places, of which each would take such a page: fixed memory grows fourfold, and sessions get no faster by it. A system
/// that refuses gives more memory than is needed, which is no reason not to serve.
pub(super) fn take_small_pages() {
    let _ = disable_transparent_huge_pages(true);
}
