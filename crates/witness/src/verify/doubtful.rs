//! Interfaces with one MAC of which a trail can't tell which was released: those that are gone are
//! no difference, as long as one is there.
//!
//! Such interfaces may be of different classes: a tap and a macvtap of one guest may share a MAC,
//! and a vhost-net goes with either. So all backends of a guest's MAC count together, and a
//! vhost-net may be gone for each backend that may.

use std::collections::HashMap;

use taptrail_record::{DeviceKind, MacAddr};
use taptrail_trail::{Certainty, Holding, State};
use uuid::Uuid;

use super::Row;

/// A guest's interface, as far as a MAC names it.
type Interface = (Uuid, MacAddr);

/// Leaves out of what is missing all that may have been released. `told` is all that the trail
/// tells.
pub(super) fn without_doubtful<'a>(
    missing: Vec<(&'a Holding, u32)>,
    told: &[Holding],
    rows: &[Row<'_>],
) -> Vec<(&'a Holding, u32)> {
    // How many backends of each interface may be gone: one of those that are in doubt must be
    // there.
    let mut may_be_gone: HashMap<Interface, usize> = HashMap::new();
    let doubtful = |of: &&Holding| of.state == State::Held && of.certainty == Certainty::Ambiguous;
    for holding in told.iter().filter(doubtful).filter(|of| !is_vhost(of)) {
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
            // A vhost-net says nothing of itself: whose it was that is there, and whose is missing,
            // nobody can tell.
            Some(count) if holding.certainty != Certainty::Definitive => *count -= 1,
            _ => left.push((holding, queues)),
        }
    }
    left
}

/// Whether what was matched to a doubtful holding may as well be what this one means: nothing but
/// their MAC told them apart.
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
