//! The kinds of programs that hold network devices.

use std::borrow::Cow;
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
        let Some(name) = file_name(exe) else { return Self::Other };
        match &*name {
            "kvm" | "qemu-kvm" => Self::Qemu,
            name if name.starts_with("qemu-system-") => Self::Qemu,
            "lkvm" | "vmm-reference" | "stratovirt" => Self::Hypervisor,
            _ if Vmm::of(exe).is_some() => Self::Hypervisor,
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

/// A program that runs guests and names them on its command line in a way of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vmm {
    CloudHypervisor,
    Firecracker,
    Crosvm,
}

impl Vmm {
    /// The one with this path, if it is one. Releases have their version or target in the file's
    /// name (`firecracker-v1.7.0-x86_64`, `cloud-hypervisor-static`).
    pub(super) fn of(exe: Option<&Path>) -> Option<Self> {
        let name = file_name(exe)?;
        // Releases have a version, a machine or `static` in the name; other programs of a project do, too.
        let is_release = |part: &str| {
            let is_version = |part: &str| part.starts_with(|first: char| first.is_ascii_digit());
            matches!(part, "static" | "x86_64" | "aarch64" | "riscv64")
                || is_version(part.strip_prefix('v').unwrap_or(part))
        };
        let is = |program: &str| {
            let rest = name.strip_prefix(program);
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.strip_prefix('-').is_some_and(|rest| rest.split('-').all(is_release))
            })
        };
        let all = [
            ("cloud-hypervisor", Self::CloudHypervisor),
            ("firecracker", Self::Firecracker),
            ("crosvm", Self::Crosvm),
        ];
        all.into_iter().find(|(program, _)| is(program)).map(|(_, vmm)| vmm)
    }
}

/// The file name of a program, which may have been deleted.
fn file_name(exe: Option<&Path>) -> Option<Cow<'_, str>> {
    let path = exe.map(|exe| deleted_path(exe).unwrap_or(exe))?;
    path.file_name().map(|name| name.to_string_lossy())
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
            ("/opt/cloud-hypervisor-static (deleted)", Program::Hypervisor),
            ("/srv/jailer/firecracker/vm1/root/firecracker-v1.7.0-x86_64", Program::Hypervisor),
            ("/usr/bin/crosvm", Program::Hypervisor),
            ("/usr/bin/crosvmd", Program::Other),
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
