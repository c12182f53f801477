//! Reacts to changes by others while the guest runs: to its links, its filters, and the devices
//! that QEMU holds.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::changes::Changed;
use taptrail_kernel::filter::{FilterError, InterfaceFilter, generation};
use taptrail_kernel::proc::{is_exiting, raw_devices};
use taptrail_record::{Device, DeviceKind, Event, IfName, MacAddr, Outcome, Requester};
use tracing::{info, warn};

use super::{AttachedInterface, Driver, MAX_EVENTS_PER_TURN, PlugState, log_error};
use crate::account::{LedgerBatch, OpenDevice};
use crate::handover::CheckedDevices;
use crate::host::LinkChange;
use crate::host_link::HostLink;
use crate::open_files::LastClose;

/// How often to check the devices that QEMU holds where the kernel does not notify of their
/// release: a macvtap and an existing tap stay when their descriptors are closed.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Attempts to verify a filter while others change nftables.
const MAX_FILTER_CHECKS: u32 = 5;

/// How long to wait for the end of a QEMU that emitted SHUTDOWN and closed its devices.
const END_GRACE: Duration = Duration::from_secs(2);

/// Changes of an interface's MAC that are recorded within the window: a QEMU can change it forever.
const MAX_MAC_CHANGES: u32 = 8;
const MAC_CHANGES_WINDOW: Duration = Duration::from_secs(60);

/// Counts changes of the MAC of an interface's link within the window.
#[derive(Debug, Default)]
pub(super) struct MacChanges {
    since: Option<Instant>,
    count: u32,
}

impl MacChanges {
    /// Counts one more change; returns how many there are.
    fn another(&mut self) -> u32 {
        if self.since.is_none_or(|since| since.elapsed() > MAC_CHANGES_WINDOW) {
            *self = Self { since: Some(Instant::now()), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// The result of a check of an interface's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkCheck {
    /// It has its name and its network namespace.
    Same,
    /// It has another name.
    Renamed,
    /// It was moved to another network namespace, or is gone.
    Away,
}

impl Driver {
    /// Checks all links and filters of this guest once, before the loop begins.
    pub(super) fn check_all_links(&mut self) {
        // Backwards, as an interface that is revoked may be removed from the list.
        for index in (0..self.interfaces.len()).rev() {
            if self.interfaces[index].interface.resources.unknown_filter.is_some() {
                self.filter_is_lost(index, "its rules are not known, so whether they hold can't be seen");
                self.revoke_if_unfiltered(index);
            }
        }
        let since = Some(self.last_check_time);
        self.check_links(&Changed { lost: true, ..Changed::default() }, since);
    }

    /// Reads the kernel's notifications, and checks this guest's links and filters that were
    /// changed.
    pub(super) fn check_changes(&mut self) {
        let Some(changes) = &mut self.host.changes else { return };
        let now = Timestamp::now();
        let changed = match changes.take() {
            Ok(changed) => changed,
            Err(error) => {
                warn!("changes of links and filters are no longer monitored: {error}");
                self.host.changes = None;
                return;
            }
        };
        // All notifications until now are handled here.
        let since = self.unread_since.replace(now);
        if changed != Changed::default() {
            // QEMU emits SHUTDOWN before it closes its devices: this comes first.
            self.take_events(MAX_EVENTS_PER_TURN);
            self.check_links(&changed, since);
        }
    }

    /// Checks links and filters that were changed. At `since` everything was in order; `None` means
    /// that the driver slept until the notification.
    fn check_links(&mut self, changed: &Changed, since: Option<Timestamp>) {
        // Backwards, as an interface that is released is removed from the list.
        for index in (0..self.interfaces.len()).rev() {
            let resources = &self.interfaces[index].interface.resources;
            let Some(number) = resources.link.as_ref().map(HostLink::index) else { continue };
            let is_changed = changed.lost || changed.links.contains(&number);
            let check = if is_changed { self.link_changed(index, since) } else { LinkCheck::Same };
            if check == LinkCheck::Away || (is_changed && self.mac_changed(index)) {
                continue;
            }
            let renamed = check == LinkCheck::Renamed;
            // A lost filter may be set by now, for example if its link is back.
            let lost = is_changed && self.interfaces[index].interface.resources.lacks_filter();
            if renamed || lost || changed.lost || changed.filters.contains(&number) {
                self.filter_changed(index, renamed);
            }
        }
    }

    /// Checks an interface's link; logs and records what has changed.
    fn link_changed(&mut self, index: usize, since: Option<Timestamp>) -> LinkCheck {
        let interface = &mut self.interfaces[index].interface;
        let mac = interface.mac;
        match self.host.refresh_link(&mut interface.resources) {
            Ok(LinkChange::None) => LinkCheck::Same,
            Ok(LinkChange::Renamed(name)) => {
                self.renamed(index, name);
                LinkCheck::Renamed
            }
            Ok(LinkChange::MovedKeys(namespace, name)) => {
                let why = format!(
                    "link '{}' was moved to another network namespace (number {namespace} here), where it is '{name}'",
                    interface.ifname
                );
                self.link_is_elsewhere(index, &why);
                LinkCheck::Away
            }
            Ok(LinkChange::Gone) => {
                if let Some(name) = self.name_in_qemu(index) {
                    let ifname = &self.interfaces[index].interface.ifname;
                    let why = format!("link '{ifname}' is not here, and QEMU holds it as '{name}'");
                    self.link_is_elsewhere(index, &why);
                    return LinkCheck::Away;
                }
                // For an existing link there was no notification of the release: the last check
                // counts.
                let since = if self.is_unannounced(index) { Some(self.last_check_time) } else { since };
                let interface = &self.interfaces[index].interface;
                // A tap of ours goes with its last descriptor, which QEMU may have closed by a
                // command of the user's own monitor.
                let ifname = interface.ifname.clone();
                if !self.record_unrequested_release(index, since) && !is_exiting(self.qemu.id) {
                    warn!("{mac}: link '{ifname}' was deleted: no frame passes any more");
                    self.note_cut(index);
                }
                LinkCheck::Away
            }
            Ok(LinkChange::Unknown) => {
                let why = format!(
                    "link '{}' can't be found: it was moved to another network namespace, or changed by others",
                    interface.ifname
                );
                let filter = interface.resources.filter.as_ref();
                if filter.is_some_and(|filter| self.host.filter_is_in_force(filter).is_ok()) {
                    warn!("{mac}: {why}");
                } else {
                    self.link_is_elsewhere(index, &why);
                }
                LinkCheck::Away
            }
            Err(error) => {
                warn!("{mac}: its link can't be looked at: {}", crate::chain(&error));
                LinkCheck::Same
            }
        }
    }

    /// Takes over the new name of an interface's link.
    pub(super) fn renamed(&mut self, index: usize, name: IfName) {
        let interface = &mut self.interfaces[index].interface;
        info!("{}: link '{}' was renamed: it is '{name}' now", interface.mac, interface.ifname);
        interface.ifname = name;
        self.publish();
    }

    /// Handles a link in another network namespace: its filter can't be set there.
    fn link_is_elsewhere(&mut self, index: usize, why: &str) {
        let interface = &self.interfaces[index].interface;
        if interface.resources.filter.is_none() {
            warn!("{}: {why}", interface.mac);
        } else if !interface.resources.filter_lost {
            self.filter_is_lost(index, why);
            self.revoke_if_unfiltered(index);
        }
    }

    /// The current name of an interface's tap, by QEMU's descriptor of it, in whatever network
    /// namespace it is. `None` for a deleted tap, and for a macvtap.
    fn name_in_qemu(&self, index: usize) -> Option<IfName> {
        let (before, rest) = self.interfaces.split_at(index);
        let (attached, after) = rest.split_first()?;
        let has = |attached: &AttachedInterface, fd: i32| {
            attached.interface.devices.iter().any(|device| device.qemu_fd == Some(fd))
        };
        let held = raw_devices(self.qemu.id.pid).ok()?.into_iter();
        // The descriptor number may be another interface's by now.
        let is_its = |fd| has(attached, fd) && !before.iter().chain(after).any(|other| has(other, fd));
        held.filter(|held| held.kind == DeviceKind::Tun && is_its(held.fd)).find_map(|held| held.ifname)
    }

    /// Restores the MAC of an interface's link if it was changed; returns whether the interface was
    /// revoked for it.
    fn mac_changed(&mut self, index: usize) -> bool {
        let interface = &self.interfaces[index].interface;
        if interface.devices.is_empty() {
            return false;
        }
        let mac = interface.mac;
        let (other, outcome) = match self.host.restore_mac(&interface.resources) {
            Ok(None) => return false,
            Ok(Some(other)) => (format!("it was {other}, and is set back"), Outcome::Success),
            Err(error) => (format!("it can't be set back: {}", crate::chain(&error)), Outcome::Failed),
        };
        let attached = &mut self.interfaces[index];
        let count = attached.mac_changes.another();
        if count <= MAX_MAC_CHANGES {
            warn!("{mac}: the MAC of link '{}' was changed: {other}", attached.interface.ifname);
            self.post_mac(index, Outcome::Failed);
            if outcome == Outcome::Success {
                self.post_mac(index, Outcome::Success);
            }
            return false;
        }
        if count == MAX_MAC_CHANGES + 1 {
            warn!(
                "{mac}: the MAC of its link is changed again and again: further changes are not logged for a minute"
            );
        }
        // Without a filter the guest may use any MAC anyway.
        let revokes = self.revoke_unfiltered && self.interfaces[index].interface.resources.filter.is_some();
        if revokes {
            self.revoke_for(index, "the MAC of its link is changed again and again");
        }
        revokes
    }

    /// Sets an interface's filter again if it is no longer in force.
    fn filter_changed(&mut self, index: usize, renamed: bool) {
        let interface = &self.interfaces[index].interface;
        let Some(filter) = interface.resources.filter.clone() else { return };
        let now = generation();
        if !renamed && now.is_some() && now == interface.resources.filter_seen {
            // The notification is of our own change.
            return;
        }
        let mut found = self.host.filter_is_in_force(&filter);
        let mut at = now;
        // A listing is inconclusive if others changed nftables meanwhile.
        for _ in 0..MAX_FILTER_CHECKS {
            let now = generation();
            if found.is_ok() || now == at {
                break;
            }
            (at, found) = (now, self.host.filter_is_in_force(&filter));
        }
        let Err(lost) = found else {
            let resources = &mut self.interfaces[index].interface.resources;
            resources.filter_seen = at;
            if std::mem::take(&mut resources.filter_lost) {
                // Its link is back, and the kernel has attached the filter to it again.
                self.post_filter(index, Outcome::Success, None);
            }
            return;
        };
        // A chain goes with its interface, as at QEMU's end: no frame passes without it.
        let link = self.interfaces[index].interface.resources.link.clone();
        if link.is_none_or(|link| self.host.name_of(&link).is_none()) {
            return;
        }
        self.filter_is_lost(index, &crate::chain(&lost));
        let _ = self.set_filter_again(index, &filter);
    }

    /// Sets a filter that is not in force again, on record; where that fails, the interface lacks it.
    pub(super) fn set_filter_again(
        &mut self,
        index: usize,
        filter: &InterfaceFilter,
    ) -> Result<(), FilterError> {
        let set = self.host.set_filter(filter);
        let interface = &mut self.interfaces[index].interface;
        let mac = interface.mac;
        interface.resources.filter_lost = set.is_err();
        match set {
            Ok(seen) => {
                interface.resources.filter_seen = seen;
                warn!("{mac}: its filter is set again; frames may have passed without it");
                self.post_filter(index, Outcome::Success, None);
                Ok(())
            }
            Err(error) => {
                interface.resources.filter_seen = None;
                warn!("{mac}: its filter can't be set again: {}", crate::chain(&error));
                self.revoke_if_unfiltered(index);
                Err(error)
            }
        }
    }

    /// Logs and records that an interface's filter is not in force; once until it is set again.
    pub(super) fn filter_is_lost(&mut self, index: usize, why: &str) {
        let interface = &mut self.interfaces[index].interface;
        interface.resources.filter_seen = None;
        if !std::mem::replace(&mut interface.resources.filter_lost, true) {
            warn!("{}: its filter is not in force: {why}", interface.mac);
            self.post_filter(index, Outcome::Failed, None);
        }
    }

    /// Revokes an interface whose filter can't be set, with `--revoke-unfiltered`.
    pub(super) fn revoke_if_unfiltered(&mut self, index: usize) {
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
        self.cancel_detach(&id);
        match self.release(index, true, None) {
            Ok(_) => warn!("{mac}: revoked: {why}"),
            Err(error) => warn!("{mac}: {error}"),
        }
        self.publish();
    }

    /// The time until the next periodic check; `None` if the kernel notifies of everything, and all
    /// filters are in force.
    pub(super) fn next_check(&self) -> Option<Duration> {
        let left = CHECK_INTERVAL.saturating_sub(self.last_check.elapsed());
        let lacks = self.interfaces.iter().any(|attached| attached.interface.resources.lacks_filter());
        let wanted = lacks || (0..self.interfaces.len()).any(|index| self.is_unannounced(index));
        wanted.then_some(left)
    }

    /// Whether the kernel does not notify of the release of an interface's devices. It does for a
    /// tap of ours, which goes with them.
    fn is_unannounced(&self, index: usize) -> bool {
        let interface = &self.interfaces[index].interface;
        let announced = self.host.changes.is_some()
            && interface.resources.link.as_ref().is_some_and(HostLink::is_own_tap);
        // It also does where it reports last closes.
        let is_told = |device| self.host.last_close(device) == Some(LastClose::Awaited);
        !interface.devices.is_empty() && !announced && !interface.devices.iter().all(is_told)
    }

    /// Checks the interfaces of which the kernel has reported an unexpected last close.
    pub(super) fn check_last_closes(&mut self) {
        if !self.host.take_last_closes() {
            return;
        }
        for index in (0..self.interfaces.len()).rev() {
            let is_closed = |device: &OpenDevice| {
                device.file.is_some() && self.host.last_close(device) != Some(LastClose::Awaited)
            };
            if self.interfaces[index].interface.devices.iter().any(is_closed) {
                self.record_unrequested_release(index, Some(self.last_check_time));
            }
        }
    }

    /// Finds and records devices that QEMU has released without a request: the user may have a
    /// monitor, too, and delete a netdev there.
    pub(super) fn check_devices(&mut self) {
        self.check_changes();
        self.check_last_closes();
        self.take_events(MAX_EVENTS_PER_TURN);
        for index in (0..self.interfaces.len()).rev() {
            if self.is_unannounced(index) {
                self.record_unrequested_release(index, Some(self.last_check_time));
            }
        }
        // A filter that could not be set may be set by now.
        let lacking = |attached: &AttachedInterface| {
            let resources = &attached.interface.resources;
            resources.link.as_ref().filter(|_| resources.lacks_filter()).map(HostLink::index)
        };
        let links: Vec<_> = self.interfaces.iter().filter_map(lacking).collect();
        self.check_links(&Changed { links, ..Changed::default() }, Some(self.last_check_time));
        (self.last_check, self.last_check_time) = (Instant::now(), Timestamp::now());
    }

    /// Checks one interface for released devices, and records them; returns whether all are
    /// released. They were held at `since`; `None` means that they were released just now.
    fn record_unrequested_release(&mut self, index: usize, since: Option<Timestamp>) -> bool {
        let attached = &self.interfaces[index];
        if attached.interface.devices.is_empty() || !self.qemu.id.is_alive() {
            return false;
        }
        let begun = Timestamp::now();
        let evidence = self.check_released(index, false, Duration::ZERO);
        // An ending QEMU closes its devices one by one; `end` records them together.
        if evidence.iter().all(|evidence| evidence.is_held()) || self.is_ending() {
            return false;
        }
        // QEMU emitted SHUTDOWN and did not end: the wait has taken time.
        let since = since.or(self.shutdown.map(|_| begun));
        let attached = &mut self.interfaces[index];
        let interface = &mut attached.interface;
        let mac = interface.mac;
        let checked = CheckedDevices::new(std::mem::take(&mut interface.devices), evidence);
        checked.undo(mac, &mut interface.resources, &mut self.host, false);
        let (all, ended) = (checked.all_closed(), checked.ended(interface.key, attached.nic));
        let CheckedDevices { kept, closed } = checked;
        interface.devices = kept;
        let count = crate::descriptors(closed.len());
        match closed.iter().find_map(|device| device.doubt) {
            None => warn!("{mac}: QEMU gave {count} up without being asked to by taptrail"),
            Some(doubt) => warn!("{mac}: {count} closed, though QEMU may have them: {}", doubt.sentence()),
        }
        let batch = match since {
            None => LedgerBatch::default().close_devices(&self.account, &closed),
            Some(since) => LedgerBatch::default().close_devices_unseen(&self.account, &closed, since),
        };
        log_error(self.account.post(batch.end_interfaces(ended)));
        if all {
            match attached.state {
                // The client of the detach gets its answer when the NIC is unplugged.
                PlugState::Unplugging { .. } => {}
                _ if attached.nic => attached.state = PlugState::Revoked,
                _ => self.remove(index),
            }
            self.publish();
        }
        all
    }

    /// Whether QEMU is about to end: it closes its netdevs before its process exits.
    fn is_ending(&self) -> bool {
        // With the user's own -no-shutdown QEMU emits SHUTDOWN and does not end.
        is_exiting(self.qemu.id)
            || (self.shutdown.is_some() && self.qemu.pidfd.wait_exit(END_GRACE).is_ok_and(|ended| ended))
    }

    pub(super) fn post_filter(&mut self, index: usize, outcome: Outcome, requester: Option<Requester>) {
        self.post(index, outcome, requester, |mac, device| Event::Filter { mac, device, address: None });
    }

    fn post_mac(&mut self, index: usize, outcome: Outcome) {
        self.post(index, outcome, None, |mac, device| Event::Mac { mac, device });
    }

    fn post(
        &mut self,
        index: usize,
        outcome: Outcome,
        requester: Option<Requester>,
        event: impl Fn(MacAddr, Device) -> Event,
    ) {
        let interface = &self.interfaces[index].interface;
        let Some(device) = interface.devices.first() else { return };
        let record = self.account.record(event(interface.mac, device.device.clone()), outcome, requester);
        log_error(self.account.post(LedgerBatch::default().record(record)));
    }
}
