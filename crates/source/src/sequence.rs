//! Whether records that seem to be of one host are of one.
//!
//! The kernel numbers the audit events of a host one by one from each boot. Told in the order of their
//! times, the numbers of one host rise, but for its boots. Where two hosts hide behind one name, they
//! fall and rise again.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// Events of one host, told in the order of their times, are out of order by less than this.
const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// Numbers of one boot are no farther apart than this, unless thousands of events are missing.
const NEAR: u32 = 4096;

/// How many boots are remembered.
const REMEMBERED: usize = 8;

/// Where a line is, to be named.
#[derive(Debug, Clone)]
pub(crate) struct At {
    pub(crate) serial: u32,
    pub(crate) time: Timestamp,
    pub(crate) source: std::sync::Arc<str>,
    pub(crate) line: u64,
}

/// How long numbers of the current boot are remembered one by one, and how many.
const RECENT: SignedDuration = SignedDuration::from_secs(60);
const MAX_RECENT: usize = 256;

/// The numbers of one host's records, told in the order of their times.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The last records of the current boot, the newest last.
    recent: VecDeque<At>,
    /// The last records of boots before.
    before: VecDeque<At>,
}

impl Sequence {
    /// The host started anew.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Takes the next record. An earlier one if the two can't be of one host.
    pub(crate) fn take(&mut self, at: At) -> Option<At> {
        let newest = self.recent.back().map(|newest| (newest.serial, newest.time));
        if let Some((newest, time)) = newest {
            let later = at.time.duration_since(time) > SKEW;
            let wrapped = newest > u32::MAX / 4 * 3 && at.serial < u32::MAX / 4;
            if at.serial > newest {
                // After a boot the numbers of the one before are not gone on with.
                let goes_on = |old: &&At| at.serial > old.serial && at.serial - old.serial <= NEAR;
                if at.serial - newest > NEAR
                    && let Some(old) = self.before.iter().find(goes_on)
                {
                    return Some(old.clone());
                }
            } else if !wrapped && (later || newest - at.serial > NEAR) {
                // A boot does not begin with a number that the one before has just passed.
                if let Some(passed) = self.recent.iter().find(|passed| passed.serial < at.serial) {
                    return Some(passed.clone());
                }
                if self.before.len() == REMEMBERED {
                    self.before.pop_front();
                }
                self.before.extend(self.recent.pop_back());
                self.recent.clear();
            } else if !wrapped {
                return None;
            }
        }
        let is_old = |old: &mut At| at.time.duration_since(old.time) > RECENT;
        while self.recent.pop_front_if(is_old).is_some() {}
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(at);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which record, from 0, a conflict shows.
    fn conflict(records: impl IntoIterator<Item = (u32, i64)>) -> Option<usize> {
        let mut sequence = Sequence::default();
        records.into_iter().position(|(serial, second)| {
            let time = Timestamp::from_second(second).unwrap();
            sequence.take(At { serial, time, source: "a.log".into(), line: 1 }).is_some()
        })
    }

    #[test]
    fn one_host_with_boots_and_a_little_disorder_is_one() {
        assert_eq!(conflict([(900, 0), (901, 1), (899, 2), (902, 3), (5, 60), (6, 61), (7, 62)]), None);
        assert_eq!(conflict([(u32::MAX - 1, 0), (3, 60), (4, 61)]), None, "a wrap");
        assert_eq!(conflict((0..20_000).map(|n| (n % 7000 + 1, i64::from(n) * 10))), None, "boots");
        assert_eq!(conflict([(101, 0), (900_000, 1), (900_001, 2)]), None, "a loss");
    }

    #[test]
    fn two_hosts_whose_records_alternate_are_two() {
        let two = |gap: u32| (0..100_u32).map(move |n| (n / 2 + (n % 2) * gap + 100, i64::from(n) * 10));
        assert!(conflict(two(50_000)).is_some());
        assert!(conflict(two(900)).is_some(), "also where their numbers are near");
    }
}
