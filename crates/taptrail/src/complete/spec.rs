//! SPECs: keys, and for some keys their values.

use taptrail_guest::filter::Store;
use taptrail_guest::spec::{Key, Vhost};
use taptrail_kernel::link::{Link, MacvtapMode};

use super::host::{Found, Host};

/// The keys of which a SPEC has one, and first.
const BACKENDS: [Key; 6] = [Key::Bridge, Key::Tap, Key::NewTap, Key::Macvtap, Key::Vdpa, Key::VhostUser];

/// What can stand at the end of a SPEC: whole SPECs.
pub(super) fn candidates(spec: &str, host: &Host) -> Found {
    let begin = spec.rfind(',').map_or(0, |at| at + 1);
    let (before, last) = spec.split_at(begin);
    let given: Vec<Key> = before.split(',').filter_map(|pair| pair.split('=').next()?.parse().ok()).collect();
    match last.split_once('=') {
        Some((key, _)) => {
            let Ok(parsed) = key.parse() else { return Found::new() };
            values(parsed, host)
                .into_iter()
                .map(|(value, meaning)| (format!("{before}{key}={value}"), meaning))
                .collect()
        }
        None => {
            let is_backend = |key: &Key| BACKENDS.contains(key);
            let has_backend = given.iter().any(is_backend);
            let is_new = |key: &Key| match key.can_repeat() {
                // The values of a filter's variables come after it.
                true => *key == Key::Filter || given.contains(&Key::Filter),
                false => !given.contains(key),
            };
            let fits = |key: &Key| is_backend(key) != has_backend && is_new(key);
            let fits_backend = |key: &Key| *key != Key::Mode || given.contains(&Key::Macvtap);
            let keys = Key::all().filter(fits).filter(fits_backend);
            keys.map(|key| (format!("{before}{key}="), String::new())).collect()
        }
    }
}

/// What can stand at the end of settings that change: whole settings.
pub(super) fn settings(settings: &str, host: &Host) -> Found {
    let begin = settings.rfind(',').map_or(0, |at| at + 1);
    let (before, last) = settings.split_at(begin);
    if last.contains('=') {
        return candidates(settings, host);
    }
    Key::all().filter(|key| key.can_change()).map(|key| (format!("{before}{key}="), String::new())).collect()
}

/// The names of taptrail's own filters.
pub(super) fn filters() -> impl Iterator<Item = String> {
    Store::shipped().names().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn values(key: Key, host: &Host) -> Found {
    let words = |all: &[&str]| all.iter().map(|word| ((*word).to_owned(), String::new())).collect();
    let links = |wanted: fn(&Link) -> bool| {
        let links = host.links().into_iter().filter(wanted);
        links.map(|link| (link.name, link.kind.unwrap_or_default())).collect()
    };
    match key {
        Key::Bridge => links(|link| link.kind.as_deref() == Some("bridge")),
        Key::Tap => links(|link| link.tun.is_some_and(|tun| tun.tap && tun.persistent)),
        // What a macvtap can be made on; the loopback has no address of its own.
        Key::Macvtap => links(|link| {
            link.name != "lo" && !matches!(link.kind.as_deref(), Some("tun" | "macvtap" | "ipvtap"))
        }),
        Key::Vdpa => host.vdpa_nodes(),
        Key::Mode => words(&MODES.map(MacvtapMode::as_str)),
        Key::Vhost => words(&[Vhost::On, Vhost::Off, Vhost::Auto].map(Vhost::as_str)),
        Key::Filter => filters().map(|name| (name, String::new())).collect(),
        Key::IpLearning => words(&["dhcp", "any", "none"]),
        Key::NewTap => words(&["on"]),
        Key::Isolated => words(&["on", "off"]),
        Key::LinkState => words(&["up", "down"]),
        Key::VlanMode => words(&["untagged", "tagged"]),
        Key::Ovs => words(&["on"]),
        Key::Device(property) => words(&property.words()),
        _ => Found::new(),
    }
}

const MODES: [MacvtapMode; 4] =
    [MacvtapMode::Bridge, MacvtapMode::Vepa, MacvtapMode::Private, MacvtapMode::Passthru];
