use std::borrow::Cow;

use bstr::ByteSlice as _;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::abend::{is_hypervisor, string};
use crate::device::{is_macvtap_node, is_vdpa_node};
use crate::number::decimal;
use crate::pairs::{Pairs, Value, lossy_text};
use crate::{Device, DeviceKind};

/// A security module refused a process the access to a raw network device, from the kernel's `AVC`
/// record of SELinux or AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Denial {
    /// The process.
    pub pid: u32,
    /// The name of its thread.
    pub comm: CompactString,
    /// What was refused: `open`, `read write`, `attach_queue` …
    pub access: CompactString,
    /// The process's context (SELinux) or profile (AppArmor).
    pub label: CompactString,
    /// The device, as the record names it: SELinux may give only the last part of its path, or
    /// none.
    #[serde(serialize_with = "crate::stored::device")]
    pub device: Device,
}

impl Denial {
    /// Reads the pairs of such a record; none if it is about another file, or if the access was
    /// not refused but only logged (SELinux's permissive and AppArmor's complain mode).
    ///
    /// ```
    /// use taptrail_record::{Denial, Line};
    ///
    /// let line = "type=AVC msg=audit(1795460187.056:2976): apparmor=\"DENIED\" operation=\"open\" \
    ///             profile=\"libvirt-2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e\" name=\"/dev/vhost-net\" pid=29269 \
    ///             comm=\"qemu-system-x86\" requested_mask=\"wr\" denied_mask=\"wr\" fsuid=64055 ouid=0";
    /// let denial = Denial::parse(Line::parse(line.as_bytes())?.pairs).ok_or("a denial")?;
    /// assert_eq!((denial.pid, &*denial.access, &*denial.device.path), (29269, "open", "/dev/vhost-net"));
    /// assert!(denial.guest().is_some() && denial.is_by_hypervisor());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(pairs: &[u8]) -> Option<Self> {
        let pairs = pairs.trim_ascii_start();
        match pairs.strip_prefix(b"avc:") {
            Some(rest) => Self::of_selinux(rest.trim_ascii_start()),
            None => Self::of_apparmor(pairs),
        }
    }

    /// `denied  { open } for  pid=1 comm="qemu-kvm" path="/dev/net/tun" dev="devtmpfs" ino=1
    /// scontext=… tcontext=… tclass=chr_file permissive=0` (`avc_audit_pre_callback()`,
    /// security/selinux/avc.c).
    fn of_selinux(rest: &[u8]) -> Option<Self> {
        let rest = rest.strip_prefix(b"denied")?.trim_ascii_start().strip_prefix(b"{")?;
        let (access, rest) = rest.split_once_str(b"} for ")?;
        let (mut pid, mut comm, mut path, mut name) = (None, None, None, None);
        let (mut label, mut class) = (None, None);
        for pair in Pairs::new(rest).map_while(Result::ok) {
            match pair.key {
                b"pid" => pid = pid.or(decimal(pair.value.bytes())),
                b"comm" => comm = comm.or(string(pair.value)),
                b"path" => path = path.or(Some(pair.value)),
                b"name" => name = name.or(Some(pair.value)),
                b"scontext" => label = label.or(Some(lossy_text(pair.value.bytes()))),
                b"tclass" => class = class.or(Some(pair.value.bytes())),
                b"permissive" if pair.value.bytes() == b"1" => return None,
                _ => {}
            }
        }
        let device = match (class?, path.or(name)) {
            (b"chr_file", Some(name)) => device(name)?,
            // A tap's socket: the class of TUNSETIFF.
            (b"tun_socket", _) => {
                Device { kind: DeviceKind::Tun, path: CompactString::default(), rdev: None, dev: None }
            }
            _ => return None,
        };
        let access = lossy_text(access.trim_ascii());
        Some(Self { pid: pid?, comm: comm?, access, label: label?, device })
    }

    /// `apparmor="DENIED" operation="open" class="file" profile="libvirt-UUID" name="/dev/net/tun"
    /// pid=1 comm="qemu-system-x86" …` (`audit_pre()`, security/apparmor/audit.c).
    fn of_apparmor(pairs: &[u8]) -> Option<Self> {
        let mut pairs = Pairs::new(pairs).map_while(Result::ok);
        let first = pairs.next()?;
        if (first.key, first.value) != (b"apparmor", Value::Quoted(b"DENIED")) {
            return None;
        }
        let (mut pid, mut comm, mut name, mut label, mut access) = (None, None, None, None, None);
        for pair in pairs {
            match pair.key {
                b"operation" => access = access.or(string(pair.value)),
                b"profile" => label = label.or(string(pair.value)),
                b"name" => name = name.or(Some(pair.value)),
                b"pid" => pid = pid.or(decimal(pair.value.bytes())),
                b"comm" => {
                    comm = string(pair.value);
                    break;
                }
                _ => {}
            }
        }
        Some(Self { pid: pid?, comm: comm?, access: access?, label: label?, device: device(name?)? })
    }

    /// The guest, by the profile that libvirt makes for each: `libvirt-UUID`.
    pub fn guest(&self) -> Option<Uuid> {
        let id = self.label.strip_prefix("libvirt-")?.get(..36)?;
        Uuid::try_parse(id).ok()
    }

    /// Whether the process runs a guest, by its name or by its label.
    pub fn is_by_hypervisor(&self) -> bool {
        let kind = self.label.split(':').nth(2).unwrap_or_default();
        is_hypervisor(&self.comm) || kind.starts_with("svirt") || self.guest().is_some()
    }
}

/// The device that a record names by its path, or by the last part of it.
fn device(name: Value<'_>) -> Option<Device> {
    // None of these names needs hex.
    let Value::Quoted(name) = name else { return None };
    // AppArmor leaves the slash out where the file is of another mount namespace than the process
    // ("disconnected path"): libvirt gives each QEMU a /dev of its own.
    let rooted = [b"/", name].concat();
    let name = if name.starts_with(b"dev/") { &rooted[..] } else { name };
    let kind = match name {
        b"/dev/net/tun" | b"tun" => DeviceKind::Tun,
        b"/dev/vhost-net" | b"vhost-net" => DeviceKind::VhostNet,
        name => {
            let path =
                if name.starts_with(b"/") { Cow::Borrowed(name) } else { [b"/dev/", name].concat().into() };
            match &path[..] {
                path if is_macvtap_node(path) => DeviceKind::Macvtap,
                path if is_vdpa_node(path) => DeviceKind::VhostVdpa,
                _ => return None,
            }
        }
    };
    Some(Device { kind, path: lossy_text(name), rdev: None, dev: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str = "scontext=system_u:system_r:svirt_t:s0:c392,c662 \
                            tcontext=system_u:object_r:tun_tap_device_t:s0";

    fn parse(pairs: &str) -> Option<(DeviceKind, String, String)> {
        let denial = Denial::parse(pairs.as_bytes())?;
        assert_eq!((denial.pid, denial.is_by_hypervisor()), (7, true));
        Some((denial.device.kind, denial.device.path.into(), denial.access.into()))
    }

    #[test]
    fn selinux_names_a_device_by_path_or_name_or_class() {
        let of = |access: &str, object: &str, class: &str| {
            parse(&format!(
                "avc:  denied  {{ {access} }} for  pid=7 comm=\"qemu-kvm\" {object} dev=\"devtmpfs\" ino=1 {CONTEXTS} \
                 tclass={class} permissive=0"
            ))
        };
        let is = |kind, path: &str, access: &str| Some((kind, path.to_owned(), access.to_owned()));
        assert_eq!(
            of("open", "path=\"/dev/net/tun\"", "chr_file"),
            is(DeviceKind::Tun, "/dev/net/tun", "open")
        );
        assert_eq!(of("read write", "name=\"tun\"", "chr_file"), is(DeviceKind::Tun, "tun", "read write"));
        assert_eq!(
            of("open", "path=\"/dev/tap7\"", "chr_file"),
            is(DeviceKind::Macvtap, "/dev/tap7", "open")
        );
        assert_eq!(
            of("ioctl", "name=\"vhost-net\"", "chr_file"),
            is(DeviceKind::VhostNet, "vhost-net", "ioctl")
        );
        assert_eq!(of("attach_queue", "", "tun_socket"), is(DeviceKind::Tun, "", "attach_queue"));
        for (object, class) in [
            ("path=\"/dev/net/tun\"", "file"),
            ("path=\"/dev/kvm\"", "chr_file"),
            ("name=\"tap\"", "chr_file"),
            ("name=\"tapes\"", "chr_file"),
            ("path=74756E", "chr_file"),
            ("", "chr_file"),
        ] {
            assert_eq!(of("open", object, class), None, "{object} {class}");
        }
    }

    #[test]
    fn what_was_only_logged_was_not_refused() {
        let selinux = format!(
            "avc:  denied  {{ open }} for  pid=7 comm=\"qemu-kvm\" path=\"/dev/net/tun\" {CONTEXTS} tclass=chr_file"
        );
        // Linux before 3.17 does not say whether the mode is permissive.
        assert!(parse(&selinux).is_some() && parse(&format!("{selinux} permissive=0")).is_some());
        assert_eq!(parse(&format!("{selinux} permissive=1")), None);
        assert_eq!(parse(&selinux.replace("denied", "granted")), None);
        let apparmor = "apparmor=\"DENIED\" operation=\"open\" class=\"file\" \
                        profile=\"libvirt-2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e//x\" name=\"/dev/net/tun\" pid=7 \
                        comm=\"qemu-system-x86\" requested_mask=\"wr\"";
        assert_eq!(parse(apparmor), Some((DeviceKind::Tun, "/dev/net/tun".to_owned(), "open".to_owned())));
        assert_eq!(parse(&apparmor.replace("DENIED", "ALLOWED")), None);
        // A descriptor that QEMU was passed, and was not allowed to receive.
        let disconnected = apparmor
            .replace("open", "file_receive")
            .replace("profile=", "info=\"Failed name lookup - disconnected path\" error=-13 profile=");
        assert_eq!(
            parse(&disconnected.replace("/dev/net", "dev/net")),
            Some((DeviceKind::Tun, "/dev/net/tun".to_owned(), "file_receive".to_owned()))
        );
        assert_eq!(parse(&apparmor.replace("pid=7", "pid=x")), None);
    }

    #[test]
    fn a_label_names_a_guest_only_where_libvirt_made_it() {
        let guest = |label: &str| {
            let device = Device::new("/dev/net/tun", None, None);
            let (comm, access, label) = ("x".into(), "open".into(), label.into());
            let denial = Denial { pid: 7, comm, access, label, device };
            (denial.guest().is_some(), denial.is_by_hypervisor())
        };
        assert_eq!(guest("libvirt-2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e"), (true, true));
        assert_eq!(guest("libvirt-é2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0"), (false, false));
        assert_eq!(guest("libvirtd"), (false, false));
        assert_eq!(guest("system_u:system_r:svirt_tcg_t:s0:c1,c2"), (false, true));
        assert_eq!(guest("system_u:system_r:openvpn_t:s0"), (false, false));
    }
}
