//! Separates lasting differences from transient ones.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use taptrail_kernel::proc::{HeldKind, ProcessId};
use taptrail_record::{DeviceKind, MacAddr, Rdev};
use uuid::Uuid;

use super::{Row, Verdict};

/// The pause before the second look. It doubles with each look, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Finds the differences that last. A guest that starts or stops meanwhile is none: libvirt records
/// a start up to half a second after QEMU has its devices, and a stop a second or two after they
/// are gone.
#[derive(Debug)]
pub struct Debouncer {
    patience: Duration,
    /// The time of the first look, which comes after a long trail has been read.
    begun: Option<Instant>,
    since: HashMap<Key, Instant>,
    looks: u32,
}

/// What the caller does after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Report the differences that have lasted.
    Report,
    /// Look again after this pause.
    LookAgain(Duration),
}

/// The identity of a difference across looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    verdict: Verdict,
    process: Option<ProcessId>,
    device: Option<(HeldKind, Rdev, Option<CompactString>)>,
    holding: Option<(Uuid, MacAddr, DeviceKind, Option<u32>)>,
    queues: u32,
}

impl Key {
    fn of(row: &Row<'_>) -> Self {
        let ifname = |name: &taptrail_record::IfName| CompactString::from(name.as_str());
        Self {
            verdict: row.verdict,
            process: row.holder.map(|holder| holder.process),
            device: row.held.map(|held| (held.kind, held.rdev, held.ifname.as_ref().map(ifname))),
            holding: row.holding.map(|of| (of.guest.uuid, of.mac, of.device.kind, of.pid)),
            queues: row.queues,
        }
    }
}

impl Debouncer {
    /// A difference has to last for `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { patience, begun: None, since: HashMap::new(), looks: 0 }
    }

    /// Takes the rows of the latest look.
    ///
    /// If new differences keep coming, it ends after twice the patience. Those that have not lasted
    /// by then are not reported.
    pub fn look<'a>(&mut self, rows: impl Iterator<Item = &'a Row<'a>>, now: Instant) -> Next {
        let begun = *self.begun.get_or_insert(now);
        let before = std::mem::take(&mut self.since);
        let keys = rows.filter(|row| row.may_pass()).map(Key::of);
        self.since = keys
            .map(|key| (before.get(&key).copied().unwrap_or(now), key))
            .map(|(since, key)| (key, since))
            .collect();
        self.looks += 1;
        let youngest = self.since.values().map(|since| now.saturating_duration_since(*since)).min();
        let Some(age) = youngest.filter(|age| *age < self.patience) else { return Next::Report };
        let end = begun + self.patience * 2;
        if now >= end {
            return Next::Report;
        }
        let pause = MIN_PAUSE.saturating_mul(1 << self.looks.min(8).saturating_sub(1)).min(MAX_PAUSE);
        Next::LookAgain(pause.min(self.patience - age).min(end - now))
    }

    /// Whether a row of the latest look has lasted. A row that is no difference always has.
    pub fn has_lasted(&self, row: &Row<'_>, now: Instant) -> bool {
        let age = |since: &Instant| now.saturating_duration_since(*since);
        !row.verdict.is_difference()
            || self.since.get(&Key::of(row)).is_some_and(|since| age(since) >= self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Holder, ScannedDevice};

    const PATIENCE: Duration = Duration::from_secs(3);

    fn holder(pid: u32) -> Holder {
        let held = ScannedDevice {
            kind: HeldKind::Raw(DeviceKind::Tun),
            path: "/dev/net/tun".into(),
            rdev: Rdev::TUN,
            ifname: None,
            netns: None,
            behind: None,
            descriptors: Vec::new(),
        };
        Holder::of_test(ProcessId { pid, start_time: 1 }, vec![held])
    }

    fn row(verdict: Verdict, holder: &Holder) -> Row<'_> {
        Row {
            verdict,
            holder: Some(holder),
            held: holder.devices.first(),
            descriptors: Vec::new(),
            queues: 1,
            holding: None,
            matched: None,
            shared: Vec::new(),
            text: None,
        }
    }

    #[test]
    fn what_is_accounted_for_is_reported_at_once() {
        let holder = holder(1);
        let rows = [row(Verdict::Accounted, &holder), row(Verdict::Ignored, &holder)];
        let mut debouncer = Debouncer::new(PATIENCE);
        let now = Instant::now();
        assert_eq!(debouncer.look(rows.iter(), now), Next::Report);
        assert!(rows.iter().all(|row| debouncer.has_lasted(row, now)));
    }

    // Shows 14.6.
    #[test]
    fn a_difference_is_reported_when_it_has_lasted() {
        let holder = holder(1);
        let rows = [row(Verdict::Unaccounted, &holder)];
        let mut debouncer = Debouncer::new(PATIENCE);
        // However long the first look took to come.
        let begun = Instant::now() + PATIENCE * 10;
        let (mut now, mut looks) = (begun, 0);
        while let Next::LookAgain(later) = debouncer.look(rows.iter(), now) {
            assert!(!debouncer.has_lasted(&rows[0], now) && later <= MAX_PAUSE);
            now += later;
            looks += 1;
        }
        assert_eq!((now - begun, looks), (PATIENCE, 6));
        assert!(debouncer.has_lasted(&rows[0], now));
        // Without patience the first look is reported.
        assert_eq!(Debouncer::new(Duration::ZERO).look(rows.iter(), now), Next::Report);
    }

    #[test]
    fn one_that_goes_and_comes_back_is_young_again() {
        let holder = holder(1);
        let rows = [row(Verdict::Missing, &holder)];
        let mut debouncer = Debouncer::new(PATIENCE);
        let begun = Instant::now();
        assert!(matches!(debouncer.look(rows.iter(), begun), Next::LookAgain(_)));
        assert_eq!(debouncer.look([].iter(), begun + PATIENCE / 2), Next::Report);
        assert!(matches!(debouncer.look(rows.iter(), begun + PATIENCE), Next::LookAgain(_)));
    }

    #[test]
    fn if_new_ones_keep_coming_it_ends_and_the_young_are_not_reported() {
        let holders: Vec<_> = (1..1000).map(holder).collect();
        let mut debouncer = Debouncer::new(PATIENCE);
        let begun = Instant::now();
        let mut now = begun;
        let mut last = None;
        for later in &holders[1..] {
            let rows = [row(Verdict::Unaccounted, &holders[0]), row(Verdict::Unaccounted, later)];
            let next = debouncer.look(rows.iter(), now);
            last = Some(rows.clone());
            match next {
                Next::Report => break,
                Next::LookAgain(pause) => now += pause,
            }
        }
        assert_eq!(now - begun, PATIENCE * 2);
        let [old, young] = last.unwrap();
        assert!(debouncer.has_lasted(&old, now) && !debouncer.has_lasted(&young, now));
    }
}
