//! An interface's devices in a few words: `tap vnet3 ×2 +vhost ×2`.

use std::fmt::Write as _;

use compact_str::{CompactString, format_compact};
use taptrail_record::{Device, DeviceKind, socket_path};
use taptrail_trail::{Certainty, Holding, State};

use super::Session;
use crate::text::escape_name;

/// Devices of one name and state.
struct Part {
    name: CompactString,
    vhost: bool,
    state: State,
    /// The sum of their queues, where all are known.
    queues: Option<u32>,
    devices: u32,
}

/// The session's devices, those that became something else than the session in parentheses.
pub(super) fn devices(session: &Session<'_>) -> String {
    let state = session.state();
    let mut parts: Vec<Part> = Vec::new();
    real(session).for_each(|holding| add(&mut parts, holding));
    // What carries packets first, then what accelerates it.
    parts.sort_by_key(|part| (part.state != state, part.vhost));
    let mut text = String::new();
    for part in &parts {
        let (before, after) = match (part.state == state, part.vhost, text.is_empty()) {
            (true, _, true) => ("", ""),
            (true, true, false) => (" +", ""),
            (true, false, false) => (", ", ""),
            (false, _, true) => ("(", ")"),
            // No parentheses behind those of a path.
            (false, _, false) if text.ends_with(')') => (", ", ""),
            (false, _, false) => (" (", ")"),
        };
        // Writing to a String can't fail.
        let _ = write!(text, "{before}{}", part.name);
        match part.queues {
            Some(queues) if queues > 1 => _ = write!(text, " ×{queues}"),
            None if part.devices > 1 => _ = write!(text, " ×{}", part.devices),
            _ => {}
        }
        if part.state != state {
            _ = write!(text, " {}", word(part.state));
        }
        text.push_str(after);
    }
    text
}

fn add(parts: &mut Vec<Part>, holding: &Holding) {
    let (name, state) = (name(&holding.device), holding.state);
    let vhost = holding.device.kind == DeviceKind::VhostNet;
    match parts.iter_mut().find(|part| part.name == name && part.state == state) {
        Some(part) => {
            part.queues = part.queues.zip(holding.queues).map(|(all, more)| all.saturating_add(more));
            part.devices += 1;
        }
        None => parts.push(Part { name, vhost, state, queues: holding.queues, devices: 1 }),
    }
}

/// The session's devices without the other halves of opens that are recorded as failed and as
/// successful: libvirt records a missing vhost-net so.
pub(crate) fn real<'a>(session: &Session<'a>) -> impl Iterator<Item = &'a Holding> {
    session.holdings.iter().copied().filter(|holding| {
        let failed = |of: &&Holding| of.state == State::OpenFailed && of.device.path == holding.device.path;
        holding.state != State::NeverGranted
            || holding.certainty != Certainty::Doubtful
            || !session.holdings.iter().any(failed)
    })
}

/// A device as people call it.
pub(crate) fn name(device: &Device) -> CompactString {
    let dev = device.dev.as_deref().map(escape_name);
    match (device.kind, dev) {
        (DeviceKind::VhostNet, _) => "vhost".into(),
        (DeviceKind::Tun, Some(dev)) => format_compact!("tap {dev}"),
        (DeviceKind::Tun, None) => "tap".into(),
        // libvirt records the interface in the place of the path.
        (DeviceKind::Macvtap, Some(dev)) if dev == device.path => dev,
        (DeviceKind::Macvtap, Some(dev)) => format_compact!("{dev} ({})", escape_name(&device.path)),
        (DeviceKind::VhostVdpa, _) => format_compact!("vdpa {}", escape_name(&device.path)),
        (DeviceKind::VhostUser, _) => {
            format_compact!("vhost-user {}", escape_name(socket_path(&device.path)))
        }
        (DeviceKind::Macvtap | DeviceKind::Unknown, None) => escape_name(&device.path),
        (DeviceKind::Unknown, Some(dev)) => format_compact!("{} ({dev})", escape_name(&device.path)),
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::OpenFailed => "failed",
        State::NeverGranted => "never granted",
        state => state.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use taptrail_record::Rdev;

    use super::*;
    use crate::sample::holding;

    fn tap(dev: Option<&str>, queues: Option<u32>) -> Holding {
        let device = Device::new("/dev/net/tun", Some(Rdev::TUN), dev.map(Into::into));
        Holding { device, queues, ..holding("web1", 1, 10, Some(30)) }
    }

    fn vhost(state: State, queues: Option<u32>) -> Holding {
        let device = Device::new("/dev/vhost-net", Some(Rdev::VHOST_NET), None);
        Holding { device, queues, state, ..holding("web1", 1, 10, Some(30)) }
    }

    fn macvtap(path: &str) -> Holding {
        let device = Device::new(path, Some(Rdev { major: 246, minor: 2 }), Some("macvtap0".into()));
        Holding { device, queues: None, ..holding("web1", 1, 10, Some(30)) }
    }

    fn words(holdings: &[Holding]) -> String {
        devices(&Session { holdings: holdings.iter().collect() })
    }

    #[test]
    fn an_interface_is_its_devices_and_their_queues() {
        let queues = Some(2);
        let all = [vhost(State::Released, queues), tap(Some("vnet3"), queues)];
        assert_eq!(words(&all), "tap vnet3 ×2 +vhost ×2");
        assert_eq!(words(&[tap(None, None), vhost(State::Released, Some(1))]), "tap +vhost");
        assert_eq!(words(&[macvtap("/dev/tap12")]), "macvtap0 (/dev/tap12)");
    }

    #[test]
    fn a_device_that_became_something_else_says_so() {
        let failed = vhost(State::OpenFailed, None);
        let tap = tap(None, None);
        assert_eq!(words(&[tap.clone(), failed.clone()]), "tap (vhost failed)");
        let never = vhost(State::NeverGranted, None);
        assert_eq!(words(&[tap.clone(), never.clone()]), "tap (vhost never granted)");
        let contradiction = Holding { certainty: Certainty::Doubtful, ..never };
        assert_eq!(words(&[failed.clone(), contradiction, tap]), "tap (vhost failed)");
        assert_eq!(words(&[macvtap("/dev/tap12"), failed.clone()]), "macvtap0 (/dev/tap12), vhost failed");
        assert_eq!(words(&[failed]), "vhost");
    }

    #[test]
    fn several_devices_of_one_name_are_counted() {
        assert_eq!(words(&[tap(None, None), tap(None, None)]), "tap ×2");
        assert_eq!(words(&[tap(Some("a"), None), tap(Some("b\n"), None)]), "tap a, tap b\\n");
    }
}
