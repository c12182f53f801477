use std::fmt;
use std::str::FromStr;

/// An audit record's type, as a number (linux/audit.h and libaudit's `msg_typetab.h`).
///
/// 2500 to 2599 are reserved for virtualisation. Each record of a type from 2100 up is an event of
/// its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

/// The types with a name here; other types are shown by their number.
const NAMES: [(RecordType, &str); 21] = [
    (RecordType::VIRT_CONTROL, "VIRT_CONTROL"),
    (RecordType::VIRT_RESOURCE, "VIRT_RESOURCE"),
    (RecordType::VIRT_MACHINE_ID, "VIRT_MACHINE_ID"),
    (RecordType(2503), "VIRT_INTEGRITY_CHECK"),
    (RecordType(2504), "VIRT_CREATE"),
    (RecordType(2505), "VIRT_DESTROY"),
    (RecordType(2506), "VIRT_MIGRATE_IN"),
    (RecordType(2507), "VIRT_MIGRATE_OUT"),
    (RecordType::SYSCALL, "SYSCALL"),
    (RecordType::URINGOP, "URINGOP"),
    (RecordType::PATH, "PATH"),
    (RecordType::AVC, "AVC"),
    (RecordType::ANOM_ABEND, "ANOM_ABEND"),
    (RecordType::SYSTEM_BOOT, "SYSTEM_BOOT"),
    (RecordType(1128), "SYSTEM_SHUTDOWN"),
    (RecordType::CONFIG_CHANGE, "CONFIG_CHANGE"),
    (RecordType::DAEMON_START, "DAEMON_START"),
    (RecordType::DAEMON_END, "DAEMON_END"),
    (RecordType::DAEMON_ABORT, "DAEMON_ABORT"),
    (RecordType::DAEMON_RESUME, "DAEMON_RESUME"),
    (RecordType(1209), "DAEMON_ERR"),
];

impl RecordType {
    /// Written by init: the host's boot.
    pub const SYSTEM_BOOT: Self = Self(1127);
    /// Written by auditd, with auditd's own serial number: it starts to write.
    pub const DAEMON_START: Self = Self(1200);
    /// Written by auditd: it ends regularly.
    pub const DAEMON_END: Self = Self(1201);
    /// Written by auditd: it ends because of an error.
    pub const DAEMON_ABORT: Self = Self(1202);
    /// Written by auditd: it writes again after its disk was full or failed.
    pub const DAEMON_RESUME: Self = Self(1206);
    /// Written by the kernel: its audit was configured, and perhaps switched off.
    pub const CONFIG_CHANGE: Self = Self(1305);
    /// Written by the kernel: a system call that matched an audit rule.
    pub const SYSCALL: Self = Self(1300);
    /// Written by the kernel: an operation of `io_uring`.
    pub const URINGOP: Self = Self(1336);
    /// Written by the kernel: a file that the event's system call named.
    pub const PATH: Self = Self(1302);
    /// Written by the kernel: SELinux or AppArmor refused an access.
    pub const AVC: Self = Self(1400);
    /// Written by the kernel: a process got a fatal signal.
    pub const ANOM_ABEND: Self = Self(1701);
    /// A guest starts or stops.
    pub const VIRT_CONTROL: Self = Self(2500);
    /// A guest gets or returns a resource of the host.
    pub const VIRT_RESOURCE: Self = Self(2501);
    /// A guest's security label.
    pub const VIRT_MACHINE_ID: Self = Self(2502);

    /// The number, as in a netlink header.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The name in `type=`, if this crate knows it.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self).map(|(_, name)| *name)
    }

    /// The type with this name, or with this number: `UNKNOWN[number]` as auditd writes types that
    /// it does not know, or a bare number as in the kernel's own log. `None` for other names, which
    /// are not about guests.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        if let Some((number, _)) = NAMES.iter().find(|(_, known)| known.as_bytes() == name) {
            return Some(*number);
        }
        let digits = match name.strip_prefix(b"UNKNOWN[") {
            Some(rest) => rest.strip_suffix(b"]")?,
            None => name,
        };
        crate::number::decimal(digits).map(Self)
    }
}

/// The text is not a record type that this crate knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a known record type: VIRT_CONTROL, VIRT_RESOURCE …, UNKNOWN[number] or a number is needed"
)]
pub struct RecordTypeError(String);

impl FromStr for RecordType {
    type Err = RecordTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_name(text.as_bytes()).ok_or_else(|| RecordTypeError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "UNKNOWN[{}]", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_a_name_or_an_unknown_number() {
        assert_eq!(RecordType(2501).to_string(), "VIRT_RESOURCE");
        assert_eq!("VIRT_CONTROL".parse(), Ok(RecordType::VIRT_CONTROL));
        assert_eq!("UNKNOWN[2501]".parse(), Ok(RecordType::VIRT_RESOURCE));
        assert_eq!(RecordType(2599).to_string(), "UNKNOWN[2599]");
        assert_eq!("UNKNOWN[2599]".parse(), Ok(RecordType(2599)));
        assert_eq!("2501".parse(), Ok(RecordType::VIRT_RESOURCE));
        assert_eq!("SYSCALL".parse(), Ok(RecordType::SYSCALL));
        for text in ["", "CWD", "-1", "UNKNOWN[]", "UNKNOWN[70000]", "UNKNOWN[+1]", "UNKNOWN[1"] {
            assert!(text.parse::<RecordType>().is_err(), "{text}");
        }
    }
}
