//! Who asks: the helper's real user and login user, and the process that started it.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use taptrail_kernel::proc::{ProcessId, ProcessStatus, command_line, is_gone, login_uid};
use taptrail_record::{ClaimedGuest, Requester};

/// How much of a command line is read, in bytes.
const MAX_COMMAND_LINE_BYTES: u64 = 256 << 10;

/// The caller, as far as it can be known.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) requester: Requester,
    /// The parent's start time in clock ticks since boot; none if it had ended.
    pub(crate) start_time: Option<u64>,
    /// The guest's name and uuid as the parent's command line has them: the process may have
    /// written anything there.
    pub(crate) claims: ClaimedGuest,
    /// Whether the parent ended while it was looked at.
    pub(crate) is_gone: bool,
}

impl Caller {
    /// Of this process.
    ///
    /// # Errors
    ///
    /// It can't be looked at, as with too few descriptors, which the caller can cause.
    pub(crate) fn find() -> io::Result<Self> {
        let parent = parent();
        let (start_time, claims) = asker(parent)?;
        Ok(Self {
            requester: Requester {
                uid: rustix::process::getuid().as_raw(),
                // A kernel without audit has none.
                auid: shown(login_uid(std::process::id()))?.flatten().unwrap_or(Requester::UNSET),
                pid: parent,
            },
            start_time,
            claims,
            // Its pid was its own as long as it was the parent.
            is_gone: parent != self::parent(),
        })
    }

    /// Of another process, which runs the helper.
    pub(crate) fn of(helper: u32) -> io::Result<Self> {
        let status = ProcessStatus::of(helper)?;
        let (start_time, claims) = asker(status.parent)?;
        Ok(Self {
            requester: Requester {
                // The helper has become its real user.
                uid: status.uid,
                auid: login_uid(helper)?.unwrap_or(Requester::UNSET),
                pid: status.parent,
            },
            start_time,
            claims,
            is_gone: ProcessStatus::of(helper)?.parent != status.parent,
        })
    }
}

/// The start time of the helper's parent, and what it claims.
fn asker(parent: u32) -> io::Result<(Option<u64>, ClaimedGuest)> {
    let start_time = shown(ProcessId::of(parent))?.map(|id| id.start_time);
    Ok((start_time, ClaimedGuest::of_qemu(&arguments_of_qemu(parent)?)))
}

/// What `/proc` shows of a process; none if the process has ended, or is hidden from this one.
fn shown<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

/// The pid of this process's parent; 0 if it is in a pid namespace that this process can't see.
fn parent() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
}

/// The parent's arguments; its own parent's, if it is the shell by which QEMU runs a helper with
/// options.
fn arguments_of_qemu(parent: u32) -> io::Result<Vec<OsString>> {
    let arguments = |pid| shown(command_line(pid, MAX_COMMAND_LINE_BYTES)).map(Option::unwrap_or_default);
    let of_parent = arguments(parent)?;
    if !is_shell(&of_parent) {
        return Ok(of_parent);
    }
    shown(ProcessStatus::of(parent))?.map_or(Ok(Vec::new()), |status| arguments(status.parent))
}

fn is_shell(arguments: &[OsString]) -> bool {
    let [program, option, ..] = arguments else { return false };
    Path::new(program).file_name().is_some_and(|name| name == "sh") && option == "-c"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shell_with_a_command_is_passed_over() {
        let is_shell =
            |arguments: &[&str]| is_shell(&arguments.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(is_shell(&["sh", "-c", "helper --fd=7"]) && is_shell(&["/bin/sh", "-c", ""]));
        assert!(
            !is_shell(&["sh"]) && !is_shell(&["qemu", "-c"]) && !is_shell(&["sh", "x"]) && !is_shell(&[])
        );
    }

    #[test]
    fn the_parent_of_this_test_is_alive() {
        let caller = Caller::find().unwrap();
        assert_eq!(caller.requester.pid, ProcessStatus::of(std::process::id()).unwrap().parent);
        assert_eq!(caller.start_time, Some(ProcessId::of(caller.requester.pid).unwrap().start_time));
        assert!(!caller.is_gone);
    }
}
