//! Compares what processes hold with what a trail says. Each device is accounted for, or the
//! difference is named.
//!
//! ```text
//!   Scan ──────────┐                        ┌─ accounted: a record grants it to this process
//!                  ├▶ verify ─▶ Row for each┼─ unaccounted, held after its release, held by another
//!   ExpectedState ─┘           device       ├─ missing: held by the trail, and nobody holds it
//!                                           ├─ hidden: the kernel counts open files that no process shows
//!                                           ├─ opening: a supervisor is about to give it to its guest
//!                                           └─ unknown: its process could not be inspected
//! ```
//!
//! A holding means the process with the recorded pid, unless that started later, or the ledger or
//! libvirt knows it as another guest's. If no record has a pid, it means the process that runs the
//! guest. Among the devices of that process, a holding means the one with the recorded name or
//! number; else the one whose name libvirt has for the MAC; else the one with the guest's MAC;
//! else, if its link can't be read, the only one that is left. vhost-nets do not show which
//! interface they serve, and are only counted.
//!
//! Log and processes are not read at the same moment, so a difference counts only if it lasts
//! ([`Debouncer`]).

mod ambiguous;
mod bridge_tap;
mod debounce;
mod expected;
mod holder;
mod ignore;
mod matching;
mod scope;
mod shared;
#[cfg(test)]
mod tests;
mod text;

use std::collections::HashMap;

use taptrail_record::{DeviceKind, MacAddr};
use taptrail_trail::{Certainty, FindingKind, Holding, State};

use crate::scan::{HiddenTap, Holder, Scan, ScannedDevice, ThreadDescriptor, is_connection};

pub use self::bridge_tap::BridgeTap;
pub use self::debounce::{Debouncer, Next};
pub use self::expected::{ExpectedState, ExpectedStateReader, Interest, RecordHosts};
pub use self::ignore::Ignore;
pub use self::scope::Scope;

use self::ambiguous::without_ambiguous;
use self::holder::{find_holder, runs_another_guest, runs_guest_of};
use self::matching::{Matches, QueueGroup, match_devices, matches_by};
use self::shared::{SharedDevices, SharedKey, shared_keys};

/// The result of a comparison.
#[derive(Debug, Clone)]
pub struct Comparison<'a> {
    /// Held devices, process by process; then hidden taps; then missing devices.
    pub rows: Vec<Row<'a>>,
}

/// One device of one process, or some of its queues; or a holding without a device.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// What the comparison says of it.
    pub verdict: Verdict,
    /// The process that holds it; none for a missing or hidden device, and for a connection to a
    /// vhost-user backend, whose holding names the process.
    pub holder: Option<&'a Holder>,
    /// The device that it holds.
    pub held: Option<&'a ScannedDevice>,
    /// The descriptors that refer to it; empty for a missing or hidden device.
    pub descriptors: Vec<ThreadDescriptor>,
    /// The number of queues; for a missing device, how many are missing.
    pub queues: u32,
    /// The trail's holding for it.
    pub holding: Option<&'a Holding>,
    /// How device and holding were matched.
    pub matched: Option<MatchMethod>,
    /// Other processes with the same open file or the same interface.
    pub shared: Vec<u32>,
    /// What is wrong, as one sentence; none if nothing is.
    pub text: Option<String>,
}

impl Row<'_> {
    /// Whether the verdict may change soon: records come a little late.
    fn may_pass(&self) -> bool {
        let unsure =
            |holding: &Holding| holding.state == State::Opening || holding.certainty == Certainty::Incomplete;
        self.verdict.is_difference() || self.verdict == Verdict::Unknown && self.holding.is_some_and(unsure)
    }
}

/// The verdict on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A record grants it to the process that holds it.
    Accounted,
    /// It is held, and no record grants it.
    Unaccounted,
    /// The trail has it as held, and the process that the trail names does not hold it.
    Missing,
    /// It is not known: the process that may hold it could not be inspected, or records that would
    /// decide may be missing.
    Unknown,
    /// The trail has its release, and it is still held.
    AfterRelease,
    /// It is granted to one process, and another has it, too, or instead.
    HeldByAnother,
    /// The kernel counts open files of it that no process shows.
    Hidden,
    /// A supervisor is about to give it to its guest: the step has no outcome yet.
    Opening,
    /// Devices of its kind are not audited, by all managers or by the holder's.
    UnauditedKind,
    /// No record accounts for it, and its program is on the ignore list.
    Ignored,
}

impl Verdict {
    /// All verdicts, in the order of reports.
    pub const ALL: [Self; 10] = [
        Self::Accounted,
        Self::Unaccounted,
        Self::Missing,
        Self::Unknown,
        Self::AfterRelease,
        Self::HeldByAnother,
        Self::Hidden,
        Self::Opening,
        Self::UnauditedKind,
        Self::Ignored,
    ];

    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accounted => "accounted",
            Self::Unaccounted => "unaccounted",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::AfterRelease => "held-after-release",
            Self::HeldByAnother => "held-by-another",
            Self::Hidden => "hidden",
            Self::Opening => "opening",
            Self::UnauditedKind => "unaudited-kind",
            Self::Ignored => "ignored",
        }
    }

    /// Whether the trail and the processes differ.
    pub fn is_difference(self) -> bool {
        matches!(
            self,
            Self::Unaccounted | Self::Missing | Self::AfterRelease | Self::HeldByAnother | Self::Hidden
        )
    }
}

/// How a device and a holding were matched, the surest method first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchMethod {
    /// By the name of its interface in the record, or the device number of a macvtap.
    Name,
    /// By the name that libvirt's state of the guest has for the MAC.
    Libvirt,
    /// By the MAC of the interface, which is made from the guest's.
    Mac,
    /// By elimination: the interface can't be read, and no other device of its kind is left.
    Elimination,
    /// By counting: the process holds as many vhost-nets as the trail has.
    Count,
    /// The bridge helper's record names the tap, and the process that asked for it or its user.
    BridgeHelper,
}

impl MatchMethod {
    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Libvirt => "libvirt",
            Self::Mac => "mac",
            Self::Elimination => "elimination",
            Self::Count => "count",
            Self::BridgeHelper => "bridge-helper",
        }
    }
}

/// Compares a scan with the expected state.
pub fn verify<'a>(scan: &'a Scan, expected: &'a ExpectedState, ignore: &Ignore) -> Comparison<'a> {
    let mut claimed: HashMap<usize, Vec<&Holding>> = HashMap::new();
    let mut missing = Vec::new();
    let mut connections = Vec::new();
    for holding in expected.holdings.iter().filter(|holding| holding.state == State::Held) {
        if is_connection(holding) {
            connections.push(connection_row(holding, scan));
            continue;
        }
        match find_holder(&scan.holders, expected, holding) {
            Some(place) => claimed.entry(place).or_default().push(holding),
            None => missing.push((holding, holding.queues.unwrap_or(1))),
        }
    }
    let shared = SharedDevices::of(scan);
    let mut rows = Vec::new();
    let mut left = Vec::new();
    for (place, holder) in scan.holders.iter().enumerate() {
        let holdings = claimed.remove(&place).unwrap_or_default();
        let Matches { accounted, left: unexplained, lacking } = match_devices(holder, &holdings);
        missing.extend(lacking);
        for (group, holding, matched) in accounted {
            let objection = expected.objection(holding);
            let verdict = match objection.map(|finding| finding.kind) {
                None => Verdict::Accounted,
                Some(FindingKind::HeldAfterRelease) => Verdict::AfterRelease,
                Some(_) => Verdict::Unaccounted,
            };
            rows.push(Row {
                verdict,
                holding: Some(holding),
                matched: Some(matched),
                text: objection.map(|finding| finding.text.clone()),
                ..row(holder, &group, &shared)
            });
        }
        left.extend(unexplained.into_iter().map(|group| (holder, group)));
    }
    let owners = Owners::of(&rows);
    let mut hidden: Vec<Row<'_>> =
        scan.hidden_taps.iter().map(|of| hidden_row(of, expected, ignore, scan)).collect();
    // A hidden tap is held, though its process does not show it.
    missing.retain(|(holding, _)| !hidden.iter().any(|row| row.holding == Some(*holding)));
    let missing = without_ambiguous(missing, &expected.holdings, &rows);
    let classifier = Classifier { expected, owners: &owners, missing: &missing, ignore, scan };
    let mut unexplained: Vec<Row<'_>> = left
        .iter()
        .map(|(holder, group)| classifier.classify(holder, group, row(holder, group, &shared)))
        .collect();
    rows.append(&mut unexplained);
    rows.sort_by_key(|row| row.holder.map(|holder| holder.process.pid));
    rows.append(&mut hidden);
    rows.append(&mut connections);
    rows.extend(missing.into_iter().map(|(holding, queues)| missing_row(holding, queues, scan)));
    Comparison { rows }
}

fn row<'a>(holder: &'a Holder, group: &QueueGroup<'a>, shared: &SharedDevices) -> Row<'a> {
    Row {
        verdict: Verdict::Unaccounted,
        holder: Some(holder),
        held: Some(group.held),
        descriptors: group.files.iter().flatten().copied().collect(),
        queues: group.queues(),
        holding: None,
        matched: None,
        shared: shared.with(holder, group),
        text: None,
    }
}

fn missing_row<'a>(holding: &'a Holding, queues: u32, scan: &Scan) -> Row<'a> {
    // A process that could not be inspected may hold it, or a missing record may end it.
    let unknown = scan.unseen.may_have(holding.pid) || holding.certainty == Certainty::Incomplete;
    Row {
        verdict: if unknown { Verdict::Unknown } else { Verdict::Missing },
        holder: None,
        held: None,
        descriptors: Vec::new(),
        queues,
        holding: Some(holding),
        matched: None,
        shared: Vec::new(),
        text: (!unknown).then(|| text::missing(holding, scan)),
    }
}

/// A connection to a vhost-user backend, which no scan finds but by its record.
fn connection_row<'a>(holding: &'a Holding, scan: &Scan) -> Row<'a> {
    let missing = missing_row(holding, 1, scan);
    match scan.connection(holding) {
        Some(true) => {
            Row { verdict: Verdict::Accounted, matched: Some(MatchMethod::Name), text: None, ..missing }
        }
        Some(false) => missing,
        None => Row { verdict: Verdict::Unknown, text: None, ..missing },
    }
}

/// A tap with open files that no process shows.
fn hidden_row<'a>(of: &'a HiddenTap, expected: &'a ExpectedState, ignore: &Ignore, scan: &Scan) -> Row<'a> {
    let HiddenTap { held, queues } = of;
    let address = held.behind.as_ref().and_then(|behind| behind.mac).map(MacAddr::host_side);
    let is_its = |holding: &&Holding| {
        holding.device.kind == DeviceKind::Tun
            && match &holding.device.dev {
                Some(dev) => held.ifname.as_ref().is_some_and(|ifname| ifname.as_str() == &**dev),
                None => address == Some(holding.mac.host_side()),
            }
    };
    let latest = |state| expected.holdings.iter().rev().filter(move |of| of.state == state).find(is_its);
    let holding = latest(State::Held).or_else(|| latest(State::Released));
    let mut unseen = scan.unseen.processes.iter().chain(&scan.unseen.crowded);
    let unseen = unseen.any(|of| !ignore.has_pid(of.pid));
    Row {
        verdict: if unseen { Verdict::Unknown } else { Verdict::Hidden },
        holder: None,
        held: Some(held),
        descriptors: Vec::new(),
        queues: *queues,
        holding,
        matched: None,
        shared: Vec::new(),
        text: (!unseen).then(|| text::hidden(of, holding, &scan.hiding_processes)),
    }
}

/// For each key by which another process can share a device: the process that a record grants it
/// to.
struct Owners<'a>(HashMap<SharedKey, (&'a Holder, &'a Holding)>);

impl<'a> Owners<'a> {
    fn of(rows: &[Row<'a>]) -> Self {
        let mut owners = HashMap::new();
        for row in rows {
            let (Some(holder), Some(held), Some(holding)) = (row.holder, row.held, row.holding) else {
                continue;
            };
            let files = row.descriptors.iter().map(|descriptor| vec![*descriptor]).collect();
            for key in shared_keys(holder, &QueueGroup { held, files }) {
                owners.insert(key, (holder, holding));
            }
        }
        Self(owners)
    }

    /// The other process that a group of queues belongs to, and whether by one open file.
    fn of_group(&self, holder: &Holder, group: &QueueGroup<'_>) -> Option<(&'a Holder, &'a Holding, bool)> {
        shared_keys(holder, group).find_map(|key| {
            let (owner, holding) = self.0.get(&key)?;
            (owner.process != holder.process).then_some((*owner, *holding, matches!(key, SharedKey::File(_))))
        })
    }

    /// Whether a group belongs to a device that is granted to its own process.
    fn is_own(&self, holder: &Holder, group: &QueueGroup<'_>) -> bool {
        let mut owners = shared_keys(holder, group).filter_map(|key| self.0.get(&key));
        owners.any(|(owner, _)| owner.process == holder.process)
    }
}

/// Gives verdicts on devices that no record grants to their holders.
struct Classifier<'a, 'b> {
    expected: &'a ExpectedState,
    owners: &'b Owners<'a>,
    missing: &'b [(&'a Holding, u32)],
    ignore: &'b Ignore,
    scan: &'a Scan,
}

impl<'a> Classifier<'a, '_> {
    fn classify(&self, holder: &'a Holder, group: &QueueGroup<'a>, row: Row<'a>) -> Row<'a> {
        if self.scan.pending_hand_overs.iter().any(|of| of.explains(holder, group.held)) {
            return Row { verdict: Verdict::Opening, ..row };
        }
        if let Some((owner, holding, copy)) = self.owners.of_group(holder, group) {
            let text = Some(text::held_by_another(holder, group, owner, holding, copy));
            return Row { verdict: Verdict::HeldByAnother, holding: Some(holding), text, ..row };
        }
        let Some(kind) = group.held.kind.raw() else {
            return Row { verdict: Verdict::UnauditedKind, ..row };
        };
        if self.expected.bridge_taps.iter().any(|tap| tap.is(holder, group.held, self.scan.netns)) {
            return Row { verdict: Verdict::Accounted, matched: Some(MatchMethod::BridgeHelper), ..row };
        }
        if let Some(holding) =
            self.missing.iter().map(|(holding, _)| *holding).find(|of| self.is_of(holder, group, of))
        {
            let text = Some(text::held_instead(holder, group, holding, self.scan));
            return Row { verdict: Verdict::HeldByAnother, holding: Some(holding), text, ..row };
        }
        let latest = |state| self.expected.holdings.iter().rev().filter(move |of| of.state == state);
        let is_its = |holding: &&Holding| {
            self.is_of(holder, group, holding)
                || kind == DeviceKind::VhostNet
                    && holding.device.kind == kind
                    && runs_guest_of(holder, self.expected, holding)
        };
        if !self.owners.is_own(holder, group)
            && let Some(holding) = latest(State::Released).find(is_its)
        {
            let text = Some(text::after_release(holder, group, holding));
            return Row { verdict: Verdict::AfterRelease, holding: Some(holding), text, ..row };
        }
        if self.ignore.has(holder) {
            return Row { verdict: Verdict::Ignored, ..row };
        }
        let unsure = |holding: &&Holding| {
            is_its(holding)
                || runs_guest_of(holder, self.expected, holding)
                    && matches_by(holder, group.held, holding, MatchMethod::Elimination)
        };
        if let Some(holding) = latest(State::Opening).chain(latest(State::Unknown)).find(unsure) {
            return Row { verdict: Verdict::Unknown, holding: Some(holding), ..row };
        }
        let opened = latest(State::NeverGranted).find(|holding| self.is_of(holder, group, holding));
        // libvirt opens vDPA devices without a record.
        if kind == DeviceKind::VhostVdpa && opened.is_none() {
            return Row { verdict: Verdict::UnauditedKind, ..row };
        }
        let text = Some(text::unaccounted(holder, group, opened, self.expected));
        Row { holding: opened, text, ..row }
    }

    /// Whether a group of queues is what a holding means, whichever process has it.
    ///
    /// The guest decides first: what a process of another guest holds is that guest's, whatever its
    /// MAC or name, for both can occur twice. In a process of no known guest the interface must
    /// have the guest's MAC.
    fn is_of(&self, holder: &Holder, group: &QueueGroup<'_>, holding: &Holding) -> bool {
        let by = |matched| matches_by(holder, group.held, holding, matched);
        !runs_another_guest(holder, self.expected, holding)
            && (by(MatchMethod::Mac)
                || by(MatchMethod::Libvirt)
                || runs_guest_of(holder, self.expected, holding) && by(MatchMethod::Name))
    }
}
