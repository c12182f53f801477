//! Finds the process that a holding means.

use jiff::{SignedDuration, Timestamp};
use taptrail_trail::Holding;

use super::ExpectedState;
use crate::scan::{Holder, IdentitySource};

/// How much later than the recorded grant a process may seem to have started.
const START_TIME_TOLERANCE: SignedDuration = SignedDuration::from_secs(30);

/// The process that a holding means, as an index into `holders`.
pub(super) fn find_holder(holders: &[Holder], expected: &ExpectedState, holding: &Holding) -> Option<usize> {
    if let Some(pid) = holding.pid {
        let of = |is: &dyn Fn(&Holder) -> bool| {
            holders.iter().position(|holder| is(holder) && may_be_its_process(holder, expected, holding))
        };
        let runs_it = |holder: &Holder| uuid(holder) == Some(holding.guest.uuid);
        // A manager in a container records QEMU's pid there. On this host that pid belongs to
        // another process, or to none.
        return of(&|holder| holder.process.pid == pid && runs_it(holder))
            .or_else(|| of(&|holder| holder.within.contains(&pid) && runs_it(holder)))
            .or_else(|| of(&|holder| holder.process.pid == pid));
    }
    // No record has a pid. A child of QEMU's shows the same command line, so the parent comes
    // first.
    let named = |holder: &Holder| {
        uuid(holder) == Some(holding.guest.uuid) && may_be_its_process(holder, expected, holding)
    };
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

/// Whether a process with the right pid is the right one: the pid may have passed to another
/// process.
///
/// If the ledger or libvirt says which guest the process runs, that decides. If neither does, the
/// process must not have started after the grant, with some tolerance for clock changes.
fn may_be_its_process(holder: &Holder, expected: &ExpectedState, holding: &Holding) -> bool {
    let in_time = || is_in_time(holder.started, holding);
    let only_by_command_line =
        holder.guest.as_ref().is_none_or(|guest| guest.by == IdentitySource::CommandLine);
    match uuid(holder) {
        Some(uuid) if uuid == holding.guest.uuid => !only_by_command_line || in_time(),
        Some(_) => pid_and_start_match(holder, expected, holding),
        None => in_time(),
    }
}

/// Whether a process has the pid of a holding and started before its grant. Its command line may
/// name another guest all the same: any process can rewrite its arguments. But if the trail has
/// holdings of that other guest, the process may be that guest's QEMU, and the recorded pid one of
/// a container.
fn pid_and_start_match(holder: &Holder, expected: &ExpectedState, holding: &Holding) -> bool {
    let only_by_command_line =
        holder.guest.as_ref().is_some_and(|guest| guest.by == IdentitySource::CommandLine);
    let has_holdings_of = |guest| expected.holdings.iter().any(|other| other.guest.uuid == guest);
    only_by_command_line
        && holding.pid == Some(holder.process.pid)
        && is_in_time(holder.started, holding)
        && !uuid(holder).is_some_and(has_holdings_of)
}

/// Whether a process that started at this time (by this host's clock) existed when the holding was
/// granted.
pub(super) fn is_in_time(started: Option<Timestamp>, holding: &Holding) -> bool {
    match (started, holding.granted) {
        (Some(started), Some(granted)) => started.duration_since(granted) <= START_TIME_TOLERANCE,
        _ => true,
    }
}

/// Whether a process runs the guest of a holding, as far as the sources say.
pub(super) fn runs_guest_of(holder: &Holder, expected: &ExpectedState, holding: &Holding) -> bool {
    let known = uuid(holder) == Some(holding.guest.uuid) || holding.pid == Some(holder.process.pid);
    known && may_be_its_process(holder, expected, holding)
}

/// Whether a process runs another guest than that of a holding. Its command line alone is enough
/// for that, unless pid and start time contradict it: a process that claims to be another guest can
/// only lose devices by it.
pub(super) fn runs_another_guest(holder: &Holder, expected: &ExpectedState, holding: &Holding) -> bool {
    let Some(guest) = &holder.guest else { return false };
    let another = match (guest.uuid, &guest.name) {
        (Some(uuid), _) => uuid != holding.guest.uuid,
        (None, Some(name)) => *name != holding.guest.name,
        (None, None) => false,
    };
    another && !pid_and_start_match(holder, expected, holding)
}

fn uuid(holder: &Holder) -> Option<uuid::Uuid> {
    holder.guest.as_ref().and_then(|guest| guest.uuid)
}
