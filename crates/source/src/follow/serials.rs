//! Finds the kernel's serial numbers that a log lacks.
//!
//! The kernel numbers its audit events one by one from each boot. Events that a rule filters get no
//! number (`audit_log_start()`, kernel/audit.c). So a number that a complete log lacks was lost on
//! the way there. Events of several processors come slightly out of order, so a number is reported
//! missing only if it has not come some lines later.

/// How many lines late a number may come.
const MAX_LATE_LINES: u64 = 256;

/// A number this far below the newest one is from another boot.
const MIN_BOOT_DROP: u32 = 4096;

/// How many ranges may be missing at one time. More are reported as one.
pub(super) const MAX_MISSING_RANGES: usize = 16;

/// First and last number, both inclusive.
pub(super) type SerialRange = (u32, u32);

/// Tracks the serial numbers of one host's events, line by line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SerialTracker {
    /// The highest number.
    newest: Option<u32>,
    /// Ranges missing below it, lowest first, each with the line at which it was noticed.
    missing: Vec<(SerialRange, u64)>,
    line: u64,
}

impl SerialTracker {
    /// Continues from a checkpoint.
    pub(super) fn from(newest: Option<u32>, missing: impl IntoIterator<Item = SerialRange>) -> Self {
        Self { newest, missing: missing.into_iter().map(|range| (range, 0)).collect(), line: 0 }
    }

    /// Ranges missing and not reported yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = SerialRange> {
        self.missing.iter().map(|(range, _)| *range)
    }

    pub(super) fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// Takes the number of the next line. Returns the ranges that are definitely missing by now.
    pub(super) fn observe(&mut self, serial: u32) -> Vec<SerialRange> {
        self.line += 1;
        let Some(newest) = self.newest else {
            self.newest = Some(serial);
            return Vec::new();
        };
        let ahead = serial.wrapping_sub(newest);
        if ahead == 0 {
        } else if ahead < u32::MAX / 2 {
            self.newest = Some(serial);
            if ahead > 1 {
                self.missing.push(((newest.wrapping_add(1), serial.wrapping_sub(1)), self.line));
            }
        } else if newest.wrapping_sub(serial) >= MIN_BOOT_DROP {
            return self.start_boot(Some(serial));
        } else {
            self.fill(serial);
        }
        if self.missing.len() > MAX_MISSING_RANGES {
            let all = self.drain_missing(self.missing.len()).into_iter();
            return all.reduce(|(first, _), (_, last)| (first, last)).into_iter().collect();
        }
        let due = self.missing.partition_point(|(_, since)| self.line - since >= MAX_LATE_LINES);
        self.drain_missing(due)
    }

    /// Begins another boot. Returns the ranges missing in the one before.
    pub(super) fn start_boot(&mut self, serial: Option<u32>) -> Vec<SerialRange> {
        self.newest = serial;
        self.drain_missing(self.missing.len())
    }

    /// Removes a late number from the missing ranges.
    fn fill(&mut self, serial: u32) {
        let within = |(first, last): SerialRange| serial.wrapping_sub(first) <= last.wrapping_sub(first);
        let Some(at) = self.missing.iter().position(|(range, _)| within(*range)) else { return };
        let ((first, last), since) = self.missing.remove(at);
        if serial != last {
            self.missing.insert(at, ((serial.wrapping_add(1), last), since));
        }
        if serial != first {
            self.missing.insert(at, ((first, serial.wrapping_sub(1)), since));
        }
    }

    /// Removes and returns the first `count` ranges.
    fn drain_missing(&mut self, count: usize) -> Vec<SerialRange> {
        self.missing.drain(..count).map(|(range, _)| range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_ranges(serials: impl IntoIterator<Item = u32>) -> Vec<SerialRange> {
        let mut tracked = SerialTracker::default();
        serials.into_iter().flat_map(|serial| tracked.observe(serial)).collect()
    }

    #[test]
    fn events_of_several_lines_and_a_little_disorder_lack_nothing() {
        assert_eq!(missing_ranges([5, 5, 6, 8, 8, 7, 9, 12, 10, 11].into_iter().chain(13..1000)), []);
    }

    #[test]
    fn a_number_not_there_some_lines_later_is_missing() {
        assert_eq!(missing_ranges((1..10).chain(13..200)), [], "not yet");
        assert_eq!(missing_ranges((1..10).chain(13..300)), [(10, 12)]);
        assert_eq!(missing_ranges((1..10).chain([15, 12]).chain(16..300)), [(10, 11), (13, 14)]);
    }

    #[test]
    fn numbers_that_wrap_are_in_order() {
        assert_eq!(missing_ranges([u32::MAX - 1, u32::MAX, 0, 1].into_iter().chain(2..600)), []);
        assert_eq!(missing_ranges([u32::MAX - 1, 1].into_iter().chain(2..600)), [(u32::MAX, 0)]);
    }

    #[test]
    fn a_boot_restarts_the_numbers() {
        assert_eq!(missing_ranges((90_000..90_100).chain(1..600)), []);
        assert_eq!(missing_ranges((90_000..90_100).chain([90_105]).chain(1..600)), [(90_100, 90_104)]);
    }

    #[test]
    fn many_ranges_are_merged_into_one() {
        assert_eq!(missing_ranges((0..=17).map(|number| number * 10)), [(1, 169)]);
    }

    #[test]
    fn tracking_continues_from_a_checkpoint() {
        let mut first = SerialTracker::default();
        assert_eq!([1, 2, 5].map(|serial| first.observe(serial)), [const { Vec::new() }; 3]);
        let mut next = SerialTracker::from(first.newest(), first.missing());
        assert_eq!(next.missing().collect::<Vec<_>>(), [(3, 4)]);
        assert_eq!(next.observe(4), []);
        assert_eq!((6..400).flat_map(|serial| next.observe(serial)).collect::<Vec<_>>(), [(3, 3)]);
    }
}
