//! What a record, or what is left of one, says; before it is known what that means.

use std::borrow::Cow;
use std::sync::Arc;

use taptrail_record::{Device, DeviceKind, Event, Fragment, GuestId, IfName};

use crate::model::entry::Claim;
use crate::output::{Out, named, whose, why};
use crate::state::guest::{By, Guest};
use crate::state::kernel_opens::{KernelOpens, Recent};
use crate::state::open_holding::Opened;
use crate::{Entry, Finding, FindingKind, Gap, Lost};
use jiff::Timestamp;

/// Tells a guest what a record says of it; all but the stop that ends it.
///
/// Returns an earlier open whose count of open(2)s is not certain any more.
pub(crate) fn tell(
    guest: &mut Guest,
    entry: &Claim<'_>,
    done: bool,
    lost: Option<(Timestamp, Timestamp)>,
    opens: &mut KernelOpens,
    out: &mut Out,
) -> Option<Recent> {
    let mut uncertain = None;
    match (&entry.record.event, done) {
        (Event::Open { mac, device, queue }, _) => {
            let (mac, queue, device) = (*mac, *queue, recorded(device, *queue));
            let seen = opens.admit(entry, &device, queue);
            let opened = Opened { mac, device: &device, queue, seen: seen.as_ref() };
            if done {
                guest.opened(entry, &opened, lost, out);
                uncertain = opens.remember(entry, mac, &device, seen.as_ref());
            } else {
                guest.open_failed(entry, &opened, out);
            }
        }
        (Event::Start { mac, vm_pid, .. }, true) => guest.granted(entry, *mac, By::Start, *vm_pid, out),
        (Event::Start { mac, .. }, false) => guest.refused(entry, *mac, By::Start, out),
        (Event::Attach { mac, vm_pid, .. }, true) => guest.granted(entry, *mac, By::Attach, *vm_pid, out),
        (Event::Attach { mac, .. }, false) => guest.refused(entry, *mac, By::Attach, out),
        (Event::Detach { mac, forced, .. }, true) => guest.detached(entry, *mac, *forced, out),
        (Event::Detach { mac, .. }, false) => guest.detach_failed(entry, *mac, out),
        (Event::Keep { mac, device, queue, vm_pid }, _) => {
            let opened = Opened { mac: *mac, device, queue: *queue, seen: None };
            guest.kept(entry, &opened, *vm_pid, out);
        }
        (Event::Close { mac, device, queue }, true) => {
            guest.closed(entry, &Opened { mac: *mac, device, queue: *queue, seen: None }, out);
        }
        (Event::Close { device, .. }, false) => {
            let text = format!("{} of {} could not be closed{}", named(device), whose(entry), why(entry));
            out.say(FindingKind::CloseFailed, entry, text);
        }
        // One that is in force again says nothing of the time before.
        (Event::Filter { .. } | Event::Mac { .. }, true) => {}
        (Event::Filter { device, .. }, false) => {
            let text = format!("The filter of {} for {} was not in force", named(device), whose(entry));
            out.say(FindingKind::FilterLost, entry, text);
        }
        (Event::Mac { device, .. }, false) => {
            let text =
                format!("The MAC of the link behind {} for {} was changed", named(device), whose(entry));
            out.say(FindingKind::MacChanged, entry, text);
        }
        (Event::GuestStart { vm_pid, .. }, true) => guest.started(entry, *vm_pid, out),
        (Event::GuestStart { .. }, false) => guest.start_failed(entry, out),
        (Event::GuestStop { .. }, _) => Guest::stop_failed(entry, out),
        // Of descriptors a watcher tells, in `crate::state::watched`.
        (Event::Seen(_) | Event::Gone(_) | Event::GuestGone { .. }, _) => {}
    }
    if let Some(mac) = entry.record.event.mac() {
        guest.tidy(mac, &|| entry.proof(), out);
    }
    uncertain
}

/// The device that an open record means.
///
/// libvirt names a macvtap by its interface and asks stat(2) for that name's number: what that finds in
/// the daemon's working directory is another thing, whatever its number.
pub(crate) fn recorded(device: &Device, queue: Option<u32>) -> Cow<'_, Device> {
    let interface = || device.path != "?" && device.path.parse::<IfName>().is_ok();
    if queue.is_none() && device.rdev.is_some() && !device.path.contains('/') && interface() {
        let (path, dev) = (device.path.clone(), device.dev.clone());
        return Cow::Owned(Device { kind: DeviceKind::Macvtap, path, rdev: None, dev });
    }
    Cow::Borrowed(device)
}

/// The finding about what is left of a record. `known` is the guest with its uuid, if that runs.
pub(crate) fn fragment(
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
        of += &format!(" about {}", named(device));
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
    }
}

/// The finding about a stretch of a log that is lost.
pub(crate) fn gap(entry: &Entry, gap: &Gap) -> Finding {
    let what = match gap.why {
        Lost::Unwritten => "The log lacks a stretch",
        Lost::Place => "The log was cut or rotated away before it was read to its end",
        Lost::Damaged => "A packed rotation of the log is damaged and can't be read to its end",
        Lost::Unheard => "Records that the kernel sent while nobody listened are lost",
        Lost::Overrun => "The kernel sent records faster than they were read",
        Lost::RateLimited => "The kernel's log dropped lines by its rate limit",
        Lost::Backlog => "The kernel dropped audit records",
        Lost::QueueFull => "The queue of auditd or of a dispatcher was full, and dropped records",
        Lost::AuditingOff => "Auditing was switched off",
        Lost::AuditdStopped => "auditd did not run",
        Lost::Disordered => "The log goes back in time, as after its clock was set",
        Lost::Unread => "Lines that look like records could not be read",
        Lost::Fell => {
            "The serial numbers fall, as after a boot whose beginning is missing or in another host's log"
        }
        Lost::Suspended => "auditd stopped writing, because its disk was full or failed",
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
    }
}
