use crate::number::decimal;
use crate::pairs::{Pairs, Value};
use crate::{Line, RecordType};

/// An open(2) by any of its names, as the kernel's `SYSCALL` record tells it. The file it opened stands in
/// the [`PathRecord`](crate::PathRecord)s with the same stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall<'a> {
    /// The process that asked.
    pub pid: u32,
    /// Its parent.
    pub ppid: Option<u32>,
    /// The descriptor; none when it failed.
    pub fd: Option<i32>,
    /// Why it failed (`errno(3)`).
    pub errno: Option<i32>,
    pub(crate) exe: Option<Value<'a>>,
}

/// An architecture's numbers of these calls, and of its arguments the one that holds the flags.
struct Arch {
    name: &'static [u8],
    calls: &'static [(u32, Call)],
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Open,
    OpenAt,
    /// Its flags stand behind a pointer, where the kernel's audit does not look.
    OpenAt2,
    Creat,
}

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` (linux/audit.h); the calls' numbers of their unistd.h.
const ARCHES: [Arch; 2] = [
    Arch {
        name: b"c000003e",
        calls: &[(257, Call::OpenAt), (2, Call::Open), (437, Call::OpenAt2), (85, Call::Creat)],
    },
    Arch { name: b"c00000b7", calls: &[(56, Call::OpenAt), (437, Call::OpenAt2)] },
];

/// A descriptor that names a file and opens nothing (`O_PATH`, asm-generic/fcntl.h).
const O_PATH: u64 = 0o10_000_000;

impl<'a> Syscall<'a> {
    /// Reads a line of type `SYSCALL`; none when it is another call, or its outcome is not told.
    ///
    /// Of an architecture that is not known here (x86-64 and aarch64 are), the ENRICHED format's name
    /// of the call counts. An open with `O_PATH` is none: no driver hears of it.
    pub fn of(line: &Line<'a>) -> Option<Self> {
        if line.record_type != Some(RecordType::SYSCALL) {
            return None;
        }
        let mut pairs = Pairs::new(line.pairs).map_while(Result::ok);
        // The kernel puts them first and in this order; most lines are done with here.
        let arch = pairs.next().filter(|pair| pair.key == b"arch")?.value.bytes();
        let number = pairs.find(|pair| pair.key == b"syscall")?.value.bytes();
        let call = call(arch, number, line.names)?;

        let (mut success, mut exit, mut ppid, mut exe) = (None, None, None, None);
        let mut flags = 0;
        for pair in pairs {
            let value = pair.value.bytes();
            match (pair.key, call) {
                (b"success", _) => success = Some(value == b"yes"),
                (b"exit", _) => exit = Some(value),
                (b"a1", Call::Open) | (b"a2", Call::OpenAt) => flags = hex(value)?,
                (b"ppid", _) => ppid = decimal(value),
                (b"exe", _) => {
                    exe = Some(pair.value);
                    break;
                }
                _ => {}
            }
        }
        // Other architectures may have other numbers for the flags, too.
        if flags & O_PATH != 0 && known(arch).is_some() {
            return None;
        }
        let (fd, errno) = match (success?, exit?) {
            (true, fd) => (Some(decimal(fd)?), None),
            (false, errno) => (None, Some(decimal(errno.strip_prefix(b"-")?)?)),
        };
        Some(Self { pid: line.pid?, ppid, fd, errno, exe })
    }
}

fn known(arch: &[u8]) -> Option<&'static Arch> {
    ARCHES.iter().find(|known| known.name == arch)
}

fn call(arch: &[u8], number: &[u8], names: Option<&[u8]>) -> Option<Call> {
    if let Some(arch) = known(arch) {
        let number = decimal::<u32>(number)?;
        return arch.calls.iter().find(|(known, _)| *known == number).map(|(_, call)| *call);
    }
    let name = Pairs::new(names?).map_while(Result::ok).find(|pair| pair.key == b"SYSCALL")?;
    match name.value.bytes() {
        b"open" => Some(Call::Open),
        b"openat" => Some(Call::OpenAt),
        b"openat2" => Some(Call::OpenAt2),
        b"creat" => Some(Call::Creat),
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

    /// Parent, descriptor and error.
    type Told = (Option<u32>, Option<i32>, Option<i32>);

    fn parse(pairs: &str, names: &str) -> Option<Told> {
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
        ] {
            assert_eq!(parse(&format!("arch={arch} syscall={number} {args}"), ""), done, "{arch} {number}");
        }
        for (arch, number) in [("c000003e", 56), ("c00000b7", 257), ("40000003", 5), ("c000003e", 16)] {
            assert_eq!(parse(&format!("arch={arch} syscall={number} {args}"), ""), None, "{arch} {number}");
        }
        for (name, known) in [("open", true), ("openat2", true), ("ioctl", false)] {
            let names = format!("ARCH=i386 SYSCALL={name} AUID=\"unset\"");
            assert_eq!(parse(&format!("arch=40000003 syscall=5 {args}"), &names).is_some(), known, "{name}");
        }
    }

    #[test]
    fn a_failure_tells_why_and_an_unknown_end_is_none() {
        let open = "arch=c000003e syscall=257";
        assert_eq!(parse(&format!("{open} success=no exit=-13 a2=2"), ""), Some((Some(1), None, Some(13))));
        for end in ["", "success=yes", "success=no exit=13", "success=yes exit=-13", "exit=3"] {
            assert_eq!(parse(&format!("{open} {end} a2=2"), ""), None, "{end}");
        }
    }

    #[test]
    fn a_descriptor_that_only_names_a_file_opens_nothing() {
        assert_eq!(parse("arch=c000003e syscall=257 success=yes exit=3 a0=1 a1=7ff a2=280000", ""), None);
        assert_eq!(parse("arch=c000003e syscall=2 success=yes exit=3 a0=7ff a1=200000 a2=0", ""), None);
        assert!(parse("arch=c000003e syscall=437 success=yes exit=3 a0=1 a1=7ff a2=200000", "").is_some());
    }
}
