//! Finds descriptors that refer to the same open file: passed to another process, inherited or
//! duplicated.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;

use rustix::io::Errno;
use taptrail_kernel::proc::{HeldKind, compare_files};
use taptrail_record::{DeviceKind, Rdev};

use super::Holder;

/// A descriptor: its thread, and its number in that thread.
type DescriptorId = (u32, RawFd);

/// The most open files of one kind and device number that are compared.
const MAX_FILES_PER_DEVICE: usize = 32 * 1024;

/// Gives the open files behind all descriptors numbers. Returns how many descriptors could not be
/// compared.
///
/// Descriptors of `/dev/net/tun` without an interface are left out: they are of no use to anybody,
/// and any user may have thousands.
pub(super) fn number_open_files(holders: &mut [Holder]) -> usize {
    // Only descriptors of one kind and device number can refer to one file.
    let mut files: HashMap<(HeldKind, Rdev), Vec<(DescriptorId, u32)>> = HashMap::new();
    let (mut next, mut unknown) = (0, 0);
    for holder in holders {
        for held in &mut holder.devices {
            if held.kind == HeldKind::Raw(DeviceKind::Tun) && held.ifname.is_none() {
                continue;
            }
            let known = files.entry((held.kind, held.rdev)).or_default();
            for descriptor in &mut held.descriptors {
                let id = (descriptor.thread, descriptor.fd);
                if known.len() >= MAX_FILES_PER_DEVICE {
                    unknown += 1;
                    continue;
                }
                descriptor.file = match search(known, id) {
                    Ok(Ok(at)) => Some(known[at].1),
                    Ok(Err(at)) => {
                        known.insert(at, (id, next));
                        next += 1;
                        Some(next - 1)
                    }
                    Err(error) => {
                        // The descriptor has been closed by now.
                        let gone = matches!(Errno::from_io_error(&error), Some(Errno::SRCH | Errno::BADF));
                        unknown += usize::from(!gone);
                        None
                    }
                };
            }
        }
    }
    unknown
}

/// As `slice::binary_search_by`, but comparing may fail: a process may end meanwhile, and kcmp(2)
/// needs the right to trace both. The order is the kernel's.
fn search(known: &mut Vec<(DescriptorId, u32)>, id: DescriptorId) -> io::Result<Result<usize, usize>> {
    // Checks that the descriptor is there, and that we have the right to compare it.
    compare_files(id, id)?;
    let (mut from, mut to) = (0, known.len());
    while from < to {
        let middle = from.midpoint(to);
        match compare_files(known[middle].0, id) {
            Ok(Ordering::Equal) => return Ok(Ok(middle)),
            Ok(Ordering::Less) => from = middle + 1,
            Ok(Ordering::Greater) => to = middle,
            // The other descriptor has been closed.
            Err(_) => {
                known.remove(middle);
                to -= 1;
            }
        }
    }
    Ok(Err(from))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;
    use std::path::PathBuf;

    use taptrail_kernel::proc::ProcessId;

    use super::*;
    use crate::scan::{ScannedDevice, ThreadDescriptor};

    fn holder(fds: &[RawFd]) -> Holder {
        let own = std::process::id();
        let descriptors =
            fds.iter().map(|fd| ThreadDescriptor { fd: *fd, thread: own, file: None }).collect();
        let held = ScannedDevice {
            kind: HeldKind::Vfio,
            path: PathBuf::new(),
            rdev: Rdev::TUN,
            ifname: None,
            netns: None,
            behind: None,
            descriptors,
        };
        Holder::of_test(ProcessId::of(std::process::id()).unwrap(), vec![held])
    }

    #[test]
    fn copies_have_one_number_and_a_second_open_has_another() {
        let opened: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        let copies: Vec<File> = opened.iter().rev().map(|file| file.try_clone().unwrap()).collect();
        let fds = |files: &[File]| files.iter().map(|file| file.as_raw_fd()).collect::<Vec<_>>();
        let mut holders = [holder(&fds(&opened)), holder(&fds(&copies))];
        assert_eq!(number_open_files(&mut holders), 0);
        let numbers = |holder: &Holder| {
            holder.devices[0].descriptors.iter().map(|of| of.file.unwrap()).collect::<Vec<_>>()
        };
        let [first, mut second] = holders.each_ref().map(numbers);
        assert_eq!(first, Vec::from_iter(0..20));
        second.reverse();
        assert_eq!(first, second);
        assert_eq!(holders[0].devices[0].queues(), 20);
    }

    #[test]
    fn a_closed_descriptor_is_no_copy() {
        let file = File::open("/dev/null").unwrap();
        let mut holders = [holder(&[file.as_raw_fd(), 1_000_000, 1_000_001])];
        assert_eq!(number_open_files(&mut holders), 0);
        assert_eq!(holders[0].devices[0].queues(), 3);
    }
}
