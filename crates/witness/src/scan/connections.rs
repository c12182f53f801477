//! Connections to vhost-user backends. No device number shows which of a process's sockets these are:
//! only those that a trail names are looked for.

use std::io;
use std::path::Path;

use taptrail_kernel::netns::NetNs;
use taptrail_kernel::proc::is_gone;
use taptrail_kernel::unix_sockets::{SocketFile, UnixSockets, sockets_of};
use taptrail_record::{DeviceKind, socket_path};
use taptrail_trail::{Holding, State};

use super::Scan;

/// Whether a process has a connection that a holding names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenConnection {
    pub(crate) pid: u32,
    /// The path as in the holding's device.
    pub(crate) path: String,
    /// `None`: it can't be seen.
    pub(crate) is_there: Option<bool>,
}

impl Scan {
    /// Looks for the connections to vhost-user backends that these holdings have.
    pub fn find_connections<'a>(&mut self, holdings: impl IntoIterator<Item = &'a Holding>) {
        let held: Vec<_> = holdings.into_iter().filter(|holding| is_connection(holding)).collect();
        self.connections = held
            .iter()
            .filter_map(|holding| {
                let (pid, path) = (holding.pid?, holding.device.path.to_string());
                let others =
                    held.iter().filter(|other| other.pid == Some(pid) && *other.device.path != *path);
                let others: Vec<_> = others.map(|other| Path::new(socket_path(&other.device.path))).collect();
                let is_there = match is_connected(pid, Path::new(socket_path(&path)), &others) {
                    Err(error) if is_gone(&error) => Some(false),
                    found => found.ok().flatten(),
                };
                Some(SeenConnection { pid, path, is_there })
            })
            .collect();
    }

    /// What was seen of the connection of a holding.
    pub(crate) fn connection(&self, holding: &Holding) -> Option<bool> {
        let is_its = |of: &&SeenConnection| Some(of.pid) == holding.pid && of.path == holding.device.path;
        self.connections.iter().find(is_its)?.is_there
    }
}

/// Whether a holding is a connection, and lasts.
pub(crate) fn is_connection(holding: &Holding) -> bool {
    holding.state == State::Held && holding.device.kind == DeviceKind::VhostUser
}

/// Whether a process has a socket that is connected to what listens, or listened, on this path, besides
/// the `others` that it is connected to; `None` if one of its sockets may be.
fn is_connected(pid: u32, path: &Path, others: &[&Path]) -> io::Result<Option<bool>> {
    let held: Vec<_> = sockets_of(pid)?.into_iter().map(|(_, inode)| inode).collect();
    // Both ends are of the network namespace of the process that connected.
    let list = NetNs::of(pid)?.enter(|| UnixSockets::of(held.iter().copied()))??;
    let connected_to = |path: &Path| -> Vec<u64> {
        // The path may be another backend's by now: its name is that of the connection's other end.
        let files = [SocketFile::at(path), SocketFile::named(path)];
        files.iter().flat_map(|file| list.connected_to(file)).filter(|inode| held.contains(inode)).collect()
    };
    if !connected_to(path).is_empty() {
        return Ok(Some(true));
    }
    let theirs: Vec<u64> = others.iter().flat_map(|path| connected_to(path)).collect();
    // Its file may have been replaced, and bound by another name.
    let any = SocketFile::named(path);
    let may_be = |inode: &u64| list.is_half_open(*inode) || list.may_be_connected_to(*inode, &any);
    Ok((!held.iter().any(|inode| !theirs.contains(inode) && may_be(inode))).then_some(false))
}
