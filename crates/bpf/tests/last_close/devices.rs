//! Real devices, in the test's own network namespace.

use std::convert::Infallible;
use std::fs::File;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use taptrail_kernel::device::{DEV_NET_TUN, OpenFacts, OpenRecorder, TapName, TapRequest, open_tap};
use taptrail_kernel::link::Links;
use taptrail_record::{DeviceKind, IfName, Rdev};
use tempfile::TempDir;

/// A recorder that accepts every open.
struct FakeRecorder;

impl OpenRecorder for FakeRecorder {
    type Error = Infallible;

    fn record(&mut self, _: &[OpenFacts]) -> Result<(), Infallible> {
        Ok(())
    }
}

pub(crate) struct Devices {
    macvtap: Rdev,
    nodes: TempDir,
}

fn ip(args: &str) {
    let output = Command::new("/usr/sbin/ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Devices {
    pub(crate) const KINDS: [DeviceKind; 3] = [DeviceKind::Tun, DeviceKind::Macvtap, DeviceKind::VhostNet];

    /// Creates them in a new network namespace, in which the calling thread stays.
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add v0 type veth peer name v1");
        ip("link add link v0 name macvtap0 type macvtap mode bridge");
        let name: IfName = "macvtap0".parse().unwrap();
        let mut links = Links::open().unwrap();
        let index = links.find(&name).unwrap().unwrap().index;
        let macvtap = links.macvtap_rdev(&name, index).unwrap();
        let nodes = tempfile::tempdir().unwrap();
        let node = makedev(macvtap.major, macvtap.minor);
        mknodat(CWD, nodes.path().join("tap"), FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, node)
            .unwrap();
        Self { macvtap, nodes }
    }

    fn node(&self) -> PathBuf {
        self.nodes.path().join("tap")
    }

    pub(crate) fn open(&self, kind: DeviceKind) -> OwnedFd {
        let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap().into();
        match kind {
            DeviceKind::Tun => {
                let queues = NonZeroU16::MIN;
                let name = TapName::Pattern("vnet%d");
                let request = TapRequest { path: Path::new(DEV_NET_TUN), name, queues, vnet_hdr: true };
                let (devices, error) = open_tap(&request).admit(&mut FakeRecorder).unwrap();
                assert!(error.is_none(), "{error:?}");
                devices[0].as_fd().try_clone_to_owned().unwrap()
            }
            DeviceKind::Macvtap => open(&self.node()),
            DeviceKind::VhostNet => open(Path::new("/dev/vhost-net")),
            DeviceKind::VhostVdpa | DeviceKind::VhostUser | DeviceKind::Unknown => unreachable!(),
        }
    }

    pub(crate) fn rdev(&self, kind: DeviceKind) -> Rdev {
        match kind {
            DeviceKind::Tun => Rdev::TUN,
            DeviceKind::VhostNet => Rdev::VHOST_NET,
            DeviceKind::Macvtap => self.macvtap,
            DeviceKind::VhostVdpa | DeviceKind::VhostUser | DeviceKind::Unknown => unreachable!(),
        }
    }
}
