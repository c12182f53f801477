//! Who asks: the helper's real user and login user, and the process that started it.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use taptrail_kernel::proc::{ProcessId, ProcessStatus, command_line, login_uid};
use taptrail_record::Requester;
use uuid::Uuid;

/// How much of a command line is read, in bytes.
const MAX_COMMAND_LINE_BYTES: u64 = 256 << 10;
/// The longest name that is recorded, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The caller, as far as it can be known.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) requester: Requester,
    /// The parent's start time in clock ticks since boot; none if it had ended.
    pub(crate) start_time: Option<u64>,
    /// The guest's name and uuid as the parent's command line has them: the process may have
    /// written anything there.
    pub(crate) claims: Claims,
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
fn asker(parent: u32) -> io::Result<(Option<u64>, Claims)> {
    let start_time = shown(ProcessId::of(parent))?.map(|id| id.start_time);
    Ok((start_time, Claims::of(&arguments_of_qemu(parent)?)))
}

/// What `/proc` shows of a process; none if the process has ended, or is hidden from this one.
fn shown<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM) => Ok(None),
            _ => Err(error),
        },
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

/// A guest's name and uuid on a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<Uuid>,
}

impl Claims {
    /// Of options given twice the last one counts, as for QEMU.
    fn of(arguments: &[OsString]) -> Self {
        let value = |option: &str| {
            let is_option = |argument: &OsString| {
                let word = argument.to_str().and_then(|text| text.strip_prefix('-'));
                word.is_some_and(|word| word.strip_prefix('-').unwrap_or(word) == option)
            };
            arguments.get(arguments.iter().rposition(is_option)? + 1)?.to_str()
        };
        let name = value("name").and_then(guest_name);
        Self {
            name: name.filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len())),
            uuid: value("uuid").and_then(|text| text.parse().ok()),
        }
    }
}

/// The value of `guest=` in `-name`, or of its first part if that has no key. Two commas stand for
/// one.
fn guest_name(value: &str) -> Option<String> {
    // No argument contains a NUL.
    let parts: Vec<String> =
        value.replace(",,", "\0").split(',').map(|part| part.replace('\0', ",")).collect();
    let with_key = parts.iter().rev().find_map(|part| part.strip_prefix("guest=")).map(str::to_owned);
    with_key.or_else(|| parts.into_iter().next().filter(|first| !first.contains('=')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use proptest::prelude::*;

    use super::*;

    fn claims(arguments: &[&str]) -> (Option<String>, bool) {
        let claims = Claims::of(&arguments.iter().map(OsString::from).collect::<Vec<_>>());
        (claims.name, claims.uuid.is_some())
    }

    #[test]
    fn names_and_uuids_are_found_as_qemu_reads_them() {
        const UUID: &str = "2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e";
        for (arguments, name, uuid) in [
            (&["qemu", "-name", "guest=web1,debug-threads=on", "-uuid", UUID][..], Some("web1"), true),
            (&["qemu", "--name", "web1", "--uuid", "no"], Some("web1"), false),
            (&["qemu", "-name", "process=x,guest=a,,b=c"], Some("a,b=c"), false),
            (&["qemu", "-name", "a,,,debug-threads=on"], Some("a,"), false),
            (&["qemu", "-name", "debug-threads=on"], None, false),
            (&["qemu", "-name", "a", "-name", "b"], Some("b"), false),
            (&["qemu", "-name"], None, false),
            (&["qemu", "-name", ""], None, false),
            (&[], None, false),
        ] {
            assert_eq!(claims(arguments), (name.map(str::to_owned), uuid), "{arguments:?}");
        }
        assert_eq!(claims(&["qemu", "-name", &"x".repeat(MAX_NAME_BYTES + 1)]), (None, false));
    }

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

    proptest! {
        #[test]
        fn no_command_line_makes_it_panic(
            arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4),
            name in "(guest=|process=|,){0,3}[a-z,=]{0,20}",
        ) {
            let mut arguments: Vec<_> = arguments.into_iter().map(OsString::from_vec).collect();
            arguments.extend([OsString::from("-name"), OsString::from(name)]);
            let claims = Claims::of(&arguments);
            prop_assert!(claims.name.is_none_or(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES));
        }
    }
}
