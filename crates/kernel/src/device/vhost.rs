use std::num::NonZeroU16;
use std::path::Path;

use rustix::fs::OFlags;
use taptrail_record::{DeviceKind, Rdev};

use super::node::{Node, NodeType};
use super::{DeviceError, Opening};

/// The vhost-net device.
pub const DEV_VHOST_NET: &str = "/dev/vhost-net";

/// Opens vhost-net once for each queue.
///
/// The device at the path is checked, because QEMU fails an assertion if a `vhostfd` is something
/// else. If there is no device, the error is [`DeviceError::is_missing`].
pub fn open_vhost_net(path: &Path, queues: NonZeroU16) -> Opening {
    let node = Node { kind: DeviceKind::VhostNet, path, flags: OFlags::empty(), dev: None };
    Opening::run(|attempts| {
        for queue in 0..u32::from(queues.get()) {
            node.open(queue, attempts, |_, found, _| match found {
                NodeType::Character(Rdev::VHOST_NET) => Ok(()),
                found => Err(DeviceError::NotVhostNet { path: path.to_owned(), found }),
            })?;
        }
        Ok(())
    })
}
