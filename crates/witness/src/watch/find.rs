//! The QEMU of a guest: told by its manager's record, or found by the guest's uuid.
//!
//! Once it is found, pid and start time say which process it is, and the kernel says when it has ended. What a
//! process says of itself may help to find it, and never ends it.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use rustix::io::Errno;
use taptrail_kernel::proc::{PidFd, ProcessId, Status, command_line, processes, sees_all_processes};
use uuid::Uuid;

use super::sight::{Sighted, sighted};
use crate::scan::{COMMAND_LINE, Holder, KnownBy, Program, Scan, identity};

/// How much later than the record that tells it a process may seem to have started: clocks are set.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// A QEMU, and what it shows of its start.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) process: ProcessId,
    pub(super) pidfd: PidFd,
    /// As it shows them now: any process can rewrite its own.
    pub(super) arguments: Vec<OsString>,
}

impl Found {
    /// Whether it says that it runs the guest.
    pub(super) fn is_named(&self, uuid: Uuid) -> bool {
        self.says() == Some(uuid)
    }

    /// The guest that it says it runs.
    fn says(&self) -> Option<Uuid> {
        identity(&self.arguments).1
    }
}

/// What became of the process that a record names by its pid.
#[derive(Debug)]
pub(super) enum ToldProcess {
    /// It is this one.
    Runs(Found),
    /// None of that number is as old as the record.
    Ended,
    /// The number may be of a container, and the kernel does not show which process is meant.
    Unsure,
}

/// Whose process numbers a manager's records have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PidNamespace {
    /// This host's.
    Here,
    /// Those of a container, by the inode of its pid namespace.
    Container(u64),
    /// It is gone, or can't be looked at.
    Unknown,
}

/// A process that a record of the time `at` tells, which `writer` wrote. The kernel's numbers and start times
/// decide. What a process says of itself counts only where the manager may be in a container and can't be asked
/// for its numbers any more, and never ends it. `scan` looks at all processes, and is asked where it must be.
pub(super) fn told(
    (pid, at): (u32, Timestamp),
    uuid: Uuid,
    writer: Option<u32>,
    is_told: impl Fn(&Sighted) -> bool,
    scan: impl FnOnce() -> io::Result<Rc<Scan>>,
) -> io::Result<ToldProcess> {
    let runs = |found: Option<Found>| found.map_or(ToldProcess::Ended, ToldProcess::Runs);
    let here = |pid| process_as_old_as(pid, at)?.map_or(Ok(None), open);
    match pid_namespace(writer, at) {
        PidNamespace::Here => Ok(runs(here(pid)?)),
        PidNamespace::Container(inode) => Ok(runs(within(pid, inode, at)?.map_or(Ok(None), open)?)),
        PidNamespace::Unknown => {
            let found = here(pid)?;
            if found.as_ref().is_some_and(|found| found.is_named(uuid)) {
                return Ok(runs(found));
            }
            let scan = scan()?;
            if let Some(process) = by_uuid(&scan.holders, uuid, Some(pid), &is_told)
                && let Some(found) = open(process)?
            {
                return Ok(ToldProcess::Runs(found));
            }
            let Some(found) = found else {
                let may_be = scan.holders.iter().any(|holder| holder.within.contains(&pid));
                let unsure = may_be || scan.unseen.may_have(Some(pid));
                return Ok(if unsure { ToldProcess::Unsure } else { ToldProcess::Ended });
            };
            let holds_its = |holder: &Holder| {
                holder.process == found.process && sighted(holder.clone()).iter().any(&is_told)
            };
            let is_it = found.says().is_none() || scan.holders.iter().any(holds_its);
            Ok(if is_it { ToldProcess::Runs(found) } else { ToldProcess::Unsure })
        }
    }
}

/// The process with this pid, unless it is younger than the record that tells it.
fn process_as_old_as(pid: u32, at: Timestamp) -> io::Result<Option<ProcessId>> {
    let process = match ProcessId::of(pid) {
        Err(error) if is_gone(&error) => return Ok(None),
        process => process?,
    };
    let started = Timestamp::try_from(process.started()).unwrap_or(Timestamp::MAX);
    Ok((started.duration_since(at) <= TOLERANCE).then_some(process))
}

/// The pid namespace of a manager that wrote a record at that time, or before.
fn pid_namespace(writer: Option<u32>, at: Timestamp) -> PidNamespace {
    // The kernel's audit has the numbers of the first namespace.
    let writer = writer.filter(|_| sees_all_processes().unwrap_or(false));
    let is_it = |pid: &u32| process_as_old_as(*pid, at).is_ok_and(|process| process.is_some());
    let Some(writer) = writer.filter(is_it) else { return PidNamespace::Unknown };
    match (pid_namespace_of(writer), pid_namespace_of(std::process::id())) {
        (Some(theirs), Some(ours)) if theirs == ours => PidNamespace::Here,
        (Some(theirs), Some(_)) => PidNamespace::Container(theirs),
        _ => PidNamespace::Unknown,
    }
}

/// The inode of a process's pid namespace (namespaces(7)).
fn pid_namespace_of(pid: u32) -> Option<u64> {
    Some(std::fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino())
}

/// The process that has this number in a pid namespace below ours.
fn within(pid: u32, namespace: u64, at: Timestamp) -> io::Result<Option<ProcessId>> {
    for process in processes()? {
        let is_it = Status::of(process).is_ok_and(|status| status.within.last() == Some(&pid))
            && pid_namespace_of(process) == Some(namespace);
        if is_it && let Some(process) = process_as_old_as(process, at)? {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// Takes hold of a process, whatever it says of itself; none when it is gone.
pub(super) fn open(process: ProcessId) -> io::Result<Option<Found>> {
    let pidfd = match PidFd::open(process) {
        Err(error) if is_gone(&error) => return Ok(None),
        pidfd => pidfd?,
    };
    let arguments = command_line(process.pid, COMMAND_LINE).unwrap_or_default();
    Ok(Some(Found { process, pidfd, arguments }))
}

/// The one process that runs the guest with this uuid; `within`: and has this number in a container.
///
/// What a process says of itself proves nothing, so something else has to agree: libvirt's own state of the guest, or
/// that it runs a program that only root can have put there and holds a device of an interface that `is_told`.
pub(super) fn by_uuid(
    holders: &[Holder],
    uuid: Uuid,
    within: Option<u32>,
    is_told: impl Fn(&Sighted) -> bool,
) -> Option<ProcessId> {
    let agrees = |holder: &&Holder| {
        if within.is_some_and(|number| !holder.within.contains(&number)) {
            return false;
        }
        let Some(guest) = holder.guest.as_ref().filter(|guest| guest.uuid == Some(uuid)) else {
            return false;
        };
        match guest.by {
            KnownBy::Libvirt => true,
            KnownBy::Ledger => false,
            KnownBy::CommandLine => {
                holder.program == Program::Qemu
                    && is_roots(holder.process)
                    && sighted((*holder).clone()).iter().any(&is_told)
            }
        }
    };
    let mut all = holders.iter().filter(agrees);
    let one = all.next()?;
    all.next().is_none().then_some(one.process)
}

/// Whether a process runs a program that nobody but root can write.
fn is_roots(process: ProcessId) -> bool {
    let exe = format!("/proc/{}/exe", process.pid);
    let Ok(file) = std::fs::metadata(Path::new(&exe)) else { return false };
    // The pid may have passed to another meanwhile.
    file.uid() == 0 && file.mode() & 0o022 == 0 && ProcessId::of(process.pid).is_ok_and(|now| now == process)
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}
