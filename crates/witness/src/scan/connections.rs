//! Connections to vhost-user backends. No device number shows which of a process's sockets these are:
//! only those that a trail names are looked for.

use std::collections::HashMap;
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
        let mut lists = HashMap::new();
        let held = holdings.into_iter().filter(|holding| is_connection(holding));
        self.connections = held
            .filter_map(|holding| {
                let (pid, path) = (holding.pid?, holding.device.path.to_string());
                let is_there = match is_connected(pid, Path::new(socket_path(&path)), &mut lists) {
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

/// Whether a process has a socket that is connected to what listens, or listened, on this path; `None`
/// if one of its sockets may be.
fn is_connected(pid: u32, path: &Path, lists: &mut HashMap<u64, UnixSockets>) -> io::Result<Option<bool>> {
    let held = sockets_of(pid)?;
    // Both ends are of the network namespace of the process that connected.
    let netns = NetNs::of(pid)?;
    let list = match lists.get(&netns.inode()) {
        Some(list) => list,
        None => lists.entry(netns.inode()).or_insert(netns.enter(UnixSockets::list)??),
    };
    // The path may be another backend's by now: its name is that of the connection's other end.
    let files = [SocketFile::at(path), SocketFile::named(path)];
    let mut connected = files.iter().flat_map(|file| list.connected_to(file));
    if connected.any(|inode| held.iter().any(|(_, of)| *of == inode)) {
        return Ok(Some(true));
    }
    Ok((!held.iter().any(|(_, inode)| list.is_half_open(*inode))).then_some(false))
}
