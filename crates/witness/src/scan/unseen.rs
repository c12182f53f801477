//! What a scan could not see, and why.

use std::fs::File;
use std::io::{self, Read as _};

use rustix::io::Errno;
use taptrail_kernel::proc::ProcessStatus;

/// The most bytes of a process's name that are read: the kernel keeps 15, and 64 for its own
/// threads.
const MAX_NAME_BYTES: u64 = 64;

/// The most bytes of `/proc/PID/stat` that are read: it has 52 numbers and a name.
const MAX_STAT_BYTES: u64 = 4096;
/// `PF_KTHREAD` of the flags there.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// What a scan could not see of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Processes whose descriptors could not be read at all.
    pub processes: Vec<UnseenProcess>,
    /// Processes with more devices than the scan reads: the rest was not seen.
    pub crowded: Vec<UnseenProcess>,
    /// How many devices have an interface in a network namespace that can't be entered.
    pub places: usize,
    /// Whether this scan ran in a pid namespace of its own: processes outside of it are invisible.
    pub outside: bool,
    /// How many descriptors the kernel did not compare with those of other processes.
    pub copies: usize,
}

/// A process that could not be inspected, or only in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnseenProcess {
    /// The pid of the process in our pid namespace.
    pub pid: u32,
    /// Its name as the kernel shows it (`/proc/PID/comm`): any process may call itself anything.
    pub name: Option<String>,
    /// Its pids in pid namespaces below ours, the innermost last.
    pub within: Vec<u32>,
    /// Why it could not be inspected.
    pub why: UnseenReason,
}

/// Why a process could not be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnseenReason {
    /// The kernel refuses: another user's process, or one that a security module protects.
    Permission,
    /// The kernel refuses, and the process is in a pid namespace of its own: a container's.
    OtherPidNamespace,
    /// It holds more devices than are read.
    Crowded,
    /// Reading it failed with this error of the system.
    Failed(Errno),
}

impl UnseenReason {
    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::OtherPidNamespace => "other-pid-namespace",
            Self::Crowded => "crowded",
            Self::Failed(_) => "failed",
        }
    }
}

impl UnseenProcess {
    /// A process whose descriptors could not be read; none where it can't have any.
    pub(super) fn refused(pid: u32, error: &io::Error) -> Option<Self> {
        if holds_nothing(pid) {
            return None;
        }
        let within = within(pid);
        let why = match Errno::from_io_error(error) {
            Some(Errno::ACCESS | Errno::PERM) => {
                // If the process is in a container, that is the likely reason.
                if within.is_empty() { UnseenReason::Permission } else { UnseenReason::OtherPidNamespace }
            }
            Some(errno) => UnseenReason::Failed(errno),
            None => UnseenReason::Failed(Errno::IO),
        };
        Some(Self { pid, name: name(pid), within, why })
    }

    /// A process that holds more devices than are read.
    pub(super) fn crowded(pid: u32) -> Self {
        Self { pid, name: name(pid), within: within(pid), why: UnseenReason::Crowded }
    }
}

impl Unseen {
    /// Whether a process that could not be inspected completely may be the one that a record names
    /// by this pid; without a pid, whether there is any such process.
    pub fn may_have(&self, pid: Option<u32>) -> bool {
        let mut all = self.processes.iter().chain(&self.crowded);
        match pid {
            // A manager outside of this pid namespace uses other numbers.
            _ if self.outside => true,
            Some(pid) => all.any(|process| process.pid == pid || process.within.contains(&pid)),
            None => all.next().is_some(),
        }
    }
}

/// Whether a process can have no descriptors: a kernel thread, or a zombie. Any user may read that.
fn holds_nothing(pid: u32) -> bool {
    let mut text = String::new();
    let file = File::open(format!("/proc/{pid}/stat"));
    let read = file.and_then(|file| file.take(MAX_STAT_BYTES).read_to_string(&mut text));
    read.is_ok() && ends_or_is_kernels(&text).unwrap_or(false)
}

/// The same for a line of `/proc/PID/stat` (proc(5)): state, flags and number of threads.
fn ends_or_is_kernels(stat: &str) -> Option<bool> {
    // The name is in parentheses, and may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    let threads: u32 = fields.nth(10)?.parse().ok()?;
    // A process whose first thread has ended lives on in its other threads.
    let has_ended = matches!(state, "Z" | "X") && threads <= 1;
    Some(has_ended || flags & KERNEL_THREAD != 0)
}

/// The pids of a process in pid namespaces below ours; any user may read them.
fn within(pid: u32) -> Vec<u32> {
    ProcessStatus::of(pid).map(|status| status.within).unwrap_or_default()
}

/// The name of a process; none when it is gone.
fn name(pid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/comm")).ok()?;
    file.take(MAX_NAME_BYTES).read_to_end(&mut bytes).ok()?;
    bytes.pop_if(|last| *last == b'\n');
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_process_and_its_reason() {
        let own = std::process::id();
        let refused = UnseenProcess::refused(own, &Errno::ACCESS.into()).unwrap();
        assert_eq!(refused.why, UnseenReason::Permission);
        assert!(refused.name.is_some_and(|name| !name.is_empty() && !name.ends_with('\n')));
        let failed = UnseenProcess::refused(own, &Errno::IO.into()).unwrap();
        assert_eq!((failed.why, failed.why.as_str()), (UnseenReason::Failed(Errno::IO), "failed"));
        // No process has this pid.
        assert_eq!(UnseenProcess::crowded(1_000_000_000).name, None);
    }

    #[test]
    fn a_process_that_can_have_no_descriptors_hides_none() {
        let rest = "0 0 0 0 0 0 0 0 20 0";
        for (stat, nothing) in [
            (format!("7 (a) Z) S 1 7 7 0 -1 4194560 {rest} 1 0"), Some(false)),
            (format!("7 (kworker/0:0) I 2 0 0 0 -1 69238880 {rest} 1 0"), Some(true)),
            (format!("7 (a) Z 1 7 7 0 -1 4227084 {rest} 1 0"), Some(true)),
            (format!("7 (a) Z 1 7 7 0 -1 4227084 {rest} 2 0"), Some(false)),
            ("7 (a".to_owned(), None),
            ("7 (a) Z 1".to_owned(), None),
        ] {
            assert_eq!(ends_or_is_kernels(&stat), nothing, "{stat}");
        }
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        while !holds_nothing(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!holds_nothing(std::process::id()) && !holds_nothing(child.id()));
    }

    #[test]
    fn a_process_that_was_not_seen_may_be_the_one_that_is_meant() {
        let process = UnseenProcess { pid: 7, name: None, within: vec![1], why: UnseenReason::Permission };
        let unseen = Unseen { processes: vec![process.clone()], ..Unseen::default() };
        assert!(unseen.may_have(Some(7)) && unseen.may_have(Some(1)) && unseen.may_have(None));
        assert!(!unseen.may_have(Some(8)) && !Unseen::default().may_have(None));
        assert!(Unseen { crowded: vec![process], ..Unseen::default() }.may_have(Some(7)));
        assert!(Unseen { outside: true, ..Unseen::default() }.may_have(Some(8)));
    }
}
