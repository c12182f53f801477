//! Sentences that say what is wrong with a device.

use std::fmt::Write as _;

use taptrail_kernel::proc::ProcessId;
use taptrail_record::DeviceKind;
use taptrail_trail::{Holding, State};

use super::ExpectedState;
use super::matching::QueueGroup;
use crate::scan::{
    HiddenTap, HidingProcess, Holder, Manager, ManagerKind, ManagerSource, Scan, ScannedDevice,
};

/// The most processes with uninspectable open files that a sentence names.
const MAX_HIDING_PROCESSES: usize = 8;

pub(super) fn unaccounted(
    holder: &Holder,
    group: &QueueGroup<'_>,
    opened: Option<&Holding>,
    expected: &ExpectedState,
) -> String {
    let mut text = format!("{} holds {}, and no record grants it", process(holder), device(group));
    if let Some(opened) = opened {
        // Writing to a String can't fail.
        let _ = write!(text, ": it was opened for {} and never given to QEMU", whose(opened));
        return text;
    }
    match &holder.manager {
        Some(manager) if writes_no_records(manager.kind) => {
            let _ = write!(text, ": its manager, {}, writes no audit records", named_manager(manager));
            return text;
        }
        Some(manager) if matches!(manager.kind, ManagerKind::Other | ManagerKind::None) => {
            let _ = write!(text, "; no known guest manager started it: its parent is {}", parent(manager));
        }
        // Those of this ledger are known by it.
        Some(Manager { kind: ManagerKind::Taptrail, by: ManagerSource::Parent, pid: Some(pid), .. }) => {
            let _ = write!(
                text,
                " here: a taptrail (pid {pid}) supervises it with another --state-dir, whose ledger has its records"
            );
            return text;
        }
        _ => {}
    }
    if let (Some(started), Some(begins)) = (holder.started, expected.begins)
        && started < begins
    {
        let _ = write!(text, "; the process is older than the trail, which begins at {begins:.0}");
    }
    if let Some(lacks) = expected.lacks
        && holder.started.is_none_or(|started| started < lacks)
    {
        let _ = write!(text, "; the trail lacks records, the last of them before {lacks:.0}");
    }
    text
}

/// Whether a manager writes no records of its guests.
fn writes_no_records(kind: ManagerKind) -> bool {
    matches!(kind, ManagerKind::VirtQemuRun | ManagerKind::LibvirtSession)
}

fn named_manager(manager: &Manager) -> String {
    let mut text = match (manager.kind, manager.uid) {
        (ManagerKind::LibvirtSession, Some(uid)) => format!("libvirt's session daemon of user {uid}"),
        (ManagerKind::LibvirtSession, None) => "libvirt's session daemon".to_owned(),
        (kind, _) => kind.as_str().to_owned(),
    };
    // Writing to a String can't fail.
    let _ = match (manager.pid, &manager.path) {
        (Some(pid), _) => write!(text, " (pid {pid})"),
        (None, Some(path)) => write!(text, " (its files are in {})", path.display()),
        (None, None) => Ok(()),
    };
    text
}

fn parent(manager: &Manager) -> String {
    match (manager.pid, &manager.path) {
        (Some(pid), Some(path)) => format!("{} (pid {pid})", path.display()),
        (Some(pid), None) => format!("process {pid}"),
        (None, _) => "process 1".to_owned(),
    }
}

pub(super) fn missing(holding: &Holding, scan: &Scan) -> String {
    let who = match holding.pid {
        Some(pid) if scan.holders.iter().any(|holder| holder.process.pid == pid) => {
            format!("its process {pid} does not")
        }
        Some(pid) if ProcessId::of(pid).is_ok_and(|process| process.is_alive()) => {
            format!("its process {pid} holds no such device")
        }
        Some(pid) => format!("its process {pid} is gone"),
        None => "no process of that guest does".to_owned(),
    };
    format!("{} should hold {}, and {who}", whose(holding), named(holding))
}

pub(super) fn held_by_another(
    holder: &Holder,
    group: &QueueGroup<'_>,
    owner: &Holder,
    holding: &Holding,
    copy: bool,
) -> String {
    let what = if copy { "a copy" } else { "a queue of its own" };
    let (process, device, pid) = (process(holder), device(group), owner.process.pid);
    format!("{process} has {what} of {device}, which is granted to {} (pid {pid})", whose(holding))
}

pub(super) fn held_instead(
    holder: &Holder,
    group: &QueueGroup<'_>,
    holding: &Holding,
    scan: &Scan,
) -> String {
    let pid = holding.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    format!(
        "{} holds {}, which is granted to {}{pid}, {}",
        process(holder),
        device(group),
        whose(holding),
        if scan.unseen.may_have(holding.pid) { "which could not be seen" } else { "which does not hold it" }
    )
}

pub(super) fn after_release(holder: &Holder, group: &QueueGroup<'_>, holding: &Holding) -> String {
    let when = holding.released.map(|time| format!(" at {time:.3}")).unwrap_or_default();
    let why = holding.ended_by.map(|by| format!(" ({})", by.as_str())).unwrap_or_default();
    let (process, device) = (process(holder), device(group));
    format!("{process} holds {device}, which, by the trail, was released{when} by {}{why}", whose(holding))
}

pub(super) fn hidden(
    of: &HiddenTap,
    holding: Option<&Holding>,
    hiding_processes: &[HidingProcess],
) -> String {
    let name = of.held.ifname.as_ref().map_or("a tap", |name| name.as_str());
    let files = if of.queues == 1 { "an open file" } else { "open files" };
    let mut text = format!("The kernel counts {files} of {name} that no process shows");
    if let Some(holding) = holding {
        let state = if holding.state == State::Released { "released" } else { "held" };
        // Writing to a String can't fail.
        let _ = write!(text, "; by the trail, it is {state} by {}", whose(holding));
    }
    let kept = |of: &HidingProcess| {
        let how = match (of.files.in_flight, of.files.registered) {
            (flying, 0) => format!("{flying} in flight on its sockets"),
            (0, registered) => format!("{registered} registered with io_uring"),
            (flying, registered) => {
                format!("{flying} in flight on its sockets and {registered} registered with io_uring")
            }
        };
        format!("process {} ({how})", of.pid)
    };
    if !hiding_processes.is_empty() {
        let named: Vec<_> = hiding_processes.iter().take(MAX_HIDING_PROCESSES).map(kept).collect();
        let more = if hiding_processes.len() > MAX_HIDING_PROCESSES { ", and others" } else { "" };
        let _ = write!(text, ". Open files that can't be looked at are kept by {}{more}", named.join(", "));
    }
    text
}

fn process(holder: &Holder) -> String {
    let exe = holder.exe.as_ref().map(|exe| exe.display().to_string());
    let name = holder.guest.as_ref().and_then(|guest| guest.name.as_deref());
    let about: Vec<_> = exe.into_iter().chain(name.map(|name| format!("guest '{name}'"))).collect();
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    format!("Process {}{about}", holder.process.pid)
}

fn device(group: &QueueGroup<'_>) -> String {
    let ScannedDevice { kind, path, ifname, .. } = group.held;
    let of = match ifname {
        Some(name) => format!(" ({name})"),
        // The tap is not configured yet, or its link is gone.
        None if matches!(kind.raw(), Some(DeviceKind::Tun | DeviceKind::Macvtap)) => {
            " (no interface)".to_owned()
        }
        None => String::new(),
    };
    let queues = if group.files.len() > 1 { format!(" x{}", group.files.len()) } else { String::new() };
    format!("{}{of}{queues}", path.display())
}

fn named(holding: &Holding) -> String {
    let dev = holding.device.dev.as_ref().map(|dev| format!(" ({dev})")).unwrap_or_default();
    format!("{}{dev}", holding.device.path)
}

fn whose(holding: &Holding) -> String {
    format!("{} of guest '{}'", holding.mac, holding.guest.name)
}
