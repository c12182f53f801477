//! Finds the QEMU of a guest: by the pid in its manager's record, or by the guest's uuid.
//!
//! Once found, a QEMU is identified by pid and start time, and its pidfd shows when it has ended.
//! What a process says of itself may help to find it, and never ends it.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use taptrail_kernel::proc::{
    PidFd, ProcessId, ProcessStatus, command_line, is_gone, processes, sees_all_processes,
};
use taptrail_record::ClaimedGuest;
use uuid::Uuid;

use super::observe::{ObservedDescriptor, observed_descriptors};
use crate::scan::{Holder, IdentitySource, MAX_COMMAND_LINE_BYTES, Program, Scan};

/// How much later than its record a process may seem to have started: the clock may have been set.
const START_TIME_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// A QEMU that was found, and its command line.
#[derive(Debug)]
pub(super) struct FoundQemu {
    pub(super) process: ProcessId,
    pub(super) pidfd: PidFd,
    /// Its arguments as it shows them now: any process can rewrite its own.
    pub(super) arguments: Vec<OsString>,
}

impl FoundQemu {
    /// Whether its command line has this uuid.
    pub(super) fn is_named(&self, uuid: Uuid) -> bool {
        self.claimed_uuid() == Some(uuid)
    }

    /// The uuid on its command line.
    fn claimed_uuid(&self) -> Option<Uuid> {
        ClaimedGuest::of_qemu(&self.arguments).uuid
    }
}

/// The result of looking for the process that a record names by its pid.
#[derive(Debug)]
pub(super) enum RecordedProcess {
    /// The process was found, and it runs.
    Runs(FoundQemu),
    /// It has ended: no process with that pid is as old as the record.
    Ended,
    /// The pid may be one of a container, and it can't be determined which process is meant.
    Unsure,
}

/// The pid namespace of the pids in a manager's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PidNamespace {
    /// The records have pids of our own namespace.
    Here,
    /// A container's, by the inode of its pid namespace.
    Container(u64),
    /// Unknown: the manager is gone, or can't be inspected.
    Unknown,
}

/// Finds the process `pid` of a record that `writer` wrote at the time `at`. The kernel's pids and
/// start times decide. What a process says of itself counts only if the manager may be in a
/// container and can't be inspected any more, and it never ends a process. `scan` scans all
/// processes; it is called only if needed.
pub(super) fn recorded_process(
    (pid, at): (u32, Timestamp),
    uuid: Uuid,
    writer: Option<u32>,
    is_its_device: impl Fn(&ObservedDescriptor) -> bool,
    scan: impl FnOnce() -> io::Result<Rc<Scan>>,
) -> io::Result<RecordedProcess> {
    let runs = |found: Option<FoundQemu>| found.map_or(RecordedProcess::Ended, RecordedProcess::Runs);
    let here = |pid| process_as_old_as(pid, at)?.map_or(Ok(None), open_process);
    match pid_namespace(writer, at) {
        PidNamespace::Here => Ok(runs(here(pid)?)),
        PidNamespace::Container(inode) => Ok(runs(within(pid, inode, at)?.map_or(Ok(None), open_process)?)),
        PidNamespace::Unknown => {
            let found = here(pid)?;
            if found.as_ref().is_some_and(|found| found.is_named(uuid)) {
                return Ok(runs(found));
            }
            let scan = scan()?;
            if let Some(process) = find_by_uuid(&scan.holders, uuid, Some(pid), &is_its_device)
                && let Some(found) = open_process(process)?
            {
                return Ok(RecordedProcess::Runs(found));
            }
            let Some(found) = found else {
                let may_be = scan.holders.iter().any(|holder| holder.within.contains(&pid));
                let unsure = may_be || scan.unseen.may_have(Some(pid));
                return Ok(if unsure { RecordedProcess::Unsure } else { RecordedProcess::Ended });
            };
            let holds_its = |holder: &Holder| {
                holder.process == found.process
                    && observed_descriptors(holder.clone()).iter().any(&is_its_device)
            };
            let is_it = found.claimed_uuid().is_none() || scan.holders.iter().any(holds_its);
            Ok(if is_it { RecordedProcess::Runs(found) } else { RecordedProcess::Unsure })
        }
    }
}

/// The process with this pid, unless it is younger than the record of the time `at`.
fn process_as_old_as(pid: u32, at: Timestamp) -> io::Result<Option<ProcessId>> {
    let process = match ProcessId::of(pid) {
        Err(error) if is_gone(&error) => return Ok(None),
        process => process?,
    };
    let started = Timestamp::try_from(process.started()).unwrap_or(Timestamp::MAX);
    Ok((started.duration_since(at) <= START_TIME_TOLERANCE).then_some(process))
}

/// The pid namespace of a manager that wrote a record at the time `at` or before.
fn pid_namespace(writer: Option<u32>, at: Timestamp) -> PidNamespace {
    // The kernel's audit records have pids of the first pid namespace.
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

/// The process that has this pid in a pid namespace below ours.
fn within(pid: u32, namespace: u64, at: Timestamp) -> io::Result<Option<ProcessId>> {
    for process in processes()? {
        let is_it = ProcessStatus::of(process).is_ok_and(|status| status.within.last() == Some(&pid))
            && pid_namespace_of(process) == Some(namespace);
        if is_it && let Some(process) = process_as_old_as(process, at)? {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// Opens a pidfd of a process, whatever its command line says; none if it is gone.
pub(super) fn open_process(process: ProcessId) -> io::Result<Option<FoundQemu>> {
    let pidfd = match PidFd::open(process) {
        Err(error) if is_gone(&error) => return Ok(None),
        pidfd => pidfd?,
    };
    let arguments = command_line(process.pid, MAX_COMMAND_LINE_BYTES).unwrap_or_default();
    Ok(Some(FoundQemu { process, pidfd, arguments }))
}

/// The one process that runs the guest with this uuid. With `within`, it must have this pid in a
/// container.
///
/// What a process says of itself proves nothing, so something else has to agree: libvirt's state of
/// the guest; or the process runs a QEMU that only root can have installed, and holds a device for
/// which `is_its_device` is true.
pub(super) fn find_by_uuid(
    holders: &[Holder],
    uuid: Uuid,
    within: Option<u32>,
    is_its_device: impl Fn(&ObservedDescriptor) -> bool,
) -> Option<ProcessId> {
    let agrees = |holder: &&Holder| {
        if within.is_some_and(|number| !holder.within.contains(&number)) {
            return false;
        }
        let Some(guest) = holder.guest.as_ref().filter(|guest| guest.uuid == Some(uuid)) else {
            return false;
        };
        match guest.by {
            IdentitySource::Libvirt => true,
            IdentitySource::Ledger => false,
            IdentitySource::CommandLine => {
                holder.program == Program::Qemu
                    && is_roots(holder.process)
                    && observed_descriptors((*holder).clone()).iter().any(&is_its_device)
            }
        }
    };
    let mut all = holders.iter().filter(agrees);
    let one = all.next()?;
    all.next().is_none().then_some(one.process)
}

/// Whether a process runs a program that only root can write.
fn is_roots(process: ProcessId) -> bool {
    let exe = format!("/proc/{}/exe", process.pid);
    let Ok(file) = std::fs::metadata(Path::new(&exe)) else { return false };
    // The pid may have passed to another process meanwhile.
    file.uid() == 0 && file.mode() & 0o022 == 0 && ProcessId::of(process.pid).is_ok_and(|now| now == process)
}
