//! Hot-plug: an interface into a running guest, or everything taken back.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use taptrail_kernel::device::Admitted;
use taptrail_ledger::StepKey;
use taptrail_qmp::{NetdevTap, QmpError};
use taptrail_record::{DeviceKind, Event, MacAddr, Outcome, Requester};
use tracing::{info, warn};

use super::start::{free_id, free_mac, granted, netdev_id};
use super::{ANSWER, Driver, PlugState, Plugged, said};
use crate::account::{AccountError, Posting};
use crate::handover::{self, Counts, Release, Shown};
use crate::host_link::HostLink;
use crate::interface::{Interface, Opened};
use crate::qemu::device_properties;
use crate::request::{Failure, InterfaceInfo};
use crate::spec::NicSpec;

/// How long a QEMU that has not answered may take to answer the next command.
const BRIEF: Duration = Duration::from_millis(100);

/// A hand-over failed.
#[derive(Debug, thiserror::Error)]
enum HandOverError {
    #[error("QEMU refused the interface")]
    Monitor(#[from] QmpError),
    #[error("QEMU's descriptors can't be read")]
    Look(#[source] std::io::Error),
    #[error("QEMU reported the interface as added, but doesn't hold {path}")]
    NotHeld { path: String },
    #[error("Grant can't be recorded")]
    Account(#[from] AccountError),
}

/// How far a hand-over came: what has to be taken back.
#[derive(Debug, Default)]
struct Given {
    names: Vec<String>,
    netdev: bool,
    nic: bool,
    /// A command's answer did not come: it may be carried out yet.
    unanswered: bool,
}

impl Driver {
    pub(super) fn attach(
        &mut self,
        spec: NicSpec,
        requester: Option<Requester>,
    ) -> Result<InterfaceInfo, Failure> {
        // What is gone must not be taken for what comes: numbers and names are given again.
        self.look_at_devices();
        let (spec, mac, id) = self.acceptable(spec)?;
        let port = self.port()?;
        self.account.ready().map_err(|error| Failure::Refused(crate::chain(&error)))?;
        let opened = match self.host.open_interface(spec, mac, id, &mut self.account, requester) {
            Ok(opened) => opened,
            Err(failed) => {
                let event = Event::Attach { mac, vm_pid: Some(self.qemu.id.pid), fds: None };
                let record = self.account.record(event, Outcome::Failed, requester);
                let posting =
                    Posting::default().says(record).closes(&self.account, &failed.closed).over(failed.key);
                said(self.account.post(posting.done(&failed.steps, "failed")));
                return Err(Failure::Failed(crate::chain(&failed.error)));
            }
        };
        let Opened { mut interface, admitted, steps } = opened;
        interface.port = port.map(|index| self.ports[index].name.clone());
        let mut given = Given::default();
        match self.hand_over(&mut interface, &admitted, &mut given, &steps, requester) {
            Ok(()) => {
                crash_point!("attach::granted");
                // Only QEMU keeps a granted device alive.
                drop(admitted);
                if let Some(index) = port {
                    self.ports[index].taken = true;
                }
                info!("{}", granted(&interface, self.qemu.id.pid));
                let plugged = Plugged::new(interface);
                let info = plugged.info();
                self.interfaces.push(plugged);
                Ok(info)
            }
            Err(error) => {
                let mut text = crate::chain(&error);
                given.unanswered =
                    matches!(error, HandOverError::Monitor(ref error) if error.leaves_outcome_open());
                if let Some(kept) = self.take_back(interface, admitted, &given, &steps, requester) {
                    text.push_str(&kept);
                }
                Err(Failure::Failed(text))
            }
        }
    }

    /// The SPEC with MAC and id, if this guest can take it.
    fn acceptable(&mut self, mut spec: NicSpec) -> Result<(NicSpec, MacAddr, String), Failure> {
        let mac = match spec.mac.or_else(|| self.host.mac_of(&spec)) {
            Some(mac) => mac,
            None => free_mac(|mac| self.interfaces.iter().any(|plugged| plugged.interface.mac == mac))
                .map_err(|error| Failure::Failed(format!("A random MAC address can't be made: {error}")))?,
        };
        // A revoked NIC holds nothing: its MAC may come back.
        if let Some(index) = self.holder(mac) {
            let state = self.interfaces[index].state.as_str();
            return Err(Failure::Refused(format!(
                "MAC {mac} is in use by this guest ({state}): choose another, or detach that interface first"
            )));
        }
        spec.mac = Some(mac);
        let taken = |id: &str| self.interfaces.iter().any(|plugged| plugged.interface.id == id);
        let id = match &spec.id {
            Some(id) if taken(id.as_str()) => {
                return Err(Failure::Refused(format!("Id '{id}' is in use by this guest: choose another")));
            }
            Some(id) => id.to_string(),
            None => free_id(taken),
        };
        Ok((spec, mac, id))
    }

    /// A free port, where this machine needs one.
    fn port(&self) -> Result<Option<usize>, Failure> {
        if self.ports.is_empty() {
            return Ok(None);
        }
        match self.ports.iter().position(|port| !port.taken) {
            Some(index) => Ok(Some(index)),
            None => Err(Failure::Refused(format!(
                "All {} ports of this guest are taken: detach an interface, or start the guest with more by --hotplug-ports",
                self.ports.len()
            ))),
        }
    }

    fn hand_over(
        &mut self,
        interface: &mut Interface,
        admitted: &[Admitted],
        given: &mut Given,
        steps: &[StepKey],
        requester: Option<Requester>,
    ) -> Result<(), HandOverError> {
        self.give(interface, admitted, given)?;
        crash_point!("attach::nic-added");
        self.see(interface, admitted)?;
        self.post_attach(interface, steps, requester)
    }

    /// Gives the descriptors to QEMU, and makes the netdev and the NIC of them.
    fn give(
        &mut self,
        interface: &Interface,
        admitted: &[Admitted],
        given: &mut Given,
    ) -> Result<(), HandOverError> {
        let netdev = netdev_id(&interface.id);
        let mut fds = Vec::new();
        let mut vhost_fds = Vec::new();
        for (index, device) in admitted.iter().enumerate() {
            let name = descriptor_name(&interface.id, index);
            given.names.push(name.clone());
            self.qemu.monitor.getfd(&name, device, ANSWER)?;
            match device.facts().kind {
                DeviceKind::VhostNet => vhost_fds.push(name),
                _ => fds.push(name),
            }
        }
        crash_point!("attach::given");
        given.netdev = true;
        self.qemu.monitor.netdev_add(&NetdevTap { id: netdev.clone(), fds, vhost_fds }, ANSWER)?;
        crash_point!("attach::netdev");
        let properties: Map<String, Value> = device_properties(
            &interface.id,
            &netdev,
            &interface.spec.model,
            interface.mac,
            interface.spec.queues,
            interface.spec.mtu,
            interface.port.as_deref(),
        );
        let added = self.qemu.monitor.device_add(&properties, ANSWER);
        // A NIC whose answer did not come may be there.
        given.nic = !matches!(added, Err(QmpError::Refused { .. }));
        Ok(added?)
    }

    /// Shows that QEMU holds each descriptor.
    fn see(&mut self, interface: &mut Interface, admitted: &[Admitted]) -> Result<(), HandOverError> {
        let found = handover::find(&self.qemu.id, admitted).map_err(HandOverError::Look)?;
        for (device, fd) in interface.devices.iter_mut().zip(found) {
            if fd.is_none() {
                return Err(HandOverError::NotHeld { path: device.device.path.to_string() });
            }
            device.qemu_fd = fd;
        }
        Ok(())
    }

    fn post_attach(
        &mut self,
        interface: &Interface,
        steps: &[StepKey],
        requester: Option<Requester>,
    ) -> Result<(), HandOverError> {
        let event = Event::Attach {
            mac: interface.mac,
            vm_pid: Some(self.qemu.id.pid),
            fds: u32::try_from(interface.devices.len()).ok(),
        };
        let record = self.account.record(event, Outcome::Success, requester);
        let posting = Posting::default().grants(record, &interface.devices).done(steps, "success");
        Ok(self.account.post_or_refuse(posting)?)
    }

    /// Takes back what was given, looks, and posts what is gone and what QEMU keeps. Tells the
    /// operator of what it keeps.
    fn take_back(
        &mut self,
        mut interface: Interface,
        admitted: Vec<Admitted>,
        given: &Given,
        steps: &[StepKey],
        requester: Option<Requester>,
    ) -> Option<String> {
        let monitor = &mut self.qemu.monitor;
        // Who has just left one command unanswered is not waited for long three times more.
        let patience = if given.unanswered { BRIEF } else { ANSWER };
        // Each may be refused, because that step was not reached: what counts is the look below.
        let mut answered = !given.unanswered;
        let mut heard = |result: Result<(), QmpError>| {
            answered |= !result.is_err_and(|error| error.leaves_outcome_open());
        };
        if given.nic {
            heard(monitor.device_del(&interface.id, patience));
        }
        if given.netdev {
            heard(monitor.netdev_del(&netdev_id(&interface.id), patience));
        }
        for name in &given.names {
            heard(monitor.closefd(name, patience));
        }
        // A QEMU that has ended answers nothing more, and holds nothing either.
        let in_flight = !answered && self.qemu.id.is_alive();
        let shown = self.look_until_gone(&interface, admitted, in_flight);
        let mac = interface.mac;
        let pid = self.qemu.id.pid;
        let (kept, gone) = handover::part(std::mem::take(&mut interface.devices), shown);
        // Of a link that is ours, a kept descriptor passes no frame; one of others keeps its filter.
        let lasting = &mut interface.lasting;
        if kept.is_empty() || lasting.link.as_ref().is_some_and(HostLink::is_ours) {
            self.host.undo(mac, lasting);
            lasting.cut |= !kept.is_empty() && lasting.link.is_none();
        }
        let failed = Event::Attach { mac, vm_pid: Some(pid), fds: u32::try_from(kept.len()).ok() };
        let mut posting = Posting::default().says(self.account.record(failed, Outcome::Failed, requester));
        for device in &kept {
            let record = self.account.record(device.keep(pid), Outcome::Success, None);
            posting = posting.grants(record, [device]);
        }
        let outcome = if kept.is_empty() { "failed" } else { "kept" };
        // A NIC that is plugged still, without its devices, has yet to go.
        let over = (kept.is_empty() && !given.nic).then_some(interface.key);
        said(self.account.post(posting.closes(&self.account, &gone).over(over).done(steps, outcome)));
        let text = (!kept.is_empty()).then(|| {
            let text = format!(
                "; QEMU still holds {} of its descriptors, which nothing takes back while it runs: they are on record as held",
                kept.len()
            );
            warn!("{mac}{text}");
            text
        });
        if text.is_some() || given.nic {
            if given.nic
                && let Some(index) = self.port_named(interface.port.as_deref())
            {
                self.ports[index].taken = true;
            }
            interface.devices = kept;
            let state = if text.is_some() { PlugState::Kept } else { PlugState::Revoked };
            self.interfaces.push(Plugged { state, nic: given.nic, ..Plugged::new(interface) });
        }
        text
    }

    /// What is shown of an interface's devices after a moment's patience. Our own copies of them are closed by this,
    /// and the kernel's account of the devices counts them until then.
    fn look_until_gone(
        &mut self,
        interface: &Interface,
        admitted: Vec<Admitted>,
        in_flight: bool,
    ) -> Vec<Shown> {
        let end = Instant::now() + handover::RELEASE_GRACE;
        // While we hold copies, QEMU's descriptors are known by kcmp(2), whatever numbers they have.
        let found = loop {
            match handover::find(&self.qemu.id, &admitted) {
                Ok(found) if Instant::now() >= end || found.iter().all(Option::is_none) => break found,
                Ok(_) => std::thread::sleep(Duration::from_millis(1)),
                // We may have run out of descriptors, and have some again without our copies.
                Err(error) => {
                    warn!("what QEMU holds can't be compared: {error}");
                    break vec![None; admitted.len()];
                }
            }
        };
        drop(admitted);
        let others: Vec<_> =
            self.interfaces.iter().flat_map(|plugged| plugged.interface.devices.clone()).collect();
        let release = Release {
            qemu: Some(&self.qemu.id),
            devices: &interface.devices,
            link: interface.lasting.link.as_ref(),
            link_shows: true,
            cut: false,
            asked: true,
            others: &others,
            grace: end.saturating_duration_since(Instant::now()),
        };
        let shown = release.look(&mut self.host, &mut Counts::default());
        let worst = |(shown, found): (Shown, Option<i32>)| match (shown, found) {
            (Shown::Held(None) | Shown::Doubted(_), Some(fd)) => Shown::Held(Some(fd)),
            // On its way to QEMU: what nothing shows is not claimed to be released.
            (Shown::Doubted(_), None) if in_flight => Shown::Held(None),
            (shown, _) => shown,
        };
        shown.into_iter().zip(found).map(worst).collect()
    }
}

/// The name under which a descriptor waits in QEMU for its netdev.
pub(super) fn descriptor_name(id: &str, index: usize) -> String {
    format!("taptrail-{id}-{index}")
}
