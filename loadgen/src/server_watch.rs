//! What the server costs: processor time and memory of one process, from the kernel's accounts.

use std::time::Duration;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time of all its threads.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes.
    pub(crate) resident_bytes: u64,
}

/// Looks at a process; `None` if there is none of this number.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage { cpu: process_cpu(pid)?, resident_bytes: resident_bytes(&status)? })
}

/// Reads `status` of proc(5).
fn resident_bytes(status: &str) -> Option<u64> {
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1_024)
}

/// Processor time of a process: of all its threads, of those that have ended and of those that the kernel runs for its
/// ring too. To the nanosecond, as the ticks of proc(5) are not.
fn process_cpu(pid: u32) -> Option<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the number lives during the call.
    let result = unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(pid).ok()?, &raw mut clock) };
    if result == 0 { read(clock) } else { None }
}

/// Processor time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a clock of its own")
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives during the call.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::{process_cpu, resident_bytes, thread_cpu, usage};

    #[test]
    fn resident_memory_is_read_from_its_line() {
        assert_eq!(resident_bytes("Name:\tVmRSS:\nVmRSS:\t    12 kB\n"), Some(12_288));
        assert_eq!(resident_bytes(""), None);
    }

    #[test]
    fn the_time_of_a_thread_that_has_ended_is_its_process_s() {
        let before = process_cpu(std::process::id()).unwrap();
        let worked = std::thread::spawn(|| {
            let start = thread_cpu();
            while thread_cpu() - start < std::time::Duration::from_millis(2) {}
            thread_cpu() - start
        });
        let worked = worked.join().unwrap();
        assert!(process_cpu(std::process::id()).unwrap() - before >= worked);
    }

    #[test]
    fn this_process_has_memory_and_no_process_has_none() {
        assert!(usage(std::process::id()).unwrap().resident_bytes > 0);
        assert_eq!(usage(u32::MAX), None);
        assert_eq!(usage(i32::MAX as u32), None);
    }
}
