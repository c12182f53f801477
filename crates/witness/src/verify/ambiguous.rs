//! Interfaces that share a MAC, where the trail does not show which one was released. The missing
//! ones are no difference as long as one of them is held.
//!
//! Such interfaces may be of different kinds: a tap and a macvtap of one guest may share a MAC, and
//! a vhost-net goes with either. So all backends of a guest's MAC count together, and one vhost-net
//! may be gone for each backend that may be gone.

use std::collections::HashMap;

use taptrail_record::{DeviceKind, MacAddr};
use taptrail_trail::{Certainty, Holding, State};
use uuid::Uuid;

use super::Row;

/// A guest's interface, by the guest's uuid and the MAC.
type Interface = (Uuid, MacAddr);

/// Removes from `missing` all holdings that may have been released. `expected` has all holdings of
/// the trail.
pub(super) fn without_ambiguous<'a>(
    missing: Vec<(&'a Holding, u32)>,
    expected: &[Holding],
    rows: &[Row<'_>],
) -> Vec<(&'a Holding, u32)> {
    // How many backends of each interface may be gone: one of the ambiguous ones must be there.
    let mut may_be_gone: HashMap<Interface, usize> = HashMap::new();
    let ambiguous = |of: &&Holding| of.state == State::Held && of.certainty == Certainty::Ambiguous;
    for holding in expected.iter().filter(ambiguous).filter(|of| !is_vhost(of)) {
        may_be_gone.entry(interface(holding)).and_modify(|count| *count += 1).or_insert(0);
    }
    let mut vhosts_may_be_gone: HashMap<Interface, usize> = HashMap::new();
    let (vhosts, backends): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(of, _)| is_vhost(of));
    let mut left = Vec::new();
    for (holding, queues) in backends {
        let interface = interface(holding);
        match may_be_gone.get_mut(&interface).filter(|count| **count > 0) {
            Some(count) if holding.certainty == Certainty::Ambiguous || is_exchangeable(holding, rows) => {
                *count -= 1;
                *vhosts_may_be_gone.entry(interface).or_default() += 1;
            }
            _ => left.push((holding, queues)),
        }
    }
    for (holding, queues) in vhosts {
        match vhosts_may_be_gone.get_mut(&interface(holding)).filter(|count| **count > 0) {
            // A vhost-net does not show which interface it serves, so it can't be known whose is
            // there and whose is missing.
            Some(count) if holding.certainty != Certainty::Definitive => *count -= 1,
            _ => left.push((holding, queues)),
        }
    }
    left
}

/// Whether the device that was matched to an ambiguous holding may as well be this holding's: the
/// two share MAC and kind.
fn is_exchangeable(holding: &Holding, rows: &[Row<'_>]) -> bool {
    let mut others = rows.iter().filter_map(|row| row.holding);
    holding.certainty == Certainty::Inferred
        && others.any(|other| {
            other.certainty == Certainty::Ambiguous
                && interface(other) == interface(holding)
                && other.device.kind == holding.device.kind
        })
}

fn interface(holding: &Holding) -> Interface {
    (holding.guest.uuid, holding.mac)
}

fn is_vhost(holding: &Holding) -> bool {
    holding.device.kind == DeviceKind::VhostNet
}
