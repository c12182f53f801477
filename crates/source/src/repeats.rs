//! Detects repeated lines without serial numbers in one input.
//!
//! A relay may write a line twice. But a guest manager may also write two equal records: of two
//! interfaces with one MAC, or of one that is plugged, unplugged and plugged again within the
//! resolution of the log's times. The guest's other records at that time show which it is. If they
//! don't, the line is taken for a copy.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Event, MacAddr, Record};
use taptrail_trail::Content;

use crate::ordered_entry::OrderedEntry;

/// Records of one start of a guest are at most this far apart.
const START_WINDOW: SignedDuration = SignedDuration::from_secs(3);

/// How many records before and after a line are considered.
const MAX_NEIGHBOURS: usize = 1024;

/// The recent records without serial numbers.
#[derive(Debug, Default)]
pub(crate) struct RepeatFilter {
    last: VecDeque<(u64, OrderedEntry)>,
    times: HashMap<u64, u32>,
    hasher: RandomState,
}

impl RepeatFilter {
    /// Whether an entry is a copy of an earlier one. `later`: the entries after it.
    pub(crate) fn is_copy<'a>(
        &'a mut self,
        placed: &OrderedEntry,
        later: impl Iterator<Item = &'a OrderedEntry>,
    ) -> bool {
        let Content::Record(record) = &placed.entry.content else { return false };
        if placed.entry.serial.is_some() {
            return false;
        }
        let now = placed.order;
        while let Some((hash, _)) =
            self.last.pop_front_if(|(_, last)| now.duration_since(last.order) > START_WINDOW)
        {
            if let Some(times) = self.times.get_mut(&hash) {
                *times -= 1;
                if *times == 0 {
                    self.times.remove(&hash);
                }
            }
        }
        let entry = &placed.entry;
        let hash =
            self.hasher.hash_one((&entry.host, entry.time, entry.writer, placed.program, &entry.content));
        let times = self.times.entry(hash).or_default();
        *times += 1;
        let time = *times;
        self.last.push_back((hash, placed.clone()));
        if time == 1 {
            return false;
        }
        let later =
            later.take_while(|later| later.order.duration_since(now) <= START_WINDOW).take(MAX_NEIGHBOURS);
        let before = self.last.iter().rev().map(|(_, before)| before).take(MAX_NEIGHBOURS);
        let near = before.chain(later);
        let of_guest = near.filter_map(|near| match &near.entry.content {
            Content::Record(of)
                if near.program == placed.program
                    && near.entry.serial.is_none()
                    && near.entry.host == entry.host
                    && of.guest == record.guest =>
            {
                Some((near.entry.time, of))
            }
            _ => None,
        });
        !Counts::of(of_guest, record, entry.time).is_own_event(time)
    }
}

/// Counts of records that belong to one event.
#[derive(Debug, Default)]
struct Counts {
    /// Equal records.
    same: u32,
    /// Starts of the guest.
    guest_starts: u32,
    /// Opens of one device of the interface, and starts of the interface.
    opens: u32,
    starts: u32,
    /// Attaches and detaches of the interface at the record's exact time.
    attaches: u32,
    detaches: u32,
}

impl Counts {
    fn of<'a>(near: impl Iterator<Item = (Timestamp, &'a Record)>, record: &Record, time: Timestamp) -> Self {
        let mac: Option<MacAddr> = record.event.mac();
        let mut counts = Self::default();
        let mut opens: HashMap<(&str, bool), u32> = HashMap::new();
        for (at, near) in near {
            counts.same += u32::from(at == time && near == record);
            let is_own = near.event.mac() == mac;
            let count = match &near.event {
                Event::GuestStart { .. } => &mut counts.guest_starts,
                Event::Open { device, .. } if is_own => {
                    opens.entry((&device.path, near.outcome == record.outcome)).or_default()
                }
                Event::Start { .. } if is_own => &mut counts.starts,
                Event::Attach { .. } if is_own && at == time => &mut counts.attaches,
                Event::Detach { .. } if is_own && at == time => &mut counts.detaches,
                _ => continue,
            };
            *count += 1;
        }
        counts.opens = opens.into_values().max().unwrap_or_default();
        counts
    }

    /// Whether the `time`th equal record, counted from 1, is an event of its own.
    fn is_own_event(&self, time: u32) -> bool {
        time <= (self.same / self.copies()).max(1)
    }

    /// How many copies of each line the log has.
    fn copies(&self) -> u32 {
        let starts = self.guest_starts;
        if self.attaches > 0 && self.detaches > 0 {
            gcd(self.attaches, self.detaches)
        // A guest starts once, and each of its interfaces once.
        } else if starts > 0 && self.opens >= 2 * starts && self.starts >= 2 * starts {
            starts
        } else {
            self.same.max(1)
        }
    }
}

/// The greatest common divisor.
fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(counts: Counts) -> usize {
        (1..=counts.same).filter(|time| counts.is_own_event(*time)).count()
    }

    // Shows 10.30.
    #[test]
    fn other_records_of_a_guest_show_which_lines_are_copies() {
        let starts = |guest_starts, opens, starts| {
            kept(Counts { same: starts, guest_starts, opens, starts, ..Counts::default() })
        };
        assert_eq!(starts(0, 0, 2), 1, "nothing shows two events");
        assert_eq!(starts(2, 2, 2), 1, "each line is there twice");
        assert_eq!(starts(1, 2, 2), 2, "two interfaces of one MAC");
        assert_eq!(starts(2, 4, 4), 2, "two interfaces, and each line twice");
        assert_eq!(starts(1, 1, 2), 1, "one line is there twice");
        let attaches =
            |attaches, detaches| kept(Counts { same: attaches, attaches, detaches, ..Counts::default() });
        assert_eq!(attaches(2, 0), 1, "nothing shows two events");
        assert_eq!(attaches(2, 1), 2, "in, out and in again");
        assert_eq!(attaches(4, 2), 2, "the same, and each line twice");
        assert_eq!(attaches(2, 2), 1, "each line is there twice");
    }
}
