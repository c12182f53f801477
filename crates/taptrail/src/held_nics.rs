//! The interfaces of a guest that taptrail does not supervise, from what its QEMU holds. Which of
//! its devices is of which interface is in libvirt's state, or in the ledger of a watcher.

use anyhow::Context as _;
use taptrail_guest::Dirs;
use taptrail_kernel::proc::HeldKind;
use taptrail_ledger::{Ledger, LedgerError, LiveDevice};
use taptrail_record::{Device, DeviceKind, MacAddr, Rdev};
use taptrail_report::{DeviceRow, NicRow};
use taptrail_witness::scan::{Holder, Identity, IdentitySource, ScannedDevice, Scanner, Sources};
use tracing::warn;
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
    let seen = match watched_devices(holder, dirs) {
        Ok(seen) => seen,
        Err(error) => {
            warn!("{}", taptrail_guest::chain(&error));
            Vec::new()
        }
    };
    Ok(Some(rows(&holder.devices, holder, &seen)))
}

/// The devices that a watcher saw this process hold.
fn watched_devices(holder: &Holder, dirs: &Dirs) -> Result<Vec<LiveDevice>, LedgerError> {
    if holder.guest.as_ref().is_none_or(|guest| guest.by != IdentitySource::Ledger) {
        return Ok(Vec::new());
    }
    let ledger = Ledger::open_to_read(&dirs.state)?;
    let process = (holder.process.pid, holder.process.start_time);
    let mut guests = ledger.live_guests()?.into_iter();
    let guest = guests.find(|guest| guest.qemu.is_some_and(|qemu| (qemu.pid, qemu.start) == process));
    guest.map_or(Ok(Vec::new()), |guest| ledger.live_devices(guest.key))
}

/// A row for each device, with the vhost-nets of an interface in the row of its tap or macvtap.
fn rows(devices: &[ScannedDevice], holder: &Holder, seen: &[LiveDevice]) -> Vec<NicRow> {
    let (vhosts, others): (Vec<_>, Vec<_>) =
        devices.iter().partition(|held| held.kind == HeldKind::Raw(DeviceKind::VhostNet));
    let mut rows: Vec<NicRow> = others.into_iter().map(|held| nic(held, holder, seen)).collect();
    rows.sort_by_key(|row| (row.mac.is_none(), row.mac));
    for held in vhosts {
        let mut rest = nic(held, holder, seen);
        rest.devices.retain(|device| {
            let mac = device.qemu_fd.and_then(|fd| seen_mac(seen, held.rdev, fd));
            // Two interfaces may have one MAC.
            let mut of_mac = rows.iter_mut().filter(|row| mac.is_some() && row.mac == mac);
            let (Some(row), None) = (of_mac.next(), of_mac.next()) else { return true };
            let queue = row.devices.iter().filter(|of| of.device.kind == DeviceKind::VhostNet).count();
            row.vhost = true;
            row.devices.push(DeviceRow { queue: u32::try_from(queue).unwrap_or(u32::MAX), ..device.clone() });
            false
        });
        if !rest.devices.is_empty() {
            rest.queues = u32::try_from(rest.devices.len()).unwrap_or(u32::MAX);
            rows.push(rest);
        }
    }
    rows
}

/// The interface of a descriptor, as a watcher saw it.
fn seen_mac(seen: &[LiveDevice], rdev: Rdev, fd: i32) -> Option<MacAddr> {
    let is_it = |of: &&LiveDevice| of.qemu_fd == Some(fd) && of.device.rdev == Some(rdev);
    seen.iter().find(is_it).map(|of| of.mac)
}

fn nic(held: &ScannedDevice, holder: &Holder, seen: &[LiveDevice]) -> NicRow {
    let behind = held.behind.as_ref();
    let on = behind.and_then(|link| link.master.as_deref().or(link.lower.as_deref()));
    let backend = match (held.kind, on) {
        (HeldKind::Raw(DeviceKind::Tun), Some(bridge)) => format!("bridge={bridge}"),
        (HeldKind::Raw(DeviceKind::Macvtap), Some(lower)) => format!("macvtap={lower}"),
        (HeldKind::Raw(DeviceKind::Tun), None) | (HeldKind::Ipvtap, _) => {
            held.ifname.as_ref().map_or("?".to_owned(), |name| format!("tap={name}"))
        }
        (HeldKind::Raw(DeviceKind::VhostVdpa), _) => format!("vdpa={}", held.path.display()),
        _ => "?".to_owned(),
    };
    let ifname = held.ifname.as_ref().map(ToString::to_string);
    let path = held.path.display().to_string();
    let device = Device::new(path, Some(held.rdev), ifname.as_deref().map(Into::into));
    let row =
        |(queue, fd): (u32, i32)| DeviceRow { device: device.clone(), queue, qemu_fd: Some(fd), doubt: None };
    NicRow {
        addresses: None,
        mac: mac(held, holder, seen),
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

/// The guest's MAC: from libvirt's state, from a watcher's ledger, or of a macvtap, which has the
/// guest's.
fn mac(held: &ScannedDevice, holder: &Holder, seen: &[LiveDevice]) -> Option<MacAddr> {
    let ifname = held.ifname.as_ref()?;
    let interfaces = holder.guest.iter().flat_map(|guest| &guest.interfaces);
    let named = interfaces.filter(|of| of.ifname == *ifname).map(|of| of.mac).next();
    let by_watcher = || {
        let mut macs = held.descriptors.iter().map(|of| seen_mac(seen, held.rdev, of.fd));
        let first = macs.next().flatten()?;
        macs.all(|mac| mac == Some(first)).then_some(first)
    };
    let of_macvtap = || {
        let is_macvtap = held.kind.raw() == Some(DeviceKind::Macvtap);
        held.behind.as_ref().and_then(|link| link.mac).filter(|_| is_macvtap)
    };
    named.or_else(by_watcher).or_else(of_macvtap)
}
