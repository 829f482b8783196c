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
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse(&stat, &status, ticks_per_s())
}

/// Reads `stat` and `status` of proc(5).
fn parse(stat: &str, status: &str, ticks_per_s: u64) -> Option<Usage> {
    // The second field is the program's name in parentheses and may contain anything, so the count begins behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    let cpu = Duration::from_millis((user + system) * 1_000 / ticks_per_s.max(1));
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(Usage { cpu, resident_bytes: kibibytes * 1_024 })
}

fn ticks_per_s() -> u64 {
    // SAFETY: `sysconf` reads a constant.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100)
}

/// Processor time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives during the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every thread has a clock of its own");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Usage, parse, usage};

    #[test]
    fn a_program_with_a_nasty_name_is_read_right() {
        let stat = "7 (a) R 1 (b) S 1 1 1 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 1 0 5 1 1";
        let usage = parse(stat, "Name:\tx\nVmRSS:\t    12 kB\n", 100);
        assert_eq!(usage, Some(Usage { cpu: Duration::from_secs(2), resident_bytes: 12_288 }));
        assert_eq!(parse("", "", 100), None);
    }

    #[test]
    fn this_process_has_memory_and_no_process_has_none() {
        assert!(usage(std::process::id()).unwrap().resident_bytes > 0);
        assert_eq!(usage(u32::MAX), None);
    }
}
