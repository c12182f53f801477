//! The processes of the host that hold one kind of device.

use std::cmp::Ordering;
use std::io;
use std::os::fd::RawFd;

use rustix::io::Errno;
use taptrail_record::DeviceKind;

use super::{
    DeviceNumbers, HeldDevice, compare_files, descriptor_tables, held_devices, is_gone, network_namespace,
    network_namespace_of, processes,
};

/// The largest number of descriptors that are read and compared.
const MAX_DESCRIPTORS: usize = 32 * 1024;

/// The descriptors of raw network devices in processes, in the tables of all their threads.
#[derive(Debug, Default)]
pub struct Holders {
    /// The process id, the id of the thread whose table it is in, and the descriptor.
    pub found: Vec<(u32, u32, HeldDevice)>,
    /// The number of processes that could not be inspected, or not completely.
    pub unseen: usize,
}

impl Holders {
    /// The descriptors of one kind of device, in all processes of `/proc`. Takes about 30 µs for
    /// each process.
    ///
    /// # Errors
    ///
    /// `/proc` can't be read.
    pub fn of(kind: DeviceKind) -> io::Result<Self> {
        let mut all = Self::default();
        let mut numbers = DeviceNumbers::default();
        for pid in processes()? {
            match all.process(pid, Some(kind), &mut numbers) {
                Err(error) if is_gone(&error) => {}
                Err(_) => all.unseen += 1,
                Ok(()) => {}
            }
        }
        Ok(all)
    }

    /// All descriptors of raw network devices in one process.
    ///
    /// # Errors
    ///
    /// ENOENT or ESRCH if it has ended, EACCES without permission to inspect it.
    pub fn in_process(pid: u32) -> io::Result<Self> {
        let mut all = Self::default();
        all.process(pid, None, &mut DeviceNumbers::default())?;
        Ok(all)
    }

    fn process(
        &mut self,
        pid: u32,
        wanted: Option<DeviceKind>,
        numbers: &mut DeviceNumbers,
    ) -> io::Result<()> {
        for thread in descriptor_tables(pid)? {
            let room = MAX_DESCRIPTORS.saturating_sub(self.found.len());
            if room == 0 {
                self.unseen += 1;
                return Ok(());
            }
            let held = match held_devices(thread, numbers, room) {
                // A thread may end before its process.
                Err(error) if thread != pid && is_gone(&error) => continue,
                held => held?,
            };
            self.unseen += usize::from(held.len() >= room);
            self.found.extend(held.into_iter().filter_map(|HeldDevice { fd, kind, path, rdev, ifname }| {
                let kind = kind.raw().filter(|kind| wanted.is_none_or(|wanted| wanted == *kind))?;
                Some((pid, thread, HeldDevice { fd, kind, path, rdev, ifname }))
            }));
        }
        Ok(())
    }

    /// Keeps only descriptors of processes in the calling thread's network namespace: interfaces of
    /// other namespaces may have the same names, and an open file of a deleted macvtap may have the
    /// number of a new one.
    ///
    /// # Errors
    ///
    /// The calling thread's own namespace can't be read.
    pub fn of_our_network(mut self) -> io::Result<Self> {
        let ours = network_namespace()?;
        self.found.retain(|(pid, ..)| network_namespace_of(*pid).is_ok_and(|theirs| theirs == ours));
        Ok(self)
    }

    /// The number of open files behind these descriptors: a file that was passed, inherited or
    /// duplicated counts once, and one that was closed meanwhile does not count.
    ///
    /// # Errors
    ///
    /// EPERM without permission to compare them, ENOSYS on a kernel without CONFIG_KCMP.
    pub fn open_files(&self) -> io::Result<usize> {
        let mut files: Vec<(u32, RawFd)> = Vec::new();
        for (_, thread, held) in &self.found {
            let place = (*thread, held.fd);
            // Checks that it is still open.
            match compare_files(place, place) {
                Err(error) if was_closed(&error) => continue,
                ours => ours?,
            };
            let (mut from, mut to) = (0, files.len());
            let known = loop {
                if from >= to {
                    break false;
                }
                let middle = from.midpoint(to);
                match compare_files(files[middle], place) {
                    Ok(Ordering::Equal) => break true,
                    Ok(Ordering::Less) => from = middle + 1,
                    Ok(Ordering::Greater) => to = middle,
                    // The other one was closed.
                    Err(error) if was_closed(&error) => {
                        files.remove(middle);
                        to -= 1;
                    }
                    Err(error) => return Err(error),
                }
            };
            if !known {
                files.insert(from, place);
            }
        }
        Ok(files.len())
    }
}

fn was_closed(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::BADF | Errno::SRCH))
}
