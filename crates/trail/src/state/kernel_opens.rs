//! What the kernel itself saw opened, until a record admits it.
//!
//! A guest manager opens a device, then writes its record: the kernel's event comes first, and its
//! opener is the record's writer. What no record admits in time is a finding.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use taptrail_record::{Device, DeviceKind, KernelOpen, MacAddr};
use uuid::Uuid;

use crate::model::entry::Claim;
use crate::time::after;
use crate::{Entry, Proof};

/// How long after the kernel's event the record of the same open may come: a script or a filter that
/// the guest manager runs between takes its time.
const ADMITTED_WITHIN: SignedDuration = SignedDuration::from_secs(5);
/// How long an open waits for the record that tells whose QEMU its opener is: at a boot that comes
/// last.
const TOLD_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// How many opens of one host may wait.
const WAITING: usize = 1024;
/// How many records of one host are remembered for an event that comes late.
const REMEMBERED: usize = 64;
/// How many of the events that one record admits become its proof.
const PROVEN: usize = 4;

/// The opens of one host that no record has admitted yet, and the records that may still.
#[derive(Debug, Default)]
pub(crate) struct KernelOpens {
    waiting: VecDeque<Waiting>,
    recent: VecDeque<Recent>,
    /// Until when records may be missing: what the kernel saw then is not all that there was.
    lost_until: Option<Timestamp>,
}

/// An open that the kernel saw.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) open: KernelOpen,
    pub(crate) proof: Proof,
    /// Whether opens of another node by the same process waited beside it: then which record means
    /// which can't be told.
    mingled: bool,
}

/// An open record not long ago.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recent {
    pub(crate) guest: Uuid,
    pub(crate) mac: MacAddr,
    pub(crate) writer: u32,
    pub(crate) kind: DeviceKind,
    pub(crate) time: Timestamp,
    serial: Option<u32>,
    /// How many of the kernel's opens it admitted.
    admitted: u32,
}

/// What the kernel saw of the open that a record tells.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How many open(2)s there were, where that is certain.
    pub(crate) opens: u32,
    /// The device as the kernel knows it, if it knows more than the record.
    pub(crate) device: Option<Device>,
    /// The events, oldest first; the first few.
    pub(crate) proof: Vec<Proof>,
}

impl KernelOpens {
    /// Records up to `until` may be missing: which opens a record means, and how many, can't be told.
    pub(crate) fn lose(&mut self, until: Timestamp) {
        self.waiting.iter_mut().for_each(|waiting| waiting.mingled = true);
        self.lost_until = Some(until);
    }

    /// Takes what the kernel saw of the open that a record, or what is left of one, tells: of one
    /// open(2) when the record names its queue, else of all that its writer made of the kind.
    pub(crate) fn admit(&mut self, entry: &Entry, device: &Device, queue: Option<u32>) -> Option<Seen> {
        if self.waiting.is_empty() {
            return None;
        }
        let fits = |waiting: &Waiting| {
            waiting.succeeded()
                && entry.writer.is_none_or(|writer| writer == waiting.open.pid)
                && is_one(device, &waiting.open.device)
                && entry.time.duration_since(waiting.proof.time).abs() <= ADMITTED_WITHIN
        };
        let first = self.waiting.iter().position(fits)?;
        let node = self.waiting[first].open.device.path.clone();
        if self.waiting.iter().any(|other| fits(other) && other.open.device.path != node) {
            self.waiting.iter_mut().filter(|other| fits(other)).for_each(|other| other.mingled = true);
        }
        let mut seen = Seen::default();
        let just = |until: Timestamp| entry.time.duration_since(until) <= ADMITTED_WITHIN;
        let mut mingled = self.lost_until.is_some_and(just);
        let mut at = first;
        while at < self.waiting.len() {
            let waiting = &self.waiting[at];
            if !fits(waiting) || waiting.open.device.path != node {
                at += 1;
                continue;
            }
            let Some(taken) = self.waiting.remove(at) else { break };
            mingled |= taken.mingled;
            seen.take(taken, device);
            if queue.is_some() {
                break;
            }
        }
        if mingled {
            (seen.opens, seen.device) = (0, None);
        }
        Some(seen)
    }

    /// Remembers a record of a successful open. Returns an earlier one whose count of open(2)s can't
    /// be believed any more: its writer opened for both at once.
    pub(crate) fn remember(
        &mut self,
        entry: &Claim<'_>,
        mac: MacAddr,
        device: &Device,
        seen: Option<&Seen>,
    ) -> Option<Recent> {
        let writer = entry.writer?;
        let guest = entry.record.guest.uuid;
        let mut shared = None;
        let admitted = seen.map_or(0, |seen| seen.opens);
        if seen.is_none() && device.rdev.is_some() {
            let earlier = self.recent.iter_mut().rev().find(|recent| {
                recent.writer == writer
                    && recent.kind == device.kind
                    && recent.admitted > 1
                    && entry.time.duration_since(recent.time).abs() <= ADMITTED_WITHIN
            });
            if let Some(earlier) = earlier {
                earlier.admitted = 1;
                shared = Some(*earlier);
            }
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        let (kind, time, serial) = (device.kind, entry.time, entry.serial);
        self.recent.push_back(Recent { guest, mac, writer, kind, time, serial, admitted });
        shared
    }

    /// The record that told this open before the kernel's event was read, as where two sources are
    /// merged.
    pub(crate) fn told_before(&mut self, entry: &Entry, open: &KernelOpen) -> Option<Recent> {
        let recent = self.recent.iter_mut().find(|recent| {
            let preceded = match (entry.serial, recent.serial) {
                (Some(event), Some(record)) => event < record,
                _ => entry.time <= recent.time,
            };
            preceded
                && recent.admitted == 0
                && recent.writer == open.pid
                && recent.kind == open.device.kind
                && recent.time.duration_since(entry.time).abs() <= ADMITTED_WITHIN
        })?;
        recent.admitted = 1;
        Some(*recent)
    }

    /// Keeps an open until a record admits it. Returns the oldest when too many wait.
    pub(crate) fn wait(&mut self, open: &KernelOpen, proof: Proof) -> Option<Waiting> {
        self.waiting.push_back(Waiting::new(open, proof));
        (self.waiting.len() > WAITING).then(|| self.waiting.pop_front()).flatten()
    }

    /// Takes an open that has waited for too long.
    pub(crate) fn overdue(&mut self, now: Timestamp) -> Option<Waiting> {
        self.waiting.pop_front_if(|oldest| after(oldest.proof.time, TOLD_AFTER) < now)
    }

    /// Until when a record may still admit the oldest.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.waiting.front().map(|oldest| after(oldest.proof.time, TOLD_AFTER))
    }

    /// Takes the opens of a process that is told to be a guest's QEMU, and of its children.
    pub(crate) fn of_process(&mut self, pid: u32) -> Vec<Waiting> {
        let of = |waiting: &Waiting| waiting.open.pid == pid || waiting.open.ppid == Some(pid);
        if !self.waiting.iter().any(of) {
            return Vec::new();
        }
        let (taken, rest) = std::mem::take(&mut self.waiting).into_iter().partition(of);
        self.waiting = rest;
        Vec::from(taken)
    }

    /// Takes all that waits.
    pub(crate) fn rest(&mut self) -> VecDeque<Waiting> {
        std::mem::take(&mut self.waiting)
    }
}

impl Waiting {
    pub(crate) fn new(open: &KernelOpen, proof: Proof) -> Self {
        Self { open: open.clone(), proof, mingled: false }
    }

    /// A failed open gave nobody anything: it matters only when its opener proves to be a guest's QEMU.
    pub(crate) fn succeeded(&self) -> bool {
        self.open.errno.is_none()
    }
}

impl Seen {
    /// What the kernel saw of an open whose record was read before.
    pub(crate) fn late(entry: &Entry, open: &KernelOpen, record: &Device) -> Self {
        Self { opens: 1, device: better(record, &open.device), proof: vec![entry.proof()] }
    }

    fn take(&mut self, taken: Waiting, record: &Device) {
        self.opens = self.opens.saturating_add(1);
        self.device = better(record, &taken.open.device);
        if self.proof.len() < PROVEN {
            self.proof.push(taken.proof);
        }
    }
}

/// Whether an open is of a device that matters here.
pub(crate) fn matters(open: &KernelOpen) -> bool {
    let node = open.device.kind != DeviceKind::Macvtap || open.device.path.starts_with('/');
    open.device.kind != DeviceKind::Unknown && node
}

/// Whether a record and the kernel mean one device. libvirt names a macvtap by its interface, which
/// says nothing of its node.
fn is_one(record: &Device, kernel: &Device) -> bool {
    match record.kind {
        DeviceKind::Macvtap if !record.path.starts_with('/') => kernel.kind == DeviceKind::Macvtap,
        DeviceKind::Macvtap | DeviceKind::Unknown => record.path == kernel.path,
        kind => kind == kernel.kind,
    }
}

/// The device of a record with what only the kernel knows of it; none when that is nothing.
fn better(record: &Device, kernel: &Device) -> Option<Device> {
    let named_by_interface = record.kind == DeviceKind::Macvtap && !record.path.starts_with('/');
    if named_by_interface {
        return Some(Device { dev: Some(record.path.clone()), ..kernel.clone() });
    }
    let unknown = record.rdev.is_none() && record.path == kernel.path;
    unknown.then(|| Device { dev: record.dev.clone(), ..kernel.clone() })
}
