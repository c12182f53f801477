//! The state that a trail says should be there, as far as it concerns devices that are held now.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Device, DeviceKind, MacAddr, Outcome};
use taptrail_trail::{
    Content, Entry, Finding, FindingKind, Holding, State, StepsInProgress, Trail, is_same_host,
};
use uuid::Uuid;

use super::BridgeTap;
use crate::scan::Scan;

/// The most names of other hosts that are kept.
const MAX_OTHER_HOSTS: usize = 16;

/// The state of this host at the end of a trail.
#[derive(Debug, Clone, Default)]
pub struct ExpectedState {
    /// Holdings that are held; opens without a grant; and for each interface of interest its latest
    /// released holding.
    pub holdings: Vec<Holding>,
    /// Findings of a watcher that saw a device held without a grant, or after its release. The
    /// trail has such a device as held, too.
    pub objections: Vec<Finding>,
    /// Taps of the bridge helper, as far as taps of their names are held.
    pub bridge_taps: Vec<BridgeTap>,
    /// The time of the trail's first entry.
    pub begins: Option<Timestamp>,
    /// The end of its last gap: records before it are missing.
    pub lacks: Option<Timestamp>,
    /// Other hosts in the trail, the first few.
    pub others: BTreeSet<Arc<str>>,
    /// How many records were read.
    pub records: u64,
}

impl ExpectedState {
    /// The finding that contradicts a holding which the trail has as held.
    pub(super) fn objection(&self, holding: &Holding) -> Option<&Finding> {
        self.objections.iter().find(|finding| {
            finding.guest.as_ref().is_some_and(|guest| guest.uuid == holding.guest.uuid)
                && finding.mac == Some(holding.mac)
                && finding.device.as_ref() == Some(&holding.device)
                // A device that was opened after the finding is another one of that name.
                && holding.opened.is_none_or(|opened| opened <= finding.time)
        })
    }
}

/// Which hosts' records are about this host.
#[derive(Debug, Clone)]
pub enum RecordHosts {
    /// All: a trail that the user named is about this host, whatever it calls it.
    Any,
    /// Those with this name, with or without a domain.
    Named(String),
}

impl RecordHosts {
    fn has(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(name) => is_same_host(name, host),
        }
    }
}

/// The guests, pids and MACs that a scan has seen. Only their released holdings are worth keeping:
/// a trail has thousands of others, of guests that are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    guests: HashSet<Uuid>,
    pids: HashSet<u32>,
    /// As the host's side has them.
    macs: HashSet<MacAddr>,
    /// Names of taps.
    taps: HashSet<String>,
}

impl Interest {
    /// The interest of this scan.
    pub fn of(scan: &Scan) -> Self {
        let mut interest = Self::default();
        for holder in &scan.holders {
            interest.pids.insert(holder.process.pid);
            interest.guests.extend(holder.guest.as_ref().and_then(|guest| guest.uuid));
            let behind = holder.devices.iter().filter_map(|held| held.behind.as_ref());
            interest.macs.extend(behind.filter_map(|behind| behind.mac).map(MacAddr::host_side));
            let names = holder.devices.iter().filter_map(|held| held.ifname.as_ref());
            interest.taps.extend(names.map(ToString::to_string));
        }
        let hidden = scan.hidden_taps.iter().filter_map(|of| of.held.behind.as_ref()?.mac);
        interest.macs.extend(hidden.map(MacAddr::host_side));
        interest
    }

    /// Whether everything that concerns `other` was kept for this.
    pub fn covers(&self, other: &Self) -> bool {
        other.guests.is_subset(&self.guests)
            && other.pids.is_subset(&self.pids)
            && other.macs.is_subset(&self.macs)
            && other.taps.is_subset(&self.taps)
    }

    fn has(&self, holding: &Holding) -> bool {
        self.guests.contains(&holding.guest.uuid)
            || self.macs.contains(&holding.mac.host_side())
            || holding.pid.is_some_and(|pid| self.pids.contains(&pid))
    }
}

/// Reads a trail and keeps what concerns devices that are held now.
#[derive(Debug)]
pub struct ExpectedStateReader {
    hosts: RecordHosts,
    interest: Interest,
    trail: Trail,
    begins: Option<Timestamp>,
    lacks: Option<Timestamp>,
    released: HashMap<(Uuid, MacAddr, DeviceKind), Holding>,
    objections: HashMap<(Uuid, MacAddr, Device), Finding>,
    /// The latest of each name.
    bridge_taps: HashMap<String, BridgeTap>,
    others: BTreeSet<Arc<str>>,
}

impl ExpectedStateReader {
    /// A reader that keeps released holdings only as far as they are of interest.
    pub fn new(hosts: RecordHosts, interest: Interest) -> Self {
        Self {
            hosts,
            interest,
            trail: Trail::new(),
            begins: None,
            lacks: None,
            released: HashMap::new(),
            objections: HashMap::new(),
            bridge_taps: HashMap::new(),
            others: BTreeSet::new(),
        }
    }

    /// Takes the next entry. Entries come in the order of their times.
    pub fn feed(&mut self, entry: &Entry) {
        if !self.hosts.has(&entry.host) {
            if self.others.len() < MAX_OTHER_HOSTS {
                self.others.insert(Arc::clone(&entry.host));
            }
            return;
        }
        self.begins.get_or_insert(entry.time);
        if matches!(entry.content, Content::Gap(_)) {
            self.lacks = Some(entry.time);
        }
        if let Content::BridgeOpen(open) = &entry.content
            && let Some(tap) =
                BridgeTap::of(open, entry.time).filter(|tap| self.interest.taps.contains(&tap.dev))
        {
            // After a success, a failure of the same tap says that it could not be passed.
            match open.outcome {
                Outcome::Success => self.bridge_taps.insert(tap.dev.clone(), tap),
                Outcome::Failed => self.bridge_taps.remove(&tap.dev),
            };
        }
        if let Content::BridgeClose(close) = &entry.content {
            self.bridge_taps.remove(&*close.dev);
        }
        self.trail.feed(entry);
        self.trail.drain_bridge_taps().for_each(drop);
        for ended in self.trail.drain_ended() {
            if ended.state == State::Released && self.interest.has(&ended) {
                self.released.insert((ended.guest.uuid, ended.mac, ended.device.kind), ended);
            }
        }
        for finding in self.trail.drain_findings() {
            let about = (&finding.guest, finding.mac, &finding.device);
            if let (
                FindingKind::UnaccountedDevice | FindingKind::HeldAfterRelease,
                (Some(guest), Some(mac), Some(device)),
            ) = (finding.kind, about)
                && self.interest.guests.contains(&guest.uuid)
            {
                self.objections.insert((guest.uuid, mac, device.clone()), finding);
            }
        }
    }

    /// Takes the steps that a ledger's supervisors have in hand, after all entries have been fed.
    pub fn in_hand(&mut self, steps: &StepsInProgress) {
        self.trail.set_steps_in_progress(steps);
    }

    /// The state at the end. `now`: all records until then were read.
    pub fn finish(mut self, now: Timestamp) -> ExpectedState {
        self.trail.cover_all(now);
        let rest = self.trail.finish();
        let mut holdings: Vec<_> = self.released.into_values().collect();
        holdings.sort_by_key(|holding| (holding.released, holding.mac));
        holdings.extend(rest.holdings.into_iter().filter(|holding| {
            matches!(holding.state, State::Held | State::Opening | State::Unknown)
                || holding.state == State::NeverGranted && holding.ended_by.is_none()
        }));
        let objections = self.objections.into_values().collect();
        let (begins, lacks, others) = (self.begins, self.lacks, self.others);
        let bridge_taps = self.bridge_taps.into_values().collect();
        ExpectedState {
            holdings,
            objections,
            bridge_taps,
            begins,
            lacks,
            others,
            records: rest.input.records,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_with_and_without_its_domain() {
        let hosts = |name: &str| RecordHosts::Named(name.to_owned());
        for (name, host, same) in [
            ("web", "web", true),
            ("web", "web.example.org", true),
            ("web.example.org", "web", true),
            ("web.a", "web.b", false),
            ("web", "web2", false),
            ("web", "?", false),
        ] {
            assert_eq!(hosts(name).has(host), same, "{name} {host}");
        }
        assert!(RecordHosts::Any.has("anything"));
    }
}
