//! The kinds of character devices by their numbers.

use std::fmt;

use taptrail_record::{DeviceKind, Rdev};

/// Dynamic majors of character devices lie above this one (Documentation/admin-guide/devices.txt).
const FIRST_DYNAMIC_MAJOR: u32 = 234;

/// `VHOST_VSOCK_MINOR` of linux/miscdevice.h.
const VHOST_VSOCK: Rdev = Rdev { major: 10, minor: 241 };
/// `VFIO_MINOR` of linux/miscdevice.h: `/dev/vfio/vfio`.
const VFIO: Rdev = Rdev { major: 10, minor: 196 };

/// A kind of device by which a guest may reach a network or its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeldKind {
    /// A kind that audit records name.
    Raw(DeviceKind),
    /// A tap on an ipvlan, `/dev/tapN` as a macvtap's. Records don't distinguish the two.
    Ipvtap,
    /// Sockets between guest and host, `/dev/vhost-vsock`.
    VhostVsock,
    /// A hardware device of a guest: `/dev/vfio/…`. It is unknown whether that is a network card.
    Vfio,
}

impl HeldKind {
    /// The kind in audit records, if they name it.
    pub fn raw(self) -> Option<DeviceKind> {
        match self {
            Self::Raw(kind) => Some(kind),
            Self::Ipvtap => Some(DeviceKind::Macvtap),
            Self::VhostVsock | Self::Vfio => None,
        }
    }

    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw(kind) => kind.as_str(),
            Self::Ipvtap => "ipvtap",
            Self::VhostVsock => "vhost-vsock",
            Self::Vfio => "vfio",
        }
    }
}

impl fmt::Display for HeldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The kind of raw network device with this number, if it is one.
pub(crate) fn raw_kind(rdev: Rdev) -> Option<DeviceKind> {
    DeviceNumbers::default().kind_of(rdev)?.raw()
}

/// The kinds by device number in this boot. Drivers without a fixed major get one when they are
/// loaded; `/proc/devices` is read when such a major is first looked up.
#[derive(Debug, Default)]
pub struct DeviceNumbers(Option<Vec<(u32, HeldKind)>>);

impl DeviceNumbers {
    /// The kind of a character device, if it is a known one.
    pub fn kind_of(&mut self, rdev: Rdev) -> Option<HeldKind> {
        match rdev {
            Rdev::TUN => Some(HeldKind::Raw(DeviceKind::Tun)),
            Rdev::VHOST_NET => Some(HeldKind::Raw(DeviceKind::VhostNet)),
            VHOST_VSOCK => Some(HeldKind::VhostVsock),
            VFIO => Some(HeldKind::Vfio),
            Rdev { major, .. } if major >= FIRST_DYNAMIC_MAJOR => {
                let majors = self.0.get_or_insert_with(|| {
                    dynamic_majors(&std::fs::read_to_string("/proc/devices").unwrap_or_default())
                });
                majors.iter().find(|(dynamic, _)| *dynamic == major).map(|(_, kind)| *kind)
            }
            _ => None,
        }
    }
}

/// The majors of the known drivers in `/proc/devices`, proc(5).
fn dynamic_majors(devices: &str) -> Vec<(u32, HeldKind)> {
    let kind = |driver: &str| match driver {
        "macvtap" => Some(HeldKind::Raw(DeviceKind::Macvtap)),
        "ipvtap" => Some(HeldKind::Ipvtap),
        "vhost-vdpa" => Some(HeldKind::Raw(DeviceKind::VhostVdpa)),
        // Groups, and devices by themselves (drivers/vfio/group.c, device_cdev.c).
        "vfio" | "vfio-dev" => Some(HeldKind::Vfio),
        _ => None,
    };
    devices
        .lines()
        .take_while(|line| !line.starts_with("Block devices:"))
        .filter_map(|line| line.trim_ascii().split_once(' '))
        .filter_map(|(major, driver)| Some((major.parse().ok()?, kind(driver)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_found_by_their_names() {
        let devices = "Character devices:\n  1 mem\n 10 misc\n240 vfio\n242 macvtap\n243 macvtap2\n\nBlock devices:\n259 ipvtap\n";
        let macvtap = HeldKind::Raw(DeviceKind::Macvtap);
        assert_eq!(dynamic_majors(devices), [(240, HeldKind::Vfio), (242, macvtap)]);
        assert!(dynamic_majors("Character devices:\n\nBlock devices:\n242 macvtap\n").is_empty());
        assert!(dynamic_majors("").is_empty());
    }

    #[test]
    fn fixed_numbers_need_no_list() {
        let mut numbers = DeviceNumbers(Some(Vec::new()));
        let kinds = [Rdev::TUN, Rdev::VHOST_NET, VHOST_VSOCK, VFIO, Rdev { major: 1, minor: 3 }]
            .map(|rdev| numbers.kind_of(rdev).map(HeldKind::as_str));
        assert_eq!(kinds, [Some("tun"), Some("vhost-net"), Some("vhost-vsock"), Some("vfio"), None]);
    }
}
