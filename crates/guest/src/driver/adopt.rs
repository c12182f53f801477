//! Adopts a guest whose supervisor has ended.
//!
//! ```text
//!   the ledger: what was on record ─┐
//!   /proc: what QEMU holds ─────────┼─▶ each interface: held, cut off, released unseen, revoked ─▶ Running
//!   QEMU's monitor: which NICs ─────┘
//! ```
//!
//! The ledger is verified: a device counts as held only if QEMU shows it under its number. An
//! interrupted attach is rolled back, an interrupted release is finished, and a device that was
//! released meanwhile is closed with the time span of its release. Working interfaces stay as they
//! are.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_kernel::proc::{PidFd, ProcessId, ProcessStatus, boot_id, network_namespace};
use taptrail_kernel::process::sandbox_after_start;
use taptrail_ledger::{Guest, InterfaceKey, LiveInterface, LiveStep, Step, StepKey};
use taptrail_qmp::{Monitor, QmpError};
use taptrail_record::{Event, Outcome};
use tracing::{info, warn};

use super::names::{descriptor_name, netdev_id};
use super::qemu::Qemu;
use super::release::{ReleaseKind, failed_attach, state_after};
use super::{
    AdoptError, AdoptOptions, AttachedInterface, Driver, MONITOR_TIMEOUT, PlugState, Port, log_error,
};
use crate::account::{Account, LedgerBatch, Live, OpenDevice, live_guests, process_id};
use crate::handover::{self, CheckedDevices, OpenFileCounts, ReleaseCheck};
use crate::host::{Host, HostResources};
use crate::interface::Interface;
use crate::learning::LearntFile;
use crate::qemu::{Ports, VirtioBus};
use crate::qemu_devices;
use crate::request::Inbox;
use crate::run_dir::Dirs;
use crate::spec::{Backend, NicSpec};
use crate::state::GuestState;

/// The guest of this name in the ledger, if its QEMU runs.
pub(crate) fn orphan(dirs: &Dirs, name: &str) -> Result<Option<(Guest, ProcessId)>, AdoptError> {
    let boot = boot_id().map_err(AdoptError::Look)?.to_string();
    let mut guests = live_guests(dirs)?.into_iter();
    // The ledger may have several guests of this name.
    let last = guests.rfind(|guest| guest.id.name == name && guest.boot_id == boot);
    let running = |guest: Guest| {
        let qemu = guest.qemu.map(process_id)?;
        qemu.is_alive().then_some((guest, qemu))
    };
    Ok(last.and_then(running))
}

/// Refuses --allow for QEMU's own user.
pub(crate) fn check_callers(options: &AdoptOptions, qemu: ProcessId) -> Result<(), AdoptError> {
    let uid = ProcessStatus::of(qemu.pid).map_err(AdoptError::Look)?.uid;
    if uid != 0 && options.allow.contains(&uid) { Err(AdoptError::Caller(uid)) } else { Ok(()) }
}

pub(super) fn adopt(options: &AdoptOptions, monitor: &Path, inbox: &Inbox) -> Result<Driver, AdoptError> {
    let name = || options.name.clone();
    let Some((guest, id)) = orphan(&options.dirs, &options.name)? else {
        return Err(AdoptError::Unknown(name()));
    };
    let pidfd = PidFd::open(id).map_err(|_| AdoptError::Ended(name()))?;
    let mut account = Account::take_up(&options.dirs.state, options.audit, &guest)?;
    account.publish_to(inbox.events());
    let mut live = account.live()?;
    if live.steps.iter().any(|step| step.step == Step::Start) {
        return Err(AdoptError::Unfinished(name()));
    }
    let here = network_namespace().map_err(AdoptError::Look)?;
    if let Some(netns) = live.netns.filter(|netns| *netns != here) {
        return Err(AdoptError::Elsewhere { name: name(), netns });
    }
    let mut host = Host::open(&options.dirs.run, options.nft.clone())?;
    if options.bpf {
        host.enable_last_closes();
    }
    let mut monitor = Monitor::connect(monitor, Instant::now() + MONITOR_TIMEOUT)?;
    let status = monitor.query_status(MONITOR_TIMEOUT)?;
    let nics = monitor.device_ids(MONITOR_TIMEOUT)?;
    // It decides nothing but which model `virtio` is.
    let virtio_bus = monitor.machine(MONITOR_TIMEOUT)?.map_or(VirtioBus::Pci, |machine| {
        VirtioBus::of_machine(&machine.architecture, Some(&machine.kind), machine.pcie)
    });
    host.find_files(id, &mut live.granted);
    sandbox_after_start(host.needs_bpf()).map_err(AdoptError::Restrain)?;
    account.adopt()?;
    inbox.publish(|snapshot| {
        snapshot.state = GuestState::Running;
        snapshot.pid = Some(id.pid);
        snapshot.since = Some(guest.begun);
    });
    let driver = Driver {
        account,
        host,
        qemu: Qemu::adopted(id, pidfd, monitor),
        inbox: inbox.clone(),
        interfaces: Vec::new(),
        ports: ports(&nics),
        virtio_bus,
        pending: None,
        paused: !status.running,
        forced: false,
        stop: None,
        stopped_by: None,
        shutdown: None,
        last_check: Instant::now(),
        last_check_time: Timestamp::now(),
        unread_since: Some(Timestamp::now()),
        revoke_unfiltered: options.revoke_unfiltered,
        learnt: LearntFile::of(&options.dirs, &options.name),
    };
    let unstarted = status.status == "prelaunch" && !live.paused;
    let mut driver = driver.adopt_interfaces(live, &nics)?;
    if unstarted {
        // The previous supervisor granted its devices, and ended before it let the guest run.
        driver.qemu.monitor.cont(MONITOR_TIMEOUT)?;
        driver.paused = false;
    }
    driver.publish();
    info!(
        "'{}' is taken up: {} held by QEMU (pid {})",
        options.name,
        crate::descriptors(driver.devices().count()),
        id.pid
    );
    Ok(driver)
}

/// The ports among these devices that taptrail made, all marked as free.
fn ports(devices: &[String]) -> Vec<Port> {
    let all = Ports::new(Ports::LIMIT).names.into_iter();
    let there = all.filter(|name| devices.contains(name));
    there.map(|name| Port { name, taken: false }).collect()
}

/// One interface in the ledger, with its devices and unfinished steps.
struct RecordedInterface {
    row: LiveInterface,
    spec: NicSpec,
    granted: Vec<OpenDevice>,
    /// Devices that were opened, and not yet seen in QEMU.
    opened: Vec<OpenDevice>,
    steps: Vec<LiveStep>,
    /// The NIC is plugged in QEMU.
    nic: bool,
    /// A later interface has its MAC, and so its link.
    superseded: bool,
}

impl RecordedInterface {
    fn keys(&self) -> Vec<StepKey> {
        self.steps.iter().map(|step| step.key).collect()
    }

    fn release(&self) -> Option<&LiveStep> {
        self.steps.iter().find(|step| step.step == Step::Release)
    }

    fn update(&self) -> Option<&LiveStep> {
        self.steps.iter().find(|step| step.step == Step::Update)
    }
}

/// A release that was interrupted.
struct UnfinishedRelease {
    key: InterfaceKey,
    forced: bool,
}

impl Driver {
    /// Adopts, rolls back or ends each interface in the ledger.
    fn adopt_interfaces(mut self, mut live: Live, nics: &[String]) -> Result<Self, AdoptError> {
        let known = live.granted.clone();
        let rows = std::mem::take(&mut live.interfaces);
        let mut unfinished = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let spec: NicSpec =
                row.spec.parse().map_err(|source| AdoptError::Spec { mac: row.mac, source })?;
            // A revoked interface's MAC may have been attached again: then its devices and steps
            // are the later one's.
            let later = rows[number + 1..].iter().any(|other| other.mac == row.mac);
            let mac = (!later).then_some(row.mac);
            let of = |devices: &mut Vec<OpenDevice>| {
                devices.extract_if(.., |device| Some(device.mac) == mac).collect::<Vec<_>>()
            };
            let record = RecordedInterface {
                spec,
                granted: of(&mut live.granted),
                opened: of(&mut live.opened),
                steps: live.steps.extract_if(.., |step| step.mac.is_some() && step.mac == mac).collect(),
                nic: nics.contains(&row.nic) && self.is_ours(&row.nic)?,
                row: row.clone(),
                superseded: later,
            };
            let cut_off = record.steps.iter().any(|step| matches!(step.step, Step::Open | Step::HandOver));
            if cut_off || !record.opened.is_empty() {
                self.take_back_cut_off(record, &known, &live)?;
            } else {
                unfinished.extend(self.adopt_granted(record, &known, &live)?);
            }
        }
        // Finished last: a device that QEMU shows may be another interface's, and now all are
        // known.
        for UnfinishedRelease { key, forced } in unfinished {
            if let Some(index) = self.interfaces.iter().position(|attached| attached.interface.key == key) {
                self.finish(index, forced);
            }
        }
        // The remaining steps are the guest's own, such as a stop, whose client is gone.
        let rest: Vec<_> = live.steps.iter().map(|step| step.key).collect();
        if !rest.is_empty() {
            log_error(self.account.post(LedgerBatch::default().complete_steps(&rest, "cut off")));
        }
        // A tap is gone with its last descriptor; its filter is found by the interface index in its
        // name alone.
        if let Err(error) = self.host.sweep_filters() {
            warn!("{}", crate::chain(&error));
        }
        Ok(self)
    }

    /// Whether the device with this id is a NIC of ours: one on the netdev that we would have given
    /// it.
    fn is_ours(&mut self, id: &str) -> Result<bool, AdoptError> {
        match self.qemu.monitor.netdev_id(id, MONITOR_TIMEOUT) {
            Ok(backend) => Ok(backend == netdev_id(id)),
            Err(QmpError::Refused { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Rolls back an interrupted attach, at whatever step it was.
    fn take_back_cut_off(
        &mut self,
        mut record: RecordedInterface,
        known: &[OpenDevice],
        live: &Live,
    ) -> Result<(), AdoptError> {
        let connections: Vec<_> = known.iter().filter_map(|device| device.connection).collect();
        for device in &mut record.opened {
            // Seen now, it is followed, whatever is at the path.
            if let Some(file) = &device.socket
                && let Some(found) = qemu_devices::find_connection(&self.qemu.id, file, &connections)
                    .map_err(AdoptError::Look)?
            {
                device.is_found(found);
            }
        }
        let RecordedInterface { ref row, ref spec, nic, .. } = record;
        let (mac, id) = (row.mac, &row.nic);
        // QEMU may refuse each, because that step was not reached: what counts is the check below.
        if nic {
            let _ = self.qemu.monitor.device_del(id, MONITOR_TIMEOUT);
        }
        let _ = self.delete_netdev(spec, id, MONITOR_TIMEOUT);
        if let Backend::VhostUser(_) = spec.backend {
            let _ = self.qemu.monitor.chardev_remove(&netdev_id(id), MONITOR_TIMEOUT);
        }
        for number in 0..2 * usize::from(spec.queues.get()) {
            let _ = self.qemu.monitor.closefd(&descriptor_name(id, number), MONITOR_TIMEOUT);
        }
        let guest = self.account.guest().clone();
        let seen = self.wait_until_closed(known, &record.opened)?.iter().any(Option::is_some);
        let mut resources = self.host.find_left_over(&guest, row, spec, seen)?;
        let release = ReleaseCheck {
            qemu: Some(&self.qemu.id),
            devices: &record.opened,
            link: resources.link.as_ref(),
            link_shows: resources.link.is_some() || spec.makes_link(),
            cut: false,
            asked: true,
            others: known,
            earlier_sockets: &[],
            grace: Duration::ZERO,
        };
        let evidence = release.run(&mut self.host, &mut OpenFileCounts::default());
        let checked = CheckedDevices::new(record.opened.clone(), evidence);
        checked.undo(mac, &mut resources, &mut self.host, spec.makes_link());
        let batch = failed_attach(&checked, mac, self.qemu.id.pid, &self.account, None)
            .close_devices_unseen(&self.account, &checked.closed, live.last_observed)
            .end_interfaces(checked.ended(row.key, nic))
            .complete_steps(&record.keys(), "cut off");
        self.account.post(batch)?;
        warn!("{mac}: its attach was interrupted, and is rolled back");
        if !checked.all_closed() || nic {
            let state = state_after(&checked);
            self.plug(&record, checked.kept, state)?;
        }
        Ok(())
    }

    /// Waits for a moment until QEMU has closed `devices`, whose numbers are not recorded; returns
    /// the numbers of those that it holds.
    fn wait_until_closed(
        &self,
        known: &[OpenDevice],
        devices: &[OpenDevice],
    ) -> Result<Vec<Option<i32>>, AdoptError> {
        let end = Instant::now() + handover::RELEASE_GRACE;
        loop {
            let held = qemu_devices::find_among_unexpected(&self.qemu.id, known, devices)
                .map_err(AdoptError::Look)?;
            if held.iter().all(Option::is_none) || Instant::now() >= end {
                return Ok(held);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Adopts a granted interface; returns a release that has to be finished.
    fn adopt_granted(
        &mut self,
        record: RecordedInterface,
        known: &[OpenDevice],
        live: &Live,
    ) -> Result<Option<UnfinishedRelease>, AdoptError> {
        let mac = record.row.mac;
        let guest = self.account.guest().clone();
        let mut resources = match record.superseded {
            true => HostResources::default(),
            false => self.host.find_left_over(&guest, &record.row, &record.spec, true)?,
        };
        let others: Vec<_> = known.iter().filter(|device| device.mac != mac).cloned().collect();
        let release = ReleaseCheck {
            qemu: Some(&self.qemu.id),
            devices: &record.granted,
            link: resources.link.as_ref(),
            link_shows: resources.link.is_some() || record.spec.makes_link(),
            cut: false,
            asked: false,
            others: &others,
            earlier_sockets: &[],
            grace: Duration::ZERO,
        };
        let evidence = release.run(&mut self.host, &mut OpenFileCounts::default());
        let checked = CheckedDevices::new(record.granted.clone(), evidence);
        let mut batch = LedgerBatch::default()
            .close_devices_unseen(&self.account, &checked.closed, live.last_observed)
            .end_interfaces(checked.ended(record.row.key, record.nic));
        checked.undo(mac, &mut resources, &mut self.host, false);
        let all_closed = checked.all_closed();
        let CheckedDevices { kept, closed: gone } = checked;
        if !gone.is_empty() {
            warn!("{mac}: {} released while no supervisor ran", crate::descriptors(gone.len()));
        }
        if all_closed {
            if let Some(step) = record.release().filter(|_| !gone.is_empty()) {
                let forced = ReleaseKind::of(step) == ReleaseKind::Revoke;
                let fds = u32::try_from(gone.len()).ok();
                let event = Event::Detach { mac, vm_pid: Some(self.qemu.id.pid), fds, forced };
                batch = batch.record(self.account.record(event, Outcome::Success, None));
            }
            // What was half changed is gone, and whether it was changed is not known.
            let batch = batch.complete_steps(record.update().map(|step| &step.key), "unknown");
            let rest: Vec<_> = record.steps.iter().filter(|step| step.step != Step::Update).collect();
            self.account.post(batch.complete_steps(rest.iter().map(|step| &step.key), "success"))?;
            if record.nic {
                self.plug(&record, kept, PlugState::Revoked)?;
            }
            return Ok(None);
        }
        self.account.post(batch)?;
        let release = record.release();
        let step = release.map(|step| step.key);
        let state = if step.is_some() { PlugState::Unplugging { step } } else { PlugState::Held };
        self.plug(&record, kept, state)?;
        let index = self.interfaces.len() - 1;
        if let Some(update) = record.update() {
            self.take_back_update(index, update.key, &update.detail);
        }
        // It is gone if its filter could not be set again, and it is not to be without.
        let is_it = |of: &AttachedInterface| of.interface.key == record.row.key;
        let Some(index) = self.interfaces.iter().position(is_it) else { return Ok(None) };
        if !record.nic || release.is_some_and(|step| ReleaseKind::of(step) != ReleaseKind::Unplug) {
            // The guest has released the NIC, or was not to be asked: only QEMU has to close the
            // devices.
            let forced = release.is_some_and(|step| ReleaseKind::of(step) == ReleaseKind::Revoke);
            let resources = &mut self.interfaces[index].interface.resources;
            // When devices are revoked from a QEMU that keeps them, the link is deleted first.
            resources.cut |= forced && resources.link.is_none();
            return Ok(Some(UnfinishedRelease { key: record.row.key, forced }));
        }
        if step.is_some() {
            // The client of the detach is gone; if the guest releases the NIC later, the devices
            // are released then.
            self.unplug_is_over(index, "cut off");
        }
        Ok(None)
    }

    fn finish(&mut self, index: usize, forced: bool) {
        let mac = self.interfaces[index].interface.mac;
        match self.release(index, forced, None) {
            Ok(_) => warn!("{mac}: its release was interrupted, and is now finished"),
            Err(error) => warn!("{mac}: {error}"),
        }
    }

    fn plug(
        &mut self,
        record: &RecordedInterface,
        devices: Vec<OpenDevice>,
        state: PlugState,
    ) -> Result<(), AdoptError> {
        let RecordedInterface { row, spec, nic, .. } = record;
        let node = match &spec.backend {
            Backend::Vdpa(node) => Some(node.name().as_str()),
            Backend::VhostUser(socket) => Some(socket.name().as_str()),
            _ => None,
        };
        let name = row.ifname.as_deref().or(node).unwrap_or("none");
        let resources = if devices.is_empty() {
            Default::default()
        } else {
            let guest = self.account.guest().clone();
            self.host.find_left_over(&guest, row, spec, true)?
        };
        let port = match self.qemu.monitor.parent_device_id(&row.nic, MONITOR_TIMEOUT) {
            Ok(port) => port,
            // The NIC does not exist, or was just unplugged, and DEVICE_DELETED follows.
            Err(QmpError::Refused { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(index) = self.port_named(port.as_deref()) {
            self.ports[index].taken = true;
        }
        let interface = Interface {
            key: row.key,
            spec: spec.clone(),
            mac: row.mac,
            id: row.nic.clone(),
            ifname: name
                .parse()
                .map_err(|_| AdoptError::IfName { mac: row.mac, name: name.chars().take(64).collect() })?,
            port,
            devices,
            resources,
        };
        self.interfaces.push(AttachedInterface { state, nic: *nic, ..AttachedInterface::new(interface) });
        Ok(())
    }

    fn devices(&self) -> impl Iterator<Item = &OpenDevice> {
        self.interfaces.iter().flat_map(|attached| &attached.interface.devices)
    }
}
