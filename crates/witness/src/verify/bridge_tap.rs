//! Taps that `taptrail-bridge-helper` passed to users, by its records. They have no guest and no
//! MAC, so they are no holdings of a trail.

use jiff::{SignedDuration, Timestamp};
use taptrail_kernel::proc::{HeldKind, ProcessId};
use taptrail_record::{BridgeOpen, DeviceKind};

use crate::scan::{Holder, Program, ScannedDevice};

/// How much later than its tap a QEMU may start: libvirt's session daemon asks for the tap first.
const START_DELAY: SignedDuration = SignedDuration::from_secs(60);

/// A tap as the helper's record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeTap {
    /// The bridge that it is a port of.
    pub bridge: String,
    /// Its name.
    pub dev: String,
    /// The user who asked for it.
    pub uid: u32,
    /// The helper's parent: QEMU, a shell of it, or libvirt's session daemon.
    pub parent: Option<ProcessId>,
    /// The record's time.
    pub passed: Timestamp,
}

impl BridgeTap {
    /// The tap of a record that says success.
    pub(super) fn of(open: &BridgeOpen, passed: Timestamp) -> Option<Self> {
        let pid = open.requester.pid;
        Some(Self {
            bridge: open.bridge.to_string(),
            dev: open.dev()?.to_string(),
            uid: open.requester.uid,
            parent: open.start_time.map(|start_time| ProcessId { pid, start_time }),
            passed,
        })
    }

    /// Whether a process holds this tap: the helper's parent does, or a QEMU of the same user.
    ///
    /// The latter may have another tap of this name. It has not in the network namespace `own`,
    /// where users without rights can make none, unless it outlived the helper's.
    pub(super) fn is(&self, holder: &Holder, held: &ScannedDevice, own: Option<u64>) -> bool {
        let is_named = held.kind == HeldKind::Raw(DeviceKind::Tun)
            && held.ifname.as_ref().is_some_and(|name| name.as_str() == self.dev)
            && held.behind.as_ref().is_some_and(|link| link.master.as_ref() == Some(&self.bridge));
        let is_parent = self.parent == Some(holder.process);
        let is_users = || {
            holder.program == Program::Qemu
                && holder.uid == Some(self.uid)
                && own.is_some()
                && held.netns == own
                && holder.started.is_some_and(|started| started <= self.passed + START_DELAY)
        };
        is_named && (is_parent || is_users())
    }
}
