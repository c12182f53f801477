//! vDPA devices, and the ioctls by which they say what they are.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};
use taptrail_record::{DeviceKind, MacAddr};

use super::node::{Node, NodeType};
use super::{DeviceError, Opening};
use crate::proc::raw_kind;

/// `VHOST_VIRTIO` in linux/vhost.h.
const VHOST: u8 = 0xAF;
/// `_IOR(VHOST_VIRTIO, 0x00, __u64)`.
const VHOST_GET_FEATURES: Opcode = opcode::read::<u64>(VHOST, 0x00);
/// `_IOR(VHOST_VIRTIO, 0x70, __u32)`.
const VHOST_VDPA_GET_DEVICE_ID: Opcode = opcode::read::<u32>(VHOST, 0x70);
/// `_IOR(VHOST_VIRTIO, 0x73, struct vhost_vdpa_config)`, whose array at the end counts nothing.
const VHOST_VDPA_GET_CONFIG: Opcode = opcode::read::<[u32; 2]>(VHOST, 0x73);

/// `VIRTIO_ID_NET` in linux/virtio_ids.h.
const VIRTIO_ID_NET: u32 = 1;
/// `VIRTIO_NET_F_MAC` in linux/virtio_net.h: the device has a MAC of its own.
const VIRTIO_NET_F_MAC: u64 = 1 << 5;

/// A vDPA device to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VdpaRequest<'a> {
    /// Its node, `/dev/vhost-vdpa-N`.
    pub path: &'a Path,
    /// The guest's MAC, which a device with one of its own must have.
    pub mac: MacAddr,
}

/// Opens a vDPA device: one descriptor, whatever the number of its queues. The kernel refuses a
/// second open with EBUSY.
///
/// What was opened is checked, because QEMU 7.2 corrupts its memory if a `vhostfd` is something
/// else, and because there are vDPA devices that are disks.
pub fn open_vhost_vdpa(request: &VdpaRequest<'_>) -> Opening {
    let VdpaRequest { path, mac } = *request;
    let node = Node { kind: DeviceKind::VhostVdpa, path, flags: OFlags::empty(), dev: None };
    Opening::run(|attempts| {
        node.open(0, attempts, |fd, found, _| {
            match found {
                NodeType::Character(rdev) if raw_kind(rdev) == Some(DeviceKind::VhostVdpa) => {}
                found => return Err(DeviceError::NotVdpa { path: path.to_owned(), found }),
            }
            let query = |source| DeviceError::Query { path: path.to_owned(), source };
            match device_id(fd).map_err(query)? {
                VIRTIO_ID_NET => {}
                id => return Err(DeviceError::NotNetwork { path: path.to_owned(), id }),
            }
            match own_mac(fd).map_err(query)? {
                Some(has) if has != mac => {
                    Err(DeviceError::VdpaMac { path: path.to_owned(), has, asked: mac })
                }
                _ => Ok(()),
            }
        })
    })
}

fn device_id(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: VHOST_VDPA_GET_DEVICE_ID writes one `__u32`.
    unsafe { ioctl(fd, Getter::<VHOST_VDPA_GET_DEVICE_ID, u32>::new()) }
}

/// The MAC of the device, if it has one.
fn own_mac(fd: BorrowedFd<'_>) -> Result<Option<MacAddr>, Errno> {
    // SAFETY: VHOST_GET_FEATURES writes one `__u64`.
    let features = unsafe { ioctl(fd, Getter::<VHOST_GET_FEATURES, u64>::new())? };
    if features & VIRTIO_NET_F_MAC == 0 {
        return Ok(None);
    }
    // The MAC is the first field of `struct virtio_net_config`.
    let mut config = Config { off: 0, len: 6, buf: [0; 6] };
    // SAFETY: VHOST_VDPA_GET_CONFIG reads the two numbers, and writes `len` bytes to `buf`.
    unsafe { ioctl(fd, Updater::<VHOST_VDPA_GET_CONFIG, Config>::new(&mut config))? };
    let mac = MacAddr(config.buf);
    Ok((!mac.is_zero()).then_some(mac))
}

/// `struct vhost_vdpa_config` (linux/vhost_types.h) with room for a MAC.
#[repr(C)]
struct Config {
    off: u32,
    len: u32,
    buf: [u8; 6],
}
