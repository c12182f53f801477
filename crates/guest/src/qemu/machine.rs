//! Whether NICs need pcie-root-ports, by machine type.

use std::path::Path;

/// Whether a NIC of a running guest needs a free `pcie-root-port`: the machine has a PCI Express
/// root bus, into which nothing can be plugged later (QEMU's docs/pcie.txt).
///
/// `machine` is the type on the command line, if there is one.
pub(super) fn needs_ports(program: &Path, machine: Option<&str>) -> bool {
    let architecture = architecture(program);
    let Some(machine) = machine else {
        // x86's default is pc, on whose bus anything can be plugged; Arm has none, RISC-V's default
        // has no PCI; LoongArch's is virt.
        return architecture == "loongarch64";
    };
    match architecture {
        "x86_64" | "i386" => machine.starts_with("q35") || machine.starts_with("pc-q35"),
        "aarch64" | "arm" => is_virt(machine) || machine == "sbsa-ref",
        "riscv64" | "riscv32" | "loongarch64" | "or1k" => is_virt(machine),
        _ => false,
    }
}

/// `virt`, `virt-7.2`, `virt-rhel9.4.0`.
fn is_virt(machine: &str) -> bool {
    machine == "virt" || machine.starts_with("virt-")
}

/// `qemu-system-aarch64` says it; under another name, such as `kvm` and `qemu-kvm`, it is the
/// host's.
fn architecture(program: &Path) -> &str {
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_prefix("qemu-system-") {
        // Debian's qemu-system-x86_64-microvm.
        Some(architecture) => architecture.split('-').next().unwrap_or(architecture),
        None => std::env::consts::ARCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Shows 5.7.
    #[test]
    fn a_pcie_machine_needs_ports_and_a_pci_machine_none() {
        for (program, machine, needs) in [
            ("/usr/bin/qemu-system-x86_64", None, false),
            ("/usr/bin/qemu-system-x86_64", Some("q35"), true),
            ("qemu-system-i386", Some("pc-q35-7.2"), true),
            ("qemu-system-x86_64", Some("pc-i440fx-7.2"), false),
            ("qemu-system-x86_64", Some("microvm"), false),
            ("qemu-system-x86_64", Some("virt"), false),
            ("qemu-system-aarch64", Some("virt"), true),
            ("qemu-system-aarch64", Some("virt-7.2"), true),
            ("qemu-system-aarch64", Some("raspi3b"), false),
            ("qemu-system-aarch64", None, false),
            ("qemu-system-riscv64", Some("virt"), true),
            ("qemu-system-m68k", Some("virt"), false),
            ("qemu-system-s390x", Some("s390-ccw-virtio"), false),
            ("qemu-system-loongarch64", None, true),
        ] {
            assert_eq!(needs_ports(Path::new(program), machine), needs, "{program} {machine:?}");
        }
    }

    #[test]
    fn a_program_of_another_name_runs_the_hosts_architecture() {
        for program in ["/usr/libexec/qemu-kvm", "kvm"] {
            assert_eq!(architecture(Path::new(program)), std::env::consts::ARCH);
        }
        assert_eq!(architecture(Path::new("qemu-system-x86_64-microvm")), "x86_64");
    }
}
