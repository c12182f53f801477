//! Scans a QEMU for the descriptors that it holds.

use std::io;
use std::path::Path;

use taptrail_kernel::proc::{ProcessId, descriptor_tables, is_gone, raw_devices};
use taptrail_record::{Device, DeviceKind, MacAddr, Rdev};

use super::bridges::SeenPort;
use crate::scan::{Holder, InterfaceName, Scanner, Sources, interface_names};

/// The most descriptors of one guest that are followed; QEMU accepts 256 queues for an interface.
const MAX_DESCRIPTORS_PER_GUEST: usize = 4096;

/// One open file of a raw network device in a QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObservedDescriptor {
    /// Its numbers in the tables of any of QEMU's threads: it may have been duplicated.
    pub(super) fds: Vec<u32>,
    pub(super) device: Device,
    /// The link behind it, where it was found.
    pub(super) link: Option<LinkId>,
    /// The MAC of that link.
    pub(super) address: Option<MacAddr>,
    /// The guest's MAC in libvirt's state of that link.
    pub(super) libvirt_mac: Option<MacAddr>,
    /// The bridge of that link, where it was found.
    pub(super) port: Option<SeenPort>,
}

/// The place of a link, which stays when it is renamed: the inode of its network namespace, and its
/// index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkId {
    pub(super) netns: Option<u64>,
    pub(super) index: u32,
}

/// The result of a quick scan: number, kind and device number of each descriptor, and the name of a
/// tap.
pub(super) type FdSummary = Vec<(u32, DeviceKind, Rdev, Option<String>)>;

/// Scans QEMU without reading the links behind its devices.
pub(super) fn quick_scan(process: ProcessId) -> io::Result<FdSummary> {
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
    // A thread's own table begins as a copy, so descriptors occur twice.
    all.sort_unstable();
    all.dedup();
    all.truncate(MAX_DESCRIPTORS_PER_GUEST);
    Ok(all)
}

/// Scans QEMU with the links behind its devices. `libvirt` is libvirt's state directory, and `name`
/// the guest's name.
pub(super) fn full_scan(
    process: ProcessId,
    libvirt: &Path,
    name: &str,
) -> io::Result<Vec<ObservedDescriptor>> {
    // A new scanner each time: a driver may have been loaded since.
    let Some(holder) = Scanner::new(Sources::default()).look(process)? else {
        return Ok(Vec::new());
    };
    let mut all = observed_descriptors(holder);
    if all.iter().any(|observed| observed.device.kind == DeviceKind::Tun) {
        let interfaces = interface_names(libvirt, name, process.pid);
        for observed in &mut all {
            let is = |interface: &&InterfaceName| {
                Some(interface.ifname.as_str()) == observed.device.dev.as_deref()
            };
            observed.libvirt_mac = interfaces.iter().find(is).map(|interface| interface.mac);
        }
    }
    Ok(all)
}

/// The descriptors of raw network devices among those of a scanned process.
pub(super) fn observed_descriptors(holder: Holder) -> Vec<ObservedDescriptor> {
    let mut all: Vec<ObservedDescriptor> = Vec::new();
    for held in holder.devices {
        if held.kind.raw().is_none() {
            continue;
        }
        let dev = held.ifname.as_ref().map(|name| name.as_str().into());
        let device = Device::new(held.path.to_string_lossy(), Some(held.rdev), dev);
        let netns = held.netns;
        let link = held.behind.as_ref().map(|link| LinkId { netns, index: link.index });
        let port = held.behind.as_ref().map(|link| SeenPort::of(link.master.clone()));
        let address = held.behind.as_ref().and_then(|link| link.mac);
        // Of one device, descriptors of one file are one.
        let mut files: Vec<(Option<u32>, Vec<u32>)> = Vec::new();
        for descriptor in &held.descriptors {
            let Ok(fd) = u32::try_from(descriptor.fd) else { continue };
            match files.iter_mut().find(|(file, _)| file.is_some() && *file == descriptor.file) {
                Some((_, fds)) if fds.contains(&fd) => {}
                Some((_, fds)) => fds.push(fd),
                None => files.push((descriptor.file, vec![fd])),
            }
        }
        all.extend(files.into_iter().map(|(_, fds)| ObservedDescriptor {
            fds,
            device: device.clone(),
            link,
            address,
            libvirt_mac: None,
            port: port.clone(),
        }));
    }
    all.iter_mut().for_each(|observed| observed.fds.sort_unstable());
    all.sort_by_key(|observed| observed.fds.first().copied());
    all.truncate(MAX_DESCRIPTORS_PER_GUEST);
    all
}
