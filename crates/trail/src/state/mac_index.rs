use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use taptrail_record::MacAddr;
use uuid::Uuid;

/// The guests of one host that have an interface plugged in, by its MAC.
#[derive(Debug, Default)]
pub(crate) struct MacIndex {
    holders: HashMap<MacAddr, Holders>,
}

/// The guests with one MAC, and how many instances of each have it: a guest that migrates between
/// two daemons has two.
#[derive(Debug)]
enum Holders {
    One(Uuid, u32),
    More(BTreeMap<Uuid, u32>),
}

impl MacIndex {
    /// How many other guests [`add`](Self::add) returns.
    const MAX_RETURNED: usize = 8;

    /// A guest has the MAC. If it did not have it before, returns some of the other guests that
    /// have it, and how many there are.
    pub(crate) fn add(&mut self, mac: MacAddr, guest: Uuid) -> Option<(Vec<Uuid>, usize)> {
        let holders = match self.holders.entry(mac) {
            Entry::Vacant(vacant) => {
                vacant.insert(Holders::One(guest, 1));
                return None;
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        match holders {
            Holders::One(one, instances) if *one == guest => *instances += 1,
            Holders::One(one, instances) => {
                let other = *one;
                *holders = Holders::More(BTreeMap::from([(other, *instances), (guest, 1)]));
                return Some((vec![other], 1));
            }
            Holders::More(all) => {
                let instances = all.entry(guest).or_default();
                *instances += 1;
                if *instances == 1 {
                    let others = all.keys().copied().filter(|other| *other != guest);
                    return Some((others.take(Self::MAX_RETURNED).collect(), all.len() - 1));
                }
            }
        }
        None
    }

    /// A guest does not have the MAC any more.
    pub(crate) fn remove(&mut self, mac: MacAddr, guest: Uuid) {
        let Entry::Occupied(mut holders) = self.holders.entry(mac) else { return };
        let none = match holders.get_mut() {
            Holders::One(one, instances) => {
                *instances = instances.saturating_sub(u32::from(*one == guest));
                *instances == 0
            }
            Holders::More(all) => {
                if let Some(instances) = all.get_mut(&guest) {
                    *instances -= 1;
                    if *instances == 0 {
                        all.remove(&guest);
                    }
                }
                all.is_empty()
            }
        };
        if none {
            holders.remove();
        }
    }

    /// The host booted.
    pub(crate) fn clear(&mut self) {
        self.holders.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_joins_others_is_reported_once() {
        let (mac, mut macs) = (MacAddr::kvm([0, 0, 1]), MacIndex::default());
        let guest = Uuid::from_u128;
        assert_eq!(macs.add(mac, guest(1)), None);
        assert_eq!(macs.add(mac, guest(1)), None);
        assert_eq!(macs.add(mac, guest(2)), Some((vec![guest(1)], 1)));
        assert_eq!(macs.add(mac, guest(2)), None);
        assert_eq!(macs.add(mac, guest(3)), Some((vec![guest(1), guest(2)], 2)));
        assert_eq!(macs.add(MacAddr::kvm([0, 0, 2]), guest(3)), None);
    }

    #[test]
    fn what_no_guest_has_any_more_is_forgotten() {
        let (mac, mut macs) = (MacAddr::kvm([0, 0, 1]), MacIndex::default());
        let guest = Uuid::from_u128;
        for guest in [guest(1), guest(2), guest(2)] {
            macs.add(mac, guest);
        }
        macs.remove(mac, guest(7));
        macs.remove(mac, guest(2));
        assert_eq!(macs.add(mac, guest(3)), Some((vec![guest(1), guest(2)], 2)));
        for guest in [guest(1), guest(2), guest(3)] {
            macs.remove(mac, guest);
        }
        assert!(macs.holders.is_empty());
    }
}
