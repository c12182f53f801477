//! Which of the kernel's numbers a log lacks.
//!
//! The kernel numbers its audit events one by one from each boot, and those that a rule filters get no
//! number (`audit_log_start()`, kernel/audit.c). A number that is not in a whole log was dropped on its
//! way there. Events of several processors come a little out of order, so what is missing is told only
//! when it is not there some lines later.

/// How many lines a number may be late.
const LATE: u64 = 256;

/// A number so far below the one before is of another boot.
const BOOT: u32 = 4096;

/// How many stretches may be missing at one time; more are told as one.
pub(super) const STRETCHES: usize = 16;

/// A stretch of numbers, both ends within.
pub(super) type Stretch = (u32, u32);

/// The numbers of one host's events, line by line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Serials {
    /// The highest number.
    newest: Option<u32>,
    /// What is missing below it, and at which line that showed; the lowest first.
    missing: Vec<(Stretch, u64)>,
    line: u64,
}

impl Serials {
    /// Goes on where another left off.
    pub(super) fn from(newest: Option<u32>, missing: impl IntoIterator<Item = Stretch>) -> Self {
        Self { newest, missing: missing.into_iter().map(|stretch| (stretch, 0)).collect(), line: 0 }
    }

    /// What is missing and not yet told.
    pub(super) fn missing(&self) -> impl Iterator<Item = Stretch> {
        self.missing.iter().map(|(stretch, _)| *stretch)
    }

    pub(super) fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// Takes the number of the next line; what is missing for good by now.
    pub(super) fn take(&mut self, serial: u32) -> Vec<Stretch> {
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
        } else if newest.wrapping_sub(serial) >= BOOT {
            return self.restart(Some(serial));
        } else {
            self.found(serial);
        }
        if self.missing.len() > STRETCHES {
            let all = self.tell(self.missing.len()).into_iter();
            return all.reduce(|(first, _), (_, last)| (first, last)).into_iter().collect();
        }
        let due = self.missing.partition_point(|(_, since)| self.line - since >= LATE);
        self.tell(due)
    }

    /// The host started anew: what is missing by then.
    pub(super) fn restart(&mut self, serial: Option<u32>) -> Vec<Stretch> {
        self.newest = serial;
        self.tell(self.missing.len())
    }

    /// A late number is there.
    fn found(&mut self, serial: u32) {
        let within = |(first, last): Stretch| serial.wrapping_sub(first) <= last.wrapping_sub(first);
        let Some(at) = self.missing.iter().position(|(stretch, _)| within(*stretch)) else { return };
        let ((first, last), since) = self.missing.remove(at);
        if serial != last {
            self.missing.insert(at, ((serial.wrapping_add(1), last), since));
        }
        if serial != first {
            self.missing.insert(at, ((first, serial.wrapping_sub(1)), since));
        }
    }

    /// The first `count` stretches.
    fn tell(&mut self, count: usize) -> Vec<Stretch> {
        self.missing.drain(..count).map(|(stretch, _)| stretch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(serials: impl IntoIterator<Item = u32>) -> Vec<Stretch> {
        let mut tracked = Serials::default();
        serials.into_iter().flat_map(|serial| tracked.take(serial)).collect()
    }

    #[test]
    fn events_of_several_lines_and_a_little_disorder_lack_nothing() {
        assert_eq!(told([5, 5, 6, 8, 8, 7, 9, 12, 10, 11].into_iter().chain(13..1000)), []);
    }

    #[test]
    fn what_is_not_there_some_lines_later_is_missing() {
        assert_eq!(told((1..10).chain(13..200)), [], "not yet");
        assert_eq!(told((1..10).chain(13..300)), [(10, 12)]);
        assert_eq!(told((1..10).chain([15, 12]).chain(16..300)), [(10, 11), (13, 14)]);
    }

    #[test]
    fn numbers_that_wrap_are_in_order() {
        assert_eq!(told([u32::MAX - 1, u32::MAX, 0, 1].into_iter().chain(2..600)), []);
        assert_eq!(told([u32::MAX - 1, 1].into_iter().chain(2..600)), [(u32::MAX, 0)]);
    }

    #[test]
    fn a_boot_begins_anew() {
        assert_eq!(told((90_000..90_100).chain(1..600)), []);
        assert_eq!(told((90_000..90_100).chain([90_105]).chain(1..600)), [(90_100, 90_104)]);
    }

    #[test]
    fn many_stretches_are_told_as_one() {
        assert_eq!(told((0..=17).map(|number| number * 10)), [(1, 169)]);
    }

    #[test]
    fn what_is_left_off_is_gone_on_with() {
        let mut first = Serials::default();
        assert_eq!([1, 2, 5].map(|serial| first.take(serial)), [const { Vec::new() }; 3]);
        let mut next = Serials::from(first.newest(), first.missing());
        assert_eq!(next.missing().collect::<Vec<_>>(), [(3, 4)]);
        assert_eq!(next.take(4), []);
        assert_eq!((6..400).flat_map(|serial| next.take(serial)).collect::<Vec<_>>(), [(3, 3)]);
    }
}
