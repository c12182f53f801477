//! Learns the addresses of interfaces while the guest runs.
//!
//! ```text
//!   a lease, a release, a first frame, the end of a lease
//!     ─▶ the file of addresses ─▶ one transaction of nftables, read back ─▶ record
//!                                   └─ refused: tried again every 10 s; until then the old rules
//! ```
//!
//! A lease that is prolonged changes the file alone.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{AddressChange, Event, FilterAddress, Outcome};
use tracing::{info, warn};

use super::{Driver, log_error};
use crate::account::{LedgerBatch, stored_rules};
use crate::learning::{KeptAddresses, Learning, LearntAddress, MAX_ADDRESSES, Received, Sighting};

impl Driver {
    /// Continues what another supervisor has learnt, before links and filters are checked.
    pub(super) fn resume_learning(&mut self) {
        let mut known = self.learnt.read().unwrap_or_else(|error| {
            warn!("the addresses that were learnt can't be read: {error}");
            Default::default()
        });
        for attached in &mut self.interfaces {
            let interface = &mut attached.interface;
            let (Some(choice), Some(link)) = (&interface.spec.filter, &interface.resources.link) else {
                continue;
            };
            let Some(reader) = choice.frame_reader(interface.mac) else { continue };
            let attachment = link.kind().attachment();
            let mut learning = Learning::new(reader, attachment, link.index());
            let kept = known.remove(&interface.mac.to_string()).unwrap_or_default();
            // Not what a reader learnt that believes others, before a change or for another interface.
            let kept = if kept.reader.is(&learning.reader) { kept } else { KeptAddresses::default() };
            (learning.addresses, learning.pending) = (kept.addresses, kept.pending);
            learning.addresses.truncate(MAX_ADDRESSES);
            if !learning.pending.is_empty() {
                learning.retry = Some(Instant::now());
            }
            // The rules on record are those before what is pending, unless the other supervisor ended
            // between setting them and recording that. Leases that have ended since end later.
            if !learning.pending.is_empty() {
                match choice.load_rules(interface.mac, attachment, &learning.values()) {
                    Ok(rules) => {
                        let filter = link.filter(rules);
                        if self.host.filter_is_in_force(&filter).is_ok() {
                            interface.resources.filter = Some(filter);
                        }
                    }
                    Err(error) => warn!(
                        "{}: the rules for its addresses can't be made: {}",
                        interface.mac,
                        crate::chain(&error)
                    ),
                }
            }
            interface.resources.learning = Some(learning);
        }
    }

    /// Starts the processes that read frames, where they don't run.
    pub(super) fn start_learning(&mut self) {
        for attached in &mut self.interfaces {
            attached.interface.resources.learning.iter_mut().for_each(Learning::start_or_retry);
        }
    }

    /// Takes what was learnt, ends leases, and tries again what failed.
    pub(super) fn check_learning(&mut self) {
        // Backwards, as an interface that is revoked may be removed from the list.
        for index in (0..self.interfaces.len()).rev() {
            while let Some(learning) = self.learning(index) {
                match learning.receive() {
                    Received::None => break,
                    Received::Sighting(sighting) => self.take_sighting(index, sighting),
                    Received::Ended => {
                        learning.failed();
                        let mac = learning.reader.mac;
                        warn!("{mac}: the process that learns its addresses has ended: it is started again");
                        break;
                    }
                }
            }
            let Some(learning) = self.learning(index) else { continue };
            let before = learning.pending.len();
            learning.lapse(Timestamp::now());
            let has_lapsed = learning.pending.len() > before;
            let is_due = learning.retry.is_some_and(|at| at <= Instant::now());
            if is_due {
                learning.retry = None;
                learning.start_or_retry();
            }
            if has_lapsed || (is_due && !learning.pending.is_empty()) {
                self.apply_addresses(index);
            }
        }
    }

    fn learning(&mut self, index: usize) -> Option<&mut Learning> {
        self.interfaces.get_mut(index)?.interface.resources.learning.as_mut()
    }

    /// How long until an address lapses, or something is tried again.
    pub(super) fn next_learning(&self) -> Option<Duration> {
        let now = Timestamp::now();
        let all =
            self.interfaces.iter().filter_map(|attached| attached.interface.resources.learning.as_ref());
        all.filter_map(|learning| learning.next_check(now)).min()
    }

    fn take_sighting(&mut self, index: usize, sighting: Sighting) {
        let interface = &mut self.interfaces[index].interface;
        let Some(learning) = &mut interface.resources.learning else { return };
        let found = learning.addresses.iter().position(|learnt| learnt.address == sighting.address());
        let change = match sighting {
            Sighting::Lease { address, server, seconds } => {
                let lasts =
                    |seconds| Timestamp::now().checked_add(SignedDuration::from_secs(i64::from(seconds)));
                let until = seconds.and_then(|seconds| lasts(seconds).ok());
                let learnt = LearntAddress { address, server: Some(server), until };
                if let Some(known) = found.and_then(|place| learning.addresses.get_mut(place)) {
                    *known = learnt;
                    self.keep_addresses();
                    self.publish();
                    return;
                }
                if learning.addresses.len() >= MAX_ADDRESSES {
                    if !std::mem::replace(&mut learning.is_full, true) {
                        warn!(
                            "{}: {address} is not learnt: an interface can have {MAX_ADDRESSES} addresses",
                            interface.mac
                        );
                    }
                    return;
                }
                learning.addresses.push(learnt);
                AddressChange::Leased { server, until: until.map(millis) }
            }
            Sighting::Release { .. } => {
                let Some(place) = found else { return };
                learning.addresses.remove(place);
                learning.is_full = false;
                AddressChange::Released
            }
            Sighting::First { address } => {
                if !learning.addresses.is_empty() {
                    return;
                }
                learning.addresses.push(LearntAddress { address, server: None, until: None });
                learning.stop_if_over();
                AddressChange::Seen
            }
        };
        learning.pending.push(FilterAddress { ip: sighting.address(), change });
        self.apply_addresses(index);
    }

    /// Sets the rules with the addresses that an interface has now, in place of those that it has.
    fn apply_addresses(&mut self, index: usize) {
        self.keep_addresses();
        let interface = &mut self.interfaces[index].interface;
        let mac = interface.mac;
        let resources = &mut interface.resources;
        let (Some(learning), Some(choice), Some(link)) =
            (&mut resources.learning, &interface.spec.filter, &resources.link)
        else {
            // The link may come back.
            return resources.learning.iter_mut().for_each(Learning::retry_later);
        };
        let loaded = choice.load_rules(mac, link.kind().attachment(), &learning.values());
        let filter = match loaded {
            Ok(rules) => link.filter(rules),
            Err(error) => {
                warn!("{mac}: its filter stays as it is, without the addresses: {}", crate::chain(&error));
                return learning.retry_later();
            }
        };
        let set = self.set_filter_to(index, Some(filter.clone()));
        let resources = &mut self.interfaces[index].interface.resources;
        let Some(learning) = &mut resources.learning else { return };
        match set {
            Ok(()) => {
                learning.retry = None;
                let changes = std::mem::take(&mut learning.pending);
                resources.now_has(Some(filter));
                self.post_addresses(index, &changes);
                self.keep_addresses();
            }
            Err(error) => {
                warn!("{mac}: its filter can't be set for its addresses: {}", crate::chain(&error));
                learning.retry_later();
                let is_in_force =
                    resources.filter.as_ref().is_some_and(|old| self.host.filter_is_in_force(old).is_ok());
                if !is_in_force {
                    // Something else than the old filter stands, or nothing.
                    resources.filter = Some(filter.clone());
                    self.filter_is_lost(index, "the rules for its addresses can't be set");
                    let _ = self.set_filter_again(index, &filter);
                }
            }
        }
    }

    fn post_addresses(&mut self, index: usize, changes: &[FilterAddress]) {
        let interface = &self.interfaces[index].interface;
        let mac = interface.mac;
        for FilterAddress { ip, change } in changes {
            match change {
                AddressChange::Leased { server, .. } => info!("{mac}: {ip} is leased to it by {server}"),
                AddressChange::Seen => info!("{mac}: {ip} is its address, from which it sent first"),
                AddressChange::Expired => {
                    info!("{mac}: {ip} is not its address any more: its lease has ended")
                }
                AddressChange::Released => info!("{mac}: {ip} is not its address any more: it was given up"),
            }
        }
        if let Some(device) = interface.devices.first() {
            let mut batch = LedgerBatch::default();
            for address in changes {
                let address = Some(*address);
                let event = Event::Filter { mac, device: device.device.clone(), address };
                batch = batch.record(self.account.record(event, Outcome::Success, None));
            }
            // By these rules the next supervisor goes.
            match interface.resources.filter.as_ref().map(|filter| stored_rules(&filter.rules)) {
                Some(Ok(rules)) => {
                    batch = batch.change_rules(interface.key, Some(rules));
                }
                Some(Err(error)) => warn!("{mac}: {}", crate::chain(&error)),
                None => {}
            }
            log_error(self.account.post(batch));
        }
        self.publish();
    }

    /// Writes the addresses of all interfaces to their file.
    pub(super) fn keep_addresses(&self) {
        let all = self.interfaces.iter();
        let all = all.filter_map(|attached| attached.interface.resources.learning.as_ref());
        if let Err(error) = self.learnt.write(all) {
            warn!("learnt addresses can't be written down for the next supervisor: {error}");
        }
    }
}

fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}
