//! A guest's private `/dev`: the nodes that its QEMU sees, and those that it may open.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use taptrail_record::{DeviceKind, Rdev};

use crate::proc::raw_kind;

/// The path of the host's `/dev`, and of the private one.
pub(super) const DEV: &str = "/dev";

/// Nodes that every QEMU gets, if the host has them.
pub(super) const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "kvm"];

/// Nodes that exist and can't be opened: an audit rule for the host's node logs the attempt, which
/// it could not if the node did not exist.
pub(super) const REFUSED: [&str; 2] = ["net/tun", "vhost-net"];

/// Symbolic links for descriptors, and their targets.
pub(super) const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The node that makes pseudo terminals, beside `pts`.
pub(super) const PTMX: &str = "ptmx";

/// The host's pseudo terminals: a guest's console may be one of them.
pub(super) const PTS: &str = "pts";

/// A guest's private `/dev`: a few harmless nodes, the host's shared memory and pseudo terminals,
/// and nodes that the user allows. No raw network device in it can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateDev {
    /// Nodes allowed by the user, as absolute paths.
    pub(super) devices: Vec<PathBuf>,
    /// Directories of the host's, as absolute paths.
    pub(super) directories: Vec<PathBuf>,
}

/// A node that can't be allowed.
#[derive(Debug, thiserror::Error)]
pub enum PrivateDevError {
    /// It is not below /dev.
    #[error("Device '{path}' can't be allowed: an absolute path below /dev is needed", path = .0.display())]
    Elsewhere(PathBuf),
    /// It can't be opened or examined.
    #[error("Device '{path}' can't be allowed", path = .path.display())]
    Look {
        /// The path of the node.
        path: PathBuf,
        /// The errno of opening or examining it.
        #[source]
        source: Errno,
    },
    /// It is not a device.
    #[error("'{path}' can't be allowed: it is no character or block device", path = .0.display())]
    NoDevice(PathBuf),
    /// It is a raw network device, which QEMU would get without an audit record.
    #[error(
        "Device '{path}' can't be allowed: it is a raw network device ({kind}), which a guest gets with --nic, on record",
        path = .path.display()
    )]
    Raw {
        /// The path of the node.
        path: PathBuf,
        /// The kind of the raw network device.
        kind: DeviceKind,
    },
    /// The host's mounts can't be read.
    #[error("Mounts below /dev can't be read")]
    Mounts(#[source] std::io::Error),
}

impl PrivateDev {
    /// A `/dev` with these devices in addition to the usual ones.
    ///
    /// # Errors
    ///
    /// See [`PrivateDevError`].
    pub fn new(devices: impl IntoIterator<Item = PathBuf>) -> Result<Self, PrivateDevError> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(PrivateDevError::Mounts)?;
        let mut dev = Self { devices: Vec::new(), directories: kept_directories(&mounts) };
        for path in devices {
            drop(open_node(&path)?);
            if !dev.shows(&path) {
                dev.devices.push(path);
            }
        }
        Ok(dev)
    }

    /// Whether this path exists there as on the host. Symbolic links are not followed.
    pub fn shows(&self, path: &Path) -> bool {
        let Ok(name) = path.strip_prefix(DEV) else { return true };
        NODES.iter().chain(&[PTMX, ""]).any(|node| name == Path::new(node))
            || LINKS.iter().any(|(link, _)| name.starts_with(link))
            || self.directories.iter().any(|directory| path.starts_with(directory))
            || self.devices.iter().any(|device| path == device)
    }
}

/// Opens and checks the node of an allowed device, as an O_PATH descriptor: the checked node is the
/// one that is mounted, even if the path changes.
pub(super) fn open_node(path: &Path) -> Result<OwnedFd, PrivateDevError> {
    let below = path.strip_prefix(DEV).is_ok_and(|name| name.components().next().is_some());
    if !below || path.components().any(|component| component == Component::ParentDir) {
        return Err(PrivateDevError::Elsewhere(path.to_owned()));
    }
    let failed = |source| PrivateDevError::Look { path: path.to_owned(), source };
    // Links are followed: /dev/disk and /dev/mapper are full of them, and /dev is root's.
    let node = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&node).map_err(failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok(node),
        FileType::CharacterDevice => {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            match raw_kind(Rdev { major, minor }) {
                Some(kind) => Err(PrivateDevError::Raw { path: path.to_owned(), kind }),
                None => Ok(node),
            }
        }
        _ => Err(PrivateDevError::NoDevice(path.to_owned())),
    }
}

/// The directories that are shared with the host, from `/proc/self/mountinfo` (proc(5)): pseudo
/// terminals, and memory that a guest may share with other programs. Only terminals can be opened
/// there as devices.
fn kept_directories(mounts: &str) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for line in mounts.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let path = mount.split(' ').nth(4).unwrap_or_default();
        let Some(name) = path.strip_prefix("/dev/") else { continue };
        let keep = match filesystem.split(' ').next() {
            Some("devpts") => name == PTS,
            Some("tmpfs") => name == "shm",
            // Names with escapes are not supported.
            Some("hugetlbfs" | "mqueue") => !name.contains(['\\', '/']),
            _ => false,
        };
        // A directory that is mounted twice counts once.
        if keep && !kept.iter().any(|known| known == Path::new(path)) {
            kept.push(path.into());
        }
    }
    kept
}

/// As a message lists it.
impl fmt::Display for PrivateDev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("/dev with ")?;
        f.write_str(&NODES.join(", "))?;
        self.directories.iter().chain(&self.devices).try_for_each(|path| write!(f, ", {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_shared_memory_and_terminals_stay() {
        let mounts = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
24 22 0:5 / /dev rw,relatime shared:2 - devtmpfs devtmpfs rw
25 24 0:21 / /dev/shm rw,nosuid,nodev shared:3 - tmpfs tmpfs rw
26 24 0:22 / /dev/pts rw shared:4 - devpts devpts rw,gid=5
27 24 0:22 / /dev/pts rw shared:4 - devpts devpts rw,gid=5
28 24 0:23 / /dev/hugepages rw - hugetlbfs hugetlbfs rw
29 24 0:24 / /dev/hugepages1G rw - hugetlbfs hugetlbfs rw
30 24 0:25 / /dev/mqueue rw - mqueue mqueue rw
31 24 0:26 / /dev/other rw - tmpfs tmpfs rw
32 22 0:27 / /srv/dev/shm rw - tmpfs tmpfs rw
33 24 0:28 / /dev/net rw - devpts devpts rw
";
        let kept = ["/dev/shm", "/dev/pts", "/dev/hugepages", "/dev/hugepages1G", "/dev/mqueue"];
        assert_eq!(kept_directories(mounts), kept.map(PathBuf::from));
        assert!(kept_directories("").is_empty());
    }

    #[test]
    fn what_is_shown_is_told_by_its_path() {
        let dev = PrivateDev {
            devices: vec!["/dev/vg/disk".into()],
            directories: vec!["/dev/shm".into(), "/dev/pts".into()],
        };
        for path in
            ["/dev/null", "/dev/kvm", "/dev/ptmx", "/dev/fd/3", "/dev/stdin", "/dev/shm/guest", "/dev"]
        {
            assert!(dev.shows(Path::new(path)), "{path}");
        }
        assert!(dev.shows(Path::new("/dev/vg/disk")) && dev.shows(Path::new("/srv/disk.img")));
        for path in ["/dev/net/tun", "/dev/vhost-net", "/dev/sda", "/dev/vg", "/dev/vg/other", "/dev/shmem"] {
            assert!(!dev.shows(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn raw_network_devices_and_what_is_no_device_are_refused() {
        let refusal = |path: &str| PrivateDev::new([PathBuf::from(path)]).unwrap_err().to_string();
        assert!(
            refusal("/dev/net/tun")
                .ends_with("a raw network device (tun), which a guest gets with --nic, on record")
        );
        assert!(refusal("/dev/shm").ends_with("it is no character or block device"));
        for path in ["/etc/passwd", "tun", "/dev", "/dev/../dev/null"] {
            assert!(refusal(path).ends_with("an absolute path below /dev is needed"), "{path}");
        }
        assert!(matches!(
            PrivateDev::new(["/dev/no-such-device".into()]),
            Err(PrivateDevError::Look { source: Errno::NOENT, .. })
        ));
    }

    #[test]
    fn a_device_that_is_there_anyway_is_not_mounted_twice() {
        let dev = PrivateDev::new(["/dev/null", "/dev/tty", "/dev/tty"].map(PathBuf::from)).unwrap();
        assert_eq!(dev.devices, ["/dev/tty"].map(PathBuf::from));
    }
}
