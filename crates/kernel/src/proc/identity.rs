use std::io;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use super::malformed;

/// A process, identified by pid and start time, because pids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Its pid in the calling process's pid namespace.
    pub pid: u32,
    /// Its start time, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    ///
    /// # Errors
    ///
    /// ENOENT or ESRCH if there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
        let stat = parse_stat(&stat).ok_or_else(|| malformed("stat"))?;
        Ok(Self { pid, start_time: stat.start_time })
    }

    /// Its start time by the clock as it is set now, to a hundredth of a second.
    pub fn started(&self) -> SystemTime {
        // proc(5): in units of the kernel's ticks, sysconf(_SC_CLK_TCK), as /proc/uptime counts.
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let (seconds, rest) = (self.start_time / ticks, self.start_time % ticks);
        boot_time() + Duration::from_secs(seconds) + Duration::from_millis(rest * 1000 / ticks)
    }

    /// Whether this very process still runs. A zombie does not: its descriptors are closed. A
    /// process whose main thread has exited still runs in its other threads.
    pub fn is_alive(&self) -> bool {
        std::fs::read(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| {
            parse_stat(&stat).is_some_and(|stat| {
                stat.start_time == self.start_time
                    && (stat.threads > 1 || !matches!(stat.state, b'Z' | b'X' | b'x'))
            })
        })
    }
}

/// `PF_EXITING` (linux/sched.h).
const PF_EXITING: u32 = 0x4;

/// Whether a process is exiting or has ended: all of its threads are. It may have closed some of
/// its descriptors by then.
pub fn is_exiting(process: ProcessId) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", process.pid)) else { return true };
    threads.flatten().all(|thread| {
        // A missing thread has ended.
        std::fs::read(thread.path().join("stat"))
            .map_or(true, |stat| parse_stat(&stat).is_none_or(|stat| stat.flags & PF_EXITING != 0))
    })
}

/// The time of this machine's boot, by the clock as it is set now.
pub fn boot_time() -> SystemTime {
    let up = clock_gettime(ClockId::Boottime);
    let up = Duration::new(up.tv_sec.try_into().unwrap_or(0), up.tv_nsec.try_into().unwrap_or(0));
    SystemTime::now().checked_sub(up).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The fields of `/proc/PID/stat` (proc(5)) that are used.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Field 3: the first thread's.
    state: u8,
    /// Field 9: `PF_*` of linux/sched.h.
    flags: u32,
    /// Field 20: the first thread counts until all others have ended.
    threads: u32,
    /// Field 22, in clock ticks since boot.
    start_time: u64,
}

/// Parses `/proc/PID/stat`. The name may contain anything, also `)`: the last one ends it.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let flags = fields.nth(5)?.parse().ok()?;
    let threads = fields.nth(10)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, flags, threads, start_time })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const FIELDS: &str = "S 1 4 4 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 778899 1 2 3";

    #[test]
    fn a_name_may_hold_brackets_spaces_and_any_bytes() {
        for name in ["qemu", "a) R 1 (b", "))", ") Z 9 9", ""] {
            let stat = format!("4711 ({name}) {FIELDS}\n");
            assert_eq!(
                parse_stat(stat.as_bytes()),
                Some(Stat { state: b'S', flags: 4_194_560, threads: 1, start_time: 778_899 }),
                "{name}"
            );
        }
        let mut stat = b"4711 (\xff\xfe) ".to_vec();
        stat.extend_from_slice(FIELDS.as_bytes());
        assert_eq!(
            parse_stat(&stat),
            Some(Stat { state: b'S', flags: 4_194_560, threads: 1, start_time: 778_899 })
        );
    }

    #[test]
    fn a_short_stat_is_no_process() {
        for stat in ["", "4711", "4711 (a)", "4711 (a) S 1 2 3"] {
            assert_eq!(parse_stat(stat.as_bytes()), None, "{stat}");
        }
    }

    #[test]
    fn a_process_lives_until_it_exits_even_while_nobody_waited_for_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_alive());
        drop(child.stdin.take());
        while std::fs::read(format!("/proc/{}/stat", id.pid))
            .is_ok_and(|stat| parse_stat(&stat).is_some_and(|stat| stat.state != b'Z'))
        {
            std::thread::yield_now();
        }
        assert!(!id.is_alive());
        child.wait().unwrap();
        assert!(!id.is_alive());
        assert!(ProcessId::of(id.pid).is_err());
    }

    #[test]
    fn a_process_lives_on_when_its_first_thread_has_exited() {
        const SCRIPT: &str = "import ctypes, threading, sys\n\
            threading.Thread(target=sys.stdin.read).start()\n\
            ctypes.CDLL(None).syscall(60, 0)";
        let mut child =
            Command::new("/usr/bin/python3").args(["-c", SCRIPT]).stdin(Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let state = || parse_stat(&std::fs::read(format!("/proc/{}/stat", id.pid)).unwrap()).unwrap();
        while state().state != b'Z' {
            std::thread::yield_now();
        }
        assert!(id.is_alive() && !is_exiting(id), "{:?}", state());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!id.is_alive() && is_exiting(id));
    }

    #[test]
    fn a_process_started_when_it_did() {
        let before = SystemTime::now();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let started = ProcessId::of(child.id()).unwrap().started();
        child.kill().unwrap();
        child.wait().unwrap();
        let tick = Duration::from_millis(20);
        assert!(started + tick >= before && started <= SystemTime::now() + tick, "{before:?} {started:?}");
        assert!(boot_time() < started);
    }

    #[test]
    fn a_pid_that_was_used_again_is_another_process() {
        let own = ProcessId::of(std::process::id()).unwrap();
        let former = ProcessId { start_time: own.start_time - 1, ..own };
        assert!(own.is_alive());
        assert!(!former.is_alive());
    }
}
