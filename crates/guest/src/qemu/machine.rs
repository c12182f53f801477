//! What NICs need, by machine type: free pcie-root-ports, and a virtio device of the machine's bus.

use std::path::Path;

use super::model::Model;
use crate::spec::{NicSpec, Property};

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
pub(super) fn architecture(program: &Path) -> &str {
    let name = file_name(program);
    match name.strip_prefix("qemu-system-") {
        // Debian's qemu-system-x86_64-microvm.
        Some(architecture) => architecture.split('-').next().unwrap_or(architecture),
        None => std::env::consts::ARCH,
    }
}

fn file_name(program: &Path) -> &str {
    program.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The machine that a program has by default, if it matters here.
pub(super) fn default_machine(program: &Path) -> Option<&'static str> {
    file_name(program).ends_with("-microvm").then_some("microvm")
}

/// The bus of a machine's own virtio devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtioBus {
    /// PCI or PCI Express.
    Pci,
    /// The channel subsystem of s390x.
    Ccw,
    /// Memory-mapped transports, on machines without PCI.
    Mmio,
}

/// A NIC can't be where its SPEC puts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("'{key}' is a place {bus}, which this machine does not have: leave it out, and QEMU chooses one")]
pub struct NoSuchBus {
    bus: &'static str,
    key: Property,
}

impl VirtioBus {
    /// That of a machine type of an architecture; `pcie`: PCI Express is switched on by an option.
    pub(crate) fn of_machine(architecture: &str, machine: Option<&str>, pcie: bool) -> Self {
        let machine = machine.unwrap_or_default();
        match architecture {
            "s390x" => Self::Ccw,
            "x86_64" | "i386" if machine == "microvm" && !pcie => Self::Mmio,
            "aarch64" | "arm" if machine.starts_with("vexpress-") => Self::Mmio,
            "m68k" if is_virt(machine) => Self::Mmio,
            _ => Self::Pci,
        }
    }

    /// Makes of the model `virtio` the device that this machine has.
    ///
    /// # Errors
    /// A place on a bus that the machine does not have.
    pub fn settle(self, spec: &mut NicSpec) -> Result<(), NoSuchBus> {
        let place = spec.properties.keys().copied().find(|property| property.is_place());
        let bus = match place {
            Some(key) if key.is_device_number() => match self {
                Self::Ccw => Self::Ccw,
                _ => return Err(NoSuchBus { bus: "in the channel subsystem", key }),
            },
            Some(key) if self == Self::Mmio => return Err(NoSuchBus { bus: "on a PCI bus", key }),
            // s390x has PCI beside its channels.
            Some(_) => Self::Pci,
            None => self,
        };
        if spec.model.is_of_machine() {
            match bus {
                Self::Pci if self == Self::Pci => {}
                Self::Pci => spec.model = Model::of_driver("virtio-net-pci"),
                Self::Ccw => spec.model = Model::of_driver("virtio-net-ccw"),
                Self::Mmio => spec.model = Model::of_driver("virtio-net-device"),
            }
        }
        Ok(())
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

    // Shows 5.48.
    #[test]
    fn virtio_is_what_the_machine_has() {
        use VirtioBus::{Ccw, Mmio, Pci};
        for (bus, spec, settled) in [
            (Pci, "tap=t", Ok("virtio-net-pci")),
            (Ccw, "tap=t", Ok("virtio-net-ccw")),
            (Mmio, "tap=t", Ok("virtio-net-device")),
            (Ccw, "tap=t,devno=fe.0.0001", Ok("virtio-net-ccw")),
            (Ccw, "tap=t,address=05", Ok("virtio-net-pci")),
            (Pci, "tap=t,address=05", Ok("virtio-net-pci")),
            // What is named by its driver is what it is.
            (Ccw, "tap=t,model=virtio-net-pci", Ok("virtio-net-pci")),
            (Mmio, "tap=t,model=e1000", Ok("e1000")),
            (Pci, "tap=t,model=virtio-net-device", Ok("virtio-net-device")),
            (Pci, "tap=t,devno=fe.0.0001", Err("in the channel subsystem")),
            (Mmio, "tap=t,model=virtio-net-ccw,devno=fe.0.0001", Err("in the channel subsystem")),
            (Mmio, "tap=t,address=05", Err("on a PCI bus")),
        ] {
            let mut spec: NicSpec = spec.parse().unwrap();
            let result = bus.settle(&mut spec).map(|()| spec.model.qemu_driver());
            assert_eq!(result.map_err(|error| error.bus), settled, "{spec} on {bus:?}");
            // It is read back from the ledger.
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }
}
