//! The ioctls of tun and macvtap queues, which all carry a `struct ifreq`.

use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};

/// `_IOW('T', 202, int)` in linux/if_tun.h, though it carries a `struct ifreq`.
const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);
/// `_IOW('T', 204, int)` in linux/if_tun.h; the argument is the number itself.
const TUNSETOWNER: Opcode = opcode::write::<libc::c_int>(b'T', 204);
/// `_IOW('T', 206, int)`, likewise.
const TUNSETGROUP: Opcode = opcode::write::<libc::c_int>(b'T', 206);
/// `_IOR('T', 210, unsigned int)` in linux/if_tun.h, which carries a `struct ifreq` too.
const TUNGETIFF: Opcode = opcode::read::<libc::c_uint>(b'T', 210);

/// Ethernet frames (linux/if_tun.h).
pub(super) const IFF_TAP: u16 = 0x0002;
/// Many descriptors, one queue each.
pub(super) const IFF_MULTI_QUEUE: u16 = 0x0100;
/// No four bytes of flags and protocol in front of each frame.
pub(super) const IFF_NO_PI: u16 = 0x1000;
/// A `struct virtio_net_hdr` in front of each frame.
pub(super) const IFF_VNET_HDR: u16 = 0x4000;
/// Refuse a name that exists; only of use with `TUNSETIFF`.
pub(super) const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` (netdevice(7)) as these ioctls use it: a name, and flags at the union's start.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ - size_of::<u16>()],
}

const _: () = {
    assert!(size_of::<Ifreq>() == size_of::<libc::ifreq>());
    assert!(std::mem::offset_of!(Ifreq, flags) == std::mem::offset_of!(libc::ifreq, ifr_ifru));
    assert!(TUNSETIFF as libc::Ioctl == libc::TUNSETIFF);
    assert!(TUNGETIFF as libc::Ioctl == libc::TUNGETIFF);
    assert!(TUNSETOWNER as libc::Ioctl == libc::TUNSETOWNER);
    assert!(TUNSETGROUP as libc::Ioctl == libc::TUNSETGROUP);
};

/// The flags of a queue as requested.
pub(super) fn queue_flags(vnet_hdr: bool, queues: NonZeroU16) -> u16 {
    let mut flags = IFF_TAP | IFF_NO_PI;
    if vnet_hdr {
        flags |= IFF_VNET_HDR;
    }
    if queues.get() > 1 {
        flags |= IFF_MULTI_QUEUE;
    }
    flags
}

/// A queue, as its descriptor reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queue {
    /// Its interface's name, in the network namespace that the interface is in.
    pub(super) name: String,
    /// `IFF_*` as above.
    pub(super) flags: u16,
}

/// Makes an open device the queue of an interface; `name` may be a pattern with `%d`.
///
/// Returns the interface's name. The name must have at most 15 bytes: more is `EINVAL`.
pub(super) fn attach(fd: BorrowedFd<'_>, name: &str, flags: u16) -> Result<String, Errno> {
    let mut request = Ifreq::new(name, flags)?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size and layout `Ifreq` has as
    // asserted above; any bytes are valid in it.
    unsafe {
        ioctl(fd, Updater::<TUNSETIFF, Ifreq>::new(&mut request))?;
    }
    Ok(request.name())
}

/// Sets the flags of a macvtap's queue, which has no name to give (`tap_ioctl()` in
/// drivers/net/tap.c).
pub(super) fn set_flags(fd: BorrowedFd<'_>, flags: u16) -> Result<(), Errno> {
    // SAFETY: as in `attach`; a macvtap only reads the flags.
    unsafe { ioctl(fd, Setter::<TUNSETIFF, Ifreq>::new(Ifreq::new("", flags)?)) }
}

/// root, and the group `nogroup`.
const OWNER: usize = 0;
const GROUP: usize = 65_534;

/// Restricts attaching to a tap to CAP_NET_ADMIN, by an owner and group that no process has both
/// of: root in [`GROUP`].
///
/// Any process that can open the tun device can attach a further queue to a tap without owner and
/// group (`tun_not_capable()` in drivers/net/tun.c): also another guest's QEMU, which can open its
/// own descriptor again through `/proc/self/fd`.
pub(super) fn close_to_others(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both ioctls take a number, here of a user and of a group, and no pointer.
    unsafe {
        ioctl(fd, IntegerSetter::<TUNSETOWNER>::new_usize(OWNER))?;
        ioctl(fd, IntegerSetter::<TUNSETGROUP>::new_usize(GROUP))
    }
}

/// Queries the interface and flags of a queue's descriptor.
pub(super) fn identify(fd: BorrowedFd<'_>) -> Result<Queue, Errno> {
    let mut request = Ifreq::new("", 0)?;
    // SAFETY: TUNGETIFF writes one `struct ifreq`, see `attach`.
    unsafe {
        ioctl(fd, Updater::<TUNGETIFF, Ifreq>::new(&mut request))?;
    }
    Ok(Queue { name: request.name(), flags: request.flags })
}

impl Ifreq {
    fn new(name: &str, flags: u16) -> Result<Self, Errno> {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            flags,
            rest: [0; size_of::<libc::ifreq>() - libc::IFNAMSIZ - size_of::<u16>()],
        };
        // The last byte stays NUL.
        if name.len() >= libc::IFNAMSIZ {
            return Err(Errno::INVAL);
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|&b| b == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}
