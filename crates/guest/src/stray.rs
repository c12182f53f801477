//! Links with the mark of a guest that has no account in the ledger: the ledger's file was removed,
//! or is another host's, or another state directory has the guest.

use std::collections::BTreeSet;
use std::path::PathBuf;

use taptrail_ledger::{Guest, Ledger};
use taptrail_record::{IfName, MacAddr};
use uuid::Uuid;

use crate::account::{ledger_if_any, own_guests};
use crate::host::Host;
use crate::host_link::TapState;
use crate::marked::MarkedLink;
use crate::process::{QemuProcess, SupervisorProcess};
use crate::recovery::{RecoverError, RecoverOptions};

/// A link that was made for a guest's interface, while that guest has no open account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The link's name.
    pub link: IfName,
    /// The number, in ours, of the network namespace to which it was moved; `None` if it is in
    /// ours.
    pub namespace: Option<i32>,
    /// The uuid of the guest for which it was made.
    pub uuid: Uuid,
    /// The guest's interface.
    pub mac: MacAddr,
    /// What was found and done.
    pub state: StrayState,
}

/// The state of a stray link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrayState {
    /// Its guest has a supervisor, and an open account in another state directory: nothing to do.
    Elsewhere {
        /// The supervisor's pid.
        supervisor: u32,
        /// That state directory.
        state: PathBuf,
    },
    /// A process holds its device, or runs the guest.
    Held {
        /// The pid of that process.
        pid: u32,
        /// The guest's name, where that process is its QEMU.
        guest: Option<String>,
    },
    /// The kernel says that a file is attached to it, and no process shows it.
    Attached,
    /// Nobody held it, and it was deleted.
    Deleted,
}

/// Finds stray links; deletes those that nobody holds and whose guest does not run.
///
/// # Errors
/// When links, processes or the ledger can't be read.
pub fn strays(options: &RecoverOptions) -> Result<Vec<Stray>, RecoverError> {
    // In all network namespaces.
    let mut marked = MarkedLink::everywhere()?;
    if marked.is_empty() {
        return Ok(Vec::new());
    }
    // Read after the links: a guest's account is opened before its first link is made.
    let ledger = ledger_if_any(&options.dirs)?;
    let of = |guests: Vec<Guest>| guests.into_iter().map(|guest| guest.id.uuid).collect::<BTreeSet<Uuid>>();
    let known = of(ledger.as_ref().map_or(Ok(Vec::new()), own_guests)?);
    let away = marked.iter().any(|link| link.namespace.is_some());
    let ended = of(ledger.as_ref().filter(|_| away).map_or(Ok(Vec::new()), Ledger::guests)?);
    drop(ledger);
    // A link in another network namespace may belong to another ledger, such as a container's.
    marked.retain(|link| {
        !known.contains(&link.guest) && (link.namespace.is_none() || ended.contains(&link.guest))
    });
    if marked.is_empty() {
        return Ok(Vec::new());
    }
    let supervisors = SupervisorProcess::all().map_err(RecoverError::Look)?;
    let qemus = QemuProcess::all().map_err(RecoverError::Look)?;
    let mut host = Host::open(&options.dirs.run, options.nft.clone())?;
    let mut strays = Vec::new();
    for marked in marked {
        let uuid = marked.guest;
        // The holder of a macvtap may not be seen: the link stays while its guest runs.
        let qemu = qemus.iter().find(|qemu| qemu.guest.uuid == uuid && qemu.id.is_alive());
        let holder = marked.holder.filter(|holder| holder.is_alive());
        let elsewhere = supervisors.iter().find(|of| of.accounts.contains(&uuid));
        // A tap in another network namespace is queried there.
        let mut is_attached_there = || -> Result<bool, RecoverError> {
            let is_asked = marked.namespace.is_some() && marked.link.is_tap();
            Ok(is_asked && matches!(host.tap_state(&marked.link)?, TapState::Attached(_)))
        };
        let state =
            if let Some((supervisor, state)) = elsewhere.and_then(|of| Some((of.pid, of.state.clone()?))) {
                StrayState::Elsewhere { supervisor, state }
            } else if let Some(pid) = qemu.map(|qemu| qemu.id).or(holder).map(|process| process.pid) {
                StrayState::Held { pid, guest: qemu.map(|qemu| qemu.guest.name.to_string()) }
            } else if marked.is_held() || is_attached_there()? || !host.delete_link(&marked.link)? {
                StrayState::Attached
            } else {
                StrayState::Deleted
            };
        let (link, namespace) = (marked.link.name().clone(), marked.namespace);
        strays.push(Stray { link, namespace, uuid, mac: marked.mac, state });
    }
    Ok(strays)
}
