//! A manager that writes the records that libvirt writes, when libvirt writes them.

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use taptrail_kernel::device::{
    Admitted, DEV_NET_TUN, MacvtapRequest, OpenFacts, OpenRecorder, Opening, TapName, TapRequest,
    open_macvtap, open_tap,
};
use taptrail_kernel::link::{Change, Links, MacvtapMode, MacvtapName, NewMacvtap};
use taptrail_record::{Device, Event, GuestId, IfName, MacAddr, Rdev, Reason, Record};
use taptrail_trail::Content;
use uuid::Uuid;

use crate::lab::Lab;
use crate::qemu::Qemu;

pub(crate) const LIBVIRTD: u32 = 812;

/// A guest of the manager.
pub(crate) struct Domain {
    pub(crate) id: GuestId,
    pub(crate) qemu: Qemu,
}

/// A device that is open, and its record.
pub(crate) struct Opened {
    pub(crate) devices: Vec<Admitted>,
    pub(crate) recorded: Device,
    pub(crate) mac: MacAddr,
}

/// A recorder that accepts everything.
struct FakeRecorder;

impl OpenRecorder for FakeRecorder {
    type Error = Infallible;

    fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

fn admitted(opening: Opening) -> Vec<Admitted> {
    let Ok((devices, error)) = opening.admit(&mut FakeRecorder);
    assert!(error.is_none(), "{error:?}");
    devices
}

/// A tap as libvirt makes it: its MAC is the guest's with FE in front.
pub(crate) fn tap(name: &str, mac: MacAddr, queues: u16) -> Opened {
    let ifname = name.parse().unwrap();
    let queues = NonZeroU16::new(queues).unwrap();
    let (path, name) = (Path::new(DEV_NET_TUN), TapName::New(&ifname));
    let devices = admitted(open_tap(&TapRequest { path, name, queues, vnet_hdr: true }));
    opened_tap(devices, &ifname, mac)
}

/// A persistent tap that was made by another program.
pub(crate) fn lasting_tap(name: &str, mac: MacAddr, queues: u16) -> Opened {
    let ifname = name.parse().unwrap();
    let queues = NonZeroU16::new(queues).unwrap();
    let (path, name) = (Path::new(DEV_NET_TUN), TapName::Existing(&ifname));
    let devices = admitted(open_tap(&TapRequest { path, name, queues, vnet_hdr: true }));
    opened_tap(devices, &ifname, mac)
}

fn opened_tap(devices: Vec<Admitted>, ifname: &IfName, mac: MacAddr) -> Opened {
    let mut links = Links::open().unwrap();
    let index = links.find(ifname).unwrap().unwrap().index;
    links.configure(index, &Change { mac: Some(mac.host_side()), ..Change::default() }).unwrap();
    // libvirt's record does not name the interface.
    Opened { devices, recorded: Device::new(DEV_NET_TUN, Some(Rdev::TUN), None), mac }
}

/// A macvtap as libvirt makes it; its record has the interface's name as the path.
pub(crate) fn macvtap(mac: MacAddr, queues: u16) -> Opened {
    let mut links = Links::open().unwrap();
    let lower_index = links.find(&"lower".parse().unwrap()).unwrap().unwrap().index;
    let name = MacvtapName::Pattern("macvtap%d".into());
    let new = NewMacvtap { name, lower_index, mode: MacvtapMode::Bridge, mac, mtu: None };
    let link = links.create_macvtap(&new).unwrap();
    let ifname = link.name.parse().unwrap();
    let rdev = links.macvtap_rdev(&ifname, link.index);
    let queues = NonZeroU16::new(queues).unwrap();
    let wait = Duration::from_secs(5);
    let request = MacvtapRequest { ifname: &ifname, ifindex: link.index, rdev, queues, vnet_hdr: true, wait };
    Opened { devices: admitted(open_macvtap(&request)), recorded: Device::new(&*link.name, None, None), mac }
}

pub(crate) fn id() -> GuestId {
    // Tests run in parallel, and the watcher looks for a uuid among all processes.
    let own = u128::from(std::process::id());
    GuestId { name: "web1".into(), uuid: Uuid::from_u128(0x2ea4_e9f1_0000_0000 + own) }
}

impl Lab {
    /// The manager writes a record of a guest.
    pub(crate) fn log_record(&mut self, guest: &GuestId, event: Event) {
        self.append(Content::Record(Record::success(guest.clone(), event)), LIBVIRTD);
    }

    pub(crate) fn log_failure(&mut self, guest: &GuestId, event: Event) {
        self.append(Content::Record(Record::failed(guest.clone(), event, None)), LIBVIRTD);
    }

    pub(crate) fn log_open(&mut self, guest: &GuestId, opened: &Opened) {
        self.log_record(guest, Event::Open { mac: opened.mac, device: opened.recorded.clone(), queue: None });
    }

    /// Boots a guest with these interfaces: first the opens and their records, then QEMU with them,
    /// and then the record of its start.
    pub(crate) fn boots(&mut self, interfaces: Vec<Opened>) -> Domain {
        let id = id();
        interfaces.iter().for_each(|opened| self.log_open(&id, opened));
        let mut qemu = Qemu::start(id.uuid);
        for (number, opened) in interfaces.iter().enumerate() {
            qemu.give(&format!("net{number}"), &opened.devices);
        }
        let macs: Vec<MacAddr> = interfaces.iter().map(|opened| opened.mac).collect();
        drop(interfaces);
        for mac in macs {
            self.log_record(&id, start(mac));
        }
        self.log_record(&id, op_start(qemu.pid()));
        Domain { id, qemu }
    }

    /// Plugs an interface in.
    pub(crate) fn attaches(&mut self, domain: &mut Domain, name: &str, opened: Opened) {
        self.log_open(&domain.id, &opened);
        domain.qemu.give(name, &opened.devices);
        let mac = opened.mac;
        drop(opened);
        self.log_record(&domain.id, attach(mac));
    }

    /// Unplugs an interface.
    pub(crate) fn detaches(&mut self, domain: &mut Domain, name: &str, mac: MacAddr) {
        domain.qemu.take(name);
        self.log_record(&domain.id, detach(mac));
    }

    /// Writes the state file of a running guest, as libvirt does.
    pub(crate) fn write_libvirt_state(&self, domain: &Domain, interfaces: &[(MacAddr, &str)]) {
        let interface = |(mac, dev): &(MacAddr, &str)| {
            format!("<interface type='bridge'><mac address='{mac}'/><target dev='{dev}'/></interface>")
        };
        let interfaces: String = interfaces.iter().map(interface).collect();
        let (pid, uuid) = (domain.qemu.pid(), domain.id.uuid);
        let state = format!(
            "<domstatus pid='{pid}'><domain><name>web1</name><uuid>{uuid}</uuid><devices>{interfaces}</devices></domain>\
             </domstatus>"
        );
        std::fs::create_dir(self.libvirt()).unwrap();
        std::fs::write(self.libvirt().join("web1.xml"), state).unwrap();
    }

    /// Writes that QEMU has ended.
    pub(crate) fn stops(&mut self, domain: &Domain, reason: &str) {
        self.log_record(&domain.id, op_stop(reason));
    }
}

pub(crate) fn start(mac: MacAddr) -> Event {
    Event::Start { mac, vm_pid: None, fds: None }
}

pub(crate) fn attach(mac: MacAddr) -> Event {
    Event::Attach { mac, vm_pid: None, fds: None }
}

pub(crate) fn detach(mac: MacAddr) -> Event {
    Event::Detach { mac, vm_pid: None, fds: None, forced: false }
}

pub(crate) fn op_start(pid: u32) -> Event {
    Event::GuestStart { reason: Reason::BOOTED, vm_pid: Some(pid) }
}

pub(crate) fn op_stop(reason: &str) -> Event {
    Event::GuestStop { reason: reason.parse().unwrap(), vm_pid: None }
}
