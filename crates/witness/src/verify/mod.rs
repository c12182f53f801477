//! What processes hold, beside what a trail tells: each device accounted for, or what is wrong with it.
//!
//! ```text
//!   Scan ───┐                         ┌─ accounted: a record grants it to this process
//!           ├─▶ verify ─▶ Row for each┼─ unaccounted, held after its release, held by another
//!   Told ───┘            device       ├─ missing: told as held, and nobody holds it
//!                                     ├─ hidden: the kernel counts open files that no process shows
//!                                     ├─ opening: a supervisor is about to give it to its guest
//!                                     └─ unknown: told as held, by a process that could not be seen
//! ```
//!
//! A process is the one that a record means by its pid, unless it started later, or the ledger or libvirt knows it as
//! another guest's; where no record tells a pid, by the guest that it runs. A device of that process is the one that a record means by
//! its name or number, by the name that libvirt has written down for its address, by that address, or, where
//! its link is out of sight, because no other is left. vhost-nets say nothing of themselves and are counted.
//!
//! Log and processes are not read at one moment: a difference is one when it lasts ([`Settling`]).

mod bind;
mod claims;
mod doubtful;
mod ignore;
mod scope;
mod settling;
mod shared;
#[cfg(test)]
mod tests;
mod text;
mod told;

use std::collections::HashMap;

use taptrail_kernel::proc::HeldKind;
use taptrail_record::{DeviceKind, MacAddr};
use taptrail_trail::{Certainty, FindingKind, Holding, State};

use crate::scan::{Descriptor, Held, Holder, Scan, Unshown};

pub use self::ignore::Ignore;
pub use self::scope::Scope;
pub use self::settling::{Next, Settling};
pub use self::told::{Hosts, Interest, Reader, Told};

use self::bind::{Bound, Part, bind, means};
use self::claims::{claimant, runs_another_guest, runs_guest_of};
use self::doubtful::without_doubtful;
use self::shared::{Common, Shared, commons};

/// What came of holding the two against each other.
#[derive(Debug, Clone)]
pub struct Account<'a> {
    /// Devices that are held, process by process, and then what is missing.
    pub rows: Vec<Row<'a>>,
}

/// One device of one process, or some of its queues; or a holding that nobody has.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// What is to be said of it.
    pub verdict: Verdict,
    /// The process that holds it; none for what is missing, or hidden.
    pub holder: Option<&'a Holder>,
    /// What it holds.
    pub held: Option<&'a Held>,
    /// Which descriptors there.
    pub descriptors: Vec<Descriptor>,
    /// How many queues: of what is missing, those that are.
    pub queues: u32,
    /// What the trail tells of it.
    pub holding: Option<&'a Holding>,
    /// By what the two are known to be one.
    pub matched: Option<Matched>,
    /// Other processes that have the same open file, or the same interface.
    pub shared: Vec<u32>,
    /// One sentence for people, of what is not as it should be.
    pub text: Option<String>,
}

impl Row<'_> {
    /// Whether it may be otherwise soon: records come a little late.
    fn may_pass(&self) -> bool {
        let unsure =
            |holding: &Holding| holding.state == State::Opening || holding.certainty == Certainty::Incomplete;
        self.verdict.is_difference() || self.verdict == Verdict::Unknown && self.holding.is_some_and(unsure)
    }
}

/// What is to be said of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// A record grants it to the process that holds it.
    Accounted,
    /// It is held, and no record grants it.
    Unaccounted,
    /// The trail tells it as held, and the process that it names does not hold it.
    Missing,
    /// Nobody knows: the process that may hold it could not be seen, or the records that would tell may be missing.
    Unknown,
    /// The trail tells its release, and it is held.
    AfterRelease,
    /// It is granted to one process, and another has it, too, or instead.
    HeldByAnother,
    /// The kernel counts open files of it that no process shows.
    Hidden,
    /// A supervisor is about to give it to its guest: the step has no outcome yet.
    Opening,
    /// No trail tells of devices of its kind.
    UnauditedKind,
    /// Nobody accounts for it, and its program is one that is known to.
    Ignored,
}

impl Verdict {
    /// All, in the order in which they are told.
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

    /// Whether trail and reality differ.
    pub fn is_difference(self) -> bool {
        matches!(
            self,
            Self::Unaccounted | Self::Missing | Self::AfterRelease | Self::HeldByAnother | Self::Hidden
        )
    }
}

/// By what a device and a holding are known to be one, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Matched {
    /// The record names its interface, or a macvtap's number.
    Name,
    /// libvirt has written down which address the interface is of.
    Libvirt,
    /// The interface has the guest's address.
    Mac,
    /// The interface is out of sight, and no other device of its kind is left.
    Elimination,
    /// It is one of as many vhost-nets as the trail tells.
    Count,
}

impl Matched {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Libvirt => "libvirt",
            Self::Mac => "mac",
            Self::Elimination => "elimination",
            Self::Count => "count",
        }
    }
}

/// Holds what is seen against what is told.
pub fn verify<'a>(scan: &'a Scan, told: &'a Told, ignore: &Ignore) -> Account<'a> {
    let mut claimed: HashMap<usize, Vec<&Holding>> = HashMap::new();
    let mut missing = Vec::new();
    for holding in told.holdings.iter().filter(|holding| holding.state == State::Held) {
        match claimant(&scan.holders, told, holding) {
            Some(place) => claimed.entry(place).or_default().push(holding),
            None => missing.push((holding, holding.queues.unwrap_or(1))),
        }
    }
    let shared = Shared::of(scan);
    let mut rows = Vec::new();
    let mut left = Vec::new();
    for (place, holder) in scan.holders.iter().enumerate() {
        let holdings = claimed.remove(&place).unwrap_or_default();
        let Bound { accounted, left: unexplained, lacking } = bind(holder, &holdings);
        missing.extend(lacking);
        for (part, holding, matched) in accounted {
            let objection = told.objection(holding);
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
                ..row(holder, &part, &shared)
            });
        }
        left.extend(unexplained.into_iter().map(|part| (holder, part)));
    }
    let owners = Owners::of(&rows);
    let mut hidden: Vec<Row<'_>> = scan.unshown.iter().map(|of| unshown(of, told, ignore, scan)).collect();
    // What is told as held is, though its process does not show it.
    missing.retain(|(holding, _)| !hidden.iter().any(|row| row.holding == Some(*holding)));
    let missing = without_doubtful(missing, &told.holdings, &rows);
    let judge = Judge { told, owners: &owners, missing: &missing, ignore, scan };
    let mut unexplained: Vec<Row<'_>> =
        left.iter().map(|(holder, part)| judge.judged(holder, part, row(holder, part, &shared))).collect();
    rows.append(&mut unexplained);
    rows.sort_by_key(|row| row.holder.map(|holder| holder.process.pid));
    rows.append(&mut hidden);
    rows.extend(missing.into_iter().map(|(holding, queues)| absent(holding, queues, scan)));
    Account { rows }
}

fn row<'a>(holder: &'a Holder, part: &Part<'a>, shared: &Shared) -> Row<'a> {
    Row {
        verdict: Verdict::Unaccounted,
        holder: Some(holder),
        held: Some(part.held),
        descriptors: part.files.iter().flatten().copied().collect(),
        queues: part.queues(),
        holding: None,
        matched: None,
        shared: shared.with(holder, part),
        text: None,
    }
}

fn absent<'a>(holding: &'a Holding, queues: u32, scan: &Scan) -> Row<'a> {
    // A process that could not be seen may hold it, and a record that is missing may end it.
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

/// A tap with open files that no process shows.
fn unshown<'a>(of: &'a Unshown, told: &'a Told, ignore: &Ignore, scan: &Scan) -> Row<'a> {
    let Unshown { held, queues } = of;
    let address = held.behind.as_ref().and_then(|behind| behind.mac).map(MacAddr::host_side);
    let is_its = |holding: &&Holding| {
        holding.device.kind == DeviceKind::Tun
            && match &holding.device.dev {
                Some(dev) => held.ifname.as_ref().is_some_and(|ifname| ifname.as_str() == &**dev),
                None => address == Some(holding.mac.host_side()),
            }
    };
    let latest = |state| told.holdings.iter().rev().filter(move |of| of.state == state).find(is_its);
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
        text: (!unseen).then(|| text::hidden(of, holding, &scan.keepers)),
    }
}

/// Who is granted what can be known in another process.
struct Owners<'a>(HashMap<Common, (&'a Holder, &'a Holding)>);

impl<'a> Owners<'a> {
    fn of(rows: &[Row<'a>]) -> Self {
        let mut owners = HashMap::new();
        for row in rows {
            let (Some(holder), Some(held), Some(holding)) = (row.holder, row.held, row.holding) else {
                continue;
            };
            let files = row.descriptors.iter().map(|descriptor| vec![*descriptor]).collect();
            for common in commons(holder, &Part { held, files }) {
                owners.insert(common, (holder, holding));
            }
        }
        Self(owners)
    }

    /// The other process that a part belongs to, and whether by one open file.
    fn of_part(&self, holder: &Holder, part: &Part<'_>) -> Option<(&'a Holder, &'a Holding, bool)> {
        commons(holder, part).find_map(|common| {
            let (owner, holding) = self.0.get(&common)?;
            (owner.process != holder.process).then_some((*owner, *holding, matches!(common, Common::File(_))))
        })
    }

    /// Whether a part is of a device that its own process is granted.
    fn is_own(&self, holder: &Holder, part: &Part<'_>) -> bool {
        let mut owners = commons(holder, part).filter_map(|common| self.0.get(&common));
        owners.any(|(owner, _)| owner.process == holder.process)
    }
}

/// What is to be said of devices that no record grants to who holds them.
struct Judge<'a, 'b> {
    told: &'a Told,
    owners: &'b Owners<'a>,
    missing: &'b [(&'a Holding, u32)],
    ignore: &'b Ignore,
    scan: &'a Scan,
}

impl<'a> Judge<'a, '_> {
    fn judged(&self, holder: &'a Holder, part: &Part<'a>, row: Row<'a>) -> Row<'a> {
        if self.scan.under_way.iter().any(|of| of.explains(holder, part.held)) {
            return Row { verdict: Verdict::Opening, ..row };
        }
        if let Some((owner, holding, copy)) = self.owners.of_part(holder, part) {
            let text = Some(text::of_another(holder, part, owner, holding, copy));
            return Row { verdict: Verdict::HeldByAnother, holding: Some(holding), text, ..row };
        }
        let HeldKind::Raw(kind) = part.held.kind else {
            return Row { verdict: Verdict::UnauditedKind, ..row };
        };
        if let Some(holding) =
            self.missing.iter().map(|(holding, _)| *holding).find(|of| self.is_of(holder, part, of))
        {
            let text = Some(text::instead(holder, part, holding, self.scan));
            return Row { verdict: Verdict::HeldByAnother, holding: Some(holding), text, ..row };
        }
        let latest = |state| self.told.holdings.iter().rev().filter(move |of| of.state == state);
        let is_its = |holding: &&Holding| {
            self.is_of(holder, part, holding)
                || kind == DeviceKind::VhostNet
                    && holding.device.kind == kind
                    && runs_guest_of(holder, self.told, holding)
        };
        if !self.owners.is_own(holder, part)
            && let Some(holding) = latest(State::Released).find(is_its)
        {
            let text = Some(text::after_release(holder, part, holding));
            return Row { verdict: Verdict::AfterRelease, holding: Some(holding), text, ..row };
        }
        if self.ignore.has(holder) {
            return Row { verdict: Verdict::Ignored, ..row };
        }
        let unsure = |holding: &&Holding| {
            is_its(holding)
                || runs_guest_of(holder, self.told, holding)
                    && means(holder, part.held, holding, Matched::Elimination)
        };
        if let Some(holding) = latest(State::Opening).chain(latest(State::Unknown)).find(unsure) {
            return Row { verdict: Verdict::Unknown, holding: Some(holding), ..row };
        }
        let opened = latest(State::NeverGranted).find(|holding| self.is_of(holder, part, holding));
        let text = Some(text::unaccounted(holder, part, opened, self.told));
        Row { holding: opened, text, ..row }
    }

    /// Whether a part is of what a holding means, whoever holds it.
    ///
    /// The guest decides first: what a process of another guest holds is that guest's, whatever its MAC
    /// or name, for both are given twice. In a process of no known guest the interface must have the
    /// guest's address.
    fn is_of(&self, holder: &Holder, part: &Part<'_>, holding: &Holding) -> bool {
        let by = |matched| means(holder, part.held, holding, matched);
        !runs_another_guest(holder, self.told, holding)
            && (by(Matched::Mac)
                || by(Matched::Libvirt)
                || runs_guest_of(holder, self.told, holding) && by(Matched::Name))
    }
}
