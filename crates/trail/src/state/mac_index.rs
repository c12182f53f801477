use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use taptrail_record::MacAddr;
use uuid::Uuid;

/// Which guests of one host have an interface with which MAC plugged in.
#[derive(Debug, Default)]
pub(crate) struct Macs {
    guests: HashMap<MacAddr, Guests>,
}

/// The guests with one MAC, and how many lives of each have it: a guest that migrates between two
/// daemons has two.
#[derive(Debug)]
enum Guests {
    One(Uuid, u32),
    More(BTreeMap<Uuid, u32>),
}

impl Macs {
    /// How many of the others are shown.
    const SHOWN: usize = 8;

    /// A guest has it. Returns some others that have it too, and how many there are, if the guest did not
    /// have it before.
    pub(crate) fn join(&mut self, mac: MacAddr, guest: Uuid) -> Option<(Vec<Uuid>, usize)> {
        let guests = match self.guests.entry(mac) {
            Entry::Vacant(vacant) => {
                vacant.insert(Guests::One(guest, 1));
                return None;
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        match guests {
            Guests::One(one, lives) if *one == guest => *lives += 1,
            Guests::One(one, lives) => {
                let other = *one;
                *guests = Guests::More(BTreeMap::from([(other, *lives), (guest, 1)]));
                return Some((vec![other], 1));
            }
            Guests::More(all) => {
                let lives = all.entry(guest).or_default();
                *lives += 1;
                if *lives == 1 {
                    let others = all.keys().copied().filter(|other| *other != guest);
                    return Some((others.take(Self::SHOWN).collect(), all.len() - 1));
                }
            }
        }
        None
    }

    /// A guest has it no more.
    pub(crate) fn leave(&mut self, mac: MacAddr, guest: Uuid) {
        let Entry::Occupied(mut guests) = self.guests.entry(mac) else { return };
        let none = match guests.get_mut() {
            Guests::One(one, lives) => {
                *lives = lives.saturating_sub(u32::from(*one == guest));
                *lives == 0
            }
            Guests::More(all) => {
                if let Some(lives) = all.get_mut(&guest) {
                    *lives -= 1;
                    if *lives == 0 {
                        all.remove(&guest);
                    }
                }
                all.is_empty()
            }
        };
        if none {
            guests.remove();
        }
    }

    /// The host started anew.
    pub(crate) fn clear(&mut self) {
        self.guests.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_joins_others_is_told_once() {
        let (mac, mut macs) = (MacAddr::kvm([0, 0, 1]), Macs::default());
        let guest = Uuid::from_u128;
        assert_eq!(macs.join(mac, guest(1)), None);
        assert_eq!(macs.join(mac, guest(1)), None);
        assert_eq!(macs.join(mac, guest(2)), Some((vec![guest(1)], 1)));
        assert_eq!(macs.join(mac, guest(2)), None);
        assert_eq!(macs.join(mac, guest(3)), Some((vec![guest(1), guest(2)], 2)));
        assert_eq!(macs.join(MacAddr::kvm([0, 0, 2]), guest(3)), None);
    }

    #[test]
    fn what_no_guest_has_any_more_is_forgotten() {
        let (mac, mut macs) = (MacAddr::kvm([0, 0, 1]), Macs::default());
        let guest = Uuid::from_u128;
        for guest in [guest(1), guest(2), guest(2)] {
            macs.join(mac, guest);
        }
        macs.leave(mac, guest(7));
        macs.leave(mac, guest(2));
        assert_eq!(macs.join(mac, guest(3)), Some((vec![guest(1), guest(2)], 2)));
        for guest in [guest(1), guest(2), guest(3)] {
            macs.leave(mac, guest);
        }
        assert!(macs.guests.is_empty());
    }
}
