//! What is wrong with a device, in a sentence.

use std::fmt::Write as _;

use jiff::Timestamp;
use taptrail_kernel::proc::{HeldKind, ProcessId};
use taptrail_record::DeviceKind;
use taptrail_trail::Holding;

use super::bind::Part;
use crate::scan::{Held, Holder, Scan};

pub(super) fn unaccounted(
    holder: &Holder,
    part: &Part<'_>,
    opened: Option<&Holding>,
    begins: Option<Timestamp>,
) -> String {
    let mut text = format!("{} holds {}, and no record grants it", process(holder), device(part));
    if let Some(opened) = opened {
        let _ = write!(text, ": it was opened for {} and never given to QEMU", whose(opened));
    } else if let (Some(started), Some(begins)) = (holder.started, begins)
        && started < begins
    {
        let _ = write!(text, "; the process is older than the trail, which begins at {begins:.0}");
    }
    text
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
    format!("{} is told to hold {}, and {who}", whose(holding), named(holding))
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

pub(super) fn instead(holder: &Holder, part: &Part<'_>, holding: &Holding) -> String {
    let pid = holding.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    format!(
        "{} holds {}, which is granted to {}{pid}, who does not hold it",
        process(holder),
        device(part),
        whose(holding)
    )
}

pub(super) fn after_release(holder: &Holder, part: &Part<'_>, holding: &Holding) -> String {
    let when = holding.released.map(|time| format!(" at {time:.3}")).unwrap_or_default();
    let why = holding.ended_by.map(|by| format!(" ({})", by.as_str())).unwrap_or_default();
    let (process, device) = (process(holder), device(part));
    format!("{process} holds {device}, which is told as released{when} by {}{why}", whose(holding))
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
