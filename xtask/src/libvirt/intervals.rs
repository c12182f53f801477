//! Looks folded into intervals: from when to when each descriptor was seen.

use super::descriptors::{Descriptor, Interface};

/// One descriptor from the first look that showed it to the last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) descriptor: Descriptor,
    /// What was behind it when it was first seen.
    pub(super) interface: Interface,
    /// Seconds since 1970.
    pub(super) first: f64,
    pub(super) last: f64,
}

#[derive(Debug, Default)]
pub(super) struct Intervals {
    /// Seen by the last look.
    open: Vec<Interval>,
    ended: Vec<Interval>,
}

impl Intervals {
    /// Takes what one look showed. A descriptor that one look did not show begins anew with the
    /// next.
    pub(super) fn look(
        &mut self,
        time: f64,
        seen: Vec<Descriptor>,
        behind: impl Fn(&Descriptor) -> Interface,
    ) {
        let (mut going_on, ended): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(|open| seen.contains(&open.descriptor));
        self.ended.extend(ended);
        going_on.iter_mut().for_each(|open| open.last = time);
        for descriptor in seen {
            if !going_on.iter().any(|open| open.descriptor == descriptor) {
                let interface = behind(&descriptor);
                going_on.push(Interval { descriptor, interface, first: time, last: time });
            }
        }
        self.open = going_on;
    }

    /// All, in the order in which they began.
    pub(super) fn all(mut self) -> Vec<Interval> {
        self.ended.append(&mut self.open);
        self.ended.sort_by(|a, b| {
            let place = |interval: &Interval| (interval.descriptor.pid, interval.descriptor.fd);
            a.first.total_cmp(&b.first).then_with(|| place(a).cmp(&place(b)))
        });
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tun(fd: u32, interface: &str) -> Descriptor {
        let text = str::to_owned;
        Descriptor {
            pid: 7,
            fd,
            link: text("/dev/net/tun"),
            rdev: text("0A:C8"),
            interface: Some(text(interface)),
        }
    }

    fn fold(looks: &[(f64, &[Descriptor])]) -> Vec<(u32, f64, f64)> {
        let mut intervals = Intervals::default();
        for (time, seen) in looks {
            intervals.look(*time, seen.to_vec(), |_| Interface::default());
        }
        intervals.all().iter().map(|one| (one.descriptor.fd, one.first, one.last)).collect()
    }

    #[test]
    fn an_interval_is_from_the_first_look_to_the_last() {
        let (a, b) = (tun(30, "vnet0"), tun(31, "vnet1"));
        let both = [a, b];
        let looks: [(f64, &[Descriptor]); 5] =
            [(1.0, &[]), (2.0, &both[..1]), (3.0, &both), (4.0, &both[1..]), (5.0, &[])];
        assert_eq!(fold(&looks), [(30, 2.0, 3.0), (31, 3.0, 4.0)]);
    }

    #[test]
    fn what_is_still_there_is_not_forgotten() {
        assert_eq!(fold(&[(1.0, &[tun(30, "vnet0")])]), [(30, 1.0, 1.0)]);
    }

    #[test]
    fn a_number_used_again_is_another_descriptor() {
        let looks: [(f64, &[Descriptor]); 3] =
            [(1.0, &[tun(30, "vnet0")]), (2.0, &[tun(30, "vnet1")]), (3.0, &[tun(30, "vnet1")])];
        assert_eq!(fold(&looks), [(30, 1.0, 1.0), (30, 2.0, 3.0)]);
        let looks: [(f64, &[Descriptor]); 3] =
            [(1.0, &[tun(30, "vnet0")]), (2.0, &[]), (3.0, &[tun(30, "vnet0")])];
        assert_eq!(fold(&looks), [(30, 1.0, 1.0), (30, 3.0, 3.0)]);
    }

    #[test]
    fn only_a_new_descriptors_interface_is_looked_up() {
        let looked_up = std::cell::Cell::new(0);
        let mut intervals = Intervals::default();
        for time in [1.0, 2.0, 3.0] {
            intervals.look(time, vec![tun(30, "vnet0")], |_| {
                looked_up.set(looked_up.get() + 1);
                Interface::default()
            });
        }
        assert_eq!(looked_up.get(), 1);
    }
}
