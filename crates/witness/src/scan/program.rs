//! The kinds of programs that hold network devices.

use std::fmt;
use std::path::Path;

use taptrail_kernel::proc::deleted_path;

/// The kind of program that holds a device, by its file name: a hint for the reader, and no excuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// A QEMU, by its path.
    Qemu,
    /// Another program that runs guests: cloud-hypervisor, firecracker, crosvm.
    Hypervisor,
    /// A user-mode network for guests or containers: passt, slirp4netns, vde.
    Network,
    /// A daemon of a VPN: openvpn, tailscaled and the like.
    Vpn,
    /// A manager that opens devices for guests and passes them on: libvirt, taptrail.
    Manager,
    /// A program of no other kind.
    Other,
}

impl Program {
    /// The kind of the program with this path.
    pub(super) fn of(exe: Option<&Path>) -> Self {
        let path = exe.map(|exe| deleted_path(exe).unwrap_or(exe));
        let Some(name) = path.and_then(Path::file_name).map(|name| name.to_string_lossy()) else {
            return Self::Other;
        };
        match &*name {
            "kvm" | "qemu-kvm" => Self::Qemu,
            name if name.starts_with("qemu-system-") => Self::Qemu,
            "cloud-hypervisor" | "firecracker" | "crosvm" | "lkvm" | "vmm-reference" | "stratovirt" => {
                Self::Hypervisor
            }
            "passt" | "passt.avx2" | "pasta" | "pasta.avx2" | "slirp4netns" | "vde_plug" | "vde_switch" => {
                Self::Network
            }
            "openvpn" | "openconnect" | "vpnc" | "tincd" | "wireguard-go" | "boringtun" | "boringtun-cli"
            | "tailscaled" | "zerotier-one" | "edge" | "charon" | "charon-systemd" | "ocserv" | "nebula" => {
                Self::Vpn
            }
            "libvirtd" | "virtqemud" | "taptrail" => Self::Manager,
            _ => Self::Other,
        }
    }

    /// The word that stands for it in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Hypervisor => "hypervisor",
            Self::Network => "network",
            Self::Vpn => "vpn",
            Self::Manager => "manager",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_file_name_shows_its_kind() {
        for (exe, program) in [
            ("/usr/bin/qemu-system-x86_64", Program::Qemu),
            ("/usr/bin/qemu-system-x86_64 (deleted)", Program::Qemu),
            ("/usr/libexec/qemu-kvm", Program::Qemu),
            ("/opt/cloud-hypervisor", Program::Hypervisor),
            ("/usr/bin/passt.avx2", Program::Network),
            ("/usr/sbin/openvpn", Program::Vpn),
            ("/usr/sbin/libvirtd", Program::Manager),
            ("/usr/bin/qemu-img", Program::Other),
            ("/", Program::Other),
        ] {
            assert_eq!(Program::of(Some(Path::new(exe))), program, "{exe}");
        }
        assert_eq!(Program::of(None), Program::Other);
    }
}
