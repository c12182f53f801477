//! What the program could not tell.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{Array, MapData};

/// Counts of what was not told, or may be told wrongly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events that had no room: nobody read them for too long.
    pub events: u64,
    /// Files that got no id, since too many were open at once: their last close is told without one.
    pub files: u64,
    /// Processes that were not remembered, since too many had such files at once: their forks, execs
    /// and ends are not told.
    pub processes: u64,
    /// Files whose last close was not seen.
    pub stale: u64,
    /// Times at which the kernel did not run the program, since it ran already on that processor.
    pub missed: u64,
    /// Events that could not be read.
    pub unreadable: u64,
}

impl Lost {
    /// Whether everything was told.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        [self.events, self.files, self.processes, self.stale, self.missed, self.unreadable]
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// `counts` is in the order of `enum count` in `program/witness.bpf.c`.
    pub(crate) fn read(counts: &Array<MapData, u64>, programs: &Ebpf, unreadable: u64) -> io::Result<Self> {
        let count = |at| counts.get(&at, 0).map_err(io::Error::other);
        let mut missed: u64 = 0;
        for (_, program) in programs.programs() {
            // One that this kernel has no need of was not loaded.
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
