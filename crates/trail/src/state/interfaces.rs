use taptrail_record::MacAddr;

use crate::state::interface::Interface;

/// The interfaces of one guest by MAC, in the order of their MACs.
///
/// Most guests have one or two, and thousands of guests run at once: a sorted list is smaller than
/// any map, and so stays in the processor's cache.
#[derive(Debug, Default)]
pub(crate) struct Interfaces {
    sorted: Vec<(MacAddr, Interface)>,
}

impl Interfaces {
    pub(crate) fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    fn find(&self, mac: MacAddr) -> Result<usize, usize> {
        self.sorted.binary_search_by_key(&mac, |(mac, _)| *mac)
    }

    pub(crate) fn get(&self, mac: MacAddr) -> Option<&Interface> {
        self.find(mac).ok().map(|at| &self.sorted[at].1)
    }

    pub(crate) fn get_mut(&mut self, mac: MacAddr) -> Option<&mut Interface> {
        self.find(mac).ok().map(|at| &mut self.sorted[at].1)
    }

    pub(crate) fn get_or_new(&mut self, mac: MacAddr) -> &mut Interface {
        let at = self.find(mac).unwrap_or_else(|at| {
            if self.sorted.is_empty() {
                self.sorted.reserve_exact(1);
            }
            self.sorted.insert(at, (mac, Interface::default()));
            at
        });
        &mut self.sorted[at].1
    }

    pub(crate) fn remove(&mut self, mac: MacAddr) {
        if let Ok(at) = self.find(mac) {
            self.sorted.remove(at);
        }
    }

    pub(crate) fn pop_last(&mut self) -> Option<(MacAddr, Interface)> {
        self.sorted.pop()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.sorted.iter().map(|(_, interface)| interface)
    }

    pub(crate) fn iter_with_mac(&self) -> impl Iterator<Item = (MacAddr, &Interface)> {
        self.sorted.iter().map(|(mac, interface)| (*mac, interface))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (MacAddr, &mut Interface)> {
        self.sorted.iter_mut().map(|(mac, interface)| (*mac, interface))
    }

    pub(crate) fn retain_mut(&mut self, mut keep: impl FnMut(MacAddr, &mut Interface) -> bool) {
        self.sorted.retain_mut(|(mac, interface)| keep(*mac, interface));
    }
}

impl IntoIterator for Interfaces {
    type Item = (MacAddr, Interface);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.sorted.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mac_is_there_once_and_in_order() {
        let mut all = Interfaces::default();
        let mac = |last| MacAddr::kvm([0, 0, last]);
        for last in [3, 1, 2, 3, 1] {
            all.get_or_new(mac(last));
        }
        assert_eq!(all.iter_mut().map(|(mac, _)| mac).collect::<Vec<_>>(), [mac(1), mac(2), mac(3)]);
        all.remove(mac(2));
        all.remove(mac(7));
        assert!(all.get(mac(2)).is_none() && all.get_mut(mac(3)).is_some());
        assert_eq!(all.pop_last().map(|(mac, _)| mac), Some(mac(3)));
        all.retain_mut(|_, _| false);
        assert!(all.is_empty());
    }
}
