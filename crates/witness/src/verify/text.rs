//! What is wrong with a device, in a sentence.

use std::fmt::Write as _;

use taptrail_kernel::proc::{HeldKind, ProcessId};
use taptrail_record::DeviceKind;
use taptrail_trail::{Holding, State};

use super::Told;
use super::bind::Part;
use crate::scan::{Held, Holder, Keeper, Manager, ManagerKind, Scan, Unshown};

/// How many processes are named that keep files where they can't be looked at.
const MAX_KEEPERS: usize = 8;

pub(super) fn unaccounted(holder: &Holder, part: &Part<'_>, opened: Option<&Holding>, told: &Told) -> String {
    let mut text = format!("{} holds {}, and no record grants it", process(holder), device(part));
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
        _ => {}
    }
    if let (Some(started), Some(begins)) = (holder.started, told.begins)
        && started < begins
    {
        let _ = write!(text, "; the process is older than the trail, which begins at {begins:.0}");
    }
    if let Some(lacks) = told.lacks
        && holder.started.is_none_or(|started| started < lacks)
    {
        let _ = write!(text, "; the trail lacks records, the last of them before {lacks:.0}");
    }
    text
}

/// Whether no record can be expected of a manager's guests.
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

pub(super) fn of_another(
    holder: &Holder,
    part: &Part<'_>,
    owner: &Holder,
    holding: &Holding,
    copy: bool,
) -> String {
    let what = if copy { "a copy" } else { "a queue of its own" };
    let (process, device, pid) = (process(holder), device(part), owner.process.pid);
    format!("{process} has {what} of {device}, which is granted to {} (pid {pid})", whose(holding))
}

pub(super) fn instead(holder: &Holder, part: &Part<'_>, holding: &Holding, scan: &Scan) -> String {
    let pid = holding.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    format!(
        "{} holds {}, which is granted to {}{pid}, {}",
        process(holder),
        device(part),
        whose(holding),
        if scan.unseen.may_have(holding.pid) { "which could not be seen" } else { "which does not hold it" }
    )
}

pub(super) fn after_release(holder: &Holder, part: &Part<'_>, holding: &Holding) -> String {
    let when = holding.released.map(|time| format!(" at {time:.3}")).unwrap_or_default();
    let why = holding.ended_by.map(|by| format!(" ({})", by.as_str())).unwrap_or_default();
    let (process, device) = (process(holder), device(part));
    format!("{process} holds {device}, which, by the trail, was released{when} by {}{why}", whose(holding))
}

pub(super) fn hidden(of: &Unshown, holding: Option<&Holding>, keepers: &[Keeper]) -> String {
    let name = of.held.ifname.as_ref().map_or("a tap", |name| name.as_str());
    let files = if of.queues == 1 { "an open file" } else { "open files" };
    let mut text = format!("The kernel counts {files} of {name} that no process shows");
    if let Some(holding) = holding {
        let told = if holding.state == State::Released { "released" } else { "held" };
        // Writing to a String can't fail.
        let _ = write!(text, "; by the trail, it is {told} by {}", whose(holding));
    }
    let kept = |of: &Keeper| {
        let how = match (of.files.in_flight, of.files.registered) {
            (flying, 0) => format!("{flying} in flight on its sockets"),
            (0, registered) => format!("{registered} registered with io_uring"),
            (flying, registered) => {
                format!("{flying} in flight on its sockets and {registered} registered with io_uring")
            }
        };
        format!("process {} ({how})", of.pid)
    };
    if !keepers.is_empty() {
        let named: Vec<_> = keepers.iter().take(MAX_KEEPERS).map(kept).collect();
        let more = if keepers.len() > MAX_KEEPERS { ", and others" } else { "" };
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

fn device(part: &Part<'_>) -> String {
    let Held { kind, path, ifname, .. } = part.held;
    let of = match ifname {
        Some(name) => format!(" ({name})"),
        // Not configured yet, or its link is gone.
        None if matches!(kind, HeldKind::Raw(DeviceKind::Tun | DeviceKind::Macvtap)) => {
            " (no interface)".to_owned()
        }
        None => String::new(),
    };
    let queues = if part.files.len() > 1 { format!(" x{}", part.files.len()) } else { String::new() };
    format!("{}{of}{queues}", path.display())
}

fn named(holding: &Holding) -> String {
    let dev = holding.device.dev.as_ref().map(|dev| format!(" ({dev})")).unwrap_or_default();
    format!("{}{dev}", holding.device.path)
}

fn whose(holding: &Holding) -> String {
    format!("{} of guest '{}'", holding.mac, holding.guest.name)
}
