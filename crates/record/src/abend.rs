use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::number::decimal;
use crate::pairs::{Pairs, Value, lossy_text};

/// A process that gets a fatal signal, from the kernel's `ANOM_ABEND` record.
///
/// The kernel writes it for a signal that dumps core, other than SIGQUIT, before the dump
/// (`audit_core_dumps()`, kernel/auditsc.c): the process ends at that time or after it. SIGKILL has
/// no such record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Abend {
    /// The process (not the thread that got the signal).
    pub pid: u32,
    /// The name of the thread that got the signal.
    pub comm: CompactString,
    /// The program; empty if the record does not have it, as those of Linux before 3.14.
    #[serde(default, skip_serializing_if = "CompactString::is_empty")]
    pub exe: CompactString,
    /// The signal's number.
    pub signal: u32,
}

impl Abend {
    /// Reads the pairs of such a record; none if one is missing or invalid.
    ///
    /// ```
    /// use taptrail_record::{Abend, Line};
    ///
    /// let line = "type=ANOM_ABEND msg=audit(1795460187.056:2976): auid=4294967295 uid=107 gid=107 ses=4294967295 \
    ///             pid=29269 comm=\"CPU 0/KVM\" exe=\"/usr/bin/qemu-system-x86_64\" sig=11 res=1";
    /// # let line = line.replace("\"CPU 0/KVM\"", "43505520302F4B564D");
    /// let abend = Abend::parse(Line::parse(line.as_bytes())?.pairs).ok_or("an abend")?;
    /// assert_eq!((abend.pid, abend.signal), (29269, 11));
    /// assert_eq!((&*abend.comm, &*abend.exe), ("CPU 0/KVM", "/usr/bin/qemu-system-x86_64"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(pairs: &[u8]) -> Option<Self> {
        let (mut pid, mut comm, mut exe, mut signal) = (None, None, None, None);
        for pair in Pairs::new(pairs).map_while(Result::ok) {
            match pair.key {
                b"pid" => pid = pid.or(decimal(pair.value.bytes())),
                b"comm" => comm = comm.or(Some(string(pair.value)?)),
                b"exe" => exe = exe.or(Some(string(pair.value)?)),
                b"sig" => {
                    signal = decimal(pair.value.bytes());
                    break;
                }
                _ => {}
            }
        }
        Some(Self { pid: pid?, comm: comm?, exe: exe.unwrap_or_default(), signal: signal? })
    }

    /// Whether the program is QEMU, or another program that runs guests, by its name.
    pub fn is_hypervisor(&self) -> bool {
        is_hypervisor(&self.exe) || is_hypervisor(&self.comm)
    }
}

/// A string as the kernel logs it: quoted, or in hex.
pub(crate) fn string(value: Value<'_>) -> Option<CompactString> {
    value.string().map(|bytes| lossy_text(&bytes))
}

/// Whether a program's path or a thread's name is that of a program that runs guests:
/// `/usr/bin/qemu-system-x86_64`, `/usr/libexec/qemu-kvm`, `/usr/bin/kvm`, `CPU 0/KVM`.
pub(crate) fn is_hypervisor(name: &str) -> bool {
    let is_path = name.starts_with('/');
    let base = if is_path { name.rsplit('/').next().unwrap_or(name) } else { name };
    let base = base.to_ascii_lowercase();
    ["qemu", "kvm", "cloud-hypervi"].iter().any(|part| base.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &str) -> Option<(u32, u32, bool)> {
        Abend::parse(pairs.as_bytes()).map(|abend| (abend.pid, abend.signal, abend.is_hypervisor()))
    }

    #[test]
    fn records_of_all_kernels_are_read() {
        for (pairs, is) in [
            // Linux 6.18, auditd 3.0.9.
            (
                "auid=0 uid=0 gid=0 ses=1 pid=7 comm=\"qemu-system-x86\" exe=\"/usr/bin/qemu-system-x86_64\" sig=11 res=1",
                true,
            ),
            (
                "auid=0 uid=0 gid=0 ses=1 subj=a:b:c pid=7 comm=\"kvm\" exe=\"/usr/libexec/x\" sig=11 res=1",
                true,
            ),
            // Linux 3.10.
            ("auid=0 uid=0 gid=0 ses=1 pid=7 comm=\"qemu-kvm\" reason=\"memory violation\" sig=11", true),
            ("auid=0 uid=0 gid=0 ses=1 pid=7 comm=\"python3\" exe=\"/usr/bin/python3\" sig=11 res=1", false),
            ("auid=0 uid=0 gid=0 ses=1 pid=7 comm=\"python3\" exe=\"/srv/qemu/python3\" sig=11 res=1", false),
            // A program that was deleted meanwhile.
            (
                "auid=0 uid=0 gid=0 ses=1 pid=7 comm=\"a\" exe=2F7573722F62696E2F71656D75202864656C6574656429 sig=11 res=1",
                true,
            ),
        ] {
            assert_eq!(parse(pairs), Some((7, 11, is)), "{pairs}");
        }
    }

    #[test]
    fn a_record_that_is_not_whole_says_nothing() {
        for pairs in [
            "",
            "auid=0 pid=7 comm=\"qemu\" exe=\"/usr/bin/qemu\"",
            "auid=0 pid=7 comm=\"qemu\" exe=\"/usr/bin/qemu\" sig=",
            "auid=0 pid=7 comm=\"qemu\" exe=\"/usr/bin/qe",
            "auid=0 pid=7 comm=qemu exe=\"/usr/bin/qemu\" sig=11",
            "auid=0 comm=\"qemu\" exe=\"/usr/bin/qemu\" sig=11",
            "auid=0 pid=-7 comm=\"qemu\" exe=\"/usr/bin/qemu\" sig=11",
        ] {
            assert_eq!(parse(pairs), None, "{pairs}");
        }
        // A name is what it is, whatever it imitates.
        let imitation = "pid=7 comm=2070 exe=\"/x sig=6 pid=8\" sig=11 res=1";
        assert_eq!(parse(imitation), Some((7, 11, false)));
    }
}
