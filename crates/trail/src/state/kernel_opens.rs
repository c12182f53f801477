//! Opens that the kernel recorded, until a manager's record matches them.
//!
//! A guest manager opens a device, then writes its record: the kernel's event comes first, and its
//! process is the record's writer. An event without a matching record is a finding.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, DeviceKind, KernelOpen, MacAddr};
use uuid::Uuid;

use crate::model::entry::RecordEntry;
use crate::time::after;
use crate::{Entry, Proof};

/// How long after the kernel's event the record of the same open may come: the manager may run a
/// script or a filter in between.
const RECORD_WINDOW: SignedDuration = SignedDuration::from_secs(5);
/// How long an open waits for the record that shows whose QEMU its process is: at a boot that
/// record comes last.
const UNMATCHED_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
/// How many opens of one host may wait.
const MAX_PENDING: usize = 1024;
/// How many records of one host are kept for an event that comes late.
const MAX_RECENT: usize = 64;
/// How many vDPA devices may be one interface's.
const MAX_POSSIBLE: usize = 4;
/// How many of the events that one record matches become its proof.
const MAX_PROOFS: usize = 4;

/// The opens of one host that no record has matched yet, and the records that events may still
/// match.
#[derive(Debug, Default)]
pub(crate) struct KernelOpens {
    pending: VecDeque<PendingOpen>,
    recent: VecDeque<RecentOpen>,
    /// Until when records may be missing: then the kernel's events are not complete.
    lost_until: Option<Timestamp>,
}

/// An open that the kernel recorded.
#[derive(Debug)]
pub(crate) struct PendingOpen {
    pub(crate) open: KernelOpen,
    pub(crate) proof: Proof,
    /// Whether opens of another node by the same process were pending beside it: then it is not
    /// certain which record means which.
    ambiguous: bool,
}

/// A recent record of an open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecentOpen {
    pub(crate) guest: Uuid,
    pub(crate) mac: MacAddr,
    pub(crate) writer: u32,
    pub(crate) kind: DeviceKind,
    pub(crate) time: Timestamp,
    serial: Option<u32>,
    /// How many of the kernel's events it matched.
    matched_opens: u32,
}

/// The kernel's events for the open in a record.
#[derive(Debug, Default)]
pub(crate) struct KernelEvidence {
    /// How many open(2)s there were; 0 if that is not certain.
    pub(crate) opens: u32,
    /// The device by the kernel's event, if that has more than the record.
    pub(crate) device: Option<Device>,
    /// The events, oldest first; the first few.
    pub(crate) proof: Vec<Proof>,
}

impl KernelOpens {
    /// Records up to `until` may be missing: which events a record matches, and how many, is
    /// uncertain.
    pub(crate) fn mark_records_lost(&mut self, until: Timestamp) {
        self.pending.iter_mut().for_each(|pending| pending.ambiguous = true);
        self.lost_until = Some(until);
    }

    /// Takes the events that match a record, or a fragment of one: one open(2) if the record names
    /// its queue, otherwise all that its writer made of the kind.
    pub(crate) fn match_record(
        &mut self,
        entry: &Entry,
        device: &Device,
        queue: Option<u32>,
    ) -> Option<KernelEvidence> {
        if self.pending.is_empty() {
            return None;
        }
        let matches = |pending: &PendingOpen| {
            pending.succeeded()
                && entry.writer.is_none_or(|writer| writer == pending.open.pid)
                && is_same_device(device, &pending.open.device)
                && entry.time.duration_since(pending.proof.time).abs() <= RECORD_WINDOW
        };
        let first = self.pending.iter().position(matches)?;
        let node = self.pending[first].open.device.path.clone();
        if self.pending.iter().any(|other| matches(other) && other.open.device.path != node) {
            self.pending.iter_mut().filter(|other| matches(other)).for_each(|other| other.ambiguous = true);
        }
        let mut evidence = KernelEvidence::default();
        let is_recent = |until: Timestamp| entry.time.duration_since(until) <= RECORD_WINDOW;
        let mut ambiguous = self.lost_until.is_some_and(is_recent);
        let mut at = first;
        while at < self.pending.len() {
            let pending = &self.pending[at];
            if !matches(pending) || pending.open.device.path != node {
                at += 1;
                continue;
            }
            let Some(taken) = self.pending.remove(at) else { break };
            ambiguous |= taken.ambiguous;
            evidence.add(taken, device);
            if queue.is_some() {
                break;
            }
        }
        if ambiguous {
            (evidence.opens, evidence.device) = (0, None);
        }
        Some(evidence)
    }

    /// Remembers a record of a successful open. Returns an earlier one whose count of open(2)s is
    /// not certain any more: its writer opened devices for both at once.
    pub(crate) fn remember_record(
        &mut self,
        entry: &RecordEntry<'_>,
        mac: MacAddr,
        device: &Device,
        evidence: Option<&KernelEvidence>,
    ) -> Option<RecentOpen> {
        let writer = entry.writer?;
        let guest = entry.record.guest.uuid;
        let mut shared = None;
        let matched_opens = evidence.map_or(0, |evidence| evidence.opens);
        if evidence.is_none() && device.rdev.is_some() {
            let earlier = self.recent.iter_mut().rev().find(|recent| {
                recent.writer == writer
                    && recent.kind == device.kind
                    && recent.matched_opens > 1
                    && entry.time.duration_since(recent.time).abs() <= RECORD_WINDOW
            });
            if let Some(earlier) = earlier {
                earlier.matched_opens = 1;
                shared = Some(*earlier);
            }
        }
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        let (kind, time, serial) = (device.kind, entry.time, entry.serial);
        self.recent.push_back(RecentOpen { guest, mac, writer, kind, time, serial, matched_opens });
        shared
    }

    /// Finds the record of this open if it was read before the kernel's event, as where two sources
    /// are merged.
    pub(crate) fn match_earlier_record(&mut self, entry: &Entry, open: &KernelOpen) -> Option<RecentOpen> {
        let recent = self.recent.iter_mut().find(|recent| {
            let preceded = match (entry.serial, recent.serial) {
                (Some(event), Some(record)) => event < record,
                _ => entry.time <= recent.time,
            };
            preceded
                && recent.matched_opens == 0
                && recent.writer == open.pid
                && recent.kind == open.device.kind
                && recent.time.duration_since(entry.time).abs() <= RECORD_WINDOW
        })?;
        recent.matched_opens = 1;
        Some(*recent)
    }

    /// Keeps an open until a record matches it. Returns the oldest if too many wait.
    pub(crate) fn add(&mut self, open: &KernelOpen, proof: Proof) -> Option<PendingOpen> {
        self.pending.push_back(PendingOpen::new(open, proof));
        (self.pending.len() > MAX_PENDING).then(|| self.pending.pop_front()).flatten()
    }

    /// vDPA devices that a process has opened of late, each by its last open. libvirt records no
    /// open of a vDPA device.
    pub(crate) fn unrecorded_vdpa(&self, writer: Option<u32>, now: Timestamp) -> Vec<(Device, Proof)> {
        let is_its = |pending: &&PendingOpen| {
            pending.open.device.kind == DeviceKind::VhostVdpa
                && pending.succeeded()
                && Some(pending.open.pid) == writer
                && now.duration_since(pending.proof.time).abs() <= UNMATCHED_TIMEOUT
        };
        let mut all: Vec<(Device, Proof)> = Vec::new();
        for PendingOpen { open, proof, .. } in self.pending.iter().rev().filter(is_its) {
            if all.len() < MAX_POSSIBLE && !all.iter().any(|(device, _)| *device == open.device) {
                all.push((open.device.clone(), proof.clone()));
            }
        }
        all.reverse();
        all
    }

    /// Takes an open that has waited too long.
    pub(crate) fn pop_overdue(&mut self, now: Timestamp) -> Option<PendingOpen> {
        self.pending.pop_front_if(|oldest| after(oldest.proof.time, UNMATCHED_TIMEOUT) < now)
    }

    /// Until when a record may still match the oldest.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.pending.front().map(|oldest| after(oldest.proof.time, UNMATCHED_TIMEOUT))
    }

    /// Takes the opens of a guest's QEMU process, and of its children.
    pub(crate) fn take_of_process(&mut self, pid: u32) -> Vec<PendingOpen> {
        let of = |pending: &PendingOpen| pending.open.pid == pid || pending.open.ppid == Some(pid);
        if !self.pending.iter().any(of) {
            return Vec::new();
        }
        let (taken, rest) = std::mem::take(&mut self.pending).into_iter().partition(of);
        self.pending = rest;
        Vec::from(taken)
    }

    /// Takes all pending opens.
    pub(crate) fn take_all(&mut self) -> VecDeque<PendingOpen> {
        std::mem::take(&mut self.pending)
    }
}

impl PendingOpen {
    pub(crate) fn new(open: &KernelOpen, proof: Proof) -> Self {
        Self { open: open.clone(), proof, ambiguous: false }
    }

    /// Whether the open succeeded. A failed one matters only if its process turns out to be a
    /// guest's QEMU.
    pub(crate) fn succeeded(&self) -> bool {
        self.open.errno.is_none()
    }
}

impl KernelEvidence {
    /// The event of an open whose record was read before.
    pub(crate) fn after_record(entry: &Entry, open: &KernelOpen, record: &Device) -> Self {
        Self { opens: 1, device: refined_device(record, &open.device), proof: vec![entry.proof()] }
    }

    fn add(&mut self, taken: PendingOpen, record: &Device) {
        self.opens = self.opens.saturating_add(1);
        self.device = refined_device(record, &taken.open.device);
        if self.proof.len() < MAX_PROOFS {
            self.proof.push(taken.proof);
        }
    }
}

/// Whether an open is of a raw network device.
pub(crate) fn is_relevant(open: &KernelOpen) -> bool {
    let node = open.device.kind != DeviceKind::Macvtap || open.device.path.starts_with('/');
    open.device.kind != DeviceKind::Unknown && node
}

/// Whether a record and an event mean one device. libvirt names a macvtap by its interface, which
/// does not show its node.
fn is_same_device(record: &Device, kernel: &Device) -> bool {
    match record.kind {
        DeviceKind::Macvtap if !record.path.starts_with('/') => kernel.kind == DeviceKind::Macvtap,
        DeviceKind::Macvtap | DeviceKind::VhostVdpa | DeviceKind::VhostUser | DeviceKind::Unknown => {
            record.path == kernel.path
        }
        kind => kind == kernel.kind,
    }
}

/// The device of a record with what only the kernel's event has; none if that is nothing.
fn refined_device(record: &Device, kernel: &Device) -> Option<Device> {
    let named_by_interface = record.kind == DeviceKind::Macvtap && !record.path.starts_with('/');
    if named_by_interface {
        return Some(Device { dev: Some(record.path.clone()), ..kernel.clone() });
    }
    let unknown = record.rdev.is_none() && record.path == kernel.path;
    unknown.then(|| Device { dev: record.dev.clone(), ..kernel.clone() })
}
