//! What QEMU holds, seen and not assumed.
//!
//! While we hold a descriptor too, kcmp(2) proves that QEMU's is the same open file. Afterwards
//! QEMU's descriptor is known by its number and its device's: QEMU gets descriptors from us alone,
//! one operation at a time, so the two together don't change hands unseen.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use taptrail_kernel::device::Admitted;
use taptrail_kernel::proc::{HeldDevice, ProcessId, raw_devices, same_file};

use crate::account::OpenDevice;

/// QEMU closes a netdev's descriptors before it answers `netdev_del`; this much grace covers one
/// whose last reference falls a moment later.
const GRACE: Duration = Duration::from_millis(500);

/// The numbers under which `qemu` holds each of `ours`; `None` where it does not.
pub(crate) fn find(qemu: &ProcessId, ours: &[Admitted]) -> io::Result<Vec<Option<RawFd>>> {
    let held = devices_of(qemu)?;
    let own = std::process::id();
    ours.iter()
        .map(|device| {
            let facts = device.facts();
            for candidate in held.iter().filter(|held| Some(held.rdev) == facts.rdev) {
                if same_file(own, device.as_fd().as_raw_fd(), qemu.pid, candidate.fd)? {
                    return Ok(Some(candidate.fd));
                }
            }
            Ok(None)
        })
        .collect()
}

/// Which of `devices` QEMU still holds, in the same order.
pub(crate) fn still_held(qemu: &ProcessId, devices: &[OpenDevice]) -> io::Result<Vec<bool>> {
    let held = devices_of(qemu)?;
    Ok(devices.iter().map(|device| held.iter().any(|held| is(held, device))).collect())
}

/// Waits a moment for all of `devices` to go; tells which are still held at its end.
pub(crate) fn gone(qemu: &ProcessId, devices: &[OpenDevice]) -> io::Result<Vec<bool>> {
    let end = Instant::now() + GRACE;
    loop {
        let held = still_held(qemu, devices)?;
        if !held.contains(&true) || Instant::now() >= end {
            return Ok(held);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The raw network devices that QEMU holds and that are none of `known`.
pub(crate) fn strangers(qemu: &ProcessId, known: &[OpenDevice]) -> io::Result<Vec<HeldDevice>> {
    let mut held = devices_of(qemu)?;
    held.retain(|held| !known.iter().any(|device| is(held, device)));
    Ok(held)
}

/// Which of `unseen`, whose numbers in QEMU were never seen, QEMU holds beside what is `known`, and under which number.
///
/// Of two queues of one device the first found is the first: they are alike.
pub(crate) fn among_strangers(
    qemu: &ProcessId,
    known: &[OpenDevice],
    unseen: &[OpenDevice],
) -> io::Result<Vec<Option<RawFd>>> {
    let mut strangers = strangers(qemu, known)?;
    let mut find = |device: &OpenDevice| {
        let at = strangers.iter().position(|held| is(held, device))?;
        Some(strangers.remove(at).fd)
    };
    Ok(unseen.iter().map(&mut find).collect())
}

fn is(held: &HeldDevice, device: &OpenDevice) -> bool {
    if Some(held.rdev) != device.device.rdev {
        return false;
    }
    match device.qemu_fd {
        // The link behind it may be renamed or deleted: it is still the open device that it was.
        Some(fd) => fd == held.fd,
        // Its number was never seen: any descriptor that fits may be it.
        None => match &held.ifname {
            Some(name) => Some(name.as_str()) == device.device.dev.as_deref(),
            None => true,
        },
    }
}

/// A process that is gone holds nothing.
fn devices_of(process: &ProcessId) -> io::Result<Vec<HeldDevice>> {
    match raw_devices(process.pid) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}
