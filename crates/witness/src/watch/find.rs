//! The QEMU of a guest: told by its manager's record, or found by the guest's uuid.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rustix::io::Errno;
use taptrail_kernel::proc::{PidFd, ProcessId, command_line};
use uuid::Uuid;

use super::sight::{Sighted, sighted};
use crate::scan::{COMMAND_LINE, Holder, KnownBy, Program, identity};

/// How much later than the record that tells it a process may seem to have started: clocks are set.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

/// A QEMU, and what it was started with.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) process: ProcessId,
    pub(super) pidfd: PidFd,
    pub(super) arguments: Vec<std::ffi::OsString>,
    /// Whether it says that it runs the guest.
    pub(super) is_named: bool,
}

/// The process that a record of this time told; none when it is gone, or another has its pid by now.
pub(super) fn told(pid: u32, at: Timestamp, uuid: Uuid) -> io::Result<Option<Found>> {
    let process = match ProcessId::of(pid) {
        Err(error) if is_gone(&error) => return Ok(None),
        process => process?,
    };
    let started = Timestamp::try_from(process.started()).unwrap_or(Timestamp::MAX);
    if started.duration_since(at) > TOLERANCE {
        return Ok(None);
    }
    open(process, uuid)
}

/// Takes hold of a process, unless it says that it runs another guest.
pub(super) fn open(process: ProcessId, uuid: Uuid) -> io::Result<Option<Found>> {
    let pidfd = match PidFd::open(process) {
        Err(error) if is_gone(&error) => return Ok(None),
        pidfd => pidfd?,
    };
    let arguments = command_line(process.pid, COMMAND_LINE).unwrap_or_default();
    let (_, named) = identity(&arguments);
    let is_named = named == Some(uuid);
    Ok(named.is_none_or(|named| named == uuid).then_some(Found { process, pidfd, arguments, is_named }))
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
