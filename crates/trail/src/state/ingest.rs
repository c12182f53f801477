//! Applies a record to its guest, and makes the findings for fragments of records and for gaps.

use std::borrow::Cow;
use std::sync::Arc;

use taptrail_record::{Device, DeviceKind, Event, Fragment, GuestId, IfName};

use crate::model::entry::RecordEntry;
use crate::output::{Output, device_name, errno_suffix, subject_name};
use crate::state::guest::Guest;
use crate::state::kernel_opens::{KernelOpens, RecentOpen};
use crate::state::open_holding::RecordedOpen;
use crate::state::operation::GrantMethod;
use crate::{Entry, Finding, FindingKind, Gap, GapReason, Incident};
use jiff::Timestamp;

/// Applies a record to its guest: every record but the stop that ends it.
///
/// Returns an earlier open whose count of open(2)s is not certain any more.
pub(crate) fn apply_to_guest(
    guest: &mut Guest,
    entry: &RecordEntry<'_>,
    done: bool,
    last_gap: Option<(Timestamp, Timestamp)>,
    kernel_opens: &mut KernelOpens,
    out: &mut Output,
) -> Option<RecentOpen> {
    let mut uncertain = None;
    match (&entry.record.event, done) {
        (Event::Open { mac, device, queue }, _) => {
            let (mac, queue, device) = (*mac, *queue, recorded_device(device, *queue));
            let evidence = kernel_opens.match_record(entry, &device, queue);
            let opened = RecordedOpen { mac, device: &device, queue, kernel: evidence.as_ref() };
            if done {
                guest.on_open(entry, &opened, last_gap, out);
                uncertain = kernel_opens.remember_record(entry, mac, &device, evidence.as_ref());
            } else {
                guest.on_open_failed(entry, &opened, out);
            }
        }
        (Event::Start { mac, vm_pid, .. }, true) => {
            guest.on_grant(entry, *mac, GrantMethod::Start, *vm_pid, kernel_opens, out)
        }
        (Event::Start { mac, .. }, false) => guest.on_refusal(entry, *mac, GrantMethod::Start, out),
        (Event::Attach { mac, vm_pid, .. }, true) => {
            guest.on_grant(entry, *mac, GrantMethod::Attach, *vm_pid, kernel_opens, out)
        }
        (Event::Attach { mac, .. }, false) => guest.on_refusal(entry, *mac, GrantMethod::Attach, out),
        (Event::Detach { mac, forced, .. }, true) => guest.on_detach(entry, *mac, *forced, out),
        (Event::Detach { mac, .. }, false) => guest.on_detach_failed(entry, *mac, out),
        (Event::Keep { mac, device, queue, vm_pid }, _) => {
            let opened = RecordedOpen { mac: *mac, device, queue: *queue, kernel: None };
            guest.on_keep(entry, &opened, *vm_pid, out);
        }
        (Event::Close { mac, device, queue }, true) => {
            guest.on_close(entry, &RecordedOpen { mac: *mac, device, queue: *queue, kernel: None }, out);
        }
        (Event::Close { device, .. }, false) => {
            let text = format!(
                "{} of {} could not be closed{}",
                device_name(device),
                subject_name(entry),
                errno_suffix(entry)
            );
            out.report(FindingKind::CloseFailed, entry, text);
        }
        // A filter or MAC that is right again says nothing about the time before.
        (Event::Filter { .. } | Event::Mac { .. }, true) => {}
        (Event::Filter { device, .. }, false) => {
            let text =
                format!("The filter of {} for {} was not in force", device_name(device), subject_name(entry));
            out.report(FindingKind::FilterLost, entry, text);
        }
        (Event::Mac { device, .. }, false) => {
            let text = format!(
                "The MAC of the link behind {} for {} was changed",
                device_name(device),
                subject_name(entry)
            );
            out.report(FindingKind::MacChanged, entry, text);
        }
        (Event::Update { mac, phase, settings, .. }, _) => {
            guest.on_update(entry, *mac, *phase, settings, out);
        }
        (Event::GuestStart { vm_pid, .. }, true) => guest.on_start(entry, *vm_pid, out),
        (Event::GuestStart { .. }, false) => guest.on_start_failed(entry, out),
        (Event::GuestStop { .. }, _) => Guest::on_stop_failed(entry, out),
        // Watchers' records are applied in `crate::state::watched`.
        (Event::Seen(_) | Event::Gone(_) | Event::GuestGone { .. }, _) => {}
    }
    if let Some(mac) = entry.record.event.mac() {
        guest.remove_ended(mac, &|| entry.proof(), out);
    }
    uncertain
}

/// The device that an open record means.
///
/// libvirt names a macvtap by its interface, and gives the number that stat(2) finds for that name
/// in the daemon's working directory: that is another file, whatever its number.
pub(crate) fn recorded_device(device: &Device, queue: Option<u32>) -> Cow<'_, Device> {
    let interface = || device.path != "?" && device.path.parse::<IfName>().is_ok();
    if queue.is_none() && device.rdev.is_some() && !device.path.contains('/') && interface() {
        let (path, dev) = (device.path.clone(), device.dev.clone());
        return Cow::Owned(Device { kind: DeviceKind::Macvtap, path, rdev: None, dev });
    }
    Cow::Borrowed(device)
}

/// The finding for a fragment of a record. `known` is the running guest with its uuid.
pub(crate) fn fragment_finding(
    kind: FindingKind,
    entry: &Entry,
    fragment: &Fragment,
    known: Option<&GuestId>,
) -> Finding {
    let guest = match (&fragment.name, fragment.uuid) {
        (Some(name), Some(uuid)) => Some(GuestId { name: name.clone(), uuid }),
        _ => known.cloned(),
    };
    let mut of = match (&guest, &fragment.name) {
        (Some(GuestId { name, .. }), _) | (None, Some(name)) => format!(" of guest '{name}'"),
        (None, None) => String::new(),
    };
    if let Some(mac) = fragment.mac {
        of += &format!(" for {mac}");
    }
    if let Some(device) = &fragment.device {
        of += &format!(" about {}", device_name(device));
    }
    let text = match kind {
        FindingKind::RecordNotSent => format!("A record{of} could not be sent: no audit log has it"),
        FindingKind::SerialGap => format!("A record{of} was sent, and the audit log of its host lacks it"),
        _ => format!("A record{of} is cut off: the outcome of its operation is unknown"),
    };
    Finding {
        kind,
        host: Arc::clone(&entry.host),
        guest,
        mac: fragment.mac,
        device: fragment.device.clone(),
        time: entry.time,
        text,
        proof: vec![entry.proof()],
        incident: Incident::default(),
    }
}

/// The finding for a missing part of a log.
pub(crate) fn gap_finding(entry: &Entry, gap: &Gap) -> Finding {
    let what = match gap.why {
        GapReason::NeverWritten => "The log lacks a stretch",
        GapReason::PositionLost => "The log was cut or rotated away before it was read to its end",
        GapReason::Damaged => "A packed rotation of the log is damaged and can't be read to its end",
        GapReason::NotListening => "Records that the kernel sent while nobody listened are lost",
        GapReason::Overrun => "The kernel sent records faster than they were read",
        GapReason::RateLimited => "The kernel's log dropped lines by its rate limit",
        GapReason::Backlog => "The kernel dropped audit records",
        GapReason::QueueFull => "The queue of auditd or of a dispatcher was full, and dropped records",
        GapReason::AuditingOff => "Auditing was switched off",
        GapReason::AuditdStopped => "auditd did not run",
        GapReason::Disordered => "The log goes back in time, as after its clock was set",
        GapReason::UnparsedLines => "Lines that look like records could not be read",
        GapReason::SerialsFell => {
            "The serial numbers fall, as after a boot whose beginning is missing or in another host's log"
        }
        GapReason::Suspended => "auditd stopped writing, because its disk was full or failed",
    };
    let which = match gap.serials {
        Some((first, last)) if first == last => format!("audit event {first} is"),
        Some((first, last)) => format!("audit events {first} to {last} are"),
        None => "what it said is".to_owned(),
    };
    let since = gap.since.map_or(String::new(), |since| format!(", from {since:.3} on"));
    Finding {
        kind: FindingKind::LogGap,
        host: Arc::clone(&entry.host),
        guest: None,
        mac: None,
        device: None,
        time: entry.time,
        text: format!("{what}: {which} not known{since}"),
        proof: vec![entry.proof()],
        incident: Incident::default(),
    }
}
