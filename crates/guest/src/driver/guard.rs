//! What others change while the guest runs: its links, its filters, and what QEMU holds.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::changes::Changed;
use taptrail_kernel::filter::generation;
use taptrail_kernel::proc::{is_exiting, raw_devices};
use taptrail_record::{Device, DeviceKind, Event, IfName, MacAddr, Outcome};
use tracing::{info, warn};

use super::{Driver, EVENTS, PlugState, Plugged, said};
use crate::account::{OpenDevice, Posting};
use crate::handover;
use crate::host::LinkChange;
use crate::host_link::HostLink;
use crate::open_files::LastClose;

/// How often what QEMU holds is looked at where the kernel does not announce that it is given up: a macvtap and a
/// tap of somebody else's stay without descriptors.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// How often a filter is looked at again while others change nftables.
const MAX_FILTER_LOOKS: u32 = 5;

/// How long a QEMU that said SHUTDOWN and closed what it held is waited for.
const END_GRACE: Duration = Duration::from_secs(2);

/// Of changes of an interface's MAC so many are told within this time: its QEMU can go on and on.
const MAX_MAC_CHANGES: u32 = 8;
const MAC_CHANGES_WITHIN: Duration = Duration::from_secs(60);

/// How often the MAC of an interface's link was changed of late.
#[derive(Debug, Default)]
pub(super) struct MacChanges {
    since: Option<Instant>,
    count: u32,
}

impl MacChanges {
    /// One more; how many that makes.
    fn another(&mut self) -> u32 {
        if self.since.is_none_or(|since| since.elapsed() > MAC_CHANGES_WITHIN) {
            *self = Self { since: Some(Instant::now()), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// What a look at an interface's link found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkLook {
    /// It is where it was.
    Same,
    /// It has another name.
    Renamed,
    /// It is not here: it was moved, or is gone.
    Away,
}

impl Driver {
    /// Looks at all links and filters of this guest: before it begins, nobody did.
    pub(super) fn look_at_all(&mut self) {
        let since = Some(self.looked);
        self.look_at_links(&Changed { lost: true, ..Changed::default() }, since);
    }

    /// Looks at the links and filters of this guest that were changed.
    pub(super) fn look_at_changes(&mut self) {
        let Some(changes) = &mut self.host.changes else { return };
        let now = Timestamp::now();
        let changed = match changes.take() {
            Ok(changed) => changed,
            Err(error) => {
                warn!("changes of links and filters are not seen any more: {error}");
                self.host.changes = None;
                return;
            }
        };
        // All that was announced until now is looked at here.
        let since = self.unheard_since.replace(now);
        if changed != Changed::default() {
            // QEMU says that it ends before it closes what it holds.
            self.take_events(EVENTS);
            self.look_at_links(&changed, since);
        }
    }

    /// Looks again where something was changed: at `since` all was as it should be, and without it the driver slept
    /// until this was announced.
    fn look_at_links(&mut self, changed: &Changed, since: Option<Timestamp>) {
        // Backwards: one that is over is taken from the list.
        for index in (0..self.interfaces.len()).rev() {
            let lasting = &self.interfaces[index].interface.lasting;
            let Some(number) = lasting.link.as_ref().map(HostLink::index) else { continue };
            let looks = changed.lost || changed.links.contains(&number);
            let look = if looks { self.link_changed(index, since) } else { LinkLook::Same };
            if look == LinkLook::Away || (looks && self.mac_changed(index)) {
                continue;
            }
            let renamed = look == LinkLook::Renamed;
            // One that was lost may be set now, as when its link is back.
            let lost = looks && self.interfaces[index].interface.lasting.lacks_filter();
            if renamed || lost || changed.lost || changed.filters.contains(&number) {
                self.filter_changed(index, renamed);
            }
        }
    }

    /// Tells what became of an interface's link.
    fn link_changed(&mut self, index: usize, since: Option<Timestamp>) -> LinkLook {
        let interface = &mut self.interfaces[index].interface;
        let mac = interface.mac;
        match self.host.look_at_link(&mut interface.lasting) {
            Ok(LinkChange::None) => LinkLook::Same,
            Ok(LinkChange::Renamed(name)) => {
                info!("{mac}: link '{}' was renamed: it is '{name}' now", interface.ifname);
                interface.ifname = name;
                self.publish();
                LinkLook::Renamed
            }
            Ok(LinkChange::MovedKeys(namespace, name)) => {
                let why = format!(
                    "link '{}' was moved to another network namespace (number {namespace} here), where it is '{name}'",
                    interface.ifname
                );
                self.link_is_elsewhere(index, &why);
                LinkLook::Away
            }
            Ok(LinkChange::Gone) => {
                if let Some(name) = self.name_in_qemu(index) {
                    let ifname = &self.interfaces[index].interface.ifname;
                    let why = format!("link '{ifname}' is not here, and QEMU holds it as '{name}'");
                    self.link_is_elsewhere(index, &why);
                    return LinkLook::Away;
                }
                // Of others only a look shows when QEMU gave its device up.
                let since = if self.is_unannounced(index) { Some(self.looked) } else { since };
                let interface = &self.interfaces[index].interface;
                // A tap of ours goes with the last descriptor, which the user's own monitor may have closed.
                let ifname = interface.ifname.clone();
                if !self.given_up_unasked(index, since) && !is_exiting(self.qemu.id) {
                    warn!("{mac}: link '{ifname}' was deleted: no frame passes any more");
                    self.note_cut(index);
                }
                LinkLook::Away
            }
            Ok(LinkChange::Unknown) => {
                let why = format!(
                    "link '{}' can't be found: it was moved to another network namespace, or changed by others",
                    interface.ifname
                );
                let filter = interface.lasting.filter.as_ref();
                if filter.is_some_and(|filter| self.host.filter_is_in_force(filter).is_ok()) {
                    warn!("{mac}: {why}");
                } else {
                    self.link_is_elsewhere(index, &why);
                }
                LinkLook::Away
            }
            Err(error) => {
                warn!("{mac}: its link can't be looked at: {}", crate::chain(&error));
                LinkLook::Same
            }
        }
    }

    /// Tells of a link in another network namespace: a filter is one of ours, and can't be set there.
    fn link_is_elsewhere(&mut self, index: usize, why: &str) {
        let interface = &self.interfaces[index].interface;
        if interface.lasting.filter.is_none() {
            warn!("{}: {why}", interface.mac);
        } else if !interface.lasting.filter_lost {
            self.filter_is_lost(index, why);
            self.want_of_filter(index);
        }
    }

    /// The name of an interface's tap by QEMU's own descriptor of it, whatever network namespace it is in; none of one
    /// that was deleted, and of a macvtap.
    fn name_in_qemu(&self, index: usize) -> Option<IfName> {
        let (before, rest) = self.interfaces.split_at(index);
        let (plugged, after) = rest.split_first()?;
        let has = |plugged: &Plugged, fd: i32| {
            plugged.interface.devices.iter().any(|device| device.qemu_fd == Some(fd))
        };
        let held = raw_devices(self.qemu.id.pid).ok()?.into_iter();
        // A number may be another interface's by now.
        let is_its = |fd| has(plugged, fd) && !before.iter().chain(after).any(|other| has(other, fd));
        held.filter(|held| held.kind == DeviceKind::Tun && is_its(held.fd)).find_map(|held| held.ifname)
    }

    /// Sets the MAC of an interface's link back if it was changed; whether the interface is revoked for it.
    fn mac_changed(&mut self, index: usize) -> bool {
        let interface = &self.interfaces[index].interface;
        if interface.devices.is_empty() {
            return false;
        }
        let mac = interface.mac;
        let (other, outcome) = match self.host.set_mac_back(&interface.lasting) {
            Ok(None) => return false,
            Ok(Some(other)) => (format!("it was {other}, and is set back"), Outcome::Success),
            Err(error) => (format!("it can't be set back: {}", crate::chain(&error)), Outcome::Failed),
        };
        let plugged = &mut self.interfaces[index];
        let count = plugged.mac_changes.another();
        if count <= MAX_MAC_CHANGES {
            warn!("{mac}: the MAC of link '{}' was changed: {other}", plugged.interface.ifname);
            self.post_mac(index, Outcome::Failed);
            if outcome == Outcome::Success {
                self.post_mac(index, Outcome::Success);
            }
            return false;
        }
        if count == MAX_MAC_CHANGES + 1 {
            warn!(
                "{mac}: the MAC of its link is changed again and again: no more of it is told for a minute"
            );
        }
        // Without a filter it may send what it likes anyway.
        let revokes = self.revoke_unfiltered && self.interfaces[index].interface.lasting.filter.is_some();
        if revokes {
            self.revoke_for(index, "the MAC of its link is changed again and again");
        }
        revokes
    }

    /// Sets an interface's filter again if it is not in force any more.
    fn filter_changed(&mut self, index: usize, renamed: bool) {
        let interface = &self.interfaces[index].interface;
        let mac = interface.mac;
        let Some(filter) = interface.lasting.filter.clone() else { return };
        let now = generation();
        if !renamed && now.is_some() && now == interface.lasting.filter_seen {
            // What was announced is what we did ourselves.
            return;
        }
        let mut found = self.host.filter_is_in_force(&filter);
        let mut at = now;
        // A listing that others' changes came between says nothing.
        for _ in 0..MAX_FILTER_LOOKS {
            let now = generation();
            if found.is_ok() || now == at {
                break;
            }
            (at, found) = (now, self.host.filter_is_in_force(&filter));
        }
        let Err(lost) = found else {
            let lasting = &mut self.interfaces[index].interface.lasting;
            lasting.filter_seen = at;
            if std::mem::take(&mut lasting.filter_lost) {
                // Its link is back, and the kernel hooked the filter to it again.
                self.post_filter(index, Outcome::Success);
            }
            return;
        };
        // A chain goes with its interface, as at QEMU's end: nothing passes that it should have caught.
        let link = self.interfaces[index].interface.lasting.link.clone();
        if link.is_none_or(|link| self.host.name_of(&link).is_none()) {
            return;
        }
        self.filter_is_lost(index, &crate::chain(&lost));
        match self.host.set_filter(&filter) {
            Ok(seen) => {
                let lasting = &mut self.interfaces[index].interface.lasting;
                (lasting.filter_seen, lasting.filter_lost) = (seen, false);
                warn!("{mac}: its filter is set again; frames may have passed without it");
                self.post_filter(index, Outcome::Success);
            }
            Err(error) => {
                warn!("{mac}: its filter can't be set again: {}", crate::chain(&error));
                self.want_of_filter(index);
            }
        }
    }

    /// Tells that an interface's filter is not in force, once until it is set again.
    fn filter_is_lost(&mut self, index: usize, why: &str) {
        let interface = &mut self.interfaces[index].interface;
        interface.lasting.filter_seen = None;
        if !std::mem::replace(&mut interface.lasting.filter_lost, true) {
            warn!("{}: its filter is not in force: {why}", interface.mac);
            self.post_filter(index, Outcome::Failed);
        }
    }

    /// Revokes an interface whose filter can't be set, where that is asked for.
    fn want_of_filter(&mut self, index: usize) {
        if self.revoke_unfiltered {
            self.revoke_for(index, "its filter can't be set");
        }
    }

    fn revoke_for(&mut self, index: usize, why: &str) {
        let interface = &self.interfaces[index].interface;
        if interface.devices.is_empty() {
            return;
        }
        let (mac, id) = (interface.mac, interface.id.clone());
        self.overtake(&id);
        match self.release(index, true, None) {
            Ok(_) => warn!("{mac}: revoked: {why}"),
            Err(error) => warn!("{mac}: {error}"),
        }
        self.publish();
    }

    /// When to look again though nothing is announced; none where all is announced, and all filters are in force.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let left = LOOK_INTERVAL.saturating_sub(self.looked_at.elapsed());
        let lacks = self.interfaces.iter().any(|plugged| plugged.interface.lasting.lacks_filter());
        let wanted = lacks || (0..self.interfaces.len()).any(|index| self.is_unannounced(index));
        wanted.then_some(left)
    }

    /// Whether the kernel does not announce that an interface's devices are given up: a tap of ours goes with them.
    fn is_unannounced(&self, index: usize) -> bool {
        let interface = &self.interfaces[index].interface;
        let announced =
            self.host.changes.is_some() && interface.lasting.link.as_ref().is_some_and(HostLink::is_own_tap);
        // So is the last close of each, where the kernel tells last closes.
        let is_told = |device| self.host.last_close(device) == Some(LastClose::Awaited);
        !interface.devices.is_empty() && !announced && !interface.devices.iter().all(is_told)
    }

    /// Looks at the interfaces of which the kernel has told a last close that nobody waited for.
    pub(super) fn look_at_last_closes(&mut self) {
        if !self.host.hears_last_close() {
            return;
        }
        for index in (0..self.interfaces.len()).rev() {
            let is_closed = |device: &OpenDevice| {
                device.file.is_some() && self.host.last_close(device) != Some(LastClose::Awaited)
            };
            if self.interfaces[index].interface.devices.iter().any(is_closed) {
                self.given_up_unasked(index, Some(self.looked));
            }
        }
    }

    /// Closes the account of devices that QEMU gave up without us: its user has a monitor, too, and may delete a netdev
    /// there.
    pub(super) fn look_at_devices(&mut self) {
        self.look_at_changes();
        self.look_at_last_closes();
        self.take_events(EVENTS);
        for index in (0..self.interfaces.len()).rev() {
            if self.is_unannounced(index) {
                self.given_up_unasked(index, Some(self.looked));
            }
        }
        // A filter that could not be set may be set by now.
        let lacking = |plugged: &Plugged| {
            let lasting = &plugged.interface.lasting;
            lasting.link.as_ref().filter(|_| lasting.lacks_filter()).map(HostLink::index)
        };
        let links: Vec<_> = self.interfaces.iter().filter_map(lacking).collect();
        self.look_at_links(&Changed { links, ..Changed::default() }, Some(self.looked));
        (self.looked_at, self.looked) = (Instant::now(), Timestamp::now());
    }

    /// The same of one interface; whether all of its devices are given up. They were held at `since`; without it they
    /// are given up just now.
    fn given_up_unasked(&mut self, index: usize, since: Option<Timestamp>) -> bool {
        let plugged = &self.interfaces[index];
        if plugged.interface.devices.is_empty() || !self.qemu.id.is_alive() {
            return false;
        }
        let begun = Timestamp::now();
        let shown = self.look(index, false, Duration::ZERO);
        // At its end it closes one after the other, and all of it is accounted for together.
        if shown.iter().all(|shown| shown.is_held()) || self.is_ending() {
            return false;
        }
        // One that said SHUTDOWN and stays was waited for.
        let since = since.or(self.shutdown.map(|_| begun));
        let plugged = &mut self.interfaces[index];
        let interface = &mut plugged.interface;
        let mac = interface.mac;
        let (kept, over) = handover::part(std::mem::take(&mut interface.devices), shown);
        interface.devices = kept;
        let count = crate::descriptors(over.len());
        match over.iter().find_map(|device| device.doubt) {
            None => warn!("{mac}: QEMU gave {count} up without being asked to by taptrail"),
            Some(doubt) => warn!("{mac}: {count} closed, though QEMU may have them: {}", doubt.sentence()),
        }
        let all = interface.devices.is_empty();
        if all {
            self.host.undo(mac, &mut interface.lasting);
        }
        let ended = (all && !plugged.nic).then_some(interface.key);
        let posting = match since {
            None => Posting::default().closes(&self.account, &over),
            Some(since) => Posting::default().closes_unseen(&self.account, &over, since),
        };
        said(self.account.post(posting.over(ended)));
        if all {
            match plugged.state {
                // Whoever asked the guest hears of it when the NIC goes.
                PlugState::Unplugging { .. } => {}
                _ if plugged.nic => plugged.state = PlugState::Revoked,
                _ => self.remove(index),
            }
            self.publish();
        }
        all
    }

    /// Whether QEMU is about to end: it closes its netdevs before its process exits.
    fn is_ending(&self) -> bool {
        // With the user's own -no-shutdown it says so, and stays.
        is_exiting(self.qemu.id)
            || (self.shutdown.is_some() && self.qemu.pidfd.wait_exit(END_GRACE).is_ok_and(|ended| ended))
    }

    fn post_filter(&mut self, index: usize, outcome: Outcome) {
        self.post(index, outcome, |mac, device| Event::Filter { mac, device });
    }

    fn post_mac(&mut self, index: usize, outcome: Outcome) {
        self.post(index, outcome, |mac, device| Event::Mac { mac, device });
    }

    fn post(&mut self, index: usize, outcome: Outcome, event: impl Fn(MacAddr, Device) -> Event) {
        let interface = &self.interfaces[index].interface;
        let Some(device) = interface.devices.first() else { return };
        let record = self.account.record(event(interface.mac, device.device.clone()), outcome, None);
        said(self.account.post(Posting::default().says(record)));
    }
}
