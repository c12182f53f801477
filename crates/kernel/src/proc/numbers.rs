//! What a character device's number means.

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
    /// One that trails tell of.
    Raw(DeviceKind),
    /// A tap on an ipvlan, `/dev/tapN` as a macvtap's.
    Ipvtap,
    /// A vDPA device given to a guest, `/dev/vhost-vdpa-N`.
    VhostVdpa,
    /// Sockets between guest and host, `/dev/vhost-vsock`.
    VhostVsock,
    /// Hardware given to a guest: `/dev/vfio/…`. Whether it is a network card is not told.
    Vfio,
}

impl HeldKind {
    /// The kind as trails have it.
    pub fn raw(self) -> Option<DeviceKind> {
        match self {
            Self::Raw(kind) => Some(kind),
            _ => None,
        }
    }

    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw(kind) => kind.as_str(),
            Self::Ipvtap => "ipvtap",
            Self::VhostVdpa => "vhost-vdpa",
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

/// Which raw network device a character device's number means, if one.
pub(crate) fn raw_kind(rdev: Rdev) -> Option<DeviceKind> {
    DeviceNumbers::default().kind_of(rdev)?.raw()
}

/// What numbers mean in this boot: drivers without a major of their own get one when they are loaded,
/// and `/proc/devices` is read when one is first met.
#[derive(Debug, Default)]
pub struct DeviceNumbers(Option<Vec<(u32, HeldKind)>>);

impl DeviceNumbers {
    /// The kind of a character device, if it is one that is looked for.
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

/// The majors of drivers of ours in `/proc/devices`, proc(5).
fn dynamic_majors(devices: &str) -> Vec<(u32, HeldKind)> {
    let kind = |driver: &str| match driver {
        "macvtap" => Some(HeldKind::Raw(DeviceKind::Macvtap)),
        "ipvtap" => Some(HeldKind::Ipvtap),
        "vhost-vdpa" => Some(HeldKind::VhostVdpa),
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
