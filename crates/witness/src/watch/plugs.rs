//! What a guest's manager tells of its interfaces.

use jiff::Timestamp;
use taptrail_record::{Device, DeviceKind, MacAddr};

use super::sight::Sighted;

/// How many interfaces of one guest are followed, and tries to give it some.
const MOST: usize = 1024;
/// An interface has a backend and an accelerator; libvirt tells a vhost-net twice.
const MOST_OPENED: usize = 8;

/// One interface of a guest, from its first open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plug {
    pub(super) number: u64,
    pub(super) mac: MacAddr,
    pub(super) opened: Vec<Opened>,
    /// Whether QEMU is told to have it.
    pub(super) granted: bool,
    /// Whether it is of the guest's start.
    pub(super) by_start: bool,
    /// Whether its backend was seen, and its accelerator: none is given a second one.
    pub(super) backed: bool,
    pub(super) accelerated: bool,
    /// Whether who listens was told that QEMU has it.
    pub(super) told: bool,
    /// Whether it is told to be given up, and was seen after that.
    pub(super) over: bool,
}

/// One open record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) number: u64,
    pub(super) device: Device,
    /// The process that wrote the record.
    pub(super) writer: Option<u32>,
}

/// A detach of which it is not seen yet what it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Detached {
    pub(super) number: u64,
    pub(super) mac: MacAddr,
    pub(super) at: Timestamp,
}

impl Plug {
    /// Whether descriptors of it were seen.
    pub(super) fn is_seen(&self) -> bool {
        self.backed || self.accelerated
    }

    /// Whether one of this kind was seen.
    pub(super) fn has_seen(&self, kind: DeviceKind) -> bool {
        if kind == DeviceKind::VhostNet { self.accelerated } else { self.backed }
    }

    /// A descriptor of it was seen.
    pub(super) fn see(&mut self, kind: DeviceKind) {
        if kind == DeviceKind::VhostNet {
            self.accelerated = true;
        } else {
            self.backed = true;
        }
    }
}

/// The interfaces of one guest, oldest first.
#[derive(Debug, Default)]
pub(super) struct Plugs {
    pub(super) all: Vec<Plug>,
    pub(super) detached: Vec<Detached>,
}

impl Plugs {
    /// A device was opened for an interface: for its newest try, or a new one.
    pub(super) fn opened(&mut self, mac: MacAddr, opened: Opened) {
        let backend = opened.device.kind != DeviceKind::VhostNet;
        let takes = |plug: &Plug| {
            let has = |opened: &Opened| opened.device.kind != DeviceKind::VhostNet;
            !plug.granted
                && plug.opened.len() < MOST_OPENED
                && !(backend && plug.opened.iter().any(has))
                && plug.opened.iter().all(|before| before.writer == opened.writer)
        };
        match self.all.iter_mut().rev().find(|plug| plug.mac == mac) {
            Some(newest) if takes(newest) => newest.opened.push(opened),
            _ => self.add(mac, opened.number, vec![opened]),
        }
    }

    /// Takes out what a process opened and QEMU was not told to have.
    pub(super) fn take_opened_by(&mut self, writer: u32) -> Vec<(MacAddr, Opened)> {
        let is_by =
            |plug: &mut Plug| !plug.granted && plug.opened.iter().any(|opened| opened.writer == Some(writer));
        let taken: Vec<Plug> = self.all.extract_if(.., is_by).collect();
        taken
            .into_iter()
            .flat_map(|plug| plug.opened.into_iter().map(move |opened| (plug.mac, opened)))
            .collect()
    }

    fn add(&mut self, mac: MacAddr, number: u64, opened: Vec<Opened>) {
        if self.all.len() == MOST {
            self.all.remove(0);
        }
        let plug = Plug {
            number,
            mac,
            opened,
            granted: false,
            by_start: false,
            backed: false,
            accelerated: false,
            told: false,
            over: false,
        };
        self.all.push(plug);
    }

    /// QEMU has an interface since its start, or is about to run with it.
    pub(super) fn started(&mut self, mac: MacAddr, number: u64) {
        let at = self.all.iter().position(|plug| plug.mac == mac && !plug.granted);
        let at = at.unwrap_or_else(|| {
            self.add(mac, number, Vec::new());
            self.all.len() - 1
        });
        (self.all[at].granted, self.all[at].by_start) = (true, true);
    }

    /// QEMU has an interface by hot-plug.
    pub(super) fn attached(&mut self, mac: MacAddr, number: u64) {
        let Some(at) = self.all.iter().rposition(|plug| plug.mac == mac && !plug.granted) else {
            // Without an open a detach just before was a change of bridge, and nothing was given up.
            if !self.take_detached(mac) {
                self.add(mac, number, Vec::new());
                let newest = self.all.len() - 1;
                self.all[newest].granted = true;
            }
            return;
        };
        self.all[at].granted = true;
        // Tries before it were given up without a word.
        let mut index = 0;
        self.all.retain(|plug| {
            index += 1;
            plug.mac != mac || plug.granted || index > at
        });
    }

    /// QEMU did not get an interface.
    pub(super) fn refused(&mut self, mac: MacAddr, at_start: bool) {
        let opening = |plug: &Plug| plug.mac == mac && !plug.granted;
        let at = match at_start {
            true => self.all.iter().position(opening),
            false => self.all.iter().rposition(opening),
        };
        match at {
            Some(at) => drop(self.all.remove(at)),
            // A change of bridge that failed: it still has what it had.
            None => drop(self.take_detached(mac)),
        }
    }

    /// Whether what QEMU holds is of an interface that is told, by the address or name of what is behind it.
    pub(super) fn tell_of(&self, sighted: &Sighted) -> bool {
        let made_from = |mac: MacAddr| {
            sighted.address.is_some_and(|address| {
                address == mac || (address.0[0] == 0xFE && address.0[1..] == mac.0[1..])
            })
        };
        let names = |opened: &Opened| Some(&opened.device.path) == sighted.device.dev.as_ref();
        self.all.iter().any(|plug| made_from(plug.mac) || plug.opened.iter().any(names))
    }

    fn take_detached(&mut self, mac: MacAddr) -> bool {
        let at = self.detached.iter().rposition(|detached| detached.mac == mac);
        at.map(|at| self.detached.remove(at)).is_some()
    }

    /// QEMU is told to have given an interface up. `holds`: whether descriptors of a plug are known.
    pub(super) fn detached(&mut self, detached: Detached, holds: impl Fn(u64) -> bool) {
        let mac = detached.mac;
        // What was told to be given up and was not may be told so again.
        let is_told_before = !self.all.iter().any(|plug| plug.mac == mac && plug.granted && !plug.over);
        let is_meant = |plug: &Plug| plug.mac == mac && plug.granted && plug.over == is_told_before;
        // What was seen to go is what is meant.
        let gone = self.all.iter().position(|plug| is_meant(plug) && !holds(plug.number) && plug.is_seen());
        match gone {
            Some(at) => drop(self.all.remove(at)),
            // Else a look will tell, or an attach that takes it back.
            None if self.all.iter().any(is_meant) && self.detached.len() < MOST => {
                self.detached.push(detached);
            }
            None => {}
        }
    }

    /// Interfaces that were never seen, as many as may be meant by the detaches that wait.
    pub(super) fn leaving(&self) -> Vec<u64> {
        let mut leaving = Vec::new();
        for detached in &self.detached {
            let is_meant = |plug: &&Plug| {
                plug.mac == detached.mac && plug.granted && !plug.is_seen() && !leaving.contains(&plug.number)
            };
            leaving.extend(self.all.iter().find(is_meant).map(|plug| plug.number));
        }
        leaving
    }

    /// All that is there was given to who it is of: what has no backend by now, and is told to be given up, is over.
    pub(super) fn settle_unseen(&mut self) {
        self.detached.retain(|detached| {
            let is_meant = |plug: &Plug| plug.mac == detached.mac && plug.granted && !plug.backed;
            let at = self.all.iter().position(is_meant);
            at.map(|at| self.all.remove(at)).is_none()
        });
    }

    /// The guest runs: what its start did not give it, nobody will.
    pub(super) fn ran(&mut self) {
        self.all.retain(|plug| plug.granted);
    }

    /// Interfaces of which all that was seen is gone, one for each detach that waits.
    pub(super) fn settle(&mut self, holds: impl Fn(u64) -> bool) {
        self.all.retain(|plug| !plug.over || holds(plug.number));
        self.detached.retain(|detached| {
            let is_gone = |plug: &Plug| {
                plug.mac == detached.mac && plug.granted && plug.is_seen() && !holds(plug.number)
            };
            let gone = self.all.iter().position(is_gone);
            gone.map(|at| self.all.remove(at)).is_none()
        });
    }

    /// Nobody gave up what these detaches tell: they wait no longer. Returns the interfaces that they may mean.
    pub(super) fn stays(&mut self, is_late: impl Fn(Timestamp) -> bool) -> Vec<u64> {
        let mut meant = Vec::new();
        for detached in self.detached.extract_if(.., |detached| is_late(detached.at)) {
            // What was opened later is another.
            let is_its = |plug: &Plug| {
                plug.mac == detached.mac && plug.granted && plug.is_seen() && plug.number < detached.number
            };
            let is_told_before = !self.all.iter().any(|plug| is_its(plug) && !plug.over);
            let is_meant = |plug: &&mut Plug| is_its(plug) && plug.over == is_told_before;
            let mut plugs = self.all.iter_mut().filter(is_meant);
            if let Some(first) = plugs.next() {
                first.over = true;
                meant.push(first.number);
            }
            meant.extend(plugs.map(|plug| plug.number));
        }
        meant
    }
}
