use crate::number::decimal;
use crate::pairs::{Pair, Pairs, Value};
use crate::{Line, RecordType};

/// A call of open(2) or one of its variants, from the kernel's `SYSCALL` record, or from its
/// `URINGOP` record for `io_uring`. The opened file is in the [`PathRecord`](crate::PathRecord)s
/// with the same stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall<'a> {
    /// The calling process.
    pub pid: u32,
    /// Its parent process.
    pub ppid: Option<u32>,
    /// The descriptor; none if the open failed, or was by `io_uring`, where the kernel does not log
    /// it.
    pub fd: Option<i32>,
    /// Why it failed (`errno(3)`).
    pub errno: Option<i32>,
    pub(crate) exe: Option<Value<'a>>,
}

/// An architecture's numbers of these calls.
struct Arch {
    name: &'static [u8],
    calls: &'static [(u32, Call)],
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Open,
    OpenAt,
    /// Its flags are behind a pointer, and not in the record.
    OpenAt2,
    Creat,
    /// `open_by_handle_at(2)`: its flags are the third argument, as openat's.
    ByHandle,
    /// Operations are submitted to `io_uring`, among them an open. The record does not have its
    /// outcome.
    Uring,
}

/// `AUDIT_ARCH_X86_64`, `…_I386`, `…_AARCH64` and `…_ARM` (linux/audit.h), with the calls' numbers
/// from their unistd.h.
const ARCHES: [Arch; 4] = [
    Arch {
        name: b"c000003e",
        calls: &[
            (257, Call::OpenAt),
            (2, Call::Open),
            (437, Call::OpenAt2),
            (85, Call::Creat),
            (304, Call::ByHandle),
            (426, Call::Uring),
        ],
    },
    Arch {
        name: b"40000003",
        calls: &[
            (295, Call::OpenAt),
            (5, Call::Open),
            (437, Call::OpenAt2),
            (8, Call::Creat),
            (342, Call::ByHandle),
            (426, Call::Uring),
        ],
    },
    Arch {
        name: b"c00000b7",
        calls: &[(56, Call::OpenAt), (437, Call::OpenAt2), (265, Call::ByHandle), (426, Call::Uring)],
    },
    Arch {
        name: b"40000028",
        calls: &[
            (322, Call::OpenAt),
            (5, Call::Open),
            (437, Call::OpenAt2),
            (8, Call::Creat),
            (371, Call::ByHandle),
            (426, Call::Uring),
        ],
    },
];

/// `IORING_OP_OPENAT` and `IORING_OP_OPENAT2` (linux/io_uring.h).
const URING_OPENS: [&[u8]; 2] = [b"18", b"28"];

/// The flag of a descriptor that only names a file (`O_PATH`, asm-generic/fcntl.h).
const O_PATH: u64 = 0o10_000_000;

impl<'a> Syscall<'a> {
    /// Reads a line of type `SYSCALL` or `URINGOP`; none if it is another call, or lacks the
    /// outcome.
    ///
    /// Known architectures are x86-64 and aarch64, with their 32-bit calls. On others, the call is
    /// recognised by its name in the ENRICHED format. An open with `O_PATH` does not count: it does
    /// not reach the driver.
    pub fn of(line: &Line<'a>) -> Option<Self> {
        let mut pairs = Pairs::new(line.pairs).map_while(Result::ok);
        match line.record_type {
            Some(RecordType::SYSCALL) => {}
            Some(RecordType::URINGOP) => return Self::of_uring(line.pid?, pairs),
            _ => return None,
        }
        // The kernel writes these pairs first and in this order; most lines are rejected here.
        let arch = pairs.next().filter(|pair| pair.key == b"arch")?.value.bytes();
        let number = pairs.find(|pair| pair.key == b"syscall")?.value.bytes();
        let call = find_call(arch, number, line.names)?;

        let (mut success, mut exit, mut ppid, mut exe) = (None, None, None, None);
        let mut flags = 0;
        for pair in pairs {
            let value = pair.value.bytes();
            match (pair.key, call) {
                (b"success", _) => success = Some(value == b"yes"),
                (b"exit", _) => exit = Some(value),
                (b"a1", Call::Open) | (b"a2", Call::OpenAt | Call::ByHandle) => flags = hex(value)?,
                (b"ppid", _) => ppid = decimal(value),
                (b"exe", _) => {
                    exe = Some(pair.value);
                    break;
                }
                _ => {}
            }
        }
        // Other architectures may also have other values for the flags.
        if flags & O_PATH != 0 && find_arch(arch).is_some() {
            return None;
        }
        let (fd, errno) = match (success?, exit?, call) {
            (_, _, Call::Uring) => (None, None),
            (true, fd, _) => (Some(decimal(fd)?), None),
            (false, errno, _) => (None, Some(error(errno)?)),
        };
        Some(Self { pid: line.pid?, ppid, fd, errno, exe })
    }

    /// Reads `uring_op=18 success=yes exit=0 items=1 ppid=1 pid=7 …` (`audit_log_uring()`,
    /// kernel/auditsc.c), which does not name the program.
    fn of_uring(pid: u32, mut pairs: impl Iterator<Item = Pair<'a>>) -> Option<Self> {
        let op = pairs.next().filter(|pair| pair.key == b"uring_op")?;
        if !URING_OPENS.contains(&op.value.bytes()) {
            return None;
        }
        let (mut success, mut exit, mut ppid) = (None, None, None);
        for pair in pairs {
            match pair.key {
                b"success" => success = Some(pair.value.bytes() == b"yes"),
                b"exit" => exit = Some(pair.value.bytes()),
                b"ppid" => ppid = decimal(pair.value.bytes()),
                _ => {}
            }
        }
        let errno = if success? { None } else { Some(error(exit?)?) };
        Some(Self { pid, ppid, fd: None, errno, exe: None })
    }
}

/// The errno in `exit=-13`.
fn error(exit: &[u8]) -> Option<i32> {
    decimal(exit.strip_prefix(b"-")?)
}

fn find_arch(arch: &[u8]) -> Option<&'static Arch> {
    ARCHES.iter().find(|known| known.name == arch)
}

fn find_call(arch: &[u8], number: &[u8], names: Option<&[u8]>) -> Option<Call> {
    if let Some(arch) = find_arch(arch) {
        let number = decimal::<u32>(number)?;
        return arch.calls.iter().find(|(known, _)| *known == number).map(|(_, call)| *call);
    }
    let name = Pairs::new(names?).map_while(Result::ok).find(|pair| pair.key == b"SYSCALL")?;
    match name.value.bytes() {
        b"open" => Some(Call::Open),
        b"openat" => Some(Call::OpenAt),
        b"openat2" => Some(Call::OpenAt2),
        b"creat" => Some(Call::Creat),
        b"open_by_handle_at" => Some(Call::ByHandle),
        b"io_uring_enter" => Some(Call::Uring),
        _ => None,
    }
}

/// An argument of a system call: hex without `0x`.
fn hex(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().and_then(|text| u64::from_str_radix(text, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parent process, descriptor and errno.
    type ParsedSyscall = (Option<u32>, Option<i32>, Option<i32>);

    fn parse(pairs: &str, names: &str) -> Option<ParsedSyscall> {
        let line = format!(
            "type=SYSCALL msg=audit(1795459763.120:1918): {pairs} items=1 ppid=1 pid=23941 auid=4294967295 \
             uid=0 comm=\"a\" exe=\"/usr/sbin/libvirtd\" key=\"a\"\u{1d}{names}"
        );
        let line = Line::parse(line.as_bytes()).unwrap();
        let call = Syscall::of(&line)?;
        assert_eq!(call.pid, 23941);
        Some((call.ppid, call.fd, call.errno))
    }

    #[test]
    fn an_open_has_many_names_and_numbers() {
        let done = Some((Some(1), Some(30), None));
        let args = "success=yes exit=30 a0=1 a1=2 a2=80002 a3=0";
        for (arch, number) in [
            ("c000003e", 2),
            ("c000003e", 257),
            ("c000003e", 437),
            ("c000003e", 85),
            ("c00000b7", 56),
            ("c00000b7", 437),
            ("c000003e", 304),
            ("c00000b7", 265),
            ("40000003", 5),
            ("40000003", 295),
            ("40000003", 437),
            ("40000003", 8),
            ("40000003", 342),
            ("40000028", 5),
            ("40000028", 322),
        ] {
            assert_eq!(parse(&format!("arch={arch} syscall={number} {args}"), ""), done, "{arch} {number}");
        }
        for (arch, number) in [("c000003e", 56), ("c00000b7", 257), ("40000003", 257), ("c000003e", 16)] {
            assert_eq!(parse(&format!("arch={arch} syscall={number} {args}"), ""), None, "{arch} {number}");
        }
        for (name, known) in [("open", true), ("openat2", true), ("ioctl", false)] {
            let names = format!("ARCH=ppc64le SYSCALL={name} AUID=\"unset\"");
            assert_eq!(parse(&format!("arch=c0000015 syscall=5 {args}"), &names).is_some(), known, "{name}");
        }
    }

    #[test]
    fn a_failure_has_its_errno_and_an_unknown_outcome_is_none() {
        let open = "arch=c000003e syscall=257";
        assert_eq!(parse(&format!("{open} success=no exit=-13 a2=2"), ""), Some((Some(1), None, Some(13))));
        for end in ["", "success=yes", "success=no exit=13", "success=yes exit=-13", "exit=3"] {
            assert_eq!(parse(&format!("{open} {end} a2=2"), ""), None, "{end}");
        }
    }

    #[test]
    fn an_open_by_io_uring_has_no_descriptor_and_no_program() {
        let enter = "arch=c000003e syscall=426 success=yes exit=1 a0=3 a1=1 a2=200000 a3=1";
        assert_eq!(parse(enter, ""), Some((Some(1), None, None)));
        let uring = |pairs: &str| {
            let line = format!(
                "type=URINGOP msg=audit(1795942765.125:60215): {pairs} items=1 ppid=4950 pid=5045 uid=0 gid=0 \
                 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 key=\"taptrail\""
            );
            let line = Line::parse(line.as_bytes()).unwrap();
            Syscall::of(&line).map(|call| (call.pid, call.ppid, call.fd, call.errno, call.exe.is_some()))
        };
        assert_eq!(uring("uring_op=18 success=yes exit=0"), Some((5045, Some(4950), None, None, false)));
        assert_eq!(uring("uring_op=28 success=no exit=-13"), Some((5045, Some(4950), None, Some(13), false)));
        for other in [
            "uring_op=22 success=yes exit=0",
            "success=yes exit=0",
            "uring_op=18",
            "uring_op=18 success=no exit=1",
        ] {
            assert_eq!(uring(other), None, "{other}");
        }
    }

    #[test]
    fn a_descriptor_that_only_names_a_file_opens_nothing() {
        assert_eq!(parse("arch=c000003e syscall=257 success=yes exit=3 a0=1 a1=7ff a2=280000", ""), None);
        assert_eq!(parse("arch=c000003e syscall=2 success=yes exit=3 a0=7ff a1=200000 a2=0", ""), None);
        assert!(parse("arch=c000003e syscall=437 success=yes exit=3 a0=1 a1=7ff a2=200000", "").is_some());
    }
}
