//! vhost-user sockets: the file to which a backend is bound.

use std::path::Path;

use rustix::fs::OFlags;
use taptrail_record::DeviceKind;

use super::node::{Node, NodeType};
use super::{Admitted, DeviceError, Opening};
use crate::unix_sockets::SocketFile;

/// Opens the socket of a vhost-user backend, without connecting to it (`O_PATH`): what is admitted
/// holds on to the file, and QEMU connects by its path.
///
/// QEMU has to do that itself. A descriptor that is given to it can't pass descriptors of its own to
/// the backend (`qmp_chardev_open_socket()` in its chardev/char-socket.c, up to QEMU 10), without
/// which there is no vhost-user.
pub fn open_vhost_user(path: &Path) -> Opening {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let node = Node { kind: DeviceKind::VhostUser, path, flags, dev: None };
    Opening::run(|attempts| {
        node.open(0, attempts, |_, found, _| match found {
            NodeType::SOCKET => Ok(()),
            found => Err(DeviceError::NotSocket { path: path.to_owned(), found }),
        })
    })
}

impl Admitted {
    /// The path of a vhost-user socket; `None` for another device.
    pub fn socket_path(&self) -> Option<&Path> {
        (self.facts().kind == DeviceKind::VhostUser).then_some(&self.facts().path)
    }

    /// The file of a vhost-user socket, whatever is at its path by now; `None` for another device.
    pub fn socket_file(&self) -> Option<&SocketFile> {
        self.facts().socket.as_ref()
    }
}
