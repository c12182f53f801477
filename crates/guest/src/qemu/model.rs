//! NIC models, and what each of them can do.

use std::fmt;
use std::str::FromStr;

/// The NIC that a guest sees: a QEMU device driver such as `virtio-net-pci` or `e1000`.
///
/// Read with `virtio`, `virtio-transitional` and `virtio-non-transitional` as short names (the last
/// two are libvirt's), always written as QEMU's driver. QEMU refuses models that it does not know.
/// `virtio` is virtio-net-pci until the machine is known ([`VirtioBus::settle`](super::VirtioBus::settle)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Model {
    driver: String,
    /// `virtio`: on a machine whose virtio devices are on another bus than PCI, it is that bus's.
    is_of_machine: bool,
}

/// The text can't be a NIC's model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' can't be a model: QEMU's name of a NIC is needed, such as virtio or e1000")]
pub struct ModelError(String);

impl Model {
    /// The longest name, in bytes; QEMU's own have half of it.
    const LIMIT: usize = 64;

    /// Reads a model.
    ///
    /// # Errors
    /// [`ModelError`] for what can't be a driver's name, and for `help`, which would have QEMU
    /// print its list and exit.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let driver = match text {
            "virtio" | "virtio-net" => "virtio-net-pci",
            "virtio-transitional" => "virtio-net-pci-transitional",
            "virtio-non-transitional" => "virtio-net-pci-non-transitional",
            other => other,
        };
        let fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let sound = driver.len() <= Self::LIMIT
            && driver.starts_with(|c: char| c.is_ascii_alphanumeric())
            && driver.bytes().all(fit)
            && driver != "help"
            // On the board of a machine, or Xen's: no device of QEMU's that can be added.
            && !matches!(driver, "netfront" | "lan9118" | "smc91c111");
        if !sound {
            return Err(ModelError(text.chars().take(64).collect()));
        }
        let is_of_machine = matches!(text, "virtio" | "virtio-net");
        Ok(Self { driver: driver.to_owned(), is_of_machine })
    }

    /// QEMU's name of the driver.
    pub fn qemu_driver(&self) -> &str {
        &self.driver
    }

    /// The virtio NIC of this driver.
    pub(super) fn of_driver(driver: &str) -> Self {
        Self { driver: driver.to_owned(), is_of_machine: false }
    }

    /// `virtio` on a memory-mapped transport; none of another model.
    pub(crate) fn on_mmio(self) -> Option<Self> {
        let driver = "virtio-net-device";
        (self.is_of_machine || self.driver == driver).then(|| Self::of_driver(driver))
    }

    /// It is `virtio`, which is on the machine's own bus.
    pub(crate) fn is_of_machine(&self) -> bool {
        self.is_of_machine
    }

    /// It reads and writes the virtio-net header that a tap opened with `IFF_VNET_HDR` puts before
    /// each frame, and so gains its offloads. Other models work on such a tap too: QEMU then adds
    /// and removes the header itself.
    pub fn has_vnet_hdr(&self) -> bool {
        self.is_virtio() || matches!(self.driver.as_str(), "e1000e" | "igb" | "vmxnet3")
    }

    /// It can have more than one pair of queues.
    pub fn multi_queue(&self) -> bool {
        self.is_virtio()
    }

    /// vhost-net can carry its queues.
    pub fn can_vhost(&self) -> bool {
        self.is_virtio()
    }

    /// It knows `host_mtu`, by which the guest learns its MTU.
    pub fn has_host_mtu(&self) -> bool {
        self.is_virtio()
    }

    /// It has MSI-X vectors to be counted: virtio by way of PCI.
    pub fn has_vectors(&self) -> bool {
        self.driver.starts_with("virtio-net-pci")
    }

    /// It can be plugged into a `pcie-root-port`: everything but what is known to sit on another
    /// bus.
    pub fn is_pci(&self) -> bool {
        !matches!(
            self.driver.as_str(),
            "virtio-net-device" | "virtio-net-ccw" | "usb-net" | "ne2k_isa" | "spapr-vlan"
        )
    }

    /// It has a number on the channel subsystem of s390x.
    pub(crate) fn is_ccw(&self) -> bool {
        self.is_of_machine || self.driver == "virtio-net-ccw"
    }

    /// It is a virtio device, on whatever bus.
    pub fn is_virtio(&self) -> bool {
        const VIRTIO: [&str; 5] = [
            "virtio-net-pci",
            "virtio-net-pci-transitional",
            "virtio-net-pci-non-transitional",
            "virtio-net-ccw",
            "virtio-net-device",
        ];
        VIRTIO.contains(&self.driver.as_str())
    }
}

/// The default model is `virtio`.
impl Default for Model {
    fn default() -> Self {
        Self { driver: "virtio-net-pci".to_owned(), is_of_machine: true }
    }
}

impl FromStr for Model {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.driver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_qemus_and_are_read_back() {
        for (text, driver) in [
            ("virtio", "virtio-net-pci"),
            ("virtio-net", "virtio-net-pci"),
            ("virtio-transitional", "virtio-net-pci-transitional"),
            ("e1000e", "e1000e"),
            ("ne2k_pci", "ne2k_pci"),
        ] {
            let model = Model::parse(text).unwrap();
            assert_eq!(model.qemu_driver(), driver);
            assert_eq!(model.to_string(), driver);
            assert_eq!(Model::parse(driver).unwrap().qemu_driver(), driver);
        }
        assert_eq!(Model::parse("virtio"), Ok(Model::default()));
        assert_ne!(Model::parse("virtio-net-pci"), Ok(Model::default()), "on PCI whatever the machine");
    }

    // Shows 1.5.
    #[test]
    fn only_virtio_has_queues_and_vhost() {
        for (text, virtio, header) in [
            ("virtio", true, true),
            ("virtio-net-ccw", true, true),
            ("virtio-net-device", true, true),
            ("e1000", false, false),
            ("e1000e", false, true),
            ("rtl8139", false, false),
            ("virtio-net-unheard-of", false, false),
        ] {
            let model = Model::parse(text).unwrap();
            assert_eq!((model.multi_queue(), model.can_vhost()), (virtio, virtio), "{text}");
            assert_eq!(model.has_vnet_hdr(), header, "{text}");
        }
    }

    #[test]
    fn what_would_change_qemus_command_line_is_no_model() {
        for text in ["", "help", "netfront", "-e1000", "e1000,mac=x", "e1000 ", "{}", "é", &"e".repeat(65)] {
            assert!(Model::parse(text).is_err(), "{text}");
        }
    }
}
