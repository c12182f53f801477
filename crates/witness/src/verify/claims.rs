//! Which process is the one that a holding means.

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::Holding;

use crate::scan::{Holder, KnownBy};

/// How much later than its grant was recorded a process may seem to have started.
const SLACK: SignedDuration = SignedDuration::from_secs(30);

/// The holder that a holding means, by its place among `holders`.
pub(super) fn claimant(holders: &[Holder], holding: &Holding) -> Option<usize> {
    if let Some(pid) = holding.pid {
        let of = |is: &dyn Fn(&Holder) -> bool| {
            holders.iter().position(|holder| is(holder) && may_be(holder, holding))
        };
        let runs_it = |holder: &Holder| uuid(holder) == Some(holding.guest.uuid);
        // A manager in a container has told QEMU's number there, which is another process's here, or nobody's.
        return of(&|holder| holder.process.pid == pid && runs_it(holder))
            .or_else(|| of(&|holder| holder.within.contains(&pid) && runs_it(holder)))
            .or_else(|| of(&|holder| holder.process.pid == pid));
    }
    // Where no record tells a pid. A child of QEMU's shows the same command line.
    let named = |holder: &Holder| uuid(holder) == Some(holding.guest.uuid) && may_be(holder, holding);
    let is_child = |holder: &Holder| {
        holders.iter().any(|other| Some(other.process.pid) == holder.parent && uuid(other) == uuid(holder))
    };
    let (place, _) =
        holders.iter().enumerate().filter(|(_, holder)| named(holder)).min_by_key(|(_, holder)| {
            let by = holder.guest.as_ref().map(|guest| guest.by);
            (by, is_child(holder), holder.process.start_time)
        })?;
    Some(place)
}

/// Whether a process with the right pid is the right one: the pid may be another's by now.
///
/// The ledger or libvirt tells by the guest that it runs. What it says of itself speaks against it only: then,
/// as where nothing names its guest, it must not have started later, though clocks are set.
fn may_be(holder: &Holder, holding: &Holding) -> bool {
    let in_time = || is_in_time(holder.started, holding);
    let by_itself = holder.guest.as_ref().is_none_or(|guest| guest.by == KnownBy::CommandLine);
    match uuid(holder) {
        Some(uuid) => uuid == holding.guest.uuid && (!by_itself || in_time()),
        None => in_time(),
    }
}

/// Whether a process that started then, by this host's clock, was there when it was given what is held.
pub(super) fn is_in_time(started: Option<Timestamp>, holding: &Holding) -> bool {
    match (started, holding.granted) {
        (Some(started), Some(granted)) => started.duration_since(granted) <= SLACK,
        _ => true,
    }
}

/// Whether a process runs the guest of a holding, as far as is told.
pub(super) fn runs_guest_of(holder: &Holder, holding: &Holding) -> bool {
    let known = uuid(holder) == Some(holding.guest.uuid) || holding.pid == Some(holder.process.pid);
    known && may_be(holder, holding)
}

/// Whether a process runs another guest than a holding's. Its command line alone is enough for
/// that: who claims to be another guest can only lose devices by it.
pub(super) fn runs_another_guest(holder: &Holder, holding: &Holding) -> bool {
    let Some(guest) = &holder.guest else { return false };
    match (guest.uuid, &guest.name) {
        (Some(uuid), _) => uuid != holding.guest.uuid,
        (None, Some(name)) => *name != holding.guest.name,
        (None, None) => false,
    }
}

fn uuid(holder: &Holder) -> Option<uuid::Uuid> {
    holder.guest.as_ref().and_then(|guest| guest.uuid)
}
