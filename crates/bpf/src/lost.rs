//! Counts of events that the BPF program could not report.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{Array, MapData};

/// Counts of events that are missing, or may be wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events that were dropped because the ring buffer was full.
    pub events: u64,
    /// Files without an id, because too many were open at once: their last close event has no id.
    pub files: u64,
    /// Processes that are not tracked, because too many had such files at once: there are no events
    /// of their forks, execs and exits.
    pub processes: u64,
    /// Files whose last close the program did not see.
    pub stale: u64,
    /// How often the kernel skipped the program, because it was already running on that processor.
    pub missed: u64,
    /// Events that could not be parsed.
    pub unreadable: u64,
}

impl Lost {
    /// Whether no event is missing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        [self.events, self.files, self.processes, self.stale, self.missed, self.unreadable]
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Reads the counts, which are in the order of `enum count` in `program/witness.bpf.c`.
    pub(crate) fn read(counts: &Array<MapData, u64>, programs: &Ebpf, unreadable: u64) -> io::Result<Self> {
        let count = |at| counts.get(&at, 0).map_err(io::Error::other);
        let mut missed: u64 = 0;
        for (_, program) in programs.programs() {
            // Programs for other kernel versions are not loaded.
            let Ok(program) = program.fd() else { continue };
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd()))?;
            missed = missed.saturating_add(misses(&info));
        }
        Ok(Self {
            events: count(0)?,
            files: count(1)?,
            processes: count(2)?,
            stale: count(3)?,
            missed,
            unreadable,
        })
    }
}

/// The misses in a program's fdinfo: `recursion_misses`, since Linux 5.12 (`bpf_prog_show_fdinfo`).
fn misses(info: &str) -> u64 {
    info.lines()
        .filter_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_in_a_programs_fdinfo() {
        let info = "pos:\t0\nprog_type:\t26\nrun_cnt:\t7\nrecursion_misses:\t3\nverified_insns:\t99\n";
        assert_eq!((misses(info), misses("pos:\t0\n")), (3, 0));
    }

    #[test]
    fn whatever_was_lost_counts() {
        assert!(Lost::default().is_none());
        let lost = Lost { stale: 1, missed: 2, ..Lost::default() };
        assert!(!lost.is_none());
        assert_eq!(lost.total(), 3);
    }
}
