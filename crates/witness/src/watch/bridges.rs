//! Watches which bridge each tap is a port of. A manager may change it without a record: libvirt
//! does so since version 10.8, and a change that fails leaves the tap in no bridge.
//!
//! QEMU keeps its descriptors, and nothing is released. So a change is only an event, and not a
//! record.

use std::collections::HashMap;
use std::time::Instant;

use taptrail_kernel::link::{LinkError, Links};
use taptrail_kernel::proc::network_namespace;
use taptrail_record::{Device, DeviceKind, MacAddr};
use tracing::warn;

use super::guest::{GuestInstance, LookContext};
use super::look::PENDING_LOOK_INTERVAL;
use super::{EventKind, Watcher};

/// The master of each link in our network namespace, by its index.
#[derive(Debug, Default)]
pub(super) struct BridgePorts {
    netns: Option<u64>,
    masters: HashMap<u32, Option<String>>,
}

/// The bridge of a tap when it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenPort {
    master: Option<String>,
    /// Since when it is in no bridge: during a change it is out of one bridge before it is in the
    /// other.
    without: Option<Instant>,
}

/// A tap that is in another bridge than before, or in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgeChange {
    pub(super) mac: Option<MacAddr>,
    pub(super) device: Device,
    pub(super) vm_pid: u32,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

impl BridgePorts {
    /// Reads all of them from the kernel in one request.
    pub(super) fn read() -> Result<Self, LinkError> {
        let links = Links::open()?.all()?;
        let names: HashMap<u32, &str> = links.iter().map(|link| (link.index, &*link.name)).collect();
        let master = |index: u32| {
            names.get(&index).map_or_else(|| format!("number {index}"), |name| (*name).to_owned())
        };
        let masters = links.iter().map(|link| (link.index, link.master.map(master))).collect();
        Ok(Self { netns: network_namespace().ok(), masters })
    }
}

impl SeenPort {
    pub(super) fn of(master: Option<String>) -> Self {
        Self { master, without: None }
    }
}

impl GuestInstance {
    /// Whether the guest has taps.
    pub(super) fn has_taps(&self) -> bool {
        self.held.iter().any(|known| known.descriptor.device.kind == DeviceKind::Tun)
    }

    /// The taps that are in another bridge than before; and whether one is in no bridge for the
    /// moment, so that it must be read again soon.
    pub(super) fn bridge_changes(
        &mut self,
        ports: &BridgePorts,
        now: LookContext,
    ) -> (Vec<BridgeChange>, bool) {
        let (mut changes, mut is_pending): (Vec<(u32, BridgeChange)>, _) = (Vec::new(), false);
        if self.is_stopped() {
            return (Vec::new(), false);
        }
        let interfaces = &self.interfaces;
        for known in &mut self.held {
            let descriptor = &known.descriptor;
            let leaves = interfaces.pending_detaches.iter().any(|detach| Some(detach.mac) == descriptor.mac);
            let link = known.link.filter(|link| link.netns.is_some() && link.netns == ports.netns);
            let (Some(link), DeviceKind::Tun, false) = (link, descriptor.device.kind, leaves) else {
                continue;
            };
            // The link is gone, and its descriptors with it.
            let Some(master) = ports.masters.get(&link.index) else { continue };
            let Some(port) = &mut known.port else {
                known.port = Some(SeenPort::of(master.clone()));
                continue;
            };
            if port.master == *master {
                port.without = None;
                continue;
            }
            if master.is_none() {
                let since = *port.without.get_or_insert(now.instant);
                if now.instant.duration_since(since) < now.patience {
                    is_pending = true;
                    continue;
                }
            }
            let from = std::mem::replace(port, SeenPort::of(master.clone())).master;
            // Each queue has a descriptor; all of them have one interface.
            if !changes.iter().any(|(index, _)| *index == link.index) {
                let (mac, device, vm_pid) = (descriptor.mac, descriptor.device.clone(), descriptor.vm_pid);
                changes.push((link.index, BridgeChange { mac, device, vm_pid, from, to: master.clone() }));
            }
        }
        (changes.into_iter().map(|(_, change)| change).collect(), is_pending)
    }
}

impl Watcher {
    /// When the taps' bridges are due to be read; none if there are no taps.
    pub(super) fn bridges_due(&self) -> Option<Instant> {
        self.guests.values().any(GuestInstance::has_taps).then_some(self.bridges_due)
    }

    /// Reads the bridges of all guests' taps, in one request to the kernel for all guests.
    pub(super) fn look_at_bridges(&mut self, now: LookContext) {
        if self.bridges_due().is_none_or(|due| due > now.instant) {
            return;
        }
        self.bridges_due = now.instant + now.every;
        let ports = match BridgePorts::read() {
            Ok(ports) => ports,
            Err(error) => return warn!("The bridges of guests' taps can't be seen: {error}"),
        };
        let mut changed = Vec::new();
        for guest in self.guests.values_mut() {
            let (changes, is_pending) = guest.bridge_changes(&ports, now);
            if is_pending {
                self.bridges_due = now.instant + now.every.min(PENDING_LOOK_INTERVAL);
            }
            changed.extend(changes.into_iter().map(|change| (guest.id.clone(), change)));
        }
        for (guest, change) in changed {
            let BridgeChange { mac, device, vm_pid, from, to } = change;
            self.emit(EventKind::BridgeChanged { guest, mac, device, vm_pid, from, to });
        }
    }
}
