//! The interfaces of a guest that taptrail does not supervise, from what its QEMU holds.

use anyhow::Context as _;
use taptrail_guest::Dirs;
use taptrail_kernel::proc::HeldKind;
use taptrail_record::{Device, DeviceKind, MacAddr};
use taptrail_report::{DeviceRow, NicRow};
use taptrail_witness::scan::{Holder, Identity, ScannedDevice, Scanner, Sources};
use uuid::Uuid;

use crate::output::Failure;

/// The interfaces of a running guest of any manager; none if no process runs a guest of this name or
/// uuid.
pub(crate) fn of_guest(guest: &str, dirs: &Dirs) -> Result<Option<Vec<NicRow>>, Failure> {
    let scan = Scanner::new(Sources::of_host(&dirs.state)).scan().context("/proc can't be read")?;
    let uuid: Option<Uuid> = guest.parse().ok();
    let is_meant = |identity: &Identity| {
        identity.name.as_deref() == Some(guest) || uuid.is_some_and(|uuid| identity.uuid == Some(uuid))
    };
    // A guest of taptrail with another state directory is that one's to show.
    let own = std::env::current_exe().ok();
    let is_ours =
        |holder: &Holder| own.is_some() && holder.manager.as_ref().is_some_and(|manager| manager.path == own);
    let holders = scan.holders.iter().filter(|holder| !is_ours(holder));
    let mut holders = holders.filter(|holder| holder.guest.as_ref().is_some_and(is_meant));
    let Some(holder) = holders.next() else { return Ok(None) };
    if let Some(other) = holders.next() {
        return Err(Failure::input(anyhow::anyhow!(
            "Two processes run a guest '{}': {} and {}; `taptrail verify --pid PID` shows what one holds",
            taptrail_record::visible(guest),
            holder.process.pid,
            other.process.pid
        )));
    }
    Ok(Some(holder.devices.iter().map(|device| nic(device, holder)).collect()))
}

fn nic(held: &ScannedDevice, holder: &Holder) -> NicRow {
    let behind = held.behind.as_ref();
    let on = behind.and_then(|link| link.master.as_deref().or(link.lower.as_deref()));
    let backend = match (held.kind, on) {
        (HeldKind::Raw(DeviceKind::Tun), Some(bridge)) => format!("bridge={bridge}"),
        (HeldKind::Raw(DeviceKind::Macvtap), Some(lower)) => format!("macvtap={lower}"),
        (HeldKind::Raw(DeviceKind::Tun), None) => {
            held.ifname.as_ref().map_or("?".to_owned(), |name| format!("tap={name}"))
        }
        _ => "?".to_owned(),
    };
    let ifname = held.ifname.as_ref().map(ToString::to_string);
    let path = held.path.display().to_string();
    let device = Device::new(path, Some(held.rdev), ifname.as_deref().map(Into::into));
    let row =
        |(queue, fd): (u32, i32)| DeviceRow { device: device.clone(), queue, qemu_fd: Some(fd), doubt: None };
    NicRow {
        mac: mac(held, holder),
        backend,
        model: "?".to_owned(),
        queues: held.queues(),
        vhost: held.kind == HeldKind::Raw(DeviceKind::VhostNet),
        ifname,
        state: "held".to_owned(),
        since: None,
        devices: (0..).zip(held.descriptors.iter().map(|of| of.fd)).map(row).collect(),
    }
}

/// The guest's MAC: from libvirt's state, or of a macvtap, which has the guest's.
fn mac(held: &ScannedDevice, holder: &Holder) -> Option<MacAddr> {
    let ifname = held.ifname.as_ref()?;
    let interfaces = holder.guest.iter().flat_map(|guest| &guest.interfaces);
    let mut named = interfaces.filter(|of| of.ifname == *ifname).map(|of| of.mac);
    named.next().or_else(|| {
        let is_macvtap = held.kind == HeldKind::Raw(DeviceKind::Macvtap);
        held.behind.as_ref().and_then(|link| link.mac).filter(|_| is_macvtap)
    })
}
