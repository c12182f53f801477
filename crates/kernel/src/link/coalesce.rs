//! How many received frames a tap collects before it passes them on, by ethtool's ioctl.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use rustix::io::Errno;

use super::{LinkError, Links, number, quoted};

/// linux/ethtool.h
const ETHTOOL_GCOALESCE: u32 = 0xe;
const ETHTOOL_SCOALESCE: u32 = 0xf;

const OPERATION: &str = "set how many frames it collects";

/// `struct ethtool_coalesce`, of which a tap has one field.
#[repr(C)]
#[derive(Clone, Copy)]
struct Coalesce {
    command: u32,
    rx_usecs: u32,
    rx_max_frames: u32,
    others: [u32; 20],
}

/// `struct ifreq` with a pointer as its union.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut Coalesce,
    rest: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ - size_of::<*mut Coalesce>()],
}

const _: () = {
    assert!(size_of::<Request>() == size_of::<libc::ifreq>());
    assert!(std::mem::offset_of!(Request, data) == std::mem::offset_of!(libc::ifreq, ifr_ifru));
    assert!(size_of::<Coalesce>() == 23 * size_of::<u32>());
};

impl Links {
    /// Sets how many frames of its holder a tap collects before the kernel gets them (`rx-frames` of
    /// ethtool(8)); 0 for none. Reads it back: the kernel takes 64 for every higher number.
    ///
    /// # Errors
    ///
    /// There is no such link, it is no tap, or it reads back otherwise.
    pub fn set_rx_frames(&mut self, index: u32, frames: u32) -> Result<(), LinkError> {
        let missing = || LinkError::Missing { link: number(index), operation: OPERATION };
        let name = self.by_index(index)?.ok_or_else(missing)?.name;
        let refused = |source: Errno| LinkError::Refused {
            link: quoted(&name),
            operation: OPERATION,
            reason: None,
            source,
        };
        call(&name, ETHTOOL_SCOALESCE, frames).map_err(refused)?;
        let found = call(&name, ETHTOOL_GCOALESCE, 0).map_err(refused)?;
        if found == frames {
            return Ok(());
        }
        let (wanted, found) = (frames.to_string(), found.to_string());
        Err(LinkError::Differs { link: quoted(&name), operation: OPERATION, wanted, found })
    }
}

/// Carries out one command for a link; returns the number of frames in the answer.
fn call(name: &str, command: u32, frames: u32) -> Result<u32, Errno> {
    let mut coalesce = Coalesce { command, rx_usecs: 0, rx_max_frames: frames, others: [0; 20] };
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        data: &raw mut coalesce,
        rest: [0; size_of::<libc::ifreq>() - libc::IFNAMSIZ - size_of::<*mut Coalesce>()],
    };
    // The last byte stays NUL.
    let bytes = name.as_bytes();
    request
        .name
        .get_mut(..bytes.len())
        .filter(|_| bytes.len() < libc::IFNAMSIZ)
        .ok_or(Errno::INVAL)?
        .copy_from_slice(bytes);
    // Any socket takes the ioctls of links, those of its network namespace.
    let socket =
        UnixDatagram::unbound().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // SAFETY: SIOCETHTOOL reads one `struct ifreq`, whose size and layout `Request` has as asserted
    // above, and reads and writes the `struct ethtool_coalesce` at its pointer, which outlives the
    // call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(coalesce.rx_max_frames)
}
