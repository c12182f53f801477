//! What a QEMU holds, descriptor by descriptor.

use std::io;
use std::path::Path;

use taptrail_kernel::proc::{HeldKind, ProcessId, descriptor_tables, raw_devices};
use taptrail_record::{Device, DeviceKind, MacAddr, Rdev};

use super::bridges::SeenPort;
use super::find::is_gone;
use crate::scan::{Holder, Named, Scanner, Sources, interfaces};

/// The most descriptors of one guest that are followed: QEMU takes 256 queues for an interface.
const MOST: usize = 4096;

/// One open file of a raw network device in a QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighted {
    /// Its numbers there, in any thread's table: it may have been duplicated.
    pub(super) fds: Vec<u32>,
    pub(super) device: Device,
    /// The interface behind it, where it was found.
    pub(super) link: Option<Place>,
    /// That interface's address.
    pub(super) address: Option<MacAddr>,
    /// The guest's address in libvirt's state of that interface.
    pub(super) named: Option<MacAddr>,
    /// What that interface is a port of, where it was found.
    pub(super) port: Option<SeenPort>,
}

/// What a QEMU holds.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) descriptors: Vec<Sighted>,
    /// The paths of the vhost-vdpa devices that it holds: no manager records them.
    pub(super) vdpa: Vec<String>,
}

/// How many vhost-vdpa devices of one guest are named.
const MAX_VDPA: usize = 16;

/// Where an interface is, which outlives a new name: its network namespace, by inode, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) netns: Option<u64>,
    pub(super) index: u32,
}

/// What can be told at a glance: number, kind and device number, and a tap's interface.
pub(super) type Glance = Vec<(u32, DeviceKind, Rdev, Option<String>)>;

/// Looks without asking what is behind the devices.
pub(super) fn glance(process: ProcessId) -> io::Result<Glance> {
    let mut all = Vec::new();
    for thread in descriptor_tables(process.pid)? {
        let held = match raw_devices(thread) {
            // One of its threads may end before it.
            Err(error) if thread != process.pid && is_gone(&error) => continue,
            held => held?,
        };
        for held in held {
            let Ok(fd) = u32::try_from(held.fd) else { continue };
            all.push((fd, held.kind, held.rdev, held.ifname.map(|name| name.to_string())));
        }
    }
    // A table of a thread's own begins as a copy.
    all.sort_unstable();
    all.dedup();
    all.truncate(MOST);
    Ok(all)
}

/// Looks at all of it. `libvirt` is where that keeps its state of guests, and `name` this one's.
pub(super) fn look(process: ProcessId, libvirt: &Path, name: &str) -> io::Result<Sight> {
    // One of its own each time: a driver may have been loaded since.
    let Some(holder) = Scanner::new(Sources::default()).look(process)? else { return Ok(Sight::default()) };
    let vdpa = holder.devices.iter().filter(|held| held.kind == HeldKind::VhostVdpa).take(MAX_VDPA);
    let vdpa = vdpa.map(|held| held.path.display().to_string()).collect();
    let mut all = sighted(holder);
    if all.iter().any(|sighted| sighted.device.kind == DeviceKind::Tun) {
        let interfaces = interfaces(libvirt, name, process.pid);
        for sighted in &mut all {
            let is = |named: &&Named| Some(named.ifname.as_str()) == sighted.device.dev.as_deref();
            sighted.named = interfaces.iter().find(is).map(|named| named.mac);
        }
    }
    Ok(Sight { descriptors: all, vdpa })
}

/// What a process that was looked at holds.
pub(super) fn sighted(holder: Holder) -> Vec<Sighted> {
    let mut all: Vec<Sighted> = Vec::new();
    for held in holder.devices {
        let HeldKind::Raw(_) = held.kind else { continue };
        let dev = held.ifname.as_ref().map(|name| name.as_str().into());
        let device = Device::new(held.path.to_string_lossy(), Some(held.rdev), dev);
        let netns = held.netns;
        let link = held.behind.as_ref().map(|link| Place { netns, index: link.index });
        let port = held.behind.as_ref().map(|link| SeenPort::of(link.master.clone()));
        let address = held.behind.as_ref().and_then(|link| link.mac);
        // Of one held device, equal files are one.
        let mut files: Vec<(Option<u32>, Vec<u32>)> = Vec::new();
        for descriptor in &held.descriptors {
            let Ok(fd) = u32::try_from(descriptor.fd) else { continue };
            match files.iter_mut().find(|(file, _)| file.is_some() && *file == descriptor.file) {
                Some((_, fds)) if fds.contains(&fd) => {}
                Some((_, fds)) => fds.push(fd),
                None => files.push((descriptor.file, vec![fd])),
            }
        }
        all.extend(files.into_iter().map(|(_, fds)| Sighted {
            fds,
            device: device.clone(),
            link,
            address,
            named: None,
            port: port.clone(),
        }));
    }
    all.iter_mut().for_each(|sighted| sighted.fds.sort_unstable());
    all.sort_by_key(|sighted| sighted.fds.first().copied());
    all.truncate(MOST);
    all
}
