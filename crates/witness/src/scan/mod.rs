//! Who on this host holds which device, as the kernel shows it.
//!
//! ```text
//!   /proc/PID/fd ─▶ devices ─▶ grouped by interface ─▶ places: namespace, link, bridge ─▶ copies: kcmp(2)
//!                     └─▶ process: start time, uid, program, guest (ledger, libvirt, command line)
//! ```
//!
//! A process that ends meanwhile holds nothing. One that can't be looked into is named, with the
//! reason.

mod attached;
mod command_line;
mod copies;
mod guests;
mod libvirt;
mod manager;
mod places;
mod program;
mod under_way;
mod unseen;

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::io::Errno;
use taptrail_kernel::proc::{
    DeviceNumbers, HeldDevice, HeldKind, ProcessId, Status, command_line as arguments, descriptor_tables,
    exe, held_devices, processes, sees_all_processes,
};
use taptrail_record::{IfName, Rdev};

pub(crate) use self::attached::Attached;
pub use self::attached::{Keeper, Unshown};
pub(crate) use self::command_line::identity;
pub use self::guests::LIBVIRT;
pub use self::guests::{Identity, KnownBy, Named, Sources};
pub(crate) use self::libvirt::interfaces;
pub use self::manager::{Manager, ManagerBy, ManagerKind};
pub use self::places::Behind;
pub use self::program::Program;
pub use self::under_way::UnderWay;
pub use self::unseen::{Unseen, UnseenProcess, UnseenReason};

use self::guests::Guests;
use self::manager::Managed;
use self::places::Places;

/// The most bytes of a command line that are read: libvirt's for a guest of 100 disks has 60 KiB.
pub(crate) const COMMAND_LINE: u64 = 256 * 1024;

/// The most devices of one process that are looked at: QEMU takes 256 queues for an interface.
const MOST: usize = 8192;

/// What the processes of this host hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Those that hold a device, in the order of their pids.
    pub holders: Vec<Holder>,
    /// How many processes were looked at.
    pub processes: usize,
    /// Taps with open files that no process shows: one that could not be seen may have them.
    pub unshown: Vec<Unshown>,
    /// Where there are such: the processes that keep files where they can't be looked at.
    pub keepers: Vec<Keeper>,
    /// What supervisors are about.
    pub under_way: Vec<UnderWay>,
    /// What could not be seen.
    pub unseen: Unseen,
}

/// A process that holds a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which process.
    pub process: ProcessId,
    /// Its numbers in pid namespaces below ours, the innermost last: a container's manager knows it by one of them.
    pub within: Vec<u32>,
    /// When it started, by this host's clock.
    pub started: Option<Timestamp>,
    /// The process that it is a child of.
    pub parent: Option<u32>,
    /// The user that it acts as.
    pub uid: Option<u32>,
    /// The program that it runs, as the kernel shows it; ends in ` (deleted)` when its file is gone.
    pub exe: Option<PathBuf>,
    /// What sort of program that is, by its name.
    pub program: Program,
    /// The guest that it runs, where that is told.
    pub guest: Option<Identity>,
    /// What manages that guest, as far as it can be seen; none of a process that runs no guest.
    pub manager: Option<Manager>,
    /// Its network namespace's inode; its devices may be in others.
    pub netns: Option<u64>,
    /// What it holds, each interface once.
    pub devices: Vec<Held>,
}

/// A device that a process holds, with all its descriptors there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What it is.
    pub kind: HeldKind,
    /// The node's path as that process opened it.
    pub path: PathBuf,
    /// The node's device number.
    pub rdev: Rdev,
    /// The host interface behind it, in its own network namespace; of taps and macvtaps.
    pub ifname: Option<IfName>,
    /// That namespace's inode, where it is known.
    pub netns: Option<u64>,
    /// The interface as rtnetlink describes it, where it was found.
    pub behind: Option<Behind>,
    /// The descriptors, by their numbers.
    pub descriptors: Vec<Descriptor>,
}

/// One descriptor of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number there.
    pub fd: RawFd,
    /// The thread that has it: the process itself, but for threads with descriptors of their own.
    pub thread: u32,
    /// The open file behind it: equal numbers within one [`Scan`] are one open file, that was handed
    /// over, inherited or duplicated. None where the kernel did not compare it.
    pub file: Option<u32>,
}

impl Held {
    /// How many queues it has there: open files, each counted once.
    pub fn queues(&self) -> u32 {
        let mut files: Vec<_> = self.descriptors.iter().filter_map(|of| of.file).collect();
        files.sort_unstable();
        files.dedup();
        let unknown = self.descriptors.iter().filter(|of| of.file.is_none()).count();
        u32::try_from(files.len() + unknown).unwrap_or(u32::MAX)
    }
}

/// Looks at processes.
#[derive(Debug)]
pub struct Scanner {
    sources: Sources,
    numbers: DeviceNumbers,
}

impl Scanner {
    /// One that learns from these which guest a process runs.
    pub fn new(sources: Sources) -> Self {
        Self { sources, numbers: DeviceNumbers::default() }
    }

    /// Looks at all processes. Takes about 30 µs for each, and 200 µs more for each that holds a device.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn scan(&mut self) -> io::Result<Scan> {
        let pids = processes()?;
        let mut scan = self.scan_of(pids.iter().copied())?;
        scan.unseen.outside = !sees_all_processes()?;
        // Read after that: what was over by then is in the trail.
        scan.under_way = under_way::read(&self.sources);
        Ok(scan)
    }

    /// Adds to a scan of all processes what they hold and don't show. Takes a few µs more for each, and a question to the
    /// kernel for each network namespace.
    pub fn look_for_unshown(&self, scan: &mut Scan) {
        // A container's taps are mostly those of processes outside.
        if scan.unseen.outside {
            return;
        }
        let Ok(pids) = processes() else { return };
        scan.unshown = attached::find(&scan.holders);
        if !scan.unshown.is_empty() {
            scan.keepers = attached::keepers(&pids);
        }
    }

    /// Looks at these processes.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn scan_of(&mut self, pids: impl IntoIterator<Item = u32>) -> io::Result<Scan> {
        let mut looking = Looking::new(&self.sources);
        let mut scan = Scan::default();
        // A driver may have been loaded since.
        self.numbers = DeviceNumbers::default();
        for pid in pids {
            scan.processes += 1;
            match looking.process(pid, &mut self.numbers) {
                Ok(Some(holder)) => scan.holders.push(holder),
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => scan.unseen.processes.extend(UnseenProcess::refused(pid, &error)),
            }
        }
        scan.unseen.places = looking.places.find(&mut scan.holders);
        scan.unseen.copies = copies::number(&mut scan.holders);
        scan.unseen.crowded = looking.crowded;
        Ok(scan)
    }

    /// Looks at one process; none when it is gone, or holds nothing.
    ///
    /// # Errors
    /// EACCES without the right to look into it.
    pub fn look(&mut self, process: ProcessId) -> io::Result<Option<Holder>> {
        let mut looking = Looking::new(&self.sources);
        let found = match looking.process(process.pid, &mut self.numbers) {
            Err(error) if is_gone(&error) => return Ok(None),
            found => found?,
        };
        let mut found: Vec<_> = found.into_iter().filter(|holder| holder.process == process).collect();
        looking.places.find(&mut found);
        copies::number(&mut found);
        Ok(found.pop())
    }
}

/// What one scan needs to know.
struct Looking {
    guests: Guests,
    places: Places,
    crowded: Vec<UnseenProcess>,
}

impl Looking {
    fn new(sources: &Sources) -> Self {
        Self { guests: Guests::read(sources), places: Places::default(), crowded: Vec::new() }
    }

    /// What a process holds, by itself.
    fn process(&mut self, pid: u32, numbers: &mut DeviceNumbers) -> io::Result<Option<Holder>> {
        let mut all = |pid| -> io::Result<Vec<(u32, HeldDevice<HeldKind>)>> {
            let mut all = Vec::new();
            for thread in descriptor_tables(pid)? {
                match held_devices(thread, numbers, MOST + 1 - all.len()) {
                    Ok(held) => all.extend(held.into_iter().map(|held| (thread, held))),
                    // One of its threads may end before it.
                    Err(error) if thread != pid && is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(all)
        };
        if all(pid)?.is_empty() {
            return Ok(None);
        }
        // Looked at again with its start time known: most processes hold nothing, and need not be asked
        // for theirs.
        let process = ProcessId::of(pid)?;
        let mut held = all(pid)?;
        if held.len() > MOST {
            held.truncate(MOST);
            self.crowded.push(UnseenProcess::crowded(pid));
        }
        let Some((thread, _)) = held.first() else { return Ok(None) };
        // The first thread may have ended, and with it what it shows of the process.
        let thread = *thread;
        let arguments = arguments(thread, COMMAND_LINE).unwrap_or_default();
        let exe = exe(thread).ok();
        let netns = self.places.of_process(thread);
        let mut devices: Vec<_> = held
            .into_iter()
            .map(|(thread, held)| (self.places.of_tap(process, thread, &held), thread, held))
            .collect();
        let lost = |(place, _, held): &(Option<u64>, u32, HeldDevice<HeldKind>)| {
            place.is_none() && (held.ifname.is_some() || netns.is_none())
        };
        if devices.iter().any(lost) {
            // What was given up meanwhile, or went with its process, is nowhere, and nobody holds it.
            let still = all(pid)?;
            devices.retain(|of| !lost(of) || still.contains(&(of.1, of.2.clone())));
        }
        if devices.is_empty() {
            return Ok(None);
        }
        let status = Status::of(thread).ok();
        let program = Program::of(exe.as_deref());
        let guest = self.guests.of(process, &arguments);
        let (parent, uid) = (status.as_ref().map(|of| of.parent), status.as_ref().map(|of| of.uid));
        let managed = Managed { program, guest: guest.as_ref(), arguments: &arguments, parent, uid };
        let manager = managed.manager();
        let holder = Holder {
            process,
            started: Timestamp::try_from(process.started()).ok(),
            parent,
            uid,
            within: status.map(|status| status.within).unwrap_or_default(),
            program,
            guest,
            manager,
            exe,
            netns,
            devices: grouped(devices),
        };
        // Else what was found is partly another's.
        if ProcessId::of(pid)? != process {
            return Err(Errno::SRCH.into());
        }
        Ok(Some(holder))
    }
}

/// Each interface, or node, once.
fn grouped(devices: Vec<(Option<u64>, u32, HeldDevice<HeldKind>)>) -> Vec<Held> {
    let mut groups: Vec<Held> = Vec::new();
    for (netns, thread, HeldDevice { fd, kind, path, rdev, ifname }) in devices {
        let descriptor = Descriptor { fd, thread, file: None };
        let same =
            |of: &&mut Held| (of.kind, of.rdev, of.netns) == (kind, rdev, netns) && of.ifname == ifname;
        match groups.iter_mut().find(same) {
            Some(group) => group.descriptors.push(descriptor),
            None => {
                let descriptors = vec![descriptor];
                groups.push(Held { kind, path, rdev, ifname, netns, behind: None, descriptors });
            }
        }
    }
    groups
}

fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}
