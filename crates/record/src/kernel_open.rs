use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::pairs::{Value, lossy_text};
use crate::{Device, DeviceKind, PathRecord, Syscall};

/// An open(2) of a raw network device as the kernel logged it because of an audit rule: a `SYSCALL`
/// record and the `PATH` record of the same event.
///
/// Unlike a guest manager's record, it has a macvtap's true node and number, and it exists for the
/// opens of any program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KernelOpen {
    /// The process that opened it.
    pub pid: u32,
    /// Its parent process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppid: Option<u32>,
    /// Its program; empty if the record does not name it.
    #[serde(default, skip_serializing_if = "CompactString::is_empty")]
    pub exe: CompactString,
    /// The device: the path as given to the system call, and the true device number.
    #[serde(serialize_with = "crate::stored::device")]
    pub device: Device,
    /// The descriptor; none if the open failed, or was submitted to `io_uring`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// Why it failed (`errno(3)`); none if it succeeded, or the outcome is not logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

impl KernelOpen {
    /// Joins the two records of one event, which the caller matches by their stamps; none if the
    /// device is not a raw network device.
    ///
    /// ```
    /// use taptrail_record::{KernelOpen, Line, PathRecord, Syscall};
    ///
    /// let syscall = "type=SYSCALL msg=audit(1795459763.120:1918): arch=c000003e syscall=257 success=yes \
    ///                exit=30 a0=ffffff9c a1=7f3374079930 a2=2 a3=0 items=1 ppid=1 pid=23941 auid=0 uid=0 \
    ///                comm=\"rpc-libvirtd\" exe=\"/usr/sbin/libvirtd\" key=\"tap\"";
    /// let path = "type=PATH msg=audit(1795459763.120:1918): item=0 name=\"/dev/tap198\" inode=151 dev=00:06 \
    ///             mode=020600 ouid=0 ogid=0 rdev=f6:02 nametype=NORMAL";
    /// let (syscall, path) = (Line::parse(syscall.as_bytes())?, Line::parse(path.as_bytes())?);
    /// let (syscall, path) = (Syscall::of(&syscall).ok_or("an open")?, PathRecord::of(&path).ok_or("a device")?);
    /// let open = KernelOpen::join(&syscall, &path).ok_or("a macvtap")?;
    /// assert_eq!((open.pid, open.fd, open.device.path.as_str()), (23941, Some(30), "/dev/tap198"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join(syscall: &Syscall<'_>, path: &PathRecord<'_>) -> Option<Self> {
        if path.kind == DeviceKind::Unknown {
            return None;
        }
        let device = Device { kind: path.kind, path: path.path(), rdev: Some(path.rdev), dev: None };
        let Syscall { pid, ppid, fd, errno, exe } = *syscall;
        Some(Self { pid, ppid, exe: exe.map(string).unwrap_or_default(), device, fd, errno })
    }
}

/// A string as the kernel logs it: quoted, in hex, or `(null)`.
pub(crate) fn string(value: Value<'_>) -> CompactString {
    match value.string() {
        Some(bytes) => lossy_text(&bytes),
        None => lossy_text(value.bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Line, Rdev};

    fn join(exe: &str, name: &str, rdev: &str) -> Option<KernelOpen> {
        let syscall = format!(
            "type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=257 success=no exit=-16 a2=2 ppid=1 pid=7 \
             exe={exe}"
        );
        let path =
            format!("type=PATH msg=audit(1.000:1): name={name} mode=020600 rdev={rdev} nametype=NORMAL");
        let syscall = Line::parse(syscall.as_bytes()).unwrap();
        let path = Line::parse(path.as_bytes()).unwrap();
        KernelOpen::join(&Syscall::of(&syscall).unwrap(), &PathRecord::of(&path).unwrap())
    }

    #[test]
    fn a_failed_open_of_a_device_has_its_errno() {
        let open = join("\"/usr/bin/qemu\"", "\"/dev/net/tun\"", "0a:c8").unwrap();
        assert_eq!((open.fd, open.errno, open.exe.as_str()), (None, Some(16), "/usr/bin/qemu"));
        assert_eq!(open.device, Device::new("/dev/net/tun", Some(Rdev::TUN), None));
    }

    #[test]
    fn strings_may_be_hex_or_missing() {
        let open = join("2F6120", "2F6420", "0a:ee").unwrap();
        assert_eq!((open.exe.as_str(), open.device.path.as_str()), ("/a ", "/d "));
        assert_eq!(join("(null)", "(null)", "0a:c8").unwrap().exe, "(null)");
    }

    #[test]
    fn other_devices_are_passed_over() {
        assert_eq!(join("\"/usr/bin/qemu\"", "\"/dev/kvm\"", "0a:e8"), None);
    }
}
