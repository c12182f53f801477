//! Which process is the one that a holding means.

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::Holding;

use super::Told;
use crate::scan::{Holder, KnownBy};

/// How much later than its grant was recorded a process may seem to have started.
const SLACK: SignedDuration = SignedDuration::from_secs(30);

/// The holder that a holding means, by its place among `holders`.
pub(super) fn claimant(holders: &[Holder], told: &Told, holding: &Holding) -> Option<usize> {
    if let Some(pid) = holding.pid {
        let of = |is: &dyn Fn(&Holder) -> bool| {
            holders.iter().position(|holder| is(holder) && may_be(holder, told, holding))
        };
        let runs_it = |holder: &Holder| uuid(holder) == Some(holding.guest.uuid);
        // A manager in a container has told QEMU's number there, which is another process's here, or nobody's.
        return of(&|holder| holder.process.pid == pid && runs_it(holder))
            .or_else(|| of(&|holder| holder.within.contains(&pid) && runs_it(holder)))
            .or_else(|| of(&|holder| holder.process.pid == pid));
    }
    // Where no record tells a pid. A child of QEMU's shows the same command line.
    let named = |holder: &Holder| uuid(holder) == Some(holding.guest.uuid) && may_be(holder, told, holding);
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
/// The ledger or libvirt tells by the guest that it runs. Where neither does, it must not have started later, though
/// clocks are set.
fn may_be(holder: &Holder, told: &Told, holding: &Holding) -> bool {
    let in_time = || is_in_time(holder.started, holding);
    let by_itself = holder.guest.as_ref().is_none_or(|guest| guest.by == KnownBy::CommandLine);
    match uuid(holder) {
        Some(uuid) if uuid == holding.guest.uuid => !by_itself || in_time(),
        Some(_) => is_told_in_time(holder, told, holding),
        None => in_time(),
    }
}

/// Whether the pid and start time of a process are those of a holding's, and what it says of itself, that it runs
/// another guest, is nothing against that: any process can rewrite its arguments. A guest of which the trail tells,
/// too, may be what has that number here, where the number is a container's.
fn is_told_in_time(holder: &Holder, told: &Told, holding: &Holding) -> bool {
    let by_itself = holder.guest.as_ref().is_some_and(|guest| guest.by == KnownBy::CommandLine);
    let tells_of = |guest| told.holdings.iter().any(|other| other.guest.uuid == guest);
    by_itself
        && holding.pid == Some(holder.process.pid)
        && is_in_time(holder.started, holding)
        && !uuid(holder).is_some_and(tells_of)
}

/// Whether a process that started then, by this host's clock, was there when it was given what is held.
pub(super) fn is_in_time(started: Option<Timestamp>, holding: &Holding) -> bool {
    match (started, holding.granted) {
        (Some(started), Some(granted)) => started.duration_since(granted) <= SLACK,
        _ => true,
    }
}

/// Whether a process runs the guest of a holding, as far as is told.
pub(super) fn runs_guest_of(holder: &Holder, told: &Told, holding: &Holding) -> bool {
    let known = uuid(holder) == Some(holding.guest.uuid) || holding.pid == Some(holder.process.pid);
    known && may_be(holder, told, holding)
}

/// Whether a process runs another guest than a holding's. Its command line alone is enough for that, unless pid and
/// start time say otherwise: who claims to be another guest can only lose devices by it.
pub(super) fn runs_another_guest(holder: &Holder, told: &Told, holding: &Holding) -> bool {
    let Some(guest) = &holder.guest else { return false };
    let another = match (guest.uuid, &guest.name) {
        (Some(uuid), _) => uuid != holding.guest.uuid,
        (None, Some(name)) => *name != holding.guest.name,
        (None, None) => false,
    };
    another && !is_told_in_time(holder, told, holding)
}

fn uuid(holder: &Holder) -> Option<uuid::Uuid> {
    holder.guest.as_ref().and_then(|guest| guest.uuid)
}
