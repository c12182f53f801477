//! The raw network devices among the descriptors of a process: what `/proc/PID/fd` and `fdinfo`
//! show of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{major, minor};

/// One descriptor of one process, as one look shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Descriptor {
    pub(super) pid: u32,
    pub(super) fd: u32,
    /// The device's path.
    pub(super) link: String,
    /// Its number, as in audit records: `0A:C8`.
    pub(super) rdev: String,
    /// The host interface behind it, from `fdinfo`, which has it for a tap.
    pub(super) interface: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tun,
    Macvtap,
    Vhost,
}

impl Kind {
    /// What a descriptor's link says that it is; none of a raw network device's.
    pub(super) fn of(link: &str) -> Option<Self> {
        match link.strip_prefix("/dev/")? {
            "net/tun" => Some(Self::Tun),
            "vhost-net" => Some(Self::Vhost),
            node => index_of_tap(node).map(|_| Self::Macvtap),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::Macvtap => "macvtap",
            Self::Vhost => "vhost-net",
        }
    }
}

/// The index of the interface behind `/dev/tapN`, which is N.
pub(super) fn macvtap_index(link: &str) -> Option<u32> {
    index_of_tap(link.strip_prefix("/dev/")?)
}

fn index_of_tap(node: &str) -> Option<u32> {
    node.strip_prefix("tap")?.parse().ok()
}

/// All of a process at this moment. A process or descriptor that goes meanwhile is not there.
pub(super) fn of(pid: u32) -> Vec<Descriptor> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(|fd| look(pid, fd)).collect()
}

fn look(pid: u32, fd: u32) -> Option<Descriptor> {
    let place = format!("/proc/{pid}/fd/{fd}");
    let target = fs::read_link(&place).ok()?.into_os_string().into_string().ok()?;
    // A node that was removed or moved since is still the device.
    let link = target.strip_suffix(" (deleted)").unwrap_or(&target).to_owned();
    let kind = Kind::of(&link)?;
    let rdev = rdev(fs::metadata(&place).ok()?.rdev());
    let interface = match kind {
        Kind::Tun => interface(&fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?),
        Kind::Macvtap | Kind::Vhost => None,
    };
    Some(Descriptor { pid, fd, link, rdev, interface })
}

/// A device's number as audit records have it: at least two digits each, in upper-case hex.
fn rdev(number: u64) -> String {
    format!("{:02X}:{:02X}", major(number), minor(number))
}

/// The interface of a tap: the line `iff:` of `fdinfo`.
fn interface(fdinfo: &str) -> Option<String> {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("iff:"))?;
    Some(line.trim().to_owned()).filter(|name| !name.is_empty())
}

/// An interface of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: Option<String>,
    pub(super) index: Option<u32>,
    pub(super) mac: Option<String>,
}

/// The interface behind a descriptor, while it is there: a vhost-net's is not shown anywhere.
pub(super) fn interface_of(descriptor: &Descriptor) -> Interface {
    let read = |name: &str, what: &str| {
        let text = fs::read_to_string(format!("/sys/class/net/{name}/{what}")).ok()?;
        Some(text.trim().to_owned())
    };
    let name = match macvtap_index(&descriptor.link) {
        Some(index) => interfaces().remove(&index),
        None => descriptor.interface.clone(),
    };
    let Some(name) = name else { return Interface::default() };
    Interface {
        index: read(&name, "ifindex").and_then(|index| index.parse().ok()),
        mac: read(&name, "address"),
        name: Some(name),
    }
}

fn interfaces() -> BTreeMap<u32, String> {
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return BTreeMap::new() };
    let indexed = |entry: fs::DirEntry| {
        let index = fs::read_to_string(entry.path().join("ifindex")).ok()?;
        Some((index.trim().parse().ok()?, entry.file_name().into_string().ok()?))
    };
    entries.flatten().filter_map(indexed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_tell_the_kind() {
        assert_eq!(Kind::of("/dev/net/tun"), Some(Kind::Tun));
        assert_eq!(Kind::of("/dev/vhost-net"), Some(Kind::Vhost));
        assert_eq!(Kind::of("/dev/tap12"), Some(Kind::Macvtap));
        for other in ["/dev/tap", "/dev/tapx", "/dev/kvm", "socket:[12]", "/dev/vhost-vsock", "/tmp/dev/tap1"]
        {
            assert_eq!(Kind::of(other), None, "{other}");
        }
        assert_eq!(macvtap_index("/dev/tap12"), Some(12));
        assert_eq!(macvtap_index("/dev/net/tun"), None);
    }

    #[test]
    fn a_number_is_written_as_in_records() {
        assert_eq!(rdev(rustix::fs::makedev(10, 200)), "0A:C8");
        assert_eq!(rdev(rustix::fs::makedev(244, 1)), "F4:01");
        assert_eq!(rdev(rustix::fs::makedev(300, 256)), "12C:100");
    }

    #[test]
    fn fdinfo_tells_a_taps_interface() {
        assert_eq!(
            interface("pos:\t0\nflags:\t02104002\nmnt_id:\t25\niff:\tvnet3\n").as_deref(),
            Some("vnet3")
        );
        // Opened, and not yet given an interface.
        assert_eq!(interface("pos:\t0\niff:\t\n"), None);
        assert_eq!(interface("pos:\t0\nflags:\t02104002\n"), None);
    }
}
